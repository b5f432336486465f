/* SPDX-License-Identifier: Apache-2.0 */
/* Routing of whole requests: who writes follows from the rows looked at, all of it or none; whatever the
 * schedule, and with a large tier that comes and goes.
 * usage: test_route [--long] */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cascade/cascade_conf.h"
#include "fake_route.h"

static int n_cases = 1500;
static fake_req plain, wild;
static fake_text x;

/* ---- against the story ---- */

static void as_the_rows_say(void **state) {
  (void)state;
  static const fake_chaos ways = {12, 12, 40, 0};
  long went[WEIR_N_ROUTED] = {0}, dropped = 0;
  for (int i = 0; i < n_cases; i++) {
    fake_case("as the rows say", i);
    if (i % 50 == 0) fake_models_make(11000 + (uint64_t)i);
    fake_seed((uint64_t)i * 577 + 1);
    const weir_cascade_cfg g = fake_any_route();
    fake_job j = fake_any_job(&g, (uint64_t)i);
    j.pinned = fake_rnd(10) == 0;
    fake_route_count c;
    const weir_routed to = fake_route_oracle(&j, &x, &c);
    fake_open(&plain, &j);
    fake_finish(&plain, &fake_calm);
    FAKE_CHECK(plain.c.route.to == to, "%s, want %s", weir_routed_name(plain.c.route.to),
               weir_routed_name(to));
    FAKE_CHECK(plain.c.route.looked == c.looked && plain.c.route.unsure == c.unsure,
               "%d of %d rows, want %d of %d", (int)plain.c.route.unsure, (int)plain.c.route.looked,
               (int)c.unsure, (int)c.looked);
    fake_same_text(&plain, &x, "routed");
    fake_same_receipts(&plain, &x);
    if (to != WEIR_ROUTED_LARGE)
      FAKE_CHECK(!plain.calls[1] && !plain.v.kv_len[1], "the large tier was fed");
    else if (c.looked == 0)
      FAKE_CHECK(!plain.calls[0] && !plain.v.kv_len[0], "the small tier was fed, and nothing can pass");
    went[to]++;
    dropped += to == WEIR_ROUTED_LARGE && g.route.after > 1;

    fake_open(&wild, &j);
    fake_finish(&wild, &ways);
    fake_same_text(&wild, &x, "under chaos");
    fake_same_receipts(&wild, &x);
    FAKE_CHECK(!memcmp(&wild.c.route, &plain.c.route, sizeof wild.c.route), "another decision under chaos");
    FAKE_CHECK(!memcmp(wild.calls, plain.calls, sizeof wild.calls), "other steps under chaos");
  }
  assert_true(went[WEIR_ROUTED_SMALL] > n_cases / 8 && went[WEIR_ROUTED_LARGE] > n_cases / 8);
  assert_true(went[WEIR_ROUTED_NOT] > 0 && went[WEIR_ROUTED_OPEN] == 0 && dropped > n_cases / 20);
}

/* ---- a large tier that comes and goes ---- */

/* One author, or a large beginning and a small rest; who did not get the large tier is marked. */
static void check_authors(const fake_req *r) {
  int32_t k = r->job.n_prompt;
  const weir_routed to = r->c.route.to;
  while (k < r->v.n && r->receipt[k].tier == 1) k++;
  if (to == WEIR_ROUTED_LARGE) FAKE_CHECK(k == r->v.n, "token %d is not the large tier's", (int)k);
  if (to == WEIR_ROUTED_SMALL || to == WEIR_ROUTED_NOT)
    FAKE_CHECK(k == r->job.n_prompt, "token %d is the large tier's", (int)k - 1);
  for (int32_t i = r->job.n_prompt; i < r->v.n; i++) {
    FAKE_CHECK(r->receipt[i].tier == (i < k), "token %d changes the author again", (int)i);
    FAKE_CHECK(r->receipt[i].wanted_up == (i >= k && to == WEIR_ROUTED_WANTED), "token %d: wanted_up %d",
               (int)i, r->receipt[i].wanted_up);
    FAKE_CHECK(r->receipt[i].why == (i < k ? WEIR_WHY_ROUTED : WEIR_WHY_EASY), "token %d: why %d", (int)i,
               r->receipt[i].why);
  }
}

