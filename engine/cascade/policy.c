/* SPDX-License-Identifier: Apache-2.0 */
/* The cascade policy: whose turn it is and what its rows mean. Owns nothing but the few integers of a
 * weir_cascade, calls nothing, runs on whichever thread owns the request. Accept rules live in the sample op:
 * a judged row's token is the verdict, so that "does the token stand" is the same comparison for every rule.
 */
#include "cascade/policy.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t max32(int32_t a, int32_t b) { return a > b ? a : b; }

/* ---- the gate ---- */

/* Uniform in [0, 1): FNV-1a over the bits of the row's statistics, mixed (splitmix64's finaliser) so that
 * near rows are far apart. The drawn token and its log-probability stay out: whoever decides on a draw
 * whether to defer changes the law of what is emitted, since the higher tier draws with the same noise. */
static double coin(const weir_row *r) {
  const float stat[3] = {r->entropy, r->p_max, r->margin};
  unsigned char byte[sizeof stat];
  memcpy(byte, stat, sizeof stat);
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < sizeof byte; i++) h = (h ^ byte[i]) * 0x100000001b3u;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return (double)((h ^ (h >> 31)) >> 11) * 0x1p-53;
}

float weir_gate_score(weir_gate g, const weir_row *r) {
  switch (g.kind) {
    case WEIR_GATE_ENTROPY: return r->entropy;
    case WEIR_GATE_TOP_PROB: return r->p_max;
    case WEIR_GATE_MARGIN: return r->margin;
    case WEIR_GATE_CHANCE: return (float)coin(r);
    case WEIR_GATE_ISOTONIC: return weir_gate_map_at(g.map, weir_gate_stat_of(g.map->stat, r));
    case WEIR_GATE_HEAD: return isnan(r->gate) ? 1 : r->gate;
  }
  return 0;
}

bool weir_gate_is_fitted(weir_gate_kind k) { return k == WEIR_GATE_ISOTONIC || k == WEIR_GATE_HEAD; }
bool weir_gate_is_low(weir_gate_kind k) { return k != WEIR_GATE_ENTROPY && !weir_gate_is_fitted(k); }

bool weir_gate_defers(weir_gate g, const weir_row *r) {
  if (g.kind == WEIR_GATE_CHANCE) return coin(r) < (double)g.threshold;
  const float score = weir_gate_score(g, r);
  return weir_gate_is_low(g.kind) ? score < g.threshold : score > g.threshold;
}

bool weir_gate_never_passes(weir_gate g) {
  if (g.kind == WEIR_GATE_CHANCE) return g.threshold >= 1;
  return weir_gate_is_low(g.kind) ? g.threshold > 1 : g.threshold < 0;
}

/* ---- which tiers may act ---- */

static int32_t top_of(const weir_cascade *c) { return c->pinned ? 0 : min32(c->hi, c->cfg->n_tiers - 1); }

bool weir_cascade_skips(const weir_cascade_cfg *g, int32_t t) {
  if (g->route.on && !(g->route.share < 1)) return false;
  const bool moves = t == 0 && (g->gate_moves || weir_budget_moves(&g->budget)); /* the next row may find another threshold */
  return !moves && weir_gate_never_passes(g->gate[t]);
}

/* The lowest tier >= t that may act, never above the top. A tier that no token can pass is not run at all. */
static int32_t usable(const weir_cascade *c, int32_t t) {
  const int32_t top = top_of(c);
  if (c->cfg->route.on) return min32(max32(max32(t, c->lo), c->route.to == WEIR_ROUTED_LARGE), top);
  for (t = max32(t, c->lo); t < top && weir_cascade_skips(c->cfg, t); t++) {
  }
  return min32(t, top);
}

/* With the large tier down, the best that is left endorses: what was pending is shown as it is. */
static int32_t commit_tier(const weir_cascade *c) { return min32(c->cfg->commit_tier, top_of(c)); }

static void hand_to(weir_cascade *c, int32_t t, weir_why why) {
  c->tier = t;
  c->held = 0;
  c->why = why;
}

