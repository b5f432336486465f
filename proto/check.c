/* SPDX-License-Identifier: Apache-2.0 */
/* Legal values of messages, one function a message. Reads only; any thread. */
#include "proto/check.h"

#include <math.h>
#include <string.h>

bool weir_check_utf8(const char *s, size_t n_bytes) {
  const uint8_t *p = (const uint8_t *)s, *end = p + n_bytes;
  while (p < end) {
    const uint8_t lead = *p++;
    if (lead == 0) return false;
    if (lead < 0x80) continue;
    /* Unicode 15, table 3-7: what the second byte may be depends on the first */
    uint8_t low = 0x80, high = 0xbf;
    int more;
    if (lead >= 0xc2 && lead <= 0xdf) {
      more = 1;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      more = 2;
      if (lead == 0xe0) low = 0xa0;
      if (lead == 0xed) high = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      more = 3;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xf4) high = 0x8f;
    } else {
      return false;
    }
    for (; more > 0; more--, low = 0x80, high = 0xbf)
      if (p == end || *p < low || *p++ > high) return false;
  }
  return true;
}

bool weir_check_code(uint32_t code) {
  static const uint32_t codes[] = {400, 401, 404, 409, 413, 429, 499, 500, 503, 504};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] == code) return true;
  return false;
}

/* ---- requests ---- */

/* The first wrong field ends the check. */
#define ASK(ok, name, ...)                                     \
  do {                                                         \
    if (!(ok)) {                                               \
      *param = (name);                                         \
      return weir_fail(e, WEIR_EINVAL, name ": " __VA_ARGS__); \
    }                                                          \
  } while (0)

static weir_status check_token(const char *token, const char **param, weir_err *e) {
  ASK(strlen(token) <= WEIR_CHECK_MAX_TOKEN, "token", "longer than %d bytes", WEIR_CHECK_MAX_TOKEN);
  return WEIR_OK;
}

static bool is_id(ProtobufCBinaryData id) { return id.len == WEIR_FRAME_ID_BYTES; }

static weir_status check_session(const char *token, ProtobufCBinaryData session, const char **param,
                                 weir_err *e) {
  const weir_status st = check_token(token, param, e);
  if (st != WEIR_OK) return st;
  ASK(is_id(session), "session", "%zu bytes, not %d", session.len, WEIR_FRAME_ID_BYTES);
  return WEIR_OK;
}

static weir_status check_chat(Weir__V1__ChatMessage *const *chat, size_t n, const char **param, weir_err *e) {
  ASK(n <= WEIR_CHECK_MAX_CHAT, "chat", "%zu messages, at most %d", n, WEIR_CHECK_MAX_CHAT);
  for (size_t i = 0; i < n; i++) {
    const char *role = chat[i]->role;
    ASK(!strcmp(role, "system") || !strcmp(role, "user") || !strcmp(role, "assistant"), "chat.role",
        "message %zu is of \"%.40s\", not of system, user or assistant", i, role);
  }
  return WEIR_OK;
}

static bool between(float v, float low, float high) { return v >= low && v <= high; } /* NaN: no */

static weir_status check_sampling(const Weir__V1__Sampling *s, const char **param, weir_err *e) {
  if (s->has_temperature_case == WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE)
    ASK(between(s->temperature, 0, 100), "sampling.temperature", "%g, not 0 to 100", (double)s->temperature);
  if (s->has_top_p_case == WEIR__V1__SAMPLING__HAS_TOP_P_TOP_P)
    ASK(s->top_p > 0 && s->top_p <= 1, "sampling.top_p", "%g, not above 0 and up to 1", (double)s->top_p);
  ASK(s->top_k <= INT32_MAX, "sampling.top_k", "%u is too large", s->top_k);
  ASK(between(s->min_p, 0, 1), "sampling.min_p", "%g, not 0 to 1", (double)s->min_p);
  ASK(between(s->presence_penalty, -2, 2), "sampling.presence_penalty", "%g, not -2 to 2",
      (double)s->presence_penalty);
  ASK(between(s->frequency_penalty, -2, 2), "sampling.frequency_penalty", "%g, not -2 to 2",
      (double)s->frequency_penalty);
  ASK(between(s->repetition_penalty, 0, 100), "sampling.repetition_penalty", "%g, not 0 to 100",
      (double)s->repetition_penalty);
  ASK(s->n_logit_bias <= WEIR_CHECK_MAX_BIAS, "sampling.logit_bias", "%zu of them, at most %d",
      s->n_logit_bias, WEIR_CHECK_MAX_BIAS);
  for (size_t i = 0; i < s->n_logit_bias; i++)
    ASK(between(s->logit_bias[i]->add, -100, 100), "sampling.logit_bias", "%g for token %u, not -100 to 100",
        (double)s->logit_bias[i]->add, s->logit_bias[i]->id);
  return WEIR_OK;
}

