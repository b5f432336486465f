/* SPDX-License-Identifier: Apache-2.0 */
/* Super-blocks of 256: Q4_K, Q5_K and Q6_K to and from floats. Pure functions; any thread.
 *
 * From floats, by least squared error, every element alike: inputs of a linear do not know which of its
 * weights are large. First each part is fitted alone, from several first guesses of its range, by rounding to
 * the grid and least squares over the rounded, in turn. Then the parts' scales (and mins) are rounded to
 * multiples of the super-block's, looking one step to either side with the elements rounded anew, and the
 * super-block's are fitted to all elements. The work is bounded and sums have one order, so the same floats
 * give the same bytes everywhere. Sums run in eight lanes that compilers can keep in vector registers. */
#include <math.h>
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/quant.h"
#include "kernels/quant_block.h"

enum {
  GUESSES = 10,  /* of the range of a part */
  TURNS = 2,     /* of rounding and least squares for each */
  ROUNDS = 2,    /* of rounding the parts' scales and fitting the super-block's */
  MOST_6BIT = 63 /* scales and mins of Q4_K and Q5_K */
};

/* ---- to floats ---- */

void weir_dequantize_q4_k(const uint8_t *block, float *dst) {
  weir_block_q4_k b;
  memcpy(&b, block, sizeof b);
  const float d = weir_f16_to_f32(b.d), dmin = weir_f16_to_f32(b.dmin);
  for (int32_t p = 0; p < WEIR_K_PARTS; p++) {
    uint8_t scale, min;
    weir_k_scale(b.scale, p, &scale, &min);
    const float step = d * (float)scale, low = dmin * (float)min;
    for (int32_t k = p * WEIR_QK; k < (p + 1) * WEIR_QK; k++)
      dst[k] = step * (float)weir_q4_k_bits(&b, k) - low;
  }
}

void weir_dequantize_q5_k(const uint8_t *block, float *dst) {
  weir_block_q5_k b;
  memcpy(&b, block, sizeof b);
  const float d = weir_f16_to_f32(b.d), dmin = weir_f16_to_f32(b.dmin);
  for (int32_t p = 0; p < WEIR_K_PARTS; p++) {
    uint8_t scale, min;
    weir_k_scale(b.scale, p, &scale, &min);
    const float step = d * (float)scale, low = dmin * (float)min;
    for (int32_t k = p * WEIR_QK; k < (p + 1) * WEIR_QK; k++)
      dst[k] = step * (float)weir_q5_k_bits(&b, k) - low;
  }
}

void weir_dequantize_q6_k(const uint8_t *block, float *dst) {
  weir_block_q6_k b;
  memcpy(&b, block, sizeof b);
  const float d = weir_f16_to_f32(b.d);
  for (int32_t k = 0; k < WEIR_QK_K; k++)
    dst[k] = d * (float)b.scale[k / 16] * (float)(weir_q6_k_bits(&b, k) - 32);
}

/* ---- a part: n elements as step * q - low, q of low_q .. high_q ---- */

typedef struct grid {
  int32_t n;         /* 16 or 32 */
  float first, last; /* q */
} grid;

static const grid grid4 = {32, 0.0f, 15.0f}, grid5 = {32, 0.0f, 31.0f}, grid6 = {16, -32.0f, 31.0f};

/* Vectors of the compiler's: on x86-64 those of the base instruction set. */
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));

static inline v4 all4(float f) { return (v4){f, f, f, f}; }
static inline v4 load4(const float *x) {
  v4 v;
  memcpy(&v, x, sizeof v);
  return v;
}
static inline float sum4(v4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }

/* The nearest of 0 .. most, a whole number. Truncation rounds, for by then nothing is negative. */
static inline v4 nearest4(v4 scaled, v4 most) {
  const v4 up = (v4)((i4)scaled & (scaled > 0.0f));
  const i4 over = up > most;
  const v4 held = (v4)(((i4)most & over) | ((i4)up & ~over));
  return __builtin_convertvector(__builtin_convertvector(held + 0.5f, i4), v4);
}

static float inverse(float step) {
  const float i = 1.0f / step;
  return isfinite(i) ? i : 0.0f;
}

/* Sums over a part whose elements are rounded to the grid. */
typedef struct moments {
  float q, qq, x, xq;
  float error; /* squares of x - (step * q - low) */
} moments;

/* Rounds the part to the grid under this step and low; q[n] <- where to when not NULL. */
static inline moments round_part(grid g, const float *x, float step, float low, float *q) {
  const v4 is = all4(inverse(step)), first = all4(g.first), most = all4(g.last - g.first);
  v4 sq = {0}, sqq = {0}, sx = {0}, sxq = {0}, se = {0};
  for (int32_t k = 0; k < g.n; k += 4) {
    const v4 xv = load4(x + k), y = xv + low;
    const v4 qv = nearest4(y * is - first, most) + first, miss = y - step * qv;
    sq += qv;
    sqq += qv * qv;
    sx += xv;
    sxq += xv * qv;
    se += miss * miss;
    if (q) memcpy(q + k, &qv, sizeof qv);
  }
  return (moments){sum4(sq), sum4(sqq), sum4(sx), sum4(sxq), sum4(se)};
}

