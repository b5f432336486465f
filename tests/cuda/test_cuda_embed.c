/* SPDX-License-Identifier: Apache-2.0 */
/* Embed on the emulated GPU: every type, to the bit what the host makes of the stored row, times scale. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/quant.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static void run_shape(weir_dev *dev, kern_rng *r, weir_dtype t, int32_t rows, int32_t cols, int32_t n,
                      float scale, int32_t pad) {
  weir_err e = {0};
  const int32_t cut = rows / 2; /* a table of two types, the second of them F32 */
  size_t row_bytes;
  kern_ok(weir_dtype_row_bytes(t, cols, &row_bytes, &e), &e, "row");
  uint8_t *raw = malloc(row_bytes * (size_t)(rows - cut));
  assert_non_null(raw);
  for (size_t i = 0; i < row_bytes * (size_t)(rows - cut); i++) raw[i] = (uint8_t)kern_u64(r);
  float *floats = kern_normals(r, (size_t)cut * (size_t)cols + 1, 2.0f);
  const weir_host_mat part[] = {{raw, t, rows - cut, cols}, {floats, WEIR_F32, cut, cols}};
  weir_weight w;
  kern_ok(weir_weight_prepare(dev, part, cut ? 2 : 1, &w, &e), &e, "prepare");
  int32_t *token = malloc((size_t)n * sizeof *token);
  float *want = malloc((size_t)cols * sizeof *want);
  assert_non_null(token);
  assert_non_null(want);
  for (int32_t i = 0; i < n; i++) token[i] = i == 0 ? rows - 1 : kern_below(r, rows);
  int32_t *on_device = kern_copy(dev, token, (size_t)n * sizeof *token);
  const weir_mat y = kern_mat(dev, n, cols, pad);
  const weir_embed_args args = {.table = &w, .token = on_device, .scale = scale};
  kern_ok(weir_op_embed(dev, y, &args, &e), &e, "embed");
  float *got = kern_get(dev, y);
  for (int32_t i = 0; i < n; i++) {
    if (token[i] < rows - cut)
      kern_ok(weir_dequantize_row(t, raw + (size_t)token[i] * row_bytes, want, cols, &e), &e, "dequantize");
    else
      memcpy(want, floats + (size_t)(token[i] - (rows - cut)) * (size_t)cols, (size_t)cols * sizeof *want);
    for (int32_t c = 0; c < cols; c++) {
      const float a = got[(size_t)i * (size_t)cols + (size_t)c], b = want[c] * scale;
      if (isnan(a) && isnan(b)) continue;
      if (memcmp(&a, &b, sizeof a) != 0)
        fail_msg("%s [%d, %d], token %d, column %d: %a, want %a", weir_dtype_get(t)->name, rows, cols,
                 token[i], c, a, b);
    }
  }
  free(got);
  kern_mat_free(dev, y);
  weir_dev_release(dev, on_device);
  weir_weight_release(&w);
  free(want);
  free(token);
  free(floats);
  free(raw);
}

static void test_every_type(void **state) {
  (void)state;
  static const int32_t rows[] = {1, 17, 40, 100}, cols[] = {32, 96, 256, 7, 1, 2304};
  const weir_dev_limits lim = cuda_test_limits();
  for (int32_t t = 0; t < WEIR_DTYPE_COUNT; t++) {
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)t);
    kern_rng r = {(uint64_t)t + 77};
    for (int32_t i = 0; i < COUNT(rows); i++)
      for (int32_t j = 0; j < COUNT(cols); j++)
        if (cols[j] % weir_dtype_get((weir_dtype)t)->block_elems == 0)
          run_shape(dev, &r, (weir_dtype)t, rows[i], cols[j], j % 2 ? 1 : 9, i % 2 ? 1.0f : 53.665631f,
                    j % 3);
    cuda_test_close(dev);
  }
}

