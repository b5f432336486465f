/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of `weir calibrate` by conformal risk control, and its confirmation on data that had no part in
 * it. Main thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "calibrate/conformal.h"
#include "calibrate/curves.h"
#include "programs/calibrate_in.h"

/* Thresholds of the loss `wrong`, fixed before anybody sees data: the first defers everything. */
enum { GRID = 41 };

static float grid_threshold(weir_gate_kind kind, int32_t j) {
  const double share = (double)j / (GRID - 1);
  if (j == 0) return weir_conformal_threshold(kind, 0);
  if (kind == WEIR_GATE_ENTROPY) return (float)(2 * share);
  if (weir_gate_is_low(kind)) return (float)(1 - share);
  return (float)pow(10, -4 + 4 * (double)(j - 1) / (GRID - 2)); /* probabilities of error: 0.0001 .. 1 */
}

static weir_cascade_opts with_threshold(const weir_calibrating *x, float threshold) {
  return (weir_cascade_opts){.mode = WEIR_MODE_DEFER,
                             .set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD,
                             .gate = x->gate.kind,
                             .gate_map = x->gate.map,
                             .threshold = threshold};
}

/* ---- the loss `wrong`: end to end ---- */

/* Column j of the losses, from column j - 1. A request whose replay stays the large model's text to the end
 * gives its answer, and one that was lost stays so (running maximum): the others are run. */
static weir_status fill_column(weir_calibrating *x, float *loss, int32_t j, weir_replay_scratch *s,
                               bool *pick, float *wrong, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_cal_part *p = &x->part[WEIR_PART_CALIBRATE];
  const weir_cascade_opts o = with_threshold(x, grid_threshold(x->gate.kind, j));
  weir_cascade_cfg cfg;
  WEIR_TRY(weir_cascade_cfg_make(&o, &cfg, e));
  const weir_replay_how how = {.cfg = &cfg};
  for (int32_t i = 0; i < p->n; i++) {
    weir_replay r;
    float *of = &loss[(size_t)i * GRID];
    wrong[i] = j > 0 ? of[j - 1] : 0;
    pick[i] = p->right[i] && wrong[i] == 0;
    if (!pick[i] || x->differs > 0) continue;
    WEIR_TRY(weir_replay_text(&x->trace.text[p->first_text + i], x->trace.temperature, &how, s, &r, e));
    pick[i] = r.first_other < r.n;
  }
  WEIR_TRY(weir_cal_run_some(x, WEIR_PART_CALIBRATE, &o, pick, wrong, e));
  for (int32_t i = 0; i < p->n; i++) loss[(size_t)i * GRID + (size_t)j] = wrong[i];
out:
  return st;
}

static weir_status choose_on_answers(weir_calibrating *x, int32_t *chosen, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_choice *c = &x->r.choice;
  const int32_t n = x->part[WEIR_PART_CALIBRATE].n;
  float *loss = NULL, *wrong = NULL;
  bool *pick = NULL;
  weir_replay_scratch scratch = {0};
  WEIR_TRY(WEIR_NEW((size_t)n * GRID, &loss, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &wrong, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &pick, e));
  WEIR_TRY(WEIR_NEW(GRID, &c->grid, e));
  WEIR_TRY(WEIR_NEW(GRID, &c->grid_risk, e));
  c->n = n;
  for (size_t i = 0; i < (size_t)n * GRID; i++) loss[i] = 1; /* what is not looked at is never chosen */
  for (int32_t j = 0; j < GRID; j++) {
    double risk = 0;
    weir_cal_progress(x, "threshold %d of %d at most", j, GRID - 1);
    WEIR_TRY(fill_column(x, loss, j, &scratch, pick, wrong, e));
    for (int32_t i = 0; i < n; i++) risk += (double)wrong[i] / n;
    c->grid[j] = (double)grid_threshold(x->gate.kind, j);
    c->n_grid = j + 1;
    if (weir_conformal_bound(risk, n) > c->level) break; /* it never falls again */
  }
  *chosen = weir_conformal_choose(loss, n, GRID, c->level, c->grid_risk);
out:
  free(loss);
  free(wrong);
  free(pick);
  weir_replay_scratch_fini(&scratch);
  return st;
}

