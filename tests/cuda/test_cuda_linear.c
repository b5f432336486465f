/* SPDX-License-Identifier: Apache-2.0 */
/* Linear with quantised weights on the emulated GPU, against the product in double of what the stored weights
 * mean and x as given.
 *
 * Bounds, of the worst row (linear_near). Up to 64 rows x is rounded to 11 bits and nothing else is
 * lost but the roundings of F32 sums: a row of 32 random terms and more stays below 1e-3. Beyond, x and W are
 * both rounded to 8 bits: below 1e-2 (W of random blocks; K types with mins are the worst). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "emu.h"
#include "kernels/cuda/matmul_kernels.h"
#include "kernels/quant.h"
#include "linear_util.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static const double BOUND_FEW = 1e-3, BOUND_MANY = 1e-2;
static const weir_dtype types[] = {WEIR_Q8_0, WEIR_Q4_0, WEIR_Q5_0, WEIR_Q4_K, WEIR_Q5_K, WEIR_Q6_K};
static const int32_t n_list[] = {1, 2, 3, 8, 9, 15, 16, 17, 33, 64, 65, 77, 130};
static const int32_t row_list[] = {1, 16, 40, 128, 147};
/* One block, an odd number of them, a whole chunk, one and a bit, nine of which two slices get two. */
static const int32_t col_list[] = {32, 96, 256, 288, 1024, 2304, 2528};

static double bound(int32_t n) { return n <= WEIR_MM_MAX_ROWS ? BOUND_FEW : BOUND_MANY; }

static linear_weight make_one(weir_dev *dev, kern_rng *r, weir_dtype t, int32_t rows, int32_t cols) {
  return linear_make(dev, r, &t, &rows, 1, cols);
}

static void check(weir_dev *dev, const linear_weight *w, const float *x, int32_t n, const float *bias,
                  int32_t pad, const char *what) {
  float *got = linear_run(dev, w, x, n, bias, pad);
  (void)linear_near(w, x, n, bias, got, bound(n), what);
  free(got);
}

/* ---- every type, shape and number of rows ---- */

static void run_shape(weir_dev *dev, uint64_t seed, weir_dtype t, int32_t rows, int32_t cols, int32_t n) {
  kern_rng r = {seed};
  linear_weight w = make_one(dev, &r, t, rows, cols);
  float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f);
  float *bias = kern_normals(&r, (size_t)rows, 3.0f);
  check(dev, &w, x, n, seed % 2 ? bias : NULL, seed % 3 ? 0 : 3, linear_name(t, rows, cols, n));
  free(bias);
  free(x);
  linear_free(&w);
}

/* Each number of rows with each type once, shapes by turns. */
static void test_shapes(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  uint64_t k = 0;
  for (int32_t t = 0; t < COUNT(types); t++) {
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)t);
    for (int32_t i = 0; i < COUNT(n_list); i++, k++) {
      const int32_t rows = row_list[k % COUNT(row_list)];
      int32_t cols = col_list[k % COUNT(col_list)];
      if (!linear_legal(types[t], cols)) cols = cols < 1024 ? 256 : 2304;
      if (n_list[i] > 33) cols = cols > 1024 ? 768 : cols; /* time */
      run_shape(dev, k, types[t], rows, cols, n_list[i]);
    }
    cuda_test_close(dev);
  }
}

static void test_all_shapes(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  uint64_t k = 0;
  for (int32_t t = 0; t < COUNT(types); t++) {
    weir_dev *dev = cuda_test_dev(&lim, (uint64_t)t);
    for (int32_t c = 0; c < COUNT(col_list); c++)
      for (int32_t f = 0; f < COUNT(row_list); f++)
        for (int32_t i = 0; i < COUNT(n_list); i++, k++)
          if (linear_legal(types[t], col_list[c]))
            run_shape(dev, k, types[t], row_list[f], col_list[c], n_list[i]);
    cuda_test_close(dev);
  }
}

/* ---- a row is the same bits in any batch ---- */

