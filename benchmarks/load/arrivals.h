/* SPDX-License-Identifier: Apache-2.0 */
/* When requests of an open loop are sent: the schedule does not wait for answers. */
#ifndef WEIR_LOAD_ARRIVALS_H
#define WEIR_LOAD_ARRIVALS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "load/rand.h"

typedef enum {
  WEIR_LOAD_CLOSED, /* no schedule: a request follows the end of another */
  WEIR_LOAD_CONSTANT,
  WEIR_LOAD_POISSON,
  WEIR_LOAD_GAMMA, /* gaps of a gamma distribution of shape `burstiness`: 1 is Poisson, less has more bursts
                    */
  WEIR_LOAD_RAMP,  /* Poisson whose rate goes in a line from `rate` to `rate_end` over `ramp_s` */
  WEIR_LOAD_TRACE  /* times given from outside */
} weir_load_kind;

const char *weir_load_kind_name(weir_load_kind);

typedef struct weir_arrivals_cfg {
  weir_load_kind kind;
  double rate, rate_end; /* requests a second, > 0 */
  double burstiness;     /* GAMMA, > 0 */
  double ramp_s;         /* RAMP, > 0; at rate_end from there on */
  const double *trace_s; /* TRACE: borrowed, ascending from 0 */
  int64_t n_trace;
  double trace_speed; /* TRACE: 2 replays in half the time */
  uint64_t seed;
} weir_arrivals_cfg;

typedef struct weir_arrivals {
  weir_arrivals_cfg cfg;
  weir_rand rand;
  double at_s; /* of the last one */
  int64_t n;   /* given so far */
} weir_arrivals;

/* WEIR_EINVAL when a number is not above 0. CLOSED has no arrivals to make. */
weir_status weir_arrivals_init(weir_arrivals *, const weir_arrivals_cfg *, weir_err *e);
/* The next time, in ns from the start; false: the trace has ended. */
bool weir_arrivals_next(weir_arrivals *, int64_t *at_ns);

#endif
