/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator over shared memory: all that communicators promise, with threads and processes; and over
 * memory of the test's own, where a race detector sees who writes what. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm_shm.h"
#include "comm_conf.h"
#include "comm_procs.h"

enum { MOST = 1048583 };

static const comm_conf shm = {.kind = WEIR_COMM_SHM, .in_order = true, .compares = true, .most = MOST};
static const comm_conf shm_small = {
    .kind = WEIR_COMM_SHM, .in_order = true, .compares = true, .most = 140000};

static void test_threads(void **state) {
  const int32_t n = *(const int32_t *)*state;
  const conf_traces before = conf_traces_now();
  conf_check_all(n > 3 ? &shm_small : &shm, n);
  conf_check_traces(before);
}

/* Parts of a sum that are empty, and as many ranks as there may be. */
static void test_many(void **state) {
  (void)state;
  static const comm_conf some = {.kind = WEIR_COMM_SHM, .in_order = true, .most = 4097};
  static const comm_conf few = {.kind = WEIR_COMM_SHM, .in_order = true, .most = 65};
  const conf_traces before = conf_traces_now();
  conf_check_sums(&some, 20);
  conf_check_sums(&few, WEIR_MAX_RANKS);
  conf_check_traces(before);
}

/* ---- one address for all ---- */

typedef struct seen {
  conf_rank r;
  void *memory;
  uint64_t hash;
  pthread_t id;
} seen;

static void *seen_main(void *arg) {
  seen *s = arg;
  weir_err e = {0};
  if (weir_comm_shm_over(s->memory, s->r.rank, s->r.n_ranks, INT64_C(60000000000), &s->r.comm, &e) !=
      WEIR_OK) {
    conf_fault(&s->r, "%s", e.msg);
    return NULL;
  }
  if (!conf_do_sums(&s->r, &s->hash) || !conf_do_copies(&s->r, &s->hash) || !conf_do_mixed(&s->r, &s->hash))
    weir_comm_abort(s->r.comm, "the test has found a fault");
  weir_comm_destroy(s->r.comm);
  return NULL;
}

static void test_one_address(void **state) {
  (void)state;
  enum { N = 3 };
  static const comm_conf conf = {.kind = WEIR_COMM_SHM, .in_order = true, .compares = true, .most = 70001};
  static seen s[N];
  void *memory = aligned_alloc(4096, weir_comm_shm_bytes(N));
  assert_non_null(memory);
  memset(memory, 0, weir_comm_shm_bytes(N));
  for (int32_t r = 0; r < N; r++) {
    s[r] = (seen){.r = {.conf = &conf, .rank = r, .n_ranks = N}, .memory = memory};
    assert_int_equal(pthread_create(&s[r].id, NULL, seen_main, &s[r]), 0);
  }
  for (int32_t r = 0; r < N; r++) pthread_join(s[r].id, NULL);
  for (int32_t r = 0; r < N; r++) {
    if (s[r].r.fault[0]) fail_msg("%s", s[r].r.fault);
    assert_true(s[r].hash == s[0].hash);
  }
  free(memory);
}

/* ---- sleepers ---- */

/* Others look again twenty times a second, whatever happens: a lost wake would only be slow. So the time is
 * looked at, the shortest of many, for a loaded machine makes some of them long. */
enum { ROUNDS = 6 };
static const int64_t slept_ns = INT64_C(5000000), woken_ns = INT64_C(30000000);

typedef struct wake {
  atomic_int about;
  bool abort; /* rank 0 aborts; else it comes */
  atomic_llong at;
  int64_t took;
} wake;

static void run_wake(conf_rank *r) {
  wake *w = r->ctx;
  weir_err e = {0};
  if (r->rank == 0) {
    while (atomic_load(&w->about) == 0) sched_yield();
    for (const int64_t until = conf_now_ns() + slept_ns; conf_now_ns() < until;) sched_yield();
    atomic_store(&w->at, conf_now_ns());
    if (w->abort) weir_comm_abort(r->comm, "wake up");
    if ((conf_call(r, 1, &e) == WEIR_OK) == w->abort) conf_fault(r, "%s", e.msg);
    return;
  }
  atomic_store(&w->about, 1);
  if ((conf_call(r, 1, &e) == WEIR_OK) == w->abort) conf_fault(r, "%s", e.msg);
  w->took = conf_now_ns() - atomic_load(&w->at);
}

static void test_wakes(void **state) {
  (void)state;
  for (int how = 0; how < 2; how++) {
    int64_t least = INT64_MAX;
    for (int i = 0; i < ROUNDS; i++) {
      wake w = {.abort = how == 1};
      conf_ranks(&shm, 2, INT64_C(60000000000), run_wake, &w);
      if (w.took < least) least = w.took;
    }
    if (least > woken_ns)
      fail_msg("%s: a sleeper woke after %lld ns", how ? "abort" : "all_reduce", (long long)least);
  }
}

static void test_processes(void **state) {
  const int32_t n = *(const int32_t *)*state;
  const conf_traces before = conf_traces_now();
  procs_check_ops(&shm_small, n);
  procs_check_killed(&shm_small, n, INT64_C(60000000000)); /* seen long before the bound */
  procs_check_stopped(&shm_small, n);
  procs_check_all_stopped(&shm_small, n);
  procs_check_stopped_abort(&shm_small, n);
  procs_check_killed_joining(&shm_small, n);
  conf_check_traces(before);
}

int main(int argc, char **argv) {
  int status;
  if (procs_is_rank(argc, argv, &status)) return status;
  static int32_t two = 2, three = 3, four = 4, eight = 8;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_address),
      cmocka_unit_test(test_wakes),
      {"two ranks", test_threads, NULL, NULL, &two},
      {"three ranks", test_threads, NULL, NULL, &three},
      {"four ranks", test_threads, NULL, NULL, &four},
      {"eight ranks", test_threads, NULL, NULL, &eight},
      cmocka_unit_test(test_many),
      {"two processes", test_processes, NULL, NULL, &two},
      {"four processes", test_processes, NULL, NULL, &four},
  };
  return cmocka_run_group_tests_name("comm_shm", tests, NULL, NULL);
}
