/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the linear with AVX-512 share: reading packed weights. Included by those alone, which are
 * compiled for that instruction set. */
#ifndef WEIR_KERNELS_CPU_LINEAR_AVX512_H
#define WEIR_KERNELS_CPU_LINEAR_AVX512_H
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/unroll.h"

enum { LANES = WEIR_PACK_ROWS, QUADS = WEIR_PACK_QUADS, BLOCK = 32 };

INLINE __m512i broadcast4(const uint8_t *p) {
  int32_t v;
  memcpy(&v, p, sizeof v);
  return _mm512_set1_epi32(v);
}

INLINE float float_at(const uint8_t *p) {
  float v;
  memcpy(&v, p, sizeof v);
  return v;
}

INLINE __m512 halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

INLINE __m512 bytes_unsigned(const uint8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)p)));
}
INLINE __m512 bytes_signed(const uint8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(const void *)p)));
}
INLINE __m512 every(const uint8_t *p) { return _mm512_set1_ps(float_at(p)); }

/* What a type's blocks are made of; with `type` known to the compiler all of it folds away. */
INLINE int n_bits(const weir_dtype type) {
  return type == WEIR_Q8_0 ? 8 : type == WEIR_Q6_K ? 6 : type == WEIR_Q5_0 || type == WEIR_Q5_K ? 5 : 4;
}
INLINE bool has_mins(const weir_dtype type) { return type == WEIR_Q4_K || type == WEIR_Q5_K; }
INLINE bool is_super(const weir_dtype type) { return has_mins(type) || type == WEIR_Q6_K; }

INLINE __m512i shift_left(const __m512i v, const int by) {
  switch (by) {
    case 4: return _mm512_slli_epi16(v, 4);
    case 3: return _mm512_slli_epi16(v, 3);
    case 2: return _mm512_slli_epi16(v, 2);
    case 1: return _mm512_slli_epi16(v, 1);
    case 0: return v;
    case -1: return _mm512_srli_epi16(v, 1);
    case -2: return _mm512_srli_epi16(v, 2);
    default: return _mm512_srli_epi16(v, 3);
  }
}

/* Quad k + 4*high of a block, k < 4, of all rows, unsigned, as bytes. */
INLINE __m512i quad(const weir_dtype type, const uint8_t *q, const int k, const int high) {
  const int bits = n_bits(type);
  if (bits == 8) return _mm512_load_si512(q + (k + 4 * high) * QUADS);
  const int above = bits - 4; /* vectors before the nibbles */
  __m512i v = _mm512_load_si512(q + (above + k) * QUADS);
  if (high) v = _mm512_srli_epi16(v, 4);
  v = _mm512_and_si512(v, _mm512_set1_epi8(15));
  enum { A_OR_B_AND_C = 0xf8 };
  if (bits == 5) {
    const __m512i top = shift_left(_mm512_load_si512(q), high ? -k : 4 - k);
    v = _mm512_ternarylogic_epi32(v, top, _mm512_set1_epi8(0x10), A_OR_B_AND_C);
  } else if (bits == 6) {
    const __m512i top = shift_left(_mm512_load_si512(q + high * QUADS), 4 - 2 * k);
    v = _mm512_ternarylogic_epi32(v, top, _mm512_set1_epi8(0x30), A_OR_B_AND_C);
  }
  return v;
}

/* What an expanded block has before its bytes, for block b of the unit: the scale alone; Q4_K and Q5_K scale
 * and min; Q6_K the scales of its halves. */
INLINE void put_scales(const weir_dtype type, const uint8_t *unit, const int32_t b, uint8_t *out) {
  if (type == WEIR_Q6_K) {
    const uint8_t *scale = unit + WEIR_PACK_Q6_SCALE + b * 2 * LANES;
    _mm512_store_ps(out, _mm512_mul_ps(halves(unit), bytes_signed(scale)));
    _mm512_store_ps(out + 4 * LANES, _mm512_mul_ps(halves(unit), bytes_signed(scale + LANES)));
  } else if (has_mins(type)) {
    const uint8_t *scale = unit + WEIR_PACK_SCALES + b * LANES;
    const __m512 low = _mm512_mul_ps(halves(unit + LANES * 2), bytes_unsigned(scale + 8 * LANES));
    _mm512_store_ps(out, _mm512_mul_ps(halves(unit), bytes_unsigned(scale)));
    _mm512_store_ps(out + 4 * LANES, low);
  } else {
    _mm512_store_ps(out, halves(unit + b * LANES * 2));
  }
}

#endif
