/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs come and go: admission in order of urgency, what a finished need leads to, and the five ways to end.
 * Callbacks may submit and cancel, so every walk that can call one goes over a list of its own. Loop thread.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "serve/engine_in.h"

/* ---- finding ---- */

weir_engine_job *weir_engine_find(const weir_engine *g, int64_t id) {
  if (id < 1 || id >= g->next_id) return NULL;
  weir_engine_job *j = g->bucket[id & (g->n_buckets - 1)];
  while (j && j->req->id != id) j = j->next;
  return j;
}

static weir_status reserve_leavers(weir_engine *g, int32_t n, weir_err *e) {
  if (n <= g->leaver_cap) return WEIR_OK;
  weir_engine_job **more = realloc(g->leaver, (size_t)n * 2 * sizeof(weir_engine_job *));
  if (!more) return weir_fail(e, WEIR_ENOMEM, "no memory to list %d jobs", n);
  g->leaver = more;
  g->leaver_cap = n * 2;
  return WEIR_OK;
}

weir_status weir_engine_list_jobs(weir_engine *g, weir_err *e) {
  const weir_status st = reserve_leavers(g, g->n_active + g->queue.n, e);
  g->n_leavers = 0;
  if (st != WEIR_OK) return st;
  for (int32_t i = 0; i < g->n_active; i++) g->leaver[g->n_leavers++] = weir_engine_job_of(g->active[i]);
  for (int32_t i = 0; i < g->queue.n; i++)
    g->leaver[g->n_leavers++] = weir_engine_job_of((weir_request *)g->queue.node[i]);
  return WEIR_OK;
}

