/* SPDX-License-Identifier: Apache-2.0 */
/* How quantised weights lie in GPU memory. Host and device code read it; weights.c and repack.cu write it.
 *
 * A weight [rows, cols] is one or several segments, runs of rows of one stored type. A quantised segment is
 * cut into tiles of 16 rows x 64 columns, in the order in which one warp feeds them to mma.m16n8k16 as its A
 * operand (weights are A, activations B: a batch of 8 rows fills B exactly, and 16 output columns A). Rows
 * beyond the last and columns beyond cols (a multiple of 32) hold scales of zero.
 *
 * Lane l of a warp holds, of k16-step s (0..3) of a tile, the fragment registers a0..a3: rows l/4 (a0, a2)
 * and l/4 + 8 (a1, a3), columns 16*s + (l%4)*2 + {0, 1} (a0, a1) and that + 8 (a2, a3). Register a[i] of step
 * s is "pair" p = 4*s + i, of a low (even column) and a high element.
 *
 *   low plane   four bits: one uint4 a lane and tile; word s holds step s; pair i of it has its low element
 *               in bits 4i .. 4i+3, its high one in bits 16+4i .. . Tile t at low + (t*32 + lane) uint4
 *   high plane  one bit (Q5_0, Q5_K): one uint32 a lane and tile; pair i of step s in bits b and 16+b with
 *               b = 8*(s/2) + 2*(s%2) + i/2 + 4*(i%2). Tile t at high + (t*32 + lane) uint32
 *               two bits (Q6_K): one uint2; word s/2, pair i of step s in bits b, b+1 and 16+b, 17+b with
 *               b = 8*(s%2) + 2*(i/2) + 4*(i%2). Tile t at high + (t*32 + lane) uint2
 *               (pairs i and i+1 lie four bits apart, as in the low plane: one shift serves both)
 *   byte plane  (Q8_0) two uint4 a lane and tile; uint4 h holds steps 2h, 2h+1; word 2*(s%2) + i/2 holds
 *               pairs i even (bytes 0, 1: low, high element) and i odd (bytes 2, 3); the byte is value + 128.
 *               Tile t at byte + (t*64 + h*32 + lane) uint4
 *
 * Tile number t = (row/16) * n_ktiles + col/64. Stored integers have their zero points in them (value + 8 for
 * Q4_0, + 16 for Q5_0, + 32 for Q6_K, + 128 for Q8_0; none for Q4_K, Q5_K). Scales, by row tile and in order
 * of columns, rows of a tile as index 2*(r%8) + r/8, so that rows l/4 and l/4+8 are neighbours:
 *
 *   Q8_0 Q4_0 Q5_0   half d[row tile][tile of 64 columns][16][2 blocks of 32]: a lane reads eight bytes a tile
 *   Q4_K Q5_K        weir_pack_k4[row tile][block of 256][16]: a lane reads two of 16 bytes for four tiles
 *   Q6_K             weir_pack_k6[row tile][block of 256]
 *
 * All planes start at multiples of 256 bytes. What lies in padding is zero in the scales, any finite integer
 * in the planes.
 */
#ifndef WEIR_KERNELS_CUDA_PACK_H
#define WEIR_KERNELS_CUDA_PACK_H
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

enum { WEIR_PACK_ROWS = 16, WEIR_PACK_COLS = 64, WEIR_PACK_BLOCK = 32, WEIR_PACK_SUPER = 256 };

typedef struct weir_pack_k4 {
  uint16_t d, dmin;  /* halves */
  uint8_t scale[12]; /* as in the file: weir_k_scale */
} weir_pack_k4;

typedef struct weir_pack_k6 {
  int8_t scale[4][16][4]; /* [tile of 64 columns][row index][part of 16]: a lane reads eight bytes a tile */
  uint16_t d[16];         /* halves, [row index] */
} weir_pack_k6;

/* One segment; pointers are device memory. For F32, F16, BF16 `low` is the matrix itself, row-major, ld =
 * cols, and the other pointers are NULL; so are those a type has no use for. */
typedef struct weir_segment {
  weir_dtype dtype; /* as stored in the file */
  int32_t first;    /* row of the weight this segment starts at; any number, not only multiples of 16 */
  int32_t rows, cols;
  int32_t n_rtiles, n_ktiles; /* ceil(rows / 16), ceil(cols / 64) */
  void *low;                  /* low plane; byte plane of Q8_0 */
  void *high;                 /* high plane or NULL */
  void *scale;
} weir_segment;

/* weir_weight.impl of the CUDA device. */
typedef struct weir_cuda_weight {
  int32_t n_segments;
  weir_segment *segment; /* owned, host memory */
  void *memory;          /* owned: the device memory all segments point into */
} weir_cuda_weight;

#endif
