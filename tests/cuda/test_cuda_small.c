/* SPDX-License-Identifier: Apache-2.0 */
/* The small operations on the emulated GPU: norm, gate, soft cap, picked rows, copied pages. Against double
 * precision, row by row; to the bit in place, alone and in company, with rows on 16 bytes and off them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))
static const float EPS = 1e-5f;

static weir_dev *open_dev(uint64_t seed) {
  weir_dev_limits lim = cuda_test_limits();
  lim.max_vocab = 152064;
  return cuda_test_dev(&lim, seed);
}

static void *need(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  assert_non_null(p);
  return p;
}

/* ---- norm ---- */

enum { DELTA = 1, IN_PLACE = 2 };

/* y, and resid in *resid_out unless y is resid; ld = cols + pad. Both free(). */
static float *norm(weir_dev *dev, int32_t rows, int32_t cols, int32_t pad, int how, const float *resid,
                   const float *delta, const float *w, float **resid_out) {
  weir_err e = {0};
  const weir_mat r = kern_mat(dev, rows, cols, pad), d = kern_mat(dev, rows, cols, pad);
  const weir_mat y = how & IN_PLACE ? r : kern_mat(dev, rows, cols, pad), none = {0};
  kern_put(dev, r, resid);
  kern_put(dev, d, delta);
  float *on_device = kern_copy(dev, w, sizeof *w * (size_t)cols);
  kern_ok(weir_op_add_rmsnorm(dev, y, r, how & DELTA ? d : none, on_device, EPS, &e), &e, "add_rmsnorm");
  float *got = kern_get(dev, y);
  if (!(how & IN_PLACE)) {
    *resid_out = kern_get(dev, r);
    kern_mat_free(dev, y);
  }
  kern_mat_free(dev, r);
  kern_mat_free(dev, d);
  weir_dev_release(dev, on_device);
  return got;
}

static void norm_shape(weir_dev *dev, kern_rng *rng, int32_t rows, int32_t cols, int how, double *worst) {
  const size_t n = (size_t)rows * (size_t)cols;
  float *resid = kern_normals(rng, n, 2), *delta = kern_normals(rng, n, 1);
  float *w = kern_normals(rng, (size_t)cols, 1), *sum = need(sizeof *sum * n), *after = NULL, *again = NULL;
  double *want = need(sizeof *want * n);
  for (int32_t r = 0; r < rows; r++) {
    double square = 0;
    for (size_t i = (size_t)r * (size_t)cols; i < (size_t)(r + 1) * (size_t)cols; i++) {
      sum[i] = how & DELTA ? resid[i] + delta[i] : resid[i];
      square += (double)sum[i] * (double)sum[i];
    }
    for (int32_t c = 0; c < cols; c++)
      want[r * cols + c] = (double)sum[r * cols + c] / sqrt(square / cols + (double)EPS) * (double)w[c];
  }
  float *y = norm(dev, rows, cols, 0, how, resid, delta, w, &after);
  cuda_near(y, want, rows, cols, 1e-6, "add_rmsnorm");
  *worst = fmax(*worst, cuda_worst_row(y, want, rows, cols));
  if (after) kern_same(after, sum, sizeof *sum * n, "resid");
  float *padded = norm(dev, rows, cols, 3, how & ~IN_PLACE, resid, delta, w, &again);
  kern_same(padded, y, sizeof *y * n, "rows off 16 bytes");
  kern_same(again, sum, sizeof *sum * n, "resid, rows off 16 bytes");
  free(padded), free(again);
  const size_t last = n - (size_t)cols;
  float *alone = norm(dev, 1, cols, 4, DELTA | IN_PLACE, sum + last, delta + last, w, &again);
  free(alone);
  alone = norm(dev, 1, cols, 4, how & ~IN_PLACE, resid + last, delta + last, w, &again);
  kern_same(alone, y + last, sizeof *y * (size_t)cols, "a row alone");
  free(alone), free(again);
  free(y), free(after), free(want), free(sum), free(w), free(delta), free(resid);
}

