/* SPDX-License-Identifier: Apache-2.0 */
/* The parser of HTTP answers. A server under load test may be broken: everything is bounded and checked. Pure
 * but for its memory; the load's thread. */
#include "load/http_parse.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { STATUS_LINE, HEADERS, BODY_LENGTH, BODY_EOF, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS, DONE };

static void begin(weir_http_parser *p) {
  p->state = STATUS_LINE;
  p->head = (weir_http_head){.retry_after_s = NAN, .content_length = -1};
  p->head_bytes = 0;
  p->left = 0;
  weir_buf_truncate(&p->line, 0);
}

void weir_http_parser_init(weir_http_parser *p) {
  *p = (weir_http_parser){0};
  begin(p);
}

void weir_http_parser_fini(weir_http_parser *p) {
  weir_buf_fini(&p->line);
  *p = (weir_http_parser){0};
}

bool weir_http_done(const weir_http_parser *p) { return p->state == DONE; }

static weir_status read_status(weir_http_parser *p, weir_err *e) {
  const char *s = p->line.data ? p->line.data : "";
  if (strncmp(s, "HTTP/1.", 7) != 0 || !isdigit((unsigned char)s[7]) || s[8] != ' ' ||
      !isdigit((unsigned char)s[9]) || !isdigit((unsigned char)s[10]) || !isdigit((unsigned char)s[11]) ||
      (s[12] != ' ' && s[12] != '\0'))
    return weir_fail(e, WEIR_EFORMAT, "not an answer of HTTP/1.1: \"%.40s\"", s);
  p->head.status = atoi(s + 9);
  p->head.close = s[7] == '0';
  p->state = HEADERS;
  return WEIR_OK;
}

static bool has_word(const char *value, const char *word) {
  const size_t n = strlen(word);
  for (const char *s = value; *s; s += strcspn(s, ","), s += *s == ',') {
    while (*s == ' ' || *s == '\t') s++;
    if (!strncasecmp(s, word, n) && strchr(" \t,;", s[n])) return true;
  }
  return false;
}

static weir_status read_header(weir_http_parser *p, weir_err *e) {
  char *name = p->line.data, *colon = strchr(name, ':');
  if (!colon || colon == name) return weir_fail(e, WEIR_EFORMAT, "a header without a colon: \"%.40s\"", name);
  *colon = '\0';
  char *v = colon + 1 + strspn(colon + 1, " \t");
  for (size_t n = strlen(v); n > 0 && (v[n - 1] == ' ' || v[n - 1] == '\t'); n--) v[n - 1] = '\0';
  if (!strcasecmp(name, "content-length")) {
    char *end;
    const long long n = strtoll(v, &end, 10);
    if (!isdigit((unsigned char)*v) || *end || n < 0 ||
        (p->head.content_length >= 0 && p->head.content_length != n))
      return weir_fail(e, WEIR_EFORMAT, "Content-Length: \"%.40s\"", v);
    p->head.content_length = n;
  } else if (!strcasecmp(name, "transfer-encoding")) {
    p->head.chunked = has_word(v, "chunked");
  } else if (!strcasecmp(name, "connection")) {
    if (has_word(v, "close")) p->head.close = true;
    if (has_word(v, "keep-alive")) p->head.close = false;
  } else if (!strcasecmp(name, "content-type")) {
    snprintf(p->head.type, sizeof p->head.type, "%.*s", (int)strcspn(v, "; \t"), v);
    for (char *s = p->head.type; *s; s++) *s = (char)tolower((unsigned char)*s);
  } else if (!strcasecmp(name, "retry-after")) {
    char *end;
    const double x = strtod(v, &end);
    if (isdigit((unsigned char)*v) && !*end && x <= 86400) p->head.retry_after_s = x;
  }
  return WEIR_OK;
}

static weir_status end_head(weir_http_parser *p, const weir_http_sink *sink, weir_err *e) {
  if (p->head.status >= 100 &&
      p->head.status < 200) { /* 100 Continue and the like: the answer comes after it */
    begin(p);
    return WEIR_OK;
  }
  if (p->head.chunked) {
    p->state = CHUNK_SIZE;
  } else if (p->head.status == 204 || p->head.status == 304 || p->head.content_length == 0) {
    p->state = DONE;
  } else if (p->head.content_length > 0) {
    p->state = BODY_LENGTH;
    p->left = p->head.content_length;
  } else {
    p->state = BODY_EOF;
    p->head.close = true;
  }
  return sink->on_head ? sink->on_head(sink->ctx, &p->head, e) : WEIR_OK;
}

