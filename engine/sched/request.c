/* SPDX-License-Identifier: Apache-2.0 */
/* Requests: the token list, the policy's state and the receipts, kept in step. Owns its arrays; calls the
 * policy and the KV accounting; loop thread only. */
#include "sched/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sched/draft.h"
#include "sched/shape.h"

/* Appends what must follow, as long as anything must. */
static void force(weir_request *r) {
  if (!r->choices) return;
  int32_t k = weir_request_n_new(r), id;
  weir_choice_node at = weir_choices_at(r->choices, r->tok + r->n_prompt, k);
  for (; k < r->max_new && (id = weir_choices_forced(r->choices, at)) >= 0; k++) {
    const int32_t tier = weir_cascade_force(&r->cascade, id, r->tok, &r->view);
    weir_receipts_force(r->receipt, r->n_prompt + k, tier);
    r->stat[k] = (struct weir_token_stat){.p_max = NAN, .margin = NAN, .score = NAN};
    if (r->n_top > 0) r->top[(size_t)k * (size_t)r->n_top] = (weir_top){id, 0};
    at = weir_choices_step(r->choices, at, id);
  }
}

weir_status weir_request_create(const weir_request_spec *s, int64_t id, weir_request **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_request *r = NULL;
  *out = NULL;
  if (s->n_prompt < 1) return weir_fail(e, WEIR_EINVAL, "the prompt has no tokens");
  if (s->max_new < 1) return weir_fail(e, WEIR_EINVAL, "max_new is %d, want at least 1", s->max_new);
  if (s->max_new > INT32_MAX - 2 - s->n_prompt)
    return weir_fail(e, WEIR_EINVAL, "prompt of %d and %d new tokens are too many", s->n_prompt, s->max_new);
  const char *why = weir_cascade_cfg_error(s->cascade);
  if (why) return weir_fail(e, WEIR_EINVAL, "cascade: %s", why);
  WEIR_TRY(WEIR_NEW(1, &r, e));
  WEIR_TRY(WEIR_NEW((size_t)s->n_prompt + (size_t)s->max_new + 1, &r->tok, e));
  const int32_t looked = s->cascade->route.on ? s->cascade->route.prompt : 0; /* rows of the prompt */
  const size_t n_rows = (size_t)s->max_new + 2 + (size_t)(looked < s->n_prompt ? looked : s->n_prompt);
  WEIR_TRY(WEIR_NEW(n_rows, &r->row, e));
  WEIR_TRY(WEIR_NEW((size_t)s->n_prompt + (size_t)s->max_new + 2, &r->receipt, e));
  WEIR_TRY(WEIR_NEW((size_t)s->max_new + 1, &r->stat, e));
  memcpy(r->tok, s->prompt, (size_t)s->n_prompt * sizeof *r->tok);
  r->id = id;
  r->n_prompt = s->n_prompt;
  r->max_new = s->max_new;
  r->draw = s->draw;
  r->salt = s->salt;
  r->view = (weir_view){.tok = r->tok, .n = s->n_prompt, .committed = s->n_prompt};
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) r->view.mark[t] = s->n_prompt; /* nobody judges a prompt */
  weir_receipts_begin(r->receipt, s->n_prompt);
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) r->place[t] = -1;
  r->node = (weir_queue_node){.urgency = s->urgency, .id = id, .at = -1};
  r->last_entropy = NAN;
  r->n_top = s->n_top;
  if (s->n_top > 0) {
    WEIR_TRY(WEIR_NEW(n_rows * (size_t)s->n_top, &r->row_top, e));
    WEIR_TRY(WEIR_NEW(((size_t)s->max_new + 1) * (size_t)s->n_top, &r->top, e));
  }
  if (weir_shaper_wanted(&s->penalties, s->min_new)) {
    WEIR_TRY(WEIR_NEW(1, &r->shaper, e));
    WEIR_TRY(
        weir_shaper_init(r->shaper, &s->penalties, s->min_new, s->end, s->n_end, s->prompt, s->n_prompt, e));
  }
  r->cfg = *s->cascade;
  weir_cascade_init(&r->cascade, &r->cfg, s->pinned);
  r->pinned = s->pinned;
  r->counts.route = r->cascade.route;
  if (r->cfg.fusion != 0) {
    WEIR_TRY(WEIR_NEW(1, &r->fusion, e));
    *r->fusion = (struct weir_fusion){.weight = r->cfg.fusion, .at = -1};
  }
  WEIR_TRY(weir_drafts_create(&r->cfg, &r->draw, r->max_new, &r->drafts, e));
  r->choices = s->choices;
  force(r);
  r->view.ended = weir_request_is_complete(r);
  *out = r;
  r = NULL;
