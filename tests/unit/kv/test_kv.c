/* SPDX-License-Identifier: Apache-2.0 */
/* Page pool, prefix cache and page tables by example: what each call promises, at its edges. Built twice:
 * once with a hash of a few bits, where everything collides and every answer must be the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "kv/pages.h"
#include "kv/prefix.h"
#include "kv/seq.h"

enum { P = WEIR_PAGE_TOKENS };

static weir_pages *pool(int32_t n) {
  weir_pages *p;
  weir_err e;
  assert_int_equal(weir_pages_create(n, &p, &e), WEIR_OK);
  return p;
}

static weir_prefix *cache(weir_pages *p, int32_t n) {
  weir_prefix *x;
  weir_err e;
  assert_int_equal(weir_prefix_create(p, n, &x, &e), WEIR_OK);
  return x;
}

/* tok[i] = i, but page k begins with `first` */
static void text(int32_t *tok, int32_t n, int32_t k, int32_t first) {
  for (int32_t i = 0; i < n; i++) tok[i] = i;
  if (k * P < n) tok[k * P] = first;
}

static void page_counts(void **state) {
  (void)state;
  weir_pages *p = pool(3);
  weir_err e;
  assert_int_equal(weir_pages_total(p), 3);
  const int32_t a = weir_pages_take(p), b = weir_pages_take(p), c = weir_pages_take(p);
  assert_true(a != b && b != c && a != c && a >= 0 && b >= 0 && c >= 0);
  assert_int_equal(weir_pages_take(p), -1);
  assert_int_equal(weir_pages_free(p), 0);
  weir_pages_ref(p, b);
  assert_int_equal(weir_pages_refs(p, b), 2);
  assert_int_equal(weir_pages_unref(p, b), 1);
  assert_int_equal(weir_pages_free(p), 0);
  assert_int_equal(weir_pages_unref(p, b), 0);
  assert_int_equal(weir_pages_unref(p, b), -1); /* nobody held it: the free list stays sound */
  assert_int_equal(weir_pages_refs(p, b), 0);
  assert_int_equal(weir_pages_free(p), 1);
  assert_int_equal(weir_pages_take(p), b);
  weir_pages_destroy(p);
  assert_int_equal(weir_pages_create(-1, &p, &e), WEIR_EINVAL);
  p = pool(0);
  assert_int_equal(weir_pages_take(p), -1);
  weir_pages_destroy(p);
  weir_pages_destroy(NULL);
}

static void prefix_hits(void **state) {
  (void)state;
  weir_pages *p = pool(8);
  weir_prefix *x = cache(p, 8);
  int32_t tok[4 * P], other[4 * P], page[4], got[4];
  text(tok, 4 * P, 9, 0);
  for (int k = 0; k < 3; k++) page[k] = weir_pages_take(p);
  weir_prefix_insert(x, 7, tok, page, 3);
  for (int k = 0; k < 3; k++) assert_int_equal(weir_pages_refs(p, page[k]), 2);

  assert_int_equal(weir_prefix_match(x, 7, tok, 4 * P, got, 4), 3);
  for (int k = 0; k < 3; k++) {
    assert_int_equal(got[k], page[k]);
    assert_int_equal(weir_pages_refs(p, page[k]), 3);
    weir_pages_unref(p, page[k]);
  }
  static const struct {
    int32_t n, max, hits;
  } cut[] = {{3 * P, 4, 3}, {3 * P - 1, 4, 2}, {P, 4, 1},    {P - 1, 4, 0},
             {0, 4, 0},     {4 * P, 2, 2},     {4 * P, 0, 0}};
  for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
    assert_int_equal(weir_prefix_match(x, 7, tok, cut[i].n, got, cut[i].max), cut[i].hits);
    for (int k = 0; k < cut[i].hits; k++) weir_pages_unref(p, got[k]);
  }
  for (int k = 0; k < 3; k++) { /* one other token in page k: the pages before it */
    text(other, 4 * P, k, 99);
    assert_int_equal(weir_prefix_match(x, 7, other, 4 * P, got, 4), k);
    for (int i = 0; i < k; i++) weir_pages_unref(p, got[i]);
  }
  assert_int_equal(weir_prefix_match(x, 8, tok, 4 * P, got, 4), 0); /* another salt */
  assert_int_equal(weir_prefix_match(x, 7, tok + P, 2 * P, got, 4),
                   0); /* the same pages, not from the start */

  int32_t again = weir_pages_take(p);
  const int32_t own = again; /* known already: the old page for the new one, which is free again */
  weir_prefix_insert(x, 7, tok, &again, 1);
  assert_int_equal(again, page[0]);
  assert_int_equal(weir_pages_refs(p, own), 0);
  assert_int_equal(weir_pages_refs(p, page[0]), 3);
  weir_pages_unref(p, again);
  again = weir_pages_take(p);
  weir_prefix_insert(x, 9, tok, page, 1); /* a page is known as one thing only */
  assert_int_equal(weir_prefix_match(x, 9, tok, P, got, 1), 0);
  int32_t odd[2] = {page[0], again}; /* nor is what follows such a page */
  weir_prefix_insert(x, 9, tok, odd, 2);
  assert_int_equal(weir_pages_refs(p, again), 1);

  const weir_prefix_stats s = weir_prefix_get_stats(x);
  assert_int_equal(s.held, 3);
  assert_int_equal(s.inserted, 3);
  assert_int_equal(s.evicted, 0);
  assert_int_equal(s.lookups, 1 + 7 + 3 + 2 + 1);
  assert_int_equal(s.hit_pages, 3 + (3 + 2 + 1 + 2) + (0 + 1 + 2));
  weir_prefix_destroy(x);
  for (int k = 0; k < 3; k++) assert_int_equal(weir_pages_refs(p, page[k]), 1);
  weir_pages_destroy(p);
}

