/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on the GPU: which kernel does what, the plan's way to the device, the launches. Owns the host
 * side of plans (one allocation a slot, kept in weir_cuda.plan_host); borrows the device's scratch for
 * partial results; the thread that owns the device.
 *
 * Sequences with up to 16 packed rows (rows times query heads a KV head) go to the decode kernel, longer ones
 * to the prefill kernel; what those two do not do (head_dim other than 64 and 128, F32 KV, pages that are no
 * multiple of 16) goes to the general one, in the short tiles of list 0.
 *
 * A record of a step is played again for other lengths, so what is launched within one depends on n_tokens,
 * n_seqs and the model alone: grids are those of the whole device, and the prefill kernel is launched,
 * perhaps for nothing, where these numbers allow a long sequence. Where they speak of decode steps (no more
 * rows than sequences) it is not: should a sequence have many rows all the same, the decode kernel does them
 * tile by tile. Outside of records launches that have nothing to do are left out.
 *
 * In device memory a plan is: n_merges[2], of both lists cta[grid + 1], merge[grid], and the items of both.
 * All but the items have room for the whole grid, so the addresses are the same for every plan of a model,
 * and one upload of the used beginning brings it there: 15 KiB and 32 bytes an item on a GPU of 132 SMs. */
#include "kernels/cuda/attend.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/attn_plan.h"
#include "kernels/cuda/attend_any_kernels.h"
#include "kernels/cuda/attend_decode_kernels.h"
#include "kernels/cuda/attend_dev.h"
#include "kernels/cuda/attend_prefill_kernels.h"

enum { MAX_CTAS_PER_SM = 4, FAST_MAX_HEAD_DIM = 128 };

/* What weir_ragged.plan points to; the plan's bytes, as on the device, follow it. */
typedef struct attend_plan {
  char *dev;     /* weir_cuda.plan[slot] */
  size_t bytes;  /* room here */
  bool fast;     /* decode and prefill, else any */
  bool may_long; /* n_tokens and n_seqs allow long sequences */
  int32_t n_tokens, n_heads, n_kv_heads, head_dim, page_size;
  weir_dtype dtype;
  int32_t grid[WEIR_ATTN_LISTS];
  int32_t n_items[WEIR_ATTN_LISTS], n_merges[WEIR_ATTN_LISTS], most_pieces;
} attend_plan;

/* Offsets in bytes. */
typedef struct plan_layout {
  size_t n_merges, cta[WEIR_ATTN_LISTS], merge[WEIR_ATTN_LISTS], item;
} plan_layout;

static int32_t max_ctas(const weir_cuda *cu) { return MAX_CTAS_PER_SM * cu->n_sms; }

/* For these grids, which a model's plans have in common. */
static plan_layout layout_of(const int32_t grid[WEIR_ATTN_LISTS]) {
  plan_layout y = {0};
  size_t at = 2 * sizeof(int32_t);
  for (int i = 0; i < WEIR_ATTN_LISTS; i++) y.cta[i] = at, at += ((size_t)grid[i] + 1) * sizeof(int32_t);
  for (int i = 0; i < WEIR_ATTN_LISTS; i++) y.merge[i] = at, at += (size_t)grid[i] * sizeof(weir_attn_merge);
  y.item = (at + 63) / 64 * 64;
  return y;
}

/* A unit has one packed row at least, of max_tokens * max_heads; a CTA cuts one unit more. */
size_t weir_cuda_attend_plan_bytes(const weir_cuda *cu, const weir_dev_limits *lim) {
  const int64_t units = weir_attn_max_units((int64_t)lim->max_tokens * lim->max_heads, 1);
  const int64_t items = units + (int64_t)WEIR_ATTN_LISTS * max_ctas(cu);
  if (items > INT32_MAX) return SIZE_MAX;
  const int32_t grid[WEIR_ATTN_LISTS] = {max_ctas(cu), max_ctas(cu)};
  return layout_of(grid).item + (size_t)items * sizeof(weir_attn_item);
}

/* How many CTAs of that much shared memory an SM holds; a CTA takes 1 KiB more than it asks for. */
static int32_t ctas_per_sm(const weir_cuda *cu, size_t smem, int32_t most) {
  const size_t n = (cu->max_smem + 1024) / (smem + 1024);
  return n < 1 ? 1 : n > (size_t)most ? most : (int32_t)n;
}
/* `most` is what the kernels' registers allow. */
static int32_t grid_of(const weir_cuda *cu, bool fast, int32_t list, int32_t head_dim) {
  if (!fast) return list == 0 ? cu->n_sms * ctas_per_sm(cu, weir_cuk_attend_any_smem(head_dim), 3) : 0;
  if (list == 0)
    return cu->n_sms * ctas_per_sm(cu, weir_cuk_attend_decode_smem(head_dim), head_dim == 128 ? 2 : 3);
  return cu->n_sms * ctas_per_sm(cu, weir_cuk_attend_prefill_smem(head_dim), 2);
}

