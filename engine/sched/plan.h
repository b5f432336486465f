/* SPDX-License-Identifier: Apache-2.0 */
/* Plans one step of one tier: which of the waiting requests take part and with how many rows.
 *
 * Order. Short feeds (decode, catch-up, verification) go first so that a long prompt cannot hold them up;
 * prompts fill what is left of the token budget, in chunks; within each kind the more urgent goes first.
 * Whoever was passed over several steps in a row goes before all: short feeds cannot starve a prompt.
 *
 * Pages. A request starts on a tier when the pages for its text and a little more are there, those counted
 * that others have started on and not taken yet; while the most urgent cannot, no other starts either, so
 * that small ones do not starve a large one. When the pool runs dry the least urgent request outside the step
 * gives its pages back and computes them again later; pages are never taken from a more urgent one. The most
 * urgent of all can therefore always go on, and so in the end can everybody. */
#ifndef WEIR_SCHED_PLAN_H
#define WEIR_SCHED_PLAN_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/pages.h"
#include "kv/prefix.h"
#include "sched/cost.h"
#include "sched/request.h"
#include "step/batch.h"

/* One tier as the planner sees it. */
typedef struct weir_tier_kv {
  weir_pages *pages;
  weir_prefix *prefix;               /* may be NULL */
  int64_t lookup_tokens, hit_tokens; /* of requests that first met the tier */
} weir_tier_kv;

typedef struct weir_plan_item {
  weir_request *req; /* NULL: it has ended while the step was under way */
  int32_t from, to;  /* positions fed in this step */
  int32_t first_out; /* index of its first row among the step's answers */
  int32_t n_out;
  bool ahead; /* nobody asked for it yet: no need of the request is answered */
  int32_t use[WEIR_N_ROW_USES]; /* its rows by what they are for, in order */
  int32_t answers;              /* rows asked for */
} weir_plan_item;

/* Rows of a step by what they are for. */
typedef struct weir_plan_rows {
  int32_t decode, prompt, catchup, judged;
  int32_t ahead; /* of prompt */
} weir_plan_rows;

typedef struct weir_plan_limits {
  int32_t tokens;       /* rows of the step */
  int32_t prompt_chunk; /* rows that long feeds may have beside short ones */
  int32_t ahead;        /* rows that may be fed ahead; 0: none */
} weir_plan_limits;

typedef struct weir_plan {
  weir_plan_item *item; /* [max_seqs], owned */
  int32_t n_items, max_seqs;
  weir_batch_builder batch;
  weir_copies copies;
  weir_edit_arena edits;
  weir_plan_rows rows;
  weir_top *law;     /* [max_tokens][WEIR_TOP_MAX], owned: of answers, what drafts were drawn from */
  int32_t n_top;     /* most likeliest ids any ask wants */
  int64_t oldest_ns; /* when the need arose of the one that has waited longest; INT64_MAX: none */
  bool under_way;    /* between build and finish or drop */
  const weir_request
      *blocker;       /* building: waits for pages to start; the less urgent do not start before it */
  int32_t spoken_for; /* building: pages that started requests will still take */
  int64_t preempted;  /* requests whose KV was taken, ever */
  int64_t pin_refused; /* feeds of pinned requests to a higher tier that were asked for and refused, ever */
} weir_plan;

weir_status weir_plan_init(weir_plan *, int32_t max_tokens, int32_t max_seqs, int32_t n_pages, weir_err *e);
void weir_plan_fini(weir_plan *, weir_pages *); /* the pages it planned with */

/* Fills the plan from req[0..n), the most urgent first, of which those with need.tier == tier take part. An
 * empty plan (n_items 0) means that nobody waits for the tier or could be placed. On failure *culprit is the
 * request that must end, and the plan is as good as without it; WEIR_ENOMEM: it alone does not fit the pool.
 * Whoever asks for a higher tier for a request that is pinned is refused: that is WEIR_EINVAL too.
 */
weir_status weir_plan_build(weir_plan *, int32_t tier, weir_request *const *req, int32_t n, weir_tier_kv *kv,
                            const weir_plan_limits *, weir_request **culprit, weir_err *e);
/* Rows of requests that are pinned to the lowest tier in the step built for `tier`. By the guard in build there
 * are none; this counts what the batch really has. */
int32_t weir_plan_pinned_rows(const weir_plan *, int32_t tier);
/* Hands the step's rows to the requests; one whose need is complete is marked by fed_to == need.to. top: as
 * in weir_result. Publishes the pages of what is committed. */
void weir_plan_finish(weir_plan *, int32_t tier, const weir_row *rows, const weir_top *top,
                      const weir_tier_kv *kv);
/* The step has failed or was not taken: forgets it. */
void weir_plan_drop(weir_plan *, int32_t tier, const weir_tier_kv *kv);
/* The request ends: a step under way goes on without it. */
void weir_plan_forget(weir_plan *, int32_t tier, weir_request *);

/* The request does not wait for its rows of the step under way any more; what the step leaves in its KV
 * counts. */
void weir_plan_give_up(weir_plan *, int32_t tier, const weir_request *);

/* Whether the pages are there for a request to start on a tier, beside what those of req[0..n) will still
 * take. Then it has claimed them. `force`: claims in any case. */
bool weir_plan_claim(weir_request *, int32_t tier, weir_request *const *req, int32_t n,
                     const weir_tier_kv *kv, bool force);
/* Offers the full pages of committed tokens to the prefix cache: what is not committed may still be taken
 * back. */
void weir_plan_publish(weir_request *, int32_t tier, const weir_tier_kv *kv);
/* Whether feeding its prompt to `tier` ahead of a need is possible and allowed: it may go there one day, and
 * is not there yet. */
bool weir_plan_may_go_ahead(const weir_request *, int32_t tier);

#endif
