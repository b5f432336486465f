/* SPDX-License-Identifier: Apache-2.0 */
/* Picks rows; copies pages of KV. */
#include "kernels/cuda/copy_kernels.h"

#include "kernels/cuda/quad.cuh"

enum { THREADS = 128, SPAN = 4 * THREADS /* columns a block */, PAGE_THREADS = 256, PAGE_LOADS = 4 };

template <bool ALIGNED>
static __global__ void __launch_bounds__(THREADS) gather_rows(const weir_cuk_gather_rows_args a) {
  const int c = (int)(blockIdx.y * SPAN + threadIdx.x * 4), left = a.cols - c;
  if (left <= 0) return;
  const float nan = __uint_as_float(0x7fc00000u);
  const int row = a.row[blockIdx.x];
  float4 v = {nan, nan, nan, nan};
  if (row >= 0 && row < a.x_rows) v = quad_load<ALIGNED>(a.x + (int64_t)row * a.x_ld + c, left);
  quad_store<ALIGNED>(a.y + (int64_t)blockIdx.x * a.y_ld + c, v, left);
}

/* PAGE_LOADS of T under way a thread: a page of 64 KB is four blocks. */
template <typename T>
static __global__ void __launch_bounds__(PAGE_THREADS) kv_copy(const weir_cuk_kv_copy_args a) {
  const int64_t n = a.page_bytes / (int64_t)sizeof(T);
  const int64_t first = (int64_t)blockIdx.x * (PAGE_THREADS * PAGE_LOADS) + threadIdx.x;
  const T *src = (const T *)((const char *)a.base + (int64_t)a.src_dst[2 * blockIdx.y] * a.page_bytes);
  T *dst = (T *)((char *)a.base + (int64_t)a.src_dst[2 * blockIdx.y + 1] * a.page_bytes);
  T v[PAGE_LOADS];
#pragma unroll
  for (int k = 0; k < PAGE_LOADS; k++)
    if (first + k * PAGE_THREADS < n) v[k] = src[first + k * PAGE_THREADS];
#pragma unroll
  for (int k = 0; k < PAGE_LOADS; k++)
    if (first + k * PAGE_THREADS < n) dst[first + k * PAGE_THREADS] = v[k];
}

extern "C" cudaError_t weir_cuk_gather_rows(const weir_cuk_gather_rows_args *a, cudaStream_t stream) {
  const dim3 grid((unsigned)a->rows, ((unsigned)a->cols + SPAN - 1) / SPAN);
  if (a->aligned)
    CU_LAUNCH(gather_rows<true>, grid, THREADS, 0, stream, *a);
  else
    CU_LAUNCH(gather_rows<false>, grid, THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_kv_copy(const weir_cuk_kv_copy_args *a, cudaStream_t stream) {
  const int64_t n = a->page_bytes / (a->wide ? 16 : 4), at_once = PAGE_THREADS * PAGE_LOADS;
  const dim3 grid((unsigned)((n + at_once - 1) / at_once), (unsigned)a->n_pairs);
  if (a->wide)
    CU_LAUNCH(kv_copy<uint4>, grid, PAGE_THREADS, 0, stream, *a);
  else
    CU_LAUNCH(kv_copy<uint32_t>, grid, PAGE_THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}
