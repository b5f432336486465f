/* SPDX-License-Identifier: Apache-2.0 */
/* What `weir quantize` does to a model: the error of its weights, logits against those of the same weights in
 * F32, the text it writes, perplexity before and after. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "golden.h"
#include "quantize_files.h"

/* Errors are of the size that bits give, and those that are told are those of the file. */
static void test_errors(void **state) {
  (void)state;
  static const struct {
    const char *type;
    double least, most;
  } cases[] = {{"F16", 0, 1e-5},     {"BF16", 0, 0},       {"Q8_0", 3e-3, 8e-3}, {"Q6_K", 8e-3, 3e-2},
               {"Q5_0", 3e-2, 6e-2}, {"Q5_K", 2e-2, 5e-2}, {"Q4_0", 6e-2, 0.12}, {"Q4_K", 4e-2, 0.1}};
  weir_gguf *in = quantize_open(MODELS "quantize-256.gguf");
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    json_t *all = e2e_json_of("quantize --json --type %s --head %s " MODELS "quantize-256.gguf %s",
                              cases[k].type, cases[k].type, quantize_path("err.gguf"));
    char line[1400];
    snprintf(line, sizeof line, "quantize -q --requantize --type F32 %s %s", quantize_path("err.gguf"),
             quantize_path("back.gguf"));
    quantize_must_run(line);
    weir_gguf *back = quantize_open(quantize_path("back.gguf"));
    json_t *t;
    size_t i;
    json_array_foreach(all, i, t) {
      const char *name = json_string_value(json_object_get(t, "name"));
      if (!name || strcmp(json_string_value(json_object_get(t, "to")), cases[k].type) != 0) continue;
      const double told = json_real_value(json_object_get(t, "rms"));
      const weir_gguf_tensor *a = weir_gguf_find(in, name), *b = weir_gguf_find(back, name);
      double err2 = 0, sum2 = 0;
      for (int64_t j = 0; j < a->dim[0] * a->dim[1]; j++) {
        const uint32_t bits = (uint32_t)((const uint16_t *)a->data)[j] << 16; /* BF16 */
        float x;
        memcpy(&x, &bits, sizeof x);
        const double d = (double)x - (double)((const float *)b->data)[j];
        err2 += d * d;
        sum2 += (double)x * (double)x;
      }
      const double rms = sqrt(err2 / sum2);
      if (fabs(rms - told) > 1e-6 * rms)
        fail_msg("%s as %s: rms %g is told, it is %g", name, cases[k].type, told, rms);
      if (!(rms >= cases[k].least && rms <= cases[k].most))
        fail_msg("%s as %s: rms %g", name, cases[k].type, rms);
    }
    weir_gguf_close(back);
    json_decref(all);
    quantize_sweep();
  }
  weir_gguf_close(in);
}

/* ---- running it ---- */

/* Logits of a quantised file against those of a file with the same weights in F32: the bounds of
 * tests/unit/run/test_forward.c, where quantised weights meet activations rounded to 8 bits. */
static void test_logits(void **state) {
  (void)state;
  static const struct {
    const char *model, *type;
    bool rounded;
  } cases[] = {
      {"llama-F32", "Q8_0", true},    {"llama-F32", "Q4_0", true},    {"llama-F32", "Q5_0", true},
      {"llama-F32", "F16", false},    {"llama-F32", "BF16", false},   {"stories260k", "Q4_K", true},
      {"quantize-256", "Q8_0", true}, {"quantize-256", "Q4_0", true}, {"quantize-256", "Q5_0", true},
      {"quantize-256", "Q4_K", true}, {"quantize-256", "Q5_K", true}, {"quantize-256", "Q6_K", true},
      {"quantize-256", "F16", false}, {"quantize-256", "F32", false},
  };
  enum { N = 40 };
  int32_t tok[N], page[GOLDEN_PAGES];
  for (int32_t i = 0; i < GOLDEN_PAGES; i++) page[i] = i;
  srand(5);
  for (int32_t i = 0; i < N; i++) tok[i] = rand() % 280;
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    char options[64], line[1400], a[600], b[600];
    snprintf(options, sizeof options, "--type %s", cases[k].type);
    snprintf(a, sizeof a, "%s", quantized(cases[k].model, options, "q.gguf"));
    snprintf(b, sizeof b, "%s", quantize_path("f.gguf"));
    snprintf(line, sizeof line, "quantize -q --requantize --type F32 %s %s", a, b);
    quantize_must_run(line);
    model q = model_open(a, WEIR_ISA_BEST, 1, WEIR_F32), f = model_open(b, WEIR_ISA_BEST, 1, WEIR_F32);
    const int32_t vocab = q.inst->h.n_vocab;
    float *got = malloc(N * (size_t)vocab * sizeof *got), *want = malloc(N * (size_t)vocab * sizeof *want);
    feed(&q, tok, 0, N, page, got);
    feed(&f, tok, 0, N, page, want);
    double worst_rel = 0, worst_rms = 0;
    for (int32_t i = 0; i < N; i++) {
      double max = 0, diff = 0, sum = 0;
      for (int32_t c = 0; c < vocab; c++) {
        const double x = want[(size_t)i * vocab + c], d = fabs(got[(size_t)i * vocab + c] - x);
        if (!(d <= diff)) diff = d;
        if (fabs(x) > max) max = fabs(x);
        sum += d * d;
      }
      if (!(diff / max <= worst_rel)) worst_rel = diff / max;
      if (!(sqrt(sum / vocab) <= worst_rms)) worst_rms = sqrt(sum / vocab);
    }
    print_message("%-14s %-5s worst row: relative %.2e, rms %.2e\n", cases[k].model, cases[k].type, worst_rel,
                  worst_rms);
    if (!(cases[k].rounded ? worst_rms <= 0.2 : worst_rel <= 1e-5))
      fail_msg("%s as %s: worst row %.3e relative, %.3e rms", cases[k].model, cases[k].type, worst_rel,
               worst_rms);
    free(got);
    free(want);
    model_close(&q);
    model_close(&f);
    quantize_sweep();
  }
}

