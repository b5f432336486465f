/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of attention over the vector vocabulary; included by simd_*.c after a vec_*.h.
 *
 * A row's arithmetic is fixed by its position alone. Positions are taken in blocks of WEIR_ATTEND_BLOCK, in
 * order; a block updates the row's running maximum m, sum l and weighted values acc (online softmax, Milakov
 * and Gimelshein, arXiv 1805.02867). A score is summed over dimensions lane by lane, then by a fixed tree;
 * values are added in order of position. Rows of a tile are worked on one, two or four at a time to share
 * loads of K and V, which are used as they lie in the pages when few rows want them and converted to F32 once
 * when many do: none of that changes what happens to a row. A row reads no position behind its own and none
 * before its window, whatever stands there; a window that begins inside a block masks its other positions and
 * one that begins behind it leaves it out, so a window that covers everything changes nothing. */
#ifndef WEIR_KERNELS_CPU_ATTEND_KERNEL_H
#define WEIR_KERNELS_CPU_ATTEND_KERNEL_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/quant.h"

#define ATTEND_INLINE static inline __attribute__((always_inline))

enum {
  VF_PER_BLOCK = WEIR_ATTEND_BLOCK / VF_LANES,
  VF_ROWS = VF_LANES >= 4 ? VF_LANES / 4 : 1, /* rows at a time: 4, 2, 1 */
  DIRECT_ROWS = 4 /* up to so many rows read F16 in place instead of a converted copy */
};

/* The rows of K and V of one block, wherever they lie; absent positions point at a present one. */
typedef struct attend_rows {
  const char *k[WEIR_ATTEND_BLOCK], *v[WEIR_ATTEND_BLOCK];
  const uint16_t *k_scale[WEIR_ATTEND_BLOCK]; /* Q8_0: of the row's first block; V's lie v_bytes further */
  const struct attend_rows *next;             /* to be fetched meanwhile; NULL: nothing */
  size_t row_bytes;
} attend_rows;

static void attend_load_q(weir_attend_tile *t) {
  const vf s = vf_set1(t->scale);
  for (int32_t r = 0; r < t->n_rows; r++) {
    float *q = t->q + (size_t)r * (size_t)t->dp;
    for (int32_t i = 0; i < t->dp; i += VF_LANES) {
      const int32_t left = t->head_dim - i;
      const int m = left < 0 ? 0 : left < VF_LANES ? (int)left : VF_LANES;
      vf_store(q + i, vf_mul(vf_load_n(t->q_in[r] + (m > 0 ? i : 0), m), s));
    }
  }
}

/* One stored row -> F32 with zeros up to dp. */
static inline void convert_row(float *to, const char *from, const uint16_t *scale,
                               const weir_attend_tile *t) {
  const int32_t d = t->head_dim, whole = d / VF_LANES * VF_LANES;
  int32_t i = 0;
  if (t->type == WEIR_Q8_0) {
    for (; i < d; i += 32, scale += t->page_size) {
      const vf s = vf_set1(weir_f16_to_f32(*scale));
      for (int u = 0; u < 32; u += VF_LANES)
        vf_store(to + i + u, vf_mul(vf_load_i8((const int8_t *)(const void *)from + i + u), s));
    }
  } else if (t->type == WEIR_F16) {
    const uint16_t *h = (const uint16_t *)(const void *)from;
    for (; i < whole; i += VF_LANES) vf_store(to + i, vf_load_f16(h + i));
    if (i < d) vf_store(to + i, vf_load_f16_n(h + i, (int)(d - i))), i += VF_LANES;
  } else {
    const float *f = (const float *)(const void *)from;
    for (; i < whole; i += VF_LANES) vf_store(to + i, vf_load(f + i));
    if (i < d) vf_store(to + i, vf_load_n(f + i, (int)(d - i))), i += VF_LANES;
  }
  for (; i < t->dp; i += VF_LANES) vf_store(to + i, vf_zero());
}

/* Asks for a row that will be wanted a block later. Spread over the work, because a burst of requests fills
 * the line buffers and stalls; needed, because pages are scattered and the machine's own prefetch ends with
 * each. */
ATTEND_INLINE void fetch_row(const char *row, size_t bytes) {
  for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b);
}

ATTEND_INLINE vf load_kv(const char *row, int32_t i, bool f16) {
  return f16 ? vf_load_f16((const uint16_t *)(const void *)row + i)
             : vf_load((const float *)(const void *)row + i);
}

