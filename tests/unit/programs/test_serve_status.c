/* SPDX-License-Identifier: Apache-2.0 */
/* The status line: silence while nothing happens, rates of the time between two lines, and the one word about
 * the large model alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "programs/serve_status.h"

#define SECOND INT64_C(1000000000)

static const char *const names[] = {"small", "large"};

static double field(const weir_serve_status *s, const char *key) {
  for (int32_t i = 0; i < s->n_fields; i++)
    if (!strcmp(s->field[i].key, key))
      return s->field[i].type == WEIR_LOG_FIELD_INT ? (double)s->field[i].i : s->field[i].num;
  fail_msg("no field %s", key);
  return 0;
}

static bool has_field(const weir_serve_status *s, const char *key) {
  for (int32_t i = 0; i < s->n_fields; i++)
    if (!strcmp(s->field[i].key, key)) return true;
  return false;
}

static void test_idle(void **state) {
  (void)state;
  weir_engine_stats x = {.active = 0};
  weir_serve_status s;
  x.tier[0].steps = 7;
  x.tokens_by_tier[0] = 100;
  weir_serve_status_init(&s, 2, names, &x, 0);
  assert_false(weir_serve_status_next(&s, &x, 5 * SECOND));
  x.queued = 1; /* waits for something */
  assert_true(weir_serve_status_next(&s, &x, 10 * SECOND));
  x.queued = 0;
  x.tier[1].steps++; /* came and went between two lines */
  assert_true(weir_serve_status_next(&s, &x, 15 * SECOND));
  assert_false(weir_serve_status_next(&s, &x, 20 * SECOND));
  x.active = 1;
  assert_false(weir_serve_status_next(&s, &x, 20 * SECOND)); /* no time: no rates */
}

static void test_line(void **state) {
  (void)state;
  weir_engine_stats x = {.active = 3, .queued = 2};
  weir_serve_status s;
  x.tokens_by_tier[0] = 1000; /* of before: not in the rates */
  x.tokens_by_tier[1] = 500;
  x.tier[0] = (weir_tier_stats){.prefix_lookup_tokens = 900, .prefix_hit_tokens = 900};
  weir_serve_status_init(&s, 2, names, &x, 10 * SECOND);
  x.tokens_by_tier[0] += 90;
  x.tokens_by_tier[1] += 10;
  x.tier[0] = (weir_tier_stats){.steps = 9,
                                .prefix_lookup_tokens = 1000,
                                .prefix_hit_tokens = 925,
                                .kv_pages = 200,
                                .kv_pages_used = 50,
                                .kv_pages_cached = 100};
  x.tier[1] = (weir_tier_stats){.steps = 1, .kv_pages = 200, .kv_pages_used = 5};
  assert_true(weir_serve_status_next(&s, &x, 15 * SECOND));
  assert_string_equal(
      s.text,
      "18.0 tok/s small, 2.0 large; 3 running, 2 waiting; deferred 10.0 %; KV 25.0 % small, 2.5 "
      "% large; prefix hits 25.0 %");
  assert_true(field(&s, "tok_s_small") == 18 && field(&s, "tok_s_large") == 2);
  assert_true(field(&s, "running") == 3 && field(&s, "waiting") == 2);
  assert_true(field(&s, "deferral_rate") == 0.1);
  assert_true(field(&s, "kv_used_small") == 0.25 && field(&s, "kv_used_large") == 0.025);
  assert_true(field(&s, "prefix_hit_rate") == 0.25);
  x.tier[1].dead = true;
  assert_true(weir_serve_status_next(&s, &x, 16 * SECOND)); /* nothing new was written, nothing looked up */
  assert_string_equal(
      s.text,
      "0.0 tok/s small, 0.0 large; 3 running, 2 waiting; deferred 0.0 %; KV 25.0 % small, 2.5 % "
      "large; the large tier is down");
}

static void test_one_model(void **state) {
  (void)state;
  weir_engine_stats x = {.active = 1};
  weir_serve_status s;
  weir_serve_status_init(&s, 1, &names[1], &x, 0);
  x.tokens_by_tier[0] = 30;
  x.tier[0].kv_pages = 10;
  assert_true(weir_serve_status_next(&s, &x, 2 * SECOND));
  assert_string_equal(s.text, "15.0 tok/s large; 1 running, 0 waiting; KV 0.0 % large");
  assert_true(field(&s, "tok_s_large") == 15);
  assert_false(has_field(&s, "deferral_rate"));
  x.goodput = 1;
  x.large_only_goodput = 100; /* there is no other model */
  assert_false(weir_serve_status_slower(&s, &x));
}

static void test_slower(void **state) {
  (void)state;
  weir_engine_stats x = {.active = 1};
  weir_serve_status s;
  weir_serve_status_init(&s, 2, names, &x, 0);
  static const struct {
    double goodput, large_only;
    bool told;
  } row[] = {{0, 0, false},     {0, 50, false},   {100, 90, false},
             {100, 104, false}, {100, 120, true}, {100, 200, false}};
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    x.goodput = row[i].goodput;
    x.large_only_goodput = row[i].large_only;
    if (weir_serve_status_slower(&s, &x) != row[i].told) fail_msg("row %zu", i);
    if (row[i].told && (!strstr(s.text, "about 120 tok/s") || !strstr(s.text, "writes 100")))
      fail_msg("says: %s", s.text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_idle),
      cmocka_unit_test(test_line),
      cmocka_unit_test(test_one_model),
      cmocka_unit_test(test_slower),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
