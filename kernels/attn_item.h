/* SPDX-License-Identifier: Apache-2.0 */
/* What attention's plan is made of: written by attn_plan.c on the host, read by kernels and on the host by
 * tests. Includable from C and CUDA.
 *
 * The rows of a sequence under one KV head are its packed rows: packed row f is query head f % group of the
 * KV head's group, at the sequence's token row q_indptr[s] + f / group. They are taken in tiles. A tile under
 * one KV head is a unit; its positions, in blocks of some tokens, are one line of work, and all units' lines
 * laid end to end are cut into one run a CTA. So a unit is whole, or in pieces that lie in successive CTAs.
 *
 * A plan is made from lengths alone, once a step, and serves all layers. Where a tile's positions really
 * begin (its window) and end (its last row) only the kernel knows: a piece is therefore a share of the tile's
 * blocks, block0/n_blocks .. block1/n_blocks, of however many the kernel finds. */
#ifndef WEIR_KERNELS_ATTN_ITEM_H
#define WEIR_KERNELS_ATTN_ITEM_H
#include <stdint.h>

#ifdef __CUDACC__
#define WEIR_ATTN_FN static __host__ __device__ __forceinline__
#else
#define WEIR_ATTN_FN static inline
#endif

/* A piece of a unit. */
typedef struct weir_attn_item {
  int32_t seq, kv_head;
  int32_t row, n_rows;              /* packed rows row .. row + n_rows - 1, n_rows >= 1 */
  int32_t block0, block1, n_blocks; /* 0 <= block0 < block1 <= n_blocks */
  int32_t slot;                     /* where its partial result goes; -1: the unit is whole, write `out` */
} weir_attn_item;

/* A unit in pieces: slots slot .. slot + n_slots - 1, in order of position. */
typedef struct weir_attn_merge {
  int32_t seq, kv_head;
  int32_t row, n_rows;
  int32_t slot, n_slots;
} weir_attn_merge;

/* The positions begin .. end - 1. */
typedef struct weir_attn_range {
  int32_t begin, end;
} weir_attn_range;

/* The part of positions first .. end - 1 that is the item's: its begin is a multiple of block (a tile's first
 * block may begin before `first`). Empty (begin >= end) where the tile has fewer blocks than the item was
 * planned for. The items of a unit cover first .. end - 1 once. */
WEIR_ATTN_FN weir_attn_range weir_attn_item_range(const weir_attn_item *it, int32_t first, int32_t end,
                                                  int32_t block) {
  const int32_t from = first / block;
  const int64_t n = (end + block - 1) / block - from;
  weir_attn_range r;
  r.begin = (from + (int32_t)(n * it->block0 / it->n_blocks)) * block;
  r.end = (from + (int32_t)(n * it->block1 / it->n_blocks)) * block;
  if (r.end > end) r.end = end;
  return r;
}

#endif
