/* SPDX-License-Identifier: Apache-2.0 */
/* The report of a calibration: one page of HTML that needs nothing else. It answers in order: which
 * threshold, what it promises, what it costs beside everything else, why the gate can know, whether it held
 * on fresh data. Everything that came from outside is escaped (weir_html_text). Pure but for its memory; main
 * thread. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/plot.h"
#include "programs/calibrate.h"

enum { MAX_POINTS = 160, MAX_SERIES = WEIR_PLOT_MAX_SERIES };

/* Numbers that a drawing borrows, all in one place. */
typedef struct board {
  weir_series s[MAX_SERIES];
  double x[MAX_SERIES][MAX_POINTS], y[MAX_SERIES][MAX_POINTS], lo[MAX_SERIES][MAX_POINTS],
      hi[MAX_SERIES][MAX_POINTS];
  char tip[MAX_SERIES][MAX_POINTS][64];
  int32_t n;
} board;

typedef struct page {
  const weir_calibration *r;
  weir_buf *out;
  board *b;
} page;

/* ---- text ---- */

/* A number with so many decimals, "-" for none. */
static const char *num(double x, int decimals, char buf[32]) {
  if (!isfinite(x))
    snprintf(buf, 32, "-");
  else
    snprintf(buf, 32, "%.*f", decimals, x);
  return buf;
}

static const char *percent(double x, int decimals, char buf[32]) {
  if (!isfinite(x))
    snprintf(buf, 32, "-");
  else
    snprintf(buf, 32, "%.*f %%", decimals, 100 * x);
  return buf;
}

/* 1.2k, 3.4M, 5.6G. */
static const char *big(double x, const char *unit, char buf[32]) {
  static const char *const prefix[] = {"", "k", "M", "G", "T"};
  int k = 0;
  if (!isfinite(x)) {
    snprintf(buf, 32, "-");
    return buf;
  }
  while (fabs(x) >= 1000 && k < 4) {
    x /= 1000;
    k++;
  }
  snprintf(buf, 32, "%.3g %s%s", x, prefix[k], unit);
  return buf;
}

