/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of tiers: which runs now, and what follows when it is done. Loop thread only. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "serve/engine_in.h"

/* Where the tiers share a device, rows fed ahead are paid by everybody. */
static bool goes_ahead(const weir_engine *g) {
  return g->cfg.n_tiers > 1 && (g->cfg.prefill_ahead == WEIR_AHEAD_ON ||
                                (g->cfg.prefill_ahead == WEIR_AHEAD_AUTO && g->cfg.overlap_tiers));
}

int32_t weir_engine_waiting(const weir_engine *g, int32_t t, int64_t *oldest_ns) {
  int32_t n = 0;
  int64_t oldest = INT64_MAX;
  for (int32_t i = 0; i < g->n_active; i++) {
    const weir_request *r = g->active[i];
    if (!r->waiting || r->need.tier != t || (r->place[t] >= 0 && !g->tier[t].plan.item[r->place[t]].ahead))
      continue;
    n++;
    if (r->since_ns < oldest) oldest = r->since_ns;
  }
  if (oldest_ns) *oldest_ns = oldest;
  return n;
}

/* ---- a step ends ---- */

static void note_step(weir_engine *g, int32_t t, const weir_result *done) {
  weir_engine_tier *y = &g->tier[t];
  const weir_plan_rows *rows = &y->plan.rows;
  const int64_t now = weir_engine_now(g);
  y->stats.steps++;
  y->stats.rows += y->n_rows;
  y->stats.busy_ns += done->device_ns;
  y->stats.rows_decode += rows->decode;
  y->stats.rows_prompt += rows->prompt;
  y->stats.rows_catchup += rows->catchup;
  y->stats.rows_judged += rows->judged;
  g->last_step_ns = now;
  weir_goodput_step(&g->speed, now, g->cfg.n_tiers > 1 && t == g->cfg.n_tiers - 1, y->n_rows, rows->prompt,
                    done->device_ns);
  weir_engine_auto_step(g, t, done->device_ns);
  if (!g->cfg.on_step) return;
  const weir_step_note note = {
      .rows = y->n_rows,
      .seqs = y->n_seqs,
      .rows_decode = rows->decode,
      .rows_prompt = rows->prompt,
      .rows_catchup = rows->catchup,
      .rows_judged = rows->judged,
      .rows_ahead = rows->ahead,
      .device_ns = done->device_ns,
      .oldest_wait_ns = y->plan.oldest_ns == INT64_MAX ? 0 : y->launched_ns - y->plan.oldest_ns};
  g->cfg.on_step(g->cfg.hooks_ctx, t, &note);
}

static void finish(weir_engine *g, int32_t t) {
  weir_engine_tier *y = &g->tier[t];
  weir_result *done = NULL;
  weir_err e = {0};
  const weir_status st = y->exec->ops->wait(y->exec, &done, &e);
  y->in_flight = false;
  if (st != WEIR_OK || done->status != WEIR_OK) {
    weir_engine_note_lost(g, t);
    weir_engine_bury(g, t, st != WEIR_OK ? &e : &done->err);
    return;
  }
  /* It has died since the step was planned: maybe before the step began, which then saw an empty KV. */
  if (y->exec->life && y->exec->life->number(y->exec, NULL) != y->life) {
    weir_plan_drop(&y->plan, t, &y->kv); /* the next look at its life finds the rest */
    return;
  }
  weir_engine_cost_step(g, t);
  weir_plan_finish(&y->plan, t, y->rows, y->top, &y->kv);
  note_step(g, t, done);
  if (t == 1 && y->plan.rows.prompt == 0) weir_engine_budget_step(g, done->device_ns);
  if (t == 0) weir_engine_budget_load(g);
  for (int32_t i = 0; i < y->plan.n_items; i++) {
    const weir_plan_item *it = &y->plan.item[i];
    if (!it->req || it->ahead || it->req->fed_to < it->req->need.to) continue; /* or more chunks to come */
    weir_engine_advance(g, weir_engine_job_of(it->req));
  }
  y->plan.n_items = 0;
}

