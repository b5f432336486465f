/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU device: any x86-64, instruction set chosen at run time. */
#ifndef WEIR_KERNELS_CPU_CPU_H
#define WEIR_KERNELS_CPU_CPU_H
#include "base/cores.h"
#include "kernels/device.h"

/* Each includes those before. */
typedef enum { WEIR_ISA_SCALAR, WEIR_ISA_AVX2, WEIR_ISA_AVX512_VNNI, WEIR_ISA_AMX, WEIR_ISA_BEST } weir_isa;

typedef struct weir_cpu_opts {
  int32_t n_threads; /* 0: one per core this process may run on */
  weir_isa isa;      /* WEIR_ISA_BEST: the best this machine has; asking for more than it has is an error */
  bool no_pin;       /* leave threads to the scheduler instead of pinning each to a core */
  /* The device's part of a machine that several divide: its threads and their cores; n_threads is not looked
   * at. Threads that call, other than the one that opens, are the device's own and pinned too. Borrowed for
   * the call; NULL: the whole machine. */
  const weir_core_share *share;
  bool amx_small; /* for tests: AMX also for weights so narrow that it does not pay (same bits) */
} weir_cpu_opts;

/* *out owned by the caller (weir_dev_destroy). opts NULL: defaults. */
weir_status weir_dev_open_cpu(const weir_cpu_opts *opts, weir_dev **out, weir_err *e);

/* What a device from weir_dev_open_cpu runs on. */
weir_isa weir_cpu_isa(const weir_dev *);
int32_t weir_cpu_n_threads(const weir_dev *);
const char *weir_isa_name(weir_isa); /* "scalar", "avx2", "avx512-vnni", "amx" */

#endif
