/* SPDX-License-Identifier: Apache-2.0 */
/* The page table of one request on one tier. It owns one reference to each of its pages. Roll-back is a
 * truncation; pages shared with others (prefix hits, published pages) are copied before they are written. */
#ifndef WEIR_KV_SEQ_H
#define WEIR_KV_SEQ_H
#include <stdint.h>

#include "base/err.h"
#include "kv/pages.h"
#include "kv/prefix.h"

typedef struct weir_seq {
  int32_t *page; /* [n_pages], owned */
  int32_t n_pages, cap;
} weir_seq; /* zeroed: empty */

void weir_seq_fini(weir_seq *, weir_pages *); /* drops all pages */

/* Starts an empty sequence from the cache: takes the longest match of tok[0..n) that leaves at least
 * position `limit` to be fed (limit <= n - 1 for a prompt of n tokens). Returns the tokens covered. */
weir_status weir_seq_match(weir_seq *, weir_prefix *, uint64_t salt, const int32_t *tok, int32_t limit,
                           int32_t *n_covered, weir_err *e);

/* Copies a step must make before its forward: pairs of pages (src, dst). */
typedef struct weir_copies {
  int32_t *src_dst; /* [2*n], owned */
  int32_t n, cap;
} weir_copies;
void weir_copies_fini(weir_copies *);

/* Makes positions [from, to) writable: adds pages up to `to`, and replaces shared pages that hold any of them by
 * copies, which are added to `copies`. Evicts from `prefix` (may be NULL) when the pool runs dry. On WEIR_ENOMEM
 * nothing has changed. */
weir_status weir_seq_prepare(weir_seq *, weir_pages *, weir_prefix *, int32_t from, int32_t to, weir_copies *copies,
                             weir_err *e);

/* Keeps what positions [0, n_tokens) need and drops the other pages. */
void weir_seq_truncate(weir_seq *, weir_pages *, int32_t n_tokens);

#endif
