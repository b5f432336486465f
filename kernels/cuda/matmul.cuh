/* SPDX-License-Identifier: Apache-2.0 */
/* y[n, rows] = x[n, cols] W^T for quantised W and n <= 64, on tensor cores.
 *
 * A warp owns 16 rows of W (features) and a slice of its columns; features are the 16 rows of mma.m16n8k16's
 * A, batch rows the 8 columns of its B, so one batch row costs as much as eight and there is no kernel apart
 * for one: of a Q4 tile of 16 x 64, HBM at 4.8 TB/s brings one each 24 clocks to each of 132 SMs. FFMA would
 * spend about 140 warp instructions on it (1024 weights to unpack, convert and multiply, 32 lanes), 35 clocks
 * at four a clock. Here it is 36 to unpack, 4 mma, 2 ldmatrix, 8 FFMA for scales and about 10 around: 15
 * clocks.
 *
 * Codes are exact small integers in half. A partial sum runs over the 32 columns (Q6_K: 16) that share a
 * scale and is multiplied by it in F32: nothing is lost of W. Q4_K and Q5_K subtract min * (sum of x over the
 * block): one more mma a chunk, its k the eight blocks twice: mins times the sums' upper, then their lower
 * digits.
 *
 * W comes by cp.async into a ring in shared memory that is the warp's own, a chunk of four tiles a stage: 2.3
 * KB (Q4) in two instructions a tile, no registers in flight; 16 warps an SM with one stage or two under way
 * are 37 to 74 KB, and 30 KB (4.8 TB/s times 0.8 us, over 132) are needed. x is shared by the block: with up
 * to eight rows each warp converts one row of one slice's next chunk while the current one is multiplied;
 * with more, panels made by weir_cuk_panels are copied along with W. One barrier a chunk serves all of this.
 *
 * Slices are added as a binary tree: within a block in shared memory, between blocks in scratch by whichever
 * comes last (a ticket), in the order of the slices and not of arrival. Rows of the batch never meet: a NaN
 * stays in its row of x, or its row of W.
 *
 * nt is the number of batch tiles of 8. Eight of them at one row tile a warp are bound by ldmatrix (8 KB a
 * tile and warp, 64 clocks): two row tiles a warp would halve that; to be tried where it can be timed.
 *
 * Registers (nvcc 13.0, sm_80 / sm_90a; none spills) and shared memory by type and batch rows; two blocks an
 * SM but where registers exceed 128. Not yet run on a GPU.
 *
 *            8                 16                32                 64
 *   Q8_0   107/113  76 KB    109/110  85 KB    112/112 102 KB    185/186 136 KB
 *   Q4_0    88/101  62 KB    108/104  79 KB    125/126 105 KB    220/221 104 KB
 *   Q5_0   109/113  74 KB    106/ 96  91 KB    125/126  78 KB    221/222 112 KB
 *   Q4_K   111/111  62 KB    115/117  79 KB    128/128 105 KB    240/242 104 KB
 *   Q5_K   110/114  74 KB    119/114  91 KB    128/128  78 KB    239/245 112 KB
 *   Q6_K    89/ 91  61 KB     97/ 96  69 KB    128/128  86 KB    225/225 121 KB */
#ifndef WEIR_KERNELS_CUDA_MATMUL_CUH
#define WEIR_KERNELS_CUDA_MATMUL_CUH
#include "kernels/cuda/dequant.cuh"
#include "kernels/cuda/panel.cuh"

