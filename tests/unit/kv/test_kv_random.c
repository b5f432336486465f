/* SPDX-License-Identifier: Apache-2.0 */
/* Random requests over a small pool against a naive model: what every request would read is what was written
 * for its own tokens, under sharing, copies, roll-back, eviction and a dry pool; each page is counted once
 * for each holder; the cache finds, keeps and evicts exactly what a list searched from end to end says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kv/pages.h"
#include "kv/prefix.h"
#include "kv/seq.h"

enum { P = WEIR_PAGE_TOKENS, N_REQS = 6, MAX_PAGES = 6, MAX_TOK = MAX_PAGES * P, MAX_POOL = 40, N_BASE = 3 };

typedef struct req {
  bool open;
  uint64_t salt;
  int32_t tok[MAX_TOK], n, kv; /* tokens known, tokens in KV */
  weir_seq seq;
} req;

typedef struct known { /* one page of the cache as the model sees it */
  uint64_t salt;
  int32_t tok[MAX_TOK], depth, page; /* pages [0, depth) of the text end in it */
  int64_t used;
} known;

typedef struct world {
  weir_pages *pages;
  weir_prefix *prefix;
  int32_t n_pool, cap;
  uint64_t bytes[MAX_POOL][P]; /* the KV: a hash of salt and all tokens up to the position */
  req r[N_REQS];
  weir_copies copies;
  known known[MAX_POOL];
  int32_t n_known;
  int64_t now;
  int32_t base[N_BASE][MAX_TOK];
} world;

static int n_worlds = 300;
static long n_steps, n_copies, n_hits, n_evicted, n_dry, n_forgotten, n_adopted;
static uint64_t rng;
static long seed_now;

