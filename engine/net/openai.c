/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for completions and chats, field by field, and those of /tokenize and /detokenize. Pure; any
 * thread. */
#include "net/openai.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/openai_in.h"

enum { MAX_USER_BYTES = 256, MAX_MODEL_BYTES = 256, MAX_STOP_BYTES = 1024, MAX_DEADLINE_MS = 86400000 };

typedef weir_openai_reader reader;

static void free_owned(json_t *root, void **owned, size_t n) {
  for (size_t i = 0; i < n; i++) free(owned[i]);
  free(owned);
  json_decref(root);
}

/* ---- what is refused ---- */

static bool is_nothing(const json_t *v) {
  return !v || json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0) ||
         (json_is_object(v) && json_object_size(v) == 0);
}

static bool is_word(const json_t *v, const char *word) {
  return json_is_string(v) && !strcmp(json_string_value(v), word);
}

/* Fields that change what is written: an answer that ignored them would be a wrong one. */
static void refuse_unsupported(reader *r) {
  static const char *const never[] = {
      "tools",          "functions",          "guided_json", "guided_regex",
      "guided_grammar", "structured_outputs", "audio",       "prompt_logprobs",
      "prompt_embeds",  "web_search_options"};
  static const char *const off[] = {"echo", "use_beam_search", "continue_final_message"};
  for (size_t i = 0; i < sizeof never / sizeof *never; i++)
    if (!is_nothing(json_object_get(r->root, never[i]))) weir_openai_bad(r, never[i], "is not supported");
  for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
    bool on = false;
    if (weir_openai_bool(r, off[i], &on) && on) weir_openai_bad(r, off[i], "is not supported");
  }
  bool generate = true;
  if (weir_openai_bool(r, "add_generation_prompt", &generate) && !generate)
    weir_openai_bad(r, "add_generation_prompt", "is always true here");
  static const char *const choices[] = {"tool_choice", "function_call"};
  for (size_t i = 0; i < 2; i++) {
    const json_t *v = json_object_get(r->root, choices[i]);
    if (!is_nothing(v) && !is_word(v, "none") && !is_word(v, "auto"))
      weir_openai_bad(r, choices[i], "is not supported");
  }
  const json_t *format = json_object_get(r->root, "response_format");
  if (!is_nothing(format) && !is_word(json_object_get(format, "type"), "text"))
    weir_openai_bad(r, "response_format", "other than {\"type\": \"text\"} is not supported");
  const json_t *modes = json_object_get(r->root, "modalities");
  if (!is_nothing(modes) && !(json_array_size(modes) == 1 && is_word(json_array_get(modes, 0), "text")))
    weir_openai_bad(r, "modalities", "other than [\"text\"] are not supported");
  const json_t *suffix = json_object_get(r->root, "suffix");
  if (!is_nothing(suffix) && !is_word(suffix, "")) weir_openai_bad(r, "suffix", "is not supported");
}

/* ---- prompts ---- */

static bool take_prompt(reader *r, json_t *v, weir_openai_prompt *out) {
  if (json_is_string(v)) {
    out->text = json_string_value(v);
    return true;
  }
  uint32_t *ids = NULL;
  if (!json_is_array(v) || json_array_size(v) == 0) {
    weir_openai_bad(r, "prompt", "must be a string, token ids, or an array of either");
    return false;
  }
  if (!weir_openai_ids(r, "prompt", v, &ids, &out->n_ids)) return false;
  out->ids = ids;
  return true;
}

static void read_prompts(reader *r, const weir_openai_limits *l, weir_openai_request *q) {
  json_t *v = weir_openai_get(r, "prompt");
  if (weir_openai_failed(r)) return;
  if (!v) {
    weir_openai_bad(r, "prompt", "is missing");
    return;
  }
  const json_t *first = json_array_get(v, 0);
  const bool several = json_is_string(first) || json_is_array(first);
  const size_t n = several ? json_array_size(v) : 1;
  if (n > (size_t)l->max_prompts) {
    char what[64];
    snprintf(what, sizeof what, "holds more than %d prompts", l->max_prompts);
    weir_openai_bad(r, "prompt", what);
    return;
  }
  q->prompt = weir_openai_alloc(r, n, sizeof *q->prompt);
  if (!q->prompt) return;
  q->n_prompts = n;
  for (size_t i = 0; i < n; i++)
    if (!take_prompt(r, several ? json_array_get(v, i) : v, &q->prompt[i])) return;
}