static weir_status choose_on_tokens(weir_calibrating *x, int32_t *chosen, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_choice *c = &x->r.choice;
  weir_conformal_tokens found = {0};
  WEIR_TRY(weir_conformal_on_tokens(&x->trace, WEIR_PART_CALIBRATE, &x->gate, c->level, &found, e));
  WEIR_TRY(WEIR_NEW(WEIR_CONFORMAL_GRID, &c->grid, e));
  for (int32_t j = 0; j < WEIR_CONFORMAL_GRID; j++)
    c->grid[j] = (double)weir_conformal_threshold(x->gate.kind, j);
  c->n = found.n;
  c->n_grid = WEIR_CONFORMAL_GRID;
  c->grid_risk = found.risk;
  found.risk = NULL;
  *chosen = found.chosen;
out:
  free(found.risk);
  return st;
}

static void say_guarantee(weir_cal_choice *c) {
  const char *what =
      c->loss == WEIR_LOSS_TOKENS
          ? "the share of a request's tokens, along the large model's text, that stand unchecked "
            "and are not the large model's own"
          : "the chance that the large model answers a request right and the cascade does not";
  if (!c->found) {
    if (c->n < c->n_enough)
      snprintf(c->guarantee, sizeof c->guarantee,
               "None: %d requests cannot show a loss of %.4g, %d can. Until then the large model writes all.",
               c->n, c->level, c->n_enough);
    else
      snprintf(c->guarantee, sizeof c->guarantee,
               "None: at no threshold of this gate is the loss as low as %.4g. The large model writes all.",
               c->level);
    return;
  }
  snprintf(c->guarantee, sizeof c->guarantee,
           "In expectation over the %d requests it was chosen on and one fresh request that is exchangeable "
           "with them, "
           "%s is at most %.4g (conformal risk control). It says nothing of any single request, nor of "
           "traffic that "
           "looks different.",
           c->n, what, c->level);
}

weir_status weir_cal_choose(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_choice *c = &x->r.choice;
  int32_t chosen = -1;
  c->loss = x->loss;
  c->n_enough = weir_conformal_enough(c->level);
  if (c->loss == WEIR_LOSS_WRONG)
    WEIR_TRY(choose_on_answers(x, &chosen, e));
  else
    WEIR_TRY(choose_on_tokens(x, &chosen, e));
  c->found = chosen > 0; /* 0 defers everything: that is the large model alone */
  c->threshold = NAN;
  c->risk = chosen >= 0 ? c->grid_risk[chosen] : 0;
  c->bound = weir_conformal_bound(c->risk, c->n);
  c->opts = (weir_cascade_opts){.mode = WEIR_MODE_LARGE};
  if (c->found) {
    c->threshold = c->grid[chosen];
    c->opts = with_threshold(x, (float)c->threshold);
  }
  say_guarantee(c);
out:
  return st;
}

/* ---- confirmation ---- */

/* Mean and standard error of the losses of the part. */
static void realised(weir_calibrating *x, const float *wrong) {
  const weir_cal_part *p = &x->part[WEIR_PART_CONFIRM];
  weir_cal_confirm *k = &x->r.confirm;
  weir_gate gate = x->gate;
  double sum = 0, squares = 0;
  gate.threshold = x->r.choice.found ? (float)x->r.choice.threshold : weir_conformal_threshold(gate.kind, 0);
  for (int32_t i = 0; i < p->n; i++) {
    const double loss = x->loss == WEIR_LOSS_WRONG
                            ? (double)wrong[i]
                            : weir_conformal_token_loss(&x->trace.text[p->first_text + i], &gate);
    sum += loss;
    squares += loss * loss;
  }
  k->loss = sum / p->n;
  const double var = fmax(0, squares / p->n - k->loss * k->loss);
  k->loss_error = p->n > 1 ? sqrt(var / (p->n - 1)) : NAN;
  k->holds = k->loss <= x->r.choice.level + 2 * k->loss_error;
  k->chosen.loss = k->loss;
}

