/* SPDX-License-Identifier: Apache-2.0 */
/* What the gateway's files know of each other. */
#ifndef WEIR_NET_GATEWAY_IN_H
#define WEIR_NET_GATEWAY_IN_H
#include <event2/event.h>
#include <stdbool.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "client/client.h"
#include "net/gateway.h"
#include "net/http_server.h"
#include "net/openai.h"

enum { WEIR_GW_MAX_ENGINES = 64, WEIR_GW_KEY_BYTES = 256, WEIR_GW_MAX_KEYS = 256 };

/* What an engine said of its model, kept. */
typedef struct weir_gw_model {
  bool known;
  int64_t told_ns;
  char id[256], tier[WEIR_CLIENT_MAX_TIERS][32];
  uint32_t context;
  weir_buf weir; /* the "weir" object of /v1/models */
} weir_gw_model;

typedef struct weir_gw_engine {
  weir_gw *gw;
  char *url;
  uint64_t seed;
  weir_client *client;
  struct event *ev;
  bool live, ready, asked_health, asked_model;
  char reason[160];
  uint32_t running, waiting, queue_limit;
  struct weir_gw_tier {
    char name[32], reason[192];
    bool up, comes_back;
    uint64_t for_ms, deaths;
  } tier[WEIR_CLIENT_MAX_TIERS]; /* [n_tiers] as told at heard_ns */
  size_t n_tiers;
  int64_t heard_ns; /* the last answer about its health */
  int32_t open;     /* requests it has from here */
  weir_gw_model model;
  weir_metric *up;
} weir_gw_engine;

typedef struct weir_gw_job weir_gw_job;

/* What the access log tells of a request beside what HTTP knows; the owner of its record. */
typedef struct weir_gw_note {
  char id[40], model[256];
  const char *engine; /* NULL: none */
  const char *state;  /* in which it was when its client went */
  uint64_t prompt_tokens, completion_tokens;
} weir_gw_note;

typedef struct weir_gw_metrics weir_gw_metrics;

/* Tokens written when /stats looked. */
typedef struct weir_gw_look {
  int64_t ns; /* 0: it has not */
  double tokens[2];
} weir_gw_look;

struct weir_gw {
  weir_gw_cfg cfg;
  struct event_base *base;
  weir_http_server *http;
  weir_gw_engine engine[WEIR_GW_MAX_ENGINES];
  int32_t n_engines;
  struct {
    char text[WEIR_GW_KEY_BYTES];
    size_t len;
  } key[WEIR_GW_MAX_KEYS];
  int32_t n_keys;
  char *cors;
  char **host; /* [n_hosts] */
  int32_t n_hosts;
  char listen[256]; /* the name that was listened on */
  bool check_host;  /* without keys, on this machine: pages of others must not come by a name of theirs */
  struct event *tick, *drain;
  int64_t drain_until_ns;
  bool draining, was_cut;
  weir_gw_job *jobs;
  int32_t n_pending; /* calls whose answers are to come */
  weir_gw_metrics *metrics;
  weir_gw_look look[2]; /* the older first, some seconds apart */
  weir_clock clock;
};

/* ---- gateway_engines.c ---- */
weir_status weir_gw_engines_open(weir_gw *, weir_err *e);
void weir_gw_engines_close(weir_gw *);
void weir_gw_engines_ask(weir_gw *); /* for their health, and models */
/* The engine's client is run soon: something was queued. */
void weir_gw_engine_wake(weir_gw_engine *);
/* An engine for a request of that model (NULL, "": any) and key; `but`: not this one, -1: any. NULL and *e
 * when there is none. */
weir_gw_engine *weir_gw_engine_for(weir_gw *, const char *model, uint64_t key, int32_t but,
                                   weir_openai_error *e);

/* ---- gateway_answer.c: /v1/completions, /v1/chat/completions ---- */
void weir_gw_complete(weir_gw *, weir_http_request *, weir_openai_kind);
void weir_gw_jobs_cancel(weir_gw *);
/* Each is told that it is ended. */
void weir_gw_jobs_fail(weir_gw *);

/* ---- gateway_calls.c: models, tokens, health ---- */
void weir_gw_models(weir_gw *, weir_http_request *, const char *id); /* id NULL: all */
void weir_gw_tokenize(weir_gw *, weir_http_request *);
void weir_gw_detokenize(weir_gw *, weir_http_request *);
void weir_gw_health(weir_gw *, weir_http_request *, bool ready);
/* `"tiers":[...]` as an engine told last. */
weir_status weir_gw_put_tiers(weir_buf *, const weir_gw_engine *, weir_err *e);

/* ---- gateway_gather.c: /metrics, /stats ---- */
void weir_gw_gather(weir_gw *, weir_http_request *, bool stats);

/* ---- gateway_metrics.c ---- */
weir_status weir_gw_metrics_create(weir_gw *, weir_gw_metrics **out, weir_err *e);
void weir_gw_metrics_destroy(weir_gw_metrics *);
void weir_gw_metrics_begin(weir_gw_metrics *); /* a request is under way */
void weir_gw_metrics_record(weir_gw_metrics *, const weir_http_record *, const char *gone_state);
void weir_gw_metrics_retry(weir_gw_metrics *);
/* Of this process, in Prometheus' text form. */
weir_status weir_gw_metrics_put(weir_gw *, weir_buf *, weir_err *e);

/* ---- gateway_reply.c ---- */
void weir_gw_reply_json(weir_http_request *, int code, const weir_buf *);
void weir_gw_reply_error(weir_http_request *, const weir_openai_error *);
void weir_gw_reply_fail(weir_http_request *, int code, const char *why, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The client library's error as OpenAI's; fields by the names that the client knows. The request may be NULL.
 */
weir_openai_error weir_gw_error_of(const weir_client_error *, const weir_openai_request *);
weir_gw_note *weir_gw_note_of(weir_http_request *); /* NULL: no memory */

/* ---- gateway_access.c: who may ---- */
weir_status weir_gw_access_take(weir_gw *, const weir_gw_cfg *, weir_err *e);
void weir_gw_access_fini(weir_gw *);
/* What a request shows, both NULL when it does not, opens the gateway. */
bool weir_gw_key_opens(const weir_gw *, const char *authorization, const char *x_api_key);
/* Whether a request for that host is for this gateway; NULL: it did not say. */
bool weir_gw_host_is_ours(const weir_gw *, const char *host);
/* The headers that a page may send are those that it asks for, when it asks for names of headers. */
bool weir_gw_are_header_names(const char *list);

/* ---- gateway_page.c ---- */
void weir_gw_page(weir_http_request *);

#endif
