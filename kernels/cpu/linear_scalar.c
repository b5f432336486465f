/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic in plain C: what the other instruction sets must equal to the bit. Pure functions
 * of their arguments; any thread. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/cpu/linear.h"
#include "kernels/quant.h"

enum { LANES = WEIR_PACK_ROWS, QUADS = WEIR_PACK_QUADS, BLOCK = 32 };

static void quantize_row(const float *x, int32_t n_blocks, const weir_panel_form *f, uint8_t *panel,
                         int32_t m, int32_t i) {
  for (int32_t b = 0; b < n_blocks; b++, x += BLOCK) {
    uint32_t most = 0; /* of the magnitudes' bits, which order as the magnitudes do, with NaN above all */
    for (int32_t k = 0; k < BLOCK; k++) {
      uint32_t u;
      memcpy(&u, &x[k], sizeof u);
      u &= 0x7fffffffu;
      if (u > most) most = u;
    }
    float a, d = 0.0f, inverse = 0.0f;
    memcpy(&a, &most, sizeof a);
    if (most >= 0x7f800000u) {
      d = NAN;
    } else if (most >= WEIR_TINY_BITS) {
      d = a / 127.0f;
      inverse = 127.0f / a;
    }
    int8_t q[BLOCK] = {0};
    int32_t sum[2] = {0, 0};
    if (inverse != 0.0f) {
      for (int32_t k = 0; k < BLOCK; k++) {
        q[k] = (int8_t)nearbyintf(x[k] * inverse);
        sum[k / (BLOCK / 2)] += q[k];
      }
    }
    memcpy(weir_panel_put(f, panel, m, b, i, d, sum[0], sum[1]), q, BLOCK);
  }
}

/* What a block of the panel holds for one row. */
typedef struct x_block {
  float d;
  int8_t q[BLOCK];
  int32_t zero[2]; /* the integer fields of the type */
  float nsum;      /* its float field */
} x_block;

static x_block panel_get(const weir_tile *t, int32_t b, int32_t i) {
  const uint8_t *block = (const uint8_t *)t->panel + (size_t)b * (size_t)t->block_bytes;
  x_block x = {0};
  memcpy(x.q, block + BLOCK * i, BLOCK);
  memcpy(&x.d, block + BLOCK * t->m + 4 * i, 4);
  memcpy(&x.zero[0], block + t->field_at + 4 * i, 4);
  memcpy(&x.nsum, &x.zero[0], 4);
  return x;
}

/* Of types with two integer fields. */
static void panel_get_second(const weir_tile *t, int32_t b, int32_t i, x_block *x) {
  const uint8_t *block = (const uint8_t *)t->panel + (size_t)b * (size_t)t->block_bytes;
  memcpy(&x->zero[1], block + t->field_at + 4 * (t->m + i), 4);
}

static float half_at(const uint8_t *halves, int32_t r) {
  uint16_t h;
  memcpy(&h, halves + 2 * r, sizeof h);
  return weir_f16_to_f32(h);
}

/* Element k of row r of a block, as packed (pack.h). */
typedef int32_t (*bits_fn)(const uint8_t *quads, int32_t r, int32_t k);

static int32_t bits8(const uint8_t *quads, int32_t r, int32_t k) {
  return quads[k / 4 * QUADS + r * 4 + k % 4];
}

static int32_t bits4(const uint8_t *quads, int32_t r, int32_t k) {
  return bits8(quads, r, k % 16) >> k / 16 * 4 & 15;
}

static int32_t bits5(const uint8_t *quads, int32_t r, int32_t k) {
  return bits4(quads + QUADS, r, k) | (quads[r * 4 + k % 4] >> k / 4 & 1) << 4;
}

static int32_t bits6(const uint8_t *quads, int32_t r, int32_t k) {
  const int32_t high = quads[k / 16 * QUADS + r * 4 + k % 4] >> k / 4 % 4 * 2 & 3;
  return bits4(quads + 2 * QUADS, r, k) | high << 4;
}

