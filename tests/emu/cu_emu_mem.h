/* SPDX-License-Identifier: Apache-2.0 */
/* Memory on the CPU: vector loads and stores, shared arrays, asynchronous copies, atomics. */
#ifndef WEIR_TESTS_EMU_CU_EMU_MEM_H
#define WEIR_TESTS_EMU_CU_EMU_MEM_H
#include <type_traits>

#include "cu_emu_types.h"

namespace emu {
void *shared_static(const void *site, size_t bytes, size_t align);
void *shared_dynamic();
uint32_t shared_address(const void *p);

void copy_async(void *dst, const void *src, unsigned n, bool pred);
void copy_commit();
void copy_wait(int n); /* until at most n groups are under way; -1: all copies, committed or not */

void load(void *dst, const void *src, unsigned n); /* checks the alignment of n bytes, and the range */
void store(void *dst, const void *src, unsigned n);

enum AtomOp : int { ATOM_ADD, ATOM_MIN, ATOM_MAX, ATOM_AND, ATOM_OR, ATOM_XOR, ATOM_EXCH, ATOM_CAS };
enum AtomType : int { ATOM_U32, ATOM_S32, ATOM_U64, ATOM_S64, ATOM_F32, ATOM_F64 };
/* Old value in the low bytes; v and cmp likewise. Sequentially consistent: weak orders are not modelled. */
uint64_t atomic(AtomOp op, AtomType type, void *p, uint64_t v, uint64_t cmp);

uint64_t clock_ns(); /* of the machine, not of an emulated GPU: bounds on waiting are all it is for */

template <class T>
constexpr AtomType atom_type() {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics are of 4 or 8 bytes");
  if (std::is_floating_point<T>::value) return sizeof(T) == 4 ? ATOM_F32 : ATOM_F64;
  if (std::is_signed<T>::value) return sizeof(T) == 4 ? ATOM_S32 : ATOM_S64;
  return sizeof(T) == 4 ? ATOM_U32 : ATOM_U64;
}
template <class T>
static inline T atomic_of(AtomOp op, T *p, T v, T cmp) {
  uint64_t a = 0, b = 0;
  memcpy(&a, &v, sizeof(T));
  memcpy(&b, &cmp, sizeof(T));
  uint64_t o = atomic(op, atom_type<T>(), (void *)p, a, b);
  T r;
  memcpy(&r, &o, sizeof(T));
  return r;
}
template <class T>
struct same { /* keeps the value's type out of deduction: atomicAdd(&float, 1) is a float add */
  typedef T type;
};
}  // namespace emu

#define CU_SHARED(T, name, n)         \
  static const char name##_site_ = 0; \
  T(&name)                            \
  [n] = *(T(*)[n])emu::shared_static(&name##_site_, sizeof(T) * (n), alignof(T) < 16 ? 16 : alignof(T))
#define CU_DYN_SHARED(T, name) T *name = (T *)emu::shared_dynamic()
static inline uint32_t cu_saddr(const void *p) { return emu::shared_address(p); }

/* --- loads and stores */
template <class T>
static inline T emu_load(const T *p) {
  T v;
  emu::load(&v, p, sizeof(T));
  return v;
}
template <class T>
static inline T __ldg(const T *p) {
  return emu_load(p);
}
template <class T>
static inline T __ldcg(const T *p) {
  return emu_load(p);
}
template <class T>
static inline T __ldcs(const T *p) {
  return emu_load(p);
}
template <class T>
static inline T __ldcv(const T *p) {
  return emu_load(p);
}
template <class T>
static inline void __stcg(T *p, T v) {
  emu::store(p, &v, sizeof(T));
}
template <class T>
static inline void __stcs(T *p, T v) {
  emu::store(p, &v, sizeof(T));
}
static inline uint32_t cu_ldg4(const void *p) { return emu_load((const uint32_t *)p); }
static inline uint2 cu_ldg8(const void *p) { return emu_load((const uint2 *)p); }
static inline uint4 cu_ldg16(const void *p) { return emu_load((const uint4 *)p); }
static inline uint4 cu_lds16(const void *p) { return emu_load((const uint4 *)p); }
static inline void cu_st4(void *p, uint32_t v) { emu::store(p, &v, 4); }
static inline void cu_st8(void *p, uint2 v) { emu::store(p, &v, 8); }
static inline void cu_st16(void *p, uint4 v) { emu::store(p, &v, 16); }

/* --- asynchronous copies, global to shared; zeros when !pred */
static inline void cu_cp_async4(void *d, const void *s, bool pred) { emu::copy_async(d, s, 4, pred); }
static inline void cu_cp_async8(void *d, const void *s, bool pred) { emu::copy_async(d, s, 8, pred); }
static inline void cu_cp_async16(void *d, const void *s, bool pred) { emu::copy_async(d, s, 16, pred); }
static inline void cu_cp_async16_stream(void *d, const void *s, bool pred) {
  emu::copy_async(d, s, 16, pred);
}
static inline void cu_cp_async_commit() { emu::copy_commit(); }
template <int N>
static inline void cu_cp_async_wait() {
  emu::copy_wait(N);
}
static inline void cu_cp_async_wait_all() { emu::copy_wait(-1); }

/* --- fences and atomics */
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#define EMU_ATOMIC(name, op)                                  \
  template <class T>                                          \
  static inline T name(T *p, typename emu::same<T>::type v) { \
    return emu::atomic_of(emu::op, p, v, v);                  \
  }
EMU_ATOMIC(atomicAdd, ATOM_ADD)
EMU_ATOMIC(atomicMin, ATOM_MIN)
EMU_ATOMIC(atomicMax, ATOM_MAX)
EMU_ATOMIC(atomicAnd, ATOM_AND)
EMU_ATOMIC(atomicOr, ATOM_OR)
EMU_ATOMIC(atomicXor, ATOM_XOR)
EMU_ATOMIC(atomicExch, ATOM_EXCH)
#undef EMU_ATOMIC
template <class T>
static inline T atomicSub(T *p, typename emu::same<T>::type v) {
  return emu::atomic_of(emu::ATOM_ADD, p, (T)(0 - v), (T)0);
}
template <class T>
static inline T atomicCAS(T *p, typename emu::same<T>::type cmp, typename emu::same<T>::type v) {
  return emu::atomic_of(emu::ATOM_CAS, p, v, cmp);
}
static inline unsigned cu_ld_acquire(const unsigned *p) {
  return emu::atomic_of(emu::ATOM_OR, (unsigned *)p, 0u, 0u);
}
static inline void cu_st_release(unsigned *p, unsigned v) { emu::atomic_of(emu::ATOM_EXCH, p, v, 0u); }
static inline unsigned cu_ld_system(const unsigned *p) { return cu_ld_acquire(p); }
static inline void cu_st_system(unsigned *p, unsigned v) { cu_st_release(p, v); }
static inline uint64_t cu_clock_ns() { return emu::clock_ns(); }
static inline unsigned cu_add_release(unsigned *p, unsigned v) {
  return emu::atomic_of(emu::ATOM_ADD, p, v, 0u);
}
#endif
