/* SPDX-License-Identifier: Apache-2.0 */
/* What a request may ask for: every field against the models and the server's bounds, the first that is wrong
 * named. Makes the reply with copies of all it needs. Edges' threads; reads the service's constants alone. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/utf8.h"
#include "sched/queue.h"
#include "serve/service_in.h"

enum { MAX_STOP = 64, MAX_STOP_BYTES = 4096, MAX_STOP_IDS = 256, MAX_CHAT = 16384 };

void weir_service_clean_text(char *s) {
  const size_t n = strlen(s);
  int32_t len;
  for (size_t at = 0; at < n; at += (size_t)len)
    if (weir_utf8_next(s + at, n - at, &len) != WEIR_UTF8_CHAR) memset(s + at, '?', (size_t)len);
}

weir_status weir_service_error_set(weir_service_error *x, int32_t code, const char *param, const char *fmt,
                                   ...) {
  va_list ap;
  *x = (weir_service_error){.code = code};
  snprintf(x->param, sizeof x->param, "%s", param ? param : "");
  va_start(ap, fmt);
  vsnprintf(x->message, sizeof x->message, fmt, ap);
  va_end(ap);
  weir_service_clean_text(x->message); /* a name may have been cut in the middle of a character */
  return code == 429 ? WEIR_EBUSY : code == 503 ? WEIR_EDEVICE : code == 500 ? WEIR_ENOMEM : WEIR_EINVAL;
}

static weir_status no_memory(weir_service_error *x, const weir_err *e) {
  return weir_service_error_set(x, 500, "", "%s", e->msg);
}

/* ---- the prompt ---- */

size_t weir_source_bytes(const weir_source *s) { return s->len + (size_t)s->n_ids * sizeof *s->ids; }

void weir_source_fini(weir_source *s) {
  free(s->text);
  free(s->ids);
  free(s->chat);
  *s = (weir_source){0};
}

static weir_status copy_ids(const weir_service *g, const weir_service_text *t, weir_source *s,
                            weir_service_error *x) {
  weir_err e;
  NEED(t->n_ids < INT32_MAX, "prompt_ids", "%zu are too many", t->n_ids);
  if (WEIR_NEW(t->n_ids, &s->ids, &e) != WEIR_OK) return no_memory(x, &e);
  for (size_t i = 0; i < t->n_ids; i++) {
    NEED(t->ids[i] < (uint32_t)g->n_vocab, "prompt_ids", "number %zu is %u, the vocabulary has %d", i,
         t->ids[i], g->n_vocab);
    s->ids[i] = (int32_t)t->ids[i];
  }
  s->n_ids = (int32_t)t->n_ids;
  return WEIR_OK;
}

static weir_status copy_chat(const weir_service *g, const weir_service_text *t, weir_source *s,
                             weir_service_error *x) {
  weir_err e;
  size_t bytes = 0, at = 0;
  NEED(g->cfg.chat, "chat", "the model has no chat template; ask with a prompt");
  NEED(t->n_chat <= MAX_CHAT, "chat", "%zu messages, at most %d", t->n_chat, MAX_CHAT);
  for (size_t i = 0; i < t->n_chat; i++)
    if (!t->chat[i].text || !weir_add_size(bytes, strlen(t->chat[i].text), &bytes))
      return weir_service_error_set(x, 400, "chat.text", "chat.text: message %zu has none", i);
  if (WEIR_NEW(bytes, &s->text, &e) != WEIR_OK || WEIR_NEW(t->n_chat, &s->chat, &e) != WEIR_OK)
    return no_memory(x, &e);
  for (size_t i = 0; i < t->n_chat; i++) {
    const size_t len = strlen(t->chat[i].text);
    weir_chat_role role;
    NEED(t->chat[i].role && weir_chat_role_parse(t->chat[i].role, &role), "chat.role",
         "message %zu is of none of system, user, assistant", i);
    NEED(weir_utf8_valid(t->chat[i].text, len), "chat.text", "message %zu is not UTF-8", i);
    memcpy(s->text + at, t->chat[i].text, len);
    s->chat[i] = (weir_chat_message){role, {s->text + at, len}};
    at += len;
  }
  s->len = bytes;
  s->n_chat = (int32_t)t->n_chat;
  return WEIR_OK;
}

weir_status weir_source_copy(const weir_service *g, const weir_service_text *t, weir_source *s,
                             weir_service_error *x) {
  weir_err e;
  const int kinds = (t->text != NULL) + (t->n_ids > 0) + (t->n_chat > 0);
  *s = (weir_source){.special = t->special, .bare = t->bare};
  NEED(kinds > 0, "prompt", "there is none");
  NEED(kinds == 1, "prompt", "more than one of prompt, prompt_ids and chat");
  if (t->n_ids > 0) return copy_ids(g, t, s, x);
  if (t->n_chat > 0) return copy_chat(g, t, s, x);
  NEED(t->len <= WEIR_TOKENIZE_MAX_BYTES, "prompt", "%zu bytes are too many", t->len);
  NEED(weir_utf8_valid(t->text, t->len), "prompt", "it is not UTF-8");
  if (WEIR_NEW(t->len, &s->text, &e) != WEIR_OK) return no_memory(x, &e);
  memcpy(s->text, t->text, t->len);
  s->len = t->len;
  return WEIR_OK;
}

