/* SPDX-License-Identifier: Apache-2.0 */
/* The server around evhttp: addresses, the bound on connections, requests and their answers. Thread of the
 * event base. */
#include "net/http_server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "net/http_in.h"

enum { REST_MS = 100 };

const char *weir_http_reason(int code) {
  switch (code) {
    case 200: return "OK";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Internal Server Error";
  }
}

void weir_http_error_body(int code, const char *message, char *out, size_t bytes) {
  const char *type = code == 401                 ? "authentication_error"
                     : code == 408               ? "timeout_error"
                     : code == 503               ? "overloaded_error"
                     : code >= 400 && code < 500 ? "invalid_request_error"
                                                 : "server_error";
  snprintf(out, bytes, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":%s}}", message,
           type, code == 401 ? "\"invalid_api_key\"" : "null");
}

/* ---- requests ---- */

static void tell(weir_http_server *s, const weir_http_record *record) {
  if (s->cfg.on_record) s->cfg.on_record(s->cfg.ctx, record);
}

void weir_http_request_over(weir_http_request *r, bool gone) {
  weir_http_server *s = r->conn->server;
  if (gone && !r->ended && r->on_gone) r->on_gone(r->gone_ctx);
  const weir_http_record record = {
      .method = r->method,
      .path = r->path ? r->path : "",
      .peer = r->conn->peer,
      .code = r->code ? r->code : 499,
      .gone = gone,
      .bytes_in = r->bytes_in,
      .bytes_out = r->bytes_out,
      .ns = weir_now_ns(&s->clock) - r->since_ns,
      .owner = r->owner,
  };
  tell(s, &record);
  if (r->out) evbuffer_free(r->out);
  free(r->path);
  free(r);
}

void weir_http_record_refusal(weir_http_conn *c, int code) {
  char path[256];
  weir_http_guard_path(&c->guard, path, sizeof path);
  const weir_http_record record = {.method = "", .path = path, .peer = c->peer, .code = code};
  tell(c->server, &record);
}

static void on_complete(struct evhttp_request *ev, void *ctx) {
  weir_http_request *r = ctx;
  weir_http_conn *c = r->conn;
  (void)ev;
  weir_http_conn_answered(c);
  weir_http_request_over(r, false);
}

static const char *method_name(enum evhttp_cmd_type type) {
  switch (type) {
    case EVHTTP_REQ_GET: return "GET";
    case EVHTTP_REQ_POST: return "POST";
    case EVHTTP_REQ_HEAD: return "HEAD";
    case EVHTTP_REQ_PUT: return "PUT";
    case EVHTTP_REQ_DELETE: return "DELETE";
    case EVHTTP_REQ_OPTIONS: return "OPTIONS";
    case EVHTTP_REQ_PATCH: return "PATCH";
    default: return "";
  }
}

static void on_request(struct evhttp_request *ev, void *ctx) {
  weir_http_server *s = ctx;
  weir_http_conn *c = weir_http_conn_of(s, evhttp_request_get_connection(ev));
  weir_http_request *r = c ? calloc(1, sizeof *r) : NULL;
  const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(ev);
  const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
  if (r) {
    r->out = evbuffer_new();
    r->path = strdup(path && *path ? path : "/");
  }
  if (!r || !r->out || !r->path) {
    if (r && r->out) evbuffer_free(r->out);
    free(r ? r->path : NULL);
    free(r);
    evhttp_add_header(evhttp_request_get_output_headers(ev), "Connection", "close");
    evhttp_send_reply(ev, 503, weir_http_reason(503), NULL);
    return;
  }
  r->conn = c;
  r->ev = ev;
  r->since_ns = weir_now_ns(&s->clock);
  r->bytes_in = evbuffer_get_length(evhttp_request_get_input_buffer(ev));
  snprintf(r->method, sizeof r->method, "%s", method_name(evhttp_request_get_command(ev)));
  evhttp_request_set_on_complete_cb(ev, on_complete, r);
  weir_http_conn_answering(c, r);
  s->cfg.on_request(s->cfg.ctx, r);
}

const char *weir_http_method(const weir_http_request *r) { return r->method; }
const char *weir_http_path(const weir_http_request *r) { return r->path; }
const char *weir_http_peer(const weir_http_request *r) { return r->conn->peer; }
const char *weir_http_header(const weir_http_request *r, const char *name) {
  return evhttp_find_header(evhttp_request_get_input_headers(r->ev), name);
}

const char *weir_http_body(const weir_http_request *r, size_t *len) {
  struct evbuffer *b = evhttp_request_get_input_buffer(r->ev);
  *len = evbuffer_get_length(b);
  const char *p = *len ? (const char *)evbuffer_pullup(b, -1) : "";
  if (!p) *len = 0;
  return p ? p : "";
}

void weir_http_request_set_gone(weir_http_request *r, void (*fn)(void *ctx), void *ctx) {
  r->on_gone = fn;
  r->gone_ctx = ctx;
}

void weir_http_request_set_owner(weir_http_request *r, void *owner) { r->owner = owner; }

