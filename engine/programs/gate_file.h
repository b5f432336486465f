/* SPDX-License-Identifier: Apache-2.0 */
/* Gate files: a fitted gate as JSON, `"schema": "weir.gate.v1"`. Everything in it is checked before it is
 * used; numbers are written so that they come back to the bit. */
#ifndef WEIR_PROGRAMS_GATE_FILE_H
#define WEIR_PROGRAMS_GATE_FILE_H
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "calibrate/quality.h"
#include "cascade/policy.h"
#include "model/str.h"

enum { WEIR_GATE_NAME_BYTES = 128, WEIR_GATE_FILE_MAX = 4 << 20 };

/* The small model that a gate was fitted for. */
typedef struct weir_gate_model {
  char name[WEIR_GATE_NAME_BYTES]; /* for messages */
  int32_t n_vocab, dim;
  uint64_t fingerprint; /* weir_model_fingerprint of its file */
} weir_gate_model;

typedef struct weir_gate_file {
  weir_gate_kind kind; /* WEIR_GATE_ISOTONIC or WEIR_GATE_HEAD */
  weir_gate_map map;   /* of the one */
  weir_gate_head head; /* of the other; its weights are owned by this struct */
  weir_gate_model small;
  char large[WEIR_GATE_NAME_BYTES];   /* the model that judged; "": not said */
  char data[WEIR_GATE_NAME_BYTES];    /* what it was fitted on; "": not said */
  float threshold;                    /* one that is recommended; NaN: none */
  weir_gate_quality fitted, held_out; /* on the rows it was fitted on; on others */
} weir_gate_file;

void weir_gate_file_fini(weir_gate_file *); /* a zeroed one is fine */
weir_status weir_gate_file_parse(weir_str json, weir_gate_file *out, weir_err *e);
weir_status weir_gate_file_print(const weir_gate_file *, weir_buf *out, weir_err *e);
/* Errors name the path. Writing replaces the file as a whole or not at all. */
weir_status weir_gate_file_read(const char *path, weir_gate_file *out, weir_err *e);
weir_status weir_gate_file_write(const char *path, const weir_gate_file *, weir_err *e);

#endif
