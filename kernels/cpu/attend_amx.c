/* SPDX-License-Identifier: Apache-2.0 */
/* Attention with AMX's products of bfloat16, for KV in F16 and Q8_0 whose heads are whole chunks of 32;
 * others go through attend_kernel.h with AVX-512. Pure functions of their arguments; any thread; compiled for
 * these instruction sets and only called where cpu.c found them and the system lets the process use the
 * tiles.
 *
 * Nothing is rounded to bfloat16. A number of 24 bits is the sum of three of them, of 8 bits each: queries
 * and weights come in such pieces. A half has 11 bits and is two, a byte of Q8_0 is one, and its scale is
 * applied to the sums over its block (keys) or to the weights (values). Of the products of pieces those below
 * 2^-24 of the whole are left out. Sums are F32.
 *
 * Rows are taken eight at a time, an oct, so that two pieces of them fill the 16 rows or columns of a tile;
 * tiles with fewer rows are padded, and what happens to a row does not depend on the others. Positions come
 * in blocks of WEIR_ATTEND_BLOCK, as in attend_kernel.h, with an online softmax. Conversions, which are most
 * of the vector work, are shared by all octs of the tile, and run while the tiles multiply. */
#include "kernels/cpu/vec_avx512.h"
/* the vector vocabulary comes first: the kernel is written over it */
#include "kernels/cpu/attend_kernel.h"
#include "kernels/cpu/simd.h"

#define INLINE static inline __attribute__((always_inline))

/* Asks for a row that will be wanted a block later, into the second cache: the first one has no places left
 * for it beside what the tiles take in. */
INLINE void fetch_far(const char *row, size_t bytes) {
  for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
}

enum {
  OCT = 8,
  SUMS = 16 * 16,     /* floats of a tile */
  MAX_CHUNKS = 8,     /* of 32 dimensions */
  CHUNK_Q = 2 * 1024, /* bytes of an oct's queries in a chunk: pieces 0 and 1, piece 2 */
  HIGH = (int)0xffff0000
};

/* ---- tiles ---- */

/* All of 16 rows of 64 bytes. */
static void begin_tiles(void) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } c = {.palette = 1};
  for (int i = 0; i < 8; i++) c.row_bytes[i] = 64, c.rows[i] = 16;
  _Static_assert(sizeof c == 64, "a tile configuration");
  __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

/* In assembly because compilers of the day leave the memory that the intrinsics touch out of their books. */
#define ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define LOAD(t, from, step) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(from), "r"((long)(step)) : "memory")
#define STORE(t, to)   __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"((long)64) : "memory")
#define DOT(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)

/* ---- pieces ---- */

INLINE __m512 top_bits(__m512 x) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(HIGH)));
}
/* The top halves of low and high, side by side: pairs as the tiles want them. */
INLINE __m512i side_by_side(__m512 low, __m512 high) {
  const __m512i l = _mm512_srli_epi32(_mm512_castps_si512(low), 16);
  return _mm512_ternarylogic_epi32(l, _mm512_castps_si512(high), _mm512_set1_epi32(HIGH), 0xF8);
}

/* The three pieces of two vectors, side by side. */
INLINE void three_pieces(__m512 a, __m512 b, __m512i out[3]) {
  const __m512 a0 = top_bits(a), b0 = top_bits(b);
  a = _mm512_sub_ps(a, a0);
  b = _mm512_sub_ps(b, b0);
  const __m512 a1 = top_bits(a), b1 = top_bits(b);
  out[0] = side_by_side(a0, b0);
  out[1] = side_by_side(a1, b1);
  out[2] = side_by_side(_mm512_sub_ps(a, a1), _mm512_sub_ps(b, b1));
}

