/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP server on evhttp that can be left in the open: requests come through http_guard, connections are
 * bounded in number, head, body, silence and time, a client that hangs up is noticed while its answer is
 * being made, and one that does not read is cut. Everything runs on the thread of the event base; no callback
 * of the owner is made from inside one of these calls, but from the event loop.
 *
 * A client that closes its half of the connection is taken for gone: its request is cancelled. */
#ifndef WEIR_NET_HTTP_SERVER_H
#define WEIR_NET_HTTP_SERVER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "net/http_guard.h"

struct event_base;
typedef struct weir_http_server weir_http_server;
typedef struct weir_http_request weir_http_request;

/* What is told of a request when it is over. Strings are borrowed for the call. */
typedef struct weir_http_record {
  const char *method, *path, *peer; /* method "" when the request was refused unread, path too if unknown */
  int code;                         /* of the status line; 499: gone before there was one */
  bool gone;                        /* the client went, or was cut, before all was sent */
  size_t bytes_in, bytes_out;       /* bodies */
  int64_t ns;                       /* from the whole request to its end */
  void *owner;                      /* what weir_http_request_set_owner was given */
} weir_http_record;

/* A head that is whole, before any of its body was read. Borrowed for the call. */
typedef struct weir_http_head {
  const char *method, *path; /* as of a request */
  bool has_body;             /* one is to come */
  bool full; /* it came on a connection beyond max_connections: only what must be answered may pass */
  const weir_http_guard *guard;
} weir_http_head;

/* What a request is refused with at its head. Strings are static. */
typedef struct weir_http_refusal {
  int code;                      /* 0: it is let through */
  const char *message, *headers; /* headers: whole lines, or NULL */
} weir_http_refusal;

typedef struct weir_http_server_cfg {
  weir_http_limits limits;
  int32_t max_connections;
  int32_t head_ms;   /* from the first byte of a request to the end of its head */
  int32_t body_ms;   /* from there to the end of the body */
  int32_t idle_ms;   /* a connection without a request */
  int32_t stall_ms;  /* an answer of which the client reads nothing */
  size_t max_unsent; /* bytes of an answer that wait for the client; more: it is cut */
  /* Asked once for each request when its head is whole; NULL: all pass but on connections beyond the bound.
   */
  weir_http_refusal (*on_head)(void *ctx, const weir_http_head *);
  void (*on_request)(void *ctx, weir_http_request *);
  void (*on_record)(void *ctx, const weir_http_record *); /* exactly once for each request; may be NULL */
  void *ctx;
} weir_http_server_cfg;

weir_status weir_http_server_create(struct event_base *, const weir_http_server_cfg *, weir_http_server **out,
                                    weir_err *e);
/* "127.0.0.1:8000", "[::1]:0", "localhost:8000". With port 0 the system chooses. May be called again. */
weir_status weir_http_server_listen(weir_http_server *, const char *address, weir_err *e);
uint16_t weir_http_server_port(const weir_http_server *); /* of the first address; 0: none */
/* Connections that are answered, or are about to be: none left, nothing is lost by ending. While the server
 * drains, one that has begun a request gets a second to finish it. */
int32_t weir_http_server_busy(const weir_http_server *);
/* Whether the address, in the same form, is reached from this machine alone. */
weir_status weir_http_is_loopback(const char *address, bool *out, weir_err *e);
/* Takes no new connections, closes idle ones, and each other one after its answer. */
void weir_http_server_drain(weir_http_server *);
int32_t weir_http_server_connections(const weir_http_server *);
/* Requests under way are cut; their on_gone is called. NULL is fine. */
void weir_http_server_destroy(weir_http_server *);

/* ---- a request: valid until its answer was ended, or on_gone was called ---- */
const char *weir_http_method(const weir_http_request *);
const char *weir_http_path(const weir_http_request *); /* percent-encoded as it came, without the query */
const char *weir_http_header(const weir_http_request *, const char *name); /* NULL: not there */
const char *weir_http_body(const weir_http_request *, size_t *len);
const char *weir_http_peer(const weir_http_request *);
/* The client hung up, or was cut, before the answer was ended. The request is no longer valid then. */
void weir_http_request_set_gone(weir_http_request *, void (*fn)(void *ctx), void *ctx);
/* For the record: lives until on_record has been called, whose business it is to free. */
void weir_http_request_set_owner(weir_http_request *, void *owner);

void weir_http_set_header(weir_http_request *, const char *name, const char *value);
/* The whole answer; ends the request. HEAD gets the headers of GET. */
void weir_http_reply(weir_http_request *, int code, const char *type, const char *body, size_t len);
/* An answer in pieces. */
void weir_http_stream_begin(weir_http_request *, int code, const char *type);
void weir_http_stream_write(weir_http_request *, const char *bytes, size_t n);
void weir_http_stream_end(weir_http_request *);
const char *weir_http_reason(int code);

#endif
