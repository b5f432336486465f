/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets of deferrals in the engine, over fake executors: the realised rate keeps its bound for each tenant,
 * tenants do not move each other, a short request is held by its bucket, and every decision follows from the
 * receipts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "harness.h"

enum { JOBS = 48 };
static sim_job job[JOBS];
static sim_out out[JOBS];

static uint32_t rnd_state;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 1664525u + 1013904223u;
  return (rnd_state >> 8) % n;
}

static weir_cascade_cfg budget(weir_mode mode, weir_gate_kind gate, float rate, int32_t burst, float price,
                               int32_t hold) {
  weir_cascade_cfg cfg;
  weir_err e = {0};
  const weir_cascade_opts o = {
      .mode = mode,
      .set = WEIR_OPT_GATE | WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST | WEIR_OPT_LOAD_PRICE | WEIR_OPT_HOLD,
      .gate = gate,
      .defer_rate = rate,
      .defer_burst = burst,
      .load_price = price,
      .hold = hold};
  if (weir_cascade_cfg_make(&o, &cfg, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return cfg;
}

static sim_job make_job(uint64_t tenant, int32_t max_new, const weir_cascade_cfg *cfg) {
  sim_job j = {.n_prompt = 1 + (int32_t)rnd(40),
               .max_new = max_new,
               .cascade = *cfg,
               .ignore_eos = true,
               .salt = tenant};
  for (int32_t i = 0; i < j.n_prompt; i++) j.prompt[i] = (int32_t)rnd(280);
  j.draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = rnd(100000), .probe = -1};
  return j;
}

static sim_opts several(int32_t max_seqs) {
  sim_opts o = sim_roomy();
  o.max_seqs = max_seqs;
  o.large_batch = 1 + (int32_t)rnd(3);
  return o;
}

/* ---- decisions are a function of the receipts ---- */

static bool defers(weir_gate_kind kind, const weir_token_receipt *r) {
  if (kind == WEIR_GATE_ENTROPY) return r->entropy > r->tau;
  return (kind == WEIR_GATE_TOP_PROB ? r->p_max : r->margin) < r->tau;
}

/* Returns how many were deferred. In mode defer. */
static int32_t replay(const sim_job *j, const sim_out *o) {
  const weir_gate_kind kind = j->cascade.gate[0].kind;
  int32_t n = 0;
  for (int32_t i = 0; i < o->n; i++) {
    const weir_token_receipt *r = &o->receipt[i];
    if (r->why == WEIR_WHY_HOLD) {
      assert_true(isnan(r->tau) && isnan(r->entropy) && r->tier == 1);
      n++;
      continue;
    }
    if (isnan(r->tau) || isnan(r->entropy)) fail_msg("token %d has no threshold, why %d", i, (int)r->why);
    if (defers(kind, r) != (r->why == WEIR_WHY_DEFERRED || r->wanted_up))
      fail_msg("token %d: H %g p %g m %g tau %g, why %d", i, (double)r->entropy, (double)r->p_max,
               (double)r->margin, (double)r->tau, (int)r->why);
    n += r->why == WEIR_WHY_DEFERRED;
  }
  return n;
}

static double bound_of(weir_gate_kind kind, double price, int32_t hold, int64_t counts) {
  const bool low = kind != WEIR_GATE_ENTROPY;
  const double step = low ? 0.02 : 0.05, top = low ? 1 : log(288);
  return (top + price + hold * step) / (step * (double)counts);
}

static void expect_rate(const char *what, int64_t deferred, int64_t counts, double rate, double bound) {
  const double got = (double)deferred / (double)counts;
  if (fabs(got - rate) > bound + 1e-9)
    fail_msg("%s: %lld of %lld, %g, want %g within %g", what, (long long)deferred, (long long)counts, got,
             rate, bound);
}

/* ---- tenants ---- */

static void rate_by_tenant(void **state) {
  (void)state;
  static const float rates[] = {0.05f, 0.3f, 0.7f};
  static const weir_gate_kind gates[] = {WEIR_GATE_ENTROPY, WEIR_GATE_TOP_PROB, WEIR_GATE_MARGIN};
  static const struct {
    int32_t hold;
    float price;
  } with[] = {{1, 0}, {3, 0}, {1, 1.5f}};
  for (int k = 0; k < 9; k++) {
    sim s;
    const weir_gate_kind kind = gates[k % 3];
    const int32_t hold = with[k / 3].hold;
    const float price = with[k / 3].price;
    rnd_state = 5u + (uint32_t)k;
    const sim_opts o = several(8);
    sim_open(&s, &o);
    int64_t counts[3] = {0}, deferred[3] = {0}, new_tokens = 0;
    for (int32_t i = 0; i < JOBS; i++) {
      const weir_cascade_cfg cfg = budget(WEIR_MODE_DEFER, kind, rates[i % 3], 0, price, hold);
      job[i] = make_job((uint64_t)(i % 3), 20 + (int32_t)rnd(MAX_NEW - 20), &cfg);
    }
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) {
      const int32_t up = replay(&job[i], &out[i]);
      counts[i % 3] += out[i].n;
      deferred[i % 3] += up;
      new_tokens += out[i].n;
      assert_int_equal(out[i].counts.budgeted, out[i].n);
      assert_int_equal(out[i].counts.deferred, up);
      assert_int_equal(out[i].counts.by_tier[1], up);
    }
    for (int t = 0; t < 3; t++)
      expect_rate("tenant", deferred[t], counts[t], (double)rates[t],
                  bound_of(kind, (double)price, hold, counts[t]));
    const weir_budget_stats b = weir_engine_get_stats(s.engine).budget;
    assert_int_equal(b.counts, new_tokens);
    assert_int_equal(b.deferred, deferred[0] + deferred[1] + deferred[2]);
    assert_true(b.tenants == 3 && b.blocked == 0 && b.forgotten == 0);
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
}

/* What one tenant does, a greedy one too, changes nothing of another's thresholds and text. */
static void tenants_apart(void **state) {
  (void)state;
  static sim_out alone[8];
  static sim_job mine[8];
  for (int round = 0; round < 2; round++) {
    sim s;
    rnd_state = 77;
    const weir_cascade_cfg cfg = budget(WEIR_MODE_DEFER, WEIR_GATE_ENTROPY, 0.2f, 3, 0, 1);
    for (int i = 0; i < 8; i++) mine[i] = make_job(1, 40, &cfg);
    const sim_opts o = several(16);
    sim_open(&s, &o);
    if (round == 0) {
      for (int i = 0; i < 8; i++) { /* one after the other: a tenant's own requests share a tau */
        sim_submit(&s, &mine[i], &alone[i], NULL);
        sim_drain(&s);
      }
    } else {
      const weir_cascade_cfg greedy = budget(WEIR_MODE_DEFER, WEIR_GATE_ENTROPY, 1, 0, 0, 1);
      for (int i = 0; i < 8; i++) {
        sim_submit(&s, &mine[i], &out[i], NULL);
        for (int k = 0; k < 3; k++) {
          job[k] = make_job(2 + (uint64_t)(k % 2), MAX_NEW, &greedy);
          sim_submit(&s, &job[k], &out[8 + 3 * i + k], NULL);
        }
        sim_drain(&s);
      }
      for (int i = 0; i < 8; i++) {
        assert_int_equal(out[i].n, alone[i].n);
        for (int32_t k = 0; k < out[i].n; k++) {
          const weir_token_receipt *a = &alone[i].receipt[k], *b = &out[i].receipt[k];
          if (a->id != b->id || a->tier != b->tier || a->tau != b->tau)
            fail_msg("request %d token %d: %d of %d at %g, alone %d of %d at %g", i, k, b->id, b->tier,
                     (double)b->tau, a->id, a->tier, (double)a->tau);
        }
      }
      for (int i = 8; i < 32; i++) /* and the greedy ones get what they ask for */
        assert_true(out[i].counts.deferred * 10 >= out[i].n * 7);
      sim_out_fini(out, 32);
      sim_out_fini(alone, 8);
    }
    sim_close(&s);
  }
}

/* ---- one short request ---- */

static void short_requests(void **state) {
  (void)state;
  for (int32_t burst = 1; burst <= 4; burst++)
    for (int32_t hold = 1; hold <= 2; hold++) {
      sim s;
      rnd_state = 9u + (uint32_t)burst;
      const sim_opts o = several(8);
      sim_open(&s, &o);
      for (int32_t i = 0; i < JOBS; i++) { /* new tenants all of them: each tau begins low */
        weir_cascade_cfg cfg = budget(WEIR_MODE_DEFER, WEIR_GATE_ENTROPY, 0.1f, burst, 0, hold);
        cfg.gate[0].threshold = 0.01f;
        job[i] = make_job(1000 + (uint64_t)i, 1 + (int32_t)rnd(30), &cfg);
      }
      sim_run(&s, job, out, JOBS);
      int32_t held_back = 0;
      for (int32_t i = 0; i < JOBS; i++) {
        const int32_t up = replay(&job[i], &out[i]);
        if (up > burst + 0.1 * (out[i].n - 1) + hold - 1 + 1e-6)
          fail_msg("burst %d: %d of %d deferred", burst, up, out[i].n);
        for (int32_t k = 0; k < out[i].n; k++)
          held_back += isinf(out[i].receipt[k].tau) && out[i].receipt[k].entropy > 3;
      }
      assert_true(held_back > 0); /* else there was nothing to hold back */
      assert_true(weir_engine_get_stats(s.engine).budget.blocked >= held_back);
      sim_out_fini(out, JOBS);
      sim_close(&s);
    }
}

/* A tenant of requests that are too short for a bucket each: over all of them the rate keeps its upper bound.
 */
static void many_short(void **state) {
  (void)state;
  sim s;
  rnd_state = 31;
  const sim_opts o = several(8);
  sim_open(&s, &o);
  int64_t counts = 0, deferred = 0;
  for (int round = 0; round < 20; round++) {
    for (int32_t i = 0; i < JOBS; i++) {
      const weir_cascade_cfg cfg = budget(WEIR_MODE_DEFER, WEIR_GATE_ENTROPY, 0.1f, 2, 0, 1);
      job[i] = make_job(4, 1 + (int32_t)rnd(3), &cfg);
    }
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) counts += out[i].n, deferred += replay(&job[i], &out[i]);
    sim_out_fini(out, JOBS);
  }
  const double over = (double)deferred / (double)counts - 0.1;
  if (over > bound_of(WEIR_GATE_ENTROPY, 0, 1, counts))
    fail_msg("over by %g after %lld", over, (long long)counts);
  assert_true(deferred > 0);
  sim_close(&s);
}

