/* SPDX-License-Identifier: Apache-2.0 */
/* The page: one file that needs nothing else, light or dark as the reader's system is. What is drawn depends
 * on what is there: latency against load where there are several loads, distributions and the course of time
 * for the point that matters (the knee, or the only one), quality against cost where answers were checked.
 * Main thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/plot.h"
#include "load/report.h"
#include "load/summary.h"

enum { MAX_POINTS = 128, MAX_STEPS = 512, MAX_LINES = 8 };

/* Numbers that a drawing borrows, all in one place. */
typedef struct {
  double v[WEIR_PLOT_MAX_SERIES][4][MAX_STEPS];
  char tip[WEIR_PLOT_MAX_SERIES][MAX_POINTS][64];
  weir_series s[WEIR_PLOT_MAX_SERIES];
  int32_t n;
} board;

static const char *text_at(const json_t *o, const char *name) {
  const char *s = json_string_value(json_object_get(o, name));
  return s ? s : "";
}

/* The name of a file among others, which may be called the same. */
static void name_of(json_t *const *doc, int32_t n, int32_t k, char *buf, size_t bytes) {
  char other[128];
  weir_report_name(doc[k], buf, bytes);
  for (int32_t i = 0; i < n; i++) {
    const size_t len = strlen(buf);
    weir_report_name(doc[i], other, sizeof other);
    if (i == k || strncmp(other, buf, len) != 0 || (other[len] && len + 1 < bytes)) continue;
    snprintf(buf + len, bytes - len, " (%d)", k + 1);
    return;
  }
}

static weir_series *add_series(board *b, int32_t color, bool dashed) {
  if (b->n == WEIR_PLOT_MAX_SERIES) return NULL;
  weir_series *s = &b->s[b->n];
  *s = (weir_series){
      .color = color % WEIR_PLOT_COLORS, .dashed = dashed, .x = b->v[b->n][0], .y = b->v[b->n][1]};
  b->n++;
  return s;
}

static double *xs(board *b, const weir_series *s) { return b->v[s - b->s][0]; }
static double *ys(board *b, const weir_series *s) { return b->v[s - b->s][1]; }

/* The point of a file that is looked at closely. */
static const json_t *main_point(const json_t *doc) {
  const json_t *points = json_object_get(doc, "points"), *knee = json_object_get(doc, "knee");
  const size_t n = json_array_size(points);
  if (json_is_integer(knee) && (size_t)json_integer_value(knee) < n)
    return json_array_get(points, (size_t)json_integer_value(knee));
  return n > 0 ? json_array_get(points, n - 1) : NULL;
}

static double load_of(const json_t *point) {
  const double rate = weir_json_at(point, "load.rate");
  return isnan(rate) ? weir_json_at(point, "load.concurrency") : rate;
}

static bool over_thresholds(const json_t *doc) { return !strcmp(text_at(doc, "sweep"), "entropy"); }

/* What the x axis of a sweep is: NULL when the files have no several loads of one kind. */
static const char *load_axis(json_t *const *doc, int32_t n) {
  const char *name = NULL;
  bool several = false;
  for (int32_t k = 0; k < n; k++) {
    const json_t *points = json_object_get(doc[k], "points");
    for (size_t i = 0; !over_thresholds(doc[k]) && i < json_array_size(points); i++) {
      const json_t *p = json_array_get(points, i);
      const char *own = isnan(weir_json_at(p, "load.rate")) ? "concurrency" : "requests/s offered";
      if (name && strcmp(own, name) != 0) return NULL;
      name = own;
      several = several || load_of(p) != load_of(json_array_get(points, 0));
    }
  }
  return several ? name : NULL;
}

/* ---- curves against load ---- */

typedef struct {
  double x, y, lo, hi;
  char tip[64];
} place;

static int by_x(const void *a, const void *b) {
  const double x = ((const place *)a)->x, y = ((const place *)b)->x;
  return (x > y) - (x < y);
}

