/* SPDX-License-Identifier: Apache-2.0 */
/* Reports: what a run's records come to, the table, the page, CSV, the comparison of two runs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/plot.h"
#include "load/report.h"
#include "load/summary.h"
#include "load/timeline.h"

/* n requests, one each 10 ms, whose first token comes after 100 ms times `scale`, with some spread. */
static void make_result(weir_load_result *out, int n, double scale, uint64_t seed) {
  weir_rand r;
  weir_rand_init(&r, seed, 0);
  *out = (weir_load_result){.record = calloc((size_t)n, sizeof *out->record), .n = n, .cap = n};
  weir_samples_init(&out->itl, 0);
  for (int k = 0; k < WEIR_LOAD_TIERS; k++) weir_samples_init(&out->itl_tier[k], 0);
  weir_timeline_init(&out->timeline);
  for (int i = 0; i < n; i++) {
    const double ttft = scale * (0.1 + 0.02 * weir_rand_unit(&r)), tpot = scale * 0.01;
    const int64_t at = (int64_t)i * 10000000, first = at + (int64_t)(ttft * 1e9);
    out->record[i] = (weir_load_record){.item = i,
                                        .scheduled_ns = at,
                                        .sent_ns = at + 1000,
                                        .first_ns = first,
                                        .last_ns = first + (int64_t)(tpot * 10e9),
                                        .end_ns = first + (int64_t)(tpot * 10e9) + 1000,
                                        .longest_gap_ns = (int64_t)(tpot * 1e9),
                                        .pieces = 11,
                                        .prompt_tokens = 20,
                                        .output_tokens = 11,
                                        .by_tier = {8, 3},
                                        .tiers = true,
                                        .queue_ms = 1,
                                        .deferral_rate = NAN,
                                        .code = 200,
                                        .error = -1,
                                        .right = (int8_t)(i % 4 != 0)};
    for (int k = 0; k < 10; k++) {
      weir_samples_add(&out->itl, tpot, NULL);
      weir_timeline_add(&out->timeline, (double)first * 1e-9 + k * tpot, 1,
                        (const int32_t[WEIR_LOAD_TIERS]){k < 8, k >= 8});
    }
    out->wall_s = fmax(out->wall_s, (double)out->record[i].end_ns * 1e-9);
  }
}

static json_t *make_doc(int n_points, double scale, const char *slo_text, const char *label, uint64_t seed) {
  weir_slo slo;
  assert_int_equal(weir_slo_parse(slo_text, &slo, NULL), WEIR_OK);
  json_t *points = json_array();
  for (int i = 0; i < n_points; i++) {
    weir_load_result out;
    const weir_run_cfg cfg = {.concurrency = 1 << i, .entropy = NAN};
    make_result(&out, 400, scale * (1 + i), seed + (uint64_t)i);
    json_array_append_new(points, weir_summary_point(&cfg, &slo, &out));
    weir_load_result_fini(&out);
  }
  return json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:s, s:s}, s:{s:s}, s:o}", "schema", WEIR_LOAD_SCHEMA,
                   "label", label, "started", "2026-01-01T00:00:00Z", "target", "kind", "http", "url",
                   "http://x", "model", "m", "server", "s", "settings", "stop", "<b>&", "points", points);
}

