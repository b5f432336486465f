/* SPDX-License-Identifier: Apache-2.0 */
/* Warp collectives and block barriers. Each takes the place it is called from, by default arguments: lanes
 * that meet in one collective must have called it from one place, and a report names it. */
#ifndef WEIR_TESTS_EMU_CU_EMU_WARP_H
#define WEIR_TESTS_EMU_CU_EMU_WARP_H
#include "cu_emu_types.h"

#define EMU_AT      const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMU_AT_ARGS const char *file, int line

namespace emu {
enum Op : int {
  SHFL,
  SHFL_DOWN,
  SHFL_UP,
  SHFL_XOR,
  BALLOT,
  MATCH_ANY,
  MATCH_ALL,
  REDUCE_ADD,
  REDUCE_MIN,
  REDUCE_MAX,
  REDUCE_IMIN,
  REDUCE_IMAX,
  REDUCE_AND,
  REDUCE_OR,
  REDUCE_XOR,
  SYNCWARP,
  LDMATRIX_X1,
  LDMATRIX_X2,
  LDMATRIX_X4,
  LDMATRIX_X1_T,
  LDMATRIX_X2_T,
  LDMATRIX_X4_T,
  MMA_BF16,
  MMA_F16,
  MMA_S8,
  WGMMA
};

/* What a lane brings to a shuffle, vote or reduction, and takes from it: two words hold any type of 8 bytes.
 */
struct Words {
  uint32_t in[2], out[2];
};
/* All lanes of `mask` meet here; `io` is the operation's operand on the lane's own stack, which lives until
 * the call returns: the last lane to arrive reads and writes all of them. */
void collective(uint32_t mask, Op op, int arg, void *io, EMU_AT_ARGS);
uint32_t active_mask();

enum BarMode { BAR_SYNC, BAR_OR, BAR_AND, BAR_COUNT, BAR_ARRIVE };
/* Barrier `id` of n threads, 0: all of the block that have not exited. */
int barrier(int id, int n, BarMode mode, int pred, EMU_AT_ARGS);
void spin(EMU_AT_ARGS);

template <class T>
static inline T shuffle(uint32_t mask, Op op, T v, int arg, int width, EMU_AT_ARGS) {
  static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
  Words w = {{0, 0}, {0, 0}};
  memcpy(w.in, &v, sizeof(T));
  collective(mask, op, (arg & 0xff) | width << 8, &w, file, line);
  T r;
  memcpy(&r, w.out, sizeof(T));
  return r;
}
static inline uint32_t vote(uint32_t mask, Op op, uint32_t v, EMU_AT_ARGS) {
  Words w = {{v, 0}, {0, 0}};
  collective(mask, op, 0, &w, file, line);
  return w.out[0];
}
}  // namespace emu

template <class T>
static inline T __shfl_sync(uint32_t mask, T v, int src, int width = 32, EMU_AT) {
  return emu::shuffle(mask, emu::SHFL, v, src & 31, width, file, line);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T v, unsigned by, int width = 32, EMU_AT) {
  return emu::shuffle(mask, emu::SHFL_DOWN, v, (int)by, width, file, line);
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T v, unsigned by, int width = 32, EMU_AT) {
  return emu::shuffle(mask, emu::SHFL_UP, v, (int)by, width, file, line);
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T v, int by, int width = 32, EMU_AT) {
  return emu::shuffle(mask, emu::SHFL_XOR, v, by, width, file, line);
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu, EMU_AT) {
  emu::collective(mask, emu::SYNCWARP, 0, nullptr, file, line);
}
static inline uint32_t __ballot_sync(uint32_t mask, int pred, EMU_AT) {
  return emu::vote(mask, emu::BALLOT, pred != 0, file, line);
}
static inline int __any_sync(uint32_t mask, int pred, EMU_AT) {
  return emu::vote(mask, emu::BALLOT, pred != 0, file, line) != 0;
}
static inline int __all_sync(uint32_t mask, int pred, EMU_AT) {
  return emu::vote(mask, emu::BALLOT, pred == 0, file, line) == 0;
}
template <class T>
static inline uint32_t __match_any_sync(uint32_t mask, T v, EMU_AT) {
  emu::Words w = {{0, 0}, {0, 0}};
  memcpy(w.in, &v, sizeof(T));
  emu::collective(mask, emu::MATCH_ANY, 0, &w, file, line);
  return w.out[0];
}
template <class T>
static inline uint32_t __match_all_sync(uint32_t mask, T v, int *pred, EMU_AT) {
  emu::Words w = {{0, 0}, {0, 0}};
  memcpy(w.in, &v, sizeof(T));
  emu::collective(mask, emu::MATCH_ALL, 0, &w, file, line);
  *pred = w.out[0] != 0;
  return w.out[0];
}
static inline unsigned __reduce_add_sync(uint32_t mask, unsigned v, EMU_AT) {
  return emu::vote(mask, emu::REDUCE_ADD, v, file, line);
}
static inline int __reduce_add_sync(uint32_t mask, int v, EMU_AT) {
  return (int)emu::vote(mask, emu::REDUCE_ADD, (uint32_t)v, file, line);
}
static inline unsigned __reduce_min_sync(uint32_t mask, unsigned v, EMU_AT) {
  return emu::vote(mask, emu::REDUCE_MIN, v, file, line);
}
static inline int __reduce_min_sync(uint32_t mask, int v, EMU_AT) {
  return (int)emu::vote(mask, emu::REDUCE_IMIN, (uint32_t)v, file, line);
}
static inline unsigned __reduce_max_sync(uint32_t mask, unsigned v, EMU_AT) {
  return emu::vote(mask, emu::REDUCE_MAX, v, file, line);
}
static inline int __reduce_max_sync(uint32_t mask, int v, EMU_AT) {
  return (int)emu::vote(mask, emu::REDUCE_IMAX, (uint32_t)v, file, line);
}
static inline unsigned __reduce_and_sync(uint32_t mask, unsigned v, EMU_AT) {
  return emu::vote(mask, emu::REDUCE_AND, v, file, line);
}
static inline unsigned __reduce_or_sync(uint32_t mask, unsigned v, EMU_AT) {
  return emu::vote(mask, emu::REDUCE_OR, v, file, line);
}
static inline unsigned __reduce_xor_sync(uint32_t mask, unsigned v, EMU_AT) {
  return emu::vote(mask, emu::REDUCE_XOR, v, file, line);
}
static inline uint32_t __activemask() { return emu::active_mask(); }

static inline void __syncthreads(EMU_AT) { emu::barrier(0, 0, emu::BAR_SYNC, 0, file, line); }
static inline int __syncthreads_or(int pred, EMU_AT) {
  return emu::barrier(0, 0, emu::BAR_OR, pred, file, line);
}
static inline int __syncthreads_and(int pred, EMU_AT) {
  return emu::barrier(0, 0, emu::BAR_AND, pred, file, line);
}
static inline int __syncthreads_count(int pred, EMU_AT) {
  return emu::barrier(0, 0, emu::BAR_COUNT, pred, file, line);
}
static inline void cu_bar_sync(int id, int n, EMU_AT) { emu::barrier(id, n, emu::BAR_SYNC, 0, file, line); }
static inline void cu_bar_arrive(int id, int n, EMU_AT) {
  emu::barrier(id, n, emu::BAR_ARRIVE, 0, file, line);
}
/* The body of every loop that waits for another thread's store: lets the others run. */
static inline void cu_spin(EMU_AT) { emu::spin(file, line); }
#endif
