/* SPDX-License-Identifier: Apache-2.0 */
/* Mixture of experts on the emulated GPU: the router's lists against a sort on the host; results against
 * double precision, with every type of weight and with mixed ones; a row alone, in company and across passes
 * to the bit; the choice among equal logits as the CPU device has it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/moe_kernels.h"
#include "kernels/quant.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))
enum { MAX_EXPERTS = 256, MAX_DIM = 1024 };
static bool full; /* every shape, not every other one */

static weir_dev_limits limits(void) {
  weir_dev_limits lim = cuda_test_limits();
  lim.max_tokens = 1100;
  lim.max_cols = MAX_DIM;
  lim.max_experts = MAX_EXPERTS + 1;
  lim.max_expert_ff = MAX_DIM;
  return lim;
}

static void *need(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  assert_non_null(p);
  return p;
}

/* ---- the router's lists ---- */

/* p of the chosen experts, 0 of the others: by repeated search from the end, in double. */
static void weights_of(int32_t n, int32_t used, bool renormalise, const float *logits, double *p,
                       bool *chosen) {
  double top = -INFINITY, sum = 0, kept = 0;
  for (int32_t i = 0; i < n; i++) chosen[i] = false;
  for (int32_t k = 0; k < used; k++) {
    int32_t best = -1;
    for (int32_t i = n; i-- > 0;)
      if (!chosen[i] && (best < 0 || logits[i] >= logits[best])) best = i;
    chosen[best] = true;
  }
  for (int32_t i = 0; i < n; i++) top = fmax(top, (double)logits[i]);
  for (int32_t i = 0; i < n; i++) sum += p[i] = exp((double)logits[i] - top);
  for (int32_t i = 0; i < n; i++) kept += p[i] = chosen[i] ? p[i] / sum : 0;
  for (int32_t i = 0; i < n && renormalise; i++) p[i] /= kept;
}

static void route_shape(weir_dev *dev, int32_t n, int32_t n_experts, int32_t used, int32_t tile_picks,
                        int kind) {
  const int32_t pairs = n * used, most = weir_moe_tiles_most(pairs, n_experts, tile_picks);
  kern_rng rng = {(uint64_t)n * 1009 + (uint64_t)n_experts * 31 + (uint64_t)used};
  weir_err e = {0};
  float *logits = need(sizeof *logits * (size_t)n * (size_t)n_experts),
        *weight = need(sizeof *weight * (size_t)pairs);
  for (int32_t i = 0; i < n * n_experts; i++) /* many equal; both zeros; or all rows to the same experts */
    logits[i] = kind == 0   ? kern_normal(&rng)
                : kind == 1 ? (float)(kern_below(&rng, 5) - 2) * (kern_below(&rng, 2) ? 1.0f : -1.0f)
                            : (float)(i % n_experts % 7);
  int32_t *expert = need(sizeof *expert * (size_t)pairs), *pick = need(sizeof *pick * (size_t)pairs), n_tiles;
  weir_moe_tile *tile = need(sizeof *tile * (size_t)most);
  const weir_mat l = kern_mat(dev, n, n_experts, 1);
  kern_put(dev, l, logits);
  void *d[5];
  const size_t bytes[5] = {sizeof(int32_t) * (size_t)pairs, sizeof(float) * (size_t)pairs,
                           sizeof(int32_t) * (size_t)pairs, sizeof *tile * (size_t)most, sizeof n_tiles};
  for (int i = 0; i < 5; i++) kern_ok(weir_dev_alloc(dev, bytes[i], &d[i], &e), &e, "alloc");
  const weir_cuk_moe_route_args a = {.logits = l.data,
                                     .ld = l.ld,
                                     .n = n,
                                     .n_experts = n_experts,
                                     .n_used = used,
                                     .renormalise = kind == 1,
                                     .tile_picks = tile_picks,
                                     .expert = d[0],
                                     .weight = d[1],
                                     .pick = d[2],
                                     .tile = d[3],
                                     .n_tiles = d[4]};
  assert_int_equal(weir_cuk_moe_route(&a, weir_cuda_of(dev)->stream), cudaSuccess);
  void *h[5] = {expert, weight, pick, tile, &n_tiles};
  for (int i = 0; i < 5; i++) kern_ok(weir_dev_download(dev, h[i], d[i], bytes[i], &e), &e, "download");
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  for (int32_t r = 0; r < n; r++) {
    double p[MAX_EXPERTS];
    bool chosen[MAX_EXPERTS];
    weights_of(n_experts, used, kind == 1, logits + r * n_experts, p, chosen);
    for (int32_t i = 0, k = 0; i < n_experts; i++) {
      if (!chosen[i]) continue;
      const int32_t at = r * used + k++;
      if (expert[at] != i) fail_msg("row %d: expert %d, want %d", r, expert[at], i);
      if (!(fabs((double)weight[at] - p[i]) <= 1e-6 * p[i]))
        fail_msg("row %d, expert %d: weight %g, want %g", r, i, (double)weight[at], p[i]);
    }
  }
  int32_t at = 0, t = 0; /* pairs by expert, then by number; tiles over them */
  for (int32_t i = 0; i < n_experts; i++) {
    const int32_t start = at;
    for (int32_t k = 0; k < pairs; k++)
      if (expert[k] == i && pick[at++] != k) fail_msg("pick %d is %d, want %d", at - 1, pick[at - 1], k);
    for (int32_t first = start; first < at; first += tile_picks, t++) {
      assert_in_range(t, 0, most - 1);
      const int32_t count = at - first < tile_picks ? at - first : tile_picks;
      if (tile[t].expert != i || tile[t].first != first || tile[t].count != count)
        fail_msg("tile %d is expert %d's %d + %d, want %d's %d + %d", t, tile[t].expert, tile[t].first,
                 tile[t].count, i, first, count);
    }
  }
  assert_int_equal(t, n_tiles);
  for (int i = 0; i < 5; i++) weir_dev_release(dev, d[i]);
  kern_mat_free(dev, l);
  free(logits), free(weight), free(expert), free(pick), free(tile);
}

