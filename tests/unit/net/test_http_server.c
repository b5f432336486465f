/* SPDX-License-Identifier: Apache-2.0 */
/* The server over raw sockets: answers, keep-alive, pipelining, what is refused, what is cut and when. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "http_raw.h"
#include "net/http_server.h"

enum { MAX_RECORDS = 64, BIG = 8 << 20 };

/* What the server's thread saw, read here after a condition. */
typedef struct rig {
  raw_loop loop;
  weir_http_server *server;
  uint16_t port;
  pthread_mutex_t lock;
  pthread_cond_t moved;
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
  raw_ask(r->port, "", out, sizeof out);
  assert_int_equal(raw_status(out), 503);
  assert_non_null(strstr(out, "Retry-After: 1\r\n"));
  for (int i = 0; i < 8; i++) close(fd[i]);
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
      cmocka_unit_test(loopback),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
