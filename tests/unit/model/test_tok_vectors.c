/* SPDX-License-Identifier: Apache-2.0 */
/* Pre-tokenisers and the demo tokenizer against what Hugging Face's tokenizers library gives
 * (tests/vectors/tokenizer, or the folder given as argument: see generate.py there). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tok_pretok.h"
#include "model/tokenizer.h"

enum { LINE = 1 << 16, MAX_NUMBERS = 4096 };

static const char *folder = "tests/vectors/tokenizer";

static FILE *open_vectors(const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *f = fopen(path, "r");
  if (!f) fail_msg("cannot open %s", path);
  return f;
}

/* "\xNN" back to bytes, in place; returns the length. */
static size_t unescape(char *s) {
  size_t n = 0;
  for (const char *p = s; *p;) {
    unsigned byte;
    if (p[0] == '\\' && p[1] == 'x' && sscanf(p + 2, "%2x", &byte) == 1) {
      s[n++] = (char)(unsigned char)byte;
      p += 4;
    } else {
      s[n++] = *p++;
    }
  }
  return n;
}

static int numbers(const char *s, int32_t *out) {
  int n = 0;
  for (char *end; *s; s = end) {
    const long v = strtol(s, &end, 10);
    if (end == s) break;
    assert_true(n < MAX_NUMBERS);
    out[n++] = (int32_t)v;
  }
  return n;
}

/* One line without its end; fields[0..n) at the tabs. False at the end of the file. */
static bool read_fields(FILE *f, char *line, char **field, int n) {
  do {
    if (!fgets(line, LINE, f)) return false;
  } while (line[0] == '#');
  assert_non_null(strchr(line, '\n'));
  *strchr(line, '\n') = 0;
  for (int i = 0; i < n; i++) {
    field[i] = line;
    char *tab = strchr(line, '\t');
    if (i + 1 < n) {
      assert_non_null(tab);
      *tab = 0;
      line = tab + 1;
    }
  }
  return true;
}

static void pieces(void **state) {
  const bool no_jit = *state != NULL;
  static char line[LINE];
  static int32_t want[MAX_NUMBERS];
  char *field[3], name[64] = "";
  weir_pretok *p = NULL;
  weir_err e = {0};
  int rows = 0, kinds = 0;
  FILE *f = open_vectors("pretok.txt");
  while (read_fields(f, line, field, 3)) {
    if (strcmp(name, field[0]) != 0) {
      assert_true(strlen(field[0]) < sizeof name);
      memcpy(name, field[0], strlen(field[0]) + 1);
      weir_pretok_destroy(p);
      if (weir_pretok_create_named(weir_str_of(name), no_jit, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
      kinds++;
    }
    char shown[WEIR_STR_SHOW_BYTES];
    const size_t len = unescape(field[1]);
    const int n_want = numbers(field[2], want);
    weir_cut cut;
    size_t begin = 0;
    if (weir_pretok_run(p, field[1], len, true, true, NULL, &cut, &e) != WEIR_OK) fail_msg("%s", e.msg);
    bool same = cut.n == (size_t)n_want;
    for (size_t i = 0; same && i < cut.n; i++) {
      same = cut.piece[i].begin == begin && cut.piece[i].end - begin == (size_t)want[i];
      begin = cut.piece[i].end;
    }
    if (!same)
      fail_msg("%s cuts %s into %zu pieces, want %d: %s", name,
               weir_str_show((weir_str){field[1], len}, shown), cut.n, n_want, field[2]);
    rows++;
  }
  fclose(f);
  weir_pretok_destroy(p);
  print_message("%d texts, %d patterns\n", rows, kinds);
  assert_true(rows > 1000 && kinds == 4);
}

static void demo_tokens(void **state) {
  (void)state;
  static char line[LINE];
  static int32_t want[MAX_NUMBERS];
  char *field[2];
  weir_err e = {0};
  weir_gguf *g;
  weir_tokenizer *t;
  int rows = 0;
  if (weir_gguf_open("models/weir-demo-small-Q8_0.gguf", &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  FILE *f = open_vectors("demo_tokens.txt");
  while (read_fields(f, line, field, 2)) {
    char shown[WEIR_STR_SHOW_BYTES];
    const size_t len = unescape(field[0]);
    const int n_want = numbers(field[1], want);
    weir_tokens ids = {0};
    if (weir_tokenize(t, field[0], len, true, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (ids.n != n_want || (n_want && memcmp(ids.id, want, (size_t)n_want * sizeof *want) != 0))
      fail_msg("%s gives %d ids, want %d: %s", weir_str_show((weir_str){field[0], len}, shown), ids.n, n_want,
               field[1]);
    weir_tokens_fini(&ids);
    rows++;
  }
  fclose(f);
  weir_tokenizer_destroy(t);
  print_message("%d texts\n", rows);
  assert_true(rows > 250);
}

static void demo_pair_shares_ids(void **state) {
  (void)state;
  static const char *const path[2] = {"models/weir-demo-small-Q8_0.gguf", "models/weir-demo-large-Q8_0.gguf"};
  weir_tokenizer *t[2];
  weir_err e = {0};
  int32_t n;
  for (int i = 0; i < 2; i++) {
    weir_gguf *g;
    if (weir_gguf_open(path[i], &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (weir_tokenizer_from_gguf(g, &t[i], &e) != WEIR_OK) fail_msg("%s", e.msg);
    weir_gguf_close(g);
    assert_int_equal(weir_tokenizer_bos(t[i]), 4093);
    assert_true(weir_tokenizer_adds_bos(t[i]));
    assert_true(weir_tokenizer_is_end(t[i], 4093));
    assert_true(weir_tokenizer_is_end(t[i], 4095));
    assert_false(weir_tokenizer_is_end(t[i], 4094));
  }
  if (weir_tokenizer_same(t[0], t[1], &n, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(n, 4096);
  weir_tokenizer_destroy(t[0]);
  weir_tokenizer_destroy(t[1]);
}

int main(int argc, char **argv) {
  static int interpreted;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pieces),
      {"pieces, without the just-in-time compiler", pieces, NULL, NULL, &interpreted},
      cmocka_unit_test(demo_tokens),
      cmocka_unit_test(demo_pair_shares_ids),
  };
  if (argc > 1) folder = argv[1];
  return cmocka_run_group_tests(tests, NULL, NULL);
}
