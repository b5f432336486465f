/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels built with -fsanitize=thread call these at each access; the program is not linked with libtsan, so
 * they are ours. They turn race tracking on, and feed it. Kernels have no other way to see atomics or memcpy
 * than the wrappers of cu.h, but compilers make calls of their own. */
#include "emu_impl.h"

using emu::touch;

extern "C" {
void __tsan_init();
void __tsan_func_entry(void *pc);
void __tsan_func_exit(void *pc);
void __tsan_vptr_read(void *p);
void __tsan_vptr_update(void *p, void *v);
void __tsan_read_range(void *p, long n);
void __tsan_write_range(void *p, long n);
void *__tsan_memset(void *p, int v, unsigned long n);
void *__tsan_memcpy(void *d, const void *s, unsigned long n);
void *__tsan_memmove(void *d, const void *s, unsigned long n);
void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_signal_fence(int order);

void __tsan_init() { emu::config.race = 1; }
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void *) {}
void __tsan_vptr_read(void *) {}
void __tsan_vptr_update(void *, void *) {}
void __tsan_read_range(void *p, long n) { touch(p, (size_t)n, false); }
void __tsan_write_range(void *p, long n) { touch(p, (size_t)n, true); }
void *__tsan_memset(void *p, int v, unsigned long n) {
  touch(p, n, true);
  return memset(p, v, n);
}
void *__tsan_memcpy(void *d, const void *s, unsigned long n) {
  touch(s, n, false);
  touch(d, n, true);
  return memcpy(d, s, n);
}
void *__tsan_memmove(void *d, const void *s, unsigned long n) {
  touch(s, n, false);
  touch(d, n, true);
  return memmove(d, s, n);
}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

#define HOOKS(n)                                                 \
  void __tsan_read##n(void *p);                                  \
  void __tsan_write##n(void *p);                                 \
  void __tsan_unaligned_read##n(void *p);                        \
  void __tsan_unaligned_write##n(void *p);                       \
  void __tsan_read##n(void *p) { touch(p, n, false); }           \
  void __tsan_write##n(void *p) { touch(p, n, true); }           \
  void __tsan_unaligned_read##n(void *p) { touch(p, n, false); } \
  void __tsan_unaligned_write##n(void *p) { touch(p, n, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
}
