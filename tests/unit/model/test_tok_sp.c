/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.model as a description of a tokenizer: normalised and segmented as sentencepiece does it with
 * published files of ../shared (vectors/tokenizer/make_sp_published.py); tokens added around it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "model/hf.h"
#include "model/tok_norm.h"
#include "model/tok_sp.h"
#include "model/tok_spm.h"
#include "model/tok_unigram.h"
#include "vector_strings.h"

enum { N_STRINGS = 3000 };

static const char *const files[] = {"llama2.c/tokenizer.model",
                                    "transformers-fixtures/spiece.model",
                                    "transformers-fixtures/test_sentencepiece.model",
                                    "transformers-fixtures/test_sentencepiece_no_bos.model",
                                    "transformers-fixtures/test_sentencepiece_bpe.model",
                                    "transformers-fixtures/test_sentencepiece_with_bytefallback.model"};
enum { N_FILES = sizeof files / sizeof files[0] };

/* A directory in memory: a model, and what other files say (NULL: absent). */
static weir_status read_directory(weir_str model, const char *config, const char *added, weir_tok_spec *s,
                                  weir_err *e) {
  weir_hf_part part[4] = {{"config.json", {"{}", 2}}, {"tokenizer.model", model}};
  int32_t n = 2;
  weir_hf *hf;
  if (config) part[n++] = (weir_hf_part){"tokenizer_config.json", weir_str_of(config)};
  if (added) part[n++] = (weir_hf_part){"added_tokens.json", weir_str_of(added)};
  if (weir_hf_parse(part, n, &hf, e) != WEIR_OK) fail_msg("%s", e->msg);
  const weir_status st = weir_tok_spec_from_sp(s, hf, e);
  weir_hf_close(hf);
  return st;
}

static void check_strings(const char *name, const weir_tok_spec *s, const weir_buf *want, size_t word) {
  vector_strings strings;
  weir_norm *norm;
  weir_spm *spm = NULL;
  weir_unigram *unigram = NULL;
  weir_tokens ids = {0};
  weir_err e = {0};
  float *score = malloc((size_t)s->n * sizeof *score);
  assert_non_null(score);
  for (int32_t i = 0; i < s->n; i++) score[i] = (float)s->score[i];
  weir_status st = weir_norm_create(s, false, &norm, &e);
  if (st == WEIR_OK && s->kind == WEIR_TOK_SPM)
    st = weir_spm_create(s->text, score, s->type, s->n, s->unk, &spm, &e);
  else if (st == WEIR_OK)
    st = weir_unigram_create(s->text, score, s->type, s->n, s->unk, s->byte_fallback, &unigram, &e);
  if (st != WEIR_OK) fail_msg("%s", e.msg);
  vector_strings_read(VECTORS "hf/strings.txt", &strings);
  for (int32_t i = 0; i < N_STRINGS; i++) {
    char shown[WEIR_STR_SHOW_BYTES];
    weir_str text;
    ids.n = 0;
    st = weir_norm_run(norm, strings.s[i].data, strings.s[i].len, true, NULL, &text, &e);
    if (st == WEIR_OK)
      st = spm ? weir_spm_encode(spm, text.data, text.len, &ids, &e)
               : weir_unigram_encode(unigram, text.data, text.len, &ids, &e);
    if (st != WEIR_OK) fail_msg("%s", e.msg);
    if (vector_hash_ids(ids.id, ids.n) != vector_word(want, word + (size_t)i))
      fail_msg("%s: string %d %s gives other ids (%d of them)", name, i, weir_str_show(strings.s[i], shown),
               ids.n);
  }
  vector_strings_fini(&strings);
  weir_tokens_fini(&ids);
  weir_norm_destroy(norm);
  weir_spm_destroy(spm);
  weir_unigram_destroy(unigram);
  free(score);
}

static void published_files(void **state) {
  (void)state;
  const char *folder = vector_archive();
  weir_buf want = {0};
  if (!folder) {
    print_message("SKIP: no archive of vocabularies in ../shared\n");
    skip();
  }
  vector_file_read(VECTORS "sp_published.bin", &want);
  assert_int_equal(want.len, 2 * N_FILES * N_STRINGS * 4);
  for (size_t i = 0; i < N_FILES; i++) {
    char path[256];
    weir_buf file = {0};
    weir_tok_spec s;
    weir_err e = {0};
    snprintf(path, sizeof path, "%s/%s", folder, files[i]);
    vector_file_read(path, &file);
    if (read_directory((weir_str){file.data, file.len}, NULL, NULL, &s, &e) != WEIR_OK) fail_msg("%s", e.msg);
    weir_buf_fini(&file); /* nothing of it is borrowed */
    check_strings(files[i], &s, &want, (N_FILES + i) * N_STRINGS);
    weir_tok_spec_fini(&s);
  }
  weir_buf_fini(&want);
}

/* <unk> <s> [x] a, BPE; the last byte is add_dummy_prefix. */
static const char small[] =
    "\n\t\n\x05<unk>\x18\x02"
    "\n\x07\n\x03<s>\x18\x03"
    "\n\x07\n\x03[x]\x18\x04"
    "\n\x03\n\x01"
    "a"
    "\x12\x02\x18\x02"
    "\x1a\x02\x18";

static weir_str small_model(char file[64], char last) {
  memcpy(file, small, sizeof small - 1);
  file[sizeof small - 1] = last;
  return (weir_str){file, sizeof small};
}