static inline float part_error(grid g, const float *x, float step, float low) {
  return round_part(g, x, step, low, NULL).error;
}

typedef struct fit {
  float step, low, error;
} fit;

static inline void keep_better(fit *best, float step, float low, float error) {
  if (error < best->error) *best = (fit){step, low, error};
}

/* Least squares over the rounded: step * q - low with low >= 0. False when nothing but zeros is left. */
static bool solve_min(int32_t n, moments s, float *step, float *low) {
  const float det = (float)n * s.qq - s.q * s.q;
  if (det > 0.0f) {
    *step = ((float)n * s.xq - s.x * s.q) / det;
    *low = (*step * s.q - s.x) / (float)n;
    if (*step > 0.0f && *low >= 0.0f) return true;
  }
  if (!(s.qq > 0.0f)) return false;
  *step = s.xq / s.qq;
  *low = 0.0f;
  return *step > 0.0f;
}

/* A part with a min: range guesses from a little more than all of it down to about four fifths, for clipping
 * the ends may pay. */
static fit fit_min(grid g, const float *x) {
  float lo = 0.0f, hi = x[0]; /* the min takes off, never adds: the grid begins at or below 0 */
  for (int32_t k = 0; k < g.n; k++) {
    lo = x[k] < lo ? x[k] : lo;
    hi = x[k] > hi ? x[k] : hi;
  }
  fit best = {0.0f, -lo, part_error(g, x, 0.0f, -lo)};
  if (!(hi > lo)) return best; /* all alike: the min alone */
  for (int32_t c = 0; c < GUESSES; c++) {
    float step = (hi - lo) / (g.last - 0.6f + 0.4f * (float)c), low = -lo;
    /* With finer steps the ends are cut off alike. */
    const float cut = 0.5f * ((hi - lo) - step * g.last);
    if (cut > 0.0f && low > cut) low -= cut;
    for (int32_t turn = 0; turn <= TURNS; turn++) {
      const moments s = round_part(g, x, step, low, NULL);
      keep_better(&best, step, low, s.error);
      if (!solve_min(g.n, s, &step, &low)) break;
    }
  }
  return best;
}

/* A part of Q6_K: the sign of the step decides which end has one more. */
static fit fit_signed(grid g, const float *x) {
  float top = 0.0f;
  for (int32_t k = 0; k < g.n; k++)
    if (fabsf(x[k]) > fabsf(top)) top = x[k];
  fit best = {0.0f, 0.0f, part_error(g, x, 0.0f, 0.0f)};
  if (top == 0.0f) return best;
  for (int32_t c = 0; c < GUESSES; c++) {
    float step = top / (g.first + 0.8f - 0.2f * (float)c);
    for (int32_t turn = 0; turn <= TURNS; turn++) {
      const moments s = round_part(g, x, step, 0.0f, NULL);
      keep_better(&best, step, 0.0f, s.error);
      if (!(s.qq > 0.0f)) break;
      step = s.xq / s.qq;
    }
  }
  return best;
}

/* ---- super-blocks ---- */

static float half_of(float f) { return weir_f16_to_f32(weir_f32_to_f16(f)); }

/* A half of at least this magnitude: of subnormals the nearest may be far below, and the largest part's scale
 * then out of reach. */
static float half_above(float f) {
  const uint16_t h = weir_f32_to_f16(f);
  const float near = weir_f16_to_f32(h);
  return fabsf(near) < fabsf(f) && fabsf(f) < 65504.0f ? weir_f16_to_f32((uint16_t)(h + 1)) : near;
}

/* The multiple of d nearest to `to`, of first .. last. */
static int32_t multiple(float to, float d, int32_t first, int32_t last) {
  const float scaled = to * inverse(d);
  if (!(scaled > (float)first)) return first;
  return scaled < (float)last ? (int32_t)floorf(scaled + 0.5f) : last;
}

/* The largest magnitude; NaN or infinity when there is one. */
static float largest(const float *x) {
  float most = 0.0f;
  for (int32_t k = 0; k < WEIR_QK_K; k++) {
    if (!isfinite(x[k])) return x[k];
    most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
  }
  return most;
}

/* Scales and mins of Q4_K and Q5_K; d and dmin hold exactly as halves. */
typedef struct min_super {
  float d, dmin, error;
  int32_t scale[WEIR_K_PARTS], min[WEIR_K_PARTS];
} min_super;

