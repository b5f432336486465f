/* SPDX-License-Identifier: Apache-2.0 */
/* Intervals of means and ratios over requests, by resampling requests (Efron, Annals of Statistics 7, 1979;
 * percentile intervals). All statistics of one call see the same resampled requests: the interval of a
 * difference is that of paired data. */
#ifndef WEIR_CALIBRATE_BOOTSTRAP_H
#define WEIR_CALIBRATE_BOOTSTRAP_H
#include <stdint.h>

#include "base/err.h"

/* What was measured of n requests: sum(num) / sum(den) over requests. */
typedef struct weir_sample {
  const double *num, *den; /* [n], borrowed; den NULL: 1 each, so the ratio is the mean */
} weir_sample;

typedef enum {
  WEIR_STAT_RATIO,      /* of sample a */
  WEIR_STAT_DIFFERENCE, /* ratio of a - ratio of b */
  WEIR_STAT_QUOTIENT    /* ratio of a / ratio of b */
} weir_stat_kind;

typedef struct weir_stat {
  weir_stat_kind kind;
  int32_t a, b;         /* samples; RATIO: b unused */
  double value, lo, hi; /* out; NaN where a denominator is 0, as in a resample of nothing but zeros */
} weir_stat;

enum { WEIR_BOOTSTRAP_RESAMPLES = 2000 };

/* Fills value, lo, hi of stat[0, n_stats): the two-sided interval of `level` (0.95). The same seed gives the
 * same resamples. Time grows with n_resamples * n * n_samples. WEIR_EINVAL: n < 1, a level outside (0, 1), or
 * a sample that is not there. */
weir_status weir_bootstrap(const weir_sample *sample, int32_t n_samples, int32_t n, weir_stat *stat,
                           int32_t n_stats, int32_t n_resamples, double level, uint64_t seed, weir_err *e);

#endif
