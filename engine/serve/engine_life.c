/* SPDX-License-Identifier: Apache-2.0 */
/* Death and return of tiers. A tier dies when a step of it fails, when it refuses one because it is dead, or
 * when its executor says so (step.h, weir_exec_life); it comes back when the executor tells of a new life,
 * with an empty KV. Who can do without it goes on, and uses it again when it is back; its KV there is then
 * computed from position 0, like after a preemption. Loop thread only. */
#include <stdlib.h>

#include "base/log.h"
#include "serve/engine_in.h"

/* Steps of a tier that may fail with a request in them before it is kept away from that tier for good: one
 * that kills whoever computes it must not do so for ever. */
enum { MOST_LOST = 3 };

/* ---- who needs what ---- */

/* The small tier is needed by all but those whose tokens can never pass its gate: it is not fed then. The
 * large one by those, and where nothing is shown without its judgement: a mode that promises its word does
 * not go on without it, unless the request has said for how long it waits. */
bool weir_engine_needs_tier(const weir_cascade_cfg *c, bool pinned, int32_t t) {
  const bool alone = pinned || c->n_tiers < 2, skips_small = !alone && weir_cascade_skips(c, 0);
  if (t == 0) return !skips_small;
  return !alone && (skips_small || (c->commit_tier > 0 && c->defer_wait_ns == 0));
}

static bool is_orphan(const weir_request *r, int32_t t) {
  const weir_engine_job *j = weir_engine_job_of(r);
  if (j->auto_.on) return weir_engine_auto_is_orphan(j, t);
  return weir_engine_needs_tier(&r->cfg, r->cascade.pinned, t);
}

static weir_request *queued(const weir_engine *g, int32_t i) { return (weir_request *)g->queue.node[i]; }

/* ---- death ---- */

/* KV of the tier is gone: nothing refers to its pages any more, and all of them are free. */
static void forget_kv(weir_engine *g, int32_t t) {
  weir_engine_tier *y = &g->tier[t];
  weir_plan_drop(&y->plan, t, &y->kv);
  for (int32_t i = 0; i < g->n_active; i++) weir_request_drop_kv(g->active[i], t, y->kv.pages);
  weir_prefix_evict(y->kv.prefix, weir_pages_total(y->kv.pages)); /* nobody else holds any */
}

/* Who can do without the tier does so from here on. */
static void go_without(const weir_engine *g, weir_request *r, int32_t t) {
  if (t == 0 || is_orphan(r, t) || r->cascade.hi < t) return;
  /* What waits for its judgement is shown without. */
  if (r->cfg.commit_tier >= t && weir_request_give_up(r))
    weir_engine_log(g, weir_engine_job_of(r), WEIR_DID_GIVE_UP);
  r->cascade.hi = t - 1;
  r->view.committed = weir_cascade_commit(&r->cascade, &r->view);
  if (r->need.tier == t) r->waiting = false; /* asks again */
}

/* Those who cannot, once they have waited long enough. True when anybody ended. */
static bool end_orphans(weir_engine *g, int32_t t) {
  weir_engine_tier *y = &g->tier[t];
  const bool all = weir_engine_now(g) >= y->give_up_ns;
  bool any = false;
  if (weir_engine_list_jobs(g, NULL) != WEIR_OK) return false; /* a later turn tries again */
  y->orphans = !all;
  const int32_t n = g->n_leavers;
  for (int32_t i = 0; i < n; i++) {
    weir_engine_job *j = g->leaver[i];
    if (!is_orphan(j->req, t) || !(all || j->lost[t] >= MOST_LOST)) continue;
    weir_engine_retire(g, j, WEIR_END_ERROR, &y->why_dead);
    any = true;
  }
  return any;
}

