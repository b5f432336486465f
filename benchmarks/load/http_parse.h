/* SPDX-License-Identifier: Apache-2.0 */
/* The answer of an HTTP/1.1 server, read as it comes (RFC 9112): status line, headers, and a body that is
 * chunked, of a told length, or ended by the connection's end. */
#ifndef WEIR_LOAD_HTTP_PARSE_H
#define WEIR_LOAD_HTTP_PARSE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { WEIR_HTTP_MAX_HEAD_BYTES = 64 << 10, WEIR_HTTP_MAX_LINE_BYTES = 16 << 10 };

typedef struct weir_http_head {
  int status;
  char type[96];          /* of the content, lower case, without parameters */
  double retry_after_s;   /* NaN: not told in seconds */
  int64_t content_length; /* -1: none */
  bool chunked, close;
} weir_http_head;

typedef struct weir_http_parser {
  int state;
  weir_http_head head;
  weir_buf line; /* owned */
  size_t head_bytes;
  int64_t left; /* of the body or the chunk */
} weir_http_parser;

typedef struct weir_http_sink {
  weir_status (*on_head)(void *ctx, const weir_http_head *, weir_err *e); /* once; not for 1xx */
  weir_status (*on_body)(void *ctx, const char *bytes, size_t n, weir_err *e);
  void *ctx;
} weir_http_sink;

void weir_http_parser_init(
    weir_http_parser *); /* for the first answer; for each later one on a connection: again */
void weir_http_parser_fini(weir_http_parser *);
/* Stops at the end of the answer: *used <= n. A failure of the sink is returned as it is. */
weir_status weir_http_feed(weir_http_parser *, const char *bytes, size_t n, size_t *used,
                           const weir_http_sink *, weir_err *e);
bool weir_http_done(const weir_http_parser *);
/* The connection has ended: WEIR_OK when that ends the answer rightly. */
weir_status weir_http_eof(weir_http_parser *, weir_err *e);

#endif
