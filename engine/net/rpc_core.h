/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server without sockets: frames in, frames out, sooner or later. Every message gets exactly one
 * answer, named by the ticket it came with. One thread; only the service behind it has others. */
#ifndef WEIR_NET_RPC_CORE_H
#define WEIR_NET_RPC_CORE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "serve/service.h"

typedef struct weir_rpc_core weir_rpc_core;

/* What Models tells of a tier; strings may be NULL. */
typedef struct weir_rpc_tier {
  const char *model, *type, *device;
} weir_rpc_tier;

/* 0: the default in brackets. */
typedef struct weir_rpc_limits {
  int64_t ttl_ns;           /* a session that did not poll for so long is gone (30 s) */
  int32_t max_sessions;     /* (1024) */
  int32_t max_per_session;  /* requests, those whose end was not acknowledged included (1024) */
  int32_t max_kept;         /* the same of all sessions together (8192) */
  int64_t max_reply_memory; /* bytes held by requests, waiting and not yet fetched; more is refused (1 GiB) */
  size_t max_request_bytes; /* of a frame, WEIR_FRAME_SURE_REQUEST .. WEIR_FRAME_MAX_REQUEST (4 MiB) */
  uint32_t max_poll_ms;     /* a poll is parked so long at most (10 s) */
  uint32_t poll_bytes;      /* of an answer, when the client says nothing (256 KiB) */
} weir_rpc_limits;

typedef struct weir_rpc_core_cfg {
  weir_service *service;     /* borrowed */
  weir_metrics *metrics;     /* borrowed; also what Stats tells */
  const char *token;         /* of authorisation, copied; NULL or "": none is asked for */
  const char *version;       /* of weir, copied */
  const weir_rpc_tier *tier; /* [the engine's n_tiers]; copied; may be NULL */
  weir_clock clock;
  weir_rpc_limits limits;
  /* One call for each message. superseded: it came from a client that has sent a newer one in its place and
   * does not wait for this. The frame is borrowed for the call. It must not call the core. */
  void (*answer)(void *ctx, uint64_t ticket, const void *frame, size_t n, bool superseded);
  /* When an answer to this ticket could go, 0 for at once; NULL: always. A Poll stays parked until then, so
   * that its answer has all that came meanwhile. It must not call the core. */
  int64_t (*ready_ns)(void *ctx, uint64_t ticket);
  void *ctx;
} weir_rpc_core_cfg;

weir_status weir_rpc_core_create(const weir_rpc_core_cfg *, weir_rpc_core **out, weir_err *e);
/* Cancels all requests; what is parked is not answered any more. NULL is fine. */
void weir_rpc_core_destroy(weir_rpc_core *);

/* A message, any bytes. */
void weir_rpc_core_message(weir_rpc_core *, uint64_t ticket, const void *bytes, size_t n);
/* Answers what can be answered now: after news from the service, and at weir_rpc_core_next_ns. */
void weir_rpc_core_turn(weir_rpc_core *);
int64_t weir_rpc_core_next_ns(const weir_rpc_core *); /* INT64_MAX: not before something happens */
/* Whether news from the service would be answered now; if not, nobody need be woken for them before
 * weir_rpc_core_next_ns. */
bool weir_rpc_core_wants_news(const weir_rpc_core *);
/* Cancels all requests, because the server goes: polls tell their ends. */
void weir_rpc_core_cut(weir_rpc_core *);
/* Answers all that is parked, as if its time had passed. */
void weir_rpc_core_flush(weir_rpc_core *);

/* The largest message that is looked at; one above it up to the slack gets 413. */
size_t weir_rpc_core_max_request(const weir_rpc_core *);
int32_t weir_rpc_core_sessions(const weir_rpc_core *);
int32_t weir_rpc_core_parked(const weir_rpc_core *);

#endif