/* ---- the ends of an answer ---- */

static void read_stops(reader *r, weir_openai_request *q) {
  json_t *v = weir_openai_get(r, "stop");
  const size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;
  if (n > WEIR_OPENAI_MAX_STOPS) weir_openai_bad(r, "stop", "holds more than 16 strings");
  for (size_t i = 0; i < n && !weir_openai_failed(r); i++) {
    const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
    if (!json_is_string(s) || json_string_length(s) == 0 || json_string_length(s) > MAX_STOP_BYTES)
      weir_openai_bad(r, "stop", "must be a string or strings, none empty, of 1024 bytes at most");
    else
      q->stop[q->ask.n_stop++] = json_string_value(s);
  }
  q->ask.stop = q->ask.n_stop ? q->stop : NULL;
  v = weir_openai_get(r, "stop_token_ids");
  if (!v) return;
  uint32_t *ids = NULL;
  size_t n_ids = 0;
  if (!json_is_array(v) || json_array_size(v) > WEIR_OPENAI_MAX_STOP_IDS) {
    weir_openai_bad(r, "stop_token_ids", "must be an array of 64 ids at most");
  } else if (weir_openai_ids(r, "stop_token_ids", v, &ids, &n_ids) && n_ids) {
    memcpy(q->stop_id, ids, n_ids * sizeof *ids);
    q->ask.stop_ids = q->stop_id;
    q->ask.n_stop_ids = n_ids;
  }
}

static void read_lengths(reader *r, weir_openai_request *q) {
  int64_t x = 0;
  if (weir_openai_int(r, "max_tokens", 1, INT32_MAX, &x)) q->ask.max_tokens = (uint32_t)x;
  if (weir_openai_int(r, "max_completion_tokens", 1, INT32_MAX, &x)) q->ask.max_tokens = (uint32_t)x;
  if (weir_openai_int(r, "min_tokens", 0, INT32_MAX, &x)) q->ask.min_tokens = (uint32_t)x;
  if (q->ask.max_tokens && q->ask.min_tokens > q->ask.max_tokens)
    weir_openai_bad(r, "min_tokens", "is more than max_tokens");
  weir_openai_bool(r, "ignore_eos", &q->ask.ignore_eos);
}

/* ---- the draw ---- */

static void read_bias(reader *r, weir_openai_request *q) {
  json_t *v = weir_openai_get(r, "logit_bias"), *add;
  const char *key;
  if (!v) return;
  const size_t n = json_is_object(v) ? json_object_size(v) : SIZE_MAX;
  if (n > WEIR_OPENAI_MAX_BIAS) {
    weir_openai_bad(r, "logit_bias", "must be an object of 1024 token ids at most");
    return;
  }
  q->bias = weir_openai_alloc(r, n, sizeof *q->bias);
  if (!q->bias) return;
  json_object_foreach(v, key, add) {
    const size_t digits = strspn(key, "0123456789");
    const bool plain = digits > 0 && digits <= 10 && !key[digits] && (key[0] != '0' || digits == 1);
    const int64_t id = plain ? strtoll(key, NULL, 10) : -1;
    const double x = json_is_number(add) ? json_number_value(add) : 1e9;
    if (id < 0 || id > INT32_MAX) {
      weir_openai_bad(r, "logit_bias", "must have token ids for keys");
      return;
    }
    if (!(x >= -100 && x <= 100)) {
      weir_openai_bad(r, "logit_bias", "must have values from -100 to 100");
      return;
    }
    q->bias[q->ask.n_bias++] = (weir_client_bias){(uint32_t)id, (float)x};
  }
  q->ask.bias = q->ask.n_bias ? q->bias : NULL;
}