out:
  weir_request_destroy(r);
  return st;
}

void weir_request_destroy(weir_request *r) {
  if (!r) return;
  free(r->tok);
  free(r->row);
  free(r->receipt);
  free(r->stat);
  free(r->row_top);
  free(r->top);
  if (r->shaper) weir_shaper_fini(r->shaper);
  free(r->shaper);
  free(r->fusion);
  weir_drafts_destroy(r->drafts);
  free(r);
}

bool weir_request_next(weir_request *r, int64_t now_ns) {
  if (r->waiting) return true;
  if (!weir_cascade_need(&r->cascade, &r->view, &r->need)) return false;
  r->waiting = true;
  r->asked_lo = r->cascade.lo;
  r->asked_hi = r->cascade.hi;
  r->fed_to = r->need.from;
  r->since_ns = now_ns;
  return true;
}

void weir_request_drop_kv(weir_request *r, int32_t tier, weir_pages *pages) {
  weir_seq_fini(&r->seq[tier], pages);
  r->view.kv_len[tier] = 0;
  r->published[tier] = r->claim[tier] = 0;
  if (r->waiting && r->need.tier == tier) r->need.from = r->fed_to = 0;
}

/* `row` decided position `at` in the way the effect says. */
static void note_stat(weir_request *r, const weir_effect *fx, const weir_row *row, int32_t at,
                      int64_t now_ns) {
  struct weir_token_stat *s = &r->stat[at - r->n_prompt];
  const bool up = fx->reason == WEIR_DEFERRED || fx->reason == WEIR_ROUTED;
  const bool gated = up || fx->why == WEIR_WHY_EASY;
  if (gated && isnan(r->receipt[at].entropy)) { /* the first tier to look: what the gate went by */
    s->p_max = row->p_max;
    s->margin = row->margin;
    s->score = weir_gate_score(r->cfg.gate[0], row);
  } else if (isnan(r->receipt[at].entropy)) {
    s->p_max = s->margin = s->score = NAN;
  }
  if (up && r->deferred_ns == 0) r->deferred_ns = now_ns;
  if (fx->append < 0) return;
  if (r->n_top > 0)
    memcpy(r->top + (size_t)(at - r->n_prompt) * (size_t)r->n_top,
           r->row_top + (size_t)(row - r->row) * (size_t)r->n_top, (size_t)r->n_top * sizeof *r->top);
  s->logprob = row->logprob;
  /* An easy one that was deferred first was given up. */
  const bool handed = fx->why == WEIR_WHY_DEFERRED || fx->why == WEIR_WHY_ROUTED ||
                      (fx->why == WEIR_WHY_EASY && r->cfg.defer_wait_ns > 0);
  s->wait_ns = handed && r->deferred_ns != 0 ? now_ns - r->deferred_ns : 0;
  r->deferred_ns = 0;
}

