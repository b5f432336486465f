/* SPDX-License-Identifier: Apache-2.0 */
/* Weights that are fetched ahead, and the shares of a team that follow from it: shares always cover a weight
 * once, and results are the same bits whatever was fetched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/cpu/linear_cut.h"

/* Any lead, any team: ranks follow each other without a gap, and rank 0 never has more than an equal share.
 */
static void shares_cover_a_weight_once(void **state) {
  (void)state;
  static const int32_t groups[][2] = {{1, 0}, {7, 0}, {48, 16}, {80, 1}, {0, 5}};
  static const size_t leads[] = {0, 1, 640, 4096, 100000, SIZE_MAX};
  weir_pack *w = calloc(1, sizeof *w + 2 * sizeof *w->seg);
  assert_non_null(w);
  w->n_segs = 2;
  for (size_t c = 0; c < sizeof groups / sizeof *groups; c++)
    for (size_t l = 0; l < sizeof leads / sizeof *leads; l++)
      for (int32_t n_threads = 1; n_threads <= 9; n_threads++) {
        size_t first = 0, all = 0; /* bytes of rank 0, of everybody */
        w->lead = leads[l];
        for (int32_t s = 0; s < 2; s++)
          w->seg[s] = (weir_pack_seg){
              .dtype = WEIR_Q8_0, .n_groups = groups[c][s], .group_bytes = s ? (size_t)576 : (size_t)1088};
        for (int32_t s = 0; s < 2; s++) {
          int32_t at = 0, begin, end;
          for (int32_t r = 0; r < n_threads; r++) {
            weir_linear_share(w, s, true, r, n_threads, &begin, &end);
            assert_true(begin <= end);
            if (begin == end) continue;
            assert_int_equal(begin, at);
            at = end;
            all += (size_t)(end - begin) * w->seg[s].group_bytes;
            if (r == 0) first += (size_t)(end - begin) * w->seg[s].group_bytes;
            weir_linear_share(w, s, false, r, n_threads, &begin, &end);
            assert_int_equal(begin, end); /* nothing of the other kind */
          }
          assert_int_equal(at, groups[c][s]);
        }
        assert_true(first <= all / (size_t)n_threads + 2 * 1088);
      }
  free(w);
}

enum { DIM = 256, FF = 1024, STEPS = 8 };

/* y of two weights read in turn, step after step, as a model's are. */
static void run_steps(weir_dev *dev, const weir_host_mat *up, const weir_host_mat *down, const float *x,
                      float *out) {
  weir_err e = {0};
  weir_weight w[2] = {{0}};
  const weir_mat a = kern_mat(dev, 1, DIM, 0), b = kern_mat(dev, 1, FF, 0), c = kern_mat(dev, 1, DIM, 0);
  kern_ok(weir_weight_prepare(dev, up, 1, &w[0], &e), &e, "prepare");
  kern_ok(weir_weight_prepare(dev, down, 1, &w[1], &e), &e, "prepare");
  for (int32_t i = 0; i < STEPS; i++) {
    kern_put(dev, a, x + (size_t)i * DIM);
    kern_ok(weir_op_linear(dev, b, a, &w[0], NULL, &e), &e, "linear");
    kern_ok(weir_op_linear(dev, c, b, &w[1], NULL, &e), &e, "linear");
    float *y = kern_get(dev, c);
    memcpy(out + (size_t)i * DIM, y, DIM * sizeof *y);
    free(y);
  }
  for (int i = 0; i < 2; i++) weir_weight_release(&w[i]);
  kern_mat_free(dev, a);
  kern_mat_free(dev, b);
  kern_mat_free(dev, c);
}

static void bits_do_not_depend_on_it(void **state) {
  (void)state;
  static const weir_dtype types[] = {WEIR_Q4_0, WEIR_Q8_0, WEIR_F32};
  const weir_dev_limits lim = {.max_tokens = 1, .max_cols = FF, .max_rows_out = 1, .max_vocab = 1};
  kern_rng rng = {.s = 5};
  kern_devs d;
  kern_devs_open(&d, &lim);
  float *x = kern_normals(&rng, (size_t)STEPS * DIM, 1);
  float *want = malloc((size_t)STEPS * DIM * sizeof *want), *got = malloc((size_t)STEPS * DIM * sizeof *got);
  assert_true(want && got);
  for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
    const weir_dtype t = types[k];
    const size_t bytes =
        (size_t)DIM * FF / (size_t)weir_dtype_get(t)->block_elems * (size_t)weir_dtype_get(t)->block_bytes;
    uint8_t *blocks = malloc(2 * bytes);
    float *plain = kern_normals(&rng, 2 * (size_t)DIM * FF, 0.05f);
    assert_non_null(blocks);
    if (t == WEIR_F32)
      memcpy(blocks, plain, 2 * bytes);
    else
      kern_blocks(&rng, t, 2 * (size_t)DIM * FF / 32, blocks);
    const weir_host_mat up = {blocks, t, FF, DIM}, down = {blocks + bytes, t, DIM, FF};
    run_steps(d.dev[0], &up, &down, x, want);
    /* twice: the second time what has followed what is known from weights that are gone */
    for (int i = 0; i < d.n; i++)
      for (int again = 0; again < 2; again++) {
        run_steps(d.dev[i], &up, &down, x, got);
        kern_same(got, want, (size_t)STEPS * DIM * sizeof *got, weir_dtype_get(t)->name);
      }
    free(blocks);
    free(plain);
  }
  free(x);
  free(want);
  free(got);
  kern_devs_close(&d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shares_cover_a_weight_once),
      cmocka_unit_test(bits_do_not_depend_on_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
