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

weir_openai_error weir_gw_error_of(const weir_client_error *c) {
  weir_openai_error e = {.retry_after_ms = c->retry_after_ms};
  const int known[] = {400, 401, 404, 409, 413, 429, 500, 503, 504};
  e.code = 500;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (c->code == known[i]) e.code = c->code;
  if (c->code == 499) e.code = 503; /* not this client's doing: the engine, or this gateway, ends */
  if (c->code == 401) e.code = 500; /* the gateway's own token: none of the client's business */
  if (e.code == 404) e.why = "model_not_found";
  if (e.code == 429) e.why = "queue_full";
  snprintf(e.param, sizeof e.param, "%s", c->param);
  snprintf(e.message, sizeof e.message, "%s",
           c->code == 401  ? "the gateway may not speak to the engine: its token is not the engine's"
           : c->message[0] ? c->message
                           : "the engine failed without a word");
  return e;
}

weir_gw_note *weir_gw_note_of(weir_http_request *r) {
  weir_gw_note *n = calloc(1, sizeof *n);
  if (n) weir_http_request_set_owner(r, n);
  return n;
}
