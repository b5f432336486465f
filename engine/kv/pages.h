/* SPDX-License-Identifier: Apache-2.0 */
/* Page accounting of one tier's KV: a pool of equal pages with reference counts. Integers only; the bytes
 * belong to the instance. Loop thread only. */
#ifndef WEIR_KV_PAGES_H
#define WEIR_KV_PAGES_H
#include <stdint.h>

#include "base/err.h"

enum { WEIR_PAGE_TOKENS = 16 };

typedef struct weir_pages weir_pages;

/* Pages that hold positions [0, n_tokens). */
int32_t weir_pages_for(int32_t n_tokens);

weir_status weir_pages_create(int32_t n_pages, weir_pages **out, weir_err *e);
void weir_pages_destroy(weir_pages *);
/* A page with one reference, or -1 when none is free. */
int32_t weir_pages_take(weir_pages *);
void weir_pages_ref(weir_pages *, int32_t page);
/* Drops a reference; the page is free again at zero. Returns what is left; -1 when nobody held it. */
int32_t weir_pages_unref(weir_pages *, int32_t page);
int32_t weir_pages_refs(const weir_pages *, int32_t page);
int32_t weir_pages_free(const weir_pages *); /* pages nobody holds */
int32_t weir_pages_total(const weir_pages *);

/* One watcher at most, told whenever a page comes to have exactly one reference or stops having exactly one
 * through ref and unref (not through take): how the prefix cache knows without a scan which of its pages are
 * idle. WEIR_EBUSY when there is a watcher already; `fn` NULL removes it. `fn` must not take or drop
 * references. */
typedef void weir_pages_watch_fn(void *ctx, int32_t page);
weir_status weir_pages_watch(weir_pages *, weir_pages_watch_fn *fn, void *ctx, weir_err *e);

#endif
