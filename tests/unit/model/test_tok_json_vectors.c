/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json of twenty kinds against what the tokenizers library makes of 10,000 strings with each
 * (tests/vectors/make_tokenizer_vectors.py, folder tokenizer/hf): ids of all, decoded text of the first 500;
 * and the bytes of strings that are no UTF-8, which come back where a vocabulary has all bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "model/tokenizer.h"
#include "vector_strings.h"

enum { N_STRINGS = 10000, N_DECODED = 500, N_SHOWN = 100, MAX_REPORTED = 5 };

/* What becomes of bytes that are no UTF-8. */
typedef enum {
  LOST,  /* the vocabulary has not all bytes, its decoder does not know them, or the text is normalised */
  KEPT,  /* the ids' bytes are the text */
  SPACED /* the same, but U+2581 is a space, and one may have been put in front */
} invalid_bytes;

static const struct kind {
  const char *name;
  invalid_bytes invalid;
} kinds[] = {
    {"gpt2", KEPT},          {"roberta", LOST},     {"llama3", KEPT},          {"qwen2", LOST},
    {"o200k", KEPT},         {"starcoder", KEPT},   {"deepseek-llm", KEPT},    {"deepseek-v3", KEPT},
    {"falcon", KEPT},        {"added", LOST},       {"llama2", SPACED},        {"llama2-added", LOST},
    {"gemma", SPACED},       {"mistral", SPACED},   {"metaspace-never", LOST}, {"t5", LOST},
    {"unigram-bytes", LOST}, {"xlm-roberta", LOST}, {"words", LOST},           {"punctuation", LOST},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static vector_strings strings, invalid;

static void path_of(char path[256], const char *name, const char *file) {
  snprintf(path, 256, VECTORS "hf/%s/%s", name, file);
}

static weir_tokenizer *open_tokenizer(const char *name) {
  char path[256];
  weir_buf json = {0};
  weir_err e = {0};
  weir_tokenizer *t;
  path_of(path, name, "tokenizer.json");
  vector_file_read(path, &json);
  if (weir_tokenizer_from_json((weir_str){json.data, json.len}, &t, &e) != WEIR_OK)
    fail_msg("%s: %s", name, e.msg);
  weir_buf_fini(&json);
  return t;
}

static weir_tokens must_tokenize(weir_tokenizer *t, weir_str s) {
  weir_tokens ids = {0};
  weir_err e = {0};
  if (weir_tokenize(t, s.data, s.len, true, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return ids;
}

/* Line i of first.txt: the ids wanted, for the message. */
static void show_wanted(const weir_buf *first, int32_t i) {
  const char *line = first->data;
  if (i >= N_SHOWN) return;
  while (i-- > 0) line = strchr(line, '\n') + 1;
  print_message("  want %.*s\n", (int)(strchr(line, '\t') - line), line);
}

static void report(const char *what, int32_t i, const weir_tokens *ids, const weir_buf *first) {
  char shown[WEIR_STR_SHOW_BYTES];
  print_message("string %d %s: %s\n  got ", i, weir_str_show(strings.s[i], shown), what);
  for (int32_t k = 0; k < ids->n && k < 60; k++) print_message(" %d", ids->id[k]);
  print_message("\n");
  show_wanted(first, i);
}

static void decode(const weir_tokenizer *t, const weir_tokens *ids, weir_buf *out) {
  weir_detok d = {0};
  weir_err e = {0};
  weir_buf_truncate(out, 0);
  for (int32_t i = 0; i < ids->n; i++)
    if (weir_detok_put(&d, t, ids->id[i], true, out, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_detok_end(&d, out, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void ids_and_text(void **state) {
  const struct kind *k = *state;
  char path[256];
  weir_buf want = {0}, first = {0}, out = {0};
  int wrong_ids = 0, wrong_text = 0;
  weir_tokenizer *t = open_tokenizer(k->name);
  path_of(path, k->name, "expected.bin");
  vector_file_read(path, &want);
  path_of(path, k->name, "first.txt");
  vector_file_read(path, &first);
  assert_int_equal(want.len, (N_STRINGS + N_DECODED) * 4);
  for (int32_t i = 0; i < N_STRINGS; i++) {
    weir_tokens ids = must_tokenize(t, strings.s[i]);
    if (vector_hash_ids(ids.id, ids.n) != vector_word(&want, (size_t)i)) {
      if (wrong_ids++ < MAX_REPORTED) report("other ids", i, &ids, &first);
    } else if (i < N_DECODED) {
      decode(t, &ids, &out);
      if (vector_hash(out.data, out.len) != vector_word(&want, N_STRINGS + (size_t)i) &&
          wrong_text++ < MAX_REPORTED) {
        char shown[WEIR_STR_SHOW_BYTES];
        report("decoded otherwise", i, &ids, &first);
        print_message("  text %s\n", weir_str_show((weir_str){out.data, out.len}, shown));
      }
    }
    weir_tokens_fini(&ids);
  }
  weir_tokenizer_destroy(t);
  weir_buf_fini(&want);
  weir_buf_fini(&first);
  weir_buf_fini(&out);
  if (wrong_ids || wrong_text)
    fail_msg("%s: %d of %d strings have other ids, %d of %d are decoded otherwise", k->name, wrong_ids,
             N_STRINGS, wrong_text, N_DECODED);
}

/* With U+2581 as spaces. */
static void put_spaced(weir_str s, bool spaced, weir_buf *out) {
  static const char mark[] = "\xe2\x96\x81";
  for (size_t at = 0; at < s.len;) {
    const bool is = spaced && s.len - at >= 3 && memcmp(s.data + at, mark, 3) == 0;
    assert_int_equal(weir_buf_put(out, is ? " " : s.data + at, 1, NULL), WEIR_OK);
    at += is ? 3 : 1;
  }
}

static void no_utf8(void **state) {
  (void)state;
  for (int i = 0; i < N_KINDS; i++) {
    weir_tokenizer *t = open_tokenizer(kinds[i].name);
    const bool spaced = kinds[i].invalid == SPACED;
    int compared = 0;
    for (int32_t k = 0; k < invalid.n; k++) {
      char shown[WEIR_STR_SHOW_BYTES], got[WEIR_STR_SHOW_BYTES];
      weir_buf bytes = {0}, want = {0};
      weir_tokens ids = must_tokenize(t, invalid.s[k]); /* whatever the kind, it is no error */
      bool compare = kinds[i].invalid != LOST;
      for (int32_t n = 0; n < ids.n; n++) {
        /* Behind a special token another space may be put. */
        if (spaced && weir_tokenizer_is_special(t, ids.id[n])) compare = false;
        put_spaced(weir_token_bytes(t, ids.id[n]), spaced, &bytes);
      }
      put_spaced(invalid.s[k], spaced, &want);
      weir_str is = {bytes.data, bytes.len};
      if (spaced && is.len == want.len + 1 && is.data[0] == ' ') is.data++, is.len--;
      if (compare && !weir_str_eq(is, (weir_str){want.data, want.len}))
        fail_msg("%s: %s comes back as %s", kinds[i].name, weir_str_show(invalid.s[k], shown),
                 weir_str_show(is, got));
      compared += compare;
      weir_buf_fini(&bytes);
      weir_buf_fini(&want);
      weir_tokens_fini(&ids);
    }
    if (kinds[i].invalid != LOST) assert_true(compared > 200);
    weir_tokenizer_destroy(t);
  }
}

int main(void) {
  struct CMUnitTest tests[N_KINDS + 1];
  for (int i = 0; i < N_KINDS; i++)
    tests[i] = (struct CMUnitTest){kinds[i].name, ids_and_text, NULL, NULL, (void *)(uintptr_t)&kinds[i]};
  tests[N_KINDS] = (struct CMUnitTest)cmocka_unit_test(no_utf8);
  vector_strings_read(VECTORS "hf/strings.txt", &strings);
  vector_strings_read(VECTORS "hf/invalid.txt", &invalid);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  vector_strings_fini(&strings);
  vector_strings_fini(&invalid);
  return failed;
}
