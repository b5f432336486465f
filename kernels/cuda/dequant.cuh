/* SPDX-License-Identifier: Apache-2.0 */
/* From packed weights (kernels/cuda/pack.h) to numbers: what a lane holds of a tile of 16 x 64, the
 * A-fragment registers of its four k16 steps, the scales of its two rows. Shared by the matmul, by embed and
 * by the dequantiser, so that all three see the same weight.
 *
 * Integers become halves without a conversion: 0x6400 is 1024, whose last place is 1, so a code or'ed into
 * its mantissa is 1024 + code, and one subtraction leaves code - zero point, exact. A code four bits further
 * up is 1024 + 16 * code, and one fused multiply-add by 1/16 leaves the same. Instructions a lane spends on
 * the 32 elements it holds of a tile:
 *
 *   Q4_0 Q4_K   36   a step: 1 shift, 4 LOP3 (and, or), 2 HADD2, 2 HFMA2
 *   Q5_0 Q5_K   60   and 2 shifts, 4 LOP3 for the high bits
 *   Q6_K        60   as many: its pairs of high bits come the same way
 *   Q8_0        32   a step: 4 PRMT, 4 HADD2
 *
 * value = step * code - low (low only for Q4_K, Q5_K), code with its zero point taken off. step and low are
 * exact in F32, and so is step * code: the only rounding is that of the subtraction. A half has 11 bits, a
 * scale 6 or 7, a code at most 7. */
#ifndef WEIR_KERNELS_CUDA_DEQUANT_CUH
#define WEIR_KERNELS_CUDA_DEQUANT_CUH
#include "kernels/cuda/cu.h"
#include "kernels/cuda/pack.h"

/* ---- facts of a type ---- */

template <weir_dtype T>
struct weir_quant;
/* zero: zero point of the stored code; parts: runs of columns of a tile with a step of their own; has_low:
 * whether there is something to subtract. */
template <>
struct weir_quant<WEIR_Q8_0> {
  enum { zero = 128, parts = 2, has_low = 0 };
};
template <>
struct weir_quant<WEIR_Q4_0> {
  enum { zero = 8, parts = 2, has_low = 0 };
};
template <>
struct weir_quant<WEIR_Q5_0> {
  enum { zero = 16, parts = 2, has_low = 0 };
};
template <>
struct weir_quant<WEIR_Q4_K> {
  enum { zero = 0, parts = 2, has_low = 1 };
};
template <>
struct weir_quant<WEIR_Q5_K> {
  enum { zero = 0, parts = 2, has_low = 1 };
};
template <>
struct weir_quant<WEIR_Q6_K> {
  enum { zero = 32, parts = 4, has_low = 0 };
};

/* ---- codes ---- */

/* What a lane holds of a tile, by width of the code. Tiles are numbered as in pack.h; low and high may point
 * into shared memory just as well, to the first of tiles that lie one after the other. */
struct weir_codes4 {
  uint4 low;
};
struct weir_codes5 {
  uint4 low;
  uint32_t high;
};
struct weir_codes6 {
  uint4 low;
  uint2 high;
};
struct weir_codes8 {
  uint4 half[2];
};

CU_DEV void weir_codes_load(weir_codes4 &c, const void *low, const void *, size_t tile, int lane) {
  c.low = static_cast<const uint4 *>(low)[tile * 32 + lane];
}
CU_DEV void weir_codes_load(weir_codes5 &c, const void *low, const void *high, size_t tile, int lane) {
  c.low = static_cast<const uint4 *>(low)[tile * 32 + lane];
  c.high = static_cast<const uint32_t *>(high)[tile * 32 + lane];
}
CU_DEV void weir_codes_load(weir_codes6 &c, const void *low, const void *high, size_t tile, int lane) {
  c.low = static_cast<const uint4 *>(low)[tile * 32 + lane];
  c.high = static_cast<const uint2 *>(high)[tile * 32 + lane];
}
CU_DEV void weir_codes_load(weir_codes8 &c, const void *low, const void *, size_t tile, int lane) {
  const uint4 *p = static_cast<const uint4 *>(low) + tile * 64 + lane;
  c.half[0] = p[0];
  c.half[1] = p[32];
}