static weir_status read_chunk_size(weir_http_parser *p, weir_err *e) {
  const char *s = p->line.data ? p->line.data : "";
  char *end;
  if (!isxdigit((unsigned char)*s)) return weir_fail(e, WEIR_EFORMAT, "not a chunk's size: \"%.40s\"", s);
  const unsigned long long n = strtoull(s, &end, 16);
  if ((*end && !strchr("; \t", *end)) || end - s > 15)
    return weir_fail(e, WEIR_EFORMAT, "not a chunk's size: \"%.40s\"", s);
  p->left = (int64_t)n;
  p->state = n > 0 ? CHUNK_DATA : TRAILERS;
  return WEIR_OK;
}

static weir_status end_line(weir_http_parser *p, const weir_http_sink *sink, weir_err *e) {
  weir_status st = WEIR_OK;
  if (memchr(p->line.data ? p->line.data : "", '\0', p->line.len))
    return weir_fail(e, WEIR_EFORMAT, "a NUL in a header");
  switch (p->state) {
    case STATUS_LINE: st = read_status(p, e); break;
    case HEADERS: st = p->line.len == 0 ? end_head(p, sink, e) : read_header(p, e); break;
    case CHUNK_SIZE: st = read_chunk_size(p, e); break;
    case CHUNK_END:
      if (p->line.len > 0) st = weir_fail(e, WEIR_EFORMAT, "a chunk is longer than it said");
      p->state = CHUNK_SIZE;
      break;
    case TRAILERS:
      if (p->line.len == 0) p->state = DONE;
      break;
    default: break;
  }
  weir_buf_truncate(&p->line, 0);
  return st;
}

weir_status weir_http_feed(weir_http_parser *p, const char *bytes, size_t n, size_t *used,
                           const weir_http_sink *sink, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *at = bytes, *const end = bytes + n;
  while (at < end && p->state != DONE) {
    const size_t left = (size_t)(end - at);
    if (p->state == BODY_EOF || p->state == BODY_LENGTH || p->state == CHUNK_DATA) {
      const size_t take = p->state == BODY_EOF || (uint64_t)p->left > left ? left : (size_t)p->left;
      at += take;
      if (p->state != BODY_EOF && (p->left -= (int64_t)take) == 0)
        p->state = p->state == CHUNK_DATA ? CHUNK_END : DONE;
      WEIR_TRY(sink->on_body(sink->ctx, at - take, take, e));
      continue;
    }
    const char *nl = memchr(at, '\n', left);
    const size_t take = nl ? (size_t)(nl - at) : left;
    p->head_bytes += take + 1;
    if (p->line.len + take > WEIR_HTTP_MAX_LINE_BYTES ||
        ((p->state == HEADERS || p->state == TRAILERS) && p->head_bytes > WEIR_HTTP_MAX_HEAD_BYTES)) {
      st = weir_fail(e, WEIR_EFORMAT, "the answer's headers are too long");
      goto out;
    }
    WEIR_TRY(weir_buf_put(&p->line, at, take, e));
    at += take + (nl != NULL);
    if (!nl) break;
    if (p->line.len > 0 && p->line.data[p->line.len - 1] == '\r')
      weir_buf_truncate(&p->line, p->line.len - 1);
    if (p->state != HEADERS && p->state != TRAILERS) p->head_bytes = 0;
    WEIR_TRY(end_line(p, sink, e));
  }
out:
  *used = (size_t)(at - bytes);
  return st;
}

weir_status weir_http_eof(weir_http_parser *p, weir_err *e) {
  if (p->state == BODY_EOF) p->state = DONE;
  if (p->state == DONE) return WEIR_OK;
  if (p->state == STATUS_LINE && p->line.len == 0)
    return weir_fail(e, WEIR_EIO, "connection closed before an answer");
  return weir_fail(e, WEIR_EIO,
                   p->state <= HEADERS ? "connection closed in the headers" : "connection closed early");
}
