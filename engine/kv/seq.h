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

/* Starts an empty sequence from the cache, leaving position `limit` and what follows to be fed. tok[0 ..
 * limit] (limit + 1 tokens; limit = n - 1 for a prompt of n) is looked up in full pages; the tokens covered,
 * at most `limit`, are returned. When the page that holds `limit` was found too it is taken as well: it is
 * copied, like any shared page, once prepare() is told that `limit` will be written. */
weir_status weir_seq_match(weir_seq *, weir_prefix *, uint64_t salt, const int32_t *tok, int32_t limit,
                           int32_t *n_covered, weir_err *e);

/* Copies a step must make before its forward: pairs of pages (src, dst). No dst is the src of another pair,
 * so any order will do. A reference to each src is held until release: it cannot be evicted and written
 * meanwhile. */
typedef struct weir_copies {
  int32_t *src_dst; /* [2*n], owned */
  int32_t n, cap;
} weir_copies; /* zeroed: empty */
/* The step that makes the copies is done (or will never run): drops the references and empties the list. */
void weir_copies_release(weir_copies *, weir_pages *);
void weir_copies_fini(weir_copies *, weir_pages *); /* releases and frees */

/* Makes positions [from, to) writable: adds pages up to `to`, and replaces shared pages that hold any of them
 * by copies, which are added to `copies`; that holds for positions fed again with the tokens they had. When
 * the pool runs dry it evicts from `prefix` (may be NULL), and then makes it forget pages rather than copy
 * them. On WEIR_ENOMEM sequence and copies are as before; the cache may have shrunk. WEIR_EINVAL when [0,
 * from) is not all there. */
weir_status weir_seq_prepare(weir_seq *, weir_pages *, weir_prefix *, int32_t from, int32_t to,
                             weir_copies *copies, weir_err *e);

/* Keeps what positions [0, n_tokens) need and drops the other pages. */
void weir_seq_truncate(weir_seq *, weir_pages *, int32_t n_tokens);

#endif
