/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of every shape: any head_dim up to 512, F16 and F32 KV, any page size, F32 arithmetic. A block of
 * 16 positions is brought to shared memory as F32, where all 16 rows of a tile use it, four rows a warp:
 * scores with a position a lane, sums with dimensions over lanes. A page number is looked up for each
 * position, so pages may have any size. Nothing is copied ahead: CTAs cover each other's waits. Exact F32
 * sums, expf-grade exponentials: the reference to which the tensor-core kernels are a fast approximation.
 *
 * Registers (nvcc 13.0; no spills, no stack): 56 .. 64 at head_dim <= 32, 127 at 256, 168 at 512. Shared
 * memory: 7.2 KiB at head_dim 32, 49.2 at 256, 97.2 at 512. */
#include "kernels/cuda/attend_any_kernels.h"
#include "kernels/cuda/attend_tile.cuh"

enum {
  ANY_ROWS = WEIR_ATTN_SHORT_ROWS,
  ANY_BLOCK = WEIR_ATTN_SHORT_BLOCK,
  ANY_WARPS = WEIR_ANY_THREADS / 32
};

/* Row by row, lanes over dimensions: reads of whole cache lines whatever head_dim is. */
CU_DEV void any_load_kv(const weir_cuk_attend_args &a, const attend_tile &t, int32_t t0, float *k, float *v) {
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5, ld = a.head_dim + 1;
  const int64_t value = weir_attn_value_offset(&a);
  for (int r = w; r < ANY_BLOCK; r += ANY_WARPS) {
    const bool seen = t0 + r >= t.first && t0 + r < t.end;
    const int64_t at = seen ? (int64_t)attend_kv_row(a, t, t0 + r) * a.head_dim : 0;
    for (int d = lane; d < a.head_dim; d += 32) {
      float x = 0.0f, y = 0.0f;
      if (seen && a.f16) {
        x = h2f(((const f16 *)a.kv)[at + d]);
        y = h2f(((const f16 *)a.kv)[at + value + d]);
      } else if (seen) {
        x = ((const float *)a.kv)[at + d];
        y = ((const float *)a.kv)[at + value + d];
      }
      k[r * ld + d] = x;
      v[r * ld + d] = y;
    }
  }
}

