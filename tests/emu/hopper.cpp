/* SPDX-License-Identifier: Apache-2.0 */
/* Hopper: mbarriers, 2-D TMA tile loads with the 128-byte swizzle, asynchronous wgmma. PTX ISA, "mbarrier",
 * "cp.async.bulk.tensor", "Asynchronous warpgroup level matrix". Tiles land at any time after their issue;
 * late, wgmma happens at its wait. Phases and byte counts of an mbarrier are kept beside it, not in its 8
 * bytes. */
#include "emu_impl.h"

namespace emu {

static Mbar *find_mbar(Block *b, const void *at) {
  for (Mbar &m : b->mbars)
    if (m.at == at) return &m;
  return nullptr;
}

static Mbar *need_mbar(const void *at, const char *what) {
  Mbar *m = find_mbar(B, at);
  if (!m) die("%s: the mbarrier was never initialised", what);
  return m;
}

static void flip(Block *b, Mbar *m) {
  if (m->pending || m->tx) return;
  m->pending = m->count;
  m->phase ^= 1;
  for (unsigned i = 0; i < b->n_threads; i++) {
    const Thread &t = b->thread[i];
    if (t.state == State::MBARRIER && t.mbar == m->at) wake(b, t.warp, 1u << t.lane);
  }
}

void mbar_init(void *bar, int count) {
  if ((uintptr_t)bar % 8 || !in_arena(B, bar) || !shared_holds(B, bar, 8)) die("mbarrier at %p", bar);
  if (count < 1) die("mbarrier of %d arrivals", count);
  Mbar *m = find_mbar(B, bar);
  if (!m) {
    B->mbars.push_back(Mbar());
    m = &B->mbars.back();
  }
  *m = Mbar();
  m->at = bar;
  m->count = m->pending = count;
  touch(bar, 8, true);
}

void mbar_arrive(void *bar, int tx_bytes) {
  Mbar *m = need_mbar(bar, "mbarrier arrive");
  if (!m->pending) die("mbarrier: more arrivals than its count of %d", m->count);
  m->tx += tx_bytes;
  m->pending--;
  if (config.race) race_release(m->clock);
  flip(B, m);
}

void mbar_wait(void *bar, int parity, EMU_AT_ARGS) {
  Mbar *m = need_mbar(bar, "mbarrier wait");
  while (m->phase == parity) {
    self()->mbar = bar;
    block_on(State::MBARRIER, "cu_mbar_wait", file, line);
    m = need_mbar(bar, "mbarrier wait");
  }
  if (config.race) race_acquire(m->clock);
}

/* PTX ISA, "Swizzling modes": in each 1024 bytes, 16-byte chunks are xored with their 128-byte row. */
static size_t swizzle_128(size_t at) { return at ^ ((at >> 7 & 7) << 4); }

void tma_load(void *dst, const CUtensorMap *m, void *bar, int c0, int c1) {
  const size_t row = (size_t)m->box[0] * m->elem_bytes, bytes = row * m->box[1];
  if (!in_arena(B, dst) || !shared_holds(B, dst, bytes))
    die("TMA load of %zu bytes outside of shared memory", bytes);
  if (shared_address(dst) % (m->swizzle ? 1024 : 128)) die("TMA destination is misaligned");
  if (m->swizzle && row != 128) die("TMA with 128-byte swizzle: a box row has %zu bytes", row);
  need_mbar(bar, "TMA load");
  B->tiles.push_back({(char *)dst, *m, bar, c0, c1});
}

bool tile_deliver(Block *b) {
  if (b->tiles.empty()) return false;
  const size_t k = rnd() % b->tiles.size();
  const Tile t = b->tiles[k];
  b->tiles.erase(b->tiles.begin() + (ptrdiff_t)k);
  const CUtensorMap &m = t.map;
  const size_t row = (size_t)m.box[0] * m.elem_bytes;
  for (uint32_t r = 0; r < m.box[1]; r++) {
    for (uint32_t c = 0; c < m.box[0]; c++) {
      size_t at = r * row + (size_t)c * m.elem_bytes;
      if (m.swizzle) at = swizzle_128(at); /* dst is a multiple of 1024 */
      const int64_t x = (int64_t)t.c0 + c, y = (int64_t)t.c1 + r;
      const bool inside = x >= 0 && y >= 0 && (uint64_t)x < m.dim[0] && (uint64_t)y < m.dim[1];
      if (inside)
        memcpy(t.dst + at, m.base + (uint64_t)y * m.stride + (uint64_t)x * m.elem_bytes, m.elem_bytes);
      else
        memset(t.dst + at, 0, m.elem_bytes);
    }
  }
  Mbar *bar = find_mbar(b, t.bar);
  if (!bar) die("TMA load: its mbarrier was never initialised");
  bar->tx -= (int64_t)(row * m.box[1]);
  flip(b, bar);
  return true;
}

/* Element (row, k) of a K-major operand with 128-byte swizzle: the descriptor has the start address and the
 * distance of 8-row groups, in units of 16 bytes. */
static float operand(uint64_t desc, int row, int k) {
  const size_t start = (size_t)(desc & 0x3fff) << 4, group = (size_t)(desc >> 32 & 0x3fff) << 4;
  const size_t at = swizzle_128(start + (size_t)(row >> 3) * group + (size_t)(row & 7) * 128 + (size_t)k * 2);
  const char *p = B->dyn + at;
  if (at + 2 > B->dyn_bytes) die("wgmma: operand is outside of dynamic shared memory");
  touch(p, 2, false);
  bf16 v;
  memcpy(&v, p, 2);
  return bf2f(v);
}

static void run_wgmma(const Wgmma &w) {
  const int lane = w.thread & 31, row0 = (w.thread / 32 & 3) * 16;
  for (int i = 0; i < w.n / 2; i++) {
    const int m = row0 + (lane >> 2) + (i >> 1 & 1) * 8, n = (i >> 2) * 8 + (lane & 3) * 2 + (i & 1);
    float s = 0;
    for (int k = 0; k < 16; k++) s += operand(w.a, m, k) * operand(w.b, n, k);
    w.d[i] = (w.acc ? w.d[i] : 0.f) + s;
  }
}

void wgmma(float *d, int n, uint64_t desc_a, uint64_t desc_b, int acc, EMU_AT_ARGS) {
  Thread *me = self();
  collective(~0u, WGMMA, 0, nullptr, file, line);
  const Wgmma w = {me->index, n, acc, me->wgmma_group, d, desc_a, desc_b};
  if (!config.late) run_wgmma(w);
  B->wgmmas.push_back(w);
}

void wgmma_commit() { self()->wgmma_group++; }

/* The wait is .sync.aligned: no lane goes on before its whole warp's products are done. */
void wgmma_wait(int n, EMU_AT_ARGS) {
  const Thread *me = self();
  std::vector<Wgmma> &v = B->wgmmas;
  size_t kept = 0;
  for (size_t i = 0; i < v.size(); i++) {
    const Wgmma w = v[i];
    if (w.thread != me->index || w.group >= me->wgmma_group - n) {
      v[kept++] = w;
    } else if (config.late) {
      run_wgmma(w);
    }
  }
  v.resize(kept);
  collective(~0u, WGMMA, 0, nullptr, file, line);
}

void wgmma_exit(const Thread *t) {
  for (const Wgmma &w : B->wgmmas)
    if (w.thread == t->index) die("exits without having waited for its wgmma");
}

}  // namespace emu
