/* SPDX-License-Identifier: Apache-2.0 */
/* The service's life and health. Two threads are started here; what passes between them and the edges are
 * lists of requests under one short lock, and atomics. Nothing is called out of the service's files while the
 * lock is held. */
#include "serve/service.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mem.h"
#include "serve/goodput.h"
#include "serve/service_drift.h"
#include "serve/service_in.h"

int weir_service_news_fd(const weir_service *s) { return s->news_fd; }
const weir_service_cfg *weir_service_get_cfg(const weir_service *s) { return &s->cfg; }

/* ---- health ---- */

static double stood_for(int64_t since, int64_t now) { return (double)(now - since) * 1e-9; }

uint32_t weir_service_retry_ms(const weir_service *s, int32_t tier) {
  enum { GONE_MS = 30000, COMES_BACK_MS = 5000 }; /* a new process; a new life in this one */
  return s->cfg.engine.tier[tier]->life ? COMES_BACK_MS : GONE_MS;
}

static void fill_tiers(weir_service *s, weir_service_health *h, int64_t now) {
  static const char *const name[WEIR_MAX_TIERS] = {"small", "large", "third", "fourth"};
  h->n_tiers = s->cfg.engine.n_tiers;
  pthread_mutex_lock(&s->stats_lock); /* held for a copy alone */
  for (int32_t t = 0; t < h->n_tiers; t++) {
    const weir_tier_stats *from = &s->stats.tier[t];
    weir_tier_health *to = &h->tier[t];
    to->name = name[t];
    to->up = !from->dead;
    to->comes_back = from->comes_back;
    to->for_ns = now > from->since_ns ? now - from->since_ns : 0;
    to->deaths = from->deaths;
    snprintf(to->why, sizeof to->why, "%s", from->why_dead);
    weir_service_clean_text(to->why);
  }
  pthread_mutex_unlock(&s->stats_lock);
}

/* Whether a tier is down that requests cannot do without that ask for nothing. */
static bool miss_a_tier(const weir_service *s, weir_service_health *h) {
  for (int32_t t = 0; t < h->n_tiers; t++) {
    const weir_tier_health *y = &h->tier[t];
    if (y->up || !s->needs[t]) continue;
    h->ready = false;
    /* Where only a new process brings it back: not live, so that a supervisor makes one. With the large one
     * gone requests may still ask for the small. */
    if (t == 0 && !y->comes_back) h->live = false;
    snprintf(h->reason, sizeof h->reason, "the %s%smodel %s: %s", h->n_tiers > 1 ? y->name : "",
             h->n_tiers > 1 ? " " : "", y->comes_back ? "is down" : "has failed", y->why);
    weir_service_clean_text(h->reason);
    return true;
  }
  return false;
}

weir_service_health weir_service_get_health(weir_service *s) {
  const bool busy = atomic_load(&s->busy); /* first: the loop sets it when its progress is of now */
  const int64_t progress = atomic_load(&s->progress_ns), now = weir_service_now(s);
  int64_t preparing = 0;
  for (int32_t i = 0; i < s->n_preparers; i++) {
    const int64_t since = atomic_load(&s->preparer[i].since_ns);
    if (since != 0 && (preparing == 0 || since < preparing)) preparing = since;
  }
  const int32_t open = atomic_load(&s->open), running = atomic_load(&s->running);
  weir_service_health h = {.live = true,
                           .ready = true,
                           .running = running,
                           .waiting = open > running ? open - running : 0,
                           .limit = s->cfg.max_requests};
  fill_tiers(s, &h, now);
  if (atomic_load(&s->broken)) {
    h.live = h.ready = false;
    snprintf(h.reason, sizeof h.reason, "the engine has failed");
  } else if (busy && now - progress > s->cfg.stall_ns) {
    h.live = h.ready = false;
    snprintf(h.reason, sizeof h.reason, "the step loop has stood for %.0f s", stood_for(progress, now));
  } else if (preparing != 0 && now - preparing > s->cfg.stall_ns) {
    h.live = h.ready = false;
    snprintf(h.reason, sizeof h.reason, "the preparation of requests has stood for %.0f s",
             stood_for(preparing, now));
  } else if (!miss_a_tier(s, &h) && atomic_load(&s->draining)) {
    h.ready = false;
    snprintf(h.reason, sizeof h.reason, "draining");
  }
  return h;
}

/* Nothing was run for as long as goodput looks back. */
static bool is_idle(weir_service *s) {
  const int64_t window = WEIR_GOODPUT_SLOTS * INT64_C(250000000); /* a slot is a quarter of a second */
  return !atomic_load(&s->busy) && weir_service_now(s) - atomic_load(&s->progress_ns) > window;
}

weir_engine_stats weir_service_get_stats(weir_service *s) {
  const bool idle = is_idle(s);
  pthread_mutex_lock(&s->stats_lock);
  weir_engine_stats copy = s->stats;
  pthread_mutex_unlock(&s->stats_lock);
  if (idle) copy.goodput = copy.large_only_goodput = 0;
  return copy;
}

