/* SPDX-License-Identifier: Apache-2.0 */
/* y = x W^T + bias: the segments of quantised types and those of floats, one kind after the other (most
 * weights have one kind). The caller's thread and the team. */
#include <stdint.h>

#include "base/mem.h"
#include "kernels/cpu/linear_cut.h"

enum {
  AHEAD_BYTES = 1 << 17, /* smaller weights are in the caches, or read before it would help */
  AHEAD_ROWS = 4,        /* with more, arithmetic takes the time and not the reading */
  AHEAD_SHARE = 5        /* of what was fetched ahead, one part in so many is taken off the caller */
};

size_t weir_cpu_linear_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  if (lim->max_cols > INT32_MAX - 64) return SIZE_MAX;
  const size_t q = weir_linear_quant_scratch(lim, n_threads), f = weir_linear_float_scratch(lim, n_threads);
  return q > f ? q : f;
}

/* The first group of a segment that begins at or after byte `at` of those of its kind, of which `before` lie
 * in earlier segments. */
static int32_t group_at(const weir_pack_seg *seg, size_t before, size_t at) {
  if (at <= before) return 0;
  const size_t g = (at - before + seg->group_bytes - 1) / seg->group_bytes;
  return g > (size_t)seg->n_groups ? seg->n_groups : (int32_t)g;
}

/* Where the part of `rank` begins: equal shares, but that rank 0's is shorter by the lead, which the others
 * divide among them. */
static size_t seam(const weir_pack *w, size_t share, int32_t rank, int32_t n_threads) {
  const size_t even = share * (size_t)rank;
  if (rank == 0 || n_threads == 1) return even;
  const size_t lead = w->lead < share ? w->lead : share;
  return even - lead * (size_t)(n_threads - rank) / (size_t)(n_threads - 1);
}

void weir_linear_share(const weir_pack *w, int32_t s, bool quant, int32_t rank, int32_t n_threads,
                       int32_t *begin, int32_t *end) {
  size_t all = 0, before = 0;
  *begin = *end = 0;
  if (weir_dtype_is_quant(w->seg[s].dtype) != quant) return;
  for (int32_t i = 0; i < w->n_segs; i++) {
    const weir_pack_seg *seg = &w->seg[i];
    if (weir_dtype_is_quant(seg->dtype) != quant) continue;
    if (i < s) before += seg->group_bytes * (size_t)seg->n_groups;
    all += seg->group_bytes * (size_t)seg->n_groups;
  }
  const size_t share = all / (size_t)n_threads + 1;
  *begin = group_at(&w->seg[s], before, seam(w, share, rank, n_threads));
  *end = group_at(&w->seg[s], before, seam(w, share, rank + 1, n_threads));
}

static weir_cpu_follow *follow_of(weir_cpu *cpu, const void *data) {
  return &cpu->follow[((uintptr_t)data / 64 * 2654435761u) >> 8 & (WEIR_CPU_FOLLOWS - 1)];
}

/* Weights are read in the same order step after step. While the caller does what lies between two linears,
 * workers fetch the weights of the second; then the caller gets less of them to do. */
static void look_ahead(weir_cpu *cpu, weir_pack *w, int32_t rows) {
  const weir_cpu_follow *f = follow_of(cpu, w->data);
  const void *next = NULL;
  size_t bytes = 0;
  if (cpu->last)
    *follow_of(cpu, cpu->last) =
        (weir_cpu_follow){.data = cpu->last, .next = w->data, .next_bytes = w->bytes};
  cpu->last = w->data;
  w->lead = 0;
  if (rows <= AHEAD_ROWS) {
    w->lead = weir_pool_fetched(cpu->pool, w->data) / AHEAD_SHARE;
    if (f->data == w->data && f->next != w->data) next = f->next, bytes = f->next_bytes;
  }
  weir_pool_fetch_ahead(cpu->pool, next, bytes);
}

weir_status weir_cpu_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *weight,
                            const float *bias, weir_err *e) {
  (void)e;
  if (weir_cpu_of(dev)->n_threads > 1 && weir_pack_of(weight)->bytes >= AHEAD_BYTES)
    look_ahead(weir_cpu_of(dev), (weir_pack *)weight->impl, x.rows);
  const weir_linear_call c = {.dev = dev, .y = y, .x = x, .w = weir_pack_of(weight), .bias = bias};
  if (c.w->has_quant) weir_linear_quant(&c, weir_cpu_of(dev)->scratch);
  if (c.w->has_float) weir_linear_float(&c, weir_cpu_of(dev)->scratch);
  return WEIR_OK;
}
