/* SPDX-License-Identifier: Apache-2.0 */
/* Look-ups of fitted gates. Owns nothing, calls nothing; any thread. */
#include "cascade/gate_map.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const char *const stat_names[WEIR_N_STATS] = {
    [WEIR_STAT_ENTROPY] = "entropy", [WEIR_STAT_TOP_PROB] = "top-prob", [WEIR_STAT_MARGIN] = "margin"};

const char *weir_gate_stat_name(weir_gate_stat s) {
  return (unsigned)s < WEIR_N_STATS ? stat_names[s] : "unknown statistic";
}

bool weir_gate_stat_parse(const char *name, weir_gate_stat *out) {
  for (int i = 0; i < WEIR_N_STATS; i++)
    if (!strcmp(name, stat_names[i])) {
      *out = (weir_gate_stat)i;
      return true;
    }
  return false;
}

float weir_gate_stat_of(weir_gate_stat s, const weir_row *r) {
  return s == WEIR_STAT_ENTROPY ? r->entropy : s == WEIR_STAT_TOP_PROB ? r->p_max : r->margin;
}

float weir_gate_map_at(const weir_gate_map *m, float x) {
  int32_t lo = 0, hi = m->n - 1;
  if (isnan(x)) return 1;
  if (x <= m->x[lo]) return m->y[lo];
  if (x >= m->x[hi]) return m->y[hi];
  while (hi - lo > 1) { /* x[lo] <= x < x[hi] */
    const int32_t mid = lo + (hi - lo) / 2;
    if (m->x[mid] <= x)
      lo = mid;
    else
      hi = mid;
  }
  /* In double no difference of floats overflows, and rounding keeps the order. */
  const double t = ((double)x - (double)m->x[lo]) / ((double)m->x[hi] - (double)m->x[lo]);
  return (float)((double)m->y[lo] * (1 - t) + (double)m->y[hi] * t);
}

const char *weir_gate_map_error(const weir_gate_map *m) {
  if ((unsigned)m->stat >= WEIR_N_STATS) return "a gate map's statistic is none of entropy, top-prob, margin";
  if (m->n < 1 || m->n > WEIR_GATE_MAP_KNOTS) return "the number of a gate map's knots is not in 1 .. 256";
  for (int32_t i = 0; i < m->n; i++) {
    if (!isfinite(m->x[i])) return "a knot of a gate map is not a finite number";
    if (!(m->y[i] >= 0 && m->y[i] <= 1)) return "a gate map has a probability outside of 0 .. 1";
    if (i == 0) continue;
    if (m->x[i] <= m->x[i - 1]) return "the knots of a gate map do not ascend";
    const bool rises = m->y[i] > m->y[i - 1], falls = m->y[i] < m->y[i - 1];
    if (m->stat == WEIR_STAT_ENTROPY ? falls : rises)
      return m->stat == WEIR_STAT_ENTROPY ? "a gate map falls with the entropy"
                                          : "a gate map rises with the top probability or the margin";
  }
  return NULL;
}

float weir_gate_head_score(const weir_gate_head *h, float dot, const weir_row *r) {
  double z = (double)h->bias + (double)dot;
  for (int i = 0; i < WEIR_N_STATS; i++) /* a weight of 0 does not look: 0 times NaN is none */
    if (h->stat_weight[i] != 0)
      z += (double)h->stat_weight[i] * (double)weir_gate_stat_of((weir_gate_stat)i, r);
  return (float)(1 / (1 + exp(-z)));
}

const char *weir_gate_head_error(const weir_gate_head *h) {
  if (h->dim < 1 || h->dim > WEIR_GATE_MAX_DIM || !h->weight)
    return "a gate head's dimension is not in 1 .. 65536";
  if (!isfinite(h->bias)) return "a gate head's bias is not a finite number";
  for (int i = 0; i < WEIR_N_STATS; i++)
    if (!isfinite(h->stat_weight[i])) return "a gate head's weight of a statistic is not a finite number";
  for (int32_t i = 0; i < h->dim; i++)
    if (!isfinite(h->weight[i])) return "a gate head's weight is not a finite number";
  return NULL;
}
