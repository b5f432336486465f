/* SPDX-License-Identifier: Apache-2.0 */
/* Residual add and RMSNorm: one block a row, the row in registers between its two passes, so resid, delta and
 * w are read once. Which thread has which element depends on the number of columns alone. */
#include "kernels/cuda/norm_kernels.h"

#include "kernels/cuda/quad.cuh"

/* T threads keep N quads each; of rows wider than 4*T*N the rest is read again from L1 or L2. N = 4 holds 48
 * floats of resid, delta and w: 128 registers a thread are to be had at T = 512, and w is under way while the
 * squares are summed. */
template <int T, int N, bool ALIGNED>
static __global__ void __launch_bounds__(T) add_rmsnorm(const weir_cuk_add_rmsnorm_args a) {
  CU_SHARED(float, part, T / 32);
  const int tid = (int)threadIdx.x, n_quads = (a.cols + 3) / 4;
  float *resid = a.resid + (int64_t)blockIdx.x * a.resid_ld, *y = a.y + (int64_t)blockIdx.x * a.y_ld;
  const float *delta = a.delta != nullptr ? a.delta + (int64_t)blockIdx.x * a.delta_ld : nullptr;
  float4 x[N], w[N];
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < N; k++) {
    const int q = tid + k * T;
    x[k] = quad_load<ALIGNED>(resid + 4 * q, a.cols - 4 * q);
  }
  if (delta != nullptr) {
    float4 d[N];
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int q = tid + k * T;
      d[k] = quad_load<ALIGNED>(delta + 4 * q, a.cols - 4 * q);
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int q = tid + k * T;
      x[k] = quad_add(x[k], d[k]);
      quad_store<ALIGNED>(resid + 4 * q, x[k], a.cols - 4 * q);
    }
  }
#pragma unroll
  for (int k = 0; k < N; k++) {
    const int q = tid + k * T;
    w[k] = quad_load<ALIGNED>(a.w + 4 * q, a.cols - 4 * q);
    sum += quad_square(x[k]);
  }
  for (int q = tid + N * T; q < n_quads; q += T) {
    float4 v = quad_load<ALIGNED>(resid + 4 * q, a.cols - 4 * q);
    if (delta != nullptr) {
      v = quad_add(v, quad_load<ALIGNED>(delta + 4 * q, a.cols - 4 * q));
      quad_store<ALIGNED>(resid + 4 * q, v, a.cols - 4 * q);
    }
    sum += quad_square(v);
  }
  sum = lanes_sum<32>(sum);
  if (tid % 32 == 0) part[tid / 32] = sum;
  __syncthreads();
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < T / 32; i++) square += part[i];
  const float scale = 1.0f / sqrtf(square / (float)a.cols + a.eps);
#pragma unroll
  for (int k = 0; k < N; k++) {
    const int q = tid + k * T;
    quad_store<ALIGNED>(y + 4 * q, quad_scale(x[k], scale, w[k]), a.cols - 4 * q);
  }
  for (int q = tid + N * T; q < n_quads; q += T) {
    const float4 v = quad_load<ALIGNED>(resid + 4 * q, a.cols - 4 * q);
    const float4 g = quad_load<ALIGNED>(a.w + 4 * q, a.cols - 4 * q);
    quad_store<ALIGNED>(y + 4 * q, quad_scale(v, scale, g), a.cols - 4 * q);
  }
}

template <int T, int N>
static cudaError_t launch(const weir_cuk_add_rmsnorm_args *a, cudaStream_t stream) {
  if (a->aligned)
    CU_LAUNCH((add_rmsnorm<T, N, true>), a->rows, T, 0, stream, *a);
  else
    CU_LAUNCH((add_rmsnorm<T, N, false>), a->rows, T, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}

/* As many threads as the row has quads, up to 512: at batch 1 the one block that runs is all latency, and
 * more loads in flight is all that helps. */
extern "C" cudaError_t weir_cuk_add_rmsnorm(const weir_cuk_add_rmsnorm_args *a, cudaStream_t stream) {
  if (a->cols <= 4 * 64) return launch<64, 1>(a, stream);
  if (a->cols <= 4 * 256) return launch<256, 1>(a, stream);
  if (a->cols <= 4 * 512) return launch<512, 1>(a, stream);
  if (a->cols <= 4 * 1024) return launch<512, 2>(a, stream);
  return launch<512, 4>(a, stream);
}
