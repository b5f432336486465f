/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets of deferrals: a threshold that moves so that a given share of tokens is deferred, a limit for a
 * single request, a price on a large tier that is busy. Pure arithmetic: no clock, memory or I/O.
 *
 * All of it speaks of scores, where a high one defers: the entropy itself, and 1 - p for the gates that defer
 * what is low (top probability, margin). */
#ifndef WEIR_CASCADE_BUDGET_H
#define WEIR_CASCADE_BUDGET_H
#include <stdbool.h>
#include <stdint.h>

/* What a request asks for. Zeroed: nothing, the threshold stands still. */
typedef struct weir_budget {
  bool rated;       /* `rate` counts, and moves the threshold */
  float rate;       /* rho: the share of decisions that are to be deferrals, 0 .. 1 */
  int32_t burst;    /* deferrals a request may have at once, refilled by `rate` a token; 0: no limit */
  float load_price; /* added to the threshold at most, in the gate's score, when the large tier is busy; 0:
                       off */
} weir_budget;

#define WEIR_LOAD_PRICE_MAX 100

/* The threshold is another one from row to row. */
static inline bool weir_budget_moves(const weir_budget *b) { return b->rated || b->load_price > 0; }
/* NULL, or one line that says what is wrong. */
const char *weir_budget_error(const weir_budget *);

/* ---- the rate ----
 *
 * tau <- tau + step (x - rate), where x = 1 when the decision was to defer. Decisions are x = (score > tau +
 * price), score in [0, bound], price in [0, P]. A deferral may bring up to hold - 1 tokens with it for which
 * nobody asks the gate; each counts as one more x = 1.
 *
 * Law, for any sequence of scores, also of one who watches tau: after T counts that started at a tau in [0,
 * bound],
 *
 *     |deferred / T - rate| <= (bound + P + hold * step) / (step * T).
 *
 * Proof. Summing the rule over the T counts, step * (deferred - rate T) = tau_T - tau_0. Above `bound` nobody
 * defers, so that tau rises only from at most `bound`, by `hold` counts at most before the gate is asked
 * again: tau <= bound + hold step (1 - rate). Below -P everybody defers, so that tau falls only from at least
 * -P, by step rate: tau >= -P - step rate. With tau_0 in [0, bound] the difference is at most
 * bound + P + hold step in size. (With hold 1 and no price: (bound + step) / (step T).)
 *
 * The price therefore moves deferrals from busy moments to quiet ones and leaves the rate. Where a bucket
 * refuses, x stays what the score says: the law is then one of what is asked for, of which no more than that
 * is deferred, so that `deferred / T - rate` keeps its bound. (Counting refusals as x = 0 would keep it too,
 * and let tau sink until every token asks and the bucket takes the next one, not the hardest.) Whoever does
 * so finds tau at -P - step at least: what was held back does not come in a flood. */
typedef struct weir_rate_law {
  double rate, step, bound, price; /* price: P, the most it can be */
  int32_t hold;                    /* >= 1 */
} weir_rate_law;

typedef struct weir_rate_tracker {
  double tau; /* finite, always */
  int64_t counts, deferred;
} weir_rate_tracker;

/* tau is cut to [0, bound]; what is not a number becomes 0. */
void weir_rate_start(weir_rate_tracker *, const weir_rate_law *, double tau);
void weir_rate_note(weir_rate_tracker *, const weir_rate_law *, bool deferred);
/* How far the realised rate may be from the one asked for after T >= 1 counts. */
double weir_rate_bound(const weir_rate_law *, int64_t counts);

/* ---- trackers of tenants: a table of a fixed size; who was not seen for the longest time goes ---- */
typedef struct weir_rate_key {
  uint64_t tenant;
  int32_t gate; /* weir_gate_kind */
  float rate;
} weir_rate_key;

typedef struct weir_rate_slot {
  weir_rate_key key;
  uint64_t seen; /* 0: free */
  weir_rate_tracker tracker;
} weir_rate_slot;

typedef struct weir_rate_table {
  weir_rate_slot *slot; /* [n_slots], the caller's; zeroed at the start */
  int32_t n_slots, n_used;
  uint64_t seen; /* of the last use */
  int64_t forgotten;
} weir_rate_table;

/* The tracker of the key, a new one that starts at tau where there is none. *at: where it was the last time
 * (anything at first), and where it is now: the table is then not searched. */
weir_rate_tracker *weir_rate_find(weir_rate_table *, const weir_rate_key *, const weir_rate_law *, double tau,
                                  int32_t *at);

/* ---- the bucket: of one request ----
 *
 * Law: while a request writes k tokens it has at most burst + rate * k + (hold - 1) deferred ones, from
 * whichever token on, and so over its whole life of n tokens at most burst + rate * n + (hold - 1); where
 * nothing is rolled back the last one is decided after n - 1, and it is n - 1. (Level and taken sum to burst
 * + rate * written at most, and a deferral needs a level of 1.) So however short it is, it cannot spend more
 * than `burst` of its tenant's budget at once. Tokens count when their position is written for the first
 * time: what is rolled back and written again refills nothing. */
typedef struct weir_bucket {
  double level;
  int32_t written;
} weir_bucket;

void weir_bucket_start(weir_bucket *, const weir_budget *);
bool weir_bucket_allows(const weir_bucket *, const weir_budget *); /* always, where burst is 0 */
void weir_bucket_take(weir_bucket *);
void weir_bucket_refill(weir_bucket *, const weir_budget *, int32_t written);

/* ---- the price ----
 *
 * most * q / (1 + q), q = waiting * large_step_ns / WEIR_PRICE_HALF_NS: 0 when nobody waits for the large
 * tier or its steps cost nothing, rising with both, below `most`. Half of it when a tenth of a second of
 * steps of one token each is waiting. */
#define WEIR_PRICE_HALF_NS 1e8
double weir_load_price(double most, int32_t waiting, double large_step_ns);

/* ---- back to a gate ---- */

/* The threshold of the gate at which exactly the scores above tau defer; `low`: it defers what is low.
 * Negative taus stay such that every row defers. */
float weir_budget_threshold(bool low, double tau);
/* The threshold at which none does. */
float weir_budget_shut(bool low);

#endif
