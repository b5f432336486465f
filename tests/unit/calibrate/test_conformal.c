/* SPDX-License-Identifier: Apache-2.0 */
/* Conformal risk control against a reference by exhaustion, and against its promise: over many draws of data
 * and a fresh request the mean loss is at most alpha. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "calibrate/conformal.h"
#include "calibrate/replay.h"
#include "cascade/cascade_conf.h"

static uint64_t state_of = 1;
static double uniform(void) { /* splitmix64 */
  uint64_t z = state_of += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* By the definition: the infimum over settings that satisfy the inequality, the loss made monotone first. */
static int32_t reference(const float *loss, int32_t n, int32_t m, double alpha) {
  int32_t best = -1;
  for (int32_t j = 0; j < m; j++) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
      float most = 0;
      for (int32_t k = 0; k <= j; k++) most = fmaxf(most, loss[i * m + k]);
      sum += (double)most;
    }
    const double risk = sum / n;
    if ((double)n / (n + 1) * risk + 1.0 / (n + 1) <= alpha + 1e-12) best = j;
  }
  return best;
}

static void test_choose(void **state) {
  (void)state;
  enum { N = 40, M = 12 };
  float loss[N * M];
  double risk[M];
  int chosen[M + 1] = {0};
  for (int round = 0; round < 3000; round++) {
    const int32_t n = 1 + (int32_t)(uniform() * N), m = 1 + (int32_t)(uniform() * M);
    const double alpha = uniform() < 0.1 ? 1 : uniform(), level = uniform() * 0.5;
    for (int32_t i = 0; i < n * m; i++)
      loss[i] = uniform() < level * (i % m) / m ? (uniform() < 0.5 ? 1 : (float)uniform()) : 0;
    const int32_t want = reference(loss, n, m, alpha);
    const int32_t got = weir_conformal_choose(loss, n, m, alpha, risk);
    if (got != want)
      fail_msg("round %d: n %d, m %d, alpha %g: chose %d, want %d", round, n, m, alpha, got, want);
    for (int32_t j = 1; j < m; j++) assert_true(risk[j] >= risk[j - 1]);
    chosen[got + 1]++;
  }
  for (int j = 0; j < 4; j++)
    if (chosen[j] < 20) fail_msg("setting %d was chosen %d times: too few", j - 1, chosen[j]);
}

static void test_enough(void **state) {
  (void)state;
  const struct {
    double alpha;
    int32_t n;
  } cases[] = {{1, 0}, {0.5, 1}, {0.1, 9}, {0.05, 19}, {0.01, 99}, {0.001, 999}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const int32_t n = weir_conformal_enough(cases[i].alpha);
    if (abs(n - cases[i].n) > (cases[i].n > 100 ? 1 : 0))
      fail_msg("alpha %g: %d, want %d", cases[i].alpha, n, cases[i].n);
    float loss[1] = {0};
    double risk[1];
    if (n > 1 && n < 200) { /* one fewer is not enough, even without any loss */
      float none[200] = {0};
      assert_int_equal(weir_conformal_choose(none, n, 1, cases[i].alpha, risk), 0);
      assert_int_equal(weir_conformal_choose(none, n - 1, 1, cases[i].alpha, risk), -1);
    }
    assert_int_equal(weir_conformal_choose(loss, 0, 1, 0.5, risk), -1);
  }
}

/* A request of the simulated world: its loss is 0 up to a setting of its own, then rises; now and then it
 * falls again, as answers do, which only the running maximum makes an allowed loss. */
static void draw_request(float *loss, int32_t m) {
  const double at = uniform() * 1.3 * m, height = 0.2 + 0.8 * uniform();
  for (int32_t j = 0; j < m; j++) loss[j] = j >= at ? (float)height : 0;
  const int32_t hole = (int32_t)(uniform() * m);
  if (uniform() < 0.3) loss[hole] = 0;
}

static void test_coverage(void **state) {
  (void)state;
  enum { DRAWS = 10000, N = 60, M = 15 };
  const double alphas[] = {0.05, 0.1, 0.3};
  static float loss[(N + 1) * M];
  double risk[M];
  for (size_t a = 0; a < sizeof alphas / sizeof *alphas; a++) {
    double sum = 0, squares = 0;
    int32_t none = 0;
    for (int k = 0; k < DRAWS; k++) {
      for (int32_t i = 0; i <= N; i++) draw_request(loss + i * M, M);
      const int32_t j = weir_conformal_choose(loss, N, M, alphas[a], risk);
      const double of = j < 0 ? 0 : (double)loss[N * M + j]; /* the fresh one, as it is */
      none += j < 0;
      sum += of;
      squares += of * of;
    }
    const double mean = sum / DRAWS, error = sqrt((squares / DRAWS - mean * mean) / DRAWS);
    if (mean > alphas[a] + 4 * error)
      fail_msg("alpha %g: a fresh request loses %g +- %g on average", alphas[a], mean, error);
    /* and not by deferring everything: the choice is worth something */
    if (mean < 0.4 * alphas[a] || none > DRAWS / 100)
      fail_msg("alpha %g: a fresh request loses %g, no choice %d times: too careful", alphas[a], mean, none);
  }
}

