/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of weir-bench and the table of its options. */
#ifndef WEIR_LOAD_OPTIONS_H
#define WEIR_LOAD_OPTIONS_H
#include "base/config.h"

enum { WEIR_BENCH_RUN = 1, WEIR_BENCH_COMPARE = 2, WEIR_BENCH_REPORT = 4 };
enum {
  WEIR_BENCH_OK = 0,
  WEIR_BENCH_NOT_MET = 1, /* the objectives of --slo */
  WEIR_BENCH_USAGE = 2,
  WEIR_BENCH_FAILED = 3,
  WEIR_BENCH_INTERRUPTED = 130
};

typedef struct weir_bench_command {
  const char *name;
  uint32_t bit;
  const char *usage, *text, *examples;
  int (*main)(const weir_config *); /* returns an exit status; has told its own errors */
} weir_bench_command;

extern const weir_bench_command weir_bench_commands[];
extern const int32_t weir_bench_n_commands;
extern const weir_option weir_bench_options[];
extern const int32_t weir_bench_n_options;

int weir_bench_main_run(const weir_config *);
int weir_bench_main_compare(const weir_config *);
int weir_bench_main_report(const weir_config *);

#endif
