/* SPDX-License-Identifier: Apache-2.0 */
/* Reads requests strictly. The head is taken line by line: a line is checked, then written to the new head,
 * or kept back where it is about framing. Owns its buffers; calls nothing but base; any thread. */
#include "net/http_guard.h"

#include <string.h>
#include <strings.h>

enum { START, HEADERS, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_CR, CHUNK_LF, TRAILERS, WHOLE, REFUSED };
enum { MAX_CHUNK_LINE = 256 };

static weir_http_verdict refuse(weir_http_guard *g, int code, const char *message) {
  g->state = REFUSED;
  g->code = code;
  g->message = message;
  return WEIR_HTTP_REFUSED;
}

static weir_http_verdict no_memory(weir_http_guard *g) { return refuse(g, 503, "out of memory"); }

void weir_http_guard_init(weir_http_guard *g, const weir_http_limits *limits) {
  memset(g, 0, sizeof *g);
  g->limits = *limits;
}

void weir_http_guard_fini(weir_http_guard *g) {
  weir_buf_fini(&g->line);
  weir_buf_fini(&g->head);
  weir_buf_fini(&g->body);
}

void weir_http_guard_reset(weir_http_guard *g) {
  const weir_http_limits limits = g->limits;
  const bool tell_head = g->tell_head;
  weir_http_guard_fini(g); /* a large body is not kept for a connection that may stay idle */
  weir_http_guard_init(g, &limits);
  g->tell_head = tell_head;
}

bool weir_http_guard_in_body(const weir_http_guard *g) { return g->state >= BODY && g->state < WHOLE; }

/* RFC 9110, 5.6.2 */
static bool is_token_char(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(const char *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!is_token_char((unsigned char)p[i])) return false;
  return n > 0;
}

static bool same(const char *p, size_t n, const char *word) {
  return n == strlen(word) && strncasecmp(p, word, n) == 0;
}

/* ---- the request line ---- */

static weir_http_verdict read_method(weir_http_guard *g, const char *p, size_t n) {
  static const char *const with_body[] = {"POST", "PUT", "PATCH"};
  static const char *const without[] = {"GET", "HEAD", "OPTIONS", "DELETE"};
  if (!is_token(p, n)) return refuse(g, 400, "malformed request line");
  for (size_t i = 0; i < sizeof with_body / sizeof *with_body; i++)
    if (n == strlen(with_body[i]) && !memcmp(p, with_body[i], n)) {
      g->has_body = true;
      return WEIR_HTTP_MORE;
    }
  for (size_t i = 0; i < sizeof without / sizeof *without; i++)
    if (n == strlen(without[i]) && !memcmp(p, without[i], n)) return WEIR_HTTP_MORE;
  return refuse(g, 405, "method not allowed");
}

/* Of http://authority/path only the path counts here: Host says the rest. */
static bool strip_authority(const char **p, size_t *n) {
  const size_t scheme = *n >= 7 && !strncasecmp(*p, "http://", 7)    ? 7
                        : *n >= 8 && !strncasecmp(*p, "https://", 8) ? 8
                                                                     : 0;
  if (!scheme) return false;
  const char *slash = memchr(*p + scheme, '/', *n - scheme);
  const size_t authority = (slash ? (size_t)(slash - *p) : *n) - scheme;
  if (authority == 0) return false;
  *n -= scheme + authority;
  *p += scheme + authority;
  if (*n == 0) {
    *p = "/";
    *n = 1;
  }
  return true;
}

static weir_http_verdict read_request_line(weir_http_guard *g, const char *p, size_t n) {
  const char *first = memchr(p, ' ', n);
  const char *last = first ? memchr(first + 1, ' ', n - (size_t)(first + 1 - p)) : NULL;
  if (!last || first == p) return refuse(g, 400, "malformed request line");
  const char *version = last + 1, *target = first + 1;
  const size_t n_version = n - (size_t)(version - p), n_method = (size_t)(first - p);
  size_t n_target = (size_t)(last - target);
  for (size_t i = 0; i < n_target; i++)
    if (target[i] <= 0x20 || target[i] >= 0x7f || target[i] == '#')
      return refuse(g, 400, "malformed request target");
  if (n_version != 8 || memcmp(version, "HTTP/", 5) != 0 || version[6] != '.' || version[5] < '0' ||
      version[5] > '9' || version[7] < '0' || version[7] > '9')
    return refuse(g, 400, "malformed HTTP version");
  if (version[5] != '1') return refuse(g, 505, "HTTP/1.0 and HTTP/1.1 are spoken here");
  g->minor = version[7] == '0' ? 0 : 1;
  const weir_http_verdict v = read_method(g, p, n_method);
  if (v != WEIR_HTTP_MORE) return v;
  if (n_target == 1 && *target == '*' && n_method == 7) { /* OPTIONS * */
    target = "/";
  } else if (n_target == 0 || (*target != '/' && !strip_authority(&target, &n_target))) {
    return refuse(g, 400, "malformed request target");
  }
  /* "//x" would be read as an authority by a parser of URIs */
  while (n_target > 1 && target[1] == '/') target++, n_target--;
  if (weir_buf_printf(&g->head, NULL, "%.*s %.*s HTTP/1.%d\r\n", (int)n_method, p, (int)n_target, target,
                      g->minor) != WEIR_OK)
    return no_memory(g);
  g->state = HEADERS;
  return WEIR_HTTP_MORE;
}

