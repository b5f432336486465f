/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator over NCCL, against a library of the tests' own (fake_nccl.h): what all communicators
 * promise as long as nothing fails; steps in records; the order of calls; waits that end; libraries that do
 * not fit. */
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm_nccl.h"
#include "comm_conf.h"
#include "cuda_util.h"
#include "fake_nccl.h"

static const int64_t second = INT64_C(1000000000);
enum { MAX = 4, N = 700, REMOTE_ERROR = 6 /* ncclRemoteError */ };

static const fake_nccl_tests *fake;

/* ---- GPUs, one a rank ---- */

typedef struct gpus {
  weir_dev *dev[MAX];
  int32_t n;
} gpus;

static gpus open_gpus(int32_t n, const fake_nccl_plan *plan) {
  cu_shim_config c = cu_shim_defaults();
  gpus g = {.n = n};
  weir_err e = {0};
  c.n_devices = n;
  cu_shim_reset(&c);
  fake->reset(plan);
  for (int32_t r = 0; r < n; r++) {
    const weir_cuda_opts o = {.ordinal = r};
    kern_ok(weir_cuda_dev_open(&o, weir_log, &g.dev[r], &e), &e, "open a GPU");
  }
  return g;
}

/* Nothing is left, and all calls were in order. */
static void close_gpus(gpus *g) {
  const fake_nccl_counts c = fake->counts();
  if (c.misuses) fail_msg("misuse: %s", fake->misuse());
  assert_int_equal(c.alive, 0);
  assert_int_equal(c.windows, 0);
  assert_int_equal(c.memory, 0);
  assert_int_equal(c.made, c.destroyed + c.aborted);
  for (int32_t r = 0; r < g->n - 1; r++) weir_dev_destroy(g->dev[r]);
  cuda_test_close(g->dev[g->n - 1]);
  fake->reset(&(fake_nccl_plan){0});
}

static weir_dev *dev_of(void *ctx, int32_t rank) { return ((gpus *)ctx)->dev[rank]; }
static comm_conf conf_of(gpus *g) {
  return (comm_conf){.kind = WEIR_COMM_NCCL, .dev = dev_of, .ctx = g, .most = 5000};
}

static void test_promises(void **state) {
  (void)state;
  const conf_traces before = conf_traces_now();
  for (int polls = 0; polls < 3; polls++) {
    gpus g = open_gpus(2 + polls, &(fake_nccl_plan){.polls = polls});
    const comm_conf c = conf_of(&g);
    conf_check_sums(&c, g.n);
    conf_check_copies(&c, g.n);
    if (polls == 1) conf_check_mixed(&c, g.n);
    assert_int_equal(fake->counts().aborted, 0);
    assert_int_equal(fake->counts().destroyed, (polls == 1 ? 3 : 2) * g.n);
    close_gpus(&g);
  }
  conf_check_traces(before);
}

/* ---- records ---- */

typedef struct step {
  conf_rank *r;
  float *x;
} step;

/* The table's own calls: a communicator of one rank has nothing to say otherwise. */
static weir_status enqueue(void *ctx, weir_err *e) {
  const step *s = ctx;
  weir_comm *c = s->r->comm;
  weir_status st = c->ops->all_reduce(c, s->x, N, e);
  if (st == WEIR_OK) st = c->ops->broadcast(c, s->x, 8, s->r->n_ranks - 1, e);
  return st;
}

static void run_steps(conf_rank *r) {
  weir_err e = {0};
  void *x = NULL;
  float host[N];
  weir_status st = weir_dev_alloc(r->dev, sizeof host, &x, &e);
  step s = {r, x};
  for (int i = 0; i < 5 && st == WEIR_OK; i++) {
    for (int k = 0; k < N; k++) host[k] = (float)(k % 13 + r->rank + i);
    st = weir_dev_upload(r->dev, x, host, sizeof host, &e);
    if (st == WEIR_OK) st = weir_dev_replay(r->dev, weir_replay_key(1, 9), enqueue, &s, &e);
    if (st == WEIR_OK) st = weir_dev_download(r->dev, host, x, sizeof host, &e);
    if (st == WEIR_OK) st = weir_dev_sync(r->dev, &e);
    for (int k = 0; k < N && st == WEIR_OK; k++) {
      const float want = (float)((k % 13 + i) * r->n_ranks + r->n_ranks * (r->n_ranks - 1) / 2);
      if (host[k] != want)
        conf_fault(r, "step %d: number %d is %g, not %g", i, k, (double)host[k], (double)want);
    }
  }
  if (st != WEIR_OK) conf_fault(r, "%s", e.msg);
  weir_dev_forget(r->dev, 1);
  weir_dev_release(r->dev, x);
}

