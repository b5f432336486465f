/* SPDX-License-Identifier: Apache-2.0 */
/* What the rows of an evaluation come to: intervals, the choice, the table, JSON. Pure. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "calibrate/bootstrap.h"
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

void weir_eval_row_fini(weir_eval_row *r) {
  free(r->task_right);
  free(r->task_tokens);
  free(r->task_seconds);
  *r = (weir_eval_row){0};
}

static bool is_alone(const weir_eval_row *r) {
  return r->setting.opts.mode == WEIR_MODE_SMALL || r->setting.opts.mode == WEIR_MODE_LARGE;
}

bool weir_eval_is_cascade(const weir_eval_row *r) { return !is_alone(r) && !r->chance; }

void weir_eval_choose(weir_eval *v) {
  v->chosen = -1;
  v->within = false;
  int32_t best = -1;
  for (int32_t i = 0; i < v->n; i++) {
    const weir_eval_row *r = &v->row[i];
    if (!weir_eval_is_cascade(r)) continue;
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

/* ---- intervals ---- */

/* Two columns a row: right by task, and tokens by second. Many tasks make the interval narrow and its drawing
 * long: then fewer draws will do. */
static int32_t n_resamples(const weir_eval *v, int32_t n) {
  const double most = 4e9 / ((double)n * 2 * v->n);
  return most < 200 ? 200 : most < WEIR_BOOTSTRAP_RESAMPLES ? (int32_t)most : WEIR_BOOTSTRAP_RESAMPLES;
}

weir_status weir_eval_resample(weir_eval *v, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_sample *sample = NULL;     /* [2 * n] */
  weir_stat *stat = NULL;         /* [3 * n] */
  const bool one = v->batch == 1; /* else a task's time is that of its neighbours too */
  const int32_t large = v->large;
  if (v->n == 0 || v->row[0].n_tasks == 0) return WEIR_OK;
  WEIR_TRY(WEIR_NEW((size_t)v->n * 2, &sample, e));
  WEIR_TRY(WEIR_NEW((size_t)v->n * 3, &stat, e));
  for (int32_t i = 0; i < v->n; i++) {
    const weir_eval_row *r = &v->row[i];
    sample[2 * i] = (weir_sample){r->task_right, NULL};
    sample[2 * i + 1] = (weir_sample){r->task_tokens, r->task_seconds};
    const int32_t beside = large >= 0 ? large : i;
    stat[3 * i] = (weir_stat){.kind = WEIR_STAT_RATIO, .a = 2 * i};
    stat[3 * i + 1] = (weir_stat){.kind = WEIR_STAT_DIFFERENCE, .a = 2 * i, .b = 2 * beside};
    stat[3 * i + 2] = (weir_stat){.kind = WEIR_STAT_QUOTIENT, .a = 2 * i + 1, .b = 2 * beside + 1};
  }
  v->n_resamples = n_resamples(v, v->row[0].n_tasks);
  WEIR_TRY(weir_bootstrap(sample, 2 * v->n, v->row[0].n_tasks, stat, 3 * v->n, v->n_resamples, 0.95, 1, e));
  for (int32_t i = 0; i < v->n; i++) {
    weir_eval_row *r = &v->row[i];
    const weir_stat *s = &stat[3 * i];
    r->exact_lo = s[0].lo;
    r->exact_hi = s[0].hi;
    r->ahead = large >= 0 ? s[1].value : NAN;
    r->ahead_lo = large >= 0 ? s[1].lo : NAN;
    r->ahead_hi = large >= 0 ? s[1].hi : NAN;
    r->speed_lo = large >= 0 && one ? s[2].lo : NAN;
    r->speed_hi = large >= 0 && one ? s[2].hi : NAN;
  }
out:
  free(sample);
  free(stat);
  return st;
}

/* ---- the table ---- */

