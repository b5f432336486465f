/* SPDX-License-Identifier: Apache-2.0 */
/* A file as read-only memory. */
#ifndef WEIR_MODEL_FILEMAP_H
#define WEIR_MODEL_FILEMAP_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct weir_filemap {
  const uint8_t *data; /* NULL: nothing mapped */
  size_t len;
} weir_filemap;

/* Regular files only, of 1..max_bytes. Errors begin with the path; a file that is not there is WEIR_EIO. */
weir_status weir_filemap_open(const char *path, size_t max_bytes, weir_filemap *out, weir_err *e);
void weir_filemap_close(weir_filemap *); /* a zeroed one is fine */

#endif
