/* SPDX-License-Identifier: Apache-2.0 */
/* Linear and embed against scalar double arithmetic over the stored weights, to the bit between instruction
 * sets, thread counts and batch compositions. F16 and BF16 on AMX have an arithmetic of their own: bits alike
 * among its devices here, against its emulation in test_linear_dense.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/quant.h"

enum { M_MAX = 77, BLOCK = 32 };

static const int32_t m_list[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 48, M_MAX};
static const int32_t n_list[] = {1, 15, 16, 17, 31, 33, 48, 256, 333};
static const int32_t k_list[] = {1, 7, 31, 32, 64, 96, 256, 320, 768, 1024};
static const weir_dev_limits limits = {.max_tokens = 700, .max_cols = 1024};

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static bool legal(weir_dtype t, int32_t k) { return k % weir_dtype_get(t)->block_elems == 0; }
static bool is_dense(weir_dtype t, weir_isa isa) {
  return isa == WEIR_ISA_AMX && (t == WEIR_F16 || t == WEIR_BF16);
}
static bool has_mins(weir_dtype t) { return t == WEIR_Q4_K || t == WEIR_Q5_K; }
/* `k`, or where a type's blocks are too long for that one block. */
static int32_t at_least_a_block(weir_dtype t, int32_t k) {
  return legal(t, k) ? k : weir_dtype_get(t)->block_elems;
}

/* ---- a stored matrix and the reference ---- */

typedef struct stored {
  weir_host_mat mat; /* data owned */
  float *w;          /* [rows][cols], what the stored rows mean; owned */
} stored;

static stored make_stored(kern_rng *r, weir_dtype t, int32_t rows, int32_t cols) {
  weir_err e = {0};
  size_t row_bytes;
  kern_ok(weir_dtype_row_bytes(t, cols, &row_bytes, &e), &e, "row bytes");
  uint8_t *data = malloc(row_bytes * (size_t)rows);
  float *w = kern_normals(r, (size_t)rows * (size_t)cols, 0.7f);
  assert_non_null(data);
  for (int32_t i = 0; i < rows; i++) {
    float *row = w + (size_t)i * (size_t)cols;
    if (weir_dtype_is_quant(t))
      kern_blocks(r, t, row_bytes / (size_t)weir_dtype_get(t)->block_bytes, data + (size_t)i * row_bytes);
    else
      kern_ok(weir_quantize_row(t, row, data + (size_t)i * row_bytes, cols, &e), &e, "quantize");
    kern_ok(weir_dequantize_row(t, data + (size_t)i * row_bytes, row, cols, &e), &e, "dequantize");
  }
  return (stored){{data, t, rows, cols}, w};
}

static void free_stored(stored *s) {
  free((void *)(uintptr_t)s->mat.data);
  free(s->w);
}

/* Activations as the contract says quantised weights see them. */
static void quantize_x(const float *x, int32_t cols, double *out) {
  for (int32_t b = 0; b < cols; b += BLOCK) {
    float a = 0;
    for (int32_t k = b; k < b + BLOCK; k++) a = fmaxf(a, fabsf(x[k]));
    const float d = a / 127.0f, inverse = a > 0 ? 127.0f / a : 0.0f;
    for (int32_t k = b; k < b + BLOCK; k++) out[k] = (double)d * (double)rintf(x[k] * inverse);
  }
}

/* What rounding errors of a weight are measured against: its magnitude, or where the type takes a min off,
 * that of both terms. */
static void weight_sizes(const stored *s, double *out) {
  const size_t n = (size_t)s->mat.rows * (size_t)s->mat.cols;
  for (size_t i = 0; i < n; i++) out[i] = fabs((double)s->w[i]);
  if (!has_mins(s->mat.dtype)) return;
  weir_err e = {0};
  float part[256];
  uint8_t block[256];
  const size_t bytes = (size_t)weir_dtype_get(s->mat.dtype)->block_bytes;
  for (size_t b = 0; b < n / 256; b++) {
    memcpy(block, (const uint8_t *)s->mat.data + b * bytes, bytes);
    memset(block, 0, 2); /* d: the mins are left, negated */
    kern_ok(weir_dequantize_row(s->mat.dtype, block, part, 256, &e), &e, "dequantize");
    for (size_t i = 0; i < 256; i++)
      out[b * 256 + i] = fabs((double)part[i]) + fabs((double)s->w[b * 256 + i] - (double)part[i]);
  }
}

