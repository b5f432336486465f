/* SPDX-License-Identifier: Apache-2.0 */
/* Element types and the conversion of rows: all halves, published roundings, bad input. */
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
#include "kernels/blocks.h"
#include "kernels/quant.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static float float_of(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static void every_half_survives(void **state) {
  (void)state;
  for (uint32_t h = 0; h <= 0xffff; h++) {
    const float f = weir_f16_to_f32((uint16_t)h);
    const uint32_t exp = h >> 10 & 31, man = h & 0x3ff;
    if (exp == 31 && man) {
      assert_true(isnan(f));
      assert_true(isnan(weir_f16_to_f32(weir_f32_to_f16(f))));
      continue;
    }
    /* Independent of the code under test: sign * mantissa * 2^exponent. */
    double want = exp == 31 ? INFINITY : exp ? ldexp(1024.0 + man, (int)exp - 25) : ldexp(man, -24);
    if (h & 0x8000) want = -want;
    if ((double)f != want || !signbit(f) != !signbit(want))
      fail_msg("half %04x: %g, want %g", h, (double)f, want);
    if (weir_f32_to_f16(f) != h) fail_msg("half %04x comes back as %04x", h, weir_f32_to_f16(f));
  }
}

/* The nearest half by search among the two neighbours, ties to even. */
static void halves_round_to_nearest_even(void **state) {
  (void)state;
  kern_rng r = {1};
  for (int i = 0; i < 300000; i++) {
    const uint32_t h = (uint32_t)kern_below(&r, 0x7bff); /* positive, below the largest finite */
    const double lo = (double)weir_f16_to_f32((uint16_t)h), hi = (double)weir_f16_to_f32((uint16_t)(h + 1));
    const int what = kern_below(&r, 4);
    const double at = what == 0 ? 0.5 : what == 1 ? 0.5 + 1e-4 : what == 2 ? 0.5 - 1e-4 : kern_unit(&r);
    const float x = (float)(lo + at * (hi - lo));
    const double below = (double)x - lo, above = hi - (double)x;
    const uint32_t want = below < above ? h : below > above ? h + 1 : h + (h & 1);
    if (weir_f32_to_f16(x) != want)
      fail_msg("%a becomes %04x, want %04x", (double)x, weir_f32_to_f16(x), want);
    if (weir_f32_to_f16(-x) != (want | 0x8000)) fail_msg("%a becomes %04x", (double)-x, weir_f32_to_f16(-x));
  }
}

static void halves_at_the_ends(void **state) {
  (void)state;
  static const struct {
    float x;
    uint16_t h;
  } cases[] = {{0.0f, 0},          {-0.0f, 0x8000},       {65504.0f, 0x7bff},    {65519.996f, 0x7bff},
               {65520.0f, 0x7c00}, {-1e30f, 0xfc00},      {INFINITY, 0x7c00},    {-INFINITY, 0xfc00},
               {0x1p-24f, 1},      {0x1p-25f, 0},         {0x1.000002p-25f, 1},  {0x1p-14f, 0x400},
               {0x1p-149f, 0},     {0x1.ff8p-15f, 0x3ff}, {0x1.ffcp-15f, 0x400}, {1.0f, 0x3c00}};
  for (int i = 0; i < COUNT(cases); i++) assert_int_equal(weir_f32_to_f16(cases[i].x), cases[i].h);
  assert_true(
      isnan(weir_f16_to_f32(weir_f32_to_f16(float_of(0x7f800001u))))); /* its payload lies below a half's */
}

static void bfloats(void **state) {
  (void)state;
  for (uint32_t b = 0; b <= 0xffff; b++) {
    const float f = weir_bf16_to_f32((uint16_t)b);
    assert_int_equal(bits_of(f), b << 16);
    if (isnan(f))
      assert_true(isnan(weir_bf16_to_f32(weir_f32_to_bf16(f))));
    else
      assert_int_equal(weir_f32_to_bf16(f), b);
  }
  static const struct {
    uint32_t f;
    uint16_t b;
  } cases[] = {{0x3f808000u, 0x3f80}, {0x3f818000u, 0x3f82}, {0x3f808001u, 0x3f81}, {0x3f807fffu, 0x3f80},
               {0x7f7fffffu, 0x7f80}, {0xff7fffffu, 0xff80}, {0x00008000u, 0x0000}, {0x00018000u, 0x0002}};
  for (int i = 0; i < COUNT(cases); i++) assert_int_equal(weir_f32_to_bf16(float_of(cases[i].f)), cases[i].b);
  assert_true(isnan(weir_bf16_to_f32(weir_f32_to_bf16(float_of(0x7f800001u)))));
}

