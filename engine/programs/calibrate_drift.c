/* SPDX-License-Identifier: Apache-2.0 */
/* What a calibration says of its requests, one by one, for the drift alarm; and of a fitted gate whether its
 * probabilities are what they say. Main thread. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "programs/calibrate_in.h"

weir_status weir_cal_drift_from_run(weir_calibrating *x, const weir_answers *a, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_drift_sums sums = {0};
  float *entropy = NULL;
  int32_t most = 1;
  for (int32_t i = 0; i < a->n; i++) most = a->one[i].n > most ? a->one[i].n : most;
  WEIR_TRY(WEIR_NEW((size_t)most, &entropy, e));
  for (int32_t i = 0; i < a->n; i++) {
    int32_t deferred = 0;
    for (int32_t k = 0; k < a->one[i].n; k++) {
      entropy[k] = a->one[i].token[k].receipt.entropy;
      deferred += a->one[i].token[k].receipt.why == WEIR_WHY_DEFERRED;
    }
    weir_drift_sums_add(&sums, entropy, a->one[i].n, deferred);
  }
  if (sums.n > 0) weir_drift_profile_make(&sums, &x->r.drift.requests);
out:
  free(entropy);
  return st;
}

weir_status weir_cal_drift_from_trace(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_drift_sums sums = {0};
  weir_gate gate = x->gate;
  float *entropy = NULL;
  int32_t most = 1;
  gate.threshold = (float)x->r.choice.threshold;
  for (int32_t i = 0; i < x->trace.n; i++) most = x->trace.text[i].n > most ? x->trace.text[i].n : most;
  WEIR_TRY(WEIR_NEW((size_t)most, &entropy, e));
  for (int32_t i = 0; i < x->trace.n; i++) {
    const weir_trace_text *t = &x->trace.text[i];
    int32_t deferred = 0;
    for (int32_t k = 0; k < t->n; k++) {
      const weir_row row = weir_trace_small_row(&t->row[k]);
      entropy[k] = t->row[k].q_entropy;
      deferred += !x->r.choice.found || weir_gate_defers(gate, &row);
    }
    weir_drift_sums_add(&sums, entropy, t->n, deferred);
  }
  weir_drift_profile_make(&sums, &x->r.drift.requests);
out:
  free(entropy);
  return st;
}

void weir_cal_reliability_fill(weir_calibrating *x) {
  weir_cal_reliability *r = &x->r.reliability;
  double predicted[WEIR_CAL_RELIABILITY_BINS] = {0};
  int64_t rows[WEIR_CAL_RELIABILITY_BINS] = {0}, wrong[WEIR_CAL_RELIABILITY_BINS] = {0};
  *r = (weir_cal_reliability){0};
  if (!weir_gate_is_fitted(x->gate.kind)) return;
  for (int32_t i = 0; i < x->trace.n; i++)
    for (int32_t k = 0; k < x->trace.text[i].n; k++) {
      const weir_trace_row *t = &x->trace.text[i].row[k];
      const weir_row row = weir_trace_small_row(t);
      const double p = (double)weir_gate_score(x->gate, &row);
      if (!(p >= 0 && p <= 1)) continue;
      const int bin = p < 1 ? (int)(p * WEIR_CAL_RELIABILITY_BINS) : WEIR_CAL_RELIABILITY_BINS - 1;
      predicted[bin] += p;
      rows[bin]++;
      wrong[bin] += t->q_token != t->p_token;
    }
  for (int bin = 0; bin < WEIR_CAL_RELIABILITY_BINS; bin++) {
    if (rows[bin] == 0) continue;
    r->predicted[r->n] = predicted[bin] / (double)rows[bin];
    r->observed[r->n] = (double)wrong[bin] / (double)rows[bin];
    r->rows[r->n++] = rows[bin];
  }
}
