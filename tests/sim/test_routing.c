/* SPDX-License-Identifier: Apache-2.0 */
/* Routing of whole requests in the engine, over fake executors: the share of requests that go up keeps its
 * bound for each tenant, a busy large tier makes it dearer, one that is down earns nothing, and prompts found
 * in the prefix cache are looked at all the same. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cascade/cascade_conf.h"
#include "harness.h"

enum { JOBS = 48, ROUNDS = 5, TENANTS = 3 };
static sim_job job[JOBS];
static sim_out out[JOBS];

static uint32_t rnd_state;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 1664525u + 1013904223u;
  return (rnd_state >> 8) % n;
}

static weir_cascade_cfg make(weir_cascade_opts o) {
  weir_cascade_cfg cfg;
  weir_err e = {0};
  o.mode = WEIR_MODE_ROUTE;
  o.set |= WEIR_OPT_THRESHOLD | WEIR_OPT_ROUTE_PROMPT | WEIR_OPT_ROUTE_AFTER;
  o.threshold = 2.5f;
  if (weir_cascade_cfg_make(&o, &cfg, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return cfg;
}

static sim_job make_job(uint64_t tenant, const weir_cascade_cfg *cfg) {
  sim_job j = {.n_prompt = 1 + (int32_t)rnd(40),
               .max_new = 4 + (int32_t)rnd(12),
               .cascade = *cfg,
               .ignore_eos = rnd(2),
               .salt = tenant};
  for (int32_t i = 0; i < j.n_prompt; i++) j.prompt[i] = (int32_t)rnd(280);
  j.draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = rnd(100000), .probe = -1};
  return j;
}

/* The decision is one of the counts and of the share they were held against; its tokens have one author. */
static bool check(const sim_out *x) {
  const weir_route_state *s = &x->counts.route;
  const bool up = s->to == WEIR_ROUTED_LARGE;
  assert_true(up || s->to == WEIR_ROUTED_SMALL);
  assert_true(s->looked > 0 && s->unsure >= 0 && s->unsure <= s->looked);
  assert_int_equal(up, weir_route_score(s) > (double)s->share);
  for (int32_t i = 0; i < x->n; i++) assert_int_equal(x->receipt[i].tier, up);
  if (!up) assert_int_equal(x->counts.fed[1], 0);
  return up;
}

/* |share of requests - rate| <= (1 + step) / (step T), with the step of 0.05 that engine_route.c has. */
static void rates_of_tenants(void **state) {
  (void)state;
  static const float rate[TENANTS] = {0.1f, 0.3f, 0.6f};
  static const int32_t looked[][2] = {{64, 0}, {0, 6}, {12, WEIR_FAR}};
  for (size_t k = 0; k < sizeof looked / sizeof *looked; k++) {
    sim s;
    int64_t n[TENANTS] = {0}, up[TENANTS] = {0}, all = 0;
    sim_opts o = sim_roomy();
    rnd_state = 5 + (uint32_t)k;
    o.max_seqs = 6;
    sim_open(&s, &o);
    for (int round = 0; round < ROUNDS; round++) {
      for (int32_t i = 0; i < JOBS; i++) {
        const int32_t t = i % TENANTS;
        const weir_cascade_cfg cfg = make((weir_cascade_opts){.set = WEIR_OPT_DEFER_RATE,
                                                              .defer_rate = rate[t],
                                                              .route_prompt = looked[k][0],
                                                              .route_after = looked[k][1]});
        job[i] = make_job((uint64_t)t, &cfg);
      }
      sim_run(&s, job, out, JOBS);
      for (int32_t i = 0; i < JOBS; i++) {
        n[i % TENANTS]++;
        up[i % TENANTS] += check(&out[i]);
      }
      sim_out_fini(out, JOBS);
    }
    const weir_engine_stats z = weir_engine_get_stats(s.engine);
    for (int32_t t = 0; t < TENANTS; t++) {
      const weir_rate_law law = {.rate = (double)rate[t], .step = 0.05, .bound = 1, .hold = 1};
      const double got = (double)up[t] / (double)n[t], bound = weir_rate_bound(&law, n[t]);
      if (!(fabs(got - (double)rate[t]) <= bound))
        fail_msg("tenant %d: %g of the requests went up, want %g within %g", t, got, (double)rate[t], bound);
      all += up[t];
    }
    assert_int_equal(z.routed.by[WEIR_ROUTED_LARGE], all);
    assert_int_equal(z.routed.by[WEIR_ROUTED_SMALL], JOBS * ROUNDS - all);
    assert_int_equal(z.routed.by[WEIR_ROUTED_WANTED] + z.routed.by[WEIR_ROUTED_OPEN], 0);
    assert_int_equal(z.budget.tenants, TENANTS);
    assert_int_equal(z.budget.counts, 0); /* those are of tokens */
    assert_true(up[0] < up[1] && up[1] < up[2] && z.routed.looked >= JOBS * ROUNDS);
    sim_close(&s);
  }
}

