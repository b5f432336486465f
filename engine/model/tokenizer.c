/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer of a model file: cuts a text at special tokens, at bytes that are no UTF-8, by the
 * pre-tokeniser, and gives the pieces to BPE. Owns its vocabulary, patterns, merges; may call its siblings
 * tok_*.c; one thread at a time per tokenizer, because patterns and merges keep scratch. */
#include "model/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/tok_bpe.h"
#include "model/tok_pretok.h"
#include "model/tok_special.h"
#include "model/tok_vocab.h"
#include "model/utf8.h"

struct weir_tokenizer {
  weir_vocab vocab;
  weir_specials specials;
  weir_bpe bpe;
  weir_pretok *pretok;
  uint8_t *is_end; /* [vocab.n] */
  weir_strmap by_text;
  char *template; /* owned; [template_len] */
  size_t template_len;
  int32_t bos, eos;
  bool adds_bos;
};

/* ---- lists of ids ---- */

void weir_tokens_fini(weir_tokens *t) {
  free(t->id);
  *t = (weir_tokens){0};
}

weir_status weir_tokens_push(weir_tokens *t, int32_t id, weir_err *e) {
  if (t->n == t->cap) {
    if (t->cap > INT32_MAX / 2)
      return weir_fail(e, WEIR_ENOMEM, "a list of %" PRId32 " tokens is full", t->n);
    const int32_t cap = t->cap ? t->cap * 2 : 64;
    int32_t *grown = realloc(t->id, (size_t)cap * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot grow a list to %" PRId32 " tokens", cap);
    t->id = grown;
    t->cap = cap;
  }
  t->id[t->n++] = id;
  return WEIR_OK;
}

/* ---- creation ---- */

/* *out is -1 when the file does not say. */
static weir_status read_id(const weir_gguf *g, const char *key, int32_t n_vocab, int32_t *out, weir_err *e) {
  int64_t id;
  const weir_status st = weir_gguf_i64(g, key, -1, &id, e);
  if (st != WEIR_OK) return st;
  if (id < -1 || id >= n_vocab || (id == -1 && weir_gguf_has(g, key)))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": id %" PRId64 " of %" PRId32 " tokens", key, id, n_vocab);
  *out = (int32_t)id;
  return WEIR_OK;
}

/* The end of a text or of a turn: what the file names, and control tokens with the spellings that chat models
 * use, because many files name only one of several. */
static weir_status find_ends(weir_tokenizer *t, const weir_gguf *g, weir_err *e) {
  static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  /* The last is DeepSeek's, with U+FF5C bars and U+2581 for spaces; octal, because hex escapes have no end.
   */
  static const char *const spelled[] = {
      "<|im_end|>",      "<|eot_id|>",
      "<|eom_id|>",      "<|endoftext|>",
      "<|end|>",         "<|end_of_text|>",
      "<|end_of_turn|>", "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>"};
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    int32_t id = -1;
    const weir_status st = read_id(g, keys[i], t->vocab.n, &id, e);
    if (st != WEIR_OK) return st;
    if (id >= 0) t->is_end[id] = 1;
  }
  for (int32_t id = 0; id < t->vocab.n; id++) {
    if (t->vocab.type[id] != WEIR_TOKEN_CONTROL) continue;
    for (size_t i = 0; i < sizeof spelled / sizeof spelled[0]; i++)
      if (weir_str_eq(t->vocab.text[id], weir_str_of(spelled[i]))) t->is_end[id] = 1;
  }
  return WEIR_OK;
}

static weir_status keep_template(weir_tokenizer *t, const weir_gguf *g, weir_err *e) {
  weir_str text;
  weir_status st = weir_gguf_str(g, "tokenizer.chat_template", &text, e);
  if (st != WEIR_OK || text.len == 0) return st;
  st = WEIR_NEW(text.len, &t->template, e);
  if (st != WEIR_OK) return st;
  memcpy(t->template, text.data, text.len);
  t->template_len = text.len;
  return WEIR_OK;
}

static weir_status check_model(const weir_gguf *g, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_str model;
  const weir_status st = weir_gguf_str(g, "tokenizer.ggml.model", &model, e);
  if (st != WEIR_OK) return st;
  if (!model.data)
    return weir_fail(e, WEIR_EFORMAT, "key \"tokenizer.ggml.model\" is missing: the file has no tokenizer");
  if (weir_str_eq(model, weir_str_of("gpt2"))) return WEIR_OK;
  const bool pieces = weir_str_eq(model, weir_str_of("llama")) || weir_str_eq(model, weir_str_of("t5"));
  return weir_fail(e, WEIR_EUNSUP, "tokenizer model %s%s is not supported (known: gpt2, byte-level BPE)",
                   weir_str_show(model, shown), pieces ? " (SentencePiece)" : "");
}

