/* SPDX-License-Identifier: Apache-2.0 */
/* Requests in OpenAI's form, with vLLM's extras and the "weir" object, as the client library takes them. All
 * that is read is checked here for type and range; a field that asks for what weir does not do is refused by
 * name, one that nobody knows is left alone. Pure; any thread. */
#ifndef WEIR_NET_OPENAI_H
#define WEIR_NET_OPENAI_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "client/client.h"

typedef enum { WEIR_OPENAI_COMPLETION, WEIR_OPENAI_CHAT } weir_openai_kind;

/* An error as it is answered. */
typedef struct weir_openai_error {
  int code;        /* of HTTP; 0: none */
  const char *why; /* OpenAI's `code`: "model_not_found"; NULL: null */
  uint32_t retry_after_ms;
  char param[64]; /* "": null */
  char message[512];
} weir_openai_error;

/* Sets everything; returns -1. */
int weir_openai_fail(weir_openai_error *, int code, const char *why, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* {"error": {...}}; the message may hold anything. */
weir_status weir_openai_error_body(const weir_openai_error *, weir_buf *out, weir_err *e);

typedef struct weir_openai_prompt {
  const char *text; /* NULL: ids */
  const uint32_t *ids;
  size_t n_ids;
} weir_openai_prompt;

enum {
  WEIR_OPENAI_MAX_STOPS = 16,
  WEIR_OPENAI_MAX_STOP_IDS = 64,
  WEIR_OPENAI_MAX_BIAS = 1024,
  WEIR_OPENAI_MAX_MESSAGES = 4096,
  WEIR_OPENAI_MAX_TOP = 20
};

typedef struct weir_openai_limits {
  int32_t max_n;       /* answers to one prompt */
  int32_t max_prompts; /* in one request */
  int32_t max_answers; /* n times prompts */
} weir_openai_limits;

typedef struct weir_openai_request {
  weir_openai_kind kind;
  json_t *root; /* owned; most strings point into it */
  void **owned; /* what else is */
  size_t n_owned;
  weir_openai_prompt *prompt; /* [n_prompts]; chat has one that is empty */
  size_t n_prompts;
  int32_t n;
  bool stream, include_usage;
  bool logprobs;           /* asked for; ask.top_logprobs says how many beside the token's own */
  weir_client_request ask; /* all but prompt, prompt_ids, and the seed of the second answer on */
  const char *stop[WEIR_OPENAI_MAX_STOPS];
  uint32_t stop_id[WEIR_OPENAI_MAX_STOP_IDS];
  weir_client_bias *bias;
  weir_client_setting *setting;
  weir_client_span *span;
  const char **choice;
  weir_client_message *message;
} weir_openai_request;

/* 0, or -1 and *e. After a failure there is nothing to free. */
int weir_openai_parse(weir_openai_kind, const char *body, size_t len, const weir_openai_limits *,
                      weir_openai_request *out, weir_openai_error *e);
void weir_openai_request_fini(weir_openai_request *);
/* What is asked of the engine for answer `i` to prompt `p`: its seed is the request's plus i, so that n
 * answers differ and each can be had again alone. */
weir_client_request weir_openai_ask(const weir_openai_request *, size_t p, int32_t i);

/* /tokenize and /detokenize */
typedef struct weir_openai_tokenize {
  json_t *root;
  void **owned;
  size_t n_owned;
  const char *model, *text; /* text NULL: messages */
  bool bare;
  weir_client_message *message;
  size_t n_messages;
  uint32_t *ids;
  size_t n_ids;
} weir_openai_tokenize;
int weir_openai_parse_tokenize(const char *body, size_t len, weir_openai_tokenize *out, weir_openai_error *e);
int weir_openai_parse_detokenize(const char *body, size_t len, weir_openai_tokenize *out,
                                 weir_openai_error *e);
void weir_openai_tokenize_fini(weir_openai_tokenize *);

#endif
