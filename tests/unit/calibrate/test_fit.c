/* SPDX-License-Identifier: Apache-2.0 */
/* Fits against what is slow and plainly right: isotonic regression by its max-min formula, logistic
 * regression by Newton's method, the area under the curve by counting pairs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "calibrate/fit_head.h"
#include "calibrate/fit_isotonic.h"
#include "calibrate/quality.h"

static uint64_t state;
static uint32_t rnd(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % n;
}
static double uniform(void) { return (rnd(1 << 30) + 0.5) / (1 << 30); }
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

/* ---- isotonic ---- */

enum { MOST = 60 };

/* max over a <= i of min over b >= i of the mean of the rows with x in [x_a, x_b]. */
static double max_min(const double *x, const double *y, const double *w, int n, double at, double sign) {
  double best = -INFINITY;
  for (int a = 0; a < n; a++) {
    double least = INFINITY;
    if (x[a] > at) continue;
    for (int b = 0; b < n; b++) {
      double sum = 0, weight = 0;
      if (x[b] < at) continue;
      for (int k = 0; k < n; k++)
        if (x[k] >= x[a] && x[k] <= x[b]) {
          sum += w[k] * sign * y[k];
          weight += w[k];
        }
      if (sum / weight < least) least = sum / weight;
    }
    if (least > best) best = least;
  }
  return sign * best;
}

static void test_isotonic_is_the_least_squares(void **unused) {
  (void)unused;
  state = 11;
  for (int round = 0; round < 120; round++) {
    double x[MOST], y[MOST], w[MOST], total = 0, fitted = 0;
    const int n = 1 + (int)rnd(MOST), grid = 1 + (int)rnd(40); /* of few values: ties */
    const bool falling = rnd(2), weighted = rnd(2), binary = rnd(2);
    for (int i = 0; i < n; i++) {
      x[i] = (double)rnd((uint32_t)grid) / 7 - 1;
      y[i] = binary ? rnd(2) : normal() + (falling ? -x[i] : x[i]);
      w[i] = weighted ? 0.1 + uniform() : 1;
    }
    weir_isotonic f;
    weir_err e;
    must(weir_isotonic_fit(x, y, weighted ? w : NULL, n, falling, &f, &e), &e);
    for (int i = 0; i < n; i++) {
      const double want = max_min(x, y, w, n, x[i], falling ? -1 : 1), got = weir_isotonic_at(&f, x[i]);
      if (fabs(got - want) > 1e-12) fail_msg("round %d, x %g: %.17g, want %.17g", round, x[i], got, want);
      total += w[i];
    }
    for (int b = 0; b < f.n; b++) {
      const weir_isotonic_block *k = &f.block[b];
      assert_true(k->lo <= k->centre && k->centre <= k->hi && k->weight > 0);
      if (b > 0) assert_true(k[-1].hi < k->lo && (falling ? k[-1].y > k->y : k[-1].y < k->y));
      fitted += k->weight;
    }
    assert_true(fabs(fitted - total) < 1e-9);
    assert_true(weir_isotonic_at(&f, -100) == f.block[0].y &&
                weir_isotonic_at(&f, 100) == f.block[f.n - 1].y);
    weir_isotonic_fini(&f);
  }
}

static void test_isotonic_refuses(void **unused) {
  (void)unused;
  const double one = 1, nan = NAN, zero = 0;
  weir_isotonic f;
  weir_err e;
  assert_int_equal(weir_isotonic_fit(&one, &one, NULL, 0, false, &f, &e), WEIR_EINVAL);
  assert_int_equal(weir_isotonic_fit(&nan, &one, NULL, 1, false, &f, &e), WEIR_EINVAL);
  assert_int_equal(weir_isotonic_fit(&one, &nan, NULL, 1, false, &f, &e), WEIR_EINVAL);
  assert_int_equal(weir_isotonic_fit(&one, &one, &zero, 1, false, &f, &e), WEIR_EINVAL);
}

/* Whatever the rows: the map is sound, has the rows' mean within what shrinking and joining move, and ranks
 * no worse than chance. With very many levels it has as many knots as there may be. */
