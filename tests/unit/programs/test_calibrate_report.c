/* SPDX-License-Identifier: Apache-2.0 */
/* The report of a calibration, of results made up here: a page whose tags are balanced, whose texts from
 * outside are escaped, without a number that is none, and which says what the results say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "programs/calibrate.h"

#define EVIL "a<b>&\"c\"</title><script>x\x01.jsonl"

/* Every tag is closed by its own, in order; attributes have their quotes; "&" begins an entity. Elements
 * without an end are written with "/>" (meta), as XML has them. */
static void check_markup(const char *s) {
  char stack[64][16];
  int depth = 0, most = 0;
  for (const char *p = s; *p; p++) {
    if (*p == '&') {
      const size_t n = strcspn(p, ";< \n");
      assert_true(p[n] == ';' && n > 1 && n < 10);
      continue;
    }
    if (*p != '<' || !strncmp(p, "<!doctype", 9)) continue;
    const int closing = p[1] == '/';
    char name[16] = "";
    const char *at = p + 1 + closing, *end = at;
    sscanf(at, "%15[a-z0-9]", name);
    if (!name[0]) fail_msg("a bare < before: %.40s", p);
    for (char quote = 0; *end && (quote || *end != '>'); end++) { /* attributes */
      if (*end == '"') quote = quote ? 0 : '"';
      if (*end == '<') fail_msg("a < inside a tag: %.60s", p);
    }
    assert_true(*end == '>');
    if (closing) {
      if (depth == 0 || strcmp(stack[depth - 1], name) != 0)
        fail_msg("</%s> closes <%s>: %.60s", name, depth ? stack[depth - 1] : "", p);
      depth--;
    } else if (end[-1] != '/') {
      assert_true(depth < 64);
      snprintf(stack[depth++], sizeof stack[0], "%s", name);
      most = depth > most ? depth : most;
    }
    if (!closing && !strcmp(name, "style")) { /* its text is no markup */
      p = strstr(end, "</style>");
      assert_non_null(p);
      p--;
      continue;
    }
    p = end;
  }
  assert_int_equal(depth, 0);
  assert_true(most > 3);
}

static void fill_point(weir_cal_point *p, const char *label, double setting, double share) {
  *p = (weir_cal_point){.runnable = true,
                        .setting = setting,
                        .deferral_rate = share,
                        .same_text = 0.3 + 0.7 * share,
                        .token_loss = 0.05 * (1 - share),
                        .flops = 1e7 * (1 + share),
                        .weight_bytes = 1e6 * (0.1 + share),
                        .kv_bytes = 4096,
                        .ns = 1e5 * (0.2 + share),
                        .speedup = 1.2 / (0.2 + share),
                        .pareto = share > 0.5};
  snprintf(p->label, sizeof p->label, "%s %g", label, setting);
}

/* Curves of every kind, most of them of several points. */
static void make_curves(weir_calibration *r) {
  static const struct {
    weir_curve_kind kind;
    const char *label;
    int n;
  } kinds[] = {
      {WEIR_CURVE_LARGE, "large", 1},       {WEIR_CURVE_SMALL, "small", 1},
      {WEIR_CURVE_GATE, "entropy", 7},      {WEIR_CURVE_GATE, "isotonic<&>", 5},
      {WEIR_CURVE_CHANCE, "chance", 6},     {WEIR_CURVE_ORACLE, "oracle", 1},
      {WEIR_CURVE_EXACT, "exact", 4},       {WEIR_CURVE_SPECULATE, "v3", 5},
      {WEIR_CURVE_ROLLBACK, "rollback", 3},
  };
  enum { N = sizeof kinds / sizeof *kinds };
  r->curve = calloc(N, sizeof *r->curve);
  assert_non_null(r->curve);
  r->n_curves = N;
  for (int i = 0; i < N; i++) {
    weir_cal_curve *c = &r->curve[i];
    c->kind = kinds[i].kind;
    c->auroc = c->kind == WEIR_CURVE_GATE ? 0.9 + 0.01 * i : NAN;
    snprintf(c->label, sizeof c->label, "%s", kinds[i].label);
    c->point = calloc((size_t)kinds[i].n, sizeof *c->point);
    assert_non_null(c->point);
    c->n = kinds[i].n;
    for (int k = 0; k < c->n; k++) fill_point(&c->point[k], c->label, 0.1 * (k + 1), (double)k / c->n);
  }
  r->curve[2].point[0].setting = INFINITY; /* a threshold of never */
  r->curve[3].point[1].speedup = NAN;
}

