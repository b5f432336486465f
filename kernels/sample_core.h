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
 *   race   every id that stays arrives at E/w, the first wins       -> the first of all
 *   finish the row
 *
 * An ask with edits has two rows: the raw one, which statistics, rules of judgement and tops are about, and
 * the shaped one, which is drawn from. The shaped row exists a chunk at a time (weir_sample_shape), wherever
 * a draw reads one: the single best id of all by stage top, in chunks without edits by stage stat, for the
 * plan; then cut and race. Logits are never written.
 *
 * Stages that touch logits have one implementation an instruction set (kernels/cpu/sample_kernel.h), reached
 * through weir_sample_chunks; the rest is plain C below. */
#ifndef WEIR_KERNELS_SAMPLE_CORE_H
#define WEIR_KERNELS_SAMPLE_CORE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/noise.h"
#include "kernels/row.h"

enum { WEIR_SAMPLE_CHUNK = 4096, WEIR_SAMPLE_BINS = 2048 };

/* Of one chunk, or of chunks merged. */
typedef struct weir_sample_stat {
  float max, second; /* the two highest logits; equal when they tie; -inf when there is none */
  int32_t top;       /* lowest id at max */
  double sum, dot;   /* sum of e, sum of e*(l - max), e = exp(l - max); NaN when a logit was NaN */
} weir_sample_stat;

/* The likeliest ids seen so far, best first: by logit, of equal ones the lowest id. */
typedef struct weir_sample_top {
  int32_t want, n; /* n <= want <= WEIR_TOP_MAX */
  int32_t id[WEIR_TOP_MAX];
  float logit[WEIR_TOP_MAX];
} weir_sample_top;

/* The distribution a row is drawn from; ids outside the cut do not race. */
typedef struct weir_sample_law {
  float max;         /* of the whole vocabulary */
  float temperature; /* > 0; weight of id v: w = exp((l_v - max) / temperature) */
  float min_w;       /* min_p: ids with a smaller w are out */
  uint32_t min_key;  /* ids whose weir_sample_key is smaller are out, */
  int32_t end_ties;  /* and of those with an equal key the ids from here on */
  int32_t top;       /* of the whole vocabulary; it always stays */
  uint64_t seed;
  int32_t pos;
  uint32_t purpose; /* WEIR_NOISE_* */
} weir_sample_law;

typedef struct weir_sample_win {
  double at; /* time of arrival; INFINITY: nobody */
  int32_t id;
  float logit; /* as it raced: of a shaped row, not the raw one */
} weir_sample_win;

/* A histogram over one or several chunks, higher logits in higher bins; adding two is adding their numbers.
 */
typedef struct weir_sample_hist {
  uint32_t count[WEIR_SAMPLE_BINS];
  uint64_t mass[WEIR_SAMPLE_BINS]; /* of floor(w * 2^40), so that sums are exact and have no order */
} weir_sample_hist;

/* Search for the smallest key that stays. Levels: 0 bins ids by distance to the maximum, 64 bins a nat, which
 * leaves few in the bin where the search ends; 1, 2, 3 take the digits (11, 11, 10 bits) of their keys. */
typedef struct weir_sample_cut {
  int32_t level;        /* of the histogram wanted next */
  float bin_scale;      /* of level 0 */
  int32_t bin;          /* where level 0 ended */
  uint32_t prefix;      /* the digits of the key known so far */
  bool by_mass;         /* the second search, for top_p, follows the first, for top_k */
  uint64_t above, want; /* count or mass above what is known; how much is to stay */
  bool has_k, has_p;    /* searches asked for */
  float top_p;
  uint64_t k_mass_above; /* mass above what top_k has found so far */
  uint32_t key;          /* the result: keys above stay, and at it the `ties` lowest ids */
  int32_t ties, equal;   /* of `equal` ids at it */
} weir_sample_cut;

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
  void (*race)(const float *l, int32_t first, int32_t n, const weir_sample_law *, weir_sample_win *out);
} weir_sample_chunks;

