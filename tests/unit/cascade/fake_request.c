/* SPDX-License-Identifier: Apache-2.0 */
/* Drives the policy as a scheduler would, with preemption, prefix hits, chunked feeds and tiers that come and
 * go, and audits every need and effect against the rows they came from. One thread. */
#include "fake_request.h"
#include "fake_route.h"

#include <math.h>
#include <string.h>

const fake_chaos fake_calm = {0, 0, 0, 0};
fake_counts fake_count;

static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

void fake_open(fake_req *r, const fake_job *j) {
  memset(r, 0, sizeof *r);
  r->job = *j;
  weir_cascade_init(&r->c, j->cfg, j->pinned);
  for (int i = 0; i < j->n_prompt; i++) r->tok[i] = r->sent[i] = 1 + i % 4;
  r->n_sent = j->n_prompt;
  r->v = (weir_view){.tok = r->tok, .n = j->n_prompt, .committed = j->n_prompt};
  for (int t = 0; t < WEIR_MAX_TIERS; t++) r->v.mark[t] = j->n_prompt;
  weir_receipts_begin(r->receipt, j->n_prompt);
}

/* ---- which tiers may act, told by listing them ---- */

typedef struct roster {
  bool acts[WEIR_MAX_TIERS];
  int32_t top, low;
} roster;

static roster roster_of(const weir_cascade *c) {
  roster o = {.top = c->hi < c->cfg->n_tiers - 1 ? c->hi : c->cfg->n_tiers - 1};
  if (c->pinned) o.top = 0;
  if (c->cfg->route.on) { /* one author, whatever the gate says */
    o.low = c->route.to == WEIR_ROUTED_LARGE ? 1 : c->lo;
    if (o.low > o.top) o.low = o.top;
    o.acts[o.low] = true;
    return o;
  }
  o.low = o.top;
  for (int32_t t = o.top; t >= 0; t--) {
    o.acts[t] = t == o.top || (t >= c->lo && !weir_gate_never_passes(c->cfg->gate[t]));
    if (o.acts[t]) o.low = t;
  }
  return o;
}

static int32_t shown_by(const weir_cascade *c) {
  const roster o = roster_of(c);
  return c->cfg->commit_tier < o.top ? c->cfg->commit_tier : o.top;
}

/* ---- audits ---- */

static void check_state(const fake_req *r) {
  const weir_view *v = &r->v;
  FAKE_CHECK(v->mark[0] == v->n, "mark[0] is %d, n %d", (int)v->mark[0], (int)v->n);
  FAKE_CHECK(v->committed >= r->n_sent && v->committed <= v->n, "committed %d, shown %d, n %d",
             (int)v->committed, (int)r->n_sent, (int)v->n);
  FAKE_CHECK(v->n - v->committed <= r->c.cfg->horizon, "holds back %d tokens, horizon %d",
             (int)(v->n - v->committed), (int)r->c.cfg->horizon);
  FAKE_CHECK(!memcmp(r->tok, r->sent, sizeof(int32_t) * (size_t)r->n_sent),
             "a token the client has seen changed");
  for (int t = 0; t < r->c.cfg->n_tiers; t++) {
    FAKE_CHECK(v->kv_len[t] <= v->n && v->mark[t] <= v->n, "tier %d: kv %d mark %d beyond n %d", t,
               (int)v->kv_len[t], (int)v->mark[t], (int)v->n);
    FAKE_CHECK(!memcmp(r->kv_tok[t], r->tok, sizeof(int32_t) * (size_t)v->kv_len[t]),
               "tier %d: KV holds other tokens than the text", t);
    FAKE_CHECK(t == 0 || v->mark[t] <= v->mark[t - 1], "tier %d has endorsed more than the tier below", t);
  }
}

static void show(fake_req *r) { /* what the stream does with `committed` */
  memcpy(r->sent, r->tok, sizeof(int32_t) * (size_t)r->v.committed);
  r->n_sent = r->v.committed;
}