static void test_point(void **state) {
  (void)state;
  json_t *doc = make_doc(1, 1, "ttft=110ms,tpot=20ms,error_rate<1%,tok_s>10", "a", 1);
  const json_t *p = json_array_get(json_object_get(doc, "points"), 0);
  assert_int_equal(weir_json_at(p, "requests.ok"), 400);
  assert_true(fabs(weir_json_at(p, "latency_ms.ttft.p50") - 110) < 2);
  assert_true(weir_json_at(p, "latency_ms.ttft.max") <= 120.001 &&
              weir_json_at(p, "latency_ms.ttft.min") >= 100);
  assert_true(fabs(weir_json_at(p, "latency_ms.tpot.p99") - 10) < 1e-3);
  assert_true(fabs(weir_json_at(p, "deferral_rate") - 3.0 / 11) < 1e-9);
  assert_true(fabs(weir_json_at(p, "exact_match.share") - 0.75) < 1e-9);
  const double wall = weir_json_at(p, "wall_s");
  assert_true(fabs(weir_json_at(p, "throughput.rps") - 400 / wall) < 1e-6);
  assert_true(fabs(weir_json_at(p, "throughput.output_tok_s") - 4400 / wall) < 1e-6);
  assert_true(fabs(weir_json_at(p, "throughput.total_tok_s") - 400 * 31 / wall) < 1e-6);
  const double share = weir_json_at(p, "goodput.share"); /* half the first tokens come within 110 ms */
  assert_true(share > .4 && share < .6);
  assert_true(fabs(weir_json_at(p, "goodput.rps") - share * 400 / wall) < 1e-6);
  assert_false(weir_summary_met(p));
  const json_t *terms = json_object_get(json_object_get(p, "slo"), "terms");
  assert_int_equal(json_array_size(terms), 3); /* the two of each request are one */
  assert_true(json_is_true(json_object_get(json_array_get(terms, 0), "met")));
  assert_true(json_is_true(json_object_get(json_array_get(terms, 1), "met")));
  assert_true(json_is_false(json_object_get(json_array_get(terms, 2), "met")));
  assert_int_equal(json_array_size(json_object_get(json_object_get(json_object_get(p, "latency_ms"), "ttft"),
                                                   "quantiles")),
                   101);
  /* as many requests run in the middle as arrive during one's life: 210 ms of 10 ms each */
  const json_t *running = json_object_get(json_object_get(p, "timeline"), "running");
  const double mid = json_number_value(json_array_get(running, json_array_size(running) / 2));
  if (fabs(mid - 21) > 1.5) fail_msg("%g run", mid);
  json_decref(doc);
}

/* What did not end well has no latency, but counts against the share of good ones; what was broken off does
 * not. */
static void test_outcomes(void **state) {
  (void)state;
  weir_load_result out;
  weir_slo slo;
  const weir_run_cfg cfg = {.concurrency = 1, .entropy = NAN};
  make_result(&out, 100, 1, 1);
  for (int i = 0; i < 10; i++) out.record[i].outcome = WEIR_LOAD_ERROR;
  for (int i = 10; i < 30; i++) out.record[i].outcome = WEIR_LOAD_CANCELLED;
  for (int i = 30; i < 35; i++) out.record[i].outcome = WEIR_LOAD_CUT;
  for (int i = 35; i < 40; i++) out.record[i].slow = true;
  out.unsent = 5;
  assert_int_equal(weir_slo_parse("ttft=1s", &slo, NULL), WEIR_OK);
  json_t *p = weir_summary_point(&cfg, &slo, &out);
  assert_int_equal(weir_json_at(p, "requests.ok"), 65);
  assert_int_equal(weir_json_at(p, "latency_ms.e2e.n"), 60);
  assert_int_equal(weir_json_at(p, "latency_ms.ttft.n"), 85); /* broken off and cut had one */
  assert_true(fabs(weir_json_at(p, "requests.error_rate") - 20.0 / 85) < 1e-9); /* cut and unsent too */
  assert_int_equal(weir_json_at(p, "requests.unanswered"), 10);
  assert_true(fabs(weir_json_at(p, "goodput.share") - 60.0 / 80) <
              1e-9); /* 60 good, 10 errors, 5 cut, 5 unsent */
  json_decref(p);
  weir_load_result_fini(&out);
}

/* Half of the requests have no answer: the first tokens of the others are quick, and no objective is met that
 * needs more than that half. */
