/* SPDX-License-Identifier: Apache-2.0 */
/* y = x W^T + bias: lays x out in panels, shares the groups of W among the team, and walks tiles. Arithmetic
 * is in the instruction set's file (linear.h has the rules). The caller's thread and the team.
 *
 * Order of loops: a few groups of W (a quarter of a megabyte at most at usual widths) stay in the
 * second-level cache while all tiles of x pass; x is cut into chunks whose panels stay there too. */
#include "kernels/cpu/linear.h"

#include <stdint.h>
#include <string.h>

#include "kernels/cpu/cpu_dev.h"

enum {
  LANES = WEIR_PACK_ROWS,
  PANEL_BYTES = 1 << 20, /* of x at a time: half a second-level cache of today's servers */
  CHUNK_MIN = 64,        /* rows; with fewer, weights would be read again too often */
  CHUNK_MAX = 512,
  FETCH_BYTES = 1 << 20,   /* weights of less live in the cache anyway */
  WIDE_ROWS = 32,          /* rows of x from which expanding weights pays ... */
  WIDE_COLS = 512,         /* ... where rows are long: at 256 it cost a tenth, at 768 it gained as much */
  ALONE_WORK = 1 << 15,    /* multiply-adds below which a fork costs more than it saves */
  QUANTIZE_ALONE = 1 << 13 /* elements of x below which the caller quantises them itself */
};

typedef struct linear_job {
  weir_dev *dev;
  weir_mat y, x; /* of this chunk */
  const weir_pack *w;
  const float *bias;
  const weir_linear_isa *isa;
  weir_panel_form form; /* of quantised panels */
  uint8_t *qpanel;
  float *fpanel;
  const weir_linear_wide *wide; /* NULL: narrow tiles */
  uint8_t *expanded;            /* [n_threads][expanded_bytes] */
  int32_t n_tiles, n_wide;      /* wide ones of quantised panels; 0 without */
} linear_job;

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
static size_t frow_bytes(int32_t cols) { return (size_t)cols * sizeof(float); }

static size_t region_bytes(size_t row) {
  const size_t least = row * CHUNK_MIN;
  return ((least > PANEL_BYTES ? least : PANEL_BYTES) + 63) / 64 * 64;
}

/* Of one thread: a wide tile's groups. */
static size_t expanded_bytes(int32_t cols) { return qrow_bytes(cols, 1) * WEIR_WIDE_BLOCK * WEIR_TILE_G; }

size_t weir_cpu_linear_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  if (lim->max_cols > INT32_MAX - 64) return SIZE_MAX;
  return region_bytes(qrow_bytes(lim->max_cols, WEIR_PANEL_ROW_MAX)) +
         region_bytes(frow_bytes(lim->max_cols)) + expanded_bytes(lim->max_cols) * (size_t)n_threads;
}

static int32_t chunk_rows(const weir_pack *w, const weir_panel_form *f) {
  size_t row = 0;
  if (w->has_quant) row = qrow_bytes(w->cols, f->row_bytes);
  if (w->has_float && frow_bytes(w->cols) > row) row = frow_bytes(w->cols);
  const size_t n = PANEL_BYTES / row;
  const int32_t whole = n > CHUNK_MAX ? CHUNK_MAX : (int32_t)n / WEIR_WIDE_M * WEIR_WIDE_M;
  return whole < CHUNK_MIN ? CHUNK_MIN : whole;
}

/* Rows [*begin, *begin + m) of the chunk are tile t of n_tiles: alike for narrow ones, full but for the last
 * for wide ones. */
static int32_t tile_rows(const linear_job *j, int32_t t, int32_t n_tiles, bool wide, int32_t *begin) {
  int32_t end;
  if (wide) {
    *begin = t * WEIR_WIDE_M;
    return j->x.rows - *begin < WEIR_WIDE_M ? j->x.rows - *begin : WEIR_WIDE_M;
  }
  weir_cpu_part(j->x.rows, t, n_tiles, begin, &end);
  return end - *begin;
}

static const float *x_row(const linear_job *j, int32_t i) { return j->x.data + (size_t)i * (size_t)j->x.ld; }

static uint8_t *qpanel_of(const linear_job *j, int32_t begin) {
  return j->qpanel + (size_t)begin * qrow_bytes(j->w->cols, j->form.row_bytes);
}

/* Rows that the panel of a tile of m has room for: wide tiles take 16 at a time. */
static int32_t panel_rows(int32_t m, bool wide) { return wide ? (m + 15) / 16 * 16 : m; }

