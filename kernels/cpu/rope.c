/* SPDX-License-Identifier: Apache-2.0 */
/* Rotation by position and append to the paged KV. Owns nothing; runs on the caller's thread and, for many
 * rows, on the device's team. Rows of one step stand at different positions of the KV, so no two write alike.
 */
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"

typedef struct job {
  const weir_simd *simd;
  const weir_rope_args *args;
  const weir_ragged *ragged;
  weir_mat angles; /* of rope_angles */
  const float *inv_freq;
  float mscale;
} job;

static void angle_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  const int32_t half = j->angles.cols / 2;
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    float *cos_out = j->angles.data + (size_t)r * (size_t)j->angles.ld;
    j->simd->rope_angles(cos_out, cos_out + half, j->ragged->pos[r], j->inv_freq, j->mscale, half);
  }
}

weir_status weir_cpu_rope_angles(weir_dev *dev, weir_mat angles, const weir_ragged *ragged,
                                 const float *inv_freq, float mscale, weir_err *e) {
  (void)e;
  job j = {.simd = weir_simd_get(weir_cpu_of(dev)->isa),
           .ragged = ragged,
           .angles = angles,
           .inv_freq = inv_freq,
           .mscale = mscale};
  weir_cpu_for(dev, angles.rows, weir_cpu_grain(8 * angles.cols), angle_rows, &j);
  return WEIR_OK;
}

static void append_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const job *j = (const job *)ctx;
  const weir_rope_args *a = j->args;
  const weir_kv_layer *kv = &a->kv;
  const weir_ragged *g = j->ragged;
  const size_t row_bytes = (size_t)kv->head_dim * (kv->dtype == WEIR_Q8_0  ? 1
                                                   : kv->dtype == WEIR_F16 ? 2
                                                                           : 4);
  const size_t head_bytes = weir_kv_head_bytes(kv), half_bytes = head_bytes * (size_t)kv->n_kv_heads;
  weir_rope_row row = {.q_norm = a->q_norm,
                       .k_norm = a->k_norm,
                       .norm_eps = a->norm_eps,
                       .n_heads = a->n_heads,
                       .n_kv_heads = kv->n_kv_heads,
                       .head_dim = kv->head_dim,
                       .rope_dims = a->rope_dims,
                       .interleaved = a->interleaved,
                       .kv_type = kv->dtype,
                       .page_size = kv->page_size,
                       .head_bytes = head_bytes};
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    const int32_t pos = g->pos[r], page = g->page[g->page_indptr[g->seq[r]] + pos / kv->page_size];
    row.qkv = a->qkv.data + (size_t)r * (size_t)a->qkv.ld;
    if (a->rope_dims > 0) {
      row.cos = a->angles.data + (size_t)r * (size_t)a->angles.ld;
      row.sin = row.cos + a->rope_dims / 2;
    }
    const int32_t slot = pos % kv->page_size;
    row.k = (char *)kv->base + (size_t)page * 2 * half_bytes + (size_t)slot * row_bytes;
    row.v = row.k + half_bytes;
    row.scale_at = (size_t)(kv->page_size - slot) * (size_t)kv->head_dim + 2 * (size_t)slot;
    j->simd->rope_row(&row);
  }
}

weir_status weir_cpu_rope_append(weir_dev *dev, const weir_rope_args *args, const weir_ragged *ragged,
                                 weir_err *e) {
  (void)e;
  job j = {.simd = weir_simd_get(weir_cpu_of(dev)->isa), .args = args, .ragged = ragged};
  weir_cpu_for(dev, args->qkv.rows, weir_cpu_grain(args->qkv.cols), append_rows, &j);
  return WEIR_OK;
}