weir_status weir_tokenizer_from_gguf(const weir_gguf *g, weir_tokenizer **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tokenizer *t = NULL;
  weir_str pre;
  *out = NULL;
  WEIR_TRY(check_model(g, e));
  WEIR_TRY(weir_gguf_str(g, "tokenizer.ggml.pre", &pre, e));
  if (!pre.data || weir_str_eq(pre, weir_str_of("default"))) {
    /* The model was trained with some pre-tokeniser that its converter did not record; GPT-2's is the
     * likeliest. */
    weir_log(WEIR_LOG_WARN, "key \"tokenizer.ggml.pre\" is %s: taking the gpt-2 pattern",
             pre.data ? "\"default\"" : "missing");
    pre = weir_str_of("gpt-2");
  }
  WEIR_TRY(WEIR_NEW(1, &t, e));
  WEIR_TRY(weir_pretok_create(pre, false, &t->pretok, e));
  WEIR_TRY(weir_vocab_init(&t->vocab, g, e));
  WEIR_TRY(weir_specials_init(&t->specials, &t->vocab, e));
  WEIR_TRY(weir_bpe_init(&t->bpe, g, &t->vocab, e));
  WEIR_TRY(read_id(g, "tokenizer.ggml.bos_token_id", t->vocab.n, &t->bos, e));
  WEIR_TRY(
      weir_gguf_bool(g, "tokenizer.ggml.add_bos_token", weir_pretok_adds_bos(t->pretok), &t->adds_bos, e));
  WEIR_TRY(WEIR_NEW((size_t)t->vocab.n, &t->is_end, e));
  WEIR_TRY(read_id(g, "tokenizer.ggml.eos_token_id", t->vocab.n, &t->eos, e));
  WEIR_TRY(find_ends(t, g, e));
  WEIR_TRY(keep_template(t, g, e));
  WEIR_TRY(weir_strmap_init(&t->by_text, (size_t)t->vocab.n, e));
  for (int32_t i = 0; i < t->vocab.n; i++) weir_strmap_add(&t->by_text, t->vocab.text[i], i);
  *out = t;
  t = NULL;
out:
  weir_tokenizer_destroy(t);
  return st;
}

weir_status weir_tokenizer_create(const weir_mfile *m, weir_tokenizer **out, weir_err *e) {
  return weir_tokenizer_from_gguf(weir_mfile_gguf(m), out, e);
}

void weir_tokenizer_destroy(weir_tokenizer *t) {
  if (!t) return;
  weir_pretok_destroy(t->pretok);
  weir_bpe_fini(&t->bpe);
  weir_specials_fini(&t->specials);
  weir_vocab_fini(&t->vocab);
  weir_strmap_fini(&t->by_text);
  free(t->template);
  free(t->is_end);
  free(t);
}

/* ---- text to ids ---- */

static weir_status encode_piece(weir_tokenizer *t, const char *p, size_t n, weir_tokens *io, weir_err *e) {
  if (weir_pretok_takes_whole(t->pretok)) {
    const int32_t id = weir_strmap_get(&t->vocab.by_bytes, (weir_str){p, n});
    if (id >= 0) return weir_tokens_push(io, id, e);
  }
  return weir_bpe_encode(&t->bpe, &t->vocab, p, n, io, e);
}

static weir_status encode_utf8(weir_tokenizer *t, const char *p, size_t n, weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  const uint32_t *end;
  size_t n_pieces, begin = 0;
  if (n == 0) return WEIR_OK;
  WEIR_TRY(weir_pretok_split(t->pretok, p, n, &end, &n_pieces, e));
  for (size_t i = 0; i < n_pieces; i++) {
    WEIR_TRY(encode_piece(t, p + begin, end[i] - begin, io, e));
    begin = end[i];
  }
out:
  return st;
}

/* Bytes that are part of no character, or of a character that the vocabulary has not all bytes of: one token
 * each, or else one U+FFFD, which loses the bytes but keeps that something was there. */
static weir_status encode_bytes(weir_tokenizer *t, const char *p, int32_t n, weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < n; i++)
    if (t->vocab.byte_id[(unsigned char)p[i]] < 0) return encode_utf8(t, "\xef\xbf\xbd", 3, io, e);
  for (int32_t i = 0; i < n; i++) WEIR_TRY(weir_tokens_push(io, t->vocab.byte_id[(unsigned char)p[i]], e));
out:
  return st;
}

static bool has_bytes(const weir_vocab *v, const char *p, int32_t n) {
  if (v->has_all_bytes) return true;
  for (int32_t i = 0; i < n; i++)
    if (v->byte_id[(unsigned char)p[i]] < 0) return false;
  return true;
}

/* Text without special tokens: runs of UTF-8, and the bytes between them. */
static weir_status encode_text(weir_tokenizer *t, const char *p, size_t n, weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  size_t begin = 0;
  for (size_t at = 0; at < n;) {
    int32_t len;
    if (weir_utf8_next(p + at, n - at, &len) == WEIR_UTF8_CHAR && has_bytes(&t->vocab, p + at, len)) {
      at += (size_t)len;
      continue;
    }
    WEIR_TRY(encode_utf8(t, p + begin, at - begin, io, e));
    WEIR_TRY(encode_bytes(t, p + at, len, io, e));
    at += (size_t)len;
    begin = at;
  }
  WEIR_TRY(encode_utf8(t, p + begin, n - begin, io, e));
out:
  return st;
}

