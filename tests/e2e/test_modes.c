/* SPDX-License-Identifier: Apache-2.0 */
/* What the modes promise, seen from outside: with an infinite threshold the cascade is the small model, with
 * a negative one the large; exact is the large model's text seed for seed; and nothing depends on what runs
 * beside it. All on the pair that comes with weir. */
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

static const char prompts[] = "-f models/prompts.txt -n 40 --json -q";

static json_t *answers_of(const char *options) {
  json_t *all = e2e_json_of("run %s %s", prompts, options);
  json_t *answers = e2e_of_schema(all, "weir.run.v1");
  json_decref(all);
  if (json_array_size(answers) != 8)
    fail_msg("run %s: %zu answers, want 8", options, json_array_size(answers));
  return answers;
}

static size_t n_tokens(const json_t *answers) {
  size_t n = 0;
  for (size_t i = 0; i < json_array_size(answers); i++)
    n += json_array_size(json_object_get(json_array_get(answers, i), "ids"));
  return n;
}

static void want_same(const json_t *a, const json_t *b, const char *a_name, const char *b_name) {
  static const char *const keys[] = {"ids", "text", "end"};
  assert_int_equal(json_array_size(a), json_array_size(b));
  for (size_t i = 0; i < json_array_size(a); i++)
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
      const json_t *x = json_object_get(json_array_get(a, i), keys[k]);
      const json_t *y = json_object_get(json_array_get(b, i), keys[k]);
      if (json_equal((json_t *)x, (json_t *)y)) continue;
      char *xs = json_dumps(x, JSON_ENCODE_ANY | JSON_COMPACT),
           *ys = json_dumps(y, JSON_ENCODE_ANY | JSON_COMPACT);
      fail_msg("prompt %zu, %s differs\n[%s] %.500s\n[%s] %.500s", i, keys[k], a_name, xs, b_name, ys);
    }
}

static void want_same_runs(const char *a_options, const char *b_options) {
  json_t *a = answers_of(a_options), *b = answers_of(b_options);
  assert_true(n_tokens(a) > 100); /* or there was nothing to compare */
  want_same(a, b, a_options, b_options);
  json_decref(a);
  json_decref(b);
}

static const char *const draws[] = {
    "-t 0", "-t 0.8 --seed 7", "-t 1 --seed 3 --top-p 0.9", "-t 1.2 --seed 11 --top-k 20", "-t 1 --min-p 0.1",
};
enum { N_DRAWS = sizeof draws / sizeof *draws };

static void test_ends(void **state) {
  (void)state;
  for (int i = 0; i < N_DRAWS; i++) {
    char a[256], b[256];
    snprintf(a, sizeof a, "--mode small %s", draws[i]);
    snprintf(b, sizeof b, "--mode defer --entropy inf %s", draws[i]);
    want_same_runs(a, b);
    snprintf(a, sizeof a, "--mode large %s", draws[i]);
    snprintf(b, sizeof b, "--mode defer --entropy -1 %s", draws[i]);
    want_same_runs(a, b);
  }
}

static void test_exact_is_large(void **state) {
  (void)state;
  static const char *const how[] = {"", "--window 1", "--window 12 -b 1", "--entropy 0.5 -b 3",
                                    "--entropy 0 --window 4096"};
  for (int i = 0; i < N_DRAWS; i++) {
    char large[256], exact[256];
    snprintf(large, sizeof large, "--mode large %s", draws[i]);
    json_t *want = answers_of(large);
    for (size_t k = 0; k < sizeof how / sizeof *how; k++) {
      snprintf(exact, sizeof exact, "--mode exact %s %s", how[k], draws[i]);
      json_t *got = answers_of(exact);
      want_same(want, got, large, exact);
      json_decref(got);
    }
    json_decref(want);
  }
}

