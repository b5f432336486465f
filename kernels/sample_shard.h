/* SPDX-License-Identifier: Apache-2.0 */
/* What the ranks tell each other when a vocabulary lies in shards (weir_vocab_shard), the same on all
 * devices: plain numbers, laid out by what every rank knows. Pure functions, C and CUDA alike.
 *
 *   1. weir_sample_message of all rows: the parts of the chunks, merged by every rank in order of chunks; the
 *      probe's raw logit; the best ids. A greedy row is answered by it, and so is a measured probe.
 *   2. for rows that truncate, weir_sample_hist, summed by every rank: four times for top_k or top_p, seven
 *      times for both; none for min_p, and on the CPU none for a top_k that is found by lists, which come
 * with the first message. The last one tells also how many ids each rank has at the key where the cut is, and
 *      with that which of them stay.
 *   3. for rows that are judged by weights, weir_sample_weight and the sums of their chunks, merged in order
 *      of chunks.
 *   4. for rows that race, weir_sample_came. */
#ifndef WEIR_KERNELS_SAMPLE_SHARD_H
#define WEIR_KERNELS_SAMPLE_SHARD_H
#include "kernels/sample_math.h"

/* Which ids a rank has. */
typedef struct weir_sample_head {
  int32_t first, n; /* n 0: none, first says nothing */
  int32_t rest[2];  /* 0 */
} weir_sample_head;

/* What a rank says of a row. Ids are -1 where it has none. */
typedef struct weir_sample_say {
  int32_t has_probe;
  float probe_logit;
  int32_t top; /* lowest id at the rank's maximum; its raw logit */
  float top_logit;
  int32_t best; /* of a row with edits that may draw: of the shaped ids the best, its shaped logit, its raw */
  float best_shaped, best_raw;
  int32_t rest;
} weir_sample_say;

/* One of a rank's likeliest ids, best first. */
typedef struct weir_sample_like {
  int32_t id; /* -1: the rank has no more */
  float logit;
} weir_sample_like;

/* What a rank says of a row judged by weights; the sums of its chunks follow, double [max_chunks]. */
typedef struct weir_sample_weight {
  int32_t has_probe;
  float probe_w; /* 0: it does not race */
} weir_sample_weight;

/* Who came first on a rank. */
typedef struct weir_sample_came {
  double at;   /* INFINITY: nobody of the rank's ids */
  int32_t id;  /* INT32_MAX then */
  float logit; /* raw */
} weir_sample_came;

/* Where things lie in the first message, in bytes from its beginning. */
typedef struct weir_sample_message {
  size_t say;  /* [rows] weir_sample_say, behind one weir_sample_head */
  size_t part; /* [rows][max_chunks] weir_sample_stat */
  size_t like; /* [n_tops][WEIR_TOP_MAX] weir_sample_like, of the rows that want any, in order */
  size_t
      list; /* [n_lists][WEIR_SAMPLE_LIST] weir_sample_like, of what is drawn from, of the rows that cut so */
  size_t total;
} weir_sample_message;

/* Rows, chunks and ranks come from checked limits: a size below that of logits, which are there. */
static inline WEIR_HD weir_sample_message weir_sample_message_of(int32_t rows, int32_t max_chunks,
                                                                 int32_t n_tops, int32_t n_lists) {
  weir_sample_message m;
  m.say = sizeof(weir_sample_head);
  m.part = m.say + (size_t)rows * sizeof(weir_sample_say);
  m.like = m.part + (size_t)rows * (size_t)max_chunks * sizeof(weir_sample_stat);
  m.list = m.like + (size_t)n_tops * WEIR_TOP_MAX * sizeof(weir_sample_like);
  m.total = m.list + (size_t)n_lists * WEIR_SAMPLE_LIST * sizeof(weir_sample_like);
  return m;
}

/* Bytes of a row judged by weights: fewer than a row has in the first message. */
static inline WEIR_HD size_t weir_sample_weight_bytes(int32_t max_chunks) {
  return sizeof(weir_sample_weight) + (size_t)max_chunks * sizeof(double);
}

/* Chunks of ids below n_valid that the rank has. */
static inline WEIR_HD int32_t weir_sample_head_chunks(const weir_sample_head *h, int32_t n_valid) {
  if (h->n <= 0 || h->first >= n_valid) return 0;
  const int32_t left = n_valid - h->first;
  return weir_sample_n_chunks(h->n < left ? h->n : left);
}
/* Whether the shards are ascending, without gaps, not torn within a chunk, and all of the vocabulary; *at:
 * the rank that is wrong, n_ranks when ids are missing at the end. `heads` lie `stride` bytes apart. */
static inline WEIR_HD bool weir_sample_heads_fit(const void *heads, size_t stride, int32_t n_ranks,
                                                 int32_t max_chunks, int32_t n_valid, int32_t *at) {
  int32_t next = 0;
  for (*at = 0; *at < n_ranks; ++*at) {
    const weir_sample_head *h =
        (const weir_sample_head *)(const void *)((const char *)heads + (size_t)*at * stride);
    if (h->n == 0) continue;
    if (h->n < 0 || h->first != next || h->first % WEIR_SAMPLE_CHUNK != 0 || h->n > INT32_MAX - next ||
        weir_sample_head_chunks(h, n_valid) > max_chunks)
      return false;
    next += h->n;
  }
  return next >= n_valid;
}

/* Whether a draw may be needed, by what is known before the logits are. */
static inline WEIR_HD bool weir_sample_may_draw(const weir_ask *ask) {
  return ask->probe < 0 || ask->keep != WEIR_KEEP_ALL;
}

/* The stays of ids at the key where a cut ends: `before` of them lie on lower ranks, `here` on this one.
 * True: some of them, and *ties is how many; false: law->end_ties is set, all stay or none. */
static inline WEIR_HD bool weir_sample_ties_split(const weir_sample_cut *c, uint64_t before, uint64_t here,
                                                  weir_sample_law *law, int32_t *ties) {
  const uint64_t stay = (uint64_t)c->ties;
  *ties = 0;
  if (before >= stay || before + here <= stay) {
    law->end_ties = before >= stay ? 0 : INT32_MAX;
    return false;
  }
  *ties = (int32_t)(stay - before);
  return true;
}

#endif
