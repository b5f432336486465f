/* SPDX-License-Identifier: Apache-2.0 */
/* The controller of mode auto on its own: what it predicts from step times that are known, how measurements
 * correct it, when it changes and what trials may cost. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "serve/auto.h"

#define MS 1000000LL

typedef struct rig {
  weir_auto a;
  int64_t now;
} rig;

static void expect_near(double got, double want, double share) {
  if (!(fabs(got - want) <= share * fabs(want))) fail_msg("%g, want %g", got, want);
}

static void begin(rig *r, const weir_auto_rules *rules) {
  const weir_auto_rules usual = weir_auto_rules_default();
  weir_auto_init(&r->a, rules ? rules : &usual);
  r->now = 1000 * MS;
}

/* A step by `active` requests in one mode, all of which write `wrote` tokens. */
static void step(rig *r, weir_auto_mode m, int32_t tier, int32_t rows, int32_t prompt, int32_t active,
                 double ms, int32_t wrote) {
  weir_auto_step s = {.from_ns = r->now,
                      .tier = tier,
                      .rows = rows,
                      .prompt_rows = prompt,
                      .answers = rows - prompt,
                      .device_ns = (int64_t)(1e6 * ms),
                      .active = active};
  r->now += s.device_ns;
  s.now_ns = r->now;
  s.of[m] = active;
  weir_auto_step_done(&r->a, &s);
  if (wrote > 0) weir_auto_wrote(&r->a, m, wrote);
}

static void test_curves(void **state) {
  (void)state;
  rig r;
  begin(&r, NULL);
  const weir_auto_curve *c = &r.a.tier[1];
  assert_true(weir_auto_step_ns(c, 4) == 0); /* nothing is known */
  for (int32_t i = 0; i < 30; i++) {
    step(&r, WEIR_AUTO_LARGE, 1, 4, 0, 4, 10, 4);
    step(&r, WEIR_AUTO_LARGE, 1, 16, 0, 16, 16, 16);
  }
  expect_near(weir_auto_step_ns(c, 4), 10e6, 1e-6);
  expect_near(weir_auto_step_ns(c, 10), 13e6, 1e-6); /* half way */
  expect_near(weir_auto_step_ns(c, 2), 9e6, 1e-6);   /* on the same line, and never below in proportion */
  expect_near(weir_auto_step_ns(c, 32), 24e6, 1e-6);
  /* Steps of prompts have been larger, and say more about large sizes than a line through small ones. */
  for (int32_t i = 0; i < 30; i++) step(&r, WEIR_AUTO_LARGE, 1, 64, 64, 4, 52, 0);
  expect_near(weir_auto_step_ns(c, 32), 16e6 + 16 * (52e6 - 16e6) / 48, 1e-6);
  expect_near(c->prompt_row_ns, 52e6 / 64, 1e-6);
  /* A step that was held up counts for four at most. */
  step(&r, WEIR_AUTO_LARGE, 1, 4, 0, 4, 10000, 4);
  assert_true(weir_auto_step_ns(c, 4) < 17e6);
}

/* Step times of both tiers, and what texts are like: 4 of 5 drafts stand and give 4 tokens a cycle, 1 token
 * of 10 is deferred. */
static void teach(rig *r) {
  for (int32_t b = 1; b <= 64; b *= 2)
    for (int32_t i = 0; i < 8; i++) { /* of no mode: nothing is measured by them */
      step(r, WEIR_AUTO_LARGE, 0, b, 0, 0, 1 + 0.05 * b, 0);
      step(r, WEIR_AUTO_LARGE, 1, b, 0, 0, 8 + 0.5 * b, 0);
    }
  for (int32_t i = 0; i < 100; i++) weir_auto_cycle(&r->a, 5, 4);
  for (int32_t i = 0; i < 1000; i++) weir_auto_deferral(&r->a, i % 10 == 0);
}

