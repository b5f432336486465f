/* SPDX-License-Identifier: Apache-2.0 */
/* Curves as SVG. Pure but for its memory; main thread. */
#include "base/plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { HEIGHT = 300, LEFT = 58, RIGHT = 16, TOP = 12, BOTTOM = 44 };

typedef struct {
  double x0, x1, y0, y1; /* ranges of values; logarithms where log */
  bool log_x, log_y;
  int width;
} frame;

const char weir_page_style[] =
    "<style>\n"
    ":root{color-scheme:light "
    "dark;--bg:#fff;--fg:#1d2430;--dim:#667085;--line:#e4e7ec;--card:#f7f8fa;--c0:#0f6fde;--c1:#d9480f;"
    "--c2:#2b8a3e;--c3:#8250df;--c4:#b8860b;--c5:#c2255c;--c6:#0b8793;--c7:#6b7280;--good:#2b8a3e;--bad:#"
    "c92a2a}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#12161d;--fg:#e6e9ee;--dim:#98a2b3;--line:#2b323d;--card:#"
    "1a2029;--c0:#6cb2ff;"
    "--c1:#ff9d5c;--c2:#69db7c;--c3:#c4a7ff;--c4:#f2cc60;--c5:#ff8fb1;--c6:#5bd6e0;--c7:#9aa4b2;--good:#"
    "69db7c;--bad:#ff8787}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:1120px;padding:32px 24px "
    "64px;background:var(--bg);color:var(--fg);"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
    "h1{font-size:24px;margin:0 0 2px}h2{font-size:17px;margin:36px 0 10px}.sub{color:var(--dim);margin:0 0 "
    "22px;overflow-wrap:anywhere}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px}.tile{background:"
    "var(--card);"
    "border:1px solid var(--line);border-radius:10px;padding:10px 14px}.tile "
    "b{display:block;font-size:21px;font-weight:600;"
    "font-variant-numeric:tabular-nums}.tile span{color:var(--dim);font-size:13px}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:"
    "tabular-nums}"
    "tr.run td{color:var(--dim);padding-top:14px}th,td{padding:6px;border-bottom:1px "
    "solid "
    "var(--line);text-align:right;white-space:nowrap}th{color:var(--dim);"
    "font-weight:500}th:first-child,td:first-child{text-align:left}tr.knee "
    "td{background:var(--card);font-weight:600}"
    ".good{color:var(--good)}.bad{color:var(--bad)}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(460px,100%),1fr));gap:16px}figure{"
    "margin:0;background:var(--card);"
    "border:1px solid var(--line);border-radius:10px;padding:12px 14px "
    "8px;min-width:0}figure.wide{grid-column:1/-1}"
    "figcaption{font-weight:600;font-size:14px}.legend{min-height:20px;color:var(--dim);font-size:12.5px;"
    "display:flex;"
    "flex-wrap:wrap;gap:2px 14px}.legend svg{margin-right:5px;vertical-align:middle}\n"
    "svg.plot{width:100%;height:auto;display:block}svg text{font-size:11.5px;fill:var(--dim)}svg "
    "text.name{font-size:12px}"
    ".grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--dim)}.mark{stroke:var(--dim);stroke-"
    "dasharray:3 4}"
    "path{fill:none;stroke-width:2;stroke-linejoin:round}.dashed{stroke-dasharray:5 "
    "4}.bar{stroke-width:1.5;opacity:.45}\n"
    ".c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)"
    "}.c5{stroke:var(--c5)}"
    ".c6{stroke:var(--c6)}.c7{stroke:var(--c7)}.d0{fill:var(--c0)}.d1{fill:var(--c1)}.d2{fill:var(--c2)}.d3{"
    "fill:var(--c3)}"
    ".d4{fill:var(--c4)}.d5{fill:var(--c5)}.d6{fill:var(--c6)}.d7{fill:var(--c7)}.f0{fill:var(--c0)}.f1{fill:"
    "var(--c1)}"
    ".f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--c6)}.f7{fill:"
    "var(--c7)}"
    ".f0,.f1,.f2,.f3,.f4,.f5,.f6,.f7{opacity:.13;stroke:none}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:2px "
    "18px;font-size:13.5px;margin:0}dt{color:var(--dim)}"
    "dd{margin:0;overflow-wrap:anywhere}.note{color:var(--dim);font-size:13px}\n"
    "</style>\n";