/* It has judged all there is, and may not write: the text has ended or the window is full. */
static bool idle_now(const fake_req *r, const roster *o, int32_t t) {
  const weir_view *v = &r->v;
  int32_t up = t + 1;
  while (up < o->top && !o->acts[up]) up++;
  return v->mark[t] >= v->n && t < shown_by(&r->c) && v->committed < v->n &&
         (v->ended || v->n - v->mark[up] >= r->c.cfg->window[t]);
}

static void check_need(const fake_req *r, const weir_need *q, const fake_chaos *x) {
  const weir_view *v = &r->v;
  const roster o = roster_of(&r->c);
  const int32_t t = q->tier, kv = v->kv_len[t];
  FAKE_CHECK(t >= 0 && t <= o.top && o.acts[t], "tier %d is named but may not act (lo %d hi %d)", (int)t,
             (int)r->c.lo, (int)r->c.hi);
  int32_t first = r->c.tier < o.top ? r->c.tier : o.top;
  if (r->c.cfg->route.on) first = o.low;
  while (!o.acts[first]) first++;
  for (int32_t u = first; u < t; u++)
    FAKE_CHECK(!o.acts[u] || idle_now(r, &o, u), "tier %d is passed over for %d", (int)u, (int)t);
  FAKE_CHECK(t >= first && !idle_now(r, &o, t), "tier %d has nothing to do, tier %d has the pen", (int)t,
             (int)first);
  FAKE_CHECK(0 <= q->from && q->from <= kv && q->from <= q->out_from && q->out_from < q->to && q->to == v->n,
             "need: kv %d from %d out_from %d to %d n %d", (int)kv, (int)q->from, (int)q->out_from,
             (int)q->to, (int)v->n);
  FAKE_CHECK(q->from == kv || q->from == q->out_from, "feeds again more than it needs");
  const bool open = r->c.route.to == WEIR_ROUTED_OPEN && t == 0;
  int32_t out_from = larger(v->mark[t], v->committed) - 1;
  if (open && r->routed.looked == 0 && r->c.cfg->route.prompt > 0)
    out_from = larger(0, r->job.n_prompt - r->c.cfg->route.prompt);
  FAKE_CHECK(q->judge_from == larger(v->mark[t], v->committed) && q->out_from == out_from,
             "judges from %d, rows from %d; mark %d committed %d", (int)q->judge_from, (int)q->out_from,
             (int)v->mark[t], (int)v->committed);
  const bool calm = !x->preempt && !x->hit && !x->chunk && !x->move && !r->switching;
  FAKE_CHECK(!calm || q->from == kv, "tier %d: position %d is fed twice", (int)t, (int)q->from);
  FAKE_CHECK(!v->ended || open || v->mark[t] < v->n, "tier %d is asked about an ended text it has endorsed", (int)t);
}

/* The refused token, or -1. */
static int32_t refused_of(const weir_view *v, const weir_need *q, const weir_row *rows, int32_t from) {
  for (int32_t pos = from; pos < v->n; pos++)
    if (rows[pos - 1 - q->out_from].token != v->tok[pos]) return pos;
  return -1;
}

static void check_replaced(const fake_req *r, const weir_need *q, const weir_row *row, int32_t at,
                           const weir_effect *e) {
  FAKE_CHECK(e->reason == WEIR_REPLACED && e->truncate_to == at && e->append == row->token &&
                 e->endorsed_to == at + 1 && !e->wanted_up && e->why == WEIR_WHY_REPLACED &&
                 e->kept_to == at && e->entropy == row->entropy,
             "tier %d refused token %d; reason %d truncate_to %d append %d", (int)q->tier, (int)at, e->reason,
             (int)e->truncate_to, (int)e->append);
  FAKE_CHECK(at >= r->n_sent, "recalls token %d, %d are shown", (int)at, (int)r->n_sent);
}

