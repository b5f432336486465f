/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller asks for, as messages. Borrows all strings: the result is packed at once. Every text is
 * looked at, because protobuf wants UTF-8 and a peer may refuse a message for less. The client's thread. */
#include "client/pack.h"

#include <stdlib.h>
#include <string.h>

#include "client/client_in.h"

int client_text(const char *s, const char *param, char **out, weir_client_error *e) {
  *out = (char *)(s ? s : "");
  if (weir_check_utf8(*out, strlen(*out))) return 0;
  return client_fail(e, 400, param, "%s: not UTF-8", param);
}

int client_chat_pack(const weir_client_message *chat, size_t n, Weir__V1__ChatMessage **messages,
                     Weir__V1__ChatMessage ***at, weir_client_error *e) {
  *messages = NULL;
  *at = NULL;
  if (n == 0) return 0;
  if (n > WEIR_CHECK_MAX_CHAT)
    return client_fail(e, 400, "chat", "chat: %zu messages, at most %d", n, WEIR_CHECK_MAX_CHAT);
  *messages = calloc(n, sizeof **messages);
  *at = calloc(n, sizeof **at);
  if (!*messages || !*at) return client_fail(e, 500, "", "out of memory for %zu messages", n);
  for (size_t i = 0; i < n; i++) {
    Weir__V1__ChatMessage *m = &(*messages)[i];
    (*at)[i] = m;
    weir__v1__chat_message__init(m);
    if (client_text(chat[i].role, "chat.role", &m->role, e) != 0) return -1;
    if (client_text(chat[i].text, "chat.text", &m->text, e) != 0) return -1;
  }
  return 0;
}

static int fill_sampling(client_submit_pack *p, const weir_client_request *q, weir_client_error *e) {
  Weir__V1__Sampling *s = &p->sampling;
  weir__v1__sampling__init(s);
  if (q->has_temperature) {
    s->has_temperature_case = WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE;
    s->temperature = q->temperature;
  }
  if (q->has_top_p) {
    s->has_top_p_case = WEIR__V1__SAMPLING__HAS_TOP_P_TOP_P;
    s->top_p = q->top_p;
  }
  if (q->has_seed) {
    s->has_seed_case = WEIR__V1__SAMPLING__HAS_SEED_SEED;
    s->seed = q->seed;
  }
  s->top_k = q->top_k;
  s->min_p = q->min_p;
  s->presence_penalty = q->presence_penalty;
  s->frequency_penalty = q->frequency_penalty;
  s->repetition_penalty = q->repetition_penalty;
  p->m.sampling = s;
  if (q->n_bias == 0) return 0;
  if (q->n_bias > WEIR_CHECK_MAX_BIAS)
    return client_fail(e, 400, "sampling.logit_bias", "sampling.logit_bias: %zu of them, at most %d",
                       q->n_bias, WEIR_CHECK_MAX_BIAS);
  p->bias = calloc(q->n_bias, sizeof *p->bias);
  p->bias_at = calloc(q->n_bias, sizeof *p->bias_at);
  if (!p->bias || !p->bias_at) return client_fail(e, 500, "", "out of memory for logit_bias");
  for (size_t i = 0; i < q->n_bias; i++) {
    weir__v1__bias__init(&p->bias[i]);
    p->bias[i].id = q->bias[i].id;
    p->bias[i].add = q->bias[i].add;
    p->bias_at[i] = &p->bias[i];
  }
  s->logit_bias = p->bias_at;
  s->n_logit_bias = q->n_bias;
  return 0;
}

static int fill_settings(client_submit_pack *p, const weir_client_request *q, weir_client_error *e) {
  if (q->n_settings == 0) return 0;
  if (q->n_settings > WEIR_CHECK_MAX_SETTINGS)
    return client_fail(e, 400, "cascade.setting", "cascade.setting: %zu of them, at most %d", q->n_settings,
                       WEIR_CHECK_MAX_SETTINGS);
  p->setting = calloc(q->n_settings, sizeof *p->setting);
  p->setting_at = calloc(q->n_settings, sizeof *p->setting_at);
  if (!p->setting || !p->setting_at) return client_fail(e, 500, "", "out of memory for settings");
  for (size_t i = 0; i < q->n_settings; i++) {
    Weir__V1__Setting *s = p->setting_at[i] = &p->setting[i];
    weir__v1__setting__init(s);
    if (client_text(q->setting[i].name, "cascade.setting", &s->name, e) != 0 ||
        client_text(q->setting[i].value, "cascade.setting", &s->value, e) != 0)
      return -1;
  }
  p->cascade.setting = p->setting_at;
  p->cascade.n_setting = q->n_settings;
  return 0;
}

