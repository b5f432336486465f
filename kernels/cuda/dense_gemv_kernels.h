/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of dense_gemv.cu: unquantised weights times up to eight rows. */
#ifndef WEIR_KERNELS_CUDA_DENSE_GEMV_KERNELS_H
#define WEIR_KERNELS_CUDA_DENSE_GEMV_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/dtype.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { WEIR_GEMV_MAX_ROWS = 8 };

/* y[r*y_ld + f] = sum over c of x[r*x_ld + c] w[f*cols + c] + bias[f], r < n, f < rows; sums in F32, in an
 * order that depends on cols, rows, the type and n_sms alone. */
typedef struct weir_cuk_dense_gemv_args {
  const void *w; /* [rows, cols], row-major */
  const float *x, *bias;
  float *y;
  int64_t x_ld, y_ld;
  int32_t rows, cols, n; /* n 1 .. WEIR_GEMV_MAX_ROWS */
  int32_t aligned;       /* every row of w starts on 16 bytes, and cols is a multiple of 8 */
  int32_t n_sms;
} weir_cuk_dense_gemv_args;
cudaError_t weir_cuk_dense_gemv(weir_dtype t, const weir_cuk_dense_gemv_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
