/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabulary tables of the tokenizer. Owns copies of all strings, so that the file may be closed; may call
 * base and the gguf reader; read-only after weir_vocab_init, any thread. */
#include "model/tok_vocab.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/utf8.h"

/* GPT-2 spells each byte as a printable character: 188 bytes stand for themselves (as Latin-1), the other 68
 * become U+0100, U+0101, ... in order (Radford et al., encoder.py, bytes_to_unicode). */
static int32_t byte_of_code(uint32_t code) {
  enum { N_MOVED = 68 };
  if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255))
    return (int32_t)code;
  if (code < 256 || code >= 256 + N_MOVED) return -1;
  const int32_t i = (int32_t)code - 256;
  return i <= 32 ? i : i <= 66 ? 127 + (i - 33) : 173;
}

int64_t weir_vocab_unspell(weir_str text, char *out) {
  int64_t n = 0;
  for (size_t at = 0; at < text.len;) {
    int32_t len;
    if (weir_utf8_next(text.data + at, text.len - at, &len) != WEIR_UTF8_CHAR) return -1;
    const int32_t b = byte_of_code(weir_utf8_code(text.data + at, len));
    if (b < 0) return -1;
    out[n++] = (char)(unsigned char)b;
    at += (size_t)len;
  }
  return n;
}

static weir_status read_types(weir_vocab *v, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t *type = NULL;
  int64_t n;
  WEIR_TRY(WEIR_NEW((size_t)v->n, &type, e));
  WEIR_TRY(weir_gguf_i32_array(g, "tokenizer.ggml.token_type", type, v->n, &n, e));
  if (n != 0 && n != v->n) {
    st = weir_fail(e, WEIR_EFORMAT,
                   "key \"tokenizer.ggml.token_type\": %" PRId64 " entries for %" PRId32 " tokens", n, v->n);
    goto out;
  }
  for (int32_t i = 0; i < v->n; i++) {
    if (n == 0) type[i] = WEIR_TOKEN_NORMAL; /* files without types have ordinary tokens only */
    if (type[i] < WEIR_TOKEN_NORMAL || type[i] > WEIR_TOKEN_BYTE) {
      st = weir_fail(e, WEIR_EFORMAT,
                     "key \"tokenizer.ggml.token_type\": token %" PRId32 " has type %" PRId32, i, type[i]);
      goto out;
    }
    v->type[i] = (uint8_t)type[i];
  }
out:
  free(type);
  return st;
}

static bool is_spelled(const weir_vocab *v, int32_t i) {
  return v->type[i] == WEIR_TOKEN_NORMAL || v->type[i] == WEIR_TOKEN_BYTE || v->type[i] == WEIR_TOKEN_UNUSED;
}

/* Copies the spellings and what they stand for into one block. A token that merges can make is entered in
 * by_bytes; of two with the same bytes the lower id wins. */
static weir_status fill(weir_vocab *v, const weir_str *tokens, weir_err *e) {
  size_t total = 0;
  for (int32_t i = 0; i < v->n; i++)
    if (!weir_add_size(total, tokens[i].len, &total) || !weir_add_size(total, tokens[i].len, &total))
      return weir_fail(e, WEIR_ENOMEM, "the vocabulary's text overflows");
  weir_status st = WEIR_NEW(total, &v->store, e);
  if (st != WEIR_OK) return st;
  char *at = v->store;
  for (int32_t i = 0; i < v->n; i++) {
    const size_t len = tokens[i].len;
    if (len) memcpy(at, tokens[i].data, len);
    v->text[i] = (weir_str){at, len};
    at += len;
    v->bytes[i] = v->text[i];
    if (!is_spelled(v, i)) continue;
    const int64_t n = weir_vocab_unspell(v->text[i], at);
    if (n < 0) continue; /* not in the byte alphabet: stands for its own text and no merge makes it */
    v->bytes[i] = (weir_str){at, (size_t)n};
    at += n;
    if (n > 0) weir_strmap_add(&v->by_bytes, v->bytes[i], i);
  }
  /* A user-defined token stands for its own text, but where it is also the only one with the spelling of
   * certain bytes, it is that token too: DeepSeek's vocabularies declare some byte tokens this way. */
  for (int32_t i = 0; i < v->n; i++) {
    if (v->type[i] != WEIR_TOKEN_USER) continue;
    const int64_t n = weir_vocab_unspell(v->text[i], at);
    if (n > 0 && weir_strmap_add(&v->by_bytes, (weir_str){at, (size_t)n}, i) == i) at += n;
  }
  return WEIR_OK;
}

/* Text is encoded by bytes, so each needs its token. Those above 0xF0 occur only in characters beyond plane
 * 3, none of them assigned to a script, and in bytes that are no UTF-8: vocabularies trained on a list of
 * seen bytes (StarCoder's) lack some. */
static weir_status find_bytes(weir_vocab *v, weir_err *e) {
  v->has_all_bytes = true;
  for (int b = 0; b < 256; b++) {
    const char c = (char)(unsigned char)b;
    v->byte_id[b] = weir_strmap_get(&v->by_bytes, (weir_str){&c, 1});
    if (v->byte_id[b] >= 0) continue;
    v->has_all_bytes = false;
    if (b <= 0xf0 && b != 0xc0 && b != 0xc1)
      return weir_fail(e, WEIR_EFORMAT, "key \"tokenizer.ggml.tokens\": no token for the byte 0x%02x",
                       (unsigned)b);
  }
  return WEIR_OK;
}

weir_status weir_vocab_init(weir_vocab *v, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_str *tokens;
  int64_t n;
  *v = (weir_vocab){0};
  WEIR_TRY(weir_gguf_str_array(g, "tokenizer.ggml.tokens", &tokens, &n, e));
  if (n < 1) {
    st = weir_fail(e, WEIR_EFORMAT, "key \"tokenizer.ggml.tokens\" is missing or empty");
    goto out;
  }
  if (n > WEIR_MAX_VOCAB) {
    st = weir_fail(e, WEIR_EFORMAT, "key \"tokenizer.ggml.tokens\": %" PRId64 " tokens (limit %d)", n,
                   WEIR_MAX_VOCAB);
    goto out;
  }
  v->n = (int32_t)n;
  WEIR_TRY(WEIR_NEW((size_t)n, &v->text, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &v->bytes, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &v->type, e));
  WEIR_TRY(weir_strmap_init(&v->by_bytes, (size_t)n, e));
  WEIR_TRY(read_types(v, g, e));
  WEIR_TRY(fill(v, tokens, e));
  WEIR_TRY(find_bytes(v, e));
out:
  if (st != WEIR_OK) weir_vocab_fini(v);
  return st;
}

void weir_vocab_fini(weir_vocab *v) {
  free(v->text);
  free(v->bytes);
  free(v->type);
  free(v->store);
  weir_strmap_fini(&v->by_bytes);
  *v = (weir_vocab){0};
}
