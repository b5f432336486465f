/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of pack.c: quantised rows into groups and out of them (pack.h has the layout). */
#ifndef WEIR_KERNELS_CPU_PACK_QUANT_H
#define WEIR_KERNELS_CPU_PACK_QUANT_H
#include "kernels/cpu/pack.h"

/* Bytes of a unit. */
enum {
  WEIR_PACK_Q8_0_UNIT = WEIR_PACK_SCALES + 2 * 8 * WEIR_PACK_QUADS,
  WEIR_PACK_Q4_0_UNIT = WEIR_PACK_SCALES + 2 * 4 * WEIR_PACK_QUADS,
  WEIR_PACK_Q5_0_UNIT = WEIR_PACK_SCALES + 2 * 5 * WEIR_PACK_QUADS,
  WEIR_PACK_Q4_K_UNIT = WEIR_PACK_K_SCALES + 8 * 4 * WEIR_PACK_QUADS,
  WEIR_PACK_Q5_K_UNIT = WEIR_PACK_K_SCALES + 8 * 5 * WEIR_PACK_QUADS,
  WEIR_PACK_Q6_K_UNIT = WEIR_PACK_Q6_SCALES + 8 * 6 * WEIR_PACK_QUADS
};

/* Stored rows that become a group, or the first of its lanes: the others become zero. */
typedef struct weir_pack_rows {
  const uint8_t *data;
  size_t row_bytes;
  int32_t n; /* 1 .. WEIR_PACK_ROWS */
  bool more; /* those of another whole group follow in memory */
} weir_pack_rows;

/* Writes all bytes of the group, whatever it held. */
typedef void (*weir_pack_group_fn)(const weir_pack_rows *, int32_t cols, uint8_t *group);
/* dst[cols] <- the row in that lane. */
typedef void (*weir_pack_get_fn)(const uint8_t *group, int32_t lane, int32_t cols, float *dst);

/* NULL for types that are not quantised. */
weir_pack_group_fn weir_pack_quant_group(weir_dtype);
weir_pack_get_fn weir_pack_quant_get(weir_dtype);

#endif
