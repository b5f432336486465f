/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of one model, timed on this machine. */
#ifndef WEIR_PROGRAMS_STEP_TIMES_H
#define WEIR_PROGRAMS_STEP_TIMES_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "step/step.h"

enum { WEIR_TIMED_PAST = 96, WEIR_TIMED_MOST = 128, WEIR_TIMED_ROUNDS = 60 };

typedef struct weir_timing {
  const int32_t *rows; /* [n], ascending, 1 .. WEIR_TIMED_MOST */
  int32_t n;
  bool all;         /* also with every row asked for, all of which then pass the head */
  int64_t limit_ns; /* no round begins after so long; 0: no limit. The first one always does */
} weir_timing;

/* Whether steps of so many rows can be timed on a model. */
bool weir_timing_fits(const weir_exec_info *, int32_t rows);
/* The fastest of WEIR_TIMED_ROUNDS steps of one sequence behind about WEIR_TIMED_PAST tokens, which is what
 * the model costs: what others on the machine take only ever adds. ns[n]: with one row asked for. ns_all[n]:
 * with all, where how->all says so. KV pages from 0 on are overwritten. */
weir_status weir_time_steps(weir_exec *, int32_t n_vocab, const weir_timing *how, double *ns, double *ns_all,
                            weir_err *e);

#endif
