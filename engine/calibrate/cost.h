/* SPDX-License-Identifier: Apache-2.0 */
/* What steps cost, and how long requests take whose steps are known. Pure arithmetic. */
#ifndef WEIR_CALIBRATE_COST_H
#define WEIR_CALIBRATE_COST_H
#include <stdint.h>

#include "base/err.h"
#include "calibrate/replay.h"
#include "calibrate/result.h"

/* Time of a step of `tier`, ns: rows fed, of which `asked` (1 at least) pass the head. Linear between the
 * sizes measured, and on beyond the last one with its slope. */
double weir_cost_step_ns(const weir_cal_cost *, int32_t tier, int32_t rows, int32_t asked);

/* The steps of many requests, one request behind the other. */
typedef struct weir_cost_log {
  weir_replay_step *step; /* [n], owned */
  int64_t n, cap;
  int64_t *end; /* [n_requests]: where a request's steps end; owned */
  int32_t n_requests, cap_requests;
  weir_err err; /* memory ran out while a replay was logged */
} weir_cost_log;
void weir_cost_log_clear(weir_cost_log *);
void weir_cost_log_fini(weir_cost_log *); /* a zeroed one is fine */
/* For weir_replay_how.on_step, with the log as ctx; after each text weir_cost_log_end. */
void weir_cost_log_step(void *log, const weir_replay_step *);
weir_status weir_cost_log_end(weir_cost_log *, weir_err *e);

/* How the engine batches: as weir_engine_cfg has it. */
typedef struct weir_cost_engine {
  int32_t batch;        /* requests under way at once, >= 1 */
  int32_t large_batch;  /* a large step runs when so many wait, ... */
  double large_wait_ns; /* ... or one has waited so long, or nobody waits for the small tier */
  int32_t max_rows;     /* of a step */
} weir_cost_engine;

/* Plays the engine's loop on a clock of its own: all tiers share a device and alternate, requests are taken
 * in order, each goes on when its step has ended. What the loop itself costs is left out. Returns ns in all;
 * steps[2]: of the engine, may be NULL. */
weir_status weir_cost_simulate(const weir_cal_cost *, const weir_cost_log *, const weir_cost_engine *,
                               double *ns, int64_t steps[2], weir_err *e);

#endif