/* What the rows say, worked out again without the policy's own steps. */
static void check_effect(const fake_req *r, const weir_cascade *before, const weir_need *q,
                         const weir_row *rows, const weir_effect *e) {
  if (e->reason == WEIR_ROUTED) return; /* fake_route_check */
  const weir_cascade_cfg *g = r->c.cfg;
  const weir_view *v = &r->v;
  const roster o = roster_of(before);
  const int32_t t = q->tier, n = v->n, seen = larger(q->judge_from, v->committed);
  const int32_t refused = refused_of(v, q, rows, seen);
  const weir_row *last = &rows[n - 1 - q->out_from];
  const bool unsure = t < g->n_tiers - 1 && (g->route.on ? r->c.route.to == WEIR_ROUTED_WANTED
                                                         : weir_gate_defers(g->gate[t], last));
  int32_t up = t + 1;
  while (up < o.top && !o.acts[up]) up++;
  FAKE_CHECK(e->endorsed_by == t, "endorsed by %d, tier %d ran", (int)e->endorsed_by, (int)t);
  FAKE_CHECK(e->kept_from == (g->keep[t] == WEIR_KEEP_ALL ? n : seen), "kept from %d", (int)e->kept_from);
  if (refused >= 0) {
    check_replaced(r, q, &rows[refused - 1 - q->out_from], refused, e);
    return;
  }
  const bool full = t < shown_by(before) && v->committed < n && n - v->mark[up] >= g->window[t];
  FAKE_CHECK(e->truncate_to == -1 && e->kept_to == n, "cuts to %d, kept to %d: nothing was refused",
             (int)e->truncate_to, (int)e->kept_to);
  FAKE_CHECK(e->entropy == last->entropy, "entropy %g of %g", (double)e->entropy, (double)last->entropy);
  if (v->ended) {
    FAKE_CHECK(e->reason == WEIR_ENDORSED && e->append == -1, "writes %d past the end", (int)e->append);
  } else if ((unsure && t < o.top && !g->route.on) || full) {
    FAKE_CHECK(e->reason == (unsure ? WEIR_DEFERRED : WEIR_WINDOW) && e->append == -1,
               "tier %d, unsure %d, window full %d; reason %d append %d", (int)t, unsure, full, e->reason,
               (int)e->append);
    FAKE_CHECK(r->c.tier == up && r->c.held == 0, "tier %d hands to %d", (int)t, (int)r->c.tier);
  } else {
    FAKE_CHECK(e->reason == WEIR_WROTE && e->append == last->token && e->endorsed_to == n + 1,
               "reason %d append %d, the row says %d", e->reason, (int)e->append, (int)last->token);
    FAKE_CHECK(t > o.low || e->why == (g->route.on && t > 0 && r->c.route.to == WEIR_ROUTED_LARGE ? WEIR_WHY_ROUTED : WEIR_WHY_EASY), "tier %d is the lowest and wrote for reason %d", (int)t,
               e->why);
  }
  FAKE_CHECK(e->wanted_up == (e->append >= 0 && unsure), "wanted_up is %d", e->wanted_up);
}

static void note_receipt(fake_req *r, const weir_effect *e) {
  const int32_t at = e->truncate_to >= 0 ? e->truncate_to : r->v.n;
  const weir_receipt before = r->receipt[at];
  weir_receipts_note(r->receipt, r->v.n, e);
  const weir_receipt *after = &r->receipt[at];
  FAKE_CHECK(isnan(before.entropy) || after->entropy == before.entropy, "the entropy of %d was overwritten",
             (int)at);
  if (e->append < 0) return;
  FAKE_CHECK(after->tier == e->endorsed_by && after->why == e->why && e->why != WEIR_WHY_NONE,
             "receipt of %d: tier %d why %d", (int)at, after->tier, after->why);
  FAKE_CHECK(r->receipt[at + 1].why == WEIR_WHY_NONE, "the next receipt is not empty");
}

/* ---- a turn ---- */

