/* SPDX-License-Identifier: Apache-2.0 */
/* glu, softcap, the scale of embed, gather_rows, kv_copy, and the exponential under several operations. */
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
  simd->attend.merge(acc, &m, &l, none, 0, 0, 16);
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

static float *run_glu(weir_dev *dev, weir_act act, int32_t rows, int32_t cols, const float *in) {
  weir_err e = {0};
  weir_mat y = kern_mat(dev, rows, cols, 3), x = kern_mat(dev, rows, 2 * cols, 5);
  kern_put(dev, x, in);
  kern_ok(weir_op_glu(dev, y, x, act, &e), &e, "glu");
  float *got = kern_get(dev, y);
  kern_mat_free(dev, y);
  kern_mat_free(dev, x);
  return got;
}

static double act_of(weir_act act, double x) {
  return act == WEIR_ACT_SILU ? x / (1 + exp(-x))
                              : 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static void test_glu(void **state) {
  static const int32_t cols_of[] = {1, 7, 8, 16, 17, 100, 512, 5632}, rows_of[] = {1, 3, 40};
  kern_devs devs;
  kern_rng rng = {2};
  double worst[2] = {0};
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t ci = 0; ci < 2 * sizeof cols_of / sizeof *cols_of; ci++)
    for (size_t ri = 0; ri < sizeof rows_of / sizeof *rows_of; ri++) {
      const weir_act act = ci % 2 ? WEIR_ACT_GELU_TANH : WEIR_ACT_SILU;
      const int32_t cols = cols_of[ci / 2], rows = rows_of[ri];
      float *in = kern_normals(&rng, (size_t)rows * 2 * (size_t)cols, 4), *first = NULL;
      weir_isa first_isa = WEIR_ISA_BEST;
      for (int i = 0; i < devs.n; i++) {
        float *got = run_glu(devs.dev[i], act, rows, cols, in);
        for (int32_t r = 0; r < rows; r++)
          for (int32_t c = 0; c < cols; c++) {
            const double g = (double)in[r * 2 * cols + c], u = (double)in[r * 2 * cols + cols + c];
            /* Far down gelu's tail relative errors grow with the exponent, of numbers that are nothing. */
            const double want = act_of(act, g) * u, least = act == WEIR_ACT_SILU ? 0 : 0.01 * fabs(g * u);
            const double err = fabs((double)got[r * cols + c] - want) / fmax(fabs(want), least);
            if (!(err < 1e-6))
              fail_msg("activation %d of %g, times %g: %g, want %g", (int)act, g, u,
                       (double)got[r * cols + c], want);
            if (err > worst[act]) worst[act] = err;
          }
        if (devs.isa[i] == first_isa)
          kern_same(got, first, sizeof *got * (size_t)rows * (size_t)cols, "another team");
        if (rows == 3) {
          float *one = run_glu(devs.dev[i], act, 1, cols, in + 2 * cols);
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
  for (int i = 0; i < 2 * devs.n; i++) {
    float *got = run_glu(devs.dev[i / 2], i % 2 ? WEIR_ACT_GELU_TANH : WEIR_ACT_SILU, 1, 7, edge);
    assert_true(got[0] == 0 && got[1] == 0 && got[2] == 100 && fabs((double)got[3]) < 1e-30);
    assert_true(got[4] == 1e30f && fabs((double)got[5]) < 1e-7 && isnan(got[6]));
    free(got);
  }
  kern_devs_close(&devs);
  print_message("worst error of silu %.3g, of gelu %.3g (bound 1e-6)\n", worst[0], worst[1]);
}

static float *run_softcap(weir_dev *dev, int32_t rows, int32_t cols, const float *in, float cap) {
  weir_err e = {0};
  weir_mat x = kern_mat(dev, rows, cols, 3);
  kern_put(dev, x, in);
  kern_ok(weir_op_softcap(dev, x, cap, &e), &e, "softcap");
  float *got = kern_get(dev, x);
  kern_mat_free(dev, x);
  return got;
}

/* The soft cap, and with it the tanh that attention uses as well; from numbers whose tanh is themselves to
 * those where it is 1. */
static void test_softcap(void **state) {
  static const float caps[] = {1, 30, 50, 0.3f};
  enum { ROWS = 40, COLS = 1003 };
  const float edge[7] = {0, 1e30f, -1e30f, INFINITY, -INFINITY, NAN, 1e-30f};
  kern_devs devs;
  kern_rng rng = {21};
  double worst = 0;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  float *in = kern_normals(&rng, (size_t)ROWS * COLS, 1);
  for (size_t i = 0; i < (size_t)ROWS * COLS; i++) in[i] *= (float)exp(kern_unit(&rng) * 12 - 9);
  for (size_t k = 0; k < sizeof caps / sizeof *caps; k++) {
    const double cap = (double)caps[k];
    float *first = NULL;
    for (int i = 0; i < devs.n; i++) {
      weir_dev *dev = devs.dev[i];
      float *got = run_softcap(dev, ROWS, COLS, in, caps[k]), *e = run_softcap(dev, 1, 7, edge, caps[k]),
            *one = run_softcap(dev, 1, COLS, in + COLS, caps[k]);
      for (size_t c = 0; c < (size_t)ROWS * COLS; c++) {
        const double want = cap * tanh((double)in[c] / cap), err = fabs((double)got[c] / want - 1);
        if (!(err < 4e-7)) fail_msg("%g under %g: %.9g, want %.9g", (double)in[c], cap, (double)got[c], want);
        if (err > worst) worst = err;
      }
      assert_true(e[0] == 0 && e[1] == caps[k] && e[2] == -caps[k] && e[3] == caps[k] && e[4] == -caps[k]);
      assert_true(isnan(e[5]) && fabsf(e[6] - 1e-30f) < 1e-36f);
      kern_same(one, got + COLS, sizeof *one * COLS, "alone");
      if (first) kern_same(got, first, sizeof *got * ROWS * COLS, "another instruction set or team");
      free(first);
      free(e);
      free(one);
      first = got;
    }
    free(first);
  }
  free(in);
  kern_devs_close(&devs);
  print_message("worst relative error of the soft cap %.3g (bound 4e-7)\n", worst);
}

/* A scale of 1 leaves the table's bits alone; another multiplies each number once. */
static void test_embed_scale(void **state) {
  enum { ROWS = 9, COLS = 64, N = 5 };
  const int32_t token[N] = {8, 0, 3, 3, 7};
  const float scales[] = {1, 45.254834f, -0.5f};
  kern_devs devs;
  kern_rng rng = {22};
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  float *table = kern_normals(&rng, (size_t)ROWS * COLS, 1);
  table[8 * COLS + 3] = -0.0f;
  for (int i = 0; i < devs.n; i++) {
    weir_dev *dev = devs.dev[i];
    weir_err e = {0};
    weir_weight w;
    const weir_host_mat host = {table, WEIR_F32, ROWS, COLS};
    kern_ok(weir_weight_prepare(dev, &host, 1, &w, &e), &e, "prepare");
    int32_t *ids = (int32_t *)kern_copy(dev, token, sizeof token);
    for (size_t k = 0; k < sizeof scales / sizeof *scales; k++) {
      weir_mat y = kern_mat(dev, N, COLS, 2);
      const weir_embed_args args = {.table = &w, .token = ids, .scale = scales[k]};
      kern_ok(weir_op_embed(dev, y, &args, &e), &e, "embed");
      float *got = kern_get(dev, y);
      for (size_t c = 0; c < (size_t)N * COLS; c++) {
        const float want = table[(size_t)token[c / COLS] * COLS + c % COLS] * scales[k];
        kern_same(&got[c], &want, sizeof want, "a scaled number of the table");
      }
      free(got);
      kern_mat_free(dev, y);
    }
    weir_dev_release(dev, ids);
    weir_weight_release(&w);
  }
  free(table);
  kern_devs_close(&devs);
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
  static const struct {
    weir_dtype type;
    int32_t head_dim;
    size_t row_bytes;
  } types[] = {{WEIR_F16, 10, 20}, {WEIR_F32, 10, 40}, {WEIR_Q8_0, 32, 34}};
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (int i = 0; i < devs.n; i++)
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
      enum { PAGES = 7 };
      weir_dev *dev = devs.dev[i];
      weir_err e = {0};
      const size_t page_bytes = 2 * 3 * 16 * types[t].row_bytes;
      unsigned char *host = (unsigned char *)malloc(PAGES * page_bytes),
                    *got = (unsigned char *)malloc(PAGES * page_bytes);
      for (size_t b = 0; b < PAGES * page_bytes; b++) host[b] = (unsigned char)(b * 7 + b / page_bytes * 31);
      const weir_kv_layer kv = {
          kern_copy(dev, host, PAGES * page_bytes), types[t].type, PAGES, 3, 16, types[t].head_dim};
      const int32_t pairs[] = {6, 0, 2, 4, 4, 5, 1, 1}; /* the third copies what the second brought */
      kern_ok(weir_op_kv_copy(dev, kv, pairs, 4, &e), &e, "kv_copy");
      kern_ok(weir_dev_download(dev, got, kv.base, PAGES * page_bytes, &e), &e, "download");
      static const size_t from[PAGES] = {6, 1, 2, 3, 2, 2, 6};
      for (size_t p = 0; p < PAGES; p++)
        kern_same(got + p * page_bytes, host + from[p] * page_bytes, page_bytes, "a page");
      const int32_t wrong[] = {0, PAGES};
      assert_int_equal(weir_op_kv_copy(dev, kv, wrong, 1, &e), WEIR_EINVAL);
      weir_kv_layer odd = kv;
      odd.head_dim = 33;
      odd.dtype = WEIR_Q8_0;
      assert_int_equal(weir_op_kv_copy(dev, odd, pairs, 4, &e), WEIR_EUNSUP); /* no whole blocks */
      weir_dev_release(dev, kv.base);
      free(host);
      free(got);
    }
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_exp),     cmocka_unit_test(test_glu),
                                     cmocka_unit_test(test_softcap), cmocka_unit_test(test_embed_scale),
                                     cmocka_unit_test(test_gather),  cmocka_unit_test(test_kv_copy)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