void weir_http_set_header(weir_http_request *r, const char *name, const char *value) {
  evhttp_add_header(evhttp_request_get_output_headers(r->ev), name, value);
}

static void common_headers(weir_http_request *r, const char *type) {
  if (type) weir_http_set_header(r, "Content-Type", type);
  weir_http_set_header(r, "X-Content-Type-Options", "nosniff");
  if (r->conn->server->draining || r->conn->extra) weir_http_set_header(r, "Connection", "close");
}

void weir_http_reply(weir_http_request *r, int code, const char *type, const char *body, size_t len) {
  common_headers(r, type);
  r->code = code;
  r->ended = true;
  if (!strcmp(r->method, "HEAD")) {
    char length[24];
    snprintf(length, sizeof length, "%zu", len);
    weir_http_set_header(r, "Content-Length", length);
  } else if (len > 0 && evbuffer_add(r->out, body, len) == 0) {
    r->bytes_out += len;
  }
  evhttp_send_reply(r->ev, code, weir_http_reason(code), r->out);
}

void weir_http_stream_begin(weir_http_request *r, int code, const char *type) {
  common_headers(r, type);
  r->code = code;
  evhttp_send_reply_start(r->ev, code, weir_http_reason(code));
}

void weir_http_stream_write(weir_http_request *r, const char *bytes, size_t n) {
  weir_http_conn *c = r->conn;
  if (c->state == WEIR_CONN_CUT || n == 0) return;
  if (evbuffer_get_length(bufferevent_get_output(c->bev)) + n > c->server->cfg.max_unsent ||
      evbuffer_add(r->out, bytes, n) != 0) {
    weir_http_conn_cut_later(c);
    return;
  }
  r->bytes_out += n;
  evhttp_send_reply_chunk(r->ev, r->out);
}

void weir_http_stream_end(weir_http_request *r) {
  if (r->conn->state == WEIR_CONN_CUT) {
    r->on_gone = NULL; /* its owner is done with it; the connection goes by itself */
    return;
  }
  r->ended = true;
  evhttp_send_reply_end(r->ev);
}

/* ---- addresses ---- */

static weir_status resolve(const char *address, struct addrinfo **out, weir_err *e) {
  char host[256];
  const char *colon = strrchr(address, ':');
  if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1) || strlen(colon + 1) > 5 ||
      atol(colon + 1) > 65535)
    return weir_fail(e, WEIR_EINVAL, "%s is not HOST:PORT", address);
  size_t n = (size_t)(colon - address);
  const char *begin = address;
  if (n >= 2 && begin[0] == '[' && begin[n - 1] == ']') {
    begin++;
    n -= 2;
  } else if (memchr(begin, ':', n)) {
    return weir_fail(e, WEIR_EINVAL, "%s: an IPv6 address stands in brackets, [::1]:8000", address);
  }
  if (n >= sizeof host) return weir_fail(e, WEIR_EINVAL, "%.60s...: the name is too long", address);
  memcpy(host, begin, n);
  host[n] = 0;
  const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  const char *node = n == 0 || !strcmp(host, "*") ? NULL : host;
  const int rc = getaddrinfo(node, colon + 1, &hints, out);
  if (rc != 0) return weir_fail(e, WEIR_EINVAL, "%s: %s", address, gai_strerror(rc));
  return WEIR_OK;
}

weir_status weir_http_is_loopback(const char *address, bool *out, weir_err *e) {
  struct addrinfo *list = NULL;
  const weir_status st = resolve(address, &list, e);
  *out = st == WEIR_OK;
  for (const struct addrinfo *a = list; a; a = a->ai_next) {
    if (a->ai_family == AF_INET)
      *out = *out && ntohl(((struct sockaddr_in *)a->ai_addr)->sin_addr.s_addr) >> 24 == 127;
    else
      *out = *out && a->ai_family == AF_INET6 &&
             IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr);
  }
  if (list) freeaddrinfo(list);
  return st;
}

static void on_resume(evutil_socket_t fd, short what, void *ctx) {
  weir_http_server *s = ctx;
  (void)fd;
  (void)what;
  s->paused = false;
  weir_http_server_count(s);
}

/* Out of descriptors, most likely: the listener would be readable for ever. */
static void on_accept_error(struct evconnlistener *l, void *ctx) {
  weir_http_server *s = ctx;
  const struct timeval rest = {0, REST_MS * 1000};
  (void)l;
  s->paused = true;
  event_add(s->resume, &rest);
  weir_http_server_count(s);
}

/* Connections come, or have gone: whether more are taken. */
void weir_http_server_count(weir_http_server *s) {
  const bool take = !s->draining && !s->paused && s->n_connections < s->cfg.max_connections + WEIR_HTTP_EXTRA;
  for (int32_t i = 0; i < s->n_listeners; i++) {
    if (take)
      evconnlistener_enable(s->listener[i]);
    else
      evconnlistener_disable(s->listener[i]);
  }
}

