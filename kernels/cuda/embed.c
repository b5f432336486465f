/* SPDX-License-Identifier: Apache-2.0 */
/* Token rows of a packed table on the GPU: one launch a segment, each of which writes the rows it has. Owns
 * nothing; enqueues; the thread that owns the device. */
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/embed_kernels.h"

weir_status weir_cuda_embed(weir_dev *dev, weir_mat y, const weir_weight *table, const int32_t *token,
                            float scale, weir_err *e) {
  const weir_cuda_weight *w = table->impl;
  for (int32_t i = 0; i < w->n_segments; i++) {
    const weir_cuk_embed_args a = {
        .w = w->segment[i], .y = y.data, .token = token, .y_ld = y.ld, .n = y.rows, .scale = scale};
    const weir_status st =
        weir_cuda_check(dev, weir_cuk_embed(&a, weir_cuda_of(dev)->stream), "launch embed", e);
    if (st != WEIR_OK) return st;
  }
  return WEIR_OK;
}