bool weir_engine_collect(weir_engine *g) {
  bool any = false;
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    weir_engine_tier *y = &g->tier[t];
    if (!y->in_flight || y->hung) continue;
    const weir_exec_async *a = y->exec->async;
    if (a && !a->ready(y->exec)) {
      const int64_t took = weir_engine_now(g) - y->launched_ns;
      if (g->cfg.step_timeout_ns == 0 || took <= g->cfg.step_timeout_ns) continue;
      weir_err e;
      y->hung = true;
      weir_fail(&e, WEIR_EDEVICE, "%s: a step has been under way for %.1f s", y->exec->info.name,
                1e-9 * (double)took);
      weir_engine_note_lost(g, t);
      weir_engine_bury(g, t, &e);
    } else {
      finish(g, t);
    }
    any = true;
  }
  return any;
}

/* ---- a step begins ---- */

static bool gate_may_defer(const weir_gate *x) {
  if (x->kind == WEIR_GATE_ENTROPY) return isfinite(x->threshold);
  return weir_gate_is_low(x->kind) ? x->threshold > 0 : x->threshold < 1;
}

/* Whether its prompt is worth feeding to the large tier before that is asked for: a judge will be; a deferral
 * will be likely when those of late have needed it, or when its own rows come near the threshold. */
static bool likely_to_need_large(const weir_engine *g, const weir_request *r) {
  const weir_cascade_cfg *c = &r->cfg;
  if (c->n_tiers < 2 || r->cascade.pinned || r->view.ended) return false;
  if (c->route.on) return false; /* the large tier is never fed for those that stay */
  if (c->commit_tier > 0) return true;
  if (!weir_budget_moves(&c->budget) && !gate_may_defer(&c->gate[0])) return false;
  return g->defers >= 0.25 ||
         (c->gate[0].kind == WEIR_GATE_ENTROPY && r->last_entropy > c->gate[0].threshold / 2);
}

/* The members of a step that could not be started end with the reason: it is the batch that is wrong. */
static void fail_items(weir_engine *g, int32_t t, const weir_err *why) {
  weir_plan *p = &g->tier[t].plan;
  while (p->n_items > 0) {
    weir_request *r = p->item[--p->n_items].req;
    if (r) weir_engine_retire(g, weir_engine_job_of(r), WEIR_END_ERROR, why);
  }
  weir_plan_drop(p, t, &g->tier[t].kv);
}

/* Builds and starts a step; true when it was, or when somebody ended by it. */
static bool start(weir_engine *g, int32_t t, bool ahead) {
  weir_engine_tier *y = &g->tier[t];
  weir_request *culprit;
  weir_err why = {0};
  y->limits.ahead = t == 1 && ahead ? y->limits.prompt_chunk : 0;
  for (int32_t i = 0; y->limits.ahead > 0 && i < g->n_active; i++)
    g->active[i]->ahead = likely_to_need_large(g, g->active[i]);
  if (weir_plan_build(&y->plan, t, g->active, g->n_active, &y->kv, &y->limits, &culprit, &why) != WEIR_OK)
    weir_engine_retire(g, weir_engine_job_of(culprit), WEIR_END_ERROR, &why);
  if (y->plan.n_items == 0) return culprit != NULL;
  const weir_batch batch = weir_batch_get(&y->plan.batch);
  weir_status st = WEIR_OK;
  const int32_t pinned = weir_plan_pinned_rows(&y->plan, t);
  if (pinned > 0) /* none can be: the plan refuses them. Should any be, they go no further */
    st = weir_fail(&why, WEIR_EINVAL, "%d rows of pinned requests in a step of %s", pinned, y->exec->info.name);
  if (st == WEIR_OK && y->plan.n_top > 0 && !y->top)
    st = WEIR_NEW((size_t)y->exec->info.max_tokens * WEIR_TOP_MAX, &y->top, &why);
  y->result = (weir_result){.row = y->rows, .top = y->plan.n_top > 0 ? y->top : NULL};
  if (st == WEIR_OK) st = y->exec->ops->submit(y->exec, &batch, &y->result, &why);
  /* It has died meanwhile: not the batch's fault. Who says so and lives would never come back to life. */
  const bool lives = y->exec->life && y->exec->life->number(y->exec, NULL) == y->life;
  if (st == WEIR_EDEVICE && !lives) {
    weir_engine_bury(g, t, &why);
    return true;
  }
  if (st != WEIR_OK) {
    fail_items(g, t, &why);
    return true;
  }
  g->pinned_large_rows += pinned; /* of batches that were handed over: what the promise is about */
  y->in_flight = true;
  g->large_last = t == 1;
  y->launched_ns = weir_engine_now(g);
  y->n_rows = batch.n_tokens;
  y->n_seqs = batch.n_seqs;
  if (!y->exec->async) finish(g, t);
  return true;
}

