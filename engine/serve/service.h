/* SPDX-License-Identifier: Apache-2.0 */
/* The engine as a service: a loop thread that owns it, a thread that prepares requests (templates, tokens),
 * and a door for edges. An edge (the RPC server) submits, reads what was written and cancels; it never
 * touches the engine. */
#ifndef WEIR_SERVE_SERVICE_H
#define WEIR_SERVE_SERVICE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/metrics.h"
#include "cascade/cascade_conf.h"
#include "model/chat.h"
#include "serve/engine.h"
#include "serve/reply_log.h"

typedef struct weir_service weir_service;

/* Everything is borrowed for the service's life but the strings, which are copied. The engine's clock is read
 * by several threads. */
typedef struct weir_service_cfg {
  weir_engine_cfg engine;            /* max_queued is raised to max_requests: waiting is bounded here */
  weir_tokenizer *prepare_tokenizer; /* a second one: the engine's belongs to the loop thread */
  weir_tokenizer *long_tokenizer; /* a third: texts above 16 KiB get a thread of their own, so that they hold
                                     up nobody. NULL: they go behind the short ones */
  const weir_chat_format *chat;   /* NULL: the models have no template */
  weir_metrics *metrics;
  const char *model;              /* its name to clients */
  weir_cascade_opts cascade;      /* what a request gets that asks for nothing */
  uint32_t modes;                 /* bit set of 1 << weir_mode that requests may ask for */
  float entropy_min, entropy_max; /* thresholds that requests may ask for */
  weir_ask draw;                  /* likewise: temperature, top_k, top_p, min_p */
  int32_t max_tokens_default, max_tokens_limit;
  int32_t max_requests; /* taken and not ended, at once: one more is refused with 429 */
  int64_t stall_ns;     /* a step loop with work that has not turned for so long is not live; 0: 30 s */
  const struct weir_drift_profile *drift; /* what the traffic is held against; NULL: nothing */
  double drift_threshold;                 /* of the gate, when that was seen */
} weir_service_cfg;

/* Starts the threads; the service is ready when it returns. */
weir_status weir_service_create(const weir_service_cfg *, weir_service **out, weir_err *e);
/* Takes no new requests from here on; those taken go on. */
void weir_service_drain(weir_service *);
/* Requests taken and not ended. */
int32_t weir_service_open_requests(const weir_service *);
/* Cancels what is left, joins the threads. The edges have given everything back. NULL is fine. */
void weir_service_destroy(weir_service *);

typedef struct weir_tier_health {
  const char *name;    /* "small", "large"; static */
  bool up, comes_back; /* comes_back: by itself, when it is down */
  int64_t for_ns;      /* up, or down, for so long */
  int64_t deaths;
  char why[192]; /* of one that is down; UTF-8 */
} weir_tier_health;

/* ready: requests that ask for nothing are taken; with a tier down they may go on without it. */
typedef struct weir_service_health {
  bool live, ready;
  char reason[256]; /* "" when both hold */
  int32_t running, waiting, limit;
  weir_tier_health tier[WEIR_MAX_TIERS];
  int32_t n_tiers;
} weir_service_health;
/* Waits for nobody: tells of a loop that is stuck, from any other thread. */
weir_service_health weir_service_get_health(weir_service *);

/* Numbers of a moment, for a status line; any thread. */
weir_engine_stats weir_service_get_stats(weir_service *);
/* Brings the gauges up to now that the loop sets only when it steps: before the registry is read. */
void weir_service_refresh_metrics(weir_service *);

/* ---- the door for edges; any thread ---- */

const weir_service_cfg *weir_service_get_cfg(const weir_service *);

/* Readable (an eventfd; one edge reads it) when a request or a call has something new since it was read. */
int weir_service_news_fd(const weir_service *);

/* `code` as in HTTP: 400 404 429 500 503 504; 0: no error. */
typedef struct weir_service_error {
  int32_t code;
  uint32_t retry_after_ms; /* with 429 and 503 */
  char param[48];          /* the field that is wrong, "" when none is */
  char message[448];
} weir_service_error;

typedef struct weir_service_message {
  const char *role, *text;
} weir_service_message;
typedef struct weir_service_bias {
  uint32_t id;
  float add;
} weir_service_bias;

typedef struct weir_service_setting {
  const char *name, *value;
} weir_service_setting;
typedef struct weir_service_span {
  float threshold;
  const char *start, *end;
} weir_service_span;

/* Sets all of it; the message becomes UTF-8. Returns what fits the code. */
weir_status weir_service_error_set(weir_service_error *, int32_t code, const char *param, const char *fmt,
                                   ...) __attribute__((format(printf, 4, 5)));
/* What is not UTF-8 becomes '?': protobuf knows no other text. */
void weir_service_clean_text(char *);

/* What a request is made of: a text to go on, ids, or a conversation. All borrowed for the call. */
typedef struct weir_service_text {
  const char *text; /* [len], UTF-8; NULL: none */
  size_t len;
  const uint32_t *ids;
  size_t n_ids;
  const weir_service_message *chat;
  size_t n_chat;
  bool special, bare;
} weir_service_text;

