/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer of a model file: cuts a text at added tokens and at bytes that are no UTF-8, normalises what
 * is between, cuts it by the pre-tokeniser and gives the pieces to the model. Owns its parts; may call its
 * siblings tok_*.c; one thread at a time per tokenizer, because they keep scratch. */
#include "model/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/tok_bpe.h"
#include "model/tok_norm.h"
#include "model/tok_pretok.h"
#include "model/tok_special.h"
#include "model/tok_spm.h"
#include "model/tok_unigram.h"
#include "model/tok_vocab.h"
#include "model/tokenizer_in.h"
#include "model/utf8.h"

struct weir_tokenizer {
  weir_tok_kind kind;
  weir_vocab vocab;
  weir_specials raw, normalized; /* added tokens found before and after normalisation */
  weir_norm *norm;
  weir_pretok *pretok;
  weir_bpe bpe;
  weir_spm *spm;
  weir_unigram *unigram;
  uint8_t *is_end;     /* [vocab.n] */
  uint8_t *is_special; /* [vocab.n] */
  weir_strings strings;
  weir_str template, first_mark;
  weir_first_rule first;
  int32_t bos, eos;
  bool adds_bos;
  double allowed_s;           /* of patterns on one text; 0: by its length */
  weir_sections outer, inner; /* scratch */
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

/* The end of a text or of a turn: what the file names, and control tokens with the spellings that chat models
 * use, because many files name only one of several. */
static void find_ends(weir_tokenizer *t, const weir_tok_spec *s) {
  for (int32_t i = 0; i < s->n_end; i++) t->is_end[s->end[i]] = 1;
  for (int32_t id = 0; id < t->vocab.n; id++)
    if (t->vocab.type[id] == WEIR_TOKEN_CONTROL && weir_tok_spells_end(t->vocab.text[id])) t->is_end[id] = 1;
}

/* A token that is declared normalized is looked for, and shown, by its own normalised text: shown[id]. */
static weir_status normalise_added(weir_tokenizer *t, const weir_tok_spec *s, weir_str *shown, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_regex_budget budget = weir_regex_budget_of(weir_regex_seconds((size_t)s->n_added));
  for (int32_t i = 0; i < s->n_added && weir_norm_changes(t->norm); i++) {
    const weir_tok_added *a = &s->added[i];
    weir_str text;
    if (!a->normalized) continue;
    WEIR_TRY(weir_norm_run(t->norm, a->text.data, a->text.len, true, &budget, &text, e));
    WEIR_TRY(weir_strings_keep(&t->strings, text, &shown[a->id], e));
  }
out:
  return st;
}

static weir_status list_added(weir_tokenizer *t, const weir_tok_spec *s, const weir_str *shown, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_special *raw = NULL, *normalized = NULL;
  int32_t n_raw = 0, n_normalized = 0;
  WEIR_TRY(WEIR_NEW((size_t)s->n_added, &raw, e));
  WEIR_TRY(WEIR_NEW((size_t)s->n_added, &normalized, e));
  for (int32_t i = 0; i < s->n_added; i++) {
    const weir_tok_added *a = &s->added[i];
    const weir_special one = {.text = a->normalized && shown[a->id].data ? shown[a->id] : a->text,
                              .id = a->id,
                              .special = a->special,
                              .lstrip = a->lstrip,
                              .rstrip = a->rstrip,
                              .single_word = a->single_word};
    if (a->normalized)
      normalized[n_normalized++] = one;
    else
      raw[n_raw++] = one;
  }
  WEIR_TRY(weir_specials_init(&t->raw, raw, n_raw, e));
  WEIR_TRY(weir_specials_init(&t->normalized, normalized, n_normalized, e));
out:
  free(raw);
  free(normalized);
  return st;
}

static weir_status create_model(weir_tokenizer *t, const weir_tok_spec *s, weir_err *e) {
  weir_status st = WEIR_OK;
  float *score = NULL;
  if (s->kind == WEIR_TOK_BPE) return weir_bpe_init(&t->bpe, s, &t->vocab, e);
  if (s->byte_level)
    return weir_fail(e, WEIR_EUNSUP, "a ByteLevel pre-tokenizer is supported in front of a BPE model alone");
  if (s->kind == WEIR_TOK_UNIGRAM && s->sum_doubles) {
    int32_t n = 0;
    while (n < s->n && s->in_model[n]) n++; /* added tokens stand behind */
    return weir_unigram_create_json(t->vocab.text, s->score, n, s->unk, s->byte_fallback, &t->unigram, e);
  }
  WEIR_TRY(WEIR_NEW((size_t)s->n, &score, e));
  for (int32_t i = 0; i < s->n; i++) score[i] = (float)s->score[i];
  if (s->kind == WEIR_TOK_UNIGRAM)
    WEIR_TRY(weir_unigram_create(t->vocab.text, score, t->vocab.type, s->n, s->unk, s->byte_fallback,
                                 &t->unigram, e));
  else
    WEIR_TRY(weir_spm_create(t->vocab.text, score, t->vocab.type, s->n, s->unk, &t->spm, e));
out:
  free(score);
  return st;
}

static weir_status from_spec(const weir_tok_spec *s, weir_tokenizer **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tokenizer *t = NULL;
  weir_str *shown = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &t, e));
  t->kind = s->kind;
  t->bos = s->bos;
  t->eos = s->eos;
  t->adds_bos = s->adds_bos;
  t->first = s->first;
  WEIR_TRY(weir_strings_keep(&t->strings, s->chat_template, &t->template, e));
  WEIR_TRY(weir_strings_keep(&t->strings, s->first_mark, &t->first_mark, e));
  WEIR_TRY(weir_pretok_create(s, false, &t->pretok, e));
  WEIR_TRY(weir_norm_create(s, false, &t->norm, e));
  WEIR_TRY(WEIR_NEW((size_t)s->n, &shown, e));
  WEIR_TRY(normalise_added(t, s, shown, e));
  WEIR_TRY(weir_vocab_init(&t->vocab, s, shown, e));
  WEIR_TRY(list_added(t, s, shown, e));
  WEIR_TRY(create_model(t, s, e));
  WEIR_TRY(WEIR_NEW((size_t)t->vocab.n, &t->is_end, e));
  WEIR_TRY(WEIR_NEW((size_t)t->vocab.n, &t->is_special, e));
  for (int32_t i = 0; i < t->vocab.n; i++)
    t->is_special[i] = t->vocab.type[i] == WEIR_TOKEN_CONTROL || t->vocab.type[i] == WEIR_TOKEN_UNKNOWN;
  find_ends(t, s);
  *out = t;
  t = NULL;
