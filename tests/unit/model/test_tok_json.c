/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json on small files made here: what is refused and how it is named, rules of added tokens, bytes,
 * marked spans, what the files around it say. Against the tokenizers library: test_tok_json_vectors.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "model/hf.h"
#include "model/tok_spec.h"
#include "model/tokenizer.h"
#include "model/tokenizer_in.h"
#include "tiny_vocab.h"

#define MARK "\xe2\x96\x81"

/* The parts of a file; NULL: a default. */
typedef struct parts {
  const char *normalizer, *pre, *post, *decoder, *model, *added;
} parts;

#define DECODER                                                                                \
  "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK \
  "\"},\"content\":\" "                                                                        \
  "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \"," \
  "\"start\":1,\"stop\":0}]}"
#define VOCAB                                                              \
  "\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\"" MARK "\":4,\"" MARK \
  "a\":5,\"c\":6,\"abc\":7,"                                               \
  "\"<0x41>\":8,\"<s>\":9,\"</s>\":10}"
#define MODEL                                                                                 \
  "{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true," VOCAB \
  ",\"merges\":[\"a b\",[\"" MARK "\",\"a\"],\"ab c\"]}"
#define ADDED                                                                                               \
  "[{\"id\":9,\"content\":\"<s>\",\"special\":true,\"normalized\":false,\"lstrip\":false,\"rstrip\":false," \
  "\"single_word\":false},{\"id\":10,\"content\":\"</s>\",\"special\":true,\"normalized\":false},"          \
  "{\"id\":11,\"content\":\"<x>\",\"special\":false,\"normalized\":false,\"lstrip\":true,\"rstrip\":true}," \
  "{\"id\":12,\"content\":\"cab\",\"special\":false,\"normalized\":true,\"single_word\":true}]"
enum { UNK, A, B, AB, SPACE, SPACE_A, C, ABC, BYTE_41, BOS, EOS, X, CAB };

static void file_of(const parts *p, weir_buf *out) {
  weir_err e = {0};
  assert_int_equal(
      weir_buf_printf(out, &e,
                      "{\"version\":\"1.0\",\"truncation\":null,\"added_tokens\":%s,\"normalizer\":%s,"
                      "\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,\"model\":%s}",
                      p->added ? p->added : ADDED, p->normalizer ? p->normalizer : "null",
                      p->pre ? p->pre : "null", p->post ? p->post : "null", p->decoder ? p->decoder : DECODER,
                      p->model ? p->model : MODEL),
      WEIR_OK);
}

static weir_status create(const parts *p, weir_tokenizer **t, weir_err *e) {
  weir_buf json = {0};
  file_of(p, &json);
  /* exactly as long as it is, so that a sanitizer sees a read past the end */
  char *exact = malloc(json.len);
  assert_non_null(exact);
  memcpy(exact, json.data, json.len);
  const weir_status st = weir_tokenizer_from_json((weir_str){exact, json.len}, t, e);
  free(exact);
  weir_buf_fini(&json);
  return st;
}

