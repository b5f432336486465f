/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts tell the truth: who wrote a token follows from the numbers logged beside it, and they add up to
 * the text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

typedef struct receipts {
  json_t *answers, *lines;
} receipts;

static receipts run_with(const char *options) {
  static const char *path;
  if (!path) path = e2e_temp("receipts.jsonl");
  json_t *all = e2e_json_of("run -f models/prompts.txt -n 48 --json -q %s --receipts %s", options, path);
  receipts r = {.answers = e2e_of_schema(all, "weir.run.v1"), .lines = json_array()};
  json_decref(all);
  char *text = e2e_read(path);
  for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n")) {
    json_t *o = json_loads(p, 0, NULL);
    if (!json_is_object(o)) fail_msg("receipt is not JSON: %s", p);
    if (!json_object_get(o, "schema")) json_array_append_new(r.lines, json_incref(o)); /* the others are decisions */
    json_decref(o);
  }
  free(text);
  return r;
}

static void drop(receipts *r) {
  json_decref(r->answers);
  json_decref(r->lines);
}

static bool wrote_small(const json_t *o) {
  return !strcmp(json_string_value(json_object_get(o, "tier")), "small");
}

static const char *reason(const json_t *o) { return json_string_value(json_object_get(o, "reason")); }

/* A line for every token of every text, in order, with the same ids; returns how many the large model wrote.
 */
static size_t want_complete(const receipts *r) {
  size_t at = 0, large = 0;
  for (size_t i = 0; i < json_array_size(r->answers); i++) {
    const json_t *a = json_array_get(r->answers, i), *ids = json_object_get(a, "ids");
    size_t here = 0;
    for (size_t k = 0; k < json_array_size(ids); k++, at++) {
      const json_t *o = json_array_get(r->lines, at);
      if (!o) fail_msg("receipts end after %zu", at);
      assert_int_equal(json_integer_value(json_object_get(o, "request")), i);
      assert_int_equal(json_integer_value(json_object_get(o, "i")), k);
      assert_true(json_equal(json_object_get(o, "id"), json_array_get(ids, k)));
      assert_true(json_is_integer(json_object_get(o, "wait_us")));
      here += !wrote_small(o);
    }
    const double rate = json_real_value(json_object_get(a, "deferral_rate"));
    const double want = json_array_size(ids) ? (double)here / (double)json_array_size(ids) : 0;
    if (rate - want > 1e-6 || want - rate > 1e-6)
      fail_msg("prompt %zu: deferral rate %g, receipts say %g", i, rate, want);
    large += here;
  }
  assert_int_equal(at, json_array_size(r->lines));
  return large;
}

/* decision = f(logged row): the small model wrote the token iff its gate let it pass. */
static void test_decisions(void **state) {
  (void)state;
  static const struct {
    const char *options;
    const char *score; /* member the gate looked at */
    int sign;          /* the small one writes iff sign * (score - tau) <= 0 */
  } cases[] = {
      {"--entropy 0.5", "H", 1},
      {"--entropy 0.05 -t 0.9 --seed 4", "H", 1},
      {"--entropy 3 -t 1 --top-p 0.9", "H", 1},
      {"--gate top-prob --threshold 0.8", "score", -1},
      {"--gate margin --threshold 0.5 -t 0.7 --seed 2", "score", -1},
      {"--defer-rate 0.15", "H", 1},
      {"--defer-rate 0.2 --defer-burst 1 --load-price 2", "H", 1},
      {"--defer-rate 0.3 --gate top-prob -t 0.9", "score", -1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    receipts r = run_with(cases[i].options);
    const size_t large = want_complete(&r), n = json_array_size(r.lines);
    if (large == 0 || large == n)
      fail_msg("%s: %zu of %zu by the large model: nothing tested", cases[i].options, large, n);
    for (size_t k = 0; k < n; k++) {
      const json_t *o = json_array_get(r.lines, k), *score = json_object_get(o, cases[i].score);
      const bool never = json_is_null(json_object_get(o, "tau")); /* an infinite one: the bucket is empty */
      const double tau = json_number_value(json_object_get(o, "tau")), x = json_number_value(score);
      assert_true(json_is_number(score));
      const bool passes = never || cases[i].sign * (x - tau) <= 0;
      if (passes != wrote_small(o))
        fail_msg("%s, line %zu: %s %.9g, tau %.9g, but it is %s", cases[i].options, k, cases[i].score, x, tau,
                 json_string_value(json_object_get(o, "tier")));
      assert_string_equal(reason(o), passes ? "easy" : "deferred");
      if (passes) assert_int_equal(json_integer_value(json_object_get(o, "wait_us")), 0);
    }
    drop(&r);
  }
}

static void test_ends(void **state) {
  (void)state;
  static const struct {
    const char *options;
    bool small, has_entropy;
  } cases[] = {{"--mode small", true, true},
               {"--mode defer --entropy inf", true, true},
               {"--mode large", false, true},
               {"--mode defer --entropy -1", false, true}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    receipts r = run_with(cases[i].options);
    const size_t large = want_complete(&r);
    assert_int_equal(large, cases[i].small ? 0 : json_array_size(r.lines));
    for (size_t k = 0; k < json_array_size(r.lines) && cases[i].small; k++)
      assert_true(json_is_number(json_object_get(json_array_get(r.lines, k), "H")));
    drop(&r);
  }
}

/* In verified modes the large model has looked at everything: tokens are kept or its own. */
static void test_verified(void **state) {
  (void)state;
  static const char *const modes[] = {"--mode exact", "--mode exact -t 1 --seed 9",
                                      "--mode rollback --entropy 0.5", "--mode speculate --accept v1 -t 0.9",
                                      "--mode speculate --accept-alpha 0.8"};
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    receipts r = run_with(modes[i]);
    const size_t large = want_complete(&r);
    assert_true(large > 0 && large < json_array_size(r.lines));
    for (size_t k = 0; k < json_array_size(r.lines); k++) {
      const json_t *o = json_array_get(r.lines, k);
      if (wrote_small(o) != !strcmp(reason(o), "kept")) fail_msg("%s, line %zu: %s", modes[i], k, reason(o));
    }
    drop(&r);
  }
}

/* A slip of the completion must not cost a model. */
static void test_models_are_kept(void **state) {
  (void)state;
  static const char tiny[] = "tests/vectors/models/pair-small.gguf";
  static const char text[] = "{\"model_type\":\"x\"}";
  char line[1024], link_to[512];
  const char *path = e2e_temp("dir"); /* a file; a folder is wanted */
  remove(path);
  assert_int_equal(mkdir(path, 0700), 0);
  snprintf(link_to, sizeof link_to, "%s/config.json", path);
  e2e_write(link_to, text, strlen(text));
  for (int i = 0; i < 2; i++) {
    char *model = e2e_read(tiny);
    const char *copy = e2e_temp("model.gguf");
    e2e_write(copy, model, 4096);
    free(model);
    snprintf(line, sizeof line, "run --small %s -p x --receipts %s", i ? path : copy, i ? link_to : copy);
    e2e_result r = e2e("%s", line);
    e2e_want_status(&r, 2, line);
    e2e_want_in(r.err, "is a model; it was left as it is", line);
    e2e_free(&r);
    char *now = e2e_read(i ? link_to : copy);
    assert_true(strlen(now) >= 4);
    free(now);
  }
  remove(link_to);
  remove(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_decisions),
      cmocka_unit_test(test_ends),
      cmocka_unit_test(test_verified),
      cmocka_unit_test(test_models_are_kept),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