/* i is a constant once loops are unrolled. */
CU_DEV uint32_t weir_word(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/* Shift to the right, to the left when n is negative; n a constant. */
CU_DEV uint32_t weir_shift(uint32_t v, int n) { return n < 0 ? v << -n : v >> n; }

/* Two halves of 1024 + code - (1024 + zero), and of (1024 + 16 code) / 16 - (64 + zero). */
template <int ZERO>
CU_DEV uint32_t weir_code_even(uint32_t biased) {
  return cu_h2sub(biased, (0x6400u + ZERO) * 0x10001u);
}
template <int ZERO>
CU_DEV uint32_t weir_code_odd(uint32_t biased) {
  return cu_h2fma(biased, 0x2c002c00u, (0xd400u + 16 * ZERO) * 0x10001u);
}

/* a[0..3] <- the A fragment of k16 step s (0..3, a constant once loops are unrolled): halves, code minus
 * zero point. */
template <int ZERO>
CU_DEV void weir_codes_fragment(const weir_codes4 &c, int s, uint32_t a[4]) {
  const uint32_t w = weir_word(c.low, s), u = w >> 8;
  a[0] = weir_code_even<ZERO>(cu_and_or(w, 0x000f000fu, 0x64006400u));
  a[1] = weir_code_odd<ZERO>(cu_and_or(w, 0x00f000f0u, 0x64006400u));
  a[2] = weir_code_even<ZERO>(cu_and_or(u, 0x000f000fu, 0x64006400u));
  a[3] = weir_code_odd<ZERO>(cu_and_or(u, 0x00f000f0u, 0x64006400u));
}

/* The same with further bits h1 (of pairs 0, 1) and h2 (of 2, 3), already shifted to stand above the low
 * four; MASK takes those of an even pair. */
template <int ZERO, uint32_t MASK>
CU_DEV void weir_codes_join(uint32_t w, uint32_t h1, uint32_t h2, uint32_t a[4]) {
  const uint32_t u = w >> 8, even = MASK * 0x10001u, odd = (MASK << 4) * 0x10001u;
  a[0] = weir_code_even<ZERO>(cu_and_or(w, 0x000f000fu, cu_and_or(h1, even, 0x64006400u)));
  a[1] = weir_code_odd<ZERO>(cu_and_or(w, 0x00f000f0u, cu_and_or(h1, odd, 0x64006400u)));
  a[2] = weir_code_even<ZERO>(cu_and_or(u, 0x000f000fu, cu_and_or(h2, even, 0x64006400u)));
  a[3] = weir_code_odd<ZERO>(cu_and_or(u, 0x00f000f0u, cu_and_or(h2, odd, 0x64006400u)));
}

template <int ZERO>
CU_DEV void weir_codes_fragment(const weir_codes5 &c, int s, uint32_t a[4]) {
  const int b = 8 * (s / 2) + 2 * (s % 2) - 4; /* from where pair 0's bit lies to bit 4 */
  weir_codes_join<ZERO, 0x10u>(weir_word(c.low, s), weir_shift(c.high, b), weir_shift(c.high, b + 1), a);
}

template <int ZERO>
CU_DEV void weir_codes_fragment(const weir_codes6 &c, int s, uint32_t a[4]) {
  const int b = 8 * (s % 2) - 4;
  const uint32_t h = s < 2 ? c.high.x : c.high.y;
  weir_codes_join<ZERO, 0x30u>(weir_word(c.low, s), weir_shift(h, b), weir_shift(h, b + 2), a);
}

template <int ZERO>
CU_DEV void weir_codes_fragment(const weir_codes8 &c, int s, uint32_t a[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t w = weir_word(c.half[s / 2], 2 * (s % 2) + i / 2);
    a[i] = weir_code_even<ZERO>(__byte_perm(w, 0x64646464u, i % 2 ? 0x4342u : 0x4140u));
  }
}

template <weir_dtype T>
struct weir_codes_of;
template <>
struct weir_codes_of<WEIR_Q8_0> {
  typedef weir_codes8 type;
};
template <>
struct weir_codes_of<WEIR_Q4_0> {
  typedef weir_codes4 type;
};
template <>
struct weir_codes_of<WEIR_Q5_0> {
  typedef weir_codes5 type;
};
template <>
struct weir_codes_of<WEIR_Q4_K> {
  typedef weir_codes4 type;
};
template <>
struct weir_codes_of<WEIR_Q5_K> {
  typedef weir_codes5 type;
};
template <>
struct weir_codes_of<WEIR_Q6_K> {
  typedef weir_codes6 type;
};

/* ---- scales ---- */

/* step and low of rows l/4 and l/4 + 8. */
struct weir_steps {
  float step[2], low[2];
};

/* A byte as F32: 2^23 has a last place of 1, so a byte in its mantissa is 2^23 + byte. `of` is the byte's
 * number, a constant or not. */
CU_DEV float weir_byte_f32(uint32_t word, int of, float bias) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | static_cast<uint32_t>(of))) -
         (8388608.0f + bias);
}

/* What a lane holds of the scales of a tile (of a super-block, where noted), as stored. */
struct weir_scales_block { /* Q8_0 Q4_0 Q5_0: 8 bytes; .x row l/4, .y row l/4 + 8; low half: first block */
  uint2 d;
};
struct weir_scales_k4 { /* Q4_K Q5_K: 32 bytes, the same for the four tiles of a super-block */
  uint4 row[2];         /* weir_pack_k4 */
};
struct weir_scales_k6 { /* Q6_K: 8 bytes and 4, those the same for four tiles */
  uint2 part;           /* four signed bytes a row */
  uint32_t d;           /* low half: row l/4 */
};

