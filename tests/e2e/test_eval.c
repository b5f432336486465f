/* SPDX-License-Identifier: Apache-2.0 */
/* `weir eval`: the rule that finds an answer, rows that agree with the answers logged, the summary's keys,
 * the drawing. Nothing here looks at a speed but for its being there. */
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

#include "e2e.h"

static double number(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_number(v)) fail_msg("%s is not a number", key);
  return json_number_value(v);
}

static const char *string(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_string(v)) fail_msg("%s is not a string", key);
  return json_string_value(v);
}

/* Rows say what the answers logged say. */
static void test_rows(void **state) {
  (void)state;
  enum { TASKS = 12 };
  const char *log = e2e_temp("answers.jsonl");
  json_t *all = e2e_json_of(
      "eval models/tasks-valid.jsonl -q --json --limit %d --entropy inf,0.4,-1 --answers %s", TASKS, log);
  json_t *rows = e2e_of_schema(all, "weir.eval.row.v1"), *answers = json_array();
  assert_int_equal(json_array_size(rows), 5);
  char *text = e2e_read(log);
  for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n"))
    json_array_append_new(answers, json_loads(p, 0, NULL));
  free(text);
  assert_int_equal(json_array_size(answers), 5 * TASKS);
  for (size_t i = 0; i < 5; i++) {
    const json_t *r = json_array_get(rows, i);
    int right = 0, tokens = 0;
    for (size_t k = 0; k < TASKS; k++) {
      const json_t *a = json_array_get(answers, i * TASKS + k);
      const bool same = !strcmp(string(a, "found"), string(a, "answer"));
      assert_int_equal(same, json_is_true(json_object_get(a, "right")));
      right += same;
      tokens += (int)number(a, "tokens");
    }
    assert_true(fabs(number(r, "exact_match") - (double)right / TASKS) < 1e-6);
    assert_int_equal((int)number(r, "tokens"), tokens);
    assert_true(number(r, "tok_s") > 0 && number(r, "seconds") > 0);
    const double rate = number(r, "deferral_rate");
    assert_true(rate >= 0 && rate <= 1);
  }
  /* the ends are the models alone: rows are small, large, tau inf, 0.4, -1 */
  const json_t *row[5];
  for (size_t i = 0; i < 5; i++) row[i] = json_array_get(rows, i);
  assert_string_equal(string(row[0], "mode"), "small");
  assert_string_equal(string(row[1], "mode"), "large");
  assert_true(number(row[0], "deferral_rate") == 0 && number(row[2], "deferral_rate") == 0);
  assert_true(number(row[1], "deferral_rate") == 1 && number(row[4], "deferral_rate") == 1);
  assert_true(number(row[3], "deferral_rate") > 0 && number(row[3], "deferral_rate") < 1);
  for (size_t k = 0; k < TASKS; k++) {
    assert_string_equal(string(json_array_get(answers, k), "text"),
                        string(json_array_get(answers, 2 * TASKS + k), "text"));
    assert_string_equal(string(json_array_get(answers, TASKS + k), "text"),
                        string(json_array_get(answers, 4 * TASKS + k), "text"));
  }
  json_decref(answers);
  json_decref(rows);
  json_decref(all);
}

static void test_chance(void **state) {
  (void)state;
  json_t *all = e2e_json_of("eval models/tasks-valid.jsonl -q --json --limit 40 --entropy 0.4 --random");
  const json_t *gated = json_array_get(all, 2), *chance = json_array_get(all, 3);
  assert_true(json_is_true(json_object_get(chance, "chance")));
  const double want = number(gated, "deferral_rate"), got = number(chance, "deferral_rate");
  assert_true(fabs(number(chance, "tau") - want) < 1e-6);
  if (fabs(got - want) > 0.1) fail_msg("chance defers %.3f, want about %.3f", got, want);
  json_decref(all);
}

/* Mode route: each answer is one model's, as many are the large one's as the row says, fewer where the share
 * is higher; the control sends as many up by a coin each, and tells its rate. */
