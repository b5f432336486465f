/* SPDX-License-Identifier: Apache-2.0 */
/* The client library: talks to an engine over nanomsg, in the way proto/PROTOCOL.md asks for. It sends
 * requests, polls for their tokens, resumes from where it was when a connection or the engine's answer is
 * lost, and hands every token over exactly once and in order. This header stands alone: it needs nothing else
 * of weir.
 *
 * One thread a client; no thread of its own. Either call weir_client_run in a loop, or put weir_client_fd
 * into an event loop of your own and call weir_client_run(c, 0) when it is readable. All callbacks are made
 * from weir_client_run (and from weir_client_close, which ends what is open). A callback may do anything with
 * the client but close it; weir_client_run does nothing in there. Up to 4096 requests at once. */
#ifndef WEIR_CLIENT_H
#define WEIR_CLIENT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weir_client weir_client;

/* `code` as in HTTP: 400 401 404 409 413 429 499 500 503 504; 0: no error. 503 also when the engine cannot be
 * reached, 499 when the client itself gave up. */
typedef struct weir_client_error {
  int code;
  uint32_t retry_after_ms; /* with 429 and 503; 0: not said */
  char param[64];          /* the field that is wrong, "" when none is */
  char message[448];
} weir_client_error;

typedef struct weir_client_cfg {
  const char *url;         /* "ipc:///run/weir.ipc", "tcp://127.0.0.1:5600"; copied */
  const char *token;       /* of authorisation; NULL: none; copied */
  int32_t call_timeout_ms; /* of Submit, Cancel, Stats ...; 0: 10000 */
  int32_t poll_ms;         /* how long a poll is parked on the server; 0: 5000 */
  int32_t resend_ms; /* an unanswered message is sent again; 0: 60000; more than twice poll_ms. Calls at the
                        latest after a third of call_timeout_ms; all at once on a new connection */
  int32_t lost_after_ms;  /* requests end with 503 when the engine has said nothing for so long; 0: 30000 */
  size_t max_reply_bytes; /* 0: 16 MiB */
} weir_client_cfg;

/* Sockets are made here; the connection comes later and is kept up. 0, or -1 and *e. */
int weir_client_open(const weir_client_cfg *, weir_client **out, weir_client_error *e);
/* Ends open requests (on_end with 499) and calls, tells the engine if that takes at most 50 ms (it finds out
 * by itself otherwise), frees. NULL is fine. */
void weir_client_close(weir_client *);

/* Readable when weir_client_run has something to do, timers included. */
int weir_client_fd(const weir_client *);
/* Does what there is to do; if there was nothing, waits for something at most timeout_ms (0: not at all, < 0:
 * for ever), but not when nothing is open. Returns how many requests and calls are still open. */
int weir_client_run(weir_client *, int timeout_ms);

/* ---- requests ---- */

typedef struct weir_client_message {
  const char *role, *text; /* role: "system", "user", "assistant"; UTF-8 */
} weir_client_message;
typedef struct weir_client_bias {
  uint32_t id;
  float add;
} weir_client_bias;

/* Another option of the cascade, by its name on the command line with _ for -: {"accept", "v3"}. */
typedef struct weir_client_setting {
  const char *name, *value;
} weir_client_setting;

/* Between `start` and `end` ("" or NULL: the end of the answer) in what is written another threshold of the
 * gate holds. */
typedef struct weir_client_span {
  float threshold;
  const char *start, *end;
} weir_client_span;