/* Which texts are still in the cache: bit k for the one that begins with token k. */
static unsigned known(weir_pages *p, weir_prefix *x, int n) {
  unsigned bits = 0;
  for (int k = 0; k < n; k++) {
    int32_t tok[P], got;
    text(tok, P, 0, 100 + k);
    if (weir_prefix_match(x, 1, tok, P, &got, 1) == 1) {
      bits |= 1u << k;
      weir_pages_unref(p, got);
    }
  }
  return bits;
}

static void offer(weir_pages *p, weir_prefix *x, int k, bool keep) {
  int32_t tok[P], page = weir_pages_take(p);
  assert_true(page >= 0);
  text(tok, P, 0, 100 + k);
  weir_prefix_insert(x, 1, tok, &page, 1);
  if (!keep) weir_pages_unref(p, page);
}

static void least_recently_used(void **state) {
  (void)state;
  weir_pages *p = pool(8);
  weir_prefix *x = cache(p, 4);
  int32_t tok[P], got;
  for (int k = 0; k < 4; k++) offer(p, x, k, false);
  assert_int_equal(weir_pages_free(p), 4);
  text(tok, P, 0, 100); /* text 0 is used again, so that 1 is the oldest */
  assert_int_equal(weir_prefix_match(x, 1, tok, P, &got, 1), 1);
  weir_pages_unref(p, got);
  offer(p, x, 4, false); /* full: 1 goes */
  assert_int_equal(known(p, x, 5), 0x1d);
  offer(p, x, 5, false); /* known() used 0 2 3 4 in this order: 0 goes */
  assert_int_equal(known(p, x, 6), 0x3c);
  assert_int_equal(weir_prefix_evict(x, 6), 2); /* 2 3 */
  assert_int_equal(known(p, x, 6), 0x30);
  assert_int_equal(weir_prefix_evict(x, 6), 0); /* enough are free */
  offer(p, x, 6, true);
  offer(p, x, 7, true);                         /* somebody holds 6 and 7 */
  assert_int_equal(weir_prefix_evict(x, 8), 2); /* 4 5 */
  assert_int_equal(known(p, x, 8), 0xc0);
  assert_int_equal(weir_prefix_get_stats(x).evicted, 6);
  weir_prefix_destroy(x);
  weir_pages_destroy(p);
}