/* Plain markup and numbers, no text from outside. */
static weir_status put(page *p, weir_err *e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static weir_status put(page *p, weir_err *e, const char *fmt, ...) {
  char text[1024];
  va_list args;
  va_start(args, fmt);
  const int n = vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (n < 0 || (size_t)n >= sizeof text) return weir_fail(e, WEIR_EINVAL, "report: a line is too long");
  return weir_buf_put(p->out, text, (size_t)n, e);
}

static weir_status say(page *p, const char *text, weir_err *e) {
  return weir_html_text(text ? text : "", p->out, e);
}

static const char *file_name(const char *path) {
  const char *slash = path ? strrchr(path, '/') : NULL;
  return slash ? slash + 1 : path ? path : "";
}

/* ---- series ---- */

/* What a point is on one axis. */
typedef double (*measure)(const weir_cal_point *);
static double deferral(const weir_cal_point *p) { return p->deferral_rate; }
static double speedup(const weir_cal_point *p) { return p->speedup; }
static double flops(const weir_cal_point *p) { return 1e-6 * p->flops; }
static double bytes(const weir_cal_point *p) { return 1e-6 * p->weight_bytes; }
static double same_text(const weir_cal_point *p) { return p->same_text; }

static const struct {
  int32_t color;
  bool dashed, dots;
} looks[] = {
    [WEIR_CURVE_LARGE] = {7, false, true},     [WEIR_CURVE_SMALL] = {7, false, true},
    [WEIR_CURVE_GATE] = {0, false, true},      [WEIR_CURVE_CHANCE] = {7, true, false},
    [WEIR_CURVE_ORACLE] = {7, false, true},    [WEIR_CURVE_EXACT] = {2, false, true},
    [WEIR_CURVE_SPECULATE] = {3, false, true}, [WEIR_CURVE_ROLLBACK] = {1, false, true},
};
enum { N_KINDS = sizeof looks / sizeof *looks };

static weir_series *add(board *b, const char *name, int32_t color) {
  if (b->n == MAX_SERIES) return NULL;
  weir_series *s = &b->s[b->n];
  *s = (weir_series){.color = color, .dots = true, .x = b->x[b->n], .y = b->y[b->n], .tip = b->tip[b->n]};
  snprintf(s->name, sizeof s->name, "%s", name);
  b->n++;
  return s;
}

static void point(board *b, weir_series *s, double x, double y, const char *tip) {
  const ptrdiff_t k = s - b->s;
  if (s->n == MAX_POINTS || !isfinite(x) || !isfinite(y)) return;
  b->x[k][s->n] = x;
  b->y[k][s->n] = y;
  snprintf(b->tip[k][s->n], sizeof b->tip[k][s->n], "%.63s", tip);
  s->n++;
}

/* "v3" of several windows and gates would be many: each curve has its series, colours by kind. */
static void curve_name(const weir_cal_curve *c, char *buf, size_t size) {
  switch (c->kind) {
    case WEIR_CURVE_LARGE: snprintf(buf, size, "large alone"); break;
    case WEIR_CURVE_SMALL: snprintf(buf, size, "small alone"); break;
    case WEIR_CURVE_GATE: snprintf(buf, size, "gate: %s", c->label); break;
    case WEIR_CURVE_CHANCE: snprintf(buf, size, "deferral by chance"); break;
    case WEIR_CURVE_ORACLE: snprintf(buf, size, "oracle: defers where tokens differ"); break;
    case WEIR_CURVE_EXACT: snprintf(buf, size, "exact speculation"); break;
    case WEIR_CURVE_SPECULATE: snprintf(buf, size, "speculate: %s", c->label); break;
    default: snprintf(buf, size, "%s", c->label);
  }
}

static int32_t color_of(const weir_calibration *r, int32_t i) {
  static const int32_t gates[] = {0, 5, 6};
  const weir_cal_curve *c = &r->curve[i];
  int32_t nth = 0;
  if ((unsigned)c->kind >= N_KINDS) return 7;
  if (c->kind != WEIR_CURVE_GATE) return looks[c->kind].color;
  for (int32_t k = 0; k < i; k++) nth += r->curve[k].kind == WEIR_CURVE_GATE;
  return gates[nth < 3 ? nth : 2];
}

/* The point of the choice: that of its curve whose setting is nearest to it. */
static const weir_cal_point *chosen_point(const weir_calibration *r) {
  const weir_cal_point *best = NULL;
  if (!r->choice.found) return NULL;
  for (int32_t i = 0; i < r->n_curves; i++) {
    const weir_cal_curve *c = &r->curve[i];
    if (c->kind != WEIR_CURVE_GATE || c->gate != r->choice.opts.gate) continue;
    for (int32_t k = 0; k < c->n; k++)
      if (!best ||
          fabs(c->point[k].setting - r->choice.threshold) < fabs(best->setting - r->choice.threshold))
        best = &c->point[k];
  }
  return best;
}

static weir_status put_curves(page *p, const char *title, const char *x_name, measure x_of, bool log_x,
                              bool wide, weir_err *e) {
  const weir_calibration *r = p->r;
  const weir_cal_point *chosen = chosen_point(r);
  board *b = p->b;
  b->n = 0;
  for (int32_t i = 0; i < r->n_curves; i++) {
    const weir_cal_curve *c = &r->curve[i];
    char name[96];
    if ((unsigned)c->kind >= N_KINDS || b->n >= MAX_SERIES - 1) continue;
    curve_name(c, name, sizeof name);
    weir_series *s = add(b, name, color_of(r, i));
    s->dashed = looks[c->kind].dashed;
    s->dots = looks[c->kind].dots;
    s->no_line = c->n < 2;
    s->hidden_name = !wide; /* as in the first drawing */
    s->tips_shown = wide && c->kind == WEIR_CURVE_SMALL;
    for (int32_t k = 0; k < c->n; k++)
      point(b, s, x_of(&c->point[k]), same_text(&c->point[k]), c->n == 1 ? name : c->point[k].label);
  }
  if (chosen) {
    weir_series *s = add(b, "chosen", 4);
    s->hidden_name = true;
    s->no_line = true;
    s->tips_shown = true;
    point(b, s, x_of(chosen), same_text(chosen), "chosen");
  }
  return weir_plot_draw(&(weir_plot){.title = title,
                                     .x_name = x_name,
                                     .y_name = "texts that stay the large model's",
                                     .log_x = log_x,
                                     .x_from_zero = x_of == deferral,
                                     .y_from_zero = true,
                                     .y_max = NAN,
                                     .mark_x = x_of == speedup ? 1 : NAN,
                                     .mark_name = "large alone",
                                     .wide = wide,
                                     .series = b->s,
                                     .n_series = b->n},
                        p->out, e);
}

/* ---- parts of the page ---- */

static weir_status put_head(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_calibration *r = p->r;
  WEIR_TRY(put(p, e,
               "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" "
               "content=\"width=device-width,initial-scale=1\"/><title>weir calibrate: "));
  WEIR_TRY(say(p, file_name(r->large), e));
  WEIR_TRY(put(p, e, "</title>\n"));
  WEIR_TRY(weir_buf_puts(p->out, weir_page_style, e));
  WEIR_TRY(put(p, e,
               "<style>.promise{border-left:4px solid var(--c0);background:var(--card);padding:12px 16px;"
               "border-radius:0 10px 10px 0;margin:16px 0;font-size:15.5px}pre{background:var(--card);"
               "border:1px solid var(--line);border-radius:10px;padding:10px 14px;overflow-x:auto}"
               "tr.chosen td{background:var(--card);font-weight:600}p.note{max-width:92ch}</style>\n"
               "</head><body>\n<h1>Which threshold?</h1>\n<p class=\"sub\">"));
  WEIR_TRY(say(p, file_name(r->small), e));
  WEIR_TRY(put(p, e, " before "));
  WEIR_TRY(say(p, file_name(r->large), e));
  WEIR_TRY(put(p, e, ", on "));
  WEIR_TRY(say(p, file_name(r->data), e));
  WEIR_TRY(put(p, e, " &middot; "));
  WEIR_TRY(say(p, r->when, e));
  st = put(p, e, "</p>\n");
out:
  return st;
}

static weir_status tile(page *p, const char *value, const char *name, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(put(p, e, "<div class=\"tile\"><b>"));
  WEIR_TRY(say(p, value, e));
  WEIR_TRY(put(p, e, "</b><span>"));
  WEIR_TRY(say(p, name, e));
  st = put(p, e, "</span></div>");
out:
  return st;
}

/* What to start a server with. */
static weir_status put_command(page *p, weir_err *e) {
  const weir_cal_choice *c = &p->r->choice;
  if (!c->found) return put(p, e, "<pre>weir serve --mode large</pre>\n");
  if (c->opts.gate == WEIR_GATE_ENTROPY)
    return put(p, e, "<pre>weir serve --mode %s --entropy %.6g</pre>\n", weir_mode_name(c->opts.mode),
               c->threshold);
  return put(p, e, "<pre>weir serve --mode %s --gate %s --threshold %.6g%s</pre>\n",
             weir_mode_name(c->opts.mode), weir_gate_name(c->opts.gate), c->threshold,
             weir_gate_is_fitted(c->opts.gate) ? " --gate-file FILE" : "");
}

static weir_status put_answer(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_calibration *r = p->r;
  const weir_cal_choice *c = &r->choice;
  const weir_cal_confirm *k = &r->confirm;
  const weir_cal_point *at = chosen_point(r);
  char text[96], a[32];
  WEIR_TRY(put(p, e, "<div class=\"tiles\">"));
  if (c->found) {
    snprintf(text, sizeof text, "%s %s %.4g", weir_gate_name(c->opts.gate),
             weir_gate_is_low(c->opts.gate) ? "<" : ">", c->threshold);
    WEIR_TRY(tile(p, text, "goes to the large model", e));
  } else {
    WEIR_TRY(tile(p, "large alone", "nothing cheaper meets the level", e));
  }
  if (k->ran) {
    WEIR_TRY(tile(p, percent(k->chosen.deferral_rate, 1, a), "of tokens by the large model", e));
    snprintf(text, sizeof text, "%s\xc3\x97", num(k->chosen.speedup, 2, a));
    WEIR_TRY(tile(p, text, "as fast as the large model alone, measured", e));
    if (k->chosen.n_right >= 0) {
      char b[32];
      snprintf(text, sizeof text, "%s : %s", percent(k->chosen.exact, 1, a), percent(k->large.exact, 1, b));
      WEIR_TRY(tile(p, text, "right answers, beside the large model's", e));
    }
    WEIR_TRY(
        tile(p, percent(k->chosen.same_text, 1, a), "of texts are the large model's, token for token", e));
  } else if (at) {
    WEIR_TRY(tile(p, percent(at->deferral_rate, 1, a), "of tokens by the large model", e));
    snprintf(text, sizeof text, "%s\xc3\x97", num(at->speedup, 2, a));
    WEIR_TRY(tile(p, text, "as fast as the large model alone, predicted", e));
    WEIR_TRY(tile(p, percent(at->same_text, 1, a), "of texts stay the large model's, replayed", e));
  }
  WEIR_TRY(put(p, e, "</div>\n<div class=\"promise\"><b>What it promises.</b> "));
  WEIR_TRY(say(p, c->guarantee, e));
  if (k->ran) {
    WEIR_TRY(put(p, e, " On %d other requests the loss was %.5f (standard error %s): ", (int)k->n, k->loss,
                 num(k->loss_error, 5, a)));
    WEIR_TRY(put(p, e,
                 k->holds ? "<span class=\"good\">within the level of %.4g</span>."
                          : "<span class=\"bad\">above the level of %.4g</span>: take no comfort from it.",
                 c->level));
  }
  WEIR_TRY(put(p, e, "</div>\n"));
  st = put_command(p, e);
out:
  return st;
}

static weir_status put_pareto(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  if (p->r->n_curves == 0) return WEIR_OK;
  WEIR_TRY(
      put(p, e,
          "<h2>What quality costs</h2>\n<p class=\"note\">Replayed along the large model's texts of %d "
          "requests, with times predicted for %d at once. Up and to the right is better; below the curve "
          "of chance a gate is worth nothing, above the oracle's point none can be. A point says what it "
          "is when one points at it; colours are the same in all four.</p>\n<div class=\"plots\">\n",
          (int)p->r->n_replayed, (int)p->r->batch));
  WEIR_TRY(put_curves(p, "Against speed", "predicted speed-up over the large model alone", speedup, true,
                      true, e));
  WEIR_TRY(put_curves(p, "Against deferral", "share of tokens that the large model writes", deferral, false,
                      false, e));
  WEIR_TRY(
      put_curves(p, "Against arithmetic", "million operations by token, both models", flops, true, false, e));
  WEIR_TRY(
      put_curves(p, "Against memory traffic", "megabytes of weights read by token", bytes, true, false, e));
  st = put(p, e, "</div>\n");
out:
  return st;
}

static weir_status put_risk(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_cal_choice *c = &p->r->choice;
  board *b = p->b;
  if (c->n_grid < 2 || !c->grid || !c->grid_risk) return WEIR_OK;
  b->n = 0;
  weir_series *risk = add(b, "mean loss of a request", 0), *level = add(b, "level", 1);
  weir_series *bound = add(b, "bound: n/(n+1) loss + 1/(n+1)", 5);
  risk->dots = level->dots = bound->dots = false;
  level->dashed = true;
  const int32_t step = c->n_grid / (MAX_POINTS - 2) + 1;
  for (int32_t i = 0; i < c->n_grid; i += step) {
    if (c->grid[i] < 0) continue; /* -1 for always: far from all others */
    point(b, risk, c->grid[i], c->grid_risk[i], "");
    point(b, bound, c->grid[i], (c->n * c->grid_risk[i] + 1) / (c->n + 1.0), "");
    point(b, level, c->grid[i], c->level, "");
  }
  WEIR_TRY(put(p, e, "<h2>Where the promise comes from</h2>\n<p class=\"note\">"));
  WEIR_TRY(put(
      p, e,
      "Conformal risk control (arXiv 2208.02814): of all thresholds whose bound lies below the level, "
      "the one that defers least. It holds on average over requests like these %d, %s. %s</p>\n"
      "<div class=\"plots\">",
      (int)c->n,
      c->loss == WEIR_LOSS_TOKENS
          ? "where the loss of one is the share of its tokens that stand and are not the large model's own"
          : "where the loss of one is 1 when the large model is right and the cascade is not",
      c->n < c->n_enough ? "They are too few for this level, whatever they show." : ""));
  WEIR_TRY(weir_plot_draw(&(weir_plot){.title = "Loss by threshold",
                                       .x_name = "threshold",
                                       .y_name = "loss",
                                       .y_from_zero = true,
                                       .y_max = NAN,
                                       .mark_x = c->found ? c->threshold : NAN,
                                       .mark_name = "chosen",
                                       .series = b->s,
                                       .n_series = b->n},
                          p->out, e));
  st = put(p, e, "</div>\n");
out:
  return st;
}

/* ---- why the gate can know ---- */

static weir_status put_histogram(page *p, weir_err *e) {
  const weir_cal_drift *d = &p->r->drift;
  board *b = p->b;
  b->n = 0;
  weir_series *all = add(b, "positions", 0), *differ = add(b, "where the two models differ", 1);
  all->dots = differ->dots = false;
  for (int32_t i = 0; i < WEIR_CAL_BINS; i++) /* steps: a bin is as wide as it is */
    for (int side = 0; side < 2; side++) {
      const double x = (i + side) * d->bin_width;
      point(b, all, x, d->count[i] > 0 ? (double)d->count[i] : 0.5, "");
      point(b, differ, x, d->differ[i] > 0 ? (double)d->differ[i] : 0.5, "");
    }
  const bool entropy = p->r->choice.found && p->r->choice.opts.gate == WEIR_GATE_ENTROPY;
  return weir_plot_draw(&(weir_plot){.title = "Entropy of the small model",
                                     .x_name = "nats; the last bin holds all above",
                                     .y_name = "positions",
                                     .log_y = true,
                                     .x_from_zero = true,
                                     .y_max = NAN,
                                     .mark_x = entropy ? p->r->choice.threshold : NAN,
                                     .mark_name = "chosen",
                                     .series = b->s,
                                     .n_series = b->n},
                        p->out, e);
}

static weir_status put_error_rate(page *p, weir_err *e) {
  const weir_cal_drift *d = &p->r->drift;
  board *b = p->b;
  char tip[64];
  b->n = 0;
  weir_series *s = add(b, "the small token is not the large model's", 1);
  s->lo = b->lo[0];
  s->hi = b->hi[0];
  for (int32_t i = 0; i < WEIR_CAL_BINS; i++) {
    if (d->count[i] < 5) continue; /* says nothing */
    const double n = (double)d->count[i], share = (double)d->differ[i] / n,
                 half = 1.96 * sqrt(share * (1 - share) / n);
    b->lo[0][s->n] = fmax(0, share - half);
    b->hi[0][s->n] = fmin(1, share + half);
    snprintf(tip, sizeof tip, "%lld positions", (long long)d->count[i]);
    point(b, s, (i + 0.5) * d->bin_width, share, tip);
  }
  const bool entropy = p->r->choice.found && p->r->choice.opts.gate == WEIR_GATE_ENTROPY;
  return weir_plot_draw(&(weir_plot){.title = "How often it is wrong, by entropy",
                                     .x_name = "nats",
                                     .y_name = "share of positions",
                                     .x_from_zero = true,
                                     .y_from_zero = true,
                                     .y_max = 1,
                                     .mark_x = entropy ? p->r->choice.threshold : NAN,
                                     .mark_name = "chosen",
                                     .series = b->s,
                                     .n_series = b->n},
                        p->out, e);
}

static weir_status put_reliability(page *p, weir_err *e) {
  const weir_cal_reliability *r = &p->r->reliability;
  board *b = p->b;
  char tip[64];
  if (r->n <= 0) return WEIR_OK;
  b->n = 0;
  weir_series *s = add(b, "the gate's probability of an error, and what came", 0),
              *ideal = add(b, "as it says", 7);
  ideal->dots = false;
  ideal->dashed = true;
  point(b, ideal, 0, 0, "");
  point(b, ideal, 1, 1, "");
  for (int32_t i = 0; i < r->n && i < WEIR_CAL_RELIABILITY_BINS; i++) {
    snprintf(tip, sizeof tip, "%lld rows", (long long)r->rows[i]);
    point(b, s, r->predicted[i], r->observed[i], tip);
  }
  return weir_plot_draw(&(weir_plot){.title = "Predicted against observed",
                                     .x_name = "predicted probability that the token is wrong",
                                     .y_name = "share that was",
                                     .x_from_zero = true,
                                     .y_from_zero = true,
                                     .y_max = 1,
                                     .mark_x = NAN,
                                     .series = b->s,
                                     .n_series = b->n},
                        p->out, e);
}

static weir_status put_gate(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_calibration *r = p->r;
  bool any = false;
  char a[32], b[32], c[32];
  if (r->drift.n <= 0) return WEIR_OK;
  WEIR_TRY(
      put(p, e,
          "<h2>Why the gate can know</h2>\n<p class=\"note\">Both models draw the same token at %s of %lld "
          "positions; mean entropy %s nats (small), %s (large).",
          percent(r->agreement, 2, a), (long long)r->drift.n, num(r->entropy[0], 3, b),
          num(r->entropy[1], 3, c)));
  for (int32_t i = 0; i < r->n_curves; i++) {
    if (r->curve[i].kind != WEIR_CURVE_GATE || !isfinite(r->curve[i].auroc)) continue;
    WEIR_TRY(put(p, e,
                 any ? ", "
                     : " How well each gate tells wrong tokens from right ones (area under the ROC curve; "
                       "0.5 is chance): "));
    WEIR_TRY(say(p, r->curve[i].label, e));
    WEIR_TRY(put(p, e, " %.3f", r->curve[i].auroc));
    any = true;
  }
  WEIR_TRY(put(p, e, "%s</p>\n<div class=\"plots\">", any ? "." : ""));
  WEIR_TRY(put_histogram(p, e));
  WEIR_TRY(put_error_rate(p, e));
  WEIR_TRY(put_reliability(p, e));
  st = put(p, e, "</div>\n");
out:
  return st;
}

/* ---- fresh data ---- */

static weir_status put_run(page *p, const char *name, const weir_cal_run *r, double predicted, bool chosen,
                           weir_err *e) {
  weir_status st = WEIR_OK;
  char a[32], b[32], c[32], d[32], f[32];
  if (!r->ran) return WEIR_OK;
  WEIR_TRY(put(p, e, "<tr%s><td>", chosen ? " class=\"chosen\"" : ""));
  WEIR_TRY(say(p, name, e));
  if (r->n_right >= 0)
    WEIR_TRY(put(p, e, "</td><td>%s (%s .. %s)", num(r->exact, 3, a), num(r->lo, 3, b), num(r->hi, 3, c)));
  else
    WEIR_TRY(put(p, e, "</td><td>-"));
  st = put(p, e, "</td><td>%s</td><td>%s</td><td>%s</td><td>%s\xc3\x97</td><td>%s</td></tr>\n",
           percent(r->same_text, 1, a), percent(r->deferral_rate, 1, b), num(r->tok_s, 1, c),
           num(r->speedup, 2, d), num(predicted, 2, f));
out:
  return st;
}

static weir_status put_confirm(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_cal_confirm *k = &p->r->confirm;
  char name[64];
  if (!k->ran) return WEIR_OK;
  WEIR_TRY(
      put(p, e,
          "<h2>Confirmed on fresh data</h2>\n<p class=\"note\">End to end through the engine, on %d requests "
          "that "
          "had no part in the choice, %d at once; the faster of two runs each. Loss %.5f, level %.4g: "
          "<b class=\"%s\">%s</b>.</p>\n<div class=\"scroll\"><table><tr><th>setting</th><th>right, 95 %% "
          "interval</th><th>same text</th><th>deferred</th><th>tok/s</th><th>speed-up</th><th>predicted</th>"
          "</tr>\n",
          (int)k->n, (int)p->r->batch, k->loss, p->r->choice.level, k->holds ? "good" : "bad",
          k->holds ? "holds" : "does not hold here"));
  WEIR_TRY(put_run(p, "large alone", &k->large, NAN, false, e));
  WEIR_TRY(put_run(p, "small alone", &k->small, NAN, false, e));
  snprintf(name, sizeof name, "exact speculation, window %d", (int)k->exact_window);
  WEIR_TRY(put_run(p, name, &k->exact, k->predicted_exact, false, e));
  WEIR_TRY(put_run(p, "the choice", &k->chosen, k->predicted_speedup, true, e));
  st = put(p, e, "</table></div>\n");
out:
  return st;
}

/* ---- the machine ---- */

static weir_status put_costs(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_cal_cost *c = &p->r->cost;
  board *b = p->b;
  static const char *const name[] = {"small model", "large model"};
  if (c->n <= 0) return WEIR_OK;
  b->n = 0;
  for (int t = 0; t < 2; t++) {
    weir_series *one = add(b, name[t], t ? 1 : 0);
    char all_name[64];
    snprintf(all_name, sizeof all_name, "%s, every row through the head", name[t]);
    weir_series *all = add(b, all_name, t ? 1 : 0);
    all->dashed = true;
    all->dots = false;
    for (int32_t i = 0; i < c->n && i < WEIR_COST_POINTS; i++) {
      point(b, one, c->rows[i], 1e-3 * c->ns[t][i], "");
      point(b, all, c->rows[i], 1e-3 * c->ns_all[t][i], "");
    }
  }
  WEIR_TRY(put(
      p, e,
      "<h2>What a step costs here</h2>\n<p class=\"note\">Measured steps of one sequence, the fastest seen; "
      "predictions are sums of these.</p>\n<div class=\"plots\">"));
  WEIR_TRY(weir_plot_draw(&(weir_plot){.title = "Time of a step",
                                       .x_name = "rows",
                                       .y_name = "microseconds",
                                       .log_x = true,
                                       .log_y = true,
                                       .y_max = NAN,
                                       .mark_x = NAN,
                                       .series = b->s,
                                       .n_series = b->n},
                          p->out, e));
  WEIR_TRY(put(
      p, e,
      "</div>\n<div class=\"scroll\"><table><tr><th>model</th><th>operations a row</th><th>weights read a "
      "step</th><th>KV a row</th><th>one row</th></tr>\n"));
  for (int t = 0; t < 2; t++) {
    char f[32], w[32], k[32], ns[32];
    WEIR_TRY(put(p, e, "<tr><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s \xc2\xb5s</td></tr>\n",
                 name[t], big(c->flops[t] + c->head_flops[t], "", f), big(c->weight_bytes[t], "B", w),
                 big(c->kv_bytes[t], "B", k), num(1e-3 * c->ns[t][0], 1, ns)));
  }
  st = put(p, e, "</table></div>\n");
out:
  return st;
}

/* ---- all settings, and how it was made ---- */

static weir_status put_settings(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_calibration *r = p->r;
  const weir_cal_point *chosen = chosen_point(r);
  char a[32], b[32], c[32], d[32], f[32], g[32];
  if (r->n_curves == 0) return WEIR_OK;
  WEIR_TRY(put(
      p, e,
      "<h2>All settings</h2>\n<p class=\"note\">&#9733;: nothing that an engine can run is at least as fast "
      "and as true to the large model's texts, and better in one of the two.</p>\n<div "
      "class=\"scroll\"><table>"
      "<tr><th>setting</th><th>deferred</th><th>same text</th><th>tokens lost</th><th>refused</th>"
      "<th>large steps</th><th>large rows</th><th>operations</th><th>weights read</th><th>\xc2\xb5s a "
      "token</th><th>speed-up</th><th></th></tr>\n"));
  for (int32_t i = 0; i < r->n_curves; i++)
    for (int32_t k = 0; k < r->curve[i].n; k++) {
      const weir_cal_point *x = &r->curve[i].point[k];
      WEIR_TRY(put(p, e, "<tr%s><td>", x == chosen ? " class=\"chosen\"" : ""));
      WEIR_TRY(say(p, x->label, e));
      WEIR_TRY(put(p, e, "</td><td>%s</td><td>%s</td><td>%.5f</td><td>%.4f</td><td>%.3f</td><td>%.3f</td>",
                   percent(x->deferral_rate, 1, a), percent(x->same_text, 1, b), x->token_loss, x->refused,
                   x->steps[1], x->rows[1]));
      WEIR_TRY(put(p, e, "<td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
                   big(x->flops, "", c), big(x->weight_bytes, "B", d), num(1e-3 * x->ns, 1, f),
                   num(x->speedup, 2, g), x->pareto ? "&#9733;" : ""));
    }
  st = put(p, e, "</table></div>\n");
out:
  return st;
}

static weir_status row(page *p, const char *name, const char *value, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(put(p, e, "<dt>"));
  WEIR_TRY(say(p, name, e));
  WEIR_TRY(put(p, e, "</dt><dd>"));
  WEIR_TRY(say(p, value, e));
  st = put(p, e, "</dd>\n");
out:
  return st;
}

static weir_status put_details(page *p, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_calibration *r = p->r;
  char text[256];
  WEIR_TRY(put(p, e, "<h2>How this was made</h2>\n<dl>\n"));
  WEIR_TRY(row(p, "Program", r->version, e));
  WEIR_TRY(row(p, "Small model", r->small, e));
  WEIR_TRY(row(p, "Large model", r->large, e));
  WEIR_TRY(row(p, "Data", r->data, e));
  snprintf(text, sizeof text, "%d %s, %lld tokens of the large model; temperature %g, seed %llu",
           (int)r->n_texts, r->tasks ? "tasks" : "prompts", (long long)r->n_tokens, r->temperature,
           (unsigned long long)r->seed);
  WEIR_TRY(row(p, "Requests", text, e));
  WEIR_TRY(row(p, "Machine", r->device, e));
  snprintf(text, sizeof text, "%.1f s to log what both models say, %.1f s to replay, %.1f s end to end",
           r->log_seconds, r->replay_seconds, r->run_seconds);
  WEIR_TRY(row(p, "Took", text, e));
  snprintf(text, sizeof text,
           "weir calibrate --level %.6g --loss %s --temperature %g --seed %llu --batch %d ...",
           r->choice.level, r->choice.loss == WEIR_LOSS_TOKENS ? "tokens" : "wrong", r->temperature,
           (unsigned long long)r->seed, (int)r->batch);
  WEIR_TRY(row(p, "Again", text, e));
  st = put(p, e, "</dl>\n</body></html>\n");
out:
  return st;
}

weir_status weir_calibrate_report(const weir_calibration *r, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  page p = {r, out, NULL};
  WEIR_TRY(WEIR_NEW(1, &p.b, e));
  WEIR_TRY(put_head(&p, e));
  WEIR_TRY(put_answer(&p, e));
  WEIR_TRY(put_pareto(&p, e));
  WEIR_TRY(put_risk(&p, e));
  WEIR_TRY(put_confirm(&p, e));
  WEIR_TRY(put_gate(&p, e));
  WEIR_TRY(put_costs(&p, e));
  WEIR_TRY(put_settings(&p, e));
  st = put_details(&p, e);
out:
  free(p.b);
  return st;
}
