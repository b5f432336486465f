/* SPDX-License-Identifier: Apache-2.0 */
/* `weir calibrate` as a user meets it: what it writes is what the other commands read, a trace replays to the
 * same, wrong usage is told. Nothing here looks at a speed but for its being there. */
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

static json_t *last_of(json_t *all, const char *schema) {
  json_t *some = e2e_of_schema(all, schema);
  json_t *one = json_incref(json_array_get(some, 0));
  assert_int_equal(json_array_size(some), 1);
  json_decref(some);
  return one;
}

/* Chosen, confirmed, written; the files say what the output says, and `weir run` takes the configuration. */
static void test_files(void **state) {
  (void)state;
  const char *config = e2e_temp("chosen.yaml"), *drift = e2e_temp("drift.json"),
             *report = e2e_temp("report.html"), *trace = e2e_temp("pair.trace");
  json_t *all = e2e_json_of(
      "calibrate models/tasks-valid.jsonl --limit 60 -q --json --level 0.2 --loss tokens --out %s "
      "--calibration %s --report %s --trace %s",
      config, drift, report, trace);
  json_t *r = last_of(all, "weir.calibrate.v1"), *points = e2e_of_schema(all, "weir.calibrate.point.v1");
  const json_t *choice = json_object_get(r, "choice"), *confirm = json_object_get(r, "confirm");
  assert_true(json_is_true(json_object_get(choice, "found")));
  assert_int_equal((int)number(r, "requests"), 60);
  assert_int_equal((int)number(choice, "n"), 30);
  assert_int_equal((int)number(r, "differs"), 0);
  assert_true(number(choice, "bound") <= 0.2);
  assert_true(json_array_size(points) > 60);

  /* the other commands take the file, and the loss it was confirmed with is the one of its threshold */
  char *text = e2e_read(config);
  e2e_want_in(text, "mode: defer\n", "the configuration");
  e2e_want_in(text, "Guarantee: In expectation over the 30 requests", "the configuration");
  const char *at = strstr(text, "\nentropy: ");
  assert_non_null(at);
  assert_true(fabs(strtod(at + 10, NULL) - number(choice, "threshold")) < 1e-6);
  free(text);
  e2e_result ran =
      e2e("run --config %s -n 8 -p 'Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:'", config);
  e2e_want_status(&ran, 0, "run");
  e2e_want_in(ran.err, "defer", "run says its mode");
  e2e_free(&ran);

  text = e2e_read(drift);
  json_t *d = json_loads(text, 0, NULL);
  free(text);
  assert_non_null(d);
  assert_string_equal(string(d, "schema"), "weir.calibration.v1");
  assert_int_equal((int)number(d, "n"), (int)number(r, "tokens"));
  double sum = 0;
  size_t i;
  json_t *bin;
  json_array_foreach(json_object_get(d, "count"), i, bin) sum += json_number_value(bin);
  assert_int_equal((int)sum, (int)number(d, "n"));
  json_decref(d);
  text = e2e_read(report);
  e2e_want_in(text, "<html", "the report");
  free(text);

  /* lossless settings keep every text, and what is confirmed end to end stays the large model's where the
   * replay of exact says so */
  size_t exact = 0;
  json_array_foreach(points, i, bin) {
    if (strcmp(string(bin, "kind"), "exact") != 0) continue;
    exact++;
    assert_true(number(bin, "same_text") == 1 && number(bin, "token_loss") == 0);
  }
  assert_true(exact > 3);
  assert_true(number(json_object_get(confirm, "exact"), "same_text") == 1);
  assert_true(number(json_object_get(confirm, "large"), "tok_s") > 0);

  /* from the trace alone: the same choice, and nothing that wants a model */
  json_t *again = e2e_json_of("calibrate --from-trace %s -q --json --level 0.2 --loss tokens", trace);
  json_t *q = last_of(again, "weir.calibrate.v1");
  const json_t *same = json_object_get(q, "choice");
  assert_true(number(same, "threshold") == number(choice, "threshold"));
  assert_true(number(same, "risk") == number(choice, "risk"));
  assert_true(json_is_null(json_object_get(q, "confirm")));
  json_decref(q);
  json_decref(again);
  json_decref(points);
  json_decref(r);
  json_decref(all);
}

/* Answers as loss, a gate that is fitted, prompts, a level that so few requests cannot show. */
static void test_kinds(void **state) {
  (void)state;
  const char *gate = e2e_temp("gate.json"), *config = e2e_temp("fitted.yaml"),
             *prompts = e2e_temp("prompts.txt");
  json_t *all = e2e_json_of(
      "calibrate models/tasks-valid.jsonl --limit 90 -q --json --no-curves --level 0.3 --gate "
      "isotonic --gate-out %s --out %s",
      gate, config);
  json_t *r = last_of(all, "weir.calibrate.v1");
  assert_string_equal(string(json_object_get(r, "choice"), "loss"), "wrong");
  assert_int_equal((int)number(json_object_get(r, "choice"), "n"), 30);
  json_decref(r);
  json_decref(all);
  e2e_result ran =
      e2e("run --config %s -n 8 -p 'Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:'", config);
  e2e_want_status(&ran, 0, "run with the gate");
  e2e_free(&ran);

  static const char lines[] =
      "Once upon a time\n\nThe answer is\nQuestion: 2 + 3\\nAnswer:\nA, B, C, D,\nOne two three\n";
  e2e_write(prompts, lines, sizeof lines - 1);
  ran = e2e("calibrate %s -q -n 12 -t 0.8 --no-curves --level 0.01", prompts);
  e2e_want_status(&ran, 0, "prompts");
  e2e_want_in(ran.out, "5 prompts", "prompts");
  e2e_want_in(ran.out, "None: 3 requests cannot show a loss of 0.01, 99 can", "so few");
  e2e_free(&ran);
}

static void test_usage(void **state) {
  (void)state;
  const char *not_one = e2e_temp("not-a-trace");
  e2e_write(not_one, "hello", 5);
  const struct {
    const char *line;
    int status;
    const char *says;
  } cases[] = {
      {"calibrate", 2, "want one file"},
      {"calibrate models/tasks-valid.jsonl --limit 3", 2, "want at least 4"},
      {"calibrate models/tasks-valid.jsonl --level 0", 2, "level"},
      {"calibrate models/prompts.txt --loss wrong", 2, "tasks with answers"},
      {"calibrate models/tasks-valid.jsonl --gate-out x.json", 2, "--gate isotonic or head"},
      {"calibrate models/tasks-valid.jsonl --gate isotonic --out x.yaml", 2, "--gate-out"},
      {"calibrate models/tasks-valid.jsonl --from-trace x", 2, "leave out the file"},
      {"calibrate /nowhere/tasks.jsonl", 1, "/nowhere/tasks.jsonl"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    e2e_result r = e2e("%s", cases[i].line);
    e2e_want_status(&r, cases[i].status, cases[i].line);
    e2e_want_in(r.err, cases[i].says, cases[i].line);
    e2e_free(&r);
  }
  e2e_result r = e2e("calibrate --from-trace %s", not_one);
  e2e_want_status(&r, 1, "no trace");
  e2e_want_in(r.err, "trace", "no trace");
  e2e_free(&r);
  r = e2e("calibrate --help");
  e2e_want_status(&r, 0, "help");
  e2e_want_in(r.out, "--level ALPHA", "help");
  e2e_free(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_files),
      cmocka_unit_test(test_kinds),
      cmocka_unit_test(test_usage),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
