/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece model files: small ones made here, right and wrong, and published ones from ../shared, whose
 * segmentation is compared with sentencepiece's (vectors/tokenizer/make_sp_published.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "model/sp_model.h"
#include "model/tok_spm.h"
#include "model/tok_unigram.h"
#include "model/tok_vocab.h"
#include "vector_strings.h"

/* ---- writing protocol buffers ---- */

static void put_varint(weir_buf *b, uint64_t v) {
  do {
    const unsigned char byte = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
    assert_int_equal(weir_buf_put(b, &byte, 1, NULL), WEIR_OK);
    v >>= 7;
  } while (v);
}

static void put_int(weir_buf *b, uint32_t field, uint64_t v) {
  put_varint(b, field << 3);
  put_varint(b, v);
}

static void put_bytes(weir_buf *b, uint32_t field, const void *p, size_t n) {
  put_varint(b, field << 3 | 2);
  put_varint(b, n);
  assert_int_equal(weir_buf_put(b, p, n, NULL), WEIR_OK);
}

static void put_text(weir_buf *b, uint32_t field, const char *s) { put_bytes(b, field, s, strlen(s)); }

static void put_float(weir_buf *b, uint32_t field, float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  const unsigned char le[4] = {(unsigned char)bits, (unsigned char)(bits >> 8), (unsigned char)(bits >> 16),
                               (unsigned char)(bits >> 24)};
  put_varint(b, field << 3 | 5);
  assert_int_equal(weir_buf_put(b, le, 4, NULL), WEIR_OK);
}

static void put_message(weir_buf *b, uint32_t field, weir_buf *inner) {
  put_bytes(b, field, inner->data, inner->len);
  weir_buf_fini(inner);
}

static void put_piece(weir_buf *b, const char *text, float score, uint64_t type) {
  weir_buf p = {0};
  put_text(&p, 1, text);
  put_float(&p, 2, score);
  if (type != WEIR_TOKEN_NORMAL) put_int(&p, 3, type); /* the default is left out, as writers do */
  put_message(b, 1, &p);
}

/* <unk> <s> </s> [x] a b ab, model type BPE, and a normaliser that differs from the defaults everywhere. */
static void put_good(weir_buf *b) {
  weir_buf m = {0};
  put_piece(b, "<unk>", 0, WEIR_TOKEN_UNKNOWN);
  put_piece(b, "<s>", 0, WEIR_TOKEN_CONTROL);
  put_piece(b, "</s>", 0, WEIR_TOKEN_CONTROL);
  put_piece(b, "[x]", 0, WEIR_TOKEN_USER);
  put_piece(b, "a", -1.5f, WEIR_TOKEN_NORMAL);
  put_piece(b, "b", -2.5f, WEIR_TOKEN_NORMAL);
  put_piece(b, "ab", -0.5f, WEIR_TOKEN_NORMAL);
  put_text(&m, 1, "corpus.txt"); /* fields that do not matter: a text, an int, a float */
  put_int(&m, 4, 7);
  put_float(&m, 10, 0.9995f);
  put_int(&m, 3, 2);
  put_int(&m, 40, 0);
  put_int(&m, 43, UINT64_MAX); /* pad_id -1 */
  put_text(&m, 44, "?");
  put_message(b, 2, &m);
  put_text(&m, 1, "own");
  put_text(&m, 2, "map");
  put_int(&m, 3, 0);
  put_int(&m, 4, 0);
  put_int(&m, 5, 0);
  put_message(b, 3, &m);
  put_text(&m, 1, "");
  put_message(b, 5, &m);
  put_varint(b, 201u << 3 | 1); /* an extension: 64 bits */
  assert_int_equal(weir_buf_put(b, "12345678", 8, NULL), WEIR_OK);
}

/* Parses a copy of exactly these bytes, so that a sanitizer sees any read beyond. */
static weir_status parse_copy(const weir_buf *b, size_t len, weir_sp_model *m, uint8_t **copy, weir_err *e) {
  *copy = malloc(len ? len : 1);
  assert_non_null(*copy);
  if (len) memcpy(*copy, b->data, len);
  return weir_sp_model_parse(*copy, len, m, e);
}

