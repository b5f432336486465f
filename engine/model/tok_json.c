/* SPDX-License-Identifier: Apache-2.0 */
/* The description of a tokenizer from tokenizer.json: vocabulary, merges, added tokens. Owns nothing that
 * outlives a call; calls jansson; one thread. The rules are those of the tokenizers library
 * (https://github.com/huggingface/tokenizers: models/bpe, models/unigram, tokenizer/added_vocabulary.rs). */
#include "model/tok_json.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/hparams.h"
#include "model/json.h"
#include "model/piece_trie.h"

/* An added token and the id it gets. */
typedef struct added_list {
  weir_strmap by_text; /* of the model's vocabulary and of added tokens: ids */
  int32_t n_model;     /* entries of the model's vocabulary */
  int32_t n;           /* ids in all */
} added_list;

static bool is(weir_str name, const char *s) { return weir_str_eq(name, weir_str_of(s)); }

/* ---- sizes ---- */

static weir_status check_id(const json_t *v, int64_t *highest, weir_err *e) {
  if (!json_is_integer(v)) return weir_fail(e, WEIR_EFORMAT, "\"vocab\": an id is no integer");
  const json_int_t id = json_integer_value(v);
  if (id < 0 || id >= WEIR_MAX_VOCAB)
    return weir_fail(e, WEIR_EFORMAT, "\"vocab\": id %" PRId64 " (limit %d)", (int64_t)id, WEIR_MAX_VOCAB);
  if (id > *highest) *highest = id;
  return WEIR_OK;
}

/* How many ids the model's own vocabulary spans. */
static weir_status count_vocab(const json_t *vocab, weir_tok_kind kind, int64_t *ids, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t highest = -1;
  *ids = 0;
  if (kind == WEIR_TOK_UNIGRAM) {
    if (!json_is_array(vocab)) return weir_fail(e, WEIR_EFORMAT, "\"vocab\": want a list");
    *ids = (int64_t)json_array_size(vocab);
    return *ids <= WEIR_MAX_VOCAB
               ? WEIR_OK
               : weir_fail(e, WEIR_EFORMAT, "\"vocab\": %" PRId64 " tokens (limit %d)", *ids, WEIR_MAX_VOCAB);
  }
  if (!json_is_object(vocab)) return weir_fail(e, WEIR_EFORMAT, "\"vocab\": want an object");
  const char *key;
  json_t *v;
  json_object_foreach((json_t *)(uintptr_t)vocab, key, v) WEIR_TRY(check_id(v, &highest, e));
  *ids = highest + 1;
out:
  return st;
}

/* ---- added tokens ---- */

static weir_status added_text(const json_t *token, weir_str *out, weir_err *e) {
  if (!json_is_object(token)) return weir_fail(e, WEIR_EFORMAT, "want objects");
  return weir_tok_json_text(token, "content", out, e);
}

/* A token that the model has keeps its id; others are numbered on from the size of the model's vocabulary,
 * whatever the file says, as in the library. */
static weir_status number_added(const json_t *list, added_list *a, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t next = a->n_model;
  for (size_t i = 0; i < json_array_size(list); i++) {
    weir_str text;
    WEIR_TRY(added_text(json_array_get(list, i), &text, e));
    if (text.len == 0 || weir_strmap_get(&a->by_text, text) >= 0) continue;
    if (next >= WEIR_MAX_VOCAB) return weir_fail(e, WEIR_EFORMAT, "ids above %d", WEIR_MAX_VOCAB);
    weir_strmap_add(&a->by_text, text, (int32_t)next++);
  }
  if (next > a->n) a->n = (int32_t)next;
out:
  return st;
}

