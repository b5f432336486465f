/* SPDX-License-Identifier: Apache-2.0 */
/* Linear with unquantised weights on the emulated GPU, against the product in double.
 *
 * Bounds, of the worst row (linear_near): F32 sums of exact products to eight rows, and for F32 weights
 * beyond: 1e-5. Beyond eight rows x is rounded to 11 bits for F16 weights, 1e-3, and to 8 for BF16, 8e-3. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/dense.h"
#include "kernels/cuda/dense_gemv_kernels.h"
#include "linear_util.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static const weir_dtype types[] = {WEIR_F32, WEIR_F16, WEIR_BF16};
static const int32_t n_list[] = {1, 2, 3, 8, 9, 15, 16, 17, 33, 64, 65, 77, 130};
static const int32_t row_list[] = {1, 7, 16, 33, 128, 150};
/* Odd lengths, which no row of 16-byte loads has; runs of 128 and 256; spans of 8192 / n columns. */
static const int32_t col_list[] = {1, 7, 32, 133, 256, 264, 1024, 1160, 8200};

static double bound(weir_dtype t, int32_t n) {
  return n <= WEIR_GEMV_MAX_ROWS || t == WEIR_F32 ? 1e-5 : t == WEIR_F16 ? 1e-3 : 8e-3;
}

static void run_shape(weir_dev *dev, uint64_t seed, weir_dtype t, int32_t rows, int32_t cols, int32_t n) {
  kern_rng r = {seed};
  linear_weight w = linear_make(dev, &r, &t, &rows, 1, cols);
  float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f), *bias = kern_normals(&r, (size_t)rows, 3.0f);
  const float *b = seed % 2 ? bias : NULL;
  float *got = linear_run(dev, &w, x, n, b, seed % 3 ? 0 : 3);
  (void)linear_near(&w, x, n, b, got, bound(t, n), linear_name(t, rows, cols, n));
  free(got);
  free(bias);
  free(x);
  linear_free(&w);
}

static weir_dev_limits wide_limits(void) {
  weir_dev_limits lim = cuda_test_limits();
  lim.max_cols = 16384;
  return lim;
}

static void test_shapes(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  for (int32_t t = 0; t < COUNT(types); t++) {
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)t);
    uint64_t k = (uint64_t)t;
    for (int32_t i = 0; i < COUNT(n_list); i++)
      for (int32_t j = 0; j < 3; j++, k++) {
        const int32_t cols = col_list[k * 2 % COUNT(col_list)];
        run_shape(dev, k, types[t], cols > 2000 ? 16 : row_list[k % COUNT(row_list)],
                  cols > 2000 && n_list[i] > 9 ? 264 : cols, n_list[i]);
      }
    run_shape(dev, 1, types[t], 16, 1, 17); /* rows too many for GEMV, and no multiple of 32 long */
    cuda_test_close(dev);
  }
}

static void test_all_shapes(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  for (int32_t t = 0; t < COUNT(types); t++) {
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)t);
    uint64_t k = 0;
    for (int32_t c = 0; c < COUNT(col_list); c++)
      for (int32_t f = 0; f < COUNT(row_list); f++)
        for (int32_t i = 0; i < COUNT(n_list); i++, k++)
          run_shape(dev, k, types[t], row_list[f], col_list[c], n_list[i]);
    cuda_test_close(dev);
  }
}

/* ---- a row is the same bits in any batch to eight ---- */

static void test_batch_invariance(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  const int32_t rows = 37, cols = 8200;
  weir_dev *dev = cuda_test_dev(&lim, 4);
  for (int32_t t = 0; t < COUNT(types); t++) {
    kern_rng r = {41};
    linear_weight w = linear_make(dev, &r, &types[t], &rows, 1, cols);
    float *x = kern_normals(&r, 8 * (size_t)cols, 1.0f);
    float *all = linear_run(dev, &w, x, 8, NULL, 0);
    for (int32_t n = 1; n < 8; n++) {
      float *some = linear_run(dev, &w, x, n, NULL, n % 2);
      kern_same(some, all, sizeof *all * (size_t)n * (size_t)rows, linear_name(types[t], rows, cols, n));
      free(some);
    }
    free(all);
    free(x);
    linear_free(&w);
  }
  cuda_test_close(dev);
}

