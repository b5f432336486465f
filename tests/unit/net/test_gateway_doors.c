/* SPDX-License-Identifier: Apache-2.0 */
/* Who may speak to the gateway, how many, and how it ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>

#include "base/log.h"
#include "fake_client.h"
#include "gateway_rig.h"

static int setup(void **state) {
  fake_reset();
  *state = rig_ready(one, 1);
  return 0;
}

static int teardown(void **state) {
  rig_stop(*state);
  return 0;
}

/* ---- who may ---- */

static void keys(void **state) {
  (void)state;
  fake_reset();
  static const char *const key[] = {"sesame", "second"};
  rig *r =
      rig_start((weir_gw_cfg){.engine = one, .n_engines = 1, .key = key, .n_keys = 2, .cors = "https://a.b"});
  rig_until(r, "/ready", 200);
  static const struct {
    const char *path, *header;
    int code;
  } rows[] = {{"/health", "", 200},
              {"/", "", 200},
              {"/v1/models", "", 401},
              {"/metrics", "", 401},
              {"/stats", "", 401},
              {"/nothing", "", 401},
              {"/v1/models", "Authorization: Bearer sesame\r\n", 200},
              {"/v1/models", "authorization: bearer  second\r\n", 200},
              {"/v1/models", "X-Api-Key: second\r\n", 200},
              {"/v1/models", "Authorization: Bearer sesam\r\n", 401},
              {"/v1/models", "Authorization: Bearer sesame2\r\n", 401},
              {"/v1/models", "Authorization: Bearer \r\n", 401},
              {"/v1/models", "Authorization: Basic sesame\r\n", 401},
              {"/nothing", "Authorization: Bearer sesame\r\n", 404}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char ask[256];
    snprintf(ask, sizeof ask, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n",
             rows[i].path, rows[i].header);
    raw_ask(r->port, ask, out, OUT);
    if (raw_status(out) != rows[i].code) fail_msg("%s %s: %s", rows[i].path, rows[i].header, out);
    assert_non_null(strstr(out, "Access-Control-Allow-Origin: https://a.b\r\n"));
  }
  raw_ask(r->port, "OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", out,
          OUT);
  assert_int_equal(raw_status(out), 204);
  assert_non_null(strstr(out, "Access-Control-Allow-Methods: "));
  assert_non_null(strstr(out, "Access-Control-Allow-Headers: Authorization, Content-Type, X-Api-Key\r\n"));
  raw_ask(r->port,
          "OPTIONS /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
          "Access-Control-Request-Headers: authorization,x-stainless-lang, x-stainless-os\r\n\r\n",
          out, OUT);
  assert_non_null(
      strstr(out, "Access-Control-Allow-Headers: authorization,x-stainless-lang, x-stainless-os\r\n"));
  raw_ask(r->port,
          "OPTIONS /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
          "Access-Control-Request-Headers: a;b\r\n\r\n",
          out, OUT);
  assert_non_null(strstr(out, "Access-Control-Allow-Headers: Authorization, Content-Type, X-Api-Key\r\n"));
  /* without a key no byte of a body is waited for */
  raw_ask(r->port, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", out, OUT);
  assert_int_equal(raw_status(out), 401);
  assert_non_null(strstr(out, "WWW-Authenticate: Bearer\r\n"));
  raw_ask(
      r->port,
      "POST /nothing HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sesame\r\nContent-Length: 1\r\nConnection: "
      "close\r\n\r\nx",
      out, OUT);
  assert_int_equal(raw_status(out), 404);
  rig_stop(r);
}

/* A page whose name was made to lead here is a page of somebody else's. */
static void hosts(void **state) {
  (void)state;
  fake_reset();
  static const char *const host[] = {"weir.example"};
  rig *r = rig_start((weir_gw_cfg){.engine = one, .n_engines = 1, .host = host, .n_hosts = 1});
  rig_until(r, "/ready", 200);
  static const struct {
    const char *path, *host;
    int code;
  } rows[] = {{"/stats", "localhost", 200},          {"/stats", "LOCALHOST:8000", 200},
              {"/stats", "127.0.0.1", 200},          {"/stats", "127.0.0.1:8000", 200},
              {"/stats", "10.1.2.3:8000", 200},      {"/stats", "[::1]:8000", 200},
              {"/stats", "weir.example:80", 200},    {"/stats", "weir.example.", 200},
              {"/stats", "evil.example", 403},       {"/", "evil.example", 403},
              {"/stats", "localhost.evil", 403},     {"/stats", "127.0.0.1.evil", 403},
              {"/stats", "[::1].evil", 403},         {"/stats", "[evil]", 403},
              {"/health", "evil.example:8000", 200}, {"/stats", "", 403}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char ask[256];
    snprintf(ask, sizeof ask, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", rows[i].path,
             rows[i].host);
    raw_ask(r->port, ask, out, OUT);
    if (raw_status(out) != rows[i].code) fail_msg("%s %s: %s", rows[i].path, rows[i].host, out);
  }
  raw_ask(r->port, "GET /stats HTTP/1.0\r\n\r\n", out, OUT);
  assert_int_equal(raw_status(out), 200);
  rig_stop(r);
}

/* A table full of the silent leaves /health to be asked. */
static void health_on_a_full_table(void **state) {
  (void)state;
  fake_reset();
  enum { MOST = 4 };
  rig *r = rig_start((weir_gw_cfg){.engine = one, .n_engines = 1, .max_connections = MOST});
  int fd[MOST];
  rig_until(r, "/ready", 200);
  for (int i = 0; i < MOST; i++) {
    fd[i] = raw_connect(r->port);
    raw_puts(fd[i], "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
  }
  rig_until(r, "/stats", 503);
  rig_get(r, "/health");
  assert_int_equal(raw_status(out), 200);
  rig_get(r, "/ready");
  assert_int_equal(raw_status(out), 200);
  for (int i = 0; i < MOST; i++) close(fd[i]);
  rig_until(r, "/stats", 200);
  rig_stop(r);
}

static void says_that_it_loads(void **state) {
  (void)state;
  fake_reset();
  fake_engine_of("fake:a")->silent = true;
  rig *r = rig_start((weir_gw_cfg){.engine = one, .n_engines = 1});
  rig_get(r, "/health");
  assert_int_equal(raw_status(out), 503);
  assert_non_null(strstr(out, "loading"));
  rig_stop(r);
}

static void addresses_of_others_need_a_key(void **state) {
  (void)state;
  struct {
    const char *listen;
    bool insecure, key;
    weir_status want;
  } rows[] = {{"0.0.0.0:0", false, false, WEIR_EINVAL},
              {"0.0.0.0:0", true, false, WEIR_OK},
              {"0.0.0.0:0", false, true, WEIR_OK},
              {"127.0.0.1:0", false, false, WEIR_OK},
              {"127.0.0.1", false, false, WEIR_EINVAL}};
  static const char *const key[] = {"k"};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    raw_loop l;
    weir_gw *g = NULL;
    weir_err e = {0};
    raw_loop_init(&l);
    const weir_gw_cfg cfg = {.listen = rows[i].listen,
                             .engine = one,
                             .n_engines = 1,
                             .insecure = rows[i].insecure,
                             .key = key,
                             .n_keys = rows[i].key};
    const weir_status st = weir_gw_create(l.base, &cfg, &g, &e);
    if (st != rows[i].want) fail_msg("%s: %d %s", rows[i].listen, st, e.msg);
    weir_gw_destroy(g);
    raw_loop_fini(&l);
  }
}

/* ---- the end ---- */

static void begin_drain(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  weir_gw_drain(ctx, 200);
}

static void begin_long_drain(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  weir_gw_drain(ctx, 60000);
}

static void drains(void **state) {
  rig *r = *state;
  const int held = raw_connect(r->port);
  char ask[512];
  rig_format_post(ask, sizeof ask, "/v1/completions", "{\"prompt\":\"hold decode\",\"stream\":true}");
  raw_puts(held, ask);
  assert_true(raw_read(held, "\"text\":\"Hel\"", out, OUT));
  const int half = raw_connect(r->port); /* a request that does not come is not waited for */
  char half_out[1024];
  raw_puts(half, "GET /sta");
  rig_pause(r);
  struct timeval now = {0, 0};
  event_base_once(r->loop.base, -1, EV_TIMEOUT, begin_drain, r->gw, &now);
  rig_go_on(r);
  pthread_join(r->loop.thread, NULL); /* the held request does not end: the time to drain does */
  r->running = false;
  assert_true(weir_gw_was_cut(r->gw));
  weir_gw_destroy(r->gw);
  r->gw = NULL;
  assert_true(raw_read(held, NULL, out, OUT));
  assert_non_null(strstr(out, "\"type\":\"overloaded_error\"")); /* it was told */
  assert_true(raw_read(half, NULL, half_out, sizeof half_out));
  close(half);
  close(held);
  assert_int_equal(fake_engine_of("fake:a")->open, 0);
}

/* With nothing to answer it does not wait for its time. */
static void drains_at_once(void **state) {
  rig *r = *state;
  const time_t from = time(NULL);
  const struct timeval now = {0, 0};
  const int half = raw_connect(r->port);
  raw_puts(half, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx");
  rig_get(r, "/health");
  rig_pause(r);
  event_base_once(r->loop.base, -1, EV_TIMEOUT, begin_long_drain, r->gw, &now);
  rig_go_on(r);
  pthread_join(r->loop.thread, NULL);
  r->running = false;
  assert_true(time(NULL) - from < 8);
  assert_false(weir_gw_was_cut(r->gw));
  close(half);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  weir_log_set_level(WEIR_LOG_ERROR);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(keys),
      cmocka_unit_test(hosts),
      cmocka_unit_test(health_on_a_full_table),
      cmocka_unit_test(says_that_it_loads),
      cmocka_unit_test(addresses_of_others_need_a_key),
      TEST(drains),
      TEST(drains_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