static void test_norm(void **state) {
  static const int32_t cols_of[] = {1,   2,   3,    4,    5,    7,    31,   64,   100,  255, 256,
                                    257, 768, 1023, 1024, 1028, 2048, 2052, 4096, 4099, 8192};
  static const int32_t rows_of[] = {1, 5, 77};
  double worst = 0;
  (void)state;
  for (int32_t i = 0; i < COUNT(cols_of); i++) {
    weir_dev *dev = open_dev((uint64_t)i);
    kern_rng rng = {(uint64_t)i + 5};
    for (int how = 0; how < 4; how++) /* many rows of the narrow ones */
      norm_shape(dev, &rng, rows_of[cols_of[i] > 300 ? how % 2 : i % 3], cols_of[i], how, &worst);
    cuda_test_close(dev);
  }
  print_message("add_rmsnorm: worst row %.2g (bound 1e-6)\n", worst);
}

/* Wider than what the threads of a row hold in registers. */
static void test_norm_wide(void **state) {
  double worst = 0;
  (void)state;
  static const int32_t cols_of[] = {8196, 9001, 16384};
  weir_dev *dev = open_dev(3);
  kern_rng rng = {17};
  for (int how = 0; how < 4; how++) norm_shape(dev, &rng, 2, cols_of[how % COUNT(cols_of)], how, &worst);
  cuda_test_close(dev);
}

static void test_norm_nan(void **state) {
  enum { ROWS = 5, COLS = 96 };
  (void)state;
  weir_dev *dev = open_dev(4);
  kern_rng rng = {23};
  float *x = kern_normals(&rng, ROWS * COLS, 1), *w = kern_normals(&rng, COLS, 1), *r0, *r1;
  float *clean = norm(dev, ROWS, COLS, 0, 0, x, x, w, &r0);
  x[2 * COLS + 7] = NAN;
  float *y = norm(dev, ROWS, COLS, 0, 0, x, x, w, &r1);
  for (int32_t r = 0; r < ROWS; r++)
    if (r != 2) kern_same(y + r * COLS, clean + r * COLS, sizeof *y * COLS, "beside a row that is no number");
  for (int32_t c = 0; c < COLS; c++) assert_true(isnan(y[2 * COLS + c]));
  free(x), free(w), free(r0), free(r1), free(clean), free(y);
  cuda_test_close(dev);
}

/* ---- gate and cap ---- */

