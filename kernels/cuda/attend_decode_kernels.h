/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel of short tiles of attention: decode, and verification of a few tokens; C and C++ alike. */
#ifndef WEIR_KERNELS_CUDA_ATTEND_DECODE_KERNELS_H
#define WEIR_KERNELS_CUDA_ATTEND_DECODE_KERNELS_H
#include <cuda_runtime_api.h>

#include "kernels/cuda/attend_dev.h"

enum { WEIR_DECODE_THREADS = 128 }; /* of a CTA: four warps, each with a ring of its own */

/* Blocks in a warp's ring. */
static inline int32_t weir_cuk_attend_decode_stages(int32_t head_dim) { return head_dim == 128 ? 3 : 4; }
/* Dynamic shared memory of a CTA, bytes: four rings of blocks of K and V. 96 KiB at head_dim 128, 64 at 64.
 */
static inline size_t weir_cuk_attend_decode_smem(int32_t head_dim) {
  return (size_t)(WEIR_DECODE_THREADS / 32) * (size_t)weir_cuk_attend_decode_stages(head_dim) * 2 *
         WEIR_ATTN_SHORT_BLOCK * (size_t)head_dim * 2;
}

#ifdef __cplusplus
extern "C" {
#endif
/* F16 KV, 16-byte aligned, page_size a multiple of 16, head_dim 64 or 128, any group; cudaErrorInvalidValue
 * for another shape. Does list.item of the CTAs, tiles of up to WEIR_ATTN_SHORT_ROWS packed rows. */
cudaError_t weir_cuk_attend_decode(const weir_cuk_attend_args *, cudaStream_t);
#ifdef __cplusplus
}
#endif
#endif
