/* SPDX-License-Identifier: Apache-2.0 */
/* The gates of a gated MLP, one element at a time. */
#ifndef WEIR_KERNELS_CUDA_ACT_CUH
#define WEIR_KERNELS_CUDA_ACT_CUH
#include "kernels/cuda/cu.h"

/* SiLU is g / (1 + e^-g); GELU by tanh, 0.5 g (1 + tanh t), is g / (1 + e^-2t). */
template <bool GELU>
CU_DEV float act_mul(float g, float up) {
  const float t = GELU ? (g + 0.044715f * g * g * g) * (2 * 0.7978845608028654f) : g; /* 2 sqrt(2/pi) */
  return g / (1.0f + expf(-t)) * up;
}

#endif
