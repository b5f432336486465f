/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's walk over dense tiles (F16 and BF16 weights on machines with AMX): lays x out in panels,
 * shares the groups of W among the team, and walks tiles. Arithmetic is in linear_amx_dense.c, its rules are
 * in linear_dense.h. The caller's thread and the team.
 *
 * Up to 32 rows are one pass: W goes by once, from memory, and the lines of a few kilobytes on are asked for
 * meanwhile. With more rows, x is cut into chunks, and those along k into parts, so that the panels of a part
 * stay in the second-level cache while W passes in pairs of groups; each pair stays for all strips of x, and
 * the tiles bring in the next one. Sums wait in y from one part to the next. */
#include "kernels/cpu/linear_dense.h"

#include <stdint.h>
#include <string.h>

#include "kernels/cpu/linear_cut.h"

enum {
  LANES = WEIR_PACK_ROWS,
  K = WEIR_PACK_K16,
  LINE = 64,
  ROW_BLOCK = WEIR_DENSE_PLANES * LINE, /* bytes of a block of a row of x */
  PANELS = 5 << 18,                     /* ... of panels: of the second-level cache of 2 MiB, what W leaves */
  PASS_ROWS = 2 * WEIR_DENSE_ROWS,      /* rows that are done in one pass */
  PART = 32,                            /* blocks of a part, at most, with more rows */
  CHUNK = 512,                          /* rows of a chunk, at most */
  NEAR = 4096,                          /* bytes that W is asked for ahead in one pass */
  RING = 4                              /* blocks of parts of F16 weights that are kept in one pass */
};

typedef struct dense_job {
  weir_linear_call c; /* of this chunk */
  const weir_dense_isa *isa;
  uint8_t *panel;
  uint8_t *parts; /* [n_threads][PART][WEIR_DENSE_PARTS] */
  int32_t n_strips, rows;
  int32_t n_blocks;     /* of all k */
  int32_t first, depth; /* blocks of this part */
} dense_job;

size_t weir_linear_dense_scratch(int32_t n_threads) {
  return PANELS + (size_t)n_threads * PART * WEIR_DENSE_PARTS;
}

static bool is_dense(const weir_pack_seg *seg) { return seg->dtype == WEIR_F16 || seg->dtype == WEIR_BF16; }

static int32_t over(int32_t a, int32_t b) { return (a + b - 1) / b; }

static size_t strip_bytes(const dense_job *j) { return (size_t)j->depth * (size_t)j->rows * ROW_BLOCK; }

/* Rows of a chunk and blocks of a part. */
static void cut(int32_t n_rows, int32_t n_blocks, int32_t *chunk, int32_t *depth) {
  if (n_rows <= PASS_ROWS) {
    const int32_t most =
        PANELS / ROW_BLOCK / (n_rows + n_rows % 2); /* two strips of an odd number: one more */
    *chunk = n_rows;
    *depth = over(n_blocks, over(n_blocks, most));
    return;
  }
  *depth = over(n_blocks, over(n_blocks, PART));
  const int32_t fit = PANELS / ROW_BLOCK / *depth / PASS_ROWS * PASS_ROWS, most = fit < CHUNK ? fit : CHUNK;
  *chunk = over(over(n_rows, over(n_rows, most)), PASS_ROWS) * PASS_ROWS;
}

/* ---- x ---- */

/* Row r of the panels, which have n_strips * rows of them. */
static void lay_row(const dense_job *j, int32_t r) {
  uint8_t *out = j->panel + (size_t)(r / j->rows) * strip_bytes(j) + (size_t)(r % j->rows) * LINE;
  const int32_t left = j->c.x.cols - j->first * K, n = left < j->depth * K ? left : j->depth * K;
  if (r < j->c.x.rows) {
    j->isa->lay(weir_linear_x(&j->c, r) + (size_t)j->first * K, n, out, j->rows * LINE);
    return;
  }
  for (int32_t i = 0; i < j->depth * WEIR_DENSE_PLANES; i++, out += (size_t)j->rows * LINE)
    memset(out, 0, LINE);
}

static void lay_rank(void *ctx, int32_t rank, int32_t n_threads) {
  const dense_job *j = ctx;
  int32_t from, to;
  weir_cpu_part(j->n_strips * j->rows, rank, n_threads, &from, &to);
  for (int32_t r = from; r < to; r++) lay_row(j, r);
}

/* ---- W ---- */

/* acc[n_rows][n_groups * 16] <- the sums that wait in y; zeros for rows and lanes that are none. */
static void sums_from_y(const weir_linear_call *c, const weir_pack_seg *seg, float *acc, int32_t n_groups,
                        int32_t row, int32_t n_rows, int32_t group) {
  const int32_t in_seg = group * LANES, width = n_groups * LANES;
  const int32_t n = seg->rows - in_seg < width ? seg->rows - in_seg : width;
  memset(acc, 0, (size_t)n_rows * (size_t)width * sizeof *acc);
  for (int32_t i = row; i < row + n_rows && i < c->y.rows; i++, acc += width)
    memcpy(acc, c->y.data + (size_t)i * (size_t)c->y.ld + seg->row + in_seg, (size_t)n * sizeof *acc);
}

