/* SPDX-License-Identifier: Apache-2.0 */
/* Fields of requests, each checked as it is taken; messages of a chat; the form of errors. Pure; any thread.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json.h"
#include "net/openai_in.h"
#include "net/openai_write.h"

enum { MAX_VALUES = 1 << 19, MAX_MEMBERS = 1 << 16 }; /* ids of a prompt are values */

int weir_openai_fail(weir_openai_error *e, int code, const char *why, const char *param, const char *fmt,
                     ...) {
  va_list ap;
  memset(e, 0, sizeof *e);
  e->code = code;
  e->why = why;
  snprintf(e->param, sizeof e->param, "%s", param ? param : "");
  va_start(ap, fmt);
  vsnprintf(e->message, sizeof e->message, fmt, ap);
  va_end(ap);
  return -1;
}

static const char *type_of(int code) {
  switch (code) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    case 408:
    case 504: return "timeout_error";
    default: return code >= 400 && code < 500 ? "invalid_request_error" : "server_error";
  }
}

weir_status weir_openai_error_body(const weir_openai_error *error, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(out, "{\"error\":{\"message\":", e));
  WEIR_TRY(weir_json_put_text(out, error->message, strlen(error->message), e));
  WEIR_TRY(weir_buf_printf(out, e, ",\"type\":\"%s\",\"param\":", type_of(error->code)));
  WEIR_TRY(error->param[0] ? weir_json_put_text(out, error->param, strlen(error->param), e)
                           : weir_buf_puts(out, "null", e));
  WEIR_TRY(error->why ? weir_buf_printf(out, e, ",\"code\":\"%s\"}}", error->why)
                      : weir_buf_puts(out, ",\"code\":null}}", e));
out:
  return st;
}

/* A parsed value takes a hundred bytes where its text takes two, and a member of an object a microsecond: how
 * many there are is bounded before any is made. */
static bool too_many_values(const char *p, size_t len) {
  size_t n = 0, members = 0;
  bool in_string = false;
  for (size_t i = 0; i < len; i++) {
    if (in_string && p[i] == '\\')
      i++;
    else if (p[i] == '"')
      in_string = !in_string;
    else if (!in_string) {
      n += p[i] == ',' || p[i] == '[' || p[i] == '{';
      members += p[i] == ':';
    }
  }
  return n > MAX_VALUES || members > MAX_MEMBERS;
}

json_t *weir_openai_load(const char *body, size_t len, weir_openai_error *e) {
  json_t *root = NULL;
  weir_err why = {0};
  memset(e, 0, sizeof *e);
  if (len == 0) {
    weir_openai_fail(e, 400, NULL, NULL, "the body is empty: an object of JSON was expected");
  } else if (too_many_values(body, len)) {
    weir_openai_fail(e, 400, NULL, NULL, "the body holds more than %d values, or than %d members of objects",
                     MAX_VALUES, MAX_MEMBERS);
  } else if (weir_json_parse_object((weir_str){body, len}, &root, &why) != WEIR_OK) {
    weir_openai_fail(e, why.code == WEIR_ENOMEM ? 503 : 400, NULL, NULL, "the body: %s", why.msg);
    return NULL;
  }
  return root;
}

bool weir_openai_failed(const weir_openai_reader *r) { return r->e->code != 0; }

void weir_openai_bad(weir_openai_reader *r, const char *name, const char *what) {
  char full[128];
  if (r->e->code) return;
  snprintf(full, sizeof full, "%s%s", r->prefix, name);
  weir_openai_fail(r->e, 400, NULL, full, "%s %s", full, what);
}

static void no_memory(weir_openai_reader *r) {
  if (!r->e->code) weir_openai_fail(r->e, 503, NULL, NULL, "out of memory");
}

void *weir_openai_alloc(weir_openai_reader *r, size_t n, size_t size) {
  if (weir_openai_failed(r)) return NULL;
  void **grown = realloc(*r->owned, (*r->n_owned + 1) * sizeof **r->owned);
  if (grown) *r->owned = grown;
  void *p = grown ? calloc(n ? n : 1, size ? size : 1) : NULL;
  if (p)
    grown[(*r->n_owned)++] = p;
  else
    no_memory(r);
  return p;
}

json_t *weir_openai_get(weir_openai_reader *r, const char *name) {
  json_t *v = weir_openai_failed(r) ? NULL : json_object_get(r->root, name);
  return json_is_null(v) ? NULL : v;
}

bool weir_openai_bool(weir_openai_reader *r, const char *name, bool *out) {
  const json_t *v = weir_openai_get(r, name);
  if (!v) return false;
  if (!json_is_boolean(v)) {
    weir_openai_bad(r, name, "must be true or false");
    return false;
  }
  *out = json_is_true(v);
  return true;
}

/* 8.0 is an integer too: some clients know no others. */
static bool whole(const json_t *v, int64_t *out) {
  if (json_is_integer(v)) {
    *out = json_integer_value(v);
    return true;
  }
  const double x = json_is_real(v) ? json_real_value(v) : 0.5;
  if (!(x >= -9007199254740992.0 && x <= 9007199254740992.0) || x != floor(x)) return false;
  *out = (int64_t)x;
  return true;
}

bool weir_openai_int(weir_openai_reader *r, const char *name, int64_t min, int64_t max, int64_t *out) {
  const json_t *v = weir_openai_get(r, name);
  int64_t x;
  if (!v) return false;
  if (!whole(v, &x) || x < min || x > max) {
    char what[128];
    snprintf(what, sizeof what, "must be an integer from %lld to %lld", (long long)min, (long long)max);
    weir_openai_bad(r, name, what);
    return false;
  }
  *out = x;
  return true;
}

