/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of quant: the conversion of one block of each type. Blocks have no alignment. */
#ifndef WEIR_KERNELS_QUANT_BLOCK_H
#define WEIR_KERNELS_QUANT_BLOCK_H
#include <stdbool.h>
#include <stdint.h>

/* Whether a scale is finite and stays so as a half. */
bool weir_scale_fits(float d);

void weir_dequantize_q4_k(const uint8_t *block, float *dst);
void weir_dequantize_q5_k(const uint8_t *block, float *dst);
void weir_dequantize_q6_k(const uint8_t *block, float *dst);

/* False when the elements do not fit (*scale: the one that is too large or not a number); the block is then
 * not written. */
bool weir_quantize_q4_k(const float *x, uint8_t *block, float *scale);
bool weir_quantize_q5_k(const float *x, uint8_t *block, float *scale);
bool weir_quantize_q6_k(const float *x, uint8_t *block, float *scale);

#endif
