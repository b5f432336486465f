/* SPDX-License-Identifier: Apache-2.0 */
/* The shipped pair against the float64 reference (tests/vectors/greedy): greedy tokens up to the first
 * position whose top-2 gap is within what 8-bit activations can turn, and entropies in nats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <jansson.h>

#include "golden.h"

/* The reference saw no arg-max turn at a gap above 0.08 logits, nor an entropy move by more than its
 * max_entropy_deviation, when it rounded as the engine does; twice and more is allowed here. */
static const double gap_bound = 0.5;

static json_t *line_of(FILE *f) {
  char *text = NULL;
  size_t cap = 0;
  json_t *o = NULL;
  const ssize_t n = getline(&text, &cap, f);
  if (n > 0) {
    json_error_t e;
    o = json_loadb(text, (size_t)n, 0, &e);
    if (!o) fail_msg("golden line: %s", e.text);
  }
  free(text);
  return o;
}

static int32_t ids_of(const json_t *o, const char *key, int32_t *out, int32_t at) {
  const json_t *a = json_object_get(o, key);
  for (size_t i = 0; i < json_array_size(a); i++, at++) {
    assert_true(at < GOLDEN_MAX_TOKENS);
    out[at] = (int32_t)json_integer_value(json_array_get(a, i));
  }
  return at;
}

static double number(const json_t *o, const char *key, int32_t i) {
  return json_number_value(json_array_get(json_object_get(o, key), (size_t)i));
}

static int32_t arg_max(const float *x, int32_t n) {
  int32_t b = 0;
  for (int32_t i = 1; i < n; i++)
    if (x[i] > x[b]) b = i;
  return b;
}

static double entropy_of(const float *x, int32_t n) {
  double z = 0, s = 0, max = (double)x[arg_max(x, n)];
  for (int32_t i = 0; i < n; i++) {
    const double d = (double)x[i] - max, p = exp(d);
    z += p;
    s += d * p;
  }
  return log(z) - s / z;
}

static void check(const char *name) {
  char gguf[128], golden[128];
  struct stat size;
  int32_t page[GOLDEN_PAGES], tokens = 0, whole = 0, lines = 0;
  snprintf(gguf, sizeof gguf, "models/%s.gguf", name);
  snprintf(golden, sizeof golden, "tests/vectors/greedy/%s.jsonl", name);
  FILE *f = fopen(golden, "r");
  if (!f) fail_msg("cannot open %s", golden);
  json_t *head = line_of(f);
  if (stat(gguf, &size) != 0 || size.st_size != (off_t)json_integer_value(json_object_get(head, "bytes")))
    fail_msg("%s does not belong to %s: run tests/vectors/make_pair_goldens.py", golden, gguf);
  const double h_bound = 2 * json_number_value(json_object_get(head, "max_entropy_deviation"));
  model m = model_open(gguf, WEIR_ISA_BEST, 2, WEIR_F16);
  const int32_t vocab = m.inst->h.n_vocab;
  float *logits = malloc((size_t)GOLDEN_MAX_TOKENS * (size_t)vocab * sizeof *logits);
  for (int32_t i = 0; i < GOLDEN_PAGES; i++) page[i] = i;
  json_decref(head);
  for (json_t *o = line_of(f); o; o = line_of(f)) {
    int32_t tok[GOLDEN_MAX_TOKENS];
    const bool greedy = strcmp(json_string_value(json_object_get(o, "kind")), "greedy") == 0;
    const int32_t n_ids = ids_of(o, "ids", tok, 0), n = greedy ? ids_of(o, "next", tok, n_ids) : n_ids;
    feed(&m, tok, 0, n, page, logits);
    bool agreed = true;
    for (int32_t i = 0; i < (greedy ? n - n_ids : n); i++) {
      const float *row = logits + (size_t)(greedy ? n_ids - 1 + i : i) * (size_t)vocab;
      const double h = entropy_of(row, vocab), want = number(o, "entropy", i);
      if (!(fabs(h - want) <= h_bound)) fail_msg("%s: entropy %g, want %g at %d", name, h, want, i);
      if (!greedy) continue;
      if (number(o, "gap", i) < gap_bound) {
        agreed = false;
        break;
      }
      tokens++;
      if (arg_max(row, vocab) != tok[n_ids + i])
        fail_msg("%s: token %d of a continuation is %d, want %d", name, i, arg_max(row, vocab),
                 tok[n_ids + i]);
    }
    lines += greedy;
    whole += greedy && agreed;
    json_decref(o);
  }
  print_message("%s: %d greedy tokens the reference's own, %d of %d continuations whole\n", name, tokens,
                whole, lines);
  assert_true(lines > 0 && tokens > 20);
  free(logits);
  model_close(&m);
  fclose(f);
}

static void small(void **state) {
  (void)state;
  check("weir-demo-small-Q8_0");
}
static void large(void **state) {
  (void)state;
  check("weir-demo-large-Q8_0");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(small), cmocka_unit_test(large)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
