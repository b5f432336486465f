/* SPDX-License-Identifier: Apache-2.0 */
/* Rotation by position and append to the paged KV on the GPU. Owns nothing; enqueues; the thread that owns
 * the device. */
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/quad.h"
#include "kernels/cuda/rope_kernels.h"

weir_status weir_cuda_rope_angles(weir_dev *dev, weir_mat angles, const weir_ragged *ragged,
                                  const float *inv_freq, float mscale, weir_err *e) {
  const weir_cuk_rope_angles_args a = {
      .angles = angles.data,
      .ld = angles.ld,
      .pos = ragged->pos,
      .inv_freq = inv_freq,
      .rows = angles.rows,
      .half = angles.cols / 2,
      .mscale = mscale,
  };
  return weir_cuda_check(dev, weir_cuk_rope_angles(&a, weir_cuda_of(dev)->stream), "launch rope_angles", e);
}

weir_status weir_cuda_rope_append(weir_dev *dev, const weir_rope_args *args, const weir_ragged *ragged,
                                  weir_err *e) {
  const weir_cuk_rope_append_args a = {
      .qkv = args->qkv.data,
      .angles = args->angles.data,
      .qkv_ld = args->qkv.ld,
      .angles_ld = args->angles.ld,
      .q_norm = args->q_norm,
      .k_norm = args->k_norm,
      .pos = ragged->pos,
      .seq = ragged->seq,
      .page_indptr = ragged->page_indptr,
      .page = ragged->page,
      .kv = args->kv.base,
      .n_tokens = ragged->n_tokens,
      .n_heads = args->n_heads,
      .n_kv_heads = args->kv.n_kv_heads,
      .head_dim = args->kv.head_dim,
      .rope_dims = args->rope_dims,
      .page_size = args->kv.page_size,
      .n_pages = args->kv.n_pages,
      .interleaved = args->interleaved,
      .f16 = args->kv.dtype == WEIR_F16,
      .aligned = weir_quad_mat(args->qkv) && (args->rope_dims == 0 || weir_quad_mat(args->angles)) &&
                 weir_quad_ptr(args->q_norm) && weir_quad_ptr(args->k_norm) && weir_quad_ptr(args->kv.base),
      .eps = args->norm_eps,
  };
  return weir_cuda_check(dev, weir_cuk_rope_append(&a, weir_cuda_of(dev)->stream), "launch rope_append", e);
}
