/* SPDX-License-Identifier: Apache-2.0 */
/* Mixture of experts: the rows are sorted by expert, and one expert after the other, by ascending index,
 * gathers its rows, runs its MLP over them by the ordinary linear, and adds the weighted outputs to theirs.
 * So a row is treated alike alone and in any company. Owns nothing but the contents of the device's
 * moe_scratch; the caller's thread and, through the operations it uses, the device's team. */
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"

enum {
  PASS_ROWS = 512
}; /* of one expert at a time: bounds the scratch; the linear cuts at so many as well */

typedef struct pick {
  int32_t row;
  float weight;
} pick;

/* Where things lie in the scratch, in bytes. */
typedef struct layout {
  size_t x, gate_up, out, prob, expert, weight, pick, start, total;
} layout;

typedef struct job {
  const weir_simd *simd;
  const weir_moe_args *args;
  weir_mat y;
  weir_mat x, out;  /* [PASS_ROWS, dim] gathered, and the expert's answer */
  float *prob;      /* [n, n_experts] */
  int32_t *expert;  /* [n, n_used] the chosen, the highest logit first */
  float *weight;    /* [n, n_used] */
  const pick *pick; /* of this pass */
} job;

static bool take(size_t *at, size_t *total, size_t rows, size_t cols, size_t elem) {
  size_t n;
  *at = *total;
  return weir_mul_size(rows, cols, &n) && weir_mul_size(n, elem, &n) && weir_add_size(n, 63, &n) &&
         weir_add_size(*total, n / 64 * 64, total);
}

static bool make_layout(int32_t n, int32_t dim, int32_t n_experts, int32_t n_used, int32_t ff, layout *y) {
  const size_t rows = (size_t)n, pass = (size_t)(n < PASS_ROWS ? n : PASS_ROWS);
  y->total = 0;
  return take(&y->x, &y->total, pass, (size_t)dim, sizeof(float)) &&
         take(&y->gate_up, &y->total, pass, 2 * (size_t)ff, sizeof(float)) &&
         take(&y->out, &y->total, pass, (size_t)dim, sizeof(float)) &&
         take(&y->prob, &y->total, rows, (size_t)n_experts, sizeof(float)) &&
         take(&y->expert, &y->total, rows, (size_t)n_used, sizeof(int32_t)) &&
         take(&y->weight, &y->total, rows, (size_t)n_used, sizeof(float)) &&
         take(&y->pick, &y->total, rows, (size_t)n_used, sizeof(pick)) &&
         take(&y->start, &y->total, 1, (size_t)n_experts + 1, sizeof(int32_t));
}

size_t weir_cpu_moe_scratch(const weir_dev_limits *lim) {
  layout y;
  if (lim->max_experts == 0 || lim->max_expert_ff == 0 || lim->max_tokens == 0) return 0;
  return make_layout(lim->max_tokens, lim->max_cols, lim->max_experts, lim->max_experts, lim->max_expert_ff,
                     &y)
             ? y.total
             : SIZE_MAX;
}

/* The experts of a row and their weights. With a NaN among the logits it matters little which are chosen, for
 * every weight is then NaN; they are distinct all the same. */
static void route_row(const job *j, int32_t r) {
  const weir_moe_args *a = j->args;
  const int32_t n = a->n_experts;
  const float *logit = a->logits.data + (size_t)r * (size_t)a->logits.ld;
  float *prob = j->prob + (size_t)r * (size_t)n;
  int32_t *expert = j->expert + (size_t)r * (size_t)a->n_used;
  float *weight = j->weight + (size_t)r * (size_t)a->n_used;
  float sum = 0, chosen = 0;
  for (int32_t k = 0; k < a->n_used; k++) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
      if (best >= 0 && !(logit[i] > logit[best])) continue;
      bool taken = false;
      for (int32_t u = 0; u < k && !taken; u++) taken = expert[u] == i;
      if (!taken) best = i;
    }
    expert[k] = best;
  }
  j->simd->exp_minus(prob, logit, logit[expert[0]], n);
  for (int32_t i = 0; i < n; i++) sum += prob[i];
  for (int32_t k = 0; k < a->n_used; k++) chosen += weight[k] = prob[expert[k]] / sum;
  if (a->renormalise)
    for (int32_t k = 0; k < a->n_used; k++) weight[k] /= chosen;
}

static void route_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  (void)rank;
  for (int32_t r = begin; r < end; r++) route_row((const job *)ctx, r);
}

