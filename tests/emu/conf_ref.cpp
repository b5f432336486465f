/* SPDX-License-Identifier: Apache-2.0 */
/* What the cases of conf.h must give, from the definitions: IEEE 754 by exact arithmetic and one rounding,
 * matrix fragments by the formulas of the PTX ISA ("Matrix Fragments for mma.m16n8k16 with floating point
 * type", "... for mma.m16n8k32", figures and the lines "row = ..., col = ..."; "ldmatrix"). Nothing here
 * includes the emulator. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>

#include "tests/emu/conf.h"

static const struct {
  const char *name;
  conf_kind kind;
} cases[] = {
#define X(name, kind, expr) {#name, kind},
    CONF_ELEMENTWISE(X)
#undef X
#define X(name, kind) {#name, kind},
        CONF_WARP(X)
#undef X
};

const char *conf_name(int c) { return cases[c].name; }
conf_kind conf_kind_of(int c) { return cases[c].kind; }
int conf_n_out(int c) { return c < CONF_W_mma_bf16 ? CONF_N : CONF_N * CONF_OUT; }

/* --- inputs */

static uint32_t mix(uint32_t x) { /* lowbias32, Chris Wellons */
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

static float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static uint32_t bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

void conf_inputs(uint32_t *in) {
  /* Zeros, ones, the least and greatest numbers, infinities, NaNs, ties: of both 16-bit types and of floats.
   */
  static const uint32_t special[] = {0x00000000, 0x80008000, 0x3c003c00, 0xbc003f80, 0x00010001, 0x03ff8001,
                                     0x04008400, 0x7bfffbff, 0x7c00fc00, 0x7e00fe01, 0x7f80ff80, 0x7fc07f7f,
                                     0x00800080, 0x007f807f, 0x3f800000, 0x477fefff, 0x477ff000, 0x33000000,
                                     0x33000001, 0x387fe000, 0x3f808000, 0x3f818000, 0x7f7fffff, 0x7fffffff,
                                     0xffffffff, 0x80000000, 0x00000001, 0x38800fff};
  const uint32_t n_special = sizeof special / sizeof special[0];
  for (uint32_t i = 0; i < CONF_N; i++) {
    uint32_t *w = in + i * CONF_WORDS;
    for (uint32_t k = 0; k < CONF_WORDS; k++) w[k] = mix(i * CONF_WORDS + k + 1);
    for (uint32_t k = 0; k < 3; k++) {
      if (mix(w[k]) % 4 == 0) w[k] = special[mix(w[k] + 1) % n_special];
      /* Nearer exponents, where a sum rounds: both halves of 16-bit numbers around one. */
      if (mix(w[k]) % 4 == 1) w[k] = (w[k] & 0x8fff8fffu) | 0x30003000u;
    }
    for (uint32_t k = 3; k < 6; k++) w[k] = (w[k] & 0x83ffffffu) | 0x3c000000u; /* 2^-7 to 2 */
    if (i % 64 < 8) w[3] = bits((float)(int)(i / 64) - 31.5f * (float)(i % 8));
    if (i < 4) w[3] = special[i == 0 ? 0 : 25], w[4] = bits(1.f);
  }
}

/* --- 16-bit floats, exactly */

struct Format {
  int digits, least, bias, exp_bits; /* least: exponent of the least normal number */
};
static const Format HALF = {11, -14, 15, 5}, BFLOAT = {8, -126, 127, 8};

static double decode(const Format &f, uint32_t v) {
  const int m_bits = f.digits - 1, top = (1 << f.exp_bits) - 1;
  const int e = (int)(v >> m_bits) & top, m = (int)(v & ((1u << m_bits) - 1));
  const double sign = v >> 15 & 1 ? -1 : 1;
  if (e == top) return m ? (double)NAN : sign * (double)INFINITY;
  return sign * (e ? ldexp(1 + ldexp(m, -m_bits), e - f.bias) : ldexp(m, f.least - m_bits));
}

typedef __float128 quad;

/* The number nearest to x, ties to even; `x` of 0 keeps the sign of `zero`. */
static uint32_t encode(const Format &f, quad x, double zero) {
  const int m_bits = f.digits - 1;
  const uint32_t sign = (x == 0 ? signbit(zero) != 0 : x < 0) ? 0x8000u : 0;
  const quad a = x < 0 ? -x : x;
  if (a == 0) return sign;
  int e = ilogb((double)a); /* the conversion may round up to the next power of two */
  if ((double)a == 0) e = f.least;
  if (a < (quad)ldexp(1.0, e)) e--;
  e = std::max(e, f.least);
  const double quantum = ldexp(1.0, e - m_bits);
  const quad scaled = a / quantum; /* exact */
  int64_t n = (int64_t)scaled;
  const quad rest = scaled - n;
  if (rest > 0.5 || (rest == 0.5 && n & 1)) n++;
  if (n >> f.digits) n >>= 1, e++;
  const int top = (1 << f.exp_bits) - 1;
  if (e + f.bias >= top) return sign | (uint32_t)top << m_bits;
  const int64_t hidden = (int64_t)1 << m_bits;
  if (n < hidden) return sign | (uint32_t)n; /* subnormal */
  return sign | (uint32_t)(e + f.bias) << m_bits | (uint32_t)(n - hidden);
}

static uint32_t encode_double(const Format &f, double x) {
  if (x != x) return 0x7fff;
  if (isinf(x)) return (x < 0 ? 0x8000u : 0u) | ((1u << f.exp_bits) - 1) << (f.digits - 1);
  return encode(f, x, x);
}

static uint32_t fused(const Format &f, uint32_t ua, uint32_t ub, uint32_t uc) {
  const double a = decode(f, ua), b = decode(f, ub), c = decode(f, uc), p = a * b; /* the product is exact */
  if (p + c != p + c || isinf(p) || isinf(c)) return encode_double(f, p + c);
  quad s = (quad)p + c;
  /* Where 113 bits do not hold the sum, one term is so small that it only breaks ties; if it vanished. */
  const quad big = fabs(p) > fabs(c) ? p : c, small = fabs(p) > fabs(c) ? c : p, lost = small - (s - big);
  if (lost != 0 && s == big) s += (lost > 0 ? 1 : -1) * (s < 0 ? -s : s) * (quad)ldexp(1.0, -100);
  return encode(f, s, p + c);
}

typedef uint32_t (*half_op)(const Format &, uint32_t, uint32_t, uint32_t);
static uint32_t both(half_op op, const Format &f, uint32_t a, uint32_t b, uint32_t c) {
  return op(f, a & 0xffff, b & 0xffff, c & 0xffff) | op(f, a >> 16, b >> 16, c >> 16) << 16;
}
static uint32_t plus(const Format &f, uint32_t a, uint32_t b, uint32_t) {
  return encode_double(f, decode(f, a) + decode(f, b)); /* bfloat16: see times */
}
static uint32_t minus(const Format &f, uint32_t a, uint32_t b, uint32_t) {
  return encode_double(f, decode(f, a) - decode(f, b));
}
static uint32_t times(const Format &f, uint32_t a, uint32_t b, uint32_t) {
  return encode_double(f, decode(f, a) * decode(f, b));
}
static uint32_t bf_plus(const Format &f, uint32_t a, uint32_t b, uint32_t) { return fused(f, a, 0x3f80, b); }

/* --- elementwise */

static float flush(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0, x) : x; }
static uint32_t reverse(uint32_t x) {
  uint32_t r = 0;
  for (int i = 0; i < 32; i++, x >>= 1) r = r << 1 | (x & 1);
  return r;
}
static uint32_t saturated(double x, double lo, double hi) {
  if (x != x) return 0;
  return (uint32_t)(int64_t)std::min(std::max(x, lo), hi);
}
static uint32_t to_int(double x) { return saturated(x, -2147483648.0, 2147483647.0); }

