/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels that only tests of the device launch. */
#ifndef WEIR_TESTS_CUDA_PROBE_H
#define WEIR_TESTS_CUDA_PROBE_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* x[i] = 2 * x[i] + add[0]: what it did shows how often and on what it ran. */
typedef struct probe_step_args {
  int32_t *x;
  const int32_t *add; /* [1] */
  int32_t n;
} probe_step_args;
cudaError_t probe_step(const probe_step_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