/* Fields as in SubmitRequest of proto/weir.proto. Zeroed but for the prompt: the server's defaults. */
typedef struct weir_service_request {
  const char *model, *user, *mode; /* NULL is "" */
  weir_service_text prompt;        /* exactly one of the three */
  uint32_t max_tokens, min_tokens, top_logprobs, deadline_ms;
  const char *const *stop;
  size_t n_stop;
  const uint32_t *stop_ids;
  size_t n_stop_ids;
  bool ignore_eos, has_temperature, has_top_p, has_seed, has_entropy, has_defer_rate, has_load_price, pin;
  float temperature, top_p, min_p, entropy, defer_rate, load_price;
  uint32_t defer_burst;
  uint32_t top_k;
  uint64_t seed;
  float presence_penalty, frequency_penalty, repetition_penalty;
  const weir_service_bias *bias;
  size_t n_bias;
  int32_t priority;
  const weir_service_setting *setting; /* cascade/cascade_set.h */
  size_t n_settings;
  const weir_service_span *span;
  size_t n_spans;
  const char *const *choice;
  size_t n_choices;
} weir_service_request;

/* An edge has bounds of its own; what it refuses with 429 before it asks the service counts as refused. */
typedef enum {
  WEIR_EDGE_SESSIONS, /* there are too many */
  WEIR_EDGE_SESSION,  /* this one has too many requests */
  WEIR_EDGE_KEPT,     /* all have: requests whose end nobody acknowledged */
  WEIR_EDGE_MEMORY,   /* of all replies and texts */
  WEIR_N_EDGE_FULL
} weir_edge_full;
void weir_service_count_refused(weir_service *, weir_edge_full);

/* One request that was taken. Readers look at it while it grows. */
typedef struct weir_reply weir_reply;

/* Takes a request (everything is copied): *out, to be given back by weir_reply_release; *ahead: requests that
 * wait before it. Otherwise *error says why not and nothing was taken: 400 what no moment will make right,
 * 404 another model, 429 full, 503 draining, or a tier is down that it cannot do without. The place is taken
 * before anything is tokenised; what only the tokens can tell (a context that is too long) comes as an End
 * with 400, before any token. */
weir_status weir_service_submit(weir_service *, const weir_service_request *, weir_reply **out,
                                int32_t *ahead, weir_service_error *error);

typedef enum {
  WEIR_CANCEL_CLIENT,   /* asked for */
  WEIR_CANCEL_GONE,     /* the client is gone */
  WEIR_CANCEL_SHUTDOWN, /* the server goes */
  WEIR_N_CANCELS
} weir_cancel_why;
/* Ends a request in whatever state it is: at once while it is not with the engine, else before the next step.
 * True when it had not ended. */
bool weir_reply_cancel(weir_reply *, weir_cancel_why);
/* The edge's last word; the reply is not cancelled by it. NULL is fine. */
void weir_reply_release(weir_reply *);

typedef enum {
  WEIR_REPLY_QUEUED,
  WEIR_REPLY_PROMPT, /* tokenised and with the engine */
  WEIR_REPLY_WRITING,
  WEIR_REPLY_ENDED
} weir_reply_state;

typedef struct weir_reply_end {
  weir_end end;
  const char *stop;                            /* the stop string that was met, "" when none was */
  weir_service_error error;                    /* code 0: none */
  int32_t cached_tokens;                       /* of the prompt, found in the prefix cache */
  weir_counts counts;                          /* of what the client gets */
  int64_t queued_ns, first_token_ns, total_ns; /* from the submission */
  uint64_t seed;
  const char *mode;
  float entropy;    /* the threshold that held; NaN: there was none, or it moved */
  float defer_rate; /* the rate that held; NaN: there was none */
} weir_reply_end;

/* The state first, then the tokens: with WEIR_REPLY_ENDED the tokens are all there are. */
weir_reply_state weir_reply_get_state(const weir_reply *);
int32_t weir_reply_n_prompt(const weir_reply *); /* 0: not known yet */
const weir_reply_log *weir_reply_tokens(const weir_reply *);
const weir_reply_end *weir_reply_get_end(const weir_reply *); /* of WEIR_REPLY_ENDED, else NULL */
/* Bytes held by requests: texts that wait for their preparation, replies that were not given back. */
int64_t weir_service_reply_bytes(const weir_service *);

/* A question to the tokenizer, answered by the preparing thread. */
typedef struct weir_call weir_call;
typedef struct weir_call_result {
  weir_service_error error; /* code 0: none */
  const int32_t *id;        /* of weir_service_tokenize: [n] */
  const weir_str *text;     /* [n] bytes of each */
  int32_t n;
  weir_str detokenized; /* of weir_service_detokenize */
} weir_call_result;
weir_status weir_service_tokenize(weir_service *, const weir_service_text *, weir_call **out,
                                  weir_service_error *error);
weir_status weir_service_detokenize(weir_service *, const uint32_t *ids, size_t n, weir_call **out,
                                    weir_service_error *error);
/* NULL: not yet. Borrowed until the call is given back. */
const weir_call_result *weir_call_get(const weir_call *);
void weir_call_release(weir_call *); /* NULL is fine; also before it was answered */

#endif
