/* SPDX-License-Identifier: Apache-2.0 */
/* Mode auto in the engine: tells the controller (auto.h) what steps and requests do, and moves requests to
 * the mode in force for their floor, each when it waits for nothing. Loop thread. */
#include <string.h>

#include "base/log.h"
#include "serve/engine_in.h"

void weir_engine_auto_init(weir_engine *g) {
  weir_auto_rules rules = weir_auto_rules_default();
  rules.overlap = g->cfg.overlap_tiers;
  rules.large_batch = g->cfg.large_batch;
  rules.large_wait_ns = g->cfg.large_wait_ns;
  weir_auto_init(&g->auto_, &rules);
}

/* ---- requests ---- */

/* The mode it should be in. One that has been kept away from the large tier, which is up for the others, goes
 * on as if that were down: with the small one, by its gate. */
static weir_auto_mode mode_for(const weir_engine *g, const weir_engine_job *j) {
  const weir_auto_mode m = weir_auto_of(&g->auto_, j->spec.quality);
  const bool alone = j->req->cascade.hi < 1 && (m == WEIR_AUTO_LARGE || m == WEIR_AUTO_EXACT);
  return alone && (weir_quality_modes(j->spec.quality) >> WEIR_AUTO_CASCADE & 1) ? WEIR_AUTO_CASCADE : m;
}

static void move_to(weir_engine *g, weir_engine_job *j, weir_auto_mode m) {
  weir_request *r = j->req;
  weir_cascade_cfg cfg;
  weir_err e;
  const weir_view before = r->view;
  weir_auto_cfg(&j->auto_.cascade, m, &cfg);
  const int32_t same = weir_request_switch(r, &cfg);
  weir_engine_cost_taken_back(g, r, before.kv_len);
  j->auto_.moved |= j->auto_.mode != m;
  j->auto_.mode = m;
  if (same == before.n) {
    weir_engine_log(g, j, WEIR_DID_SWITCH);
    return;
  }
  weir_stream_truncate(&j->stream, same - r->n_prompt);
  j->at_eos = false; /* a text that has ended does not go on, so that what is left has no end */
  if (weir_engine_follow(g, j, &e) != WEIR_OK) j->cancelled = g->some_cancelled = true; /* no memory */
  weir_engine_log(g, j, WEIR_DID_SWITCH);
}

void weir_engine_auto_begin(weir_engine *g, weir_engine_job *j) {
  weir_request *r = j->req;
  j->auto_.on = j->spec.auto_ && !r->cascade.pinned && r->cfg.n_tiers > 1;
  if (!j->auto_.on) return;
  j->auto_.cascade = r->cfg;
  j->auto_.mode = WEIR_AUTO_CASCADE;
  weir_auto_begin(&g->auto_, j->spec.quality, r->n_prompt, r->max_new);
  move_to(g, j, mode_for(g, j));
  j->auto_.moved = false;
  /* What is forced from the beginning is so under the mode that it begins in. */
  for (int32_t k = 0; k < weir_request_n_new(r); k++) r->receipt[r->n_prompt + k].tier = (uint8_t)r->cascade.tier;
}

void weir_engine_auto_turn(weir_engine *g, weir_engine_job *j) {
  const weir_request *r = j->req;
  if (!j->auto_.on || r->waiting) return;
  const weir_auto_mode m = mode_for(g, j);
  if (m == j->auto_.mode || (r->view.ended && r->view.committed >= r->view.n)) return;
  move_to(g, j, m);
}

void weir_engine_auto_observed(weir_engine *g, const weir_engine_job *j) {
  const weir_request *r = j->req;
  const weir_need *q = &r->need;
  if (!j->auto_.on || r->cascade.hi < 1) return;
  if (j->auto_.mode == WEIR_AUTO_EXACT && q->tier == 1)
    weir_auto_cycle(&g->auto_, q->to - q->judge_from, r->view.committed - q->judge_from);
  else if (j->auto_.mode == WEIR_AUTO_CASCADE && r->effect.append >= 0)
    weir_auto_deferral(&g->auto_, q->tier == 1);
}

