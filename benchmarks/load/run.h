/* SPDX-License-Identifier: Apache-2.0 */
/* One run of one load against one target: sends, measures, stops. Bounded always, in requests and in time.
 *
 * Every time is from the start of the run. `scheduled` is when a request should have been sent: in an open
 * loop the time of its arrival, however late the sending was; so a server (or a limit of connections) that
 * holds up the sending shows in the latencies, as it does to users ("coordinated omission" is the mistake of
 * measuring from `sent` alone). */
#ifndef WEIR_LOAD_RUN_H
#define WEIR_LOAD_RUN_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "load/arrivals.h"
#include "load/data.h"
#include "load/samples.h"
#include "load/target.h"

typedef enum {
  WEIR_LOAD_OK,
  WEIR_LOAD_ERROR,
  WEIR_LOAD_CANCELLED, /* by the load's own plan */
  WEIR_LOAD_CUT        /* was running when the run ended: its time was up, or it was interrupted */
} weir_load_outcome;

const char *weir_load_outcome_name(weir_load_outcome);

typedef struct weir_load_record {
  int64_t item;
  int64_t scheduled_ns, sent_ns, first_ns, last_ns, end_ns; /* first, last: text; -1: none came */
  int64_t longest_gap_ns;                                   /* between two pieces; -1: fewer than two */
  int32_t turn, pieces;
  int32_t prompt_tokens, cached_tokens, output_tokens; /* -1: not told; output then is the number of pieces */
  int32_t by_tier[WEIR_LOAD_TIERS];
  double queue_ms, deferral_rate; /* NaN: not told */
  int16_t code;                   /* as in weir_target_end */
  int16_t error;                  /* index in weir_load_result.error; -1: none */
  uint8_t outcome;                /* weir_load_outcome */
  int8_t right;                   /* the task's answer: 1, 0; -1: no task */
  bool slow, counted_pieces, tiers;
  bool gave_up; /* an error: no end within the time a request has */
  char reason[16];
} weir_load_record;

enum { WEIR_LOAD_MAX_ERRORS = 32, WEIR_TIMELINE_SLOTS = 256 };

typedef struct weir_load_error {
  int code;
  char what[64], message[256]; /* the first message of this kind */
  int64_t n;
} weir_load_error;

/* Tokens as they came, by time. */
typedef struct weir_timeline {
  double width_s;
  int32_t n;
  struct {
    int64_t tokens, by_tier[WEIR_LOAD_TIERS];
  } slot[WEIR_TIMELINE_SLOTS];
} weir_timeline;

typedef struct weir_load_result {
  weir_load_record *record; /* [n], owned, in the order of sending */
  int64_t n, cap;
  int64_t unsent; /* arrivals whose time came but that were never sent */
  weir_samples itl,
      itl_tier[WEIR_LOAD_TIERS]; /* seconds between pieces of text, of readers that are not slow */
  weir_timeline timeline;
  weir_load_error error[WEIR_LOAD_MAX_ERRORS];
  int32_t n_errors;
  double wall_s; /* to the last end */
  bool interrupted, counted_pieces;
} weir_load_result;

typedef struct weir_load_progress {
  double t_s, limit_s;
  int64_t sent, limit, running, ok, errors, tokens;
  double tok_s; /* of the last second or so */
} weir_load_progress;

typedef struct weir_run_cfg {
  struct event_base *base;
  weir_target *target;
  weir_data *data;
  weir_arrivals_cfg arrivals; /* kind CLOSED: `concurrency` requests at all times */
  int32_t concurrency;        /* of an open loop: the most that may run, later ones wait */
  int64_t requests;           /* > 0 */
  double duration_s, drain_s; /* sending ends after duration; what runs then may go on for drain */
  double timeout_s;           /* of one request, from its sending */
  double think_s;             /* of a closed loop's user, and between a conversation's turns */
  double entropy;             /* NaN: the server's */
  double cancel_share, slow_share;
  int32_t cancel_tokens; /* go away after so many tokens; 0: not by tokens */
  double cancel_s;       /* go away after so long; 0: not by time */
  int64_t slow_bytes_s;
  uint64_t seed;
  int64_t first_item;
  bool history;             /* turns of a conversation carry what was said before (chat) */
  int (*interrupted)(void); /* not 0: end now; NULL: never */
  void (*progress)(void *ctx, const weir_load_progress *); /* every 200 ms; NULL: none */
  void *ctx;
} weir_run_cfg;

/* Fails for want of memory or what was wrongly asked; what goes wrong with requests is in the records. */
weir_status weir_run(const weir_run_cfg *, weir_load_result *out, weir_err *e);
void weir_load_result_fini(weir_load_result *);

#endif
