/* SPDX-License-Identifier: Apache-2.0 */
/* What `weir calibrate` tells: the table, JSON, the configuration file, the file for the drift alarm. Main
 * thread. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "programs/calibrate_in.h"
#include "programs/calibration_file.h"

/* ---- the table ---- */

static void number(double x, const char *fmt, char *out, size_t bytes) {
  if (isnan(x))
    snprintf(out, bytes, "-");
  else
    snprintf(out, bytes, fmt, x); /* NOLINT: one of the literals below */
}

static void print_point(weir_calibrating *x, const weir_cal_point *p) {
  char ns[16], speedup[16];
  number(1e-3 * p->ns, "%.1f", ns, sizeof ns);
  number(p->speedup, "%.2f", speedup, sizeof speedup);
  weir_out_printf(&x->out, "%-34s %9.4f %10.4f %11.5f %9.3f %9.3f %11s %9s\n", p->label, p->deferral_rate,
                  p->same_text, p->token_loss, p->steps[1], p->rows[1], ns, speedup);
}

/* All would be too long: the Pareto front, and what stands for the rest. */
static bool is_shown(const weir_cal_curve *c, int32_t k) { return c->n == 1 || c->point[k].pareto; }

static void print_curves(weir_calibrating *x) {
  const weir_calibration *r = &x->r;
  if (r->n_curves == 0) return;
  weir_out_printf(
      &x->out,
      "\nreplayed on %d requests, with times predicted for %d at once; of all settings the two models, the "
      "oracle and the Pareto front\n%-34s %9s %10s %11s %9s %9s %11s %9s\n",
      x->r.n_replayed, r->batch, "setting", "deferred", "same text", "token loss", "large st.", "large rows",
      "us a token", "speed-up");
  for (int32_t i = 0; i < r->n_curves; i++)
    for (int32_t k = 0; k < r->curve[i].n; k++)
      if (is_shown(&r->curve[i], k)) print_point(x, &r->curve[i].point[k]);
  weir_out_printf(&x->out, "how well a gate tells wrong tokens (area under the ROC curve):");
  for (int32_t i = 0; i < r->n_curves; i++)
    if (r->curve[i].kind == WEIR_CURVE_GATE)
      weir_out_printf(&x->out, " %s %.3f", r->curve[i].label, r->curve[i].auroc);
  weir_out_printf(&x->out, "\n");
}

static void print_run(weir_calibrating *x, const char *name, const weir_cal_run *r, double predicted) {
  char exact[40] = "-", guess[16];
  if (!r->ran) return;
  if (r->n_right >= 0) snprintf(exact, sizeof exact, "%.3f (%.3f .. %.3f)", r->exact, r->lo, r->hi);
  number(predicted, "%.2f", guess, sizeof guess);
  weir_out_printf(&x->out, "%-34s %-24s %9.4f %9.3f %10.1f %9.2f %10s\n", name, exact, r->same_text,
                  r->deferral_rate, r->tok_s, r->speedup, guess);
}

static void print_confirm(weir_calibrating *x) {
  const weir_cal_confirm *k = &x->r.confirm;
  char name[64];
  if (!k->ran) return;
  weir_out_printf(
      &x->out,
      "\nconfirmed end to end on the other %d requests, %d at once\n%-34s %-24s %9s %9s %10s %9s %10s\n",
      k->n, x->r.batch, "setting", "exact match", "same text", "deferred", "tok/s", "speed-up", "predicted");
  print_run(x, "large alone", &k->large, NAN);
  print_run(x, "small alone", &k->small, NAN);
  snprintf(name, sizeof name, "exact window %d", k->exact_window);
  print_run(x, name, &k->exact, k->predicted_exact);
  print_run(x, "the choice", &k->chosen, k->predicted_speedup);
  weir_out_printf(&x->out, "loss %.5f +- %.5f (level %.4g): %s\n", k->loss, k->loss_error, x->r.choice.level,
                  k->holds ? "holds" : "DOES NOT HOLD on this half");
}

static void choice_text(const weir_cal_choice *c, char *out, size_t bytes) {
  if (c->found)
    snprintf(out, bytes, "mode defer, gate %s, threshold %.6g", weir_gate_name(c->opts.gate), c->threshold);
  else
    snprintf(out, bytes, "the large model alone");
}

