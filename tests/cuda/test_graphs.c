/* SPDX-License-Identifier: Apache-2.0 */
/* Records of steps: when they are made, played, dropped, and what happens where none can be made. One
 * thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/graphs.h"
#include "probe.h"

enum { N = 40 };

/* A device with a vector that steps work on, x = 2x + add each. */
typedef struct {
  weir_dev *dev;
  int32_t *x, *add, *spare; /* device */
  int32_t want;             /* of each element */
  int n_enqueued;
  weir_status (*also)(void *, weir_err *); /* run within each step, when set */
} bench;

static int n_logged;
static char logged[600];
static void count_log(weir_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void count_log(weir_log_level level, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(logged, sizeof logged, fmt, ap);
  va_end(ap);
  assert_int_equal(level, WEIR_LOG_WARN);
  n_logged++;
}

static bench begin(uint64_t seed, bool no_graphs) {
  cu_shim_config c = cu_shim_defaults();
  weir_err e = {0};
  bench b = {0};
  const weir_cuda_opts o = {.no_graphs = no_graphs};
  c.seed = seed;
  c.early = seed % 2 ? 64 : 0;
  cu_shim_reset(&c);
  n_logged = 0;
  kern_ok(weir_cuda_dev_open(&o, count_log, &b.dev, &e), &e, "open");
  const int32_t zero[N] = {0};
  b.x = kern_copy(b.dev, zero, sizeof zero);
  b.add = kern_copy(b.dev, zero, sizeof *zero);
  b.spare = kern_copy(b.dev, zero, sizeof *zero);
  return b;
}

static void end(bench *b) {
  weir_dev_release(b->dev, b->x);
  weir_dev_release(b->dev, b->add);
  weir_dev_release(b->dev, b->spare);
  cuda_test_close(b->dev);
}

static weir_status enqueue(void *ctx, weir_err *e) {
  bench *b = ctx;
  const probe_step_args a = {b->x, b->add, N};
  b->n_enqueued++;
  const weir_status st =
      weir_cuda_check(b->dev, probe_step(&a, weir_cuda_of(b->dev)->stream), "launch probe_step", e);
  if (st != WEIR_OK) return st;
  return b->also ? b->also(b, e) : st;
}

/* One step under that key, with another number to add. */
static void step(bench *b, uint64_t key, int32_t add) {
  weir_err e = {0};
  kern_ok(weir_dev_upload(b->dev, b->add, &add, sizeof add, &e), &e, "upload");
  kern_ok(weir_dev_replay(b->dev, key, enqueue, b, &e), &e, "replay");
  b->want = 2 * b->want + add;
}

static void look(bench *b) {
  weir_err e = {0};
  int32_t got[N];
  kern_ok(weir_dev_download(b->dev, got, b->x, sizeof got, &e), &e, "download");
  kern_ok(weir_dev_sync(b->dev, &e), &e, "sync");
  for (int i = 0; i < N; i++)
    if (got[i] != b->want) fail_msg("x[%d] is %d, want %d", i, got[i], b->want);
}

static void restart(bench *b) { /* before 2x overflows */
  weir_err e = {0};
  const int32_t zero[N] = {0};
  kern_ok(weir_dev_upload(b->dev, b->x, zero, sizeof zero, &e), &e, "upload");
  b->want = 0;
}

static void test_recorded_the_second_time(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 6; seed++) {
    bench b = begin(seed, false);
    for (int i = 0; i < 6; i++) {
      step(&b, 7, i + 1);
      if (seed % 3 == 0) look(&b);
    }
    look(&b);
    assert_int_equal(b.n_enqueued, 2); /* as it is, and for the record */
    assert_int_equal(cu_shim_count().n_graph_launches, 5);
    assert_int_equal(cu_shim_count().execs, 1);
    assert_int_equal(cu_shim_count().graphs, 0);
    end(&b);
  }
}

static void test_no_graphs(void **state) {
  (void)state;
  bench b = begin(1, true);
  for (int i = 0; i < 5; i++) step(&b, 7, i);
  look(&b);
  assert_int_equal(b.n_enqueued, 5);
  assert_int_equal(cu_shim_count().n_graph_launches, 0);
  assert_int_equal(cu_shim_count().execs, 0);
  end(&b);
}

/* 64 keys are kept; of more the one unused for longest goes. */
static void test_oldest_goes(void **state) {
  (void)state;
  bench b = begin(3, false);
  for (int round = 0; round < 2; round++)
    for (uint64_t key = 0; key < WEIR_CUDA_MAX_RECORDS; key++) {
      if (key % 16 == 0) restart(&b);
      step(&b, key, 1);
    }
  look(&b);
  assert_int_equal(cu_shim_count().execs, WEIR_CUDA_MAX_RECORDS);
  restart(&b);
  step(&b, 0, 5); /* now 1 is the one unused for longest */
  b.n_enqueued = 0;
  step(&b, 1000, 2);
  assert_int_equal(cu_shim_count().execs, WEIR_CUDA_MAX_RECORDS - 1);
  step(&b, 1000, 3);
  assert_int_equal(b.n_enqueued, 2);
  assert_int_equal(cu_shim_count().execs, WEIR_CUDA_MAX_RECORDS);
  b.n_enqueued = 0;
  step(&b, 0, 4);
  step(&b, 2, 4);
  step(&b, 63, 4);
  assert_int_equal(b.n_enqueued, 0);
  step(&b, 1, 4);
  assert_int_equal(b.n_enqueued, 1);
  look(&b);
  end(&b);
}