/* y and the sum of magnitudes that its rounding errors are measured against. */
static void reference(const stored *s, const float *x, int32_t m, double *y, double *size) {
  const int32_t k = s->mat.cols, n = s->mat.rows;
  double *w_size = malloc(sizeof *w_size * (size_t)n * (size_t)k);
  assert_non_null(w_size);
  weight_sizes(s, w_size);
  double *xd = malloc(sizeof *xd * (size_t)k);
  assert_non_null(xd);
  for (int32_t i = 0; i < m; i++, x += k) {
    for (int32_t c = 0; c < k; c++) xd[c] = (double)x[c];
    if (weir_dtype_is_quant(s->mat.dtype)) quantize_x(x, k, xd);
    for (int32_t j = 0; j < n; j++) {
      const float *w = s->w + (size_t)j * (size_t)k;
      const double *ws = w_size + (size_t)j * (size_t)k;
      double sum = 0, all = 0;
      for (int32_t c = 0; c < k; c++) {
        sum += (double)w[c] * xd[c];
        all += ws[c] * fabs(xd[c]);
      }
      y[(size_t)i * (size_t)n + (size_t)j] = sum;
      size[(size_t)i * (size_t)n + (size_t)j] = all;
    }
  }
  free(xd);
  free(w_size);
}

/* Dense y of x[m, k] through a device. */
static float *run_linear(weir_dev *dev, const weir_weight *w, const float *x, int32_t m, const float *bias) {
  weir_err e = {0};
  const weir_mat dx = kern_mat(dev, m, w->cols, 5), dy = kern_mat(dev, m, w->rows, 3);
  kern_put(dev, dx, x);
  kern_ok(weir_op_linear(dev, dy, dx, w, bias, &e), &e, "linear");
  float *y = kern_get(dev, dy);
  kern_mat_free(dev, dx);
  kern_mat_free(dev, dy);
  return y;
}

static weir_weight prepare(weir_dev *dev, const weir_host_mat *part, int32_t n_parts) {
  weir_err e = {0};
  weir_weight w;
  kern_ok(weir_weight_prepare(dev, part, n_parts, &w, &e), &e, "prepare");
  return w;
}

/* ---- the matrix of shapes ---- */

static double worst_of(const float *y, const double *want, const double *size, size_t n) {
  double worst = 0;
  for (size_t i = 0; i < n; i++) {
    const double err = size[i] > 0 ? fabs((double)y[i] - want[i]) / size[i] : fabs((double)y[i]);
    if (!(err <= worst)) worst = isnan(err) ? INFINITY : err;
  }
  return worst;
}

static double check_case(kern_devs *d, kern_rng *r, weir_dtype t, int32_t n, int32_t k) {
  /* Large ones have fewer rows: every batch size would take minutes under a sanitizer. */
  const bool large = n * k > 100000;
  const int32_t m_max = large ? 33 : M_MAX;
  stored s = make_stored(r, t, n, k);
  float *x = kern_normals(r, (size_t)m_max * (size_t)k, 1.5f);
  const size_t len = (size_t)m_max * (size_t)n;
  double *want = malloc(sizeof *want * len), *size = malloc(sizeof *size * len);
  assert_non_null(want);
  assert_non_null(size);
  reference(&s, x, m_max, want, size);

  float *first = NULL; /* of the first device of an arithmetic; what its others must equal */
  weir_isa first_isa = WEIR_ISA_SCALAR;
  double worst = 0;
  for (int i = 0; i < d->n; i++) {
    weir_weight w = prepare(d->dev[i], &s.mat, 1);
    assert_int_equal(w.rows, n);
    assert_int_equal(w.cols, k);
    if (!first || is_dense(t, d->isa[i]) != is_dense(t, first_isa)) {
      free(first);
      first = run_linear(d->dev[i], &w, x, m_max, NULL);
      first_isa = d->isa[i];
      const double err = worst_of(first, want, size, len);
      worst = fmax(worst, err);
      /* A chain of fused multiply-adds errs by at most its length in half-units of the last place; quantised
       * ones round the product of scales too, super-blocks the two terms of a block. */
      const double bound = ((weir_dtype_is_quant(t) ? k / BLOCK + 2 : k) + 1) * 0x1p-24;
      if (!(err <= bound))
        fail_msg("%s n %d k %d on %s: error %g of the sum of magnitudes, bound %g", weir_dtype_get(t)->name,
                 n, k, weir_isa_name(first_isa), err, bound);
    }
    for (int c = 0; c < COUNT(m_list); c++) {
      const int32_t m = m_list[c];
      if (m > m_max) continue;
      if ((large || d->isa[i] == WEIR_ISA_SCALAR) && m != 1 && m != 8 && m != 17 && m < 33) continue;
      if (d->isa[i] == WEIR_ISA_SCALAR && m > 17) continue; /* done above */
      /* Tiles are eight rows high at most but for those of AMX, which these are the edges of. */
      const bool high = d->isa[i] == WEIR_ISA_AMX && weir_dtype_is_quant(t);
      if (!high && (m == 7 || m == 12 || m == 31 || m == 32 || m == 48)) continue;
      if (d->threads[i] > 1 && m != 1 && m != 17 && m != m_max) continue;
      float *y = run_linear(d->dev[i], &w, x, m, NULL);
      char what[160];
      snprintf(what, sizeof what, "%s m %d n %d k %d: %s with %d threads against %s", weir_dtype_get(t)->name,
               m, n, k, weir_isa_name(d->isa[i]), d->threads[i], weir_isa_name(first_isa));
      kern_same(y, first, sizeof *y * (size_t)m * (size_t)n, what);
      free(y);
    }
    weir_weight_release(&w);
  }
  free(first);
  free(want);
  free(size);
  free(x);
  free_stored(&s);
  return worst;
}