static void make_qpanel(const linear_job *j, int32_t begin, int32_t m) {
  const int32_t blocks = j->w->cols / 32, room = panel_rows(m, j->wide != NULL);
  uint8_t *panel = qpanel_of(j, begin);
  if (room > m) memset(panel, 0, (size_t)room * qrow_bytes(j->w->cols, j->form.row_bytes));
  for (int32_t i = 0; i < m; i++) j->isa->quantize_row(x_row(j, begin + i), blocks, &j->form, panel, room, i);
  if (blocks % 2 != 0)
    memset(weir_panel_block(&j->form, panel, room, blocks), 0, (size_t)room * (size_t)j->form.row_bytes);
}

static void make_fpanel(const linear_job *j, int32_t begin, int32_t m) {
  float *panel = j->fpanel + (size_t)begin * (size_t)j->w->cols;
  for (int32_t i = 0; i < m; i++) {
    const float *x = x_row(j, begin + i);
    for (int32_t k = 0; k < j->w->cols; k++) panel[(size_t)k * (size_t)m + (size_t)i] = x[k];
  }
}

/* The part of `rank` of n_parts. */
static void make_panels(const linear_job *j, int32_t rank, int32_t n_parts) {
  int32_t first, last, begin;
  const int32_t n_quant = j->n_wide ? j->n_wide : j->n_tiles;
  weir_cpu_part(j->w->has_quant ? n_quant : 0, rank, n_parts, &first, &last);
  for (int32_t t = first; t < last; t++) {
    const int32_t m = tile_rows(j, t, n_quant, j->n_wide != 0, &begin);
    make_qpanel(j, begin, m);
  }
  weir_cpu_part(j->w->has_float ? j->n_tiles : 0, rank, n_parts, &first, &last);
  for (int32_t t = first; t < last; t++) {
    const int32_t m = tile_rows(j, t, j->n_tiles, false, &begin);
    make_fpanel(j, begin, m);
  }
}

/* The tile's lanes into y: rows from `row`, columns from the first row of W in the tile; padding lanes stay
 * out. */
static void store_tile(const linear_job *j, const weir_pack_seg *seg, const weir_tile *t, int32_t row,
                       int32_t n_rows, int32_t group) {
  const int32_t in_seg = group * LANES, width = t->n_groups * LANES;
  const int32_t n = seg->rows - in_seg < width ? seg->rows - in_seg : width;
  const int32_t col = seg->row + in_seg;
  for (int32_t i = 0; i < n_rows; i++) {
    float *y = j->y.data + (size_t)(row + i) * (size_t)j->y.ld + col;
    const float *acc = t->acc + (size_t)i * (size_t)width;
    if (j->bias) {
      for (int32_t c = 0; c < n; c++) y[c] = acc[c] + j->bias[col + c];
    } else {
      memcpy(y, acc, (size_t)n * sizeof *y);
    }
  }
}

static void run_groups(const linear_job *j, const weir_pack_seg *seg, int32_t g0, int32_t g1,
                       uint8_t *expanded) {
  _Alignas(64) float acc[WEIR_WIDE_M * WEIR_TILE_G * LANES];
  const bool quant = weir_dtype_is_quant(seg->dtype);
  const weir_linear_wide *wide = quant ? j->wide : NULL;
  const int32_t units = weir_pack_units(weir_pack_form_of(seg->dtype), j->w->cols);
  const size_t wide_bytes = qrow_bytes(j->w->cols, 1) * WEIR_WIDE_BLOCK;
  weir_tile t = {.group_bytes = wide ? wide_bytes : seg->group_bytes, .acc = acc};
  t.depth = wide ? (int32_t)(wide_bytes / WEIR_WIDE_BLOCK) : units;
  int32_t slot = 0; /* of the type's first field */
  while (quant && j->form.field[slot] != fields_of[seg->dtype].first) slot++;
  const int32_t n_tiles = wide ? j->n_wide : j->n_tiles;
  const int32_t most = wide || n_tiles > 1 ? j->isa->groups_many : j->isa->groups_one;
  const bool fetch = j->w->bytes >= FETCH_BYTES;
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
    for (int32_t i = 0; i < n_tiles; i++) {
      int32_t row, from, to;
      weir_cpu_part(lines, i, n_tiles, &from, &to);
      t.ahead = next + (size_t)from * 64;
      t.ahead_lines = to - from;
      const int32_t m = tile_rows(j, i, n_tiles, wide != NULL, &row);
      t.m = panel_rows(m, wide != NULL);
      if (quant) {
        t.panel = qpanel_of(j, row);
        t.block_bytes = t.m * j->form.row_bytes;
        t.field_at = t.m * (32 + 4 + 4 * slot);
      } else {
        t.panel = j->fpanel + (size_t)row * (size_t)j->w->cols;
      }
      if (wide)
        wide->tile[seg->dtype](&t);
      else
        j->isa->tile[seg->dtype](&t);
      store_tile(j, seg, &t, row, m, g);
    }
  }
  if (wide && g0 < g1) wide->end();
}