static int fill_spans(client_submit_pack *p, const weir_client_request *q, weir_client_error *e) {
  if (q->n_spans == 0) return 0;
  if (q->n_spans > WEIR_CHECK_MAX_SPANS)
    return client_fail(e, 400, "cascade.span", "cascade.span: %zu of them, at most %d", q->n_spans,
                       WEIR_CHECK_MAX_SPANS);
  p->span = calloc(q->n_spans, sizeof *p->span);
  p->span_at = calloc(q->n_spans, sizeof *p->span_at);
  if (!p->span || !p->span_at) return client_fail(e, 500, "", "out of memory for spans");
  for (size_t i = 0; i < q->n_spans; i++) {
    Weir__V1__Span *s = p->span_at[i] = &p->span[i];
    weir__v1__span__init(s);
    s->threshold = q->span[i].threshold;
    if (client_text(q->span[i].start, "cascade.span", &s->start, e) != 0 ||
        client_text(q->span[i].end, "cascade.span", &s->end, e) != 0)
      return -1;
  }
  p->cascade.span = p->span_at;
  p->cascade.n_span = q->n_spans;
  return 0;
}

static int fill_cascade(client_submit_pack *p, const weir_client_request *q, weir_client_error *e) {
  const bool budget = q->has_defer_rate || q->has_load_price || q->defer_burst > 0;
  if (!q->mode && !q->has_entropy && !q->pin && !budget && q->n_settings == 0 && q->n_spans == 0) return 0;
  weir__v1__cascade__init(&p->cascade);
  if (client_text(q->mode, "cascade.mode", &p->cascade.mode, e) != 0) return -1;
  if (q->has_entropy) {
    p->cascade.has_entropy_case = WEIR__V1__CASCADE__HAS_ENTROPY_ENTROPY;
    p->cascade.entropy = q->entropy;
  }
  if (q->has_defer_rate) {
    p->cascade.has_defer_rate_case = WEIR__V1__CASCADE__HAS_DEFER_RATE_DEFER_RATE;
    p->cascade.defer_rate = q->defer_rate;
  }
  p->cascade.defer_burst = q->defer_burst;
  if (q->has_load_price) {
    p->cascade.has_load_price_case = WEIR__V1__CASCADE__HAS_LOAD_PRICE_LOAD_PRICE;
    p->cascade.load_price = q->load_price;
  }
  p->cascade.pin = q->pin;
  p->m.cascade = &p->cascade;
  return fill_settings(p, q, e) != 0 ? -1 : fill_spans(p, q, e);
}

static int check_texts(const char *const *text, size_t n, const char *param, weir_client_error *e) {
  for (size_t i = 0; i < n; i++) {
    char *s;
    if (!text[i]) return client_fail(e, 400, param, "%s: number %zu is NULL", param, i);
    if (client_text(text[i], param, &s, e) != 0) return -1;
  }
  return 0;
}

int client_submit_fill(client_submit_pack *p, const weir_client_request *q, weir_client_error *e) {
  Weir__V1__SubmitRequest *m = &p->m;
  weir__v1__submit_request__init(m);
  if (client_text(q->model, "model", &m->model, e) != 0 ||
      client_text(q->prompt, "prompt", &m->prompt, e) != 0 || client_text(q->user, "user", &m->user, e) != 0)
    return -1;
  m->prompt_ids = (uint32_t *)q->prompt_ids;
  m->n_prompt_ids = q->n_prompt_ids;
  if (client_chat_pack(q->chat, q->n_chat, &p->chat, &p->chat_at, e) != 0) return -1;
  m->chat = p->chat_at;
  m->n_chat = q->n_chat;
  m->max_tokens = q->max_tokens;
  m->min_tokens = q->min_tokens;
  if (check_texts(q->stop, q->n_stop, "stop", e) != 0 ||
      check_texts(q->choice, q->n_choices, "choices", e) != 0)
    return -1;
  m->stop = (char **)q->stop;
  m->n_stop = q->n_stop;
  m->choices = (char **)q->choice;
  m->n_choices = q->n_choices;
  m->stop_ids = (uint32_t *)q->stop_ids;
  m->n_stop_ids = q->n_stop_ids;
  m->ignore_eos = q->ignore_eos;
  m->special = q->special;
  m->bare = q->bare;
  m->priority = q->priority;
  m->deadline_ms = q->deadline_ms;
  m->top_logprobs = q->top_logprobs;
  m->receipts = q->receipts;
  if (fill_sampling(p, q, e) != 0) return -1;
  return fill_cascade(p, q, e);
}

void client_submit_pack_fini(client_submit_pack *p) {
  free(p->chat);
  free(p->chat_at);
  free(p->bias);
  free(p->bias_at);
  free(p->setting);
  free(p->setting_at);
  free(p->span);
  free(p->span_at);
}
