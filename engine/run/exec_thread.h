/* SPDX-License-Identifier: Apache-2.0 */
/* Gives any executor a thread of its own: submit hands the batch over, the thread computes it, ready and
 * notify tell when it is done. For tiers with devices of their own; two CPU tiers that share one thread team
 * gain nothing from it. */
#ifndef WEIR_RUN_EXEC_THREAD_H
#define WEIR_RUN_EXEC_THREAD_H
#include <stdbool.h>
#include <stdint.h>

#include "step/step.h"

/* Takes the executor (destroyed with this one, on failure too). Destroying waits for a step under way for
 * grace_ns (0: for ever); if it does not end, thread and inner executor are left behind, since a thread
 * inside a device driver cannot be stopped, and *left becomes true: what the executor works on must then not
 * be freed. `left` may be NULL; it is written when this is destroyed. */
weir_status weir_exec_thread_create(weir_exec *takes, int64_t grace_ns, bool *left, weir_exec **out,
                                    weir_err *e);

#endif
