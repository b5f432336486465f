/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a safetensors file. Either every tensor lies in the file, one behind the other
 * and to its end, or one line says why not. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_safetensors: %s\n", what);
  abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_err e = {0};
  weir_safetensors *s = NULL;
  volatile uint8_t sum = 0;
  const weir_status st = weir_safetensors_parse(data, size, &s, &e);
  if (st != WEIR_OK) {
    require(!s && e.code == st && e.msg[0], "a failure without a message");
    for (const char *p = e.msg; *p; p++)
      require((unsigned char)*p >= 0x20, "a control character in a message");
    return 0;
  }
  const uint8_t *at = NULL;
  for (int32_t i = 0; i < weir_safetensors_n(s); i++) {
    const weir_st_tensor *t = weir_safetensors_at(s, i);
    require(t->data >= data && t->bytes <= size - (size_t)(t->data - data), "a tensor outside the file");
    require(!at || t->data == at, "a hole or an overlap");
    require(weir_safetensors_find(s, t->name) == t, "a tensor that is not found by its name");
    require(t->n_dims >= 0 && t->n_dims <= WEIR_ST_MAX_DIMS, "too many dimensions");
    if (t->bytes) sum = (uint8_t)(sum + t->data[0] + t->data[t->bytes - 1]);
    at = t->data + t->bytes;
  }
  require(!at || at == data + size, "bytes behind the last tensor");
  weir_safetensors_close(s);
  return 0;
}
