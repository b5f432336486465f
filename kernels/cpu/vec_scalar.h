/* SPDX-License-Identifier: Apache-2.0 */
/* The vector vocabulary with one lane: plain C for any machine, and the plainest reading of what vec_avx2.h
 * and vec_avx512.h mean. Exactly one vec_*.h is included by a translation unit. */
#ifndef WEIR_KERNELS_CPU_VEC_SCALAR_H
#define WEIR_KERNELS_CPU_VEC_SCALAR_H
#include <string.h>

#include "kernels/noise.h"
#include "kernels/quant.h"

enum { VF_LANES = 1 };
typedef float vf;

static inline vf vf_set1(float x) { return x; }
static inline vf vf_zero(void) { return 0; }
static inline vf vf_load(const float *p) { return *p; }
static inline void vf_store(float *p, vf x) { *p = x; }
/* The first n lanes, zeros behind them; n may be 0 and then nothing is touched. */
static inline vf vf_load_n(const float *p, int n) { return n > 0 ? *p : 0; }
static inline void vf_store_n(float *p, vf x, int n) {
  if (n > 0) *p = x;
}
static inline vf vf_add(vf a, vf b) { return a + b; }
static inline vf vf_sub(vf a, vf b) { return a - b; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_div(vf a, vf b) { return a / b; }
/* a*b + c with the device's own rounding: once where there is FMA, twice here. */
static inline vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
/* The second operand when either is NaN. */
static inline vf vf_max(vf a, vf b) { return a > b ? a : b; }
static inline vf vf_min(vf a, vf b) { return a < b ? a : b; }
/* 2^n of n + 1.5*2^23, n in -126 .. 127. */
static inline vf vf_pow2_magic(vf x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  u = (u + 127u) << 23;
  memcpy(&x, &u, 4);
  return x;
}
/* v, and 0 where x < lim. */
static inline vf vf_zero_below(vf v, vf x, float lim) { return x < lim ? 0 : v; }
/* v, and `fill` in the lanes from n on. */
static inline vf vf_fill_from(vf v, int n, float fill) { return n > 0 ? v : fill; }
static inline float vf_hsum(vf a) { return a; }
static inline float vf_hmax(vf a) { return a; }
/* Lane i: the sum of a[i], by the same tree for each. */
static inline vf vf_hsum_each(const vf a[VF_LANES]) { return a[0]; }
/* Bit i: lane i of a equals, is at least that of b. */
static inline uint32_t vf_eq_bits(vf a, vf b) { return a == b; }
static inline uint32_t vf_ge_bits(vf a, vf b) { return a >= b; }
static inline vf vf_load_f16(const uint16_t *p) { return weir_f16_to_f32(*p); }
static inline vf vf_load_f16_n(const uint16_t *p, int n) { return n > 0 ? weir_f16_to_f32(*p) : 0; }
static inline void vf_store_f16(uint16_t *p, vf x) { *p = weir_f32_to_f16(x); }
static inline void vf_store_f16_n(uint16_t *p, vf x, int n) {
  if (n > 0) *p = weir_f32_to_f16(x);
}
/* Signed bytes. Storing rounds to nearest, of two as near to the even one; x is within -127 .. 127. */
static inline vf vf_load_i8(const int8_t *p) { return *p; }
static inline void vf_store_i8(int8_t *p, vf x) {
  *p = (int8_t)(int32_t)((x + 0x1.8p23f) - 0x1.8p23f); /* the sum has no bits below one */
}
/* Pairs (x[2i], x[2i+1]) of one vector turned by the angle whose cosine and sine stand at c[i], s[i]. A lane
 * is no pair, so the callers' scalar tail does all of it. */
enum { VF_PAIRS = 0 };
static inline vf vf_turn_pairs(vf x, const float *c, const float *s) {
  (void)c, (void)s;
  return x;
}
/* Of noise bits: at most their uniform number in (0,1), by less than 2^-22 of it and 2^-31. */
static inline vf vf_unit_under(const uint32_t *bits) {
  return (float)(int32_t)(*bits >> 1) * (0x1p-31f * (1 - 0x1p-23f));
}
/* The noise of token ids 4*quad .. 4*quad+63, in order. */
static inline void vf_noise64(uint32_t out[64], uint64_t seed, int32_t pos, uint32_t purpose, uint32_t quad) {
  for (uint32_t i = 0; i < 16; i++) {
    const weir_noise4 x = weir_noise_quad(seed, pos, purpose, quad + i);
    memcpy(out + 4 * i, x.v, sizeof x.v);
  }
}

#endif
