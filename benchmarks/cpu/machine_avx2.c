/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2 and FMA: walks and the peak of f32. Pure functions; any thread; compiled for this instruction set and
 * only called where the device found it. */
#include <immintrin.h>
#include <stdint.h>

#define VEC 32
typedef __m256i vec;
static inline void vec_touch(const uint8_t *p) {
  __asm__ volatile("vmovdqu %0, %%ymm0" ::"m"(*(const uint8_t(*)[VEC])p) : "xmm0");
}
static inline vec vec_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void vec_store(uint8_t *p, vec v) { _mm256_storeu_si256((__m256i *)p, v); }
static inline void vec_around(uint8_t *p, vec v) { _mm256_stream_si256((__m256i *)p, v); }
#include "cpu/machine_walk.h"

/* Independent chains, as many as registers allow: two units of a latency of four or five. In assembly because
 * compilers put such accumulators on the stack. The operands are ones: no denormals, no infinities. */
static void peak_f32(int64_t loops) {
  static const float one = 1;
  __asm__ volatile(
      "vbroadcastss %1, %%ymm14\n\t"
      "vmovaps %%ymm14, %%ymm15\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n\t"
      "vxorps %%ymm\\r, %%ymm\\r, %%ymm\\r\n\t"
      ".endr\n"
      "1:\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n\t"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\r\n\t"
      ".endr\n\t"
      "dec %0\n\t"
      "jnz 1b\n\t"
      "vzeroupper"
      : "+r"(loops)
      : "m"(one)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

const machine_isa machine_avx2 = {read_plain, read_ahead,  read_streams,
                                  copy,       copy_around, {{"f32 avx2", 12 * 8 * 2, peak_f32, 0}}};
