/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's quantised part: lays x out in panels, shares the groups of W among the team, and walks tiles.
 * Arithmetic is in the instruction set's file (linear.h has the rules). The caller's thread and the team.
 *
 * Order of loops: a few groups of W (a quarter of a megabyte at most at usual widths) stay in the
 * second-level cache while all tiles of x pass; x is cut into chunks whose panels stay there too. */
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/linear_cut.h"

enum {
  LANES = WEIR_PACK_ROWS,
  WIDE_ROWS = 32, /* rows of x from which expanding weights pays ... */
  WIDE_COLS = 512 /* ... where rows are long: at 256 it cost a tenth, at 768 it gained as much */
};

typedef struct quant_job {
  weir_linear_call c; /* of this chunk */
  const weir_linear_isa *isa;
  weir_panel_form form;
  uint8_t *panel;
  const weir_linear_wide *wide; /* NULL: narrow tiles */
  uint8_t *expanded;            /* [n_threads][expanded_bytes] */
  int32_t n_tiles;
} quant_job;

/* The fields that weights of a type look for in a panel. */
static const struct {
  int32_t n;
  weir_field first;
} fields_of[WEIR_DTYPE_COUNT] = {
    [WEIR_Q8_0] = {1, WEIR_FIELD_ZERO128}, [WEIR_Q4_0] = {1, WEIR_FIELD_ZERO8},
    [WEIR_Q5_0] = {1, WEIR_FIELD_ZERO16},  [WEIR_Q4_K] = {1, WEIR_FIELD_SUM},
    [WEIR_Q5_K] = {1, WEIR_FIELD_SUM},     [WEIR_Q6_K] = {2, WEIR_FIELD_LOW32},
};

static weir_panel_form panel_form(const weir_pack *w) {
  bool used[WEIR_FIELD_COUNT] = {false};
  for (int32_t s = 0; s < w->n_segs; s++)
    for (int32_t n = 0; n < fields_of[w->seg[s].dtype].n; n++)
      used[fields_of[w->seg[s].dtype].first + (unsigned)n] = true;
  weir_panel_form f = {.row_bytes = 32 + 4};
  for (int32_t n = 0; n < WEIR_FIELD_COUNT; n++)
    if (used[n]) f.field[f.n_fields++] = (weir_field)n;
  f.row_bytes += 4 * f.n_fields;
  return f;
}

/* Bytes of one row of a panel; blocks go in pairs, as the weights of the types with blocks of 32 do. */
static size_t qrow_bytes(int32_t cols, int32_t row_bytes) {
  return (size_t)(((int64_t)cols + 63) / 64 * 2) * (size_t)row_bytes;
}

/* Of one thread: a wide tile's groups. */
static size_t expanded_bytes(int32_t cols) { return qrow_bytes(cols, 1) * WEIR_WIDE_BLOCK * WEIR_TILE_G; }

static size_t panel_region(int32_t cols) { return weir_linear_region(qrow_bytes(cols, WEIR_PANEL_ROW_MAX)); }

size_t weir_linear_quant_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  return panel_region(lim->max_cols) + expanded_bytes(lim->max_cols) * (size_t)n_threads;
}

/* Rows [*begin, *begin + m) of the chunk are tile t: narrow ones are alike, wide ones full but for the last.
 */
static int32_t tile_rows(const quant_job *j, int32_t t, int32_t *begin) {
  int32_t end;
  if (j->wide) {
    *begin = t * WEIR_WIDE_M;
    return j->c.x.rows - *begin < WEIR_WIDE_M ? j->c.x.rows - *begin : WEIR_WIDE_M;
  }
  weir_cpu_part(j->c.x.rows, t, j->n_tiles, begin, &end);
  return end - *begin;
}

static uint8_t *panel_of(const quant_job *j, int32_t begin) {
  return j->panel + (size_t)begin * qrow_bytes(j->c.w->cols, j->form.row_bytes);
}

/* Rows that the panel of a tile of m has room for: wide tiles take 16 at a time. */
static int32_t panel_rows(int32_t m, bool wide) { return wide ? (m + 15) / 16 * 16 : m; }

static void make_panel(const quant_job *j, int32_t begin, int32_t m) {
  const int32_t cols = j->c.w->cols, blocks = cols / 32, room = panel_rows(m, j->wide != NULL);
  uint8_t *panel = panel_of(j, begin);
  if (room > m) memset(panel, 0, (size_t)room * qrow_bytes(cols, j->form.row_bytes));
  for (int32_t i = 0; i < m; i++)
    j->isa->quantize_row(weir_linear_x(&j->c, begin + i), blocks, &j->form, panel, room, i);
  if (blocks % 2 != 0)
    memset(weir_panel_block(&j->form, panel, room, blocks), 0, (size_t)room * (size_t)j->form.row_bytes);
}

/* The part of `rank` of n_parts. */
static void make_panels(const quant_job *j, int32_t rank, int32_t n_parts) {
  int32_t first, last, begin;
  weir_cpu_part(j->n_tiles, rank, n_parts, &first, &last);
  for (int32_t t = first; t < last; t++) {
    const int32_t m = tile_rows(j, t, &begin);
    make_panel(j, begin, m);
  }
}

