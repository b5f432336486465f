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

enum {
  ROWS = WEIR_PACK_ROWS,
  QUADS = WEIR_PACK_QUADS,
  /* Bytes of a unit. */
  Q8_0_UNIT = WEIR_PACK_SCALES + 2 * 8 * QUADS,
  Q4_0_UNIT = WEIR_PACK_SCALES + 2 * 4 * QUADS,
  Q5_0_UNIT = WEIR_PACK_SCALES + 2 * 5 * QUADS,
  Q4_K_UNIT = WEIR_PACK_K_SCALES + 8 * 4 * QUADS,
  Q5_K_UNIT = WEIR_PACK_K_SCALES + 8 * 5 * QUADS,
  Q6_K_UNIT = WEIR_PACK_Q6_SCALES + 8 * 6 * QUADS
};

/* Quads q, of row `lane`: element 4q+i at q * QUADS + i. */
static uint8_t *lane_of(uint8_t *quads, int32_t lane) { return quads + (size_t)lane * 4; }

/* ---- stored rows into a group ---- */

static void pack_f32(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t k = 0; k < cols; k++)
    memcpy(group + ((size_t)k * ROWS + (size_t)lane) * 4, row + (size_t)k * 4, 4);
}

static void pack_16(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t k = 0; k < cols; k++)
    memcpy(group + ((size_t)k * ROWS + (size_t)lane) * 2, row + (size_t)k * 2, 2);
}

static void put_half(uint8_t *halves, int32_t lane, uint16_t h) { memcpy(halves + 2 * lane, &h, 2); }

/* Bits 0..3 of element k of a block into the nibbles at `at` (of a lane, zero before). */
static void put_nibble(uint8_t *at, int32_t k, int32_t bits) {
  at[k / 4 % 4 * QUADS + k % 4] |= (uint8_t)((bits & 15) << (k < WEIR_QK / 2 ? 0 : 4));
}

static void put_5bits(uint8_t *high, int32_t k, int32_t bits) {
  high[k % 4] |= (uint8_t)((bits >> 4 & 1) << k / 4);
  put_nibble(high + QUADS, k, bits);
}

static void put_6bits(uint8_t *high, int32_t k, int32_t bits) {
  high[k / 16 * QUADS + k % 4] |= (uint8_t)((bits >> 4 & 3) << k / 4 % 4 * 2);
  put_nibble(high + 2 * QUADS, k, bits);
}

static void pack_q8_0(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    weir_block_q8_0 in;
    memcpy(&in, row + (size_t)b * sizeof in, sizeof in);
    uint8_t *unit = group + (size_t)(b / 2) * Q8_0_UNIT;
    uint8_t *q = lane_of(unit + WEIR_PACK_SCALES + b % 2 * 8 * QUADS, lane);
    put_half(unit + b % 2 * ROWS * 2, lane, in.d);
    for (int32_t k = 0; k < WEIR_QK; k++) q[k / 4 * QUADS + k % 4] = (uint8_t)(in.q[k] + 128);
  }
}

static void pack_q4_0(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    weir_block_q4_0 in;
    memcpy(&in, row + (size_t)b * sizeof in, sizeof in);
    uint8_t *unit = group + (size_t)(b / 2) * Q4_0_UNIT;
    uint8_t *q = lane_of(unit + WEIR_PACK_SCALES + b % 2 * 4 * QUADS, lane);
    put_half(unit + b % 2 * ROWS * 2, lane, in.d);
    for (int32_t i = 0; i < WEIR_QK / 2; i++) q[i / 4 * QUADS + i % 4] = in.q[i]; /* the same two elements */
  }
}

static void pack_q5_0(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++) {
    weir_block_q5_0 in;
    memcpy(&in, row + (size_t)b * sizeof in, sizeof in);
    uint8_t *unit = group + (size_t)(b / 2) * Q5_0_UNIT;
    uint8_t *high = lane_of(unit + WEIR_PACK_SCALES + b % 2 * 5 * QUADS, lane);
    put_half(unit + b % 2 * ROWS * 2, lane, in.d);
    for (int32_t k = 0; k < WEIR_QK; k++) put_5bits(high, k, weir_q5_0_bits(&in, k));
  }
}

/* Scales and mins, the same in Q4_K and Q5_K. */
static void put_k_scales(uint8_t *unit, int32_t lane, uint16_t d, uint16_t dmin, const uint8_t scale[12]) {
  put_half(unit, lane, d);
  put_half(unit + ROWS * 2, lane, dmin);
  for (int32_t p = 0; p < WEIR_K_PARTS; p++)
    weir_k_scale(scale, p, &unit[WEIR_PACK_SCALES + p * ROWS + lane],
                 &unit[WEIR_PACK_SCALES + (WEIR_K_PARTS + p) * ROWS + lane]);
}

