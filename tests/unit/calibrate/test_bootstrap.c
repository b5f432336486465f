/* SPDX-License-Identifier: Apache-2.0 */
/* The bootstrap beside what is known without it: all resamples of a small sample, counted one by one; the
 * normal law of a large one; and what pairing must do. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
/* after the above */
#include <cmocka.h>

#include "calibrate/bootstrap.h"

static int by_value(const void *p, const void *q) {
  const double a = *(const double *)p, b = *(const double *)q;
  return (a > b) - (a < b);
}

/* The share of all n^n resamples whose statistic is at most `at`, or below it. */
static double share(const double *sorted, int n, double at, bool below) {
  int k = 0;
  while (k < n && (below ? sorted[k] < at - 1e-12 : sorted[k] <= at + 1e-12)) k++;
  return (double)k / n;
}

/* Five requests have 3125 resamples: the ends of the interval must lie where 2.5 and 97.5 % of them are
 * reached, give or take what 20000 draws leave open (three standard errors: 0.0033). */
static void test_every_resample(void **state) {
  (void)state;
  enum { N = 5, ALL = 3125, KINDS = 3 };
  static const double a_num[N] = {3, 1, 4, 1, 5.5}, a_den[N] = {2, 7, 1, 8, 2.5},
                      b_num[N] = {1, 6, 1, 8, 0.5}, b_den[N] = {3, 1, 4, 1, 5};
  const weir_sample sample[2] = {{a_num, a_den}, {b_num, b_den}};
  weir_stat stat[KINDS] = {{.kind = WEIR_STAT_RATIO, .a = 0},
                           {.kind = WEIR_STAT_DIFFERENCE, .a = 0, .b = 1},
                           {.kind = WEIR_STAT_QUOTIENT, .a = 0, .b = 1}};
  static double all[KINDS][ALL];
  for (int r = 0; r < ALL; r++) {
    double s[4] = {0};
    for (int k = 0, rest = r; k < N; k++, rest /= N) {
      const int i = rest % N;
      s[0] += a_num[i];
      s[1] += a_den[i];
      s[2] += b_num[i];
      s[3] += b_den[i];
    }
    all[0][r] = s[0] / s[1];
    all[1][r] = s[0] / s[1] - s[2] / s[3];
    all[2][r] = s[0] / s[1] / (s[2] / s[3]);
  }
  weir_err e;
  assert_int_equal(weir_bootstrap(sample, 2, N, stat, KINDS, 20000, 0.95, 7, &e), WEIR_OK);
  const double a = 14.5 / 20.5, b = 16.5 / 14, value[KINDS] = {a, a - b, a / b};
  for (int k = 0; k < KINDS; k++) {
    qsort(all[k], ALL, sizeof(double), by_value);
    assert_true(fabs(stat[k].value - value[k]) < 1e-12);
    const double lo0 = share(all[k], ALL, stat[k].lo, true), lo1 = share(all[k], ALL, stat[k].lo, false),
                 hi0 = share(all[k], ALL, stat[k].hi, true), hi1 = share(all[k], ALL, stat[k].hi, false);
    if (lo0 > 0.025 + 0.0033 || lo1 < 0.025 - 0.0033 || hi0 > 0.975 + 0.0033 || hi1 < 0.975 - 0.0033)
      fail_msg("kind %d: %g .. %g hold %g .. %g to %g .. %g of all resamples", k, stat[k].lo, stat[k].hi, lo0,
               lo1, hi0, hi1);
  }
}

/* 400 requests, 60 % right: the half-width is 1.96 sqrt(p (1-p) / n). Beside a second column that is the same
 * but for 8 requests, paired: 1.96 sqrt(8 / n^2) or so, a sixth of it. Beside itself: nothing. */
