/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP/1.1 client for streams: a connection each, or kept ones; a reader that can be made slow; a call
 * that can be dropped at any time, which closes its connection. No TLS. One thread, that of its event base.
 */
#ifndef WEIR_LOAD_HTTP_H
#define WEIR_LOAD_HTTP_H
#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "load/http_parse.h"

typedef struct weir_http weir_http;
typedef struct weir_http_call weir_http_call;

typedef struct weir_http_cfg {
  struct event_base *base; /* borrowed */
  const char *url;         /* "http://host:port/base/path": paths of calls are put behind it; copied */
  const char *key;         /* Authorization: Bearer; NULL: none; copied */
  bool keep_alive;
} weir_http_cfg;

/* Looks the host up (blocks). A name may have several addresses: each call begins with the one that answered
 * last and tries the others when nobody is there. */
weir_status weir_http_open(const weir_http_cfg *, weir_http **out, weir_err *e);
/* Calls must have ended or been dropped. NULL is fine. */
void weir_http_close(weir_http *);

typedef struct weir_http_ask {
  const char *path; /* "/v1/models" */
  const char *body; /* JSON, POST; NULL: GET. Copied */
  size_t body_len;
  int64_t read_bytes_s; /* a slow reader: so many bytes a second; 0: as fast as it goes */
} weir_http_ask;

typedef struct weir_http_events {
  weir_status (*on_head)(void *ctx, const weir_http_head *, weir_err *e);
  weir_status (*on_body)(void *ctx, const char *bytes, size_t n, weir_err *e);
  /* Exactly once, unless the call is dropped: WEIR_OK when the answer came whole (whatever its status), what
   * a callback returned, or what broke. The call is gone with it. */
  void (*on_end)(void *ctx, weir_status st, const weir_err *e);
  void *ctx;
} weir_http_events;

/* No event is made before it has returned. */
weir_status weir_http_start(weir_http *, const weir_http_ask *, const weir_http_events *,
                            weir_http_call **out, weir_err *e);
/* Closes the connection; no event follows. Not from within on_end. */
void weir_http_drop(weir_http_call *);

#endif