static int32_t dot(bits_fn bits, const uint8_t *quads, int32_t r, const x_block *x, int32_t from,
                   int32_t to) {
  int32_t sum = 0;
  for (int32_t k = from; k < to; k++) sum += bits(quads, r, k) * x->q[k];
  return sum;
}

/* Block b of a group with blocks of 32 in pairs. */
static void pairs(const uint8_t *group, int32_t b, bits_fn bits, int32_t n_quads, const x_block *x,
                  float *acc) {
  const uint8_t *unit = group + (size_t)(b / 2) * (size_t)(WEIR_PACK_SCALES + 2 * n_quads * QUADS);
  const uint8_t *quads = unit + WEIR_PACK_SCALES + b % 2 * n_quads * QUADS;
  for (int32_t r = 0; r < LANES; r++) {
    const float d = half_at(unit + b % 2 * LANES * 2, r);
    acc[r] = fmaf((float)(dot(bits, quads, r, x, 0, BLOCK) + x->zero[0]), d * x->d, acc[r]);
  }
}

/* ... of a group with scales and mins in super-blocks. */
static void supers(const uint8_t *group, int32_t b, bits_fn bits, int32_t n_quads, const x_block *x,
                   float *acc) {
  const uint8_t *unit = group + (size_t)(b / 8) * (size_t)(WEIR_PACK_K_SCALES + 8 * n_quads * QUADS);
  const uint8_t *quads = unit + WEIR_PACK_K_SCALES + b % 8 * n_quads * QUADS;
  const uint8_t *scale = unit + WEIR_PACK_SCALES + b % 8 * LANES, *min = scale + 8 * LANES;
  for (int32_t r = 0; r < LANES; r++) {
    const float d = half_at(unit, r), dmin = half_at(unit + LANES * 2, r);
    const float t = (float)dot(bits, quads, r, x, 0, BLOCK) * (d * (float)scale[r]);
    acc[r] = fmaf(fmaf(dmin * (float)min[r], x->nsum, t), x->d, acc[r]);
  }
}

static void q8_0(const uint8_t *group, int32_t b, const x_block *x, float *acc) {
  pairs(group, b, bits8, 8, x, acc);
}
static void q4_0(const uint8_t *group, int32_t b, const x_block *x, float *acc) {
  pairs(group, b, bits4, 4, x, acc);
}
static void q5_0(const uint8_t *group, int32_t b, const x_block *x, float *acc) {
  pairs(group, b, bits5, 5, x, acc);
}
static void q4_k(const uint8_t *group, int32_t b, const x_block *x, float *acc) {
  supers(group, b, bits4, 4, x, acc);
}
static void q5_k(const uint8_t *group, int32_t b, const x_block *x, float *acc) {
  supers(group, b, bits5, 5, x, acc);
}

static void q6_k(const uint8_t *group, int32_t b, const x_block *x, float *acc) {
  const uint8_t *unit = group + (size_t)(b / 8) * (WEIR_PACK_Q6_SCALES + 8 * 6 * QUADS);
  const uint8_t *quads = unit + WEIR_PACK_Q6_SCALES + b % 8 * 6 * QUADS;
  const int8_t *scale = (const int8_t *)unit + WEIR_PACK_Q6_SCALE + b % 8 * 2 * LANES;
  for (int32_t r = 0; r < LANES; r++) {
    const float d = half_at(unit, r);
    const float t = (float)(dot(bits6, quads, r, x, 0, 16) + x->zero[0]) * (d * (float)scale[r]);
    const int32_t high = dot(bits6, quads, r, x, 16, BLOCK) + x->zero[1];
    acc[r] = fmaf(fmaf((float)high, d * (float)scale[LANES + r], t), x->d, acc[r]);
  }
}

