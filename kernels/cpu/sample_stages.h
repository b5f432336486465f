/* SPDX-License-Identifier: Apache-2.0 */
/* The stages of the sample op on the CPU, over the ids that are here: all of them (sample.c) or a shard's
 * (sample_shards.c). Functions of one row unless they say otherwise; the caller spreads rows over the team.
 * `buf` is room for a shaped chunk. */
#ifndef WEIR_KERNELS_CPU_SAMPLE_STAGES_H
#define WEIR_KERNELS_CPU_SAMPLE_STAGES_H
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"
#include "kernels/sample_core.h"

enum { WEIR_CPU_TEAM_CHUNKS = 4 }; /* chunks a thread should get at least: about 10 us */

typedef struct weir_cpu_sample_row {
  weir_sample_stat stat; /* of the raw row, of the whole vocabulary */
  weir_sample_law law;
  float probe_logit;
  int32_t token; /* -1 while a race is to be run */
  float logit;   /* the token's raw one, once it is known; sample_shards.c */
  bool shaped;   /* a draw with edits */
  bool weighed;  /* judged by weights and refused */
} weir_cpu_sample_row;

typedef struct weir_cpu_sample_job {
  const weir_sample_chunks *ops;
  weir_mat logits; /* column 0 is of id `first` */
  const weir_ask *ask;
  int32_t n_valid;           /* of the whole vocabulary */
  int32_t first, end;        /* ids here, those from n_valid on left out */
  int32_t n_chunks, part_ld; /* chunks here; parts from row to row */
  weir_cpu_sample_row *row;  /* [rows] */
  weir_sample_stat *part;    /* [rows][part_ld] of which n_chunks are used */
  weir_sample_win *win;      /* [rows][n_chunks]; may be the same memory, for it comes later */
  double *mass;              /* [rows][n_chunks] of rows judged by weights; of the memory of win */
  weir_sample_hist *hist;    /* [n_threads][2] */
} weir_cpu_sample_job;

static inline weir_sample_stat *weir_cpu_sample_parts(const weir_cpu_sample_job *j, int32_t row) {
  return j->part + (size_t)row * (size_t)j->part_ld;
}
/* Raw logit of an id that is here. */
static inline float weir_cpu_sample_logit(const weir_cpu_sample_job *j, int32_t row, int32_t id) {
  return j->logits.data[(size_t)row * (size_t)j->logits.ld + (size_t)(id - j->first)];
}
static inline bool weir_cpu_sample_has(const weir_cpu_sample_job *j, int32_t id) {
  return id >= j->first && id < j->end;
}

/* All rows, by the team: the parts of their chunks, and the races of rows with token < 0. */
void weir_cpu_sample_stats(weir_dev *, weir_cpu_sample_job *);
void weir_cpu_sample_masses(weir_dev *, weir_cpu_sample_job *);
void weir_cpu_sample_races(weir_dev *, weir_cpu_sample_job *);
/* Adds to the list. top: the likeliest raw ids; best: the best id that a draw takes from; drawn: the best of
 * them, as many as the list wants. */
void weir_cpu_sample_top(const weir_cpu_sample_job *, int32_t row, weir_sample_top *io);
void weir_cpu_sample_drawn(const weir_cpu_sample_job *, int32_t row, float *buf, weir_sample_top *io);
void weir_cpu_sample_best(const weir_cpu_sample_job *, int32_t row, float *buf, weir_sample_top *io);
/* h <- the histogram that the cut wants. */
void weir_cpu_sample_hist(const weir_cpu_sample_job *, int32_t row, const weir_sample_cut *, float *buf,
                          weir_sample_hist *h);
/* One past the ties-th lowest id here whose key is `key`. */
int32_t weir_cpu_sample_end_of_ties(const weir_cpu_sample_job *, int32_t row, uint32_t key, int32_t ties,
                                    float *buf);
/* Of a row judged by weights: what an id here weighs, 0 when it does not race. */
float weir_cpu_sample_weight(const weir_cpu_sample_job *, int32_t row, int32_t id);
/* Such a row is judged, by its probe's weight and the sum of all: token <- the probe, or it races by what is
 * left of its law. */
void weir_cpu_sample_judge(const weir_cpu_sample_job *, int32_t row, float probe_w, double sum);
/* Who comes first, of those here and the top. */
weir_sample_win weir_cpu_sample_winner(const weir_cpu_sample_job *, int32_t row);

/* sample_shards.c: scratch bytes within the limits, SIZE_MAX when that overflows; the op. */
size_t weir_cpu_sample_shards_scratch(const weir_dev_limits *lim, int32_t n_threads);
weir_status weir_cpu_sample_shards(weir_dev *, weir_row *rows, weir_top *top, weir_mat logits,
                                   int32_t n_valid, const weir_ask *ask, const weir_vocab_shard *,
                                   weir_err *);
#endif
