/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels of attention share: decode (attend_decode.cu), prefill (attend_prefill.cu), the general
 * one (attend_any.cu) and the merge (attend_merge.cu). C and C++ alike.
 *
 * A list is a plan's work for one kernel: CTA c does items cta[c] .. cta[c+1] - 1 one after another. The grid
 * is fixed for the device, whatever the lengths, so that a recorded launch stays right when the list changes;
 * CTAs from the planned number on have cta[c] == cta[c+1]. Short tiles (packed rows <= WEIR_ATTN_SHORT_ROWS)
 * are in list 0, for decode or any; long ones in list 1, for prefill. The merge takes both lists' pieces.
 *
 * Scores are kept in base 2: s = log2(e) * (q.k * scale), the soft cap applied before log2(e). A partial
 * result is, of each row of its tile: m, the greatest s; l, the sum of 2^(s - m); acc[head_dim], the sum of
 * 2^(s - m) * v. A row that saw nothing has m = -inf, l = 0 and any acc, written or not. */
#ifndef WEIR_KERNELS_CUDA_ATTEND_DEV_H
#define WEIR_KERNELS_CUDA_ATTEND_DEV_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/attn_item.h"

enum {
  WEIR_ATTN_SHORT_ROWS = 16,  /* packed rows of a tile of list 0: those of mma.m16n8k16 */
  WEIR_ATTN_SHORT_BLOCK = 16, /* tokens of a block of list 0: two n8 tiles of scores, one k16 step of P V */
  WEIR_ATTN_LONG_ROWS = 128,  /* packed rows of a tile of list 1 */
  WEIR_ATTN_LONG_BLOCK = 64,  /* tokens of a block of list 1 */
  WEIR_ATTN_LISTS = 2
};

/* Pointers into the plan in device memory: the same addresses for every plan of a slot. */
typedef struct weir_attn_list {
  const int32_t *cta;           /* [n_ctas + 1] */
  const weir_attn_item *item;   /* [cta[n_ctas]] */
  const int32_t *n_merges;      /* [1] */
  const weir_attn_merge *merge; /* [*n_merges] */
  int32_t n_ctas;               /* the grid */
} weir_attn_list;

/* Partial results of one list. */
typedef struct weir_attn_part {
  float *acc; /* [n_slots][rows of a tile][head_dim] */
  float *ml;  /* [n_slots][rows of a tile][2]: m, l */
} weir_attn_part;

/* Of the decode, prefill and general kernels. Row i of the batch is q + i*q_ld, head h at + h*head_dim. Key
 * of position t: kv + ((page[page_indptr[s] + t/page_size] * 2 * n_kv_heads + kv_head) * page_size +
 * t%page_size) * head_dim elements; its value n_kv_heads * page_size * head_dim elements further on.
 *
 * A tile's positions are first = weir_attn_seen_from(pos of its first row) .. end - 1 = pos of its last row;
 * no other position's bytes are read, nor page entries of pages without such a position: both may be
 * anything. So where a block reaches over either end, copies are predicated (zero fill): a V of NaN times a P
 * of 0 is NaN. */
typedef struct weir_cuk_attend_args {
  const float *q; /* 4-byte aligned: no wider load without a look at the pointer and q_ld */
  float *out;     /* as q */
  const void *kv; /* at least 16-byte aligned in the fast kernels: attend.c looks */
  const int32_t *pos, *q_indptr, *page_indptr, *page;
  int32_t q_ld, out_ld;
  int32_t n_kv_heads, group, page_size, head_dim;
  float scale, softcap; /* softcap > 0: s = softcap * tanh(q.k * scale / softcap) */
  int32_t window;       /* > 0: the last `window` positions up to the row's own */
  bool f16;             /* KV is F16, else F32; the fast kernels take F16 alone */
  weir_attn_list list;
  weir_attn_part part;
} weir_cuk_attend_args;

/* First position a row at pos sees. */
WEIR_ATTN_FN int32_t weir_attn_seen_from(int32_t pos, int32_t window) {
  return window > 0 && pos >= window ? pos - window + 1 : 0;
}

/* Elements from the base of KV to the first of page p under a KV head, position 0 of the page. */
WEIR_ATTN_FN int64_t weir_attn_page_offset(const weir_cuk_attend_args *a, int32_t p, int32_t kv_head) {
  return ((int64_t)p * 2 * a->n_kv_heads + kv_head) * a->page_size * a->head_dim;
}
/* From a key to its value. */
WEIR_ATTN_FN int64_t weir_attn_value_offset(const weir_cuk_attend_args *a) {
  return (int64_t)a->n_kv_heads * a->page_size * a->head_dim;
}

/* attend_prefill_kernels.h declares, for attend.c:
 *   cudaError_t weir_cuk_attend_prefill(const weir_cuk_attend_args *, cudaStream_t);   F16, head_dim 64 or
 * 128, page_size a multiple of 16, KV 16-byte aligned; grid list.n_ctas static inline size_t
 * weir_cuk_attend_prefill_smem(int32_t head_dim);   dynamic shared memory of a CTA, bytes: attend.c launches
 * as many CTAs an SM as that and the threads (WEIR_PREFILL_THREADS) leave room for */
#endif
