/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel of embed.cu. */
#ifndef WEIR_KERNELS_CUDA_EMBED_KERNELS_H
#define WEIR_KERNELS_CUDA_EMBED_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/cuda/pack.h"
#ifdef __cplusplus
extern "C" {
#endif

/* y[i] <- row token[i] of the weight the segment is of, times scale, for those ids that lie in the segment;
 * the other rows of y are left alone. */
typedef struct weir_cuk_embed_args {
  weir_segment w;
  float *y;
  const int32_t *token; /* [n] */
  int64_t y_ld;         /* elements */
  int32_t n;
  float scale;
} weir_cuk_embed_args;
cudaError_t weir_cuk_embed(const weir_cuk_embed_args *, cudaStream_t);
/* y[i] <- -0 for those ids that do not lie in [w.first, w.first + w.rows); the other rows are left alone. Of
 * w only cols is read besides. */
cudaError_t weir_cuk_embed_others(const weir_cuk_embed_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
