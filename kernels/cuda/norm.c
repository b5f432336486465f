/* SPDX-License-Identifier: Apache-2.0 */
/* Residual add and RMSNorm on the GPU. Owns nothing; enqueues; the thread that owns the device. */
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/norm_kernels.h"
#include "kernels/cuda/quad.h"

weir_status weir_cuda_add_rmsnorm(weir_dev *dev, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                                  float eps, weir_err *e) {
  const weir_cuk_add_rmsnorm_args a = {
      .y = y.data,
      .resid = resid.data,
      .delta = delta.data,
      .w = w,
      .y_ld = y.ld,
      .resid_ld = resid.ld,
      .delta_ld = delta.ld,
      .rows = y.rows,
      .cols = y.cols,
      .eps = eps,
      .aligned = y.cols % 4 == 0 && weir_quad_mat(y) && weir_quad_mat(resid) &&
                 (delta.data == NULL || weir_quad_mat(delta)) && weir_quad_ptr(w),
  };
  return weir_cuda_check(dev, weir_cuk_add_rmsnorm(&a, weir_cuda_of(dev)->stream), "launch add_rmsnorm", e);
}
