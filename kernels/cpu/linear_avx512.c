/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic with AVX-512 and VNNI. Pure functions of their arguments; any thread; compiled for
 * that instruction set and only called where cpu.c found it.
 *
 * A tile keeps m x g integer accumulators in registers for the length of a block: one load of weights serves
 * m rows of x, one broadcast of four x serves g groups. */
#include "kernels/cpu/linear_avx512.h"

enum {
  M = WEIR_TILE_M,
  G = WEIR_TILE_G,
  NEAR_BITS = 16 /* rows times bits of a weight up to which fetch_near pays */
};

static void quantize_row(const float *x, int32_t n_blocks, const weir_panel_form *f, uint8_t *panel,
                         int32_t m, int32_t i) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int32_t b = 0; b < n_blocks; b++, x += BLOCK) {
    const __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
    const __m512i a0 = _mm512_and_si512(_mm512_castps_si512(x0), magnitude);
    const __m512i a1 = _mm512_and_si512(_mm512_castps_si512(x1), magnitude);
    const uint32_t most = _mm512_reduce_max_epu32(_mm512_max_epu32(a0, a1));
    float a, d = 0.0f;
    memcpy(&a, &most, sizeof a);
    __m128i q0 = _mm_setzero_si128(), q1 = q0;
    int32_t low = 0, high = 0;
    if (most >= 0x7f800000u) {
      d = __builtin_nanf("");
    } else if (most >= WEIR_TINY_BITS) {
      d = a / 127.0f;
      const __m512 inverse = _mm512_set1_ps(127.0f / a);
      const __m512i i0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
      const __m512i i1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
      low = _mm512_reduce_add_epi32(i0);
      high = _mm512_reduce_add_epi32(i1);
      q0 = _mm512_cvtepi32_epi8(i0);
      q1 = _mm512_cvtepi32_epi8(i1);
    }
    uint8_t *at = weir_panel_put(f, panel, m, b, i, d, low, high);
    _mm_storeu_si128((__m128i *)at, q0);
    _mm_storeu_si128((__m128i *)(at + 16), q1);
  }
}

INLINE void tile_begin(__m512 acc[M][G], const int m, const int g) {
  UNROLL for (int i = 0; i < m; i++) { UNROLL for (int j = 0; j < g; j++) acc[i][j] = _mm512_setzero_ps(); }
}

INLINE void tile_end(const weir_tile *t, __m512 acc[M][G], const int m, const int g) {
  UNROLL for (int i = 0; i < m; i++) {
    UNROLL for (int j = 0; j < g; j++) _mm512_store_ps(t->acc + (i * t->n_groups + j) * LANES, acc[i][j]);
  }
}

/* Brings in the next of the lines ahead: `step` of them at each block. Into the second-level
 * cache, for by its turn the first would have lost it again. */
INLINE const uint8_t *fetch_ahead(const uint8_t *at, const uint8_t *end, int32_t step) {
  for (int32_t i = 0; i < step && at < end; i++, at += 64) _mm_prefetch((const char *)at, _MM_HINT_T1);
  return at;
}

/* With few rows, weights pass so fast that the way from the second-level cache shows as well: `bytes` from q
 * on are called into the first, two blocks of Q8_0 ahead (further was no better). */
INLINE void fetch_near(const uint8_t *q, const int bytes) {
  enum { NEAR = 1152 };
  UNROLL for (int i = 0; i < bytes; i += 64)
      _mm_prefetch((const char *)((uintptr_t)q + (uintptr_t)(NEAR + i)), _MM_HINT_T0);
}

/* ---- quantised weights ---- */

/* dot[i][j] += the low quads (0 to 3) of a block, the high ones (4 to 7), or both: of group 0 at q, of rows
 * of x at xq, 32 bytes apart. */
