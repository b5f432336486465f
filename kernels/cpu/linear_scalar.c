/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic in plain C: what the other instruction sets must equal to the bit. Pure functions
 * of their arguments; any thread. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/linear.h"
#include "kernels/quant.h"

enum { LANES = WEIR_PACK_ROWS, BLOCK = 32 };

static void quantize_row(const float *x, int32_t n_blocks, uint8_t *panel, int32_t m, int32_t i) {
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
    int32_t sum = 0;
    if (inverse != 0.0f) {
      for (int32_t k = 0; k < BLOCK; k++) {
        q[k] = (int8_t)nearbyintf(x[k] * inverse);
        sum += q[k];
      }
    }
    memcpy(weir_panel_put(panel, m, b, i, d, sum), q, BLOCK);
  }
}

/* What a block of the panel holds for row i of m. */
typedef struct x_block {
  float d;
  int32_t z8, z4;
  int8_t q[BLOCK];
} x_block;

static x_block panel_get(const uint8_t *at, int32_t m, int32_t i) {
  x_block x;
  memcpy(&x.d, at + 4 * i, 4);
  memcpy(&x.z8, at + 4 * (m + i), 4);
  memcpy(&x.z4, at + 4 * (2 * m + i), 4);
  memcpy(x.q, at + 12 * m + BLOCK * i, BLOCK);
  return x;
}

static void add_block(float *acc, const uint8_t *scales, const int32_t dot[LANES], float dx) {
  for (int32_t r = 0; r < LANES; r++) {
    uint16_t h;
    memcpy(&h, scales + 2 * r, sizeof h);
    acc[r] = fmaf((float)dot[r], weir_f16_to_f32(h) * dx, acc[r]);
  }
}

static void q8_0_block(const uint8_t *pair, int32_t half, const x_block *x, float *acc) {
  const uint8_t *q = pair + WEIR_PACK_SCALES + half * BLOCK * LANES;
  int32_t dot[LANES];
  for (int32_t r = 0; r < LANES; r++) {
    dot[r] = x->z8;
    for (int32_t k = 0; k < BLOCK; k++) dot[r] += q[k / 4 * 64 + r * 4 + k % 4] * x->q[k];
  }
  add_block(acc, pair + half * LANES * 2, dot, x->d);
}

static void q4_0_block(const uint8_t *pair, int32_t half, const x_block *x, float *acc) {
  const uint8_t *q = pair + WEIR_PACK_SCALES + half * BLOCK / 2 * LANES;
  int32_t dot[LANES];
  for (int32_t r = 0; r < LANES; r++) {
    dot[r] = x->z4;
    for (int32_t k = 0; k < BLOCK / 2; k++) {
      const int32_t two = q[k / 4 * 64 + r * 4 + k % 4];
      dot[r] += (two & 15) * x->q[k] + (two >> 4) * x->q[BLOCK / 2 + k];
    }
  }
  add_block(acc, pair + half * LANES * 2, dot, x->d);
}

static void tile_quant(const weir_tile *t, int32_t pair_bytes,
                       void (*block)(const uint8_t *pair, int32_t half, const x_block *x, float *acc)) {
  memset(t->acc, 0, (size_t)t->m * (size_t)t->n_groups * LANES * sizeof *t->acc);
  for (int32_t b = 0; b < 2 * t->depth; b++) {
    const uint8_t *at = (const uint8_t *)t->panel + (size_t)b * (size_t)t->m * WEIR_PANEL_BLOCK;
    for (int32_t i = 0; i < t->m; i++) {
      const x_block x = panel_get(at, t->m, i);
      for (int32_t g = 0; g < t->n_groups; g++)
        block(t->w + (size_t)g * t->group_bytes + (size_t)(b / 2) * (size_t)pair_bytes, b % 2, &x,
              t->acc + (i * t->n_groups + g) * LANES);
    }
  }
}

static void tile_q8_0(const weir_tile *t) { tile_quant(t, WEIR_PACK_Q8_PAIR, q8_0_block); }
static void tile_q4_0(const weir_tile *t) { tile_quant(t, WEIR_PACK_Q4_PAIR, q4_0_block); }

static void lanes_f32(const uint8_t *group, int32_t k, float w[LANES]) {
  memcpy(w, group + (size_t)k * LANES * sizeof *w, LANES * sizeof *w);
}

static void lanes_f16(const uint8_t *group, int32_t k, float w[LANES]) {
  uint16_t h[LANES];
  memcpy(h, group + (size_t)k * sizeof h, sizeof h);
  for (int32_t r = 0; r < LANES; r++) w[r] = weir_f16_to_f32(h[r]);
}

static void lanes_bf16(const uint8_t *group, int32_t k, float w[LANES]) {
  uint16_t h[LANES];
  memcpy(h, group + (size_t)k * sizeof h, sizeof h);
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
             [WEIR_Q4_0] = tile_q4_0},
    .groups_one = {1, 1, 1, 1, 1},
    .groups_many = {1, 1, 1, 1, 1},
};