static void added_tokens(void **state) {
  (void)state;
  static const char config[] =
      "{\"added_tokens_decoder\": {\"0\": {\"content\": \"<unk>\", \"special\": true}, \"6\": {\"content\": "
      "\"<end>\", "
      "\"special\": true, \"rstrip\": true}, \"4\": {\"content\": \"<tool>\"}}}";
  char file[64];
  weir_tok_spec s;
  weir_err e = {0};
  if (read_directory(small_model(file, 0), config, "{\"<not this>\": 9}", &s, &e) != WEIR_OK)
    fail_msg("%s", e.msg);
  assert_int_equal(s.kind, WEIR_TOK_SPM);
  assert_int_equal(s.n, 7);
  assert_int_equal(s.unk, 0);
  assert_int_equal(s.bos, 1);
  assert_true(s.adds_bos);
  assert_int_equal(s.n_added, 5);
  assert_true(weir_str_eq(s.text[6], weir_str_of("<end>")));
  assert_int_equal(s.type[6], WEIR_TOKEN_CONTROL);
  assert_int_equal(s.type[4], WEIR_TOKEN_USER);
  assert_int_equal(s.type[5], WEIR_TOKEN_UNUSED); /* nobody's */
  assert_int_equal(s.text[5].len, 0);
  assert_int_equal(s.in_model[3], 1);
  assert_int_equal(s.in_model[6], 0);
  assert_int_equal(s.first, WEIR_FIRST_WHOLE);
  bool stripped = false;
  for (int32_t i = 0; i < s.n_added; i++) {
    stripped = stripped || (s.added[i].id == 6 && s.added[i].rstrip && s.added[i].special);
    if (s.added[i].id == 2 || s.added[i].id == 4) assert_false(s.added[i].special);
  }
  assert_true(stripped);
  weir_tok_spec_fini(&s);

  if (read_directory(small_model(file, 1), NULL, "{\"<pad>\": 4}", &s, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(s.n, 5);
  assert_true(weir_str_eq(s.text[4], weir_str_of("<pad>")));
  assert_int_equal(s.n_added, 4);
  assert_int_equal(s.first, WEIR_FIRST_SPACE);
  weir_tok_spec_fini(&s);
}

static void refused(void **state) {
  (void)state;
  static const struct {
    const char *config, *added;
    weir_status status;
    const char *fragment;
  } rows[] = {
      {"{\"added_tokens_decoder\": []}", NULL, WEIR_EFORMAT, "\"added_tokens_decoder\" is no object"},
      {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}", NULL, WEIR_EFORMAT,
       "added token \"x\": its id is none"},
      {"{\"added_tokens_decoder\": {\"99999999999\": {\"content\": \"a\"}}}", NULL, WEIR_EFORMAT,
       "its id is none"},
      {"{\"added_tokens_decoder\": {\"4\": {\"content\": \"\"}}}", NULL, WEIR_EFORMAT,
       "added token 4 has no text"},
      {"{\"added_tokens_decoder\": {\"4\": {\"content\": \"a\", \"special\": 1}}}", NULL, WEIR_EFORMAT,
       "special"},
      {NULL, "{\"<pad>\": \"4\"}", WEIR_EFORMAT, "added token \"<pad>\": its id is none"},
      {NULL, "{\"<pad>\": -1}", WEIR_EFORMAT, "added token \"<pad>\": its id is none"},
      {NULL, "{\"<pad>\"", WEIR_EFORMAT, "added_tokens.json"},
  };
  char file[64];
  weir_tok_spec s;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_err e = {0};
    const weir_status st = read_directory(small_model(file, 1), rows[i].config, rows[i].added, &s, &e);
    if (st != rows[i].status || !strstr(e.msg, rows[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, rows[i].status, rows[i].fragment);
  }
  /* What a model asks for and weir does not do: fields 24 of trainer_spec, 5 of normalizer_spec. */
  static const char suffix[] = "\x12\x03\xc0\x01\x01", unescaped[] = "\x1a\x02\x28";
  weir_err e = {0};
  weir_buf b = {0};
  assert_int_equal(weir_buf_put(&b, small_model(file, 1).data, sizeof small, &e), WEIR_OK);
  assert_int_equal(weir_buf_put(&b, suffix, sizeof suffix - 1, &e), WEIR_OK);
  assert_int_equal(read_directory((weir_str){b.data, b.len}, NULL, NULL, &s, &e), WEIR_EUNSUP);
  if (!strstr(e.msg, "tokenizer.model: SentencePiece model: treat_whitespace_as_suffix"))
    fail_msg("%s", e.msg);
  weir_buf_truncate(&b, sizeof small);
  assert_int_equal(weir_buf_put(&b, unescaped, sizeof unescaped, &e), WEIR_OK); /* its NUL is the value */
  assert_int_equal(read_directory((weir_str){b.data, b.len}, NULL, NULL, &s, &e), WEIR_EUNSUP);
  if (!strstr(e.msg, "escape_whitespaces = false is not supported")) fail_msg("%s", e.msg);
  assert_int_equal(read_directory((weir_str){b.data, 5}, NULL, NULL, &s, &e), WEIR_EFORMAT);
  weir_buf_fini(&b);
}

static int finish(void **state) {
  (void)state;
  vector_archive_remove();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(published_files),
      cmocka_unit_test(added_tokens),
      cmocka_unit_test(refused),
  };
  return cmocka_run_group_tests(tests, NULL, finish);
}
