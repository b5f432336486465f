/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA device's memory, copies and waits, on a runtime that does nothing before it must. One thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/ring.h"
#include "probe.h"

/* ---- life ---- */

static void test_life(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 1);
  assert_string_equal(dev->ops->name, "cuda");
  assert_string_equal(dev->desc, "Emulated GPU, 132 SMs, sm_90, 8 GiB");
  const weir_cuda *cu = weir_cuda_of(dev);
  assert_int_equal(cu->n_sms, 132);
  assert_int_equal(cu->cc, 90);
  assert_int_equal(cu->max_smem, 227 << 10);
  weir_err e = {0};
  size_t free0 = 0, free1 = 0, total = 0;
  kern_ok(weir_dev_memory(dev, &free0, &total, &e), &e, "memory");
  assert_int_equal(total, (size_t)8 << 30);
  void *p = NULL;
  kern_ok(weir_dev_alloc(dev, 100000, &p, &e), &e, "alloc");
  kern_ok(weir_dev_memory(dev, &free1, &total, &e), &e, "memory");
  assert_int_equal(free0 - free1, 100000);
  weir_dev_release(dev, p);
  cuda_test_close(dev);
}

static weir_status open_on(const cu_shim_config *c, int32_t ordinal, weir_err *e) {
  weir_dev *dev = NULL;
  const weir_cuda_opts o = {.ordinal = ordinal};
  cu_shim_reset(c);
  const weir_status st = weir_cuda_dev_open(&o, weir_log, &dev, e);
  assert_int_equal(st == WEIR_OK, dev != NULL);
  weir_dev_destroy(dev);
  assert_int_equal(cu_shim_alive(), 0);
  return st;
}

/* GPUs that are not there, or that the build has no code for ("80-real,90a-real"). */
static void test_which(void **state) {
  (void)state;
  static const struct {
    int n_devices, cc, ordinal;
    bool no_driver;
    const char *says; /* NULL: it opens */
  } c[] = {
      {1, 90, 0, false, NULL},
      {1, 80, 0, false, NULL},
      {1, 86, 0, false, NULL},
      {1, 89, 0, false, NULL},
      {2, 90, 1, false, NULL},
      {1, 75, 0, false,
       "Emulated GPU, 132 SMs, sm_75, 8 GiB): this build has code for 80-real,90a-real only"},
      {1, 100, 0, false, "this build has code for"},
      {1, 90, 1, false, "there is no GPU 1: 1 found"},
      {1, 90, -1, false, "there is no GPU -1: 1 found"},
      {0, 90, 0, false, "no CUDA-capable device is detected"},
      {1, 90, 0, true, "CUDA driver version is insufficient for CUDA runtime version"},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0};
    cu_shim_config config = cu_shim_defaults();
    config.n_devices = c[i].n_devices;
    config.cc = c[i].cc;
    config.no_driver = c[i].no_driver;
    const weir_status st = open_on(&config, c[i].ordinal, &e);
    if (!c[i].says) {
      kern_ok(st, &e, "open");
      continue;
    }
    assert_int_equal(st, WEIR_EUNSUP);
    if (!strstr(e.msg, c[i].says)) fail_msg("case %zu says \"%s\", want \"%s\"", i, e.msg, c[i].says);
  }
}

/* ---- memory ---- */

static void test_zeroed(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 2);
  weir_err e = {0};
  for (size_t bytes = 1; bytes < 3000; bytes = bytes * 3 + 1) {
    void *p = NULL;
    uint8_t got[3000];
    memset(got, 7, sizeof got);
    kern_ok(weir_dev_alloc(dev, bytes, &p, &e), &e, "alloc");
    assert_int_equal((uintptr_t)p % 256, 0);
    kern_ok(weir_dev_download(dev, got, p, bytes, &e), &e, "download");
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    for (size_t i = 0; i < bytes; i++) assert_int_equal(got[i], 0);
    weir_dev_release(dev, p);
  }
  cuda_test_close(dev);
}

