/* SPDX-License-Identifier: Apache-2.0 */
/* The gate head on the emulated device: the score of each row against float64 from the device's own hidden
 * states, in a step that is enqueued and in its record played again; a head that takes another's place. One
 * thread. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "gate_rig.h"
#include "golden.h"

/* A sum of some hundred products in float, in the device's order. */
static const double MOST = 1e-5;

static void test_scores(void **state) {
  (void)state;
  static const golden_model tiny = {.name = "llama-F32"};
  const weir_ask draw = {.temperature = 0.8f, .top_p = 1, .seed = 5, .probe = -1};
  weir_row first[2] = {{0}}, again[2];
  weir_batch_builder b;
  weir_err e;
  for (int graphs = 0; graphs < 2; graphs++) {
    cu_shim_config c = cu_shim_defaults();
    c.seed = (uint64_t)graphs;
    c.n_sms = 6; /* fewer, longer blocks: quicker here */
    cu_shim_reset(&c);
    model m = model_open_on(cuda_test_open(NULL, !graphs), &tiny, 128, WEIR_F16);
    weir_gate_head h = gate_rig_head(m.inst, 7), other = gate_rig_head(m.inst, 8);
    kern_ok(weir_batch_builder_init(&b, 128, 2, GOLDEN_PAGES, 1, &e), &e, "a builder");
    kern_ok(weir_instance_set_gate(m.inst, &h, &e), &e, "a head");
    const weir_batch decode = gate_rig_decode(&b, &draw);
    for (int i = 0; i < 2; i++) { /* the second time it is a record, where there are any */
      const double step = gate_rig_step(m.inst, &decode, &h, again);
      if (!(step <= MOST)) fail_msg("decode, time %d: off by %g", i, step);
      if (i + graphs == 0) memcpy(first, again, sizeof first);
      assert_memory_equal(again, first, sizeof first);
      if (!graphs) break;
    }
    assert_true(first[0].gate != first[1].gate);
    if (graphs) { /* what was recorded named the head that is gone */
      kern_ok(weir_instance_set_gate(m.inst, &other, &e), &e, "another head");
      assert_true(gate_rig_step(m.inst, &decode, &other, again) <= MOST);
      assert_true(again[0].gate != first[0].gate);
    }
    free(h.weight);
    free(other.weight);
    weir_batch_builder_fini(&b);
    weir_dev *dev = m.dev;
    weir_instance_destroy(m.inst);
    cuda_test_close(dev);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_scores)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
