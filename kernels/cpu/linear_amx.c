/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic with AMX: up to 16 x 16 integer sums at a time, the floats of linear.h after them
 * with AVX-512. Pure functions of their arguments and of the thread's tiles; any thread; compiled for these
 * instruction sets and only called where cpu.c found them and the system lets the process use the tiles.
 *
 * The depth is cut into strips of eight blocks. A strip of a few groups of weights is expanded into signed
 * bytes without zero point and floats for the scales, in the first-level cache, and all tiles of x pass over
 * it before the next; a tile's sums wait in memory meanwhile. A unit of work is a tile of x by a group over
 * a strip. What the processor does at the same time, it is given at the same time: a step of the loop starts
 * the integers of a block, stores those of the block before, does the floats of the one before that, and
 * expands a block of the next strip, so that no unit waits for its first integers either.
 *
 * Found by measuring (Sapphire Rapids): a sum's way through the tiles takes 52 cycles, hence the distance;
 * storing a tile takes 16 cycles however few rows it has, and nothing else is decoded meanwhile; while tiles
 * multiply, multiplications and conversions of floats have one port instead of two, additions keep both,
 * which is why every other conversion is made of two additions. */
#include "kernels/cpu/linear_avx512.h"

enum {
  ROWS = WEIR_WIDE_M,
  DOTS = ROWS * LANES,
  STRIP = WEIR_WIDE_STRIP,
  WIDE_BLOCK = WEIR_WIDE_BLOCK,
  Q_AT = 2 * 4 * LANES /* where an expanded block has its bytes, after two vectors of floats */
};

_Static_assert(WIDE_BLOCK == Q_AT + BLOCK * LANES, "layout of linear.h");

/* ---- expansion ---- */

/* Bit i of each byte becomes the parity of its bits in mask i (of i7 .. i0), flipped by bit i of `flip`. */
#define BITS(i7, i6, i5, i4, i3, i2, i1, i0)                                                       \
  (BIT(i7, 0) | BIT(i6, 8) | BIT(i5, 16) | BIT(i4, 24) | BIT(i3, 32) | BIT(i2, 40) | BIT(i1, 48) | \
   BIT(i0, 56))
#define BIT(mask, at)       ((uint64_t)(mask) << (at))
#define TURN(v, bits, flip) _mm512_gf2p8affine_epi64_epi8(v, _mm512_set1_epi64((long long)(bits)), flip)

/* Quad k + 4*high of a block, k < 4, of all rows, signed, without its zero point: taking half the range off
 * flips the highest bit and repeats it in those above. */
INLINE __m512i quad_signed(const weir_dtype type, const uint8_t *q, const int k, const int high) {
  const int bits = n_bits(type);
  if (bits == 8) return _mm512_xor_si512(quad(type, q, k, high), _mm512_set1_epi8(-128));
  const __m512i v = _mm512_load_si512(q + (bits - 4 + k) * QUADS);
  const int n = high ? 16 : 1; /* the lowest bit of the nibble */
  if (type == WEIR_Q4_0) return TURN(v, BITS(8 * n, 8 * n, 8 * n, 8 * n, 8 * n, 4 * n, 2 * n, n), 0xf8);
  const __m512i low = TURN(v, BITS(0, 0, 0, 0, 8 * n, 4 * n, 2 * n, n), 0);
  if (type == WEIR_Q4_K) return low;
  const __m512i top = _mm512_load_si512(bits == 6 ? q + high * QUADS : q);
  const int t = bits == 6 ? 1 << 2 * k : 1 << (k + 4 * high);
  if (type == WEIR_Q5_0) return _mm512_or_si512(low, TURN(top, BITS(t, t, t, t, 0, 0, 0, 0), 0xf0));
  if (type == WEIR_Q5_K) return _mm512_or_si512(low, TURN(top, BITS(0, 0, 0, t, 0, 0, 0, 0), 0));
  return _mm512_or_si512(low, TURN(top, BITS(2 * t, 2 * t, 2 * t, t, 0, 0, 0, 0), 0xe0));
}

