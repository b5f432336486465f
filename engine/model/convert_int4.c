/* SPDX-License-Identifier: Apache-2.0 */
/* Four-bit integer matrices with scales by group of inputs, in the three published packings. Owns nothing;
 * any thread. A matrix has `rows` outputs and `cols` inputs; eight codes stand in a 32-bit word.
 *
 *   GPTQ    qweight [cols/8, rows], low nibble first; qzeros [groups, rows/8], in version 1 less one modulo
 * 16; scales [groups, rows]; g_idx [cols] the group of an input (Frantar et al., arXiv 2210.17323; layout of
 * AutoGPTQ's qlinear) AWQ     qweight [cols, rows/8], qzeros [groups, rows/8], the nibbles of a word from the
 * lowest up belong to rows 0 2 4 6 1 3 5 7; scales [groups, rows] (Lin et al., arXiv 2306.00978; AutoAWQ's
 * GEMM) packed weight_packed [rows, cols/8], low nibble first; weight_scale [rows, groups]; zero point 8
 *           (compressed-tensors, pack-quantized)
 *
 * An element is (code - zero) * scale in each. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/quant.h"
#include "model/convert.h"

enum { TILE_ROWS = 8, TILE_COLS = WEIR_QK, ZERO = 8 };

/* Where in a word AWQ keeps row r of eight. */
static const uint8_t awq_nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static bool is_gptq(weir_quant_method m) { return m == WEIR_QUANT_GPTQ || m == WEIR_QUANT_GPTQ_V2; }
static int64_t n_groups(const weir_convert *c) { return (c->cols + c->scale_cols - 1) / c->scale_cols; }

/* ---- elements ---- */

static float scale_at(const weir_convert *c, int64_t group, int64_t row) {
  return weir_convert_scale(
      c->scale, c->method == WEIR_QUANT_PACKED ? row * n_groups(c) + group : group * c->rows + row);
}

static uint16_t half_at(const weir_convert *c, int64_t group, int64_t row) {
  return weir_f32_to_f16(scale_at(c, group, row)); /* exact: the plan has looked */
}

static int32_t zero_at(const weir_convert *c, int64_t group, int64_t row) {
  if (!c->zero) return ZERO;
  const bool packed = c->method == WEIR_QUANT_PACKED;
  const uint32_t word =
      weir_convert_word(c->zero, packed ? row / 8 * n_groups(c) + group : group * (c->rows / 8) + row / 8);
  const int32_t nibble = c->method == WEIR_QUANT_AWQ ? awq_nibble[row % 8] : (int32_t)(row % 8);
  /* GPTQ: 15 stands for -1 + 1 */
  return (int32_t)((word >> 4 * nibble) + (c->method == WEIR_QUANT_GPTQ)) & 15;
}

static int64_t group_of(const weir_convert *c, int64_t col) {
  return c->g_idx ? (int64_t)weir_convert_word(c->g_idx, col) : col / c->scale_cols;
}

static void put_nibbles(uint32_t word, uint8_t code[8]) {
  for (int k = 0; k < 8; k++) code[k] = (uint8_t)(word >> 4 * k & 15);
}

/* Codes of up to eight rows from r0 (a multiple of 8) and 32 inputs from i0 (a multiple of 32). Whole words:
 * behind the last input stand some that are not looked at. */
static void read_tile(const weir_convert *c, int64_t r0, int64_t n_rows, int64_t i0, int64_t n_cols,
                      uint8_t code[TILE_ROWS][TILE_COLS]) {
  const int64_t n_words = (n_cols + 7) / 8, per_row = (c->cols + 7) / 8;
  if (c->method == WEIR_QUANT_AWQ) {
    for (int64_t i = 0; i < n_cols; i++) {
      const uint32_t word = weir_convert_word(c->weight, (i0 + i) * (c->rows / 8) + r0 / 8);
      for (int r = 0; r < TILE_ROWS; r++) code[r][i] = (uint8_t)(word >> 4 * awq_nibble[r] & 15);
    }
  } else if (c->method == WEIR_QUANT_PACKED) {
    for (int64_t r = 0; r < n_rows; r++)
      for (int64_t k = 0; k < n_words; k++)
        put_nibbles(weir_convert_word(c->weight, (r0 + r) * per_row + i0 / 8 + k), code[r] + 8 * k);
  } else {
    for (int64_t k = 0; k < n_words; k++)
      for (int64_t r = 0; r < n_rows; r++)
        put_nibbles(weir_convert_word(c->weight, (i0 / 8 + k) * c->rows + r0 + r), code[r] + 8 * k);
  }
}

