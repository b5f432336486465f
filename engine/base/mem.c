/* SPDX-License-Identifier: Apache-2.0 */
/* Checked allocation. Owns nothing; any thread. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

weir_status weir_calloc(size_t n, size_t size, const char *what, void **out, weir_err *e) {
  *out = NULL;
  void *p = calloc(n ? n : 1, size ? size : 1);
  if (!p) return weir_fail(e, WEIR_ENOMEM, "cannot allocate %zu x %zu bytes for %s", n, size, what);
  *out = p;
  return WEIR_OK;
}

weir_status weir_calloc_aligned(size_t n, size_t size, const char *what, void **out, weir_err *e) {
  enum { LINE = 64 };
  *out = NULL;
  size_t bytes;
  if (!weir_mul_size(n, size, &bytes) || !weir_add_size(bytes, LINE, &bytes))
    return weir_fail(e, WEIR_ENOMEM, "size of %s overflows: %zu x %zu bytes", what, n, size);
  bytes = bytes / LINE * LINE;
  if (bytes == 0) bytes = LINE;
  void *p = aligned_alloc(LINE, bytes);
  if (!p) return weir_fail(e, WEIR_ENOMEM, "cannot allocate %zu bytes for %s", bytes, what);
  memset(p, 0, bytes);
  *out = p;
  return WEIR_OK;
}