/* ---- sizes of numbers ---- */

static void test_magnitudes(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  /* Beyond half's range, at its edge, within, below it. */
  static const float size[] = {1e30f, 1e6f, 40000.0f, 16384.0f, 1.0f, 0.01f, 1e-12f, 1e-30f};
  weir_dev *dev = cuda_test_dev(&lim, 6);
  for (int32_t t = 0; t < COUNT(types); t++)
    for (int32_t many = 0; many < 2; many++) {
      const int32_t n = many ? 21 : COUNT(size), cols = 300, rows = 24;
      kern_rng r = {(uint64_t)(50 + t)};
      linear_weight w = linear_make(dev, &r, &types[t], &rows, 1, cols);
      float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f);
      for (int32_t i = 0; i < n * cols; i++) x[i] *= size[i / cols % COUNT(size)];
      float *got = linear_run(dev, &w, x, n, NULL, 0);
      (void)linear_near(&w, x, n, NULL, got, bound(types[t], n), linear_name(types[t], rows, cols, n));
      free(got);
      free(x);
      linear_free(&w);
    }
  cuda_test_close(dev);
}

/* ---- NaN and infinity stay where they belong ---- */

static void test_not_finite(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  static const int32_t n_of[] = {1, 4, 8, 20};
  static const float bad[] = {NAN, INFINITY};
  const int32_t rows = 19, cols = 264;
  weir_dev *dev = cuda_test_dev(&lim, 8);
  for (int32_t t = 0; t < COUNT(types); t++)
    for (int32_t k = 0; k < COUNT(n_of); k++)
      for (int32_t in_x = 0; in_x < 2; in_x++)
        for (int32_t b = 0; b < COUNT(bad); b++) {
          const int32_t n = n_of[k], at = n / 2, feature = 11;
          kern_rng r = {(uint64_t)(60 + t)};
          linear_weight w = linear_make(dev, &r, &types[t], &rows, 1, cols);
          float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f);
          float *clean = linear_run(dev, &w, x, n, NULL, 0);
          if (in_x) {
            x[at * cols + 200] = bad[b];
          } else {
            const uint16_t half = types[t] == WEIR_F16 ? (b ? 0x7c00 : 0x7e00) : (b ? 0x7f80 : 0x7fc0);
            uint8_t *p = linear_data(&w, 0) + (size_t)(feature * cols + 200) * (types[t] == WEIR_F32 ? 4 : 2);
            if (types[t] == WEIR_F32)
              memcpy(p, &bad[b], 4);
            else
              memcpy(p, &half, 2);
            linear_refresh(dev, &w);
          }
          float *got = linear_run(dev, &w, x, n, NULL, 0);
          for (int32_t i = 0; i < n; i++)
            for (int32_t f = 0; f < rows; f++) {
              const float v = got[i * rows + f];
              if (in_x ? i == at : f == feature) {
                if (isfinite(v)) fail_msg("y[%d][%d] is %g, want none", i, f, (double)v);
              } else if (memcmp(&v, &clean[i * rows + f], sizeof v) != 0) {
                fail_msg("y[%d][%d] is %g, want %g as without it", i, f, (double)v,
                         (double)clean[i * rows + f]);
              }
            }
          free(got);
          free(clean);
          free(x);
          linear_free(&w);
        }
  cuda_test_close(dev);
}

/* ---- cuBLASLt's algorithms ---- */

