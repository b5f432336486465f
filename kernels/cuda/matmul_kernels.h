/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of matmul.cu: quantised weights times few rows; and how their grid is cut. */
#ifndef WEIR_KERNELS_CUDA_MATMUL_KERNELS_H
#define WEIR_KERNELS_CUDA_MATMUL_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/cuda/pack.h"
#ifdef __CUDACC__
#define WEIR_MM_FN static __host__ __device__ inline /* the kernel asks as well */
#else
#define WEIR_MM_FN static inline
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* A chunk is 256 columns, four tiles: activations become F16 with one scale per row and chunk. A panel is a
 * chunk of R rows (a multiple of 8) as shared memory wants it:
 *
 *   half x[R][256]       unit of 8 columns u of row r lies at unit u ^ (r % 8): ldmatrix then meets no bank
 * twice half sum[R][2][8]    of each block of 32 columns the sum of x / 32, as a half and what that half
 * lacks float scale[R]       a power of two: x as given = x here * scale
 *
 * so WEIR_PANEL_ROW_BYTES a row. */
enum {
  WEIR_PANEL_COLS = 256,
  WEIR_PANEL_ROW_BYTES = WEIR_PANEL_COLS * 2 + 32 + 4,
  WEIR_MM_WARPS = 8,     /* of a block */
  WEIR_MM_SELF_ROWS = 8, /* up to here the matmul converts x itself */
  WEIR_MM_MAX_ROWS = 64, /* beyond, weights are dequantised for cuBLASLt */
  WEIR_MM_MAX_SLICES = 32,
  WEIR_MM_MOST_SMS = 256 /* that slices are made for: so fewer than 12 * 256 blocks need a ticket */
};

WEIR_MM_FN int32_t weir_mm_chunks(int32_t cols) {
  return (int32_t)(((int64_t)cols + WEIR_PANEL_COLS - 1) / WEIR_PANEL_COLS);
}

/* Rows of a panel for n rows: 8, 16, 32, 64. */
static inline int32_t weir_mm_panel_rows(int32_t n) { return n <= 8 ? 8 : n <= 16 ? 16 : n <= 32 ? 32 : 64; }

/* Into how many slices the columns are cut, a power of two: 12 warps an SM is what hides the latency of
 * unpacking (two blocks of eight are resident), more slices only cost a longer sum at the end. It depends on
 * the weight and the GPU, not on n, and slices are added as a balanced binary tree, whoever adds them: so a
 * row's result is the same bits whatever batch it comes in (up to WEIR_MM_MAX_ROWS). */
static inline int32_t weir_mm_slices(int32_t n_rtiles, int32_t cols, int32_t n_sms) {
  const int32_t chunks = weir_mm_chunks(cols), sms = n_sms < WEIR_MM_MOST_SMS ? n_sms : WEIR_MM_MOST_SMS;
  int32_t s = 1;
  while (2 * s <= chunks && s < WEIR_MM_MAX_SLICES && (int64_t)n_rtiles * s < (int64_t)12 * sms) s *= 2;
  return s;
}

/* How many of the slices one block works on side by side, adding them in shared memory. The fewer row tiles a
 * block has, the more often x is read and converted; while it converts for itself its eight warps have one
 * (slice, row) each to convert in a round. With panels made before, x is copied as it is, and blocks of eight
 * row tiles share most. */
static inline int32_t weir_mm_slices_per_block(int32_t slices, int32_t n) {
  const int32_t most = n > WEIR_MM_SELF_ROWS ? 1 : n > 4 ? 1 : n > 2 ? 2 : n > 1 ? 4 : 8;
  return slices < most ? slices : most;
}

/* Slice s (0 .. slices-1) is the chunks [begin(s), begin(s + 1)). */
WEIR_MM_FN int32_t weir_mm_slice_begin(int32_t chunks, int32_t slices, int32_t s) {
  return (int32_t)((int64_t)chunks * s / slices);
}

/* y[r*y_ld + f] = sum over c of x[r][c] W[f][c] + bias[f] for r < n, f < w.rows. x is given as F32 (n <= 8),
 * or as panels [chunk] of weir_mm_panel_rows(n) rows from weir_cuk_panels. */
typedef struct weir_cuk_matmul_args {
  weir_segment w;
  float *y;          /* at the segment's first column */
  const float *bias; /* the same; or NULL */
  const float *x;    /* or NULL */
  const void *panel; /* or NULL; 256-byte aligned */
  int64_t x_ld, y_ld;
  int32_t n;         /* 1 .. WEIR_MM_MAX_ROWS */
  int32_t x_aligned; /* every row of x starts on 16 bytes */
  int32_t slices;    /* weir_mm_slices */
  float *partial;    /* weir_mm_partial_bytes; may be NULL when that is 0 */
  uint32_t *ticket;  /* [weir_mm_tickets] zeros, left as zeros */
} weir_cuk_matmul_args;
cudaError_t weir_cuk_matmul(const weir_cuk_matmul_args *, cudaStream_t);

/* Shared memory a block takes. */
size_t weir_cuk_matmul_smem(weir_dtype t, int32_t n);

/* Blocks along the rows of the weight; one ticket each (of WEIR_DENSE_TICKETS, dense.h) where several blocks
 * add up. */
static inline int32_t weir_mm_row_blocks(int32_t n_rtiles, int32_t slices, int32_t n) {
  const int32_t r = WEIR_MM_WARPS / weir_mm_slices_per_block(slices, n);
  return (n_rtiles + r - 1) / r;
}

/* Sums that blocks leave for each other: a tile of 16 features by the rows of a panel in F32. */
static inline size_t weir_mm_partial_bytes(int32_t n_rtiles, int32_t slices, int32_t n) {
  const int32_t blocks = slices / weir_mm_slices_per_block(slices, n);
  return blocks > 1 ? (size_t)n_rtiles * (size_t)blocks * (size_t)weir_mm_panel_rows(n) * 16 * sizeof(float)
                    : 0;
}

#ifdef __cplusplus
}
#endif
#endif