/* 16 elements of each of two places, side by side: to `hi` and, of halves, the rest to `lo`. NULL: zeros. */
INLINE void put_pieces(const char *a, const char *b, const bool f16, char *hi, char *lo) {
  __m512 x = _mm512_setzero_ps(), y = x;
  if (f16) {
    if (a != NULL) x = vf_load_f16((const uint16_t *)(const void *)a);
    if (b != NULL) y = vf_load_f16((const uint16_t *)(const void *)b);
    const __m512 x0 = top_bits(x), y0 = top_bits(y);
    _mm512_store_si512(hi, side_by_side(x0, y0));
    _mm512_store_si512(lo, side_by_side(_mm512_sub_ps(x, x0), _mm512_sub_ps(y, y0)));
  } else {
    if (a != NULL) x = vf_load_i8((const int8_t *)(const void *)a);
    if (b != NULL) y = vf_load_i8((const int8_t *)(const void *)b);
    _mm512_store_si512(hi, side_by_side(x, y));
  }
}

/* Pairs are dimensions i and 16 + i of a chunk; a tile has 16 positions. Positions outside [from, n): zeros.
 */
INLINE void convert_keys(const weir_attend_tile *t, const attend_rows *kv, int from, int n, const bool f16) {
  const size_t step = 2 * (size_t)t->dp, elem = f16 ? 2 : 1;
  char *hi = (char *)t->k, *lo = hi + WEIR_ATTEND_BLOCK * step;
  for (int j = 0; j < WEIR_ATTEND_BLOCK; j++, hi += step, lo += step) {
    const char *k = j >= from && j < n ? kv->k[j] : NULL;
    if (kv->next != NULL) fetch_far(kv->next->k[j], kv->row_bytes);
    for (size_t c = 0; c < (size_t)t->dp; c += 32)
      put_pieces(k ? k + c * elem : NULL, k ? k + (c + 16) * elem : NULL, f16, hi + 2 * c, lo + 2 * c);
  }
}
/* Pairs are positions i and 16 + i; a tile has 16 dimensions. */
INLINE void convert_values(const weir_attend_tile *t, const attend_rows *kv, int from, int n,
                           const bool f16) {
  const size_t step = 4 * (size_t)t->dp, elem = f16 ? 2 : 1;
  char *hi = (char *)t->v, *lo = hi + 16 * step;
  for (int j = 0; j < 16; j++, hi += step, lo += step) {
    const char *a = j >= from && j < n ? kv->v[j] : NULL,
               *b = j + 16 >= from && j + 16 < n ? kv->v[j + 16] : NULL;
    if (kv->next != NULL) {
      fetch_far(kv->next->v[j], kv->row_bytes);
      fetch_far(kv->next->v[j + 16], kv->row_bytes);
    }
    for (size_t d = 0; d < (size_t)t->dp; d += 16)
      put_pieces(a ? a + d * elem : NULL, b ? b + d * elem : NULL, f16, hi + 4 * d, lo + 4 * d);
  }
}

/* Scales of chunk c of the block's keys, or with `further` of its values; of positions outside [from, n):
 * zeros. */
static void load_scales(const weir_attend_tile *t, const attend_rows *kv, int from, int n, int c,
                        size_t further, float out[WEIR_ATTEND_BLOCK]) {
  const size_t at = (size_t)c * (size_t)t->page_size + further;
  for (int g = 0; g < WEIR_ATTEND_BLOCK; g += 16) {
    const int first = from > g ? from : g, end = n < g + 16 ? n : g + 16;
    const __mmask16 there = first < end ? (__mmask16)(((1u << (end - first)) - 1) << (first - g)) : 0;
    uint16_t h[16] = {0};
    const uint16_t *s = h;
    if (there != 0 && t->page_size % 16 == 0)
      s = kv->k_scale[first] - (first - g) + at; /* blocks begin at multiples of 32: 16 are in one page */
    else
      for (int j = first; j < end; j++) h[j - g] = kv->k_scale[j][at];
    _mm512_store_ps(out + g, _mm512_maskz_mov_ps(there, vf_load_f16(s)));
  }
}

/* ---- an oct ---- */