static void pack_q4_k(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    weir_block_q4_k in;
    memcpy(&in, row + (size_t)s * sizeof in, sizeof in);
    uint8_t *unit = group + (size_t)s * Q4_K_UNIT, *q = lane_of(unit + WEIR_PACK_K_SCALES, lane);
    put_k_scales(unit, lane, in.d, in.dmin, in.scale);
    for (int32_t k = 0; k < WEIR_QK_K; k++)
      put_nibble(q + k / WEIR_QK * 4 * QUADS, k % WEIR_QK, weir_q4_k_bits(&in, k));
  }
}

static void pack_q5_k(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    weir_block_q5_k in;
    memcpy(&in, row + (size_t)s * sizeof in, sizeof in);
    uint8_t *unit = group + (size_t)s * Q5_K_UNIT, *high = lane_of(unit + WEIR_PACK_K_SCALES, lane);
    put_k_scales(unit, lane, in.d, in.dmin, in.scale);
    for (int32_t k = 0; k < WEIR_QK_K; k++)
      put_5bits(high + k / WEIR_QK * 5 * QUADS, k % WEIR_QK, weir_q5_k_bits(&in, k));
  }
}

static void pack_q6_k(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    weir_block_q6_k in;
    memcpy(&in, row + (size_t)s * sizeof in, sizeof in);
    uint8_t *unit = group + (size_t)s * Q6_K_UNIT, *high = lane_of(unit + WEIR_PACK_Q6_SCALES, lane);
    put_half(unit, lane, in.d);
    for (int32_t p = 0; p < 16; p++) memcpy(unit + WEIR_PACK_Q6_SCALE + p * ROWS + lane, &in.scale[p], 1);
    for (int32_t k = 0; k < WEIR_QK_K; k++)
      put_6bits(high + k / WEIR_QK * 6 * QUADS, k % WEIR_QK, weir_q6_k_bits(&in, k));
  }
}

/* ---- rows out of a group ---- */

static float half_at(const uint8_t *halves, int32_t lane) {
  uint16_t h;
  memcpy(&h, halves + 2 * lane, sizeof h);
  return weir_f16_to_f32(h);
}

static int32_t get_nibble(const uint8_t *at, int32_t k) {
  return at[k / 4 % 4 * QUADS + k % 4] >> (k < WEIR_QK / 2 ? 0 : 4) & 15;
}

static int32_t get_5bits(const uint8_t *high, int32_t k) {
  return get_nibble(high + QUADS, k) | (high[k % 4] >> k / 4 & 1) << 4;
}

static int32_t get_6bits(const uint8_t *high, int32_t k) {
  return get_nibble(high + 2 * QUADS, k) | (high[k / 16 * QUADS + k % 4] >> k / 4 % 4 * 2 & 3) << 4;
}

static void get_f32(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) memcpy(dst + k, group + ((size_t)k * ROWS + (size_t)lane) * 4, 4);
}

static void get_f16(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) dst[k] = half_at(group + (size_t)k * ROWS * 2, lane);
}

static void get_bf16(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t k = 0; k < cols; k++) {
    uint16_t h;
    memcpy(&h, group + ((size_t)k * ROWS + (size_t)lane) * 2, sizeof h);
    dst[k] = weir_bf16_to_f32(h);
  }
}

static void get_q8_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++, dst += WEIR_QK) {
    const uint8_t *unit = group + (size_t)(b / 2) * Q8_0_UNIT;
    const uint8_t *q = unit + WEIR_PACK_SCALES + b % 2 * 8 * QUADS + lane * 4;
    const float d = half_at(unit + b % 2 * ROWS * 2, lane);
    for (int32_t k = 0; k < WEIR_QK; k++) dst[k] = d * (float)(q[k / 4 * QUADS + k % 4] - 128);
  }
}

static void get_q4_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++, dst += WEIR_QK) {
    const uint8_t *unit = group + (size_t)(b / 2) * Q4_0_UNIT;
    const uint8_t *q = unit + WEIR_PACK_SCALES + b % 2 * 4 * QUADS + lane * 4;
    const float d = half_at(unit + b % 2 * ROWS * 2, lane);
    for (int32_t k = 0; k < WEIR_QK; k++) dst[k] = d * (float)(get_nibble(q, k) - 8);
  }
}

static void get_q5_0(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t b = 0; b < cols / WEIR_QK; b++, dst += WEIR_QK) {
    const uint8_t *unit = group + (size_t)(b / 2) * Q5_0_UNIT;
    const uint8_t *high = unit + WEIR_PACK_SCALES + b % 2 * 5 * QUADS + lane * 4;
    const float d = half_at(unit + b % 2 * ROWS * 2, lane);
    for (int32_t k = 0; k < WEIR_QK; k++) dst[k] = d * (float)(get_5bits(high, k) - 16);
  }
}

