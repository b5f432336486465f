/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of moe.cu, moe_matmul.cu and moe_dense.cu. A pair is a row and one of its experts: number
 * row * n_used + k, k counting the row's experts by ascending index. Sorted by expert, pairs lie in `pick`; a
 * tile is a run of picks of one expert. Only the GPU knows how many each has. */
#ifndef WEIR_KERNELS_CUDA_MOE_KERNELS_H
#define WEIR_KERNELS_CUDA_MOE_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/cuda/pack.h"
#ifdef __cplusplus
extern "C" {
#endif

enum {
  WEIR_MOE_EXPERTS = 256,  /* at most */
  WEIR_MOE_PAIRS = 4096,   /* of one pass */
  WEIR_MOE_SELF_SORT = 32, /* rows to here are routed and sorted by one block in one launch */
  WEIR_MOE_TILE_FEW = 8,   /* picks of a tile where experts have few rows each */
  WEIR_MOE_TILE_MANY = 32  /* and where they have many */
};

typedef struct weir_moe_tile {
  int32_t expert, first, count, unused; /* picks first .. first + count */
} weir_moe_tile;

/* Which experts each row has and their weights; then pairs sorted by expert, rows ascending, and cut into
 * tiles. n * n_used <= WEIR_MOE_PAIRS. */
typedef struct weir_cuk_moe_route_args {
  const float *logits;
  int64_t ld;
  int32_t n, n_experts, n_used, renormalise;
  int32_t tile_picks;
  int32_t *expert;     /* [n, n_used] ascending in each row */
  float *weight;       /* [n, n_used] */
  int32_t *pick;       /* [n * n_used] pairs */
  weir_moe_tile *tile; /* [weir_moe_tiles_most] */
  int32_t *n_tiles;
} weir_cuk_moe_route_args;
cudaError_t weir_cuk_moe_route(const weir_cuk_moe_route_args *, cudaStream_t);

static inline int32_t weir_moe_tiles_most(int32_t pairs, int32_t n_experts, int32_t tile_picks) {
  const int32_t most = pairs / tile_picks + n_experts; /* each expert may leave one that is not full */
  return most < pairs ? most : pairs;
}

/* One segment of each expert's matrix. */
typedef struct weir_moe_expert {
  const void *low, *high, *scale; /* as in weir_segment; low NULL: nothing in this launch */
  int32_t first, rows;
} weir_moe_expert;

/* y[to][first + f] = x[from] . W_expert[f] for all picks i: from is pick[i] / n_used, or i where `sorted_x`;
 * to is i where sorted_x is 0, else pick[i]. So the first matrix takes rows of the batch to picks, the second
 * picks to pairs. The table travels with the launch, in the kernel's arguments (CUDA 12.1: up to 32,764
 * bytes). */
typedef struct weir_cuk_moe_matmul_args {
  const float *x;
  float *y;
  int64_t x_ld, y_ld;
  const int32_t *pick;
  const weir_moe_tile *tile;
  const int32_t *n_tiles;
  weir_dtype dtype; /* of all segments in the table */
  int32_t cols, n_used, sorted_x;
  int32_t tiles_most, tile_picks;
  int32_t rows_most; /* over the table */
  int32_t slices;    /* 1 or 2: of columns, by quantised matrices; must not depend on the rows of the batch */
  int32_t aligned;   /* rows of x start on 16 bytes; of dense matrices too, and cols is a multiple of 4 */
  weir_moe_expert expert[WEIR_MOE_EXPERTS];
} weir_cuk_moe_matmul_args;
cudaError_t weir_cuk_moe_matmul(const weir_cuk_moe_matmul_args *, cudaStream_t); /* quantised */
size_t weir_cuk_moe_matmul_smem(weir_dtype t, int32_t tile_picks);
cudaError_t weir_cuk_moe_dense(const weir_cuk_moe_matmul_args *, cudaStream_t); /* F32, F16, BF16 */

/* y[r] = the sum over k of weight[r][k] * x[r * n_used + k] */
typedef struct weir_cuk_moe_combine_args {
  const float *x, *weight;
  float *y;
  int64_t x_ld, y_ld;
  int32_t n, n_used, cols, aligned;
} weir_cuk_moe_combine_args;
cudaError_t weir_cuk_moe_combine(const weir_cuk_moe_combine_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
