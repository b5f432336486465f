/* SPDX-License-Identifier: Apache-2.0 */
/* Executor with a thread. The caller's thread checks and hands over; the inner executor's wait, which does
 * the work, runs on the thread. One lock guards the state, another the notification, so that nobody is called
 * with the state locked and taking a notification back waits until one under way has returned. */
#include "run/exec_thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"

typedef enum { IDLE, SUBMITTED, DONE, QUIT } state;

typedef struct exec_thread {
  weir_exec base;
  weir_exec *inner;
  int64_t grace_ns;
  bool *left;
  pthread_t thread;
  pthread_mutex_t lock; /* of what follows, down to `err` */
  pthread_cond_t changed;
  state state;
  weir_result *result; /* of the step that is done */
  weir_status status;  /* of the inner wait */
  weir_err err;
  pthread_mutex_t notify_lock; /* of what follows */
  void (*fn)(void *ctx);
  void *ctx;
} exec_thread;

static void *run(void *arg) {
  exec_thread *x = arg;
  pthread_mutex_lock(&x->lock);
  for (;;) {
    while (x->state != SUBMITTED && x->state != QUIT) pthread_cond_wait(&x->changed, &x->lock);
    if (x->state == QUIT) break;
    pthread_mutex_unlock(&x->lock);
    weir_result *done = NULL;
    weir_err err = {0};
    const weir_status st = x->inner->ops->wait(x->inner, &done, &err);
    pthread_mutex_lock(&x->lock);
    x->result = done;
    x->status = st;
    x->err = err;
    x->state = DONE;
    pthread_cond_broadcast(&x->changed);
    pthread_mutex_unlock(&x->lock);
    pthread_mutex_lock(&x->notify_lock);
    if (x->fn) x->fn(x->ctx);
    pthread_mutex_unlock(&x->notify_lock);
    pthread_mutex_lock(&x->lock);
  }
  pthread_mutex_unlock(&x->lock);
  return NULL;
}

static weir_status submit(weir_exec *base, const weir_batch *b, weir_result *r, weir_err *e) {
  exec_thread *x = (exec_thread *)base;
  pthread_mutex_lock(&x->lock);
  weir_status st = WEIR_OK;
  if (x->state != IDLE)
    st = weir_fail(e, WEIR_EBUSY, "%s: a step is under way", base->info.name);
  else
    st = x->inner->ops->submit(x->inner, b, r, e); /* checks, and does not block */
  if (st == WEIR_OK) {
    x->state = SUBMITTED;
    pthread_cond_broadcast(&x->changed);
  }
  pthread_mutex_unlock(&x->lock);
  return st;
}

static weir_status wait(weir_exec *base, weir_result **done, weir_err *e) {
  exec_thread *x = (exec_thread *)base;
  pthread_mutex_lock(&x->lock);
  if (x->state == IDLE) {
    pthread_mutex_unlock(&x->lock);
    return weir_fail(e, WEIR_EINVAL, "%s: no step was submitted", base->info.name);
  }
  while (x->state == SUBMITTED) pthread_cond_wait(&x->changed, &x->lock);
  const weir_status st = x->status;
  *done = x->result;
  if (st != WEIR_OK && e) *e = x->err;
  x->state = IDLE;
  pthread_mutex_unlock(&x->lock);
  return st;
}

static bool ready(weir_exec *base) {
  exec_thread *x = (exec_thread *)base;
  pthread_mutex_lock(&x->lock);
  const bool is = x->state != SUBMITTED;
  pthread_mutex_unlock(&x->lock);
  return is;
}

static void notify(weir_exec *base, void (*fn)(void *ctx), void *ctx) {
  exec_thread *x = (exec_thread *)base;
  pthread_mutex_lock(&x->notify_lock);
  x->fn = fn;
  x->ctx = ctx;
  pthread_mutex_unlock(&x->notify_lock);
}

/* Waits for a step under way, but not for ever. */
static bool settle(exec_thread *x) {
  struct timespec until;
  int failed = 0;
  clock_gettime(CLOCK_MONOTONIC, &until);
  const int64_t ns = until.tv_nsec + x->grace_ns % 1000000000;
  until.tv_sec += x->grace_ns / 1000000000 + ns / 1000000000;
  until.tv_nsec = ns % 1000000000;
  while (x->state == SUBMITTED && failed != ETIMEDOUT)
    failed = x->grace_ns > 0 ? pthread_cond_timedwait(&x->changed, &x->lock, &until)
                             : pthread_cond_wait(&x->changed, &x->lock);
  return x->state != SUBMITTED;
}

static void destroy(weir_exec *base) {
  exec_thread *x = (exec_thread *)base;
  pthread_mutex_lock(&x->lock);
  const bool settled = settle(x);
  if (settled) x->state = QUIT;
  pthread_cond_broadcast(&x->changed);
  pthread_mutex_unlock(&x->lock);
  if (!settled) {
    weir_log(WEIR_LOG_ERROR, "%s: a step does not end; its thread is left behind", base->info.name);
    if (x->left) *x->left = true;
    pthread_detach(x->thread);
    return;
  }
  pthread_join(x->thread, NULL);
  x->inner->ops->destroy(x->inner);
  pthread_cond_destroy(&x->changed);
  pthread_mutex_destroy(&x->lock);
  pthread_mutex_destroy(&x->notify_lock);
  free(x);
}

static const weir_exec_ops ops = {submit, wait, destroy};
static const weir_exec_async async = {ready, notify};

static weir_status start(exec_thread *x, weir_err *e) {
  pthread_condattr_t attr;
  pthread_mutex_init(&x->lock, NULL); /* with default attributes these cannot fail */
  pthread_mutex_init(&x->notify_lock, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&x->changed, &attr);
  pthread_condattr_destroy(&attr);
  const int failed = pthread_create(&x->thread, NULL, run, x);
  if (!failed) return WEIR_OK;
  pthread_cond_destroy(&x->changed);
  pthread_mutex_destroy(&x->lock);
  pthread_mutex_destroy(&x->notify_lock);
  return weir_fail(e, WEIR_ENOMEM, "%s: cannot start a thread (error %d)", x->inner->info.name, failed);
}

weir_status weir_exec_thread_create(weir_exec *inner, int64_t grace_ns, bool *left, weir_exec **out,
                                    weir_err *e) {
  weir_status st = WEIR_OK;
  exec_thread *x = NULL;
  *out = NULL;
  if (grace_ns < 0) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "grace of %lld ns", (long long)grace_ns));
  WEIR_TRY(WEIR_NEW(1, &x, e));
  x->base = (weir_exec){.ops = &ops, .info = inner->info, .async = &async};
  x->inner = inner;
  x->grace_ns = grace_ns;
  x->left = left;
  WEIR_TRY(start(x, e));
  *out = &x->base;
  return WEIR_OK;
out:
  free(x);
  inner->ops->destroy(inner);
  return st;
}
