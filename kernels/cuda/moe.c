/* SPDX-License-Identifier: Apache-2.0 */
/* Mixture of experts on the GPU: rows are routed and sorted by expert there, and each of the two matmuls is
 * one launch over all experts, whose blocks find out on the GPU what there is to do. Nothing waits for the
 * host, so a step with experts can be recorded. Owns nothing but the contents of the device's moe_scratch;
 * enqueues; the thread that owns the device.
 *
 *   route (+ sort)   experts and weights of each row, pairs by expert
 *   gate_up          [pairs, 2 ff], pairs in order of experts
 *   glu              in place
 *   down             [pairs, dim], pairs in order of rows
 *   combine          a row's pairs by ascending expert
 *
 * Batches of more pairs than the scratch holds go in passes of whole rows. */
#include "base/mem.h"
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/elementwise_kernels.h"
#include "kernels/cuda/matmul_kernels.h"
#include "kernels/cuda/moe_kernels.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/quad.h"

enum {
  ALIGN = 256,
  /* Of what lies between the matmuls: 512 rows of a Mixtral 8x7B (2 experts of 14336, 131 KB a pair), or 4096
     pairs of experts as narrow as Qwen3's (14 KB). */
  PASS_BYTES = 128 << 20
};

/* Where things lie in the scratch, in bytes: lists of a fixed size, then [pairs, 2 ff] and [pairs, dim]. */
enum {
  EXPERT_AT = 0,
  WEIGHT_AT = EXPERT_AT + WEIR_MOE_PAIRS * 4,
  PICK_AT = WEIGHT_AT + WEIR_MOE_PAIRS * 4,
  TILE_AT = PICK_AT + WEIR_MOE_PAIRS * 4,
  N_TILES_AT = TILE_AT + WEIR_MOE_PAIRS * (int)sizeof(weir_moe_tile),
  ROWS_AT = N_TILES_AT + ALIGN
};

/* Bytes of one pair between the matmuls; rows start on 16 bytes when ff and dim are multiples of 4. */
static size_t pair_bytes(int32_t dim, int32_t ff) { return (2 * (size_t)ff + (size_t)dim) * sizeof(float); }

size_t weir_cuda_moe_scratch(const weir_cuda *cu, const weir_dev_limits *lim) {
  size_t least, all;
  (void)cu;
  if (lim->max_experts == 0 || lim->max_expert_ff == 0 || lim->max_tokens == 0) return 0;
  /* One row of as many experts as there are must fit; more than all pairs are not needed. */
  const size_t one = pair_bytes(lim->max_cols, lim->max_expert_ff);
  if (!weir_mul_size(one, (size_t)lim->max_experts, &least) ||
      !weir_mul_size(least, (size_t)lim->max_tokens, &all))
    return SIZE_MAX;
  size_t bytes = all < PASS_BYTES ? all : PASS_BYTES;
  if (bytes < least) bytes = least;
  return weir_add_size(bytes, ROWS_AT + ALIGN, &bytes) ? bytes : SIZE_MAX;
}

typedef struct pass {
  weir_dev *dev;
  const weir_moe_args *args;
  int32_t pairs, tile_picks;
  int32_t *expert, *pick, *n_tiles;
  float *weight, *gate_up, *out;
  weir_moe_tile *tile;
} pass;

/* Types of the segments numbered s, as bits; 0 when no expert has so many. */
static uint32_t types_at(const weir_weight *w, int32_t n_experts, int32_t s) {
  uint32_t types = 0;
  for (int32_t i = 0; i < n_experts; i++) {
    const weir_cuda_weight *m = w[i].impl;
    if (s < m->n_segments) types |= 1u << (unsigned)m->segment[s].dtype;
  }
  return types;
}

static bool fits(const weir_cuda *cu, const weir_weight *w, int32_t n_experts, int32_t tile_picks) {
  for (int32_t s = 0;; s++) {
    const uint32_t types = types_at(w, n_experts, s);
    if (types == 0) return true;
    for (unsigned t = 0; t < WEIR_DTYPE_COUNT; t++)
      if (types >> t & 1 && weir_cuk_moe_matmul_smem((weir_dtype)t, tile_picks) > cu->max_smem) return false;
  }
}

