/* SPDX-License-Identifier: Apache-2.0 */
/* From a SentencePiece model, and the tokens added around it, to the description of a tokenizer. Owns nothing
 * that outlives a call; calls the parser of the model and jansson; one thread.
 *
 * The steps are those of GGUF's "llama" and "t5", whose keys were made of such files: character map, spaces,
 * segmentation. Control pieces and added tokens are found by their text, which SentencePiece itself does not
 * do but everything built on it does. */
#include "model/tok_sp.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/hparams.h"
#include "model/json.h"
#include "model/sp_model.h"
#include "model/tok_json.h"

static weir_status check_supported(const weir_sp_model *m, weir_err *e) {
  if (m->space_is_suffix)
    return weir_fail(e, WEIR_EUNSUP, "SentencePiece model: treat_whitespace_as_suffix is not supported");
  if (!m->escapes_spaces)
    return weir_fail(e, WEIR_EUNSUP, "SentencePiece model: escape_whitespaces = false is not supported");
  return WEIR_OK;
}

static weir_status take_pieces(weir_tok_spec *s, const weir_sp_model *m, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_tok_spec_reserve(s, n, true, e));
  for (int32_t i = 0; i < m->n; i++) {
    WEIR_TRY(weir_strings_keep(&s->strings, m->piece[i], &s->text[i], e));
    s->score[i] = (double)m->score[i];
    s->type[i] = m->type[i];
    s->in_model[i] = m->type[i] != WEIR_TOKEN_CONTROL && m->type[i] != WEIR_TOKEN_UNKNOWN;
  }
  s->unk = m->unk;
  s->bos = m->bos;
  s->eos = m->eos;
out:
  return st;
}

static weir_status take_steps(weir_tok_spec *s, const weir_sp_model *m, weir_err *e) {
  weir_status st = WEIR_OK;
  if (m->charsmap.len)
    WEIR_TRY(weir_tok_spec_add_norm(
        s, (weir_norm_step){.kind = WEIR_NORM_CHARSMAP, .content = m->charsmap, .spm = true}, e));
  WEIR_TRY(weir_tok_spec_add_norm(
      s,
      (weir_norm_step){.kind = WEIR_NORM_SPACES,
                       .content = weir_str_of(m->adds_dummy_prefix ? WEIR_METASPACE : ""),
                       .squeeze = m->removes_extra_spaces},
      e));
  WEIR_TRY(weir_tok_spec_add_decode(
      s,
      (weir_decode_step){
          .kind = WEIR_DECODE_REPLACE, .pattern = weir_str_of(WEIR_METASPACE), .content = weir_str_of(" ")},
      e));
  WEIR_TRY(weir_tok_spec_add_decode(s, (weir_decode_step){.kind = WEIR_DECODE_BYTE_FALLBACK}, e));
  if (m->adds_dummy_prefix) s->first = WEIR_FIRST_SPACE;
out:
  return st;
}

/* ---- tokens on top of the model ---- */

/* "added_tokens_decoder": {"32000": {"content": ...}}, or {"<pad>": 32000}. One of the two. */
typedef struct extra_tokens {
  json_t *by_id;   /* borrowed */
  json_t *by_text; /* owned */
} extra_tokens;

static weir_status find_extra(const weir_hf *hf, extra_tokens *x, weir_err *e) {
  const weir_str file = weir_hf_file(hf, "added_tokens.json");
  *x = (extra_tokens){.by_id = json_object_get(weir_hf_tokenizer_config(hf), "added_tokens_decoder")};
  if (x->by_id && !json_is_object(x->by_id))
    return weir_fail(e, WEIR_EFORMAT, "tokenizer_config.json: \"added_tokens_decoder\" is no object");
  if (x->by_id || !file.data) return WEIR_OK;
  const weir_status st = weir_json_parse_object(file, &x->by_text, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "added_tokens.json");
}

static weir_status read_extra(weir_tok_spec *s, const char *key, const json_t *v, bool by_id,
                              weir_tok_added *out, weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  char *end = NULL;
  const int64_t id = by_id ? strtoll(key, &end, 10) : json_is_integer(v) ? json_integer_value(v) : -1;
  *out = (weir_tok_added){.special = true};
  if ((by_id && (!*key || *end)) || id < 0 || id >= WEIR_MAX_VOCAB)
    return weir_fail(e, WEIR_EFORMAT, "added token %s: its id is none",
                     weir_str_show(weir_str_of(key), shown));
  out->id = (int32_t)id;
  out->text = weir_str_of(key);
  if (by_id) {
    WEIR_TRY(weir_tok_json_text(v, "content", &out->text, e));
    WEIR_TRY(weir_json_flag(v, "special", false, &out->special, e));
    WEIR_TRY(weir_json_flag(v, "normalized", false, &out->normalized, e));
    WEIR_TRY(weir_json_flag(v, "lstrip", false, &out->lstrip, e));
    WEIR_TRY(weir_json_flag(v, "rstrip", false, &out->rstrip, e));
    WEIR_TRY(weir_json_flag(v, "single_word", false, &out->single_word, e));
  }
  if (out->text.len == 0) return weir_fail(e, WEIR_EFORMAT, "added token %" PRId64 " has no text", id);
  WEIR_TRY(weir_strings_keep(&s->strings, out->text, &out->text, e));
out:
  return st;
}

