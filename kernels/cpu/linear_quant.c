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
  WIDE_SCRATCH = WEIR_WIDE_EXPANDED + WEIR_LINEAR_CHUNK_MAX * WEIR_WIDE_G * 4 * LANES /* of a thread */
};

typedef struct quant_job {
  weir_linear_call c; /* of this chunk */
  const weir_linear_isa *isa;
  weir_panel_form form;
  uint8_t *panel;
  const weir_linear_wide *wide; /* NULL: narrow tiles */
  uint8_t *wide_scratch;        /* [n_threads][WIDE_SCRATCH] */
  int32_t n_tiles;
  int32_t tile_m; /* rows of a tile that is filled up; 0: none is */
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

static size_t panel_region(int32_t cols) { return weir_linear_region(qrow_bytes(cols, WEIR_PANEL_ROW_MAX)); }

size_t weir_linear_quant_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  return panel_region(lim->max_cols) + WIDE_SCRATCH * (size_t)n_threads;
}

/* Rows [*begin, *begin + m) of the chunk are tile t: all alike within one, or full but for the last. */
static int32_t tile_rows(const quant_job *j, int32_t t, int32_t *begin) {
  int32_t end;
  if (j->tile_m) {
    *begin = t * j->tile_m;
    return j->c.x.rows - *begin < j->tile_m ? j->c.x.rows - *begin : j->tile_m;
  }
  weir_cpu_part(j->c.x.rows, t, j->n_tiles, begin, &end);
  return end - *begin;
}

static uint8_t *panel_of(const quant_job *j, int32_t begin) {
  return j->panel + (size_t)begin * qrow_bytes(j->c.w->cols, j->form.row_bytes);
}