/* A chain goes from its end, however old its beginning; a page that is held holds what comes before it. */
static void chains(void **state) {
  (void)state;
  weir_pages *p = pool(8);
  weir_prefix *x = cache(p, 8);
  int32_t a[3 * P], b[3 * P], page[3], got[3];
  text(a, 3 * P, 9, 0);
  text(b, 3 * P, 1, 77); /* shares page 0 */
  for (int k = 0; k < 3; k++) page[k] = weir_pages_take(p);
  weir_prefix_insert(x, 1, a, page, 3);
  for (int k = 0; k < 3; k++) weir_pages_unref(p, page[k]);
  assert_false(weir_prefix_forget(x, page[1])); /* continued by page 2 */
  int32_t fork[3] = {page[0], weir_pages_take(p), weir_pages_take(p)};
  weir_prefix_insert(x, 1, b, fork, 3);
  weir_pages_unref(p, fork[1]); /* page 2 of b stays held */
  assert_int_equal(weir_pages_free(p), 3);
  assert_int_equal(weir_prefix_evict(x, 4), 1); /* the end of a: its pages 0 and 1 are older, but not ends */
  assert_int_equal(weir_prefix_match(x, 1, a, 3 * P, got, 3), 2);
  for (int k = 0; k < 2; k++) weir_pages_unref(p, got[k]);
  assert_int_equal(weir_prefix_evict(x, 8), 1); /* page 1 of a; the rest leads to what is held */
  assert_int_equal(weir_prefix_match(x, 1, a, 3 * P, got, 3), 1);
  weir_pages_unref(p, got[0]);
  assert_int_equal(weir_prefix_match(x, 1, b, 3 * P, got, 3), 3);
  for (int k = 0; k < 3; k++) weir_pages_unref(p, got[k]);
  weir_pages_unref(p, fork[2]);
  assert_int_equal(weir_prefix_evict(x, 8), 3); /* in one go, from the end */
  assert_int_equal(weir_pages_free(p), 8);
  assert_int_equal(weir_prefix_get_stats(x).held, 0);
  weir_prefix_destroy(x);
  weir_pages_destroy(p);
}

/* A full cache never drops what the same offer has just used, and stops instead. */
static void full_cache(void **state) {
  (void)state;
  weir_pages *p = pool(8);
  weir_prefix *x = cache(p, 2);
  int32_t tok[4 * P], page[4], got[4];
  text(tok, 4 * P, 9, 0);
  for (int k = 0; k < 4; k++) page[k] = weir_pages_take(p);
  weir_prefix_insert(x, 1, tok, page, 2);
  for (int k = 0; k < 4; k++) weir_pages_unref(p, page[k]);
  for (int k = 0; k < 4; k++) page[k] = weir_pages_take(p); /* the same text again, in pages of its own */
  weir_prefix_insert(x, 1, tok, page, 4);
  assert_int_equal(weir_prefix_match(x, 1, tok, 4 * P, got, 4), 2);
  assert_int_equal(weir_prefix_get_stats(x).evicted, 0);
  weir_prefix_destroy(x);
  x = cache(p, 0); /* off */
  weir_prefix_insert(x, 1, tok, page, 4);
  assert_int_equal(weir_prefix_match(x, 1, tok, 4 * P, got, 4), 0);
  assert_int_equal(weir_prefix_evict(x, 8), 0);
  weir_err e;
  weir_prefix *second;
  assert_int_equal(weir_prefix_create(p, 4, &second, &e), WEIR_EBUSY); /* one cache a pool */
  assert_int_equal(weir_prefix_create(p, -1, &second, &e), WEIR_EINVAL);
  assert_null(second);
  weir_prefix_destroy(x);
  x = cache(p, 4); /* the failed ones left nothing behind */
  weir_prefix_destroy(x);
  weir_prefix_destroy(NULL);
  weir_pages_destroy(p);
}

