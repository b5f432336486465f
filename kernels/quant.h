/* SPDX-License-Identifier: Apache-2.0 */
/* Conversion between F32 and stored rows: the scalar reference that devices and tests agree on. */
#ifndef WEIR_KERNELS_QUANT_H
#define WEIR_KERNELS_QUANT_H
#include <stdint.h>

#include "kernels/dtype.h"

/* IEEE half and bfloat16, round to nearest even; NaN stays NaN. */
float weir_f16_to_f32(uint16_t h);
uint16_t weir_f32_to_f16(float f);
float weir_bf16_to_f32(uint16_t b);
uint16_t weir_f32_to_bf16(float f);

/* dst[n] <- stored row src of type t; n a multiple of the block. */
weir_status weir_dequantize_row(weir_dtype t, const void *src, float *dst, int64_t n, weir_err *e);

/* stored row dst of type t <- src[n]; n a multiple of the block. Q8_0: d = max|x|/127, nearest, ties away
 * from zero; Q4_0, Q5_0: d = x_m/-8 or x_m/-16 with x_m the element of the largest magnitude (ggml's
 * published rules, so that files are the same as its own). The K types: a search of our own for scales and
 * mins of little error (quant_k.c). Deterministic. Error when a quantised block holds an infinity or NaN or
 * its scale does not fit a half; blocks before it are then written. */
weir_status weir_quantize_row(weir_dtype t, const float *src, void *dst, int64_t n, weir_err *e);

#endif
