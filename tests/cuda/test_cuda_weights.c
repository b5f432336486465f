/* SPDX-License-Identifier: Apache-2.0 */
/* Weights of the emulated GPU: stored rows, packed and unpacked again, are the bits the host's dequantisation
 * gives, for every type and every bit pattern of a block; as BF16 they are those rounded. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/dequant_kernels.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/repack_kernels.h"
#include "kernels/quant.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static const weir_dtype quants[] = {WEIR_Q8_0, WEIR_Q4_0, WEIR_Q5_0, WEIR_Q4_K, WEIR_Q5_K, WEIR_Q6_K};

/* Bytes without any order: scales are subnormal, negative, infinite, NaN as it comes. */
static uint8_t *random_rows(kern_rng *r, weir_dtype t, int32_t rows, int32_t cols, bool tame) {
  const weir_dtype_info *info = weir_dtype_get(t);
  const size_t blocks = (size_t)rows * (size_t)(cols / info->block_elems);
  const size_t bytes = blocks * (size_t)info->block_bytes;
  uint8_t *raw = malloc(bytes);
  assert_non_null(raw);
  if (tame)
    kern_blocks(r, t, blocks, raw);
  else
    for (size_t i = 0; i < bytes; i++) raw[i] = (uint8_t)kern_u64(r);
  return raw;
}

static float *host_rows(weir_dtype t, const uint8_t *raw, int32_t rows, int32_t cols) {
  weir_err e = {0};
  size_t bytes;
  kern_ok(weir_dtype_row_bytes(t, cols, &bytes, &e), &e, "row");
  float *out = malloc((size_t)rows * (size_t)cols * sizeof *out);
  assert_non_null(out);
  for (int32_t i = 0; i < rows; i++)
    kern_ok(weir_dequantize_row(t, raw + (size_t)i * bytes, out + (size_t)i * (size_t)cols, cols, &e), &e,
            "dequantize");
  return out;
}

/* To the bit, any NaN for any NaN. */
static void same(float got, float want, const char *what, int32_t r, int32_t c) {
  if (isnan(got) && isnan(want)) return;
  if (memcmp(&got, &want, sizeof got) != 0) fail_msg("%s: (%d, %d): %a, want %a", what, r, c, got, want);
}

static void compare(weir_dev *dev, const weir_segment *s, const float *want, int32_t first, int32_t rows,
                    const char *what) {
  weir_err e = {0};
  const size_t n = (size_t)rows * (size_t)s->cols;
  float *got = malloc(n * sizeof *got);
  uint16_t *got16 = malloc(n * sizeof *got16);
  void *out = NULL, *out16 = NULL;
  assert_non_null(got);
  assert_non_null(got16);
  kern_ok(weir_dev_alloc(dev, n * sizeof *got, &out, &e), &e, "alloc");
  kern_ok(weir_dev_alloc(dev, n * sizeof *got16, &out16, &e), &e, "alloc");
  weir_cuk_dequant_rows_args a = {.w = *s, .out = out, .first = first, .rows = rows};
  assert_int_equal(weir_cuk_dequant_rows_f32(&a, weir_cuda_of(dev)->stream), cudaSuccess);
  a.out = out16;
  assert_int_equal(weir_cuk_dequant_rows(&a, weir_cuda_of(dev)->stream), cudaSuccess);
  kern_ok(weir_dev_download(dev, got, out, n * sizeof *got, &e), &e, "download");
  kern_ok(weir_dev_download(dev, got16, out16, n * sizeof *got16, &e), &e, "download");
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  for (int32_t r = 0; r < rows; r++)
    for (int32_t c = 0; c < s->cols; c++) {
      const size_t i = (size_t)r * (size_t)s->cols + (size_t)c;
      const float w = want[(size_t)(first + r) * (size_t)s->cols + (size_t)c];
      same(got[i], w, what, first + r, c);
      same(weir_bf16_to_f32(got16[i]), weir_bf16_to_f32(weir_f32_to_bf16(w)), what, first + r, c);
    }
  weir_dev_release(dev, out);
  weir_dev_release(dev, out16);
  free(got);
  free(got16);
}

static void run_shape(weir_dev *dev, kern_rng *r, weir_dtype t, int32_t rows, int32_t cols, bool tame) {
  weir_err e = {0};
  char what[64];
  (void)snprintf(what, sizeof what, "%s [%d, %d]", weir_dtype_get(t)->name, rows, cols);
  uint8_t *raw = random_rows(r, t, rows, cols, tame);
  float *want = host_rows(t, raw, rows, cols);
  const weir_host_mat part = {raw, t, rows, cols};
  weir_weight w;
  kern_ok(weir_weight_prepare(dev, &part, 1, &w, &e), &e, what);
  free(raw);
  const weir_cuda_weight *cw = w.impl;
  assert_int_equal(cw->n_segments, 1);
  assert_int_equal(w.rows, rows);
  compare(dev, cw->segment, want, 0, rows, what);
  if (rows > 20) compare(dev, cw->segment, want, 7, rows - 12, what); /* rows that start and end in a tile */
  weir_weight_release(&w);
  free(want);
}

/* Rows that come in pieces, as those do that are more than prepare's staging holds: each piece to its tiles,
 * and none to another's. */
