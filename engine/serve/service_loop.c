/* SPDX-License-Identifier: Apache-2.0 */
/* The loop thread: owns the engine and all that is with it. Takes requests and cancellations from a list
 * under the service's lock, steps, and sleeps when there is nothing to do. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "serve/service_drift.h"
#include "serve/service_in.h"

/* ---- what the engine calls ---- */

static bool is_stop_id(const weir_reply *r, int32_t id, int32_t index) {
  if (index < r->job.min_new) return false;
  for (int32_t i = 0; i < r->n_stop_ids; i++)
    if (r->stop_id[i] == id) return true;
  return false;
}

static void on_piece(void *ctx, const weir_piece *p) {
  weir_reply *r = ctx;
  weir_service *s = r->of;
  if (r->cut != WEIR_CUT_NOT) return;
  weir_err e;
  if (weir_reply_log_append(&r->log, p->receipt, p->text, p->len, p->top, p->n_top, &e) != WEIR_OK) {
    r->cut = WEIR_CUT_MEMORY;
    return;
  }
  s->news = true;
  const int64_t now = weir_service_now(s);
  const bool first = r->first_ns == 0;
  weir_service_metrics_token(&s->metrics, p->receipt, first ? -1 : now - r->last_ns);
  if (first) {
    r->first_ns = now;
    weir_metric_observe(s->metrics.ttft, (double)(now - r->submitted_ns) * 1e-9);
    weir_metric_inc(s->metrics.prompt_tokens, r->job.n_prompt);
    atomic_store_explicit(&r->state, WEIR_REPLY_WRITING, memory_order_release);
  }
  r->last_ns = now;
  if (is_stop_id(r, p->receipt->id, p->index)) r->cut = WEIR_CUT_STOP_ID;
}

static const char *find(const char *text, size_t n, size_t from, const char *what, size_t len) {
  for (size_t at = from; at + len <= n; at++)
    if (memcmp(text + at, what, len) == 0) return text + at;
  return NULL;
}

/* Which stop string ended the text: the one that begins first of those that its last token completed. */
static const char *met_stop(weir_service *s, const weir_reply *r) {
  weir_buf text = {0};
  weir_detok d = {.started = true};
  weir_err e;
  size_t before = 0, best = SIZE_MAX;
  const char *met = r->job.stop[0];
  const int32_t n = weir_reply_log_n(&r->log);
  if (r->job.n_stop == 1) return met;
  for (int32_t i = 0; i < n; i++) {
    before = text.len;
    if (weir_detok_put(&d, s->cfg.engine.tokenizer, weir_reply_log_at(&r->log, i)->receipt.id,
                       r->job.show_special, &text, &e) != WEIR_OK)
      break;
  }
  for (int32_t i = 0; i < r->job.n_stop && text.len > 0; i++) {
    const size_t len = strlen(r->job.stop[i]);
    const size_t from = before >= len ? before - len + 1 : 0;
    const char *at = find(text.data, text.len, from, r->job.stop[i], len);
    if (at && (size_t)(at - text.data) < best) {
      best = (size_t)(at - text.data);
      met = r->job.stop[i];
    }
  }
  weir_buf_fini(&text);
  return met;
}

static void from_list(weir_service *s, weir_reply *r) {
  s->at[r->place] = s->at[--s->n_at];
  s->at[r->place]->place = r->place;
}

static int32_t code_of(weir_status st) {
  return st == WEIR_EINVAL || st == WEIR_EUNSUP ? 400
         : st == WEIR_EBUSY                     ? 429
         : st == WEIR_EDEVICE                   ? 503
                                                : 500;
}

/* A tier has died that it cannot do without: of those the one that takes longest to come back. */
static uint32_t retry_ms(const weir_reply *r) {
  const weir_service *s = r->of;
  uint32_t most = 1000;
  for (int32_t t = 0; t < s->cfg.engine.n_tiers; t++) {
    const uint32_t ms = weir_service_retry_ms(s, t);
    if (weir_engine_needs_tier(&r->cascade, r->job.pinned, t) && ms > most) most = ms;
  }
  return most;
}