/* One long request under a bucket: tau goes to where a share of the tokens asks, and does not sink because
 * the bucket refuses some of them. */
static void bucket_and_rate(void **state) {
  (void)state;
  sim s;
  rnd_state = 21;
  const sim_opts o = several(1);
  sim_open(&s, &o);
  int64_t counts = 0, asked = 0, up = 0;
  float first = 0, last = 0;
  for (int round = 0; round < 4; round++) {
    for (int32_t i = 0; i < JOBS; i++) {
      const weir_cascade_cfg cfg = budget(WEIR_MODE_DEFER, WEIR_GATE_ENTROPY, 0.2f, 1, 0, 1);
      job[i] = make_job(1, MAX_NEW, &cfg);
    }
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) counts += out[i].n, up += replay(&job[i], &out[i]);
    sim_out_fini(out, JOBS);
    last = weir_engine_get_stats(s.engine).budget.tau;
    if (round == 0) first = last;
  }
  const weir_budget_stats b = weir_engine_get_stats(s.engine).budget;
  asked = b.deferred + b.blocked;
  assert_true(b.counts == counts && b.deferred == up && b.blocked > 0);
  expect_rate("asked for", asked, counts, 0.2, bound_of(WEIR_GATE_ENTROPY, 0, 1, counts));
  if (!(first > 2 && last > 2)) fail_msg("tau %g, then %g", (double)first, (double)last);
  sim_close(&s);
}

