/* SPDX-License-Identifier: Apache-2.0 */
/* silu(gate) * up. Owns nothing; runs on the caller's thread and, for many rows, on the device's team. */
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"

typedef struct job {
  const weir_simd *simd;
  weir_mat y, gate_up;
} job;

static void rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    const float *gate = j->gate_up.data + (size_t)r * (size_t)j->gate_up.ld;
    j->simd->swiglu(j->y.data + (size_t)r * (size_t)j->y.ld, gate, gate + j->y.cols, j->y.cols);
  }
}

weir_status weir_cpu_swiglu(weir_dev *dev, weir_mat y, weir_mat gate_up, weir_err *e) {
  (void)e;
  job j = {weir_simd_get(weir_cpu_of(dev)->isa), y, gate_up};
  weir_cpu_for(dev, y.rows, weir_cpu_grain(y.cols), rows, &j);
  return WEIR_OK;
}