static void on_done(void *ctx, const weir_outcome *o) {
  weir_reply *r = ctx;
  weir_service *s = r->of;
  weir_service_error x = {0};
  weir_end end = o->end;
  const int32_t cancelled = atomic_load(&r->cancelled);
  if (r->cut == WEIR_CUT_STOP_ID) {
    end = WEIR_END_EOS;
  } else if (r->cut == WEIR_CUT_MEMORY) {
    end = WEIR_END_ERROR;
    weir_service_error_set(&x, 500, "", "out of memory for the reply");
  } else if (end == WEIR_END_STOP && r->job.n_stop > 0) {
    r->end.stop = met_stop(s, r);
  } else if (end == WEIR_END_DEADLINE) {
    weir_service_error_set(&x, 504, "deadline_ms", "the deadline passed");
  } else if (end == WEIR_END_ERROR) {
    weir_service_error_set(&x, o->err ? code_of(o->err->code) : 500, "", "%s",
                           o->err ? o->err->msg : "it failed");
    if (x.code == 503) x.retry_after_ms = retry_ms(r);
  }
  from_list(s, r);
  weir_service_drift_ended(s->drift, r, end);
  weir_reply_finish(r, end, &x, o, cancelled > 0 ? (weir_cancel_why)(cancelled - 1) : WEIR_CANCEL_SHUTDOWN);
  weir_reply_unref(r);
}

/* ---- the loop ---- */

static void admit(weir_service *s, weir_reply *r) {
  weir_service_error x = {0};
  weir_err e = {0};
  const int32_t cancelled = atomic_load(&r->cancelled);
  if (cancelled > 0) {
    weir_reply_finish(r, WEIR_END_CANCEL, NULL, NULL, (weir_cancel_why)(cancelled - 1));
    weir_reply_unref(r);
    return;
  }
  r->job.on_piece = on_piece;
  r->job.on_done = on_done;
  r->job.ctx = r;
  r->accepted_ns = weir_service_now(s);
  const weir_status st = atomic_load(&s->broken) ? weir_fail(&e, WEIR_EDEVICE, "the engine has failed")
                                                 : weir_engine_submit(s->engine, &r->job, &r->engine_id, &e);
  weir_tokens_fini(&r->prompt); /* the engine has a copy */
  weir_reply_drop_words(r);
  if (st != WEIR_OK) {
    const char *param = strncmp(e.msg, "choices", 7) == 0 ? "choices" : ""; /* found out with their tokens */
    weir_service_error_set(&x, code_of(st), param, "%s", e.msg);
    if (x.code == 503 || x.code == 429) x.retry_after_ms = x.code == 503 ? retry_ms(r) : 1000;
    weir_reply_finish(r, WEIR_END_ERROR, &x, NULL, WEIR_CANCEL_CLIENT);
    weir_reply_unref(r);
    return;
  }
  r->place = s->n_at;
  s->at[s->n_at++] = r;
  s->news = true;
  atomic_store_explicit(&r->state, WEIR_REPLY_PROMPT, memory_order_release);
}

static struct timespec in_ns(int64_t ns) {
  enum { MOST_NS = 1000000000 }; /* a clock of a test may stand: look again now and then */
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_nsec += ns < MOST_NS ? (long)ns : MOST_NS;
  if (t.tv_nsec >= 1000000000) {
    t.tv_nsec -= 1000000000;
    t.tv_sec++;
  }
  return t;
}

/* Waits until there is something to do; false: stop. *in: requests that have come. */
static bool wait_for_work(weir_service *s, bool busy, weir_work_queue *in) {
  const int64_t now = weir_service_now(s), wake = busy ? weir_engine_next_wake_ns(s->engine) : INT64_MAX;
  bool timed_out = busy && wake <= now;
  if (!busy) atomic_store(&s->busy, false);
  pthread_mutex_lock(&s->lock);
  while (!s->stop && !s->inbox.first && !s->kick && !timed_out) {
    if (!busy) {
      pthread_cond_wait(&s->loop_wake, &s->lock);
    } else {
      const struct timespec until = in_ns(wake - now);
      timed_out = pthread_cond_timedwait(&s->loop_wake, &s->lock, &until) == ETIMEDOUT;
    }
  }
  *in = s->inbox;
  s->inbox = (weir_work_queue){0};
  s->kick = false;
  for (weir_work *w = in->first; w; w = w->next) w->in = NULL;
  const bool stop = s->stop;
  pthread_mutex_unlock(&s->lock);
  if (!busy) {
    atomic_store(&s->progress_ns, weir_service_now(s));
    atomic_store(&s->busy, true);
  }
  return !stop;
}

