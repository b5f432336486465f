/* SPDX-License-Identifier: Apache-2.0 */
/* Modes by name: what each is made of, that an option without a meaning is refused by name, and that the
 * configurations behave as their names say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cascade/cascade_conf.h"
#include "fake_request.h"

static void names(void **state) {
  (void)state;
  static const char *const mode_names[] = {"small", "large", "defer", "rollback", "exact", "speculate", "auto", "route"};
  static const char *const accept_names[] = {NULL, "own", "nll", "v1", "v2", "v3", "typical", "ratio"};
  static const char *const gate_names[] = {"entropy", "top-prob", "margin", "chance"};
  weir_mode m;
  weir_gate_kind k;
  for (int i = 0; i < WEIR_N_MODES; i++) {
    assert_true(weir_mode_parse(mode_names[i], &m));
    assert_int_equal(m, i);
    assert_string_equal(weir_mode_name((weir_mode)i), mode_names[i]);
  }
  for (int i = 0; i < 4; i++) {
    assert_true(weir_gate_parse(gate_names[i], &k));
    assert_int_equal(k, i);
    assert_string_equal(weir_gate_name((weir_gate_kind)i), gate_names[i]);
  }
  static const char *const strange[] = {"", "Small", "exact ", "speculative"};
  weir_keep rule = WEIR_KEEP_ALL;
  for (int i = 0; i < 4; i++)
    assert_false(weir_mode_parse(strange[i], &m) || weir_gate_parse(strange[i], &k) ||
                 weir_accept_parse(strange[i], &rule));
  for (int i = 1; i < WEIR_N_KEEPS; i++) {
    assert_true(weir_accept_parse(accept_names[i], &rule));
    assert_int_equal(rule, i);
    assert_string_equal(weir_accept_name((weir_keep)i), accept_names[i]);
  }
  assert_non_null(weir_accept_name(WEIR_KEEP_ALL));
  assert_non_null(weir_accept_name((weir_keep)-1));
  assert_non_null(weir_mode_name((weir_mode)99));
  assert_non_null(weir_gate_name((weir_gate_kind)-1));
}

static void defaults(void **state) {
  (void)state;
  static const struct {
    int32_t commit, window;
    weir_keep keep;
    float threshold;
  } want[] = {
      [WEIR_MODE_SMALL] = {0, WEIR_FAR, WEIR_KEEP_ALL, INFINITY},
      [WEIR_MODE_LARGE] = {0, WEIR_FAR, WEIR_KEEP_ALL, -1},
      [WEIR_MODE_DEFER] = {0, WEIR_FAR, WEIR_KEEP_ALL, 0.45f},
      [WEIR_MODE_ROLLBACK] = {1, 10, WEIR_KEEP_NLL, 0.45f},
      [WEIR_MODE_EXACT] = {1, 16, WEIR_KEEP_OWN, WEIR_DRAFT_STOP},
      [WEIR_MODE_SPECULATE] = {1, 16, WEIR_KEEP_V3, WEIR_DRAFT_STOP},
      [WEIR_MODE_AUTO] = {0, 16, WEIR_KEEP_ALL, 0.45f},
      [WEIR_MODE_ROUTE] = {0, WEIR_FAR, WEIR_KEEP_ALL, 0.45f},
  };
  for (int i = 0; i < WEIR_N_MODES; i++) {
    weir_cascade_cfg g;
    weir_err e = {0};
    fake_case("defaults", i);
    /* values that nobody set are not looked at */
    const weir_cascade_opts o = {
        .mode = (weir_mode)i, .threshold = NAN, .window = -1, .horizon = -1, .accept_nll = -1};
    FAKE_CHECK(weir_cascade_cfg_make(&o, &g, &e) == WEIR_OK, "%s", e.msg);
    FAKE_CHECK(g.n_tiers == 2 && g.commit_tier == want[i].commit && g.horizon == WEIR_FAR &&
                   g.window[0] == want[i].window && g.keep[1] == want[i].keep && g.hold[1] == 1 &&
                   g.gate[0].kind == WEIR_GATE_ENTROPY && g.gate[0].threshold == want[i].threshold &&
                   g.keep_a[1] == (i == WEIR_MODE_SPECULATE ? 0.1f : 3),
               "commit %d window %d keep %d threshold %g", (int)g.commit_tier, (int)g.window[0], g.keep[1],
               (double)g.gate[0].threshold);
  }
}

