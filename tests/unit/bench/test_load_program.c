/* SPDX-License-Identifier: Apache-2.0 */
/* The program as a user meets it: exit statuses, files, errors, an interruption. Its server is a child
 * process. */
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_server.h"

typedef struct {
  pid_t pid;
  char url[64];
} served;

/* The child ends with its parent. */
static void serve(served *s, const fake_cfg *cfg) {
  int fd[2];
  assert_int_equal(pipe(fd), 0);
  s->pid = fork();
  assert_true(s->pid >= 0);
  if (s->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct event_base *base = event_base_new();
    const fake_server *f = fake_server_start(base, cfg);
    if (!f || write(fd[1], fake_server_url(f), strlen(fake_server_url(f))) < 0) _exit(1);
    close(fd[1]);
    event_base_dispatch(base);
    _exit(0);
  }
  close(fd[1]);
  const ssize_t n = read(fd[0], s->url, sizeof s->url - 1);
  assert_true(n > 0);
  s->url[n] = '\0';
  close(fd[0]);
}

static void stop(const served *s) {
  kill(s->pid, SIGKILL);
  waitpid(s->pid, NULL, 0);
}

/* Runs a line of the shell with $B and $U; what it prints, both streams, stands in out. Returns its status.
 */
static int run(const char *url, const char *line, char *out, size_t bytes) {
  char command[1024];
  snprintf(command, sizeof command, "B='%s' U='%s'; exec 2>&1; %s", WEIR_BENCH, url, line);
  FILE *f = popen(command, "r");
  assert_non_null(f);
  const size_t n = fread(out, 1, bytes - 1, f);
  out[n] = '\0';
  while (fgetc(f) != EOF) {
  }
  const int status = pclose(f);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_exit_statuses(void **state) {
  (void)state;
  static const struct {
    const char *line;
    int status;
    const char *says;
  } row[] = {
      {"$B -u $U -n 8 -c 2", 0, "8 sent, 8 ok, 0 errors"},
      {"$B -u $U -n 8 -c 2 --slo 'ttft=30s,error_rate<1%'", 0, "SLO           met"},
      {"$B -u $U -n 8 -c 2 --slo 'ttft_p50<1us'", 1, "SLO           NOT"},
      {"$B -u $U -n 8 -c 2 --slo ttft", 2, "an operator"},
      {"$B -u $U --rat 3", 2, "did you mean --rate?"},
      {"$B -n 3", 2, "--url"},
      {"$B -u $U more", 2, "a word too many"},
      {"$B -u $U --load gamma", 2, "needs --rate"},
      {"$B -u $U --turns 2", 2, "--api chat"},
      {"echo '{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}' | $B -u $U -f - -n 2", 2,
       "--api chat"},
      {"echo '{\"turns\": [\"x\", \"y\"]}' | $B -u $U -f - -n 2", 2, "--api chat"},
      {"printf '{\"prompt\": \"x\"}\\n{\"conversations\": [{\"from\": \"human\", \"value\": \"x\"}]}\\n' | "
       "$B -u $U -f - -n 2",
       2, "--api chat"},
      {"echo '{\"arrival_s\": 0, \"turns\": [\"x\"]}' | $B -u $U --trace -", 2, "--api chat"},
      {"echo '{\"turns\": [\"x\", \"y\"]}' | $B -u $U -f - -n 2 --api chat", 0, "2 ok"},
      {"$B -u https://localhost", 3, "TLS"},
      {"$B -u $U --tasks /nowhere", 3, "/nowhere"},
      {"$B -u ipc:///nowhere/at/all --connect-timeout 0.2", 3, "/nowhere/at/all"},
      {"$B --help", 0, "Examples"},
      {"$B compare --help", 0, "weir-bench compare A.json B.json"},
      {"$B compare /nowhere.json /nowhere.json", 3, "nowhere"},
      {"$B report", 2, "files"},
      {"$B -u $U --sweep concurrency --points 1,2,4 -n 6 --to-end", 0, "knee: concurrency"},
      {"$B -u $U --rate 100 -n 10 -q", 0, ""}};
  char out[16384];
  served s;
  serve(&s, &(fake_cfg){.tokens = 3});
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    const int status = run(s.url, row[k].line, out, sizeof out);
    if (status != row[k].status || !strstr(out, row[k].says))
      fail_msg("%s: status %d, want %d:\n%s", row[k].line, status, row[k].status, out);
  }
  stop(&s);
}

