/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of comm_conf.h for ranks that are processes: they work together, and one is killed or stopped at
 * any point. The ranks are this very program, started again; they work in host memory. */
#ifndef TESTS_UNIT_COMM_COMM_PROCS_H
#define TESTS_UNIT_COMM_COMM_PROCS_H
#include "comm_conf.h"

/* To be called first in main: of a rank it is the whole life, and *status its exit status. */
bool procs_is_rank(int argc, char **argv, int *status);

void procs_check_ops(const comm_conf *, int32_t n);
/* One is killed between, or in, two calls; the others are told within bound_ns and some grace. */
void procs_check_killed(const comm_conf *, int32_t n, int64_t bound_ns);
/* One is stopped: the others say after the bound who it is, and it learns when it goes on. */
void procs_check_stopped(const comm_conf *, int32_t n);
/* One is stopped, another aborts: all know at once. */
void procs_check_stopped_abort(const comm_conf *, int32_t n);
/* All are stopped, for longer than the bound, and go on as if nothing had been. */
void procs_check_all_stopped(const comm_conf *, int32_t n);
/* One dies before it joins. */
void procs_check_killed_joining(const comm_conf *, int32_t n);

#endif
