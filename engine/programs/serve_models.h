/* SPDX-License-Identifier: Apache-2.0 */
/* The models of a server, opened: the pair, tokenizers for the threads that prepare requests, the chat
 * format, and what clients may know of them. */
#ifndef WEIR_PROGRAMS_SERVE_MODELS_H
#define WEIR_PROGRAMS_SERVE_MODELS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/chat.h"
#include "model/tokenizer.h"
#include "programs/load.h"
#include "programs/serve_settings.h"

typedef struct weir_served_tier {
  const char *name; /* "small", "large" */
  char model[256];  /* file or directory, the last part of its path */
  const char *type; /* that most bytes of the weights have: "Q8_0" */
  char device[192]; /* "cpu (avx512-vnni), 16 threads" */
} weir_served_tier;

typedef struct weir_served {
  weir_loaded models;
  weir_tokenizer *prepare, *prepare_long; /* owned */
  weir_chat_format format;
  bool has_chat;
  int32_t n_ctx;
  weir_served_tier tier[WEIR_MAX_TIERS];
} weir_served;

weir_status weir_served_open(const weir_serve_settings *, weir_served *out, weir_err *e);
void weir_served_close(weir_served *); /* a zeroed one is fine; the settings are still there */

#endif
