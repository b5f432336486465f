/* SPDX-License-Identifier: Apache-2.0 */
/* Step planning and preemption: arithmetic on integers. Owns the batch under construction; loop thread only.
 */
#include "sched/plan.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"

/* Feeds of at most so many rows go before prompts: decode, catch-up and verification windows. */
enum { SHORT_ROWS = 32 };

weir_status weir_plan_init(weir_plan *p, int32_t max_tokens, int32_t max_seqs, int32_t n_pages, weir_err *e) {
  weir_status st = WEIR_OK;
  *p = (weir_plan){.max_seqs = max_seqs};
  WEIR_TRY(WEIR_NEW((size_t)max_seqs, &p->item, e));
  /* A shared page is copied at most once for each sequence that writes to it. */
  WEIR_TRY(weir_batch_builder_init(&p->batch, max_tokens, max_seqs, n_pages, n_pages, e));
out:
  if (st != WEIR_OK) weir_plan_fini(p, NULL);
  return st;
}

void weir_plan_fini(weir_plan *p, weir_pages *pages) {
  free(p->item);
  weir_batch_builder_fini(&p->batch);
  weir_copies_fini(&p->copies, pages);
  *p = (weir_plan){0};
}

static bool in_plan(const weir_plan *p, const weir_request *r) {
  for (int32_t i = 0; i < p->n_items; i++)
    if (p->item[i].req == r) return true;
  return false;
}

/* Takes the pages of the youngest request that holds any, is younger than `r` and not part of the step. */
static bool preempt_for(weir_plan *p, int32_t tier, weir_request *const *req, int32_t n,
                        const weir_request *r, const weir_tier_kv *kv) {
  for (int32_t i = n - 1; i >= 0 && req[i] != r; i--) {
    if (req[i]->seq[tier].n_pages == 0 || in_plan(p, req[i])) continue;
    weir_request_drop_kv(req[i], tier, kv->pages);
    p->preempted++;
    return true;
  }
  return false;
}

/* Starts a request on a tier from what the prefix cache knows of its tokens. */
static weir_status match_prefix(weir_request *r, int32_t tier, const weir_tier_kv *kv, weir_err *e) {
  if (!kv->prefix || r->view.kv_len[tier] > 0 || r->seq[tier].n_pages > 0) return WEIR_OK;
  int32_t covered = 0;
  const weir_status st =
      weir_seq_match(&r->seq[tier], kv->prefix, r->salt, r->tok, r->need.out_from, &covered, e);
  if (st != WEIR_OK) return st;
  r->view.kv_len[tier] = covered;
  r->need.from = r->fed_to = covered;
  r->published[tier] = covered / WEIR_PAGE_TOKENS;
  r->counts.prefix_hit[tier] += covered < r->n_prompt ? covered : r->n_prompt;
  return WEIR_OK;
}

static void add_rows(weir_plan *p, weir_request *r, int32_t to) {
  const int32_t from = r->fed_to, tier = r->need.tier;
  const weir_seq *s = &r->seq[tier];
  weir_plan_item *it = &p->item[p->n_items++];
  *it = (weir_plan_item){.req = r, .from = from, .to = to, .first_out = p->batch.n_out};
  const int32_t n_pages = weir_pages_for(to);
  const int32_t first_row = weir_batch_add(&p->batch, &(weir_batch_seq){r->tok, from, to, s->page, n_pages});
  for (int32_t pos = from > r->need.out_from ? from : r->need.out_from; pos < to; pos++) {
    weir_ask *a = weir_batch_ask(&p->batch, first_row + pos - from);
    *a = r->draw;
    weir_cascade_ask(&r->cascade, &r->view, &r->need, pos, a);
    it->n_out++;
  }
}