static void grow_and_cut(void **state) {
  (void)state;
  weir_pages *p = pool(4);
  weir_seq s = {0};
  weir_copies c = {0};
  weir_err e;
  assert_int_equal(weir_seq_prepare(&s, p, NULL, 0, 0, &c, &e), WEIR_OK);
  assert_int_equal(s.n_pages, 0);
  static const struct {
    int32_t from, to, pages;
    weir_status st;
  } grow[] = {{0, 1, 1, WEIR_OK},
              {1, P, 1, WEIR_OK},
              {P, P + 1, 2, WEIR_OK},
              {2 * P, 4 * P, 4, WEIR_OK},
              {4 * P, 4 * P + 1, 4, WEIR_ENOMEM},
              {3, 9, 4, WEIR_OK},
              {4 * P + 1, 4 * P + 2, 4, WEIR_EINVAL},
              {-1, 3, 4, WEIR_EINVAL},
              {5, 4, 4, WEIR_EINVAL}};
  for (size_t i = 0; i < sizeof grow / sizeof *grow; i++) {
    assert_int_equal(weir_seq_prepare(&s, p, NULL, grow[i].from, grow[i].to, &c, &e), grow[i].st);
    assert_int_equal(s.n_pages, grow[i].pages);
  }
  assert_int_equal(c.n, 0); /* nothing is shared: nothing is copied */
  static const struct {
    int32_t n, pages;
  } cut[] = {{4 * P, 4}, {3 * P + 1, 4}, {3 * P, 3}, {P + 1, 2}, {5 * P, 2}, {1, 1}, {0, 0}};
  for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
    weir_seq_truncate(&s, p, cut[i].n);
    assert_int_equal(s.n_pages, cut[i].pages);
    assert_int_equal(weir_pages_free(p), 4 - cut[i].pages);
  }
  weir_seq_fini(&s, p);
  weir_pages_destroy(p);
  p = pool(40); /* more at once than the table doubles to */
  assert_int_equal(weir_seq_prepare(&s, p, NULL, 0, 40 * P, &c, &e), WEIR_OK);
  assert_int_equal(s.n_pages, 40);
  weir_seq_fini(&s, p);
  weir_copies_fini(&c, p);
  weir_pages_destroy(p);
}

/* Two requests with one prompt: the second starts from the first one's pages and copies only what it writes.
 */
static void copy_on_write(void **state) {
  (void)state;
  weir_pages *p = pool(16);
  weir_prefix *x = cache(p, 16);
  weir_seq a = {0}, b = {0};
  weir_copies c = {0};
  weir_err e;
  int32_t tok[4 * P], covered;
  text(tok, 4 * P, 9, 0);
  assert_int_equal(weir_seq_prepare(&a, p, x, 0, 2 * P, &c, &e), WEIR_OK);
  weir_prefix_insert(x, 1, tok, a.page, 2);

  /* a prompt of exactly two pages: the second page is found too, its last position is left to be fed */
  assert_int_equal(weir_seq_match(&b, x, 1, tok, 2 * P - 1, &covered, &e), WEIR_OK);
  assert_int_equal(covered, 2 * P - 1);
  assert_int_equal(b.n_pages, 2);
  assert_true(b.page[0] == a.page[0] && b.page[1] == a.page[1]);
  assert_int_equal(weir_seq_match(&b, x, 1, tok, 2 * P - 1, &covered, &e), WEIR_EINVAL); /* not empty */
  assert_int_equal(weir_seq_prepare(&b, p, x, 2 * P - 1, 2 * P, &c, &e), WEIR_OK);
  assert_int_equal(c.n, 1);
  assert_true(c.src_dst[0] == a.page[1] && c.src_dst[1] == b.page[1] && b.page[1] != a.page[1]);
  assert_int_equal(weir_pages_refs(p, a.page[1]),
                   3); /* a, the cache, and the copy that is still to be made */
  assert_int_equal(weir_pages_refs(p, b.page[0]), 3);
  weir_copies_release(&c, p);
  assert_int_equal(weir_pages_refs(p, a.page[1]), 2);
  assert_int_equal(weir_seq_prepare(&b, p, x, 2 * P - 1, 3 * P, &c, &e), WEIR_OK); /* its own now */
  assert_int_equal(c.n, 0);

  /* a itself may not write into a page that the cache has */
  assert_int_equal(weir_seq_prepare(&a, p, x, 3, 4, &c, &e), WEIR_OK);
  assert_int_equal(c.n, 1);
  assert_int_equal(weir_pages_refs(p, a.page[1]), 2); /* what is not written is not copied */
  assert_int_equal(weir_seq_prepare(&a, p, x, 0, 2 * P, &c, &e), WEIR_OK);
  assert_int_equal(c.n, 2); /* added to the copies of the same step */

  weir_seq_fini(&b, p);
  static const struct {
    int32_t limit, covered, pages;
  } match[] = {{2 * P, 2 * P, 2}, {2 * P + 5, 2 * P, 2}, {2 * P - 2, P, 1}, {P, P, 1},
               {P - 1, P - 1, 1}, {P - 2, 0, 0},         {0, 0, 0}};
  for (size_t i = 0; i < sizeof match / sizeof *match; i++) {
    assert_int_equal(weir_seq_match(&b, x, 1, tok, match[i].limit, &covered, &e), WEIR_OK);
    assert_int_equal(covered, match[i].covered);
    assert_int_equal(b.n_pages, match[i].pages);
    weir_seq_fini(&b, p);
  }
  assert_int_equal(weir_seq_match(&b, x, 1, tok, -1, &covered, &e), WEIR_EINVAL);
  weir_seq_fini(&a, p);
  weir_copies_fini(&c, p);
  weir_prefix_destroy(x);
  assert_int_equal(weir_pages_free(p), 16);
  weir_pages_destroy(p);
}

