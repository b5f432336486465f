/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of traces for the fits. Owns its memory for the call, and what it gives; any thread. */
#include "calibrate/fit_gate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "calibrate/fit_head.h"
#include "calibrate/fit_isotonic.h"

static bool is_wrong(const weir_trace_row *r) { return r->q_token != r->p_token; }

static weir_row row_of(const weir_trace_row *r) {
  return (weir_row){.token = r->q_token,
                    .logprob = r->q_logprob,
                    .entropy = r->q_entropy,
                    .p_max = r->q_max,
                    .margin = r->q_margin,
                    .gate = r->q_gate};
}

/* A part's rows: their place, in order. */
typedef struct rows {
  const weir_trace *t;
  struct at {
    int32_t text, i;
  } * at; /* [n], owned */
  int64_t n;
  bool stat[WEIR_N_STATS]; /* of feature() */
  float *feature;          /* [dim + n_stats], owned */
} rows;

static weir_status rows_init(rows *r, const weir_trace *t, weir_trace_part part, weir_err *e) {
  int64_t n = 0;
  *r = (rows){.t = t};
  for (int32_t k = 0; k < t->n; k++)
    if (t->text[k].part == (int32_t)part) n += t->text[k].n;
  if (n == 0) return weir_fail(e, WEIR_EINVAL, "no rows to fit or measure a gate on");
  const weir_status st = WEIR_NEW((size_t)n, &r->at, e);
  if (st != WEIR_OK) return st;
  for (int32_t k = 0; k < t->n; k++)
    for (int32_t i = 0; t->text[k].part == (int32_t)part && i < t->text[k].n; i++)
      r->at[r->n++] = (struct at){k, i};
  return WEIR_OK;
}

static void rows_fini(rows *r) {
  free(r->at);
  free(r->feature);
}

static const weir_trace_row *row_at(const rows *r, int64_t i) {
  return &r->t->text[r->at[i].text].row[r->at[i].i];
}

static const float *hidden_at(const rows *r, int64_t i) {
  return r->t->text[r->at[i].text].hidden + (size_t)r->at[i].i * (size_t)r->t->dim;
}

/* ---- the map ---- */

weir_status weir_fit_gate_map(const weir_trace *t, weir_trace_part part, weir_gate_stat stat,
                              weir_gate_map *out, weir_err *e) {
  rows r;
  float *x = NULL;
  bool *wrong = NULL;
  weir_status st = WEIR_OK;
  WEIR_TRY(rows_init(&r, t, part, e));
  WEIR_TRY(WEIR_NEW((size_t)r.n, &x, e));
  WEIR_TRY(WEIR_NEW((size_t)r.n, &wrong, e));
  for (int64_t i = 0; i < r.n; i++) {
    const weir_row q = row_of(row_at(&r, i));
    x[i] = weir_gate_stat_of(stat, &q);
    wrong[i] = is_wrong(row_at(&r, i));
  }
  st = weir_isotonic_map(stat, x, wrong, r.n, out, e);
out:
  rows_fini(&r);
  free(x);
  free(wrong);
  return st;
}

/* ---- the head ---- */

static const float *feature(void *ctx, int64_t i, bool *wrong) {
  rows *r = ctx;
  const weir_trace_row *x = row_at(r, i);
  const weir_row q = row_of(x);
  int32_t n = r->t->dim;
  memcpy(r->feature, hidden_at(r, i), (size_t)n * sizeof *r->feature);
  for (int s = 0; s < WEIR_N_STATS; s++)
    if (r->stat[s]) r->feature[n++] = weir_gate_stat_of((weir_gate_stat)s, &q);
  *wrong = is_wrong(x);
  return r->feature;
}

static weir_status check_hidden(const weir_trace *t, weir_trace_part part, weir_err *e) {
  for (int32_t k = 0; k < t->n; k++)
    if (t->text[k].part == (int32_t)part && t->text[k].n > 0 && (!t->text[k].hidden || t->dim < 1))
      return weir_fail(e, WEIR_EINVAL, "text %d of the trace has no hidden states", k + 1);
  return WEIR_OK;
}

