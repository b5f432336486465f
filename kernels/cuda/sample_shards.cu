/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling from a vocabulary in shards: what every rank works out from what all have said, in one warp a row:
 * the plan behind the first exchange, the row behind the last. The bits are those of the whole (sample.cu):
 * parts are merged in the same order by the same code. */
#include "kernels/cuda/sample.cuh"

enum { WARP = 32 };

/* The part of chunk i of the whole row. */
CU_DEV const weir_sample_stat *part_of(const weir_cuk_sample_args &a, int32_t r, int32_t i) {
  int32_t rank = 0;
  for (;; rank++) {
    const int32_t n = weir_sample_head_chunks((const weir_sample_head *)sample_said(a, rank, 0), a.n_valid);
    if (i < n) break;
    i -= n;
  }
  return (const weir_sample_stat *)sample_said(a, rank, a.s.m.part) + (int64_t)r * a.s.max_chunks + i;
}

/* Behind the merge; one thread. Nothing is indexed by what another rank said before it was looked at. */
CU_DEV void plan_row(const weir_cuk_sample_args &a, int32_t r, const weir_sample_stat &s, bool fit) {
  const weir_ask *ask = &a.ask[r].ask;
  weir_cuk_sample_state *state = &a.state[r];
  float probe_logit = 0.0f, top_logit = 0.0f, best_raw = 0.0f, here = -INFINITY;
  int32_t probes = ask->probe < 0, tops = 0;
  uint64_t best = 0;
  for (int32_t k = 0; k < a.s.n_ranks; k++) {
    const weir_sample_say say = ((const weir_sample_say *)sample_said(a, k, a.s.m.say))[r];
    if (ask->probe >= 0 && say.has_probe == 1) {
      probe_logit = say.probe_logit;
      probes++;
    }
    if (say.top >= 0 && say.top == s.top) {
      top_logit = say.top_logit;
      tops++;
    }
    if (k == a.s.rank && say.top >= 0) here = say.top_logit;
    const uint64_t v = say.best >= 0 ? sample_pack(say.best_shaped, say.best) : 0;
    if (v > best) {
      best = v;
      best_raw = say.best_raw;
    }
  }
  weir_sample_fault fault = fit ? weir_sample_fault_of(&s) : WEIR_SAMPLE_TORN;
  const bool edits = ask->n_edits > 0;
  if (fault == WEIR_SAMPLE_FINE && (probes != 1 || tops != 1 || s.top >= a.n_valid || here > s.max ||
                                    (edits && (best == 0 || sample_pack_id(best) >= a.n_valid))))
    fault = WEIR_SAMPLE_TORN;
  state->stat = s;
  state->race = 0;
  if (fault != WEIR_SAMPLE_FINE) {
    sample_refuse(a, r, fault);
    return;
  }
  const bool draws = weir_sample_draws(ask, &s, probe_logit), shaped = draws && edits;
  int32_t token = ask->probe;
  if (draws)
    token = weir_sample_plan(ask, shaped ? sample_pack_id(best) : s.top,
                             shaped ? sample_pack_logit(best) : s.max, &state->law);
  state->probe_logit = probe_logit;
  state->shaped = shaped;
  state->weighed = 0;
  state->race = token < 0;
  a.row[r].token = 0; /* no refusal, till the race is over */
  if (token < 0)
    weir_sample_cut_begin(ask, a.n_valid, &state->cut);
  else
    weir_sample_finish(ask, &s, token,
                       !draws   ? probe_logit
                       : shaped ? best_raw
                                : top_logit,
                       probe_logit, &a.row[r]);
  if (token >= 0 && ask->tell_law) sample_tell_one(a, r, token);
}

static __global__ void __launch_bounds__(WARP) sample_plan(const weir_cuk_sample_args a) {
  const int32_t r = (int32_t)blockIdx.x;
  int32_t n = 0, at;
  const bool fit = weir_sample_heads_fit(a.s.all, a.s.stride, a.s.n_ranks, a.s.max_chunks, a.n_valid, &at);
  for (int32_t k = 0; fit && k < a.s.n_ranks; k++)
    n += weir_sample_head_chunks((const weir_sample_head *)sample_said(a, k, 0), a.n_valid);
  const weir_sample_stat s = sample_row_stat(n, [&](int32_t i) { return part_of(a, r, i); });
  if (threadIdx.x == 0) plan_row(a, r, s, fit);
}

static __global__ void __launch_bounds__(WARP) sample_finish(const weir_cuk_sample_args a) {
  const int32_t r = (int32_t)blockIdx.x;
  const weir_cuk_sample_state *state = &a.state[r];
  if (threadIdx.x != 0 || !state->race) return;
  weir_sample_came first = {INFINITY, INT32_MAX, 0.0f};
  for (int32_t k = 0; k < a.s.n_ranks; k++) {
    const weir_sample_came c = ((const weir_sample_came *)sample_said(a, k, 0))[a.ask[r].race_at];
    if (c.at < first.at || (c.at == first.at && c.id < first.id)) first = c;
  }
  if (state->weighed && first.id == INT32_MAX) { /* nothing is left of a law that is the draft's */
    first.id = a.ask[r].ask.probe;
    first.logit = state->probe_logit;
  }
  if (first.id < 0 || first.id >= a.n_valid)
    sample_refuse(a, r, WEIR_SAMPLE_TORN);
  else
    weir_sample_finish(&a.ask[r].ask, &state->stat, first.id, first.logit, state->probe_logit, &a.row[r]);
}

extern "C" cudaError_t weir_cuk_sample_plan(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_plan, (unsigned)a->rows, WARP, 0, stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_sample_finish(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_finish, (unsigned)a->rows, WARP, 0, stream, *a);
  return cudaGetLastError();
}
