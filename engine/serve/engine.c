/* SPDX-License-Identifier: Apache-2.0 */
/* THE MAIN LOOP. Owns all request state: jobs in order of arrival, their streams, the KV accounting of each
 * tier. It calls the planner, then an executor, then the policy (through sched/request) and shows what was
 * committed. One thread; executors may have theirs. */
#include "serve/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "kv/pages.h"
#include "kv/prefix.h"
#include "sched/plan.h"
#include "serve/stream.h"

enum { DEFAULT_ACTIVE = 16, DEFAULT_QUEUED = 256 };

typedef struct job {
  weir_request *req;
  weir_stream stream;
  weir_job spec; /* prompt and stop are not to be read: they were copied */
  int64_t submitted_ns, started_ns, first_ns;
  bool cancelled, at_eos;
} job;

typedef struct tier {
  weir_exec *exec;
  weir_tier_kv kv;
  weir_plan plan;
  weir_row *rows; /* [max_tokens] */
  bool dead;
  weir_err why_dead;
  int64_t steps, n_rows, busy_ns, prefix_hit_tokens;
} tier;

struct weir_engine {
  weir_engine_cfg cfg;
  tier tier[WEIR_MAX_TIERS];
  job **job; /* [cap], in order of arrival; the first n_active are under way */
  int32_t n_jobs, n_active, cap;
  weir_request **req; /* [cap] scratch: requests of the active jobs */
  int64_t next_id;
};

const char *weir_end_name(weir_end end) {
  static const char *const name[] = {"stop", "eos", "length", "error", "cancelled", "deadline"};
  return (size_t)end < sizeof name / sizeof *name ? name[end] : "unknown";
}

/* ---- life ---- */

static weir_status tier_init(tier *t, const weir_engine_cfg *cfg, weir_exec *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_exec_info *info = &x->info;
  const int32_t cache = cfg->prefix_pages < 0 ? info->n_pages / 2 : cfg->prefix_pages;
  t->exec = x;
  WEIR_TRY(weir_pages_create(info->n_pages, &t->kv.pages, e));
  WEIR_TRY(weir_prefix_create(t->kv.pages, cache, &t->kv.prefix, e));
  /* Pages shared by several sequences stand in each one's table. */
  const int64_t entries = (int64_t)weir_pages_for(info->n_ctx) * info->max_seqs;
  if (entries > INT32_MAX)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "%s: context times sequences is too large", info->name));
  WEIR_TRY(weir_plan_init(&t->plan, info->max_tokens, info->max_seqs, (int32_t)entries, e));
  WEIR_TRY(WEIR_NEW((size_t)info->max_tokens, &t->rows, e));
out:
  return st;
}

weir_status weir_engine_create(const weir_engine_cfg *cfg, weir_engine **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_engine *g = NULL;
  *out = NULL;
  if (cfg->n_tiers < 1 || cfg->n_tiers > 2)
    return weir_fail(e, WEIR_EINVAL, "engine: %d tiers, want 1 or 2", cfg->n_tiers);
  WEIR_TRY(WEIR_NEW(1, &g, e));
  g->cfg = *cfg;
  g->next_id = 1;
  if (g->cfg.max_active <= 0) g->cfg.max_active = DEFAULT_ACTIVE;
  if (g->cfg.max_queued <= 0) g->cfg.max_queued = DEFAULT_QUEUED;
  for (int32_t t = 0; t < cfg->n_tiers; t++) {
    const int32_t most = cfg->tier[t]->info.max_seqs;
    if (g->cfg.max_active > most) g->cfg.max_active = most;
    WEIR_TRY(tier_init(&g->tier[t], cfg, cfg->tier[t], e));
  }
  *out = g;
  g = NULL;
out:
  weir_engine_destroy(g);
  return st;
}

static void job_destroy(weir_engine *g, job *j) {
  for (int32_t t = 0; t < g->cfg.n_tiers; t++)
    if (j->req) weir_request_drop_kv(j->req, t, g->tier[t].kv.pages);
  weir_request_destroy(j->req);
  weir_stream_fini(&j->stream);
  free(j);
}

