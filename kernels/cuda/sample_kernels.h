/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of sampling: what they share in memory, and how they are launched. C and C++ alike. One argument
 * struct serves all, for they run one after the other over the same rows. */
#ifndef WEIR_KERNELS_CUDA_SAMPLE_KERNELS_H
#define WEIR_KERNELS_CUDA_SAMPLE_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels/sample_math.h"
#ifdef __cplusplus
extern "C" {
#endif

enum {
  WEIR_CUK_SAMPLE_STAT,
  WEIR_CUK_SAMPLE_TOP,
  WEIR_CUK_SAMPLE_CUT,
  WEIR_CUK_SAMPLE_RACE,
  WEIR_CUK_SAMPLE_KERNELS
};

/* Staged by the host for each row, anew for each call. */
typedef struct weir_cuk_sample_ask {
  weir_ask ask;                             /* `edit` is device memory */
  uint32_t ticket[WEIR_CUK_SAMPLE_KERNELS]; /* 0; blocks of a row that are done, by kernel */
} weir_cuk_sample_ask;

/* What the first kernel leaves to the others. */
typedef struct weir_cuk_sample_state {
  weir_sample_stat stat; /* of the raw row */
  weir_sample_law law;
  float probe_logit;
  int32_t race;   /* a race is to be run; else the row is answered */
  int32_t shaped; /* a draw with edits */
} weir_cuk_sample_state;

/* A row that is no distribution has token -1 - weir_sample_fault and nothing else. */
typedef struct weir_cuk_sample_args {
  const float *logits;
  int64_t ld; /* elements */
  int32_t rows, n_valid, n_chunks;
  int32_t aligned;              /* every row starts on 16 bytes */
  int32_t has_edits;            /* an ask of these has */
  weir_cuk_sample_ask *ask;     /* [rows] */
  weir_cuk_sample_state *state; /* [rows] */
  weir_sample_stat *part;       /* [rows][n_chunks] */
  uint64_t *best;               /* [rows][n_chunks] of rows with edits: the best of the shaped chunk */
  weir_sample_win *win;         /* [rows][n_chunks] */
  weir_sample_hist *hist;       /* [rows] of level 0 */
  uint64_t *list;               /* [rows][n_chunks][WEIR_TOP_MAX] the best of each chunk */
  weir_row *row;                /* [rows] */
  weir_top *top;                /* [rows][WEIR_TOP_MAX] */
} weir_cuk_sample_args;

/* In this order. stat: statistics, plans, all rows that need no race. top: the likeliest ids of those who
 * asked. cut: top_k and top_p. race: the rest. */
cudaError_t weir_cuk_sample_stat(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_top(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_cut(const weir_cuk_sample_args *, cudaStream_t);
cudaError_t weir_cuk_sample_race(const weir_cuk_sample_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
