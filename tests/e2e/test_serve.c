/* SPDX-License-Identifier: Apache-2.0 */
/* The life of `weir serve` without HTTP: it comes up, writes what `weir run` writes, finishes what it has
 * taken when it is asked to end, and ends at once when it is asked twice. One request under way at a time and
 * a queue behind it make "under load" a matter of order, not of speed. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "serving.h"

enum { TOKENS = 120, MANY = 6 };

static const weir_client_request long_request = {.prompt = "Once upon a time",
                                                 .max_tokens = TOKENS,
                                                 .ignore_eos = true,
                                                 .has_temperature = true,
                                                 .mode = "large"};

typedef struct some {
  asked *one; /* [n] */
  int n;
} some;

static bool all_ended(void *ctx) {
  const some *s = ctx;
  for (int i = 0; i < s->n; i++)
    if (s->one[i].n_ends == 0) return false;
  return true;
}

/* All are taken, the first one writes. */
static bool under_load(void *ctx) {
  const some *s = ctx;
  for (int i = 0; i < s->n; i++)
    if (!s->one[i].taken) return false;
  return s->one[0].n_tokens > 0;
}

static asked *many(int n) {
  asked *a = calloc((size_t)n, sizeof *a);
  assert_non_null(a);
  return a;
}

static void want_log(const serving *s, const char *words) {
  char *log = serving_log(s);
  e2e_want_in(log, words, "the log");
  free(log);
}

static void test_writes_what_run_writes(void **state) {
  (void)state;
  static const char prompt[] = "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:";
  json_t *lines =
      e2e_json_of("run --json -q -n 40 -p 'Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:'");
  const char *want = json_string_value(json_object_get(json_array_get(lines, 0), "text"));
  serving s = serving_start("--no-http -t 0", NULL);
  asked a;
  some x = {&a, 1};
  weir_client *c = serving_client(&s, NULL);
  const weir_client_request q = {.prompt = prompt, .max_tokens = 40};
  assert_int_equal(kill(s.pid, SIGHUP), 0); /* means nothing to it */
  serving_ask(c, &q, &a);
  serving_run(c, all_ended, &x);
  assert_int_equal(a.error.code, 0);
  assert_string_equal(a.text, want);
  struct stat is;
  assert_int_equal(stat(s.rpc + strlen("ipc://"), &is), 0);
  assert_int_equal(is.st_mode & 077, 0); /* nobody else's */
  weir_client_close(c);
  assert_int_equal(kill(s.pid, SIGINT), 0);
  assert_int_equal(serving_wait(&s), 0);
  assert_int_equal(access(s.ready, F_OK), -1);
  want_log(&s, "all requests have ended");
  json_decref(lines);
}

static void test_drains(void **state) {
  (void)state;
  serving s = serving_start("--no-http --max-active 1 --drain-timeout 300", NULL);
  asked *a = many(MANY + 1);
  some x = {a, MANY};
  weir_client *c = serving_client(&s, NULL);
  for (int i = 0; i < MANY; i++) serving_ask(c, &long_request, &a[i]);
  serving_run(c, under_load, &x);
  assert_int_equal(kill(s.pid, SIGTERM), 0);
  serving_wait_log(&s, "draining");
  serving_ask(c, &long_request, &a[MANY]); /* too late */
  x.n = MANY + 1;
  serving_run(c, all_ended, &x);
  for (int i = 0; i <= MANY; i++) assert_int_equal(a[i].n_ends, 1);
  for (int i = 0; i < MANY; i++) {
    if (a[i].n_tokens != TOKENS || strcmp(a[i].reason, "length") != 0)
      fail_msg("request %d: %d tokens, %s, %s\n%s", i, a[i].n_tokens, a[i].reason, a[i].error.message,
               serving_log(&s));
    assert_string_equal(a[i].text, a[0].text); /* the same request */
  }
  assert_int_equal(a[MANY].error.code, 503);
  assert_int_equal(a[MANY].n_tokens, 0);
  assert_int_equal(serving_wait(&s), 0);
  weir_client_close(c);
  free(a);
}

/* Twice asked, or the time is over: what is left ends, each once, and the status tells. */
static void test_cut(void **state) {
  (void)state;
  static const char *const options[] = {"--no-http --max-active 1",
                                        "--no-http --max-active 1 --drain-timeout 0"};
  for (int k = 0; k < 2; k++) {
    enum { QUEUE = 40 };
    serving s = serving_start(options[k], NULL);
    asked *a = many(QUEUE);
    some x = {a, QUEUE};
    weir_client *c = serving_client(&s, NULL);
    for (int i = 0; i < QUEUE; i++) serving_ask(c, &long_request, &a[i]);
    serving_run(c, under_load, &x);
    assert_int_equal(kill(s.pid, SIGTERM), 0);
    serving_wait_log(&s, "draining");
    if (k == 0) assert_int_equal(kill(s.pid, SIGTERM), 0);
    serving_run(c, all_ended, &x); /* told by the server: it is still there for that */
    assert_int_equal(serving_wait(&s), 1);
    want_log(&s, "cancelled");
    assert_int_equal(access(s.ready, F_OK), -1);
    int cut = 0;
    for (int i = 0; i < QUEUE; i++) {
      assert_int_equal(a[i].n_ends, 1);
      const bool whole = !strcmp(a[i].reason, "length");
      if (whole) assert_int_equal(a[i].n_tokens, TOKENS);
      if (!whole && strcmp(a[i].reason, "cancelled") != 0)
        fail_msg("%s: %s", a[i].reason, a[i].error.message);
      cut += !whole;
    }
    assert_true(cut > 0);
    weir_client_close(c);
    free(a);
  }
}

