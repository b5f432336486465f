/* SPDX-License-Identifier: Apache-2.0 */
/* Picks rows, copies pages of KV, on the GPU. Owns nothing; enqueues; the thread that owns the device. */
#include "kernels/cuda/copy_kernels.h"
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/quad.h"

weir_status weir_cuda_gather_rows(weir_dev *dev, weir_mat y, weir_mat x, const int32_t *row, weir_err *e) {
  const weir_cuk_gather_rows_args a = {
      .y = y.data,
      .x = x.data,
      .y_ld = y.ld,
      .x_ld = x.ld,
      .row = row,
      .rows = y.rows,
      .x_rows = x.rows,
      .cols = y.cols,
      .aligned = y.cols % 4 == 0 && weir_quad_mat(y) && weir_quad_mat(x),
  };
  return weir_cuda_check(dev, weir_cuk_gather_rows(&a, weir_cuda_of(dev)->stream), "launch gather_rows", e);
}

/* Whether `src` -> `dst` may run at once with the pairs in `a`: it reads no page that they write and writes
 * none that they use. */
static bool independent(const weir_cuk_kv_copy_args *a, int32_t src, int32_t dst) {
  for (int32_t i = 0; i < a->n_pairs; i++)
    if (src == a->src_dst[2 * i + 1] || dst == a->src_dst[2 * i] || dst == a->src_dst[2 * i + 1])
      return false;
  return true;
}

/* The pairs count as done one after the other. Those that do not touch each other go in one launch; the first
 * that does opens the next, which the stream runs after it. */
weir_status weir_cuda_kv_copy(weir_dev *dev, weir_kv_layer kv, const int32_t *src_dst, int32_t n_pairs,
                              weir_err *e) {
  const cudaStream_t stream = weir_cuda_of(dev)->stream;
  const int64_t elem = kv.dtype == WEIR_F16 ? 2 : 4;
  weir_cuk_kv_copy_args a = {
      .base = kv.base,
      .page_bytes = 2 * (int64_t)kv.n_kv_heads * kv.page_size * kv.head_dim * elem,
  };
  weir_status st = WEIR_OK;
  a.wide = a.page_bytes % 16 == 0 && weir_quad_ptr(kv.base);
  for (int32_t i = 0; i < n_pairs; i++) {
    const int32_t src = src_dst[2 * i], dst = src_dst[2 * i + 1];
    if (src == dst) continue;
    if (a.n_pairs == WEIR_CUK_COPY_PAIRS || !independent(&a, src, dst)) {
      WEIR_TRY(weir_cuda_check(dev, weir_cuk_kv_copy(&a, stream), "launch kv_copy", e));
      a.n_pairs = 0;
    }
    a.src_dst[2 * a.n_pairs] = src;
    a.src_dst[2 * a.n_pairs + 1] = dst;
    a.n_pairs++;
  }
  if (a.n_pairs > 0) WEIR_TRY(weir_cuda_check(dev, weir_cuk_kv_copy(&a, stream), "launch kv_copy", e));
out:
  return st;
}
