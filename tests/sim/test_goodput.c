/* SPDX-License-Identifier: Apache-2.0 */
/* Measured speed and the estimate of the large tier alone: against arithmetic, and against an engine whose
 * steps take times that are known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/log.h"
#include "serve/goodput.h"
#include "world.h"

#define MS    1000000LL
#define START (1000000LL * MS)

static void expect_near(double got, double want, double share) {
  if (!(fabs(got - want) <= share * want)) fail_msg("%g, want %g", got, want);
}

static void test_rate(void **state) {
  (void)state;
  weir_goodput g = {0};
  assert_true(weir_goodput_rate(&g, START) == 0);
  for (int64_t t = 0; t < 3000; t++) { /* 2 tokens each millisecond for 3 s */
    weir_goodput_step(&g, START + t * MS, false, 2, 0, MS);
    weir_goodput_tokens(&g, START + t * MS, 2);
  }
  expect_near(weir_goodput_rate(&g, START + 3000 * MS), 2000, 0.02);
  /* An hour of rest takes nothing away, and is not remembered. */
  const int64_t later = START + 3600000 * MS;
  assert_true(weir_goodput_rate(&g, later) == 0);
  for (int64_t t = 0; t < 1000; t++) weir_goodput_tokens(&g, later + t * MS, 1);
  expect_near(weir_goodput_rate(&g, later + 1000 * MS), 1000, 0.02);
}

/* Steps longer than a slot, and almost as long as the window: the rate is theirs whenever one looks. */
static void test_long_steps(void **state) {
  (void)state;
  static const int32_t step_ms[] = {20, 100, 300, 600, 1000, 2000, 4000};
  for (size_t k = 0; k < sizeof step_ms / sizeof *step_ms; k++) {
    weir_goodput g = {0};
    const int64_t step = step_ms[k] * MS;
    int64_t now = START + 77 * MS;
    for (int32_t i = 0; i < 40000 / step_ms[k]; i++) {
      now += step;
      const bool large = i % 3 == 2; /* each step writes four tokens */
      weir_goodput_step(&g, now, large, 4, 0, step);
      weir_goodput_tokens(&g, now, 4);
      for (int64_t at = now; i > 2 && at < now + step; at += step / 7 + 1)
        expect_near(weir_goodput_rate(&g, at), 4e9 / (double)step, 0.1);
    }
    expect_near(weir_goodput_large_only(&g, now, 4), 4e9 / (double)step, 1e-6);
  }
}

/* A small step each 100 ms beside large ones of 3 s on a device of their own: time counts once. */
static void test_long_steps_overlap(void **state) {
  (void)state;
  weir_goodput g = {0};
  for (int64_t t = 100; t <= 30000; t += 100) {
    const int64_t now = START + t * MS;
    weir_goodput_step(&g, now, false, 2, 0, 90 * MS);
    weir_goodput_tokens(&g, now, 2);
    if (t % 3000 == 0) weir_goodput_step(&g, now, true, 4, 0, 2990 * MS);
    if (t > 5000) expect_near(weir_goodput_rate(&g, now), 20, 0.05);
  }
}

static void test_large_only(void **state) {
  (void)state;
  weir_goodput g = {0};
  assert_true(weir_goodput_large_only(&g, START, 4) == 0); /* nothing is known */
  for (int32_t i = 0; i < 50; i++) {
    weir_goodput_step(&g, START, true, 4, 0, 10 * MS);
    weir_goodput_step(&g, START, true, 16, 0, 16 * MS);
  }
  expect_near(weir_goodput_large_only(&g, START, 4), 400, 1e-6);
  expect_near(weir_goodput_large_only(&g, START, 16), 1000, 1e-6);
  expect_near(weir_goodput_large_only(&g, START, 10), 10 / 0.013, 1e-6); /* half way */
  expect_near(weir_goodput_large_only(&g, START, 2), 200, 1e-6);         /* no faster than four rows */
  expect_near(weir_goodput_large_only(&g, START, 32), 1000, 1e-6);       /* no better than in proportion */
  assert_true(weir_goodput_large_only(&g, START, 0) == 0);
  /* Three prompt rows for each token, half a millisecond each on the large tier. */
  weir_goodput_step(&g, START, true, 100, 100, 50 * MS);
  weir_goodput_step(&g, START, false, 300, 300, MS);
  weir_goodput_tokens(&g, START, 100);
  expect_near(weir_goodput_large_only(&g, START, 4), 1 / (0.0025 + 3 * 0.0005), 1e-6);
}

static void test_hysteresis(void **state) {
  (void)state;
  weir_goodput g = {0};
  int32_t told = 0;
  int64_t first = 0;
  /* Large alone: 100 a second for one request. The cascade writes 50, then 105, then 50 again, then 200. */
  static const int32_t per_100ms[] = {5, 10, 5, 20, 5};
  static const int64_t until[] = {8000, 16000, 24000, 40000, 100000};
  int32_t phase = 0, told_in[5] = {0};
  for (int64_t t = 0; t < 100000; t += 100) {
    if (t >= until[phase]) phase++;
    const int64_t now = START + t * MS;
    weir_goodput_step(&g, now, true, 1, 0, 10 * MS);
    weir_goodput_step(&g, now, false, 1, 0, MS);
    weir_goodput_tokens(&g, now, per_100ms[phase]);
    if (weir_goodput_tell(&g, now, 1)) {
      if (told++ == 0) first = t;
      told_in[phase]++;
    }
  }
  assert_true(told_in[0] == 1 && first >= 3000 && first < 4000);
  assert_int_equal(told_in[1] + told_in[2] + told_in[3], 0); /* 100 against 100 changes nothing */
  assert_int_equal(told_in[4], 1); /* after the cascade had been faster; a minute on */
}

/* An engine whose cascade never pays: it defers at each token. What it estimates for the large tier alone is
 * what the large tier alone then does. */
static void test_estimate_comes_true(void **state) {
  (void)state;
  static world w;
  static world_job job[64];
  double estimate = 0, cascade = 0;
  for (int32_t large = 0; large < 2; large++) {
    world_opts o = world_roomy();
    o.max_active = 4;
    o.large_batch = 4;
    o.prefix_pages = 0;
    o.step_ns[0] = 3 * MS;
    o.step_ns[1] = 5 * MS;
    world_open(&w, &o);
    for (int32_t i = 0; i < 64; i++) {
      job[i] = (world_job){.n_prompt = 4, .max_new = 90, .ignore_eos = true, .tau = 0.001f};
      job[i].mode = large ? WEIR_MODE_LARGE : WEIR_MODE_DEFER;
      job[i].draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = (uint64_t)i, .probe = -1};
      if (i == 63) job[i].max_new = 1; /* so that most are still under way at the end of the run */
    }
    world_run(&w, job, 64);
    const weir_engine_stats s = weir_engine_get_stats(w.engine);
    if (large) {
      expect_near(s.goodput, estimate, 0.05);
      assert_true(s.goodput > 1.1 * cascade);
    } else {
      cascade = s.goodput;
      estimate = w.large_only;
    }
    world_close(&w);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rate),
      cmocka_unit_test(test_long_steps),
      cmocka_unit_test(test_long_steps_overlap),
      cmocka_unit_test(test_large_only),
      cmocka_unit_test(test_hysteresis),
      cmocka_unit_test(test_estimate_comes_true),
  };
  weir_log_set_level(WEIR_LOG_ERROR - 1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