static weir_status check_spans(const weir_span *span, int32_t n, size_t len, weir_err *e) {
  for (int32_t i = 0; i < n; i++)
    if (span[i].begin > span[i].end || span[i].end > len || (i > 0 && span[i].begin < span[i - 1].end))
      return weir_fail(e, WEIR_EINVAL, "span %" PRId32 " of a text of %zu bytes is [%zu, %zu)", i, len,
                       span[i].begin, span[i].end);
  return WEIR_OK;
}

weir_status weir_tokenize_marked(weir_tokenizer *t, const char *text, size_t len, const weir_span *span,
                                 int32_t n_spans, weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t n_before = io->n;
  size_t begin = 0;
  int32_t s = 0;
  if (len > WEIR_TOKENIZE_MAX_BYTES)
    return weir_fail(e, WEIR_EINVAL, "a text of %zu bytes is too long (limit %d)", len,
                     WEIR_TOKENIZE_MAX_BYTES);
  WEIR_TRY(check_spans(span, n_spans, len, e));
  for (size_t at = 0; at < len;) {
    while (s < n_spans && span[s].end <= at) s++;
    int32_t id = -1;
    if (s < n_spans && at >= span[s].begin)
      id = weir_specials_at(&t->specials, text + at, span[s].end - at, true);
    const int32_t user = weir_specials_at(&t->specials, text + at, len - at, false);
    if (id < 0 || (user >= 0 && t->vocab.text[user].len > t->vocab.text[id].len)) id = user;
    if (id < 0) {
      at++;
      continue;
    }
    WEIR_TRY(encode_text(t, text + begin, at - begin, io, e));
    WEIR_TRY(weir_tokens_push(io, id, e));
    at += t->vocab.text[id].len;
    begin = at;
  }
  WEIR_TRY(encode_text(t, text + begin, len - begin, io, e));
out:
  if (st != WEIR_OK) io->n = n_before;
  return st;
}

weir_status weir_tokenize(weir_tokenizer *t, const char *text, size_t len, bool parse_special,
                          weir_tokens *io, weir_err *e) {
  const weir_span all = {0, len};
  return weir_tokenize_marked(t, text, len, &all, parse_special ? 1 : 0, io, e);
}

/* ---- what is known of ids ---- */

static bool in_range(const weir_tokenizer *t, int32_t id) { return id >= 0 && id < t->vocab.n; }

int32_t weir_tokenizer_n_vocab(const weir_tokenizer *t) { return t->vocab.n; }
int32_t weir_tokenizer_bos(const weir_tokenizer *t) { return t->bos; }
bool weir_tokenizer_adds_bos(const weir_tokenizer *t) { return t->adds_bos && t->bos >= 0; }
int32_t weir_tokenizer_eos(const weir_tokenizer *t) { return t->eos; }
int32_t weir_tokenizer_find(const weir_tokenizer *t, weir_str text) {
  return weir_strmap_get(&t->by_text, text);
}
weir_str weir_tokenizer_template(const weir_tokenizer *t) {
  return (weir_str){t->template ? t->template : "", t->template_len};
}
bool weir_tokenizer_is_end(const weir_tokenizer *t, int32_t id) { return in_range(t, id) && t->is_end[id]; }

bool weir_tokenizer_is_special(const weir_tokenizer *t, int32_t id) {
  return in_range(t, id) &&
         (t->vocab.type[id] == WEIR_TOKEN_CONTROL || t->vocab.type[id] == WEIR_TOKEN_UNKNOWN);
}

weir_str weir_token_bytes(const weir_tokenizer *t, int32_t id) {
  return in_range(t, id) ? t->vocab.bytes[id] : (weir_str){"", 0};
}
weir_str weir_token_text(const weir_tokenizer *t, int32_t id) {
  return in_range(t, id) ? t->vocab.text[id] : (weir_str){"", 0};
}

weir_status weir_tokenizer_same(const weir_tokenizer *small, const weir_tokenizer *large, int32_t *n_common,
                                weir_err *e) {
  char a[WEIR_STR_SHOW_BYTES], b[WEIR_STR_SHOW_BYTES];
  const int32_t n = small->vocab.n < large->vocab.n ? small->vocab.n : large->vocab.n;
  *n_common = 0;
  for (int32_t i = 0; i < n; i++)
    if (!weir_str_eq(small->vocab.text[i], large->vocab.text[i]))
      return weir_fail(e, WEIR_EINVAL,
                       "the vocabularies differ: token %" PRId32
                       " is %s in the small model and %s in the large one",
                       i, weir_str_show(small->vocab.text[i], a), weir_str_show(large->vocab.text[i], b));
  *n_common = n;
  return WEIR_OK;
}
