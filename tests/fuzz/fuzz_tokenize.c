/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a text, behind one byte that chooses tokenizer and options. The bytes of the ids
 * must be the text; PCRE2's compiler and interpreter must cut alike; the detokeniser must give UTF-8. Run
 * from the repository root: it reads the demo model. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tok_pretok.h"
#include "model/tokenizer.h"
#include "model/utf8.h"
#include "tiny_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_tokenize: %s\n", what);
  abort();
}

/* The demo model's, and small ones with the other pre-tokenisers. */
static const char *const pres[] = {NULL,        "gpt-2",        "llama-bpe",      "qwen2",
                                   "starcoder", "deepseek-llm", "deepseek-coder", "falcon",
                                   "gpt-4o",    "deepseek-v3",  "tekken"};
enum { N_PRES = sizeof pres / sizeof pres[0] };

/* Small ones with a tokenizer.json: all bytes by fallback, and what is between. The first gives the text's
 * bytes back, but for U+2581; the others change the text. */
#define MARK "\xe2\x96\x81"
#define NO_SPLIT \
  "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":\"never\",\"split\":false}"
static const struct {
  const char *normalizer, *pre;
} shapes[] = {
    {"null", NO_SPLIT},
    {"{\"type\":\"NFC\"}", NO_SPLIT},
    {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"},{\"type\":\"NFKD\"},{\"type\":\"Lowercase\"}"
     ","
     "{\"type\":\"StripAccents\"},{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}]}",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Whitespace\"},{\"type\":\"Punctuation\"},{"
     "\"type\":"
     "\"Digits\",\"individual_digits\":true},{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"}]}"},
    {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":{"
     "\"Regex\":"
     "\" {2,}\"},\"content\":\" \"},{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"}]}",
     "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\b|\\\\s+$\"},\"behavior\":\"MergedWithNext\","
     "\"invert\":"
     "false}"},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], N_ALL = N_PRES + N_SHAPES };
static weir_tokenizer *tokenizer[N_ALL];
static weir_pretok *compiled[N_PRES], *interpreted[N_PRES];

_Noreturn static void die(const weir_err *e) {
  fprintf(stderr, "fuzz_tokenize: %s\n", e->msg);
  exit(1);
}

static weir_tokenizer *tiny_tokenizer(const char *pre) {
  static const char *const merges[] = {"h e",
                                       "t he",
                                       "\xc4\xa0 the",
                                       "a a",
                                       "aa aa",
                                       "\xc4\xa0 \xc4\xa0",
                                       "1 2",
                                       "12 3",
                                       "\xc4\x8a \xc4\x8a",
                                       "\xc3\xb0 \xc5\x81",
                                       "' s",
                                       "\xc4\xa0\xc4\xa0 \xc4\xa0\xc4\xa0"};
  const tiny_vocab v = {
      .pre = pre,
      .merges = merges,
      .n_merges = sizeof merges / sizeof merges[0],
      .extra = {
          {"<|im_end|>", TINY_CONTROL}, {"<|im", TINY_CONTROL}, {"<user>", TINY_USER}, {"    ", TINY_USER}}};
  gguf_writer w;
  size_t len;
  weir_gguf *g;
  weir_tokenizer *t;
  weir_err e = {0};
  gguf_writer_init(&w);
  tiny_vocab_write(&w, &v);
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  if (weir_gguf_parse(file, len, &g, &e) != WEIR_OK || weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK)
    die(&e);
  weir_gguf_close(g);
  free(file);
  return t;
}

