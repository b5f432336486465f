/* SPDX-License-Identifier: Apache-2.0 */
/* A worker of the large model is killed, stopped or cut off while clients stream, in prefill, in decode and
 * while it catches up: every request ends, /health says what is missing, the server goes on with the small
 * model, and the large one is back when its worker is, with the texts of before. How long each took is
 * printed. The server's log and /health are looked at; what is waited for has a bound. */
#define _GNU_SOURCE
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "serving.h"
#include "workers.h"

enum { CLIENTS = 4, TOKENS = 200, LIMIT_MS = 60000 };

typedef struct rig {
  serving s;
  worker w;
  char dist[256], prefix[64]; /* of the worker's command */
  char *before;               /* the text of a request that the large model writes */
} rig;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what the server says ---- */

static json_t *large_tier(const rig *r) {
  http_answer h = http_ask(r->s.port, "/health", NULL, NULL);
  if (h.status != 200) fail_msg("/health is %d: %s\n%s", h.status, h.body, serving_log(&r->s));
  json_t *o = json_loads(h.body, 0, NULL), *tier = NULL, *t;
  size_t i;
  json_array_foreach(json_object_get(json_array_get(json_object_get(o, "engines"), 0), "tiers"), i,
                     t) if (!strcmp(json_string_value(json_object_get(t, "name")), "large")) tier =
      json_incref(t);
  if (!tier) fail_msg("/health tells nothing of the large tier: %s", h.body);
  json_decref(o);
  http_free(&h);
  return tier;
}

/* Until the large tier is up or down. Of one that is down it is said who is missing. */
static void wait_large(const rig *r, bool up) {
  for (int ms = 0;; ms += 20) {
    json_t *t = large_tier(r);
    const bool is = json_is_true(json_object_get(t, "up"));
    if (!is && !up) {
      const char *why = json_string_value(json_object_get(t, "reason"));
      if (!why || (!strstr(why, "node 1") && !strstr(why, "rank 1")))
        fail_msg("the large tier is down: \"%s\" does not say who is missing", why);
      assert_true(json_is_true(json_object_get(t, "comes_back")));
    }
    json_decref(t);
    if (is == up) return;
    if (ms >= LIMIT_MS) fail_msg("the large tier is not %s:\n%s", up ? "up" : "down", serving_log(&r->s));
    poll(NULL, 0, 20);
  }
}

/* How often the server has said so. */
static int said(const rig *r, const char *words) {
  char *log = serving_log(&r->s);
  int n = 0;
  for (const char *p = log; (p = strstr(p, words)); p++) n++;
  free(log);
  return n;
}

/* Seconds until it has said so n times. /health lags behind by up to a second: the gateway asks so often. */
static double wait_said(const rig *r, const char *words, int n) {
  const double from = seconds();
  for (int ms = 0; said(r, words) < n; ms += 10) {
    if (ms >= LIMIT_MS) fail_msg("the server does not say \"%s\":\n%s", words, serving_log(&r->s));
    poll(NULL, 0, 10);
  }
  return seconds() - from;
}

static bool one_ended(void *ctx) { return ((asked *)ctx)->n_ends > 0; }

static char *text_of(const rig *r, const char *mode, char *reason) {
  asked *a = calloc(1, sizeof *a);
  weir_client *c = serving_client(&r->s, NULL);
  const weir_client_request q = {.prompt = "Question: What is 17 times 3?\nAnswer:",
                                 .max_tokens = 40,
                                 .has_temperature = true,
                                 .mode = mode};
  assert_non_null(a);
  serving_ask(c, &q, a);
  serving_run(c, one_ended, a);
  assert_int_equal(a->n_ends, 1);
  strcpy(reason, a->reason);
  char *text = strdup(a->text);
  weir_client_close(c);
  free(a);
  return text;
}

static void want_large(const rig *r) {
  char reason[16];
  char *now = text_of(r, "large", reason);
  assert_string_equal(now, r->before);
  free(now);
}

/* ---- coming up ---- */

static void begin_worker(rig *r) {
  char line[512];
  snprintf(line, sizeof line, "worker %s --node-rank 1 --rank-timeout 1", r->dist);
  r->w = worker_start(r->prefix, line);
}

static void start_server(rig *r) {
  char options[512], reason[16];
  snprintf(options, sizeof options,
           "--listen 127.0.0.1:0 --rank-timeout 1 --entropy 0.2 --max-active 8 --step-tokens 64 "
           "--recovery-wait 20 %s",
           r->dist);
  r->s = serving_start(options, NULL);
  r->before = text_of(r, "large", reason);
  assert_true(strlen(r->before) > 10);
}