void weir_cal_print(weir_calibrating *x) {
  const weir_calibration *r = &x->r;
  const weir_cal_choice *c = &r->choice;
  char text[96];
  weir_out_printf(
      &x->out,
      "%d %s, %lld tokens of the large model, temperature %g: both models draw the same token at %.2f %% of "
      "the positions; mean entropy %.3f (small), %.3f (large) nats\n",
      r->n_texts, r->tasks ? "tasks" : "prompts", (long long)r->n_tokens, r->temperature, 100 * r->agreement,
      r->entropy[0], r->entropy[1]);
  if (x->differs > 0)
    weir_out_printf(&x->out, "the large model drew another token at %lld positions the second time\n",
                    (long long)x->differs);
  print_curves(x);
  choice_text(c, text, sizeof text);
  weir_out_printf(&x->out, "\nchosen for a loss of %s of at most %.4g: %s\n",
                  c->loss == WEIR_LOSS_TOKENS ? "tokens" : "answers", c->level, text);
  if (c->n >= c->n_enough)
    weir_out_printf(&x->out, "on %d requests: mean loss %.5f, bound n/(n+1) R + 1/(n+1) = %.5f\n", c->n,
                    c->risk, c->bound);
  weir_out_printf(&x->out, "guarantee: %s\n", c->guarantee);
  print_confirm(x);
}

/* ---- JSON ---- */

static json_t *text(const char *s) { return weir_json_text(s, strlen(s)); }

static json_t *run_json(const weir_cal_run *r) {
  if (!r->ran) return json_null();
  return json_pack("{s:i, s:i, s:o, s:o, s:o, s:o, s:I, s:f, s:f, s:o, s:f, s:i}", "n", r->n, "right",
                   r->n_right, "exact_match", weir_json_real(r->exact), "exact_match_low",
                   weir_json_real(r->lo), "exact_match_high", weir_json_real(r->hi), "same_text",
                   weir_json_real(r->same_text), "tokens", (json_int_t)r->tokens, "seconds", r->seconds,
                   "tok_s", r->tok_s, "speedup", weir_json_real(r->speedup), "deferral_rate",
                   r->deferral_rate, "batch", r->batch);
}

static json_t *point_json(const weir_cal_curve *c, const weir_cal_point *p) {
  static const char *const kind[] = {"large",  "small", "gate",      "chance",
                                     "oracle", "exact", "speculate", "rollback"};
  return json_pack(
      "{s:s, s:s, s:s, s:s, s:b, s:o, s:f, s:f, s:f, s:f, s:[f,f], s:[f,f], s:o, s:o, s:o, s:o, s:o, s:b}",
      "schema", "weir.calibrate.point.v1", "curve", c->label, "kind", kind[c->kind], "label", p->label,
      "runnable", (int)p->runnable, "setting", weir_json_real(p->setting), "deferral_rate", p->deferral_rate,
      "same_text", p->same_text, "token_loss", p->token_loss, "refused", p->refused, "steps", p->steps[0],
      p->steps[1], "rows", p->rows[0], p->rows[1], "flops", weir_json_real(p->flops), "weight_bytes",
      weir_json_real(p->weight_bytes), "kv_bytes", weir_json_real(p->kv_bytes), "ns", weir_json_real(p->ns),
      "speedup", weir_json_real(p->speedup), "pareto", (int)p->pareto);
}

static json_t *cost_json(const weir_cal_cost *c) {
  json_t *steps = json_array();
  for (int32_t k = 0; steps && k < c->n; k++)
    json_array_append_new(
        steps, json_pack("{s:i, s:[f,f], s:[f,f]}", "rows", c->rows[k], "us", 1e-3 * c->ns[0][k],
                         1e-3 * c->ns[1][k], "us_all_asked", 1e-3 * c->ns_all[0][k], 1e-3 * c->ns_all[1][k]));
  return steps;
}

static json_t *choice_json(const weir_cal_choice *c) {
  return json_pack("{s:b, s:s, s:f, s:s, s:s, s:o, s:i, s:i, s:f, s:f, s:s}", "found", (int)c->found, "loss",
                   c->loss == WEIR_LOSS_TOKENS ? "tokens" : "wrong", "level", c->level, "mode",
                   weir_mode_name(c->opts.mode), "gate", weir_gate_name(c->opts.gate), "threshold",
                   weir_json_real(c->threshold), "n", c->n, "n_enough", c->n_enough, "risk", c->risk, "bound",
                   c->bound, "guarantee", c->guarantee);
}