static void options(void **state) {
  (void)state;
  static const struct {
    weir_cascade_opts o;
    const char *refused; /* NULL: taken */
  } table[] = {
      {{.mode = WEIR_MODE_SMALL, .set = WEIR_OPT_THRESHOLD, .threshold = 1},
       "threshold has no meaning in mode small"},
      {{.mode = WEIR_MODE_LARGE, .set = WEIR_OPT_GATE}, "gate has no meaning in mode large"},
      {{.mode = WEIR_MODE_LARGE, .set = WEIR_OPT_HOLD, .hold = 1}, "hold has no meaning in mode large"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_ACCEPT_NLL, .accept_nll = 3},
       "accept-nll has no meaning in mode defer"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_WINDOW, .window = 4}, "window has no meaning in mode defer"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_HORIZON, .horizon = 4},
       "horizon has no meaning in mode defer"},
      {{.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_ACCEPT_NLL, .accept_nll = 3},
       "accept-nll has no meaning in mode exact"},
      {{.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_HORIZON, .horizon = 9},
       "horizon has no meaning in mode exact"},
      {{.mode = WEIR_MODE_ROLLBACK, .set = 1u << 20}, "unknown option bits"},
      {{.mode = (weir_mode)40}, "mode 40 is not known"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_GATE, .gate = (weir_gate_kind)6}, "gate 6 is not known"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD, .threshold = NAN}, "threshold is not a number"},
      {{.mode = WEIR_MODE_ROLLBACK, .set = WEIR_OPT_ACCEPT_NLL, .accept_nll = NAN}, "accept-nll"},
      {{.mode = WEIR_MODE_ROLLBACK, .set = WEIR_OPT_ACCEPT_NLL, .accept_nll = -1}, "accept-nll"},
      {{.mode = WEIR_MODE_ROLLBACK, .set = WEIR_OPT_WINDOW, .window = 0}, "window: want"},
      {{.mode = WEIR_MODE_ROLLBACK, .set = WEIR_OPT_WINDOW, .window = WEIR_FAR + 1}, "window: want"},
      {{.mode = WEIR_MODE_ROLLBACK, .set = WEIR_OPT_HOLD, .hold = -1}, "hold: want"},
      {{.mode = WEIR_MODE_ROLLBACK, .set = WEIR_OPT_HORIZON, .horizon = -1}, "horizon: want"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD, .threshold = 0.9f}, NULL},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD | WEIR_OPT_HOLD, .threshold = -1, .hold = 0},
       NULL},
      {{.mode = WEIR_MODE_ROLLBACK,
        .set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_ACCEPT_NLL | WEIR_OPT_WINDOW | WEIR_OPT_HOLD |
               WEIR_OPT_HORIZON,
        .gate = WEIR_GATE_MARGIN,
        .threshold = 0.25f,
        .accept_nll = 2,
        .window = 7,
        .hold = 3,
        .horizon = 4},
       NULL},
      {{.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_WINDOW, .window = 1}, NULL},
      {{.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_DEFER_RATE, .defer_rate = 0.1f},
       "defer-rate has no meaning in mode exact"},
      {{.mode = WEIR_MODE_SMALL, .set = WEIR_OPT_DEFER_BURST, .defer_burst = 1},
       "defer-burst has no meaning in mode small"},
      {{.mode = WEIR_MODE_LARGE, .set = WEIR_OPT_LOAD_PRICE, .load_price = 1},
       "load-price has no meaning in mode large"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_DEFER_RATE, .defer_rate = 1.5f}, "defer-rate: want"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_DEFER_RATE, .defer_rate = NAN}, "defer-rate: want"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_DEFER_RATE | WEIR_OPT_THRESHOLD, .threshold = 1},
       "defer-rate sets the threshold itself"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST, .defer_burst = -1},
       "defer-burst: want"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_DEFER_BURST, .defer_burst = 3}, "defer-burst needs"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_LOAD_PRICE, .load_price = -0.1f}, "load-price: want"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_LOAD_PRICE, .load_price = NAN}, "load-price: want"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_GATE | WEIR_OPT_DEFER_RATE, .gate = WEIR_GATE_CHANCE},
       "gate chance"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_LOAD_PRICE | WEIR_OPT_THRESHOLD, .load_price = 1}, NULL},
      {{.mode = WEIR_MODE_ROLLBACK,
        .set = WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST | WEIR_OPT_LOAD_PRICE,
        .defer_rate = 0.25f,
        .defer_burst = 4,
        .load_price = 2},
       NULL},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    weir_cascade_cfg g = {.n_tiers = 77};
    weir_err e = {0};
    fake_case("options", (long)i);
    const weir_status st = weir_cascade_cfg_make(&table[i].o, &g, &e);
    if (!table[i].refused) {
      FAKE_CHECK(st == WEIR_OK, "%s", e.msg);
      continue;
    }
    FAKE_CHECK(st == WEIR_EINVAL && strstr(e.msg, table[i].refused), "status %d, said \"%s\"", st, e.msg);
    FAKE_CHECK(g.n_tiers == 77, "a refused configuration was written");
  }
  weir_cascade_cfg g; /* all of them arrive */
  assert_int_equal(weir_cascade_cfg_make(&table[20].o, &g, NULL), WEIR_OK);
  assert_true(g.gate[0].kind == WEIR_GATE_MARGIN && g.gate[0].threshold == 0.25f && g.keep_a[1] == 2);
  assert_true(g.window[0] == 7 && g.hold[1] == 3 && g.horizon == 4);
  assert_false(weir_budget_moves(&g.budget));
  const weir_cascade_opts *last = &table[sizeof table / sizeof *table - 1].o;
  assert_int_equal(weir_cascade_cfg_make(last, &g, NULL), WEIR_OK);
  assert_true(g.budget.rated && g.budget.rate == 0.25f && g.budget.burst == 4 && g.budget.load_price == 2);
  assert_true(weir_budget_moves(&g.budget) && g.gate[0].threshold == 0.45f); /* where it starts */
  g.gate[0].threshold = -1;
  assert_false(weir_cascade_skips(&g, 0)); /* its next row may find another threshold */
  g.budget = (weir_budget){0};
  assert_true(weir_cascade_skips(&g, 0));
}

