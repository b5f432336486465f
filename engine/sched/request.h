/* SPDX-License-Identifier: Apache-2.0 */
/* One request: its tokens, its place in the cascade, its KV on each tier. Applies what the policy decides and
 * keeps a receipt for every generated token. Owned by the loop thread; knows integers only. */
#ifndef WEIR_SCHED_REQUEST_H
#define WEIR_SCHED_REQUEST_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/policy.h"
#include "cascade/quality.h"
#include "cascade/receipt.h"
#include "kernels/row.h"
#include "kv/seq.h"
#include "sched/choices.h"
#include "sched/cost.h"
#include "sched/penalties.h"
#include "sched/queue.h"

/* The receipt of one generated token, whole. */
typedef struct weir_token_receipt {
  int32_t id;   /* the token */
  int32_t tier; /* who wrote it */
  weir_why why;
  bool wanted_up; /* the gate asked for a tier that is not there */
  float entropy;  /* nats, of the row the gate judged by: the lowest tier's at this position; NaN when only
                     higher */
  float tau;      /* the gate's threshold when it judged by that row; NaN likewise */
  float p_max,
      margin;    /* ones looked (a token under hold, the one after a full window). p_max, margin: likewise */
  float logprob; /* log p(token) by the tier that wrote it */
  int64_t wait_ns; /* from the gate's deferral to the higher tier's token, or to the lowest one's where that took
                      too long; 0 when it was not deferred */
  float score;     /* what the gate held against its threshold (weir_gate_score); NaN where p_max is */
} weir_token_receipt;

typedef struct weir_counts {
  int32_t new_tokens;                 /* generated and final */
  int32_t by_tier[WEIR_MAX_TIERS];    /* of these: who wrote them */
  int32_t wanted_up;                  /* of these: a gate asked for a tier that was not there */
  int64_t steps[WEIR_MAX_TIERS];      /* forward passes it took part in */
  int64_t fed[WEIR_MAX_TIERS];        /* rows fed: prompt, decode, catch-up and what was rolled back */
  int64_t prefix_hit[WEIR_MAX_TIERS]; /* tokens found in the prefix cache when a tier first met it */
  int32_t refused;                    /* tokens a judge refused or that fell with one */
  /* Of a request with a budget (cascade/budget.h): decisions of the gate and tokens under hold, those of them
   * that went to the large tier, the threshold of the last decision (NaN: none yet). */
  int32_t budgeted, deferred;
  float tau;
  int32_t given_up; /* needs of the large tier that took longer than cfg.defer_wait_ns */
  int32_t by_mode[WEIR_N_AUTO_MODES]; /* of new_tokens, in mode auto: by the mode they were written under */
  weir_route_state route; /* where the whole request went, and by what */
  int32_t forced; /* of new_tokens: nothing else might follow, no tier was asked */
  weir_cost cost;
} weir_counts;

typedef struct weir_request_spec {
  const int32_t *prompt; /* [n_prompt], copied; n_prompt >= 1 */
  int32_t n_prompt;
  int32_t max_new;                 /* >= 1 */
  weir_ask draw;                   /* temperature, top_k, top_p, min_p, seed; the other fields are ignored */
  const weir_cascade_cfg *cascade; /* copied */
  bool pinned;                     /* tier 0 only, for ever */
  uint64_t salt;                   /* of the prefix cache */
  int64_t urgency;                 /* sched/queue.h */
  weir_penalties penalties;        /* checked; copied */
  int32_t min_new, n_top;
  const int32_t *end; /* [n_end] ids that end a text, ascending; borrowed for the request's life */
  int32_t n_end;
  const weir_choices *choices; /* what it writes is one of them; borrowed likewise; NULL: anything */
} weir_request_spec;