/* "-3.1 .. +0.4", or "-". */
static void interval_text(double lo, double hi, const char *form, char *buf, size_t bytes) {
  if (isnan(lo) || isnan(hi))
    snprintf(buf, bytes, "-");
  else {
    char a[24], b[24];
    snprintf(a, sizeof a, form, lo);
    snprintf(b, sizeof b, form, hi);
    snprintf(buf, bytes, "%s .. %s", a, b);
  }
}

static int text_width(const weir_eval *v) {
  size_t width = 10;
  for (int32_t i = 0; i < v->n; i++)
    if (strlen(v->row[i].text) > width) width = strlen(v->row[i].text);
  return (int)width;
}

static weir_status put_row(const weir_eval *v, int32_t i, int width, weir_buf *out, weir_err *e) {
  const weir_eval_row *r = &v->row[i];
  char speedup[16] = "-", speed[64], ahead[16] = "-", between[64];
  if (!isnan(weir_eval_speedup(v, i))) snprintf(speedup, sizeof speedup, "%.2f", weir_eval_speedup(v, i));
  interval_text(r->speed_lo, r->speed_hi, "%.2f", speed, sizeof speed);
  if (!isnan(r->ahead) && i != v->large) snprintf(ahead, sizeof ahead, "%+.1f", 100 * r->ahead);
  interval_text(i == v->large ? NAN : 100 * r->ahead_lo, 100 * r->ahead_hi, "%+.1f", between, sizeof between);
  return weir_buf_printf(
      out, e, "%-9s %-*s %6.3f  %.3f .. %.3f  %6s  %-14s  %8.3f  %9.1f  %8s  %-12s  %10.3f  %8.1f  %8.1f\n",
      weir_mode_name(r->setting.opts.mode), width, r->text, r->exact, r->lo, r->hi, ahead, between,
      r->deferral_rate, r->tok_s, speedup, i == v->large ? "-" : speed, r->large_passes, r->first_ms,
      r->total_ms);
}

static weir_status put_notes(const weir_eval *v, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < v->n; i++)
    if (v->row[i].setting.cascade.route.on)
      WEIR_TRY(weir_buf_printf(out, e, "route %s: %.3f of the requests went to the large model\n", v->row[i].text,
                               v->row[i].routed_share));
  if (v->n > 0)
    WEIR_TRY(weir_buf_printf(out, e, "%d tasks of %s, %d at a time; %s\n", v->row[0].n_tasks, v->tasks,
                             v->batch, v->device));
  if (v->n > 0 && v->large >= 0)
    WEIR_TRY(weir_buf_printf(
        out, e,
        "95 %% intervals: exact match by Wilson's method; %s by %d resamples of the tasks, the same for all "
        "rows\n",
        v->batch == 1 ? "distance to the large model and speed-up"
                      : "distance to the large model (that of the speed-up wants --batch 1)",
        v->n_resamples));
  if (v->chosen >= 0 && v->large >= 0) {
    const weir_eval_row *r = &v->row[v->chosen];
    WEIR_TRY(weir_buf_printf(
        out, e, "%s: %s %s, exact match %.3f (large alone %.3f), deferral rate %.3f, speed-up %.2f\n",
        v->within ? "cheapest within one point of the large model"
                  : "none is within one point of the large model; the best",
        weir_mode_name(r->setting.opts.mode), r->text, r->exact, v->row[v->large].exact, r->deferral_rate,
        weir_eval_speedup(v, v->chosen)));
  }
out:
  return st;
}

weir_status weir_eval_table(const weir_eval *v, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  static const char form[] = "%-9s %-*s %6s  %-14s  %6s  %-14s  %8s  %9s  %8s  %-12s  %10s  %8s  %8s\n";
  const int width = text_width(v);
  WEIR_TRY(weir_buf_printf(out, e, form, "mode", width, "setting", "exact", "95 % interval", "to the",
                           "95 % interval", "deferral", "tok/s", "speed-up", "95 % interval", "large",
                           "first", "whole"));
  WEIR_TRY(weir_buf_printf(out, e, form, "", width, "", "match", "", "large", "points", "rate", "",
                           "(large 1)", "", "passes/tok", "text, ms", "text, ms"));
  for (int32_t i = 0; i < v->n; i++) WEIR_TRY(put_row(v, i, width, out, e));
  st = put_notes(v, out, e);
out:
  return st;
}

