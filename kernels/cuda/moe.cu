/* SPDX-License-Identifier: Apache-2.0 */
/* Mixture of experts, all but its matmuls: who goes where, and the sum of what comes back. Nothing here waits
 * for the host: how many rows an expert has is known to the GPU alone. */
#include "kernels/cuda/moe_kernels.h"

#include "kernels/cuda/quad.cuh"

namespace {

enum {
  ROUTE_WARPS = 8,
  SORT_WARPS = 16,
  SLOTS = WEIR_MOE_EXPERTS / 32, /* experts of a lane: lane, lane + 32, ... */
  COMBINE_THREADS = 128,
  NOT_MINE = 0,  /* keys: chosen already, or no expert */
  NO_NUMBER = 1, /* below -inf */
};

/* Orders as the logit does; NaN below all: with one among them every weight is NaN, but the choice is still
 * of n_used different experts. */
CU_DEV uint32_t key_of(float logit) {
  if (logit != logit) return NO_NUMBER;
  const uint32_t b = __float_as_uint(logit + 0.0f); /* -0 becomes 0: they are equal */
  return b & 0x80000000u ? ~b : b | 0x80000000u;
}

/* One row by one warp. The n_used highest are found one after the other, as marks on their experts, so where
 * an expert stands in the row is how many marked ones are below it. */
CU_DEV void route_row(const weir_cuk_moe_route_args &a, int row, int lane) {
  const float *logit = a.logits + (int64_t)row * a.ld;
  float value[SLOTS];
  uint32_t key[SLOTS], chosen = 0; /* bit j: slot j */
#pragma unroll
  for (int j = 0; j < SLOTS; j++) {
    const bool real = lane + 32 * j < a.n_experts;
    value[j] = real ? logit[lane + 32 * j] : 0.0f;
    key[j] = real ? key_of(value[j]) : (uint32_t)NOT_MINE;
  }
  float top = 0.0f;
  for (int k = 0; k < a.n_used; k++) {
    uint32_t best = key[0];
    int at = 0;
    float v = value[0];
#pragma unroll
    for (int j = 1; j < SLOTS; j++)
      if (key[j] > best) best = key[j], at = j, v = value[j];
    const uint32_t most = __reduce_max_sync(0xffffffffu, best);
    const uint32_t index = (uint32_t)(lane + 32 * at);
    const uint32_t first = __reduce_min_sync(0xffffffffu, best == most ? index : 0xffffffffu);
    if (k == 0) top = __shfl_sync(0xffffffffu, v, (int)(first % 32));
    const bool mine = first == index;
    chosen |= mine ? 1u << at : 0u;
#pragma unroll
    for (int j = 0; j < SLOTS; j++) key[j] = mine && j == at ? (uint32_t)NOT_MINE : key[j];
  }
  float sum = 0.0f, kept = 0.0f;
#pragma unroll
  for (int j = 0; j < SLOTS; j++) {
    value[j] = lane + 32 * j < a.n_experts ? expf(value[j] - top) : 0.0f;
    sum += value[j];
  }
  sum = lanes_sum<32>(sum);
#pragma unroll
  for (int j = 0; j < SLOTS; j++) {
    value[j] /= sum;
    kept += chosen >> j & 1 ? value[j] : 0.0f;
  }
  kept = lanes_sum<32>(kept);
  int before = 0;
#pragma unroll
  for (int j = 0; j < SLOTS; j++) {
    const uint32_t marked = __ballot_sync(0xffffffffu, (int)(chosen >> j & 1));
    if (chosen >> j & 1) {
      const int64_t to = (int64_t)row * a.n_used + before + __popc(marked & ((1u << lane) - 1));
      a.expert[to] = lane + 32 * j;
      a.weight[to] = a.renormalise ? value[j] / kept : value[j];
    }
    before += __popc(marked);
  }
}

/* Pairs by expert, by one block: each warp counts a run of pairs, runs are summed up, each warp places its
 * own. So the order is the pairs' own, and atomics are not needed. */
CU_DEV void sort_pairs(const weir_cuk_moe_route_args &a, int warp, int lane) {
  CU_SHARED(int32_t, count, SORT_WARPS * WEIR_MOE_EXPERTS);
  CU_SHARED(int32_t, total, WEIR_MOE_EXPERTS);
  const int pairs = a.n * a.n_used, run = (pairs + 32 * SORT_WARPS - 1) / (32 * SORT_WARPS) * 32;
  const int end = min(pairs, (warp + 1) * run);
  int32_t *mine = count + warp * WEIR_MOE_EXPERTS;
  for (int i = lane; i < WEIR_MOE_EXPERTS; i += 32) mine[i] = 0;
  __syncwarp();
  for (int at = warp * run; at < end; at += 32) {
    const int expert = at + lane < end ? a.expert[at + lane] : -1;
    const uint32_t same = __match_any_sync(0xffffffffu, expert);
    if (expert >= 0 && (same & ((1u << lane) - 1)) == 0) mine[expert] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  for (int e = warp * 32 + lane; e < a.n_experts; e += SORT_WARPS * 32) {
    int32_t sum = 0;
    for (int w = 0; w < SORT_WARPS; w++) {
      const int32_t c = count[w * WEIR_MOE_EXPERTS + e];
      count[w * WEIR_MOE_EXPERTS + e] = sum;
      sum += c;
    }
    total[e] = sum;
  }
  __syncthreads();
  if (warp == 0) { /* starts of experts and of their tiles, both in one sum: neither exceeds 4096 */
    uint32_t carry = 0;
    for (int base = 0; base < a.n_experts; base += 32) {
      const int e = base + lane;
      const int32_t n = e < a.n_experts ? total[e] : 0, tiles = (n + a.tile_picks - 1) / a.tile_picks;
      uint32_t sum = (uint32_t)n | (uint32_t)tiles << 16;
#pragma unroll
      for (int o = 1; o < 32; o <<= 1) {
        const uint32_t below = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += below;
      }
      const uint32_t upto = carry + sum;
      const int32_t start = (int32_t)(upto & 0xffffu) - n, first_tile = (int32_t)(upto >> 16) - tiles;
      if (e < a.n_experts) total[e] = start;
      for (int t = 0; t < tiles; t++) {
        const int32_t first = t * a.tile_picks;
        a.tile[first_tile + t] = {e, start + first, min(n - first, a.tile_picks), 0};
      }
      carry = __shfl_sync(0xffffffffu, upto, 31);
    }
    if (lane == 0) *a.n_tiles = (int32_t)(carry >> 16);
  }
  __syncthreads();
  for (int at = warp * run; at < end; at += 32) {
    const int expert = at + lane < end ? a.expert[at + lane] : -1;
    const uint32_t same = __match_any_sync(0xffffffffu, expert), below = same & ((1u << lane) - 1);
    const int32_t base = expert >= 0 ? total[expert] + mine[expert] : 0;
    __syncwarp(); /* all have read before one counts on */
    if (expert >= 0) {
      a.pick[base + __popc(below)] = at + lane;
      if (below == 0) mine[expert] += __popc(same);
    }
    __syncwarp();
  }
}

/* Few rows: all in one launch. */
__global__ void __launch_bounds__(SORT_WARPS * 32)
    moe_route_sort(const __grid_constant__ weir_cuk_moe_route_args a) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int row = warp; row < a.n; row += SORT_WARPS) route_row(a, row, lane);
  __syncthreads(); /* the rows' experts are there for all */
  sort_pairs(a, warp, lane);
}

