/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic with AVX-512 and VNNI for steps of more rows than a tile has. Pure functions of
 * their arguments; any thread; compiled for that instruction set and only called where cpu.c found it.
 *
 * Taking nibbles apart is a quarter of the work of eight rows, so it is done once for all: the depth is cut
 * into strips of eight blocks, a strip of a few groups of weights is expanded in the first-level cache into
 * bytes and floats for the scales, and all tiles of x pass over it before the next; a tile's sums wait in
 * memory meanwhile. Within a strip they stay in registers: with the sums of a block beside them seven rows by
 * two groups are what 32 registers hold (sums in memory cost an eighth, twelve rows two fifths). */
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/linear_avx512.h"

enum {
  M = WEIR_TILE_M,
  G = WEIR_WIDE_G,
  STRIP = WEIR_WIDE_STRIP,
  WIDE_BLOCK = WEIR_WIDE_BLOCK,
  Q_AT = 2 * 4 * LANES, /* where an expanded block has its bytes, after two vectors of floats */
  GAP = STRIP * WIDE_BLOCK
};

_Static_assert(WIDE_BLOCK == Q_AT + BLOCK * LANES, "layout of linear.h");

/* ---- expansion ---- */

/* Blocks [b, b + n) of a group; n an even number, whole super-blocks where the type has them. Bytes keep
 * their zero point, which the panel's fields undo. */
INLINE void expand(const weir_dtype type, const uint8_t *group, int32_t b, int32_t n, uint8_t *out) {
  const int block_bytes = n_bits(type) * QUADS, of_unit = is_super(type) ? 8 : 2;
  const int scales = is_super(type) ? WEIR_PACK_K_SCALES : WEIR_PACK_SCALES;
  const uint8_t *unit = group + (size_t)(b / of_unit) * (size_t)(scales + of_unit * block_bytes);
  for (int32_t u = 0; u < n; u += of_unit, unit += scales + of_unit * block_bytes) {
    for (int i = 0; i < of_unit; i++, out += WIDE_BLOCK) {
      const uint8_t *q = unit + scales + i * block_bytes;
      put_scales(type, unit, i, out);
      UNROLL for (int k = 0; k < 8; k++)
          _mm512_store_si512(out + Q_AT + k * QUADS, quad(type, q, k % 4, k / 4));
    }
  }
}

/* ---- a tile of x by a strip ---- */

typedef struct unit {
  const uint8_t *w; /* [g][STRIP] expanded blocks */
  const uint8_t *x; /* the tile's panel, from this strip on */
  int32_t row_bytes, row_field_at, n_blocks;
  bool fresh; /* the first strip: sums start at zero */
  int32_t ahead_step;
  const uint8_t *ahead, *ahead_end; /* lines to be brought in, ahead_step a block */
  float *acc;                       /* [m][g][16] */
} unit;

/* Types by what a block's floats are: Q8_0 stands for Q4_0 and Q5_0, Q4_K for Q5_K. */
INLINE void unit_run(const weir_dtype type, unit *u, const int m, const int g) {
  const uint8_t *w = u->w, *x = u->x, *ahead = u->ahead, *const ahead_end = u->ahead_end;
  const int32_t n_blocks = u->n_blocks, block_bytes = m * u->row_bytes, field_at = m * u->row_field_at;
  const int32_t ahead_step = u->ahead_step;
  __m512 acc[M][G];
  UNROLL for (int i = 0; i < m; i++) {
    UNROLL for (int j = 0; j < g; j++) acc[i][j] =
        u->fresh ? _mm512_setzero_ps() : _mm512_load_ps(u->acc + (i * g + j) * LANES);
  }
  for (int32_t b = 0; b < n_blocks; b++, w += WIDE_BLOCK, x += block_bytes) {
    const uint8_t *dx = x + BLOCK * m, *field = x + field_at;
    __m512i dot[M][G];
    __m512 low[M][G]; /* of Q6_K: the part of the first half */
    for (int32_t l = 0; l < ahead_step && ahead < ahead_end; l++, ahead += 64)
      _mm_prefetch((const char *)ahead, _MM_HINT_T1);
    UNROLL for (int i = 0; i < m; i++) {
      UNROLL for (int j = 0; j < g; j++) dot[i][j] =
          has_mins(type) ? _mm512_setzero_si512() : broadcast4(field + 4 * i);
    }
    UNROLL for (int k = 0; k < 8; k++) {
      if (type == WEIR_Q6_K && k == 4) {
        UNROLL for (int j = 0; j < g; j++) {
          const __m512 first = _mm512_load_ps(w + j * GAP);
          UNROLL for (int i = 0; i < m; i++) {
            low[i][j] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][j]), first);
            dot[i][j] = broadcast4(field + 4 * (m + i));
          }
        }
      }
      __m512i q[G];
      UNROLL for (int j = 0; j < g; j++) q[j] = _mm512_load_si512(w + j * GAP + Q_AT + k * QUADS);
      UNROLL for (int i = 0; i < m; i++) {
        const __m512i xq = broadcast4(x + BLOCK * i + 4 * k);
        UNROLL for (int j = 0; j < g; j++) dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], q[j], xq);
      }
    }
    UNROLL for (int j = 0; j < g; j++) {
      const __m512 first = _mm512_load_ps(w + j * GAP), second = _mm512_load_ps(w + j * GAP + 4 * LANES);
      UNROLL for (int i = 0; i < m; i++) {
        const __m512 v = _mm512_cvtepi32_ps(dot[i][j]), d = every(dx + 4 * i);
        if (type == WEIR_Q6_K) {
          acc[i][j] = _mm512_fmadd_ps(_mm512_fmadd_ps(v, second, low[i][j]), d, acc[i][j]);
        } else if (has_mins(type)) {
          const __m512 part = _mm512_fmadd_ps(second, every(field + 4 * i), _mm512_mul_ps(v, first));
          acc[i][j] = _mm512_fmadd_ps(part, d, acc[i][j]);
        } else {
          acc[i][j] = _mm512_fmadd_ps(v, _mm512_mul_ps(first, d), acc[i][j]);
        }
      }
    }
  }
  UNROLL for (int i = 0; i < m; i++) {
    UNROLL for (int j = 0; j < g; j++) _mm512_store_ps(u->acc + (i * g + j) * LANES, acc[i][j]);
  }
  u->ahead = ahead;
}

