/* SPDX-License-Identifier: Apache-2.0 */
/* The likeliest ids of rows that want them: the best of each chunk by as many rounds of a block's maximum,
 * then the same over the chunks' lists by the row's last block. Ids are packed with their logits into numbers
 * that are all different, so a round takes the highest below the last. Only the thread that had it looks
 * again. */
#include "kernels/cuda/sample.cuh"

CU_DEV void put(const weir_cuk_sample_args &a, int32_t row, int32_t k, uint64_t best) {
  weir_top *out = &a.top[(int64_t)row * WEIR_TOP_MAX + k];
  out->id = best != 0 ? sample_pack_id(best) : -1;
  out->logprob =
      best != 0 ? (float)weir_sample_logprob(&a.state[row].stat, sample_pack_logit(best)) : -INFINITY;
}

/* Six blocks an SM: for eight the compiler spills. */
static __global__ void __launch_bounds__(SAMPLE_T, 6) sample_top(const weir_cuk_sample_args a) {
  CU_SHARED(uint64_t, word, SAMPLE_WARPS);
  CU_SHARED(uint64_t, best, WEIR_TOP_MAX);
  CU_SHARED(uint32_t, last, 1);
  const sample_place p = sample_here(a);
  weir_cuk_sample_ask *staged = &a.ask[p.row];
  const int32_t want = staged->ask.n_top;
  if (want == 0) return;
  const float *l = sample_chunk(a, p);
  uint64_t *lists = a.list + (int64_t)p.row * a.n_chunks * WEIR_TOP_MAX;
  sample_pick(lists + p.chunk * WEIR_TOP_MAX, want, p.n, word,
              [=](int32_t i) { return sample_pack(l[i], p.first + i); });
  if (!sample_last(&staged->ticket[WEIR_CUK_SAMPLE_TOP], a.n_chunks, last)) return;
  sample_pick(best, want, a.n_chunks * want, word,
              [=](int32_t i) { return lists[i / want * WEIR_TOP_MAX + i % want]; });
  __syncthreads();
  const int32_t k = (int32_t)threadIdx.x;
  if (k >= WEIR_TOP_MAX) return;
  if (a.s.n_ranks > 0) {
    weir_sample_like *like =
        (weir_sample_like *)sample_said(a, a.s.rank, a.s.m.like) + staged->top_at * WEIR_TOP_MAX + k;
    const bool any = k < want && best[k] != 0;
    like->id = any ? sample_pack_id(best[k]) : -1;
    like->logit = any ? sample_pack_logit(best[k]) : 0.0f;
  } else if (k < want) {
    put(a, p.row, k, best[k]);
  }
}

/* The best of what all ranks have said; a block a row. */
static __global__ void __launch_bounds__(SAMPLE_T) sample_likes(const weir_cuk_sample_args a) {
  CU_SHARED(uint64_t, word, SAMPLE_WARPS);
  CU_SHARED(uint64_t, best, WEIR_TOP_MAX);
  const int32_t row = (int32_t)blockIdx.x, k = (int32_t)threadIdx.x;
  const weir_cuk_sample_ask *staged = &a.ask[row];
  const int32_t want = staged->ask.n_top;
  if (want == 0 || a.row[row].token < 0) return;
  sample_pick(best, want, a.s.n_ranks * want, word, [=](int32_t i) {
    const weir_sample_like *like = (const weir_sample_like *)sample_said(a, i / want, a.s.m.like) +
                                   staged->top_at * WEIR_TOP_MAX + i % want;
    return like->id >= 0 && like->id < a.n_valid ? sample_pack(like->logit, like->id) : (uint64_t)0;
  });
  __syncthreads();
  if (k < want) put(a, row, k, best[k]);
}

extern "C" cudaError_t weir_cuk_sample_top(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_top, (unsigned)(a->rows * a->n_chunks), SAMPLE_T, 0, stream, *a);
  return cudaGetLastError();
}
extern "C" cudaError_t weir_cuk_sample_likes(const weir_cuk_sample_args *a, cudaStream_t stream) {
  CU_LAUNCH(sample_likes, (unsigned)a->rows, SAMPLE_T, 0, stream, *a);
  return cudaGetLastError();
}