bool weir_openai_number(weir_openai_reader *r, const char *name, double min, double max, bool open,
                        float *out) {
  const json_t *v = weir_openai_get(r, name);
  if (!v) return false;
  const double x = json_is_number(v) ? json_number_value(v) : NAN;
  if (!(open ? x > min : x >= min) || !(x <= max)) {
    char what[128];
    snprintf(what, sizeof what, "must be a number %s %g%s %g", open ? "above" : "from", min,
             open ? " and up to" : " to", max);
    weir_openai_bad(r, name, what);
    return false;
  }
  *out = (float)x;
  return true;
}

bool weir_openai_string(weir_openai_reader *r, const char *name, size_t max_bytes, const char **out) {
  const json_t *v = weir_openai_get(r, name);
  if (!v) return false;
  if (!json_is_string(v) || json_string_length(v) > max_bytes) {
    char what[96];
    snprintf(what, sizeof what, "must be a string of %zu bytes at most", max_bytes);
    weir_openai_bad(r, name, what);
    return false;
  }
  *out = json_string_value(v);
  return true;
}

bool weir_openai_ids(weir_openai_reader *r, const char *name, json_t *array, uint32_t **out, size_t *n) {
  const size_t count = json_array_size(array);
  uint32_t *id = weir_openai_alloc(r, count, sizeof *id);
  if (!id) return false;
  for (size_t i = 0; i < count; i++) {
    int64_t x;
    if (!whole(json_array_get(array, i), &x) || x < 0 || x > INT32_MAX) {
      weir_openai_bad(r, name, "must hold token ids, integers from 0");
      return false;
    }
    id[i] = (uint32_t)x;
  }
  *out = id;
  *n = count;
  return true;
}

/* ---- messages ---- */

static const char *role_of(weir_openai_reader *r, const json_t *message) {
  static const char *const known[][2] = {
      {"system", "system"}, {"developer", "system"}, {"user", "user"}, {"assistant", "assistant"}};
  const json_t *v = json_object_get(message, "role");
  if (!json_is_string(v)) {
    weir_openai_bad(r, "messages", "must each have a `role`, a string");
    return NULL;
  }
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (!strcmp(json_string_value(v), known[i][0])) return known[i][1];
  weir_openai_bad(r, "messages",
                  "have a role that is none of \"system\", \"developer\", \"user\" and \"assistant\"");
  return NULL;
}

/* Text parts stand on lines of their own, as vLLM sets them. */
static const char *join_parts(weir_openai_reader *r, const json_t *parts) {
  size_t bytes = 1, i;
  json_t *part;
  json_array_foreach(parts, i, part) {
    const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
    if (!json_is_string(type) || strcmp(json_string_value(type), "text") != 0) {
      char what[160];
      snprintf(what, sizeof what, "have a part of the type \"%.40s\": only \"text\" is read here",
               json_is_string(type) ? json_string_value(type) : "?");
      weir_openai_bad(r, "messages", what);
      return NULL;
    }
    if (!json_is_string(text)) {
      weir_openai_bad(r, "messages", "have a part whose `text` is no string");
      return NULL;
    }
    bytes += json_string_length(text) + 1;
  }
  char *all = weir_openai_alloc(r, bytes, 1), *at = all;
  if (!all) return NULL;
  json_array_foreach(parts, i, part) {
    const json_t *text = json_object_get(part, "text");
    if (i > 0) *at++ = '\n';
    memcpy(at, json_string_value(text), json_string_length(text));
    at += json_string_length(text);
  }
  *at = 0;
  return all;
}

static const char *text_of(weir_openai_reader *r, const json_t *message, bool assistant) {
  const json_t *v = json_object_get(message, "content");
  if (json_is_string(v)) return json_string_value(v);
  if (json_is_array(v) && json_array_size(v) > 0) return join_parts(r, v);
  if ((!v || json_is_null(v)) && assistant) return "";
  weir_openai_bad(r, "messages", "must each have a `content`, a string or parts of text");
  return NULL;
}

static bool is_empty(const json_t *v) {
  return !v || json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0);
}

bool weir_openai_messages(weir_openai_reader *r, weir_client_message **out, size_t *n) {
  json_t *list = weir_openai_get(r, "messages");
  if (weir_openai_failed(r)) return false;
  const size_t count = json_is_array(list) ? json_array_size(list) : 0;
  if (count == 0 || count > WEIR_OPENAI_MAX_MESSAGES) {
    weir_openai_bad(r, "messages", count ? "are too many" : "must be an array of messages, at least one");
    return false;
  }
  weir_client_message *m = weir_openai_alloc(r, count, sizeof *m);
  for (size_t i = 0; m && i < count; i++) {
    const json_t *message = json_array_get(list, i);
    m[i].role = role_of(r, message);
    if (!m[i].role) return false;
    if (!is_empty(json_object_get(message, "tool_calls")) ||
        !is_empty(json_object_get(message, "function_call"))) {
      weir_openai_bad(r, "messages", "have tool calls, which are not read here");
      return false;
    }
    m[i].text = text_of(r, message, !strcmp(m[i].role, "assistant"));
    if (!m[i].text) return false;
  }
  if (!m) return false;
  *out = m;
  *n = count;
  return true;
}