/* One curve of a file: y at `path` over the load, or over x at `x_path`. */
static void add_curve(board *b, const json_t *points, int32_t color, const char *x_path, const char *path,
                      bool dashed, const char *name) {
  place at[MAX_POINTS];
  size_t n = json_array_size(points);
  weir_series *s = add_series(b, color, dashed);
  if (!s) return;
  if (n > MAX_POINTS) n = MAX_POINTS;
  for (size_t i = 0; i < n; i++) {
    const json_t *p = json_array_get(points, i);
    at[i] = (place){.x = x_path ? weir_json_at(p, x_path) : load_of(p), .y = weir_json_at(p, path)};
    weir_report_load_text(p, at[i].tip, sizeof at[i].tip);
  }
  if (!x_path) qsort(at, n, sizeof *at, by_x); /* a sweep goes back to refine its knee */
  for (size_t i = 0; i < n; i++) {
    xs(b, s)[i] = at[i].x;
    ys(b, s)[i] = at[i].y;
    memcpy(b->tip[s - b->s][i], at[i].tip, sizeof at[i].tip);
  }
  s->n = (int32_t)n;
  s->dots = true;
  s->tip = b->tip[s - b->s];
  snprintf(s->name, sizeof s->name, "%s", name);
}

/* Two curves a file, `path` and dashed `dashed`, called `names` ("p50", "p99"). */
typedef struct {
  const char *path, *dashed, *names[2], *title, *unit;
  bool log;
} load_plot;

static weir_status put_load_plot(board *b, json_t *const *doc, int32_t n, const char *axis,
                                 const load_plot *l, weir_buf *out, weir_err *e) {
  char who[96], title[128];
  const json_t *knee = n == 1 && json_is_integer(json_object_get(doc[0], "knee")) ? main_point(doc[0]) : NULL;
  b->n = 0;
  for (int32_t k = 0; k < n; k++)
    for (int32_t i = 0; i < 2 && !over_thresholds(doc[k]); i++) {
      const int32_t before = b->n;
      name_of(doc, n, k, who, sizeof who);
      add_curve(b, json_object_get(doc[k], "points"), k, NULL, i ? l->dashed : l->path, i == 1,
                n > 1 ? who : l->names[i]);
      if (b->n > before) b->s[before].hidden_name = n > 1 && i == 1;
    }
  snprintf(title, sizeof title, "%s%s%s%s%s%s", l->title, n > 1 ? ": " : "", n > 1 ? l->names[0] : "",
           n > 1 ? ", " : "", n > 1 ? l->names[1] : "", n > 1 ? " dashed" : "");
  const weir_plot p = {.title = title,
                       .x_name = axis,
                       .y_name = l->unit,
                       .log_x = true,
                       .log_y = l->log,
                       .y_from_zero = true,
                       .y_max = NAN,
                       .mark_x = knee ? load_of(knee) : NAN,
                       .mark_name = "knee",
                       .series = b->s,
                       .n_series = b->n};
  return weir_plot_draw(&p, out, e);
}

