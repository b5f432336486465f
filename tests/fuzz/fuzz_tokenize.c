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
static const char *const pres[] = {NULL,        "gpt-2",        "llama-bpe",     "qwen2",
                                   "starcoder", "deepseek-llm", "deepseek-coder"};
enum { N_PRES = sizeof pres / sizeof pres[0] };
static weir_tokenizer *tokenizer[N_PRES];
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
  if (weir_gguf_parse(file, len, &g, &e) != WEIR_OK || weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK) die(&e);
  weir_gguf_close(g);
  free(file);
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
  if (which == 0 || !is_utf8(text, len)) return;
  if (weir_pretok_run(compiled[which], text, len, true, true, &a, &e) != WEIR_OK) die(&e);
  if (weir_pretok_run(interpreted[which], text, len, true, true, &b, &e) != WEIR_OK) die(&e);
  require(a.n == b.n && (a.n == 0 || memcmp(a.piece, b.piece, a.n * sizeof *a.piece) == 0),
          "compiler and interpreter cut differently");
  require(a.n == 0 || a.piece[a.n - 1].end == len, "the last piece does not end the text");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  set_up();
  if (size == 0) return 0;
  const int which = data[0] / 2 % N_PRES;
  const bool special = data[0] % 2;
  const char *text = (const char *)data + 1;
  const size_t len = size - 1;
  weir_tokenizer *t = tokenizer[which];
  weir_tokens ids = {0};
  weir_buf out = {0};
  weir_detok d = {0};
  weir_err e = {0};
  if (weir_tokenize(t, text, len, special, &ids, &e) != WEIR_OK) die(&e);
  size_t at = 0;
  for (int32_t i = 0; i < ids.n; i++) {
    const weir_str s = weir_token_bytes(t, ids.id[i]);
    require(s.len > 0 && s.len <= len - at && memcmp(text + at, s.data, s.len) == 0,
            "the ids are another text");
    at += s.len;
    require(weir_detok_put(&d, t, ids.id[i], true, &out, &e) == WEIR_OK, e.msg);
    require(d.n_pending >= 0 && d.n_pending <= 3, "too much is held back");
  }
  require(at == len, "the ids are a shorter text");
  require(weir_detok_end(&d, &out, &e) == WEIR_OK, e.msg);
  require(is_utf8(out.data, out.len), "the detokeniser gave broken UTF-8");
  check_cuts(which, text, len);
  weir_buf_fini(&out);
  weir_tokens_fini(&ids);
  return 0;
}
