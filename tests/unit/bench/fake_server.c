/* SPDX-License-Identifier: Apache-2.0 */
/* The tests' server. It writes what it is told to; a stall is honest: nothing is answered while it lasts. */
#include "fake_server.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct peer {
  fake_server *s;
  struct bufferevent *bev;
  struct event *timer;
  int sent, requests;
  bool answering, asked, close_after;
  struct peer *next;
} peer;

struct fake_server {
  fake_cfg cfg;
  struct event_base *base;
  struct evconnlistener *listener;
  peer *peers;
  char url[64], body[8192];
  int requests, left, connections;
  bool stalled;
  struct event *stall;
};

static void next_piece(peer *p);

static void free_peer(peer *p) {
  for (peer **at = &p->s->peers; *at; at = &(*at)->next)
    if (*at == p) {
      *at = p->next;
      break;
    }
  event_free(p->timer);
  bufferevent_free(p->bev);
  free(p);
}

static void put(peer *p, const char *text) { bufferevent_write(p->bev, text, strlen(text)); }

static void put_chunk(peer *p, const char *text) {
  char head[32];
  if (p->s->cfg.mode == FAKE_BYTE_BY_BYTE) {
    for (const char *s = text; *s; s++) {
      char one[16];
      snprintf(one, sizeof one, "1\r\n%c\r\n", *s);
      put(p, one);
    }
    return;
  }
  snprintf(head, sizeof head, "%zx\r\n", strlen(text));
  put(p, head);
  put(p, text);
  put(p, "\r\n");
}

static void all_written(struct bufferevent *bev, void *ctx) {
  peer *p = ctx;
  (void)bev;
  if (p->close_after) free_peer(p);
}

static void put_json(peer *p, const char *status, const char *extra, const char *body) {
  char text[2048];
  snprintf(text, sizeof text,
           "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s", status, extra,
           strlen(body), body);
  put(p, text);
  p->answering = false;
  p->asked = false;
}

static void end_stream(peer *p) {
  const fake_cfg *c = &p->s->cfg;
  char usage[512];
  if (c->mode != FAKE_NO_DONE) {
    put_chunk(p, "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}]}\n\n");
    snprintf(
        usage, sizeof usage,
        "data: "
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":%d,\"total_tokens\":0%s}}\n\n",
        c->tokens,
        c->mode == FAKE_WEIR
            ? ",\"weir\":{\"tokens_by_tier\":{\"small\":3,\"large\":1},\"deferral_rate\":0.25,"
              "\"queue_ms\":7.5}"
            : "");
    if (c->mode != FAKE_NO_USAGE) put_chunk(p, usage);
    put_chunk(p, "data: [DONE]\n\n");
  }
  put(p, "0\r\n\r\n");
  p->answering = false;
  p->asked = false;
}

static void next_piece(peer *p) {
  const fake_cfg *c = &p->s->cfg;
  char text[1024], word[512];
  if (p->s->stalled) return; /* goes on when the stall has ended */
  if (p->sent == c->tokens) {
    end_stream(p);
    return;
  }
  const int n = c->piece_bytes > 0 && c->piece_bytes < 500 ? c->piece_bytes : 3;
  memset(word, 'a', (size_t)n);
  word[n] = '\0';
  char receipt[96] = "";
  if (c->mode == FAKE_WEIR)
    snprintf(receipt, sizeof receipt, ",\"weir\":{\"tokens\":[{\"id\":%d,\"tier\":\"%s\"}]}", p->sent,
             p->sent % 4 == 3 ? "large" : "small");
  snprintf(text, sizeof text,
           "data: {\"choices\":[{\"index\":0,\"text\":\"%s\",\"finish_reason\":null%s}]}\n\n",
           c->answer ? c->answer : word, receipt);
  if (c->mode == FAKE_BAD_JSON && p->sent == 1) snprintf(text, sizeof text, "data: {\"choices\": [{]\n\n");
  if (c->mode == FAKE_STREAM_ERROR && p->sent == 1)
    snprintf(text, sizeof text,
             "data: {\"error\":{\"message\":\"too late\",\"type\":\"timeout_error\",\"code\":504}}\n\n");
  put_chunk(p, text);
  p->sent++;
  if (c->mode == FAKE_EARLY_CLOSE && p->sent == 2) {
    p->answering = false;
    p->close_after = true;
    return;
  }
  const struct timeval gap = {c->gap_ms / 1000, c->gap_ms % 1000 * 1000};
  evtimer_add(p->timer, &gap);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  next_piece(ctx);
}

