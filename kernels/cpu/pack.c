/* SPDX-License-Identifier: Apache-2.0 */
/* Repacking of stored matrices at load, and rows out of the packed form (pack.h has the layout). The caller's
 * thread, with the team for the copying. */
#include "kernels/cpu/pack.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/blocks.h"
#include "kernels/cpu/cpu_dev.h"
#include "kernels/quant.h"

enum { ROWS = WEIR_PACK_ROWS };

/* Bytes of a group of 16 rows; cols is positive and fits, so only the product can be large. */
static size_t group_bytes(weir_dtype t, int32_t cols) {
  switch (t) {
    case WEIR_F32: return (size_t)cols * ROWS * 4;
    case WEIR_F16:
    case WEIR_BF16: return ((size_t)cols * ROWS * 2 + 63) / 64 * 64;
    case WEIR_Q8_0: return (size_t)weir_pack_pairs(cols) * WEIR_PACK_Q8_PAIR;
    case WEIR_Q4_0: return (size_t)weir_pack_pairs(cols) * WEIR_PACK_Q4_PAIR;
    default: break;
  }
  return 0;
}

static void pack_f32(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t k = 0; k < cols; k++)
    memcpy(group + ((size_t)k * ROWS + (size_t)lane) * 4, row + (size_t)k * 4, 4);
}

static void pack_16(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t k = 0; k < cols; k++)
    memcpy(group + ((size_t)k * ROWS + (size_t)lane) * 2, row + (size_t)k * 2, 2);
}

static void pack_q8_0(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    weir_block_q8_0 in;
    memcpy(&in, row + (size_t)b * sizeof in, sizeof in);
    uint8_t *pair = group + (size_t)(b / 2) * WEIR_PACK_Q8_PAIR;
    uint8_t *q = pair + WEIR_PACK_SCALES + (size_t)(b % 2) * WEIR_QK * ROWS + (size_t)lane * 4;
    memcpy(pair + ((size_t)(b % 2) * ROWS + (size_t)lane) * 2, &in.d, 2);
    for (int32_t i = 0; i < WEIR_QK; i++) q[i / 4 * 64 + i % 4] = (uint8_t)(in.q[i] + WEIR_PACK_Q8_ZERO);
  }
}

static void pack_q4_0(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    weir_block_q4_0 in;
    memcpy(&in, row + (size_t)b * sizeof in, sizeof in);
    uint8_t *pair = group + (size_t)(b / 2) * WEIR_PACK_Q4_PAIR;
    uint8_t *q = pair + WEIR_PACK_SCALES + (size_t)(b % 2) * WEIR_QK / 2 * ROWS + (size_t)lane * 4;
    memcpy(pair + ((size_t)(b % 2) * ROWS + (size_t)lane) * 2, &in.d, 2);
    for (int32_t i = 0; i < WEIR_QK / 2; i++) q[i / 4 * 64 + i % 4] = in.q[i];
  }
}

static void pack_row(weir_dtype t, const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  switch (t) {
    case WEIR_F32: pack_f32(row, cols, lane, group); break;
    case WEIR_F16:
    case WEIR_BF16: pack_16(row, cols, lane, group); break;
    case WEIR_Q8_0: pack_q8_0(row, cols, lane, group); break;
    case WEIR_Q4_0: pack_q4_0(row, cols, lane, group); break;
    default: break;
  }
}

/* One part being copied into its segment: rows of the weight [row, row + part->rows). */
typedef struct pack_job {
  const weir_host_mat *part;
  const weir_pack_seg *seg;
  size_t row_bytes;
  int32_t first; /* the part's first row within the segment */
} pack_job;

static void pack_groups(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  (void)rank;
  const pack_job *j = ctx;
  const int32_t g0 = j->first / ROWS; /* parts start a group: merged ones are whole groups but for the last */
  for (int32_t g = begin; g < end; g++) {
    uint8_t *group = j->seg->data + (size_t)(g0 + g) * j->seg->group_bytes;
    memset(group, 0, j->seg->group_bytes);
    for (int32_t lane = 0; lane < ROWS && g * ROWS + lane < j->part->rows; lane++) {
      const uint8_t *row = (const uint8_t *)j->part->data + (size_t)(g * ROWS + lane) * j->row_bytes;
      pack_row(j->seg->dtype, row, j->part->cols, lane, group);
    }
  }
}

