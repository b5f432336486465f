/* SPDX-License-Identifier: Apache-2.0 */
/* Routing of whole requests in the engine: sets the share by which an open decision is made, and notes what
 * came of it. A rate of requests moves the share, one tracker a tenant, gate and rows looked at; the
 * arithmetic is cascade/budget.h's with scores in [0, 1], and its law holds over requests. Loop thread. */
#include <math.h>

#include "serve/engine_in.h"

/* At a rate of 0.3 a request that goes up makes it harder for the next by 0.035, which three that stay take
 * back. The law allows |realised - asked| <= (1 + step) / (step T): 0.21 after 100 requests, in practice far
 * less. */
#define STEP_SHARE 0.05

static weir_rate_law law_of(const weir_request *r) {
  const weir_budget *b = &r->cfg.budget;
  return (weir_rate_law){
      .rate = (double)b->rate, .step = STEP_SHARE, .bound = 1, .price = (double)b->load_price, .hold = 1};
}

/* Apart from those of tokens, which have no such gate. */
static int32_t key_of(const weir_cascade_cfg *c) {
  const int32_t after = c->route.after > WEIR_ROUTE_AFTER_MAX ? WEIR_ROUTE_AFTER_MAX + 1 : c->route.after;
  return (1 << 30) | after << 17 | c->route.prompt << 4 | (int32_t)c->gate[0].kind;
}

static weir_rate_tracker *tracker_of(weir_engine *g, weir_engine_job *j) {
  const weir_request *r = j->req;
  const weir_rate_law law = law_of(r);
  const weir_rate_key key = {r->salt, key_of(&r->cfg), r->cfg.budget.rate};
  return weir_rate_find(&g->rates, &key, &law, (double)j->route.share, &j->route.at);
}

void weir_engine_route_begin(weir_engine *g, weir_engine_job *j) {
  const weir_request *r = j->req;
  j->route.share = r->cfg.route.share;
  j->route.at = -1;
  j->route.open = r->cascade.route.to == WEIR_ROUTED_OPEN;
  if (!j->route.open) g->routed.by[r->cascade.route.to]++;
}

void weir_engine_route_set(weir_engine *g, weir_engine_job *j) {
  weir_request *r = j->req;
  const weir_budget *b = &r->cfg.budget;
  if (!j->route.open || !weir_budget_moves(b)) return;
  const double share = b->rated ? tracker_of(g, j)->tau : (double)j->route.share;
  r->cfg.route.share =
      (float)(share + weir_load_price((double)b->load_price, g->large_waiting, g->large_step_ns));
}

void weir_engine_route_note(weir_engine *g, weir_engine_job *j) {
  const weir_request *r = j->req;
  const weir_route_state *s = &r->cascade.route;
  if (!j->route.open || s->to == WEIR_ROUTED_OPEN) return;
  j->route.open = false;
  g->routed.by[s->to]++;
  g->routed.looked += s->looked;
  g->routed.unsure += s->unsure;
  g->routed.share = s->share;
  /* With the large tier down nobody goes up: that is not thrift, and earns nothing for later. */
  if (!r->cfg.budget.rated || r->cascade.hi < 1) return;
  const weir_rate_law law = law_of(r);
  weir_rate_note(tracker_of(g, j), &law, s->to == WEIR_ROUTED_LARGE);
}
