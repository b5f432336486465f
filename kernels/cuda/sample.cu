/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling, first and last: statistics of all rows with the plan of what each needs, and the race of those
 * that draw. The answers are those of kernels/cpu/sample.c: each thread adds up what one lane adds up there,
 * between the same roundings, and parts are merged in the same order. Only exp, log, log1p and expm1 in
 * double are CUDA's instead of the C library's.
 *
 * Bytes: stat reads each logit once (64 rows of 152k: 39 MB, 12 us at 3.35 TB/s), race once more, out of L2
 * where that holds them. One row of 152k is 38 blocks. Instructions a logit, counted in the source: stat
 * about 30 (16 of them the exponential), race 15 for the noise and 7 to pass an id over. */
#include "kernels/cuda/sample.cuh"

typedef struct peak {
  float max, second;
  int32_t top;
} peak;
CU_DEV peak peak_of(peak a, peak b) {
  const float low = a.max < b.max ? a.max : b.max, rest = a.second > b.second ? a.second : b.second;
  const bool other = b.max > a.max || (b.max == a.max && b.top < a.top);
  return {other ? b.max : a.max, low > rest ? low : rest, other ? b.top : a.top};
}

/* The chunk's part, by thread 0; x are the thread's logits: fold tid/16 of 256 logits, lane tid%16. */
CU_DEV void chunk_stat(const float x[SAMPLE_EACH], sample_place p, weir_sample_stat *out) {
  CU_SHARED(peak, peaks, SAMPLE_WARPS);
  CU_SHARED(double, folds, 2 * SAMPLE_EACH);
  const int tid = (int)threadIdx.x;
  peak m = {-INFINITY, -INFINITY, INT32_MAX};
#pragma unroll
  for (int k = 0; k < SAMPLE_EACH; k++) { /* a NaN gives way here and shows in the sum below */
    if (x[k] > m.max) {
      m.second = m.max;
      m.max = x[k];
      m.top = p.first + tid / 16 * 256 + 16 * k + tid % 16;
    } else if (x[k] > m.second) {
      m.second = x[k];
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2)
    m = peak_of(m, {__shfl_xor_sync(SAMPLE_ALL, m.max, d), __shfl_xor_sync(SAMPLE_ALL, m.second, d),
                    __shfl_xor_sync(SAMPLE_ALL, m.top, d)});
  if (tid % 32 == 0) peaks[tid / 32] = m;
  __syncthreads();
  m = peaks[0];
#pragma unroll
  for (int i = 1; i < SAMPLE_WARPS; i++) m = peak_of(m, peaks[i]);
  /* e times (l - max) of a masked id is 0 * -inf: hence the floor under l - max, where e is 0 already */
  const float from = m.max > -INFINITY ? m.max : 0.0f;
  float sum = 0.0f, dot = 0.0f;
#pragma unroll
  for (int k = 0; k < SAMPLE_EACH; k++) {
    const float far = __fsub_rn(x[k], from), down = -200.0f > far ? -200.0f : far, e = sample_exp(down);
    sum = __fadd_rn(sum, e);
    dot = __fadd_rn(dot, __fmul_rn(e, down));
  }
  double s = (double)sum, d = (double)dot;
#pragma unroll
  for (int i = 8; i > 0; i /= 2) {
    s = __dadd_rn(s, __shfl_xor_sync(SAMPLE_ALL, s, i));
    d = __dadd_rn(d, __shfl_xor_sync(SAMPLE_ALL, d, i));
  }
  if (tid % 16 == 0) {
    folds[tid / 16] = s;
    folds[SAMPLE_EACH + tid / 16] = d;
  }
  __syncthreads();
  if (tid != 0) return;
  s = d = 0;
#pragma unroll
  for (int i = 0; i < SAMPLE_EACH; i++) {
    s = __dadd_rn(s, folds[i]);
    d = __dadd_rn(d, folds[SAMPLE_EACH + i]);
  }
  out->max = m.max;
  out->second = m.second;
  out->top = m.max > -INFINITY ? m.top : p.first;
  out->sum = s;
  out->dot = d;
}

/* What the row needs, and the row where that is nothing more. One thread. */
CU_DEV void plan_row(const weir_cuk_sample_args &a, int32_t r, const weir_sample_stat &s, uint64_t best) {
  const weir_ask *ask = &a.ask[r].ask;
  weir_cuk_sample_state *state = &a.state[r];
  const weir_sample_fault fault = weir_sample_fault_of(&s);
  state->stat = s;
  state->race = 0;
  if (fault != WEIR_SAMPLE_FINE) {
    sample_refuse(a, r, fault);
    return;
  }
  const float probe_logit = ask->probe >= 0 ? sample_logit(a, r, ask->probe) : 0.0f;
  const bool draws = weir_sample_draws(ask, &s, probe_logit), shaped = draws && ask->n_edits > 0;
  int32_t token = ask->probe;
  if (draws)
    token = weir_sample_plan(ask, shaped ? sample_pack_id(best) : s.top,
                             shaped ? sample_pack_logit(best) : s.max, &state->law);
  state->probe_logit = probe_logit;
  state->shaped = shaped;
  state->weighed = 0;
  state->race = token < 0;
  if (token < 0) return;
  weir_sample_finish(ask, &s, token, sample_logit(a, r, token), probe_logit, &a.row[r]);
  if (ask->tell_law) sample_tell_one(a, r, token);
}

/* What a rank says of its ids of the row. One warp. */
CU_DEV void say_row(const weir_cuk_sample_args &a, int32_t r, uint64_t best) {
  const weir_ask *ask = &a.ask[r].ask;
  const weir_sample_stat *part = a.part + (int64_t)r * a.n_chunks;
  uint64_t top = 0;
  for (int32_t c = (int32_t)threadIdx.x; c < a.n_chunks; c += 32) {
    const uint64_t v = sample_pack(part[c].max, part[c].top);
    top = v > top ? v : top;
  }
  top = sample_warp_best(top);
  if (threadIdx.x != 0) return;
  weir_sample_say say = {0, 0.0f, -1, 0.0f, -1, 0.0f, 0.0f, 0};
  if (ask->probe >= 0 && sample_has(a, ask->probe)) {
    say.has_probe = 1;
    say.probe_logit = sample_logit(a, r, ask->probe);
  }
  if (top != 0) {
    say.top = sample_pack_id(top);
    say.top_logit = sample_logit(a, r, say.top);
  }
  if (best != 0) {
    say.best = sample_pack_id(best);
    say.best_shaped = sample_pack_logit(best);
    say.best_raw = sample_logit(a, r, say.best);
  }
  ((weir_sample_say *)sample_said(a, a.s.rank, a.s.m.say))[r] = say;
}

/* Three blocks an SM: left to itself the compiler makes room for more and spills. */
static __global__ void __launch_bounds__(SAMPLE_T, 3) sample_stat(const weir_cuk_sample_args a) {
  CU_DYN_SHARED(float, buf);
  CU_SHARED(uint64_t, word, SAMPLE_WARPS);
  CU_SHARED(uint32_t, last, 1);
  const sample_place p = sample_here(a);
  const int tid = (int)threadIdx.x;
  const int64_t at = (int64_t)p.row * a.n_chunks + p.chunk;
  weir_cuk_sample_ask *staged = &a.ask[p.row];
  const float *l = sample_chunk(a, p);
  float x[SAMPLE_EACH];
#pragma unroll
  for (int k = 0; k < SAMPLE_EACH; k++) {
    const int32_t i = tid / 16 * 256 + 16 * k + tid % 16;
    x[k] = i < p.n ? l[i] : -INFINITY;
  }
  chunk_stat(x, p, &a.part[at]);
  if (a.s.n_ranks > 0 && tid == 0)
    ((weir_sample_stat *)sample_said(a, a.s.rank, a.s.m.part))[p.row * a.s.max_chunks + p.chunk] = a.part[at];
  if (staged->ask.n_edits > 0) {
    const float *drawn = sample_drawn(a, p, true, buf);
    uint64_t best = 0;
    for (int32_t i = tid; i < p.n; i += SAMPLE_T) {
      const uint64_t v = sample_pack(drawn[i], p.first + i);
      best = v > best ? v : best;
    }
    best = sample_block_best(best, word);
    if (tid == 0) a.best[at] = best;
  }
  if (a.s.n_ranks == 0 && staged->ask.temperature > 0 && weir_sample_cuts(&staged->ask, a.n_valid)) {
    uint32_t *h = (uint32_t *)&a.hist[p.row];
    const int32_t n = (int32_t)(sizeof(weir_sample_hist) / sizeof *h);
    for (int32_t i = p.chunk * SAMPLE_T + tid; i < n; i += a.n_chunks * SAMPLE_T) h[i] = 0;
  }
  if (!sample_last(&staged->ticket[WEIR_CUK_SAMPLE_STAT], a.n_chunks, last) || tid >= 32) return;
  const int64_t row_at = (int64_t)p.row * a.n_chunks;
  uint64_t best = 0;
  if (staged->ask.n_edits > 0) {
    for (int32_t c = tid; c < a.n_chunks; c += 32)
      best = a.best[row_at + c] > best ? a.best[row_at + c] : best;
    best = sample_warp_best(best);
  }
  if (a.s.n_ranks > 0) {
    say_row(a, p.row, best);
    return;
  }
  const weir_sample_stat *part = a.part + row_at;
  const weir_sample_stat s = sample_row_stat(a.n_chunks, [=](int32_t i) { return part + i; });
  if (tid == 0) plan_row(a, p.row, s, best);
}

CU_DEV weir_sample_win first_of_warp(weir_sample_win w) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const weir_sample_win o = {__shfl_xor_sync(SAMPLE_ALL, w.at, d), __shfl_xor_sync(SAMPLE_ALL, w.id, d), 0};
    w = weir_sample_first(w, o);
  }
  return w;
}