/* ---- plan ---- */

static weir_status want_shape(const weir_st_tensor *t, const char *what, weir_st_dtype dtype, int32_t n_dims,
                              int64_t d0, int64_t d1, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (!t) return weir_fail(e, WEIR_EFORMAT, "%s is missing", what);
  if (t->dtype != dtype || t->n_dims != n_dims || t->dim[0] != d0 || (n_dims == 2 && t->dim[1] != d1))
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor %s: %s in %" PRId32 " dimensions of [%" PRId64 ", %" PRId64
                     "], want %s [%" PRId64 "%s%.0" PRId64 "]",
                     weir_str_show(t->name, shown), weir_st_dtype_name(t->dtype), t->n_dims, t->dim[0],
                     t->dim[1], weir_st_dtype_name(dtype), d0, n_dims == 2 ? ", " : "", n_dims == 2 ? d1 : 0);
  return WEIR_OK;
}

/* Rows and columns, from the packed codes. */
static weir_status read_size(const weir_st_tensor *const p[WEIR_HF_PARAM_COUNT], weir_convert *c,
                             weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const weir_st_tensor *w = c->weight, *shape = p[WEIR_HF_SHAPE];
  if (w->n_dims != 2 || w->dtype != WEIR_ST_I32 || w->bytes == 0)
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: want a matrix of I32", weir_str_show(w->name, shown));
  /* bytes = 4 * dim[0] * dim[1] fit a size_t and each is at least 1, so 8 * dim fits an int64 */
  c->cols = is_gptq(c->method) ? w->dim[0] * 8 : w->dim[0];
  c->rows = c->method == WEIR_QUANT_AWQ ? w->dim[1] * 8 : w->dim[1];
  if (c->method != WEIR_QUANT_PACKED) {
    if (c->rows % 8 != 0)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: %" PRId64 " rows are no multiple of 8",
                       weir_str_show(w->name, shown), c->rows);
    return WEIR_OK;
  }
  c->rows = w->dim[0];
  c->cols = w->dim[1] * 8;
  if (!shape) return WEIR_OK;
  const weir_status st = want_shape(shape, "weight_shape", WEIR_ST_I64, 1, 2, 0, e);
  if (st != WEIR_OK) return st;
  int64_t said[2];
  memcpy(said, shape->data, sizeof said);
  if (said[0] != c->rows || said[1] < c->cols - 7 || said[1] > c->cols || said[1] < 1)
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor %s: [%" PRId64 ", %" PRId64 "] are not [%" PRId64 ", %" PRId64
                     "] in words of eight",
                     weir_str_show(shape->name, shown), said[0], said[1], w->dim[0], w->dim[1]);
  c->cols = said[1];
  return WEIR_OK;
}

static weir_status read_groups(const weir_quant_conf *q, weir_convert *c, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const weir_st_tensor *s = c->scale;
  const bool packed = c->method == WEIR_QUANT_PACKED;
  if (!s) return weir_fail(e, WEIR_EFORMAT, "tensor %s: no scales", weir_str_show(c->weight->name, shown));
  if (!weir_convert_is_scale(s))
    return weir_fail(e, WEIR_EUNSUP, "tensor %s: scales of %s are not supported",
                     weir_str_show(s->name, shown), weir_st_dtype_name(s->dtype));
  const int64_t groups = s->dim[packed ? 1 : 0];
  c->scale_rows = 1;
  c->scale_cols = q->group_size && q->group_size < c->cols ? q->group_size : c->cols;
  if (packed && groups > 0 && groups <= c->cols && c->cols % groups == 0) c->scale_cols = c->cols / groups;
  if (s->n_dims != 2 || s->dim[packed ? 0 : 1] != c->rows || groups != n_groups(c))
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor %s: [%" PRId64 ", %" PRId64 "] scales do not fit [%" PRId64 ", %" PRId64
                     "] in groups of %" PRId64,
                     weir_str_show(s->name, shown), s->dim[0], s->dim[1], c->rows, c->cols, c->scale_cols);
  return WEIR_OK;
}

