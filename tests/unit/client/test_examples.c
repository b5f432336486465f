/* SPDX-License-Identifier: Apache-2.0 */
/* The example frontends, each as its own process against the fake engine: the client library, unmodified NNG,
 * pynng. All show the tokens once and in order, also when every reply comes twice, and say what an engine
 * refuses. SKIP for what was not built or has no Python packages. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "fake_engine.h"

extern char **environ;

enum { LIMIT_MS = 20000 };

typedef struct run { /* of one frontend */
  const char *argv[8];
  pid_t pid;
  int out;
  weir_buf text;
  int status; /* exit status */
} run;

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static void start(run *r) {
  int fd[2];
  assert_int_equal(pipe(fd), 0);
  fcntl(fd[0], F_SETFD, FD_CLOEXEC);
  fcntl(fd[1], F_SETFD, FD_CLOEXEC);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fd[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fd[1], STDERR_FILENO);
  char *argv[8] = {0};
  for (int i = 0; i < 7 && r->argv[i]; i++) argv[i] = (char *)r->argv[i];
  assert_int_equal(posix_spawnp(&r->pid, argv[0], &actions, NULL, argv, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  close(fd[1]);
  r->out = fd[0];
}

/* Serves until the frontend has closed its output; what it said, and its status. `act` is called between. */
static void serve(run *r, fake_engine *f, void (*act)(run *, fake_engine *)) {
  const int64_t until = now_ms() + LIMIT_MS;
  for (bool open = true; open;) {
    struct pollfd fd[2] = {{.fd = f->fd, .events = POLLIN}, {.fd = r->out, .events = POLLIN}};
    int64_t wait = until - now_ms();
    if (wait <= 0) {
      kill(r->pid, SIGKILL);
      print_error("%s: not in time; it said: %s\n", r->argv[0], r->text.data ? r->text.data : "");
      fail();
    }
    const int64_t due = fake_due(f) == INT64_MAX ? until : fake_due(f) / 1000000 + 1;
    if (due - now_ms() < wait) wait = due > now_ms() ? due - now_ms() : 0;
    poll(fd, 2, (int)wait);
    fake_step(f);
    act(r, f);
    if (!fd[1].revents) continue;
    char bytes[4096];
    const ssize_t n = read(r->out, bytes, sizeof bytes);
    open = n > 0;
    if (n > 0) weir_buf_put(&r->text, bytes, (size_t)n, NULL);
  }
  close(r->out);
  int status;
  assert_int_equal(waitpid(r->pid, &status, 0), r->pid);
  r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void write_five(run *r, fake_engine *f) {
  (void)r;
  if (f->n_requests != 1 || f->request[0].reason) return;
  if (f->request[0].written == 0) fake_write(f, 3, NULL);
  if (f->request[0].shown == 3) fake_write(f, 2, "eos"); /* in a second reply */
}

static void interrupt_after_three(run *r, fake_engine *f) {
  if (f->n_requests != 1 || f->request[0].reason) return;
  if (f->request[0].written == 0) fake_write(f, 3, NULL);
  if (f->request[0].shown == 3 && f->ctx == NULL) {
    kill(r->pid, SIGINT);
    f->ctx = f; /* once */
  }
}

static void nothing(run *r, fake_engine *f) { (void)r, (void)f; }

/* The frontend's last word may still be on its way when it has closed its output. */
static void hear_the_rest(fake_engine *f) {
  const int64_t until = now_ms() + LIMIT_MS;
  while (!f->request[0].forgotten && now_ms() < until) {
    struct pollfd fd = {.fd = f->fd, .events = POLLIN};
    poll(&fd, 1, 50);
    fake_step(f);
  }
}

static const char *url_of(const fake_engine *f) { return f->url; }

static void whole_text(const fake_engine *f, uint32_t n, weir_buf *want) {
  for (uint32_t i = 0; i < n; i++) {
    char text[32];
    fake_text(f->request[0].id, i, text);
    weir_buf_puts(want, text, NULL);
  }
}

static void expect(const run *r, int status, const char *text) {
  if (r->status != status || !r->text.data || !strstr(r->text.data, text))
    print_error("%s: status %d, it said: %s\nwanted: %s\n", r->argv[0], r->status,
                r->text.data ? r->text.data : "", text);
  assert_int_equal(r->status, status);
  assert_non_null(r->text.data);
  assert_non_null(strstr(r->text.data, text));
}

/* argv up to the address */
static void frontend(const char *program, const char *script) {
  for (int round = 0; round < 4; round++) {
    fake_engine f;
    fake_open(&f, NULL);
    run r = {.argv = {program}};
    int i = 1;
    if (script) r.argv[i++] = script;
    r.argv[i++] = url_of(&f);
    r.argv[i] = "Once upon a time";
    weir_buf want = {0};
    Weir__V1__Error full = WEIR__V1__ERROR__INIT;
    full.code = 429;
    full.message = "the queue is full";
    f.twice = round == 1;
    if (round == 2) f.error[WEIR_FRAME_SUBMIT] = &full;
    start(&r);
    serve(&r, &f, round == 2 ? nothing : round == 3 ? interrupt_after_three : write_five);
    if (round < 2) {
      whole_text(&f, 5, &want);
      weir_buf_puts(&want, "\n", NULL);
      expect(&r, 0, want.data);
      expect(&r, 0, "eos: 5 tokens");
      assert_int_equal(f.n_requests, 1);
      hear_the_rest(&f);
      assert_true(f.request[0].forgotten);
    } else if (round == 2) {
      expect(&r, 1, "429: the queue is full");
    } else {
      whole_text(&f, 3, &want);
      expect(&r, 130, want.data);
      assert_true(f.request[0].cancelled);
    }
    weir_buf_fini(&want);
    weir_buf_fini(&r.text);
    fake_close(&f);
  }
}

static void client_library(void **state) {
  (void)state;
  frontend(EXAMPLE_FRONTEND, NULL);
}

static void nng(void **state) {
  (void)state;
  if (EXAMPLE_NNG[0] == 0) skip();
  frontend(EXAMPLE_NNG, NULL);
}

static void pynng(void **state) {
  (void)state;
  const char *python = getenv("WEIR_TEST_PYTHON");
  char command[512];
  if (!python) python = "python3";
  snprintf(command, sizeof command, "%s -c 'import pynng, grpc_tools.protoc' > /dev/null 2>&1", python);
  if (system(command) != 0) skip();
  frontend(python, "engine/client/examples/example_pynng.py");
}

int main(void) {
  setenv("ASAN_OPTIONS", "detect_leaks=0",
         0); /* of the child: it is told to exit where NNG still has threads */
  const struct CMUnitTest tests[] = {cmocka_unit_test(client_library), cmocka_unit_test(nng),
                                     cmocka_unit_test(pynng)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
