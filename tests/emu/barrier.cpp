/* SPDX-License-Identifier: Apache-2.0 */
/* Block barriers: __syncthreads and the named ones. PTX ISA, "bar": barrier 0 of all threads counts those
 * that have not exited; bar.sync is .aligned, so the lanes of a warp come to it from one place. */
#include "emu_impl.h"

namespace emu {

static void complete(Block *b, Bar *bar) {
  const unsigned id = (unsigned)(bar - b->bar);
  if (config.race) race_join(bar->warps);
  for (unsigned i = 0; i < b->n_threads; i++) {
    Thread *t = &b->thread[i];
    if (t->state != State::BARRIER || t->bar != id) continue;
    t->bar_result = bar->result;
    t->state = State::READY;
    wake(b, t->warp, 1u << t->lane);
  }
  for (unsigned w = 0; w < b->n_warps; w++)
    if (bar->warps >> w & 1) b->warp[w].bar_file = nullptr;
  bar->got = 0;
  W->stats.barriers++;
}

void barrier_exit(Block *b) {
  Bar *bar = &b->bar[0];
  if (bar->got && !bar->need && (unsigned)bar->got == b->alive) complete(b, bar);
}

int barrier(int id, int n, BarMode mode, int pred, EMU_AT_ARGS) {
  Thread *me = self();
  if (id < 0 || id >= (int)MAX_BARS) die("barrier %d at %s:%d: there are 16", id, file, line);
  if (n < 0 || n % 32 || n > (int)(B->n_warps * 32))
    die("barrier %d at %s:%d: of %d threads, must be a multiple of 32 and no more than the block's", id, file,
        line, n);
  Bar *bar = &B->bar[id];
  Warp &w = B->warp[me->warp];
  if (!bar->got) {
    bar->need = n;
    bar->mode = mode;
    bar->warps = 0;
    bar->result = mode == BAR_AND;
  } else {
    if (bar->need != n)
      die("barrier %d at %s:%d: of %d threads, others wait for %d", id, file, line, n, bar->need);
    if (bar->mode != mode && mode != BAR_ARRIVE && bar->mode != BAR_ARRIVE)
      die("barrier %d at %s:%d: another kind of barrier waits there", id, file, line);
    if (bar->warps >> me->warp & 1 && w.bar_file && (w.bar_line != line || strcmp(w.bar_file, file) != 0))
      die("divergent barrier: a lane of warp %u comes to barrier %d at %s:%d, another waits at %s:%d",
          me->warp, id, file, line, w.bar_file, w.bar_line);
  }
  if (bar->mode == BAR_ARRIVE) bar->mode = mode;
  bar->warps |= 1u << me->warp;
  w.bar_file = file;
  w.bar_line = line;
  bar->got++;
  if (mode == BAR_COUNT) bar->result += pred != 0;
  if (mode == BAR_OR) bar->result |= pred != 0;
  if (mode == BAR_AND) bar->result &= pred != 0;
  const unsigned need = n ? (unsigned)n : B->alive;
  if ((unsigned)bar->got > need)
    die("barrier %d at %s:%d: more arrivals than its %d threads", id, file, line, n);
  if ((unsigned)bar->got == need) {
    const int result = bar->result;
    complete(B, bar);
    return result;
  }
  if (mode == BAR_ARRIVE) return 0;
  me->bar = (uint8_t)id;
  block_on(State::BARRIER, id ? "cu_bar_sync" : "__syncthreads", file, line);
  return me->bar_result;
}

}  // namespace emu