static void good_file(void **state) {
  (void)state;
  weir_buf b = {0};
  weir_sp_model m;
  weir_err e = {0};
  put_good(&b);
  if (weir_sp_model_parse(b.data, b.len, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(m.kind, WEIR_SP_BPE);
  assert_int_equal(m.n, 7);
  assert_true(weir_str_eq(m.piece[6], weir_str_of("ab")));
  assert_float_equal(m.score[4], -1.5f, 0);
  assert_int_equal(m.type[4], WEIR_TOKEN_NORMAL);
  assert_int_equal(m.type[3], WEIR_TOKEN_USER);
  assert_int_equal(m.unk, 0);
  assert_int_equal(m.bos, 1);
  assert_int_equal(m.eos, 2);
  assert_int_equal(m.pad, -1);
  assert_true(weir_str_eq(m.charsmap, weir_str_of("map")));
  assert_true(weir_str_eq(m.normalizer_name, weir_str_of("own")));
  assert_true(weir_str_eq(m.unk_surface, weir_str_of("?")));
  assert_false(m.adds_dummy_prefix || m.removes_extra_spaces || m.escapes_spaces || m.space_is_suffix ||
               m.byte_fallback);
  weir_sp_model_fini(&m);
  weir_buf_fini(&b);

  /* What is not said is the format's default. */
  put_piece(&b, "<unk>", 0, WEIR_TOKEN_UNKNOWN);
  if (weir_sp_model_parse(b.data, b.len, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(m.kind, WEIR_SP_UNIGRAM);
  assert_true(m.adds_dummy_prefix && m.removes_extra_spaces && m.escapes_spaces);
  assert_false(m.space_is_suffix || m.byte_fallback);
  assert_int_equal(m.bos, -1);
  assert_true(weir_str_eq(m.unk_surface, weir_str_of(" \342\201\207 ")));
  weir_sp_model_fini(&m);
  weir_buf_fini(&b);
}

/* ---- files that are refused ---- */

static void no_pieces(weir_buf *b) { put_int(b, 77, 1); }
static void empty_piece(weir_buf *b) { put_piece(b, "", 0, WEIR_TOKEN_NORMAL); }
static void nan_score(weir_buf *b) { put_piece(b, "x", 0.0f / 0.0f, WEIR_TOKEN_NORMAL); }
static void type_7(weir_buf *b) { put_piece(b, "x", 0, 7); }
static void type_0(weir_buf *b) { put_piece(b, "x", 0, 0); }
static void no_unknown(weir_buf *b) { put_piece(b, "x", 0, WEIR_TOKEN_NORMAL); }
static void two_unknown(weir_buf *b) {
  put_piece(b, "x", 0, WEIR_TOKEN_UNKNOWN);
  put_piece(b, "y", 0, WEIR_TOKEN_UNKNOWN);
}
static void byte_alone(weir_buf *b) { put_piece(b, "<0x41>", 0, WEIR_TOKEN_BYTE); }
static void trainer(weir_buf *b, uint32_t field, uint64_t value) {
  weir_buf m = {0};
  put_good(b);
  put_int(&m, field, value);
  put_message(b, 2, &m);
}
static void byte_wrong(weir_buf *b) {
  trainer(b, 35, 1);
  put_piece(b, "<0xG1>", 0, WEIR_TOKEN_BYTE);
}
static void bytes_missing(weir_buf *b) {
  trainer(b, 35, 1);
  put_piece(b, "<0x00>", 0, WEIR_TOKEN_BYTE);
}
static void words(weir_buf *b) { trainer(b, 3, 3); }
static void chars(weir_buf *b) { trainer(b, 3, 4); }
static void type_of_model(weir_buf *b) { trainer(b, 3, 9); }
static void denormalizer(weir_buf *b) {
  weir_buf m = {0};
  put_good(b);
  put_text(&m, 2, "x");
  put_message(b, 5, &m);
}
static void raw(weir_buf *b, const char *p, size_t n) {
  assert_int_equal(weir_buf_put(b, p, n, NULL), WEIR_OK);
}
static void piece_as_int(weir_buf *b) { put_int(b, 1, 5); }
static void text_as_int(weir_buf *b) { raw(b, "\x0a\x02\x08\x05", 4); }
static void score_as_int(weir_buf *b) { raw(b, "\x0a\x05\x0a\x01x\x10\x05", 7); }
static void group(weir_buf *b) { raw(b, "\x0b", 1); }
static void field_0(weir_buf *b) { raw(b, "\x02\x00", 2); }
static void past_the_end(weir_buf *b) { raw(b, "\x0a\x05xx", 4); }
static void huge_length(weir_buf *b) { raw(b, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11); }
static void endless_varint(weir_buf *b) { raw(b, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11); }
static void inside_piece(weir_buf *b) { raw(b, "\x0a\x02\x0a\x05", 4); }
static void gguf(weir_buf *b) { raw(b, "GGUF\3\0\0\0\0\0\0\0", 12); }
static void text_file(weir_buf *b) { raw(b, "{\"version\": \"1.0\"}", 18); }

static void refused(void **state) {
  (void)state;
  static const struct {
    void (*build)(weir_buf *);
    weir_status status;
    const char *fragment;
  } rows[] = {
      {no_pieces, WEIR_EFORMAT, "no pieces"},
      {empty_piece, WEIR_EFORMAT, "piece 0 is empty"},
      {nan_score, WEIR_EFORMAT, "piece 0 \"x\": its score is no number"},
      {type_7, WEIR_EFORMAT, "piece 0 has type 7"},
      {type_0, WEIR_EFORMAT, "piece 0 has type 0"},
      {no_unknown, WEIR_EFORMAT, "no piece is of type unknown"},
      {two_unknown, WEIR_EFORMAT, "pieces 0 and 1 are both unknown"},
      {byte_alone, WEIR_EFORMAT, "piece 0 \"<0x41>\" is a byte without byte_fallback"},
      {byte_wrong, WEIR_EFORMAT, "piece 7 \"<0xG1>\" is a byte that is none"},
      {bytes_missing, WEIR_EFORMAT, "byte_fallback without a piece <0x01>"},
      {words, WEIR_EUNSUP, "model type WORD is not supported (known: UNIGRAM BPE)"},
      {chars, WEIR_EUNSUP, "model type CHAR is not supported"},
      {type_of_model, WEIR_EFORMAT, "model type 9"},
      {denormalizer, WEIR_EUNSUP, "a denormalizer (denormalizer_spec) is not supported"},
      {piece_as_int, WEIR_EFORMAT, "the model: field 1 has wire type 0 (want 2)"},
      {text_as_int, WEIR_EFORMAT, "a piece: field 1 has wire type 0 (want 2)"},
      {score_as_int, WEIR_EFORMAT, "a piece: field 2 has wire type 0 (want 5)"},
      {group, WEIR_EFORMAT, "the model at byte 1: a field of a wire type that the format does not use"},
      {field_0, WEIR_EFORMAT, "a field number out of range"},
      {past_the_end, WEIR_EFORMAT, "a field runs past the end"},
      {huge_length, WEIR_EFORMAT, "a field runs past the end"},
      {endless_varint, WEIR_EFORMAT, "a field runs past the end"},
      {inside_piece, WEIR_EFORMAT, "a piece at byte 4: a field runs past the end"},
      {gguf, WEIR_EFORMAT, "SentencePiece model: "},
      {text_file, WEIR_EFORMAT, "SentencePiece model: "},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_buf b = {0};
    weir_sp_model m;
    weir_err e = {0};
    uint8_t *copy;
    rows[i].build(&b);
    const weir_status st = parse_copy(&b, b.len, &m, &copy, &e);
    if (st != rows[i].status || !strstr(e.msg, rows[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, rows[i].status, rows[i].fragment);
    assert_null(m.piece);
    free(copy);
    weir_buf_fini(&b);
  }
  weir_sp_model m;
  weir_err e = {0};
  assert_int_equal(weir_sp_model_parse("", 0, &m, &e), WEIR_EFORMAT);
}

static void every_truncation_and_change(void **state) {
  (void)state;
  static const uint8_t change[] = {0x01, 0x80, 0xff, 0x08};
  weir_buf b = {0};
  int good = 0, bad = 0;
  put_good(&b);
  for (size_t n = 0; n < b.len; n++)
    for (size_t k = 0; k < sizeof change; k++) {
      weir_sp_model m;
      weir_err e = {0};
      uint8_t *copy;
      /* k 0: the first n bytes; then the whole with byte n changed. */
      if (k) b.data[n] = (char)((uint8_t)b.data[n] ^ change[k]);
      if (parse_copy(&b, k ? b.len : n, &m, &copy, &e) == WEIR_OK) {
        assert_in_range(m.n, 1, 7);
        for (int32_t i = 0; i < m.n; i++) assert_true(m.piece[i].len > 0);
        weir_sp_model_fini(&m);
        good++;
      } else {
        assert_true(e.msg[0] != 0);
        bad++;
      }
      free(copy);
      if (k) b.data[n] = (char)((uint8_t)b.data[n] ^ change[k]);
    }
  print_message("%d files taken, %d refused\n", good, bad);
  assert_true(bad > 200 && good > 100);
  weir_buf_fini(&b);
}

/* ---- published files ---- */

enum { N_STRINGS = 3000 };

static const struct {
  const char *name;
  weir_sp_kind kind;
  int32_t n, unk, bos, eos, pad;
  bool byte_fallback, has_charsmap;
} files[] = {
    {"llama2.c/tokenizer.model", WEIR_SP_BPE, 32000, 0, 1, 2, -1, true, false},
    {"transformers-fixtures/spiece.model", WEIR_SP_UNIGRAM, 30000, 1, -1, -1, 0, false, true},
    {"transformers-fixtures/test_sentencepiece.model", WEIR_SP_UNIGRAM, 1000, 0, 1, 2, -1, false, true},
    {"transformers-fixtures/test_sentencepiece_no_bos.model", WEIR_SP_UNIGRAM, 1000, 2, -1, 1, -1, false,
     true},
    {"transformers-fixtures/test_sentencepiece_bpe.model", WEIR_SP_BPE, 1000, 0, 1, 2, -1, false, true},
    {"transformers-fixtures/test_sentencepiece_with_bytefallback.model", WEIR_SP_UNIGRAM, 2000, 0, 1, 2, -1,
     true, true},
};
enum { N_FILES = sizeof files / sizeof files[0] };

/* Spaces as the vocabularies spell them. */
static void escape_spaces(weir_str s, weir_buf *out) {
  weir_buf_truncate(out, 0);
  for (size_t i = 0; i < s.len; i++) {
    const bool space = s.data[i] == ' ';
    assert_int_equal(weir_buf_put(out, space ? "\xe2\x96\x81" : s.data + i, space ? 3 : 1, NULL), WEIR_OK);
  }
}

static void segment(const weir_sp_model *m, const vector_strings *strings, const weir_buf *want,
                    size_t word) {
  weir_spm *spm = NULL;
  weir_unigram *unigram = NULL;
  weir_err e = {0};
  weir_buf text = {0};
  weir_tokens ids = {0};
  const weir_status st =
      m->kind == WEIR_SP_BPE
          ? weir_spm_create(m->piece, m->score, m->type, m->n, m->unk, &spm, &e)
          : weir_unigram_create(m->piece, m->score, m->type, m->n, m->unk, m->byte_fallback, &unigram, &e);
  if (st != WEIR_OK) fail_msg("%s", e.msg);
  for (int32_t i = 0; i < N_STRINGS; i++) {
    char shown[WEIR_STR_SHOW_BYTES];
    ids.n = 0;
    escape_spaces(strings->s[i], &text);
    if ((spm ? weir_spm_encode(spm, text.data, text.len, &ids, &e)
             : weir_unigram_encode(unigram, text.data, text.len, &ids, &e)) != WEIR_OK)
      fail_msg("%s", e.msg);
    if (vector_hash_ids(ids.id, ids.n) != vector_word(want, word + (size_t)i))
      fail_msg("string %d %s gives other ids (%d of them)", i, weir_str_show(strings->s[i], shown), ids.n);
  }
  weir_tokens_fini(&ids);
  weir_buf_fini(&text);
  weir_spm_destroy(spm);
  weir_unigram_destroy(unigram);
}

static void published_files(void **state) {
  (void)state;
  const char *folder = vector_archive();
  vector_strings strings;
  weir_buf want = {0};
  if (!folder) {
    print_message("SKIP: no archive of vocabularies in ../shared\n");
    skip();
  }
  vector_strings_read(VECTORS "hf/strings.txt", &strings);
  vector_file_read(VECTORS "sp_published.bin", &want);
  for (size_t i = 0; i < N_FILES; i++) {
    char path[256];
    weir_buf file = {0};
    weir_sp_model m;
    weir_err e = {0};
    snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
    vector_file_read(path, &file);
    if (weir_sp_model_parse(file.data, file.len, &m, &e) != WEIR_OK) fail_msg("%s: %s", files[i].name, e.msg);
    print_message("%s: normalizer %.*s\n", files[i].name, (int)m.normalizer_name.len, m.normalizer_name.data);
    assert_int_equal(m.kind, files[i].kind);
    assert_int_equal(m.n, files[i].n);
    assert_int_equal(m.unk, files[i].unk);
    assert_int_equal(m.bos, files[i].bos);
    assert_int_equal(m.eos, files[i].eos);
    assert_int_equal(m.pad, files[i].pad);
    assert_int_equal(m.byte_fallback, files[i].byte_fallback);
    assert_int_equal(m.charsmap.len > 0, files[i].has_charsmap);
    assert_true(m.adds_dummy_prefix && m.escapes_spaces && !m.space_is_suffix);
    segment(&m, &strings, &want, i * N_STRINGS);
    weir_sp_model_fini(&m);
    weir_buf_fini(&file);
  }
  weir_buf_fini(&want);
  vector_strings_fini(&strings);
}

static int finish(void **state) {
  (void)state;
  vector_archive_remove();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(good_file),
      cmocka_unit_test(refused),
      cmocka_unit_test(every_truncation_and_change),
      cmocka_unit_test(published_files),
  };
  return cmocka_run_group_tests(tests, NULL, finish);
}
