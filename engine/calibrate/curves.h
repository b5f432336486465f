/* SPDX-License-Identifier: Apache-2.0 */
/* Every gate and rule at many settings, by replay. Pure but for memory. */
#ifndef WEIR_CALIBRATE_CURVES_H
#define WEIR_CALIBRATE_CURVES_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "calibrate/cost.h"
#include "calibrate/replay.h"
#include "calibrate/result.h"
#include "calibrate/trace.h"

typedef struct weir_curves_how {
  const weir_trace *trace;
  int32_t part;              /* which texts: weir_trace_part; -1: all */
  const weir_cal_cost *cost; /* n 0: times are not known */
  weir_cost_engine engine;
  const weir_gate_map *map; /* NULL: no curve of the isotonic gate */
  bool head;                /* a curve of the gate head: the trace has its scores */
  /* After each point; false: stop. May be NULL. */
  bool (*progress)(void *ctx, int32_t done, int32_t total);
  void *ctx;
} weir_curves_how;

/* One setting: fills everything of the point but speedup, pareto and run. oracle: opts are ignored. */
weir_status weir_curves_point(const weir_curves_how *, const weir_cascade_opts *, bool oracle,
                              weir_replay_scratch *, weir_cost_log *, weir_cal_point *out, weir_err *e);

/* All curves: appends to out->curve, the large model's first. WEIR_ECANCEL when progress said so. */
weir_status weir_curves_make(const weir_curves_how *, weir_calibration *out, weir_err *e);

/* The point of the curve of a kind whose predicted time is least; NULL: there is none. */
const weir_cal_point *weir_curves_fastest(const weir_calibration *, weir_curve_kind);

/* "defer entropy 0.45" */
void weir_curves_label(const weir_cascade_opts *, char *out, size_t bytes);

#endif
