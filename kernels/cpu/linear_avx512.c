/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic with AVX-512 and VNNI. Pure functions of their arguments; any thread; compiled for
 * that instruction set and only called where cpu.c found it.
 *
 * A tile keeps m x g integer accumulators in registers for the length of a block: one load of weights serves
 * m rows of x, one broadcast of four x serves g groups. */
#include "kernels/cpu/linear.h"

#include <immintrin.h>
#include <string.h>

enum { LANES = WEIR_PACK_ROWS, BLOCK = 32, M = WEIR_TILE_M, G = WEIR_TILE_G };

/* WEIR_PLAIN_TILES (sanitized builds): one body with loops instead of one unrolled body for each m and g.
 * Same arithmetic; with checks around every access the unrolled ones take minutes to compile. */
#ifdef WEIR_PLAIN_TILES
#define INLINE static __attribute__((noinline))
#define UNROLL
#else
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#endif

static void quantize_row(const float *x, int32_t n_blocks, uint8_t *panel, int32_t m, int32_t i) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int32_t b = 0; b < n_blocks; b++, x += BLOCK) {
    const __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
    const __m512i a0 = _mm512_and_si512(_mm512_castps_si512(x0), magnitude);
    const __m512i a1 = _mm512_and_si512(_mm512_castps_si512(x1), magnitude);
    const uint32_t most = _mm512_reduce_max_epu32(_mm512_max_epu32(a0, a1));
    float a, d = 0.0f;
    memcpy(&a, &most, sizeof a);
    __m128i q0 = _mm_setzero_si128(), q1 = q0;
    int32_t sum = 0;
    if (most >= 0x7f800000u) {
      d = __builtin_nanf("");
    } else if (most >= WEIR_TINY_BITS) {
      d = a / 127.0f;
      const __m512 inverse = _mm512_set1_ps(127.0f / a);
      const __m512i i0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
      const __m512i i1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
      sum = _mm512_reduce_add_epi32(_mm512_add_epi32(i0, i1));
      q0 = _mm512_cvtepi32_epi8(i0);
      q1 = _mm512_cvtepi32_epi8(i1);
    }
    uint8_t *at = weir_panel_put(panel, m, b, i, d, sum);
    _mm_storeu_si128((__m128i *)at, q0);
    _mm_storeu_si128((__m128i *)(at + 16), q1);
  }
}

INLINE __m512i broadcast4(const uint8_t *p) {
  int32_t v;
  memcpy(&v, p, sizeof v);
  return _mm512_set1_epi32(v);
}

INLINE float float_at(const uint8_t *p) {
  float v;
  memcpy(&v, p, sizeof v);
  return v;
}

INLINE __m512 halves(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

/* acc[i][j] = fma((float)dot, dw * dx, acc) of one block; `scales` of group j at w[j]. */
INLINE void add_block(__m512 acc[M][G], __m512i dot[M][G], const uint8_t *w, size_t group_bytes,
                      const uint8_t *x, const int m, const int g) {
  UNROLL for (int j = 0; j < g; j++) {
    const __m512 dw = halves(w + (size_t)j * group_bytes);
    UNROLL for (int i = 0; i < m; i++) {
      const __m512 d = _mm512_mul_ps(dw, _mm512_set1_ps(float_at(x + 4 * i)));
      acc[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][j]), d, acc[i][j]);
    }
  }
}

INLINE void tile_begin(__m512 acc[M][G], const int m, const int g) {
  UNROLL for (int i = 0; i < m; i++) { UNROLL for (int j = 0; j < g; j++) acc[i][j] = _mm512_setzero_ps(); }
}

INLINE void tile_end(const weir_tile *t, __m512 acc[M][G], const int m, const int g) {
  UNROLL for (int i = 0; i < m; i++) {
    UNROLL for (int j = 0; j < g; j++) _mm512_store_ps(t->acc + (i * g + j) * LANES, acc[i][j]);
  }
}

/* Brings in the next of the lines ahead: `step` of them at each of `depth` places. Into the second-level
 * cache, for by its turn the first would have lost it again. */
INLINE const uint8_t *fetch_ahead(const uint8_t *at, const uint8_t *end, int32_t step) {
  for (int32_t i = 0; i < step && at < end; i++, at += 64) _mm_prefetch((const char *)at, _MM_HINT_T1);
  return at;
}

INLINE void q8_0(const weir_tile *t, const int m, const int g) {
  __m512 acc[M][G];
  tile_begin(acc, m, g);
  const uint8_t *w = t->w, *x = t->panel;
  const uint8_t *ahead = t->ahead, *const ahead_end = ahead + (size_t)t->ahead_lines * 64;
  const int32_t step = (t->ahead_lines + t->depth - 1) / t->depth;
  for (int32_t p = 0; p < t->depth; p++, w += WEIR_PACK_Q8_PAIR) {
    ahead = fetch_ahead(ahead, ahead_end, step);
    for (int half = 0; half < 2; half++, x += m * WEIR_PANEL_BLOCK) {
      __m512i dot[M][G];
      UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < g; j++) dot[i][j] = broadcast4(x + 4 * (m + i));
      }
      const uint8_t *q = w + WEIR_PACK_SCALES + half * BLOCK * LANES;
      UNROLL for (int k = 0; k < 8; k++) {
        __m512i wv[G];
        UNROLL for (int j = 0; j < g; j++) wv[j] = _mm512_load_si512(q + (size_t)j * t->group_bytes + k * 64);
        UNROLL for (int i = 0; i < m; i++) {
          const __m512i xv = broadcast4(x + 12 * m + BLOCK * i + 4 * k);
          UNROLL for (int j = 0; j < g; j++) dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], wv[j], xv);
        }
      }
      add_block(acc, dot, w + half * LANES * 2, t->group_bytes, x, m, g);
    }
  }
  tile_end(t, acc, m, g);
}

