/* SPDX-License-Identifier: Apache-2.0 */
/* A linear head that tells whether a token will be wrong: logistic regression over hidden states and
 * statistics of the row, with an L2 penalty, by L-BFGS (Liu, Nocedal 1989). Deterministic: the same rows in
 * the same order give the same bits. Memory is a few dozen vectors of the dimension, whatever the number of
 * rows, which are read again in each turn. */
#ifndef WEIR_CALIBRATE_FIT_HEAD_H
#define WEIR_CALIBRATE_FIT_HEAD_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/gate_map.h"

/* Rows, by number and again and again. Returns the row's dim features, valid until the next call; *wrong is
 * its label. */
typedef struct weir_fit_rows {
  int64_t n;
  int32_t dim;
  const float *(*row)(void *ctx, int64_t i, bool *wrong);
  void *ctx;
} weir_fit_rows;

typedef struct weir_logistic_opts {
  double l2;         /* penalty l2/2 |w|^2 on weights of standardised features, beside the mean loss */
  int32_t max_turns; /* 0: 200 */
  double tolerance;  /* of the gradient's greatest component; 0: 1e-6 */
} weir_logistic_opts;

typedef struct weir_logistic {
  double *weight; /* [dim], owned: of the features as they come, standardising folded in */
  double bias;
  int32_t dim, turns;
  double loss;     /* mean, nats, without the penalty */
  double gradient; /* greatest component at the end */
  bool converged;
} weir_logistic;

/* Features with no spread get a weight of 0. WEIR_EINVAL where rows of both labels are not there or a feature
 * is not finite. */
weir_status weir_logistic_fit(const weir_fit_rows *, const weir_logistic_opts *, weir_logistic *out,
                              weir_err *e);
void weir_logistic_fini(weir_logistic *);                       /* a zeroed one is fine */
double weir_logistic_at(const weir_logistic *, const float *x); /* the probability */

#endif
