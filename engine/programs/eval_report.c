/* SPDX-License-Identifier: Apache-2.0 */
/* What the rows of an evaluation come to: intervals, the choice, the table, JSON. Pure. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "programs/eval.h"

static const double POINT = 0.01;

void weir_wilson(int32_t right, int32_t n, double *lo, double *hi) {
  *lo = 0;
  *hi = 1;
  if (n <= 0) return;
  const double z = 1.959963984540054, p = (double)right / n, z2 = z * z / n;
  const double middle = (p + z2 / 2) / (1 + z2), half = z * sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2);
  *lo = fmax(0, middle - half);
  *hi = fmin(1, middle + half);
}

static bool is_cascade(const weir_eval_row *r) {
  return r->mode != WEIR_MODE_SMALL && r->mode != WEIR_MODE_LARGE && !r->chance;
}

void weir_eval_choose(weir_eval *v) {
  v->chosen = -1;
  v->within = false;
  int32_t best = -1;
  for (int32_t i = 0; i < v->n; i++) {
    const weir_eval_row *r = &v->row[i];
    if (!is_cascade(r)) continue;
    if (best < 0 || r->exact > v->row[best].exact) best = i;
    if (v->large < 0 || r->exact < v->row[v->large].exact - POINT - 1e-12) continue;
    if (v->chosen < 0 || r->large_passes < v->row[v->chosen].large_passes) v->chosen = i;
  }
  v->within = v->chosen >= 0;
  if (v->chosen < 0) v->chosen = best;
}

double weir_eval_speedup(const weir_eval *v, int32_t i) {
  return v->large >= 0 && v->row[v->large].tok_s > 0 ? v->row[i].tok_s / v->row[v->large].tok_s : NAN;
}

/* "entropy 0.5", "rate 0.1", "chance 0.157"; "" for a model alone. */
static void gate_text(const weir_eval_row *r, char *buf, size_t bytes) {
  buf[0] = '\0';
  if (r->chance)
    snprintf(buf, bytes, "chance %.3f", (double)r->gate.threshold);
  else if (r->rated)
    snprintf(buf, bytes, "%s%srate %g", r->gate.kind == WEIR_GATE_ENTROPY ? "" : weir_gate_name(r->gate.kind),
             r->gate.kind == WEIR_GATE_ENTROPY ? "" : " ", r->rate);
  else if (is_cascade(r))
    snprintf(buf, bytes, "%s %g", weir_gate_name(r->gate.kind), (double)r->gate.threshold);
}

static weir_status put_row(const weir_eval *v, int32_t i, weir_buf *out, weir_err *e) {
  const weir_eval_row *r = &v->row[i];
  char gate[40], speedup[16] = "-";
  gate_text(r, gate, sizeof gate);
  if (!isnan(weir_eval_speedup(v, i))) snprintf(speedup, sizeof speedup, "%.2f", weir_eval_speedup(v, i));
  return weir_buf_printf(out, e, "%-9s %-14s %6.3f  %.3f .. %.3f  %8.3f  %9.1f  %8s  %10.3f  %8.1f  %8.1f\n",
                         weir_mode_name(r->mode), gate, r->exact, r->lo, r->hi, r->deferral_rate, r->tok_s,
                         speedup, r->large_passes, r->first_ms, r->total_ms);
}

weir_status weir_eval_table(const weir_eval *v, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e, "%-9s %-14s %6s  %-14s  %8s  %9s  %8s  %10s  %8s  %8s\n", "mode", "gate",
                           "exact", "95 % interval", "deferral", "tok/s", "speed-up", "large", "first",
                           "whole"));
  WEIR_TRY(weir_buf_printf(out, e, "%-9s %-14s %6s  %-14s  %8s  %9s  %8s  %10s  %8s  %8s\n", "", "", "match",
                           "", "rate", "", "(large 1)", "passes/tok", "text, ms", "text, ms"));
  for (int32_t i = 0; i < v->n; i++) WEIR_TRY(put_row(v, i, out, e));
  if (v->n > 0)
    WEIR_TRY(weir_buf_printf(out, e, "%d tasks of %s, %d at a time; %s\n", v->row[0].n_tasks, v->tasks,
                             v->batch, v->device));
  if (v->chosen >= 0 && v->large >= 0) {
    const weir_eval_row *r = &v->row[v->chosen];
    char gate[40];
    gate_text(r, gate, sizeof gate);
    WEIR_TRY(weir_buf_printf(
        out, e, "%s: %s %s, exact match %.3f (large alone %.3f), deferral rate %.3f, speed-up %.2f\n",
        v->within ? "cheapest within one point of the large model"
                  : "none is within one point of the large model; the best",
        weir_mode_name(r->mode), gate, r->exact, v->row[v->large].exact, r->deferral_rate,
        weir_eval_speedup(v, v->chosen)));
  }
