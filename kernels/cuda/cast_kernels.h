/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of cast.cu: activations in the types that matmuls take. */
#ifndef WEIR_KERNELS_CUDA_CAST_KERNELS_H
#define WEIR_KERNELS_CUDA_CAST_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* panel[chunk] <- x[n, cols], panels of panel_rows rows (matmul_kernels.h); rows from n on are zeros. */
typedef struct weir_cuk_panels_args {
  const float *x;
  void *panel;
  int64_t x_ld;
  int32_t n, cols, panel_rows;
  int32_t x_aligned; /* every row of x starts on 16 bytes */
} weir_cuk_panels_args;
cudaError_t weir_cuk_panels(const weir_cuk_panels_args *, cudaStream_t);

/* out[r*out_ld + c] <- x[r*x_ld + c], c < cols; columns cols .. out_ld-1 are zeros. BF16: rounded. F16:
 * divided by scale[r] first, a power of two: 1 where |x| stays below 2^15 in the row and is not tiny (below
 * 2^-2) throughout. */
typedef struct weir_cuk_cast_args {
  const float *x;
  uint16_t *out;
  float *scale; /* [n] F16; NULL: BF16 */
  int64_t x_ld, out_ld;
  int32_t n, cols;
} weir_cuk_cast_args;
cudaError_t weir_cuk_cast(const weir_cuk_cast_args *, cudaStream_t);

/* y[r*y_ld + f] = y * scale[r] + bias[f]; scale or bias may be NULL. A row with scale 1 and no bias is not
 * touched. */
typedef struct weir_cuk_finish_args {
  float *y;
  const float *scale, *bias;
  int64_t y_ld;
  int32_t n, rows;
} weir_cuk_finish_args;
cudaError_t weir_cuk_finish(const weir_cuk_finish_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