void weir_service_refresh_metrics(weir_service *s) {
  const int32_t open = atomic_load(&s->open), running = atomic_load(&s->running);
  weir_metric_set(s->metrics.running, running);
  weir_metric_set(s->metrics.waiting, open > running ? open - running : 0);
  weir_metric_set(s->metrics.reply_bytes, (double)atomic_load(&s->reply_bytes));
  pthread_mutex_lock(&s->stats_lock);
  weir_service_metrics_down(&s->metrics, s->cfg.engine.n_tiers, &s->stats, weir_service_now(s));
  pthread_mutex_unlock(&s->stats_lock);
  if (!is_idle(s)) return;
  weir_metric_set(s->metrics.goodput, 0);
  weir_metric_set(s->metrics.large_only_goodput, 0);
}

void weir_service_drain(weir_service *s) { atomic_store(&s->draining, true); }
int32_t weir_service_open_requests(const weir_service *s) { return atomic_load(&s->open); }

/* ---- hooks of the engine ---- */

static void on_ready(void *ctx) {
  weir_service *s = ctx;
  pthread_mutex_lock(&s->lock);
  s->kick = true;
  pthread_cond_signal(&s->loop_wake);
  pthread_mutex_unlock(&s->lock);
}

static void on_step(void *ctx, int32_t tier, const weir_step_note *n) {
  weir_service *s = ctx;
  atomic_store(&s->progress_ns, weir_service_now(s));
  weir_service_metrics_step(&s->metrics, tier, n);
}

/* ---- birth ---- */

static weir_status check_cfg(const weir_service_cfg *c, weir_err *e) {
  if (c->max_requests < 1)
    return weir_fail(e, WEIR_EINVAL, "max_requests is %d, want 1 or more", c->max_requests);
  if (!c->model || !c->model[0]) return weir_fail(e, WEIR_EINVAL, "the model has no name");
  if (!c->metrics || !c->prepare_tokenizer)
    return weir_fail(e, WEIR_EINVAL, "metrics or tokenizer are missing");
  if (c->prepare_tokenizer == c->engine.tokenizer || c->long_tokenizer == c->engine.tokenizer ||
      c->prepare_tokenizer == c->long_tokenizer)
    return weir_fail(e, WEIR_EINVAL, "every thread needs a tokenizer of its own");
  if (c->engine.n_tiers < 1 || c->engine.n_tiers > WEIR_SM_TIERS)
    return weir_fail(e, WEIR_EINVAL, "%d tiers, want 1 or 2", c->engine.n_tiers);
  return WEIR_OK;
}

static void set_limits(weir_service *s) {
  const weir_service_cfg *c = &s->cfg;
  s->n_ctx = s->n_vocab = INT32_MAX;
  for (int32_t t = 0; t < c->engine.n_tiers; t++) {
    const weir_exec_info *info = &c->engine.tier[t]->info;
    if (info->n_ctx < s->n_ctx) s->n_ctx = info->n_ctx;
    if (info->n_vocab < s->n_vocab) s->n_vocab = info->n_vocab;
  }
  const int32_t limit = c->max_tokens_limit, usual = c->max_tokens_default;
  s->max_tokens_limit = limit > 0 && limit < s->n_ctx ? limit : s->n_ctx;
  s->max_tokens_default = usual > 0 && usual < s->max_tokens_limit ? usual : s->max_tokens_limit;
  s->cfg.max_tokens_limit = s->max_tokens_limit; /* for those who ask */
  s->cfg.max_tokens_default = s->max_tokens_default;
}

static weir_str spelling(const weir_tokenizer *t, int32_t id) {
  return id >= 0 ? weir_token_bytes(t, id) : (weir_str){0};
}

static weir_status set_defaults(weir_service *s, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cascade_cfg cascade;
  const weir_tokenizer *t = s->cfg.prepare_tokenizer;
  if (s->cfg.stall_ns <= 0) s->cfg.stall_ns = 30000000000;
  if (s->cfg.engine.max_queued < s->cfg.max_requests) s->cfg.engine.max_queued = s->cfg.max_requests;
  if (!(s->cfg.draw.top_p > 0)) s->cfg.draw.top_p = 1;
  weir_cascade_cfg_single(&cascade);
  if (s->cfg.engine.n_tiers > 1) WEIR_TRY(weir_cascade_cfg_make(&s->cfg.cascade, &cascade, e));
  weir_metric_set(s->metrics.threshold, (double)cascade.gate[0].threshold);
  for (int32_t i = 0; i < s->cfg.engine.n_tiers; i++)
    s->needs[i] = weir_engine_needs_tier(&cascade, false, i);
  s->words.bos = spelling(t, weir_tokenizer_bos(t));
  s->words.eos = spelling(t, weir_tokenizer_eos(t));
  s->salt_key = weir_hash_key_draw();
  s->cfg.engine.on_step = on_step;
  s->cfg.engine.on_ready = on_ready;
  s->cfg.engine.hooks_ctx = s;
out:
  return st;
}

