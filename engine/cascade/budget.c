/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets of deferrals. Owns nothing, calls nothing but libm; the table's memory is the caller's. Any thread;
 * in the engine the loop's. */
#include "cascade/budget.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

/* Levels are sums of rates: 10 times 0.1 is a little less than 1. */
#define LEVEL_SLACK 1e-9

const char *weir_budget_error(const weir_budget *b) {
  if (b->rated && !(b->rate >= 0 && b->rate <= 1)) return "a deferral rate is not in 0 .. 1";
  if (b->burst < 0) return "a burst of deferrals is below 0";
  if (b->burst > 0 && !b->rated) return "a burst of deferrals needs a deferral rate, which refills it";
  if (!(b->load_price >= 0 && b->load_price <= WEIR_LOAD_PRICE_MAX)) return "a load price is not in 0 .. 100";
  return NULL;
}

/* ---- the rate ---- */

void weir_rate_start(weir_rate_tracker *t, const weir_rate_law *law, double tau) {
  *t = (weir_rate_tracker){.tau = tau > 0 ? fmin(tau, law->bound) : 0};
}

void weir_rate_note(weir_rate_tracker *t, const weir_rate_law *law, bool deferred) {
  const double tau = t->tau + law->step * ((deferred ? 1 : 0) - law->rate);
  /* No score in range ever gets tau above the first of these. Another law may have: that is not taken back.
   */
  const double high = fmax(law->bound + law->hold * law->step, t->tau), low = -law->price - law->step;
  t->tau = fmin(fmax(tau, low), high);
  t->counts++;
  t->deferred += deferred;
}

double weir_rate_bound(const weir_rate_law *law, int64_t counts) {
  return (law->bound + law->price + law->hold * law->step) / (law->step * (double)counts);
}

/* ---- tenants ---- */

static bool is_of(const weir_rate_slot *s, const weir_rate_key *k) {
  return s->seen > 0 && s->key.tenant == k->tenant && s->key.gate == k->gate && s->key.rate == k->rate;
}

weir_rate_tracker *weir_rate_find(weir_rate_table *t, const weir_rate_key *key, const weir_rate_law *law,
                                  double tau, int32_t *at) {
  t->seen++;
  if (*at < 0 || *at >= t->n_slots || !is_of(&t->slot[*at], key)) {
    int32_t oldest = 0, i = 0;
    while (i < t->n_slots && !is_of(&t->slot[i], key)) {
      if (t->slot[i].seen < t->slot[oldest].seen) oldest = i;
      i++;
    }
    if (i == t->n_slots) {
      weir_rate_slot *s = &t->slot[oldest];
      if (s->seen > 0)
        t->forgotten++;
      else
        t->n_used++;
      s->key = *key;
      weir_rate_start(&s->tracker, law, tau);
      i = oldest;
    }
    *at = i;
  }
  t->slot[*at].seen = t->seen;
  return &t->slot[*at].tracker;
}

/* ---- the bucket ---- */

void weir_bucket_start(weir_bucket *k, const weir_budget *b) { *k = (weir_bucket){.level = b->burst}; }

bool weir_bucket_allows(const weir_bucket *k, const weir_budget *b) {
  return b->burst == 0 || k->level >= 1 - LEVEL_SLACK;
}

void weir_bucket_take(weir_bucket *k) { k->level -= 1; }

void weir_bucket_refill(weir_bucket *k, const weir_budget *b, int32_t written) {
  if (written <= k->written) return;
  k->level = fmin(b->burst, k->level + (double)b->rate * (written - k->written));
  k->written = written;
}

/* ---- the price ---- */

double weir_load_price(double most, int32_t waiting, double large_step_ns) {
  if (!(most > 0) || waiting <= 0 || !(large_step_ns > 0)) return 0;
  const double q = waiting * large_step_ns / WEIR_PRICE_HALF_NS;
  return isfinite(q) ? most * (q / (1 + q)) : most;
}

/* ---- back to a gate ---- */

float weir_budget_threshold(bool low, double tau) {
  if (!low) {
    const float t = (float)tau;
    return tau < 0 && !(t < 0) ? -FLT_MIN : t; /* a float has rounded it to 0, where a score of 0 passes */
  }
  const float t = (float)(1 - tau);
  return tau < 0 && !(t > 1) ? nextafterf(1, 2) : t;
}

float weir_budget_shut(bool low) { return low ? -INFINITY : INFINITY; }