void weir_engine_destroy(weir_engine *g) {
  if (!g) return;
  for (int32_t i = 0; i < g->n_jobs; i++) job_destroy(g, g->job[i]);
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    weir_plan_fini(&g->tier[t].plan, g->tier[t].kv.pages);
    if (g->tier[t].kv.prefix) weir_prefix_destroy(g->tier[t].kv.prefix);
    if (g->tier[t].kv.pages) weir_pages_destroy(g->tier[t].kv.pages);
    free(g->tier[t].rows);
  }
  free(g->job);
  free(g->req);
  free(g);
}

/* ---- jobs in ---- */

static weir_status check_draw(const weir_ask *a, weir_err *e) {
  if (!(a->temperature >= 0) || a->temperature > 100)
    return weir_fail(e, WEIR_EINVAL, "temperature is %g, want 0 to 100", (double)a->temperature);
  if (a->top_k < 0) return weir_fail(e, WEIR_EINVAL, "top_k is %d, want 0 (off) or more", a->top_k);
  if (!(a->top_p > 0 && a->top_p <= 1))
    return weir_fail(e, WEIR_EINVAL, "top_p is %g, want more than 0 and at most 1", (double)a->top_p);
  if (!(a->min_p >= 0 && a->min_p <= 1))
    return weir_fail(e, WEIR_EINVAL, "min_p is %g, want 0 to 1", (double)a->min_p);
  return WEIR_OK;
}

static weir_status grow(weir_engine *g, weir_err *e) {
  if (g->n_jobs < g->cap) return WEIR_OK;
  const int32_t cap = g->cap ? g->cap * 2 : 64;
  job **jobs = realloc(g->job, (size_t)cap * sizeof *jobs);
  if (jobs) g->job = jobs;
  weir_request **req = realloc(g->req, (size_t)cap * sizeof *req);
  if (req) g->req = req;
  if (!jobs || !req) return weir_fail(e, WEIR_ENOMEM, "cannot queue %d jobs", cap);
  g->cap = cap;
  return WEIR_OK;
}

static bool is_dead(const weir_engine *g, int32_t t) { return t < g->cfg.n_tiers && g->tier[t].dead; }

/* Whether a request may go on with the small tier alone when the large one is gone: where the small tier is
 * used at all and its tokens are shown without a judgement. A mode that promises the large tier's word does
 * not. */
static bool survives_without_large(const weir_cascade_cfg *c) {
  return c->commit_tier == 0 && !weir_gate_never_passes(c->gate[0]);
}

static weir_status check_cascade(const weir_engine *g, const weir_job *s, weir_err *e) {
  const char *why = weir_cascade_cfg_error(s->cascade);
  if (why) return weir_fail(e, WEIR_EINVAL, "cascade: %s", why);
  if (s->cascade->n_tiers > g->cfg.n_tiers)
    return weir_fail(e, WEIR_EINVAL, "the cascade has %d tiers, this engine %d", s->cascade->n_tiers,
                     g->cfg.n_tiers);
  if (is_dead(g, 0))
    return weir_fail(e, WEIR_EDEVICE, "%s is down: %s", g->tier[0].exec->info.name, g->tier[0].why_dead.msg);
  if (is_dead(g, 1) && s->cascade->n_tiers > 1 && !s->pinned && !survives_without_large(s->cascade))
    return weir_fail(e, WEIR_EDEVICE, "%s is down: %s", g->tier[1].exec->info.name, g->tier[1].why_dead.msg);
  return WEIR_OK;
}

