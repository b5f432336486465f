/* SPDX-License-Identifier: Apache-2.0 */
/* mma.sync and ldmatrix, done once for a warp. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16
 * with floating point type", "... for mma.m16n8k32", "Warp-level matrix load instruction: ldmatrix".
 *
 * Products are summed in float in the order of k, then c is added. A GPU's own order and rounding are not
 * documented; a test leaves room for that. */
#include "emu_impl.h"

namespace emu {

static inline float widen(uint16_t v, bool half) {
  if (!half) return bf2f(v);
  /* Exact for zero, subnormal and normal numbers; the top exponent is inf and NaN. */
  const float f = __uint_as_float((uint32_t)(v & 0x7fffu) << 13) * 0x1p112f;
  uint32_t u = __float_as_uint(f);
  if ((v & 0x7c00) == 0x7c00) u = 0x7f800000u | (uint32_t)(v & 0x3ff) << 13;
  return __uint_as_float(u | (uint32_t)(v & 0x8000) << 16);
}

/* d = a b: two thirds of the time of a kernel that multiplies, hence the wide registers. Product and sum
 * round one after the other, with and without AVX2, so both give the same bits. */
typedef float row8 __attribute__((vector_size(32), aligned(4)));

__attribute__((always_inline)) static inline void product_of(const float (*a)[16], const float (*b)[8],
                                                             float (*d)[8]) {
  for (int m = 0; m < 16; m += 4) {
    row8 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    for (int k = 0; k < 16; k++) {
      row8 r;
      memcpy(&r, b[k], sizeof r);
      s0 += a[m][k] * r;
      s1 += a[m + 1][k] * r;
      s2 += a[m + 2][k] * r;
      s3 += a[m + 3][k] * r;
    }
    memcpy(d[m], &s0, sizeof s0);
    memcpy(d[m + 1], &s1, sizeof s1);
    memcpy(d[m + 2], &s2, sizeof s2);
    memcpy(d[m + 3], &s3, sizeof s3);
  }
}
static void product(const float (*a)[16], const float (*b)[8], float (*d)[8]) { product_of(a, b, d); }
__attribute__((target("avx2"))) static void product_avx2(const float (*a)[16], const float (*b)[8],
                                                         float (*d)[8]) {
  product_of(a, b, d);
}

static void mma_16(const Group &g, bool half) {
  float a[16][16], b[16][8], d[16][8]; /* b by row of k: the inner loop runs along n */
  for (int lane = 0; lane < 32; lane++) {
    const Mma *io = (const Mma *)g.io[lane];
    const int q = lane & 3, r = lane >> 2;
    for (int i = 0; i < 4; i++)
      for (int h = 0; h < 2; h++)
        a[r + (i & 1) * 8][q * 2 + h + (i >> 1) * 8] = widen((uint16_t)(io->a[i] >> 16 * h), half);
    for (int i = 0; i < 2; i++)
      for (int h = 0; h < 2; h++) b[q * 2 + h + i * 8][r] = widen((uint16_t)(io->b[i] >> 16 * h), half);
  }
  static const bool avx2 = __builtin_cpu_supports("avx2");
  if (avx2)
    product_avx2(a, b, d);
  else
    product(a, b, d);
  for (int lane = 0; lane < 32; lane++) {
    const Mma *io = (const Mma *)g.io[lane];
    float out[4];
    if (io->c)
      memcpy(out, io->c, 16);
    else
      memset(out, 0, 16);
    for (int i = 0; i < 4; i++) out[i] += d[(lane >> 2) + (i >> 1) * 8][(lane & 3) * 2 + (i & 1)];
    memcpy(io->d, out, 16);
  }
}

static void mma_s8(const Group &g) {
  int32_t a[16][32], b[32][8];
  for (int lane = 0; lane < 32; lane++) {
    const Mma *io = (const Mma *)g.io[lane];
    const int q = lane & 3, r = lane >> 2;
    for (int k = 0; k < 4; k++) {
      for (int i = 0; i < 4; i++) a[r + (i & 1) * 8][q * 4 + k + (i >> 1) * 16] = (int8_t)(io->a[i] >> 8 * k);
      for (int i = 0; i < 2; i++) b[q * 4 + k + i * 16][r] = (int8_t)(io->b[i] >> 8 * k);
    }
  }
  int32_t d[16][8];
  for (int m = 0; m < 16; m++) {
    int32_t s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int k = 0; k < 32; k++)
      for (int n = 0; n < 8; n++) s[n] += a[m][k] * b[k][n];
    memcpy(d[m], s, sizeof s);
  }
  for (int lane = 0; lane < 32; lane++) {
    const Mma *io = (const Mma *)g.io[lane];
    uint32_t out[4] = {0, 0, 0, 0}; /* sums wrap */
    if (io->c) memcpy(out, io->c, 16);
    for (int i = 0; i < 4; i++) out[i] += (uint32_t)d[(lane >> 2) + (i >> 1) * 8][(lane & 3) * 2 + (i & 1)];
    memcpy(io->d, out, 16);
  }
}

void exec_mma(const Group &g) {
  if (g.op == MMA_S8)
    mma_s8(g);
  else
    mma_16(g, g.op == MMA_F16);
}

/* Lane 8 i + r has the address of row r of matrix i; the row itself goes to four lanes or more, so whoever
 * wrote it, another lane reads it: two of them are told to the race detector. */
static void row_is_read(const void *row, int r, bool trans) {
  const ThreadIndex *caller = cur;
  const Thread *warp = &B->thread[self()->warp * 32];
  cur = &warp[trans ? r / 2 : r * 4];
  touch(row, 16, false);
  cur = &warp[trans ? r / 2 + 4 : r * 4 + 1];
  touch(row, 16, false);
  cur = caller;
}

void exec_ldmatrix(const Group &g) {
  const bool trans = g.op >= LDMATRIX_X1_T;
  const int n = g.op == LDMATRIX_X1 || g.op == LDMATRIX_X1_T   ? 1
                : g.op == LDMATRIX_X2 || g.op == LDMATRIX_X2_T ? 2
                                                               : 4;
  uint16_t mat[4][8][8];
  const ThreadIndex *caller = cur;
  for (int lane = 0; lane < 8 * n; lane++) {
    const void *p = ((const Ldmatrix *)g.io[lane])->row;
    cur = &B->thread[self()->warp * 32 + lane]; /* whose address it is */
    if ((uintptr_t)p % 16) die("%s: row address is not a multiple of 16", op_name(g.op));
    if (!in_arena(B, p) || !shared_holds(B, p, 16))
      die("%s: row address is outside of shared memory", op_name(g.op));
    if (config.race) row_is_read(p, lane & 7, trans);
    memcpy(mat[lane >> 3][lane & 7], p, 16);
  }
  cur = caller;
  for (int lane = 0; lane < 32; lane++) {
    uint32_t *out = ((const Ldmatrix *)g.io[lane])->r;
    const int r = lane >> 2, c = (lane & 3) * 2;
    for (int i = 0; i < n; i++)
      out[i] = trans ? mat[i][c][r] | (uint32_t)mat[i][c + 1][r] << 16
                     : mat[i][r][c] | (uint32_t)mat[i][r][c + 1] << 16;
  }
}

}  // namespace emu
