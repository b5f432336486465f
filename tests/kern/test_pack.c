/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights: every row comes out as the stored one means it, quantised groups are byte for byte what
 * pack.h says, element by element, and neither threads nor what memory held before change a byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/blocks.h"
#include "kernels/cpu/pack.h"
#include "kernels/quant.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
enum { MAX_PARTS = 4, ROWS = WEIR_PACK_ROWS, QUADS = WEIR_PACK_QUADS };

static const weir_dev_limits limits = {.max_tokens = 1, .max_cols = 1024};

/* ---- stored matrices ---- */

typedef struct shape {
  weir_dtype dtype;
  int32_t rows;
} shape;

typedef struct stored {
  weir_host_mat part[MAX_PARTS]; /* data owned */
  int32_t n_parts;
} stored;

static size_t row_bytes_of(weir_dtype t, int32_t cols) {
  weir_err e = {0};
  size_t n;
  kern_ok(weir_dtype_row_bytes(t, cols, &n, &e), &e, "row bytes");
  return n;
}

static void *make_rows(kern_rng *r, weir_dtype t, int32_t rows, int32_t cols) {
  weir_err e = {0};
  const size_t bytes = row_bytes_of(t, cols) * (size_t)rows;
  uint8_t *data = malloc(bytes);
  assert_non_null(data);
  if (weir_dtype_is_quant(t)) {
    kern_blocks(r, t, bytes / (size_t)weir_dtype_get(t)->block_bytes, data);
    return data;
  }
  float *x = kern_normals(r, (size_t)rows * (size_t)cols, 1.0f);
  for (int32_t i = 0; i < rows; i++)
    kern_ok(weir_quantize_row(t, x + (size_t)i * (size_t)cols, data + (size_t)i * row_bytes_of(t, cols), cols,
                              &e),
            &e, "quantize");
  free(x);
  return data;
}

static stored make_stored(kern_rng *r, const shape *s, int32_t n_parts, int32_t cols) {
  stored out = {.n_parts = n_parts};
  for (int32_t i = 0; i < n_parts; i++)
    out.part[i] = (weir_host_mat){make_rows(r, s[i].dtype, s[i].rows, cols), s[i].dtype, s[i].rows, cols};
  return out;
}

static void free_stored(stored *s) {
  for (int32_t i = 0; i < s->n_parts; i++) free((void *)(uintptr_t)s->part[i].data);
}

static weir_weight prepare(weir_dev *dev, const stored *s) {
  weir_err e = {0};
  weir_weight w;
  kern_ok(weir_weight_prepare(dev, s->part, s->n_parts, &w, &e), &e, "prepare");
  return w;
}

/* ---- rows ---- */

static void check_rows(const weir_weight *w, const stored *s) {
  weir_err e = {0};
  const int32_t cols = s->part[0].cols;
  float *want = malloc((size_t)cols * sizeof *want), *got = malloc((size_t)cols * sizeof *got);
  assert_true(want && got);
  int32_t row = 0;
  for (int32_t i = 0; i < s->n_parts; i++) {
    const weir_host_mat *m = &s->part[i];
    const size_t row_bytes = row_bytes_of(m->dtype, cols);
    for (int32_t k = 0; k < m->rows; k++, row++) {
      char what[96];
      kern_ok(weir_dequantize_row(m->dtype, (const uint8_t *)m->data + (size_t)k * row_bytes, want, cols, &e),
              &e, "dequantize");
      memset(got, 0x55, (size_t)cols * sizeof *got);
      weir_pack_get_row(weir_pack_of(w), row, got);
      snprintf(what, sizeof what, "part %d (%s), row %d of %d x %d", i, weir_dtype_get(m->dtype)->name, k,
               m->rows, cols);
      kern_same(got, want, (size_t)cols * sizeof *got, what);
    }
  }
  assert_int_equal(row, w->rows);
  free(want);
  free(got);
}