weir_status weir_engine_submit(weir_engine *g, const weir_job *s, int64_t *id, weir_err *e) {
  weir_status st = WEIR_OK;
  job *j = NULL;
  int32_t n_ctx = INT32_MAX;
  WEIR_TRY(check_draw(&s->draw, e));
  WEIR_TRY(check_cascade(g, s, e));
  if (g->n_jobs - g->n_active >= g->cfg.max_queued)
    return weir_fail(e, WEIR_EBUSY, "%d jobs are waiting", g->n_jobs - g->n_active);
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    const weir_exec_info *info = &g->tier[t].exec->info;
    if (info->n_ctx < n_ctx) n_ctx = info->n_ctx;
    for (int32_t i = 0; i < s->n_prompt; i++)
      if (s->prompt[i] < 0 || s->prompt[i] >= info->n_vocab)
        return weir_fail(e, WEIR_EINVAL, "prompt token %d is id %d, outside the vocabulary of %d", i,
                         s->prompt[i], info->n_vocab);
  }
  if (s->n_prompt >= n_ctx)
    return weir_fail(e, WEIR_EINVAL, "the prompt has %d tokens; with a context of %d at most %d fit",
                     s->n_prompt, n_ctx, n_ctx - 1);
  const int32_t room = n_ctx - s->n_prompt, max_new = s->max_new < room ? s->max_new : room;
  WEIR_TRY(grow(g, e));
  WEIR_TRY(WEIR_NEW(1, &j, e));
  j->spec = *s;
  j->submitted_ns = weir_now_ns(&g->cfg.clock);
  const weir_request_spec spec = {.prompt = s->prompt,
                                  .n_prompt = s->n_prompt,
                                  .max_new = max_new,
                                  .draw = s->draw,
                                  .cascade = s->cascade,
                                  .pinned = s->pinned,
                                  .salt = s->salt};
  WEIR_TRY(weir_request_create(&spec, g->next_id, &j->req, e));
  WEIR_TRY(weir_stream_init(&j->stream, g->cfg.tokenizer, max_new, s->show_special, s->stop, s->n_stop, e));
  /* Behind a mark (of a turn, of the beginning) a new text starts; otherwise it goes on the prompt's. */
  j->stream.start.started =
      s->n_prompt > 0 && !weir_tokenizer_is_special(g->cfg.tokenizer, s->prompt[s->n_prompt - 1]);
  if (is_dead(g, 1)) j->req->cascade.hi = 0;
  if (id) *id = g->next_id;
  g->next_id++;
  g->job[g->n_jobs++] = j;
  j = NULL;
out:
  if (j) job_destroy(g, j);
  return st;
}

void weir_engine_cancel(weir_engine *g, int64_t id) {
  for (int32_t i = 0; i < g->n_jobs; i++)
    if (g->job[i]->req->id == id) g->job[i]->cancelled = true;
}

/* ---- jobs out ---- */

static void piece(void *ctx, int32_t index, const char *text, size_t len) {
  job *j = ctx;
  if (!j->spec.on_piece) return;
  const weir_token_receipt receipt = weir_request_receipt(j->req, index);
  j->spec.on_piece(j->spec.ctx, &(weir_piece){.index = index, .text = text, .len = len, .receipt = &receipt});
}

static weir_status show(weir_engine *g, job *j, bool final, weir_err *e) {
  const int32_t n = j->req->view.committed - j->req->n_prompt;
  if (j->first_ns == 0 && n > 0) j->first_ns = weir_now_ns(&g->cfg.clock);
  return weir_stream_show(&j->stream, n, final, piece, j, e);
}

/* Tells the owner and forgets the job at place i. */
static void retire(weir_engine *g, int32_t i, weir_end end, const weir_err *err) {
  job *j = g->job[i];
  weir_request *r = j->req;
  weir_err show_err;
  if (show(g, j, true, &show_err) != WEIR_OK && end != WEIR_END_ERROR) {
    end = WEIR_END_ERROR;
    err = &show_err;
  }
  r->counts.new_tokens = r->view.committed - r->n_prompt;
  for (int32_t k = 0; k < r->counts.new_tokens; k++) r->counts.by_tier[weir_request_receipt(r, k).tier]++;
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    weir_plan_publish(r, t, &g->tier[t].kv);
    g->tier[t].prefix_hit_tokens += r->counts.prefix_hit[t];
  }
  const int64_t now = weir_now_ns(&g->cfg.clock);
  const weir_outcome outcome = {.id = r->id,
                                .end = end,
                                .err = end == WEIR_END_ERROR ? err : NULL,
                                .n_prompt = r->n_prompt,
                                .counts = &r->counts,
                                .queued_ns = (j->started_ns ? j->started_ns : now) - j->submitted_ns,
                                .first_token_ns = (j->first_ns ? j->first_ns : now) - j->submitted_ns,
                                .total_ns = now - j->submitted_ns};
  g->n_jobs--;
  if (i < g->n_active) g->n_active--;
  memmove(&g->job[i], &g->job[i + 1], (size_t)(g->n_jobs - i) * sizeof *g->job);
  if (j->spec.on_done) j->spec.on_done(j->spec.ctx, &outcome);
  job_destroy(g, j);
}

