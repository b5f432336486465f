/* SPDX-License-Identifier: Apache-2.0 */
/* The engine: requests in, tokens out, one step of one tier at a time. `weir run` and `weir eval` call
 * weir_engine_step until nothing is left; a service will call it from its loop thread. There is no other
 * generate loop. One thread. */
#ifndef WEIR_SERVE_ENGINE_H
#define WEIR_SERVE_ENGINE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"
#include "cascade/decision.h"
#include "cascade/policy.h"
#include "cascade/quality.h"
#include "model/tokenizer.h"
#include "sched/penalties.h"
#include "sched/choices.h"
#include "sched/request.h"
#include "serve/auto_stats.h"
#include "serve/gate_spans.h"
#include "step/step.h"

struct weir_tp_stats; /* run/tp.h */

typedef struct weir_engine weir_engine;

/* One step of one tier, told when it has ended. */
typedef struct weir_step_note {
  int32_t rows, seqs;                                          /* fed in all */
  int32_t rows_decode, rows_prompt, rows_catchup, rows_judged; /* of these, as in weir_tier_stats */
  int32_t rows_ahead;     /* of rows_prompt: fed to the large tier before anybody had asked for it */
  int64_t device_ns;      /* on its device */
  int64_t oldest_wait_ns; /* of the requests that took part: since the oldest asked for this tier */
} weir_step_note;

/* Whether prompts are fed to the large tier ahead of a likely deferral, at low priority. */
typedef enum {
  WEIR_AHEAD_AUTO, /* where the tiers have devices of their own: there it costs nobody anything */
  WEIR_AHEAD_OFF,
  WEIR_AHEAD_ON /* also where they share one: rows ride along in large steps that run anyway */
} weir_ahead;

typedef struct weir_engine_cfg {
  int32_t n_tiers;                 /* 1 or 2 */
  weir_exec *tier[WEIR_MAX_TIERS]; /* borrowed for the engine's life; small first */
  weir_tokenizer *tokenizer;       /* borrowed */
  weir_clock clock;
  int32_t max_active;    /* requests under way at once; more wait in order. 0: default */
  int32_t max_queued;    /* jobs that may wait besides; one more is WEIR_EBUSY. 0: default */
  int32_t large_batch;   /* a step of the large tier runs when so many requests wait for it (0: no number will
                            do), ... */
  int64_t large_wait_ns; /* ... or the oldest has waited so long, or nobody waits for the small tier */
  int32_t prefix_pages;  /* pages of each tier the prefix cache may hold; < 0: half of them; 0: off */

  int32_t step_tokens[WEIR_MAX_TIERS];  /* rows of one step; 0: as many as the executor takes */
  int32_t prompt_chunk[WEIR_MAX_TIERS]; /* of these, prompt rows when others wait for one token each, so that
                                           those are not held up; 0: default */
  bool overlap_tiers; /* the tiers have devices of their own: their steps run at the same time, where the
                         executors have threads (weir_exec.async). false: they alternate */
  weir_ahead prefill_ahead;
  int64_t age_ns;          /* a job that has waited so long is as urgent as a new one of the next lower
                              priority number. 0: default, 5 s */
  int64_t step_timeout_ns; /* a step under way for longer, on an executor with a thread of its own, counts as
                              failed and its tier as dead; 0: never. An executor with a life that had only
                              been slow is used again when the step has ended. What it may still write to is
                              given up when the engine is destroyed before it ends. (A step of an executor
                              without a thread runs inside weir_engine_step: nobody can leave it.) */
  int64_t dead_wait_ns;    /* jobs that cannot do without a tier that has died and may come back (its
                              executor has a life) wait so long for that, places and KV of the other tier
                              kept, before they end with the reason; 0: they end at once */
  /* What the ranks of a tier have said to each other (run/tp.h: weir_exec_tp_stats); NULL: it has one. */
  struct weir_tp_stats (*tp_stats[WEIR_MAX_TIERS])(const weir_exec *);

  /* All may be NULL and get hooks_ctx. on_step: from the loop thread, after each step that did not fail.
   * on_ready: from an executor's thread, when a step has ended: weir_engine_step is to be called again. With
   * it weir_engine_step never waits for an executor that has a thread of its own; without it, it does. */
  void (*on_step)(void *ctx, int32_t tier, const weir_step_note *);
  void (*on_ready)(void *ctx);
  void *hooks_ctx;
  bool lone_large; /* the single tier is the large model: pinned jobs are refused */
} weir_engine_cfg;

