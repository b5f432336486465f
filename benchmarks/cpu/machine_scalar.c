/* SPDX-License-Identifier: Apache-2.0 */
/* Walks through memory on any x86-64. Pure functions; any thread. Loads are as wide as a register; peaks of
 * scalar code nobody asks for. */
#include <string.h>

#include "cpu/machine_isa.h"

static uint64_t word(const uint8_t *p) {
  uint64_t w;
  memcpy(&w, p, sizeof w);
  return w;
}

/* A load and nothing else. */
static inline void touch(const uint8_t *p) {
  uint64_t w;
  __asm__ volatile("mov %1, %0" : "=r"(w) : "m"(*(const uint8_t(*)[8])p));
}

static inline void touch_line(const uint8_t *p) {
  for (int i = 0; i < 64; i += 8) touch(p + i);
}

static void read_plain(const uint8_t *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) touch_line(p + i);
}

static void read_ahead(const uint8_t *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(p + i + WALK_AHEAD);
    touch_line(p + i);
  }
}

static void read_streams(const uint8_t *p, size_t bytes) {
  const size_t part = bytes / WALK_STREAMS;
  for (size_t i = 0; i < part; i += 64)
    for (size_t s = 0; s < WALK_STREAMS; s++) touch_line(p + s * part + i);
}

static void copy(uint8_t *to, const uint8_t *from, size_t bytes) { memcpy(to, from, bytes); }

static void copy_around(uint8_t *to, const uint8_t *from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t w = word(from + i);
    __asm__ volatile("movnti %1, %0" : "=m"(*(uint64_t *)(to + i)) : "r"(w));
  }
  __asm__ volatile("sfence" ::: "memory");
}

const machine_isa machine_scalar = {read_plain, read_ahead, read_streams, copy, copy_around, {{0}}};
