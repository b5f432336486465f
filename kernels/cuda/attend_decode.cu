/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of few query rows over a long paged KV: what decode steps and verification of a few tokens do. It
 * is bound by reading KV, once; everything here serves to keep enough of it under way.
 *
 * The heads of a group, and the few tokens of a sequence, are packed into the 16 rows of mma.m16n8k16, so a
 * KV byte is read once for all of them. A CTA's piece of the positions is shared out over four warps by
 * blocks of 16 tokens (w, w + 4, ...); each warp has a ring of blocks of its own, filled by 16-byte cp.async
 * and waited for by that warp alone, so the warps never wait for each other until the piece ends, where their
 * four partial results are merged through shared memory.
 *
 * Bytes under way: bandwidth x latency. 4.8 TB/s x 1 us (an H200's HBM under load; some 0.6 us idle) = 4.8 MB
 * = 36 KB on each of 132 SMs; an A100 needs 2.0 TB/s x 0.8 us / 108 = 15 KB.
 *   head_dim 128: a block is 2 x 16 x 128 x 2 = 8 KB; three in the ring, two under way: 4 warps x 16 KB = 64
 * KB a CTA; 96 KB of shared memory, two CTAs an H200's SM (128 KB under way), one an A100's (64 KB). head_dim
 * 64: 4 KB; four in the ring, three under way: 48 KB a CTA; 64 KB, three CTAs an H200's SM (144 KB), two an
 * A100's (96 KB). Two or three CTAs an SM also cover each other's beginnings and ends, where nothing is under
 * way. A block costs a warp 32 mma, 16 ldmatrix and some 250 other instructions at head_dim 128, a sixth of
 * the issue slots of the 450 clocks that an SM's share of the bandwidth takes for 8 KB: shared by 8 warps, no
 * bound. Page numbers are looked up for 32 blocks at once, a lane each, and 32 blocks ahead.
 *
 * q as F16: each row times a power of two that brings its greatest element to 2^14 .. 2^15, taken back in the
 * scale of the scores: large q do not overflow, small ones lose nothing. Where a tile has at most 8 rows, the
 * usual case, the other 8 rows of the mma carry what rounding took from q, and then from P, as a second F16:
 * both products are then as good as F32 and cost nothing, since those rows were there anyway.
 *
 * Registers (nvcc 13.0; no spills, no stack): head_dim 128 188 on sm_80, 195 on sm_90a; 64 116, 121. */
#include "kernels/cuda/attend_decode_kernels.h"
#include "kernels/cuda/attend_tile.cuh"

enum { DECODE_WARPS = WEIR_DECODE_THREADS / 32, DECODE_BLOCK = WEIR_ATTN_SHORT_BLOCK };

/* Byte offset of chunk c (16 bytes) of row r of a block: chunks are swizzled so that the eight rows of an
 * ldmatrix lie in different banks. */
template <int D>
CU_DEV int decode_at(int r, int c) {
  return r * D * 2 + ((c ^ (r & 7)) << 4);
}

CU_DEV float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
CU_DEV float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* 1 - 2 / (1 + e^2x): within some 1e-7 everywhere, where tanh.approx is off by 5e-4, of a cap of 50. */
CU_DEV float decode_tanh(float x) { return 1.0f - 2.0f * cu_rcp(1.0f + cu_exp2(2.0f * ATTEND_LOG2E * x)); }

/* What a warp keeps of its part of the piece. Rows lane/4 (index 0) and lane/4 + 8 (1). */
template <int D>
struct decode_state {
  uint32_t q[D / 16][4]; /* A fragments */
  float o[D / 8][4];     /* accumulators: n8 tiles of the head's dimensions */
  float m[2], l[2];
  float mul[2];             /* from a sum of products to a score, or to tanh's argument */
  int32_t from[2], last[2]; /* positions the row sees */
};

/* NARROW: rows 8 .. 15 are the low parts of rows 0 .. 7. */
template <int D, bool NARROW>
CU_DEV void decode_load_q(const weir_cuk_attend_args &a, const attend_tile &t, decode_state<D> &s) {
  const int lane = threadIdx.x & 31, c0 = (lane & 3) * 2;
#pragma unroll
  for (int h = 0; h < (NARROW ? 1 : 2); h++) {
    const int r = (lane >> 2) + h * 8;
    const bool is_row = r < t.it.n_rows;
    float x[D / 16][4], top = 0.0f;
    const int32_t row = is_row ? attend_row_of(a, t, r) : 0;
    const float *q = a.q + (int64_t)row * a.q_ld + (is_row ? attend_head_of(a, t, r) : 0) * D;
    s.last[h] = is_row ? a.pos[row] : -1;
    s.from[h] = weir_attn_seen_from(s.last[h], a.window);
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        x[k][i] = is_row ? q[k * 16 + c0 + (i & 1) + (i >> 1) * 8] : 0.0f;
        top = fmaxf(top, fabsf(x[k][i]));
      }
    /* 2^(14 - exponent): exponent field 268 - e, within what both it and its inverse can be. */
    const int32_t e = 268 - (int32_t)(__float_as_uint(quad_max(top)) >> 23);
    const uint32_t up = (uint32_t)min(max(e, 1), 253) << 23;
    const float lift = __uint_as_float(up), back = __uint_as_float((254u << 23) - up);
    s.mul[h] = a.scale * back * (a.softcap > 0.0f ? 1.0f / a.softcap : ATTEND_LOG2E);
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float lo = x[k][2 * i] * lift, hi = x[k][2 * i + 1] * lift;
        const uint32_t both = f2h2(lo, hi);
        s.q[k][2 * i + h] = both;
        if (NARROW) s.q[k][2 * i + 1] = f2h2(lo - h2lo(both), hi - h2hi(both));
      }
  }
  if (NARROW) s.last[1] = -1, s.from[1] = 0, s.mul[1] = 0.0f;
}