static void run_groups(const dense_job *j, const weir_pack_seg *seg, int32_t g0, int32_t g1, uint8_t *parts) {
  _Alignas(64) float acc[2 * WEIR_DENSE_ROWS * WEIR_DENSE_GROUPS * LANES];
  const int32_t n_pairs = over(j->n_strips, 2);
  const bool fetch = j->c.w->bytes >= WEIR_LINEAR_FETCH, last = j->first + j->depth == j->n_blocks;
  const uint8_t *const end = seg->data + (size_t)g1 * seg->group_bytes;
  weir_linear_call c = j->c;
  if (!last) c.bias = NULL;
  weir_dense_tile t = {.group_bytes = seg->group_bytes,
                       .parts = parts,
                       .parts_mask = n_pairs == 1 ? RING - 1 : INT32_MAX,
                       .resume = j->first > 0,
                       .strip_bytes = strip_bytes(j),
                       .rows = j->rows,
                       .depth = j->depth,
                       .acc = acc};
  for (int32_t g = g0; g < g1; g += t.n_groups) {
    t.n_groups = g1 - g < WEIR_DENSE_GROUPS ? g1 - g : WEIR_DENSE_GROUPS;
    t.w = seg->data + (size_t)g * seg->group_bytes + (size_t)j->first * WEIR_PACK_UNIT16;
    const uint8_t *next = t.w + (size_t)t.n_groups * t.group_bytes;
    for (int32_t p = 0; p < n_pairs; p++) {
      const int32_t row = 2 * p * j->rows, lines = j->depth * (WEIR_PACK_UNIT16 / LINE);
      t.n_strips = j->n_strips - 2 * p < 2 ? j->n_strips - 2 * p : 2;
      t.panel = j->panel + (size_t)p * 2 * t.strip_bytes;
      t.split = p == 0;
      t.ahead_groups = t.n_groups;
      t.ahead_lines = 0;
      if (fetch && n_pairs == 1) {
        t.ahead = t.w + NEAR;
        if (t.ahead < end) t.ahead_lines = (int32_t)((size_t)(end - t.ahead) / LINE);
        if (t.ahead_lines > lines) t.ahead_lines = lines;
      } else if (fetch && next < end) {
        int32_t from, to;
        weir_cpu_part(lines, p, n_pairs, &from, &to);
        t.ahead = next + (size_t)from * LINE;
        t.ahead_lines = to - from;
        if (g1 - g - t.n_groups < t.ahead_groups) t.ahead_groups = 1;
      }
      /* Whole tiles add up in y itself. */
      const int32_t padded = t.n_strips * j->rows, n_rows = c.y.rows - row < padded ? c.y.rows - row : padded;
      const bool inside = n_rows == padded && (g + t.n_groups) * LANES <= seg->rows && !c.bias;
      float *y = c.y.data + (size_t)row * (size_t)c.y.ld + seg->row + (size_t)g * LANES;
      t.acc = inside ? y : acc;
      t.acc_ld = inside ? c.y.ld : t.n_groups * LANES;
      t.touch_rows = 0;
      if (inside && p + 1 < n_pairs) {
        t.touch = y + (size_t)padded * (size_t)c.y.ld;
        t.touch_rows = c.y.rows - row - padded < padded ? c.y.rows - row - padded : padded;
      } else if (inside && n_pairs > 1 && next < end) {
        t.touch = c.y.data + seg->row + (size_t)(g + t.n_groups) * LANES;
        t.touch_rows = 2 * j->rows;
      }
      if (t.resume && !inside) sums_from_y(&c, seg, acc, t.n_groups, row, padded, g);
      j->isa->run(seg->dtype, &t);
      if (!inside) weir_linear_store(&c, seg, acc, t.n_groups, row, n_rows, g);
    }
  }
}

static void run_rank(void *ctx, int32_t rank, int32_t n_threads) {
  const dense_job *j = ctx;
  uint8_t *parts = j->parts + (size_t)rank * PART * WEIR_DENSE_PARTS;
  bool begun = false;
  for (int32_t s = 0; s < j->c.w->n_segs; s++) {
    const weir_pack_seg *seg = &j->c.w->seg[s];
    int32_t g0, g1;
    if (!is_dense(seg)) continue;
    weir_linear_share(j->c.w, s, false, rank, n_threads, &g0, &g1);
    if (g0 == g1) continue;
    if (!begun) j->isa->begin(j->rows);
    begun = true;
    run_groups(j, seg, g0, g1, parts);
  }
  if (begun) j->isa->end();
}

static void run_part(dense_job *j) {
  const weir_cpu *cpu = weir_cpu_of(j->c.dev);
  const int64_t elems = (int64_t)j->c.x.rows * j->depth * K;
  const bool alone = cpu->n_threads == 1 || elems * j->c.y.cols < WEIR_LINEAR_ALONE;
  if (alone || elems < WEIR_LINEAR_LAY_ALONE || j->c.x.rows < cpu->n_threads)
    lay_rank(j, 0, 1);
  else
    weir_pool_run(cpu->pool, lay_rank, j);
  if (alone)
    run_rank(j, 0, 1);
  else
    weir_pool_run(cpu->pool, run_rank, j);
}

void weir_linear_dense_call(const weir_linear_call *c, void *scratch) {
  dense_job j = {.isa = &weir_linear_amx_dense, .panel = scratch, .n_blocks = over(c->w->cols, K)};
  int32_t chunk, depth;
  j.parts = j.panel + PANELS;
  cut(c->x.rows, j.n_blocks, &chunk, &depth);
  for (int32_t i = 0; i < c->x.rows; i += chunk) {
    j.c = weir_linear_rows(c, i, c->x.rows - i < chunk ? c->x.rows - i : chunk);
    j.n_strips = over(j.c.x.rows, WEIR_DENSE_ROWS);
    j.rows = over(j.c.x.rows, j.n_strips);
    for (j.first = 0; j.first < j.n_blocks; j.first += j.depth) {
      j.depth = j.n_blocks - j.first < depth ? j.n_blocks - j.first : depth;
      run_part(&j);
    }
  }
}