static void test_forget(void **state) {
  (void)state;
  bench b = begin(2, false);
  const uint32_t mine = weir_dev_new_owner(b.dev), theirs = weir_dev_new_owner(b.dev);
  assert_true(mine != theirs);
  for (int round = 0; round < 2; round++)
    for (uint32_t shape = 0; shape < 3; shape++) {
      step(&b, weir_replay_key(mine, shape), 1);
      step(&b, weir_replay_key(theirs, shape), 2);
    }
  assert_int_equal(cu_shim_count().execs, 6);
  weir_dev_forget(b.dev, mine); /* while some of them have not run */
  assert_int_equal(cu_shim_count().execs, 3);
  b.n_enqueued = 0;
  step(&b, weir_replay_key(theirs, 1), 3);
  assert_int_equal(b.n_enqueued, 0);
  step(&b, weir_replay_key(mine, 1), 3);
  assert_int_equal(b.n_enqueued, 1);
  look(&b);
  weir_dev_forget(b.dev, 12345);
  assert_int_equal(cu_shim_count().execs, 3);
  end(&b);
}

static size_t scratch_of(const weir_dev *dev) {
  const weir_cuda *cu = weir_cuda_of(dev);
  return cu->scratch_bytes + cu->moe_bytes + cu->sample_bytes + cu->plan_bytes;
}

/* Scratch that moved is within the records. */
static void test_growth_drops_all(void **state) {
  (void)state;
  weir_err e = {0};
  bench b = begin(4, false);
  const weir_dev_limits large = cuda_test_limits();
  weir_dev_limits lim = large;
  lim.max_tokens = lim.max_rows_out = 8;
  lim.max_head_dim = 64;
  kern_ok(weir_dev_reserve(b.dev, &lim, &e), &e, "reserve");
  const size_t before = scratch_of(b.dev);
  assert_true(before > 0);
  for (int i = 0; i < 3; i++) step(&b, 1, i);
  assert_int_equal(cu_shim_count().execs, 1);
  kern_ok(weir_dev_reserve(b.dev, &lim, &e), &e, "reserve the same");
  assert_int_equal(cu_shim_count().execs, 1);
  kern_ok(weir_dev_reserve(b.dev, &large, &e), &e, "reserve more");
  assert_true(scratch_of(b.dev) > before);
  assert_int_equal(cu_shim_count().execs, 0);
  for (int i = 0; i < 3; i++) step(&b, 1, i);
  look(&b);
  end(&b);
}

/* ---- what cannot be recorded ---- */

static weir_status also_upload(void *ctx, weir_err *e) {
  bench *b = ctx;
  return weir_dev_upload(b->dev, b->spare, b, sizeof(int32_t), e);
}
static weir_status also_alloc(void *ctx, weir_err *e) {
  bench *b = ctx;
  void *p = NULL;
  const weir_status st = weir_cuda_check(b->dev, cudaMalloc(&p, 16), "allocate within a step", e);
  if (p) (void)cudaFree(p);
  return st;
}
static weir_status also_wait(void *ctx, weir_err *e) {
  bench *b = ctx;
  return weir_cuda_check(b->dev, cudaStreamSynchronize(weir_cuda_of(b->dev)->stream), "wait within a step",
                         e);
}
/* One that hides its failure: only the end of the record says that it is broken. */
static weir_status also_wait_silently(void *ctx, weir_err *e) {
  (void)e;
  (void)cudaStreamSynchronize(weir_cuda_of(((bench *)ctx)->dev)->stream);
  (void)cudaGetLastError();
  return WEIR_OK;
}
static weir_status also_sync(void *ctx, weir_err *e) { return weir_dev_sync(((bench *)ctx)->dev, e); }
static weir_status never(void *ctx, weir_err *e) {
  (void)ctx;
  return weir_fail(e, WEIR_EINVAL, "never");
}
static weir_status also_replay(void *ctx, weir_err *e) {
  bench *b = ctx;
  return weir_cuda_of(b->dev)->capturing ? weir_dev_replay(b->dev, 99, never, b, e) : WEIR_OK;
}

