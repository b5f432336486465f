/* SPDX-License-Identifier: Apache-2.0 */
/* Memory whose size is checked before it is asked for. */
#ifndef WEIR_BASE_MEM_H
#define WEIR_BASE_MEM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* a*b and a+b; false (and *out untouched) on overflow of size_t. */
static inline bool weir_mul_size(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_mul_overflow(a, b, &r)) return false;
  *out = r;
  return true;
}
static inline bool weir_add_size(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_add_overflow(a, b, &r)) return false;
  *out = r;
  return true;
}

/* Zeroed array of n elements of `size` bytes; *out owned by the caller, release with free().
 * n == 0 gives a valid pointer. `what` names it in the error. */
weir_status weir_calloc(size_t n, size_t size, const char *what, void **out, weir_err *e);

/* Like weir_calloc but aligned to 64 bytes and rounded up to whole cache lines; release with free(). */
weir_status weir_calloc_aligned(size_t n, size_t size, const char *what, void **out, weir_err *e);

/* Bytes that this machine can give before it runs out: what Linux holds to be available, and free swap. Of a
 * container's own limit it knows nothing. -1: not known. */
int64_t weir_memory_available(void);
/* The same out of the text of /proc/meminfo. */
int64_t weir_memory_available_in(const char *meminfo);

/* Typed form: WEIR_NEW(n, &ptr, e) with `ptr` of any object pointer type; the name of the variable
 * stands in the error. */
#define WEIR_NEW(n, pptr, e) weir_calloc((n), sizeof **(pptr), #pptr, (void **)(pptr), (e))

#endif
