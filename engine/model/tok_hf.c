/* SPDX-License-Identifier: Apache-2.0 */
/* The description of a tokenizer from the files of a Hugging Face directory: tokenizer.json, and around it
 * what tokenizer_config.json, generation_config.json, config.json and chat_template.* say of bos, eos and the
 * chat template. Owns nothing that outlives a call; one thread. */
#include <inttypes.h>

#include "base/log.h"
#include "model/json.h"
#include "model/tok_json.h"
#include "model/tok_sp.h"

/* A token of tokenizer_config.json: its text, or an object with "content". */
static int32_t named_token(const weir_tok_spec *s, const json_t *config, const char *key) {
  const json_t *v = json_object_get(config, key);
  if (json_is_object(v)) v = json_object_get(v, "content");
  if (!json_is_string(v)) return -1;
  const weir_str text = weir_json_str(v);
  for (int32_t i = 0; i < s->n_added; i++)
    if (weir_str_eq(s->added[i].text, text)) return s->added[i].id;
  for (int32_t i = 0; text.len && i < s->n; i++)
    if (weir_str_eq(s->text[i], text)) return i;
  return -1;
}

/* An id, or the ids of a list; the first is *first when it is -1. */
static weir_status take_ids(weir_tok_spec *s, const json_t *v, bool ends, int32_t *first, weir_err *e) {
  const size_t n = json_is_array(v) ? json_array_size(v) : 1;
  for (size_t i = 0; i < n; i++) {
    const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
    if (!json_is_integer(one)) continue; /* null: none */
    const json_int_t id = json_integer_value(one);
    if (id < 0 || id >= s->n) {
      weir_log(WEIR_LOG_WARN, "a config names the token %" PRId64 " of %" PRId32, (int64_t)id, s->n);
      continue;
    }
    if (*first < 0) *first = (int32_t)id;
    if (!ends) continue;
    const weir_status st = weir_tok_spec_add_end(s, (int32_t)id, e);
    if (st != WEIR_OK) return st;
  }
  return WEIR_OK;
}

/* A string, or a list of named ones, of which "default" counts. */
static weir_str template_of(const json_t *v) {
  if (json_is_string(v)) return weir_json_str(v);
  for (size_t i = 0; i < json_array_size(v); i++) {
    const json_t *one = json_array_get(v, i), *name = json_object_get(one, "name");
    const json_t *text = json_object_get(one, "template");
    if (json_is_string(name) && strcmp(json_string_value(name), "default") == 0 && json_is_string(text))
      return weir_json_str(text);
  }
  return (weir_str){"", 0};
}

/* Files of their own come before tokenizer_config.json's, as in transformers. */
static weir_status read_template(weir_tok_spec *s, const weir_hf *hf, weir_err *e) {
  weir_status st = WEIR_OK;
  json_t *file = NULL;
  weir_str text = weir_hf_file(hf, "chat_template.jinja");
  const weir_str json = weir_hf_file(hf, "chat_template.json");
  if (!text.len && json.len) {
    WEIR_TRY(weir_json_parse_object(json, &file, e));
    text = template_of(json_object_get(file, "chat_template"));
  }
  if (!text.len) text = template_of(json_object_get(weir_hf_tokenizer_config(hf), "chat_template"));
  WEIR_TRY(weir_strings_keep(&s->strings, text, &s->chat_template, e));
out:
  json_decref(file);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "chat_template.json");
  return st;
}

static weir_status read_around(weir_tok_spec *s, const weir_hf *hf, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *config = weir_hf_config(hf), *tokens = weir_hf_tokenizer_config(hf);
  const json_t *generation = weir_hf_generation(hf), *text = json_object_get(config, "text_config");
  const int32_t bos = named_token(s, tokens, "bos_token"), eos = named_token(s, tokens, "eos_token");
  /* what the post-processor puts in front is the bos; only without one do the configs name it */
  if (s->bos < 0) s->bos = bos;
  if (eos >= 0) s->eos = eos;
  if (s->eos >= 0) WEIR_TRY(weir_tok_spec_add_end(s, s->eos, e));
  const json_t *const sources[] = {generation, config, text};
  for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
    WEIR_TRY(take_ids(s, json_object_get(sources[i], "eos_token_id"), true, &s->eos, e));
    WEIR_TRY(take_ids(s, json_object_get(sources[i], "bos_token_id"), false, &s->bos, e));
  }
  WEIR_TRY(weir_json_flag(tokens, "add_bos_token", s->adds_bos, &s->adds_bos, e));
  WEIR_TRY(weir_json_flag(tokens, "add_eos_token", s->adds_eos, &s->adds_eos, e));
out:
  if (st != WEIR_OK) weir_fail_ctx(e, st, "tokenizer_config.json");
  return st;
}

weir_status weir_tok_spec_from_hf(weir_tok_spec *s, const weir_hf *hf, weir_err *e) {
  const weir_str json = weir_hf_file(hf, "tokenizer.json");
  const bool pieces = !json.data && weir_hf_file(hf, "tokenizer.model").data;
  *s = (weir_tok_spec){0};
  if (!json.data && !pieces)
    return weir_fail(e, WEIR_EUNSUP,
                     "there is no tokenizer.json and no tokenizer.model, and no other form is read");
  weir_status st = pieces ? weir_tok_spec_from_sp(s, hf, e) : weir_tok_spec_from_json(s, json, e);
  if (st == WEIR_OK) st = read_around(s, hf, e);
  if (st == WEIR_OK) st = read_template(s, hf, e);
  if (st != WEIR_OK) weir_tok_spec_fini(s);
  return st;
}
