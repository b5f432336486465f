/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass of every family against itself: whole, chunked, batched, on any number of threads, in any
 * pages, the bits are the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden.h"
#include "run/forward.h"

/* The longest golden sequence of a model and its logits when fed whole. */
static const wvec_seq *longest(const wvec *v) {
  const wvec_seq *best = &v->seq[0];
  for (int32_t i = 1; i < v->n_seqs; i++)
    if (v->seq[i].n_tokens > best->n_tokens) best = &v->seq[i];
  return best;
}

static void expect_same(const float *a, const float *b, int32_t rows, int32_t cols, const char *what,
                        const char *name) {
  for (int32_t i = 0; i < rows; i++)
    if (memcmp(a + (size_t)i * cols, b + (size_t)i * cols, (size_t)cols * sizeof *a) != 0)
      fail_msg("%s: %s: row %d differs", name, what, i);
}

static void test_chunked_is_whole(void **state) {
  (void)state;
  for (int32_t k = 0; k < GOLDEN_MODELS; k++) {
    const golden_model *g = &golden_models[k];
    wvec v = golden_vectors(g);
    const wvec_seq *q = longest(&v);
    const size_t n = (size_t)q->n_tokens * (size_t)v.n_vocab;
    float *whole = malloc(n * sizeof *whole), *got = malloc(n * sizeof *got);
    static const weir_dtype types[] = {WEIR_F32, WEIR_F16, WEIR_Q8_0};
    int32_t head_dim = 0;
    for (size_t kv = 0; kv < sizeof types / sizeof *types; kv++) {
      const weir_dtype t = types[kv];
      if (t == WEIR_Q8_0 && head_dim % 32 != 0) continue;
      model m = model_open_golden(g, WEIR_ISA_BEST, 1, t);
      head_dim = m.inst->h.head_dim;
      feed(&m, q->id, 0, q->n_tokens, straight_pages(), whole);
      srand(7);
      for (int32_t round = 0; round < 4; round++) {
        int32_t page[GOLDEN_PAGES];
        for (int32_t i = 0; i < GOLDEN_PAGES; i++)
          page[i] = GOLDEN_PAGES - 1 - (i * 7 + round) % GOLDEN_PAGES;
        for (int32_t at = 0; at < q->n_tokens;) {
          int32_t to = at + (round == 0 ? 1 : 1 + rand() % 30);
          if (to > q->n_tokens) to = q->n_tokens;
          feed(&m, q->id, at, to, page, got + (size_t)at * v.n_vocab);
          at = to;
        }
        expect_same(got, whole, q->n_tokens, v.n_vocab, round == 0 ? "token by token" : "in chunks", g->name);
      }
      model_close(&m);
      /* ... and on more threads. */
      model m2 = model_open_golden(g, WEIR_ISA_BEST, 3, t);
      feed(&m2, q->id, 0, q->n_tokens, straight_pages(), got);
      expect_same(got, whole, q->n_tokens, v.n_vocab, "3 threads", g->name);
      model_close(&m2);
    }
    free(whole);
    free(got);
    wvec_free(&v);
  }
}

/* Many sequences at different places in one batch, decode rows beside chunks, after roll-backs: each as if
 * alone. */
static void test_batched_is_alone(void **state) {
  (void)state;
  enum { SEQS = 5, LEN = 60, STEPS = 60 };
  for (int32_t k = 0; k < GOLDEN_MODELS; k++) {
    const golden_model *g = &golden_models[k];
    if (g->n_ctx > 0) continue; /* too short; the same model is there without */
    model m = model_open(g->name, WEIR_ISA_BEST, 2, WEIR_F16);
    const int32_t vocab = m.inst->h.n_vocab;
    int32_t tok[SEQS][LEN], done[SEQS] = {0}, page[SEQS][4];
    float *alone = malloc((size_t)SEQS * LEN * vocab * sizeof *alone),
          *got = malloc((size_t)GOLDEN_MAX_TOKENS * vocab * sizeof *got);
    srand(11);
    for (int32_t s = 0; s < SEQS; s++) {
      for (int32_t i = 0; i < LEN; i++) tok[s][i] = rand() % 280;
      for (int32_t p = 0; p < 4; p++) page[s][p] = (s * 4 + p) * 3 % GOLDEN_PAGES + 1;
      feed(&m, tok[s], 0, LEN, straight_pages(), alone + (size_t)s * LEN * vocab);
    }
    for (int32_t step = 0; step < STEPS; step++) {
      weir_err e = {0};
      weir_batch_builder b;
      int32_t from[SEQS], to[SEQS], row[SEQS];
      assert_int_equal(weir_batch_builder_init(&b, GOLDEN_MAX_TOKENS, SEQS, GOLDEN_PAGES, 1, &e), WEIR_OK);
      for (int32_t i = 0; i < SEQS; i++) {
        const int32_t s = (i + step) % SEQS;
        from[s] = to[s] = done[s];
        if (rand() % 4 == 0) continue;
        if (done[s] == LEN || rand() % 6 == 0) from[s] = done[s] > 0 ? rand() % done[s] : 0; /* roll back */
        to[s] = from[s] + (rand() % 2 ? 1 : 1 + rand() % 20);
        if (to[s] > LEN) to[s] = LEN;
        row[s] = weir_batch_add(&b, &(weir_batch_seq){tok[s], from[s], to[s], page[s], (to[s] + 15) / 16});
        for (int32_t r = 0; r < to[s] - from[s]; r++) weir_batch_ask(&b, row[s] + r);
      }
      const weir_batch batch = weir_batch_get(&b);
      if (batch.n_tokens > 0) {
        if (weir_forward_logits(m.inst, &batch, got, &e) != WEIR_OK) fail_msg("%s", e.msg);
        for (int32_t s = 0; s < SEQS; s++) {
          if (to[s] > from[s])
            expect_same(got + (size_t)row[s] * vocab, alone + ((size_t)s * LEN + (size_t)from[s]) * vocab,
                        to[s] - from[s], vocab, "batched", g->name);
          done[s] = to[s];
        }
      }
      weir_batch_builder_fini(&b);
    }
    free(alone);
    free(got);
    model_close(&m);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_chunked_is_whole),
      cmocka_unit_test(test_batched_is_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
