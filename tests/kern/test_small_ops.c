/* SPDX-License-Identifier: Apache-2.0 */
/* swiglu, gather_rows, kv_copy, and the exponential under several operations. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/cpu/simd.h"

static const weir_dev_limits LIMITS = {.max_tokens = 256,
                                       .max_cols = 16384,
                                       .max_heads = 32,
                                       .max_head_dim = 128,
                                       .max_kv_len = 2048,
                                       .max_rows_out = 16,
                                       .max_vocab = 1024};

/* e^x for x <= 0 as the kernels compute it: the factor a merge puts on a row of ones. */
static float kernel_exp(const weir_simd *simd, float x) {
  float acc[16] = {1}, none[16] = {0}, m = x, l = 0;
  simd->attend_merge(acc, &m, &l, none, 0, 0, 16);
  return acc[0];
}

static void test_exp(void **state) {
  kern_devs devs;
  kern_rng rng = {4};
  double worst = 0;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (int i = 0; i < 200000; i++) {
    const float x = i < 2 ? -87.0f * (float)i : (float)(-87 * kern_unit(&rng) * (i % 3 == 0 ? 0.01 : 1));
    const float got = kernel_exp(weir_simd_get(WEIR_ISA_SCALAR), x);
    const double err = fabs((double)got / exp((double)x) - 1);
    if (!(err < 1.5e-7)) fail_msg("exp(%.9g) = %.9g: error %g", (double)x, (double)got, err);
    if (err > worst) worst = err;
    for (int d = 0; d < devs.n; d++) { /* the same bits on every instruction set */
      const float other = kernel_exp(weir_simd_get(devs.isa[d]), x);
      if (memcmp(&got, &other, sizeof got) != 0)
        fail_msg("exp(%.9g) on %s: %.9g, not %.9g", (double)x, weir_isa_name(devs.isa[d]), (double)other,
                 (double)got);
    }
  }
  for (int d = 0; d < devs.n; d++) {
    const weir_simd *s = weir_simd_get(devs.isa[d]);
    assert_true(kernel_exp(s, 0) == 1);
    assert_true(kernel_exp(s, -87.5f) == 0);
    assert_true(kernel_exp(s, -INFINITY) == 0);
  }
  kern_devs_close(&devs);
  print_message("worst relative error of exp %.3g (bound 1.5e-7)\n", worst);
}

static float *run_swiglu(weir_dev *dev, int32_t rows, int32_t cols, const float *in) {
  weir_err e = {0};
  weir_mat y = kern_mat(dev, rows, cols, 3), x = kern_mat(dev, rows, 2 * cols, 5);
  kern_put(dev, x, in);
  kern_ok(weir_op_glu(dev, y, x, WEIR_ACT_SILU, &e), &e, "swiglu");
  float *got = kern_get(dev, y);
  kern_mat_free(dev, y);
  kern_mat_free(dev, x);
  return got;
}

static void test_swiglu(void **state) {
  static const int32_t cols_of[] = {1, 7, 8, 16, 17, 100, 512, 5632}, rows_of[] = {1, 3, 40};
  kern_devs devs;
  kern_rng rng = {2};
  double worst = 0;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t ci = 0; ci < sizeof cols_of / sizeof *cols_of; ci++)
    for (size_t ri = 0; ri < sizeof rows_of / sizeof *rows_of; ri++) {
      const int32_t cols = cols_of[ci], rows = rows_of[ri];
      float *in = kern_normals(&rng, (size_t)rows * 2 * (size_t)cols, 4), *first = NULL;
      weir_isa first_isa = WEIR_ISA_BEST;
      for (int i = 0; i < devs.n; i++) {
        float *got = run_swiglu(devs.dev[i], rows, cols, in);
        for (int32_t r = 0; r < rows; r++)
          for (int32_t c = 0; c < cols; c++) {
            const double g = (double)in[r * 2 * cols + c], u = (double)in[r * 2 * cols + cols + c];
            const double want = g / (1 + exp(-g)) * u, err = fabs((double)got[r * cols + c] / want - 1);
            if (!(err < 1e-6)) fail_msg("silu(%g)*%g = %g, want %g", g, u, (double)got[r * cols + c], want);
            if (err > worst) worst = err;
          }
        if (devs.isa[i] == first_isa)
          kern_same(got, first, sizeof *got * (size_t)rows * (size_t)cols, "another team");
        if (rows == 3) {
          float *one = run_swiglu(devs.dev[i], 1, cols, in + 2 * cols);
          kern_same(one, got + cols, sizeof *one * (size_t)cols, "alone");
          free(one);
        }
        free(first);
        first = got;
        first_isa = devs.isa[i];
      }
      free(first);
      free(in);
    }
  const float edge[] = {0, -0.0f, 100, -100, 1e30f, -1e30f, NAN, 1, 1, 1, 1, 1, 1, 1};
  for (int i = 0; i < devs.n; i++) {
    float *got = run_swiglu(devs.dev[i], 1, 7, edge);
    assert_true(got[0] == 0 && got[1] == 0 && got[2] == 100 && fabs((double)got[3]) < 1e-30);
    assert_true(got[4] == 1e30f && fabs((double)got[5]) < 1e-7 && isnan(got[6]));
    free(got);
  }
  kern_devs_close(&devs);
  print_message("worst relative error of swiglu %.3g (bound 1e-6)\n", worst);
}

