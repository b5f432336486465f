/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of many query rows over paged KV, F16 products with F32 sums on tensor cores (mma.m16n8k16), in
 * the manner of FlashAttention-2 (arXiv 2307.08691): a tile of packed rows stays, K and V pass by in blocks
 * of 64 positions, scores never leave registers.
 *
 * Packed rows (attn_item.h) are ordered by token, heads within: 128 of them under a group of 4 are 32
 * neighbouring tokens, so that the tile ends at nearly the same position for all of them and a warp's 32 rows
 * (8 tokens) at more nearly the same still: blocks that no row of a warp sees are skipped by that warp, and
 * only blocks of which some row of the warp sees a part pay for masks.
 *
 * Tile sizes. A warp has MT m16 tiles of rows and all 64 positions of a block, so every warp reads all of K
 * and V from shared memory. An ldmatrix.x4 (512 bytes: 4 clocks of the SM's 128 bytes a clock) feeds 2*MT
 * mma, of 2 clocks of an A100's SM each and some 1.6 of an H100's. With MT = 1 shared memory would bound
 * everything; with MT = 2 it is busy for three quarters of an A100's time. MT = 4 does not fit: its
 * accumulators alone (rows x head_dim) would be 256 registers a thread. At MT = 2, head_dim 128: 128
 * accumulators, 64 scores, 12 fragments, the rows' state: two CTAs of four warps an SM (255 registers), the
 * softmax of one under the mma of the other.
 * Tiles of at most 64 rows (short continuations, verification) take MT = 1, which keeps four warps busy
 * instead of two; what bounds them is reading KV.
 *
 * Shared memory: Q [128][D], then a ring of three blocks [64][D]: K0 V0 K1 V1 ... One is worked on, two are
 * under way. Chunks of 16 bytes are swizzled, chunk c of row r at c ^ r%8, so that the eight rows of an
 * ldmatrix lie in different banks.
 *
 * Softmax in base 2. The reference m of a row is its maximum but for a slack of 2^8: it is moved, and the
 * accumulators scaled, only when a block tops it by more than that. P then reaches 2^8 at most (F16 ends at
 * 2^16) and m cancels in the end. So nearly all blocks but the first do without MT*D/2 multiplications a
 * lane. It is decided for each row alone: a row's result depends on nothing but the row, its blocks, which
 * begin at multiples of 64, and where the plan cuts it.
 *
 * What a block costs a warp (MT = 2, head_dim 128, no cap, every row sees all of it; counted in the SASS of
 * sm_90a, CUDA 13.0): 737 instructions, of them 256 mma, 80 ldmatrix, 64 ex2, 64 fma, 64 add, 68 max, 32
 * cvt, 16 cp.async and 20 shuffles; 1070 before addresses were made to share their XOR, page numbers to do
 * without a division and whole blocks without predicates. In clocks of a quarter SM: mma 2048 on an A100,
 * about 1600 on an H100 (mma.sync at some 62 % of what wgmma does, recalled); ex2 512; issue 737; shared
 * memory's four warps together 1280 of ldmatrix and 256 of filling. Two CTAs an SM hide softmax and copies
 * behind mma, which is then the bound: on an H100 about 600 TFLOP/s with shared memory close behind; the goal
 * is half of that. Not yet run on a GPU.
 *
 * Registers (sm_80 / sm_90a), none spilled: head_dim 64 230 / 236, with cap 240 / 254; head_dim 128 255.
 *
 * A value that is not finite reaches rows of its tile that do not see it if they have part in its block: 0 *
 * inf. Positions that no row of the tile sees are never read into products.
 *
 * Q as F16: each row times the power of two that brings its greatest element to 2^14 .. 2^15, taken back in
 * the scale of the scores. Large q do not overflow, small ones lose no bits. */
#ifndef WEIR_KERNELS_CUDA_ATTEND_PREFILL_CUH
#define WEIR_KERNELS_CUDA_ATTEND_PREFILL_CUH
#include "kernels/cuda/attend_prefill_kernels.h"
#include "kernels/cuda/cu.h"

enum {
  PREFILL_BLOCK = WEIR_ATTN_LONG_BLOCK,
  PREFILL_PAGE_ROWS = 16, /* positions that are sure to lie in one page */
  PREFILL_GROUPS = PREFILL_BLOCK / PREFILL_PAGE_ROWS
};

#define PREFILL_LOG2E 1.4426950408889634f
#define PREFILL_NONE  -1e30f /* m of a row that has seen nothing: finite, so that -inf - m is -inf */
#define PREFILL_SLACK 8.0f

/* Positions that are read: the item's part of those that any row sees; begin >= end where there are none. */
struct prefill_span {
  int32_t begin, end;
};

/* What a CTA knows of its item, in shared memory: only what every block asks for is worth registers. */
struct prefill_tile {
  const int32_t *page; /* of the sequence */
  int32_t seq_row;     /* batch row of the sequence's first row */
  int32_t row, n_rows; /* packed */
  int32_t kv_head;
  int32_t slot;
  prefill_span span;
  float scale; /* |scale| in base 2; under a soft cap twice that over it */
};

/* What is kept of a tile's rows in shared memory. With the tile and what is seen it must stay within the 1
 * KiB that two CTAs of 81 KiB, and 1 KiB of the system's for each, leave of an A100's 164. */
struct prefill_row_state {
  int32_t pos[WEIR_ATTN_LONG_ROWS];
  uint8_t back[WEIR_ATTN_LONG_ROWS]; /* exponent field of the power of two that its scores are to be times */
};

/* Where the blocks begin that some row of a warp sees, lo .. hi, and those that all its rows see whole,
 * whole_lo .. whole_hi. In shared memory too. */
struct prefill_seen {
  int32_t lo, hi, whole_lo, whole_hi;
  int32_t item; /* number of the CTA's item */
};

/* A warp's MT*16 rows as they stand. In mma's layout a lane has rows lane/4 and lane/4 + 8 of each m16 tile,
 * and of 8 columns (lane%4)*2 and the next. */
template <int D, int MT>
struct prefill_rows {
  float o[MT][D / 8][4];
  float m[MT][2], l[MT][2]; /* l: this lane's share of the sum */
};

/* Byte offset of chunk c (16 bytes) of row r in a swizzled [rows][D] of halves. */
template <int D>
CU_DEV int prefill_at(int r, int c) {
  return r * D * 2 + ((c ^ (r & 7)) << 4);
}

/* The first row of a block that this thread copies its chunk of; which chunk is tid % (D / 8). */
template <int D>
CU_DEV int prefill_row0() {
  return (int)threadIdx.x / (D / 8);
}

/* The row of KV, counted in head_dim elements from its base, of the 16 positions that the lane looks after in
 * the block at t0: one lookup for 16 positions, by four lanes, a block ahead of its use. Entries of `page`
 * that belong to no position of the span are not read. */
CU_DEV uint32_t prefill_find(const weir_cuk_attend_args &a, const prefill_tile *t, int32_t t0) {
  const prefill_span y = t->span;
  const int32_t p = t0 + PREFILL_PAGE_ROWS * (int32_t)(threadIdx.x & (PREFILL_GROUPS - 1));
  if (p + PREFILL_PAGE_ROWS <= y.begin || p >= y.end) return 0;
  const int32_t ps = a.page_size;
  int32_t nth, in;
  if ((ps & (ps - 1)) == 0) {
    nth = p >> (__ffs(ps) - 1);
    in = p & (ps - 1);
  } else {
    nth = p / ps;
    in = p - nth * ps;
  }
  return ((uint32_t)t->page[nth] * 2u * (uint32_t)a.n_kv_heads + (uint32_t)t->kv_head) * (uint32_t)ps +
         (uint32_t)in;
}

/* Enqueues 64 rows of K or V to a block of shared memory; `rows` is what prefill_find has found, of V the
 * value's. Of rows that are not in the span (`at`: of this thread's first row, from its begin; n rows) come
 * zeros, whatever stands there: their weights are zeros, and 0 * NaN must not arise. WHOLE: all are. */
template <int D, bool WHOLE>
CU_DEV void prefill_copy(const char *from, uint32_t rows, unsigned char *to, int32_t at, uint32_t n) {
  constexpr int STEP = WEIR_PREFILL_THREADS / (D / 8); /* rows a round: 8 or 16 */
#pragma unroll
  for (int g = 0; g < PREFILL_GROUPS; g++) {
    const char *src = from + (uint64_t)__shfl_sync(0xffffffffu, rows, g) * (D * 2);
#pragma unroll
    for (int i = 0; i < PREFILL_PAGE_ROWS; i += STEP) {
      const int r = g * PREFILL_PAGE_ROWS + i;
      cu_cp_async16(to + r * D * 2, src + i * D * 2, WHOLE || (uint32_t)(at + r) < n);
    }
  }
}

template <int D>
CU_DEV void prefill_load(prefill_span y, const char *from, uint32_t rows, unsigned char *to, int32_t t0) {
  if (t0 >= y.begin && t0 + PREFILL_BLOCK <= y.end)
    prefill_copy<D, true>(from, rows, to, 0, 0);
  else
    prefill_copy<D, false>(from, rows, to, t0 + prefill_row0<D>() - y.begin, (uint32_t)(y.end - y.begin));
}

/* Row r of the tile -> F16 at sq, by a power of two; zeros beyond the last. Leaves the exponent field of what
 * takes the power back in back[r] and the row's position in pos[r]. A negative scale goes to q, so that the
 * greatest score is the greatest product. */
template <int D>
CU_DEV void prefill_load_row(const weir_cuk_attend_args &a, const prefill_tile *t, unsigned char *sq,
                             prefill_row_state *rows, int r) {
  constexpr int PER = D / 32; /* elements a lane: neighbours, one load where they are aligned */
  const int lane = (int)threadIdx.x & 31;
  float x[PER];
#pragma unroll
  for (int e = 0; e < PER; e++) x[e] = 0.0f;
  int32_t where = 0;
  if (r < t->n_rows) {
    const int32_t f = t->row + r, row = t->seq_row + f / a.group;
    const float *q =
        a.q + (int64_t)row * a.q_ld + (int64_t)(t->kv_head * a.group + f % a.group) * D + lane * PER;
    where = a.pos[row];
    if ((((uintptr_t)a.q | (uintptr_t)a.q_ld * 4) & 15) == 0) {
#pragma unroll
      for (int e = 0; e < PER; e += 2) {
        const float2 two = *(const float2 *)(q + e);
        x[e] = two.x, x[e + 1] = two.y;
      }
    } else {
#pragma unroll
      for (int e = 0; e < PER; e++) x[e] = q[e];
    }
  }
  float top = 0.0f;
#pragma unroll
  for (int e = 0; e < PER; e++) top = fmaxf(top, fabsf(x[e]));
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
  /* 2^(14 - ex) and 2^(ex - 14) by their exponent fields; below 2^-112 is as good as nothing. */
  uint32_t ex = __float_as_uint(top) >> 23;
  ex = ex < 15 ? 15 : ex;
  const float by = __uint_as_float((268 - ex) << 23) * (a.scale > 0.0f   ? 1.0f
                                                        : a.scale < 0.0f ? -1.0f
                                                                         : 0.0f);
  uint32_t *to = (uint32_t *)(sq + prefill_at<D>(r, lane * PER / 8) + lane * PER % 8 * 2);
#pragma unroll
  for (int e = 0; e < PER / 2; e++) to[e] = f2h2(x[2 * e] * by, x[2 * e + 1] * by);
  if (lane == 0) {
    rows->pos[r] = where;
    rows->back[r] = (uint8_t)(ex - 14);
  }
}

/* Scores of a block: s = Q K^T. */
template <int D, int MT>
CU_DEV void prefill_scores(float s[MT][PREFILL_BLOCK / 8][4], const unsigned char *q,
                           const unsigned char *k) {
  const int lane = (int)threadIdx.x & 31;
  const unsigned char *qr = q + (lane & 15) * D * 2, *kr = k + ((lane & 7) + (lane >> 4) * 8) * D * 2;
  const int qx = (lane >> 4) ^ (lane & 7), kx = (lane >> 3 & 1) ^ (lane & 7);
#pragma unroll
  for (int kk = 0; kk < D / 16; kk++) {
    uint32_t qf[MT][4];
#pragma unroll
    for (int mt = 0; mt < MT; mt++) cu_ldmatrix_x4(qf[mt], qr + ((kk * 2 ^ qx) << 4) + mt * 16 * D * 2);
#pragma unroll
    for (int nb = 0; nb < PREFILL_BLOCK / 16; nb++) {
      uint32_t kf[4];
      cu_ldmatrix_x4(kf, kr + ((kk * 2 ^ kx) << 4) + nb * 16 * D * 2);
#pragma unroll
      for (int mt = 0; mt < MT; mt++) {
        if (kk == 0) {
          cu_mma_f16_zero(s[mt][2 * nb], qf[mt], kf);
          cu_mma_f16_zero(s[mt][2 * nb + 1], qf[mt], kf + 2);
        } else {
          cu_mma_f16(s[mt][2 * nb], qf[mt], kf);
          cu_mma_f16(s[mt][2 * nb + 1], qf[mt], kf + 2);
        }
      }
    }
  }
}

/* O += P V, in strips of 64 columns: 8*MT sums take turns, and four addresses do. They are opaque: the
 * compiler folds their XOR with what is added later, and then needs one for each ldmatrix. */
template <int D, int MT>
CU_DEV void prefill_values(prefill_rows<D, MT> &w, const uint32_t p[MT][PREFILL_BLOCK / 16][4],
                           const unsigned char *v) {
  constexpr int STRIP = 4;
  const int lane = (int)threadIdx.x & 31;
#pragma unroll
  for (int d0 = 0; d0 < D / 16; d0 += STRIP) {
    int at[STRIP];
#pragma unroll
    for (int d = 0; d < STRIP; d++) at[d] = cu_opaque(prefill_at<D>(lane & 15, (d0 + d) * 2 + (lane >> 4)));
#pragma unroll
    for (int kk = 0; kk < PREFILL_BLOCK / 16; kk++)
#pragma unroll
      for (int d = 0; d < STRIP; d++) {
        uint32_t vf[4];
        cu_ldmatrix_x4_trans(vf, v + at[d] + kk * 16 * D * 2);
#pragma unroll
        for (int mt = 0; mt < MT; mt++) {
          cu_mma_f16(w.o[mt][2 * (d0 + d)], p[mt][kk], vf);
          cu_mma_f16(w.o[mt][2 * (d0 + d) + 1], p[mt][kk], vf + 2);
        }
      }
  }
}

/* What takes a row's scores from what mma leaves to the argument of what comes next. */
CU_DEV float prefill_scale(const prefill_tile *t, uint8_t back) {
  return __uint_as_float((uint32_t)back << 23) * t->scale;
}

/* Scores of positions that a row does not see -> -inf. `pos` is of the warp's rows. The item's span needs no
 * look: where it ends inside a block, there the tile ends. */
template <int MT>
CU_DEV void prefill_mask(float s[MT][PREFILL_BLOCK / 8][4], const int32_t *pos, int32_t window, int32_t t0) {
  const int lane = (int)threadIdx.x & 31;
#pragma unroll
  for (int mt = 0; mt < MT; mt++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int32_t p = pos[mt * 16 + h * 8 + (lane >> 2)], at = t0 + (lane & 3) * 2;
      const int32_t lo = weir_attn_seen_from(p, window) - at, hi = p - at;
#pragma unroll
      for (int n = 0; n < PREFILL_BLOCK / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          if (n * 8 + e < lo || n * 8 + e > hi) s[mt][n][h * 2 + e] = -INFINITY;
    }
}

/* Scores as mma leaves them -> capped, in base 2, the scale applied; before the mask. tanh(x) = 1 -
 * 2/(e^2x + 1): the hardware's own tanh is good to 2^-11, which times a cap of 50 is too little. */
template <int MT>
CU_DEV void prefill_cap(const prefill_tile *t, float cap, float s[MT][PREFILL_BLOCK / 8][4],
                        const uint8_t *back) {
  const float c = cap * PREFILL_LOG2E;
#pragma unroll
  for (int mt = 0; mt < MT; mt++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float by = prefill_scale(t, back[mt * 16 + h * 8]);
#pragma unroll
      for (int n = 0; n < PREFILL_BLOCK / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float &x = s[mt][n][h * 2 + e];
          x = c - 2.0f * c * cu_rcp(cu_exp2(x * by) + 1.0f);
        }
    }
}

/* Scores -> weights p, packed as mma's A operand; m, l and o follow. CAP: the scale is applied already.
 * `back` is of this lane's first row. */
template <int D, int MT, bool CAP>
CU_DEV void prefill_softmax(const prefill_tile *t, prefill_rows<D, MT> &w, float s[MT][PREFILL_BLOCK / 8][4],
                            uint32_t p[MT][PREFILL_BLOCK / 16][4], const uint8_t *back) {
  float top[MT][2], scale[MT][2];
  bool grown = false;
#pragma unroll
  for (int mt = 0; mt < MT; mt++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float x = s[mt][0][h * 2];
#pragma unroll
      for (int n = 0; n < PREFILL_BLOCK / 8; n++) x = fmaxf(x, fmaxf(s[mt][n][h * 2], s[mt][n][h * 2 + 1]));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
      scale[mt][h] = CAP ? 1.0f : prefill_scale(t, back[mt * 16 + h * 8]);
      if (!CAP) x *= scale[mt][h];
      top[mt][h] = x;
      grown = grown || x > w.m[mt][h] + PREFILL_SLACK;
    }
  if (__any_sync(0xffffffffu, grown)) {
#pragma unroll
    for (int mt = 0; mt < MT; mt++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float m = top[mt][h] > w.m[mt][h] + PREFILL_SLACK ? top[mt][h] : w.m[mt][h];
        const float fade = cu_exp2(w.m[mt][h] - m); /* 1 to the bit where m stays */
        w.m[mt][h] = m;
        w.l[mt][h] *= fade;
#pragma unroll
        for (int d = 0; d < D / 8; d++) w.o[mt][d][h * 2] *= fade, w.o[mt][d][h * 2 + 1] *= fade;
      }
  }
#pragma unroll
  for (int mt = 0; mt < MT; mt++)
#pragma unroll
    for (int n = 0; n < PREFILL_BLOCK / 8; n++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float m = w.m[mt][h];
        const float x = s[mt][n][h * 2], y = s[mt][n][h * 2 + 1];
        const float px = cu_exp2(CAP ? x - m : fmaf(x, scale[mt][h], -m));
        const float py = cu_exp2(CAP ? y - m : fmaf(y, scale[mt][h], -m));
        w.l[mt][h] += px + py;
        p[mt][n >> 1][(n & 1) * 2 + h] = f2h2(px, py);
      }
}

/* o -> `out` divided by l where the unit is whole, else the partial result. */
template <int D, int MT>
CU_DEV void prefill_store(const weir_cuk_attend_args &a, const prefill_tile *t, const prefill_rows<D, MT> &w,
                          int first) {
  const int lane = (int)threadIdx.x & 31;
#pragma unroll
  for (int mt = 0; mt < MT; mt++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float l = w.l[mt][h];
      l += __shfl_xor_sync(0xffffffffu, l, 1);
      l += __shfl_xor_sync(0xffffffffu, l, 2);
      const int r = first + mt * 16 + h * 8 + (lane >> 2);
      if (r >= t->n_rows) continue;
      float *to, by = 1.0f;
      bool wide = true;
      if (t->slot < 0) {
        const int32_t f = t->row + r;
        to = a.out + (int64_t)(t->seq_row + f / a.group) * a.out_ld +
             (int64_t)(t->kv_head * a.group + f % a.group) * D;
        wide = (((uintptr_t)a.out | (uintptr_t)a.out_ld * 4) & 7) == 0;
        by = 1.0f / l;
      } else {
        const int64_t at = (int64_t)t->slot * WEIR_ATTN_LONG_ROWS + r;
        to = a.part.acc + at * D;
        if ((lane & 3) == 0) {
          a.part.ml[at * 2] = l > 0.0f ? w.m[mt][h] : -INFINITY;
          a.part.ml[at * 2 + 1] = l;
        }
      }
      to += (lane & 3) * 2;
#pragma unroll
      for (int d = 0; d < D / 8; d++) {
        const float x = w.o[mt][d][h * 2] * by, y = w.o[mt][d][h * 2 + 1] * by;
        if (wide) {
          *(float2 *)(to + d * 8) = make_float2(x, y);
        } else {
          to[d * 8] = x;
          to[d * 8 + 1] = y;
        }
      }
    }
}

/* One item. All threads of the CTA come here together; shared memory but for `t` is free when it begins and
 * ends. */
template <int D, int MT, bool CAP>
CU_DEV void prefill_item(const weir_cuk_attend_args &a, const prefill_tile *t, unsigned char *sm,
                         prefill_row_state *kept, prefill_seen *seen, int32_t item) {
  constexpr int BLOCK_BYTES = PREFILL_BLOCK * D * 2;
  const int tid = (int)threadIdx.x, lane = tid & 31, first = (tid >> 5) * MT * 16;
  unsigned char *sq = sm, *ring = sm + WEIR_ATTN_LONG_ROWS * D * 2;
  const int to = prefill_at<D>(prefill_row0<D>(), tid % (D / 8));
  const char *k = (const char *)a.kv + prefill_row0<D>() * D * 2 + tid % (D / 8) * 16;
  const uint32_t v = (uint32_t)a.n_kv_heads * (uint32_t)a.page_size; /* rows from a key to its value */
  const int32_t end = t->span.end;
  int32_t t0 = t->span.begin / PREFILL_BLOCK * PREFILL_BLOCK;
  prefill_rows<D, MT> w;
  uint32_t rows = prefill_find(a, t, t0);

  if (t->span.begin < end) { /* K and V of the first block: what the loop below finds under way */
    prefill_load<D>(t->span, k, rows, ring + to, t0);
    cu_cp_async_commit();
    prefill_load<D>(t->span, k, rows + v, ring + BLOCK_BYTES + to, t0);
    cu_cp_async_commit();
    rows = prefill_find(a, t, t0 + PREFILL_BLOCK);
  }
#pragma unroll 4
  for (int r = first; r < first + MT * 16; r++) prefill_load_row<D>(a, t, sq, kept, r);
#pragma unroll
  for (int mt = 0; mt < MT; mt++)
#pragma unroll
    for (int h = 0; h < 2; h++) w.m[mt][h] = PREFILL_NONE, w.l[mt][h] = 0.0f;
#pragma unroll
  for (int mt = 0; mt < MT; mt++)
#pragma unroll
    for (int d = 0; d < D / 8; d++) w.o[mt][d][0] = w.o[mt][d][1] = w.o[mt][d][2] = w.o[mt][d][3] = 0.0f;
  __syncwarp(); /* a warp reads no other's rows of Q */
  if (lane == 0) {
    prefill_seen here = {0, -1, 0, -1, item};
    if (first < t->n_rows) {
      const int32_t p = kept->pos[first];
      const int32_t q = kept->pos[(t->n_rows < first + MT * 16 ? t->n_rows : first + MT * 16) - 1];
      const int32_t from = weir_attn_seen_from(q, a.window);
      here.lo = weir_attn_seen_from(p, a.window) - PREFILL_BLOCK + 1;
      here.hi = q;
      here.whole_lo = from > t->span.begin ? from : t->span.begin;
      here.whole_hi = (p < end ? p : end - 1) - PREFILL_BLOCK + 1;
    }
    *seen = here;
  }
  __syncwarp();

  int slot = 0; /* of the ring: the block worked on */
  for (; t0 < end; t0 += PREFILL_BLOCK) {
    const bool works = t0 >= seen->lo && t0 <= seen->hi, more = t0 + PREFILL_BLOCK < end;
    uint32_t p[MT][PREFILL_BLOCK / 16][4];
    int next = slot == 0 ? 2 : slot - 1; /* two further on, of three */
    cu_cp_async_wait<1>();
    __syncthreads(); /* K is there, and everybody has left what `next` held */
    if (more) prefill_load<D>(t->span, k, rows, ring + next * BLOCK_BYTES + to, t0 + PREFILL_BLOCK);
    cu_cp_async_commit();
    if (works) {
      float s[MT][PREFILL_BLOCK / 8][4];
      prefill_scores<D, MT>(s, sq + first * D * 2, ring + slot * BLOCK_BYTES);
      const uint8_t *back = kept->back + first + (lane >> 2);
      if (CAP) prefill_cap<MT>(t, a.softcap, s, back);
      if (t0 < seen->whole_lo || t0 > seen->whole_hi) prefill_mask<MT>(s, kept->pos + first, a.window, t0);
      prefill_softmax<D, MT, CAP>(t, w, s, p, back);
    }
    next = slot;
    slot = slot == 2 ? 0 : slot + 1;
    cu_cp_async_wait<1>();
    __syncthreads(); /* V is there */
    if (more) {
      prefill_load<D>(t->span, k, rows + v, ring + next * BLOCK_BYTES + to, t0 + PREFILL_BLOCK);
      rows = prefill_find(a, t, t0 + 2 * PREFILL_BLOCK);
    }
    cu_cp_async_commit();
    if (works) prefill_values<D, MT>(w, p, ring + slot * BLOCK_BYTES);
    slot = slot == 2 ? 0 : slot + 1;
  }
  cu_cp_async_wait<0>();
  if (first < t->n_rows) prefill_store<D, MT>(a, t, w, first);
  __syncthreads();
}

template <int D, bool CAP>
__global__ void __launch_bounds__(WEIR_PREFILL_THREADS, 2)
    attend_prefill(const __grid_constant__ weir_cuk_attend_args a) {
  CU_DYN_SHARED(unsigned char, sm);
  CU_SHARED(prefill_row_state, kept, 1);
  CU_SHARED(prefill_tile, tile, 1);
  CU_SHARED(prefill_seen, all_seen, WEIR_PREFILL_THREADS / 32);
  prefill_seen *seen = all_seen + threadIdx.x / 32;
  for (int32_t i = a.list.cta[blockIdx.x]; i < a.list.cta[blockIdx.x + 1]; i = seen->item + 1) {
    const weir_attn_item it = a.list.item[i];
    const int32_t seq_row = a.q_indptr[it.seq];
    const int32_t from = weir_attn_seen_from(a.pos[seq_row + it.row / a.group], a.window);
    const int32_t end = a.pos[seq_row + (it.row + it.n_rows - 1) / a.group] + 1;
    const weir_attn_range r = weir_attn_item_range(&it, from, end, PREFILL_BLOCK);
    if (threadIdx.x == 0) {
      tile->page = a.page + a.page_indptr[it.seq];
      tile->seq_row = seq_row;
      tile->row = it.row;
      tile->n_rows = it.n_rows;
      tile->kv_head = it.kv_head;
      tile->slot = it.slot;
      tile->span.begin = r.begin > from ? r.begin : from;
      tile->span.end = r.end;
      tile->scale =
          (a.scale == 0.0f ? 1.0f : fabsf(a.scale)) * PREFILL_LOG2E * (CAP ? 2.0f * cu_rcp(a.softcap) : 1.0f);
    }
    __syncthreads();
    if (it.n_rows > WEIR_ATTN_LONG_ROWS / 2)
      prefill_item<D, 2, CAP>(a, tile, sm, kept, seen, i);
    else
      prefill_item<D, 1, CAP>(a, tile, sm, kept, seen, i);
  }
}

#endif