static weir_status predict(weir_calibrating *x, const weir_cascade_opts *o, double *ns, weir_err *e) {
  weir_replay_scratch scratch = {0};
  weir_cost_log log = {0};
  weir_cal_point point;
  const weir_curves_how how = {.trace = &x->trace,
                               .part = WEIR_PART_CONFIRM,
                               .cost = &x->meta.cost,
                               .engine = weir_cal_engine(x),
                               .map = x->gate.map};
  const weir_status st = weir_curves_point(&how, o, false, &scratch, &log, &point, e);
  *ns = point.ns;
  weir_replay_scratch_fini(&scratch);
  weir_cost_log_fini(&log);
  return st;
}

/* The faster of two runs: the text is the same. */
static void keep_faster(weir_cal_run *best, const weir_cal_run *again) {
  if (!best->ran || again->seconds < best->seconds) *best = *again;
}

weir_status weir_cal_confirm_choice(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_confirm *k = &x->r.confirm;
  weir_cal_part *p = &x->part[WEIR_PART_CONFIRM];
  const weir_cal_point *fastest = weir_curves_fastest(&x->r, WEIR_CURVE_EXACT);
  const weir_cascade_opts setting[] = {
      {.mode = WEIR_MODE_LARGE},
      {.mode = WEIR_MODE_SMALL},
      x->r.choice.opts,
      {.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_WINDOW, .window = fastest ? fastest->opts.window : 5}};
  weir_cal_run *const into[] = {&k->large, &k->small, &k->chosen, &k->exact};
  float *wrong = NULL;
  double large_ns, chosen_ns;
  WEIR_TRY(WEIR_NEW((size_t)p->n, &wrong, e));
  k->n = p->n;
  k->large = p->run;
  const int rounds = x->r.n_curves > 0 ? 2 : 1; /* without curves somebody is in a hurry */
  for (int round = 0; round < rounds; round++)
    for (int s = 0; s < 4; s++) {
      weir_cal_run run;
      weir_cal_progress(x, "confirming: run %d of %d", 4 * round + s + 1, 4 * rounds);
      WEIR_TRY(weir_cal_run_setting(x, WEIR_PART_CONFIRM, &setting[s], &run, s == 2 ? wrong : NULL, e));
      keep_faster(into[s], &run);
      if (s == 2 && round == 0) WEIR_TRY(weir_cal_drift_from_run(x, &p->answers, e));
    }
  for (int s = 0; s < 4; s++) into[s]->speedup = into[s]->tok_s / k->large.tok_s;
  realised(x, wrong);
  WEIR_TRY(predict(x, &setting[0], &large_ns, e));
  WEIR_TRY(predict(x, &setting[2], &chosen_ns, e));
  k->predicted_speedup = large_ns / chosen_ns;
  k->exact_window = setting[3].window;
  WEIR_TRY(predict(x, &setting[3], &chosen_ns, e));
  k->predicted_exact = large_ns / chosen_ns;
  k->ran = true;
out:
  free(wrong);
  return st;
}

/* ---- for the drift alarm ---- */

void weir_cal_drift_fill(weir_calibrating *x) {
  weir_cal_drift *d = &x->r.drift;
  weir_gate gate = x->gate;
  int64_t agree = 0, deferred = 0;
  double sum[2] = {0};
  *d = (weir_cal_drift){.bin_width = 1.0 / 16};
  gate.threshold = (float)x->r.choice.threshold;
  for (int32_t k = 0; k < x->trace.n; k++)
    for (int32_t i = 0; i < x->trace.text[k].n; i++) {
      const weir_trace_row *t = &x->trace.text[k].row[i];
      const weir_row row = weir_trace_small_row(t);
      const double bin = (double)t->q_entropy / d->bin_width;
      const int at = bin < WEIR_CAL_BINS - 1 ? (int)bin : WEIR_CAL_BINS - 1;
      d->count[at]++;
      d->differ[at] += t->q_token != t->p_token;
      d->n++;
      agree += t->q_token == t->p_token;
      sum[0] += (double)t->q_entropy;
      sum[1] += (double)t->p_entropy;
      deferred += !x->r.choice.found || weir_gate_defers(gate, &row);
    }
  const double n = d->n > 0 ? (double)d->n : NAN;
  d->mean_entropy = sum[0] / n;
  d->agreement = (double)agree / n;
  d->deferral_rate = (double)deferred / n;
  x->r.agreement = d->agreement;
  for (int t = 0; t < 2; t++) x->r.entropy[t] = sum[t] / n;
}
