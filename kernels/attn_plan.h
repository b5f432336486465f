/* SPDX-License-Identifier: Apache-2.0 */
/* Attention's plan: from the lengths of a step's sequences, who computes what (attn_item.h). Pure: no device,
 * no memory of its own; the same lengths give the same plan. */
#ifndef WEIR_KERNELS_ATTN_PLAN_H
#define WEIR_KERNELS_ATTN_PLAN_H
#include "base/err.h"
#include "kernels/attn_item.h"

/* The step. */
typedef struct weir_attn_batch {
  int32_t n_tokens, n_seqs;
  int32_t n_kv_heads, group; /* query heads: n_kv_heads * group */
  const int32_t *q_indptr;   /* [n_seqs+1], ascending within 0 .. n_tokens */
  const int32_t *kv_len;     /* [n_seqs]; of sequences with rows at least 1 and at least their rows */
} weir_attn_batch;

/* One kernel's list: which sequences, and how their work is cut. */
typedef struct weir_attn_shape {
  int32_t min_rows,
      max_rows;       /* sequences with min_rows <= packed rows <= max_rows are the list's; min_rows > 0 */
  int32_t tile_rows;  /* packed rows of a tile */
  int32_t block;      /* tokens of a block */
  int32_t n_ctas;     /* CTAs the work is cut for */
  int32_t piece_cost; /* what beginning a piece costs, in blocks */
  int32_t min_blocks; /* of a piece, where the unit has as many; >= 1 */
} weir_attn_shape;

/* Where a list goes, and what it came to. */
typedef struct weir_attn_list_out {
  int32_t *cta;           /* [n_ctas + 1]: indices into item */
  weir_attn_item *item;   /* [max_items] */
  weir_attn_merge *merge; /* [n_ctas] */
  int32_t max_items;
  int32_t first_item; /* the list's items begin here: lists may share one array */
  int32_t n_items;    /* out; item[first_item .. first_item + n_items - 1] */
  int32_t n_merges;   /* out; < n_ctas */
  int32_t n_slots;    /* out; <= weir_attn_max_slots */
  int32_t most;       /* out: the greatest load of a CTA: blocks and piece_cost of each piece */
} weir_attn_list_out;

/* Slots of partial results a list of n_ctas CTAs may use: a CTA has at most two pieces that are not whole
 * units, its first and its last. */
static inline int32_t weir_attn_max_slots(int32_t n_ctas) { return 2 * n_ctas; }

/* Units of the list at most: a unit has a packed row at least. */
int64_t weir_attn_max_units(int64_t n_rows, int32_t min_rows);

/* Errors: WEIR_EINVAL for lengths that contradict each other (named) or more items than max_items. */
weir_status weir_attn_plan_list(const weir_attn_batch *, const weir_attn_shape *, weir_attn_list_out *,
                                weir_err *e);

#endif
