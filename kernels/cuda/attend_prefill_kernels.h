/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel of long tiles of attention (prefill chunks, catch-up, verification); C and C++ alike. */
#ifndef WEIR_KERNELS_CUDA_ATTEND_PREFILL_KERNELS_H
#define WEIR_KERNELS_CUDA_ATTEND_PREFILL_KERNELS_H
#include <cuda_runtime_api.h>

#include "kernels/cuda/attend_dev.h"

enum {
  WEIR_PREFILL_THREADS = 128, /* of a CTA: four warps */
  WEIR_PREFILL_STAGES = 3     /* blocks of K or of V in the ring */
};

/* Dynamic shared memory of a CTA, bytes: Q of a tile and the ring, F16. 80 KiB at head_dim 128: two CTAs an
 * SM of an A100 (164 KiB) and of an H100 (228 KiB), which is also what their registers allow. */
static inline size_t weir_cuk_attend_prefill_smem(int32_t head_dim) {
  return (size_t)(WEIR_ATTN_LONG_ROWS + WEIR_PREFILL_STAGES * WEIR_ATTN_LONG_BLOCK) * (size_t)head_dim * 2;
}

#ifdef __cplusplus
extern "C" {
#endif
/* F16 KV, 16-byte aligned, page_size a multiple of 16, head_dim 64 or 128, any group; cudaErrorInvalidValue
 * for another shape. Does list.item of the CTAs, tiles of up to WEIR_ATTN_LONG_ROWS packed rows. */
cudaError_t weir_cuk_attend_prefill(const weir_cuk_attend_args *, cudaStream_t);
#ifdef __cplusplus
}
#endif
#endif
