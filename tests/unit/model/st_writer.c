/* SPDX-License-Identifier: Apache-2.0 */
/* Small safetensors files for tests; ends the program when memory does. */
#include "st_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

static void must(weir_status st) {
  if (st != WEIR_OK) abort();
}

static void put_header(weir_buf *b, const char *header, size_t n) {
  uint8_t length[8];
  for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)n >> 8 * i);
  must(weir_buf_put(b, length, sizeof length, NULL));
  must(weir_buf_put(b, header, n, NULL));
}

static void put_counting(weir_buf *b, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const uint8_t byte = (uint8_t)i;
    must(weir_buf_put(b, &byte, 1, NULL));
  }
}

uint8_t *st_file_raw(const char *header, size_t n_data, size_t *len) {
  weir_buf b = {0};
  const size_t n = strlen(header);
  put_header(&b, header, n);
  for (size_t i = 8; i < b.len; i++)
    if (b.data[i] == '\'') b.data[i] = '"';
  put_counting(&b, n_data);
  *len = b.len;
  return (uint8_t *)b.data;
}

uint8_t *st_file(const st_entry *entry, size_t n, size_t pad, size_t *len) {
  weir_buf header = {0}, b = {0};
  size_t at = 0;
  must(weir_buf_puts(&header, "{\"__metadata__\": {\"format\": \"pt\"}", NULL));
  for (size_t i = 0; i < n && entry[i].name; i++) {
    must(weir_buf_printf(&header, NULL,
                         ", \"%s\": {\"dtype\": \"%s\", \"shape\": %s, \"data_offsets\": [%zu, %zu]}",
                         entry[i].name, entry[i].dtype, entry[i].shape, at, at + entry[i].bytes));
    at += entry[i].bytes;
  }
  must(weir_buf_puts(&header, "}", NULL));
  while ((header.len - pad) % 8 != 0) must(weir_buf_puts(&header, " ", NULL));
  put_header(&b, header.data, header.len);
  for (size_t i = 0; i < n && entry[i].name; i++) {
    if (entry[i].data)
      must(weir_buf_put(&b, entry[i].data, entry[i].bytes, NULL));
    else
      put_counting(&b, entry[i].bytes);
  }
  weir_buf_fini(&header);
  *len = b.len;
  return (uint8_t *)b.data;
}
