/* SPDX-License-Identifier: Apache-2.0 */
/* Mixture of experts: against double precision; to the bit against the operations it is made of, row by row
 * and expert by expert; the choice of experts where logits are equal or no numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/quant.h"

enum { MAX_EXPERTS = 32, MAX_ROWS = 1100 };
static const weir_dev_limits LIMITS = {
    .max_tokens = MAX_ROWS, .max_cols = 256, .max_experts = MAX_EXPERTS, .max_expert_ff = 256};

typedef struct shape {
  int32_t rows, dim, ff, n_experts, n_used;
  bool renormalise;
  weir_act act;
  weir_dtype dtype;
} shape;

/* What a shape is tried on, in host memory. */
typedef struct data {
  float *x, *logits;
  float *gate_up, *down; /* [n_experts] matrices, what the stored ones mean */
  void *gate_up_at[MAX_EXPERTS], *down_at[MAX_EXPERTS];
} data;

static void *make_stored(weir_dtype t, float *w, int32_t rows, int32_t cols) {
  weir_err e = {0};
  size_t bytes;
  kern_ok(weir_dtype_row_bytes(t, cols, &bytes, &e), &e, "row bytes");
  char *to = (char *)malloc(bytes * (size_t)rows);
  assert_non_null(to);
  for (int32_t r = 0; r < rows; r++, w += cols) {
    kern_ok(weir_quantize_row(t, w, to + (size_t)r * bytes, cols, &e), &e, "quantize");
    kern_ok(weir_dequantize_row(t, to + (size_t)r * bytes, w, cols, &e), &e, "dequantize");
  }
  return to;
}

static void make_data(const shape *s, data *d) {
  kern_rng rng = {(uint64_t)s->rows * 131 + (uint64_t)s->n_experts * 7 + (uint64_t)s->n_used};
  const size_t n = (size_t)s->n_experts, one = (size_t)s->ff * (size_t)s->dim;
  d->x = kern_normals(&rng, (size_t)s->rows * (size_t)s->dim, 1);
  d->logits = kern_normals(&rng, (size_t)s->rows * n, 2);
  d->gate_up = kern_normals(&rng, n * 2 * one, 1 / sqrtf((float)s->dim));
  d->down = kern_normals(&rng, n * one, 1 / sqrtf((float)s->ff));
  for (size_t i = 0; i < n; i++) {
    d->gate_up_at[i] = make_stored(s->dtype, d->gate_up + i * 2 * one, 2 * s->ff, s->dim);
    d->down_at[i] = make_stored(s->dtype, d->down + i * one, s->dim, s->ff);
  }
}
static void free_data(const shape *s, data *d) {
  for (int32_t i = 0; i < s->n_experts; i++) free(d->gate_up_at[i]), free(d->down_at[i]);
  free(d->x);
  free(d->logits);
  free(d->gate_up);
  free(d->down);
}

typedef struct experts {
  weir_weight gate_up[MAX_EXPERTS], down[MAX_EXPERTS];
} experts;

static void load(weir_dev *dev, const shape *s, const data *d, experts *w) {
  weir_err e = {0};
  for (int32_t i = 0; i < s->n_experts; i++) {
    const weir_host_mat up = {d->gate_up_at[i], s->dtype, 2 * s->ff, s->dim},
                        down = {d->down_at[i], s->dtype, s->dim, s->ff};
    kern_ok(weir_weight_prepare(dev, &up, 1, &w->gate_up[i], &e), &e, "prepare");
    kern_ok(weir_weight_prepare(dev, &down, 1, &w->down[i], &e), &e, "prepare");
  }
}
static void unload(const shape *s, experts *w) {
  for (int32_t i = 0; i < s->n_experts; i++) {
    weir_weight_release(&w->gate_up[i]);
    weir_weight_release(&w->down[i]);
  }
}

/* The operation on `rows` rows of x and logits; dense [rows][dim], free(). */
static float *run(weir_dev *dev, const shape *s, const experts *w, int32_t rows, const float *x,
                  const float *logits) {
  weir_err e = {0};
  weir_mat dx = kern_mat(dev, rows, s->dim, 3), dl = kern_mat(dev, rows, s->n_experts, 2),
           y = kern_mat(dev, rows, s->dim, 5);
  kern_put(dev, dx, x);
  kern_put(dev, dl, logits);
  const weir_moe_args a = {.x = dx,
                           .logits = dl,
                           .gate_up = w->gate_up,
                           .down = w->down,
                           .n_experts = s->n_experts,
                           .n_used = s->n_used,
                           .renormalise = s->renormalise,
                           .act = s->act};
  kern_ok(weir_op_moe(dev, y, &a, &e), &e, "moe");
  float *got = kern_get(dev, y);
  kern_mat_free(dev, dx);
  kern_mat_free(dev, dl);
  kern_mat_free(dev, y);
  return got;
}

