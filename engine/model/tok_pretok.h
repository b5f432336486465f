/* SPDX-License-Identifier: Apache-2.0 */
/* Pre-tokenisers: the published regular expressions that cut a text into the pieces BPE works on. */
#ifndef WEIR_MODEL_TOK_PRETOK_H
#define WEIR_MODEL_TOK_PRETOK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/str.h"

typedef struct weir_pretok weir_pretok;

/* `name` is tokenizer.ggml.pre; an unknown one is WEIR_EUNSUP with the list. no_jit: run by PCRE2's
 * interpreter, as happens anyway where there is no just-in-time compiler. */
weir_status weir_pretok_create(weir_str name, bool no_jit, weir_pretok **out, weir_err *e);
void weir_pretok_destroy(weir_pretok *); /* NULL is fine */

/* Cuts text[0..len), which is well-formed UTF-8, len < 2^32. *end points to *n ends of pieces, ascending, the
 * last one len; valid until the next call. */
weir_status weir_pretok_split(weir_pretok *, const char *text, size_t len, const uint32_t **end, size_t *n,
                              weir_err *e);

/* A piece that is in the vocabulary as a whole is taken as it is, before any merge (Llama 3's
 * "ignore_merges"). */
bool weir_pretok_takes_whole(const weir_pretok *);
/* What add_bos_token is when a file does not say. */
bool weir_pretok_adds_bos(const weir_pretok *);

#endif