static void test_route(void **state) {
  (void)state;
  enum { TASKS = 20, SHARES = 3, ROWS = 2 + 2 * SHARES };
  static const double share[SHARES] = {0, 0.1, 1};
  const char *log = e2e_temp("routed.jsonl");
  json_t *all = e2e_json_of(
      "eval models/tasks-valid.jsonl -q --json --limit %d --mode route --entropy 0.8 "
      "--route-prompt 0 --route-after end --route-share 0,0.1,1 --random "
      "--answers %s",
      TASKS, log);
  json_t *rows = e2e_of_schema(all, "weir.eval.row.v1"), *answers = json_array();
  char *text = e2e_read(log);
  for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n"))
    json_array_append_new(answers, json_loads(p, 0, NULL));
  free(text);
  assert_int_equal(json_array_size(rows), ROWS);
  assert_int_equal(json_array_size(answers), ROWS * TASKS);
  double last = 1;
  for (size_t i = 0; i < ROWS; i++) {
    const json_t *r = json_array_get(rows, i);
    if (i < 2) {
      assert_true(json_is_null(json_object_get(r, "routed_share")) &&
                  json_is_null(json_object_get(r, "route_share")));
      continue;
    }
    const bool coin = i % 2;
    const double up = number(r, "routed_share"), n_up = up * TASKS;
    int of_large = 0, of_both = 0, tokens_large = 0, tokens_both = 0;
    for (size_t k = 0; k < TASKS; k++) {
      const json_t *a = json_array_get(answers, i * TASKS + k);
      const bool as_small = !strcmp(string(a, "text"), string(json_array_get(answers, k), "text"));
      const bool as_large = !strcmp(string(a, "text"), string(json_array_get(answers, TASKS + k), "text"));
      if (!as_small && !as_large) fail_msg("row %zu, task %zu: neither model's text", i, k);
      of_large += !as_small;
      of_both += as_small && as_large;
      tokens_large += as_small ? 0 : (int)number(a, "tokens");
      tokens_both += as_small && as_large ? (int)number(a, "tokens") : 0;
    }
    assert_true(fabs(n_up - round(n_up)) < 1e-6 && n_up >= of_large && n_up <= of_large + of_both);
    const double deferred = number(r, "deferral_rate") * number(r, "tokens");
    assert_true(deferred > tokens_large - 0.01 && deferred < tokens_large + tokens_both + 0.01);
    assert_int_equal(json_is_true(json_object_get(r, "chance")), coin);
    if (coin) {
      const double rate = number(json_array_get(rows, i - 1), "routed_share");
      assert_true(fabs(number(r, "tau") - rate) < 1e-6);
      if (fabs(up - rate) > 4 * sqrt(rate * (1 - rate) / TASKS) + 1e-6)
        fail_msg("row %zu: by a coin of %.3f %.3f went up", i, rate, up);
      continue;
    }
    assert_true(fabs(number(r, "route_share") - share[i / 2 - 1]) < 1e-6);
    assert_true(up <= last);
    last = up;
  }
  const double most = number(json_array_get(rows, 2), "routed_share"),
               some = number(json_array_get(rows, 4), "routed_share");
  assert_true(most > some && some > 0 && last == 0);
  json_decref(answers);
  json_decref(rows);
  json_decref(all);
}

/* --defer-rate: the share of tokens of all tasks, within the bound that the tracker has; the pair's entropies
 * lie below 6 nats, and its threshold moves by 0.05. */
static void test_defer_rate(void **state) {
  (void)state;
  static const double rate[] = {0.05, 0.1, 0.3};
  json_t *all = e2e_json_of("eval models/tasks-valid.jsonl -q --json --limit 40 --defer-rate 0.05,0.1,0.3");
  for (size_t i = 0; i < 3; i++) {
    const json_t *r = json_array_get(all, 2 + i);
    const double got = number(r, "deferral_rate"), limit = 6.05 / (0.05 * number(r, "tokens"));
    print_message("  rate %g: %g of %g tokens, tau %g at the end, exact match %g\n", rate[i], got,
                  number(r, "tokens"), number(r, "tau"), number(r, "exact_match"));
    assert_true(fabs(number(r, "defer_rate") - rate[i]) < 1e-6);
    if (fabs(got - rate[i]) > limit) fail_msg("deferred %g, want %g within %g", got, rate[i], limit);
  }
  /* more is deferred where more is asked for, by a lower threshold */
  const json_t *few = json_array_get(all, 2), *many = json_array_get(all, 4);
  assert_true(number(few, "deferral_rate") < number(many, "deferral_rate"));
  assert_true(json_is_null(json_object_get(json_array_get(all, 0), "defer_rate")));
  json_decref(all);
  /* a bucket of one for each task takes some of them away */
  all = e2e_json_of(
      "eval models/tasks-valid.jsonl -q --json --limit 12 --defer-rate 0.3 --defer-burst 1 --gate margin");
  assert_true(number(json_array_get(all, 2), "deferral_rate") < 0.3 + 0.02);
  json_decref(all);
}

