/* SPDX-License-Identifier: Apache-2.0 */
/* Servers of a test. Owns their processes and folders. */
#define _GNU_SOURCE
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

enum { MAX_SERVERS = 24, LIMIT_MS = 60000, RUN_LIMIT_S = 120 };

static serving started[MAX_SERVERS];
static int n_started;

static void tick(void) { poll(NULL, 0, 10); }

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

serving serving_begin(const char *options, const char *const *env) {
  serving s = {.pid = 0};
  char line[2048], *argv[E2E_MAX_ARGS];
  assert_true(n_started < MAX_SERVERS);
  strcpy(s.folder, "/tmp/weir-test-XXXXXX");
  assert_non_null(mkdtemp(s.folder));
  snprintf(s.log, sizeof s.log, "%s/log", s.folder);
  snprintf(s.ready, sizeof s.ready, "%s/ready", s.folder);
  snprintf(line, sizeof line, "serve --runtime-dir %s --ready-file %s %s", s.folder, s.ready, options);
  char *words = e2e_split(line, argv);
  e2e_write(s.log, "", 0);
  s.pid = fork();
  assert_true(s.pid >= 0);
  if (s.pid == 0) {
    const int log = open(s.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed leaves no server behind */
    dup2(log, 1);
    dup2(log, 2);
    for (; env && *env; env++) putenv((char *)*env);
    execv(argv[0], argv);
    _exit(127);
  }
  free(words);
  started[n_started++] = s;
  return s;
}

static void forget(pid_t pid) {
  for (int i = 0; i < n_started; i++)
    if (started[i].pid == pid) started[i].pid = 0;
}

static bool over(const serving *s, int *status) {
  int how;
  if (waitpid(s->pid, &how, WNOHANG) != s->pid) return false;
  *status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
  forget(s->pid);
  return true;
}

void serving_wait_ready(serving *s) {
  int status;
  json_t *o = NULL;
  for (int ms = 0; !(o = json_load_file(s->ready, 0, NULL)); ms += 10) {
    if (over(s, &status)) fail_msg("the server ended with %d:\n%s", status, serving_log(s));
    if (ms >= LIMIT_MS) fail_msg("the server is not ready:\n%s", serving_log(s));
    tick();
  }
  const char *http = json_string_value(json_object_get(o, "http"));
  const char *rpc = json_string_value(json_array_get(json_object_get(o, "rpc"), 0));
  assert_non_null(rpc);
  snprintf(s->rpc, sizeof s->rpc, "%s", rpc);
  if (http) assert_int_equal(sscanf(http, "http://127.0.0.1:%d", &s->port), 1);
  assert_int_equal(json_integer_value(json_object_get(o, "pid")), s->pid);
  json_decref(o);
}

serving serving_start(const char *options, const char *const *env) {
  serving s = serving_begin(options, env);
  serving_wait_ready(&s);
  return s;
}

char *serving_log(const serving *s) { return e2e_read(s->log); }

void serving_wait_log(const serving *s, const char *words) {
  for (int ms = 0;; ms += 10) {
    char *log = serving_log(s);
    const bool there = strstr(log, words) != NULL;
    if (!there && ms >= LIMIT_MS) fail_msg("the log never has \"%s\":\n%s", words, log);
    free(log);
    if (there) return;
    tick();
  }
}

int serving_wait(serving *s) {
  int status = -1;
  for (int ms = 0; !over(s, &status); ms += 10) {
    if (ms >= LIMIT_MS) fail_msg("the server does not end:\n%s", serving_log(s));
    tick();
  }
  return status;
}

pid_t serving_child(const serving *s) {
  char path[64];
  int pid = 0;
  snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)s->pid, (int)s->pid);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  if (fscanf(f, "%d", &pid) != 1) pid = 0;
  fclose(f);
  return pid;
}

int serving_cleanup(void **state) {
  (void)state;
  int bad = 0;
  for (int i = 0; i < n_started; i++) {
    char command[96];
    if (started[i].pid > 0) {
      kill(started[i].pid, SIGKILL);
      waitpid(started[i].pid, NULL, 0);
    }
    snprintf(command, sizeof command, "rm -rf -- '%s'", started[i].folder);
    bad |= system(command);
  }
  n_started = 0;
  return bad ? -1 : 0;
}

/* ---- the client library ---- */

