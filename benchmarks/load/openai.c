/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies and answers of OpenAI's API. What a server sends is checked for type before it is used; what is not
 * known is passed over. Pure but for memory; the load's thread. */
#include "load/openai.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- requests ---- */

static void put_weir(json_t *o, const weir_target_cfg *c, const weir_target_ask *ask) {
  if (!c->mode && !c->receipts && isnan(ask->entropy)) return;
  json_t *w = json_object();
  if (c->mode) json_object_set_new(w, "mode", json_string(c->mode));
  if (!isnan(ask->entropy)) json_object_set_new(w, "entropy", json_real(ask->entropy));
  if (c->receipts) json_object_set_new(w, "receipts", json_true());
  json_object_set_new(o, "weir", w);
}

weir_status weir_openai_body(const weir_target_cfg *c, const char *model, const weir_target_ask *ask,
                             const json_t *extra, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  char *text = NULL;
  json_t *o = json_object();
  if (model[0]) json_object_set_new(o, "model", json_string(model));
  if (c->chat && ask->messages)
    json_object_set(o, "messages", ask->messages);
  else if (c->chat)
    json_object_set_new(o, "messages", json_pack("[{s:s, s:s}]", "role", "user", "content", ask->prompt));
  else
    json_object_set_new(o, "prompt", json_string(ask->prompt ? ask->prompt : ""));
  json_object_set_new(o, "max_tokens", json_integer(ask->max_tokens));
  if (c->has_temperature) json_object_set_new(o, "temperature", json_real(c->temperature));
  if (c->has_top_p) json_object_set_new(o, "top_p", json_real(c->top_p));
  if (c->has_seed) json_object_set_new(o, "seed", json_integer((json_int_t)c->seed));
  if (c->ignore_eos) json_object_set_new(o, "ignore_eos", json_true());
  if (c->n_stop > 0) {
    json_t *stop = json_array();
    for (int32_t i = 0; i < c->n_stop; i++) json_array_append_new(stop, json_string(c->stop[i]));
    json_object_set_new(o, "stop", stop);
  }
  json_object_set_new(o, "stream", json_boolean(c->stream));
  if (c->stream) json_object_set_new(o, "stream_options", json_pack("{s:b}", "include_usage", 1));
  put_weir(o, c, ask);
  if (extra) json_object_update(o, (json_t *)extra);
  text = json_dumps(o, JSON_COMPACT);
  if (!text || (!c->chat && !json_object_get(o, "prompt"))) {
    st = weir_fail(e, WEIR_EINVAL, "a prompt is not UTF-8, or memory ran out");
    goto out;
  }
  weir_buf_truncate(out, 0);
  st = weir_buf_puts(out, text, e);
out:
  free(text);
  json_decref(o);
  return st;
}

/* ---- answers ---- */

void weir_openai_answer_init(weir_openai_answer *a) {
  *a = (weir_openai_answer){.end = {.retry_after_s = NAN}};
  a->end.usage = (weir_target_usage){.prompt_tokens = -1,
                                     .completion_tokens = -1,
                                     .cached_tokens = -1,
                                     .queue_ms = NAN,
                                     .deferral_rate = NAN};
}

static int32_t count_of(const json_t *o, const char *name) {
  const json_t *v = json_object_get(o, name);
  const json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
  return n >= 0 && n <= INT32_MAX ? (int32_t)n : -1;
}

static double number_of(const json_t *o, const char *name) {
  const json_t *v = json_object_get(o, name);
  return json_is_number(v) ? json_number_value(v) : NAN;
}

/* Tiers are named from the small one up: with two of them "small" and "large". */
static int32_t tier_of(const char *name) {
  if (!name) return -1;
  if (!strcmp(name, "small")) return 0;
  if (!strcmp(name, "large")) return 1;
  return -1;
}

static void read_usage(weir_target_usage *u, const json_t *o) {
  if (!json_is_object(o)) return;
  u->prompt_tokens = count_of(o, "prompt_tokens");
  u->completion_tokens = count_of(o, "completion_tokens");
  u->cached_tokens = count_of(json_object_get(o, "prompt_tokens_details"), "cached_tokens");
  const json_t *w = json_object_get(o, "weir");
  if (!json_is_object(w)) return;
  u->queue_ms = number_of(w, "queue_ms");
  u->deferral_rate = number_of(w, "deferral_rate");
  const char *name;
  json_t *n;
  json_object_foreach(json_object_get(w, "tokens_by_tier"), name, n) {
    const int32_t tier = tier_of(name);
    if (tier < 0 || !json_is_integer(n)) continue;
    u->by_tier[tier] = (int32_t)json_integer_value(n);
    u->tiers = true;
  }
}