static const int32_t tile_rows[WEIR_ATTN_LISTS] = {WEIR_ATTN_SHORT_ROWS, WEIR_ATTN_LONG_ROWS};

static size_t part_floats(int32_t grid, int32_t list, int32_t head_dim) {
  return (size_t)weir_attn_max_slots(grid) * (size_t)tile_rows[list] * ((size_t)head_dim + 2);
}

size_t weir_cuda_attend_scratch(const weir_cuda *cu, const weir_dev_limits *lim) {
  size_t most = 0;
  for (int32_t dim = 64; dim <= FAST_MAX_HEAD_DIM && dim <= lim->max_head_dim; dim += 64) {
    const size_t n =
        part_floats(grid_of(cu, true, 0, dim), 0, dim) + part_floats(grid_of(cu, true, 1, dim), 1, dim);
    if (n > most) most = n;
  }
  const int32_t any = lim->max_head_dim < WEIR_ANY_MAX_HEAD_DIM ? lim->max_head_dim : WEIR_ANY_MAX_HEAD_DIM;
  const size_t n = part_floats(3 * cu->n_sms, 0, any);
  if (n > most) most = n;
  return most * sizeof(float);
}

static bool is_fast(weir_kv_layer kv) {
  return kv.dtype == WEIR_F16 && (kv.head_dim == 64 || kv.head_dim == 128) &&
         kv.page_size % WEIR_ATTN_SHORT_BLOCK == 0 && ((uintptr_t)kv.base & 15) == 0;
}

/* Room for the host side of a slot, as large as the device's. */
static weir_status host_side(weir_cuda *cu, int32_t slot, attend_plan **out, weir_err *e) {
  attend_plan *p = (attend_plan *)cu->plan_host[slot];
  if (!p || p->bytes < cu->plan_bytes) {
    attend_plan *bigger = (attend_plan *)malloc(sizeof *p + 64 + cu->plan_bytes);
    if (!bigger)
      return weir_fail(e, WEIR_ENOMEM, "attend_plan: no room for a plan of %zu bytes", cu->plan_bytes);
    free(p);
    cu->plan_host[slot] = p = bigger;
  }
  *p = (attend_plan){.dev = (char *)cu->plan[slot], .bytes = cu->plan_bytes};
  *out = p;
  return WEIR_OK;
}
/* The bytes behind the struct, 64-byte aligned. */
static char *bytes_of(attend_plan *p) { return (char *)(((uintptr_t)(p + 1) + 63) & ~(uintptr_t)63); }

