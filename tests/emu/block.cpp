/* SPDX-License-Identifier: Apache-2.0 */
/* A resident block: made once for an OS thread, started and ended for each block of a grid. */
#include <stdlib.h>
#include <sys/mman.h>

#include "emu_impl.h"

namespace emu {

static char *map_pages(size_t n) {
  void *p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) die("out of memory for a block");
  return (char *)p;
}

Block *block_create() {
  Block *b = new Block();
  b->thread = new Thread[MAX_THREADS]();
  b->stacks = map_pages(stack_bytes() * MAX_THREADS);
  b->arena = map_pages(ARENA + PAGE);
  mprotect(b->arena + ARENA, PAGE, PROT_NONE);
  b->shadow = (Shadow *)map_pages(ARENA * sizeof(Shadow));
  b->epoch = 1;
  return b;
}

void block_destroy(Block *b) {
  asan_unpoison(b->arena, ARENA);
  asan_unpoison(b->stacks, stack_bytes() * MAX_THREADS);
  munmap(b->stacks, stack_bytes() * MAX_THREADS);
  munmap(b->arena, ARENA + PAGE);
  munmap(b->shadow, ARENA * sizeof(Shadow));
  delete[] b->thread;
  delete b;
}

void block_start(Block *b, uint3 id, unsigned long long serial) {
  const uint3 dim = block_dim;
  b->id = id;
  b->n_threads = b->alive = dim.x * dim.y * dim.z;
  b->n_warps = (b->n_threads + 31) / 32;
  b->ready = b->n_warps == 32 ? ~0u : (1u << b->n_warps) - 1;
  b->spinning = 0;
  b->done = false;
  memset(b->bar, 0, sizeof b->bar);
  b->tiles.clear();
  b->wgmmas.clear();
  b->mbars.clear();
  W->rng = (config.seed + serial * 7919) * 0x9e3779b97f4a7c15ull | 1;

  b->n_sites = 0;
  b->static_used = b->static_bytes = 0;
  b->dyn_bytes = W->launch->smem;
  b->dyn = b->arena + ARENA - ((b->dyn_bytes + 1023) & ~(size_t)1023);
  asan_unpoison(b->arena, ARENA);
  if (config.poison) memset(b->dyn, 0xff, b->dyn_bytes);
  asan_poison(b->arena, (size_t)(b->dyn - b->arena));
  asan_poison(b->dyn + b->dyn_bytes, (size_t)(b->arena + ARENA - (b->dyn + b->dyn_bytes)));
  /* Threads that an error abandoned left their frames' red zones behind. */
  asan_unpoison(b->stacks, stack_bytes() * b->n_threads);

  for (unsigned w = 0; w < b->n_warps; w++) {
    const unsigned lanes = b->n_threads - w * 32;
    Warp &warp = b->warp[w];
    warp.live = warp.run = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    warp.spin = 0;
    warp.n_groups = 1;
    warp.group[0].mask = ~0u;
    warp.group[0].arrived = 0;
    warp.bar_file = nullptr;
  }
  for (unsigned i = 0; i < b->n_threads; i++) {
    Thread *t = &b->thread[i];
    *t = Thread();
    b->copies[i].clear();
    t->tid = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
    t->index = (uint16_t)i;
    t->lane = (uint16_t)(i % 32);
    t->warp = (uint16_t)(i / 32);
    fiber_prepare(b, t);
  }
  race_block_start(b);
  W->stats.blocks++;
  W->stats.threads += b->n_threads;
}

void block_end(Block *b) {
  cur = nullptr;
  if (!b->tiles.empty()) die("exits with %zu TMA loads under way", b->tiles.size());
}

}  // namespace emu
