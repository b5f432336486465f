/* SPDX-License-Identifier: Apache-2.0 */
/* y = x W^T + bias: the segments of quantised types and those of floats, one kind after the other (most
 * weights have one kind). The caller's thread and the team. */
#include <stdint.h>

#include "base/mem.h"
#include "kernels/cpu/linear_cut.h"

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
  const size_t share = all / (size_t)n_threads + 1, from = share * (size_t)rank;
  *begin = group_at(&w->seg[s], before, from);
  *end = group_at(&w->seg[s], before, from + share);
}

weir_status weir_cpu_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *weight,
                            const float *bias, weir_err *e) {
  (void)e;
  const weir_linear_call c = {.dev = dev, .y = y, .x = x, .w = weir_pack_of(weight), .bias = bias};
  if (c.w->has_quant) weir_linear_quant(&c, weir_cpu_of(dev)->scratch);
  if (c.w->has_float) weir_linear_float(&c, weir_cpu_of(dev)->scratch);
  return WEIR_OK;
}
