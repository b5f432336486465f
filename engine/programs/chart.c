/* SPDX-License-Identifier: Apache-2.0 */
/* Drawings that stand alone. Names of points are put where they cover least: each tries places around its
 * point, nearest first, and what it covers of points, bars, lines and names before it is counted. Pure; main
 * thread. */
#include "programs/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/plot.h"

static const char style[] =
    "<style>\n"
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-size:12px;"
    "fill:#57606a}\n"
    ".bg{fill:#fff}.title{font-size:16px;font-weight:600;fill:#1d2430}.name{font-size:13px;fill:#1d2430}\n"
    ".label{font-size:11px}.halo{stroke:#fff;stroke-width:3;stroke-linejoin:round;opacity:.85}\n"
    ".grid{stroke:#e4e7ec}.axis{stroke:#98a2b3}.level{stroke:#98a2b3;stroke-dasharray:2 3}"
    ".band{fill:#98a2b3;opacity:.13}\n"
    ".lead{stroke:#98a2b3;stroke-width:.7}\n"
    ".bar{stroke-width:1.3;opacity:.4}.line{fill:none!important;stroke-width:1.6;opacity:.55}.dash{stroke-"
    "dasharray:5 4}\n"
    ".hollow{fill:#fff!important;stroke-width:1.6}\n"
    ".l0{stroke:#1d2430;fill:#1d2430}.l1{stroke:#8b929c;fill:#8b929c}.l2{stroke:#0072b2;fill:#0072b2}"
    ".l3{stroke:#d55e00;fill:#d55e00}.l4{stroke:#009e73;fill:#009e73}.l5{stroke:#b45f93;fill:#b45f93}"
    ".l6{stroke:#56a0d8;fill:#56a0d8}.l7{stroke:#c98700;fill:#c98700}.l8{stroke:#7a5cc0;fill:#7a5cc0}"
    ".l9{stroke:#6b8e23;fill:#6b8e23}\n"
    "@media(prefers-color-scheme:dark){\n"
    "text{fill:#9aa4b2}.bg{fill:#0d1117}.title,.name{fill:#e6e9ee}.halo{stroke:#0d1117}.grid{stroke:#222a35}"
    ".axis,.lead{stroke:#667085}.level{stroke:#667085}.hollow{fill:#0d1117!important}\n"
    ".l0{stroke:#e6e9ee;fill:#e6e9ee}.l1{stroke:#8b929c;fill:#8b929c}.l2{stroke:#58b0ee;fill:#58b0ee}"
    ".l3{stroke:#ff8f45;fill:#ff8f45}.l4{stroke:#2fd0a0;fill:#2fd0a0}.l5{stroke:#e79ac8;fill:#e79ac8}"
    ".l6{stroke:#8fcbf5;fill:#8fcbf5}.l7{stroke:#f0bd4a;fill:#f0bd4a}.l8{stroke:#b9a2f5;fill:#b9a2f5}"
    ".l9{stroke:#a9cc5a;fill:#a9cc5a}}\n"
    "</style>\n";

double weir_chart_px(const weir_chart *c, double x) {
  const double share =
      c->log_x ? log(fmax(x, c->x0) / c->x0) / log(c->x1 / c->x0) : (x - c->x0) / (c->x1 - c->x0);
  return c->left + share * (c->width - c->left - c->right);
}

double weir_chart_py(const weir_chart *c, double y) {
  return c->height - c->bottom - (y - c->y0) / (c->y1 - c->y0) * (c->height - c->top - c->bottom);
}

static void take(weir_chart *c, double x0, double y0, double x1, double y1) {
  if (c->n_taken < WEIR_CHART_BOXES)
    c->taken[c->n_taken++] = (weir_chart_box){fmin(x0, x1), fmin(y0, y1), fmax(x0, x1), fmax(y0, y1)};
}

weir_status weir_chart_open(const weir_chart *c, const char *title, const char *subtitle, weir_buf *out,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e,
                           "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
                           "height=\"%d\" role=\"img\">\n<title>",
                           (int)c->width, (int)c->height, (int)c->width, (int)c->height));
  WEIR_TRY(weir_html_text(title, out, e));
  WEIR_TRY(weir_buf_printf(out, e,
                           "</title>\n%s<rect class=\"bg\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n"
                           "<text class=\"title\" x=\"%d\" y=\"26\">",
                           style, (int)c->width, (int)c->height, (int)c->left));
  WEIR_TRY(weir_html_text(title, out, e));
  WEIR_TRY(weir_buf_printf(out, e, "</text>\n<text x=\"%d\" y=\"44\">", (int)c->left));
  WEIR_TRY(weir_html_text(subtitle, out, e));
  st = weir_buf_puts(out, "</text>\n", e);