static void test_pieces(void **state) {
  (void)state;
  enum { ROWS = 89, COLS = 512 };
  static const int32_t first[] = {64, 0, 16, 48}, rows[] = {ROWS - 64, 16, 32, 16};
  for (int32_t t = 0; t < COUNT(quants); t++) {
    weir_dev *dev = cuda_test_dev(NULL, (uint64_t)t);
    kern_rng r = {(uint64_t)t + 9};
    weir_err e = {0};
    size_t row_bytes;
    kern_ok(weir_dtype_row_bytes(quants[t], COLS, &row_bytes, &e), &e, "row");
    uint8_t *other = random_rows(&r, quants[t], ROWS, COLS, true);
    uint8_t *raw = random_rows(&r, quants[t], ROWS, COLS, true);
    float *want = host_rows(quants[t], raw, ROWS, COLS);
    const weir_host_mat part = {other, quants[t], ROWS, COLS};
    weir_weight w;
    kern_ok(weir_weight_prepare(dev, &part, 1, &w, &e), &e, "prepare");
    const weir_segment *s = ((const weir_cuda_weight *)w.impl)->segment;
    uint8_t *staged = kern_copy(dev, raw, row_bytes * ROWS);
    for (int32_t i = 0; i < COUNT(first); i++) {
      const weir_cuk_repack_args a = {.w = *s,
                                      .raw = staged + row_bytes * (size_t)first[i],
                                      .row_bytes = (int64_t)row_bytes,
                                      .first = first[i],
                                      .rows = rows[i]};
      assert_int_equal(weir_cuk_repack(&a, weir_cuda_of(dev)->stream), cudaSuccess);
    }
    compare(dev, s, want, 0, ROWS, "pieces");
    weir_dev_release(dev, staged);
    weir_weight_release(&w);
    free(want);
    free(raw);
    free(other);
    cuda_test_close(dev);
  }
}

static void test_round_trip(void **state) {
  (void)state;
  static const int32_t rows[] = {1, 15, 16, 17, 40, 129}, cols[] = {32, 64, 96, 256, 512, 160, 768};
  for (int32_t t = 0; t < COUNT(quants); t++) {
    weir_dev *dev = cuda_test_dev(NULL, (uint64_t)t);
    kern_rng r = {(uint64_t)t + 5};
    for (int32_t i = 0; i < COUNT(rows); i++)
      for (int32_t j = 0; j < COUNT(cols); j++)
        if (cols[j] % weir_dtype_get(quants[t])->block_elems == 0)
          run_shape(dev, &r, quants[t], rows[i], cols[j], (i + j) % 4 == 0);
    cuda_test_close(dev);
  }
}

/* Parts of one type that follow each other are one segment, wherever a tile ends. */
static void test_parts(void **state) {
  (void)state;
  static const struct {
    weir_dtype t;
    int32_t rows, segment;
  } part[] = {{WEIR_Q4_K, 5, 0}, {WEIR_Q4_K, 30, 0}, {WEIR_Q6_K, 17, 1},
              {WEIR_F16, 3, 2},  {WEIR_BF16, 2, 3},  {WEIR_Q4_K, 16, 4},
              {WEIR_F32, 1, 5},  {WEIR_F32, 4, 5},   {WEIR_Q8_0, 33, 6}};
  enum { COLS = 256 };
  weir_dev *dev = cuda_test_dev(NULL, 3);
  kern_rng r = {11};
  weir_err e = {0};
  weir_host_mat mat[COUNT(part)];
  uint8_t *raw[COUNT(part)];
  for (int32_t i = 0; i < COUNT(part); i++) {
    raw[i] = random_rows(&r, part[i].t, part[i].rows, COLS, false);
    mat[i] = (weir_host_mat){raw[i], part[i].t, part[i].rows, COLS};
  }
  weir_weight w;
  kern_ok(weir_weight_prepare(dev, mat, COUNT(part), &w, &e), &e, "prepare");
  const weir_cuda_weight *cw = w.impl;
  assert_int_equal(cw->n_segments, 7);
  for (int32_t i = 0, row = 0; i < COUNT(part); row += part[i++].rows) {
    const weir_segment *s = &cw->segment[part[i].segment];
    const int32_t first = row - s->first;
    assert_int_equal(s->dtype, part[i].t);
    assert_in_range(first, 0, s->rows - part[i].rows);
    if (weir_dtype_is_quant(s->dtype)) {
      float *want = host_rows(part[i].t, raw[i], part[i].rows, COLS);
      float *all = calloc((size_t)s->rows * COLS, sizeof *all);
      assert_non_null(all);
      memcpy(all + (size_t)first * COLS, want, (size_t)part[i].rows * COLS * sizeof *all);
      compare(dev, s, all, first, part[i].rows, "part");
      free(all);
      free(want);
    } else {
      size_t bytes;
      kern_ok(weir_dtype_row_bytes(s->dtype, COLS, &bytes, &e), &e, "row");
      uint8_t *got = malloc(bytes * (size_t)part[i].rows);
      assert_non_null(got);
      kern_ok(weir_dev_download(dev, got, (uint8_t *)s->low + bytes * (size_t)first,
                                bytes * (size_t)part[i].rows, &e),
              &e, "download");
      kern_ok(weir_dev_sync(dev, &e), &e, "sync");
      kern_same(got, raw[i], bytes * (size_t)part[i].rows, "plain part");
      free(got);
    }
  }
  weir_weight_release(&w);
  for (int32_t i = 0; i < COUNT(part); i++) free(raw[i]);
  cuda_test_close(dev);
}

static void test_refused(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 1);
  weir_segment s = {.dtype = WEIR_F16, .rows = 4, .cols = 32};
  weir_cuk_dequant_rows_args a = {.w = s, .rows = 4};
  assert_int_equal(weir_cuk_dequant_rows(&a, weir_cuda_of(dev)->stream), cudaErrorInvalidValue);
  a.w.dtype = WEIR_Q8_0;
  a.first = 1; /* four rows from row 1 are one too many */
  assert_int_equal(weir_cuk_dequant_rows(&a, weir_cuda_of(dev)->stream), cudaErrorInvalidValue);
  cuda_test_close(dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_pieces),
                                     cmocka_unit_test(test_parts), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
