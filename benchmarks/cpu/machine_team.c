/* SPDX-License-Identifier: Apache-2.0 */
/* The team that limits are measured with: opening it, repeating a job, and what a job costs by itself. Owns
 * the team; the thread that calls is rank 0. */
#define _GNU_SOURCE /* affinity */
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "cpu/machine_time.h"

enum { SAMPLES = 1024, LEAST = 3, FORK_WORK_NS = 5000, FORKS = 200 };

static int64_t now(void) {
  const weir_clock c = weir_clock_system();
  return weir_now_ns(&c);
}

static size_t cache(int name, size_t usual) {
  const long n = sysconf(name);
  return n > 0 ? (size_t)n : usual;
}

/* On the core that the team leaves free for its caller, the first it may run on. Without leave to do so it
 * stays where it is. */
static void stay(bench_machine *m) {
  cpu_set_t *mine = malloc(sizeof *mine), one;
  int core = 0;
  if (!mine || sched_getaffinity(0, sizeof *mine, mine) != 0) {
    free(mine);
    return;
  }
  while (core < CPU_SETSIZE - 1 && !CPU_ISSET(core, mine)) core++;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  sched_setaffinity(0, sizeof one, &one);
  m->mine = mine;
}

weir_status bench_machine_open(bench_machine *m, weir_dev *dev, weir_err *e) {
  *m = (bench_machine){.dev = dev,
                       .isa = weir_cpu_isa(dev),
                       .l1_bytes = cache(_SC_LEVEL1_DCACHE_SIZE, (size_t)32 << 10),
                       .l2_bytes = cache(_SC_LEVEL2_CACHE_SIZE, (size_t)1 << 20),
                       .l3_bytes = cache(_SC_LEVEL3_CACHE_SIZE, (size_t)32 << 20)};
  const weir_status st =
      weir_pool_create(&(weir_pool_opts){.n_threads = weir_cpu_n_threads(dev)}, &m->pool, e);
  if (st == WEIR_OK) stay(m);
  return st;
}

void bench_machine_close(bench_machine *m) {
  if (m->mine) sched_setaffinity(0, sizeof(cpu_set_t), m->mine);
  free(m->mine);
  m->mine = NULL;
  weir_pool_destroy(m->pool);
  m->pool = NULL;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static bench_rate summary(double *sample, size_t n) {
  qsort(sample, n, sizeof *sample, by_value);
  return (bench_rate){sample[0], n % 2 ? sample[n / 2] : (sample[n / 2 - 1] + sample[n / 2]) / 2};
}

bench_rate machine_time(const bench_machine *m, void (*fn)(void *ctx, int32_t rank, int32_t n_threads),
                        void *ctx, double seconds) {
  double sample[SAMPLES]; /* the last so many */
  size_t n = 0;
  const int64_t end = now() + (int64_t)(seconds * 1e9);
  do {
    const int64_t began = now();
    weir_pool_run(m->pool, fn, ctx);
    sample[n++ % SAMPLES] = (double)(now() - began);
  } while (n < LEAST || now() < end);
  return summary(sample, n < SAMPLES ? n : SAMPLES);
}

bench_rate machine_per_second(double amount, bench_rate ns) {
  const double each = amount * 1e9;
  return (bench_rate){ns.best > 0 ? each / ns.best : 0, ns.median > 0 ? each / ns.median : 0};
}

static void no_work(void *ctx, int32_t rank, int32_t n_threads) {
  (void)ctx;
  (void)rank;
  (void)n_threads;
}

static void short_work(void *ctx, int32_t rank, int32_t n_threads) {
  (void)ctx;
  (void)rank;
  (void)n_threads;
  for (const int64_t end = now() + FORK_WORK_NS; now() < end;) {
  }
}

/* In runs, else the clock would be timed too. */
static bench_rate forks(const bench_machine *m, void (*fn)(void *, int32_t, int32_t), double work,
                        double seconds) {
  double sample[SAMPLES];
  size_t n = 0;
  const int64_t end = now() + (int64_t)(seconds * 1e9);
  do {
    const int64_t began = now();
    for (int i = 0; i < FORKS; i++) weir_pool_run(m->pool, fn, NULL);
    sample[n++ % SAMPLES] = (double)(now() - began) / FORKS - work;
  } while (n < LEAST || now() < end);
  return summary(sample, n < SAMPLES ? n : SAMPLES);
}

bench_rate bench_machine_fork_empty(const bench_machine *m, double seconds) {
  return forks(m, no_work, 0, seconds);
}

bench_rate bench_machine_fork_work(const bench_machine *m, double seconds) {
  return forks(m, short_work, FORK_WORK_NS, seconds);
}
