/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic with AVX2, FMA and F16C. Pure functions of their arguments; any thread; compiled
 * for that instruction set and only called where cpu.c found it.
 *
 * Sixteen registers hold four rows of x by the two halves of a group of weights. Integer sums go through 16
 * bits and must not saturate there: Q8_0 multiplies |w| <= 128 with sign(w) x, at most 2 * 128 * 127 = 32512
 * a pair; Q4_0's nibbles leave room for a whole block, 16 * 15 * 127 = 30480 a lane. */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/linear.h"

enum { LANES = WEIR_PACK_ROWS, BLOCK = 32, SUB = 4 };

#define INLINE static inline __attribute__((always_inline))

static uint32_t max_of(__m256i v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return (uint32_t)_mm_cvtsi128_si32(m);
}

static int32_t sum_of(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

/* 32 integers of -127 .. 127 as bytes, in order. */
static __m256i bytes_of(const __m256i v[4]) {
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static void quantize_row(const float *x, int32_t n_blocks, uint8_t *panel, int32_t m, int32_t i) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (int32_t b = 0; b < n_blocks; b++, x += BLOCK) {
    __m256i top = _mm256_setzero_si256();
    for (int32_t k = 0; k < BLOCK; k += 8)
      top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + k)), magnitude));
    const uint32_t most = max_of(top);
    float a, d = 0.0f;
    memcpy(&a, &most, sizeof a);
    __m256i q = _mm256_setzero_si256();
    int32_t sum = 0;
    if (most >= 0x7f800000u) {
      d = __builtin_nanf("");
    } else if (most >= WEIR_TINY_BITS) {
      d = a / 127.0f;
      const __m256 inverse = _mm256_set1_ps(127.0f / a);
      __m256i v[4], total = _mm256_setzero_si256();
      for (int32_t k = 0; k < 4; k++) {
        v[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * k), inverse));
        total = _mm256_add_epi32(total, v[k]);
      }
      sum = sum_of(total);
      q = bytes_of(v);
    }
    uint8_t *at = weir_panel_put(panel, m, b, i, d, sum);
    _mm256_storeu_si256((__m256i *)at, q);
  }
}

INLINE __m256i broadcast4(const uint8_t *p) {
  int32_t v;
  memcpy(&v, p, sizeof v);
  return _mm256_set1_epi32(v);
}

INLINE float float_at(const uint8_t *p) {
  float v;
  memcpy(&v, p, sizeof v);
  return v;
}

INLINE __m256i load(const uint8_t *p) { return _mm256_load_si256((const __m256i *)p); }
INLINE __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)p)); }

/* dot[i][h] of one block: rows of x at xq, 32 bytes apart; q the block's quants. */
INLINE void dot_q8_0(__m256i dot[SUB][2], const uint8_t *q, const uint8_t *xq, const int n) {
  const __m256i flip = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
  for (int i = 0; i < n; i++) dot[i][0] = dot[i][1] = _mm256_setzero_si256();
  for (int k = 0; k < 8; k++) {
    for (int h = 0; h < 2; h++) {
      const __m256i w = _mm256_xor_si256(load(q + k * 64 + h * 32), flip); /* minus 128 */
      const __m256i w_abs = _mm256_abs_epi8(w);
      for (int i = 0; i < n; i++) {
        const __m256i x = _mm256_sign_epi8(broadcast4(xq + i * BLOCK + 4 * k), w);
        dot[i][h] = _mm256_add_epi32(dot[i][h], _mm256_madd_epi16(_mm256_maddubs_epi16(w_abs, x), ones));
      }
    }
  }
}

INLINE void dot_q4_0(__m256i dot[SUB][2], const uint8_t *q, const uint8_t *xq, const uint8_t *z4,
                     const int n) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int i = 0; i < n; i++) dot[i][0] = dot[i][1] = _mm256_setzero_si256();
  for (int k = 0; k < 4; k++) {
    for (int h = 0; h < 2; h++) {
      const __m256i both = load(q + k * 64 + h * 32);
      const __m256i lo = _mm256_and_si256(both, low), hi = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
      for (int i = 0; i < n; i++) {
        const __m256i a = _mm256_maddubs_epi16(lo, broadcast4(xq + i * BLOCK + 4 * k));
        const __m256i b = _mm256_maddubs_epi16(hi, broadcast4(xq + i * BLOCK + 16 + 4 * k));
        dot[i][h] = _mm256_add_epi16(dot[i][h], _mm256_add_epi16(a, b));
      }
    }
  }
  for (int i = 0; i < n; i++) {
    const __m256i z = broadcast4(z4 + 4 * i);
    for (int h = 0; h < 2; h++) dot[i][h] = _mm256_add_epi32(_mm256_madd_epi16(dot[i][h], ones), z);
  }
}

