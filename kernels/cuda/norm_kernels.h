/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of norm.cu. */
#ifndef WEIR_KERNELS_CUDA_NORM_KERNELS_H
#define WEIR_KERNELS_CUDA_NORM_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* resid += delta (NULL: not), y = resid / rms(resid) * w; y may be resid. */
typedef struct weir_cuk_add_rmsnorm_args {
  float *y, *resid;
  const float *delta, *w;
  int64_t y_ld, resid_ld, delta_ld; /* elements */
  int32_t rows, cols;
  float eps;
  int32_t aligned; /* every row and w start on 16 bytes, and cols is a multiple of 4 */
} weir_cuk_add_rmsnorm_args;
cudaError_t weir_cuk_add_rmsnorm(const weir_cuk_add_rmsnorm_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