static void extremes(void **state) {
  (void)state;
  for (int all = 0; all < 2; all++) {
    sim s;
    int32_t up = 0;
    const sim_opts o = sim_roomy();
    rnd_state = 31;
    sim_open(&s, &o);
    const weir_cascade_cfg cfg =
        make((weir_cascade_opts){.set = WEIR_OPT_DEFER_RATE, .defer_rate = (float)all, .route_prompt = 8});
    for (int32_t i = 0; i < JOBS; i++) job[i] = make_job(1, &cfg);
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) up += check(&out[i]);
    if (fabs((double)up / JOBS - all) > 1.05 / (0.05 * JOBS)) fail_msg("%d of %d", up, JOBS);
    assert_int_equal(check(&out[JOBS - 1]), all);
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
}

/* What is written at a share that a price was put on was decided by more than the share alone. */
static void price_of_load(void **state) {
  (void)state;
  sim s;
  int32_t dearer = 0;
  sim_opts o = sim_roomy();
  rnd_state = 4;
  o.max_seqs = 12;
  sim_open(&s, &o);
  const weir_cascade_cfg cfg = make((weir_cascade_opts){.set = WEIR_OPT_LOAD_PRICE | WEIR_OPT_ROUTE_SHARE,
                                                        .load_price = 0.5f,
                                                        .route_share = 0.2f,
                                                        .route_after = 3});
  for (int32_t i = 0; i < JOBS; i++) job[i] = make_job(1, &cfg);
  sim_run(&s, job, out, JOBS);
  for (int32_t i = 0; i < JOBS; i++) {
    const float share = out[i].counts.route.share;
    check(&out[i]);
    assert_true(share >= 0.2f && share <= 0.7f);
    dearer += share > 0.2f;
  }
  assert_true(dearer > 0 && out[0].counts.route.share == 0.2f); /* nobody waited for the large tier then */
  sim_out_fini(out, JOBS);
  sim_close(&s);
}

/* Every token of those that should have gone up says so; the tracker stands still meanwhile. */
static void large_tier_down(void **state) {
  (void)state;
  sim s;
  int64_t wanted = 0, marked = 0;
  sim_opts o = sim_roomy();
  rnd_state = 77;
  o.fail_large_at = 12;
  o.max_seqs = 4;
  sim_open(&s, &o);
  const weir_cascade_cfg cfg =
      make((weir_cascade_opts){.set = WEIR_OPT_DEFER_RATE, .defer_rate = 0.6f, .route_after = WEIR_FAR});
  for (int32_t i = 0; i < JOBS; i++) job[i] = make_job(1, &cfg);
  sim_run(&s, job, out, JOBS);
  for (int32_t i = 0; i < JOBS; i++) {
    const bool up = out[i].counts.route.to == WEIR_ROUTED_WANTED;
    wanted += up;
    for (int32_t k = 0; k < out[i].n; k++) {
      assert_int_equal(out[i].receipt[k].wanted_up, up && out[i].receipt[k].tier == 0);
      marked += out[i].receipt[k].wanted_up;
    }
  }
  const weir_engine_stats z = weir_engine_get_stats(s.engine);
  assert_true(z.tier[1].dead && wanted > 3 && marked > wanted);
  assert_int_equal(z.tokens_wanted_up, marked);
  assert_true(z.routed.by[WEIR_ROUTED_WANTED] > 0 && z.routed.by[WEIR_ROUTED_WANTED] <= wanted);
  sim_out_fini(out, JOBS);
  sim_close(&s);
}

/* The same prompt again: its rows are computed again as far as they are looked at, and no further. */
static void prefix_hits(void **state) {
  (void)state;
  static const int32_t looked[] = {1, 5, 16, 17, 40};
  for (size_t k = 0; k < sizeof looked / sizeof *looked; k++) {
    sim s;
    const sim_opts o = sim_roomy();
    rnd_state = 6;
    sim_open(&s, &o);
    const weir_cascade_cfg cfg = make(
        (weir_cascade_opts){.set = WEIR_OPT_ROUTE_SHARE, .route_share = 0.5f, .route_prompt = looked[k]});
    job[0] = make_job(1, &cfg);
    job[0].n_prompt = 40;
    for (int32_t i = 0; i < 40; i++) job[0].prompt[i] = (int32_t)rnd(280);
    job[1] = job[0];
    for (int i = 0; i < 2; i++) sim_run(&s, &job[i], &out[i], 1);
    assert_int_equal(out[0].counts.prefix_hit[0], 0);
    const int64_t hit = out[1].counts.prefix_hit[0], most = 40 - looked[k];
    if (hit > most || hit < most / 16 * 16)
      fail_msg("%d rows: %lld tokens found, want up to %lld", looked[k], (long long)hit, (long long)most);
    assert_memory_equal(&out[0].counts.route, &out[1].counts.route, sizeof out[0].counts.route);
    assert_int_equal(out[1].counts.route.looked, looked[k]);
    assert_int_equal(out[0].n, out[1].n);
    assert_memory_equal(out[0].tok, out[1].tok, (size_t)out[0].n * sizeof *out[0].tok);
    sim_out_fini(out, 2);
    sim_close(&s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rates_of_tenants), cmocka_unit_test(extremes),    cmocka_unit_test(price_of_load),
      cmocka_unit_test(large_tier_down),  cmocka_unit_test(prefix_hits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