/* Tier t has written a token, a replacement included; after `hold` of them the pen goes back down. */
static void wrote(weir_cascade *c, int32_t t) {
  c->alone = false;
  const int32_t start = usable(c, 0);
  if (t > start && c->held + 1 < c->cfg->hold[t]) {
    c->tier = t;
    c->held++;
    c->why = WEIR_WHY_HOLD;
  } else {
    hand_to(c, start, WEIR_WHY_EASY);
  }
}

void weir_cascade_init(weir_cascade *c, const weir_cascade_cfg *g, bool pinned) {
  *c = (weir_cascade){.cfg = g, .hi = g->n_tiers - 1, .pinned = pinned};
  c->route = weir_route_begin(g, pinned);
  hand_to(c, usable(c, 0), WEIR_WHY_EASY);
}

int32_t weir_cascade_commit(const weir_cascade *c, const weir_view *v) {
  if (c->route.to == WEIR_ROUTED_OPEN) return v->committed; /* it may be another tier's text yet */
  return max32(v->committed, max32(v->mark[commit_tier(c)], v->n - c->cfg->horizon));
}

/* Something waits for the endorsement of a tier above t. */
static bool waits_above(const weir_cascade *c, const weir_view *v, int32_t t) {
  return t < commit_tier(c) && weir_cascade_commit(c, v) < v->n;
}

static bool window_full(const weir_cascade *c, const weir_view *v, int32_t t) {
  return waits_above(c, v, t) && v->n - v->mark[usable(c, t + 1)] >= c->cfg->window[t];
}

/* ---- the one rule ---- */

bool weir_cascade_need(const weir_cascade *c, const weir_view *v, weir_need *o) {
  if (v->ended && weir_cascade_commit(c, v) >= v->n) return false;
  int32_t t = usable(c, c->tier);
  /* A tier that may write nothing and has nothing to judge is passed over: asking it would cost a step. */
  while (v->mark[t] >= v->n && (v->ended ? waits_above(c, v, t) : window_full(c, v, t))) t = usable(c, t + 1);
  o->tier = t;
  o->to = v->n;
  o->judge_from = max32(v->mark[t], v->committed); /* what the client has seen is never judged */
  o->out_from = o->judge_from - 1;                 /* row p decides token p+1 */
  if (t == 0) o->out_from = weir_route_first_row(c, v, o->out_from);
  o->from = min32(v->kv_len[t], o->out_from); /* catch-up is a longer feed; a full prefix hit feeds one */
  return true;
}

void weir_cascade_ask(const weir_cascade *c, const weir_view *v, const weir_need *q, int32_t p, weir_ask *a) {
  const int32_t pos = p + 1;
  const bool last = pos == q->to;
  a->pos = pos;
  a->probe = last ? -1 : v->tok[pos];
  a->keep = last || pos < q->judge_from ? WEIR_KEEP_ALL : c->cfg->keep[q->tier];
  a->keep_a = c->cfg->keep_a[q->tier];
  a->keep_b = c->cfg->keep_b[q->tier];
}