static void test_every_row(void **state) {
  (void)state;
  static const int32_t rows[] = {1, 2, 15, 16, 17, 31, 33, 100};
  static const int32_t cols[] = {1, 7, 32, 33, 64, 96, 256, 512, 768};
  kern_rng r = {71};
  kern_devs devs;
  kern_devs_open(&devs, &limits);
  int n = 0;
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++)
    for (int c = 0; c < COUNT(cols); c++)
      for (int i = 0; i < COUNT(rows); i++) {
        if (cols[c] % weir_dtype_get((weir_dtype)t)->block_elems != 0) continue;
        stored s = make_stored(&r, &(shape){(weir_dtype)t, rows[i]}, 1, cols[c]);
        weir_weight w = prepare(devs.dev[n++ % devs.n], &s);
        check_rows(&w, &s);
        weir_weight_release(&w);
        free_stored(&s);
      }
  kern_devs_close(&devs);
}

/* ---- parts ---- */

typedef struct parts_case {
  shape part[MAX_PARTS];
  int32_t n_parts, n_segs; /* segs: how many runs they merge to */
} parts_case;

static const parts_case parts[] = {
    {{{WEIR_Q4_0, 32}, {WEIR_Q4_0, 16}, {WEIR_Q4_0, 16}}, 3, 1},
    {{{WEIR_Q4_0, 32}, {WEIR_Q4_0, 16}, {WEIR_Q4_0, 5}}, 3, 1}, /* a ragged end */
    {{{WEIR_Q8_0, 32}, {WEIR_Q8_0, 8}, {WEIR_Q8_0, 8}}, 3, 2},  /* the second seam is within a group */
    {{{WEIR_Q8_0, 1}, {WEIR_Q8_0, 1}, {WEIR_Q8_0, 16}}, 3, 3},
    {{{WEIR_Q6_K, 48}, {WEIR_Q4_K, 16}, {WEIR_Q4_K, 17}}, 3, 2}, /* types meet */
    {{{WEIR_Q4_K, 16}, {WEIR_Q5_K, 16}, {WEIR_Q4_K, 16}}, 3, 3},
    {{{WEIR_Q5_0, 64}, {WEIR_F16, 16}, {WEIR_F16, 16}, {WEIR_F16, 3}}, 4, 2},
    {{{WEIR_F32, 16}, {WEIR_F32, 1}, {WEIR_BF16, 16}, {WEIR_BF16, 16}}, 4, 2},
};

static void test_parts(void **state) {
  (void)state;
  kern_rng r = {72};
  kern_devs devs;
  kern_devs_open(&devs, &limits);
  for (int k = 0; k < COUNT(parts); k++)
    for (int d = 0; d < devs.n; d++) {
      stored s = make_stored(&r, parts[k].part, parts[k].n_parts, 768);
      weir_weight w = prepare(devs.dev[d], &s);
      if (weir_pack_of(&w)->n_segs != parts[k].n_segs)
        fail_msg("case %d: %d segments, want %d", k, weir_pack_of(&w)->n_segs, parts[k].n_segs);
      check_rows(&w, &s);
      weir_weight_release(&w);
      free_stored(&s);
    }
  kern_devs_close(&devs);
}

/* ---- the layout of quantised groups, element by element ---- */

static void want_half(uint8_t *halves, int32_t lane, uint16_t h) { memcpy(halves + 2 * lane, &h, 2); }

/* Element k of a block of 32 of a lane: low four bits among the nibbles, then bits 4 and 5 of it. */
static void want_nibble(uint8_t *nibble, int32_t lane, int32_t k, int32_t bits) {
  const int32_t quad = k / 4;
  nibble[quad % 4 * QUADS + lane * 4 + k % 4] |= (uint8_t)((bits & 15) << (quad < 4 ? 0 : 4));
}
static void want_5th(uint8_t *high, int32_t lane, int32_t k, int32_t bits) {
  high[lane * 4 + k % 4] |= (uint8_t)((bits >> 4 & 1) << k / 4);
}
static void want_5th_and_6th(uint8_t *high, int32_t lane, int32_t k, int32_t bits) {
  const int32_t quad = k / 4;
  high[quad / 4 * QUADS + lane * 4 + k % 4] |= (uint8_t)((bits >> 4 & 3) << 2 * (quad % 4));
}