static void begin(rig *r) {
  if (!r->dist[0])
    snprintf(r->dist, sizeof r->dist, "--large-tp 2 --nnodes 2 --threads 1 --dist-init-addr 127.0.0.1:%d",
             free_port());
  begin_worker(r);
  start_server(r);
}

static void end(rig *r) {
  kill(r->s.pid, SIGTERM);
  assert_int_equal(serving_wait(&r->s), 0);
  kill(r->w.pid, SIGTERM);
  assert_int_equal(worker_wait(&r->w), 0);
  free(r->before);
}

/* ---- harm ---- */

static void kill_it(rig *r) {
  kill(r->w.pid, SIGKILL);
  assert_int_equal(worker_wait(&r->w), 128 + SIGKILL);
}
static void come_again(rig *r) { begin_worker(r); }
static void stop_it(rig *r) { kill(r->w.pid, SIGSTOP); }
static void go_on(rig *r) { kill(r->w.pid, SIGCONT); }

typedef struct harm {
  const char *name;
  void (*do_it)(rig *);
  void (*mend)(rig *);
} harm;
static const harm killed = {"killed", kill_it, come_again}, stopped = {"stopped", stop_it, go_on};

typedef struct crowd {
  asked a[CLIENTS];
  int tokens; /* all clients have had so many, 0: have been taken */
} crowd;

static bool under_way(void *ctx) {
  const crowd *c = ctx;
  for (int i = 0; i < CLIENTS; i++)
    if (!c->a[i].taken || (c->a[i].n_tokens < c->tokens && c->a[i].n_ends == 0)) return false;
  return true;
}
static bool crowd_ended(void *ctx) {
  const crowd *c = ctx;
  for (int i = 0; i < CLIENTS; i++)
    if (c->a[i].n_ends == 0) return false;
  return true;
}

static char long_prompt[2400];
static const char died[] = "the ranks are gathered again", back[] = "it is back after";

static void send_crowd(weir_client *client, crowd *c, const char *mode, const char *prompt, int tokens) {
  *c = (crowd){.tokens = tokens};
  for (int i = 0; i < CLIENTS; i++) {
    const weir_client_request q = {.prompt = prompt,
                                   .max_tokens = TOKENS,
                                   .ignore_eos = true,
                                   .mode = mode,
                                   .has_seed = true,
                                   .seed = (uint64_t)i};
    serving_ask(client, &q, &c->a[i]);
  }
}

/* Every request ended once, whole or with an error; texts of the large model alone are those that it writes
 * undisturbed. How many ended with an error. */
static int look_at_crowd(const crowd *c, const crowd *undisturbed) {
  int failed = 0;
  for (int i = 0; i < CLIENTS; i++) {
    assert_int_equal(c->a[i].n_ends, 1);
    if (!strcmp(c->a[i].reason, "error"))
      failed++;
    else if (strcmp(c->a[i].reason, "length") != 0)
      fail_msg("client %d ended with %s", i, c->a[i].reason);
    else if (undisturbed && strcmp(c->a[i].text, undisturbed->a[i].text) != 0)
      fail_msg("client %d got \"%s\", undisturbed it is \"%s\"", i, c->a[i].text, undisturbed->a[i].text);
  }
  return failed;
}

/* When harm is done: while prompts are read, or when each has so many tokens. mode defer with a low threshold
 * is mostly the large model catching up. */
static void suffer(rig *r, const harm *h, const char *when, const char *mode, const char *prompt,
                   int tokens) {
  const bool defer = !strcmp(mode, "defer"); /* the small model can go on alone */
  crowd *c = calloc(2, sizeof *c);
  weir_client *client = serving_client(&r->s, NULL);
  assert_non_null(c);
  if (!defer) {
    send_crowd(client, &c[1], mode, prompt, 0);
    serving_run(client, crowd_ended, &c[1]);
    assert_int_equal(look_at_crowd(&c[1], NULL), 0);
  }
  send_crowd(client, c, mode, prompt, tokens);
  serving_run(client, under_way, c);
  const int deaths = said(r, died), returns = said(r, back);
  h->do_it(r);
  const double down = wait_said(r, died, deaths + 1);
  wait_large(r, false);
  char reason[16];
  char *small = text_of(r, "defer", reason); /* the server goes on */
  assert_true(strlen(small) > 0);
  free(small);
  const double from = seconds();
  h->mend(r);
  const double up = wait_said(r, back, returns + 1);
  wait_large(r, true);
  serving_run(client, crowd_ended, c);
  const int failed = look_at_crowd(c, defer ? NULL : &c[1]);
  print_message(
      "%s in %s (mode %s): noticed after %.2f s, back %.2f s after it was mended, all ended %.2f s "
      "after; %d of %d with an error\n",
      h->name, when, mode, down, up, seconds() - from, failed, CLIENTS);
  if (defer) assert_int_equal(failed, 0);
  want_large(r);
  weir_client_close(client);
  free(c);
}

