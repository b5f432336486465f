/* SPDX-License-Identifier: Apache-2.0 */
/* Small safetensors files for tests. */
#ifndef WEIR_TEST_ST_WRITER_H
#define WEIR_TEST_ST_WRITER_H
#include <stddef.h>
#include <stdint.h>

/* The header as it is, with ' for ", and `n_data` bytes that count up from 0. Owned by the caller. */
uint8_t *st_file_raw(const char *header, size_t n_data, size_t *len);

typedef struct st_entry {
  const char *name, *dtype, *shape; /* "F32", "[2, 3]" */
  const void *data;                 /* NULL: bytes that count up */
  size_t bytes;
} st_entry;

/* Entries one behind the other, up to the first without a name. The data begins `pad` bytes behind a multiple
 * of 8. */
uint8_t *st_file(const st_entry *entry, size_t n, size_t pad, size_t *len);

#endif
