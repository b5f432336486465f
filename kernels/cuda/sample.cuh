/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels of sampling share: which chunk a block has, what a draw reads of it, the exponential of
 * the CPU device to the bit, and how blocks and rows end. A block is 256 threads and has one chunk of 4096
 * ids: 16 a thread, which are all in flight at once. */
#ifndef WEIR_KERNELS_CUDA_SAMPLE_CUH
#define WEIR_KERNELS_CUDA_SAMPLE_CUH
#include "kernels/cuda/cu.h"
#include "kernels/cuda/sample_kernels.h"

enum { SAMPLE_T = 256, SAMPLE_WARPS = SAMPLE_T / 32, SAMPLE_EACH = WEIR_SAMPLE_CHUNK / SAMPLE_T };
#define SAMPLE_ALL 0xffffffffu

typedef struct sample_place {
  int32_t row, chunk, first, n;
} sample_place;

CU_DEV sample_place sample_chunk_of(const weir_cuk_sample_args &a, int32_t row, int32_t chunk) {
  const int32_t first = a.first + chunk * WEIR_SAMPLE_CHUNK, left = a.end - first;
  return {row, chunk, first, left < WEIR_SAMPLE_CHUNK ? left : WEIR_SAMPLE_CHUNK};
}
CU_DEV sample_place sample_here(const weir_cuk_sample_args &a) {
  const int32_t b = (int32_t)blockIdx.x;
  return sample_chunk_of(a, b / a.n_chunks, b % a.n_chunks);
}
CU_DEV const float *sample_chunk(const weir_cuk_sample_args &a, sample_place p) {
  return a.logits + (int64_t)p.row * a.ld + (p.first - a.first);
}
/* Of an id that is here. */
CU_DEV float sample_logit(const weir_cuk_sample_args &a, int32_t row, int32_t id) {
  return a.logits[(int64_t)row * a.ld + (id - a.first)];
}
CU_DEV bool sample_has(const weir_cuk_sample_args &a, int32_t id) { return id >= a.first && id < a.end; }
/* What a rank says in the exchange of the moment, from byte `at` on. */
CU_DEV char *sample_said(const weir_cuk_sample_args &a, int32_t rank, size_t at) {
  return a.s.all + (size_t)rank * a.s.stride + at;
}

/* vf_exp of kernels/cpu/vec_math.h, rounding by rounding; 16 instructions. Comparisons as there: a NaN comes
 * through. */
CU_DEV float sample_exp(float x) {
  float t = -87.0f > x ? -87.0f : x;
  t = 88.37f < t ? 88.37f : t;
  const float shift = 0x1.8p23f;
  const float magic = __fadd_rn(__fmul_rn(t, 0x1.715476p0f), shift), n = __fsub_rn(magic, shift);
  float r = __fsub_rn(t, __fmul_rn(n, 0.693359375f));
  r = __fsub_rn(r, __fmul_rn(n, -2.12194440e-4f));
  float q = 0x1.6d138p-10f;
  q = __fadd_rn(__fmul_rn(q, r), 0x1.120de4p-7f);
  q = __fadd_rn(__fmul_rn(q, r), 0x1.555518p-5f);
  q = __fadd_rn(__fmul_rn(q, r), 0x1.5554dap-3f);
  q = __fadd_rn(__fmul_rn(q, r), 0.5f);
  q = __fadd_rn(__fadd_rn(__fmul_rn(q, __fmul_rn(r, r)), r), 1.0f);
  const float scale = __uint_as_float((__float_as_uint(magic) + 127u) << 23);
  return x < -87.0f ? 0.0f : __fmul_rn(q, scale);
}
CU_DEV float sample_weight(float x, const weir_sample_law *law) {
  return sample_exp(__fdiv_rn(__fsub_rn(x, law->max), law->temperature));
}

/* Ids by logit, of equal ones the lowest first, as one number whose highest is the best; 0 for -inf. */
CU_DEV uint64_t sample_pack(float x, int32_t id) {
  return x > -INFINITY ? (uint64_t)weir_sample_key(x) << 32 | (uint32_t)~id : 0;
}
CU_DEV int32_t sample_pack_id(uint64_t p) { return (int32_t) ~(uint32_t)p; }
CU_DEV float sample_pack_logit(uint64_t p) { return weir_sample_unkey((uint32_t)(p >> 32)); }

CU_DEV uint64_t sample_warp_best(uint64_t v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const uint64_t o = __shfl_xor_sync(SAMPLE_ALL, v, d);
    v = o > v ? o : v;
  }
  return v;
}
/* The highest of the block, to all; word[SAMPLE_WARPS] may be used again at once. */
CU_DEV uint64_t sample_block_best(uint64_t v, uint64_t *word) {
  v = sample_warp_best(v);
  if (threadIdx.x % 32 == 0) word[threadIdx.x / 32] = v;
  __syncthreads();
  uint64_t best = word[0];
#pragma unroll
  for (int i = 1; i < SAMPLE_WARPS; i++) best = word[i] > best ? word[i] : best;
  __syncthreads();
  return best;
}

/* out[want] <- the best of item(0 .. n-1), 0 where there is none; all threads get them in turn through word.
 * A round takes the highest below the last.
 */
