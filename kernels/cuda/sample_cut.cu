/* SPDX-License-Identifier: Apache-2.0 */
/* top_k and top_p without a sort (kernels/sample_core.h). All blocks of a row put its ids into level 0, in
 * shared memory first and then, bins that hold something, in global memory: integers, so that no order shows.
 * The row's last block does the rest of the search alone. Its first look at the bin in which the search goes
 * on reads the row once more, chunks whose maximum lies below the bin left out, and keeps the keys found
 * there: a bin is 1/64 nat wide and seldom holds a thousand ids, so the finer levels read that list. One SM
 * takes 64 B a cycle out of L2, 6 us for 152k logits; other rows' blocks do the same meanwhile, which is why
 * this is no kernel of its own. With both top_k and top_p it is two looks.
 *
 * Shared memory: 24.6 KB histogram, 4 KB list, 16 KB where rows are shaped. */
#include "kernels/cuda/sample.cuh"

enum { LIST = 1024, BINS_EACH = WEIR_SAMPLE_BINS / SAMPLE_T };

/* Of a block, in shared memory. */
typedef struct search {
  weir_sample_hist hist;
  uint32_t list[LIST]; /* keys of the bin where level 0 ended */
  uint32_t n_list;     /* how many there are, of which the first LIST are in the list */
  weir_sample_cut cut;
  weir_sample_law law;
  uint64_t count_of[SAMPLE_WARPS], mass_of[SAMPLE_WARPS];
  int32_t more, end;
} search;

CU_DEV void add64(uint64_t *p, uint64_t v) { atomicAdd((unsigned long long *)p, (unsigned long long)v); }

CU_DEV void clear(search *s) {
  __syncthreads();
  for (int b = (int)threadIdx.x; b < WEIR_SAMPLE_BINS; b += SAMPLE_T) {
    s->hist.count[b] = 0;
    s->hist.mass[b] = 0;
  }
  __syncthreads();
}
CU_DEV float distance(float x, const search *s) {
  const float d = __fmul_rn(__fsub_rn(s->law.max, x), s->cut.bin_scale);
  return d < (float)(WEIR_SAMPLE_BINS - 1) ? d : (float)(WEIR_SAMPLE_BINS - 1);
}

/* Level 0. Ids too far away to have a mass are many, and all in one bin: they are counted a thread. */
CU_DEV void add_distances(search *s, const float *l, int32_t n) {
  uint32_t far = 0;
  for (int32_t i = (int32_t)threadIdx.x; i < n; i += SAMPLE_T) {
    const float x = l[i];
    const int b = WEIR_SAMPLE_BINS - 1 - (int)distance(x, s);
    const uint64_t mass = weir_sample_mass(sample_weight(x, &s->law));
    if (b == 0 && mass == 0) {
      far++;
      continue;
    }
    atomicAdd(&s->hist.count[b], 1u);
    if (mass != 0) add64(&s->hist.mass[b], mass);
  }
  if (far != 0) atomicAdd(&s->hist.count[0], far);
}
/* A key of the bin, to level 1, 2 or 3. */
CU_DEV void add_key(search *s, uint32_t key, float x) {
  if (weir_sample_digits(key, s->cut.level - 1) != s->cut.prefix) return;
  const uint32_t b = weir_sample_bin(key, s->cut.level);
  atomicAdd(&s->hist.count[b], 1u);
  add64(&s->hist.mass[b], weir_sample_mass(sample_weight(x, &s->law)));
}
/* Whether ids of the chunk may lie at `logit` or above; edits may have put them anywhere. */
CU_DEV bool may_reach(const weir_cuk_sample_args &a, sample_place p, bool shaped, float logit) {
  return shaped || a.part[(int64_t)p.row * a.n_chunks + p.chunk].max >= logit;
}