/* Shared memory of one instantiation. */
template <weir_dtype T, int NT>
struct mm_layout {
  enum {
    SELF = NT == 1,
    ROWS = 8 * NT, /* of a panel */
    BITS = T == WEIR_Q8_0                     ? 8
           : T == WEIR_Q6_K                   ? 6
           : T == WEIR_Q5_0 || T == WEIR_Q5_K ? 5
                                              : 4,
    LOW = BITS == 8 ? 1024 : 512, /* bytes of a tile */
    HIGH = BITS == 6   ? 256
           : BITS == 5 ? 128
                       : 0,
    HIGH_TILE = HIGH > 0 ? HIGH : 1,
    SCALE = T == WEIR_Q6_K ? 288 : 256, /* bytes of a row tile's scales for four tiles */
    STAGE = 4 * (LOW + HIGH) + SCALE,   /* of one warp */
    PANEL = ROWS * WEIR_PANEL_ROW_BYTES,
    /* Three stages where two blocks then still fit an SM of 228 KB; with 64 rows of x beside them two, so
       that a block fits the smaller ones. */
    STAGES = BITS >= 6 || NT == 8 || (NT == 4 && BITS == 5) ? 2 : 3,
    /* Blocks an SM that registers are kept for, 128 a lane at two: 64 accumulators are too many for two. */
    RESIDENT = NT == 8 ? 1 : 2,
    X_SLOTS = SELF ? 2 : STAGES,
    X_AT = STAGES * WEIR_MM_WARPS * STAGE,
    SMEM = X_AT + X_SLOTS * PANEL
  };
};

/* Chunk c of row tile rt into a stage; zeros for tiles beyond the last. */
template <weir_dtype T, int NT>
CU_DEV void mm_copy_weights(unsigned char *stage, const weir_segment &w, int32_t rt, int32_t c, int lane) {
  typedef mm_layout<T, NT> L;
  const size_t tile = (size_t)rt * w.n_ktiles + 4 * (size_t)c;
  const int32_t left = w.n_ktiles - 4 * c; /* tiles that are there */
  const unsigned char *low = static_cast<const unsigned char *>(w.low) + tile * L::LOW;
#pragma unroll
  for (int i = 0; i < 4 * L::LOW / 512; i++) {
    const int o = i * 512 + lane * 16;
    cu_cp_async16_stream(stage + o, low + o, o / L::LOW < left);
  }
  if (L::HIGH > 0) {
    const unsigned char *high = static_cast<const unsigned char *>(w.high) + tile * L::HIGH;
#pragma unroll
    for (int i = 0; i < 4 * L::HIGH / 512; i++) {
      const int o = i * 512 + lane * 16;
      cu_cp_async16_stream(stage + 4 * L::LOW + o, high + o, o / L::HIGH_TILE < left);
    }
  }
  /* 64 bytes a tile; of K types four tiles in one piece, of which none is missing. */
  if (lane * 16 < L::SCALE)
    cu_cp_async16_stream(stage + 4 * (L::LOW + L::HIGH) + lane * 16,
                         static_cast<const unsigned char *>(w.scale) + tile / 4 * L::SCALE +
                             tile % 4 * (L::SCALE / 4) + lane * 16,
                         T == WEIR_Q6_K || lane / 4 < left);
}

/* The A fragment of mins: rows of the tile by the eight blocks of the chunk, twice; and 32 dmin of both rows.
 */
CU_DEV void mm_mins(const weir_scales_k4 &s, int lane, uint32_t a[4], float dmin[2]) {
  const int pair = lane % 4; /* blocks 2 pair, 2 pair + 1 */
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint4 b = s.row[i]; /* weir_k_scale */
    const uint32_t min4 = pair >= 2 ? (b.w >> 4 & 0x0f0f0f0fu) | (b.z >> 2 & 0x30303030u) : b.z & 0x3f3f3f3fu;
    const uint32_t two = pair % 2 ? min4 >> 16 : min4;
    a[i] = a[i + 2] = cu_h2sub((two & 0xffu) | (two & 0xff00u) << 8 | 0x64006400u, 0x64006400u);
    dmin[i] = 32.0f * h2f(static_cast<f16>(b.x >> 16));
  }
}
CU_DEV void mm_mins(const weir_scales_block &, int, uint32_t *, float *) {}
CU_DEV void mm_mins(const weir_scales_k6 &, int, uint32_t *, float *) {}