static void make_result(weir_calibration *r) {
  *r = (weir_calibration){.when = "2026-01-02T03:04:05Z",
                          .version = "0.0 (<test>)",
                          .data = EVIL,
                          .small = "models/" EVIL,
                          .large = EVIL,
                          .device = "cpu & co",
                          .batch = 8,
                          .n_texts = 300,
                          .n_tokens = 12345,
                          .agreement = 0.94,
                          .entropy = {0.17, 0.08},
                          .n_replayed = 150};
  make_curves(r);
  weir_cal_choice *c = &r->choice;
  c->found = true;
  c->level = 0.02;
  c->threshold = 0.3;
  c->opts = (weir_cascade_opts){.mode = WEIR_MODE_DEFER};
  c->n = 150;
  c->n_enough = 49;
  c->risk = 0.012;
  c->n_grid = 500;
  c->grid = calloc(500, sizeof(double));
  c->grid_risk = calloc(500, sizeof(double));
  assert_non_null(c->grid);
  assert_non_null(c->grid_risk);
  for (int i = 0; i < 500; i++) {
    c->grid[i] = i == 0 ? -1 : i == 499 ? INFINITY : 0.005 * i;
    c->grid_risk[i] = 1e-4 * i;
  }
  snprintf(c->guarantee, sizeof c->guarantee, "The guarantee: loss < level & nothing else.");
  r->confirm = (weir_cal_confirm){.ran = true,
                                  .n = 150,
                                  .loss = 0.013,
                                  .loss_error = 0.004,
                                  .holds = true,
                                  .predicted_speedup = 1.9,
                                  .predicted_exact = NAN,
                                  .exact_window = 4};
  weir_cal_run *const run[] = {&r->confirm.large, &r->confirm.small, &r->confirm.chosen, &r->confirm.exact};
  for (int i = 0; i < 3; i++) /* exact did not run */
    *run[i] = (weir_cal_run){.ran = true,
                             .n = 150,
                             .n_right = 80 + i,
                             .exact = 0.55,
                             .lo = 0.5,
                             .hi = 0.6,
                             .same_text = 0.9,
                             .tok_s = 1000,
                             .speedup = 1.5,
                             .deferral_rate = 0.1};
  r->cost.n = 3;
  for (int i = 0; i < 3; i++) {
    r->cost.rows[i] = 1 << i;
    for (int t = 0; t < 2; t++) {
      r->cost.ns[t][i] = 1e4 * (t + 1) * (i + 1);
      r->cost.ns_all[t][i] = 1.2e4 * (t + 1) * (i + 1);
    }
  }
  r->drift.bin_width = 0.0625;
  for (int i = 0; i < WEIR_CAL_BINS; i++) {
    r->drift.count[i] = i < 40 ? 1000 / (i + 1) : 0;
    r->drift.differ[i] = r->drift.count[i] * i / 80;
    r->drift.n += r->drift.count[i];
  }
  r->reliability.n = 3;
  for (int i = 0; i < 3; i++) {
    r->reliability.predicted[i] = 0.1 + 0.3 * i;
    r->reliability.observed[i] = 0.12 + 0.3 * i;
    r->reliability.rows[i] = 100;
  }
}

static char *report_of(const weir_calibration *r) {
  weir_buf b = {0};
  weir_err e = {0};
  if (weir_calibrate_report(r, &b, &e) != WEIR_OK) fail_msg("%s", e.msg);
  check_markup(b.data);
  /* what came from outside stays text */
  assert_null(strstr(b.data, "<script"));
  assert_null(strstr(b.data, "<b>&\"c"));
  assert_non_null(strstr(b.data, "a&lt;b&gt;&amp;&quot;c&quot;"));
  static const char *const never[] = {">nan", " nan", "-nan", "inf ", "\"inf", "\"nan", "\x01"};
  for (size_t i = 0; i < sizeof never / sizeof *never; i++)
    if (strstr(b.data, never[i])) fail_msg("\"%s\" in the page: %.80s", never[i], strstr(b.data, never[i]));
  return b.data;
}

static int count_of(const char *s, const char *what) {
  int n = 0;
  for (const char *p = s; (p = strstr(p, what)); p += strlen(what)) n++;
  return n;
}

static void test_whole(void **state) {
  (void)state;
  weir_calibration r;
  make_result(&r);
  char *html = report_of(&r);
  static const char *const has[] = {"weir serve --mode defer --entropy 0.3<",
                                    "loss &lt; level &amp; nothing else",
                                    "within the level of 0.02",
                                    "isotonic&lt;&amp;&gt; 0.930",
                                    "Predicted against observed",
                                    "Time of a step",
                                    "0.0 (&lt;test&gt;)",
                                    "cpu &amp; co"};
  for (size_t i = 0; i < sizeof has / sizeof *has; i++)
    if (!strstr(html, has[i])) fail_msg("not in the page: %s", has[i]);
  int points = 0;
  for (int i = 0; i < r.n_curves; i++) points += r.curve[i].n;
  /* a row for every setting, three for runs, two for models, three heads */
  assert_int_equal(count_of(html, "<tr"), points + 3 + 2 + 3);
  assert_int_equal(count_of(html, "<figure"), 4 + 1 + 3 + 1);
  free(html);
  weir_calibration_fini(&r);
}

/* What is not there leaves no hole; what went wrong is said. */
static void test_parts_missing(void **state) {
  (void)state;
  weir_calibration r;
  make_result(&r);
  r.confirm.holds = false;
  char *html = report_of(&r);
  assert_non_null(strstr(html, "above the level"));
  assert_non_null(strstr(html, "does not hold here"));
  free(html);
  r.choice.found = false;
  r.confirm.ran = false;
  r.reliability.n = 0;
  r.cost.n = 0;
  r.drift.n = 0;
  html = report_of(&r);
  assert_non_null(strstr(html, "weir serve --mode large"));
  assert_null(strstr(html, "Confirmed"));
  assert_null(strstr(html, "Why the gate can know"));
  assert_int_equal(count_of(html, "<figure"), 5);
  free(html);
  weir_calibration_fini(&r);
  /* nothing at all */
  weir_calibration none = {.choice = {.threshold = NAN}, .data = EVIL};
  free(report_of(&none));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_parts_missing)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
