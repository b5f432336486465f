/* SPDX-License-Identifier: Apache-2.0 */
/* The thread team. Owns its workers; the thread that calls weir_pool_run is rank 0 for the length of the
 * call.
 *
 * A job is: fn and ctx are written, then its number. Whoever moves a rank's `taken` from the number before to
 * this one runs that rank: its worker as a rule, else the caller; the rank's `finished` follows. Since every
 * rank of every job is run by somebody, `taken` can only stand at the number before or at this one, and a
 * worker that wakes late finds its rank taken and goes back to wait. Who waits looks at the word for a while
 * and then sleeps on it.
 *
 * What a job costs beside its work is the time in which lines go from core to core (some 130 ns each on a
 * server of 2026), so they are counted: the post, with all that a worker must know of a job, goes to it; its
 * `taken` is there already, because it fetches that back while it waits; `finished`, beside `taken`, goes to
 * the caller. An empty job and its end take 0.3 us with one worker.
 *
 * Workers are pinned, the caller is not, unless that was asked for: its affinity is its own (threads it
 * creates later would inherit a narrow one). When it wakes a sleeping team while it happens to run on a
 * worker's core, it moves itself to the core left free for it, once, instead of waiting some milliseconds for
 * the balancer to do so. */
#define _GNU_SOURCE /* affinity */
#include "base/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"

enum {
  LINE = 64,
  THREADS_MAX = WEIR_CORES_MAX,
  SPIN_DEFAULT_NS =
      100000, /* several operations of a forward pass; a thousandth of a core-second a second of gaps */
  SPIN_CROWDED_NS = 5000, /* more threads than cores: whoever spins holds a core that another of us needs */
  YIELD_AFTER_NS = 10000, /* from here on somebody else may want this core: offer it between looks */
  LOOKS = 32, /* looks at a word, a pause apart, between readings of the clock: a microsecond or two */
  AHEAD_MOST = 256 << 10, /* bytes a worker fetches ahead: what it can in the time between two jobs ... */
  AHEAD_LINES = 4         /* ... so many lines at a time, between looks for a job */
};

/* What the caller writes of a job, in one line: who waits for the number gets the rest with it. */
typedef struct weir_post {
  _Alignas(LINE) _Atomic uint32_t number; /* of the job last posted */
  _Atomic uint32_t sleepers;              /* workers that sleep until it changes */
  void (*fn)(void *ctx, int32_t rank, int32_t n_threads);
  void *ctx;
} weir_post;

typedef struct worker {
  _Alignas(LINE) _Atomic uint32_t taken; /* number of the last job in which somebody took this rank */
  _Atomic uint32_t finished;             /* ... in which this rank is done */
  _Atomic(const void *) fetched_of;      /* data of which the worker has fetched ... */
  _Atomic size_t fetched;                /* ... so many bytes of its part */
  _Alignas(LINE) struct weir_pool *pool;
  pthread_t thread;
  int32_t rank;
} worker;

struct weir_pool {
  weir_post post;
  _Alignas(LINE) _Atomic(const void *) ahead; /* to be fetched between jobs; NULL: nothing */
  _Atomic size_t ahead_bytes;
  _Alignas(LINE) _Atomic bool leave;
  _Atomic bool caller_sleeps;
  int32_t n_threads;
  bool crowded; /* more threads than cores */
  bool pinned;  /* workers have a core each; core_of_caller is nobody's */
  bool pin_caller;
  pthread_t maker;
  int64_t spin_ns;
  int32_t core_of_caller;
  worker *workers; /* [n_threads-1], owned; rank 0 is the caller */
};

static void futex_sleep(_Atomic uint32_t *word, uint32_t while_equal) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, while_equal, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
}

/* Fetches a line that the caller looks at back, to be written. */
static inline void own(const _Atomic uint32_t *word) { __asm__ volatile("prefetchw %0" : : "m"(*word)); }

/* Waits for *word to differ from `old`, but no longer than one may spin; whether it does. `mine`, if not
 * NULL, is kept writable in this core's cache meanwhile. */
static inline __attribute__((always_inline)) bool spin(const weir_pool *p, const _Atomic uint32_t *word,
                                                       uint32_t old, const _Atomic uint32_t *mine) {
  const weir_clock clock = weir_clock_system();
  int64_t began = 0;
  for (;;) {
    for (int i = 0; i < LOOKS; i++) {
      if (atomic_load_explicit(word, memory_order_acquire) != old) return true;
      if (mine) own(mine);
      __builtin_ia32_pause();
    }
    const int64_t now = weir_now_ns(&clock);
    if (began == 0) began = now;
    if (now - began >= p->spin_ns) return false;
    if (p->crowded || now - began >= YIELD_AFTER_NS) sched_yield();
  }
}