static uint64_t mix(uint64_t x) { /* splitmix64's finaliser */
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
static int32_t rnd(int32_t n) { return (int32_t)(mix(rng += 0x9e3779b97f4a7c15ull) >> 33) % n; }

#define CHECK(cond, ...)                    \
  do {                                      \
    if (!(cond)) {                          \
      print_error("world %ld: ", seed_now); \
      print_error(__VA_ARGS__);             \
      print_error("\n");                    \
      _fail(__FILE__, __LINE__);            \
    }                                       \
  } while (0)

static uint64_t kv_next(uint64_t h, int32_t tok) { return mix(h * 31 + (uint64_t)tok + 1); }

/* ---- the naive cache ---- */

static int32_t holders(const world *w, int32_t page) { /* requests and copies, not the cache */
  int32_t n = 0;
  for (int i = 0; i < N_REQS; i++)
    for (int32_t k = 0; k < w->r[i].seq.n_pages; k++) n += w->r[i].seq.page[k] == page;
  for (int32_t i = 0; i < w->copies.n; i++) n += w->copies.src_dst[2 * i] == page;
  return n;
}

static int32_t free_pages(const world *w) {
  int32_t n = 0;
  for (int32_t p = 0; p < w->n_pool; p++) {
    bool cached = false;
    for (int32_t i = 0; i < w->n_known; i++) cached = cached || w->known[i].page == p;
    n += !cached && holders(w, p) == 0;
  }
  return n;
}

static int32_t model_find(const world *w, uint64_t salt, const int32_t *tok, int32_t depth) {
  for (int32_t i = 0; i < w->n_known; i++)
    if (w->known[i].salt == salt && w->known[i].depth == depth &&
        !memcmp(w->known[i].tok, tok, sizeof(int32_t) * (size_t)(depth * P)))
      return i;
  return -1;
}

static int32_t model_of_page(const world *w, int32_t page) {
  for (int32_t i = 0; i < w->n_known; i++)
    if (w->known[i].page == page) return i;
  return -1;
}

static bool continued(const world *w, int32_t i) {
  const known *a = &w->known[i];
  for (int32_t j = 0; j < w->n_known; j++) {
    const known *b = &w->known[j];
    if (b->salt == a->salt && b->depth == a->depth + 1 &&
        !memcmp(b->tok, a->tok, sizeof(int32_t) * (size_t)(a->depth * P)))
      return true;
  }
  return false;
}

static void model_drop(world *w, int32_t i) { w->known[i] = w->known[--w->n_known]; }

static bool model_evict_one(world *w) {
  int32_t oldest = -1;
  for (int32_t i = 0; i < w->n_known; i++)
    if (!continued(w, i) && holders(w, w->known[i].page) == 0 &&
        (oldest < 0 || w->known[i].used < w->known[oldest].used))
      oldest = i;
  if (oldest < 0 || w->known[oldest].used == w->now) return false;
  model_drop(w, oldest);
  n_evicted++;
  return true;
}

static void model_evict(world *w, int32_t want) {
  w->now++;
  while (free_pages(w) < want && model_evict_one(w)) {
  }
}

static int32_t model_match(world *w, uint64_t salt, const int32_t *tok, int32_t n, int32_t *page) {
  int32_t depth = 0;
  w->now++;
  for (; (depth + 1) * P <= n; depth++) {
    const int32_t i = model_find(w, salt, tok, depth + 1);
    if (i < 0) break;
    w->known[i].used = w->now;
    page[depth] = w->known[i].page;
  }
  return depth;
}

/* page[] becomes what the sequence holds afterwards. */
static void model_insert(world *w, uint64_t salt, const int32_t *tok, int32_t *page, int32_t n_pages) {
  w->now++;
  for (int32_t d = 1; d <= n_pages; d++) {
    const int32_t i = model_find(w, salt, tok, d);
    if (i >= 0) {
      w->known[i].used = w->now;
      n_adopted += page[d - 1] != w->known[i].page;
      page[d - 1] = w->known[i].page;
      continue;
    }
    if (model_of_page(w, page[d - 1]) >= 0) return;
    if (w->n_known == w->cap && !model_evict_one(w)) return;
    known *k = &w->known[w->n_known++];
    *k = (known){.salt = salt, .depth = d, .page = page[d - 1], .used = w->now};
    memcpy(k->tok, tok, sizeof(int32_t) * (size_t)(d * P));
  }
}

/* What prepare() does to the cache when the pool runs dry; whether it succeeds. */
static bool model_room(world *w, const req *r, int32_t from, int32_t to) {
  const int32_t end = (to + P - 1) / P, have = r->seq.n_pages;
  int32_t want = end > have ? end - have : 0;
  for (int32_t k = from / P; k < end && k < have; k++)
    want += holders(w, r->seq.page[k]) + (model_of_page(w, r->seq.page[k]) >= 0) > 1;
  if (free_pages(w) >= want) return true;
  model_evict(w, want);
  for (int32_t k = (end < have ? end : have) - 1; k >= from / P && free_pages(w) < want; k--) {
    const int32_t i = model_of_page(w, r->seq.page[k]);
    if (i < 0 || holders(w, r->seq.page[k]) != 1 || continued(w, i)) continue;
    model_drop(w, i);
    n_forgotten++;
    want--;
  }
  return free_pages(w) >= want;
}

/* ---- what must hold at any moment ---- */

static void verify(const world *w) {
  int32_t n_free = 0;
  for (int32_t p = 0; p < w->n_pool; p++) {
    const int32_t want = holders(w, p) + (model_of_page(w, p) >= 0), got = weir_pages_refs(w->pages, p);
    CHECK(got == want, "page %d has %d references, %d holders", (int)p, (int)got, (int)want);
    n_free += got == 0;
  }
  CHECK(n_free == weir_pages_free(w->pages), "%d pages free, the pool says %d", (int)n_free,
        (int)weir_pages_free(w->pages));
  CHECK(weir_prefix_get_stats(w->prefix).held == w->n_known, "the cache holds %d, want %d",
        (int)weir_prefix_get_stats(w->prefix).held, (int)w->n_known);
  int32_t n_idle = 0;
  for (int32_t i = 0; i < w->n_known; i++) n_idle += holders(w, w->known[i].page) == 0;
  CHECK(weir_prefix_idle(w->prefix) == n_idle, "%d cached pages are idle, want %d",
        (int)weir_prefix_idle(w->prefix), (int)n_idle);
  for (int i = 0; i < N_REQS; i++) /* whoever holds a cached page holds what it continues: idle ones can go */
    for (int32_t k = 1; k < w->r[i].seq.n_pages; k++) {
      const int32_t at = model_of_page(w, w->r[i].seq.page[k]);
      CHECK(at < 0 || model_of_page(w, w->r[i].seq.page[k - 1]) ==
                          model_find(w, w->known[at].salt, w->known[at].tok, k),
            "request %d holds cached page %d, not the one before", i, (int)k);
    }
  for (int i = 0; i < N_REQS; i++) { /* everybody reads what was written for his own tokens */
    const req *r = &w->r[i];
    uint64_t h = r->salt;
    CHECK(!r->open || r->seq.n_pages * P >= r->kv, "%d pages for %d tokens", (int)r->seq.n_pages, (int)r->kv);
    for (int32_t pos = 0; r->open && pos < r->kv; pos++) {
      h = kv_next(h, r->tok[pos]);
      CHECK(w->bytes[r->seq.page[pos / P]][pos % P] == h, "request %d reads something else at %d", i,
            (int)pos);
    }
  }
  for (int32_t i = 0; i < w->n_known; i++) {
    const known *k = &w->known[i];
    uint64_t h = k->salt;
    for (int32_t pos = 0; pos < k->depth * P; pos++) {
      h = kv_next(h, k->tok[pos]);
      CHECK(pos < (k->depth - 1) * P || w->bytes[k->page][pos % P] == h, "cached page %d was written over",
            (int)k->page);
    }
  }
}

/* ---- what happens ---- */

static int32_t next_token(const world *w, const req *r, int32_t pos) { /* mostly along one of a few texts */
  return rnd(40) ? w->base[r->salt % N_BASE][pos] : rnd(3);
}

static void start(world *w, req *r) {
  int32_t want[MAX_PAGES] = {0}, covered;
  weir_err e;
  memset(r, 0, sizeof *r);
  r->open = true;
  r->salt = 1 + (uint64_t)rnd(4);
  r->n = rnd(3) ? 1 + rnd(MAX_TOK - 20) : P * (1 + rnd(MAX_PAGES - 2));
  for (int32_t pos = 0; pos < r->n; pos++) r->tok[pos] = next_token(w, r, pos);
  int32_t shared = 0, want_shared = 0;
  const int32_t seen = weir_prefix_peek(w->prefix, r->salt, r->tok, r->n, &shared);
  const int32_t hits = model_match(w, r->salt, r->tok, r->n, want);
  for (int32_t k = 0; k < hits; k++) want_shared += holders(w, want[k]) > 0;
  CHECK(seen == hits && shared == want_shared, "a look finds %d pages, %d of them held; want %d and %d",
        (int)seen, (int)shared, (int)hits, (int)want_shared);
  CHECK(weir_seq_match(&r->seq, w->prefix, r->salt, r->tok, r->n - 1, &covered, &e) == WEIR_OK, "%s", e.msg);
  CHECK(r->seq.n_pages == hits, "%d pages found, want %d", (int)r->seq.n_pages, (int)hits);
  for (int32_t k = 0; k < hits; k++)
    CHECK(r->seq.page[k] == want[k], "page %d is %d, want %d", (int)k, (int)r->seq.page[k], (int)want[k]);
  CHECK(covered == (hits * P < r->n - 1 ? hits * P : r->n - 1), "%d tokens covered by %d pages", (int)covered,
        (int)hits);
  r->kv = covered;
  n_hits += hits;
}

static void stop(world *w, req *r) {
  weir_seq_fini(&r->seq, w->pages);
  CHECK(!r->seq.page && !r->seq.n_pages, "not empty after fini");
  r->open = false;
}

static void roll_back(world *w, req *r) {
  const int32_t to = rnd(r->n) + 1;
  if (r->kv > to) r->kv = to;
  r->n = to;
  weir_seq_truncate(&r->seq, w->pages, r->kv);
  CHECK(r->seq.n_pages == (r->kv + P - 1) / P, "%d pages kept for %d tokens", (int)r->seq.n_pages,
        (int)r->kv);
  if (to < MAX_TOK && rnd(2)) r->tok[r->n++] = rnd(3);
}

static void publish(world *w, req *r) {
  const int32_t full = r->kv / P;
  int32_t want[MAX_PAGES] = {0};
  for (int32_t k = 0; k < full; k++) want[k] = r->seq.page[k];
  model_insert(w, r->salt, r->tok, want, full);
  weir_prefix_insert(w->prefix, r->salt, r->tok, r->seq.page, full);
  for (int32_t k = 0; k < full; k++)
    CHECK(r->seq.page[k] == want[k], "page %d is %d when published, want %d", (int)k, (int)r->seq.page[k],
          (int)want[k]);
}

/* Prepares one request for the step; false when it cannot take part. */
static bool prepare(world *w, req *r, int32_t *from, int32_t *to) {
  int32_t before[MAX_PAGES] = {0};
  const int32_t n_before = r->seq.n_pages, c_before = w->copies.n;
  weir_err e;
  if (r->n == r->kv) {
    if (r->n == MAX_TOK) return false;
    r->tok[r->n] = next_token(w, r, r->n);
    r->n++;
  }
  *from = r->kv > 2 && !rnd(4) ? r->kv - rnd(3) : r->kv; /* some positions are fed again */
  *to = r->kv + 1 + rnd(rnd(2) ? 1 : 20);
  if (*to > r->n) *to = r->n;
  if (n_before) memcpy(before, r->seq.page, sizeof(int32_t) * (size_t)n_before);
  const bool fits = model_room(w, r, *from, *to);
  const weir_status st = weir_seq_prepare(&r->seq, w->pages, w->prefix, *from, *to, &w->copies, &e);
  CHECK(st == (fits ? WEIR_OK : WEIR_ENOMEM), "prepare says %d, want room %d", st, fits);
  if (!fits) {
    n_dry++;
    CHECK(r->seq.n_pages == n_before && w->copies.n == c_before &&
              (!n_before || !memcmp(before, r->seq.page, sizeof(int32_t) * (size_t)n_before)),
          "a failed prepare changed the sequence");
    return false;
  }
  for (int32_t k = 0; k < r->seq.n_pages; k++)
    CHECK(k * P + P <= *from || k * P >= *to || weir_pages_refs(w->pages, r->seq.page[k]) == 1,
          "page %d will be written and has other holders", (int)r->seq.page[k]);
  return true;
}

static void step(world *w) {
  struct {
    req *r;
    int32_t from, to;
  } batch[N_REQS];
  int32_t n = 0, order[MAX_POOL];
  for (int i = 0; i < N_REQS; i++) {
    req *r = &w->r[i];
    if (!r->open || !rnd(3)) continue;
    if (prepare(w, r, &batch[n].from, &batch[n].to))
      batch[n++].r = r;
    else if (rnd(3)) /* preempted, or it was cancelled while the step was put together */
      stop(w, r);
  }
  for (int32_t i = 0; i < w->copies.n; i++)
    for (int32_t k = 0; k < w->copies.n; k++)
      CHECK(w->copies.src_dst[2 * i] != w->copies.src_dst[2 * k + 1], "page %d is copied from and to",
            (int)w->copies.src_dst[2 * i]);
  for (int32_t i = 0; i < w->copies.n; i++) order[i] = i; /* in any order */
  for (int32_t i = w->copies.n - 1; i > 0; i--) {
    const int32_t k = rnd(i + 1), t = order[i];
    order[i] = order[k];
    order[k] = t;
  }
  for (int32_t i = 0; i < w->copies.n; i++) {
    const int32_t *pair = &w->copies.src_dst[2 * order[i]];
    memcpy(w->bytes[pair[1]], w->bytes[pair[0]], sizeof w->bytes[0]);
  }
  n_copies += w->copies.n;
  for (int32_t i = 0; i < n; i++) {
    req *r = batch[i].r;
    uint64_t h = r->salt;
    for (int32_t pos = 0; pos < batch[i].to; pos++) {
      h = kv_next(h, r->tok[pos]);
      if (pos >= batch[i].from) w->bytes[r->seq.page[pos / P]][pos % P] = h;
    }
    r->kv = batch[i].to;
  }
  verify(w);
  weir_copies_release(&w->copies, w->pages);
  n_steps++;
}

static void live(long seed) {
  static world w;
  weir_err e;
  memset(&w, 0, sizeof w);
  seed_now = seed;
  rng = (uint64_t)seed;
  w.n_pool = 6 + rnd(MAX_POOL - 6);
  w.cap = rnd(4) ? 1 + rnd(w.n_pool) : w.n_pool;
  for (int b = 0; b < N_BASE; b++)
    for (int i = 0; i < MAX_TOK; i++) w.base[b][i] = rnd(3) * (b > 0); /* texts 0 and 1 may start alike */
  assert_int_equal(weir_pages_create(w.n_pool, &w.pages, &e), WEIR_OK);
  assert_int_equal(weir_prefix_create(w.pages, w.cap, &w.prefix, &e), WEIR_OK);
  for (int turn = 0; turn < 200; turn++) {
    req *r = &w.r[rnd(N_REQS)];
    const int32_t what = rnd(20);
    if (!r->open) {
      start(&w, r);
    } else if (what < 2) {
      roll_back(&w, r);
    } else if (what < 5) {
      publish(&w, r);
    } else if (what < 7) {
      if (rnd(2)) publish(&w, r);
      stop(&w, r);
    } else if (what == 7) {
      const int32_t want = rnd(w.n_pool), before = w.n_known;
      model_evict(&w, want);
      CHECK(weir_prefix_evict(w.prefix, want) == before - w.n_known, "evicted other than %d",
            (int)(before - w.n_known));
      CHECK(free_pages(&w) >= want || weir_prefix_idle(w.prefix) == 0, "%d idle pages cannot be evicted",
            (int)weir_prefix_idle(w.prefix));
    } else {
      step(&w);
    }
    verify(&w);
  }
  for (int i = 0; i < N_REQS; i++)
    if (w.r[i].open) stop(&w, &w.r[i]);
  CHECK(weir_prefix_evict(w.prefix, w.n_pool) == w.n_known, "cannot empty the cache");
  CHECK(weir_pages_free(w.pages) == w.n_pool, "%d of %d pages leaked",
        (int)(w.n_pool - weir_pages_free(w.pages)), (int)w.n_pool);
  weir_copies_fini(&w.copies, w.pages);
  weir_prefix_destroy(w.prefix);
  weir_pages_destroy(w.pages);
}

static void random_worlds(void **state) {
  (void)state;
  for (int i = 0; i < n_worlds; i++) live(i + 1);
  seed_now = 0; /* every kind of event has been met */
  CHECK(n_copies > n_worlds && n_hits > n_worlds && n_evicted > n_worlds && n_dry > n_worlds / 4 &&
            n_forgotten > 0 && n_adopted > n_worlds / 4,
        "too few: %ld copies, %ld hits, %ld evictions, %ld dry, %ld forgotten, %ld adopted", n_copies, n_hits,
        n_evicted, n_dry, n_forgotten, n_adopted);
}

/* Many short texts, held and let go in any order: the heap against a search for the oldest. */
static void random_ages(void **state) {
  (void)state;
  enum { N = 60 };
  for (int seed = 0; seed < n_worlds / 10; seed++) {
    weir_pages *pages;
    weir_prefix *x;
    weir_err e;
    int32_t page[N], tok[N][P], got;
    long used[N], now = 0;
    bool held[N], there[N];
    seed_now = seed;
    rng = (uint64_t)seed + 12345;
    assert_int_equal(weir_pages_create(N, &pages, &e), WEIR_OK);
    assert_int_equal(weir_prefix_create(pages, N, &x, &e), WEIR_OK);
    for (int k = 0; k < N; k++) {
      for (int i = 0; i < P; i++) tok[k][i] = i < P - 1 ? 0 : k; /* they differ in the last token */
      page[k] = weir_pages_take(pages);
      weir_prefix_insert(x, 1, tok[k], &page[k], 1);
      used[k] = now++;
      held[k] = there[k] = true;
    }
    for (int turn = 0, left = N; turn < 1000 && left > 0; turn++) {
      const int k = rnd(N);
      if (there[k] && held[k]) {
        weir_pages_unref(pages, page[k]);
        held[k] = false;
      } else if (there[k] && rnd(3)) {
        CHECK(weir_prefix_match(x, 1, tok[k], P, &got, 1) == 1 && got == page[k], "text %d is not found", k);
        used[k] = now++;
        held[k] = true;
      } else if (!rnd(4)) {
        int oldest = -1;
        for (int i = 0; i < N; i++)
          if (there[i] && !held[i] && (oldest < 0 || used[i] < used[oldest])) oldest = i;
        const int32_t n = weir_prefix_evict(x, weir_pages_free(pages) + 1);
        CHECK(n == (oldest >= 0), "evicted %d", (int)n);
        if (oldest < 0) continue;
        CHECK(weir_pages_refs(pages, page[oldest]) == 0, "text %d is the oldest and was not evicted", oldest);
        there[oldest] = false;
        left--;
      }
    }
    weir_prefix_destroy(x);
    weir_pages_destroy(pages);
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "--long")) n_worlds = 10000;
  const struct CMUnitTest tests[] = {cmocka_unit_test(random_worlds), cmocka_unit_test(random_ages)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  printf(
      "%d worlds, %ld steps, %ld page hits, %ld copies, %ld evictions, %ld dry pools, %ld pages forgotten, "
      "%ld adopted\n",
      n_worlds, n_steps, n_hits, n_copies, n_evicted, n_dry, n_forgotten, n_adopted);
  return failed;
}
