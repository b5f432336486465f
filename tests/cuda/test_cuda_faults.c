/* SPDX-License-Identifier: Apache-2.0 */
/* A GPU that fails: every call of a device's life fails once, in each way there is. Whatever happens then, no
 * crash, nothing leaked, a reason that names the call, and a device that stays dead. One thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/ring.h"
#include "probe.h"

enum { N = 300, WANT = ((1 * 2 + 3) * 2 + 3) * 2 + 3 };

typedef struct {
  weir_dev *dev;
  int32_t *x, *add;
} life;

static void quiet(weir_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void quiet(weir_log_level level, const char *fmt, ...) {
  (void)level;
  (void)fmt;
}

static weir_status enqueue(void *ctx, weir_err *e) {
  const life *l = ctx;
  const probe_step_args a = {l->x, l->add, N};
  return weir_cuda_check(l->dev, probe_step(&a, weir_cuda_of(l->dev)->stream), "launch probe_step", e);
}

/* All that a device's own files do, small. `dead`: what the device says of itself at the end. */
static weir_status live(const cu_shim_config *c, uint64_t call, uint64_t launch, cudaError_t error,
                        bool when_it_runs, weir_err *e, weir_err *dead) {
  weir_status st = WEIR_OK;
  life l = {NULL, NULL, NULL};
  const weir_cuda_opts o = {.ordinal = 0};
  weir_cuda_ring *ring = NULL;
  void *p = NULL;
  int32_t host[N], got[N];
  const int32_t three = 3;
  for (int i = 0; i < N; i++) host[i] = 1;
  cu_shim_reset(c);
  cu_shim_fail_call(call, error);
  cu_shim_fail_launch(launch, error, when_it_runs);
  WEIR_TRY(weir_cuda_dev_open(&o, quiet, &l.dev, e));
  const weir_dev_limits lim = {.max_tokens = 4, .max_heads = 4, .max_head_dim = 64, .max_kv_len = 64};
  WEIR_TRY(weir_dev_reserve(l.dev, &lim, e));
  WEIR_TRY(weir_dev_alloc(l.dev, sizeof host, &p, e));
  l.x = p;
  WEIR_TRY(weir_dev_alloc(l.dev, sizeof three, &p, e));
  l.add = p;
  WEIR_TRY(weir_dev_upload(l.dev, l.x, host, sizeof host, e));
  WEIR_TRY(weir_dev_upload(l.dev, l.add, &three, sizeof three, e));
  for (int i = 0; i < 3; i++) WEIR_TRY(weir_dev_replay(l.dev, weir_replay_key(1, 1), enqueue, &l, e));
  WEIR_TRY(weir_dev_download(l.dev, got, l.x, sizeof got, e));
  WEIR_TRY(weir_dev_sync(l.dev, e));
  for (int i = 0; i < N; i++) assert_int_equal(got[i], WANT);
  weir_dev_forget(l.dev, 1);
  /* A ring so small that it waits in the middle. */
  WEIR_TRY(weir_cuda_ring_create(l.dev, (weir_cuda_ring_sizes){256, 2, 512}, &ring, e));
  WEIR_TRY(weir_cuda_ring_upload(l.dev, ring, l.x, host, sizeof host, e));
  WEIR_TRY(weir_cuda_ring_download(l.dev, ring, got, l.x, sizeof got, e));
  WEIR_TRY(weir_dev_sync(l.dev, e));
  weir_cuda_ring_deliver(ring);
  for (int i = 0; i < N; i++) assert_int_equal(got[i], 1);
  size_t free_bytes, total_bytes;
  WEIR_TRY(weir_dev_memory(l.dev, &free_bytes, &total_bytes, e));
out:
  *dead = (weir_err){0};
  if (l.dev) {
    *dead = weir_cuda_of(l.dev)->dead;
    if (ring) (void)cudaStreamSynchronize(weir_cuda_of(l.dev)->stream);
    weir_cuda_ring_destroy(ring);
    if (l.x) weir_dev_release(l.dev, l.x);
    if (l.add) weir_dev_release(l.dev, l.add);
    *dead = weir_cuda_of(l.dev)->dead;
  }
  weir_dev_destroy(l.dev);
  return st;
}

/* Calls whose failure nobody need hear of: what they end is over. */
static bool may_pass(const char *call, cudaError_t error) {
  static const char *const ends[] = {"cudaFree",         "cudaFreeHost",         "cudaEventDestroy",
                                     "cudaGraphDestroy", "cudaGraphExecDestroy", "cudaStreamDestroy",
                                     "cublasLtDestroy"};
  static const char *const of_a_record[] = {"cudaStreamBeginCapture", "cudaStreamEndCapture",
                                            "cudaGraphInstantiate"};
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
    if (strcmp(call, ends[i]) == 0) return true;
  for (size_t i = 0; i < sizeof of_a_record / sizeof *of_a_record; i++)
    if (error == cudaErrorMemoryAllocation && strcmp(call, of_a_record[i]) == 0) return true;
  /* Those of the device's end, or of a release. */
  return strcmp(call, "cudaStreamSynchronize") == 0 || strcmp(call, "cudaSetDevice") == 0;
}