static void test_predictions(void **state) {
  (void)state;
  rig r;
  begin(&r, NULL);
  teach(&r);
  for (double b = 1; b <= 8; b *= 2) {
    expect_near(weir_auto_cost(&r.a, WEIR_AUTO_LARGE, b), 1e6 * (8 + 0.5 * b) / b, 1e-6);
    expect_near(weir_auto_cost(&r.a, WEIR_AUTO_SMALL, b), 1e6 * (1 + 0.05 * b) / b, 1e-6);
    expect_near(weir_auto_cost(&r.a, WEIR_AUTO_EXACT, b),
                1e6 * (5 * (1 + 0.05 * b) + 8 + 0.5 * 6 * b) / (4 * b), 1e-2);
  }
  /* Alone: a small step a token, and for each tenth a large one of the ten tokens it has not seen. */
  expect_near(weir_auto_cost(&r.a, WEIR_AUTO_CASCADE, 1), 1e6 * (1.05 + 0.1 * (8 + 0.5 * 10)), 0.01);
  /* The larger the load, the less a draft is worth, though as many stand. */
  const double one = weir_auto_cost(&r.a, WEIR_AUTO_EXACT, 1) / weir_auto_cost(&r.a, WEIR_AUTO_LARGE, 1);
  const double many = weir_auto_cost(&r.a, WEIR_AUTO_EXACT, 64) / weir_auto_cost(&r.a, WEIR_AUTO_LARGE, 64);
  assert_true(one < 0.6 && many > 1);
  /* Prompts: three rows a token, on each tier that the mode feeds. */
  for (int32_t i = 0; i < 40; i++) {
    step(&r, WEIR_AUTO_LARGE, 0, 100, 100, 0, 10, 0);
    step(&r, WEIR_AUTO_LARGE, 1, 100, 100, 0, 50, 0);
    weir_auto_end(&r.a, 300, 100, i % 2); /* every other one has needed the large tier */
  }
  const double decode = 1e6 * (8 + 0.5) / 1;
  expect_near(weir_auto_cost(&r.a, WEIR_AUTO_LARGE, 1), decode + 3 * 0.5e6, 1e-3);
  expect_near(weir_auto_cost(&r.a, WEIR_AUTO_SMALL, 1), 1.05e6 + 3 * 0.1e6, 1e-3);
  expect_near(weir_auto_cost(&r.a, WEIR_AUTO_CASCADE, 1),
              1e6 * (1.05 + 0.1 * 13) + 3 * 0.1e6 + 3 * 0.5e6 * 0.5, 0.02);
}

/* Where the tiers work at the same time a request goes round, and both are never slower than one would be. */
static void test_overlap(void **state) {
  (void)state;
  weir_auto_rules rules = weir_auto_rules_default();
  rules.overlap = true;
  rig apart, shared;
  begin(&apart, &rules);
  begin(&shared, NULL);
  teach(&apart);
  teach(&shared);
  expect_near(weir_auto_cost(&apart.a, WEIR_AUTO_EXACT, 1), 1e6 * (5 * 1.05 + 8 + 3) / 4, 0.02);
  expect_near(weir_auto_cost(&apart.a, WEIR_AUTO_CASCADE, 1), 1e6 * (10 * 1.05 + 8 + 5) / 10, 0.02);
  for (double b = 8; b <= 32; b *= 2) {
    assert_true(weir_auto_cost(&apart.a, WEIR_AUTO_EXACT, b) < weir_auto_cost(&shared.a, WEIR_AUTO_EXACT, b));
    assert_true(weir_auto_cost(&apart.a, WEIR_AUTO_LARGE, b) ==
                weir_auto_cost(&shared.a, WEIR_AUTO_LARGE, b));
  }
}

/* `large` runs at half the speed its step times promise, and is believed no more; at another load a little.
 */
