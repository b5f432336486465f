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

typedef struct weir_service weir_service;

/* Everything is borrowed for the service's life but the strings, which are copied. */
typedef struct weir_service_cfg {
  weir_engine_cfg engine;
  weir_tokenizer *prepare_tokenizer; /* a second one: the engine's belongs to the loop thread */
  const weir_chat_format *chat;      /* NULL: the models have no template */
  weir_metrics *metrics;
  const char *model;              /* its name to clients */
  weir_cascade_opts cascade;      /* what a request gets that asks for nothing */
  uint32_t modes;                 /* bit set of 1 << weir_mode that requests may ask for */
  float entropy_min, entropy_max; /* thresholds that requests may ask for */
  weir_ask draw;                  /* likewise: temperature, top_k, top_p, min_p */
  int32_t max_tokens_default, max_tokens_limit;
  int32_t max_requests; /* taken and not ended, at once: one more is refused with 429 */
  int64_t stall_ns;     /* a step loop with work that has not turned for so long is not live */
} weir_service_cfg;

/* Starts the threads; the service is ready when it returns. */
weir_status weir_service_create(const weir_service_cfg *, weir_service **out, weir_err *e);
/* Takes no new requests from here on; those taken go on. */
void weir_service_drain(weir_service *);
/* Requests taken and not ended. */
int32_t weir_service_open_requests(const weir_service *);
/* Cancels what is left, joins the threads. NULL is fine. */
void weir_service_destroy(weir_service *);

typedef struct weir_service_health {
  bool live, ready;
  char reason[128]; /* "" when both hold */
  int32_t running, waiting, limit;
} weir_service_health;
weir_service_health weir_service_get_health(weir_service *);

/* Numbers of a moment, for a status line; any thread. */
weir_engine_stats weir_service_get_stats(weir_service *);

#endif
