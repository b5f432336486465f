/* SPDX-License-Identifier: Apache-2.0 */
/* Activations as F16 panels (layout: matmul_kernels.h): how one warp converts one row of one chunk. Shared by
 * the matmul, which does it for few rows, and by the cast for more, so that a row becomes the same bits in
 * both.
 *
 * The chunk's largest magnitude is brought to 2^14 .. 2^15 by a power of two. So nothing overflows a half,
 * sums of 32 fit one after division by 32, tiny rows keep their digits, and what is lost is half a unit of
 * eleven bits of each element that is not 2^-29 of the largest (those below that become subnormal halves). */
#ifndef WEIR_KERNELS_CUDA_PANEL_CUH
#define WEIR_KERNELS_CUDA_PANEL_CUH
#include "kernels/cuda/cu.h"
#include "kernels/cuda/matmul_kernels.h"

/* One row of a chunk in a warp: lane l has columns 4l .. 4l+3 in lo, 128 + 4l .. in hi; zeros from cols on.
 */
struct weir_panel_row {
  float4 lo, hi;
};

CU_DEV float4 panel_quad(const float *p, int32_t left, bool aligned) {
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (left <= 0) return v; /* cols is a multiple of 32: four columns are all there or none is */
  if (aligned) return *reinterpret_cast<const float4 *>(p);
  v.x = p[0];
  v.y = p[1];
  v.z = p[2];
  v.w = p[3];
  return v;
}

/* x points to the row's first column; chunk is the chunk's number. */
CU_DEV weir_panel_row panel_load(const float *x, int32_t cols, int32_t chunk, bool aligned, int lane) {
  weir_panel_row v;
  const int32_t c = chunk * WEIR_PANEL_COLS + 4 * lane;
  v.lo = panel_quad(x + c, cols - c, aligned);
  v.hi = panel_quad(x + c + 128, cols - c - 128, aligned);
  return v;
}

CU_DEV uint32_t panel_abs_max(float4 v) {
  const uint32_t m = 0x7fffffffu;
  return max(max(__float_as_uint(v.x) & m, __float_as_uint(v.y) & m),
             max(__float_as_uint(v.z) & m, __float_as_uint(v.w) & m));
}

CU_DEV float panel_half_sum(uint2 h) { return h2lo(h.x) + h2hi(h.x) + (h2lo(h.y) + h2hi(h.y)); }

CU_DEV float *panel_scale(unsigned char *panel, int n_rows) {
  return reinterpret_cast<float *>(panel + n_rows * 544);
}
CU_DEV unsigned char *panel_sum(unsigned char *panel, int n_rows, int row) {
  return panel + n_rows * 512 + row * 32;
}

/* Row `row` of a panel of n_rows <- v. All lanes of the warp. The sums are of x as rounded: so the rounding
 * of x meets scale * code - min as a whole, which is small where its two terms are not. */
template <bool SUMS>
CU_DEV void panel_store(unsigned char *panel, int n_rows, int row, const weir_panel_row &v, int lane) {
  /* As integers, magnitudes order as they do as floats, infinities and NaN above all. */
  const uint32_t top = __reduce_max_sync(0xffffffffu, max(panel_abs_max(v.lo), panel_abs_max(v.hi)));
  const int e = (int)(top >> 23);
  const int k = e == 255 ? 0 : min(141 - e, 126); /* 127 + 14 - e; the inverse of 2^126 is the least normal */
  const float f = __uint_as_float((uint32_t)(127 + k) << 23);
  uint2 a, b;
  a.x = f2h2(v.lo.x * f, v.lo.y * f);
  a.y = f2h2(v.lo.z * f, v.lo.w * f);
  b.x = f2h2(v.hi.x * f, v.hi.y * f);
  b.y = f2h2(v.hi.z * f, v.hi.w * f);
  const int unit = (lane >> 1) ^ (row & 7);
  unsigned char *x = panel + row * 512 + unit * 16 + (lane & 1) * 8;
  *reinterpret_cast<uint2 *>(x) = a;
  *reinterpret_cast<uint2 *>(x + 256) = b;
  if (SUMS) {
    float s = panel_half_sum(a), t = panel_half_sum(b);
#pragma unroll
    for (int o = 1; o < 8; o <<= 1) {
      s += __shfl_xor_sync(0xffffffffu, s, o);
      t += __shfl_xor_sync(0xffffffffu, t, o);
    }
    if (lane % 8 == 0) {
      f16 *sum = reinterpret_cast<f16 *>(panel_sum(panel, n_rows, row));
      s *= 1.0f / 32.0f;
      t *= 1.0f / 32.0f;
      const f16 sh = f2h(s), th = f2h(t);
      sum[lane / 8] = sh;
      sum[lane / 8 + 4] = th;
      sum[lane / 8 + 8] = f2h(s - h2f(sh));
      sum[lane / 8 + 12] = f2h(t - h2f(th));
    }
  }
  if (lane == 0) panel_scale(panel, n_rows)[row] = __uint_as_float((uint32_t)(127 - k) << 23);
}

#endif
