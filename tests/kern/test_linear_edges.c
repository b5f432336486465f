/* SPDX-License-Identifier: Apache-2.0 */
/* The linear at the edges of its tiles: every instruction set of the machine, every type of weights, every
 * number of rows up to beyond two of the largest tiles, outputs around groups of 16, columns around blocks
 * and super-blocks, one thread and several: all to the bit what plain C gives (which test_linear.c checks
 * against doubles). Floats with AMX, which have their own order of sums, are left to the tests of those. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/quant.h"

enum {
  M_ALL = 33, /* twice the rows of the widest tile, and one: each number up to here ... */
  M_MAX = 57, /* ... and some around 48, from which AVX-512 goes another way */
  N_MAX = 49,
  COLS_MAX = 768,
  FEW = 5 /* rows of a tile that instruction sets cut differently */
};

static const int32_t n_edges[] = {1, 15, 16, 17, 31, 32, 33, 47, 48, N_MAX};
/* Of blocks of 32, which go in pairs and in strips of eight; of super-blocks; of floats, in units of 32. */
static const int32_t cols_blocks[] = {32, 64, 96, 224, 256, 288, 544, 0};
static const int32_t cols_supers[] = {256, 512, COLS_MAX, 0};
static const int32_t cols_floats[] = {1, 2, 31, 32, 33, 65, 0};

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static const int32_t *cols_of(weir_dtype t) {
  switch (weir_dtype_get(t)->block_elems) {
    case 1: return cols_floats;
    case 32: return cols_blocks;
    default: return cols_supers;
  }
}

static weir_host_mat stored_rows(kern_rng *r, weir_dtype t, int32_t rows, int32_t cols) {
  weir_err e = {0};
  size_t row_bytes;
  kern_ok(weir_dtype_row_bytes(t, cols, &row_bytes, &e), &e, "row bytes");
  uint8_t *data = malloc(row_bytes * (size_t)rows);
  assert_non_null(data);
  if (weir_dtype_is_quant(t)) {
    kern_blocks(r, t, row_bytes * (size_t)rows / (size_t)weir_dtype_get(t)->block_bytes, data);
  } else {
    float *w = kern_normals(r, (size_t)rows * (size_t)cols, 0.7f);
    for (int32_t i = 0; i < rows; i++)
      kern_ok(weir_quantize_row(t, w + (size_t)i * (size_t)cols, data + (size_t)i * row_bytes, cols, &e), &e,
              "convert");
    free(w);
  }
  return (weir_host_mat){data, t, rows, cols};
}

static float *linear(weir_dev *dev, const weir_weight *w, const float *x, int32_t m) {
  weir_err e = {0};
  const weir_mat dx = kern_mat(dev, m, w->cols, 1), dy = kern_mat(dev, m, w->rows, 2);
  kern_put(dev, dx, x);
  kern_ok(weir_op_linear(dev, dy, dx, w, NULL, &e), &e, "linear");
  float *y = kern_get(dev, dy);
  kern_mat_free(dev, dx);
  kern_mat_free(dev, dy);
  return y;
}

/* One shape on all devices; the first of them is plain C. Returns the comparisons made. */
static int32_t check(kern_devs *d, kern_rng *r, weir_dtype t, int32_t n, int32_t cols, bool every_m) {
  weir_err e = {0};
  const weir_host_mat stored = stored_rows(r, t, n, cols);
  float *x = kern_normals(r, (size_t)M_MAX * (size_t)cols, 1.5f), *want = NULL;
  const int32_t m_list[] = {1, FEW, 48, 49, 50, 55, 56, M_MAX};
  int32_t made = 0;
  for (int i = 0; i < d->n; i++) {
    const bool scalar = d->isa[i] == WEIR_ISA_SCALAR;
    if (!weir_dtype_is_quant(t) && d->isa[i] == WEIR_ISA_AMX) continue;
    weir_weight w;
    kern_ok(weir_weight_prepare(d->dev[i], &stored, 1, &w, &e), &e, "prepare");
    if (!want) {
      assert_true(scalar);
      want = linear(d->dev[i], &w, x, M_MAX);
    }
    const bool few = scalar || !every_m || d->threads[i] > 1;
    const int32_t n_m = COUNT(m_list) + (few ? 0 : M_ALL);
    for (int32_t k = 0; k < n_m; k++) {
      const int32_t m = k < COUNT(m_list) ? m_list[k] : k - COUNT(m_list) + 1;
      if (m > FEW && m < M_MAX && !every_m) continue;
      if (scalar && m > FEW) continue; /* the whole of it is what the others are compared with */
      float *y = linear(d->dev[i], &w, x, m);
      char what[160];
      snprintf(what, sizeof what, "%s m %d n %d cols %d: %s with %d threads against scalar",
               weir_dtype_get(t)->name, m, n, cols, weir_isa_name(d->isa[i]), d->threads[i]);
      kern_same(y, want, sizeof *y * (size_t)m * (size_t)n, what);
      free(y);
      made++;
    }
    weir_weight_release(&w);
  }
  free(want);
  free(x);
  free((void *)(uintptr_t)stored.data);
  return made;
}

/* Every n with every length of row, but every m only where one of them is in the middle of its list: the
 * edges of m do not know those of n. */
static void tile_edges_give_the_bits_of_plain_c(void **state) {
  const weir_dtype t = *(const weir_dtype *)*state;
  const weir_dev_limits limits = {.max_tokens = M_MAX, .max_cols = COLS_MAX};
  kern_devs d;
  kern_rng r = {31 + (uint64_t)t};
  int32_t made = 0;
  kern_devs_open(&d, &limits);
  const int32_t *cols = cols_of(t);
  for (int32_t c = 0; cols[c]; c++)
    for (int32_t k = 0; k < COUNT(n_edges); k++)
      made += check(&d, &r, t, n_edges[k], cols[c], c == 1 || n_edges[k] == 33);
  print_message("%s: %d results alike\n", weir_dtype_get(t)->name, made);
  assert_true(made > M_MAX * COUNT(n_edges) / 4);
  kern_devs_close(&d);
}

int main(void) {
  static weir_dtype types[WEIR_DTYPE_COUNT];
  struct CMUnitTest tests[WEIR_DTYPE_COUNT];
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    types[t] = (weir_dtype)t;
    tests[t] = (struct CMUnitTest)cmocka_unit_test_prestate(tile_edges_give_the_bits_of_plain_c, &types[t]);
    tests[t].name = weir_dtype_get(types[t])->name;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
