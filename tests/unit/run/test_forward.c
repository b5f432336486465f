/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass against golden logits at every position, and against itself: whole, chunked, batched, on
 * any number of threads, in any pages, the bits are the same. */
#include <math.h>
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

/* Bounds on the worst row: largest deviation over the row's largest logit, for float weights; root mean
 * square over the row for quantised ones, whose activations are rounded to 8 bits (tests/vectors/README.md
 * has what the reference itself makes of that rounding). */
static const struct {
  const char *name;
  double rel, rms; /* 0: not asked */
} models[] = {
    {"llama-F32", 1e-5, 0},        {"llama-tied-F16", 1e-5, 0}, {"llama-tied-BF16", 1e-5, 0},
    {"qwen2-padded-F32", 1e-5, 0}, {"qwen3-F32", 1e-5, 0},      {"stories260k", 1e-5, 0},
    {"llama-Q8_0", 0, 0.2},        {"llama-Q4_0", 0, 0.2},      {"llama-mixed", 0, 0.2},
    {"qwen2-padded-Q8_0", 0, 0.2}, {"qwen3-Q4_0", 0, 0.2},      {"pair-small", 0, 0.2},
    {"pair-large", 0, 0.2},
};
enum { N_MODELS = sizeof models / sizeof *models };

static const weir_isa isas[] = {WEIR_ISA_SCALAR, WEIR_ISA_AVX2, WEIR_ISA_AVX512_VNNI};

static bool have(weir_isa isa) {
  weir_dev *d;
  weir_err e;
  const weir_cpu_opts o = {.n_threads = 1, .isa = isa};
  if (weir_dev_open_cpu(&o, &d, &e) != WEIR_OK) return false;
  weir_dev_destroy(d);
  return true;
}

static const int32_t *straight_pages(void) {
  static int32_t page[GOLDEN_PAGES];
  for (int32_t i = 0; i < GOLDEN_PAGES; i++) page[i] = i;
  return page;
}

static wvec vectors_in(const char *folder, const char *name) {
  char path[256];
  snprintf(path, sizeof path, "tests/vectors/%s/%s.wvec", folder, name);
  return wvec_read(path);
}
static wvec vectors_of(const char *name) { return vectors_in("logits", name); }

static void test_golden_logits(void **state) {
  (void)state;
  for (int32_t k = 0; k < N_MODELS; k++) {
    wvec v = vectors_of(models[k].name);
    for (size_t a = 0; a < sizeof isas / sizeof *isas; a++) {
      if (!have(isas[a])) {
        print_message("SKIP %s: this machine has no %s\n", models[k].name, weir_isa_name(isas[a]));
        continue;
      }
      model m = model_open(models[k].name, isas[a], 1, WEIR_F32);
      assert_int_equal(m.inst->h.n_vocab, v.n_vocab);
      double worst_rel = 0, worst_rms = 0;
      for (int32_t s = 0; s < v.n_seqs; s++) {
        const wvec_seq *q = &v.seq[s];
        float *got = malloc((size_t)q->n_tokens * (size_t)v.n_vocab * sizeof *got);
        feed(&m, q->id, 0, q->n_tokens, straight_pages(), got);
        for (int32_t i = 0; i < q->n_tokens; i++) {
          double max = 0, diff = 0, sum = 0;
          for (int32_t c = 0; c < v.n_vocab; c++) {
            const double want = q->logits[(size_t)i * v.n_vocab + c],
                         d = fabs(got[(size_t)i * v.n_vocab + c] - want);
            if (!(d <= diff)) diff = d; /* NaN too */
            if (fabs(want) > max) max = fabs(want);
            sum += d * d;
          }
          const double rel = diff / max, rms = sqrt(sum / v.n_vocab);
          if (!(rel <= worst_rel)) worst_rel = rel;
          if (!(rms <= worst_rms)) worst_rms = rms;
        }
        free(got);
      }
      print_message("%-18s %-12s worst row: relative %.2e, rms %.2e\n", models[k].name,
                    weir_isa_name(isas[a]), worst_rel, worst_rms);
      const bool ok = models[k].rel > 0 ? worst_rel <= models[k].rel : worst_rms <= models[k].rms;
      if (!ok)
        fail_msg("%s on %s: worst row %.3e relative, %.3e rms", models[k].name, weir_isa_name(isas[a]),
                 worst_rel, worst_rms);
      model_close(&m);
    }
    wvec_free(&v);
  }
}

