/* SPDX-License-Identifier: Apache-2.0 */
/* Texts given to a command: options, lines of a file, a whole file, standard input. */
#ifndef WEIR_PROGRAMS_PROMPTS_H
#define WEIR_PROGRAMS_PROMPTS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"
#include "model/tokenizer.h"

enum { WEIR_MAX_TEXT_BYTES = 64 << 20, WEIR_MAX_PROMPTS = 100000 };

typedef struct weir_texts {
  weir_buf *text; /* [n], owned */
  int32_t n;
} weir_texts; /* zeroed: empty */

void weir_texts_fini(weir_texts *);
weir_status weir_texts_add(weir_texts *, const char *text, size_t len, bool unescape, weir_err *e);
/* Reads a whole file ("-": standard input), up to WEIR_MAX_TEXT_BYTES. */
weir_status weir_read_file(const char *path, weir_buf *out, weir_err *e);
/* The prompts of a command: --prompt, --prompts (where it has that), operands as files, else standard input
 * as one text, without its last line feed. At least one, or an error that says how to give one. */
weir_status weir_read_prompts(const weir_config *, weir_texts *out, weir_err *e);

/* The ids of a prompt as models expect it: the begin-of-text token first where the model adds one. special:
 * names of special tokens become those tokens. */
weir_status weir_encode_prompt(weir_tokenizer *, const char *text, size_t len, bool special, weir_tokens *out,
                               weir_err *e);

#endif