static weir_status read_added(weir_tok_spec *s, const json_t *list, const added_list *a, weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  int32_t *place = NULL; /* [n] of an id in the list, plus 1 */
  WEIR_TRY(WEIR_NEW(json_array_size(list), &s->added, e));
  WEIR_TRY(WEIR_NEW((size_t)s->n, &place, e));
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *token = json_array_get(list, i);
    weir_tok_added one = {0};
    weir_str text;
    WEIR_TRY(added_text(token, &text, e));
    if (text.len == 0) continue;
    one.id = weir_strmap_get(&a->by_text, text);
    const json_t *declared = json_object_get(token, "id");
    if (declared && json_integer_value(declared) != one.id) {
      /* The library goes on with its own number and a warning; the weights were trained with another. */
      st = weir_fail(e, WEIR_EFORMAT, "token %s has the id %" PRId64 " but would get %" PRId32,
                     weir_str_show(text, shown), (int64_t)json_integer_value(declared), one.id);
      goto out;
    }
    WEIR_TRY(weir_strings_keep(&s->strings, text, &one.text, e));
    WEIR_TRY(weir_json_flag(token, "special", false, &one.special, e));
    WEIR_TRY(weir_json_flag(token, "normalized", !one.special, &one.normalized, e));
    WEIR_TRY(weir_json_flag(token, "lstrip", false, &one.lstrip, e));
    WEIR_TRY(weir_json_flag(token, "rstrip", false, &one.rstrip, e));
    WEIR_TRY(weir_json_flag(token, "single_word", false, &one.single_word, e));
    /* of one text the last declaration counts */
    if (place[one.id] == 0) place[one.id] = ++s->n_added;
    s->added[place[one.id] - 1] = one;
    s->text[one.id] = one.text;
    s->type[one.id] = one.special ? WEIR_TOKEN_CONTROL : WEIR_TOKEN_USER;
  }
out:
  free(place);
  return st;
}

/* ---- models ---- */

static weir_status enter(weir_tok_spec *s, int32_t id, weir_str text, weir_err *e) {
  if (s->in_model[id]) return weir_fail(e, WEIR_EFORMAT, "\"vocab\": two tokens with the id %" PRId32, id);
  s->in_model[id] = 1;
  s->type[id] = s->byte_fallback && weir_piece_byte(text) >= 0 ? WEIR_TOKEN_BYTE : WEIR_TOKEN_NORMAL;
  return weir_strings_keep(&s->strings, text, &s->text[id], e);
}

static weir_status read_merge(weir_tok_spec *s, const json_t *m, weir_tok_merge *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_str left, right;
  if (json_is_string(m)) {
    const weir_str all = weir_json_str(m);
    const char *space = memchr(all.data, ' ', all.len);
    const size_t n = space ? (size_t)(space - all.data) : all.len;
    if (!space || memchr(space + 1, ' ', all.len - n - 1))
      return weir_fail(e, WEIR_EFORMAT, "merge %" PRId64 ": want two tokens with a space between",
                       s->n_merges);
    left = (weir_str){all.data, n};
    right = (weir_str){space + 1, all.len - n - 1};
  } else if (json_array_size(m) == 2 && json_is_string(json_array_get(m, 0)) &&
             json_is_string(json_array_get(m, 1))) {
    left = weir_json_str(json_array_get(m, 0));
    right = weir_json_str(json_array_get(m, 1));
  } else {
    return weir_fail(e, WEIR_EFORMAT, "merge %" PRId64 ": want two tokens", s->n_merges);
  }
  WEIR_TRY(weir_strings_keep(&s->strings, left, &out->left, e));
  WEIR_TRY(weir_strings_keep(&s->strings, right, &out->right, e));
out:
  return st;
}

static weir_status refuse_text(const json_t *model, const char *key, weir_err *e) {
  const json_t *v = json_object_get(model, key);
  if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0)) return WEIR_OK;
  return weir_fail(e, WEIR_EUNSUP, "BPE with \"%s\" is not supported", key);
}

