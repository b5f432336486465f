/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds the cost meter (sched/cost.h) from the engine's steps, and sums it over requests. A request's cost is
 * its own count; the engine's is of those that have ended. Loop thread only. */
#include "serve/engine_in.h"

void weir_engine_cost_step(weir_engine *g, int32_t t) {
  const weir_engine_tier *y = &g->tier[t];
  for (int32_t i = 0; i < y->plan.n_items; i++) {
    const weir_plan_item *it = &y->plan.item[i];
    if (!it->req) continue;
    weir_cost_feed f = {
        .from = it->from, .answers = it->answers, .n_seqs = y->n_seqs, .pages = it->req->seq[t].n_pages};
    for (int u = 0; u < WEIR_N_ROW_USES; u++) f.rows[u] = it->use[u];
    weir_cost_step(&it->req->counts.cost, t, &y->exec->info, &f);
  }
}

void weir_engine_cost_taken_back(weir_engine *g, weir_request *r, const int32_t *kv_before) {
  for (int32_t t = 0; t < g->cfg.n_tiers; t++)
    weir_cost_take_back(&r->counts.cost, t, &g->tier[t].exec->info, kv_before[t], r->view.kv_len[t]);
}

void weir_engine_cost_end(weir_engine *g, weir_request *r) {
  weir_cost *c = &r->counts.cost;
  if (g->cfg.n_tiers > 1) {
    const int32_t met = r->met[1] ? 1 : 0;
    weir_cost_large_only(c, &g->tier[1].exec->info, r->n_prompt, (int32_t)r->counts.prefix_hit[met],
                         r->counts.new_tokens);
  }
  weir_cost_add(&g->cost, c);
}
