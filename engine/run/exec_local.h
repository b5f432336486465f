/* SPDX-License-Identifier: Apache-2.0 */
/* The executor of one instance on one device. It has no thread of its own: submit takes the batch and wait
 * computes it in the caller's thread, which therefore owns the device between the two. */
#ifndef WEIR_RUN_EXEC_LOCAL_H
#define WEIR_RUN_EXEC_LOCAL_H
#include "run/instance.h"
#include "step/step.h"

/* Takes the instance (destroyed with the executor, on failure too). `name` is for messages and is copied. */
weir_status weir_exec_local_create(weir_instance *takes, const char *name, weir_exec **out, weir_err *e);

/* What an executor over this instance says of itself; of a shard, what the shard makes of it. `name` is
 * borrowed. */
weir_exec_info weir_exec_local_info(const weir_instance *, const char *name);

/* weir_forward_hidden of the executor's instance, between steps; WEIR_EUNSUP for another kind of executor.
 * *dim (may be NULL): of a hidden state; a NULL batch asks for that alone. */
weir_status weir_exec_local_hidden(weir_exec *, const weir_batch *, weir_row *rows, float *hidden,
                                   int32_t *dim, weir_err *e);
/* weir_instance_set_gate of the executor's instance, likewise; its info says so from then on. */
weir_status weir_exec_local_set_gate(weir_exec *, const weir_gate_head *, weir_err *e);

#endif
