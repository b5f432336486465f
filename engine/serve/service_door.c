/* SPDX-License-Identifier: Apache-2.0 */
/* The service's door: requests, cancellations and questions to the tokenizer come in here, and what was
 * written is looked at. Any thread; the service's lock is held for as long as a list is changed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "serve/service_in.h"

enum { RETRY_FULL_MS = 1000, RETRY_DRAINING_MS = 5000, RETRY_BROKEN_MS = 30000 };

/* ---- lists and news ---- */

void weir_work_put(weir_work_queue *q, weir_work *w) {
  w->in = q;
  w->next = NULL;
  w->prev = q->last;
  if (q->last)
    q->last->next = w;
  else
    q->first = w;
  q->last = w;
}

void weir_work_unlink(weir_work *w) {
  weir_work_queue *q = w->in;
  if (w->prev)
    w->prev->next = w->next;
  else
    q->first = w->next;
  if (w->next)
    w->next->prev = w->prev;
  else
    q->last = w->prev;
  w->prev = w->next = NULL;
  w->in = NULL;
}

void weir_service_tell(weir_service *s) {
  const uint64_t one = 1;
  /* It fails only when the counter is at its end, and then the reader knows already. */
  const ssize_t n = write(s->news_fd, &one, sizeof one);
  (void)n;
}

/* A short text does not wait behind long ones. */
static void to_prepare(weir_service *s, weir_work *w, const weir_source *source) {
  const bool is_short = weir_source_bytes(source) <= WEIR_SERVICE_SHORT_BYTES;
  pthread_mutex_lock(&s->lock);
  weir_work_put(is_short ? &s->short_work : &s->long_work, w);
  for (int32_t i = 0; i < s->n_preparers; i++)
    if (is_short ? s->preparer[i].shorts : s->preparer[i].longs) pthread_cond_signal(&s->preparer[i].wake);
  pthread_mutex_unlock(&s->lock);
}

/* ---- requests ---- */

static weir_status refuse(weir_service *s, weir_refused why, weir_service_error *x, int32_t code,
                          uint32_t retry_ms, const char *text) {
  weir_metric_inc(s->metrics.refused[why], 1);
  const weir_status st = weir_service_error_set(x, code, "", "%s", text);
  x->retry_after_ms = retry_ms;
  return st;
}

void weir_service_count_refused(weir_service *s, weir_edge_full why) {
  if ((unsigned)why < WEIR_N_EDGE_FULL) weir_metric_inc(s->metrics.refused[WEIR_REFUSED_EDGE + why], 1);
}

/* Draining, broken, or full: known before anything is looked at. Reserves the place. */
static weir_status reserve(weir_service *s, weir_service_error *x) {
  if (atomic_load(&s->draining))
    return refuse(s, WEIR_REFUSED_DRAINING, x, 503, RETRY_DRAINING_MS, "the server is draining");
  if (atomic_load(&s->broken))
    return refuse(s, WEIR_REFUSED_DEAD, x, 503, RETRY_BROKEN_MS, "the engine has failed");
  if (atomic_fetch_add(&s->open, 1) < s->cfg.max_requests) return WEIR_OK;
  atomic_fetch_sub(&s->open, 1);
  return refuse(s, WEIR_REFUSED_FULL, x, 429, RETRY_FULL_MS, "too many requests are under way");
}

/* A tier is down that the request cannot do without. */
static weir_status check_tiers(weir_service *s, const weir_reply *r, weir_service_error *x) {
  static const char *const name[WEIR_MAX_TIERS] = {"small ", "large ", "", ""};
  char text[96];
  const int32_t n = s->cfg.engine.n_tiers;
  for (int32_t t = 0; t < n; t++) {
    if (!atomic_load(&s->lost[t]) || !weir_engine_needs_tier(&r->cascade, r->job.pinned, t)) continue;
    const bool returns = s->cfg.engine.tier[t]->life != NULL;
    snprintf(text, sizeof text, "the %smodel %s", n > 1 ? name[t] : "",
             returns ? "is down and comes back by itself: try again" : "has failed");
    return refuse(s, WEIR_REFUSED_DEAD, x, 503, weir_service_retry_ms(s, t), text);
  }
  return WEIR_OK;
}

weir_status weir_service_submit(weir_service *s, const weir_service_request *q, weir_reply **out,
                                int32_t *ahead, weir_service_error *x) {
  weir_reply *r = NULL;
  *out = NULL;
  *x = (weir_service_error){0};
  weir_status st = reserve(s, x);
  if (st != WEIR_OK) return st;
  st = weir_reply_create(s, q, &r, x);
  if (st != WEIR_OK) {
    weir_metric_inc(s->metrics.refused[x->code == 500 ? WEIR_REFUSED_FULL : WEIR_REFUSED_INVALID], 1);
  } else {
    st = check_tiers(s, r, x);
    if (st != WEIR_OK) weir_reply_free(r);
  }
  if (st != WEIR_OK) {
    atomic_fetch_sub(&s->open, 1);
    return st;
  }
  const int32_t before = atomic_load(&s->open) - 1 - atomic_load(&s->running);
  if (ahead) *ahead = before > 0 ? before : 0;
  if (r->job.pinned) weir_metric_inc(s->metrics.pinned, 1);
  *out = r;
  to_prepare(s, &r->work, &r->source);
  return WEIR_OK;
}

