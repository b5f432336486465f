/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic for F16 and BF16 weights with AMX. Pure functions of their arguments; any thread;
 * compiled for these instruction sets and only called where cpu.c found them and the system lets the process
 * use the tiles.
 *
 * The tiles multiply numbers of 8 bits (bfloat16) and add in F32. x is cut into three such numbers, which is
 * exact; a weight is one of them (BF16) or two (F16: 11 bits). Of the products of the parts only the lowest
 * by the lowest of F16 is left out, 2^-24 of the whole at most (2^-22 if parts were cut by truncation). A
 * block of 32 k is one instruction for each pair of parts, the largest product last (linear_dense.h has the
 * order).
 *
 * Two strips of x by two groups of weights share their loads, 8 for 12 products of tiles or 12 for 20. A
 * product takes 16 cycles (10 when a strip has 8 rows or less), a load from the second-level cache 22, and
 * they overlap: measured by itself, this order of loads runs at the speed of the products alone. */
#include <immintrin.h>

#include "kernels/cpu/linear_dense.h"
#include "kernels/cpu/unroll.h"

enum {
  ROWS = WEIR_DENSE_ROWS,
  LANES = WEIR_PACK_ROWS,
  TILE = WEIR_PACK_UNIT16, /* bytes of a tile of weights */
  LINE = 64                /* ... of a row of any tile */
};

/* v as bfloat16 in the upper half: to nearest, ties away from zero, but the largest numbers (and infinities
 * and NaN) by truncation, for they must not become infinite. */
INLINE __m512i to_bf16(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v), size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 near = _mm512_cmplt_epu32_mask(size, _mm512_set1_epi32(0x7f7f8000));
  const __m512i some = _mm512_mask_add_epi32(bits, near, bits, _mm512_set1_epi32(0x8000));
  return _mm512_and_si512(some, _mm512_set1_epi32((int32_t)0xffff0000));
}

/* The upper halves of 32 words. */
INLINE __m512i upper(__m512i first, __m512i second) {
  const __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
                                       27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16(first, odd, second);
}

static void lay(const float *x, int32_t n, uint8_t *out, int32_t plane_bytes) {
  for (; n > 0; n -= WEIR_PACK_K16, x += WEIR_PACK_K16, out += WEIR_DENSE_PLANES * (size_t)plane_bytes) {
    const uint32_t have = n >= WEIR_PACK_K16 ? UINT32_MAX : (UINT32_C(1) << n) - 1;
    __m512 a = _mm512_maskz_loadu_ps((__mmask16)have, x);
    __m512 b = _mm512_maskz_loadu_ps((__mmask16)(have >> 16), x + 16);
    for (int p = 0; p < WEIR_DENSE_PLANES; p++) {
      const __m512i a_part = to_bf16(a), b_part = to_bf16(b);
      _mm512_store_si512(out + p * (size_t)plane_bytes, upper(a_part, b_part));
      a = _mm512_sub_ps(a, _mm512_castsi512_ps(a_part));
      b = _mm512_sub_ps(b, _mm512_castsi512_ps(b_part));
    }
  }
}

static void begin(int32_t rows) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } c = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    c.row_bytes[i] = LINE;
    c.rows[i] = (uint8_t)(i < 6 ? rows : LANES); /* sums, x; weights */
  }
  _Static_assert(sizeof c == 64, "a tile configuration");
  __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

