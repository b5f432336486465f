/* SPDX-License-Identifier: Apache-2.0 */
/* The linear with F16 and BF16 weights on AMX: to the bit against a scalar emulation of its arithmetic as
 * kernels/cpu/linear_dense.h states it, for all edges of tiles, parts and chunks; that its cuts into
 * bfloat16s lose nothing; numbers at the ends of the range. */
#include <float.h>
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

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

enum { BLOCK = 32, MAX_K = 7200, MAX_ROWS = 1100 };
static const weir_dev_limits limits = {.max_tokens = MAX_ROWS, .max_cols = MAX_K};
static kern_devs devs;

/* ---- the emulation ---- */

static float from_bits(uint32_t u) {
  float v;
  memcpy(&v, &u, sizeof v);
  return v;
}
static uint32_t bits_of(float v) {
  uint32_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}

/* Denormals count as zero. */
static float flush(float v) { return fabsf(v) < FLT_MIN ? copysignf(0.0f, v) : v; }

/* The nearest bfloat16, ties away from zero; the largest by truncation. */
static float to_bf16(float v) {
  const uint32_t u = bits_of(v);
  const float near = from_bits((u + 0x8000) & 0xffff0000u);
  return isfinite(v) && isfinite(near) ? near : from_bits(u & 0xffff0000u);
}

/* part[n] <- bfloat16s that add up to v. */
static void cut(float v, int n, float *part) {
  for (int i = 0; i < n; i++) {
    part[i] = to_bf16(v);
    v -= part[i];
  }
}

/* acc + the products of parts over a block of n. */
static float add_block(float acc, const float (*w)[2], int w_part, const float (*x)[3], int x_part, int n) {
  float sum[2] = {0, 0};
  for (int k = 0; k < n; k++) sum[k % 2] = flush(fmaf(flush(w[k][w_part]), flush(x[k][x_part]), sum[k % 2]));
  return flush(acc + flush(sum[0] + sum[1]));
}

static float emulate(weir_dtype t, const float *w, const float *x, int32_t k) {
  float acc = 0;
  for (int32_t b = 0; b < k; b += BLOCK) {
    const int n = k - b < BLOCK ? k - b : BLOCK;
    float wp[BLOCK][2], xp[BLOCK][3];
    for (int i = 0; i < n; i++) {
      cut(w[b + i], 2, wp[i]);
      cut(x[b + i], 3, xp[i]);
    }
    static const int f16[][2] = {{1, 0}, {1, 1}, {0, 1}, {0, 2}, {0, 0}},
                     bf16[][2] = {{0, 2}, {0, 1}, {0, 0}};
    if (t == WEIR_F16)
      for (int i = 0; i < COUNT(f16); i++) acc = add_block(acc, wp, f16[i][0], xp, f16[i][1], n);
    else
      for (int i = 0; i < COUNT(bf16); i++) acc = add_block(acc, wp, bf16[i][0], xp, bf16[i][1], n);
  }
  return acc;
}

/* ---- running ---- */

static bool on_amx(int i) { return devs.isa[i] == WEIR_ISA_AMX; }

static float *run_linear(weir_dev *dev, const weir_host_mat *mat, const float *x, int32_t m,
                         const float *bias) {
  weir_err e = {0};
  weir_weight w;
  kern_ok(weir_weight_prepare(dev, mat, 1, &w, &e), &e, "prepare");
  const weir_mat dx = kern_mat(dev, m, mat->cols, 5), dy = kern_mat(dev, m, mat->rows, 3);
  float *dbias = bias ? kern_copy(dev, bias, sizeof *bias * (size_t)mat->rows) : NULL;
  kern_put(dev, dx, x);
  kern_ok(weir_op_linear(dev, dy, dx, &w, dbias, &e), &e, "linear");
  float *y = kern_get(dev, dy);
  kern_mat_free(dev, dx);
  kern_mat_free(dev, dy);
  if (dbias) weir_dev_release(dev, dbias);
  weir_weight_release(&w);
  return y;
}