/* What means nothing, or twice the same, is refused. */
static void test_defer_rate_refused(void **state) {
  (void)state;
  static const struct {
    const char *args, *said;
  } wrong[] = {
      {"eval models/tasks-valid.jsonl --defer-rate 0.1 --entropy 0.5", "leave out --entropy"},
      {"eval models/tasks-valid.jsonl --defer-rate 0.1 --mode exact", "no meaning in mode exact"},
      {"eval models/tasks-valid.jsonl --defer-rate 1.5", "out of range"},
      {"eval models/tasks-valid.jsonl --defer-burst 2", "defer-burst needs defer-rate"},
      {"run -p x --defer-rate 0.1 --threshold 0.5 --gate margin", "leave out --threshold"},
      {"run -p x --defer-rate 0.1 -m small", "no meaning in mode small"},
      {"run -p x --defer-rate 0.1 -m large", "no meaning in mode large"},
      {"run -p x --load-price 1 -m exact", "no meaning in mode exact"},
      {"run -p x --load-price -1", "out of range"},
      {"run -p x --defer-rate nan", "defer-rate"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    e2e_result r = e2e("%s", wrong[i].args);
    e2e_want_status(&r, 2, wrong[i].args);
    e2e_want_in(r.err, wrong[i].said, wrong[i].args);
    e2e_free(&r);
  }
}

/* The last group of the last match counts. The task's text is what the model writes: "... The result is 445
 * minutes." */
static void test_answer_rule(void **state) {
  (void)state;
  static const struct {
    const char *match, *found;
  } cases[] = {
      {"The result is (\\\\d+)", "445"},
      {"(\\\\d+) (minutes)", "minutes"}, /* the last group */
      {"= (\\\\d+)", "445"},             /* the last match */
      {"\\\\d+", "445"},                 /* no group: the whole match */
      {"result is( \\\\d+ )", "445"},    /* blanks around it go */
      {"no such (thing)", ""},           /* no match */
      {"(a+)+$|(\\\\d+)(x)?", ""},       /* a last group that is not set */
      {"^((.*)*)*Z", ""},                /* too much work: not found, and soon */
      {"x*", ""},                        /* empty matches come to an end */
  };
  const char *file = e2e_temp("tasks.jsonl"), *log = e2e_temp("answers.jsonl");
  char text[8192] = "";
  enum { N = sizeof cases / sizeof *cases };
  for (size_t i = 0; i < N; i++)
    snprintf(text + strlen(text), sizeof text - strlen(text),
             "{\"prompt\": \"Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:\", \"answer\": "
             "\"%s\", "
             "\"match\": \"%s\"}\n",
             cases[i].found, cases[i].match);
  e2e_write(file, text, strlen(text));
  json_t *all = e2e_json_of("eval %s -q --json --mode exact --entropy inf --answers %s", file, log);
  char *lines = e2e_read(log);
  size_t n = 0;
  for (char *p = strtok(lines, "\n"); p; p = strtok(NULL, "\n"), n++) {
    if (n < N || n >= 2 * N) continue; /* the large model's */
    json_t *a = json_loads(p, 0, NULL);
    if (strcmp(string(a, "found"), cases[n - N].found) != 0)
      fail_msg("%s found \"%s\", want \"%s\" in: %s", cases[n - N].match, string(a, "found"),
               cases[n - N].found, string(a, "text"));
    assert_true(json_is_true(json_object_get(a, "right")));
    json_decref(a);
  }
  assert_int_equal(n, 3 * N);
  assert_true(number(json_array_get(all, 2), "exact_match") == 1);
  free(lines);
  json_decref(all);
}

/* What demo.sh --json ends with. */
static void test_summary(void **state) {
  (void)state;
  e2e_result r = e2e("eval models/tasks-test.jsonl --limit 8 --entropy 0.2,0.5 --summary");
  e2e_want_status(&r, 0, "--summary");
  e2e_want_in(r.err, "speed-up", "the table on standard error");
  json_t *all = e2e_json(&r);
  assert_int_equal(json_array_size(all), 1);
  const json_t *o = json_array_get(all, 0), *exact = json_object_get(o, "exact_match");
  static const char *const keys[] = {"tokens",        "deferral_rate", "entropy",
                                     "cascade_tok_s", "large_tok_s",   "small_tok_s"};
  static const char *const inner[] = {"cascade", "large", "small"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) assert_true(number(o, keys[i]) >= 0);
  for (size_t i = 0; i < sizeof inner / sizeof *inner; i++)
    assert_true(number(exact, inner[i]) >= 0 && number(exact, inner[i]) <= 1);
  assert_true(number(o, "tokens") > 0 && number(o, "cascade_tok_s") > 0);
  json_decref(all);
  e2e_free(&r);
}

static void test_svg(void **state) {
  (void)state;
  const char *path = e2e_temp("curve.svg");
  e2e_result r = e2e("eval models/tasks-valid.jsonl -q --limit 6 --entropy 0.1,1 --random --svg %s", path);
  e2e_want_status(&r, 0, "--svg");
  e2e_want_in(r.out, "95 % interval", "the table on standard output");
  char *svg = e2e_read(path);
  assert_int_equal(strncmp(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\"", 38), 0);
  assert_string_equal(svg + strlen(svg) - 7, "</svg>\n");
  static const char *const has[] = {"large model alone", "small model alone", "by chance", "<polyline"};
  for (size_t i = 0; i < sizeof has / sizeof *has; i++) e2e_want_in(svg, has[i], "the drawing");
  if (strstr(svg, "nan") || strstr(svg, "inf,")) fail_msg("a number is missing in the drawing");
  free(svg);
  e2e_free(&r);
}

/* A verified mode gives a row like any other: with everything refused that the large model would not have
 * written, that of the large model alone. */
static void test_speculate(void **state) {
  (void)state;
  static const char *const rule[] = {"v3 --accept-alpha 0", "v3 --accept-alpha 0.5", "typical", "v1"};
  for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
    json_t *all = e2e_json_of(
        "eval models/tasks-valid.jsonl -q --json --limit 6 --entropy inf --mode speculate --accept %s",
        rule[i]);
    json_t *rows = e2e_of_schema(all, "weir.eval.row.v1");
    assert_int_equal(json_array_size(rows), 3); /* small, large, the cascade */
    const json_t *large = json_array_get(rows, 1), *row = json_array_get(rows, 2);
    assert_true(number(row, "tokens") > 0 && number(row, "tok_s") > 0);
    assert_true(number(row, "deferral_rate") > 0 && number(row, "deferral_rate") < 1);
    if (i == 0) {
      assert_true(number(row, "exact_match") == number(large, "exact_match"));
      assert_true(number(row, "tokens") == number(large, "tokens"));
    }
    json_decref(rows);
    json_decref(all);
  }
}