/* Rows i0 .. i0+n of the tile against group j. */
INLINE void quant(const weir_tile *t, const weir_dtype type, int32_t j, int32_t i0, const int n) {
  const int32_t m = t->m, block_bytes = (type == WEIR_Q8_0 ? BLOCK : BLOCK / 2) * LANES;
  const uint8_t *w = t->w + (size_t)j * t->group_bytes, *x = t->panel;
  __m256 acc[SUB][2];
  for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  for (int32_t p = 0; p < t->depth; p++, w += WEIR_PACK_SCALES + 2 * block_bytes) {
    for (int half = 0; half < 2; half++, x += m * WEIR_PANEL_BLOCK) {
      const uint8_t *q = w + WEIR_PACK_SCALES + half * block_bytes, *xq = x + 12 * m + BLOCK * i0;
      __m256i dot[SUB][2];
      if (type == WEIR_Q8_0)
        dot_q8_0(dot, q, xq, n);
      else
        dot_q4_0(dot, q, xq, x + 4 * (2 * m + i0), n);
      for (int h = 0; h < 2; h++) {
        const __m256 dw = halves(w + half * LANES * 2 + h * 16);
        for (int i = 0; i < n; i++) {
          const __m256 d = _mm256_mul_ps(dw, _mm256_set1_ps(float_at(x + 4 * (i0 + i))));
          acc[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i][h]), d, acc[i][h]);
        }
      }
    }
  }
  for (int i = 0; i < n; i++)
    for (int h = 0; h < 2; h++)
      _mm256_store_ps(t->acc + ((i0 + i) * t->n_groups + j) * LANES + h * 8, acc[i][h]);
}

INLINE __m256 lanes(const uint8_t *w, const weir_dtype type, const int h) {
  if (type == WEIR_F32) return _mm256_load_ps((const float *)(const void *)(w + h * 32));
  const __m128i v = _mm_load_si128((const __m128i *)(w + h * 16));
  if (type == WEIR_F16) return _mm256_cvtph_ps(v);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

INLINE void floats(const weir_tile *t, const weir_dtype type, int32_t j, int32_t i0, const int n) {
  const uint8_t *w = t->w + (size_t)j * t->group_bytes;
  const float *x = (const float *)t->panel + i0;
  const size_t step = LANES * (type == WEIR_F32 ? 4 : 2);
  __m256 acc[SUB][2];
  for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  for (int32_t k = 0; k < t->depth; k++, w += step, x += t->m) {
    for (int h = 0; h < 2; h++) {
      const __m256 wv = lanes(w, type, h);
      for (int i = 0; i < n; i++) acc[i][h] = _mm256_fmadd_ps(wv, _mm256_set1_ps(x[i]), acc[i][h]);
    }
  }
  for (int i = 0; i < n; i++)
    for (int h = 0; h < 2; h++)
      _mm256_store_ps(t->acc + ((i0 + i) * t->n_groups + j) * LANES + h * 8, acc[i][h]);
}

INLINE void sub_tile(const weir_tile *t, const weir_dtype type, int32_t j, int32_t i0, const int n) {
  if (type == WEIR_Q8_0 || type == WEIR_Q4_0)
    quant(t, type, j, i0, n);
  else
    floats(t, type, j, i0, n);
}

INLINE void tile(const weir_tile *t, const weir_dtype type) {
  for (int32_t j = 0; j < t->n_groups; j++) {
    for (int32_t i = 0; i < t->m; i += SUB) {
      switch (t->m - i) {
        case 1: sub_tile(t, type, j, i, 1); break;
        case 2: sub_tile(t, type, j, i, 2); break;
        case 3: sub_tile(t, type, j, i, 3); break;
        default: sub_tile(t, type, j, i, SUB); break;
      }
    }
  }
}

static void tile_f32(const weir_tile *t) { tile(t, WEIR_F32); }
static void tile_f16(const weir_tile *t) { tile(t, WEIR_F16); }
static void tile_bf16(const weir_tile *t) { tile(t, WEIR_BF16); }
static void tile_q8_0(const weir_tile *t) { tile(t, WEIR_Q8_0); }
static void tile_q4_0(const weir_tile *t) { tile(t, WEIR_Q4_0); }

const weir_linear_isa weir_linear_avx2 = {
    .quantize_row = quantize_row,
    .tile = {[WEIR_F32] = tile_f32,
             [WEIR_F16] = tile_f16,
             [WEIR_BF16] = tile_bf16,
             [WEIR_Q8_0] = tile_q8_0,
             [WEIR_Q4_0] = tile_q4_0},
    .groups_one = {1, 1, 1, 1, 1},
    .groups_many = {1, 1, 1, 1, 1},
};
