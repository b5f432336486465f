/* SPDX-License-Identifier: Apache-2.0 */
/* The drift alarm of a server: which requests are compared with the calibration, what is told of it.
 * Without a calibration the metrics are there and say nothing. The
 * comparison is calibrate/drift.c's. Loop thread. */
#include "serve/service_drift.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "calibrate/drift.h"
#include "serve/service_in.h"

struct weir_service_drift {
  weir_drift drift;
  weir_mode mode; /* of requests that ask for nothing */
  weir_gate gate;
  float *entropy; /* [cap], owned: of the request that ends */
  int32_t cap;
  weir_metric *score, *alarm, *expected, *observed, *requests;
};

/* What the gate is expected to defer: with the calibration's threshold its own share, and an entropy gate's
 * at any other by the distribution it saw. */
static double expected_rate(const weir_service_drift *d, const weir_service_cfg *cfg) {
  const weir_drift_profile *p = cfg->drift;
  const double tau = (double)d->gate.threshold, at = tau / WEIR_DRIFT_BIN_WIDTH - 1;
  if (d->gate.kind != WEIR_GATE_ENTROPY || fabs(tau - cfg->drift_threshold) < 1e-6) return p->deferred;
  if (at < 0) return tau < 0 ? 1 : 1 - p->cdf[0];
  if (at >= WEIR_DRIFT_BINS - 1) return 1 - p->cdf[WEIR_DRIFT_BINS - 1];
  const int32_t k = (int32_t)at;
  return 1 - (p->cdf[k] + (at - k) * (p->cdf[k + 1] - p->cdf[k]));
}

static weir_status make_metrics(weir_service_drift *d, const weir_service_cfg *cfg, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_metric_label label[] = {{"model_name", cfg->model}};
  const weir_metric_label expected[] = {{"model_name", cfg->model}, {"source", "calibration"}};
  const weir_metric_label observed[] = {{"model_name", cfg->model}, {"source", "traffic"}};
  static const char rate_help[] =
      "Mean over requests of the share of gate decisions that deferred: in the calibration, at the threshold "
      "in force; and of the last requests.";
  WEIR_TRY(weir_metrics_add(cfg->metrics, WEIR_METRIC_GAUGE, "weir:calibration_drift",
                            "Distance of the traffic's entropies from the calibration's, over what chance "
                            "may give; above 1 it is an alarm.",
                            label, 1, NULL, 0, &d->score, e));
  WEIR_TRY(weir_metrics_add(cfg->metrics, WEIR_METRIC_GAUGE, "weir:calibration_drift_alarm",
                            "1 while the traffic is unlike what the threshold was calibrated on.", label, 1,
                            NULL, 0, &d->alarm, e));
  WEIR_TRY(weir_metrics_add(cfg->metrics, WEIR_METRIC_COUNTER, "weir:calibration_requests_total",
                            "Requests compared with the calibration.", label, 1, NULL, 0, &d->requests, e));
  WEIR_TRY(weir_metrics_add(cfg->metrics, WEIR_METRIC_GAUGE, "weir:calibration_deferral_rate", rate_help,
                            expected, 2, NULL, 0, &d->expected, e));
  st = weir_metrics_add(cfg->metrics, WEIR_METRIC_GAUGE, "weir:calibration_deferral_rate", rate_help,
                        observed, 2, NULL, 0, &d->observed, e);
out:
  return st;
}

weir_status weir_service_drift_create(const weir_service *s, weir_service_drift **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_service_drift *d = NULL;
  weir_cascade_cfg cascade;
  *out = NULL;
  if (s->cfg.engine.n_tiers < 2) return WEIR_OK;
  WEIR_TRY(weir_cascade_cfg_make(&s->cfg.cascade, &cascade, e));
  WEIR_TRY(WEIR_NEW(1, &d, e));
  d->mode = s->cfg.cascade.mode;
  d->gate = cascade.gate[0];
  WEIR_TRY(make_metrics(d, &s->cfg, e));
  weir_metric_set(d->score, NAN);
  weir_metric_set(d->expected, NAN);
  weir_metric_set(d->observed, NAN);
  if (s->cfg.drift) {
    WEIR_TRY(weir_drift_init(&d->drift, s->cfg.drift, WEIR_DRIFT_WINDOW, WEIR_DRIFT_RATE, e));
    weir_metric_set(d->score, 0);
    weir_metric_set(d->expected, expected_rate(d, &s->cfg));
  }
  *out = d;
  d = NULL;
out:
  weir_service_drift_destroy(d);
  return st;
}

void weir_service_drift_destroy(weir_service_drift *d) {
  if (!d) return;
  weir_drift_fini(&d->drift);
  free(d->entropy);
  free(d);
}

static bool is_compared(const weir_service_drift *d, const weir_reply *r, weir_end end) {
  const weir_gate *g = &r->cascade.gate[0];
  const bool whole = end == WEIR_END_STOP || end == WEIR_END_EOS || end == WEIR_END_LENGTH;
  /* where a rate moves the threshold, it is the request's own, and entropies are what they are */
  const bool same = g->kind == d->gate.kind && (r->cascade.budget.rated || g->threshold == d->gate.threshold);
  return whole && same && r->mode == d->mode && !r->job.pinned;
}

static void tell(const weir_service_drift *d, weir_drift_news news) {
  const weir_drift *x = &d->drift;
  if (news == WEIR_DRIFT_BEGAN)
    weir_log(
        WEIR_LOG_WARN,
        "traffic has drifted from what the threshold was calibrated on: entropies at %.2f nats, %.2f times "
        "what chance may give; mean entropy %.3f nats (calibrated %.3f), deferral rate %.3f (%.3f), over the "
        "last %d requests. What the calibration promises does not cover them",
        x->nats, x->score, x->entropy, x->profile.entropy, x->deferred, x->profile.deferred, (int)x->window);
  else
    weir_log(WEIR_LOG_INFO, "traffic is like the calibration again: score %.2f, mean entropy %.3f nats",
             x->score, x->entropy);
}

void weir_service_drift_ended(weir_service_drift *d, const weir_reply *r, weir_end end) {
  if (!d || !d->drift.seen || !is_compared(d, r, end)) return;
  const int32_t n = weir_reply_log_n(&r->log);
  int32_t deferred = 0;
  if (n > d->cap) { /* without the memory it is a request fewer */
    float *more = realloc(d->entropy, (size_t)n * sizeof *more);
    if (!more) return;
    d->entropy = more;
    d->cap = n;
  }
  for (int32_t i = 0; i < n; i++) {
    const weir_token_receipt *t = &weir_reply_log_at(&r->log, i)->receipt;
    d->entropy[i] = t->entropy;
    deferred += t->why == WEIR_WHY_DEFERRED;
  }
  const weir_drift_news news = weir_drift_add(&d->drift, d->entropy, n, deferred);
  weir_metric_inc(d->requests, 1);
  weir_metric_set(d->score, d->drift.score);
  weir_metric_set(d->alarm, d->drift.alarm ? 1 : 0);
  weir_metric_set(d->observed, d->drift.deferred);
  if (news != WEIR_DRIFT_NO_NEWS) tell(d, news);
}
