/* SPDX-License-Identifier: Apache-2.0 */
/* Quantised blocks as GGUF stores them (format: ggml's gguf.md and ggml-quants; little endian).
 * Devices repack them at load; nothing else depends on the layout. */
#ifndef WEIR_KERNELS_BLOCKS_H
#define WEIR_KERNELS_BLOCKS_H
#include <assert.h>
#include <stdint.h>

#ifdef __CUDACC__
#define WEIR_BLOCKS_FN static __host__ __device__ inline
#else
#define WEIR_BLOCKS_FN static inline
#endif

enum {
  WEIR_QK =
      32, /* elements of a Q8_0, Q4_0 or Q5_0 block, and of a part of a super-block with its own scale */
  WEIR_QK_K = 256, /* elements of a super-block */
  WEIR_K_PARTS = WEIR_QK_K / WEIR_QK
};

typedef struct weir_block_q8_0 {
  uint16_t d;        /* scale, IEEE half */
  int8_t q[WEIR_QK]; /* value = d * q */
} weir_block_q8_0;

typedef struct weir_block_q4_0 {
  uint16_t d;             /* scale, IEEE half */
  uint8_t q[WEIR_QK / 2]; /* low nibble of q[i]: element i; high: element i+16; value = d * (nibble - 8) */
} weir_block_q4_0;

typedef struct weir_block_q5_0 {
  uint16_t d;             /* scale, IEEE half */
  uint8_t high[4];        /* a little-endian word: bit i is bit 4 of element i */
  uint8_t q[WEIR_QK / 2]; /* bits 0..3, nibbles as in Q4_0; value = d * (bits - 16) */
} weir_block_q5_0;

/* Eight parts of 32: value = (d * scale) * bits - (dmin * min), scale and min six bits each. */
typedef struct weir_block_q4_k {
  uint16_t d, dmin;  /* IEEE halves */
  uint8_t scale[12]; /* scales and mins: weir_k_scale */
  uint8_t q[128];    /* q[32p + i]: low nibble element i of part 2p, high nibble of part 2p+1 */
} weir_block_q4_k;

typedef struct weir_block_q5_k {
  uint16_t d, dmin;
  uint8_t scale[12];
  uint8_t high[32]; /* bit b of high[i] is bit 4 of element i of part b */
  uint8_t q[128];   /* bits 0..3 as in Q4_K */
} weir_block_q5_k;

/* Sixteen parts of 16: value = (d * scale) * (bits - 32). Halves h of 128 elements, in them quarters c of 32:
 * element i of quarter c of half h has its low nibble in q[64h + 32(c%2) + i], the low one for c < 2, and its
 * bits 4 and 5 in high[32h + i] from bit 2c. */
typedef struct weir_block_q6_k {
  uint8_t q[128];
  uint8_t high[64];
  int8_t scale[16];
  uint16_t d; /* IEEE half */
} weir_block_q6_k;

enum {
  WEIR_Q8_0_BYTES = sizeof(weir_block_q8_0),
  WEIR_Q4_0_BYTES = sizeof(weir_block_q4_0),
  WEIR_Q5_0_BYTES = sizeof(weir_block_q5_0),
  WEIR_Q4_K_BYTES = sizeof(weir_block_q4_k),
  WEIR_Q5_K_BYTES = sizeof(weir_block_q5_k),
  WEIR_Q6_K_BYTES = sizeof(weir_block_q6_k)
};

static_assert(WEIR_Q8_0_BYTES == 34, "Q8_0 block is 34 bytes in a file");
static_assert(WEIR_Q4_0_BYTES == 18, "Q4_0 block is 18 bytes in a file");
static_assert(WEIR_Q5_0_BYTES == 22, "Q5_0 block is 22 bytes in a file");
static_assert(WEIR_Q4_K_BYTES == 144, "Q4_K block is 144 bytes in a file");
static_assert(WEIR_Q5_K_BYTES == 176, "Q5_K block is 176 bytes in a file");
static_assert(WEIR_Q6_K_BYTES == 210, "Q6_K block is 210 bytes in a file");

/* Scale and min of part p of a Q4_K or Q5_K block. Parts 0..3: the low six bits of s[p] and s[p+4]; parts
 * 4..7: low nibble and high nibble of s[p+4], their upper two bits from the top of s[p-4] and s[p]. */
WEIR_BLOCKS_FN void weir_k_scale(const uint8_t s[12], int32_t p, uint8_t *scale, uint8_t *min) {
  if (p < 4) {
    *scale = s[p] & 63;
    *min = s[p + 4] & 63;
  } else {
    *scale = (uint8_t)((s[p + 4] & 15) | (s[p - 4] >> 6 << 4));
    *min = (uint8_t)((s[p + 4] >> 4) | (s[p] >> 6 << 4));
  }
}

/* The bits of element k of a block, as stored: without the zero point. */
WEIR_BLOCKS_FN int32_t weir_q5_0_bits(const weir_block_q5_0 *b, int32_t k) {
  const int32_t low = b->q[k % (WEIR_QK / 2)] >> k / (WEIR_QK / 2) * 4 & 15;
  return low | (b->high[k / 8] >> k % 8 & 1) << 4;
}

WEIR_BLOCKS_FN int32_t weir_q4_k_bits(const weir_block_q4_k *b, int32_t k) {
  return b->q[k / 64 * 32 + k % 32] >> k / 32 % 2 * 4 & 15;
}

WEIR_BLOCKS_FN int32_t weir_q5_k_bits(const weir_block_q5_k *b, int32_t k) {
  return (b->q[k / 64 * 32 + k % 32] >> k / 32 % 2 * 4 & 15) | (b->high[k % 32] >> k / 32 & 1) << 4;
}

WEIR_BLOCKS_FN int32_t weir_q6_k_bits(const weir_block_q6_k *b, int32_t k) {
  const int32_t half = k / 128, quarter = k / 32 % 4, i = k % 32;
  const int32_t low = b->q[64 * half + 32 * (quarter % 2) + i] >> quarter / 2 * 4 & 15;
  return low | (b->high[32 * half + i] >> 2 * quarter & 3) << 4;
}

#endif