static void all_times(rig *r, const harm *h) {
  suffer(r, h, "prefill", "large", long_prompt, 0);
  suffer(r, h, "decode", "large", "Once upon a time", 5);
  suffer(r, h, "catch-up", "defer", "Once upon a time", 5);
}

static void test_killed(void **state) {
  (void)state;
  rig r = {.prefix = ""};
  begin(&r);
  all_times(&r, &killed);
  end(&r);
}

static void test_stopped(void **state) {
  (void)state;
  rig r = {.prefix = ""};
  begin(&r);
  all_times(&r, &stopped);
  end(&r);
}

/* A leader that dies, and another in its place: the worker has kept its weights. */
static void test_leader_killed(void **state) {
  (void)state;
  rig r = {.prefix = ""};
  begin(&r);
  kill(r.s.pid, SIGKILL);
  assert_int_equal(serving_wait(&r.s), 128 + SIGKILL);
  worker_wait_log(&r.w, "the leader is gone", 1);
  char *before = r.before;
  const double from = seconds();
  start_server(&r);
  print_message("leader killed: another was ready %.2f s after\n", seconds() - from);
  assert_string_equal(r.before, before);
  char *log = worker_log(&r.w);
  const char *loading = strstr(log, "loading the parts");
  assert_non_null(loading);
  if (strstr(loading + 1, "loading the parts")) fail_msg("the worker has read its weights again:\n%s", log);
  free(log);
  free(before);
  end(&r);
}

/* ---- the network between them: two namespaces ---- */

static char space[2][32];

static int quietly(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int quietly(const char *fmt, ...) {
  char line[512];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  snprintf(line + n, sizeof line - (size_t)n, " >/dev/null 2>&1");
  return system(line);
}

static void no_spaces(void) {
  for (int i = 0; i < 2; i++)
    if (space[i][0]) (void)quietly("ip netns del %s", space[i]);
  space[0][0] = space[1][0] = '\0';
}

/* False: not here, or not allowed. The server stays in this namespace, so that its clients reach it. */
static bool make_spaces(void) {
  snprintf(space[1], sizeof space[1], "weir%d", (int)getpid());
  if (quietly("ip netns add %s", space[1]) != 0) {
    space[1][0] = '\0';
    return false;
  }
  const int net = (int)getpid() % 200 + 20;
  if (quietly("ip link add weir%d type veth peer name w0 netns %s", (int)getpid() % 10000, space[1]) == 0 &&
      quietly("ip addr add 10.231.%d.1/24 dev weir%d", net, (int)getpid() % 10000) == 0 &&
      quietly("ip link set weir%d up", (int)getpid() % 10000) == 0 &&
      quietly("ip -n %s addr add 10.231.%d.2/24 dev w0", space[1], net) == 0 &&
      quietly("ip -n %s link set w0 up", space[1]) == 0 && quietly("ip -n %s link set lo up", space[1]) == 0)
    return true;
  no_spaces();
  return false;
}

static void cut_it(rig *r) {
  (void)r;
  assert_int_equal(quietly("ip -n %s link set w0 down", space[1]), 0);
}
static void join_it(rig *r) {
  (void)r;
  assert_int_equal(quietly("ip -n %s link set w0 up", space[1]), 0);
}
static const harm cut_off = {"cut off", cut_it, join_it};

static void test_cut_off(void **state) {
  (void)state;
  rig r = {.prefix = ""};
  if (!make_spaces()) {
    print_message("SKIP cut off: no network namespaces here (ip netns, root)\n");
    skip();
  }
  const char *token = e2e_temp("token");
  e2e_write(token, "a shared secret\n", 16);
  snprintf(r.prefix, sizeof r.prefix, "ip netns exec %s", space[1]);
  snprintf(r.dist, sizeof r.dist,
           "--large-tp 2 --nnodes 2 --threads 1 --dist-init-addr 10.231.%d.1:%d --dist-token-file %s",
           (int)getpid() % 200 + 20, free_port(), token);
  begin(&r);
  all_times(&r, &cut_off);
  end(&r);
}

static int cleanup(void **state) {
  const int bad = serving_cleanup(state) | worker_cleanup(state);
  no_spaces();
  return bad;
}

int main(void) {
  while (strlen(long_prompt) < 900) strcat(long_prompt, "one two three four five six seven eight nine ten ");
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_killed, cleanup),
      cmocka_unit_test_teardown(test_stopped, cleanup),
      cmocka_unit_test_teardown(test_leader_killed, cleanup),
      cmocka_unit_test_teardown(test_cut_off, cleanup),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
