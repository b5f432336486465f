/* SPDX-License-Identifier: Apache-2.0 */
/* One connection. evhttp works on its bufferevent; ahead of it stands a callback on the input buffer, which
 * is made while the socket is read and before evhttp is told: it takes all bytes away, gives them to the
 * guard, and puts back whole requests, newly written, one at a time. A request that the guard refuses never
 * gets there: the connection is taken out of evhttp's hands, told why, read empty for a moment (so that the
 * answer is not lost in a reset) and closed. Thread of the event base.
 *
 * What evhttp 2.1 does that must be known here:
 * - with a reply pending it stops reading (so no hang-up is seen) and, when reading is turned on again, ends
 *   the process when bytes come and its read callback is still set: it is unset (weir_http_conn_answering);
 * - its write callback remembers the last request's end, so nothing may be written behind its back while its
 *   callbacks are set;
 * - a filtering bufferevent loses the end of answers: its output counts as sent when it was only passed on.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "net/http_in.h"

enum { LINGER_MS = 2000, LINGER_BYTES = 4 << 20, RAW_SLACK = 64 << 10 };
enum { EXTRA_MS = 2000, DRAIN_READ_MS = 1000, SILENT_MS = 1000 };

static void run_timer(weir_http_conn *c, int32_t ms) {
  const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
  event_add(c->timer, &tv);
}

static void wake(weir_http_conn *c) { event_active(c->later, EV_TIMEOUT, 0); }

/* ---- the end of a connection ---- */

static void conn_free(weir_http_conn *c) {
  weir_http_server *s = c->server;
  if (c->prev)
    c->prev->next = c->next;
  else
    s->first = c->next;
  if (c->next) c->next->prev = c->prev;
  s->n_connections--;
  s->n_extra -= c->extra;
  if (c->watch) evbuffer_remove_cb_entry(bufferevent_get_input(c->bev), c->watch);
  if (c->raw) evbuffer_free(c->raw);
  if (c->timer) event_free(c->timer);
  if (c->later) event_free(c->later);
  weir_http_guard_fini(&c->guard);
  bufferevent_decref(c->bev);
  free(c);
  weir_http_server_count(s);
}

/* evhttp is about to free the connection. A request whose answer was not ended was taken off it before, and
 * is ours to free. */
static void on_close(struct evhttp_connection *ev, void *ctx) {
  weir_http_conn *c = ctx;
  (void)ev;
  c->ev = NULL;
  if (c->request) {
    weir_http_request *r = c->request;
    if (!r->ended) evhttp_request_free(r->ev);
    r->ev = NULL;
    c->request = NULL;
    weir_http_request_over(r, true);
  }
  conn_free(c);
}

void weir_http_conn_cut(weir_http_conn *c) {
  bufferevent_data_cb read, write;
  bufferevent_event_cb event;
  void *ctx;
  c->state = WEIR_CONN_CUT;
  if (c->saved_event) bufferevent_setcb(c->bev, c->saved_read, c->saved_write, c->saved_event, c->saved_ctx);
  bufferevent_getcb(c->bev, &read, &write, &event, &ctx);
  if (event) event(c->bev, BEV_EVENT_READING | BEV_EVENT_EOF, ctx);
}

void weir_http_conn_cut_later(weir_http_conn *c) {
  c->state = WEIR_CONN_CUT;
  wake(c);
}

/* ---- refusals ---- */

static void on_lingering_read(struct bufferevent *bev, void *ctx) {
  (void)bev;
  (void)ctx; /* the watch has taken the bytes */
}

static void on_refusal_sent(struct bufferevent *bev, void *ctx) {
  (void)ctx;
  if (evbuffer_get_length(bufferevent_get_output(bev)) == 0) shutdown(bufferevent_getfd(bev), SHUT_WR);
}

static void on_lingering_event(struct bufferevent *bev, short what, void *ctx) {
  (void)bev;
  (void)what;
  weir_http_conn_cut_later(ctx);
}