static void test_falls_back(void **state) {
  (void)state;
  static const struct {
    weir_status (*also)(void *, weir_err *);
    const char *says;
  } c[] = {
      {also_upload, "upload: not within a record"},
      {also_alloc, "allocate within a step: operation not permitted when stream is capturing"},
      {also_wait, "wait within a step: operation not permitted when stream is capturing"},
      {also_wait_silently, "end a record: operation failed due to a previous error during capture"},
      {also_sync, "sync: not within a record"},
      {also_replay, "replay: within a record"},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    bench b = begin(i, false);
    b.also = c[i].also;
    for (int k = 0; k < 5; k++) step(&b, 0xabc, k + 1);
    look(&b);
    assert_int_equal(b.n_enqueued, 1 + 2 + 3);
    assert_int_equal(n_logged, 1);
    if (!strstr(logged, c[i].says)) fail_msg("case %zu says \"%s\", want \"%s\"", i, logged, c[i].says);
    if (!strstr(logged, "step abc is enqueued anew each time")) fail_msg("says \"%s\"", logged);
    assert_int_equal(cu_shim_count().execs, 0);
    b.also = NULL; /* other keys are recorded all the same */
    step(&b, 2, 1);
    step(&b, 2, 1);
    assert_int_equal(cu_shim_count().execs, 1);
    look(&b);
    end(&b);
  }
}

/* A step that fails the first time is no step: nothing is kept, and its own error comes back. */
static void test_failing_step(void **state) {
  (void)state;
  bench b = begin(1, false);
  for (int i = 0; i < 3; i++) {
    weir_err e = {0};
    assert_int_equal(weir_dev_replay(b.dev, 5, never, &b, &e), WEIR_EINVAL);
    assert_string_equal(e.msg, "never");
  }
  assert_int_equal(n_logged, 0);
  step(&b, 5, 1);
  step(&b, 5, 1);
  assert_int_equal(b.n_enqueued, 2);
  look(&b);
  end(&b);
}

/* Its place is free again: no record goes for the next key. */
static void test_failing_step_takes_no_place(void **state) {
  (void)state;
  bench b = begin(2, false);
  weir_err e = {0};
  for (int round = 0; round < 2; round++)
    for (uint64_t key = 0; key < WEIR_CUDA_MAX_RECORDS - 1; key++) {
      if (key % 16 == 0) restart(&b);
      step(&b, key, 1);
    }
  assert_int_equal(weir_dev_replay(b.dev, 500, never, &b, &e), WEIR_EINVAL);
  step(&b, 600, 1);
  assert_int_equal(cu_shim_count().execs, WEIR_CUDA_MAX_RECORDS - 1);
  step(&b, 600, 1);
  assert_int_equal(cu_shim_count().execs, WEIR_CUDA_MAX_RECORDS);
  look(&b);
  end(&b);
}

/* ---- the runtime's rules of records, which the above lean on ---- */

static void test_rules(void **state) {
  (void)state;
  cu_shim_config c = cu_shim_defaults();
  cu_shim_reset(&c);
  cudaStream_t s = NULL;
  cudaEvent_t ev = NULL;
  cudaGraph_t g = NULL;
  void *p = NULL, *q = NULL;
  int x = 0;
  enum cudaStreamCaptureStatus now;
  assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
  assert_int_equal(cudaEventCreateWithFlags(&ev, cudaEventDisableTiming), cudaSuccess);
  assert_int_equal(cudaMalloc(&p, 64), cudaSuccess);
  for (int i = 0; i < 7; i++) {
    assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(cudaMemsetAsync(p, 1, 64, s), cudaSuccess);
    assert_int_equal(cudaEventRecord(ev, s), cudaSuccess);
    const cudaError_t ce = i == 0   ? cudaMalloc(&q, 1)
                           : i == 1 ? cudaFree(p)
                           : i == 2 ? cudaStreamSynchronize(s)
                           : i == 3 ? cudaEventQuery(ev)
                           : i == 4 ? cudaMemcpy(p, &x, sizeof x, cudaMemcpyHostToDevice)
                           : i == 5 ? cudaHostAlloc(&q, 1, 0)
                                    : cudaDeviceSynchronize();
    assert_int_equal(ce, i == 3   ? cudaErrorCapturedEvent
                         : i == 4 ? cudaErrorStreamCaptureImplicit
                                  : cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamIsCapturing(s, &now), cudaSuccess);
    assert_int_equal(now, cudaStreamCaptureStatusInvalidated);
    assert_int_equal(cudaMemsetAsync(p, 1, 64, s), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    assert_null(g);
  }
  /* Nothing of it has happened. */
  assert_int_equal(cudaStreamSynchronize(s), cudaSuccess);
  assert_int_equal(*(unsigned char *)p, 0xff);
  assert_int_equal(cudaEventDestroy(ev), cudaSuccess);
  assert_int_equal(cudaFree(p), cudaSuccess);
  assert_int_equal(cudaStreamDestroy(s), cudaSuccess);
  assert_int_equal(cu_shim_alive(), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_recorded_the_second_time),
      cmocka_unit_test(test_no_graphs),
      cmocka_unit_test(test_oldest_goes),
      cmocka_unit_test(test_forget),
      cmocka_unit_test(test_growth_drops_all),
      cmocka_unit_test(test_falls_back),
      cmocka_unit_test(test_failing_step),
      cmocka_unit_test(test_failing_step_takes_no_place),
      cmocka_unit_test(test_rules),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