static void large_comes_and_goes(void **state) {
  (void)state;
  static const fake_chaos ways = {4, 4, 30, 0};
  long mixed = 0, whole[2] = {0};
  for (int i = 0; i < n_cases; i++) {
    fake_case("the large tier comes and goes", i);
    if (i % 50 == 0) fake_models_make(12000 + (uint64_t)i);
    fake_seed((uint64_t)i * 223 + 9);
    const weir_cascade_cfg g = fake_any_route();
    const fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_open(&wild, &j);
    wild.switching = true;
    for (bool done = false; !done;) {
      FAKE_CHECK(wild.steps < 9000, "no progress");
      if (!fake_rnd(6)) wild.c.hi = !wild.c.hi;
      done = fake_turn(&wild, &ways);
    }
    check_authors(&wild);
    const weir_routed to = wild.c.route.to;
    if (to == WEIR_ROUTED_LARGE || to == WEIR_ROUTED_SMALL) {
      fake_alone(&j, to == WEIR_ROUTED_LARGE ? 2 : 0, &x);
      fake_same_text(&wild, &x, weir_routed_name(to));
      whole[to == WEIR_ROUTED_LARGE]++;
    }
    mixed += wild.receipt[j.n_prompt].tier == 1 && wild.receipt[wild.v.n - 1].tier == 0;
  }
  assert_true(mixed > 10 && whole[0] > 100 && whole[1] > 20);
}

static void large_is_down(void **state) {
  (void)state;
  long wanted = 0, content = 0;
  for (int i = 0; i < n_cases; i++) {
    fake_case("the large tier is down", i);
    if (i % 50 == 0) fake_models_make(13000 + (uint64_t)i);
    fake_seed((uint64_t)i * 79 + 2);
    const weir_cascade_cfg g = fake_any_route();
    const fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_route_count c;
    const bool up = fake_route_oracle(&j, &x, &c) == WEIR_ROUTED_LARGE;
    fake_open(&plain, &j);
    plain.switching = true;
    plain.c.hi = 0;
    while (!fake_turn(&plain, &fake_calm))
      if (plain.v.n > j.n_prompt + 3 && plain.c.route.to != WEIR_ROUTED_OPEN)
        plain.c.hi = 1; /* too late: it has begun */
    FAKE_CHECK(plain.c.route.to == (up ? WEIR_ROUTED_WANTED : WEIR_ROUTED_SMALL), "%s",
               weir_routed_name(plain.c.route.to));
    fake_alone(&j, 0, &x);
    fake_same_text(&plain, &x, "without the large tier");
    check_authors(&plain);
    *(up ? &wanted : &content) += 1;
  }
  assert_true(wanted > n_cases / 8 && content > n_cases / 8);
}

/* Both may go: it always comes to an end, nothing shown is taken back, every token has a receipt. */
static void any_tier_goes(void **state) {
  (void)state;
  static const fake_chaos ways = {4, 4, 30, 25};
  for (int i = 0; i < n_cases; i++) {
    fake_case("any tier goes", i);
    if (i % 50 == 0) fake_models_make(14000 + (uint64_t)i);
    fake_seed((uint64_t)i * 101 + 4);
    const weir_cascade_cfg g = fake_any_route();
    const fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_open(&wild, &j);
    wild.switching = true;
    fake_finish(&wild, &ways);
    for (int32_t k = j.n_prompt; k < wild.v.n; k++)
      FAKE_CHECK(wild.receipt[k].why != WEIR_WHY_NONE && wild.receipt[k].tier < 2, "token %d", (int)k);
  }
}

/* ---- by hand ---- */

