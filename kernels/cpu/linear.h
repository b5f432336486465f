/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the linear operation: what an instruction set supplies, and the arithmetic all of them share.
 *
 * y[i][r] is one chain of fused multiply-adds in F32, so that every instruction set gives the same bits. Over
 * k ascending for float weights, over blocks of 32 ascending for quantised ones:
 *
 *   F32, F16, BF16     acc = fma(w[r][k], x[i][k], acc)    (F16 and BF16 with AMX: linear_dense.h)
 *   Q8_0, Q4_0, Q5_0   acc = fma((float)dot, d * dx, acc)
 *   Q4_K, Q5_K         t = (float)dot * (d * scale);  t = fma(dmin * min, (float)-sum, t);  acc = fma(t, dx,
 * acc) Q6_K               t = (float)low * (d * scale[0]);  t = fma((float)high, d * scale[1], t); acc =
 * fma(t, dx, acc)
 *
 * where dot is the exact integer sum of weight times q over the block, low and high those of its halves of
 * 16, sum that of q; the weights' integers have their zero points taken off (128, 8, 16; none for Q4_K and
 * Q5_K; 32). Every sum is exact as a float, and so is the product of a half and a scale of a super-block.
 *
 * Activations are quantised by blocks of 32: a = max |x|, dx = a/127, q = x * (127/a) rounded to nearest,
 * ties to even. A block with a < 2^-100 counts as zero; one with an infinity or NaN gets dx = NaN, so that
 * the damage shows in y instead of hiding in a finite number.
 *
 * x is laid out in panels, one per tile of m rows, so that a kernel walks it with one pointer:
 *   float:     x[k][m]
 *   quantised: per block { int8_t q[m][32]; float dx[m]; then the fields that the weight's types need, each
 *              int32_t or float [m] }, blocks made even. */
#ifndef WEIR_KERNELS_CPU_LINEAR_H
#define WEIR_KERNELS_CPU_LINEAR_H
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pack.h"

enum {
  WEIR_TILE_M = 8,       /* rows of x in a tile, at most */
  WEIR_TILE_G = 2,       /* groups of weights in a tile: 1 or 2 */
  WEIR_WIDE_M = 16,      /* rows of x in a wide tile, at most */
  WEIR_WIDE_G = 2,       /* groups that pass under the wide tiles at a time, at most */
  WEIR_WIDE_STRIP = 8,   /* blocks of a group that are expanded at a time */
  WEIR_WIDE_BLOCK = 640, /* bytes of a block of expanded weights */
  WEIR_WIDE_EXPANDED = 2 * WEIR_WIDE_G * WEIR_WIDE_STRIP * WEIR_WIDE_BLOCK, /* of a thread: two strips */
  WEIR_TINY_BITS = 0x0d800000 /* 2^-100 as the bits of a float */
};

/* Fields of a block of the panel, from the sums of its two halves of q: integer ones are where an integer sum
 * starts, undoing the weights' zero point. */
typedef enum {
  WEIR_FIELD_ZERO128, /* -128 * (low + high) */
  WEIR_FIELD_ZERO8,
  WEIR_FIELD_ZERO16,
  WEIR_FIELD_LOW32,  /* -32 * low */
  WEIR_FIELD_HIGH32, /* -32 * high */
  WEIR_FIELD_SUM,    /* -(low + high), a float */
  WEIR_FIELD_COUNT
} weir_field;

enum { WEIR_PANEL_ROW_MAX = 32 + 4 + 4 * WEIR_FIELD_COUNT };

/* What the panels of a call hold. */
typedef struct weir_panel_form {
  int32_t row_bytes; /* of one row of one block */
  int32_t n_fields;
  weir_field field[WEIR_FIELD_COUNT]; /* ascending */
} weir_panel_form;

typedef struct weir_tile {
  const uint8_t *w; /* n_groups groups, group_bytes apart */
  size_t group_bytes;
  const void *panel;
  int32_t block_bytes; /* of a block of a quantised panel: m rows */
  int32_t field_at; /* where in it the first field of this type is; others of the type follow, 4 * m apart */
  int32_t n_groups; /* 1 or 2 */
  int32_t m;        /* 1 .. WEIR_TILE_M */
  int32_t depth;    /* units of a group (pack.h): columns of float weights */
  const uint8_t
      *ahead; /* weights of a later tile, to be brought into the cache meanwhile: [ahead_lines] lines */
  int32_t ahead_lines; /* of 64 bytes, spread over the depth; 0: none */
  float *acc;          /* [m][n_groups][16], 64-byte aligned, overwritten */
} weir_tile;

typedef struct weir_linear_isa {
  /* Row i of a tile of m: x[32*n_blocks] into its places of the panel. */
  void (*quantize_row)(const float *x, int32_t n_blocks, const weir_panel_form *, uint8_t *panel, int32_t m,
                       int32_t i);
  void (*tile[WEIR_DTYPE_COUNT])(const weir_tile *);
  int32_t groups_one;  /* n_groups that suits one tile of x (weights come from memory) */
  int32_t groups_many; /* ... and several (weights come from the cache after the first) */
} weir_linear_isa;