static void test_correction(void **state) {
  (void)state;
  for (int off = 0; off < 2; off++) {
    weir_auto_rules rules = weir_auto_rules_default();
    rules.no_correction = off;
    rig r;
    begin(&r, &rules);
    teach(&r);
    const double said = weir_auto_cost(&r.a, WEIR_AUTO_LARGE, 4);
    for (int32_t i = 0; i < 40; i++) { /* every other request of the step writes nothing */
      step(&r, WEIR_AUTO_LARGE, 1, 4, 0, 4, 10, 2);
    }
    const double now = weir_auto_cost(&r.a, WEIR_AUTO_LARGE, 4);
    expect_near(now / said, off ? 1 : 2, 0.02);
    const double far = weir_auto_cost(&r.a, WEIR_AUTO_LARGE, 32) / (1e6 * (8 + 16) / 32);
    assert_true(off ? fabs(far - 1) < 0.02 : far > 1.2 && far < 2);
    const weir_auto_stats s = weir_auto_get_stats(&r.a);
    expect_near(s.measured[WEIR_AUTO_LARGE], 2 / 0.010, 0.02);
  }
}

/* Runs for so long in the mode of the moment, at a load; how often it changed. */
static int64_t live(rig *r, weir_quality q, int32_t b, int64_t ms, double small_ms, double large_ms,
                    double large_per_row) {
  const int64_t until = r->now + ms * MS, before = r->a.switches;
  while (r->now < until) {
    const weir_auto_mode m = weir_auto_of(&r->a, q);
    if (m == WEIR_AUTO_LARGE) step(r, m, 1, b, 0, b, large_ms + large_per_row * b, b);
    if (m == WEIR_AUTO_SMALL) step(r, m, 0, b, 0, b, small_ms, b);
    if (m == WEIR_AUTO_EXACT) {
      for (int32_t k = 0; k < 5; k++) step(r, m, 0, b, 0, b, small_ms, 0);
      step(r, m, 1, 6 * b, 0, b, large_ms + large_per_row * 6 * b, 4 * b);
      for (int32_t k = 0; k < b; k++) weir_auto_cycle(&r->a, 5, 4);
    }
    if (m == WEIR_AUTO_CASCADE) {
      for (int32_t k = 0; k < 10; k++) {
        step(r, m, 0, b, 0, b, small_ms, k < 9 ? b : 0);
        for (int32_t i = 0; i < b; i++) weir_auto_deferral(&r->a, k == 9);
      }
      step(r, m, 1, 10 * b, 0, b, large_ms + large_per_row * 10 * b, b);
    }
    weir_auto_decide(&r->a, NULL, 0);
  }
  return r->a.switches - before;
}

static void test_switches(void **state) {
  (void)state;
  rig r;
  char why[1024];
  begin(&r, NULL);
  weir_auto_begin(&r.a, WEIR_QUALITY_EXACT, 10, 100);
  assert_int_equal(weir_auto_of(&r.a, WEIR_QUALITY_EXACT), WEIR_AUTO_EXACT);
  /* One request: drafts pay. Many: a large step of six rows each costs more than what they save. */
  live(&r, WEIR_QUALITY_EXACT, 1, 3000, 1, 8, 0.5);
  assert_int_equal(weir_auto_of(&r.a, WEIR_QUALITY_EXACT), WEIR_AUTO_EXACT);
  live(&r, WEIR_QUALITY_EXACT, 32, 3000, 3, 8, 0.5);
  assert_int_equal(weir_auto_of(&r.a, WEIR_QUALITY_EXACT), WEIR_AUTO_LARGE);
  assert_int_equal(live(&r, WEIR_QUALITY_EXACT, 32, 5000, 3, 8, 0.5), 0);
  live(&r, WEIR_QUALITY_EXACT, 1, 3000, 1, 8, 0.5);
  assert_int_equal(weir_auto_of(&r.a, WEIR_QUALITY_EXACT), WEIR_AUTO_EXACT);
  assert_int_equal(r.a.tokens[WEIR_AUTO_CASCADE] + r.a.tokens[WEIR_AUTO_SMALL], 0);
  /* Nobody asked for the other floors: their modes have not moved. */
  assert_int_equal(weir_auto_of(&r.a, WEIR_QUALITY_NEAR), WEIR_AUTO_CASCADE);
  /* A dead tier is left at once, with the reason, and within the floor. */
  weir_auto_begin(&r.a, WEIR_QUALITY_NEAR, 10, 100);
  weir_auto_begin(&r.a, WEIR_QUALITY_ANY, 10, 100);
  weir_auto_tier(&r.a, 0, false);
  assert_true(weir_auto_decide(&r.a, why, sizeof why));
  assert_non_null(strstr(why, "quality exact: large instead of exact"));
  assert_non_null(strstr(why, "the small model is down"));
  for (int q = 0; q < WEIR_N_QUALITIES; q++)
    assert_int_equal(weir_auto_of(&r.a, (weir_quality)q), WEIR_AUTO_LARGE);
  weir_auto_tier(&r.a, 0, true);
  weir_auto_tier(&r.a, 1, false);
  weir_auto_decide(&r.a, why, sizeof why);
  assert_int_equal(weir_auto_of(&r.a, WEIR_QUALITY_EXACT),
                   WEIR_AUTO_LARGE); /* it waits: nothing else is exact */
  assert_true(weir_auto_of(&r.a, WEIR_QUALITY_NEAR) == WEIR_AUTO_CASCADE);
  assert_true(weir_auto_of(&r.a, WEIR_QUALITY_ANY) >= WEIR_AUTO_CASCADE);
  assert_true(weir_auto_needs(WEIR_QUALITY_EXACT, 1) && !weir_auto_needs(WEIR_QUALITY_EXACT, 0));
  assert_false(weir_auto_needs(WEIR_QUALITY_NEAR, 1) || weir_auto_needs(WEIR_QUALITY_ANY, 0));
}

