/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's layout of weights: one for all instruction sets, so that each can be checked against the scalar
 * one.
 *
 * The parts of a weight become segments; neighbours of the same type merge when the seam falls between
 * groups. A segment holds its rows in groups of 16 (the last padded with zero rows), interleaved along K so
 * that one vector register holds the same k of 16 rows and lane r of an accumulator is row r. A group is a
 * run of units, padded to whole cache lines:
 *
 *   F32        one k        { float w[16]; }
 *   F16, BF16  32 k         { uint16_t w[16][16][2]; }                                     1024 bytes
 *   Q8_0       64 elements  { uint16_t d[2][16]; quads q[2][8]; }                          1088 bytes
 *   Q4_0       64 elements  { uint16_t d[2][16]; quads nibble[2][4]; }                      576 bytes
 *   Q5_0       64 elements  { uint16_t d[2][16]; struct { quads high, nibble[4]; } b[2]; }  704 bytes
 *   Q4_K       256 elements { uint16_t d[16], dmin[16]; uint8_t scale[8][16], min[8][16];
 *                             quads nibble[8][4]; }                                        2368 bytes
 *   Q5_K       256 elements { the same; struct { quads high, nibble[4]; } b[8]; }          2880 bytes
 *   Q6_K       256 elements { uint16_t d[16]; int8_t scale[16][16]; 32 bytes unused;
 *                             struct { quads high[2], nibble[4]; } b[8]; }                 3392 bytes
 *
 * 16-bit floats go by pairs, as instructions that multiply them do: w[p][r][i] is element 2p+i of row r, and
 * a unit is one tile of AMX; what is beyond the last k is zero.
 *
 * quads is uint8_t[16][4]: four consecutive elements of each row. Every quantised type goes by blocks
 * of 32, eight quads each. Q8_0: q[b][j][r][i] is element 4j+i of row r plus 128, for dot-product
 * instructions take one unsigned operand. The others: nibble[j] has the low four bits of quad j in its low
 * nibbles and of quad j+4 in its high ones, as stored, without the zero point taken off. 5 bits: bit j of
 * `high` is bit 4 of quad j. 6 bits: bits 2j and 2j+1 of high[h] are bits 4 and 5 of quad 4h+j.
 *
 * An odd last block of 32 is paired with a block of scale zero; super-blocks of 256 are always whole. Groups
 * of a segment follow each other, so a thread that owns a run of groups reads one ascending stream. */
#ifndef WEIR_KERNELS_CPU_PACK_H
#define WEIR_KERNELS_CPU_PACK_H
#include "kernels/device.h"

enum {
  WEIR_PACK_ROWS = 16,
  WEIR_PACK_K16 = 32, /* k of a unit of 16-bit floats */
  WEIR_PACK_UNIT16 = WEIR_PACK_K16 * WEIR_PACK_ROWS * 2,
  WEIR_PACK_QUADS = 4 * WEIR_PACK_ROWS,      /* bytes of four elements of each row */
  WEIR_PACK_SCALES = 2 * WEIR_PACK_ROWS * 2, /* ... of the halves at the start of a unit */
  WEIR_PACK_K_SCALES =
      WEIR_PACK_SCALES + 2 * 8 * WEIR_PACK_ROWS, /* ... of all that precedes the quads of Q4_K, Q5_K */
  WEIR_PACK_Q6_SCALES = WEIR_PACK_K_SCALES,      /* ... and of Q6_K, padding included */
  WEIR_PACK_Q6_SCALE = WEIR_PACK_ROWS * 2        /* where Q6_K has its int8 scales */
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
  size_t lead;   /* of the call of linear that is under way: bytes that rank 0 has less than its share */
  uint8_t *data; /* owned, all segments one after the other */
  size_t bytes;
  int32_t n_segs;
  weir_pack_seg seg[];
} weir_pack;

static inline const weir_pack *weir_pack_of(const weir_weight *w) { return (const weir_pack *)w->impl; }

/* Where in a group of 16-bit floats element k of a row lies. */
static inline size_t weir_pack_at16(int32_t k, int32_t lane) {
  return ((size_t)(k / 2) * WEIR_PACK_ROWS + (size_t)lane) * 4 + (size_t)(k % 2) * 2;
}

/* How a unit of a type is laid out. */
typedef struct weir_pack_form {
  int32_t elems; /* of a row in a unit: 1, 32, 64, 256 */
  int32_t bytes; /* of a unit */
} weir_pack_form;

weir_pack_form weir_pack_form_of(weir_dtype);

/* Units that hold `cols` elements. */
static inline int32_t weir_pack_units(weir_pack_form f, int32_t cols) {
  return (int32_t)(((int64_t)cols + f.elems - 1) / f.elems);
}

/* dst[cols] <- the row, to the bit what weir_dequantize_row gives of the stored row. */
void weir_pack_get_row(const weir_pack *, int32_t row, float *dst);

#endif
