/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of sampling: what they share in memory, and how they are launched. C and C++ alike. One argument
 * struct serves all, for they run one after the other over the same rows. */
#ifndef WEIR_KERNELS_CUDA_SAMPLE_KERNELS_H
#define WEIR_KERNELS_CUDA_SAMPLE_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/sample_shard.h"
#ifdef __cplusplus
extern "C" {
#endif

enum {
  WEIR_CUK_SAMPLE_STAT,
  WEIR_CUK_SAMPLE_TOP,
  WEIR_CUK_SAMPLE_CUT,
  WEIR_CUK_SAMPLE_WEIGH,
  WEIR_CUK_SAMPLE_TELL,
  WEIR_CUK_SAMPLE_RACE,
  WEIR_CUK_SAMPLE_KERNELS
};

/* Staged by the host for each row, anew for each call. */
typedef struct weir_cuk_sample_ask {
  weir_ask ask;                             /* `edit`, `draft` and `law` are device memory */
  uint32_t ticket[WEIR_CUK_SAMPLE_KERNELS]; /* 0; blocks of a row that are done, by kernel */
  /* Of a vocabulary in shards: the row's place among those that want the likeliest ids, may truncate, may
   * race, are judged by weights, tell their law; -1: it is none of them. */
  int32_t top_at, cut_at, race_at, weigh_at, tell_at;
} weir_cuk_sample_ask;

/* What the first kernel leaves to the others. */
typedef struct weir_cuk_sample_state {
  weir_sample_stat stat; /* of the raw row */
  weir_sample_law law;
  float probe_logit;
  int32_t race;        /* a race is to be run; else the row is answered */
  int32_t shaped;      /* a draw with edits */
  int32_t weighed;     /* judged by weights and refused */
  weir_sample_cut cut; /* of shards: the search, from exchange to exchange; level 4: it is over */
} weir_cuk_sample_state;

/* Of a vocabulary in shards. */
typedef struct weir_cuk_sample_shards {
  int32_t rank, n_ranks; /* n_ranks 0: it lies in one piece */
  int32_t max_chunks;
  weir_sample_message m; /* the first exchange */
  char *all;             /* [n_ranks][stride] what all say in the exchange of the moment */
  size_t stride;
} weir_cuk_sample_shards;

/* A row that is no distribution has token -1 - weir_sample_fault and nothing else. */
typedef struct weir_cuk_sample_args {
  const float *logits; /* column 0 is of id `first` */
  int64_t ld;          /* elements */
  int32_t rows, n_valid;
  int32_t first, end, n_chunks; /* ids here, those from n_valid on left out, and their chunks */
  int32_t aligned;              /* every row starts on 16 bytes */
  int32_t has_edits;            /* an ask of these has */
  int32_t has_drafts;           /* likewise */
  weir_cuk_sample_ask *ask;     /* [rows] */
  weir_cuk_sample_state *state; /* [rows] */
  weir_sample_stat *part;       /* [rows][n_chunks] */
  uint64_t *best;               /* [rows][n_chunks] of rows with edits: the best of the shaped chunk */
  weir_sample_win *win;         /* [rows][n_chunks] */
  weir_sample_hist *hist;       /* [rows] of level 0; of shards, of all */
  uint64_t *list;               /* [rows][n_chunks][WEIR_TOP_MAX] the best of each chunk */
  weir_row *row;                /* [rows] */
  weir_top *top;                /* [rows][WEIR_TOP_MAX] */
  double *mass;                 /* [rows][n_chunks] of rows judged by weights */
  weir_cuk_sample_shards s;
} weir_cuk_sample_args;

/* In this order. stat: statistics, plans, all rows that need no race. top: the likeliest ids of those who
 * asked. cut: top_k and top_p. tell: laws, now that they are cut. weigh: those judged by weights. race: the
 * rest. */
cudaError_t weir_cuk_sample_stat(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_top(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_cut(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_tell(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_weigh(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_race(const weir_cuk_sample_args *, cudaStream_t);

/* Of shards. stat, top and race then say what there is to say in this rank's part of s.all, and are not
 * launched where there are no ids. Behind the exchange of stat and top: plan does what stat does last of the
 * whole, likes what top does. Then, so often as a search may need it, count, its exchange and step; laws
 * behind that of tell, judge behind that of weigh, and finish behind that of race. */
cudaError_t weir_cuk_sample_plan(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_likes(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_count(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_step(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_laws(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_judge(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_finish(const weir_cuk_sample_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