#define SPECULATE(bits, ...) \
  { .mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT | (bits), __VA_ARGS__ }
static void accepts(void **state) {
  (void)state;
  static const struct {
    weir_cascade_opts o;
    const char *refused; /* NULL: taken, and these arrive: */
    float a, b;
  } table[] = {
      {SPECULATE(0, .accept = WEIR_KEEP_OWN), NULL, 3, 0},
      {SPECULATE(0, .accept = WEIR_KEEP_NLL), NULL, 3, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_NLL, .accept = WEIR_KEEP_NLL, .accept_nll = 1.5f), NULL, 1.5f, 0},
      {SPECULATE(0, .accept = WEIR_KEEP_V1), NULL, 0.1f, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_ALPHA, .accept = WEIR_KEEP_V1, .accept_alpha = 1), NULL, 1, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_ALPHA, .accept = WEIR_KEEP_V2, .accept_alpha = 0), NULL, 0, 0},
      {SPECULATE(WEIR_OPT_HORIZON, .accept = WEIR_KEEP_V3, .horizon = 4), NULL, 0.1f, 0},
      {SPECULATE(0, .accept = WEIR_KEEP_TYPICAL), NULL, 0.09f, 0.3f},
      {SPECULATE(0, .accept = WEIR_KEEP_RATIO), NULL, 3, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_EPSILON | WEIR_OPT_ACCEPT_DELTA, .accept = WEIR_KEEP_TYPICAL,
                 .accept_epsilon = 0.5f, .accept_delta = 2),
       NULL, 0.5f, 2},
      {{.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT_ALPHA, .accept_alpha = 0.25f}, NULL, 0.25f, 0},
      {SPECULATE(0, .accept = WEIR_KEEP_ALL), "rule 0 is not known", 0, 0},
      {SPECULATE(0, .accept = (weir_keep)WEIR_N_KEEPS), "rule 8 is not known", 0, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_ALPHA, .accept = WEIR_KEEP_OWN),
       "accept-alpha has no meaning with accept own", 0, 0},
      {SPECULATE(WEIR_OPT_HORIZON, .accept = WEIR_KEEP_OWN), "horizon has no meaning with accept own", 0, 0},
      {SPECULATE(WEIR_OPT_HORIZON, .accept = WEIR_KEEP_RATIO), "horizon has no meaning with accept ratio", 0,
       0},
      {SPECULATE(WEIR_OPT_ACCEPT_ALPHA, .accept = WEIR_KEEP_NLL),
       "accept-alpha has no meaning with accept nll", 0, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_NLL, .accept = WEIR_KEEP_V2), "accept-nll has no meaning with accept v2", 0,
       0},
      {SPECULATE(WEIR_OPT_ACCEPT_DELTA, .accept = WEIR_KEEP_V3), "accept-delta has no meaning with accept v3",
       0, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_ALPHA, .accept = WEIR_KEEP_TYPICAL),
       "accept-alpha has no meaning with accept typical", 0, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_ALPHA, .accept = WEIR_KEEP_V1, .accept_alpha = 1.5f), "accept-alpha: want",
       0, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_ALPHA, .accept = WEIR_KEEP_V1, .accept_alpha = NAN), "accept-alpha: want", 0,
       0},
      {SPECULATE(WEIR_OPT_ACCEPT_EPSILON, .accept = WEIR_KEEP_TYPICAL, .accept_epsilon = -1),
       "accept-epsilon: want", 0, 0},
      {SPECULATE(WEIR_OPT_ACCEPT_DELTA, .accept = WEIR_KEEP_TYPICAL, .accept_delta = NAN),
       "accept-delta: want", 0, 0},
      {{.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_DEFER_RATE, .defer_rate = 0.1f},
       "defer-rate has no meaning in mode speculate",
       0,
       0},
      {{.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_ACCEPT, .accept = WEIR_KEEP_V3},
       "accept has no meaning in mode exact",
       0,
       0},
      {{.mode = WEIR_MODE_ROLLBACK, .set = WEIR_OPT_ACCEPT_ALPHA},
       "accept-alpha has no meaning in mode rollback",
       0,
       0},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_ACCEPT_EPSILON},
       "accept-epsilon has no meaning in mode defer",
       0,
       0},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    weir_cascade_cfg g = {.n_tiers = 77};
    weir_err e = {0};
    fake_case("accepts", (long)i);
    const weir_status st = weir_cascade_cfg_make(&table[i].o, &g, &e);
    if (table[i].refused) {
      FAKE_CHECK(st == WEIR_EINVAL && strstr(e.msg, table[i].refused), "status %d, said \"%s\"", st, e.msg);
      FAKE_CHECK(g.n_tiers == 77, "written to");
      continue;
    }
    FAKE_CHECK(st == WEIR_OK, "%s", e.msg);
    FAKE_CHECK(!(table[i].o.set & WEIR_OPT_ACCEPT) || g.keep[1] == table[i].o.accept, "rule %d", g.keep[1]);
    FAKE_CHECK(g.keep_a[1] == table[i].a && g.keep_b[1] == table[i].b, "told %g, %g", (double)g.keep_a[1],
               (double)g.keep_b[1]);
    FAKE_CHECK(g.commit_tier == 1 && g.gate[0].threshold == WEIR_DRAFT_STOP &&
                   g.horizon == (table[i].o.set & WEIR_OPT_HORIZON ? 4 : WEIR_FAR),
               "horizon %d", (int)g.horizon);
  }
}

