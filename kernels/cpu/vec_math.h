/* SPDX-License-Identifier: Apache-2.0 */
/* Functions over the vector vocabulary; included after one vec_*.h. */
#ifndef WEIR_KERNELS_CPU_VEC_MATH_H
#define WEIR_KERNELS_CPU_VEC_MATH_H

/* e^r - 1 and *scale = 2^n of t = n ln2 + r, for t in -87 .. 88.37: the inside of vf_exp. */
static inline vf vf_exp_rest(vf t, vf *scale) {
  const vf shift = vf_set1(0x1.8p23f);
  const vf magic = vf_add(vf_mul(t, vf_set1(0x1.715476p0f)), shift); /* nearest integer in the low bits */
  const vf n = vf_sub(magic, shift);
  vf r = vf_sub(t, vf_mul(n, vf_set1(0.693359375f)));
  r = vf_sub(r, vf_mul(n, vf_set1(-2.12194440e-4f)));
  vf q = vf_set1(0x1.6d138p-10f);
  q = vf_add(vf_mul(q, r), vf_set1(0x1.120de4p-7f));
  q = vf_add(vf_mul(q, r), vf_set1(0x1.555518p-5f));
  q = vf_add(vf_mul(q, r), vf_set1(0x1.5554dap-3f));
  q = vf_add(vf_mul(q, r), vf_set1(0.5f));
  *scale = vf_pow2_magic(magic);
  return vf_add(vf_mul(q, vf_mul(r, r)), r);
}

/* e^x; 0 below -87, e^88.37 above 88.37, NaN for NaN. Relative error below 1.5e-7
 * (tests/kern/test_small_ops.c). x = n ln2 + r, |r| <= ln2/2: Cody and Waite's two-part reduction, then 1 + r
 * + r^2 q(r) with q of degree 4, interpolated at Chebyshev nodes (1.1e-8). Without FMA on purpose: each lane
 * is then the same sequence of roundings on every instruction set, which makes sampling bit-identical between
 * them. */
static inline vf vf_exp(vf x) {
  const vf t = vf_min(vf_set1(88.37f), vf_max(vf_set1(-87.0f), x));
  vf scale;
  const vf q = vf_add(vf_exp_rest(t, &scale), vf_set1(1.0f));
  return vf_zero_below(vf_mul(q, scale), x, -87.0f);
}

/* tanh x = z / (z + 2) with z = e^2x - 1 taken together from e^r - 1, so that nothing cancels at small x.
 * Relative error below 4e-7 (tests/kern/test_small_ops.c); 1 to the bit from 9.02 on; NaN for NaN; the same
 * bits on every instruction set. */
static inline vf vf_tanh(vf x) {
  const vf lim = vf_set1(9.02f), t = vf_min(lim, vf_max(vf_sub(vf_zero(), lim), x));
  vf scale;
  const vf q = vf_exp_rest(vf_add(t, t), &scale);
  const vf z = vf_add(vf_mul(q, scale), vf_sub(scale, vf_set1(1.0f)));
  return vf_div(z, vf_add(z, vf_set1(2.0f)));
}

/* One value through the lanes' arithmetic. */
static inline float vf_exp1(float x) {
  float out[VF_LANES];
  vf_store(out, vf_exp(vf_set1(x)));
  return out[0];
}

#endif
