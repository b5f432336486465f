/* SPDX-License-Identifier: Apache-2.0 */
/* Routing of whole requests: which tier writes all of it, by the share of rows of the small tier that its
 * gate calls unsure. "More than a share s of the rows is above tau" is the same as "the (1-s)-quantile of the
 * entropies is above tau", so that two counters are all the state. A quantile, since a mean hides one bad
 * token among many good ones and a sum grows with the length of the answer.
 *
 * Rows looked at. `prompt`: those behind the last N tokens of the prompt; the last of these also decides the
 * first token. `after`: those that decide the first N tokens, which are held back until they are all there.
 * Where the text ends earlier, it is decided by what there is.
 *
 * The request goes up when unsure > share * looked. Then everything written so far is dropped, nobody has
 * seen it, and the large tier writes all of it. Else the small tier writes all of it and the large one is
 * never fed. When the large tier is not there at that moment, the small one writes all of it and every one of
 * its tokens is marked; likewise, from there on, when it goes away under a request that it writes. In both
 * cases its return changes nothing: an answer changes its author once at most. */
#ifndef WEIR_CASCADE_ROUTE_H
#define WEIR_CASCADE_ROUTE_H
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum {
  WEIR_ROUTE_PROMPT = 64, /* by default */
  WEIR_ROUTE_PROMPT_MAX = 4096,
  WEIR_ROUTE_AFTER_MAX = 4096 /* or WEIR_FAR: the whole answer */
};
#define WEIR_ROUTE_SHARE 0.5f /* by default: the median row is what counts. Pairs differ: calibrate */

/* A part of the configuration. Where a budget moves it, the caller sets `share` anew before each observe. */
typedef struct weir_route {
  bool on;
  int32_t prompt, after; /* not both 0 */
  float share;           /* 1 and more: nothing goes up, nothing is looked at */
} weir_route;

typedef enum {
  WEIR_ROUTED_NOT, /* another mode, or pinned: there is nothing to decide */
  WEIR_ROUTED_OPEN,
  WEIR_ROUTED_SMALL,
  WEIR_ROUTED_LARGE,
  WEIR_ROUTED_WANTED /* up, but the large tier is not there, or went away under it */
} weir_routed;

enum { WEIR_N_ROUTED = WEIR_ROUTED_WANTED + 1 };

/* Of a request. */
typedef struct weir_route_state {
  weir_routed to;
  int32_t looked, unsure; /* rows */
  float share;            /* the decision was by this one; NaN: there is none, or it needed no row */
} weir_route_state;

/* "not", "open", "small", "large", "wanted". */
static inline const char *weir_routed_name(weir_routed to) {
  static const char *const name[WEIR_N_ROUTED] = {"not", "open", "small", "large", "wanted"};
  return (unsigned)to < WEIR_N_ROUTED ? name[to] : "not";
}

/* A number of tokens, or "end": the whole answer. False: neither. */
bool weir_route_after_parse(const char *text, int32_t *out);

/* The share of unsure rows among those looked at; NaN: none was. */
static inline double weir_route_score(const weir_route_state *s) {
  return s->looked > 0 ? (double)s->unsure / (double)s->looked : NAN;
}

#endif