INLINE void dots(const weir_dtype type, __m512i dot[M][G], const uint8_t *q, size_t group_bytes,
                 const uint8_t *xq, const bool low, const bool high, const int m, const int g) {
  UNROLL for (int k = 0; k < 4; k++) {
    __m512i w_low[G], w_high[G];
    UNROLL for (int j = 0; j < g; j++) {
      if (low) w_low[j] = quad(type, q + (size_t)j * group_bytes, k, 0);
      if (high) w_high[j] = quad(type, q + (size_t)j * group_bytes, k, 1);
    }
    UNROLL for (int i = 0; i < m; i++) {
      if (low) {
        const __m512i x = broadcast4(xq + BLOCK * i + 4 * k);
        UNROLL for (int j = 0; j < g; j++) dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], w_low[j], x);
      }
      if (high) {
        const __m512i x = broadcast4(xq + BLOCK * i + 16 + 4 * k);
        UNROLL for (int j = 0; j < g; j++) dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], w_high[j], x);
      }
    }
  }
}

INLINE void dots_begin(__m512i dot[M][G], const uint8_t *field, const int m, const int g) {
  UNROLL for (int i = 0; i < m; i++) {
    UNROLL for (int j = 0; j < g; j++) dot[i][j] = field ? broadcast4(field + 4 * i) : _mm512_setzero_si512();
  }
}

/* One block of Q8_0, Q4_0, Q5_0: its halves at d. */
INLINE void plain_block(const weir_dtype type, const weir_tile *t, __m512 acc[M][G], const uint8_t *d,
                        const uint8_t *q, const uint8_t *x, const int m, const int g) {
  __m512i dot[M][G];
  dots_begin(dot, x + t->field_at, m, g);
  dots(type, dot, q, t->group_bytes, x, true, true, m, g);
  UNROLL for (int j = 0; j < g; j++) {
    const __m512 dw = halves(d + (size_t)j * t->group_bytes);
    UNROLL for (int i = 0; i < m; i++) {
      const __m512 scale = _mm512_mul_ps(dw, every(x + BLOCK * m + 4 * i));
      acc[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][j]), scale, acc[i][j]);
    }
  }
}

/* Block b of Q4_K, Q5_K in the unit at w. */
INLINE void mins_block(const weir_dtype type, const weir_tile *t, __m512 acc[M][G], const uint8_t *w, int b,
                       const uint8_t *q, const uint8_t *x, const int m, const int g) {
  __m512i dot[M][G];
  dots_begin(dot, NULL, m, g);
  dots(type, dot, q, t->group_bytes, x, true, true, m, g);
  UNROLL for (int j = 0; j < g; j++) {
    const uint8_t *unit = w + (size_t)j * t->group_bytes, *scale = unit + WEIR_PACK_SCALES + b * LANES;
    const __m512 step = _mm512_mul_ps(halves(unit), bytes_unsigned(scale));
    const __m512 low = _mm512_mul_ps(halves(unit + LANES * 2), bytes_unsigned(scale + 8 * LANES));
    UNROLL for (int i = 0; i < m; i++) {
      __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][j]), step);
      part = _mm512_fmadd_ps(low, every(x + t->field_at + 4 * i), part);
      acc[i][j] = _mm512_fmadd_ps(part, every(x + BLOCK * m + 4 * i), acc[i][j]);
    }
  }
}

/* Block b of Q6_K: its halves one after the other, for both would not fit the registers. */
INLINE void q6_block(const weir_tile *t, __m512 acc[M][G], const uint8_t *w, int b, const uint8_t *q,
                     const uint8_t *x, const int m, const int g) {
  const uint8_t *scale = w + WEIR_PACK_Q6_SCALE + b * 2 * LANES;
  __m512i dot[M][G];
  __m512 part[M][G];
  dots_begin(dot, x + t->field_at, m, g);
  dots(WEIR_Q6_K, dot, q, t->group_bytes, x, true, false, m, g);
  UNROLL for (int j = 0; j < g; j++) {
    const size_t at = (size_t)j * t->group_bytes;
    const __m512 step = _mm512_mul_ps(halves(w + at), bytes_signed(scale + at));
    UNROLL for (int i = 0; i < m; i++) part[i][j] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][j]), step);
  }
  dots_begin(dot, x + t->field_at + 4 * m, m, g);
  dots(WEIR_Q6_K, dot, q, t->group_bytes, x, false, true, m, g);
  UNROLL for (int j = 0; j < g; j++) {
    const size_t at = (size_t)j * t->group_bytes;
    const __m512 step = _mm512_mul_ps(halves(w + at), bytes_signed(scale + LANES + at));
    UNROLL for (int i = 0; i < m; i++) {
      part[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][j]), step, part[i][j]);
      acc[i][j] = _mm512_fmadd_ps(part[i][j], every(x + BLOCK * m + 4 * i), acc[i][j]);
    }
  }
}

