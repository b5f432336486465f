/* SPDX-License-Identifier: Apache-2.0 */
/* The linear's arithmetic with AVX2, FMA and F16C. Pure functions of their arguments; any thread; compiled
 * for that instruction set and only called where cpu.c found it.
 *
 * Sixteen registers hold four rows of x by half a group of weights: their sums of a block in 16 bits, and
 * those of all blocks as floats. Sums in 16 bits must not saturate: Q8_0 multiplies |w| <= 128 with
 * sign(w) x, at most 2 * 128 * 127 = 32512 a pair; four bits leave room for a whole block,
 * 16 * 15 * 127 = 30480 a lane, five for half of one, 8 * 31 * 127 = 31496, six for two quads,
 * 4 * 63 * 127 = 32004. */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/unroll.h"

enum { LANES = WEIR_PACK_ROWS, QUADS = WEIR_PACK_QUADS, BLOCK = 32, SUB = 4 };

/* A value that compilers leave where it is in a chain of sums: made into a tree, sums of a block take more
 * than sixteen registers. */
#define KEEP(v) __asm__("" : "+x"(v))

static uint32_t max_of(__m256i v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return (uint32_t)_mm_cvtsi128_si32(m);
}

static int32_t sum_of(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

/* 32 integers of -127 .. 127 as bytes, in order. */
static __m256i bytes_of(const __m256i v[4]) {
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static void quantize_row(const float *x, int32_t n_blocks, const weir_panel_form *f, uint8_t *panel,
                         int32_t m, int32_t i) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (int32_t b = 0; b < n_blocks; b++, x += BLOCK) {
    __m256i top = _mm256_setzero_si256();
    for (int32_t k = 0; k < BLOCK; k += 8)
      top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + k)), magnitude));
    const uint32_t most = max_of(top);
    float a, d = 0.0f;
    memcpy(&a, &most, sizeof a);
    __m256i q = _mm256_setzero_si256();
    int32_t low = 0, high = 0;
    if (most >= 0x7f800000u) {
      d = __builtin_nanf("");
    } else if (most >= WEIR_TINY_BITS) {
      d = a / 127.0f;
      const __m256 inverse = _mm256_set1_ps(127.0f / a);
      __m256i v[4];
      for (int32_t k = 0; k < 4; k++)
        v[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * k), inverse));
      low = sum_of(_mm256_add_epi32(v[0], v[1]));
      high = sum_of(_mm256_add_epi32(v[2], v[3]));
      q = bytes_of(v);
    }
    uint8_t *at = weir_panel_put(f, panel, m, b, i, d, low, high);
    _mm256_storeu_si256((__m256i *)at, q);
  }
}

INLINE __m256i broadcast4(const uint8_t *p) {
  int32_t v;
  memcpy(&v, p, sizeof v);
  return _mm256_set1_epi32(v);
}

INLINE float float_at(const uint8_t *p) {
  float v;
  memcpy(&v, p, sizeof v);
  return v;
}

INLINE __m256i load(const uint8_t *p) { return _mm256_load_si256((const __m256i *)p); }
INLINE __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)p)); }

/* The lines ahead that fall to rows [i0, i0 + n) of a tile, some at each block. */
typedef struct lines {
  const uint8_t *at, *end;
  int32_t step;
} lines;

INLINE lines lines_of(const weir_tile *t, int32_t i0, int32_t n, int32_t n_blocks) {
  const int32_t from = (int32_t)((int64_t)t->ahead_lines * i0 / t->m);
  const int32_t to = (int32_t)((int64_t)t->ahead_lines * (i0 + n) / t->m);
  return (lines){t->ahead + (size_t)from * 64, t->ahead + (size_t)to * 64,
                 (to - from + n_blocks - 1) / n_blocks};
}

INLINE void fetch(lines *l) {
  for (int32_t i = 0; i < l->step && l->at < l->end; i++, l->at += 64)
    _mm_prefetch((const char *)l->at, _MM_HINT_T1);
}

/* ---- quantised weights ---- */