/* The two models do differ, and draws do depend on the seed: otherwise the tests above would say nothing. */
static void test_models_differ(void **state) {
  (void)state;
  static const char *const pairs[][2] = {
      {"--mode small", "--mode large"},
      {"--mode defer --entropy 0.5", "--mode small"},
      {"--mode large -t 1 --seed 1", "--mode large -t 1 --seed 2"},
      {"--mode large -t 1 --seed 1", "--mode large -t 1 --seed 1 --top-k 2"},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    json_t *a = answers_of(pairs[i][0]), *b = answers_of(pairs[i][1]);
    if (json_equal(a, b)) fail_msg("[%s] and [%s] gave the same", pairs[i][0], pairs[i][1]);
    size_t differ = 0;
    for (size_t k = 0; k < json_array_size(a); k++)
      differ += !json_equal(json_object_get(json_array_get(a, k), "ids"),
                            json_object_get(json_array_get(b, k), "ids"));
    if (differ == 0) fail_msg("[%s] and [%s] gave the same ids", pairs[i][0], pairs[i][1]);
    json_decref(a);
    json_decref(b);
  }
}

static void test_company_changes_nothing(void **state) {
  (void)state;
  static const char *const modes[] = {"--mode defer --entropy 0.4", "--mode rollback --entropy 0.4",
                                      "--mode exact", "--mode defer --gate margin --threshold 0.5 --hold 3",
                                      "--mode speculate --accept v1 --accept-alpha 0.3 --horizon 4"};
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    char alone[320], threads[320], waiting[320], batched[256];
    snprintf(batched, sizeof batched, "%s -t 0.7 --seed 5", modes[i]);
    snprintf(alone, sizeof alone, "%s -b 1", batched);
    snprintf(threads, sizeof threads, "%s --threads 1 -b 4", batched);
    snprintf(waiting, sizeof waiting, "%s --large-batch 8 --large-wait 1000", batched);
    want_same_runs(batched, alone);
    want_same_runs(batched, threads);
    want_same_runs(batched, waiting);
  }
}

/* A judge that lets everything stand, asked only at the end or by the gate, is no judge. */
static void test_rollback(void **state) {
  (void)state;
  want_same_runs("--mode rollback --entropy 0.4 --accept-nll 1000 --window 4096",
                 "--mode defer --entropy 0.4");
  static const struct {
    const char *nll;
    bool refuses;
  } cases[] = {{"0.01", true}, {"1000", false}};
  for (int i = 0; i < 2; i++) {
    json_t *all = e2e_json_of("run %s --mode rollback --entropy 2 --accept-nll %s", prompts, cases[i].nll);
    json_t *sum = e2e_of_schema(all, "weir.run.summary.v1");
    const json_int_t refused = json_integer_value(json_object_get(json_array_get(sum, 0), "refused"));
    if ((refused > 0) != cases[i].refuses)
      fail_msg("accept-nll %s: %lld taken back", cases[i].nll, (long long)refused);
    json_decref(sum);
    json_decref(all);
  }
}

/* Where the rules' knobs end they meet what needs no rule. */
static void test_speculate(void **state) {
  (void)state;
  static const struct {
    const char *one, *other;
  } same[] = {
      {"--mode speculate --accept own -t 0.8 --seed 3", "--mode exact -t 0.8 --seed 3"},
      {"--mode speculate --accept v3 --accept-alpha 0 -t 0", "--mode exact -t 0"},
      {"--mode speculate --accept v2 --accept-alpha 0 -t 0", "--mode exact -t 0"},
      {"--mode speculate --accept typical --accept-epsilon 1 --accept-delta 1000 -t 0", "--mode exact -t 0"},
      {"--mode speculate --accept nll --accept-nll 2 --window 10 --entropy 0.45 -t 0.7",
       "--mode rollback --accept-nll 2 -t 0.7"},
      {"--mode speculate --accept v3 --accept-alpha 1 --window 3 -t 0.7",
       "--mode speculate --accept typical --accept-epsilon 0 --window 3 -t 0.7"},
      {"--mode speculate --accept v2 --accept-alpha 1 --window 3 -t 0.7",
       "--mode speculate --accept v1 --accept-alpha 1 --window 3 -t 0.7"}};
  for (size_t i = 0; i < sizeof same / sizeof *same; i++) want_same_runs(same[i].one, same[i].other);
  /* strict rules refuse, those that keep all do not */
  static const char *const rule[] = {"v1", "v3"};
  for (int k = 0; k < 2; k++) {
    json_int_t refused[2];
    for (int i = 0; i < 2; i++) {
      static const char *const alpha[] = {"0.02", "1"};
      json_t *all =
          e2e_json_of("run %s --mode speculate --accept %s --accept-alpha %s", prompts, rule[k], alpha[i]);
      json_t *sum = e2e_of_schema(all, "weir.run.summary.v1");
      refused[i] = json_integer_value(json_object_get(json_array_get(sum, 0), "refused"));
      json_decref(sum);
      json_decref(all);
    }
    if (refused[0] == 0 || refused[1] > 0)
      fail_msg("%s: %lld and %lld taken back", rule[k], refused[0], refused[1]);
  }
}

