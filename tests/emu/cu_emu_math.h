/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic of the device on the CPU. Everything exact in IEEE 754 is exact here (fma, roundings, packed
 * half and bfloat16 with one rounding); the .approx instructions are the correctly rounded libm ones, so a
 * test that passes only with these must leave room for theirs (2 ulp and more: the CUDA math tables). Compile
 * with -ffp-contract=off. */
#ifndef WEIR_TESTS_EMU_CU_EMU_MATH_H
#define WEIR_TESTS_EMU_CU_EMU_MATH_H
#include "cu_emu_types.h"

namespace emu {
float half_to_float(uint16_t h);
uint16_t float_to_half(float x); /* round to nearest even; NaN is 0x7fff, as cvt.rn.f16.f32 */
uint16_t float_to_bf16(float x);
/* a * b + c with one rounding, on 16-bit floats. */
uint16_t half_fma(uint16_t a, uint16_t b, uint16_t c);
uint16_t bf16_fma(uint16_t a, uint16_t b, uint16_t c);
uint32_t byte_perm(uint32_t x, uint32_t y, uint32_t s);
}  // namespace emu

/* --- bits */
static inline float __uint_as_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline uint32_t __float_as_uint(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
static inline float __int_as_float(int i) { return __uint_as_float((uint32_t)i); }
static inline int __float_as_int(float f) { return (int)__float_as_uint(f); }
static inline double __longlong_as_double(long long i) {
  double d;
  memcpy(&d, &i, 8);
  return d;
}
static inline long long __double_as_longlong(double d) {
  long long i;
  memcpy(&i, &d, 8);
  return i;
}
static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline uint32_t __brev(uint32_t x) {
  uint32_t r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1u) << (31 - i);
  return r;
}
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t s) { return emu::byte_perm(x, y, s); }
static inline uint32_t cu_and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }
static inline int cu_opaque(int x) { return x; }
static inline uint32_t __funnelshift_r(uint32_t lo, uint32_t hi, uint32_t n) {
  return (uint32_t)(((uint64_t)hi << 32 | lo) >> (n & 31));
}
static inline uint32_t __funnelshift_l(uint32_t lo, uint32_t hi, uint32_t n) {
  return (uint32_t)(((uint64_t)hi << 32 | lo) << (n & 31) >> 32);
}
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
/* Sums wrap, as dp4a's do. */
static inline int __dp4a(int a, int b, int c) {
  uint32_t s = (uint32_t)c;
  for (int i = 0; i < 4; i++) s += (uint32_t)((int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i));
  return (int)s;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255u) * (b >> 8 * i & 255u);
  return c;
}

/* --- min and max: CUDA's overloads; a NaN loses */
#define EMU_MINMAX(T)                                     \
  static inline T min(T a, T b) { return a < b ? a : b; } \
  static inline T max(T a, T b) { return a > b ? a : b; }
EMU_MINMAX(int)
EMU_MINMAX(unsigned)
EMU_MINMAX(long)
EMU_MINMAX(unsigned long)
EMU_MINMAX(long long)
EMU_MINMAX(unsigned long long)
#undef EMU_MINMAX
static inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
static inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
static inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
static inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

/* --- floats with a stated rounding */
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline float __int2float_rn(int i) { return (float)i; }
static inline float __uint2float_rn(unsigned i) { return (float)i; }
static inline float __ll2float_rn(long long i) { return (float)i; }
static inline float __double2float_rn(double d) { return (float)d; }
static inline double __int2double_rn(int i) { return (double)i; }
/* Conversions to int saturate and take NaN to 0, where C++ leaves them undefined. */
static inline int emu_to_int(double r) {
  if (r != r) return 0;
  return r >= 2147483647.0 ? 2147483647 : r <= -2147483648.0 ? (-2147483647 - 1) : (int)r;
}
static inline unsigned emu_to_uint(double r) {
  if (!(r > 0)) return 0;
  return r >= 4294967295.0 ? 4294967295u : (unsigned)r;
}
static inline int __float2int_rn(float x) { return emu_to_int(rint((double)x)); }
static inline int __float2int_rz(float x) { return emu_to_int(trunc((double)x)); }
static inline int __float2int_rd(float x) { return emu_to_int(floor((double)x)); }
static inline int __float2int_ru(float x) { return emu_to_int(ceil((double)x)); }
static inline unsigned __float2uint_rn(float x) { return emu_to_uint(rint((double)x)); }
static inline unsigned __float2uint_rz(float x) { return emu_to_uint(trunc((double)x)); }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.f) : 0.f; }

