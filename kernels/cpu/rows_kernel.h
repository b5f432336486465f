/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels that work on one row at a time, over the vector vocabulary: RMSNorm, activations, rotation.
 * Included by simd_*.c after a vec_*.h. Every result is a function of the row alone. */
#ifndef WEIR_KERNELS_CPU_ROWS_KERNEL_H
#define WEIR_KERNELS_CPU_ROWS_KERNEL_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/quant.h"

/* resid += delta when there is one; the sum of squares of it. Element i is in lane i%L of accumulator
 * (i/L)%4. */
static inline float add_square(float *resid, const float *delta, int32_t n) {
  vf a[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
  int32_t i = 0;
  for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES)
    for (int u = 0; u < 4; u++) {
      vf x = vf_load(resid + i + u * VF_LANES);
      if (delta != NULL) {
        x = vf_add(x, vf_load(delta + i + u * VF_LANES));
        vf_store(resid + i + u * VF_LANES, x);
      }
      a[u] = vf_fma(x, x, a[u]);
    }
  for (int u = 0; i < n; i += VF_LANES, u++) {
    const int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
    vf x = vf_load_n(resid + i, m);
    if (delta != NULL) {
      x = vf_add(x, vf_load_n(delta + i, m));
      vf_store_n(resid + i, x, m);
    }
    a[u] = vf_fma(x, x, a[u]);
  }
  return vf_hsum(vf_add(vf_add(a[0], a[2]), vf_add(a[1], a[3])));
}

static inline void scale_row(float *y, const float *x, const float *w, float scale, int32_t n) {
  const vf s = vf_set1(scale);
  int32_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), s), vf_load(w + i)));
  if (i < n) {
    const int m = (int)(n - i);
    vf_store_n(y + i, vf_mul(vf_mul(vf_load_n(x + i, m), s), vf_load_n(w + i, m)), m);
  }
}

static inline float inverse_rms(float square, float eps, int32_t n) {
  return 1.0f / sqrtf(square / (float)n + eps);
}

static void add_rmsnorm(float *y, float *resid, const float *delta, const float *w, float eps, int32_t n) {
  const float square = add_square(resid, delta, n);
  scale_row(y, resid, w, inverse_rms(square, eps, n), n);
}

static inline vf silu_mul(vf g, vf u) {
  const vf one = vf_set1(1.0f);
  return vf_mul(vf_div(g, vf_add(one, vf_exp(vf_sub(vf_zero(), g)))), u);
}
/* 0.5 g (1 + tanh t) is g / (1 + e^-2t). */
static inline vf gelu_mul(vf g, vf u) {
  const vf one = vf_set1(1.0f), cube = vf_mul(vf_mul(vf_mul(g, g), vf_set1(0.044715f)), g);
  const vf t = vf_mul(vf_add(g, cube), vf_set1(-2 * 0.7978845608028654f)); /* -2 sqrt(2/pi) */
  return vf_mul(vf_div(g, vf_add(one, vf_exp(t))), u);
}
static inline vf act_mul(vf g, vf u, bool gelu) { return gelu ? gelu_mul(g, u) : silu_mul(g, u); }
static inline __attribute__((always_inline)) void glu_row(float *y, const float *gate, const float *up,
                                                          int32_t n, const bool gelu) {
  int32_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, act_mul(vf_load(gate + i), vf_load(up + i), gelu));
  if (i < n) {
    const int m = (int)(n - i);
    vf_store_n(y + i, act_mul(vf_load_n(gate + i, m), vf_load_n(up + i, m), gelu), m);
  }
}
static void glu(float *y, const float *gate, const float *up, weir_act act, int32_t n) {
  if (act == WEIR_ACT_GELU_TANH)
    glu_row(y, gate, up, n, true);
  else
    glu_row(y, gate, up, n, false);
}

static void softcap(float *x, float cap, int32_t n) {
  const vf c = vf_set1(cap);
  int32_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) vf_store(x + i, vf_mul(c, vf_tanh(vf_div(vf_load(x + i), c))));
  if (i < n) {
    const int m = (int)(n - i);
    vf_store_n(x + i, vf_mul(c, vf_tanh(vf_div(vf_load_n(x + i, m), c))), m);
  }
}

static void exp_minus(float *y, const float *x, float top, int32_t n) {
  const vf t = vf_set1(top);
  int32_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, vf_exp(vf_sub(vf_load(x + i), t)));
  if (i < n) vf_store_n(y + i, vf_exp(vf_sub(vf_load_n(x + i, (int)(n - i)), t)), (int)(n - i));
}

static void add_scaled(float *y, const float *x, float w, int32_t n) {
  const vf s = vf_set1(w);
  int32_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, vf_add(vf_load(y + i), vf_mul(vf_load(x + i), s)));
  if (i < n) {
    const int m = (int)(n - i);
    vf_store_n(y + i, vf_add(vf_load_n(y + i, m), vf_mul(vf_load_n(x + i, m), s)), m);
  }
}

/* Sine and cosine of pos*f in double: a float product is off by whole hundredths of a radian at long
 * contexts. x = q*pi/2 + r, |r| <= pi/4, with pi/2 in two parts of which the first has 33 bits; then Taylor
 * up to r^13 and r^12 (below 1e-11). Plain loops without branches, which the compiler turns into vectors. */