static json_t *confirm_json(const weir_cal_confirm *k) {
  if (!k->ran) return json_null();
  return json_pack("{s:i, s:f, s:o, s:b, s:o, s:o, s:i, s:o, s:o, s:o, s:o}", "n", k->n, "loss", k->loss,
                   "loss_error", weir_json_real(k->loss_error), "holds", (int)k->holds, "predicted_speedup",
                   weir_json_real(k->predicted_speedup), "predicted_exact",
                   weir_json_real(k->predicted_exact), "exact_window", k->exact_window, "large",
                   run_json(&k->large), "small", run_json(&k->small), "chosen", run_json(&k->chosen), "exact",
                   run_json(&k->exact));
}

void weir_cal_json(weir_calibrating *x) {
  const weir_calibration *r = &x->r;
  for (int32_t i = 0; i < r->n_curves; i++)
    for (int32_t k = 0; k < r->curve[i].n; k++)
      weir_out_json(&x->out, point_json(&r->curve[i], &r->curve[i].point[k]));
  weir_out_json(
      &x->out,
      json_pack(
          "{s:s, s:s, s:s, s:o, s:o, s:o, s:s, s:i, s:i, s:f, s:I, s:b, s:i, s:I, s:o, s:I, s:o, s:o, s:o, "
          "s:f, s:f, s:f}",
          "schema", "weir.calibrate.v1", "when", r->when, "version", r->version, "data", text(r->data),
          "small", text(r->small), "large", text(r->large), "device", r->device, "threads", r->n_threads,
          "batch", r->batch, "temperature", r->temperature, "seed", (json_int_t)r->seed, "tasks",
          (int)r->tasks, "requests", r->n_texts, "tokens", (json_int_t)r->n_tokens, "agreement",
          weir_json_real(r->agreement), "differs", (json_int_t)x->differs, "step_times", cost_json(&r->cost),
          "choice", choice_json(&r->choice), "confirm", confirm_json(&r->confirm), "log_seconds",
          r->log_seconds, "replay_seconds", r->replay_seconds, "run_seconds", r->run_seconds));
}

/* ---- files ---- */

static weir_status write_file(const char *path, const weir_buf *b, weir_err *e) {
  FILE *f = fopen(path, "w");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  const bool wrote = fwrite(b->data, 1, b->len, f) == b->len;
  if (fclose(f) != 0 || !wrote) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  return WEIR_OK;
}

/* Text for a comment: control characters would end its line. */
static weir_status comment(weir_buf *b, const char *text, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "# ", e));
  for (const char *p = text; *p; p++)
    WEIR_TRY(weir_buf_printf(b, e, "%c", (unsigned char)*p < ' ' || *p == 0x7f ? ' ' : *p));
  st = weir_buf_puts(b, "\n", e);
out:
  return st;
}

/* A scalar in double quotes. */
static weir_status quoted(weir_buf *b, const char *key, const char *value, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, "%s: \"", key));
  for (const char *p = value; *p; p++) {
    const unsigned char c = (unsigned char)*p;
    if (c < ' ' || c == 0x7f)
      WEIR_TRY(weir_buf_printf(b, e, "\\x%02x", c));
    else
      WEIR_TRY(weir_buf_printf(b, e, "%s%c", c == '"' || c == '\\' ? "\\" : "", c));
  }
  st = weir_buf_puts(b, "\"\n", e);
out:
  return st;
}

