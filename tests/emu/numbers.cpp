/* SPDX-License-Identifier: Apache-2.0 */
/* Conversions and fused arithmetic of 16-bit floats, with one rounding. */
#include "cu_emu_math.h"

namespace emu {

float half_to_float(uint16_t h) {
  const int e = h >> 10 & 31, m = h & 1023;
  const float v = e == 31 ? (m ? NAN : INFINITY)
                  : e     ? ldexpf((float)(1024 + m), e - 25)
                          : ldexpf((float)m, -24);
  return h >> 15 ? -v : v;
}

uint16_t float_to_bf16(float x) {
  const uint32_t u = __float_as_uint(x);
  if (x != x) return 0x7fff;
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

uint16_t float_to_half(float x) {
  const uint32_t u = __float_as_uint(x), a = u & 0x7fffffffu;
  const uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
  if (a > 0x7f800000u) return 0x7fff;
  if (a >= 0x477ff000u) return sign | 0x7c00; /* from 65520 on, halfway to 65536 */
  if (a < 0x33000001u) return sign;           /* up to 2^-25, halfway to the least subnormal */
  /* Drop 13 bits of a normal number, more of a subnormal one; to nearest, ties to even. */
  const int e = (int)(a >> 23);
  const uint32_t m = (a & 0x7fffff) | 0x800000;
  const int drop = e >= 113 ? 13 : 126 - e; /* 2^-14 has exponent 113 */
  uint32_t r = m >> drop;
  const uint32_t rest = m & ((1u << drop) - 1), half = 1u << (drop - 1);
  r += rest > half || (rest == half && (r & 1));
  if (e >= 113) r += (uint32_t)(e - 113) << 10; /* the leading one counts as exponent 1 */
  return (uint16_t)(sign | r);
}

/* p + c rounded to odd: where it is inexact the last bit is one, so that a second rounding to a much narrower
 * type comes out as one rounding would have (Boldo and Melquiond, 2008). */
static double add_to_odd(double p, double c) {
  const double s = p + c, pp = s - c, err = (p - pp) + (c - (s - pp)); /* TwoSum */
  if (err == 0 || s != s || s - s != 0) return s;
  long long bits = __double_as_longlong(s);
  if (!(bits & 1)) bits += (err > 0) == (s > 0) ? 1 : -1;
  return __longlong_as_double(bits);
}

static float narrow_to_odd(double d) {
  float f = (float)d;
  if ((double)f == d || f != f) return f;
  uint32_t u = __float_as_uint(f);
  if (isinf(f) || fabs((double)f) > fabs(d)) u--; /* towards zero; then the odd neighbour */
  return __uint_as_float(u | 1);
}

/* The product of two 16-bit floats is exact in a double. */
static float fma_to_odd(float a, float b, float c) { return narrow_to_odd(add_to_odd((double)a * b, c)); }

uint16_t half_fma(uint16_t a, uint16_t b, uint16_t c) {
  return float_to_half(fma_to_odd(half_to_float(a), half_to_float(b), half_to_float(c)));
}

uint16_t bf16_fma(uint16_t a, uint16_t b, uint16_t c) {
  return float_to_bf16(fma_to_odd(bf2f(a), bf2f(b), bf2f(c)));
}

/* PTX ISA, "prmt", default mode: the top bit of a selector copies the byte's sign. __byte_perm ignores it. */
uint32_t byte_perm(uint32_t x, uint32_t y, uint32_t s) {
  const uint64_t xy = (uint64_t)y << 32 | x;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) r |= (uint32_t)(xy >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
  return r;
}

}  // namespace emu
