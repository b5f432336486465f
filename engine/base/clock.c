/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's monotonic clock. Any thread. */
#include "base/clock.h"

#include <stddef.h>
#include <time.h>

int64_t weir_monotonic_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t system_now_ns(void *ctx) {
  (void)ctx;
  return weir_monotonic_ns();
}

weir_clock weir_clock_system(void) { return (weir_clock){system_now_ns, NULL}; }