weir_status weir_html_text(const char *s, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (; *s && st == WEIR_OK; s++) {
    const unsigned char c = (unsigned char)*s;
    if (c == '<')
      st = weir_buf_puts(out, "&lt;", e);
    else if (c == '>')
      st = weir_buf_puts(out, "&gt;", e);
    else if (c == '&')
      st = weir_buf_puts(out, "&amp;", e);
    else if (c == '"')
      st = weir_buf_puts(out, "&quot;", e);
    else if (c >= 0x20 || c == '\t' || c == '\n')
      st = weir_buf_put(out, s, 1, e);
  }
  return st;
}

/* ---- axes ---- */

int32_t weir_plot_ticks(double lo, double hi, bool log, double tick[12]) {
  int32_t n = 0;
  if (log) {
    static const double part[] = {1, 2, 5};
    const double decades = hi - lo;
    for (int d = (int)floor(lo); d <= (int)ceil(hi); d++)
      for (int i = 0; i < 3 && n < 12; i++) {
        if (decades > 2.5 && i > 0) continue;
        const double at = d + log10(part[i]);
        if (at >= lo - 1e-9 && at <= hi + 1e-9) tick[n++] = at;
      }
    return n;
  }
  const double rough = (hi - lo) / 5, size = pow(10, floor(log10(rough))), m = rough / size;
  const double step = size * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
  for (double at = ceil(lo / step - 1e-9) * step; at <= hi + step * 1e-9 && n < 12; at += step)
    tick[n++] = fabs(at) < step * 1e-9 ? 0 : at;
  return n;
}

static void tick_text(double x, char *buf, size_t bytes) {
  const double a = fabs(x);
  if (a >= 1e6)
    snprintf(buf, bytes, "%.3gM", x / 1e6);
  else if (a >= 1e4)
    snprintf(buf, bytes, "%.3gk", x / 1e3);
  else
    snprintf(buf, bytes, "%.4g", x);
}

static double px(const frame *f, double x) {
  const double v = f->log_x ? log10(x) : x;
  return LEFT + (v - f->x0) / (f->x1 - f->x0) * (f->width - LEFT - RIGHT);
}

