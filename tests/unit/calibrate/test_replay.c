/* SPDX-License-Identifier: Apache-2.0 */
/* Replays of made-up traces against what they must be by hand, the cost model, curves, trace files. (Against
 * the engine itself: tests/sim/test_real_replay.c.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "calibrate/cost.h"
#include "calibrate/curves.h"
#include "calibrate/replay.h"
#include "calibrate/trace_file.h"
#include "cascade/cascade_conf.h"

static uint64_t state_of = 7;
static double uniform(void) {
  uint64_t z = state_of += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static void random_text(weir_trace_text *x, int32_t n_prompt, int32_t n, bool prompts) {
  weir_err e;
  assert_int_equal(weir_trace_text_init(x, n_prompt, n, prompts, 0, &e), WEIR_OK);
  for (int32_t i = 0; i < n; i++) {
    const double h = uniform() * 1.5;
    const bool same = uniform() > h / 2;
    x->row[i] = (weir_trace_row){.q_token = same ? 100 + i : 7,
                                 .p_token = 100 + i,
                                 .q_entropy = (float)h,
                                 .q_max = (float)(1 - h / 2),
                                 .q_margin = (float)(1 - h / 1.6),
                                 .q_logprob = (float)-h,
                                 .q_of_p = (float)(same ? -h : -3),
                                 .q_gate = (float)(h / 2),
                                 .p_entropy = (float)(h / 2),
                                 .p_max = 0.8F,
                                 .p_margin = 0.7F,
                                 .p_logprob = logf(0.8F),
                                 .p_of_q = same ? logf(0.8F) : logf(0.05F)};
  }
  for (int32_t i = 0; prompts && i < n_prompt - 1; i++) x->prompt_entropy[i] = (float)uniform();
}

static weir_cascade_cfg cfg_of(const weir_cascade_opts *o) {
  weir_cascade_cfg c;
  weir_err e;
  if (weir_cascade_cfg_make(o, &c, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return c;
}

/* Deferral by hand: who writes, and what each tier is fed. */
static void test_defer_by_hand(void **state) {
  (void)state;
  weir_replay_scratch s = {0};
  int32_t large = 0;
  for (int round = 0; round < 200; round++) {
    weir_trace_text x = {0};
    weir_err e;
    weir_replay r;
    const int32_t n = 1 + (int32_t)(uniform() * 40), n_prompt = 1 + (int32_t)(uniform() * 9);
    random_text(&x, n_prompt, n, false);
    const float tau = (float)(uniform() * 1.6);
    const weir_cascade_cfg c =
        cfg_of(&(weir_cascade_opts){.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD, .threshold = tau});
    const weir_replay_how how = {.cfg = &c};
    assert_int_equal(weir_replay_text(&x, 0, &how, &s, &r, &e), WEIR_OK);
    int32_t fed[2] = {0}, steps[2] = {0}, kv[2] = {0}, lost = 0, first = n, by_large = 0;
    for (int32_t i = 0; i < n; i++) {
      const int32_t have = n_prompt + i;
      fed[0] += have - kv[0];
      kv[0] = have;
      steps[0]++;
      const bool up = x.row[i].q_entropy > tau;
      if (up) {
        fed[1] += have - kv[1];
        kv[1] = have;
        steps[1]++;
        by_large++;
      } else if (x.row[i].q_token != x.row[i].p_token) {
        lost++;
        if (i < first) first = i;
      }
      assert_int_equal(s.receipt[have].tier, up ? 1 : 0);
      assert_int_equal(s.tok[have], up ? x.row[i].p_token : x.row[i].q_token);
    }
    for (int t = 0; t < 2; t++) {
      assert_int_equal(r.rows[t], fed[t]);
      assert_int_equal(r.steps[t], steps[t]);
      assert_int_equal(r.asked[t], steps[t]);
      assert_int_equal(r.kv[t], kv[t]);
    }
    assert_int_equal(r.lost, lost);
    assert_int_equal(r.first_other, first);
    assert_int_equal(r.exact_to, first < n ? first + 1 : n);
    assert_int_equal(r.by_large, by_large);
    large += by_large;
    free(x.row);
  }
  assert_true(large > 100);
  weir_replay_scratch_fini(&s);
}