static void init_locks(weir_service *s) {
  pthread_condattr_t monotonic;
  pthread_mutex_init(&s->lock, NULL);
  pthread_mutex_init(&s->stats_lock, NULL);
  for (int i = 0; i < 2; i++) pthread_cond_init(&s->preparer[i].wake, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&s->loop_wake, &monotonic);
  pthread_condattr_destroy(&monotonic);
}

static void set_preparers(weir_service *s) {
  weir_tokenizer *more = s->cfg.long_tokenizer;
  s->n_preparers = more ? 2 : 1;
  s->preparer[0].tokenizer = s->cfg.prepare_tokenizer;
  s->preparer[0].shorts = true;
  s->preparer[0].longs = !more;
  s->preparer[1].tokenizer = more;
  s->preparer[1].longs = true;
  for (int i = 0; i < 2; i++) s->preparer[i].of = s;
}

static weir_status start(weir_service *s, weir_err *e) {
  if (pthread_create(&s->loop, NULL, weir_service_loop_main, s) != 0)
    return weir_fail(e, WEIR_EIO, "cannot start the loop thread");
  s->loop_started = true;
  for (int32_t i = 0; i < s->n_preparers; i++) {
    weir_preparer *p = &s->preparer[i];
    if (pthread_create(&p->thread, NULL, weir_service_prepare_main, p) != 0)
      return weir_fail(e, WEIR_EIO, "cannot start a preparing thread");
    p->started = true;
  }
  return WEIR_OK;
}

weir_status weir_service_create(const weir_service_cfg *cfg, weir_service **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_service *s = NULL;
  *out = NULL;
  WEIR_TRY(check_cfg(cfg, e));
  WEIR_TRY(WEIR_NEW(1, &s, e));
  s->cfg = *cfg;
  s->news_fd = -1;
  init_locks(s);
  s->model = strdup(cfg->model);
  if (!s->model) WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "cannot keep the model's name"));
  weir_service_clean_text(s->model);
  s->cfg.model = s->model;
  s->news_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (s->news_fd < 0) WEIR_TRY(weir_fail(e, WEIR_EIO, "eventfd: %s", strerror(errno)));
  WEIR_TRY(WEIR_NEW((size_t)cfg->max_requests, &s->at, e));
  set_limits(s);
  WEIR_TRY(weir_service_metrics_init(&s->metrics, cfg->metrics, s->model, cfg->engine.n_tiers, s->n_ctx, e));
  WEIR_TRY(set_defaults(s, e));
  WEIR_TRY(weir_service_drift_create(s, &s->drift, e));
  WEIR_TRY(weir_engine_create(&s->cfg.engine, &s->engine, e));
  s->stats = weir_engine_get_stats(s->engine);
  weir_service_metrics_engine(&s->metrics, cfg->engine.n_tiers, &s->stats);
  weir_service_note_tiers(s, &s->stats);
  set_preparers(s);
  WEIR_TRY(start(s, e));
  *out = s;
  s = NULL;
out:
  weir_service_destroy(s);
  return st;
}

/* ---- death ---- */

/* The threads are gone. */
static void end_left(weir_work_queue *q) {
  while (q->first) {
    weir_work *w = q->first;
    weir_work_unlink(w);
    if (w->is_call) {
      weir_call *c = (weir_call *)w;
      weir_service_error_set(&c->result.error, 503, "", "the server goes");
      weir_call_finish(c);
    } else {
      weir_reply *r = (weir_reply *)w;
      weir_reply_finish(r, WEIR_END_CANCEL, NULL, NULL, WEIR_CANCEL_SHUTDOWN);
      weir_reply_unref(r);
    }
  }
}

void weir_service_destroy(weir_service *s) {
  if (!s) return;
  atomic_store(&s->draining, true);
  pthread_mutex_lock(&s->lock);
  s->stop = true;
  for (int i = 0; i < 2; i++) pthread_cond_broadcast(&s->preparer[i].wake);
  pthread_cond_broadcast(&s->loop_wake);
  pthread_mutex_unlock(&s->lock);
  for (int i = 0; i < 2; i++)
    if (s->preparer[i].started) pthread_join(s->preparer[i].thread, NULL);
  if (s->loop_started) pthread_join(s->loop, NULL);
  weir_service_drift_destroy(s->drift);
  end_left(&s->short_work);
  end_left(&s->long_work);
  end_left(&s->inbox);
  weir_engine_destroy(s->engine);
  for (int32_t i = 0; i < s->n_at; i++) {
    weir_reply_finish(s->at[i], WEIR_END_CANCEL, NULL, NULL, WEIR_CANCEL_SHUTDOWN);
    weir_reply_unref(s->at[i]);
  }
  if (s->news_fd >= 0) close(s->news_fd);
  pthread_cond_destroy(&s->loop_wake);
  for (int i = 0; i < 2; i++) pthread_cond_destroy(&s->preparer[i].wake);
  pthread_mutex_destroy(&s->stats_lock);
  pthread_mutex_destroy(&s->lock);
  free(s->at);
  free(s->model);
  free(s);
}
