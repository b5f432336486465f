/* SPDX-License-Identifier: Apache-2.0 */
/* The gate head of an instance, for the forward pass: dots among a step's operations, which may be recorded,
 * fetch behind its last one, fill when it has been waited for. */
#ifndef WEIR_RUN_GATE_H
#define WEIR_RUN_GATE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/row.h"
#include "run/instance.h"

bool weir_instance_has_gate(const weir_instance *);
/* Wanted rows first .. first + hidden.rows; hidden is on the device, behind the final norm. */
weir_status weir_gate_dots(const weir_instance *, weir_mat hidden, int32_t first, weir_err *e);
weir_status weir_gate_fetch(const weir_instance *, int32_t n, weir_err *e);
/* rows[n].gate, from the rows' own statistics and what was fetched; 0 without a head. */
void weir_gate_fill(const weir_instance *, weir_row *rows, int32_t n);
void weir_instance_drop_gate(weir_instance *);

#endif
