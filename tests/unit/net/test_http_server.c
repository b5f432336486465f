/* SPDX-License-Identifier: Apache-2.0 */
/* The server over raw sockets: answers, keep-alive, pipelining, what is refused, what is cut and when. */
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "http_raw.h"
#include "net/http_in.h"

enum { MAX_RECORDS = 64, BIG = 8 << 20 };

/* What the server's thread saw, read here after a condition. */
typedef struct rig {
  raw_loop loop;
  weir_http_server *server;
  uint16_t port;
  pthread_mutex_t lock;
  pthread_cond_t moved;
  int32_t before; /* connections when the drain began to wait */
  int n_records, codes[MAX_RECORDS], n_gone, n_held;
  bool gone[MAX_RECORDS];
  weir_http_request *held;
  struct event *tick;
  weir_http_request *streaming;
} rig;

static void count(rig *r, int *what) {
  pthread_mutex_lock(&r->lock);
  ++*what;
  pthread_cond_broadcast(&r->moved);
  pthread_mutex_unlock(&r->lock);
}

static void wait_for(rig *r, const int *what, int at_least) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 8;
  pthread_mutex_lock(&r->lock);
  while (*what < at_least)
    if (pthread_cond_timedwait(&r->moved, &r->lock, &until) != 0) break;
  const int got = *what;
  pthread_mutex_unlock(&r->lock);
  assert_true(got >= at_least);
}

static void on_record(void *ctx, const weir_http_record *record) {
  rig *r = ctx;
  pthread_mutex_lock(&r->lock);
  if (r->n_records < MAX_RECORDS) {
    r->codes[r->n_records] = record->code;
    r->gone[r->n_records] = record->gone;
  }
  pthread_mutex_unlock(&r->lock);
  count(r, &r->n_records);
}

static void on_gone(void *ctx) {
  rig *r = ctx;
  r->held = NULL;
  r->streaming = NULL;
  event_del(r->tick);
  count(r, &r->n_gone);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx) {
  rig *r = ctx;
  static char block[65536];
  const struct timeval soon = {0, 1000};
  (void)fd;
  (void)what;
  memset(block, 'x', sizeof block);
  if (r->streaming) weir_http_stream_write(r->streaming, block, sizeof block);
  if (r->streaming) event_add(r->tick, &soon);
}

static void on_request(void *ctx, weir_http_request *q) {
  rig *r = ctx;
  size_t n;
  const char *body = weir_http_body(q, &n), *path = weir_http_path(q);
  if (!strcmp(path, "/echo")) {
    weir_http_reply(q, 200, "text/plain", body, n);
  } else if (!strcmp(path, "/stream")) {
    weir_http_stream_begin(q, 200, "text/event-stream");
    weir_http_stream_write(q, "one", 3);
    weir_http_stream_write(q, "two", 3);
    weir_http_stream_end(q);
  } else if (!strcmp(path, "/hold")) {
    weir_http_request_set_gone(q, on_gone, r);
    r->held = q;
    count(r, &r->n_held);
  } else if (!strcmp(path, "/free")) { /* lets the held one go */
    if (r->held) weir_http_reply(r->held, 200, "text/plain", "held", 4);
    r->held = NULL;
    weir_http_reply(q, 204, NULL, NULL, 0);
  } else if (!strcmp(path, "/flood")) {
    weir_http_request_set_gone(q, on_gone, r);
    weir_http_stream_begin(q, 200, "text/plain");
    r->streaming = q;
    event_active(r->tick, EV_TIMEOUT, 0);
  } else if (!strcmp(path, "/large")) {
    char *big = calloc(1, BIG);
    weir_http_reply(q, 200, "text/plain", big, BIG);
    free(big);
  } else {
    weir_http_reply(q, 404, "text/plain", "none", 4);
  }
}

/* /health passes on a full table; /closed is refused at its head, with a header. */
static weir_http_refusal on_head(void *ctx, const weir_http_head *h) {
  char value[16];
  (void)ctx;
  if (h->has_body && !strcmp(h->path, "/closed") &&
      !weir_http_guard_header(h->guard, "X-Pass", value, sizeof value))
    return (weir_http_refusal){401, "who are you", "WWW-Authenticate: Bearer\r\n"};
  if (h->full && strcmp(h->path, "/health") != 0)
    return (weir_http_refusal){503, "too many connections", NULL};
  return (weir_http_refusal){0};
}