static void read_draw(reader *r, weir_openai_request *q) {
  weir_client_request *a = &q->ask;
  int64_t x = 0;
  a->has_temperature = weir_openai_number(r, "temperature", 0, 2, false, &a->temperature);
  a->has_top_p = weir_openai_number(r, "top_p", 0, 1, false, &a->top_p);
  if (a->has_top_p && !(a->top_p > 0)) { /* no mass but the likeliest token's */
    a->has_top_p = false;
    a->has_temperature = true;
    a->temperature = 0;
  }
  weir_openai_number(r, "min_p", 0, 1, false, &a->min_p);
  if (weir_openai_int(r, "top_k", -1, INT32_MAX, &x)) a->top_k = x > 0 ? (uint32_t)x : 0; /* -1: off */
  if (weir_openai_int(r, "seed", INT64_MIN, INT64_MAX, &x)) {
    a->has_seed = true;
    a->seed = (uint64_t)x;
  }
  weir_openai_number(r, "presence_penalty", -2, 2, false, &a->presence_penalty);
  weir_openai_number(r, "frequency_penalty", -2, 2, false, &a->frequency_penalty);
  weir_openai_number(r, "repetition_penalty", 0, 100, true, &a->repetition_penalty);
  read_bias(r, q);
}

static void read_logprobs(reader *r, weir_openai_request *q) {
  int64_t x = 0;
  if (q->kind == WEIR_OPENAI_COMPLETION) {
    if (weir_openai_int(r, "logprobs", 0, WEIR_OPENAI_MAX_TOP, &x)) {
      q->logprobs = true;
      q->ask.top_logprobs = (uint32_t)x;
    }
    return;
  }
  weir_openai_bool(r, "logprobs", &q->logprobs);
  if (!weir_openai_int(r, "top_logprobs", 0, WEIR_OPENAI_MAX_TOP, &x)) return;
  if (!q->logprobs && x > 0)
    weir_openai_bad(r, "top_logprobs", "needs logprobs to be true");
  else
    q->ask.top_logprobs = (uint32_t)x;
}

/* ---- the rest ---- */

static void read_stream(reader *r, weir_openai_request *q) {
  weir_openai_bool(r, "stream", &q->stream);
  json_t *v = weir_openai_get(r, "stream_options");
  if (!v) return;
  if (!json_is_object(v)) {
    weir_openai_bad(r, "stream_options", "must be an object");
  } else if (!q->stream) {
    weir_openai_bad(r, "stream_options", "needs stream to be true");
  } else {
    reader in = *r;
    in.root = v;
    in.prefix = "stream_options.";
    weir_openai_bool(&in, "include_usage", &q->include_usage);
  }
}

static void read_count(reader *r, const weir_openai_limits *l, weir_openai_request *q) {
  int64_t n = 1, best = 0;
  weir_openai_int(r, "n", 1, l->max_n, &n);
  q->n = (int32_t)n;
  if (weir_openai_int(r, "best_of", 1, INT32_MAX, &best) && best != n)
    weir_openai_bad(r, "best_of", "other than n is not supported");
  if (q->n_prompts * (size_t)n > (size_t)l->max_answers) {
    char what[64];
    snprintf(what, sizeof what, "times the prompts is more than %d answers", l->max_answers);
    weir_openai_bad(r, "n", what);
  }
}