static void test_maps_are_sound(void **unused) {
  (void)unused;
  enum { ROWS = 200000 };
  float *x = malloc(ROWS * sizeof *x), *score = malloc(ROWS * sizeof *score);
  bool *wrong = malloc(ROWS * sizeof *wrong);
  assert_true(x && score && wrong);
  state = 5;
  for (int round = 0; round < 24; round++) {
    const int n = round == 0 ? ROWS : 1 + (int)rnd(3000);
    const weir_gate_stat stat = round == 0 ? WEIR_STAT_ENTROPY : (weir_gate_stat)rnd(WEIR_N_STATS);
    double rate = 0, mean = 0, auc;
    for (int i = 0; i < n; i++) {
      const double u = uniform(), p = stat == WEIR_STAT_ENTROPY ? u : 1 - u;
      x[i] = (float)(round % 3 == 1 ? floor(u * 8) / 8 : u);
      wrong[i] = round % 4 == 3 ? rnd(2) : uniform() < p;
      rate += wrong[i] / (double)n;
    }
    weir_gate_map m;
    weir_err e;
    must(weir_isotonic_map(stat, x, wrong, n, &m, &e), &e);
    const char *why = weir_gate_map_error(&m);
    if (why) fail_msg("round %d: %s", round, why);
    for (int i = 0; i < n; i++) {
      score[i] = weir_gate_map_at(&m, x[i]);
      mean += (double)score[i] / n;
      assert_true(score[i] >= 0 && score[i] <= 1);
    }
    must(weir_quality_auc(score, wrong, n, &auc, &e), &e);
    if (n > 300 && round % 4 != 3) assert_true(auc > 0.75); /* uniform scores that are right: 5/6 */
    if (n > 300 && fabs(mean - rate) > 0.03) fail_msg("round %d: mean %g, rate %g", round, mean, rate);
    if (round == 0) {
      assert_true(weir_quality_ece(score, wrong, n, 10) < 0.01);
      for (int k = 0; k <= 20; k++)
        assert_true(fabs((double)weir_gate_map_at(&m, (float)k / 20) - k / 20.0) < 0.05);
    }
  }
  /* Levels without end, each above the last: many more than knots. */
  const int n = 40000;
  for (int i = 0; i < n; i++) {
    const int level = i / 50; /* 800 of them, of 50 rows: level/16 of these are wrong */
    x[i] = (float)level;
    wrong[i] = i % 50 < level / 16;
  }
  weir_gate_map m;
  weir_err e;
  must(weir_isotonic_map(WEIR_STAT_ENTROPY, x, wrong, n, &m, &e), &e);
  assert_null(weir_gate_map_error(&m));
  assert_true(m.n >= 40 && m.n <= WEIR_GATE_MAP_KNOTS);
  free(x);
  free(score);
  free(wrong);
}

static void test_too_many_levels_are_joined(void **unused) {
  (void)unused;
  enum { LEVELS = 600, EACH = 1200 };
  float *x = malloc(LEVELS * EACH * sizeof *x);
  bool *wrong = malloc(LEVELS * EACH * sizeof *wrong);
  assert_true(x && wrong);
  for (int i = 0; i < LEVELS * EACH; i++) {
    x[i] = -(float)(i / EACH);
    wrong[i] = i % EACH < i / EACH; /* level k: k of 1200 are wrong */
  }
  weir_gate_map m;
  weir_err e;
  must(weir_isotonic_map(WEIR_STAT_MARGIN, x, wrong, LEVELS * EACH, &m, &e), &e);
  assert_null(weir_gate_map_error(&m));
  assert_true(m.n >= WEIR_GATE_MAP_KNOTS / 2);
  for (int k = 0; k < LEVELS; k++)
    assert_true(fabs((double)weir_gate_map_at(&m, -(float)k) - (double)k / EACH) < 0.01);
  free(x);
  free(wrong);
}

/* ---- logistic ---- */

enum { DIM = 6, ROWS = 400 };
typedef struct table {
  float x[ROWS][DIM];
  bool wrong[ROWS];
  int dim;
} table;

static const float *row_of(void *ctx, int64_t i, bool *wrong) {
  const table *t = ctx;
  *wrong = t->wrong[i];
  return t->x[i];
}

static void fill(table *t, int dim) {
  double w[DIM];
  t->dim = dim;
  for (int j = 0; j < dim; j++) w[j] = normal();
  for (int i = 0; i < ROWS; i++) {
    double z = -0.7;
    for (int j = 0; j < dim; j++) {
      t->x[i][j] = (float)(normal() * pow(10, j - 2) + 3 * j); /* scales far apart, means not zero */
      z += w[j] * ((double)t->x[i][j] - 3 * j) / pow(10, j - 2);
    }
    t->wrong[i] = uniform() < 1 / (1 + exp(-z));
  }
}