static void test_unanswered(void **state) {
  (void)state;
  enum { CUT, CUT_LATER, UNSENT, TIMEOUT, INTERRUPTED };
  static const struct {
    int how;
    const char *slo;
    bool met;
  } row[] = {{CUT, "ttft_p99<500ms", false},
             {CUT, "ttft_p40<500ms", true},
             {CUT, "e2e_p60<9s", false},
             {CUT, "ttft_max<9s", false},
             {CUT, "tpot_mean<9s", false},
             {CUT, "error_rate<40%", false},
             {CUT, "error_rate<60%", true},
             {CUT_LATER, "ttft_p99<500ms", true},
             {CUT_LATER, "e2e_p99<9s", false},
             {CUT_LATER, "tpot_p99<9s", false},
             {UNSENT, "ttft_p99<500ms", false},
             {UNSENT, "error_rate<40%", false},
             {TIMEOUT, "ttft_p99<500ms", false},
             {TIMEOUT, "error_rate<40%", false},
             {INTERRUPTED, "ttft_p99<500ms", true},
             {INTERRUPTED, "error_rate<40%", true}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    weir_load_result out;
    weir_slo slo;
    weir_buf text = {0};
    const weir_run_cfg cfg = {.concurrency = 1, .entropy = NAN};
    make_result(&out, 100, 1, 1);
    out.interrupted = row[k].how == INTERRUPTED;
    if (row[k].how == UNSENT) {
      out.n = 50;
      out.unsent = 50;
    }
    for (int64_t i = 0; i < out.n && row[k].how != UNSENT; i += 2) {
      weir_load_record *r = &out.record[i];
      r->outcome = row[k].how == TIMEOUT ? WEIR_LOAD_ERROR : WEIR_LOAD_CUT;
      r->gave_up = row[k].how == TIMEOUT;
      if (row[k].how != CUT_LATER) r->first_ns = r->last_ns = -1;
    }
    assert_int_equal(weir_slo_parse(row[k].slo, &slo, NULL), WEIR_OK);
    json_t *p = weir_summary_point(&cfg, &slo, &out);
    if (weir_summary_met(p) != row[k].met) fail_msg("row %zu, %s: %d", k, row[k].slo, weir_summary_met(p));
    assert_true(weir_json_at(p, "latency_ms.e2e.max") < 1000); /* what is shown stays what was measured */
    json_t *doc = json_pack("{s:s, s:[o]}", "schema", WEIR_LOAD_SCHEMA, "points", p);
    assert_int_equal(weir_report_table(doc, &text, NULL), WEIR_OK);
    const bool told = row[k].how != TIMEOUT && row[k].how != INTERRUPTED;
    if ((strstr(text.data, "not answered  50:") != NULL) != told) fail_msg("row %zu:\n%s", k, text.data);
    if (!strncmp(row[k].slo, "ttft_p99", 8) && !row[k].met)
      assert_non_null(strstr(text.data, "ttft_p99<500ms: longer than any"));
    assert_null(strstr(text.data, "nan"));
    assert_null(strstr(text.data, "inf"));
    weir_buf_truncate(&text, 0);
    assert_int_equal(weir_report_html(&doc, 1, &text, NULL), WEIR_OK);
    assert_int_equal(strstr(text.data, "not answered") != NULL, told);
    weir_buf_fini(&text);
    json_decref(doc);
    weir_load_result_fini(&out);
  }
}

static void test_share_interval(void **state) {
  (void)state;
  double lo, hi; /* Newcombe 1998, table I, method 3: 81 of 263; 0 of 20 */
  weir_share_interval(81, 263, &lo, &hi);
  assert_true(fabs(lo - .2553) < 5e-5 && fabs(hi - .3662) < 5e-5);
  weir_share_interval(0, 20, &lo, &hi);
  assert_true(lo == 0 && fabs(hi - .1611) < 5e-5);
}

