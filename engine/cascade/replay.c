/* SPDX-License-Identifier: Apache-2.0 */
/* Replay of one request. Owns its arrays; calls the policy as the engine does. What comes in may be anything:
 * every number is checked before it is used as an index. */
#include "cascade/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

const char *weir_did_name(weir_did d) {
  static const char *const name[WEIR_N_DID] = {"observe", "give_up", "settle", "switch"};
  return (unsigned)d < WEIR_N_DID ? name[d] : "unknown";
}

const char *weir_reason_name(weir_reason r) {
  switch (r) {
    case WEIR_WROTE: return "wrote";
    case WEIR_REPLACED: return "replaced";
    case WEIR_DEFERRED: return "deferred";
    case WEIR_WINDOW: return "window";
    case WEIR_ENDORSED: return "endorsed";
    case WEIR_ROUTED: return "routed";
    case WEIR_GAVE_UP: return "gave_up";
  }
  return "unknown";
}

static bool same(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

static weir_status reserve(weir_replay *r, int32_t n, weir_err *e) {
  if (n <= r->cap) return WEIR_OK;
  if (n > WEIR_REPLAY_PROMPT + WEIR_REPLAY_TOKENS) return weir_fail(e, WEIR_EINVAL, "more tokens than %d", n);
  const int32_t cap = n + n / 2;
  int32_t *tok = realloc(r->tok, (size_t)cap * sizeof *tok);
  if (tok) r->tok = tok;
  weir_receipt *receipt = tok ? realloc(r->receipt, ((size_t)cap + 2) * sizeof *receipt) : NULL;
  if (!receipt) return weir_fail(e, WEIR_ENOMEM, "no memory for %d tokens", cap);
  r->receipt = receipt;
  r->view.tok = r->tok;
  r->cap = cap;
  return WEIR_OK;
}

static weir_status force(weir_replay *r, const int32_t *id, int32_t n, weir_err *e) {
  const weir_status st = n < 0 || n > WEIR_REPLAY_TOKENS ? weir_fail(e, WEIR_EINVAL, "%d forced tokens", n)
                                                         : reserve(r, r->view.n + n + 2, e);
  for (int32_t i = 0; i < n && st == WEIR_OK; i++) {
    if (id[i] < 0) return weir_fail(e, WEIR_EINVAL, "forced token %d is id %d", i, id[i]);
    const int32_t at = r->view.n, tier = weir_cascade_force(&r->cascade, id[i], r->tok, &r->view);
    weir_receipts_force(r->receipt, at, tier);
  }
  return st;
}

/* The configuration with a map of our own. */
static weir_status adopt(weir_replay *r, const weir_cascade_cfg *cfg, weir_err *e) {
  const char *wrong = weir_cascade_cfg_error(cfg);
  if (wrong) return weir_fail(e, WEIR_EINVAL, "the configuration: %s", wrong);
  r->cfg = *cfg;
  if (!cfg->gate[0].map) return WEIR_OK;
  r->map = *cfg->gate[0].map;
  for (int32_t t = 0; t < cfg->n_tiers; t++) r->cfg.gate[t].map = &r->map;
  return WEIR_OK;
}

weir_status weir_replay_begin(weir_replay *r, const weir_cascade_cfg *cfg, bool pinned, int32_t n_prompt,
                              const int32_t *forced, int32_t n_forced, bool ended, weir_err *e) {
  weir_status st = WEIR_OK;
  *r = (weir_replay){.n_prompt = n_prompt};
  if (n_prompt < 1 || n_prompt > WEIR_REPLAY_PROMPT)
    return weir_fail(e, WEIR_EINVAL, "a prompt of %d tokens", n_prompt);
  WEIR_TRY(adopt(r, cfg, e));
  WEIR_TRY(reserve(r, n_prompt + 64, e));
  memset(r->tok, 0, (size_t)n_prompt * sizeof *r->tok);
  r->view = (weir_view){.tok = r->tok, .n = n_prompt, .committed = n_prompt};
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) r->view.mark[t] = n_prompt;
  weir_receipts_begin(r->receipt, n_prompt);
  weir_cascade_init(&r->cascade, &r->cfg, pinned);
  WEIR_TRY(force(r, forced, n_forced, e));
  r->view.ended = ended;
out:
  return st;
}

