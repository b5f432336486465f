/* SPDX-License-Identifier: Apache-2.0 */
/* Unquantised experts times their rows, F32 sums: a warp has four rows of a matrix and takes the picks of its
 * tile eight at a time, one where there is but one. x comes through L1, which all warps of a block share; the
 * weights of a tile of 32 picks come four times, thrice of them from L1 or L2. A lane adds its columns in
 * order, four in a row at a time; then lanes are added by butterfly. */
#include "kernels/cuda/moe_kernels.h"

#include "kernels/cuda/quad.cuh"

namespace {

enum { WARPS = 8, R = 4 };

template <weir_dtype T>
struct elem {
  typedef uint16_t type;
};
template <>
struct elem<WEIR_F32> {
  typedef float type;
};
template <weir_dtype T>
CU_DEV float value(uint16_t v) {
  return T == WEIR_F16 ? h2f(v) : bf2f(v);
}

template <weir_dtype T, bool ALIGNED>
CU_DEV float4 weights(const float *p, int left) {
  return quad_load<ALIGNED>(p, left);
}
template <weir_dtype T, bool ALIGNED>
CU_DEV float4 weights(const uint16_t *p, int left) {
  float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
  if (ALIGNED) {
    if (left <= 0) return v;
    const uint2 b = cu_ldg8(p);
    v.x = value<T>((uint16_t)b.x), v.y = value<T>((uint16_t)(b.x >> 16));
    v.z = value<T>((uint16_t)b.y), v.w = value<T>((uint16_t)(b.y >> 16));
    return v;
  }
  if (left > 0) v.x = value<T>(p[0]);
  if (left > 1) v.y = value<T>(p[1]);
  if (left > 2) v.z = value<T>(p[2]);
  if (left > 3) v.w = value<T>(p[3]);
  return v;
}

/* N picks from `first` on, of which n are there; the rest repeat the last and are not written. */
template <weir_dtype T, int N, bool ALIGNED>
CU_DEV void picks(const weir_cuk_moe_matmul_args &a, const weir_moe_expert &expert, int32_t f0, int32_t first,
                  int n, int lane) {
  typedef typename elem<T>::type W;
  const W *w = static_cast<const W *>(expert.low);
  const float *x[N];
  float acc[R][N];
#pragma unroll
  for (int j = 0; j < N; j++) {
    const int32_t i = first + min(j, n - 1);
    x[j] = a.x + (a.sorted_x ? i : a.pick[i] / a.n_used) * a.x_ld;
#pragma unroll
    for (int r = 0; r < R; r++) acc[r][j] = 0.0f;
  }
  for (int32_t c = 4 * lane; c < a.cols; c += 128) {
    const int left = a.cols - c;
    float4 v[R];
#pragma unroll
    for (int r = 0; r < R; r++)
      v[r] = weights<T, ALIGNED>(w + (int64_t)min(f0 + r, expert.rows - 1) * a.cols + c, left);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float4 u = quad_load<ALIGNED>(x[j] + c, left);
#pragma unroll
      for (int r = 0; r < R; r++)
        acc[r][j] = fmaf(v[r].w, u.w, fmaf(v[r].z, u.z, fmaf(v[r].y, u.y, fmaf(v[r].x, u.x, acc[r][j]))));
    }
  }
#pragma unroll
  for (int j = 0; j < N; j++)
#pragma unroll
    for (int r = 0; r < R; r++) {
      const float sum = lanes_sum<32>(acc[r][j]);
      if (lane != 0 || j >= n || f0 + r >= expert.rows) continue;
      const int32_t to = a.sorted_x ? a.pick[first + j] : first + j;
      a.y[to * a.y_ld + expert.first + f0 + r] = sum;
    }
}

template <weir_dtype T, bool ALIGNED>
__global__ void __launch_bounds__(WARPS * 32, 2)
    moe_dense(const __grid_constant__ weir_cuk_moe_matmul_args a) {
  if ((int)blockIdx.y >= *a.n_tiles) return;
  const weir_moe_tile tile = a.tile[blockIdx.y];
  const weir_moe_expert &expert = a.expert[tile.expert];
  const int lane = threadIdx.x % 32;
  const int32_t f0 = (int32_t)(blockIdx.x * WARPS + threadIdx.x / 32) * R;
  if (expert.low == nullptr || f0 >= expert.rows) return;
  if (tile.count == 1) {
    picks<T, 1, ALIGNED>(a, expert, f0, tile.first, 1, lane);
    return;
  }
  for (int at = 0; at < tile.count; at += 8)
    picks<T, 8, ALIGNED>(a, expert, f0, tile.first + at, min(8, tile.count - at), lane);
}

template <weir_dtype T>
cudaError_t go(const weir_cuk_moe_matmul_args &a, cudaStream_t stream) {
  const dim3 grid((unsigned)(a.rows_most + WARPS * R - 1) / (WARPS * R), (unsigned)a.tiles_most);
  if (a.aligned)
    CU_LAUNCH((moe_dense<T, true>), grid, WARPS * 32, 0, stream, a);
  else
    CU_LAUNCH((moe_dense<T, false>), grid, WARPS * 32, 0, stream, a);
  return CU_LAUNCH_STATUS();
}

}  // namespace

extern "C" cudaError_t weir_cuk_moe_dense(const weir_cuk_moe_matmul_args *a, cudaStream_t stream) {
  switch (a->dtype) {
    case WEIR_F32: return go<WEIR_F32>(*a, stream);
    case WEIR_F16: return go<WEIR_F16>(*a, stream);
    case WEIR_BF16: return go<WEIR_BF16>(*a, stream);
    default: return cudaErrorInvalidValue;
  }
}
