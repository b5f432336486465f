/* SPDX-License-Identifier: Apache-2.0 */
/* Mode auto on a virtual clock: over made-up machines, with a load that goes from one request to many and
 * back, it takes about as long as the best fixed mode its floor allows.
 * usage: test_auto [--long] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
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

static void test_trace(void **state) {
  (void)state;
  for (int32_t i = 0; i < n_machines; i++) {
    const auto_machine *m = &machines[i];
    double seconds[WEIR_N_AUTO_MODES];
    for (int k = 0; k < WEIR_N_AUTO_MODES; k++) {
      const auto_ran r = auto_trace(m, fixed[k], WEIR_QUALITY_NEAR, NULL);
      seconds[k] = r.seconds;
      print_message("%-20s %-6s %7.2f s%s", m->name, weir_auto_mode_name((weir_auto_mode)k), r.seconds, "");
      if (k == WEIR_AUTO_EXACT) print_message("  %.0f %% stand", 100 * r.stands);
      print_message("\n");
    }
    for (int q = 0; q < WEIR_N_QUALITIES; q++) {
      const auto_ran r = auto_trace(m, WEIR_MODE_AUTO, (weir_quality)q, NULL);
      double best = 0, worst = 0;
      for (int k = 0; k < WEIR_N_AUTO_MODES; k++) {
        if (!(weir_quality_modes((weir_quality)q) >> k & 1)) continue;
        if (best == 0 || seconds[k] < best) best = seconds[k];
        if (seconds[k] > worst) worst = seconds[k];
      }
      print_message(
          "%-20s auto %-5s %7.2f s = %.3f of best, %.3f of worst; %d switches, %d probes; tokens "
          "L %d E %d D %d S %d\n",
          m->name, weir_quality_name((weir_quality)q), r.seconds, r.seconds / best, r.seconds / worst,
          (int)r.switches, (int)r.probes, (int)r.tokens[0], (int)r.tokens[1], (int)r.tokens[2],
          (int)r.tokens[3]);
    }
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_trace),
  };
  if (argc > 1 && strcmp(argv[1], "--long") == 0) n_machines = N_MACHINES;
  weir_log_set_level(argc > 2 ? WEIR_LOG_INFO : WEIR_LOG_ERROR);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
