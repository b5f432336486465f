/* SPDX-License-Identifier: Apache-2.0 */
/* The fitted gates: what a map says between its knots and outside, what a head makes of a row, what neither
 * accepts, and gates over them: a probability above the threshold defers, and the ends. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "cascade/cascade_conf.h"
#include "cascade/policy.h"

static uint64_t state;
static uint32_t rnd(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % n;
}

static const weir_gate_map rising = {WEIR_STAT_ENTROPY, 4, {0.5f, 1, 2, 4}, {0.1f, 0.1f, 0.5f, 0.9f}};

static const weir_gate_map falling = {WEIR_STAT_MARGIN, 2, {0.1f, 0.6f}, {0.9f, 0.1f}};

static void test_between_and_outside(void **unused) {
  (void)unused;
  static const struct {
    float x, want;
  } table[] = {{-INFINITY, 0.1f}, {-3, 0.1f}, {0.5f, 0.1f}, {0.75f, 0.1f}, {1, 0.1f},        {1.5f, 0.3f},
               {2, 0.5f},         {3, 0.7f},  {4, 0.9f},    {4.1f, 0.9f},  {INFINITY, 0.9f}, {NAN, 1}};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    const float got = weir_gate_map_at(&rising, table[i].x);
    if (!(fabsf(got - table[i].want) < 1e-7f)) fail_msg("x %g: %g", (double)table[i].x, (double)got);
  }
  const weir_gate_map one = {WEIR_STAT_MARGIN, 1, {0.3f}, {0.25f}};
  assert_true(weir_gate_map_at(&one, 0) == 0.25f && weir_gate_map_at(&one, 1) == 0.25f);
  assert_null(weir_gate_map_error(&rising));
  assert_null(weir_gate_map_error(&one));
}

static int by_value(const void *p, const void *q) {
  const float a = *(const float *)p, b = *(const float *)q;
  return (a > b) - (a < b);
}

/* Random maps, with extreme knots too: monotone between neighbours of any distance, equal to the knots at
 * them, within their range. */
static void test_monotone_everywhere(void **unused) {
  (void)unused;
  state = 17;
  for (int round = 0; round < 300; round++) {
    weir_gate_map m = {.stat = (weir_gate_stat)rnd(WEIR_N_STATS)};
    const int n = 1 + (int)rnd(round % 10 == 0 ? WEIR_GATE_MAP_KNOTS : 6);
    for (int i = 0; i < n; i++) {
      const double at = rnd(1000);
      m.x[i] = (float)(round % 7 == 0 ? at * 6e35 - 3e38 : at * 1e-3);
      m.y[i] = (float)rnd(11) / 10;
    }
    qsort(m.x, (size_t)n, sizeof *m.x, by_value);
    qsort(m.y, (size_t)n, sizeof *m.y, by_value);
    for (int i = 0; i < n; i++)
      if (m.n == 0 || m.x[i] > m.x[m.n - 1]) m.x[m.n++] = m.x[i];
    const float sign = m.stat == WEIR_STAT_ENTROPY ? 1 : -1;
    for (int i = 0; sign < 0 && i < m.n / 2; i++) {
      const float y = m.y[i];
      m.y[i] = m.y[m.n - 1 - i];
      m.y[m.n - 1 - i] = y;
    }
    assert_null(weir_gate_map_error(&m));
    for (int i = 0; i < m.n; i++) {
      assert_true(weir_gate_map_at(&m, m.x[i]) == m.y[i]);
      float last = m.y[i], x = m.x[i];
      for (int k = 0; i + 1 < m.n && k < 40; k++) {
        x = k < 8 ? nextafterf(x, INFINITY) : (float)((double)x + ((double)m.x[i + 1] - (double)x) * 0.1);
        if (x >= m.x[i + 1]) break;
        const float y = weir_gate_map_at(&m, x);
        assert_true(sign * (y - last) >= 0 && y >= 0 && y <= 1 && sign * (m.y[i + 1] - y) >= 0);
        last = y;
      }
    }
  }
}