static void same_in_batches(weir_dev *dev, weir_dtype t, int32_t rows, int32_t cols) {
  enum { MOST = WEIR_MM_MAX_ROWS };
  kern_rng r = {7 + (uint64_t)t};
  static const int32_t batch[] = {1, 2, 4, 7, 12, 30};
  linear_weight w = make_one(dev, &r, t, rows, cols);
  float *x = kern_normals(&r, (size_t)MOST * (size_t)cols, 1.0f);
  /* In the whole batch, the rows beside are of quite another size. */
  float *big = malloc(sizeof *big * (size_t)MOST * (size_t)cols);
  assert_non_null(big);
  for (size_t i = 0; i < (size_t)MOST * (size_t)cols; i++)
    big[i] = x[i] * (i / (size_t)cols % 3 == 1 ? 1e30f : 1.0f);
  float *all = linear_run(dev, &w, big, MOST, NULL, 0);
  for (int32_t b = 0; b < COUNT(batch); b++) {
    float *some = linear_run(dev, &w, x, batch[b], NULL, b % 2);
    for (int32_t i = 0; i < batch[b]; i++)
      if (i % 3 != 1)
        kern_same(some + (size_t)i * (size_t)rows, all + (size_t)i * (size_t)rows, sizeof *all * (size_t)rows,
                  linear_name(t, rows, cols, batch[b]));
    free(some);
  }
  free(all);
  free(big);
  free(x);
  linear_free(&w);
}

/* On a GPU of 132 SMs slices are as many as there are chunks; on one of 2, fewer than that. */
static void test_batch_invariance(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  for (int32_t small = 0; small < 2; small++) {
    cu_shim_config c = cu_shim_defaults();
    if (small) c.n_sms = 2;
    cu_shim_reset(&c);
    weir_dev *dev = cuda_test_open(&lim, false);
    same_in_batches(dev, WEIR_Q4_0, 40, 2528);
    same_in_batches(dev, WEIR_Q4_K, 24, 2304);
    cuda_test_close(dev);
  }
}

/* 32 slices: the longest tree, in one block or across 32. */
static void test_many_slices(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  weir_dev *dev = cuda_test_dev(&lim, 3);
  assert_int_equal(weir_mm_slices(1, 8192, 132), 32);
  kern_rng r = {5};
  linear_weight w = make_one(dev, &r, WEIR_Q4_0, 16, 8192);
  float *x = kern_normals(&r, 5 * 8192, 1.0f);
  check(dev, &w, x, 1, NULL, 0, "32 slices, 1 row");
  check(dev, &w, x, 5, NULL, 0, "32 slices, 5 rows");
  free(x);
  linear_free(&w);
  cuda_test_close(dev);
}

/* ---- sizes of numbers ---- */

static void test_magnitudes(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  static const float size[] = {1e6f, 1e-12f, 1e30f, 1e-30f, 40000.0f, 1e-38f};
  weir_dev *dev = cuda_test_dev(&lim, 0);
  for (int32_t t = 0; t < COUNT(types); t++)
    for (int32_t many = 0; many < 2; many++) {
      const int32_t n = many ? 20 : COUNT(size), cols = 512, rows = 24;
      kern_rng r = {(uint64_t)(t * 2 + many)};
      linear_weight w = make_one(dev, &r, types[t], rows, cols);
      float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f);
      for (int32_t i = 0; i < n * cols; i++) {
        x[i] *= size[i / cols % COUNT(size)];
        /* the largest of a chunk, just below a power of two */
        if (i % cols == 17) x[i] = ldexpf(65535.0f / 65536.0f, ilogbf(size[i / cols % COUNT(size)]) + 4);
        /* and an outlier in one chunk, which costs the rest of the row nothing */
        if (i % cols == 300 && i / cols % COUNT(size) == 0) x[i] *= 1e5f;
      }
      check(dev, &w, x, n, NULL, 0, linear_name(types[t], rows, cols, n));
      free(x);
      linear_free(&w);
    }
  cuda_test_close(dev);
}

/* Activations that are halves already: nothing is rounded but sums, and no digit of those of mins is lost. On
 * a GPU so small that slices are longer than the ring has stages; half of them with asynchronous copies that
 * land at once: a copy into a place that is still read is then a race. */
static void test_exact(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  static const int32_t n_of[] = {1, 3, 8, 11, 20};
  emu_config *emu = emu_config_of();
  const int was_late = emu->late;
  cu_shim_config c = cu_shim_defaults();
  c.n_sms = 1;
  cu_shim_reset(&c);
  weir_dev *dev = cuda_test_open(&lim, false);
  for (int32_t t = 0; t < COUNT(types); t++)
    for (int32_t i = 0; i < COUNT(n_of); i++) {
      const int32_t n = n_of[i], rows = 24, cols = 8192;
      kern_rng r = {(uint64_t)(900 + t * 10 + i)};
      linear_weight w = make_one(dev, &r, types[t], rows, cols);
      float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f);
      for (int32_t k = 0; k < n * cols; k++) x[k] = 40.0f + rintf(5.0f * x[k]);
      x[cols / 2] = 65504.0f; /* the largest half, and none larger where it is brought down */
      emu->late = (t + i) % 2;
      float *got = linear_run(dev, &w, x, n, NULL, 0);
      (void)linear_near(&w, x, n, NULL, got, 2e-6, linear_name(types[t], rows, cols, n));
      free(got);
      free(x);
      linear_free(&w);
    }
  emu->late = was_late;
  cuda_test_close(dev);
}