/* Blocks go in pairs here: those of a unit of 64 elements, or 2p and 2p + 1 of a super-block. */
INLINE void expand_pair(const weir_dtype type, const uint8_t *unit, int32_t p, uint8_t *out) {
  const int block_bytes = n_bits(type) * QUADS;
  const int scales = is_super(type) ? WEIR_PACK_K_SCALES : WEIR_PACK_SCALES;
  UNROLL for (int i = 0; i < 2; i++, out += WIDE_BLOCK) {
    const int32_t b = is_super(type) ? 2 * p + i : i;
    const uint8_t *q = unit + scales + b * block_bytes;
    put_scales(type, unit, b, out);
    UNROLL for (int k = 0; k < 8; k++)
        _mm512_store_si512(out + Q_AT + k * QUADS, quad_signed(type, q, k % 4, k / 4));
  }
}

/* A strip being expanded, pair by pair. */
typedef struct strip {
  const uint8_t *unit; /* of the next pair */
  uint8_t *out;
  int32_t pair, pairs, groups; /* of the group at hand: the next, how many; groups left, with this one */
} strip;

INLINE void strip_step(const weir_dtype type, strip *s, size_t group_bytes) {
  if (s->groups == 0) return;
  const int unit_bytes = WEIR_PACK_SCALES + 2 * n_bits(type) * QUADS; /* of 64 elements */
  expand_pair(type, is_super(type) ? s->unit : s->unit + s->pair * unit_bytes, s->pair,
              s->out + s->pair * 2 * WIDE_BLOCK);
  if (++s->pair < s->pairs) return;
  s->pair = 0;
  s->unit += group_bytes;
  s->out += STRIP * WIDE_BLOCK;
  s->groups--;
}

/* ---- tiles ---- */

/* tmm0..3 sums, tmm4..5 rows of x, tmm6..7 weights; a block at a time, or half of one for Q6_K. */
static void begin(weir_dtype type, int32_t rows) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } c = {.palette = 1};
  const int depth = type == WEIR_Q6_K ? BLOCK / 2 : BLOCK;
  for (int i = 0; i < 6; i++) {
    c.row_bytes[i] = (uint16_t)(i < 4 ? 4 * LANES : depth);
    c.rows[i] = (uint8_t)rows;
  }
  for (int i = 6; i < 8; i++) {
    c.row_bytes[i] = QUADS;
    c.rows[i] = (uint8_t)(depth / 4);
  }
  _Static_assert(sizeof c == 64, "a tile configuration");
  __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

