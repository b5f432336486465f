/* SPDX-License-Identifier: Apache-2.0 */
/* Time. Everything that measures or waits takes a weir_clock, so that tests run on a virtual one. */
#ifndef WEIR_BASE_CLOCK_H
#define WEIR_BASE_CLOCK_H
#include <stdint.h>

typedef struct weir_clock {
  int64_t (*now_ns)(void *ctx); /* monotonic, arbitrary origin */
  void *ctx;
} weir_clock;

/* The machine's monotonic clock. */
weir_clock weir_clock_system(void);
/* The same, for what waits for other threads, processes or machines: those have no virtual clock. */
int64_t weir_monotonic_ns(void);

static inline int64_t weir_now_ns(const weir_clock *c) { return c->now_ns(c->ctx); }

#endif