static bool kv_event(fake_req *r, int32_t tier, const fake_chaos *x) {
  weir_view *v = &r->v;
  if (fake_rnd(100) < x->preempt) { /* this tier, others perhaps */
    for (int t = 0; t < r->c.cfg->n_tiers; t++)
      if (t == tier || fake_rnd(2)) v->kv_len[t] = 0;
    fake_count.preemptions++;
    return true;
  }
  if (fake_rnd(100) < x->hit) { /* the prefix cache has all of it, or some */
    const int32_t hit = fake_rnd(2) ? v->n : (int32_t)fake_rnd((uint32_t)v->n + 1);
    if (hit > v->kv_len[tier]) {
      memcpy(r->kv_tok[tier], r->tok, sizeof(int32_t) * (size_t)hit);
      v->kv_len[tier] = hit;
      fake_count.hits++;
    }
    return true;
  }
  return false;
}

static void move_tiers(fake_req *r) {
  if (fake_rnd(2))
    r->c.hi = (int32_t)fake_rnd((uint32_t)r->c.cfg->n_tiers);
  else
    r->c.lo = (int32_t)fake_rnd((uint32_t)r->c.cfg->n_tiers);
  fake_count.moves++;
}

static void run_rows(fake_req *r, const weir_need *q, weir_row *rows) {
  const weir_cascade_cfg *g = r->c.cfg;
  for (int32_t p = q->out_from; p < q->to; p++) {
    weir_ask a = {.temperature = r->job.temperature, .top_k = r->job.top_k, .top_p = 1, .seed = r->job.seed};
    weir_cascade_ask(&r->c, &r->v, q, p, &a);
    const bool last = p == q->to - 1;
    if (!last) a.probe_q = r->logprob[p + 1];
    FAKE_CHECK(a.pos == p + 1 && a.probe == (last ? -1 : r->tok[p + 1]), "row %d asks for %d about %d",
               (int)p, (int)a.pos, (int)a.probe);
    FAKE_CHECK(last || (a.keep == g->keep[q->tier] && a.keep_a == g->keep_a[q->tier] &&
                        a.keep_b == g->keep_b[q->tier]),
               "row %d: rule %d", (int)p, a.keep);
    weir_row *o = &rows[p - q->out_from];
    fake_row(o, fake_model_of(g, q->tier), fake_context(r->kv_tok[q->tier], p + 1), &a);
    fake_count.rows++;
    if (last || a.keep == WEIR_KEEP_ALL) continue;
    fake_count.judged++;
    fake_count.kept += o->token == a.probe;
  }
}

/* Some owners tell the policy that the text has ended, others let it find out. */
static void settle(fake_req *r) {
  weir_view *v = &r->v;
  weir_effect e;
  const bool told = r->job.seed % 2 == 0, open = r->c.route.to == WEIR_ROUTED_OPEN;
  if (!told || !weir_cascade_settle(&r->c, v, &e)) return;
  FAKE_CHECK(open && v->ended && e.append < 0, "settled what was not open");
  const weir_cascade before = {.cfg = r->c.cfg, .hi = r->c.hi, .route.to = WEIR_ROUTED_OPEN};
  fake_route_check(r, &before, &(weir_need){.tier = 0}, NULL, &e);
  weir_receipts_note(r->receipt, v->n, &e);
  weir_cascade_apply(&r->c, &e, r->tok, v);
  v->ended = fake_ended(r->tok, v->n, r->job.n_prompt, r->job.n_max);
}

