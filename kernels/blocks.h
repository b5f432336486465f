/* SPDX-License-Identifier: Apache-2.0 */
/* Quantised blocks as GGUF stores them (format: ggml's gguf.md and ggml-quants; little endian).
 * Devices repack them at load; nothing else depends on the layout. */
#ifndef WEIR_KERNELS_BLOCKS_H
#define WEIR_KERNELS_BLOCKS_H
#include <stdint.h>

enum { WEIR_QK = 32 }; /* elements of a Q8_0 or Q4_0 block */

typedef struct weir_block_q8_0 {
  uint16_t d;        /* scale, IEEE half */
  int8_t q[WEIR_QK]; /* value = d * q */
} weir_block_q8_0;

typedef struct weir_block_q4_0 {
  uint16_t d;             /* scale, IEEE half */
  uint8_t q[WEIR_QK / 2]; /* low nibble of q[i]: element i; high: element i+16; value = d * (nibble - 8) */
} weir_block_q4_0;

_Static_assert(sizeof(weir_block_q8_0) == 34, "Q8_0 block is 34 bytes in a file");
_Static_assert(sizeof(weir_block_q4_0) == 18, "Q4_0 block is 18 bytes in a file");

#endif
