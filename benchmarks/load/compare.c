/* SPDX-License-Identifier: Apache-2.0 */
/* Two runs side by side. A ratio is called a difference only where it stands out of the noise: where the two
 * 95 % intervals do not meet, those of percentiles and of rates from batches of each run's time, those of
 * shares Wilson's. A dozen rows are looked at at once, so the test is a strict one: of two runs of the same
 * thing, about two rows in a hundred are called different. Main thread. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "load/report.h"
#include "load/summary.h"

static const char *text_at(const json_t *o, const char *name) {
  const char *s = json_string_value(json_object_get(o, name));
  return s ? s : "";
}

/* The interval of a percentile, of a rate (from its noise), or of a share. */
static bool interval(const json_t *o, const char *name, double *lo, double *hi) {
  const json_t *pair = json_object_get(o, name);
  *lo = *hi = NAN;
  if (json_array_size(pair) != 2 || !json_is_number(json_array_get(pair, 0)) ||
      !json_is_number(json_array_get(pair, 1)))
    return false;
  *lo = json_number_value(json_array_get(pair, 0));
  *hi = json_number_value(json_array_get(pair, 1));
  return true;
}

static const char *verdict(bool known, bool apart, double ratio, bool less_is_better) {
  if (!known) return "noise not known";
  if (!apart) return "within noise";
  return (ratio < 1) == less_is_better ? "better" : "worse";
}

static weir_status put_row(const char *title, const char *a, const char *b, double ratio, const char *what,
                           weir_buf *out, weir_err *e) {
  char text[16] = "-";
  if (isfinite(ratio)) snprintf(text, sizeof text, "%.3f", ratio);
  return weir_buf_printf(out, e, "  %-24s %12s %12s %8s  %s\n", title, a, b, text, what);
}

static weir_status put_time(const json_t *a, const json_t *b, const char *name, const char *q,
                            const char *title, weir_buf *out, weir_err *e) {
  char path[48], ci[16], ta[24], tb[24];
  double alo, ahi, blo, bhi;
  const json_t *sa = json_object_get(json_object_get(a, "latency_ms"), name);
  const json_t *sb = json_object_get(json_object_get(b, "latency_ms"), name);
  const double x = weir_json_at(sa, q), y = weir_json_at(sb, q);
  if (isnan(x) || isnan(y)) return WEIR_OK;
  snprintf(path, sizeof path, "%s %s", title, q);
  snprintf(ci, sizeof ci, "%s_95", q);
  weir_report_ms_text(x, ta, sizeof ta);
  weir_report_ms_text(y, tb, sizeof tb);
  const bool ka = interval(sa, ci, &alo, &ahi), kb = interval(sb, ci, &blo, &bhi);
  return put_row(path, ta, tb, y / x, verdict(ka && kb, ahi < blo || bhi < alo, y / x, true), out, e);
}

static weir_status put_rate(const json_t *a, const json_t *b, const char *path, const char *noise,
                            const char *title, weir_buf *out, weir_err *e) {
  char ta[24], tb[24];
  const double x = weir_json_at(a, path), y = weir_json_at(b, path);
  if (isnan(x) || isnan(y)) return WEIR_OK;
  const double na = weir_json_at(a, noise), nb = weir_json_at(b, noise);
  snprintf(ta, sizeof ta, "%.4g", x);
  snprintf(tb, sizeof tb, "%.4g", y);
  return put_row(title, ta, tb, y / x,
                 verdict(isfinite(na) && isfinite(nb), fabs(y - x) > x * na + y * nb, y / x, false), out, e);
}

static weir_status put_exact(const json_t *a, const json_t *b, weir_buf *out, weir_err *e) {
  char ta[24], tb[24];
  double alo, ahi, blo, bhi;
  const double x = weir_json_at(a, "exact_match.share"), y = weir_json_at(b, "exact_match.share");
  if (isnan(x) || isnan(y)) return WEIR_OK;
  const bool ka = interval(json_object_get(a, "exact_match"), "interval95", &alo, &ahi);
  const bool kb = interval(json_object_get(b, "exact_match"), "interval95", &blo, &bhi);
  snprintf(ta, sizeof ta, "%.3f", x);
  snprintf(tb, sizeof tb, "%.3f", y);
  return put_row("exact match", ta, tb, y / x, verdict(ka && kb, ahi < blo || bhi < alo, y / x, false), out,
                 e);
}

