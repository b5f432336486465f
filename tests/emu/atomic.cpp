/* SPDX-License-Identifier: Apache-2.0 */
/* Atomics: real ones, for blocks of several OS threads may meet in global memory. All are sequentially
 * consistent. */
#include <time.h>

#include "emu_impl.h"

namespace emu {

uint64_t clock_ns() {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t load_old(const void *p, size_t n) {
  return n == 4 ? __atomic_load_n((const uint32_t *)p, __ATOMIC_SEQ_CST)
                : __atomic_load_n((const uint64_t *)p, __ATOMIC_SEQ_CST);
}

static bool exchange(void *p, size_t n, uint64_t *old, uint64_t v) {
  if (n == 8)
    return __atomic_compare_exchange_n((uint64_t *)p, old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  uint32_t o = (uint32_t)*old;
  const bool ok =
      __atomic_compare_exchange_n((uint32_t *)p, &o, (uint32_t)v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  *old = o;
  return ok;
}

template <class T>
static uint64_t arithmetic(AtomOp op, uint64_t old, uint64_t v) {
  T a, b;
  memcpy(&a, &old, sizeof a);
  memcpy(&b, &v, sizeof b);
  const T r = op == ATOM_MIN ? (b < a ? b : a) : op == ATOM_MAX ? (b > a ? b : a) : a + b;
  uint64_t out = 0;
  memcpy(&out, &r, sizeof r);
  return out;
}

static uint64_t next_value(AtomOp op, AtomType type, uint64_t old, uint64_t v) {
  switch (op) {
    case ATOM_AND: return old & v;
    case ATOM_OR: return old | v;
    case ATOM_XOR: return old ^ v;
    case ATOM_EXCH: return v;
    case ATOM_ADD: /* integers wrap, signed ones too */
      if (type == ATOM_S32) type = ATOM_U32;
      if (type == ATOM_S64) type = ATOM_U64;
      break;
    default: break;
  }
  switch (type) {
    case ATOM_U32: return arithmetic<uint32_t>(op, old, v);
    case ATOM_S32: return arithmetic<int32_t>(op, old, v);
    case ATOM_U64: return arithmetic<uint64_t>(op, old, v);
    case ATOM_S64: return arithmetic<int64_t>(op, old, v);
    case ATOM_F32: return arithmetic<float>(op, old, v);
    default: return arithmetic<double>(op, old, v);
  }
}

uint64_t atomic(AtomOp op, AtomType type, void *p, uint64_t v, uint64_t cmp) {
  const size_t n = type == ATOM_U32 || type == ATOM_S32 || type == ATOM_F32 ? 4 : 8;
  if ((uintptr_t)p % n) die("atomic of %zu bytes is misaligned: %p", n, p);
  if (in_arena(B, p) && !shared_holds(B, p, n)) die("atomic outside of shared memory");
  mem_check(p, n, true);
  if (config.race) touch_slow(p, n, true, true);
  uint64_t old = load_old(p, n);
  for (;;) {
    if (op == ATOM_CAS && old != cmp) return old;
    if (exchange(p, n, &old, op == ATOM_CAS ? v : next_value(op, type, old, v))) return old;
  }
}

}  // namespace emu
