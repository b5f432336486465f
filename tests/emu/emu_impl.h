/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the emulator: what a running block is, and what its files need of each other.
 *
 * An OS thread that launches has one Worker. It runs resident blocks, one of them at a time: one after the
 * other in a plain launch, taking turns in a cooperative one. All state hangs off two __thread pointers, so
 * ranks may launch from several OS threads at once. */
#ifndef WEIR_TESTS_EMU_EMU_IMPL_H
#define WEIR_TESTS_EMU_EMU_IMPL_H
#include <string>
#include <vector>

#include "cu_emu.h"

namespace emu {

constexpr unsigned MAX_THREADS = 1024, MAX_WARPS = 32, MAX_BARS = 16, MAX_GROUPS = 17, MAX_SITES = 64;
constexpr size_t KB = 1024, STATIC_LIMIT = 48 * KB, SMEM_LIMIT = 227 * KB;
/* Shared memory of a block: [statics, with gaps][dynamic, against its end][a page nobody may touch]. */
constexpr size_t STATIC_ROOM = 64 * KB, DYN_ROOM = 228 * KB, ARENA = STATIC_ROOM + DYN_ROOM, PAGE = 4 * KB;

enum class State : uint8_t { READY, COLLECTIVE, BARRIER, MBARRIER, SPIN, DONE };

struct Fiber {
  void *sp;
  void *fake_stack; /* ASan's */
};

struct Thread : ThreadIndex {
  Fiber fiber;
  uint16_t index, lane, warp; /* index in the block */
  State state;
  uint8_t bar; /* the barrier waited for */
  int bar_result;
  const char *what; /* it waits in, from file:line */
  const char *file;
  int line;
  const void *mbar;
  int copy_group, wgmma_group; /* groups committed so far */
};

struct Group { /* lanes on their way into one collective */
  uint32_t mask, arrived;
  Op op;
  const char *file;
  int line;
  void *io[32];
  int arg[32];
};

struct Warp {
  uint32_t live, run, spin; /* lanes: not exited, able to run, in cu_spin */
  int n_groups;
  Group group[MAX_GROUPS]; /* [0] is of the full mask */
  const char *bar_file;    /* where its lanes wait at the barrier of all threads */
  int bar_line;
};

struct Bar {
  int need, got, result; /* need 0: all live threads */
  BarMode mode;
  uint32_t warps; /* that have arrived */
};

struct Copy {
  char *dst;
  const char *src;
  uint8_t n;
  bool pred;
  int group;
};

struct Tile { /* a TMA load under way */
  char *dst;
  CUtensorMap map;
  void *bar;
  int c0, c1;
};

struct Wgmma {
  uint16_t thread;
  int n, acc, group;
  float *d;
  uint64_t a, b;
};

struct Mbar {
  const void *at;
  int count, pending, phase;
  int64_t tx;
  uint32_t clock[MAX_WARPS]; /* of those who have arrived */
};

struct Access { /* who touched a byte, and when */
  uint32_t clock;
  uint16_t thread;
};
struct Shadow {
  Access write, read[2];
};

struct Block {
  uint3 id;
  unsigned n_threads, n_warps, alive;
  uint32_t ready; /* warps with a lane able to run */
  uint32_t spinning;
  bool done, progress;
  Thread *thread; /* [MAX_THREADS] */
  Warp warp[MAX_WARPS];
  Bar bar[MAX_BARS];
  char *stacks;
  char *arena, *dyn;
  size_t dyn_bytes, static_used, static_bytes; /* used: with gaps */
  struct Site {
    const void *key;
    size_t at, bytes;
  } site[MAX_SITES];
  int n_sites;
  std::vector<Copy> copies[MAX_THREADS]; /* of each thread, oldest first */
  std::vector<Tile> tiles;
  std::vector<Wgmma> wgmmas;
  std::vector<Mbar> mbars;
  Shadow *shadow;                              /* [ARENA], once race tracking has been on */
  uint32_t clock[MAX_WARPS][MAX_WARPS], epoch; /* accesses before epoch are of earlier blocks */
};

struct Worker {
  Fiber main;
  const char *stack_lo;
  size_t stack_bytes;
  std::vector<Block *> blocks; /* made so far; a plain launch uses the first */
  const Launch *launch;
  uint64_t rng;
  bool expecting, failed;
  std::string message;
  emu_stats stats;
  int status;
};
Worker *worker(); /* of this OS thread, made on its first launch */
extern __thread Worker *W;
extern __thread Block *B;
extern emu_config config;

struct Stop {}; /* thrown on the OS thread's own stack by a failed check that somebody expects */

static inline Thread *self() { return const_cast<Thread *>(static_cast<const Thread *>(cur)); }

static inline uint32_t rnd() { /* xorshift64 */
  uint64_t x = W->rng;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  W->rng = x;
  return (uint32_t)(x >> 20);
}

/* error.cpp */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void die_race(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *op_name(Op op);

/* fiber.cpp */
size_t stack_bytes();
void fiber_prepare(Block *b, Thread *t);
void fiber_go(Fiber *from, Thread *to); /* to NULL: the OS thread's own stack */
[[noreturn]] void fiber_leave(Thread *to);

/* scheduler.cpp */
void run_blocks(Block *const *blocks, size_t n); /* until all are done */
void block_on(State why, const char *what, const char *file, int line);
void wake(Block *b, unsigned warp, uint32_t lanes);
Thread *next_thread(Block *b, int warp); /* NULL when none can run */
[[noreturn]] void thread_main();

/* block.cpp */
Block *block_create();
void block_destroy(Block *b);
void block_start(Block *b, uint3 id, unsigned long long serial);
void block_end(Block *b);

/* barrier.cpp, warp.cpp, mma.cpp */
void barrier_exit(Block *b); /* a thread has exited: does that complete a barrier? */
void exec_mma(const Group &g);
void exec_ldmatrix(const Group &g);

/* copy.cpp, hopper.cpp */
void copies_exit(const Thread *t); /* errors when some were never waited for */
void wgmma_exit(const Thread *t);
bool tile_deliver(Block *b); /* one load that is under way, chosen at random; false: there is none */

/* race.cpp */
void touch_slow(const void *p, size_t n, bool write, bool atomic);
void race_block_start(Block *b);
void race_join(uint32_t warps);     /* their accesses so far come before each other's later ones */
void race_release(uint32_t *clock); /* the running warp's knowledge is merged into clock[MAX_WARPS] */
void race_acquire(const uint32_t *clock);
/* One access by the running CUDA thread. */
static inline void touch(const void *p, size_t n, bool write) {
  if (cur && config.race) touch_slow(p, n, write, false);
}

/* memory.cpp */
void mem_check(const void *p, size_t n, bool write);

/* shared.cpp */
bool shared_holds(const Block *b, const void *p, size_t n);
static inline bool in_arena(const Block *b, const void *p) {
  return (size_t)((const char *)p - b->arena) < ARENA;
}

/* ASan, when the program has it. */
void asan_poison(const void *p, size_t n);
void asan_unpoison(const void *p, size_t n);

}  // namespace emu
#endif
