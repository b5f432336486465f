/* SPDX-License-Identifier: Apache-2.0 */
/* The monotone function that is nearest to labels, by weighted squares: pool adjacent violators (Ayer,
 * Brunk, Ewing, Reid, Silverman 1955), rows with one x as one. And what makes a gate map of it. */
#ifndef WEIR_CALIBRATE_FIT_ISOTONIC_H
#define WEIR_CALIBRATE_FIT_ISOTONIC_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/gate_map.h"

/* A level stretch of the fit: rows with lo <= x <= hi have the value y, the weighted mean of theirs. */
typedef struct weir_isotonic_block {
  double lo, hi;
  double centre; /* weighted mean of x */
  double y, weight;
} weir_isotonic_block;

typedef struct weir_isotonic {
  weir_isotonic_block *block; /* [n], owned, x ascending, y strictly monotone */
  int32_t n;
} weir_isotonic;

/* x[n] in any order, y[n], weights[n] > 0 (NULL: all 1), all finite; `falling`: y falls with x. The order in
 * which rows come changes nothing but the last bits. n log n time. */
weir_status weir_isotonic_fit(const double *x, const double *y, const double *weight, int64_t n, bool falling,
                              weir_isotonic *out, weir_err *e);
void weir_isotonic_fini(weir_isotonic *); /* a zeroed one is fine */
/* The step function of least squares itself; between blocks the value of the one before. */
double weir_isotonic_at(const weir_isotonic *, double x);

/* A map over `stat` from values of it and whether the row was wrong. Each block's probability is shrunk
 * towards the overall rate by one row's weight, so that no stretch is sure on no more evidence than it has;
 * where there are more than half as many blocks as knots, neighbours are joined that cost the least in
 * weighted squares. A block is as many knots at its level as it has 128ths of the rows, each at the mean of
 * its part: so the slope to the next level takes a 128th of the rows at most, and a block of few rows cannot
 * bend one of many. (One knot a block, centred isotonic regression, Oron and Flournoy 2017, does that.)
 * WEIR_EINVAL when n < 1 or a value is not finite. */
weir_status weir_isotonic_map(weir_gate_stat, const float *value, const bool *wrong, int64_t n,
                              weir_gate_map *out, weir_err *e);

#endif