bool weir_reply_cancel(weir_reply *r, weir_cancel_why why) {
  weir_service *s = r->of;
  if ((unsigned)why >= WEIR_N_CANCELS) why = WEIR_CANCEL_CLIENT;
  pthread_mutex_lock(&s->lock);
  const weir_stage at = r->stage;
  if (at == WEIR_AT_PREPARE) weir_work_unlink(&r->work);
  if (at == WEIR_AT_LOOP) {
    int32_t none = 0;
    atomic_compare_exchange_strong(&r->cancelled, &none, 1 + (int32_t)why);
    s->kick = true;
    pthread_cond_signal(&s->loop_wake);
  } else {
    r->stage = WEIR_AT_END; /* now: a thread that is preparing it must not pass it on */
  }
  pthread_mutex_unlock(&s->lock);
  if (at == WEIR_AT_END) return false;
  if (at == WEIR_AT_LOOP) return true;
  weir_reply_finish_claimed(r, WEIR_END_CANCEL, NULL, NULL, why);
  if (at == WEIR_AT_PREPARE) weir_reply_unref(r); /* else the preparing thread will find the end and let go */
  return true;
}

void weir_reply_release(weir_reply *r) {
  if (r) weir_reply_unref(r);
}

weir_reply_state weir_reply_get_state(const weir_reply *r) {
  return (weir_reply_state)atomic_load_explicit(&r->state, memory_order_acquire);
}
int32_t weir_reply_n_prompt(const weir_reply *r) {
  return atomic_load_explicit(&r->n_prompt, memory_order_acquire);
}
const weir_reply_log *weir_reply_tokens(const weir_reply *r) { return &r->log; }
const weir_reply_end *weir_reply_get_end(const weir_reply *r) {
  return weir_reply_get_state(r) == WEIR_REPLY_ENDED ? &r->end : NULL;
}
int64_t weir_service_reply_bytes(const weir_service *s) { return atomic_load(&s->reply_bytes); }

/* ---- questions to the tokenizer ---- */

static void call_unref(weir_call *c) {
  if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1) return;
  weir_source_fini(&c->source);
  weir_tokens_fini(&c->ids);
  weir_buf_fini(&c->bytes);
  free(c->text);
  free(c);
}

void weir_call_finish(weir_call *c) {
  weir_service *s = c->of;
  atomic_fetch_sub(&s->calls, 1);
  atomic_store_explicit(&c->done, true, memory_order_release);
  call_unref(c);
  weir_service_tell(s);
}

/* The fields of a question have other names than those of a request. */
static void rename_field(weir_service_error *x, const char *from, const char *to) {
  char text[sizeof x->message];
  const size_t n = strlen(from);
  if (strcmp(x->param, from) != 0) return;
  snprintf(x->param, sizeof x->param, "%s", to);
  if (strncmp(x->message, from, n) != 0 || x->message[n] != ':') return;
  snprintf(text, sizeof text, "%s", x->message + n);
  snprintf(x->message, sizeof x->message, "%s%.400s", to, text);
  weir_service_clean_text(x->message);
}

static weir_status ask(weir_service *s, const weir_service_text *t, bool detokenize, weir_call **out,
                       weir_service_error *x) {
  weir_call *c = NULL;
  weir_err e;
  weir_status st = WEIR_OK;
  *out = NULL;
  *x = (weir_service_error){0};
  if (atomic_fetch_add(&s->calls, 1) >= WEIR_SERVICE_MAX_CALLS) {
    st = weir_service_error_set(x, 429, "", "too many calls of the tokenizer are under way");
    x->retry_after_ms = RETRY_FULL_MS;
  } else if (WEIR_NEW(1, &c, &e) != WEIR_OK) {
    st = weir_service_error_set(x, 500, "", "%s", e.msg);
  }
  if (st != WEIR_OK) goto out;
  c->work.is_call = true;
  c->of = s;
  c->refs = 2;
  c->detokenize = detokenize;
  if (!detokenize || t->n_ids > 0) st = weir_source_copy(s, t, &c->source, x);
  if (st != WEIR_OK) {
    rename_field(x, "prompt_ids", "id");
    rename_field(x, "prompt", "text");
    goto out;
  }
  *out = c;
  to_prepare(s, &c->work, &c->source);
  return WEIR_OK;
out:
  atomic_fetch_sub(&s->calls, 1);
  if (c) {
    c->refs = 1;
    call_unref(c);
  }
  return st;
}

weir_status weir_service_tokenize(weir_service *s, const weir_service_text *t, weir_call **out,
                                  weir_service_error *x) {
  return ask(s, t, false, out, x);
}

weir_status weir_service_detokenize(weir_service *s, const uint32_t *ids, size_t n, weir_call **out,
                                    weir_service_error *x) {
  const weir_service_text t = {.ids = ids, .n_ids = n};
  return ask(s, &t, true, out, x);
}

const weir_call_result *weir_call_get(const weir_call *c) {
  return atomic_load_explicit(&c->done, memory_order_acquire) ? &c->result : NULL;
}

void weir_call_release(weir_call *c) {
  if (c) call_unref(c);
}
