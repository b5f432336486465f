/* SPDX-License-Identifier: Apache-2.0 */
/* Where the programs' output goes. Text that was asked for: standard output. Everything else: standard error.
 * A reader who went away ends the program quietly; a full disk does not pass unnoticed. One thread. */
#ifndef WEIR_PROGRAMS_OUT_H
#define WEIR_PROGRAMS_OUT_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/config.h"
#include "base/err.h"

typedef struct weir_out {
  bool color;     /* of standard output */
  bool color_err; /* of standard error */
  bool terminal;  /* standard output is one: control characters in texts are made harmless */
  bool terminal_err;
  bool gone;   /* the reader of standard output has closed it */
  bool failed; /* writing failed otherwise; `err` says why */
  weir_err err;
} weir_out;

/* Reads --color and --no-color. */
void weir_out_init(weir_out *, const weir_config *);
/* Bytes as they are. Nothing is written after the first failure. */
void weir_out_write(weir_out *, const void *bytes, size_t n);
void weir_out_printf(weir_out *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Text that a model wrote, whole characters of UTF-8: on a terminal control characters other than line feed
 * and tab become U+FFFD. */
void weir_out_text(weir_out *, const char *text, size_t n);
void weir_out_flush(weir_out *);
/* One JSON object on a line; takes the reference. NULL (out of memory) counts as a failure. */
void weir_out_json(weir_out *, json_t *takes);
/* Ends output: flushes. True when all of it was written or its reader did not want it. */
bool weir_out_end(weir_out *);

/* A line of an error on standard error, "weir: error: ..."; returns `status`. */
int weir_tell(const weir_err *, int status);
/* WEIR_EXIT_USAGE for WEIR_EINVAL of an option, with a pointer to the help. */
int weir_tell_usage(const char *command, const weir_err *);

/* A file of JSON lines. */
weir_status weir_json_line(FILE *f, const char *path, json_t *takes, weir_err *e);
/* A number for JSON, which has no infinities: those and NaN become null. */
json_t *weir_json_real(double x);
/* Any bytes for JSON, which wants UTF-8: bytes that are not become U+FFFD each. */
json_t *weir_json_text(const char *text, size_t n);

#endif