static void test_table(void **state) {
  (void)state;
  weir_buf b = {0};
  json_t *doc = make_doc(1, 1, "ttft=110ms", "one", 1);
  assert_int_equal(weir_report_table(doc, &b, NULL), WEIR_OK);
  static const char *const want[] = {"one, http://x",     "concurrency 1",        "first token (TTFT)",
                                     "400 sent, 400 ok",  "exact match   0.750",  "deferral rate 0.273",
                                     "SLO           NOT", "as the server's usage"};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++)
    if (!strstr(b.data, want[i])) fail_msg("no \"%s\" in\n%s", want[i], b.data);
  json_decref(doc);
  doc = make_doc(3, 1, "", "many", 1);
  json_object_set_new(doc, "sweep", json_string("concurrency"));
  json_object_set_new(doc, "knee", json_integer(1));
  weir_buf_truncate(&b, 0);
  assert_int_equal(weir_report_table(doc, &b, NULL), WEIR_OK);
  assert_non_null(strstr(b.data, "> concurrency 2"));
  assert_non_null(strstr(b.data, "knee: concurrency 2"));
  json_decref(doc);
  weir_buf_fini(&b);
}

static int count_of(const char *text, const char *word) {
  int n = 0;
  for (const char *s = text; (s = strstr(s, word)); s++) n++;
  return n;
}

/* The page is whole, needs nothing from outside, shows no number that is none, and what servers say stays
 * text. */
