/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling with two laws: judging a draft by the weights of all ids (WEIR_KEEP_RATIO), and telling a law to
 * who will judge later. weigh: a block a chunk adds up weights, lane by lane as the CPU does; the row's last
 * block judges, and a row that is refused races by what is left. tell: the best of each chunk, then of all,
 * of which those that race are told. Of shards both stop before the exchange; judge and laws are what follows
 * it.
 *
 * Instructions a logit: weigh 16 for the exponential and about 10. */
#include "kernels/cuda/sample.cuh"

/* What an id here weighs by the row's law; 0 when it does not race. */
CU_DEV float weight_of(const weir_cuk_sample_args &a, int32_t r, int32_t id) {
  const weir_cuk_sample_state *state = &a.state[r];
  const float raw = sample_logit(a, r, id),
              l = state->shaped ? weir_sample_shaped(&a.ask[r].ask, id, raw) : raw;
  const float w = sample_weight(l, &state->law);
  return weir_sample_stays(&state->law, id, l, w) ? w : 0.0f;
}

/* The row is judged: it is answered, or it races by what is left of its law. One thread. */
CU_DEV void judge_row(const weir_cuk_sample_args &a, int32_t r, float probe_w, double sum) {
  const weir_ask *ask = &a.ask[r].ask;
  weir_cuk_sample_state *state = &a.state[r];
  if (weir_sample_ratio_keeps(ask, probe_w, sum)) {
    state->race = 0;
    weir_sample_finish(ask, &state->stat, ask->probe, state->probe_logit, state->probe_logit, &a.row[r]);
    return;
  }
  weir_sample_win head = {INFINITY, INT32_MAX, 0};
  for (int32_t i = 0; i < ask->n_draft; i++) {
    const weir_top d = ask->draft[i];
    if (!sample_has(a, d.id)) continue;
    head =
        weir_sample_first(head, weir_sample_rest(&state->law, d.id, weight_of(a, r, d.id), d.logprob, sum));
  }
  state->law.top = -1;
  state->law.head = head;
  state->weighed = 1;
}

CU_DEV weir_sample_weight *said_weight(const weir_cuk_sample_args &a, int32_t rank, int32_t at) {
  return (weir_sample_weight *)sample_said(a, rank, (size_t)at * weir_sample_weight_bytes(a.s.max_chunks));
}

static __global__ void __launch_bounds__(SAMPLE_T) sample_weigh(const weir_cuk_sample_args a) {
  CU_DYN_SHARED(float, buf);
  CU_SHARED(double, folds, SAMPLE_EACH);
  CU_SHARED(uint32_t, last, 1);
  const sample_place p = sample_here(a);
  const int tid = (int)threadIdx.x;
  const weir_cuk_sample_state *state = &a.state[p.row];
  weir_cuk_sample_ask *staged = &a.ask[p.row];
  if (!state->race || !weir_sample_weighs(&staged->ask)) return;
  const weir_sample_law law = state->law;
  const float *l = sample_drawn(a, p, state->shaped, buf);
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < SAMPLE_EACH; k++) { /* fold tid/16 of 256 logits, lane tid%16 */
    const int32_t i = tid / 16 * 256 + 16 * k + tid % 16;
    if (i >= p.n) continue;
    const float x = l[i], w = sample_weight(x, &law);
    if (weir_sample_stays(&law, p.first + i, x, w)) sum = __fadd_rn(sum, w);
  }
  double s = (double)sum;
#pragma unroll
  for (int i = 8; i > 0; i /= 2) s = __dadd_rn(s, __shfl_xor_sync(SAMPLE_ALL, s, i));
  if (tid % 16 == 0) folds[tid / 16] = s;
  __syncthreads();
  if (tid == 0) {
    s = 0;
#pragma unroll
    for (int i = 0; i < SAMPLE_EACH; i++) s = __dadd_rn(s, folds[i]);
    if (a.s.n_ranks > 0)
      ((double *)(said_weight(a, a.s.rank, staged->weigh_at) + 1))[p.chunk] = s;
    else
      a.mass[(int64_t)p.row * a.n_chunks + p.chunk] = s;
  }
  if (!sample_last(&staged->ticket[WEIR_CUK_SAMPLE_WEIGH], a.n_chunks, last) || tid != 0) return;
  const int32_t probe = staged->ask.probe;
  if (a.s.n_ranks > 0) { /* the others are 0 already */
    weir_sample_weight *w = said_weight(a, a.s.rank, staged->weigh_at);
    if (!sample_has(a, probe)) return;
    w->has_probe = 1;
    w->probe_w = weight_of(a, p.row, probe);
    return;
  }
  s = 0;
  for (int32_t c = 0; c < a.n_chunks; c++) s = __dadd_rn(s, a.mass[(int64_t)p.row * a.n_chunks + c]);
  judge_row(a, p.row, weight_of(a, p.row, probe), s);
}

/* By what all ranks have said; a thread a row. */
static __global__ void __launch_bounds__(32) sample_judge(const weir_cuk_sample_args a) {
  const int32_t r = (int32_t)blockIdx.x, at = a.ask[r].weigh_at;
  if (threadIdx.x != 0 || at < 0 || !a.state[r].race) return;
  double sum = 0;
  float probe_w = 0.0f;
  int32_t probes = 0;
  for (int32_t k = 0; k < a.s.n_ranks; k++) {
    const weir_sample_weight *w = said_weight(a, k, at);
    const double *mass = (const double *)(w + 1);
    for (int32_t c = 0; c < a.s.max_chunks; c++) sum = __dadd_rn(sum, mass[c]);
    if (w->has_probe == 1) {
      probe_w = w->probe_w;
      probes++;
    }
  }
  if (probes == 1) {
    judge_row(a, r, probe_w, sum);
  } else {
    a.state[r].race = 0;
    sample_refuse(a, r, WEIR_SAMPLE_TORN);
  }
}

