/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that are bound by memory: norm, gate, sampling. One thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "check_ops.h"

enum { COPIES = 8 };

/* One operation on some rows; a pass works on COPIES sets of buffers in turn. */
typedef struct rows_case {
  ops_check *c;
  int32_t rows, cols;
  weir_mat in[COPIES], out[COPIES];
  float *w; /* of the norm */
  float *host_in, *host_w, *got;
  weir_ask *ask; /* of sampling */
  weir_row *row;
} rows_case;

static const float EPS = 1e-5f;

static void rows_free(rows_case *k) {
  for (int i = 0; i < COPIES; i++) {
    weir_dev_release(k->c->dev, k->in[i].data);
    weir_dev_release(k->c->dev, k->out[i].data);
  }
  weir_dev_release(k->c->dev, k->w);
  free(k->host_in);
  free(k->host_w);
  free(k->got);
  free(k->ask);
  free(k->row);
}

/* in[rows, cols_in] of numbers, all copies alike; out[rows, cols]. */
static weir_status rows_make(rows_case *k, int32_t cols_in, bool with_out, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t bytes = (size_t)k->rows * (size_t)cols_in * sizeof(float);
  for (int i = 0; i < COPIES; i++) {
    if (i == 0) {
      WEIR_TRY(ops_mat(k->c, k->rows, cols_in, 2.0f, &k->host_in, &k->in[0], e));
    } else {
      k->in[i] = (weir_mat){.rows = k->rows, .cols = cols_in, .ld = cols_in};
      WEIR_TRY(ops_place(k->c, k->host_in, bytes, (void **)&k->in[i].data, e));
    }
    if (with_out) WEIR_TRY(ops_mat(k->c, k->rows, k->cols, 0, NULL, &k->out[i], e));
  }
out:
  return st;
}

static weir_status rows_get(rows_case *k, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n = (size_t)k->rows * (size_t)k->cols;
  WEIR_TRY(WEIR_NEW(n, &k->got, e));
  WEIR_TRY(weir_dev_download(k->c->dev, k->got, k->out[COPIES - 1].data, n * sizeof(float), e));
  WEIR_TRY(weir_dev_sync(k->c->dev, e));
out:
  return st;
}

/* ---- norm ---- */

static weir_status enqueue_norm(void *ctx, weir_err *e) {
  rows_case *k = ctx;
  weir_status st = WEIR_OK;
  for (int i = 0; i < COPIES; i++)
    WEIR_TRY(weir_op_add_rmsnorm(k->c->dev, k->out[i], k->in[i], (weir_mat){0}, k->w, EPS, e));
out:
  return st;
}

static double norm_error(const rows_case *k) {
  double worst = 0;
  for (int32_t r = 0; r < k->rows; r++) {
    const float *x = k->host_in + (size_t)r * (size_t)k->cols, *y = k->got + (size_t)r * (size_t)k->cols;
    double squares = 0, far = 0, size = 0;
    for (int32_t i = 0; i < k->cols; i++) squares += (double)x[i] * (double)x[i];
    const double rms = sqrt(squares / k->cols + (double)EPS);
    for (int32_t i = 0; i < k->cols; i++) {
      const double want = (double)x[i] / rms * (double)k->host_w[i], d = fabs((double)y[i] - want);
      if (isnan(d)) return INFINITY;
      far = fmax(far, d);
      size = fmax(size, fabs(want));
    }
    worst = fmax(worst, far / size);
  }
  return worst;
}

static weir_status check_norm(ops_check *c, int32_t rows, int32_t cols, weir_err *e) {
  weir_status st = WEIR_OK;
  rows_case k = {.c = c, .rows = rows, .cols = cols};
  char name[64];
  double us;
  WEIR_TRY(rows_make(&k, cols, true, e));
  WEIR_TRY(WEIR_NEW((size_t)cols, &k.host_w, e));
  for (int32_t i = 0; i < cols; i++) k.host_w[i] = 1.0f + 0.3f * ops_unit(c);
  WEIR_TRY(ops_place(c, k.host_w, (size_t)cols * sizeof(float), (void **)&k.w, e));
  WEIR_TRY(ops_time(c, enqueue_norm, &k, COPIES, false, &us, e));
  WEIR_TRY(rows_get(&k, e));
  snprintf(name, sizeof name, "rmsnorm %d n=%d", cols, rows);
  ops_report(c, &(ops_result){.name = name,
                              .us = us,
                              .bytes = 8.0 * rows * cols,
                              .err = norm_error(&k),
                              .bound = c->on_cpu ? 1e-5 : 1e-6}); /* tests/cuda/test_cuda_small.c */
out:
  rows_free(&k);
  return st;
}

/* ---- gate ---- */

