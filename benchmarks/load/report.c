/* SPDX-License-Identifier: Apache-2.0 */
/* Words, the table, CSV and files of reports. Main thread, after the load. */
#include "load/report.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "load/summary.h"

static const char *text_at(const json_t *o, const char *name) {
  const char *s = json_string_value(json_object_get(o, name));
  return s ? s : "";
}

void weir_report_load_text(const json_t *point, char *buf, size_t bytes) {
  const json_t *load = json_object_get(point, "load");
  const char *kind = text_at(load, "kind");
  const double entropy = weir_json_at(load, "entropy");
  int n;
  if (!strcmp(kind, "closed"))
    n = snprintf(buf, bytes, "concurrency %g", weir_json_at(load, "concurrency"));
  else if (!strcmp(kind, "ramp"))
    n = snprintf(buf, bytes, "%.4g to %.4g req/s", weir_json_at(load, "rate"),
                 weir_json_at(load, "rate_end"));
  else if (!strcmp(kind, "trace"))
    n = snprintf(buf, bytes, "trace");
  else
    n = snprintf(buf, bytes, "%.4g req/s %s", weir_json_at(load, "rate"), kind);
  if (!isnan(entropy) && n > 0 && (size_t)n < bytes)
    snprintf(buf + n, bytes - (size_t)n, ", entropy %.4g", entropy);
}

void weir_report_ms_text(double ms, char *buf, size_t bytes) {
  if (isnan(ms))
    snprintf(buf, bytes, "-");
  else if (ms < 0.9995)
    snprintf(buf, bytes, "%.3g us", ms * 1e3);
  else if (ms < 9.995)
    snprintf(buf, bytes, "%.2f ms", ms);
  else if (ms < 99.95)
    snprintf(buf, bytes, "%.1f ms", ms);
  else if (ms < 999.5)
    snprintf(buf, bytes, "%.0f ms", ms);
  else if (ms < 9995)
    snprintf(buf, bytes, "%.2f s", ms / 1e3);
  else
    snprintf(buf, bytes, "%.1f s", ms / 1e3);
}

void weir_report_name(const json_t *doc, char *buf, size_t bytes) {
  const json_t *target = json_object_get(doc, "target");
  const char *label = text_at(doc, "label"), *model = text_at(target, "model"),
             *server = text_at(target, "server");
  const char *slash = strrchr(model, '/');
  if (label[0])
    snprintf(buf, bytes, "%s", label);
  else
    snprintf(buf, bytes, "%s%s%s", slash && slash[1] ? slash + 1 : model, server[0] ? " on " : "", server);
}

void weir_report_term_text(const json_t *term, char *buf, size_t bytes) {
  const double x = weir_json_at(term, "value");
  if (json_is_true(json_object_get(term, "unanswered")))
    snprintf(buf, bytes, "longer than any (no answer)");
  else if (isnan(x))
    snprintf(buf, bytes, "not measured");
  else
    snprintf(buf, bytes, "%.4g", x);
}

/* ---- the table ---- */

static weir_status put_spread(const json_t *point, const char *name, const char *title, weir_buf *out,
                              weir_err *e) {
  static const char *const column[] = {"mean", "p50", "p90", "p95", "p99", "max"};
  weir_status st = WEIR_OK;
  char text[24];
  const json_t *s = json_object_get(json_object_get(point, "latency_ms"), name);
  if (!(weir_json_at(s, "n") > 0)) return WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e, "  %-22s", title));
  for (size_t i = 0; i < sizeof column / sizeof *column; i++) {
    weir_report_ms_text(weir_json_at(s, column[i]), text, sizeof text);
    WEIR_TRY(weir_buf_printf(out, e, " %9s", text));
  }
  st = weir_buf_printf(out, e, " %9.0f\n", weir_json_at(s, "n"));
out:
  return st;
}

static weir_status put_spreads(const json_t *point, weir_buf *out, weir_err *e) {
  static const char *const row[][2] = {{"ttft", "first token (TTFT)"},  {"tpot", "per token (TPOT)"},
                                       {"itl", "between pieces (ITL)"}, {"itl_small", "  small tier's"},
                                       {"itl_large", "  large tier's"}, {"e2e", "end to end"},
                                       {"queue", "in the queue"}};
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e, "  %-22s %9s %9s %9s %9s %9s %9s %9s\n", "", "mean", "p50", "p90", "p95",
                           "p99", "max", "n"));
  for (size_t i = 0; i < sizeof row / sizeof *row; i++)
    WEIR_TRY(put_spread(point, row[i][0], row[i][1], out, e));
  if (weir_json_at(point, "latency_ms.sent_late.p95") >= 1) { /* else the two are the same */
    WEIR_TRY(put_spread(point, "ttft_from_sent", "TTFT from sending", out, e));
    WEIR_TRY(put_spread(point, "e2e_from_sent", "end to end, sending", out, e));
    WEIR_TRY(put_spread(point, "sent_late", "sent after schedule", out, e));
  }
