/* SPDX-License-Identifier: Apache-2.0 */
/* Which thread runs next. A thread runs until it waits; then another lane of its warp, another warp, another
 * resident block. Lanes in cu_spin come last, when nothing else can run. Orders: emu.h. */
#include <sched.h>
#include <stdio.h>

#include "emu_impl.h"

namespace emu {

__thread const ThreadIndex *cur;
__thread uint3 block_id, grid_dim, block_dim;

static inline unsigned pick(uint32_t set) {
  if (config.order == EMU_ASCENDING) return (unsigned)__builtin_ctz(set);
  if (config.order == EMU_DESCENDING) return 31u - (unsigned)__builtin_clz(set);
  for (unsigned k = rnd() % (unsigned)__builtin_popcount(set); k; k--) set &= set - 1;
  return (unsigned)__builtin_ctz(set);
}

void wake(Block *b, unsigned warp, uint32_t lanes) {
  b->warp[warp].run |= lanes;
  if (lanes) b->ready |= 1u << warp;
}

/* Finishes a warp first: its stacks are warm. In random order it leaves it now and then. */
Thread *next_thread(Block *b, int warp) {
  if (!b->ready) return nullptr;
  const bool stay = warp >= 0 && b->ready >> warp & 1 && (config.order != EMU_RANDOM || rnd() % 8);
  const unsigned w = stay ? (unsigned)warp : pick(b->ready);
  return &b->thread[w * 32 + pick(b->warp[w].run)];
}

static inline void suspend(Thread *me) {
  Warp &w = B->warp[me->warp];
  w.run &= ~(1u << me->lane);
  if (!w.run) B->ready &= ~(1u << me->warp);
}

static inline void go_on(Thread *me) {
  W->stats.switches++;
  /* TMA tiles may land at any time; late ones land when nobody can run. */
  if (!B->tiles.empty() && (!config.late || rnd() % 64 == 0)) tile_deliver(B);
  Thread *to = next_thread(B, me->warp);
  if (to == me) return;
  fiber_go(&me->fiber, to);
}

void block_on(State why, const char *what, const char *file, int line) {
  Thread *me = self();
  me->state = why;
  me->what = what;
  me->file = file;
  me->line = line;
  suspend(me);
  go_on(me);
  me->state = State::READY;
}

void spin(EMU_AT_ARGS) {
  Thread *me = self();
  B->warp[me->warp].spin |= 1u << me->lane;
  B->spinning |= 1u << me->warp;
  block_on(State::SPIN, "cu_spin", file, line);
}

void thread_main() {
  Thread *me = self();
  W->launch->body();
  copies_exit(me);
  wgmma_exit(me);
  me->state = State::DONE;
  suspend(me);
  B->warp[me->warp].live &= ~(1u << me->lane);
  B->alive--;
  B->progress = true;
  barrier_exit(B);
  fiber_leave(next_thread(B, me->warp));
}

static void enter(Block *b) {
  B = b;
  block_id = b->id;
}

static void unspin(Block *b) {
  for (uint32_t s = b->spinning; s; s &= s - 1) {
    const unsigned w = (unsigned)__builtin_ctz(s);
    wake(b, w, b->warp[w].spin);
    b->warp[w].spin = 0;
  }
  b->spinning = 0;
}

/* Runs what can run of one block. True when something other than spinning came of it. */
static bool turn(Block *b) {
  enter(b);
  b->progress = b->ready != 0;
  while (b->ready || tile_deliver(b)) {
    Thread *t = next_thread(b, -1);
    if (!t) continue;
    b->progress = true;
    fiber_go(&W->main, t);
    if (W->failed) throw Stop();
  }
  return b->progress;
}

[[noreturn]] static void deadlock(Block *const *blocks, size_t n, bool spinning) {
  std::string who;
  int listed = 0;
  for (size_t i = 0; i < n; i++) {
    const Block *b = blocks[i];
    for (unsigned k = 0; k < b->n_threads && !b->done; k++) {
      const Thread &t = b->thread[k];
      if (t.state == State::DONE) continue;
      /* One line for each place in a warp. */
      bool first = true;
      unsigned same = 0;
      for (unsigned j = t.warp * 32u; j < b->n_threads && j < t.warp * 32u + 32; j++) {
        const Thread &o = b->thread[j];
        if (o.state != t.state || o.line != t.line || o.file != t.file) continue;
        if (j < k) first = false;
        same++;
      }
      if (!first || ++listed > 6) continue;
      char text[200];
      snprintf(text, sizeof text, "; block %u warp %u: %u lanes from thread %u in %s at %s:%d", b->id.x,
               t.warp, same, t.index, t.what, t.file, t.line);
      who += text;
    }
  }
  cur = nullptr;
  die("%s%s%s", spinning ? "livelock: all that can run spins" : "deadlock: nobody can run", who.c_str(),
      listed > 6 ? "; and more" : "");
}

void run_blocks(Block *const *blocks, size_t n) {
  uint64_t idle = 0;
  for (size_t left = n; left;) {
    bool progress = false, spinning = false;
    for (size_t i = 0; i < n; i++) {
      Block *b = blocks[config.order == EMU_DESCENDING ? n - 1 - i : i];
      if (b->done) continue;
      const bool woken = b->spinning != 0;
      const unsigned alive = b->alive;
      unspin(b);
      /* Only a block whose runnable lanes were all spinning, and still are, has done nothing. */
      const bool ran = turn(b);
      progress |= (ran && !woken) || b->alive != alive;
      if (!b->alive) {
        b->done = true;
        block_end(b);
        left--;
      }
      spinning |= b->spinning != 0;
    }
    if (!left || progress) {
      idle = 0;
      continue;
    }
    if (!spinning) deadlock(blocks, n, false);
    /* Another OS thread's launch may be what they wait for. */
    if (++idle > config.spin_limit) deadlock(blocks, n, true);
    sched_yield();
  }
}

}  // namespace emu