/* Words that tell which call it was. */
static const char *words_of(const char *call) {
  static const char *const words[][2] = {{"cudaGetDeviceProperties", "properties"},
                                         {"cudaSetDevice", "select"},
                                         {"cudaStreamCreateWithFlags", "stream"},
                                         {"cudaHostAlloc", "pin"},
                                         {"cudaEventCreateWithFlags", "event"},
                                         {"cudaMalloc", ""},
                                         {"cudaMemsetAsync", ""},
                                         {"cudaStreamBeginCapture", "begin a record"},
                                         {"cudaStreamEndCapture", "end a record"},
                                         {"cudaGraphInstantiate", "record playable"},
                                         {"cudaGraphLaunch", "play a record"},
                                         {"cudaStreamSynchronize", "wait"},
                                         {"cudaEventRecord", "record an event"},
                                         {"cudaEventSynchronize", "wait for an upload"},
                                         {"cudaMemGetInfo", "memory"},
                                         {"cudaMemcpyAsync", "load"}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcmp(call, words[i][0]) == 0) return words[i][1];
  return "";
}

static void test_every_call(void **state) {
  (void)state;
  static const cudaError_t error[] = {cudaErrorIllegalAddress, cudaErrorInvalidValue,
                                      cudaErrorMemoryAllocation};
  for (size_t k = 0; k < sizeof error / sizeof *error; k++) {
    cu_shim_config c = cu_shim_defaults();
    c.early = k % 2 ? 100 : 0;
    c.no_poison = true;
    int n_failed = 0, n_passed = 0;
    for (uint64_t n = 1;; n++) {
      weir_err e = {0}, dead = {0};
      const weir_status st = live(&c, n, 0, error[k], false, &e, &dead);
      const char *call = cu_shim_failed();
      assert_int_equal(cu_shim_alive(), 0);
      if (!call) { /* the life is shorter than that */
        kern_ok(st, &e, "without a failure");
        break;
      }
      if (st == WEIR_OK) {
        n_passed++;
        if (!may_pass(call, error[k])) fail_msg("call %d, %s, failed unheard", (int)n, call);
        continue;
      }
      n_failed++;
      /* What is heard of late (a context that is gone) has the name of the next call. */
      if (!may_pass(call, error[k]) && !strstr(e.msg, words_of(call)))
        fail_msg("call %d, %s: says \"%s\"", (int)n, call, e.msg);
      if (dead.code == WEIR_OK) continue;
      assert_int_equal(dead.code, WEIR_EDEVICE);
      if (error[k] == cudaErrorMemoryAllocation)
        fail_msg("call %d, %s: dead for want of memory", (int)n, call);
    }
    assert_true(n_failed > 40);
    assert_true(n_passed > 10);
  }
}

static void test_every_launch(void **state) {
  (void)state;
  for (int early = 0; early <= 200; early += 100)
    for (int when_it_runs = 0; when_it_runs < 2; when_it_runs++)
      for (int sticky = 0; sticky < 2; sticky++)
        for (uint64_t n = 1; n <= 2; n++) { /* as it is, and into the record */
          cu_shim_config c = cu_shim_defaults();
          weir_err e = {0}, dead = {0};
          c.early = early;
          const cudaError_t error =
              sticky || when_it_runs ? cudaErrorIllegalAddress : cudaErrorInvalidConfiguration;
          const weir_status st = live(&c, 0, n, error, when_it_runs, &e, &dead);
          assert_string_equal(cu_shim_failed(), "kernel");
          assert_int_equal(cu_shim_alive(), 0);
          assert_int_equal(st, WEIR_EDEVICE);
          assert_int_equal(dead.code, WEIR_EDEVICE);
          if (!strstr(e.msg, when_it_runs ? "illegal memory access" : "launch probe_step"))
            fail_msg("launch %d says \"%s\"", (int)n, e.msg);
        }
}