out:
  return st;
}

static weir_status put_tick(double at, const char *form, weir_buf *out, weir_err *e) {
  char text[32];
  /* the form is one of this program's own, for one number */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  snprintf(text, sizeof text, form, at);
#pragma GCC diagnostic pop
  return weir_html_text(text, out, e);
}

/* A logarithmic axis of a decade or two, as speed-ups have it. */
static int32_t log_ticks(double lo, double hi, double tick[12]) {
  static const double at[] = {1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10};
  const bool wide = hi / lo > 12;
  int32_t n = 0;
  for (double decade = pow(10, floor(log10(lo))); decade <= hi && n < 12; decade *= 10)
    for (size_t i = 0; i + 1 < sizeof at / sizeof *at && n < 12; i++) {
      const double v = at[i] * decade;
      if (wide && at[i] != 1 && at[i] != 2 && at[i] != 5) continue;
      if (!wide && hi / lo > 4 && (at[i] == 1.25 || at[i] == 2.5)) continue;
      if (v >= lo * (1 - 1e-9) && v <= hi * (1 + 1e-9)) tick[n++] = v;
    }
  return n;
}

weir_status weir_chart_axes(weir_chart *c, const char *x_name, const char *x_form, const char *y_name,
                            weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  double tick[12];
  const int bottom = c->height - c->bottom, right = c->width - c->right;
  int32_t n = c->log_x ? log_ticks(c->x0, c->x1, tick) : weir_plot_ticks(c->x0, c->x1, false, tick);
  for (int32_t i = 0; i < n; i++) {
    const double x = weir_chart_px(c, tick[i]);
    WEIR_TRY(weir_buf_printf(out, e,
                             "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text "
                             "x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">",
                             x, x, (int)c->top, bottom, x, bottom + 18));
    WEIR_TRY(put_tick(tick[i], x_form, out, e));
    WEIR_TRY(weir_buf_puts(out, "</text>\n", e));
  }
  n = weir_plot_ticks(c->y0, c->y1, false, tick);
  for (int32_t i = 0; i < n; i++) {
    const double y = weir_chart_py(c, tick[i]);
    WEIR_TRY(weir_buf_printf(out, e,
                             "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text "
                             "x=\"%d\" y=\"%.1f\" text-anchor=\"end\">",
                             (int)c->left, right, y, y, (int)c->left - 8, y + 4));
    WEIR_TRY(put_tick(tick[i], "%g", out, e));
    WEIR_TRY(weir_buf_puts(out, "</text>\n", e));
  }
  WEIR_TRY(weir_buf_printf(out, e,
                           "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n"
                           "<text class=\"name\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                           (int)c->left, right, bottom, bottom, (c->left + right) / 2, (int)c->height - 14));
  WEIR_TRY(weir_html_text(x_name, out, e));
  WEIR_TRY(weir_buf_printf(out, e,
                           "</text>\n<text class=\"name\" x=\"20\" y=\"%d\" text-anchor=\"middle\" "
                           "transform=\"rotate(-90 20 %d)\">",
                           (c->top + bottom) / 2, (c->top + bottom) / 2));
  WEIR_TRY(weir_html_text(y_name, out, e));
  st = weir_buf_puts(out, "</text>\n", e);
out:
  return st;
}

/* ---- points ---- */

/* Shapes about the origin, of like area. */
static const char *const shapes[] = {
    "M-4.5,-4.5L4.5,4.5M-4.5,4.5L4.5,-4.5",                                         /* cross */
    "M-3.6,0A3.6,3.6 0 1 0 3.6,0A3.6,3.6 0 1 0 -3.6,0Z",                            /* small circle */
    "M-4.6,0A4.6,4.6 0 1 0 4.6,0A4.6,4.6 0 1 0 -4.6,0Z",                            /* circle */
    "M-4.1,-4.1H4.1V4.1H-4.1Z",                                                     /* square */
    "M0,-6L6,0L0,6L-6,0Z",                                                          /* diamond */
    "M0,-5.6L5.4,4.2H-5.4Z",                                                        /* triangle */
    "M0,5.6L5.4,-4.2H-5.4Z",                                                        /* the other way up */
    "M0,-6L1.8,-2L6,-1.6L2.8,1.2L3.8,5.4L0,3.2L-3.8,5.4L-2.8,1.2L-6,-1.6L-1.8,-2Z", /* star */
    "M-5.6,-1.9H-1.9V-5.6H1.9V-1.9H5.6V1.9H1.9V5.6H-1.9V1.9H-5.6Z",                 /* plus */
    "M-2.6,-5.2H2.6L5.6,0L2.6,5.2H-2.6L-5.6,0Z",                                    /* hexagon */
};
_Static_assert(sizeof shapes / sizeof *shapes == WEIR_N_LOOKS, "a shape for each look");

static int32_t look_of(int32_t look) { return look < 0 || look >= WEIR_N_LOOKS ? WEIR_LOOK_PLAIN : look; }

static weir_status put_mark(double x, double y, int32_t look, bool hollow, double size, const char *tip,
                            weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  look = look_of(look);
  WEIR_TRY(weir_buf_printf(
      out, e, "<path class=\"l%d%s\"%s transform=\"translate(%.1f %.1f) scale(%.2f)\" d=\"%s\"><title>",
      (int)look, hollow ? " hollow" : "", look == WEIR_LOOK_PLAIN ? " stroke-width=\"2.4\"" : "", x, y, size,
      shapes[look]));
  WEIR_TRY(weir_html_text(tip ? tip : "", out, e));
  st = weir_buf_puts(out, "</title></path>\n", e);
out:
  return st;
}

static weir_status put_bar(weir_chart *c, double x0, double y0, double x1, double y1, int32_t look,
                           weir_buf *out, weir_err *e) {
  take(c, x0 - 1, y0 - 1, x1 + 1, y1 + 1);
  return weir_buf_printf(out, e,
                         "<line class=\"bar l%d\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                         (int)look_of(look), x0, x1, y0, y1);
}

weir_status weir_chart_point_draw(weir_chart *c, const weir_chart_point *p, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  if (!isfinite(p->x) || !isfinite(p->y)) return WEIR_OK;
  const double x = weir_chart_px(c, p->x), y = weir_chart_py(c, p->y);
  if (isfinite(p->y_lo) && isfinite(p->y_hi))
    WEIR_TRY(put_bar(c, x, weir_chart_py(c, fmin(p->y_hi, c->y1)), x, weir_chart_py(c, fmax(p->y_lo, c->y0)),
                     p->look, out, e));
  if (isfinite(p->x_lo) && isfinite(p->x_hi))
    WEIR_TRY(put_bar(c, weir_chart_px(c, fmax(p->x_lo, c->x0)), y, weir_chart_px(c, fmin(p->x_hi, c->x1)), y,
                     p->look, out, e));
  WEIR_TRY(put_mark(x, y, p->look, p->hollow, p->size, p->tip, out, e));
  take(c, x - 6, y - 6, x + 6, y + 6);
  if (p->text && p->text[0] && c->n_labels < WEIR_CHART_LABELS) {
    struct weir_chart_label *l = &c->label[c->n_labels++];
    l->x = x;
    l->y = y;
    l->look = p->look;
    snprintf(l->text, sizeof l->text, "%s", p->text);
  }
out:
  return st;
}

weir_status weir_chart_line(weir_chart *c, const double *x, const double *y, int32_t n, int32_t look,
                            bool dashed, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e, "<polyline class=\"line l%d%s\" points=\"", (int)look_of(look),
                           dashed ? " dash" : ""));
  for (int32_t i = 0; i < n; i++) {
    const double px = weir_chart_px(c, x[i]), py = weir_chart_py(c, y[i]);
    WEIR_TRY(weir_buf_printf(out, e, "%.1f,%.1f ", px, py));
    if (i == 0) continue;
    const double x0 = weir_chart_px(c, x[i - 1]), y0 = weir_chart_py(c, y[i - 1]);
    for (int k = 1; k < 8; k++) {
      const double mx = x0 + (px - x0) * k / 8, my = y0 + (py - y0) * k / 8;
      take(c, mx - 2, my - 2, mx + 2, my + 2);
    }
  }
  st = weir_buf_puts(out, "\"/>\n", e);
out:
  return st;
}

weir_status weir_chart_level(weir_chart *c, double y, double lo, double hi, const char *text, weir_buf *out,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  const double at = weir_chart_py(c, y), right = c->width - c->right;
  if (isfinite(lo) && isfinite(hi)) {
    const double top = weir_chart_py(c, fmin(hi, c->y1)), low = weir_chart_py(c, fmax(lo, c->y0));
    WEIR_TRY(weir_buf_printf(out, e,
                             "<rect class=\"band\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                             (int)c->left, top, right - c->left, low - top));
  }
  if (c->n_levels < (int32_t)(sizeof c->level / sizeof *c->level)) {
    struct weir_chart_label *l = &c->level[c->n_levels++];
    l->x = right;
    l->y = at;
    snprintf(l->text, sizeof l->text, "%s", text);
  }
  st = weir_buf_printf(out, e, "<line class=\"level\" x1=\"%d\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                       (int)c->left, right, at, at);
out:
  return st;
}

weir_status weir_chart_legend(const weir_chart *c, int32_t look, bool hollow, const char *text, double *at,
                              weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const double line = c->width - c->left - c->right, wide = 16 + 6.6 * (double)strlen(text);
  if (fmod(*at, line) > 0 && fmod(*at, line) + wide > line) *at = line * (floor(*at / line) + 1);
  const double x = c->left + fmod(*at, line), y = c->top - 14 + 15 * floor(*at / line);
  WEIR_TRY(put_mark(x + 6, y - 4, look, hollow, 1, text, out, e));
  WEIR_TRY(weir_buf_printf(out, e, "<text x=\"%.1f\" y=\"%.1f\">", x + 16, y));
  WEIR_TRY(weir_html_text(text, out, e));
  st = weir_buf_puts(out, "</text>\n", e);
  *at += fmin(wide + 18, line - 1);
out:
  return st;
}

/* ---- names ---- */

static double covered(const weir_chart *c, const weir_chart_box *b) {
  double area = 0;
  for (int32_t i = 0; i < c->n_taken; i++) {
    const weir_chart_box *t = &c->taken[i];
    const double w = fmin(b->x1, t->x1) - fmax(b->x0, t->x0), h = fmin(b->y1, t->y1) - fmax(b->y0, t->y0);
    if (w > 0 && h > 0) area += w * h;
  }
  const double out_x = fmax(0, c->left - b->x0) + fmax(0, b->x1 - (c->width - c->right + 20)),
               out_y = fmax(0, c->top - b->y0) + fmax(0, b->y1 - (c->height - c->bottom));
  return area + 40 * (out_x + out_y);
}

/* Once broad in the background's colour, once as it is. */
static weir_status put_text(const char *text, double x, double y, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int halo = 1; halo >= 0; halo--) {
    WEIR_TRY(
        weir_buf_printf(out, e, "<text class=\"label%s\" x=\"%.1f\" y=\"%.1f\">", halo ? " halo" : "", x, y));
    WEIR_TRY(weir_html_text(text, out, e));
    WEIR_TRY(weir_buf_puts(out, "</text>\n", e));
  }
out:
  return st;
}

static double text_width(const char *text) { return 5.9 * (double)strlen(text) + 2; }

/* At either end of its line, above or below. */
static weir_status put_level_name(weir_chart *c, const struct weir_chart_label *l, weir_buf *out,
                                  weir_err *e) {
  const double w = text_width(l->text), h = 12;
  double best = INFINITY, x = 0, y = 0;
  for (int k = 0; k < 4; k++) {
    const double bx = k < 2 ? l->x - w - 3 : c->left + 4, by = k % 2 == 0 ? l->y - h - 2 : l->y + 2;
    const double cost = covered(c, &(weir_chart_box){bx, by, bx + w, by + h});
    if (cost < best - 1e-9) {
      best = cost;
      x = bx;
      y = by;
    }
  }
  take(c, x, y, x + w, y + h);
  return put_text(l->text, x + 1, y + h - 2.5, out, e);
}

static weir_status put_label(weir_chart *c, const struct weir_chart_label *l, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const double w = text_width(l->text), h = 12;
  double best = INFINITY, x = 0, y = 0;
  bool far = false;
  for (int ring = 0; ring < 4 && best > 0; ring++)
    for (int k = 0; k < 12; k++) { /* from the right on, against the clock */
      static const int order[12] = {0, 6, 3, 9, 1, 5, 11, 7, 2, 4, 10, 8};
      const double angle = order[k] * 3.14159265358979 / 6, r = 10 + 11 * ring;
      const double dx = cos(angle), dy = -sin(angle);
      const double bx = l->x + dx * r +
                        (dx > 0.3    ? 0
                         : dx < -0.3 ? -w
                                     : -w / 2),
                   by = l->y + dy * r +
                        (dy > 0.3    ? 0
                         : dy < -0.3 ? -h
                                     : -h / 2);
      const double cost = covered(c, &(weir_chart_box){bx, by, bx + w, by + h}) + 6 * ring;
      if (cost < best - 1e-9) {
        best = cost;
        x = bx;
        y = by;
        far = ring > 0;
      }
    }
  take(c, x, y, x + w, y + h);
  if (far)
    WEIR_TRY(weir_buf_printf(out, e,
                             "<line class=\"lead\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", l->x,
                             l->y, fmin(fmax(l->x, x), x + w), fmin(fmax(l->y, y), y + h)));
  st = put_text(l->text, x + 1, y + h - 2.5, out, e);
out:
  return st;
}

weir_status weir_chart_close(weir_chart *c, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < c->n_levels; i++) WEIR_TRY(put_level_name(c, &c->level[i], out, e));
  for (int32_t i = 0; i < c->n_labels; i++) WEIR_TRY(put_label(c, &c->label[i], out, e));
  st = weir_buf_puts(out, "</svg>\n", e);
out:
  return st;
}
