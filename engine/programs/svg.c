/* SPDX-License-Identifier: Apache-2.0 */
/* The drawings of an evaluation: exact match against deferral rate, and against the speed-up over the large
 * model. Every mode has its colour and shape; a point is named by what tells it from the others of its mode.
 * Pure but for its memory; main thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "programs/chart.h"
#include "programs/eval.h"

enum { MAX_PARTS = 8 };

static weir_mode mode_of(const weir_eval_row *r) { return r->setting.opts.mode; }

static int32_t look_of(const weir_eval_row *r) {
  return r->chance ? WEIR_LOOK_CHANCE : mode_of(r) <= WEIR_MODE_LARGE ? WEIR_LOOK_PLAIN : (int32_t)mode_of(r);
}

/* ---- names ---- */

/* The parts of a setting's text, between ", ". */
typedef struct parts {
  char text[WEIR_EVAL_NAME_BYTES];
  const char *at[MAX_PARTS];
  int32_t n;
} parts;

static void split(const char *text, parts *p) {
  p->n = 0;
  snprintf(p->text, sizeof p->text, "%s", text);
  for (char *s = p->text; s && p->n < MAX_PARTS;) {
    p->at[p->n++] = s;
    s = strstr(s, ", ");
    if (!s) break;
    *s = '\0';
    s += 2;
  }
}

/* Which parts of this mode's rows are not the same in all of them; `shared`: every such part begins with the
 * same word, as in "entropy 0.3", "entropy 0.5". Returns how many rows there are. */
static int32_t find_varying(const weir_eval *v, weir_mode mode, bool varies[MAX_PARTS], bool *shared) {
  parts first = {.n = 0}, p;
  int32_t rows = 0;
  memset(varies, 0, MAX_PARTS * sizeof *varies);
  *shared = true;
  for (int32_t i = 0; i < v->n; i++) {
    if (mode_of(&v->row[i]) != mode || !weir_eval_is_cascade(&v->row[i])) continue;
    split(v->row[i].text, rows == 0 ? &first : &p);
    if (rows++ == 0) continue;
    for (int32_t k = 0; k < MAX_PARTS; k++) {
      if (k >= first.n && k >= p.n) break;
      if (k >= first.n || k >= p.n) {
        varies[k] = true;
        *shared = false;
      } else if (strcmp(first.at[k], p.at[k]) != 0) {
        varies[k] = true;
        const size_t word = strcspn(first.at[k], " ");
        if (strncmp(first.at[k], p.at[k], word + 1) != 0) *shared = false;
      }
    }
  }
  return rows;
}

/* What tells the row from the others of its mode; the mode's name when it is the only one. */
static void row_label(const weir_eval *v, const weir_eval_row *r, char *buf, size_t bytes) {
  bool varies[MAX_PARTS], shared;
  parts p;
  int32_t n_varying = 0;
  const int32_t rows = find_varying(v, mode_of(r), varies, &shared);
  buf[0] = '\0';
  if (r->chance) return;
  if (rows < 2) {
    snprintf(buf, bytes, "%s", weir_mode_name(mode_of(r)));
    return;
  }
  split(r->text, &p);
  for (int32_t k = 0; k < p.n; k++) n_varying += varies[k];
  for (int32_t k = 0; k < p.n; k++) {
    if (!varies[k]) continue;
    const char *part = p.at[k], *space = strchr(part, ' ');
    const size_t at = strlen(buf);
    const bool window = !strncmp(part, "window ", 7);
    if (shared && n_varying == 1 && space)
      part = space + 1;
    else if (window)
      part += 7;
    snprintf(buf + at, bytes - at, "%s%s%s", at ? ", " : "", window && n_varying > 1 ? "w" : "", part);
  }
}

/* "defer, by entropy", where that is what its points differ in. */
static void mode_label(const weir_eval *v, const weir_eval_row *r, char *buf, size_t bytes) {
  bool varies[MAX_PARTS], shared;
  parts p;
  const int32_t rows = find_varying(v, mode_of(r), varies, &shared);
  snprintf(buf, bytes, "%s", weir_mode_name(mode_of(r)));
  if (rows < 2 || !shared) return;
  split(r->text, &p);
  int32_t one = -1, n = 0;
  for (int32_t k = 0; k < p.n; k++)
    if (varies[k]) {
      one = k;
      n++;
    }
  if (n == 1)
    snprintf(buf, bytes, "%s, by %.*s", weir_mode_name(mode_of(r)), (int)strcspn(p.at[one], " "), p.at[one]);
}

/* ---- what both drawings share ---- */

/* Where a row lies on the axis across. */
typedef double (*across)(const weir_eval *, int32_t i);
static double by_deferral(const weir_eval *v, int32_t i) { return v->row[i].deferral_rate; }
static double by_speed(const weir_eval *v, int32_t i) { return weir_eval_speedup(v, i); }