/* Whatever is asked of a dead device, it says what killed it, and asks nothing of the GPU. */
static void test_dead(void **state) {
  (void)state;
  weir_err e = {0};
  cu_shim_config c = cu_shim_defaults();
  cu_shim_reset(&c);
  weir_dev *dev = cuda_test_open(NULL, false);
  int32_t one = 1, got = 77;
  life l = {dev, kern_copy(dev, &one, sizeof one), kern_copy(dev, &one, sizeof one)};
  cu_shim_fail_launch(1, cudaErrorIllegalAddress, true);
  const probe_step_args a = {l.x, l.add, 1};
  kern_ok(weir_cuda_check(dev, probe_step(&a, weir_cuda_of(dev)->stream), "launch", &e), &e, "launch");
  kern_ok(weir_dev_download(dev, &got, l.x, sizeof got, &e), &e, "download");
  assert_int_equal(weir_dev_sync(dev, &e), WEIR_EDEVICE);
  assert_int_equal(got, 77); /* what did not arrive is not made up */
  const char *why = "GPU 0: wait: an illegal memory access was encountered (cudaErrorIllegalAddress)";
  assert_string_equal(e.msg, why);
  const weir_dev_ops *ops = dev->ops;
  const weir_mat m = {NULL, 0, 1, 1};
  const weir_kv_layer kv = {0};
  weir_weight w = {0};
  weir_ragged r = {0};
  size_t n_free, n_total;
  void *p = NULL;
  for (int i = 0; i < 22; i++) {
    weir_err d = {0};
    weir_status st = WEIR_OK;
    const uint64_t calls = cu_shim_count().n_calls;
    switch (i) {
      case 0: st = ops->alloc(dev, 1, &p, &d); break;
      case 1: st = ops->upload(dev, l.x, &one, 4, &d); break;
      case 2: st = ops->download(dev, &one, l.x, 4, &d); break;
      case 3: st = ops->sync(dev, &d); break;
      case 4: st = ops->reserve(dev, &(weir_dev_limits){.max_tokens = 1}, &d); break;
      case 5: st = ops->weight_prepare(dev, NULL, 0, &w, &d); break;
      case 6: st = ops->embed(dev, m, &(weir_embed_args){.table = &w}, &d); break;
      case 7: st = ops->add_rmsnorm(dev, m, m, m, NULL, 0, &d); break;
      case 8: st = ops->linear(dev, m, m, &w, NULL, &d); break;
      case 9: st = ops->rope_angles(dev, m, &r, NULL, 1, &d); break;
      case 10: st = ops->rope_append(dev, NULL, &r, &d); break;
      case 11: st = ops->attend(dev, m, m, &r, kv, NULL, &d); break;
      case 12: st = ops->glu(dev, m, m, WEIR_ACT_SILU, &d); break;
      case 13: st = ops->moe(dev, m, NULL, &d); break;
      case 14: st = ops->softcap(dev, m, 1, &d); break;
      case 15: st = ops->gather_rows(dev, m, m, NULL, &d); break;
      case 16: st = ops->sample(dev, NULL, NULL, m, 1, NULL, NULL, &d); break;
      case 17: st = ops->kv_copy(dev, kv, NULL, 0, &d); break;
      case 18: st = ops->attend_plan(dev, &r, 0, 1, kv, &d); break;
      case 19: st = ops->replay(dev, 1, enqueue, &l, &d); break;
      case 20: st = ops->memory(dev, &n_free, &n_total, &d); break;
      default: st = weir_cuda_enter(dev, &d); break;
    }
    assert_int_equal(st, WEIR_EDEVICE);
    assert_int_equal(d.code, WEIR_EDEVICE);
    assert_string_equal(d.msg, why);
    assert_int_equal(cu_shim_count().n_calls, calls);
  }
  weir_dev_release(dev, l.x);
  weir_dev_release(dev, l.add);
  cuda_test_close(dev);
}

/* A download that failed is not delivered later: its target is the caller's again. */
static void test_failed_download(void **state) {
  (void)state;
  weir_err e = {0};
  weir_dev *dev = cuda_test_dev(NULL, 2);
  int32_t one[5] = {1, 1, 1, 1, 1}, lost[5] = {7, 7, 7, 7, 7}, got[5] = {0};
  weir_cuda_ring *ring = NULL;
  int32_t *x = kern_copy(dev, one, sizeof one);
  kern_ok(weir_cuda_ring_create(dev, (weir_cuda_ring_sizes){256, 2, 64}, &ring, &e), &e, "create");
  kern_ok(weir_cuda_ring_download(dev, ring, got, x, sizeof got, &e), &e, "download");
  cu_shim_fail_call(1, cudaErrorMemoryAllocation); /* of the copies: the device lives */
  assert_int_equal(weir_cuda_ring_download(dev, ring, lost, x, sizeof lost, &e), WEIR_ENOMEM);
  assert_string_equal(cu_shim_failed(), "cudaMemcpyAsync");
  /* Nor does the next launch take that failure for its own. */
  assert_int_equal(cudaPeekAtLastError(), cudaSuccess);
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  weir_cuda_ring_deliver(ring);
  for (int i = 0; i < 5; i++) {
    assert_int_equal(got[i], 1);
    assert_int_equal(lost[i], 7);
  }
  weir_cuda_ring_destroy(ring);
  weir_dev_release(dev, x);
  cuda_test_close(dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_call),
      cmocka_unit_test(test_every_launch),
      cmocka_unit_test(test_dead),
      cmocka_unit_test(test_failed_download),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
