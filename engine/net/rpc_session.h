/* SPDX-License-Identifier: Apache-2.0 */
/* Who talks to the server: sessions, their requests, and the ids of requests that are over. All tables are
 * bounded, keyed under a secret. Private to engine/net/rpc_*.c; the core's thread. */
#ifndef WEIR_NET_RPC_SESSION_H
#define WEIR_NET_RPC_SESSION_H
#include <stdbool.h>
#include <stdint.h>

#include "serve/keyed_hash.h"
#include "serve/service.h"

enum { RPC_ID_BYTES = 16 };

typedef struct rpc_session rpc_session;

/* A request whose end was not acknowledged. */
typedef struct rpc_entry {
  struct rpc_entry *chain;       /* of its bucket */
  struct rpc_entry *prev, *next; /* of its session */
  uint8_t id[RPC_ID_BYTES];
  rpc_session *of;
  weir_reply *reply; /* owned */
  bool receipts;
  /* what a poll was last told before there were tokens */
  weir_reply_state told_state;
  int64_t told_ns; /* 0: nothing */
} rpc_entry;

typedef struct rpc_cursor {
  rpc_entry *entry;
  int32_t have;
  int32_t state; /* the last its client says it was told; -1: it does not say */
} rpc_cursor;

struct rpc_session {
  rpc_session *chain;
  rpc_session *prev, *next; /* of all */
  uint8_t id[RPC_ID_BYTES];
  int64_t heard_ns; /* of its last Poll, or of its first request */
  rpc_entry *first;
  int32_t n_entries;
  /* the parked poll */
  bool parked;
  uint64_t ticket;
  int64_t until_ns, ready_ns; /* answered by then in any case; not before, unless it must be (0: at once) */
  uint32_t max_bytes;
  rpc_cursor *cursor;              /* [n_cursors], owned */
  int32_t n_cursors, first_cursor; /* whose turn it is when an answer does not hold all */
};

typedef struct rpc_sessions rpc_sessions;

weir_status rpc_sessions_create(rpc_sessions **out, weir_err *e);
/* Cancels and gives back all replies. */
void rpc_sessions_destroy(rpc_sessions *);

rpc_session *rpc_session_find(const rpc_sessions *, const uint8_t *id);
/* NULL: no memory. */
rpc_session *rpc_session_add(rpc_sessions *, const uint8_t *id, int64_t now_ns);
/* Cancels its requests, and remembers their ids. */
void rpc_session_drop(rpc_sessions *, rpc_session *, weir_cancel_why);
rpc_session *rpc_session_first(const rpc_sessions *);
int32_t rpc_sessions_n(const rpc_sessions *);
int32_t rpc_sessions_n_entries(const rpc_sessions *);

rpc_entry *rpc_entry_find(const rpc_sessions *, const uint8_t *id);
/* Takes the reply; NULL: no memory, and it was not taken. */
rpc_entry *rpc_entry_add(rpc_sessions *, rpc_session *, const uint8_t *id, weir_reply *);
/* Gives the reply back and remembers the id. */
void rpc_entry_drop(rpc_sessions *, rpc_entry *);

/* Ids that must not start again: of requests that are over, or were cancelled before they came. The last tens
 * of thousands of either. */
bool rpc_over_has(const rpc_sessions *, const uint8_t *id);
/* One that was cancelled and is not known; however many there are, those that were here are not forgotten. */
void rpc_over_add_unknown(rpc_sessions *, const uint8_t *id);

#endif