static void end(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* In assembly because compilers of the day leave the memory that the intrinsics touch out of their books. */
#define ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::: "memory")
#define LOAD(tile, from, step) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"((long)(step)) : "memory")
#define STORE(tile, to, step) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"((long)(step)) : "memory")
#define DOT(sum, x, w) __asm__ volatile("tdpbf16ps %%tmm" #w ", %%tmm" #x ", %%tmm" #sum ::: "memory")

/* tmm0..3 sums [strip][group], tmm4..5 x by strip, tmm6..7 weights by group. */
INLINE void load_x(const weir_dense_tile *t, const uint8_t *x, const int plane, const int strips) {
  const size_t at = (size_t)plane * (size_t)t->rows * LINE;
  LOAD(4, x + at, LINE);
  if (strips == 2) LOAD(5, x + t->strip_bytes + at, LINE);
}

INLINE void load_w(const uint8_t *w, size_t apart, const int groups) {
  LOAD(6, w, LINE);
  if (groups == 2) LOAD(7, w + apart, LINE);
}

INLINE void dots(const int strips, const int groups) {
  DOT(0, 4, 6);
  if (groups == 2) DOT(1, 4, 7);
  if (strips == 2) DOT(2, 5, 6);
  if (strips == 2 && groups == 2) DOT(3, 5, 7);
}

/* 16 halves as floats, and their first parts: none becomes infinite; a NaN whose bits run over is left to the
 * second part. */
INLINE void split_16(const uint8_t *from, __m512i *first, __m512 *second) {
  const __m512 v = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)from));
  const __m512i near = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
  *first = _mm512_and_si512(near, _mm512_set1_epi32((int32_t)0xffff0000));
  *second = _mm512_sub_ps(v, _mm512_castsi512_ps(*first));
}

/* Block k of all groups, into its place among the parts. */
INLINE uint8_t *parts_at(const weir_dense_tile *t, int32_t k) {
  return t->parts + (size_t)(k & t->parts_mask) * ((size_t)t->n_groups * 2 * TILE);
}

/* Both parts of block k of F16 weights, a tile each: of the rows of all groups, [from, to). For each row a
 * line at `ahead`, unless NULL, is brought into the cache: many at once hold up the loads behind them. */
INLINE void split(const weir_dense_tile *t, int32_t k, const uint8_t *ahead, const int from, const int to) {
  if (k >= t->depth) return;
  const uint8_t *w = t->w + (size_t)k * TILE;
  uint8_t *parts = parts_at(t, k);
  UNROLL for (int r = from; r < to; r++) {
    const int group = r / LANES, row = r % LANES;
    const uint8_t *in = w + (size_t)group * t->group_bytes + row * LINE;
    uint8_t *out = parts + group * 2 * TILE + row * LINE;
    __m512i a, b;
    __m512 a_rest, b_rest;
    if (ahead) _mm_prefetch((const char *)ahead + (size_t)group * t->group_bytes + row * LINE, _MM_HINT_T1);
    split_16(in, &a, &a_rest);
    split_16(in + LINE / 2, &b, &b_rest);
    _mm512_store_si512(out, upper(a, b));
    _mm512_store_si512(out + TILE, upper(_mm512_castps_si512(a_rest), _mm512_castps_si512(b_rest)));
  }
}

INLINE void fetch_ahead(const weir_dense_tile *t, int32_t from, int32_t step) {
  for (int32_t i = from; i < from + step && i < t->ahead_lines; i++)
    for (int j = 0; j < t->ahead_groups; j++)
      _mm_prefetch((const char *)t->ahead + (size_t)j * t->group_bytes + (size_t)i * LINE, _MM_HINT_T1);
}

INLINE void touch(const weir_dense_tile *t, int32_t from, int32_t step) {
  for (int32_t i = from; i < from + step && i < t->touch_rows; i++)
    for (int j = 0; j < WEIR_DENSE_GROUPS; j++)
      __builtin_prefetch(t->touch + (size_t)i * (size_t)t->acc_ld + j * LANES, 1);
}

