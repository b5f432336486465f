/* SPDX-License-Identifier: Apache-2.0 */
/* Activations from F32 to what matmuls take, and what is left to do after one. Bound by memory and small
 * beside the matmul: x of 64 rows and 4096 columns is 1 MB. */
#include "kernels/cuda/cast_kernels.h"

#include "kernels/cuda/panel.cuh"

namespace {

enum { WARPS = 8 };

/* A warp converts one row of one chunk. Grid: (chunks, rows of a panel / WARPS). */
__global__ void __launch_bounds__(WARPS * 32) panels_kernel(const __grid_constant__ weir_cuk_panels_args a) {
  const int lane = threadIdx.x % 32, row = blockIdx.y * WARPS + threadIdx.x / 32;
  const int32_t chunk = blockIdx.x;
  unsigned char *panel =
      static_cast<unsigned char *>(a.panel) + (size_t)chunk * a.panel_rows * WEIR_PANEL_ROW_BYTES;
  weir_panel_row v;
  v.lo = v.hi = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (row < a.n) v = panel_load(a.x + row * a.x_ld, a.cols, chunk, a.x_aligned, lane);
  panel_store<true>(panel, a.panel_rows, row, v, lane);
}

__global__ void __launch_bounds__(256) cast_bf16_kernel(const __grid_constant__ weir_cuk_cast_args a) {
  const int64_t c = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (c >= a.out_ld) return;
  for (int32_t r = blockIdx.y; r < a.n; r += gridDim.y)
    a.out[r * a.out_ld + c] = c < a.cols ? f2bf(a.x[r * a.x_ld + c]) : 0;
}

/* A block a row, as its largest magnitude is needed first. */
__global__ void __launch_bounds__(256) cast_f16_kernel(const __grid_constant__ weir_cuk_cast_args a) {
  CU_SHARED(uint32_t, warp_top, 8);
  const int32_t r = blockIdx.x;
  const float *x = a.x + r * a.x_ld;
  uint32_t top = 0;
  for (int32_t c = threadIdx.x; c < a.cols; c += 256) top = max(top, __float_as_uint(x[c]) & 0x7fffffffu);
  top = __reduce_max_sync(0xffffffffu, top);
  if (threadIdx.x % 32 == 0) warp_top[threadIdx.x / 32] = top;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < 8; w++) top = max(top, warp_top[w]);
  /* 2^15 and more, or below 2^-2: brought to 2^14. Infinities and NaN stay what they are. */
  const int e = (int)(top >> 23);
  const int k = e >= 125 && e < 142 ? 0 : min(141 - e, 126);
  const float f = __uint_as_float((uint32_t)(127 + k) << 23);
  for (int32_t c = threadIdx.x; c < a.out_ld; c += 256)
    a.out[r * a.out_ld + c] = c < a.cols ? f2h(x[c] * f) : 0;
  if (threadIdx.x == 0) a.scale[r] = __uint_as_float((uint32_t)(127 - k) << 23);
}

/* Grid: (columns / 256, rows). */
__global__ void __launch_bounds__(256) finish_kernel(const __grid_constant__ weir_cuk_finish_args a) {
  const int32_t c = blockIdx.x * 256 + threadIdx.x;
  if (c >= a.rows) return;
  const float b = a.bias ? a.bias[c] : 0.0f;
  for (int32_t r = blockIdx.y; r < a.n; r += gridDim.y) {
    const float s = a.scale ? a.scale[r] : 1.0f;
    if (s == 1.0f && !a.bias) continue;
    float *y = a.y + r * a.y_ld + c;
    *y = fmaf(*y, s, b);
  }
}

unsigned rows_of_grid(int32_t n) { return (unsigned)(n < 65535 ? n : 65535); }

}  // namespace

extern "C" cudaError_t weir_cuk_panels(const weir_cuk_panels_args *a, cudaStream_t stream) {
  const dim3 grid((unsigned)weir_mm_chunks(a->cols), (unsigned)(a->panel_rows / WARPS));
  CU_LAUNCH(panels_kernel, grid, WARPS * 32, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_cast(const weir_cuk_cast_args *a, cudaStream_t stream) {
  if (a->scale) {
    CU_LAUNCH(cast_f16_kernel, dim3((unsigned)a->n), 256, 0, stream, *a);
  } else {
    const dim3 grid((unsigned)((a->out_ld + 255) / 256), rows_of_grid(a->n));
    CU_LAUNCH(cast_bf16_kernel, grid, 256, 0, stream, *a);
  }
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_finish(const weir_cuk_finish_args *a, cudaStream_t stream) {
  const dim3 grid((unsigned)((a->rows + 255) / 256), rows_of_grid(a->n));
  CU_LAUNCH(finish_kernel, grid, 256, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}