INLINE void quant(const weir_tile *t, const weir_dtype type, const int m, const int g) {
  const int block_bytes = n_bits(type) * QUADS, n_blocks = is_super(type) ? 8 : 2;
  const int scales = is_super(type) ? WEIR_PACK_K_SCALES : WEIR_PACK_SCALES;
  __m512 acc[M][G];
  tile_begin(acc, m, g);
  const uint8_t *w = t->w, *x = t->panel;
  const uint8_t *ahead = t->ahead, *const ahead_end = ahead + (size_t)t->ahead_lines * 64;
  const int32_t step = (t->ahead_lines + t->depth * n_blocks - 1) / (t->depth * n_blocks);
  for (int32_t u = 0; u < t->depth; u++, w += scales + n_blocks * block_bytes) {
    for (int b = 0; b < n_blocks; b++, x += t->block_bytes) {
      const uint8_t *q = w + scales + b * block_bytes;
      ahead = fetch_ahead(ahead, ahead_end, step);
      if (m * n_bits(type) <= NEAR_BITS) {
        UNROLL for (int j = 0; j < g; j++) fetch_near(q + (size_t)j * t->group_bytes, block_bytes);
      }
      if (type == WEIR_Q6_K)
        q6_block(t, acc, w, b, q, x, m, g);
      else if (has_mins(type))
        mins_block(type, t, acc, w, b, q, x, m, g);
      else
        plain_block(type, t, acc, w + b * LANES * 2, q, x, m, g);
    }
  }
  tile_end(t, acc, m, g);
}

INLINE void q8_0(const weir_tile *t, const int m, const int g) { quant(t, WEIR_Q8_0, m, g); }
INLINE void q4_0(const weir_tile *t, const int m, const int g) { quant(t, WEIR_Q4_0, m, g); }
INLINE void q5_0(const weir_tile *t, const int m, const int g) { quant(t, WEIR_Q5_0, m, g); }
INLINE void q4_k(const weir_tile *t, const int m, const int g) { quant(t, WEIR_Q4_K, m, g); }
INLINE void q5_k(const weir_tile *t, const int m, const int g) { quant(t, WEIR_Q5_K, m, g); }
INLINE void q6_k(const weir_tile *t, const int m, const int g) { quant(t, WEIR_Q6_K, m, g); }

/* ---- float weights ---- */

/* 16 rows at two k, as floats. */
INLINE void lanes(const uint8_t *w, const weir_dtype type, __m512 *even, __m512 *odd) {
  const __m512i v = _mm512_load_si512(w);
  if (type == WEIR_BF16) {
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int32_t)0xffff0000)));
  } else {
    *even = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
    *odd = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
  }
}

INLINE void floats_step(__m512 acc[M][G], const __m512 *wv, const float *x, const int m, const int g) {
  UNROLL for (int i = 0; i < m; i++) {
    const __m512 xv = _mm512_set1_ps(x[i]);
    UNROLL for (int j = 0; j < g; j++) acc[i][j] = _mm512_fmadd_ps(wv[j], xv, acc[i][j]);
  }
}

