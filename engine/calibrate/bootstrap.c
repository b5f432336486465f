/* SPDX-License-Identifier: Apache-2.0 */
/* The bootstrap. A resample is drawn once, as how often each request is in it, and all samples are summed
 * with those weights. Pure but for its memory; any thread. */
#include "calibrate/bootstrap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* splitmix64: one draw a call, the state a counter. */
static uint64_t draw(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* 0 .. n-1. The bias of taking the high word of a product is below n / 2^32. */
static int32_t pick(uint64_t *state, int32_t n) { return (int32_t)((draw(state) >> 32) * (uint64_t)n >> 32); }

/* weight NULL: every request once. */
static double ratio(const weir_sample *s, const int32_t *weight, int32_t n) {
  double num = 0, den = 0;
  for (int32_t i = 0; i < n; i++) {
    const double w = weight ? weight[i] : 1;
    num += w * s->num[i];
    den += w * (s->den ? s->den[i] : 1);
  }
  return den == 0 ? NAN : num / den;
}

static double value_of(const weir_stat *t, const double *r) {
  switch (t->kind) {
    case WEIR_STAT_DIFFERENCE: return r[t->a] - r[t->b];
    case WEIR_STAT_QUOTIENT: return r[t->b] == 0 ? NAN : r[t->a] / r[t->b];
    default: return r[t->a];
  }
}

static int by_value(const void *p, const void *q) {
  const double a = *(const double *)p, b = *(const double *)q;
  return (a > b) - (a < b);
}

/* Between the order statistics on both sides, as R's type 7 and numpy have it. */
static double quantile(const double *sorted, int32_t n, double at) {
  const double h = (n - 1) * at;
  const int32_t i = (int32_t)floor(h);
  return i + 1 < n ? sorted[i] + (h - i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

static void put_interval(double *v, int32_t n, double level, weir_stat *out) {
  out->lo = out->hi = NAN;
  for (int32_t i = 0; i < n; i++)
    if (isnan(v[i])) return;
  qsort(v, (size_t)n, sizeof *v, by_value);
  out->lo = quantile(v, n, (1 - level) / 2);
  out->hi = quantile(v, n, (1 + level) / 2);
}

weir_status weir_bootstrap(const weir_sample *sample, int32_t n_samples, int32_t n, weir_stat *stat,
                           int32_t n_stats, int32_t n_resamples, double level, uint64_t seed, weir_err *e) {
  weir_status st = WEIR_OK;
  double *r = NULL, *value = NULL; /* [n_samples]; [n_stats][n_resamples] */
  int32_t *weight = NULL;
  size_t n_values;
  if (n < 1 || n_samples < 0 || n_stats < 0 || n_resamples < 1)
    return weir_fail(e, WEIR_EINVAL, "bootstrap: nothing to draw from");
  if (!(level > 0 && level < 1)) return weir_fail(e, WEIR_EINVAL, "bootstrap: level %g", level);
  for (int32_t k = 0; k < n_stats; k++)
    if (stat[k].a < 0 || stat[k].a >= n_samples ||
        (stat[k].kind != WEIR_STAT_RATIO && (stat[k].b < 0 || stat[k].b >= n_samples)))
      return weir_fail(e, WEIR_EINVAL, "bootstrap: statistic %d is of a sample that is not there", k);
  if (!weir_mul_size((size_t)n_stats, (size_t)n_resamples, &n_values))
    return weir_fail(e, WEIR_ENOMEM, "bootstrap: too many values");
  WEIR_TRY(WEIR_NEW((size_t)n_samples, &r, e));
  WEIR_TRY(WEIR_NEW(n_values, &value, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &weight, e));
  for (int32_t b = 0; b < n_resamples; b++) {
    memset(weight, 0, (size_t)n * sizeof *weight);
    for (int32_t i = 0; i < n; i++) weight[pick(&seed, n)]++;
    for (int32_t k = 0; k < n_samples; k++) r[k] = ratio(&sample[k], weight, n);
    for (int32_t k = 0; k < n_stats; k++)
      value[(size_t)k * (size_t)n_resamples + (size_t)b] = value_of(&stat[k], r);
  }
  for (int32_t k = 0; k < n_samples; k++) r[k] = ratio(&sample[k], NULL, n);
  for (int32_t k = 0; k < n_stats; k++) {
    stat[k].value = value_of(&stat[k], r);
    put_interval(value + (size_t)k * (size_t)n_resamples, n_resamples, level, &stat[k]);
  }
out:
  free(r);
  free(value);
  free(weight);
  return st;
}
