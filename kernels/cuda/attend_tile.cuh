/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels of short tiles share: where a tile's rows and positions lie. Device code. */
#ifndef WEIR_KERNELS_CUDA_ATTEND_TILE_CUH
#define WEIR_KERNELS_CUDA_ATTEND_TILE_CUH
#include "kernels/cuda/attend_dev.h"
#include "kernels/cuda/cu.h"

#define ATTEND_LOG2E 1.4426950408889634f
/* m of a row that has seen nothing yet: finite, so that -inf - m is -inf and m - m is 0. */
#define ATTEND_NONE -1e30f

/* What a CTA knows of its item; the same in all threads. */
struct attend_tile {
  weir_attn_item it;
  int32_t seq_row;     /* the batch's row of the sequence's first */
  int32_t first;       /* positions first .. (last row's position) may be read */
  int32_t begin, end;  /* the item's of these: from a multiple of the block */
  const int32_t *page; /* of the sequence */
};

CU_DEV int32_t attend_row_of(const weir_cuk_attend_args &a, const attend_tile &t, int32_t r) {
  return t.seq_row + (t.it.row + r) / a.group;
}
CU_DEV int32_t attend_head_of(const weir_cuk_attend_args &a, const attend_tile &t, int32_t r) {
  return t.it.kv_head * a.group + (t.it.row + r) % a.group;
}

CU_DEV attend_tile attend_tile_of(const weir_cuk_attend_args &a, int32_t i) {
  attend_tile t;
  t.it = a.list.item[i];
  t.seq_row = a.q_indptr[t.it.seq];
  t.page = a.page + a.page_indptr[t.it.seq];
  t.first = weir_attn_seen_from(a.pos[attend_row_of(a, t, 0)], a.window);
  const int32_t end = a.pos[attend_row_of(a, t, t.it.n_rows - 1)] + 1;
  const weir_attn_range g = weir_attn_item_range(&t.it, t.first, end, WEIR_ATTN_SHORT_BLOCK);
  t.begin = g.begin;
  t.end = g.end;
  return t;
}

/* Row of position p in KV, counted in head_dim elements from its base: of the key. 2^32 rows of 64 halves are
 * 512 GiB. */
CU_DEV uint32_t attend_kv_row(const weir_cuk_attend_args &a, const attend_tile &t, int32_t p) {
  const int32_t nth = p / a.page_size, in = p - nth * a.page_size;
  return ((uint32_t)t.page[nth] * 2u * (uint32_t)a.n_kv_heads + (uint32_t)t.it.kv_head) *
             (uint32_t)a.page_size +
         (uint32_t)in;
}

#endif
