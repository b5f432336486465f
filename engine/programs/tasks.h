/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks with a known answer, and the rule that says whether a text has it. */
#ifndef WEIR_PROGRAMS_TASKS_H
#define WEIR_PROGRAMS_TASKS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

typedef struct weir_eval_task {
  char *prompt, *answer; /* owned; NUL-terminated, without a NUL inside */
  int32_t pattern;       /* index in weir_tasks.pattern */
} weir_eval_task;

typedef struct weir_tasks {
  weir_eval_task *task; /* [n], owned */
  int32_t n, cap;
  struct weir_task_pattern *pattern; /* [n_patterns], owned: most tasks share a few */
  int32_t n_patterns;
  void *limits; /* owned: how much work a match may be */
} weir_tasks;   /* zeroed: empty */

enum { WEIR_MAX_TASK_BYTES = 1 << 20, WEIR_MAX_TASKS = 1000000 };

/* Reads a file of JSON lines, each an object with the strings `prompt`, `answer` and `match`; other members
 * are left alone. Errors name file and line. limit > 0: only so many. */
weir_status weir_tasks_read(const char *path, int32_t limit, weir_tasks *out, weir_err *e);
void weir_tasks_fini(weir_tasks *);

/* The answer in a text: the last group of the pattern's last match, without blanks around it; the whole match
 * when the pattern has no group; nothing when there is no match, or when finding one takes too much work.
 * `found` is overwritten. */
weir_status weir_task_find(const weir_tasks *, int32_t i, const char *text, size_t len, weir_buf *found,
                           weir_err *e);

#endif