static weir_status read_bpe(weir_tok_spec *s, const json_t *model, weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  const json_t *dropout = json_object_get(model, "dropout");
  const json_t *merges = json_object_get(model, "merges");
  const json_t *unk = json_object_get(model, "unk_token");
  const json_t *vocab = json_object_get(model, "vocab");
  if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0.0))
    return weir_fail(e, WEIR_EUNSUP, "BPE with \"dropout\" is not supported");
  WEIR_TRY(refuse_text(model, "continuing_subword_prefix", e));
  WEIR_TRY(refuse_text(model, "end_of_word_suffix", e));
  WEIR_TRY(weir_json_flag(model, "fuse_unk", false, &s->fuse_unk, e));
  WEIR_TRY(weir_json_flag(model, "ignore_merges", false, &s->ignore_merges, e));
  s->last_merge_counts = true;
  const char *key;
  size_t len;
  json_t *v;
  json_object_keylen_foreach((json_t *)(uintptr_t)vocab, key, len, v)
      WEIR_TRY(enter(s, (int32_t)json_integer_value(v), (weir_str){key, len}, e));
  if (unk && !json_is_null(unk)) {
    if (!json_is_string(unk)) return weir_fail(e, WEIR_EFORMAT, "\"unk_token\": want a string");
    const json_t *id = json_object_getn(vocab, json_string_value(unk), json_string_length(unk));
    if (id)
      s->unk = (int32_t)json_integer_value(id);
    else if (!s->byte_level && !s->byte_fallback)
      return weir_fail(e, WEIR_EFORMAT, "\"unk_token\" %s is not in the vocabulary",
                       weir_str_show(weir_json_str(unk), shown));
  }
  if (!json_is_array(merges)) return weir_fail(e, WEIR_EFORMAT, "\"merges\": want a list");
  const size_t n = json_array_size(merges);
  WEIR_TRY(WEIR_NEW(n, &s->merge, e));
  for (size_t i = 0; i < n; i++) {
    const json_t *m = json_array_get(merges, i);
    if (json_is_string(m) && strncmp(json_string_value(m), "#version", 8) == 0) continue;
    WEIR_TRY(read_merge(s, m, &s->merge[s->n_merges], e));
    s->n_merges++;
  }
out:
  return st;
}

static weir_status read_unigram(weir_tok_spec *s, const json_t *model, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *unk = json_object_get(model, "unk_id");
  const json_t *vocab = json_object_get(model, "vocab");
  s->sum_doubles = true;
  for (size_t i = 0; i < json_array_size(vocab); i++) {
    const json_t *pair = json_array_get(vocab, i);
    const json_t *text = json_array_get(pair, 0), *score = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_string(text) || !json_is_number(score))
      return weir_fail(e, WEIR_EFORMAT, "\"vocab\": entry %zu: want a token and a score", i);
    WEIR_TRY(enter(s, (int32_t)i, weir_json_str(text), e));
    s->score[i] = json_number_value(score);
  }
  if (unk && !json_is_null(unk)) {
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
        (size_t)json_integer_value(unk) >= json_array_size(vocab))
      return weir_fail(e, WEIR_EFORMAT, "\"unk_id\": want the index of a token");
    s->unk = (int32_t)json_integer_value(unk);
  }
out:
  return st;
}

/* Files of old have no "type". */
static weir_status model_kind(const json_t *model, weir_tok_kind *out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_str type = weir_str_of("BPE");
  if (!json_is_object(model)) return weir_fail(e, WEIR_EFORMAT, "want an object");
  if (json_object_get(model, "type")) {
    const weir_status st = weir_tok_json_text(model, "type", &type, e);
    if (st != WEIR_OK) return st;
  } else if (!json_object_get(model, "merges")) {
    type =
        weir_str_of(json_is_array(json_object_get(model, "vocab")) ? "Unigram" : "without type and merges");
  }
  *out = is(type, "Unigram") ? WEIR_TOK_UNIGRAM : WEIR_TOK_BPE;
  if (is(type, "BPE") || is(type, "Unigram")) return WEIR_OK;
  return weir_fail(e, WEIR_EUNSUP, "%s is not supported (known: BPE Unigram)", weir_str_show(type, shown));
}

