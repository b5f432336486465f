/* SPDX-License-Identifier: Apache-2.0 */
/* The description of a tokenizer from a GGUF file's tokenizer.ggml.* keys. Owns nothing; calls the gguf
 * reader; one thread.
 *
 * What the keys mean is what llama.cpp, whose format it is, does with them: "gpt2" is byte-level BPE behind a
 * pre-tokeniser that is only named, "llama" SentencePiece BPE, "t5" SentencePiece unigram. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/hparams.h"
#include "model/tok_spec.h"
#include "model/tok_vocab.h"

#define KEY(name) "tokenizer.ggml." name

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

static weir_status read_kind(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  static const struct {
    const char *name;
    weir_tok_kind kind;
  } kinds[] = {{"gpt2", WEIR_TOK_BPE}, {"llama", WEIR_TOK_SPM}, {"t5", WEIR_TOK_UNIGRAM}};
  char shown[WEIR_STR_SHOW_BYTES];
  weir_str model;
  const weir_status st = weir_gguf_str(g, KEY("model"), &model, e);
  if (st != WEIR_OK) return st;
  if (!model.data)
    return weir_fail(e, WEIR_EFORMAT, "key \"" KEY("model") "\" is missing: the file has no tokenizer");
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
    if (weir_str_eq(model, weir_str_of(kinds[i].name))) {
      s->kind = kinds[i].kind;
      return WEIR_OK;
    }
  return weir_fail(
      e, WEIR_EUNSUP,
      "tokenizer model %s is not supported (known: gpt2 (byte-level BPE), llama (SentencePiece BPE), "
      "t5 (SentencePiece unigram))",
      weir_str_show(model, shown));
}

static weir_status fail_count(const char *key, int64_t n, int32_t want, weir_err *e) {
  return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRId64 " entries for %" PRId32 " tokens", key, n, want);
}

static weir_status read_types(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t *type = NULL;
  int64_t n;
  WEIR_TRY(WEIR_NEW((size_t)s->n, &type, e));
  WEIR_TRY(weir_gguf_i32_array(g, KEY("token_type"), type, s->n, &n, e));
  if (n != 0 && n != s->n) {
    st = fail_count(KEY("token_type"), n, s->n, e);
    goto out;
  }
  for (int32_t i = 0; i < s->n; i++) {
    if (n == 0) type[i] = WEIR_TOKEN_NORMAL; /* files without types have ordinary tokens only */
    if (type[i] < WEIR_TOKEN_NORMAL || type[i] > WEIR_TOKEN_BYTE) {
      st = weir_fail(e, WEIR_EFORMAT, "key \"" KEY("token_type") "\": token %" PRId32 " has type %" PRId32, i,
                     type[i]);
      goto out;
    }
    /* Converters make some of these user-defined; as in llama.cpp they are control tokens all the same, so
     * that nobody ends a turn by typing it. */
    if (type[i] == WEIR_TOKEN_USER &&
        (weir_tok_spells_end(s->text[i]) || weir_str_eq(s->text[i], weir_str_of("</s>"))))
      type[i] = WEIR_TOKEN_CONTROL;
    s->type[i] = (uint8_t)type[i];
    s->in_model[i] = type[i] != WEIR_TOKEN_CONTROL && type[i] != WEIR_TOKEN_UNKNOWN;
  }
out:
  free(type);
  return st;
}

static weir_status read_scores(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  float *score = NULL;
  int64_t n;
  WEIR_TRY(WEIR_NEW((size_t)s->n, &score, e));
  WEIR_TRY(weir_gguf_f32_array(g, KEY("scores"), score, s->n, &n, e));
  if (n != s->n) {
    st = fail_count(KEY("scores"), n, s->n, e);
    goto out;
  }
  for (int32_t i = 0; i < s->n; i++) s->score[i] = (double)score[i];
out:
  free(score);
  return st;
}