weir_client *serving_client(const serving *s, const char *token) {
  weir_client *c = NULL;
  weir_client_error e;
  const weir_client_cfg cfg = {
      .url = s->rpc, .token = token, .poll_ms = 500, .resend_ms = 2000, .lost_after_ms = 3000};
  if (weir_client_open(&cfg, &c, &e) != 0) fail_msg("client: %s", e.message);
  return c;
}

static void on_start(void *ctx, uint32_t prompt_tokens) {
  asked *a = ctx;
  assert_true(prompt_tokens > 0);
  a->taken = true;
}

static void on_token(void *ctx, const weir_client_token *t) {
  asked *a = ctx;
  assert_int_equal(t->index, a->n_tokens);
  a->n_tokens++;
  if (a->len + t->len >= sizeof a->text) fail_msg("a text of more than %d bytes", SERVING_TEXT);
  memcpy(a->text + a->len, t->text, t->len);
  a->len += t->len;
  a->text[a->len] = '\0';
}

static void on_end(void *ctx, const weir_client_end *end) {
  asked *a = ctx;
  a->n_ends++;
  snprintf(a->reason, sizeof a->reason, "%s", end->reason);
  a->error = end->error;
}

void serving_ask(weir_client *c, const weir_client_request *q, asked *into) {
  weir_client_error e;
  const weir_client_events events = {
      .on_start = on_start, .on_token = on_token, .on_end = on_end, .ctx = into};
  *into = (asked){.n_tokens = 0};
  if (weir_client_submit(c, q, &events, &e) <= 0) fail_msg("submit: %s", e.message);
}

void serving_run(weir_client *c, bool (*done)(void *ctx), void *ctx) {
  const double until = seconds() + RUN_LIMIT_S;
  while (!done(ctx)) {
    if (seconds() > until) fail_msg("nothing more comes from the server");
    weir_client_run(c, 100);
  }
}

/* ---- HTTP ---- */

int http_send(int port, const char *path, const char *key, const char *body) {
  char head[512], bearer[160] = "";
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const struct timeval limit = {.tv_sec = RUN_LIMIT_S};
  a.sin_port = htons((uint16_t)port);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
    close(fd);
    return -1;
  }
  if (key) snprintf(bearer, sizeof bearer, "Authorization: Bearer %s\r\n", key);
  const int n = snprintf(head, sizeof head,
                         "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                         body ? "POST" : "GET", path, bearer, body ? strlen(body) : 0);
  assert_int_equal(send(fd, head, (size_t)n, MSG_NOSIGNAL), n);
  if (body) assert_int_equal(send(fd, body, strlen(body), MSG_NOSIGNAL), strlen(body));
  return fd;
}

/* Puts the chunks of a chunked body together, in place. */
static void join_chunks(char *body) {
  char *to = body, *from = body;
  for (;;) {
    char *end;
    const unsigned long n = strtoul(from, &end, 16);
    if (end == from || strncmp(end, "\r\n", 2) != 0 || n == 0 || strlen(end + 2) < n) break;
    memmove(to, end + 2, n);
    to += n;
    from = end + 2 + n;
    if (!strncmp(from, "\r\n", 2)) from += 2;
  }
  *to = '\0';
}

http_answer http_receive(int fd) {
  http_answer a = {.status = 0};
  size_t len = 0, cap = 1 << 16;
  char *all = malloc(cap);
  assert_non_null(all);
  for (ssize_t n; (n = read(fd, all + len, cap - len - 1)) > 0;) {
    len += (size_t)n;
    if (cap - len < 4096) {
      cap *= 2;
      all = realloc(all, cap);
      assert_non_null(all);
    }
  }
  all[len] = '\0';
  close(fd);
  char *gap = strstr(all, "\r\n\r\n");
  if (gap) {
    *gap = '\0';
    a.body = strdup(gap + 4);
    if (sscanf(all, "HTTP/1.1 %d", &a.status) != 1) fail_msg("not HTTP: %.200s", all);
    if (strcasestr(all, "transfer-encoding: chunked")) join_chunks(a.body);
  } else {
    a.body = strdup("");
  }
  a.head = all;
  return a;
}

http_answer http_ask(int port, const char *path, const char *key, const char *body) {
  const int fd = http_send(port, path, key, body);
  if (fd < 0) return (http_answer){.head = strdup(""), .body = strdup("")};
  return http_receive(fd);
}

void http_free(http_answer *a) {
  free(a->head);
  free(a->body);
  *a = (http_answer){0};
}