void weir_engine_auto_show(weir_engine *g, weir_engine_job *j, int32_t n) {
  if (!j->auto_.on || n < 1) return;
  j->req->counts.by_mode[j->auto_.mode] += n;
  weir_auto_wrote(&g->auto_, j->auto_.mode, n);
}

void weir_engine_auto_leave(weir_engine *g, const weir_engine_job *j) {
  const weir_request *r = j->req;
  if (!j->auto_.on || r->counts.new_tokens == 0) return;
  const int32_t t = r->met[0] ? 0 : 1;
  const int64_t rows = r->n_prompt - r->counts.prefix_hit[t];
  const bool whole = !j->auto_.moved && j->auto_.mode == WEIR_AUTO_CASCADE && r->cascade.hi > 0;
  weir_auto_end(&g->auto_, (int32_t)rows, r->counts.new_tokens, whole ? r->counts.by_tier[1] > 0 : -1);
}

bool weir_engine_auto_is_orphan(const weir_engine_job *j, int32_t t) {
  return weir_auto_needs(j->spec.quality, t);
}

/* ---- steps ---- */

static void say(const char *lines) {
  for (const char *p = lines; *p;) {
    const size_t n = strcspn(p, "\n");
    weir_log(WEIR_LOG_INFO, "%.*s", (int)n, p);
    p += n + (p[n] != '\0');
  }
}

static void decide(weir_engine *g) {
  char why[1024];
  if (weir_auto_decide(&g->auto_, why, sizeof why)) say(why);
}

void weir_engine_auto_step(weir_engine *g, int32_t t, int64_t device_ns) {
  const weir_engine_tier *y = &g->tier[t];
  weir_auto_step s = {.now_ns = weir_engine_now(g),
                      .from_ns = g->auto_busy_ns > 0 ? g->auto_busy_ns : y->launched_ns,
                      .tier = t,
                      .rows = y->n_rows,
                      .prompt_rows = y->plan.rows.prompt,
                      .answers = weir_batch_get(&y->plan.batch).n_out,
                      .device_ns = device_ns,
                      .active = g->n_active};
  int64_t unseen[2] = {0, 0};
  if (g->cfg.n_tiers < 2) return;
  for (int32_t i = 0; i < g->n_active; i++) {
    const weir_engine_job *j = weir_engine_job_of(g->active[i]);
    const weir_view *v = &j->req->view;
    if (!j->auto_.on) continue;
    s.of[j->auto_.mode]++;
    for (int32_t k = 0; k < 2; k++) unseen[k] += v->n - v->kv_len[k];
  }
  weir_auto_unseen(&g->auto_, unseen);
  weir_auto_step_done(&g->auto_, &s);
  g->auto_busy_ns = s.now_ns;
  decide(g);
}

void weir_engine_auto_idle(weir_engine *g) {
  if (g->n_active > 0 || g->auto_busy_ns == 0) return;
  g->auto_busy_ns = 0;
  weir_auto_idle(&g->auto_);
}

/* A tier has died or is back. Who is in a mode that cannot do without it leaves that at once: nothing that
 * waits for a judgement is shown without, it falls. */
void weir_engine_auto_tier(weir_engine *g, int32_t t, bool up) {
  weir_auto_tier(&g->auto_, t, up);
  decide(g);
  for (int32_t i = 0; !up && i < g->n_active; i++) {
    weir_request *r = g->active[i];
    weir_engine_job *j = weir_engine_job_of(r);
    if (!j->auto_.on) continue;
    const weir_auto_mode m = mode_for(g, j);
    if (m == j->auto_.mode) continue;
    for (int32_t k = 0; k < g->cfg.n_tiers; k++) weir_plan_forget(&g->tier[k].plan, k, r);
    r->waiting = false;
    move_to(g, j, m);
  }
  for (int32_t i = 0; !up && i < g->queue.n; i++)
    weir_engine_auto_turn(g, weir_engine_job_of((weir_request *)g->queue.node[i]));
}
