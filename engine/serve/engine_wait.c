/* SPDX-License-Identifier: Apache-2.0 */
/* The deadline of a deferral: a request that has waited for the large tier for as long as it wants to
 * (weir_cascade_cfg.defer_wait_ns) goes on with the small one. A step of the large tier that has begun with
 * it by then is waited for, up to as long again from its start: its rows are nearly there, and one that hangs
 * holds nobody. What an abandoned step leaves in KV counts, so that the next deferral catches up from there.
 * Loop thread only. */
#include "serve/engine_in.h"

static bool is_in_step(const weir_engine_tier *y, const weir_request *r, int32_t t) {
  return y->in_flight && !y->hung && r->place[t] >= 0 && !y->plan.item[r->place[t]].ahead;
}

/* When the request gives up; INT64_MAX: never. */
static int64_t due_ns(const weir_engine *g, const weir_request *r) {
  const int64_t wait = r->cfg.defer_wait_ns;
  if (wait <= 0 || !r->waiting || r->need.tier != 1) return INT64_MAX;
  if (r->cascade.lo > 0 || weir_cascade_skips(&r->cfg, 0)) return INT64_MAX; /* no small tier to go on with */
  const weir_engine_tier *y = &g->tier[1];
  const int64_t from = is_in_step(y, r, 1) ? y->launched_ns : r->since_ns;
  return from < INT64_MAX - wait ? from + wait : INT64_MAX;
}

int64_t weir_engine_give_up_at(const weir_engine *g) {
  int64_t at = INT64_MAX;
  for (int32_t i = 0; i < g->n_active; i++) {
    const int64_t due = due_ns(g, g->active[i]);
    if (due < at) at = due;
  }
  return at;
}

bool weir_engine_give_up(weir_engine *g) {
  const int64_t now = weir_engine_now(g);
  bool any = false;
  for (int32_t i = 0; i < g->n_active;) {
    weir_request *r = g->active[i];
    i++;
    if (due_ns(g, r) > now) continue;
    weir_plan_give_up(&g->tier[1].plan, 1, r);
    if (!weir_request_give_up(r)) continue;
    weir_engine_log(g, weir_engine_job_of(r), WEIR_DID_GIVE_UP);
    g->given_up++;
    r->counts.given_up++;
    any = true;
    weir_err e;
    weir_engine_job *j = weir_engine_job_of(r);
    if (weir_engine_show(g, j, false, &e) != WEIR_OK) {
      weir_engine_retire(g, j, WEIR_END_ERROR, &e);
      i--;
    }
  }
  return any;
}
