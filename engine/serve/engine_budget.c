/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets of deferrals in the engine: one tracker a tenant, one bucket a request, one price for all. Sets the
 * threshold of a request's gate before its rows are looked at and notes what came of it; the arithmetic is
 * cascade/budget.h's. Loop thread. */
#include <math.h>

#include "serve/engine_in.h"

/* How fast tau moves. Small steps widen the bound, (bound + step) / (step T); large ones make tau hunt. At
 * 0.05 nats and a rate of 0.1 a deferral makes the next one dearer by 0.045 nats, which nine easy tokens take
 * back. */
#define STEP_NATS 0.05
#define STEP_PROB 0.02

static bool is_low(const weir_request *r) { return weir_gate_is_low(r->cfg.gate[0].kind); }

static weir_rate_law law_of(const weir_engine *g, const weir_request *r) {
  const weir_budget *b = &r->cfg.budget;
  const bool nats = r->cfg.gate[0].kind == WEIR_GATE_ENTROPY; /* all other scores are in 0 .. 1 */
  return (weir_rate_law){.rate = (double)b->rate,
                         .step = nats ? STEP_NATS : STEP_PROB,
                         .bound = nats ? log(g->tier[0].exec->info.n_vocab) : 1,
                         .price = (double)b->load_price,
                         .hold = r->cfg.hold[1] > 1 ? r->cfg.hold[1] : 1};
}

/* tau where nothing moves it: the threshold the request came with. */
static double own_tau(const weir_engine_job *j) {
  return is_low(j->req) ? 1 - (double)j->budget.threshold : (double)j->budget.threshold;
}

static weir_rate_tracker *tracker_of(weir_engine *g, weir_engine_job *j) {
  const weir_request *r = j->req;
  const weir_rate_law law = law_of(g, r);
  const weir_rate_key key = {r->salt, (int32_t)r->cfg.gate[0].kind, r->cfg.budget.rate};
  return weir_rate_find(&g->rates, &key, &law, own_tau(j), &j->budget.at);
}

void weir_engine_budget_begin(weir_engine_job *j) {
  j->budget.threshold = j->req->cfg.gate[0].threshold;
  j->budget.at = -1;
  j->req->counts.tau = NAN;
  weir_bucket_start(&j->budget.bucket, &j->req->cfg.budget);
}

void weir_engine_budget_load(weir_engine *g) {
  g->large_waiting = 0;
  for (int32_t i = 0; i < g->n_active; i++)
    g->large_waiting += g->active[i]->waiting && g->active[i]->need.tier == 1;
}

void weir_engine_budget_step(weir_engine *g, int64_t device_ns) {
  const double ns = (double)device_ns;
  g->large_step_ns = g->large_step_ns > 0 ? 0.8 * g->large_step_ns + 0.2 * ns : ns;
}

void weir_engine_budget_set(weir_engine *g, weir_engine_job *j) {
  weir_request *r = j->req;
  const weir_budget *b = &r->cfg.budget;
  if (!weir_budget_moves(b) || r->cfg.route.on || r->need.tier != 0) return;
  const double price = weir_load_price((double)b->load_price, g->large_waiting, g->large_step_ns);
  const double tau = b->rated ? tracker_of(g, j)->tau : own_tau(j);
  j->budget.open =
      !b->rated && price == 0 ? j->budget.threshold : weir_budget_threshold(is_low(r), tau + price);
  const bool shut = !weir_bucket_allows(&j->budget.bucket, b);
  r->cfg.gate[0].threshold = shut ? weir_budget_shut(is_low(r)) : j->budget.open;
  g->load_price = price;
}

void weir_engine_budget_note(weir_engine *g, weir_engine_job *j) {
  weir_request *r = j->req;
  const weir_budget *b = &r->cfg.budget;
  const weir_effect *fx = &r->effect;
  if (!weir_budget_moves(b) || r->cfg.route.on) return;
  const bool decided = r->need.tier == 0 && fx->reason != WEIR_ENDORSED;
  const bool deferred = decided && fx->reason == WEIR_DEFERRED;
  const bool held = fx->append >= 0 && fx->why == WEIR_WHY_HOLD; /* came with a deferral, unasked */
  /* With the large tier down nobody is deferred: that is not thrift, and earns no deferrals for later. */
  if ((decided && r->cascade.hi > 0) || held) {
    const bool up = deferred || held;
    weir_gate open = r->cfg.gate[0];
    open.threshold = j->budget.open;
    const bool asked = up || weir_gate_defers(open, &r->row[r->need.to - 1 - r->need.out_from]);
    if (b->rated) { /* follows what the gate asks for: it picks the hardest tokens, whatever the bucket
                       refuses */
      const weir_rate_law law = law_of(g, r);
      weir_rate_note(tracker_of(g, j), &law, asked);
    }
    if (up) weir_bucket_take(&j->budget.bucket);
    r->counts.budgeted++;
    r->counts.deferred += up;
    g->budget.counts++;
    g->budget.deferred += up;
    g->budget.blocked += asked && !up;
  }
  if (decided) {
    r->counts.tau = r->cfg.gate[0].threshold;
    g->budget.tau = j->budget.open;
  }
  if (fx->append >= 0) weir_bucket_refill(&j->budget.bucket, b, weir_request_n_new(r));
}

weir_budget_stats weir_engine_budget_stats(const weir_engine *g) {
  weir_budget_stats s = g->budget;
  s.tenants = g->rates.n_used;
  s.forgotten = g->rates.forgotten;
  s.price = g->load_price;
  return s;
}