static void counts_by_hand(void **state) {
  (void)state;
  static const float bits[] = {2, 0, 2, 0}; /* entropies of four rows, threshold 1 */
  static const struct {
    int32_t prompt, n_prompt, looked, unsure;
    float share;
    weir_routed to;
  } table[] = {
      {4, 9, 4, 2, 0.5f, WEIR_ROUTED_SMALL}, /* more than half, not half */
      {4, 9, 4, 2, 0.499f, WEIR_ROUTED_LARGE}, {3, 9, 3, 1, 0.3f, WEIR_ROUTED_LARGE},
      {3, 9, 3, 1, 0.34f, WEIR_ROUTED_SMALL},  {2, 9, 2, 1, 0, WEIR_ROUTED_LARGE},
      {1, 9, 1, 0, 0, WEIR_ROUTED_SMALL},      {64, 4, 4, 2, 0.4f, WEIR_ROUTED_LARGE},
      {64, 1, 1, 0, 0, WEIR_ROUTED_SMALL},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    fake_case("by hand", (long)i);
    int32_t tok[12] = {1, 2, 3, 4, 1, 2, 3, 4, 1};
    weir_cascade_cfg g;
    const weir_cascade_opts o = {.mode = WEIR_MODE_ROUTE,
                                 .set = WEIR_OPT_THRESHOLD | WEIR_OPT_ROUTE_PROMPT | WEIR_OPT_ROUTE_SHARE,
                                 .threshold = 1,
                                 .route_prompt = table[i].prompt,
                                 .route_share = table[i].share};
    assert_int_equal(weir_cascade_cfg_make(&o, &g, NULL), WEIR_OK);
    weir_cascade c;
    weir_cascade_init(&c, &g, false);
    weir_view v = {.tok = tok, .n = table[i].n_prompt, .committed = table[i].n_prompt};
    for (int t = 0; t < WEIR_MAX_TIERS; t++) v.mark[t] = v.n;
    weir_need q;
    weir_effect e;
    weir_row row[4];
    assert_true(weir_cascade_need(&c, &v, &q));
    assert_int_equal(q.to - q.out_from, table[i].looked);
    for (int32_t p = 0; p < table[i].looked; p++)
      row[p] = (weir_row){.entropy = bits[4 - table[i].looked + p], .token = 3};
    weir_cascade_observe(&c, &v, &q, row, &e);
    FAKE_CHECK(c.route.looked == table[i].looked && c.route.unsure == table[i].unsure &&
                   c.route.to == table[i].to && c.route.share == table[i].share,
               "%d of %d, %s", (int)c.route.unsure, (int)c.route.looked, weir_routed_name(c.route.to));
    weir_cascade_apply(&c, &e, tok, &v);
    assert_int_equal(v.committed, table[i].n_prompt + (table[i].to == WEIR_ROUTED_SMALL));
    assert_true(weir_cascade_need(&c, &v, &q));
    assert_int_equal(q.tier, table[i].to == WEIR_ROUTED_LARGE);
    if (q.tier == 1) assert_true(q.from == 0 && q.out_from == v.n - 1);
  }
}

static void limits(void **state) {
  (void)state;
#define ROUTE(bits, ...) \
  { .mode = WEIR_MODE_ROUTE, .set = (bits), __VA_ARGS__ }
  static const struct {
    weir_cascade_opts o;
    const char *refused; /* NULL: taken */
    int32_t prompt, after;
  } table[] = {
      {ROUTE(0, .route_prompt = -3), NULL, 64, 0},
      {ROUTE(WEIR_OPT_ROUTE_AFTER, .route_after = 8), NULL, 0, 8},
      {ROUTE(WEIR_OPT_ROUTE_AFTER, .route_after = WEIR_FAR), NULL, 0, WEIR_FAR},
      {ROUTE(WEIR_OPT_ROUTE_AFTER | WEIR_OPT_ROUTE_PROMPT, .route_after = 4096, .route_prompt = 4096), NULL,
       4096, 4096},
      {ROUTE(WEIR_OPT_ROUTE_AFTER, .route_after = 0), NULL, 64, 0},
      {ROUTE(WEIR_OPT_ROUTE_PROMPT, .route_prompt = 0), "looks at no row", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_PROMPT, .route_prompt = 4097), "route-prompt: want 0 .. 4096 rows", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_PROMPT, .route_prompt = -1), "route-prompt: want", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_AFTER, .route_after = 4097), "route-after: want 0 .. 4096 tokens, or end", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_AFTER, .route_after = -1), "route-after: want", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_SHARE, .route_share = 1.5f), "route-share: want a share", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_SHARE, .route_share = -0.1f), "route-share: want a share", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_SHARE, .route_share = NAN), "route-share: want a share", 0, 0},
      {ROUTE(WEIR_OPT_ROUTE_SHARE | WEIR_OPT_DEFER_RATE, .route_share = 0.5f, .defer_rate = 0.3f),
       "defer-rate sets route-share itself", 0, 0},
      {ROUTE(WEIR_OPT_THRESHOLD | WEIR_OPT_DEFER_RATE, .threshold = 1, .defer_rate = 0.3f), NULL, 64, 0},
      {ROUTE(WEIR_OPT_DEFER_RATE, .defer_rate = 2), "defer-rate: want", 0, 0},
      {ROUTE(WEIR_OPT_LOAD_PRICE, .load_price = 0.5f), NULL, 64, 0},
      {ROUTE(WEIR_OPT_LOAD_PRICE, .load_price = 2), "load-price: in mode route", 0, 0},
      {ROUTE(WEIR_OPT_DEFER_BURST, .defer_burst = 2), "defer-burst has no meaning in mode route", 0, 0},
      {ROUTE(WEIR_OPT_HOLD, .hold = 2), "hold has no meaning in mode route", 0, 0},
      {ROUTE(WEIR_OPT_WINDOW, .window = 2), "window has no meaning in mode route", 0, 0},
      {ROUTE(WEIR_OPT_HORIZON, .horizon = 2), "horizon has no meaning in mode route", 0, 0},
      {ROUTE(WEIR_OPT_ACCEPT, .accept = WEIR_KEEP_V3), "accept has no meaning in mode route", 0, 0},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_ROUTE_SHARE},
       "route-share has no meaning in mode defer",
       0,
       0},
      {{.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_ROUTE_PROMPT},
       "route-prompt has no meaning in mode exact",
       0,
       0},
      {{.mode = WEIR_MODE_LARGE, .set = WEIR_OPT_ROUTE_AFTER},
       "route-after has no meaning in mode large",
       0,
       0},
  };
