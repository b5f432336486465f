/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's layout of weights: one for all instruction sets, so that each can be checked against the scalar
 * one.
 *
 * The parts of a weight become segments; neighbours of the same type merge when the seam falls between
 * groups. A segment holds its rows in groups of 16 (the last padded with zero rows), interleaved along K so
 * that one vector register holds the same k of 16 rows and lane r of an accumulator is row r:
 *
 *   F32        float    w[cols][16]
 *   F16, BF16  uint16_t w[cols][16], padded to a whole cache line
 *   Q8_0       per pair of blocks { uint16_t d[2][16]; uint8_t q[2][8][16][4]; }   1088 bytes
 *              q[b][j][r][i] = quant of row r, element 4j+i of block b, plus 128: dot-product instructions
 * take one unsigned operand Q4_0       per pair of blocks { uint16_t d[2][16]; uint8_t q[2][4][16][4]; } 576
 * bytes low nibble: element 4j+i, high nibble: element 16+4j+i, both plus 8 as in the file
 *
 * An odd last block is paired with a block of scale zero. Groups of a segment follow each other, so a thread
 * that owns a run of groups reads one ascending stream. */
#ifndef WEIR_KERNELS_CPU_PACK_H
#define WEIR_KERNELS_CPU_PACK_H
#include "kernels/device.h"

enum {
  WEIR_PACK_ROWS = 16,
  WEIR_PACK_SCALES = 2 * WEIR_PACK_ROWS * 2, /* bytes of the scales of a pair of blocks */
  WEIR_PACK_Q8_PAIR = WEIR_PACK_SCALES + 2 * 32 * WEIR_PACK_ROWS,
  WEIR_PACK_Q4_PAIR = WEIR_PACK_SCALES + 32 * WEIR_PACK_ROWS,
  WEIR_PACK_Q8_ZERO = 128, /* what was added to the quants */
  WEIR_PACK_Q4_ZERO = 8
};

typedef struct weir_pack_seg {
  weir_dtype dtype;
  int32_t row, rows; /* rows [row, row + rows) of the weight */
  int32_t n_groups;
  size_t group_bytes; /* a multiple of 64 */
  uint8_t *data;      /* [n_groups][group_bytes], 64-byte aligned, in weir_pack.data */
} weir_pack_seg;

typedef struct weir_pack {
  int32_t cols;
  bool has_quant, has_float;
  uint8_t *data; /* owned, all segments one after the other */
  size_t bytes;
  int32_t n_segs;
  weir_pack_seg seg[];
} weir_pack;

static inline const weir_pack *weir_pack_of(const weir_weight *w) { return (const weir_pack *)w->impl; }

/* Pairs of 32-element blocks that hold `cols` quantised elements. */
static inline int32_t weir_pack_pairs(int32_t cols) { return (int32_t)(((int64_t)cols + 63) / 64); }

/* dst[cols] <- the row, to the bit what weir_dequantize_row gives of the stored row. */
void weir_pack_get_row(const weir_pack *, int32_t row, float *dst);

#endif
