/* SPDX-License-Identifier: Apache-2.0 */
/* Replays one text: a request without an engine. Owns nothing; calls the policy; any thread. */
#include "calibrate/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct replaying {
  const weir_trace_text *x;
  const weir_replay_how *how;
  float temperature;
  weir_cascade cascade;
  weir_view v;
  int32_t *tok;
  weir_receipt *receipt;
  weir_row *row;
  weir_replay *out;
} replaying;

weir_row weir_trace_small_row(const weir_trace_row *r) {
  return (weir_row){.token = r->q_token,
                    .logprob = r->q_logprob,
                    .entropy = r->q_entropy,
                    .p_max = r->q_max,
                    .margin = r->q_margin,
                    .probe_logprob = r->q_logprob,
                    .gate = r->q_gate};
}

weir_row weir_trace_large_row(const weir_trace_row *r) {
  return (weir_row){.token = r->p_token,
                    .logprob = r->p_logprob,
                    .entropy = r->p_entropy,
                    .p_max = r->p_max,
                    .margin = r->p_margin,
                    .probe_logprob = r->p_logprob};
}

/* ---- what the trace can answer ---- */

weir_status weir_replay_check(const weir_cascade_cfg *g, float temperature, weir_err *e) {
  const char *why = weir_cascade_cfg_error(g);
  if (why) return weir_fail(e, WEIR_EINVAL, "cascade: %s", why);
  if (g->n_tiers > 2) return weir_fail(e, WEIR_EUNSUP, "a replay is of two tiers, not of %d", g->n_tiers);
  if (weir_budget_moves(&g->budget) || g->gate_moves)
    return weir_fail(e, WEIR_EUNSUP,
                     "a threshold that moves cannot be replayed: what others do moves it too");
  if (g->fusion != 0)
    return weir_fail(e, WEIR_EUNSUP, "fusion cannot be replayed: a trace has no second choices");
  if (g->route.on && g->gate[0].kind != WEIR_GATE_ENTROPY)
    return weir_fail(e, WEIR_EUNSUP,
                     "routing by another gate than entropy cannot be replayed: a trace has "
                     "entropies of prompts alone");
  if (g->n_tiers > 1 && g->keep[1] == WEIR_KEEP_RATIO && temperature > 0)
    return weir_fail(e, WEIR_EUNSUP,
                     "the rule ratio cannot be replayed above temperature 0: a trace has no drafts' "
                     "laws");
  return WEIR_OK;
}

static weir_status check_text(const weir_trace_text *x, const weir_replay_how *how, weir_err *e) {
  const weir_cascade_cfg *g = how->cfg;
  if (how->oracle && (g->gate[0].kind != WEIR_GATE_ENTROPY || g->gate[0].threshold != 0.5F))
    return weir_fail(e, WEIR_EINVAL, "the oracle is the gate of entropy with the threshold 0.5");
  if (g->route.on && g->route.prompt > 1 && x->n_prompt > 1 && !x->prompt_entropy)
    return weir_fail(e, WEIR_EUNSUP,
                     "routing by prompts cannot be replayed: the trace has no entropies of prompts");
  for (int32_t i = 0; i < x->n && g->n_tiers > 1 && g->gate[0].kind == WEIR_GATE_HEAD; i++)
    if (isnan(x->row[i].q_gate))
      return weir_fail(e, WEIR_EUNSUP, "the gate head cannot be replayed: the trace has no scores of it");
  return WEIR_OK;
}

/* ---- rows ---- */