/* Multiples of s->d and s->dmin for every part, near its own fit; s->error <- what is left. */
static void round_min_super(grid g, const float *x, const fit *part, min_super *s) {
  s->error = 0.0f;
  for (int32_t p = 0; p < WEIR_K_PARTS; p++, x += WEIR_QK) {
    const int32_t centre = multiple(part[p].step, s->d, 0, MOST_6BIT);
    float best = INFINITY;
    for (int32_t scale = centre - 1; scale <= centre + 1; scale++) {
      if (scale < 0 || scale > MOST_6BIT) continue;
      /* The min that suits this scale best, and its neighbours. */
      const float step = s->d * (float)scale;
      const moments sums = round_part(g, x, step, part[p].low, NULL);
      const int32_t near = multiple((step * sums.q - sums.x) / (float)g.n, s->dmin, 0, MOST_6BIT);
      for (int32_t min = near - 1; min <= near + 1; min++) {
        if (min < 0 || min > MOST_6BIT) continue;
        const float error = part_error(g, x, step, s->dmin * (float)min);
        if (!(error < best)) continue;
        best = error;
        s->scale[p] = scale;
        s->min[p] = min;
      }
    }
    s->error += best;
  }
}

/* d and dmin by least squares over all elements as they are rounded now. */
static bool refit_min_super(grid g, const float *x, min_super *s) {
  float aa = 0, ab = 0, bb = 0, ax = 0, bx = 0; /* of a = scale * q and b = -min */
  for (int32_t p = 0; p < WEIR_K_PARTS; p++, x += WEIR_QK) {
    const float scale = (float)s->scale[p], min = -(float)s->min[p];
    const moments m = round_part(g, x, s->d * scale, s->dmin * (float)s->min[p], NULL);
    aa += scale * scale * m.qq;
    ab += scale * min * m.q;
    bb += min * min * (float)g.n;
    ax += scale * m.xq;
    bx += min * m.x;
  }
  const float det = aa * bb - ab * ab;
  float d = s->d, dmin = s->dmin;
  if (det > 0.0f) {
    d = (ax * bb - bx * ab) / det;
    dmin = (bx * aa - ax * ab) / det;
  } else if (aa > 0.0f) {
    d = ax / aa;
  }
  if (!(d > 0.0f) || !(dmin >= 0.0f) || !weir_scale_fits(d) || !weir_scale_fits(dmin)) return false;
  s->d = half_of(d);
  s->dmin = half_of(dmin);
  return true;
}

/* False when it does not fit; q[256] <- the elements' integers. */
static bool fit_min_super(grid g, const float *x, min_super *best, float *q, float *scale) {
  const float most = largest(x);
  *scale = most / MOST_6BIT; /* what the mins may need */
  if (!isfinite(most) || !weir_scale_fits(*scale)) return false;
  fit part[WEIR_K_PARTS];
  float step = 0.0f, low = 0.0f;
  for (int32_t p = 0; p < WEIR_K_PARTS; p++) {
    part[p] = fit_min(g, x + p * WEIR_QK);
    step = part[p].step > step ? part[p].step : step;
    low = part[p].low > low ? part[p].low : low;
  }
  min_super s = {.d = half_above(step / MOST_6BIT), .dmin = half_above(low / MOST_6BIT)};
  best->error = INFINITY;
  for (int32_t round = 0; round < ROUNDS; round++) {
    round_min_super(g, x, part, &s);
    if (s.error < best->error) *best = s;
    if (!refit_min_super(g, x, &s)) break;
    /* The same multiples under the new d and dmin. */
    s.error = 0.0f;
    for (int32_t p = 0; p < WEIR_K_PARTS; p++)
      s.error += part_error(g, x + p * WEIR_QK, s.d * (float)s.scale[p], s.dmin * (float)s.min[p]);
    if (s.error < best->error) *best = s;
  }
  for (int32_t p = 0; p < WEIR_K_PARTS; p++)
    round_part(g, x + p * WEIR_QK, best->d * (float)best->scale[p], best->dmin * (float)best->min[p],
               q + p * WEIR_QK);
  return true;
}

/* The inverse of weir_k_scale. */
static void put_scales(const min_super *s, uint8_t out[12]) {
  memset(out, 0, 12);
  for (int32_t p = 0; p < 4; p++) {
    out[p] = (uint8_t)(s->scale[p] | s->scale[p + 4] >> 4 << 6);
    out[p + 4] = (uint8_t)(s->min[p] | s->min[p + 4] >> 4 << 6);
    out[p + 8] = (uint8_t)((s->scale[p + 4] & 15) | (s->min[p + 4] & 15) << 4);
  }
}

