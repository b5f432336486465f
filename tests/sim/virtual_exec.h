/* SPDX-License-Identifier: Apache-2.0 */
/* The fake executor on a clock that only the test moves: a step takes a time that grows with its rows. Waited
 * for, it moves the clock to its end; asynchronous, it is ready once the clock has got there. */
#ifndef WEIR_TESTS_VIRTUAL_EXEC_H
#define WEIR_TESTS_VIRTUAL_EXEC_H
#include <stdbool.h>
#include <stdint.h>

#include "fake_exec.h"

typedef struct virtual_opts {
  fake_opts fake;
  int64_t *clock_ns; /* borrowed */
  int64_t step_ns, row_ns;
  bool async;
  int64_t hang_at_step; /* this step never ends (asynchronous ones alone); < 0: none */
} virtual_opts;

weir_exec *virtual_exec_create(const virtual_opts *);
/* When the step under way ends; INT64_MAX: none, or never. */
int64_t virtual_exec_due(const weir_exec *);
/* A step that never ends has ended after all: what an engine that has given it up must live with. */
void virtual_exec_let_go(weir_exec *);
/* Rows fed so far. */
int64_t virtual_exec_rows(const weir_exec *);

#endif
