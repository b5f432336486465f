/* SPDX-License-Identifier: Apache-2.0 */
/* Token rows as F32, the same bits as the host's dequantisation. */
#include "kernels/cuda/dequant.cuh"
#include "kernels/cuda/embed_kernels.h"

enum { THREADS = 128 };

template <weir_dtype T>
CU_DEV float plain(const void *base, size_t at) {
  if (T == WEIR_F32) return static_cast<const float *>(base)[at];
  const uint16_t v = static_cast<const uint16_t *>(base)[at];
  return T == WEIR_F16 ? h2f(v) : bf2f(v);
}

/* Block (token, run of columns). An id outside the segment is another segment's, or nobody's. */
template <weir_dtype T>
__global__ void __launch_bounds__(THREADS) embed_plain(const weir_cuk_embed_args a) {
  for (int32_t i = blockIdx.x; i < a.n; i += gridDim.x) {
    const int64_t row = (int64_t)a.token[i] - a.w.first;
    if (row < 0 || row >= a.w.rows) continue;
    for (int64_t c = blockIdx.y * THREADS + threadIdx.x; c < a.w.cols; c += (int64_t)gridDim.y * THREADS)
      a.y[i * a.y_ld + c] = plain<T>(a.w.low, (size_t)row * a.w.cols + c) * a.scale;
  }
}

/* Four threads a tile, each as the lane of the row's quad: its words hold this row and the one eight further,
 * so half of what is read is used. Four neighbours write runs of 32 bytes. */
template <weir_dtype T>
__global__ void __launch_bounds__(THREADS) embed_packed(const weir_cuk_embed_args a) {
  for (int32_t i = blockIdx.x; i < a.n; i += gridDim.x) {
    const int64_t at = (int64_t)a.token[i] - a.w.first;
    if (at < 0 || at >= a.w.rows) continue;
    const int32_t row = (int32_t)at, rt = row / WEIR_PACK_ROWS, r = row % WEIR_PACK_ROWS;
    const bool second = r >= 8;
    const int lane = r % 8 * 4 + threadIdx.x % 4;
    for (int32_t kt = blockIdx.y * (THREADS / 4) + threadIdx.x / 4; kt < a.w.n_ktiles;
         kt += gridDim.y * (THREADS / 4)) {
      typename weir_codes_of<T>::type codes;
      typename weir_scales_of<T>::type scales;
      weir_codes_load(codes, a.w.low, a.w.high, (size_t)rt * a.w.n_ktiles + kt, lane);
      weir_scales_load(scales, a.w.scale, a.w.n_ktiles, rt, kt, lane);
#pragma unroll
      for (int s = 0; s < 4; s++) {
        const weir_steps steps = weir_scales_get(scales, kt, s * weir_quant<T>::parts / 4);
        uint32_t reg[4];
        weir_codes_fragment<weir_quant<T>::zero>(codes, s, reg);
#pragma unroll
        for (int h = 0; h < 2; h++) {
          float even[2], odd[2];
          weir_pair_values<T>(reg[2 * h], steps, 0, &even[0], &odd[0]);
          weir_pair_values<T>(reg[2 * h + 1], steps, 1, &even[1], &odd[1]);
          const int64_t c = (int64_t)kt * WEIR_PACK_COLS + 16 * s + 8 * h + 2 * (lane % 4);
          if (c >= a.w.cols) continue;
          float *y = a.y + i * a.y_ld + c;
          y[0] = (second ? even[1] : even[0]) * a.scale;
          y[1] = (second ? odd[1] : odd[0]) * a.scale;
        }
      }
    }
  }
}

__global__ void __launch_bounds__(THREADS) embed_others(const weir_cuk_embed_args a) {
  for (int32_t i = blockIdx.x; i < a.n; i += gridDim.x) {
    const int64_t row = (int64_t)a.token[i] - a.w.first;
    if (row >= 0 && row < a.w.rows) continue;
    for (int64_t c = blockIdx.y * THREADS + threadIdx.x; c < a.w.cols; c += (int64_t)gridDim.y * THREADS)
      a.y[i * a.y_ld + c] = -0.0f;
  }
}

static unsigned at_most(int64_t n, int64_t most) { return (unsigned)(n < most ? n : most); }

template <weir_dtype T>
static cudaError_t launch_plain(const weir_cuk_embed_args *a, cudaStream_t stream) {
  const dim3 grid(at_most(a->n, 1 << 20), at_most(((int64_t)a->w.cols + THREADS - 1) / THREADS, 1024));
  CU_LAUNCH((embed_plain<T>), grid, THREADS, 0, stream, *a);
  return cudaGetLastError();
}
template <weir_dtype T>
static cudaError_t launch_packed(const weir_cuk_embed_args *a, cudaStream_t stream) {
  const dim3 grid(at_most(a->n, 1 << 20),
                  at_most(((int64_t)a->w.n_ktiles * 4 + THREADS - 1) / THREADS, 1024));
  CU_LAUNCH((embed_packed<T>), grid, THREADS, 0, stream, *a);
  return cudaGetLastError();
}

extern "C" cudaError_t weir_cuk_embed_others(const weir_cuk_embed_args *a, cudaStream_t stream) {
  const dim3 grid(at_most(a->n, 1 << 20), at_most(((int64_t)a->w.cols + THREADS - 1) / THREADS, 1024));
  CU_LAUNCH(embed_others, grid, THREADS, 0, stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_embed(const weir_cuk_embed_args *a, cudaStream_t stream) {
  switch (a->w.dtype) {
    case WEIR_F32: return launch_plain<WEIR_F32>(a, stream);
    case WEIR_F16: return launch_plain<WEIR_F16>(a, stream);
    case WEIR_BF16: return launch_plain<WEIR_BF16>(a, stream);
    case WEIR_Q8_0: return launch_packed<WEIR_Q8_0>(a, stream);
    case WEIR_Q4_0: return launch_packed<WEIR_Q4_0>(a, stream);
    case WEIR_Q5_0: return launch_packed<WEIR_Q5_0>(a, stream);
    case WEIR_Q4_K: return launch_packed<WEIR_Q4_K>(a, stream);
    case WEIR_Q5_K: return launch_packed<WEIR_Q5_K>(a, stream);
    case WEIR_Q6_K: return launch_packed<WEIR_Q6_K>(a, stream);
    default: return cudaErrorInvalidValue;
  }
}