/* s[r][j] <- q[r] . k[j] for R rows and all keys of the block, VF_LANES dot products at a time. */
ATTEND_INLINE void score_block(float s[][WEIR_ATTEND_BLOCK], const float *q, const attend_rows *kv,
                               int32_t dp, const int R, const bool f16) {
  const int C = VF_LANES / R;
  for (int j = 0; j < WEIR_ATTEND_BLOCK; j += C) {
    vf a[VF_LANES];
    if (kv->next != NULL)
      for (int c = 0; c < C; c++) fetch_row(kv->next->k[j + c], kv->row_bytes);
    for (int u = 0; u < VF_LANES; u++) a[u] = vf_zero();
    for (int32_t i = 0; i < dp; i += VF_LANES) {
      vf x[4];
      for (int r = 0; r < R; r++) x[r] = vf_load(q + (size_t)r * (size_t)dp + i);
      for (int c = 0; c < C; c++) {
        const vf k = load_kv(kv->k[j + c], i, f16);
        for (int r = 0; r < R; r++) a[r * C + c] = vf_fma(x[r], k, a[r * C + c]);
      }
    }
    float sum[VF_LANES];
    vf_store(sum, vf_hsum_each(a));
    for (int r = 0; r < R; r++) memcpy(&s[r][j], sum + r * C, sizeof(float) * (size_t)C);
  }
}

/* acc[r] = acc[r]*fade[r] + sum over from <= j < n of s[r][j] v[j], j in order; W vectors of each row at a
 * time. */
