/* SPDX-License-Identifier: Apache-2.0 */
/* What the system says of its memory. One thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"

static void test_meminfo(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t want;
  } c[] = {
      {"MemTotal:  100 kB\nMemFree:   1 kB\nMemAvailable:     20 kB\nSwapFree:  0 kB\n", 20 * 1024},
      {"MemTotal:  100 kB\nMemAvailable: 20 kB\nSwapCached: 9 kB\nSwapFree:  7 kB\n", 27 * 1024},
      {"SwapFree: 7 kB\nMemAvailable: 20 kB", 27 * 1024},
      {"MemAvailable: 4000000000 kB\n", (int64_t)4000000000 * 1024},
      {"MemAvailable: 0 kB\n", 0},
      {"", -1},
      {"MemTotal: 100 kB\nSwapFree: 7 kB\n", -1},
      {"xMemAvailable: 20 kB\n", -1},
      {"MemAvailableX: 20 kB\n", -1},
      {"MemAvailable: much kB\n", -1},
      {"MemAvailable:", -1},
      {"MemAvailable: -1 kB\n", -1},
      {"MemAvailable: 99999999999999999999999999 kB\n", -1},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    const int64_t got = weir_memory_available_in(c[i].text);
    if (got != c[i].want) fail_msg("case %zu: %lld, want %lld", i, (long long)got, (long long)c[i].want);
  }
}

static void test_of_this_machine(void **state) {
  (void)state;
  const int64_t got = weir_memory_available();
  if (got < 0) skip(); /* no /proc here */
  assert_true(got > 1 << 20);
  assert_true(got / 16 < sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE)); /* with swap */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_meminfo),
      cmocka_unit_test(test_of_this_machine),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