static weir_status enqueue_glu(void *ctx, weir_err *e) {
  rows_case *k = ctx;
  weir_status st = WEIR_OK;
  for (int i = 0; i < COPIES; i++) WEIR_TRY(weir_op_glu(k->c->dev, k->out[i], k->in[i], WEIR_ACT_SILU, e));
out:
  return st;
}

static double glu_error(const rows_case *k) {
  double worst = 0;
  for (int32_t r = 0; r < k->rows; r++) {
    const float *gate = k->host_in + 2 * (size_t)r * (size_t)k->cols, *up = gate + k->cols,
                *y = k->got + (size_t)r * (size_t)k->cols;
    double far = 0, size = 0;
    for (int32_t i = 0; i < k->cols; i++) {
      const double want = (double)gate[i] / (1.0 + exp(-(double)gate[i])) * (double)up[i],
                   d = fabs((double)y[i] - want);
      if (isnan(d)) return INFINITY;
      far = fmax(far, d);
      size = fmax(size, fabs(want));
    }
    worst = fmax(worst, far / size);
  }
  return worst;
}

static weir_status check_glu(ops_check *c, int32_t rows, int32_t cols, weir_err *e) {
  weir_status st = WEIR_OK;
  rows_case k = {.c = c, .rows = rows, .cols = cols};
  char name[64];
  double us;
  WEIR_TRY(rows_make(&k, 2 * cols, true, e));
  WEIR_TRY(ops_time(c, enqueue_glu, &k, COPIES, false, &us, e));
  WEIR_TRY(rows_get(&k, e));
  snprintf(name, sizeof name, "glu %d n=%d", cols, rows);
  ops_report(c, &(ops_result){.name = name,
                              .us = us,
                              .bytes = 12.0 * rows * cols,
                              .err = glu_error(&k),
                              .bound = c->on_cpu ? 1e-5 : 1e-6});
out:
  rows_free(&k);
  return st;
}

/* ---- sampling ---- */

static weir_status enqueue_sample(void *ctx, weir_err *e) {
  rows_case *k = ctx;
  weir_status st = WEIR_OK;
  for (int i = 0; i < COPIES; i++)
    WEIR_TRY(weir_op_sample(k->c->dev, k->row, NULL, k->in[i], k->cols, k->ask, NULL, e));
out:
  return st;
}

/* Greedy: the arg-max, its log-probability and the row's entropy. */
static double sample_error(const rows_case *k) {
  double worst = 0;
  for (int32_t r = 0; r < k->rows; r++) {
    const float *l = k->host_in + (size_t)r * (size_t)k->cols;
    int32_t top = 0;
    double sum = 0, mean = 0;
    for (int32_t v = 1; v < k->cols; v++)
      if (l[v] > l[top]) top = v;
    for (int32_t v = 0; v < k->cols; v++) {
      const double d = (double)l[v] - (double)l[top], p = exp(d);
      sum += p;
      mean += p * d;
    }
    if (k->row[r].token != top) return INFINITY;
    worst = fmax(worst, fabs((double)k->row[r].logprob + log(sum)));
    worst = fmax(worst, fabs((double)k->row[r].entropy - (log(sum) - mean / sum)));
    if (isnan(k->row[r].logprob) || isnan(k->row[r].entropy)) return INFINITY;
  }
  return worst;
}

static weir_status check_sample(ops_check *c, int32_t rows, int32_t vocab, weir_err *e) {
  weir_status st = WEIR_OK;
  rows_case k = {.c = c, .rows = rows, .cols = vocab};
  char name[64];
  double us;
  WEIR_TRY(rows_make(&k, vocab, false, e));
  WEIR_TRY(WEIR_NEW((size_t)rows, &k.ask, e));
  WEIR_TRY(WEIR_NEW((size_t)rows, &k.row, e));
  for (int32_t i = 0; i < rows; i++) k.ask[i] = (weir_ask){.top_p = 1, .pos = i, .probe = -1};
  WEIR_TRY(ops_time(c, enqueue_sample, &k, COPIES, true, &us, e));
  snprintf(name, sizeof name, "sample greedy %d n=%d", vocab, rows);
  ops_report(c, &(ops_result){.name = name,
                              .us = us,
                              .bytes = 4.0 * rows * vocab,
                              .err = sample_error(&k),
                              .bound = 1e-4}); /* nats */
out:
  rows_free(&k);
  return st;
}

weir_status check_small(ops_check *c, weir_err *e) {
  static const int32_t n_list[] = {1, 32, 128};
  weir_status st = WEIR_OK;
  for (int i = 0; i < (c->small ? 1 : 3); i++) {
    const int32_t n = c->small ? 3 : n_list[i];
    WEIR_TRY(check_norm(c, n, c->small ? 300 : 4096, e));
    WEIR_TRY(check_glu(c, n, c->small ? 300 : 14336, e));
    WEIR_TRY(check_sample(c, n, c->small ? 3000 : 151936, e));
  }
out:
  return st;
}