/* Place of the first active request that is not more urgent than `r`. */
static int32_t place_of(const weir_engine *g, const weir_request *r) {
  int32_t lo = 0, hi = g->n_active;
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    if (weir_more_urgent(&g->active[mid]->node, &r->node))
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

/* ---- text out ---- */

static void piece(void *ctx, int32_t index, const char *text, size_t len) {
  weir_engine_job *j = ctx;
  if (!j->spec.on_piece) return;
  const weir_token_receipt receipt = weir_request_receipt(j->req, index);
  j->spec.on_piece(j->spec.ctx, &(weir_piece){.index = index,
                                              .text = text,
                                              .len = len,
                                              .receipt = &receipt,
                                              .top = weir_request_top(j->req, index),
                                              .n_top = receipt.why == WEIR_WHY_FORCED && j->req->n_top > 0
                                                           ? 1
                                                           : j->req->n_top});
}

weir_status weir_engine_show(weir_engine *g, weir_engine_job *j, bool final, weir_err *e) {
  const int32_t n = j->req->view.committed - j->req->n_prompt;
  const int64_t now = weir_engine_now(g);
  if (j->first_ns == 0 && n > 0) j->first_ns = now;
  weir_goodput_tokens(&g->speed, now, n - j->req->counts.new_tokens);
  for (int32_t k = j->req->counts.new_tokens; k < n; k++) {
    const weir_token_receipt receipt = weir_request_receipt(j->req, k);
    j->req->counts.by_tier[receipt.tier]++;
    j->req->counts.wanted_up += receipt.wanted_up;
    g->tokens_by_tier[receipt.tier]++;
    g->tokens_wanted_up += receipt.wanted_up;
    j->req->counts.forced += receipt.why == WEIR_WHY_FORCED;
    g->tokens_forced += receipt.why == WEIR_WHY_FORCED;
  }
  weir_engine_auto_show(g, j, n - j->req->counts.new_tokens);
  j->req->counts.new_tokens = n;
  return weir_stream_show(&j->stream, n, final, piece, j, e);
}

void weir_engine_advance(weir_engine *g, weir_engine_job *j) {
  weir_request *r = j->req;
  weir_status st = WEIR_OK;
  weir_err e;
  int32_t same;
  const weir_view before = r->view;
  weir_engine_budget_set(g, j);
  weir_engine_route_set(g, j);
  weir_engine_span_set(j);
  weir_request_observe(r, weir_engine_now(g), &same);
  weir_engine_auto_observed(g, j);
  weir_engine_budget_note(g, j);
  weir_engine_cost_taken_back(g, r, before.kv_len);
  weir_stream_truncate(&j->stream, same - r->n_prompt);
  WEIR_TRY(weir_engine_follow(g, j, &e));
  weir_engine_log(g, j, WEIR_DID_OBSERVE);
  const weir_view settled = r->view;
  if (r->view.ended && weir_request_settle(r, weir_engine_now(g), &same)) {
    weir_engine_cost_taken_back(g, r, settled.kv_len);
    weir_stream_truncate(&j->stream, same - r->n_prompt);
    WEIR_TRY(weir_engine_follow(g, j, &e)); /* another tier may write it all again */
    weir_engine_log(g, j, WEIR_DID_SETTLE);
  }
  weir_engine_route_note(g, j);
  WEIR_TRY(weir_engine_show(g, j, false, &e));
out:
  if (st != WEIR_OK) weir_engine_retire(g, j, WEIR_END_ERROR, &e);
}

/* ---- jobs out ---- */

void weir_engine_job_free(weir_engine *g, weir_engine_job *j) {
  for (int32_t t = 0; t < g->cfg.n_tiers && j->req; t++) weir_request_drop_kv(j->req, t, g->tier[t].kv.pages);
  weir_request_destroy(j->req);
  weir_stream_fini(&j->stream);
  weir_choices_fini(&j->choices);
  weir_gate_spans_fini(&j->spans);
  free(j);
}

static void leave(weir_engine *g, weir_engine_job *j) {
  weir_request *r = j->req;
  weir_engine_job **link = &g->bucket[r->id & (g->n_buckets - 1)];
  while (*link != j) link = &(*link)->next;
  *link = j->next;
  if (!j->active) {
    weir_queue_remove(&g->queue, &r->node);
    return;
  }
  const int32_t at = place_of(g, r);
  g->n_active--;
  memmove(&g->active[at], &g->active[at + 1], (size_t)(g->n_active - at) * sizeof(weir_request *));
}

/* Of late requests that show the small tier's tokens at once, how many needed the large tier at all. */
static void learn_deferral(weir_engine *g, const weir_request *r) {
  const weir_cascade *c = &r->cascade;
  if (c->cfg->n_tiers < 2 || c->pinned || c->hi < 1 || c->cfg->commit_tier > 0 || c->cfg->route.on || r->counts.fed[0] == 0)
    return;
  g->defers += 0.1 * ((r->counts.by_tier[1] > 0 ? 1 : 0) - g->defers);
}

void weir_engine_retire(weir_engine *g, weir_engine_job *j, weir_end end, const weir_err *err) {
  weir_request *r = j->req;
  weir_err why = {0}, show_err;
  if (err) why = *err; /* which may lie in memory that a callback changes */
  leave(g, j);
  if (weir_engine_show(g, j, true, &show_err) != WEIR_OK && end != WEIR_END_ERROR) {
    end = WEIR_END_ERROR;
    why = show_err;
  }
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    weir_plan_forget(&g->tier[t].plan, t, r);
    weir_plan_publish(r, t, &g->tier[t].kv);
    weir_request_drop_kv(r, t, g->tier[t].kv.pages);
  }
  learn_deferral(g, r);
  weir_engine_auto_leave(g, j);
  weir_engine_cost_end(g, r);
  g->jobs_done[end]++;
  const int64_t now = weir_engine_now(g);
  const weir_outcome outcome = {.id = r->id,
                                .end = end,
                                .err = end == WEIR_END_ERROR ? &why : NULL,
                                .n_prompt = r->n_prompt,
                                .counts = &r->counts,
                                .queued_ns = (j->started_ns ? j->started_ns : now) - j->submitted_ns,
                                .first_token_ns = (j->first_ns ? j->first_ns : now) - j->submitted_ns,
                                .total_ns = now - j->submitted_ns};
  if (j->spec.on_done) j->spec.on_done(j->spec.ctx, &outcome);
  weir_engine_job_free(g, j);
}