static double act_of(weir_act act, double x) {
  return act == WEIR_ACT_SILU ? x / (1 + exp(-x))
                              : 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static void glu_shape(weir_dev *dev, kern_rng *rng, int32_t rows, int32_t f, int32_t pad, weir_act act,
                      double *worst) {
  weir_err e = {0};
  const size_t n = (size_t)rows * (size_t)f;
  float *x = kern_normals(rng, 2 * n, 4);
  double *want = need(sizeof *want * n);
  for (int32_t r = 0; r < rows; r++)
    for (int32_t c = 0; c < f; c++)
      want[r * f + c] = act_of(act, (double)x[r * 2 * f + c]) * (double)x[r * 2 * f + f + c];
  const weir_mat both = kern_mat(dev, rows, 2 * f, pad), y = kern_mat(dev, rows, f, pad);
  kern_put(dev, both, x);
  kern_ok(weir_op_glu(dev, y, both, act, &e), &e, "glu");
  float *got = kern_get(dev, y);
  cuda_near(got, want, rows, f, 1e-6, "glu");
  *worst = fmax(*worst, cuda_worst_row(got, want, rows, f));
  const weir_mat over = {both.data, rows, f, both.ld};
  kern_ok(weir_op_glu(dev, over, both, act, &e), &e, "glu in place");
  float *all = kern_get(dev, both);
  for (int32_t r = 0; r < rows; r++) {
    kern_same(all + r * 2 * f, got + r * f, sizeof *got * (size_t)f, "in place");
    kern_same(all + r * 2 * f + f, x + r * 2 * f + f, sizeof *got * (size_t)f, "up, which is only read");
  }
  free(all), free(got), free(want), free(x);
  kern_mat_free(dev, both);
  kern_mat_free(dev, y);
}

static void test_glu(void **state) {
  static const int32_t f_of[] = {1, 3, 4, 17, 64, 511, 512, 516, 1032, 4864}, rows_of[] = {1, 77, 3};
  double worst = 0;
  (void)state;
  weir_dev *dev = open_dev(6);
  kern_rng rng = {31};
  for (int32_t i = 0; i < COUNT(f_of); i++)
    for (int act = 0; act < 2; act++)
      glu_shape(dev, &rng, rows_of[f_of[i] > 600 ? 2 * (i % 2) : i % 3], f_of[i], (i + act) % 2 ? 5 : 0,
                (weir_act)act, &worst);
  cuda_test_close(dev);
  print_message("glu: worst row %.2g (bound 1e-6)\n", worst);
}

/* Far gates, where e^-x overflows, and no number among numbers. */
static void test_glu_far(void **state) {
  static const float gate[] = {-1e30f, -200, -88, 88, 200, 1e30f, 0, NAN};
  enum { N = sizeof gate / sizeof *gate };
  (void)state;
  weir_dev *dev = open_dev(7);
  for (int act = 0; act < 2; act++) {
    weir_err e = {0};
    float x[2 * N];
    for (int32_t i = 0; i < N; i++) x[i] = gate[i], x[N + i] = 0.5f;
    const weir_mat both = kern_mat(dev, 1, 2 * N, 0), y = kern_mat(dev, 1, N, 0);
    kern_put(dev, both, x);
    kern_ok(weir_op_glu(dev, y, both, (weir_act)act, &e), &e, "glu");
    float *got = kern_get(dev, y);
    for (int32_t i = 0; i < N; i++) {
      const double want = gate[i] > 0 ? 0.5 * (double)gate[i] : 0;
      if (isnan(gate[i]) ? !isnan(got[i]) : !(fabs((double)got[i] - want) <= 1e-6 * fabs(want) + 1e-30))
        fail_msg("act %d of %g: %g, want %g", act, (double)gate[i], (double)got[i], want);
    }
    free(got);
    kern_mat_free(dev, both);
    kern_mat_free(dev, y);
  }
  cuda_test_close(dev);
}

static void test_softcap(void **state) {
  static const struct {
    int32_t rows, cols, pad;
  } shapes[] = {{1, 1, 0}, {77, 3, 2}, {5, 512, 0}, {3, 1025, 1}, {2, 152064, 0}, {1, 151936, 3}};
  double worst = 0;
  (void)state;
  weir_dev *dev = open_dev(8);
  kern_rng rng = {37};
  for (int32_t i = 0; i < COUNT(shapes); i++) {
    const int32_t rows = shapes[i].rows, cols = shapes[i].cols;
    const size_t n = (size_t)rows * (size_t)cols;
    weir_err e = {0};
    float *x = kern_normals(&rng, n, 40);
    double *want = need(sizeof *want * n);
    if (n > 2) x[1] = 1e-6f, x[2] = 1e9f;
    for (size_t k = 0; k < n; k++) want[k] = 30 * tanh((double)x[k] / 30);
    const weir_mat m = kern_mat(dev, rows, cols, shapes[i].pad);
    kern_put(dev, m, x);
    kern_ok(weir_op_softcap(dev, m, 30.0f, &e), &e, "softcap");
    float *got = kern_get(dev, m);
    cuda_near(got, want, rows, cols, 1e-6, "softcap");
    worst = fmax(worst, cuda_worst_row(got, want, rows, cols));
    if (n > 2) assert_true(fabs((double)got[1] - 1e-6) < 1e-12); /* small ones keep their digits */
    free(got), free(want), free(x);
    kern_mat_free(dev, m);
  }
  cuda_test_close(dev);
  print_message("softcap: worst row %.2g (bound 1e-6)\n", worst);
}

/* ---- copies ---- */

static void test_gather(void **state) {
  static const int32_t cols_of[] = {1, 7, 64, 513, 2048};
  (void)state;
  weir_dev *dev = open_dev(9);
  kern_rng rng = {41};
  for (int32_t i = 0; i < 2 * COUNT(cols_of); i++) {
    enum { FROM = 19, TO = 30, BAD = 11 };
    const int32_t cols = cols_of[i / 2], pad = i % 2 ? 3 : 0;
    weir_err e = {0};
    float *x = kern_normals(&rng, FROM * (size_t)cols, 1);
    int32_t row[TO];
    for (int32_t k = 0; k < TO; k++) row[k] = kern_below(&rng, FROM);
    row[BAD] = i % 3 ? FROM : -1; /* what x has not is no number, and nothing is read for it */
    const weir_mat from = kern_mat(dev, FROM, cols, pad), to = kern_mat(dev, TO, cols, 0);
    kern_put(dev, from, x);
    int32_t *on_device = kern_copy(dev, row, sizeof row);
    kern_ok(weir_op_gather_rows(dev, to, from, on_device, &e), &e, "gather_rows");
    float *got = kern_get(dev, to);
    for (int32_t k = 0; k < TO; k++)
      if (k != BAD)
        kern_same(got + k * cols, x + row[k] * cols, sizeof *x * (size_t)cols, "row");
      else
        for (int32_t c = 0; c < cols; c++) assert_true(isnan(got[k * cols + c]));
    free(got), free(x);
    weir_dev_release(dev, on_device);
    kern_mat_free(dev, from);
    kern_mat_free(dev, to);
  }
  cuda_test_close(dev);
}

static void copy_pages(weir_dev *dev, weir_kv_layer kv, const int32_t *pair, int32_t n) {
  weir_err e = {0};
  const size_t page = 2 * (size_t)kv.n_kv_heads * (size_t)kv.page_size * (size_t)kv.head_dim *
                      (kv.dtype == WEIR_F16 ? 2 : 4),
               bytes = page * (size_t)kv.n_pages;
  unsigned char *want = need(bytes), *got = need(bytes);
  kern_rng rng = {page};
  for (size_t i = 0; i < bytes; i++) want[i] = (unsigned char)kern_u64(&rng);
  kv.base = kern_copy(dev, want, bytes);
  for (int32_t i = 0; i < n; i++) /* one after the other */
    memmove(want + (size_t)pair[2 * i + 1] * page, want + (size_t)pair[2 * i] * page, page);
  kern_ok(weir_op_kv_copy(dev, kv, pair, n, &e), &e, "kv_copy");
  kern_ok(weir_dev_download(dev, got, kv.base, bytes, &e), &e, "download");
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  kern_same(got, want, bytes, "pages");
  weir_dev_release(dev, kv.base);
  free(want), free(got);
}

static void test_kv_copy(void **state) {
  static const weir_kv_layer layers[] = {{NULL, WEIR_F16, 12, 2, 16, 64}, {NULL, WEIR_F32, 12, 2, 16, 64},
                                         {NULL, WEIR_F16, 12, 1, 1, 1},   {NULL, WEIR_F16, 12, 1, 3, 7},
                                         {NULL, WEIR_F32, 12, 3, 1, 5},   {NULL, WEIR_F16, 12, 8, 16, 128}};
  /* A page read and then written; written and then read; written twice; a ring; itself. */
  static const int32_t pairs[][8] = {{0, 1, 2, 0, 3, 4, 5, 6}, {0, 1, 1, 2, 2, 3, 3, 4},
                                     {0, 5, 1, 5, 2, 5, 3, 6}, {0, 1, 1, 0, 2, 3, 3, 2},
                                     {4, 4, 4, 7, 7, 7, 7, 4}, {11, 0, 10, 1, 9, 2, 8, 3}};
  (void)state;
  for (int32_t i = 0; i < COUNT(layers); i++) {
    weir_dev *dev = open_dev((uint64_t)i);
    for (int32_t k = 0; k < COUNT(pairs); k++)
      if (i < 5 || k < 2) copy_pages(dev, layers[i], pairs[k], 4);
    cuda_test_close(dev);
  }
}

/* More than one launch takes, apart and tangled. */
static void test_kv_copy_many(void **state) {
  enum { PAIRS = 300, PAGES = 700 };
  const weir_kv_layer kv = {NULL, WEIR_F16, PAGES, 1, 2, 8};
  int32_t pair[2 * PAIRS];
  (void)state;
  weir_dev *dev = open_dev(2);
  kern_rng rng = {43};
  for (int32_t i = 0; i < PAIRS; i++) pair[2 * i] = i, pair[2 * i + 1] = PAIRS + i;
  copy_pages(dev, kv, pair, PAIRS);
  for (int32_t k = 0; k < 3; k++) {
    for (int32_t i = 0; i < 2 * PAIRS; i++) pair[i] = kern_below(&rng, k == 0 ? 40 : PAGES);
    copy_pages(dev, kv, pair, PAIRS);
  }
  cuda_test_close(dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_norm),   cmocka_unit_test(test_norm_wide), cmocka_unit_test(test_norm_nan),
      cmocka_unit_test(test_glu),    cmocka_unit_test(test_glu_far),   cmocka_unit_test(test_softcap),
      cmocka_unit_test(test_gather), cmocka_unit_test(test_kv_copy),   cmocka_unit_test(test_kv_copy_many),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
