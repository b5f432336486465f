/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a gate file. What is accepted is sound, and printed and read again it is the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "programs/gate_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_gate_file: %s\n", what);
  abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_gate_file f, again;
  weir_buf b = {0};
  weir_err e = {0};
  if (weir_gate_file_parse((weir_str){(const char *)data, size}, &f, &e) != WEIR_OK) {
    require(e.msg[0] != '\0' && !f.head.weight, "refused without a word, or half");
    return 0;
  }
  const bool head = f.kind == WEIR_GATE_HEAD;
  require(head || f.kind == WEIR_GATE_ISOTONIC, "another gate");
  require(!(head ? weir_gate_head_error(&f.head) : weir_gate_map_error(&f.map)), "an unsound gate");
  require(weir_gate_file_print(&f, &b, &e) == WEIR_OK, e.msg);
  require(weir_gate_file_parse((weir_str){b.data, b.len}, &again, &e) == WEIR_OK, e.msg);
  require(memcmp(&again.map, &f.map, sizeof f.map) == 0 && again.head.dim == f.head.dim,
          "not the same again");
  require(again.small.fingerprint == f.small.fingerprint, "another fingerprint");
  for (int32_t i = 0; head && i < f.head.dim; i++)
    require(again.head.weight[i] == f.head.weight[i], "another weight");
  weir_buf_fini(&b);
  weir_gate_file_fini(&again);
  weir_gate_file_fini(&f);
  return 0;
}
