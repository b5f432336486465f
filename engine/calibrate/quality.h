/* SPDX-License-Identifier: Apache-2.0 */
/* How good scores are that say which rows are wrong. Pure. */
#ifndef WEIR_CALIBRATE_QUALITY_H
#define WEIR_CALIBRATE_QUALITY_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* How good a gate is on some rows. */
typedef struct weir_gate_quality {
  int64_t rows;      /* 0: not measured */
  double error_rate; /* share of rows whose token was not the large model's */
  double auc, brier, ece;
} weir_gate_quality;

/* The probability that a wrong row has a higher score than a right one, ties counted half; 0.5 when one of
 * the two is not there. Scores are finite. n log n time. */
weir_status weir_quality_auc(const float *score, const bool *wrong, int64_t n, double *out, weir_err *e);
/* Mean of (score - wrong)^2; 0 for no rows. */
double weir_quality_brier(const float *score, const bool *wrong, int64_t n);
/* Expected calibration error over `bins` bins of equal width in [0, 1] (Naeini, Cooper, Hauskrecht 2015): the
 * mean distance between a bin's mean score and its rate. bins in 1 .. 100. */
double weir_quality_ece(const float *score, const bool *wrong, int64_t n, int32_t bins);

#endif