out:
  return st;
}

static weir_status put_noise(const json_t *point, const char *path, weir_buf *out, weir_err *e) {
  const double x = weir_json_at(point, path);
  return isnan(x) ? WEIR_OK : weir_buf_printf(out, e, " (+-%.0f %%)", x * 100);
}

static weir_status put_counts(const json_t *point, weir_buf *out, weir_err *e) {
  static const char *const other[][2] = {{"requests.cancelled", "broken off by us"},
                                         {"requests.slow_readers", "slow readers"},
                                         {"requests.cut", "unfinished at the end"},
                                         {"requests.unsent", "due but never sent"}};
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e, "  requests      %.0f sent, %.0f ok, %.0f errors",
                           weir_json_at(point, "requests.sent"), weir_json_at(point, "requests.ok"),
                           weir_json_at(point, "requests.errors")));
  for (size_t i = 0; i < sizeof other / sizeof *other; i++)
    if (weir_json_at(point, other[i][0]) > 0)
      WEIR_TRY(weir_buf_printf(out, e, ", %.0f %s", weir_json_at(point, other[i][0]), other[i][1]));
  WEIR_TRY(weir_buf_printf(out, e, "; %.2f s%s\n", weir_json_at(point, "wall_s"),
                           json_is_true(json_object_get(point, "interrupted")) ? ", interrupted" : ""));
  if (weir_json_at(point, "requests.unanswered") > 0)
    WEIR_TRY(weir_buf_printf(
        out, e,
        "  not answered  %.0f: in no percentile here; in objectives they are errors, and longer "
        "than any bound\n",
        weir_json_at(point, "requests.unanswered")));
  WEIR_TRY(weir_buf_printf(out, e, "  throughput    %.4g requests/s", weir_json_at(point, "throughput.rps")));
  WEIR_TRY(put_noise(point, "throughput.rps_noise", out, e));
  WEIR_TRY(weir_buf_printf(out, e, ", %.4g output tokens/s", weir_json_at(point, "throughput.output_tok_s")));
  WEIR_TRY(put_noise(point, "throughput.output_tok_s_noise", out, e));
  if (!isnan(weir_json_at(point, "throughput.total_tok_s")))
    WEIR_TRY(weir_buf_printf(out, e, ", %.4g with prompts", weir_json_at(point, "throughput.total_tok_s")));
  WEIR_TRY(weir_buf_printf(out, e, "\n  tokens        %.0f written", weir_json_at(point, "tokens.output")));
  if (!isnan(weir_json_at(point, "tokens.prompt")))
    WEIR_TRY(weir_buf_printf(out, e, ", %.0f read (%.0f of them cached)",
                             weir_json_at(point, "tokens.prompt"), weir_json_at(point, "tokens.cached")));
  st = weir_buf_printf(out, e, "; %s\n",
                       strcmp(text_at(json_object_get(point, "tokens"), "counted_by"), "usage")
                           ? "the server told no usage: pieces of the stream were counted"
                           : "as the server's usage says");
out:
  return st;
}

static weir_status put_quality(const json_t *point, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *exact = json_object_get(point, "exact_match");
  const double deferral = weir_json_at(point, "deferral_rate");
  if (!isnan(deferral)) WEIR_TRY(weir_buf_printf(out, e, "  deferral rate %.3f\n", deferral));
  if (json_is_object(exact)) {
    const json_t *ci = json_object_get(exact, "interval95");
    WEIR_TRY(weir_buf_printf(out, e, "  exact match   %.3f (%.0f of %.0f; 95 %%: %.3f .. %.3f)\n",
                             weir_json_at(exact, "share"), weir_json_at(exact, "right"),
                             weir_json_at(exact, "n"), json_number_value(json_array_get(ci, 0)),
                             json_number_value(json_array_get(ci, 1))));
  }
out:
  return st;
}

static weir_status put_slo(const json_t *point, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *slo = json_object_get(point, "slo"), *t;
  char value[40];
  size_t i;
  if (!json_is_object(slo)) return WEIR_OK;
  WEIR_TRY(weir_buf_printf(out, e, "  goodput       %.4g requests/s, %.1f %% of requests\n",
                           weir_json_at(point, "goodput.rps"), 100 * weir_json_at(point, "goodput.share")));
  json_array_foreach(json_object_get(slo, "terms"), i, t) {
    weir_report_term_text(t, value, sizeof value);
    WEIR_TRY(weir_buf_printf(out, e, "  SLO           %-4s %s: %s\n",
                             json_is_true(json_object_get(t, "met")) ? "met" : "NOT", text_at(t, "text"),
                             value));
  }
out:
  return st;
}