/* Deferrals are gathered into a batch but never wait long: a large step reads all its weights whether one
 * request waits or many. */
static bool large_is_due(const weir_engine *g, int32_t waiting, int64_t oldest_ns, bool small_has_work) {
  if (waiting == 0) return false;
  const bool enough = g->cfg.large_batch > 0 && waiting >= g->cfg.large_batch;
  return enough || !small_has_work || weir_engine_now(g) - oldest_ns >= g->cfg.large_wait_ns;
}

static bool can_start(const weir_engine *g, int32_t t) {
  return t < g->cfg.n_tiers && !g->tier[t].dead && !g->tier[t].in_flight;
}

bool weir_engine_launch(weir_engine *g, weir_status *st, weir_err *e) {
  const bool idle[2] = {can_start(g, 0), can_start(g, 1)};
  const bool under_way[2] = {g->tier[0].in_flight && !g->tier[0].hung,
                             g->tier[1].in_flight && !g->tier[1].hung};
  const bool in_flight = under_way[0] || under_way[1];
  const bool overlap = g->cfg.overlap_tiers;
  bool any = false;
  *st = WEIR_OK;
  if (in_flight && !overlap) return false;
  int64_t oldest;
  const int32_t waiting[2] = {weir_engine_waiting(g, 0, NULL),
                              g->cfg.n_tiers > 1 ? weir_engine_waiting(g, 1, &oldest) : 0};
  /* Where they share a device requests of the large tier alone would always be due, and those that wait for
   * the small one never had a turn. */
  const bool turn = overlap || !g->large_last || waiting[0] == 0 || !idle[0];
  const bool large = turn && idle[1] && large_is_due(g, waiting[1], oldest, waiting[0] > 0 || under_way[0]);
  /* Ahead: where the tiers share a device beside those who wait, else when nobody waits for the large one. */
  const bool ahead = goes_ahead(g) && (!overlap || waiting[1] == 0);
  if (large || (overlap && idle[1] && ahead)) any = start(g, 1, ahead);
  if (idle[0] && waiting[0] > 0 && (!any || overlap)) any |= start(g, 0, false);
  /* All that wait for one tier may be short of pages held by those that wait for the other. */
  if (!any && !in_flight && idle[1] && waiting[1] > 0 && !large) any = start(g, 1, false);
  if (any || in_flight || g->n_active == 0) return any;
  /* Those who wait for a dead tier keep their pages of the other until it is back or they end. */
  if ((g->tier[0].dead && waiting[0] > 0) || (g->tier[1].dead && waiting[1] > 0)) return false;
  if (waiting[0] + waiting[1] > 0)
    *st = weir_fail(e, WEIR_EBUSY, "none of %d requests can be placed on its tier", waiting[0] + waiting[1]);
  return false;
}
