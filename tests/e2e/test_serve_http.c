/* SPDX-License-Identifier: Apache-2.0 */
/* `weir serve` with its gateway: it serves the demo's file, finishes streams when it is asked to end, keeps a
 * gateway running that dies, leaves none behind, and gives keys away to nobody. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "serving.h"

static const char completion[] =
    "{\"prompt\": \"Once upon a time\", \"max_tokens\": 5, \"ignore_eos\": true}";

static void want_status(int port, const char *path, const char *key, const char *body, int status) {
  http_answer a = http_ask(port, path, key, body);
  if (a.status != status) fail_msg("%s: status %d, want %d: %s", path, a.status, status, a.body);
  http_free(&a);
}

static void stop(serving *s) {
  assert_int_equal(kill(s->pid, SIGTERM), 0);
  const int status = serving_wait(s);
  if (status != 0) fail_msg("exit status %d\n%s", status, serving_log(s));
}

/* As the documentation has it, on another port; all answers that a user looks at first. */
static void test_demo(void **state) {
  (void)state;
  serving s = serving_start("-c configs/demo.yaml --listen 127.0.0.1:0", NULL);
  static const char chat[] =
      "{\"messages\": [{\"role\": \"user\", \"content\": \"Convert 7 hours and 25 minutes to minutes.\"}]}";
  want_status(s.port, "/health", NULL, NULL, 200);
  want_status(s.port, "/ready", NULL, NULL, 200);
  want_status(s.port, "/", NULL, NULL, 200);
  http_answer a = http_ask(s.port, "/v1/chat/completions", NULL, chat);
  assert_int_equal(a.status, 200);
  e2e_want_in(a.body, "445", "the answer");
  http_free(&a);
  a = http_ask(s.port, "/v1/models", NULL, NULL);
  e2e_want_in(a.body, "\"weir-demo\"", "the models");
  http_free(&a);
  a = http_ask(s.port, "/metrics", NULL, NULL);
  e2e_want_in(a.body, "weir:tokens_total", "the metrics");
  http_free(&a);
  want_status(s.port, "/v1/chat/completions", NULL,
              "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"max_tokens\": 449}", 400);
  char *log = serving_log(&s), url[64];
  snprintf(url, sizeof url, "http://127.0.0.1:%d/", s.port);
  e2e_want_in(log, url, "the log");
  e2e_want_in(log, "try: curl http://127.0.0.1:", "the log");
  free(log);
  stop(&s);
}

/* A rate over HTTP: what an answer says of it follows from its receipts, and no request gets more than the
 * server gives. */
static void test_defer_rate(void **state) {
  (void)state;
  serving s = serving_start("--listen 127.0.0.1:0 --defer-rate 0.2 --defer-burst 4", NULL);
  static const char body[] =
      "{\"prompt\": \"Once upon a time\", \"max_tokens\": 200, \"ignore_eos\": true, \"seed\": 5, "
      "\"weir\": {\"receipts\": true, \"defer_rate\": 0.5, \"defer_burst\": 2}}";
  http_answer a = http_ask(s.port, "/v1/completions", NULL, body);
  if (a.status != 200) fail_msg("status %d: %s", a.status, a.body);
  json_t *o = json_loads(a.body, 0, NULL);
  assert_non_null(o);
  const json_t *w = json_object_get(json_object_get(o, "usage"), "weir");
  const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
  const json_t *receipts = json_object_get(json_object_get(choice, "weir"), "tokens");
  assert_int_equal(json_array_size(receipts), 200);
  double large = 0;
  for (size_t i = 0; i < 200; i++) {
    const json_t *t = json_array_get(receipts, i), *tau = json_object_get(t, "tau");
    const bool deferred = !strcmp(json_string_value(json_object_get(t, "why")), "deferred");
    const bool asks = json_is_number(tau) && /* null: the bucket is empty */
                      json_number_value(json_object_get(t, "H")) > json_number_value(tau);
    if (deferred != asks) fail_msg("token %zu is %s", i, deferred ? "deferred" : "kept");
    large += deferred;
  }
  const double rate = json_number_value(json_object_get(w, "realised_rate"));
  assert_true(rate > large / 200 - 1e-5 && rate < large / 200 + 1e-5);
  assert_true(large >= 1 && large <= 2 + 0.2 * 199 + 1e-6); /* its own burst, the server's rate */
  const double held = json_number_value(json_object_get(w, "defer_rate"));
  assert_true(held > 0.199 && held < 0.201);
  json_decref(o);
  http_free(&a);
  want_status(s.port, "/v1/completions", NULL, "{\"prompt\": \"x\", \"weir\": {\"entropy\": 1}}", 400);
  want_status(s.port, "/v1/completions", NULL, "{\"prompt\": \"x\", \"weir\": {\"defer_rate\": 1.1}}", 400);
  want_status(s.port, "/v1/completions", NULL,
              "{\"prompt\": \"x\", \"weir\": {\"mode\": \"exact\", \"defer_rate\": 0.1}}", 400);
  a = http_ask(s.port, "/v1/models", NULL, NULL); /* so that the page offers no threshold */
  e2e_want_in(a.body, "\"entropy\":null,", "the model");
  e2e_want_in(a.body, "\"defer_rate\":0.2,", "the model");
  http_free(&a);
  a = http_ask(s.port, "/metrics", NULL, NULL);
  e2e_want_in(a.body, "weir:deferral_budget_decisions_total{model_name=\"weir-demo\"} 200\n", "the metrics");
  http_free(&a);
  stop(&s);
}

