/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of the sample op, cut so that a vocabulary may lie in several shards.
 *
 * The vocabulary is cut into chunks of WEIR_SAMPLE_CHUNK ids counted from id 0; a shard is any run of chunks.
 * A row is answered in stages; each stage is a pure function of chunks whose results are put together in
 * chunk order (stat) or by an operation that knows no order (integer sums, the first arrival), so one shard
 * and many give the same bits, and so do all instruction sets:
 *
 *   stat   a chunk's maximum, runner-up and softmax sums            -> merged in chunk order
 *   top    only for an ask that wants the likeliest ids: the best of each chunk      -> the best of all
 *   plan   what the ask needs: a known token, or a race
 *   cut    only for an ask that truncates: a histogram of distances to the maximum, then of the logits' bits
 *          digit by digit, until the smallest logit that stays is known exactly; no sorting       -> summed
 *          (a small top_k: the best of each chunk, as in top                          -> the best of all)
 *   judge  only by RATIO: the weights of all ids that stay                                        -> summed
 *   race   every id that stays arrives at E/w, the first wins       -> the first of all
 *   finish the row
 *
 * An ask with edits has two rows: the raw one, which statistics, rules of judgement and tops are about, and
 * the shaped one, which is drawn from. The shaped row exists a chunk at a time (weir_sample_shape), wherever
 * a draw reads one: the single best id of all by stage top, in chunks without edits by stage stat, for the
 * plan; then cut and race. Logits are never written.
 *
 * Stages that touch logits have one implementation an instruction set (kernels/cpu/sample_kernel.h), reached
 * through weir_sample_chunks; the rest is plain C below, and in kernels/sample_math.h what a GPU shares. */
#ifndef WEIR_KERNELS_SAMPLE_CORE_H
#define WEIR_KERNELS_SAMPLE_CORE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/noise.h"
#include "kernels/row.h"
#include "kernels/sample_math.h"

/* The stages that read logits, over n <= WEIR_SAMPLE_CHUNK logits l of the ids first, first+1, ... ; `first`
 * is a multiple of WEIR_SAMPLE_CHUNK. */
typedef struct weir_sample_chunks {
  void (*stat)(const float *l, int32_t first, int32_t n, weir_sample_stat *out);
  /* Puts in what belongs to the best; into one list, chunks come in order. */
  void (*top)(const float *l, int32_t first, int32_t n, weir_sample_top *io);
  /* Adds to h, the histogram of c->level, the ids that are where the search is. */
  void (*hist)(const float *l, int32_t n, const weir_sample_law *, const weir_sample_cut *c,
               weir_sample_hist *h);
  /* Ids of the chunk whose key is `key`. */
  int32_t (*ties)(const float *l, int32_t n, uint32_t key);
  /* w[n] <- weights; which of them race is weir_sample_stays. */
  void (*weigh)(const float *l, int32_t n, const weir_sample_law *, float *w);
  /* The sum of the weights of those that race, n <= WEIR_SAMPLE_CHUNK: of 16 floats' lanes, 256 ids at most,
   * and of these in double. */
  double (*mass)(const float *l, int32_t first, int32_t n, const weir_sample_law *);
  void (*race)(const float *l, int32_t first, int32_t n, const weir_sample_law *, weir_sample_win *out);
} weir_sample_chunks;

/* Merges the chunks' parts, in order of chunks, n >= 1. */
weir_sample_stat weir_sample_merge(const weir_sample_stat *part, int32_t n);
/* Error (EDEVICE) when the row is no distribution: a NaN, a +inf, or nothing above -inf. */
weir_status weir_sample_check(const weir_sample_stat *, weir_err *e);
/* The same of a fault already known. */
weir_status weir_sample_fail(weir_sample_fault, weir_err *e);

/* Checks what the ask has beside numbers: edits, ids ascending in [0, n_vocab) and as kernels/row.h has them;
 * n_top; whether its law can be told; a draft, ids in [0, n_vocab). */
weir_status weir_sample_check_extras(const weir_ask *, int32_t n_vocab, weir_err *e);
/* out[n] <- the chunk l[n] of ids first, ... as draws see it (weir_sample_shaped): its edits, and whether all
 * others are out. */
void weir_sample_shape(float *out, const float *l, int32_t first, int32_t n, const weir_logit_edit *,
                       int32_t n_edits, bool only);

/* One id more, in any order; one of -inf is left out. */
void weir_sample_top_add(weir_sample_top *, int32_t id, float logit);
/* out[want]; places for which the row has no id above -inf get id -1 and a log-probability of -inf. */
void weir_sample_top_finish(const weir_sample_top *, const weir_sample_stat *, weir_top *out);

/* Takes the histogram of the whole vocabulary for c->level. True: that of the new c->level is wanted (zeroed
 * and filled again; level 0 may come twice, and its first histogram serves again). False: law->min_key is
 * set, and law->end_ties when all ids at it stay; else (c->ties < c->equal) the caller sets end_ties to one
 * past the c->ties-th lowest id at that key. */
bool weir_sample_cut_step(weir_sample_cut *, const weir_sample_hist *, weir_sample_law *law);
/* The same cut for an ask with weir_sample_lists: `best` has the top_k best ids of what is drawn from, of the
 * whole vocabulary (fewer when there are not so many above -inf). law->min_key and end_ties are set. h[2] is
 * room. */
void weir_sample_cut_list(const weir_sample_chunks *, const weir_ask *, const weir_sample_top *best,
                          weir_sample_hist *h, weir_sample_law *law);
/* Tells the law that a list has cut; `best` is all of it. */
void weir_sample_tell_list(const weir_sample_chunks *, const weir_sample_top *best, const weir_sample_law *,
                           weir_top *out);

#endif