static weir_status read_tokens(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_str *tokens;
  int64_t n;
  WEIR_TRY(weir_gguf_str_array(g, KEY("tokens"), &tokens, &n, e));
  if (n < 1) return weir_fail(e, WEIR_EFORMAT, "key \"" KEY("tokens") "\" is missing or empty");
  if (n > WEIR_MAX_VOCAB)
    return weir_fail(e, WEIR_EFORMAT, "key \"" KEY("tokens") "\": %" PRId64 " tokens (limit %d)", n,
                     WEIR_MAX_VOCAB);
  WEIR_TRY(weir_tok_spec_reserve(s, (int32_t)n, s->kind != WEIR_TOK_BPE, e));
  for (int32_t i = 0; i < s->n; i++) WEIR_TRY(weir_strings_keep(&s->strings, tokens[i], &s->text[i], e));
  WEIR_TRY(read_types(s, g, e));
  if (s->score) WEIR_TRY(read_scores(s, g, e));
out:
  return st;
}

/* What a file calls control, unknown or user-defined is found by its text; of equal texts the user-defined
 * one counts, else the lowest id. */
static weir_status list_added(weir_tok_spec *s, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n = 0;
  for (int32_t i = 0; i < s->n; i++)
    n +=
        s->type[i] == WEIR_TOKEN_CONTROL || s->type[i] == WEIR_TOKEN_UNKNOWN || s->type[i] == WEIR_TOKEN_USER;
  WEIR_TRY(WEIR_NEW((size_t)n, &s->added, e));
  for (int user = 1; user >= 0; user--)
    for (int32_t i = 0; i < s->n; i++) {
      const bool is_user = s->type[i] == WEIR_TOKEN_USER;
      if (is_user != user ||
          (!is_user && s->type[i] != WEIR_TOKEN_CONTROL && s->type[i] != WEIR_TOKEN_UNKNOWN))
        continue;
      s->added[s->n_added++] = (weir_tok_added){.text = s->text[i], .id = i, .special = !is_user};
    }
out:
  return st;
}

static bool contains(weir_str s, const char *part) {
  const size_t n = strlen(part);
  for (size_t i = 0; i + n <= s.len; i++) {
    size_t k = 0;
    while (k < n && (s.data[i + k] | 0x20) == (part[k] | 0x20)) k++;
    if (k == n) return true;
  }
  return false;
}

/* The format does not say which tokens take the white space behind them; llama.cpp knows Phi-3's by name.
 * The name is free text, so a model that is none by its architecture and its tokenizer is left alone. */
static weir_status strip_by_name(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_str architecture, name;
  WEIR_TRY(weir_gguf_str(g, "general.architecture", &architecture, e));
  WEIR_TRY(weir_gguf_str(g, "general.name", &name, e));
  if (s->kind != WEIR_TOK_SPM || !weir_str_eq(architecture, weir_str_of("phi3")) || !name.data ||
      !(contains(name, "phi-3") || contains(name, "phi3")))
    return WEIR_OK;
  for (int32_t i = 0; i < s->n_added; i++) {
    const weir_str t = s->added[i].text;
    s->added[i].rstrip = !weir_str_eq(t, weir_str_of("<unk>")) && !weir_str_eq(t, weir_str_of("<s>")) &&
                         !weir_str_eq(t, weir_str_of("<|endoftext|>"));
  }
out:
  return st;
}

/* ---- byte-level BPE ---- */

static weir_status read_merges(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  const weir_str *merge;
  int64_t n;
  WEIR_TRY(weir_gguf_str_array(g, KEY("merges"), &merge, &n, e));
  if (!weir_gguf_has(g, KEY("merges")))
    return weir_fail(e, WEIR_EFORMAT, "key \"" KEY("merges") "\" is missing");
  WEIR_TRY(WEIR_NEW((size_t)n, &s->merge, e));
  for (; s->n_merges < n; s->n_merges++) {
    /* "left right", both spelled in GPT-2's alphabet, which has no space */
    const weir_str all = merge[s->n_merges];
    const char *space = all.len > 2 ? memchr(all.data + 1, ' ', all.len - 2) : NULL;
    if (!space)
      return weir_fail(e, WEIR_EFORMAT,
                       "key \"" KEY("merges") "\": merge %" PRId64
                                              " %s: want two tokens with a space between",
                       s->n_merges, weir_str_show(all, shown));
    const size_t left = (size_t)(space - all.data);
    weir_tok_merge *to = &s->merge[s->n_merges];
    WEIR_TRY(weir_strings_keep(&s->strings, (weir_str){all.data, left}, &to->left, e));
    WEIR_TRY(weir_strings_keep(&s->strings, (weir_str){space + 1, all.len - left - 1}, &to->right, e));
  }
out:
  return st;
}

