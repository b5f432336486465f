/* SPDX-License-Identifier: Apache-2.0 */
/* The team. Owns its threads. A job is posted as a number under the lock, and whoever waits looks at the
 * number without it for a moment before it sleeps: between the steps of a busy server lie some tens or
 * hundreds of microseconds. Measured on a virtual machine of two cores (benchmarks/bench_tp.c), an empty job
 * on a rank that looks takes 0.4 us at best and 1.6 in the median, on one that sleeps 75. With more ranks
 * than cores nobody looks: the core is needed by those who compute. */
#include "run/tp_team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"

enum { SPIN_NS = 200000, YIELD_AFTER_NS = 10000, LOOKS = 32 };

typedef struct rank {
  weir_tp_team *team;
  int32_t i;
  pthread_t thread;
  _Atomic uint32_t done; /* number of the last job it is done with */
} rank;

struct weir_tp_team {
  weir_tp_team_opts o;
  int64_t spin_ns;
  _Atomic uint32_t number; /* of the job last posted; written with the lock held */
  _Atomic int32_t left;    /* ranks that are not done with it */
  _Atomic bool busy;
  _Atomic int64_t done_ns; /* when the first was; 0: none yet */
  _Atomic int failed;      /* the weir_status of the first */
  pthread_mutex_t lock;
  pthread_cond_t posted;
  int32_t asleep;
  bool quit;
  weir_tp_job fn; /* written before `number`, read after it */
  void *ctx;
  rank *rank; /* [o.n], owned */
};

static bool look_for_job(weir_tp_team *t, uint32_t seen) {
  if (t->spin_ns == 0) return false;
  const int64_t from = weir_monotonic_ns();
  for (int64_t now = from; now - from < t->spin_ns; now = weir_monotonic_ns()) {
    for (int i = 0; i < LOOKS; i++) {
      if (atomic_load_explicit(&t->number, memory_order_acquire) != seen) return true;
      __builtin_ia32_pause();
    }
    if (now - from >= YIELD_AFTER_NS) sched_yield();
  }
  return false;
}

/* False: there will be none. */
static bool wait_for_job(weir_tp_team *t, uint32_t seen) {
  if (!look_for_job(t, seen)) {
    pthread_mutex_lock(&t->lock);
    t->asleep++;
    while (atomic_load_explicit(&t->number, memory_order_relaxed) == seen)
      pthread_cond_wait(&t->posted, &t->lock);
    t->asleep--;
    pthread_mutex_unlock(&t->lock);
  }
  return !t->quit;
}

static void *work(void *arg) {
  rank *r = arg;
  weir_tp_team *t = r->team;
  for (uint32_t seen = 0; wait_for_job(t, seen);) {
    weir_err e = {0};
    seen++; /* no job is posted before all are done with the one before */
    const weir_status st = t->fn(t->ctx, r->i, &e);
    int none = WEIR_OK;
    int64_t never = 0;
    (void)atomic_compare_exchange_strong(&t->done_ns, &never, weir_monotonic_ns());
    atomic_store(&r->done, seen);
    if (st != WEIR_OK && atomic_compare_exchange_strong(&t->failed, &none, (int)st) && t->o.on_fail)
      t->o.on_fail(t->o.ctx, r->i, &e);
    if (atomic_fetch_sub(&t->left, 1) > 1) continue;
    const weir_status first = (weir_status)atomic_load(&t->failed);
    atomic_store(&t->busy, false);
    if (t->o.on_done) t->o.on_done(t->o.ctx, first);
  }
  return NULL;
}

/* With the next number there is a job, or with `quit` none any more. */
static void post(weir_tp_team *t) {
  pthread_mutex_lock(&t->lock);
  atomic_fetch_add_explicit(&t->number, 1, memory_order_release);
  const bool wake = t->asleep > 0;
  pthread_mutex_unlock(&t->lock);
  if (wake) pthread_cond_broadcast(&t->posted);
}

weir_status weir_tp_team_start(weir_tp_team *t, weir_tp_job fn, void *ctx, weir_err *e) {
  bool idle = false;
  if (!atomic_compare_exchange_strong(&t->busy, &idle, true))
    return weir_fail(e, WEIR_EBUSY, "the ranks are at work");
  t->fn = fn;
  t->ctx = ctx;
  atomic_store(&t->failed, (int)WEIR_OK);
  atomic_store(&t->left, t->o.n);
  atomic_store(&t->done_ns, 0);
  post(t);
  return WEIR_OK;
}

static void stop(weir_tp_team *t, int32_t n_threads) {
  t->quit = true;
  post(t);
  for (int32_t i = 0; i < n_threads; i++) pthread_join(t->rank[i].thread, NULL);
  pthread_cond_destroy(&t->posted);
  pthread_mutex_destroy(&t->lock);
  free(t->rank);
  free(t);
}

weir_status weir_tp_team_create(const weir_tp_team_opts *o, weir_tp_team **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tp_team *t = NULL;
  weir_cores mine;
  int32_t n = 0;
  *out = NULL;
  if (o->n < 1) return weir_fail(e, WEIR_EINVAL, "%d ranks", o->n);
  WEIR_TRY(WEIR_NEW(1, &t, e));
  t->o = *o;
  pthread_mutex_init(&t->lock, NULL); /* with default attributes these cannot fail */
  pthread_cond_init(&t->posted, NULL);
  WEIR_TRY(WEIR_NEW((size_t)o->n, &t->rank, e));
  weir_cores_mine(&mine);
  t->spin_ns = o->n < weir_cores_quota(mine.n) ? SPIN_NS : 0;
  for (; n < o->n; n++) {
    t->rank[n].team = t;
    t->rank[n].i = n;
    const int failed = pthread_create(&t->rank[n].thread, NULL, work, &t->rank[n]);
    if (failed) WEIR_TRY(weir_fail(e, WEIR_EIO, "start the thread of a rank: %s", strerror(failed)));
  }
  *out = t;
  t = NULL;
out:
  if (t) stop(t, n);
  return st;
}

bool weir_tp_team_late(weir_tp_team *t, int64_t for_ns, int32_t *i) {
  const uint32_t number = atomic_load(&t->number);
  const int64_t done = atomic_load(&t->done_ns);
  if (!atomic_load(&t->busy) || done == 0 || weir_monotonic_ns() - done < for_ns) return false;
  for (*i = 0; *i < t->o.n; ++*i)
    if (atomic_load(&t->rank[*i].done) != number) return atomic_load(&t->number) == number;
  return false;
}

bool weir_tp_team_destroy(weir_tp_team *t) {
  if (!t) return true;
  if (atomic_load(&t->busy)) {
    for (int32_t i = 0; i < t->o.n; i++) pthread_detach(t->rank[i].thread);
    return false;
  }
  stop(t, t->o.n);
  return true;
}