static weir_status config_text(const weir_calibrating *x, weir_buf *b, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_calibration *r = &x->r;
  const weir_cal_choice *c = &r->choice;
  char line[1024];
  snprintf(line, sizeof line, "Written by weir calibrate %s on %s; for --config of weir run, chat and serve.",
           r->version, r->when);
  WEIR_TRY(comment(b, line, e));
  snprintf(line, sizeof line, "Data: %s, %d requests to choose the threshold; temperature %g, seed %llu.",
           r->data, c->n, r->temperature, (unsigned long long)r->seed);
  WEIR_TRY(comment(b, line, e));
  snprintf(line, sizeof line, "Small: %s. Large: %s. Machine: %s.", r->small, r->large, r->device);
  WEIR_TRY(comment(b, line, e));
  snprintf(line, sizeof line, "Guarantee: %s", c->guarantee);
  WEIR_TRY(comment(b, line, e));
  if (r->confirm.ran) {
    snprintf(line, sizeof line,
             "Confirmed on %d other requests: loss %.5f +- %.5f (level %.4g), %.2f times as fast as the "
             "large model alone; "
             "exact speculation %.2f times.",
             r->confirm.n, r->confirm.loss, r->confirm.loss_error, c->level, r->confirm.chosen.speedup,
             r->confirm.exact.speedup);
    WEIR_TRY(comment(b, line, e));
  }
  if (weir_config_is_set(x->c, "small")) WEIR_TRY(quoted(b, "small", r->small, e));
  if (weir_config_is_set(x->c, "large")) WEIR_TRY(quoted(b, "large", r->large, e));
  WEIR_TRY(weir_buf_printf(b, e, "mode: %s\n", weir_mode_name(c->opts.mode)));
  if (!c->found) return WEIR_OK;
  if (c->opts.gate == WEIR_GATE_ENTROPY)
    WEIR_TRY(weir_buf_printf(b, e, "entropy: %.9g\n", c->threshold));
  else
    WEIR_TRY(
        weir_buf_printf(b, e, "gate: %s\nthreshold: %.9g\n", weir_gate_name(c->opts.gate), c->threshold));
  if (weir_gate_is_fitted(c->opts.gate)) WEIR_TRY(quoted(b, "gate-file", x->gate_path, e));
out:
  return st;
}

static weir_status write_config(const weir_calibrating *x, const char *path, weir_err *e) {
  weir_buf b = {0};
  weir_status st = config_text(x, &b, e);
  if (st == WEIR_OK) st = write_file(path, &b, e);
  weir_buf_fini(&b);
  return st;
}

static weir_status write_drift(const weir_calibrating *x, const char *path, weir_err *e) {
  const weir_calibration *r = &x->r;
  const weir_cal_drift *d = &r->drift;
  json_t *count = json_array(), *prints = json_null();
  if (x->paths.small[0] && x->paths.large[0]) { /* else there was a trace and no model */
    uint64_t print[2];
    weir_status found = weir_model_fingerprint(x->paths.small, &print[0], e);
    if (found == WEIR_OK) found = weir_model_fingerprint(x->paths.large, &print[1], e);
    if (found != WEIR_OK) {
      json_decref(count);
      return found;
    }
    prints = weir_fingerprints_json(print);
  }
  for (int i = 0; count && i < WEIR_CAL_BINS; i++)
    json_array_append_new(count, json_integer((json_int_t)d->count[i]));
  json_t *o = json_pack(
      "{s:s, s:s, s:o, s:o, s:o, s:s, s:s, s:o, s:f, s:f, s:o, s:I, s:o, s:o, s:o, s:o, s:o}", "schema",
      "weir.calibration.v1", "when", r->when, "data", text(r->data), "small", text(r->small), "large",
      text(r->large), "mode", weir_mode_name(r->choice.opts.mode), "gate", weir_gate_name(x->gate.kind),
      "threshold", weir_json_real(r->choice.threshold), "level", r->choice.level, "bin_width", d->bin_width,
      "count", count, "n", (json_int_t)d->n, "mean_entropy", weir_json_real(d->mean_entropy), "deferral_rate",
      weir_json_real(d->deferral_rate), "agreement", weir_json_real(d->agreement), "fingerprints", prints,
      "requests", weir_drift_json(&d->requests));
  FILE *f = fopen(path, "w");
  if (!f) {
    json_decref(o);
    return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  }
  weir_status st = weir_json_line(f, path, o, e);
  if (fclose(f) != 0 && st == WEIR_OK) st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  return st;
}

static weir_status write_report(const weir_calibrating *x, const char *path, weir_err *e) {
  weir_buf b = {0};
  weir_status st = weir_calibrate_report(&x->r, &b, e);
  if (st == WEIR_OK) st = write_file(path, &b, e);
  weir_buf_fini(&b);
  return st;
}

weir_status weir_cal_files(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *config = weir_config_string(x->c, "out"), *drift = weir_config_string(x->c, "calibration"),
             *report = weir_config_string(x->c, "report"), *trace = weir_config_string(x->c, "trace");
  if (trace) WEIR_TRY(weir_trace_write(trace, &x->trace, &x->meta, e));
  if (x->gate_path) WEIR_TRY(weir_cal_write_gate(x, x->gate_path, e));
  if (config) WEIR_TRY(write_config(x, config, e));
  if (drift) WEIR_TRY(write_drift(x, drift, e));
  if (report) WEIR_TRY(write_report(x, report, e));
out:
  return st;
}