/* One model writes all of an answer, its own text; at the ends of the knobs it is the same one for all. */
static void test_route(void **state) {
  (void)state;
  static const char *const small[] = {"--entropy inf", "--route-share 1", "--entropy inf --route-after end",
                                      "--route-share 1 --route-after 8"};
  static const char *const large[] = {"--entropy -1", "--entropy 0 --route-share 0",
                                      "--entropy 0 --route-share 0.5 --route-after end",
                                      "--entropy 0 --route-share 0 --route-after 3 --route-prompt 4096"};
  static const char *const mixed[] = {"--entropy 0.6 --route-share 0.5",
                                      "--entropy 1 --route-share 0.1 --route-after 8",
                                      "--entropy 1 --route-share 0.12 --route-after end"};
  for (int i = 0; i < 4; i++)
    for (int d = i % 2 * 2; d < 3; d += 3) { /* one kind of draw each */
      char a[256], b[256];
      snprintf(a, sizeof a, "--mode route %s %s", small[i], draws[d]);
      snprintf(b, sizeof b, "--mode small %s", draws[d]);
      want_same_runs(a, b);
      snprintf(a, sizeof a, "--mode route %s %s", large[i], draws[d]);
      snprintf(b, sizeof b, "--mode large %s", draws[d]);
      want_same_runs(a, b);
    }
  json_t *alone[2] = {answers_of("--mode small"), answers_of("--mode large")};
  size_t by[2] = {0, 0};
  for (int i = 0; i < 3; i++) {
    char options[256];
    snprintf(options, sizeof options, "--mode route %s", mixed[i]);
    json_t *got = answers_of(options);
    for (size_t k = 0; k < json_array_size(got); k++) {
      const json_t *x = json_array_get(got, k);
      const bool up = json_real_value(json_object_get(x, "deferral_rate")) > 0;
      const char *to = json_string_value(json_object_get(x, "routed"));
      assert_string_equal(to ? to : "none", up ? "large" : "small");
      if (!json_equal(json_object_get(x, "ids"), json_object_get(json_array_get(alone[up], k), "ids")))
        fail_msg("%s: answer %zu is not that of the %s model", options, k, up ? "large" : "small");
      by[up]++;
    }
    json_decref(got);
    snprintf(options, sizeof options, "--mode route %s -b 1 --threads 1", mixed[i]);
    char batched[256];
    snprintf(batched, sizeof batched, "--mode route %s", mixed[i]);
    want_same_runs(options, batched);
  }
  assert_true(by[0] > 0 && by[1] > 0);
  json_decref(alone[0]);
  json_decref(alone[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ends),          cmocka_unit_test(test_exact_is_large),
      cmocka_unit_test(test_models_differ), cmocka_unit_test(test_company_changes_nothing),
      cmocka_unit_test(test_rollback),      cmocka_unit_test(test_speculate),
      cmocka_unit_test(test_route),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
