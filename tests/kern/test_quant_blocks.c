/* SPDX-License-Identifier: Apache-2.0 */
/* Stored blocks of every quantised type against what gguf-py makes of them, to the bit
 * (tests/vectors/make_block_goldens.py); and how close super-blocks come to what they are made from. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/quant.h"

enum { FILE_MAX = 1 << 20 };

typedef struct golden {
  uint8_t *file; /* owned */
  const uint8_t *blocks, *floats;
  uint32_t n_bytes, n_elems;
} golden;

static golden read_golden(const char *type) {
  golden g = {.file = malloc(FILE_MAX)};
  char path[128];
  snprintf(path, sizeof path, "tests/vectors/blocks/%s.wblk", type);
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("%s: cannot be opened", path);
  assert_non_null(g.file);
  const size_t n = fread(g.file, 1, FILE_MAX, f);
  fclose(f);
  uint32_t version;
  assert_true(n > 16 && memcmp(g.file, "WBLK", 4) == 0);
  memcpy(&version, g.file + 4, 4);
  memcpy(&g.n_bytes, g.file + 8, 4);
  memcpy(&g.n_elems, g.file + 12, 4);
  assert_int_equal(version, 1);
  assert_int_equal(n, 16 + (size_t)g.n_bytes + 4 * (size_t)g.n_elems);
  g.blocks = g.file + 16;
  g.floats = g.blocks + g.n_bytes;
  return g;
}

static void blocks_mean_what_the_format_says(void **state) {
  (void)state;
  int types = 0;
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    if (!weir_dtype_is_quant((weir_dtype)t)) continue;
    golden g = read_golden(weir_dtype_get((weir_dtype)t)->name);
    weir_err e = {0};
    size_t bytes;
    kern_ok(weir_dtype_row_bytes((weir_dtype)t, g.n_elems, &bytes, &e), &e, "row bytes");
    assert_int_equal(bytes, g.n_bytes);
    float *got = malloc(4 * (size_t)g.n_elems);
    assert_non_null(got);
    kern_ok(weir_dequantize_row((weir_dtype)t, g.blocks, got, g.n_elems, &e), &e, "dequantize");
    kern_same(got, g.floats, 4 * (size_t)g.n_elems, weir_dtype_get((weir_dtype)t)->name);
    free(got);
    free(g.file);
    types++;
  }
  assert_int_equal(types, 6);
}

/* ---- super-blocks from floats ---- */

enum { N = 256 * 128 };

typedef float (*draw_fn)(kern_rng *r);

static float gaussian(kern_rng *r) { return kern_normal(r); }
static float uniform(kern_rng *r) { return (float)kern_unit(r) * 2 - 1; }
static float positive(kern_rng *r) { return 0.5f + 0.5f * (float)kern_unit(r); }
static float below_zero(kern_rng *r) { return kern_normal(r) * 0.1f - 0.3f; }
/* Two normals' quotient, cut: a few elements rule their block. */
static float heavy(kern_rng *r) {
  const float a = kern_normal(r), b = kern_normal(r);
  return fmaxf(-20, fminf(20, a / b));
}

/* rms of the error over the rms of the elements, at most: half a percent above what the search reaches, so
 * that losing a part of it shows. ggml's reference quantiser without an importance matrix
 * (quantize_row_q4_K_ref and its like) stands 1 to 7 % higher on these distributions. */
static const struct {
  const char *what;
  draw_fn draw;
  double bound[3]; /* Q4_K, Q5_K, Q6_K */
} searched[] = {
    {"gaussian", gaussian, {0.06985, 0.03455, 0.01707}},
    {"uniform", uniform, {0.05388, 0.0266, 0.01297}},
    {"positive", positive, {0.02197, 0.01078, 0.00978}},
    {"below zero", below_zero, {0.02234, 0.01115, 0.01175}},
    {"heavy", heavy, {0.0981, 0.0485, 0.0260}},
};

static void searches_stay_within_their_error(void **state) {
  (void)state;
  static const weir_dtype types[3] = {WEIR_Q4_K, WEIR_Q5_K, WEIR_Q6_K};
  float *x = malloc(sizeof *x * N), *y = malloc(sizeof *y * N);
  uint8_t *stored = malloc(N * 2), *again = malloc(N * 2);
  assert_true(x && y && stored && again);
  for (size_t c = 0; c < sizeof searched / sizeof searched[0]; c++) {
    for (int t = 0; t < 3; t++) {
      kern_rng r = {31 + c};
      weir_err e = {0};
      double miss = 0, all = 0;
      size_t bytes;
      /* Rows of very different sizes. */
      for (int i = 0; i < N; i++) x[i] = searched[c].draw(&r) * ldexpf(1.0f, i / 256 % 16 - 6);
      kern_ok(weir_dtype_row_bytes(types[t], N, &bytes, &e), &e, "row bytes");
      memset(again, 0xa5, bytes);
      kern_ok(weir_quantize_row(types[t], x, stored, N, &e), &e, "quantize");
      kern_ok(weir_quantize_row(types[t], x, again, N, &e), &e, "quantize");
      kern_same(stored, again, bytes, "the same floats");
      kern_ok(weir_dequantize_row(types[t], stored, y, N, &e), &e, "dequantize");
      for (int i = 0; i < N; i++) {
        const double size = ldexp(1.0, i / 256 % 16 - 6), d = ((double)x[i] - (double)y[i]) / size;
        miss += d * d;
        all += (double)x[i] / size * ((double)x[i] / size);
      }
      const double rms = sqrt(miss / all);
      print_message("%s, %s: rms error %.5f, bound %.5f\n", weir_dtype_get(types[t])->name, searched[c].what,
                    rms, searched[c].bound[t]);
      if (!(rms <= searched[c].bound[t])) fail_msg("too much");
    }
  }
  free(x);
  free(y);
  free(stored);
  free(again);
}

/* Blocks that the format holds but for the rounding of its scales: 2^-11 of the value for the one scale that
 * a constant takes. */
static void constants_come_back(void **state) {
  (void)state;
  static const float values[] = {1.0f, -1.0f, 0.37f, -0.0421f, 3e-4f, -1234.5f};
  static const weir_dtype types[3] = {WEIR_Q4_K, WEIR_Q5_K, WEIR_Q6_K};
  /* Half a step of a subnormal half times what multiplies it. */
  static const float subnormal[3] = {0x1p-25f * 63 * 15, 0x1p-25f * 63 * 31, 0x1p-25f * 128 * 32};
  for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
    for (int t = 0; t < 3; t++) {
      float x[256], y[256];
      uint8_t block[256];
      weir_err e = {0};
      for (int i = 0; i < 256; i++) x[i] = i / 32 == 5 ? 0.0f : values[v]; /* and a part of zeros */
      kern_ok(weir_quantize_row(types[t], x, block, 256, &e), &e, "quantize");
      kern_ok(weir_dequantize_row(types[t], block, y, 256, &e), &e, "dequantize");
      for (int i = 0; i < 256; i++) {
        if (fabsf(y[i] - x[i]) > 0x1p-10f * fabsf(x[i]) + subnormal[t])
          fail_msg("%s: element %d of %g is %g", weir_dtype_get(types[t])->name, i, (double)values[v],
                   (double)y[i]);
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_mean_what_the_format_says),
      cmocka_unit_test(searches_stay_within_their_error),
      cmocka_unit_test(constants_come_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
