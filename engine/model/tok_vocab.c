/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabulary tables of the tokenizer. Owns copies of all strings, so that the description may go; may call
 * base and tok_regex.c; read-only after weir_vocab_init, any thread. */
#include "model/tok_vocab.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/mem.h"
#include "model/piece_trie.h"
#include "model/tok_regex.h"
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

size_t weir_vocab_spell(unsigned char byte, char out[2]) {
  uint32_t code = byte;
  if (byte <= 32)
    code = 256u + byte;
  else if (byte >= 127 && byte <= 160)
    code = 256u + 33u + (byte - 127u);
  else if (byte == 173)
    code = 256u + 67u;
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  out[0] = (char)(unsigned char)(0xc0 | code >> 6);
  out[1] = (char)(unsigned char)(0x80 | (code & 0x3f));
  return 2;
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

/* ---- what tokens stand for ---- */

typedef struct decoder {
  const weir_tok_spec *spec;
  weir_regex *regex[WEIR_TOK_MAX_STEPS]; /* of REPLACE steps */
  weir_regex_budget budget;              /* of all tokens together */
  weir_buf a, b;
} decoder;

static weir_status replace(weir_regex *r, weir_str by, weir_str in, weir_regex_budget *budget, weir_buf *out,
                           weir_err *e) {
  weir_status st = WEIR_OK;
  weir_regex_scan scan = {.budget = budget};
  size_t from = 0, begin, end;
  bool found = in.len > 0;
  while (found) {
    WEIR_TRY(weir_regex_next(r, in.data, in.len, &scan, &begin, &end, &found, e));
    if (!found) break;
    WEIR_TRY(weir_buf_put(out, in.data + from, begin - from, e));
    WEIR_TRY(weir_buf_put(out, by.data, by.len, e));
    from = end;
  }
  WEIR_TRY(weir_buf_put(out, in.data + from, in.len - from, e));
out:
  return st;
}

/* The result lies in one of the decoder's buffers or is `text`. */
static weir_status decode(decoder *d, weir_str text, weir_str *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_str now = text;
  for (int32_t i = 0; i < d->spec->n_decode; i++) {
    const weir_decode_step *s = &d->spec->decode[i];
    weir_buf *to = i % 2 ? &d->b : &d->a;
    weir_buf_truncate(to, 0);
    if (s->kind == WEIR_DECODE_REPLACE) {
      if (!weir_utf8_valid(now.data, now.len)) continue; /* a byte: later steps see no text */
      WEIR_TRY(replace(d->regex[i], s->content, now, &d->budget, to, e));
    } else if (s->kind == WEIR_DECODE_BYTE_FALLBACK) {
      const int32_t byte = weir_piece_byte(now);
      if (byte < 0) continue;
      const char c = (char)(unsigned char)byte;
      WEIR_TRY(weir_buf_put(to, &c, 1, e));
    } else {
      WEIR_TRY(weir_buf_reserve(to, now.len, e));
      const int64_t n = weir_vocab_unspell(now, to->data);
      if (n < 0) continue;
      to->len = (size_t)n;
    }
    now = (weir_str){to->data, to->len};
  }
  *out = now;
out:
  return st;
}

static weir_status decoder_init(decoder *d, const weir_tok_spec *s, weir_err *e) {
  weir_status st = WEIR_OK;
  d->spec = s;
  d->budget = weir_regex_budget_of(weir_regex_seconds((size_t)s->n));
  for (int32_t i = 0; i < s->n_decode; i++)
    if (s->decode[i].kind == WEIR_DECODE_REPLACE)
      WEIR_TRY(weir_regex_create(s->decode[i].pattern, s->decode[i].is_regex, false, &d->regex[i], e));
out:
  return st;
}

static void decoder_fini(decoder *d) {
  for (int32_t i = 0; i < WEIR_TOK_MAX_STEPS; i++) weir_regex_destroy(d->regex[i]);
  weir_buf_fini(&d->a);
  weir_buf_fini(&d->b);
}

/* Only files that say what an added token is for keep it from being decoded. */
static bool is_literal(const weir_tok_spec *s, int32_t i) {
  return s->literal_added && (s->type[i] == WEIR_TOKEN_CONTROL || s->type[i] == WEIR_TOKEN_UNKNOWN ||
                              s->type[i] == WEIR_TOKEN_USER);
}

static weir_status fill(weir_vocab *v, const weir_tok_spec *s, const weir_str *shown, weir_err *e) {
  weir_status st = WEIR_OK;
  decoder d = {0};
  WEIR_TRY(decoder_init(&d, s, e));
  for (int32_t i = 0; i < v->n; i++) {
    WEIR_TRY(weir_strings_keep(&v->strings, s->text[i], &v->text[i], e));
    v->bytes[i] = v->text[i];
    v->type[i] = s->type[i];
    if (is_literal(s, i)) continue;
    weir_str bytes;
    WEIR_TRY(decode(&d, shown && shown[i].data ? shown[i] : v->text[i], &bytes, e));
    if (bytes.data != v->text[i].data && !weir_str_eq(bytes, v->text[i]))
      WEIR_TRY(weir_strings_keep(&v->strings, bytes, &v->bytes[i], e));
  }
out:
  decoder_fini(&d);
  return st;
}

/* ---- look-up ---- */

/* Of two tokens with the same bytes the lower id wins, but a user-defined one is that token only where it is
 * the only one with the spelling of certain bytes: DeepSeek's vocabularies declare some byte tokens so. */
static weir_status index_pieces(weir_vocab *v, const weir_tok_spec *s, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf b = {0};
  for (int user = 0; user < 2; user++)
    for (int32_t i = 0; i < v->n; i++) {
      if (!s->in_model[i] || (v->type[i] == WEIR_TOKEN_USER) != user || v->text[i].len == 0) continue;
      weir_str key = v->text[i];
      if (s->byte_level) {
        weir_buf_truncate(&b, 0);
        WEIR_TRY(weir_buf_reserve(&b, key.len, e));
        const int64_t n = weir_vocab_unspell(key, b.data);
        if (n < 0) continue; /* not in the byte alphabet: no merge makes it */
        key = (weir_str){b.data, (size_t)n};
        if (weir_strmap_get(&v->by_piece, key) >= 0) continue;
        if (weir_str_eq(key, v->bytes[i]))
          key = v->bytes[i];
        else
          WEIR_TRY(weir_strings_keep(&v->strings, key, &key, e));
      }
      weir_strmap_add(&v->by_piece, key, i);
    }
out:
  weir_buf_fini(&b);
  return st;
}

static bool is_spelled(const weir_tok_spec *s) {
  for (int32_t i = 0; i < s->n_pre; i++)
    if (s->pre[i].kind == WEIR_PRE_SPELL) return true;
  return false;
}

static void find_bytes(weir_vocab *v, const weir_tok_spec *s) {
  const bool spelled = is_spelled(s);
  for (int b = 0; b < 256; b++) {
    char c[2] = {(char)(unsigned char)b, 0};
    const size_t n = spelled ? weir_vocab_spell((unsigned char)b, c) : 1;
    v->byte_id[b] = s->byte_level || spelled ? weir_strmap_get(&v->by_piece, (weir_str){c, n}) : -1;
  }
  if (s->byte_level || spelled || !s->byte_fallback) return;
  for (int32_t i = 0; i < v->n; i++) {
    const int32_t byte = s->in_model[i] || v->type[i] == WEIR_TOKEN_BYTE ? weir_piece_byte(v->text[i]) : -1;
    if (byte >= 0 && v->byte_id[byte] < 0) v->byte_id[byte] = i;
  }
}

weir_status weir_vocab_init(weir_vocab *v, const weir_tok_spec *s, const weir_str *shown, weir_err *e) {
  weir_status st = WEIR_OK;
  *v = (weir_vocab){.n = s->n};
  if (s->n < 1 || s->n > WEIR_MAX_VOCAB)
    return weir_fail(e, WEIR_EFORMAT, "a vocabulary of %" PRId32 " tokens (limit %d)", s->n, WEIR_MAX_VOCAB);
  WEIR_TRY(WEIR_NEW((size_t)v->n, &v->text, e));
  WEIR_TRY(WEIR_NEW((size_t)v->n, &v->bytes, e));
  WEIR_TRY(WEIR_NEW((size_t)v->n, &v->type, e));
  WEIR_TRY(weir_strmap_init(&v->by_piece, (size_t)v->n, e));
  WEIR_TRY(weir_strmap_init(&v->by_text, (size_t)v->n, e));
  WEIR_TRY(fill(v, s, shown, e));
  WEIR_TRY(index_pieces(v, s, e));
  find_bytes(v, s);
  for (int32_t i = 0; i < s->n_added; i++) {
    const int32_t id = s->added[i].id;
    if (v->text[id].len) weir_strmap_add(&v->by_text, v->text[id], id);
  }
  for (int32_t i = 0; i < v->n; i++)
    if (v->text[i].len) weir_strmap_add(&v->by_text, v->text[i], i);
out:
  if (st != WEIR_OK) weir_vocab_fini(v);
  return st;
}

void weir_vocab_fini(weir_vocab *v) {
  free(v->text);
  free(v->bytes);
  free(v->type);
  weir_strings_fini(&v->strings);
  weir_strmap_fini(&v->by_piece);
  weir_strmap_fini(&v->by_text);
  *v = (weir_vocab){0};
}