static void gate_defaults(void **state) {
  (void)state;
  static const float want[] = {0.45f, 0.6f, 0.3f};
  static const weir_mode with[] = {WEIR_MODE_DEFER, WEIR_MODE_ROLLBACK, WEIR_MODE_EXACT};
  for (int k = 0; k < 3; k++)
    for (int m = 0; m < 3; m++) {
      weir_cascade_cfg g;
      const weir_cascade_opts o = {.mode = with[m], .set = WEIR_OPT_GATE, .gate = (weir_gate_kind)k};
      fake_case("gate defaults", k * 3 + m);
      FAKE_CHECK(weir_cascade_cfg_make(&o, &g, NULL) == WEIR_OK, "refused");
      FAKE_CHECK(g.gate[0].kind == (weir_gate_kind)k && g.gate[0].threshold == want[k], "threshold %g",
                 (double)g.gate[0].threshold);
    }
}

static void do_as_they_say(void **state) {
  (void)state;
  static fake_req r;
  static fake_text x;
  long by[WEIR_N_MODES][2] = {{0}}, kept = 0, replaced = 0;
  for (int i = 0; i < 1500; i++) {
    weir_cascade_cfg g;
    const weir_mode m = (weir_mode)(i % WEIR_N_MODES);
    weir_cascade_opts o = {.mode = m, .threshold = 1.2f};
    if (m >= WEIR_MODE_DEFER && i / WEIR_N_MODES % 2) o.set |= WEIR_OPT_THRESHOLD;
    if (m == WEIR_MODE_SPECULATE && i % 5) {
      o.set |= WEIR_OPT_ACCEPT;
      o.accept = (weir_keep)(1 + i / WEIR_N_MODES % (WEIR_N_KEEPS - 1));
    }
    fake_case(weir_mode_name(m), i);
    if (i % 100 == 0) fake_models_make((uint64_t)i);
    FAKE_CHECK(weir_cascade_cfg_make(&o, &g, NULL) == WEIR_OK, "refused");
    fake_seed((uint64_t)i);
    const fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_open(&r, &j);
    fake_finish(&r, &fake_calm);
    if (m == WEIR_MODE_SMALL) fake_alone(&j, 0, &x);
    if (m == WEIR_MODE_LARGE || m == WEIR_MODE_EXACT) fake_alone(&j, 2, &x);
    if (m == WEIR_MODE_DEFER || m == WEIR_MODE_ROLLBACK || m >= WEIR_MODE_SPECULATE) fake_oracle(&j, &x);
    fake_same_text(&r, &x, weir_mode_name(m));
    if (m == WEIR_MODE_SMALL) FAKE_CHECK(!r.calls[1] && !r.v.kv_len[1], "the large tier was fed");
    if (m == WEIR_MODE_LARGE) FAKE_CHECK(!r.calls[0] && !r.v.kv_len[0], "the small tier was fed");
    for (int32_t k = j.n_prompt; k < x.n; k++) {
      by[m][r.receipt[k].tier]++;
      kept += r.receipt[k].why == WEIR_WHY_KEPT;
      replaced += r.receipt[k].why == WEIR_WHY_REPLACED;
    }
  }
  assert_true(by[WEIR_MODE_SMALL][1] == 0 && by[WEIR_MODE_LARGE][0] == 0 && kept > 0 && replaced > 0);
  for (int m = WEIR_MODE_DEFER; m < WEIR_N_MODES; m++) assert_true(by[m][0] > 100 && by[m][1] > 100);
}

static void single(void **state) {
  (void)state;
  static fake_req r;
  static fake_text x;
  weir_cascade_cfg g;
  fake_models_make(5);
  weir_cascade_cfg_single(&g);
  assert_null(weir_cascade_cfg_error(&g));
  for (int i = 0; i < 100; i++) {
    fake_case("single", i);
    fake_seed((uint64_t)i);
    const fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_open(&r, &j);
    fake_finish(&r, &fake_calm);
    fake_alone(&j, 2, &x);
    fake_same_text(&r, &x, "single");
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names),   cmocka_unit_test(defaults),      cmocka_unit_test(options),
      cmocka_unit_test(accepts), cmocka_unit_test(gate_defaults), cmocka_unit_test(do_as_they_say),
      cmocka_unit_test(single),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
