/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: bytes as they may come over a connection. The guard must say the same of them whole and byte
 * by byte; what it lets through must be let through again, unchanged, with one length that is that of the
 * body. Then the same bytes go to a server over a socket, whose handler must see what the guard saw. */
#include <arpa/inet.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/http_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const weir_http_limits limits = {.max_head_bytes = 2048, .max_body_bytes = 4096, .max_headers = 16};

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_http: %s\n", what);
  abort();
}

static weir_http_verdict feed(weir_http_guard *g, const char *p, size_t n, size_t step, size_t *used) {
  weir_http_verdict v = WEIR_HTTP_MORE;
  *used = 0;
  while (*used < n && v == WEIR_HTTP_MORE) {
    size_t got;
    const size_t left = n - *used;
    v = weir_http_guard_feed(g, p + *used, left < step ? left : step, &got);
    *used += got;
  }
  return v;
}

static void require_same(const weir_buf *a, const weir_buf *b, const char *what) {
  require(a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0), what);
}

static void again(const weir_http_guard *g) {
  weir_http_guard h;
  weir_buf all = {0};
  size_t used;
  weir_http_guard_init(&h, &(weir_http_limits){1 << 20, 1 << 20, 1000});
  require(weir_buf_put(&all, g->head.data, g->head.len, NULL) == WEIR_OK, "memory");
  if (g->body.len) require(weir_buf_put(&all, g->body.data, g->body.len, NULL) == WEIR_OK, "memory");
  require(feed(&h, all.data, all.len, all.len, &used) == WEIR_HTTP_WHOLE && used == all.len,
          "what was let through is refused");
  require_same(&g->head, &h.head, "a head that changes when it is read again");
  require_same(&g->body, &h.body, "a body that changes when it is read again");
  require(!memchr(g->head.data, 0, g->head.len), "a NUL in a head");
  weir_buf_fini(&all);
  weir_http_guard_fini(&h);
}

/* Returns how many whole requests there were. */
static int check_guard(const char *p, size_t n) {
  weir_http_guard whole, bytes;
  int requests = 0;
  weir_http_guard_init(&whole, &limits);
  weir_http_guard_init(&bytes, &limits);
  for (;;) {
    size_t used, used_bytes;
    const weir_http_verdict v = feed(&whole, p, n, n ? n : 1, &used);
    const weir_http_verdict w = feed(&bytes, p, n, 1, &used_bytes);
    require(v == w, "another verdict byte by byte");
    if (v != WEIR_HTTP_WHOLE) {
      if (v == WEIR_HTTP_REFUSED) require(whole.code == bytes.code, "another code byte by byte");
      break;
    }
    require(used == used_bytes, "another end byte by byte");
    require_same(&whole.head, &bytes.head, "another head byte by byte");
    require_same(&whole.body, &bytes.body, "another body byte by byte");
    again(&whole);
    requests++;
    p += used;
    n -= used;
    weir_http_guard_reset(&whole);
    weir_http_guard_reset(&bytes);
  }
  weir_http_guard_fini(&whole);
  weir_http_guard_fini(&bytes);
  return requests;
}

/* ---- the server ---- */

static struct event_base *base;
static weir_http_server *server;
static int n_requests, n_records;

static void on_request(void *ctx, weir_http_request *r) {
  size_t n;
  const char *body = weir_http_body(r, &n);
  (void)ctx;
  n_requests++;
  require(n <= limits.max_body_bytes, "a body too long");
  require(weir_http_path(r)[0] == '/', "a path that is none");
  if (n_requests % 2) {
    weir_http_reply(r, 200, "text/plain", body, n);
  } else {
    weir_http_stream_begin(r, 200, "text/plain");
    weir_http_stream_write(r, body, n);
    weir_http_stream_end(r);
  }
}

static void on_record(void *ctx, const weir_http_record *record) {
  (void)ctx;
  n_records += record->method[0] != 0;
}

static void start(void) {
  weir_err e = {0};
  base = event_base_new();
  const weir_http_server_cfg cfg = {.limits = limits,
                                    .max_connections = 64,
                                    .head_ms = 60000,
                                    .body_ms = 60000,
                                    .idle_ms = 60000,
                                    .stall_ms = 60000,
                                    .max_unsent = 1 << 20,
                                    .on_request = on_request,
                                    .on_record = on_record};
  require(base && weir_http_server_create(base, &cfg, &server, &e) == WEIR_OK, "no server");
  require(weir_http_server_listen(server, "127.0.0.1:0", &e) == WEIR_OK, e.msg);
}

static void check_server(const char *p, size_t n, int want) {
  const struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons(weir_http_server_port(server)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const struct linger hard = {1, 0}; /* no port is left waiting */
  char sink[4096];
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  n_requests = n_records = 0;
  require(fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof to) == 0, "no connection");
  fcntl(fd, F_SETFL, O_NONBLOCK);
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  (void)!send(fd, p, n, MSG_NOSIGNAL);
  for (int quiet = 0; quiet < 4;) { /* several turns without anything to read */
    event_base_loop(base, EVLOOP_NONBLOCK);
    quiet = recv(fd, sink, sizeof sink, 0) > 0 ? 0 : quiet + 1;
  }
  require(n_requests <= want, "the handler saw a request that the guard did not");
  close(fd);
  for (int i = 0; i < 100 && weir_http_server_connections(server) > 0; i++)
    event_base_loop(base, EVLOOP_NONBLOCK);
  require(weir_http_server_connections(server) == 0, "a connection that stays");
  require(n_records == n_requests, "a request without its record");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size > 32768) return 0;
  if (!server) start();
  check_server((const char *)data, size, check_guard((const char *)data, size));
  return 0;
}