static double py(const frame *f, double y) {
  const double v = f->log_y ? log10(y) : y;
  return HEIGHT - BOTTOM - (v - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static void widen(double v, double *lo, double *hi) {
  if (!isfinite(v)) return;
  *lo = fmin(*lo, v);
  *hi = fmax(*hi, v);
}

/* From the values to round ends; false when there is nothing to draw. */
static bool range(double lo, double hi, bool from_zero, bool *log, double *a, double *b) {
  if (lo > hi) return false;
  if (*log && (lo <= 0 || hi < 4 * lo)) *log = false;
  if (*log) {
    *a = floor(log10(lo) * 3) / 3; /* thirds of a decade are near 1, 2, 5 */
    *b = ceil(log10(hi) * 3) / 3;
    if (*b - *a < 0.5) *b = *a + 1;
    return true;
  }
  if (from_zero && lo > 0) lo = 0;
  if (hi - lo < 1e-12 * fmax(1, fabs(hi))) hi = lo + (hi > 0 ? hi : 1);
  const double pad = 0.04 * (hi - lo);
  *a = from_zero && lo >= 0 ? 0 : lo - pad;
  *b = hi + pad;
  return true;
}

static bool make_frame(const weir_plot *p, frame *f) {
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (int32_t k = 0; k < p->n_series; k++)
    for (int32_t i = 0; i < p->series[k].n; i++) {
      const weir_series *s = &p->series[k];
      if (!isfinite(s->x[i]) || !isfinite(s->y[i])) continue;
      widen(s->x[i], &x0, &x1);
      widen(s->y[i], &y0, &y1);
      if (s->lo) widen(s->lo[i], &y0, &y1);
      if (s->hi) widen(s->hi[i], &y0, &y1);
    }
  *f = (frame){.log_x = p->log_x, .log_y = p->log_y, .width = p->wide ? 1000 : 480};
  if (!range(x0, x1, p->x_from_zero, &f->log_x, &f->x0, &f->x1) ||
      !range(y0, y1, p->y_from_zero, &f->log_y, &f->y0, &f->y1))
    return false;
  if (!isnan(p->y_max) && !f->log_y) f->y1 = p->y_max;
  return true;
}

static weir_status put_axes(const weir_plot *p, const frame *f, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  double tick[12];
  char text[24];
  const int bottom = HEIGHT - BOTTOM, right = f->width - RIGHT;
  int32_t n = weir_plot_ticks(f->y0, f->y1, f->log_y, tick);
  for (int32_t i = 0; i < n; i++) {
    const double v = f->log_y ? pow(10, tick[i]) : tick[i], y = py(f, v);
    tick_text(v, text, sizeof text);
    WEIR_TRY(weir_buf_printf(out, e,
                             "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                             "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                             LEFT, right, y, y, LEFT - 7, y + 4, text));
  }
  n = weir_plot_ticks(f->x0, f->x1, f->log_x, tick);
  for (int32_t i = 0; i < n; i++) {
    const double v = f->log_x ? pow(10, tick[i]) : tick[i], x = px(f, v);
    tick_text(v, text, sizeof text);
    WEIR_TRY(weir_buf_printf(out, e,
                             "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>"
                             "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                             x, x, TOP, bottom, x, bottom + 17, text));
  }
  WEIR_TRY(weir_buf_printf(out, e,
                           "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>"
                           "<text class=\"name\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                           LEFT, right, bottom, bottom, (LEFT + right) / 2, HEIGHT - 8));
  WEIR_TRY(weir_html_text(p->x_name, out, e));
  WEIR_TRY(weir_buf_printf(out, e,
                           "</text><text class=\"name\" x=\"14\" y=\"%d\" text-anchor=\"middle\" "
                           "transform=\"rotate(-90 14 %d)\">",
                           (TOP + bottom) / 2, (TOP + bottom) / 2));
  WEIR_TRY(weir_html_text(p->y_name, out, e));
  WEIR_TRY(weir_buf_puts(out, "</text>\n", e));
  if (isfinite(p->mark_x) && (!f->log_x || p->mark_x > 0)) {
    const double x = px(f, p->mark_x);
    const bool left = x > right - 90;
    WEIR_TRY(weir_buf_printf(out, e,
                             "<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>"
                             "<text class=\"name\" x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">",
                             x, x, TOP, bottom, left ? x - 5 : x + 5, TOP + 11, left ? "end" : "start"));
    WEIR_TRY(weir_html_text(p->mark_name, out, e));
    st = weir_buf_puts(out, "</text>\n", e);
  }
out:
  return st;
}

/* ---- series ---- */

static bool seen(const frame *f, const weir_series *s, int32_t i) {
  return isfinite(s->x[i]) && isfinite(s->y[i]) && (!f->log_x || s->x[i] > 0) && (!f->log_y || s->y[i] > 0);
}

static weir_status put_path(const frame *f, const weir_series *s, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  bool pen = false;
  int32_t first = -1, last = -1;
  WEIR_TRY(weir_buf_printf(out, e, "<path class=\"c%d%s\" d=\"", s->color, s->dashed ? " dashed" : ""));
  for (int32_t i = 0; i < s->n; i++) {
    if (!seen(f, s, i)) {
      pen = s->area; /* an area has no holes: they are as zero */
      continue;
    }
    WEIR_TRY(weir_buf_printf(out, e, "%s%.1f %.1f", pen && first >= 0 ? "L" : "M", px(f, s->x[i]),
                             py(f, s->y[i])));
    pen = true;
    if (first < 0) first = i;
    last = i;
  }
  WEIR_TRY(weir_buf_puts(out, "\"/>\n", e));
  if (!s->area || first < 0) goto out;
  WEIR_TRY(weir_buf_printf(out, e, "<path class=\"f%d\" d=\"M%.1f %d", s->color, px(f, s->x[first]),
                           HEIGHT - BOTTOM));
  for (int32_t i = first; i <= last; i++)
    if (seen(f, s, i)) WEIR_TRY(weir_buf_printf(out, e, "L%.1f %.1f", px(f, s->x[i]), py(f, s->y[i])));
  st = weir_buf_printf(out, e, "L%.1f %dZ\"/>\n", px(f, s->x[last]), HEIGHT - BOTTOM);
out:
  return st;
}

static weir_status put_dots(const frame *f, const weir_series *s, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < s->n; i++) {
    if (!seen(f, s, i)) continue;
    const double x = px(f, s->x[i]), y = py(f, s->y[i]);
    if (s->lo && s->hi)
      WEIR_TRY(weir_buf_printf(out, e,
                               "<line class=\"c%d bar\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>",
                               s->color, x, x, py(f, s->lo[i]), py(f, s->hi[i])));
    WEIR_TRY(weir_buf_printf(out, e, "<circle class=\"d%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>",
                             s->color, x, y));
    WEIR_TRY(weir_html_text(s->name, out, e));
    if (s->tip) {
      WEIR_TRY(weir_buf_puts(out, ", ", e));
      WEIR_TRY(weir_html_text(s->tip[i], out, e));
    }
    WEIR_TRY(weir_buf_printf(out, e, ": %.4g, %.4g</title></circle>\n", s->x[i], s->y[i]));
    if (s->tip && s->tips_shown) {
      const bool left = x > f->width - RIGHT - 110;
      WEIR_TRY(weir_buf_printf(out, e, "<text class=\"name\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">",
                               left ? x - 8 : x + 8, y - 7, left ? "end" : "start"));
      WEIR_TRY(weir_html_text(s->tip[i], out, e));
      WEIR_TRY(weir_buf_puts(out, "</text>\n", e));
    }
  }
out:
  return st;
}

static weir_status put_legend(const weir_plot *p, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(out, "<div class=\"legend\">", e));
  for (int32_t k = 0; k < p->n_series; k++) {
    const weir_series *s = &p->series[k];
    if (s->hidden_name || !s->name[0]) continue;
    WEIR_TRY(weir_buf_printf(
        out, e, "<span><svg width=\"22\" height=\"8\"><path class=\"c%d%s\" d=\"M1 4H21\"/></svg>", s->color,
        s->dashed ? " dashed" : ""));
    WEIR_TRY(weir_html_text(s->name, out, e));
    WEIR_TRY(weir_buf_puts(out, "</span>", e));
  }
  st = weir_buf_puts(out, "</div>", e);
out:
  return st;
}

weir_status weir_plot_draw(const weir_plot *p, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  frame f;
  if (!make_frame(p, &f)) return WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e, "<figure%s><figcaption>", p->wide ? " class=\"wide\"" : ""));
  WEIR_TRY(weir_html_text(p->title, out, e));
  WEIR_TRY(weir_buf_puts(out, "</figcaption>", e));
  WEIR_TRY(put_legend(p, out, e));
  WEIR_TRY(
      weir_buf_printf(out, e, "<svg class=\"plot\" viewBox=\"0 0 %d %d\" role=\"img\">\n", f.width, HEIGHT));
  WEIR_TRY(put_axes(p, &f, out, e));
  for (int32_t k = 0; k < p->n_series; k++) {
    if (!p->series[k].no_line) WEIR_TRY(put_path(&f, &p->series[k], out, e));
    if (p->series[k].dots) WEIR_TRY(put_dots(&f, &p->series[k], out, e));
  }
  st = weir_buf_puts(out, "</svg></figure>\n", e);
out:
  return st;
}