/* sums[p][16 positions][16]: columns r and 8 + r are row r's score, in parts; of Q8_0 each chunk has its own,
 * sums[p][chunk]. */
INLINE void score_oct(const weir_attend_tile *t, const char *q, float *sums, const bool f16) {
  const size_t step = 2 * (size_t)t->dp, second = 16 * step;
  const int chunks = t->dp / 32;
  const char *hi = (const char *)t->k, *lo = hi + WEIR_ATTEND_BLOCK * step;
  if (f16) {
    ZERO(0);
    ZERO(1);
  }
  for (int c = 0; c < chunks; c++, hi += 64, lo += 64, q += CHUNK_Q) {
    LOAD(6, q, 64);
    LOAD(4, hi, step);
    LOAD(2, hi + second, step);
    LOAD(7, q + CHUNK_Q / 2, 64);
    if (f16) {
      DOT(0, 4, 6);
      DOT(1, 2, 6);
      LOAD(5, lo, step);
      LOAD(3, lo + second, step);
      DOT(0, 5, 6);
      DOT(1, 3, 6);
      DOT(0, 4, 7);
      DOT(1, 2, 7);
    } else {
      ZERO(0);
      ZERO(1);
      DOT(0, 4, 6);
      DOT(1, 2, 6);
      DOT(0, 4, 7);
      DOT(1, 2, 7);
      STORE(0, sums + (size_t)c * SUMS);
      STORE(1, sums + (size_t)(chunks + c) * SUMS);
    }
  }
  if (f16) {
    STORE(0, sums);
    STORE(1, sums + SUMS);
  }
}

/* The parts of eight rows' scores at a position (low half) and the fourth behind it, added. */
INLINE __m512 two_positions(const float *at) {
  const float *behind = at + 4 * 16;
  const __m512 a = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_load_ps(at)), _mm256_load_ps(behind), 1);
  const __m512 b =
      _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_load_ps(at + 8)), _mm256_load_ps(behind + 8), 1);
  return _mm512_add_ps(a, b);
}