/* Stored block b of a row into its unit, which begins as zeros. */
static void want_block_of_32(weir_dtype t, const void *block, int32_t b, int32_t lane, uint8_t *unit) {
  uint8_t *halves = unit + b % 2 * ROWS * 2, *q = unit + WEIR_PACK_SCALES;
  uint16_t d;
  memcpy(&d, block, sizeof d);
  want_half(halves, lane, d);
  for (int32_t k = 0; k < WEIR_QK; k++) {
    if (t == WEIR_Q8_0) {
      const weir_block_q8_0 *in = block;
      q[b % 2 * 8 * QUADS + k / 4 * QUADS + lane * 4 + k % 4] = (uint8_t)(in->q[k] + 128);
    } else if (t == WEIR_Q4_0) {
      const weir_block_q4_0 *in = block;
      want_nibble(q + b % 2 * 4 * QUADS, lane, k, in->q[k % 16] >> k / 16 * 4);
    } else {
      const int32_t bits = weir_q5_0_bits(block, k);
      want_5th(q + b % 2 * 5 * QUADS, lane, k, bits);
      want_nibble(q + (b % 2 * 5 + 1) * QUADS, lane, k, bits);
    }
  }
}

static void want_super_block(weir_dtype t, const void *block, int32_t lane, uint8_t *unit) {
  const weir_block_q4_k *k4 = block; /* Q5_K begins alike */
  const weir_block_q6_k *k6 = block;
  want_half(unit, lane, t == WEIR_Q6_K ? k6->d : k4->d);
  if (t != WEIR_Q6_K) want_half(unit + ROWS * 2, lane, k4->dmin);
  for (int32_t p = 0; t == WEIR_Q6_K && p < 16; p++) unit[ROWS * 2 + p * ROWS + lane] = (uint8_t)k6->scale[p];
  for (int32_t p = 0; t != WEIR_Q6_K && p < WEIR_K_PARTS; p++)
    weir_k_scale(k4->scale, p, &unit[ROWS * 4 + p * ROWS + lane],
                 &unit[ROWS * 4 + (WEIR_K_PARTS + p) * ROWS + lane]);
  for (int32_t k = 0; k < WEIR_QK_K; k++) {
    uint8_t *q = unit + (t == WEIR_Q6_K ? WEIR_PACK_Q6_SCALES : WEIR_PACK_K_SCALES);
    const int32_t part = k / WEIR_QK, i = k % WEIR_QK;
    if (t == WEIR_Q4_K) {
      want_nibble(q + part * 4 * QUADS, lane, i, weir_q4_k_bits(block, k));
    } else if (t == WEIR_Q5_K) {
      want_5th(q + part * 5 * QUADS, lane, i, weir_q5_k_bits(block, k));
      want_nibble(q + (part * 5 + 1) * QUADS, lane, i, weir_q5_k_bits(block, k));
    } else {
      want_5th_and_6th(q + part * 6 * QUADS, lane, i, weir_q6_k_bits(block, k));
      want_nibble(q + (part * 6 + 2) * QUADS, lane, i, weir_q6_k_bits(block, k));
    }
  }
}

static uint8_t *want_packed(const weir_host_mat *m, const weir_pack_seg *seg) {
  const weir_pack_form f = weir_pack_form_of(m->dtype);
  const int32_t elems = weir_dtype_get(m->dtype)->block_elems;
  const size_t block_bytes = (size_t)weir_dtype_get(m->dtype)->block_bytes;
  uint8_t *out = calloc((size_t)seg->n_groups, seg->group_bytes);
  assert_non_null(out);
  const uint8_t *block = m->data;
  for (int32_t row = 0; row < m->rows; row++)
    for (int32_t b = 0; b < m->cols / elems; b++, block += block_bytes) {
      uint8_t *unit = out + (size_t)(row / ROWS) * seg->group_bytes + (size_t)(b * elems / f.elems * f.bytes);
      if (elems == WEIR_QK)
        want_block_of_32(m->dtype, block, b, row % ROWS, unit);
      else
        want_super_block(m->dtype, block, row % ROWS, unit);
    }
  return out;
}

