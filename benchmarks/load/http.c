/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client: connections are libevent's bufferevents; what comes is handed to the parser at once. A
 * slow reader has a token bucket and a small receive buffer, so that the server feels it. A kept connection
 * that turns out to be closed before a byte of the answer came is replaced once. The load's thread. */
#include "load/http.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/util.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

enum { MAX_IDLE = 1024, MAX_ADDRESSES = 16, SLOW_RECEIVE_BUFFER = 4096, TICKS_A_SECOND = 10 };

typedef struct idle {
  struct weir_http *http;
  struct bufferevent *bev;
  struct idle *next;
} idle;

struct weir_http {
  struct event_base *base;
  char *authority, *prefix, *key; /* owned */
  struct {
    struct sockaddr_storage at;
    socklen_t len;
  } addr[MAX_ADDRESSES];
  int n_addrs, good_addr; /* good: where the last connection came to be */
  bool keep_alive;
  idle *idle;
  int n_idle;
};

struct weir_http_call {
  weir_http *http;
  weir_http_events ev;
  weir_http_parser parser;
  weir_buf request;
  struct bufferevent *bev;
  struct ev_token_bucket_cfg *bucket;
  struct event *begin; /* makes a failure to connect an event, after weir_http_start has returned */
  int64_t read_bytes_s;
  int addr, tried; /* index in http->addr; how many of them */
  bool reused, any_byte, connected, dead;
  int busy; /* depth of callbacks under way: then a drop only marks */
  weir_err early;
};

/* ---- address ---- */

static weir_status split_url(weir_http *h, const char *url, char *host, size_t host_bytes, char *port,
                             size_t port_bytes, weir_err *e) {
  if (!strncasecmp(url, "https://", 8))
    return weir_fail(e, WEIR_EUNSUP,
                     "%.200s: TLS is not spoken here; test behind it, or through a plain proxy", url);
  if (strncasecmp(url, "http://", 7) != 0)
    return weir_fail(e, WEIR_EINVAL, "%.200s: want http://HOST:PORT", url);
  const char *s = url + 7;
  const size_t n = strcspn(s, "/?#");
  if (n == 0 || n >= host_bytes || memchr(s, '@', n))
    return weir_fail(e, WEIR_EINVAL, "%.200s: want http://HOST:PORT", url);
  h->authority = strndup(s, n);
  const char *path = s + n;
  size_t path_len = strcspn(path, "?#");
  while (path_len > 0 && path[path_len - 1] == '/') path_len--;
  /* users give both http://host and http://host/v1 */
  if (path_len >= 3 && !strncmp(path + path_len - 3, "/v1", 3)) path_len -= 3;
  h->prefix = strndup(path, path_len);
  if (!h->authority || !h->prefix) return weir_fail(e, WEIR_ENOMEM, "cannot keep the address");
  const char *open = h->authority[0] == '[' ? strchr(h->authority, ']') : NULL;
  const char *colon = strchr(open ? open : h->authority, ':');
  snprintf(port, port_bytes, "%s", colon ? colon + 1 : "80");
  if (open)
    snprintf(host, host_bytes, "%.*s", (int)(open - h->authority - 1), h->authority + 1);
  else
    snprintf(host, host_bytes, "%.*s", (int)(colon ? colon - h->authority : (long)n), h->authority);
  return WEIR_OK;
}