static void refuse(weir_http_conn *c) {
  char body[512], head[512];
  weir_http_error_body(c->code, c->message, body, sizeof body);
  const int n = snprintf(head, sizeof head,
                         "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                         "%s%sConnection: close\r\n\r\n",
                         c->code, weir_http_reason(c->code), strlen(body),
                         c->headers       ? c->headers
                         : c->code == 405 ? "Allow: GET, HEAD, POST, OPTIONS\r\n"
                                          : "",
                         c->code == 503 ? "Retry-After: 1\r\n" : "");
  bufferevent_getcb(c->bev, &c->saved_read, &c->saved_write, &c->saved_event, &c->saved_ctx);
  if (!c->saved_event) return;
  c->state = WEIR_CONN_REFUSING;
  bufferevent_setcb(c->bev, on_lingering_read, on_refusal_sent, on_lingering_event, c);
  bufferevent_write(c->bev, head, (size_t)n);
  bufferevent_write(c->bev, body, strlen(body));
  bufferevent_enable(c->bev, EV_READ | EV_WRITE);
  run_timer(c, LINGER_MS);
  weir_http_record_refusal(c, c->code);
}

static void refuse_later(weir_http_conn *c, int code, const char *message) {
  c->code = code;
  c->message = message;
  wake(c);
}

/* ---- the bound on connections ---- */

/* It waits for a request, and none has begun to come. */
static bool is_silent(const weir_http_conn *c) {
  return c->ev && c->state == WEIR_CONN_READING && !c->code && !c->guard.began &&
         evbuffer_get_length(c->raw) == 0;
}

/* A place among max_connections for one beyond them: that of who has been silent for longest. Nobody who has
 * just come, unless it gets tight: his request may be on its way. */
static bool take_place(weir_http_conn *c) {
  weir_http_server *s = c->server;
  const int64_t now = weir_now_ns(&s->clock),
                least = s->n_extra > WEIR_HTTP_EXTRA / 2 ? 0 : (int64_t)SILENT_MS * 1000000;
  weir_http_conn *longest = NULL;
  if (s->n_connections - s->n_extra >= s->cfg.max_connections) {
    for (weir_http_conn *x = s->first; x; x = x->next)
      if (x != c && !x->extra && is_silent(x) && now - x->idle_ns >= least &&
          (!longest || x->idle_ns < longest->idle_ns))
        longest = x;
    if (!longest) return false;
    longest->extra = true;
    s->n_extra++;
    weir_http_conn_cut_later(longest);
  }
  c->extra = false;
  s->n_extra--;
  return true;
}

/* One more beyond the bound must always be able to come, so when half of their room is taken the oldest of
 * those that have not been answered goes. */
static void drop_oldest_extra(weir_http_server *s) {
  weir_http_conn *oldest = NULL;
  int32_t n = 0;
  for (weir_http_conn *x = s->first; x; x = x->next) { /* the list begins with the newest */
    if (!x->extra || x->state == WEIR_CONN_CUT) continue;
    n++;
    if (x->ev && (x->state == WEIR_CONN_READING || x->state == WEIR_CONN_REFUSING)) oldest = x;
  }
  if (oldest && n > WEIR_HTTP_EXTRA / 2) weir_http_conn_cut_later(oldest);
}

/* ---- reading ---- */

static void give_to_evhttp(weir_http_conn *c) {
  struct evbuffer *input = bufferevent_get_input(c->bev), *whole = evbuffer_new();
  if (!whole || evbuffer_add(whole, c->guard.head.data, c->guard.head.len) != 0 ||
      (c->guard.body.len && evbuffer_add(whole, c->guard.body.data, c->guard.body.len) != 0)) {
    refuse_later(c, 503, "out of memory");
  } else {
    c->state = WEIR_CONN_ANSWERING;
    event_del(c->timer);
    c->giving = true; /* the watch is called for these bytes too */
    if (evbuffer_prepend_buffer(input, whole) != 0) weir_http_conn_cut_later(c);
    c->giving = false;
  }
  if (whole) evbuffer_free(whole);
  weir_http_guard_reset(&c->guard);
}

