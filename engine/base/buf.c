/* SPDX-License-Identifier: Apache-2.0 */
/* Growable byte buffer. Owned by one thread at a time. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void weir_buf_fini(weir_buf *b) {
  free(b->data);
  *b = (weir_buf){0};
}

weir_status weir_buf_reserve(weir_buf *b, size_t extra, weir_err *e) {
  size_t need;
  if (!weir_add_size(b->len, extra, &need) || !weir_add_size(need, 1, &need))
    return weir_fail(e, WEIR_ENOMEM, "buffer size overflows");
  if (need <= b->cap && b->data) return WEIR_OK;
  size_t cap = b->cap < 64 ? 64 : b->cap + b->cap / 2;
  if (cap < need) cap = need;
  char *p = realloc(b->data, cap);
  if (!p) return weir_fail(e, WEIR_ENOMEM, "cannot grow a buffer to %zu bytes", cap);
  b->data = p;
  b->cap = cap;
  b->data[b->len] = '\0';
  return WEIR_OK;
}

weir_status weir_buf_put(weir_buf *b, const void *bytes, size_t n, weir_err *e) {
  weir_status st = weir_buf_reserve(b, n, e);
  if (st != WEIR_OK) return st;
  if (n) memcpy(b->data + b->len, bytes, n);
  b->len += n;
  b->data[b->len] = '\0';
  return WEIR_OK;
}

weir_status weir_buf_puts(weir_buf *b, const char *s, weir_err *e) {
  return weir_buf_put(b, s, strlen(s), e);
}

weir_status weir_buf_printf(weir_buf *b, weir_err *e, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  const int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  if (n < 0) return weir_fail(e, WEIR_EINVAL, "cannot format \"%s\"", fmt);
  weir_status st = weir_buf_reserve(b, (size_t)n, e);
  if (st != WEIR_OK) return st;
  va_start(ap, fmt);
  vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
  va_end(ap);
  b->len += (size_t)n;
  return WEIR_OK;
}

void weir_buf_truncate(weir_buf *b, size_t len) {
  if (len >= b->len) return;
  b->len = len;
  b->data[len] = '\0';
}
