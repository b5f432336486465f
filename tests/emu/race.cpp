/* SPDX-License-Identifier: Apache-2.0 */
/* The race detector: who touched each byte of shared memory last, and whether a barrier lies between. After
 * FastTrack (Flanagan and Freund, PLDI 2009), with a vector clock for each warp rather than each thread:
 * lanes of a warp are ordered by __syncwarp and the barriers alone, as CUDA promises.
 *
 * Two readers are remembered for a byte, one of a warp and one of another: a write that races with a third
 * only is missed until its order comes up. */
#include "emu_impl.h"

namespace emu {

void race_block_start(Block *b) {
  if (!config.race) return;
  /* What earlier blocks left in the shadow is older than the epoch. */
  uint32_t latest = b->epoch;
  for (unsigned w = 0; w < MAX_WARPS; w++)
    if (b->clock[w][w] > latest) latest = b->clock[w][w];
  b->epoch = latest + 1;
  for (unsigned w = 0; w < MAX_WARPS; w++)
    for (unsigned i = 0; i < MAX_WARPS; i++) b->clock[w][i] = b->epoch;
}

static void merge(uint32_t *into, const uint32_t *from) {
  for (unsigned i = 0; i < MAX_WARPS; i++)
    if (from[i] > into[i]) into[i] = from[i];
}

void race_join(uint32_t warps) {
  uint32_t all[MAX_WARPS] = {0};
  for (uint32_t m = warps; m; m &= m - 1) {
    const int w = __builtin_ctz(m);
    B->clock[w][w]++;
    merge(all, B->clock[w]);
  }
  for (uint32_t m = warps; m; m &= m - 1) memcpy(B->clock[__builtin_ctz(m)], all, sizeof all);
}

void race_release(uint32_t *clock) {
  const unsigned w = self()->warp;
  B->clock[w][w]++;
  merge(clock, B->clock[w]);
}

void race_acquire(const uint32_t *clock) { merge(B->clock[self()->warp], clock); }

static bool ordered(const Block *b, const Access &a, const Thread *me) {
  return a.clock < b->epoch || a.thread == me->index || b->clock[me->warp][a.thread / 32] > a.clock;
}

static void report(const char *kind, const Block *b, size_t at, const Access &before) {
  const char *p = b->arena + at;
  const bool dynamic = at >= STATIC_ROOM;
  die_race("race: %s of byte %zd of %s shared memory, no barrier since thread %u", kind,
           dynamic ? p - b->dyn : (ptrdiff_t)at, dynamic ? "dynamic" : "static", before.thread);
}

void touch_slow(const void *p, size_t n, bool write, bool atomic) {
  Block *b = B;
  if (!in_arena(b, p)) {
    mem_check(p, n, write);
    return;
  }
  if (!shared_holds(b, p, n)) die("%s of %zu bytes outside of shared memory", write ? "write" : "read", n);
  const Thread *me = self();
  const size_t first = (size_t)((const char *)p - b->arena);
  const Access now = {b->clock[me->warp][me->warp], me->index};
  for (size_t i = first; i < first + n; i++) {
    Shadow &s = b->shadow[i];
    /* Atomics do not race with each other: their mark is the thread number's top bit. */
    Access w = s.write;
    const bool both_atomic = atomic && (w.thread & 0x8000);
    w.thread &= 0x7fff;
    if (!both_atomic && !ordered(b, w, me)) report(write ? "write after write" : "read after write", b, i, w);
    if (write) {
      for (const Access &r : s.read)
        if (!ordered(b, r, me)) report("write after read", b, i, r);
      s.write = now;
      if (atomic) s.write.thread |= 0x8000;
    } else {
      const bool first_slot = s.read[0].clock < b->epoch || s.read[0].thread / 32 == me->index / 32;
      s.read[first_slot ? 0 : 1] = now;
    }
  }
}

}  // namespace emu