weir_status weir_cuda_attend_plan_with(weir_dev *dev, weir_ragged *r, int32_t slot, int32_t n_heads,
                                       weir_kv_layer kv, const weir_cuda_attend_opts *o, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  attend_plan *p = NULL;
  weir_status st = WEIR_OK;
  if (kv.head_dim > WEIR_ANY_MAX_HEAD_DIM)
    return weir_fail(e, WEIR_EUNSUP, "attend_plan: head_dim %d, at most %d", kv.head_dim,
                     WEIR_ANY_MAX_HEAD_DIM);
  if (n_heads % kv.n_kv_heads != 0)
    return weir_fail(e, WEIR_EINVAL, "attend_plan: %d heads over %d KV heads", n_heads, kv.n_kv_heads);
  if ((int64_t)kv.n_pages * 2 * kv.n_kv_heads * kv.page_size >
      UINT32_MAX) /* kernels count KV's rows in 32 bits */
    return weir_fail(e, WEIR_EUNSUP, "attend_plan: KV of [%d, 2, %d, %d] rows", kv.n_pages, kv.n_kv_heads,
                     kv.page_size);
  if (cu->plan_bytes == 0) return weir_fail(e, WEIR_EINVAL, "attend_plan: nothing was reserved");
  WEIR_TRY(host_side(cu, slot, &p, e));
  p->fast = !o->any && is_fast(kv);
  p->n_tokens = r->n_tokens;
  p->n_heads = n_heads;
  p->n_kv_heads = kv.n_kv_heads;
  p->head_dim = kv.head_dim;
  p->page_size = kv.page_size;
  p->dtype = kv.dtype;
  const weir_attn_batch b = {.n_tokens = r->n_tokens,
                             .n_seqs = r->n_seqs,
                             .n_kv_heads = kv.n_kv_heads,
                             .group = n_heads / kv.n_kv_heads,
                             .q_indptr = r->host_q_indptr,
                             .kv_len = r->host_kv_len};
  p->may_long = p->fast && r->n_tokens > r->n_seqs && (int64_t)r->n_tokens * b.group > WEIR_ATTN_SHORT_ROWS;
  for (int32_t i = 0; i < WEIR_ATTN_LISTS; i++) p->grid[i] = grid_of(cu, p->fast, i, kv.head_dim);
  const plan_layout y = layout_of(p->grid);
  char *bytes = bytes_of(p);
  memset(bytes, 0, y.item);
  int32_t n_items = 0;
  const size_t room = (cu->plan_bytes - y.item) / sizeof(weir_attn_item);
  for (int32_t list = 0; list < WEIR_ATTN_LISTS; list++) {
    weir_attn_list_out out = {.cta = (int32_t *)(bytes + y.cta[list]),
                              .item = (weir_attn_item *)(bytes + y.item),
                              .merge = (weir_attn_merge *)(bytes + y.merge[list]),
                              .max_items = room < INT32_MAX ? (int32_t)room : INT32_MAX,
                              .first_item = n_items};
    /* What a piece costs beyond its blocks: a look at its item, q, pages, the merge of warps: some 3 us, in
     * which a CTA with half an SM's share of the bandwidth reads 6 blocks of 8 KiB. A prefill tile loads 128
     * rows of q and fills its ring: about two blocks. The least pieces: two blocks a warp; four blocks of 64
     * rows' worth of products, below which writing and merging a piece costs more than it helps. */
    weir_attn_shape s = {.min_rows = list == 0 ? 1 : WEIR_ATTN_SHORT_ROWS + 1,
                         .max_rows = list == 0 && p->may_long ? WEIR_ATTN_SHORT_ROWS : INT32_MAX,
                         .tile_rows = tile_rows[list],
                         .block = list == 0 ? WEIR_ATTN_SHORT_BLOCK : WEIR_ATTN_LONG_BLOCK,
                         .n_ctas = p->grid[list],
                         .piece_cost = list == 1 ? 2
                                       : p->fast ? 6
                                                 : 1,
                         .min_blocks = list == 1 ? 4
                                       : p->fast ? 8
                                                 : 4};
    if (list == 1 && !p->may_long) continue;
    if (o->n_ctas > 0 && o->n_ctas < s.n_ctas) s.n_ctas = o->n_ctas;
    if (o->piece_cost != 0) s.piece_cost = o->piece_cost > 0 ? o->piece_cost : 0;
    if (o->min_blocks > 0) s.min_blocks = o->min_blocks;
    WEIR_TRY(weir_attn_plan_list(&b, &s, &out, e));
    for (int32_t c = s.n_ctas + 1; c <= p->grid[list]; c++) out.cta[c] = out.cta[s.n_ctas];
    ((int32_t *)(bytes + y.n_merges))[list] = p->n_merges[list] = out.n_merges;
    for (int32_t m = 0; m < out.n_merges; m++)
      if (out.merge[m].n_slots > p->most_pieces) p->most_pieces = out.merge[m].n_slots;
    p->n_items[list] = out.n_items;
    n_items += out.n_items;
  }
  WEIR_TRY(weir_cuda_upload(dev, p->dev, bytes, y.item + (size_t)n_items * sizeof(weir_attn_item), e));
  r->plan = p;
out:
  return st;
}

weir_status weir_cuda_attend_plan(weir_dev *dev, weir_ragged *r, int32_t slot, int32_t n_heads,
                                  weir_kv_layer kv, weir_err *e) {
  const weir_cuda_attend_opts o = {0};
  return weir_cuda_attend_plan_with(dev, r, slot, n_heads, kv, &o, e);
}

weir_cuda_attend_counts weir_cuda_attend_count(const weir_ragged *r) {
  const attend_plan *p = (const attend_plan *)r->plan;
  weir_cuda_attend_counts c = {.most_pieces = p->most_pieces};
  for (int i = 0; i < WEIR_ATTN_LISTS; i++) c.n_items[i] = p->n_items[i], c.n_merges[i] = p->n_merges[i];
  return c;
}

