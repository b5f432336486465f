/* SPDX-License-Identifier: Apache-2.0 */
/* Normalisers: what is done to a text before it is cut. */
#ifndef WEIR_MODEL_TOK_NORM_H
#define WEIR_MODEL_TOK_NORM_H
#include "base/buf.h"
#include "model/tok_regex.h"
#include "model/tok_spec.h"

typedef struct weir_norm weir_norm;

/* What normalisation may make of a text: so many times its bytes and some to spare. Unicode's compatibility
 * forms take 11 times as many at most. */
enum { WEIR_NORM_MAX_BYTES = 1 << 30, WEIR_NORM_MAX_GROWTH = 64, WEIR_NORM_SPARE_BYTES = 1 << 16 };

/* Borrows nothing of the description. */
weir_status weir_norm_create(const weir_tok_spec *, bool no_jit, weir_norm **out, weir_err *e);
void weir_norm_destroy(weir_norm *); /* NULL is fine */

/* Normalises text[0..len), well-formed UTF-8. *out is the text itself where there is nothing to do, else
 * valid until the next call. at_start: nothing is put in front of a text that goes on another. budget: of
 * all patterns together; NULL: one for this text alone. */
weir_status weir_norm_run(weir_norm *, const char *text, size_t len, bool at_start, weir_regex_budget *budget,
                          weir_str *out, weir_err *e);
/* Whether there are any steps. */
bool weir_norm_changes(const weir_norm *);

#endif