/* The oracle defers exactly where tokens differ. */
static void test_oracle(void **state) {
  (void)state;
  weir_replay_scratch s = {0};
  weir_trace_text x = {0};
  weir_err e;
  weir_replay r;
  random_text(&x, 4, 60, false);
  int32_t differ = 0;
  for (int32_t i = 0; i < x.n; i++) differ += x.row[i].q_token != x.row[i].p_token;
  const weir_cascade_cfg c =
      cfg_of(&(weir_cascade_opts){.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD, .threshold = 0.5F});
  const weir_replay_how how = {.cfg = &c, .oracle = true};
  assert_int_equal(weir_replay_text(&x, 0, &how, &s, &r, &e), WEIR_OK);
  assert_true(differ > 5 && differ < x.n);
  assert_int_equal(r.by_large, differ);
  assert_int_equal(r.lost, 0);
  assert_int_equal(r.first_other, x.n);
  const weir_cascade_cfg other =
      cfg_of(&(weir_cascade_opts){.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD, .threshold = 0.4F});
  const weir_replay_how wrong = {.cfg = &other, .oracle = true};
  assert_int_equal(weir_replay_text(&x, 0, &wrong, &s, &r, &e), WEIR_EINVAL);
  free(x.row);
  weir_replay_scratch_fini(&s);
}

/* Exact speculation by hand: each round drafts to the window, the judge keeps the run of right ones and
 * writes one more. A draft that would end the text is judged at once. */
static void test_exact_by_hand(void **state) {
  (void)state;
  weir_replay_scratch s = {0};
  for (int round = 0; round < 200; round++) {
    weir_trace_text x = {0};
    weir_err e;
    weir_replay r;
    const int32_t n = 1 + (int32_t)(uniform() * 40), window = 1 + (int32_t)(uniform() * 6);
    random_text(&x, 3, n, false);
    for (int32_t i = 0; i < n - 1 && round % 2; i++)
      x.row[i].q_ends = x.row[i].q_token != x.row[i].p_token && uniform() < 0.5;
    const weir_cascade_cfg c =
        cfg_of(&(weir_cascade_opts){.mode = WEIR_MODE_EXACT,
                                    .set = WEIR_OPT_WINDOW | WEIR_OPT_THRESHOLD,
                                    .threshold = INFINITY, /* no draft ends before its window */
                                    .window = window});
    const weir_replay_how how = {.cfg = &c};
    assert_int_equal(weir_replay_text(&x, round % 3 ? 0 : 0.7F, &how, &s, &r, &e), WEIR_OK);
    int32_t small = 0, large = 0, refused = 0, at = 0;
    while (at < n) {
      int32_t drafts = 0, kept = 0;
      bool wrong = false;
      while (drafts < window && at + drafts < n) {
        const weir_trace_row *t = &x.row[at + drafts];
        drafts++;
        small++;
        if (t->q_token != t->p_token) wrong = true;
        if (!wrong) kept++;
        if (t->q_ends) break;
      }
      large++;
      refused += drafts - kept;
      at += kept;
      if (at < n) at++; /* its own token: in place of the refused one, or one more */
    }
    assert_int_equal(r.first_other, n);
    assert_int_equal(r.exact_to, n);
    assert_int_equal(r.lost, 0);
    if (r.steps[0] != small || r.steps[1] != large || r.refused != refused)
      fail_msg("round %d: n %d, window %d: %d and %d steps, %d refused; by hand %d, %d, %d", round, n, window,
               r.steps[0], r.steps[1], r.refused, small, large, refused);
    free(x.row);
  }
  weir_replay_scratch_fini(&s);
}

/* ---- costs ---- */

static weir_cal_cost some_cost(void) {
  weir_cal_cost c = {.n = 3, .rows = {1, 4, 8}};
  for (int t = 0; t < 2; t++)
    for (int k = 0; k < 3; k++) {
      c.ns[t][k] = (t ? 1000 : 100) + 10.0 * c.rows[k];
      c.ns_all[t][k] = c.ns[t][k] + 5.0 * (c.rows[k] - 1);
    }
  c.flops[0] = 2;
  c.flops[1] = 20;
  c.weight_bytes[0] = 3;
  c.weight_bytes[1] = 30;
  c.kv_bytes[0] = 1;
  c.kv_bytes[1] = 4;
  return c;
}

static void test_step_cost(void **state) {
  (void)state;
  const weir_cal_cost c = some_cost();
  const struct {
    int32_t tier, rows, asked;
    double ns;
  } cases[] = {{0, 1, 1, 110},  {1, 1, 1, 1010}, {0, 2, 1, 120},  {0, 8, 1, 180},   {0, 16, 1, 260},
               {1, 4, 4, 1055}, {1, 4, 1, 1040}, {1, 4, 2, 1045}, {1, 16, 16, 1235}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const double ns = weir_cost_step_ns(&c, cases[i].tier, cases[i].rows, cases[i].asked);
    if (fabs(ns - cases[i].ns) > 1e-9) fail_msg("case %zu: %g, want %g", i, ns, cases[i].ns);
  }
}

static void add_steps(weir_cost_log *l, const weir_replay_step *s, int n) {
  weir_err e;
  for (int i = 0; i < n; i++) weir_cost_log_step(l, &s[i]);
  assert_int_equal(weir_cost_log_end(l, &e), WEIR_OK);
}

