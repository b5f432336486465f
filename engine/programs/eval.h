/* SPDX-License-Identifier: Apache-2.0 */
/* What `weir eval` has measured, and its reports. */
#ifndef WEIR_PROGRAMS_EVAL_H
#define WEIR_PROGRAMS_EVAL_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "cascade/cascade_conf.h"
#include "programs/answer.h"
#include "programs/eval_plan.h"
#include "programs/out.h"

/* One setting over all tasks. */
typedef struct weir_eval_row {
  weir_eval_setting setting;       /* opts.mode says what ran; of the models alone the rest is empty */
  char text[WEIR_EVAL_NAME_BYTES]; /* weir_eval_setting_text; "" for the models alone */
  double tau;                      /* where a deferral rate moves the threshold: the last it was moved to */
  bool chance;                     /* the control: defers by chance, as often as the row before it */
  int32_t n_tasks, n_right;
  double exact, lo, hi; /* exact match and its 95 % interval by Wilson's method, fractions */
  double deferral_rate; /* tokens of the large model / tokens */
  double routed_share;  /* mode route: requests that went to the large model / requests; NaN elsewhere */
  double route_share;   /* and the share of rows by which the last of them was decided */
  double mean_entropy;  /* nats; NaN when the small model saw nothing */
  double large_passes;  /* forward passes of the large model a request took part in, by token */
  int64_t tokens;
  double seconds;                   /* wall time of the whole batch */
  double tok_s, first_ms, total_ms; /* the latter two: median over tasks, from when a task was taken up */
  /* [n_tasks], owned: of each task 0 or 1, its tokens, and its seconds from when it was taken up */
  double *task_right, *task_tokens, *task_seconds;
  /* 95 % intervals by resampling tasks, the same for all rows. exact_lo, exact_hi: of exact match.
   * ahead: exact match less that of the large model. speed: of the speed-up, of tasks one at a time alone.
   * NaN: not known. */
  double exact_lo, exact_hi, ahead, ahead_lo, ahead_hi, speed_lo, speed_hi;
} weir_eval_row;

typedef struct weir_eval {
  weir_eval_row *row; /* [n], owned by whoever measures */
  int32_t n;
  int32_t small, large; /* rows of the models alone, -1: not measured */
  int32_t chosen; /* the cheapest cascade within one point of the large model, else the best one; -1: none */
  bool within;    /* whether it is within one point */
  int32_t batch, threads;
  int32_t n_resamples;              /* 0: no intervals were drawn */
  const char *isa, *device, *tasks; /* borrowed */
} weir_eval;

/* 95 % interval of a share of n by Wilson's score method (J. Am. Stat. Assoc. 22, 1927). */
void weir_wilson(int32_t right, int32_t n, double *lo, double *hi);
/* Sets `chosen` and `within`. Cheapest: fewest passes of the large model by token. */
void weir_eval_choose(weir_eval *);
void weir_eval_row_fini(weir_eval_row *);
bool weir_eval_is_cascade(const weir_eval_row *); /* neither a model alone nor a control */
/* Fills the resampled intervals of all rows. */
weir_status weir_eval_resample(weir_eval *, weir_err *e);
/* tok/s of row i over those of the large model alone; NaN without that row. */
double weir_eval_speedup(const weir_eval *, int32_t i);

weir_status weir_eval_table(const weir_eval *, weir_buf *out, weir_err *e);
json_t *weir_eval_row_json(const weir_eval *, int32_t i);
json_t *weir_eval_summary_json(const weir_eval *);

/* Drawings of exact match against deferral rate and against the speed-up over the large model, SVG 1.1,
 * complete in themselves, light or dark as the reader's system is. */
weir_status weir_eval_svg(const weir_eval *, weir_buf *out, weir_err *e);
weir_status weir_eval_svg_speed(const weir_eval *, weir_buf *out, weir_err *e);

#endif