/* tot += one chunk of W times one chunk of x. `row` maps a row of the batch to one of the panel. */
template <weir_dtype T, int NT>
CU_DEV void mm_chunk(float tot[NT][4], const unsigned char *stage, unsigned char *panel, int first, int n,
                     int lane) {
  typedef mm_layout<T, NT> L;
  enum { ZERO = weir_quant<T>::zero, SPLIT = weir_quant<T>::parts == 4, LOWS = weir_quant<T>::has_low };
  const unsigned char *scale = stage + 4 * (L::LOW + L::HIGH);
  /* Few rows: the panel holds just those, `first` on; what stands for the missing ones is not stored. */
  const int fetch = L::SELF ? first + min(lane & 7, n - 1) : lane & 7;
  const unsigned char *x = panel + fetch * 512;
  const int off[2] = {((lane >> 3) ^ (fetch & 7)) << 4, ((4 + (lane >> 3)) ^ (fetch & 7)) << 4};
  typename weir_scales_of<T>::type s;
  float acc[NT][4];
#pragma unroll
  for (int j = 0; j < NT; j++) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.0f;
#pragma unroll(NT >= 4 ? 1 : 4) /* registers */
  for (int t = 0; t < 4; t++) {
    if (t == 0 || !LOWS || NT >= 4) weir_scales_load(s, scale, 4, 0, t, lane);
    typename weir_codes_of<T>::type code;
    weir_codes_load(code, stage, stage + 4 * L::LOW, t, lane);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      uint32_t a[2][4];
      weir_codes_fragment<ZERO>(code, 2 * h, a[0]);
      weir_codes_fragment<ZERO>(code, 2 * h + 1, a[1]);
      const weir_steps d0 = weir_scales_get(s, t, SPLIT ? 2 * h : h);
      const weir_steps d1 = SPLIT ? weir_scales_get(s, t, 2 * h + 1) : d0;
#pragma unroll
      for (int j = 0; j < NT; j++) {
        uint32_t b[4];
        float p[4], q[4];
        cu_ldmatrix_x4(b, x + j * 8 * 512 + t * 128 + off[h]);
        cu_mma_f16_zero(p, a[0], b);
        if (SPLIT)
          cu_mma_f16_zero(q, a[1], b + 2);
        else
          cu_mma_f16(p, a[1], b + 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          acc[j][i] = fmaf(d0.step[i / 2], p[i], acc[j][i]);
          if (SPLIT) acc[j][i] = fmaf(d1.step[i / 2], q[i], acc[j][i]);
        }
      }
    }
  }
  uint32_t min_a[4];
  float dmin[2] = {0.0f, 0.0f};
  if (LOWS && NT >= 4) weir_scales_load(s, scale, 4, 0, 0, lane); /* again, rather than held */
  mm_mins(s, lane, min_a, dmin);
#pragma unroll
  for (int j = 0; j < NT; j++) {
    if (LOWS) {
      const int r = L::SELF ? first + min(lane / 4, n - 1) : j * 8 + lane / 4;
      const unsigned char *sum = panel_sum(panel, L::ROWS, r) + (lane % 4) * 4;
      const uint32_t b[2] = {*reinterpret_cast<const uint32_t *>(sum),
                             *reinterpret_cast<const uint32_t *>(sum + 16)};
      float p[4];
      cu_mma_f16_zero(p, min_a, b);
#pragma unroll
      for (int i = 0; i < 4; i++) acc[j][i] = fmaf(-dmin[i / 2], p[i], acc[j][i]);
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
      const int r = 2 * (lane % 4) + k;
      const float f = panel_scale(panel, L::ROWS)[L::SELF ? first + min(r, n - 1) : j * 8 + r];
      tot[j][k] = fmaf(f, acc[j][k], tot[j][k]);
      tot[j][k + 2] = fmaf(f, acc[j][k + 2], tot[j][k + 2]);
    }
  }
}

CU_DEV float4 mm_add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