static weir_status check_cascade(const Weir__V1__Cascade *c, const char **param, weir_err *e) {
  ASK(strlen(c->mode) <= WEIR_CHECK_MAX_NAME, "cascade.mode", "longer than %d bytes", WEIR_CHECK_MAX_NAME);
  if (c->has_entropy_case == WEIR__V1__CASCADE__HAS_ENTROPY_ENTROPY)
    ASK(!isnan(c->entropy), "cascade.entropy", "not a number");
  if (c->has_defer_rate_case == WEIR__V1__CASCADE__HAS_DEFER_RATE_DEFER_RATE)
    ASK(between(c->defer_rate, 0, 1), "cascade.defer_rate", "%g, not 0 to 1", (double)c->defer_rate);
  ASK(c->defer_burst <= 1 << 20, "cascade.defer_burst", "%u, at most %d", c->defer_burst, 1 << 20);
  if (c->has_load_price_case == WEIR__V1__CASCADE__HAS_LOAD_PRICE_LOAD_PRICE)
    ASK(between(c->load_price, 0, 100), "cascade.load_price", "%g, not 0 to 100", (double)c->load_price);
  ASK(c->n_setting <= WEIR_CHECK_MAX_SETTINGS, "cascade.setting", "%zu of them, at most %d", c->n_setting,
      WEIR_CHECK_MAX_SETTINGS);
  for (size_t i = 0; i < c->n_setting; i++)
    ASK(strlen(c->setting[i]->name) <= WEIR_CHECK_MAX_NAME &&
            strlen(c->setting[i]->value) <= WEIR_CHECK_MAX_NAME,
        "cascade.setting", "number %zu is longer than %d bytes", i, WEIR_CHECK_MAX_NAME);
  ASK(c->n_span <= WEIR_CHECK_MAX_SPANS, "cascade.span", "%zu of them, at most %d", c->n_span,
      WEIR_CHECK_MAX_SPANS);
  for (size_t i = 0; i < c->n_span; i++) {
    const Weir__V1__Span *s = c->span[i];
    ASK(!isnan(s->threshold), "cascade.span", "the threshold of number %zu is not a number", i);
    ASK(s->start[0] != 0, "cascade.span", "number %zu has no start", i);
    ASK(strlen(s->start) <= WEIR_CHECK_MAX_STOP_BYTES && strlen(s->end) <= WEIR_CHECK_MAX_STOP_BYTES,
        "cascade.span", "number %zu is longer than %d bytes", i, WEIR_CHECK_MAX_STOP_BYTES);
  }
  return WEIR_OK;
}