/* Two modes that are as good as each other but for noise: it stays where it is, which it would not without
 * margin and hold. */
static void test_no_flapping(void **state) {
  (void)state;
  int64_t switches[2] = {0, 0};
  for (int loose = 0; loose < 2; loose++) {
    weir_auto_rules rules = weir_auto_rules_default();
    if (loose) rules.margin = 0;
    if (loose) rules.hold_ns = 0;
    rig r;
    begin(&r, &rules);
    weir_auto_begin(&r.a, WEIR_QUALITY_EXACT, 10, 100);
    for (int32_t i = 0; i < 600; i++) {
      const double noise = 0.04 * (i * 7 % 5 - 2);
      switches[loose] += live(&r, WEIR_QUALITY_EXACT, 1, 50, 1 + noise, 5 / 3.0 - noise, 0);
    }
  }
  if (switches[0] > 4 || switches[1] < 10)
    fail_msg("%d switches, %d without hysteresis", (int)switches[0], (int)switches[1]);
}

/* What trials lose stays within the share of time they may cost. */
static void test_trials(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    weir_auto_rules rules = weir_auto_rules_default();
    if (k == 1) rules.explore = 0;
    rig r;
    begin(&r, &rules);
    weir_auto_begin(&r.a, WEIR_QUALITY_NEAR, 10, 100);
    for (int32_t i = 0; i < 40; i++) live(&r, WEIR_QUALITY_NEAR, 1 << i % 6, 2000, 1, 10, 0);
    if (k == 1) assert_int_equal(r.a.probes, 0);
    if (k == 0) assert_true(r.a.probes > 0 && r.a.credit_ns > -0.5e9);
    assert_int_equal(weir_auto_of(&r.a, WEIR_QUALITY_NEAR), WEIR_AUTO_CASCADE);
  }
}

static void test_names(void **state) {
  (void)state;
  weir_quality q;
  static const char *const name[] = {"near", "exact", "any"};
  for (int i = 0; i < WEIR_N_QUALITIES; i++) {
    assert_true(weir_quality_parse(name[i], &q));
    assert_int_equal(q, i);
    assert_string_equal(weir_quality_name((weir_quality)i), name[i]);
  }
  assert_false(weir_quality_parse("Exact", &q) || weir_quality_parse("", &q));
  assert_int_equal(weir_quality_modes(WEIR_QUALITY_EXACT), 3);
  assert_int_equal(weir_quality_modes(WEIR_QUALITY_NEAR), 7);
  assert_int_equal(weir_quality_modes((weir_quality)9), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_curves),   cmocka_unit_test(test_predictions),
      cmocka_unit_test(test_overlap),  cmocka_unit_test(test_correction),
      cmocka_unit_test(test_switches), cmocka_unit_test(test_no_flapping),
      cmocka_unit_test(test_trials),   cmocka_unit_test(test_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