/* pick[start[e] .. start[e+1]) <- the rows of expert e, ascending. */
static void sort_rows(const job *j, pick *to, int32_t *start) {
  const weir_moe_args *a = j->args;
  const size_t n = (size_t)a->x.rows * (size_t)a->n_used;
  memset(start, 0, sizeof *start * ((size_t)a->n_experts + 1));
  for (size_t i = 0; i < n; i++) start[j->expert[i]]++;
  for (int32_t e = 0, at = 0; e <= a->n_experts; e++) at += start[e], start[e] = at; /* the ends */
  for (size_t i = n; i-- > 0;)
    to[--start[j->expert[i]]] = (pick){(int32_t)(i / (size_t)a->n_used), j->weight[i]};
}

static void gather_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  const weir_mat x = j->args->x;
  (void)rank;
  for (int32_t i = begin; i < end; i++)
    memcpy(j->x.data + (size_t)i * (size_t)j->x.ld, x.data + (size_t)j->pick[i].row * (size_t)x.ld,
           sizeof(float) * (size_t)x.cols);
}

static void add_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  (void)rank;
  for (int32_t i = begin; i < end; i++)
    j->simd->add_scaled(j->y.data + (size_t)j->pick[i].row * (size_t)j->y.ld,
                        j->out.data + (size_t)i * (size_t)j->out.ld, j->pick[i].weight, j->y.cols);
}

/* The MLP of expert e over n of its rows, which are distinct. */
static weir_status run_expert(weir_dev *dev, job *j, float *gate_up, int32_t e, int32_t n, weir_err *err) {
  const weir_moe_args *a = j->args;
  const int32_t dim = a->x.cols, ff = a->down[e].cols, grain = weir_cpu_grain(dim);
  const weir_mat both = {gate_up, n, 2 * ff, 2 * ff}, gated = {gate_up, n, ff, 2 * ff};
  weir_status st = WEIR_OK;
  weir_mat x = a->x; /* the expert of all rows takes them where they lie: each row, once, in order */
  if (n != x.rows) {
    x = (weir_mat){j->x.data, n, dim, j->x.ld};
    weir_cpu_for(dev, n, grain, gather_rows, j);
  }
  WEIR_TRY(weir_cpu_linear(dev, both, x, &a->gate_up[e], NULL, err));
  WEIR_TRY(weir_cpu_glu(dev, gated, both, a->act, err));
  WEIR_TRY(weir_cpu_linear(dev, (weir_mat){j->out.data, n, dim, j->out.ld}, gated, &a->down[e], NULL, err));
  weir_cpu_for(dev, n, grain, add_rows, j);
out:
  return st;
}

weir_status weir_cpu_moe(weir_dev *dev, weir_mat y, const weir_moe_args *a, weir_err *e) {
  weir_cpu *cpu = weir_cpu_of(dev);
  const int32_t n = a->x.rows, dim = a->x.cols, n_experts = a->n_experts;
  weir_status st = WEIR_OK;
  layout at;
  if (!make_layout(n, dim, n_experts, a->n_used, a->down[0].cols, &at) || at.total > cpu->moe_bytes)
    return weir_fail(e, WEIR_EINVAL, "moe: %d rows of %d and %d experts are beyond the limits reserved", n,
                     dim, n_experts);
  char *mem = (char *)cpu->moe_scratch;
  pick *picks = (pick *)(void *)(mem + at.pick);
  int32_t *start = (int32_t *)(void *)(mem + at.start);
  job j = {.simd = weir_simd_get(cpu->isa),
           .args = a,
           .y = y,
           .x = {(float *)(void *)(mem + at.x), 0, dim, dim},
           .out = {(float *)(void *)(mem + at.out), 0, dim, dim},
           .prob = (float *)(void *)(mem + at.prob),
           .expert = (int32_t *)(void *)(mem + at.expert),
           .weight = (float *)(void *)(mem + at.weight)};
  weir_cpu_for(dev, n, weir_cpu_grain(8 * n_experts), route_rows, &j);
  sort_rows(&j, picks, start);
  for (int32_t r = 0; r < n; r++) memset(y.data + (size_t)r * (size_t)y.ld, 0, sizeof(float) * (size_t)dim);
  for (int32_t i = 0; i < n_experts; i++)
    for (int32_t first = start[i]; first < start[i + 1]; first += PASS_ROWS) {
      const int32_t left = start[i + 1] - first;
      j.pick = picks + first;
      WEIR_TRY(run_expert(dev, &j, (float *)(void *)(mem + at.gate_up), i,
                          left < PASS_ROWS ? left : PASS_ROWS, e));
    }
out:
  return st;
}