/* ---- thresholds of gates ---- */

static void random_trace(weir_trace *t, int32_t n) {
  weir_err e;
  assert_int_equal(weir_trace_init(t, n, &e), WEIR_OK);
  for (int32_t i = 0; i < n; i++) {
    weir_trace_text *x = &t->text[i];
    assert_int_equal(weir_trace_text_init(x, 1, 1 + (int32_t)(uniform() * 30), false, 0, &e), WEIR_OK);
    x->part = uniform() < 0.3 ? WEIR_PART_CONFIRM : WEIR_PART_CALIBRATE;
    for (int32_t k = 0; k < x->n; k++) {
      const double h = uniform() * uniform() * 2.2;
      x->row[k] = (weir_trace_row){.q_token = uniform() < 0.3 * h ? 1 : 0,
                                   .q_entropy = (float)h,
                                   .q_max = (float)(1 - h / 2.3),
                                   .q_margin = (float)(1 - h / 2.3),
                                   .q_gate = (float)(h / 2.3)};
    }
  }
}

static void test_tokens(void **state) {
  (void)state;
  const weir_gate_kind kinds[] = {WEIR_GATE_ENTROPY, WEIR_GATE_TOP_PROB, WEIR_GATE_MARGIN, WEIR_GATE_HEAD};
  const double alphas[] = {0.02, 0.05, 0.1, 0.5};
  weir_trace t;
  weir_err e;
  random_trace(&t, 150);
  for (size_t k = 0; k < 4; k++)
    for (size_t a = 0; a < 4; a++) {
      weir_gate g = {.kind = kinds[k]};
      weir_conformal_tokens got;
      assert_int_equal(weir_conformal_on_tokens(&t, WEIR_PART_CALIBRATE, &g, alphas[a], &got, &e), WEIR_OK);
      int32_t want = -1, n = 0;
      for (int32_t j = 0; j < WEIR_CONFORMAL_GRID; j += j < WEIR_CONFORMAL_GRID - 21 ? 20 : 1) {
        double sum = 0;
        g.threshold = weir_conformal_threshold(g.kind, j);
        n = 0;
        for (int32_t i = 0; i < t.n; i++) {
          if (t.text[i].part != WEIR_PART_CALIBRATE) continue;
          n++;
          sum += weir_conformal_token_loss(&t.text[i], &g);
        }
        assert_true(fabs(got.risk[j] - sum / n) < 1e-9);
        if (weir_conformal_bound(sum / n, n) <= alphas[a]) want = j;
      }
      assert_int_equal(got.n, n);
      if (want > got.chosen || (want >= 0 && got.chosen - want >= 20))
        fail_msg("gate %zu, alpha %g: chose %d, want %d or up to 19 more", k, alphas[a], got.chosen, want);
      free(got.risk);
    }
  weir_trace_fini(&t);
}

/* A share of positions stands in the replay as the loss says. */
static void test_loss_is_the_replays(void **state) {
  (void)state;
  weir_trace t;
  weir_err e;
  weir_replay_scratch s = {0};
  random_trace(&t, 40);
  for (int32_t i = 0; i < t.n; i++)
    for (int j = 0; j < 5; j++) {
      weir_cascade_cfg c;
      const weir_cascade_opts o = {
          .mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD, .threshold = 0.4F * (float)j};
      weir_replay r;
      assert_int_equal(weir_cascade_cfg_make(&o, &c, &e), WEIR_OK);
      const weir_replay_how how = {.cfg = &c};
      assert_int_equal(weir_replay_text(&t.text[i], 0, &how, &s, &r, &e), WEIR_OK);
      const double loss = weir_conformal_token_loss(&t.text[i], &c.gate[0]);
      assert_true(fabs(loss - (double)r.lost / r.n) < 1e-12);
    }
  weir_replay_scratch_fini(&s);
  weir_trace_fini(&t);
}

static void test_grid(void **state) {
  (void)state;
  const weir_gate_kind kinds[] = {WEIR_GATE_ENTROPY, WEIR_GATE_TOP_PROB, WEIR_GATE_ISOTONIC};
  for (int k = 0; k < 3; k++) {
    assert_true(weir_gate_never_passes(
        (weir_gate){.kind = kinds[k], .threshold = weir_conformal_threshold(kinds[k], 0)}));
    for (int32_t j = 1; j < WEIR_CONFORMAL_GRID; j++) {
      const float a = weir_conformal_threshold(kinds[k], j - 1), b = weir_conformal_threshold(kinds[k], j);
      assert_true(weir_gate_is_low(kinds[k]) ? b < a : b > a);
    }
    const float last = weir_conformal_threshold(kinds[k], WEIR_CONFORMAL_GRID - 1);
    assert_true(last == (kinds[k] == WEIR_GATE_ENTROPY ? 2.0F : weir_gate_is_low(kinds[k]) ? 0.0F : 1.0F));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_choose),
      cmocka_unit_test(test_enough),
      cmocka_unit_test(test_coverage),
      cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_loss_is_the_replays),
      cmocka_unit_test(test_grid),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
