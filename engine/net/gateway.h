/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway: OpenAI's HTTP interface in front of one engine or several, which it speaks to through the
 * client library. Everything runs on the thread of the event base.
 *
 * A request goes to the engine that is likeliest to have its beginning in the prefix cache, unless that one
 * has much more to do than another; one that was refused for want of room, or lost before it was begun, is
 * tried once elsewhere. Nothing of an answer is sent before the engine has taken the request: what it refuses
 * is told by the status line. Whoever hangs up, in whatever state, has his request cancelled. */
#ifndef WEIR_NET_GATEWAY_H
#define WEIR_NET_GATEWAY_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct event_base;
typedef struct weir_gw weir_gw;

/* Strings are copied; 0 stands for what is said in brackets. */
typedef struct weir_gw_cfg {
  const char *listen;        /* HOST:PORT */
  const char *const *engine; /* [n_engines] URLs of the client library */
  int32_t n_engines;
  const char *token;      /* of the engines; NULL: none */
  const char *const *key; /* [n_keys] that clients must show one of; none: all may */
  int32_t n_keys;
  bool insecure;           /* without a key on an address that others reach */
  const char *const *host; /* [n_hosts] names that Host may say beside those that are this machine's */
  int32_t n_hosts;
  const char *cors;                  /* the origin that pages of others may have, or "*"; NULL: none */
  int64_t max_body_bytes;            /* (4 MiB) */
  int32_t max_connections;           /* (512) */
  int32_t max_n, max_prompts;        /* answers to a prompt (8), prompts in a request (64) */
  int32_t head_ms, body_ms, idle_ms; /* (10 s, 60 s, 75 s) */
  int32_t stall_ms;                  /* a client that reads nothing (30 s) */
  int64_t max_unsent_bytes;          /* of an answer, for a client that reads slowly (8 MiB) */
  int32_t health_ms;                 /* between two questions for an engine's health (1 s) */
  int32_t lost_ms;                   /* an engine that says nothing has lost its requests (10 s) */
  bool access_log;
} weir_gw_cfg;

weir_status weir_gw_create(struct event_base *, const weir_gw_cfg *, weir_gw **out, weir_err *e);
uint16_t weir_gw_port(const weir_gw *);
/* Takes no new connections and no new requests; breaks the loop when what is under way has ended, or `ms`
 * later. */
void weir_gw_drain(weir_gw *, int32_t ms);
/* Ends what is under way now: whoever waits is told, if he reads soon. */
void weir_gw_cut(weir_gw *);
/* Answers were cut, or are still owed. */
bool weir_gw_was_cut(const weir_gw *);
/* What is under way is cancelled. NULL is fine. */
void weir_gw_destroy(weir_gw *);

#endif