weir_status weir_http_open(const weir_http_cfg *cfg, weir_http **out, weir_err *e) {
  weir_status st = WEIR_OK;
  char host[256], port[32];
  weir_http *h = NULL;
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
  WEIR_TRY(WEIR_NEW(1, &h, e));
  h->base = cfg->base;
  h->keep_alive = cfg->keep_alive;
  WEIR_TRY(split_url(h, cfg->url, host, sizeof host, port, sizeof port, e));
  if (cfg->key && strpbrk(cfg->key, "\r\n")) {
    st = weir_fail(e, WEIR_EINVAL, "the key has a line break in it");
    goto out;
  }
  if (cfg->key && !(h->key = strdup(cfg->key))) {
    st = weir_fail(e, WEIR_ENOMEM, "cannot keep the key");
    goto out;
  }
  const int rc = getaddrinfo(host, port, &hints, &found);
  if (rc != 0 || !found) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", h->authority, gai_strerror(rc));
    goto out;
  }
  for (const struct addrinfo *a = found; a && h->n_addrs < MAX_ADDRESSES; a = a->ai_next) {
    if (a->ai_addrlen > sizeof h->addr[0].at) continue;
    memcpy(&h->addr[h->n_addrs].at, a->ai_addr, a->ai_addrlen);
    h->addr[h->n_addrs++].len = a->ai_addrlen;
  }
  if (h->n_addrs == 0) {
    st = weir_fail(e, WEIR_EIO, "%s: no address", h->authority);
    goto out;
  }
  *out = h;
out:
  if (found) freeaddrinfo(found);
  if (st != WEIR_OK) weir_http_close(h);
  return st;
}

/* ---- kept connections ---- */

static void forget_idle(idle *i) {
  weir_http *h = i->http;
  for (idle **at = &h->idle; *at; at = &(*at)->next)
    if (*at == i) {
      *at = i->next;
      break;
    }
  h->n_idle--;
  bufferevent_free(i->bev);
  free(i);
}

static void idle_read(struct bufferevent *bev, void *ctx) {
  (void)bev;
  forget_idle(ctx); /* bytes nobody asked for */
}

static void idle_event(struct bufferevent *bev, short what, void *ctx) {
  (void)bev;
  (void)what;
  forget_idle(ctx);
}

static bool keep(weir_http *h, struct bufferevent *bev) {
  idle *i = h->n_idle < MAX_IDLE ? malloc(sizeof *i) : NULL;
  if (!i) return false;
  *i = (idle){h, bev, h->idle};
  h->idle = i;
  h->n_idle++;
  bufferevent_setcb(bev, idle_read, NULL, idle_event, i);
  return true;
}

void weir_http_close(weir_http *h) {
  if (!h) return;
  while (h->idle) forget_idle(h->idle);
  free(h->authority);
  free(h->prefix);
  free(h->key);
  free(h);
}

/* ---- calls ---- */

static void free_call(weir_http_call *c) {
  if (c->bev) bufferevent_free(c->bev);
  if (c->bucket) ev_token_bucket_cfg_free(c->bucket);
  if (c->begin) event_free(c->begin);
  weir_http_parser_fini(&c->parser);
  weir_buf_fini(&c->request);
  free(c);
}

void weir_http_drop(weir_http_call *c) {
  c->dead = true;
  if (c->bev) bufferevent_disable(c->bev, EV_READ | EV_WRITE);
  if (c->busy == 0) free_call(c);
}

static void finish(weir_http_call *c, weir_status st, const weir_err *e) {
  const weir_http_events ev = c->ev;
  const weir_err why = e ? *e : (weir_err){0};
  if (st == WEIR_OK && c->http->keep_alive && !c->parser.head.close && !c->bucket &&
      evbuffer_get_length(bufferevent_get_input(c->bev)) == 0 && keep(c->http, c->bev))
    c->bev = NULL;
  c->dead = true;
  ev.on_end(ev.ctx, st, &why);
}

/* A callback may drop the call in the middle of what is being read: the rest is nobody's then. */
static weir_status give_head(void *ctx, const weir_http_head *head, weir_err *e) {
  const weir_http_call *c = ctx;
  return c->ev.on_head ? c->ev.on_head(c->ev.ctx, head, e) : WEIR_OK;
}

static weir_status give_body(void *ctx, const char *bytes, size_t n, weir_err *e) {
  const weir_http_call *c = ctx;
  return c->dead ? WEIR_ECANCEL : c->ev.on_body(c->ev.ctx, bytes, n, e);
}