/* Each mode with every value of what means something in it, in the order given; intervals hold what they are
 * of. */
static void test_lists(void **state) {
  (void)state;
  static const char *const want[] = {"small ",
                                     "large ",
                                     "defer entropy 0.3",
                                     "defer entropy 1",
                                     "exact entropy 1, window 3",
                                     "exact entropy 1, window 6",
                                     "speculate v3 0.1, entropy 1, window 3",
                                     "speculate v3 0.1, entropy 1, window 6",
                                     "speculate v3 0.4, entropy 1, window 3",
                                     "speculate v3 0.4, entropy 1, window 6",
                                     "speculate own, entropy 1, window 3",
                                     "speculate own, entropy 1, window 6"};
  enum { N = sizeof want / sizeof *want };
  json_t *all = e2e_json_of(
      "eval models/tasks-valid.jsonl -q --json --limit 16 --batch 1 --mode "
      "defer,exact,speculate --entropy 0.3,1 --accept v3,own --accept-alpha 0.1,0.4 "
      "--window 3,6");
  json_t *rows = e2e_of_schema(all, "weir.eval.row.v1");
  assert_int_equal(json_array_size(rows), N);
  const json_t *large = json_array_get(rows, 1);
  for (size_t i = 0; i < N; i++) {
    const json_t *r = json_array_get(rows, i), *exact = json_object_get(r, "resampled95"),
                 *ahead = json_object_get(r, "ahead95"), *speed = json_object_get(r, "speedup95");
    char name[128];
    snprintf(name, sizeof name, "%s %s", string(r, "mode"), string(r, "setting"));
    assert_string_equal(name, want[i]);
    const double at = number(r, "exact_match"), off = number(r, "ahead"), x = number(r, "speedup");
    assert_true(json_number_value(json_array_get(exact, 0)) <= at &&
                at <= json_number_value(json_array_get(exact, 1)));
    assert_true(fabs(off - (at - number(large, "exact_match"))) < 1e-9);
    assert_true(json_number_value(json_array_get(ahead, 0)) <= off &&
                off <= json_number_value(json_array_get(ahead, 1)));
    /* the speed-up is by the wall clock, its interval of the tasks' own times: near each other, not the same
     */
    const double lo = json_number_value(json_array_get(speed, 0)),
                 hi = json_number_value(json_array_get(speed, 1));
    assert_true(lo > 0 && lo <= hi);
    if (!(x > 0.5 * lo && x < 2 * hi)) fail_msg("%s: speed-up %g, interval %g .. %g", name, x, lo, hi);
    const bool lossless = !strcmp(string(r, "mode"), "exact") || strstr(name, "own");
    if (lossless) assert_true(off == 0 && number(r, "tokens") == number(large, "tokens"));
    const json_t *window = json_object_get(r, "window");
    if (strstr(name, "window"))
      assert_int_equal(json_integer_value(window), strstr(name, "window 3") ? 3 : 6);
    if (!strcmp(string(r, "mode"), "defer")) assert_true(json_is_null(window));
  }
  json_decref(rows);
  json_decref(all);
}

