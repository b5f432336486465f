/* SPDX-License-Identifier: Apache-2.0 */
#include "probe.h"

#include "kernels/cuda/cu.h"

static __global__ void step(probe_step_args a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < a.n) a.x[i] = 2 * a.x[i] + a.add[0];
}

extern "C" cudaError_t probe_step(const probe_step_args *a, cudaStream_t stream) {
  CU_LAUNCH(step, (a->n + 31) / 32, 32, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}