/* The effect takes place; what it takes back, shaper and receipts forget. */
static void take_effect(weir_request *r, const weir_effect *fx, int32_t *truncated_to) {
  const int32_t n = r->view.n, to = fx->truncate_to;
  if (r->shaper && to >= 0) weir_shaper_truncate(r->shaper, r->tok, to);
  weir_receipts_note(r->receipt, n, fx);
  if (to >= 0) r->counts.refused += n - to;
  r->effect = *fx;
  r->counts.route = r->cascade.route;
  *truncated_to = to >= 0 ? to : n;
  weir_cascade_apply(&r->cascade, fx, r->tok, &r->view);
  if (r->fusion) { /* in mode auto not all configurations of a request fuse */
    const bool deferred = fx->endorsed_by == 0 && fx->reason == WEIR_DEFERRED;
    r->fusion->at = deferred && r->cfg.fusion != 0 ? r->view.n : -1;
  }
  force(r);
}

void weir_request_observe(weir_request *r, int64_t now_ns, int32_t *truncated_to) {
  const weir_need q = r->need;
  const int32_t n = r->view.n;
  weir_effect fx;
  weir_cascade_observe(&r->cascade, &r->view, &q, r->row, &fx);
  r->waiting = false;
  const int32_t at = fx.truncate_to >= 0 ? fx.truncate_to : n; /* the position that was decided */
  const bool dropped = fx.reason == WEIR_ROUTED && fx.truncate_to >= 0; /* its row was noted long ago */
  if (dropped) r->deferred_ns = now_ns;
  if (fx.reason != WEIR_ENDORSED && !dropped) note_stat(r, &fx, &r->row[at - 1 - q.out_from], at, now_ns);
  if (q.tier == 0) r->last_entropy = r->row[q.to - 1 - q.out_from].entropy;
  take_effect(r, &fx, truncated_to);
}

bool weir_request_settle(weir_request *r, int64_t now_ns, int32_t *truncated_to) {
  weir_effect fx;
  if (!weir_cascade_settle(&r->cascade, &r->view, &fx)) return false;
  if (fx.reason == WEIR_ROUTED) r->deferred_ns = now_ns;
  take_effect(r, &fx, truncated_to);
  return true;
}

bool weir_request_is_complete(const weir_request *r) {
  if (!r->choices) return false;
  return weir_choices_complete(r->choices,
                               weir_choices_at(r->choices, r->tok + r->n_prompt, weir_request_n_new(r)));
}

bool weir_request_give_up(weir_request *r) {
  weir_effect fx;
  if (!weir_cascade_give_up(&r->cascade, &r->view, &fx)) return false;
  if (r->need.tier > 0) r->waiting = false;
  weir_receipts_note(r->receipt, r->view.n, &fx);
  r->effect = fx;
  weir_cascade_apply(&r->cascade, &fx, r->tok, &r->view);
  if (r->fusion) r->fusion->at = -1;
  return true;
}

int32_t weir_request_switch(weir_request *r, const weir_cascade_cfg *cfg) {
  const int32_t n = r->view.n;
  r->cfg = *cfg;
  const int32_t same = weir_cascade_switch(&r->cascade, &r->view, &r->cfg);
  weir_receipts_begin(r->receipt, same); /* whoever has looked at this position has not written it */
  r->deferred_ns = 0;
  if (r->fusion) r->fusion->at = -1; /* nothing is deferred any more */
  if (same == n) return n;
  r->counts.refused += n - same;
  if (r->shaper) weir_shaper_truncate(r->shaper, r->tok, same);
  return same;
}

weir_token_receipt weir_request_receipt(const weir_request *r, int32_t i) {
  const weir_receipt *c = &r->receipt[r->n_prompt + i];
  const struct weir_token_stat *s = &r->stat[i];
  return (weir_token_receipt){.id = r->tok[r->n_prompt + i],
                              .tier = c->tier,
                              .why = (weir_why)c->why,
                              .wanted_up = c->wanted_up,
                              .entropy = c->entropy,
                              .tau = c->tau,
                              .p_max = s->p_max,
                              .margin = s->margin,
                              .logprob = s->logprob,
                              .wait_ns = s->wait_ns,
                              .score = s->score};
}

const weir_top *weir_request_top(const weir_request *r, int32_t i) {
  return r->n_top > 0 ? r->top + (size_t)i * (size_t)r->n_top : NULL;
}
