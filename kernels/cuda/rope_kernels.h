/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of rope.cu. */
#ifndef WEIR_KERNELS_CUDA_ROPE_KERNELS_H
#define WEIR_KERNELS_CUDA_ROPE_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* angles[i][j] = mscale * cos(pos[i] * inv_freq[j]), angles[i][half + j] = mscale * sin(...); right for
 * |pos * inv_freq| < 2^20 pi/2. */
typedef struct weir_cuk_rope_angles_args {
  float *angles;
  int64_t ld;
  const int32_t *pos;    /* [rows] */
  const float *inv_freq; /* [half] */
  int32_t rows, half;
  float mscale;
} weir_cuk_rope_angles_args;
cudaError_t weir_cuk_rope_angles(const weir_cuk_rope_angles_args *, cudaStream_t);

/* Norm and rotation of q and k in place, append of k and v to the KV; fields as in weir_rope_args. */
typedef struct weir_cuk_rope_append_args {
  float *qkv;
  const float *angles;
  int64_t qkv_ld, angles_ld;
  const float *q_norm, *k_norm; /* [head_dim] or NULL */
  const int32_t *pos, *seq, *page_indptr, *page;
  void *kv;
  int32_t n_tokens, n_heads, n_kv_heads, head_dim, rope_dims, page_size, n_pages;
  int32_t interleaved, f16;
  int32_t aligned; /* rows of qkv and angles, norms and KV start on 16 bytes */
  float eps;
} weir_cuk_rope_append_args;
cudaError_t weir_cuk_rope_append(const weir_cuk_rope_append_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
