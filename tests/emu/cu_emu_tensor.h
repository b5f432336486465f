/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix instructions: ldmatrix, mma.sync, and Hopper's mbarrier, TMA and wgmma. */
#ifndef WEIR_TESTS_EMU_CU_EMU_TENSOR_H
#define WEIR_TESTS_EMU_CU_EMU_TENSOR_H
#include "cu_emu_mem.h"
#include "cu_emu_warp.h"

namespace emu {
/* Operands of a collective, on the lane's stack. */
struct Ldmatrix {
  uint32_t *r;
  const void *row;
};
struct Mma {
  void *d;
  const uint32_t *a, *b;
  const void *c; /* NULL: zeros */
};
void mbar_init(void *bar, int count);
void mbar_arrive(void *bar, int tx_bytes);
void mbar_wait(void *bar, int parity, EMU_AT_ARGS);
void tma_load(void *dst, const CUtensorMap *m, void *bar, int c0, int c1);
void wgmma(float *d, int n, uint64_t desc_a, uint64_t desc_b, int acc, EMU_AT_ARGS);
void wgmma_commit();
void wgmma_wait(int n, EMU_AT_ARGS);
}  // namespace emu

#define EMU_LDMATRIX(name, op)                                  \
  static inline void name(uint32_t *r, const void *p, EMU_AT) { \
    emu::Ldmatrix io = {r, p};                                  \
    emu::collective(0xffffffffu, emu::op, 0, &io, file, line);  \
  }
EMU_LDMATRIX(cu_ldmatrix_x1, LDMATRIX_X1)
EMU_LDMATRIX(cu_ldmatrix_x2, LDMATRIX_X2)
EMU_LDMATRIX(cu_ldmatrix_x4, LDMATRIX_X4)
EMU_LDMATRIX(cu_ldmatrix_x1_trans, LDMATRIX_X1_T)
EMU_LDMATRIX(cu_ldmatrix_x2_trans, LDMATRIX_X2_T)
EMU_LDMATRIX(cu_ldmatrix_x4_trans, LDMATRIX_X4_T)
#undef EMU_LDMATRIX

/* d += a b, and d = a b */
#define EMU_MMA(name, op, T)                                                                 \
  static inline void name(T d[4], const uint32_t a[4], const uint32_t b[2], EMU_AT) {        \
    emu::Mma io = {d, a, b, d};                                                              \
    emu::collective(0xffffffffu, emu::op, 0, &io, file, line);                               \
  }                                                                                          \
  static inline void name##_zero(T d[4], const uint32_t a[4], const uint32_t b[2], EMU_AT) { \
    emu::Mma io = {d, a, b, nullptr};                                                        \
    emu::collective(0xffffffffu, emu::op, 0, &io, file, line);                               \
  }
EMU_MMA(cu_mma_bf16, MMA_BF16, float)
EMU_MMA(cu_mma_f16, MMA_F16, float)
EMU_MMA(cu_mma_s8, MMA_S8, int32_t)
#undef EMU_MMA

/* --- Hopper */
static inline void cu_mbar_init(uint64_t *b, int n) { emu::mbar_init(b, n); }
static inline void cu_mbar_fence_init() {}
static inline void cu_mbar_arrive(uint64_t *b) { emu::mbar_arrive(b, 0); }
static inline void cu_mbar_expect_tx(uint64_t *b, int bytes) { emu::mbar_arrive(b, bytes); }
static inline void cu_mbar_wait(uint64_t *b, int parity, EMU_AT) { emu::mbar_wait(b, parity, file, line); }
static inline void cu_tma_load_2d(void *d, const CUtensorMap *m, uint64_t *bar, int c0, int c1) {
  emu::tma_load(d, m, bar, c0, c1);
}
static inline void cu_wgmma_fence() {}
static inline void cu_wgmma_commit() { emu::wgmma_commit(); }
template <int N>
static inline void cu_wgmma_wait(EMU_AT) {
  emu::wgmma_wait(N, file, line);
}
static inline void cu_wgmma_m64n64k16_bf16(float d[32], uint64_t da, uint64_t db, int acc, EMU_AT) {
  emu::wgmma(d, 64, da, db, acc, file, line);
}
template <int R>
static inline void cu_setmaxnreg_dec() {}
template <int R>
static inline void cu_setmaxnreg_inc() {}
/* A bf16 row-major [h][w] matrix in boxes of [bh][bw], 128-byte swizzle. 0, or not. */
static inline int cu_tmap_2d(CUtensorMap *m, const void *p, uint64_t w, uint64_t h, uint32_t bw,
                             uint32_t bh) {
  if ((uintptr_t)p % 16 || w * 2 % 16 || bw * 2 != 128 || bh > 256) return 1;
  *m = {(const char *)p, {w, h}, w * 2, {bw, bh}, 2, 1};
  return 0;
}
#endif