/* A stored matrix and what it means, both owned. */
typedef struct stored {
  weir_host_mat mat;
  float *w;
} stored;

static stored make_stored(kern_rng *r, weir_dtype t, int32_t rows, int32_t cols) {
  weir_err e = {0};
  const size_t n = (size_t)rows * (size_t)cols;
  uint16_t *data = malloc(n * sizeof *data);
  float *w = kern_normals(r, n, 0.5f);
  assert_non_null(data);
  for (size_t i = 0; i < n; i++) /* small ones too: denormal halves among them */
    w[i] *= kern_below(r, 4) == 0 ? 1e-5f : 1.0f;
  for (int32_t i = 0; i < rows; i++) {
    float *row = w + (size_t)i * (size_t)cols;
    kern_ok(weir_quantize_row(t, row, data + (size_t)i * (size_t)cols, cols, &e), &e, "quantize");
    kern_ok(weir_dequantize_row(t, data + (size_t)i * (size_t)cols, row, cols, &e), &e, "dequantize");
  }
  return (stored){{data, t, rows, cols}, w};
}

static void free_stored(stored *s) {
  free((void *)(uintptr_t)s->mat.data);
  free(s->w);
}

/* Rows of several magnitudes: with the smallest, parts and products are denormal. */
static float *make_x(kern_rng *r, int32_t m, int32_t k) {
  static const float scale[] = {1.5f, 1e-37f, 3e4f, 1e-30f, 1.0f};
  float *x = kern_normals(r, (size_t)m * (size_t)k, 1.0f);
  for (int32_t i = 0; i < m; i++)
    for (int32_t c = 0; c < k; c++) x[(size_t)i * (size_t)k + (size_t)c] *= scale[i % COUNT(scale)];
  return x;
}

/* ---- to the bit ---- */

static const struct shape {
  int32_t m, n, k;
  int32_t every; /* so many rows apart are emulated, and the last */
  bool bias;
} shapes[] = {
    {1, 1, 1, 1, false},        {1, 16, 2, 1, true},      {2, 17, 31, 1, false},
    {3, 33, 32, 1, true},       {5, 48, 33, 1, false},    {8, 31, 64, 1, false},
    {9, 16, 95, 1, false},      {15, 40, 96, 1, true},    {16, 80, 160, 1, false},
    {17, 50, 100, 1, false},    {31, 35, 65, 1, true},    {32, 64, 128, 1, false},
    {33, 17, 64, 1, false},     {47, 49, 33, 1, true},    {48, 32, 96, 1, false},
    {64, 64, 64, 1, false},     {65, 100, 128, 1, false}, {129, 16, 40, 1, true},
    {40, 40, 1025, 7, false},   {70, 33, 2100, 23, true}, {200, 64, 1100, 33, true},
    {200, 64, 1100, 33, false}, {1, 33, 7200, 1, false},  {32, 20, 7200, 31, true}, /* one pass, in parts */
    {1100, 33, 36, 61, false},                                                      /* chunks */
};

static void bits_are_the_emulations(void **state) {
  (void)state;
  static const weir_dtype types[] = {WEIR_F16, WEIR_BF16};
  kern_rng r = {21};
  for (int c = 0; c < COUNT(shapes); c++) {
    for (int ty = 0; ty < COUNT(types); ty++) {
      const struct shape *s = &shapes[c];
      stored w = make_stored(&r, types[ty], s->n, s->k);
      float *x = make_x(&r, s->m, s->k), *bias = kern_normals(&r, (size_t)s->n, 1.0f);
      float *first = NULL;
      for (int i = 0; i < devs.n; i++) {
        if (!on_amx(i)) continue;
        float *y = run_linear(devs.dev[i], &w.mat, x, s->m, s->bias ? bias : NULL);
        if (first) {
          kern_same(y, first, sizeof *y * (size_t)s->m * (size_t)s->n, "other number of threads");
          free(y);
          continue;
        }
        first = y;
        for (int32_t row = 0; row < s->m; row++) {
          if (row % s->every != 0 && row != s->m - 1) continue;
          for (int32_t j = 0; j < s->n; j++) {
            float want =
                emulate(types[ty], w.w + (size_t)j * (size_t)s->k, x + (size_t)row * (size_t)s->k, s->k);
            if (s->bias) want += bias[j];
            const float got = y[(size_t)row * (size_t)s->n + (size_t)j];
            if (bits_of(got) != bits_of(want))
              fail_msg("%s %d x %d x %d, row %d, column %d: %.9g (%08x), want %.9g (%08x)",
                       weir_dtype_get(types[ty])->name, s->m, s->n, s->k, row, j, (double)got, bits_of(got),
                       (double)want, bits_of(want));
          }
        }
      }
      free(first);
      free(x);
      free(bias);
      free_stored(&w);
    }
  }
}

