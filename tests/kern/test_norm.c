/* SPDX-License-Identifier: Apache-2.0 */
/* add_rmsnorm against double precision, and its independence of batch and team. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"

static const weir_dev_limits LIMITS = {.max_tokens = 256,
                                       .max_cols = 8192,
                                       .max_heads = 32,
                                       .max_head_dim = 128,
                                       .max_kv_len = 2048,
                                       .max_rows_out = 16,
                                       .max_vocab = 1024};
static const float EPS = 1e-5f;

static void run(weir_dev *dev, int32_t rows, int32_t cols, const float *resid, const float *delta,
                const float *w, float **y_out, float **resid_out) {
  weir_err e = {0};
  weir_mat y = kern_mat(dev, rows, cols, 3), r = kern_mat(dev, rows, cols, 5), d = {NULL, rows, cols, cols};
  kern_put(dev, r, resid);
  if (delta != NULL) {
    d = kern_mat(dev, rows, cols, 1);
    kern_put(dev, d, delta);
  }
  float *dw = (float *)kern_copy(dev, w, sizeof *w * (size_t)cols);
  kern_ok(weir_op_add_rmsnorm(dev, y, r, d, dw, EPS, &e), &e, "add_rmsnorm");
  *y_out = kern_get(dev, y);
  *resid_out = kern_get(dev, r);
  kern_mat_free(dev, y);
  kern_mat_free(dev, r);
  if (delta != NULL) kern_mat_free(dev, d);
  weir_dev_release(dev, dw);
}

static void test_against_reference(void **state) {
  static const int32_t cols_of[] = {1, 7, 8, 15, 16, 17, 31, 64, 100, 256, 2048, 4099},
                       rows_of[] = {1, 3, 70};
  kern_devs devs;
  kern_rng rng = {1};
  double worst = 0;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t ci = 0; ci < sizeof cols_of / sizeof *cols_of; ci++)
    for (size_t ri = 0; ri < sizeof rows_of / sizeof *rows_of; ri++)
      for (int with = 0; with < 2; with++) {
        const int32_t cols = cols_of[ci], rows = rows_of[ri];
        const size_t n = (size_t)rows * (size_t)cols;
        float *resid = kern_normals(&rng, n, 2), *delta = kern_normals(&rng, n, 1);
        float *w = kern_normals(&rng, (size_t)cols, 1), *first = NULL;
        weir_isa first_isa = WEIR_ISA_BEST;
        double *want = (double *)malloc(sizeof *want * (size_t)cols);
        for (int i = 0; i < devs.n; i++) {
          float *y, *r;
          run(devs.dev[i], rows, cols, resid, with ? delta : NULL, w, &y, &r);
          for (int32_t a = 0; a < rows; a++) {
            double sq = 0;
            for (int32_t c = 0; c < cols; c++) {
              const size_t at = (size_t)a * (size_t)cols + (size_t)c;
              const float sum = with ? resid[at] + delta[at] : resid[at];
              if (sum != r[at]) fail_msg("resid (%d,%d): %g, want %g", a, c, (double)r[at], (double)sum);
              sq += (double)sum * (double)sum;
            }
            for (int32_t c = 0; c < cols; c++)
              want[c] = (double)r[(size_t)a * (size_t)cols + (size_t)c] / sqrt(sq / cols + (double)EPS) *
                        (double)w[c];
            const double err = kern_row_error(y + (size_t)a * (size_t)cols, want, cols);
            if (err > worst) worst = err;
            if (err > 1e-6)
              fail_msg("%s, %d columns, row %d: error %g", weir_isa_name(devs.isa[i]), cols, a, err);
          }
          if (devs.isa[i] == first_isa) { /* another team: the same bits */
            kern_same(y, first, sizeof *y * n, "another team");
            free(y);
          } else {
            free(first);
            first = y;
            first_isa = devs.isa[i];
          }
          if (!with) { /* in place: y over resid */
            weir_err e = {0};
            weir_mat x = kern_mat(devs.dev[i], rows, cols, 2);
            kern_put(devs.dev[i], x, resid);
            float *dw = (float *)kern_copy(devs.dev[i], w, sizeof *w * (size_t)cols);
            kern_ok(weir_op_add_rmsnorm(devs.dev[i], x, x, (weir_mat){0}, dw, EPS, &e), &e, "add_rmsnorm");
            float *over = kern_get(devs.dev[i], x);
            kern_same(over, first, sizeof *over * n, "in place");
            free(over);
            weir_dev_release(devs.dev[i], dw);
            kern_mat_free(devs.dev[i], x);
          }
          if (rows == 3) { /* the middle row alone */
            float *y1, *r1;
            run(devs.dev[i], 1, cols, resid + cols, with ? delta + cols : NULL, w, &y1, &r1);
            kern_same(y1, first + cols, sizeof *y1 * (size_t)cols, "alone");
            free(y1);
            free(r1);
          }
          free(r);
        }
        free(first);
        free(want);
        free(resid);
        free(delta);
        free(w);
      }
  kern_devs_close(&devs);
  print_message("worst row error %.2g (bound 1e-6)\n", worst);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_reference)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
