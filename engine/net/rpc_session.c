/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of sessions and requests: chains in fixed numbers of buckets, since both are bounded; and a memory
 * of ids that are over, where a full bucket forgets its oldest. Anybody can make up ids and cancel them, so
 * those that were here have a memory of their own. Owns the replies; the core's thread. */
#include "net/rpc_session.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { SESSION_BUCKETS = 1 << 10, ENTRY_BUCKETS = 1 << 13, OVER_BUCKETS = 1 << 13, OVER_WAYS = 8 };

typedef struct over_bucket {
  uint8_t id[OVER_WAYS][RPC_ID_BYTES];
  uint8_t n, at;
} over_bucket;

struct rpc_sessions {
  weir_hash_key key;
  rpc_session *session[SESSION_BUCKETS];
  rpc_entry *entry[ENTRY_BUCKETS];
  over_bucket *over;  /* [OVER_BUCKETS] of requests that were here */
  over_bucket *never; /* [OVER_BUCKETS] of those that were cancelled before they came */
  rpc_session *first;
  int32_t n, n_entries;
};

static size_t bucket(const rpc_sessions *s, const uint8_t *id, size_t n) {
  return (size_t)(weir_keyed_hash(s->key, id, RPC_ID_BYTES) & (n - 1));
}
static bool same(const uint8_t *a, const uint8_t *b) { return memcmp(a, b, RPC_ID_BYTES) == 0; }

weir_status rpc_sessions_create(rpc_sessions **out, weir_err *e) {
  rpc_sessions *s = NULL;
  weir_status st = WEIR_OK;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &s, e));
  s->key = weir_hash_key_draw();
  WEIR_TRY(WEIR_NEW(OVER_BUCKETS, &s->over, e));
  WEIR_TRY(WEIR_NEW(OVER_BUCKETS, &s->never, e));
  *out = s;
  s = NULL;
out:
  rpc_sessions_destroy(s);
  return st;
}

void rpc_sessions_destroy(rpc_sessions *s) {
  if (!s) return;
  while (s->first) rpc_session_drop(s, s->first, WEIR_CANCEL_SHUTDOWN);
  free(s->over);
  free(s->never);
  free(s);
}

/* ---- sessions ---- */

rpc_session *rpc_session_find(const rpc_sessions *s, const uint8_t *id) {
  rpc_session *x = s->session[bucket(s, id, SESSION_BUCKETS)];
  while (x && !same(x->id, id)) x = x->chain;
  return x;
}

rpc_session *rpc_session_add(rpc_sessions *s, const uint8_t *id, int64_t now_ns) {
  rpc_session *x = calloc(1, sizeof *x);
  if (!x) return NULL;
  rpc_session **b = &s->session[bucket(s, id, SESSION_BUCKETS)];
  memcpy(x->id, id, RPC_ID_BYTES);
  x->heard_ns = now_ns;
  x->chain = *b;
  *b = x;
  x->next = s->first;
  if (s->first) s->first->prev = x;
  s->first = x;
  s->n++;
  return x;
}

void rpc_session_drop(rpc_sessions *s, rpc_session *x, weir_cancel_why why) {
  while (x->first) {
    weir_reply_cancel(x->first->reply, why);
    rpc_entry_drop(s, x->first);
  }
  rpc_session **at = &s->session[bucket(s, x->id, SESSION_BUCKETS)];
  while (*at != x) at = &(*at)->chain;
  *at = x->chain;
  if (x->prev)
    x->prev->next = x->next;
  else
    s->first = x->next;
  if (x->next) x->next->prev = x->prev;
  s->n--;
  free(x->cursor);
  free(x);
}

rpc_session *rpc_session_first(const rpc_sessions *s) { return s->first; }
int32_t rpc_sessions_n(const rpc_sessions *s) { return s->n; }
int32_t rpc_sessions_n_entries(const rpc_sessions *s) { return s->n_entries; }

/* ---- ids that are over ---- */

static bool holds(const over_bucket *b, const uint8_t *id) {
  for (int i = 0; i < b->n; i++)
    if (same(b->id[i], id)) return true;
  return false;
}

static void put(over_bucket *b, const uint8_t *id) {
  if (holds(b, id)) return;
  memcpy(b->id[b->at], id, RPC_ID_BYTES);
  b->at = (uint8_t)((b->at + 1) % OVER_WAYS);
  if (b->n < OVER_WAYS) b->n++;
}

bool rpc_over_has(const rpc_sessions *s, const uint8_t *id) {
  const size_t at = bucket(s, id, OVER_BUCKETS);
  return holds(&s->over[at], id) || holds(&s->never[at], id);
}

void rpc_over_add_unknown(rpc_sessions *s, const uint8_t *id) {
  put(&s->never[bucket(s, id, OVER_BUCKETS)], id);
}

/* ---- requests ---- */

rpc_entry *rpc_entry_find(const rpc_sessions *s, const uint8_t *id) {
  rpc_entry *x = s->entry[bucket(s, id, ENTRY_BUCKETS)];
  while (x && !same(x->id, id)) x = x->chain;
  return x;
}

rpc_entry *rpc_entry_add(rpc_sessions *s, rpc_session *of, const uint8_t *id, weir_reply *reply) {
  rpc_entry *x = calloc(1, sizeof *x);
  if (!x) return NULL;
  rpc_entry **b = &s->entry[bucket(s, id, ENTRY_BUCKETS)];
  memcpy(x->id, id, RPC_ID_BYTES);
  x->of = of;
  x->reply = reply;
  x->chain = *b;
  *b = x;
  x->next = of->first;
  if (of->first) of->first->prev = x;
  of->first = x;
  of->n_entries++;
  s->n_entries++;
  return x;
}

void rpc_entry_drop(rpc_sessions *s, rpc_entry *x) {
  rpc_entry **at = &s->entry[bucket(s, x->id, ENTRY_BUCKETS)];
  while (*at != x) at = &(*at)->chain;
  *at = x->chain;
  if (x->prev)
    x->prev->next = x->next;
  else
    x->of->first = x->next;
  if (x->next) x->next->prev = x->prev;
  x->of->n_entries--;
  s->n_entries--;
  put(&s->over[bucket(s, x->id, OVER_BUCKETS)], x->id);
  weir_reply_release(x->reply);
  free(x);
}