/* Four ids of one Philox block. What the float bound passes over arrives later than w: 2^x by the
 * approximation is right to 1e-5 for weights above 0, and the mark leaves 1e-3. */
CU_DEV weir_sample_win race_quad(const float x[4], int32_t id, const weir_sample_law *law, float per_log2,
                                 weir_sample_win win) {
  const weir_noise4 noise = weir_noise_quad(law->seed, law->pos, law->purpose, (uint32_t)id / 4);
  const float mark = (float)(win.at * (1 + 1e-3));
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const uint32_t bits = noise.v[j];
    const float under = (float)(int32_t)(bits >> 1) * (0x1p-31f * (1 - 0x1p-23f));
    if (cu_exp2(__fsub_rn(x[j], law->max) * per_log2) * mark < under) continue;
    const float w = sample_weight(x[j], law);
    if (!(w > 0) || w < law->min_w || weir_noise_unit(bits) > win.at * (double)w * (1 + 1e-12)) continue;
    const uint32_t key = weir_sample_key(x[j]);
    if (key < law->min_key || (key == law->min_key && id + j >= law->end_ties)) continue;
    win = weir_sample_first(win, {weir_sample_arrival(bits, w), id + j, 0});
  }
  return win;
}

static __global__ void __launch_bounds__(SAMPLE_T) sample_race(const weir_cuk_sample_args a) {
  CU_DYN_SHARED(float, buf);
  CU_SHARED(weir_sample_win, wins, SAMPLE_WARPS);
  CU_SHARED(float, floor_of, 1);
  CU_SHARED(uint32_t, last, 1);
  const sample_place p = sample_here(a);
  const int tid = (int)threadIdx.x;
  const weir_cuk_sample_state *state = &a.state[p.row];
  if (!state->race) return;
  const weir_sample_law law = state->law;
  weir_cuk_sample_ask *staged = &a.ask[p.row];
  const int64_t row_at = (int64_t)p.row * a.n_chunks;
  const float *raw = sample_chunk(a, p), *l = sample_drawn(a, p, state->shaped, buf);
  if (state->weighed) l = sample_rest(a, p, l, buf);
  /* The most likely id sets the mark for every chunk. Its weight is exactly 1, and it is never cut. */
  if (tid == 0 && law.top < 0) {
    wins[0] = law.head;
    floor_of[0] = weir_sample_race_floor(&law, law.head.at);
  } else if (tid == 0) {
    const weir_noise4 head = weir_noise_quad(law.seed, law.pos, law.purpose, (uint32_t)law.top / 4);
    const int k = law.top % 4;
    const uint32_t bits = k == 0 ? head.v[0] : k == 1 ? head.v[1] : k == 2 ? head.v[2] : head.v[3];
    wins[0] = {weir_sample_arrival(bits, 1.0f), law.top, 0};
    floor_of[0] = weir_sample_race_floor(&law, wins[0].at);
  }
  __syncthreads();
  weir_sample_win win = wins[0];
  const float least = floor_of[0];
  /* of a tiny temperature a smaller factor, which passes over less: infinity times 0 would be no number */
  const float per = 1.44269504f / law.temperature, per_log2 = per < 3e38f ? per : 3e38f;
  const bool quads = l == raw && a.aligned;
  if (l != raw || a.part[row_at + p.chunk].max >= least) {
#pragma unroll 1
    for (int32_t i = 4 * tid; i < p.n; i += 4 * SAMPLE_T) {
      float x[4];
      if (quads && i + 4 <= p.n) {
        const float4 v = *(const float4 *)(l + i);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++) x[j] = i + j < p.n ? l[i + j] : -INFINITY;
      }
      if (x[0] >= least || x[1] >= least || x[2] >= least || x[3] >= least)
        win = race_quad(x, p.first + i, &law, per_log2, win);
    }
  }
  __syncthreads(); /* wins[0] was read */
  win = first_of_warp(win);
  if (tid % 32 == 0) wins[tid / 32] = win;
  __syncthreads();
  if (tid == 0) {
    for (int i = 1; i < SAMPLE_WARPS; i++) win = weir_sample_first(win, wins[i]);
    a.win[row_at + p.chunk] = win;
  }
  if (!sample_last(&staged->ticket[WEIR_CUK_SAMPLE_RACE], a.n_chunks, last) || tid >= 32) return;
  win = {INFINITY, INT32_MAX, 0};
  for (int32_t c = tid; c < a.n_chunks; c += 32) win = weir_sample_first(win, a.win[row_at + c]);
  win = first_of_warp(win);
  if (tid != 0) return;
  if (a.s.n_ranks == 0) {
    /* nothing is left of a law that is the draft's to the last bit */
    const int32_t id = state->weighed && win.id == INT32_MAX ? staged->ask.probe : win.id;
    weir_sample_finish(&staged->ask, &state->stat, id, sample_logit(a, p.row, id), state->probe_logit,
                       &a.row[p.row]);
    return;
  }
  /* the row's top runs along everywhere; the rank that has it speaks for it */
  const bool here = sample_has(a, win.id);
  ((weir_sample_came *)sample_said(a, a.s.rank, 0))[staged->race_at] = {
      here ? win.at : INFINITY, here ? win.id : INT32_MAX, here ? sample_logit(a, p.row, win.id) : 0.0f};
}

extern "C" cudaError_t weir_cuk_sample_stat(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_stat, (unsigned)(a->rows * a->n_chunks), SAMPLE_T, sample_smem(a), stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_sample_race(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_race, (unsigned)(a->rows * a->n_chunks), SAMPLE_T, sample_smem(a), stream, *a);
  return cudaGetLastError();
}
