/* SPDX-License-Identifier: Apache-2.0 */
/* The thread team: every rank runs once a job, whoever runs it; what a job wrote the next one sees; sleepers
 * wake, odd sizes work. */
#define _GNU_SOURCE /* affinity */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/cores.h"
#include "base/pool.h"

enum { RANKS_MAX = 32, CELLS = 997 };

typedef struct job {
  int32_t n_threads;
  int32_t calls[RANKS_MAX]; /* plain on purpose: a race is the sanitizer's to see */
  int32_t cell[CELLS], round[RANKS_MAX];
  atomic_int wrong, started;
} job;

static weir_pool *make(weir_pool_opts o) {
  weir_err e;
  weir_pool *p = NULL;
  if (weir_pool_create(&o, &p, &e) != WEIR_OK) fail_msg("create a team of %d: %s", o.n_threads, e.msg);
  return p;
}

static void count_call(void *ctx, int32_t rank, int32_t n_threads) {
  job *j = ctx;
  if (rank < 0 || rank >= n_threads || n_threads != j->n_threads) {
    atomic_fetch_add(&j->wrong, 1);
    return;
  }
  j->calls[rank]++;
}

/* Two jobs: each rank writes its cells; each rank reads cells of all. What the first wrote the second must
 * see. */
static void write_cells(void *ctx, int32_t rank, int32_t n_threads) {
  job *j = ctx;
  j->round[rank]++;
  for (int32_t i = rank; i < CELLS; i += n_threads) j->cell[i] = j->round[rank] * i;
}
static void read_cells(void *ctx, int32_t rank, int32_t n_threads) {
  job *j = ctx;
  for (int32_t i = rank; i < CELLS; i += n_threads)
    if (j->cell[CELLS - 1 - i] != j->round[rank] * (CELLS - 1 - i)) atomic_fetch_add(&j->wrong, 1);
}

/* Spin times: the default, and one so short that every wait goes through the futex. */
static const weir_pool_opts teams[] = {
    {.n_threads = 1},
    {.n_threads = 2},
    {.n_threads = 3},
    {.n_threads = 4, .no_pin = true},
    {.n_threads = 17},
    {.n_threads = 2, .spin_ns = 1},
    {.n_threads = 5, .spin_ns = 1},
};

static void every_rank_runs_once_a_job(void **state) {
  (void)state;
  for (size_t t = 0; t < sizeof teams / sizeof *teams; t++) {
    weir_pool *p = make(teams[t]);
    job j = {.n_threads = teams[t].n_threads};
    assert_int_equal(weir_pool_size(p), teams[t].n_threads);
    const int32_t jobs = teams[t].n_threads > 8 || teams[t].spin_ns ? 200 : 2000;
    for (int32_t i = 0; i < jobs; i++) {
      weir_pool_run(p, count_call, &j);
      for (int32_t r = 0; r < j.n_threads; r++) assert_int_equal(j.calls[r], i + 1);
    }
    assert_int_equal(j.wrong, 0);
    weir_pool_destroy(p);
  }
}

static void jobs_see_what_came_before(void **state) {
  (void)state;
  for (size_t t = 0; t < sizeof teams / sizeof *teams; t++) {
    weir_pool *p = make(teams[t]);
    job j = {.n_threads = teams[t].n_threads};
    const int32_t jobs = teams[t].n_threads > 8 || teams[t].spin_ns ? 100 : 1000;
    for (int32_t i = 0; i < jobs; i++) {
      weir_pool_run(p, write_cells, &j);
      weir_pool_run(p, read_cells, &j);
    }
    assert_int_equal(j.wrong, 0);
    weir_pool_destroy(p);
  }
}

static void count_all(void *ctx, int32_t rank, int32_t n_threads) {
  job *j = ctx;
  (void)n_threads;
  atomic_fetch_add(&j->started, 1);
  j->calls[rank]++;
}
static void late_workers_find_nothing_to_do(void **state) {
  (void)state;
  /* Jobs so short that the caller often does all of them before a sleeping worker is up. */
  weir_pool *p = make((weir_pool_opts){.n_threads = 8, .spin_ns = 1});
  job j = {.n_threads = 8};
  for (int32_t i = 1; i <= 3000; i++) {
    weir_pool_run(p, count_all, &j);
    assert_int_equal(atomic_load(&j.started), i * 8);
    for (int32_t r = 0; r < 8; r++) assert_int_equal(j.calls[r], i);
  }
  weir_pool_destroy(p);
}

/* Rank 1 takes much longer than the others, so that the caller has long stopped looking when it is done. */
static void work_unevenly(void *ctx, int32_t rank, int32_t n_threads) {
  job *j = ctx;
  (void)n_threads;
  for (int32_t k = 0; rank == 1 && k < 40; k++)
    for (int32_t i = 0; i < CELLS; i++) j->cell[i]++;
  j->calls[rank]++;
}
static void the_caller_sleeps_until_the_last_is_done(void **state) {
  (void)state;
  weir_pool *p = make((weir_pool_opts){.n_threads = 2, .spin_ns = 1});
  job j = {.n_threads = 2};
  for (int32_t i = 1; i <= 500; i++) {
    weir_pool_run(p, work_unevenly, &j);
    assert_int_equal(j.calls[0], i);
    assert_int_equal(j.calls[1], i);
    assert_int_equal(j.cell[CELLS / 2], 40 * i);
  }
  weir_pool_destroy(p);
}