/* e^x for x <= 0; 0 below -87, NaN for NaN. vf_exp's reduction and polynomial, with FMA. */
INLINE __m512 exp_down(__m512 x) {
  const __mmask16 some = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  const __m512 t = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(t, _mm512_set1_ps(0x1.715476p0f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), t);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 q = _mm512_set1_ps(0x1.6d138p-10f);
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.120de4p-7f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.555518p-5f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.5554dap-3f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.5f));
  q = _mm512_add_ps(_mm512_fmadd_ps(q, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(some, q, n);
}

INLINE __m256 fold_max(__m512 x) { return _mm256_max_ps(_mm512_castps512_ps256(x), vf_high(x)); }
INLINE __m512 twice(__m256 x) { return _mm512_insertf32x8(_mm512_castps256_ps512(x), x, 1); }

/* Eight rows of the tile from r on, in one block. */
typedef struct oct {
  int32_t r, n, at;  /* the first row, their number, the block's first position */
  bool whole;        /* all of them see all of the block */
  uint32_t see[OCT]; /* bit j: the row sees position at + j */
  float fade[OCT];
} oct;

static void look_at(const weir_attend_tile *t, int32_t r, int32_t at, oct *o) {
  o->r = r;
  o->n = t->n_rows - r < OCT ? t->n_rows - r : OCT;
  o->at = at;
  o->whole = true;
  for (int32_t i = 0; i < OCT; i++) {
    const int64_t last = i < o->n ? (int64_t)t->pos[r + i] - at : -1,
                  first = i < o->n ? t->from[r + i] - at : 0;
    uint32_t see = last < 0 ? 0 : last >= 31 ? UINT32_MAX : (1u << (last + 1)) - 1;
    if (first > 0) see = first > 31 ? 0 : see & ~((1u << first) - 1);
    o->see[i] = see;
    if (i < o->n && see != UINT32_MAX) o->whole = false;
  }
}

/* Vectors of two positions of eight rows each, as two_positions makes them -> w[row][32 positions]. */
INLINE void by_rows(__m512 x[2][2][4], __m512 w[OCT][2]) {
  for (int p = 0; p < 2; p++) {
    __m512 y[2][4];
    for (int h = 0; h < 2; h++) {
      const __m512 a = _mm512_unpacklo_ps(x[p][h][0], x[p][h][1]),
                   b = _mm512_unpackhi_ps(x[p][h][0], x[p][h][1]);
      const __m512 c = _mm512_unpacklo_ps(x[p][h][2], x[p][h][3]),
                   d = _mm512_unpackhi_ps(x[p][h][2], x[p][h][3]);
      y[h][0] = _mm512_shuffle_ps(a, c, _MM_SHUFFLE(1, 0, 1, 0));
      y[h][1] = _mm512_shuffle_ps(a, c, _MM_SHUFFLE(3, 2, 3, 2));
      y[h][2] = _mm512_shuffle_ps(b, d, _MM_SHUFFLE(1, 0, 1, 0));
      y[h][3] = _mm512_shuffle_ps(b, d, _MM_SHUFFLE(3, 2, 3, 2));
    }
    for (int i = 0; i < 4; i++) {
      w[i][p] = _mm512_shuffle_f32x4(y[0][i], y[1][i], _MM_SHUFFLE(2, 0, 2, 0));
      w[i + 4][p] = _mm512_shuffle_f32x4(y[0][i], y[1][i], _MM_SHUFFLE(3, 1, 3, 1));
    }
  }
}

/* Scores -> weights w[row][32 positions]; m and l follow, and fade. */
INLINE void soften_oct(weir_attend_tile *t, oct *o, const float *sums, float (*key_scale)[WEIR_ATTEND_BLOCK],
                       __m512 w[OCT][2], const bool f16) {
  const int chunks = t->dp / 32;
  __m512 x[2][2][4], top = _mm512_set1_ps(-INFINITY);
  for (int p = 0; p < 2; p++)
    for (int h = 0; h < 2; h++)
      for (int i = 0; i < 4; i++) {
        const int at = 8 * h + i; /* and the fourth behind it */
        if (f16) {
          x[p][h][i] = two_positions(sums + p * SUMS + at * 16);
        } else {
          __m512 s = _mm512_setzero_ps();
          for (int c = 0; c < chunks; c++) {
            const float *d = key_scale[c] + 16 * p + at;
            const __m512 scale = _mm512_mask_mov_ps(_mm512_set1_ps(d[0]), 0xff00, _mm512_set1_ps(d[4]));
            s = _mm512_fmadd_ps(two_positions(sums + (p * chunks + c) * SUMS + at * 16), scale, s);
          }
          x[p][h][i] = s;
        }
      }
  if (t->softcap > 0.0f)
    for (int v = 0; v < 16; v++) {
      __m512 *s = &x[v / 8][v / 4 % 2][v % 4];
      *s = _mm512_mul_ps(_mm512_set1_ps(t->softcap), vf_tanh(*s));
    }
  if (!o->whole) {
    const __m256i see = _mm256_loadu_si256((const __m256i *)(const void *)o->see);
    const __m512i sees = _mm512_inserti32x8(_mm512_castsi256_si512(see), see, 1);
    for (int v = 0; v < 16; v++) {
      __m512 *s = &x[v / 8][v / 4 % 2][v % 4];
      const int at = 16 * (v / 8) + 8 * (v / 4 % 2) + v % 4;
      const __m512i bit = _mm512_mask_mov_epi32(_mm512_set1_epi32((int)(1u << at)), 0xff00,
                                                _mm512_set1_epi32((int)(1u << (at + 4))));
      *s = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), _mm512_test_epi32_mask(sees, bit), *s);
    }
  }
  for (int v = 0; v < 16; v++) top = _mm512_max_ps(top, x[v / 8][v / 4 % 2][v % 4]);
  const __mmask8 rows = (__mmask8)((1u << o->n) - 1);
  const __m256 was = _mm256_mask_loadu_ps(_mm256_set1_ps(-INFINITY), rows, t->m + o->r);
  const __m256 m = _mm256_max_ps(was, fold_max(top));
  /* a row that has seen nothing yet: any number will do */
  const __m256 safe = _mm256_maskz_mov_ps(_mm256_cmp_ps_mask(m, _mm256_set1_ps(-INFINITY), _CMP_NEQ_UQ), m);
  const __m512 fade = exp_down(_mm512_castps256_ps512(_mm256_sub_ps(was, safe))), less = twice(safe);
  __m512 sum = _mm512_setzero_ps();
  for (int v = 0; v < 16; v++) {
    __m512 *s = &x[v / 8][v / 4 % 2][v % 4];
    *s = exp_down(_mm512_sub_ps(*s, less));
    sum = _mm512_add_ps(sum, *s);
  }
  const __m256 f = _mm512_castps512_ps256(fade), l = _mm256_maskz_loadu_ps(rows, t->l + o->r);
  const __m256 total = _mm256_add_ps(_mm512_castps512_ps256(sum), vf_high(sum));
  _mm256_storeu_ps(o->fade, f);
  uint8_t live = 0; /* a row that sees nothing of this is left as it is */
  for (int i = 0; i < OCT; i++) live |= (uint8_t)((o->see[i] != 0) << i);
  _mm256_mask_storeu_ps(t->m + o->r, live & rows, m);
  _mm256_mask_storeu_ps(t->l + o->r, live & rows, _mm256_fmadd_ps(l, f, total));
  by_rows(x, w);
}

