/* SPDX-License-Identifier: Apache-2.0 */
/* What `weir eval` is to measure: the settings that its lists of modes, thresholds, rules and windows come
 * to.
 */
#ifndef WEIR_PROGRAMS_EVAL_PLAN_H
#define WEIR_PROGRAMS_EVAL_PLAN_H
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "cascade/cascade_conf.h"

enum { WEIR_EVAL_NAME_BYTES = 96, WEIR_MAX_EVAL_SETTINGS = 1000 };

typedef struct weir_eval_setting {
  weir_cascade_opts opts; /* those of the mode that were given; with them alone `cascade` is made */
  weir_cascade_cfg cascade;
  bool control; /* beside it, as many tokens deferred by chance say what its gate is worth */
} weir_eval_setting;

typedef struct weir_eval_plan {
  weir_eval_setting *setting; /* [n], owned; in the order they are measured */
  int32_t n, cap;
} weir_eval_plan; /* zeroed: empty */

/* Reads --mode, --entropy, --threshold, --defer-rate, --accept, --accept-alpha, --window and the cascade's
 * other options. Each mode is combined with every value of those that mean something in it; one that means
 * something in none of the modes is refused. The models alone are no part of it. */
weir_status weir_eval_plan_make(const weir_config *, weir_eval_plan *out, weir_err *e);
void weir_eval_plan_fini(weir_eval_plan *);

/* The control of a setting: the same, but its gate defers by chance, at this rate. */
weir_status weir_eval_control(const weir_eval_setting *, double rate, weir_eval_setting *out, weir_err *e);

/* What makes the setting in its mode, parts with ", " between: "entropy 0.5", "margin, rate 0.1",
 * "v3 0.1, window 5". */
void weir_eval_setting_text(const weir_eval_setting *, char buf[WEIR_EVAL_NAME_BYTES]);

#endif