weir_status weir_check_submit(const Weir__V1__SubmitRequest *r, const char **param, weir_err *e) {
  *param = "";
  weir_status st = check_session(r->token, r->session, param, e);
  if (st != WEIR_OK) return st;
  ASK(is_id(r->request_id), "request_id", "%zu bytes, not %d", r->request_id.len, WEIR_FRAME_ID_BYTES);
  ASK(strlen(r->model) <= WEIR_CHECK_MAX_NAME, "model", "longer than %d bytes", WEIR_CHECK_MAX_NAME);
  ASK(strlen(r->user) <= WEIR_CHECK_MAX_NAME, "user", "longer than %d bytes", WEIR_CHECK_MAX_NAME);
  const int prompts = (r->prompt[0] != 0) + (r->n_prompt_ids > 0) + (r->n_chat > 0);
  ASK(prompts > 0, "prompt", "there is none");
  ASK(prompts == 1, "prompt", "more than one of prompt, prompt_ids and chat");
  st = check_chat(r->chat, r->n_chat, param, e);
  if (st != WEIR_OK) return st;
  ASK(r->max_tokens <= INT32_MAX, "max_tokens", "%u is too large", r->max_tokens);
  ASK(r->min_tokens <= INT32_MAX, "min_tokens", "%u is too large", r->min_tokens);
  ASK(r->max_tokens == 0 || r->min_tokens <= r->max_tokens, "min_tokens", "%u, above max_tokens, %u",
      r->min_tokens, r->max_tokens);
  ASK(r->n_stop <= WEIR_CHECK_MAX_STOP, "stop", "%zu of them, at most %d", r->n_stop, WEIR_CHECK_MAX_STOP);
  for (size_t i = 0; i < r->n_stop; i++) {
    ASK(r->stop[i][0] != 0, "stop", "number %zu is empty", i);
    ASK(strlen(r->stop[i]) <= WEIR_CHECK_MAX_STOP_BYTES, "stop", "number %zu is longer than %d bytes", i,
        WEIR_CHECK_MAX_STOP_BYTES);
  }
  ASK(r->n_choices <= WEIR_CHECK_MAX_CHOICES, "choices", "%zu of them, at most %d", r->n_choices,
      WEIR_CHECK_MAX_CHOICES);
  for (size_t i = 0; i < r->n_choices; i++) {
    ASK(r->choices[i][0] != 0, "choices", "number %zu is empty", i);
    ASK(strlen(r->choices[i]) <= WEIR_CHECK_MAX_CHOICE_BYTES, "choices", "number %zu is longer than %d bytes",
        i, WEIR_CHECK_MAX_CHOICE_BYTES);
  }
  ASK(r->n_stop_ids <= WEIR_CHECK_MAX_STOP_IDS, "stop_ids", "%zu of them, at most %d", r->n_stop_ids,
      WEIR_CHECK_MAX_STOP_IDS);
  if (r->sampling) {
    st = check_sampling(r->sampling, param, e);
    if (st != WEIR_OK) return st;
  }
  if (r->cascade) {
    st = check_cascade(r->cascade, param, e);
    if (st != WEIR_OK) return st;
  }
  ASK(r->priority >= -WEIR_CHECK_MAX_PRIORITY && r->priority <= WEIR_CHECK_MAX_PRIORITY, "priority",
      "%d, not -%d to %d", r->priority, WEIR_CHECK_MAX_PRIORITY, WEIR_CHECK_MAX_PRIORITY);
  ASK(r->deadline_ms <= INT32_MAX, "deadline_ms", "%u is too large", r->deadline_ms);
  ASK(r->top_logprobs <= WEIR_CHECK_MAX_TOP, "top_logprobs", "%u, at most %d", r->top_logprobs,
      WEIR_CHECK_MAX_TOP);
  return WEIR_OK;
}

static weir_status check_poll(const Weir__V1__PollRequest *r, const char **param, weir_err *e) {
  const weir_status st = check_session(r->token, r->session, param, e);
  if (st != WEIR_OK) return st;
  ASK(r->n_cursor <= WEIR_CHECK_MAX_CURSORS, "cursor", "%zu of them, at most %d", r->n_cursor,
      WEIR_CHECK_MAX_CURSORS);
  for (size_t i = 0; i < r->n_cursor; i++)
    ASK(is_id(r->cursor[i]->request_id), "cursor.request_id", "%zu bytes, not %d",
        r->cursor[i]->request_id.len, WEIR_FRAME_ID_BYTES);
  return WEIR_OK;
}

static weir_status check_cancel(const Weir__V1__CancelRequest *r, const char **param, weir_err *e) {
  const weir_status st = check_session(r->token, r->session, param, e);
  if (st != WEIR_OK) return st;
  ASK(r->n_request_id <= WEIR_CHECK_MAX_CURSORS, "request_id", "%zu of them, at most %d", r->n_request_id,
      WEIR_CHECK_MAX_CURSORS);
  for (size_t i = 0; i < r->n_request_id; i++)
    ASK(is_id(r->request_id[i]), "request_id", "%zu bytes, not %d", r->request_id[i].len,
        WEIR_FRAME_ID_BYTES);
  return WEIR_OK;
}

static weir_status check_tokenize(const Weir__V1__TokenizeRequest *r, const char **param, weir_err *e) {
  const weir_status st = check_token(r->token, param, e);
  if (st != WEIR_OK) return st;
  ASK(r->text[0] == 0 || r->n_chat == 0, "text", "both text and chat");
  return check_chat(r->chat, r->n_chat, param, e);
}

weir_status weir_check_request(const weir_frame_msg *m, const char **param, weir_err *e) {
  *param = "";
  switch ((int)m->kind) {
    case WEIR_FRAME_SUBMIT: return weir_check_submit(m->as.submit, param, e);
    case WEIR_FRAME_POLL: return check_poll(m->as.poll, param, e);
    case WEIR_FRAME_CANCEL: return check_cancel(m->as.cancel, param, e);
    case WEIR_FRAME_STATS: return check_token(m->as.stats->token, param, e);
    case WEIR_FRAME_MODELS: return check_token(m->as.models->token, param, e);
    case WEIR_FRAME_TOKENIZE: return check_tokenize(m->as.tokenize, param, e);
    case WEIR_FRAME_DETOKENIZE: return check_token(m->as.detokenize->token, param, e);
    case WEIR_FRAME_HEALTH: return WEIR_OK;
    default: return weir_fail(e, WEIR_EINVAL, "%s is no request", weir_frame_kind_name((int)m->kind));
  }
}