/* `ms`: all times, some of them doubled. */
static int setup_with(void **state, int32_t ms) {
  rig *r = calloc(1, sizeof *r);
  weir_err e;
  pthread_mutex_init(&r->lock, NULL);
  pthread_cond_init(&r->moved, NULL);
  raw_loop_init(&r->loop);
  const weir_http_server_cfg cfg = {
      .limits = {.max_head_bytes = 4096, .max_body_bytes = 100000, .max_headers = 32},
      .max_connections = 8,
      .head_ms = ms,
      .body_ms = ms,
      .idle_ms = 2 * ms,
      .stall_ms = ms,
      .max_unsent = 64 << 20,
      .on_head = on_head,
      .on_request = on_request,
      .on_record = on_record,
      .ctx = r};
  r->tick = evtimer_new(r->loop.base, on_tick, r);
  assert_int_equal(weir_http_server_create(r->loop.base, &cfg, &r->server, &e), WEIR_OK);
  assert_int_equal(weir_http_server_listen(r->server, "127.0.0.1:0", &e), WEIR_OK);
  r->port = weir_http_server_port(r->server);
  assert_int_not_equal(r->port, 0);
  raw_loop_start(&r->loop);
  *state = r;
  return 0;
}

static int patient(void **state) { return setup_with(state, 20000); }
static int hasty(void **state) { return setup_with(state, 300); }

static int teardown(void **state) {
  rig *r = *state;
  raw_loop_stop(&r->loop);
  weir_http_server_destroy(r->server);
  event_free(r->tick);
  raw_loop_fini(&r->loop);
  pthread_cond_destroy(&r->moved);
  pthread_mutex_destroy(&r->lock);
  free(r);
  return 0;
}

#define HOST      "Host: a\r\n"
#define GET(path) "GET " path " HTTP/1.1\r\n" HOST "\r\n"

