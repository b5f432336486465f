/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of attention that were computed in pieces: out = sum 2^(m_i - M) acc_i / sum 2^(m_i - M) l_i. A CTA
 * takes a row; its four warps take every fourth piece each, so that the few long rows of a small batch, cut
 * into dozens of pieces, do not wait for one piece after another. Bound by latency: some 2 us. */
#include "kernels/cuda/attend_any_kernels.h"
#include "kernels/cuda/cu.h"

enum { MERGE_WARPS = WEIR_MERGE_THREADS / 32, MERGE_COLS = 128 /* dimensions of a pass: four a lane */ };

CU_DEV void merge_row(const weir_cuk_attend_merge_args &a, const weir_attn_part &part,
                      const weir_attn_merge &g, int32_t tile_rows, int32_t r, float *shared) {
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
  const int64_t first = (int64_t)g.slot * tile_rows + r; /* of piece i: first + i*tile_rows */
  float top = -INFINITY, sum = 0.0f;
  for (int32_t i = lane; i < g.n_slots; i += 32)
    top = fmaxf(top, part.ml[(first + (int64_t)i * tile_rows) * 2]);
#pragma unroll
  for (int o = 1; o < 32; o *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
  for (int32_t i = lane; i < g.n_slots; i += 32) {
    const float *ml = part.ml + (first + (int64_t)i * tile_rows) * 2;
    if (ml[1] > 0.0f) sum += ml[1] * exp2f(ml[0] - top);
  }
#pragma unroll
  for (int o = 1; o < 32; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  const int32_t f = g.row + r;
  float *out = a.out + (int64_t)(a.q_indptr[g.seq] + f / a.group) * a.out_ld +
               (int64_t)(g.kv_head * a.group + f % a.group) * a.head_dim;
  for (int32_t base = 0; base < a.head_dim; base += MERGE_COLS) {
    float x[MERGE_COLS / 32] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (int32_t i = w; i < g.n_slots; i += MERGE_WARPS) {
      const int64_t at = first + (int64_t)i * tile_rows;
      if (!(part.ml[at * 2 + 1] > 0.0f)) continue; /* its acc was perhaps never written */
      const float share = exp2f(part.ml[at * 2] - top);
#pragma unroll
      for (int n = 0; n < MERGE_COLS / 32; n++) {
        const int32_t d = base + lane + 32 * n;
        if (d < a.head_dim) x[n] = fmaf(share, part.acc[at * a.head_dim + d], x[n]);
      }
    }
    __syncthreads(); /* the last pass has been read */
#pragma unroll
    for (int n = 0; n < MERGE_COLS / 32; n++) shared[w * MERGE_COLS + lane + 32 * n] = x[n];
    __syncthreads();
    const int32_t d = base + (int32_t)threadIdx.x;
    if (d < a.head_dim) {
      float y = 0.0f;
#pragma unroll
      for (int k = 0; k < MERGE_WARPS; k++) y += shared[k * MERGE_COLS + threadIdx.x];
      out[d] = y / sum;
    }
  }
}

__global__ void __launch_bounds__(WEIR_MERGE_THREADS, 4)
    attend_merge_kernel(const __grid_constant__ weir_cuk_attend_merge_args a) {
  CU_SHARED(float, shared, MERGE_WARPS *MERGE_COLS);
  static_assert((int)WEIR_MERGE_THREADS == (int)MERGE_COLS, "a thread writes one column of a pass");
#pragma unroll
  for (int n = 0; n < WEIR_ATTN_LISTS; n++) {
    const int32_t n_rows = *a.list[n].n_merges * a.tile_rows[n];
    for (int32_t i = (int32_t)blockIdx.x; i < n_rows; i += a.n_ctas) {
      const weir_attn_merge g = a.list[n].merge[i / a.tile_rows[n]];
      if (i % a.tile_rows[n] < g.n_rows)
        merge_row(a, a.part[n], g, a.tile_rows[n], i % a.tile_rows[n], shared);
    }
  }
}

extern "C" cudaError_t weir_cuk_attend_merge(const weir_cuk_attend_merge_args *a, cudaStream_t stream) {
  CU_LAUNCH(attend_merge_kernel, a->n_ctas, WEIR_MERGE_THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}