/* ---- lengths and stops ---- */

static weir_status check_lengths(const weir_service *g, const weir_service_request *q, weir_reply *r,
                                 weir_service_error *x) {
  const uint32_t limit = (uint32_t)g->max_tokens_limit;
  NEED(q->max_tokens <= limit, "max_tokens", "%u; this server writes at most %u", q->max_tokens, limit);
  r->job.max_new = q->max_tokens > 0 ? (int32_t)q->max_tokens : g->max_tokens_default;
  NEED(q->min_tokens <= (uint32_t)r->job.max_new, "min_tokens", "%u, above max_tokens, %d", q->min_tokens,
       r->job.max_new);
  r->job.min_new = (int32_t)q->min_tokens;
  NEED(q->top_logprobs <= WEIR_TOP_MAX, "top_logprobs", "%u, at most %d", q->top_logprobs, WEIR_TOP_MAX);
  r->job.n_top = (int32_t)q->top_logprobs;
  NEED(q->priority >= -WEIR_MAX_PRIORITY && q->priority <= WEIR_MAX_PRIORITY, "priority", "%d, not -%d to %d",
       q->priority, WEIR_MAX_PRIORITY, WEIR_MAX_PRIORITY);
  return WEIR_OK;
}

static weir_status copy_stops(const weir_service *g, const weir_service_request *q, weir_reply *r,
                              weir_service_error *x) {
  weir_err e;
  size_t bytes = 0;
  NEED(q->n_stop <= MAX_STOP, "stop", "%zu of them, at most %d", q->n_stop, MAX_STOP);
  for (size_t i = 0; i < q->n_stop; i++) {
    const size_t len = q->stop[i] ? strlen(q->stop[i]) : 0;
    NEED(len > 0, "stop", "number %zu is empty", i);
    NEED(len <= MAX_STOP_BYTES, "stop", "number %zu is longer than %d bytes", i, MAX_STOP_BYTES);
    NEED(weir_utf8_valid(q->stop[i], len), "stop", "number %zu is not UTF-8", i);
    bytes += len + 1;
  }
  const size_t heads = q->n_stop * sizeof *r->stop;
  void *block = NULL;
  if (weir_calloc(heads + bytes, 1, "stop strings", &block, &e) != WEIR_OK) return no_memory(x, &e);
  r->stop = block;
  char *to = (char *)block + heads;
  for (size_t i = 0; i < q->n_stop; i++) {
    const size_t len = strlen(q->stop[i]) + 1;
    r->stop[i] = memcpy(to, q->stop[i], len);
    to += len;
  }
  r->job.stop = r->stop;
  r->job.n_stop = (int32_t)q->n_stop;
  NEED(q->n_stop_ids <= MAX_STOP_IDS, "stop_ids", "%zu of them, at most %d", q->n_stop_ids, MAX_STOP_IDS);
  if (WEIR_NEW(q->n_stop_ids, &r->stop_id, &e) != WEIR_OK) return no_memory(x, &e);
  for (size_t i = 0; i < q->n_stop_ids; i++) {
    NEED(q->stop_ids[i] < (uint32_t)g->n_vocab, "stop_ids", "%u; the vocabulary has %d", q->stop_ids[i],
         g->n_vocab);
    r->stop_id[r->n_stop_ids++] = (int32_t)q->stop_ids[i];
  }
  return WEIR_OK;
}

/* ---- sampling ---- */

static int by_id(const void *a, const void *b) {
  const int32_t x = ((const weir_bias *)a)->id, y = ((const weir_bias *)b)->id;
  return (x > y) - (x < y);
}

static weir_status copy_bias(const weir_service *g, const weir_service_request *q, weir_reply *r,
                             weir_service_error *x) {
  weir_err e;
  NEED(q->n_bias <= WEIR_MAX_BIAS, "sampling.logit_bias", "%zu of them, at most %d", q->n_bias,
       WEIR_MAX_BIAS);
  if (q->n_bias == 0) return WEIR_OK;
  if (WEIR_NEW(q->n_bias, &r->bias, &e) != WEIR_OK) return no_memory(x, &e);
  for (size_t i = 0; i < q->n_bias; i++) {
    NEED(q->bias[i].id < (uint32_t)g->n_vocab, "sampling.logit_bias", "token %u; the vocabulary has %d",
         q->bias[i].id, g->n_vocab);
    NEED(weir_within(q->bias[i].add, -100, 100), "sampling.logit_bias", "%g for token %u, not -100 to 100",
         (double)q->bias[i].add, q->bias[i].id);
    r->bias[i] = (weir_bias){(int32_t)q->bias[i].id, q->bias[i].add};
  }
  qsort(r->bias, q->n_bias, sizeof *r->bias, by_id);
  for (size_t i = 1; i < q->n_bias; i++)
    NEED(r->bias[i].id != r->bias[i - 1].id, "sampling.logit_bias", "token %d is there twice", r->bias[i].id);
  r->job.penalties.bias = r->bias;
  r->job.penalties.n_bias = (int32_t)q->n_bias;
  return WEIR_OK;
}