static void end(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* Starts sums of rows of x, 32 bytes apart, by eight (or four) quads of weights; takes them out. In assembly
 * because compilers of the day leave the memory that the intrinsics touch out of their books. */
#define DOT(sum, rows, weights, x, w)                                                \
  __asm__ volatile("tilezero %%tmm" #sum                                             \
                   "\n\t"                                                            \
                   "tileloadd (%0,%2,1), %%tmm" #rows                                \
                   "\n\t"                                                            \
                   "tileloadd (%1,%3,1), %%tmm" #weights                             \
                   "\n\t"                                                            \
                   "tdpbssd %%tmm" #weights ", %%tmm" #rows ", %%tmm" #sum ::"r"(x), \
                   "r"(w), "r"((long)BLOCK), "r"((long)QUADS)                        \
                   : "memory")
#define TAKE(sum, out) \
  __asm__ volatile("tilestored %%tmm" #sum ", (%0,%1,1)" ::"r"(out), "r"((long)QUADS) : "memory")

/* Where a unit has a block of weights, expanded, and of x. */
typedef struct place {
  const uint8_t *w, *x;
} place;

/* Even and odd blocks have tiles of their own. */
INLINE void start(const weir_dtype type, const int odd, place at) {
  const uint8_t *w = at.w + Q_AT, *x = at.x;
  if (type == WEIR_Q6_K && odd) {
    DOT(2, 4, 6, x, w);
    DOT(3, 5, 7, x + BLOCK / 2, w + 4 * QUADS);
  } else if (type == WEIR_Q6_K) {
    DOT(0, 4, 6, x, w);
    DOT(1, 5, 7, x + BLOCK / 2, w + 4 * QUADS);
  } else if (odd) {
    DOT(1, 5, 7, x, w);
  } else {
    DOT(0, 4, 6, x, w);
  }
}

INLINE void take(const weir_dtype type, const int odd, int32_t *dots) {
  if (type == WEIR_Q6_K && odd) {
    TAKE(2, dots);
    TAKE(3, dots + DOTS);
  } else if (type == WEIR_Q6_K) {
    TAKE(0, dots);
    TAKE(1, dots + DOTS);
  } else if (odd) {
    TAKE(1, dots);
  } else {
    TAKE(0, dots);
  }
}

/* Integers to floats, by conversion or by additions: below 2^22 in magnitude, n + bits of 3 * 2^22 are those
 * of the float 3 * 2^22 + n, so both ways are exact, and zero is +0. */
INLINE __m512 to_floats(const int32_t *dots, const bool by_adding) {
  const __m512i n = _mm512_load_si512(dots);
  if (!by_adding) return _mm512_cvtepi32_ps(n);
  const __m512i above = _mm512_add_epi32(n, _mm512_set1_epi32(0x4b400000));
  return _mm512_sub_ps(_mm512_castsi512_ps(above), _mm512_set1_ps(0x3p22f));
}

/* The floats of a block of `rows` rows; of Q6_K the integers of its second half follow those of the first. */
INLINE void floats(const weir_dtype type, const int rows, place at, int32_t field_at, const int32_t *dots,
                   __m512 acc[ROWS]) {
  const uint8_t *dx = at.x + BLOCK * rows, *sum = at.x + field_at;
  const __m512 first = _mm512_load_ps(at.w), second = _mm512_load_ps(at.w + 4 * LANES);
  UNROLL for (int r = 0; r < rows; r++) {
    const __m512 d = every(dx + 4 * r);
    if (type == WEIR_Q6_K) {
      const __m512 low = to_floats(dots + r * LANES, true);
      const __m512 high = to_floats(dots + DOTS + r * LANES, r % 2 != 0);
      acc[r] = _mm512_fmadd_ps(_mm512_fmadd_ps(high, second, _mm512_mul_ps(low, first)), d, acc[r]);
    } else if (has_mins(type)) {
      const __m512 dot = to_floats(dots + r * LANES, true);
      const __m512 part = _mm512_fmadd_ps(second, every(sum + 4 * r), _mm512_mul_ps(dot, first));
      acc[r] = _mm512_fmadd_ps(part, d, acc[r]);
    } else {
      const __m512 dot = to_floats(dots + r * LANES, r % 2 != 0);
      acc[r] = _mm512_fmadd_ps(dot, _mm512_mul_ps(first, d), acc[r]);
    }
  }
}

/* What the units of a job share. */
typedef struct walk {
  int32_t dots[2][2 * DOTS]; /* of an even and an odd block */
  strip next;                /* to be expanded meanwhile */
  size_t group_bytes;
  int32_t block_bytes, field_at; /* of the panel */
  const uint8_t *ahead, *ahead_end;
  int32_t ahead_step; /* lines a pair of blocks */
} walk;

/* Where the sums of a unit are between strips, and where they go after the last. */
typedef struct sums {
  float *acc; /* rows `ld` floats apart */
  int32_t ld;
  bool fresh;     /* the first strip: they start at zero */
  float *y;       /* the last one: row 0 of the tile; NULL before */
  size_t y_ld;    /* of y, in floats */
  int32_t m;      /* rows of y, at most those of the tile */
  __mmask16 mask; /* lanes of y */
  bool with_bias; /* for adding +0 instead would lose the sign of a zero */
  __m512 bias;
} sums;

/* A pointer in a register of its own: without, compilers make an index of each row's offset from another one,
 * and keep those that are too many in vector registers, at the price of a port that is short here. */
#define KEEP(pointer) __asm__("" : "+r"(pointer))

/* n blocks, an even number; the first two of `at` were started and the first taken out, and those of `after`
 * are when it returns. */
INLINE void run_unit(const weir_dtype type, const int rows, walk *w, place at, int32_t n, place after,
                     const sums *s) {
  const int32_t bytes = w->block_bytes, ld = s->ld;
  float *acc = s->acc;
  __m512 a[ROWS];
  UNROLL for (int r = 0; r < rows; r++) a[r] = s->fresh ? _mm512_setzero_ps() : _mm512_load_ps(acc + r * ld);
  /* Lines of y are far apart and out of the caches: they are sent for while the strip is worked at. */
  for (int32_t r = 0; s->y && r < s->m; r++) __builtin_prefetch(s->y + (size_t)r * s->y_ld, 1);
  for (int32_t b = 0; b < n; b += 2) {
    const uint8_t *odd_x = at.x + bytes;
    int32_t *even_dots = w->dots[0], *odd_dots = w->dots[1];
    KEEP(odd_x);
    KEEP(even_dots);
    KEEP(odd_dots);
    const place odd = {at.w + WIDE_BLOCK, odd_x};
    const place even = b + 2 < n ? (place){at.w + 2 * WIDE_BLOCK, at.x + 2 * bytes} : after;
    strip_step(type, &w->next, w->group_bytes);
    for (int32_t l = 0; l < w->ahead_step && w->ahead < w->ahead_end; l++, w->ahead += 64)
      _mm_prefetch((const char *)w->ahead, _MM_HINT_T1);
    start(type, 0, even);
    take(type, 1, odd_dots);
    floats(type, rows, at, w->field_at, even_dots, a);
    start(type, 1, (place){even.w + WIDE_BLOCK, even.x + bytes});
    take(type, 0, even_dots);
    floats(type, rows, odd, w->field_at, odd_dots, a);
    at = even;
  }
  if (!s->y) {
    UNROLL for (int r = 0; r < rows; r++) _mm512_store_ps(acc + r * ld, a[r]);
    return;
  }
  UNROLL for (int r = 0; r < rows; r++) {
    if (s->with_bias) a[r] = _mm512_add_ps(a[r], s->bias);
    if (r < s->m) _mm512_mask_storeu_ps(s->y + (size_t)r * s->y_ld, s->mask, a[r]);
  }
}

/* The strip that begins at block b, as it is still to be expanded into its buffer. */
INLINE strip strip_at(const weir_dtype type, const weir_wide *t, int32_t b) {
  const int32_t elems = is_super(type) ? 8 : 2; /* blocks of a unit */
  const size_t unit_bytes = is_super(type) ? WEIR_PACK_K_SCALES + 8 * (size_t)n_bits(type) * QUADS
                                           : WEIR_PACK_SCALES + 2 * (size_t)n_bits(type) * QUADS;
  const int32_t left = t->n_blocks - b;
  if (left <= 0) return (strip){0};
  return (strip){.unit = t->w + (size_t)(b / elems) * unit_bytes,
                 .out = t->expanded + (b / STRIP % 2 ? WEIR_WIDE_EXPANDED / 2 : 0),
                 .pairs = (left < STRIP ? left : STRIP) / 2,
                 .groups = t->n_groups};
}

/* The sums of tile i and group j over the strip that begins at block b. */
INLINE sums sums_at(const weir_wide *t, const int rows, int32_t b, int32_t i, int32_t j) {
  const int32_t ld = t->n_groups * LANES, left = t->m - i * rows, cols = t->y_cols - j * LANES;
  sums s = {.acc = t->acc + i * rows * ld + j * LANES, .ld = ld, .fresh = b == 0};
  if (b + STRIP < t->n_blocks) return s;
  s.m = left < rows ? left : rows;
  s.mask = (__mmask16)(cols < LANES ? (1u << cols) - 1 : 0xffff);
  s.y = t->y + (size_t)(i * rows) * t->y_ld + j * LANES;
  s.y_ld = t->y_ld;
  s.with_bias = t->bias != NULL;
  s.bias = s.with_bias ? _mm512_maskz_loadu_ps(s.mask, t->bias + j * LANES) : _mm512_setzero_ps();
  return s;
}

INLINE void run(const weir_dtype type, const int rows, const weir_wide *t) {
  const int32_t bytes = rows * t->row_bytes, n_units = t->n_tiles * t->n_groups;
  const size_t tile_bytes = (size_t)t->n_blocks * (size_t)bytes;
  _Alignas(64) walk w = {.next = strip_at(type, t, 0),
                         .group_bytes = t->group_bytes,
                         .block_bytes = bytes,
                         .field_at = rows * t->row_field_at,
                         .ahead = t->ahead,
                         .ahead_end = t->ahead + (size_t)t->ahead_lines * 64};
  const int32_t steps = t->n_blocks / 2 * n_units;
  w.ahead_step = (t->ahead_lines + steps - 1) / steps;
  while (w.next.groups > 0) strip_step(type, &w.next, t->group_bytes);
  place at = {t->expanded, t->panel};
  start(type, 0, at);
  start(type, 1, (place){at.w + WIDE_BLOCK, at.x + bytes});
  take(type, 0, w.dots[0]);
  for (int32_t b = 0; b < t->n_blocks; b += STRIP) {
    const int32_t n = t->n_blocks - b < STRIP ? t->n_blocks - b : STRIP;
    w.next = strip_at(type, t, b + STRIP);
    const uint8_t *here = at.w, *there = w.next.out ? w.next.out : here;
    for (int32_t i = 0; i < t->n_tiles; i++) {
      const uint8_t *x = t->panel + (size_t)i * tile_bytes + (size_t)b * (size_t)bytes;
      for (int32_t j = 0; j < t->n_groups; j++) {
        const sums s = sums_at(t, rows, b, i, j);
        place after = {here + (j + 1) * STRIP * WIDE_BLOCK, x};
        if (j + 1 == t->n_groups) after = (place){here, x + tile_bytes};
        if (i * t->n_groups + j + 1 == n_units) {
          after = (place){there, t->panel + (size_t)(b + STRIP) * (size_t)bytes};
          if (there == here) after = at; /* the end: what is started is thrown away */
        }
        run_unit(type, rows, &w, at, n, after, &s);
        at = after;
      }
    }
  }
}

/* One compiled body for each type and number of rows. */
#define BODY(kind, type, rows) \
  static void kind##_##rows(const weir_wide *t) { run(type, rows, t); }
#define FAMILY(kind, type)                                                                       \
  BODY(kind, type, 4)                                                                            \
  BODY(kind, type, 8)                                                                            \
  BODY(kind, type, 12)                                                                           \
  BODY(kind, type, 16)                                                                           \
  static void run_##kind(const weir_wide *t) {                                                   \
    static void (*const body[])(const weir_wide *) = {kind##_4, kind##_8, kind##_12, kind##_16}; \
    body[t->rows / 4 - 1](t);                                                                    \
  }

FAMILY(q8_0, WEIR_Q8_0)
FAMILY(q4_0, WEIR_Q4_0)
FAMILY(q5_0, WEIR_Q5_0)
FAMILY(q4_k, WEIR_Q4_K)
FAMILY(q5_k, WEIR_Q5_K)
FAMILY(q6_k, WEIR_Q6_K)

const weir_linear_wide weir_linear_amx = {
    .begin = begin,
    .end = end,
    .run = {[WEIR_Q8_0] = run_q8_0,
            [WEIR_Q4_0] = run_q4_0,
            [WEIR_Q5_0] = run_q5_0,
            [WEIR_Q4_K] = run_q4_k,
            [WEIR_Q5_K] = run_q5_k,
            [WEIR_Q6_K] = run_q6_k},
    .rows_from = 9,        /* up to eight are one narrow tile */
    .cols_from = 512,      /* at 256 they cost a tenth, at 768 they gained as much */
    .elems_from = 1 << 14, /* 16 rows of 768 lost a twentieth; 32, and 16 of 2048, gained */
    .rows_most = WEIR_WIDE_M,
    .rows_step = 4,
};