INLINE void q4_0(const weir_tile *t, const int m, const int g) {
  __m512 acc[M][G];
  tile_begin(acc, m, g);
  const __m512i low = _mm512_set1_epi8(15);
  const uint8_t *w = t->w, *x = t->panel;
  const uint8_t *ahead = t->ahead, *const ahead_end = ahead + (size_t)t->ahead_lines * 64;
  const int32_t step = (t->ahead_lines + t->depth - 1) / t->depth;
  for (int32_t p = 0; p < t->depth; p++, w += WEIR_PACK_Q4_PAIR) {
    ahead = fetch_ahead(ahead, ahead_end, step);
    for (int half = 0; half < 2; half++, x += m * WEIR_PANEL_BLOCK) {
      __m512i dot[M][G];
      UNROLL for (int i = 0; i < m; i++) {
        UNROLL for (int j = 0; j < g; j++) dot[i][j] = broadcast4(x + 4 * (2 * m + i));
      }
      const uint8_t *q = w + WEIR_PACK_SCALES + half * BLOCK / 2 * LANES;
      UNROLL for (int k = 0; k < 4; k++) {
        __m512i lo[G], hi[G];
        UNROLL for (int j = 0; j < g; j++) {
          const __m512i both = _mm512_load_si512(q + (size_t)j * t->group_bytes + k * 64);
          lo[j] = _mm512_and_si512(both, low);
          hi[j] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
        UNROLL for (int i = 0; i < m; i++) {
          const __m512i x_lo = broadcast4(x + 12 * m + BLOCK * i + 4 * k);
          const __m512i x_hi = broadcast4(x + 12 * m + BLOCK * i + 16 + 4 * k);
          UNROLL for (int j = 0; j < g; j++) dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], lo[j], x_lo);
          UNROLL for (int j = 0; j < g; j++) dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], hi[j], x_hi);
        }
      }
      add_block(acc, dot, w + half * LANES * 2, t->group_bytes, x, m, g);
    }
  }
  tile_end(t, acc, m, g);
}

/* 16 rows at one k, as floats. */
INLINE __m512 lanes(const uint8_t *w, const weir_dtype type) {
  if (type == WEIR_F32) return _mm512_load_ps(w);
  const __m256i h = _mm256_load_si256((const __m256i *)w);
  if (type == WEIR_F16) return _mm512_cvtph_ps(h);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE void floats(const weir_tile *t, const weir_dtype type, const int m, const int g) {
  __m512 acc[M][G];
  tile_begin(acc, m, g);
  const uint8_t *w = t->w;
  const float *x = t->panel;
  const size_t step = LANES * (type == WEIR_F32 ? 4 : 2);
  for (int32_t k = 0; k < t->depth; k++, w += step, x += m) {
    __m512 wv[G];
    UNROLL for (int j = 0; j < g; j++) wv[j] = lanes(w + (size_t)j * t->group_bytes, type);
    UNROLL for (int i = 0; i < m; i++) {
      const __m512 xv = _mm512_set1_ps(x[i]);
      UNROLL for (int j = 0; j < g; j++) acc[i][j] = _mm512_fmadd_ps(wv[j], xv, acc[i][j]);
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
#define FAMILY(kind)                                                                                \
  BODIES(kind, 1)                                                                                   \
  BODIES(kind, 2)                                                                                   \
  BODIES(kind, 3)                                                                                   \
  BODIES(kind, 4)                                                                                   \
  BODIES(kind, 5)                                                                                   \
  BODIES(kind, 6)                                                                                   \
  BODIES(kind, 7)                                                                                   \
  BODIES(kind, 8)                                                                                   \
  static void tile_##kind(const weir_tile *t) {                                                     \
    static void (*const body[M][G])(const weir_tile *) = {ROW(kind, 1), ROW(kind, 2), ROW(kind, 3), \
                                                          ROW(kind, 4), ROW(kind, 5), ROW(kind, 6), \
                                                          ROW(kind, 7), ROW(kind, 8)};              \
    body[t->m - 1][t->n_groups - 1](t);                                                             \
  }

FAMILY(q8_0)
FAMILY(q4_0)
FAMILY(f32)
FAMILY(f16)
FAMILY(bf16)

const weir_linear_isa weir_linear_avx512 = {
    .quantize_row = quantize_row,
    .tile = {[WEIR_F32] = tile_f32,
             [WEIR_F16] = tile_f16,
             [WEIR_BF16] = tile_bf16,
             [WEIR_Q8_0] = tile_q8_0,
             [WEIR_Q4_0] = tile_q4_0},
    .groups_one = {1, 1, 1, 1, 1},
    .groups_many = {2, 2, 2, 2, 2},
};
