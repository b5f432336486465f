/* SPDX-License-Identifier: Apache-2.0 */
/* Measured values and their percentiles. Exact while there are at most `cap` values; beyond that a uniform
 * sample of them (reservoir), with exact count, sum, least and greatest. */
#ifndef WEIR_LOAD_SAMPLES_H
#define WEIR_LOAD_SAMPLES_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "load/rand.h"

enum { WEIR_SAMPLES_CAP = 1 << 20 };

typedef struct weir_sample {
  double x;
  int64_t at; /* how many came before it */
} weir_sample;

typedef struct weir_samples {
  weir_sample *v; /* owned, [kept] */
  int64_t kept, room, cap, n;
  double sum, sum2, min, max;
  bool sorted;
  weir_rand rand;
} weir_samples;

/* cap 0: WEIR_SAMPLES_CAP. */
void weir_samples_init(weir_samples *, int64_t cap);
void weir_samples_fini(weir_samples *);
/* NaN is left out. */
weir_status weir_samples_add(weir_samples *, double x, weir_err *e);
/* q in [0, 1], between the two nearest values in a line (as numpy's default does); NaN when there are none.
 * The first call after an addition sorts. */
double weir_samples_quantile(weir_samples *, double q);
/* The quantile of these values and of n_beyond others that are greater than any: infinite where it falls
 * among them, or between them and the rest. */
double weir_samples_quantile_beyond(weir_samples *, double q, int64_t n_beyond);
double weir_samples_mean(const weir_samples *);
double weir_samples_deviation(const weir_samples *); /* standard deviation, n - 1; 0 below two values */
/* The 95 % interval of a quantile, for values that were added in the order of time: the run is cut into ten
 * batches, and how far their quantiles lie from that of all tells how far it is off ("sectioning"; Asmussen
 * and Glynn 2007, "Stochastic simulation", III.5). Neighbours of one server hang together: a batch keeps them
 * together, where order statistics would take each for a witness of its own. NaN for fewer than twenty. */
void weir_samples_interval(weir_samples *, double q, double *lo, double *hi);

#endif
