/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks on one GPU: all that communicators promise, over devices of the emulator; exchanges in records; waits
 * on the GPU that end; and the order of sums, the limits, the texts that ranks bring. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm_conf.h"
#include "cuda_util.h"
#include "emu.h"

static const int64_t second = INT64_C(1000000000);

/* ---- a GPU with a device a rank ---- */

typedef struct gpu {
  weir_dev *dev[WEIR_PEER_RANKS];
  int32_t n;
} gpu;

static gpu open_gpu(int32_t n, int n_sms, uint64_t seed) {
  cu_shim_config c = cu_shim_defaults();
  gpu g = {.n = n};
  c.n_sms = n_sms;
  c.seed = seed;
  cu_shim_reset(&c);
  for (int32_t r = 0; r < n; r++) g.dev[r] = cuda_test_open(NULL, false);
  return g;
}

static void close_gpu(gpu *g) {
  for (int32_t r = 0; r < g->n; r++)
    if (r == g->n - 1)
      cuda_test_close(g->dev[r]); /* which looks for what is still alive */
    else
      weir_dev_destroy(g->dev[r]);
}

static weir_dev *dev_of(void *ctx, int32_t rank) { return ((gpu *)ctx)->dev[rank]; }

static comm_conf conf_of(gpu *g, size_t most) {
  return (comm_conf){
      .kind = WEIR_COMM_LOCAL, .dev = dev_of, .ctx = g, .in_order = true, .compares = true, .most = most};
}

/* ---- what all communicators promise ---- */

static void test_promises(void **state) {
  const int32_t n = *(const int32_t *)*state;
  const conf_traces before = conf_traces_now();
  gpu g = open_gpu(n, 132, (uint64_t)n);
  /* On a large GPU, where sums take many blocks; test_small_gpu has blocks that go round many times. */
  const comm_conf c = conf_of(&g, n == 2 ? 65537 : 4096);
  conf_check_sums(&c, n);
  conf_check_copies(&c, n);
  if (n > 2) conf_check_mixed(&c, n);
  conf_check_mismatch(&c, n);
  conf_check_late(&c, n);
  conf_check_abort(&c, n);
  conf_check_left(&c, n);
  conf_check_absent(&c, n);
  close_gpu(&g);
  conf_check_traces(before);
}

/* One block for each rank, which goes round for every slice. */
static void test_small_gpu(void **state) {
  (void)state;
  for (int order = EMU_ASCENDING; order <= EMU_RANDOM; order++) {
    gpu g = open_gpu(3, 6 + order, 5);
    const comm_conf c = conf_of(&g, 65537);
    emu_config_of()->order = (emu_order)order;
    conf_check_sums(&c, 3);
    emu_config_of()->order = EMU_ASCENDING;
    close_gpu(&g);
  }
}

/* ---- records ---- */

enum { N_STEPS = 6, N = 1500 };

typedef struct step {
  conf_rank *r;
  float *x, *all;
} step;

/* x <- the sum of x over the ranks, twice; then everybody's first numbers. */
static weir_status enqueue(void *ctx, weir_err *e) {
  const step *s = ctx;
  weir_status st = weir_comm_all_reduce(s->r->comm, s->x, N, e);
  if (st == WEIR_OK) st = weir_comm_all_reduce(s->r->comm, s->x, N - 1, e);
  if (st == WEIR_OK) st = weir_comm_all_gather(s->r->comm, s->all, s->x, 10 * sizeof(float), e);
  return st;
}

