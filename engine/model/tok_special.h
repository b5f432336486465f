/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that are found by their text before any pre-tokeniser runs: special ones and user-defined ones. */
#ifndef WEIR_MODEL_TOK_SPECIAL_H
#define WEIR_MODEL_TOK_SPECIAL_H
#include "model/tok_vocab.h"

enum {
  WEIR_MAX_SPECIAL_BYTES = 1024
}; /* of one such token's text; bounds the work at each position of a text */

typedef struct weir_specials {
  const weir_vocab *vocab; /* borrowed */
  int32_t *id;             /* [n] owned, ordered by text */
  int32_t n;
  struct {
    int32_t lo, hi;
  } first[256]; /* the ids whose text begins with this byte */
} weir_specials;

weir_status weir_specials_init(weir_specials *, const weir_vocab *, weir_err *e);
void weir_specials_fini(weir_specials *);

/* The longest token whose text begins at p; its id, or -1. User-defined tokens always count, special ones
 * only when `special`. */
int32_t weir_specials_at(const weir_specials *, const char *p, size_t n, bool special);

#endif