/* Gives `r` its share of the step. *full: no room for anybody else. */
static weir_status place(weir_plan *p, int32_t tier, weir_request *const *req, int32_t n, weir_request *r,
                         const weir_tier_kv *kv, bool *full, weir_err *e) {
  weir_status st = match_prefix(r, tier, kv, e);
  if (st != WEIR_OK) return st;
  const int32_t left = p->batch.max_tokens - p->batch.n_tokens, want = r->need.to - r->fed_to;
  const int32_t to = r->fed_to + (want < left ? want : left);
  const int32_t n_pages = weir_pages_for(to);
  *full = left < 1 || !weir_batch_fits(&p->batch, to - r->fed_to, n_pages, n_pages);
  if (*full) return WEIR_OK;
  const int32_t copies_before = p->copies.n;
  do {
    st = weir_seq_prepare(&r->seq[tier], kv->pages, kv->prefix, r->fed_to, to, &p->copies, e);
  } while (st == WEIR_ENOMEM && preempt_for(p, tier, req, n, r, kv));
  if (st != WEIR_OK) return st;
  weir_batch_add_copies(&p->batch, p->copies.src_dst + 2 * copies_before, p->copies.n - copies_before);
  add_rows(p, r, to);
  return WEIR_OK;
}

weir_status weir_plan_build(weir_plan *p, int32_t tier, weir_request *const *req, int32_t n,
                            const weir_tier_kv *kv, weir_request **culprit, weir_err *e) {
  bool full = false;
  weir_request *starved = NULL;
  int32_t starved_at = 0;
  weir_err why = {0}, starved_why = {0};
  *culprit = NULL;
  p->n_items = 0;
  weir_batch_builder_clear(&p->batch);
  weir_copies_release(&p->copies, kv->pages); /* of a step that failed */
  for (int32_t pass = 0; pass < 2; pass++) {
    for (int32_t i = 0; i < n && !full && p->n_items < p->max_seqs; i++) {
      weir_request *r = req[i];
      if (!r->waiting || r->need.tier != tier || in_plan(p, r)) continue;
      const bool is_short = r->need.to - r->fed_to <= SHORT_ROWS;
      if (is_short != (pass == 0)) continue;
      const weir_status st = place(p, tier, req, n, r, kv, &full, &why);
      if (st == WEIR_ENOMEM) {
        if (!starved || i < starved_at) { /* the oldest: it waits for the others to finish */
          starved = r;
          starved_at = i;
          starved_why = why;
        }
      } else if (st != WEIR_OK) {
        *culprit = r;
        if (e) *e = why;
        return st;
      }
    }
  }
  if (p->n_items > 0 || !starved) return WEIR_OK;
  /* Nobody could be placed. If others hold pages on this tier they will finish and give them back; a request
   * that finds the pool empty of everybody else never can. */
  for (int32_t i = 0; i < n; i++)
    if (req[i] != starved && req[i]->seq[tier].n_pages > 0) return WEIR_OK;
  *culprit = starved;
  return weir_fail(e, WEIR_ENOMEM, "request %lld does not fit the KV pages of its tier: %s",
                   (long long)starved->id, starved_why.msg);
}

void weir_plan_finish(weir_plan *p, int32_t tier, const weir_row *rows, const weir_tier_kv *kv) {
  for (int32_t i = 0; i < p->n_items; i++) {
    const weir_plan_item *it = &p->item[i];
    weir_request *r = it->req;
    for (int32_t k = 0; k < it->n_out; k++)
      r->row[it->to - it->n_out + k - r->need.out_from] = rows[it->first_out + k];
    r->fed_to = it->to;
    r->view.kv_len[tier] = it->to;
    r->counts.steps[tier]++;
    r->counts.fed[tier] += it->to - it->from;
    if (it->to == r->need.to && it->from < r->n_prompt) weir_plan_publish(r, tier, kv);
  }
  weir_copies_release(&p->copies, kv->pages);
}

void weir_plan_publish(weir_request *r, int32_t tier, const weir_tier_kv *kv) {
  const weir_view *v = &r->view;
  const int32_t sure = v->kv_len[tier] < v->committed ? v->kv_len[tier] : v->committed;
  const int32_t n_full = sure / WEIR_PAGE_TOKENS;
  if (!kv->prefix || n_full <= r->published[tier]) return;
  weir_prefix_insert(kv->prefix, r->salt, r->tok, r->seq[tier].page, n_full);
  r->published[tier] = n_full;
}