static void test_records(void **state) {
  (void)state;
  for (int32_t n = 1; n <= 3; n += 2) {
    gpus g = open_gpus(n, &(fake_nccl_plan){.polls = 2});
    const comm_conf c = conf_of(&g);
    conf_ranks(&c, n, 30 * second, run_steps, NULL);
    const fake_nccl_counts k = fake->counts();
    assert_int_equal(k.calls, 2 * 2 * n); /* once as it is, once into the record */
    assert_int_equal(k.recorded, 2 * n);
    assert_int_equal(k.run, 2 * 5 * n);
    assert_int_equal(cu_shim_count().n_graph_launches, 4 * n);
    close_gpus(&g);
  }
}

/* ---- memory ---- */

static void run_memory(conf_rank *r) {
  weir_err e = {0};
  void *p[3] = {NULL};
  float host[10] = {1, 2, 3};
  for (int i = 0; i < 3; i++)
    if (r->comm->ops->alloc(r->comm, 1000 + 5000 * (size_t)i, &p[i], &e) != WEIR_OK)
      conf_fault(r, "%s", e.msg);
  weir_status st = weir_dev_upload(r->dev, p[1], host, sizeof host, &e);
  if (st == WEIR_OK) st = weir_comm_all_reduce(r->comm, p[1], 10, &e);
  if (st == WEIR_OK) st = weir_dev_download(r->dev, host, p[1], sizeof host, &e);
  if (st == WEIR_OK) st = weir_dev_sync(r->dev, &e);
  if (st != WEIR_OK || host[2] != 6.0f) conf_fault(r, "%g, %s", (double)host[2], e.msg);
  r->comm->ops->release(r->comm, p[1]);
  r->comm->ops->release(r->comm, p[0]); /* the third goes with the communicator */
}

static void test_memory(void **state) {
  (void)state;
  gpus g = open_gpus(2, &(fake_nccl_plan){.polls = 1});
  const comm_conf c = conf_of(&g);
  conf_ranks(&c, 2, 30 * second, run_memory, NULL);
  close_gpus(&g);
}

static void run_no_memory(conf_rank *r) {
  weir_err e = {0};
  void *p;
  if (r->comm->ops->alloc(r->comm, 1000, &p, &e) != WEIR_ENOMEM ||
      !strstr(e.msg, "1000") == !strstr(e.msg, "4096"))
    conf_fault(r, "%s", e.msg);
}

static void test_no_memory(void **state) {
  (void)state;
  gpus g = open_gpus(1, &(fake_nccl_plan){.refuse_memory = 1});
  const comm_conf c = conf_of(&g);
  conf_ranks(&c, 1, 30 * second, run_no_memory, NULL);
  close_gpus(&g);
}

/* ---- joining ---- */

static weir_status join_alone(gpus *g, int64_t bound_ns, char *invite, weir_err *e) {
  char own[WEIR_COMM_INVITE_BYTES];
  weir_comm_seat *seat = NULL;
  weir_comm *comm = NULL;
  const weir_comm_seat_opts o = {.dev = g->dev[0], .bound_ns = bound_ns};
  kern_ok(weir_comm_seat_open(WEIR_COMM_NCCL, &o, &seat, e), e, "seat");
  if (!invite) {
    const char *const offer[2] = {weir_comm_seat_offer(seat), weir_comm_seat_offer(seat)};
    kern_ok(weir_comm_invite(WEIR_COMM_NCCL, 2, offer, own, e), e, "invite");
    invite = own;
  }
  const weir_status st = weir_comm_join(seat, invite, 0, &comm, e);
  assert_true((st == WEIR_OK) == (comm != NULL));
  weir_comm_destroy(comm);
  return st;
}

static void must_say(weir_status st, const weir_err *e, weir_status want, const char *words) {
  if (st != want || !strstr(e->msg, words))
    fail_msg("%s, \"%s\"; want \"%s\"", weir_status_name(st), e->msg, words);
}

