/* SPDX-License-Identifier: Apache-2.0 */
/* The strings of tests/vectors/tokenizer/hf, the hash that their expectations are kept as, and the archive of
 * published vocabularies in ../shared. Failures are cmocka's. */
#ifndef WEIR_TESTS_VECTOR_STRINGS_H
#define WEIR_TESTS_VECTOR_STRINGS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "model/str.h"

#define VECTORS "tests/vectors/tokenizer/"

typedef struct vector_strings {
  weir_str *s; /* [n] */
  int32_t n;
  weir_buf bytes;
} vector_strings;

/* A file of one string a line, \xNN for bytes that would not show. */
void vector_strings_read(const char *path, vector_strings *);
void vector_strings_fini(vector_strings *);

/* A whole file; the caller frees the buffer. */
void vector_file_read(const char *path, weir_buf *out);
/* Word i of a file of little-endian uint32. */
uint32_t vector_word(const weir_buf *, size_t i);

/* FNV-1a, 32 bits. */
uint32_t vector_hash(const void *bytes, size_t n);
uint32_t vector_hash_ids(const int32_t *id, int32_t n); /* over the ids as little-endian int32 */

/* Unpacks ../shared/data/tokenizers/vectors.tar.xz into a folder of its own: its path, or NULL where the
 * archive is absent. vector_archive_remove takes it away again. */
const char *vector_archive(void);
void vector_archive_remove(void);

#endif
