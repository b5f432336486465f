/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of attention over the vector vocabulary; included by simd_*.c after a vec_*.h.
 *
 * A row's arithmetic is fixed by its position alone. Positions are taken in blocks of at most 16 that never
 * cross a page, in order; a block updates the row's running maximum m, sum l and weighted values acc (online
 * softmax, Milakov and Gimelshein, arXiv 1805.02867). A score is summed over dimensions lane by lane, then by
 * a fixed tree; values are added in order of position. Rows of a tile share the block's K and V, converted to
 * F32 once, and nothing else: a row reads no position behind its own, whatever stands there. */
#ifndef WEIR_KERNELS_CPU_ATTEND_KERNEL_H
#define WEIR_KERNELS_CPU_ATTEND_KERNEL_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_math.h"

enum { VF_PER_BLOCK = WEIR_ATTEND_BLOCK / VF_LANES };

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

/* n stored rows -> F32 with zeros up to dp. `next` is what will be read next: pages are scattered, so the
 * machine's own prefetch stops at the end of each. */
static inline void load_block(float *dst, const char *src, const char *next, const weir_attend_tile *t,
                              int n) {
  const int32_t d = t->head_dim, whole = d / VF_LANES * VF_LANES;
  for (int j = 0; j < n; j++) {
    const char *from = src + (size_t)j * t->row_bytes;
    float *to = dst + (size_t)j * (size_t)t->dp;
    for (size_t b = 0; b < t->row_bytes; b += 64) __builtin_prefetch(next + (size_t)j * t->row_bytes + b);
    int32_t i = 0;
    if (t->f16) {
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
}

/* Scores of one row against the 16 keys of the block. */
static inline void score_block(vf s[VF_PER_BLOCK], const float *q, const float *k, int32_t dp) {
  for (int g = 0; g < VF_PER_BLOCK; g++) {
    vf a[VF_LANES];
    const float *kg = k + (size_t)(g * VF_LANES) * (size_t)dp;
    for (int j = 0; j < VF_LANES; j++) a[j] = vf_zero();
    for (int32_t i = 0; i < dp; i += VF_LANES) {
      const vf x = vf_load(q + i);
      for (int j = 0; j < VF_LANES; j++) a[j] = vf_fma(x, vf_load(kg + (size_t)j * (size_t)dp + i), a[j]);
    }
    s[g] = vf_hsum_each(a);
  }
}

/* acc = acc*fade + sum over j < n of p[j] v[j], j in order; `wide` vectors of the row at a time. */
static inline __attribute__((always_inline)) void add_values_wide(float *acc, const float *v, const float *p,
                                                                  int n, int32_t dp, float fade, int wide) {
  vf a[VF_WIDE];
  const vf f = vf_set1(fade);
  for (int u = 0; u < wide; u++) a[u] = vf_mul(vf_load(acc + u * VF_LANES), f);
  for (int j = 0; j < n; j++) {
    const vf w = vf_set1(p[j]);
    for (int u = 0; u < wide; u++) a[u] = vf_fma(w, vf_load(v + (size_t)j * (size_t)dp + u * VF_LANES), a[u]);
  }
  for (int u = 0; u < wide; u++) vf_store(acc + u * VF_LANES, a[u]);
}
static inline void add_values(float *acc, const float *v, const float *p, int n, int32_t dp, float fade) {
  int32_t i = 0;
  for (; i + VF_WIDE * VF_LANES <= dp; i += VF_WIDE * VF_LANES)
    add_values_wide(acc + i, v + i, p, n, dp, fade, VF_WIDE);
  for (; i + 4 * VF_LANES <= dp; i += 4 * VF_LANES) add_values_wide(acc + i, v + i, p, n, dp, fade, 4);
  for (; i < dp; i += VF_LANES) add_values_wide(acc + i, v + i, p, n, dp, fade, 1);
}

/* One row takes in a block of which it sees n positions. */
static inline void attend_block(weir_attend_tile *t, int32_t r, int n) {
  float *acc = t->acc + (size_t)r * (size_t)t->dp;
  float p[WEIR_ATTEND_BLOCK];
  vf s[VF_PER_BLOCK];
  score_block(s, t->q + (size_t)r * (size_t)t->dp, t->k, t->dp);
  vf top = vf_set1(-INFINITY);
  for (int g = 0; g < VF_PER_BLOCK; g++) {
    const int left = n - g * VF_LANES;
    if (left < VF_LANES) s[g] = vf_fill_from(s[g], left > 0 ? left : 0, -INFINITY);
    top = vf_max(top, s[g]);
  }
  const float was = t->m[r], here = vf_hmax(top), m = here > was ? here : was;
  const float fade = m == was ? 1.0f : vf_exp1(was - m); /* e^0 is 1 to the bit, so this is no other result */
  vf sum = vf_zero();
  for (int g = 0; g < VF_PER_BLOCK; g++) {
    const vf e = vf_exp(vf_sub(s[g], vf_set1(m)));
    vf_store(p + g * VF_LANES, e);
    sum = vf_add(sum, e);
  }
  t->m[r] = m;
  t->l[r] = t->l[r] * fade + vf_hsum(sum);
  add_values(acc, t->v, p, n, t->dp, fade);
}

static void attend_span(weir_attend_tile *t, int32_t begin, int32_t end) {
  for (int32_t r = 0; r < t->n_rows; r++) {
    t->m[r] = -INFINITY;
    t->l[r] = 0;
    memset(t->acc + (size_t)r * (size_t)t->dp, 0, sizeof(float) * (size_t)t->dp);
  }
  for (int32_t at = begin; at < end;) {
    const int32_t slot = at % t->page_size;
    int32_t n = t->page_size - slot;
    if (n > WEIR_ATTEND_BLOCK) n = WEIR_ATTEND_BLOCK;
    if (n > end - at) n = end - at;
    const int32_t after = at + n < end ? at + n : at;
    const char *k = t->kv + (size_t)t->page[at / t->page_size] * t->page_bytes + (size_t)slot * t->row_bytes;
    const char *next = t->kv + (size_t)t->page[after / t->page_size] * t->page_bytes +
                       (size_t)(after % t->page_size) * t->row_bytes;
    load_block(t->k, k, next, t, (int)n);
    load_block(t->v, k + t->v_bytes, next + t->v_bytes, t, (int)n);
    /* scores of absent keys are thrown away, but stale ones could be slow (denormal) or trap a sanitizer */
    if (n < WEIR_ATTEND_BLOCK)
      memset(t->k + (size_t)n * (size_t)t->dp, 0,
             sizeof(float) * (size_t)(WEIR_ATTEND_BLOCK - n) * (size_t)t->dp);
    for (int32_t r = 0; r < t->n_rows; r++) {
      const int32_t sees = t->pos[r] - at + 1 < n ? t->pos[r] - at + 1 : n;
      if (sees > 0) attend_block(t, r, (int)sees);
    }
    at += n;
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

#endif