static weir_tokenizer *must_create(const parts *p) {
  weir_tokenizer *t;
  weir_err e = {0};
  if (create(p, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return t;
}

static void show_ids(const weir_tokens *ids, char *out, size_t bytes) {
  size_t n = 0;
  out[0] = 0;
  for (int32_t i = 0; i < ids->n; i++) {
    assert_true(n + 16 < bytes);
    n += (size_t)snprintf(out + n, bytes - n, i ? " %d" : "%d", ids->id[i]);
  }
}

static void check_ids(weir_tokenizer *t, const char *text, bool special, const char *want) {
  weir_tokens ids = {0};
  weir_err e = {0};
  char got[256];
  if (weir_tokenize(t, text, strlen(text), special, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
  show_ids(&ids, got, sizeof got);
  if (strcmp(got, want)) fail_msg("\"%s\": got %s, want %s", text, got, want);
  weir_tokens_fini(&ids);
}

/* ---- refusals ---- */

#define BPE(more) "{\"type\":\"BPE\"," VOCAB ",\"merges\":[]," more "}"

static void refused_by_name(void **state) {
  (void)state;
  static const struct {
    parts p;
    weir_status status;
    const char *fragment;
  } rows[] = {
      {{.normalizer = "{\"type\":\"BertNormalizer\"}"},
       WEIR_EUNSUP,
       "tokenizer.json: normalizer: \"BertNormalizer\" is not supported (known: Sequence NFC"},
      {{.normalizer =
            "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"ByteLevel\"}]}"},
       WEIR_EUNSUP,
       "normalizer: \"ByteLevel\" is not supported"},
      {{.normalizer = "{\"type\":\"Sequence\"}"}, WEIR_EFORMAT, "normalizer: \"normalizers\": want a list"},
      {{.normalizer = "[]"}, WEIR_EFORMAT, "normalizer: want an object"},
      {{.normalizer = "{}"}, WEIR_EFORMAT, "normalizer: \"type\": want a string"},
      {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\h\"},\"content\":\"\"}"},
       WEIR_EUNSUP,
       "this escape at byte 1 is not supported"},
      {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"}"},
       WEIR_EUNSUP,
       "an empty pattern"},
      {{.normalizer = "{\"type\":\"Prepend\"}"}, WEIR_EFORMAT, "\"prepend\": want a string"},
      {{.normalizer = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!\"}"},
       WEIR_EFORMAT,
       "normalizer: "},
      {{.normalizer = "{\"type\":\"Strip\",\"strip_left\":1}"},
       WEIR_EFORMAT,
       "\"strip_left\": want true or false"},
      {{.pre = "{\"type\":\"BertPreTokenizer\"}"},
       WEIR_EUNSUP,
       "pre_tokenizer: \"BertPreTokenizer\" is not supported (known: Sequence ByteLevel"},
      {{.pre = "{\"type\":\"UnicodeScripts\"}"}, WEIR_EUNSUP, "\"UnicodeScripts\" is not supported"},
      {{.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[[:alpha:]]\"},\"behavior\":\"Isolated\"}"},
       WEIR_EUNSUP,
       "pre-tokenizer: pattern \"[[:alpha:]]\": such a class in a class"},
      {{.pre = "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Sometimes\"}"},
       WEIR_EUNSUP,
       "\"Sometimes\" is not supported"},
      {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"}, WEIR_EFORMAT, "want one character"},
      {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"late\"}"},
       WEIR_EUNSUP,
       "\"late\" is not supported"},
      {{.pre =
            "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"add_prefix_space\":"
            "false}"},
       WEIR_EFORMAT,
       "does not match"},
      {{.decoder = "null"}, WEIR_EUNSUP, "decoder: none is not supported"},
      {{.decoder = "{\"type\":\"WordPiece\"}"}, WEIR_EUNSUP, "decoder: \"WordPiece\" is not supported"},
      {{.decoder = "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"},
       WEIR_EUNSUP,
       "Strip is not supported at this place"},
      {{.decoder =
            "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
            "\"start\":2,\"stop\":0}]}"},
       WEIR_EUNSUP,
       "Strip of anything but one space"},
      {{.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}"},
       WEIR_EUNSUP,
       "\"ByteFallback\" is not supported at this place"},
      {{.post = "{\"type\":\"RobertaProcessing\"}"}, WEIR_EUNSUP, "post_processor: \"RobertaProcessing\""},
      {{.post =
            "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{"
            "\"SpecialToken\":"
            "{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[9]}}}"},
       WEIR_EUNSUP,
       "two tokens at one side"},
      {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}],"
                "\"special_tokens\":{\"<s>\":{\"ids\":[99]}}}"},
       WEIR_EFORMAT,
       "id 99 of 13 tokens"},
      {{.model = "{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}"},
       WEIR_EUNSUP,
       "model: \"WordPiece\" is not supported (known: BPE Unigram)"},
      {{.model = "{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}"},
       WEIR_EUNSUP,
       "\"WordLevel\" is not supported"},
      {{.model = BPE("\"dropout\":0.1")}, WEIR_EUNSUP, "BPE with \"dropout\""},
      {{.model = BPE("\"continuing_subword_prefix\":\"##\"")}, WEIR_EUNSUP, "\"continuing_subword_prefix\""},
      {{.model = BPE("\"end_of_word_suffix\":\"</w>\"")}, WEIR_EUNSUP, "\"end_of_word_suffix\""},
      {{.model = BPE("\"unk_token\":\"[UNK]\"")},
       WEIR_EFORMAT,
       "\"unk_token\" \"[UNK]\" is not in the vocabulary"},
      {{.model = "{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b c\"]}"},
       WEIR_EFORMAT,
       "merge 0: want two tokens"},
      {{.model = "{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"ab\"]}"},
       WEIR_EFORMAT,
       "merge 0: want two tokens"},
      {{.model = "{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a\"]]}"},
       WEIR_EFORMAT,
       "merge 0: want two tokens"},
      {{.model = "{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a c\"]}"},
       WEIR_EFORMAT,
       "the result is no token"},
      {{.model = "{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}"}, WEIR_EFORMAT, "id -1"},
      {{.model = "{\"type\":\"BPE\",\"vocab\":{\"a\":999999999},\"merges\":[]}"},
       WEIR_EFORMAT,
       "id 999999999"},
      {{.model = "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}"}, WEIR_EFORMAT, "two tokens"},
      {{.model = "{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}", .added = "[]"}, WEIR_EFORMAT, "is empty"},
      {{.model = "{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}"},
       WEIR_EFORMAT,
       "entry 0: want a token and a score"},
      {{.model = "{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":1}"}, WEIR_EFORMAT, "\"unk_id\""},
      {{.model = "{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":0}",
        .pre = "{\"type\":\"ByteLevel\"}",
        .added = "[]"},
       WEIR_EUNSUP,
       "ByteLevel pre-tokenizer is supported in front of a BPE model alone"},
      {{.added = "[{\"id\":77,\"content\":\"new\"}]"},
       WEIR_EFORMAT,
       "\"new\" has the id 77 but would get 11"},
      {{.added = "[{\"id\":1}]"}, WEIR_EFORMAT, "added_tokens: \"content\": want a string"},
      {{.added = "{}"}, WEIR_EFORMAT, "added_tokens: want a list"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_tokenizer *t;
    weir_err e = {0};
    const weir_status st = create(&rows[i].p, &t, &e);
    if (st != rows[i].status || !strstr(e.msg, rows[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, rows[i].status, rows[i].fragment);
    assert_null(t);
  }
}

/* ---- what is done ---- */

static void encoding(void **state) {
  (void)state;
  weir_tokenizer *t = must_create(&(parts){0});
  check_ids(t, "", true, "");
  check_ids(t, "ab", true, "3");
  check_ids(t, "abc", true, "7");
  check_ids(t, "aab", true, "1 3");
  check_ids(t, "aA", true, "1 8");        /* the byte's token */
  check_ids(t, "a??b", true, "1 0 2");    /* unknown ones fused */
  check_ids(t, "a?A?b", true, "1 8 0 2"); /* as the library: byte tokens pass a waiting unknown one */
  check_ids(t, "a<s>b", true, "1 9 2");
  check_ids(t, "a<s>b", false, "1 0 2");
  check_ids(t, "a  <x>  b", false, "1 11 2"); /* the spaces go with it */
  check_ids(t, "<x>\xe3\x80\x80<x>", true, "11 11");
  check_ids(t, "cab", true, "12");
  check_ids(t, "cab cab?", true, "12 0 12 0");
  check_ids(t, "acab", true, "1 6 3"); /* no word of its own */
  check_ids(t, "cab_", true, "6 3 0");
  assert_int_equal(weir_tokenizer_find(t, weir_str_of("<x>")), X);
  assert_int_equal(weir_tokenizer_find(t, weir_str_of("abc")), ABC);
  assert_int_equal(weir_tokenizer_find(t, weir_str_of("nothing")), -1);
  assert_int_equal(weir_tokenizer_n_vocab(t), CAB + 1);
  assert_true(weir_tokenizer_is_special(t, BOS));
  assert_false(weir_tokenizer_is_special(t, X));
  assert_true(weir_str_eq(weir_token_bytes(t, SPACE_A), weir_str_of(" a")));
  assert_true(weir_str_eq(weir_token_bytes(t, BYTE_41), weir_str_of("A")));
  weir_tokenizer_destroy(t);
}

/* Two ways to a dummy prefix, and where it is dropped again. */
static void prefixes(void **state) {
  (void)state;
  static const struct {
    parts p;
    const char *text, *want, *decoded;
  } rows[] = {
      {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" MARK
                      "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}]}"},
       "a a<s>a",
       "5 5 9 5",
       "a a<s> a"},
      {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"" MARK
               "\",\"prepend_scheme\":\"first\",\"split\":false}"},
       "a a<s>a",
       "5 5 9 1",
       "a a<s>a"},
      {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"}"}, "a<s>a", "5 9 5", "a<s> a"},
      {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"}",
        .decoder = "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":\"always\"}"},
       "a  a",
       "5 4 5",
       "a  a"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_tokenizer *t = must_create(&rows[i].p);
    weir_tokens ids = {0};
    weir_buf out = {0};
    weir_detok d = {0};
    weir_err e = {0};
    check_ids(t, rows[i].text, true, rows[i].want);
    assert_int_equal(weir_tokenize(t, rows[i].text, strlen(rows[i].text), true, &ids, &e), WEIR_OK);
    for (int32_t k = 0; k < ids.n; k++)
      assert_int_equal(weir_detok_put(&d, t, ids.id[k], true, &out, &e), WEIR_OK);
    assert_int_equal(weir_detok_end(&d, &out, &e), WEIR_OK);
    assert_string_equal(out.data, rows[i].decoded);
    /* a text that goes on another keeps its space; special tokens that are not shown do not start it */
    weir_buf_truncate(&out, 0);
    d = (weir_detok){.started = true};
    assert_int_equal(weir_detok_put(&d, t, SPACE_A, true, &out, &e), WEIR_OK);
    assert_string_equal(out.data, " a");
    weir_buf_truncate(&out, 0);
    d = (weir_detok){0};
    assert_int_equal(weir_detok_put(&d, t, BOS, false, &out, &e), WEIR_OK);
    assert_int_equal(weir_detok_put(&d, t, SPACE_A, false, &out, &e), WEIR_OK);
    assert_string_equal(out.data, "a");
    weir_buf_fini(&out);
    weir_tokens_fini(&ids);
    weir_tokenizer_destroy(t);
  }
}