static void pass_cancels(weir_service *s) {
  for (int32_t i = 0; i < s->n_at; i++) {
    const weir_reply *r = s->at[i];
    if (r->cut != WEIR_CUT_NOT || atomic_load(&r->cancelled) > 0) weir_engine_cancel(s->engine, r->engine_id);
  }
}

/* Time of forward passes that the loop's own thread has run. */
static int64_t computed_ns(const weir_service *s, const weir_engine_stats *x) {
  int64_t ns = 0;
  for (int32_t t = 0; t < s->cfg.engine.n_tiers; t++)
    if (!s->cfg.engine.tier[t]->async) ns += x->tier[t].busy_ns;
  return ns;
}

void weir_service_note_tiers(weir_service *s, const weir_engine_stats *now) {
  for (int32_t t = 0; t < s->cfg.engine.n_tiers; t++) {
    const weir_tier_stats *y = &now->tier[t];
    atomic_store(&s->lost[t], y->dead && !y->awaited);
    if (y->awaited) atomic_store(&s->progress_ns, weir_service_now(s)); /* to wait for it is no standstill */
  }
}

static void publish(weir_service *s) {
  const weir_engine_stats now = weir_engine_get_stats(s->engine);
  weir_service_metrics_engine(&s->metrics, s->cfg.engine.n_tiers, &now);
  const int32_t open = atomic_load(&s->open);
  weir_metric_set(s->metrics.waiting, open > now.active ? open - now.active : 0);
  weir_metric_set(s->metrics.reply_bytes, (double)atomic_load(&s->reply_bytes));
  atomic_store(&s->running, now.active);
  weir_service_note_tiers(s, &now);
  s->computed_ns = computed_ns(s, &now);
  pthread_mutex_lock(&s->stats_lock);
  s->stats = now;
  pthread_mutex_unlock(&s->stats_lock);
}

/* The engine itself failed, not a tier of it: nothing it holds can be trusted. */
static void give_up(weir_service *s, const weir_err *why) {
  weir_service_error x;
  weir_log(WEIR_LOG_ERROR, "the engine has failed: %s", why->msg);
  atomic_store(&s->broken, true);
  weir_service_error_set(&x, 500, "", "the engine has failed: %s", why->msg);
  weir_engine_destroy(s->engine); /* which tells nobody */
  s->engine = NULL;
  atomic_store(&s->running, 0);
  while (s->n_at > 0) {
    weir_reply *r = s->at[--s->n_at];
    weir_reply_finish(r, WEIR_END_ERROR, &x, NULL, WEIR_CANCEL_CLIENT);
    weir_reply_unref(r);
  }
}

/* With a list in hand that the service does not know of any more. */
static void put_back(weir_service *s, weir_work_queue *in) {
  pthread_mutex_lock(&s->lock);
  while (in->first) {
    weir_work *w = in->first;
    in->first = w->next;
    weir_work_put(&s->inbox, w);
  }
  pthread_mutex_unlock(&s->lock);
}

void *weir_service_loop_main(void *ctx) {
  weir_service *s = ctx;
  weir_work_queue in;
  weir_err e = {0};
  bool busy = false;
  while (wait_for_work(s, busy, &in)) {
    const int64_t began = weir_service_now(s), computed = s->computed_ns;
    while (in.first) {
      weir_work *w = in.first;
      in.first = w->next;
      admit(s, (weir_reply *)w);
    }
    if (!s->engine) {
      busy = false;
      continue;
    }
    pass_cancels(s);
    const weir_status st = weir_engine_step(s->engine, &busy, &e);
    if (st == WEIR_OK) {
      publish(s);
    } else {
      give_up(s, &e);
      busy = false;
    }
    if (s->news) weir_service_tell(s);
    s->news = false;
    /* A clock of a test may stand or jump: a counter takes nothing below 0. */
    weir_metric_inc(s->metrics.overhead,
                    1e-9 * (double)(weir_service_now(s) - began - (s->computed_ns - computed)));
  }
  put_back(s, &in);
  return NULL;
}