static void test_pairs(void **state) {
  (void)state;
  enum { N = 400 };
  double a[N], b[N], seconds[N], twice[N];
  for (int i = 0; i < N; i++) {
    a[i] = i % 5 < 3;
    b[i] = i < 8 ? 1 - a[i] : a[i];
    seconds[i] = 0.5 + (i * 37 % 101) * 0.01;
    twice[i] = 2 * seconds[i];
  }
  const weir_sample sample[] = {{a, NULL}, {b, NULL}, {seconds, NULL}, {twice, NULL}};
  weir_stat stat[] = {{.kind = WEIR_STAT_RATIO, .a = 0},
                      {.kind = WEIR_STAT_DIFFERENCE, .a = 0, .b = 1},
                      {.kind = WEIR_STAT_DIFFERENCE, .a = 0, .b = 0},
                      {.kind = WEIR_STAT_QUOTIENT, .a = 3, .b = 2}};
  weir_err e;
  assert_int_equal(weir_bootstrap(sample, 4, N, stat, 4, WEIR_BOOTSTRAP_RESAMPLES, 0.95, 1, &e), WEIR_OK);
  const double half = 1.96 * sqrt(0.6 * 0.4 / N), paired = 1.96 * sqrt(8.0) / N;
  assert_true(fabs(stat[0].value - 0.6) < 1e-12);
  if (fabs(0.6 - stat[0].lo - half) > 0.15 * half || fabs(stat[0].hi - 0.6 - half) > 0.15 * half)
    fail_msg("%g .. %g, want 0.6 -+ %g", stat[0].lo, stat[0].hi, half);
  if (fabs((stat[1].hi - stat[1].lo) / 2 - paired) > 0.2 * paired)
    fail_msg("paired: %g .. %g, want a half-width of %g", stat[1].lo, stat[1].hi, paired);
  assert_true(stat[2].value == 0 && stat[2].lo == 0 && stat[2].hi == 0);
  assert_true(fabs(stat[3].lo - 2) < 1e-12 && fabs(stat[3].hi - 2) < 1e-12); /* every resample says 2 */
}

static void test_seed_and_level(void **state) {
  (void)state;
  const double x[] = {0.13, 1.07, 2.39, 3.58, 4.21, 5.02, 6.73, 7.11, 8.94, 9.46};
  const weir_sample sample = {x, NULL};
  weir_stat one = {.kind = WEIR_STAT_RATIO}, same = one, other = one, narrow = one;
  weir_err e;
  assert_int_equal(weir_bootstrap(&sample, 1, 10, &one, 1, 2000, 0.95, 3, &e), WEIR_OK);
  assert_int_equal(weir_bootstrap(&sample, 1, 10, &same, 1, 2000, 0.95, 3, &e), WEIR_OK);
  assert_int_equal(weir_bootstrap(&sample, 1, 10, &other, 1, 501, 0.95, 4, &e), WEIR_OK);
  assert_int_equal(weir_bootstrap(&sample, 1, 10, &narrow, 1, 2000, 0.5, 3, &e), WEIR_OK);
  assert_true(one.lo == same.lo && one.hi == same.hi);
  assert_true(one.lo != other.lo || one.hi != other.hi);
  assert_true(one.lo < narrow.lo && narrow.lo < 4.864 && narrow.hi > 4.864 && narrow.hi < one.hi);
}

static void test_refused(void **state) {
  (void)state;
  const double x[] = {1, 2}, zero[] = {0, 1};
  const weir_sample sample[] = {{x, NULL}, {x, zero}};
  weir_stat stat = {.kind = WEIR_STAT_RATIO, .a = 2}, none = {.kind = WEIR_STAT_RATIO, .a = 1};
  weir_err e;
  assert_int_equal(weir_bootstrap(sample, 2, 2, &stat, 1, 10, 0.95, 1, &e), WEIR_EINVAL);
  stat = (weir_stat){.kind = WEIR_STAT_QUOTIENT, .a = 0, .b = -1};
  assert_int_equal(weir_bootstrap(sample, 2, 2, &stat, 1, 10, 0.95, 1, &e), WEIR_EINVAL);
  stat = (weir_stat){.kind = WEIR_STAT_RATIO};
  assert_int_equal(weir_bootstrap(sample, 2, 0, &stat, 1, 10, 0.95, 1, &e), WEIR_EINVAL);
  assert_int_equal(weir_bootstrap(sample, 2, 2, &stat, 1, 0, 0.95, 1, &e), WEIR_EINVAL);
  assert_int_equal(weir_bootstrap(sample, 2, 2, &stat, 1, 10, 1, 1, &e), WEIR_EINVAL);
  /* a resample without seconds has no rate: no interval is better than a wrong one */
  assert_int_equal(weir_bootstrap(sample, 2, 2, &none, 1, 100, 0.95, 1, &e), WEIR_OK);
  assert_true(none.value == 3 && isnan(none.lo) && isnan(none.hi));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_resample),
      cmocka_unit_test(test_pairs),
      cmocka_unit_test(test_seed_and_level),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