/* n_blocks in a unit. */
static void tile_quant(const weir_tile *t, int32_t n_blocks, bool second,
                       void (*block)(const uint8_t *group, int32_t b, const x_block *x, float *acc)) {
  memset(t->acc, 0, (size_t)t->m * (size_t)t->n_groups * LANES * sizeof *t->acc);
  for (int32_t b = 0; b < n_blocks * t->depth; b++) {
    for (int32_t i = 0; i < t->m; i++) {
      x_block x = panel_get(t, b, i);
      if (second) panel_get_second(t, b, i, &x);
      for (int32_t g = 0; g < t->n_groups; g++)
        block(t->w + (size_t)g * t->group_bytes, b, &x, t->acc + (i * t->n_groups + g) * LANES);
    }
  }
}

static void tile_q8_0(const weir_tile *t) { tile_quant(t, 2, false, q8_0); }
static void tile_q4_0(const weir_tile *t) { tile_quant(t, 2, false, q4_0); }
static void tile_q5_0(const weir_tile *t) { tile_quant(t, 2, false, q5_0); }
static void tile_q4_k(const weir_tile *t) { tile_quant(t, 8, false, q4_k); }
static void tile_q5_k(const weir_tile *t) { tile_quant(t, 8, false, q5_k); }
static void tile_q6_k(const weir_tile *t) { tile_quant(t, 8, true, q6_k); }

static void lanes_f32(const uint8_t *group, int32_t k, float w[LANES]) {
  memcpy(w, group + (size_t)k * LANES * sizeof *w, LANES * sizeof *w);
}

static void lanes_16(const uint8_t *group, int32_t k, uint16_t h[LANES]) {
  for (int32_t r = 0; r < LANES; r++) memcpy(&h[r], group + weir_pack_at16(k, r), sizeof h[r]);
}

static void lanes_f16(const uint8_t *group, int32_t k, float w[LANES]) {
  uint16_t h[LANES];
  lanes_16(group, k, h);
  for (int32_t r = 0; r < LANES; r++) w[r] = weir_f16_to_f32(h[r]);
}

static void lanes_bf16(const uint8_t *group, int32_t k, float w[LANES]) {
  uint16_t h[LANES];
  lanes_16(group, k, h);
  for (int32_t r = 0; r < LANES; r++) w[r] = weir_bf16_to_f32(h[r]);
}

static void tile_float(const weir_tile *t, void (*lanes)(const uint8_t *group, int32_t k, float w[LANES])) {
  const float *x = t->panel;
  memset(t->acc, 0, (size_t)t->m * (size_t)t->n_groups * LANES * sizeof *t->acc);
  for (int32_t k = 0; k < t->depth; k++) {
    for (int32_t g = 0; g < t->n_groups; g++) {
      float w[LANES];
      lanes(t->w + (size_t)g * t->group_bytes, k, w);
      for (int32_t i = 0; i < t->m; i++) {
        float *acc = t->acc + (i * t->n_groups + g) * LANES;
        for (int32_t r = 0; r < LANES; r++)
          acc[r] = fmaf(w[r], x[(size_t)k * (size_t)t->m + (size_t)i], acc[r]);
      }
    }
  }
}

static void tile_f32(const weir_tile *t) { tile_float(t, lanes_f32); }
static void tile_f16(const weir_tile *t) { tile_float(t, lanes_f16); }
static void tile_bf16(const weir_tile *t) { tile_float(t, lanes_bf16); }

const weir_linear_isa weir_linear_scalar = {
    .quantize_row = quantize_row,
    .tile = {[WEIR_F32] = tile_f32,
             [WEIR_F16] = tile_f16,
             [WEIR_BF16] = tile_bf16,
             [WEIR_Q8_0] = tile_q8_0,
             [WEIR_Q4_0] = tile_q4_0,
             [WEIR_Q5_0] = tile_q5_0,
             [WEIR_Q4_K] = tile_q4_k,
             [WEIR_Q5_K] = tile_q5_k,
             [WEIR_Q6_K] = tile_q6_k},
    .groups_one = 1,
    .groups_many = 1,
};
