/* SPDX-License-Identifier: Apache-2.0 */
/* The noise of draws against golden vectors of an independent Philox4x32-10
 * (tests/vectors/make_noise_goldens.py, itself held against the published known answers), and the properties
 * that draws rely on. One thread. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "kernels/noise.h"

#define GOLDEN "tests/vectors/noise/noise.txt"

static void noise_is_the_golden_one(void **state) {
  (void)state;
  FILE *f = fopen(GOLDEN, "r");
  if (f == NULL) fail_msg("cannot open %s (run from the source root)", GOLDEN);
  uint64_t seed;
  int32_t pos;
  uint32_t purpose, quad, want[4];
  int n = 0, read;
  while ((read = fscanf(f,
                        "%" SCNx64 " %" SCNd32 " %" SCNu32 " %" SCNu32 " %" SCNx32 " %" SCNx32 " %" SCNx32
                        " %" SCNx32,
                        &seed, &pos, &purpose, &quad, &want[0], &want[1], &want[2], &want[3])) == 8) {
    const weir_noise4 got = weir_noise_quad(seed, pos, purpose, quad);
    for (int i = 0; i < 4; i++)
      if (got.v[i] != want[i])
        fail_msg("seed %016" PRIx64 " pos %" PRId32 " purpose %" PRIu32 " quad %" PRIu32
                 " word %d: got %08" PRIx32 ", want %08" PRIx32,
                 seed, pos, purpose, quad, i, got.v[i], want[i]);
    n++;
  }
  fclose(f);
  assert_int_equal(read, EOF); /* and not a line of another form */
  assert_int_equal(n, 7 * 5 * 4 * 4);
}

static int bits_that_differ(weir_noise4 a, weir_noise4 b) {
  int n = 0;
  for (int i = 0; i < 4; i++) n += __builtin_popcount(a.v[i] ^ b.v[i]);
  return n;
}

/* Each bit of the key must move about half of the 128 bits: 64 with standard deviation 5.7. The bounds are
 * 6 deviations, which 160 flips of a good generator do not leave. */
static void every_bit_of_the_key_counts(void **state) {
  (void)state;
  const uint64_t seed = 0x9e3779b97f4a7c15u;
  const int32_t pos = 123;
  const uint32_t purpose = WEIR_NOISE_DRAW, quad = 77;
  const weir_noise4 base = weir_noise_quad(seed, pos, purpose, quad);
  for (int b = 0; b < 64 + 32 + 32 + 32; b++) {
    const uint32_t one = (uint32_t)1 << (b % 32);
    const weir_noise4 other = weir_noise_quad(
        b < 64 ? seed ^ (uint64_t)1 << b : seed, b >= 64 && b < 96 ? (int32_t)((uint32_t)pos ^ one) : pos,
        b >= 96 && b < 128 ? purpose ^ one : purpose, b >= 128 ? quad ^ one : quad);
    const int n = bits_that_differ(base, other);
    if (n < 30 || n > 98) fail_msg("flipping bit %d of seed|pos|purpose|quad moves %d bits of 128", b, n);
  }
  assert_int_not_equal(WEIR_NOISE_DRAW, WEIR_NOISE_AGAIN);
}

static void units_lie_strictly_inside_and_races_are_finite(void **state) {
  (void)state;
  assert_true(weir_noise_unit(0) == 0x1p-33);
  assert_true(weir_noise_unit(UINT32_MAX) == 1 - 0x1p-33);
  const uint32_t bits[] = {0, 1, UINT32_MAX / 2, UINT32_MAX - 1, UINT32_MAX};
  double last = 0;
  for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
    const double at = -log1p(-weir_noise_unit(bits[i]));
    if (!(at > last) || !isfinite(at)) fail_msg("arrival of %08" PRIx32 " is %g after %g", bits[i], at, last);
    last = at;
  }
}

/* 2^18 units over consecutive quads of one position, as a vocabulary draws them, and over consecutive
 * positions of one token, as a text does. Chi-squared of the top byte has 255 degrees of freedom:
 * deviation 22.6. The seed is fixed, so this passes always or never. */
static void units_are_uniform_along(bool along_pos) {
  int count[256] = {0};
  double sum = 0, product = 0, before = 0.5;
  const int n_quads = 1 << 16, n = 4 * n_quads;
  for (int q = 0; q < n_quads; q++) {
    const weir_noise4 v = along_pos ? weir_noise_quad(7, q, WEIR_NOISE_DRAW, 5)
                                    : weir_noise_quad(7, 5, WEIR_NOISE_DRAW, (uint32_t)q);
    for (int i = 0; i < 4; i++) {
      const double u = weir_noise_unit(v.v[i]);
      count[v.v[i] >> 24]++;
      sum += u;
      product += (u - 0.5) * (before - 0.5);
      before = u;
    }
  }
  double chi2 = 0;
  const double each = n / 256.0;
  for (int b = 0; b < 256; b++) chi2 += (count[b] - each) * (count[b] - each) / each;
  if (fabs(chi2 - 255) > 5 * 22.6) fail_msg("chi-squared %g, expected 255", chi2);
  const double mean_off = sum / n - 0.5, mean_dev = sqrt(1 / 12.0 / n);
  if (fabs(mean_off) > 5 * mean_dev) fail_msg("mean off by %g, deviation %g", mean_off, mean_dev);
  const double corr_off = product / n, corr_dev = 1 / 12.0 / sqrt(n);
  if (fabs(corr_off) > 5 * corr_dev) fail_msg("neighbours correlate: %g, deviation %g", corr_off, corr_dev);
}
static void units_are_uniform_along_the_vocabulary(void **state) {
  (void)state;
  units_are_uniform_along(false);
}
static void units_are_uniform_along_a_text(void **state) {
  (void)state;
  units_are_uniform_along(true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(noise_is_the_golden_one),
      cmocka_unit_test(every_bit_of_the_key_counts),
      cmocka_unit_test(units_lie_strictly_inside_and_races_are_finite),
      cmocka_unit_test(units_are_uniform_along_the_vocabulary),
      cmocka_unit_test(units_are_uniform_along_a_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
