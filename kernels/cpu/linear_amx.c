/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic with AMX, for steps of many rows: 16 x 16 integer sums at a time, the floats of
 * linear.h after them with AVX-512. Pure functions of their arguments; any thread; compiled for these
 * instruction sets and only called where cpu.c found them and the system lets the process use the tiles.
 *
 * The groups of weights that a thread is at are expanded once into signed bytes without zero point and floats
 * for the scales, and then met with all tiles of x. 16 rows of x by one group go over the whole depth with
 * their sums in registers: the tile instructions leave the integers of two blocks in memory, and while those
 * of the next two run, the floats of these are done. More overlap than that does not pay: while tiles
 * multiply, the core has one port less for the floats, which are half of the work. */
#include "kernels/cpu/linear_avx512.h"

enum {
  ROWS = 16, /* of x in a unit of work */
  DOTS = ROWS * LANES,
  Q_AT = 2 * 4 * LANES /* where an expanded block has its bytes, after two vectors of floats */
};

_Static_assert(WEIR_WIDE_BLOCK == Q_AT + BLOCK * LANES, "layout of linear.h");
_Static_assert(WEIR_WIDE_M == 2 * ROWS, "a tile is two units high");

/* ---- expansion ---- */

INLINE void expand_type(const weir_dtype type, const uint8_t *group, int32_t n_units, uint8_t *out) {
  const int block_bytes = n_bits(type) * QUADS, n_blocks = is_super(type) ? 8 : 2;
  const int scales = is_super(type) ? WEIR_PACK_K_SCALES : WEIR_PACK_SCALES;
  const int zero = has_mins(type) ? 0 : 1 << (n_bits(type) - 1);
  for (int32_t u = 0; u < n_units; u++, group += scales + n_blocks * block_bytes) {
    for (int b = 0; b < n_blocks; b++, out += WEIR_WIDE_BLOCK) {
      const uint8_t *q = group + scales + b * block_bytes;
      __m512 first, second = _mm512_setzero_ps();
      if (type == WEIR_Q6_K) {
        const uint8_t *scale = group + WEIR_PACK_Q6_SCALE + b * 2 * LANES;
        first = _mm512_mul_ps(halves(group), bytes_signed(scale));
        second = _mm512_mul_ps(halves(group), bytes_signed(scale + LANES));
      } else if (has_mins(type)) {
        const uint8_t *scale = group + WEIR_PACK_SCALES + b * LANES;
        first = _mm512_mul_ps(halves(group), bytes_unsigned(scale));
        second = _mm512_mul_ps(halves(group + LANES * 2), bytes_unsigned(scale + 8 * LANES));
      } else {
        first = halves(group + b * LANES * 2);
      }
      _mm512_store_ps(out, first);
      _mm512_store_ps(out + 4 * LANES, second);
      UNROLL for (int k = 0; k < 8; k++) {
        const __m512i v = quad(type, q, k % 4, k / 4);
        _mm512_store_si512(out + Q_AT + k * QUADS, _mm512_sub_epi8(v, _mm512_set1_epi8((char)zero)));
      }
    }
  }
}

static void expand(weir_dtype type, const uint8_t *group, int32_t n_units, uint8_t *out) {
  switch (type) {
    case WEIR_Q8_0: expand_type(WEIR_Q8_0, group, n_units, out); break;
    case WEIR_Q4_0: expand_type(WEIR_Q4_0, group, n_units, out); break;
    case WEIR_Q5_0: expand_type(WEIR_Q5_0, group, n_units, out); break;
    case WEIR_Q4_K: expand_type(WEIR_Q4_K, group, n_units, out); break;
    case WEIR_Q5_K: expand_type(WEIR_Q5_K, group, n_units, out); break;
    case WEIR_Q6_K: expand_type(WEIR_Q6_K, group, n_units, out); break;
    default: break; /* floats are never wide */
  }
}

/* ---- tiles ---- */

/* tmm0..3 sums, tmm4..5 rows of x, tmm6..7 weights; a block at a time, or half of one for Q6_K. */
static void begin(weir_dtype type) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } c = {.palette = 1};
  const int depth = type == WEIR_Q6_K ? BLOCK / 2 : BLOCK;
  for (int i = 0; i < 4; i++) {
    c.row_bytes[i] = 4 * LANES;
    c.rows[i] = ROWS;
  }
  for (int i = 4; i < 6; i++) {
    c.row_bytes[i] = (uint16_t)depth;
    c.rows[i] = ROWS;
  }
  for (int i = 6; i < 8; i++) {
    c.row_bytes[i] = QUADS;
    c.rows[i] = (uint8_t)(depth / 4);
  }
  _Static_assert(sizeof c == 64, "a tile configuration");
  __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