bool weir_quantize_q4_k(const float *x, uint8_t *block, float *scale) {
  min_super s;
  float q[WEIR_QK_K];
  if (!fit_min_super(grid4, x, &s, q, scale)) return false;
  weir_block_q4_k b = {.d = weir_f32_to_f16(s.d), .dmin = weir_f32_to_f16(s.dmin)};
  put_scales(&s, b.scale);
  for (int32_t k = 0; k < WEIR_QK_K; k++)
    b.q[k / 64 * 32 + k % 32] |= (uint8_t)((uint32_t)q[k] << k / 32 % 2 * 4);
  memcpy(block, &b, sizeof b);
  return true;
}

bool weir_quantize_q5_k(const float *x, uint8_t *block, float *scale) {
  min_super s;
  float q[WEIR_QK_K];
  if (!fit_min_super(grid5, x, &s, q, scale)) return false;
  weir_block_q5_k b = {.d = weir_f32_to_f16(s.d), .dmin = weir_f32_to_f16(s.dmin)};
  put_scales(&s, b.scale);
  for (int32_t k = 0; k < WEIR_QK_K; k++) {
    const uint32_t bits = (uint32_t)q[k];
    b.q[k / 64 * 32 + k % 32] |= (uint8_t)((bits & 15) << k / 32 % 2 * 4);
    b.high[k % 32] |= (uint8_t)(bits >> 4 << k / 32);
  }
  memcpy(block, &b, sizeof b);
  return true;
}

enum { Q6_PARTS = 16, Q6_PART = 16 };

/* Multiples of d for every part of Q6_K, near its own fit. Returns the error. */
static float round_signed_super(const float *x, const fit *part, float d, int32_t *scale) {
  float total = 0.0f;
  for (int32_t p = 0; p < Q6_PARTS; p++, x += Q6_PART) {
    const int32_t centre = multiple(part[p].step, d, -128, 127);
    float best = INFINITY;
    for (int32_t s = centre - 1; s <= centre + 1; s++) {
      if (s < -128 || s > 127) continue;
      const float error = part_error(grid6, x, d * (float)s, 0.0f);
      if (!(error < best)) continue;
      best = error;
      scale[p] = s;
    }
    total += best;
  }
  return total;
}

static float refit_signed_super(const float *x, float d, const int32_t *scale) {
  float aa = 0.0f, ax = 0.0f;
  for (int32_t p = 0; p < Q6_PARTS; p++, x += Q6_PART) {
    const moments m = round_part(grid6, x, d * (float)scale[p], 0.0f, NULL);
    aa += (float)(scale[p] * scale[p]) * m.qq;
    ax += (float)scale[p] * m.xq;
  }
  return aa > 0.0f ? ax / aa : d;
}

bool weir_quantize_q6_k(const float *x, uint8_t *block, float *scale) {
  const float most = largest(x);
  *scale = most / (128.0f * 31.0f); /* a little more than it may need */
  if (!isfinite(most) || !weir_scale_fits(*scale)) return false;
  fit part[Q6_PARTS];
  float top = 0.0f;
  for (int32_t p = 0; p < Q6_PARTS; p++) {
    part[p] = fit_signed(grid6, x + p * Q6_PART);
    if (fabsf(part[p].step) > fabsf(top)) top = part[p].step;
  }
  float d = half_above(top / -128.0f), best = INFINITY, best_d = d;
  int32_t s[Q6_PARTS], best_s[Q6_PARTS] = {0};
  for (int32_t round = 0; round < ROUNDS; round++) {
    const float error = round_signed_super(x, part, d, s);
    if (error < best) {
      best = error;
      best_d = d;
      memcpy(best_s, s, sizeof s);
    }
    const float next = refit_signed_super(x, d, s);
    if (!weir_scale_fits(next)) break;
    d = half_of(next);
    float total = 0.0f;
    for (int32_t p = 0; p < Q6_PARTS; p++) total += part_error(grid6, x + p * Q6_PART, d * (float)s[p], 0.0f);
    if (total < best) {
      best = total;
      best_d = d;
      memcpy(best_s, s, sizeof s);
    }
  }
  weir_block_q6_k b = {.d = weir_f32_to_f16(best_d)};
  for (int32_t p = 0; p < Q6_PARTS; p++) {
    float q[WEIR_QK];
    b.scale[p] = (int8_t)best_s[p];
    round_part(grid6, x + p * Q6_PART, best_d * (float)best_s[p], 0.0f, q);
    for (int32_t i = 0; i < Q6_PART; i++) {
      const int32_t k = p * Q6_PART + i, half = k / 128, quarter = k / 32 % 4, bits = (int32_t)q[i] + 32;
      b.q[64 * half + 32 * (quarter % 2) + k % 32] |= (uint8_t)((bits & 15) << quarter / 2 * 4);
      b.high[32 * half + k % 32] |= (uint8_t)(bits >> 4 << 2 * quarter);
    }
  }
  memcpy(block, &b, sizeof b);
  return true;
}