typedef struct weir_request {
  weir_queue_node node; /* first: urgency, id, its place while it waits for admission */
  int64_t id;
  void *owner;  /* whose it is; not looked at here */
  int32_t *tok; /* [n_prompt + max_new + 1], owned; view.tok is this */
  int32_t n_prompt, max_new;
  weir_view view;
  weir_cascade_cfg cfg;
  weir_cascade cascade; /* of cfg */
  weir_ask draw;
  weir_shaper *shaper; /* NULL: draws are not shaped */
  int32_t n_top;
  uint64_t salt;
  weir_seq seq[WEIR_MAX_TIERS];
  int32_t published[WEIR_MAX_TIERS]; /* pages offered to the prefix cache */
  int32_t claim[WEIR_MAX_TIERS];  /* pages it was admitted for; what of them it does not hold is spoken for */
  int32_t place[WEIR_MAX_TIERS];  /* its item in the tier's step being built or under way; -1: none */
  int32_t passed[WEIR_MAX_TIERS]; /* steps of the tier in a row that had no room for it */
  bool ahead;                     /* its prompt may be fed to the top tier before that is asked for */
  bool met[WEIR_MAX_TIERS];       /* the tier has looked for it in the prefix cache */

  bool waiting; /* `need` holds what it waits for */
  weir_need need;
  weir_effect effect;  /* what the last need led to */
  int32_t fed_to;      /* positions of the need already fed, chunk by chunk */
  weir_row *row;       /* [max_new + 2], and those of the prompt that routing looks at: rows of the need
                          collected so far, row p at [p - out_from] */
  weir_top *row_top;   /* [as row][n_top], likewise; NULL when n_top is 0 */
  int64_t since_ns;    /* when the need arose */
  int64_t deferred_ns; /* when the gate handed the next token up; 0: it has not */

  weir_receipt *receipt;   /* [n_prompt + max_new + 2], by position */
  struct weir_token_stat { /* what the policy's receipts leave out, by generated token */
    float p_max, margin, logprob;
    int64_t wait_ns;
    float score;
  } * stat;           /* [max_new + 1] */
  weir_top *top;      /* [max_new + 1][n_top] of the row that wrote a token, by generated token; as row_top */
  float last_entropy; /* nats, of the row the lowest tier gave last; NaN: none yet */
  weir_counts counts;
  const weir_choices *choices; /* NULL: anything may be written */
  struct weir_fusion *fusion;  /* sched/shape.h; NULL: off */
  struct weir_drafts *drafts;  /* sched/draft.h; NULL: not judged by what they were drawn from */
  bool pinned; /* as it came: tier 0 alone, whatever the policy says. Nobody writes it again */
  int32_t asked_lo, asked_hi; /* tiers that were up when the need arose */
} weir_request;

weir_status weir_request_create(const weir_request_spec *, int64_t id, weir_request **out, weir_err *e);
/* Its page tables must have been given back (weir_request_drop_kv). */
void weir_request_destroy(weir_request *);

/* Asks the policy what comes next; false: finished. Keeps a need that is under way. */
bool weir_request_next(weir_request *, int64_t now_ns);
/* All rows of the need are in: applies the effect, and appends what is forced by it. *truncated_to: tokens before it are unchanged (the
 * previous n when nothing was taken back). The caller then sets view.ended. */
void weir_request_observe(weir_request *, int64_t now_ns, int32_t *truncated_to);
/* The need of a higher tier is given up (weir_cascade_give_up); what is to be shown may have grown. False:
 * there is none. A step under way with its rows: weir_plan_give_up first. */
bool weir_request_give_up(weir_request *);
/* Another configuration from here on (weir_cascade_switch); nothing is waited for. Returns n: tokens before it
 * are unchanged. The caller then sets view.ended. */
int32_t weir_request_switch(weir_request *, const weir_cascade_cfg *);
/* To be called when view.ended has become true (weir_cascade_settle). True: a decision was made, and
 * *truncated_to is set as by observe. */
bool weir_request_settle(weir_request *, int64_t now_ns, int32_t *truncated_to);
/* Gives back the KV of a tier: preemption, the end. What was fed must be fed again. */
void weir_request_drop_kv(weir_request *, int32_t tier, weir_pages *);

/* What it has written is one of its choices, whole: it has ended. */
bool weir_request_is_complete(const weir_request *);

/* The receipt of generated token i, 0 <= i < n_new. A forced token has logprob 0 and no other statistics. */
weir_token_receipt weir_request_receipt(const weir_request *, int32_t i);

/* The likeliest tokens [n_top] of the row that wrote it; NULL when none were asked for. Of a forced token the
 * first alone means something: itself. */
const weir_top *weir_request_top(const weir_request *, int32_t i);

static inline int32_t weir_request_n_new(const weir_request *r) { return r->view.n - r->n_prompt; }

#endif
