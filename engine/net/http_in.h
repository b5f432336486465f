/* SPDX-License-Identifier: Apache-2.0 */
/* What http_server.c and http_conn.c know of each other. */
#ifndef WEIR_NET_HTTP_IN_H
#define WEIR_NET_HTTP_IN_H
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>

#include "base/clock.h"
#include "net/http_server.h"

typedef struct weir_http_conn weir_http_conn;

struct weir_http_request {
  weir_http_conn *conn;
  struct evhttp_request *ev;
  struct evbuffer *out;
  void (*on_gone)(void *ctx);
  void *gone_ctx;
  void *owner;
  char method[8], *path;
  int code;   /* of the status line; 0: not sent */
  bool ended; /* all of the answer was handed to evhttp, which sends it */
  size_t bytes_in, bytes_out;
  int64_t since_ns;
};

/* Connections beyond max_connections that are taken, so that what must be answered is. */
enum { WEIR_HTTP_EXTRA = 32 };

/* What a connection is doing. */
typedef enum {
  WEIR_CONN_READING,   /* a request comes, or none yet */
  WEIR_CONN_ANSWERING, /* evhttp has one; what else comes is kept back */
  WEIR_CONN_REFUSING,  /* evhttp is out of it: a refusal is sent, the rest of the request read and dropped */
  WEIR_CONN_CUT        /* to be closed as soon as nobody is inside of it */
} weir_conn_state;

struct weir_http_conn {
  weir_http_server *server;
  weir_http_conn *prev, *next;
  struct bufferevent *bev; /* a reference of our own */
  struct evhttp_connection *ev;
  struct evbuffer_cb_entry *watch;
  struct evbuffer *raw; /* bytes that came and were not looked at */
  struct event *timer, *later;
  weir_http_guard guard;
  weir_conn_state state;
  weir_http_request *request;
  char peer[64];
  int code; /* of the refusal */
  const char *message;
  const char *headers; /* of the refusal, whole lines */
  int64_t idle_ns;     /* since when it waits for a request */
  size_t dropped;      /* bytes read while refusing */
  bool extra;          /* one too many: it has one short request, of the urgent ones, and is closed */
  bool head_seen;      /* the owner was asked about this request's head */
  bool in_body;        /* the timer runs for a body */
  bool timing;         /* the timer runs for a request */
  bool giving;         /* a whole request is being put before evhttp */
  /* evhttp's own, while refusing */
  bufferevent_data_cb saved_read, saved_write;
  bufferevent_event_cb saved_event;
  void *saved_ctx;
};

struct weir_http_server {
  weir_http_server_cfg cfg;
  struct event_base *base;
  struct evhttp *http;
  struct evconnlistener *listener[8];
  struct evhttp_bound_socket *bound[8]; /* evhttp's name for each */
  int32_t n_listeners;
  weir_http_conn *first;
  int32_t n_connections, n_extra; /* those beyond max_connections are among both */
  uint16_t port;
  bool draining, paused;
  struct event *resume; /* a listener that ran out of descriptors rests for a moment */
  weir_clock clock;
};

/* evhttp's bevcb: a connection's bufferevent, watched. */
struct bufferevent *weir_http_conn_new(struct event_base *, void *server);
/* Closes at once, from the event loop alone: whoever waits is told. */
void weir_http_conn_cut(weir_http_conn *);
/* The same from anywhere: as soon as the event loop comes by. */
void weir_http_conn_cut_later(weir_http_conn *);
/* The server drains: what has not begun is closed, what has gets a second. */
void weir_http_conn_drain(weir_http_conn *);
/* The connection that evhttp reads from, or NULL when it is not one of ours. */
weir_http_conn *weir_http_conn_of(weir_http_server *, struct evhttp_connection *);
/* A request was taken by evhttp's callback, its answer was sent whole. */
void weir_http_conn_answering(weir_http_conn *, weir_http_request *);
void weir_http_conn_answered(weir_http_conn *);
/* Frees the request and tells the record. */
void weir_http_request_over(weir_http_request *, bool gone);
/* Records of requests that no weir_http_request was made for. */
void weir_http_record_refusal(weir_http_conn *, int code);
/* The body of an error in OpenAI's form. `message` is plain ASCII without quotes. */
void weir_http_error_body(int code, const char *message, char *out, size_t bytes);
void weir_http_server_count(weir_http_server *);
/* Listens on those of the list that this machine has; an error when that is none of them. */
struct addrinfo;
weir_status weir_http_server_listen_list(weir_http_server *, const char *address, const struct addrinfo *,
                                         weir_err *e);

#endif