/* N: dimensions a lane has, head_dim <= 32 * N. */
template <int N>
__global__ void __launch_bounds__(WEIR_ANY_THREADS)
    attend_any_kernel(const __grid_constant__ weir_cuk_attend_args a) {
  CU_DYN_SHARED(float, smem);
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5, dim = a.head_dim, ld = dim + 1;
  float *q = smem, *k = q + ANY_ROWS * ld, *v = k + ANY_BLOCK * ld, *p = v + ANY_BLOCK * ld;
  const int half = lane >> 4,
            col = lane & 15; /* scores: rows 4w + 2*half + {0, 1}, position col of the block */
  for (int32_t i = a.list.cta[blockIdx.x]; i < a.list.cta[blockIdx.x + 1]; i++) {
    const attend_tile t = attend_tile_of(a, i);
    float acc[4][N], m[2] = {ATTEND_NONE, ATTEND_NONE}, l[2] = {0.0f, 0.0f};
    int32_t from[2], last[2];
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int n = 0; n < N; n++) acc[r][n] = 0.0f;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int r = 4 * w + 2 * half + j;
      last[j] = r < t.it.n_rows ? a.pos[attend_row_of(a, t, r)] : -1;
      from[j] = weir_attn_seen_from(last[j], a.window);
    }
    for (int r = w; r < ANY_ROWS; r += ANY_WARPS) {
      const bool is_row = r < t.it.n_rows;
      const float *x =
          is_row ? a.q + (int64_t)attend_row_of(a, t, r) * a.q_ld + attend_head_of(a, t, r) * dim : nullptr;
      for (int d = lane; d < dim; d += 32) q[r * ld + d] = is_row ? x[d] : 0.0f;
    }
    for (int32_t t0 = t.begin; t0 < t.end; t0 += ANY_BLOCK) {
      any_load_kv(a, t, t0, k, v);
      __syncthreads();
      float s[2] = {0.0f, 0.0f};
      const float *q0 = q + (4 * w + 2 * half) * ld, *key = k + col * ld;
      for (int d = 0; d < dim; d++) {
        s[0] = fmaf(q0[d], key[d], s[0]);
        s[1] = fmaf(q0[ld + d], key[d], s[1]);
      }
      float shrink[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float x = s[j] * a.scale;
        if (a.softcap > 0.0f) x = a.softcap * tanhf(x / a.softcap);
        x = t0 + col >= from[j] && t0 + col <= last[j] ? x * ATTEND_LOG2E : -INFINITY;
        float top = fmaxf(m[j], x);
#pragma unroll
        for (int o = 1; o < 16; o *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
        shrink[j] = exp2f(m[j] - top);
        m[j] = top;
        x = exp2f(x - top);
        p[(4 * w + 2 * half + j) * ANY_BLOCK + col] = x;
        l[j] = l[j] * shrink[j] + x;
      }
      __syncwarp();
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float f = __shfl_sync(0xffffffffu, shrink[r & 1], (r >> 1) * 16);
        const float *pr = p + (4 * w + r) * ANY_BLOCK;
#pragma unroll
        for (int n = 0; n < N; n++) acc[r][n] *= f;
        for (int c = 0; c < ANY_BLOCK; c++) {
#pragma unroll
          for (int n = 0; n < N; n++)
            if (lane + 32 * n < dim) acc[r][n] = fmaf(pr[c], v[c * ld + lane + 32 * n], acc[r][n]);
        }
      }
      __syncthreads(); /* before the next block overwrites this one */
    }
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int o = 1; o < 16; o *= 2) l[j] += __shfl_xor_sync(0xffffffffu, l[j], o);
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const float top = __shfl_sync(0xffffffffu, m[r & 1], (r >> 1) * 16);
      const float sum = __shfl_sync(0xffffffffu, l[r & 1], (r >> 1) * 16);
      const int row = 4 * w + r;
      if (row >= t.it.n_rows) continue;
      const int64_t slot = (int64_t)t.it.slot * ANY_ROWS + row;
      float *to = t.it.slot < 0
                      ? a.out + (int64_t)attend_row_of(a, t, row) * a.out_ld + attend_head_of(a, t, row) * dim
                      : a.part.acc + slot * dim;
      const float f = t.it.slot < 0 ? 1.0f / sum : 1.0f;
#pragma unroll
      for (int n = 0; n < N; n++)
        if (lane + 32 * n < dim) to[lane + 32 * n] = acc[r][n] * f;
      if (t.it.slot >= 0 && lane == 0) {
        a.part.ml[slot * 2] = sum > 0.0f ? top : -INFINITY;
        a.part.ml[slot * 2 + 1] = sum;
      }
    }
    __syncthreads(); /* before the next item overwrites q */
  }
}

template <int N>
static cudaError_t any_launch(const weir_cuk_attend_args *a, cudaStream_t stream) {
  const size_t smem = weir_cuk_attend_any_smem(a->head_dim);
  const cudaError_t err = cu_allow_smem(attend_any_kernel<N>, smem);
  if (err != cudaSuccess) return err;
  CU_LAUNCH((attend_any_kernel<N>), a->list.n_ctas, WEIR_ANY_THREADS, smem, stream, *a);
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_attend_any(const weir_cuk_attend_args *a, cudaStream_t stream) {
  if (a->head_dim <= 32) return any_launch<1>(a, stream);
  if (a->head_dim <= 64) return any_launch<2>(a, stream);
  if (a->head_dim <= 128) return any_launch<4>(a, stream);
  if (a->head_dim <= 256) return any_launch<8>(a, stream);
  if (a->head_dim <= WEIR_ANY_MAX_HEAD_DIM) return any_launch<16>(a, stream);
  return cudaErrorInvalidValue;
}
