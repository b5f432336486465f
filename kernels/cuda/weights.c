/* SPDX-License-Identifier: Apache-2.0 */
/* Weights in GPU memory: parts of one stored type that follow each other become one segment, all segments lie
 * in one allocation. Plain types are uploaded as they are; quantised rows go up as stored, in pieces through
 * a bounded stretch of device memory, and are packed there (repack.cu). Everything is enqueued in order on
 * the device's stream, so one stretch serves all pieces; it is released once they are through. The thread
 * that owns the device. */
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/repack_kernels.h"

enum { PLANE_ALIGN = 256 };
static const size_t staging_most = (size_t)32 << 20;

/* Where a plane of count * bytes lies behind what is laid out so far. */
static bool plane(size_t *end, size_t count, size_t bytes, size_t *at) {
  size_t n;
  *at = *end;
  if (!weir_mul_size(count, bytes, &n) || n > SIZE_MAX - PLANE_ALIGN - *end) return false;
  *end = (*end + n + PLANE_ALIGN - 1) / PLANE_ALIGN * PLANE_ALIGN;
  return true;
}

/* Bytes a lane has of a tile, low (or byte) plane and high plane, and of scales 16 rows have of a tile. Super
 * blocks are whole: n_ktiles is a multiple of four, so a quarter of theirs is a tile's. */
static const struct {
  uint8_t low, high;
  uint8_t scale;
} per_tile[WEIR_DTYPE_COUNT] = {
    [WEIR_Q8_0] = {32, 0, 64},
    [WEIR_Q4_0] = {16, 0, 64},
    [WEIR_Q5_0] = {16, 4, 64},
    [WEIR_Q4_K] = {16, 0, 16 * sizeof(weir_pack_k4) / 4},
    [WEIR_Q5_K] = {16, 4, 16 * sizeof(weir_pack_k4) / 4},
    [WEIR_Q6_K] = {16, 8, sizeof(weir_pack_k6) / 4},
};

/* Offsets of a segment's planes; end grows by them. */
typedef struct layout {
  size_t low, high, scale;
} layout;

static weir_status lay_out(const weir_segment *s, size_t *end, layout *at, weir_err *e) {
  bool fits;
  *at = (layout){0};
  if (weir_dtype_is_quant(s->dtype)) {
    size_t tiles;
    fits = weir_mul_size((size_t)s->n_rtiles, (size_t)s->n_ktiles, &tiles) &&
           plane(end, tiles, (size_t)per_tile[s->dtype].low * 32, &at->low) &&
           plane(end, tiles, (size_t)per_tile[s->dtype].high * 32, &at->high) &&
           plane(end, tiles, per_tile[s->dtype].scale, &at->scale);
  } else {
    size_t row_bytes;
    const weir_status st = weir_dtype_row_bytes(s->dtype, s->cols, &row_bytes, e);
    if (st != WEIR_OK) return st;
    fits = plane(end, (size_t)s->rows, row_bytes, &at->low);
  }
  return fits ? WEIR_OK
              : weir_fail(e, WEIR_ENOMEM, "prepare weight: [%d, %d] is more than memory holds", s->rows,
                          s->cols);
}

/* Rows of a segment, from one part after the other. */
typedef struct cursor {
  const weir_host_mat *part;
  int32_t row; /* next one of *part */
} cursor;

/* Uploads the next `rows` stored rows to dst. */
static weir_status upload_rows(weir_dev *dev, cursor *from, int32_t rows, size_t row_bytes, uint8_t *dst,
                               weir_err *e) {
  while (rows > 0) {
    const int32_t left = from->part->rows - from->row, n = rows < left ? rows : left;
    const size_t bytes = (size_t)n * row_bytes; /* both lie in memory, here and there */
    const uint8_t *src = (const uint8_t *)from->part->data + (size_t)from->row * row_bytes;
    const weir_status st = weir_cuda_upload(dev, dst, src, bytes, e);
    if (st != WEIR_OK) return st;
    dst += bytes;
    rows -= n;
    from->row += n;
    if (from->row == from->part->rows) *from = (cursor){from->part + 1, 0};
  }
  return WEIR_OK;
}

/* Rows of a piece: whole tiles, what staging holds, one tile at least. */
static weir_status piece_of(const weir_segment *s, size_t row_bytes, int32_t *rows, size_t *bytes,
                            weir_err *e) {
  const size_t fit = staging_most / row_bytes / WEIR_PACK_ROWS * WEIR_PACK_ROWS;
  const size_t want = fit ? fit : WEIR_PACK_ROWS;
  *rows = want < (size_t)s->rows ? (int32_t)want : s->rows;
  if (weir_mul_size((size_t)*rows, row_bytes, bytes)) return WEIR_OK;
  return weir_fail(e, WEIR_ENOMEM, "prepare weight: rows of %zu bytes", row_bytes);
}