static void run_steps(conf_rank *r) {
  weir_err e = {0};
  void *x = NULL, *all = NULL;
  float host[N], gathered[WEIR_PEER_RANKS * 10];
  weir_status st = weir_dev_alloc(r->dev, sizeof host, &x, &e);
  if (st == WEIR_OK) st = weir_dev_alloc(r->dev, sizeof gathered, &all, &e);
  step s = {r, x, all};
  for (int i = 0; i < N_STEPS && st == WEIR_OK; i++) {
    for (int k = 0; k < N; k++) host[k] = (float)(k % 17 + r->rank * 3 + i);
    st = weir_dev_upload(r->dev, x, host, sizeof host, &e);
    if (st == WEIR_OK) st = weir_dev_replay(r->dev, weir_replay_key(1, 7), enqueue, &s, &e);
    if (st == WEIR_OK) st = weir_dev_download(r->dev, host, x, sizeof host, &e);
    if (st == WEIR_OK) st = weir_dev_download(r->dev, gathered, all, sizeof gathered, &e);
    if (st == WEIR_OK) st = weir_dev_sync(r->dev, &e);
    for (int k = 0; k < N && st == WEIR_OK; k++) {
      float want = 0;
      for (int q = 0; q < r->n_ranks; q++) want += (float)(k % 17 + q * 3 + i);
      if (k < N - 1) want *= (float)r->n_ranks;
      if (host[k] != want)
        conf_fault(r, "step %d: number %d is %g, not %g", i, k, (double)host[k], (double)want);
      if (k < 10 * r->n_ranks && gathered[k] != host[k % 10]) conf_fault(r, "step %d: gathered %d", i, k);
    }
  }
  if (st != WEIR_OK) conf_fault(r, "%s", e.msg);
  weir_dev_forget(r->dev, 1);
  weir_dev_release(r->dev, x);
  weir_dev_release(r->dev, all);
}

static void test_records(void **state) {
  (void)state;
  gpu g = open_gpu(4, 132, 3);
  const comm_conf c = conf_of(&g, N);
  conf_ranks(&c, 4, 30 * second, run_steps, NULL);
  assert_int_equal(cu_shim_count().n_graph_launches, 4 * (N_STEPS - 1));
  close_gpu(&g);
}

/* Where one rank cannot make its record, none plays one, and steps are the same. */
static weir_status refuse_at_rank_1(void *ctx, weir_err *e) {
  const step *s = ctx;
  const weir_status st = enqueue(ctx, e);
  if (st != WEIR_OK || s->r->rank != 1 || !weir_cuda_of(s->r->dev)->capturing) return st;
  return weir_fail(e, WEIR_EUNSUP, "rank 1 does not record");
}

static void run_unrecorded(conf_rank *r) {
  weir_err e = {0};
  void *x = NULL, *all = NULL;
  const float ones[N] = {1, 1, 1};
  float host[N];
  weir_status st = weir_dev_alloc(r->dev, sizeof host, &x, &e);
  if (st == WEIR_OK) st = weir_dev_alloc(r->dev, sizeof host, &all, &e);
  step s = {r, x, all};
  for (int i = 0; i < 4 && st == WEIR_OK; i++) {
    st = weir_dev_upload(r->dev, x, ones, sizeof ones, &e);
    if (st == WEIR_OK) st = weir_dev_replay(r->dev, weir_replay_key(1, 7), refuse_at_rank_1, &s, &e);
    if (st == WEIR_OK) st = weir_dev_download(r->dev, host, x, sizeof host, &e);
    if (st == WEIR_OK) st = weir_dev_sync(r->dev, &e);
    if (st == WEIR_OK && host[2] != 4.0f) conf_fault(r, "step %d: %g, not 4", i, (double)host[2]);
  }
  if (st != WEIR_OK) conf_fault(r, "%s", e.msg);
  weir_dev_release(r->dev, x);
  weir_dev_release(r->dev, all);
}

static void test_unrecorded(void **state) {
  (void)state;
  gpu g = open_gpu(2, 132, 3);
  const comm_conf c = conf_of(&g, N);
  conf_ranks(&c, 2, 30 * second, run_unrecorded, NULL);
  assert_int_equal(cu_shim_count().n_graph_launches, 0);
  assert_int_equal(cu_shim_count().execs, 0);
  close_gpu(&g);
}

/* ---- waits on the GPU ---- */

typedef struct scene {
  atomic_int played;
  pthread_barrier_t all;
} scene;

