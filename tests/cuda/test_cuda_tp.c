/* SPDX-License-Identifier: Apache-2.0 */
/* Models cut over ranks on one emulated GPU: logits against the golden ones, steps that are recorded and
 * played again, a vocabulary of which some ranks have nothing. Ranks are threads, each with its device. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "run/forward.h"
#include "tp_group.h"

/* Bounds as in test_cuda_models.c, of the coarsest weights. */
static const struct {
  const char *name;
  int32_t n_ranks;
  double most;
} rows[] = {
    {"llama-F32", 2, 2e-3},
    {"llama-Q8_0", 4, 4e-2},        /* a rank without a part of the MLP, heads that end inside blocks */
    {"qwen2-padded-Q8_0", 2, 4e-2}, /* biases, and the like */
    {"gemma2-BF16", 2, 4e-2},       /* norms behind the sums, one KV head for both */
    {"mixtral-BF16", 2, 4e-2},
};
enum { N_ROWS = sizeof rows / sizeof *rows, PROMPT = 12, NEW = 4, MOST = 16 };

static int32_t arg_max(const float *x, int32_t n, double *gap) {
  int32_t best = 0;
  double second = -INFINITY;
  for (int32_t i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  for (int32_t i = 0; i < n; i++)
    if (i != best && x[i] > second) second = x[i];
  *gap = x[best] - second;
  return best;
}

static void check(const char *name, int32_t n, double most) {
  weir_err e = {0};
  weir_dev *dev[TP_MAX];
  cu_shim_config c = cu_shim_defaults();
  c.n_sms = 8; /* two for each rank */
  c.seed = 3;
  cu_shim_reset(&c);
  for (int32_t r = 0; r < n; r++) dev[r] = cuda_test_open(NULL, false);
  wvec v = golden_vectors(&(golden_model){.name = name,
                                          .exact = name[0] == 'g'   ? "gemma2"
                                                   : name[0] == 'm' ? "mixtral"
                                                                    : name});
  const wvec_seq *q = &v.seq[v.n_seqs - 1];
  assert_true(q->n_tokens >= PROMPT + NEW);
  tp_group g = tp_open(&(tp_opts){
      .name = name, .n_ranks = n, .kv = WEIR_F16, .max_tokens = MOST, .dev = dev, .kind = WEIR_COMM_LOCAL});
  float *got = malloc((size_t)PROMPT * (size_t)v.n_vocab * sizeof *got);
  double worst = 0;
  tp_feed(&g, q->id, 0, PROMPT, straight_pages(), got);
  for (int32_t i = 0; i < PROMPT; i++) {
    double max = 0, diff = 0;
    for (int32_t k = 0; k < v.n_vocab; k++) {
      const double want = q->logits[(size_t)i * (size_t)v.n_vocab + (size_t)k],
                   d = fabs(got[(size_t)i * (size_t)v.n_vocab + (size_t)k] - want);
      if (!(d <= diff)) diff = d;
      max = fmax(max, fabs(want));
    }
    if (!(diff / max <= worst)) worst = diff / max;
  }
  if (!(worst <= most)) fail_msg("%s on %d ranks: wrong by %g of a row's largest logit", name, n, worst);
  /* Decode: the first of these steps is recorded, the others are played. */
  int32_t clear = 0;
  for (int32_t at = PROMPT; at < PROMPT + NEW; at++) {
    weir_batch_builder b;
    weir_row row;
    double gap;
    assert_int_equal(weir_batch_builder_init(&b, 1, 1, GOLDEN_PAGES, 1, &e), WEIR_OK);
    weir_batch_add(&b, &(weir_batch_seq){q->id, at, at + 1, straight_pages(), (at + 16) / 16});
    *weir_batch_ask(&b, 0) = (weir_ask){.top_p = 1, .pos = at + 1, .probe = -1};
    const weir_batch batch = weir_batch_get(&b);
    if (tp_forward(&g, &batch, &row, NULL, &e) != WEIR_OK) fail_msg("%s: %s", name, e.msg);
    const float *want = q->logits + (size_t)at * (size_t)v.n_vocab;
    const int32_t best = arg_max(want, v.n_vocab, &gap);
    weir_batch_builder_fini(&b);
    if (gap < 2 * most * fabs(want[best])) continue;
    clear++;
    if (row.token != best) fail_msg("%s on %d ranks: token %d is %d, want %d", name, n, at, row.token, best);
  }
  print_message("%s on %d ranks: worst row %.1e, %d of %d tokens compared\n", name, n, worst, clear, NEW);
  free(got);
  wvec_free(&v);
  tp_close(&g);
  for (int32_t r = 0; r < n - 1; r++) weir_dev_destroy(dev[r]);
  cuda_test_close(dev[n - 1]);
}

static void models_over_ranks(void **state) {
  (void)state;
  for (int32_t i = 0; i < N_ROWS; i++) check(rows[i].name, rows[i].n_ranks, rows[i].most);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(models_over_ranks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
