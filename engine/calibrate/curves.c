/* SPDX-License-Identifier: Apache-2.0 */
/* Curves: settings by the table, a replay of all texts for each, sums. Owns its scratch; any thread. */
#include "calibrate/curves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "calibrate/quality.h"

/* Shares of positions that thresholds are to defer. */
static const double shares[] = {0,    0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125,
                                0.15, 0.2,  0.25, 0.3,  0.4,  0.5,   0.6, 0.8};
static const double rollback_shares[] = {0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4};
static const double windows[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16};
static const double alphas[] = {0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9};
static const double epsilons[] = {0.01, 0.03, 0.09, 0.2, 0.4};
static const double limits[] = {0.5, 1, 2, 3, 5};
#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

typedef struct making {
  const weir_curves_how *how;
  weir_calibration *out;
  weir_replay_scratch scratch;
  weir_cost_log log;
  double *sorted; /* [n_rows]: sorted statistics */
  int64_t n_rows;
  int32_t done, total, cap;
} making;

/* ---- one point ---- */

void weir_curves_label(const weir_cascade_opts *o, char *out, size_t bytes) {
  const char *mode = weir_mode_name(o->mode);
  switch (o->mode) {
    case WEIR_MODE_DEFER:
    case WEIR_MODE_ROLLBACK:
      snprintf(out, bytes, "%s %s %.4g", mode, weir_gate_name(o->gate), (double)o->threshold);
      break;
    case WEIR_MODE_EXACT: snprintf(out, bytes, "%s window %d", mode, o->window); break;
    case WEIR_MODE_SPECULATE: {
      const float x = o->accept == WEIR_KEEP_NLL       ? o->accept_nll
                      : o->accept == WEIR_KEEP_TYPICAL ? o->accept_epsilon
                                                       : o->accept_alpha;
      snprintf(out, bytes, "%s %s %.3g, window %d", mode, weir_accept_name(o->accept), (double)x, o->window);
      break;
    }
    default: snprintf(out, bytes, "%s", mode); break;
  }
}

static bool takes(const weir_curves_how *h, const weir_trace_text *x) {
  return x->n > 0 && (h->part < 0 || x->part == h->part);
}

/* Costs from the steps of all texts. */
static weir_status price(const weir_curves_how *h, const weir_cost_log *log, double tokens, double rows[2],
                         double asked[2], weir_cal_point *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_cal_cost *c = h->cost;
  int64_t steps[2];
  p->ns = p->flops = p->weight_bytes = NAN;
  if (!c || c->n < 1) return WEIR_OK;
  WEIR_TRY(weir_cost_simulate(c, log, &h->engine, &p->ns, steps, e));
  p->ns /= tokens;
  p->flops = p->weight_bytes = 0;
  for (int t = 0; t < 2; t++) {
    p->flops += (rows[t] * c->flops[t] + asked[t] * c->head_flops[t]) / tokens;
    p->weight_bytes += (double)steps[t] * c->weight_bytes[t] / tokens;
  }
out:
  return st;
}

weir_status weir_curves_point(const weir_curves_how *h, const weir_cascade_opts *opts, bool oracle,
                              weir_replay_scratch *scratch, weir_cost_log *log, weir_cal_point *p,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cascade_cfg cfg;
  weir_cascade_opts o = *opts;
  if (oracle) o = (weir_cascade_opts){.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD, .threshold = 0.5F};
  *p = (weir_cal_point){.opts = o, .runnable = !oracle, .speedup = NAN};
  if (oracle)
    snprintf(p->label, sizeof p->label, "oracle");
  else
    weir_curves_label(&o, p->label, sizeof p->label);
  WEIR_TRY(weir_cascade_cfg_make(&o, &cfg, e));
  weir_cost_log_clear(log);
  const weir_replay_how how = {.cfg = &cfg, .oracle = oracle, .on_step = weir_cost_log_step, .ctx = log};
  double tokens = 0, by_large = 0, refused = 0, rows[2] = {0}, asked[2] = {0}, kv = 0;
  int32_t n = 0, same = 0;
  for (int32_t i = 0; i < h->trace->n; i++) {
    const weir_trace_text *x = &h->trace->text[i];
    weir_replay r;
    if (!takes(h, x)) continue;
    WEIR_TRY(weir_replay_text(x, h->trace->temperature, &how, scratch, &r, e));
    WEIR_TRY(weir_cost_log_end(log, e));
    n++;
    tokens += r.n;
    by_large += r.by_large;
    refused += r.refused;
    same += r.first_other == r.n;
    p->token_loss += (double)r.lost / r.n;
    for (int t = 0; t < 2; t++) {
      p->steps[t] += r.steps[t];
      rows[t] += (double)r.rows[t];
      asked[t] += (double)r.asked[t];
      if (h->cost) kv += r.kv[t] * h->cost->kv_bytes[t] / ((double)x->n_prompt + r.n);
    }
  }
  if (n == 0) return weir_fail(e, WEIR_EINVAL, "the trace has no texts for curves");
  p->deferral_rate = by_large / tokens;
  p->same_text = (double)same / n;
  p->token_loss /= n;
  p->refused = refused / tokens;
  p->kv_bytes = kv / n;
  for (int t = 0; t < 2; t++) {
    p->steps[t] /= tokens;
    p->rows[t] = rows[t] / tokens;
  }
  st = price(h, log, tokens, rows, asked, p, e);
out:
  return st;
}

