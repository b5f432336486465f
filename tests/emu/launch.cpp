/* SPDX-License-Identifier: Apache-2.0 */
/* Launches: their checks, the configuration, and the walk over a grid's blocks. */
#include <pthread.h>
#include <stdlib.h>

#include <map>
#include <thread>

#include "emu_impl.h"

namespace emu {

__thread Worker *W;
__thread Block *B;
void (*launch_hook)(void *stream, std::function<void()> work);

/* A constant, and set before any constructor: an instrumented kernel file turns race tracking on in its own. */
emu_config config = {EMU_ASCENDING, 1, 1, 1, 0, 1, 20 * 1000 * 1000};

__attribute__((constructor)) static void configure() {
  const char *order = getenv("WEIR_EMU_ORDER"), *seed = getenv("WEIR_EMU_SEED"), *late = getenv("WEIR_EMU_LATE"),
             *threads = getenv("WEIR_EMU_THREADS");
  if (order && (order[0] == 'd' || order[0] == '1')) config.order = EMU_DESCENDING;
  if (order && (order[0] == 'r' || order[0] == '2')) config.order = EMU_RANDOM;
  if (seed) config.seed = strtoull(seed, NULL, 10);
  if (late) config.late = atoi(late) != 0;
  if (threads) config.threads = atoi(threads);
}

static pthread_mutex_t smem_lock = PTHREAD_MUTEX_INITIALIZER;
static std::map<const void *, size_t> *smem_allowed; /* never destroyed */

static size_t allowed_smem(const void *kernel) {
  size_t n = STATIC_LIMIT;
  pthread_mutex_lock(&smem_lock);
  if (smem_allowed) {
    const auto it = smem_allowed->find(kernel);
    if (it != smem_allowed->end() && it->second > n) n = it->second;
  }
  pthread_mutex_unlock(&smem_lock);
  return n;
}

struct WorkerKeeper { /* frees an OS thread's worker when it ends */
  ~WorkerKeeper() {
    if (!W) return;
    for (Block *b : W->blocks) block_destroy(b);
    delete W;
    W = nullptr;
  }
};
static thread_local WorkerKeeper keeper;

Worker *worker() {
  if (W) return W;
  (void)&keeper;
  W = new Worker();
  pthread_attr_t attr;
  void *lo = NULL;
  size_t n = 0;
  if (pthread_getattr_np(pthread_self(), &attr) == 0) {
    pthread_attr_getstack(&attr, &lo, &n);
    pthread_attr_destroy(&attr);
  }
  W->stack_lo = (const char *)lo;
  W->stack_bytes = n;
  return W;
}

static uint3 block_at(const dim3 &g, uint64_t k) {
  return {(unsigned)(k % g.x), (unsigned)(k / g.x % g.y), (unsigned)(k / ((uint64_t)g.x * g.y))};
}

struct Scope { /* what an OS thread runs, until it returns or a check fails */
  explicit Scope(const Launch *l) {
    Worker *w = worker();
    w->launch = l;
    w->failed = false;
    grid_dim = {l->grid.x, l->grid.y, l->grid.z};
    block_dim = {l->block.x, l->block.y, l->block.z};
  }
  ~Scope() {
    W->launch = nullptr;
    B = nullptr;
    cur = nullptr;
  }
};

static void run_range(const Launch &l, uint64_t from, uint64_t step, uint64_t n) {
  Scope scope(&l);
  if (W->blocks.empty()) W->blocks.push_back(block_create());
  Block *b = W->blocks[0];
  for (uint64_t i = from; i < n; i += step) {
    const uint64_t k = config.order == EMU_DESCENDING ? n - 1 - i : i;
    block_start(b, block_at(l.grid, k), k);
    run_blocks(&b, 1);
  }
}

static void run_resident(const Launch &l, uint64_t n) {
  Scope scope(&l);
  while (W->blocks.size() < n) W->blocks.push_back(block_create());
  for (uint64_t k = 0; k < n; k++) block_start(W->blocks[k], block_at(l.grid, k), k);
  run_blocks(W->blocks.data(), (size_t)n);
}

static void run(const Launch &l) {
  const uint64_t n = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
  worker()->stats.launches++;
  if (l.coop) return run_resident(l, n);
  const uint64_t threads = config.threads > 1 && !W->expecting ? (uint64_t)config.threads : 1;
  if (threads == 1 || n < 2) return run_range(l, 0, 1, n);
  std::vector<std::thread> others;
  for (uint64_t t = 1; t < threads && t < n; t++)
    others.emplace_back([&, t] { run_range(l, t, threads, n); });
  run_range(l, 0, threads, n);
  for (std::thread &t : others) t.join();
}

/* CUDA C++ Programming Guide, "Technical specifications per compute capability". */
static cudaError_t check(const Launch &l) {
  const dim3 &g = l.grid, &b = l.block;
  if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (!b.x || !b.y || !b.z || b.x > 1024 || b.y > 1024 || b.z > 64) return cudaErrorInvalidConfiguration;
  if ((uint64_t)b.x * b.y * b.z > MAX_THREADS) return cudaErrorInvalidConfiguration;
  if (l.smem > allowed_smem(l.entry)) return cudaErrorInvalidValue;
  if (l.coop && (uint64_t)g.x * g.y * g.z > 512) return cudaErrorInvalidConfiguration;
  return cudaSuccess;
}

void launch(void *stream, Launch l) {
  const cudaError_t e = check(l);
  if (e != cudaSuccess) {
    emu_launch_fail((int)e);
    return;
  }
  if (launch_hook)
    launch_hook(stream, [l] { run(l); });
  else
    run(l);
}

}  // namespace emu

emu_config *emu_config_of(void) { return &emu::config; }

emu_stats emu_stats_take(void) {
  emu::Worker *w = emu::worker();
  const emu_stats s = w->stats;
  w->stats = emu_stats();
  return s;
}

int emu_launch_status(void) {
  emu::Worker *w = emu::worker();
  const int s = w->status;
  w->status = 0;
  return s;
}

void emu_launch_fail(int error) {
  emu::Worker *w = emu::worker();
  if (!w->status) w->status = error;
}

void emu_allow_smem(const void *kernel, size_t bytes) {
  pthread_mutex_lock(&emu::smem_lock);
  if (!emu::smem_allowed) emu::smem_allowed = new std::map<const void *, size_t>;
  (*emu::smem_allowed)[kernel] = bytes;
  pthread_mutex_unlock(&emu::smem_lock);
}

/* Where the runtime of tests/emu/host is not linked, a launcher's cudaGetLastError is this. */
extern "C" __attribute__((weak)) cudaError_t cudaGetLastError(void) {
  return (cudaError_t)emu_launch_status();
}