static weir_end natural_end(const job *j) {
  return j->stream.stopped ? WEIR_END_STOP : j->at_eos ? WEIR_END_EOS : WEIR_END_LENGTH;
}

/* Takes in new jobs, lets finished and cancelled ones go, and asks the others what they need. */
static void sweep(weir_engine *g) {
  for (int32_t i = 0; i < g->n_jobs;) {
    if (g->job[i]->cancelled)
      retire(g, i, WEIR_END_CANCEL, NULL);
    else
      i++;
  }
  const int64_t now = weir_now_ns(&g->cfg.clock);
  for (int32_t i = 0; i < g->n_jobs && i < g->cfg.max_active;) {
    job *j = g->job[i];
    if (i >= g->n_active) {
      j->started_ns = now;
      g->n_active = i + 1;
    }
    if (!weir_request_next(j->req, now))
      retire(g, i, natural_end(j), NULL);
    else
      i++;
  }
}

/* ---- steps ---- */

/* Which tier runs now; -1: nobody waits. Deferrals are gathered into a batch but never wait long: a large
 * step reads all its weights whether one request waits or many. */
static int32_t choose(const weir_engine *g) {
  int32_t waiting[WEIR_MAX_TIERS] = {0};
  int64_t oldest = INT64_MAX;
  for (int32_t i = 0; i < g->n_active; i++) {
    const weir_request *r = g->job[i]->req;
    waiting[r->need.tier]++;
    if (r->need.tier == 1 && r->since_ns < oldest) oldest = r->since_ns;
  }
  if (waiting[1] == 0) return waiting[0] > 0 ? 0 : -1;
  if (waiting[0] == 0) return 1;
  const bool enough = g->cfg.large_batch > 0 && waiting[1] >= g->cfg.large_batch;
  return enough || weir_now_ns(&g->cfg.clock) - oldest >= g->cfg.large_wait_ns ? 1 : 0;
}

static int32_t place_of(const weir_engine *g, const weir_request *r) {
  for (int32_t i = 0; i < g->n_active; i++)
    if (g->job[i]->req == r) return i;
  return -1;
}

/* A tier has failed: who needs it ends with the reason, the others go on without it. */
static void bury(weir_engine *g, int32_t t, const weir_err *why) {
  g->tier[t].dead = true;
  g->tier[t].why_dead = *why;
  weir_log(WEIR_LOG_ERROR, "%s", why->msg); /* which begins with the model */
  const weir_err err = *why;
  for (int32_t i = 0; i < g->n_jobs;) {
    weir_request *r = g->job[i]->req;
    const weir_cascade_cfg *c = r->cascade.cfg;
    if (t > 0 && (r->cascade.pinned || c->n_tiers <= t)) {
      i++; /* never goes there */
    } else if (t > 0 && survives_without_large(c)) {
      r->cascade.hi = t - 1;
      r->view.committed = weir_cascade_commit(&r->cascade, &r->view);
      if (r->need.tier == t) r->waiting = false; /* asks again */
      i++;
    } else {
      retire(g, i, WEIR_END_ERROR, &err);
    }
  }
}