/* ---- replies ---- */

static weir_status check_error(const Weir__V1__Error *r, weir_err *e) {
  if (!weir_check_code(r->code))
    return weir_fail(e, WEIR_EFORMAT, "Error of code %u: there is none", r->code);
  return WEIR_OK;
}

static weir_status check_update(const Weir__V1__Update *u, weir_err *e) {
  static const char *const reasons[] = {"stop", "eos", "length", "error", "cancelled", "deadline"};
  if (!is_id(u->request_id))
    return weir_fail(e, WEIR_EFORMAT, "Update of an id of %zu bytes", u->request_id.len);
  if (u->state > 4) return weir_fail(e, WEIR_EFORMAT, "Update with state %u: there is none", u->state);
  if (u->n_token > UINT32_MAX - u->from)
    return weir_fail(e, WEIR_EFORMAT, "Update with %zu tokens from %u", u->n_token, u->from);
  for (size_t i = 0; i < u->n_token; i++)
    if (u->token[i]->n_top > WEIR_CHECK_MAX_TOP)
      return weir_fail(e, WEIR_EFORMAT, "Token with %zu alternatives, at most %d", u->token[i]->n_top,
                       WEIR_CHECK_MAX_TOP);
  if (!u->end) return WEIR_OK;
  if (u->state != 3) return weir_fail(e, WEIR_EFORMAT, "Update with an End and state %u", u->state);
  bool known = false;
  for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) known |= !strcmp(u->end->reason, reasons[i]);
  if (!known) return weir_fail(e, WEIR_EFORMAT, "End with reason \"%.40s\": there is none", u->end->reason);
  if (!u->end->error) {
    if (strcmp(u->end->reason, "error") == 0)
      return weir_fail(e, WEIR_EFORMAT, "End by an error, without it");
    return WEIR_OK;
  }
  return check_error(u->end->error, e);
}

static weir_status check_models(const Weir__V1__ModelsReply *r, weir_err *e) {
  if (r->max_request_bytes != 0 &&
      (r->max_request_bytes < WEIR_FRAME_SURE_REQUEST || r->max_request_bytes > WEIR_FRAME_MAX_REQUEST))
    return weir_fail(e, WEIR_EFORMAT, "Models reply: max_request_bytes %llu, not %d to %d",
                     (unsigned long long)r->max_request_bytes, WEIR_FRAME_SURE_REQUEST,
                     WEIR_FRAME_MAX_REQUEST);
  return WEIR_OK;
}

weir_status weir_check_reply(const weir_frame_msg *m, weir_err *e) {
  switch ((int)m->kind) {
    case WEIR_FRAME_ERROR: return check_error(m->as.error, e);
    case WEIR_FRAME_MODELS | WEIR_FRAME_REPLY: return check_models(m->as.models_reply, e);
    case WEIR_FRAME_POLL | WEIR_FRAME_REPLY:
      if (m->as.poll_reply->n_update > WEIR_CHECK_MAX_CURSORS)
        return weir_fail(e, WEIR_EFORMAT, "Poll reply with %zu updates, at most %d",
                         m->as.poll_reply->n_update, WEIR_CHECK_MAX_CURSORS);
      for (size_t i = 0; i < m->as.poll_reply->n_update; i++) {
        const weir_status st = check_update(m->as.poll_reply->update[i], e);
        if (st != WEIR_OK) return weir_fail_ctx(e, st, "Poll reply");
      }
      return WEIR_OK;
    case WEIR_FRAME_TOKENIZE | WEIR_FRAME_REPLY:
      if (m->as.tokenize_reply->n_id != m->as.tokenize_reply->n_text)
        return weir_fail(e, WEIR_EFORMAT, "Tokenize reply with %zu ids and %zu texts",
                         m->as.tokenize_reply->n_id, m->as.tokenize_reply->n_text);
      return WEIR_OK;
    case WEIR_FRAME_STATS | WEIR_FRAME_REPLY:
      for (size_t i = 0; i < m->as.stats_reply->n_family; i++)
        if (m->as.stats_reply->family[i]->type > 2)
          return weir_fail(e, WEIR_EFORMAT, "Stats reply: %.80s of type %u",
                           m->as.stats_reply->family[i]->name, m->as.stats_reply->family[i]->type);
      return WEIR_OK;
    default:
      if (m->kind & WEIR_FRAME_REPLY) return WEIR_OK;
      return weir_fail(e, WEIR_EFORMAT, "%s is no reply", weir_frame_kind_name((int)m->kind));
  }
}