/* Past evhttp: see the top of this file. When the socket does not take it, the client sends unasked. */
static void say_continue(weir_http_conn *c) {
  static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
  c->guard.wants_continue = false;
  (void)!send(bufferevent_getfd(c->bev), text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void time_request(weir_http_conn *c) {
  if (!c->guard.began) return;
  if (!c->timing && !c->extra && !c->server->draining) run_timer(c, c->server->cfg.head_ms);
  c->timing = true;
  if (c->server->draining) return; /* what has begun has its second */
  if (weir_http_guard_in_body(&c->guard) && !c->in_body) {
    c->in_body = true;
    run_timer(c, c->server->cfg.body_ms);
  }
}

/* The owner looks at a head before its body is read. False: the request is refused. */
static bool look_at_head(weir_http_conn *c) {
  const weir_http_server_cfg *cfg = &c->server->cfg;
  char method[16], path[256];
  if (c->head_seen) return true;
  c->head_seen = true;
  const bool full = c->extra && !take_place(c);
  weir_http_guard_method(&c->guard, method, sizeof method);
  weir_http_guard_path(&c->guard, path, sizeof path);
  const weir_http_head head = {method, path, weir_http_guard_in_body(&c->guard), full, &c->guard};
  const weir_http_refusal r = cfg->on_head ? cfg->on_head(cfg->ctx, &head)
                              : full       ? (weir_http_refusal){503, "too many connections", NULL}
                                           : (weir_http_refusal){0, NULL, NULL};
  if (!r.code) return true;
  c->headers = r.headers;
  refuse_later(c, r.code, r.message);
  return false;
}

/* True when a request was put before evhttp. */
static bool pump(weir_http_conn *c) {
  while (c->state == WEIR_CONN_READING && !c->code && evbuffer_get_length(c->raw) > 0) {
    const size_t n = evbuffer_get_contiguous_space(c->raw);
    size_t used = 0;
    const char *p = (const char *)evbuffer_pullup(c->raw, (ev_ssize_t)n);
    const weir_http_verdict v = weir_http_guard_feed(&c->guard, p, n, &used);
    evbuffer_drain(c->raw, used);
    time_request(c);
    if (v == WEIR_HTTP_REFUSED) {
      refuse_later(c, c->guard.code, c->guard.message);
    } else if (v != WEIR_HTTP_MORE && !look_at_head(c)) {
      return false;
    } else if (v == WEIR_HTTP_WHOLE) {
      c->timing = c->in_body = c->head_seen = false;
      give_to_evhttp(c);
      return c->state == WEIR_CONN_ANSWERING;
    }
  }
  if (c->state == WEIR_CONN_READING && !c->code && c->guard.wants_continue &&
      weir_http_guard_in_body(&c->guard))
    say_continue(c);
  return false;
}

static void on_input(struct evbuffer *input, const struct evbuffer_cb_info *info, void *ctx) {
  weir_http_conn *c = ctx;
  if (info->n_added == 0 || c->giving) return;
  if (c->state == WEIR_CONN_REFUSING || c->state == WEIR_CONN_CUT) {
    c->dropped += info->n_added;
    evbuffer_drain(input, evbuffer_get_length(input));
    if (c->state == WEIR_CONN_REFUSING && c->dropped > LINGER_BYTES) weir_http_conn_cut_later(c);
    return;
  }
  if (evbuffer_remove_buffer(input, c->raw, evbuffer_get_length(input)) < 0) {
    weir_http_conn_cut_later(c);
    return;
  }
  const weir_http_limits *l = &c->server->cfg.limits;
  if (evbuffer_get_length(c->raw) > l->max_body_bytes + l->max_head_bytes + RAW_SLACK)
    weir_http_conn_cut_later(c);
  else
    pump(c);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx) {
  weir_http_conn *c = ctx;
  (void)fd;
  (void)what;
  if (c->state == WEIR_CONN_READING && c->server->draining && c->guard.began && !c->code)
    refuse_later(c, 503, "the server is about to end");
  else if (c->state == WEIR_CONN_READING && c->extra && !c->code)
    refuse_later(c, 503, "too many connections");
  else if (c->state == WEIR_CONN_READING && c->timing && !c->code)
    refuse_later(c, 408, "the request did not come in time");
  else if (c->state != WEIR_CONN_ANSWERING)
    weir_http_conn_cut(c);
}

/* The first thing in the loop after evhttp made its connection of the bufferevent. */
static bool adopt(weir_http_conn *c) {
  bufferevent_data_cb read, write;
  bufferevent_event_cb event;
  void *ctx = NULL;
  struct sockaddr_storage sa;
  socklen_t len = sizeof sa;
  const int one = 1, fd = (int)bufferevent_getfd(c->bev);
  bufferevent_getcb(c->bev, &read, &write, &event, &ctx);
  if (!event || !ctx) return false; /* evhttp had no memory and gave it up */
  c->ev = ctx;
  evhttp_connection_set_closecb(c->ev, on_close, c);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0) {
    char ip[INET6_ADDRSTRLEN] = "";
    const bool six = sa.ss_family == AF_INET6;
    const void *at = six ? (const void *)&((struct sockaddr_in6 *)&sa)->sin6_addr
                         : (const void *)&((struct sockaddr_in *)&sa)->sin_addr;
    inet_ntop(sa.ss_family, at, ip, sizeof ip);
    snprintf(c->peer, sizeof c->peer, six ? "[%s]:%d" : "%s:%d", ip,
             ntohs(six ? ((struct sockaddr_in6 *)&sa)->sin6_port : ((struct sockaddr_in *)&sa)->sin_port));
  }
  /* those that came in one turn of the loop could not be dropped when they came */
  if (c->extra && !take_place(c)) drop_oldest_extra(c->server);
  const weir_http_server_cfg *cfg = &c->server->cfg;
  int32_t ms = cfg->head_ms < cfg->idle_ms ? cfg->head_ms : cfg->idle_ms;
  if (c->extra && ms > EXTRA_MS) ms = EXTRA_MS;
  run_timer(c, ms);
  return true;
}

static void on_later(evutil_socket_t fd, short what, void *ctx) {
  weir_http_conn *c = ctx;
  (void)fd;
  (void)what;
  if (!c->ev && !adopt(c)) {
    conn_free(c);
    return;
  }
  if (c->state == WEIR_CONN_CUT)
    weir_http_conn_cut(c);
  else if (c->state == WEIR_CONN_READING && c->code)
    refuse(c);
  else if (c->state == WEIR_CONN_READING && c->server->draining && !c->guard.began &&
           evbuffer_get_length(c->raw) == 0)
    weir_http_conn_cut(c);
  else if (c->state == WEIR_CONN_READING && pump(c))
    bufferevent_trigger(c->bev, EV_READ, 0);
}

void weir_http_conn_drain(weir_http_conn *c) {
  if (c->state == WEIR_CONN_READING && c->guard.began) run_timer(c, DRAIN_READ_MS);
  wake(c);
}

/* ---- what the server calls ---- */

struct bufferevent *weir_http_conn_new(struct event_base *base, void *server) {
  weir_http_server *s = server;
  struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
  weir_http_conn *c = calloc(1, sizeof *c);
  if (!bev || !c) goto failed;
  c->raw = evbuffer_new();
  c->timer = evtimer_new(base, on_timer, c);
  c->later = evtimer_new(base, on_later, c);
  if (!c->raw || !c->timer || !c->later) goto failed;
  c->watch = evbuffer_add_cb(bufferevent_get_input(bev), on_input, c);
  if (!c->watch) goto failed;
  c->server = s;
  c->bev = bev;
  bufferevent_incref(bev);
  weir_http_guard_init(&c->guard, &s->cfg.limits);
  const struct timeval stall = {s->cfg.stall_ms / 1000, s->cfg.stall_ms % 1000 * 1000};
  bufferevent_set_timeouts(bev, NULL, &stall);
  c->next = s->first;
  if (c->next) c->next->prev = c;
  s->first = c;
  c->guard.tell_head = true;
  c->idle_ns = weir_now_ns(&s->clock);
  s->n_connections++;
  if (s->n_connections - s->n_extra > s->cfg.max_connections) {
    c->extra = true;
    s->n_extra++;
    if (!take_place(c)) drop_oldest_extra(s);
  }
  weir_http_server_count(s);
  wake(c);
  return bev;
failed:
  if (c) {
    if (c->raw) evbuffer_free(c->raw);
    if (c->timer) event_free(c->timer);
    if (c->later) event_free(c->later);
  }
  free(c);
  /* a bare one: what it brings is answered with 503, as its connection is none of ours */
  return bev;
}

weir_http_conn *weir_http_conn_of(weir_http_server *s, struct evhttp_connection *ev) {
  for (weir_http_conn *c = s->first; c; c = c->next)
    if (c->ev == ev) return c;
  return NULL;
}

void weir_http_conn_answering(weir_http_conn *c, weir_http_request *r) {
  bufferevent_data_cb read, write;
  bufferevent_event_cb event;
  void *ctx;
  c->request = r;
  bufferevent_getcb(c->bev, &read, &write, &event, &ctx);
  bufferevent_setcb(c->bev, NULL, write, event, ctx);
  bufferevent_enable(c->bev, EV_READ);
}

void weir_http_conn_answered(weir_http_conn *c) {
  c->request = NULL;
  if (c->state == WEIR_CONN_ANSWERING) c->state = WEIR_CONN_READING;
  c->idle_ns = weir_now_ns(&c->server->clock);
  run_timer(c, c->server->draining ? DRAIN_READ_MS : c->server->cfg.idle_ms);
  wake(c); /* what came meanwhile */
}