/* The histogram of level 1, 2 or 3, of ids in the bin where level 0 ended. */
CU_DEV void add_finer(const weir_cuk_sample_args &a, search *s, int32_t row, bool shaped, float *buf) {
  const bool first = s->cut.level == 1;
  const float bin = (float)(WEIR_SAMPLE_BINS - 1 - s->cut.bin);
  clear(s);
  if (!first && s->n_list <= LIST) {
    for (uint32_t i = threadIdx.x; i < s->n_list; i += SAMPLE_T)
      add_key(s, s->list[i], weir_sample_unkey(s->list[i]));
    return;
  }
  for (int32_t c = 0; c < a.n_chunks; c++) {
    const sample_place p = sample_chunk_of(a, row, c);
    if (!shaped && distance(a.part[(int64_t)row * a.n_chunks + c].max, s) >= bin + 1) continue;
    const float *l = sample_drawn(a, p, shaped, buf);
    for (int32_t i = (int32_t)threadIdx.x; i < p.n; i += SAMPLE_T) {
      const float x = l[i], d = distance(x, s);
      if (!(d >= bin && d < bin + 1)) continue;
      const uint32_t key = weir_sample_key(x);
      if (first) {
        const uint32_t at = atomicAdd(&s->n_list, 1u);
        if (at < LIST) s->list[at] = key;
      }
      add_key(s, key, x);
    }
    if (l == buf) __syncthreads(); /* before the next chunk comes there */
  }
}

/* Sums over the threads before this one; *total: over all. word[SAMPLE_WARPS] is free behind a barrier. */
CU_DEV uint64_t sum_before(uint64_t v, uint64_t *word, uint64_t *total) {
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  uint64_t sum = v;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint64_t o = __shfl_up_sync(SAMPLE_ALL, sum, d);
    if (lane >= d) sum += o;
  }
  if (lane == 31) word[warp] = sum;
  __syncthreads();
  uint64_t all = 0;
#pragma unroll
  for (int i = 0; i < SAMPLE_WARPS; i++) {
    if (i == warp) sum += all;
    all += word[i];
  }
  *total = all;
  return sum - v;
}

/* weir_sample_cut_step over the block: thread 0 has the highest bins. */
CU_DEV bool step(search *s) {
  __syncthreads();
  const weir_sample_hist *h = &s->hist;
  const int high = WEIR_SAMPLE_BINS - 1 - BINS_EACH * (int)threadIdx.x;
  const bool by_mass = s->cut.by_mass, wants_all = weir_sample_cut_wants_all(&s->cut);
  const uint64_t begin = s->cut.above;
  uint64_t want = s->cut.want, count = 0, mass = 0, n_all, mass_all;
  for (int b = high; b > high - BINS_EACH; b--) {
    count += h->count[b];
    mass += h->mass[b];
  }
  const uint64_t n_before = sum_before(count, s->count_of, &n_all);
  uint64_t mass_before = sum_before(mass, s->mass_of, &mass_all);
  if (wants_all) want = weir_sample_wanted_mass(s->cut.top_p, mass_all);
  uint64_t above = begin + (by_mass ? mass_before : n_before);
  __syncthreads(); /* everybody has read the state */
  if (above < want && (above + (by_mass ? mass : count) >= want || threadIdx.x == SAMPLE_T - 1)) {
    int b = high;
    for (; b > high - BINS_EACH + 1; b--) {
      const uint64_t here = by_mass ? h->mass[b] : h->count[b];
      if (above + here >= want) break;
      above += here;
      mass_before += h->mass[b];
    }
    s->cut.want = want;
    s->more = weir_sample_cut_enter(&s->cut, b, above, mass_before, h->count[b], h->mass[b], &s->law);
  }
  __syncthreads();
  return s->more != 0;
}

/* One past the ties-th lowest id whose key is the cut's, by chunks in order, 16 ids a thread in order. */
CU_DEV void end_ties(const weir_cuk_sample_args &a, search *s, int32_t row, bool shaped, float *buf) {
  uint64_t left = (uint64_t)s->cut.ties;
  const uint32_t key = s->cut.key;
  const float logit = weir_sample_unkey(key);
  for (int32_t c = 0; c < a.n_chunks; c++) {
    const sample_place p = sample_chunk_of(a, row, c);
    if (!may_reach(a, p, shaped, logit)) continue;
    const float *l = sample_drawn(a, p, shaped, buf);
    const int32_t from = SAMPLE_EACH * (int32_t)threadIdx.x, to = from + SAMPLE_EACH;
    uint64_t here = 0, all;
    for (int32_t i = from; i < to && i < p.n; i++) here += weir_sample_key(l[i]) == key;
    uint64_t before = sum_before(here, s->count_of, &all);
    if (all >= left) {
      if (before < left && before + here >= left)
        for (int32_t i = from; i < to && i < p.n && before < left; i++)
          if (weir_sample_key(l[i]) == key && ++before == left) s->end = p.first + i + 1;
      return;
    }
    left -= all;
    __syncthreads(); /* the words and the buffer are free */
  }
}