/* Records do not meet on the host: rank 1 does not play its own, the others wait in their kernels. */
static void run_missing(conf_rank *r) {
  scene *sc = r->ctx;
  weir_err e = {0};
  void *x = NULL, *all = NULL;
  weir_status st = weir_dev_alloc(r->dev, N * sizeof(float), &x, &e);
  if (st == WEIR_OK) st = weir_dev_alloc(r->dev, N * sizeof(float), &all, &e);
  step s = {r, x, all};
  for (int i = 0; i < 2 && st == WEIR_OK; i++)
    st = weir_dev_replay(r->dev, weir_replay_key(1, 7), enqueue, &s, &e);
  if (st == WEIR_OK) st = weir_dev_sync(r->dev, &e);
  if (st != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  const int64_t from = conf_now_ns();
  if (r->rank != 1) {
    st = weir_dev_replay(r->dev, weir_replay_key(1, 7), enqueue, &s, &e);
    if (st != WEIR_OK) conf_fault(r, "playing does not wait: %s", e.msg);
    st = weir_dev_sync(r->dev, &e);
    if (st != WEIR_EDEVICE || !strstr(e.msg, "for rank 1")) conf_fault(r, "%d: %s", (int)st, e.msg);
    if (conf_now_ns() - from < second / 2) conf_fault(r, "did not wait for the bound");
  }
  pthread_barrier_wait(&sc->all);
  e = (weir_err){0};
  st = weir_comm_all_reduce(r->comm, x, N, &e);
  if (st != WEIR_EDEVICE || !strstr(e.msg, "for rank 1")) conf_fault(r, "after: %d: %s", (int)st, e.msg);
  if (weir_cuda_of(r->dev)->dead.code != WEIR_OK) conf_fault(r, "the device is dead");
  weir_dev_forget(r->dev, 1);
  weir_dev_release(r->dev, x);
  weir_dev_release(r->dev, all);
}

static void test_missing_on_gpu(void **state) {
  (void)state;
  gpu g = open_gpu(3, 132, 4);
  const comm_conf c = conf_of(&g, N);
  scene s = {.played = 0};
  pthread_barrier_init(&s.all, NULL, 3);
  conf_ranks(&c, 3, second, run_missing, &s);
  /* The devices are as well as before: another group of them works. */
  conf_ranks(&c, 3, 30 * second, run_steps, NULL);
  pthread_barrier_destroy(&s.all);
  close_gpu(&g);
}

/* The same, and what ends the wait is an abort. */
static void run_aborted(conf_rank *r) {
  scene *sc = r->ctx;
  weir_err e = {0};
  void *x = NULL, *all = NULL;
  weir_status st = weir_dev_alloc(r->dev, N * sizeof(float), &x, &e);
  if (st == WEIR_OK) st = weir_dev_alloc(r->dev, N * sizeof(float), &all, &e);
  step s = {r, x, all};
  for (int i = 0; i < 2 && st == WEIR_OK; i++)
    st = weir_dev_replay(r->dev, weir_replay_key(1, 7), enqueue, &s, &e);
  if (st == WEIR_OK) st = weir_dev_sync(r->dev, &e);
  if (st != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  const int64_t from = conf_now_ns();
  if (r->rank == 0) {
    st = weir_dev_replay(r->dev, weir_replay_key(1, 7), enqueue, &s, &e);
    atomic_store(&sc->played, 1);
    st = weir_dev_sync(r->dev, &e);
    if (st != WEIR_EDEVICE || !strstr(e.msg, "enough of this")) conf_fault(r, "%d: %s", (int)st, e.msg);
    if (conf_now_ns() - from > 20 * second) conf_fault(r, "an abort took too long");
  } else {
    while (!atomic_load(&sc->played)) sched_yield();
    weir_comm_abort(r->comm, "enough of this");
  }
  weir_dev_forget(r->dev, 1);
  weir_dev_release(r->dev, x);
  weir_dev_release(r->dev, all);
}

static void test_abort_on_gpu(void **state) {
  (void)state;
  gpu g = open_gpu(2, 132, 4);
  const comm_conf c = conf_of(&g, N);
  scene s = {.played = 0};
  conf_ranks(&c, 2, 60 * second, run_aborted, &s);
  close_gpu(&g);
}

/* A rank whose device dies takes the others with it at once. */
static void run_dying(conf_rank *r) {
  weir_err e = {0};
  scene *sc = r->ctx;
  if (conf_call(r, 10, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  pthread_barrier_wait(&sc->all);
  if (r->rank == 1) (void)weir_cuda_check(r->dev, cudaErrorLaunchFailure, "launch", NULL);
  const weir_status st = conf_call(r, 11, &e);
  if (r->rank != 1 && (st != WEIR_EDEVICE || !strstr(e.msg, "rank 1"))) conf_fault(r, "%s", e.msg);
  if (st == WEIR_OK) conf_fault(r, "a dead device exchanges");
}

static void test_dying(void **state) {
  (void)state;
  gpu g = open_gpu(2, 132, 4);
  const comm_conf c = conf_of(&g, N);
  scene s = {.played = 0};
  pthread_barrier_init(&s.all, NULL, 2);
  conf_ranks(&c, 2, 60 * second, run_dying, &s);
  pthread_barrier_destroy(&s.all);
  close_gpu(&g);
}

/* ---- limits and texts ---- */

static void must_say(weir_status st, const weir_err *e, weir_status want, const char *words) {
  if (st != want || !strstr(e->msg, words))
    fail_msg("%s, \"%s\"; want \"%s\"", weir_status_name(st), e->msg, words);
}

static void test_texts(void **state) {
  (void)state;
  gpu g = open_gpu(2, 132, 1);
  weir_err e = {0};
  weir_comm_seat *seat[2];
  char invite[WEIR_COMM_INVITE_BYTES], other[WEIR_COMM_OFFER_BYTES];
  const char *offer[2];
  for (int r = 0; r < 2; r++) {
    const weir_comm_seat_opts o = {.dev = g.dev[r], .bound_ns = second / 10};
    kern_ok(weir_comm_seat_open(WEIR_COMM_LOCAL, &o, &seat[r], &e), &e, "seat");
    offer[r] = weir_comm_seat_offer(seat[r]);
  }
  static const struct {
    const char *body, *words;
    weir_status st;
  } row[] = {
      {"process 1 GPU 0", "rank 1 is in another process", WEIR_EUNSUP},
      {"process GPU 0", "is no offer", WEIR_EFORMAT},
      {"process 99999999999999999999 GPU 0", "is no offer", WEIR_EFORMAT},
      {"", "is no offer", WEIR_EFORMAT},
      {"processor", "is no offer", WEIR_EFORMAT},
  };
  const size_t head = strlen("weir-comm 1 local 1 ");
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    snprintf(other, sizeof other, "%.*s%s", (int)head, offer[0], row[i].body);
    const char *const both[2] = {offer[0], other};
    must_say(weir_comm_invite(WEIR_COMM_LOCAL, 2, both, invite, &e), &e, row[i].st, row[i].words);
  }
  /* Another GPU of this process. */
  snprintf(other, sizeof other, "%s", offer[0]);
  other[strlen(other) - 1] = '1';
  const char *const both[2] = {offer[0], other};
  must_say(weir_comm_invite(WEIR_COMM_LOCAL, 2, both, invite, &e), &e, WEIR_EUNSUP, "rank 1 is on GPU 1");
  kern_ok(weir_comm_invite(WEIR_COMM_LOCAL, 2, offer, invite, &e), &e, "invite");
  weir_comm *comm = NULL;
  invite[strlen("weir-comm 1 local 2 process ")] = 'x';
  must_say(weir_comm_join(seat[0], invite, 0, &comm, &e), &e, WEIR_EUNSUP, "another process");
  weir_comm_seat_close(seat[1]);
  close_gpu(&g);
}

static void run_one_too_many(conf_rank *r) {
  weir_err e = {0};
  const weir_status st = conf_call(r, 10, &e);
  if (st == WEIR_OK || !strstr(e.msg, "2 ranks on a GPU of 3 SMs")) conf_fault(r, "%s", e.msg);
}

static void test_too_small_gpu(void **state) {
  (void)state;
  gpu g = open_gpu(2, 3, 1);
  const comm_conf c = conf_of(&g, N);
  conf_ranks(&c, 2, 10 * second, run_one_too_many, NULL);
  close_gpu(&g);
}

/* What never reaches the device. */
static void test_checks(void **state) {
  (void)state;
  gpu g = open_gpu(1, 132, 1);
  weir_err e = {0};
  void *part, *x, *stop;
  kern_ok(weir_dev_alloc(g.dev[0], WEIR_PEER_PART_BYTES, &part, &e), &e, "alloc");
  kern_ok(weir_dev_alloc(g.dev[0], 64, &x, &e), &e, "alloc");
  kern_ok(weir_dev_map_host(g.dev[0], 4, &stop, &e), &e, "map");
  const weir_peers good = {.n_ranks = 1, .part = {part}, .stop = stop, .bound_ns = second};
  const weir_exchange sum = {.what = WEIR_PEER_REDUCE, .out = x, .in = x, .bytes = 64};
  weir_peers p = good;
  weir_exchange k = sum;
#define BAD(change, words)                                                    \
  do {                                                                        \
    p = good;                                                                 \
    k = sum;                                                                  \
    change;                                                                   \
    must_say(weir_op_exchange(g.dev[0], &p, &k, &e), &e, WEIR_EINVAL, words); \
  } while (0)
  BAD(p.n_ranks = 9, "number of ranks");
  BAD(p.n_ranks = 0, "number of ranks");
  BAD(p.rank = 1, "rank is 1");
  BAD(p.part[0] = NULL, "part of a rank");
  BAD(p.stop = NULL, "stop word");
  BAD(p.bound_ns = 0, "without a bound");
  BAD(k.what = (weir_peer_what)7, "unknown kind 7");
  BAD(k.root = -1, "root");
  BAD(k.out = NULL, "out");
  BAD(k.in = (char *)x + 4, "in place");
  BAD(k.bytes = 63, "sum of 63 bytes");
  BAD(k.bytes = SIZE_MAX / 8 * 4, "of ");
  BAD((k.out = (char *)x + 2, k.in = k.out, k.bytes = 4), "floats at");
#undef BAD
  k = sum;
  k.bytes = 0;
  kern_ok(weir_op_exchange(g.dev[0], &good, &k, &e), &e, "nothing");
  kern_ok(weir_op_exchange(g.dev[0], &good, &sum, &e), &e, "of one rank");
  kern_ok(weir_dev_sync(g.dev[0], &e), &e, "sync");
  assert_int_equal(*(uint32_t *)stop, 0);
  assert_ptr_equal(weir_dev_stream(g.dev[0]), weir_cuda_of(g.dev[0])->stream);
  assert_int_equal(g.dev[0]->gpu, 1);
  weir_dev_unmap_host(g.dev[0], stop);
  weir_dev_release(g.dev[0], part);
  weir_dev_release(g.dev[0], x);
  close_gpu(&g);
}

int main(void) {
  static int32_t two = 2, four = 4;
  const struct CMUnitTest tests[] = {
      {"two ranks", test_promises, NULL, NULL, &two},
      {"four ranks", test_promises, NULL, NULL, &four},
      cmocka_unit_test(test_small_gpu),
      cmocka_unit_test(test_records),
      cmocka_unit_test(test_unrecorded),
      cmocka_unit_test(test_missing_on_gpu),
      cmocka_unit_test(test_abort_on_gpu),
      cmocka_unit_test(test_dying),
      cmocka_unit_test(test_texts),
      cmocka_unit_test(test_too_small_gpu),
      cmocka_unit_test(test_checks),
  };
  return cmocka_run_group_tests_name("comm_local", tests, NULL, NULL);
}
