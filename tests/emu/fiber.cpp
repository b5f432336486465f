/* SPDX-License-Identifier: Apache-2.0 */
/* One fiber for each CUDA thread: its stack, and the switch between two, which is the price of every
 * collective. ASan is told of every switch, so that it knows whose stack it looks at. */
#include <pthread.h>
#include <stdlib.h>

#include "emu_impl.h"

extern "C" {
void emu_switch(void **save, void *to);
void __asan_poison_memory_region(const volatile void *, size_t) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void *, size_t) __attribute__((weak));
void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t size) __attribute__((weak));
void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *size) __attribute__((weak));
}

/* Saves what a call may not change, and continues where the other left off. */
#if defined(__x86_64__)
asm(".text\n"
    ".globl emu_switch\n"
    ".type emu_switch,@function\n"
    "emu_switch:\n"
    "  pushq %rbp\n"
    "  pushq %rbx\n"
    "  pushq %r12\n"
    "  pushq %r13\n"
    "  pushq %r14\n"
    "  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n"
    "  popq %r14\n"
    "  popq %r13\n"
    "  popq %r12\n"
    "  popq %rbx\n"
    "  popq %rbp\n"
    "  ret\n"
    ".size emu_switch,.-emu_switch\n"
    ".section .note.GNU-stack,\"\",@progbits\n"
    ".text\n");
#else
#error "the CUDA emulator switches fibers on x86-64 only"
#endif

namespace emu {

/* 576: stacks a power of two apart would have their hot lines in the same few cache sets. */
static const size_t STACK = 128 * KB + 576;
static const uint64_t CANARY = 0x57ac4e4d57ac4e4dull;

void asan_poison(const void *p, size_t n) {
  if (__asan_poison_memory_region) __asan_poison_memory_region(p, n);
}
void asan_unpoison(const void *p, size_t n) {
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(p, n);
}

size_t stack_bytes() { return STACK; }

static void announce(Fiber *from, const Thread *to, bool for_good) {
  if (!__sanitizer_start_switch_fiber) return;
  void **keep = for_good ? nullptr : &from->fake_stack;
  if (to)
    __sanitizer_start_switch_fiber(keep, B->stacks + STACK * to->index, STACK);
  else
    __sanitizer_start_switch_fiber(keep, W->stack_lo, W->stack_bytes);
}

static void fiber_entry() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  thread_main();
}

void fiber_prepare(Block *b, Thread *t) {
  char *bottom = b->stacks + STACK * t->index;
  memcpy(bottom, &CANARY, sizeof CANARY);
  uint64_t *sp = (uint64_t *)((uintptr_t)(bottom + STACK) & ~(uintptr_t)15);
  *--sp = 0; /* where a return from fiber_entry would go; it keeps the entry's stack aligned as a call does */
  *--sp = (uint64_t)(uintptr_t)fiber_entry;
  for (int i = 0; i < 6; i++) *--sp = 0;
  t->fiber = {sp, nullptr};
}

void fiber_go(Fiber *from, Thread *to) {
  announce(from, to, false);
  cur = to;
  emu_switch(&from->sp, to ? to->fiber.sp : W->main.sp);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
}

void fiber_leave(Thread *to) {
  Thread *me = self();
  uint64_t canary;
  memcpy(&canary, B->stacks + STACK * me->index, sizeof canary);
  const bool overflow = canary != CANARY;
  if (overflow && !W->failed) {
    memcpy(B->stacks + STACK * me->index, &CANARY, sizeof CANARY);
    die("its stack of %zu KB overflowed", STACK / KB);
  }
  announce(&me->fiber, to, true);
  cur = to;
  emu_switch(&me->fiber.sp, to ? to->fiber.sp : W->main.sp);
  abort();
}

}  // namespace emu
