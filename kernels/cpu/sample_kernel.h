/* SPDX-License-Identifier: Apache-2.0 */
/* The stages of sampling that read logits (weir_sample_chunks), over the vector vocabulary; included by
 * simd_*.c after a vec_*.h. Everything goes 16 logits at a time with the roundings of vf_exp and fixed trees,
 * so that all instruction sets give the same bits. */
#ifndef WEIR_KERNELS_CPU_SAMPLE_KERNEL_H
#define WEIR_KERNELS_CPU_SAMPLE_KERNEL_H
#include <math.h>
#include <string.h>

#include "kernels/cpu/vec_math.h"
#include "kernels/sample_core.h"

enum {
  VF_PER16 = 16 / VF_LANES,
  SAMPLE_FOLD = 256
}; /* after so many logits float sums are put into a double */

/* 16 logits from l + i, -inf behind the end. */
static inline void load16(vf x[VF_PER16], const float *l, int32_t i, int32_t n) {
  for (int g = 0; g < VF_PER16; g++) {
    const int32_t at = i + g * VF_LANES, left = n - at;
    x[g] = left >= VF_LANES ? vf_load(l + at)
                            : vf_fill_from(vf_load_n(l + (left > 0 ? at : 0), left > 0 ? (int)left : 0),
                                           left > 0 ? (int)left : 0, -INFINITY);
  }
}
static inline double fold16(vf x[VF_PER16]) {
  float f[16];
  double a[8];
  for (int g = 0; g < VF_PER16; g++) vf_store(f + g * VF_LANES, x[g]), x[g] = vf_zero();
  for (int i = 0; i < 8; i++) a[i] = (double)f[i] + (double)f[i + 8];
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}
static inline uint32_t ge16(const vf a[VF_PER16], float b) {
  uint32_t bits = 0;
  for (int g = 0; g < VF_PER16; g++) bits |= vf_ge_bits(a[g], vf_set1(b)) << (g * VF_LANES);
  return bits;
}
static inline uint32_t eq16(const vf a[VF_PER16], float b) {
  uint32_t bits = 0;
  for (int g = 0; g < VF_PER16; g++) bits |= vf_eq_bits(a[g], vf_set1(b)) << (g * VF_LANES);
  return bits;
}
static inline vf weight(vf x, const weir_sample_law *law) {
  return vf_exp(vf_div(vf_sub(x, vf_set1(law->max)), vf_set1(law->temperature)));
}

static void sample_stat(const float *l, int32_t first, int32_t n, weir_sample_stat *out) {
  vf m1[VF_PER16], m2[VF_PER16], x[VF_PER16], sum[VF_PER16], dot[VF_PER16];
  for (int g = 0; g < VF_PER16; g++) {
    m1[g] = m2[g] = vf_set1(-INFINITY);
    sum[g] = dot[g] = vf_zero();
  }
  for (int32_t i = 0; i < n; i += 16) {
    load16(x, l, i, n);
    for (int g = 0; g < VF_PER16; g++) { /* a NaN gives way here and shows in the sum below */
      m2[g] = vf_max(vf_min(x[g], m1[g]), m2[g]);
      m1[g] = vf_max(x[g], m1[g]);
    }
  }
  float a[16], b[16];
  for (int g = 0; g < VF_PER16; g++) vf_store(a + g * VF_LANES, m1[g]), vf_store(b + g * VF_LANES, m2[g]);
  float max = -INFINITY, second = -INFINITY;
  for (int i = 0; i < 16; i++) {
    if (a[i] > max) {
      second = max > b[i] ? max : b[i];
      max = a[i];
    } else if (a[i] > second) {
      second = a[i];
    }
  }
  int32_t top = first;
  for (int32_t i = 0; i < n; i += 16) {
    load16(x, l, i, n);
    const uint32_t bits = eq16(x, max);
    if (bits != 0) {
      top = first + i + __builtin_ctz(bits);
      break;
    }
  }
  /* e times (l - max) of a masked id is 0 * -inf: hence the floor under l - max, where e is 0 already */
  const vf from = vf_set1(max > -INFINITY ? max : 0), floor_d = vf_set1(-200.0f);
  double s = 0, d = 0;
  for (int32_t i = 0; i < n;) {
    const int32_t end = n - i < SAMPLE_FOLD ? n : i + SAMPLE_FOLD;
    for (; i < end; i += 16) {
      load16(x, l, i, n);
      for (int g = 0; g < VF_PER16; g++) {
        const vf down = vf_max(floor_d, vf_sub(x[g], from)), e = vf_exp(down);
        sum[g] = vf_add(sum[g], e);
        dot[g] = vf_add(dot[g], vf_mul(e, down));
      }
    }
    s += fold16(sum);
    d += fold16(dot);
  }
  *out = (weir_sample_stat){.max = max, .second = second, .top = top, .sum = s, .dot = d};
}

