/* SPDX-License-Identifier: Apache-2.0 */
/* Gates from traces: a row is wrong when the small model's token there is not the large one's. */
#ifndef WEIR_CALIBRATE_FIT_GATE_H
#define WEIR_CALIBRATE_FIT_GATE_H
#include <stdbool.h>

#include "base/err.h"
#include "calibrate/quality.h"
#include "calibrate/trace.h"
#include "cascade/policy.h"

/* The map of the isotonic gate, from the rows of a part. */
weir_status weir_fit_gate_map(const weir_trace *, weir_trace_part, weir_gate_stat, weir_gate_map *out,
                              weir_err *e);

typedef struct weir_fit_head_opts {
  double l2;               /* weir_logistic_opts; 0: 1e-3 */
  bool stat[WEIR_N_STATS]; /* read besides the hidden state */
  int32_t max_turns;       /* 0: 200 */
} weir_fit_head_opts;

/* The head, likewise; the trace has hidden states. out->weight is the caller's to free, on success. */
weir_status weir_fit_gate_head(const weir_trace *, weir_trace_part, const weir_fit_head_opts *,
                               weir_gate_head *out, weir_err *e);

/* The AUC of any gate's score over a part, turned where low ones defer; of a fitted gate Brier and ECE (ten
 * bins) too, which are 0 for others. A head's score is worked out from hidden states, or is the trace's own
 * where `head` is NULL. */
weir_status weir_gate_measure(const weir_trace *, weir_trace_part, weir_gate, const weir_gate_head *head,
                              weir_gate_quality *out, weir_err *e);

#endif