/* Four blocks an SM: for five the compiler spills. */
static __global__ void __launch_bounds__(SAMPLE_T, 4) sample_cut(const weir_cuk_sample_args a) {
  CU_DYN_SHARED(float, buf);
  CU_SHARED(search, shared, 1);
  CU_SHARED(uint32_t, last, 1);
  search *s = shared;
  const sample_place p = sample_here(a);
  const int tid = (int)threadIdx.x;
  weir_cuk_sample_state *state = &a.state[p.row];
  weir_cuk_sample_ask *staged = &a.ask[p.row];
  if (!state->race || !weir_sample_cuts(&staged->ask, a.n_valid)) return;
  const bool shaped = state->shaped;
  weir_sample_hist *row_hist = &a.hist[p.row];
  if (tid == 0) {
    s->law = state->law;
    s->n_list = 0;
    s->end = INT32_MAX;
    weir_sample_cut_begin(&staged->ask, a.n_valid, &s->cut);
  }
  clear(s);
  add_distances(s, sample_drawn(a, p, shaped, buf), p.n);
  __syncthreads();
  for (int b = tid; b < WEIR_SAMPLE_BINS; b += SAMPLE_T) {
    if (s->hist.count[b] == 0) continue;
    atomicAdd(&row_hist->count[b], s->hist.count[b]);
    if (s->hist.mass[b] != 0) add64(&row_hist->mass[b], s->hist.mass[b]);
  }
  if (!sample_last(&staged->ticket[WEIR_CUK_SAMPLE_CUT], a.n_chunks, last)) return;
  do {
    if (s->cut.level > 0) {
      add_finer(a, s, p.row, shaped, buf);
    } else { /* the first time, or again for top_p behind top_k */
      for (int b = tid; b < WEIR_SAMPLE_BINS; b += SAMPLE_T) {
        s->hist.count[b] = row_hist->count[b];
        s->hist.mass[b] = row_hist->mass[b];
      }
      if (tid == 0) s->n_list = 0;
    }
  } while (step(s));
  if (s->cut.ties < s->cut.equal) end_ties(a, s, p.row, shaped, buf);
  __syncthreads();
  if (tid == 0) {
    state->law.min_key = s->law.min_key;
    state->law.end_ties = s->end;
  }
}

extern "C" cudaError_t weir_cuk_sample_cut(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_cut, (unsigned)(a->rows * a->n_chunks), SAMPLE_T, sample_smem(a), stream, *a);
  return cudaGetLastError();
}

/* ---- of shards: the same search, cut in two where all ranks' histograms are wanted ---- */

CU_DEV bool searches(const weir_cuk_sample_ask *staged, const weir_cuk_sample_state *state) {
  return staged->cut_at >= 0 && state->race && state->cut.level <= 3;
}
CU_DEV void take_up(search *s, const weir_cuk_sample_state *state) {
  if (threadIdx.x == 0) {
    s->law = state->law;
    s->cut = state->cut;
    s->n_list = 0;
    s->more = 0;
    s->end = INT32_MAX;
  }
}
CU_DEV weir_sample_hist *said_hist(const weir_cuk_sample_args &a, int32_t rank, int32_t cut_at) {
  return (weir_sample_hist *)sample_said(a, rank, 0) + cut_at;
}