out:
  free(shown);
  weir_tokenizer_destroy(t);
  return st;
}

static weir_status finish(weir_status st, weir_tok_spec *s, weir_tokenizer **out, weir_err *e) {
  *out = NULL;
  if (st == WEIR_OK) st = from_spec(s, out, e);
  weir_tok_spec_fini(s);
  return st;
}

weir_status weir_tokenizer_from_gguf(const weir_gguf *g, weir_tokenizer **out, weir_err *e) {
  weir_tok_spec s;
  const weir_status st = weir_tok_spec_from_gguf(&s, g, e);
  return finish(st, &s, out, e);
}

weir_status weir_tokenizer_from_json(weir_str json, weir_tokenizer **out, weir_err *e) {
  weir_tok_spec s;
  const weir_status st = weir_tok_spec_from_json(&s, json, e);
  return finish(st, &s, out, e);
}

weir_status weir_tokenizer_create(const weir_mfile *m, weir_tokenizer **out, weir_err *e) {
  weir_tok_spec s;
  const weir_status st = weir_mfile_gguf(m) ? weir_tok_spec_from_gguf(&s, weir_mfile_gguf(m), e)
                                            : weir_tok_spec_from_hf(&s, weir_mfile_hf(m), e);
  return finish(st, &s, out, e);
}

void weir_tokenizer_destroy(weir_tokenizer *t) {
  if (!t) return;
  weir_norm_destroy(t->norm);
  weir_pretok_destroy(t->pretok);
  weir_bpe_fini(&t->bpe);
  weir_spm_destroy(t->spm);
  weir_unigram_destroy(t->unigram);
  weir_specials_fini(&t->raw);
  weir_specials_fini(&t->normalized);
  weir_vocab_fini(&t->vocab);
  weir_strings_fini(&t->strings);
  weir_sections_fini(&t->outer);
  weir_sections_fini(&t->inner);
  free(t->is_end);
  free(t->is_special);
  free(t);
}

