/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of shapes that have no kernel of their own, and the merge of pieces; C and C++ alike. */
#ifndef WEIR_KERNELS_CUDA_ATTEND_ANY_KERNELS_H
#define WEIR_KERNELS_CUDA_ATTEND_ANY_KERNELS_H
#include <cuda_runtime_api.h>

#include "kernels/cuda/attend_dev.h"

enum { WEIR_ANY_THREADS = 128, WEIR_ANY_MAX_HEAD_DIM = 512, WEIR_MERGE_THREADS = 128 };

/* Dynamic shared memory of a CTA, bytes, F32: rows of q, a block of K and one of V, rows one longer than
 * head_dim against bank conflicts; the weights of a block. 97.2 KiB at head_dim 512. */
static inline size_t weir_cuk_attend_any_smem(int32_t head_dim) {
  return ((size_t)(WEIR_ATTN_SHORT_ROWS + 2 * WEIR_ATTN_SHORT_BLOCK) * (size_t)(head_dim + 1) +
          (size_t)WEIR_ATTN_SHORT_ROWS * WEIR_ATTN_SHORT_BLOCK) *
         sizeof(float);
}

/* All pieces of both lists into rows of out. */
typedef struct weir_cuk_attend_merge_args {
  float *out;
  const int32_t *q_indptr;
  int32_t out_ld, group, head_dim, n_ctas;
  weir_attn_list list[WEIR_ATTN_LISTS];
  weir_attn_part part[WEIR_ATTN_LISTS];
  int32_t tile_rows[WEIR_ATTN_LISTS];
} weir_cuk_attend_merge_args;

#ifdef __cplusplus
extern "C" {
#endif
/* Any group, page_size, alignment of 4 bytes (2 of F16 KV), head_dim up to WEIR_ANY_MAX_HEAD_DIM (beyond:
 * cudaErrorInvalidValue). Does list.item of the CTAs, tiles of up to WEIR_ATTN_SHORT_ROWS packed rows. */
cudaError_t weir_cuk_attend_any(const weir_cuk_attend_args *, cudaStream_t);
cudaError_t weir_cuk_attend_merge(const weir_cuk_attend_merge_args *, cudaStream_t);
#ifdef __cplusplus
}
#endif
#endif