static void read_all(reader *r, const weir_openai_limits *l, weir_openai_request *q) {
  int64_t x = 0;
  bool special = true;
  refuse_unsupported(r);
  weir_openai_string(r, "model", MAX_MODEL_BYTES, &q->ask.model);
  if (q->kind == WEIR_OPENAI_CHAT) {
    weir_openai_messages(r, &q->message, &q->ask.n_chat);
    q->ask.chat = q->message;
    q->prompt = weir_openai_alloc(r, 1, sizeof *q->prompt);
    q->n_prompts = 1;
  } else {
    read_prompts(r, l, q);
    if (weir_openai_bool(r, "add_special_tokens", &special)) q->ask.bare = !special;
  }
  read_count(r, l, q);
  read_lengths(r, q);
  read_stops(r, q);
  read_draw(r, q);
  read_logprobs(r, q);
  read_stream(r, q);
  if (weir_openai_int(r, "priority", INT32_MIN, INT32_MAX, &x)) q->ask.priority = (int32_t)x;
  if (weir_openai_int(r, "deadline_ms", 1, MAX_DEADLINE_MS, &x)) q->ask.deadline_ms = (uint32_t)x;
  weir_openai_string(r, "user", MAX_USER_BYTES, &q->ask.user);
  weir_openai_choices(r, q);
  weir_openai_weir(r, q);
}

int weir_openai_parse(weir_openai_kind kind, const char *body, size_t len, const weir_openai_limits *l,
                      weir_openai_request *q, weir_openai_error *e) {
  memset(q, 0, sizeof *q);
  q->kind = kind;
  q->root = weir_openai_load(body, len, e);
  if (!q->root) return -1;
  reader r = {q->root, "", e, &q->owned, &q->n_owned};
  read_all(&r, l, q);
  if (!weir_openai_failed(&r)) return 0;
  weir_openai_request_fini(q);
  return -1;
}

void weir_openai_request_fini(weir_openai_request *q) {
  free_owned(q->root, q->owned, q->n_owned);
  memset(q, 0, sizeof *q);
}

weir_client_request weir_openai_ask(const weir_openai_request *q, size_t p, int32_t i) {
  weir_client_request ask = q->ask;
  if (q->kind == WEIR_OPENAI_COMPLETION) {
    ask.prompt = q->prompt[p].text;
    ask.prompt_ids = q->prompt[p].ids;
    ask.n_prompt_ids = q->prompt[p].n_ids;
  }
  ask.seed += (uint64_t)i;
  return ask;
}

/* ---- /tokenize, /detokenize ---- */

int weir_openai_parse_tokenize(const char *body, size_t len, weir_openai_tokenize *q, weir_openai_error *e) {
  memset(q, 0, sizeof *q);
  q->root = weir_openai_load(body, len, e);
  if (!q->root) return -1;
  reader r = {q->root, "", e, &q->owned, &q->n_owned};
  bool special = true;
  weir_openai_string(&r, "model", MAX_MODEL_BYTES, &q->model);
  if (weir_openai_get(&r, "messages")) {
    weir_openai_messages(&r, &q->message, &q->n_messages);
    if (weir_openai_get(&r, "prompt")) weir_openai_bad(&r, "prompt", "and messages exclude each other");
  } else if (!weir_openai_string(&r, "prompt", SIZE_MAX, &q->text)) {
    weir_openai_bad(&r, "prompt", "is missing");
  }
  if (weir_openai_bool(&r, "add_special_tokens", &special)) q->bare = !special;
  if (!weir_openai_failed(&r)) return 0;
  weir_openai_tokenize_fini(q);
  return -1;
}

int weir_openai_parse_detokenize(const char *body, size_t len, weir_openai_tokenize *q,
                                 weir_openai_error *e) {
  memset(q, 0, sizeof *q);
  q->root = weir_openai_load(body, len, e);
  if (!q->root) return -1;
  reader r = {q->root, "", e, &q->owned, &q->n_owned};
  weir_openai_string(&r, "model", MAX_MODEL_BYTES, &q->model);
  json_t *v = weir_openai_get(&r, "tokens");
  if (json_is_array(v))
    weir_openai_ids(&r, "tokens", v, &q->ids, &q->n_ids);
  else
    weir_openai_bad(&r, "tokens", "must be an array of token ids");
  if (!weir_openai_failed(&r)) return 0;
  weir_openai_tokenize_fini(q);
  return -1;
}

void weir_openai_tokenize_fini(weir_openai_tokenize *q) {
  free_owned(q->root, q->owned, q->n_owned);
  memset(q, 0, sizeof *q);
}