/* Groups in the order of the inputs need no table. */
static weir_status read_order(weir_convert *c, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  bool in_order = true;
  if (!c->g_idx) return WEIR_OK;
  const weir_status st = want_shape(c->g_idx, "g_idx", WEIR_ST_I32, 1, c->cols, 0, e);
  if (st != WEIR_OK) return st;
  for (int64_t i = 0; i < c->cols; i++) {
    const uint32_t g = weir_convert_word(c->g_idx, i);
    if ((int64_t)g >= n_groups(c))
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: group %" PRId32 " of %" PRId64,
                       weir_str_show(c->g_idx->name, shown), (int32_t)g, n_groups(c));
    in_order = in_order && (int64_t)g == i / c->scale_cols;
  }
  if (in_order) c->g_idx = NULL;
  return WEIR_OK;
}

static bool is_symmetric(const weir_convert *c) {
  const int64_t n = n_groups(c);
  if (!c->zero) return true;
  for (int64_t g = 0; g < n; g++)
    for (int64_t r = 0; r < c->rows; r++)
      if (zero_at(c, g, r) != ZERO) return false;
  return true;
}

static weir_status choose_dtype(weir_convert *c, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  bool halves = true;
  const int64_t n = n_groups(c) * c->rows;
  for (int64_t i = 0; i < n; i++) {
    const float s = weir_convert_scale(c->scale, i);
    if (!isfinite(s))
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: scale %" PRId64 " is not finite",
                       weir_str_show(c->scale->name, shown), i);
    if (c->scale->dtype != WEIR_ST_F16) halves = halves && weir_f16_to_f32(weir_f32_to_f16(s)) == s;
  }
  const bool blocks = !c->g_idx && c->cols % WEIR_QK == 0 && c->scale_cols % WEIR_QK == 0;
  c->dtype = !halves || !blocks ? WEIR_F32 : is_symmetric(c) ? WEIR_Q4_0 : WEIR_Q8_0;
  return WEIR_OK;
}

/* Older symmetric exports of compressed-tensors store zero points all the same, as bytes of zero. */
static bool is_no_zero_point(const weir_st_tensor *t) {
  if (t->dtype != WEIR_ST_I8) return false;
  for (size_t i = 0; i < t->bytes; i++)
    if (t->data[i]) return false;
  return true;
}

weir_status weir_convert_int4_plan(const weir_quant_conf *q,
                                   const weir_st_tensor *const p[WEIR_HF_PARAM_COUNT], weir_convert *out,
                                   weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  const bool packed = q->method == WEIR_QUANT_PACKED;
  weir_convert c = {.method = q->method,
                    .weight = p[packed ? WEIR_HF_PACKED : WEIR_HF_QWEIGHT],
                    .scale = p[packed ? WEIR_HF_SCALE : WEIR_HF_SCALES],
                    .zero = p[packed ? WEIR_HF_ZERO_POINT : WEIR_HF_QZEROS],
                    .g_idx = p[packed ? WEIR_HF_WEIGHT_G_IDX : WEIR_HF_G_IDX]};
  if (packed && c.zero && is_no_zero_point(c.zero)) c.zero = NULL;
  WEIR_TRY(read_size(p, &c, e));
  WEIR_TRY(read_groups(q, &c, e));
  if (!packed && !c.zero)
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: no qzeros", weir_str_show(c.weight->name, shown));
  if (packed && c.zero)
    WEIR_TRY(want_shape(c.zero, "weight_zero_point", WEIR_ST_I32, 2, (c.rows + 7) / 8, n_groups(&c), e));
  if (!packed) WEIR_TRY(want_shape(c.zero, "qzeros", WEIR_ST_I32, 2, n_groups(&c), c.rows / 8, e));
  WEIR_TRY(read_order(&c, e));
  WEIR_TRY(choose_dtype(&c, e));
  *out = c;
out:
  return st;
}

