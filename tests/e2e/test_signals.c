/* SPDX-License-Identifier: Apache-2.0 */
/* A run that is interrupted ends cleanly, and one whose reader goes away ends quietly. The program's standard
 * output is a pipe of one page: once a byte has come out of it the program is in the midst of writing, and it
 * stays there until the test reads on, so nothing here depends on time. */
#define _GNU_SOURCE /* F_SETPIPE_SZ */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

typedef struct child {
  pid_t pid;
  int out; /* reading end */
  const char *err;
} child;

/* Texts of 16 prompts, a few hundred tokens each: more than a page. */
static child start(const char *options) {
  static const char base[] =
      "run -f models/prompts.txt -p One -p Two -p Three -p Four -p Five -p Six -p Seven -p Eight -n 400 "
      "--ignore-eos --color never -b 8 --mode large";
  char line[512];
  char *argv[E2E_MAX_ARGS];
  int p[2];
  child c = {.err = e2e_temp("stderr.txt")};
  snprintf(line, sizeof line, "%s %s", base, options);
  char *words = e2e_split(line, argv);
  assert_int_equal(pipe(p), 0);
  assert_true(fcntl(p[1], F_SETPIPE_SZ, 4096) >= 4096);
  c.pid = fork();
  assert_true(c.pid >= 0);
  if (c.pid == 0) {
    dup2(p[1], 1);
    dup2(open(c.err, O_WRONLY), 2);
    close(p[0]);
    close(p[1]);
    execv(argv[0], argv);
    _exit(127);
  }
  close(p[1]);
  free(words);
  c.out = p[0];
  char first;
  assert_int_equal(read(c.out, &first, 1), 1);
  return c;
}

static int status_of(pid_t pid) {
  int s;
  assert_int_equal(waitpid(pid, &s, 0), pid);
  return WIFEXITED(s) ? WEXITSTATUS(s) : 128 + WTERMSIG(s);
}

static size_t drain(int fd) {
  char buf[4096];
  size_t n = 0;
  ssize_t got;
  while ((got = read(fd, buf, sizeof buf)) > 0) n += (size_t)got;
  close(fd);
  return n;
}

static void test_interrupt(void **state) {
  (void)state;
  child whole = start("");
  const size_t all = drain(whole.out);
  assert_int_equal(status_of(whole.pid), 0);
  assert_true(all > 3 * 4096); /* or the program could have been done before the signal */
  static const int signals[] = {SIGINT, SIGTERM};
  for (int i = 0; i < 2; i++) {
    child c = start("");
    kill(c.pid, signals[i]);
    const size_t some = drain(c.out);
    const int status = status_of(c.pid);
    char *err = e2e_read(c.err);
    if (status != 128 + signals[i]) fail_msg("signal %d: exit status %d: %s", signals[i], status, err);
    if (some >= all) fail_msg("signal %d: %zu bytes came, as many as without", signals[i], some);
    e2e_want_in(err, "tok/s", "the summary");
    if (strstr(err, "error")) fail_msg("an interrupted run tells of an error: %s", err);
    free(err);
  }
}

static void test_reader_gone(void **state) {
  (void)state;
  child c = start("");
  close(c.out);
  const int status = status_of(c.pid);
  char *err = e2e_read(c.err);
  if (status != 0) fail_msg("exit status %d: %s", status, err);
  if (strstr(err, "rror")) fail_msg("not quiet: %s", err);
  free(err);
}

/* A disk that is full is told, not passed over. */
static void test_full_disk(void **state) {
  (void)state;
  static const char *const commands[] = {"run -p x -n 40 -q", "tokenize -p x", "run -p x -n 40 -q --json",
                                         "run -p x -n 40 -q --receipts /dev/full"};
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    char *argv[E2E_MAX_ARGS];
    char *words = e2e_split(commands[i], argv);
    const char *err_path = e2e_temp("full.txt");
    const bool file = strstr(commands[i], "/dev/full") != NULL;
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
      dup2(open(file ? "/dev/null" : "/dev/full", O_WRONLY), 1);
      dup2(open(err_path, O_WRONLY), 2);
      execv(argv[0], argv);
      _exit(127);
    }
    const int status = status_of(pid);
    char *err = e2e_read(err_path);
    if (status != 1) fail_msg("%s: exit status %d, want 1: %s", commands[i], status, err);
    e2e_want_in(err, "No space left", commands[i]);
    free(err);
    free(words);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_interrupt),
      cmocka_unit_test(test_reader_gone),
      cmocka_unit_test(test_full_disk),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
