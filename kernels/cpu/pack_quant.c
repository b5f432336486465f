/* SPDX-License-Identifier: Apache-2.0 */
/* Quantised rows into groups and rows out of them. Packing takes a block of all rows of the group, then the
 * next: bytes move four at a time, a quad of a row, and a unit is written while it lies in the nearest cache,
 * so that a load is bound by memory. What a group is not given, rows beyond the last and the second half of
 * an odd last unit, is zero. Touches nothing but what it is handed; any thread. */
#include "kernels/cpu/pack_quant.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/quant.h"

enum { ROWS = WEIR_PACK_ROWS, QUADS = WEIR_PACK_QUADS };

/* ---- stored rows into a group ---- */

/* Four bytes: a quad of a stored row, or of a lane. */
static uint32_t load4(const uint8_t *at) {
  uint32_t w;
  memcpy(&w, at, sizeof w);
  return w;
}
static void store4(uint8_t *at, uint32_t w) { memcpy(at, &w, sizeof w); }

static void put_half(uint8_t *halves, int32_t lane, const uint8_t *stored) {
  memcpy(halves + 2 * lane, stored, 2);
}

static const uint8_t *block_at(const weir_pack_rows *r, int32_t lane, int32_t block, size_t block_bytes) {
  return r->data + (size_t)lane * r->row_bytes + (size_t)block * block_bytes;
}

/* Asks for as much of the next group as a block of this one's rows takes: so memory is read as one stream,
 * which sixteen rows in turn are not. */
static void ask_ahead(const weir_pack_rows *r, int32_t block, size_t block_bytes) {
  if (!r->more) return;
  const size_t bytes = block_bytes * ROWS;
  const uint8_t *at = r->data + ROWS * r->row_bytes + (size_t)block * bytes;
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
}

/* Zeroes what packing the rows will leave alone. */
static void clear(const weir_pack_rows *r, int32_t cols, int32_t unit_elems, int32_t unit_bytes,
                  uint8_t *group) {
  const size_t units = (size_t)((cols + unit_elems - 1) / unit_elems), bytes = (size_t)unit_bytes;
  if (r->n < ROWS)
    memset(group, 0, units * bytes);
  else if (cols % unit_elems != 0)
    memset(group + (units - 1) * bytes, 0, bytes);
}

static void group_q8_0(const weir_pack_rows *r, int32_t cols, uint8_t *group) {
  clear(r, cols, 2 * WEIR_QK, WEIR_PACK_Q8_0_UNIT, group);
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    uint8_t *unit = group + (size_t)(b / 2) * WEIR_PACK_Q8_0_UNIT, *halves = unit + b % 2 * ROWS * 2;
    uint8_t *quads = unit + WEIR_PACK_SCALES + b % 2 * 8 * QUADS;
    ask_ahead(r, b, WEIR_Q8_0_BYTES);
    for (int32_t lane = 0; lane < r->n; lane++, quads += 4) {
      const uint8_t *in = block_at(r, lane, b, WEIR_Q8_0_BYTES), *q = in + offsetof(weir_block_q8_0, q);
      put_half(halves, lane, in + offsetof(weir_block_q8_0, d));
      for (int32_t j = 0; j < 8; j++) store4(quads + j * QUADS, load4(q + 4 * j) ^ 0x80808080); /* + 128 */
    }
  }
}

static void group_q4_0(const weir_pack_rows *r, int32_t cols, uint8_t *group) {
  clear(r, cols, 2 * WEIR_QK, WEIR_PACK_Q4_0_UNIT, group);
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    uint8_t *unit = group + (size_t)(b / 2) * WEIR_PACK_Q4_0_UNIT, *halves = unit + b % 2 * ROWS * 2;
    uint8_t *quads = unit + WEIR_PACK_SCALES + b % 2 * 4 * QUADS;
    ask_ahead(r, b, WEIR_Q4_0_BYTES);
    for (int32_t lane = 0; lane < r->n; lane++, quads += 4) {
      const uint8_t *in = block_at(r, lane, b, WEIR_Q4_0_BYTES), *q = in + offsetof(weir_block_q4_0, q);
      put_half(halves, lane, in + offsetof(weir_block_q4_0, d));
      for (int32_t j = 0; j < 4; j++) store4(quads + j * QUADS, load4(q + 4 * j)); /* the same two quads */
    }
  }
}