/* Bits whose unsigned order is the order of the floats; -0 and 0 are equal, NaN is not asked for. */
static inline uint32_t weir_sample_key(float x) {
  union {
    float f;
    uint32_t u;
  } b = {.f = x + 0.0f};
  return b.u & 0x80000000u ? ~b.u : b.u | 0x80000000u;
}
/* The first n digits (11, 11, 10 bits) of a key. */
static inline uint32_t weir_sample_digits(uint32_t key, int32_t n) {
  return n == 0 ? 0 : n == 1 ? key >> 21 : n == 2 ? key >> 10 : key;
}
static inline int32_t weir_sample_n_chunks(int32_t n_valid) {
  return (n_valid + WEIR_SAMPLE_CHUNK - 1) / WEIR_SAMPLE_CHUNK;
}
/* Arrival of one id with weight w > 0 under the noise `bits`. */
double weir_sample_arrival(uint32_t bits, float w);

/* Merges the chunks' parts, in order of chunks, n >= 1. */
weir_sample_stat weir_sample_merge(const weir_sample_stat *part, int32_t n);
/* Error (EDEVICE) when the row is no distribution: a NaN, a +inf, or nothing above -inf. */
weir_status weir_sample_check(const weir_sample_stat *, weir_err *e);
double weir_sample_logprob(const weir_sample_stat *, float logit);

/* Checks the ask's edits: ids ascending in [0, n_vocab), numbers as kernels/row.h has them; and n_top. */
weir_status weir_sample_check_extras(const weir_ask *, int32_t n_vocab, weir_err *e);
/* The edits of ids [first, first + n), *n_edits of them. */
const weir_logit_edit *weir_sample_edits(const weir_ask *, int32_t first, int32_t n, int32_t *n_edits);
/* out[n] <- the chunk l[n] of ids first, ... with its edits, each operation of which is rounded to float.
 * Finite logits stay finite (what would not, becomes +-FLT_MAX) and the others what they are: a distribution
 * remains one. */
void weir_sample_shape(float *out, const float *l, int32_t first, int32_t n, const weir_logit_edit *,
                       int32_t n_edits);

/* One id more, in any order; one of -inf is left out. */
void weir_sample_top_add(weir_sample_top *, int32_t id, float logit);
/* The list of another shard. */
void weir_sample_top_merge(weir_sample_top *io, const weir_sample_top *);
/* out[want]; places for which the row has no id above -inf get id -1 and a log-probability of -inf. */
void weir_sample_top_finish(const weir_sample_top *, const weir_sample_stat *, weir_top *out);

/* Whether `ask` needs a draw, given the raw statistics of all the vocabulary and the raw logit of the probe
 * (ignored without one); if not, its token is the probe. */
bool weir_sample_draws(const weir_ask *ask, const weir_sample_stat *, float probe_logit);
/* What a draw has to do, given the best id and its logit of what is drawn from, the shaped row when there are
 * edits: returns the token, or -1 when a race must be run by *law. */
int32_t weir_sample_plan(const weir_ask *ask, int32_t top, float max, weir_sample_law *law);

/* Whether a race of this ask must be cut first; min_p alone needs none. */
bool weir_sample_cuts(const weir_ask *ask, int32_t n_valid);
void weir_sample_cut_begin(const weir_ask *ask, int32_t n_valid, weir_sample_cut *);
/* Takes the histogram of the whole vocabulary for c->level. True: that of the new c->level is wanted (zeroed
 * and filled again; level 0 may come twice, and its first histogram serves again). False: law->min_key is
 * set, and law->end_ties when all ids at it stay; else (c->ties < c->equal) the caller sets end_ties to one
 * past the c->ties-th lowest id at that key. */
bool weir_sample_cut_step(weir_sample_cut *, const weir_sample_hist *, weir_sample_law *law);

/* The earlier of two; at the same time the lower id. */
weir_sample_win weir_sample_first(weir_sample_win a, weir_sample_win b);

/* `token` and its raw logit; the probe's logit is ignored without one. Statistics are the raw row's. */
void weir_sample_finish(const weir_ask *ask, const weir_sample_stat *, int32_t token, float logit,
                        float probe_logit, weir_row *row);

#endif