static weir_status put_loads(board *b, json_t *const *doc, int32_t n, weir_buf *out, weir_err *e) {
  static const load_plot plots[] = {
      {"latency_ms.ttft.p50", "latency_ms.ttft.p99", {"p50", "p99"}, "Time to first token", "ms", true},
      {"latency_ms.tpot.p50", "latency_ms.tpot.p99", {"p50", "p99"}, "Time per token", "ms", true},
      {"latency_ms.e2e.p50", "latency_ms.e2e.p99", {"p50", "p99"}, "End to end", "ms", true},
      {"throughput.rps", "goodput.rps", {"throughput", "goodput"}, "Requests", "requests/s", false}};
  weir_status st = WEIR_OK;
  const char *axis = load_axis(doc, n);
  if (!axis) return WEIR_OK;
  WEIR_TRY(weir_buf_puts(out, "<h2>Against load</h2><div class=\"plots\">\n", e));
  for (size_t i = 0; i < sizeof plots / sizeof *plots; i++)
    WEIR_TRY(put_load_plot(b, doc, n, axis, &plots[i], out, e));
  b->n = 0;
  for (int32_t k = 0; k < n; k++) {
    char who[96];
    name_of(doc, n, k, who, sizeof who);
    add_curve(b, json_object_get(doc[k], "points"), k, "throughput.output_tok_s", "latency_ms.tpot.p50",
              false, n > 1 ? who : "");
    if (b->n > 0) b->s[b->n - 1].no_line = true;
    if (b->n > 0) b->s[b->n - 1].tips_shown = n == 1;
  }
  const weir_plot p = {.title = "Time per token against throughput",
                       .x_name = "output tokens/s",
                       .y_name = "ms, p50",
                       .x_from_zero = true,
                       .y_from_zero = true,
                       .y_max = NAN,
                       .mark_x = NAN,
                       .series = b->s,
                       .n_series = b->n};
  WEIR_TRY(weir_plot_draw(&p, out, e));
  st = weir_buf_puts(out, "</div>\n", e);
out:
  return st;
}

/* ---- quality against cost ---- */

/* The points whose answers are compared: all thresholds of a sweep over them, else the one that matters, for
 * more load changes no answer. Returns owned. */
static json_t *quality_points(const json_t *doc) {
  if (over_thresholds(doc)) return json_incref(json_object_get(doc, "points"));
  json_t *a = json_array();
  if (main_point(doc)) json_array_append(a, (json_t *)main_point(doc));
  return a;
}

static void add_quality(board *b, const json_t *points, int32_t color, const char *x_path, const char *name) {
  add_curve(b, points, color, x_path, "exact_match.share", false, name);
  weir_series *s = &b->s[b->n - 1];
  double *lo = b->v[b->n - 1][2], *hi = b->v[b->n - 1][3];
  for (int32_t i = 0; i < s->n; i++) {
    const json_t *p = json_array_get(points, (size_t)i);
    const json_t *ci = json_object_get(json_object_get(p, "exact_match"), "interval95");
    const double entropy = weir_json_at(p, "load.entropy");
    lo[i] = json_is_array(ci) ? json_number_value(json_array_get(ci, 0)) : NAN;
    hi[i] = json_is_array(ci) ? json_number_value(json_array_get(ci, 1)) : NAN;
    if (!isnan(entropy)) snprintf(b->tip[b->n - 1][i], sizeof b->tip[0][0], "%.3g", entropy);
  }
  s->lo = lo;
  s->hi = hi;
  s->no_line = s->n < 2;
  s->tips_shown = s->n > 1 && s->n < 16;
}

static weir_status put_quality(board *b, json_t *const *doc, int32_t n, const char *x_path,
                               const char *x_name, weir_buf *out, weir_err *e) {
  char who[96];
  b->n = 0;
  for (int32_t k = 0; k < n; k++) {
    json_t *points = quality_points(doc[k]);
    name_of(doc, n, k, who, sizeof who);
    add_quality(b, points, k, x_path, n > 1 ? who : "");
    json_decref(points);
  }
  const weir_plot p = {
      .title = x_path[0] == 'd' ? "Exact match against deferral" : "Exact match against time",
      .x_name = x_name,
      .y_name = "exact match, 95 % bars",
      .y_max = NAN,
      .mark_x = NAN,
      .series = b->s,
      .n_series = b->n};
  return weir_plot_draw(&p, out, e);
}

