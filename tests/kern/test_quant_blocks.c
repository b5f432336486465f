/* SPDX-License-Identifier: Apache-2.0 */
/* Stored blocks of every quantised type against what gguf-py makes of them, to the bit
 * (tests/vectors/make_block_goldens.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/quant.h"

enum { FILE_MAX = 1 << 20 };

typedef struct golden {
  uint8_t *file; /* owned */
  const uint8_t *blocks, *floats;
  uint32_t n_bytes, n_elems;
} golden;

static golden read_golden(const char *type) {
  golden g = {.file = malloc(FILE_MAX)};
  char path[128];
  snprintf(path, sizeof path, "tests/vectors/blocks/%s.wblk", type);
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("%s: cannot be opened", path);
  assert_non_null(g.file);
  const size_t n = fread(g.file, 1, FILE_MAX, f);
  fclose(f);
  uint32_t version;
  assert_true(n > 16 && memcmp(g.file, "WBLK", 4) == 0);
  memcpy(&version, g.file + 4, 4);
  memcpy(&g.n_bytes, g.file + 8, 4);
  memcpy(&g.n_elems, g.file + 12, 4);
  assert_int_equal(version, 1);
  assert_int_equal(n, 16 + (size_t)g.n_bytes + 4 * (size_t)g.n_elems);
  g.blocks = g.file + 16;
  g.floats = g.blocks + g.n_bytes;
  return g;
}

static void blocks_mean_what_the_format_says(void **state) {
  (void)state;
  int types = 0;
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    if (!weir_dtype_is_quant((weir_dtype)t)) continue;
    golden g = read_golden(weir_dtype_get((weir_dtype)t)->name);
    weir_err e = {0};
    size_t bytes;
    kern_ok(weir_dtype_row_bytes((weir_dtype)t, g.n_elems, &bytes, &e), &e, "row bytes");
    assert_int_equal(bytes, g.n_bytes);
    float *got = malloc(4 * (size_t)g.n_elems);
    assert_non_null(got);
    kern_ok(weir_dequantize_row((weir_dtype)t, g.blocks, got, g.n_elems, &e), &e, "dequantize");
    kern_same(got, g.floats, 4 * (size_t)g.n_elems, weir_dtype_get((weir_dtype)t)->name);
    free(got);
    free(g.file);
    types++;
  }
  assert_int_equal(types, 6);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_mean_what_the_format_says),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