static weir_status fill(weir_dev *dev, const weir_segment *s, cursor from, void *staging, weir_err *e) {
  size_t row_bytes, bytes;
  int32_t piece;
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_dtype_row_bytes(s->dtype, s->cols, &row_bytes, e));
  if (!weir_dtype_is_quant(s->dtype)) return upload_rows(dev, &from, s->rows, row_bytes, s->low, e);
  WEIR_TRY(piece_of(s, row_bytes, &piece, &bytes, e));
  for (int32_t at = 0, n; at < s->rows; at += n) {
    n = s->rows - at < piece ? s->rows - at : piece;
    WEIR_TRY(upload_rows(dev, &from, n, row_bytes, staging, e));
    const weir_cuk_repack_args a = {
        .w = *s, .raw = staging, .row_bytes = (int64_t)row_bytes, .first = at, .rows = n};
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_repack(&a, weir_cuda_of(dev)->stream), "launch repack", e));
  }
out:
  return st;
}

/* Segments by runs of equal type; planes are offsets from NULL no longer once memory is there. */
static int32_t cut(const weir_host_mat *part, int32_t n_parts, weir_segment *segment, cursor *from) {
  int32_t n = 0, row = 0;
  for (int32_t i = 0; i < n_parts; row += part[i++].rows) {
    if (i == 0 || part[i].dtype != part[i - 1].dtype) {
      from[n] = (cursor){&part[i], 0};
      segment[n++] = (weir_segment){.dtype = part[i].dtype, .first = row, .cols = part[i].cols};
    }
    segment[n - 1].rows += part[i].rows;
  }
  for (int32_t i = 0; i < n; i++) {
    segment[i].n_rtiles = (int32_t)(((int64_t)segment[i].rows + WEIR_PACK_ROWS - 1) / WEIR_PACK_ROWS);
    segment[i].n_ktiles = (int32_t)(((int64_t)segment[i].cols + WEIR_PACK_COLS - 1) / WEIR_PACK_COLS);
  }
  return n;
}

static void place(weir_segment *s, layout at, uint8_t *memory) {
  s->low = memory + at.low;
  if (!weir_dtype_is_quant(s->dtype)) return;
  if (per_tile[s->dtype].high) s->high = memory + at.high;
  s->scale = memory + at.scale;
}

weir_status weir_cuda_weight_prepare(weir_dev *dev, const weir_host_mat *part, int32_t n_parts,
                                     weir_weight *out, weir_err *e) {
  weir_status st = WEIR_OK;
  void *staging = NULL;
  size_t end = 0, staging_bytes = 0;
  weir_cuda_weight *w = calloc(1, sizeof *w);
  cursor *from = calloc((size_t)n_parts, sizeof *from);
  layout *at = calloc((size_t)n_parts, sizeof *at);
  if (w) w->segment = calloc((size_t)n_parts, sizeof *w->segment);
  if (!w || !w->segment || !from || !at) {
    st = weir_fail(e, WEIR_ENOMEM, "prepare weight: %d parts", n_parts);
    goto out;
  }
  w->n_segments = cut(part, n_parts, w->segment, from);
  for (int32_t i = 0; i < w->n_segments; i++) {
    const weir_segment *s = &w->segment[i];
    size_t row_bytes, bytes = 0;
    int32_t rows;
    WEIR_TRY(lay_out(s, &end, &at[i], e));
    if (!weir_dtype_is_quant(s->dtype)) continue;
    WEIR_TRY(weir_dtype_row_bytes(s->dtype, s->cols, &row_bytes, e));
    WEIR_TRY(piece_of(s, row_bytes, &rows, &bytes, e));
    staging_bytes = bytes > staging_bytes ? bytes : staging_bytes;
  }
  WEIR_TRY(weir_dev_alloc(dev, end, &w->memory, e));
  if (staging_bytes) WEIR_TRY(weir_dev_alloc(dev, staging_bytes, &staging, e));
  for (int32_t i = 0; i < w->n_segments; i++) {
    place(&w->segment[i], at[i], w->memory);
    WEIR_TRY(fill(dev, &w->segment[i], from[i], staging, e));
  }
  if (staging) WEIR_TRY(weir_dev_sync(dev, e)); /* it is in use until then */
  *out = (weir_weight){.dev = dev, .cols = part[0].cols, .bytes = end, .impl = w};
  for (int32_t i = 0; i < n_parts; i++) out->rows += part[i].rows;
  w = NULL;
out:
  weir_dev_release(dev, staging);
  if (w) {
    weir_dev_release(dev, w->memory);
    free(w->segment);
    free(w);
  }
  free(at);
  free(from);
  return st;
}

void weir_cuda_weight_release(weir_dev *dev, weir_weight *weight) {
  weir_cuda_weight *w = weight->impl;
  if (!w) return;
  weir_dev_release(dev, w->memory);
  free(w->segment);
  free(w);
}