ATTEND_INLINE void add_values_wide(float *acc, int32_t i, const attend_rows *kv, float s[][WEIR_ATTEND_BLOCK],
                                   const float *fade, int from, int n, int32_t dp, const int R, const int W,
                                   const bool f16) {
  vf a[4][8];
  for (int r = 0; r < R; r++)
    for (int u = 0; u < W; u++)
      a[r][u] = vf_mul(vf_load(acc + (size_t)r * (size_t)dp + i + u * VF_LANES), vf_set1(fade[r]));
  for (int j = from; j < n; j++) {
    vf w[4];
    if (i == 0 && kv->next != NULL) fetch_row(kv->next->v[j], kv->row_bytes);
    for (int r = 0; r < R; r++) w[r] = vf_set1(s[r][j]);
    for (int u = 0; u < W; u++) {
      const vf v = load_kv(kv->v[j], i + u * VF_LANES, f16);
      for (int r = 0; r < R; r++) a[r][u] = vf_fma(w[r], v, a[r][u]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int u = 0; u < W; u++) vf_store(acc + (size_t)r * (size_t)dp + i + u * VF_LANES, a[r][u]);
}
ATTEND_INLINE void add_values(float *acc, const attend_rows *kv, float s[][WEIR_ATTEND_BLOCK],
                              const float *fade, int from, int n, int32_t dp, const int R, const bool f16) {
  int32_t i = 0;
  if (R <= 2 && VF_LANES * R >= 16)
    for (; i + 8 * VF_LANES <= dp; i += 8 * VF_LANES)
      add_values_wide(acc, i, kv, s, fade, from, n, dp, R, 8, f16);
  for (; i + 4 * VF_LANES <= dp; i += 4 * VF_LANES)
    add_values_wide(acc, i, kv, s, fade, from, n, dp, R, 4, f16);
  for (; i + 2 * VF_LANES <= dp; i += 2 * VF_LANES)
    add_values_wide(acc, i, kv, s, fade, from, n, dp, R, 2, f16);
  for (; i < dp; i += VF_LANES) add_values_wide(acc, i, kv, s, fade, from, n, dp, R, 1, f16);
}

/* Soft cap and window of one row's scores. Apart from what every block goes through, whose loops would
 * otherwise be slower for it. */
static __attribute__((noinline)) void bend_scores(float *score, float cap, int from) {
  if (cap > 0.0f)
    for (int i = 0; i < WEIR_ATTEND_BLOCK; i += VF_LANES)
      vf_store(score + i, vf_mul(vf_set1(cap), vf_tanh(vf_load(score + i))));
  for (int i = 0; i < from; i++) score[i] = -INFINITY;
}

/* Scores of the row -> their weights, where it sees n of them; m and l follow. Returns what fades the row's
 * past. */
ATTEND_INLINE float soften(float *score, int n, float *row_m, float *row_l) {
  vf s[VF_PER_BLOCK], top = vf_set1(-INFINITY), sum = vf_zero();
  for (int g = 0; g < VF_PER_BLOCK; g++) {
    const int left = n - g * VF_LANES;
    s[g] = vf_load(score + g * VF_LANES);
    if (left < VF_LANES) s[g] = vf_fill_from(s[g], left > 0 ? left : 0, -INFINITY);
    top = vf_max(top, s[g]);
  }
  const float was = *row_m, here = vf_hmax(top), m = here > was ? here : was;
  const float fade = m == was ? 1.0f : vf_exp1(was - m); /* e^0 is 1 to the bit, so this is no other result */
  for (int g = 0; g < VF_PER_BLOCK; g++) {
    const vf e = vf_exp(vf_sub(s[g], vf_set1(m)));
    vf_store(score + g * VF_LANES, e);
    sum = vf_add(sum, e);
  }
  *row_m = m;
  *row_l = *row_l * fade + vf_hsum(sum);
  return fade;
}

/* Values of a block in which the windows of some of the n rows from r on begin: each row by itself. Few
 * blocks are such, and what they all go through is faster without this in it. */
static __attribute__((noinline)) void add_values_apart(weir_attend_tile *t, const attend_rows *kv, int32_t r,
                                                       int n, float s[][WEIR_ATTEND_BLOCK], const float *fade,
                                                       const int *from, const int *sees, bool f16) {
  for (int i = 0; i < n; i++) {
    float *acc = t->acc + (size_t)(r + i) * (size_t)t->dp;
    if (f16)
      add_values(acc, kv, s + i, fade + i, from[i], sees[i], t->dp, 1, true);
    else
      add_values(acc, kv, s + i, fade + i, from[i], sees[i], t->dp, 1, false);
  }
}

/* R rows from r on take in the block that begins at `at` and has n positions. */
ATTEND_INLINE void attend_block(weir_attend_tile *t, const attend_rows *kv, int32_t r, int32_t at, int n,
                                const int R, const bool f16) {
  float s[4][WEIR_ATTEND_BLOCK], fade[4];
  float *acc = t->acc + (size_t)r * (size_t)t->dp;
  int from[4], sees[4], all_from = 0, all = n; /* each row's; the latest and the earliest of them */
  for (int i = 0; i < R; i++) {
    const int32_t left = t->pos[r + i] - at + 1, hidden = t->from[r + i] - at;
    sees[i] = left < n ? (int)left : n;
    from[i] = hidden > 0 ? (int)hidden : 0;
    if (sees[i] < all) all = sees[i];
    if (from[i] > all_from) all_from = from[i];
  }
  score_block(s, t->q + (size_t)r * (size_t)t->dp, kv, t->dp, R, f16);
  for (int i = 0; i < R; i++) {
    if (t->softcap > 0.0f || from[i] > 0) bend_scores(s[i], t->softcap, from[i]);
    fade[i] = soften(s[i], sees[i], &t->m[r + i], &t->l[r + i]);
  }
  if (all_from > 0) {
    add_values_apart(t, kv, r, R, s, fade, from, sees, f16);
    return;
  }
  add_values(acc, kv, s, fade, 0, all, t->dp, R, f16);
  if (R > 1) {
    static const float keep[1] = {1.0f};
    for (int i = 0; i < R; i++)
      if (sees[i] > all)
        add_values(acc + (size_t)i * (size_t)t->dp, kv, s + i, keep, all, sees[i], t->dp, 1, f16);
  }
}

ATTEND_INLINE void attend_rows_of_block(weir_attend_tile *t, attend_rows *kv, int32_t at, int n,
                                        const bool f16) {
  int32_t r = 0;
  while (r < t->n_rows && t->pos[r] < at)
    r++; /* rows come in order of position: the first may not be here yet, the last may see none of it */
  int32_t end = t->n_rows;
  while (end > r && t->from[end - 1] >= at + n) end--;
  if (VF_ROWS == 4)
    for (; r + 4 <= end; r += 4) attend_block(t, kv, r, at, n, 4, f16), kv->next = NULL;
  if (VF_ROWS >= 2)
    for (; r + 2 <= end; r += 2) attend_block(t, kv, r, at, n, 2, f16), kv->next = NULL;
  for (; r < end; r++) attend_block(t, kv, r, at, n, 1, f16), kv->next = NULL;
}

/* Where the positions at + from .. at + n - 1 are stored. */
static void find_rows(attend_rows *kv, const weir_attend_tile *t, int32_t at, int from, int n) {
  const char *k = NULL, *scale = NULL;
  for (int j = from; j < n; j++, k += t->row_bytes, scale += sizeof(uint16_t)) {
    const int32_t slot = (at + j) % t->page_size;
    if (j == from || slot == 0) {
      const char *page = t->kv + (size_t)t->page[(at + j) / t->page_size] * t->page_bytes;
      k = page + (size_t)slot * t->row_bytes;
      scale = page + t->scale_at + (size_t)slot * sizeof(uint16_t);
    }
    kv->k[j] = k;
    kv->v[j] = k + t->v_bytes;
    kv->k_scale[j] = (const uint16_t *)(const void *)scale;
  }
  for (int j = 0; j < from; j++)
    kv->k[j] = kv->k[from], kv->v[j] = kv->v[from]; /* scored, then thrown away */
  for (int j = n; j < WEIR_ATTEND_BLOCK; j++) kv->k[j] = kv->k[from], kv->v[j] = kv->v[from];
  kv->row_bytes = t->row_bytes;
}

static inline int block_len(int32_t at, int32_t end) {
  return end - at < WEIR_ATTEND_BLOCK ? (int)(end - at) : WEIR_ATTEND_BLOCK;
}

static void attend_start(weir_attend_tile *t) {
  for (int32_t r = 0; r < t->n_rows; r++) {
    t->m[r] = -INFINITY;
    t->l[r] = 0;
    memset(t->acc + (size_t)r * (size_t)t->dp, 0, sizeof(float) * (size_t)t->dp);
  }
}

/* The block's rows from `from` on as F32 in the tile's scratch. */
static void convert_block(weir_attend_tile *t, attend_rows *kv, int from, int n) {
  for (int j = 0; j < WEIR_ATTEND_BLOCK; j++) {
    float *k = t->k + (size_t)j * (size_t)t->dp, *v = t->v + (size_t)j * (size_t)t->dp;
    if (kv->next != NULL) {
      fetch_row(kv->next->k[j], t->row_bytes);
      fetch_row(kv->next->v[j], t->row_bytes);
    }
    if (j >= from && j < n) {
      const uint16_t *s = kv->k_scale[j];
      convert_row(k, kv->k[j], s, t);
      convert_row(v, kv->v[j], t->type == WEIR_Q8_0 ? s + t->v_bytes / sizeof *s : NULL, t);
    }
    kv->k[j] = (const char *)(j >= from && j < n ? k : t->k + (size_t)from * (size_t)t->dp);
    kv->v[j] = (const char *)v;
  }
  kv->next = NULL;
}

static void attend_run(weir_attend_tile *t, int32_t begin, int32_t end) {
  const bool direct =
      t->head_dim == t->dp && (t->type == WEIR_F32 || (t->type == WEIR_F16 && t->n_rows <= DIRECT_ROWS));
  attend_rows rows[2];             /* of this block and the next, by turns */
  const int32_t seen = t->from[0]; /* by any row */
  if (seen >= end) return;
  if (seen > begin) begin += (seen - begin) / WEIR_ATTEND_BLOCK * WEIR_ATTEND_BLOCK;
  find_rows(&rows[0], t, begin, seen > begin ? (int)(seen - begin) : 0, block_len(begin, end));
  int turn = 0;
  for (int32_t at = begin; at < end; at += WEIR_ATTEND_BLOCK, turn ^= 1) {
    const int n = block_len(at, end), from = seen > at ? (int)(seen - at) : 0;
    attend_rows *kv = &rows[turn], *next = NULL;
    if (at + WEIR_ATTEND_BLOCK < end) {
      next = &rows[turn ^ 1];
      find_rows(next, t, at + WEIR_ATTEND_BLOCK, 0, block_len(at + WEIR_ATTEND_BLOCK, end));
    }
    kv->next = next;
    if (!direct) convert_block(t, kv, from, n);
    if (direct && t->type == WEIR_F16)
      attend_rows_of_block(t, kv, at, n, true);
    else
      attend_rows_of_block(t, kv, at, n, false);
  }
}

static void attend_merge(float *acc, float *m, float *l, const float *acc2, float m2, float l2, int32_t dp) {
  const float top = m2 > *m ? m2 : *m;
  const float f1 = vf_exp1(*m - top), f2 = vf_exp1(m2 - top);
  const vf a = vf_set1(f1), b = vf_set1(f2);
  for (int32_t i = 0; i < dp; i += VF_LANES)
    vf_store(acc + i, vf_fma(vf_load(acc + i), a, vf_mul(vf_load(acc2 + i), b)));
  *m = top;
  *l = *l * f1 + l2 * f2;
}

static void attend_finish(float *out, const float *acc, float l, int32_t head_dim) {
  const vf s = vf_set1(1.0f / l);
  int32_t i = 0;
  for (; i + VF_LANES <= head_dim; i += VF_LANES) vf_store(out + i, vf_mul(vf_load(acc + i), s));
  if (i < head_dim) vf_store_n(out + i, vf_mul(vf_load(acc + i), s), (int)(head_dim - i));
}

#undef ATTEND_INLINE
#endif
