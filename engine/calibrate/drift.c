/* SPDX-License-Identifier: Apache-2.0 */
/* The drift alarm. The window's sums are taken anew at each check: 256 rows of 66 numbers every 64 requests
 * cost nothing, and no rounding gathers. Pure but for its memory. */
#include "calibrate/drift.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { COLUMNS = WEIR_DRIFT_BINS + 2, ENTROPY = WEIR_DRIFT_BINS, DEFERRED };

/* One request as a row; false: the gate has looked at nothing. */
static bool observe(const float *entropy, int32_t n, int32_t n_deferred, double row[COLUMNS]) {
  int32_t count[WEIR_DRIFT_BINS] = {0}, seen = 0, below = 0;
  double sum = 0;
  for (int32_t i = 0; i < n; i++) {
    if (!isfinite(entropy[i]) || entropy[i] < 0) continue;
    const double bin = (double)entropy[i] / WEIR_DRIFT_BIN_WIDTH;
    if (bin < WEIR_DRIFT_BINS) {
      const int32_t k = (int32_t)ceil(bin) - 1; /* at a bound: below it */
      count[k < 0 ? 0 : k]++;
    }
    sum += (double)entropy[i];
    seen++;
  }
  if (seen == 0) return false;
  for (int32_t k = 0; k < WEIR_DRIFT_BINS; k++) {
    below += count[k];
    row[k] = (double)below / seen;
  }
  row[ENTROPY] = sum / seen;
  row[DEFERRED] = fmin(1, fmax(0, (double)n_deferred / seen));
  return true;
}

void weir_drift_sums_add(weir_drift_sums *s, const float *entropy, int32_t n, int32_t n_deferred) {
  double row[COLUMNS];
  if (!observe(entropy, n, n_deferred, row)) return;
  s->n++;
  for (int32_t k = 0; k < WEIR_DRIFT_BINS; k++) {
    s->cdf[k] += row[k];
    s->square[k] += row[k] * row[k];
  }
  s->entropy += row[ENTROPY];
  s->deferred += row[DEFERRED];
}

void weir_drift_profile_make(const weir_drift_sums *s, weir_drift_profile *p) {
  *p = (weir_drift_profile){.n = s->n};
  if (s->n == 0) return;
  for (int32_t k = 0; k < WEIR_DRIFT_BINS; k++) {
    p->cdf[k] = s->cdf[k] / s->n;
    const double spread = s->square[k] - s->n * p->cdf[k] * p->cdf[k];
    p->var[k] = s->n > 1 ? fmax(0, spread / (s->n - 1)) : 0;
  }
  p->entropy = s->entropy / s->n;
  p->deferred = s->deferred / s->n;
}

static bool is_share(double x) { return x >= -1e-9 && x <= 1 + 1e-9; } /* NaN: no */

weir_status weir_drift_profile_check(const weir_drift_profile *p, weir_err *e) {
  if (p->n < WEIR_DRIFT_MIN_REQUESTS)
    return weir_fail(e, WEIR_EFORMAT, "drift: a profile of %d requests; want %d at least", (int)p->n,
                     WEIR_DRIFT_MIN_REQUESTS);
  for (int32_t k = 0; k < WEIR_DRIFT_BINS; k++) {
    if (!is_share(p->cdf[k]) || (k > 0 && p->cdf[k] < p->cdf[k - 1] - 1e-9))
      return weir_fail(e, WEIR_EFORMAT, "drift: cdf[%d] is no value of a distribution function", (int)k);
    if (!(p->var[k] >= 0 && p->var[k] <= 1)) /* of what lies in 0 .. 1: n / (4 (n - 1)) at most */
      return weir_fail(e, WEIR_EFORMAT, "drift: var[%d] is no variance of a share", (int)k);
  }
  if (!is_share(p->deferred) || !(p->entropy >= 0 && p->entropy < 100))
    return weir_fail(e, WEIR_EFORMAT, "drift: mean entropy or share of deferrals is out of range");
  return WEIR_OK;
}

double weir_drift_limit(double variance, int32_t window, int32_t n, double rate) {
  const double scale = 1.0 / window + 1.0 / n, log_term = log(2.0 * WEIR_DRIFT_BINS / rate);
  return sqrt(2 * variance * log_term * scale) + log_term / 3 * scale;
}

weir_status weir_drift_init(weir_drift *d, const weir_drift_profile *p, int32_t window, double rate,
                            weir_err *e) {
  *d = (weir_drift){0};
  if (window < 32 || window > 65536 || !(rate > 0 && rate < 1))
    return weir_fail(e, WEIR_EINVAL, "drift: a window of %d requests, a rate of %g", (int)window, rate);
  weir_status st = weir_drift_profile_check(p, e);
  if (st == WEIR_OK) st = WEIR_NEW((size_t)window * COLUMNS, &d->seen, e);
  d->profile = *p;
  d->window = window;
  d->rate = rate;
  d->entropy = d->deferred = NAN;
  return st;
}

void weir_drift_fini(weir_drift *d) {
  free(d->seen);
  *d = (weir_drift){0};
}

static weir_drift_news check(weir_drift *d) {
  double mean[COLUMNS] = {0};
  for (int32_t i = 0; i < d->window; i++)
    for (int32_t k = 0; k < COLUMNS; k++) mean[k] += (double)d->seen[(size_t)i * COLUMNS + (size_t)k];
  for (int32_t k = 0; k < COLUMNS; k++) mean[k] /= d->window;
  d->score = 0;
  d->entropy = mean[ENTROPY];
  d->deferred = mean[DEFERRED];
  d->checks++;
  for (int32_t k = 0; k < WEIR_DRIFT_BINS; k++) {
    const double x = fabs(mean[k] - d->profile.cdf[k]) /
                     weir_drift_limit(d->profile.var[k], d->window, d->profile.n, d->rate);
    if (x <= d->score) continue;
    d->score = x;
    d->nats = (k + 1) * WEIR_DRIFT_BIN_WIDTH;
  }
  const bool was = d->alarm;
  d->alarm = d->score > (was ? 0.7 : 1);
  return d->alarm == was ? WEIR_DRIFT_NO_NEWS : was ? WEIR_DRIFT_ENDED : WEIR_DRIFT_BEGAN;
}

weir_drift_news weir_drift_add(weir_drift *d, const float *entropy, int32_t n, int32_t n_deferred) {
  double row[COLUMNS];
  if (!d->seen || !observe(entropy, n, n_deferred, row)) return WEIR_DRIFT_NO_NEWS;
  float *to = d->seen + (size_t)d->at * COLUMNS;
  for (int32_t k = 0; k < COLUMNS; k++) to[k] = (float)row[k];
  d->at = (d->at + 1) % d->window;
  if (d->n < d->window) d->n++;
  d->since++;
  if (d->n < d->window || d->since < d->window / 4) return WEIR_DRIFT_NO_NEWS;
  d->since = 0;
  return check(d);
}
