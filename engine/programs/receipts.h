/* SPDX-License-Identifier: Apache-2.0 */
/* The file of receipts: for every generated token a line of JSON that says who wrote it and why. */
#ifndef WEIR_PROGRAMS_RECEIPTS_H
#define WEIR_PROGRAMS_RECEIPTS_H
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "cascade/policy.h"
#include "programs/answer.h"
#include "programs/load.h"

/* Writes the receipts of answer `request`: its decisions, where they were logged (programs/decision_log.h), a
 * line for each token, its end. A token's line has no schema: request, i, id, tier, H (nats, null where the gate saw no
 * row), tau (of that token; null: infinite, or no gate looked), reason, wait_us; for another gate than
 * entropy also gate and score, what it looked at; wanted_up where a tier was asked for that is not there. */
weir_status weir_receipts_write(FILE *f, const char *path, int32_t request, const weir_answer *,
                                const weir_cascade_cfg *, const weir_loaded *, weir_err *e);

#endif