static weir_status listen_on(weir_http_server *s, const char *address, const struct addrinfo *a,
                             weir_err *e) {
  struct sockaddr_storage bound;
  socklen_t len = sizeof bound;
  if (s->n_listeners == (int32_t)(sizeof s->listener / sizeof *s->listener))
    return weir_fail(e, WEIR_EINVAL, "%s: too many addresses", address);
  struct evconnlistener *l =
      evconnlistener_new_bind(s->base, NULL, NULL,
                              LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC |
                                  (a->ai_family == AF_INET6 ? LEV_OPT_BIND_IPV6ONLY : 0),
                              256, a->ai_addr, (int)a->ai_addrlen);
  if (!l) return weir_fail(e, WEIR_EIO, "listen on %s: %m", address);
  struct evhttp_bound_socket *handle = evhttp_bind_listener(s->http, l);
  if (!handle) {
    evconnlistener_free(l);
    return weir_fail(e, WEIR_ENOMEM, "listen on %s: no memory", address);
  }
  evconnlistener_set_error_cb(l, on_accept_error);
  s->bound[s->n_listeners] = handle;
  s->listener[s->n_listeners++] = l;
  if (!s->port && getsockname((int)evconnlistener_get_fd(l), (struct sockaddr *)&bound, &len) == 0)
    s->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                : ((struct sockaddr_in *)&bound)->sin_port);
  return WEIR_OK;
}

weir_status weir_http_server_listen_list(weir_http_server *s, const char *address,
                                         const struct addrinfo *list, weir_err *e) {
  const bool any_port = !strcmp(strrchr(address, ':'), ":0");
  weir_status st = WEIR_OK;
  int32_t bound = 0;
  for (const struct addrinfo *a = list; a; a = a->ai_next) {
    weir_err why;
    errno = 0;
    const weir_status got = listen_on(s, address, a, &why);
    if (got == WEIR_OK) {
      bound++;
      if (any_port) break; /* one port, not one for each address */
      continue;
    }
    /* a name may stand for addresses that this machine does not have, such as ::1 where IPv6 is off */
    const bool absent = errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT;
    if (st == WEIR_OK || !absent) *e = why;
    st = got;
    if (!absent) return st;
  }
  return bound > 0 ? WEIR_OK : st;
}

weir_status weir_http_server_listen(weir_http_server *s, const char *address, weir_err *e) {
  struct addrinfo *list = NULL;
  weir_status st = resolve(address, &list, e);
  if (st == WEIR_OK) st = weir_http_server_listen_list(s, address, list, e);
  if (list) freeaddrinfo(list);
  return st;
}

uint16_t weir_http_server_port(const weir_http_server *s) { return s->port; }
int32_t weir_http_server_connections(const weir_http_server *s) { return s->n_connections; }

int32_t weir_http_server_busy(const weir_http_server *s) {
  int32_t n = 0;
  for (const weir_http_conn *c = s->first; c; c = c->next)
    n += c->state == WEIR_CONN_ANSWERING ||
         (c->state == WEIR_CONN_READING && (c->guard.began || evbuffer_get_length(c->raw) > 0));
  return n;
}

/* ---- life ---- */

weir_status weir_http_server_create(struct event_base *base, const weir_http_server_cfg *cfg,
                                    weir_http_server **out, weir_err *e) {
  weir_http_server *s = NULL;
  weir_status st = WEIR_OK;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &s, e));
  s->cfg = *cfg;
  s->base = base;
  s->clock = weir_clock_system();
  s->http = evhttp_new(base);
  s->resume = evtimer_new(base, on_resume, s);
  if (!s->http || !s->resume) {
    st = weir_fail(e, WEIR_ENOMEM, "no memory for the HTTP server");
    goto out;
  }
  evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT |
                                          EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
  evhttp_set_default_content_type(s->http, NULL);
  evhttp_set_bevcb(s->http, weir_http_conn_new, s);
  evhttp_set_gencb(s->http, on_request, s);
  *out = s;
  s = NULL;
out:
  weir_http_server_destroy(s);
  return st;
}

void weir_http_server_drain(weir_http_server *s) {
  s->draining = true;
  /* who comes now is refused by the system, and does not wait for a process that ends */
  while (s->n_listeners > 0) evhttp_del_accept_socket(s->http, s->bound[--s->n_listeners]);
  for (weir_http_conn *c = s->first; c; c = c->next) weir_http_conn_drain(c);
}

void weir_http_server_destroy(weir_http_server *s) {
  if (!s) return;
  s->draining = true;
  while (s->first) {
    weir_http_conn *c = s->first;
    if (!c->ev) { /* accepted in this very turn of the loop */
      event_active(c->later, EV_TIMEOUT, 0);
      event_base_loop(s->base, EVLOOP_NONBLOCK);
      continue;
    }
    weir_http_conn_cut(c);
  }
  s->n_listeners = 0; /* evhttp frees them */
  if (s->http) evhttp_free(s->http);
  if (s->resume) event_free(s->resume);
  free(s);
}