void weir_cascade_observe(weir_cascade *c, const weir_view *v, const weir_need *q, const weir_row *rows,
                          weir_effect *e) {
  const weir_cascade_cfg *g = c->cfg;
  const int32_t t = q->tier, n = v->n, top = top_of(c);
  const weir_row *last = &rows[n - 1 - q->out_from];
  const int32_t judge_from = max32(q->judge_from, v->committed);
  *e = (weir_effect){.truncate_to = -1,
                     .append = -1,
                     .endorsed_by = t,
                     .endorsed_to = n,
                     .reason = WEIR_ENDORSED,
                     .kept_from = g->keep[t] == WEIR_KEEP_ALL ? n : judge_from,
                     .kept_to = n,
                     .entropy = last->entropy,
                     .tau = NAN};

  /* 1. judge the tail */
  for (int32_t pos = judge_from; pos < n; pos++) {
    const weir_row *r = &rows[pos - 1 - q->out_from];
    if (r->token == v->tok[pos]) continue;
    e->truncate_to = e->kept_to = pos;
    e->append = r->token;
    e->endorsed_to = pos + 1;
    e->reason = WEIR_REPLACED;
    e->why = WEIR_WHY_REPLACED;
    e->entropy = r->entropy;
    wrote(c, t);
    return;
  }
  if (v->ended) { /* nothing is written after the end; need() takes what still waits further up */
    weir_cascade_settle(c, v, e);
    e->entropy = last->entropy;
    if (e->reason == WEIR_ENDORSED) e->endorsed_by = t;
    return;
  }
  if (weir_route_observe(c, v, q, rows, e)) return;

  /* 2. is the next token for a higher tier? */
  const bool gated = t < g->n_tiers - 1 && !g->route.on, unsure = gated && weir_gate_defers(g->gate[t], last);
  if (gated) e->tau = g->gate[t].threshold;
  const bool alone = c->alone && t <= usable(c, 0);
  if (unsure && t < top && !alone) {
    e->reason = WEIR_DEFERRED;
    hand_to(c, usable(c, t + 1), WEIR_WHY_DEFERRED);
    return;
  }
  if (window_full(c, v, t)) {
    e->reason = WEIR_WINDOW;
    hand_to(c, usable(c, t + 1), WEIR_WHY_WINDOW);
    return;
  }

  /* 3. take this tier's token */
  const bool unjudged = g->defer_wait_ns > 0 && g->commit_tier > top && !c->pinned; /* its judge is down */
  e->append = last->token;
  e->endorsed_to = n + 1;
  e->reason = WEIR_WROTE;
  e->why = t <= usable(c, 0) ? WEIR_WHY_EASY : c->tier < t ? WEIR_WHY_WINDOW : c->why;
  if (t > 0 && c->route.to == WEIR_ROUTED_LARGE) e->why = WEIR_WHY_ROUTED;
  e->wanted_up = unsure || (t == 0 && c->route.to == WEIR_ROUTED_WANTED) || (alone && t < top) || unjudged;
  wrote(c, t);
}

void weir_cascade_apply(const weir_cascade *c, const weir_effect *e, int32_t *tok, weir_view *v) {
  if (e->truncate_to >=
      0) { /* no mark lies beyond: marks fall from tier to tier, and none judges below its own */
    v->n = e->truncate_to;
    for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) v->kv_len[t] = min32(v->kv_len[t], v->n);
  }
  if (e->append >= 0) tok[v->n++] = e->append;
  for (int32_t t = 0; t <= e->endorsed_by; t++) v->mark[t] = e->endorsed_to;
  v->committed = weir_cascade_commit(c, v);
}

int32_t weir_cascade_force(const weir_cascade *c, int32_t id, int32_t *tok, weir_view *v) {
  const int32_t n = v->n;
  tok[v->n++] = id;
  for (int32_t t = 0; t < c->cfg->n_tiers; t++) v->mark[t] += v->mark[t] == n;
  v->committed = weir_cascade_commit(c, v);
  return usable(c, c->tier);
}

bool weir_cascade_give_up(weir_cascade *c, const weir_view *v, weir_effect *e) {
  const int32_t start = usable(c, 0), judge = commit_tier(c);
  *e = (weir_effect){.truncate_to = -1,
                     .append = -1,
                     .endorsed_by = judge,
                     .endorsed_to = v->n,
                     .reason = WEIR_GAVE_UP,
                     .kept_from = v->n,
                     .kept_to = v->n,
                     .entropy = NAN,
                     .tau = NAN,
                     .wanted_from = max32(v->mark[judge], v->committed),
                     .wanted_to = v->n};
  if (top_of(c) <= start) return false;
  if (v->ended || usable(c, c->tier) <= start) return true; /* it was a judge that was waited for */
  hand_to(c, start, WEIR_WHY_EASY);
  c->alone = true;
  return true;
}

int32_t weir_cascade_switch(weir_cascade *c, weir_view *v, const weir_cascade_cfg *g) {
  c->cfg = g;
  c->alone = false;
  hand_to(c, usable(c, 0), WEIR_WHY_EASY);
  /* Shown without having been judged is as good as endorsed, else a window that reaches back to the last
   * endorsement would be full at once. */
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) v->mark[t] = max32(v->mark[t], v->committed);
  if (weir_cascade_commit(c, v) > v->committed) {
    v->n = v->committed;
    v->ended = false;
    for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) {
      v->mark[t] = min32(v->mark[t], v->n);
      v->kv_len[t] = min32(v->kv_len[t], v->n);
    }
  }
  return v->n;
}