/* Solves a (n x n) s = b by elimination with pivots. */
static void solve(double a[DIM + 1][DIM + 1], double *b, int n) {
  for (int c = 0; c < n; c++) {
    int best = c;
    for (int r = c; r < n; r++)
      if (fabs(a[r][c]) > fabs(a[best][c])) best = r;
    for (int k = 0; k < n; k++) {
      const double x = a[c][k];
      a[c][k] = a[best][k];
      a[best][k] = x;
    }
    const double y = b[c];
    b[c] = b[best];
    b[best] = y;
    for (int r = 0; r < n; r++) {
      if (r == c) continue;
      const double f = a[r][c] / a[c][c];
      for (int k = c; k < n; k++) a[r][k] -= f * a[c][k];
      b[r] -= f * b[c];
    }
  }
  for (int c = 0; c < n; c++) b[c] /= a[c][c];
}

/* Weights and bias of the features as they come. */
static void newton(const table *t, double l2, double *w) {
  const int d = t->dim, n = d + 1;
  double mean[DIM] = {0}, dev[DIM] = {0}, at[DIM + 1] = {0};
  for (int j = 0; j < d; j++) {
    for (int i = 0; i < ROWS; i++) mean[j] += (double)t->x[i][j] / ROWS;
    for (int i = 0; i < ROWS; i++) dev[j] += pow((double)t->x[i][j] - mean[j], 2) / ROWS;
    dev[j] = sqrt(dev[j]);
  }
  for (int turn = 0; turn < 60; turn++) {
    double h[DIM + 1][DIM + 1] = {{0}}, g[DIM + 1] = {0};
    for (int i = 0; i < ROWS; i++) {
      double s[DIM + 1], z = at[d];
      for (int j = 0; j < d; j++) z += at[j] * (s[j] = ((double)t->x[i][j] - mean[j]) / dev[j]);
      s[d] = 1;
      const double q = 1 / (1 + exp(-z));
      for (int a = 0; a < n; a++) {
        g[a] += (q - t->wrong[i]) * s[a] / ROWS;
        for (int b = 0; b < n; b++) h[a][b] += q * (1 - q) * s[a] * s[b] / ROWS;
      }
    }
    for (int j = 0; j < d; j++) {
      g[j] += l2 * at[j];
      h[j][j] += l2;
    }
    solve(h, g, n);
    for (int a = 0; a < n; a++) at[a] -= g[a];
  }
  w[d] = at[d];
  for (int j = 0; j < d; j++) {
    w[j] = at[j] / dev[j];
    w[d] -= w[j] * mean[j];
  }
}

static void test_logistic_is_newtons(void **unused) {
  (void)unused;
  static const double l2[] = {1e-3, 1e-2, 1};
  state = 3;
  for (int round = 0; round < 12; round++) {
    table t;
    double want[DIM + 1];
    fill(&t, 1 + round % DIM);
    const weir_fit_rows rows = {.n = ROWS, .dim = t.dim, .row = row_of, .ctx = &t};
    table *const u = &t;
    /* the features of a row lie DIM apart, whatever its dimension */
    assert_ptr_equal(row_of(u, 1, &(bool){false}), t.x[1]);
    const weir_logistic_opts o = {.l2 = l2[round % 3], .tolerance = 1e-10};
    weir_logistic f, again;
    weir_err e;
    must(weir_logistic_fit(&rows, &o, &f, &e), &e);
    newton(&t, o.l2, want);
    for (int j = 0; j < t.dim; j++)
      if (fabs(f.weight[j] - want[j]) > 1e-6 * (fabs(want[j]) + 1e-3))
        fail_msg("round %d, weight %d: %.12g, want %.12g (%d turns, gradient %g)", round, j, f.weight[j],
                 want[j], f.turns, f.gradient);
    assert_true(f.converged && fabs(f.bias - want[t.dim]) < 1e-5 * (fabs(want[t.dim]) + 1));
    double z = f.bias;
    for (int j = 0; j < t.dim; j++) z += f.weight[j] * (double)t.x[5][j];
    assert_true(fabs(weir_logistic_at(&f, t.x[5]) - 1 / (1 + exp(-z))) < 1e-12);
    must(weir_logistic_fit(&rows, &o, &again, &e), &e);
    assert_memory_equal(f.weight, again.weight, (size_t)t.dim * sizeof *f.weight);
    weir_logistic_fini(&f);
    weir_logistic_fini(&again);
  }
}