INLINE void floats(const weir_tile *t, const weir_dtype type, const int m, const int g) {
  __m512 acc[M][G];
  tile_begin(acc, m, g);
  const uint8_t *w = t->w;
  const float *x = t->panel;
  __m512 even[G], odd[G];
  if (type == WEIR_F32) {
    for (int32_t k = 0; k < t->depth; k++, w += 4 * LANES, x += m) {
      UNROLL for (int j = 0; j < g; j++) even[j] = _mm512_load_ps(w + (size_t)j * t->group_bytes);
      floats_step(acc, even, x, m, g);
    }
  } else {
    for (int32_t k = 0; k + 1 < t->depth; k += 2, w += 4 * LANES, x += 2 * m) {
      UNROLL for (int j = 0; j < g; j++) lanes(w + (size_t)j * t->group_bytes, type, &even[j], &odd[j]);
      floats_step(acc, even, x, m, g);
      floats_step(acc, odd, x + m, m, g);
    }
    if (t->depth % 2 != 0) {
      UNROLL for (int j = 0; j < g; j++) lanes(w + (size_t)j * t->group_bytes, type, &even[j], &odd[j]);
      floats_step(acc, even, x, m, g);
    }
  }
  tile_end(t, acc, m, g);
}

INLINE void f32(const weir_tile *t, const int m, const int g) { floats(t, WEIR_F32, m, g); }
INLINE void f16(const weir_tile *t, const int m, const int g) { floats(t, WEIR_F16, m, g); }
INLINE void bf16(const weir_tile *t, const int m, const int g) { floats(t, WEIR_BF16, m, g); }

/* One compiled body for each m and g, and the table that finds it: tile_q8_0(t) and so on. */
#define BODY(kind, m, g) \
  static void kind##_##m##_##g(const weir_tile *t) { kind(t, m, g); }
#define BODIES(kind, m) BODY(kind, m, 1) BODY(kind, m, 2)
#define ROW(kind, m) \
  { kind##_##m##_1, kind##_##m##_2 }
#define FAMILY(kind)                                                                                     \
  BODIES(kind, 1)                                                                                        \
  BODIES(kind, 2)                                                                                        \
  BODIES(kind, 3)                                                                                        \
  BODIES(kind, 4)                                                                                        \
  BODIES(kind, 5)                                                                                        \
  BODIES(kind, 6)                                                                                        \
  BODIES(kind, 7)                                                                                        \
  BODIES(kind, 8)                                                                                        \
  static void (*const body_##kind[M][G])(const weir_tile *) = {ROW(kind, 1), ROW(kind, 2), ROW(kind, 3), \
                                                               ROW(kind, 4), ROW(kind, 5), ROW(kind, 6), \
                                                               ROW(kind, 7), ROW(kind, 8)};              \
  static void tile_##kind(const weir_tile *t) { body_##kind[t->m - 1][t->n_groups - 1](t); }

FAMILY(q8_0)
FAMILY(q4_0)
FAMILY(q5_0)
FAMILY(q4_k)
FAMILY(q5_k)
FAMILY(q6_k)
FAMILY(f32)
FAMILY(f16)
FAMILY(bf16)

/* Groups of Q8_0 that come from memory for one tile of x go one after the other from three rows on, each with
 * the next one ahead of it: two at a time are more lines at once than the core takes in without waiting. (For
 * one row or two they are faster, and for all other types, whose bits take time.) */
static void tile_q8_0_apart(const weir_tile *t) {
  const bool all_ahead = (size_t)t->ahead_lines * 64 > t->group_bytes;
  if (t->n_groups != 2 || t->m <= 2 || !all_ahead) {
    tile_q8_0(t);
    return;
  }
  weir_tile one = *t;
  one.ahead = t->w + t->group_bytes;
  one.ahead_lines = (int32_t)(t->group_bytes / 64);
  body_q8_0[t->m - 1][0](&one);
  one.w = one.ahead;
  one.ahead = t->ahead;
  one.acc += LANES;
  body_q8_0[t->m - 1][0](&one);
}

const weir_linear_isa weir_linear_avx512 = {
    .quantize_row = quantize_row,
    .tile = {[WEIR_F32] = tile_f32,
             [WEIR_F16] = tile_f16,
             [WEIR_BF16] = tile_bf16,
             [WEIR_Q8_0] = tile_q8_0_apart,
             [WEIR_Q4_0] = tile_q4_0,
             [WEIR_Q5_0] = tile_q5_0,
             [WEIR_Q4_K] = tile_q4_k,
             [WEIR_Q5_K] = tile_q5_k,
             [WEIR_Q6_K] = tile_q6_k},
    .groups_one = 2,
    .groups_many = 2,
};