static void run_groups(const quant_job *j, const weir_pack_seg *seg, int32_t g0, int32_t g1,
                       uint8_t *expanded) {
  _Alignas(64) float acc[WEIR_WIDE_M * WEIR_TILE_G * LANES];
  const weir_linear_wide *wide = j->wide;
  const int32_t cols = j->c.w->cols, units = weir_pack_units(weir_pack_form_of(seg->dtype), cols);
  const size_t wide_bytes = qrow_bytes(cols, 1) * WEIR_WIDE_BLOCK;
  weir_tile t = {.group_bytes = wide ? wide_bytes : seg->group_bytes, .acc = acc};
  t.depth = wide ? (int32_t)(wide_bytes / WEIR_WIDE_BLOCK) : units;
  int32_t slot = 0; /* of the type's first field */
  while (j->form.field[slot] != fields_of[seg->dtype].first) slot++;
  const int32_t most = wide || j->n_tiles > 1 ? j->isa->groups_many : j->isa->groups_one;
  const bool fetch = j->c.w->bytes >= WEIR_LINEAR_FETCH;
  if (wide && g0 < g1) wide->begin(seg->dtype);
  for (int32_t g = g0; g < g1; g += t.n_groups) {
    t.n_groups = most;
    while (t.n_groups > g1 - g) t.n_groups /= 2;
    const uint8_t *packed = seg->data + (size_t)g * seg->group_bytes;
    t.w = wide ? expanded : packed;
    for (int32_t n = 0; wide && n < t.n_groups; n++)
      wide->expand(seg->dtype, packed + (size_t)n * seg->group_bytes, units,
                   expanded + (size_t)n * wide_bytes);
    /* While the tiles of x pass over these groups, each brings its share of the next ones closer: reading
     * memory and computing overlap, although either alone would fill the time. */
    const uint8_t *next = packed + (size_t)t.n_groups * seg->group_bytes;
    const int32_t n_next = g1 - g - t.n_groups < t.n_groups ? g1 - g - t.n_groups : t.n_groups;
    const int32_t lines = fetch ? (int32_t)((size_t)n_next * seg->group_bytes / 64) : 0;
    for (int32_t i = 0; i < j->n_tiles; i++) {
      int32_t row, from, to;
      weir_cpu_part(lines, i, j->n_tiles, &from, &to);
      t.ahead = next + (size_t)from * 64;
      t.ahead_lines = to - from;
      const int32_t m = tile_rows(j, i, &row);
      t.m = panel_rows(m, wide != NULL);
      t.panel = panel_of(j, row);
      t.block_bytes = t.m * j->form.row_bytes;
      t.field_at = t.m * (32 + 4 + 4 * slot);
      if (wide)
        wide->tile[seg->dtype](&t);
      else
        j->isa->tile[seg->dtype](&t);
      weir_linear_store(&j->c, seg, acc, t.n_groups, row, m, g);
    }
  }
  if (wide && g0 < g1) wide->end();
}

static void panel_rank(void *ctx, int32_t rank, int32_t n_threads) { make_panels(ctx, rank, n_threads); }

static void run_rank(void *ctx, int32_t rank, int32_t n_threads) {
  const quant_job *j = ctx;
  for (int32_t s = 0; s < j->c.w->n_segs; s++) {
    int32_t g0, g1;
    weir_linear_share(j->c.w, s, true, rank, n_threads, &g0, &g1);
    if (g0 < g1)
      run_groups(j, &j->c.w->seg[s], g0, g1, j->expanded + (size_t)rank * expanded_bytes(j->c.w->cols));
  }
}

void weir_linear_quant(const weir_linear_call *c, void *scratch) {
  const weir_cpu *cpu = weir_cpu_of(c->dev);
  quant_job j = {.isa = weir_linear_isa_get(cpu->isa), .form = panel_form(c->w), .panel = scratch};
  j.expanded = j.panel + panel_region(c->dev->limits.max_cols);
  const int32_t chunk = weir_linear_chunk(qrow_bytes(c->w->cols, j.form.row_bytes));
  for (int32_t i = 0; i < c->x.rows; i += chunk) {
    const int32_t rows = c->x.rows - i < chunk ? c->x.rows - i : chunk;
    j.c = weir_linear_rows(c, i, rows);
    const bool pays = rows >= WIDE_ROWS && (c->w->cols >= WIDE_COLS || cpu->amx_small);
    j.wide = cpu->isa == WEIR_ISA_AMX && pays ? &weir_linear_amx : NULL;
    const int32_t height = j.wide ? WEIR_WIDE_M : WEIR_TILE_M;
    j.n_tiles = (rows + height - 1) / height;
    const int64_t elems = (int64_t)rows * c->w->cols;
    const bool alone = cpu->n_threads == 1 || elems * c->y.cols < WEIR_LINEAR_ALONE;
    if (alone || elems < WEIR_LINEAR_LAY_ALONE || (rows + WEIR_TILE_M - 1) / WEIR_TILE_M < cpu->n_threads)
      make_panels(&j, 0, 1);
    else
      weir_pool_run(cpu->pool, panel_rank, &j);
    if (alone)
      run_rank(&j, 0, 1);
    else
      weir_pool_run(cpu->pool, run_rank, &j);
  }
}
