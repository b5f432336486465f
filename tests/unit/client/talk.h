/* SPDX-License-Identifier: Apache-2.0 */
/* A client and a fake engine on one thread, and what the client's callbacks were told. */
#ifndef CLIENT_TALK_H
#define CLIENT_TALK_H
#include "base/buf.h"
#include "fake_engine.h"

typedef struct heard { /* of one request */
  int64_t number;
  int starts, ends;
  uint32_t n_tokens, prompt_tokens;
  bool out_of_order; /* a token of another index than the next, or after the end */
  weir_buf text;
  char reason[16];
  weir_client_error error;
  weir_client_usage usage;
} heard;

typedef struct talk {
  weir_client *client;
  fake_engine *engine; /* NULL: there is none */
  int wakes;           /* times that the client's descriptor was readable */
} talk;

enum { TALK_POLL_MS = 100, TALK_MAX_MS = 20000 };

/* A client with short times: polls of 100 ms, calls of 2 s, lost after 4 s. */
weir_client_cfg talk_cfg(const char *url);
weir_client *talk_client(const weir_client_cfg *);
/* Runs both until done(ctx) or, as a failure, TALK_MAX_MS. */
void talk_until(talk *, bool (*done)(void *ctx), void *ctx, const char *what);
/* Runs both for so long. */
void talk_for(talk *, int ms);
bool talk_ended(void *heard_one);

weir_client_events heard_events(heard *);
void heard_submit(weir_client *, const weir_client_request *, heard *);
void heard_fini(heard *);
/* The request has all of its `n` tokens of the fake engine, once and in order, and this end. */
void heard_whole(const fake_engine *, const heard *, int index, uint32_t n, const char *reason);

#endif
