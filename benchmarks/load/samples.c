/* SPDX-License-Identifier: Apache-2.0 */
/* Values and percentiles. Pure but for its memory; the load's thread. */
#include "load/samples.h"

#include <math.h>
#include <stdlib.h>

void weir_samples_init(weir_samples *s, int64_t cap) {
  *s = (weir_samples){.cap = cap > 0 ? cap : WEIR_SAMPLES_CAP, .min = INFINITY, .max = -INFINITY};
  weir_rand_init(&s->rand, 1, 77);
}

void weir_samples_fini(weir_samples *s) {
  free(s->x);
  *s = (weir_samples){0};
}

weir_status weir_samples_add(weir_samples *s, double x, weir_err *e) {
  if (isnan(x)) return WEIR_OK;
  if (s->kept == s->room && s->room < s->cap) {
    const int64_t room =
        s->room ? (2 * s->room < s->cap ? 2 * s->room : s->cap) : (s->cap < 64 ? s->cap : 64);
    double *grown = realloc(s->x, (size_t)room * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %lld values", (long long)room);
    s->x = grown;
    s->room = room;
  }
  s->n++;
  s->sum += x;
  s->sum2 += x * x;
  s->min = fmin(s->min, x);
  s->max = fmax(s->max, x);
  if (s->kept < s->cap) {
    s->x[s->kept++] = x;
    s->sorted = false;
    return WEIR_OK;
  }
  /* Vitter's algorithm R. Sorting in between moves values, which a uniform sample does not mind. */
  const uint64_t at = weir_rand_below(&s->rand, (uint64_t)s->n);
  if (at < (uint64_t)s->kept) {
    s->x[at] = x;
    s->sorted = false;
  }
  return WEIR_OK;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void sort(weir_samples *s) {
  if (s->sorted || s->kept == 0) return;
  qsort(s->x, (size_t)s->kept, sizeof *s->x, by_value);
  s->sorted = true;
}

double weir_samples_quantile(weir_samples *s, double q) {
  if (s->kept == 0) return NAN;
  sort(s);
  if (q <= 0) return s->min;
  if (q >= 1) return s->max; /* exact, though a sample may have left it out */
  const double at = q * (double)(s->kept - 1);
  const int64_t i = (int64_t)at;
  if (i + 1 >= s->kept) return s->x[s->kept - 1];
  return s->x[i] + (at - (double)i) * (s->x[i + 1] - s->x[i]);
}

double weir_samples_quantile_beyond(weir_samples *s, double q, int64_t n_beyond) {
  if (n_beyond <= 0) return weir_samples_quantile(s, q);
  const double at = q * (double)(s->n + n_beyond - 1), last = (double)(s->n - 1);
  if (s->kept == 0 || at > last) return INFINITY;
  return weir_samples_quantile(s, last > 0 ? at / last : 0);
}

double weir_samples_mean(const weir_samples *s) { return s->n > 0 ? s->sum / (double)s->n : NAN; }

double weir_samples_deviation(const weir_samples *s) {
  if (s->n < 2) return 0;
  const double n = (double)s->n, v = (s->sum2 - s->sum * s->sum / n) / (n - 1);
  return v > 0 ? sqrt(v) : 0;
}

void weir_samples_interval(weir_samples *s, double q, double *lo, double *hi) {
  *lo = *hi = NAN;
  if (s->kept == 0) return;
  sort(s);
  const double n = (double)s->kept, half = 1.96 * sqrt(n * q * (1 - q));
  const double a = floor(n * q - half), b = ceil(n * q + half);
  *lo = a < 0 ? s->min : s->x[(int64_t)a];
  *hi = b >= n ? s->max : s->x[(int64_t)b];
}