/* Memory that comes back from the system's allocator with something in it. */
static void dirty_memory(size_t bytes) {
  void *p[8];
  for (int i = 0; i < COUNT(p); i++) {
    p[i] = aligned_alloc(64, bytes / 64 * 64);
    assert_non_null(p[i]);
    memset(p[i], 0xa5, bytes / 64 * 64);
  }
  for (int i = 0; i < COUNT(p); i++) free(p[i]);
}

static void test_layout(void **state) {
  (void)state;
  static const int32_t rows[] = {1, 16, 19, 48}, cols[] = {32, 64, 96, 256, 768};
  kern_rng r = {73};
  kern_devs devs;
  kern_devs_open(&devs, &limits);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++)
    for (int c = 0; c < COUNT(cols); c++)
      for (int i = 0; i < COUNT(rows); i++) {
        if (!weir_dtype_is_quant((weir_dtype)t)) continue;
        if (cols[c] % weir_dtype_get((weir_dtype)t)->block_elems != 0) continue;
        stored s = make_stored(&r, &(shape){(weir_dtype)t, rows[i]}, 1, cols[c]);
        for (int d = 0; d < devs.n; d++) {
          weir_weight w = prepare(devs.dev[d], &s);
          dirty_memory(w.bytes);
          weir_weight_release(&w);
          w = prepare(devs.dev[d], &s);
          uint8_t *want = want_packed(&s.part[0], &weir_pack_of(&w)->seg[0]);
          char what[96];
          snprintf(what, sizeof what, "%s, %d x %d, %d threads", weir_dtype_get((weir_dtype)t)->name, rows[i],
                   cols[c], devs.threads[d]);
          kern_same(weir_pack_of(&w)->data, want, w.bytes, what);
          free(want);
          weir_weight_release(&w);
        }
        free_stored(&s);
      }
  kern_devs_close(&devs);
}

/* ---- threads ---- */

/* Large enough for memory to be had from the kernel in huge pages, and for pieces. */
static void test_threads(void **state) {
  (void)state;
  static const shape large[][MAX_PARTS] = {
      {{WEIR_Q4_0, 2048}, {WEIR_Q4_0, 256}, {WEIR_Q4_0, 260}},
      {{WEIR_Q6_K, 1500}, {WEIR_Q4_K, 1500}, {WEIR_Q8_0, 1500}},
      {{WEIR_Q5_0, 1000}, {WEIR_Q5_K, 1000}, {WEIR_F16, 1000}},
      {{WEIR_F32, 500}, {WEIR_BF16, 1000}, {WEIR_F16, 3}},
  };
  kern_rng r = {74};
  kern_devs devs;
  kern_devs_open(&devs, &limits);
  for (int k = 0; k < COUNT(large); k++) {
    stored s = make_stored(&r, large[k], 3, 1024);
    weir_weight one = prepare(devs.dev[0], &s);
    for (int d = 1; d < devs.n; d++) {
      weir_weight w = prepare(devs.dev[d], &s);
      assert_int_equal(w.bytes, one.bytes);
      assert_int_equal(w.rows, one.rows);
      kern_same(weir_pack_of(&w)->data, weir_pack_of(&one)->data, w.bytes, "by another team");
      weir_weight_release(&w);
    }
    weir_weight_release(&one);
    free_stored(&s);
  }
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_row), cmocka_unit_test(test_parts),
                                     cmocka_unit_test(test_layout), cmocka_unit_test(test_threads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