static weir_end natural_end(const weir_engine_job *j) {
  if (j->stream.stopped) return WEIR_END_STOP;
  if (j->at_eos) return WEIR_END_EOS;
  return j->whole ? WEIR_END_STOP : WEIR_END_LENGTH;
}

/* Cancelled and expired jobs, waiting or under way. */
static bool drop_unwanted(weir_engine *g, int64_t now) {
  if (!g->some_cancelled && now < g->next_deadline) return false;
  if (weir_engine_list_jobs(g, NULL) != WEIR_OK) return false; /* the next turn tries again */
  g->some_cancelled = false;
  g->next_deadline = INT64_MAX;
  int32_t n = 0;
  for (int32_t i = 0; i < g->n_leavers; i++) {
    weir_engine_job *j = g->leaver[i];
    const int64_t deadline = j->spec.deadline_ns;
    if (j->cancelled || (deadline > 0 && deadline <= now))
      g->leaver[n++] = j;
    else if (deadline > 0 && deadline < g->next_deadline)
      g->next_deadline = deadline;
  }
  g->n_leavers = n;
  for (int32_t i = 0; i < n; i++) {
    weir_engine_job *j = g->leaver[i];
    weir_engine_retire(g, j, j->cancelled ? WEIR_END_CANCEL : WEIR_END_DEADLINE, NULL);
  }
  return n > 0;
}

/* Asks those who wait for nothing what they need; who needs nothing more is done. */
static bool ask_needs(weir_engine *g, int64_t now) {
  int32_t n = 0;
  if (reserve_leavers(g, g->n_active, NULL) != WEIR_OK) return false;
  for (int32_t i = 0; i < g->n_active; i++) weir_engine_auto_turn(g, weir_engine_job_of(g->active[i]));
  for (int32_t i = 0; i < g->n_active; i++)
    if (!weir_request_next(g->active[i], now)) g->leaver[n++] = weir_engine_job_of(g->active[i]);
  for (int32_t i = 0; i < n; i++) weir_engine_retire(g, g->leaver[i], natural_end(g->leaver[i]), NULL);
  return n > 0;
}

/* ---- jobs in ---- */

/* Room for the first tier a request will use: its pages are there, or it is more urgent than somebody who
 * holds some (then the planner takes them), or it would be alone (then it is tried). */
static bool has_room(weir_engine *g, weir_request *r) {
  weir_need first;
  if (!weir_cascade_need(&r->cascade, &r->view, &first)) return true;
  const bool force = g->n_active == 0 || weir_more_urgent(&r->node, &g->active[g->n_active - 1]->node);
  return weir_plan_claim(r, first.tier, g->active, g->n_active, &g->tier[first.tier].kv, force);
}

static bool admit(weir_engine *g, int64_t now) {
  bool any = false;
  while (g->n_active < g->cfg.max_active && g->queue.n > 0) {
    weir_request *r = (weir_request *)weir_queue_first(&g->queue);
    weir_engine_job *j = weir_engine_job_of(r);
    weir_engine_auto_turn(g, j);
    if (!has_room(g, r)) break; /* nobody overtakes it: whoever is small would starve whoever is large */
    weir_queue_remove(&g->queue, &r->node);
    const int32_t at = place_of(g, r);
    memmove(&g->active[at + 1], &g->active[at], (size_t)(g->n_active - at) * sizeof(weir_request *));
    g->active[at] = r;
    g->n_active++;
    j->active = true;
    j->started_ns = now;
    any = true;
  }
  return any;
}

bool weir_engine_sweep(weir_engine *g) {
  const int64_t now = weir_engine_now(g);
  bool any = drop_unwanted(g, now);
  do { /* who is admitted may have nothing to do and make room for another */
    any |= admit(g, now);
  } while (ask_needs(g, now) && (any = true));
  return any;
}
