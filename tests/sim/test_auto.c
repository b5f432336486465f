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

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_trace),
  };
  if (argc > 1 && strcmp(argv[1], "--long") == 0) n_machines = N_MACHINES;
  weir_log_set_level(WEIR_LOG_ERROR); /* switches and warnings of slow modes are not news */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