void weir_replay_fini(weir_replay *r) {
  free(r->tok);
  free(r->receipt);
  *r = (weir_replay){0};
}

/* ---- one decision ---- */

static weir_status set_tiers(weir_replay *r, int32_t lo, int32_t hi, weir_err *e) {
  if (lo < 0 || lo > hi || hi >= WEIR_MAX_TIERS || lo >= r->cfg.n_tiers)
    return weir_fail(e, WEIR_EINVAL, "tiers %d to %d are up, of %d", lo, hi, r->cfg.n_tiers);
  r->cascade.lo = lo;
  r->cascade.hi = hi;
  r->view.committed =
      weir_cascade_commit(&r->cascade, &r->view); /* a judge that has gone is not waited for */
  return WEIR_OK;
}

static weir_status check_need(weir_replay *r, const weir_decision *d, weir_err *e) {
  weir_need own = {0};
  const weir_need *q = &d->need;
  const weir_status st = set_tiers(r, d->asked_lo, d->asked_hi, e);
  if (st != WEIR_OK) return st;
  if (!weir_cascade_need(&r->cascade, &r->view, &own))
    return weir_fail(e, WEIR_EINVAL, "the text has ended, and tier %d was asked", q->tier);
  if (own.tier != q->tier || own.to != q->to || own.out_from != q->out_from ||
      own.judge_from != q->judge_from)
    return weir_fail(
        e, WEIR_EINVAL,
        "the need was tier %d, rows %d to %d, judged from %d; the policy wants tier %d, rows %d to "
        "%d, judged from %d",
        q->tier, q->out_from, q->to, q->judge_from, own.tier, own.out_from, own.to, own.judge_from);
  if (q->from < 0 || q->from > q->out_from || d->n_rows != q->to - q->out_from)
    return weir_fail(e, WEIR_EINVAL, "%d rows, fed from %d, of a need for rows %d to %d", d->n_rows, q->from,
                     q->out_from, q->to);
  return WEIR_OK;
}

/* A threshold that somebody moves is taken from the log; one that stands still is what it was. */
static weir_status set_thresholds(weir_replay *r, const weir_decision *d, weir_err *e) {
  weir_cascade_cfg *g = &r->cfg;
  const bool moves = g->gate_moves || weir_budget_moves(&g->budget);
  if (!moves && !same(d->tau, g->gate[0].threshold))
    return weir_fail(e, WEIR_EINVAL, "the threshold was %.9g, and is %.9g for this request", (double)d->tau,
                     (double)g->gate[0].threshold);
  if (isnan(d->tau)) return weir_fail(e, WEIR_EINVAL, "the threshold is not a number");
  if (g->route.on && !weir_budget_moves(&g->budget) && !same(d->share, g->route.share))
    return weir_fail(e, WEIR_EINVAL, "the share was %.9g, and is %.9g for this request", (double)d->share,
                     (double)g->route.share);
  g->gate[0].threshold = d->tau;
  if (g->route.on) g->route.share = d->share;
  return WEIR_OK;
}

static weir_status differs(weir_err *e, const char *what, double log, double own) {
  return weir_fail(e, WEIR_EINVAL, "%s was %.9g; the policy says %.9g", what, log, own);
}

