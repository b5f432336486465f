/* SPDX-License-Identifier: Apache-2.0 */
/* The walks of machine_isa.h over vectors, for the files that have some: `vec` is a vector of VEC bytes, and
 * vec_touch (a load and nothing else), vec_load, vec_store, vec_around (a store around the caches) are its
 * own. Its own vectors, not the compiler's choice: narrow loads would measure the core and not the memory. */
#ifndef WEIR_BENCH_MACHINE_WALK_H
#define WEIR_BENCH_MACHINE_WALK_H
#include "cpu/machine_isa.h"

_Static_assert(WALK_STEP % (8 * VEC) == 0 && WALK_STEP % (64 * WALK_STREAMS) == 0,
               "whole turns of every loop");

static void read_plain(const uint8_t *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 8 * VEC) {
    vec_touch(p + i);
    vec_touch(p + i + VEC);
    vec_touch(p + i + 2 * VEC);
    vec_touch(p + i + 3 * VEC);
    vec_touch(p + i + 4 * VEC);
    vec_touch(p + i + 5 * VEC);
    vec_touch(p + i + 6 * VEC);
    vec_touch(p + i + 7 * VEC);
  }
}

static void read_ahead(const uint8_t *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(p + i + WALK_AHEAD);
    for (size_t k = i; k < i + 64; k += VEC) vec_touch(p + k);
  }
}

static void read_streams(const uint8_t *p, size_t bytes) {
  const size_t part = bytes / WALK_STREAMS;
  for (size_t i = 0; i < part; i += 64) {
    for (size_t k = i; k < i + 64; k += VEC) {
      vec_touch(p + k);
      vec_touch(p + part + k);
      vec_touch(p + 2 * part + k);
      vec_touch(p + 3 * part + k);
    }
  }
}

static void copy(uint8_t *to, const uint8_t *from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 2 * VEC) {
    const vec a = vec_load(from + i), b = vec_load(from + i + VEC);
    vec_store(to + i, a);
    vec_store(to + i + VEC, b);
  }
}

static void copy_around(uint8_t *to, const uint8_t *from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 2 * VEC) {
    const vec a = vec_load(from + i), b = vec_load(from + i + VEC);
    vec_around(to + i, a);
    vec_around(to + i + VEC, b);
  }
  __builtin_ia32_sfence();
}

#endif