/* ---- nothing is lost ---- */

/* All 65536 weights, each by one and the rest of its row by zero, must come out as they are: w0 + w1. Then
 * each by a number of 24 bits, which shows the products of all parts. */
static void every_half_is_whole(void **state) {
  (void)state;
  enum { N = 1024, K = 64 };
  static const weir_dtype types[] = {WEIR_F16, WEIR_BF16};
  static const float factor[] = {1.0f, 0x1.fffffep+3f, -0x1.010101p-9f};
  static uint16_t all[N * K];
  static float x[K * K];
  for (int i = 0; i < N * K; i++) all[i] = (uint16_t)i;
  for (int ty = 0; ty < COUNT(types); ty++) {
    for (int f = 0; f < COUNT(factor); f++) {
      for (int k = 0; k < K; k++) x[k * K + k] = factor[f];
      const weir_host_mat mat = {all, types[ty], N, K};
      double worst = 0;
      int finite = 0;
      for (int i = 0; i < devs.n; i++) {
        if (!on_amx(i)) continue;
        float *y = run_linear(devs.dev[i], &mat, x, K, NULL);
        for (int h = 0; h < N * K; h++) {
          const float w =
              types[ty] == WEIR_F16 ? weir_f16_to_f32((uint16_t)h) : weir_bf16_to_f32((uint16_t)h);
          const float got = y[h % K * N + h / K];
          if (types[ty] == WEIR_F16 && isfinite(w)) { /* parts are normal numbers, or zero */
            float part[2];
            cut(w, 2, part);
            assert_true(part[0] + part[1] == w);
            assert_true(flush(part[0]) == part[0] && flush(part[1]) == part[1]);
          }
          const double want = (double)flush(w) * (double)factor[f];
          if (!isfinite((float)want)) {
            if (isfinite(got)) fail_msg("weight %04x became %g", h, (double)got);
            continue;
          }
          if (fabs(want) > 0x1p128 * (1 - 0x1p-8)) continue;
          finite++;
          if (fabs(want) < 0x1p-100) { /* the lower parts of the factor go below what is kept */
            assert_true(fabs((double)got - want) <= 0x1p-120);
            continue;
          }
          worst = fmax(worst, fabs((double)got - want) / fabs(want));
        }
        free(y);
      }
      if (worst > (factor[f] == 1.0f ? 0.0 : 0x1.04p-23))
        fail_msg("%s by %g: error %g", weir_dtype_get(types[ty])->name, (double)factor[f], worst);
      print_message("%s by %g: %d finite, worst error of a product %.3g\n", weir_dtype_get(types[ty])->name,
                    (double)factor[f], finite, worst);
    }
  }
}