/* What a type's blocks are made of; with `type` known to the compiler all of it folds away. */
INLINE int n_bits(const weir_dtype type) {
  return type == WEIR_Q8_0 ? 8 : type == WEIR_Q6_K ? 6 : type == WEIR_Q5_0 || type == WEIR_Q5_K ? 5 : 4;
}
INLINE bool has_mins(const weir_dtype type) { return type == WEIR_Q4_K || type == WEIR_Q5_K; }
INLINE bool is_super(const weir_dtype type) { return has_mins(type) || type == WEIR_Q6_K; }

INLINE __m256i shift_left(const __m256i v, const int by) {
  switch (by) {
    case 4: return _mm256_slli_epi16(v, 4);
    case 3: return _mm256_slli_epi16(v, 3);
    case 2: return _mm256_slli_epi16(v, 2);
    case 1: return _mm256_slli_epi16(v, 1);
    case 0: return v;
    case -1: return _mm256_srli_epi16(v, 1);
    case -2: return _mm256_srli_epi16(v, 2);
    default: return _mm256_srli_epi16(v, 3);
  }
}

/* Rows 8h .. 8h+7 of quad k + 4*high of a block, k < 4, unsigned, as bytes. */
INLINE __m256i quad(const weir_dtype type, const uint8_t *q, const int k, const int high, const int h) {
  const int bits = n_bits(type);
  if (bits == 8) return load(q + (k + 4 * high) * QUADS + h * 32);
  const int above = bits - 4; /* vectors before the nibbles */
  __m256i v = load(q + (above + k) * QUADS + h * 32);
  if (high) v = _mm256_srli_epi16(v, 4);
  v = _mm256_and_si256(v, _mm256_set1_epi8(15));
  if (bits == 5) {
    const __m256i top = shift_left(load(q + h * 32), high ? -k : 4 - k);
    v = _mm256_or_si256(v, _mm256_and_si256(top, _mm256_set1_epi8(0x10)));
  } else if (bits == 6) {
    const __m256i top = shift_left(load(q + high * QUADS + h * 32), 4 - 2 * k);
    v = _mm256_or_si256(v, _mm256_and_si256(top, _mm256_set1_epi8(0x30)));
  }
  return v;
}

/* dot[i] += the quads `from` .. `to` - 1 of rows 8h .. 8h+7 of a block; rows of x at xq, 32 bytes apart. */
INLINE void dots(const weir_dtype type, __m256i dot[SUB], const uint8_t *q, const uint8_t *xq, const int from,
                 const int to, const int h, const int n) {
  const __m256i ones = _mm256_set1_epi16(1);
  /* Quads whose 16-bit sums can be added before they are widened. */
  const int bits = n_bits(type), run = bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
  UNROLL for (int k0 = from; k0 < to; k0 += run) {
    __m256i sum[SUB];
    UNROLL for (int k = k0; k < k0 + run; k++) {
      __m256i w = quad(type, q, k % 4, k / 4, h), w_signed = w;
      if (bits == 8) {
        w_signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128)); /* minus 128 */
        w = _mm256_abs_epi8(w_signed);
      }
      UNROLL for (int i = 0; i < n; i++) {
        __m256i x = broadcast4(xq + i * BLOCK + 4 * k);
        if (bits == 8) x = _mm256_sign_epi8(x, w_signed);
        const __m256i two = _mm256_maddubs_epi16(w, x);
        sum[i] = k == k0 ? two : _mm256_add_epi16(sum[i], two);
        KEEP(sum[i]);
      }
    }
    UNROLL for (int i = 0; i < n; i++) {
      dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(sum[i], ones));
      KEEP(dot[i]);
    }
  }
}