/* ---- headers ---- */

static weir_http_verdict read_length(weir_http_guard *g, const char *v, size_t n) {
  if (g->has_length) return refuse(g, 400, "more than one Content-Length");
  if (n == 0 || n > 18) return refuse(g, n ? 413 : 400, n ? "body too large" : "malformed Content-Length");
  uint64_t length = 0;
  for (size_t i = 0; i < n; i++) {
    if (v[i] < '0' || v[i] > '9') return refuse(g, 400, "malformed Content-Length");
    length = length * 10 + (uint64_t)(v[i] - '0');
  }
  g->has_length = true;
  g->left = length;
  return WEIR_HTTP_MORE;
}

static bool lists_close(const char *v, size_t n) {
  for (size_t i = 0; i < n;) {
    size_t end = i;
    while (end < n && v[end] != ',') end++;
    size_t a = i, b = end;
    while (a < b && (v[a] == ' ' || v[a] == '\t')) a++;
    while (b > a && (v[b - 1] == ' ' || v[b - 1] == '\t')) b--;
    if (same(v + a, b - a, "close")) return true;
    i = end + 1;
  }
  return false;
}

static weir_http_verdict read_host(weir_http_guard *g, const char *v, size_t n) {
  if (g->has_host) return refuse(g, 400, "more than one Host");
  for (size_t i = 0; i < n; i++)
    if (v[i] <= 0x20 || v[i] >= 0x7f || strchr("/?#@\\,", v[i])) return refuse(g, 400, "malformed Host");
  g->has_host = true;
  return WEIR_HTTP_MORE;
}

/* Headers about this connection and the frame of the body end here; *keep: the line goes on. */
static weir_http_verdict read_framing(weir_http_guard *g, const char *name, size_t n, const char *v,
                                      size_t n_v, bool *keep) {
  static const char *const dropped[] = {"Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade"};
  *keep = false;
  if (same(name, n, "Content-Length")) return read_length(g, v, n_v);
  if (same(name, n, "Transfer-Encoding")) {
    if (g->chunked) return refuse(g, 400, "more than one Transfer-Encoding");
    if (g->minor == 0) return refuse(g, 400, "Transfer-Encoding in HTTP/1.0");
    if (!same(v, n_v, "chunked")) return refuse(g, 501, "only the transfer coding chunked is known here");
    g->chunked = true;
    return WEIR_HTTP_MORE;
  }
  if (same(name, n, "Expect")) {
    if (!same(v, n_v, "100-continue")) return refuse(g, 417, "only 100-continue can be expected here");
    g->wants_continue = g->minor >= 1;
    return WEIR_HTTP_MORE;
  }
  if (same(name, n, "Connection")) {
    g->close = g->close || lists_close(v, n_v);
    return WEIR_HTTP_MORE;
  }
  for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
    if (same(name, n, dropped[i])) return WEIR_HTTP_MORE;
  *keep = true;
  return same(name, n, "Host") ? read_host(g, v, n_v) : WEIR_HTTP_MORE;
}

/* Splits and checks "name: value"; a line that begins with a blank (obs-fold) has no name. */
static bool split_header(const char *p, size_t n, size_t *n_name, const char **value, size_t *n_value) {
  const char *colon = memchr(p, ':', n);
  if (!colon || !is_token(p, (size_t)(colon - p))) return false;
  const char *v = colon + 1, *end = p + n;
  while (v < end && (*v == ' ' || *v == '\t')) v++;
  while (end > v && (end[-1] == ' ' || end[-1] == '\t')) end--;
  for (const char *c = v; c < end; c++)
    if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f) return false;
  *n_name = (size_t)(colon - p);
  *value = v;
  *n_value = (size_t)(end - v);
  return true;
}