static void read_receipts(weir_target_piece *p, const json_t *choice) {
  const json_t *tokens = json_object_get(json_object_get(choice, "weir"), "tokens"), *t;
  size_t i;
  if (!json_is_array(tokens)) return;
  json_array_foreach(tokens, i, t) {
    const int32_t tier = tier_of(json_string_value(json_object_get(t, "tier")));
    if (i == 0) p->tier = tier;
    if (tier >= 0) p->by_tier[tier]++;
    p->n_tokens++;
  }
}

static void set_end(weir_target_end *end, int code, const char *what, const char *message) {
  end->ok = false;
  end->code = code;
  snprintf(end->what, sizeof end->what, "%s", what);
  snprintf(end->message, sizeof end->message, "%.*s", (int)sizeof end->message - 1, message);
}

/* {"error": {"message", "type", "code"}}, or the text alone; vLLM has also had {"object": "error", ...}. */
static bool read_error(weir_target_end *end, int status, const json_t *o) {
  const json_t *err = json_object_get(o, "error");
  if (!err || json_is_null(err)) {
    if (strcmp(json_is_string(json_object_get(o, "object")) ? json_string_value(json_object_get(o, "object"))
                                                            : "",
               "error") != 0)
      return false;
    err = o;
  }
  const char *message = json_string_value(json_is_string(err) ? err : json_object_get(err, "message"));
  const char *type = json_string_value(json_object_get(err, "type"));
  const json_t *code = json_object_get(err, "code");
  if (status == 200) status = json_is_integer(code) ? (int)json_integer_value(code) : 0;
  set_end(end, status, type ? type : "error", message ? message : "");
  return true;
}

static const char *text_of(const json_t *choice, bool *reasoning) {
  const json_t *d = json_object_get(choice, "delta");
  if (!d) d = json_object_get(choice, "message");
  if (!d) return json_string_value(json_object_get(choice, "text"));
  const char *text = json_string_value(json_object_get(d, "content"));
  if (text && text[0]) return text;
  /* thinking aloud is text that took its time, but no part of the answer */
  const char *aloud = json_string_value(json_object_get(d, "reasoning_content"));
  if (!aloud) aloud = json_string_value(json_object_get(d, "reasoning"));
  *reasoning = aloud && aloud[0];
  return aloud;
}

weir_status weir_openai_read(weir_openai_answer *a, const char *text, size_t len, bool whole,
                             const weir_target_events *ev, weir_err *e) {
  weir_status st = WEIR_OK;
  json_error_t why;
  if (!whole && len == 6 && !memcmp(text, "[DONE]", 6)) {
    a->done = true;
    return WEIR_OK;
  }
  json_t *o = json_loadb(text, len, JSON_ALLOW_NUL, &why);
  if (!json_is_object(o)) {
    st = weir_fail(e, WEIR_EFORMAT, "not an object of JSON: \"%.60s\"", text);
    goto out;
  }
  if (read_error(&a->end, 200, o)) {
    st = weir_fail(e, WEIR_EUNSUP, "%s", a->end.message);
    goto out;
  }
  const json_t *usage = json_object_get(o, "usage");
  read_usage(&a->end.usage, usage);
  const json_t *choices = json_object_get(o, "choices"), *choice = json_array_get(choices, 0);
  if (!choices && !usage) {
    st = weir_fail(e, WEIR_EFORMAT, "neither choices nor usage in \"%.60s\"", text);
    goto out;
  }
  const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
  weir_target_piece p = {.tier = -1};
  bool reasoning = false;
  p.text = choice ? text_of(choice, &reasoning) : NULL;
  read_receipts(&p, choice);
  if ((p.text && p.text[0]) || p.n_tokens > 0) {
    p.len = p.text && !reasoning ? strlen(p.text) : 0;
    if (!p.text) p.text = "";
    ev->on_piece(ev->ctx, &p);
  }
  if (reason) {
    a->finished = true;
    snprintf(a->end.reason, sizeof a->end.reason, "%s", reason);
  }
out:
  json_decref(o);
  return st;
}

void weir_openai_read_error(weir_openai_answer *a, int status, const char *body, size_t len) {
  json_error_t why;
  json_t *o = json_loadb(body ? body : "", body ? len : 0, JSON_ALLOW_NUL, &why);
  char line[256];
  snprintf(line, sizeof line, "%.*s", (int)(len < 200 ? len : 200), body ? body : "");
  if (!json_is_object(o) || !read_error(&a->end, status, o)) set_end(&a->end, status, "error", line);
  json_decref(o);
}