/* ---- text to ids ---- */

/* A stretch between added tokens of the text as it was given. */
typedef struct stretch {
  bool at_start;             /* of the whole text */
  bool fresh;                /* goes on no other */
  bool special;              /* special tokens may be found in its normalised text */
  weir_regex_budget *budget; /* of the whole text */
} stretch;

static weir_status encode_piece(weir_tokenizer *t, const char *p, size_t n, weir_tokens *io, weir_err *e) {
  switch (t->kind) {
    case WEIR_TOK_SPM: return weir_spm_encode(t->spm, p, n, io, e);
    case WEIR_TOK_UNIGRAM: return weir_unigram_encode(t->unigram, p, n, io, e);
    default: return weir_bpe_encode(&t->bpe, &t->vocab, p, n, io, e);
  }
}

static weir_status encode_normalised(weir_tokenizer *t, const char *p, size_t n, stretch how, weir_tokens *io,
                                     weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cut cut;
  WEIR_TRY(weir_pretok_run(t->pretok, p, n, how.at_start, how.fresh, how.budget, &cut, e));
  for (size_t i = 0; i < cut.n; i++)
    WEIR_TRY(encode_piece(t, cut.text + cut.piece[i].begin, cut.piece[i].end - cut.piece[i].begin, io, e));
out:
  return st;
}

static weir_status encode_utf8(weir_tokenizer *t, const char *p, size_t n, stretch how, weir_tokens *io,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  weir_str text;
  if (n == 0) return WEIR_OK;
  WEIR_TRY(weir_norm_run(t->norm, p, n, how.fresh, how.budget, &text, e));
  const weir_span all = {0, text.len};
  t->inner.n = 0;
  WEIR_TRY(weir_specials_cut(&t->normalized, text.data, text.len, (weir_marks){&all, how.special ? 1 : 0},
                             &t->inner, e));
  for (size_t i = 0; i < t->inner.n; i++) {
    const weir_section *s = &t->inner.at[i];
    const stretch part = {how.at_start && s->begin == 0, how.fresh || i > 0, false, how.budget};
    if (s->id >= 0)
      WEIR_TRY(weir_tokens_push(io, s->id, e));
    else
      WEIR_TRY(encode_normalised(t, text.data + s->begin, s->end - s->begin, part, io, e));
  }
out:
  return st;
}

/* Bytes that are part of no character: one token each, or else one U+FFFD, which loses the bytes but keeps
 * that something was there. */
static weir_status encode_bytes(weir_tokenizer *t, const char *p, int32_t n, weir_regex_budget *budget,
                                weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < n; i++)
    if (t->vocab.byte_id[(unsigned char)p[i]] < 0)
      return encode_utf8(t, "\xef\xbf\xbd", 3, (stretch){false, false, false, budget}, io, e);
  for (int32_t i = 0; i < n; i++) WEIR_TRY(weir_tokens_push(io, t->vocab.byte_id[(unsigned char)p[i]], e));
out:
  return st;
}