__global__ void __launch_bounds__(ROUTE_WARPS * 32)
    moe_route(const __grid_constant__ weir_cuk_moe_route_args a) {
  const int lane = threadIdx.x % 32, row = blockIdx.x * ROUTE_WARPS + threadIdx.x / 32;
  if (row < a.n) route_row(a, row, lane);
}

__global__ void __launch_bounds__(SORT_WARPS * 32)
    moe_sort(const __grid_constant__ weir_cuk_moe_route_args a) {
  sort_pairs(a, threadIdx.x / 32, threadIdx.x % 32);
}

template <bool ALIGNED>
__global__ void __launch_bounds__(COMBINE_THREADS) moe_combine(const weir_cuk_moe_combine_args a) {
  const int64_t row = blockIdx.x, first = row * a.n_used;
  const int c = (int)(blockIdx.y * COMBINE_THREADS + threadIdx.x) * 4, left = a.cols - c;
  if (left <= 0) return;
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
  for (int k = 0; k < a.n_used; k++) { /* experts by ascending index */
    const float w = a.weight[first + k];
    const float4 v = quad_load<ALIGNED>(a.x + (first + k) * a.x_ld + c, left);
    sum.x = fmaf(w, v.x, sum.x), sum.y = fmaf(w, v.y, sum.y);
    sum.z = fmaf(w, v.z, sum.z), sum.w = fmaf(w, v.w, sum.w);
  }
  quad_store<ALIGNED>(a.y + row * a.y_ld + c, sum, left);
}

}  // namespace

extern "C" cudaError_t weir_cuk_moe_route(const weir_cuk_moe_route_args *a, cudaStream_t stream) {
  if (a->n_experts > WEIR_MOE_EXPERTS || (int64_t)a->n * a->n_used > WEIR_MOE_PAIRS)
    return cudaErrorInvalidValue;
  if (a->n <= WEIR_MOE_SELF_SORT) {
    CU_LAUNCH(moe_route_sort, 1, SORT_WARPS * 32, 0, stream, *a);
  } else {
    CU_LAUNCH(moe_route, (unsigned)(a->n + ROUTE_WARPS - 1) / ROUTE_WARPS, ROUTE_WARPS * 32, 0, stream, *a);
    CU_LAUNCH(moe_sort, 1, SORT_WARPS * 32, 0, stream, *a);
  }
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_moe_combine(const weir_cuk_moe_combine_args *a, cudaStream_t stream) {
  const dim3 grid((unsigned)a->n, ((unsigned)a->cols + 4 * COMBINE_THREADS - 1) / (4 * COMBINE_THREADS));
  if (a->aligned)
    CU_LAUNCH(moe_combine<true>, grid, COMBINE_THREADS, 0, stream, *a);
  else
    CU_LAUNCH(moe_combine<false>, grid, COMBINE_THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}