/* ---- the edges ---- */

/* 1: all, by a small tier that is asked all the same; 0: none once tau is above what there is. */
static void extremes(void **state) {
  (void)state;
  for (int all = 0; all < 2; all++) {
    sim s;
    rnd_state = 3;
    const sim_opts o = several(4);
    sim_open(&s, &o);
    for (int32_t i = 0; i < JOBS; i++) {
      const weir_cascade_cfg cfg = budget(WEIR_MODE_DEFER, WEIR_GATE_ENTROPY, (float)all, 0, 0, 1);
      job[i] = make_job(1, MAX_NEW, &cfg);
    }
    sim_run(&s, job, out, JOBS);
    int64_t counts = 0, up = 0;
    for (int32_t i = 0; i < JOBS; i++) counts += out[i].n, up += replay(&job[i], &out[i]);
    expect_rate("extreme", up, counts, all, bound_of(WEIR_GATE_ENTROPY, 0, 1, counts));
    assert_true(replay(&job[JOBS - 1], &out[JOBS - 1]) == (all ? out[JOBS - 1].n : 0));
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
}

/* With the large tier down the tracker stands still, and receipts still say who was wanted. */
static void tier_down(void **state) {
  (void)state;
  sim s;
  rnd_state = 8;
  sim_opts o = several(4);
  o.fail_large_at = 40;
  sim_open(&s, &o);
  for (int32_t i = 0; i < JOBS; i++) {
    const weir_cascade_cfg cfg = budget(WEIR_MODE_DEFER, WEIR_GATE_ENTROPY, 0.2f, 0, 0, 1);
    job[i] = make_job(1, MAX_NEW, &cfg);
  }
  sim_run(&s, job, out, JOBS);
  int64_t tokens = 0, wanted = 0;
  for (int32_t i = 0; i < JOBS; i++) {
    assert_true(out[i].end == WEIR_END_LENGTH);
    replay(&job[i], &out[i]);
    tokens += out[i].n;
    wanted += out[i].counts.wanted_up;
  }
  const weir_budget_stats b = weir_engine_get_stats(s.engine).budget;
  assert_true(wanted > 0 && b.counts < tokens / 2);
  expect_rate("before it went", b.deferred, b.counts, 0.2, bound_of(WEIR_GATE_ENTROPY, 0, 1, b.counts));
  sim_out_fini(out, JOBS);
  sim_close(&s);
}

/* rollback: drafts that are taken back are decided on again; the tracker counts each decision. */
static void rollback(void **state) {
  (void)state;
  sim s;
  rnd_state = 12;
  const sim_opts o = several(6);
  sim_open(&s, &o);
  for (int32_t i = 0; i < JOBS; i++) {
    const weir_cascade_cfg cfg = budget(WEIR_MODE_ROLLBACK, WEIR_GATE_ENTROPY, 0.2f, 0, 0, 1);
    job[i] = make_job(1, MAX_NEW, &cfg);
  }
  sim_run(&s, job, out, JOBS);
  const weir_budget_stats b = weir_engine_get_stats(s.engine).budget;
  assert_true(b.counts > 500);
  expect_rate("rollback", b.deferred, b.counts, 0.2, bound_of(WEIR_GATE_ENTROPY, 0, 1, b.counts));
  sim_out_fini(out, JOBS);
  sim_close(&s);
}

/* The price of load: nothing for a request alone, more with company that waits, within its bound; the
 * threshold it is added to stands still. A fake step takes a microsecond. */
static void load(void **state) {
  (void)state;
  for (int32_t n = 1; n <= JOBS; n += JOBS - 1) {
    sim s;
    rnd_state = 2;
    sim_opts o = several(JOBS);
    o.large_batch = 16;
    o.large_wait_ns = 1000000;
    sim_open(&s, &o);
    for (int32_t i = 0; i < n; i++) {
      weir_cascade_cfg cfg = sim_mode(WEIR_MODE_DEFER, 2);
      cfg.budget.load_price = 100;
      job[i] = make_job(1, MAX_NEW, &cfg);
    }
    sim_run(&s, job, out, n);
    int32_t priced = 0;
    for (int32_t i = 0; i < n; i++) {
      replay(&job[i], &out[i]);
      for (int32_t k = 0; k < out[i].n; k++) {
        if (out[i].receipt[k].why == WEIR_WHY_HOLD) continue;
        const double added = (double)out[i].receipt[k].tau - 2;
        if (!(added >= 0 && added <= weir_load_price(100, n - 1, 1000) + 1e-6)) fail_msg("added %g", added);
        priced += added > 0;
      }
    }
    if (n == 1) assert_int_equal(priced, 0);
    if (n > 1) assert_true(priced > 100);
    sim_out_fini(out, n);
    sim_close(&s);
  }
}

/* Without a budget thresholds stand still and are in the receipts. */
static void without(void **state) {
  (void)state;
  sim s;
  rnd_state = 2;
  const sim_opts o = several(6);
  sim_open(&s, &o);
  for (int32_t i = 0; i < JOBS; i++) {
    const weir_cascade_cfg cfg = sim_mode(WEIR_MODE_DEFER, 2);
    job[i] = make_job(1, MAX_NEW, &cfg);
  }
  sim_run(&s, job, out, JOBS);
  for (int32_t i = 0; i < JOBS; i++) {
    replay(&job[i], &out[i]);
    for (int32_t k = 0; k < out[i].n; k++) assert_true(out[i].receipt[k].tau == 2);
    assert_int_equal(out[i].counts.budgeted, 0);
  }
  assert_int_equal(weir_engine_get_stats(s.engine).budget.counts, 0);
  sim_out_fini(out, JOBS);
  sim_close(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rate_by_tenant), cmocka_unit_test(tenants_apart),   cmocka_unit_test(short_requests),
      cmocka_unit_test(many_short),     cmocka_unit_test(bucket_and_rate), cmocka_unit_test(extremes),
      cmocka_unit_test(tier_down),      cmocka_unit_test(rollback),        cmocka_unit_test(load),
      cmocka_unit_test(without)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