/* Tells the best of a row, in order, their logits packed with them; one thread. id, w: shared memory for
 * WEIR_TOP_MAX of each (of one's own it would be a stack frame). */
CU_DEV void tell_row(const weir_cuk_sample_args &a, int32_t r, const uint64_t *best, int32_t n, bool cut,
                     int32_t *id, float *w) {
  for (int32_t i = 0; i < n; i++) {
    id[i] = sample_pack_id(best[i]);
    const float x = sample_pack_logit(best[i]);
    w[i] = best[i] != 0 ? sample_weight(x, &a.state[r].law) : 0.0f;
    if (w[i] > 0 && !cut && !weir_sample_stays(&a.state[r].law, id[i], x, w[i])) w[i] = 0.0f;
  }
  weir_sample_tell(id, w, n, a.ask[r].ask.law);
}

static __global__ void __launch_bounds__(SAMPLE_T, 4) sample_tell(const weir_cuk_sample_args a) {
  CU_DYN_SHARED(float, buf);
  CU_SHARED(uint64_t, word, SAMPLE_WARPS);
  CU_SHARED(uint64_t, best, WEIR_TOP_MAX);
  CU_SHARED(int32_t, id_told, WEIR_TOP_MAX);
  CU_SHARED(float, w_told, WEIR_TOP_MAX);
  CU_SHARED(uint32_t, last, 1);
  const sample_place p = sample_here(a);
  weir_cuk_sample_ask *staged = &a.ask[p.row];
  const weir_cuk_sample_state *state = &a.state[p.row];
  if (!staged->ask.tell_law || !state->race) return;
  const int32_t want = staged->ask.top_k;
  const float *l = sample_drawn(a, p, state->shaped, buf);
  uint64_t *lists = a.list + (int64_t)p.row * a.n_chunks * WEIR_TOP_MAX;
  sample_pick(lists + p.chunk * WEIR_TOP_MAX, want, p.n, word,
              [=](int32_t i) { return sample_pack(l[i], p.first + i); });
  if (!sample_last(&staged->ticket[WEIR_CUK_SAMPLE_TELL], a.n_chunks, last)) return;
  sample_pick(best, want, a.n_chunks * want, word,
              [=](int32_t i) { return lists[i / want * WEIR_TOP_MAX + i % want]; });
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (a.s.n_ranks == 0) {
    tell_row(a, p.row, best, want, false, id_told, w_told);
    return;
  }
  /* ids at the cut stay by what their rank knows, so the ranks tell only such */
  weir_sample_like *like = (weir_sample_like *)sample_said(a, a.s.rank, 0) + staged->tell_at * WEIR_TOP_MAX;
  for (int32_t k = 0; k < WEIR_TOP_MAX; k++) {
    const int32_t id = k < want && best[k] != 0 ? sample_pack_id(best[k]) : -1;
    const float x = id >= 0 ? sample_pack_logit(best[k]) : 0.0f;
    const bool stays = id >= 0 && weir_sample_stays(&state->law, id, x, sample_weight(x, &state->law));
    like[k].id = stays ? id : -1;
    like[k].logit = stays ? x : 0.0f;
  }
}

/* The best of what all ranks have told; a block a row. */
static __global__ void __launch_bounds__(SAMPLE_T) sample_laws(const weir_cuk_sample_args a) {
  CU_SHARED(uint64_t, word, SAMPLE_WARPS);
  CU_SHARED(uint64_t, best, WEIR_TOP_MAX);
  CU_SHARED(int32_t, id_told, WEIR_TOP_MAX);
  CU_SHARED(float, w_told, WEIR_TOP_MAX);
  const int32_t row = (int32_t)blockIdx.x;
  const weir_cuk_sample_ask *staged = &a.ask[row];
  const int32_t at = staged->tell_at, want = staged->ask.top_k;
  if (at < 0 || !a.state[row].race) return;
  sample_pick(best, want, a.s.n_ranks * WEIR_TOP_MAX, word, [=](int32_t i) {
    const weir_sample_like *like =
        (const weir_sample_like *)sample_said(a, i / WEIR_TOP_MAX, 0) + at * WEIR_TOP_MAX + i % WEIR_TOP_MAX;
    return like->id >= 0 && like->id < a.n_valid ? sample_pack(like->logit, like->id) : (uint64_t)0;
  });
  __syncthreads();
  if (threadIdx.x == 0) tell_row(a, row, best, want, true, id_told, w_told);
}

extern "C" cudaError_t weir_cuk_sample_weigh(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_weigh, (unsigned)(a->rows * a->n_chunks), SAMPLE_T, sample_smem(a), stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_sample_judge(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_judge, (unsigned)a->rows, 32, 0, stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_sample_tell(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_tell, (unsigned)(a->rows * a->n_chunks), SAMPLE_T, sample_smem(a), stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_sample_laws(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_laws, (unsigned)a->rows, SAMPLE_T, 0, stream, *a);
  return cudaGetLastError();
}
