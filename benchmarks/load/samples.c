/* SPDX-License-Identifier: Apache-2.0 */
/* Values and percentiles. Pure but for its memory; the load's thread. */
#include "load/samples.h"

#include <math.h>
#include <stdlib.h>

enum { BATCHES = 10 };
static const double STUDENT_9 = 2.262; /* two-sided 95 %, of ten batches */

void weir_samples_init(weir_samples *s, int64_t cap) {
  *s = (weir_samples){.cap = cap > 0 ? cap : WEIR_SAMPLES_CAP, .min = INFINITY, .max = -INFINITY};
  weir_rand_init(&s->rand, 1, 77);
}

void weir_samples_fini(weir_samples *s) {
  free(s->v);
  *s = (weir_samples){0};
}

weir_status weir_samples_add(weir_samples *s, double x, weir_err *e) {
  if (isnan(x)) return WEIR_OK;
  if (s->kept == s->room && s->room < s->cap) {
    const int64_t room =
        s->room ? (2 * s->room < s->cap ? 2 * s->room : s->cap) : (s->cap < 64 ? s->cap : 64);
    weir_sample *grown = realloc(s->v, (size_t)room * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %lld values", (long long)room);
    s->v = grown;
    s->room = room;
  }
  const weir_sample v = {x, s->n++};
  s->sum += x;
  s->sum2 += x * x;
  s->min = fmin(s->min, x);
  s->max = fmax(s->max, x);
  if (s->kept < s->cap) {
    s->v[s->kept++] = v;
    s->sorted = false;
    return WEIR_OK;
  }
  /* Vitter's algorithm R. Sorting in between moves values, which a uniform sample does not mind. */
  const uint64_t at = weir_rand_below(&s->rand, (uint64_t)s->n);
  if (at < (uint64_t)s->kept) {
    s->v[at] = v;
    s->sorted = false;
  }
  return WEIR_OK;
}

static int by_value(const void *a, const void *b) {
  const double x = ((const weir_sample *)a)->x, y = ((const weir_sample *)b)->x;
  return (x > y) - (x < y);
}

static int batch_of(const weir_samples *s, int64_t i) {
  return (int)((double)s->v[i].at / (double)s->n * BATCHES);
}

static void sort(weir_samples *s) {
  if (s->sorted || s->kept == 0) return;
  qsort(s->v, (size_t)s->kept, sizeof *s->v, by_value);
  s->sorted = true;
}

double weir_samples_quantile(weir_samples *s, double q) {
  if (s->kept == 0) return NAN;
  sort(s);
  if (q <= 0) return s->min;
  if (q >= 1) return s->max; /* exact, though a sample may have left it out */
  const double at = q * (double)(s->kept - 1);
  const int64_t i = (int64_t)at;
  if (i + 1 >= s->kept) return s->v[s->kept - 1].x;
  return s->v[i].x + (at - (double)i) * (s->v[i + 1].x - s->v[i].x);
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
  int64_t size[BATCHES] = {0}, seen[BATCHES] = {0};
  double of[BATCHES] = {0}, sum = 0;
  *lo = *hi = NAN;
  if (s->kept < 2 * BATCHES) return;
  const double all = weir_samples_quantile(s, q); /* sorts */
  for (int64_t i = 0; i < s->kept; i++) size[batch_of(s, i)]++;
  for (int64_t i = 0; i < s->kept; i++) { /* each batch's values come by in order */
    const int b = batch_of(s, i);
    const double at = q * (double)(size[b] - 1), low = floor(at);
    const double off = (double)seen[b]++ - low;
    if (off == 0) of[b] += s->v[i].x * (low + 1 - at);
    if (off == 1) of[b] += s->v[i].x * (at - low);
  }
  for (int b = 0; b < BATCHES; b++) {
    if (size[b] == 0) return; /* a sample of very many that left one out */
    sum += (of[b] - all) * (of[b] - all);
  }
  const double half = STUDENT_9 * sqrt(sum / (BATCHES - 1) / BATCHES);
  *lo = fmax(all - half, s->min);
  *hi = all + half;
}
