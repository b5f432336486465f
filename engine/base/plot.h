/* SPDX-License-Identifier: Apache-2.0 */
/* Drawings of curves as SVG, and the style of the pages they stand in: one file that needs nothing else,
 * light or dark as the reader's system is. */
#ifndef WEIR_BASE_PLOT_H
#define WEIR_BASE_PLOT_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { WEIR_PLOT_COLORS = 8, WEIR_PLOT_MAX_SERIES = 24 };

typedef struct weir_series {
  char name[96];
  int32_t color;
  bool dashed, dots, area; /* area: filled to the axis; without dots: a line alone */
  bool no_line, hidden_name;
  const double *x, *y;   /* [n], borrowed; NaN breaks the line */
  const double *lo, *hi; /* [n], borrowed: bars; NULL: none */
  char (*tip)[64];       /* [n], borrowed: what a point is; NULL: none */
  bool tips_shown;       /* written beside the points */
  int32_t n;
} weir_series;

typedef struct weir_plot {
  const char *title, *x_name, *y_name;
  bool log_x, log_y; /* taken back where values are not above 0, or of one decade */
  bool x_from_zero, y_from_zero;
  double y_max;  /* NaN: by the values */
  double mark_x; /* a line across at x, with mark_name; NaN: none */
  const char *mark_name;
  bool wide;
  const weir_series *series;
  int32_t n_series;
} weir_plot;

/* What stands in a page's <head>: colours (classes c0 .. c7, axis, grid), .tiles of .tile, .plots of figures,
 * tables in .scroll, .note. */
extern const char weir_page_style[];

/* A <figure>. Nothing when no series has a value. */
weir_status weir_plot_draw(const weir_plot *, weir_buf *out, weir_err *e);
/* Text as HTML wants it. */
weir_status weir_html_text(const char *s, weir_buf *out, weir_err *e);

/* Ticks of an axis: at most 10, rounded; returns how many. */
int32_t weir_plot_ticks(double lo, double hi, bool log, double tick[12]);

#endif