/* While models are loaded (here: from a pipe that nobody writes to) HTTP is answered, with 503; a signal ends
 * it then and there, with the gateway. */
static void test_loading(void **state) {
  (void)state;
  char pipe_path[96], options[160];
  snprintf(pipe_path, sizeof pipe_path, "%s", e2e_temp("slow.gguf"));
  assert_int_equal(unlink(pipe_path), 0);
  assert_int_equal(mkfifo(pipe_path, 0600), 0);
  snprintf(options, sizeof options, "--listen 127.0.0.1:0 --small %s", pipe_path);
  serving s = serving_begin(options, NULL);
  serving_wait_log(&s, "listening on");
  char *log = serving_log(&s);
  int port = 0;
  assert_int_equal(sscanf(strstr(log, "listening on"), "listening on 127.0.0.1:%d", &port), 1);
  free(log);
  want_status(port, "/health", NULL, NULL, 503);
  want_status(port, "/ready", NULL, NULL, 503);
  http_answer said = http_ask(port, "/ready", NULL, NULL);
  e2e_want_in(said.body, "loading", "/ready");
  http_free(&said);
  want_status(port, "/v1/completions", NULL, completion, 503);
  assert_int_equal(access(s.ready, F_OK), -1);
  assert_int_equal(kill(s.pid, SIGTERM), 0);
  assert_int_equal(serving_wait(&s), 128 + SIGTERM);
  int status = 1;
  for (int i = 0; i < 500 && status != 0; i++) {
    http_answer a = http_ask(port, "/health", NULL, NULL);
    status = a.status;
    http_free(&a);
    if (status != 0) poll(NULL, 0, 10);
  }
  assert_int_equal(status, 0); /* nobody answers any more */
}

/* Streams under way and waiting when the end is asked for come whole; who comes then is told 503. */
static void test_drains(void **state) {
  (void)state;
  enum { STREAMS = 6 };
  static const char body[] =
      "{\"prompt\": \"Once upon a time\", \"max_tokens\": 120, \"ignore_eos\": true, \"stream\": true, "
      "\"temperature\": 0, \"weir\": {\"mode\": \"large\"}, \"stream_options\": {\"include_usage\": true}}";
  serving s = serving_start("--listen 127.0.0.1:0 --max-active 1 --drain-timeout 300", NULL);
  int fd[STREAMS];
  char first;
  for (int i = 0; i < STREAMS; i++) {
    fd[i] = http_send(s.port, "/v1/completions", NULL, body);
    assert_true(fd[i] >= 0);
  }
  for (int i = 0; i < STREAMS; i++) /* a status line: the engine has taken it */
    assert_int_equal(recv(fd[i], &first, 1, MSG_PEEK), 1);
  assert_int_equal(kill(s.pid, SIGTERM), 0);
  serving_wait_log(&s, "draining");
  http_answer late = http_ask(s.port, "/v1/completions", NULL, completion);
  if (late.status != 503 && late.status != 0)
    fail_msg("a late one gets %d", late.status); /* 0: gone already */
  http_free(&late);
  for (int i = 0; i < STREAMS; i++) {
    http_answer a = http_receive(fd[i]);
    assert_int_equal(a.status, 200);
    e2e_want_in(a.body, "\"completion_tokens\":120", "a stream");
    e2e_want_in(a.body, "data: [DONE]", "a stream");
    if (strstr(a.body, "\"error\"")) fail_msg("stream %d has an error: %s", i, strstr(a.body, "\"error\""));
    http_free(&a);
  }
  assert_int_equal(serving_wait(&s), 0);
}