/* Bits i, 4+i, .. 28+i of a word: of element i of eight quads. */
static uint32_t every_fourth(uint32_t bits, int32_t i) {
  bits = bits >> i & 0x11111111;
  bits = (bits | bits >> 3) & 0x03030303;
  bits = (bits | bits >> 6) & 0x000f000f;
  return (bits | bits >> 12) & 0xff;
}

static void group_q5_0(const weir_pack_rows *r, int32_t cols, uint8_t *group) {
  clear(r, cols, 2 * WEIR_QK, WEIR_PACK_Q5_0_UNIT, group);
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    uint8_t *unit = group + (size_t)(b / 2) * WEIR_PACK_Q5_0_UNIT, *halves = unit + b % 2 * ROWS * 2;
    uint8_t *quads = unit + WEIR_PACK_SCALES + b % 2 * 5 * QUADS;
    ask_ahead(r, b, WEIR_Q5_0_BYTES);
    for (int32_t lane = 0; lane < r->n; lane++, quads += 4) {
      const uint8_t *in = block_at(r, lane, b, WEIR_Q5_0_BYTES), *q = in + offsetof(weir_block_q5_0, q);
      const uint32_t high = load4(in + offsetof(weir_block_q5_0, high));
      put_half(halves, lane, in + offsetof(weir_block_q5_0, d));
      store4(quads, every_fourth(high, 0) | every_fourth(high, 1) << 8 | every_fourth(high, 2) << 16 |
                        every_fourth(high, 3) << 24);
      for (int32_t j = 0; j < 4; j++) store4(quads + (1 + j) * QUADS, load4(q + 4 * j));
    }
  }
}

/* Four parts' bytes, one each. */
static void put_parts(uint8_t *at, int32_t lane, uint32_t parts) {
  for (int32_t p = 0; p < 4; p++) at[p * ROWS + lane] = (uint8_t)(parts >> 8 * p);
}

/* Halves, scales and mins of a lane, the same in Q4_K and Q5_K: weir_k_scale for four parts at once. `in` is
 * where d, dmin and the scales are stored. */
static void put_k_scales(uint8_t *unit, int32_t lane, const uint8_t *in) {
  uint8_t *scale = unit + WEIR_PACK_SCALES, *min = scale + WEIR_K_PARTS * ROWS;
  const uint32_t s0 = load4(in + 4), s4 = load4(in + 8), s8 = load4(in + 12);
  put_half(unit, lane, in);
  put_half(unit + ROWS * 2, lane, in + 2);
  put_parts(scale, lane, s0 & 0x3f3f3f3f);
  put_parts(min, lane, s4 & 0x3f3f3f3f);
  put_parts(scale + 4 * ROWS, lane, (s8 & 0x0f0f0f0f) | (s0 >> 2 & 0x30303030));
  put_parts(min + 4 * ROWS, lane, (s8 >> 4 & 0x0f0f0f0f) | (s4 >> 2 & 0x30303030));
}

/* Nibbles of two parts of 32 from 32 bytes that hold the one's low and the other's high. */
static void put_nibbles(const uint8_t *q, uint8_t *low, uint8_t *high) {
  for (int32_t j = 0; j < 4; j++) {
    const uint32_t a = load4(q + 4 * j), b = load4(q + 16 + 4 * j);
    store4(low + j * QUADS, (a & 0x0f0f0f0f) | (b & 0x0f0f0f0f) << 4);
    store4(high + j * QUADS, (a >> 4 & 0x0f0f0f0f) | (b & 0xf0f0f0f0));
  }
}

static_assert(offsetof(weir_block_q4_k, scale) == 4 && offsetof(weir_block_q5_k, scale) == 4,
              "put_k_scales reads d, dmin, scale");

static void group_q4_k(const weir_pack_rows *r, int32_t cols, uint8_t *group) {
  clear(r, cols, WEIR_QK_K, WEIR_PACK_Q4_K_UNIT, group);
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    uint8_t *unit = group + (size_t)s * WEIR_PACK_Q4_K_UNIT;
    ask_ahead(r, s, WEIR_Q4_K_BYTES);
    for (int32_t lane = 0; lane < r->n; lane++) {
      const uint8_t *in = block_at(r, lane, s, WEIR_Q4_K_BYTES), *q = in + offsetof(weir_block_q4_k, q);
      uint8_t *part = unit + WEIR_PACK_K_SCALES + lane * 4;
      put_k_scales(unit, lane, in);
      for (int32_t p = 0; p < WEIR_K_PARTS; p += 2, q += 32, part += 2 * 4 * QUADS)
        put_nibbles(q, part, part + 4 * QUADS);
    }
  }
}

