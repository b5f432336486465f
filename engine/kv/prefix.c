/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix cache: a tree of full pages (an entry's parent is the page before it), found through a hash
 * table whose keys are chained from the root, and a heap of the entries that may be evicted, oldest on top.
 * Owns a reference to each page it holds; calls the pool, which calls back when a page becomes idle. Lookups
 * are O(1) a page, changes of the heap O(log n); nothing is scanned. Loop thread only. */
#include "kv/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

#ifndef WEIR_PREFIX_HASH_MASK /* the collision test builds this file with almost no bits */
#define WEIR_PREFIX_HASH_MASK UINT64_MAX
#endif

enum { NONE = -1 };

typedef struct entry {
  uint64_t key, salt;
  int64_t used; /* when it was last matched or offered, in operations */
  int32_t tok[WEIR_PAGE_TOKENS];
  int32_t page, parent, n_children;
  int32_t next; /* in its bucket, or in the list of unused entries */
  int32_t heap; /* its place there, NONE while it may not be evicted */
  bool alone;   /* nobody else holds its page */
} entry;

struct weir_prefix {
  weir_pages *pages; /* borrowed */
  int32_t max_pages, n_buckets /* a power of two */;
  entry *entries;   /* [max_pages] */
  int32_t *buckets; /* [n_buckets] first entry */
  int32_t *of_page; /* [pages] entry that holds it */
  int32_t *heap;    /* [n_heap] entries, the least recently used on top */
  int32_t n_heap, unused, n_alone;
  int64_t now;
  weir_prefix_stats stats;
};

/* ---- heap of what may be evicted ---- */

static bool older(const weir_prefix *x, int32_t a, int32_t b) {
  return x->entries[a].used < x->entries[b].used;
}

static void heap_put(weir_prefix *x, int32_t at, int32_t i) {
  x->heap[at] = i;
  x->entries[i].heap = at;
}

static void heap_up(weir_prefix *x, int32_t at, int32_t i) {
  for (; at > 0 && older(x, i, x->heap[(at - 1) / 2]); at = (at - 1) / 2)
    heap_put(x, at, x->heap[(at - 1) / 2]);
  heap_put(x, at, i);
}

static void heap_down(weir_prefix *x, int32_t at, int32_t i) {
  for (int32_t kid; (kid = 2 * at + 1) < x->n_heap; at = kid) {
    if (kid + 1 < x->n_heap && older(x, x->heap[kid + 1], x->heap[kid])) kid++;
    if (!older(x, x->heap[kid], i)) break;
    heap_put(x, at, x->heap[kid]);
  }
  heap_put(x, at, i);
}

static void heap_remove(weir_prefix *x, int32_t i) {
  const int32_t at = x->entries[i].heap, last = x->heap[--x->n_heap];
  x->entries[i].heap = NONE;
  if (last == i) return;
  heap_down(x, at, last);
  heap_up(x, x->entries[last].heap, last);
}

/* An entry may be evicted when nobody else holds its page and no cached page continues it. */
static void settle(weir_prefix *x, int32_t i) {
  const entry *n = &x->entries[i];
  const bool idle = n->n_children == 0 && weir_pages_refs(x->pages, n->page) == 1;
  if (idle && n->heap == NONE)
    heap_up(x, x->n_heap++, i);
  else if (!idle && n->heap != NONE)
    heap_remove(x, i);
}

/* Whoever does holds its page: it is not in the heap. */
static void touch(weir_prefix *x, int32_t i) { x->entries[i].used = x->now; }

static void set_alone(weir_prefix *x, int32_t i, bool alone) {
  x->n_alone += (int32_t)alone - (int32_t)x->entries[i].alone;
  x->entries[i].alone = alone;
}

static void refs_changed(void *ctx, int32_t page) {
  weir_prefix *x = ctx;
  const int32_t i = x->of_page[page];
  if (i == NONE) return;
  set_alone(x, i, weir_pages_refs(x->pages, page) == 1);
  settle(x, i);
}

/* ---- entries ---- */

static uint64_t root_key(uint64_t salt) { return XXH3_64bits_withSeed(&salt, sizeof salt, salt); }

static uint64_t chain_key(uint64_t parent_key, const int32_t *tok) {
  return XXH3_64bits_withSeed(tok, sizeof(int32_t) * WEIR_PAGE_TOKENS, parent_key) & WEIR_PREFIX_HASH_MASK;
}

static int32_t *bucket_of(const weir_prefix *x, uint64_t key) {
  return &x->buckets[key & (uint64_t)(x->n_buckets - 1)];
}

static int32_t find(const weir_prefix *x, uint64_t key, uint64_t salt, int32_t parent, const int32_t *tok) {
  for (int32_t i = *bucket_of(x, key); i != NONE; i = x->entries[i].next) {
    const entry *n = &x->entries[i];
    if (n->key == key && n->parent == parent && n->salt == salt && !memcmp(n->tok, tok, sizeof n->tok))
      return i;
  }
  return NONE;
}

static void drop(weir_prefix *x, int32_t i) {
  entry *n = &x->entries[i];
  if (n->heap != NONE) heap_remove(x, i);
  set_alone(x, i, false);
  int32_t *link = bucket_of(x, n->key);
  while (*link != i) link = &x->entries[*link].next;
  *link = n->next;
  x->of_page[n->page] = NONE;
  weir_pages_unref(x->pages, n->page);
  if (n->parent != NONE) {
    x->entries[n->parent].n_children--;
    settle(x, n->parent);
  }
  n->next = x->unused;
  x->unused = i;
  x->stats.held--;
}

/* Evicts the oldest idle entry; false when there is none. (What an operation has come by is held.) */
static bool evict_one(weir_prefix *x) {
  if (x->n_heap == 0) return false;
  drop(x, x->heap[0]);
  x->stats.evicted++;
  return true;
}

static int32_t add(weir_prefix *x, uint64_t key, uint64_t salt, int32_t parent, const int32_t *tok,
                   int32_t page) {
  if (x->of_page[page] != NONE) return NONE; /* known as something else: not to be trusted */
  if (x->unused == NONE && !evict_one(x)) return NONE;
  const int32_t i = x->unused;
  entry *n = &x->entries[i];
  x->unused = n->next;
  *n = (entry){.key = key, .salt = salt, .used = x->now, .page = page, .parent = parent, .heap = NONE};
  memcpy(n->tok, tok, sizeof n->tok);
  n->next = *bucket_of(x, key);
  *bucket_of(x, key) = i;
  x->of_page[page] = i;
  weir_pages_ref(x->pages, page);
  if (parent != NONE) {
    x->entries[parent].n_children++;
    settle(x, parent);
  }
  x->stats.held++;
  x->stats.inserted++;
  return i;
}

/* ---- the cache ---- */

weir_status weir_prefix_create(weir_pages *pages, int32_t max_pages, weir_prefix **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_prefix *x = NULL;
  *out = NULL;
  if (max_pages < 0) return weir_fail(e, WEIR_EINVAL, "a prefix cache of %d pages", (int)max_pages);
  if (max_pages > weir_pages_total(pages)) max_pages = weir_pages_total(pages);
  if (max_pages > 1 << 29) return weir_fail(e, WEIR_EINVAL, "a prefix cache of %d pages", (int)max_pages);
  WEIR_TRY(WEIR_NEW(1, &x, e));
  x->max_pages = max_pages;
  for (x->n_buckets = 1; x->n_buckets < 2 * max_pages;) x->n_buckets *= 2;
  WEIR_TRY(WEIR_NEW((size_t)max_pages, &x->entries, e));
  WEIR_TRY(WEIR_NEW((size_t)x->n_buckets, &x->buckets, e));
  WEIR_TRY(WEIR_NEW((size_t)weir_pages_total(pages), &x->of_page, e));
  WEIR_TRY(WEIR_NEW((size_t)max_pages, &x->heap, e));
  for (int32_t i = 0; i < max_pages; i++) x->entries[i].next = i + 1 < max_pages ? i + 1 : NONE;
  for (int32_t i = 0; i < x->n_buckets; i++) x->buckets[i] = NONE;
  for (int32_t i = 0; i < weir_pages_total(pages); i++) x->of_page[i] = NONE;
  x->unused = max_pages > 0 ? 0 : NONE;
  WEIR_TRY(weir_pages_watch(pages, refs_changed, x, e));
  x->pages = pages;
  *out = x;
out:
  if (st != WEIR_OK) weir_prefix_destroy(x);
  return st;
}

void weir_prefix_destroy(weir_prefix *x) {
  if (!x) return;
  if (x->pages) {
    weir_pages_watch(x->pages, NULL, NULL, NULL);
    for (int32_t p = 0; p < weir_pages_total(x->pages); p++)
      if (x->of_page[p] != NONE) weir_pages_unref(x->pages, p);
  }
  free(x->entries);
  free(x->buckets);
  free(x->of_page);
  free(x->heap);
  free(x);
}

int32_t weir_prefix_match(weir_prefix *x, uint64_t salt, const int32_t *tok, int32_t n, int32_t *page,
                          int32_t max_pages) {
  uint64_t key = root_key(salt);
  int32_t k = 0, parent = NONE;
  x->now++;
  x->stats.lookups++;
  for (; k < max_pages && k < n / WEIR_PAGE_TOKENS; k++) {
    key = chain_key(key, tok + k * WEIR_PAGE_TOKENS);
    const int32_t i = find(x, key, salt, parent, tok + k * WEIR_PAGE_TOKENS);
    if (i == NONE) break;
    page[k] = x->entries[i].page;
    weir_pages_ref(x->pages, page[k]);
    touch(x, i);
    parent = i;
  }
  x->stats.hit_pages += k;
  return k;
}

int32_t weir_prefix_peek(const weir_prefix *x, uint64_t salt, const int32_t *tok, int32_t n, int32_t *held) {
  uint64_t key = root_key(salt);
  int32_t k = 0, parent = NONE;
  *held = 0;
  for (; k < n / WEIR_PAGE_TOKENS; k++) {
    key = chain_key(key, tok + k * WEIR_PAGE_TOKENS);
    parent = find(x, key, salt, parent, tok + k * WEIR_PAGE_TOKENS);
    if (parent == NONE) break;
    *held += !x->entries[parent].alone;
  }
  return k;
}

int32_t weir_prefix_idle(const weir_prefix *x) { return x->n_alone; }

/* The sequence takes the cached page for its own, which nobody needs any more. */
static void adopt(weir_prefix *x, int32_t i, int32_t *page) {
  const int32_t own = *page;
  if (own == x->entries[i].page) return;
  *page = x->entries[i].page;
  weir_pages_ref(x->pages, *page);
  weir_pages_unref(x->pages, own);
}

void weir_prefix_insert(weir_prefix *x, uint64_t salt, const int32_t *tok, int32_t *page, int32_t n_pages) {
  uint64_t key = root_key(salt);
  int32_t parent = NONE;
  x->now++;
  for (int32_t k = 0; k < n_pages; k++) {
    key = chain_key(key, tok + k * WEIR_PAGE_TOKENS);
    int32_t i = find(x, key, salt, parent, tok + k * WEIR_PAGE_TOKENS);
    if (i != NONE) {
      adopt(x, i, &page[k]);
      touch(x, i);
    } else {
      i = add(x, key, salt, parent, tok + k * WEIR_PAGE_TOKENS, page[k]);
    }
    if (i == NONE) return;
    parent = i;
  }
}

int32_t weir_prefix_evict(weir_prefix *x, int32_t want) {
  int32_t n = 0;
  x->now++;
  while (weir_pages_free(x->pages) < want && evict_one(x)) n++;
  return n;
}

bool weir_prefix_forget(weir_prefix *x, int32_t page) {
  const int32_t i = x->of_page[page];
  if (i == NONE || x->entries[i].n_children > 0) return false;
  drop(x, i);
  return true;
}

weir_prefix_stats weir_prefix_get_stats(const weir_prefix *x) { return x->stats; }