/* All rows of a request are in. */
static weir_status advance(weir_engine *g, job *j, weir_err *e) {
  weir_request *r = j->req;
  weir_status st = WEIR_OK;
  int32_t same;
  weir_request_observe(r, weir_now_ns(&g->cfg.clock), &same);
  weir_stream_truncate(&j->stream, same - r->n_prompt);
  while (j->stream.n < weir_request_n_new(r)) {
    const int32_t id = r->tok[r->n_prompt + j->stream.n];
    WEIR_TRY(weir_stream_append(&j->stream, id, e));
    j->at_eos = !j->spec.ignore_eos && weir_tokenizer_is_end(g->cfg.tokenizer, id);
  }
  const int32_t n_new = weir_request_n_new(r);
  if (n_new == 0) j->at_eos = false;
  r->view.ended = n_new > 0 && (j->stream.stopped || j->at_eos || n_new >= r->max_new);
  WEIR_TRY(show(g, j, false, e));
out:
  return st;
}

static weir_status run_step(weir_engine *g, int32_t t, weir_err *e) {
  tier *y = &g->tier[t];
  weir_request *culprit;
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < g->n_active; i++) g->req[i] = g->job[i]->req;
  weir_err why;
  st = weir_plan_build(&y->plan, t, g->req, g->n_active, &y->kv, &culprit, &why);
  if (st != WEIR_OK) {
    retire(g, place_of(g, culprit), WEIR_END_ERROR, &why);
    return WEIR_OK;
  }
  if (y->plan.n_items == 0) return weir_fail(e, WEIR_EBUSY, "no request could be placed on tier %d", t);

  const weir_batch batch = weir_batch_get(&y->plan.batch);
  weir_result result = {.row = y->rows}, *done = NULL;
  WEIR_TRY(y->exec->ops->submit(y->exec, &batch, &result, e));
  WEIR_TRY(y->exec->ops->wait(y->exec, &done, e));
  if (done->status != WEIR_OK) {
    bury(g, t, &done->err);
    return WEIR_OK;
  }
  y->steps++;
  y->n_rows += batch.n_tokens;
  y->busy_ns += done->device_ns;
  weir_plan_finish(&y->plan, t, y->rows, &y->kv);
  if (g->cfg.on_step)
    g->cfg.on_step(
        g->cfg.hooks_ctx, t,
        &(weir_step_note){.rows = batch.n_tokens, .seqs = batch.n_seqs, .device_ns = done->device_ns});
  for (int32_t i = 0; i < y->plan.n_items; i++) {
    const weir_plan_item *it = &y->plan.item[i];
    if (it->req->fed_to < it->req->need.to) continue; /* more chunks to come */
    WEIR_TRY(advance(g, g->job[place_of(g, it->req)], e));
  }
out:
  return st;
}

weir_status weir_engine_step(weir_engine *g, bool *busy, weir_err *e) {
  weir_status st = WEIR_OK;
  sweep(g);
  const int32_t t = choose(g);
  if (t >= 0) {
    st = run_step(g, t, e);
    /* Every waiter of this tier is short of pages held by waiters of the other: those go first. */
    if (st == WEIR_EBUSY && g->cfg.n_tiers > 1) st = run_step(g, 1 - t, e);
    sweep(g);
  }
  *busy = g->n_jobs > 0;
  return st;
}

int64_t weir_engine_next_wake_ns(const weir_engine *g) { return g->n_jobs > 0 ? 0 : INT64_MAX; }

weir_engine_stats weir_engine_get_stats(const weir_engine *g) {
  weir_engine_stats s = {.active = g->n_active, .queued = g->n_jobs - g->n_active};
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    const tier *y = &g->tier[t];
    s.tier[t] =
        (weir_tier_stats){.steps = y->steps,
                          .rows = y->n_rows,
                          .busy_ns = y->busy_ns,
                          .preempted = y->plan.preempted,
                          .prefix_hit_tokens = y->prefix_hit_tokens,
                          .kv_pages = weir_pages_total(y->kv.pages),
                          .kv_pages_used = weir_pages_total(y->kv.pages) - weir_pages_free(y->kv.pages),
                          .dead = y->dead};
  }
  return s;
}