static void on_read(struct bufferevent *bev, void *ctx) {
  weir_http_call *c = ctx;
  struct evbuffer *in = bufferevent_get_input(bev);
  const weir_http_sink sink = {give_head, give_body, c};
  weir_err e = {0};
  weir_status st = WEIR_OK;
  c->busy++;
  c->any_byte = true;
  while (!c->dead && st == WEIR_OK && !weir_http_done(&c->parser) && evbuffer_get_length(in) > 0) {
    const size_t n = evbuffer_get_contiguous_space(in);
    size_t used = 0;
    st = weir_http_feed(&c->parser, (const char *)evbuffer_pullup(in, (ev_ssize_t)n), n, &used, &sink, &e);
    if (!c->dead) evbuffer_drain(in, used);
  }
  if (!c->dead && (st != WEIR_OK || weir_http_done(&c->parser))) finish(c, st, &e);
  c->busy--;
  if (c->dead) free_call(c);
}

static weir_status connect_call(weir_http_call *c, weir_err *e);

static void on_event(struct bufferevent *bev, short what, void *ctx) {
  weir_http_call *c = ctx;
  weir_err e = {0};
  weir_status st;
  if (what & BEV_EVENT_CONNECTED) {
    c->connected = true;
    c->http->good_addr = c->addr;
    return;
  }
  const int why = EVUTIL_SOCKET_ERROR();
  c->busy++;
  if (c->reused && !c->any_byte) { /* the server had closed it meanwhile */
    bufferevent_free(bev);
    c->bev = NULL;
    c->reused = false;
    st = connect_call(c, &e);
    if (st != WEIR_OK) finish(c, st, &e);
  } else if (!c->connected && !c->any_byte && c->tried < c->http->n_addrs) { /* nobody at this address */
    bufferevent_free(bev);
    c->bev = NULL;
    st = connect_call(c, &e);
    if (st != WEIR_OK) finish(c, st, &e);
  } else if (what & BEV_EVENT_EOF) {
    st = weir_http_eof(&c->parser, &e);
    finish(c, st, &e);
  } else {
    st = weir_fail(&e, WEIR_EIO, "%s", why ? evutil_socket_error_to_string(why) : "connection failed");
    finish(c, st, &e);
  }
  c->busy--;
  if (c->dead) free_call(c);
}

static weir_status slow_down(weir_http_call *c, weir_err *e) {
  const int64_t tick = c->read_bytes_s / TICKS_A_SECOND > 0 ? c->read_bytes_s / TICKS_A_SECOND : 1;
  const struct timeval length = {0, 1000000 / TICKS_A_SECOND};
  if (!c->bucket)
    c->bucket =
        ev_token_bucket_cfg_new((size_t)tick, (size_t)tick, EV_RATE_LIMIT_MAX, EV_RATE_LIMIT_MAX, &length);
  if (!c->bucket || bufferevent_set_rate_limit(c->bev, c->bucket) != 0)
    return weir_fail(e, WEIR_ENOMEM, "cannot make a reader slow");
  return WEIR_OK;
}