static weir_status put_qualities(board *b, json_t *const *doc, int32_t n, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t checked = 0;
  for (int32_t k = 0; k < n; k++) {
    json_t *points = quality_points(doc[k]);
    for (size_t i = 0; i < json_array_size(points); i++)
      checked += !isnan(weir_json_at(json_array_get(points, i), "exact_match.share"));
    json_decref(points);
  }
  if (checked < 2) return WEIR_OK;
  WEIR_TRY(weir_buf_puts(out, "<h2>Quality against cost</h2><div class=\"plots\">\n", e));
  WEIR_TRY(put_quality(b, doc, n, "latency_ms.e2e.mean", "ms per request, mean", out, e));
  WEIR_TRY(
      put_quality(b, doc, n, "deferral_rate", "deferral rate: share of tokens by the large model", out, e));
  st = weir_buf_puts(out, "</div>\n", e);
out:
  return st;
}

/* ---- distributions ---- */

static void add_cdf(board *b, const json_t *point, const char *metric, int32_t color, bool dashed,
                    const char *name) {
  const json_t *q =
      json_object_get(json_object_get(json_object_get(point, "latency_ms"), metric), "quantiles");
  const size_t n = json_array_size(q);
  if (n < 2 || n > MAX_STEPS) return;
  weir_series *s = add_series(b, color, dashed);
  if (!s) return;
  for (size_t i = 0; i < n; i++) {
    const json_t *v = json_array_get(q, i);
    xs(b, s)[i] = json_is_number(v) ? json_number_value(v) : NAN;
    ys(b, s)[i] = (double)i / (double)(n - 1);
  }
  s->n = (int32_t)n;
  snprintf(s->name, sizeof s->name, "%s", name);
}

static weir_status put_cdf(board *b, json_t *const *doc, int32_t n, const char *metric, const char *title,
                           weir_buf *out, weir_err *e) {
  char name[96];
  b->n = 0;
  for (int32_t k = 0; k < n; k++) {
    const json_t *points = json_object_get(doc[k], "points");
    size_t lines = json_array_size(points);
    if (n > 1) {
      name_of(doc, n, k, name, sizeof name);
      add_cdf(b, main_point(doc[k]), metric, k, false, name);
      continue;
    }
    if (lines > MAX_LINES) lines = MAX_LINES;
    for (size_t i = 0; i < lines; i++) {
      weir_report_load_text(json_array_get(points, i), name, sizeof name);
      add_cdf(b, json_array_get(points, i), metric, (int32_t)i, false, lines > 1 ? name : "");
    }
    if (lines == 1 && !strcmp(metric, "itl")) {
      add_cdf(b, main_point(doc[k]), "itl_small", 2, true, "small tier");
      add_cdf(b, main_point(doc[k]), "itl_large", 1, true, "large tier");
    }
  }
  const weir_plot p = {.title = title,
                       .x_name = "ms",
                       .y_name = "share of values",
                       .log_x = true,
                       .y_from_zero = true,
                       .y_max = 1.02,
                       .mark_x = NAN,
                       .series = b->s,
                       .n_series = b->n};
  return weir_plot_draw(&p, out, e);
}

static weir_status put_cdfs(board *b, json_t *const *doc, int32_t n, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(out, "<h2>Distributions</h2><div class=\"plots\">\n", e));
  WEIR_TRY(put_cdf(b, doc, n, "ttft", "Time to first token", out, e));
  WEIR_TRY(put_cdf(b, doc, n, "itl", "Between pieces of text", out, e));
  WEIR_TRY(put_cdf(b, doc, n, "tpot", "Time per token", out, e));
  WEIR_TRY(put_cdf(b, doc, n, "e2e", "End to end", out, e));
  st = weir_buf_puts(out, "</div>\n", e);
out:
  return st;
}

/* ---- the course of time ---- */

static void add_course(board *b, const json_t *point, const char *member, int32_t color, bool area,
                       const char *name) {
  const json_t *t = json_object_get(point, "timeline"), *v = json_object_get(t, member);
  const double width = weir_json_at(t, "width_s");
  const size_t n = json_array_size(v);
  if (n == 0 || n > MAX_STEPS || isnan(width)) return;
  weir_series *s = add_series(b, color, false);
  if (!s) return;
  bool any = false;
  for (size_t i = 0; i < n; i++) {
    const json_t *x = json_array_get(v, i);
    xs(b, s)[i] = ((double)i + .5) * width;
    ys(b, s)[i] = json_is_number(x) ? json_number_value(x) : NAN;
    any = any || (json_is_number(x) && json_number_value(x) > 0);
  }
  s->n = (int32_t)n;
  s->area = area;
  snprintf(s->name, sizeof s->name, "%s", name);
  if (!any) b->n--;
}

