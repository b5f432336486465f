/* SPDX-License-Identifier: Apache-2.0 */
/* Settings by name: what each text comes to, and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cascade/cascade_set.h"

static weir_status set(weir_cascade_opts *o, const char *name, const char *value, weir_err *e) {
  return weir_cascade_opts_set(o, name, value, e);
}

static void test_values(void **state) {
  (void)state;
  weir_err e = {0};
  weir_cascade_opts o = {.mode = WEIR_MODE_SPECULATE};
  assert_int_equal(set(&o, "accept", "typical", &e), WEIR_OK);
  assert_int_equal(set(&o, "accept_epsilon", "0.25", &e), WEIR_OK);
  assert_int_equal(set(&o, "accept_delta", "1e-1", &e), WEIR_OK);
  assert_int_equal(set(&o, "window", "7", &e), WEIR_OK);
  assert_int_equal(set(&o, "horizon", "9", &e), WEIR_OK);
  assert_true(o.accept == WEIR_KEEP_TYPICAL && o.accept_epsilon == 0.25f && o.accept_delta == 0.1f);
  assert_true(o.window == 7 && o.horizon == 9);
  assert_true(o.set == (WEIR_OPT_ACCEPT | WEIR_OPT_ACCEPT_EPSILON | WEIR_OPT_ACCEPT_DELTA | WEIR_OPT_WINDOW |
                        WEIR_OPT_HORIZON));
  weir_cascade_cfg g;
  assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_OK);
  assert_true(g.keep[1] == WEIR_KEEP_TYPICAL && g.keep_a[1] == 0.25f && g.window[0] == 7 && g.horizon == 9);

  o = (weir_cascade_opts){.mode = WEIR_MODE_DEFER};
  assert_int_equal(set(&o, "gate", "margin", &e), WEIR_OK);
  assert_int_equal(set(&o, "threshold", ".5", &e), WEIR_OK);
  assert_int_equal(set(&o, "hold", "2", &e), WEIR_OK);
  assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_OK);
  assert_true(g.gate[0].kind == WEIR_GATE_MARGIN && g.gate[0].threshold == 0.5f && g.hold[1] == 2);
  assert_int_equal(set(&o, "threshold", "inf", &e), WEIR_OK);
  assert_true(isinf(o.threshold));
  o = (weir_cascade_opts){.mode = WEIR_MODE_ROUTE};
  assert_int_equal(set(&o, "route_after", "end", &e), WEIR_OK);
  assert_int_equal(set(&o, "route_prompt", "12", &e), WEIR_OK);
  assert_int_equal(set(&o, "route_share", "0.25", &e), WEIR_OK);
  assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_OK);
  assert_true(g.route.on && g.route.after == WEIR_FAR && g.route.prompt == 12 && g.route.share == 0.25f);
  assert_int_equal(set(&o, "route_after", "7", &e), WEIR_OK);
  assert_true(o.route_after == 7);
  o = (weir_cascade_opts){.mode = WEIR_MODE_AUTO};
  assert_int_equal(set(&o, "quality", "exact", &e), WEIR_OK);
  assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_OK);
  assert_true(o.quality == WEIR_QUALITY_EXACT);
  o.mode = WEIR_MODE_DEFER;
  assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_EINVAL);
  assert_int_equal(set(&o, "threshold", "-1", &e), WEIR_OK);
  assert_true(o.threshold == -1);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *name, *value, *says;
  } bad[] = {
      {"windows", "1", "no setting \"windows\""},
      {"", "1", "no setting"},
      {"mode", "exact", "no setting"},
      {"defer_rate", "1", "no setting"},
      {"window", "", "want a whole number"},
      {"window", "1.5", "want a whole number"},
      {"window", " 1", "want a whole number"},
      {"window", "1 ", "want a whole number"},
      {"window", "99999999999", "want a whole number"},
      {"window", "99999999999999999999999", "want a whole number"},
      {"hold", "0x10", "want a whole number"},
      {"threshold", "nan", "want a number"},
      {"threshold", "1e300", "want a number"},
      {"threshold", "0.5nats", "want a number"},
      {"threshold", "0.50000000000000000000000000000000000000000000000000000000000000000000",
       "want a number"},
      {"accept", "V3", "want a rule's name"},
      {"accept", "all", "want a rule's name"},
      {"gate", "mood", "want a gate's name"},
      {"route_after", "ends", "want a number of tokens, or end"},
      {"route_after", "-1", "want a number of tokens, or end"},
      {"quality", "best", "want near, exact or any"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_err e = {0};
    weir_cascade_opts o = {.mode = WEIR_MODE_DEFER};
    assert_int_equal(set(&o, bad[i].name, bad[i].value, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, bad[i].says));
    assert_int_equal(o.set, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
