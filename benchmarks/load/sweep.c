/* SPDX-License-Identifier: Apache-2.0 */
/* The order of a sweep's loads and its stop rule. Pure; any thread. */
#include "load/sweep.h"

#include <math.h>

/* Noise moves goodput by some per cent: a smaller fall is none. And a doubled load that brings less than this
 * brings nothing: beyond saturation goodput stands still where no objective makes it fall. */
static const double FALL = 0.05;

weir_status weir_sweep_init(weir_sweep *s, const weir_sweep_cfg *cfg, weir_err *e) {
  *s = (weir_sweep){.cfg = *cfg, .best_goodput = NAN, .last_good = NAN, .first_bad = NAN};
  if (cfg->n_points > WEIR_SWEEP_MAX_POINTS)
    return weir_fail(e, WEIR_EINVAL, "a sweep has at most %d points", WEIR_SWEEP_MAX_POINTS);
  for (int32_t i = 0; i < cfg->n_points; i++)
    if (!isfinite(cfg->points[i]) ||
        (cfg->whole && (cfg->points[i] < 1 || cfg->points[i] != floor(cfg->points[i]))))
      return weir_fail(e, WEIR_EINVAL, "a point of %g", cfg->points[i]);
  if (cfg->n_points == 0 && !(cfg->from > 0 && cfg->most >= cfg->from))
    return weir_fail(e, WEIR_EINVAL, "a sweep goes from a load above 0 up to a greater one");
  return WEIR_OK;
}

static bool next_between(weir_sweep *s, double *x) {
  if (isnan(s->first_bad) || isnan(s->last_good) || s->refined >= s->cfg.refine) return false;
  double mid = sqrt(s->last_good * s->first_bad); /* loads are compared by ratio */
  if (s->cfg.whole) mid = floor(mid);
  if (mid <= s->last_good || mid >= s->first_bad) return false;
  s->refined++;
  *x = mid;
  return true;
}

bool weir_sweep_next(weir_sweep *s, double *x) {
  const weir_sweep_cfg *c = &s->cfg;
  if (s->n >= WEIR_SWEEP_MAX_POINTS) return false;
  if (c->n_points > 0) {
    if (s->n >= c->n_points || (!c->to_end && !isnan(s->first_bad))) return false;
    *x = c->points[s->n];
  } else if (s->n == 0) {
    *x = c->from;
  } else if (!isnan(s->first_bad)) {
    if (!next_between(s, x)) return false;
  } else {
    if (s->x[s->n - 1] >= c->most) return false;
    *x = fmin(2 * s->x[s->n - 1], c->most);
  }
  s->x[s->n] = *x;
  return true;
}

void weir_sweep_tell(weir_sweep *s, bool met, double goodput) {
  const double x = s->x[s->n], best = s->best_goodput;
  bool good = met && goodput > 0;
  if (good && !isnan(best)) {
    const bool doubling = s->cfg.n_points == 0 && isnan(s->first_bad);
    /* the last step may be smaller than a doubling, and so is what it can bring */
    good = goodput >= best * (doubling ? 1 + FALL * (x / s->last_good - 1) : 1 - FALL);
  }
  s->good[s->n++] = good;
  if (good && (isnan(s->last_good) || x > s->last_good)) s->last_good = x;
  if (good && (isnan(best) || goodput > best)) s->best_goodput = goodput;
  if (!good && (isnan(s->first_bad) || x < s->first_bad)) s->first_bad = x;
}

int32_t weir_sweep_knee(const weir_sweep *s) {
  int32_t at = -1;
  for (int32_t i = 0; i < s->n; i++)
    if (s->good[i] && (at < 0 || s->x[i] > s->x[at])) at = i;
  return at;
}