/* Asked twice: streams end with an error, and soon. */
static void test_cut(void **state) {
  (void)state;
  enum { STREAMS = 16 };
  static const char body[] =
      "{\"prompt\": \"Once upon a time\", \"max_tokens\": 450, \"ignore_eos\": true, \"stream\": true, "
      "\"weir\": {\"mode\": \"large\"}}";
  serving s = serving_start("--listen 127.0.0.1:0 --max-active 1", NULL);
  int fd[STREAMS], cut = 0;
  char first;
  for (int i = 0; i < STREAMS; i++) {
    fd[i] = http_send(s.port, "/v1/completions", NULL, body);
    assert_true(fd[i] >= 0);
  }
  for (int i = 0; i < STREAMS; i++) assert_int_equal(recv(fd[i], &first, 1, MSG_PEEK), 1);
  assert_int_equal(kill(s.pid, SIGINT), 0);
  serving_wait_log(&s, "draining");
  assert_int_equal(kill(s.pid, SIGINT), 0);
  for (int i = 0; i < STREAMS; i++) {
    http_answer a = http_receive(fd[i]);
    const bool whole = strstr(a.body, "data: [DONE]") && !strstr(a.body, "\"error\"");
    if (!whole) e2e_want_in(a.body, "\"error\"", "a stream that was cut");
    cut += !whole;
    http_free(&a);
  }
  assert_true(cut > 0);
  assert_int_equal(serving_wait(&s), 1);
}

/* A request that never comes is nothing to wait for. */
static void test_drains_at_once(void **state) {
  (void)state;
  serving s = serving_start("--listen 127.0.0.1:0 --drain-timeout 300", NULL);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  a.sin_port = htons((uint16_t)s.port);
  static const char half[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
  assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
  assert_int_equal(send(fd, half, sizeof half - 1, MSG_NOSIGNAL), sizeof half - 1);
  want_status(s.port, "/health", NULL, NULL, 200); /* it has been read */
  stop(&s);                                        /* within what the rig waits, far less than 300 s */
  close(fd);
}

/* Answers that were written and not sent are told as cut. */
static void test_unread(void **state) {
  (void)state;
  /* ten megabytes: more than the system keeps for a connection */
  static const char body[] =
      "{\"prompt\": [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\"], \"max_tokens\": 300, \"n\": 8, "
      "\"ignore_eos\": true, \"logprobs\": 20, \"weir\": {\"mode\": \"small\", \"receipts\": true}}";
  const int small = 4096;
  char first;
  serving s = serving_start("--listen 127.0.0.1:0 --drain-timeout 60", NULL);
  const int fd = http_send(s.port, "/v1/completions", NULL, body);
  assert_true(fd >= 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  assert_int_equal(recv(fd, &first, 1, MSG_PEEK), 1);
  assert_int_equal(kill(s.pid, SIGTERM), 0);
  serving_wait_log(&s, "no new requests; what is under way"); /* the engine has nothing left */
  assert_int_equal(kill(s.pid, SIGTERM), 0);
  assert_int_equal(serving_wait(&s), 1);
  char *log = serving_log(&s);
  e2e_want_in(log, "ended; requests or their answers were cut", "the log");
  assert_null(strstr(log, "all requests have ended"));
  free(log);
  close(fd);
}

static void test_gateway_dies(void **state) {
  (void)state;
  serving s = serving_start("--listen 127.0.0.1:0", NULL);
  const pid_t first = serving_child(&s);
  assert_true(first > 0);
  want_status(s.port, "/v1/completions", NULL, completion, 200);
  assert_int_equal(kill(first, SIGKILL), 0);
  serving_wait_log(&s, "the gateway was killed by signal 9; it is started again");
  serving_wait_log(&s, "the gateway is up again");
  const pid_t second = serving_child(&s);
  assert_true(second > 0 && second != first);
  int status = 0;
  for (int i = 0; i < 200 && status != 200; i++) { /* it has to find the engine */
    http_answer a = http_ask(s.port, "/ready", NULL, NULL);
    status = a.status;
    http_free(&a);
    if (status != 200) poll(NULL, 0, 50);
  }
  assert_int_equal(status, 200);
  want_status(s.port, "/v1/completions", NULL, completion, 200);
  stop(&s);
  assert_int_equal(kill(second, 0), -1);
  assert_int_equal(errno, ESRCH);
}

/* An engine that is killed takes the gateway along: the port is free for the next one. */
static void test_engine_dies(void **state) {
  (void)state;
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1),
                   0); /* the orphan comes to us: its end can be waited for */
  serving s = serving_start("--listen 127.0.0.1:0", NULL);
  const pid_t gateway = serving_child(&s);
  assert_true(gateway > 0);
  assert_int_equal(kill(s.pid, SIGKILL), 0);
  assert_int_equal(serving_wait(&s), 128 + SIGKILL);
  int status;
  assert_int_equal(waitpid(gateway, &status, 0), gateway);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  char options[64];
  snprintf(options, sizeof options, "--listen 127.0.0.1:%d", s.port);
  serving again = serving_start(options, NULL);
  assert_int_equal(again.port, s.port);
  stop(&again);
}