/* Memory that ran out is no failure of the GPU. */
static void test_full(void **state) {
  (void)state;
  cu_shim_config c = cu_shim_defaults();
  c.memory_bytes = 10 << 20;
  cu_shim_reset(&c);
  weir_dev *dev = cuda_test_open(NULL, false);
  weir_err e = {0};
  void *p = NULL, *q = NULL;
  kern_ok(weir_dev_alloc(dev, 8 << 20, &p, &e), &e, "alloc");
  assert_int_equal(weir_dev_alloc(dev, 4 << 20, &q, &e), WEIR_ENOMEM);
  assert_null(q);
  if (!strstr(e.msg, "no room for 4.0 MiB, ")) fail_msg("says \"%s\"", e.msg);
  weir_dev_limits lim = cuda_test_limits();
  lim.max_tokens = lim.max_rows_out = 1 << 14; /* scratch of more than there is */
  assert_int_equal(weir_dev_reserve(dev, &lim, &e), WEIR_ENOMEM);
  assert_int_equal(dev->limits.max_tokens, 0);
  weir_dev_release(dev, p);
  kern_ok(weir_dev_alloc(dev, 4 << 20, &q, &e), &e, "alloc after that");
  weir_dev_release(dev, q);
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  cuda_test_close(dev);
}

static void test_second_gpu(void **state) {
  (void)state;
  cu_shim_config c = cu_shim_defaults();
  c.n_devices = 2;
  cu_shim_reset(&c);
  weir_err e = {0};
  weir_dev *dev[2] = {NULL, NULL};
  void *p[2];
  for (int32_t i = 0; i < 2; i++) {
    const weir_cuda_opts o = {.ordinal = i};
    kern_ok(weir_cuda_dev_open(&o, weir_log, &dev[i], &e), &e, "open");
  }
  /* In turn from one thread: each call is on its own GPU, whichever the last one was on. */
  size_t before[2], after[2], total;
  for (int i = 0; i < 2; i++) kern_ok(weir_dev_memory(dev[i], &before[i], &total, &e), &e, "memory");
  for (int i = 0; i < 2; i++) kern_ok(weir_dev_alloc(dev[i], i ? 5000 : 300, &p[i], &e), &e, "alloc");
  for (int i = 0; i < 2; i++) kern_ok(weir_dev_memory(dev[i], &after[i], &total, &e), &e, "memory");
  assert_int_equal(before[0] - after[0], 300);
  assert_int_equal(before[1] - after[1], 5000);
  for (int i = 0; i < 2; i++) {
    const int32_t v = 100 + i;
    kern_ok(weir_dev_upload(dev[i], p[i], &v, sizeof v, &e), &e, "upload");
  }
  int32_t got[2] = {0, 0};
  for (int i = 0; i < 2; i++) kern_ok(weir_dev_download(dev[i], &got[i], p[i], 4, &e), &e, "download");
  for (int i = 0; i < 2; i++) kern_ok(weir_dev_sync(dev[i], &e), &e, "sync");
  assert_int_equal(got[0], 100);
  assert_int_equal(got[1], 101);
  for (int i = 0; i < 2; i++) weir_dev_release(dev[i], p[i]);
  weir_dev_destroy(dev[0]);
  cuda_test_close(dev[1]);
}

/* ---- the ring ---- */

/* Pieces of any size at any place, the source overwritten at once; read back whole and in parts. */
static void shuttle(weir_dev *dev, weir_cuda_ring *r, kern_rng *rng, int32_t n_pieces, size_t most) {
  enum { BYTES = 9000 };
  weir_err e = {0};
  void *p = NULL;
  uint8_t *want = calloc(1, BYTES), *piece = malloc(BYTES), *got = malloc(BYTES);
  assert_non_null(want);
  assert_non_null(piece);
  assert_non_null(got);
  kern_ok(weir_dev_alloc(dev, BYTES, &p, &e), &e, "alloc");
  for (int32_t i = 0; i < n_pieces; i++) {
    const size_t n = 1 + (size_t)kern_below(rng, (int32_t)most);
    const size_t at = (size_t)kern_below(rng, (int32_t)(BYTES - n + 1));
    for (size_t k = 0; k < n; k++) piece[k] = (uint8_t)kern_u64(rng);
    memcpy(want + at, piece, n);
    kern_ok(weir_cuda_ring_upload(dev, r, (char *)p + at, piece, n, &e), &e, "upload");
    memset(piece, 0xee, n);
  }
  memset(got, 0x11, BYTES);
  for (size_t at = 0; at < BYTES;) {
    size_t n = 1 + (size_t)kern_below(rng, (int32_t)most);
    if (n > BYTES - at) n = BYTES - at;
    kern_ok(weir_cuda_ring_download(dev, r, got + at, (char *)p + at, n, &e), &e, "download");
    at += n;
  }
  kern_ok(weir_cuda_check(dev, cudaStreamSynchronize(weir_cuda_of(dev)->stream), "wait", &e), &e, "wait");
  weir_cuda_ring_deliver(r);
  kern_same(got, want, BYTES, "what came back");
  weir_dev_release(dev, p);
  free(want);
  free(piece);
  free(got);
}

