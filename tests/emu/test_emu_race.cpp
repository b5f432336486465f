/* SPDX-License-Identifier: Apache-2.0 */
/* The race detector, on kernels built for it: each planted race is named in every order, and a correct kernel
 * has none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

extern "C" {
#include <cmocka.h>
}
#include <string>

#include "tests/emu/emu.h"
#include "tests/emu/race_cases.h"

struct Call {
  race_case which;
  float *mem, *out;
};

static void test_races(void **) {
  static const struct {
    race_case which;
    const char *want;
  } row[] = {
      {RACE_NONE, NULL},
      {RACE_NO_BARRIER, "of static shared memory, no barrier since thread"},
      {RACE_NO_SYNCWARP, "of static shared memory, no barrier since thread"},
      {RACE_SECOND_WRITE, "of static shared memory, no barrier since thread"},
      {RACE_BOTH_WRITE, "race: write after write"},
      {RACE_LDMATRIX, "of static shared memory, no barrier since thread"},
      {RACE_COPY, "of static shared memory, no barrier since thread"},
      {RACE_ATOMIC_PLAIN, "of static shared memory, no barrier since thread"},
      {RACE_ATOMICS, NULL},
      {RACE_NAMED_BARRIER, "of static shared memory, no barrier since thread"},
      {RACE_PAST_STATIC, "write of 4 bytes outside of shared memory"},
      {RACE_PAST_DYNAMIC, "read of 4 bytes outside of shared memory"},
      {RACE_PAST_GLOBAL, "read of 4 bytes at offset 512 of a device allocation of 512"},
  };
  emu_config *config = emu_config_of();
  const emu_config saved = *config;
  assert_int_equal(config->race, 1); /* instrumented files turn it on */
  for (int order = EMU_ASCENDING; order <= EMU_RANDOM; order++) {
    config->order = (emu_order)order;
    for (const auto &r : row) {
      float out[128];
      Call call = {r.which, (float *)emu_mem_alloc(512), out};
      const std::string got = emu_expect_error(
          [](void *p) {
            const Call *c = (const Call *)p;
            race_case_run(c->which, c->mem, c->out);
          },
          &call);
      if (r.want ? got.find(r.want) == std::string::npos : !got.empty()) {
        print_error("case %d order %d: want \"%s\", got \"%s\"\n", r.which, order, r.want ? r.want : "",
                    got.c_str());
        fail();
      }
      assert_int_equal(emu_mem_free(call.mem), 0);
    }
  }
  *config = saved;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_races)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