/* The sum of N values `stride` apart, in pairs, pairs of pairs and so on: the tree over slices. */
template <int N>
struct mm_tree {
  static __device__ __forceinline__ float4 sum(const float4 *p, size_t stride) {
    return mm_add(mm_tree<N / 2>::sum(p, stride), mm_tree<N / 2>::sum(p + N / 2 * stride, stride));
  }
};
template <>
struct mm_tree<1> {
  static __device__ __forceinline__ float4 sum(const float4 *p, size_t) { return *p; }
};
/* The same for any power of two. Eight loads at a time: all 32 at once would take 128 registers. */
CU_DEV float4 mm_sum(const float4 *p, size_t stride, int count) {
  switch (count) {
    case 2: return mm_tree<2>::sum(p, stride);
    case 4: return mm_tree<4>::sum(p, stride);
    default: break;
  }
  float4 v = mm_tree<8>::sum(p, stride), pair = v, four = v;
#pragma unroll 1
  for (int g = 1; g < count / 8; g++) {
    v = mm_tree<8>::sum(p + g * 8 * stride, stride);
    if (g % 2 == 0) {
      pair = v;
      continue;
    }
    v = mm_add(pair, v);
    if (g == 1)
      four = v;
    else
      v = mm_add(four, v);
  }
  return v;
}

/* Batch tile j of row tile rt. */
CU_DEV void mm_write(const weir_cuk_matmul_args &m, int32_t rt, int j, float4 v, int lane) {
  const int32_t r = 8 * j + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int32_t f = rt * WEIR_PACK_ROWS + lane / 4 + 8 * i;
    if (f >= m.w.rows) continue;
    const float b = m.bias ? m.bias[f] : 0.0f;
    if (r < m.n) m.y[r * m.y_ld + f] = (i ? v.z : v.x) + b;
    if (r + 1 < m.n) m.y[(r + 1) * m.y_ld + f] = (i ? v.w : v.y) + b;
  }
}

/* Grid: (row blocks, slices / side), side = slices a block works on side by side; warp w: row tile w / side,
 * slice w % side. */