static bool is_first(const weir_eval *v, int32_t i) {
  for (int32_t k = 0; k < i; k++)
    if (mode_of(&v->row[k]) == mode_of(&v->row[i]) && v->row[k].chance == v->row[i].chance) return false;
  return true;
}

/* The rows of one mode (or of its controls) as a line, where they differ in one thing: then it is a curve. */
static weir_status put_curve(const weir_eval *v, int32_t i, across x_of, weir_chart *c, weir_buf *out,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_eval_row *r = &v->row[i];
  bool varies[MAX_PARTS], shared;
  double *x = NULL, *y = NULL;
  int32_t n = 0, n_varying = 0;
  find_varying(v, mode_of(r), varies, &shared);
  for (int32_t k = 0; k < MAX_PARTS; k++) n_varying += varies[k];
  if (n_varying != 1 || !shared) return WEIR_OK;
  WEIR_TRY(WEIR_NEW((size_t)v->n, &x, e));
  WEIR_TRY(WEIR_NEW((size_t)v->n, &y, e));
  for (int32_t k = 0; k < v->n; k++) {
    if (mode_of(&v->row[k]) != mode_of(r) || v->row[k].chance != r->chance || isnan(x_of(v, k))) continue;
    x[n] = x_of(v, k);
    y[n++] = v->row[k].exact;
  }
  if (n > 1) st = weir_chart_line(c, x, y, n, look_of(r), r->chance, out, e);
out:
  free(x);
  free(y);
  return st;
}

static weir_status put_rows(const weir_eval *v, across x_of, bool alone, weir_chart *c, weir_buf *out,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  const bool speed = x_of == by_speed;
  for (int32_t i = 0; i < v->n; i++) {
    const weir_eval_row *r = &v->row[i];
    char tip[256], label[WEIR_LABEL_BYTES];
    const bool is_alone = look_of(r) == WEIR_LOOK_PLAIN;
    if (is_alone && !alone) continue;
    row_label(v, r, label, sizeof label);
    snprintf(tip, sizeof tip, "%s %s: exact match %.3f (%.3f .. %.3f), deferral rate %.3f, %.2fx",
             weir_mode_name(mode_of(r)), r->text, r->exact, r->lo, r->hi, r->deferral_rate,
             weir_eval_speedup(v, i));
    if (is_alone) snprintf(label, sizeof label, "%s model alone", weir_mode_name(mode_of(r)));
    WEIR_TRY(weir_chart_point_draw(c,
                                   &(weir_chart_point){.x = x_of(v, i),
                                                       .y = r->exact,
                                                       .x_lo = speed ? r->speed_lo : NAN,
                                                       .x_hi = speed ? r->speed_hi : NAN,
                                                       .y_lo = r->lo,
                                                       .y_hi = r->hi,
                                                       .look = look_of(r),
                                                       .hollow = r->chance,
                                                       .size = !speed && i == v->chosen ? 1.4 : 1,
                                                       .tip = tip,
                                                       .text = label},
                                   out, e));
  }
out:
  return st;
}

static weir_status put_legend(const weir_eval *v, weir_chart *c, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  double at = 0;
  for (int32_t i = 0; i < v->n; i++) {
    const weir_eval_row *r = &v->row[i];
    char label[WEIR_LABEL_BYTES];
    if (look_of(r) == WEIR_LOOK_PLAIN || !is_first(v, i)) continue;
    mode_label(v, r, label, sizeof label);
    WEIR_TRY(weir_chart_legend(c, look_of(r), r->chance, r->chance ? "as many deferred by chance" : label,
                               &at, out, e));
  }
out:
  return st;
}

static double floor_to(double x, double step) { return floor(x / step + 1e-9) * step; }
static double ceil_to(double x, double step) { return ceil(x / step - 1e-9) * step; }

static void range_of_exact(const weir_eval *v, bool from_zero, weir_chart *c) {
  double lo = 1, hi = 0;
  for (int32_t i = 0; i < v->n; i++) {
    lo = fmin(lo, v->row[i].lo);
    hi = fmax(hi, v->row[i].hi);
  }
  if (lo > hi) lo = 0, hi = 1;
  c->y0 = from_zero ? 0 : fmax(0, floor_to(lo - 0.01, 0.05));
  c->y1 = fmin(1, ceil_to(hi + 0.01, 0.05));
  if (c->y1 <= c->y0) c->y1 = c->y0 + 0.1;
}