static weir_status check_sampling(const weir_service *g, const weir_service_request *q, weir_reply *r,
                                  weir_service_error *x) {
  weir_ask *d = &r->job.draw;
  *d = (weir_ask){.temperature = q->has_temperature ? q->temperature : g->cfg.draw.temperature,
                  .top_k = g->cfg.draw.top_k,
                  .top_p = q->has_top_p ? q->top_p : g->cfg.draw.top_p,
                  .min_p = q->min_p != 0 ? q->min_p : g->cfg.draw.min_p,
                  .seed = q->has_seed ? q->seed : weir_hash_seed(),
                  .probe = -1};
  NEED(weir_within(d->temperature, 0, 100), "sampling.temperature", "%g, not 0 to 100", (double)d->temperature);
  NEED(q->top_k <= INT32_MAX, "sampling.top_k", "%u is too large", q->top_k);
  if (q->top_k > 0) d->top_k = (int32_t)q->top_k;
  NEED(d->top_p > 0 && d->top_p <= 1, "sampling.top_p", "%g, not above 0 and up to 1", (double)d->top_p);
  NEED(weir_within(d->min_p, 0, 1), "sampling.min_p", "%g, not 0 to 1", (double)d->min_p);
  NEED(weir_within(q->presence_penalty, -2, 2), "sampling.presence_penalty", "%g, not -2 to 2",
       (double)q->presence_penalty);
  NEED(weir_within(q->frequency_penalty, -2, 2), "sampling.frequency_penalty", "%g, not -2 to 2",
       (double)q->frequency_penalty);
  NEED(weir_within(q->repetition_penalty, 0, 100), "sampling.repetition_penalty", "%g, not 0 to 100",
       (double)q->repetition_penalty);
  r->job.penalties = (weir_penalties){.presence = q->presence_penalty,
                                      .frequency = q->frequency_penalty,
                                      .repetition = q->repetition_penalty};
  return copy_bias(g, q, r, x);
}

/* ---- all ---- */

static weir_status fill(const weir_service *g, const weir_service_request *q, weir_reply *r,
                        weir_service_error *x) {
  weir_err e;
  weir_status st = WEIR_OK;
  const char *user = q->user ? q->user : "";
  if (q->model && q->model[0] && strcmp(q->model, g->model) != 0)
    return weir_service_error_set(x, 404, "model", "there is no model \"%.80s\" here, but \"%.80s\"",
                                  q->model, g->model);
  WEIR_TRY(check_lengths(g, q, r, x));
  WEIR_TRY(copy_stops(g, q, r, x));
  WEIR_TRY(check_sampling(g, q, r, x));
  WEIR_TRY(weir_service_check_cascade(g, q, r, x));
  WEIR_TRY(weir_service_copy_words(g, q, r, x));
  WEIR_TRY(weir_source_copy(g, &q->prompt, &r->source, x));
  r->source_bytes =
      (int64_t)(weir_source_bytes(&r->source) + (size_t)r->source.n_chat * sizeof *r->source.chat);
  atomic_fetch_add(&r->of->reply_bytes, r->source_bytes);
  r->submitted_ns = weir_service_now(g);
  r->job.priority = q->priority;
  r->job.deadline_ns = q->deadline_ms > 0 ? r->submitted_ns + (int64_t)q->deadline_ms * 1000000 : 0;
  r->job.salt = weir_keyed_hash(g->salt_key, user, strlen(user));
  r->job.ignore_eos = q->ignore_eos;
  r->job.show_special = q->prompt.special;
  if (weir_reply_log_init(&r->log, r->job.max_new, &r->of->reply_bytes, &e) != WEIR_OK)
    return no_memory(x, &e);
out:
  return st;
}

weir_status weir_reply_create(weir_service *g, const weir_service_request *q, weir_reply **out,
                              weir_service_error *x) {
  weir_reply *r;
  weir_err e;
  *out = NULL;
  if (WEIR_NEW(1, &r, &e) != WEIR_OK) return no_memory(x, &e);
  r->of = g;
  r->refs = 2;
  const weir_status st = fill(g, q, r, x);
  if (st == WEIR_OK)
    *out = r;
  else
    weir_reply_free(r);
  return st;
}

void weir_reply_drop_source(weir_reply *r) {
  weir_source_fini(&r->source);
  atomic_fetch_sub(&r->of->reply_bytes, r->source_bytes);
  r->source_bytes = 0;
}

void weir_reply_free(weir_reply *r) {
  if (!r) return;
  weir_reply_drop_source(r);
  weir_reply_drop_words(r);
  weir_tokens_fini(&r->prompt);
  weir_reply_log_fini(&r->log);
  free((void *)r->stop);
  free(r->stop_id);
  free(r->bias);
  free(r);
}