/* Text is encoded by bytes, so those of any text need their tokens. Others may be missing: vocabularies
 * trained on a list of seen bytes lack control characters (Falcon's) and bytes above 0xF0 (StarCoder's). */
static weir_status check_bytes(const weir_tok_spec *s, weir_err *e) {
  bool seen[256] = {false};
  for (int32_t i = 0; i < s->n; i++) {
    char byte[4];
    if (!s->in_model[i] || s->text[i].len > sizeof byte) continue;
    if (weir_vocab_unspell(s->text[i], byte) == 1) seen[(unsigned char)byte[0]] = true;
  }
  for (int b = 0x20; b < 0x7f; b++)
    if (!seen[b])
      return weir_fail(e, WEIR_EFORMAT, "key \"" KEY("tokens") "\": no token for the byte 0x%02x",
                       (unsigned)b);
  return WEIR_OK;
}

static weir_status read_bpe(weir_tok_spec *s, const weir_gguf *g, bool *adds_bos, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_str pre;
  s->byte_level = true;
  WEIR_TRY(weir_gguf_str(g, KEY("pre"), &pre, e));
  if (!pre.data || weir_str_eq(pre, weir_str_of("default"))) {
    /* The model was trained with some pre-tokeniser that its converter did not record; GPT-2's is the
     * likeliest. */
    weir_log(WEIR_LOG_WARN, "key \"" KEY("pre") "\" is %s: taking the gpt-2 pattern",
             pre.data ? "\"default\"" : "missing");
    pre = weir_str_of("gpt-2");
  }
  WEIR_TRY(weir_tok_spec_named_pre(s, pre, adds_bos, e));
  WEIR_TRY(weir_tok_spec_add_decode(s, (weir_decode_step){.kind = WEIR_DECODE_BYTE_LEVEL}, e));
  WEIR_TRY(check_bytes(s, e));
  WEIR_TRY(read_merges(s, g, e));
out:
  return st;
}

/* ---- SentencePiece ---- */

static weir_status read_charsmap(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t *byte = NULL;
  weir_buf blob = {0};
  int64_t n;
  WEIR_TRY(weir_gguf_i32_array(g, KEY("precompiled_charsmap"), NULL, 0, &n, e));
  if (n == 0) goto out;
  WEIR_TRY(WEIR_NEW((size_t)n, &byte, e));
  WEIR_TRY(weir_gguf_i32_array(g, KEY("precompiled_charsmap"), byte, n, &n, e));
  WEIR_TRY(weir_buf_reserve(&blob, (size_t)n, e));
  for (int64_t i = 0; i < n; i++) {
    if (byte[i] < -128 || byte[i] > 255) {
      st = weir_fail(e, WEIR_EFORMAT, "key \"" KEY("precompiled_charsmap") "\": %" PRId32 " is no byte",
                     byte[i]);
      goto out;
    }
    blob.data[i] = (char)(unsigned char)byte[i];
  }
  WEIR_TRY(weir_tok_spec_add_norm(
      s, (weir_norm_step){.kind = WEIR_NORM_CHARSMAP, .content = {blob.data, (size_t)n}, .spm = true}, e));
out:
  free(byte);
  weir_buf_fini(&blob);
  return st;
}