/* Zeroed: everything is the server's default. All pointers are borrowed for the call. */
typedef struct weir_client_request {
  const char *model;
  /* exactly one of the three */
  const char *prompt;
  const uint32_t *prompt_ids;
  size_t n_prompt_ids;
  const weir_client_message *chat;
  size_t n_chat;

  uint32_t max_tokens, min_tokens;
  const char *const *stop;
  size_t n_stop;
  const uint32_t *stop_ids;
  size_t n_stop_ids;
  bool ignore_eos, special, bare;

  bool has_temperature, has_top_p, has_seed;
  float temperature, top_p, min_p;
  uint32_t top_k;
  uint64_t seed;
  float presence_penalty, frequency_penalty, repetition_penalty;
  const weir_client_bias *bias;
  size_t n_bias;

  const char *mode; /* NULL: the server's */
  bool has_entropy, pin;
  float entropy; /* nats */
  bool has_defer_rate, has_load_price;
  float defer_rate, load_price; /* a share, instead of `entropy`; added to the threshold at most under load */
  uint32_t defer_burst;         /* 0: the server's */
  const weir_client_setting *setting; /* each name once */
  size_t n_settings;
  const weir_client_span *span;
  size_t n_spans;
  const char *const *choice; /* the answer is one of these; none: anything */
  size_t n_choices;

  int32_t priority;
  uint32_t deadline_ms, top_logprobs;
  bool receipts; /* tokens say which tier wrote them, why, and how sure it was */
  const char *user;
} weir_client_request;

typedef struct weir_client_top {
  uint32_t id;
  float logprob;
  const char *text;
  size_t len;
} weir_client_top;

/* Text is not NUL-terminated. Entropy, p_max, margin: NaN where the server gave none. */
typedef struct weir_client_token {
  uint32_t index, id;
  uint32_t tier; /* that wrote it; with `receipts` only, else 0 */
  const char *text;
  size_t len;
  float logprob, entropy, p_max, margin;
  const char *why;  /* "" without receipts */
  uint32_t wait_us; /* this and the next: 0 without receipts */
  bool wanted_up, has_tau;
  float tau; /* the gate's threshold when it judged; with receipts, where has_tau */
  const weir_client_top *top;
  size_t n_top;
} weir_client_token;

enum { WEIR_CLIENT_MAX_TIERS = 4 };

typedef struct weir_client_usage {
  uint32_t prompt_tokens, cached_tokens, completion_tokens, refused;
  uint32_t n_tiers;
  uint32_t tokens_by_tier[WEIR_CLIENT_MAX_TIERS];
  uint64_t steps_by_tier[WEIR_CLIENT_MAX_TIERS], fed_by_tier[WEIR_CLIENT_MAX_TIERS];
  uint64_t queued_us, first_token_us, total_us, seed;
  char mode[16];
  float entropy;      /* NaN: none */
  uint32_t wanted_up; /* of completion_tokens: a gate asked for a tier that was not there */
  /* Of a request with a rate or a price: decisions, those that deferred, the last threshold; and the rate
   * that held (where has_rate). */
  uint32_t budgeted, deferred;
  float tau, defer_rate;
  bool has_rate;
  uint32_t forced;   /* of completion_tokens: nothing else could follow, no tier was asked */
  uint32_t given_up; /* waits for the large tier that were too long */
  char routed[8];    /* mode route: "small", "large", "wanted"; else "" */
  float route_score; /* the share of unsure rows that it went by; NaN: none */
  /* By tier, n_tiers of each; 0 where the server tells no costs. Then the same tokens by the large tier
   * alone. */
  double flops[WEIR_CLIENT_MAX_TIERS], weight_bytes[WEIR_CLIENT_MAX_TIERS],
      kv_bytes_peak[WEIR_CLIENT_MAX_TIERS];
  double large_only_flops, large_only_weight_bytes;
} weir_client_usage;

typedef struct weir_client_end {
  const char *reason; /* "stop", "eos", "length", "error", "cancelled", "deadline" */
  const char *stop;   /* "" or the stop string that was met */
  weir_client_usage usage;
  weir_client_error error; /* code 0: none */
} weir_client_end;

typedef struct weir_client_events {
  /* The engine has tokenised the prompt and will write: from here on no error can come that a status line
   * should have told. May be NULL. */
  void (*on_start)(void *ctx, uint32_t prompt_tokens);
  void (*on_token)(void *ctx, const weir_client_token *); /* may be NULL */
  void (*on_end)(void *ctx, const weir_client_end *);     /* exactly once for each request that was taken */
  void *ctx;
} weir_client_events;