static void q8_0_by_its_rule(void **state) {
  (void)state;
  kern_rng r = {2};
  for (int round = 0; round < 2000; round++) {
    float x[WEIR_QK], y[WEIR_QK];
    weir_block_q8_0 b;
    weir_err e = {0};
    float most = 0;
    for (int i = 0; i < WEIR_QK; i++) {
      x[i] = kern_normal(&r);
      most = fmaxf(most, fabsf(x[i]));
    }
    kern_ok(weir_quantize_row(WEIR_Q8_0, x, &b, WEIR_QK, &e), &e, "quantize");
    kern_ok(weir_dequantize_row(WEIR_Q8_0, &b, y, WEIR_QK, &e), &e, "dequantize");
    const float d = most / 127.0f;
    assert_int_equal(b.d, weir_f32_to_f16(d));
    for (int i = 0; i < WEIR_QK; i++) {
      assert_int_equal(b.q[i], (int)roundf(x[i] * (1.0f / d)));
      assert_true(y[i] == weir_f16_to_f32(b.d) * (float)b.q[i]);
    }
  }
}

/* Worked by hand: x_m = -4 gives d = 0.5; halves round up, and what would be 16 is held at 15. */
static void q4_0_by_its_rule(void **state) {
  (void)state;
  static const struct {
    float x;
    int nibble;
  } cases[] = {{-4.0f, 0},  {4.0f, 15},  {0.0f, 8},  {0.25f, 9}, {0.24f, 8},
               {-0.25f, 8}, {-0.26f, 7}, {3.5f, 15}, {3.2f, 14}, {-3.9f, 0}};
  float x[WEIR_QK] = {0}, y[WEIR_QK];
  weir_block_q4_0 b;
  weir_err e = {0};
  for (int i = 0; i < COUNT(cases); i++) x[i] = x[WEIR_QK - 1 - i] = cases[i].x;
  kern_ok(weir_quantize_row(WEIR_Q4_0, x, &b, WEIR_QK, &e), &e, "quantize");
  kern_ok(weir_dequantize_row(WEIR_Q4_0, &b, y, WEIR_QK, &e), &e, "dequantize");
  assert_int_equal(b.d, weir_f32_to_f16(0.5f));
  for (int i = 0; i < COUNT(cases); i++) {
    assert_int_equal(b.q[i] & 15, cases[i].nibble);
    assert_int_equal(b.q[WEIR_QK / 2 - 1 - i] >> 4, cases[i].nibble);
    assert_true(y[i] == 0.5f * (float)(cases[i].nibble - 8));
    assert_true(y[WEIR_QK - 1 - i] == 0.5f * (float)(cases[i].nibble - 8));
  }
  for (int i = 0; i < WEIR_QK; i++) x[i] = -x[i]; /* of +4 and -4 the first decides the sign of the scale */
  kern_ok(weir_quantize_row(WEIR_Q4_0, x, &b, WEIR_QK, &e), &e, "quantize");
  assert_int_equal(b.d, weir_f32_to_f16(-0.5f));
}

