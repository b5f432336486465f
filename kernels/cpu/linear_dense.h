/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the linear: dense tiles, for F16 and BF16 weights where the machine multiplies tiles of bfloat16,
 * for any number of rows of x from one on, so that bits depend on no number of rows.
 *
 * y is not the chain of linear.h then. x, and F16 weights, are sums of bfloat16s, x0 + x1 + x2 and w0 + w1 (a
 * BF16 weight is w0 alone), exact but for what is below 2^-126: each is the nearest to what is left, ties
 * away from zero, or by truncation where that would be infinite. What is left of an infinity is NaN. (So y
 * may be infinite where a product comes within 2^-8 of the largest float.) For each block of 32 k ascending
 *
 *   BF16   acc += w0 x2;  acc += w0 x1;  acc += w0 x0
 *   F16    acc += w1 x0;  acc += w1 x1;  acc += w0 x1;  acc += w0 x2;  acc += w0 x0
 *
 * where a product stands for the sum over the block: one chain of fused multiply-adds from 0 over its even k
 * and one over its odd ones, the two added; all in F32, where denormals count as zero and become zero.
 *
 * A panel is made of strips of `rows` rows, the last filled up with zeros: uint16_t x[block][3][rows][32]. */
#ifndef WEIR_KERNELS_CPU_LINEAR_DENSE_H
#define WEIR_KERNELS_CPU_LINEAR_DENSE_H
#include <stdbool.h>

#include "kernels/cpu/pack.h"

enum {
  WEIR_DENSE_ROWS = 16, /* of a strip, at most */
  WEIR_DENSE_PLANES = 3,
  WEIR_DENSE_GROUPS = 2,                                      /* in a tile, at most */
  WEIR_DENSE_PARTS = WEIR_DENSE_GROUPS * 2 * WEIR_PACK_UNIT16 /* bytes of their w0 and w1, of one block */
};

typedef struct weir_dense_tile {
  const uint8_t *w; /* n_groups groups, group_bytes apart, as packed, from some block on */
  size_t group_bytes;
  uint8_t *parts;       /* of F16: [group][w0, w1] of block k at slot k & parts_mask */
  int32_t parts_mask;   /* at least 1 */
  bool split;           /* write the parts; else they are there */
  bool resume;          /* acc has the sums of the blocks before */
  const uint8_t *panel; /* n_strips strips, strip_bytes apart, from that block on */
  size_t strip_bytes;
  int32_t rows;               /* of a strip: 1 .. WEIR_DENSE_ROWS */
  int32_t n_strips, n_groups; /* 1 or 2 each */
  int32_t depth;              /* blocks */
  const uint8_t *ahead; /* weights to be brought into the cache meanwhile: of ahead_groups groups, group_bytes
                         * apart, ahead_lines lines of 64 bytes each from here on */
  int32_t ahead_groups, ahead_lines;
  float *acc; /* [n_strips * rows][acc_ld], of which [n_groups][16] are the tile's */
  int32_t acc_ld;
  const float *touch; /* sums of a later tile, to be brought into the cache for writing: touch_rows rows,
                       * acc_ld apart as well if there are any */
  int32_t touch_rows;
} weir_dense_tile;

typedef struct weir_dense_isa {
  /* A row x[n] into its place in a panel: its blocks from `out` on, planes plane_bytes apart. */
  void (*lay)(const float *x, int32_t n, uint8_t *out, int32_t plane_bytes);
  /* Around tiles of so many rows a strip, on the thread that runs them. */
  void (*begin)(int32_t rows);
  void (*end)(void);
  void (*run)(weir_dtype, const weir_dense_tile *); /* WEIR_F16 or WEIR_BF16 */
} weir_dense_isa;

extern const weir_dense_isa weir_linear_amx_dense;

/* The walk over such tiles, of a call's segments of F16 and BF16, and bytes of its scratch. */
struct weir_linear_call;
void weir_linear_dense_call(const struct weir_linear_call *, void *scratch);
size_t weir_linear_dense_scratch(int32_t n_threads);

#endif