/* ---- all rows by a few groups ---- */

typedef void unit_fn(unit *);

/* The sums of rows [row, row + n) into y; padding lanes stay out. */
static void put(const weir_wide *t, int32_t row, int32_t n) {
  const float *acc = t->acc + (size_t)row * (size_t)t->n_groups * LANES;
  float *y = t->y + (size_t)row * t->y_ld;
  for (int32_t r = 0; r < n; r++, y += t->y_ld) {
    for (int32_t j = 0; j < t->n_groups; j++, acc += LANES) {
      const int32_t left = t->y_cols - j * LANES;
      const __mmask16 lanes = left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
      __m512 v = _mm512_load_ps(acc);
      if (t->bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(lanes, t->bias + j * LANES));
      _mm512_mask_storeu_ps(y + j * LANES, lanes, v);
    }
  }
}

INLINE void run(const weir_dtype type, const weir_wide *t, unit_fn *const fn[M][G]) {
  const size_t row_bytes = (size_t)t->n_blocks * (size_t)t->row_bytes;
  const int32_t steps = t->n_blocks * t->n_tiles;
  unit u = {.w = t->expanded,
            .row_bytes = t->row_bytes,
            .row_field_at = t->row_field_at,
            .ahead_step = (t->ahead_lines + steps - 1) / steps,
            .ahead = t->ahead,
            .ahead_end = t->ahead + (size_t)t->ahead_lines * 64};
  for (int32_t b = 0; b < t->n_blocks; b += STRIP) {
    u.n_blocks = t->n_blocks - b < STRIP ? t->n_blocks - b : STRIP;
    u.fresh = b == 0;
    for (int32_t j = 0; j < t->n_groups; j++)
      expand(type, t->w + (size_t)j * t->group_bytes, b, u.n_blocks, t->expanded + j * GAP);
    for (int32_t i = 0; i < t->n_tiles; i++) {
      int32_t row, end;
      weir_cpu_part(t->m, i, t->n_tiles, &row, &end);
      const int32_t m = end - row;
      u.x = t->panel + (size_t)row * row_bytes + (size_t)b * (size_t)m * (size_t)t->row_bytes;
      u.acc = t->acc + (size_t)row * (size_t)t->n_groups * LANES;
      fn[m - 1][t->n_groups - 1](&u);
      if (b + STRIP >= t->n_blocks) put(t, row, m);
    }
  }
}

/* One compiled body for each kind of floats, m and g. */
#define BODY(kind, type, m, g) \
  static void kind##_##m##_##g(unit *u) { unit_run(type, u, m, g); }
#define BODIES(kind, type, m) BODY(kind, type, m, 1) BODY(kind, type, m, 2)
#define ROW(kind, m) \
  { kind##_##m##_1, kind##_##m##_2 }
#define FAMILY(kind, type)                                                                           \
  BODIES(kind, type, 1)                                                                              \
  BODIES(kind, type, 2)                                                                              \
  BODIES(kind, type, 3)                                                                              \
  BODIES(kind, type, 4)                                                                              \
  BODIES(kind, type, 5)                                                                              \
  BODIES(kind, type, 6)                                                                              \
  BODIES(kind, type, 7)                                                                              \
  BODIES(kind, type, 8)                                                                              \
  static unit_fn *const unit_##kind[M][G] = {ROW(kind, 1), ROW(kind, 2), ROW(kind, 3), ROW(kind, 4), \
                                             ROW(kind, 5), ROW(kind, 6), ROW(kind, 7), ROW(kind, 8)};

FAMILY(plain, WEIR_Q8_0)
FAMILY(mins, WEIR_Q4_K)
FAMILY(q6, WEIR_Q6_K)

static void run_q8_0(const weir_wide *t) { run(WEIR_Q8_0, t, unit_plain); }
static void run_q4_0(const weir_wide *t) { run(WEIR_Q4_0, t, unit_plain); }
static void run_q5_0(const weir_wide *t) { run(WEIR_Q5_0, t, unit_plain); }
static void run_q4_k(const weir_wide *t) { run(WEIR_Q4_K, t, unit_mins); }
static void run_q5_k(const weir_wide *t) { run(WEIR_Q5_K, t, unit_mins); }
static void run_q6_k(const weir_wide *t) { run(WEIR_Q6_K, t, unit_q6); }

static void begin(weir_dtype type, int32_t rows) {
  (void)type;
  (void)rows;
}
static void end(void) {}

const weir_linear_wide weir_linear_avx512_wide = {
    .begin = begin,
    .end = end,
    .run = {[WEIR_Q8_0] = run_q8_0,
            [WEIR_Q4_0] = run_q4_0,
            [WEIR_Q5_0] = run_q5_0,
            [WEIR_Q4_K] = run_q4_k,
            [WEIR_Q5_K] = run_q5_k,
            [WEIR_Q6_K] = run_q6_k},
    .rows_from = 48, /* at 32 rows some shapes gained and some lost a few hundredths, at 16 most lost */
    .rows_most = 7,  /* eight leave Q6_K and mins too few registers, and gained the others nothing */
};