static weir_status put_course(board *b, json_t *const *doc, int32_t n, const char *const member[2],
                              const char *title, const char *unit, double y_max, weir_buf *out, weir_err *e) {
  char who[80], name[96];
  b->n = 0;
  for (int32_t k = 0; k < n; k++)
    for (int i = 0; i < 2 && member[i]; i++) {
      name_of(doc, n, k, who, sizeof who);
      snprintf(name, sizeof name, "%s%s", n > 1 ? who : "",
               i == 1      ? n > 1 ? ", errors" : "errors"
               : n > 1     ? ""
               : member[1] ? "ok"
                           : "");
      add_course(b, main_point(doc[k]), member[i], n > 1 ? k : i == 1 ? 1 : 0, n == 1 && i == 0, name);
      if (n > 1 && i == 1 && b->n > 0) b->s[b->n - 1].dashed = true;
    }
  const weir_plot p = {.title = title,
                       .x_name = "s",
                       .y_name = unit,
                       .x_from_zero = true,
                       .y_from_zero = true,
                       .y_max = y_max,
                       .mark_x = NAN,
                       .series = b->s,
                       .n_series = b->n};
  return weir_plot_draw(&p, out, e);
}

static weir_status put_courses(board *b, json_t *const *doc, int32_t n, weir_buf *out, weir_err *e) {
  static const char *const running[] = {"running", NULL}, *const tokens[] = {"tok_s", NULL},
                           *const ended[] = {"ok_s", "errors_s"}, *const deferral[] = {"deferral_rate", NULL};
  weir_status st = WEIR_OK;
  char load[80] = "";
  if (n == 1 && main_point(doc[0])) weir_report_load_text(main_point(doc[0]), load, sizeof load);
  WEIR_TRY(weir_buf_puts(out, "<h2>Over time", e));
  if (load[0]) WEIR_TRY(weir_buf_printf(out, e, " <span class=\"note\">%s</span>", load));
  WEIR_TRY(weir_buf_puts(out, "</h2><div class=\"plots\">\n", e));
  WEIR_TRY(put_course(b, doc, n, running, "Requests under way", "requests", NAN, out, e));
  WEIR_TRY(put_course(b, doc, n, tokens, "Tokens", "tokens/s", NAN, out, e));
  WEIR_TRY(put_course(b, doc, n, ended, "Requests ended", "requests/s", NAN, out, e));
  WEIR_TRY(put_course(b, doc, n, deferral, "Deferral rate", "share by the large model", 1, out, e));
  st = weir_buf_puts(out, "</div>\n", e);
out:
  return st;
}

/* ---- numbers ---- */

static weir_status put_tile(const char *name, const char *value, weir_buf *out, weir_err *e) {
  return weir_buf_printf(out, e, "<div class=\"tile\"><span>%s</span><b>%s</b></div>", name, value);
}

