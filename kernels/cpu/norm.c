/* SPDX-License-Identifier: Apache-2.0 */
/* Residual add and RMSNorm in one pass over each row. Owns nothing; runs on the caller's thread and, for many
 * rows, on the device's team. */
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"

typedef struct job {
  const weir_simd *simd;
  weir_mat y, resid, delta;
  const float *w;
  float eps;
} job;

static void rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    const size_t i = (size_t)r;
    const float *delta = j->delta.data != NULL ? j->delta.data + i * (size_t)j->delta.ld : NULL;
    j->simd->add_rmsnorm(j->y.data + i * (size_t)j->y.ld, j->resid.data + i * (size_t)j->resid.ld, delta,
                         j->w, j->eps, j->y.cols);
  }
}

weir_status weir_cpu_add_rmsnorm(weir_dev *dev, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                                 float eps, weir_err *e) {
  (void)e;
  job j = {weir_simd_get(weir_cpu_of(dev)->isa), y, resid, delta, w, eps};
  weir_cpu_for(dev, y.rows, weir_cpu_grain(y.cols), rows, &j);
  return WEIR_OK;
}
