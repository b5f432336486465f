/* SPDX-License-Identifier: Apache-2.0 */
/* The page pool: a reference count per page and a stack of free ones, so that every operation is O(1). Owns
 * two arrays of integers; calls its watcher; loop thread only. */
#include "kv/pages.h"

#include <stdlib.h>

#include "base/mem.h"

struct weir_pages {
  int32_t n_pages, n_free;
  int32_t *refs; /* [n_pages] */
  int32_t *free; /* [n_free], last freed on top: its bytes may still be in a cache */
  weir_pages_watch_fn *watch;
  void *watch_ctx;
};

int32_t weir_pages_for(int32_t n_tokens) {
  return n_tokens / WEIR_PAGE_TOKENS + (n_tokens % WEIR_PAGE_TOKENS != 0);
}

weir_status weir_pages_create(int32_t n_pages, weir_pages **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_pages *p = NULL;
  *out = NULL;
  if (n_pages < 0) return weir_fail(e, WEIR_EINVAL, "%d KV pages", (int)n_pages);
  WEIR_TRY(WEIR_NEW(1, &p, e));
  WEIR_TRY(WEIR_NEW((size_t)n_pages, &p->refs, e));
  WEIR_TRY(WEIR_NEW((size_t)n_pages, &p->free, e));
  p->n_pages = p->n_free = n_pages;
  for (int32_t i = 0; i < n_pages; i++) p->free[i] = n_pages - 1 - i; /* page 0 goes first */
  *out = p;
out:
  if (st != WEIR_OK) weir_pages_destroy(p);
  return st;
}

void weir_pages_destroy(weir_pages *p) {
  if (!p) return;
  free(p->refs);
  free(p->free);
  free(p);
}

int32_t weir_pages_take(weir_pages *p) {
  if (p->n_free == 0) return -1;
  const int32_t page = p->free[--p->n_free];
  p->refs[page] = 1;
  return page;
}

void weir_pages_ref(weir_pages *p, int32_t page) {
  if (++p->refs[page] == 2 && p->watch) p->watch(p->watch_ctx, page);
}

int32_t weir_pages_unref(weir_pages *p, int32_t page) {
  if (p->refs[page] <= 0) return -1; /* freed twice by somebody: keep the free list sound */
  const int32_t left = --p->refs[page];
  if (left == 0) p->free[p->n_free++] = page;
  if (left == 1 && p->watch) p->watch(p->watch_ctx, page);
  return left;
}

int32_t weir_pages_refs(const weir_pages *p, int32_t page) { return p->refs[page]; }
int32_t weir_pages_free(const weir_pages *p) { return p->n_free; }
int32_t weir_pages_total(const weir_pages *p) { return p->n_pages; }

weir_status weir_pages_watch(weir_pages *p, weir_pages_watch_fn *fn, void *ctx, weir_err *e) {
  if (fn && p->watch) return weir_fail(e, WEIR_EBUSY, "the page pool has a prefix cache already");
  p->watch = fn;
  p->watch_ctx = ctx;
  return WEIR_OK;
}
