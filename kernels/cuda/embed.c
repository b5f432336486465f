/* SPDX-License-Identifier: Apache-2.0 */
/* Token rows of a packed table on the GPU: one launch a segment, each of which writes the rows it has; of a
 * shard one more before, for the ids of other shards. Owns nothing; enqueues; the thread that owns the
 * device. */
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/embed_kernels.h"

weir_status weir_cuda_embed(weir_dev *dev, weir_mat y, const weir_embed_args *x, weir_err *e) {
  const weir_cuda_weight *w = x->table ? x->table->impl : NULL;
  const cudaStream_t stream = weir_cuda_of(dev)->stream;
  const int32_t rows = w ? x->table->rows : 0;
  weir_cuk_embed_args a = {.y = y.data, .token = x->token, .y_ld = y.ld, .n = y.rows, .scale = x->scale};
  weir_status st = WEIR_OK;
  if (rows < x->n_vocab) {
    a.w = (weir_segment){.first = x->first, .rows = rows, .cols = y.cols};
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_embed_others(&a, stream), "launch embed_others", e));
  }
  for (int32_t i = 0; w && i < w->n_segments; i++) {
    a.w = w->segment[i];
    a.w.first += x->first;
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_embed(&a, stream), "launch embed", e));
  }
out:
  return st;
}