INLINE __m256 bytes_unsigned(const uint8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
INLINE __m256 bytes_signed(const uint8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

/* Block b of the unit at w, whose quads are at q, for rows 8h .. 8h+7: acc[i] of n rows of x, the first of
 * which has its bytes at xq, its scale at xd and its first field at `field`, others m * 4 behind that. */
INLINE void block(const weir_dtype type, __m256 acc[SUB], const uint8_t *w, const int b, const uint8_t *q,
                  const uint8_t *xq, const uint8_t *xd, const uint8_t *field, const int32_t m, const int h,
                  const int n) {
  const __m256i none = _mm256_setzero_si256();
  __m256i dot[SUB];
  UNROLL for (int i = 0; i < n; i++) dot[i] =
      has_mins(type) || n_bits(type) == 8 ? none : broadcast4(field + 4 * i);
  dots(type, dot, q, xq, 0, type == WEIR_Q6_K ? 4 : 8, h, n);
  if (type == WEIR_Q6_K) {
    const uint8_t *scale = w + WEIR_PACK_Q6_SCALE + b * 2 * LANES + h * 8;
    const __m256 d = halves(w + h * 16);
    const __m256 first = _mm256_mul_ps(d, bytes_signed(scale));
    __m256 part[SUB]; /* t of linear.h */
    UNROLL for (int i = 0; i < n; i++) {
      part[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[i]), first);
      dot[i] = broadcast4(field + 4 * (m + i));
    }
    dots(type, dot, q, xq, 4, 8, h, n);
    const __m256 second = _mm256_mul_ps(d, bytes_signed(scale + LANES));
    UNROLL for (int i = 0; i < n; i++) {
      part[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i]), second, part[i]);
      acc[i] = _mm256_fmadd_ps(part[i], _mm256_set1_ps(float_at(xd + 4 * i)), acc[i]);
    }
  } else if (has_mins(type)) {
    const uint8_t *scale = w + WEIR_PACK_SCALES + b * LANES + h * 8;
    const __m256 first = _mm256_mul_ps(halves(w + h * 16), bytes_unsigned(scale));
    const __m256 low = _mm256_mul_ps(halves(w + LANES * 2 + h * 16), bytes_unsigned(scale + 8 * LANES));
    UNROLL for (int i = 0; i < n; i++) {
      __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[i]), first);
      part = _mm256_fmadd_ps(low, _mm256_set1_ps(float_at(field + 4 * i)), part);
      acc[i] = _mm256_fmadd_ps(part, _mm256_set1_ps(float_at(xd + 4 * i)), acc[i]);
    }
  } else {
    const __m256 dw = halves(w + b * LANES * 2 + h * 16);
    UNROLL for (int i = 0; i < n; i++) {
      const __m256 d = _mm256_mul_ps(dw, _mm256_set1_ps(float_at(xd + 4 * i)));
      acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i]), d, acc[i]);
    }
  }
}

/* Rows i0 .. i0+n of the tile against group j. A unit is done for the upper half of its rows, then for the
 * lower, with the sums of the other in memory: both at once are more than sixteen registers. */
INLINE void quant(const weir_tile *t, const weir_dtype type, int32_t j, int32_t i0, const int n) {
  const int block_bytes = n_bits(type) * QUADS, n_blocks = is_super(type) ? 8 : 2;
  const int scales = is_super(type) ? WEIR_PACK_K_SCALES : WEIR_PACK_SCALES;
  const uint8_t *w = t->w + (size_t)j * t->group_bytes, *x = t->panel;
  const int32_t ld = t->n_groups * LANES, m = t->m, panel_bytes = t->block_bytes, field_at = t->field_at;
  float *const out = t->acc + (i0 * t->n_groups + j) * LANES;
  __m256 acc[2][SUB];
  UNROLL for (int i = 0; i < n; i++) acc[0][i] = acc[1][i] = _mm256_setzero_ps();
  lines ahead = lines_of(t, i0, n, t->depth * n_blocks);
  for (int32_t u = 0; u < t->depth; u++, w += scales + n_blocks * block_bytes, x += n_blocks * panel_bytes) {
    UNROLL for (int h = 0; h < 2; h++) {
      for (int b = 0; b < n_blocks; b++) {
        const uint8_t *at = x + b * panel_bytes;
        if (h == 0) fetch(&ahead);
        block(type, acc[h], w, b, w + scales + b * block_bytes, at + BLOCK * i0, at + BLOCK * m + 4 * i0,
              at + field_at + 4 * i0, m, h, n);
      }
    }
  }
  UNROLL for (int i = 0; i < n; i++) UNROLL for (int h = 0; h < 2; h++)
      _mm256_store_ps(out + i * ld + h * 8, acc[h][i]);
}

/* ---- float weights ---- */