/* Text without added tokens: runs of UTF-8, and the bytes between them. */
static weir_status encode_text(weir_tokenizer *t, const char *p, size_t n, stretch how, weir_tokens *io,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  size_t begin = 0;
  for (size_t at = 0; at < n;) {
    int32_t len;
    if (weir_utf8_next(p + at, n - at, &len) == WEIR_UTF8_CHAR) {
      at += (size_t)len;
      continue;
    }
    WEIR_TRY(encode_utf8(t, p + begin, at - begin, how, io, e));
    WEIR_TRY(encode_bytes(t, p + at, len, how.budget, io, e));
    at += (size_t)len;
    begin = at;
    how.at_start = how.fresh = false;
  }
  WEIR_TRY(encode_utf8(t, p + begin, n - begin, how, io, e));
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

static void give_back(weir_sections *s) {
  enum { KEPT = 1 << 14 };
  if (s->cap > KEPT) weir_sections_fini(s);
  s->n = 0;
}

weir_status weir_tokenize_marked(weir_tokenizer *t, const char *text, size_t len, const weir_span *span,
                                 int32_t n_spans, weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t n_before = io->n;
  weir_regex_budget budget = weir_regex_budget_of(t->allowed_s > 0 ? t->allowed_s : weir_regex_seconds(len));
  int32_t m = 0;
  if (len > WEIR_TOKENIZE_MAX_BYTES)
    return weir_fail(e, WEIR_EINVAL, "a text of %zu bytes is too long (limit %d)", len,
                     WEIR_TOKENIZE_MAX_BYTES);
  WEIR_TRY(check_spans(span, n_spans, len, e));
  give_back(&t->outer);
  give_back(&t->inner);
  WEIR_TRY(weir_specials_cut(&t->raw, text, len, (weir_marks){span, n_spans}, &t->outer, e));
  for (size_t i = 0; i < t->outer.n; i++) {
    const weir_section s = t->outer.at[i];
    if (s.id >= 0) {
      WEIR_TRY(weir_tokens_push(io, s.id, e));
      continue;
    }
    while (m < n_spans && span[m].end < s.end) m++;
    const bool marked = m < n_spans && span[m].begin <= s.begin;
    WEIR_TRY(encode_text(t, text + s.begin, s.end - s.begin, (stretch){s.begin == 0, true, marked, &budget},
                         io, e));
  }
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
int32_t weir_tokenizer_eos(const weir_tokenizer *t) { return t->eos; }
bool weir_tokenizer_adds_bos(const weir_tokenizer *t) { return t->adds_bos && t->bos >= 0; }
bool weir_tokenizer_is_end(const weir_tokenizer *t, int32_t id) { return in_range(t, id) && t->is_end[id]; }
bool weir_tokenizer_is_special(const weir_tokenizer *t, int32_t id) {
  return in_range(t, id) && t->is_special[id];
}
weir_str weir_tokenizer_template(const weir_tokenizer *t) { return t->template; }

int32_t weir_tokenizer_find(const weir_tokenizer *t, weir_str text) {
  return weir_strmap_get(&t->vocab.by_text, text);
}

weir_str weir_token_bytes(const weir_tokenizer *t, int32_t id) {
  return in_range(t, id) ? t->vocab.bytes[id] : (weir_str){"", 0};
}
weir_str weir_token_text(const weir_tokenizer *t, int32_t id) {
  return in_range(t, id) ? t->vocab.text[id] : (weir_str){"", 0};
}

weir_first_rule weir_tokenizer_first(const weir_tokenizer *t, weir_str *mark) {
  *mark = t->first_mark;
  return t->first;
}

void weir_tokenizer_allow(weir_tokenizer *t, double seconds) { t->allowed_s = seconds; }

/* A place that is kept free: it means nothing. */
static bool is_padding(const weir_tokenizer *t, int32_t id) {
  const weir_str s = t->vocab.text[id];
  return t->vocab.type[id] == WEIR_TOKEN_UNUSED &&
         (s.len == 0 || (s.len > 4 && memcmp(s.data, "[PAD", 4) == 0));
}

weir_status weir_tokenizer_same(const weir_tokenizer *small, const weir_tokenizer *large, int32_t *n_common,
                                weir_err *e) {
  char a[WEIR_STR_SHOW_BYTES], b[WEIR_STR_SHOW_BYTES];
  const int32_t n = small->vocab.n < large->vocab.n ? small->vocab.n : large->vocab.n;
  *n_common = 0;
  for (int32_t i = 0; i < n; i++) {
    const weir_vocab *x = &small->vocab, *y = &large->vocab;
    if (weir_str_eq(x->text[i], y->text[i]) || weir_str_eq(x->bytes[i], y->bytes[i])) continue;
    if (is_padding(small, i) || is_padding(large, i)) continue;
    return weir_fail(e, WEIR_EINVAL,
                     "the vocabularies differ: token %" PRId32
                     " is %s in the small model and %s in the large one",
                     i, weir_str_show(x->text[i], a), weir_str_show(y->text[i], b));
  }
  *n_common = n;
  return WEIR_OK;
}
