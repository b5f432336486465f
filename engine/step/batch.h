/* SPDX-License-Identifier: Apache-2.0 */
/* Builds a weir_batch sequence by sequence in memory taken once. */
#ifndef WEIR_STEP_BATCH_H
#define WEIR_STEP_BATCH_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "step/step.h"

typedef struct weir_batch_builder {
  int32_t max_tokens, max_seqs, max_pages, max_copies;
  int32_t n_tokens, n_seqs, n_out, n_copies, n_pages;
  int32_t *token, *pos, *q_indptr, *kv_len, *page_indptr, *page, *out_row, *copy;
  weir_ask *ask;
} weir_batch_builder;

weir_status weir_batch_builder_init(weir_batch_builder *, int32_t max_tokens, int32_t max_seqs,
                                    int32_t max_pages, int32_t max_copies, weir_err *e);
void weir_batch_builder_fini(weir_batch_builder *);
void weir_batch_builder_clear(weir_batch_builder *);

/* One sequence's share of the step: tokens tok[from, to) of a list, and its page table. */
typedef struct weir_batch_seq {
  const int32_t *tok;
  int32_t from, to;    /* positions fed */
  const int32_t *page; /* [n_pages], covers [0, to) */
  int32_t n_pages;
} weir_batch_seq;

/* Whether a sequence of so many tokens and pages, with so many page copies, still fits. */
bool weir_batch_fits(const weir_batch_builder *, int32_t n_tokens, int32_t n_pages, int32_t n_copies);
/* Adds it (it must fit). Returns the index of its first row in the batch. */
int32_t weir_batch_add(weir_batch_builder *, const weir_batch_seq *);
/* Asks for batch row `row`; rows in ascending order. The returned ask is the caller's to fill. */
weir_ask *weir_batch_ask(weir_batch_builder *, int32_t row);
void weir_batch_add_copies(weir_batch_builder *, const int32_t *src_dst, int32_t n);
/* Borrowed until the builder changes. */
weir_batch weir_batch_get(const weir_batch_builder *);

/* Checks that the result has room for what the batch asks. Executors call it in submit, after
 * weir_batch_check. */
weir_status weir_batch_check_result(const weir_batch *, const weir_result *, weir_err *e);

#endif