/* Eight rows at two k, as floats. */
INLINE void lanes(const uint8_t *w, const weir_dtype type, __m256 v[2]) {
  const __m256i pairs = load(w);
  if (type == WEIR_BF16) {
    v[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    v[1] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int32_t)0xffff0000)));
  } else {
    const __m256i sort = _mm256_set_epi8(15, 14, 11, 10, 7, 6, 3, 2, 13, 12, 9, 8, 5, 4, 1, 0, 15, 14, 11, 10,
                                         7, 6, 3, 2, 13, 12, 9, 8, 5, 4, 1, 0);
    const __m256i h = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(pairs, sort), 0xd8);
    v[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
    v[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
  }
}

INLINE void floats(const weir_tile *t, const weir_dtype type, int32_t j, int32_t i0, const int n) {
  const uint8_t *w = t->w + (size_t)j * t->group_bytes;
  const float *x = (const float *)t->panel + i0;
  const int32_t step = type == WEIR_F32 ? 1 : 2; /* k of a vector */
  __m256 acc[SUB][2];
  for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  for (int32_t k = 0; k < t->depth; k += step, w += LANES * 4, x += step * t->m) {
    for (int h = 0; h < 2; h++) {
      __m256 wv[2];
      if (type == WEIR_F32)
        wv[0] = _mm256_load_ps((const float *)(const void *)(w + h * 32));
      else
        lanes(w + h * 32, type, wv);
      for (int i = 0; i < n; i++) acc[i][h] = _mm256_fmadd_ps(wv[0], _mm256_set1_ps(x[i]), acc[i][h]);
      if (type == WEIR_F32 || k + 1 == t->depth) continue;
      for (int i = 0; i < n; i++) acc[i][h] = _mm256_fmadd_ps(wv[1], _mm256_set1_ps(x[t->m + i]), acc[i][h]);
    }
  }
  for (int i = 0; i < n; i++)
    for (int h = 0; h < 2; h++)
      _mm256_store_ps(t->acc + ((i0 + i) * t->n_groups + j) * LANES + h * 8, acc[i][h]);
}

INLINE void sub_tile(const weir_tile *t, const weir_dtype type, int32_t j, int32_t i0, const int n) {
  if (type != WEIR_F32 && type != WEIR_F16 && type != WEIR_BF16)
    quant(t, type, j, i0, n);
  else
    floats(t, type, j, i0, n);
}

INLINE void tile(const weir_tile *t, const weir_dtype type) {
  for (int32_t j = 0; j < t->n_groups; j++) {
    for (int32_t i = 0; i < t->m; i += SUB) {
      switch (t->m - i) {
        case 1: sub_tile(t, type, j, i, 1); break;
        case 2: sub_tile(t, type, j, i, 2); break;
        case 3: sub_tile(t, type, j, i, 3); break;
        default: sub_tile(t, type, j, i, SUB); break;
      }
    }
  }
}

static void tile_f32(const weir_tile *t) { tile(t, WEIR_F32); }
static void tile_f16(const weir_tile *t) { tile(t, WEIR_F16); }
static void tile_bf16(const weir_tile *t) { tile(t, WEIR_BF16); }
static void tile_q8_0(const weir_tile *t) { tile(t, WEIR_Q8_0); }
static void tile_q4_0(const weir_tile *t) { tile(t, WEIR_Q4_0); }
static void tile_q5_0(const weir_tile *t) { tile(t, WEIR_Q5_0); }
static void tile_q4_k(const weir_tile *t) { tile(t, WEIR_Q4_K); }
static void tile_q5_k(const weir_tile *t) { tile(t, WEIR_Q5_K); }
static void tile_q6_k(const weir_tile *t) { tile(t, WEIR_Q6_K); }

const weir_linear_isa weir_linear_avx2 = {
    .quantize_row = quantize_row,
    .tile = {[WEIR_F32] = tile_f32,
             [WEIR_F16] = tile_f16,
             [WEIR_BF16] = tile_bf16,
             [WEIR_Q8_0] = tile_q8_0,
             [WEIR_Q4_0] = tile_q4_0,
             [WEIR_Q5_0] = tile_q5_0,
             [WEIR_Q4_K] = tile_q4_k,
             [WEIR_Q5_K] = tile_q5_k,
             [WEIR_Q6_K] = tile_q6_k},
    .groups_one = 1,
    .groups_many = 1,
};
