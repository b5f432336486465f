/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance of cu.h: one list of cases, three ways to look at it. conf.cu runs them, built by g++ on the
 * emulator or by nvcc on a GPU. conf_ref.cpp says what each must give, in plain C++ that shares nothing with
 * the emulator. */
#ifndef WEIR_TESTS_EMU_CONF_H
#define WEIR_TESTS_EMU_CONF_H
#include <stdint.h>

enum { CONF_N = 4096, CONF_WARPS = CONF_N / 32 };

typedef enum conf_kind {            /* how two outputs are compared */
                         CONF_BITS, /* equal words */
                         CONF_F32,  /* equal floats; a NaN is a NaN */
                         CONF_F16,  /* two packed halves, equal or both NaN */
                         CONF_BF16,
                         CONF_APPROX, /* floats within 1e-6 of each other, relative; subnormals are zeros */
                         CONF_TANH,   /* within 1e-3 */
                         CONF_LOG2,   /* within 1e-6 of max(1, |value|) */
                         CONF_MMA     /* within 1e-5 of 16 times the largest product */
} conf_kind;

/* Elementwise: name, kind, expression of the words a, b, c and of the floats fa, fb, fc (moderate, and with a
 * few special ones). Output: one word. */
#define CONF_ELEMENTWISE(X)                                                                    \
  X(bf2f, CONF_F32, __float_as_uint(bf2f((bf16)a)))                                            \
  X(bf2lo, CONF_F32, __float_as_uint(bf2lo(a)))                                                \
  X(bf2hi, CONF_F32, __float_as_uint(bf2hi(a)))                                                \
  X(f2bf, CONF_BF16, f2bf(__uint_as_float(a)))                                                 \
  X(f2bf2, CONF_BF16, f2bf2(__uint_as_float(a), __uint_as_float(b)))                           \
  X(h2f, CONF_F32, __float_as_uint(h2f((f16)a)))                                               \
  X(h2lo, CONF_F32, __float_as_uint(h2lo(a)))                                                  \
  X(h2hi, CONF_F32, __float_as_uint(h2hi(a)))                                                  \
  X(f2h, CONF_F16, f2h(__uint_as_float(a)))                                                    \
  X(f2h_near, CONF_F16, f2h(h2f((f16)a) * (1 + (float)(int)(b % 5 - 2) * 0.000244140625f)))    \
  X(f2h2, CONF_F16, f2h2(fa, fb))                                                              \
  X(cu_h2fma, CONF_F16, cu_h2fma(a, b, c))                                                     \
  X(cu_h2add, CONF_F16, cu_h2add(a, b))                                                        \
  X(cu_h2sub, CONF_F16, cu_h2sub(a, b))                                                        \
  X(cu_h2mul, CONF_F16, cu_h2mul(a, b))                                                        \
  X(cu_bf2fma, CONF_BF16, cu_bf2fma(a, b, c))                                                  \
  X(cu_bf2add, CONF_BF16, cu_bf2add(a, b))                                                     \
  X(cu_bf2mul, CONF_BF16, cu_bf2mul(a, b))                                                     \
  X(cu_exp2, CONF_APPROX, __float_as_uint(cu_exp2(fa)))                                        \
  X(cu_log2, CONF_LOG2, __float_as_uint(cu_log2(fabsf(fa))))                                   \
  X(cu_rcp, CONF_APPROX, __float_as_uint(cu_rcp(fa)))                                          \
  X(cu_tanh, CONF_TANH, __float_as_uint(cu_tanh(fa)))                                          \
  X(fdividef, CONF_APPROX, __float_as_uint(__fdividef(fa, fb)))                                \
  X(rsqrtf, CONF_APPROX, __float_as_uint(rsqrtf(fabsf(fa))))                                   \
  X(cu_opaque, CONF_BITS, (uint32_t)cu_opaque((int)a))                                         \
  X(cu_and_or, CONF_BITS, cu_and_or(a, b, c))                                                  \
  X(popc, CONF_BITS, (uint32_t)__popc(a))                                                      \
  X(clz, CONF_BITS, (uint32_t)__clz((int)(a >> (b & 31))))                                     \
  X(ffs, CONF_BITS, (uint32_t)__ffs((int)(a << (b & 31))))                                     \
  X(brev, CONF_BITS, __brev(a))                                                                \
  X(byte_perm, CONF_BITS, __byte_perm(a, b, c & 0x7777u))                                      \
  X(funnel_l, CONF_BITS, __funnelshift_l(a, b, c))                                             \
  X(funnel_r, CONF_BITS, __funnelshift_r(a, b, c))                                             \
  X(umulhi, CONF_BITS, __umulhi(a, b))                                                         \
  X(mulhi, CONF_BITS, (uint32_t)__mulhi((int)a, (int)b))                                       \
  X(dp4a_s, CONF_BITS, (uint32_t)__dp4a((int)a, (int)b, (int)c))                               \
  X(dp4a_u, CONF_BITS, __dp4a(a, b, c))                                                        \
  X(fadd, CONF_F32, __float_as_uint(__fadd_rn(fa, fb)))                                        \
  X(fmul, CONF_F32, __float_as_uint(__fmul_rn(fa, fb)))                                        \
  X(fdiv, CONF_F32, __float_as_uint(__fdiv_rn(fa, fb)))                                        \
  X(fsqrt, CONF_F32, __float_as_uint(__fsqrt_rn(fabsf(fa))))                                   \
  X(fma_f, CONF_F32, __float_as_uint(__fmaf_rn(fa, fb, fc)))                                   \
  X(fma_d, CONF_F32, __float_as_uint(__double2float_rn(__fma_rn(fa, fb, __dmul_rn(fc, 0.1))))) \
  X(to_int_rn, CONF_BITS, (uint32_t)__float2int_rn(fa *fb))                                    \
  X(to_int_rz, CONF_BITS, (uint32_t)__float2int_rz(fa * 1e8f))                                 \
  X(to_int_rd, CONF_BITS, (uint32_t)__float2int_rd(fa))                                        \
  X(to_int_ru, CONF_BITS, (uint32_t)__float2int_ru(fa))                                        \
  X(to_uint_rn, CONF_BITS, __float2uint_rn(fa))                                                \
  X(from_int, CONF_F32, __float_as_uint(__int2float_rn((int)a)))                               \
  X(saturate, CONF_F32, __float_as_uint(__saturatef(fa) + 0.0f))                               \
  X(min_f, CONF_F32, __float_as_uint(fminf(fa, fb)))                                           \
  X(max_i, CONF_BITS, (uint32_t)max((int)a, (int)b))

