/* SPDX-License-Identifier: Apache-2.0 */
/* A tiny HTTP server for tests of the load tester, in the same event loop: it speaks OpenAI's completions
 * well, or badly in the ways real servers do. */
#ifndef WEIR_TEST_FAKE_SERVER_H
#define WEIR_TEST_FAKE_SERVER_H
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
  FAKE_WELL,
  FAKE_NO_USAGE,
  FAKE_BYTE_BY_BYTE, /* each byte of the stream in a chunk of its own */
  FAKE_BAD_JSON,
  FAKE_EARLY_CLOSE, /* the connection ends after two pieces */
  FAKE_NO_DONE,     /* the body ends rightly, but without [DONE] and finish reason */
  FAKE_429,         /* with Retry-After: 2 */
  FAKE_500,
  FAKE_STREAM_ERROR,
  FAKE_NEVER, /* no answer */
  FAKE_WHOLE, /* one JSON answer instead of a stream */
  FAKE_GARBAGE,
  FAKE_WEIR /* receipts and weir's usage: tokens alternate between the tiers */
} fake_mode;

typedef struct fake_cfg {
  fake_mode mode;
  int tokens;      /* of an answer */
  int piece_bytes; /* of text in each; 0: 3 */
  int gap_ms;      /* between two */
  int stall_at;    /* the request of this number (from 1) stops the server for stall_ms; 0: none */
  int stall_ms;
  const char *answer; /* text of the only piece, instead of made-up ones */
  bool one_each; /* a connection's second request is not answered: the connection ends, as an idle one may */
} fake_cfg;

typedef struct fake_server fake_server;
fake_server *fake_server_start(struct event_base *, const fake_cfg *);
void fake_server_stop(fake_server *);
const char *fake_server_url(const fake_server *);
int fake_server_requests(const fake_server *);
int fake_server_left(const fake_server *);        /* connections that ended before their answer did */
int fake_server_connections(const fake_server *); /* accepted so far */
const char *fake_server_last_body(const fake_server *);

#endif
