/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of one piece, and errors. Thread of the event base. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/gateway_in.h"

void weir_gw_reply_json(weir_http_request *r, int code, const weir_buf *b) {
  weir_http_reply(r, code, "application/json", b->data, b->len);
}

void weir_gw_reply_error(weir_http_request *r, const weir_openai_error *error) {
  weir_buf b = {0};
  if (error->code == 429 || error->code == 503) {
    char after[16];
    const uint32_t s = (uint32_t)(((uint64_t)error->retry_after_ms + 999) / 1000);
    snprintf(after, sizeof after, "%u", s ? s : 1);
    weir_http_set_header(r, "Retry-After", after);
  }
  if (error->code == 401) weir_http_set_header(r, "WWW-Authenticate", "Bearer");
  if (weir_openai_error_body(error, &b, NULL) == WEIR_OK) {
    weir_gw_reply_json(r, error->code, &b);
  } else {
    static const char plain[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\","
        "\"param\":null,\"code\":null}}";
    weir_http_reply(r, error->code, "application/json", plain, sizeof plain - 1);
  }
  weir_buf_fini(&b);
}

void weir_gw_reply_fail(weir_http_request *r, int code, const char *why, const char *fmt, ...) {
  weir_openai_error error = {.code = code, .why = why};
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(error.message, sizeof error.message, fmt, ap);
  va_end(ap);
  weir_gw_reply_error(r, &error);
}

/* The engine's name of a field as the one in the client's request. */
static void put_name(char *out, size_t bytes, const char *param, const weir_openai_request *q) {
  static const char *const names[][2] = {
      {"prompt_ids", "prompt"},     {"text", "prompt"},        {"stop_ids", "stop_token_ids"},
      {"chat", "messages"},         {"chat.text", "messages"}, {"chat.role", "messages"},
      {"cascade", "weir"},          {"id", "tokens"},          {"bare", "add_special_tokens"},
      {"choices", "guided_choice"}, {"span", "spans"}};
  const char *prefix = "";
  if (!strncmp(param, "sampling.", 9)) param += 9;
  if (!strncmp(param, "cascade.", 8)) {
    param += 8;
    prefix = "weir.";
  }
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strcmp(names[i][0], param)) param = names[i][1];
  if (q && q->kind == WEIR_OPENAI_CHAT && !strcmp(param, "prompt")) param = "messages";
  if (q && q->kind == WEIR_OPENAI_COMPLETION && !strcmp(param, "top_logprobs")) param = "logprobs";
  snprintf(out, bytes, "%s%.56s", prefix, param);
}

weir_openai_error weir_gw_error_of(const weir_client_error *c, const weir_openai_request *q) {
  weir_openai_error e = {.retry_after_ms = c->retry_after_ms};
  const int known[] = {400, 401, 404, 409, 413, 429, 500, 503, 504};
  e.code = 500;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (c->code == known[i]) e.code = c->code;
  if (c->code == 499) e.code = 503; /* not this client's doing: the engine, or this gateway, ends */
  if (c->code == 401) e.code = 500; /* the gateway's own token: none of the client's business */
  if (e.code == 404) e.why = "model_not_found";
  if (e.code == 429) e.why = "queue_full";
  put_name(e.param, sizeof e.param, c->param, q);
  const size_t n = strlen(c->param);
  const char *text = c->code == 401 ? "the gateway may not speak to the engine: its token is not the engine's"
                     : c->message[0] ? c->message
                                     : "the engine failed without a word";
  if (n > 0 && !strncmp(text, c->param, n) && text[n] == ':') /* the message begins with the name too */
    snprintf(e.message, sizeof e.message, "%s%s", e.param, text + n);
  else
    snprintf(e.message, sizeof e.message, "%s", text);
  return e;
}

weir_gw_note *weir_gw_note_of(weir_http_request *r) {
  weir_gw_note *n = calloc(1, sizeof *n);
  if (n) weir_http_request_set_owner(r, n);
  return n;
}
