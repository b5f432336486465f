/* SPDX-License-Identifier: Apache-2.0 */
/* Quantised experts times their rows: the matmul of linear (matmul.cuh), whose chunks it shares, over many
 * matrices at once. A block has one tile of picks and some row tiles of its expert's matrix; blocks of tiles
 * that are not there leave at once.
 *
 * Rows are gathered and converted by the block itself, a warp a row and chunk, for the chunk after the one
 * that is multiplied. With tiles of 8 a block has four row tiles and both slices of the columns side by side,
 * or eight and one slice; with tiles of 32 eight row tiles, and a warp does its slices one after the other
 * and adds them in the same order. So a pick's result is the same bits in both. Of 32 rows a warp converts
 * four a chunk, about 240 instructions where its mma take 700; the 32 registers they wait in and 32
 * accumulators (with a slice put aside) leave no room for two blocks at 128 registers a lane: one is
 * resident. */
#include "kernels/cuda/moe_kernels.h"

#include "kernels/cuda/matmul.cuh"

namespace {

template <weir_dtype T, int NT>
struct moe_layout {
  typedef mm_layout<T, NT> L;
  enum {
    SIDE = NT == 1 ? 2 : 1, /* at most */
    ROWS = 8 * NT,
    CONVERTS = SIDE * ROWS / WEIR_MM_WARPS, /* rows and chunks a warp, a round */
    RING = L::STAGES * WEIR_MM_WARPS * L::STAGE,
    SMEM = RING + 2 * SIDE * L::PANEL
  };
};

template <weir_dtype T, int NT>
__global__ void __launch_bounds__(WEIR_MM_WARPS * 32, NT == 1 ? 2 : 1)
    moe_matmul(const __grid_constant__ weir_cuk_moe_matmul_args a) {
  typedef mm_layout<T, NT> L;
  typedef moe_layout<T, NT> M;
  enum { STAGES = L::STAGES };
  CU_DYN_SHARED(unsigned char, smem);
  if ((int)blockIdx.y >= *a.n_tiles) return;
  const weir_moe_tile tile = a.tile[blockIdx.y];
  const weir_moe_expert &expert = a.expert[tile.expert];
  weir_segment w;
  w.low = const_cast<void *>(expert.low);
  w.high = const_cast<void *>(expert.high);
  w.scale = const_cast<void *>(expert.scale);
  w.n_ktiles = (a.cols + WEIR_PACK_COLS - 1) / WEIR_PACK_COLS;
  w.n_rtiles = (expert.rows + WEIR_PACK_ROWS - 1) / WEIR_PACK_ROWS;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int side = NT == 1 ? a.slices : 1, kk = warp % side; /* slices a block has side by side */
  const int32_t rt0 = (int32_t)blockIdx.x * (WEIR_MM_WARPS / side), rt = rt0 + warp / side;
  if (expert.low == nullptr || rt0 >= w.n_rtiles) return;
  const int32_t chunks = weir_mm_chunks(a.cols);
  const int32_t cut = NT == 1 ? chunks : weir_mm_slice_begin(chunks, a.slices, 1); /* where slice 1 begins */
  const int32_t begin = weir_mm_slice_begin(chunks, side, kk);
  const int32_t end = rt < w.n_rtiles ? weir_mm_slice_begin(chunks, side, kk + 1) : begin;
  const int32_t rounds = (chunks + side - 1) / side;
  unsigned char *ring = smem + warp * L::STAGE, *xs = smem + M::RING;

  auto copy = [&](int32_t i) {
    if (begin + i < end)
      mm_copy_weights<T, NT>(ring + i % STAGES * WEIR_MM_WARPS * L::STAGE, w, rt, begin + i, lane);
    cu_cp_async_commit();
  };
  /* Unit u of a warp: row (warp + 8u) % count of slice (warp + 8u) / count. */
  weir_panel_row next[M::CONVERTS];
  auto fetch = [&](int32_t i) {
#pragma unroll
    for (int u = 0; u < M::CONVERTS; u++) {
      const int unit = warp + WEIR_MM_WARPS * u, slice = unit / tile.count, row = unit % tile.count;
      const int32_t c = weir_mm_slice_begin(chunks, side, slice) + i;
      if (slice >= side || c >= weir_mm_slice_begin(chunks, side, slice + 1)) continue;
      const int32_t from = a.sorted_x ? tile.first + row : a.pick[tile.first + row] / a.n_used;
      next[u] = panel_load(a.x + from * a.x_ld, a.cols, c, a.aligned, lane);
    }
  };
  auto convert = [&](int32_t i) {
#pragma unroll
    for (int u = 0; u < M::CONVERTS; u++) {
      const int unit = warp + WEIR_MM_WARPS * u, slice = unit / tile.count, row = unit % tile.count;
      const int32_t c = weir_mm_slice_begin(chunks, side, slice) + i;
      if (slice >= side || c >= weir_mm_slice_begin(chunks, side, slice + 1)) continue;
      panel_store<weir_quant<T>::has_low>(xs + (i % 2 * M::SIDE + slice) * L::PANEL, L::ROWS, row, next[u],
                                          lane);
    }
  };

#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) copy(i);
  fetch(0);
  convert(0);
  float tot[NT][4], put[NT][4]; /* put: slice 0, put aside */
#pragma unroll
  for (int j = 0; j < NT; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) tot[j][i] = put[j][i] = 0.0f;

  for (int32_t i = 0; i < rounds; i++) {
    cu_cp_async_wait<STAGES - 2>();
    __syncthreads(); /* round i is there for all; round i - 1 is read by none any more: its place is free */
    copy(i + STAGES - 1);
    if (i + 1 < rounds) fetch(i + 1);
    if (NT > 1 && i == cut && i > 0) {
#pragma unroll
      for (int j = 0; j < NT; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) put[j][k] = tot[j][k], tot[j][k] = 0.0f;
    }
    if (begin + i < end)
      mm_chunk<T, NT>(tot, ring + i % STAGES * WEIR_MM_WARPS * L::STAGE,
                      xs + (i % 2 * M::SIDE + kk) * L::PANEL, 0, tile.count, lane);
    if (i + 1 < rounds) convert(i + 1);
  }

  if (NT == 1 && side > 1) {
    float4 *red = reinterpret_cast<float4 *>(smem);
    __syncthreads(); /* the ring is read by none any more */
    if (kk == 1) red[warp * 32 + lane] = make_float4(tot[0][0], tot[0][1], tot[0][2], tot[0][3]);
    __syncthreads();
    if (kk == 1) return;
    const float4 v = red[(warp + 1) * 32 + lane];
    tot[0][0] += v.x, tot[0][1] += v.y, tot[0][2] += v.z, tot[0][3] += v.w;
  }
  if (rt >= w.n_rtiles) return;
#pragma unroll
  for (int j = 0; j < NT; j++)
#pragma unroll
    for (int k = 0; k < 2; k++) {
      const int r = 8 * j + 2 * (lane % 4) + k;
      if (r >= tile.count) continue;
      const int32_t to = a.sorted_x ? a.pick[tile.first + r] : tile.first + r;
      float *y = a.y + to * a.y_ld + expert.first;
      const int32_t f = rt * WEIR_PACK_ROWS + lane / 4;
      if (f < expert.rows) y[f] = NT > 1 && a.slices > 1 ? put[j][k] + tot[j][k] : tot[j][k];
      if (f + 8 < expert.rows)
        y[f + 8] = NT > 1 && a.slices > 1 ? put[j][k + 2] + tot[j][k + 2] : tot[j][k + 2];
    }
}

template <weir_dtype T, int NT>
cudaError_t go(const weir_cuk_moe_matmul_args &a, cudaStream_t stream) {
  const int32_t per_block = WEIR_MM_WARPS / (NT == 1 ? a.slices : 1);
  const int32_t rtiles = (a.rows_most + WEIR_PACK_ROWS - 1) / WEIR_PACK_ROWS;
  const dim3 grid((unsigned)((rtiles + per_block - 1) / per_block), (unsigned)a.tiles_most);
  const cudaError_t e = cu_allow_smem(moe_matmul<T, NT>, moe_layout<T, NT>::SMEM);
  if (e != cudaSuccess) return e;
  CU_LAUNCH((moe_matmul<T, NT>), grid, WEIR_MM_WARPS * 32, (moe_layout<T, NT>::SMEM), stream, a);
  return CU_LAUNCH_STATUS();
}

struct family {
  weir_dtype type;
  cudaError_t (*few)(const weir_cuk_moe_matmul_args &, cudaStream_t);
  cudaError_t (*many)(const weir_cuk_moe_matmul_args &, cudaStream_t);
  int smem_few, smem_many;
};
template <weir_dtype T>
constexpr family family_of() {
  return {T, go<T, WEIR_MOE_TILE_FEW / 8>, go<T, WEIR_MOE_TILE_MANY / 8>,
          moe_layout<T, WEIR_MOE_TILE_FEW / 8>::SMEM, moe_layout<T, WEIR_MOE_TILE_MANY / 8>::SMEM};
}
const family families[] = {family_of<WEIR_Q8_0>(), family_of<WEIR_Q4_0>(), family_of<WEIR_Q5_0>(),
                           family_of<WEIR_Q4_K>(), family_of<WEIR_Q5_K>(), family_of<WEIR_Q6_K>()};

const family *find(weir_dtype t) {
  for (const family &f : families)
    if (f.type == t) return &f;
  return nullptr;
}

}  // namespace

extern "C" cudaError_t weir_cuk_moe_matmul(const weir_cuk_moe_matmul_args *a, cudaStream_t stream) {
  const family *f = find(a->dtype);
  if (!f || a->slices < 1 || a->slices > 2) return cudaErrorInvalidValue;
  return a->tile_picks == WEIR_MOE_TILE_FEW ? f->few(*a, stream) : f->many(*a, stream);
}

extern "C" size_t weir_cuk_moe_matmul_smem(weir_dtype t, int32_t tile_picks) {
  const family *f = find(t);
  return !f ? 0 : (size_t)(tile_picks == WEIR_MOE_TILE_FEW ? f->smem_few : f->smem_many);
}
