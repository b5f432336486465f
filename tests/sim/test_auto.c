/* SPDX-License-Identifier: Apache-2.0 */
/* Mode auto on a virtual clock: over made-up machines, with a load that goes from one request to many and
 * back, it takes about as long as the best fixed mode its floor allows.
 * usage: test_auto [--long]: all machines */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "auto_trace.h"
#include "base/log.h"
#include "world_auto.h"

static const auto_machine machines[] = {
    {"flat, fast small", {2, 10}, {0.01, 0.03}, {64, 64}, false, 0.9, 3, 0.1},
    {"linear, fast small", {1, 8}, {0.12, 1}, {8, 8}, false, 0.9, 3, 0.1},
    {"linear, slow small", {4, 8}, {0.5, 1}, {8, 8}, false, 0.8, 3, 0.3},
    {"flat, slow small", {5, 10}, {0.02, 0.03}, {64, 64}, false, 0.8, 3, 0.2},
    {"flat, apart", {2, 10}, {0.01, 0.03}, {64, 64}, true, 0.9, 3, 0.1},
    {"linear, apart", {1, 8}, {0.12, 1}, {8, 8}, true, 0.9, 3, 0.2},
    {"flat, unlike", {2, 10}, {0.01, 0.03}, {64, 64}, false, 0.6, 3, 0.5},
    {"linear, alike", {1, 8}, {0.12, 1}, {8, 8}, false, 0.97, 3, 0.05},
};

enum { N_MACHINES = sizeof machines / sizeof *machines, SHORT_MACHINES = 3 };
static int32_t n_machines = SHORT_MACHINES;

static const weir_mode fixed[WEIR_N_AUTO_MODES] = {WEIR_MODE_LARGE, WEIR_MODE_EXACT, WEIR_MODE_DEFER,
                                                   WEIR_MODE_SMALL};

static double fixed_seconds(const auto_machine *m, double seconds[WEIR_N_AUTO_MODES]) {
  double stands = 0;
  for (int k = 0; k < WEIR_N_AUTO_MODES; k++) {
    const auto_ran r = auto_trace(m, fixed[k], WEIR_QUALITY_NEAR, NULL);
    seconds[k] = r.seconds;
    if (k == WEIR_AUTO_EXACT) stands = r.stands;
  }
  return stands;
}

/* Seconds of the best and the worst fixed mode that the floor allows. */
static void bounds(const double seconds[WEIR_N_AUTO_MODES], int q, double *best, double *worst) {
  *best = *worst = 0;
  for (int k = 0; k < WEIR_N_AUTO_MODES; k++) {
    if (!(weir_quality_modes((weir_quality)q) >> k & 1)) continue;
    if (*best == 0 || seconds[k] < *best) *best = seconds[k];
    if (seconds[k] > *worst) *worst = seconds[k];
  }
}

static void test_trace(void **state) {
  (void)state;
  double gained[WEIR_N_QUALITIES] = {0};
  for (int32_t i = 0; i < n_machines; i++) {
    const auto_machine *m = &machines[i];
    double seconds[WEIR_N_AUTO_MODES];
    const double stands = fixed_seconds(m, seconds);
    print_message("%-18s large %.1f, exact %.1f (%.0f %% stand), defer %.1f, small %.1f s\n", m->name,
                  seconds[0], seconds[1], 100 * stands, seconds[2], seconds[3]);
    for (int q = 0; q < WEIR_N_QUALITIES; q++) {
      const auto_ran r = auto_trace(m, WEIR_MODE_AUTO, (weir_quality)q, NULL);
      double best, worst;
      bounds(seconds, q, &best, &worst);
      print_message(
          "  auto %-5s %5.1f s: %.3f of best, %.3f of worst; %d switches, %d trials; tokens in large "
          "%d, exact %d, defer %d, small %d\n",
          weir_quality_name((weir_quality)q), r.seconds, r.seconds / best, r.seconds / worst, (int)r.switches,
          (int)r.probes, (int)r.tokens[0], (int)r.tokens[1], (int)r.tokens[2], (int)r.tokens[3]);
      if (r.seconds > 1.05 * best)
        fail_msg("%s, quality %s: %.2f s, the best fixed mode %.2f s", m->name,
                 weir_quality_name((weir_quality)q), r.seconds, best);
      /* A few hundred milliseconds to find out, at most: most of what the worst loses is gained. */
      assert_true(worst - r.seconds >= 0.8 * (worst - best) - 0.3);
      for (int k = 0; k < WEIR_N_AUTO_MODES; k++)
        if (!(weir_quality_modes((weir_quality)q) >> k & 1)) assert_true(r.tokens[k] == 0);
      gained[q] += 1 - r.seconds / best;
    }
  }
  /* No fixed mode is best from one request to 64: with a choice auto is better than any, on the whole. */
  assert_true(gained[WEIR_QUALITY_EXACT] > 0.05 && gained[WEIR_QUALITY_NEAR] > 0);
}

/* Tiers die and come back while modes change: no token is below its floor (but where the large tier was
 * wanted and not there), nobody is lost, and only who cannot do without a tier ends by its death. */
static void test_deaths(void **state) {
  (void)state;
  static world w;
  static world_job job[12];
  int32_t died = 0, errors = 0, wanted = 0;
  for (uint64_t seed = 0; seed < 60; seed++) {
    world_opts o = world_roomy();
    const int32_t t = (int32_t)(seed % 3 > 0);
    o.async = true;
    o.overlap = seed % 2;
    o.step_timeout_ns = 20000000;
    o.each_turn = seed % 4 ? world_shuffle_modes : NULL;
    o.death[t][0] =
        (virtual_death){.kind = seed % 5 ? DEATH_IN_STEP : DEATH_AT_TIME,
                        .at = seed % 5 ? (int64_t)(5 + seed * 7 % 40) : 3000000 + (int64_t)seed * 50000,
                        .down_ns = seed % 7 ? 4000000 : INT64_MAX};
    o.n_deaths[t] = 1;
    world_open(&w, &o);
    w.seed = seed;
    for (int32_t i = 0; i < 12; i++) {
      job[i] = (world_job){.n_prompt = 5 + i, .max_new = 60, .mode = WEIR_MODE_AUTO, .tau = 1.2f};
      job[i].quality = (weir_quality)(i % WEIR_N_QUALITIES);
      job[i].draw =
          (weir_ask){.temperature = (float)(i % 2), .top_p = 1, .seed = seed + (uint64_t)i, .probe = -1};
      for (int32_t k = 0; k < job[i].n_prompt; k++) job[i].prompt[k] = (i * 7 + k * 3) % 200;
    }
    world_run(&w, job, 12);
    for (int k = 0; k < N_DEATH_KINDS; k++) died += virtual_exec_died(w.exec[t], (death_kind)k);
    for (int32_t i = 0; i < 12; i++) {
      world_check_floor(&w, &job[i]);
      wanted += job[i].counts.wanted_up;
      if (job[i].quality == WEIR_QUALITY_EXACT) assert_int_equal(job[i].counts.wanted_up, 0);
      if (job[i].end != WEIR_END_ERROR) continue;
      errors++;
      assert_true(job[i].quality == WEIR_QUALITY_EXACT && t == 1);
    }
    world_close(&w);
  }
  assert_true(died > 30 && errors > 10 && wanted > 50);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_trace),
      cmocka_unit_test(test_deaths),
  };
  if (argc > 1 && strcmp(argv[1], "--long") == 0) n_machines = N_MACHINES;
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* switches and warnings of slow modes are not news */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