static weir_tokenizer *json_tokenizer(int shape) {
  weir_tokenizer *t;
  weir_err e = {0};
  weir_buf vocab = {0}, file = {0};
  weir_status st = weir_buf_printf(&vocab, &e,
                                   "\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\"" MARK "\":4,\"" MARK
                                   "a\":5,\"\xf0\x9f\x98\x80\":6");
  for (int b = 0; b < 256 && st == WEIR_OK; b++)
    st = weir_buf_printf(&vocab, &e, ",\"<0x%02X>\":%d", (unsigned)b, 7 + b);
  if (st == WEIR_OK)
    st = weir_buf_printf(
        &file, &e,
        "{\"added_tokens\":[{\"content\":\"<|im_end|>\",\"special\":true,\"normalized\":false},{\"content\":"
        "\"<|im\","
        "\"special\":true,\"normalized\":false},{\"content\":\"ba\",\"special\":false,\"normalized\":true,"
        "\"single_word\":%s}],\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":{\"type\":\"Sequence\","
        "\"decoders\":"
        "[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK
        "\"},\"content\":\" "
        "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]},\"model\":{\"type\":\"BPE\","
        "\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"vocab\":{%s},\"merges\":[\"a "
        "b\",\"" MARK " a\"]}}",
        shape % 2 ? "true" : "false", shapes[shape].normalizer, shapes[shape].pre, vocab.data);
  if (st != WEIR_OK || weir_tokenizer_from_json((weir_str){file.data, file.len}, &t, &e) != WEIR_OK) die(&e);
  weir_buf_fini(&vocab);
  weir_buf_fini(&file);
  return t;
}

static void set_up(void) {
  weir_err e = {0};
  weir_gguf *g;
  if (tokenizer[0]) return;
  for (int i = 1; i < N_PRES; i++) {
    tokenizer[i] = tiny_tokenizer(pres[i]);
    if (weir_pretok_create_named(weir_str_of(pres[i]), false, &compiled[i], &e) != WEIR_OK) die(&e);
    if (weir_pretok_create_named(weir_str_of(pres[i]), true, &interpreted[i], &e) != WEIR_OK) die(&e);
  }
  for (int i = 0; i < N_SHAPES; i++) tokenizer[N_PRES + i] = json_tokenizer(i);
  if (weir_gguf_open("models/weir-demo-small-Q8_0.gguf", &g, &e) != WEIR_OK) die(&e);
  if (weir_tokenizer_from_gguf(g, &tokenizer[0], &e) != WEIR_OK) die(&e);
  weir_gguf_close(g);
}

static bool is_utf8(const char *p, size_t n) {
  int32_t len;
  for (size_t at = 0; at < n; at += (size_t)len)
    if (weir_utf8_next(p + at, n - at, &len) != WEIR_UTF8_CHAR) return false;
  return true;
}

static void check_cuts(int which, const char *text, size_t len) {
  weir_cut a, b;
  weir_err e = {0};
  if (which == 0 || which >= N_PRES || !is_utf8(text, len)) return;
  if (weir_pretok_run(compiled[which], text, len, true, true, NULL, &a, &e) != WEIR_OK) die(&e);
  if (weir_pretok_run(interpreted[which], text, len, true, true, NULL, &b, &e) != WEIR_OK) die(&e);
  require(a.n == b.n && (a.n == 0 || memcmp(a.piece, b.piece, a.n * sizeof *a.piece) == 0),
          "compiler and interpreter cut differently");
  require(a.n == 0 || a.piece[a.n - 1].end == len, "the last piece does not end the text");
}

/* What the bytes of the ids are to be: the text, its U+2581 as spaces where spaces are spelled so. */
static void wanted(int which, const char *text, size_t len, weir_buf *out) {
  weir_err e = {0};
  for (size_t at = 0; at < len;) {
    const bool mark = which >= N_PRES && len - at >= 3 && memcmp(text + at, MARK, 3) == 0;
    if (weir_buf_put(out, mark ? " " : text + at, 1, &e) != WEIR_OK) die(&e);
    at += mark ? 3 : 1;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  set_up();
  if (size == 0) return 0;
  const int which = data[0] / 2 % N_ALL;
  const bool special = data[0] % 2, exact = which <= N_PRES;
  const char *text = (const char *)data + 1;
  const size_t len = size - 1;
  weir_tokenizer *t = tokenizer[which];
  weir_tokens ids = {0}, again = {0};
  weir_buf out = {0}, want = {0};
  weir_detok d = {0};
  weir_err e = {0};
  if (weir_tokenize(t, text, len, special, &ids, &e) != WEIR_OK) die(&e);
  wanted(which, text, len, &want);
  size_t at = 0;
  for (int32_t i = 0; i < ids.n; i++) {
    const weir_str s = weir_token_bytes(t, ids.id[i]);
    require(!exact || (s.len > 0 && s.len <= want.len - at && memcmp(want.data + at, s.data, s.len) == 0),
            "the ids are another text");
    at += s.len;
    require(weir_detok_put(&d, t, ids.id[i], true, &out, &e) == WEIR_OK, e.msg);
    require(d.n_pending >= 0 && d.n_pending <= 3, "too much is held back");
  }
  require(!exact || at == want.len, "the ids are a shorter text");
  require(weir_detok_end(&d, &out, &e) == WEIR_OK, e.msg);
  require(is_utf8(out.data, out.len), "the detokeniser gave broken UTF-8");
  /* two spans that touch change nothing unless a token lies across */
  const weir_span all[2] = {{0, 0}, {0, len}};
  if (weir_tokenize_marked(t, text, len, all, special ? 2 : 0, &again, &e) != WEIR_OK) die(&e);
  require(again.n == ids.n && (ids.n == 0 || memcmp(again.id, ids.id, (size_t)ids.n * sizeof *ids.id) == 0),
          "marked as a whole it gives other ids");
  check_cuts(which, text, len);
  weir_buf_fini(&out);
  weir_buf_fini(&want);
  weir_tokens_fini(&ids);
  weir_tokens_fini(&again);
  return 0;
}
