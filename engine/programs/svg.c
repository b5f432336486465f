/* SPDX-License-Identifier: Apache-2.0 */
/* The drawing of an evaluation: exact match against deferral rate, the cascade and its control by chance
 * between the levels of the two models alone. Colours are those that people of every colour vision tell apart
 * (Okabe and Ito). Pure. */
#include <math.h>
#include <stdlib.h>

#include "programs/eval.h"

enum { WIDTH = 720, HEIGHT = 440, LEFT = 70, RIGHT = 24, TOP = 48, BOTTOM = 60 };

typedef struct frame {
  double x_max, y_max; /* the least is 0 */
} frame;

static double px(const frame *f, double x) { return LEFT + x / f->x_max * (WIDTH - LEFT - RIGHT); }
static double py(const frame *f, double y) {
  return HEIGHT - BOTTOM - y / f->y_max * (HEIGHT - TOP - BOTTOM);
}

static double round_up(double x, double step) { return fmin(1, ceil(x / step + 1e-9) * step); }

/* Chance and cascade rows are drawn each as a line in order of deferral rate. */
static weir_status put_series(const weir_eval *v, const frame *f, bool chance, const char *color,
                              weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t last = -1;
  WEIR_TRY(weir_buf_printf(out, e, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"",
                           color, chance ? " stroke-dasharray=\"5 4\"" : ""));
  for (;;) { /* selection in order; rows are few */
    int32_t next = -1;
    for (int32_t i = 0; i < v->n; i++) {
      const weir_eval_row *r = &v->row[i];
      if (r->setting.opts.mode == WEIR_MODE_SMALL || r->setting.opts.mode == WEIR_MODE_LARGE || r->chance != chance) continue;
      const bool later = last < 0 || r->deferral_rate > v->row[last].deferral_rate ||
                         (r->deferral_rate == v->row[last].deferral_rate && i > last);
      if (later && (next < 0 || r->deferral_rate < v->row[next].deferral_rate)) next = i;
    }
    if (next < 0) break;
    WEIR_TRY(
        weir_buf_printf(out, e, "%.1f,%.1f ", px(f, v->row[next].deferral_rate), py(f, v->row[next].exact)));
    last = next;
  }
  WEIR_TRY(weir_buf_puts(out, "\"/>\n", e));
  for (int32_t i = 0; i < v->n; i++) {
    const weir_eval_row *r = &v->row[i];
    if (r->setting.opts.mode == WEIR_MODE_SMALL || r->setting.opts.mode == WEIR_MODE_LARGE || r->chance != chance) continue;
    const double x = px(f, r->deferral_rate), y = py(f, r->exact);
    WEIR_TRY(weir_buf_printf(
        out, e,
        "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" opacity=\".35\"/>"
        "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"/>\n",
        x, x, py(f, r->lo), py(f, fmin(r->hi, f->y_max)), color, x, y, i == v->chosen ? "6" : "4", color));
    if (!chance)
      WEIR_TRY(weir_buf_printf(
          out, e, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" text-anchor=\"middle\">%g</text>\n", x, y - 9,
          (double)(r->setting.opts.set & WEIR_OPT_DEFER_RATE ? r->setting.opts.defer_rate : r->setting.cascade.gate[0].threshold)));
  }
out:
  return st;
}

static weir_status put_level(const weir_eval *v, const frame *f, int32_t row, const char *name, weir_buf *out,
                             weir_err *e) {
  if (row < 0) return WEIR_OK;
  const double y = py(f, v->row[row].exact);
  return weir_buf_printf(
      out, e,
      "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#555\" stroke-dasharray=\"2 3\"/>"
      "<text x=\"%d\" y=\"%.1f\" font-size=\"12\" fill=\"#555\">%s model alone: "
      "%.3f, %.0f tok/s</text>\n",
      LEFT, WIDTH - RIGHT, y, y, LEFT + 5, y + 14, name, v->row[row].exact, v->row[row].tok_s);
}

static weir_status put_axes(const frame *f, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int i = 0; i <= 5; i++) {
    const double x = f->x_max * i / 5, y = f->y_max * i / 5;
    WEIR_TRY(weir_buf_printf(out, e,
                             "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#ddd\"/>"
                             "<text x=\"%.1f\" y=\"%d\" font-size=\"12\" text-anchor=\"middle\">%.2f</text>"
                             "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
                             "<text x=\"%d\" y=\"%.1f\" font-size=\"12\" text-anchor=\"end\">%.2f</text>\n",
                             px(f, x), px(f, x), TOP, HEIGHT - BOTTOM, px(f, x), HEIGHT - BOTTOM + 18, x,
                             LEFT, WIDTH - RIGHT, py(f, y), py(f, y), LEFT - 8, py(f, y) + 4, y));
  }
  st = weir_buf_printf(
      out, e,
      "<text x=\"%d\" y=\"%d\" font-size=\"13\" text-anchor=\"middle\">deferral rate: share of tokens "
      "written by the large model</text>\n"
      "<text x=\"18\" y=\"%d\" font-size=\"13\" text-anchor=\"middle\" transform=\"rotate(-90 18 %d)\">"
      "exact match</text>\n",
      (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, (TOP + HEIGHT - BOTTOM) / 2, (TOP + HEIGHT - BOTTOM) / 2);
out:
  return st;
}

weir_status weir_eval_svg(const weir_eval *v, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  frame f = {0.05, 0.1};
  bool chance = false;
  weir_mode mode = WEIR_MODE_DEFER;
  for (int32_t i = 0; i < v->n; i++) {
    const weir_eval_row *r = &v->row[i];
    const bool alone = r->setting.opts.mode == WEIR_MODE_SMALL || r->setting.opts.mode == WEIR_MODE_LARGE;
    if (!alone) f.x_max = fmax(f.x_max, r->deferral_rate);
    if (!alone) mode = r->setting.opts.mode;
    f.y_max = fmax(f.y_max, r->hi);
    chance = chance || r->chance;
  }
  f = (frame){round_up(f.x_max * 1.05, 0.05), round_up(f.y_max, 0.1)};
  WEIR_TRY(weir_buf_printf(
      out, e,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
      "font-family=\"sans-serif\" fill=\"#222\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n"
      "<text x=\"%d\" y=\"22\" font-size=\"15\">weir: mode %s, %d tasks; thresholds beside the "
      "points, bars are 95 %% intervals</text>\n",
      WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT, weir_mode_name(mode),
      v->n > 0 ? v->row[0].n_tasks : 0));
  WEIR_TRY(put_axes(&f, out, e));
  WEIR_TRY(put_level(v, &f, v->large, "large", out, e));
  WEIR_TRY(put_level(v, &f, v->small, "small", out, e));
  if (chance) WEIR_TRY(put_series(v, &f, true, "#e69f00", out, e));
  WEIR_TRY(put_series(v, &f, false, "#0072b2", out, e));
  WEIR_TRY(weir_buf_printf(
      out, e, "<text x=\"%d\" y=\"40\" font-size=\"12\" fill=\"#0072b2\">&#9679; cascade</text>\n%s</svg>\n",
      LEFT,
      chance ? "<text x=\"160\" y=\"40\" font-size=\"12\" fill=\"#e69f00\">&#9679; as many tokens "
               "deferred by chance</text>\n"
             : ""));
out:
  return st;
}
