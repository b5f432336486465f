/* SPDX-License-Identifier: Apache-2.0 */
/* Scalar conversion of stored rows, block by block. Pure functions; any thread. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

#include "kernels/blocks.h"

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static float float_of(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

float weir_f16_to_f32(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 0x3ffu;
  if (exp == 31) return float_of(sign | 0x7f800000u | man << 13);
  if (exp == 0) return float_of(sign | bits_of((float)man * 0x1p-24f)); /* subnormals are exact in F32 */
  return float_of(sign | (exp + 112) << 23 | man << 13);
}

uint16_t weir_f32_to_f16(float f) {
  const uint32_t u = bits_of(f), a = u & 0x7fffffffu;
  const uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds beyond 65504 */
  if (a < 0x38800000u) {
    /* Subnormal: adding 2^-1 aligns the half's last place with the float's, so the sum rounds as asked. */
    return (uint16_t)(sign | (bits_of(float_of(a) + 0.5f) - 0x3f000000u));
  }
  const uint32_t even = a >> 13 & 1u;
  return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + even) >> 13));
}

float weir_bf16_to_f32(uint16_t b) { return float_of((uint32_t)b << 16); }

uint16_t weir_f32_to_bf16(float f) {
  const uint32_t u = bits_of(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static void dequantize_q8_0(const weir_block_q8_0 *b, float *dst) {
  const float d = weir_f16_to_f32(b->d);
  for (int32_t i = 0; i < WEIR_QK; i++) dst[i] = d * (float)b->q[i];
}

static void dequantize_q4_0(const weir_block_q4_0 *b, float *dst) {
  const float d = weir_f16_to_f32(b->d);
  for (int32_t i = 0; i < WEIR_QK / 2; i++) {
    dst[i] = d * (float)((b->q[i] & 15) - 8);
    dst[i + WEIR_QK / 2] = d * (float)((b->q[i] >> 4) - 8);
  }
}

weir_status weir_dequantize_row(weir_dtype t, const void *src, float *dst, int64_t n, weir_err *e) {
  size_t bytes;
  const weir_status st = weir_dtype_row_bytes(t, n, &bytes, e);
  if (st != WEIR_OK) return st;
  const uint8_t *p = src; /* file rows have no alignment */
  switch (t) {
    case WEIR_F32: memcpy(dst, src, bytes); break;
    case WEIR_F16:
    case WEIR_BF16:
      for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        dst[i] = t == WEIR_F16 ? weir_f16_to_f32(h) : weir_bf16_to_f32(h);
      }
      break;
    case WEIR_Q8_0:
      for (int64_t i = 0; i < n / WEIR_QK; i++) {
        weir_block_q8_0 b;
        memcpy(&b, p + (size_t)i * sizeof b, sizeof b);
        dequantize_q8_0(&b, dst + i * WEIR_QK);
      }
      break;
    case WEIR_Q4_0:
      for (int64_t i = 0; i < n / WEIR_QK; i++) {
        weir_block_q4_0 b;
        memcpy(&b, p + (size_t)i * sizeof b, sizeof b);
        dequantize_q4_0(&b, dst + i * WEIR_QK);
      }
      break;
    case WEIR_DTYPE_COUNT: break; /* refused above */
  }
  return WEIR_OK;
}

/* 1/d, and 0 where that overflows: such a d is zero as a half, so the quants do not matter. */
static float inverse(float d) {
  const float id = d != 0.0f ? 1.0f / d : 0.0f;
  return isfinite(id) ? id : 0.0f;
}

static weir_status check_scale(weir_dtype t, float d, int64_t block, weir_err *e) {
  if (isfinite(d) && fabsf(d) < 65520.0f) return WEIR_OK;
  return weir_fail(e, WEIR_EINVAL, "quantize to %s: elements %lld to %lld do not fit (scale %g)",
                   weir_dtype_get(t)->name, (long long)block * WEIR_QK, (long long)(block + 1) * WEIR_QK - 1,
                   d);
}

/* The element of the largest magnitude, the first of equals; NaN when there is one. */
static float extreme(const float *x) {
  float m = 0.0f;
  for (int32_t i = 0; i < WEIR_QK; i++)
    if (isnan(x[i]))
      return x[i];
    else if (fabsf(x[i]) > fabsf(m))
      m = x[i];
  return m;
}

static weir_status quantize_q8_0(const float *x, weir_block_q8_0 *b, int64_t block, weir_err *e) {
  const float d = fabsf(extreme(x)) / 127.0f;
  const weir_status st = check_scale(WEIR_Q8_0, d, block, e);
  if (st != WEIR_OK) return st;
  const float id = inverse(d);
  b->d = weir_f32_to_f16(d);
  for (int32_t i = 0; i < WEIR_QK; i++) b->q[i] = (int8_t)roundf(x[i] * id);
  return WEIR_OK;
}

static uint8_t nibble(float scaled) {
  const int8_t q = (int8_t)(scaled + 8.5f);
  return (uint8_t)(q > 15 ? 15 : q);
}

static weir_status quantize_q4_0(const float *x, weir_block_q4_0 *b, int64_t block, weir_err *e) {
  const float d = extreme(x) / -8.0f;
  const weir_status st = check_scale(WEIR_Q4_0, d, block, e);
  if (st != WEIR_OK) return st;
  const float id = inverse(d);
  b->d = weir_f32_to_f16(d);
  for (int32_t i = 0; i < WEIR_QK / 2; i++)
    b->q[i] = (uint8_t)(nibble(x[i] * id) | nibble(x[i + WEIR_QK / 2] * id) << 4);
  return WEIR_OK;
}

weir_status weir_quantize_row(weir_dtype t, const float *src, void *dst, int64_t n, weir_err *e) {
  size_t bytes;
  weir_status st = weir_dtype_row_bytes(t, n, &bytes, e);
  if (st != WEIR_OK) return st;
  uint8_t *p = dst;
  switch (t) {
    case WEIR_F32: memcpy(dst, src, bytes); break;
    case WEIR_F16:
    case WEIR_BF16:
      for (int64_t i = 0; i < n; i++) {
        const uint16_t h = t == WEIR_F16 ? weir_f32_to_f16(src[i]) : weir_f32_to_bf16(src[i]);
        memcpy(p + 2 * i, &h, sizeof h);
      }
      break;
    case WEIR_Q8_0:
      for (int64_t i = 0; i < n / WEIR_QK && st == WEIR_OK; i++) {
        weir_block_q8_0 b;
        st = quantize_q8_0(src + i * WEIR_QK, &b, i, e);
        if (st == WEIR_OK) memcpy(p + (size_t)i * sizeof b, &b, sizeof b);
      }
      break;
    case WEIR_Q4_0:
      for (int64_t i = 0; i < n / WEIR_QK && st == WEIR_OK; i++) {
        weir_block_q4_0 b;
        st = quantize_q4_0(src + i * WEIR_QK, &b, i, e);
        if (st == WEIR_OK) memcpy(p + (size_t)i * sizeof b, &b, sizeof b);
      }
      break;
    case WEIR_DTYPE_COUNT: break; /* refused above */
  }
  return st;
}