/* Returns the number of the job that follows `seen`, or of a later one. */
static uint32_t wait_for_job(worker *w, uint32_t seen) {
  weir_post *o = &w->pool->post;
  if (!spin(w->pool, &o->number, seen, &w->taken)) {
    atomic_fetch_add(&o->sleepers, 1);
    while (atomic_load(&o->number) == seen) futex_sleep(&o->number, seen);
    atomic_fetch_sub(&o->sleepers, 1);
  }
  return atomic_load_explicit(&o->number, memory_order_acquire);
}

/* Returns once w's rank is done in job `number`, which its worker has taken. Sequentially consistent on both
 * sides: either the worker sees that the caller sleeps and wakes it, or the kernel sees the new number and
 * does not let it sleep. */
static void wait_for_rank(weir_pool *p, worker *w, uint32_t number) {
  const uint32_t before = number - 1;
  if (spin(p, &w->finished, before, NULL)) return;
  atomic_store(&p->caller_sleeps, true);
  while (atomic_load(&w->finished) == before) futex_sleep(&w->finished, before);
  atomic_store(&p->caller_sleeps, false);
}

/* Whether it falls to this thread to run w's rank of job `number`. Once it does, the job cannot end without
 * it. */
static bool take(worker *w, uint32_t number) {
  uint32_t before = number - 1;
  return atomic_compare_exchange_strong(&w->taken, &before, number);
}

/* Until there is a job after `number`, or nothing is left to fetch. */
static void fetch_ahead(worker *w, uint32_t number) {
  const weir_pool *p = w->pool;
  const void *data = atomic_load_explicit(&p->ahead, memory_order_relaxed);
  const size_t part = atomic_load_explicit(&p->ahead_bytes, memory_order_relaxed) / (size_t)p->n_threads;
  const size_t most = part < AHEAD_MOST ? part : AHEAD_MOST;
  uintptr_t at = (uintptr_t)data + part * (size_t)w->rank; /* a number: there may be no object any more */
  if (!data) return;
  if (atomic_load_explicit(&w->fetched_of, memory_order_relaxed) != data) w->fetched = 0;
  size_t n = w->fetched; /* another job came between: on from there */
  at += n;
  for (; n + AHEAD_LINES * LINE <= most; n += AHEAD_LINES * LINE) {
    if (atomic_load_explicit(&p->post.number, memory_order_relaxed) != number) break;
    for (int i = 0; i < AHEAD_LINES; i++, at += LINE) __builtin_prefetch((const void *)at, 0, 2);
    own(&w->taken);
  }
  atomic_store_explicit(&w->fetched, n, memory_order_relaxed);
  atomic_store_explicit(&w->fetched_of, data, memory_order_relaxed);
}

static void *work(void *arg) {
  worker *w = arg;
  weir_pool *p = w->pool;
  uint32_t number = 0;
  for (;;) {
    number = wait_for_job(w, number);
    if (atomic_load(&p->leave)) return NULL;
    if (!take(w, number)) continue;
    p->post.fn(p->post.ctx, w->rank, p->n_threads);
    atomic_store(&w->finished, number);
    if (atomic_load(&p->caller_sleeps)) futex_wake_all(&w->finished);
    fetch_ahead(w, number);
  }
}

static weir_status start_worker(worker *w, int32_t core, weir_err *e) {
  pthread_attr_t attr;
  int rc = pthread_attr_init(&attr);
  if (rc != 0) return weir_fail(e, WEIR_EIO, "thread attributes: %s", strerror(rc));
  if (core >= 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    pthread_attr_setaffinity_np(&attr, sizeof one, &one);
  }
  rc = pthread_create(&w->thread, &attr, work, w);
  pthread_attr_destroy(&attr);
  if (rc != 0) return weir_fail(e, WEIR_EIO, "start thread %d of the team: %s", w->rank, strerror(rc));
  return WEIR_OK;
}

static void stop_workers(weir_pool *p, int32_t n_started) {
  atomic_store(&p->leave, true);
  atomic_fetch_add(&p->post.number, 1);
  futex_wake_all(&p->post.number);
  for (int32_t i = 0; i < n_started; i++) pthread_join(p->workers[i].thread, NULL);
}

