/* SPDX-License-Identifier: Apache-2.0 */
/* Plans one step of one tier: which of the waiting requests take part and with how many rows. Short feeds
 * (decode, catch-up, verification) go first so that a long prompt cannot hold them up; prompts fill what is
 * left of the token budget, in order of arrival, in chunks. KV pages are made ready here; when the pool runs
 * dry the youngest request outside the step gives its pages back and computes them again later. */
#ifndef WEIR_SCHED_PLAN_H
#define WEIR_SCHED_PLAN_H
#include <stdint.h>

#include "base/err.h"
#include "kv/pages.h"
#include "kv/prefix.h"
#include "sched/request.h"
#include "step/batch.h"

/* One tier as the planner sees it. */
typedef struct weir_tier_kv {
  weir_pages *pages;
  weir_prefix *prefix; /* may be NULL */
} weir_tier_kv;

typedef struct weir_plan_item {
  weir_request *req;
  int32_t from, to;  /* positions fed in this step */
  int32_t first_out; /* index of its first row among the step's answers */
  int32_t n_out;
} weir_plan_item;

typedef struct weir_plan {
  weir_plan_item *item; /* [max_seqs], owned */
  int32_t n_items, max_seqs;
  weir_batch_builder batch;
  weir_copies copies;
  int64_t preempted; /* requests whose KV was taken, ever */
} weir_plan;

weir_status weir_plan_init(weir_plan *, int32_t max_tokens, int32_t max_seqs, int32_t n_pages, weir_err *e);
void weir_plan_fini(weir_plan *, weir_pages *); /* the pages it planned with */

/* Fills the plan from req[0..n) (in order of arrival), of which those with need.tier == tier take part. An
 * empty plan (n_items 0) means nobody waits for the tier. WEIR_ENOMEM: one request alone does not fit the
 * pool; *culprit is it. */
weir_status weir_plan_build(weir_plan *, int32_t tier, weir_request *const *req, int32_t n,
                            const weir_tier_kv *kv, weir_request **culprit, weir_err *e);
/* Hands the step's rows to the requests; a request whose need is complete is marked by fed_to == need.to.
 * Publishes a prompt's pages once it is fed. */
void weir_plan_finish(weir_plan *, int32_t tier, const weir_row *rows, const weir_tier_kv *kv);
/* Offers the full pages of committed tokens to the prefix cache: what is not committed may still be taken
 * back. */
void weir_plan_publish(weir_request *, int32_t tier, const weir_tier_kv *kv);

#endif
