/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel of repack.cu: stored rows into the layout of pack.h. */
#ifndef WEIR_KERNELS_CUDA_REPACK_KERNELS_H
#define WEIR_KERNELS_CUDA_REPACK_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/cuda/pack.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Packs rows first .. first + rows of a quantised segment (first a multiple of 16, counted from its start),
 * stored in `raw` as in the file, row_bytes each; padding of the tiles they touch is written as well. */
typedef struct weir_cuk_repack_args {
  weir_segment w;
  const void *raw; /* 2-byte aligned */
  int64_t row_bytes;
  int32_t first, rows;
} weir_cuk_repack_args;
cudaError_t weir_cuk_repack(const weir_cuk_repack_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