weir_status weir_pool_create(const weir_pool_opts *opts, weir_pool **out, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_pool_opts o = opts ? *opts : (weir_pool_opts){0};
  weir_pool *p = NULL;
  int32_t started = 0;
  *out = NULL;

  weir_cores mine;
  weir_cores_mine(&mine);
  const int32_t n_cores = mine.n > 0 ? mine.n : 1;
  const int32_t may_use = weir_cores_quota(n_cores);
  const int32_t n = o.n_threads ? o.n_threads : may_use;
  if (n < 1 || n > THREADS_MAX)
    return weir_fail(e, WEIR_EINVAL, "a team of %d threads: want 0 (one per core) or 1 to %d", n,
                     THREADS_MAX);
  for (int32_t i = 0; o.cores && i < n; i++)
    if (o.cores[i] < 0 || o.cores[i] >= CPU_SETSIZE)
      return weir_fail(e, WEIR_EINVAL, "a team on core %d", o.cores[i]);
  if (o.spin_ns < 0) return weir_fail(e, WEIR_EINVAL, "negative spin time");

  WEIR_TRY(weir_calloc_aligned(1, sizeof *p, "thread team", (void **)&p, e));
  WEIR_TRY(weir_calloc_aligned((size_t)n, sizeof *p->workers, "thread team", (void **)&p->workers, e));
  p->n_threads = n;
  p->crowded = n > may_use || o.crowded;
  p->pinned = !o.no_pin && (o.cores || (mine.n > 0 && n <= n_cores));
  const int32_t *core = o.cores ? o.cores : mine.core;
  p->core_of_caller = p->pinned ? core[0] : -1;
  p->pin_caller = p->pinned && o.pin_caller;
  p->maker = pthread_self();
  p->spin_ns = o.spin_ns ? o.spin_ns : SPIN_DEFAULT_NS;
  if (p->crowded && p->spin_ns > SPIN_CROWDED_NS) p->spin_ns = SPIN_CROWDED_NS;
  for (; started < n - 1; started++) {
    p->workers[started].pool = p;
    p->workers[started].rank = started + 1;
    WEIR_TRY(start_worker(&p->workers[started], p->pinned ? core[started + 1] : -1, e));
  }
  *out = p;
  p = NULL;

out:
  if (p) {
    if (p->workers) stop_workers(p, started);
    free(p->workers);
    free(p);
  }
  return st;
}

void weir_pool_destroy(weir_pool *p) {
  if (!p) return;
  stop_workers(p, p->n_threads - 1);
  free(p->workers);
  free(p);
}

int32_t weir_pool_size(const weir_pool *p) { return p->n_threads; }

/* Leaves a worker's core for the one kept free; the scheduler may move the caller again at will. */
static void step_aside(const weir_pool *p) {
  const int here = sched_getcpu();
  if (here < 0 || here == p->core_of_caller) return;
  cpu_set_t mine, free_one;
  if (sched_getaffinity(0, sizeof mine, &mine) != 0 || !CPU_ISSET(p->core_of_caller, &mine)) return;
  CPU_ZERO(&free_one);
  CPU_SET(p->core_of_caller, &free_one);
  if (sched_setaffinity(0, sizeof free_one, &free_one) == 0) sched_setaffinity(0, sizeof mine, &mine);
}

/* A core that is gone or forbidden by now leaves the thread where it is. */
static void pin_caller(const weir_pool *p) {
  static _Thread_local const weir_pool *pinned_for;
  if (pinned_for == p || pthread_equal(p->maker, pthread_self())) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(p->core_of_caller, &one);
  (void)sched_setaffinity(0, sizeof one, &one);
  pinned_for = p;
}

void weir_pool_run(weir_pool *p, void (*fn)(void *ctx, int32_t rank, int32_t n_threads), void *ctx) {
  if (p->pin_caller) pin_caller(p);
  if (p->n_threads == 1) {
    fn(ctx, 0, 1);
    return;
  }
  const uint32_t number = atomic_load_explicit(&p->post.number, memory_order_relaxed) + 1;
  p->post.fn = fn;
  p->post.ctx = ctx;
  /* Not sequentially consistent, which would cost every job the time in which this line comes back from the
   * workers: one that goes to sleep at this very moment may be overlooked, and the caller does its part. */
  atomic_store_explicit(&p->post.number, number, memory_order_release);
  if (atomic_load_explicit(&p->post.sleepers, memory_order_relaxed) > 0) {
    futex_wake_all(&p->post.number);
    if (p->pinned) step_aside(p);
  }
  fn(ctx, 0, p->n_threads);
  const int32_t n = p->n_threads - 1;
  for (int32_t i = 0; i < n; i++) {
    worker *w = &p->workers[i];
    /* A look is cheap and many go at once; the exchange is for those that have not come. */
    if (atomic_load_explicit(&w->taken, memory_order_relaxed) == number || !take(w, number)) continue;
    fn(ctx, w->rank, p->n_threads);
    atomic_store_explicit(&w->finished, number, memory_order_relaxed);
  }
  for (int32_t i = 0; i < n; i++)
    if (atomic_load_explicit(&p->workers[i].finished, memory_order_acquire) != number)
      wait_for_rank(p, &p->workers[i], number);
}

void weir_pool_fetch_ahead(weir_pool *p, const void *data, size_t bytes) {
  atomic_store_explicit(&p->ahead_bytes, bytes, memory_order_relaxed);
  atomic_store_explicit(&p->ahead, data, memory_order_relaxed);
}

size_t weir_pool_fetched(const weir_pool *p, const void *data) {
  size_t least = p->n_threads > 1 ? SIZE_MAX : 0;
  for (int32_t i = 0; i < p->n_threads - 1; i++) {
    const worker *w = &p->workers[i];
    const bool same = atomic_load_explicit(&w->fetched_of, memory_order_relaxed) == data;
    const size_t n = same ? atomic_load_explicit(&w->fetched, memory_order_relaxed) : 0;
    if (n < least) least = n;
  }
  return least;
}
