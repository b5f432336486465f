/* SPDX-License-Identifier: Apache-2.0 */
/* The executor over the ranks of one process: against a local one, its failures, its recovery, its end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tp_rig.h"

#define SECOND INT64_C(1000000000)

static rig_opts threads(const char *model, int32_t n) {
  return (rig_opts){.model = model, .n_nodes = 1, .n_local = n, .comm = WEIR_COMM_SHM};
}

static void test_ranks_are_one(void **state) {
  static const struct {
    const char *model;
    int32_t most; /* ranks that the model has heads for */
    double bound;
  } cases[] = {
      {"llama-F32", 4, 1e-4}, {"qwen3-Q4_0", 4, 0.05}, {"gemma2-BF16", 2, 2e-3}, {"mixtral-BF16", 4, 2e-3}};
  (void)state;
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    weir_dev *dev;
    weir_err e = {0};
    talk want;
    weir_exec *local = rig_local_exec(cases[c].model, &dev);
    if (!talk_hold(local, NULL, &want, &e)) fail_msg("%s", e.msg);
    for (int32_t n = 1; n <= cases[c].most; n *= 2) {
      rig r;
      talk got, again;
      char what[64];
      snprintf(what, sizeof what, "%s on %d ranks", cases[c].model, n);
      const rig_opts o = threads(cases[c].model, n);
      rig_open(&r, &o);
      rig_start(&r);
      assert_int_equal(r.exec->life->number(r.exec, &e), 1);
      if (!talk_hold(r.exec, &want, &got, &e)) fail_msg("%s: %s", what, e.msg);
      talk_expect_close(&got, &want, n == 1 ? 0 : cases[c].bound, what);
      if (!talk_hold(r.exec, &want, &again, &e)) fail_msg("%s: %s", what, e.msg);
      assert_memory_equal(&again, &got, sizeof got);
      const weir_tp_stats s = weir_exec_tp_stats(r.exec);
      assert_int_equal(s.groups, 1);
      assert_true(n == 1 ? s.comm.calls == 0 : s.comm.calls > 0 && s.comm.bytes > 0);
      rig_close(&r);
    }
    local->ops->destroy(local);
    weir_dev_destroy(dev);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ranks_are_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