/* What a template wrote is special, what a user typed is not. */
static void marked_spans(void **state) {
  (void)state;
  static const char text[] = "<s>a</s><s>b</s>";
  static const struct {
    weir_span span[3];
    int32_t n;
    const char *want;
  } rows[] = {
      {{{0, 3}, {4, 8}}, 2, "9 1 10 0 2 0"}, /* the second pair was typed */
      {{{0, 0}}, 0, "0 1 0 2 0"},
      {{{0, 16}}, 1, "9 1 10 9 2 10"},
      {{{0, 2}, {2, 3}}, 2, "0 1 0 2 0"}, /* a token lies in one span */
      {{{4, 8}, {8, 11}}, 2, "0 1 10 9 2 0"},
      {{{1, 16}}, 1, "0 1 10 9 2 10"},
  };
  weir_tokenizer *t = must_create(&(parts){0});
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_tokens ids = {0};
    weir_err e = {0};
    char got[128];
    if (weir_tokenize_marked(t, text, sizeof text - 1, rows[i].span, rows[i].n, &ids, &e) != WEIR_OK)
      fail_msg("%s", e.msg);
    show_ids(&ids, got, sizeof got);
    if (strcmp(got, rows[i].want)) fail_msg("row %zu: got %s, want %s", i, got, rows[i].want);
    weir_tokens_fini(&ids);
  }
  static const weir_span bad[][2] = {{{0, 17}, {0, 0}}, {{3, 2}, {0, 0}}, {{0, 3}, {2, 4}}};
  static const int32_t n_bad[] = {1, 1, 2};
  for (size_t i = 0; i < 3; i++) {
    weir_tokens ids = {0};
    weir_err e = {0};
    assert_int_equal(weir_tokenize_marked(t, text, sizeof text - 1, bad[i], n_bad[i], &ids, &e), WEIR_EINVAL);
    assert_int_equal(ids.n, 0);
  }
  weir_tokenizer_destroy(t);
}