/* One block: 16 positions from t0 on, K and V in shared memory. */
template <int D, bool NARROW>
CU_DEV void decode_block(const weir_cuk_attend_args &a, const unsigned char *K, int32_t t0,
                         decode_state<D> &s) {
  const int lane = threadIdx.x & 31, c0 = (lane & 3) * 2;
  const unsigned char *V = K + DECODE_BLOCK * D * 2;
  float x[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}}; /* [8 positions][fragment] */
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    uint32_t b[4];
    cu_ldmatrix_x4(b, K + decode_at<D>((lane & 7) + (lane >> 4) * 8, k * 2 + (lane >> 3 & 1)));
    cu_mma_f16(x[0], s.q[k], b);
    cu_mma_f16(x[1], s.q[k], b + 2);
  }
  uint32_t p[4];
#pragma unroll
  for (int h = 0; h < (NARROW ? 1 : 2); h++) {
    float top = s.m[h], sum = 0.0f;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int32_t at = t0 + n * 8 + c0 + i;
        float &v = x[n][h * 2 + i];
        if (NARROW) v += x[n][2 + i];
        v *= s.mul[h];
        if (a.softcap > 0.0f) v = a.softcap * ATTEND_LOG2E * decode_tanh(v);
        v = at >= s.from[h] && at <= s.last[h] ? v : -INFINITY;
        top = fmaxf(top, v);
      }
    top = quad_max(top);
    const float shrink = cu_exp2(s.m[h] - top);
    s.m[h] = top;
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const float lo = cu_exp2(x[n][h * 2] - top), hi = cu_exp2(x[n][h * 2 + 1] - top);
      sum += lo + hi;
      p[n * 2 + h] = f2h2(lo, hi);
      if (NARROW) p[n * 2 + 1] = f2h2(lo - h2lo(p[n * 2]), hi - h2hi(p[n * 2]));
    }
    s.l[h] = s.l[h] * shrink + sum;
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      s.o[i][h * 2] *= shrink;
      s.o[i][h * 2 + 1] *= shrink;
      if (NARROW) s.o[i][2] *= shrink, s.o[i][3] *= shrink;
    }
  }