static void end(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* out[16][16] <- rows of x, 32 bytes apart, by eight (or four) quads of weights. In assembly because
 * compilers of the day leave the memory that the intrinsics touch out of their books. */
#define DOT(sum, rows, weights, x, w, out)                                 \
  __asm__ volatile("tilezero %%tmm" #sum                                   \
                   "\n\t"                                                  \
                   "tileloadd (%0,%3,1), %%tmm" #rows                      \
                   "\n\t"                                                  \
                   "tileloadd (%1,%4,1), %%tmm" #weights                   \
                   "\n\t"                                                  \
                   "tdpbssd %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sum \
                   "\n\t"                                                  \
                   "tilestored %%tmm" #sum ", (%2,%4,1)" ::"r"(x),         \
                   "r"(w), "r"(out), "r"((long)BLOCK), "r"((long)QUADS)    \
                   : "memory")

/* 16 rows of x by one group. */
typedef struct unit {
  const uint8_t *w, *x; /* its first block, expanded; its first row in that block of the panel */
  const uint8_t *dx;    /* scale of that row, and its field of type WEIR_FIELD_SUM */
  const uint8_t *nsum;
  int32_t block_bytes; /* of the panel */
} unit;

/* The integers of a run: two blocks, or the halves of one of Q6_K. */
INLINE void run_dots(const weir_dtype type, const unit *u, int32_t b, int32_t *dots) {
  const uint8_t *w = u->w + (size_t)b * WEIR_WIDE_BLOCK + Q_AT,
                *x = u->x + (size_t)b * (size_t)u->block_bytes;
  DOT(0, 4, 6, x, w, dots);
  if (type == WEIR_Q6_K)
    DOT(1, 5, 7, x + BLOCK / 2, w + 4 * QUADS, dots + DOTS);
  else
    DOT(1, 5, 7, x + u->block_bytes, w + WEIR_WIDE_BLOCK, dots + DOTS);
}

/* The floats of block b; of Q6_K the integers of its second half follow those of the first. */
INLINE void block_floats(const weir_dtype type, const unit *u, int32_t b, const int32_t *dots,
                         __m512 acc[ROWS]) {
  const uint8_t *w = u->w + (size_t)b * WEIR_WIDE_BLOCK;
  const size_t at = (size_t)b * (size_t)u->block_bytes;
  const __m512 first = _mm512_load_ps(w), second = _mm512_load_ps(w + 4 * LANES);
  UNROLL for (int r = 0; r < ROWS; r++) {
    const __m512 d = every(u->dx + at + 4 * r), dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots + r * LANES));
    if (type == WEIR_Q6_K) {
      const __m512 high = _mm512_cvtepi32_ps(_mm512_load_si512(dots + DOTS + r * LANES));
      acc[r] = _mm512_fmadd_ps(_mm512_fmadd_ps(high, second, _mm512_mul_ps(dot, first)), d, acc[r]);
    } else if (has_mins(type)) {
      const __m512 part = _mm512_fmadd_ps(second, every(u->nsum + at + 4 * r), _mm512_mul_ps(dot, first));
      acc[r] = _mm512_fmadd_ps(part, d, acc[r]);
    } else {
      acc[r] = _mm512_fmadd_ps(dot, _mm512_mul_ps(first, d), acc[r]);
    }
  }
}

INLINE void run_floats(const weir_dtype type, const unit *u, int32_t b, const int32_t *dots,
                       __m512 acc[ROWS]) {
  block_floats(type, u, b, dots, acc);
  if (type != WEIR_Q6_K) block_floats(type, u, b + 1, dots + DOTS, acc);
}

/* Lines ahead are spread over the runs of all units. */
INLINE void tile(const weir_dtype type, const weir_tile *t) {
  const int32_t run = type == WEIR_Q6_K ? 1 : 2, units = t->m / ROWS * t->n_groups;
  const uint8_t *ahead = t->ahead, *const ahead_end = ahead + (size_t)t->ahead_lines * 64;
  const int32_t step = (t->ahead_lines * run + t->depth * units - 1) / (t->depth * units);
  _Alignas(64) int32_t dots[2][2 * DOTS];
  for (int32_t n = 0; n < units; n++) {
    const int32_t i = n / t->n_groups * ROWS, j = n % t->n_groups;
    const uint8_t *panel = t->panel;
    const unit u = {.w = t->w + (size_t)j * t->group_bytes,
                    .x = panel + BLOCK * i,
                    .dx = panel + BLOCK * t->m + 4 * i,
                    .nsum = panel + t->field_at + 4 * i,
                    .block_bytes = t->block_bytes};
    __m512 acc[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++) acc[r] = _mm512_setzero_ps();
    int32_t b = 0, which = 0;
    run_dots(type, &u, 0, dots[0]);
    for (; b + run < t->depth; b += run, which ^= 1) {
      for (int32_t l = 0; l < step && ahead < ahead_end; l++, ahead += 64)
        _mm_prefetch((const char *)ahead, _MM_HINT_T1);
      run_dots(type, &u, b + run, dots[which ^ 1]);
      run_floats(type, &u, b, dots[which], acc);
    }
    run_floats(type, &u, b, dots[which], acc);
    float *out = t->acc + ((size_t)i * (size_t)t->n_groups + (size_t)j) * LANES;
    UNROLL for (int r = 0; r < ROWS; r++) _mm512_store_ps(out + (size_t)(r * t->n_groups) * LANES, acc[r]);
  }
}

static void tile_plain(const weir_tile *t) { tile(WEIR_Q8_0, t); }
static void tile_mins(const weir_tile *t) { tile(WEIR_Q4_K, t); }
static void tile_q6_k(const weir_tile *t) { tile(WEIR_Q6_K, t); }

const weir_linear_wide weir_linear_amx = {
    .expand = expand,
    .begin = begin,
    .end = end,
    .tile = {[WEIR_Q8_0] = tile_plain,
             [WEIR_Q4_0] = tile_plain,
             [WEIR_Q5_0] = tile_plain,
             [WEIR_Q4_K] = tile_mins,
             [WEIR_Q5_K] = tile_mins,
             [WEIR_Q6_K] = tile_q6_k},
};