static void every_shape_is_right_and_alike(void **state) {
  (void)state;
  kern_devs d;
  kern_rng r = {11};
  kern_devs_open(&d, &limits);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    double worst = 0;
    int cases = 0;
    for (int k = 0; k < COUNT(k_list); k++) {
      if (!legal((weir_dtype)t, k_list[k])) continue;
      for (int n = 0; n < COUNT(n_list); n++) {
        /* Long ones with few shapes, for under sanitizers they take seconds each; floats most of all. */
        const bool quant = weir_dtype_is_quant((weir_dtype)t);
        if (k_list[k] == 320 && (!quant || n_list[n] != 17))
          continue; /* there for quants alone: half a strip */
        if (n_list[n] == 31 && k_list[k] != 256) continue;
        if (k_list[k] > (quant ? 256 : 64) && n_list[n] != 17 && n_list[n] != (quant ? 333 : 48)) continue;
        worst = fmax(worst, check_case(&d, &r, (weir_dtype)t, n_list[n], k_list[k]));
        cases++;
      }
    }
    print_message("%s: %d shapes, worst error %.2g of the sum of magnitudes\n",
                  weir_dtype_get((weir_dtype)t)->name, cases, worst);
    assert_true(cases > 0);
  }
  kern_devs_close(&d);
}

/* ---- batch composition ---- */

static void a_row_does_not_feel_its_batch(void **state) {
  (void)state;
  enum { POOL = 40, N = 83, ROUNDS = 16 };
  kern_devs d;
  kern_rng r = {12};
  kern_devs_open(&d, &limits);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    const int32_t k = at_least_a_block((weir_dtype)t, 96);
    stored s = make_stored(&r, (weir_dtype)t, N, k);
    const size_t row = (size_t)k * sizeof(float);
    float *x = kern_normals(&r, POOL * (size_t)k, 2.0f), *bias = kern_normals(&r, N, 1.0f);
    float *batch = malloc(POOL * row);
    assert_non_null(batch);
    for (int i = 0; i < d.n; i++) {
      weir_weight w = prepare(d.dev[i], &s.mat, 1);
      float *dbias = kern_copy(d.dev[i], bias, sizeof *bias * N), *alone[POOL];
      for (int32_t p = 0; p < POOL; p++) alone[p] = run_linear(d.dev[i], &w, x + p * k, 1, dbias);
      for (int round = 0; round < ROUNDS; round++) {
        const int32_t m = 1 + kern_below(&r, POOL);
        int32_t pick[POOL];
        for (int32_t q = 0; q < m; q++) {
          pick[q] = kern_below(&r, POOL);
          memcpy(batch + q * k, x + pick[q] * k, row);
        }
        float *y = run_linear(d.dev[i], &w, batch, m, dbias);
        for (int32_t q = 0; q < m; q++) kern_same(y + q * N, alone[pick[q]], N * sizeof *y, "row in a batch");
        free(y);
      }
      for (int32_t p = 0; p < POOL; p++) free(alone[p]);
      weir_dev_release(d.dev[i], dbias);
      weir_weight_release(&w);
    }
    free(batch);
    free(x);
    free(bias);
    free_stored(&s);
  }
  kern_devs_close(&d);
}