static void test_simulation(void **state) {
  (void)state;
  const weir_cal_cost c = some_cost();
  weir_cost_log l = {0};
  weir_err e;
  double ns;
  int64_t steps[2];
  const weir_replay_step one[] = {{0, 4, 1}, {0, 1, 1}, {1, 5, 1}}, two[] = {{0, 2, 1}, {1, 3, 3}};
  add_steps(&l, one, 3);
  add_steps(&l, two, 2);
  /* alone, one behind the other: the sum of all steps */
  const weir_cost_engine alone = {.batch = 1, .large_batch = 1, .max_rows = 64};
  assert_int_equal(weir_cost_simulate(&c, &l, &alone, &ns, steps, &e), WEIR_OK);
  assert_true(fabs(ns - (140 + 110 + 1050 + 120 + 1030 + 10)) < 1e-9);
  assert_int_equal(steps[0], 3);
  assert_int_equal(steps[1], 2);
  /* together: small 4+2 rows, small 1 row while one large waits, large 5+3 rows */
  const weir_cost_engine both = {.batch = 2, .large_batch = 2, .large_wait_ns = 1e9, .max_rows = 64};
  assert_int_equal(weir_cost_simulate(&c, &l, &both, &ns, steps, &e), WEIR_OK);
  assert_true(fabs(ns - (160 + 5 * 1.0 + 110 + weir_cost_step_ns(&c, 1, 8, 4))) < 1e-9);
  assert_int_equal(steps[0], 2);
  assert_int_equal(steps[1], 1);
  /* a large step at once for whoever waits: it is not shared */
  const weir_cost_engine eager = {.batch = 2, .large_batch = 1, .large_wait_ns = 1e9, .max_rows = 64};
  assert_int_equal(weir_cost_simulate(&c, &l, &eager, &ns, steps, &e), WEIR_OK);
  assert_int_equal(steps[1], 2);
  /* steps of a few rows: feeds come in chunks */
  const weir_cost_engine narrow = {.batch = 1, .large_batch = 1, .max_rows = 2};
  assert_int_equal(weir_cost_simulate(&c, &l, &narrow, &ns, steps, &e), WEIR_OK);
  assert_int_equal(steps[0], 2 + 1 + 1);
  assert_int_equal(steps[1], 3 + 2);
  weir_cost_log_fini(&l);
}

/* ---- curves ---- */

static void test_curves(void **state) {
  (void)state;
  weir_trace t;
  weir_err e;
  weir_calibration r = {0};
  const weir_cal_cost cost = some_cost();
  assert_int_equal(weir_trace_init(&t, 20, &e), WEIR_OK);
  for (int32_t i = 0; i < t.n; i++) random_text(&t.text[i], 5, 30, false);
  const weir_curves_how how = {.trace = &t,
                               .part = -1,
                               .cost = &cost,
                               .engine = {.batch = 4, .large_batch = 2, .max_rows = 512},
                               .head = true};
  if (weir_curves_make(&how, &r, &e) != WEIR_OK) fail_msg("%s", e.msg);
  double entropy_at[2] = {0}, oracle = 0;
  for (int32_t i = 0; i < r.n_curves; i++) {
    const weir_cal_curve *c = &r.curve[i];
    assert_true(c->n > 0 && c->label[0]);
    for (int32_t k = 0; k < c->n; k++) {
      const weir_cal_point *p = &c->point[k];
      assert_true(p->deferral_rate >= 0 && p->deferral_rate <= 1 && p->same_text >= 0 && p->same_text <= 1);
      assert_true(p->ns > 0 && p->speedup > 0 && p->flops > 0 && p->weight_bytes > 0);
      if (c->kind == WEIR_CURVE_EXACT) assert_true(p->same_text == 1 && p->token_loss == 0);
      if (c->kind == WEIR_CURVE_GATE && k > 0) { /* deferring more loses less */
        assert_true(p->deferral_rate >= c->point[k - 1].deferral_rate);
        assert_true(p->token_loss <= c->point[k - 1].token_loss);
      }
      bool beaten = !p->runnable;
      for (int32_t j = 0; j < r.n_curves; j++)
        for (int32_t l = 0; l < r.curve[j].n; l++) {
          const weir_cal_point *o = &r.curve[j].point[l];
          beaten = beaten || (o->runnable && o->speedup >= p->speedup && o->same_text >= p->same_text &&
                              (o->speedup > p->speedup || o->same_text > p->same_text));
        }
      assert_int_equal(p->pareto, !beaten);
    }
    if (c->kind == WEIR_CURVE_LARGE) assert_true(c->point[0].speedup == 1 && c->point[0].deferral_rate == 1);
    if (c->kind == WEIR_CURVE_SMALL) assert_true(c->point[0].rows[1] == 0 && c->point[0].deferral_rate == 0);
    if (c->kind == WEIR_CURVE_ORACLE) oracle = c->point[0].deferral_rate;
    if (c->kind == WEIR_CURVE_GATE) assert_true(c->auroc > 0.6); /* tokens differ where the entropy is high */
    if (c->kind == WEIR_CURVE_GATE && c->gate == WEIR_GATE_ENTROPY) entropy_at[0] = c->auroc;
    if (c->kind == WEIR_CURVE_GATE && c->gate == WEIR_GATE_TOP_PROB) entropy_at[1] = c->auroc;
    if (c->kind == WEIR_CURVE_CHANCE) assert_true(isnan(c->auroc));
  }
  assert_true(entropy_at[0] > 0 &&
              fabs(entropy_at[0] - entropy_at[1]) < 0.01); /* one is a function of the other */
  assert_true(oracle > 0.1 && oracle < 0.6);
  assert_non_null(weir_curves_fastest(&r, WEIR_CURVE_EXACT));
  weir_calibration_fini(&r);
  weir_trace_fini(&t);
}