void weir_engine_bury(weir_engine *g, int32_t t, const weir_err *why) {
  weir_engine_tier *y = &g->tier[t];
  const int64_t now = weir_engine_now(g), patience = y->exec->life ? g->cfg.dead_wait_ns : 0;
  y->dead = true;
  y->why_dead = *why;
  y->stats.deaths++;
  y->changed_ns = now;
  y->give_up_ns = patience < INT64_MAX - now ? now + patience : INT64_MAX;
  y->orphans = true;
  weir_log(WEIR_LOG_ERROR, "%s", why->msg); /* which begins with the model */
  forget_kv(g, t);
  weir_engine_auto_tier(g, t, false);
  for (int32_t i = 0; i < g->n_active; i++) go_without(g, g->active[i], t);
  for (int32_t i = 0; i < g->queue.n; i++) go_without(g, queued(g, i), t);
  end_orphans(g, t);
}

void weir_engine_note_lost(weir_engine *g, int32_t t) {
  const weir_plan *p = &g->tier[t].plan;
  for (int32_t i = 0; i < p->n_items; i++) {
    weir_engine_job *j = p->item[i].req ? weir_engine_job_of(p->item[i].req) : NULL;
    if (j && j->lost[t] < MOST_LOST) j->lost[t]++;
  }
}

/* ---- return ---- */

static void use_again(weir_request *r, int32_t t) {
  if (r->cfg.n_tiers > t && r->cascade.hi < t && weir_engine_job_of(r)->lost[t] < MOST_LOST)
    r->cascade.hi = t;
}

static void revive(weir_engine *g, int32_t t) {
  weir_engine_tier *y = &g->tier[t];
  const int64_t down = weir_engine_now(g) - y->changed_ns;
  y->dead = y->orphans = false;
  y->stats.recoveries++;
  y->stats.down_ns += down;
  y->changed_ns += down;
  weir_log(WEIR_LOG_INFO, "%s: it is back after %.1f s", y->exec->info.name, 1e-9 * (double)down);
  for (int32_t i = 0; i < g->n_active; i++) use_again(g->active[i], t);
  weir_engine_auto_tier(g, t, true);
  for (int32_t i = 0; i < g->queue.n; i++) use_again(queued(g, i), t);
}

/* It has died and come back since it was last looked at: nothing but KV is lost. */
static void renew(weir_engine *g, int32_t t) {
  weir_engine_tier *y = &g->tier[t];
  y->stats.deaths++;
  y->stats.recoveries++;
  y->changed_ns = weir_engine_now(g);
  weir_log(WEIR_LOG_WARN, "%s: it has died and come back; what it had computed is computed again",
           y->exec->info.name);
  forget_kv(g, t);
}

/* The number of its life, where a change of it can be acted on now: nobody is inside a step. */
static bool can_look(const weir_engine_tier *y) {
  return y->exec->life && (!y->in_flight || (y->hung && y->exec->async->ready(y->exec)));
}

static bool is_news(const weir_engine_tier *y, uint64_t life) {
  if (y->dead && life == 0) return false;
  return life != y->life || y->hung; /* the step took long, and it lives on */
}

bool weir_engine_life_has_changed(const weir_engine_tier *y) {
  return can_look(y) && is_news(y, y->exec->life->number(y->exec, NULL));
}

static bool look_at(weir_engine *g, int32_t t) {
  weir_engine_tier *y = &g->tier[t];
  weir_err why = {0};
  if (!can_look(y)) return false;
  const uint64_t life = y->exec->life->number(y->exec, &why);
  if (!is_news(y, life)) return false;
  if (y->in_flight) { /* the step that was given up has ended after all */
    weir_result *done;
    weir_err e;
    y->exec->ops->wait(y->exec, &done, &e);
    y->in_flight = y->hung = false;
  }
  if (life == 0) {
    weir_engine_bury(g, t, &why);
    return true;
  }
  y->life = life;
  if (y->dead)
    revive(g, t);
  else
    renew(g, t);
  return true;
}

bool weir_engine_look(weir_engine *g) {
  bool any = false;
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    any |= look_at(g, t);
    const weir_engine_tier *y = &g->tier[t];
    if (y->dead && y->orphans && weir_engine_now(g) >= y->give_up_ns) any |= end_orphans(g, t);
  }
  return any;
}