static void test_port_in_use(void **state) {
  (void)state;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof a;
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
  assert_int_equal(listen(fd, 1), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
  e2e_result r = e2e("serve --listen 127.0.0.1:%d", ntohs(a.sin_port));
  e2e_want_status(&r, 1, "a port in use");
  e2e_want_in(r.err, "Address already in use", "a port in use");
  assert_null(strstr(r.err, "KV for")); /* nothing was loaded for that */
  e2e_free(&r);
  close(fd);
}

static char *read_proc(pid_t pid, const char *what) {
  char path[64], *text = calloc(1, 65536);
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
  FILE *f = fopen(path, "r");
  assert_true(f && text);
  const size_t n = fread(text, 1, 65535, f);
  for (size_t i = 0; i < n; i++)
    if (!text[i]) text[i] = '\n';
  fclose(f);
  return text;
}

/* Keys and the token come from the environment; neither is in a command line or in the log. */
static void test_secrets(void **state) {
  (void)state;
  static const char *const env[] = {"WEIR_API_KEY=key-of-today", "WEIR_TOKEN=open-sesame", NULL};
  serving s = serving_start("--listen 127.0.0.1:0 --log-level debug", env);
  want_status(s.port, "/health", NULL, NULL, 200);
  want_status(s.port, "/v1/completions", NULL, completion, 401);
  want_status(s.port, "/v1/completions", "key-of-yesterday", completion, 401);
  want_status(s.port, "/v1/completions", "key-of-today", completion, 200);
  char *texts[] = {read_proc(serving_child(&s), "cmdline"), read_proc(serving_child(&s), "environ"),
                   serving_log(&s)};
  assert_null(strstr(texts[0], "key-of-today"));
  assert_null(strstr(texts[1], "key-of-today")); /* in a file without a name */
  assert_null(strstr(texts[2], "key-of-today"));
  assert_null(strstr(texts[0], "open-sesame"));
  assert_null(strstr(texts[2], "open-sesame"));
  for (int i = 0; i < 3; i++) free(texts[i]);
  stop(&s);
}

/* Engine and gateway share a pipe: every line is one object, and says whose it is. */
static void test_json_log(void **state) {
  (void)state;
  serving s = serving_start("--listen 127.0.0.1:0 --log-format json", NULL);
  for (int i = 0; i < 5; i++) want_status(s.port, "/v1/completions", NULL, completion, 200);
  stop(&s);
  char *log = serving_log(&s);
  int of_engine = 0, of_gateway = 0;
  for (char *p = log; *p;) {
    const size_t len = strcspn(p, "\n");
    json_error_t why;
    json_t *o = json_loadb(p, len, JSON_REJECT_DUPLICATES, &why);
    const char *part = json_string_value(json_object_get(o, "component"));
    if (!part) fail_msg("not JSON with a component (%s): %.*s", why.text, (int)len, p);
    of_engine += !strcmp(part, "engine");
    of_gateway += !strcmp(part, "gateway");
    json_decref(o);
    p += len + 1;
  }
  assert_true(of_engine > 3 && of_gateway > 5);
  free(log);
}

static int tear_down(void **state) { return serving_cleanup(state) | e2e_cleanup(state); }

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_demo),           cmocka_unit_test(test_loading),
      cmocka_unit_test(test_drains),         cmocka_unit_test(test_cut),
      cmocka_unit_test(test_drains_at_once), cmocka_unit_test(test_unread),
      cmocka_unit_test(test_gateway_dies),   cmocka_unit_test(test_engine_dies),
      cmocka_unit_test(test_port_in_use),    cmocka_unit_test(test_secrets),
      cmocka_unit_test(test_json_log),       cmocka_unit_test(test_defer_rate),
  };
  return cmocka_run_group_tests(tests, NULL, tear_down);
}