static void dry_pool(void **state) {
  (void)state;
  weir_pages *p = pool(4);
  weir_prefix *x = cache(p, 4);
  weir_seq a = {0}, b = {0};
  weir_copies c = {0};
  weir_err e;
  int32_t tok[4 * P], got[4];
  text(tok, 4 * P, 9, 0);
  assert_int_equal(weir_seq_prepare(&a, p, x, 0, 3 * P, &c, &e), WEIR_OK);
  weir_prefix_insert(x, 1, tok, a.page, 3);
  weir_seq_fini(&a, p);
  assert_int_equal(weir_pages_free(p), 1);
  assert_int_equal(weir_seq_prepare(&b, p, x, 0, 2 * P, &c, &e), WEIR_OK); /* one free, one evicted */
  assert_int_equal(weir_prefix_match(x, 1, tok, 3 * P, got, 4), 2);
  const weir_seq before = b;
  int32_t page[2];
  memcpy(page, b.page, sizeof page);
  assert_int_equal(weir_seq_prepare(&b, p, x, 2 * P, 3 * P, &c, &e), WEIR_ENOMEM); /* the others are held */
  assert_true(b.n_pages == before.n_pages && c.n == 0 && !memcmp(page, b.page, sizeof page));
  assert_non_null(strstr(e.msg, "0 of 4 pages free"));
  for (int k = 0; k < 2; k++) weir_pages_unref(p, got[k]);
  assert_int_equal(weir_seq_prepare(&b, p, x, 2 * P, 4 * P, &c, &e), WEIR_OK);
  assert_int_equal(weir_prefix_get_stats(x).held, 0);

  /* alone in a full pool, sharing with nobody but the cache: the cache forgets rather than that b cannot go
   * on */
  weir_prefix_insert(x, 1, tok, b.page, 4);
  weir_seq_truncate(&b, p, 3 * P + 2);
  assert_int_equal(weir_seq_prepare(&b, p, x, 3 * P + 2, 4 * P, &c, &e), WEIR_OK);
  assert_int_equal(c.n, 0);
  assert_int_equal(weir_pages_refs(p, b.page[3]), 1);
  assert_int_equal(weir_pages_refs(p, b.page[2]), 2);
  weir_prefix_insert(x, 1, tok, b.page, 4); /* two at once, the later one first */
  assert_int_equal(weir_seq_prepare(&b, p, x, 3 * P - 1, 4 * P, &c, &e), WEIR_OK);
  assert_int_equal(c.n, 0);
  assert_int_equal(weir_prefix_get_stats(x).held, 2);
  weir_prefix_insert(x, 1, tok, b.page, 3);
  weir_seq_truncate(&b, p, P + 2); /* page 2 is idle now and evicted, page 1 copied there */
  weir_pages_take(p);
  assert_int_equal(weir_seq_prepare(&b, p, x, P + 2, 2 * P, &c, &e), WEIR_OK);
  assert_int_equal(c.n, 1);
  weir_copies_fini(&c, p);
  weir_seq_fini(&b, p);
  weir_prefix_destroy(x);
  assert_int_equal(weir_pages_free(p), 3);
  weir_pages_destroy(p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(page_counts),   cmocka_unit_test(prefix_hits), cmocka_unit_test(least_recently_used),
      cmocka_unit_test(chains),        cmocka_unit_test(full_cache),  cmocka_unit_test(grow_and_cut),
      cmocka_unit_test(copy_on_write), cmocka_unit_test(dry_pool),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