template <class Item>
CU_DEV void sample_pick(uint64_t *out, int32_t want, int32_t n, uint64_t *word, Item item) {
  uint64_t below = ~(uint64_t)0, own = 0;
  bool look = true;
  for (int32_t k = 0; k < want; k++) {
    if (look) {
      own = 0;
      for (int32_t i = (int32_t)threadIdx.x; i < n; i += SAMPLE_T) {
        const uint64_t v = item(i);
        if (v < below && v > own) own = v;
      }
    }
    below = sample_block_best(own, word);
    look = own == below && own != 0;
    if (threadIdx.x == 0) out[k] = below;
  }
}

/* What a draw reads of a chunk: its logits, or buf with the shaped ones, put there by the whole block. buf
 * may be in use by no thread. */
CU_DEV const float *sample_drawn(const weir_cuk_sample_args &a, sample_place p, bool shaped, float *buf) {
  const float *l = sample_chunk(a, p);
  if (!shaped) return l;
  int32_t n_edits;
  const weir_logit_edit *edit = weir_sample_edits(&a.ask[p.row].ask, p.first, p.n, &n_edits);
  const bool only = a.ask[p.row].ask.only_edits;
  if (n_edits == 0 && !only) return l;
  for (int32_t i = (int32_t)threadIdx.x; i < p.n; i += SAMPLE_T)
    buf[i] = only && l[i] > -INFINITY ? WEIR_SAMPLE_OUT : l[i];
  __syncthreads();
  for (int32_t i = (int32_t)threadIdx.x; i < n_edits; i += SAMPLE_T) {
    const weir_logit_edit x = edit[i];
    buf[x.id - p.first] = weir_sample_edited(l[x.id - p.first], &x);
  }
  __syncthreads();
  return buf;
}

/* What is left of what a draw reads when a draft was refused by weights: l, or buf without the draft's ids.
 */
CU_DEV const float *sample_rest(const weir_cuk_sample_args &a, sample_place p, const float *l, float *buf) {
  const weir_ask *ask = &a.ask[p.row].ask;
  int32_t here = 0;
  for (int32_t i = 0; i < ask->n_draft; i++)
    here += ask->draft[i].id >= p.first && ask->draft[i].id < p.first + p.n;
  if (here == 0) return l;
  if (l != buf)
    for (int32_t i = (int32_t)threadIdx.x; i < p.n; i += SAMPLE_T) buf[i] = l[i];
  __syncthreads();
  const int32_t i = (int32_t)threadIdx.x;
  if (i < ask->n_draft && ask->draft[i].id >= p.first && ask->draft[i].id < p.first + p.n)
    buf[ask->draft[i].id - p.first] = -INFINITY;
  __syncthreads();
  return buf;
}

/* Whether this is the row's last block to come here, and with that the one that sees what all have written
 * before. Release and acquire at the ticket, barriers around it: the order holds for every thread. */
CU_DEV bool sample_last(uint32_t *ticket, int32_t n_chunks, uint32_t *word) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    *word = cu_add_release(ticket, 1u) == (uint32_t)n_chunks - 1u;
    __threadfence();
  }
  __syncthreads();
  return *word != 0;
}

/* One warp merges a row's parts, part(0) .. part(n-1), in order. The exponentials are all lanes' work, ahead
 * of the sums: one after the other they would take as long as the rest of the kernel (38 chunks, some 200
 * cycles each). */
template <class Part>
CU_DEV weir_sample_stat sample_row_stat(int32_t n, Part part) {
  const int lane = (int)threadIdx.x % 32;
  weir_sample_stat s = {-INFINITY, -INFINITY, 0, 0, 0};
  for (int32_t base = 0; base < n; base += 32) {
    weir_sample_stat mine = {-INFINITY, -INFINITY, 0, 0, 0};
    if (base + lane < n) mine = *part(base + lane);
    float upto = mine.max;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const float o = __shfl_up_sync(SAMPLE_ALL, upto, d);
      if (lane >= d && o > upto) upto = o;
    }
    float before = __shfl_up_sync(SAMPLE_ALL, upto, 1);
    if (lane == 0 || s.max > before) before = s.max;
    const double ratio = weir_sample_ratio(before, mine.max);
    const int m = n - base < 32 ? (int)(n - base) : 32;
    for (int k = 0; k < m; k++) {
      const weir_sample_stat p = {__shfl_sync(SAMPLE_ALL, mine.max, k),
                                  __shfl_sync(SAMPLE_ALL, mine.second, k),
                                  __shfl_sync(SAMPLE_ALL, mine.top, k), __shfl_sync(SAMPLE_ALL, mine.sum, k),
                                  __shfl_sync(SAMPLE_ALL, mine.dot, k)};
      const double r = __shfl_sync(SAMPLE_ALL, ratio, k);
      if (base + k == 0)
        s = p;
      else
        weir_sample_join(&s, &p, r);
    }
  }
  return s;
}

/* The row's answer is that it is none. One thread. */
CU_DEV void sample_refuse(const weir_cuk_sample_args &a, int32_t r, weir_sample_fault fault) {
  a.row[r].token = -1 - (int32_t)fault;
  a.row[r].logprob = a.row[r].entropy = a.row[r].p_max = a.row[r].margin = a.row[r].probe_logprob = 0.0f;
  a.row[r].gate = 0.0f;
}

/* The law of a row that takes the likeliest id. One thread. */
CU_DEV void sample_tell_one(const weir_cuk_sample_args &a, int32_t r, int32_t id) {
  const float one = 1.0f;
  weir_sample_tell(&id, &one, 1, a.ask[r].ask.law);
}

static inline size_t sample_smem(const weir_cuk_sample_args *a) {
  return a->has_edits || a->has_drafts ? sizeof(float) * WEIR_SAMPLE_CHUNK : 0;
}
#endif
