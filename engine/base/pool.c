/* SPDX-License-Identifier: Apache-2.0 */
/* The thread team. Owns its workers; the thread that calls weir_pool_run is rank 0 for the length of the
 * call.
 *
 * Waiting is one primitive, the gate: a counter that one side bumps and the other waits to see change,
 * spinning first and sleeping on a futex later. A job is: fn and ctx are written and the start gate opens;
 * its count is the job's number. Whoever moves a rank's `taken` from the number before to this one runs that
 * rank: its worker as a rule, else the caller. Since every rank of every job is run by somebody, `taken` can
 * only stand at the number before or at this one, and a worker that wakes late finds its rank taken and goes
 * back to wait. The last to finish opens the done gate, unless that is the caller.
 *
 * Workers are pinned, the caller is not: its affinity is its own (threads it creates later would inherit a
 * narrow one). When it wakes a sleeping team while it happens to run on a worker's core, it moves itself to
 * the core left free for it, once, instead of waiting some milliseconds for the balancer to do so. */
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
#include "base/mem.h"

enum {
  LINE = 64,
  THREADS_MAX = 1024,
  SPIN_DEFAULT_NS =
      100000, /* several operations of a forward pass; a thousandth of a core-second a second of gaps */
  SPIN_CROWDED_NS = 5000, /* more threads than cores: whoever spins holds a core that another of us needs */
  YIELD_AFTER_NS = 10000, /* from here on somebody else may want this core: offer it between looks */
  LOOKS = 32 /* looks at a gate, a pause apart, between readings of the clock: a microsecond or two */
};

typedef struct gate {
  _Alignas(LINE) _Atomic uint32_t count;
  _Atomic uint32_t sleepers;
} gate;

typedef struct worker {
  struct weir_pool *pool;
  pthread_t thread;
  int32_t rank;
  _Alignas(LINE) _Atomic uint32_t taken; /* number of the last job in which somebody took this rank */
} worker;

struct weir_pool {
  gate start, done;
  _Alignas(LINE) _Atomic int32_t unfinished; /* ranks above 0 that are not done */
  _Atomic bool leave;

