/* SPDX-License-Identifier: Apache-2.0 */
/* Repacking of stored matrices at load, and rows out of the packed form (pack.h has the layout, pack_quant.c
 * what is special to quantised types). The caller's thread, with the team for the copying. */
#include "kernels/cpu/pack.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blocks.h"
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/pack_quant.h"
#include "kernels/quant.h"

enum { ROWS = WEIR_PACK_ROWS };

/* ---- stored rows into a group ---- */

static void pack_f32(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t k = 0; k < cols; k++)
    memcpy(group + ((size_t)k * ROWS + (size_t)lane) * 4, row + (size_t)k * 4, 4);
}

static void pack_16(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  int32_t k = 0;
  for (; k + 1 < cols; k += 2) memcpy(group + weir_pack_at16(k, lane), row + (size_t)k * 2, 4);
  if (k < cols) memcpy(group + weir_pack_at16(k, lane), row + (size_t)k * 2, 2);
}

/* ---- rows out of a group ---- */

static void get_f32(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) memcpy(dst + k, group + ((size_t)k * ROWS + (size_t)lane) * 4, 4);
}

static void get_f16(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) {
    uint16_t h;
    memcpy(&h, group + weir_pack_at16(k, lane), sizeof h);
    dst[k] = weir_f16_to_f32(h);
  }
}

static void get_bf16(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) {
    uint16_t h;
    memcpy(&h, group + weir_pack_at16(k, lane), sizeof h);
    dst[k] = weir_bf16_to_f32(h);
  }
}

/* ---- by type ---- */

static const struct {
  weir_pack_form form;
  /* Of types that are not quantised; the others' are in pack_quant.c. */
  void (*pack)(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group); /* group: zero before */
  weir_pack_get_fn get;
} types[WEIR_DTYPE_COUNT] = {
    [WEIR_F32] = {{1, ROWS * 4}, pack_f32, get_f32},
    [WEIR_F16] = {{WEIR_PACK_K16, WEIR_PACK_UNIT16}, pack_16, get_f16},
    [WEIR_BF16] = {{WEIR_PACK_K16, WEIR_PACK_UNIT16}, pack_16, get_bf16},
    [WEIR_Q8_0] = {{2 * WEIR_QK, WEIR_PACK_Q8_0_UNIT}, NULL, NULL},
    [WEIR_Q4_0] = {{2 * WEIR_QK, WEIR_PACK_Q4_0_UNIT}, NULL, NULL},
    [WEIR_Q5_0] = {{2 * WEIR_QK, WEIR_PACK_Q5_0_UNIT}, NULL, NULL},
    [WEIR_Q4_K] = {{WEIR_QK_K, WEIR_PACK_Q4_K_UNIT}, NULL, NULL},
    [WEIR_Q5_K] = {{WEIR_QK_K, WEIR_PACK_Q5_K_UNIT}, NULL, NULL},
    [WEIR_Q6_K] = {{WEIR_QK_K, WEIR_PACK_Q6_K_UNIT}, NULL, NULL},
};

weir_pack_form weir_pack_form_of(weir_dtype t) { return types[t].form; }

/* Bytes of a group of 16 rows; cols is positive and fits, so only the product with the groups can be large.
 */
static size_t group_bytes(weir_dtype t, int32_t cols) {
  const weir_pack_form f = types[t].form;
  return ((size_t)weir_pack_units(f, cols) * (size_t)f.bytes + 63) / 64 * 64;
}

/* ---- a weight ---- */

/* One part being copied into its segment: rows of the weight [row, row + part->rows). */
typedef struct pack_job {
  const weir_host_mat *part;
  const weir_pack_seg *seg;
  size_t row_bytes;
  int32_t first; /* the part's first row within the segment */
} pack_job;

static void pack_group(const pack_job *j, const weir_pack_rows *rows, uint8_t *group) {
  const weir_pack_group_fn quant = weir_pack_quant_group(j->seg->dtype);
  if (quant) {
    quant(rows, j->part->cols, group);
    return;
  }
  enum { STEP = 32 }; /* of each row in turn, so that what is written stays in the nearest cache */
  const weir_pack_form f = types[j->seg->dtype].form;
  const size_t elem_bytes = (size_t)weir_dtype_get(j->seg->dtype)->block_bytes;
  const int32_t cols = j->part->cols;
  static_assert(STEP % WEIR_PACK_K16 == 0, "whole units");
  memset(group, 0, j->seg->group_bytes);
  for (int32_t k = 0; k < cols; k += STEP)
    for (int32_t lane = 0; lane < rows->n; lane++)
      types[j->seg->dtype].pack(rows->data + (size_t)lane * rows->row_bytes + (size_t)k * elem_bytes,
                                cols - k < STEP ? cols - k : STEP, lane,
                                group + (size_t)(k / f.elems) * (size_t)f.bytes);
}