/* This rank's histogram of the level, which was cleared; a block a chunk. */
static __global__ void __launch_bounds__(SAMPLE_T) sample_count(const weir_cuk_sample_args a) {
  CU_DYN_SHARED(float, buf);
  CU_SHARED(search, shared, 1);
  search *s = shared;
  const sample_place p = sample_here(a);
  const weir_cuk_sample_state *state = &a.state[p.row];
  if (!searches(&a.ask[p.row], state)) return;
  take_up(s, state);
  clear(s);
  const bool shaped = state->shaped;
  const float bin = (float)(WEIR_SAMPLE_BINS - 1 - s->cut.bin);
  if (s->cut.level == 0) {
    add_distances(s, sample_drawn(a, p, shaped, buf), p.n);
  } else {
    if (!shaped && distance(a.part[(int64_t)p.row * a.n_chunks + p.chunk].max, s) >= bin + 1) return;
    const float *l = sample_drawn(a, p, shaped, buf);
    for (int32_t i = (int32_t)threadIdx.x; i < p.n; i += SAMPLE_T) {
      const float x = l[i], d = distance(x, s);
      if (d >= bin && d < bin + 1) add_key(s, weir_sample_key(x), x);
    }
  }
  __syncthreads();
  weir_sample_hist *h = said_hist(a, a.s.rank, a.ask[p.row].cut_at);
  for (int b = (int)threadIdx.x; b < WEIR_SAMPLE_BINS; b += SAMPLE_T) {
    if (s->hist.count[b] == 0) continue;
    atomicAdd(&h->count[b], s->hist.count[b]);
    if (s->hist.mass[b] != 0) add64(&h->mass[b], s->hist.mass[b]);
  }
}

/* A step of the row's search, by what all ranks have counted; a block a row. When it is over, the counts of
 * the last level say which of the ids at the cut stay: those of lower ranks come first. */
static __global__ void __launch_bounds__(SAMPLE_T, 3) sample_step(const weir_cuk_sample_args a) {
  CU_DYN_SHARED(float, buf);
  CU_SHARED(search, shared, 1);
  search *s = shared;
  const int32_t row = (int32_t)blockIdx.x, at = a.ask[row].cut_at;
  const int tid = (int)threadIdx.x;
  weir_cuk_sample_state *state = &a.state[row];
  if (!searches(&a.ask[row], state)) return;
  weir_sample_hist *coarse = &a.hist[row];
  const bool first = state->cut.level == 0;
  take_up(s, state);
  for (int b = tid; b < WEIR_SAMPLE_BINS; b += SAMPLE_T) {
    uint32_t count = 0;
    uint64_t mass = 0;
    for (int32_t k = 0; k < a.s.n_ranks; k++) {
      const weir_sample_hist *h = said_hist(a, k, at);
      count += h->count[b];
      mass += h->mass[b];
    }
    s->hist.count[b] = count;
    s->hist.mass[b] = mass;
    if (first) coarse->mass[b] = mass; /* it comes again by mass only */
  }
  bool more = step(s);
  if (more && s->cut.level == 0) { /* top_p behind top_k; each thread has its own bins back */
    for (int b = tid; b < WEIR_SAMPLE_BINS; b += SAMPLE_T) s->hist.mass[b] = coarse->mass[b];
    more = step(s);
  }
  if (more) {
    if (tid == 0) state->cut = s->cut;
    return;
  }
  __syncthreads(); /* everybody knows that it is over */
  if (tid == 0) {
    const uint32_t b = weir_sample_bin(s->cut.key, 3);
    uint64_t before = 0;
    int32_t ties;
    for (int32_t k = 0; k < a.s.rank; k++) before += said_hist(a, k, at)->count[b];
    s->more = weir_sample_ties_split(&s->cut, before, said_hist(a, a.s.rank, at)->count[b], &s->law, &ties);
    s->cut.ties = ties;
    s->end = s->law.end_ties;
  }
  __syncthreads();
  if (s->more) end_ties(a, s, row, state->shaped, buf);
  __syncthreads();
  if (tid == 0) {
    state->law.min_key = s->law.min_key;
    state->law.end_ties = s->end;
    state->cut.level = 4;
  }
}

extern "C" cudaError_t weir_cuk_sample_count(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_count, (unsigned)(a->rows * a->n_chunks), SAMPLE_T, sample_smem(a), stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_sample_step(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_step, (unsigned)a->rows, SAMPLE_T, sample_smem(a), stream, *a);
  return cudaGetLastError();
}