/* Bytes that are no UTF-8 come back where the vocabulary has them, else one U+FFFD each maximal subpart. */
static void broken_utf8(void **state) {
  (void)state;
  weir_buf vocab = {0}, model = {0};
  weir_err e = {0};
  for (int b = 0; b < 256; b++) {
    char spelled[3];
    tiny_vocab_spell((uint8_t)b, spelled);
    const bool quoted = spelled[0] == '"' || spelled[0] == '\\';
    assert_int_equal(
        weir_buf_printf(&vocab, &e, "%s\"%s%s\":%d", b ? "," : "", quoted ? "\\" : "", spelled, b), WEIR_OK);
  }
  assert_int_equal(weir_buf_printf(&model, &e, "{\"type\":\"BPE\",\"vocab\":{%s},\"merges\":[]}", vocab.data),
                   WEIR_OK);
  weir_tokenizer *t = must_create(&(parts){.model = model.data,
                                           .pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
                                           .decoder = "{\"type\":\"ByteLevel\"}",
                                           .added = "[]"});
  check_ids(t, "a\xff\xe2\x82z", true, "97 255 226 130 122");
  weir_tokenizer_destroy(t);
  t = must_create(&(parts){0});
  check_ids(t,
            "a\xff\xe2\x82"
            "b",
            true, "1 0 0 2");
  weir_tokenizer_destroy(t);
  weir_buf_fini(&vocab);
  weir_buf_fini(&model);
}

