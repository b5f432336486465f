/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a set of prompts through one engine and keeps what came out. The loop is the engine's own: this only
 * submits, steps and collects. One thread. */
#ifndef WEIR_PROGRAMS_ANSWER_H
#define WEIR_PROGRAMS_ANSWER_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/config.h"
#include "programs/decision_log.h"
#include "programs/load.h"
#include "serve/engine.h"

typedef struct weir_answer_token {
  weir_token_receipt receipt;
  size_t text_end; /* where its text ends in the answer's */
} weir_answer_token;

/* What one prompt gave. */
typedef struct weir_answer {
  weir_tokens prompt;       /* owned */
  weir_buf text;            /* owned */
  weir_answer_token *token; /* [n], owned */
  int32_t n, cap;
  bool done;
  weir_end end;
  weir_err err; /* for WEIR_END_ERROR */
  weir_counts counts;
  int64_t queued_ns, first_token_ns, total_ns; /* as weir_outcome has them */

  weir_decision_log log; /* with weir_answers_how.log_decisions; owned */

  /* for the loop */
  struct weir_answers *of;
  int64_t job;
  bool submitted;
} weir_answer;

typedef struct weir_answers {
  weir_answer *one; /* [n], owned */
  int32_t n;
  int64_t wall_ns; /* from the first submit to the end of the last */
  weir_engine_stats stats;
  /* Answer i has grown by a token. May be NULL. */
  void (*on_token)(void *ctx, int32_t i);
  void (*on_done)(void *ctx, int32_t i); /* may be NULL */
  void *ctx;
  const struct weir_answers_how *how_; /* while it runs */
  bool give_up; /* set by a callback: what is unfinished is cancelled */
  weir_err err; /* of collecting: memory ran out */
} weir_answers;

weir_status weir_answers_init(weir_answers *, int32_t n, weir_err *e);
void weir_answers_fini(weir_answers *);
/* Forgets what came out and keeps the prompts. */
void weir_answers_clear(weir_answers *);

/* One way of running them. */
typedef struct weir_answers_how {
  const weir_loaded *models;
  weir_cascade_cfg cascade; /* of as many tiers as models */
  weir_ask draw;
  int32_t max_new, max_active, large_batch;
  int64_t large_wait_ns, dead_wait_ns;
  int32_t prefix_pages; /* as in weir_engine_cfg */
  bool ignore_eos, show_special;
  const char *const *stop;
  int32_t n_stop;
  const char *const *choices; /* as weir_job has them */
  int32_t n_choices;
  const weir_gate_span *span;
  int32_t n_spans;
  bool auto_; /* mode auto, with this floor */
  weir_quality quality;
  bool log_decisions; /* into each answer's log */
} weir_answers_how;

/* Fills everything but the cascade from the options a command has. */
void weir_answers_how_init(weir_answers_how *, const weir_config *, const weir_loaded *);
/* Runs all to their ends, or, when a signal comes, cancels them. A prompt that the engine does not take is an
 * error that names it. */
weir_status weir_answers_run(weir_answers *, const weir_answers_how *, weir_err *e);

/* Sums over answers. */
typedef struct weir_totals {
  int64_t prompt_tokens, tokens, by_tier[WEIR_MAX_TIERS];
  int64_t steps[WEIR_MAX_TIERS], fed[WEIR_MAX_TIERS], prefix_hit[WEIR_MAX_TIERS], refused;
  int64_t large_prompt;    /* prompt tokens of the answers the large tier took part in */
  int64_t large_tokens;    /* written by the large model */
  int64_t wanted_up;       /* written by the small one, whose gate asked for the large: it was not there */
  int64_t forced;          /* nothing else might follow, no model was asked */
  int32_t routed_up;       /* answers that were routed to the large model as a whole */
  double mean_entropy;     /* nats, over the tokens whose row the gate saw; NaN when there is none */
  double deferral_rate;    /* large_tokens / tokens; 0 when there are none */
  double tokens_per_s;     /* over the wall time */
  int64_t median_first_ns; /* of first_token_ns; 0 when there is none */
} weir_totals;
weir_totals weir_answers_totals(const weir_answers *, const weir_loaded *);

#endif
