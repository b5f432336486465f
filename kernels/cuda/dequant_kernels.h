/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of dequant.cu: rows of a packed segment as a plain matrix. */
#ifndef WEIR_KERNELS_CUDA_DEQUANT_KERNELS_H
#define WEIR_KERNELS_CUDA_DEQUANT_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/cuda/pack.h"
#ifdef __cplusplus
extern "C" {
#endif

/* out[rows][w.cols] <- rows first .. first + rows of a quantised segment, counted from its own start; 16-byte
 * aligned. Other types and rows that are not there: cudaErrorInvalidValue. */
typedef struct weir_cuk_dequant_rows_args {
  weir_segment w;
  void *out;
  int32_t first, rows;
} weir_cuk_dequant_rows_args;
cudaError_t weir_cuk_dequant_rows(const weir_cuk_dequant_rows_args *, cudaStream_t); /* BF16, nearest even */
cudaError_t weir_cuk_dequant_rows_f32(const weir_cuk_dequant_rows_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
