/* SPDX-License-Identifier: Apache-2.0 */
/* Attention's plan on the CUDA device: what tests may ask of it beyond the operation. */
#ifndef WEIR_KERNELS_CUDA_ATTEND_H
#define WEIR_KERNELS_CUDA_ATTEND_H
#include "kernels/cuda/cuda_dev.h"

/* How the work is cut; 0 of everything: as the device would. */
typedef struct weir_cuda_attend_opts {
  bool any;           /* the general kernel, whatever the shape */
  int32_t n_ctas;     /* CTAs that get work, fewer than there are at most */
  int32_t piece_cost; /* -1: none */
  int32_t min_blocks;
} weir_cuda_attend_opts;

/* weir_cuda_attend_plan with options. */
weir_status weir_cuda_attend_plan_with(weir_dev *, weir_ragged *, int32_t slot, int32_t n_heads,
                                       weir_kv_layer, const weir_cuda_attend_opts *, weir_err *);

/* Of the plan made last for r: items and merges of each list (attend_dev.h); most pieces of a unit. */
typedef struct weir_cuda_attend_counts {
  int32_t n_items[2], n_merges[2], most_pieces;
} weir_cuda_attend_counts;
weir_cuda_attend_counts weir_cuda_attend_count(const weir_ragged *r);

#endif
