/* SPDX-License-Identifier: Apache-2.0 */
/* Picks the table of inner loops for an instruction set. The device has made sure that the machine has it. */
#include "kernels/cpu/simd.h"

const weir_simd *weir_simd_get(weir_isa isa) {
  switch (isa) {
    case WEIR_ISA_AMX:
    case WEIR_ISA_AVX512_VNNI: return &weir_simd_avx512;
    case WEIR_ISA_AVX2: return &weir_simd_avx2;
    case WEIR_ISA_SCALAR:
    case WEIR_ISA_BEST: break;
  }
  return &weir_simd_scalar;
}
