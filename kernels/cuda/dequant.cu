/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights to BF16 for cuBLASLt (many rows of activations) and to F32. */
#include "kernels/cuda/dequant.cuh"
#include "kernels/cuda/dequant_kernels.h"

/* A warp a tile, four a block. A fragment has neighbouring columns in four lanes, two each: BF16 goes through
 * shared memory to leave in units of 16 bytes, 128 a row. Rows of 72 there: the eight rows that a warp writes
 * at once start four banks apart, and its 32 words meet 32 banks. F32 leaves as it is, 32 bytes a row. */
enum { WARPS = 4, PITCH = WEIR_PACK_COLS + 8 };

template <weir_dtype T, bool F32>
__global__ void __launch_bounds__(WARPS * 32) dequant_rows(const weir_cuk_dequant_rows_args a) {
  CU_SHARED(bf16, shared, WARPS * 16 * PITCH);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  bf16 *const tile = shared + warp * 16 * PITCH;
  const int32_t n_ktiles = a.w.n_ktiles, rt0 = a.first / WEIR_PACK_ROWS;
  const size_t n_rt = (size_t)((a.first + a.rows - 1) / WEIR_PACK_ROWS - rt0 + 1), n_tiles = n_rt * n_ktiles;
  for (size_t t = (size_t)blockIdx.x * WARPS + warp; t < n_tiles; t += (size_t)gridDim.x * WARPS) {
    const int32_t rt = rt0 + (int32_t)(t / n_ktiles), kt = (int32_t)(t % n_ktiles);
    typename weir_codes_of<T>::type codes;
    typename weir_scales_of<T>::type scales;
    weir_codes_load(codes, a.w.low, a.w.high, (size_t)rt * n_ktiles + kt, lane);
    weir_scales_load(scales, a.w.scale, n_ktiles, rt, kt, lane);
#pragma unroll
    for (int s = 0; s < 4; s++) {
      const weir_steps steps = weir_scales_get(scales, kt, s * weir_quant<T>::parts / 4);
      uint32_t reg[4];
      weir_codes_fragment<weir_quant<T>::zero>(codes, s, reg);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int r = lane / 4 + 8 * (i % 2), c = 16 * s + 2 * (lane % 4) + 8 * (i / 2);
        float even, odd;
        weir_pair_values<T>(reg[i], steps, i, &even, &odd);
        if (F32) {
          const int32_t row = rt * WEIR_PACK_ROWS + r - a.first, col = kt * WEIR_PACK_COLS + c;
          if (row >= 0 && row < a.rows && col < a.w.cols) {
            float *out = static_cast<float *>(a.out) + (size_t)row * a.w.cols + col;
            *reinterpret_cast<float2 *>(out) = make_float2(even, odd);
          }
        } else {
          *reinterpret_cast<uint32_t *>(tile + r * PITCH + c) = f2bf2(even, odd);
        }
      }
    }
    if (F32) continue;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int r = 4 * i + lane / 8, c = lane % 8 * 8;
      const int32_t row = rt * WEIR_PACK_ROWS + r - a.first, col = kt * WEIR_PACK_COLS + c;
      if (row >= 0 && row < a.rows && col < a.w.cols)
        *reinterpret_cast<uint4 *>(static_cast<bf16 *>(a.out) + (size_t)row * a.w.cols + col) =
            *reinterpret_cast<const uint4 *>(tile + r * PITCH + c);
    }
    __syncwarp(); /* the next tile overwrites it */
  }
}

template <weir_dtype T, bool F32>
static cudaError_t launch(const weir_cuk_dequant_rows_args *a, cudaStream_t stream) {
  const int64_t n_rt = (int64_t)(a->first + a->rows - 1) / WEIR_PACK_ROWS - a->first / WEIR_PACK_ROWS + 1;
  const int64_t blocks = (n_rt * a->w.n_ktiles + WARPS - 1) / WARPS;
  CU_LAUNCH((dequant_rows<T, F32>), (unsigned)(blocks < 65536 ? blocks : 65536), WARPS * 32, 0, stream, *a);
  return cudaGetLastError();
}

template <bool F32>
static cudaError_t dispatch(const weir_cuk_dequant_rows_args *a, cudaStream_t stream) {
  if (a->first < 0 || a->rows < 1 || a->rows > a->w.rows - a->first) return cudaErrorInvalidValue;
  switch (a->w.dtype) {
    case WEIR_Q8_0: return launch<WEIR_Q8_0, F32>(a, stream);
    case WEIR_Q4_0: return launch<WEIR_Q4_0, F32>(a, stream);
    case WEIR_Q5_0: return launch<WEIR_Q5_0, F32>(a, stream);
    case WEIR_Q4_K: return launch<WEIR_Q4_K, F32>(a, stream);
    case WEIR_Q5_K: return launch<WEIR_Q5_K, F32>(a, stream);
    case WEIR_Q6_K: return launch<WEIR_Q6_K, F32>(a, stream);
    default: return cudaErrorInvalidValue;
  }
}

extern "C" cudaError_t weir_cuk_dequant_rows(const weir_cuk_dequant_rows_args *a, cudaStream_t stream) {
  return dispatch<false>(a, stream);
}
extern "C" cudaError_t weir_cuk_dequant_rows_f32(const weir_cuk_dequant_rows_args *a, cudaStream_t stream) {
  return dispatch<true>(a, stream);
}