static weir_status put_errors(const json_t *point, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *x;
  size_t i;
  json_array_foreach(json_object_get(json_object_get(point, "requests"), "by_error"), i, x) {
    WEIR_TRY(weir_buf_printf(out, e, "  error         %.0f x %.0f %s: %.120s\n", weir_json_at(x, "n"),
                             weir_json_at(x, "code"), text_at(x, "what"), text_at(x, "message")));
  }
out:
  return st;
}

static weir_status put_point(const json_t *point, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  char load[80];
  weir_report_load_text(point, load, sizeof load);
  WEIR_TRY(weir_buf_printf(out, e, "\n%s\n", load));
  WEIR_TRY(put_spreads(point, out, e));
  WEIR_TRY(put_counts(point, out, e));
  WEIR_TRY(put_quality(point, out, e));
  WEIR_TRY(put_slo(point, out, e));
  st = put_errors(point, out, e);
out:
  return st;
}

static weir_status put_line(const json_t *point, bool knee, weir_buf *out, weir_err *e) {
  static const char *const column[] = {"latency_ms.ttft.p50", "latency_ms.ttft.p99", "latency_ms.tpot.p50",
                                       "latency_ms.tpot.p99", "latency_ms.e2e.p50",  "latency_ms.e2e.p99"};
  weir_status st = WEIR_OK;
  char load[80], ms[24];
  weir_report_load_text(point, load, sizeof load);
  WEIR_TRY(weir_buf_printf(out, e, "%s%-28s %8.4g %8.4g", knee ? "> " : "  ", load,
                           weir_json_at(point, "throughput.rps"),
                           weir_json_at(point, "throughput.output_tok_s")));
  for (size_t i = 0; i < sizeof column / sizeof *column; i++) {
    weir_report_ms_text(weir_json_at(point, column[i]), ms, sizeof ms);
    WEIR_TRY(weir_buf_printf(out, e, " %8s", ms));
  }
  const double unanswered = weir_json_at(point, "requests.unanswered"); /* older files have none */
  WEIR_TRY(weir_buf_printf(out, e, " %7.4g %6.0f", weir_json_at(point, "goodput.rps"),
                           weir_json_at(point, "requests.errors")));
  if (unanswered > 0) WEIR_TRY(weir_buf_printf(out, e, "  not answered %.0f", unanswered));
  const double deferral = weir_json_at(point, "deferral_rate"),
               exact = weir_json_at(point, "exact_match.share");
  if (!isnan(deferral)) WEIR_TRY(weir_buf_printf(out, e, "  deferral %.3f", deferral));
  if (!isnan(exact)) WEIR_TRY(weir_buf_printf(out, e, "  exact %.3f", exact));
  if (json_is_object(json_object_get(point, "slo")))
    WEIR_TRY(weir_buf_puts(out, weir_summary_met(point) ? "  SLO met" : "  SLO not met", e));
  st = weir_buf_puts(out, "\n", e);
out:
  return st;
}

weir_status weir_report_table(const json_t *doc, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *points = json_object_get(doc, "points"), *point, *knee = json_object_get(doc, "knee");
  const size_t n = json_array_size(points);
  size_t i;
  char name[128], load[80];
  weir_report_name(doc, name, sizeof name);
  WEIR_TRY(weir_buf_printf(out, e, "%s, %s\n", name, text_at(json_object_get(doc, "target"), "url")));
  const bool swept = json_object_get(doc, "sweep") != NULL;
  if (n == 0) WEIR_TRY(weir_buf_puts(out, "  interrupted before anything was measured\n", e));
  if (n == 1 && !swept) WEIR_TRY(put_point(json_array_get(points, 0), out, e));
  if (n > 1 || (n == 1 && swept)) {
    WEIR_TRY(weir_buf_printf(
        out, e, "\n  %-28s %8s %8s %17s %17s %17s %7s %6s\n  %-28s %8s %8s %8s %8s %8s %8s %8s %8s %7s %6s\n",
        "load", "req/s", "tok/s", "TTFT", "TPOT", "end to end", "goodput", "errors", "", "", "", "p50", "p99",
        "p50", "p99", "p50", "p99", "req/s", ""));
    json_array_foreach(points, i, point) {
      WEIR_TRY(put_line(point, json_is_integer(knee) && (size_t)json_integer_value(knee) == i, out, e));
    }
    json_array_foreach(points, i, point) { WEIR_TRY(put_errors(point, out, e)); }
    if (json_is_integer(knee)) {
      weir_report_load_text(json_array_get(points, (size_t)json_integer_value(knee)), load, sizeof load);
      WEIR_TRY(weir_buf_printf(out, e, "> knee: %s is the greatest load tried that was still good\n", load));
    } else if (swept && strcmp(text_at(doc, "sweep"), "entropy") != 0) {
      WEIR_TRY(weir_buf_puts(
          out, "  no load tried was good; a sweep begins at --rate, or with the first of --points\n", e));
    }
  }
out:
  return st;
}

