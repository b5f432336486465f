/* SPDX-License-Identifier: Apache-2.0 */
/* The gate of an MLP and the soft cap on the GPU. Owns nothing; enqueues; the thread that owns the device. */
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/elementwise_kernels.h"
#include "kernels/cuda/quad.h"

weir_status weir_cuda_glu(weir_dev *dev, weir_mat y, weir_mat gate_up, weir_act act, weir_err *e) {
  const weir_cuk_glu_args a = {
      .y = y.data,
      .gate = gate_up.data,
      .up = gate_up.data + y.cols,
      .y_ld = y.ld,
      .x_ld = gate_up.ld,
      .rows = y.rows,
      .cols = y.cols,
      .gelu = act == WEIR_ACT_GELU_TANH,
      .aligned = y.cols % 4 == 0 && weir_quad_mat(y) && weir_quad_mat(gate_up),
  };
  return weir_cuda_check(dev, weir_cuk_glu(&a, weir_cuda_of(dev)->stream), "launch glu", e);
}

weir_status weir_cuda_softcap(weir_dev *dev, weir_mat x, float cap, weir_err *e) {
  const weir_cuk_softcap_args a = {
      .x = x.data,
      .ld = x.ld,
      .rows = x.rows,
      .cols = x.cols,
      .cap = cap,
      .aligned = x.cols % 4 == 0 && weir_quad_mat(x),
  };
  return weir_cuda_check(dev, weir_cuk_softcap(&a, weir_cuda_of(dev)->stream), "launch softcap", e);
}
