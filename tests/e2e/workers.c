/* SPDX-License-Identifier: Apache-2.0 */
/* Workers of a test. Owns their processes and log files. */
#define _GNU_SOURCE
#include "workers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

enum { MAX_WORKERS = 24, LIMIT_MS = 60000 };

static worker started[MAX_WORKERS];
static int n_started;

static void tick(void) { poll(NULL, 0, 10); }

worker worker_start(const char *prefix, const char *command) {
  worker w = {.pid = 0};
  char line[2048], *argv[E2E_MAX_ARGS];
  assert_true(n_started < MAX_WORKERS);
  strcpy(w.log, "/tmp/weir-worker-XXXXXX");
  const int log = mkostemp(w.log, O_CLOEXEC);
  assert_true(log >= 0);
  snprintf(line, sizeof line, "%s%s%s %s", prefix, prefix[0] ? " " : "", prefix[0] ? WEIR_PROGRAM : "",
           command);
  char *words = e2e_split(line, argv); /* argv[0] is the program */
  char **run = prefix[0] ? argv + 1 : argv;
  w.pid = fork();
  assert_true(w.pid >= 0);
  if (w.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed leaves nothing behind */
    dup2(log, 1);
    dup2(log, 2);
    execvp(run[0], run);
    _exit(127);
  }
  close(log);
  free(words);
  started[n_started++] = w;
  return w;
}

bool worker_ended(worker *w, int *status) {
  int how;
  if (waitpid(w->pid, &how, WNOHANG) != w->pid) return false;
  *status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
  for (int i = 0; i < n_started; i++)
    if (started[i].pid == w->pid) started[i].pid = 0;
  return true;
}

char *worker_log(const worker *w) { return e2e_read(w->log); }

void worker_wait_log(worker *w, const char *words, int n) {
  for (int ms = 0;; ms += 10) {
    char *log = worker_log(w);
    int found = 0, status;
    for (const char *p = log; (p = strstr(p, words)); p++) found++;
    if (found < n && worker_ended(w, &status)) fail_msg("the worker ended with %d:\n%s", status, log);
    if (found < n && ms >= LIMIT_MS) fail_msg("the worker never says \"%s\":\n%s", words, log);
    free(log);
    if (found >= n) return;
    tick();
  }
}

int worker_wait(worker *w) {
  int status = -1;
  for (int ms = 0; !worker_ended(w, &status); ms += 10) {
    if (ms >= LIMIT_MS) fail_msg("the worker does not end:\n%s", worker_log(w));
    tick();
  }
  return status;
}

int free_port(void) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof a;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
  close(fd);
  return ntohs(a.sin_port);
}

int worker_cleanup(void **state) {
  (void)state;
  for (int i = 0; i < n_started; i++) {
    if (started[i].pid > 0) {
      kill(started[i].pid, SIGCONT);
      kill(started[i].pid, SIGKILL);
      waitpid(started[i].pid, NULL, 0);
    }
    unlink(started[i].log);
  }
  n_started = 0;
  return 0;
}