/* The first group of a segment that begins at or after byte `at` of the weight. */
static int32_t group_at(const weir_pack *w, const weir_pack_seg *seg, size_t at) {
  const size_t start = (size_t)(seg->data - w->data);
  if (at <= start) return 0;
  const size_t g = (at - start + seg->group_bytes - 1) / seg->group_bytes;
  return g > (size_t)seg->n_groups ? seg->n_groups : (int32_t)g;
}

static void panel_rank(void *ctx, int32_t rank, int32_t n_threads) { make_panels(ctx, rank, n_threads); }

static void run_rank(void *ctx, int32_t rank, int32_t n_threads) {
  const linear_job *j = ctx;
  /* By bytes, for at decode they are what takes time; a share is a run of groups, perhaps over a seam. */
  const size_t share = j->w->bytes / (size_t)n_threads + 1;
  const size_t from = share * (size_t)rank, to = from + share;
  for (int32_t s = 0; s < j->w->n_segs; s++) {
    const weir_pack_seg *seg = &j->w->seg[s];
    run_groups(j, seg, group_at(j->w, seg, from), group_at(j->w, seg, to),
               j->expanded + (size_t)rank * expanded_bytes(j->w->cols));
  }
}

static const weir_linear_isa *isa_of(const weir_dev *dev) {
  switch (weir_cpu_of(dev)->isa) {
    case WEIR_ISA_AMX:
    case WEIR_ISA_AVX512_VNNI: return &weir_linear_avx512;
    case WEIR_ISA_AVX2: return &weir_linear_avx2;
    default: return &weir_linear_scalar;
  }
}

weir_status weir_cpu_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *weight,
                            const float *bias, weir_err *e) {
  (void)e;
  weir_cpu *cpu = weir_cpu_of(dev);
  const weir_pack *w = weir_pack_of(weight);
  linear_job j = {.dev = dev, .w = w, .bias = bias, .isa = isa_of(dev), .form = panel_form(w)};
  j.qpanel = cpu->scratch;
  j.fpanel =
      (float *)((uint8_t *)cpu->scratch + region_bytes(qrow_bytes(dev->limits.max_cols, WEIR_PANEL_ROW_MAX)));
  j.expanded = (uint8_t *)j.fpanel + region_bytes(frow_bytes(dev->limits.max_cols));
  const int32_t chunk = chunk_rows(w, &j.form);
  for (int32_t i = 0; i < x.rows; i += chunk) {
    j.x =
        (weir_mat){x.data + (size_t)i * (size_t)x.ld, x.rows - i < chunk ? x.rows - i : chunk, x.cols, x.ld};
    j.y = (weir_mat){y.data + (size_t)i * (size_t)y.ld, j.x.rows, y.cols, y.ld};
    j.n_tiles = (j.x.rows + WEIR_TILE_M - 1) / WEIR_TILE_M;
    const bool pays = j.x.rows >= WIDE_ROWS && (w->cols >= WIDE_COLS || cpu->amx_small);
    j.wide = cpu->isa == WEIR_ISA_AMX && w->has_quant && pays ? &weir_linear_amx : NULL;
    j.n_wide = j.wide ? (j.x.rows + WEIR_WIDE_M - 1) / WEIR_WIDE_M : 0;
    const int64_t elems = (int64_t)j.x.rows * w->cols;
    const bool alone = cpu->n_threads == 1 || elems * weight->rows < ALONE_WORK;
    if (alone || elems < QUANTIZE_ALONE || j.n_tiles < cpu->n_threads)
      make_panels(&j, 0, 1);
    else
      weir_pool_run(cpu->pool, panel_rank, &j);
    if (alone)
      run_rank(&j, 0, 1);
    else
      weir_pool_run(cpu->pool, run_rank, &j);
  }
  return WEIR_OK;
}
