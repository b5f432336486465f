/* SPDX-License-Identifier: Apache-2.0 */
/* The part of the policy that decides about whole requests: what is looked at, when, and what follows. Pure,
 * like all of it; called by policy.c and by whoever owns the request. */
#include "cascade/route.h"

#include <string.h>

#include "cascade/policy.h"

static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }

weir_route_state weir_route_begin(const weir_cascade_cfg *g, bool pinned) {
  weir_route_state s = {.to = WEIR_ROUTED_NOT, .share = NAN};
  if (!g->route.on || pinned) return s;
  s.to = WEIR_ROUTED_OPEN;
  if (weir_cascade_skips(g, 0))
    s.to = WEIR_ROUTED_LARGE; /* every row would be unsure */
  else if (g->route.share >= 1 && !weir_budget_moves(&g->budget))
    s.to = WEIR_ROUTED_SMALL;
  return s;
}

/* While it is open nothing behind the prompt is committed. */
static int32_t prompt_len(const weir_view *v) { return v->committed; }

int32_t weir_route_first_row(const weir_cascade *c, const weir_view *v, int32_t own) {
  const int32_t n = c->cfg->route.prompt;
  if (c->route.to != WEIR_ROUTED_OPEN || c->route.looked > 0 || n == 0) return own;
  return min32(own, n < prompt_len(v) ? prompt_len(v) - n : 0);
}

/* The control knows one coin a request, that of the first row; what it costs is the same. */
static void count(weir_cascade *c, const weir_view *v, const weir_need *q, const weir_row *rows) {
  const weir_gate gate = c->cfg->gate[0];
  weir_route_state *s = &c->route;
  const bool coin = gate.kind == WEIR_GATE_CHANCE;
  if (coin && s->looked > 0) return;
  for (int32_t p = coin ? v->n - 1 : q->out_from; p < v->n; p++) {
    if (p >= prompt_len(v) && p < v->n - 1) continue; /* it was forced: nobody was unsure about it */
    s->looked++;
    s->unsure += weir_gate_defers(gate, &rows[p - q->out_from]);
  }
}

static void go_up(weir_cascade *c, const weir_view *v, weir_effect *e) {
  e->truncate_to = v->n > prompt_len(v) ? prompt_len(v) : -1;
  e->append = -1;
  e->endorsed_by = 0;
  e->endorsed_to = prompt_len(v);
  e->kept_from = e->kept_to = prompt_len(v);
  e->reason = WEIR_ROUTED;
  c->tier = 1;
  c->held = 0;
  c->why = WEIR_WHY_ROUTED;
}

/* True: the request goes up. */
static bool decide(weir_cascade *c, const weir_view *v, weir_effect *e) {
  weir_route_state *s = &c->route;
  s->share = c->cfg->route.share;
  if (!(s->looked > 0 && weir_route_score(s) > (double)s->share)) {
    s->to = WEIR_ROUTED_SMALL;
    return false;
  }
  if (c->hi < 1) {
    s->to = WEIR_ROUTED_WANTED;
    e->wanted_from = prompt_len(v);
    e->wanted_to = v->n;
    return false;
  }
  s->to = WEIR_ROUTED_LARGE;
  go_up(c, v, e);
  return true;
}

bool weir_route_observe(weir_cascade *c, const weir_view *v, const weir_need *q, const weir_row *rows,
                        weir_effect *e) {
  weir_route_state *s = &c->route;
  if (q->tier > 0 && s->to == WEIR_ROUTED_OPEN) { /* the small tier has gone: there will be no more rows */
    s->to = WEIR_ROUTED_LARGE;
    c->why = WEIR_WHY_ROUTED;
    if (v->n > prompt_len(v)) go_up(c, v, e);
    return e->reason == WEIR_ROUTED;
  }
  if (q->tier == 0 && s->to == WEIR_ROUTED_LARGE) s->to = WEIR_ROUTED_WANTED;
  if (s->to != WEIR_ROUTED_OPEN) return false;
  count(c, v, q, rows);
  e->tau = c->cfg->gate[0].threshold;
  if (v->n + 1 - prompt_len(v) < c->cfg->route.after) return false;
  return decide(c, v, e);
}

bool weir_cascade_settle(weir_cascade *c, const weir_view *v, weir_effect *e) {
  if (c->route.to != WEIR_ROUTED_OPEN || !v->ended) return false;
  *e = (weir_effect){.truncate_to = -1,
                     .append = -1,
                     .endorsed_to = v->n,
                     .kept_from = v->n,
                     .kept_to = v->n,
                     .reason = WEIR_ENDORSED,
                     .entropy = NAN,
                     .tau = NAN};
  decide(c, v, e);
  return true;
}

bool weir_route_after_parse(const char *text, int32_t *out) {
  int32_t n = 0, digits = 0;
  if (!strcmp(text, "end")) {
    *out = WEIR_FAR;
    return true;
  }
  for (; text[digits] >= '0' && text[digits] <= '9' && n <= WEIR_ROUTE_AFTER_MAX; digits++)
    n = n * 10 + (text[digits] - '0');
  if (digits == 0 || text[digits] != '\0' || n > WEIR_ROUTE_AFTER_MAX) return false;
  *out = n;
  return true;
}

const char *weir_route_error(const weir_cascade_cfg *g) {
  const weir_route *r = &g->route;
  if (!r->on) return NULL;
  if (g->n_tiers != 2) return "routing of requests is between two tiers";
  if (g->commit_tier != 0 || g->horizon != WEIR_FAR || g->keep[1] != WEIR_KEEP_ALL || g->hold[1] > 1)
    return "a request that is routed has one author: no judge, no horizon, no hold";
  if (r->prompt < 0 || r->prompt > WEIR_ROUTE_PROMPT_MAX)
    return "the rows of the prompt are not in 0 .. 4096";
  if (r->after < 0 || (r->after > WEIR_ROUTE_AFTER_MAX && r->after != WEIR_FAR))
    return "the first tokens are not in 0 .. 4096, and not all";
  if (r->prompt == 0 && r->after == 0) return "routing looks at no row";
  if (isnan(r->share)) return "the share of unsure rows is not a number";
  if (g->fusion != 0 || g->defer_wait_ns != 0 || g->gate_moves)
    return "a request that is routed defers no single token";
  if (g->budget.burst != 0) return "a request that is routed has no burst";
  return NULL;
}