static void test_json_log(void **state) {
  (void)state;
  serving s = serving_start("--no-http --log-format json --status-interval 1 --log-level debug", NULL);
  asked *a = many(MANY);
  some x = {a, MANY};
  weir_client *c = serving_client(&s, NULL);
  for (int i = 0; i < MANY; i++) serving_ask(c, &long_request, &a[i]);
  serving_run(c, all_ended, &x);
  serving_wait_log(&s, "tok_s_large");
  weir_client_close(c);
  assert_int_equal(kill(s.pid, SIGTERM), 0);
  assert_int_equal(serving_wait(&s), 0);
  char *log = serving_log(&s);
  int n = 0;
  for (char *p = log; *p; n++) {
    const size_t len = strcspn(p, "\n");
    json_error_t why;
    json_t *o = json_loadb(p, len, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(o)) fail_msg("not JSON (%s): %.*s", why.text, (int)len, p);
    static const char *const key[] = {"ts", "level", "component", "msg"};
    for (int i = 0; i < 4; i++)
      if (!json_is_string(json_object_get(o, key[i]))) fail_msg("no %s: %.*s", key[i], (int)len, p);
    json_decref(o);
    p += len + 1;
  }
  assert_true(n > 5);
  free(log);
  free(a);
}

static void test_token(void **state) {
  (void)state;
  static const char *const env[] = {"WEIR_TOKEN=open-sesame", NULL};
  static const struct {
    const char *token;
    int code;
  } row[] = {{NULL, 401}, {"open-sesam", 401}, {"open-sesame", 0}};
  serving s = serving_start("--no-http", env);
  for (int i = 0; i < 3; i++) {
    asked a;
    some x = {&a, 1};
    weir_client *c = serving_client(&s, row[i].token);
    const weir_client_request q = {.prompt = "x", .max_tokens = 3, .ignore_eos = true};
    serving_ask(c, &q, &a);
    serving_run(c, all_ended, &x);
    if (a.error.code != row[i].code) fail_msg("token %d: %d %s", i, a.error.code, a.error.message);
    weir_client_close(c);
  }
  char *log = serving_log(&s);
  assert_null(strstr(log, "sesame"));
  free(log);
  assert_int_equal(kill(s.pid, SIGTERM), 0);
  assert_int_equal(serving_wait(&s), 0);
}

/* Settings that cannot work are told before models are loaded: by status 2, or 1 where it is the machine that
 * says no. */
static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *line;
    int status;
    const char *says;
  } row[] = {
      {"serve --lisen 127.0.0.1:0", 2, "did you mean --listen?"},
      {"serve --listen 127.0.0.1", 2, "want HOST:PORT"},
      {"serve --listen 0.0.0.0:0", 2, "--insecure"},
      {"serve --no-http --rpc tcp://0.0.0.0:5600", 2, "--token-file"},
      {"serve --no-http --rpc tcp://127.0.0.1:0", 2, "tcp://ADDRESS:PORT"},
      {"serve --no-http --token-file /nowhere/token", 1, "/nowhere/token"},
      {"serve --no-http --modes small,fast", 2, "fast is not known"},
      {"serve --no-http -m exact --modes small,large", 2, "not among --modes"},
      {"serve --no-http --entropy-min 2 --entropy-max 1", 2, "--entropy-min 2 is above"},
      {"serve --no-http --small models/weir-demo-small-Q8_0.gguf -m defer", 2, "needs --large too"},
      {"serve --no-http --small /nowhere.gguf", 1, "/nowhere.gguf"},
      {"serve --no-http --kv-tokens 100", 1, "does not hold one context"},
      {"serve --no-http --template nonsense", 2, "nonsense is not known"},
      {"serve --listen 127.0.0.1:0 --gateway /nowhere/weir-gateway", 1, "/nowhere/weir-gateway"},
      {"serve models/weir-demo-small-Q8_0.gguf", 2, "no operands"},
      {"serve -c /nowhere.yaml", 1, "/nowhere.yaml"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    e2e_result r = e2e("%s", row[i].line);
    e2e_want_status(&r, row[i].status, row[i].line);
    e2e_want_in(r.err, row[i].says, row[i].line);
    e2e_free(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_writes_what_run_writes),
      cmocka_unit_test(test_drains),
      cmocka_unit_test(test_cut),
      cmocka_unit_test(test_json_log),
      cmocka_unit_test(test_token),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, serving_cleanup);
}