/* Two slices of the columns where one would leave the GPU with fewer than 12 warps a multiprocessor for the
 * experts of one row. Not by the number of rows: a row's result must not depend on it. */
static int32_t slices_of(const weir_cuda *cu, const weir_weight *w, int32_t n_used) {
  const int64_t rtiles = ((int64_t)w->rows + WEIR_PACK_ROWS - 1) / WEIR_PACK_ROWS;
  return weir_mm_chunks(w->cols) >= 2 && rtiles * n_used < 12 * (int64_t)cu->n_sms ? 2 : 1;
}

/* y = x W^T of each pick's expert: a launch for each segment and type, which is one where experts are alike.
 */
static weir_status matmul(const pass *p, weir_mat y, weir_mat x, const weir_weight *w, bool sorted_x,
                          weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(p->dev);
  const int32_t n_experts = p->args->n_experts;
  weir_status st = WEIR_OK;
  weir_cuk_moe_matmul_args a = {
      .x = x.data,
      .y = y.data,
      .x_ld = x.ld,
      .y_ld = y.ld,
      .pick = p->pick,
      .tile = p->tile,
      .n_tiles = p->n_tiles,
      .cols = x.cols,
      .n_used = p->args->n_used,
      .sorted_x = sorted_x,
      .tiles_most = weir_moe_tiles_most(p->pairs, n_experts, p->tile_picks),
      .tile_picks = p->tile_picks,
      .slices = slices_of(cu, w, p->args->n_used),
  };
  for (int32_t s = 0;; s++) {
    const uint32_t types = types_at(w, n_experts, s);
    if (types == 0) break;
    for (unsigned t = 0; t < WEIR_DTYPE_COUNT; t++) {
      if (!(types >> t & 1)) continue;
      const bool quant = weir_dtype_is_quant((weir_dtype)t);
      a.dtype = (weir_dtype)t;
      a.aligned = weir_quad_mat(x) && (quant || x.cols % 4 == 0);
      a.rows_most = 0;
      for (int32_t i = 0; i < n_experts; i++) {
        const weir_cuda_weight *m = w[i].impl;
        a.expert[i] = (weir_moe_expert){0};
        if (s >= m->n_segments || m->segment[s].dtype != a.dtype) continue;
        const weir_segment *g = &m->segment[s];
        a.expert[i] = (weir_moe_expert){g->low, g->high, g->scale, g->first, g->rows};
        if (g->rows > a.rows_most) a.rows_most = g->rows;
        if (!quant && !weir_quad_ptr(g->low)) a.aligned = false;
      }
      const cudaError_t err =
          quant ? weir_cuk_moe_matmul(&a, cu->stream) : weir_cuk_moe_dense(&a, cu->stream);
      WEIR_TRY(weir_cuda_check(p->dev, err, "launch moe's matmul", e));
    }
  }
out:
  return st;
}

