/* SPDX-License-Identifier: Apache-2.0 */
/* Stored rows into the layout of pack.h, once at load. Every code is picked by itself: some 12 instructions
 * and a byte or two from the cache for each, which for a model of 8e9 weights is some tens of milliseconds
 * (reckoned, not measured), while bringing its bytes here takes several times as long. */
#include "kernels/cuda/repack_kernels.h"

#include "kernels/blocks.h"
#include "kernels/cuda/cu.h"

enum { WARPS = 4 };

template <weir_dtype T>
struct stored;
template <>
struct stored<WEIR_Q8_0> {
  typedef weir_block_q8_0 block;
  enum { elems = WEIR_QK };
};
template <>
struct stored<WEIR_Q4_0> {
  typedef weir_block_q4_0 block;
  enum { elems = WEIR_QK };
};
template <>
struct stored<WEIR_Q5_0> {
  typedef weir_block_q5_0 block;
  enum { elems = WEIR_QK };
};
template <>
struct stored<WEIR_Q4_K> {
  typedef weir_block_q4_k block;
  enum { elems = WEIR_QK_K };
};
template <>
struct stored<WEIR_Q5_K> {
  typedef weir_block_q5_k block;
  enum { elems = WEIR_QK_K };
};
template <>
struct stored<WEIR_Q6_K> {
  typedef weir_block_q6_k block;
  enum { elems = WEIR_QK_K };
};

/* Blocks have no alignment beyond two bytes; all are of even size. */
template <class B>
CU_DEV const B *block_of(const uint8_t *row, int32_t col, int32_t elems) {
  return reinterpret_cast<const B *>(row) + col / elems;
}

/* The code of element k with its zero point in it. */
CU_DEV int32_t code_in(const weir_block_q8_0 *b, int32_t k) { return b->q[k] + 128; }
CU_DEV int32_t code_in(const weir_block_q4_0 *b, int32_t k) { return b->q[k % 16] >> k / 16 * 4 & 15; }
CU_DEV int32_t code_in(const weir_block_q5_0 *b, int32_t k) { return weir_q5_0_bits(b, k); }
CU_DEV int32_t code_in(const weir_block_q4_k *b, int32_t k) { return weir_q4_k_bits(b, k); }
CU_DEV int32_t code_in(const weir_block_q5_k *b, int32_t k) { return weir_q5_k_bits(b, k); }
CU_DEV int32_t code_in(const weir_block_q6_k *b, int32_t k) { return weir_q6_k_bits(b, k); }

template <weir_dtype T>
CU_DEV uint32_t code_of(const uint8_t *row, int32_t col) {
  const int elems = stored<T>::elems;
  return (uint32_t)code_in(block_of<typename stored<T>::block>(row, col, elems), col % elems);
}

/* Scales of the lane's share of tile (rt, kt). row: the stored row of this row index or NULL beyond the last.
 */
template <class B>
CU_DEV void put_scales_block(const weir_segment &w, const uint8_t *row, size_t tile, int32_t kt, int index,
                             int part) {
  const int32_t col = kt * WEIR_PACK_COLS + part * WEIR_QK;
  static_cast<uint16_t *>(w.scale)[(tile * 16 + index) * 2 + part] =
      row && col < w.cols ? block_of<B>(row, col, WEIR_QK)->d : (uint16_t)0;
}

template <class B>
CU_DEV void put_scales_k4(const weir_segment &w, const uint8_t *row, size_t super, int32_t kt, int index) {
  weir_pack_k4 out = {};
  if (row) {
    const B *b = block_of<B>(row, kt * WEIR_PACK_COLS, WEIR_QK_K);
    out.d = b->d;
    out.dmin = b->dmin;
    for (int i = 0; i < 12; i++) out.scale[i] = b->scale[i];
  }
  static_cast<weir_pack_k4 *>(w.scale)[super * 16 + index] = out;
}

CU_DEV void put_scales_k6(const weir_segment &w, const uint8_t *row, size_t super, int32_t kt, int index) {
  weir_pack_k6 *out = static_cast<weir_pack_k6 *>(w.scale) + super;
  const weir_block_q6_k *b = row ? block_of<weir_block_q6_k>(row, kt * WEIR_PACK_COLS, WEIR_QK_K) : NULL;
  for (int p = 0; p < 4; p++) out->scale[kt % 4][index][p] = b ? b->scale[kt % 4 * 4 + p] : (int8_t)0;
  if (kt % 4 == 0) out->d[index] = b ? b->d : (uint16_t)0;
}

template <weir_dtype T>
CU_DEV void put_scales(const weir_segment &w, const uint8_t *row, int32_t rt, int32_t kt, int index,
                       int part) {
  const size_t tile = (size_t)rt * w.n_ktiles + kt, super = (size_t)rt * (w.n_ktiles / 4) + kt / 4;
  if (T == WEIR_Q8_0) put_scales_block<weir_block_q8_0>(w, row, tile, kt, index, part);
  if (T == WEIR_Q4_0) put_scales_block<weir_block_q4_0>(w, row, tile, kt, index, part);
  if (T == WEIR_Q5_0) put_scales_block<weir_block_q5_0>(w, row, tile, kt, index, part);
  if (part != 0) return; /* of super-blocks half the lanes write */
  if (T == WEIR_Q4_K && kt % 4 == 0) put_scales_k4<weir_block_q4_k>(w, row, super, kt, index);
  if (T == WEIR_Q5_K && kt % 4 == 0) put_scales_k4<weir_block_q5_k>(w, row, super, kt, index);
  if (T == WEIR_Q6_K) put_scales_k6(w, row, super, kt, index);
}