static uint32_t element(int c, const uint32_t *w) {
  const uint32_t a = w[0], b = w[1], d = w[2];
  const float fa = from_bits(w[3]), fb = from_bits(w[4]), fc = from_bits(w[5]);
  switch (c) {
    case CONF_E_bf2f:
    case CONF_E_bf2lo: return bits((float)decode(BFLOAT, a & 0xffff));
    case CONF_E_bf2hi: return bits((float)decode(BFLOAT, a >> 16));
    case CONF_E_f2bf: return encode_double(BFLOAT, from_bits(a));
    case CONF_E_f2bf2: return encode_double(BFLOAT, from_bits(a)) | encode_double(BFLOAT, from_bits(b)) << 16;
    case CONF_E_h2f:
    case CONF_E_h2lo: return bits((float)decode(HALF, a & 0xffff));
    case CONF_E_h2hi: return bits((float)decode(HALF, a >> 16));
    case CONF_E_f2h: return encode_double(HALF, from_bits(a));
    case CONF_E_f2h_near: {
      const float step = (float)(int)(b % 5 - 2) * 0.000244140625f;
      return encode_double(HALF, (float)decode(HALF, a & 0xffff) * (1 + step));
    }
    case CONF_E_f2h2: return encode_double(HALF, fa) | encode_double(HALF, fb) << 16;
    case CONF_E_cu_h2fma: return both(fused, HALF, a, b, d);
    case CONF_E_cu_h2add: return both(plus, HALF, a, b, 0);
    case CONF_E_cu_h2sub: return both(minus, HALF, a, b, 0);
    case CONF_E_cu_h2mul: return both(times, HALF, a, b, 0);
    case CONF_E_cu_bf2fma: return both(fused, BFLOAT, a, b, d);
    case CONF_E_cu_bf2add: return both(bf_plus, BFLOAT, a, b, 0);
    case CONF_E_cu_bf2mul: return both(times, BFLOAT, a, b, 0);
    case CONF_E_cu_exp2: return bits(flush((float)exp2(fa)));
    case CONF_E_cu_log2: return bits((float)log2(fabs(fa)));
    case CONF_E_cu_rcp: return bits(flush((float)(1 / (double)fa)));
    case CONF_E_cu_tanh: return bits((float)tanh(fa));
    case CONF_E_fdividef: return bits((float)((double)fa / fb));
    case CONF_E_rsqrtf: return bits((float)(1 / sqrt(fabs(fa))));
    case CONF_E_cu_opaque: return a;
    case CONF_E_cu_and_or: return (a & b) | d;
    case CONF_E_popc: {
      uint32_t n = 0;
      for (uint32_t x = a; x; x >>= 1) n += x & 1;
      return n;
    }
    case CONF_E_clz: {
      uint32_t n = 0;
      for (uint32_t x = a >> (b & 31); n < 32 && !(x >> (31 - n) & 1); n++) {
      }
      return n;
    }
    case CONF_E_ffs: {
      uint32_t n = 0;
      for (uint32_t x = a << (b & 31); n < 32 && !(x >> n & 1); n++) {
      }
      return n == 32 ? 0 : n + 1;
    }
    case CONF_E_brev: return reverse(a);
    case CONF_E_byte_perm: {
      uint8_t from[8], to[4];
      memcpy(from, &a, 4);
      memcpy(from + 4, &b, 4);
      for (int i = 0; i < 4; i++) to[i] = from[d >> 4 * i & 7];
      uint32_t r;
      memcpy(&r, to, 4);
      return r;
    }
    case CONF_E_funnel_l: return d & 31 ? b << (d & 31) | a >> (32 - (d & 31)) : b;
    case CONF_E_funnel_r: return d & 31 ? a >> (d & 31) | b << (32 - (d & 31)) : a;
    case CONF_E_umulhi: return (uint32_t)((unsigned __int128)a * b >> 32);
    case CONF_E_mulhi: return (uint32_t)((__int128)(int32_t)a * (int32_t)b >> 32);
    case CONF_E_dp4a_s:
    case CONF_E_dp4a_u: {
      int64_t s = d;
      for (int i = 0; i < 4; i++) {
        const int x = (int)(a >> 8 * i & 255), y = (int)(b >> 8 * i & 255);
        s += c == CONF_E_dp4a_u ? x * y : (x - (x >> 7) * 256) * (y - (y >> 7) * 256);
      }
      return (uint32_t)s;
    }
    case CONF_E_fadd: return bits((float)((double)fa + fb));
    case CONF_E_fmul: return bits((float)((double)fa * fb));
    case CONF_E_fdiv: return bits((float)((double)fa / fb)); /* 53 >= 2 * 24 + 2 bits: no double rounding */
    case CONF_E_fsqrt: return bits((float)sqrt(fabs((double)fa)));
    case CONF_E_fma_f: return bits((float)((quad)fa * fb + fc));
    case CONF_E_fma_d: return bits((float)(double)((quad)fa * fb + (quad)((double)fc * 0.1)));
    case CONF_E_to_int_rn: return to_int(nearbyint((double)(float)((double)fa * fb)));
    case CONF_E_to_int_rz: return to_int(trunc((double)(fa * 1e8f)));
    case CONF_E_to_int_rd: return to_int(floor((double)fa));
    case CONF_E_to_int_ru: return to_int(ceil((double)fa));
    case CONF_E_to_uint_rn: return saturated(nearbyint((double)fa), 0, 4294967295.0);
    case CONF_E_from_int: return bits((float)(double)(int32_t)a);
    case CONF_E_saturate: return bits(fa > 0 ? std::min(fa, 1.f) : 0.f);
    case CONF_E_min_f: return bits(fa < fb ? fa : fb);
    default: return (uint32_t)std::max((int32_t)a, (int32_t)b);
  }
}