#pragma unroll
  for (int d = 0; d < D / 16; d++) {
    uint32_t b[4];
    cu_ldmatrix_x4_trans(b, V + decode_at<D>((lane & 7) + (lane >> 3 & 1) * 8, d * 2 + (lane >> 4)));
    cu_mma_f16(s.o[2 * d], p, b);
    cu_mma_f16(s.o[2 * d + 1], p, b + 2);
  }
}

/* Starts the copy of a block: K and V of positions t0 .. t0 + 15, which lie in one page. */
template <int D>
CU_DEV void decode_fetch(const weir_cuk_attend_args &a, const attend_tile &t, uint32_t kv_row, int32_t t0,
                         unsigned char *to) {
  const int lane = threadIdx.x & 31;
  const char *k = (const char *)a.kv + (int64_t)kv_row * (D * 2);
  const int64_t v = weir_attn_value_offset(&a) * 2;
#pragma unroll
  for (int i = lane; i < DECODE_BLOCK * D / 8; i += 32) {
    const int r = i / (D / 8), c = i % (D / 8);
    const bool pred = t0 + r >= t.first && t0 + r < t.end;
    cu_cp_async16(to + decode_at<D>(r, c), k + i * 16, pred);
    cu_cp_async16(to + DECODE_BLOCK * D * 2 + decode_at<D>(r, c), k + v + i * 16, pred);
  }
}

/* An item, but for the merge of the four warps. */
template <int D, int ST, bool NARROW>
CU_DEV void decode_piece(const weir_cuk_attend_args &a, const attend_tile &t, unsigned char *ring,
                         decode_state<D> &s) {
  enum { STAGE = 2 * DECODE_BLOCK * D * 2 };
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
  const int32_t n = t.end > t.begin ? (t.end - t.begin + DECODE_BLOCK - 1) / DECODE_BLOCK : 0;
  const int32_t mine = n > w ? (n - w + DECODE_WARPS - 1) / DECODE_WARPS : 0;
  /* Block j of this warp begins at: */
  auto start = [&](int32_t j) { return t.begin + (w + j * DECODE_WARPS) * DECODE_BLOCK; };
  /* A lane's row in KV of block j + lane. */
  auto find = [&](int32_t j) { return j + lane < mine ? attend_kv_row(a, t, start(j + lane)) : 0u; };
  uint32_t now = find(0), next = find(32);
  auto fetch = [&](int32_t j) {
    if (j > 0 && (j & 31) == 0) now = next, next = find(j + 32);
    decode_fetch<D>(a, t, __shfl_sync(0xffffffffu, now, j & 31), start(j), ring + j % ST * STAGE);
  };
#pragma unroll
  for (int j = 0; j < ST - 1; j++) {
    if (j < mine) fetch(j);
    cu_cp_async_commit();
  }
  decode_load_q<D, NARROW>(a, t, s);
#pragma unroll
  for (int i = 0; i < D / 8; i++) s.o[i][0] = s.o[i][1] = s.o[i][2] = s.o[i][3] = 0.0f;
  s.m[0] = s.m[1] = ATTEND_NONE;
  s.l[0] = s.l[1] = 0.0f;
  for (int32_t j = 0; j < mine; j++) {
    cu_cp_async_wait<ST - 2>();
    __syncwarp(); /* block j is there for all lanes, and block j - 1 is done with: its place is next */
    if (j + ST - 1 < mine) fetch(j + ST - 1);
    cu_cp_async_commit();
    decode_block<D, NARROW>(a, ring + j % ST * STAGE, start(j), s);
  }
  cu_cp_async_wait_all();
  s.l[0] = quad_sum(s.l[0]);
  s.l[1] = quad_sum(s.l[1]);
  if (NARROW)
#pragma unroll
    for (int i = 0; i < D / 8; i++) s.o[i][0] += s.o[i][2], s.o[i][1] += s.o[i][3];
}