/* The sharper vectors of the quantised models: the reference rounds activations by the engine's own rule, so
 * a position agrees to float accuracy until some value falls on the other side of a rounding. An engine that
 * rounds by another rule meets none; this one must meet 40 % of the positions of each model. */
static void test_golden_logits_of_rounded_activations(void **state) {
  (void)state;
  for (int32_t k = 0; k < N_MODELS; k++) {
    if (models[k].rms == 0) continue;
    wvec v = vectors_in("logits-q8", models[k].name);
    for (size_t a = 0; a < sizeof isas / sizeof *isas; a++) {
      if (!have(isas[a])) continue;
      model m = model_open(models[k].name, isas[a], 1, WEIR_F32);
      int32_t agree = 0, all = 0;
      for (int32_t s = 0; s < v.n_seqs; s++) {
        const wvec_seq *q = &v.seq[s];
        float *got = malloc((size_t)q->n_tokens * (size_t)v.n_vocab * sizeof *got);
        feed(&m, q->id, 0, q->n_tokens, straight_pages(), got);
        for (int32_t i = 0; i < q->n_tokens; i++, all++) {
          bool near = true;
          for (int32_t c = 0; c < v.n_vocab; c++) {
            const size_t at = (size_t)i * (size_t)v.n_vocab + (size_t)c;
            near &= fabs((double)got[at] - (double)q->logits[at]) <= 1e-4;
          }
          agree += near;
        }
        free(got);
      }
      print_message("%-18s %-12s %d of %d positions within 1e-4\n", models[k].name, weir_isa_name(isas[a]),
                    agree, all);
      if (10 * agree < 4 * all)
        fail_msg("%s on %s: %d of %d positions within 1e-4", models[k].name, weir_isa_name(isas[a]), agree,
                 all);
      model_close(&m);
    }
    wvec_free(&v);
  }
}

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
  for (int32_t k = 0; k < N_MODELS; k++) {
    wvec v = vectors_of(models[k].name);
    const wvec_seq *q = longest(&v);
    const size_t n = (size_t)q->n_tokens * (size_t)v.n_vocab;
    float *whole = malloc(n * sizeof *whole), *got = malloc(n * sizeof *got);
    for (int32_t kv = 0; kv < 2; kv++) {
      const weir_dtype t = kv ? WEIR_F16 : WEIR_F32;
      model m = model_open(models[k].name, WEIR_ISA_BEST, 1, t);
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
        expect_same(got, whole, q->n_tokens, v.n_vocab, round == 0 ? "token by token" : "in chunks",
                    models[k].name);
      }
      model_close(&m);
      /* ... and on more threads. */
      model m2 = model_open(models[k].name, WEIR_ISA_BEST, 3, t);
      feed(&m2, q->id, 0, q->n_tokens, straight_pages(), got);
      expect_same(got, whole, q->n_tokens, v.n_vocab, "3 threads", models[k].name);
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
  static const char *const names[] = {"llama-F32", "llama-mixed", "qwen2-padded-Q8_0", "qwen3-Q4_0"};
  enum { SEQS = 5, LEN = 60 };
  for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
    model m = model_open(names[k], WEIR_ISA_BEST, 2, WEIR_F16);
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
    for (int32_t step = 0; step < 200; step++) {
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
                        to[s] - from[s], vocab, "batched", names[k]);
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
      cmocka_unit_test(test_golden_logits),
      cmocka_unit_test(test_golden_logits_of_rounded_activations),
      cmocka_unit_test(test_chunked_is_whole),
      cmocka_unit_test(test_batched_is_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
