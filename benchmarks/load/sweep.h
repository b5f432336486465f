/* SPDX-License-Identifier: Apache-2.0 */
/* Which loads a sweep tries, and where its knee is: the greatest load at which the objectives are met and
 * goodput still grows. */
#ifndef WEIR_LOAD_SWEEP_H
#define WEIR_LOAD_SWEEP_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_SWEEP_MAX_POINTS = 64 };

typedef struct weir_sweep_cfg {
  const double *points; /* borrowed; n_points 0: from `from`, doubling up to `most`, then `refine` points
                           between the last good and the first bad one */
  int32_t n_points;
  double from, most;
  int32_t refine;
  bool whole;  /* values are whole numbers (concurrency) */
  bool to_end; /* no stop rule: all points given are tried */
} weir_sweep_cfg;

typedef struct weir_sweep {
  weir_sweep_cfg cfg;
  double x[WEIR_SWEEP_MAX_POINTS];
  bool good[WEIR_SWEEP_MAX_POINTS];
  int32_t n;
  double best_goodput, last_good, first_bad; /* NaN: none yet */
  int32_t refined;
} weir_sweep;

weir_status weir_sweep_init(weir_sweep *, const weir_sweep_cfg *, weir_err *e);
/* The next load; false: enough. */
bool weir_sweep_next(weir_sweep *, double *x);
/* What the load that weir_sweep_next gave has come to. */
void weir_sweep_tell(weir_sweep *, bool met, double goodput);
/* Index of the point, in the order tried; -1: none was good. */
int32_t weir_sweep_knee(const weir_sweep *);

#endif