/* Rows first .. first + n of the batch. */
static weir_status run_rows(const pass *p, weir_mat y, int32_t first, int32_t n, weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(p->dev);
  const weir_moe_args *m = p->args;
  const int32_t dim = m->x.cols, ff = m->down[0].cols, pairs = p->pairs;
  const weir_mat x = {m->x.data + (size_t)first * (size_t)m->x.ld, n, dim, m->x.ld};
  const weir_mat both = {p->gate_up, pairs, 2 * ff, 2 * ff}, gated = {p->gate_up, pairs, ff, 2 * ff},
                 out = {p->out, pairs, dim, dim};
  weir_status st = WEIR_OK;
  const weir_cuk_moe_route_args route = {
      .logits = m->logits.data + (size_t)first * (size_t)m->logits.ld,
      .ld = m->logits.ld,
      .n = n,
      .n_experts = m->n_experts,
      .n_used = m->n_used,
      .renormalise = m->renormalise,
      .tile_picks = p->tile_picks,
      .expert = p->expert,
      .weight = p->weight,
      .pick = p->pick,
      .tile = p->tile,
      .n_tiles = p->n_tiles,
  };
  const weir_cuk_glu_args glu = {
      .y = gated.data,
      .gate = both.data,
      .up = both.data + ff,
      .y_ld = both.ld,
      .x_ld = both.ld,
      .rows = pairs,
      .cols = ff,
      .gelu = m->act == WEIR_ACT_GELU_TANH,
      .aligned = ff % 4 == 0,
  };
  const weir_cuk_moe_combine_args sum = {
      .x = out.data,
      .weight = p->weight,
      .y = y.data + (size_t)first * (size_t)y.ld,
      .x_ld = out.ld,
      .y_ld = y.ld,
      .n = n,
      .n_used = m->n_used,
      .cols = dim,
      .aligned = dim % 4 == 0 && weir_quad_mat(out) && weir_quad_mat(y),
  };
  WEIR_TRY(weir_cuda_check(p->dev, weir_cuk_moe_route(&route, cu->stream), "launch moe's router", e));
  WEIR_TRY(matmul(p, both, x, m->gate_up, false, e));
  WEIR_TRY(weir_cuda_check(p->dev, weir_cuk_glu(&glu, cu->stream), "launch moe's gate", e));
  WEIR_TRY(matmul(p, out, gated, m->down, true, e));
  WEIR_TRY(weir_cuda_check(p->dev, weir_cuk_moe_combine(&sum, cu->stream), "launch moe's sum", e));
out:
  return st;
}

weir_status weir_cuda_moe(weir_dev *dev, weir_mat y, const weir_moe_args *a, weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(dev);
  const int32_t n = a->x.rows, dim = a->x.cols, ff = a->down[0].cols;
  weir_status st = WEIR_OK;
  if (a->n_experts > WEIR_MOE_EXPERTS)
    return weir_fail(e, WEIR_EUNSUP, "moe: %d experts, the CUDA device has at most %d", a->n_experts,
                     WEIR_MOE_EXPERTS);
  size_t most = cu->moe_bytes > ROWS_AT + ALIGN ? (cu->moe_bytes - ROWS_AT - ALIGN) / pair_bytes(dim, ff) : 0;
  if (most > WEIR_MOE_PAIRS) most = WEIR_MOE_PAIRS;
  const int32_t pass_rows = (int32_t)most / a->n_used;
  if (pass_rows == 0)
    return weir_fail(e, WEIR_EINVAL, "moe: rows of %d and %d experts of %d are beyond the limits reserved",
                     dim, a->n_experts, ff);
  const bool many_fit = fits(cu, a->gate_up, a->n_experts, WEIR_MOE_TILE_MANY) &&
                        fits(cu, a->down, a->n_experts, WEIR_MOE_TILE_MANY);
  char *mem = cu->moe_scratch;
  pass p = {.dev = dev,
            .args = a,
            .expert = (int32_t *)(void *)(mem + EXPERT_AT),
            .weight = (float *)(void *)(mem + WEIGHT_AT),
            .pick = (int32_t *)(void *)(mem + PICK_AT),
            .tile = (weir_moe_tile *)(void *)(mem + TILE_AT),
            .n_tiles = (int32_t *)(void *)(mem + N_TILES_AT),
            .gate_up = (float *)(void *)(mem + ROWS_AT)};
  for (int32_t first = 0; first < n; first += pass_rows) {
    const int32_t rows = n - first < pass_rows ? n - first : pass_rows;
    p.pairs = rows * a->n_used;
    /* Wide tiles read a matrix once for 32 rows, but cost an expert of few rows as much as 32: from 16 a
       mean expert. To be measured. */
    p.tile_picks = many_fit && p.pairs >= 16 * a->n_experts ? WEIR_MOE_TILE_MANY : WEIR_MOE_TILE_FEW;
    const size_t up_bytes = (size_t)p.pairs * 2 * (size_t)ff * sizeof(float);
    p.out = (float *)(void *)(mem + ROWS_AT + (up_bytes + ALIGN - 1) / ALIGN * ALIGN);
    WEIR_TRY(run_rows(&p, y, first, rows, e));
  }
out:
  return st;
}