static void test_maps_that_are_none(void **unused) {
  (void)unused;
  weir_gate_map m[10];
  for (int i = 0; i < 10; i++) m[i] = rising;
  m[0].n = 0;
  m[1].n = WEIR_GATE_MAP_KNOTS + 1;
  m[2].x[2] = NAN;
  m[3].x[3] = INFINITY;
  m[4].x[1] = m[4].x[0];
  m[5].y[3] = 1.0001f;
  m[6].y[0] = -0.0001f;
  m[7].y[2] = 0.05f;              /* falls with the entropy */
  m[8].stat = WEIR_STAT_TOP_PROB; /* rises with it */
  m[9].stat = (weir_gate_stat)WEIR_N_STATS;
  for (int i = 0; i < 10; i++)
    if (!weir_gate_map_error(&m[i])) fail_msg("map %d passes", i);
}

static void test_head_scores(void **unused) {
  (void)unused;
  float w[2] = {1, -1};
  weir_gate_head h = {.dim = 2, .weight = w, .bias = -0.5f, .stat_weight = {2, 0, -3}};
  const weir_row r = {.entropy = 0.75f, .p_max = NAN, .margin = 0.25f};
  /* z = -0.5 + 0.125 + 2 0.75 - 3 0.25; the top probability is not looked at */
  assert_true(fabs((double)weir_gate_head_score(&h, 0.125f, &r) - 1 / (1 + exp(-0.375))) < 1e-7);
  assert_true(weir_gate_head_score(&h, -INFINITY, &r) == 0 && weir_gate_head_score(&h, INFINITY, &r) == 1);
  assert_true(isnan(weir_gate_head_score(&h, NAN, &r)));
  assert_null(weir_gate_head_error(&h));
  w[1] = NAN;
  assert_non_null(weir_gate_head_error(&h));
  w[1] = 0;
  h.bias = INFINITY;
  assert_non_null(weir_gate_head_error(&h));
  h.bias = 0;
  h.stat_weight[1] = NAN;
  assert_non_null(weir_gate_head_error(&h));
  h.stat_weight[1] = 0;
  h.dim = 0;
  assert_non_null(weir_gate_head_error(&h));
  h.dim = WEIR_GATE_MAX_DIM + 1;
  assert_non_null(weir_gate_head_error(&h));
  h.dim = 2;
  h.weight = NULL;
  assert_non_null(weir_gate_head_error(&h));
}

static void test_gates_of_probabilities(void **unused) {
  (void)unused;
  const struct {
    weir_gate gate;
    weir_row row;
    bool defers, never;
  } table[] = {
      {{WEIR_GATE_ISOTONIC, 0.5f, &rising}, {.entropy = 2}, false, false},
      {{WEIR_GATE_ISOTONIC, 0.5f, &rising}, {.entropy = 2.001f}, true, false},
      {{WEIR_GATE_ISOTONIC, 0.5f, &rising}, {.entropy = 1, .gate = 0.9f, .margin = 5}, false, false},
      {{WEIR_GATE_ISOTONIC, 0, &rising}, {.entropy = 0}, true, false},
      {{WEIR_GATE_ISOTONIC, 0.9f, &rising}, {.entropy = 50}, false, false},
      {{WEIR_GATE_ISOTONIC, 0.95f, &rising}, {.entropy = NAN}, true, false},
      {{WEIR_GATE_ISOTONIC, 1, &rising}, {.entropy = NAN}, false, false},
      {{WEIR_GATE_ISOTONIC, -0.001f, &rising}, {.entropy = 0}, true, true},
      {{WEIR_GATE_ISOTONIC, INFINITY, &rising}, {.entropy = 9}, false, false},
      {{WEIR_GATE_ISOTONIC, 0.2f, &falling}, {.entropy = 0, .p_max = 0, .margin = 0.7f}, false, false},
      {{WEIR_GATE_ISOTONIC, 0.2f, &falling}, {.entropy = 9, .p_max = 9, .margin = 0.2f}, true, false},
      {{.kind = WEIR_GATE_HEAD, .threshold = 0.3f}, {.gate = 0.3f, .entropy = 9}, false, false},
      {{.kind = WEIR_GATE_HEAD, .threshold = 0.3f}, {.gate = 0.3001f}, true, false},
      {{.kind = WEIR_GATE_HEAD, .threshold = 0}, {.gate = 0}, false, false},
      {{.kind = WEIR_GATE_HEAD, .threshold = 0.99f}, {.gate = NAN}, true, false},
      {{.kind = WEIR_GATE_HEAD, .threshold = 1}, {.gate = NAN}, false, false},
      {{.kind = WEIR_GATE_HEAD, .threshold = 1.5f}, {.gate = 1}, false, false},
      {{.kind = WEIR_GATE_HEAD, .threshold = -1e-9f}, {.gate = 0}, true, true},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    if (weir_gate_defers(table[i].gate, &table[i].row) != table[i].defers) fail_msg("row %zu: defers", i);
    if (weir_gate_never_passes(table[i].gate) != table[i].never) fail_msg("row %zu: never passes", i);
  }
  /* What a gate that can never pass says of rows: that each defers. */
  state = 4;
  for (int i = 0; i < 2000; i++) {
    const weir_row r = {.entropy = (float)rnd(8000) / 1000, .gate = (float)rnd(1001) / 1000};
    for (int k = 0; k < 2; k++) {
      weir_gate g = {.kind = k ? WEIR_GATE_HEAD : WEIR_GATE_ISOTONIC, .threshold = -0.01f, .map = &rising};
      assert_true(weir_gate_defers(g, &r) && weir_gate_never_passes(g));
      g.threshold = 1.01f;
      assert_false(weir_gate_defers(g, &r) || weir_gate_never_passes(g));
      g.threshold = weir_budget_shut(weir_gate_is_low(g.kind));
      assert_false(weir_gate_defers(g, &r));
    }
  }
}