weir_status weir_engine_create(const weir_engine_cfg *, weir_engine **out, weir_err *e);
void weir_engine_destroy(weir_engine *); /* unfinished jobs end silently; NULL is fine */

/* One committed token and its text. Pieces come in order, each once, never taken back. */
typedef struct weir_piece {
  int32_t index;    /* 0 .. of the generated tokens */
  const char *text; /* what the token adds to the text: may be empty; not NUL-terminated; borrowed */
  size_t len;
  const weir_token_receipt *receipt; /* borrowed for the call */
  const weir_top *top; /* [n_top] likeliest tokens of the row that wrote it; borrowed likewise */
  int32_t n_top;
} weir_piece;

typedef enum {
  WEIR_END_STOP,   /* a stop string; one of the choices is whole */
  WEIR_END_EOS,    /* an end-of-text token */
  WEIR_END_LENGTH, /* max_new or the context is full */
  WEIR_END_ERROR,
  WEIR_END_CANCEL,
  WEIR_END_DEADLINE /* its deadline passed, waiting or under way */
} weir_end;
const char *weir_end_name(weir_end); /* "stop", "eos", "length", "error", "cancelled", "deadline" */

typedef struct weir_outcome {
  int64_t id;
  weir_end end;
  const weir_err *err; /* for WEIR_END_ERROR, else NULL */
  int32_t n_prompt;
  const weir_counts *counts;
  int64_t queued_ns, first_token_ns,
      total_ns; /* from submit: to the first step, the first committed token, the end */
} weir_outcome;

typedef struct weir_job {
  const int32_t *prompt; /* [n_prompt], copied */
  int32_t n_prompt;
  int32_t max_new;                 /* cut to what the context leaves */
  weir_ask draw;                   /* temperature, top_k, top_p, min_p, seed */
  const weir_cascade_cfg *cascade; /* copied */
  weir_penalties penalties;        /* sched/penalties.h; bias is copied */
  int32_t n_top;                   /* likeliest tokens wanted with every piece, 0 .. WEIR_TOP_MAX */
  int32_t min_new;     /* until so many tokens were written no end-of-text token is drawn and no stop
                          string ends the text */
  int32_t priority;    /* lower goes first, as in vLLM; the one who waits ages towards the front */
  int64_t deadline_ns; /* by the engine's clock; 0: none */
  uint64_t salt;       /* of the prefix cache: tenants of different salts share nothing */
  /* Tier 0 alone, for ever: no row, token, KV page or prefix-cache entry of it at the large tier, whatever the
   * cascade says. In mode large, exact or any other its text is then the small model's own. */
  bool pinned;
  bool ignore_eos;
  bool show_special;       /* special tokens appear in the text by name */
  const char *const *stop; /* [n_stop] NUL-terminated, copied */
  int32_t n_stop;
  void (*on_piece)(void *ctx, const weir_piece *);  /* may be NULL */
  void (*on_done)(void *ctx, const weir_outcome *); /* called exactly once for a job that was taken */
  void *ctx;
  const char *const *choices; /* [n_choices <= WEIR_MAX_CHOICES] NUL-terminated, copied: the answer is one of
                                 them, whole. Not with stop strings, min_new or ignore_eos */
  int32_t n_choices;
  const weir_gate_span *span; /* [n_spans <= WEIR_MAX_GATE_SPANS], copied: serve/gate_spans.h. Not with a
                                 budget or a route; the small tier is then always fed */
  int32_t n_spans;
  bool auto_; /* mode auto: `cascade` is what weir_cascade_cfg_make gives for it, and the engine moves the job
                 between that, the small and the large model alone and exact (cascade/quality.h). Pinned, or
                 on an engine of one tier, it stays as it is */
  weir_quality quality; /* with auto_: the floor */
  /* May be NULL, and then costs nothing. First of all, with the tokens that nobody had to be asked for (did:
   * switch, its own configuration); then each decision about the job, in order. */
  void (*on_decision)(void *ctx, const weir_decision *);
} weir_job;

/* Takes a job (everything in it is copied), or WEIR_EBUSY when too many wait; errors (empty prompt, prompt
 * longer than the context of a tier it may need, bad sampling parameters, unsound cascade, WEIR_EDEVICE when
 * a tier is dead that it cannot do without) are told here and nothing was taken. */