/* Fills the segments' shapes; *bytes <- what they hold together. */
static weir_status plan(weir_pack *p, const weir_host_mat *part, int32_t n_parts, weir_err *e) {
  int32_t row = 0;
  for (int32_t i = 0; i < n_parts; i++) {
    if (group_bytes(part[i].dtype, p->cols) == 0)
      return weir_fail(e, WEIR_EUNSUP, "the CPU does not compute with %s weights",
                       weir_dtype_get(part[i].dtype)->name);
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
  WEIR_TRY(weir_cpu_big_alloc(p->bytes, (void **)&p->data, e));
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
  if (p) free(p->data);
  free(p);
  return st;
}

void weir_cpu_weight_release(weir_dev *dev, weir_weight *w) {
  (void)dev;
  weir_pack *p = w->impl;
  if (p) free(p->data);
  free(p);
}

static float half_at(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  return weir_f16_to_f32(h);
}

static void get_f32(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) memcpy(dst + k, group + ((size_t)k * ROWS + (size_t)lane) * 4, 4);
}

static void get_16(weir_dtype t, const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) {
    uint16_t h;
    memcpy(&h, group + ((size_t)k * ROWS + (size_t)lane) * 2, sizeof h);
    dst[k] = t == WEIR_F16 ? weir_f16_to_f32(h) : weir_bf16_to_f32(h);
  }
}

static void get_q8_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    const uint8_t *pair = group + (size_t)(b / 2) * WEIR_PACK_Q8_PAIR;
    const uint8_t *q = pair + WEIR_PACK_SCALES + (size_t)(b % 2) * WEIR_QK * ROWS + (size_t)lane * 4;
    const float d = half_at(pair + ((size_t)(b % 2) * ROWS + (size_t)lane) * 2);
    for (int32_t i = 0; i < WEIR_QK; i++)
      dst[b * WEIR_QK + i] = d * (float)(q[i / 4 * 64 + i % 4] - WEIR_PACK_Q8_ZERO);
  }
}

static void get_q4_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    const uint8_t *pair = group + (size_t)(b / 2) * WEIR_PACK_Q4_PAIR;
    const uint8_t *q = pair + WEIR_PACK_SCALES + (size_t)(b % 2) * WEIR_QK / 2 * ROWS + (size_t)lane * 4;
    const float d = half_at(pair + ((size_t)(b % 2) * ROWS + (size_t)lane) * 2);
    for (int32_t i = 0; i < WEIR_QK / 2; i++) {
      const int32_t byte = q[i / 4 * 64 + i % 4];
      dst[b * WEIR_QK + i] = d * (float)((byte & 15) - WEIR_PACK_Q4_ZERO);
      dst[b * WEIR_QK + WEIR_QK / 2 + i] = d * (float)((byte >> 4) - WEIR_PACK_Q4_ZERO);
    }
  }
}

void weir_pack_get_row(const weir_pack *p, int32_t row, float *dst) {
  const weir_pack_seg *seg = p->seg;
  while (row >= seg->row + seg->rows) seg++;
  const int32_t r = row - seg->row, lane = r % ROWS;
  const uint8_t *group = seg->data + (size_t)(r / ROWS) * seg->group_bytes;
  switch (seg->dtype) {
    case WEIR_F32: get_f32(group, lane, p->cols, dst); break;
    case WEIR_F16:
    case WEIR_BF16: get_16(seg->dtype, group, lane, p->cols, dst); break;
    case WEIR_Q8_0: get_q8_0(group, lane, p->cols, dst); break;
    case WEIR_Q4_0: get_q4_0(group, lane, p->cols, dst); break;
    default: break;
  }
}