static weir_status check_plan(const weir_cuda *cu, const attend_plan *p, const weir_ragged *r,
                              int32_t n_heads, weir_kv_layer kv, weir_err *e) {
  if (!p) return weir_fail(e, WEIR_EINVAL, "attend: the batch has no plan (weir_op_attend_plan)");
  bool known = false;
  for (int32_t i = 0; i < WEIR_PLAN_SLOTS; i++) known |= p == cu->plan_host[i] && p->dev == cu->plan[i];
  if (!known)
    return weir_fail(e, WEIR_EINVAL, "attend: the batch's plan is not of this device, or not any more");
  if (p->n_tokens != r->n_tokens || p->n_heads != n_heads || p->n_kv_heads != kv.n_kv_heads ||
      p->head_dim != kv.head_dim || p->page_size != kv.page_size || p->dtype != kv.dtype)
    return weir_fail(
        e, WEIR_EINVAL,
        "attend: planned for %d rows of %d heads over [%d, %d, %d], got %d of %d over [%d, %d, %d]",
        p->n_tokens, p->n_heads, p->n_kv_heads, p->page_size, p->head_dim, r->n_tokens, n_heads,
        kv.n_kv_heads, kv.page_size, kv.head_dim);
  if (p->fast && ((uintptr_t)kv.base & 15) != 0)
    return weir_fail(e, WEIR_EINVAL, "attend: KV of this layer is less aligned than that of the plan");
  return WEIR_OK;
}

weir_status weir_cuda_attend(weir_dev *dev, weir_mat out, weir_mat q, const weir_ragged *r, weir_kv_layer kv,
                             const weir_attend_args *args, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  const attend_plan *p = (const attend_plan *)r->plan;
  const int32_t n_heads = q.cols / kv.head_dim;
  weir_status st = WEIR_OK;
  WEIR_TRY(check_plan(cu, p, r, n_heads, kv, e));
  const plan_layout y = layout_of(p->grid);
  weir_cuk_attend_args a = {.q = q.data,
                            .out = out.data,
                            .kv = kv.base,
                            .pos = r->pos,
                            .q_indptr = r->q_indptr,
                            .page_indptr = r->page_indptr,
                            .page = r->page,
                            .q_ld = q.ld,
                            .out_ld = out.ld,
                            .n_kv_heads = kv.n_kv_heads,
                            .group = n_heads / kv.n_kv_heads,
                            .page_size = kv.page_size,
                            .head_dim = kv.head_dim,
                            .scale = args->scale,
                            .softcap = args->softcap,
                            .window = args->window,
                            .f16 = kv.dtype == WEIR_F16};
  weir_cuk_attend_merge_args m = {.out = out.data,
                                  .q_indptr = r->q_indptr,
                                  .out_ld = out.ld,
                                  .group = a.group,
                                  .head_dim = a.head_dim,
                                  .n_ctas = 2 * cu->n_sms};
  float *at = (float *)cu->scratch;
  for (int32_t i = 0; i < WEIR_ATTN_LISTS; i++) {
    m.list[i] = (weir_attn_list){.cta = (const int32_t *)(p->dev + y.cta[i]),
                                 .item = (const weir_attn_item *)(p->dev + y.item),
                                 .n_merges = (const int32_t *)(p->dev + y.n_merges) + i,
                                 .merge = (const weir_attn_merge *)(p->dev + y.merge[i]),
                                 .n_ctas = p->grid[i]};
    const size_t rows = (size_t)weir_attn_max_slots(p->grid[i]) * (size_t)tile_rows[i];
    m.part[i].acc = at;
    m.part[i].ml = at += rows * (size_t)a.head_dim;
    at += rows * 2;
    m.tile_rows[i] = tile_rows[i];
  }
  if ((size_t)(at - (float *)cu->scratch) * sizeof(float) > cu->scratch_bytes)
    return weir_fail(e, WEIR_EINVAL, "attend: head_dim %d is beyond the limits reserved", kv.head_dim);
  if (cu->capturing || p->n_items[0] > 0) {
    a.list = m.list[0], a.part = m.part[0];
    if (p->fast)
      WEIR_TRY(weir_cuda_check(dev, weir_cuk_attend_decode(&a, cu->stream), "launch attend_decode", e));
    else
      WEIR_TRY(weir_cuda_check(dev, weir_cuk_attend_any(&a, cu->stream), "launch attend_any", e));
  }
  if (p->may_long && (cu->capturing || p->n_items[1] > 0)) {
    a.list = m.list[1], a.part = m.part[1];
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_attend_prefill(&a, cu->stream), "launch attend_prefill", e));
  }
  if (cu->capturing || p->n_merges[0] + p->n_merges[1] > 0)
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_attend_merge(&m, cu->stream), "launch attend_merge", e));
out:
  return st;
}