static weir_http_verdict read_header(weir_http_guard *g, const char *p, size_t n) {
  size_t n_name, n_value;
  const char *value;
  bool keep;
  if (++g->n_headers > g->limits.max_headers) return refuse(g, 431, "too many headers");
  if (!split_header(p, n, &n_name, &value, &n_value)) return refuse(g, 400, "malformed header");
  const weir_http_verdict v = read_framing(g, p, n_name, value, n_value, &keep);
  if (v != WEIR_HTTP_MORE || !keep) return v;
  if (weir_buf_put(&g->head, p, n_name, NULL) != WEIR_OK || weir_buf_puts(&g->head, ": ", NULL) != WEIR_OK ||
      weir_buf_put(&g->head, value, n_value, NULL) != WEIR_OK ||
      weir_buf_puts(&g->head, "\r\n", NULL) != WEIR_OK)
    return no_memory(g);
  return WEIR_HTTP_MORE;
}

static weir_http_verdict finish(weir_http_guard *g) {
  if (!g->has_body) weir_buf_truncate(&g->body, 0);
  if (g->has_body && weir_buf_printf(&g->head, NULL, "Content-Length: %zu\r\n", g->body.len) != WEIR_OK)
    return no_memory(g);
  if (weir_buf_puts(&g->head, g->close || g->minor == 0 ? "Connection: close\r\n\r\n" : "\r\n", NULL) !=
      WEIR_OK)
    return no_memory(g);
  g->wants_continue = false;
  g->state = WHOLE;
  return WEIR_HTTP_WHOLE;
}

static weir_http_verdict end_headers(weir_http_guard *g) {
  if (g->minor >= 1 && !g->has_host) return refuse(g, 400, "no Host");
  if (g->chunked && g->has_length) return refuse(g, 400, "Content-Length with Transfer-Encoding");
  if (g->has_length && g->left > g->limits.max_body_bytes) return refuse(g, 413, "body too large");
  if (g->chunked) {
    g->state = CHUNK_SIZE;
  } else {
    if (g->left == 0) return finish(g);
    g->state = BODY;
  }
  return g->tell_head ? WEIR_HTTP_HEAD : WEIR_HTTP_MORE;
}

/* ---- what a head said ---- */

static bool give(const char *p, size_t n, char *out, size_t bytes) {
  if (bytes == 0) return false;
  const size_t take = n < bytes ? n : bytes - 1;
  if (take > 0) memcpy(out, p, take);
  out[take] = 0;
  return true;
}

/* The head is "METHOD target HTTP/1.x" and lines, each checked before it was written. */
bool weir_http_guard_method(const weir_http_guard *g, char *out, size_t bytes) {
  const char *p = g->head.data, *end = g->head.len ? memchr(p, ' ', g->head.len) : NULL;
  return give(p, end ? (size_t)(end - p) : 0, out, bytes) && end;
}

bool weir_http_guard_path(const weir_http_guard *g, char *out, size_t bytes) {
  const char *p = g->head.len ? memchr(g->head.data, ' ', g->head.len) : NULL;
  const size_t left = p ? g->head.len - (size_t)(++p - g->head.data) : 0;
  size_t n = 0;
  while (n < left && p[n] != ' ' && p[n] != '?') n++;
  return give(p, n, out, bytes) && n > 0;
}

bool weir_http_guard_header(const weir_http_guard *g, const char *name, char *out, size_t bytes) {
  const size_t n_name = strlen(name);
  const char *p = g->head.data, *end = p ? p + g->head.len : NULL, *lf;
  give("", 0, out, bytes);
  for (; p && p < end && (lf = memchr(p, '\n', (size_t)(end - p))); p = lf + 1) {
    const size_t n = (size_t)(lf - p) - 1; /* without CR */
    if (n >= n_name + 2 && p[n_name] == ':' && same(p, n_name, name))
      return give(p + n_name + 2, n - n_name - 2, out, bytes);
  }
  return false;
}

/* ---- chunks ---- */

static weir_http_verdict read_chunk_size(weir_http_guard *g, const char *p, size_t n) {
  uint64_t size = 0;
  size_t i = 0;
  for (; i < n; i++) {
    const char c = p[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) break;
    if (i >= 15) return refuse(g, 413, "body too large");
    size = size * 16 + (uint64_t)digit;
  }
  if (i == 0 || (i < n && p[i] != ';')) return refuse(g, 400, "malformed chunk");
  for (; i < n; i++)
    if ((unsigned char)p[i] < 0x20 || p[i] == 0x7f) return refuse(g, 400, "malformed chunk");
  if (size > g->limits.max_body_bytes - g->body.len) return refuse(g, 413, "body too large");
  g->left = size;
  g->head_bytes = 0; /* trailers have a bound of their own */
  g->state = size ? CHUNK_DATA : TRAILERS;
  return WEIR_HTTP_MORE;
}

