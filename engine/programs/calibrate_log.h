/* SPDX-License-Identifier: Apache-2.0 */
/* The logging pass: texts that are known, token by token through both models, as a trace. */
#ifndef WEIR_PROGRAMS_CALIBRATE_LOG_H
#define WEIR_PROGRAMS_CALIBRATE_LOG_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "calibrate/trace.h"
#include "model/tokenizer.h"
#include "step/step.h"

typedef struct weir_log_text {
  const int32_t *tok;  /* [n_prompt + n] */
  int32_t n_prompt, n; /* n: that the large model wrote */
} weir_log_text;

typedef struct weir_log_how {
  weir_exec *small, *large; /* nobody else uses them meanwhile; KV pages from 0 on are overwritten */
  const weir_tokenizer *tokenizer;
  weir_ask draw; /* temperature, top_k, top_p, min_p, seed: those that the texts were written with */
  bool prompts;  /* entropies of the small model along prompts too */
  bool hidden;   /* the small model's hidden states too, which only an executor of this process gives */
  /* After each step: tokens fed of those that are to be fed, by both models together. False: stop. May be
   * NULL. */
  bool (*progress)(void *ctx, int64_t done, int64_t total);
  void *ctx;
} weir_log_how;

/* Fills out->text[n_texts], out fresh from weir_trace_init, and its temperature and seed. Draws are keyed by
 * position alone, so that these are the ones the engine makes. *differs: positions where the large model now
 * draws another token than the text has, which on a CPU are none (the text's stays). WEIR_ECANCEL when
 * progress said so. */
weir_status weir_trace_log(const weir_log_how *, const weir_log_text *, int32_t n_texts, weir_trace *out,
                           int64_t *differs, weir_err *e);

#endif