static void templates_of_post_processors(void **state) {
  (void)state;
  static const struct {
    const char *post;
    int32_t bos, eos;
    bool adds_bos, adds_eos;
  } rows[] = {
      {"null", -1, -1, false, false},
      {"{\"type\":\"ByteLevel\",\"trim_offsets\":true}", -1, -1, false, false},
      {"{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{"
       "\"Sequence\":"
       "{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[9],\"tokens\":["
       "\"<s>\"]}}}",
       BOS, -1, true, false},
      {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":\"TemplateProcessing\","
       "\"single\":"
       "[{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"</s>\"}}],\"special_tokens\":{\"</"
       "s>\":{\"ids\":"
       "[10]}}}]}",
       -1, EOS, false, true},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_tok_spec s;
    weir_buf json = {0};
    weir_err e = {0};
    file_of(&(parts){.post = rows[i].post}, &json);
    if (weir_tok_spec_from_json(&s, (weir_str){json.data, json.len}, &e) != WEIR_OK) fail_msg("%s", e.msg);
    assert_int_equal(s.bos, rows[i].bos);
    assert_int_equal(s.eos, rows[i].eos);
    assert_int_equal(s.adds_bos, rows[i].adds_bos);
    assert_int_equal(s.adds_eos, rows[i].adds_eos);
    weir_tok_spec_fini(&s);
    weir_buf_fini(&json);
  }
}

/* ---- the files around it ---- */

