/* SPDX-License-Identifier: Apache-2.0 */
/* Added tokens: those that are found by their text, before the model sees what is between them. */
#ifndef WEIR_MODEL_TOK_SPECIAL_H
#define WEIR_MODEL_TOK_SPECIAL_H
#include "model/tok_spec.h"
#include "model/tokenizer.h"

enum {
  WEIR_MAX_SPECIAL_BYTES = 1024
}; /* of one such token's text; bounds the work at each position of a text */

/* An added token as it is looked for. */
typedef struct weir_special {
  weir_str text; /* owned by the list */
  int32_t id;
  bool special, lstrip, rstrip, single_word;
} weir_special;

typedef struct weir_specials {
  weir_special *item; /* [n] owned, ordered by text */
  int32_t n;
  struct {
    int32_t lo, hi;
  } first[256]; /* the items whose text begins with this byte */
  weir_strings strings;
} weir_specials; /* zeroed: none */

/* Of equal texts the first counts; empty ones are left out. */
weir_status weir_specials_init(weir_specials *, const weir_special *item, int32_t n, weir_err *e);
void weir_specials_fini(weir_specials *);

/* The longest whose text p[0..n) begins with; NULL when there is none. Special ones count only within
 * p[0..n_special). */
const weir_special *weir_specials_at(const weir_specials *, const char *p, size_t n, size_t n_special);

/* A stretch of text, or the token that stands there. */
typedef struct weir_section {
  size_t begin, end; /* of a token: with the white space it takes */
  int32_t id;        /* -1: text, never empty */
} weir_section;

typedef struct weir_sections {
  weir_section *at; /* owned */
  size_t n, cap;
} weir_sections;
void weir_sections_fini(weir_sections *);

/* Where special tokens count. */
typedef struct weir_marks {
  const weir_span *span; /* [n] ascending */
  int32_t n;
} weir_marks;

/* Cuts text[0..len), any bytes, as the tokenizers library does (tokenizer/added_vocabulary.rs, find_matches).
 * A special token whose text stands outside the marks is passed over as a whole; one that is not all on one
 * side of a mark's edge is not seen. Linear in len. Appends to `out`. */
weir_status weir_specials_cut(const weir_specials *, const char *text, size_t len, weir_marks,
                              weir_sections *out, weir_err *e);

#endif