static void test_logistic_edges(void **unused) {
  (void)unused;
  table t;
  state = 8;
  fill(&t, 3);
  for (int i = 0; i < ROWS; i++) t.x[i][1] = 7.25f; /* no spread */
  weir_fit_rows rows = {.n = ROWS, .dim = 3, .row = row_of, .ctx = &t};
  weir_logistic_opts o = {.l2 = 1e-3};
  weir_logistic f;
  weir_err e;
  must(weir_logistic_fit(&rows, &o, &f, &e), &e);
  assert_true(f.weight[1] == 0 && f.converged && f.weight[0] != 0);
  weir_logistic_fini(&f);
  /* Told apart without error: the penalty keeps it finite. */
  for (int i = 0; i < ROWS; i++) t.wrong[i] = t.x[i][0] > 0;
  must(weir_logistic_fit(&rows, &o, &f, &e), &e);
  assert_true(f.converged && isfinite(f.bias) && f.loss < 0.2);
  weir_logistic_fini(&f);
  o.l2 = -1;
  assert_int_equal(weir_logistic_fit(&rows, &o, &f, &e), WEIR_EINVAL);
  o.l2 = 1;
  t.x[9][2] = INFINITY;
  assert_int_equal(weir_logistic_fit(&rows, &o, &f, &e), WEIR_EINVAL);
  weir_logistic_fini(&f);
  t.x[9][2] = 0;
  memset(t.wrong, 0, sizeof t.wrong);
  assert_int_equal(weir_logistic_fit(&rows, &o, &f, &e), WEIR_EINVAL);
  weir_logistic_fini(&f);
  rows.dim = 0;
  assert_int_equal(weir_logistic_fit(&rows, &o, &f, &e), WEIR_EINVAL);
}

/* ---- quality ---- */

static void test_auc_counts_pairs(void **unused) {
  (void)unused;
  state = 21;
  for (int round = 0; round < 60; round++) {
    float score[80];
    bool wrong[80];
    const int n = 1 + (int)rnd(80), grid = 1 + (int)rnd(30);
    double good = 0, all = 0, got;
    for (int i = 0; i < n; i++) {
      score[i] = (float)rnd((uint32_t)grid) / 3;
      wrong[i] = rnd(3) == 0;
    }
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++)
        if (wrong[i] && !wrong[j]) {
          all++;
          good += score[i] > score[j] ? 1 : score[i] == score[j] ? 0.5 : 0;
        }
    weir_err e;
    must(weir_quality_auc(score, wrong, n, &got, &e), &e);
    assert_true(fabs(got - (all > 0 ? good / all : 0.5)) < 1e-12);
  }
  const float nan = NAN;
  double out;
  weir_err e;
  assert_int_equal(weir_quality_auc(&nan, &(bool){true}, 1, &out, &e), WEIR_EINVAL);
}

static void test_brier_and_ece(void **unused) {
  (void)unused;
  const float score[] = {0.05f, 0.15f, 0.95f, 1.0f};
  const bool wrong[] = {false, true, true, false};
  /* 0.0025 + 0.7225 + 0.0025 + 1 over 4 */
  assert_true(fabs(weir_quality_brier(score, wrong, 4) - 0.431875) < 1e-6);
  /* bins of a tenth: 0.05, 0.85, and |-0.05 + 1| in the last, over 4 */
  assert_true(fabs(weir_quality_ece(score, wrong, 4, 10) - 0.4625) < 1e-6);
  /* one bin: mean score 0.5375, rate 0.5 */
  assert_true(fabs(weir_quality_ece(score, wrong, 4, 1) - 0.0375) < 1e-6);
  assert_true(weir_quality_brier(score, wrong, 0) == 0 && weir_quality_ece(score, wrong, 0, 10) == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_isotonic_is_the_least_squares),
      cmocka_unit_test(test_isotonic_refuses),
      cmocka_unit_test(test_maps_are_sound),
      cmocka_unit_test(test_too_many_levels_are_joined),
      cmocka_unit_test(test_logistic_is_newtons),
      cmocka_unit_test(test_logistic_edges),
      cmocka_unit_test(test_auc_counts_pairs),
      cmocka_unit_test(test_brier_and_ece),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