/* ---- files ---- */

static void test_file(void **state) {
  (void)state;
  char path[] = "/tmp/weir-trace-XXXXXX";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  weir_trace t, got;
  weir_trace_meta m = {.small = "s", .large = "l", .data = "d", .device = "cpu", .n_threads = 2, .batch = 3},
                  back;
  weir_err e = {0};
  m.cost = some_cost();
  assert_int_equal(weir_trace_init(&t, 3, &e), WEIR_OK);
  t.temperature = 0.5F;
  t.seed = 99;
  t.dim = 2;
  for (int32_t i = 0; i < t.n; i++) random_text(&t.text[i], 1 + i, 3 + i, i > 0);
  t.text[1].part = WEIR_PART_CONFIRM;
  t.text[2].right = 1;
  t.text[2].row[1].q_gate = NAN;
  t.text[2].row[1].q_of_p = -INFINITY;
  t.text[0].hidden = calloc(6, sizeof(float));
  t.text[0].hidden[5] = 1.5F;
  if (weir_trace_write(path, &t, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_trace_read(path, &got, &back, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(got.n, t.n);
  assert_true(got.temperature == t.temperature && got.seed == t.seed && got.dim == t.dim);
  assert_memory_equal(&back, &m, sizeof m);
  for (int32_t i = 0; i < t.n; i++) {
    assert_int_equal(got.text[i].n, t.text[i].n);
    assert_int_equal(got.text[i].n_prompt, t.text[i].n_prompt);
    assert_int_equal(got.text[i].part, t.text[i].part);
    assert_int_equal(got.text[i].right, t.text[i].right);
    assert_memory_equal(got.text[i].row, t.text[i].row, (size_t)t.text[i].n * sizeof *t.text[i].row);
    assert_int_equal(got.text[i].prompt_entropy != NULL, i > 0);
    if (i > 0)
      assert_memory_equal(got.text[i].prompt_entropy, t.text[i].prompt_entropy, (size_t)i * sizeof(float));
  }
  assert_true(got.text[0].hidden[5] == 1.5F);
  weir_trace_fini(&got);

  /* cut short anywhere, and longer: refused; a byte changed anywhere: read or refused, never more */
  FILE *f = fopen(path, "rb");
  static char whole[16384];
  const size_t n = fread(whole, 1, sizeof whole, f);
  fclose(f);
  assert_true(n > 2000 && n < sizeof whole - 1);
  int32_t refused = 0;
  for (size_t k = 0; k <= n; k += k + 13 < n ? 13 : 1) {
    if (k < n && k > 64 && k < 1000) continue; /* names */
    f = fopen(path, "wb");
    fwrite(whole, 1, k < n ? k : n + 1, f);
    fclose(f);
    if (weir_trace_read(path, &got, &back, &e) != WEIR_EFORMAT) fail_msg("%zu bytes of %zu are read", k, n);
    assert_true(strstr(e.msg, path) != NULL);
  }
  for (size_t k = 0; k < n; k += 5) {
    if (k > 64 && k < 1000) continue;
    whole[k] ^= (char)0x80;
    f = fopen(path, "wb");
    fwrite(whole, 1, n, f);
    fclose(f);
    whole[k] ^= (char)0x80;
    if (weir_trace_read(path, &got, &back, &e) == WEIR_OK)
      weir_trace_fini(&got);
    else
      refused++;
  }
  assert_true(refused > 50);
  remove(path);
  assert_int_equal(weir_trace_read(path, &got, &back, &e), WEIR_EIO);
  weir_trace_fini(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defer_by_hand), cmocka_unit_test(test_oracle),
      cmocka_unit_test(test_exact_by_hand), cmocka_unit_test(test_step_cost),
      cmocka_unit_test(test_simulation),    cmocka_unit_test(test_curves),
      cmocka_unit_test(test_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