/* Few ids get past the last of the best, so what is put in costs little. */
static void sample_top(const float *l, int32_t first, int32_t n, weir_sample_top *io) {
  for (int32_t i = 0; i < n; i += 16) {
    vf x[VF_PER16];
    load16(x, l, i, n);
    const float least = io->n == io->want ? io->logit[io->want - 1] : -INFINITY;
    uint32_t bits = ge16(x, least);
    if (bits == 0) continue;
    for (bits &= ~eq16(x, least); bits != 0; bits &= bits - 1) {
      const int j = __builtin_ctz(bits);
      weir_sample_top_add(io, first + i + j, l[i + j]);
    }
  }
}

/* Distances to the maximum in bins of level 0, from 0; the last bin takes all that is farther. */
static inline void distances16(float f[16], const vf x[VF_PER16], const weir_sample_law *law, float scale) {
  for (int g = 0; g < VF_PER16; g++)
    vf_store(f + g * VF_LANES,
             vf_min(vf_mul(vf_sub(vf_set1(law->max), x[g]), vf_set1(scale)), vf_set1(WEIR_SAMPLE_BINS - 1)));
}

static void sample_hist(const float *l, int32_t n, const weir_sample_law *law, const weir_sample_cut *c,
                        weir_sample_hist *h) {
  /* What has no mass (below 2^-40 = e^-27.73, here with slack) does not matter to a search by mass. */
  const float far = c->by_mass ? 28.5f * 64 : INFINITY;
  const float bin = (float)(WEIR_SAMPLE_BINS - 1 - c->bin);
  for (int32_t i = 0; i < n; i += 16) {
    const int m = n - i < 16 ? (int)(n - i) : 16;
    vf x[VF_PER16];
    float f[16], w[16];
    load16(x, l, i, n);
    distances16(f, x, law, c->bin_scale);
    uint32_t bits = 0;
    for (int g = 0; g < VF_PER16; g++) {
      const vf d = vf_load(f + g * VF_LANES);
      const uint32_t here = c->level == 0 ? vf_ge_bits(vf_set1(far), d)
                                          : vf_ge_bits(d, vf_set1(bin)) & ~vf_ge_bits(d, vf_set1(bin + 1));
      bits |= here << (g * VF_LANES);
    }
    if (m < 16) bits &= (1u << m) - 1;
    if (bits == 0) continue;
    for (int g = 0; g < VF_PER16; g++) vf_store(w + g * VF_LANES, weight(x[g], law));
    if (c->level == 0) {
      for (int j = 0; j < m; j++) {
        const int32_t b = WEIR_SAMPLE_BINS - 1 - (int32_t)f[j];
        h->count[b]++;
        h->mass[b] += weir_sample_mass(w[j]);
      }
      continue;
    }
    for (; bits != 0; bits &= bits - 1) {
      const int j = __builtin_ctz(bits);
      const uint32_t key = weir_sample_key(l[i + j]);
      if (weir_sample_digits(key, c->level - 1) != c->prefix) continue;
      const uint32_t b = weir_sample_bin(key, c->level);
      h->count[b]++;
      h->mass[b] += weir_sample_mass(w[j]);
    }
  }
}

static int32_t sample_ties(const float *l, int32_t n, uint32_t key) {
  const float f = weir_sample_unkey(key);
  int32_t ties = 0;
  for (int32_t i = 0; i < n; i += 16) {
    vf x[VF_PER16];
    load16(x, l, i, n);
    uint32_t bits = eq16(x, f);
    if (n - i < 16) bits &= (1u << (n - i)) - 1;
    ties += __builtin_popcount(bits);
  }
  return ties;
}

static void sample_weigh(const float *l, int32_t n, const weir_sample_law *law, float *w) {
  for (int32_t i = 0; i < n; i += 16) {
    vf x[VF_PER16];
    float f[16];
    load16(x, l, i, n);
    for (int g = 0; g < VF_PER16; g++) vf_store(f + g * VF_LANES, weight(x[g], law));
    memcpy(w + i, f, sizeof *f * (size_t)(n - i < 16 ? n - i : 16));
  }
}

