/* SPDX-License-Identifier: Apache-2.0 */
/* RoPE frequencies: what transformers computes for the scalings of published models (tests/vectors/rope.txt),
 * and a row for each description that makes no sense. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/rope.h"

/* ---- goldens ---- */

static double number(char **at) {
  char *end;
  const double v = strtod(*at, &end);
  if (end == *at) fail_msg("a number is missing before \"%.20s\"", *at);
  *at = end;
  return v;
}

static weir_rope_kind kind_of(const char *name) {
  static const char *const names[] = {
      [WEIR_ROPE_PLAIN] = "plain", [WEIR_ROPE_LINEAR] = "linear",   [WEIR_ROPE_LLAMA3] = "llama3",
      [WEIR_ROPE_YARN] = "yarn",   [WEIR_ROPE_FACTORS] = "factors", [WEIR_ROPE_LONGROPE] = "longrope"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0) return (weir_rope_kind)i;
  fail_msg("unknown kind %s", name);
  return WEIR_ROPE_PLAIN;
}

static void goldens(void **state) {
  (void)state;
  FILE *f = fopen("tests/vectors/rope.txt", "r");
  if (!f) fail_msg("cannot open tests/vectors/rope.txt");
  char *text = NULL;
  size_t cap = 0;
  int32_t lines = 0;
  while (getline(&text, &cap, f) > 0) {
    char name[16];
    int used;
    assert_int_equal(sscanf(text, "%15s%n", name, &used), 1);
    char *at = text + used;
    weir_rope r = {.kind = kind_of(name)};
    const int32_t n_ctx = (int32_t)number(&at), dims = (int32_t)number(&at);
    r.theta = (float)number(&at);
    r.factor = (float)number(&at);
    r.original_ctx = (int32_t)number(&at);
    r.low_freq = (float)number(&at);
    r.high_freq = (float)number(&at);
    r.beta_fast = (float)number(&at);
    r.beta_slow = (float)number(&at);
    const int32_t n = (int32_t)number(&at);
    for (int32_t i = 0; i < n; i++) r.table[i] = (float)number(&at);
    for (int32_t i = 0; i < n; i++) r.long_table[i] = (float)number(&at);
    const double want_mscale = number(&at);
    float got[WEIR_MAX_ROPE_DIMS / 2], mscale;
    weir_err e = {0};
    if (weir_rope_frequencies(&r, dims, n_ctx, got, &mscale, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (!(fabs((double)mscale - want_mscale) <= 1e-6))
      fail_msg("%s: attention factor %.9g, want %.9g", name, (double)mscale, want_mscale);
    for (int32_t i = 0; i < dims / 2; i++) {
      const double want = number(&at), d = fabs((double)got[i] / want - 1);
      if (!(d <= 1e-6)) fail_msg("%s: frequency %d is %.9g, want %.9g", name, i, (double)got[i], want);
    }
    lines++;
  }
  assert_int_equal(lines, 7);
  free(text);
  fclose(f);
}

/* GGUF's factors for Llama 3.1 are the same thing said in other words. */
static void factors_are_llama3(void **state) {
  (void)state;
  weir_rope r = {.kind = WEIR_ROPE_LLAMA3,
                 .theta = 500000.0f,
                 .factor = 8.0f,
                 .original_ctx = 8192,
                 .low_freq = 1.0f,
                 .high_freq = 4.0f};
  weir_rope plain = {.kind = WEIR_ROPE_PLAIN, .theta = 500000.0f}, factors = plain;
  float want[64], base[64], got[64], mscale;
  weir_err e = {0};
  assert_int_equal(weir_rope_frequencies(&r, 128, 131072, want, &mscale, &e), WEIR_OK);
  assert_int_equal(weir_rope_frequencies(&plain, 128, 131072, base, &mscale, &e), WEIR_OK);
  factors.kind = WEIR_ROPE_FACTORS;
  int32_t stretched = 0;
  for (int32_t i = 0; i < 64; i++) {
    factors.table[i] = base[i] / want[i];
    stretched += want[i] < base[i];
  }
  assert_int_equal(weir_rope_frequencies(&factors, 128, 131072, got, &mscale, &e), WEIR_OK);
  assert_true(mscale == 1.0f && stretched > 20 && stretched < 64);
  for (int32_t i = 0; i < 64; i++) assert_true(fabsf(got[i] / want[i] - 1.0f) < 1e-6f);
}

/* A factor said outright wins over the method's formula. */
static void attention_factor(void **state) {
  (void)state;
  weir_rope r = {.kind = WEIR_ROPE_YARN,
                 .theta = 10000.0f,
                 .factor = 4.0f,
                 .original_ctx = 64,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .mscale = 1.5f};
  float freq[8], mscale;
  weir_err e = {0};
  assert_int_equal(weir_rope_frequencies(&r, 16, 256, freq, &mscale, &e), WEIR_OK);
  assert_true(mscale == 1.5f);
  r.mscale = 0;
  r.factor = 1.0f; /* nothing is stretched */
  assert_int_equal(weir_rope_frequencies(&r, 16, 256, freq, &mscale, &e), WEIR_OK);
  assert_true(mscale == 1.0f);
}

/* ---- what makes no sense ---- */

static void refusals(void **state) {
  (void)state;
  const weir_rope plain = {.kind = WEIR_ROPE_PLAIN, .theta = 1e4f},
                  yarn = {.kind = WEIR_ROPE_YARN,
                          .theta = 1e4f,
                          .factor = 4,
                          .original_ctx = 64,
                          .beta_fast = 32,
                          .beta_slow = 1},
                  llama3 = {.kind = WEIR_ROPE_LLAMA3,
                            .theta = 1e4f,
                            .factor = 8,
                            .original_ctx = 64,
                            .low_freq = 1,
                            .high_freq = 4};
  struct {
    weir_rope rope;
    int32_t dims;
    const char *fragment;
  } row[16] = {{plain, 15, "over 15 dimensions"},
               {plain, 0, "over 0 dimensions"},
               {plain, WEIR_MAX_ROPE_DIMS + 2, "over 514 dimensions"}};
  int32_t n = 3;
#define ROW(base, field, value, text) \
  do {                                \
    row[n].rope = base;               \
    row[n].rope.field = value;        \
    row[n].dims = 16;                 \
    row[n++].fragment = text;         \
  } while (0)
  ROW(plain, theta, 0.5f, "theta 0.5 is below 1");
  ROW(plain, theta, NAN, "theta");
  ROW(plain, mscale, -1.0f, "attention factor -1");
  ROW(yarn, factor, 0.0f, "factor 0 is not positive");
  ROW(yarn, factor, INFINITY, "factor inf is not positive");
  ROW(yarn, original_ctx, 0, "without the original context length");
  ROW(yarn, beta_slow, 32.0f, "beta_fast 32, beta_slow 32");
  ROW(llama3, high_freq, 1.0f, "low_freq_factor 1, high_freq_factor 1");
  ROW(llama3, original_ctx, 0, "without the original context length");
  ROW(plain, kind, WEIR_ROPE_FACTORS, "frequency factor 0 is 0");
#undef ROW
  for (int32_t i = 0; i < n; i++) {
    float freq[WEIR_MAX_ROPE_DIMS], mscale;
    weir_err e = {0};
    if (weir_rope_frequencies(&row[i].rope, row[i].dims, 128, freq, &mscale, &e) != WEIR_EINVAL ||
        !strstr(e.msg, row[i].fragment))
      fail_msg("row %d: \"%s\", want \"%s\"", i, e.msg, row[i].fragment);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(goldens),
      cmocka_unit_test(factors_are_llama3),
      cmocka_unit_test(attention_factor),
      cmocka_unit_test(refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