/* p of the chosen experts, 0 of the others: by sorting, in double. */
static void weights_of(const shape *s, const float *logits, double *p) {
  bool chosen[MAX_EXPERTS] = {false};
  double top = -INFINITY, sum = 0, kept = 0;
  for (int32_t k = 0; k < s->n_used; k++) {
    int32_t best = -1;
    for (int32_t i = s->n_experts; i-- > 0;)
      if (!chosen[i] && (best < 0 || logits[i] >= logits[best])) best = i;
    chosen[best] = true;
  }
  for (int32_t i = 0; i < s->n_experts; i++) top = fmax(top, (double)logits[i]);
  for (int32_t i = 0; i < s->n_experts; i++) sum += p[i] = exp((double)logits[i] - top);
  for (int32_t i = 0; i < s->n_experts; i++) kept += p[i] = chosen[i] ? p[i] / sum : 0;
  for (int32_t i = 0; i < s->n_experts && s->renormalise; i++) p[i] /= kept;
}

static double act_of(weir_act act, double x) {
  return act == WEIR_ACT_SILU ? x / (1 + exp(-x))
                              : 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

/* One row. `size` is what rounding errors are measured against: the same sum over magnitudes. */
static void reference(const shape *s, const data *d, const float *x, const double *p, double *y,
                      double *size) {
  const size_t one = (size_t)s->ff * (size_t)s->dim;
  memset(y, 0, sizeof *y * (size_t)s->dim);
  *size = 0;
  for (int32_t i = 0; i < s->n_experts; i++) {
    double h[256];
    if (p[i] == 0) continue;
    for (int32_t f = 0; f < s->ff; f++) {
      const float *g = d->gate_up + (size_t)i * 2 * one + (size_t)f * (size_t)s->dim, *u = g + one;
      double gate = 0, up = 0;
      for (int32_t c = 0; c < s->dim; c++)
        gate += (double)g[c] * (double)x[c], up += (double)u[c] * (double)x[c];
      h[f] = act_of(s->act, gate) * up;
    }
    for (int32_t c = 0; c < s->dim; c++) {
      const float *w = d->down + (size_t)i * one + (size_t)c * (size_t)s->ff;
      double sum = 0;
      for (int32_t f = 0; f < s->ff; f++) sum += (double)w[f] * h[f];
      y[c] += p[i] * sum;
      if (fabs(p[i] * sum) > *size) *size = fabs(p[i] * sum);
    }
  }
}

static void test_against_reference(void **state) {
  static const shape shapes[] = {
      {1, 32, 64, 8, 2, true, WEIR_ACT_SILU, WEIR_F32},
      {7, 48, 40, 4, 1, true, WEIR_ACT_SILU, WEIR_F32},
      {7, 48, 40, 4, 1, false, WEIR_ACT_SILU, WEIR_F32},
      {40, 33, 17, 4, 4, false, WEIR_ACT_SILU, WEIR_F32},
      {40, 64, 96, 5, 5, true, WEIR_ACT_SILU, WEIR_F32},
      {90, 64, 32, 32, 8, true, WEIR_ACT_SILU, WEIR_F32},
      {90, 64, 32, 32, 8, false, WEIR_ACT_SILU, WEIR_F32},
      {50, 32, 96, 8, 2, true, WEIR_ACT_GELU_TANH, WEIR_F32},
      {30, 64, 128, 1, 1, true, WEIR_ACT_SILU, WEIR_F32},
      {1100, 16, 16, 3, 2, true, WEIR_ACT_SILU, WEIR_F32},
  };
  kern_devs devs;
  double worst = 0;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
    const shape *s = &shapes[k];
    data d;
    experts w;
    make_data(s, &d);
    for (int i = 0; i < devs.n; i++) {
      if (devs.threads[i] > 1 && devs.threads[i] != 2 + (int)k % 3) continue;
      load(devs.dev[i], s, &d, &w);
      float *got = run(devs.dev[i], s, &w, s->rows, d.x, d.logits);
      for (int32_t r = 0; r < s->rows; r++) {
        double want[256], p[MAX_EXPERTS], size;
        weights_of(s, d.logits + r * s->n_experts, p);
        reference(s, &d, d.x + r * s->dim, p, want, &size);
        for (int32_t c = 0; c < s->dim; c++) {
          const double err = fabs((double)got[r * s->dim + c] - want[c]) / size;
          if (!(err < 3e-6))
            fail_msg("%s, shape %zu, row %d, column %d: %g, want %g", weir_isa_name(devs.isa[i]), k, r, c,
                     (double)got[r * s->dim + c], want[c]);
          if (err > worst) worst = err;
        }
      }
      free(got);
      unload(s, &w);
    }
    free_data(s, &d);
  }
  kern_devs_close(&devs);
  print_message("worst row error %.2g (bound 3e-6)\n", worst);
}