static void many_rows_come_in_chunks(void **state) {
  (void)state;
  enum { M = 700 };
  static const int32_t cols[] = {32, 1024};
  kern_devs d;
  kern_rng r = {13};
  kern_devs_open(&d, &limits);
  for (int c = 0; c < COUNT(cols); c++) {
    const int32_t k = cols[c], n = 35;
    stored s[2] = {make_stored(&r, WEIR_Q8_0, n, k), make_stored(&r, WEIR_F16, n, k)};
    const weir_host_mat parts[2] = {s[0].mat, s[1].mat};
    float *x = kern_normals(&r, (size_t)M * (size_t)k, 1.0f);
    for (int i = 1; i < d.n; i++) {
      weir_weight w = prepare(d.dev[i], parts, 2);
      float *y = run_linear(d.dev[i], &w, x, M, NULL);
      for (int32_t row = 0; row < M; row += 37) {
        float *alone = run_linear(d.dev[i], &w, x + (size_t)row * (size_t)k, 1, NULL);
        kern_same(y + (size_t)row * 2 * (size_t)n, alone, sizeof *y * 2 * (size_t)n, "row of a long batch");
        free(alone);
      }
      free(y);
      weir_weight_release(&w);
    }
    free(x);
    free_stored(&s[0]);
    free_stored(&s[1]);
  }
  kern_devs_close(&d);
}

/* ---- parts ---- */

static const struct parts_case {
  int n;
  weir_dtype type[4];
  int32_t rows[4];
} parts_cases[] = {
    {2, {WEIR_Q8_0, WEIR_Q8_0}, {32, 48}},                           /* merge */
    {3, {WEIR_Q8_0, WEIR_Q8_0, WEIR_Q8_0}, {16, 17, 5}},             /* merge, then not */
    {3, {WEIR_Q4_0, WEIR_Q4_0, WEIR_Q8_0}, {64, 16, 16}},            /* q | k | v of two types */
    {4, {WEIR_F32, WEIR_Q4_0, WEIR_BF16, WEIR_F16}, {3, 33, 16, 1}}, /* floats and quants, ragged */
    {4, {WEIR_F16, WEIR_F16, WEIR_F16, WEIR_F16}, {1, 1, 1, 1}},
    {3, {WEIR_Q4_K, WEIR_Q4_K, WEIR_Q6_K}, {48, 16, 16}}, /* as mixes of llama.cpp have it */
    {4, {WEIR_Q6_K, WEIR_Q5_0, WEIR_Q5_K, WEIR_Q8_0}, {17, 16, 3, 5}},
    {4, {WEIR_Q4_0, WEIR_Q5_K, WEIR_F32, WEIR_Q4_K}, {16, 33, 1, 20}},
};

static void parts_are_their_weights_side_by_side(void **state) {
  (void)state;
  enum { M = 9, K = 256 };
  kern_devs d;
  kern_rng r = {14};
  kern_devs_open(&d, &limits);
  for (int c = 0; c < COUNT(parts_cases); c++) {
    const struct parts_case *pc = &parts_cases[c];
    stored s[4];
    weir_host_mat parts[4];
    int32_t total = 0;
    for (int p = 0; p < pc->n; p++) {
      s[p] = make_stored(&r, pc->type[p], pc->rows[p], K);
      parts[p] = s[p].mat;
      total += pc->rows[p];
    }
    float *x = kern_normals(&r, M * K, 1.0f), *bias = kern_normals(&r, (size_t)total, 1.0f);
    for (int i = 0; i < d.n; i++) {
      weir_weight all = prepare(d.dev[i], parts, pc->n);
      assert_int_equal(all.rows, total);
      float *dbias = kern_copy(d.dev[i], bias, sizeof *bias * (size_t)total);
      float *y = run_linear(d.dev[i], &all, x, M, dbias);
      int32_t at = 0;
      for (int p = 0; p < pc->n; at += pc->rows[p], p++) {
        weir_weight one = prepare(d.dev[i], &parts[p], 1);
        float *yp = run_linear(d.dev[i], &one, x, M, dbias + at);
        for (int32_t row = 0; row < M; row++)
          kern_same(y + row * total + at, yp + row * pc->rows[p], sizeof *y * (size_t)pc->rows[p], "part");
        free(yp);
        weir_weight_release(&one);
      }
      free(y);
      weir_dev_release(d.dev[i], dbias);
      weir_weight_release(&all);
    }
    for (int p = 0; p < pc->n; p++) free_stored(&s[p]);
    free(x);
    free(bias);
  }
  kern_devs_close(&d);
}

