/* SPDX-License-Identifier: Apache-2.0 */
/* Warp collectives: lanes of a mask meet, the last one to come does the work for all. CUDA C++ Programming
 * Guide, "Warp Vote", "Warp Shuffle", "Warp Reduce", "Warp Match". */
#include "emu_impl.h"

namespace emu {

static Group *find_group(Warp &w, uint32_t mask) {
  if (mask == ~0u) return &w.group[0];
  for (int i = 1; i < w.n_groups; i++)
    if (w.group[i].mask == mask) return &w.group[i];
  int i = 1;
  while (i < w.n_groups && w.group[i].arrived) i++;
  if (i == (int)MAX_GROUPS) die("too many partial masks wait at once");
  if (i == w.n_groups) w.n_groups++;
  w.group[i].mask = mask;
  w.group[i].arrived = 0;
  return &w.group[i];
}

/* PTX ISA, shfl.sync: lanes outside their segment keep their own value. */
static int source_lane(Op op, int lane, int by, int width) {
  const int base = lane & ~(width - 1), end = base + width;
  switch (op) {
    case SHFL: return base + (by & (width - 1));
    case SHFL_DOWN: return lane + by < end ? lane + by : lane;
    case SHFL_UP: return lane - by >= base ? lane - by : lane;
    default: return (lane ^ by) < end ? lane ^ by : lane;
  }
}

static void exec_shuffle(const Group &g) {
  for (uint32_t m = g.mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m), width = g.arg[lane] >> 8;
    if (width < 1 || width > 32 || (width & (width - 1))) die("%s: width %d", op_name(g.op), width);
    const int src = source_lane(g.op, lane, g.arg[lane] & 255, width);
    if (!(g.mask >> src & 1))
      die("%s: lane %d reads lane %d, which is not in mask %08x", op_name(g.op), lane, src, g.mask);
    const Words *from = (const Words *)g.io[src];
    Words *to = (Words *)g.io[lane];
    to->out[0] = from->in[0];
    to->out[1] = from->in[1];
  }
}

static uint32_t reduce(Op op, uint32_t a, uint32_t b) {
  switch (op) {
    case REDUCE_ADD: return a + b;
    case REDUCE_MIN: return a < b ? a : b;
    case REDUCE_MAX: return a > b ? a : b;
    case REDUCE_IMIN: return (int32_t)a < (int32_t)b ? a : b;
    case REDUCE_IMAX: return (int32_t)a > (int32_t)b ? a : b;
    case REDUCE_AND: return a & b;
    case REDUCE_OR: return a | b;
    default: return a ^ b;
  }
}

static void exec_same_for_all(const Group &g) {
  const Words *first = (const Words *)g.io[__builtin_ctz(g.mask)];
  uint32_t out = 0;
  bool begun = false, equal = true;
  for (uint32_t m = g.mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const Words *w = (const Words *)g.io[lane];
    if (g.op == BALLOT) {
      out |= (w->in[0] & 1u) << lane;
    } else if (g.op == MATCH_ALL) {
      equal &= w->in[0] == first->in[0] && w->in[1] == first->in[1];
      out = equal ? g.mask : 0;
    } else {
      out = begun ? reduce(g.op, out, w->in[0]) : w->in[0];
    }
    begun = true;
  }
  for (uint32_t m = g.mask; m; m &= m - 1) ((Words *)g.io[__builtin_ctz(m)])->out[0] = out;
}

static void exec_match_any(const Group &g) {
  for (uint32_t m = g.mask; m; m &= m - 1) {
    Words *mine = (Words *)g.io[__builtin_ctz(m)];
    mine->out[0] = 0;
    for (uint32_t k = g.mask; k; k &= k - 1) {
      const int lane = __builtin_ctz(k);
      const Words *w = (const Words *)g.io[lane];
      if (w->in[0] == mine->in[0] && w->in[1] == mine->in[1]) mine->out[0] |= 1u << lane;
    }
  }
}

static void exec(const Group &g) {
  switch (g.op) {
    case SHFL:
    case SHFL_DOWN:
    case SHFL_UP:
    case SHFL_XOR: exec_shuffle(g); break;
    case MATCH_ANY: exec_match_any(g); break;
    /* Votes and shuffles order no memory; only this one does. */
    case SYNCWARP:
      if (config.race) race_join(1u << self()->warp);
      break;
    case WGMMA: break;
    case LDMATRIX_X1:
    case LDMATRIX_X2:
    case LDMATRIX_X4:
    case LDMATRIX_X1_T:
    case LDMATRIX_X2_T:
    case LDMATRIX_X4_T: exec_ldmatrix(g); break;
    case MMA_BF16:
    case MMA_F16:
    case MMA_S8:
      exec_mma(g);
      W->stats.mmas++;
      break;
    default: exec_same_for_all(g);
  }
}

void collective(uint32_t mask, Op op, int arg, void *io, EMU_AT_ARGS) {
  Thread *me = self();
  Warp &w = B->warp[me->warp];
  const uint32_t bit = 1u << me->lane;
  if (!(mask & bit))
    die("%s at %s:%d: the calling lane is not in its mask %08x", op_name(op), file, line, mask);
  if (mask & ~w.live)
    die("%s at %s:%d: mask %08x names lanes that have exited or never were (live: %08x)", op_name(op), file,
        line, mask, w.live);
  Group *g = find_group(w, mask);
  if (!g->arrived) {
    g->op = op;
    g->file = file;
    g->line = line;
  } else if (g->op != op || g->line != line || (g->file != file && strcmp(g->file, file) != 0)) {
    die("divergent collective: %s at %s:%d meets %s at %s:%d of the same warp", op_name(op), file, line,
        op_name(g->op), g->file, g->line);
  }
  g->io[me->lane] = io;
  g->arg[me->lane] = arg;
  g->arrived |= bit;
  if (g->arrived != mask) {
    block_on(State::COLLECTIVE, op_name(op), file, line);
    return;
  }
  W->stats.collectives++;
  exec(*g);
  g->arrived = 0;
  wake(B, me->warp, mask & ~bit);
}

uint32_t active_mask() { return B->warp[self()->warp].live; }

}  // namespace emu