static weir_status put_tiles(const json_t *doc, weir_buf *out, weir_err *e) {
  const json_t *p = main_point(doc);
  char load[80];
  static const struct {
    const char *name, *path;
    char kind; /* n number, t time, p per cent */
  } tile[] = {{"requests/s", "throughput.rps", 'n'},
              {"output tokens/s", "throughput.output_tok_s", 'n'},
              {"first token, p50", "latency_ms.ttft.p50", 't'},
              {"first token, p99", "latency_ms.ttft.p99", 't'},
              {"per token, p50", "latency_ms.tpot.p50", 't'},
              {"end to end, p99", "latency_ms.e2e.p99", 't'},
              {"good requests", "goodput.share", 'p'},
              {"errors", "requests.error_rate", 'p'},
              {"not answered", "requests.unanswered", 'n'},
              {"deferral rate", "deferral_rate", 'p'},
              {"exact match", "exact_match.share", 'p'}};
  weir_status st = WEIR_OK;
  char text[32];
  weir_report_load_text(p, load, sizeof load);
  WEIR_TRY(weir_buf_printf(out, e, "<p class=\"note\">At %s%s:</p><div class=\"tiles\">", load,
                           json_is_integer(json_object_get(doc, "knee")) ? ", the knee" : ""));
  for (size_t i = 0; i < sizeof tile / sizeof *tile; i++) {
    const double x = weir_json_at(p, tile[i].path);
    if (isnan(x) || (x == 0 && !strcmp(tile[i].path, "requests.unanswered"))) continue;
    if (!strcmp(tile[i].path, "goodput.share") && !json_is_object(json_object_get(p, "slo"))) continue;
    if (tile[i].kind == 't')
      weir_report_ms_text(x, text, sizeof text);
    else
      snprintf(text, sizeof text, tile[i].kind == 'p' ? "%.1f %%" : "%.4g",
               tile[i].kind == 'p' ? 100 * x : x);
    WEIR_TRY(put_tile(tile[i].name, text, out, e));
  }
  st = weir_buf_puts(out, "</div>\n", e);
out:
  return st;
}

static weir_status put_cell(double x, char kind, weir_buf *out, weir_err *e) {
  char text[32] = "-";
  if (kind == 't')
    weir_report_ms_text(x, text, sizeof text);
  else if (!isnan(x))
    snprintf(text, sizeof text, kind == 'p' ? "%.1f %%" : "%.4g", kind == 'p' ? 100 * x : x);
  return weir_buf_printf(out, e, "<td>%s</td>", text);
}

static const struct {
  const char *name, *path;
  char kind;
} column[] = {{"req/s", "throughput.rps", 'n'},         {"tok/s", "throughput.output_tok_s", 'n'},
              {"TTFT p50", "latency_ms.ttft.p50", 't'}, {"p99", "latency_ms.ttft.p99", 't'},
              {"TPOT p50", "latency_ms.tpot.p50", 't'}, {"p99", "latency_ms.tpot.p99", 't'},
              {"e2e p50", "latency_ms.e2e.p50", 't'},   {"p99", "latency_ms.e2e.p99", 't'},
              {"goodput", "goodput.rps", 'n'},          {"errors", "requests.errors", 'n'},
              {"deferral", "deferral_rate", 'p'},       {"exact", "exact_match.share", 'p'}};
enum { N_COLUMNS = sizeof column / sizeof *column };

static weir_status put_table_row(const json_t *doc, size_t i, bool verdicts, const bool *shown, weir_buf *out,
                                 weir_err *e) {
  weir_status st = WEIR_OK;
  char load[80];
  const json_t *p = json_array_get(json_object_get(doc, "points"), i), *knee = json_object_get(doc, "knee");
  weir_report_load_text(p, load, sizeof load);
  const bool is_knee = json_is_integer(knee) && (size_t)json_integer_value(knee) == i;
  WEIR_TRY(weir_buf_printf(out, e, "<tr%s><td>", is_knee ? " class=\"knee\"" : ""));
  WEIR_TRY(weir_buf_printf(out, e, "%s%s</td>", load, is_knee ? " (knee)" : ""));
  for (int k = 0; k < N_COLUMNS; k++)
    if (shown[k]) WEIR_TRY(put_cell(weir_json_at(p, column[k].path), column[k].kind, out, e));
  if (verdicts) {
    const bool has = json_is_object(json_object_get(p, "slo")), met = weir_summary_met(p);
    WEIR_TRY(weir_buf_printf(out, e, "<td class=\"%s\">%s</td>", met ? "good" : "bad",
                             !has  ? ""
                             : met ? "met"
                                   : "not met"));
  }
  st = weir_buf_puts(out, "</tr>\n", e);
out:
  return st;
}