/* ---- values at the edge ---- */

static void extreme_activations(void **state) {
  (void)state;
  enum { KINDS = 6, M = 9 * KINDS, N = 20 }; /* each kind of row nine times: wide tiles on AVX-512 too */
  kern_devs d;
  kern_rng r = {15};
  kern_devs_open(&d, &limits);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    const int32_t cols = at_least_a_block((weir_dtype)t, 96);
    stored s = make_stored(&r, (weir_dtype)t, N, cols);
    float *x = kern_normals(&r, M * (size_t)cols, 1.0f), *first = NULL;
    weir_isa first_isa = WEIR_ISA_SCALAR;
    for (int32_t k = 0; k < cols; k++) {
      x[k] = 0;
      x[1 * cols + k] *= 1e-35f; /* below what quantised activations keep: counts as zero there */
      x[2 * cols + k] *= 1e-20f;
      x[3 * cols + k] *= 1e30f;
    }
    x[4 * cols + 70] = NAN;
    x[5 * cols + 3] = -INFINITY;
    for (int32_t row = KINDS; row < M; row++)
      memcpy(x + row * cols, x + row % KINDS * cols, (size_t)cols * sizeof *x);
    for (int i = 0; i < d.n; i++) {
      weir_weight w = prepare(d.dev[i], &s.mat, 1);
      float *y = run_linear(d.dev[i], &w, x, M, NULL);
      for (int32_t j = 0; j < M / KINDS * N; j++) {
        const float *at = y + j / N * KINDS * N + j % N; /* of the first kind */
        assert_true(at[0] == 0);
        if (weir_dtype_is_quant((weir_dtype)t)) assert_true(at[N] == 0);
        assert_true(isfinite(at[2 * N]) && isfinite(at[3 * N]));
        if (at[2 * N] == 0) fail_msg("1e-20 vanished in %s", weir_dtype_get((weir_dtype)t)->name);
        assert_true(isnan(at[4 * N]));
        assert_false(isfinite(at[5 * N]));
      }
      if (!first || is_dense((weir_dtype)t, d.isa[i]) != is_dense((weir_dtype)t, first_isa)) {
        free(first);
        first = y;
        first_isa = d.isa[i];
      }
      for (int32_t row = 0; row < M; row += KINDS)
        kern_same(y + row * N, first + row * N, 4 * N * sizeof *y, "finite rows against the first device's");
      if (y != first) free(y);
      weir_weight_release(&w);
    }
    free(first);
    free(x);
    free_stored(&s);
  }
  kern_devs_close(&d);
}