static weir_status check_effect(const weir_effect *a, const weir_effect *b, weir_err *e) {
  if (a->reason != b->reason)
    return weir_fail(e, WEIR_EINVAL, "it was %s; the policy says %s", weir_reason_name(a->reason),
                     weir_reason_name(b->reason));
  if (a->append != b->append) return differs(e, "the token", a->append, b->append);
  if (a->truncate_to != b->truncate_to) return differs(e, "truncate_to", a->truncate_to, b->truncate_to);
  if (a->why != b->why)
    return weir_fail(e, WEIR_EINVAL, "the token came as %s; the policy says %s", weir_why_name(a->why),
                     weir_why_name(b->why));
  if (a->endorsed_by != b->endorsed_by) return differs(e, "the tier", a->endorsed_by, b->endorsed_by);
  if (a->endorsed_to != b->endorsed_to) return differs(e, "endorsed_to", a->endorsed_to, b->endorsed_to);
  if (a->wanted_up != b->wanted_up) return differs(e, "wanted_up", a->wanted_up, b->wanted_up);
  if (a->kept_from != b->kept_from || a->kept_to != b->kept_to)
    return differs(e, "the end of what was kept", a->kept_to, b->kept_to);
  if (a->wanted_from != b->wanted_from || a->wanted_to != b->wanted_to)
    return differs(e, "the end of what was wanted", a->wanted_to, b->wanted_to);
  if (!same(a->entropy, b->entropy)) return differs(e, "the entropy", (double)a->entropy, (double)b->entropy);
  if (!same(a->tau, b->tau)) return differs(e, "tau", (double)a->tau, (double)b->tau);
  return WEIR_OK;
}

static weir_status take(weir_replay *r, const weir_decision *d, const weir_effect *fx, weir_err *e) {
  weir_status st = check_effect(&d->fx, fx, e);
  if (st != WEIR_OK) return st;
  if (fx->truncate_to >= 0 && (fx->truncate_to < r->n_prompt || fx->truncate_to > r->view.n))
    return weir_fail(e, WEIR_EINVAL, "truncated to %d of %d tokens", fx->truncate_to, r->view.n);
  if (fx->append < -1) return weir_fail(e, WEIR_EINVAL, "token id %d", fx->append);
  weir_receipts_note(r->receipt, r->view.n, fx);
  weir_cascade_apply(&r->cascade, fx, r->tok, &r->view);
  r->by_reason[fx->reason]++;
  return st;
}

weir_status weir_replay_decide(weir_replay *r, const weir_decision *d, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_effect fx = {0};
  r->n_decisions++;
  WEIR_TRY(reserve(r, r->view.n + 4, e));
  if (d->did == WEIR_DID_OBSERVE) WEIR_TRY(check_need(r, d, e));
  WEIR_TRY(set_tiers(r, d->lo, d->hi, e));
  switch (d->did) {
    case WEIR_DID_OBSERVE:
      WEIR_TRY(set_thresholds(r, d, e));
      weir_cascade_observe(&r->cascade, &r->view, &d->need, d->row, &fx);
      break;
    case WEIR_DID_GIVE_UP:
      if (!weir_cascade_give_up(&r->cascade, &r->view, &fx))
        WEIR_TRY(weir_fail(e, WEIR_EINVAL, "there is no higher tier to give up"));
      break;
    case WEIR_DID_SETTLE:
      if (!r->view.ended || !weir_cascade_settle(&r->cascade, &r->view, &fx))
        WEIR_TRY(weir_fail(e, WEIR_EINVAL, "there is nothing to settle"));
      break;
    case WEIR_DID_SWITCH:
      WEIR_TRY(adopt(r, d->cfg, e));
      weir_receipts_begin(r->receipt, weir_cascade_switch(&r->cascade, &r->view, &r->cfg));
      r->n_switches++;
      break;
  }
  if (d->did != WEIR_DID_SWITCH) WEIR_TRY(take(r, d, &fx, e));
  WEIR_TRY(force(r, d->forced, d->n_forced, e));
  if (d->n != r->view.n) WEIR_TRY(differs(e, "the number of tokens", d->n, r->view.n));
  r->view.ended = d->ended;
out:
  return st;
}