/* ---- CSV ---- */

void weir_report_csv_head(FILE *f) {
  fputs(
      "point,item,turn,outcome,code,slow_reader,scheduled_s,sent_s,first_s,last_s,end_s,ttft_ms,tpot_ms,e2e_"
      "ms,"
      "longest_gap_ms,queue_ms,prompt_tokens,cached_tokens,output_tokens,counted_by,pieces,small_tokens,"
      "large_tokens,"
      "right,reason,error\n",
      f);
}

static void put_number(FILE *f, double x, const char *fmt) {
  if (!isnan(x)) fprintf(f, fmt, x);
  fputc(',', f);
}

static double seconds(int64_t ns) { return ns >= 0 ? (double)ns * 1e-9 : NAN; }

void weir_report_csv(FILE *f, int32_t point, const weir_load_result *out) {
  for (int64_t i = 0; i < out->n; i++) {
    const weir_load_record *r = &out->record[i];
    double t[WEIR_SLO_N_TIMES];
    weir_record_times(r, false, t);
    fprintf(f, "%d,%lld,%d,%s,%d,%d,%.6f,%.6f,", point, (long long)r->item, r->turn,
            weir_load_outcome_name((weir_load_outcome)r->outcome), r->code, r->slow,
            (double)r->scheduled_ns * 1e-9, (double)r->sent_ns * 1e-9);
    put_number(f, seconds(r->first_ns), "%.6f");
    put_number(f, seconds(r->last_ns), "%.6f");
    put_number(f, seconds(r->end_ns), "%.6f");
    put_number(f, t[WEIR_SLO_TTFT] * 1e3, "%.3f");
    put_number(f, t[WEIR_SLO_TPOT] * 1e3, "%.3f");
    put_number(f, t[WEIR_SLO_E2E] * 1e3, "%.3f");
    put_number(f, t[WEIR_SLO_ITL] * 1e3, "%.3f");
    put_number(f, r->queue_ms, "%.3f");
    put_number(f, r->prompt_tokens >= 0 ? r->prompt_tokens : NAN, "%.0f");
    put_number(f, r->cached_tokens >= 0 ? r->cached_tokens : NAN, "%.0f");
    fprintf(f, "%d,%s,%d,", r->output_tokens, r->counted_pieces ? "pieces" : "usage", r->pieces);
    put_number(f, r->tiers ? r->by_tier[0] : NAN, "%.0f");
    put_number(f, r->tiers ? r->by_tier[1] : NAN, "%.0f");
    put_number(f, r->right >= 0 ? r->right : NAN, "%.0f");
    /* a reason and a kind of error come from the server: quotes and breaks would break the row */
    for (const char *s = r->reason; *s; s++) fputc(strchr(",\"\r\n", *s) ? ' ' : *s, f);
    fputc(',', f);
    for (const char *s = r->error >= 0 ? out->error[r->error].what : ""; *s; s++)
      fputc(strchr(",\"\r\n", *s) ? ' ' : *s, f);
    fputc('\n', f);
  }
}

/* ---- files ---- */

weir_status weir_report_read(const char *path, json_t **out, weir_err *e) {
  json_error_t why;
  json_t *doc = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
  if (!doc) return weir_fail(e, WEIR_EFORMAT, "%s: not JSON: %s", path, why.text);
  const char *schema = text_at(doc, "schema");
  weir_status st = WEIR_OK;
  if (!json_is_object(doc) || !json_is_array(json_object_get(doc, "points")))
    st = weir_fail(e, WEIR_EFORMAT, "%s: not a file that weir-bench --json wrote", path);
  else if (strcmp(schema, WEIR_LOAD_SCHEMA) != 0)
    st = weir_fail(e, WEIR_EUNSUP, "%s: its schema is \"%.40s\", this weir-bench reads \"%s\"", path, schema,
                   WEIR_LOAD_SCHEMA);
  if (st != WEIR_OK) {
    json_decref(doc);
    return st;
  }
  *out = doc;
  return WEIR_OK;
}

weir_status weir_report_write(const char *path, const void *bytes, size_t n, weir_err *e) {
  FILE *f = strcmp(path, "-") ? fopen(path, "wb") : stdout;
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  const bool ok = fwrite(bytes, 1, n, f) == n;
  const int why = errno;
  const bool closed = f == stdout ? fflush(f) == 0 : fclose(f) == 0;
  return ok && closed ? WEIR_OK : weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(ok ? errno : why));
}