static void around(void **state) {
  (void)state;
  static const struct {
    const char *tokens, *generation, *config, *jinja;
    int32_t bos, eos;
    bool adds_bos;
    const char *ends, *template;
  } rows[] = {
      {"{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</"
       "s>\"},\"add_bos_token\":true,\"chat_template\":\"T\"}",
       "{}", "{}", NULL, BOS, EOS, true, "10", "T"},
      {"{}", "{\"eos_token_id\":[10,7]}", "{\"eos_token_id\":3,\"bos_token_id\":9}", NULL, BOS, EOS, false,
       "10 7 3", ""},
      {"{\"chat_template\":[{\"name\":\"tool\",\"template\":\"X\"},{\"name\":\"default\",\"template\":\"Y\"}]"
       "}",
       "{\"eos_token_id\":null}", "{\"text_config\":{\"eos_token_id\":6}}", NULL, -1, C, false, "6", "Y"},
      {"{\"chat_template\":\"T\"}", "{\"eos_token_id\":4000}", "{}", "J", -1, -1, false, "", "J"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_buf json = {0};
    weir_err e = {0};
    weir_hf *hf;
    weir_tok_spec s;
    char ends[64];
    file_of(&(parts){0}, &json);
    weir_hf_part part[5] = {{"config.json", weir_str_of(rows[i].config)},
                            {"tokenizer.json", {json.data, json.len}},
                            {"tokenizer_config.json", weir_str_of(rows[i].tokens)},
                            {"generation_config.json", weir_str_of(rows[i].generation)}};
    int32_t n = 4;
    if (rows[i].jinja) part[n++] = (weir_hf_part){"chat_template.jinja", weir_str_of(rows[i].jinja)};
    if (weir_hf_parse(part, n, &hf, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (weir_tok_spec_from_hf(&s, hf, &e) != WEIR_OK) fail_msg("%s", e.msg);
    weir_hf_close(hf);
    assert_int_equal(s.bos, rows[i].bos);
    assert_int_equal(s.eos, rows[i].eos);
    assert_int_equal(s.adds_bos, rows[i].adds_bos);
    const weir_tokens list = {.id = s.end, .n = s.n_end};
    show_ids(&list, ends, sizeof ends);
    assert_string_equal(ends, rows[i].ends);
    if (!weir_str_eq(s.chat_template, weir_str_of(rows[i].template))) fail_msg("row %zu: other template", i);
    weir_tok_spec_fini(&s);
    weir_buf_fini(&json);
  }
}

/* The demo model came from this tokenizer.json: both say the same. */
static void demo_model(void **state) {
  (void)state;
  static const char *const texts[] = {"",
                                      "The weir is 12345 m wide.\n\n  Isn't it? \xc3\xa9\xf0\x9f\x98\x80 ",
                                      "<|im_start|>user\nHi<|im_end|>", "\t\r\n x=1;  y = 22"};
  weir_buf json = {0};
  weir_tokenizer *a, *b;
  weir_err e = {0};
  weir_gguf *g;
  char chunk[4096];
  int32_t n;
  FILE *f = fopen("models/tokenizer.json", "rb");
  assert_non_null(f);
  for (size_t k; (k = fread(chunk, 1, sizeof chunk, f)) > 0;)
    assert_int_equal(weir_buf_put(&json, chunk, k, &e), WEIR_OK);
  fclose(f);
  if (weir_tokenizer_from_json((weir_str){json.data, json.len}, &a, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_gguf_open("models/weir-demo-small-Q8_0.gguf", &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &b, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  if (weir_tokenizer_same(a, b, &n, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(n, weir_tokenizer_n_vocab(b));
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    weir_tokens x = {0}, y = {0};
    assert_int_equal(weir_tokenize(a, texts[i], strlen(texts[i]), true, &x, &e), WEIR_OK);
    assert_int_equal(weir_tokenize(b, texts[i], strlen(texts[i]), true, &y, &e), WEIR_OK);
    assert_int_equal(x.n, y.n);
    if (x.n) assert_memory_equal(x.id, y.id, (size_t)x.n * sizeof *x.id);
    weir_tokens_fini(&x);
    weir_tokens_fini(&y);
  }
  weir_tokenizer_destroy(a);
  weir_tokenizer_destroy(b);
  weir_buf_fini(&json);
}

static void directories_without(void **state) {
  (void)state;
  const weir_hf_part part[] = {{"config.json", weir_str_of("{}")}, {"vocab.json", weir_str_of("{}")}};
  weir_err e = {0};
  weir_hf *hf;
  weir_tok_spec s;
  assert_int_equal(weir_hf_parse(part, 2, &hf, &e), WEIR_OK);
  assert_int_equal(weir_tok_spec_from_hf(&s, hf, &e), WEIR_EUNSUP);
  assert_non_null(strstr(e.msg, "there is no tokenizer.json and no tokenizer.model"));
  weir_hf_close(hf);
}

/* One model, converted: SentencePiece's pieces in GGUF, merges in tokenizer.json. */
static void same_from_both_formats(void **state) {
  (void)state;
  static const char *const tokens[] = {"<unk>", "a",      "b",   "ab",   MARK,  MARK "a", "c",
                                       "abc",   "<0x41>", "<s>", "</s>", "<x>", "cab"};
  static const int32_t types[] = {2, 1, 1, 1, 1, 1, 1, 1, 6, 3, 3, 4, 4};
  static const float scores[13] = {0};
  gguf_writer w;
  size_t len;
  weir_gguf *g;
  weir_tokenizer *a, *b = must_create(&(parts){0});
  weir_err e = {0};
  int32_t n;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "tokenizer.ggml.model", "llama");
  gguf_writer_strs(&w, "tokenizer.ggml.tokens", tokens, 13);
  gguf_writer_f32s(&w, "tokenizer.ggml.scores", scores, 13);
  gguf_writer_i32s(&w, "tokenizer.ggml.token_type", types, 13);
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  if (weir_gguf_parse(file, len, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &a, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  free(file);
  if (weir_tokenizer_same(a, b, &n, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(n, 13);
  if (weir_tokenizer_same(b, a, &n, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_tokenizer_destroy(a);
  weir_tokenizer_destroy(b);
}

/* ---- hostile texts ---- */

/* A quarter of a megabyte of one thing after the other, through every kind of step. The bound is loose
 * because sanitizers and busy machines are slow; quadratic work would take minutes. */
static void long_runs(void **state) {
  (void)state;
  enum { BYTES = 1 << 18, SECONDS = 10 };
  static const char *const repeated[] = {" ",
                                         "a",
                                         "\xcc\x81",
                                         "\xcc\x95\xcc\x80",
                                         "<|<|",
                                         "<",
                                         "\xf0\x9f\x98\x80",
                                         "<s>",
                                         "<x> ",
                                         "\xff",
                                         MARK,
                                         "\n",
                                         "\xe1\x84\x80\xe1\x85\xa1",
                                         "a\xcc\x81",
                                         "cab "};
  static const parts kinds[] = {
      {0},
      {.normalizer = "{\"type\":\"NFC\"}", .pre = "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"}"},
      {.normalizer =
           "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKD\"},{\"type\":\"Replace\",\"pattern\":"
           "{\"Regex\":\"\\\\s+\"},\"content\":\" \"},{\"type\":\"Strip\",\"strip_left\":true,"
           "\"strip_right\":true},{\"type\":\"Lowercase\"},{\"type\":\"StripAccents\"}]}",
       .pre =
           "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Whitespace\"},{\"type\":\"Punctuation\"},"
           "{\"type\":\"Digits\",\"individual_digits\":true}]}"},
      {.pre =
           "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+$|\\\\b|x*\"},\"behavior\":\"MergedWithNext\","
           "\"invert\":false}"},
  };
  char *text = malloc(BYTES);
  assert_non_null(text);
  for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
    weir_tokenizer *t = must_create(&kinds[k]);
    for (size_t i = 0; i < sizeof repeated / sizeof repeated[0]; i++) {
      const size_t len = strlen(repeated[i]);
      weir_tokens ids = {0};
      weir_err e = {0};
      for (size_t at = 0; at < BYTES; at++) text[at] = repeated[i][at % len];
      const clock_t begin = clock();
      if (weir_tokenize(t, text, BYTES, true, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
      const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
      if (seconds > SECONDS) fail_msg("kind %zu, \"%s\": %.1f s", k, repeated[i], seconds);
      weir_tokens_fini(&ids);
    }
    weir_tokenizer_destroy(t);
  }
  free(text);
}

/* One budget for a text, however many added tokens and broken bytes cut it and whichever step a pattern is
 * of: without that these take minutes. */
static void one_budget(void **state) {
  (void)state;
#define SLOW "\"pattern\":{\"Regex\":\"(?:a|a)*[0-9]\"}"
  enum { BYTES = 1 << 18, SECONDS = 5 };
  static const parts kinds[] = {
      {.pre =
           "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"String\":\"\\n\"},"
           "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"Split\"," SLOW
           ",\"behavior\":\"Isolated\",\"invert\":false}]}"},
      {.normalizer = "{\"type\":\"Replace\"," SLOW ",\"content\":\"b\"}"}};
  static const char *const between[] = {"\n", "\xff", "<x>"};
  char *text = malloc(BYTES);
  assert_non_null(text);
  for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
    weir_tokenizer *t = must_create(&kinds[k]);
    weir_tokenizer_allow(t, 0.1);
    for (size_t i = 0; i < sizeof between / sizeof between[0]; i++) {
      char repeated[32] = "aaaaaaaaaaaaaaaaaa";
      strcat(repeated, between[i]);
      const size_t n = strlen(repeated);
      weir_tokens ids = {0};
      weir_err e = {0};
      for (size_t at = 0; at < BYTES; at++) text[at] = repeated[at % n];
      const clock_t begin = clock();
      assert_int_equal(weir_tokenize(t, text, BYTES, true, &ids, &e), WEIR_EINVAL);
      const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
      if (!strstr(e.msg, "pattern \"(?:a|a)*[0-9]\" takes too long")) fail_msg("%s", e.msg);
      if (seconds > SECONDS) fail_msg("kind %zu, row %zu: %.1f s", k, i, seconds);
      assert_int_equal(ids.n, 0);
      assert_int_equal(weir_tokenize(t, "aa7", 3, true, &ids, &e), WEIR_OK); /* a text, a budget */
      weir_tokens_fini(&ids);
    }
    weir_tokenizer_destroy(t);
  }
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(refused_by_name), cmocka_unit_test(encoding),
      cmocka_unit_test(prefixes),        cmocka_unit_test(marked_spans),
      cmocka_unit_test(broken_utf8),     cmocka_unit_test(templates_of_post_processors),
      cmocka_unit_test(around),          cmocka_unit_test(directories_without),
      cmocka_unit_test(demo_model),      cmocka_unit_test(same_from_both_formats),
      cmocka_unit_test(long_runs),       cmocka_unit_test(one_budget),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