/* Queues a request and gives it a number, > 0. Nothing is sent before weir_client_run. -1 and *e when it is
 * wrong on its face (no prompt, longer than the server takes) or memory ran out; then there are no events. */
int64_t weir_client_submit(weir_client *, const weir_client_request *, const weir_client_events *,
                           weir_client_error *e);
/* on_end follows, "cancelled" or what it came to meanwhile. A number that is not open is ignored. */
void weir_client_cancel(weir_client *, int64_t request);
/* Tells no more events to its owner, and cancels: for owners that go away. */
void weir_client_abandon(weir_client *, int64_t request);

/* ---- calls: `done` is made exactly once, with e->code 0 and the answer, or the error ---- */

typedef struct weir_client_tier_health {
  const char *name; /* "small", "large" */
  bool up, comes_back;
  uint64_t for_ms;    /* up, or down, for so long */
  const char *reason; /* why it is down */
  uint64_t deaths;
} weir_client_tier_health;
typedef struct weir_client_health {
  bool live, ready;
  const char *reason;
  uint32_t running, waiting, queue_limit;
  const weir_client_tier_health *tier;
  size_t n_tiers; /* 0: the engine does not say */
} weir_client_health;

typedef struct weir_client_tier {
  const char *name, *model, *type, *device;
  uint64_t weight_bytes, kv_bytes_per_token;
  uint32_t kv_pages;
} weir_client_tier;
typedef struct weir_client_model {
  const char *id, *chat_format, *mode, *version;
  uint32_t context, vocab, max_tokens_default;
  const weir_client_tier *tier;
  size_t n_tiers;
  const char *const *modes;
  size_t n_modes;
  float entropy, entropy_min, entropy_max; /* NaN: none */
  float defer_rate; /* the server's own, with which no threshold can be asked for; NaN: none */
  uint64_t max_request_bytes;
} weir_client_model;

typedef struct weir_client_label {
  const char *name, *value;
} weir_client_label;
typedef struct weir_client_sample {
  const weir_client_label *label;
  size_t n_labels;
  double value;
  const double *le;      /* [n_buckets], the last is infinite */
  const uint64_t *count; /* [n_buckets], cumulative */
  size_t n_buckets;
  double sum;
  uint64_t n;
} weir_client_sample;
typedef struct weir_client_family {
  const char *name, *help;
  int type; /* 0 counter, 1 gauge, 2 histogram */
  const weir_client_sample *sample;
  size_t n_samples;
} weir_client_family;
typedef struct weir_client_stats {
  const char *model;
  weir_client_health health;
  const weir_client_family *family;
  size_t n_families;
} weir_client_stats;

typedef struct weir_client_ids {
  const uint32_t *id;
  const char *const *text; /* [n], with its length */
  const size_t *len;
  size_t n;
} weir_client_ids;

/* What is answered is borrowed for the callback. Returns 0, or -1 and *e without a callback. */
int weir_client_get_health(weir_client *,
                           void (*done)(void *ctx, const weir_client_health *, const weir_client_error *),
                           void *ctx, weir_client_error *e);
int weir_client_get_model(weir_client *,
                          void (*done)(void *ctx, const weir_client_model *, const weir_client_error *),
                          void *ctx, weir_client_error *e);
int weir_client_get_stats(weir_client *,
                          void (*done)(void *ctx, const weir_client_stats *, const weir_client_error *),
                          void *ctx, weir_client_error *e);
/* `chat` instead of text when n_chat > 0. */
int weir_client_tokenize(weir_client *, const char *text, size_t len, bool special, bool bare,
                         const weir_client_message *chat, size_t n_chat,
                         void (*done)(void *ctx, const weir_client_ids *, const weir_client_error *),
                         void *ctx, weir_client_error *e);
int weir_client_detokenize(weir_client *, const uint32_t *id, size_t n,
                           void (*done)(void *ctx, const char *text, size_t len, const weir_client_error *),
                           void *ctx, weir_client_error *e);

#ifdef __cplusplus
}
#endif
#endif