/* Appends to s->added, which has room. */
static weir_status read_extras(weir_tok_spec *s, const extra_tokens *x, weir_err *e) {
  json_t *const object = x->by_id ? x->by_id : x->by_text;
  const char *key;
  json_t *v;
  json_object_foreach(object, key, v) {
    const weir_status st = read_extra(s, key, v, x->by_id != NULL, &s->added[s->n_added], e);
    if (st != WEIR_OK) return st;
    s->n_added++;
  }
  return WEIR_OK;
}

static bool is_own(const weir_sp_model *m, int32_t i) {
  return m->type[i] == WEIR_TOKEN_USER || m->type[i] == WEIR_TOKEN_CONTROL ||
         m->type[i] == WEIR_TOKEN_UNKNOWN;
}

/* Makes the ids of added tokens theirs, and lists the model's own that none of them has taken. */
static weir_status list_own(weir_tok_spec *s, const weir_sp_model *m, weir_err *e) {
  weir_status st = WEIR_OK;
  uint8_t *taken = NULL;
  const int32_t n_extra = s->n_added;
  WEIR_TRY(WEIR_NEW((size_t)s->n, &taken, e));
  for (int32_t k = 0; k < n_extra; k++) {
    const weir_tok_added *a = &s->added[k];
    taken[a->id] = 1;
    s->text[a->id] = a->text;
    s->type[a->id] = a->special ? WEIR_TOKEN_CONTROL : WEIR_TOKEN_USER;
    s->in_model[a->id] = 0;
  }
  for (int32_t i = 0; i < m->n; i++)
    if (is_own(m, i) && !taken[i])
      s->added[s->n_added++] =
          (weir_tok_added){.text = s->text[i], .id = i, .special = m->type[i] != WEIR_TOKEN_USER};
out:
  free(taken);
  return st;
}

/* Reads the added tokens first, because their ids say how many there are in all. */
static weir_status take_all(weir_tok_spec *s, const weir_sp_model *m, const extra_tokens *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n_extra = json_object_size(x->by_id ? x->by_id : x->by_text);
  int32_t n = m->n, n_own = 0;
  for (int32_t i = 0; i < m->n; i++) n_own += is_own(m, i);
  if (n_extra > WEIR_MAX_VOCAB) return weir_fail(e, WEIR_EFORMAT, "%zu added tokens", n_extra);
  WEIR_TRY(WEIR_NEW(n_extra + (size_t)n_own, &s->added, e));
  WEIR_TRY(read_extras(s, x, e));
  for (int32_t k = 0; k < s->n_added; k++)
    if (s->added[k].id >= n) n = s->added[k].id + 1;
  WEIR_TRY(take_pieces(s, m, n, e));
  WEIR_TRY(list_own(s, m, e));
  WEIR_TRY(take_steps(s, m, e));
out:
  return st;
}

weir_status weir_tok_spec_from_sp(weir_tok_spec *s, const weir_hf *hf, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_sp_model m = {0};
  extra_tokens x = {0};
  const weir_str file = weir_hf_file(hf, "tokenizer.model");
  *s = (weir_tok_spec){.literal_added = true};
  if (!file.data) return weir_fail(e, WEIR_EIO, "there is no tokenizer.model");
  WEIR_TRY(weir_sp_model_parse(file.data, file.len, &m, e));
  WEIR_TRY(check_supported(&m, e));
  WEIR_TRY(find_extra(hf, &x, e));
  s->kind = m.kind == WEIR_SP_BPE ? WEIR_TOK_SPM : WEIR_TOK_UNIGRAM;
  s->byte_fallback = m.byte_fallback;
  WEIR_TRY(take_all(s, &m, &x, e));
  s->adds_bos = s->kind == WEIR_TOK_SPM && s->bos >= 0; /* Llama's way; T5 ends its texts instead */
  s->adds_eos = s->kind == WEIR_TOK_UNIGRAM && s->eos >= 0;
out:
  json_decref(x.by_text);
  weir_sp_model_fini(&m);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "tokenizer.model");
    weir_tok_spec_fini(s);
  }
  return st;
}