/* ---- curves ---- */

static weir_status add_point(making *m, weir_cal_curve *c, const weir_cascade_opts *o, double setting,
                             weir_err *e) {
  weir_cal_point *p = &c->point[c->n];
  const weir_status st =
      weir_curves_point(m->how, o, c->kind == WEIR_CURVE_ORACLE, &m->scratch, &m->log, p, e);
  if (st != WEIR_OK) return st;
  p->setting = setting;
  c->n++;
  m->done++;
  if (m->how->progress && !m->how->progress(m->how->ctx, m->done, m->total))
    return weir_fail(e, WEIR_ECANCEL, "stopped");
  return WEIR_OK;
}

/* The next curve, with room for so many points. */
static weir_status begin(making *m, weir_curve_kind kind, const char *label, int32_t points,
                         weir_cal_curve **out, weir_err *e) {
  weir_calibration *r = m->out;
  if (r->n_curves == m->cap) {
    const int32_t cap = m->cap ? 2 * m->cap : 16;
    weir_cal_curve *more = realloc(r->curve, (size_t)cap * sizeof *more);
    if (!more) return weir_fail(e, WEIR_ENOMEM, "no memory for %d curves", cap);
    r->curve = more;
    m->cap = cap;
  }
  weir_cal_curve *c = &r->curve[r->n_curves];
  *c = (weir_cal_curve){.kind = kind, .auroc = NAN};
  snprintf(c->label, sizeof c->label, "%s", label);
  const weir_status st = WEIR_NEW((size_t)points, &c->point, e);
  if (st == WEIR_OK) r->n_curves++;
  *out = c;
  return st;
}

