/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix cache of one tier: full pages keyed by a hash chained over all tokens before them. It holds one
 * reference to each page it knows. Loop thread only.
 *
 * Evicted first is, of the pages that nobody else holds and that no cached page continues, the one least
 * recently matched or offered: a page outlives its continuations, which without it could not be found.
 *
 * The chain is seeded (XXH3 with a salt), so one tenant cannot probe what another has asked; a hit also
 * compares the page's 16 tokens and the parent page, so a collision of hashes is a miss and never a wrong
 * page. */
#ifndef WEIR_KV_PREFIX_H
#define WEIR_KV_PREFIX_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/pages.h"

typedef struct weir_prefix weir_prefix;

/* Holds at most max_pages pages; 0 turns it off (nothing is ever found). `pages` is borrowed for its life and
 * has one cache at most. */
weir_status weir_prefix_create(weir_pages *pages, int32_t max_pages, weir_prefix **out, weir_err *e);
void weir_prefix_destroy(weir_prefix *); /* drops its references */

/* Longest run of cached full pages that begin tok[0..n) under this salt; at most max_pages written to
 * page[], each with a reference taken for the caller. Returns how many. */
int32_t weir_prefix_match(weir_prefix *, uint64_t salt, const int32_t *tok, int32_t n, int32_t *page,
                          int32_t max_pages);
/* How many pages a match would find; *held: of these, pages that somebody else holds too. Changes nothing. */
int32_t weir_prefix_peek(const weir_prefix *, uint64_t salt, const int32_t *tok, int32_t n, int32_t *held);
/* Pages that nobody else holds: evicting can give back all of them, since whoever holds a page holds all that
 * it continues. */
int32_t weir_prefix_idle(const weir_prefix *);
/* Offers the first n_pages full pages of a sequence, tok[0 .. 16*n_pages), which holds page[]. Where the
 * cache knows a text already, the sequence gets the cached page in exchange for its own (page[] is written,
 * the references go along): the same text is there once, and what is hung below a cached page is held
 * together with it. A step under way may still use a page that is given up so; one that starts later may not.
 * Never fails: what does not fit is not cached. */
void weir_prefix_insert(weir_prefix *, uint64_t salt, const int32_t *tok, int32_t *page, int32_t n_pages);
/* Frees pages that nobody else holds, least recently used first, until `want` are free in the pool or nothing
 * is left to evict. Returns how many it freed. */
int32_t weir_prefix_evict(weir_prefix *, int32_t want);
/* Drops one page that no cached page continues, whoever else holds it. False when it is not cached or is
 * continued. */
bool weir_prefix_forget(weir_prefix *, int32_t page);

typedef struct weir_prefix_stats {
  int64_t lookups, hit_pages, inserted, evicted;
  int32_t held; /* pages it holds now */
} weir_prefix_stats;
weir_prefix_stats weir_prefix_get_stats(const weir_prefix *);

#endif
