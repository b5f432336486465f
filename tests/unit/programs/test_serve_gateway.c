/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's process, with a program in its place that does as it is told: what it is given and what not,
 * one that never listens, one that dies and comes back later and later, one that will not end, and that none
 * outlives its engine. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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
/* after the above */
#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "programs/serve_gateway.h"

#define MS INT64_C(1000000)

static char folder[] = "/tmp/weir-test-XXXXXX";
static char report_path[64];

static int64_t now(void) {
  const weir_clock c = weir_clock_system();
  return weir_now_ns(&c);
}

static weir_gateway_cfg a_cfg(const char *todo) {
  weir_gateway_cfg cfg = {.program = FAKE_GATEWAY,
                          .engine_url = "ipc:///tmp/engine.ipc",
                          .log_level = "info",
                          .log_format = "text",
                          .backoff_ns = 40 * MS,
                          .backoff_most_ns = 160 * MS};
  weir_err e;
  if (weir_address_parse("127.0.0.1:0", &cfg.listen, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_address_probe(&cfg.listen, &e) != WEIR_OK) fail_msg("%s", e.msg);
  setenv("FAKE_DO", todo, 1);
  setenv("FAKE_REPORT", report_path, 1);
  unlink(report_path);
  return cfg;
}

static weir_gateway *a_gateway(const weir_gateway_cfg *cfg) {
  weir_gateway *g = NULL;
  weir_err e;
  if (weir_gateway_create(cfg, &g, &e) != WEIR_OK) fail_msg("create: %s", e.msg);
  return g;
}

/* Tends it until it is up, or not (`up`), or an error; at most ten seconds. */
static weir_status tend_until(weir_gateway *g, bool up, weir_err *e) {
  const int64_t until = now() + 10000 * MS;
  while (now() < until) {
    int64_t next;
    const weir_status st = weir_gateway_tend(g, now(), &next, e);
    if (st != WEIR_OK || weir_gateway_up(g) == up) return st;
    poll(NULL, 0, next / MS < 20 ? (int)(next / MS) + 1 : 20);
  }
  fail_msg("the gateway is not %s after 10 s", up ? "up" : "down");
  return WEIR_OK;
}

static char *read_report(void) {
  static char text[4096];
  FILE *f = fopen(report_path, "r");
  if (!f) fail_msg("no report: %s", strerror(errno));
  text[fread(text, 1, sizeof text - 1, f)] = '\0';
  fclose(f);
  return text;
}

static void want(const char *text, const char *part, bool there) {
  if ((strstr(text, part) != NULL) != there)
    fail_msg("\"%s\" %s in:\n%s", part, there ? "is not" : "is", text);
}

static void test_given(void **state) {
  (void)state;
  static const char *const keys[] = {"key-one", "key-two"};
  weir_gateway_cfg cfg = a_cfg("listen");
  weir_err e = {0};
  char address[300], line[320];
  const int ours = open("/dev/null", O_RDONLY), other = open("/etc/passwd", O_RDONLY); /* not CLOEXEC */
  assert_true(ours >= 0 && other >= 0);
  setenv("WEIR_CONFIG", "/etc/weir.yaml", 1); /* of the engine, not of the gateway */
  cfg.token = "the-token";
  cfg.api_key = keys;
  cfg.n_api_keys = 2;
  weir_gateway *g = a_gateway(&cfg);
  if (tend_until(g, true, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const char *text = read_report();
  weir_address_print(&cfg.listen, address, sizeof address);
  snprintf(line, sizeof line, "arg %s\n", address);
  want(text, "arg --listen\n", true);
  want(text, line, true);
  want(text, "arg --engine\narg ipc:///tmp/engine.ipc\n", true);
  want(text, "key key-one\nkey key-two\n", true);
  want(text, "env WEIR_TOKEN=the-token\n", true);
  want(text, "env WEIR_LOG_FORMAT=text\n", true);
  want(text, "WEIR_CONFIG", false);
  want(text, "arg key-one", false);
  want(text, "arg the-token", false);
  want(text, "group 1\n", true);
  want(text, "open ", false);
  close(ours);
  close(other);
  unsetenv("WEIR_CONFIG");
  const pid_t pid = weir_gateway_pid(g);
  weir_gateway_stop(g, 10000 * MS);
  assert_int_equal(weir_gateway_pid(g), 0);
  assert_int_equal(kill(pid, 0), -1); /* gone, and waited for */
  assert_int_equal(errno, ESRCH);
  weir_gateway_destroy(g);
  weir_gateway_destroy(NULL);
}

/* A file alone is given on by name, so that the gateway can read it again; a file and keys become one. */
static void test_key_file(void **state) {
  (void)state;
  static const char *const key[] = {"key-three"};
  char path[80];
  weir_err e = {0};
  snprintf(path, sizeof path, "%s/keys", folder);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs("from-file", f); /* no line feed at the end */
  fclose(f);
  for (int both = 0; both < 2; both++) {
    weir_gateway_cfg cfg = a_cfg("listen");
    cfg.api_key_file = path;
    cfg.api_key = key;
    cfg.n_api_keys = both;
    weir_gateway *g = a_gateway(&cfg);
    if (tend_until(g, true, &e) != WEIR_OK) fail_msg("%s", e.msg);
    const char *text = read_report();
    want(text, path, !both);
    want(text, both ? "key from-file\nkey key-three\n" : "key from-file", true);
    weir_gateway_destroy(g);
  }
  unlink(path);
  weir_gateway_cfg cfg = a_cfg("listen");
  weir_gateway *g = NULL;
  cfg.api_key_file = path;
  cfg.api_key = key;
  cfg.n_api_keys = 1;
  assert_int_equal(weir_gateway_create(&cfg, &g, &e), WEIR_EIO); /* the file is not there */
  want(e.msg, path, true);
  cfg.api_key_file = NULL;
  cfg.api_key = (const char *const[]){"two\nlines"};
  assert_int_equal(weir_gateway_create(&cfg, &g, &e), WEIR_EINVAL);
  assert_null(g);
}

static void test_never_up(void **state) {
  (void)state;
  static const struct {
    const char *todo, *says;
  } row[] = {{"exit3", "ended with status 3 before it listened"}, {"deaf", "does not listen after"}};
  for (size_t i = 0; i < 2; i++) {
    weir_gateway_cfg cfg = a_cfg(row[i].todo);
    weir_err e = {0};
    cfg.start_ns = i == 0 ? 0 : 100 * MS;
    weir_gateway *g = a_gateway(&cfg);
    assert_int_equal(tend_until(g, true, &e), WEIR_EIO);
    want(e.msg, row[i].says, true);
    weir_gateway_destroy(g);
  }
  weir_gateway_cfg cfg = a_cfg("listen");
  weir_gateway *g = NULL;
  weir_err e = {0};
  cfg.program = "/nowhere/weir-gateway";
  assert_int_equal(weir_gateway_create(&cfg, &g, &e), WEIR_EIO);
  want(e.msg, "/nowhere/weir-gateway: No such file", true);
  assert_null(g);
}

static void test_comes_back(void **state) {
  (void)state;
  weir_gateway_cfg cfg = a_cfg("listen");
  weir_err e = {0};
  weir_gateway *g = a_gateway(&cfg);
  int64_t waited[4];
  if (tend_until(g, true, &e) != WEIR_OK) fail_msg("%s", e.msg);
  for (int i = 0; i < 4; i++) {
    const pid_t pid = weir_gateway_pid(g);
    assert_int_equal(kill(pid, SIGKILL), 0);
    if (tend_until(g, false, &e) != WEIR_OK) fail_msg("%s", e.msg);
    const int64_t from = now();
    assert_int_equal(weir_gateway_pid(g), 0);
    if (tend_until(g, true, &e) != WEIR_OK) fail_msg("%s", e.msg);
    waited[i] = now() - from;
    assert_int_not_equal(weir_gateway_pid(g), pid);
  }
  static const int64_t least[] = {40 * MS, 80 * MS, 160 * MS, 160 * MS};
  for (int i = 0; i < 4; i++)
    if (waited[i] < least[i]) fail_msg("start %d after %lld ms", i, (long long)(waited[i] / MS));
  weir_gateway_destroy(g);
}

static void test_stubborn(void **state) {
  (void)state;
  weir_gateway_cfg cfg = a_cfg("stubborn");
  weir_err e = {0};
  weir_gateway *g = a_gateway(&cfg);
  if (tend_until(g, true, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const pid_t pid = weir_gateway_pid(g);
  weir_gateway_stop(g, 50 * MS);
  assert_int_equal(kill(pid, 0), -1);
  weir_gateway_destroy(g);
}

/* An engine that is killed takes its gateway along. */
static void test_dies_along(void **state) {
  (void)state;
  weir_gateway_cfg cfg = a_cfg("listen");
  int p[2];
  pid_t pid = 0;
  assert_int_equal(pipe(p), 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1); /* the orphan comes to us: its end can be waited for */
  const pid_t engine = fork();
  if (engine == 0) {
    weir_err e;
    weir_gateway *g = NULL;
    if (weir_gateway_create(&cfg, &g, &e) == WEIR_OK) pid = weir_gateway_pid(g);
    (void)!write(p[1], &pid, sizeof pid);
    for (;;) pause();
  }
  assert_int_equal(read(p[0], &pid, sizeof pid), sizeof pid);
  assert_true(pid > 0);
  kill(engine, SIGKILL);
  assert_int_equal(waitpid(engine, NULL, 0), engine);
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid); /* would not come back if it lived on */
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  close(p[0]);
  close(p[1]);
}

static int set_up(void **state) {
  (void)state;
  weir_log_set_level(WEIR_LOG_ERROR);
  if (!mkdtemp(folder)) return -1;
  snprintf(report_path, sizeof report_path, "%s/report", folder);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  unlink(report_path);
  return rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_given),      cmocka_unit_test(test_key_file), cmocka_unit_test(test_never_up),
      cmocka_unit_test(test_comes_back), cmocka_unit_test(test_stubborn), cmocka_unit_test(test_dies_along),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
