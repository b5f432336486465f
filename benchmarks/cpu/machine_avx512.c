/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512: walks and the peaks of f32, of 8-bit dot products (VNNI) and of bfloat16 ones. Pure functions; any
 * thread; compiled for these instruction sets and only called where the device found them; for bfloat16
 * machine_peaks.c looks too. */
#include <immintrin.h>
#include <stdint.h>

#define VEC 64
typedef __m512i vec;
static inline void vec_touch(const uint8_t *p) {
  __asm__ volatile("vmovdqu64 %0, %%zmm0" ::"m"(*(const uint8_t(*)[VEC])p) : "xmm0");
}
static inline vec vec_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline void vec_store(uint8_t *p, vec v) { _mm512_storeu_si512(p, v); }
static inline void vec_around(uint8_t *p, vec v) { _mm512_stream_si512((void *)p, v); }
#include "cpu/machine_walk.h"

/* Independent chains, enough for two units of a latency of six; in assembly because compilers put such
 * accumulators on the stack. zmm16 and above are left alone: the compiler need not know that they are there.
 * 0x3f803f80 is two ones in bfloat16, a little above one in f32, and bytes like any other. */
#define PEAK(name, instruction)                                                                          \
  static void name(int64_t loops) {                                                                      \
    static const uint32_t ones = 0x3f803f80;                                                             \
    __asm__ volatile(                                                                                    \
        "vpbroadcastd %1, %%zmm14\n\t"                                                                   \
        "vmovdqa64 %%zmm14, %%zmm15\n\t"                                                                 \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n\t"                                                     \
        "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n\t"                                                        \
        ".endr\n"                                                                                        \
        "1:\n\t"                                                                                         \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n\t" instruction                                         \
        " %%zmm14, %%zmm15, %%zmm\\r\n\t"                                                                \
        ".endr\n\t"                                                                                      \
        "dec %0\n\t"                                                                                     \
        "jnz 1b\n\t"                                                                                     \
        "vzeroupper"                                                                                     \
        : "+r"(loops)                                                                                    \
        : "m"(ones)                                                                                      \
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                                  \
  }

PEAK(peak_f32, "vfmadd231ps")
PEAK(peak_dot, "vpdpbusd")
PEAK(peak_bf16, "vdpbf16ps")

enum { CHAINS = 14 };

const machine_isa machine_avx512 = {read_plain,
                                    read_ahead,
                                    read_streams,
                                    copy,
                                    copy_around,
                                    {{"f32 avx512", CHAINS * 16 * 2, peak_f32, 0},
                                     {"i8 avx512-vnni", CHAINS * 64 * 2, peak_dot, 0},
                                     {"bf16 avx512", CHAINS * 32 * 2, peak_bf16, MACHINE_BF16}}};
