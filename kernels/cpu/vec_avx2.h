/* SPDX-License-Identifier: Apache-2.0 */
/* The vector vocabulary with 8 lanes: AVX2, FMA and F16C. Meanings stand in vec_scalar.h. */
#ifndef WEIR_KERNELS_CPU_VEC_AVX2_H
#define WEIR_KERNELS_CPU_VEC_AVX2_H
#include <immintrin.h>
#include <string.h>

#include "kernels/noise.h"

enum { VF_LANES = 8 };
typedef __m256 vf;

static inline __m256i vf_first(int n) { /* all bits in the first n lanes */
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_set1(float x) { return _mm256_set1_ps(x); }
static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline vf vf_load_n(const float *p, int n) { return _mm256_maskload_ps(p, vf_first(n)); }
static inline void vf_store_n(float *p, vf x, int n) { _mm256_maskstore_ps(p, vf_first(n), x); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_pow2_magic(vf x) {
  const __m256i u = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(u, 23));
}
static inline vf vf_zero_below(vf v, vf x, float lim) {
  return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(lim), _CMP_LT_OQ), v);
}
static inline vf vf_fill_from(vf v, int n, float fill) {
  return _mm256_blendv_ps(_mm256_set1_ps(fill), v, _mm256_castsi256_ps(vf_first(n)));
}
static inline float vf_hsum(vf a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float vf_hmax(vf a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
static inline vf vf_hsum_each(const vf a[VF_LANES]) {
  vf b[4], c[2];
  for (int i = 0; i < 4; i++) /* low half: a[i], high half: a[i+4]; lanes k and k+4 added */
    b[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[i], a[i + 4], 0x20),
                         _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  for (int i = 0; i < 2; i++)
    c[i] = _mm256_add_ps(_mm256_shuffle_ps(b[2 * i], b[2 * i + 1], _MM_SHUFFLE(1, 0, 1, 0)),
                         _mm256_shuffle_ps(b[2 * i], b[2 * i + 1], _MM_SHUFFLE(3, 2, 3, 2)));
  return _mm256_add_ps(_mm256_shuffle_ps(c[0], c[1], _MM_SHUFFLE(2, 0, 2, 0)),
                       _mm256_shuffle_ps(c[0], c[1], _MM_SHUFFLE(3, 1, 3, 1)));
}
static inline uint32_t vf_eq_bits(vf a, vf b) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
static inline uint32_t vf_ge_bits(vf a, vf b) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
}
static inline vf vf_load_f16(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf vf_load_f16_n(const uint16_t *p, int n) {
  uint16_t t[VF_LANES] = {0};
  if (n > 0) memcpy(t, p, sizeof *p * (size_t)n);
  return vf_load_f16(t);
}
static inline void vf_store_f16(uint16_t *p, vf x) {
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vf_store_f16_n(uint16_t *p, vf x, int n) {
  uint16_t t[VF_LANES];
  vf_store_f16(t, x);
  if (n > 0) memcpy(p, t, sizeof *p * (size_t)n);
}
static inline vf vf_load_i8(const int8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline void vf_store_i8(int8_t *p, vf x) {
  const __m256i i = _mm256_cvtps_epi32(x);
  const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(h, h));
}
enum { VF_PAIRS = VF_LANES / 2 };
static inline vf vf_turn_pairs(vf x, const float *c, const float *s) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  const vf cc = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(c)), twice);
  const vf ss = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(s)), twice);
  return _mm256_fmaddsub_ps(x, cc, _mm256_mul_ps(_mm256_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1)), ss));
}

static inline __m256i vf_mul_wide(__m256i x, __m256i m, __m256i *hi) {
  const __m256i even = _mm256_mul_epu32(x, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
  *hi = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
/* Lane 4b+i works on quad 2i+b, so that a 4x4 transpose inside the two 128-bit blocks leaves ids in order. */
static inline void vf_noise32(uint32_t out[32], uint64_t seed, int32_t pos, uint32_t purpose, uint32_t quad) {
  const __m256i m0 = _mm256_set1_epi32((int)0xD2511F53u), m1 = _mm256_set1_epi32((int)0xCD9E8D57u);
  __m256i c0 = _mm256_add_epi32(_mm256_set1_epi32((int)quad), _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
  __m256i c1 = _mm256_set1_epi32(pos), c2 = _mm256_set1_epi32((int)purpose),
          c3 = _mm256_set1_epi32(0x77656972);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int r = 0; r < 10; r++) {
    __m256i h0, h1;
    const __m256i l0 = vf_mul_wide(c0, m0, &h0), l1 = vf_mul_wide(c2, m1, &h1);
    c0 = _mm256_xor_si256(_mm256_xor_si256(h1, c1), _mm256_set1_epi32((int)k0));
    c2 = _mm256_xor_si256(_mm256_xor_si256(h0, c3), _mm256_set1_epi32((int)k1));
    c1 = l1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const __m256i a = _mm256_unpacklo_epi32(c0, c1), b = _mm256_unpackhi_epi32(c0, c1);
  const __m256i c = _mm256_unpacklo_epi32(c2, c3), d = _mm256_unpackhi_epi32(c2, c3);
  _mm256_storeu_si256((__m256i *)out, _mm256_unpacklo_epi64(a, c));
  _mm256_storeu_si256((__m256i *)(out + 8), _mm256_unpackhi_epi64(a, c));
  _mm256_storeu_si256((__m256i *)(out + 16), _mm256_unpacklo_epi64(b, d));
  _mm256_storeu_si256((__m256i *)(out + 24), _mm256_unpackhi_epi64(b, d));
}
static inline vf vf_unit_under(const uint32_t *bits) {
  const __m256i u = _mm256_srli_epi32(_mm256_loadu_si256((const __m256i *)bits), 1);
  return _mm256_mul_ps(_mm256_cvtepi32_ps(u), _mm256_set1_ps(0x1p-31f * (1 - 0x1p-23f)));
}
static inline void vf_noise64(uint32_t out[64], uint64_t seed, int32_t pos, uint32_t purpose, uint32_t quad) {
  vf_noise32(out, seed, pos, purpose, quad);
  vf_noise32(out + 32, seed, pos, purpose, quad + 8);
}

#endif
