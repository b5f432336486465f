/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of `weir` and the one table of their options. */
#ifndef WEIR_PROGRAMS_OPTIONS_H
#define WEIR_PROGRAMS_OPTIONS_H
#include <stdint.h>

#include "base/config.h"

enum {
  WEIR_CMD_RUN = 1 << 0,
  WEIR_CMD_EVAL = 1 << 1,
  WEIR_CMD_INSPECT = 1 << 2,
  WEIR_CMD_TOKENIZE = 1 << 3,
  WEIR_CMD_PERPLEXITY = 1 << 4,
  WEIR_CMD_QUANTIZE = 1 << 5,
  WEIR_CMD_CHAT = 1 << 6,
  WEIR_CMD_SERVE = 1 << 7,
  WEIR_CMD_WORKER = 1 << 8,
  WEIR_CMD_CALIBRATE = 1 << 9,
  WEIR_CMD_REPLAY = 1 << 10
};

/* Exit statuses. */
enum { WEIR_EXIT_OK = 0, WEIR_EXIT_FAILED = 1, WEIR_EXIT_USAGE = 2, WEIR_EXIT_INTERRUPTED = 130 };

typedef struct weir_command {
  const char *name;
  uint32_t bit;        /* WEIR_CMD_* */
  const char *summary; /* one line */
  const char *usage;   /* "weir run [options] [FILE]" */
  const char *text;    /* what it does, in a few lines */
  const char *examples;
  int (*main)(const weir_config *); /* returns an exit status; has told its own errors */
} weir_command;

extern const weir_command weir_commands[];
extern const int32_t weir_n_commands;
extern const weir_option weir_options[];
extern const int32_t weir_n_options;

int weir_main_run(const weir_config *);
int weir_main_eval(const weir_config *);
int weir_main_inspect(const weir_config *);
int weir_main_tokenize(const weir_config *);
int weir_main_quantize(const weir_config *);
int weir_main_perplexity(const weir_config *);
int weir_main_chat(const weir_config *);
int weir_main_serve(const weir_config *);
int weir_main_worker(const weir_config *);
int weir_main_replay(const weir_config *);
int weir_main_calibrate(const weir_config *);

#endif