static void test_never_joins(void **state) {
  (void)state;
  gpus g = open_gpus(1, &(fake_nccl_plan){.init_never = true});
  weir_err e = {0};
  const int64_t from = conf_now_ns();
  must_say(join_alone(&g, second / 5, NULL, &e), &e, WEIR_EDEVICE,
           "not all of 2 ranks have joined within 0.2 s");
  assert_true(conf_now_ns() - from >= second / 5);
  assert_int_equal(fake->counts().aborted, 1);
  close_gpus(&g);
}

static void test_duplicate(void **state) {
  (void)state;
  gpus g = open_gpus(1, &(fake_nccl_plan){.duplicate = true, .polls = 3});
  weir_err e = {0};
  must_say(join_alone(&g, 10 * second, NULL, &e), &e, WEIR_EDEVICE, "Duplicate GPU");
  if (!strstr(e.msg, "communicator `local`")) fail_msg("no hint in: %s", e.msg);
  assert_int_equal(fake->counts().aborted, 1);
  close_gpus(&g);
}

static void test_texts(void **state) {
  (void)state;
  static const char *const bad[] = {"", "00", "zz", "0g", "-1"};
  gpus g = open_gpus(1, &(fake_nccl_plan){0});
  weir_err e = {0};
  char invite[WEIR_COMM_INVITE_BYTES];
  for (size_t i = 0; i < sizeof bad / sizeof *bad + 2; i++) {
    int n = snprintf(invite, sizeof invite, "weir-comm 1 nccl 2 ");
    if (i < sizeof bad / sizeof *bad)
      snprintf(invite + n, sizeof invite - (size_t)n, "%s", bad[i]);
    else /* a digit too few, one too many */
      for (size_t k = 0; k < 255 + 2 * (i - sizeof bad / sizeof *bad); k++)
        n += snprintf(invite + n, sizeof invite - (size_t)n, "a");
    must_say(join_alone(&g, second, invite, &e), &e, WEIR_EFORMAT, "no NCCL id of 128 bytes");
  }
  close_gpus(&g);
}

/* ---- waits that end ---- */

typedef struct scene {
  pthread_barrier_t all;
  atomic_int waiting;
} scene;

static float *numbers(conf_rank *r) {
  void *x = NULL;
  weir_err e = {0};
  if (weir_dev_alloc(r->dev, N * sizeof(float), &x, &e) != WEIR_OK) conf_fault(r, "%s", e.msg);
  return x;
}

static void must_stay_over(conf_rank *r, float *x, const char *words) {
  weir_err e = {0};
  weir_status st = weir_comm_all_reduce(r->comm, x, N, &e);
  if (st != WEIR_EDEVICE || !strstr(e.msg, words)) conf_fault(r, "a call after: %d: %s", (int)st, e.msg);
  st = weir_dev_sync(r->dev, &e);
  if (st != WEIR_EDEVICE || !strstr(e.msg, words)) conf_fault(r, "a wait after: %d: %s", (int)st, e.msg);
  if (weir_cuda_of(r->dev)->dead.code != WEIR_OK) conf_fault(r, "the GPU is dead");
}

