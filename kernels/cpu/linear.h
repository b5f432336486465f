/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the linear operation: what an instruction set supplies, and the arithmetic all of them share.
 *
 * y[i][r] is one chain of fused multiply-adds in F32, so that every instruction set gives the same bits:
 *   float weights       over k ascending:      acc = fma(w[r][k], x[i][k], acc)
 *   quantised weights   over blocks ascending: acc = fma((float)dot, dw[r][b] * dx[i][b], acc)
 * where dot is the exact integer sum over the block. Activations are quantised by blocks of 32: a = max |x|,
 * dx = a/127, q = x * (127/a) rounded to nearest, ties to even. A block with a < 2^-100 counts as zero; one
 * with an infinity or NaN gets dx = NaN, so that the damage shows in y instead of hiding in a finite number.
 *
 * x is laid out in panels, one per tile of m rows, so that a kernel walks it with one pointer:
 *   quantised: per block { float dx[m]; int32_t z8[m]; int32_t z4[m]; int8_t q[m][32]; }, blocks made even
 *              z8 = -128 * sum q, z4 = -8 * sum q: where the integer sum starts, undoing the weights' zero
 * point float:     x[k][m] */
#ifndef WEIR_KERNELS_CPU_LINEAR_H
#define WEIR_KERNELS_CPU_LINEAR_H
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pack.h"

enum {
  WEIR_TILE_M = 8,            /* rows of x in a tile, at most */
  WEIR_TILE_G = 2,            /* groups of weights in a tile: 1 or 2 */
  WEIR_PANEL_BLOCK = 44,      /* panel bytes of one row of one block */
  WEIR_TINY_BITS = 0x0d800000 /* 2^-100 as the bits of a float */
};

typedef struct weir_tile {
  const uint8_t *w; /* n_groups groups, group_bytes apart */
  size_t group_bytes;
  const void *panel;
  int32_t n_groups; /* 1 or 2 */
  int32_t m;        /* 1 .. WEIR_TILE_M */
  int32_t depth;    /* cols of float weights, pairs of blocks of quantised ones */
  const uint8_t
      *ahead; /* weights of a later tile, to be brought into the cache meanwhile: [ahead_lines] lines */
  int32_t ahead_lines; /* of 64 bytes, spread over the depth; 0: none */
  float *acc;          /* [m][n_groups][16], 64-byte aligned, overwritten */
} weir_tile;

typedef struct weir_linear_isa {
  /* Row i of a tile of m: x[32*n_blocks] into its places of the panel. */
  void (*quantize_row)(const float *x, int32_t n_blocks, uint8_t *panel, int32_t m, int32_t i);
  void (*tile[WEIR_DTYPE_COUNT])(const weir_tile *);
  int32_t groups_one[WEIR_DTYPE_COUNT];  /* n_groups that suits one tile of x (weights come from memory) */
  int32_t groups_many[WEIR_DTYPE_COUNT]; /* ... and several (weights come from the cache after the first) */
} weir_linear_isa;

extern const weir_linear_isa weir_linear_scalar;
extern const weir_linear_isa weir_linear_avx2;
extern const weir_linear_isa weir_linear_avx512;

/* Where block b of a panel of m rows keeps its fields. */
static inline uint8_t *weir_panel_block(uint8_t *panel, int32_t m, int32_t b) {
  return panel + (size_t)b * (size_t)m * WEIR_PANEL_BLOCK;
}

/* Writes scale and zero-point sums of row i; `sum` is that of its quants. Returns where those go, 32 bytes.
 */
static inline uint8_t *weir_panel_put(uint8_t *panel, int32_t m, int32_t b, int32_t i, float d, int32_t sum) {
  const int32_t z8 = -WEIR_PACK_Q8_ZERO * sum, z4 = -WEIR_PACK_Q4_ZERO * sum;
  uint8_t *at = weir_panel_block(panel, m, b);
  memcpy(at + 4 * i, &d, 4);
  memcpy(at + 4 * (m + i), &z8, 4);
  memcpy(at + 4 * (2 * m + i), &z4, 4);
  return at + 12 * m + 32 * i;
}

#endif
