/* SPDX-License-Identifier: Apache-2.0 */
/* Server-sent events, read as they come (WHATWG HTML, "9.2 Server-sent events"): bytes may be cut anywhere.
 */
#ifndef WEIR_LOAD_SSE_H
#define WEIR_LOAD_SSE_H
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

enum { WEIR_SSE_MAX_EVENT_BYTES = 16 << 20 };

typedef struct weir_sse {
  weir_buf line, data; /* owned */
  bool after_cr, any_data, begun;
  size_t max_bytes; /* of an event; 0: WEIR_SSE_MAX_EVENT_BYTES */
} weir_sse;         /* zeroed: ready */

/* The data of one event, lines joined by line feeds, NUL-terminated. Anything but WEIR_OK ends the feeding
 * and is what weir_sse_feed returns. */
typedef weir_status (*weir_sse_event)(void *ctx, const char *data, size_t len, weir_err *e);

void weir_sse_fini(weir_sse *);
/* WEIR_EFORMAT when an event is longer than allowed. */
weir_status weir_sse_feed(weir_sse *, const char *bytes, size_t n, weir_sse_event event, void *ctx,
                          weir_err *e);
/* Whether an event has begun that no empty line has ended: by the standard it is thrown away. */
bool weir_sse_unfinished(const weir_sse *);

#endif