/* x by the identity must come out to the bit: x0 + x1 + x2. */
static void every_x_is_whole(void **state) {
  (void)state;
  enum { K = 48, M = 1000 };
  static uint16_t one[K * K];
  for (int k = 0; k < K; k++) one[k * K + k] = 0x3f80;
  const weir_host_mat mat = {one, WEIR_BF16, K, K};
  kern_rng r = {22};
  float *x = malloc(sizeof *x * M * K);
  assert_non_null(x);
  static const float some[] = {FLT_MAX, -FLT_MAX, 0x1.fffffep+126f, 0x1.ff8p+127f, 0x1.feffffp+127f, 0x1p-80f,
                               1.0f,    0.0f};
  for (int i = 0; i < M * K; i++) {
    do {
      x[i] = from_bits((uint32_t)kern_u64(&r));
    } while (!isfinite(x[i]) || (x[i] != 0 && fabsf(x[i]) < 0x1p-100f));
    if (i < 64) x[i] = some[i % COUNT(some)];
  }
  for (int i = 0; i < devs.n; i++) {
    if (!on_amx(i)) continue;
    float *y = run_linear(devs.dev[i], &mat, x, M, NULL);
    for (int n = 0; n < M * K; n++)
      if (y[n] != x[n]) fail_msg("%.9g (%08x) became %.9g", (double)x[n], bits_of(x[n]), (double)y[n]);
    free(y);
  }
  free(x);
}

/* An infinity or a NaN of any bits, in x or W, makes its own row or column NaN or infinite, and no other. */
static void damage_shows_where_it_is(void **state) {
  (void)state;
  enum { M = 40, N = 40, K = 70, ROW = 21, COL = 18 };
  static const weir_dtype types[] = {WEIR_F16, WEIR_BF16};
  static const uint32_t bad_x[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
                                   0x7fffffff, 0xffffffff, 0xff80ffff};
  static const uint16_t bad_w[][7] = {{0x7c00, 0xfc00, 0x7e00, 0x7c01, 0x7fff, 0xffff, 0xfc01},
                                      {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0x7fff, 0xffff, 0xff81}};
  kern_rng r = {23};
  for (int ty = 0; ty < COUNT(types); ty++) {
    for (int c = 0; c < COUNT(bad_x); c++) {
      stored s = make_stored(&r, types[ty], N, K);
      float *x = kern_normals(&r, M * K, 1.0f);
      for (int i = 0; i < devs.n; i++) {
        if (!on_amx(i)) continue;
        float *good = run_linear(devs.dev[i], &s.mat, x, M, NULL);
        uint16_t *at = (uint16_t *)(uintptr_t)s.mat.data + COL * K + 5 * c;
        const uint16_t kept = *at;
        const float kept_x = x[ROW * K + 9 * c];
        *at = bad_w[ty][c];
        memcpy(&x[ROW * K + 9 * c], &bad_x[c], 4);
        float *y = run_linear(devs.dev[i], &s.mat, x, M, NULL);
        for (int n = 0; n < M * N; n++) {
          const bool bad = n / N == ROW || n % N == COL;
          if (bad == isfinite(y[n]) || (!bad && y[n] != good[n]))
            fail_msg("%s, %08x and %04x: row %d, column %d is %g", weir_dtype_get(types[ty])->name, bad_x[c],
                     bad_w[ty][c], n / N, n % N, (double)y[n]);
        }
        *at = kept;
        x[ROW * K + 9 * c] = kept_x;
        free(y);
        free(good);
      }
      free(x);
      free_stored(&s);
    }
  }
}

static int open_all(void **state) {
  (void)state;
  kern_devs_open(&devs, &limits);
  return 0;
}

static int close_all(void **state) {
  (void)state;
  kern_devs_close(&devs);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bits_are_the_emulations),
      cmocka_unit_test(every_half_is_whole),
      cmocka_unit_test(every_x_is_whole),
      cmocka_unit_test(damage_shows_where_it_is),
  };
  const weir_cpu_opts o = {.n_threads = 1, .isa = WEIR_ISA_AMX, .no_pin = true};
  weir_err e = {0};
  weir_dev *dev;
  if (weir_dev_open_cpu(&o, &dev, &e) != WEIR_OK) {
    printf("SKIP: %s\n", e.msg);
    return 77;
  }
  weir_dev_destroy(dev);
  return cmocka_run_group_tests(tests, open_all, close_all);
}
