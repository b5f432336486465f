/* SPDX-License-Identifier: Apache-2.0 */
/* What is put under load: a server that is asked for text and streams it. Two kinds stand behind one table:
 * weir's own RPC (target_rpc.c), and any server that speaks OpenAI's HTTP API (target_openai.c). */
#ifndef WEIR_LOAD_TARGET_H
#define WEIR_LOAD_TARGET_H
#include <event2/event.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_LOAD_TIERS = 4 };

/* Set for a whole run. Strings are borrowed for the target's life. */
typedef struct weir_target_cfg {
  struct event_base *base;
  const char *url; /* http://HOST:PORT; ipc:// or tcp:// for RPC */
  const char *key, *model;
  bool chat, stream, keep_alive;
  bool has_temperature, has_top_p, has_seed, ignore_eos, receipts;
  double temperature, top_p;
  uint64_t seed;
  const char *const *stop;
  int32_t n_stop;
  const char *mode;  /* NULL: the server's */
  const char *extra; /* JSON object merged into each body; NULL: none */
  double connect_s;  /* how long the server may take to say what it is */
} weir_target_cfg;

/* One request. Borrowed for the call of `start`. */
typedef struct weir_target_ask {
  const char *prompt; /* NULL: messages */
  json_t *messages;   /* [{role, content}] */
  int32_t max_tokens;
  double entropy;       /* NaN: the server's */
  int64_t read_bytes_s; /* a slow reader; 0: none. HTTP alone */
} weir_target_ask;

/* Text as it came, in one piece of a stream. */
typedef struct weir_target_piece {
  const char *text;
  size_t len;
  int32_t n_tokens;                 /* 0: not told */
  int32_t by_tier[WEIR_LOAD_TIERS]; /* of n_tokens; all 0 when tiers are not told */
  int32_t tier;                     /* of its first token; -1: not told */
} weir_target_piece;

typedef struct weir_target_usage {
  int32_t prompt_tokens, completion_tokens, cached_tokens; /* -1: not told */
  int32_t by_tier[WEIR_LOAD_TIERS];
  bool tiers;                     /* by_tier was told */
  double queue_ms, deferral_rate; /* NaN: not told */
} weir_target_usage;

typedef struct weir_target_end {
  bool ok;
  int code;             /* HTTP's status, or what RPC says in its numbers; 0: no answer, or a broken one */
  char what[64];        /* of an error: a word or two, the same for the same cause */
  char message[256];    /* of an error: all of it */
  char reason[16];      /* "stop", "length" ...; "" when not told */
  double retry_after_s; /* NaN: not told */
  weir_target_usage usage;
} weir_target_end;

typedef struct weir_target_events {
  void (*on_piece)(void *ctx, const weir_target_piece *);
  void (*on_end)(void *ctx, const weir_target_end *); /* exactly once, unless cancelled */
  void *ctx;
} weir_target_events;

typedef struct weir_target_about {
  char kind[16]; /* "http", "rpc" */
  char model[256], server[64];
  int32_t context; /* tokens; 0: not told */
} weir_target_about;

typedef struct weir_target weir_target;
typedef struct weir_target_ops {
  /* No event before it has returned. *call is good until on_end or cancel. */
  weir_status (*start)(weir_target *, const weir_target_ask *, const weir_target_events *, void **call,
                       weir_err *e);
  /* Drops the request as a client that goes away does; no event follows. May be called from on_piece. */
  void (*cancel)(weir_target *, void *call);
  void (*close)(weir_target *);
} weir_target_ops;

struct weir_target {
  const weir_target_ops *ops;
  weir_target_about about;
};

/* By the URL's scheme. Asks the server what it is, so that a wrong address is told at once: runs the event
 * base meanwhile. A server that does not list its models needs cfg->model. */
weir_status weir_target_open(const weir_target_cfg *, weir_target **out, weir_err *e);
void weir_target_close(weir_target *); /* NULL is fine */

weir_status weir_target_open_http(const weir_target_cfg *, weir_target **out, weir_err *e);
weir_status weir_target_open_rpc(const weir_target_cfg *, weir_target **out, weir_err *e);

#endif
