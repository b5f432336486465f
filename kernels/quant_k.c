/* SPDX-License-Identifier: Apache-2.0 */
/* Super-blocks of 256: Q4_K, Q5_K and Q6_K to and from floats. Pure functions; any thread. */
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/quant.h"
#include "kernels/quant_block.h"

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
