/* SPDX-License-Identifier: Apache-2.0 */
/* `weir perplexity` against a float64 reference (tests/vectors/make_perplexity_goldens.py), against what
 * llama-perplexity prints, and what must hold whatever the models. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "base/buf.h"
#include "e2e.h"
#include "model/gguf.h"

static double real_at(const json_t *o, const char *a, const char *b, const char *c) {
  const json_t *x = json_object_get(o, a);
  if (b) x = json_object_get(x, b);
  if (c) x = json_object_get(x, c);
  if (!json_is_number(x)) fail_msg("%s %s %s is not a number", a, b ? b : "", c ? c : "");
  return json_number_value(x);
}

static void want_near(double got, double want, double relative, const char *what) {
  if (!(fabs(got - want) <= relative * fabs(want)))
    fail_msg("%s: %.9g, want %.9g within %g", what, got, want, relative);
}

static json_t *measure(const char *options) {
  json_t *lines = e2e_json_of("perplexity --json -q %s", options);
  assert_int_equal(json_array_size(lines), 1);
  json_t *o = json_incref(json_array_get(lines, 0));
  assert_string_equal(json_string_value(json_object_get(o, "schema")), "weir.perplexity.v1");
  json_decref(lines);
  return o;
}

static void test_reference(void **state) {
  (void)state;
  json_error_t why;
  json_t *golden = json_load_file("tests/vectors/perplexity.json", 0, &why), *s;
  size_t i;
  if (!golden) fail_msg("%s", why.text);
  assert_true(json_array_size(json_object_get(golden, "settings")) >= 6);
  json_array_foreach(json_object_get(golden, "settings"), i, s) {
    static const char *const model[] = {"small", "large"};
    char options[256];
    const double scored = real_at(s, "scored", NULL, NULL);
    snprintf(options, sizeof options, "%s --ctx %d --stride %d --limit %d -e %g",
             json_string_value(json_object_get(golden, "text")), (int)real_at(s, "ctx", NULL, NULL),
             (int)real_at(s, "stride", NULL, NULL), (int)real_at(s, "limit", NULL, NULL),
             real_at(s, "tau", NULL, NULL));
    json_t *o = measure(options);
    assert_int_equal(json_integer_value(json_object_get(o, "scored")), (int)scored);
    for (size_t t = 0; t < 2; t++) {
      const double nll = json_number_value(json_array_get(json_object_get(s, "nll"), t));
      const double h = json_number_value(json_array_get(json_object_get(s, "entropy"), t));
      const double above = json_number_value(json_array_get(json_object_get(s, "above_tau"), t));
      /* 8-bit activations move these by up to 0.1 %, a share by a few rows near the line */
      want_near(real_at(o, "models", model[t], "nll"), nll, 0.003, options);
      want_near(real_at(o, "models", model[t], "perplexity"), exp(real_at(o, "models", model[t], "nll")),
                1e-6, options);
      want_near(real_at(o, "models", model[t], "entropy"), h, 0.003, options);
      if (fabs(real_at(o, "models", model[t], "above_tau") - above) * scored > 4.5)
        fail_msg("%s: %s above tau %g, want %g", options, model[t],
                 real_at(o, "models", model[t], "above_tau"), above);
    }
    want_near(real_at(o, "cascade", "nll", NULL), real_at(s, "cascade_nll", NULL, NULL), 0.01, options);
    if (fabs(real_at(o, "pair", "same_top1", NULL) - real_at(s, "same_top1", NULL, NULL)) * scored > 4.5)
      fail_msg("%s: same_top1 %g, want %g", options, real_at(o, "pair", "same_top1", NULL),
               real_at(s, "same_top1", NULL, NULL));
    json_decref(o);
  }
  json_decref(golden);
}

/* With a threshold that nothing passes, or everything, the cascade is one of the two; the windows change
 * nothing but who sees what; one model measured alone is that model measured beside the other. */
static void test_identities(void **state) {
  (void)state;
  static const char text[] = "models/tasks-test.jsonl --limit 260 -c 64";
  char line[256];
  snprintf(line, sizeof line, "%s -e inf", text);
  json_t *never = measure(line);
  snprintf(line, sizeof line, "%s -e -1", text);
  json_t *always = measure(line);
  want_near(real_at(never, "cascade", "nll", NULL), real_at(never, "models", "small", "nll"), 0,
            "never defers");
  want_near(real_at(always, "cascade", "nll", NULL), real_at(never, "models", "large", "nll"), 0,
            "always defers");
  want_near(real_at(never, "cascade", "deferral_rate", NULL), 0, 0, "never defers");
  want_near(real_at(always, "cascade", "deferral_rate", NULL), 1, 0, "always defers");
  assert_true(json_is_null(json_object_get(json_object_get(always, "pair"), "same_top1_below_tau")));
  snprintf(line, sizeof line, "%s --large models/weir-demo-large-Q8_0.gguf", text);
  json_t *alone = measure(line);
  want_near(real_at(alone, "models", "large", "nll"), real_at(never, "models", "large", "nll"), 0, "alone");
  assert_null(json_object_get(alone, "pair"));
  assert_null(json_object_get(json_object_get(alone, "models"), "small"));
  /* a window as long as the text scores all of it but its first token, by any stride */
  json_t *whole = measure("models/tasks-test.jsonl --limit 100 -c 128 --stride 128");
  json_t *slid = measure("models/tasks-test.jsonl --limit 100 -c 128 --stride 3");
  assert_int_equal(json_integer_value(json_object_get(whole, "scored")), 99);
  assert_int_equal(json_integer_value(json_object_get(whole, "windows")), 1);
  want_near(real_at(slid, "models", "large", "nll"), real_at(whole, "models", "large", "nll"), 0,
            "one window");
  /* bits of all scored tokens are those of their bytes: 99 tokens after the begin-of-text token */
  want_near(real_at(whole, "models", "small", "bits_per_byte"),
            99 * real_at(whole, "models", "small", "nll") / log(2) / real_at(whole, "bytes", NULL, NULL),
            1e-6, "bits");
  json_decref(never);
  json_decref(always);
  json_decref(alone);
  json_decref(whole);
  json_decref(slid);
}