static void make_panel(const quant_job *j, int32_t begin, int32_t m) {
  const int32_t cols = j->c.w->cols, blocks = cols / 32, room = j->tile_m ? j->tile_m : m;
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

/* How groups follow each other in a share [g, g1) of a segment: n of them now, and while the tiles of x pass
 * over these, the next ones are brought closer: reading memory and computing overlap, although either alone
 * would fill the time. */
typedef struct group_run {
  int32_t n;
  const uint8_t *w, *next;
  int32_t next_lines; /* of 64 bytes, from `next` on; 0 where weights live in the cache anyway */
} group_run;

static group_run groups_at(const quant_job *j, const weir_pack_seg *seg, int32_t g, int32_t g1,
                           int32_t most) {
  group_run r = {.n = most};
  while (r.n > g1 - g) r.n /= 2;
  const int32_t left = g1 - g - r.n, n_next = left < r.n ? left : r.n;
  r.w = seg->data + (size_t)g * seg->group_bytes;
  r.next = r.w + (size_t)r.n * seg->group_bytes;
  if (j->c.w->bytes >= WEIR_LINEAR_FETCH) r.next_lines = (int32_t)((size_t)n_next * seg->group_bytes / 64);
  return r;
}

static int32_t slot_of(const quant_job *j, weir_dtype type) { /* of the type's first field */
  int32_t slot = 0;
  while (j->form.field[slot] != fields_of[type].first) slot++;
  return slot;
}

static void run_narrow(const quant_job *j, const weir_pack_seg *seg, int32_t g0, int32_t g1) {
  _Alignas(64) float acc[WEIR_TILE_M * WEIR_TILE_G * LANES];
  weir_tile t = {.group_bytes = seg->group_bytes, .acc = acc};
  t.depth = weir_pack_units(weir_pack_form_of(seg->dtype), j->c.w->cols);
  const int32_t most = j->n_tiles > 1 ? j->isa->groups_many : j->isa->groups_one;
  const int32_t slot = slot_of(j, seg->dtype);
  for (int32_t g = g0; g < g1; g += t.n_groups) {
    const group_run run = groups_at(j, seg, g, g1, most);
    t.n_groups = run.n;
    t.w = run.w;
    for (int32_t i = 0; i < j->n_tiles; i++) {
      int32_t row, from, to;
      weir_cpu_part(run.next_lines, i, j->n_tiles, &from, &to);
      t.ahead = run.next + (size_t)from * 64;
      t.ahead_lines = to - from;
      t.m = tile_rows(j, i, &row);
      t.panel = panel_of(j, row);
      t.block_bytes = t.m * j->form.row_bytes;
      t.field_at = t.m * (32 + 4 + 4 * slot);
      j->isa->tile[seg->dtype](&t);
      weir_linear_store(&j->c, seg, acc, t.n_groups, row, t.m, g);
    }
  }
}

static void run_wide(const quant_job *j, const weir_pack_seg *seg, int32_t g0, int32_t g1, uint8_t *scratch) {
  weir_wide t = {.group_bytes = seg->group_bytes,
                 .panel = j->panel,
                 .row_bytes = j->form.row_bytes,
                 .row_field_at = 32 + 4 + 4 * slot_of(j, seg->dtype),
                 .n_tiles = j->n_tiles,
                 .rows = j->tile_m,
                 .n_blocks = (int32_t)qrow_bytes(j->c.w->cols, 1),
                 .y_ld = (size_t)j->c.y.ld,
                 .m = j->c.x.rows,
                 .expanded = scratch,
                 .acc = (float *)(void *)(scratch + WEIR_WIDE_EXPANDED)};
  j->wide->begin(seg->dtype, t.rows);
  for (int32_t g = g0; g < g1; g += t.n_groups) {
    const group_run run = groups_at(j, seg, g, g1, WEIR_WIDE_G);
    t.n_groups = run.n;
    t.w = run.w;
    t.ahead = run.next;
    t.ahead_lines = run.next_lines;
    const int32_t done = g * LANES; /* rows of the segment */
    t.y = j->c.y.data + seg->row + done;
    t.y_cols = seg->rows - done < run.n * LANES ? seg->rows - done : run.n * LANES;
    t.bias = j->c.bias ? j->c.bias + seg->row + done : NULL;
    j->wide->run[seg->dtype](&t);
  }
  j->wide->end();
}

static void panel_rank(void *ctx, int32_t rank, int32_t n_threads) { make_panels(ctx, rank, n_threads); }

static void run_rank(void *ctx, int32_t rank, int32_t n_threads) {
  const quant_job *j = ctx;
  for (int32_t s = 0; s < j->c.w->n_segs; s++) {
    int32_t g0, g1;
    weir_linear_share(j->c.w, s, true, rank, n_threads, &g0, &g1);
    if (g0 == g1) continue;
    if (j->wide)
      run_wide(j, &j->c.w->seg[s], g0, g1, j->wide_scratch + (size_t)rank * WIDE_SCRATCH);
    else
      run_narrow(j, &j->c.w->seg[s], g0, g1);
  }
}

void weir_linear_quant(const weir_linear_call *c, void *scratch) {
  const weir_cpu *cpu = weir_cpu_of(c->dev);
  quant_job j = {.isa = weir_linear_isa_get(cpu->isa), .form = panel_form(c->w), .panel = scratch};
  j.wide_scratch = j.panel + panel_region(c->dev->limits.max_cols);
  const int32_t chunk = weir_linear_chunk(qrow_bytes(c->w->cols, j.form.row_bytes));
  for (int32_t i = 0; i < c->x.rows; i += chunk) {
    const int32_t rows = c->x.rows - i < chunk ? c->x.rows - i : chunk;
    j.c = weir_linear_rows(c, i, rows);
    j.wide = weir_linear_wide_get(cpu->isa);
    const bool always = cpu->isa == WEIR_ISA_AMX && cpu->amx_small;
    const weir_linear_wide *wide = j.wide;
    if (wide && !always &&
        (rows < wide->rows_from || c->w->cols < wide->cols_from ||
         (int64_t)rows * c->w->cols < wide->elems_from))
      j.wide = NULL;
    const int32_t height = j.wide ? j.wide->rows_most : WEIR_TILE_M;
    j.n_tiles = (rows + height - 1) / height;
    j.tile_m = 0;
    if (j.wide && j.wide->rows_step) {
      const int32_t step = j.wide->rows_step, least = (rows + j.n_tiles - 1) / j.n_tiles;
      j.tile_m = (least + step - 1) / step * step;
      j.n_tiles = (rows + j.tile_m - 1) / j.tile_m; /* padding may have made the last one empty */
    }
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
