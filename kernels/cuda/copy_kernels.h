/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of copy.cu. */
#ifndef WEIR_KERNELS_CUDA_COPY_KERNELS_H
#define WEIR_KERNELS_CUDA_COPY_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = x[row[i]]; a row that x has not comes out as NaN. */
typedef struct weir_cuk_gather_rows_args {
  float *y;
  const float *x;
  int64_t y_ld, x_ld; /* elements */
  const int32_t *row; /* [rows] device memory */
  int32_t rows, x_rows, cols;
  int32_t aligned; /* all rows start on 16 bytes, and cols is a multiple of 4 */
} weir_cuk_gather_rows_args;
cudaError_t weir_cuk_gather_rows(const weir_cuk_gather_rows_args *, cudaStream_t);

enum { WEIR_CUK_COPY_PAIRS = 128 };

/* Whole pages, all pairs at once: no page is in two pairs unless both only read it. The pairs travel with the
 * launch, in the kernel's arguments. */
typedef struct weir_cuk_kv_copy_args {
  void *base;
  int64_t page_bytes; /* a multiple of 4 */
  int32_t n_pairs;
  int32_t wide; /* base and page_bytes are multiples of 16 */
  int32_t src_dst[2 * WEIR_CUK_COPY_PAIRS];
} weir_cuk_kv_copy_args;
cudaError_t weir_cuk_kv_copy(const weir_cuk_kv_copy_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
