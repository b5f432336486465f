/* SPDX-License-Identifier: Apache-2.0 */
/* Four neighbouring floats of a row at a time: one 16-byte access where the row allows it, four of 4 bytes
 * where it does not. Both forms give a thread the same elements, so results do not depend on alignment. */
#ifndef WEIR_KERNELS_CUDA_QUAD_CUH
#define WEIR_KERNELS_CUDA_QUAD_CUH
#include "kernels/cuda/cu.h"

/* `left` elements from p on are in the row (0 or less: none, p is not looked at); those beyond it read as 0
 * and are not written. With ALIGNED, a quad is in the row or it is not. */
template <bool ALIGNED>
CU_DEV float4 quad_load(const float *p, int left) {
  float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
  if (ALIGNED) {
    if (left > 0) v = *reinterpret_cast<const float4 *>(p);
    return v;
  }
  if (left > 0) v.x = p[0];
  if (left > 1) v.y = p[1];
  if (left > 2) v.z = p[2];
  if (left > 3) v.w = p[3];
  return v;
}

template <bool ALIGNED>
CU_DEV void quad_store(float *p, float4 v, int left) {
  if (ALIGNED) {
    if (left > 0) *reinterpret_cast<float4 *>(p) = v;
    return;
  }
  if (left > 0) p[0] = v.x;
  if (left > 1) p[1] = v.y;
  if (left > 2) p[2] = v.z;
  if (left > 3) p[3] = v.w;
}

CU_DEV float4 quad_add(float4 a, float4 b) {
  const float4 v = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  return v;
}

/* a * s * b, in this order of roundings, as the CPU has it. */
CU_DEV float4 quad_scale(float4 a, float s, float4 b) {
  const float4 v = {a.x * s * b.x, a.y * s * b.y, a.z * s * b.z, a.w * s * b.w};
  return v;
}

CU_DEV float quad_square(float4 v) { return v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w); }

/* The sum over each aligned run of N lanes, in all of them; the whole warp calls it. */
template <int N>
CU_DEV float lanes_sum(float v) {
#pragma unroll
  for (int o = N / 2; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

#endif