/* An id that no segment has leaves its row of y as it was. */
static void test_ids_of_nobody(void **state) {
  (void)state;
  enum { ROWS = 17, COLS = 256, N = 5 };
  static const int32_t token[N] = {3, -1, ROWS, 16, INT32_MIN};
  for (int32_t t = 0; t < WEIR_DTYPE_COUNT; t++) {
    const weir_dev_limits lim = cuda_test_limits();
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)t);
    kern_rng r = {(uint64_t)t + 5};
    weir_err e = {0};
    size_t row_bytes;
    kern_ok(weir_dtype_row_bytes((weir_dtype)t, COLS, &row_bytes, &e), &e, "row");
    uint8_t *raw = calloc(ROWS, row_bytes); /* zeros: of every type 0 */
    assert_non_null(raw);
    const weir_host_mat part = {raw, (weir_dtype)t, ROWS, COLS};
    weir_weight w;
    kern_ok(weir_weight_prepare(dev, &part, 1, &w, &e), &e, "prepare");
    int32_t *on_device = kern_copy(dev, token, sizeof token);
    float *before = kern_normals(&r, (size_t)N * COLS, 1.0f);
    const weir_mat y = kern_mat(dev, N, COLS, 0);
    kern_ok(weir_dev_upload(dev, y.data, before, (size_t)N * COLS * sizeof *before, &e), &e, "upload");
    const weir_embed_args args = {.table = &w, .token = on_device, .scale = 1};
    kern_ok(weir_op_embed(dev, y, &args, &e), &e, "embed");
    float *got = kern_get(dev, y);
    for (int32_t i = 0; i < N; i++)
      for (int32_t c = 0; c < COLS; c++) {
        const size_t at = (size_t)i * COLS + (size_t)c;
        const float want = token[i] < 0 || token[i] >= ROWS ? before[at] : 0.0f;
        if (got[at] != want)
          fail_msg("%s, token %d, column %d: %a instead of %a", weir_dtype_get((weir_dtype)t)->name, token[i],
                   c, got[at], want);
      }
    free(got);
    free(before);
    kern_mat_free(dev, y);
    weir_dev_release(dev, on_device);
    weir_weight_release(&w);
    free(raw);
    cuda_test_close(dev);
  }
}

/* Tables in shards of two types each, one without rows: what others have is -0, and the sum is the whole. */
static void test_shards(void **state) {
  (void)state;
  enum { ROWS = 40, COLS = 256, N = 11, SHARDS = 4 };
  static const int32_t cut[SHARDS + 1] = {0, 17, 17, 24, ROWS};
  for (int32_t t = 0; t < WEIR_DTYPE_COUNT; t++) {
    const weir_dev_limits lim = cuda_test_limits();
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)t);
    kern_rng r = {(uint64_t)t + 9};
    weir_err e = {0};
    size_t row_bytes;
    kern_ok(weir_dtype_row_bytes((weir_dtype)t, COLS, &row_bytes, &e), &e, "row");
    uint8_t *raw = malloc(row_bytes * ROWS);
    float *want = calloc((size_t)N * COLS, sizeof *want);
    assert_non_null(raw);
    assert_non_null(want);
    for (size_t i = 0; i < row_bytes * ROWS; i++) raw[i] = (uint8_t)kern_u64(&r);
    int32_t token[N];
    for (int32_t i = 0; i < N; i++) {
      token[i] = i < 3 ? 16 + i * 4 : kern_below(&r, ROWS);
      kern_ok(
          weir_dequantize_row((weir_dtype)t, raw + (size_t)token[i] * row_bytes, want + i * COLS, COLS, &e),
          &e, "dequantize");
    }
    int32_t *on_device = kern_copy(dev, token, sizeof token);
    float *sum = NULL;
    for (int32_t s = 0; s < SHARDS; s++) {
      const int32_t n = cut[s + 1] - cut[s], half = n / 2;
      const weir_host_mat part[] = {
          {raw + (size_t)cut[s] * row_bytes, (weir_dtype)t, half, COLS},
          {raw + (size_t)(cut[s] + half) * row_bytes, (weir_dtype)t, n - half, COLS}};
      weir_weight w = {0};
      if (n > 0) kern_ok(weir_weight_prepare(dev, part, 2, &w, &e), &e, "prepare");
      const weir_mat y = kern_mat(dev, N, COLS, 1);
      const weir_embed_args args = {
          .table = &w, .token = on_device, .scale = 3, .first = cut[s], .n_vocab = ROWS};
      kern_ok(weir_op_embed(dev, y, &args, &e), &e, "embed");
      float *got = kern_get(dev, y);
      for (int32_t i = 0; i < N; i++)
        for (int32_t c = 0; c < COLS && (token[i] < cut[s] || token[i] >= cut[s + 1]); c++)
          if (got[i * COLS + c] != 0 || !signbit(got[i * COLS + c]))
            fail_msg("%s, shard %d, token %d: %a", weir_dtype_get((weir_dtype)t)->name, s, token[i],
                     got[i * COLS + c]);
      for (int32_t i = 0; sum && i < N * COLS; i++) sum[i] += got[i];
      if (sum)
        free(got);
      else
        sum = got;
      kern_mat_free(dev, y);
      weir_weight_release(&w);
    }
    for (int32_t i = 0; i < N * COLS; i++) {
      const float b = want[i] * 3;
      if (!(isnan(sum[i]) && isnan(b)) && memcmp(&sum[i], &b, sizeof b) != 0)
        fail_msg("%s, token %d, column %d: %a, want %a", weir_dtype_get((weir_dtype)t)->name, token[i / COLS],
                 i % COLS, sum[i], b);
    }
    free(sum);
    weir_dev_release(dev, on_device);
    free(want);
    free(raw);
    cuda_test_close(dev);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_type), cmocka_unit_test(test_ids_of_nobody),
                                     cmocka_unit_test(test_shards)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