out:
  return st;
}

/* A threshold as it was written: 0.2, not the 0.200000003 that a float of it is. */
static double as_written(float x) {
  char text[32];
  snprintf(text, sizeof text, "%.7g", (double)x);
  return strtod(text, NULL);
}

/* The one of a row; of one that was moved, the last. */
static double tau_of(const weir_eval_row *r) { return r->rated ? r->tau : as_written(r->gate.threshold); }

static const char *gate_name(const weir_eval_row *r) {
  return r->chance ? "chance" : weir_gate_name(r->gate.kind);
}

json_t *weir_eval_row_json(const weir_eval *v, int32_t i) {
  const weir_eval_row *r = &v->row[i];
  const bool gated = is_cascade(r) || r->chance;
  return json_pack(
      "{s:s, s:s, s:s?, s:o, s:o, s:b, s:i, s:f, s:[f,f], s:f, s:I, s:f, s:f, s:o, s:o, s:f, s:f, s:f}", /**/
      "schema", "weir.eval.row.v1", "mode", weir_mode_name(r->mode), "gate", gated ? gate_name(r) : NULL,
      "tau", gated ? weir_json_real(tau_of(r)) : json_null(), "defer_rate",
      r->rated ? weir_json_real(r->rate) : json_null(), "chance", (int)r->chance, "tasks", r->n_tasks,
      "exact_match", r->exact, "interval95", r->lo, r->hi, "deferral_rate", r->deferral_rate, "tokens",
      (json_int_t)r->tokens, "seconds", r->seconds, "tok_s", r->tok_s, "speedup",
      weir_json_real(weir_eval_speedup(v, i)), "mean_entropy", weir_json_real(r->mean_entropy),
      "large_passes_per_token", r->large_passes, "first_ms", r->first_ms, "total_ms", r->total_ms);
}

static json_t *value_of(const weir_eval *v, int32_t i, double value) {
  (void)v;
  return i >= 0 ? weir_json_real(value) : json_null();
}

json_t *weir_eval_summary_json(const weir_eval *v) {
  static const weir_eval_row none;
  const int32_t c = v->chosen;
  const weir_eval_row *r = c >= 0 ? &v->row[c] : &none, *s = v->small >= 0 ? &v->row[v->small] : &none,
                      *l = v->large >= 0 ? &v->row[v->large] : &none;
  json_t *exact = json_pack("{s:o, s:o, s:o}", "cascade", value_of(v, c, r->exact), "large",
                            value_of(v, v->large, l->exact), "small", value_of(v, v->small, s->exact));
  return json_pack(
      "{s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s?, s:o, s:b, s:i, s:i, s:s, s:i, s:s}", /**/
      "schema", "weir.eval.summary.v1", "tokens", (json_int_t)r->tokens, "deferral_rate",
      value_of(v, c, r->deferral_rate), "entropy", value_of(v, c, r->mean_entropy), "cascade_tok_s",
      value_of(v, c, r->tok_s), "large_tok_s", value_of(v, v->large, l->tok_s), "small_tok_s",
      value_of(v, v->small, s->tok_s), "exact_match", exact, "tau", value_of(v, c, tau_of(r)), "mode",
      c >= 0 ? weir_mode_name(r->mode) : NULL, "speedup",
      value_of(v, c, c >= 0 ? weir_eval_speedup(v, c) : NAN), "within_one_point", (int)v->within, "tasks",
      v->n > 0 ? v->row[0].n_tasks : 0, "batch", v->batch, "isa", v->isa, "threads", v->threads, "device",
      v->device);
}