/* Worked by hand: x_m = -4 gives d = 0.25; the fifth bit is set from zero upwards. */
static void q5_0_by_its_rule(void **state) {
  (void)state;
  static const struct {
    float x;
    int bits;
  } cases[] = {{-4.0f, 0},    {4.0f, 31},   {0.0f, 16}, {0.125f, 17}, {0.12f, 16},
               {-0.125f, 16}, {-0.13f, 15}, {3.7f, 31}, {3.6f, 30},   {-3.9f, 0}};
  float x[WEIR_QK] = {0}, y[WEIR_QK];
  weir_block_q5_0 b;
  weir_err e = {0};
  for (int i = 0; i < COUNT(cases); i++) x[i] = x[WEIR_QK - 1 - i] = cases[i].x;
  kern_ok(weir_quantize_row(WEIR_Q5_0, x, &b, WEIR_QK, &e), &e, "quantize");
  kern_ok(weir_dequantize_row(WEIR_Q5_0, &b, y, WEIR_QK, &e), &e, "dequantize");
  assert_int_equal(b.d, weir_f32_to_f16(0.25f));
  for (int i = 0; i < COUNT(cases); i++) {
    const int last = WEIR_QK - 1 - i, bits = cases[i].bits;
    assert_int_equal(b.q[i] & 15, bits & 15);
    assert_int_equal(b.q[last - WEIR_QK / 2] >> 4, bits & 15);
    assert_int_equal(b.high[i / 8] >> i % 8 & 1, bits >> 4);
    assert_int_equal(b.high[last / 8] >> last % 8 & 1, bits >> 4);
    assert_true(y[i] == 0.25f * (float)(bits - 16) && y[last] == y[i]);
  }
}

static void rows_come_back_within_half_a_step(void **state) {
  (void)state;
  enum { N = 256 };
  /* Error over the block's largest magnitude: half a step, plus the rounding of the scale to a half; Q4_0
   * loses a whole step at the end that it cannot hold. */
  static const struct {
    weir_dtype t;
    double bound;
  } cases[] = {{WEIR_F32, 0},
               {WEIR_F16, 0x1p-11},
               {WEIR_BF16, 0x1p-8},
               {WEIR_Q8_0, 0.5 / 127 + 0x1p-10},
               {WEIR_Q4_0, 1.0 / 8 + 0x1p-10},
               {WEIR_Q5_0, 1.0 / 16 + 0x1p-10}};
  kern_rng r = {3};
  for (int c = 0; c < COUNT(cases); c++) {
    for (int round = 0; round < 200; round++) {
      weir_err e = {0};
      uint8_t stored[1 + N * 4 + 1];
      float *x = kern_normals(&r, N, ldexpf(1.0f, kern_below(&r, 12) - 6)), y[N];
      size_t bytes;
      kern_ok(weir_dtype_row_bytes(cases[c].t, N, &bytes, &e), &e, "bytes");
      stored[bytes + 1] = 0xa5;
      kern_ok(weir_quantize_row(cases[c].t, x, stored + 1, N, &e), &e, "quantize"); /* at an odd address */
      if (stored[bytes + 1] != 0xa5) fail_msg("%s: wrote past the row", weir_dtype_get(cases[c].t)->name);
      kern_ok(weir_dequantize_row(cases[c].t, stored + 1, y, N, &e), &e, "dequantize");
      for (int b = 0; b < N; b += WEIR_QK) {
        double most = 0, worst = 0;
        for (int i = b; i < b + WEIR_QK; i++) {
          most = fmax(most, fabs((double)x[i]));
          worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
        }
        if (!(worst <= cases[c].bound * most))
          fail_msg("%s: error %g of %g", weir_dtype_get(cases[c].t)->name, worst, most);
      }
      free(x);
    }
  }
}

static void tiny_and_zero_blocks(void **state) {
  (void)state;
  static const float values[] = {0.0f, 1e-38f, 0x1p-149f, -1e-41f, 1e-12f, 2e-8f};
  for (int v = 0; v < COUNT(values); v++) {
    for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
      if (!weir_dtype_is_quant((weir_dtype)t)) continue;
      float x[WEIR_QK_K], y[WEIR_QK_K];
      uint8_t b[WEIR_QK_K * 2];
      weir_err e = {0};
      for (int i = 0; i < WEIR_QK_K; i++) x[i] = i % 3 ? values[v] : -values[v];
      kern_ok(weir_quantize_row((weir_dtype)t, x, b, WEIR_QK_K, &e), &e, "quantize");
      kern_ok(weir_dequantize_row((weir_dtype)t, b, y, WEIR_QK_K, &e), &e, "dequantize");
      for (int i = 0; i < WEIR_QK_K; i++) assert_true(fabsf(y[i]) <= 1e-7f);
    }
  }
}