/* --- warps; w(lane, k) is word k of the lane's input */

struct In {
  const uint32_t *in;
  uint32_t operator()(unsigned lane, unsigned k) const { return in[lane * CONF_WORDS + 6 + k]; }
  uint32_t head(unsigned lane, unsigned k) const { return in[lane * CONF_WORDS + k]; }
};

/* Element i of the A fragment (8 halves) of a lane: PTX ISA, m16n8k16. */
static void mma_16bit(bool half, bool zero, const In &w, uint32_t *out) {
  double a[16][16], b[16][8];
  for (unsigned lane = 0; lane < 32; lane++) {
    const unsigned group = lane >> 2, in_group = lane % 4;
    auto word = [&](unsigned k) {
      return half ? (w(lane, k) & 0x87ff87ffu) | 0x38003800u : (w(lane, k) & 0x80ff80ffu) | 0x3f003f00u;
    };
    for (unsigned i = 0; i < 8; i++) {
      const unsigned row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
      const unsigned col = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      a[row][col] = decode(half ? HALF : BFLOAT, word(i / 2) >> 16 * (i % 2) & 0xffff);
    }
    for (unsigned i = 0; i < 4; i++) {
      const unsigned row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      b[row][group] = decode(half ? HALF : BFLOAT, word(4 + i / 2) >> 16 * (i % 2) & 0xffff);
    }
  }
  for (unsigned lane = 0; lane < 32; lane++) {
    for (unsigned i = 0; i < 4; i++) {
      const unsigned row = i < 2 ? lane >> 2 : (lane >> 2) + 8, col = lane % 4 * 2 + (i & 1);
      double s = zero ? 0 : (double)((float)((int)(w(lane, 6 + i) % 2001u) - 1000) * 0.001f);
      for (unsigned k = 0; k < 16; k++) s += a[row][k] * b[k][col];
      out[lane * CONF_OUT + i] = bits((float)s);
    }
  }
}