/* Weights, times the values' scales of a chunk if there are such, -> two tiles: pieces 0 and 1, piece 2. */
INLINE void put_weights(const oct *o, __m512 w[OCT][2], const float *scale, char *tiles) {
  for (int r = 0; r < OCT; r++) {
    __m512i piece[3];
    __m512 a = w[r][0], b = w[r][1];
    if (scale != NULL) { /* what a row does not see may have any scale */
      a = _mm512_maskz_mul_ps((__mmask16)o->see[r], a, _mm512_load_ps(scale));
      b = _mm512_maskz_mul_ps((__mmask16)(o->see[r] >> 16), b, _mm512_load_ps(scale + 16));
    }
    three_pieces(a, b, piece);
    _mm512_store_si512(tiles + r * 64, piece[0]);
    _mm512_store_si512(tiles + (OCT + r) * 64, piece[1]);
    _mm512_store_si512(tiles + (16 + r) * 64, piece[2]);
  }
}

/* out[dimension/16][16][16] <- weights by values, of the dimensions [begin, end): rows r and 8 + r are row
 * r's, in parts. */
INLINE void sum_values(const weir_attend_tile *t, const char *weights, int begin, int end, float *out,
                       const bool f16) {
  const size_t step = 4 * (size_t)t->dp;
  const char *hi = (const char *)t->v, *lo = hi + 16 * step;
  LOAD(4, weights, 64);
  LOAD(5, weights + 1024, 64);
  for (int d = begin; d < end; d += 32) {
    const int e = d + 16;
    ZERO(0);
    ZERO(1);
    LOAD(6, hi + 4 * d, step);
    LOAD(7, hi + 4 * e, step);
    DOT(0, 4, 6);
    DOT(1, 4, 7);
    if (f16) {
      LOAD(2, lo + 4 * d, step);
      LOAD(3, lo + 4 * e, step);
      DOT(0, 4, 2);
      DOT(1, 4, 3);
    }
    DOT(0, 5, 6);
    DOT(1, 5, 7);
    STORE(0, out + d * 16);
    STORE(1, out + e * 16);
  }
}