/* More shapes than are remembered, twice over: the table forgets, and chooses anew. */
static void test_many_algorithms(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  weir_dev *dev = cuda_test_dev(&lim, 9);
  kern_rng r = {71};
  const int32_t n = 9;
  float *x = kern_normals(&r, (size_t)n * 8, 1.0f);
  const weir_dtype t = WEIR_F32;
  for (int32_t again = 0; again < 2; again++)
    for (int32_t rows = 1; rows <= 300; rows += again ? 37 : 1) {
      linear_weight w = linear_make(dev, &r, &t, &rows, 1, 8);
      float *got = linear_run(dev, &w, x, n, NULL, 0);
      (void)linear_near(&w, x, n, NULL, got, 1e-5, linear_name(t, rows, 8, n));
      free(got);
      linear_free(&w);
    }
  free(x);
  cuda_test_close(dev);
}

/* A failure of cuBLASLt is the device's, and is said; nothing leaks. */
static void test_failure(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  const weir_dtype t = WEIR_BF16;
  const int32_t rows = 16;
  uint64_t failed = 0;
  for (uint64_t call = 1; call < 40; call++) {
    weir_dev *dev = cuda_test_dev(&lim, 0);
    weir_err e = {0};
    kern_rng r = {81};
    linear_weight w = linear_make(dev, &r, &t, &rows, 1, 64);
    weir_mat x = kern_mat(dev, 12, 64, 0), y = kern_mat(dev, 12, rows, 0);
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    cu_shim_fail_call(call, cudaErrorLaunchFailure);
    const weir_status st = weir_op_linear(dev, y, x, &w.prepared, NULL, &e);
    const bool came = cu_shim_failed() != NULL;
    cu_shim_fail_call(0, cudaSuccess);
    if (came && st != WEIR_OK) {
      failed++;
      assert_int_equal(st, WEIR_EDEVICE);
      assert_true(strlen(e.msg) > 10);
    }
    kern_mat_free(dev, x);
    kern_mat_free(dev, y);
    linear_free(&w);
    cuda_test_close(dev);
    if (!came) break;
  }
  assert_true(failed >= 6);
}

/* Memory that runs out at any call is an error of that call and no more: the same is asked again, and runs.
 */
static void test_out_of_memory(void **state) {
  (void)state;
  const weir_dev_limits lim = wide_limits();
  const weir_dtype t = WEIR_F16;
  const int32_t rows = 16;
  weir_dev *dev = cuda_test_dev(&lim, 0);
  uint64_t failed = 0;
  for (int32_t call = 1; call < 40; call++) {
    weir_err e = {0};
    kern_rng r = {82};
    linear_weight w = linear_make(dev, &r, &t, &rows, 1, 64);
    const int32_t n = 8 + call; /* a shape not asked about before */
    weir_mat x = kern_mat(dev, n, 64, 0), y = kern_mat(dev, n, rows, 0);
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    cu_shim_fail_call((uint64_t)call, cudaErrorMemoryAllocation);
    const weir_status st = weir_op_linear(dev, y, x, &w.prepared, NULL, &e);
    const bool came = cu_shim_failed() != NULL;
    cu_shim_fail_call(0, cudaSuccess);
    if (came && st != WEIR_OK) {
      failed++;
      assert_int_equal(st, WEIR_ENOMEM);
    }
    kern_ok(weir_op_linear(dev, y, x, &w.prepared, NULL, &e), &e, "again");
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    kern_mat_free(dev, x);
    kern_mat_free(dev, y);
    linear_free(&w);
    if (!came) break;
  }
  assert_true(failed >= 6);
  cuda_test_close(dev);
}

int main(int argc, char **argv) {
  const struct CMUnitTest quick[] = {
      cmocka_unit_test(test_shapes),          cmocka_unit_test(test_batch_invariance),
      cmocka_unit_test(test_magnitudes),      cmocka_unit_test(test_not_finite),
      cmocka_unit_test(test_many_algorithms), cmocka_unit_test(test_failure),
      cmocka_unit_test(test_out_of_memory),
  };
  const struct CMUnitTest full[] = {cmocka_unit_test(test_all_shapes)};
  if (argc > 1 && strcmp(argv[1], "full") == 0)
    return cmocka_run_group_tests_name("dense, all", full, NULL, NULL);
  return cmocka_run_group_tests_name("dense", quick, NULL, NULL);
}