static void mma_8bit(bool zero, const In &w, uint32_t *out) { /* PTX ISA, m16n8k32 */
  int64_t a[16][32], b[32][8];
  for (unsigned lane = 0; lane < 32; lane++) {
    const unsigned group = lane >> 2, in_group = lane % 4;
    for (unsigned i = 0; i < 16; i++) {
      const unsigned row = i < 4 || (8 <= i && i < 12) ? group : group + 8;
      const unsigned col = i < 8 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16;
      a[row][col] = (int8_t)(w(lane, i / 4) >> 8 * (i % 4) & 0xff);
    }
    for (unsigned i = 0; i < 8; i++) {
      const unsigned row = i < 4 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16;
      b[row][group] = (int8_t)(w(lane, 4 + i / 4) >> 8 * (i % 4) & 0xff);
    }
  }
  for (unsigned lane = 0; lane < 32; lane++) {
    for (unsigned i = 0; i < 4; i++) {
      const unsigned row = i < 2 ? lane >> 2 : (lane >> 2) + 8, col = lane % 4 * 2 + (i & 1);
      int64_t s = zero ? 0 : (int32_t)w(lane, 6 + i);
      for (unsigned k = 0; k < 32; k++) s += a[row][k] * b[k][col];
      out[lane * CONF_OUT + i] = (uint32_t)s;
    }
  }
}