/* acc of row i of the oct follows. */
INLINE void add_row(weir_attend_tile *t, const oct *o, int i, const float *sums) {
  float *acc = t->acc + (size_t)(o->r + i) * (size_t)t->dp;
  const __m512 fade = _mm512_set1_ps(o->fade[i]);
  for (int32_t d = 0; d < t->dp; d += 16) {
    const float *s = sums + d * 16 + i * 16;
    const __m512 sum = _mm512_add_ps(_mm512_load_ps(s), _mm512_load_ps(s + OCT * 16));
    _mm512_storeu_ps(acc + d, _mm512_fmadd_ps(_mm512_loadu_ps(acc + d), fade, sum));
  }
}

/* Values that are no finite numbers meet rows that do not see them, whose weights of 0 do not help: each row
 * by itself, with zeros for what it does not see. */
static __attribute__((noinline)) void add_apart(weir_attend_tile *t, const attend_rows *kv, const oct *o,
                                                const char *weights, float *sums, int from, int n) {
  attend_rows quiet = *kv;
  quiet.next = NULL;
  for (int i = 0; i < o->n; i++) {
    if (o->see[i] == 0) continue;
    convert_values(t, &quiet, __builtin_ctz(o->see[i]), 32 - __builtin_clz(o->see[i]), true);
    sum_values(t, weights, 0, t->dp, sums, true);
    add_row(t, o, i, sums);
  }
  convert_values(t, &quiet, from, n, true);
}

static bool all_finite(const float *sums, int32_t n) {
  __m512 x = _mm512_setzero_ps();
  for (int32_t i = 0; i < n; i += 16) x = _mm512_fmadd_ps(_mm512_load_ps(sums + i), _mm512_setzero_ps(), x);
  return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) == 0;
}

/* ---- a block ---- */

INLINE void take_block(weir_attend_tile *t, const attend_rows *kv, int32_t at, int from, int n,
                       const bool f16) {
  const int chunks = t->dp / 32;
  const int32_t octs = (t->n_rows + OCT - 1) / OCT;
  _Alignas(64) float sums[2][2 * MAX_CHUNKS * SUMS]; /* of an oct and of the next, by turns */
  _Alignas(64) float out[16 * MAX_CHUNKS * 32];
  _Alignas(64) float key_scale[MAX_CHUNKS][WEIR_ATTEND_BLOCK], value_scale[MAX_CHUNKS][WEIR_ATTEND_BLOCK];
  _Alignas(64) char weights[2 * 1024];
  const char *q = (const char *)t->q;
  const size_t oct_q = (size_t)chunks * CHUNK_Q;
  for (int r = OCT; r < 16; r++) _mm512_store_si512(weights + (16 + r) * 64, _mm512_setzero_si512());
  convert_keys(t, kv, from, n, f16);
  score_oct(t, q, sums[0], f16);
  for (int c = 0; c < chunks && !f16; c++) {
    load_scales(t, kv, from, n, c, 0, key_scale[c]);
    load_scales(t, kv, from, n, c, t->v_bytes / sizeof(uint16_t), value_scale[c]);
  }
  convert_values(t, kv, from, n, f16);
  for (int32_t i = 0; i < octs; i++) {
    oct o;
    __m512 w[OCT][2];
    if (i + 1 < octs) score_oct(t, q + (size_t)(i + 1) * oct_q, sums[(i + 1) % 2], f16);
    look_at(t, i * OCT, at, &o);
    soften_oct(t, &o, sums[i % 2], key_scale, w, f16);
    if (f16) {
      put_weights(&o, w, NULL, weights);
      sum_values(t, weights, 0, t->dp, out, true);
    } else {
      for (int c = 0; c < chunks; c++) {
        put_weights(&o, w, value_scale[c], weights);
        sum_values(t, weights, 32 * c, 32 * c + 32, out, false);
      }
    }
    if (f16 && !o.whole && !all_finite(out, 16 * t->dp)) {
      add_apart(t, kv, &o, weights, out, from, n);
      continue;
    }
    for (int r = 0; r < o.n; r++)
      if (o.see[r] != 0) add_row(t, &o, r, out);
  }
}
static __attribute__((noinline)) void take_f16(weir_attend_tile *t, const attend_rows *kv, int32_t at,
                                               int from, int n) {
  take_block(t, kv, at, from, n, true);
}
static __attribute__((noinline)) void take_q8_0(weir_attend_tile *t, const attend_rows *kv, int32_t at,
                                                int from, int n) {
  take_block(t, kv, at, from, n, false);
}

