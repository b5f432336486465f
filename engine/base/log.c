/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines. One write per line, so lines of several threads do not mix. Any thread. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic int current = WEIR_LOG_INFO;

void weir_log_set_level(weir_log_level level) { atomic_store(&current, (int)level); }

void weir_log(weir_log_level level, const char *fmt, ...) {
  static const char *const prefix[] = {"error: ", "warning: ", "", ""};
  if ((int)level > atomic_load(&current)) return;
  char line[1024];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  fprintf(stderr, "weir: %s%s\n", prefix[level], line);
}