static void test_lists_refused(void **state) {
  (void)state;
  static const struct {
    const char *args, *said;
  } wrong[] = {
      {"--mode defer,nonsense", "mode nonsense is not known"},
      {"--mode defer,", "mode  is not known"},
      {"--mode defer,exact,defer", "mode defer is given twice"},
      {"--mode defer,exact --accept v3", "accept has no meaning in any of these modes"},
      {"--mode defer,exact --horizon 5", "horizon has no meaning in any of these modes"},
      {"--mode exact --accept-alpha 0.1", "accept-alpha has no meaning in mode exact"},
      {"--mode speculate --accept typical --accept-alpha 0.1", "accept-alpha has no meaning"},
      {"--mode speculate --accept v3,nonsense", "nonsense"},
      {"--mode speculate --accept-alpha 0.1,2", "out of range"},
      {"--mode exact --window 2.5", "window: want a whole number"},
      {"--mode exact,speculate --random", "--random is for mode defer"},
      {"--mode exact --defer-rate 0.1", "defer-rate has no meaning in mode exact"},
      {"--gate margin", "--gate margin needs --threshold"},
      {"--threshold 0.5", "the entropy gate has --entropy"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    e2e_result r = e2e("eval models/tasks-valid.jsonl %s", wrong[i].args);
    e2e_want_status(&r, 2, wrong[i].args);
    e2e_want_in(r.err, wrong[i].said, wrong[i].args);
    e2e_free(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rows),
      cmocka_unit_test(test_speculate),
      cmocka_unit_test(test_lists),
      cmocka_unit_test(test_lists_refused),
      cmocka_unit_test(test_chance),
      cmocka_unit_test(test_answer_rule),
      cmocka_unit_test(test_route),
      cmocka_unit_test(test_summary),
      cmocka_unit_test(test_svg),
      cmocka_unit_test(test_defer_rate),
      cmocka_unit_test(test_defer_rate_refused),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