/* ---- JSON ---- */

/* A threshold as it was written: 0.2, not the 0.200000003 that a float of it is. */
static double as_written(float x) {
  char text[32];
  snprintf(text, sizeof text, "%.7g", (double)x);
  return strtod(text, NULL);
}

static bool is_rated(const weir_eval_row *r) { return r->setting.opts.set & WEIR_OPT_DEFER_RATE; }

/* The one of a row; of one that was moved, the last. */
static double tau_of(const weir_eval_row *r) {
  return is_rated(r) ? r->tau : as_written(r->setting.cascade.gate[0].threshold);
}

static json_t *pair_of(double lo, double hi) {
  return isnan(lo) || isnan(hi) ? json_null() : json_pack("[f,f]", lo, hi);
}

/* What a setting is, member by member; null: the mode has no such thing. */
static json_t *setting_json(const weir_eval_row *r) {
  const weir_cascade_opts *o = &r->setting.opts;
  const weir_cascade_cfg *g = &r->setting.cascade;
  const bool gated = !is_alone(r);
  const uint32_t has = weir_cascade_options(o);
  return json_pack(
      "{s:s, s:s, s:s, s:s?, s:o, s:o, s:b, s:s?, s:o, s:o}", "schema", "weir.eval.row.v1", "mode",
      weir_mode_name(o->mode), "setting", r->text, "gate", gated ? weir_gate_name(g->gate[0].kind) : NULL,
      "tau", gated ? weir_json_real(tau_of(r)) : json_null(), "defer_rate",
      is_rated(r) ? weir_json_real((double)as_written(o->defer_rate)) : json_null(), "chance", (int)r->chance,
      "accept", has & WEIR_OPT_ACCEPT ? weir_accept_name(g->keep[1]) : NULL, "accept_alpha",
      has & WEIR_OPT_ACCEPT_ALPHA ? weir_json_real(as_written(g->keep_a[1])) : json_null(), "window",
      (has & WEIR_OPT_WINDOW) ? json_integer(g->window[0]) : json_null());
}

json_t *weir_eval_row_json(const weir_eval *v, int32_t i) {
  const weir_eval_row *r = &v->row[i];
  json_t *o = setting_json(r);
  json_t *figures = json_pack(
      "{s:i, s:f, s:[f,f], s:o, s:o, s:o, s:f, s:I, s:f, s:f, s:o, s:o, s:o, s:f, s:f, s:f, s:o, s:o}", /**/
      "tasks", r->n_tasks, "exact_match", r->exact, "interval95", r->lo, r->hi, "resampled95",
      pair_of(r->exact_lo, r->exact_hi), "ahead", weir_json_real(r->ahead), "ahead95",
      pair_of(r->ahead_lo, r->ahead_hi), "deferral_rate", r->deferral_rate, "tokens", (json_int_t)r->tokens,
      "seconds", r->seconds, "tok_s", r->tok_s, "speedup", weir_json_real(weir_eval_speedup(v, i)),
      "speedup95", pair_of(r->speed_lo, r->speed_hi), "mean_entropy", weir_json_real(r->mean_entropy),
      "large_passes_per_token", r->large_passes, "first_ms", r->first_ms, "total_ms", r->total_ms,
      "routed_share", weir_json_real(r->routed_share), "route_share", weir_json_real(r->route_share));
  if (!o || !figures || json_object_update(o, figures) != 0) {
    json_decref(o);
    o = NULL;
  }
  json_decref(figures);
  return o;
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
      c >= 0 ? weir_mode_name(r->setting.opts.mode) : NULL, "speedup",
      value_of(v, c, c >= 0 ? weir_eval_speedup(v, c) : NAN), "within_one_point", (int)v->within, "tasks",
      v->n > 0 ? v->row[0].n_tasks : 0, "batch", v->batch, "isa", v->isa, "threads", v->threads, "device",
      v->device);
}