weir_status weir_engine_submit(weir_engine *, const weir_job *, int64_t *id, weir_err *e);
/* Ends a job at the next opportunity; unknown ids are ignored. on_done follows from the next step. */
void weir_engine_cancel(weir_engine *, int64_t id);
/* Whether a job of that cascade cannot do without the tier: when that is dead it is refused, or ends. */
bool weir_engine_needs_tier(const weir_cascade_cfg *, bool pinned, int32_t tier);
/* One turn of the loop: takes in what executors have done, ends and admits jobs, starts a step of a tier (of
 * both, where they overlap). *busy: whether anything is left to do. Calls the jobs' callbacks, which may
 * submit and cancel.
 *
 * A tier whose step fails is dead: jobs that can go on with the small tier do, and their receipts say where
 * the large one was wanted; the others end with the error. A tier whose executor has a life comes back with
 * the next one: jobs under way use it again, with KV computed anew, and new ones at once. */
weir_status weir_engine_step(weir_engine *, bool *busy, weir_err *e);
/* When weir_engine_step has something to do next if nothing else happens (a submit, a cancel, on_ready): a
 * time that has passed, when at once; INT64_MAX, when never. By the engine's clock. */
int64_t weir_engine_next_wake_ns(const weir_engine *);

/* Counters since the engine was created, and levels of the moment. */
typedef struct weir_tier_stats {
  int64_t steps, rows, busy_ns;                                /* rows fed in all */
  int64_t rows_decode, rows_prompt, rows_catchup, rows_judged; /* of these: by what they were for */
  int64_t preempted;                                           /* requests whose KV was taken */
  int64_t prefix_lookup_tokens, prefix_hit_tokens;
  int32_t kv_pages, kv_pages_used,
      kv_pages_cached; /* used: held by requests; cached: by the prefix cache alone */
  int32_t waiting;     /* requests that wait for a step of it */
  bool dead;
  bool comes_back; /* death is not for ever */
  bool awaited;    /* dead, and jobs that cannot do without it are still taken (dead_wait_ns) */
  int64_t deaths, recoveries, down_ns; /* down_ns: of the deaths that are over, in all */
  int64_t since_ns;                    /* by the engine's clock: dead, or not, since then */
  char why_dead[192];                  /* "" when it is not */
  int64_t comm_bytes, comm_ns;         /* of its first rank, said to the others; 0 where there are none */
} weir_tier_stats;

/* Requests with a budget (weir_cascade_cfg.budget), all together. */
typedef struct weir_budget_stats {
  int64_t counts, deferred; /* decisions and held tokens; of these, those that went to the large tier */
  int64_t blocked;          /* decisions that a bucket kept on the small tier */
  float tau;                /* the threshold of the last decision, a bucket aside; 0: none yet */
  double price;             /* of load, in it */
  int32_t tenants;          /* that have a tracker */
  int64_t forgotten;        /* trackers that others took the place of */
} weir_budget_stats;

/* Requests in mode route, by what was decided about them; pinned ones, and those of other modes, are not
 * counted. */
typedef struct weir_route_stats {
  int64_t by[WEIR_N_ROUTED]; /* weir_routed; those open stand under none */
  int64_t looked, unsure;    /* rows */
  float share;               /* the threshold of the last decision that looked at rows; 0: none yet */
} weir_route_stats;

typedef struct weir_engine_stats {
  weir_tier_stats tier[WEIR_MAX_TIERS];
  int32_t active, queued;
  int64_t tokens_by_tier[WEIR_MAX_TIERS]; /* committed */
  int64_t tokens_wanted_up;               /* of these: for a tier that was not there */
  weir_budget_stats budget;
  weir_cost cost;                 /* of requests that have ended, all together */
  /* Jobs that were pinned; rows of theirs in batches of the large tier (always 0), and how often one was asked
   * for and refused (0 unless a policy is broken; the job ends with an error then). */
  int64_t pinned_jobs, pinned_large_rows, pinned_refused;
  int64_t deferrals_given_up;     /* needs of the large tier that took longer than a request's defer_wait_ns */
  int64_t jobs_done[WEIR_END_DEADLINE + 1];
  int64_t last_step_ns; /* by the engine's clock: when a step last ended; 0: none has. For a health probe */
  /* Measured over the last seconds, tokens a second, by all requests together: what was committed, and what
   * the large tier alone would have written at this number of requests under way. 0: not known. */
  double goodput, large_only_goodput;
  weir_auto_stats auto_;
  weir_route_stats routed;
  int64_t tokens_forced; /* of those committed: nothing else might follow, no tier was asked */
} weir_engine_stats;
weir_engine_stats weir_engine_get_stats(const weir_engine *);

#endif