/* The largest steps a half can hold, and zero ones. */
static void test_scales(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  weir_dev *dev = cuda_test_dev(&lim, 0);
  kern_rng r = {11};
  linear_weight w = make_one(dev, &r, WEIR_Q8_0, 16, 96);
  const uint16_t most = 0x7bff, zero = 0, least = 1;
  for (int32_t i = 0; i < 16; i++) {
    uint8_t *row = linear_data(&w, 0) + (size_t)i * 3 * 34;
    memcpy(row, &most, sizeof most);
    memcpy(row + 34, &zero, sizeof zero);
    memcpy(row + 68, &least, sizeof least);
  }
  linear_refresh(dev, &w);
  float *x = kern_normals(&r, 3 * 96, 100.0f);
  check(dev, &w, x, 3, NULL, 0, "extreme steps");
  free(x);
  linear_free(&w);
  cuda_test_close(dev);
}

/* ---- NaN and infinity stay where they belong ---- */

static void check_spread(const float *got, const float *clean, int32_t n, int32_t rows, int32_t bad_row,
                         int32_t bad_feature, const char *what) {
  for (int32_t i = 0; i < n; i++)
    for (int32_t f = 0; f < rows; f++) {
      const float v = got[(size_t)i * (size_t)rows + (size_t)f],
                  c = clean[(size_t)i * (size_t)rows + (size_t)f];
      if (i == bad_row || f == bad_feature) {
        if (isfinite(v)) fail_msg("%s: y[%d][%d] is %g, want none", what, i, f, (double)v);
      } else if (memcmp(&v, &c, sizeof v) != 0) {
        fail_msg("%s: y[%d][%d] is %g, want %g as without it", what, i, f, (double)v, (double)c);
      }
    }
}

/* Where a block of each type has a half. */
static size_t half_at(weir_dtype t) { return t == WEIR_Q6_K ? 208 : 0; }

static void test_not_finite(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  static const int32_t rows_of_x[] = {3, 8, 12, 40, 70};
  const int32_t rows = 37, cols = 512;
  for (int32_t t = 0; t < COUNT(types); t++) {
    weir_dev *dev = cuda_test_dev(&lim, 1);
    for (int32_t k = 0; k < COUNT(rows_of_x); k++) {
      const int32_t n = rows_of_x[k], bad = n - 2, feature = 18;
      kern_rng r = {(uint64_t)(100 + t)};
      linear_weight w = make_one(dev, &r, types[t], rows, cols);
      float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f);
      float *clean = linear_run(dev, &w, x, n, NULL, 0);
      for (int32_t inf = 0; inf < 2; inf++) {
        const float keep = x[bad * cols + 301];
        x[bad * cols + 301] = inf ? -INFINITY : NAN;
        float *got = linear_run(dev, &w, x, n, NULL, 0);
        check_spread(got, clean, n, rows, bad, -1, linear_name(types[t], rows, cols, n));
        free(got);
        x[bad * cols + 301] = keep;
      }
      size_t row_bytes;
      weir_err e = {0};
      kern_ok(weir_dtype_row_bytes(types[t], cols, &row_bytes, &e), &e, "row bytes");
      const uint16_t nan_half = 0x7e00;
      memcpy(linear_data(&w, 0) + (size_t)feature * row_bytes + half_at(types[t]), &nan_half,
             sizeof nan_half);
      linear_refresh(dev, &w);
      float *got = linear_run(dev, &w, x, n, NULL, 0);
      check_spread(got, clean, n, rows, -1, feature, "NaN in a step");
      free(got);
      free(clean);
      free(x);
      linear_free(&w);
    }
    cuda_test_close(dev);
  }
}

/* ---- weights of several types; GPUs of little shared memory ---- */

static void test_mixed(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  static const weir_dtype mix[4] = {WEIR_Q4_K, WEIR_F16, WEIR_Q6_K, WEIR_BF16};
  static const int32_t rows[4] = {40, 10, 21, 33}, n_of[] = {1, 5, 13, 64, 66};
  weir_dev *dev = cuda_test_dev(&lim, 5);
  kern_rng r = {21};
  linear_weight w = linear_make(dev, &r, mix, rows, 4, 512);
  float *x = kern_normals(&r, 66 * 512, 1.0f), *bias = kern_normals(&r, (size_t)w.rows, 5.0f);
  for (int32_t i = 0; i < COUNT(n_of); i++)
    for (int32_t b = 0; b < 2; b++) {
      float *got = linear_run(dev, &w, x, n_of[i], b ? bias : NULL, 5);
      (void)linear_near(&w, x, n_of[i], b ? bias : NULL, got, BOUND_MANY, "mixed types");
      free(got);
    }
  free(bias);
  free(x);
  linear_free(&w);
  cuda_test_close(dev);
}

