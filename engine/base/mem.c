/* SPDX-License-Identifier: Apache-2.0 */
/* Checked allocation. Owns nothing; any thread. */
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
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

/* "NAME:   123 kB" at the start of a line, in bytes; -1: not there, or nonsense. */
static int64_t line_of(const char *text, const char *name) {
  const size_t n = strlen(name);
  while (text) {
    int64_t kb = -1;
    if (strncmp(text, name, n) == 0 && text[n] == ':')
      return sscanf(text + n + 1, "%18" SCNd64 " kB", &kb) == 1 && kb >= 0 && kb < INT64_MAX / 4096
                 ? kb * 1024
                 : -1;
    text = strchr(text, '\n');
    if (text) text++;
  }
  return -1;
}

int64_t weir_memory_available_in(const char *meminfo) {
  const int64_t available = line_of(meminfo, "MemAvailable"), swap = line_of(meminfo, "SwapFree");
  return available < 0 || swap < 0 ? available : available + swap;
}

int64_t weir_memory_available(void) {
  char text[8192];
  FILE *f = fopen("/proc/meminfo", "re");
  if (!f) return -1;
  const size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = 0;
  return weir_memory_available_in(text);
}