/* Lane l gets elements (l / 4, 2 (l % 4)) and the next of each matrix; transposed, of its transpose. */
static void ldmatrix(unsigned n, bool trans, const In &w, uint32_t *out) {
  for (unsigned lane = 0; lane < 32; lane++) {
    for (unsigned m = 0; m < 4; m++) {
      uint32_t v = 0;
      for (unsigned e = 0; e < 2 && m < n; e++) {
        unsigned row = lane / 4, col = 2 * (lane % 4) + e;
        if (trans) std::swap(row, col);
        const unsigned from = (8 * m + row) * 5 % 32; /* the row that lane 8 m + row points to */
        v |= (w(from, col / 2) >> 16 * (col % 2) & 0xffff) << 16 * e;
      }
      out[lane * CONF_OUT + m] = v;
    }
  }
}

static void warp_case(int c, unsigned block, const In &w, uint32_t *out) {
  uint32_t sum = 0, conj = ~0u, disj = 0, parity = 0, ballot = 0, n_odd = 0, adds = 0, release = 0;
  uint32_t umin = ~0u, umax = 0, min1 = ~0u;
  int32_t imin = INT32_MAX, imax = INT32_MIN, imax0 = 0;
  float fsum = 0;
  bool zero64 = false, equal = true;
  for (unsigned l = 0; l < 32; l++) {
    sum += w(l, 0);
    adds += w(l, 0);
    conj &= w(l, 0) | 0xffff;
    disj |= w(l, 1) & 0xff;
    parity ^= w(l, 2);
    ballot |= (w(l, 0) & 1) << l;
    n_odd += w(l, 0) & 1;
    zero64 |= w(l, 0) % 64 == 0;
    equal &= block % 2 || w(l, 0) == w(0, 0);
    umin = std::min(umin, w(l, 0));
    umax = std::max(umax, w(l, 1));
    min1 = std::min(min1, w(l, 1));
    imin = std::min(imin, (int32_t)w(l, 0));
    imax = std::max(imax, (int32_t)w(l, 1));
    imax0 = std::max(imax0, (int32_t)w(l, 0));
    fsum += (float)(w(l, 2) % 1024);
    release += w(l, 3) & 0xffff;
  }
  for (unsigned l = 0; l < 32; l++) {
    uint32_t *o = out + l * CONF_OUT;
    switch (c) {
      case CONF_W_shfl:
        o[0] = w(w(l, 1) & 31, 0);
        o[1] = w(l ^ 11, 0);
        o[2] = w(l % 8 < 5 ? l + 3 : l, 0);
        o[3] = w(l >= 5 ? l - 5 : l, 0);
        break;
      case CONF_W_vote:
        o[0] = ballot;
        o[1] = zero64 ? 1 : 2;
        o[2] = 0;
        for (unsigned k = 0; k < 32; k++) o[2] |= (uint32_t)(w(k, 0) % 5 == w(l, 0) % 5) << k;
        o[3] = equal ? ~0u ^ 1u << 8 : 0;
        break;
      case CONF_W_reduce:
        o[0] = sum;
        o[1] = (uint32_t)imin ^ (uint32_t)imax;
        o[2] = umin ^ umax;
        o[3] = conj ^ disj ^ parity;
        break;
      case CONF_W_cp_async: {
        const unsigned s = l ^ 1, kind = s % 4, lane = s; /* the neighbour's row */
        uint32_t row[4] = {w(s, 0), w(s, 1), w(s, 2), w(s, 3)};
        const bool pred = s % 8 != kind;
        for (unsigned k = 0; k < 4; k++) {
          if (kind == 0) row[k] = pred ? w.head(lane, k) : 0;
          if (kind == 1 && k >= 2) row[k] = pred ? w.head(lane, 4 + k - 2) : 0;
          if (kind == 2 && k == 3) row[k] = pred ? w.head(lane, 7) : 0;
          if (kind == 3) row[k] = pred ? w.head(lane, 8 + k) : 0;
        }
        memcpy(o, row, sizeof row);
        break;
      }
      case CONF_W_load_store:
        o[0] = w.head(l, 7);
        o[1] = w.head(l, 6);
        o[2] = w.head(l, 5) + w.head(l, 6);
        o[3] = w.head(l, 8);
        break;
      case CONF_W_atomics:
        o[0] = adds ^ release;
        o[1] = (uint32_t)imax0;
        o[2] = min1;
        o[3] = bits(fsum);
        break;
      case CONF_W_system: /* lane 0's word, and one more */
        o[0] = w(0, 0);
        o[1] = w(0, 0) + 1;
        o[2] = o[3] = 1;
        break;
      default: /* barriers */
        o[0] = n_odd;
        o[1] = zero64;
        o[2] = !zero64;
        o[3] = w(31 - l, 0);
    }
  }
}