static void test_ring(void **state) {
  (void)state;
  static const struct {
    weir_cuda_ring_sizes size;
    size_t most;
  } c[] = {
      {{16, 2, 16}, 50},       {{64, 2, 48}, 64},        {{64, 3, 1000}, 200},    {{256, 2, 4096}, 31},
      {{1024, 8, 1024}, 3000}, {{4096, 2, 16384}, 9000}, {{4096, 4, 4096}, 4096}, {{65536, 2, 65536}, 5000},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++)
    for (uint64_t seed = 0; seed < 4; seed++) {
      weir_err e = {0};
      kern_rng rng = {seed * 77 + i};
      weir_dev *dev = cuda_test_dev(NULL, seed);
      const size_t before = cu_shim_count().pinned_bytes;
      weir_cuda_ring *r = NULL;
      kern_ok(weir_cuda_ring_create(dev, c[i].size, &r, &e), &e, "create");
      for (int round = 0; round < 3; round++) shuttle(dev, r, &rng, 60, c[i].most);
      assert_int_equal(cu_shim_count().most_pinned_bytes - before,
                       c[i].size.segment_bytes * (size_t)c[i].size.n_segments + c[i].size.download_bytes);
      weir_cuda_ring_destroy(r);
      cuda_test_close(dev);
    }
}

/* A step's few small uploads wait for nothing. */
static void test_ring_does_not_wait(void **state) {
  (void)state;
  weir_err e = {0};
  weir_dev *dev = cuda_test_dev(NULL, 2);
  void *p = NULL;
  uint8_t some[1000] = {0};
  kern_ok(weir_dev_alloc(dev, sizeof some, &p, &e), &e, "alloc");
  for (int step = 0; step < 3; step++) {
    const uint64_t waits = cu_shim_count().n_waits;
    for (int i = 0; i < 500; i++) kern_ok(weir_dev_upload(dev, p, some, sizeof some, &e), &e, "upload");
    assert_int_equal(cu_shim_count().n_waits, waits);
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    assert_int_equal(cu_shim_count().n_waits, waits + 1);
  }
  weir_dev_release(dev, p);
  cuda_test_close(dev);
}

/* What fits into a segment is one copy; after a sync no segment is waited for. */
static void test_ring_pieces(void **state) {
  (void)state;
  weir_err e = {0};
  weir_dev *dev = cuda_test_dev(NULL, 2);
  weir_cuda_ring *r = NULL;
  void *p = NULL;
  uint8_t some[1000] = {0};
  kern_ok(weir_dev_alloc(dev, sizeof some, &p, &e), &e, "alloc");
  kern_ok(weir_cuda_ring_create(dev, (weir_cuda_ring_sizes){1024, 4, 1024}, &r, &e), &e, "create");
  for (int round = 0; round < 3; round++) {
    const cu_shim_counts was = cu_shim_count();
    for (int i = 0; i < 4; i++) kern_ok(weir_cuda_ring_upload(dev, r, p, some, 700, &e), &e, "upload");
    assert_int_equal(cu_shim_count().n_calls - was.n_calls, 4 + 3); /* and an event a segment that is full */
    assert_int_equal(cu_shim_count().n_waits, was.n_waits);
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    weir_cuda_ring_deliver(r);
  }
  weir_cuda_ring_destroy(r);
  weir_dev_release(dev, p);
  cuda_test_close(dev);
}

/* Copies that nobody has waited for end before their staging goes. */
static void test_destroyed_while_busy(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  weir_err e = {0};
  const uint8_t some[1000] = {0};
  weir_dev *dev = cuda_test_dev(&lim, 2);
  assert_true(weir_cuda_of(dev)->scratch_bytes >= sizeof some);
  kern_ok(weir_dev_upload(dev, weir_cuda_of(dev)->scratch, some, sizeof some, &e), &e, "upload");
  cuda_test_close(dev);
}