static void group_q5_k(const weir_pack_rows *r, int32_t cols, uint8_t *group) {
  enum { PART = 5 * QUADS };
  clear(r, cols, WEIR_QK_K, WEIR_PACK_Q5_K_UNIT, group);
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    uint8_t *unit = group + (size_t)s * WEIR_PACK_Q5_K_UNIT;
    ask_ahead(r, s, WEIR_Q5_K_BYTES);
    for (int32_t lane = 0; lane < r->n; lane++) {
      const uint8_t *in = block_at(r, lane, s, WEIR_Q5_K_BYTES), *q = in + offsetof(weir_block_q5_k, q);
      const uint8_t *high = in + offsetof(weir_block_q5_k, high);
      uint8_t *part = unit + WEIR_PACK_K_SCALES + lane * 4;
      put_k_scales(unit, lane, in);
      for (int32_t p = 0; p < WEIR_K_PARTS; p++) {
        uint32_t bits = 0;
        for (int32_t j = 0; j < 8; j++) bits |= (load4(high + 4 * j) >> p & 0x01010101) << j;
        store4(part + p * PART, bits);
      }
      for (int32_t p = 0; p < WEIR_K_PARTS; p += 2, q += 32)
        put_nibbles(q, part + p * PART + QUADS, part + (p + 1) * PART + QUADS);
    }
  }
}

static void group_q6_k(const weir_pack_rows *r, int32_t cols, uint8_t *group) {
  enum { PART = 6 * QUADS, SCALES_END = WEIR_PACK_Q6_SCALE + 16 * ROWS };
  clear(r, cols, WEIR_QK_K, WEIR_PACK_Q6_K_UNIT, group);
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    uint8_t *unit = group + (size_t)s * WEIR_PACK_Q6_K_UNIT;
    memset(unit + SCALES_END, 0, WEIR_PACK_Q6_SCALES - SCALES_END);
    ask_ahead(r, s, WEIR_Q6_K_BYTES);
    for (int32_t lane = 0; lane < r->n; lane++) {
      const uint8_t *in = block_at(r, lane, s, WEIR_Q6_K_BYTES);
      const uint8_t *scale = in + offsetof(weir_block_q6_k, scale);
      uint8_t *part = unit + WEIR_PACK_Q6_SCALES + lane * 4;
      put_half(unit, lane, in + offsetof(weir_block_q6_k, d));
      for (int32_t p = 0; p < 16; p++) unit[WEIR_PACK_Q6_SCALE + p * ROWS + lane] = scale[p];
      for (int32_t half = 0; half < 2; half++, part += 4 * PART) {
        const uint8_t *q = in + offsetof(weir_block_q6_k, q) + 64 * half;
        const uint8_t *high = in + offsetof(weir_block_q6_k, high) + 32 * half;
        for (int32_t c = 0; c < 2; c++) /* quarters c and c + 2 share bytes */
          put_nibbles(q + 32 * c, part + c * PART + 2 * QUADS, part + (c + 2) * PART + 2 * QUADS);
        for (int32_t c = 0; c < 4; c++)
          for (int32_t h = 0; h < 2; h++) {
            uint32_t bits = 0;
            for (int32_t j = 0; j < 4; j++)
              bits |= (load4(high + 16 * h + 4 * j) >> 2 * c & 0x03030303) << 2 * j;
            store4(part + c * PART + h * QUADS, bits);
          }
      }
    }
  }
}

/* ---- rows out of a group ---- */

static float half_at(const uint8_t *halves, int32_t lane) {
  uint16_t h;
  memcpy(&h, halves + 2 * lane, sizeof h);
  return weir_f16_to_f32(h);
}

static int32_t get_nibble(const uint8_t *at, int32_t k) {
  return at[k / 4 % 4 * QUADS + k % 4] >> (k < WEIR_QK / 2 ? 0 : 4) & 15;
}

static int32_t get_5bits(const uint8_t *high, int32_t k) {
  return get_nibble(high + QUADS, k) | (high[k % 4] >> k / 4 & 1) << 4;
}

static int32_t get_6bits(const uint8_t *high, int32_t k) {
  return get_nibble(high + 2 * QUADS, k) | (high[k / 16 * QUADS + k % 4] >> k / 4 % 4 * 2 & 3) << 4;
}

