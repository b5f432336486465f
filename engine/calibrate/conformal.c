/* SPDX-License-Identifier: Apache-2.0 */
/* Conformal risk control. Owns nothing but what it returns; any thread. */
#include "calibrate/conformal.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "calibrate/replay.h"

double weir_conformal_bound(double mean_loss, int32_t n) {
  return ((double)n * mean_loss + 1) / ((double)n + 1);
}

/* Not by rounding 1/alpha: the answer is to agree with the comparison that decides. */
int32_t weir_conformal_enough(double alpha) {
  int32_t lo = 0, hi = INT32_MAX - 1;
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    if (weir_conformal_bound(0, mid) <= alpha)
      hi = mid;
    else
      lo = mid + 1;
  }
  return lo;
}

static int32_t last_within(const double *risk, int32_t n, int32_t m, double alpha) {
  int32_t chosen = -1;
  while (chosen + 1 < m && weir_conformal_bound(risk[chosen + 1], n) <= alpha) chosen++;
  return chosen;
}

int32_t weir_conformal_choose(float *loss, int32_t n, int32_t m, double alpha, double *risk) {
  for (int32_t j = 0; j < m; j++) risk[j] = 0;
  for (int32_t i = 0; i < n; i++) {
    float *of = loss + (size_t)i * (size_t)m;
    for (int32_t j = 0; j < m; j++) {
      if (j > 0 && of[j] < of[j - 1]) of[j] = of[j - 1];
      risk[j] += (double)of[j];
    }
  }
  for (int32_t j = 0; j < m && n > 0; j++) risk[j] /= n;
  return n > 0 ? last_within(risk, n, m, alpha) : -1;
}

/* ---- thresholds ---- */

float weir_conformal_threshold(weir_gate_kind kind, int32_t j) {
  const double last = WEIR_CONFORMAL_GRID - 1, share = (double)(j - 1) / (last - 1); /* 0 .. 1 */
  const bool low = weir_gate_is_low(kind);
  if (j <= 0) return low ? 2.0F : -1.0F;
  if (kind == WEIR_GATE_ENTROPY) return (float)(2 * share);
  return (float)(low ? 1 - share : share);
}

double weir_conformal_token_loss(const weir_trace_text *x, const weir_gate *g) {
  int32_t lost = 0;
  for (int32_t i = 0; i < x->n; i++) {
    const weir_row row = weir_trace_small_row(&x->row[i]);
    lost += x->row[i].q_token != x->row[i].p_token && !weir_gate_defers(*g, &row);
  }
  return x->n > 0 ? (double)lost / x->n : 0;
}

/* The first grid threshold at which the row passes; WEIR_CONFORMAL_GRID: at none. Monotone in the score, so
 * that a search of halves finds it with the gate's own comparison. */
static int32_t passes_from(const weir_gate *g, const weir_row *row) {
  int32_t lo = 0, hi = WEIR_CONFORMAL_GRID;
  weir_gate at = *g;
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    at.threshold = weir_conformal_threshold(g->kind, mid);
    if (weir_gate_defers(at, row))
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

weir_status weir_conformal_on_tokens(const weir_trace *t, weir_trace_part part, const weir_gate *g,
                                     double alpha, weir_conformal_tokens *out, weir_err *e) {
  *out = (weir_conformal_tokens){.chosen = -1};
  const weir_status st = WEIR_NEW(WEIR_CONFORMAL_GRID, &out->risk, e);
  if (st != WEIR_OK) return st;
  for (int32_t k = 0; k < t->n; k++) {
    const weir_trace_text *x = &t->text[k];
    if (x->part != (int32_t)part || x->n == 0) continue;
    out->n++;
    for (int32_t i = 0; i < x->n; i++) {
      if (x->row[i].q_token == x->row[i].p_token) continue;
      const weir_row row = weir_trace_small_row(&x->row[i]);
      const int32_t from = passes_from(g, &row);
      if (from < WEIR_CONFORMAL_GRID) out->risk[from] += 1.0 / x->n;
    }
  }
  for (int32_t j = 1; j < WEIR_CONFORMAL_GRID; j++) out->risk[j] += out->risk[j - 1];
  for (int32_t j = 0; j < WEIR_CONFORMAL_GRID && out->n > 0; j++) out->risk[j] /= out->n;
  if (out->n > 0) out->chosen = last_within(out->risk, out->n, WEIR_CONFORMAL_GRID, alpha);
  return WEIR_OK;
}