/* Where the tasks came from, without folders. */
static void subtitle(const weir_eval *v, const char *more, char *buf, size_t bytes) {
  const char *slash = v->tasks ? strrchr(v->tasks, '/') : NULL;
  snprintf(buf, bytes, "%d tasks of %.60s, %d at a time; bars are 95 %% intervals%s",
           v->n > 0 ? (int)v->row[0].n_tasks : 0,
           slash      ? slash + 1
           : v->tasks ? v->tasks
                      : "?",
           (int)v->batch, more);
}

static weir_status draw(const weir_eval *v, weir_chart *c, across x_of, bool alone, weir_buf *out,
                        weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < v->n; i++)
    if (look_of(&v->row[i]) != WEIR_LOOK_PLAIN && is_first(v, i) &&
        (!v->row[i].chance || x_of == by_deferral))
      WEIR_TRY(put_curve(v, i, x_of, c, out, e));
  WEIR_TRY(put_rows(v, x_of, alone, c, out, e));
  WEIR_TRY(put_legend(v, c, out, e));
  st = weir_chart_close(c, out, e);
out:
  return st;
}

/* ---- the two ---- */

static weir_status put_level(const weir_eval *v, int32_t row, const char *name, bool band, bool speed,
                             weir_chart *c, weir_buf *out, weir_err *e) {
  if (row < 0) return WEIR_OK;
  const weir_eval_row *r = &v->row[row];
  char text[128];
  if (speed)
    snprintf(text, sizeof text, "%s model alone: %.3f, %.0f tok/s", name, r->exact, r->tok_s);
  else
    snprintf(text, sizeof text, "%.3f", r->exact);
  return weir_chart_level(c, r->exact, band ? r->lo : NAN, band ? r->hi : NAN, text, out, e);
}

static weir_status new_chart(weir_chart **out, weir_err *e) {
  const weir_status st = WEIR_NEW(1, out, e);
  if (st == WEIR_OK) {
    (*out)->width = 860;
    (*out)->height = 500;
    (*out)->left = 70;
    (*out)->right = 34;
    (*out)->top = 84;
    (*out)->bottom = 56;
  }
  return st;
}

weir_status weir_eval_svg(const weir_eval *v, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chart *c = NULL;
  char text[200];
  WEIR_TRY(new_chart(&c, e));
  c->x1 = 0.05;
  for (int32_t i = 0; i < v->n; i++)
    if (look_of(&v->row[i]) != WEIR_LOOK_PLAIN) c->x1 = fmax(c->x1, v->row[i].deferral_rate);
  c->x1 = fmin(1, ceil_to(c->x1 * 1.05, 0.05));
  range_of_exact(v, true, c);
  subtitle(v, "", text, sizeof text);
  WEIR_TRY(weir_chart_open(c, "Exact match against deferral rate", text, out, e));
  WEIR_TRY(weir_chart_axes(c, "deferral rate: share of tokens written by the large model", "%g",
                           "exact match", out, e));
  WEIR_TRY(put_level(v, v->large, "large", true, true, c, out, e));
  WEIR_TRY(put_level(v, v->small, "small", false, true, c, out, e));
  st = draw(v, c, by_deferral, false, out, e);
out:
  free(c);
  return st;
}

weir_status weir_eval_svg_speed(const weir_eval *v, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chart *c = NULL;
  char text[200];
  double lo = INFINITY, hi = -INFINITY;
  if (v->large < 0)
    return weir_fail(e, WEIR_EINVAL,
                     "--svg-speed wants the large model's row, beside which speed is measured");
  WEIR_TRY(new_chart(&c, e));
  for (int32_t i = 0; i < v->n; i++) {
    const double x = weir_eval_speedup(v, i);
    if (!isfinite(x)) continue;
    lo = fmin(lo, isfinite(v->row[i].speed_lo) ? v->row[i].speed_lo : x);
    hi = fmax(hi, isfinite(v->row[i].speed_hi) ? v->row[i].speed_hi : x);
  }
  if (!(lo <= hi)) lo = hi = 1;
  c->log_x = lo > 0 && hi > 3 * lo; /* the small model alone is far off */
  const double pad = c->log_x ? pow(hi / lo, 0.06) : 1.04;
  c->x0 = fmin(lo, 1) / pad;
  c->x1 = fmax(hi, 1) * pad;
  if (!(c->x0 > 0)) c->x0 = 0;
  range_of_exact(v, false, c);
  subtitle(v, ", shaded: the large model's", text, sizeof text);
  WEIR_TRY(weir_chart_open(c, "Exact match against speed, every setting", text, out, e));
  WEIR_TRY(weir_chart_axes(c, "speed-up over the large model alone (tokens a second)", "%g\xc3\x97",
                           "exact match", out, e));
  WEIR_TRY(put_level(v, v->large, "large", true, false, c, out, e));
  st = draw(v, c, by_speed, true, out, e);
out:
  free(c);
  return st;
}