/* One expert's answer to one row, by the operations of a dense MLP. */
static float *alone(weir_dev *dev, const shape *s, const experts *w, int32_t expert, const float *x) {
  weir_err e = {0};
  weir_mat dx = kern_mat(dev, 1, s->dim, 0), both = kern_mat(dev, 1, 2 * s->ff, 0),
           h = kern_mat(dev, 1, s->ff, 0), y = kern_mat(dev, 1, s->dim, 0);
  kern_put(dev, dx, x);
  kern_ok(weir_op_linear(dev, both, dx, &w->gate_up[expert], NULL, &e), &e, "linear");
  kern_ok(weir_op_glu(dev, h, both, s->act, &e), &e, "glu");
  kern_ok(weir_op_linear(dev, y, h, &w->down[expert], NULL, &e), &e, "linear");
  float *got = kern_get(dev, y);
  kern_mat_free(dev, dx);
  kern_mat_free(dev, both);
  kern_mat_free(dev, h);
  kern_mat_free(dev, y);
  return got;
}

/* With one expert a row, p renormalised is 1: its answer to the bit. With several: a row alone, in any
 * company, with any team and instruction set gives the same bits (16-bit floats on AMX: bits of their own).
 */
static bool same_arithmetic(weir_dtype t, weir_isa a, weir_isa b) {
  return (t != WEIR_F16 && t != WEIR_BF16) || (a == WEIR_ISA_AMX) == (b == WEIR_ISA_AMX);
}

static void test_company(void **state) {
  static const shape shapes[] = {{33, 64, 96, 6, 1, true, WEIR_ACT_SILU, WEIR_Q8_0},
                                 {33, 64, 96, 6, 1, true, WEIR_ACT_GELU_TANH, WEIR_Q4_0},
                                 {65, 96, 32, 16, 4, true, WEIR_ACT_SILU, WEIR_Q8_0},
                                 {65, 96, 32, 16, 4, false, WEIR_ACT_GELU_TANH, WEIR_F16},
                                 {65, 96, 32, 16, 4, false, WEIR_ACT_SILU, WEIR_BF16},
                                 {700, 32, 32, 2, 2, false, WEIR_ACT_SILU, WEIR_Q4_0}};
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
    const shape *s = &shapes[k];
    const size_t dim = (size_t)s->dim, n_experts = (size_t)s->n_experts;
    data d;
    experts w;
    float *first = NULL;
    make_data(s, &d);
    for (int i = 0; i < devs.n; i++) {
      weir_dev *dev = devs.dev[i];
      load(dev, s, &d, &w);
      float *all = run(dev, s, &w, s->rows, d.x, d.logits);
      if (first && same_arithmetic(s->dtype, devs.isa[i], devs.isa[i - 1]))
        kern_same(all, first, sizeof *all * (size_t)s->rows * dim, "another team or instruction set");
      for (size_t r = 0; r < (size_t)s->rows; r += 1 + (size_t)s->rows / 33) {
        float *one = run(dev, s, &w, 1, d.x + r * dim, d.logits + r * n_experts);
        kern_same(one, all + r * dim, sizeof *one * dim, "a row alone");
        free(one);
        if (s->n_used > 1) continue;
        double p[MAX_EXPERTS];
        int32_t expert = 0;
        weights_of(s, d.logits + r * n_experts, p);
        while (p[expert] == 0) expert++;
        float *want = alone(dev, s, &w, expert, d.x + r * dim);
        for (size_t c = 0; c < dim; c++) want[c] += 0.0f; /* as a sum that began at 0: -0 is 0 */
        kern_same(all + r * dim, want, sizeof *want * dim, "the expert's own answer");
        free(want);
      }
      const int32_t n = s->rows / 2; /* the second half of the batch */
      const size_t at = (size_t)(s->rows - n);
      float *half = run(dev, s, &w, n, d.x + at * dim, d.logits + at * n_experts);
      kern_same(half, all + at * dim, sizeof *half * (size_t)n * dim, "half of the batch");
      free(half);
      unload(s, &w);
      free(first);
      first = all;
    }
    free(first);
    free_data(s, &d);
  }
  kern_devs_close(&devs);
}