/* Memory that is there, that is odd, that is gone: a hint changes nothing but what is said of it. */
static void fetching_ahead_is_only_a_hint(void **state) {
  (void)state;
  enum { BYTES = 3 * 64 * 1024 + 100 };
  static const char memory[BYTES];
  const struct {
    const void *data;
    size_t bytes, part; /* part: of each of three threads, in whole stretches of 256 bytes */
  } cases[] = {
      {memory, BYTES, BYTES / 3 / 256 * 256},  {memory + 1, 700, 0}, {NULL, 0, 0},
      {(const void *)64, SIZE_MAX, 256 << 10}, /* nobody's */
      {memory, BYTES, BYTES / 3 / 256 * 256},
  };
  weir_pool *p = make((weir_pool_opts){.n_threads = 3});
  job j = {.n_threads = 3};
  int32_t jobs = 0;
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    weir_pool_fetch_ahead(p, cases[c].data, cases[c].bytes);
    /* a worker that comes too late for a job fetches nothing after it: until both have */
    for (int32_t k = 0; k < 20000 && weir_pool_fetched(p, cases[c].data) < cases[c].part; k++) {
      weir_pool_run(p, count_call, &j);
      jobs++;
      for (int32_t i = 0; i < 50; i++) sched_yield();
    }
    if (cases[c].data) assert_int_equal(weir_pool_fetched(p, cases[c].data), cases[c].part);
    assert_int_equal(weir_pool_fetched(p, &j), 0); /* other data */
  }
  for (int32_t r = 0; r < 3; r++) assert_int_equal(j.calls[r], jobs);
  weir_pool_destroy(p);
  p = make((weir_pool_opts){.n_threads = 1});
  weir_pool_fetch_ahead(p, memory, BYTES);
  assert_int_equal(weir_pool_fetched(p, memory), 0); /* there are no workers */
  weir_pool_destroy(p);
}

static void unused_team_joins(void **state) {
  (void)state;
  for (int32_t i = 0; i < 20; i++) weir_pool_destroy(make((weir_pool_opts){.n_threads = 3}));
  weir_pool_destroy(NULL);
}

static void one_core_gets_a_team_of_one(void **state) {
  (void)state;
  cpu_set_t before, one;
  assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
  int core = 0;
  while (!CPU_ISSET(core, &before)) core++;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
  weir_pool *alone = make((weir_pool_opts){0});
  const int32_t size = weir_pool_size(alone);
  weir_pool *crowd = make((weir_pool_opts){.n_threads = 4}); /* four threads on that one core */
  job j = {.n_threads = 4};
  for (int32_t i = 0; i < 20; i++) weir_pool_run(crowd, count_call, &j);
  weir_pool_destroy(crowd);
  weir_pool_destroy(alone);
  assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
  assert_int_equal(size, 1);
  assert_int_equal(j.wrong, 0);
}

/* ---- teams side by side ---- */

typedef struct seen {
  weir_pool *pool;
  int core[4]; /* the only one that the rank may run on; -1: several */
} seen;

static int only_core(void) {
  cpu_set_t may;
  int core = 0;
  if (sched_getaffinity(0, sizeof may, &may) != 0 || CPU_COUNT(&may) != 1) return -1;
  while (!CPU_ISSET(core, &may)) core++;
  return core;
}

/* Slow enough for the workers to come for their own parts. */
static void look(void *ctx, int32_t rank, int32_t n_threads) {
  seen *s = ctx;
  (void)n_threads;
  for (int32_t i = 0; i < 200 && rank == 0; i++) sched_yield();
  s->core[rank] = only_core();
}

static void *call(void *arg) {
  seen *s = arg;
  weir_pool_run(s->pool, look, s);
  return NULL;
}

/* The thread that makes a team keeps its affinity; another that calls gets the first core, workers theirs. */
static void a_team_of_given_cores(void **state) {
  (void)state;
  weir_cores mine;
  weir_cores_mine(&mine);
  assert_true(mine.n > 0);
  const int before = only_core(), last = mine.core[mine.n - 1], first = mine.core[0];
  const int32_t cores[] = {last, first};
  for (int32_t n = 1; n <= 2; n++) {
    seen s = {.pool = make((weir_pool_opts){.n_threads = n, .cores = cores, .pin_caller = true})};
    pthread_t other;
    call(&s);
    assert_int_equal(only_core(), before);
    bool workers_core = n == 1;
    for (int32_t i = 0; i < 1000; i++) {
      assert_int_equal(pthread_create(&other, NULL, call, &s), 0);
      assert_int_equal(pthread_join(other, NULL), 0);
      assert_int_equal(s.core[0], last);
      if (n == 1) break;
      /* its worker, or the caller in its place */
      assert_true(s.core[1] == first || s.core[1] == last);
      if ((workers_core = workers_core || s.core[1] == first)) break;
    }
    assert_true(workers_core);
    weir_pool_destroy(s.pool);
  }
}

static void wrong_options_are_refused(void **state) {
  (void)state;
  static const int32_t low[] = {-1}, high[] = {CPU_SETSIZE};
  const weir_pool_opts wrong[] = {{.n_threads = -1},
                                  {.n_threads = 1 << 20},
                                  {.n_threads = 1, .spin_ns = -5},
                                  {.n_threads = 1, .cores = low},
                                  {.n_threads = 1, .cores = high}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    weir_err e;
    weir_pool *p = (weir_pool *)&e; /* must be cleared */
    assert_int_equal(weir_pool_create(&wrong[i], &p, &e), WEIR_EINVAL);
    assert_null(p);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_rank_runs_once_a_job),
      cmocka_unit_test(jobs_see_what_came_before),
      cmocka_unit_test(late_workers_find_nothing_to_do),
      cmocka_unit_test(unused_team_joins),
      cmocka_unit_test(the_caller_sleeps_until_the_last_is_done),
      cmocka_unit_test(fetching_ahead_is_only_a_hint),
      cmocka_unit_test(one_core_gets_a_team_of_one),
      cmocka_unit_test(a_team_of_given_cores),
      cmocka_unit_test(wrong_options_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