template <int D, int ST>
__global__ void __launch_bounds__(WEIR_DECODE_THREADS, D == 128 ? 2 : 3)
    attend_decode_kernel(const __grid_constant__ weir_cuk_attend_args a) {
  enum { STAGE = 2 * DECODE_BLOCK * D * 2, ROWS = WEIR_ATTN_SHORT_ROWS };
  CU_DYN_SHARED(unsigned char, smem);
  CU_SHARED(float, ml, DECODE_WARPS * 2 * ROWS); /* [warp][m, l][row] */
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
  float *sum = (float *)smem; /* [warp][row][D], where the rings were */
  for (int32_t i = a.list.cta[blockIdx.x]; i < a.list.cta[blockIdx.x + 1]; i++) {
    const attend_tile t = attend_tile_of(a, i);
    decode_state<D> s;
    if (t.it.n_rows <= ROWS / 2)
      decode_piece<D, ST, true>(a, t, smem + w * ST * STAGE, s);
    else
      decode_piece<D, ST, false>(a, t, smem + w * ST * STAGE, s);
    if ((lane & 3) == 0) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        ml[w * 2 * ROWS + (lane >> 2) + h * 8] = s.m[h];
        ml[w * 2 * ROWS + ROWS + (lane >> 2) + h * 8] = s.l[h];
      }
    }
    __syncthreads(); /* the rings are free */
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int r = (lane >> 2) + h * 8;
      if (r >= t.it.n_rows) continue;
      float top = ATTEND_NONE;
#pragma unroll
      for (int k = 0; k < DECODE_WARPS; k++) top = fmaxf(top, ml[k * 2 * ROWS + r]);
      const float f = cu_exp2(s.m[h] - top);
#pragma unroll
      for (int d = 0; d < D / 8; d++) {
        float2 v;
        v.x = s.o[d][h * 2] * f;
        v.y = s.o[d][h * 2 + 1] * f;
        *(float2 *)(sum + (w * ROWS + r) * D + d * 8 + (lane & 3) * 2) = v;
      }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < t.it.n_rows * D; at += WEIR_DECODE_THREADS) {
      const int r = at / D, d = at % D;
      float top = ATTEND_NONE, l = 0.0f, v = 0.0f;
#pragma unroll
      for (int k = 0; k < DECODE_WARPS; k++) top = fmaxf(top, ml[k * 2 * ROWS + r]);
#pragma unroll
      for (int k = 0; k < DECODE_WARPS; k++) {
        l += ml[k * 2 * ROWS + ROWS + r] * cu_exp2(ml[k * 2 * ROWS + r] - top);
        v += sum[(k * ROWS + r) * D + d];
      }
      if (t.it.slot < 0) {
        a.out[(int64_t)attend_row_of(a, t, r) * a.out_ld + attend_head_of(a, t, r) * D + d] = v / l;
      } else {
        const int64_t to = (int64_t)t.it.slot * ROWS + r;
        a.part.acc[to * D + d] = v;
        if (d == 0) a.part.ml[to * 2] = l > 0.0f ? top : -INFINITY;
        if (d == 1) a.part.ml[to * 2 + 1] = l;
      }
    }
    __syncthreads(); /* before the next item's rings overwrite the sums */
  }
}

template <int D, int ST>
static cudaError_t decode_launch(const weir_cuk_attend_args *a, cudaStream_t stream) {
  const size_t smem = weir_cuk_attend_decode_smem(D);
  const cudaError_t err = cu_allow_smem(attend_decode_kernel<D, ST>, smem);
  if (err != cudaSuccess) return err;
  CU_LAUNCH((attend_decode_kernel<D, ST>), a->list.n_ctas, WEIR_DECODE_THREADS, smem, stream, *a);
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_attend_decode(const weir_cuk_attend_args *a, cudaStream_t stream) {
  if (!a->f16 || a->page_size % DECODE_BLOCK != 0 || ((uintptr_t)a->kv & 15) != 0)
    return cudaErrorInvalidValue;
  switch (a->head_dim) {
    case 64: return decode_launch<64, 4>(a, stream);
    case 128: return decode_launch<128, 3>(a, stream);
    default: return cudaErrorInvalidValue;
  }
}
