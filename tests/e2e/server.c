/* SPDX-License-Identifier: Apache-2.0 */
/* Children that serve. Owns their processes and the folder of the test. */
#include "server.h"

#include <fcntl.h>
#include <netinet/in.h>
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
#include <time.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

enum { MAX_SERVERS = 16, STOP_LIMIT_MS = 60000 };

static char folder[64];
static pid_t running[MAX_SERVERS];
static int n_started;

const char *server_folder(void) {
  if (!folder[0]) {
    strcpy(folder, "/tmp/weir-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
  }
  return folder;
}

int server_free_port(void) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof a;
  const int s = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof a), 0);
  assert_int_equal(getsockname(s, (struct sockaddr *)&a, &len), 0);
  close(s);
  return ntohs(a.sin_port);
}

server server_start(const char *line) {
  char *argv[E2E_MAX_ARGS];
  server s = {0};
  assert_true(n_started < MAX_SERVERS);
  snprintf(s.log, sizeof s.log, "%s/log-%d", server_folder(), n_started);
  char *words = e2e_split(line, argv);
  s.pid = fork();
  assert_true(s.pid >= 0);
  if (s.pid == 0) {
    const int log = open(s.log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed leaves no server behind */
    dup2(log, 1);
    dup2(log, 2);
    execv(argv[0], argv);
    _exit(127);
  }
  free(words);
  running[n_started++] = s.pid;
  return s;
}

char *server_log(const server *s) { return e2e_read(s->log); }

static void forget(pid_t pid) {
  for (int i = 0; i < n_started; i++)
    if (running[i] == pid) running[i] = 0;
}

int server_stop(server *s, int sig) {
  int status = 0;
  kill(s->pid, sig);
  for (int ms = 0; waitpid(s->pid, &status, WNOHANG) == 0; ms += 10) {
    if (ms >= STOP_LIMIT_MS) {
      char *log = server_log(s);
      fail_msg("server %d did not end within %d ms of signal %d; its log:\n%s", (int)s->pid, STOP_LIMIT_MS,
               sig, log);
    }
    nanosleep(&(struct timespec){0, 10000000}, NULL);
  }
  forget(s->pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int server_cleanup(void **state) {
  (void)state;
  for (int i = 0; i < n_started; i++)
    if (running[i] > 0) {
      kill(running[i], SIGKILL);
      waitpid(running[i], NULL, 0);
    }
  if (folder[0]) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf -- '%s'", folder);
    return system(command) == 0 ? 0 : -1;
  }
  return 0;
}