void conf_reference(int c, const uint32_t *in, uint32_t *out) {
  if (c < CONF_W_mma_bf16) {
    for (int i = 0; i < CONF_N; i++) out[i] = element(c, in + i * CONF_WORDS);
    return;
  }
  for (unsigned b = 0; b < CONF_WARPS; b++) {
    const In w = {in + b * 32 * CONF_WORDS};
    uint32_t *o = out + b * 32 * CONF_OUT;
    switch (c) {
      case CONF_W_mma_bf16: mma_16bit(false, false, w, o); break;
      case CONF_W_mma_bf16_zero: mma_16bit(false, true, w, o); break;
      case CONF_W_mma_f16: mma_16bit(true, false, w, o); break;
      case CONF_W_mma_f16_zero: mma_16bit(true, true, w, o); break;
      case CONF_W_mma_s8: mma_8bit(false, w, o); break;
      case CONF_W_mma_s8_zero: mma_8bit(true, w, o); break;
      case CONF_W_ldmatrix_x1: ldmatrix(1, false, w, o); break;
      case CONF_W_ldmatrix_x2: ldmatrix(2, false, w, o); break;
      case CONF_W_ldmatrix_x4: ldmatrix(4, false, w, o); break;
      case CONF_W_ldmatrix_x1_trans: ldmatrix(1, true, w, o); break;
      case CONF_W_ldmatrix_x2_trans: ldmatrix(2, true, w, o); break;
      case CONF_W_ldmatrix_x4_trans: ldmatrix(4, true, w, o); break;
      default: warp_case(c, b, w, o);
    }
  }
}

/* --- comparison */

static bool same_half(const Format &f, uint32_t a, uint32_t b) {
  const double x = decode(f, a & 0xffff), y = decode(f, b & 0xffff);
  return (x != x && y != y) || (a & 0xffff) == (b & 0xffff);
}

static bool same(conf_kind kind, uint32_t got, uint32_t want) {
  const double g = from_bits(got), w = from_bits(want), off = fabs(g - w);
  if (got == want) return true;
  switch (kind) {
    case CONF_BITS: return false;
    case CONF_F32: return g != g && w != w;
    case CONF_F16: return same_half(HALF, got, want) && same_half(HALF, got >> 16, want >> 16);
    case CONF_BF16: return same_half(BFLOAT, got, want) && same_half(BFLOAT, got >> 16, want >> 16);
    default: break;
  }
  if (g != g || w != w || isinf(g) || isinf(w)) return (g != g && w != w) || g == w;
  switch (kind) {
    case CONF_APPROX: return off <= 1e-6 * fabs(w);
    case CONF_TANH: return off <= 1e-3;
    case CONF_LOG2: return off <= 1e-6 * fmax(1, fabs(w));
    default: return off <= 1e-5 * 16 * 4; /* operands are below 2 */
  }
}

int conf_compare(int c, const uint32_t *got, const uint32_t *want, int n) {
  int bad = 0;
  for (int i = 0; i < n; i++) {
    if (same(cases[c].kind, got[i], want[i])) continue;
    if (bad++ < 3)
      fprintf(stderr, "%s[%d]: got %08x (%.9g), want %08x (%.9g)\n", cases[c].name, i, got[i],
              (double)from_bits(got[i]), want[i], (double)from_bits(want[i]));
  }
  if (bad > 3) fprintf(stderr, "%s: %d of %d differ\n", cases[c].name, bad, n);
  return bad;
}