static void bad_rows_are_refused(void **state) {
  (void)state;
  static const float bad[] = {NAN, INFINITY, -INFINITY, 1e9f, -1e9f};
  for (int v = 0; v < COUNT(bad); v++) {
    for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
      if (!weir_dtype_is_quant((weir_dtype)t)) continue;
      const int n = weir_dtype_get((weir_dtype)t)->block_elems;
      float x[2 * WEIR_QK_K] = {0};
      uint8_t b[WEIR_QK_K * 4];
      char where[64];
      weir_err e = {0};
      x[n + 8] = bad[v];
      assert_int_equal(weir_quantize_row((weir_dtype)t, x, b, 2 * n, &e), WEIR_EINVAL);
      snprintf(where, sizeof where, "%s: elements %d to %d ", weir_dtype_get((weir_dtype)t)->name, n,
               2 * n - 1);
      if (!strstr(e.msg, where)) fail_msg("%s lacks %s", e.msg, where);
    }
  }
}

static void row_sizes(void **state) {
  (void)state;
  static const struct {
    int t;
    int64_t cols;
    weir_status st;
    size_t bytes;
  } cases[] = {{WEIR_F32, 7, WEIR_OK, 28},
               {WEIR_F16, 7, WEIR_OK, 14},
               {WEIR_BF16, 1, WEIR_OK, 2},
               {WEIR_Q8_0, 96, WEIR_OK, 102},
               {WEIR_Q4_0, 96, WEIR_OK, 54},
               {WEIR_Q5_0, 96, WEIR_OK, 66},
               {WEIR_Q4_K, 512, WEIR_OK, 288},
               {WEIR_Q5_K, 512, WEIR_OK, 352},
               {WEIR_Q6_K, 512, WEIR_OK, 420},
               {WEIR_Q4_K, 128, WEIR_EINVAL, 0},
               {WEIR_Q6_K, 32, WEIR_EINVAL, 0},
               {WEIR_Q8_0, 33, WEIR_EINVAL, 0},
               {WEIR_Q4_0, 16, WEIR_EINVAL, 0},
               {WEIR_F32, 0, WEIR_EINVAL, 0},
               {WEIR_F32, -32, WEIR_EINVAL, 0},
               {WEIR_F32, INT64_MAX, WEIR_EINVAL, 0},
               {WEIR_DTYPE_COUNT, 32, WEIR_EUNSUP, 0},
               {-1, 32, WEIR_EUNSUP, 0}};
  for (int i = 0; i < COUNT(cases); i++) {
    weir_err e = {0};
    size_t bytes = 0;
    assert_int_equal(weir_dtype_row_bytes((weir_dtype)cases[i].t, cases[i].cols, &bytes, &e), cases[i].st);
    assert_int_equal(bytes, cases[i].bytes);
  }
  assert_null(weir_dtype_get(WEIR_DTYPE_COUNT));
  assert_null(weir_dtype_get((weir_dtype)-1));
  assert_string_equal(weir_dtype_get(WEIR_Q4_0)->name, "Q4_0");
  assert_string_equal(weir_dtype_names(), "F32 F16 BF16 Q8_0 Q4_0 Q5_0 Q4_K Q5_K Q6_K");
  assert_false(weir_dtype_is_quant(WEIR_BF16));
  assert_true(weir_dtype_is_quant(WEIR_Q6_K));
  assert_false(weir_dtype_is_quant(WEIR_DTYPE_COUNT));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_half_survives),
      cmocka_unit_test(halves_round_to_nearest_even),
      cmocka_unit_test(halves_at_the_ends),
      cmocka_unit_test(bfloats),
      cmocka_unit_test(q8_0_by_its_rule),
      cmocka_unit_test(q4_0_by_its_rule),
      cmocka_unit_test(q5_0_by_its_rule),
      cmocka_unit_test(rows_come_back_within_half_a_step),
      cmocka_unit_test(tiny_and_zero_blocks),
      cmocka_unit_test(bad_rows_are_refused),
      cmocka_unit_test(row_sizes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