static void test_route(void **state) {
  static const struct {
    int32_t n, n_experts, used;
  } shapes[] = {{1, 1, 1},      {1, 8, 2},     {1, 128, 8},  {2, 256, 256}, {5, 33, 33},
                {32, 60, 4},    {33, 60, 4},   {31, 32, 32}, {77, 128, 8},  {512, 8, 2},
                {16, 256, 256}, {512, 128, 8}, {257, 9, 4},  {40, 31, 1}};
  const weir_dev_limits lim = cuda_test_limits();
  (void)state;
  for (int32_t i = 0; i < COUNT(shapes); i += full ? 1 : 2) {
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)i);
    for (int kind = 0; kind < 3; kind++)
      route_shape(dev, shapes[i].n, shapes[i].n_experts, shapes[i].used,
                  (i + kind) % 2 ? WEIR_MOE_TILE_FEW : WEIR_MOE_TILE_MANY, kind);
    cuda_test_close(dev);
  }
}

/* ---- the operation ---- */

typedef struct shape {
  int32_t rows, dim, ff, n_experts, n_used;
  bool renormalise;
  weir_act act;
  weir_dtype dtype;
  bool mixed; /* gate, up and down, and every third expert, of other types */
} shape;

typedef struct data {
  float *x, *logits;
  float *gate_up, *down; /* [n_experts] matrices, what the stored ones mean */
  void *gate_at[MAX_EXPERTS], *up_at[MAX_EXPERTS], *down_at[MAX_EXPERTS];
} data;

static weir_dtype type_of(const shape *s, int32_t expert, int part) {
  static const weir_dtype others[] = {WEIR_Q8_0, WEIR_F16, WEIR_Q4_0, WEIR_BF16, WEIR_Q5_0, WEIR_F32};
  if (!s->mixed || (expert + part) % 3 == 0) return s->dtype;
  return others[(expert + 2 * part) % COUNT(others)];
}

static void *make_stored(weir_dtype t, float *w, int32_t rows, int32_t cols) {
  weir_err e = {0};
  size_t bytes;
  kern_ok(weir_dtype_row_bytes(t, cols, &bytes, &e), &e, "row bytes");
  char *to = need(bytes * (size_t)rows);
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
  for (int32_t i = 0; i < s->n_experts; i++) {
    float *gate = d->gate_up + (size_t)i * 2 * one;
    d->gate_at[i] = make_stored(type_of(s, i, 0), gate, s->ff, s->dim);
    d->up_at[i] = make_stored(type_of(s, i, 1), gate + one, s->ff, s->dim);
    d->down_at[i] = make_stored(type_of(s, i, 2), d->down + (size_t)i * one, s->dim, s->ff);
  }
}
static void free_data(const shape *s, data *d) {
  for (int32_t i = 0; i < s->n_experts; i++) free(d->gate_at[i]), free(d->up_at[i]), free(d->down_at[i]);
  free(d->x), free(d->logits), free(d->gate_up), free(d->down);
}

