/* SPDX-License-Identifier: Apache-2.0 */
/* Pre-tokenisers: what cuts a text into the pieces that the model works on. */
#ifndef WEIR_MODEL_TOK_PRETOK_H
#define WEIR_MODEL_TOK_PRETOK_H
#include "model/tok_regex.h"
#include "model/tok_spec.h"

typedef struct weir_pretok weir_pretok;

typedef struct weir_piece {
  uint32_t begin, end; /* bytes; never empty */
} weir_piece;

/* Pieces ascending; what lies between them belongs to none. */
typedef struct weir_cut {
  const char *text;
  const weir_piece *piece; /* [n] */
  size_t n;
} weir_cut;

/* The steps of a description. no_jit: patterns run by PCRE2's interpreter. Borrows nothing. */
weir_status weir_pretok_create(const weir_tok_spec *, bool no_jit, weir_pretok **out, weir_err *e);
/* Those that GGUF names. */
weir_status weir_pretok_create_named(weir_str name, bool no_jit, weir_pretok **out, weir_err *e);
void weir_pretok_destroy(weir_pretok *); /* NULL is fine */

/* Cuts text[0..len), well-formed UTF-8, len < 2^31. `out` is valid until the next call; its text is the given
 * one unless a step changes it. at_start: the text is the first of all; fresh: it goes on no other (nothing
 * is put in front of one that does). budget: of all patterns together; NULL: one for this text alone. */
weir_status weir_pretok_run(weir_pretok *, const char *text, size_t len, bool at_start, bool fresh,
                            weir_regex_budget *budget, weir_cut *out, weir_err *e);

#endif
