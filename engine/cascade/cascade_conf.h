/* SPDX-License-Identifier: Apache-2.0 */
/* Cascade modes by name, for two tiers. A mode is only a setting of the policy; what an option cannot mean in
 * a mode is refused by name rather than ignored. */
#ifndef WEIR_CASCADE_CASCADE_CONF_H
#define WEIR_CASCADE_CASCADE_CONF_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/policy.h"
#include "cascade/quality.h"

typedef enum {
  WEIR_MODE_SMALL,    /* the small tier alone; the large one is never named */
  WEIR_MODE_LARGE,    /* the large tier alone; the small one is never fed */
  WEIR_MODE_DEFER,    /* gate, trust, eager: a token the gate lets pass is shown at once and never recalled */
  WEIR_MODE_ROLLBACK, /* the same gate; shown when the large tier has found it likely enough, else rolled back
                       */
  WEIR_MODE_EXACT,    /* the large tier's own text, seed for seed; the small tier drafts */
  WEIR_MODE_SPECULATE, /* the same drafts, judged by an accept rule of one's choice; lossless with `own` alone
                       */
  WEIR_MODE_AUTO, /* which of large, exact, defer and small is chosen while requests run, by measured goodput and
                    never below a request's floor (cascade/quality.h). The configuration made of it is that of
                    defer, with exact's window: the engine's controller works the others out */
  WEIR_MODE_ROUTE /* whole requests, by the share of unsure rows (cascade/route.h): either tier writes all of it */
} weir_mode;

enum { WEIR_N_MODES = WEIR_MODE_ROUTE + 1 };

/* False when the name is none of "small", "large", "defer", "rollback", "exact", "speculate", "auto", "route". */
bool weir_mode_parse(const char *name, weir_mode *out);
const char *weir_mode_name(weir_mode); /* never NULL */
/* Its gate decides who writes, and has a threshold without being told: not one that only ends drafts. */
bool weir_mode_gated(weir_mode);

/* False when the name is none of "entropy", "top-prob", "margin", "chance", "isotonic", "head". */
bool weir_gate_parse(const char *name, weir_gate_kind *out);
const char *weir_gate_name(weir_gate_kind); /* never NULL */

/* False when the name is none of "own", "nll", "v1", "v2", "v3", "typical", "ratio". */
bool weir_accept_parse(const char *name, weir_keep *out);
const char *weir_accept_name(weir_keep); /* never NULL */

/* Which options somebody has set; the others take the mode's default, printed below. */
enum {
  WEIR_OPT_GATE = 1 << 0,
  WEIR_OPT_THRESHOLD = 1 << 1,
  WEIR_OPT_ACCEPT_NLL = 1 << 2,
  WEIR_OPT_WINDOW = 1 << 3,
  WEIR_OPT_HOLD = 1 << 4,
  WEIR_OPT_HORIZON = 1 << 5,
  WEIR_OPT_DEFER_RATE = 1 << 6,
  WEIR_OPT_DEFER_BURST = 1 << 7,
  WEIR_OPT_LOAD_PRICE = 1 << 8,
  WEIR_OPT_ACCEPT = 1 << 9,
  WEIR_OPT_ACCEPT_ALPHA = 1 << 10,
  WEIR_OPT_ACCEPT_EPSILON = 1 << 11,
  WEIR_OPT_ACCEPT_DELTA = 1 << 12,
  WEIR_OPT_FUSION_WEIGHT = 1 << 13,
  WEIR_OPT_SPAN = 1 << 14, /* some were given: they are the request's, serve/gate_spans.h */
  WEIR_OPT_DEFER_WAIT = 1 << 15,
  WEIR_OPT_ROUTE_PROMPT = 1 << 16,
  WEIR_OPT_ROUTE_AFTER = 1 << 17,
  WEIR_OPT_ROUTE_SHARE = 1 << 18,
  WEIR_OPT_QUALITY = 1 << 19
};

enum { WEIR_DEFER_WAIT_MAX_MS = 3600000 };

typedef struct weir_cascade_opts {
  weir_mode mode;
  uint32_t set;        /* WEIR_OPT_* */
  weir_gate_kind gate; /* entropy. In exact and speculate it may only end a draft early */
  float
      threshold; /* weir_gate_default(gate); exact, speculate: WEIR_DRAFT_STOP, unless a gate is set */
  float accept_nll; /* rollback, speculate with nll: 3 nats */
  int32_t window;   /* rollback: 10 tokens, exact, speculate, auto: 16 */
  int32_t hold;     /* all but small and large: 1 */
  int32_t horizon;  /* rollback, speculate: no limit. Not in exact, nor with own: a token shown before it is
                       judged  need not be exact */
  float defer_rate; /* defer, rollback: none. Instead of a threshold; it starts at the gate's default */
  int32_t defer_burst;                /* defer, rollback, with a rate: 0, no limit */
  float load_price;                   /* defer, rollback: 0, off */
  weir_keep accept;                   /* speculate: v3 */
  float accept_alpha;                 /* speculate with v1, v2, v3: 0.1, our choice */
  float accept_epsilon, accept_delta; /* speculate with typical: 0.09 and 0.3, as Medusa has them */
  const weir_gate_map *gate_map;      /* what gate isotonic looks up, borrowed; NULL: it is refused */
  float fusion_weight;                /* defer, rollback: 0, off */
  int32_t defer_wait_ms; /* defer, rollback: 0, none. Not where the large tier's word is promised */
  /* Route. There defer_rate is a share of requests, which moves route_share instead of the threshold, and
   * load_price is a share, 0 .. 1, likewise. */
  int32_t route_prompt; /* 64 rows; 0 where route_after alone is set */
  int32_t route_after;  /* 0 tokens; WEIR_FAR: the whole answer */
  float route_share;    /* WEIR_ROUTE_SHARE */
  weir_quality quality; /* auto: near. For weir_job.quality: the configuration does not hold it */
} weir_cascade_opts;

/* The threshold a gate of this kind has when none is set: entropy 0.45 nats (the entropy baseline shipped
 * with R2R, arXiv 2505.21600), top probability 0.6 (BiLD, arXiv 2302.07863), margin 0.3, chance 0.1; of the
 * fitted gates a probability of error of 0.1. Pairs differ several-fold: calibrate. */
float weir_gate_default(weir_gate_kind);
/* Nats of the row that end a draft of exact and speculate before its window does. */
#define WEIR_DRAFT_STOP 1.0f

/* Builds the configuration of two tiers. WEIR_EINVAL names the option that is out of range or that the mode
 * does not have. */
weir_status weir_cascade_cfg_make(const weir_cascade_opts *, weir_cascade_cfg *out, weir_err *e);

/* The options (WEIR_OPT_*) that mean something in the mode of `o` with its accept rule. */
uint32_t weir_cascade_options(const weir_cascade_opts *o);
/* The name of one option bit, as on the command line; NULL: none. */
const char *weir_cascade_option_name(uint32_t bit);

/* One tier and nothing else, for an engine with a single model. */
void weir_cascade_cfg_single(weir_cascade_cfg *out);

#endif
