/* SPDX-License-Identifier: Apache-2.0 */
/* How the linear is cut, for its quantised part (linear_quant.c) and its float part (linear_float.c): which
 * groups of W a thread has, and the way of a tile's lanes into y. */
#ifndef WEIR_KERNELS_CPU_LINEAR_CUT_H
#define WEIR_KERNELS_CPU_LINEAR_CUT_H
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/linear.h"

enum {
  WEIR_LINEAR_PANELS = 1 << 20, /* bytes of x at a time: half a second-level cache of today's servers */
  WEIR_LINEAR_CHUNK_MIN = 64,   /* rows; with fewer, weights would be read again too often */
  WEIR_LINEAR_CHUNK_MAX = 512,
  WEIR_LINEAR_ALONE = 1 << 16,     /* multiply-adds below which a fork costs more than it saves */
  WEIR_LINEAR_LAY_ALONE = 1 << 13, /* elements of x below which the caller lays them out itself */
  WEIR_LINEAR_FETCH = 1 << 20      /* bytes; weights of less live in the cache anyway */
};

/* One call of the linear, or a chunk of its rows. */
typedef struct weir_linear_call {
  weir_dev *dev;
  weir_mat y, x;
  const weir_pack *w;
  const float *bias;
} weir_linear_call;

/* The two parts, over the segments of their kind; `scratch` is theirs. */
void weir_linear_quant(const weir_linear_call *, void *scratch);
void weir_linear_float(const weir_linear_call *, void *scratch);
/* Bytes of that scratch; SIZE_MAX: overflow. */
size_t weir_linear_quant_scratch(const weir_dev_limits *, int32_t n_threads);
size_t weir_linear_float_scratch(const weir_dev_limits *, int32_t n_threads);

static inline const float *weir_linear_x(const weir_linear_call *c, int32_t i) {
  return c->x.data + (size_t)i * (size_t)c->x.ld;
}

/* Rows [first, first + n) of the call. */
static inline weir_linear_call weir_linear_rows(const weir_linear_call *c, int32_t first, int32_t n) {
  weir_linear_call r = *c;
  r.x.data += (size_t)first * (size_t)c->x.ld;
  r.y.data += (size_t)first * (size_t)c->y.ld;
  r.x.rows = r.y.rows = n;
  return r;
}

/* Bytes of panels of a chunk of the least height, or of WEIR_LINEAR_PANELS; `row` bytes each. */
static inline size_t weir_linear_region(size_t row) {
  const size_t least = row * WEIR_LINEAR_CHUNK_MIN;
  return ((least > WEIR_LINEAR_PANELS ? least : WEIR_LINEAR_PANELS) + 63) / 64 * 64;
}

/* Rows of a chunk whose panels take `row` bytes each. */
static inline int32_t weir_linear_chunk(size_t row) {
  const size_t n = WEIR_LINEAR_PANELS / row;
  const int32_t whole =
      n > WEIR_LINEAR_CHUNK_MAX ? WEIR_LINEAR_CHUNK_MAX : (int32_t)n / WEIR_WIDE_M * WEIR_WIDE_M;
  return whole < WEIR_LINEAR_CHUNK_MIN ? WEIR_LINEAR_CHUNK_MIN : whole;
}

/* acc[n_rows][n_groups * 16], the lanes of a tile that begins at group `group` of the segment, into y from
 * row `row` on; padding lanes stay out. */
static inline void weir_linear_store(const weir_linear_call *c, const weir_pack_seg *seg, const float *acc,
                                     int32_t n_groups, int32_t row, int32_t n_rows, int32_t group) {
  const int32_t in_seg = group * WEIR_PACK_ROWS, width = n_groups * WEIR_PACK_ROWS;
  const int32_t n = seg->rows - in_seg < width ? seg->rows - in_seg : width;
  const int32_t col = seg->row + in_seg;
  for (int32_t i = 0; i < n_rows; i++, acc += width) {
    float *y = c->y.data + (size_t)(row + i) * (size_t)c->y.ld + col;
    if (c->bias) {
      for (int32_t k = 0; k < n; k++) y[k] = acc[k] + c->bias[col + k];
    } else {
      memcpy(y, acc, (size_t)n * sizeof *y);
    }
  }
}

/* What of segment s a thread works on: groups [*begin, *end), none for segments of the other kind. Shares are
 * cut by bytes, for at decode they are what takes time; a share is a run of groups, perhaps over a seam. */
void weir_linear_share(const weir_pack *, int32_t s, bool quant, int32_t rank, int32_t n_threads,
                       int32_t *begin, int32_t *end);

#endif