static void rope_angles(float *cos_out, float *sin_out, int32_t pos, const float *inv_freq, float mscale,
                        int32_t n) {
  const double p = pos, size = (double)mscale;
  for (int32_t i = 0; i < n; i++) {
    const double x = p * (double)inv_freq[i];
    const double magic = x * 0x1.45f306dc9c883p-1 + 0x1.8p52; /* 2/pi; nearest integer in the low bits */
    const double q = magic - 0x1.8p52;
    const double r = (x - q * 0x1.921fb544p0) - q * 0x1.0b4611a626331p-34;
    uint64_t bits;
    memcpy(&bits, &magic, sizeof bits);
    const double z = r * r;
    double s = 1.0 / 6227020800;
    s = s * z - 1.0 / 39916800;
    s = s * z + 1.0 / 362880;
    s = s * z - 1.0 / 5040;
    s = s * z + 1.0 / 120;
    s = s * z - 1.0 / 6;
    s = s * z * r + r;
    double c = 1.0 / 479001600;
    c = c * z - 1.0 / 3628800;
    c = c * z + 1.0 / 40320;
    c = c * z - 1.0 / 720;
    c = c * z + 1.0 / 24;
    c = c * z - 0.5;
    c = c * z + 1;
    const double sw = bits & 1 ? c : s, cw = bits & 1 ? s : c;
    sin_out[i] = (float)(size * (bits & 2 ? -sw : sw));
    cos_out[i] = (float)(size * ((bits + 1) & 2 ? -cw : cw));
  }
}

/* Turns one head in place. */
static inline void turn_head(float *x, const float *cs, const float *sn, int32_t rope_dims,
                             bool interleaved) {
  const int32_t half = rope_dims / 2;
  int32_t i = 0;
  if (interleaved) {
    if (VF_PAIRS > 0)
      for (; i + VF_PAIRS <= half; i += VF_LANES / 2)
        vf_store(x + 2 * i, vf_turn_pairs(vf_load(x + 2 * i), cs + i, sn + i));
    for (; i < half; i++) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cs[i] - b * sn[i];
      x[2 * i + 1] = a * sn[i] + b * cs[i];
    }
    return;
  }
  for (; i < half; i += VF_LANES) {
    const int m = half - i < VF_LANES ? (int)(half - i) : VF_LANES;
    const vf a = vf_load_n(x + i, m), b = vf_load_n(x + half + i, m);
    const vf c = vf_load_n(cs + i, m), s = vf_load_n(sn + i, m);
    vf_store_n(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)), m);
    vf_store_n(x + half + i, vf_fma(a, s, vf_mul(b, c)), m);
  }
}

/* 32 elements -> bytes and their scale, 32 elements being whole vectors on all instruction sets. Each element
 * goes through the same roundings on all of them: to the nearest multiple of the scale as it is stored, of
 * two as near the even one. */
static inline void store_q8_0(int8_t *q, uint16_t *scale, const float *x) {
  vf most = vf_zero(), odd = vf_zero();
  for (int i = 0; i < 32; i += VF_LANES) {
    const vf a = vf_load(x + i);
    most = vf_max(most, vf_max(a, vf_sub(vf_zero(), a)));
    odd = vf_add(odd, vf_sub(a, a)); /* 0, or NaN where there is an infinity or NaN */
  }
  const float amax = vf_hmax(most);
  float bad[VF_LANES];
  vf_store(bad, vf_set1(vf_hsum(odd)));
  const uint16_t d = weir_f32_to_f16(amax / 127.0f);
  const float size = weir_f16_to_f32(d);
  if (bad[0] != 0.0f || !(size <= 65504.0f)) {
    memset(q, 0, 32);
    *scale = 0x7e00;
    return;
  }
  const vf inverse = vf_set1(size > 0.0f ? 1.0f / size : 0.0f), lim = vf_set1(127.0f);
  for (int i = 0; i < 32; i += VF_LANES)
    vf_store_i8(q + i, vf_max(vf_sub(vf_zero(), lim), vf_min(lim, vf_mul(vf_load(x + i), inverse))));
  *scale = d;
}

static inline void store_head(const weir_rope_row *a, char *dst, const float *x) {
  const int32_t n = a->head_dim;
  if (a->kv_type == WEIR_F32) {
    memcpy(dst, x, sizeof *x * (size_t)n);
    return;
  }
  if (a->kv_type == WEIR_Q8_0) {
    uint16_t *scale = (uint16_t *)(void *)(dst + a->scale_at);
    for (int32_t i = 0; i < n; i += 32, scale += a->page_size)
      store_q8_0((int8_t *)(void *)dst + i, scale, x + i);
    return;
  }
  uint16_t *d = (uint16_t *)(void *)dst;
  int32_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) vf_store_f16(d + i, vf_load(x + i));
  if (i < n) vf_store_f16_n(d + i, vf_load_n(x + i, (int)(n - i)), (int)(n - i));
}

static void rope_row(const weir_rope_row *a) {
  const int32_t d = a->head_dim;
  const size_t n_turned = (size_t)a->n_heads + (size_t)a->n_kv_heads;
  for (size_t h = 0; h < n_turned; h++) {
    float *x = a->qkv + h * (size_t)d;
    const float *norm = h < (size_t)a->n_heads ? a->q_norm : a->k_norm;
    if (norm != NULL) scale_row(x, x, norm, inverse_rms(add_square(x, NULL, d), a->norm_eps, d), d);
    turn_head(x, a->cos, a->sin, a->rope_dims, a->interleaved);
  }
  const float *k = a->qkv + (size_t)a->n_heads * (size_t)d, *v = k + (size_t)a->n_kv_heads * (size_t)d;
  for (size_t h = 0; h < (size_t)a->n_kv_heads; h++) {
    store_head(a, a->k + h * a->head_bytes, k + h * (size_t)d);
    store_head(a, a->v + h * a->head_bytes, v + h * (size_t)d);
  }
}

#endif
