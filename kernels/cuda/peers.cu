/* SPDX-License-Identifier: Apache-2.0 */
/* One-shot exchange among ranks that share a GPU, each with a stream of its own: a block lays a slice of its
 * rank's data out in the rank's part of device memory, says so, waits until the same block of every other
 * rank has, and then reads the slices of all ranks in order of rank. All of them see the same numbers in the
 * same order: the same bits.
 *
 * Slices alternate between two places. A block lays out slice k + 2 where slice k was once everybody has laid
 * out k + 1, and whoever has is done with reading k: one wait a slice is enough. How many slices a block has
 * laid out is counted in device memory, so that a launch recorded in a graph goes on where the last one
 * stopped.
 *
 * Order in memory: the block's stores, __syncthreads, then thread 0's store with release semantics at the
 * scope of the GPU; at the other side a load that acquires, __syncthreads, then the loads of all threads.
 * Release and acquire are cumulative over the barrier (PTX ISA, memory consistency model, causality order).
 */
#include "kernels/cuda/peers_kernels.h"

#include "kernels/cuda/cu.h"

typedef weir_cuk_exchange_args args;

enum { LOOKS = 64 /* at a rank's word between two at the clock and the stop word, which is across PCIe */ };

CU_DEV bool has_come(const args &a, int r, uint32_t k) {
  return (int)(cu_ld_acquire(a.came[r] + blockIdx.x * a.stride) - k) >= 0;
}

/* Until rank r has laid out k slices. False when the group is over, or this makes it so; the stop word then
 * says that somebody has given up, whoever ended the group. */
CU_DEV bool wait_for(const args &a, int r, uint32_t k) {
  uint64_t end = 0;
  for (unsigned look = 1; !has_come(a, r, k); look++) {
    if (look % LOOKS == 0) {
      const uint64_t now = cu_clock_ns();
      if (end == 0) end = now + a.bound_ns;
      const uint32_t word = cu_ld_system(a.stop);
      /* What is complete was good before the group ended. */
      if (word != 0 && has_come(a, r, k)) return true;
      if (word != 0 || now > end) {
        if ((word & a.late) == 0) cu_st_system(a.stop, a.late | (uint32_t)a.rank << 8 | (uint32_t)r);
        return false;
      }
    }
    cu_spin();
  }
  return true;
}

CU_DEV float add(float a, float b) { return a + b; }
CU_DEV float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
CU_DEV uint8_t add(uint8_t a, uint8_t) { return a; } /* nobody sums bytes */

/* What other SMs have written is read from L2. */
CU_DEV float load(const float *p) { return __ldcg(p); }
CU_DEV float4 load(const float4 *p) { return __ldcg(p); }
CU_DEV uint8_t load(const uint8_t *p) { return __ldcg(p); }

template <int WHAT, class V>
static __global__ void __launch_bounds__(WEIR_CUK_PEER_THREADS) exchange(args a) {
  const int tid = (int)threadIdx.x, slot = (int)blockIdx.x;
  const uint32_t slice = a.slice_bytes / (uint32_t)sizeof(V);
  const V *in = (const V *)a.in;
  V *out = (V *)a.out;
  uint32_t *came = a.came[a.rank] + slot * a.stride;
  uint32_t k = cu_ld_acquire(came);
  for (uint64_t at = (uint64_t)slot * slice; at < a.n; at += (uint64_t)gridDim.x * slice) {
    const uint32_t n = a.n - at < slice ? (uint32_t)(a.n - at) : slice;
    k++;
    const uint64_t place =
        ((k & 1) * (uint32_t)a.n_slots + (uint32_t)slot) * (a.slot_bytes / (uint32_t)sizeof(V));
    if (WHAT != WEIR_CUK_PEER_BROADCAST || a.rank == a.root) {
      V *mine = (V *)a.data[a.rank] + place;
      for (uint32_t i = (uint32_t)tid; i < n; i += WEIR_CUK_PEER_THREADS) mine[i] = in[at + i];
    }
    __syncthreads();
    if (tid == 0) cu_st_release(came, k);
    const bool over = tid < a.n_ranks && !wait_for(a, tid, k);
    if (__syncthreads_or(over)) return;
    if (WHAT == WEIR_CUK_PEER_REDUCE) {
      for (uint32_t i = (uint32_t)tid; i < n; i += WEIR_CUK_PEER_THREADS) {
        V sum = load((const V *)a.data[0] + place + i);
        for (int r = 1; r < a.n_ranks; r++) sum = add(sum, load((const V *)a.data[r] + place + i));
        out[at + i] = sum;
      }
    } else {
      const int from = WHAT == WEIR_CUK_PEER_GATHER ? 0 : a.root;
      const int to = WHAT == WEIR_CUK_PEER_GATHER ? a.n_ranks : a.root + 1;
      for (int r = from; r < to; r++) {
        const V *theirs = (const V *)a.data[r] + place;
        V *dst = out + (uint64_t)(r - from) * a.n + at;
        for (uint32_t i = (uint32_t)tid; i < n; i += WEIR_CUK_PEER_THREADS) dst[i] = load(theirs + i);
      }
    }
  }
}

template <int WHAT>
static void go(const args &a, cudaStream_t stream) {
  if (a.unit == 16)
    CU_LAUNCH((exchange<WHAT, float4>), a.n_blocks, WEIR_CUK_PEER_THREADS, 0, stream, a);
  else if (a.unit == 4)
    CU_LAUNCH((exchange<WHAT, float>), a.n_blocks, WEIR_CUK_PEER_THREADS, 0, stream, a);
  else
    CU_LAUNCH((exchange<WHAT, uint8_t>), a.n_blocks, WEIR_CUK_PEER_THREADS, 0, stream, a);
}

extern "C" cudaError_t weir_cuk_exchange(const weir_cuk_exchange_args *a, cudaStream_t stream) {
  if (a->what == WEIR_CUK_PEER_REDUCE)
    go<WEIR_CUK_PEER_REDUCE>(*a, stream);
  else if (a->what == WEIR_CUK_PEER_GATHER)
    go<WEIR_CUK_PEER_GATHER>(*a, stream);
  else
    go<WEIR_CUK_PEER_BROADCAST>(*a, stream);
  return CU_LAUNCH_STATUS();
}
