/* SPDX-License-Identifier: Apache-2.0 */
/* Gate heads of tiny models, on any device: scores against a float64 reference worked out from the hidden
 * states. Failures end the test. */
#ifndef WEIR_TESTS_GATE_RIG_H
#define WEIR_TESTS_GATE_RIG_H
#include <stdint.h>

#include "run/instance.h"
#include "step/batch.h"

/* A head of random weights that looks at two statistics too; free(head.weight). */
weir_gate_head gate_rig_head(const weir_instance *, uint32_t seed);
/* The score of one row in float64. */
double gate_rig_score(const weir_gate_head *, const float *hidden, const weir_row *);
/* Two sequences of one batch: 70 tokens with a row of each, 20 with the last one's; and their next tokens. */
enum { GATE_ROWS = 71, GATE_LONG = 70, GATE_SHORT = 20 };
weir_batch gate_rig_prompts(weir_batch_builder *, const weir_ask *like);
weir_batch gate_rig_decode(weir_batch_builder *, const weir_ask *like);
/* Runs the batch with and without hidden states: the same rows, each with the reference's score. Returns the
 * largest deviation; rows[batch->n_out]. */
double gate_rig_step(weir_instance *, const weir_batch *, const weir_gate_head *, weir_row *rows);

#endif