static weir_http_verdict read_trailer(weir_http_guard *g, const char *p, size_t n) {
  size_t n_name, n_value;
  const char *value;
  if (n == 0) return finish(g);
  if (++g->n_headers > g->limits.max_headers) return refuse(g, 431, "too many headers");
  if (!split_header(p, n, &n_name, &value, &n_value)) return refuse(g, 400, "malformed trailer");
  return WEIR_HTTP_MORE;
}

/* ---- lines and bytes ---- */

static weir_http_verdict read_line(weir_http_guard *g) {
  const char *p = g->line.data;
  const size_t n = g->line.len;
  if (memchr(p, '\r', n) || memchr(p, 0, n)) return refuse(g, 400, "control characters in the head");
  switch (g->state) {
    case START:
      /* one empty line ahead of a request is forgiven (RFC 9112, 2.2) */
      if (n == 0 && g->head_bytes == 2) return WEIR_HTTP_MORE;
      return read_request_line(g, p, n);
    case HEADERS: return n == 0 ? end_headers(g) : read_header(g, p, n);
    case CHUNK_SIZE: return read_chunk_size(g, p, n);
    default: return read_trailer(g, p, n);
  }
}

static weir_http_verdict too_long(weir_http_guard *g) {
  if (g->state == CHUNK_SIZE) return refuse(g, 400, "malformed chunk");
  return g->state == START ? refuse(g, 414, "request line too long") : refuse(g, 431, "headers too large");
}

/* Adds to the line up to its line feed. */
static weir_http_verdict take_line(weir_http_guard *g, const char *p, size_t n, size_t *used) {
  const char *lf = memchr(p, '\n', n);
  const size_t take = lf ? (size_t)(lf - p) + 1 : n;
  const size_t room =
      g->state == CHUNK_SIZE ? MAX_CHUNK_LINE - g->line.len : g->limits.max_head_bytes - g->head_bytes;
  *used = take;
  if (take > room) return too_long(g);
  if (g->state != CHUNK_SIZE) g->head_bytes += take;
  if (weir_buf_put(&g->line, p, take, NULL) != WEIR_OK) return no_memory(g);
  if (!lf) return WEIR_HTTP_MORE;
  if (g->line.len < 2 || g->line.data[g->line.len - 2] != '\r')
    return refuse(g, 400, "a line that does not end in CR LF");
  weir_buf_truncate(&g->line, g->line.len - 2);
  const weir_http_verdict v = read_line(g);
  weir_buf_truncate(&g->line, 0);
  return v;
}

static weir_http_verdict take_body(weir_http_guard *g, const char *p, size_t n, size_t *used) {
  const size_t take = n < g->left ? n : (size_t)g->left;
  *used = take;
  if (weir_buf_put(&g->body, p, take, NULL) != WEIR_OK) return no_memory(g);
  g->left -= take;
  if (g->left > 0) return WEIR_HTTP_MORE;
  if (g->state == BODY) return finish(g);
  g->state = CHUNK_CR;
  return WEIR_HTTP_MORE;
}

weir_http_verdict weir_http_guard_feed(weir_http_guard *g, const char *p, size_t n, size_t *used) {
  *used = 0;
  if (g->state == REFUSED) return WEIR_HTTP_REFUSED;
  if (g->state == WHOLE) return WEIR_HTTP_WHOLE;
  weir_http_verdict v = WEIR_HTTP_MORE;
  while (*used < n && v == WEIR_HTTP_MORE) {
    size_t step = 1;
    const char *at = p + *used;
    g->began = true;
    switch (g->state) {
      case BODY:
      case CHUNK_DATA: v = take_body(g, at, n - *used, &step); break;
      case CHUNK_CR:
        g->state = CHUNK_LF;
        if (*at != '\r') v = refuse(g, 400, "malformed chunk");
        break;
      case CHUNK_LF:
        g->state = CHUNK_SIZE;
        if (*at != '\n') v = refuse(g, 400, "malformed chunk");
        break;
      default: v = take_line(g, at, n - *used, &step); break;
    }
    *used += step;
  }
  return v;
}
