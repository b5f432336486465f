/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL, opened at run time: programs on a CPU never load its hundreds of megabytes. Types and prototypes are
 * of nccl.h at build time. Any thread. */
#ifndef WEIR_COMM_NCCL_LIB_H
#define WEIR_COMM_NCCL_LIB_H
#include <nccl.h>
#include <stdbool.h>

#include "base/err.h"

/* Calls that are needed, and those of registered windows, which came with 2.27. */
#define WEIR_NCCL_CALLS(X) \
  X(GetVersion)            \
  X(GetUniqueId)           \
  X(GetErrorString)        \
  X(GetLastError)          \
  X(CommInitRankConfig)    \
  X(CommGetAsyncError)     \
  X(CommFinalize)          \
  X(CommDestroy)           \
  X(CommAbort)             \
  X(AllReduce)             \
  X(AllGather)             \
  X(Broadcast)
#define WEIR_NCCL_WINDOW_CALLS(X) \
  X(MemAlloc)                     \
  X(MemFree)                      \
  X(CommWindowRegister)           \
  X(CommWindowDeregister)

typedef struct weir_nccl {
#define X(name) __typeof__(nccl##name) *name;
  WEIR_NCCL_CALLS(X)
  WEIR_NCCL_WINDOW_CALLS(X)
#undef X
  int version; /* 22809: 2.28.9 */
  bool windows;
} weir_nccl;

/* Finds the library and its calls, once. The error says what is missing. */
weir_status weir_nccl_open(const weir_nccl **out, weir_err *e);

#endif