/* ---- the table ---- */

/* By what does not change while a model runs, as the bits are others. Conversions are for whole octs: groups
 * of fewer query heads are faster without. */
static bool takes(const weir_attend_tile *t) {
  return t->type != WEIR_F32 && t->group >= OCT && t->head_dim % 32 == 0 && t->head_dim <= 32 * MAX_CHUNKS;
}

/* Pairs of dimensions i and 16 + i, by 16 columns: pieces 0 of eight rows and their pieces 1; pieces 2. */
static void load_q(weir_attend_tile *t) {
  if (!takes(t)) {
    attend_load_q(t);
    return;
  }
  const int chunks = t->dp / 32;
  char *q = (char *)t->q;
  memset(q, 0, (size_t)((t->n_rows + OCT - 1) / OCT) * (size_t)chunks * CHUNK_Q);
  for (int32_t r = 0; r < t->n_rows; r++)
    for (int c = 0; c < chunks; c++) {
      const float *in = t->q_in[r] + 32 * c;
      const __m512 s = _mm512_set1_ps(t->scale);
      __m512i piece[3];
      three_pieces(_mm512_mul_ps(_mm512_loadu_ps(in), s), _mm512_mul_ps(_mm512_loadu_ps(in + 16), s), piece);
      char *to = q + (size_t)(r / OCT * chunks + c) * CHUNK_Q + (size_t)(r % OCT) * 4;
      for (int p = 0; p < 3; p++) {
        _Alignas(64) uint32_t pair[16];
        _mm512_store_si512(pair, piece[p]);
        char *at = to + (p == 1 ? OCT * 4 : p == 2 ? CHUNK_Q / 2 : 0);
        for (int i = 0; i < 16; i++) memcpy(at + i * 64, &pair[i], 4);
      }
    }
}

static void run(weir_attend_tile *t, int32_t begin, int32_t end) {
  if (!takes(t)) {
    attend_run(t, begin, end);
    return;
  }
  attend_rows rows[2];             /* of this block and the next, by turns */
  const int32_t seen = t->from[0]; /* by any row */
  if (seen >= end) return;
  if (seen > begin) begin += (seen - begin) / WEIR_ATTEND_BLOCK * WEIR_ATTEND_BLOCK;
  begin_tiles();
  find_rows(&rows[0], t, begin, seen > begin ? (int)(seen - begin) : 0, block_len(begin, end));
  int turn = 0;
  for (int32_t at = begin; at < end; at += WEIR_ATTEND_BLOCK, turn ^= 1) {
    const int n = block_len(at, end), from = seen > at ? (int)(seen - at) : 0;
    attend_rows *kv = &rows[turn], *next = NULL;
    if (at + WEIR_ATTEND_BLOCK < end) { /* not beyond: the next call's first rows would be gone by then */
      next = &rows[turn ^ 1];
      find_rows(next, t, at + WEIR_ATTEND_BLOCK, 0, block_len(at + WEIR_ATTEND_BLOCK, end));
    }
    kv->next = next;
    if (t->type == WEIR_F16)
      take_f16(t, kv, at, from, n);
    else
      take_q8_0(t, kv, at, from, n);
  }
  __asm__ volatile("tilerelease" ::: "memory");
}

const weir_attend_kernel weir_attend_amx = {
    .load_q = load_q, .start = attend_start, .run = run, .merge = attend_merge, .finish = attend_finish};