static void test_html(void **state) {
  (void)state;
  json_t *doc[2] = {make_doc(3, 1, "ttft=110ms", "<script>alert(1)</script>", 1),
                    make_doc(1, 2, "", "other", 9)};
  json_object_set_new(doc[0], "knee", json_integer(2));
  for (int n = 1; n <= 2; n++) {
    weir_buf b = {0};
    assert_int_equal(weir_report_html(doc, n, &b, NULL), WEIR_OK);
    assert_null(strstr(b.data, "<script"));
    assert_non_null(strstr(b.data, "&lt;script&gt;"));
    assert_null(strstr(b.data, "src="));
    assert_null(strstr(b.data, "href="));
    assert_null(strstr(b.data, "url("));
    assert_null(strstr(b.data, "nan"));
    assert_null(strstr(b.data, "inf"));
    assert_non_null(strstr(b.data, "prefers-color-scheme:dark"));
    static const char *const pairs[][2] = {
        {"<svg", "</svg>"}, {"<figure", "</figure>"}, {"<table", "</table>"}, {"<div", "</div>"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
      assert_int_equal(count_of(b.data, pairs[i][0]), count_of(b.data, pairs[i][1]));
    assert_true(count_of(b.data, "<figure") >= 8);
    weir_buf_fini(&b);
  }
  json_decref(doc[0]);
  json_decref(doc[1]);
}

static void test_html_empty(void **state) {
  (void)state;
  weir_buf b = {0};
  json_t *doc = json_pack("{s:s, s:[]}", "schema", WEIR_LOAD_SCHEMA, "points");
  assert_int_equal(weir_report_html(&doc, 1, &b, NULL), WEIR_OK);
  assert_int_equal(count_of(b.data, "<figure"), 0);
  assert_int_equal(weir_report_table(doc, &b, NULL), WEIR_OK);
  json_decref(doc);
  weir_buf_fini(&b);
}

static void test_ticks(void **state) {
  (void)state;
  static const struct {
    double lo, hi;
    bool log;
    int n;
    double first, last;
  } row[] = {{0, 10, false, 6, 0, 10}, {0, 1, false, 6, 0, 1}, {-.2, .93, false, 6, -.2, .8},
             {0, 3, true, 4, 0, 3},    {0, 1, true, 4, 0, 1},  {37, 38, false, 6, 37, 38}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    double t[12];
    const int32_t n = weir_plot_ticks(row[k].lo, row[k].hi, row[k].log, t);
    if (n != row[k].n || fabs(t[0] - row[k].first) > 1e-9 || fabs(t[n - 1] - row[k].last) > 1e-9)
      fail_msg("row %zu: %d ticks from %g to %g", k, n, n > 0 ? t[0] : NAN, n > 0 ? t[n - 1] : NAN);
  }
}

/* A server whose speed wanders: what is slow now is slow for the next ones too (an autoregression of the
 * requests' paces, whose correlation falls to a third over ten requests). Eight at a time, closed loop. */
static json_t *make_wandering(uint64_t seed, double scale) {
  enum { N = 1000, AT_ONCE = 8, TOKENS = 11 };
  static const double keeps = 0.9;
  weir_load_result out = {.record = calloc(N, sizeof *out.record), .n = N, .cap = N};
  const weir_run_cfg cfg = {.concurrency = AT_ONCE, .entropy = NAN};
  weir_rand r;
  double z = 0, at = 0;
  weir_rand_init(&r, seed, 12);
  weir_samples_init(&out.itl, 0);
  weir_timeline_init(&out.timeline);
  z = weir_rand_normal(&r);
  for (int i = 0; i < N; i++) {
    z = keeps * z + sqrt(1 - keeps * keeps) * weir_rand_normal(&r);
    const double pace = scale * exp(0.3 * z), ttft = pace * 0.1 * exp(0.1 * weir_rand_normal(&r));
    double t = at + ttft;
    out.record[i] = (weir_load_record){.item = i,
                                       .scheduled_ns = (int64_t)(at * 1e9),
                                       .sent_ns = (int64_t)(at * 1e9),
                                       .first_ns = (int64_t)(t * 1e9),
                                       .prompt_tokens = 20,
                                       .output_tokens = TOKENS,
                                       .queue_ms = NAN,
                                       .deferral_rate = NAN,
                                       .code = 200,
                                       .error = -1,
                                       .right = -1};
    weir_timeline_add(&out.timeline, t, 1, NULL);
    for (int k = 1; k < TOKENS; k++) {
      const double gap = 0.01 * pace * exp(0.1 * weir_rand_normal(&r));
      t += gap;
      weir_samples_add(&out.itl, gap, NULL);
      weir_timeline_add(&out.timeline, t, 1, NULL);
    }
    out.record[i].last_ns = out.record[i].end_ns = (int64_t)(t * 1e9);
    out.wall_s = fmax(out.wall_s, t);
    at += (t - at) / AT_ONCE;
  }
  json_t *point = weir_summary_point(&cfg, &(weir_slo){0}, &out);
  weir_load_result_fini(&out);
  return json_pack("{s:s, s:s, s:[o]}", "schema", WEIR_LOAD_SCHEMA, "label", "x", "points", point);
}

/* Rows called different, of all rows of `pairs` comparisons. */
static int called(int pairs, double scale, int *rows) {
  int n = 0;
  for (int k = 0; k < pairs; k++) {
    weir_buf text = {0};
    json_t *a = make_wandering(2 * (uint64_t)k + 1, 1), *b = make_wandering(2 * (uint64_t)k + 2, scale);
    assert_int_equal(weir_report_compare(a, b, &text, NULL), WEIR_OK);
    const int better = count_of(text.data, "  better\n"), worse = count_of(text.data, "  worse\n");
    n += better + worse;
    *rows += better + worse + count_of(text.data, "  within noise\n");
    weir_buf_fini(&text);
    json_decref(a);
    json_decref(b);
  }
  return n;
}

/* Two runs of the same server are not told apart, though its speed wanders within each; half as fast again is
 * told everywhere. */
static void test_compare_same(void **state) {
  (void)state;
  int rows = 0;
  int n = called(60, 1, &rows);
  assert_int_equal(rows, 60 * 10); /* four times with two percentiles each, two rates */
  if (n > 30) fail_msg("%d of %d rows called different", n, rows);
  rows = 0;
  n = called(10, 1.5, &rows);
  if (n < rows * 9 / 10) fail_msg("%d of %d rows of slower runs called different", n, rows);
}

static void compare(json_t *a, json_t *b, const char *line, const char *verdict) {
  weir_buf out = {0};
  weir_err e = {0};
  if (weir_report_compare(a, b, &out, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const char *at = strstr(out.data, line);
  if (!at) fail_msg("no %s in\n%s", line, out.data);
  char row[200];
  snprintf(row, sizeof row, "%.*s", (int)strcspn(at, "\n"), at);
  if (!strstr(row, verdict)) fail_msg("%s: want %s", row, verdict);
  weir_buf_fini(&out);
}

static void test_compare(void **state) {
  (void)state;
  json_t *a = make_doc(2, 1, "", "a", 1), *same = make_doc(2, 1, "", "b", 50),
         *slow = make_doc(2, 1.5, "", "c", 1);
  compare(a, same, "TTFT p50", "within noise");
  compare(a, same, "exact match", "within noise");
  compare(a, slow, "TTFT p50", "worse");
  compare(a, slow, "TTFT p50", "1.5");
  compare(slow, a, "TTFT p50", "better");
  compare(slow, a, "TTFT p50", "0.66");
  json_t *other = make_doc(1, 1, "", "d", 1);
  compare(a, other, "concurrency 1\n", ""); /* what they have in common */
  weir_buf out = {0};
  weir_err e = {0};
  json_object_set_new(other, "schema", json_string("weir.load.v9"));
  assert_int_equal(weir_report_compare(a, other, &out, &e), WEIR_EUNSUP);
  assert_non_null(strstr(e.msg, "weir.load.v9"));
  json_object_set_new(other, "schema", json_string(WEIR_LOAD_SCHEMA));
  json_object_set_new(json_object_get(json_array_get(json_object_get(other, "points"), 0), "load"),
                      "concurrency", json_integer(99));
  weir_buf_truncate(&out, 0);
  assert_int_equal(weir_report_compare(a, other, &out, &e), WEIR_EINVAL); /* two points against another one */
  weir_buf_fini(&out);
  json_decref(a);
  json_decref(same);
  json_decref(slow);
  json_decref(other);
}

static void test_files(void **state) {
  (void)state;
  static const struct {
    const char *text;
    weir_status st;
    const char *why;
  } row[] = {{"{\"schema\": \"weir.load.v1\", \"points\": []}", WEIR_OK, ""},
             {"{\"schema\": \"weir.load.v2\", \"points\": []}", WEIR_EUNSUP, "weir.load.v2"},
             {"{\"schema\": \"weir.load.v1\"}", WEIR_EFORMAT, "not a file"},
             {"[]", WEIR_EFORMAT, "not a file"},
             {"{", WEIR_EFORMAT, ""}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    char path[] = "/tmp/weir-bench-XXXXXX";
    weir_err e = {0};
    json_t *doc = NULL;
    close(mkstemp(path));
    assert_int_equal(weir_report_write(path, row[k].text, strlen(row[k].text), &e), WEIR_OK);
    const weir_status st = weir_report_read(path, &doc, &e);
    unlink(path);
    if (st != row[k].st || (st != WEIR_OK && (!strstr(e.msg, row[k].why) || !strstr(e.msg, path))))
      fail_msg("%zu: %s", k, e.msg);
    json_decref(doc);
  }
  weir_err e = {0};
  assert_int_equal(weir_report_write("/nowhere/at/all", "", 0, &e), WEIR_EIO);
}

static void test_csv(void **state) {
  (void)state;
  weir_load_result out;
  char *text = NULL;
  size_t len = 0;
  make_result(&out, 3, 1, 1);
  out.n_errors = 1;
  snprintf(out.error[0].what, sizeof out.error[0].what, "a,b\n\"c");
  out.record[2].error = 0;
  FILE *f = open_memstream(&text, &len);
  weir_report_csv_head(f);
  weir_report_csv(f, 7, &out);
  fclose(f);
  int lines = 0;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
    int commas = 0;
    for (const char *s = line; *s; s++) commas += *s == ',';
    assert_int_equal(commas, 25);
  }
  assert_int_equal(lines, 4);
  free(text);
  weir_load_result_fini(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_point), cmocka_unit_test(test_outcomes), cmocka_unit_test(test_share_interval),
      cmocka_unit_test(test_table), cmocka_unit_test(test_html),     cmocka_unit_test(test_html_empty),
      cmocka_unit_test(test_ticks), cmocka_unit_test(test_compare),  cmocka_unit_test(test_compare_same),
      cmocka_unit_test(test_files), cmocka_unit_test(test_csv),      cmocka_unit_test(test_unanswered),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