static void test_refusals(void **state) {
  (void)state;
  static const struct {
    const char *line, *in, *says;
    int status;
  } cases[] = {
      {"perplexity -c 128", "too short", "the text has 4 tokens, want at least 128", 1},
      {"perplexity --stride 8", "", "want at least 2", 1},
      {"perplexity -c 64 --stride 65", "x", "--stride 65 is more than the window of 64", 2},
      {"perplexity -c 3", "x", "want at least 4", 2},
      {"perplexity a.txt b.txt", NULL, "want one", 2},
      {"perplexity no/such/file", NULL, "No such file", 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    e2e_result r = e2e_run(&(e2e_run_opts){.line = cases[i].line, .in = cases[i].in});
    e2e_want_status(&r, cases[i].status, cases[i].line);
    e2e_want_in(r.err, cases[i].says, cases[i].line);
    assert_int_equal(r.out_len, 0);
    e2e_free(&r);
  }
}

/* A model so sure and so wrong that e to the mean is no number: null, and the rest of the object is there. */
static void test_infinite(void **state) {
  (void)state;
  static const char from[] = "tests/vectors/models/llama-F32.gguf";
  struct stat is;
  weir_gguf *g;
  weir_err e = {0};
  assert_int_equal(stat(from, &is), 0);
  char *bytes = e2e_read(from);
  if (weir_gguf_parse(bytes, (size_t)is.st_size, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const weir_gguf_tensor *norm = weir_gguf_find(g, "output_norm.weight");
  assert_non_null(norm);
  for (int64_t i = 0; i < norm->dim[0]; i++) {
    float w;
    char *at = bytes + ((const char *)norm->data - bytes) + 4 * i;
    memcpy(&w, at, sizeof w);
    w *= 1e6F;
    memcpy(at, &w, sizeof w);
  }
  weir_gguf_close(g);
  const char *path = e2e_temp("sure.gguf");
  e2e_write(path, bytes, (size_t)is.st_size);
  free(bytes);
  char options[512];
  snprintf(options, sizeof options, "--small %s --large %s --limit 64 -c 32 --entropy -1 models/README.md",
           path, path);
  json_t *o = measure(options);
  for (int i = 0; i < 3; i++) {
    const json_t *at = i < 2 ? json_object_get(json_object_get(o, "models"), i ? "large" : "small")
                             : json_object_get(o, "cascade");
    if (!json_is_null(json_object_get(at, "perplexity"))) fail_msg("%d: perplexity is no null", i);
    assert_true(json_is_number(json_object_get(at, "nll")));
  }
  json_decref(o);
}

static void test_table(void **state) {
  (void)state;
  e2e_result r = e2e("perplexity models/tasks-test.jsonl --limit 300 -c 64");
  e2e_want_status(&r, 0, "table");
  e2e_want_in(r.out, "perplexity", "table");
  e2e_want_in(r.out, "\nsmall ", "table");
  e2e_want_in(r.out, "\nlarge ", "table");
  e2e_want_in(r.out, "\ncascade ", "table");
  e2e_want_in(r.err, "300 tokens, 4 windows of 64", "summary");
  e2e_free(&r);
}

/* What llama-perplexity of llama.cpp (0c1e57098) prints for the same files, -c 512 -ctk f32 -ctv f32 -fa off,
 * after two chunks: 726.7251 and 665.6304. Weights in F16 on both sides, so nothing is rounded differently.
 * transformers 5.23 in float32, windows of 256 every 100 tokens over the first 1500, with the loop of its
 * documentation: 696.562529, mean entropy 5.08401367. */
static void test_llama_perplexity(void **state) {
  (void)state;
  static const char text[] = "../shared/data/eval/wikitext2-valid.txt";
  if (access(text, R_OK) != 0) {
    print_message("SKIP: %s is not there\n", text);
    skip();
  }
  json_t *o = measure(
      "../shared/data/eval/wikitext2-valid.txt --kv f32 --limit 1024 --small "
      "../shared/data/models/pair-cpu/pair-small-F16.gguf --large "
      "../shared/data/models/pair-cpu/pair-large-F16.gguf");
  assert_int_equal(json_integer_value(json_object_get(o, "windows")), 2);
  want_near(real_at(o, "models", "small", "perplexity"), 726.7251, 1e-5, "small");
  want_near(real_at(o, "models", "large", "perplexity"), 665.6304, 1e-5, "large");
  json_decref(o);
  o = measure(
      "../shared/data/eval/wikitext2-valid.txt --kv f32 --limit 1500 -c 256 --stride 100 --small "
      "../shared/data/models/pair-cpu/pair-small-F16.gguf");
  assert_int_equal(json_integer_value(json_object_get(o, "scored")), 1499);
  want_near(real_at(o, "models", "small", "perplexity"), 696.562529, 1e-5, "small, sliding");
  want_near(real_at(o, "models", "small", "entropy"), 5.08401367, 1e-5, "small, entropy");
  json_decref(o);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reference),        cmocka_unit_test(test_identities),
      cmocka_unit_test(test_refusals),         cmocka_unit_test(test_table),
      cmocka_unit_test(test_llama_perplexity), cmocka_unit_test(test_infinite),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
