/* SPDX-License-Identifier: Apache-2.0 */
/* One line on standard error that is drawn anew, where that is a terminal. */
#ifndef WEIR_LOAD_PROGRESS_H
#define WEIR_LOAD_PROGRESS_H
#include <stdbool.h>

#include "load/run.h"

typedef struct weir_progress {
  bool on;
  char what[80]; /* of the point under way */
} weir_progress;

void weir_progress_init(weir_progress *, bool quiet);
/* The line itself, at most `width` columns; for tests. */
void weir_progress_text(const char *what, const weir_load_progress *, int width, char *buf, size_t bytes);
void weir_progress_show(void *progress, const weir_load_progress *); /* weir_run_cfg.progress */
void weir_progress_clear(weir_progress *);

#endif