static void end_stall(evutil_socket_t fd, short what, void *ctx) {
  fake_server *s = ctx;
  (void)fd;
  (void)what;
  s->stalled = false;
  for (peer *p = s->peers; p; p = p->next)
    if (p->answering) next_piece(p);
}

static void answer(peer *p, bool models) {
  fake_server *s = p->s;
  if (models) {
    put_json(p, "200 OK", "", "{\"data\":[{\"id\":\"fake\",\"owned_by\":\"tests\",\"max_model_len\":512}]}");
    return;
  }
  s->requests++;
  p->answering = true;
  p->sent = 0;
  switch (s->cfg.mode) {
    case FAKE_429:
      put_json(p, "429 Too Many Requests", "Retry-After: 2\r\n",
               "{\"error\":{\"message\":\"queue full\",\"type\":\"rate_limit_error\"}}");
      return;
    case FAKE_500: put_json(p, "500 Internal Server Error", "", "oh no"); return;
    case FAKE_NEVER: return;
    case FAKE_GARBAGE: put(p, "SSH-2.0-OpenSSH\r\n\r\n"); return;
    case FAKE_WHOLE:
      put_json(p, "200 OK", "",
               "{\"choices\":[{\"text\":\"whole\",\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}");
      return;
    default: break;
  }
  put(p,
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: "
      "chunked\r\n\r\n");
  if (s->cfg.stall_at > 0 && s->requests == s->cfg.stall_at) {
    const struct timeval t = {s->cfg.stall_ms / 1000, s->cfg.stall_ms % 1000 * 1000};
    s->stalled = true;
    evtimer_add(s->stall, &t);
  }
  next_piece(p);
}

static void on_read(struct bufferevent *bev, void *ctx) {
  peer *p = ctx;
  struct evbuffer *in = bufferevent_get_input(bev);
  const struct evbuffer_ptr end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
  if (end.pos < 0 || p->asked) return;
  const size_t head = (size_t)end.pos + 4;
  char *text = calloc(1, head + 1);
  evbuffer_copyout(in, text, head);
  const char *length = strcasestr(text, "content-length:");
  const size_t body = length ? (size_t)atoi(length + 15) : 0;
  const bool models = strstr(text, "/v1/models") != NULL;
  free(text);
  if (evbuffer_get_length(in) < head + body) return;
  evbuffer_drain(in, head);
  const size_t keep = body < sizeof p->s->body - 1 ? body : sizeof p->s->body - 1;
  if (body > 0) {
    evbuffer_copyout(in, p->s->body, keep);
    p->s->body[keep] = '\0';
  }
  evbuffer_drain(in, body);
  if (p->s->cfg.one_each && ++p->requests > 1) {
    free_peer(p);
    return;
  }
  p->asked = true;
  answer(p, models);
}

static void on_event(struct bufferevent *bev, short what, void *ctx) {
  peer *p = ctx;
  (void)bev;
  if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))) return;
  p->s->left += p->answering;
  free_peer(p);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *addr, int len,
                      void *ctx) {
  fake_server *s = ctx;
  peer *p = calloc(1, sizeof *p);
  (void)l;
  (void)addr;
  (void)len;
  p->s = s;
  p->bev = bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE);
  p->timer = evtimer_new(s->base, on_timer, p);
  p->next = s->peers;
  s->peers = p;
  s->connections++;
  bufferevent_setcb(p->bev, on_read, all_written, on_event, p);
  bufferevent_enable(p->bev, EV_READ | EV_WRITE);
}

fake_server *fake_server_start(struct event_base *base, const fake_cfg *cfg) {
  fake_server *s = calloc(1, sizeof *s);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof at;
  s->cfg = *cfg;
  s->base = base;
  s->stall = evtimer_new(base, end_stall, s);
  s->listener = evconnlistener_new_bind(base, on_accept, s, LEV_OPT_CLOSE_ON_FREE, 128,
                                        (struct sockaddr *)&at, sizeof at);
  if (!s->listener || getsockname(evconnlistener_get_fd(s->listener), (struct sockaddr *)&at, &len) != 0)
    return NULL;
  snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", ntohs(at.sin_port));
  return s;
}

void fake_server_stop(fake_server *s) {
  while (s->peers) free_peer(s->peers);
  evconnlistener_free(s->listener);
  event_free(s->stall);
  free(s);
}

const char *fake_server_url(const fake_server *s) { return s->url; }
int fake_server_requests(const fake_server *s) { return s->requests; }
int fake_server_left(const fake_server *s) { return s->left; }
int fake_server_connections(const fake_server *s) { return s->connections; }
const char *fake_server_last_body(const fake_server *s) { return s->body; }
