/* SPDX-License-Identifier: Apache-2.0 */
/* Schedules of arrivals. Pure; the load's thread. */
#include "load/arrivals.h"

#include <math.h>

static const char *const names[] = {"closed", "constant", "poisson", "gamma", "ramp", "trace"};

const char *weir_load_kind_name(weir_load_kind k) { return names[k]; }

static bool above_zero(double x) { return isfinite(x) && x > 0; }

weir_status weir_arrivals_init(weir_arrivals *a, const weir_arrivals_cfg *cfg, weir_err *e) {
  *a = (weir_arrivals){.cfg = *cfg};
  weir_rand_init(&a->rand, cfg->seed, 1);
  if (cfg->kind == WEIR_LOAD_CLOSED) return weir_fail(e, WEIR_EINVAL, "a closed loop has no arrivals");
  if (cfg->kind == WEIR_LOAD_TRACE) {
    if (cfg->n_trace <= 0) return weir_fail(e, WEIR_EINVAL, "the trace has no arrivals");
    if (!above_zero(cfg->trace_speed)) return weir_fail(e, WEIR_EINVAL, "a trace's speed must be above 0");
    return WEIR_OK;
  }
  if (!above_zero(cfg->rate)) return weir_fail(e, WEIR_EINVAL, "the rate must be above 0 requests a second");
  if (cfg->kind == WEIR_LOAD_GAMMA && !above_zero(cfg->burstiness))
    return weir_fail(e, WEIR_EINVAL, "burstiness must be above 0");
  if (cfg->kind == WEIR_LOAD_RAMP && (!above_zero(cfg->rate_end) || !above_zero(cfg->ramp_s)))
    return weir_fail(e, WEIR_EINVAL, "a ramp needs an end rate and a length above 0");
  return WEIR_OK;
}

/* A Poisson process of changing rate r(t) = a + s t: the k-th arrival is where the integral of r reaches the
 * k-th arrival of a process of rate 1 (inversion; Cinlar 1975). So solve (s/2) t^2 + a t = sum for t. */
static double ramp_time(const weir_arrivals_cfg *c, double sum) {
  const double slope = (c->rate_end - c->rate) / c->ramp_s;
  const double whole = (c->rate + c->rate_end) / 2 * c->ramp_s;
  if (sum >= whole) return c->ramp_s + (sum - whole) / c->rate_end;
  /* the form without cancellation near slope 0 */
  return 2 * sum / (c->rate + sqrt(c->rate * c->rate + 2 * slope * sum));
}

bool weir_arrivals_next(weir_arrivals *a, int64_t *at_ns) {
  const weir_arrivals_cfg *c = &a->cfg;
  double at = 0;
  switch (c->kind) {
    case WEIR_LOAD_CLOSED: return false;
    case WEIR_LOAD_CONSTANT: at = (double)a->n / c->rate; break;
    case WEIR_LOAD_POISSON: at = a->at_s += weir_rand_exponential(&a->rand) / c->rate; break;
    case WEIR_LOAD_GAMMA: at = a->at_s += weir_rand_gamma(&a->rand, c->burstiness) / c->rate; break;
    case WEIR_LOAD_RAMP: at = ramp_time(c, a->at_s += weir_rand_exponential(&a->rand)); break;
    case WEIR_LOAD_TRACE:
      if (a->n >= c->n_trace) return false;
      at = c->trace_s[a->n] / c->trace_speed;
      break;
  }
  a->n++;
  *at_ns = at < 9e9 ? (int64_t)(at * 1e9) : INT64_MAX;
  return true;
}
