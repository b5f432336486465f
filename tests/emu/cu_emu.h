/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels/cuda/cu.h includes where the compiler is not nvcc: a kernel is compiled as C++ and run on the
 * CPU, one fiber for each CUDA thread. This file has the thread's indices and the launch; the rest of the
 * language is in the headers below. */
#ifndef WEIR_TESTS_EMU_CU_EMU_H
#define WEIR_TESTS_EMU_CU_EMU_H
#include <functional>
#include <tuple>
#include <utility>

#include "cu_emu_math.h"
#include "cu_emu_mem.h"
#include "cu_emu_tensor.h"
#include "cu_emu_types.h"
#include "cu_emu_warp.h"
#include "emu.h"

namespace emu {
/* The running CUDA thread of this OS thread. __thread, for C++'s thread_local goes through a wrapper function
 * that gcc 12's UBSan takes for a null dereference. */
struct ThreadIndex {
  uint3 tid;
};
extern __thread const ThreadIndex *cur;
extern __thread uint3 block_id, grid_dim, block_dim;

struct Launch {
  const char *kernel; /* as written in CU_LAUNCH */
  const void *entry;
  dim3 grid, block;
  size_t smem;
  bool coop;
  std::function<void()> body;
};
/* Checks the launch at once; runs it, or hands it to the hook. */
void launch(void *stream, Launch l);

/* NULL: launches run at once, on the calling thread. A hook may keep the work and call it later, once or, in
 * a recorded graph, many times; all that a kernel was given is held by value. */
extern void (*launch_hook)(void *stream, std::function<void()> work);

/* Arguments are converted to the kernel's parameter types here, when it is launched, as CUDA does. */
template <class... P, class... A>
static inline void launch_of(const char *name, bool coop, void (*kernel)(P...), dim3 grid, dim3 block,
                             size_t smem, void *stream, A &&...args) {
  static_assert(sizeof...(P) == sizeof...(A), "kernel arguments");
  std::tuple<typename std::remove_cv<P>::type...> held(std::forward<A>(args)...);
  launch(stream,
         {name, (const void *)kernel, grid, block, smem, coop, [kernel, held] { std::apply(kernel, held); }});
}
}  // namespace emu

#define threadIdx (emu::cur->tid)
#define blockIdx  (emu::block_id)
#define blockDim  (emu::block_dim)
#define gridDim   (emu::grid_dim)
#define warpSize  32

#define CU_LAUNCH(kern, grid, block, smem, stream, ...) \
  emu::launch_of(#kern, false, kern, dim3(grid), dim3(block), smem, (void *)(stream), __VA_ARGS__)
#define CU_LAUNCH_COOP(kern, grid, block, smem, stream, ...) \
  emu::launch_of(#kern, true, kern, dim3(grid), dim3(block), smem, (void *)(stream), __VA_ARGS__)
/* What the launches of this OS thread since the last call came to. */
#define CU_LAUNCH_STATUS() cudaGetLastError()

/* Opts a kernel in to more than 48 KB of dynamic shared memory. */
template <class... P>
static inline cudaError_t cu_allow_smem(void (*kernel)(P...), size_t bytes) {
  if (bytes > 227 * 1024) return cudaErrorInvalidValue;
  emu_allow_smem((const void *)kernel, bytes);
  return cudaSuccess;
}
#endif