/* ---- run ---- */

/* Where an element of the part goes. */
static int64_t place_of(const weir_convert_part *p, int64_t row, int64_t i) {
  return (row - p->row) * p->n_cols + i - p->col;
}

/* A tile of these is a row of blocks, all of group g. */
static void put_q4_0(const weir_convert *c, int64_t g, int64_t row, const uint8_t code[TILE_COLS],
                     weir_block_q4_0 *b) {
  b->d = half_at(c, g, row);
  for (int i = 0; i < WEIR_QK / 2; i++) b->q[i] = (uint8_t)(code[i] | code[i + WEIR_QK / 2] << 4);
}

static void put_q8_0(const weir_convert *c, int64_t g, int64_t row, const uint8_t code[TILE_COLS],
                     weir_block_q8_0 *b) {
  const int32_t zero = zero_at(c, g, row);
  b->d = half_at(c, g, row);
  for (int i = 0; i < WEIR_QK; i++) b->q[i] = (int8_t)(code[i] - zero); /* -15..15 */
}

/* A tile: codes of rows from r0 and inputs from i0, of which [row, row + n_rows) and [col, col + n_cols) are
 * the part's. */
typedef struct tile {
  int64_t r0, i0, row, n_rows, col, n_cols;
  uint8_t code[TILE_ROWS][TILE_COLS];
} tile;

/* Input by input: its group is found once for all rows. */
static void put_f32(const weir_convert *c, const weir_convert_part *p, tile *t, float *dst) {
  for (int64_t i = t->col; i < t->col + t->n_cols; i++) {
    const int64_t g = group_of(c, i);
    for (int64_t r = t->row; r < t->row + t->n_rows; r++)
      dst[place_of(p, r, i)] = (float)(t->code[r - t->r0][i - t->i0] - zero_at(c, g, r)) * scale_at(c, g, r);
  }
}

static void put_tile(const weir_convert *c, const weir_convert_part *p, tile *t, void *dst) {
  const int64_t g = t->i0 / c->scale_cols;
  if (c->dtype == WEIR_F32) {
    put_f32(c, p, t, dst);
    return;
  }
  for (int64_t r = t->row; r < t->row + t->n_rows; r++) {
    const int64_t block = place_of(p, r, t->i0) / WEIR_QK;
    if (c->dtype == WEIR_Q4_0)
      put_q4_0(c, g, r, t->code[r - t->r0], (weir_block_q4_0 *)dst + block);
    else
      put_q8_0(c, g, r, t->code[r - t->r0], (weir_block_q8_0 *)dst + block);
  }
}

/* What [from, from + n) and [tile, tile + size) have in common begins at *at. */
static int64_t overlap(int64_t from, int64_t n, int64_t at_tile, int64_t size, int64_t *at) {
  const int64_t end = from + n < at_tile + size ? from + n : at_tile + size;
  *at = from > at_tile ? from : at_tile;
  return end - *at;
}

void weir_convert_int4_run(const weir_convert *c, weir_convert_part p, void *dst) {
  tile t;
  for (t.r0 = p.row / TILE_ROWS * TILE_ROWS; t.r0 < p.row + p.n_rows; t.r0 += TILE_ROWS)
    for (t.i0 = p.col / TILE_COLS * TILE_COLS; t.i0 < p.col + p.n_cols; t.i0 += TILE_COLS) {
      const int64_t rows = c->rows - t.r0 < TILE_ROWS ? c->rows - t.r0 : TILE_ROWS,
                    cols = c->cols - t.i0 < TILE_COLS ? c->cols - t.i0 : TILE_COLS;
      t.n_rows = overlap(p.row, p.n_rows, t.r0, TILE_ROWS, &t.row);
      t.n_cols = overlap(p.col, p.n_cols, t.i0, TILE_COLS, &t.col);
      read_tile(c, t.r0, rows, t.i0, cols, t.code);
      put_tile(c, &p, &t, dst);
    }
}