/* By name, with a budget, and what is refused. */
static void test_configurations(void **unused) {
  (void)unused;
  static const weir_mode modes[] = {WEIR_MODE_DEFER, WEIR_MODE_ROLLBACK, WEIR_MODE_EXACT,
                                    WEIR_MODE_SPECULATE};
  weir_err e;
  weir_cascade_cfg g;
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
    for (int k = 0; k < 2; k++) {
      weir_cascade_opts o = {.mode = modes[m], .set = WEIR_OPT_GATE, .gate_map = &rising};
      assert_true(weir_gate_parse(k ? "head" : "isotonic", &o.gate));
      assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_OK);
      assert_true(g.gate[0].threshold == 0.1f && g.gate[0].kind == o.gate);
      assert_ptr_equal(g.gate[0].map, k ? NULL : &rising);
      if (m < 2) {
        o.set |= WEIR_OPT_DEFER_RATE;
        o.defer_rate = 0.2f;
        assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_OK);
        assert_true(g.budget.rated);
      }
      o.gate_map = NULL;
      assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), k ? WEIR_OK : WEIR_EINVAL);
      if (!k) assert_non_null(strstr(e.msg, "no map"));
    }
  weir_gate_map bad = rising;
  bad.y[1] = 2;
  const weir_cascade_opts o = {
      .mode = WEIR_MODE_DEFER, .set = WEIR_OPT_GATE, .gate = WEIR_GATE_ISOTONIC, .gate_map = &bad};
  assert_int_equal(weir_cascade_cfg_make(&o, &g, &e), WEIR_EINVAL);
  for (int s = 0; s < WEIR_N_STATS; s++) {
    weir_gate_stat back;
    const weir_row r = {.entropy = 1, .p_max = 2, .margin = 3};
    assert_true(weir_gate_stat_parse(weir_gate_stat_name((weir_gate_stat)s), &back) && (int)back == s);
    assert_true(weir_gate_stat_of(back, &r) == (float)(s + 1));
  }
  weir_gate_stat none;
  assert_false(weir_gate_stat_parse("head", &none));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_between_and_outside),    cmocka_unit_test(test_monotone_everywhere),
      cmocka_unit_test(test_maps_that_are_none),     cmocka_unit_test(test_head_scores),
      cmocka_unit_test(test_gates_of_probabilities), cmocka_unit_test(test_configurations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