static weir_status put_table(json_t *const *doc, int32_t n, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  bool shown[N_COLUMNS] = {false}, verdicts = false;
  char who[128];
  for (int32_t k = 0; k < n; k++)
    for (size_t i = 0; i < json_array_size(json_object_get(doc[k], "points")); i++) {
      const json_t *p = json_array_get(json_object_get(doc[k], "points"), i);
      for (int c = 0; c < N_COLUMNS; c++) shown[c] = shown[c] || !isnan(weir_json_at(p, column[c].path));
      verdicts = verdicts || json_is_object(json_object_get(p, "slo"));
    }
  for (int c = 0; c < N_COLUMNS; c++)
    if (!strcmp(column[c].path, "goodput.rps")) shown[c] = shown[c] && verdicts; /* else it is req/s again */
  WEIR_TRY(weir_buf_puts(out, "<h2>Numbers</h2><div class=\"scroll\"><table><tr><th>load</th>", e));
  for (int c = 0; c < N_COLUMNS; c++)
    if (shown[c]) WEIR_TRY(weir_buf_printf(out, e, "<th>%s</th>", column[c].name));
  WEIR_TRY(weir_buf_printf(out, e, "%s</tr>\n", verdicts ? "<th>SLO</th>" : ""));
  for (int32_t k = 0; k < n; k++) {
    name_of(doc, n, k, who, sizeof who);
    if (n > 1) {
      WEIR_TRY(weir_buf_puts(out, "<tr class=\"run\"><td colspan=\"14\">", e));
      WEIR_TRY(weir_html_text(who, out, e));
      WEIR_TRY(weir_buf_puts(out, "</td></tr>\n", e));
    }
    for (size_t i = 0; i < json_array_size(json_object_get(doc[k], "points")); i++)
      WEIR_TRY(put_table_row(doc[k], i, verdicts, shown, out, e));
  }
  st = weir_buf_puts(out, "</table></div>\n", e);
out:
  return st;
}

static weir_status put_objectives(const json_t *doc, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *t, *terms = json_object_get(json_object_get(main_point(doc), "slo"), "terms"), *x;
  char value[40];
  size_t i;
  if (json_array_size(terms) > 0)
    WEIR_TRY(weir_buf_puts(out,
                           "<h2>Objectives</h2><div "
                           "class=\"scroll\"><table><tr><th>objective</th><th>measured</th><th></th></tr>",
                           e));
  json_array_foreach(terms, i, t) {
    const bool met = json_is_true(json_object_get(t, "met"));
    WEIR_TRY(weir_buf_puts(out, "<tr><td>", e));
    WEIR_TRY(weir_html_text(text_at(t, "text"), out, e));
    weir_report_term_text(t, value, sizeof value);
    WEIR_TRY(weir_buf_printf(out, e, "</td><td>%s</td><td class=\"%s\">%s</td></tr>\n", value,
                             met ? "good" : "bad", met ? "met" : "not met"));
  }
  if (json_array_size(terms) > 0) WEIR_TRY(weir_buf_puts(out, "</table></div>\n", e));
  const json_t *errors = json_object_get(json_object_get(main_point(doc), "requests"), "by_error");
  if (json_array_size(errors) > 0)
    WEIR_TRY(weir_buf_puts(
        out, "<h2>Errors</h2><div class=\"scroll\"><table><tr><th>what</th><th>code</th><th>times</th></tr>",
        e));
  json_array_foreach(errors, i, x) {
    WEIR_TRY(weir_buf_puts(out, "<tr><td>", e));
    WEIR_TRY(weir_html_text(text_at(x, "what"), out, e));
    WEIR_TRY(weir_buf_puts(out, ": ", e));
    WEIR_TRY(weir_html_text(text_at(x, "message"), out, e));
    WEIR_TRY(weir_buf_printf(out, e, "</td><td>%.0f</td><td>%.0f</td></tr>\n", weir_json_at(x, "code"),
                             weir_json_at(x, "n")));
  }
  if (json_array_size(errors) > 0) st = weir_buf_puts(out, "</table></div>\n", e);
out:
  return st;
}