typedef struct experts {
  weir_weight gate_up[MAX_EXPERTS + 1], down[MAX_EXPERTS + 1];
} experts;

static void load(weir_dev *dev, const shape *s, const data *d, experts *w) {
  weir_err e = {0};
  for (int32_t i = 0; i < s->n_experts; i++) {
    const weir_host_mat up[] = {{d->gate_at[i], type_of(s, i, 0), s->ff, s->dim},
                                {d->up_at[i], type_of(s, i, 1), s->ff, s->dim}},
                        down = {d->down_at[i], type_of(s, i, 2), s->dim, s->ff};
    kern_ok(weir_weight_prepare(dev, up, 2, &w->gate_up[i], &e), &e, "prepare");
    kern_ok(weir_weight_prepare(dev, &down, 1, &w->down[i], &e), &e, "prepare");
  }
}
static void unload(const shape *s, experts *w) {
  for (int32_t i = 0; i < s->n_experts; i++) {
    weir_weight_release(&w->gate_up[i]);
    weir_weight_release(&w->down[i]);
  }
}

/* On `rows` rows of x and logits, off 16 bytes by `pad`; dense [rows][dim], free(). */
static float *run(weir_dev *dev, const shape *s, const experts *w, int32_t rows, const float *x,
                  const float *logits, int32_t pad) {
  weir_err e = {0};
  const weir_mat dx = kern_mat(dev, rows, s->dim, pad), dl = kern_mat(dev, rows, s->n_experts, 2),
                 y = kern_mat(dev, rows, s->dim, pad);
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

static double act_of(weir_act act, double x) {
  return act == WEIR_ACT_SILU ? x / (1 + exp(-x))
                              : 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

/* One row. `size` is what rounding errors are measured against: the largest part of an expert. */
static void reference(const shape *s, const data *d, const float *x, const double *p, double *y,
                      double *size) {
  const size_t one = (size_t)s->ff * (size_t)s->dim;
  memset(y, 0, sizeof *y * (size_t)s->dim);
  *size = 0;
  for (int32_t i = 0; i < s->n_experts; i++) {
    double h[MAX_DIM];
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
      *size = fmax(*size, fabs(p[i] * sum));
    }
  }
}

/* Activations as halves cost 2^-12 of each, sums of many of them less; without quantised weights nothing is
 * rounded but F32. */
static double bound(const shape *s) { return weir_dtype_is_quant(s->dtype) || s->mixed ? 1e-3 : 3e-6; }

/* No more than the shape needs. */
static weir_dev_limits limits_of(const shape *s) {
  weir_dev_limits lim = cuda_test_limits();
  lim.max_tokens = lim.max_rows_out = s->rows;
  lim.max_cols = s->dim > s->ff ? s->dim : s->ff;
  lim.max_experts = s->n_experts;
  lim.max_expert_ff = s->ff;
  return lim;
}

static double check_shape(const shape *s, uint64_t seed) {
  const weir_dev_limits lim = limits_of(s);
  weir_dev *dev = cuda_test_dev(&lim, seed);
  double worst = 0;
  data d;
  experts *w = need(sizeof *w);
  make_data(s, &d);
  load(dev, s, &d, w);
  float *got = run(dev, s, w, s->rows, d.x, d.logits, 0);
  for (int32_t r = 0; r < s->rows; r += 1 + s->rows / 24) {
    double want[MAX_DIM], p[MAX_EXPERTS], size;
    bool chosen[MAX_EXPERTS];
    weights_of(s->n_experts, s->n_used, s->renormalise, d.logits + r * s->n_experts, p, chosen);
    reference(s, &d, d.x + r * s->dim, p, want, &size);
    for (int32_t c = 0; c < s->dim; c++) {
      const double err = fabs((double)got[r * s->dim + c] - want[c]) / size;
      if (!(err < bound(s)))
        fail_msg("%s, %d rows, row %d, column %d: %g, want %g", weir_dtype_get(s->dtype)->name, s->rows, r, c,
                 (double)got[r * s->dim + c], want[c]);
      worst = fmax(worst, err);
    }
  }
  for (int32_t r = 0; r < s->rows; r += 1 + s->rows / 3) { /* alone, off 16 bytes: the same bits */
    float *one = run(dev, s, w, 1, d.x + r * s->dim, d.logits + r * s->n_experts, 1 + r % 3);
    kern_same(one, got + r * s->dim, sizeof *one * (size_t)s->dim, "a row alone");
    free(one);
  }
  const int32_t n = s->rows / 3; /* the last third */
  if (n > 0) {
    const size_t at = (size_t)(s->rows - n);
    float *part = run(dev, s, w, n, d.x + at * (size_t)s->dim, d.logits + at * (size_t)s->n_experts, 4);
    kern_same(part, got + at * (size_t)s->dim, sizeof *part * (size_t)n * (size_t)s->dim,
              "part of the batch");
    free(part);
  }
  free(got);
  unload(s, w);
  free(w);
  free_data(s, &d);
  cuda_test_close(dev);
  return worst;
}

static void check_shapes(const shape *s, int32_t n, const char *what) {
  double worst = 0;
  for (int32_t i = 0; i < n; i += full ? 1 : 2) worst = fmax(worst, check_shape(&s[i], (uint64_t)i));
  print_message("moe, %s: worst row %.2g (bound %.2g)\n", what, worst, bound(&s[0]));
}

static void test_dense(void **state) {
  static const shape shapes[] = {
      {1, 32, 64, 8, 2, true, WEIR_ACT_SILU, WEIR_F32, false},
      {7, 48, 40, 4, 1, false, WEIR_ACT_SILU, WEIR_F32, false},
      {40, 33, 17, 4, 4, false, WEIR_ACT_SILU, WEIR_F32, false},
      {60, 64, 32, 32, 8, true, WEIR_ACT_GELU_TANH, WEIR_F16, false},
      {50, 132, 20, 2, 1, true, WEIR_ACT_SILU, WEIR_BF16, false},
      {9, 7, 3, 256, 5, true, WEIR_ACT_SILU, WEIR_BF16, false},
      {30, 17, 35, 1, 1, true, WEIR_ACT_SILU, WEIR_F16, false},
  };
  (void)state;
  check_shapes(shapes, COUNT(shapes), "dense");
}

/* One chunk of columns and several, one slice and two, tiles of 8 and of 32. Slices that are cut differently
 * show in `down` alone: what differs in gate_up by a last place is lost when it becomes a half. */
static void test_quantised(void **state) {
  static const shape shapes[] = {
      {1, 32, 64, 8, 2, true, WEIR_ACT_SILU, WEIR_Q8_0, false},
      {3, 544, 96, 6, 3, true, WEIR_ACT_SILU, WEIR_Q4_0, false},
      {20, 64, 544, 4, 4, true, WEIR_ACT_GELU_TANH, WEIR_Q5_0, false},
      {50, 544, 64, 3, 2, false, WEIR_ACT_SILU, WEIR_Q8_0, false},
      {9, 768, 256, 2, 1, true, WEIR_ACT_SILU, WEIR_Q4_K, false},
      {33, 256, 256, 2, 2, true, WEIR_ACT_SILU, WEIR_Q5_K, false},
      {36, 512, 256, 2, 1, true, WEIR_ACT_SILU, WEIR_Q6_K, false},
  };
  (void)state;
  check_shapes(shapes, COUNT(shapes), "quantised");
}

static void test_mixed(void **state) {
  static const shape shapes[] = {{5, 64, 96, 7, 3, true, WEIR_ACT_SILU, WEIR_Q8_0, true},
                                 {70, 96, 32, 4, 2, true, WEIR_ACT_SILU, WEIR_F32, true}};
  (void)state;
  check_shapes(shapes, COUNT(shapes), "mixed types");
}

/* More pairs than one pass takes. */
static void test_passes(void **state) {
  static const shape shapes[] = {{520, 8, 8, 8, 8, true, WEIR_ACT_SILU, WEIR_F32, false},
                                 {1030, 4, 5, 5, 4, false, WEIR_ACT_SILU, WEIR_F16, false}};
  (void)state;
  check_shapes(shapes, COUNT(shapes), "in passes");
}

/* Equal logits: what the CPU device chooses. One expert a row, so a wrong one is a wrong answer. */
static void test_as_the_cpu(void **state) {
  const shape s = {200, 32, 32, 40, 3, true, WEIR_ACT_SILU, WEIR_F32, false};
  const weir_dev_limits lim = limits_of(&s);
  const weir_cpu_opts o = {.n_threads = 1};
  weir_dev *gpu = cuda_test_dev(&lim, 2), *cpu = NULL;
  weir_err e = {0};
  data d;
  experts *w = need(sizeof *w);
  (void)state;
  kern_ok(weir_dev_open_cpu(&o, &cpu, &e), &e, "open the CPU device");
  kern_ok(weir_dev_reserve(cpu, &lim, &e), &e, "reserve");
  make_data(&s, &d);
  kern_rng rng = {99};
  for (int32_t i = 0; i < s.rows * s.n_experts; i++)
    d.logits[i] = (float)kern_below(&rng, 4) * (kern_below(&rng, 2) ? 1.0f : -1.0f);
  load(gpu, &s, &d, w);
  float *a = run(gpu, &s, w, s.rows, d.x, d.logits, 0);
  unload(&s, w);
  load(cpu, &s, &d, w);
  float *b = run(cpu, &s, w, s.rows, d.x, d.logits, 0);
  unload(&s, w);
  for (int32_t r = 0; r < s.rows; r++) {
    double want[MAX_DIM];
    for (int32_t c = 0; c < s.dim; c++) want[c] = (double)b[r * s.dim + c];
    cuda_near(a + r * s.dim, want, 1, s.dim, 1e-5, "the CPU's row");
  }
  free(a), free(b), free(w);
  free_data(&s, &d);
  weir_dev_destroy(cpu);
  cuda_test_close(gpu);
}

/* A row that is no number, in x or in its logits, stays alone with it; infinite logits give no number. */
static void no_number(weir_dtype t, int32_t rows) {
  const shape s = {rows, 64, 64, 4, 2, true, WEIR_ACT_SILU, t, false};
  const weir_dev_limits lim = limits_of(&s);
  weir_dev *dev = cuda_test_dev(&lim, 3);
  data d;
  experts *w = need(sizeof *w);
  make_data(&s, &d);
  load(dev, &s, &d, w);
  float *clean = run(dev, &s, w, rows, d.x, d.logits, 0);
  d.x[2 * s.dim + 5] = NAN;
  d.logits[5 * s.n_experts + 3] = NAN;
  d.logits[6 * s.n_experts + 1] = INFINITY;
  for (int32_t i = 0; i < s.n_experts; i++) d.logits[7 * s.n_experts + i] = -INFINITY;
  float *got = run(dev, &s, w, rows, d.x, d.logits, 0);
  for (int32_t r = 0; r < rows; r++)
    if (r == 2 || r == 5 || r == 6 || r == 7) {
      for (int32_t c = 0; c < s.dim; c++)
        if (!isnan(got[r * s.dim + c])) fail_msg("row %d, column %d: %g", r, c, (double)got[r * s.dim + c]);
    } else {
      kern_same(got + r * s.dim, clean + r * s.dim, sizeof *got * (size_t)s.dim,
                "beside rows that are no number");
    }
  free(clean), free(got);
  unload(&s, w);
  free(w);
  free_data(&s, &d);
  cuda_test_close(dev);
}
static void test_no_number(void **state) {
  (void)state;
  no_number(WEIR_F32, 11);
  no_number(WEIR_Q4_0, 11);
  no_number(WEIR_Q8_0, 40);
}

static void test_too_many(void **state) {
  shape s = {1, 32, 32, MAX_EXPERTS, 1, true, WEIR_ACT_SILU, WEIR_F32, false};
  const weir_dev_limits lim = limits();
  weir_dev *dev = cuda_test_dev(&lim, 4);
  weir_err e = {0};
  data d;
  experts *w = need(sizeof *w);
  (void)state;
  make_data(&s, &d);
  load(dev, &s, &d, w);
  w->gate_up[MAX_EXPERTS] = w->gate_up[0], w->down[MAX_EXPERTS] = w->down[0];
  const weir_mat x = kern_mat(dev, 1, 32, 0), y = kern_mat(dev, 1, 32, 0),
                 l = kern_mat(dev, 1, MAX_EXPERTS + 1, 0);
  weir_moe_args a = {
      .x = x, .logits = l, .gate_up = w->gate_up, .down = w->down, .n_experts = MAX_EXPERTS + 1, .n_used = 1};
  assert_int_equal(weir_op_moe(dev, y, &a, &e), WEIR_EUNSUP);
  assert_non_null(strstr(e.msg, "257 experts"));
  kern_mat_free(dev, x);
  kern_mat_free(dev, y);
  kern_mat_free(dev, l);
  unload(&s, w);
  free(w);
  free_data(&s, &d);
  cuda_test_close(dev);
}

int main(int argc, char **argv) {
  full = argc > 1 && strcmp(argv[1], "full") == 0;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_route),     cmocka_unit_test(test_dense),    cmocka_unit_test(test_quantised),
      cmocka_unit_test(test_mixed),     cmocka_unit_test(test_passes),   cmocka_unit_test(test_as_the_cpu),
      cmocka_unit_test(test_no_number), cmocka_unit_test(test_too_many),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