/* All quants at their ends: where 16-bit sums would saturate. Scales are integers, so that y is exact. */
static void extreme_quants(void **state) {
  (void)state;
  enum { N = 16, K = 256, M = 33, BYTES = N * K * 2 };
  kern_devs d;
  kern_devs_open(&d, &limits);
  uint8_t *data = malloc(BYTES);
  assert_non_null(data);
  for (int sign = 0; sign < 4; sign++) {
    const uint8_t bits = sign & 1 ? 0x00 : 0xff;
    const uint16_t one = weir_f32_to_f16(1.0f);
    float x[M * K];
    for (int k = 0; k < M * K; k++) x[k] = sign & 2 ? -127.0f : 127.0f;
    for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
      if (!weir_dtype_is_quant((weir_dtype)t)) continue;
      const weir_dtype_info *info = weir_dtype_get((weir_dtype)t);
      const size_t bytes = (size_t)info->block_bytes;
      for (int b = 0; b < N * K / info->block_elems; b++) {
        uint8_t *block = data + (size_t)b * bytes;
        memset(block, bits, bytes);
        if (t == WEIR_Q8_0) memset(block, sign & 1 ? 0x80 : 0x7f, bytes);
        if (t == WEIR_Q6_K) memset(block + 192, sign & 1 ? 0x80 : 0x7f, 16); /* its scales */
        if (has_mins((weir_dtype)t)) memset(block + 4, 0xff, 12);
        memcpy(block + (t == WEIR_Q6_K ? 208 : 0), &one, 2);
        if (has_mins((weir_dtype)t)) memcpy(block + 2, &one, 2);
      }
      weir_err e = {0};
      float w[K];
      kern_ok(weir_dequantize_row((weir_dtype)t, data, w, K, &e), &e, "dequantize");
      double want = 0;
      for (int k = 0; k < K; k++) want += (double)w[k] * (double)x[k];
      assert_true(fabs(want) >= 127.0 * 7 * K);
      const weir_host_mat mat = {data, (weir_dtype)t, N, K};
      for (int i = 0; i < d.n; i++) {
        weir_weight p = prepare(d.dev[i], &mat, 1);
        float *y = run_linear(d.dev[i], &p, x, M, NULL);
        for (int32_t j = 0; j < M * N; j++)
          if ((double)y[j] != want)
            fail_msg("%s on %s: %g, want %g", info->name, weir_isa_name(d.isa[i]), (double)y[j], want);
        free(y);
        weir_weight_release(&p);
      }
    }
  }
  free(data);
  kern_devs_close(&d);
}

/* ---- embed ---- */

static void embed_gives_the_stored_rows(void **state) {
  (void)state;
  enum { ROWS = 53, TOKENS = 70 };
  kern_devs d;
  kern_rng r = {16};
  kern_devs_open(&d, &limits);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    for (int k = 0; k < COUNT(k_list); k++) {
      const int32_t cols = k_list[k];
      if (!legal((weir_dtype)t, cols)) continue;
      stored s = make_stored(&r, (weir_dtype)t, ROWS, cols);
      int32_t token[TOKENS];
      for (int32_t i = 0; i < TOKENS; i++) token[i] = i < ROWS ? i : kern_below(&r, ROWS);
      for (int i = 0; i < d.n; i++) {
        weir_err e = {0};
        weir_weight w = prepare(d.dev[i], &s.mat, 1);
        int32_t *dtoken = kern_copy(d.dev[i], token, sizeof token);
        const weir_mat y = kern_mat(d.dev[i], TOKENS, cols, 2);
        const weir_embed_args args = {.table = &w, .token = dtoken, .scale = 1};
        kern_ok(weir_op_embed(d.dev[i], y, &args, &e), &e, "embed");
        float *got = kern_get(d.dev[i], y);
        for (int32_t q = 0; q < TOKENS; q++)
          kern_same(got + (size_t)q * (size_t)cols, s.w + (size_t)token[q] * (size_t)cols,
                    sizeof *got * (size_t)cols, "embedded row");
        free(got);
        kern_mat_free(d.dev[i], y);
        weir_dev_release(d.dev[i], dtoken);
        weir_weight_release(&w);
      }
      free_stored(&s);
    }
  }
  kern_devs_close(&d);
}

static void embed_refuses_foreign_tokens(void **state) {
  (void)state;
  kern_devs d;
  kern_rng r = {17};
  kern_devs_open(&d, &limits);
  stored s = make_stored(&r, WEIR_F32, 5, 8);
  weir_weight w = prepare(d.dev[0], &s.mat, 1);
  const weir_mat y = kern_mat(d.dev[0], 2, 8, 0);
  static const int32_t wrong[][2] = {{0, 5}, {-1, 0}};
  for (int i = 0; i < COUNT(wrong); i++) {
    weir_err e = {0};
    const weir_embed_args args = {.table = &w, .token = wrong[i], .scale = 1};
    assert_int_equal(weir_op_embed(d.dev[0], y, &args, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "5 rows"));
  }
  kern_mat_free(d.dev[0], y);
  weir_weight_release(&w);
  free_stored(&s);
  kern_devs_close(&d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_shape_is_right_and_alike),
      cmocka_unit_test(a_row_does_not_feel_its_batch),
      cmocka_unit_test(many_rows_come_in_chunks),
      cmocka_unit_test(parts_are_their_weights_side_by_side),
      cmocka_unit_test(extreme_activations),
      cmocka_unit_test(extreme_quants),
      cmocka_unit_test(embed_gives_the_stored_rows),
      cmocka_unit_test(embed_refuses_foreign_tokens),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