/* The models that gguf-py has quantised give the same text as those made here. */
static void test_run(void **state) {
  (void)state;
  static const char *const types[] = {"Q8_0", "Q4_0"};
  for (size_t k = 0; k < 2; k++) {
    char options[64];
    snprintf(options, sizeof options, "--type %s --head %s", types[k], types[k]);
    const char *path = quantized("llama-F32", options, "run.gguf");
    e2e_result got = e2e("run -q -p 'the and' -n 40 --ignore-eos --small %s", path),
               want = e2e("run -q -p 'the and' -n 40 --ignore-eos --small " MODELS "llama-%s.gguf", types[k]);
    e2e_want_status(&got, 0, path);
    e2e_want_status(&want, 0, types[k]);
    assert_true(want.out_len > 20);
    assert_string_equal(got.out, want.out);
    e2e_free(&got);
    e2e_free(&want);
    quantize_sweep();
  }
  static const char *const others[] = {"Q4_K", "Q5_K", "Q6_K", "Q5_0", "BF16"};
  for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
    char options[64];
    snprintf(options, sizeof options, "--type %s", others[k]);
    e2e_result r = e2e("run -q -p 'the and' -n 20 --ignore-eos --small %s",
                       quantized("quantize-256", options, "run.gguf"));
    e2e_want_status(&r, 0, others[k]);
    assert_true(r.out_len > 10);
    e2e_free(&r);
    quantize_sweep();
  }
}

/* The cost that is told is that of `weir perplexity` on the two files. */
static void test_text(void **state) {
  (void)state;
  const char *text = e2e_temp("text.txt");
  FILE *f = fopen(text, "w");
  assert_non_null(f);
  srand(3);
  for (int i = 0; i < 1200; i++) fputs((const char *[]){"the ", "and ", "she ", "went.\n"}[rand() % 4], f);
  fclose(f);
  json_t *all = e2e_json_of("quantize --json --type Q4_0 --text %s --limit 1000 " MODELS "llama-F32.gguf %s",
                            text, quantize_path("text.gguf"));
  json_t *told = json_array_get(all, json_array_size(all) - 1);
  json_t *two =
      e2e_json_of("perplexity --json --limit 1000 --ctx 512 --small %s --large " MODELS "llama-F32.gguf %s",
                  quantize_path("text.gguf"), text);
  json_t *models = json_object_get(json_array_get(two, 0), "models");
  const double before = json_real_value(json_object_get(told, "perplexity_in")),
               after = json_real_value(json_object_get(told, "perplexity_out"));
  assert_true(before > 1 && after > 1 && before != after);
  assert_true(before == json_real_value(json_object_get(json_object_get(models, "large"), "perplexity")));
  assert_true(after == json_real_value(json_object_get(json_object_get(models, "small"), "perplexity")));
  json_decref(two);
  json_decref(all);
  quantize_sweep();
  e2e_result r =
      e2e("quantize --type Q4_0 --text %s " MODELS "llama-F32.gguf %s", text, quantize_path("text.gguf"));
  e2e_want_status(&r, 0, "--text");
  e2e_want_in(r.out, "perplexity: ", "--text");
  e2e_want_in(r.out, " after: x ", "--text");
  e2e_free(&r);
  assert_int_equal(quantize_sweep(), 1);
  /* a text that is too short or not there is told before anything is written */
  e2e_write(text, "the", 3);
  r = e2e("quantize --text %s " MODELS "llama-F32.gguf %s", text, quantize_path("text.gguf"));
  e2e_want_status(&r, 2, "a short text");
  e2e_want_in(r.err, "to measure perplexity", "a short text");
  e2e_free(&r);
  r = e2e("quantize --text /nonexistent.txt " MODELS "llama-F32.gguf %s", quantize_path("text.gguf"));
  e2e_want_status(&r, 1, "no text");
  e2e_want_in(r.err, "/nonexistent.txt", "no text");
  e2e_free(&r);
  assert_int_equal(quantize_sweep(), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_errors),
      cmocka_unit_test(test_logits),
      cmocka_unit_test(test_run),
      cmocka_unit_test(test_text),
  };
  return cmocka_run_group_tests(tests, quantize_setup, quantize_teardown);
}