/* By the rules of kernels/row.h, on the logged probabilities. */
static bool stands(const weir_ask *a, const weir_trace_row *r) {
  const double p = exp((double)r->p_of_q), max = (double)r->p_max, alpha = (double)a->keep_a;
  /* the likeliest token's own share is 1, whatever was rounded */
  const double share = fabs(p / max - 1) < 1e-6 ? 1 : p / max;
  switch (a->keep) {
    case WEIR_KEEP_ALL: return true;
    case WEIR_KEEP_OWN:
    case WEIR_KEEP_RATIO: return a->probe == r->p_token; /* which are one at temperature 0 */
    case WEIR_KEEP_NLL: return -(double)r->p_of_q <= alpha;
    case WEIR_KEEP_V1: return exp((double)a->probe_q) >= max - alpha;
    case WEIR_KEEP_V2: return share * max >= max - alpha;
    case WEIR_KEEP_V3: return share >= 1 - alpha;
    case WEIR_KEEP_TYPICAL: return p > fmin(alpha, (double)a->keep_b * exp(-(double)r->p_entropy));
  }
  return false;
}

static weir_row small_row(const replaying *r, int32_t p) {
  const weir_trace_text *x = r->x;
  if (p + 1 < x->n_prompt) /* what a route looks at */
    return (weir_row){.entropy = x->prompt_entropy ? x->prompt_entropy[p] : 0};
  const weir_trace_row *t = &x->row[p + 1 - x->n_prompt];
  weir_row row = weir_trace_small_row(t);
  if (r->how->oracle) row.entropy = t->q_token == t->p_token ? 0 : 1;
  return row;
}

static weir_row large_row(replaying *r, const weir_need *q, int32_t p) {
  const weir_trace_text *x = r->x;
  if (p + 1 < x->n_prompt) return (weir_row){0};
  const int32_t i = p + 1 - x->n_prompt;
  weir_row row;
  if (i >= x->n) return (weir_row){.token = -1}; /* behind the end: nobody takes it */
  const weir_trace_row *t = &x->row[i];
  row = weir_trace_large_row(t);
  weir_ask ask = {.probe = -1, .probe_q = t->q_logprob};
  weir_cascade_ask(&r->cascade, &r->v, q, p, &ask);
  if (ask.probe < 0) return row;
  row.probe_logprob = ask.probe == t->q_token ? t->p_of_q : t->p_logprob;
  if (ask.probe == t->p_token && ask.keep == WEIR_KEEP_OWN) return row;
  if (stands(&ask, t)) {
    row.token = ask.probe;
    row.logprob = row.probe_logprob;
  } else if (row.token == ask.probe && r->temperature > 0) {
    /* Refused although it is the large model's own draw: the replacement has noise of its own, and the trace
     * does not know it. (At temperature 0 it is the same token, which so stands.) */
    row.token = -1;
  }
  return row;
}

/* ---- one need ---- */

static void count(replaying *r, const weir_need *q) {
  const int32_t t = q->tier < 1 ? 0 : 1;
  const weir_replay_step s = {t, q->to - q->from, q->to - q->out_from};
  r->out->steps[t]++;
  r->out->rows[t] += s.rows;
  r->out->asked[t] += s.asked;
  if (r->how->on_step) r->how->on_step(r->how->ctx, &s);
}

/* The text has ended: with the large model's, or with a draft that would end it. */
static bool ends(const replaying *r) {
  const int32_t i = r->v.n - r->x->n_prompt - 1;
  if (i < 0) return false;
  if (i + 1 >= r->x->n) return true;
  const weir_trace_row *t = &r->x->row[i];
  return t->q_ends && r->tok[r->v.n - 1] == t->q_token && t->q_token != t->p_token;
}

static void apply(replaying *r, weir_effect *fx) {
  const int32_t at = fx->truncate_to >= 0 ? fx->truncate_to : r->v.n; /* the position that was decided */
  const int32_t i = at - r->x->n_prompt;
  const bool independent = r->temperature > 0 && r->cascade.cfg->n_tiers > 1 &&
                           r->cascade.cfg->keep[1] != WEIR_KEEP_OWN &&
                           r->cascade.cfg->keep[1] != WEIR_KEEP_ALL;
  if (fx->reason == WEIR_REPLACED) {
    fx->append = r->x->row[i].p_token;
    if (independent && i < r->out->exact_to) r->out->exact_to = i;
    if (independent && i < r->out->first_other) r->out->first_other = i;
  }
  if (fx->truncate_to >= 0) r->out->refused += r->v.n - fx->truncate_to;
  weir_receipts_note(r->receipt, r->v.n, fx);
  weir_cascade_apply(&r->cascade, fx, r->tok, &r->v);
}

