/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to activations element by element: the gate of an MLP and the soft cap. Four elements a
 * thread, and small blocks, so that one row spreads over the GPU. */
#include "kernels/cuda/elementwise_kernels.h"

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/quad.cuh"

enum { THREADS = 128, SPAN = 4 * THREADS }; /* columns a block */

template <bool GELU, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS) glu(const weir_cuk_glu_args a) {
  const int64_t row = blockIdx.x;
  const int c = (int)(blockIdx.y * SPAN + threadIdx.x * 4), left = a.cols - c;
  if (left <= 0) return;
  const float4 g = quad_load<ALIGNED>(a.gate + row * a.x_ld + c, left);
  const float4 u = quad_load<ALIGNED>(a.up + row * a.x_ld + c, left);
  const float4 y = {act_mul<GELU>(g.x, u.x), act_mul<GELU>(g.y, u.y), act_mul<GELU>(g.z, u.z),
                    act_mul<GELU>(g.w, u.w)};
  quad_store<ALIGNED>(a.y + row * a.y_ld + c, y, left);
}

template <bool ALIGNED>
static __global__ void __launch_bounds__(THREADS) softcap(const weir_cuk_softcap_args a) {
  const int c = (int)(blockIdx.y * SPAN + threadIdx.x * 4), left = a.cols - c;
  if (left <= 0) return;
  float *x = a.x + (int64_t)blockIdx.x * a.ld + c;
  float4 v = quad_load<ALIGNED>(x, left);
  v.x = a.cap * tanhf(v.x / a.cap), v.y = a.cap * tanhf(v.y / a.cap);
  v.z = a.cap * tanhf(v.z / a.cap), v.w = a.cap * tanhf(v.w / a.cap);
  quad_store<ALIGNED>(x, v, left);
}

static dim3 grid_of(int32_t rows, int32_t cols) {
  return dim3((unsigned)rows, ((unsigned)cols + SPAN - 1) / SPAN);
}

extern "C" cudaError_t weir_cuk_glu(const weir_cuk_glu_args *a, cudaStream_t stream) {
  const dim3 grid = grid_of(a->rows, a->cols);
  if (a->gelu && a->aligned)
    CU_LAUNCH((glu<true, true>), grid, THREADS, 0, stream, *a);
  else if (a->gelu)
    CU_LAUNCH((glu<true, false>), grid, THREADS, 0, stream, *a);
  else if (a->aligned)
    CU_LAUNCH((glu<false, true>), grid, THREADS, 0, stream, *a);
  else
    CU_LAUNCH((glu<false, false>), grid, THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_softcap(const weir_cuk_softcap_args *a, cudaStream_t stream) {
  const dim3 grid = grid_of(a->rows, a->cols);
  if (a->aligned)
    CU_LAUNCH(softcap<true>, grid, THREADS, 0, stream, *a);
  else
    CU_LAUNCH(softcap<false>, grid, THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}