static void pack_groups(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  (void)rank;
  const pack_job *j = ctx;
  const int32_t g0 = j->first / ROWS; /* parts start a group: merged ones are whole groups but for the last */
  for (int32_t g = begin; g < end; g++) {
    const int32_t left = j->part->rows - g * ROWS;
    const weir_pack_rows rows = {(const uint8_t *)j->part->data + (size_t)g * ROWS * j->row_bytes,
                                 j->row_bytes, left < ROWS ? left : ROWS, left >= 2 * ROWS};
    pack_group(j, &rows, j->seg->data + (size_t)(g0 + g) * j->seg->group_bytes);
  }
}

/* Fills the segments' shapes; *bytes <- what they hold together. */
static weir_status plan(weir_pack *p, const weir_host_mat *part, int32_t n_parts, weir_err *e) {
  int32_t row = 0;
  for (int32_t i = 0; i < n_parts; i++) {
    weir_pack_seg *last = p->n_segs ? &p->seg[p->n_segs - 1] : NULL;
    if (last && last->dtype == part[i].dtype && last->rows % ROWS == 0) {
      last->rows += part[i].rows;
    } else {
      p->seg[p->n_segs++] = (weir_pack_seg){.dtype = part[i].dtype, .row = row, .rows = part[i].rows};
    }
    row += part[i].rows;
    if (weir_dtype_is_quant(part[i].dtype))
      p->has_quant = true;
    else
      p->has_float = true;
  }
  for (int32_t s = 0; s < p->n_segs; s++) {
    weir_pack_seg *seg = &p->seg[s];
    seg->n_groups = (int32_t)(((int64_t)seg->rows + ROWS - 1) / ROWS);
    seg->group_bytes = group_bytes(seg->dtype, p->cols);
    size_t bytes;
    if (!weir_mul_size(seg->group_bytes, (size_t)seg->n_groups, &bytes) ||
        !weir_add_size(p->bytes, bytes, &p->bytes))
      return weir_fail(e, WEIR_ENOMEM, "a weight of %d x %d overflows", row, p->cols);
  }
  return WEIR_OK;
}

weir_status weir_cpu_weight_prepare(weir_dev *dev, const weir_host_mat *part, int32_t n_parts,
                                    weir_weight *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_pack *p = NULL;
  WEIR_TRY(weir_calloc(1, sizeof *p + (size_t)n_parts * sizeof p->seg[0], "packed weight", (void **)&p, e));
  p->cols = part[0].cols;
  WEIR_TRY(plan(p, part, n_parts, e));
  WEIR_TRY(weir_cpu_memory_alloc(dev, p->bytes, (void **)&p->data, e));
  size_t at = 0;
  for (int32_t s = 0; s < p->n_segs; s++) {
    p->seg[s].data = p->data + at;
    at += p->seg[s].group_bytes * (size_t)p->seg[s].n_groups;
  }

  int32_t row = 0, s = 0;
  for (int32_t i = 0; i < n_parts; i++) {
    while (row >= p->seg[s].row + p->seg[s].rows) s++;
    pack_job j = {.part = &part[i], .seg = &p->seg[s], .first = row - p->seg[s].row};
    WEIR_TRY(weir_dtype_row_bytes(part[i].dtype, part[i].cols, &j.row_bytes, e));
    weir_cpu_for(dev, (part[i].rows + ROWS - 1) / ROWS, 1, pack_groups, &j);
    row += part[i].rows;
  }
  *out = (weir_weight){.dev = dev, .rows = row, .cols = p->cols, .bytes = p->bytes, .impl = p};
  p = NULL;

out:
  if (p) weir_cpu_memory_free(dev, p->data);
  free(p);
  return st;
}

void weir_cpu_weight_release(weir_dev *dev, weir_weight *w) {
  weir_pack *p = w->impl;
  if (p) weir_cpu_memory_free(dev, p->data);
  free(p);
}

void weir_pack_get_row(const weir_pack *p, int32_t row, float *dst) {
  const weir_pack_seg *seg = p->seg;
  while (row >= seg->row + seg->rows) seg++;
  const int32_t r = row - seg->row, lane = r % ROWS;
  const uint8_t *group = seg->data + (size_t)(r / ROWS) * seg->group_bytes;
  const weir_pack_get_fn get =
      types[seg->dtype].get ? types[seg->dtype].get : weir_pack_quant_get(seg->dtype);
  get(group, lane, p->cols, dst);
}
