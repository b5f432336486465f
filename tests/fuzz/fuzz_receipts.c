/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a file of receipts, line by line. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "programs/replay_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_replay_reader *r;
  weir_replay_report report;
  weir_err e;
  if (weir_replay_reader_create(&r, &e) != WEIR_OK) return 0;
  const char *p = (const char *)data, *end = p + size;
  while (p < end) {
    const char *stop = memchr(p, '\n', (size_t)(end - p));
    if (!stop) stop = end;
    if (stop > p && weir_replay_reader_line(r, p, (size_t)(stop - p), &e) != WEIR_OK) break;
    p = stop + 1;
  }
  weir_replay_reader_end(r, &report, &e);
  weir_replay_reader_destroy(r);
  return 0;
}
