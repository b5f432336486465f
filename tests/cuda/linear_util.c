/* SPDX-License-Identifier: Apache-2.0 */
/* Weights and references of the tests of linear on CUDA. One thread. */
#include "linear_util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/quant.h"

bool linear_legal(weir_dtype t, int32_t cols) { return cols % weir_dtype_get(t)->block_elems == 0; }

const char *linear_name(weir_dtype t, int32_t rows, int32_t cols, int32_t n) {
  static char name[96];
  snprintf(name, sizeof name, "%s [%d, %d] of %d rows", weir_dtype_get(t)->name, rows, cols, n);
  return name;
}

static size_t row_bytes_of(weir_dtype t, int32_t cols) {
  weir_err e = {0};
  size_t bytes = 0;
  kern_ok(weir_dtype_row_bytes(t, cols, &bytes, &e), &e, "row bytes");
  return bytes;
}

linear_weight linear_make(weir_dev *dev, kern_rng *r, const weir_dtype *type, const int32_t *rows,
                          int32_t n_parts, int32_t cols) {
  weir_err e = {0};
  linear_weight w = {.cols = cols, .n_parts = n_parts};
  for (int32_t p = 0; p < n_parts; p++) w.rows += rows[p];
  w.w = kern_normals(r, (size_t)w.rows * (size_t)cols, 0.7f);
  const float *row = w.w;
  for (int32_t p = 0; p < n_parts; p++) {
    const size_t bytes = row_bytes_of(type[p], cols);
    uint8_t *data = malloc(bytes * (size_t)rows[p]);
    assert_non_null(data);
    for (int32_t i = 0; i < rows[p]; i++, row += cols) {
      if (weir_dtype_is_quant(type[p]))
        kern_blocks(r, type[p], bytes / (size_t)weir_dtype_get(type[p])->block_bytes,
                    data + (size_t)i * bytes);
      else
        kern_ok(weir_quantize_row(type[p], row, data + (size_t)i * bytes, cols, &e), &e, "quantize");
    }
    w.part[p] = (weir_host_mat){data, type[p], rows[p], cols};
  }
  linear_refresh(dev, &w);
  return w;
}

void linear_refresh(weir_dev *dev, linear_weight *w) {
  weir_err e = {0};
  float *row = w->w;
  weir_weight_release(&w->prepared);
  for (int32_t p = 0; p < w->n_parts; p++) {
    const size_t bytes = row_bytes_of(w->part[p].dtype, w->cols);
    for (int32_t i = 0; i < w->part[p].rows; i++, row += w->cols)
      kern_ok(weir_dequantize_row(w->part[p].dtype, linear_data(w, p) + (size_t)i * bytes, row, w->cols, &e),
              &e, "dequantize");
  }
  kern_ok(weir_weight_prepare(dev, w->part, w->n_parts, &w->prepared, &e), &e, "prepare");
}

uint8_t *linear_data(linear_weight *w, int32_t part) { return (uint8_t *)(uintptr_t)w->part[part].data; }

void linear_free(linear_weight *w) {
  weir_weight_release(&w->prepared);
  for (int32_t p = 0; p < w->n_parts; p++) free(linear_data(w, p));
  free(w->w);
}

double linear_near(const linear_weight *w, const float *x, int32_t n, const float *bias, const float *got,
                   double most, const char *what) {
  double all = 0;
  for (int32_t i = 0; i < n; i++) {
    double worst = 0, size = 0;
    for (int32_t f = 0; f < w->rows; f++) {
      const float *a = x + (size_t)i * (size_t)w->cols, *b = w->w + (size_t)f * (size_t)w->cols;
      double s = bias ? (double)bias[f] : 0.0, squares = 0;
      for (int32_t c = 0; c < w->cols; c++) {
        const double p = (double)a[c] * (double)b[c];
        s += p;
        squares += p * p;
      }
      const double d = fabs((double)got[(size_t)i * (size_t)w->rows + (size_t)f] - s);
      worst = d > worst || isnan(d) ? d : worst;
      size = fmax(size, fmax(fabs(s), sqrt(squares)));
    }
    const double error = worst == 0 ? 0 : worst / size;
    if (!(error <= most))
      fail_msg("%s: row %d of %d is wrong by %g, at most %g", what, i, n, isnan(worst) ? worst : error, most);
    all = fmax(all, error);
  }
  return all;
}

float *linear_run(weir_dev *dev, const linear_weight *w, const float *x, int32_t n, const float *bias,
                  int32_t pad) {
  weir_err e = {0};
  weir_mat xm = kern_mat(dev, n, w->cols, pad), ym = kern_mat(dev, n, w->rows, pad);
  kern_put(dev, xm, x);
  float *b = bias ? kern_copy(dev, bias, sizeof *bias * (size_t)w->rows) : NULL;
  kern_ok(weir_op_linear(dev, ym, xm, &w->prepared, b, &e), &e, "linear");
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  float *y = kern_get(dev, ym);
  kern_mat_free(dev, xm);
  kern_mat_free(dev, ym);
  weir_dev_release(dev, b);
  return y;
}