static void test_errors_only(void **state) {
  (void)state;
  char out[8192];
  served s;
  serve(&s, &(fake_cfg){.mode = FAKE_500});
  assert_int_equal(run(s.url, "$B -u $U -n 2 -c 2 -w 0", out, sizeof out), 3);
  assert_non_null(strstr(out, "2 x 500 error: oh no"));
  assert_non_null(strstr(out, "no request ended well"));
  stop(&s);
}

/* --json is read by compare and report; --csv has a line for each request; the key is in none of them. */
static void test_files(void **state) {
  (void)state;
  char dir[] = "/tmp/weir-bench-XXXXXX", out[16384], line[1024];
  served s;
  assert_non_null(mkdtemp(dir));
  serve(&s, &(fake_cfg){.mode = FAKE_WEIR, .tokens = 4, .gap_ms = 1});
  snprintf(line, sizeof line,
           "cd %s && $B -u $U -n 20 -c 4 --key sesame --label first --receipts --json a.json --csv a.csv "
           "--html a.html && "
           "$B -u $U -n 20 -c 4 --label second --json b.json -q && $B compare a.json b.json && "
           "$B report a.json b.json --html both.html && wc -l < a.csv && grep -c '<figure' both.html && "
           "! grep -l sesame a.json a.csv a.html",
           dir);
  const int status = run(s.url, line, out, sizeof out);
  if (status != 0) fail_msg("status %d\n%s", status, out);
  assert_non_null(strstr(out, "A: first"));
  assert_non_null(strstr(out, "B: second"));
  assert_non_null(strstr(out, "\n21\n"));
  snprintf(line, sizeof line, "%s/a.json", dir);
  json_t *doc = json_load_file(line, 0, NULL);
  assert_non_null(doc);
  assert_string_equal(json_string_value(json_object_get(doc, "schema")), "weir.load.v1");
  const json_t *point = json_array_get(json_object_get(doc, "points"), 0);
  assert_int_equal(json_integer_value(json_object_get(json_object_get(point, "requests"), "ok")), 20);
  assert_true(json_number_value(json_object_get(point, "deferral_rate")) == 0.25);
  json_decref(doc);
  snprintf(line, sizeof line, "rm -r %s", dir);
  assert_int_equal(run("", line, out, sizeof out), 0);
  stop(&s);
}

/* Ctrl-C once everything is under way, which the server never answers: a report and 130. */
static void test_interrupt(void **state) {
  (void)state;
  char out[8192];
  served s;
  serve(&s, &(fake_cfg){.tokens = 1000000, .gap_ms = 20});
  const int status = run(s.url,
                         "f=$(mktemp); echo '{\"prompt\": \"x\"}' > $f; $B -u $U -w 0 -c 2 -f $f & p=$!; "
                         "for i in $(seq 100); do sleep 0.1; [ -d /proc/$p/fd ] && "
                         "[ $(ls -l /proc/$p/fd | grep -c socket) -ge 2 ] && break; done; "
                         "kill -INT $p; wait $p; r=$?; rm $f; exit $r",
                         out, sizeof out);
  if (status != 130 || !strstr(out, "interrupted")) fail_msg("status %d\n%s", status, out);
  stop(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_exit_statuses),
      cmocka_unit_test(test_errors_only),
      cmocka_unit_test(test_files),
      cmocka_unit_test(test_interrupt),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
