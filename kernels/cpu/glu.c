/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to activations element by element: the gate of an MLP and the soft cap. Owns nothing; runs on
 * the caller's thread and, for many rows, on the device's team. */
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"

typedef struct job {
  const weir_simd *simd;
  weir_mat y, x;
  weir_act act;
  float cap;
} job;

static void glu_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    const float *gate = j->x.data + (size_t)r * (size_t)j->x.ld;
    j->simd->glu(j->y.data + (size_t)r * (size_t)j->y.ld, gate, gate + j->y.cols, j->act, j->y.cols);
  }
}

weir_status weir_cpu_glu(weir_dev *dev, weir_mat y, weir_mat gate_up, weir_act act, weir_err *e) {
  (void)e;
  job j = {.simd = weir_simd_get(weir_cpu_of(dev)->isa), .y = y, .x = gate_up, .act = act};
  weir_cpu_for(dev, y.rows, weir_cpu_grain(y.cols), glu_rows, &j);
  return WEIR_OK;
}

static void cap_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  (void)rank;
  for (int32_t r = begin; r < end; r++)
    j->simd->softcap(j->y.data + (size_t)r * (size_t)j->y.ld, j->cap, j->y.cols);
}

weir_status weir_cpu_softcap(weir_dev *dev, weir_mat x, float cap, weir_err *e) {
  (void)e;
  job j = {.simd = weir_simd_get(weir_cpu_of(dev)->isa), .y = x, .cap = cap};
  weir_cpu_for(dev, x.rows, weir_cpu_grain(x.cols), cap_rows, &j);
  return WEIR_OK;
}