static void get_q8_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++, dst += WEIR_QK) {
    const uint8_t *unit = group + (size_t)(b / 2) * WEIR_PACK_Q8_0_UNIT;
    const uint8_t *q = unit + WEIR_PACK_SCALES + b % 2 * 8 * QUADS + lane * 4;
    const float d = half_at(unit + b % 2 * ROWS * 2, lane);
    for (int32_t k = 0; k < WEIR_QK; k++) dst[k] = d * (float)(q[k / 4 * QUADS + k % 4] - 128);
  }
}

static void get_q4_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++, dst += WEIR_QK) {
    const uint8_t *unit = group + (size_t)(b / 2) * WEIR_PACK_Q4_0_UNIT;
    const uint8_t *q = unit + WEIR_PACK_SCALES + b % 2 * 4 * QUADS + lane * 4;
    const float d = half_at(unit + b % 2 * ROWS * 2, lane);
    for (int32_t k = 0; k < WEIR_QK; k++) dst[k] = d * (float)(get_nibble(q, k) - 8);
  }
}

static void get_q5_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++, dst += WEIR_QK) {
    const uint8_t *unit = group + (size_t)(b / 2) * WEIR_PACK_Q5_0_UNIT;
    const uint8_t *high = unit + WEIR_PACK_SCALES + b % 2 * 5 * QUADS + lane * 4;
    const float d = half_at(unit + b % 2 * ROWS * 2, lane);
    for (int32_t k = 0; k < WEIR_QK; k++) dst[k] = d * (float)(get_5bits(high, k) - 16);
  }
}

/* Q4_K and Q5_K: `bits` reads element k of the block at `quads`, blocks are block_bytes apart. */
static void get_k(const uint8_t *unit, int32_t lane, int32_t block_bytes,
                  int32_t (*bits)(const uint8_t *at, int32_t k), float *dst) {
  const float d = half_at(unit, lane), dmin = half_at(unit + ROWS * 2, lane);
  const uint8_t *scale = unit + WEIR_PACK_SCALES + lane, *at = unit + WEIR_PACK_K_SCALES + lane * 4;
  for (int32_t p = 0; p < WEIR_K_PARTS; p++, at += block_bytes) {
    const float step = d * (float)scale[p * ROWS], low = dmin * (float)scale[(WEIR_K_PARTS + p) * ROWS];
    for (int32_t k = 0; k < WEIR_QK; k++) *dst++ = step * (float)bits(at, k) - low;
  }
}

static void get_q4_k(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++)
    get_k(group + (size_t)s * WEIR_PACK_Q4_K_UNIT, lane, 4 * QUADS, get_nibble, dst + s * WEIR_QK_K);
}

static void get_q5_k(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++)
    get_k(group + (size_t)s * WEIR_PACK_Q5_K_UNIT, lane, 5 * QUADS, get_5bits, dst + s * WEIR_QK_K);
}

static void get_q6_k(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    const uint8_t *unit = group + (size_t)s * WEIR_PACK_Q6_K_UNIT;
    const int8_t *scale = (const int8_t *)unit + WEIR_PACK_Q6_SCALE + lane;
    const uint8_t *high = unit + WEIR_PACK_Q6_SCALES + lane * 4;
    const float d = half_at(unit, lane);
    for (int32_t k = 0; k < WEIR_QK_K; k++)
      *dst++ = d * (float)scale[k / 16 * ROWS] *
               (float)(get_6bits(high + k / WEIR_QK * 6 * QUADS, k % WEIR_QK) - 32);
  }
}

/* ---- by type ---- */

static const struct {
  weir_pack_group_fn group;
  weir_pack_get_fn get;
} types[WEIR_DTYPE_COUNT] = {
    [WEIR_Q8_0] = {group_q8_0, get_q8_0}, [WEIR_Q4_0] = {group_q4_0, get_q4_0},
    [WEIR_Q5_0] = {group_q5_0, get_q5_0}, [WEIR_Q4_K] = {group_q4_k, get_q4_k},
    [WEIR_Q5_K] = {group_q5_k, get_q5_k}, [WEIR_Q6_K] = {group_q6_k, get_q6_k},
};

weir_pack_group_fn weir_pack_quant_group(weir_dtype t) { return types[t].group; }
weir_pack_get_fn weir_pack_quant_get(weir_dtype t) { return types[t].get; }