static void test_ring_sizes_refused(void **state) {
  (void)state;
  static const weir_cuda_ring_sizes bad[] = {{0, 2, 16}, {8, 2, 16},   {24, 2, 16},           {16, 1, 16},
                                             {16, 2, 0}, {16, -1, 16}, {SIZE_MAX - 15, 4, 16}};
  weir_dev *dev = cuda_test_dev(NULL, 1);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_err e = {0};
    weir_cuda_ring *r = NULL;
    assert_int_equal(weir_cuda_ring_create(dev, bad[i], &r, &e), WEIR_EINVAL);
    assert_null(r);
  }
  cuda_test_close(dev);
}

/* What a download asks for is there after the sync that comes next, not of things enqueued later. */
static void test_order(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 6; seed++) {
    weir_err e = {0};
    weir_dev *dev = cuda_test_dev(NULL, seed);
    int32_t x[70], one = 1, after[3][70];
    for (int i = 0; i < 70; i++) x[i] = i;
    int32_t *d = kern_copy(dev, x, sizeof x), *add = kern_copy(dev, &one, sizeof one);
    const probe_step_args a = {d, add, 70};
    for (int k = 0; k < 3; k++) {
      kern_ok(weir_cuda_check(dev, probe_step(&a, weir_cuda_of(dev)->stream), "launch", &e), &e, "step");
      kern_ok(weir_dev_download(dev, after[k], d, sizeof x, &e), &e, "download");
    }
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    for (int i = 0; i < 70; i++) {
      assert_int_equal(after[0][i], 2 * i + 1);
      assert_int_equal(after[1][i], 4 * i + 3);
      assert_int_equal(after[2][i], 8 * i + 7);
    }
    weir_dev_release(dev, d);
    weir_dev_release(dev, add);
    cuda_test_close(dev);
  }
}

/* ---- the runtime itself: what it is there to catch ---- */

__attribute__((no_sanitize("address"))) static void scribble(volatile char *p) { *p = 1; }

static void test_misuses(void **state) {
  (void)state;
  cu_shim_config c = cu_shim_defaults();
  c.keep_misuses = true;
  cu_shim_reset(&c);
  void *d = NULL, *h = NULL;
  static int x;
  cudaStream_t s = NULL;
  assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
  assert_int_equal(cudaMalloc(&d, 100), cudaSuccess);
  assert_int_equal(cudaHostAlloc(&h, 100, 0), cudaSuccess);
  assert_true(((float *)d)[0] != ((float *)d)[0]); /* poison */
  assert_int_equal(cudaMemcpyAsync(d, &x, sizeof x, cudaMemcpyHostToDevice, s), cudaSuccess);
  assert_string_equal(cu_shim_misuse(), "cudaMemcpyAsync from memory that is not pinned would wait");
  assert_int_equal(cudaMemcpyAsync(&x, d, sizeof x, cudaMemcpyDeviceToHost, s), cudaSuccess);
  assert_int_equal(cu_shim_count().n_misuses, 2);
  assert_int_equal(cudaMemcpyAsync((char *)d + 97, h, 4, cudaMemcpyHostToDevice, s), cudaErrorInvalidValue);
  assert_int_equal(cudaMemcpyAsync(d, h, 4, cudaMemcpyHostToDevice, s), cudaSuccess);
  assert_int_equal(cudaFreeHost(h), cudaSuccess);
  assert_string_equal(cu_shim_misuse(), "cudaFreeHost of 100 bytes that a copy still needs");
  assert_int_equal(cudaFree(&x), cudaErrorInvalidValue);
  assert_int_equal(cu_shim_count().n_misuses, 4);
  scribble((char *)d + 100);
  cu_shim_check_guards();
  assert_string_equal(cu_shim_misuse(), "0 bytes behind a block of 100 were written to");
  assert_int_equal(cudaFree(d), cudaSuccess);
  assert_int_equal(cu_shim_count().n_misuses, 6);
  assert_int_equal(cudaStreamDestroy(s), cudaSuccess);
  assert_int_equal(cu_shim_alive(), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_life),
      cmocka_unit_test(test_which),
      cmocka_unit_test(test_zeroed),
      cmocka_unit_test(test_full),
      cmocka_unit_test(test_second_gpu),
      cmocka_unit_test(test_ring),
      cmocka_unit_test(test_ring_does_not_wait),
      cmocka_unit_test(test_ring_pieces),
      cmocka_unit_test(test_destroyed_while_busy),
      cmocka_unit_test(test_ring_sizes_refused),
      cmocka_unit_test(test_order),
      cmocka_unit_test(test_misuses),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
