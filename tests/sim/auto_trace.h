/* SPDX-License-Identifier: Apache-2.0 */
/* A trace of concurrent requests, from one to many and back, through an engine over made-up machines: how
 * long it takes in each fixed mode and in mode auto. */
#ifndef WEIR_TESTS_AUTO_TRACE_H
#define WEIR_TESTS_AUTO_TRACE_H
#include "serve/auto.h"
#include "world.h"

typedef struct auto_machine {
  const char *name;
  double step_ms[2], row_ms[2];
  int32_t free_rows[2];
  bool overlap;
  double agreement, sharpness, deferred; /* of the texts; deferred: share of tokens the gate stops */
} auto_machine;

typedef struct auto_ran {
  double seconds;
  int64_t switches, probes, tokens[WEIR_N_AUTO_MODES];
  double stands; /* share of drafts that stood, in exact */
} auto_ran;

/* The fixed mode, or auto with a floor. `rules` may be NULL: the engine's own. */
auto_ran auto_trace(const auto_machine *, weir_mode, weir_quality, const weir_auto_rules *rules);

#endif
