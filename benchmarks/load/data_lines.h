/* SPDX-License-Identifier: Apache-2.0 */
/* Items read from JSON lines: prompts, conversations, traces. */
#ifndef WEIR_LOAD_DATA_LINES_H
#define WEIR_LOAD_DATA_LINES_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef struct weir_line {
  char *prompt;         /* owned; or */
  json_t *messages;     /* owned; or */
  json_t *turns;        /* owned: strings; or */
  int32_t input_length; /* > 0: text is to be made up; */
  json_t *hash_ids;     /* owned: of its blocks of 512 tokens; NULL: none */
  int32_t max_tokens;   /* 0: not told */
  double at_s;          /* a trace's arrival */
} weir_line;

typedef struct weir_lines {
  weir_line *line; /* [n], owned */
  int64_t n, cap;
  double *at_s; /* [n], owned: of a trace, ascending from 0 */
} weir_lines;   /* zeroed: empty */

/* Errors name file and line. */
weir_status weir_lines_read(const char *path, bool trace, weir_lines *out, weir_err *e);
void weir_lines_fini(weir_lines *);

#endif
