/* SPDX-License-Identifier: Apache-2.0 */
/* The vector vocabulary with 16 lanes: AVX-512 F, BW, DQ, VL. Meanings stand in vec_scalar.h. */
#ifndef WEIR_KERNELS_CPU_VEC_AVX512_H
#define WEIR_KERNELS_CPU_VEC_AVX512_H
#include <immintrin.h>

#include "kernels/noise.h"

enum { VF_LANES = 16 };
typedef __m512 vf;

static inline __mmask16 vf_first(int n) { return (__mmask16)((1u << n) - 1u); } /* n in 0..16 */
static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline vf vf_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(vf_first(n), p); }
static inline void vf_store_n(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, vf_first(n), x); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_pow2_magic(vf x) {
  const __m512i u = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(u, 23));
}
static inline vf vf_zero_below(vf v, vf x, float lim) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(lim), _CMP_NLT_UQ), v);
}
static inline vf vf_fill_from(vf v, int n, float fill) {
  return _mm512_mask_mov_ps(_mm512_set1_ps(fill), vf_first(n), v);
}
static inline __m256 vf_high(vf a) { return _mm512_extractf32x8_ps(a, 1); }
static inline float vf_hsum(vf a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), vf_high(a));
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float vf_hmax(vf a) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), vf_high(a));
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
/* Halving by halves, each step packing two vectors into one: 15 additions and 30 shuffles for 16 sums. */
static inline vf vf_hsum_each(const vf a[VF_LANES]) {
  vf b[8], c[4], d[2];
  for (int i = 0; i < 8; i++) {
    const int j = i < 4 ? i : i + 4; /* low half: a[j], high half: a[j+4]; lanes k and k+8 added */
    b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[j], a[j + 4], _MM_SHUFFLE(1, 0, 1, 0)),
                         _mm512_shuffle_f32x4(a[j], a[j + 4], _MM_SHUFFLE(3, 2, 3, 2)));
  }
  for (int i = 0; i < 4; i++) /* quarters: a[i], a[i+4], a[i+8], a[i+12] */
    c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[i], b[i + 4], _MM_SHUFFLE(2, 0, 2, 0)),
                         _mm512_shuffle_f32x4(b[i], b[i + 4], _MM_SHUFFLE(3, 1, 3, 1)));
  for (int i = 0; i < 2; i++)
    d[i] = _mm512_add_ps(_mm512_shuffle_ps(c[2 * i], c[2 * i + 1], _MM_SHUFFLE(1, 0, 1, 0)),
                         _mm512_shuffle_ps(c[2 * i], c[2 * i + 1], _MM_SHUFFLE(3, 2, 3, 2)));
  return _mm512_add_ps(_mm512_shuffle_ps(d[0], d[1], _MM_SHUFFLE(2, 0, 2, 0)),
                       _mm512_shuffle_ps(d[0], d[1], _MM_SHUFFLE(3, 1, 3, 1)));
}
static inline uint32_t vf_eq_bits(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline uint32_t vf_ge_bits(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline vf vf_load_f16(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vf_first(n), p));
}
static inline void vf_store_f16(uint16_t *p, vf x) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vf_store_f16_n(uint16_t *p, vf x, int n) {
  _mm256_mask_storeu_epi16(p, vf_first(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf vf_load_i8(const int8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline void vf_store_i8(int8_t *p, vf x) {
  _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
enum { VF_PAIRS = VF_LANES / 2 };
static inline vf vf_turn_pairs(vf x, const float *c, const float *s) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const vf cc = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(c)));
  const vf ss = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(s)));
  return _mm512_fmaddsub_ps(x, cc, _mm512_mul_ps(_mm512_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1)), ss));
}

static inline __m512i vf_mul_wide(__m512i x, __m512i m, __m512i *hi) {
  const __m512i even = _mm512_mul_epu32(x, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), m);
  *hi = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd);
  return _mm512_mask_mov_epi32(even, 0xAAAA, _mm512_slli_epi64(odd, 32));
}
static inline vf vf_unit_under(const uint32_t *bits) {
  const __m512i u = _mm512_srli_epi32(_mm512_loadu_si512(bits), 1);
  return _mm512_mul_ps(_mm512_cvtepi32_ps(u), _mm512_set1_ps(0x1p-31f * (1 - 0x1p-23f)));
}
/* Lane 4b+i works on quad 4i+b, so that a 4x4 transpose inside the four 128-bit blocks leaves ids in order.
 */
static inline void vf_noise64(uint32_t out[64], uint64_t seed, int32_t pos, uint32_t purpose, uint32_t quad) {
  const __m512i m0 = _mm512_set1_epi32((int)0xD2511F53u), m1 = _mm512_set1_epi32((int)0xCD9E8D57u);
  const __m512i lane = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i c0 = _mm512_add_epi32(_mm512_set1_epi32((int)quad), lane);
  __m512i c1 = _mm512_set1_epi32(pos), c2 = _mm512_set1_epi32((int)purpose),
          c3 = _mm512_set1_epi32(0x77656972);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int r = 0; r < 10; r++) {
    __m512i h0, h1;
    const __m512i l0 = vf_mul_wide(c0, m0, &h0), l1 = vf_mul_wide(c2, m1, &h1);
    c0 = _mm512_ternarylogic_epi32(h1, c1, _mm512_set1_epi32((int)k0), 0x96); /* xor of three */
    c2 = _mm512_ternarylogic_epi32(h0, c3, _mm512_set1_epi32((int)k1), 0x96);
    c1 = l1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const __m512i a = _mm512_unpacklo_epi32(c0, c1), b = _mm512_unpackhi_epi32(c0, c1);
  const __m512i c = _mm512_unpacklo_epi32(c2, c3), d = _mm512_unpackhi_epi32(c2, c3);
  _mm512_storeu_si512(out, _mm512_unpacklo_epi64(a, c));
  _mm512_storeu_si512(out + 16, _mm512_unpackhi_epi64(a, c));
  _mm512_storeu_si512(out + 32, _mm512_unpacklo_epi64(b, d));
  _mm512_storeu_si512(out + 48, _mm512_unpackhi_epi64(b, d));
}

#endif