static void test_small_smem(void **state) {
  (void)state;
  const weir_dev_limits lim = cuda_test_limits();
  weir_dev *dev = cuda_test_dev(&lim, 2);
  kern_rng r = {31};
  const int32_t n = 61, cols = 768, rows = 40;
  linear_weight w = make_one(dev, &r, WEIR_Q8_0, rows, cols);
  float *x = kern_normals(&r, (size_t)n * (size_t)cols, 1.0f);
  float *whole = linear_run(dev, &w, x, n, NULL, 0);
  weir_cuda_of(dev)->max_smem = 99 << 10; /* as GPUs of compute capability 8.6 and 8.9 have */
  float *parts = linear_run(dev, &w, x, n, NULL, 0);
  kern_same(parts, whole, sizeof *whole * (size_t)n * (size_t)rows, "in groups of 32 rows");
  free(parts);
  free(whole);
  free(x);
  linear_free(&w);
  cuda_test_close(dev);
}

/* ---- how the grid is cut ---- */

static void test_cut(void **state) {
  (void)state;
  static const int32_t cols_of[] = {32, 256, 1000, 4096, 14336, 28672, INT32_MAX - 64};
  static const int32_t tiles_of[] = {1, 3, 64, 256, 896, 9496, 134217724};
  for (int32_t c = 0; c < COUNT(cols_of); c++)
    for (int32_t f = 0; f < COUNT(tiles_of); f++)
      for (int32_t n = 1; n <= WEIR_MM_MAX_ROWS; n++) {
        const int32_t chunks = weir_mm_chunks(cols_of[c]);
        const int32_t s = weir_mm_slices(tiles_of[f], cols_of[c], 132), side = weir_mm_slices_per_block(s, n);
        assert_true(s >= 1 && s <= WEIR_MM_MAX_SLICES && s <= chunks && (s & (s - 1)) == 0);
        assert_true(side >= 1 && s % side == 0);
        if (n <= WEIR_MM_SELF_ROWS) assert_true(side * n <= WEIR_MM_WARPS); /* a warp each */
        assert_int_equal(weir_mm_slice_begin(chunks, s, 0), 0);
        assert_int_equal(weir_mm_slice_begin(chunks, s, s), chunks);
        for (int32_t i = 0; i < s; i++)
          assert_true(weir_mm_slice_begin(chunks, s, i + 1) > weir_mm_slice_begin(chunks, s, i));
        if (s > side) assert_true(weir_mm_row_blocks(tiles_of[f], s, n) <= 4096); /* tickets */
        assert_true(weir_mm_partial_bytes(tiles_of[f], s, n) <= (size_t)24 * 132 * WEIR_MM_MAX_ROWS * 64);
      }
}

/* What serves the widest weight serves narrower ones too, whose blocks of whole tiles may be larger. */
static void test_scratch_serves_narrower(void **state) {
  (void)state;
  const weir_cuda gpu = {.n_sms = 132};
  size_t had = 0;
  for (int32_t cols = 32; cols <= 65536; cols += 32) {
    const weir_dev_limits lim = {.max_tokens = WEIR_MM_MAX_ROWS + 1, .max_cols = cols};
    const size_t need = weir_cuda_linear_scratch(&gpu, &lim);
    if (need < had) fail_msg("%d columns: %zu bytes, %d columns: %zu", cols, need, cols - 32, had);
    had = need;
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest quick[] = {
      cmocka_unit_test(test_cut),
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_many_slices),
      cmocka_unit_test(test_batch_invariance),
      cmocka_unit_test(test_scratch_serves_narrower),
      cmocka_unit_test(test_magnitudes),
      cmocka_unit_test(test_exact),
      cmocka_unit_test(test_scales),
      cmocka_unit_test(test_not_finite),
      cmocka_unit_test(test_mixed),
      cmocka_unit_test(test_small_smem),
  };
  const struct CMUnitTest full[] = {cmocka_unit_test(test_all_shapes)};
  if (argc > 1 && strcmp(argv[1], "full") == 0)
    return cmocka_run_group_tests_name("linear, all", full, NULL, NULL);
  return cmocka_run_group_tests_name("linear", quick, NULL, NULL);
}