INLINE void tile(const weir_dense_tile *t, const weir_dtype type, const int strips, const int groups) {
  const size_t block_bytes = (size_t)t->rows * WEIR_DENSE_PLANES * LINE;
  const int32_t step = (t->ahead_lines + t->depth - 1) / t->depth;
  const int32_t touch_step = (t->touch_rows + t->depth - 1) / t->depth;
  const long acc_step = (long)t->acc_ld * 4;
  const int n_rows = groups * LANES;
  const bool spread = type == WEIR_F16 && t->split && step == LANES;
  float *second = t->acc + (size_t)t->rows * (size_t)t->acc_ld;
  const uint8_t *w = t->w, *x = t->panel;
  if (t->resume) {
    LOAD(0, t->acc, acc_step);
    if (groups == 2) LOAD(1, t->acc + LANES, acc_step);
    if (strips == 2) LOAD(2, second, acc_step);
    if (strips == 2 && groups == 2) LOAD(3, second + LANES, acc_step);
  } else {
    ZERO(0);
    ZERO(1);
    ZERO(2);
    ZERO(3);
  }
  if (type == WEIR_F16 && t->split) split(t, 0, NULL, 0, n_rows);
  for (int32_t k = 0; k < t->depth; k++, w += TILE, x += block_bytes) {
    const uint8_t *ahead = NULL;
    if (spread && (k + 1) * LANES <= t->ahead_lines)
      ahead = t->ahead + (size_t)k * TILE;
    else if (!spread)
      fetch_ahead(t, k * step, step);
    touch(t, k * touch_step, touch_step);
    if (type == WEIR_F16) {
      /* A block ahead, for what tiles load does not come straight from stores then, and a fifth of it after
       * each product: products are a chain, and all the splitting is more than the machine looks ahead. */
      const uint8_t *part = parts_at(t, k);
      load_w(part + TILE, 2 * TILE, groups);
      load_x(t, x, 0, strips);
      dots(strips, groups);
      if (t->split) split(t, k + 1, ahead, 0, n_rows / 5);
      load_x(t, x, 1, strips);
      dots(strips, groups);
      if (t->split) split(t, k + 1, ahead, n_rows / 5, n_rows * 2 / 5);
      load_w(part, 2 * TILE, groups);
      dots(strips, groups);
      if (t->split) split(t, k + 1, ahead, n_rows * 2 / 5, n_rows * 3 / 5);
      load_x(t, x, 2, strips);
      dots(strips, groups);
      if (t->split) split(t, k + 1, ahead, n_rows * 3 / 5, n_rows * 4 / 5);
      load_x(t, x, 0, strips);
      dots(strips, groups);
      if (t->split) split(t, k + 1, ahead, n_rows * 4 / 5, n_rows);
    } else {
      load_w(w, t->group_bytes, groups);
      load_x(t, x, 2, strips);
      dots(strips, groups);
      load_x(t, x, 1, strips);
      dots(strips, groups);
      load_x(t, x, 0, strips);
      dots(strips, groups);
    }
  }
  STORE(0, t->acc, acc_step);
  if (groups == 2) STORE(1, t->acc + LANES, acc_step);
  if (strips == 2) STORE(2, second, acc_step);
  if (strips == 2 && groups == 2) STORE(3, second + LANES, acc_step);
}

static void run(weir_dtype type, const weir_dense_tile *t) {
  const int shape = (t->n_strips - 1) * 2 + t->n_groups - 1;
  if (type == WEIR_F16) {
    switch (shape) {
      case 0: tile(t, WEIR_F16, 1, 1); break;
      case 1: tile(t, WEIR_F16, 1, 2); break;
      case 2: tile(t, WEIR_F16, 2, 1); break;
      default: tile(t, WEIR_F16, 2, 2); break;
    }
  } else {
    switch (shape) {
      case 0: tile(t, WEIR_BF16, 1, 1); break;
      case 1: tile(t, WEIR_BF16, 1, 2); break;
      case 2: tile(t, WEIR_BF16, 2, 1); break;
      default: tile(t, WEIR_BF16, 2, 2); break;
    }
  }
}

const weir_dense_isa weir_linear_amx_dense = {.lay = lay, .begin = begin, .end = end, .run = run};