/* Begins a connection to the call's next address. What it has made when it fails goes with it. */
static weir_status connect_next(weir_http_call *c, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_http *h = c->http;
  c->addr = c->tried == 0 ? h->good_addr : (c->addr + 1) % h->n_addrs;
  c->tried++;
  struct sockaddr *at = (struct sockaddr *)&h->addr[c->addr].at;
  const int fd = socket(at->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return weir_fail(e, WEIR_EIO, "socket: %s", strerror(errno));
  const int one = 1, small = SLOW_RECEIVE_BUFFER;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (c->read_bytes_s > 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  c->bev = bufferevent_socket_new(h->base, fd, BEV_OPT_CLOSE_ON_FREE);
  if (!c->bev) {
    close(fd);
    return weir_fail(e, WEIR_ENOMEM, "cannot make a connection");
  }
  if (c->read_bytes_s > 0) WEIR_TRY(slow_down(c, e));
  /* without callbacks until it has returned: a failure at once is told by it, not by an event as well */
  if (bufferevent_socket_connect(c->bev, at, (int)h->addr[c->addr].len) != 0) {
    st = weir_fail(e, WEIR_EIO, "connect %s: %s", h->authority, strerror(errno));
    goto out;
  }
  bufferevent_setcb(c->bev, on_read, NULL, on_event, c);
out:
  if (st != WEIR_OK) {
    bufferevent_free(c->bev);
    c->bev = NULL;
  }
  return st;
}

static weir_status connect_call(weir_http_call *c, weir_err *e) {
  weir_http *h = c->http;
  if (h->keep_alive && h->idle && c->read_bytes_s == 0 && !c->any_byte) {
    idle *i = h->idle;
    c->bev = i->bev;
    c->reused = true;
    h->idle = i->next;
    h->n_idle--;
    free(i);
    bufferevent_setcb(c->bev, on_read, NULL, on_event, c);
  } else {
    weir_status st;
    do {
      st = connect_next(c, e);
    } while (st == WEIR_EIO && c->tried < h->n_addrs);
    if (st != WEIR_OK) return st;
  }
  if (bufferevent_write(c->bev, c->request.data, c->request.len) != 0 ||
      bufferevent_enable(c->bev, EV_READ | EV_WRITE) != 0)
    return weir_fail(e, WEIR_ENOMEM, "cannot send a request");
  return WEIR_OK;
}

static void tell_early(evutil_socket_t fd, short what, void *ctx) {
  weir_http_call *c = ctx;
  (void)fd;
  (void)what;
  c->busy++;
  if (!c->dead) finish(c, c->early.code, &c->early);
  c->busy--;
  free_call(c);
}

static weir_status write_request(weir_http_call *c, const weir_http_ask *ask, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_http *h = c->http;
  WEIR_TRY(weir_buf_printf(&c->request, e, "%s %s%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: weir-bench\r\n",
                           ask->body ? "POST" : "GET", h->prefix, ask->path, h->authority));
  WEIR_TRY(weir_buf_printf(&c->request, e,
                           "Accept: text/event-stream, application/json\r\nConnection: %s\r\n",
                           h->keep_alive ? "keep-alive" : "close"));
  if (h->key) WEIR_TRY(weir_buf_printf(&c->request, e, "Authorization: Bearer %s\r\n", h->key));
  if (ask->body)
    WEIR_TRY(weir_buf_printf(&c->request, e, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                             ask->body_len));
  WEIR_TRY(weir_buf_puts(&c->request, "\r\n", e));
  if (ask->body) st = weir_buf_put(&c->request, ask->body, ask->body_len, e);
out:
  return st;
}

weir_status weir_http_start(weir_http *h, const weir_http_ask *ask, const weir_http_events *ev,
                            weir_http_call **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_http_call *c = NULL;
  WEIR_TRY(WEIR_NEW(1, &c, e));
  c->http = h;
  c->ev = *ev;
  c->read_bytes_s = ask->read_bytes_s;
  weir_http_parser_init(&c->parser);
  WEIR_TRY(write_request(c, ask, e));
  if (connect_call(c, &c->early) != WEIR_OK) {
    const struct timeval now = {0, 0};
    if (c->bev) bufferevent_free(c->bev);
    c->bev = NULL;
    c->begin = evtimer_new(h->base, tell_early, c);
    if (!c->begin || evtimer_add(c->begin, &now) != 0) {
      st = weir_fail(e, WEIR_ENOMEM, "cannot begin a request");
      goto out;
    }
  }
  *out = c;
out:
  if (st != WEIR_OK && c) free_call(c);
  return st;
}