/* Which experts a row of logits chooses: expert i answers with 2^i in every column, times its weight. */
static void test_choice(void **state) {
  const float inf = INFINITY, no = NAN;
  const struct {
    float logits[4];
    int32_t n_used;
    bool renormalise;
    float want; /* NaN: not a number */
  } cases[] = {{{0, 0, 0, 0}, 1, false, 0.25f},      {{0, 0, 0, 0}, 1, true, 1},
               {{0, 0, 0, 0}, 2, true, 1.5f},        {{0, 0, 0, 0}, 4, true, 3.75f},
               {{-1, 5, 5, 5}, 2, true, 3},          {{7, -1, 7, 7}, 2, true, 2.5f},
               {{-inf, -inf, 3, -inf}, 1, false, 4}, {{-inf, -inf, 3, -inf}, 3, false, 4},
               {{100, 0, 0, -100}, 4, false, 1},     {{no, 1, 0, 0}, 1, true, no},
               {{0, 1, no, 0}, 2, false, no},        {{no, no, no, no}, 3, true, no},
               {{inf, 0, 0, 0}, 2, true, no},        {{-inf, -inf, -inf, -inf}, 4, true, no}};
  enum { N = sizeof cases / sizeof *cases, DIM = 32 };
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (int i = 0; i < devs.n; i++) {
    weir_dev *dev = devs.dev[i];
    shape s = {1, DIM, DIM, 4, 1, false, WEIR_ACT_SILU, WEIR_F32};
    data d;
    experts w;
    float x[DIM];
    make_data(&s, &d);
    /* gate = 64 x, whose silu is itself; up = x; down the mean: x of ones gives 64 */
    for (int32_t r = 0; r < 2 * DIM; r++)
      for (int32_t c = 0; c < DIM; c++)
        for (int32_t k = 0; k < 4; k++) {
          float *up = (float *)d.gate_up_at[k], *down = (float *)d.down_at[k];
          up[r * DIM + c] = r % DIM == c ? (r < DIM ? 64.0f : 1.0f) : 0.0f;
          if (r < DIM) down[r * DIM + c] = (float)(1 << k) / (64 * DIM);
        }
    for (int32_t c = 0; c < DIM; c++) x[c] = 1;
    load(dev, &s, &d, &w);
    for (size_t k = 0; k < N; k++) {
      s.n_used = cases[k].n_used;
      s.renormalise = cases[k].renormalise;
      float *got = run(dev, &s, &w, 1, x, cases[k].logits);
      for (int32_t c = 0; c < DIM; c++)
        if (isnan(cases[k].want) ? !isnan(got[c]) : !(fabsf(got[c] - cases[k].want) < 1e-6f))
          fail_msg("case %zu: %g, want %g", k, (double)got[c], (double)cases[k].want);
      free(got);
    }
    s.rows = 2; /* a row that is no number beside one that is */
    const float logits[8] = {no, 0, 0, 0, 0, 9, 0, 0};
    float two[2 * DIM];
    for (int32_t c = 0; c < 2 * DIM; c++) two[c] = c < DIM ? no : 1.0f;
    s.n_used = 1;
    float *got = run(dev, &s, &w, 2, two, logits), *one = run(dev, &s, &w, 1, two + DIM, logits + 4);
    kern_same(got + DIM, one, sizeof *one * DIM, "beside a row that is no number");
    assert_true(isnan(got[0]) && isfinite(one[0]));
    free(got);
    free(one);
    unload(&s, &w);
    free_data(&s, &d);
  }
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_reference), cmocka_unit_test(test_company),
                                     cmocka_unit_test(test_choice)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
