/* SPDX-License-Identifier: Apache-2.0 */
/* Whether this process is a worker, whatever its command. */
#ifndef WEIR_PROGRAMS_WORKER_H
#define WEIR_PROGRAMS_WORKER_H
#include "programs/options.h"

/* Does the command, or works for the process with node rank 0: an exit status. */
int weir_run_or_work(const weir_command *, const weir_config *);

/* Of the program: all processes of a model must have the same. */
const char *weir_program_version(void);

#endif