/* Ids of all texts, before the arrays are made. */
static weir_status plan_ids(const json_t *model, weir_tok_kind kind, const json_t *added, added_list *a,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *vocab = json_object_get(model, "vocab");
  int64_t ids;
  WEIR_TRY(count_vocab(vocab, kind, &ids, e));
  a->n = (int32_t)ids;
  a->n_model = (int32_t)(kind == WEIR_TOK_UNIGRAM ? json_array_size(vocab) : json_object_size(vocab));
  WEIR_TRY(weir_strmap_init(&a->by_text, (size_t)a->n_model + json_array_size(added), e));
  if (kind == WEIR_TOK_UNIGRAM) {
    /* of equal texts the last counts, and the map keeps the first */
    for (int32_t i = a->n_model - 1; i >= 0; i--) {
      const json_t *text = json_array_get(json_array_get(vocab, (size_t)i), 0);
      if (json_is_string(text)) weir_strmap_add(&a->by_text, weir_json_str(text), i);
    }
  } else {
    const char *key;
    size_t len;
    json_t *v;
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, key, len, v)
        weir_strmap_add(&a->by_text, (weir_str){key, len}, (int32_t)json_integer_value(v));
  }
  st = number_added(added, a, e);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "added_tokens");
out:
  return st;
}

static weir_status read_root(weir_tok_spec *s, const json_t *root, weir_err *e) {
  weir_status st = WEIR_OK;
  added_list a = {0};
  const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
  const json_t *version = json_object_get(root, "version");
  if (version && !(json_is_string(version) && is(weir_json_str(version), "1.0")))
    return weir_fail(e, WEIR_EUNSUP, "only version 1.0 is supported");
  if (added && !json_is_null(added) && !json_is_array(added))
    return weir_fail(e, WEIR_EFORMAT, "added_tokens: want a list");
  st = model_kind(model, &s->kind, e);
  if (st == WEIR_OK) st = plan_ids(model, s->kind, added, &a, e);
  if (st == WEIR_OK && a.n < 1) st = weir_fail(e, WEIR_EFORMAT, "\"vocab\" is empty");
  if (st == WEIR_OK) st = weir_tok_spec_reserve(s, a.n, s->kind != WEIR_TOK_BPE, e);
  if (st == WEIR_OK) st = weir_json_flag(model, "byte_fallback", false, &s->byte_fallback, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "model");
    goto out;
  }
  WEIR_TRY(weir_tok_json_normalizer(s, json_object_get(root, "normalizer"), e));
  WEIR_TRY(weir_tok_json_pre_tokenizer(s, json_object_get(root, "pre_tokenizer"), e));
  WEIR_TRY(weir_tok_json_decoder(s, json_object_get(root, "decoder"), e));
  st = s->kind == WEIR_TOK_BPE ? read_bpe(s, model, e) : read_unigram(s, model, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "model");
    goto out;
  }
  st = read_added(s, added, &a, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "added_tokens");
    goto out;
  }
  WEIR_TRY(weir_tok_json_post_processor(s, json_object_get(root, "post_processor"), e));
out:
  weir_strmap_fini(&a.by_text);
  return st;
}

weir_status weir_tok_spec_from_json(weir_tok_spec *s, weir_str json, weir_err *e) {
  json_t *root = NULL;
  *s = (weir_tok_spec){0};
  weir_status st = weir_json_parse_object(json, &root, e);
  if (st == WEIR_OK) st = read_root(s, root, e);
  json_decref(root);
  if (st != WEIR_OK) {
    weir_tok_spec_fini(s);
    weir_fail_ctx(e, st, "tokenizer.json");
  }
  return st;
}
