/* SPDX-License-Identifier: Apache-2.0 */
/* What the benchmarks of the CPU's operations share: options, the device, the clock. */
#ifndef WEIR_BENCH_CPU_H
#define WEIR_BENCH_CPU_H
#include <stdint.h>

#include "base/err.h"
#include "kernels/cpu/cpu.h"

/* An option of one program's own. */
typedef struct bench_option {
  const char *name;
  int letter;         /* | BENCH_FLAG when it takes no value */
  const char **value; /* set to the argument, of a flag to "" */
} bench_option;
enum { BENCH_FLAG = 0x100 };

enum { BENCH_MAX_OPTIONS = 8 };

typedef struct bench_cpu {
  const char *program, *help;
  bench_option own[BENCH_MAX_OPTIONS]; /* until name is NULL */
  weir_cpu_opts cpu;                   /* --threads, --isa */
  double seconds;                      /* a case: --seconds */
} bench_cpu;

/* 0: go on; else the exit status plus one. */
int bench_parse(bench_cpu *, int argc, char **argv);
/* Says on stderr what is wrong with an argument; the exit status. */
int bench_usage(const bench_cpu *, const char *why, const char *arg);
/* Opens the device, runs and reports; the exit status. */
int bench_run(const bench_cpu *, weir_status (*run)(weir_dev *, const void *ctx, weir_err *),
              const void *ctx);
int64_t bench_now(void); /* ns */

#endif