static weir_status put_plain(const json_t *a, const json_t *b, const char *path, const char *title,
                             weir_buf *out, weir_err *e) {
  char ta[24], tb[24];
  const double x = weir_json_at(a, path), y = weir_json_at(b, path);
  if (isnan(x) || isnan(y) || (x == 0 && y == 0)) return WEIR_OK;
  snprintf(ta, sizeof ta, "%.4g", x);
  snprintf(tb, sizeof tb, "%.4g", y);
  return put_row(title, ta, tb, x > 0 ? y / x : NAN, "", out, e);
}

static weir_status put_point(const json_t *a, const json_t *b, weir_buf *out, weir_err *e) {
  static const char *const times[][2] = {
      {"ttft", "TTFT"}, {"tpot", "TPOT"}, {"itl", "ITL"}, {"e2e", "end to end"}, {"queue", "queue"}};
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
    WEIR_TRY(put_time(a, b, times[i][0], "p50", times[i][1], out, e));
    WEIR_TRY(put_time(a, b, times[i][0], "p99", times[i][1], out, e));
  }
  WEIR_TRY(put_rate(a, b, "throughput.rps", "throughput.rps_noise", "requests/s", out, e));
  WEIR_TRY(
      put_rate(a, b, "throughput.output_tok_s", "throughput.output_tok_s_noise", "output tokens/s", out, e));
  WEIR_TRY(put_plain(a, b, "goodput.rps", "goodput, requests/s", out, e));
  WEIR_TRY(put_plain(a, b, "requests.error_rate", "error rate", out, e));
  WEIR_TRY(put_plain(a, b, "deferral_rate", "deferral rate", out, e));
  st = put_exact(a, b, out, e);
out:
  return st;
}

/* The point of b that had the same load. */
static const json_t *partner(const json_t *b, const char *load) {
  const json_t *point;
  size_t i;
  char text[80];
  json_array_foreach(json_object_get(b, "points"), i, point) {
    weir_report_load_text(point, text, sizeof text);
    if (!strcmp(text, load)) return point;
  }
  return NULL;
}

static bool is_known(const json_t *doc, weir_err *e, weir_status *st) {
  const char *schema = text_at(doc, "schema");
  if (!strcmp(schema, WEIR_LOAD_SCHEMA)) return true;
  *st = weir_fail(e, WEIR_EUNSUP, "schema \"%.40s\": only \"%s\" can be compared", schema, WEIR_LOAD_SCHEMA);
  return false;
}

weir_status weir_report_compare(const json_t *a, const json_t *b, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *pa = json_object_get(a, "points"), *point;
  size_t i;
  int32_t n = 0;
  char na[128], nb[128], load[80];
  if (!is_known(a, e, &st) || !is_known(b, e, &st)) return st;
  weir_report_name(a, na, sizeof na);
  weir_report_name(b, nb, sizeof nb);
  WEIR_TRY(weir_buf_printf(out, e, "A: %s, %s\nB: %s, %s\n", na, text_at(a, "started"), nb,
                           text_at(b, "started")));
  const bool single = json_array_size(pa) == 1 && json_array_size(json_object_get(b, "points")) == 1;
  json_array_foreach(pa, i, point) {
    weir_report_load_text(point, load, sizeof load);
    const json_t *other = partner(b, load);
    if (!other && single) { /* the user has asked for these two; say that they differ */
      char theirs[80];
      other = json_array_get(json_object_get(b, "points"), 0);
      weir_report_load_text(other, theirs, sizeof theirs);
      WEIR_TRY(weir_buf_printf(out, e, "\nthe loads differ: A %s, B %s\n", load, theirs));
    }
    if (!other) continue;
    n++;
    WEIR_TRY(weir_buf_printf(out, e, "\n%s\n  %-24s %12s %12s %8s\n", load, "", "A", "B", "B / A"));
    WEIR_TRY(put_point(point, other, out, e));
  }
  if (n == 0)
    st = weir_fail(e, WEIR_EINVAL, "the two runs have no load in common");
  else
    st = weir_buf_puts(
        out,
        "\nNoise is what varied within each run (95 %); another day or another neighbour on the machine "
        "is not in it.\n",
        e);
out:
  return st;
}
