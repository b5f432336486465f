/* SPDX-License-Identifier: Apache-2.0 */
/* What a failed check does: it says kernel, block and thread, and ends the process, or, where a test expects
 * it, abandons the launch. Any OS thread. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "emu_impl.h"

namespace emu {

const char *op_name(Op op) {
  static const char *const name[] = {"shfl",
                                     "shfl_down",
                                     "shfl_up",
                                     "shfl_xor",
                                     "ballot",
                                     "match_any",
                                     "match_all",
                                     "reduce_add",
                                     "reduce_min",
                                     "reduce_max",
                                     "reduce_min",
                                     "reduce_max",
                                     "reduce_and",
                                     "reduce_or",
                                     "reduce_xor",
                                     "syncwarp",
                                     "ldmatrix.x1",
                                     "ldmatrix.x2",
                                     "ldmatrix.x4",
                                     "ldmatrix.x1.trans",
                                     "ldmatrix.x2.trans",
                                     "ldmatrix.x4.trans",
                                     "mma.bf16",
                                     "mma.f16",
                                     "mma.s8",
                                     "wgmma"};
  return name[op];
}

static void fail(int status, const char *format, va_list ap) __attribute__((noreturn, format(printf, 2, 0)));

static void fail(int status, const char *format, va_list ap) {
  char text[1024];
  int n = 0;
  Worker *w = worker();
  if (w->launch) n += snprintf(text + n, sizeof text - (size_t)n, "kernel %s: ", w->launch->kernel);
  if (B) n += snprintf(text + n, sizeof text - (size_t)n, "block (%u,%u,%u) ", B->id.x, B->id.y, B->id.z);
  if (cur) {
    const Thread *t = self();
    n += snprintf(text + n, sizeof text - (size_t)n, "thread %u (warp %u lane %u): ", t->index, t->warp,
                  t->lane);
  }
  if ((size_t)n < sizeof text) vsnprintf(text + n, sizeof text - (size_t)n, format, ap);
  if (!w->expecting) {
    fflush(NULL);
    fprintf(stderr, "cuda emulator: %s\n", text);
    _exit(status);
  }
  if (!w->failed) w->message = text;
  w->failed = true;
  if (cur) fiber_leave(nullptr);
  throw Stop();
}

void die(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  fail(EMU_EXIT_ERROR, format, ap);
}

void die_race(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  fail(EMU_EXIT_RACE, format, ap);
}

}  // namespace emu

const char *emu_expect_error(void (*fn)(void *), void *arg) {
  emu::Worker *w = emu::worker();
  w->message.clear();
  w->failed = false;
  w->expecting = true;
  try {
    fn(arg);
  } catch (const emu::Stop &) {
  }
  w->expecting = false;
  return w->message.c_str();
}
