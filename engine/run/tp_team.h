/* SPDX-License-Identifier: Apache-2.0 */
/* The threads of one process's ranks: each job runs once on every one of them, and each thread is always the
 * same rank's, because a device belongs to a thread. Unlike a pool (base/pool.h) ranks may wait for each
 * other within a job, and nobody waits for the job: its end is told. */
#ifndef WEIR_RUN_TP_TEAM_H
#define WEIR_RUN_TP_TEAM_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef struct weir_tp_team weir_tp_team;
/* Rank `i` of this process, on its own thread. */
typedef weir_status (*weir_tp_job)(void *ctx, int32_t i, weir_err *e);

typedef struct weir_tp_team_opts {
  int32_t n;
  /* From a rank's thread, as soon as its part of the job has failed; of the first one only. */
  void (*on_fail)(void *ctx, int32_t i, const weir_err *e);
  /* From the thread of the rank that is last, when all are done: from here on the team may be given its next
   * job, which this thread takes up when this has returned. `st` is of the first that failed. */
  void (*on_done)(void *ctx, weir_status st);
  void *ctx;
} weir_tp_team_opts;

weir_status weir_tp_team_create(const weir_tp_team_opts *, weir_tp_team **out, weir_err *e);
/* Wakes all; never blocks. WEIR_EBUSY while they are at a job. */
weir_status weir_tp_team_start(weir_tp_team *, weir_tp_job, void *ctx, weir_err *e);
/* Whether a rank is at a job still that another was done with for_ns ago or more: *i is the first such. The
 * job is one whose ranks wait for each other until its end. From any thread. */
bool weir_tp_team_late(weir_tp_team *, int64_t for_ns, int32_t *i);
/* Joins the threads of a team that is idle. One that is not is left as it is, and false comes back: all that
 * its job looks at has to stay. NULL is fine. */
bool weir_tp_team_destroy(weir_tp_team *);

#endif
