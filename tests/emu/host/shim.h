/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the emulator's CUDA runtime: its state, and what its files need of each other. */
#ifndef WEIR_EMU_SHIM_H
#define WEIR_EMU_SHIM_H
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "cu_shim.h"

namespace shim {

struct Span { /* host memory that something enqueued will touch */
  const char *lo = nullptr, *hi = nullptr;
};

struct Work {
  const char *name;
  std::function<void()> run;
  Span host;
  bool apart = false; /* runs without the lock: kernels of several threads' streams may wait for each other */
};

struct Fault {
  uint64_t at = 0; /* counted from now; 0: none */
  cudaError_t error = cudaSuccess;
  bool when_it_runs = false;
};

struct Block {
  char *raw = nullptr; /* what malloc gave */
  size_t bytes = 0;
  int device = 0;
};

struct State {
  std::recursive_mutex mutex;
  cu_shim_config config = cu_shim_defaults();
  cu_shim_counts counts = {};
  std::map<const char *, Block> device, pinned; /* by first byte */
  std::set<CUstream_st *> streams;
  std::set<CUevent_st *> events;
  std::set<CUgraph_st *> graphs;
  std::set<CUgraphExec_st *> execs;
  std::set<void *> handles; /* cuBLASLt's */
  cudaError_t sticky = cudaSuccess;
  Fault call, launch;
  const char *failed = nullptr;
  char misuse[256] = "";
  uint64_t rng = 1;
};
State &state();

/* How often this thread holds the lock. */
extern thread_local int held;
struct Lock {
  Lock() { state().mutex.lock(), held++; }
  ~Lock() { held--, state().mutex.unlock(); }
  Lock(const Lock &) = delete;
  Lock &operator=(const Lock &) = delete;
};
/* Lets go of it altogether, and takes it again. */
struct Unlocked {
  const int n = held;
  Unlocked() {
    for (held = 0; held < n; held++) state().mutex.unlock();
    held = 0;
  }
  ~Unlocked() {
    for (held = 0; held < n; held++) state().mutex.lock();
  }
  Unlocked(const Unlocked &) = delete;
  Unlocked &operator=(const Unlocked &) = delete;
};

/* Sets the thread's last error, and the context's when it is one that nothing gets over. Returns it. */
cudaError_t fail(cudaError_t);
bool is_sticky(cudaError_t);
/* Counts a call; what it must return at once, or success. */
cudaError_t enter(const char *name);
/* The same for calls that may not be made while this thread records: breaks the record. */
cudaError_t enter_unsafe(const char *name);
void misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t random();
int current_device();

/* The block that holds all of [p, p + bytes), or NULL. */
const Block *find(const std::map<const char *, Block> &, const void *p, size_t bytes);
void check_guards(const char *first, const Block &);

/* A kernel on its way to a stream. */
void launch(cudaStream_t, std::function<void()>);
bool launches_come_here();

/* Puts work on a stream, or into the record that is being made of it. */
cudaError_t enqueue(cudaStream_t, Work);
void drain_all(); /* of the thread's GPU */
/* Work on host memory in [p, p + bytes) that has not happened yet. */
bool pending_on(const char *p, size_t bytes);
/* True when this thread may not make unsafe calls; the record is then broken. */
bool break_capture();
void drop_streams(); /* of reset */

}  // namespace shim

#define SHIM_CALL(name)                            \
  shim::Lock lock_;                                \
  const cudaError_t entered_ = shim::enter(#name); \
  if (entered_ != cudaSuccess) return entered_

#endif