static weir_status read_sentencepiece(weir_tok_spec *s, const weir_gguf *g, bool *adds_bos, weir_err *e) {
  weir_status st = WEIR_OK;
  bool prefix, squeeze;
  const bool is_spm = s->kind == WEIR_TOK_SPM;
  *adds_bos = is_spm;
  s->byte_fallback = true;
  WEIR_TRY(weir_gguf_bool(g, KEY("add_space_prefix"), is_spm, &prefix, e));
  WEIR_TRY(weir_gguf_bool(g, KEY("remove_extra_whitespaces"), false, &squeeze, e));
  WEIR_TRY(read_charsmap(s, g, e));
  WEIR_TRY(weir_tok_spec_add_norm(
      s,
      (weir_norm_step){
          .kind = WEIR_NORM_SPACES, .content = weir_str_of(prefix ? WEIR_METASPACE : ""), .squeeze = squeeze},
      e));
  WEIR_TRY(weir_tok_spec_add_decode(
      s,
      (weir_decode_step){
          .kind = WEIR_DECODE_REPLACE, .pattern = weir_str_of(WEIR_METASPACE), .content = weir_str_of(" ")},
      e));
  WEIR_TRY(weir_tok_spec_add_decode(s, (weir_decode_step){.kind = WEIR_DECODE_BYTE_FALLBACK}, e));
  if (prefix) s->first = WEIR_FIRST_SPACE;
out:
  return st;
}

/* ---- all ---- */

static weir_status read_ids(weir_tok_spec *s, const weir_gguf *g, bool adds_bos, weir_err *e) {
  static const char *const ends[] = {KEY("eos_token_id"), KEY("eot_token_id"), KEY("eom_token_id")};
  weir_status st = WEIR_OK;
  WEIR_TRY(read_id(g, KEY("bos_token_id"), s->n, &s->bos, e));
  WEIR_TRY(read_id(g, KEY("eos_token_id"), s->n, &s->eos, e));
  WEIR_TRY(read_id(g, KEY("unknown_token_id"), s->n, &s->unk, e));
  if (s->kind != WEIR_TOK_BPE && s->unk < 0)
    for (int32_t i = 0; i < s->n && s->unk < 0; i++)
      if (s->type[i] == WEIR_TOKEN_UNKNOWN) s->unk = i;
  if (s->kind == WEIR_TOK_BPE) s->unk = -1; /* it has all bytes */
  if (s->kind == WEIR_TOK_SPM) {            /* the format's defaults, where such tokens are */
    if (s->bos < 0 && s->n > 1 && s->type[1] == WEIR_TOKEN_CONTROL) s->bos = 1;
    if (s->eos < 0 && s->n > 2 && s->type[2] == WEIR_TOKEN_CONTROL) s->eos = 2;
  }
  WEIR_TRY(weir_gguf_bool(g, KEY("add_bos_token"), adds_bos, &s->adds_bos, e));
  WEIR_TRY(weir_gguf_bool(g, KEY("add_eos_token"), s->kind == WEIR_TOK_UNIGRAM, &s->adds_eos, e));
  if (s->eos >= 0) WEIR_TRY(weir_tok_spec_add_end(s, s->eos, e));
  for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
    int32_t id = -1;
    WEIR_TRY(read_id(g, ends[i], s->n, &id, e));
    if (id >= 0) WEIR_TRY(weir_tok_spec_add_end(s, id, e));
  }
out:
  return st;
}

weir_status weir_tok_spec_from_gguf(weir_tok_spec *s, const weir_gguf *g, weir_err *e) {
  weir_status st = WEIR_OK;
  bool adds_bos = false;
  weir_str template;
  *s = (weir_tok_spec){.literal_added = true};
  WEIR_TRY(read_kind(s, g, e));
  WEIR_TRY(read_tokens(s, g, e));
  WEIR_TRY(s->kind == WEIR_TOK_BPE ? read_bpe(s, g, &adds_bos, e) : read_sentencepiece(s, g, &adds_bos, e));
  WEIR_TRY(list_added(s, e));
  WEIR_TRY(strip_by_name(s, g, e));
  WEIR_TRY(read_ids(s, g, adds_bos, e));
  WEIR_TRY(weir_gguf_str(g, "tokenizer.chat_template", &template, e));
  WEIR_TRY(weir_strings_keep(&s->strings, template, &s->chat_template, e));
out:
  if (st != WEIR_OK) weir_tok_spec_fini(s);
  return st;
}