/* With wide tiles: all rows of x by a few groups of quantised weights, which are expanded on the way, a strip
 * of blocks at a time. An expanded block is { float first[16], second[16]; int8_t q[8][16][4]; }: the scale,
 * and nothing; Q4_K and Q5_K scale and min; Q6_K the scales of its halves; quads as Q8_0 has them but signed,
 * without the zero point. (AVX-512 keeps the zero point.) Tiles of x are alike, the last filled up with rows
 * of zeros; or, where they may have any number of rows, cut by weir_cpu_part. */
typedef struct weir_wide {
  const uint8_t *w; /* n_groups groups, packed, group_bytes apart */
  size_t group_bytes;
  const uint8_t *panel;  /* n_tiles tiles of x, one after the other */
  int32_t row_bytes;     /* of one row of a block of the panel */
  int32_t row_field_at;  /* bytes of one row before the first field of this type */
  int32_t n_groups;      /* 1 .. WEIR_WIDE_G */
  int32_t n_tiles, rows; /* of a tile, filled up; 0: n_tiles parts of m */
  int32_t n_blocks;      /* of a row: an even number, whole super-blocks where the type has them */
  const uint8_t *ahead;  /* as in weir_tile */
  int32_t ahead_lines;
  uint8_t *expanded; /* [WEIR_WIDE_EXPANDED], 64-byte aligned, to work in */
  float *acc;        /* [n_tiles * rows, or m][n_groups][16], 64-byte aligned, to work in */
  float *y;          /* [m] rows, y_ld floats apart, of y_cols sums, at most those of the groups */
  size_t y_ld;
  int32_t m, y_cols;
  const float *bias; /* [y_cols]; NULL: none */
} weir_wide;

typedef struct weir_linear_wide {
  /* Around the runs of a type with tiles of so many rows, on the thread that runs them. */
  void (*begin)(weir_dtype, int32_t rows);
  void (*end)(void);
  void (*run[WEIR_DTYPE_COUNT])(const weir_wide *); /* NULL for floats */
  int32_t rows_from, cols_from;                     /* shape of x from which they pay */
  int32_t elems_from;                               /* ... and its rows times columns */
  int32_t rows_most;                                /* of a tile */
  int32_t rows_step;                                /* a tile has so many or a multiple; 0: any number */
} weir_linear_wide;

extern const weir_linear_wide weir_linear_amx;
extern const weir_linear_wide weir_linear_avx512_wide;

extern const weir_linear_isa weir_linear_scalar;
extern const weir_linear_isa weir_linear_avx2;
extern const weir_linear_isa weir_linear_avx512;

/* The table that serves narrow tiles on this instruction set. */
static inline const weir_linear_isa *weir_linear_isa_get(weir_isa isa) {
  return isa >= WEIR_ISA_AVX512_VNNI ? &weir_linear_avx512
         : isa == WEIR_ISA_AVX2      ? &weir_linear_avx2
                                     : &weir_linear_scalar;
}

/* ... and wide ones; NULL: none. */
static inline const weir_linear_wide *weir_linear_wide_get(weir_isa isa) {
  return isa == WEIR_ISA_AMX           ? &weir_linear_amx
         : isa == WEIR_ISA_AVX512_VNNI ? &weir_linear_avx512_wide
                                       : NULL;
}

/* Where block b of a panel of m rows begins. */
static inline uint8_t *weir_panel_block(const weir_panel_form *f, uint8_t *panel, int32_t m, int32_t b) {
  return panel + (size_t)b * (size_t)m * (size_t)f->row_bytes;
}

/* Writes scale and fields of row i; low and high are the sums of the halves of its q. Returns where q goes,
 * 32 bytes. */
static inline uint8_t *weir_panel_put(const weir_panel_form *f, uint8_t *panel, int32_t m, int32_t b,
                                      int32_t i, float d, int32_t low, int32_t high) {
  static const struct {
    int16_t low, high;
  } times[WEIR_FIELD_COUNT] = {{-128, -128}, {-8, -8}, {-16, -16}, {-32, 0}, {0, -32}, {-1, -1}};
  uint8_t *block = weir_panel_block(f, panel, m, b), *at = block + 32 * m + 4 * i;
  memcpy(at, &d, 4);
  for (int32_t n = 0; n < f->n_fields; n++) {
    const int32_t v = times[f->field[n]].low * low + times[f->field[n]].high * high;
    const float v_float = (float)v;
    at += 4 * m;
    if (f->field[n] == WEIR_FIELD_SUM)
      memcpy(at, &v_float, 4);
    else
      memcpy(at, &v, 4);
  }
  return block + 32 * i;
}

#endif