/* Of a warp: name, kind. Each lane has the words in[0..10] and gives CONF_OUT words. */
enum { CONF_OUT = 4 };
#define CONF_WARP(X)              \
  X(mma_bf16, CONF_MMA)           \
  X(mma_bf16_zero, CONF_MMA)      \
  X(mma_f16, CONF_MMA)            \
  X(mma_f16_zero, CONF_MMA)       \
  X(mma_s8, CONF_BITS)            \
  X(mma_s8_zero, CONF_BITS)       \
  X(ldmatrix_x1, CONF_BITS)       \
  X(ldmatrix_x2, CONF_BITS)       \
  X(ldmatrix_x4, CONF_BITS)       \
  X(ldmatrix_x1_trans, CONF_BITS) \
  X(ldmatrix_x2_trans, CONF_BITS) \
  X(ldmatrix_x4_trans, CONF_BITS) \
  X(shfl, CONF_BITS)              \
  X(vote, CONF_BITS)              \
  X(reduce, CONF_BITS)            \
  X(cp_async, CONF_BITS)          \
  X(load_store, CONF_BITS)        \
  X(atomics, CONF_BITS)           \
  X(system, CONF_BITS)            \
  X(barriers, CONF_BITS)

enum conf_case {
#define X(name, kind, expr) CONF_E_##name,
  CONF_ELEMENTWISE(X)
#undef X
#define X(name, kind) CONF_W_##name,
      CONF_WARP(X)
#undef X
          CONF_N_CASES
};

#ifdef __cplusplus
extern "C" {
#endif
const char *conf_name(int c);
conf_kind conf_kind_of(int c);
int conf_n_out(int c); /* words in all */

enum { CONF_WORDS = 16 }; /* of input for each thread */
/* The inputs of all cases, [CONF_N][CONF_WORDS]: words 0..2 random and special bits, 3..5 floats, 6..15
 * random; made from integers alone, so that every machine has the same. */
void conf_inputs(uint32_t *in);
/* What case c must give. */
void conf_reference(int c, const uint32_t *in, uint32_t *out);
/* How many of n words of case c differ; says the first few. `in` may be NULL. */
int conf_compare(int c, const uint32_t *got, const uint32_t *want, int n);
#ifdef __cplusplus
}
#endif
#endif
