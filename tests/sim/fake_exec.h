/* SPDX-License-Identifier: Apache-2.0 */
/* An executor without a model: the next token's distribution is a hash of all tokens before it, which are
 * read back from the pages that earlier steps wrote. Wrong pages, positions, copies or roll-backs therefore
 * change the text. */
#ifndef WEIR_TESTS_FAKE_EXEC_H
#define WEIR_TESTS_FAKE_EXEC_H
#include <stdint.h>

#include "step/step.h"

typedef struct fake_law {
  int32_t n_vocab;  /* ids that may be drawn */
  double agreement; /* 0: tiers unrelated; 1: the same distribution */
  double sharpness; /* scale of the logits */
  int32_t end_id;   /* this id is made a little likely everywhere; -1: none */
} fake_law;

typedef struct fake_opts {
  fake_law law;
  int32_t tier;
  int32_t n_ctx, n_pages, max_tokens, max_seqs;
  int64_t fail_at_step; /* this step fails; < 0: none */
  int64_t *fed;         /* [n_ctx][512] may be NULL: how often an id was fed at a position is added there */
} fake_opts;

weir_exec *fake_exec_create(const fake_opts *);
/* All KV is gone, as in a new life: what refers to any fails. No step is under way. */
void fake_exec_wipe(weir_exec *);
/* Steps it has run. */
int64_t fake_exec_steps(const weir_exec *);

/* The law itself, for references: the row that `tier` gives after tok[0..n), by the ask's edits too. */
weir_row fake_law_row(const fake_law *, int32_t tier, const int32_t *tok, int32_t n, const weir_ask *);
/* The ask's n_top likeliest ids there. */
void fake_law_top(const fake_law *, int32_t tier, const int32_t *tok, int32_t n, const weir_ask *,
                  weir_top *out);

#endif
