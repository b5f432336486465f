/* SPDX-License-Identifier: Apache-2.0 */
/* Scalar conversion of stored rows, block by block: halves, the types with blocks of 32, and the walk over a
 * row. Super-blocks lie in quant_k.c. Pure functions; any thread. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/quant_block.h"

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

/* ---- one block to floats ---- */

static void dequantize_f32(const uint8_t *block, float *dst) { memcpy(dst, block, sizeof *dst); }

static void dequantize_f16(const uint8_t *block, float *dst) {
  uint16_t h;
  memcpy(&h, block, sizeof h);
  *dst = weir_f16_to_f32(h);
}

static void dequantize_bf16(const uint8_t *block, float *dst) {
  uint16_t h;
  memcpy(&h, block, sizeof h);
  *dst = weir_bf16_to_f32(h);
}

static void dequantize_q8_0(const uint8_t *block, float *dst) {
  weir_block_q8_0 b;
  memcpy(&b, block, sizeof b);
  const float d = weir_f16_to_f32(b.d);
  for (int32_t i = 0; i < WEIR_QK; i++) dst[i] = d * (float)b.q[i];
}

static void dequantize_q4_0(const uint8_t *block, float *dst) {
  weir_block_q4_0 b;
  memcpy(&b, block, sizeof b);
  const float d = weir_f16_to_f32(b.d);
  for (int32_t i = 0; i < WEIR_QK / 2; i++) {
    dst[i] = d * (float)((b.q[i] & 15) - 8);
    dst[i + WEIR_QK / 2] = d * (float)((b.q[i] >> 4) - 8);
  }
}

static void dequantize_q5_0(const uint8_t *block, float *dst) {
  weir_block_q5_0 b;
  memcpy(&b, block, sizeof b);
  const float d = weir_f16_to_f32(b.d);
  for (int32_t i = 0; i < WEIR_QK; i++) dst[i] = d * (float)(weir_q5_0_bits(&b, i) - 16);
}

/* ---- one block from floats ---- */

/* 1/d, and 0 where that overflows: such a d is zero as a half, so the quants do not matter. */
static float inverse(float d) {
  const float id = d != 0.0f ? 1.0f / d : 0.0f;
  return isfinite(id) ? id : 0.0f;
}

bool weir_scale_fits(float d) { return isfinite(d) && fabsf(d) < 65520.0f; }

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

static bool quantize_f32(const float *x, uint8_t *block, float *scale) {
  (void)scale;
  memcpy(block, x, sizeof *x);
  return true;
}

static bool quantize_f16(const float *x, uint8_t *block, float *scale) {
  (void)scale;
  const uint16_t h = weir_f32_to_f16(*x);
  memcpy(block, &h, sizeof h);
  return true;
}

static bool quantize_bf16(const float *x, uint8_t *block, float *scale) {
  (void)scale;
  const uint16_t h = weir_f32_to_bf16(*x);
  memcpy(block, &h, sizeof h);
  return true;
}

static bool quantize_q8_0(const float *x, uint8_t *block, float *scale) {
  const float d = *scale = fabsf(extreme(x)) / 127.0f;
  if (!weir_scale_fits(d)) return false;
  const float id = inverse(d);
  weir_block_q8_0 b = {.d = weir_f32_to_f16(d)};
  for (int32_t i = 0; i < WEIR_QK; i++) b.q[i] = (int8_t)roundf(x[i] * id);
  memcpy(block, &b, sizeof b);
  return true;
}

static uint8_t code(float scaled, int32_t zero) {
  const int8_t q = (int8_t)(scaled + ((float)zero + 0.5f));
  return (uint8_t)(q > 2 * zero - 1 ? 2 * zero - 1 : q);
}

static bool quantize_q4_0(const float *x, uint8_t *block, float *scale) {
  const float d = *scale = extreme(x) / -8.0f;
  if (!weir_scale_fits(d)) return false;
  const float id = inverse(d);
  weir_block_q4_0 b = {.d = weir_f32_to_f16(d)};
  for (int32_t i = 0; i < WEIR_QK / 2; i++)
    b.q[i] = (uint8_t)(code(x[i] * id, 8) | code(x[i + WEIR_QK / 2] * id, 8) << 4);
  memcpy(block, &b, sizeof b);
  return true;
}

static bool quantize_q5_0(const float *x, uint8_t *block, float *scale) {
  const float d = *scale = extreme(x) / -16.0f;
  if (!weir_scale_fits(d)) return false;
  const float id = inverse(d);
  weir_block_q5_0 b = {.d = weir_f32_to_f16(d)};
  for (int32_t i = 0; i < WEIR_QK; i++) {
    const uint8_t q = code(x[i] * id, 16);
    b.q[i % (WEIR_QK / 2)] |= (uint8_t)((q & 15) << (i < WEIR_QK / 2 ? 0 : 4));
    b.high[i / 8] |= (uint8_t)(q >> 4 << i % 8);
  }
  memcpy(block, &b, sizeof b);
  return true;
}

/* ---- rows ---- */

static const struct {
  void (*dequantize)(const uint8_t *block, float *dst);
  bool (*quantize)(const float *x, uint8_t *block, float *scale);
} codec[WEIR_DTYPE_COUNT] = {
    [WEIR_F32] = {dequantize_f32, quantize_f32},
    [WEIR_F16] = {dequantize_f16, quantize_f16},
    [WEIR_BF16] = {dequantize_bf16, quantize_bf16},
    [WEIR_Q8_0] = {dequantize_q8_0, quantize_q8_0},
    [WEIR_Q4_0] = {dequantize_q4_0, quantize_q4_0},
    [WEIR_Q5_0] = {dequantize_q5_0, quantize_q5_0},
    [WEIR_Q4_K] = {weir_dequantize_q4_k, weir_quantize_q4_k},
    [WEIR_Q5_K] = {weir_dequantize_q5_k, weir_quantize_q5_k},
    [WEIR_Q6_K] = {weir_dequantize_q6_k, weir_quantize_q6_k},
};

weir_status weir_dequantize_row(weir_dtype t, const void *src, float *dst, int64_t n, weir_err *e) {
  size_t bytes;
  const weir_status st = weir_dtype_row_bytes(t, n, &bytes, e);
  if (st != WEIR_OK) return st;
  const weir_dtype_info *info = weir_dtype_get(t);
  const uint8_t *p = src; /* file rows have no alignment */
  for (int64_t i = 0; i < n; i += info->block_elems, p += info->block_bytes) codec[t].dequantize(p, dst + i);
  return WEIR_OK;
}

weir_status weir_quantize_row(weir_dtype t, const float *src, void *dst, int64_t n, weir_err *e) {
  size_t bytes;
  const weir_status st = weir_dtype_row_bytes(t, n, &bytes, e);
  if (st != WEIR_OK) return st;
  const weir_dtype_info *info = weir_dtype_get(t);
  uint8_t *p = dst;
  for (int64_t i = 0; i < n; i += info->block_elems, p += info->block_bytes) {
    float scale;
    if (!codec[t].quantize(src + i, p, &scale))
      return weir_fail(e, WEIR_EINVAL, "quantize to %s: elements %lld to %lld do not fit (scale %g)",
                       info->name, (long long)i, (long long)(i + info->block_elems - 1), (double)scale);
  }
  return WEIR_OK;
}
