/* SPDX-License-Identifier: Apache-2.0 */
/* The way to a CUDA device. Everything that needs CUDA lives in one shared object, weir-cuda.so, which is
 * opened when a CUDA device is asked for: programs that use none load none of it, and libcuda is never
 * linked. */
#ifndef WEIR_KERNELS_CUDA_OPEN_H
#define WEIR_KERNELS_CUDA_OPEN_H
#include "base/log.h"
#include "kernels/device.h"

typedef struct weir_cuda_opts {
  int32_t ordinal;     /* which GPU, as CUDA counts them */
  const char *library; /* path of weir-cuda.so; NULL: beside the program, in ../lib/weir from there, or where
                          the loader looks */
  bool no_graphs;      /* enqueue every step anew instead of recording it */
} weir_cuda_opts;

/* *out owned by the caller (weir_dev_destroy). Errors: WEIR_EUNSUP with what is missing: the library (and
 * where it was looked for), one built for another version of weir, a driver, that GPU. */
weir_status weir_dev_open_cuda(const weir_cuda_opts *, weir_dev **out, weir_err *e);

/* How many GPUs there are; 0 and the reason in `e` when there is no library or no driver. */
int32_t weir_cuda_count(const char *library, weir_err *e);

/* Where the library's lines go: weir_log of the program that opened it. */
typedef void (*weir_cuda_log_fn)(weir_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* What the shared object exports, as `weir_cuda_entry`. */
enum { WEIR_CUDA_ABI = 1 };
typedef struct weir_cuda_api {
  uint32_t abi;
  uint32_t dev_bytes, ops_bytes; /* sizeof weir_dev and weir_dev_ops where it was built */
  weir_status (*open)(const weir_cuda_opts *, weir_cuda_log_fn, weir_dev **out, weir_err *);
  int32_t (*count)(weir_err *);
} weir_cuda_api;

#endif