static weir_status put_settings(const json_t *doc, const char *who, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *name;
  json_t *v;
  WEIR_TRY(weir_buf_puts(out, "<h2>Settings of ", e));
  WEIR_TRY(weir_html_text(who, out, e));
  WEIR_TRY(weir_buf_puts(out, "</h2><dl>", e));
  json_object_foreach(json_object_get(doc, "settings"), name, v) {
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
    WEIR_TRY(weir_buf_puts(out, "<dt>", e));
    WEIR_TRY(weir_html_text(name, out, e));
    WEIR_TRY(weir_buf_puts(out, "</dt><dd>", e));
    st = weir_html_text(json_is_string(v) ? json_string_value(v) : text ? text : "", out, e);
    free(text);
    if (st == WEIR_OK) st = weir_buf_puts(out, "</dd>", e);
    if (st != WEIR_OK) goto out;
  }
  st = weir_buf_puts(out, "</dl>\n", e);
out:
  return st;
}

static weir_status put_head(json_t *const *doc, int32_t n, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  char who[128];
  WEIR_TRY(weir_buf_puts(
      out,
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>weir-bench</title>\n",
      e));
  WEIR_TRY(weir_buf_printf(out, e, "%s</head><body>\n<h1>", weir_page_style));
  for (int32_t k = 0; k < n; k++) {
    name_of(doc, n, k, who, sizeof who);
    WEIR_TRY(weir_buf_puts(out, k == 0 ? "" : k + 1 < n ? ", " : " and ", e));
    WEIR_TRY(weir_html_text(who, out, e));
  }
  WEIR_TRY(weir_buf_puts(out, "</h1><p class=\"sub\">", e));
  for (int32_t k = 0; k < n; k++) {
    const json_t *t = json_object_get(doc[k], "target");
    WEIR_TRY(weir_buf_puts(out, k ? "<br>" : "", e));
    WEIR_TRY(weir_html_text(text_at(t, "model"), out, e));
    WEIR_TRY(weir_buf_puts(out, " at ", e));
    WEIR_TRY(weir_html_text(text_at(t, "url"), out, e));
    WEIR_TRY(weir_buf_puts(out, ", ", e));
    WEIR_TRY(weir_html_text(text_at(doc[k], "started"), out, e));
  }
  st = weir_buf_puts(out, "</p>\n", e);
out:
  return st;
}

weir_status weir_report_html(json_t *const *doc, int32_t n, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  board *b = NULL;
  char who[128];
  WEIR_TRY(WEIR_NEW(1, &b, e));
  WEIR_TRY(put_head(doc, n, out, e));
  if (n == 1 && main_point(doc[0])) WEIR_TRY(put_tiles(doc[0], out, e));
  WEIR_TRY(put_table(doc, n, out, e));
  if (n == 1) WEIR_TRY(put_objectives(doc[0], out, e));
  WEIR_TRY(put_loads(b, doc, n, out, e));
  WEIR_TRY(put_qualities(b, doc, n, out, e));
  WEIR_TRY(put_cdfs(b, doc, n, out, e));
  WEIR_TRY(put_courses(b, doc, n, out, e));
  for (int32_t k = 0; k < n; k++) {
    name_of(doc, n, k, who, sizeof who);
    WEIR_TRY(put_settings(doc[k], who, out, e));
  }
  st = weir_buf_puts(
      out,
      "<p class=\"note\">Latencies count from when a request was due. Percentiles are of requests that ended "
      "well and were read at full speed.</p></body></html>\n",
      e);
out:
  free(b);
  return st;
}
