/* SPDX-License-Identifier: Apache-2.0 */
/* Linear: every type of weight by every number of rows. A weight's rows are 251 different ones over and over,
 * a prime, so a row taken from another tile is another row, and the reference is small. One thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "check_ops.h"
#include "kernels/quant.h"

enum { OWN = 251, SAMPLES = 8, MAX_COPIES = 32 };

typedef struct linear {
  ops_check *c;
  weir_dtype type;
  int32_t rows, cols;
  size_t row_bytes;
  uint8_t *stored; /* [rows] */
  float *means;    /* [OWN][cols] what the stored rows mean */
  int32_t n_copies;
  weir_weight w[MAX_COPIES];
  weir_mat x, y;
} linear;

static weir_status weight_make(linear *l, weir_err *e) {
  weir_status st = WEIR_OK;
  float *row = NULL;
  size_t bytes = 0;
  WEIR_TRY(weir_dtype_row_bytes(l->type, l->cols, &l->row_bytes, e));
  if (!weir_mul_size((size_t)l->rows, l->row_bytes, &bytes))
    WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "a weight of %d x %d overflows", l->rows, l->cols));
  WEIR_TRY(WEIR_NEW((size_t)l->cols, &row, e));
  WEIR_TRY(WEIR_NEW(bytes, &l->stored, e));
  WEIR_TRY(WEIR_NEW((size_t)OWN * (size_t)l->cols, &l->means, e));
  for (int32_t r = 0; r < OWN && r < l->rows; r++) {
    uint8_t *at = l->stored + (size_t)r * l->row_bytes;
    for (int32_t k = 0; k < l->cols; k++) row[k] = 0.7f * ops_normal(l->c);
    WEIR_TRY(weir_quantize_row(l->type, row, at, l->cols, e));
    WEIR_TRY(weir_dequantize_row(l->type, at, l->means + (size_t)r * (size_t)l->cols, l->cols, e));
  }
  for (int32_t r = OWN; r < l->rows; r++)
    memcpy(l->stored + (size_t)r * l->row_bytes, l->stored + (size_t)(r % OWN) * l->row_bytes, l->row_bytes);
  const weir_host_mat host = {l->stored, l->type, l->rows, l->cols};
  l->n_copies = ops_copies(l->c, bytes);
  for (int32_t i = 0; i < l->n_copies; i++) WEIR_TRY(weir_weight_prepare(l->c->dev, &host, 1, &l->w[i], e));
out:
  free(row);
  return st;
}

/* The worst of the sampled rows; a difference is of the row's largest element, or of the root of the sum of
 * squares of an element's terms where that is more. */
static double worst_row(const linear *l, const float *x, const float *y, int32_t n) {
  const int32_t samples = n < SAMPLES ? n : SAMPLES, own = l->rows < OWN ? l->rows : OWN;
  double worst = 0;
  for (int32_t s = 0; s < samples; s++) {
    const int32_t i = samples > 1 ? (int32_t)((int64_t)s * (n - 1) / (samples - 1)) : 0;
    const float *a = x + (size_t)i * (size_t)l->cols, *got = y + (size_t)i * (size_t)l->rows;
    double far = 0, size = 0;
    for (int32_t r = 0; r < own; r++) {
      const float *b = l->means + (size_t)r * (size_t)l->cols;
      double sum = 0, squares = 0;
      for (int32_t k = 0; k < l->cols; k++) {
        const double p = (double)a[k] * (double)b[k];
        sum += p;
        squares += p * p;
      }
      size = fmax(size, fmax(fabs(sum), sqrt(squares)));
      for (int32_t f = r; f < l->rows; f += OWN) {
        const double d = fabs((double)got[f] - sum);
        if (isnan(d)) return INFINITY;
        far = fmax(far, d);
      }
    }
    worst = fmax(worst, far / size);
  }
  return worst;
}

/* As tests/cuda/test_cuda_linear.c and test_cuda_dense.c say. */
static double bound(const linear *l, int32_t n) {
  if (weir_dtype_is_quant(l->type)) return l->c->on_cpu ? 2e-2 : n <= 64 ? 1e-3 : 1e-2;
  if (l->c->on_cpu || l->type == WEIR_F32 || n <= 8) return 1e-5;
  return l->type == WEIR_F16 ? 1e-3 : 8e-3;
}

static weir_status enqueue(void *ctx, weir_err *e) {
  linear *l = ctx;
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < l->n_copies; i++)
    WEIR_TRY(weir_op_linear(l->c->dev, l->y, l->x, &l->w[i], NULL, e));
out:
  return st;
}

static weir_status check_rows(linear *l, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  float *x = NULL, *y = NULL;
  char name[96];
  const size_t n_y = (size_t)n * (size_t)l->rows;
  double us = 0;
  l->x = l->y = (weir_mat){0};
  WEIR_TRY(ops_mat(l->c, n, l->cols, 1.0f, &x, &l->x, e));
  WEIR_TRY(ops_mat(l->c, n, l->rows, 0, NULL, &l->y, e));
  WEIR_TRY(ops_time(l->c, enqueue, l, l->n_copies, false, &us, e));
  WEIR_TRY(WEIR_NEW(n_y, &y, e));
  WEIR_TRY(weir_dev_download(l->c->dev, y, l->y.data, n_y * sizeof *y, e));
  WEIR_TRY(weir_dev_sync(l->c->dev, e));
  snprintf(name, sizeof name, "linear %s %dx%d n=%d", weir_dtype_get(l->type)->name, l->rows, l->cols, n);
  ops_report(l->c, &(ops_result){.name = name,
                                 .us = us,
                                 .bytes = (double)l->rows * (double)l->row_bytes +
                                          4.0 * n * ((double)l->rows + l->cols),
                                 .flops = 2.0 * n * l->rows * l->cols,
                                 .err = worst_row(l, x, y, n),
                                 .bound = bound(l, n)});
out:
  weir_dev_release(l->c->dev, l->x.data);
  weir_dev_release(l->c->dev, l->y.data);
  free(x);
  free(y);
  return st;
}

static weir_status check_weight(ops_check *c, weir_dtype type, int32_t rows, int32_t cols, const int32_t *n,
                                int32_t n_n, weir_err *e) {
  weir_status st = WEIR_OK;
  linear l = {.c = c, .type = type, .rows = rows, .cols = cols};
  WEIR_TRY(weight_make(&l, e));
  for (int32_t i = 0; i < n_n; i++) WEIR_TRY(check_rows(&l, n[i], e));
out:
  for (int32_t i = 0; i < l.n_copies; i++) weir_weight_release(&l.w[i]);
  free(l.stored);
  free(l.means);
  return st;
}

weir_status check_linear(ops_check *c, weir_err *e) {
  static const weir_dtype types[] = {WEIR_Q8_0, WEIR_Q4_0, WEIR_Q4_K, WEIR_Q6_K, WEIR_BF16, WEIR_F16};
  static const int32_t shape[][2] = {{4096, 4096}, {14336, 4096}, {4096, 14336}};
  static const int32_t n_list[] = {1, 2, 8, 16, 32, 64, 128, 512}, few[] = {1, 3, 9, 66};
  weir_status st = WEIR_OK;
  for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
    if (c->small) {
      WEIR_TRY(check_weight(c, types[t], 40, 512, few, 4, e));
      continue;
    }
    for (int s = 0; s < 3; s++) WEIR_TRY(check_weight(c, types[t], shape[s][0], shape[s][1], n_list, 8, e));
  }
out:
  return st;
}