static void test_gather(void **state) {
  kern_devs devs;
  kern_rng rng = {3};
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (int i = 0; i < devs.n; i++) {
    weir_dev *dev = devs.dev[i];
    weir_err e = {0};
    enum { ROWS = 9, COLS = 37, N = 6 };
    const int32_t pick[N] = {8, 0, 3, 3, 7, 1};
    float *in = kern_normals(&rng, ROWS * COLS, 1);
    weir_mat x = kern_mat(dev, ROWS, COLS, 2), y = kern_mat(dev, N, COLS, 1);
    kern_put(dev, x, in);
    int32_t *row = (int32_t *)kern_copy(dev, pick, sizeof pick);
    kern_ok(weir_op_gather_rows(dev, y, x, row, &e), &e, "gather_rows");
    float *got = kern_get(dev, y);
    for (size_t r = 0; r < N; r++)
      kern_same(got + r * COLS, in + (size_t)pick[r] * COLS, COLS * sizeof *in, "a gathered row");
    free(got);
    weir_dev_release(dev, row);
    const int32_t wrong[N] = {0, 1, 2, ROWS, 4, 5};
    row = (int32_t *)kern_copy(dev, wrong, sizeof wrong);
    assert_int_equal(weir_op_gather_rows(dev, y, x, row, &e), WEIR_EINVAL);
    weir_dev_release(dev, row);
    kern_mat_free(dev, x);
    kern_mat_free(dev, y);
    free(in);
  }
  kern_devs_close(&devs);
}

static void test_kv_copy(void **state) {
  static const weir_dtype types[] = {WEIR_F16, WEIR_F32};
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (int i = 0; i < devs.n; i++)
    for (size_t t = 0; t < 2; t++) {
      enum { PAGES = 7 };
      weir_dev *dev = devs.dev[i];
      weir_err e = {0};
      const size_t page_bytes = 2 * 3 * 16 * 10 * (types[t] == WEIR_F16 ? 2u : 4u);
      unsigned char *host = (unsigned char *)malloc(PAGES * page_bytes),
                    *got = (unsigned char *)malloc(PAGES * page_bytes);
      for (size_t b = 0; b < PAGES * page_bytes; b++) host[b] = (unsigned char)(b * 7 + b / page_bytes * 31);
      const weir_kv_layer kv = {kern_copy(dev, host, PAGES * page_bytes), types[t], PAGES, 3, 16, 10};
      const int32_t pairs[] = {6, 0, 2, 4, 4, 5, 1, 1}; /* the third copies what the second brought */
      kern_ok(weir_op_kv_copy(dev, kv, pairs, 4, &e), &e, "kv_copy");
      kern_ok(weir_dev_download(dev, got, kv.base, PAGES * page_bytes, &e), &e, "download");
      static const size_t from[PAGES] = {6, 1, 2, 3, 2, 2, 6};
      for (size_t p = 0; p < PAGES; p++)
        kern_same(got + p * page_bytes, host + from[p] * page_bytes, page_bytes, "a page");
      const int32_t wrong[] = {0, PAGES};
      assert_int_equal(weir_op_kv_copy(dev, kv, wrong, 1, &e), WEIR_EINVAL);
      weir_dev_release(dev, kv.base);
      free(host);
      free(got);
    }
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_exp), cmocka_unit_test(test_swiglu),
                                     cmocka_unit_test(test_gather), cmocka_unit_test(test_kv_copy)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