template <weir_dtype T, int NT>
__global__ void __launch_bounds__(WEIR_MM_WARPS * 32, mm_layout<T, NT>::RESIDENT)
    mm_kernel(const __grid_constant__ weir_cuk_matmul_args m, int32_t few_side) {
  typedef mm_layout<T, NT> L;
  enum { STAGES = L::STAGES, SUMS = weir_quant<T>::has_low };
  CU_DYN_SHARED(unsigned char, smem);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t side = L::SELF ? few_side : 1;
  const int kk = L::SELF ? warp % side : 0;
  const int32_t rt = blockIdx.x * (WEIR_MM_WARPS / side) + (L::SELF ? warp / side : warp);
  const int32_t chunks = weir_mm_chunks(m.w.cols), slice0 = blockIdx.y * side;
  const int32_t begin = weir_mm_slice_begin(chunks, m.slices, slice0 + kk);
  const int32_t end = rt < m.w.n_rtiles ? weir_mm_slice_begin(chunks, m.slices, slice0 + kk + 1) : begin;
  const int32_t rounds = (chunks + m.slices - 1) / m.slices; /* the longest slice */
  unsigned char *ring = smem + warp * L::STAGE, *xs = smem + L::X_AT;

  /* x: where this warp's part of the block's work comes from. */
  const int from = L::SELF ? warp / m.n : 0, row = L::SELF ? warp % m.n : 0;
  const bool converts = L::SELF && from < side;
  const int32_t x_begin = converts ? weir_mm_slice_begin(chunks, m.slices, slice0 + from) : begin;
  const int32_t x_end = weir_mm_slice_begin(chunks, m.slices, slice0 + from + 1);

  /* Weights of round i, and x with them where it lies in panels; a group even when there is nothing. */
  auto copy = [&](int32_t i) {
    const int st = i % STAGES;
    if (begin + i < end)
      mm_copy_weights<T, NT>(ring + st * WEIR_MM_WARPS * L::STAGE, m.w, rt, begin + i, lane);
    if (!L::SELF && x_begin + i < x_end) {
      const unsigned char *src =
          static_cast<const unsigned char *>(m.panel) + (size_t)(x_begin + i) * L::PANEL;
      for (int o = threadIdx.x * 16; o < L::PANEL; o += WEIR_MM_WARPS * 32 * 16)
        cu_cp_async16(xs + st * L::PANEL + o, src + o, true);
    }
    cu_cp_async_commit();
  };

#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) copy(i);
  weir_panel_row next;
  if (L::SELF && converts && x_begin < x_end) {
    next = panel_load(m.x + row * m.x_ld, m.w.cols, x_begin, m.x_aligned, lane);
    panel_store<SUMS>(xs, L::ROWS, from * m.n + row, next, lane);
  }
  float tot[NT][4];
#pragma unroll
  for (int j = 0; j < NT; j++) tot[j][0] = tot[j][1] = tot[j][2] = tot[j][3] = 0.0f;

  for (int32_t i = 0; i < rounds; i++) {
    cu_cp_async_wait<STAGES - 2>();
    __syncthreads(); /* round i is there for all; round i - 1 is read by none any more: its place is free */
    copy(i + STAGES - 1);
    const bool more = converts && x_begin + i + 1 < x_end;
    if (L::SELF && more) next = panel_load(m.x + row * m.x_ld, m.w.cols, x_begin + i + 1, m.x_aligned, lane);
    if (begin + i < end)
      mm_chunk<T, NT>(tot, ring + i % STAGES * WEIR_MM_WARPS * L::STAGE,
                      xs + (L::SELF ? i % 2 : i % STAGES) * L::PANEL, kk * m.n, m.n, lane);
    if (L::SELF && more)
      panel_store<SUMS>(xs + (i + 1) % 2 * L::PANEL, L::ROWS, from * m.n + row, next, lane);
  }

  const bool owner = kk == 0 && rt < m.w.n_rtiles;
  if (L::SELF && side > 1) {
    float4 *red = reinterpret_cast<float4 *>(smem);
    __syncthreads(); /* the ring is read by none any more */
    red[warp * 32 + lane] = make_float4(tot[0][0], tot[0][1], tot[0][2], tot[0][3]);
    __syncthreads();
    if (kk == 0) {
      const float4 v = mm_sum(red + warp * 32 + lane, 32, side);
      tot[0][0] = v.x;
      tot[0][1] = v.y;
      tot[0][2] = v.z;
      tot[0][3] = v.w;
    }
  }
  if (gridDim.y == 1) {
    if (!owner) return;
#pragma unroll
    for (int j = 0; j < NT; j++)
      mm_write(m, rt, j, make_float4(tot[j][0], tot[j][1], tot[j][2], tot[j][3]), lane);
    return;
  }
  float4 *part = reinterpret_cast<float4 *>(m.partial) + (size_t)rt * gridDim.y * (NT * 32) + lane;
  if (owner)
#pragma unroll
    for (int j = 0; j < NT; j++)
      part[((size_t)blockIdx.y * NT + j) * 32] = make_float4(tot[j][0], tot[j][1], tot[j][2], tot[j][3]);
  __threadfence(); /* before the ticket says that they are there */
  __syncthreads();
  int *last =
      reinterpret_cast<int *>(smem); /* what was there has been read by all before the barrier above */
  if (threadIdx.x == 0) {
    *last = cu_add_release(m.ticket + blockIdx.x, 1) == gridDim.y - 1;
    if (*last) m.ticket[blockIdx.x] = 0; /* for the next launch, a replayed one too */
  }
  __syncthreads();
  if (!*last || !owner) return;
  __threadfence(); /* what the others wrote, not what L1 may hold */
#pragma unroll 1
  for (int j = 0; j < NT; j++) mm_write(m, rt, j, mm_sum(part + j * 32, NT * 32, gridDim.y), lane);
}

#endif
