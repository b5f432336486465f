/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of elementwise.cu. */
#ifndef WEIR_KERNELS_CUDA_ELEMENTWISE_KERNELS_H
#define WEIR_KERNELS_CUDA_ELEMENTWISE_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* y[rows, cols] = act(gate) * up; y may be gate or up. */
typedef struct weir_cuk_glu_args {
  float *y;
  const float *gate, *up;
  int64_t y_ld, x_ld; /* elements; gate and up have the same */
  int32_t rows, cols;
  int32_t gelu;    /* 0: SiLU */
  int32_t aligned; /* all rows start on 16 bytes, and cols is a multiple of 4 */
} weir_cuk_glu_args;
cudaError_t weir_cuk_glu(const weir_cuk_glu_args *, cudaStream_t);

/* x <- cap * tanh(x / cap) */
typedef struct weir_cuk_softcap_args {
  float *x;
  int64_t ld;
  int32_t rows, cols;
  float cap;
  int32_t aligned;
} weir_cuk_softcap_args;
cudaError_t weir_cuk_softcap(const weir_cuk_softcap_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
