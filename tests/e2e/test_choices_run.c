/* SPDX-License-Identifier: Apache-2.0 */
/* weir run --choices, --span and --fusion-weight, as a user has them, on the pair that comes with weir. */
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

static const char list[] =
    "--choices ' The answer is 12.' --choices ' The answer is 120.' --choices ' No answer'";
static const char *const texts[] = {" The answer is 12.", " The answer is 120.", " No answer"};

static json_t *answers_of(const char *options) {
  json_t *all = e2e_json_of(
      "run -p 'Question: Convert 2 hours to minutes.\\nAnswer:' -p 'Question: What?\\nAnswer:' "
      "--json -q %s %s",
      list, options);
  json_t *answers = e2e_of_schema(all, "weir.run.v1");
  json_decref(all);
  assert_int_equal(json_array_size(answers), 2);
  return answers;
}

static void test_answer_is_one_of_them(void **state) {
  (void)state;
  static const char *const how[] = {"-m small",    "-m large", "-m defer -e 0.2",
                                    "-m rollback", "-m exact", "-m speculate --accept typical"};
  static const char *const draw[] = {"-t 0", "-t 1.5 --seed 3", "-t 1 --seed 4 --top-k 1", "-t 2 --seed 9"};
  for (size_t d = 0; d < sizeof draw / sizeof *draw; d++) {
    json_t *large = NULL;
    for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
      char options[128];
      snprintf(options, sizeof options, "%s %s", how[h], draw[d]);
      json_t *a = answers_of(options);
      for (size_t i = 0; i < 2; i++) {
        const json_t *x = json_array_get(a, i);
        const char *text = json_string_value(json_object_get(x, "text"));
        bool known = false;
        for (size_t k = 0; k < 3; k++) known |= !strcmp(text, texts[k]);
        if (!known) fail_msg("%s: \"%s\"", options, text);
        const json_int_t n = json_integer_value(json_object_get(x, "tokens"));
        const json_int_t forced = json_integer_value(json_object_get(x, "forced"));
        assert_true(forced >= n - 2 && forced < n); /* one or two questions an answer */
        assert_string_equal(json_string_value(json_object_get(x, "end")), "stop");
      }
      if (h == 1) large = json_incref(a);
      if (h == 4) /* exact: the large model's, seed for seed */
        for (size_t i = 0; i < 2; i++)
          assert_true(json_equal(json_object_get(json_array_get(a, i), "ids"),
                                 json_object_get(json_array_get(large, i), "ids")));
      json_decref(a);
    }
    json_decref(large);
  }
}

/* Forced tokens say so, and that nobody looked. */
static void test_receipts(void **state) {
  (void)state;
  const char *path = e2e_temp("receipts.jsonl");
  e2e_result r = e2e("run -p 'Say:' -q --receipts %s %s", path, list);
  e2e_want_status(&r, 0, "run --choices --receipts");
  e2e_free(&r);
  char *all = e2e_read(path);
  int32_t forced = 0, lines = 0;
  for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *x = json_loads(line, 0, NULL);
    assert_non_null(x);
    if (!json_is_string(json_object_get(x, "reason"))) { /* of no token */
      json_decref(x);
      continue;
    }
    lines++;
    if (!strcmp(json_string_value(json_object_get(x, "reason")), "forced")) {
      assert_true(json_is_null(json_object_get(x, "H")) && json_is_null(json_object_get(x, "tau")));
      forced++;
    }
    json_decref(x);
  }
  assert_true(forced > 0 && forced < lines);
  free(all);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *options, *says;
  } bad[] = {
      {"--choices a --stop b", "choices say where the answer ends, and so do stop strings"},
      {"--choices a --ignore-eos", "ignore_eos"},
      {"--choices 'a long text' -n 1", "1 may be written"},
      {"--choices ''", "--choices: the text is empty"},
      {"-m large --span '1 a b'", "span has no meaning in mode large"},
      {"--defer-rate 0.1 --span '1 a b'", "span sets the threshold, and so does defer-rate"},
      {"--span 'x a b'", "x is no threshold"},
      {"--span '1'", "want 'THRESHOLD START END'"},
      {"--span '1 \"a b'", "quotes that are not closed"},
      {"-m exact --fusion-weight 1", "fusion-weight has no meaning in mode exact"},
      {"--fusion-weight 5", "fusion-weight"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e2e_result r = e2e("run -p 'Say:' %s", bad[i].options);
    if (r.status != 2 && r.status != 1) fail_msg("%s: status %d", bad[i].options, r.status);
    e2e_want_in(r.err, bad[i].says, bad[i].options);
    e2e_free(&r);
  }
}

/* From the start of a span on nothing is deferred; behind its end it is again. */
static void test_spans(void **state) {
  (void)state;
  const char *path = e2e_temp("spans.jsonl");
  e2e_result r =
      e2e("run -f models/prompts.txt -n 40 -e 0.1 --span 'inf \" is\" .' --receipts %s --json", path);
  e2e_want_status(&r, 0, "run --span");
  json_t *lines = e2e_json(&r), *answers = e2e_of_schema(lines, "weir.run.v1");
  char *all = e2e_read(path);
  int32_t inside = 0, outside = 0;
  for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
    json_t *x = json_loads(line, 0, NULL);
    assert_non_null(x);
    if (!json_is_string(json_object_get(x, "reason"))) {
      json_decref(x);
      continue;
    }
    const json_t *tau = json_object_get(x, "tau");
    const double h = json_number_value(json_object_get(x, "H"));
    const char *tier = json_string_value(json_object_get(x, "tier"));
    const bool open = !json_is_number(tau); /* infinite */
    if (open)
      assert_string_equal(tier, "small");
    else
      assert_true((h > 0.1) == !strcmp(tier, "large"));
    inside += open;
    outside += !open;
    json_decref(x);
  }
  assert_true(inside > 10 && outside > 10);
  free(all);
  json_decref(answers);
  json_decref(lines);
  e2e_free(&r);
}

static void test_fusion(void **state) {
  (void)state;
  static const char *const how[] = {"", "--fusion-weight 0", "--fusion-weight -2"};
  char *text[3];
  for (int i = 0; i < 3; i++) {
    e2e_result r = e2e("run -f models/prompts.txt -n 40 -e 0.1 -q %s", how[i]);
    e2e_want_status(&r, 0, how[i]);
    text[i] = r.out;
    r.out = NULL;
    e2e_free(&r);
  }
  assert_string_equal(text[0], text[1]);
  assert_string_not_equal(text[0], text[2]);
  for (int i = 0; i < 3; i++) free(text[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_answer_is_one_of_them),
      cmocka_unit_test(test_receipts),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_spans),
      cmocka_unit_test(test_fusion),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