/* --- approximations */
#define __expf(x)    expf(x) /* macros: glibc declares these names itself */
#define __exp10f(x)  exp10f(x)
#define __logf(x)    logf(x)
#define __log2f(x)   log2f(x)
#define __sinf(x)    sinf(x)
#define __cosf(x)    cosf(x)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
/* ex2.approx.ftz, lg2.approx.ftz, rcp.approx.ftz, tanh.approx: subnormals in or out are zero (tanh keeps
 * them). */
static inline float emu_ftz(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0.f, x) : x; }
static inline float cu_exp2(float x) { return emu_ftz(exp2f(emu_ftz(x))); }
static inline float cu_log2(float x) { return emu_ftz(log2f(emu_ftz(x))); }
static inline float cu_rcp(float x) { return emu_ftz(1.f / emu_ftz(x)); }
static inline float cu_tanh(float x) { return tanhf(x); }

/* --- 16-bit floats; x2 types are packed in a uint32_t, low half first */
static inline float bf2f(bf16 x) { return __uint_as_float((uint32_t)x << 16); }
static inline bf16 f2bf(float x) { return emu::float_to_bf16(x); }
static inline uint32_t f2bf2(float lo, float hi) { return f2bf(lo) | (uint32_t)f2bf(hi) << 16; }
static inline float bf2lo(uint32_t x) { return __uint_as_float(x << 16); }
static inline float bf2hi(uint32_t x) { return __uint_as_float(x & 0xffff0000u); }
static inline float h2f(f16 x) { return emu::half_to_float(x); }
static inline f16 f2h(float x) { return emu::float_to_half(x); }
static inline uint32_t f2h2(float lo, float hi) { return f2h(lo) | (uint32_t)f2h(hi) << 16; }
static inline float h2lo(uint32_t x) { return h2f((f16)x); }
static inline float h2hi(uint32_t x) { return h2f((f16)(x >> 16)); }

static inline uint32_t cu_h2fma(uint32_t a, uint32_t b, uint32_t c) {
  return emu::half_fma((f16)a, (f16)b, (f16)c) |
         (uint32_t)emu::half_fma((f16)(a >> 16), (f16)(b >> 16), (f16)(c >> 16)) << 16;
}
/* A sum of two halves, or their product, is exact in a float but for its last rounding: adding fits 24 bits
 * only when exponents are near, so it goes through the fused form as well. */
static inline uint32_t cu_h2add(uint32_t a, uint32_t b) { return cu_h2fma(a, 0x3c003c00u, b); }
static inline uint32_t cu_h2sub(uint32_t a, uint32_t b) { return cu_h2fma(b, 0xbc00bc00u, a); }
static inline uint32_t cu_h2mul(uint32_t a, uint32_t b) { return f2h2(h2lo(a) * h2lo(b), h2hi(a) * h2hi(b)); }
static inline uint32_t cu_bf2fma(uint32_t a, uint32_t b, uint32_t c) {
  return emu::bf16_fma((bf16)a, (bf16)b, (bf16)c) |
         (uint32_t)emu::bf16_fma((bf16)(a >> 16), (bf16)(b >> 16), (bf16)(c >> 16)) << 16;
}
static inline uint32_t cu_bf2mul(uint32_t a, uint32_t b) { return cu_bf2fma(a, b, 0x80008000u); }
static inline uint32_t cu_bf2add(uint32_t a, uint32_t b) { return cu_bf2fma(a, 0x3f803f80u, b); }
#endif