#undef ROUTE
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    weir_cascade_cfg g = {.n_tiers = 0};
    weir_err e = {0};
    fake_case("limits", (long)i);
    const weir_status st = weir_cascade_cfg_make(&table[i].o, &g, &e);
    FAKE_CHECK((st == WEIR_OK) == !table[i].refused, "%s", e.msg);
    if (table[i].refused)
      FAKE_CHECK(strstr(e.msg, table[i].refused) != NULL, "says: %s", e.msg);
    else
      FAKE_CHECK(g.route.on && g.route.prompt == table[i].prompt && g.route.after == table[i].after,
                 "prompt %d, after %d", (int)g.route.prompt, (int)g.route.after);
  }
}

/* What a configuration that was not made from options may not be. */
static void unsound(void **state) {
  (void)state;
  fake_seed(3);
  for (int i = 0; i < 9; i++) {
    fake_case("unsound", i);
    weir_cascade_cfg g = fake_any_route();
    switch (i) {
      case 0: g.n_tiers = 3; break;
      case 1: g.commit_tier = 1; break;
      case 2: g.horizon = 4; break;
      case 3: g.hold[1] = 2; break;
      case 4: g.route.prompt = 5000; break;
      case 5: g.route.after = 5000; break;
      case 6: g.route.prompt = g.route.after = 0; break;
      case 7: g.route.share = NAN; break;
      case 8: g.budget = (weir_budget){.rated = true, .rate = 0.5f, .burst = 3}; break;
    }
    FAKE_CHECK(weir_cascade_cfg_error(&g) != NULL, "it is taken");
  }
}

static void after_by_name(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int32_t want; /* < 0: refused */
  } table[] = {{"0", 0},    {"8", 8},   {"4096", 4096},    {"end", WEIR_FAR}, {"4097", -1},
               {"", -1},    {"-1", -1}, {"8 ", -1},        {"ending", -1},    {"99999999999999999999", -1},
               {"0x8", -1}, {"007", 7}, {"00004096", 4096}};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    int32_t n = -1;
    fake_case("after", (long)i);
    FAKE_CHECK(weir_route_after_parse(table[i].text, &n) == (table[i].want >= 0) && n == table[i].want,
               "%s: %d", table[i].text, (int)n);
  }
}

int main(int argc, char **argv) {
  if (fake_long(argc, argv)) n_cases = 40000;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(as_the_rows_say), cmocka_unit_test(large_comes_and_goes),
      cmocka_unit_test(large_is_down),   cmocka_unit_test(any_tier_goes),
      cmocka_unit_test(counts_by_hand),  cmocka_unit_test(limits),
      cmocka_unit_test(unsound),         cmocka_unit_test(after_by_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
