/* SPDX-License-Identifier: Apache-2.0 */
/* Conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster: arXiv 2208.02814): from losses of n
 * requests the setting that defers least and whose loss on one more request, exchangeable with them, is at
 * most alpha in expectation (over the n requests and that one).
 *
 * Settings are numbered from the one that defers most, 0, to the one that defers least; a request's loss must
 * never fall along them and lie in [0, 1]. With R(j) the mean loss of setting j, the choice is the last j
 * with
 *
 *     n/(n+1) R(j) + 1/(n+1) <= alpha,
 *
 * and there is none where even R = 0 does not meet it: n must be 1/alpha - 1 at least. The settings must not
 * have been picked by looking at these requests. */
#ifndef WEIR_CALIBRATE_CONFORMAL_H
#define WEIR_CALIBRATE_CONFORMAL_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "calibrate/trace.h"
#include "cascade/policy.h"

/* The left-hand side above. */
double weir_conformal_bound(double mean_loss, int32_t n);
/* The least n for which alpha can be met at all. alpha in (0, 1]. */
int32_t weir_conformal_enough(double alpha);

/* loss[n][m], request by request. Makes each request's losses monotone from the start (running maximum: an
 * upper bound, which keeps the guarantee) and writes their means to risk[m]. The choice, -1: none. */
int32_t weir_conformal_choose(float *loss, int32_t n, int32_t m, double alpha, double *risk);

/* ---- thresholds of a gate, with the loss of tokens ----
 *
 * A request's loss at a threshold: the share of its tokens, along the large model's text, that the gate lets
 * pass and that are not the large model's. A function of the threshold that never falls as less is deferred,
 * and computed from the trace alone. Thresholds are looked at on a fixed grid, multiples of 1/2000 of the
 * gate's score (entropy: nats), so that none is picked by looking at the data. */
enum { WEIR_CONFORMAL_GRID = 4002 }; /* all, then 0 .. 2 nats; of the others 0 .. 1, in steps half as large */

/* Grid thresholds in order of falling deferral; `kind` neither chance. Setting 0 defers everything. */
float weir_conformal_threshold(weir_gate_kind, int32_t j);

typedef struct weir_conformal_tokens {
  int32_t n;      /* requests with a token at least */
  int32_t chosen; /* of the grid; -1: none */
  double *risk;   /* [WEIR_CONFORMAL_GRID], owned */
} weir_conformal_tokens;

/* Texts of a part. The gate's threshold is ignored. */
weir_status weir_conformal_on_tokens(const weir_trace *, weir_trace_part part, const weir_gate *,
                                     double alpha, weir_conformal_tokens *out, weir_err *e);
/* The loss of one text at a threshold. */
double weir_conformal_token_loss(const weir_trace_text *, const weir_gate *);

#endif