weir_status weir_fit_gate_head(const weir_trace *t, weir_trace_part part, const weir_fit_head_opts *o,
                               weir_gate_head *out, weir_err *e) {
  weir_status st = WEIR_OK;
  rows r = {0};
  weir_logistic fit = {0};
  const weir_logistic_opts how = {
      .l2 = o->l2 > 0 ? o->l2 : 1e-3, .max_turns = o->max_turns, .tolerance = 1e-5};
  int32_t n = t->dim;
  *out = (weir_gate_head){.dim = t->dim};
  WEIR_TRY(check_hidden(t, part, e));
  WEIR_TRY(rows_init(&r, t, part, e));
  for (int s = 0; s < WEIR_N_STATS; s++) n += r.stat[s] = o->stat[s];
  WEIR_TRY(WEIR_NEW((size_t)n, &r.feature, e));
  const weir_fit_rows all = {.n = r.n, .dim = n, .row = feature, .ctx = &r};
  WEIR_TRY(weir_logistic_fit(&all, &how, &fit, e));
  WEIR_TRY(WEIR_NEW((size_t)t->dim, &out->weight, e));
  for (int32_t j = 0; j < t->dim; j++) out->weight[j] = (float)fit.weight[j];
  out->bias = (float)fit.bias;
  n = t->dim;
  for (int s = 0; s < WEIR_N_STATS; s++)
    if (o->stat[s]) out->stat_weight[s] = (float)fit.weight[n++];
  const char *wrong = weir_gate_head_error(out);
  if (wrong) st = weir_fail(e, WEIR_EINVAL, "%s", wrong);
out:
  if (st != WEIR_OK) {
    free(out->weight);
    *out = (weir_gate_head){0};
  }
  rows_fini(&r);
  weir_logistic_fini(&fit);
  return st;
}

/* ---- how good ---- */

static float score_of(const rows *r, int64_t i, weir_gate g, const weir_gate_head *h) {
  weir_row q = row_of(row_at(r, i));
  if (h && g.kind == WEIR_GATE_HEAD) {
    const float *x = hidden_at(r, i);
    double dot = 0;
    for (int32_t j = 0; j < h->dim; j++) dot += (double)h->weight[j] * (double)x[j];
    q.gate = weir_gate_head_score(h, (float)dot, &q);
  }
  const float s = weir_gate_score(g, &q);
  return weir_gate_is_low(g.kind) ? -s : s;
}

weir_status weir_gate_measure(const weir_trace *t, weir_trace_part part, weir_gate g, const weir_gate_head *h,
                              weir_gate_quality *out, weir_err *e) {
  rows r = {0};
  float *score = NULL;
  bool *wrong = NULL;
  weir_status st = WEIR_OK;
  *out = (weir_gate_quality){0};
  if (g.kind == WEIR_GATE_HEAD && h) {
    WEIR_TRY(check_hidden(t, part, e));
    if (h->dim != t->dim)
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "a head of dimension %d, hidden states of %d", h->dim, t->dim));
  }
  WEIR_TRY(rows_init(&r, t, part, e));
  WEIR_TRY(WEIR_NEW((size_t)r.n, &score, e));
  WEIR_TRY(WEIR_NEW((size_t)r.n, &wrong, e));
  for (int64_t i = 0; i < r.n; i++) {
    score[i] = score_of(&r, i, g, h);
    wrong[i] = is_wrong(row_at(&r, i));
    out->error_rate += wrong[i];
  }
  WEIR_TRY(weir_quality_auc(score, wrong, r.n, &out->auc, e));
  if (weir_gate_is_fitted(g.kind)) {
    out->brier = weir_quality_brier(score, wrong, r.n);
    out->ece = weir_quality_ece(score, wrong, r.n, 10);
  }
  out->rows = r.n;
  out->error_rate /= (double)r.n;
out:
  rows_fini(&r);
  free(score);
  free(wrong);
  return st;
}