static weir_status run(replaying *r, weir_err *e) {
  weir_need q;
  weir_effect fx;
  /* a judge gets a token further at least, after a window of small steps at most */
  const int64_t n = r->x->n, window = r->cascade.cfg->window[0], each = window < n ? window : n;
  for (int64_t left = 2 * n * (each + 4) + 64; left > 0; left--) {
    if (!weir_cascade_need(&r->cascade, &r->v, &q)) {
      if (r->v.n - r->x->n_prompt >= r->x->n) return WEIR_OK;
      r->v.ended =
          false; /* a small token that ends the text stands: along the large model's text it goes on */
      continue;
    }
    for (int32_t p = q.out_from; p < q.to; p++)
      r->row[p - q.out_from] = q.tier > 0 ? large_row(r, &q, p) : small_row(r, p);
    r->v.kv_len[q.tier] = q.to;
    count(r, &q);
    weir_cascade_observe(&r->cascade, &r->v, &q, r->row, &fx);
    apply(r, &fx);
    r->v.ended = ends(r);
    if (r->v.ended && weir_cascade_settle(&r->cascade, &r->v, &fx)) {
      apply(r, &fx);
      r->v.ended = ends(r);
    }
  }
  return weir_fail(e, WEIR_EINVAL, "a replay does not end");
}

static void sum_up(replaying *r) {
  weir_replay *o = r->out;
  const weir_trace_text *x = r->x;
  int32_t first = x->n;
  for (int32_t i = x->n - 1; i >= 0; i--) {
    o->by_large += r->receipt[x->n_prompt + i].tier > 0;
    if (r->tok[x->n_prompt + i] == x->row[i].p_token) continue;
    o->lost++;
    first = i;
  }
  if (first < o->first_other) o->first_other = first;
  if (first + 1 < o->exact_to) o->exact_to = first + 1;
  for (int t = 0; t < 2; t++) o->kv[t] = r->v.kv_len[t];
}

static weir_status reserve(weir_replay_scratch *s, size_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  if (n <= s->cap) return WEIR_OK;
  weir_replay_scratch more = {0};
  WEIR_TRY(WEIR_NEW(n, &more.tok, e));
  WEIR_TRY(WEIR_NEW(n, &more.receipt, e));
  WEIR_TRY(WEIR_NEW(n, &more.row, e));
  more.cap = n;
  weir_replay_scratch_fini(s);
  *s = more;
  more = (weir_replay_scratch){0};
out:
  weir_replay_scratch_fini(&more);
  return st;
}

void weir_replay_scratch_fini(weir_replay_scratch *s) {
  free(s->tok);
  free(s->receipt);
  free(s->row);
  *s = (weir_replay_scratch){0};
}

weir_status weir_replay_text(const weir_trace_text *x, float temperature, const weir_replay_how *how,
                             weir_replay_scratch *s, weir_replay *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n = (size_t)x->n_prompt + (size_t)x->n + 2;
  *out = (weir_replay){.n = x->n, .first_other = x->n, .exact_to = x->n};
  WEIR_TRY(weir_replay_check(how->cfg, temperature, e));
  WEIR_TRY(check_text(x, how, e));
  if (x->n == 0) return WEIR_OK;
  WEIR_TRY(reserve(s, n, e));
  memset(s->tok, 0, n * sizeof *s->tok);
  replaying r = {.x = x,
                 .how = how,
                 .temperature = temperature,
                 .tok = s->tok,
                 .receipt = s->receipt,
                 .row = s->row,
                 .out = out};
  r.v = (weir_view){.tok = s->tok, .n = x->n_prompt, .committed = x->n_prompt};
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) r.v.mark[t] = x->n_prompt;
  weir_receipts_begin(s->receipt, x->n_prompt);
  weir_cascade_init(&r.cascade, how->cfg, false);
  WEIR_TRY(run(&r, e));
  sum_up(&r);
out:
  return st;
}