/* Q4_K and Q5_K: `bits` reads element k of the block at `quads`, blocks are block_bytes apart. */
static void get_k(const uint8_t *unit, int32_t lane, int32_t block_bytes,
                  int32_t (*bits)(const uint8_t *at, int32_t k), float *dst) {
  const float d = half_at(unit, lane), dmin = half_at(unit + ROWS * 2, lane);
  const uint8_t *scale = unit + WEIR_PACK_SCALES + lane, *at = unit + WEIR_PACK_K_SCALES + lane * 4;
  for (int32_t p = 0; p < WEIR_K_PARTS; p++, at += block_bytes) {
    const float step = d * (float)scale[p * ROWS], low = dmin * (float)scale[(WEIR_K_PARTS + p) * ROWS];
    for (int32_t k = 0; k < WEIR_QK; k++) *dst++ = step * (float)bits(at, k) - low;
  }
}

static void get_q4_k(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++)
    get_k(group + (size_t)s * Q4_K_UNIT, lane, 4 * QUADS, get_nibble, dst + s * WEIR_QK_K);
}

static void get_q5_k(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++)
    get_k(group + (size_t)s * Q5_K_UNIT, lane, 5 * QUADS, get_5bits, dst + s * WEIR_QK_K);
}

static void get_q6_k(const uint8_t *group, int32_t lane, int32_t cols, float *dst) {
  for (int32_t s = 0; s < cols / WEIR_QK_K; s++) {
    const uint8_t *unit = group + (size_t)s * Q6_K_UNIT;
    const int8_t *scale = (const int8_t *)unit + WEIR_PACK_Q6_SCALE + lane;
    const uint8_t *high = unit + WEIR_PACK_Q6_SCALES + lane * 4;
    const float d = half_at(unit, lane);
    for (int32_t k = 0; k < WEIR_QK_K; k++)
      *dst++ = d * (float)scale[k / 16 * ROWS] *
               (float)(get_6bits(high + k / WEIR_QK * 6 * QUADS, k % WEIR_QK) - 32);
  }
}

/* ---- by type ---- */

static const struct {
  weir_pack_form form;
  void (*pack)(const uint8_t *row, int32_t cols, int32_t lane, uint8_t *group); /* group: zero before */
  void (*get)(const uint8_t *group, int32_t lane, int32_t cols, float *dst);
} types[WEIR_DTYPE_COUNT] = {
    [WEIR_F32] = {{1, ROWS * 4}, pack_f32, get_f32},
    [WEIR_F16] = {{1, ROWS * 2}, pack_16, get_f16},
    [WEIR_BF16] = {{1, ROWS * 2}, pack_16, get_bf16},
    [WEIR_Q8_0] = {{2 * WEIR_QK, Q8_0_UNIT}, pack_q8_0, get_q8_0},
    [WEIR_Q4_0] = {{2 * WEIR_QK, Q4_0_UNIT}, pack_q4_0, get_q4_0},
    [WEIR_Q5_0] = {{2 * WEIR_QK, Q5_0_UNIT}, pack_q5_0, get_q5_0},
    [WEIR_Q4_K] = {{WEIR_QK_K, Q4_K_UNIT}, pack_q4_k, get_q4_k},
    [WEIR_Q5_K] = {{WEIR_QK_K, Q5_K_UNIT}, pack_q5_k, get_q5_k},
    [WEIR_Q6_K] = {{WEIR_QK_K, Q6_K_UNIT}, pack_q6_k, get_q6_k},
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

static void pack_groups(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  (void)rank;
  const pack_job *j = ctx;
  const int32_t g0 = j->first / ROWS; /* parts start a group: merged ones are whole groups but for the last */
  for (int32_t g = begin; g < end; g++) {
    uint8_t *group = j->seg->data + (size_t)(g0 + g) * j->seg->group_bytes;
    memset(group, 0, j->seg->group_bytes);
    for (int32_t lane = 0; lane < ROWS && g * ROWS + lane < j->part->rows; lane++) {
      const uint8_t *row = (const uint8_t *)j->part->data + (size_t)(g * ROWS + lane) * j->row_bytes;
      types[j->seg->dtype].pack(row, j->part->cols, lane, group);
    }
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

void weir_pack_get_row(const weir_pack *p, int32_t row, float *dst) {
  const weir_pack_seg *seg = p->seg;
  while (row >= seg->row + seg->rows) seg++;
  const int32_t r = row - seg->row, lane = r % ROWS;
  const uint8_t *group = seg->data + (size_t)(r / ROWS) * seg->group_bytes;
  types[seg->dtype].get(group, lane, p->cols, dst);
}
