/* SPDX-License-Identifier: Apache-2.0 */
/* One step through bytes that may or may not be UTF-8. */
#ifndef WEIR_MODEL_UTF8_H
#define WEIR_MODEL_UTF8_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
  WEIR_UTF8_CHAR,      /* a well-formed character */
  WEIR_UTF8_BROKEN,    /* a maximal subpart of an ill-formed sequence (Unicode 3.9): one U+FFFD */
  WEIR_UTF8_INCOMPLETE /* the bytes end inside what may still become a character */
} weir_utf8_kind;

/* Looks at p[0..n), n >= 1; *len (1 to 4) is how many bytes the unit takes. */
weir_utf8_kind weir_utf8_next(const char *p, size_t n, int32_t *len);

/* Whether p[0..n) is well-formed throughout. */
bool weir_utf8_valid(const char *p, size_t n);

/* The code point of a well-formed character of `len` bytes. */
uint32_t weir_utf8_code(const char *p, int32_t len);

#endif
