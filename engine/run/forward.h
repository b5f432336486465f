/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass, written once over the device contract. */
#ifndef WEIR_RUN_FORWARD_H
#define WEIR_RUN_FORWARD_H
#include "base/err.h"
#include "run/instance.h"
#include "step/step.h"

/* Runs one batch (already checked against the contract) and waits for it; rows[batch->n_out], and
 * top[batch->n_out][WEIR_TOP_MAX] or NULL when no ask wants any. */
weir_status weir_forward(weir_instance *, const weir_batch *, weir_row *rows, weir_top *top, weir_err *e);

/* As weir_forward, but gives the logits of the wanted rows instead: logits[n_out, n_vocab] on the host. For
 * tests and perplexity; serving never moves logits. */
weir_status weir_forward_logits(weir_instance *, const weir_batch *, float *logits, weir_err *e);

/* As weir_forward without likeliest tokens, and besides the hidden states that the head reads of the wanted
 * rows, behind the final norm: hidden[n_out, dim] on the host. For calibration; `rows` may be NULL, and then
 * the asks are not looked at. */
weir_status weir_forward_hidden(weir_instance *, const weir_batch *, weir_row *rows, float *hidden,
                                weir_err *e);

#endif