/* ---- soundness of a configuration ---- */

static const char *gate_error(weir_gate g) {
  if (g.kind != WEIR_GATE_ENTROPY && g.kind != WEIR_GATE_TOP_PROB && g.kind != WEIR_GATE_MARGIN &&
      g.kind != WEIR_GATE_CHANCE && !weir_gate_is_fitted(g.kind))
    return "a gate's kind is none of entropy, top probability, margin, chance, isotonic, head";
  if (isnan(g.threshold)) return "a gate's threshold is not a number";
  if (g.kind != WEIR_GATE_ISOTONIC) return NULL;
  return g.map ? weir_gate_map_error(g.map) : "the isotonic gate has no map: it comes from a gate file";
}

static const char *keep_error(const weir_cascade_cfg *g, int32_t t) {
  switch (g->keep[t]) {
    case WEIR_KEEP_ALL:
    case WEIR_KEEP_OWN:
    case WEIR_KEEP_RATIO: break;
    case WEIR_KEEP_NLL:
      if (!(g->keep_a[t] >= 0)) return "a tier keeps tokens by -log p, and its limit is not a number >= 0";
      break;
    case WEIR_KEEP_V1:
    case WEIR_KEEP_V2:
    case WEIR_KEEP_V3:
      if (!(g->keep_a[t] >= 0 && g->keep_a[t] <= 1)) return "a tier's alpha is not in 0 .. 1";
      break;
    case WEIR_KEEP_TYPICAL:
      if (!(g->keep_a[t] >= 0 && g->keep_a[t] <= 1)) return "a tier's epsilon is not in 0 .. 1";
      if (!(g->keep_b[t] >= 0)) return "a tier's delta is not a number >= 0";
      break;
    default: return "a tier's keep rule is none of all, own, nll, v1, v2, v3, typical, ratio";
  }
  if (g->defer_wait_ns > 0 && (g->keep[t] == WEIR_KEEP_OWN || g->keep[t] == WEIR_KEEP_RATIO))
    return "a tier's own word is promised, and whoever gives up waiting for it breaks that";
  if (g->keep[t] != WEIR_KEEP_ALL && t > g->commit_tier)
    return "a tier above the commit tier judges tokens: they have been shown by then and cannot be recalled";
  return NULL;
}

const char *weir_cascade_cfg_error(const weir_cascade_cfg *g) {
  if (g->n_tiers < 1 || g->n_tiers > WEIR_MAX_TIERS) return "the number of tiers is not in 1 .. 4";
  if (g->commit_tier < 0 || g->commit_tier >= g->n_tiers) return "the commit tier is none of the tiers";
  const char *wrong = weir_budget_error(&g->budget);
  if (wrong) return wrong;
  if (weir_budget_moves(&g->budget) && (g->n_tiers < 2 || g->gate[0].kind == WEIR_GATE_CHANCE))
    return "a budget of deferrals needs a gate that looks at rows";
  if (!(fabsf(g->fusion) <= WEIR_FUSION_MAX)) return "the fusion weight is not in -4 .. 4";
  if (g->defer_wait_ns < 0) return "the wait for a higher tier is less than none";
  if ((wrong = weir_route_error(g))) return wrong;
  if (g->horizon < 0 || g->horizon > WEIR_FAR) return "the horizon is not in 0 .. 2^29 tokens";
  for (int32_t t = 0; t < g->n_tiers; t++) {
    if (g->hold[t] < 0 || g->hold[t] > WEIR_FAR) return "a tier's hold is not in 0 .. 2^29 tokens";
    if (t < g->n_tiers - 1) {
      if (g->window[t] < 1 || g->window[t] > WEIR_FAR) return "a tier's window is not in 1 .. 2^29 tokens";
      const char *why = gate_error(g->gate[t]);
      if (why) return why;
    }
    const char *why = t > 0 ? keep_error(g, t) : NULL;
    if (why) return why;
  }
  return NULL;
}