static weir_status single(making *m, weir_curve_kind kind, const char *label, weir_mode mode, weir_err *e) {
  weir_cal_curve *c = NULL;
  const weir_cascade_opts o = {.mode = mode};
  const weir_status st = begin(m, kind, label, 1, &c, e);
  return st == WEIR_OK ? add_point(m, c, &o, 0, e) : st;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Sorted scores of a gate at all positions, in the sense that high ones defer, and how well they tell. */
static weir_status scores_of(making *m, weir_gate g, double *auroc, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_trace *t = m->how->trace;
  float *score = NULL;
  bool *wrong = NULL;
  int64_t n = 0;
  WEIR_TRY(WEIR_NEW((size_t)m->n_rows, &score, e));
  WEIR_TRY(WEIR_NEW((size_t)m->n_rows, &wrong, e));
  for (int32_t i = 0; i < t->n; i++)
    for (int32_t k = 0; takes(m->how, &t->text[i]) && k < t->text[i].n; k++) {
      const weir_trace_row *x = &t->text[i].row[k];
      const weir_row row = weir_trace_small_row(x);
      const float s = weir_gate_score(g, &row);
      score[n] = weir_gate_is_low(g.kind) ? -s : s;
      m->sorted[n] = (double)score[n];
      wrong[n++] = x->q_token != x->p_token;
    }
  qsort(m->sorted, (size_t)n, sizeof *m->sorted, by_value);
  st = weir_quality_auc(score, wrong, n, auroc, e);
out:
  free(score);
  free(wrong);
  return st;
}

/* The threshold that defers about a share of the positions. */
static float threshold_for(const making *m, weir_gate_kind kind, double share) {
  const bool low = weir_gate_is_low(kind);
  int64_t k = (int64_t)llround((1 - share) * (double)m->n_rows) - 1;
  if (share <= 0) return low ? 0 : INFINITY;
  k = k < 0 ? 0 : k >= m->n_rows ? m->n_rows - 1 : k;
  const double s = m->sorted[k];
  return (float)(low ? -s : s);
}

static weir_status gate_curve(making *m, weir_curve_kind kind, weir_gate_kind gate, const double *share,
                              int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_curve *c = NULL;
  char label[48];
  weir_cascade_opts o = {.mode = kind == WEIR_CURVE_ROLLBACK ? WEIR_MODE_ROLLBACK : WEIR_MODE_DEFER,
                         .set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD,
                         .gate = gate,
                         .gate_map = m->how->map};
  snprintf(label, sizeof label, "%s%s", kind == WEIR_CURVE_ROLLBACK ? "rollback, " : "",
           kind == WEIR_CURVE_CHANCE ? "random deferral" : weir_gate_name(gate));
  WEIR_TRY(begin(m, kind, label, n, &c, e));
  c->gate = gate;
  if (kind != WEIR_CURVE_CHANCE)
    WEIR_TRY(scores_of(m, (weir_gate){.kind = gate, .map = m->how->map}, &c->auroc, e));
  for (int32_t i = 0; i < n; i++) {
    o.threshold = kind == WEIR_CURVE_CHANCE ? (float)share[i] : threshold_for(m, gate, share[i]);
    if (i > 0 && o.threshold == c->point[c->n - 1].opts.threshold) continue; /* ties of scores */
    WEIR_TRY(add_point(m, c, &o, (double)o.threshold, e));
  }
out:
  return st;
}

static weir_status exact_curve(making *m, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_curve *c = NULL;
  weir_cascade_opts o = {.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_WINDOW};
  WEIR_TRY(begin(m, WEIR_CURVE_EXACT, "exact speculation", COUNT(windows), &c, e));
  for (int32_t i = 0; i < COUNT(windows); i++) {
    o.window = (int32_t)windows[i];
    WEIR_TRY(add_point(m, c, &o, windows[i], e));
  }
out:
  return st;
}

static weir_status speculate_curve(making *m, weir_keep rule, const double *value, int32_t n, int32_t window,
                                   weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_curve *c = NULL;
  char label[48];
  weir_cascade_opts o = {.mode = WEIR_MODE_SPECULATE,
                         .set = WEIR_OPT_WINDOW | WEIR_OPT_ACCEPT |
                                (rule == WEIR_KEEP_NLL       ? WEIR_OPT_ACCEPT_NLL
                                 : rule == WEIR_KEEP_TYPICAL ? WEIR_OPT_ACCEPT_EPSILON
                                                             : WEIR_OPT_ACCEPT_ALPHA),
                         .accept = rule,
                         .window = window};
  snprintf(label, sizeof label, "%s, window %d", weir_accept_name(rule), window);
  WEIR_TRY(begin(m, WEIR_CURVE_SPECULATE, label, n, &c, e));
  c->accept = rule;
  for (int32_t i = 0; i < n; i++) {
    o.accept_nll = o.accept_alpha = o.accept_epsilon = (float)value[i];
    WEIR_TRY(add_point(m, c, &o, value[i], e));
  }
out:
  return st;
}

const weir_cal_point *weir_curves_fastest(const weir_calibration *r, weir_curve_kind kind) {
  const weir_cal_point *best = NULL;
  for (int32_t i = 0; i < r->n_curves; i++)
    for (int32_t k = 0; k < r->curve[i].n && r->curve[i].kind == kind; k++)
      if (!best || r->curve[i].point[k].ns < best->ns) best = &r->curve[i].point[k];
  return best;
}

static bool beats(const weir_cal_point *a, const weir_cal_point *b) {
  return a->runnable && a->speedup >= b->speedup && a->same_text >= b->same_text &&
         (a->speedup > b->speedup || a->same_text > b->same_text);
}

static void compare(weir_calibration *r) {
  const double large = r->curve[0].point[0].ns;
  for (int32_t i = 0; i < r->n_curves; i++)
    for (int32_t k = 0; k < r->curve[i].n; k++)
      r->curve[i].point[k].speedup = large / r->curve[i].point[k].ns;
  for (int32_t i = 0; i < r->n_curves; i++)
    for (int32_t k = 0; k < r->curve[i].n; k++) {
      weir_cal_point *p = &r->curve[i].point[k];
      p->pareto = p->runnable && !isnan(p->speedup);
      for (int32_t j = 0; j < r->n_curves && p->pareto; j++)
        for (int32_t l = 0; l < r->curve[j].n && p->pareto; l++) p->pareto = !beats(&r->curve[j].point[l], p);
    }
}

static weir_status all(making *m, weir_err *e) {
  static const weir_keep token_rules[] = {WEIR_KEEP_V1, WEIR_KEEP_V2, WEIR_KEEP_V3};
  weir_status st = WEIR_OK;
  const weir_curves_how *h = m->how;
  WEIR_TRY(single(m, WEIR_CURVE_LARGE, "large alone", WEIR_MODE_LARGE, e));
  WEIR_TRY(single(m, WEIR_CURVE_SMALL, "small alone", WEIR_MODE_SMALL, e));
  WEIR_TRY(gate_curve(m, WEIR_CURVE_GATE, WEIR_GATE_ENTROPY, shares, COUNT(shares), e));
  WEIR_TRY(gate_curve(m, WEIR_CURVE_GATE, WEIR_GATE_TOP_PROB, shares, COUNT(shares), e));
  WEIR_TRY(gate_curve(m, WEIR_CURVE_GATE, WEIR_GATE_MARGIN, shares, COUNT(shares), e));
  if (h->map) WEIR_TRY(gate_curve(m, WEIR_CURVE_GATE, WEIR_GATE_ISOTONIC, shares, COUNT(shares), e));
  if (h->head) WEIR_TRY(gate_curve(m, WEIR_CURVE_GATE, WEIR_GATE_HEAD, shares, COUNT(shares), e));
  WEIR_TRY(gate_curve(m, WEIR_CURVE_CHANCE, WEIR_GATE_CHANCE, shares, COUNT(shares), e));
  WEIR_TRY(single(m, WEIR_CURVE_ORACLE, "oracle", WEIR_MODE_DEFER, e));
  WEIR_TRY(exact_curve(m, e));
  const weir_cal_point *exact = weir_curves_fastest(m->out, WEIR_CURVE_EXACT);
  const int32_t window =
      exact && !isnan(exact->ns) ? exact->opts.window : 5; /* as good for the other rules */
  for (int i = 0; i < COUNT(token_rules); i++)
    WEIR_TRY(speculate_curve(m, token_rules[i], alphas, COUNT(alphas), window, e));
  WEIR_TRY(speculate_curve(m, WEIR_KEEP_TYPICAL, epsilons, COUNT(epsilons), window, e));
  WEIR_TRY(speculate_curve(m, WEIR_KEEP_NLL, limits, COUNT(limits), window, e));
  WEIR_TRY(gate_curve(m, WEIR_CURVE_ROLLBACK, WEIR_GATE_ENTROPY, rollback_shares, COUNT(rollback_shares), e));
  compare(m->out);
out:
  return st;
}

weir_status weir_curves_make(const weir_curves_how *h, weir_calibration *out, weir_err *e) {
  weir_status st = WEIR_OK;
  making m = {.how = h, .out = out, .cap = out->n_curves};
  for (int32_t i = 0; i < h->trace->n; i++)
    if (takes(h, &h->trace->text[i])) m.n_rows += h->trace->text[i].n;
  if (m.n_rows == 0) return weir_fail(e, WEIR_EINVAL, "the trace has no tokens for curves");
  m.total = 3 + COUNT(shares) * (4 + (h->map ? 1 : 0) + (h->head ? 1 : 0)) + COUNT(windows) +
            3 * COUNT(alphas) + COUNT(epsilons) + COUNT(limits) + COUNT(rollback_shares);
  WEIR_TRY(WEIR_NEW((size_t)m.n_rows, &m.sorted, e));
  st = all(&m, e);
out:
  weir_replay_scratch_fini(&m.scratch);
  weir_cost_log_fini(&m.log);
  free(m.sorted);
  return st;
}
