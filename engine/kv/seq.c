/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables: growth, copy-on-write, roll-back, and the start from the prefix cache. A sequence owns one
 * reference to each page of its table. Calls the pool and the cache; touches no bytes of KV, only says which
 * pages to copy. Loop thread only. */
#include "kv/seq.h"

#include <stdlib.h>

#include "base/mem.h"

/* Room for `want` elements of `size` bytes; the old content stays. */
static weir_status reserve(int32_t **array, int32_t *cap, int64_t want, const char *what, weir_err *e) {
  if (want <= *cap) return WEIR_OK;
  int64_t to = *cap < 8 ? 8 : 2 * (int64_t)*cap;
  if (to < want) to = want;
  size_t bytes;
  if (to > INT32_MAX || !weir_mul_size((size_t)to, sizeof **array, &bytes))
    return weir_fail(e, WEIR_ENOMEM, "%s: %lld entries", what, (long long)to);
  int32_t *p = realloc(*array, bytes);
  if (!p) return weir_fail(e, WEIR_ENOMEM, "%s: cannot allocate %zu bytes", what, bytes);
  *array = p;
  *cap = (int32_t)to;
  return WEIR_OK;
}

void weir_seq_fini(weir_seq *s, weir_pages *pages) {
  weir_seq_truncate(s, pages, 0);
  free(s->page);
  *s = (weir_seq){0};
}

void weir_seq_truncate(weir_seq *s, weir_pages *pages, int32_t n_tokens) {
  const int32_t keep = weir_pages_for(n_tokens);
  while (s->n_pages > keep) weir_pages_unref(pages, s->page[--s->n_pages]);
}

weir_status weir_seq_match(weir_seq *s, weir_prefix *prefix, uint64_t salt, const int32_t *tok, int32_t limit,
                           int32_t *n_covered, weir_err *e) {
  *n_covered = 0;
  if (s->n_pages > 0) return weir_fail(e, WEIR_EINVAL, "the sequence has %d pages already", (int)s->n_pages);
  if (limit < 0 || limit == INT32_MAX) return weir_fail(e, WEIR_EINVAL, "a match of %d tokens", (int)limit);
  const int32_t most = (limit + 1) / WEIR_PAGE_TOKENS;
  const weir_status st = reserve(&s->page, &s->cap, most, "page table", e);
  if (st != WEIR_OK) return st;
  s->n_pages = weir_prefix_match(prefix, salt, tok, limit + 1, s->page, most);
  const int32_t found = s->n_pages * WEIR_PAGE_TOKENS;
  *n_covered = found < limit ? found : limit;
  return WEIR_OK;
}

void weir_copies_release(weir_copies *c, weir_pages *pages) {
  for (int32_t i = 0; i < c->n; i++) weir_pages_unref(pages, c->src_dst[2 * i]);
  c->n = 0;
}

void weir_copies_fini(weir_copies *c, weir_pages *pages) {
  weir_copies_release(c, pages);
  free(c->src_dst);
  *c = (weir_copies){0};
}

static int32_t count_shared(const weir_seq *s, const weir_pages *pages, int32_t first, int32_t last) {
  int32_t n = 0;
  for (int32_t k = first; k < last; k++) n += weir_pages_refs(pages, s->page[k]) > 1;
  return n;
}

/* Makes `n_new` plus one page for each shared one in [first, last) available, from the cache if need be. A
 * sequence alone in a full pool shares its pages with nobody but the cache: there, forgetting saves the copy.
 */
static bool find_room(const weir_seq *s, weir_pages *pages, weir_prefix *prefix, int32_t first, int32_t last,
                      int32_t n_new) {
  int32_t want = n_new + count_shared(s, pages, first, last);
  if (weir_pages_free(pages) >= want) return true;
  if (!prefix) return false;
  weir_prefix_evict(prefix, want);
  for (int32_t k = last - 1; k >= first && weir_pages_free(pages) < want; k--)
    if (weir_pages_refs(pages, s->page[k]) == 2 && weir_prefix_forget(prefix, s->page[k])) want--;
  return weir_pages_free(pages) >= want;
}

weir_status weir_seq_prepare(weir_seq *s, weir_pages *pages, weir_prefix *prefix, int32_t from, int32_t to,
                             weir_copies *copies, weir_err *e) {
  if (from < 0 || to < from || weir_pages_for(from) > s->n_pages)
    return weir_fail(e, WEIR_EINVAL, "positions %d .. %d of a sequence of %d pages", (int)from, (int)to,
                     (int)s->n_pages);
  if (to == from) return WEIR_OK;
  const int32_t end = weir_pages_for(to), first = from / WEIR_PAGE_TOKENS;
  const int32_t last =
      end < s->n_pages ? end : s->n_pages; /* pages [first, last) are there and will be written */
  const int32_t n_new = end > s->n_pages ? end - s->n_pages : 0;
  weir_status st = reserve(&s->page, &s->cap, end, "page table", e);
  if (st != WEIR_OK) return st;
  st = reserve(&copies->src_dst, &copies->cap, 2 * ((int64_t)copies->n + count_shared(s, pages, first, last)),
               "page copies", e);
  if (st != WEIR_OK) return st;
  if (!find_room(s, pages, prefix, first, last, n_new))
    return weir_fail(e, WEIR_ENOMEM, "KV pool: %d of %d pages free, positions %d .. %d want more",
                     (int)weir_pages_free(pages), (int)weir_pages_total(pages), (int)from, (int)to);
  for (int32_t k = first; k < last; k++) {
    if (weir_pages_refs(pages, s->page[k]) == 1) continue;
    copies->src_dst[2 * copies->n] = s->page[k]; /* the reference goes along */
    s->page[k] = weir_pages_take(pages);
    copies->src_dst[2 * copies->n++ + 1] = s->page[k];
  }
  while (s->n_pages < end) s->page[s->n_pages++] = weir_pages_take(pages);
  return WEIR_OK;
}