static void answers_and_keeps_alive(void **state) {
  rig *r = *state;
  char out[8192];
  const int fd = raw_connect(r->port);
  for (int i = 0; i < 3; i++) {
    raw_puts(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello");
    assert_true(raw_read(fd, "hello", out, sizeof out));
    assert_int_equal(raw_status(out), 200);
    assert_non_null(strstr(out, "Content-Length: 5\r\n"));
    raw_puts(fd, GET("/stream"));
    assert_true(raw_read(fd, "0\r\n\r\n", out, sizeof out));
    assert_non_null(strstr(out, "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"));
  }
  raw_puts(fd, "HEAD /echo HTTP/1.1\r\n" HOST "\r\n" GET("/none"));
  assert_true(raw_read(fd, "none", out, sizeof out));
  const char *second = strstr(out + 1, "HTTP/1.1 404");
  assert_non_null(second); /* nothing of a body between the two */
  assert_memory_equal(second - 4, "\r\n\r\n", 4);
  close(fd);
  wait_for(r, &r->n_records, 8);
}

static void one_by_one_pipelined(void **state) {
  rig *r = *state;
  char out[16384];
  const int fd = raw_connect(r->port);
  static const char two[] =
      "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n" GET(
          "/stream") "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 4\r\nConnection: close\r\n\r\nlast";
  for (const char *p = two; *p; p++) raw_send(fd, p, 1);
  assert_true(raw_read(fd, NULL, out, sizeof out));
  const char *a = strstr(out, "abcde"), *b = strstr(out, "one"), *c = strstr(out, "last");
  assert_true(a && b && c && a < b && b < c);
  close(fd);
}

static void old_clients(void **state) {
  rig *r = *state;
  char out[8192];
  raw_ask(r->port, "GET /stream HTTP/1.0\r\n\r\n", out, sizeof out);
  assert_int_equal(raw_status(out), 200);
  assert_string_equal(raw_body(out), "onetwo");
  raw_ask(r->port, "GET /none HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", out, sizeof out);
  assert_string_equal(raw_body(out), "none");
}

static void refusals_reach_the_client(void **state) {
  rig *r = *state;
  static const struct {
    int code;
    const char *in;
  } rows[] = {
      {400, "GET / HTTP/1.1\r\n\r\n"},
      {400, "GET / HTTP/1.1\nHost: a\n\n"},
      {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"},
      {400,
       "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {405, "BREW /echo HTTP/1.1\r\n" HOST "\r\n"},
      {413, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 100001\r\nExpect: 100-continue\r\n\r\n"},
      {417, "POST /echo HTTP/1.1\r\n" HOST "Expect: more\r\n\r\n"},
      {505, "GET / HTTP/3.0\r\n" HOST "\r\n"},
  };
  char out[8192];
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    raw_ask(r->port, rows[i].in, out, sizeof out);
    assert_int_equal(raw_status(out), rows[i].code);
    assert_non_null(strstr(out, "Connection: close\r\n"));
    assert_non_null(strstr(out, "{\"error\":{\"message\":\""));
    if (rows[i].code == 405) assert_non_null(strstr(out, "\r\nAllow: "));
  }
  /* after an answer on the same connection, and with much of a body on its way */
  const int fd = raw_connect(r->port);
  raw_puts(fd, GET("/none"));
  assert_true(raw_read(fd, "none", out, sizeof out));
  raw_puts(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3000000\r\n\r\n");
  char *body = calloc(1, 3000000);
  raw_send(fd, body, 3000000);
  free(body);
  assert_true(raw_read(fd, NULL, out, sizeof out));
  assert_int_equal(raw_status(out), 413);
  close(fd);
}

static void continues(void **state) {
  rig *r = *state;
  char out[8192];
  const int fd = raw_connect(r->port);
  for (int i = 0; i < 2; i++) {
    raw_puts(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_true(raw_read(fd, "HTTP/1.1 100 Continue\r\n\r\n", out, sizeof out));
    raw_puts(fd, "ok");
    assert_true(raw_read(fd, "ok", out, sizeof out));
  }
  close(fd);
}

static void slow_requests_end(void **state) {
  rig *r = *state;
  static const char *const begun[] = {"GET / HT",
                                      "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nab"};
  char out[8192];
  for (int i = 0; i < 2; i++) {
    raw_ask(r->port, begun[i], out, sizeof out);
    assert_int_equal(raw_status(out), 408);
  }
  raw_ask(r->port, "", out, sizeof out); /* nothing at all: closed without a word */
  assert_string_equal(out, "");
  const int fd = raw_connect(r->port);
  raw_puts(fd, GET("/none"));
  assert_true(raw_read(fd, "none", out, sizeof out));
  assert_true(raw_read(fd, NULL, out, sizeof out));
  assert_string_equal(out, "");
  close(fd);
}

/* A pending answer outlives the time-outs of reading; a hang-up during it is seen; bytes that come meanwhile
 * do no harm. */
static void pending_answers(void **state) {
  rig *r = *state;
  char out[8192];
  int fd = raw_connect(r->port);
  raw_puts(fd, GET("/hold"));
  wait_for(r, &r->n_held, 1);
  close(fd);
  wait_for(r, &r->n_gone, 1);
  wait_for(r, &r->n_records, 1);
  assert_int_equal(r->codes[0], 499);
  assert_true(r->gone[0]);

  fd = raw_connect(r->port);
  raw_puts(fd, GET("/hold"));
  wait_for(r, &r->n_held, 2);
  raw_puts(fd, GET("/none"));
  raw_ask(r->port, "GET /x HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", out, sizeof out);
  assert_int_equal(raw_status(out), 404);
  raw_ask(r->port, "GET /free HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", out, sizeof out);
  assert_true(raw_read(fd, "none", out, sizeof out));
  assert_non_null(strstr(out, "held"));
  close(fd);
  assert_int_equal(r->n_gone, 1);
}

static void readers_that_stall_are_cut(void **state) {
  rig *r = *state;
  const int small = 4096;
  char out[8192];
  int fd = raw_connect(r->port);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  raw_puts(fd, GET("/flood"));
  assert_true(raw_read(fd, "200", out, sizeof out));
  wait_for(r, &r->n_gone, 1);
  close(fd);
  fd = raw_connect(r->port);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  raw_puts(fd, GET("/large"));
  assert_true(raw_read(fd, "200", out, sizeof out));
  wait_for(r, &r->n_records, 2);
  assert_true(r->gone[0] && r->gone[1]);
  assert_int_equal(r->n_gone, 1); /* the owner of a whole answer was done with it */
  close(fd);
}

static void connections_are_bounded(void **state) {
  rig *r = *state;
  char out[8192];
  int fd[8];
  for (int i = 0; i < 8; i++) {
    fd[i] = raw_connect(r->port);
    raw_puts(fd[i], GET("/none"));
    assert_true(raw_read(fd[i], "none", out, sizeof out));
  }
  raw_ask(r->port, GET("/none"), out, sizeof out); /* nobody has been silent for long */
  assert_int_equal(raw_status(out), 503);
  assert_non_null(strstr(out, "Retry-After: 1\r\n"));
  raw_ask(r->port, GET("/health") GET("/none"), out, sizeof out); /* one, and closed */
  assert_int_equal(raw_status(out), 404);
  assert_null(strstr(out + 1, "HTTP/1.1"));
  raw_ask(r->port, "", out, sizeof out); /* one that says nothing has no minute */
  assert_int_equal(raw_status(out), 503);
  /* by now the eight have been silent for two seconds: the one that was so for longest makes room */
  const int late = raw_connect(r->port);
  raw_puts(late, GET("/none"));
  assert_true(raw_read(late, "none", out, sizeof out));
  assert_int_equal(raw_status(out), 404);
  assert_null(strstr(out, "Connection: close"));
  assert_true(raw_read(fd[0], NULL, out, sizeof out));
  assert_string_equal(out, "");
  raw_puts(fd[1], GET("/none"));
  assert_true(raw_read(fd[1], "none", out, sizeof out));
  close(late);
  for (int i = 0; i < 8; i++) close(fd[i]);
}

/* However many come and say nothing, or half of something, /health is answered. */
static void a_flood_leaves_room(void **state) {
  rig *r = *state;
  enum { FLOOD = 100 };
  char out[8192];
  int fd[FLOOD];
  for (int half = 0; half < 2; half++) {
    char byte;
    raw_loop_stop(&r->loop); /* so that all come at once */
    assert_int_equal(read(r->loop.pipe[0], &byte, 1), 1);
    for (int i = 0; i < FLOOD; i++) {
      fd[i] = raw_connect(r->port);
      if (half) raw_puts(fd[i], "GET / HT");
    }
    raw_loop_start(&r->loop);
    raw_ask(r->port, "GET /health HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", out, sizeof out);
    assert_int_equal(raw_status(out), 404);
    for (int i = 0; i < FLOOD; i++) close(fd[i]);
  }
}

/* A body is not read for who may not send it. */
static void heads_are_refused_before_bodies(void **state) {
  rig *r = *state;
  char out[8192];
  raw_ask(r->port,
          "POST /closed?a=b HTTP/1.1\r\n" HOST "Content-Length: 90000\r\nExpect: 100-continue\r\n\r\n", out,
          sizeof out);
  assert_int_equal(raw_status(out), 401);
  assert_non_null(strstr(out, "\r\nWWW-Authenticate: Bearer\r\n"));
  assert_non_null(strstr(out, "\"code\":\"invalid_api_key\""));
  raw_ask(r->port, "POST /closed HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", out, sizeof out);
  assert_int_equal(raw_status(out), 401);
  raw_ask(r->port,
          "POST /closed HTTP/1.1\r\n" HOST "x-pass: 1\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
          out, sizeof out);
  assert_int_equal(raw_status(out), 404);
}

static void begin_drain(evutil_socket_t fd, short what, void *ctx) {
  rig *r = ctx;
  (void)fd;
  (void)what;
  weir_http_server_drain(r->server);
  r->before = weir_http_server_busy(r->server);
}

static void look_busy(evutil_socket_t fd, short what, void *ctx) {
  rig *r = ctx;
  const struct timeval soon = {0, 10000};
  (void)fd;
  (void)what;
  if (weir_http_server_busy(r->server) == 0)
    event_base_loopbreak(r->loop.base);
  else
    event_base_once(r->loop.base, -1, EV_TIMEOUT, look_busy, r, &soon);
}

/* What has begun is finished within a second, or told; what is answered is waited for. */
static void drains(void **state) {
  rig *r = *state;
  char out[8192];
  const struct timeval now = {0, 0};
  const int half = raw_connect(r->port), good = raw_connect(r->port), idle = raw_connect(r->port);
  raw_puts(half, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nab");
  raw_puts(good, "GET /no");
  const int held = raw_connect(r->port);
  raw_puts(held, GET("/hold"));
  wait_for(r, &r->n_held, 1);
  close(held);
  wait_for(r, &r->n_gone, 1);
  raw_loop_stop(&r->loop);
  char byte;
  assert_int_equal(read(r->loop.pipe[0], &byte, 1), 1);
  event_base_once(r->loop.base, -1, EV_TIMEOUT, begin_drain, r, &now);
  event_base_once(r->loop.base, -1, EV_TIMEOUT, look_busy, r, &now);
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  raw_loop_start(&r->loop);
  raw_puts(good, "ne HTTP/1.1\r\n" HOST "\r\n");
  assert_true(raw_read(good, NULL, out, sizeof out));
  assert_int_equal(raw_status(out), 404);
  assert_true(raw_read(half, NULL, out, sizeof out));
  assert_int_equal(raw_status(out), 503);
  assert_true(raw_read(idle, NULL, out, sizeof out));
  assert_string_equal(out, "");
  pthread_join(r->loop.thread, NULL);
  clock_gettime(CLOCK_MONOTONIC, &to);
  assert_true(to.tv_sec - from.tv_sec < 8); /* head and body had twenty */
  assert_int_equal(r->before, 2);
  raw_loop_start(&r->loop); /* for the teardown */
  close(half);
  close(good);
  close(idle);
}

/* A name may stand for addresses that are not there; when none is, that is told. */
static void absent_addresses_are_skipped(void **state) {
  rig *r = *state;
  weir_err e = {0};
  raw_loop_stop(&r->loop);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
                     away = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc0000201)}; /* 192.0.2.1 */
  struct addrinfo second = {.ai_family = AF_INET,
                            .ai_addr = (struct sockaddr *)&here,
                            .ai_addrlen = sizeof here},
                  first = {.ai_family = AF_INET,
                           .ai_addr = (struct sockaddr *)&away,
                           .ai_addrlen = sizeof away,
                           .ai_next = &second};
  assert_int_equal(weir_http_server_listen_list(r->server, "name:1", &first, &e), WEIR_OK);
  first.ai_next = NULL;
  assert_int_equal(weir_http_server_listen_list(r->server, "name:1", &first, &e), WEIR_EIO);
  assert_non_null(strstr(e.msg, "name:1"));
  char byte;
  assert_int_equal(read(r->loop.pipe[0], &byte, 1), 1);
  raw_loop_start(&r->loop);
}

static void loopback(void **state) {
  (void)state;
  static const struct {
    const char *address;
    int want; /* 1 loopback, 0 not, -1 refused */
  } rows[] = {{"127.0.0.1:80", 1}, {"127.9.9.9:0", 1}, {"[::1]:80", 1},  {"0.0.0.0:80", 0},
              {":80", 0},          {"*:80", 0},        {"[::]:80", 0},   {"10.0.0.1:80", 0},
              {"::1:80", -1},      {"127.0.0.1", -1},  {"1.2.3.4:", -1}, {"a:99999", -1},
              {"a:-1", -1}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    bool is = false;
    weir_err e = {0};
    const weir_status st = weir_http_is_loopback(rows[i].address, &is, &e);
    const int got = st != WEIR_OK ? -1 : is;
    if (got != rows[i].want) fail_msg("%s: %d, want %d (%s)", rows[i].address, got, rows[i].want, e.msg);
  }
}

#define TEST(f)  cmocka_unit_test_setup_teardown(f, patient, teardown)
#define HASTY(f) cmocka_unit_test_setup_teardown(f, hasty, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(answers_and_keeps_alive),
      TEST(one_by_one_pipelined),
      TEST(old_clients),
      TEST(refusals_reach_the_client),
      TEST(continues),
      HASTY(slow_requests_end),
      HASTY(pending_answers),
      HASTY(readers_that_stall_are_cut),
      TEST(connections_are_bounded),
      TEST(a_flood_leaves_room),
      TEST(heads_are_refused_before_bodies),
      TEST(drains),
      TEST(absent_addresses_are_skipped),
      cmocka_unit_test(loopback),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
