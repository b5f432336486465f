/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of tensors, of every stored type and every conversion, against the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/mfile.h"

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

static int64_t below(uint32_t *seed, int64_t n) {
  *seed = *seed * 1664525u + 1013904223u;
  return (int64_t)((*seed >> 8) % (uint32_t)n);
}

/* A run of `unit`s in [0, n). */
static void random_run(uint32_t *seed, int64_t n, int64_t unit, int64_t *first, int64_t *count) {
  const int64_t units = n / unit;
  *first = below(seed, units);
  *count = 1 + below(seed, units - *first);
  *first *= unit;
  *count *= unit;
}

static void check_part(const weir_mfile *f, const char *name, const weir_tensor *whole, weir_tensor_part p) {
  weir_tensor got;
  weir_err e = {0};
  size_t row, run;
  const weir_dtype_info *t = weir_dtype_get(whole->info.dtype);
  must(weir_mfile_read_part(f, name, p, &got, &e), &e);
  must(weir_dtype_row_bytes(whole->info.dtype, whole->info.dim[0], &row, &e), &e);
  must(weir_dtype_row_bytes(whole->info.dtype, p.n_cols, &run, &e), &e);
  assert_int_equal(got.info.dim[0], p.n_cols);
  assert_int_equal(got.info.dim[1], p.n_rows);
  assert_int_equal(got.info.dtype, whole->info.dtype);
  assert_int_equal(got.info.bytes, run * (size_t)p.n_rows);
  for (int64_t r = 0; r < p.n_rows; r++)
    if (memcmp((const uint8_t *)got.data + (size_t)r * run,
               (const uint8_t *)whole->data + (size_t)(p.row + r) * row +
                   (size_t)(p.col / t->block_elems) * (size_t)t->block_bytes,
               run) != 0)
      fail_msg("%s: row %lld of rows %lld + %lld, columns %lld + %lld differs", name, (long long)r,
               (long long)p.row, (long long)p.n_rows, (long long)p.col, (long long)p.n_cols);
  weir_mfile_let_go(f, &got);
}

static void parts_are_of_the_whole(void **state) {
  (void)state;
  static const char *const models[] = {
      "llama-F32.gguf", "llama-K-mixed.gguf", "llama-mixed.gguf", "mixtral-Q4_0.gguf", "hf-llama3-gptq",
      "hf-qwen2-awq",   "hf-qwen3moe-fp8",    "hf-phi3",          "hf-qwen3moe"};
  int32_t seen[WEIR_DTYPE_COUNT] = {0}, converted = 0;
  uint32_t seed = 5;
  for (size_t k = 0; k < sizeof models / sizeof *models; k++) {
    char path[128];
    weir_mfile *f;
    weir_err e = {0};
    snprintf(path, sizeof path, "tests/vectors/models/%s", models[k]);
    must(weir_mfile_open(path, &f, &e), &e);
    for (int64_t i = 0; i < weir_mfile_n_tensors(f); i++) {
      weir_tensor_info t;
      weir_tensor whole;
      char name[128];
      weir_mfile_tensor_at(f, i, &t);
      if (t.n_dims != 2 || t.name.len >= sizeof name) continue;
      snprintf(name, sizeof name, "%.*s", (int)t.name.len, t.name.data);
      must(weir_mfile_read(f, name, &whole, &e), &e);
      seen[t.dtype]++;
      converted += whole.own != NULL;
      const int64_t block = weir_dtype_get(t.dtype)->block_elems;
      for (int32_t round = 0; round < 6; round++) {
        weir_tensor_part p = {0, t.dim[1], 0, t.dim[0]};
        if (round % 3 != 1) random_run(&seed, t.dim[1], 1, &p.row, &p.n_rows);
        if (round % 3 != 0) random_run(&seed, t.dim[0], block, &p.col, &p.n_cols);
        check_part(f, name, &whole, p);
      }
      weir_tensor_release(&whole);
    }
    weir_mfile_close(f);
  }
  assert_true(converted > 20);
  static const weir_dtype want[] = {WEIR_F32,  WEIR_F16,  WEIR_BF16, WEIR_Q8_0,
                                    WEIR_Q4_0, WEIR_Q4_K, WEIR_Q6_K};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++)
    if (!seen[want[i]]) fail_msg("no tensor of type %s", weir_dtype_get(want[i])->name);
}

static void refusals(void **state) {
  (void)state;
  static const struct {
    const char *name;
    weir_tensor_part part;
    weir_status status;
    const char *fragment;
  } rows[] = {
      {"blk.0.ffn_down.weight", {0, 64, 0, 96}, WEIR_OK, ""},
      {"blk.0.ffn_down.weight", {63, 1, 64, 32}, WEIR_OK, ""},
      {"blk.0.ffn_down.weight", {0, 65, 0, 96}, WEIR_EINVAL, "is [64, 96]: rows 0 + 65, columns 0 + 96"},
      {"blk.0.ffn_down.weight", {64, 1, 0, 96}, WEIR_EINVAL, "rows 64 + 1"},
      {"blk.0.ffn_down.weight", {-1, 1, 0, 96}, WEIR_EINVAL, "rows -1 + 1"},
      {"blk.0.ffn_down.weight", {0, 0, 0, 96}, WEIR_EINVAL, "rows 0 + 0"},
      {"blk.0.ffn_down.weight", {1, INT64_MAX, 0, 96}, WEIR_EINVAL, "rows 1 + 9223372036854775807"},
      {"blk.0.ffn_down.weight", {0, 64, 64, 64}, WEIR_EINVAL, "columns 64 + 64"},
      {"blk.0.ffn_down.weight", {0, 64, 32, INT64_MAX}, WEIR_EINVAL, "columns 32 + 9223372036854775807"},
      {"blk.0.ffn_down.weight", {0, 64, -32, 32}, WEIR_EINVAL, "columns -32 + 32"},
      {"blk.0.ffn_down.weight", {0, 64, 0, 0}, WEIR_EINVAL, "columns 0 + 0"},
      {"blk.0.ffn_down.weight", {0, 64, 16, 32}, WEIR_EINVAL, "columns 16 + 32 cut blocks of 32"},
      {"blk.0.ffn_down.weight", {0, 64, 0, 48}, WEIR_EINVAL, "columns 0 + 48 cut blocks of 32"},
      {"blk.9.ffn_down.weight", {0, 64, 0, 96}, WEIR_EFORMAT, "blk.9.ffn_down.weight is missing"},
  };
  weir_mfile *f;
  weir_err e = {0};
  must(weir_mfile_open("tests/vectors/models/llama-Q8_0.gguf", &f, &e), &e);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    weir_tensor t;
    e.msg[0] = '\0';
    const weir_status st = weir_mfile_read_part(f, rows[i].name, rows[i].part, &t, &e);
    if (st != rows[i].status || !strstr(e.msg, rows[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, rows[i].status, rows[i].fragment);
    weir_mfile_let_go(f, &t);
  }
  weir_mfile_close(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(parts_are_of_the_whole), cmocka_unit_test(refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