template <weir_dtype T>
struct weir_scales_of {
  typedef weir_scales_block type;
};
template <>
struct weir_scales_of<WEIR_Q4_K> {
  typedef weir_scales_k4 type;
};
template <>
struct weir_scales_of<WEIR_Q5_K> {
  typedef weir_scales_k4 type;
};
template <>
struct weir_scales_of<WEIR_Q6_K> {
  typedef weir_scales_k6 type;
};

/* `scale` is the segment's; rt, kt the tile's place. */
CU_DEV void weir_scales_load(weir_scales_block &s, const void *scale, int32_t n_ktiles, int32_t rt,
                             int32_t kt, int lane) {
  s.d = static_cast<const uint2 *>(scale)[((size_t)rt * n_ktiles + kt) * 8 + lane / 4];
}
CU_DEV void weir_scales_load(weir_scales_k4 &s, const void *scale, int32_t n_ktiles, int32_t rt, int32_t kt,
                             int lane) {
  const uint4 *p = static_cast<const uint4 *>(scale) + ((size_t)rt * (n_ktiles / 4) + kt / 4) * 16;
  s.row[0] = p[2 * (lane / 4)];
  s.row[1] = p[2 * (lane / 4) + 1];
}
CU_DEV void weir_scales_load(weir_scales_k6 &s, const void *scale, int32_t n_ktiles, int32_t rt, int32_t kt,
                             int lane) {
  const weir_pack_k6 *p = static_cast<const weir_pack_k6 *>(scale) + (size_t)rt * (n_ktiles / 4) + kt / 4;
  s.part = reinterpret_cast<const uint2 *>(p->scale[kt % 4])[lane / 4];
  s.d = reinterpret_cast<const uint32_t *>(p->d)[lane / 4];
}

/* Step and low of part `part` (0 .. weir_quant<T>::parts - 1) of tile kt; step s of the tile is of part
 * s * parts / 4. */
CU_DEV weir_steps weir_scales_get(const weir_scales_block &s, int32_t, int part) {
  weir_steps r;
  r.step[0] = h2f(static_cast<f16>(s.d.x >> 16 * part));
  r.step[1] = h2f(static_cast<f16>(s.d.y >> 16 * part));
  r.low[0] = r.low[1] = 0.0f;
  return r;
}

/* The twelve bytes, four parts at a time (weir_k_scale of blocks.h): words y, z, w are bytes 0..3, 4..7,
 * 8..11. What depends on the tile alone is shared by its two parts once this is inlined: 13 instructions a
 * row and tile if kt is no constant, then three for each step and low. */
CU_DEV weir_steps weir_scales_get(const weir_scales_k4 &s, int32_t kt, int part) {
  weir_steps r;
  const int of = 2 * (kt % 2) + part;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint4 b = s.row[i];
    const bool upper = kt & 2; /* parts 4..7 */
    const uint32_t scale4 = upper ? (b.w & 0x0f0f0f0fu) | (b.y >> 2 & 0x30303030u) : b.y & 0x3f3f3f3fu;
    const uint32_t low4 = upper ? (b.w >> 4 & 0x0f0f0f0fu) | (b.z >> 2 & 0x30303030u) : b.z & 0x3f3f3f3fu;
    r.step[i] = h2f(static_cast<f16>(b.x)) * weir_byte_f32(scale4, of, 0.0f);
    r.low[i] = h2f(static_cast<f16>(b.x >> 16)) * weir_byte_f32(low4, of, 0.0f);
  }
  return r;
}

CU_DEV weir_steps weir_scales_get(const weir_scales_k6 &s, int32_t, int part) {
  weir_steps r; /* signed bytes + 128 are unsigned ones */
  r.step[0] = h2f(static_cast<f16>(s.d)) * weir_byte_f32(s.part.x ^ 0x80808080u, part, 128.0f);
  r.step[1] = h2f(static_cast<f16>(s.d >> 16)) * weir_byte_f32(s.part.y ^ 0x80808080u, part, 128.0f);
  r.low[0] = r.low[1] = 0.0f;
  return r;
}

/* ---- values ---- */

/* The two elements of fragment register a[i]: rows l/4 for i even, l/4 + 8 for i odd. Exact but for the
 * subtraction, so contraction to a fused multiply-add changes no bit. */
template <weir_dtype T>
CU_DEV void weir_pair_values(uint32_t a, const weir_steps &s, int i, float *even, float *odd) {
  const float step = s.step[i % 2], e = step * h2f(static_cast<f16>(a)),
              o = step * h2f(static_cast<f16>(a >> 16));
  *even = weir_quant<T>::has_low ? e - s.low[i % 2] : e;
  *odd = weir_quant<T>::has_low ? o - s.low[i % 2] : o;
}

#endif