/* A warp a tile; lanes as in pack.h. */
template <weir_dtype T>
__global__ void __launch_bounds__(WARPS * 32) repack(const weir_cuk_repack_args a) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t n_ktiles = a.w.n_ktiles, rt0 = a.first / WEIR_PACK_ROWS;
  const size_t n_tiles = ((size_t)a.rows + WEIR_PACK_ROWS - 1) / WEIR_PACK_ROWS * n_ktiles;
  const uint8_t *raw = static_cast<const uint8_t *>(a.raw);
  for (size_t t = (size_t)blockIdx.x * WARPS + warp; t < n_tiles; t += (size_t)gridDim.x * WARPS) {
    const int32_t rt = (int32_t)(t / n_ktiles), kt = (int32_t)(t % n_ktiles); /* rt of the piece */
    const size_t tile = (size_t)(rt0 + rt) * n_ktiles + kt;
    uint32_t low[4] = {0, 0, 0, 0}, high[2] = {0, 0}, bytes[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int32_t row = rt * WEIR_PACK_ROWS + lane / 4 + 8 * (i % 2);
        const int32_t col = kt * WEIR_PACK_COLS + 16 * s + 2 * (lane % 4) + 8 * (i / 2);
        if (row >= a.rows || col >= a.w.cols) continue;
        const uint8_t *p = raw + (size_t)row * a.row_bytes;
        const uint32_t even = code_of<T>(p, col), odd = code_of<T>(p, col + 1);
        low[s] |= (even & 15) << 4 * i | (odd & 15) << (16 + 4 * i);
        const uint32_t above = even >> 4 | odd >> 4 << 16;
        if (T == WEIR_Q6_K)
          high[s / 2] |= above << (8 * (s % 2) + 2 * (i / 2) + 4 * (i % 2));
        else
          high[0] |= above << (8 * (s / 2) + 2 * (s % 2) + i / 2 + 4 * (i % 2));
        bytes[4 * (s / 2) + 2 * (s % 2) + i / 2] |= (even | odd << 8) << 16 * (i % 2);
      }
    uint4 *plane = static_cast<uint4 *>(a.w.low);
    if (T == WEIR_Q8_0) {
      plane[tile * 64 + lane] = make_uint4(bytes[0], bytes[1], bytes[2], bytes[3]);
      plane[tile * 64 + 32 + lane] = make_uint4(bytes[4], bytes[5], bytes[6], bytes[7]);
    } else {
      plane[tile * 32 + lane] = make_uint4(low[0], low[1], low[2], low[3]);
    }
    if (T == WEIR_Q5_0 || T == WEIR_Q5_K) static_cast<uint32_t *>(a.w.high)[tile * 32 + lane] = high[0];
    if (T == WEIR_Q6_K) {
      uint2 both;
      both.x = high[0];
      both.y = high[1];
      static_cast<uint2 *>(a.w.high)[tile * 32 + lane] = both;
    }
    const int index = lane / 2; /* row index 2*(r%8) + r/8 */
    const int32_t row = rt * WEIR_PACK_ROWS + index / 2 + 8 * (index % 2);
    put_scales<T>(a.w, row < a.rows ? raw + (size_t)row * a.row_bytes : NULL, rt0 + rt, kt, index, lane % 2);
  }
}

template <weir_dtype T>
static cudaError_t launch(const weir_cuk_repack_args *a, cudaStream_t stream) {
  const int64_t tiles = ((int64_t)a->rows + WEIR_PACK_ROWS - 1) / WEIR_PACK_ROWS * a->w.n_ktiles;
  const int64_t blocks = (tiles + WARPS - 1) / WARPS;
  CU_LAUNCH((repack<T>), (unsigned)(blocks < 65536 ? blocks : 65536), WARPS * 32, 0, stream, *a);
  return cudaGetLastError();
}

extern "C" cudaError_t weir_cuk_repack(const weir_cuk_repack_args *a, cudaStream_t stream) {
  if (a->first < 0 || a->first % WEIR_PACK_ROWS != 0 || a->rows < 1 || a->rows > a->w.rows - a->first)
    return cudaErrorInvalidValue;
  switch (a->w.dtype) {
    case WEIR_Q8_0: return launch<WEIR_Q8_0>(a, stream);
    case WEIR_Q4_0: return launch<WEIR_Q4_0>(a, stream);
    case WEIR_Q5_0: return launch<WEIR_Q5_0>(a, stream);
    case WEIR_Q4_K: return launch<WEIR_Q4_K>(a, stream);
    case WEIR_Q5_K: return launch<WEIR_Q5_K>(a, stream);
    case WEIR_Q6_K: return launch<WEIR_Q6_K>(a, stream);
    default: return cudaErrorInvalidValue;
  }
}
