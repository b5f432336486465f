/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's float part (F32; F16 and BF16, but for machines with AMX, where those are linear_dense.c's):
 * lays x out in panels, shares the groups of W among the team, and walks tiles, in the order of loops of
 * linear_quant.c. Arithmetic is in the instruction set's file (linear.h has the rules). The caller's thread
 * and the team. */
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/linear_cut.h"
#include "kernels/cpu/linear_dense.h"

typedef struct float_job {
  weir_linear_call c; /* of this chunk */
  const weir_linear_isa *isa;
  bool only_f32;
  float *panel;
  int32_t n_tiles;
} float_job;

static size_t row_bytes(int32_t cols) { return (size_t)cols * sizeof(float); }

size_t weir_linear_float_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  const size_t panels = weir_linear_region(row_bytes(lim->max_cols)),
               dense = weir_linear_dense_scratch(n_threads);
  return panels > dense ? panels : dense;
}

static void make_panel(const float_job *j, int32_t begin, int32_t m) {
  const int32_t cols = j->c.w->cols;
  float *panel = j->panel + (size_t)begin * (size_t)cols;
  for (int32_t i = 0; i < m; i++) {
    const float *x = weir_linear_x(&j->c, begin + i);
    for (int32_t k = 0; k < cols; k++) panel[(size_t)k * (size_t)m + (size_t)i] = x[k];
  }
}

/* The part of `rank` of n_parts. */
static void make_panels(const float_job *j, int32_t rank, int32_t n_parts) {
  int32_t first, last, begin, end;
  weir_cpu_part(j->n_tiles, rank, n_parts, &first, &last);
  for (int32_t t = first; t < last; t++) {
    weir_cpu_part(j->c.x.rows, t, j->n_tiles, &begin, &end);
    make_panel(j, begin, end - begin);
  }
}

static void run_groups(const float_job *j, const weir_pack_seg *seg, int32_t g0, int32_t g1) {
  _Alignas(64) float acc[WEIR_TILE_M * WEIR_TILE_G * WEIR_PACK_ROWS];
  const int32_t cols = j->c.w->cols;
  weir_tile t = {.group_bytes = seg->group_bytes, .acc = acc};
  t.depth = cols;
  const int32_t most = j->n_tiles > 1 ? j->isa->groups_many : j->isa->groups_one;
  for (int32_t g = g0; g < g1; g += t.n_groups) {
    t.n_groups = most;
    while (t.n_groups > g1 - g) t.n_groups /= 2;
    t.w = seg->data + (size_t)g * seg->group_bytes;
    for (int32_t i = 0; i < j->n_tiles; i++) {
      int32_t row, end;
      weir_cpu_part(j->c.x.rows, i, j->n_tiles, &row, &end);
      t.m = end - row;
      t.panel = j->panel + (size_t)row * (size_t)cols;
      j->isa->tile[seg->dtype](&t);
      weir_linear_store(&j->c, seg, acc, t.n_groups, row, t.m, g);
    }
  }
}

static void panel_rank(void *ctx, int32_t rank, int32_t n_threads) { make_panels(ctx, rank, n_threads); }

static void run_rank(void *ctx, int32_t rank, int32_t n_threads) {
  const float_job *j = ctx;
  for (int32_t s = 0; s < j->c.w->n_segs; s++) {
    int32_t g0, g1;
    if (j->only_f32 && j->c.w->seg[s].dtype != WEIR_F32) continue;
    weir_linear_share(j->c.w, s, false, rank, n_threads, &g0, &g1);
    run_groups(j, &j->c.w->seg[s], g0, g1);
  }
}

/* Whether a segment of floats is F32, or one is not. */
static bool has_f32(const weir_pack *w, bool f32) {
  for (int32_t s = 0; s < w->n_segs; s++)
    if (!weir_dtype_is_quant(w->seg[s].dtype) && (w->seg[s].dtype == WEIR_F32) == f32) return true;
  return false;
}

void weir_linear_float(const weir_linear_call *c, void *scratch) {
  const weir_cpu *cpu = weir_cpu_of(c->dev);
  float_job j = {.isa = weir_linear_isa_get(cpu->isa), .panel = scratch};
  if (cpu->isa == WEIR_ISA_AMX && has_f32(c->w, false)) {
    weir_linear_dense_call(c, scratch);
    if (!has_f32(c->w, true)) return;
    j.only_f32 = true;
  }
  const int32_t chunk = weir_linear_chunk(row_bytes(c->w->cols));
  for (int32_t i = 0; i < c->x.rows; i += chunk) {
    const int32_t rows = c->x.rows - i < chunk ? c->x.rows - i : chunk;
    j.c = weir_linear_rows(c, i, rows);
    j.n_tiles = (rows + WEIR_TILE_M - 1) / WEIR_TILE_M;
    const int64_t elems = (int64_t)rows * c->w->cols;
    const bool alone = cpu->n_threads == 1 || elems * c->y.cols < WEIR_LINEAR_ALONE;
    if (alone || elems < WEIR_LINEAR_LAY_ALONE || j.n_tiles < cpu->n_threads)
      make_panels(&j, 0, 1);
    else
      weir_pool_run(cpu->pool, panel_rank, &j);
    if (alone)
      run_rank(&j, 0, 1);
    else
      weir_pool_run(cpu->pool, run_rank, &j);
  }
}