/* Adding the 0 of one that does not race changes no bit. */
static double sample_mass(const float *l, int32_t first, int32_t n, const weir_sample_law *law) {
  const float least = weir_sample_unkey(law->min_key);
  vf sum[VF_PER16];
  double s = 0;
  for (int g = 0; g < VF_PER16; g++) sum[g] = vf_zero();
  for (int32_t i = 0; i < n;) {
    const int32_t end = n - i < SAMPLE_FOLD ? n : i + SAMPLE_FOLD;
    for (; i < end; i += 16) {
      vf x[VF_PER16], w[VF_PER16];
      load16(x, l, i, n);
      uint32_t bits = ge16(x, least);
      if (bits == 0) continue;
      for (int g = 0; g < VF_PER16; g++) w[g] = weight(x[g], law);
      bits &= ge16(w, law->min_w);
      if (law->end_ties < first + i + 16)
        for (uint32_t ties = eq16(x, least) & bits; ties != 0; ties &= ties - 1)
          if (first + i + __builtin_ctz(ties) >= law->end_ties) bits &= ~(ties & (0u - ties));
      if (bits != 0xffff) {
        float f[16];
        for (int g = 0; g < VF_PER16; g++) vf_store(f + g * VF_LANES, w[g]);
        for (int j = 0; j < 16; j++)
          if (!(bits >> j & 1)) f[j] = 0;
        for (int g = 0; g < VF_PER16; g++) w[g] = vf_load(f + g * VF_LANES);
      }
      for (int g = 0; g < VF_PER16; g++) sum[g] = vf_add(sum[g], w[g]);
    }
    s += fold16(sum);
  }
  return s;
}

static void sample_race(const float *l, int32_t first, int32_t n, const weir_sample_law *law,
                        weir_sample_win *out) {
  /* The most likely id sets the mark for every chunk. Its weight is exactly 1, and it is never cut. */
  weir_sample_win win = law->head;
  if (law->top >= 0) {
    const weir_noise4 head = weir_noise_quad(law->seed, law->pos, law->purpose, (uint32_t)law->top / 4);
    win = (weir_sample_win){weir_sample_arrival(head.v[law->top % 4], 1.0f), law->top, law->max};
  }
  float least = weir_sample_race_floor(law, win.at);
  for (int32_t i = 0; i < n; i += 64) {
    vf x[4][VF_PER16];
    uint64_t bits = 0;
    for (int q = 0; q < 4; q++) {
      load16(x[q], l, i + 16 * q, n);
      bits |= (uint64_t)ge16(x[q], least) << (16 * q);
    }
    if (bits == 0) continue;
    uint32_t noise[64];
    float w[64];
    vf_noise64(noise, law->seed, law->pos, law->purpose, (uint32_t)(first + i) / 4);
    const vf mark =
        vf_set1(win.at < 1e30 ? (float)(win.at * (1 + 1e-5)) /* far above the roundings of float */
                              : INFINITY);
    for (int q = 0; q < 4; q++) {
      uint32_t may = 0;
      for (int g = 0; g < VF_PER16; g++) {
        const vf e = weight(x[q][g], law);
        vf_store(w + 16 * q + g * VF_LANES, e);
        may |= vf_ge_bits(vf_mul(e, mark), vf_unit_under(noise + 16 * q + g * VF_LANES)) << (g * VF_LANES);
      }
      bits &= ~(0xffffull << (16 * q)) | (uint64_t)may << (16 * q);
    }
    for (; bits != 0; bits &= bits - 1) {
      const int j = __builtin_ctzll(bits);
      const int32_t id = first + i + j;
      /* -log1p(-u) >= u; the last factor is far above the roundings of these doubles, so that what is skipped
       * does not depend on the mark of the moment */
      if (!(w[j] > 0) || i + j >= n || w[j] < law->min_w ||
          weir_noise_unit(noise[j]) > win.at * (double)w[j] * (1 + 1e-12))
        continue;
      const uint32_t key = weir_sample_key(l[i + j]);
      if (key < law->min_key || (key == law->min_key && id >= law->end_ties)) continue;
      const weir_sample_win it = {weir_sample_arrival(noise[j], w[j]), id, l[i + j]};
      const weir_sample_win first_of = weir_sample_first(win, it);
      if (first_of.at < win.at) least = weir_sample_race_floor(law, first_of.at);
      win = first_of;
    }
  }
  *out = win;
}

#endif
