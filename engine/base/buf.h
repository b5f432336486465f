/* SPDX-License-Identifier: Apache-2.0 */
/* A growable byte buffer. Always NUL-terminated once something was put in, so `data` is a C string
 * when the content has no NUL of its own. */
#ifndef WEIR_BASE_BUF_H
#define WEIR_BASE_BUF_H
#include <stddef.h>

#include "base/err.h"

typedef struct weir_buf {
  char *data; /* owned; NULL while empty and never grown */
  size_t len, cap;
} weir_buf;

/* A zeroed weir_buf is a valid empty one. */
void weir_buf_fini(weir_buf *b);
weir_status weir_buf_reserve(weir_buf *b, size_t extra, weir_err *e);
weir_status weir_buf_put(weir_buf *b, const void *bytes, size_t n, weir_err *e);
weir_status weir_buf_puts(weir_buf *b, const char *s, weir_err *e);
weir_status weir_buf_printf(weir_buf *b, weir_err *e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void weir_buf_truncate(weir_buf *b, size_t len); /* len <= b->len */

#endif
