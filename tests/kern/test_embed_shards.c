/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a table in shards: added up over the ranks they are the rows of the whole table to the bit, -0 too,
 * for every type of weight, from one shard to more than there are rows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"

enum { ROWS = 37, COLS = 256, TOKENS = 41, MAX_SHARDS = 40 };
static const weir_dev_limits limits = {.max_tokens = TOKENS, .max_cols = COLS};

/* [TOKENS*COLS] in one piece, or of the ids [first, end); free(). */
static float *embed(weir_dev *dev, weir_dtype t, const uint8_t *raw, size_t row_bytes, const int32_t *token,
                    int32_t first, int32_t end, bool shard, float scale) {
  weir_err e = {0};
  weir_weight w = {0};
  const weir_host_mat part = {raw + (size_t)first * row_bytes, t, end - first, COLS};
  if (end > first) kern_ok(weir_weight_prepare(dev, &part, 1, &w, &e), &e, "prepare");
  int32_t *ids = kern_copy(dev, token, sizeof *token * TOKENS);
  const weir_mat y = kern_mat(dev, TOKENS, COLS, 3);
  const weir_embed_args a = {.table = end == first && first % 2 ? NULL : &w,
                             .token = ids,
                             .scale = scale,
                             .first = first,
                             .n_vocab = shard ? ROWS : 0};
  kern_ok(weir_op_embed(dev, y, &a, &e), &e, "embed");
  float *got = kern_get(dev, y);
  kern_mat_free(dev, y);
  weir_dev_release(dev, ids);
  weir_weight_release(&w);
  return got;
}

static void test_sum_is_the_whole(void **state) {
  static const int32_t n_shards[] = {1, 2, 3, 7, MAX_SHARDS};
  kern_devs devs;
  kern_rng rng = {81};
  (void)state;
  kern_devs_open(&devs, &limits);
  int negative_zeros = 0;
  for (int32_t t = 0; t < WEIR_DTYPE_COUNT; t++) {
    weir_err e = {0};
    size_t row_bytes;
    kern_ok(weir_dtype_row_bytes((weir_dtype)t, COLS, &row_bytes, &e), &e, "row");
    const weir_dtype_info *info = weir_dtype_get((weir_dtype)t);
    uint8_t *raw = malloc(row_bytes * ROWS);
    assert_non_null(raw);
    if (info->block_elems > 1) {
      kern_blocks(&rng, (weir_dtype)t, (size_t)ROWS * COLS / (size_t)info->block_elems, raw);
    } else {
      for (size_t i = 0; i < row_bytes * ROWS; i++)
        raw[i] = (uint8_t)kern_below(&rng, 60); /* small, finite */
      for (size_t i = 0; i < row_bytes * ROWS; i += 64) memset(raw + i, 0, 8);
      for (size_t i = 3; i < row_bytes * ROWS; i += 64) raw[i] = 0x80; /* -0 of F32 and in halves */
    }
    int32_t token[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++) token[i] = i < ROWS ? i : kern_below(&rng, ROWS);
    for (int32_t s = 0; s < (int32_t)(sizeof n_shards / sizeof *n_shards); s++) {
      weir_dev *dev = devs.dev[s % devs.n];
      const float scale = s % 2 ? 45.25f : 1.0f;
      float *whole = embed(dev, (weir_dtype)t, raw, row_bytes, token, 0, ROWS, false, scale), *sum = NULL;
      for (int32_t r = 0; r < n_shards[s]; r++) {
        const int32_t first = ROWS * r / n_shards[s], end = ROWS * (r + 1) / n_shards[s];
        float *part = embed(dev, (weir_dtype)t, raw, row_bytes, token, first, end, true, scale);
        for (int32_t i = 0; i < TOKENS; i++)
          if (token[i] < first || token[i] >= end)
            for (int32_t c = 0; c < COLS; c++) {
              const float x = part[i * COLS + c];
              if (x != 0 || !signbit(x)) fail_msg("%s: %a in another's row", info->name, (double)x);
            }
        for (int32_t i = 0; sum && i < TOKENS * COLS; i++) sum[i] += part[i];
        if (sum)
          free(part);
        else
          sum = part;
      }
      for (int32_t i = 0; i < TOKENS * COLS; i++) negative_zeros += whole[i] == 0 && signbit(whole[i]);
      kern_same(sum, whole, sizeof *sum * TOKENS * COLS, info->name);
      free(sum);
      free(whole);
    }
    free(raw);
  }
  assert_true(negative_zeros > 100);
  kern_devs_close(&devs);
}

/* An id of the vocabulary that a shard has not is no error; one of no vocabulary is. */
static void test_ids(void **state) {
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &limits);
  static float table[8 * COLS];
  const weir_host_mat host = {table, WEIR_F32, 8, COLS};
  weir_err e = {0};
  weir_weight w;
  kern_ok(weir_weight_prepare(devs.dev[0], &host, 1, &w, &e), &e, "prepare");
  const weir_mat y = kern_mat(devs.dev[0], 2, COLS, 0);
  static const int32_t right[] = {0, 19}, wrong[][2] = {{0, 20}, {-1, 3}};
  weir_embed_args a = {.table = &w, .token = right, .scale = 1, .first = 8, .n_vocab = 20};
  kern_ok(weir_op_embed(devs.dev[0], y, &a, &e), &e, "embed");
  for (int i = 0; i < 2; i++) {
    a.token = wrong[i];
    assert_int_equal(weir_op_embed(devs.dev[0], y, &a, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "20 rows"));
  }
  kern_mat_free(devs.dev[0], y);
  weir_weight_release(&w);
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sum_is_the_whole), cmocka_unit_test(test_ids)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
