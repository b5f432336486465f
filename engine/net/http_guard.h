/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of HTTP/1.0 and 1.1 (RFC 9112), read strictly from raw bytes: what frames a message must be beyond
 * doubt, or it is refused. evhttp, which answers, takes a second Content-Length, a bare line feed and a
 * missing Host; so it is given nothing but what came through here, written anew: one head without any of the
 * framing of before, one Content-Length, the whole body. Pure: no socket, no clock; any thread. */
#ifndef WEIR_NET_HTTP_GUARD_H
#define WEIR_NET_HTTP_GUARD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

typedef struct weir_http_limits {
  size_t max_head_bytes; /* request line and headers; trailers likewise */
  size_t max_body_bytes;
  int32_t max_headers;
} weir_http_limits;

typedef enum {
  WEIR_HTTP_MORE,   /* all was taken, the request is not whole */
  WEIR_HTTP_HEAD,   /* with tell_head: the head is whole and a body is to come; told once */
  WEIR_HTTP_WHOLE,  /* head and body hold a request; what follows it was not looked at */
  WEIR_HTTP_REFUSED /* code and message say why; the connection is good for nothing more */
} weir_http_verdict;

typedef struct weir_http_guard {
  weir_http_limits limits;
  int state;
  bool tell_head; /* stays over a reset */
  bool began;     /* a byte of this request has come */
  bool
      wants_continue; /* the client waits for "100 Continue" before it sends the body; the caller clears it */
  int minor;          /* HTTP/1.minor */
  bool has_body, has_host, has_length, chunked, close;
  size_t head_bytes;
  int32_t n_headers;
  uint64_t left; /* bytes of the body, or of its chunk, still to come */
  weir_buf line, head, body;
  int code;            /* of a refusal, as in HTTP */
  const char *message; /* static */
} weir_http_guard;

void weir_http_guard_init(weir_http_guard *, const weir_http_limits *);
void weir_http_guard_fini(weir_http_guard *);
/* Ready for the next request of the connection. */
void weir_http_guard_reset(weir_http_guard *);
/* Takes *used of p[0, n). */
weir_http_verdict weir_http_guard_feed(weir_http_guard *, const char *p, size_t n, size_t *used);
/* Of a head that is whole, or is not yet (then ""): the method, the path without its query, and the value of
 * the first header of that name. What does not fit into `bytes` is cut. False: there is none. */
bool weir_http_guard_method(const weir_http_guard *, char *out, size_t bytes);
bool weir_http_guard_path(const weir_http_guard *, char *out, size_t bytes);
bool weir_http_guard_header(const weir_http_guard *, const char *name, char *out, size_t bytes);
/* Whether the head is whole and the body is still coming. */
bool weir_http_guard_in_body(const weir_http_guard *);

#endif