/* Rank 1 does not come: rank 0's kernel waits, its weir_dev_sync with it. */
static void run_hung(conf_rank *r) {
  scene *s = r->ctx;
  weir_err e = {0};
  float *x = numbers(r);
  if (conf_call(r, 5, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  if (r->rank == 0) {
    if (weir_comm_all_reduce(r->comm, x, N, &e) != WEIR_OK)
      conf_fault(r, "enqueuing does not wait: %s", e.msg);
    const weir_status st = weir_dev_sync(r->dev, &e);
    if (st != WEIR_EDEVICE || !strstr(e.msg, "rank 0 waits on its GPU"))
      conf_fault(r, "%d: %s", (int)st, e.msg);
    if (fake->counts().aborted != 1) conf_fault(r, "nothing was aborted");
    must_stay_over(r, x, "rank 0 waits on its GPU");
  }
  pthread_barrier_wait(&s->all);
  weir_dev_release(r->dev, x);
}

static void with_scene(int32_t n, const fake_nccl_plan *plan, int64_t bound_ns, void (*fn)(conf_rank *)) {
  const conf_traces before = conf_traces_now();
  gpus g = open_gpus(n, plan);
  const comm_conf c = conf_of(&g);
  scene s = {.waiting = 0};
  pthread_barrier_init(&s.all, NULL, (unsigned)n);
  conf_ranks(&c, n, bound_ns, fn, &s);
  pthread_barrier_destroy(&s.all);
  close_gpus(&g);
  conf_check_traces(before);
}

static void test_hung(void **state) {
  (void)state;
  with_scene(2, &(fake_nccl_plan){.polls = 1}, second / 2, run_hung);
}

static void run_aborted(conf_rank *r) {
  scene *s = r->ctx;
  weir_err e = {0};
  float *x = numbers(r);
  if (r->rank == 0) {
    if (weir_comm_all_reduce(r->comm, x, N, &e) != WEIR_OK) conf_fault(r, "%s", e.msg);
    atomic_store(&s->waiting, 1);
    const int64_t from = conf_now_ns();
    const weir_status st = weir_dev_sync(r->dev, &e);
    if (st != WEIR_EDEVICE || !strstr(e.msg, "the cat sleeps")) conf_fault(r, "%d: %s", (int)st, e.msg);
    if (conf_now_ns() - from > 20 * second) conf_fault(r, "an abort took too long");
    must_stay_over(r, x, "the cat sleeps");
  }
  pthread_barrier_wait(&s->all);
  weir_dev_release(r->dev, x);
}

typedef struct outsider {
  scene *s;
  weir_comm *comm;
} outsider;

static void *abort_main(void *arg) {
  outsider *o = arg;
  while (!atomic_load(&o->s->waiting)) sched_yield();
  weir_comm_abort(o->comm, "the cat sleeps");
  weir_comm_abort(o->comm, "said twice");
  return NULL;
}

static void run_aborted_from_outside(conf_rank *r) {
  outsider o = {r->ctx, r->comm};
  pthread_t id;
  if (r->rank == 0 && pthread_create(&id, NULL, abort_main, &o) != 0) conf_fault(r, "no thread");
  run_aborted(r);
  if (r->rank == 0) pthread_join(id, NULL);
}

static void test_aborted(void **state) {
  (void)state;
  for (int i = 0; i < 5; i++)
    with_scene(2, &(fake_nccl_plan){.polls = i}, 60 * second, run_aborted_from_outside);
}

/* NCCL says that something went wrong: while the GPU is waited for, and at a call. */
static void run_remote_error(conf_rank *r) {
  scene *s = r->ctx;
  weir_err e = {0};
  float *x = numbers(r);
  if (conf_call(r, 5, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  pthread_barrier_wait(&s->all);
  if (r->rank == 0) {
    if (weir_comm_all_reduce(r->comm, x, N, &e) != WEIR_OK) conf_fault(r, "%s", e.msg);
    fake->break_rank(0, REMOTE_ERROR);
    const weir_status st = weir_dev_sync(r->dev, &e);
    if (st != WEIR_EDEVICE || !strstr(e.msg, "remote process exited") || !strstr(e.msg, "gpu17"))
      conf_fault(r, "%d: %s", (int)st, e.msg);
    must_stay_over(r, x, "rank 0: NCCL: remote process exited");
  } else {
    fake->break_rank(1, REMOTE_ERROR);
    const weir_status st = weir_comm_all_reduce(r->comm, x, N, &e);
    if (st != WEIR_EDEVICE || !strstr(e.msg, "rank 1: all_reduce: NCCL: remote process"))
      conf_fault(r, "%s", e.msg);
    must_stay_over(r, x, "remote process");
  }
  weir_dev_release(r->dev, x);
}

static void test_remote_error(void **state) {
  (void)state;
  with_scene(2, &(fake_nccl_plan){.polls = 1}, 60 * second, run_remote_error);
}

static void run_refused(conf_rank *r) {
  weir_err e = {0};
  float *x = numbers(r);
  const weir_status st = weir_comm_all_reduce(r->comm, x, N, &e);
  if (st != WEIR_EDEVICE || !strstr(e.msg, "refused as planned") || !strstr(e.msg, "all_reduce"))
    conf_fault(r, "%d: %s", (int)st, e.msg);
  must_stay_over(r, x, "refused as planned");
  weir_dev_release(r->dev, x);
}

static void run_one_refused(conf_rank *r) {
  scene *s = r->ctx;
  if (r->rank == 0) run_refused(r);
  pthread_barrier_wait(&s->all);
}

static void test_refused(void **state) {
  (void)state;
  with_scene(2, &(fake_nccl_plan){.refuse_call = 1}, 60 * second, run_one_refused);
}

/* A call that is never through: the bound ends it. */
static void run_stuck_call(conf_rank *r) {
  weir_err e = {0};
  scene *s = r->ctx;
  float *x = numbers(r);
  pthread_barrier_wait(&s->all);
  if (r->rank == 0) fake->plan(&(fake_nccl_plan){.polls = 1 << 30});
  pthread_barrier_wait(&s->all);
  const weir_status st = weir_comm_all_reduce(r->comm, x, N, &e);
  if (st != WEIR_EDEVICE || !strstr(e.msg, "all_reduce has not been enqueued within 0.2 s"))
    conf_fault(r, "%d: %s", (int)st, e.msg);
  weir_dev_release(r->dev, x);
}

static void test_stuck_call(void **state) {
  (void)state;
  with_scene(2, &(fake_nccl_plan){.polls = 1}, second / 5, run_stuck_call);
}

/* ---- libraries ---- */

static void test_libraries(void **state) {
  (void)state;
  static const struct {
    const char *file, *words;
  } row[] = {
      {"/nowhere/libnccl.so.2", "cannot be opened"},
      {FAKE_NCCL_1, "version code 21605, NCCL 2.18 (21800) or later is needed"},
      {FAKE_NCCL_2, "has no ncclCommAbort"},
  };
  weir_err e = {0};
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    weir_comm_nccl_library(row[i].file);
    must_say(weir_comm_kind_check(WEIR_COMM_NCCL, &e), &e, WEIR_EUNSUP, row[i].words);
    weir_comm_seat *seat;
    must_say(weir_comm_seat_open(WEIR_COMM_NCCL, &(weir_comm_seat_opts){.dev = NULL}, &seat, &e), &e,
             WEIR_EUNSUP, row[i].words);
  }
  weir_comm_nccl_library(FAKE_NCCL);
  kern_ok(weir_comm_kind_check(WEIR_COMM_NCCL, &e), &e, "check");
}

/* Without windows memory is the device's. */
static void run_plain_memory(conf_rank *r) {
  weir_err e = {0};
  void *p = NULL;
  if (r->comm->ops->alloc(r->comm, 1000, &p, &e) != WEIR_OK) conf_fault(r, "%s", e.msg);
  if (conf_call(r, 5, &e) != WEIR_OK) conf_fault(r, "%s", e.msg);
  r->comm->ops->release(r->comm, p);
}

static const fake_nccl_tests *load(const char *file) {
  void *so = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  fake_nccl_tests_fn fn = NULL;
  if (!so) fail_msg("%s", dlerror());
  void *const at = dlsym(so, "fake_nccl_tests_of");
  memcpy(&fn, &at, sizeof at);
  assert_non_null(at);
  return fn();
}

static void test_no_windows(void **state) {
  (void)state;
  const fake_nccl_tests *const first = fake;
  fake = load(FAKE_NCCL_3);
  weir_comm_nccl_library(FAKE_NCCL_3);
  gpus g = open_gpus(2, &(fake_nccl_plan){.polls = 1});
  const comm_conf c = conf_of(&g);
  conf_ranks(&c, 2, 30 * second, run_plain_memory, NULL);
  close_gpus(&g);
  weir_comm_nccl_library(FAKE_NCCL);
  fake = first;
}

int main(void) {
  weir_err e = {0};
  if (weir_comm_kind_check(WEIR_COMM_NCCL, &e) != WEIR_OK && strstr(e.msg, "nccl.h")) {
    print_message("SKIP: %s\n", e.msg);
    return 77;
  }
  weir_comm_nccl_library(FAKE_NCCL);
  fake = load(FAKE_NCCL);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_libraries),    cmocka_unit_test(test_promises),
      cmocka_unit_test(test_records),      cmocka_unit_test(test_memory),
      cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_never_joins),
      cmocka_unit_test(test_duplicate),    cmocka_unit_test(test_texts),
      cmocka_unit_test(test_hung),         cmocka_unit_test(test_aborted),
      cmocka_unit_test(test_remote_error), cmocka_unit_test(test_refused),
      cmocka_unit_test(test_stuck_call),   cmocka_unit_test(test_no_windows),
  };
  return cmocka_run_group_tests_name("comm_nccl", tests, NULL, NULL);
}