  _Alignas(LINE) void (*fn)(void *ctx, int32_t rank, int32_t n_threads);
  void *ctx;
  int32_t n_threads;
  bool crowded; /* more threads than cores */
  bool pinned;  /* workers have a core each; core_of_caller is nobody's */
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

/* Returns once g->count differs from `old`. */
static void gate_wait(const weir_pool *p, gate *g, uint32_t old) {
  const weir_clock clock = weir_clock_system();
  int64_t began = 0;
  for (;;) {
    for (int i = 0; i < LOOKS; i++) {
      if (atomic_load_explicit(&g->count, memory_order_acquire) != old) return;
      __builtin_ia32_pause();
    }
    const int64_t now = weir_now_ns(&clock);
    if (began == 0) began = now;
    if (now - began >= p->spin_ns) break;
    if (p->crowded || now - began >= YIELD_AFTER_NS) sched_yield();
  }
  /* Sequentially consistent on both sides: either the opener sees this sleeper and wakes it, or the kernel
   * sees the new count and does not let it sleep. */
  atomic_fetch_add(&g->sleepers, 1);
  while (atomic_load(&g->count) == old) futex_sleep(&g->count, old);
  atomic_fetch_sub(&g->sleepers, 1);
}

/* Returns whether anybody had gone to sleep. */
static bool gate_open(gate *g) {
  atomic_fetch_add(&g->count, 1);
  if (atomic_load(&g->sleepers) == 0) return false;
  futex_wake_all(&g->count);
  return true;
}

/* Whether it falls to this thread to run w's rank of job `number`. Once it does, the job cannot end without
 * it. */
static bool take(worker *w, uint32_t number) {
  uint32_t before = number - 1;
  return atomic_compare_exchange_strong(&w->taken, &before, number);
}

/* Runs a rank that was taken; returns whether it was the last. */
static bool run_taken(weir_pool *p, int32_t rank) {
  p->fn(p->ctx, rank, p->n_threads);
  return atomic_fetch_sub(&p->unfinished, 1) == 1;
}

static void *work(void *arg) {
  worker *w = arg;
  weir_pool *p = w->pool;
  uint32_t seen = 0;
  for (;;) {
    gate_wait(p, &p->start, seen);
    if (atomic_load(&p->leave)) return NULL;
    seen = atomic_load(&p->start.count);
    if (take(w, seen) && run_taken(p, w->rank)) gate_open(&p->done);
  }
}

/* Whole cores that a control group's bandwidth limit grants (cgroup v2, "cpu.max": "quota period" in
 * microseconds, or "max period"); `none` when there is no limit or no such file. */
static int32_t quota_cores(int32_t none) {
  char path[512] = "/", name[600], line[512];
  FILE *f = fopen("/proc/self/cgroup", "re");
  if (f) {
    while (fgets(line, sizeof line, f))
      if (sscanf(line, "0::%511s", path) == 1) break;
    fclose(f);
  }
  snprintf(name, sizeof name, "/sys/fs/cgroup%s/cpu.max", strcmp(path, "/") == 0 ? "" : path);
  f = fopen(name, "re");
  if (!f) return none;
  long long quota = 0, period = 0;
  const int n = fscanf(f, "%lld %lld", &quota, &period);
  fclose(f);
  if (n != 2 || quota <= 0 || period <= 0) return none;
  const long long cores = (quota + period - 1) / period;
  return cores < none ? (int32_t)cores : none;
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
  gate_open(&p->start);
  for (int32_t i = 0; i < n_started; i++) pthread_join(p->workers[i].thread, NULL);
}

weir_status weir_pool_create(const weir_pool_opts *opts, weir_pool **out, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_pool_opts o = opts ? *opts : (weir_pool_opts){0};
  weir_pool *p = NULL;
  int32_t started = 0;
  *out = NULL;

  int32_t core[THREADS_MAX] = {0}, n_cores = 0;
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    for (int32_t c = 0; c < CPU_SETSIZE && n_cores < THREADS_MAX; c++)
      if (CPU_ISSET(c, &mask)) core[n_cores++] = c;
  }
  const bool mask_known = n_cores > 0;
  if (!mask_known) n_cores = 1;
  const int32_t may_use = quota_cores(n_cores);
  const int32_t n = o.n_threads ? o.n_threads : may_use;
  if (n < 1 || n > THREADS_MAX)
    return weir_fail(e, WEIR_EINVAL, "a team of %d threads: want 0 (one per core) or 1 to %d", n,
                     THREADS_MAX);
  if (o.spin_ns < 0) return weir_fail(e, WEIR_EINVAL, "negative spin time");

  WEIR_TRY(weir_calloc_aligned(1, sizeof *p, "thread team", (void **)&p, e));
  WEIR_TRY(weir_calloc_aligned((size_t)n, sizeof *p->workers, "thread team", (void **)&p->workers, e));
  p->n_threads = n;
  p->crowded = n > may_use;
  p->pinned = mask_known && !o.no_pin && n <= n_cores;
  p->core_of_caller = core[0];
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

void weir_pool_run(weir_pool *p, void (*fn)(void *ctx, int32_t rank, int32_t n_threads), void *ctx) {
  if (p->n_threads == 1) {
    fn(ctx, 0, 1);
    return;
  }
  const uint32_t done = atomic_load_explicit(&p->done.count, memory_order_relaxed);
  p->fn = fn;
  p->ctx = ctx;
  atomic_store_explicit(&p->unfinished, p->n_threads - 1, memory_order_relaxed);
  const uint32_t number = atomic_load_explicit(&p->start.count, memory_order_relaxed) + 1;
  if (gate_open(&p->start) && p->pinned) step_aside(p);
  fn(ctx, 0, p->n_threads);
  for (int32_t i = 0; i < p->n_threads - 1; i++)
    if (take(&p->workers[i], number) && run_taken(p, p->workers[i].rank)) return;
  gate_wait(p, &p->done, done);
}
