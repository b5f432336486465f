/* SPDX-License-Identifier: Apache-2.0 */
/* Drawings that stand alone, SVG 1.1 without scripts or fonts of their own: for a README or a slide, light or
 * dark as the reader's system is. Figures of a page are base/plot.h. */
#ifndef WEIR_PROGRAMS_CHART_H
#define WEIR_PROGRAMS_CHART_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* Colour and shape of a series. The first are those of weir's modes; colours are from the palette that people
 * of every colour vision tell apart (Okabe and Ito). */
enum { WEIR_LOOK_PLAIN = 0, WEIR_LOOK_CHANCE = 1, WEIR_N_LOOKS = 10 };

enum { WEIR_CHART_LABELS = 200, WEIR_CHART_BOXES = 1200, WEIR_LABEL_BYTES = 64 };

typedef struct weir_chart_box {
  double x0, y0, x1, y1;
} weir_chart_box;

typedef struct weir_chart {
  int32_t width, height, left, right, top, bottom; /* pixels; margins around the axes' rectangle */
  double x0, x1, y0, y1;                           /* of the axes */
  bool log_x;                                      /* x0 > 0 */
  /* Names wait until all points are known: they avoid them and each other. */
  struct weir_chart_label {
    double x, y;
    int32_t look;
    char text[WEIR_LABEL_BYTES];
  } label[WEIR_CHART_LABELS];
  int32_t n_labels;
  struct weir_chart_label level[4];
  int32_t n_levels;
  weir_chart_box taken[WEIR_CHART_BOXES];
  int32_t n_taken;
} weir_chart;

double weir_chart_px(const weir_chart *, double x);
double weir_chart_py(const weir_chart *, double y);

weir_status weir_chart_open(const weir_chart *, const char *title, const char *subtitle, weir_buf *out,
                            weir_err *e);
/* Grid, ticks and names; x_form writes a tick of x, such as "%g" or "%gx". */
weir_status weir_chart_axes(weir_chart *, const char *x_name, const char *x_form, const char *y_name,
                            weir_buf *out, weir_err *e);
/* A point with its intervals (NaN: none), `tip` when one points at it, and `text` ("": none) beside it later.
 */
typedef struct weir_chart_point {
  double x, y, x_lo, x_hi, y_lo, y_hi;
  int32_t look;
  bool hollow;
  double size; /* 1: as usual */
  const char *tip, *text;
} weir_chart_point;
weir_status weir_chart_point_draw(weir_chart *, const weir_chart_point *, weir_buf *out, weir_err *e);
/* A line through n points; names keep off it. */
weir_status weir_chart_line(weir_chart *, const double *x, const double *y, int32_t n, int32_t look,
                            bool dashed, weir_buf *out, weir_err *e);
/* A level across, between lo and hi shaded (NaN: not). */
weir_status weir_chart_level(weir_chart *, double y, double lo, double hi, const char *text, weir_buf *out,
                             weir_err *e);
/* One entry of the legend, above the axes; `at` (pixels, from the left) moves on. */
weir_status weir_chart_legend(const weir_chart *, int32_t look, bool hollow, const char *text, double *at,
                              weir_buf *out, weir_err *e);
/* The names of points, and the end of the file. */
weir_status weir_chart_close(weir_chart *, weir_buf *out, weir_err *e);

#endif