bool fake_turn(fake_req *r, const fake_chaos *x) {
  weir_view *v = &r->v;
  weir_need q;
  r->steps++;
  v->ended = fake_ended(r->tok, v->n, r->job.n_prompt, r->job.n_max);
  settle(r);
  v->committed = weir_cascade_commit(&r->c, v); /* tiers may have gone down since */
  check_state(r);
  show(r);
  if (!weir_cascade_need(&r->c, v, &q)) {
    FAKE_CHECK(v->ended && r->n_sent == v->n, "finished with %d of %d tokens shown", (int)r->n_sent,
               (int)v->n);
    return true;
  }
  check_need(r, &q, x);
  if (kv_event(r, q.tier, x)) return false;
  int32_t *kv = &v->kv_len[q.tier];
  if (q.out_from > q.from && fake_rnd(100) < x->chunk) { /* a part of the feed, without rows */
    const int32_t some = 1 + (int32_t)fake_rnd((uint32_t)(q.out_from - q.from));
    memcpy(r->kv_tok[q.tier] + q.from, r->tok + q.from, sizeof(int32_t) * (size_t)some);
    *kv = q.from + some;
    fake_count.chunks++;
    return false;
  }
  weir_row rows[FAKE_LONG];
  weir_effect e;
  memcpy(r->kv_tok[q.tier] + q.from, r->tok + q.from, sizeof(int32_t) * (size_t)(q.to - q.from));
  run_rows(r, &q, rows);
  if (fake_rnd(100) < x->move) { /* while the step is under way */
    move_tiers(r);
    v->committed = weir_cascade_commit(&r->c, v);
    show(r);
  }
  *kv = q.to;
  r->calls[q.tier]++;
  const weir_cascade before = r->c;
  weir_cascade_observe(&r->c, v, &q, rows, &e);
  fake_route_check(r, &before, &q, rows, &e);
  check_effect(r, &before, &q, rows, &e);
  note_receipt(r, &e);
  if (e.append >= 0) {
    const int32_t at = e.truncate_to >= 0 ? e.truncate_to : v->n;
    r->logprob[at] = rows[at - 1 - q.out_from].logprob;
  }
  weir_cascade_apply(&r->c, &e, r->tok, v);
  check_state(r);
  show(r);
  return false;
}

int32_t fake_turn_bound(const fake_job *j) {
  /* Each step of the top tier settles a token for good; at most a window of drafts per tier is lost for it,
   * and each draft and each deferral is a step. Without a higher tier nothing is ever lost. */
  const int32_t text = j->n_max - j->n_prompt + 1;
  int32_t lost = 2;
  for (int t = 0; t < j->cfg->n_tiers - 1; t++)
    lost += 1 + (j->cfg->window[t] < text ? j->cfg->window[t] : text);
  return text * lost * (j->cfg->n_tiers - 1 > 1 ? 2 : 1) + 2;
}

void fake_finish(fake_req *r, const fake_chaos *x) {
  const bool calm = !x->preempt && !x->hit && !x->chunk && !x->move && !r->switching;
  const int32_t bound = calm ? fake_turn_bound(&r->job) : 9000;
  while (!fake_turn(r, x))
    FAKE_CHECK(r->steps <= bound, "still going after %d turns (n %d)", (int)r->steps, (int)r->v.n);
}

/* ---- comparing ---- */

void fake_same_text(const fake_req *r, const fake_text *x, const char *what) {
  for (int32_t i = 0; i < r->v.n && i < x->n; i++)
    FAKE_CHECK(r->tok[i] == x->tok[i], "%s: token %d is %d, want %d", what, (int)i, (int)r->tok[i],
               (int)x->tok[i]);
  FAKE_CHECK(r->v.n == x->n, "%s: %d tokens, want %d", what, (int)r->v.n, (int)x->n);
}

void fake_same_receipts(const fake_req *r, const fake_text *x) {
  for (int32_t i = r->job.n_prompt; i < x->n; i++) {
    const weir_receipt *a = &r->receipt[i], *b = &x->receipt[i];
    FAKE_CHECK(a->tier == b->tier && a->why == b->why && a->wanted_up == b->wanted_up,
               "receipt %d: tier %d %s%s, want tier %d %s", (int)i, a->tier, weir_why_name((weir_why)a->why),
               a->wanted_up ? " wanted up" : "", b->tier, weir_why_name((weir_why)b->why));
    FAKE_CHECK(isnan(a->entropy) ? isnan(b->entropy) : a->entropy == b->entropy,
               "receipt %d (%s): entropy %g, want %g", (int)i, weir_why_name((weir_why)a->why),
               (double)a->entropy, (double)b->entropy);
  }
}
