/* SPDX-License-Identifier: Apache-2.0 */
/* A leader and worker processes: what they compute together, and what happens when one of them dies, stops,
 * fails, comes back, or should not have come. */
#define _GNU_SOURCE /* setns */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "step/batch.h"
#include "tp_procs.h"
#include "tp_rig.h"

#define SECOND  INT64_C(1000000000)
#define LONG_NS (60 * SECOND) /* for what takes a moment, on a machine with other things to do */

enum { MAX_WORKERS = 3 };

/* A leader with its workers. */
typedef struct crowd {
  rig r;
  proc worker[MAX_WORKERS];
  char addr[128];
} crowd;

static const char model[] = "llama-F32";
static talk want; /* what one rank says */

static proc_opts worker_opts(const crowd *c, int32_t node) {
  return (proc_opts){.role = "worker",
                     .model = model,
                     .addr = c->addr,
                     .node = node,
                     .n_nodes = c->r.o.n_nodes,
                     .n_local = c->r.o.n_local,
                     .bound_ns = c->r.o.bound_ns};
}

static void prepare(crowd *c, int32_t n_nodes, int32_t n_local, int64_t bound_ns) {
  static int32_t count;
  *c = (crowd){0};
  snprintf(c->addr, sizeof c->addr, "ipc:///tmp/weir-tp-%d-%d.ipc", (int)getpid(), count++);
  c->r.o = (rig_opts){.model = model,
                      .n_nodes = n_nodes,
                      .n_local = n_local,
                      .comm = WEIR_COMM_SHM,
                      .addr = c->addr,
                      .bound_ns = bound_ns > 0 ? bound_ns : 20 * SECOND};
}

static void start_worker(crowd *c, int32_t node) {
  const proc_opts o = worker_opts(c, node);
  c->worker[node - 1] = proc_start(&o);
}

static void begin(crowd *c) {
  const rig_opts o = c->r.o;
  for (int32_t i = 1; i < o.n_nodes; i++)
    if (c->worker[i - 1].pid == 0) start_worker(c, i);
  rig_open(&c->r, &o);
  rig_start(&c->r);
}

static void expect_talk(crowd *c, const char *what) {
  talk got;
  weir_err e = {0};
  if (!talk_hold(c->r.exec, &want, &got, &e)) fail_msg("%s: %s", what, e.msg);
  talk_expect_close(&got, &want, 1e-4, what);
}

static void end(crowd *c) {
  rig_close(&c->r);
  for (int32_t i = 0; i < MAX_WORKERS; i++) assert_int_equal(proc_end(&c->worker[i], SIGTERM), 0);
}

static void test_nodes_are_one(void **state) {
  static const struct {
    int32_t n_nodes, n_local;
    weir_comm_kind comm;
    bool tcp; /* the crew too */
  } cases[] = {{2, 1, WEIR_COMM_SHM, false}, {2, 2, WEIR_COMM_SHM, true},  {4, 1, WEIR_COMM_SHM, false},
               {2, 1, WEIR_COMM_TCP, true},  {2, 2, WEIR_COMM_TCP, false}, {4, 1, WEIR_COMM_TCP, true}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    crowd c;
    char what[64];
    snprintf(what, sizeof what, "%d nodes of %d ranks", cases[i].n_nodes, cases[i].n_local);
    prepare(&c, cases[i].n_nodes, cases[i].n_local, 0);
    if (cases[i].tcp)
      snprintf(c.addr, sizeof c.addr, "127.0.0.1:%d", 20000 + (int)((getpid() * 7 + i) % 12000));
    c.r.o.comm = cases[i].comm;
    begin(&c);
    expect_talk(&c, what);
    end(&c);
  }
}

/* Until the executor is dead; its reason has all the words. */
static void expect_dead(crowd *c, int64_t within_ns, const char *const *word) {
  weir_err e = {0};
  const int64_t from = rig_now_ns();
  rig_await_death(c->r.exec, within_ns);
  assert_int_equal(c->r.exec->life->number(c->r.exec, &e), 0);
  for (; *word; word++)
    if (!strstr(e.msg, *word)) fail_msg("\"%s\" does not have \"%s\"", e.msg, *word);
  assert_int_equal(rig_step(c->r.exec, 1, &e), WEIR_EDEVICE);
  print_message("  dead after %.2f s: %s\n", (double)(rig_now_ns() - from) / 1e9, e.msg);
}

static void expect_alive(crowd *c, uint64_t life, const char *what) {
  const int64_t from = rig_now_ns();
  rig_await_life(c->r.exec, life, LONG_NS);
  const weir_tp_stats s = weir_exec_tp_stats(c->r.exec);
  assert_int_equal(s.groups, life);
  assert_true(s.last_dead_ns > 0);
  print_message("  alive after %.2f s, dead for %.2f s\n", (double)(rig_now_ns() - from) / 1e9,
                (double)s.last_dead_ns / 1e9);
  expect_talk(c, what);
}

/* Dies when a step waits for it: it is stopped before, so that it cannot be done before it is killed. */
static void step_with_dying(crowd *c, int32_t n_tokens, int signal) {
  weir_err e = {0};
  int32_t tok[RIG_TOKENS], page[RIG_TOKENS / 16 + 1];
  weir_batch_builder b;
  weir_row row;
  weir_result r = {.row = &row}, *done = NULL;
  for (int32_t i = 0; i < n_tokens; i++) tok[i] = i + 4;
  for (int32_t i = 0; i <= RIG_TOKENS / 16; i++) page[i] = i;
  assert_int_equal(weir_batch_builder_init(&b, RIG_TOKENS, RIG_SEQS, RIG_PAGES, 1, &e), WEIR_OK);
  weir_batch_add(&b, &(weir_batch_seq){tok, 0, n_tokens, page, (n_tokens + 15) / 16});
  *weir_batch_ask(&b, n_tokens - 1) = (weir_ask){.top_p = 1, .probe = -1, .pos = n_tokens};
  const weir_batch batch = weir_batch_get(&b);
  kill(c->worker[0].pid, SIGSTOP);
  if (c->r.exec->ops->submit(c->r.exec, &batch, &r, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(c->r.exec->ops->submit(c->r.exec, &batch, &r, &e), WEIR_EBUSY);
  weir_batch_builder_fini(
      &b); /* which the contract does not allow, but nothing of it is looked at any more */
  assert_false(c->r.exec->async->ready(c->r.exec));
  if (signal != SIGSTOP) assert_int_equal(proc_end(&c->worker[0], signal), -signal);
  const int64_t from = rig_now_ns();
  assert_int_equal(c->r.exec->ops->wait(c->r.exec, &done, &e), WEIR_OK);
  assert_int_equal(done->status, WEIR_EDEVICE);
  bool named = strstr(done->err.msg, "on node 1 (") != NULL;
  for (int32_t i = 0; i < c->r.o.n_local; i++) {
    char rank[32];
    snprintf(rank, sizeof rank, "rank %d ", c->r.o.n_local + i);
    named = named || strstr(done->err.msg, rank);
  }
  if (!strstr(done->err.msg, "large (tiny): ") || !named) fail_msg("%s", done->err.msg);
  print_message("  %d tokens: failed after %.2f s: %s\n", n_tokens, (double)(rig_now_ns() - from) / 1e9,
                done->err.msg);
  assert_true(rig_now_ns() - from < 2 * c->r.o.bound_ns + SECOND);
}

static const char *const rank1[] = {"large (tiny): ", "rank 1", NULL};

static void test_worker_dies_tcp(void **state) {
  crowd c;
  (void)state;
  prepare(&c, 2, 2, 3 * SECOND);
  c.r.o.comm = WEIR_COMM_TCP;
  begin(&c);
  step_with_dying(&c, 20, SIGKILL);
  start_worker(&c, 1);
  expect_alive(&c, 2, "again");
  step_with_dying(&c, 1, SIGSTOP);
  kill(c.worker[0].pid, SIGCONT);
  expect_alive(&c, 3, "goes on");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  end(&c);
}

/* One of several: the others keep their weights and are in the next group. */
static void test_one_of_three_dies(void **state) {
  crowd c;
  (void)state;
  prepare(&c, 4, 1, 3 * SECOND);
  begin(&c);
  step_with_dying(&c, 3, SIGKILL);
  start_worker(&c, 1);
  expect_alive(&c, 2, "again");
  for (int32_t i = 1; i < 3; i++) {
    assert_int_equal(proc_said(&c.worker[i], "loading the parts"), 1);
    assert_int_equal(proc_said(&c.worker[i], "in the group"), 2);
  }
  end(&c);
}

static void test_worker_dies(void **state) {
  crowd c;
  (void)state;
  prepare(&c, 2, 1, 3 * SECOND);
  begin(&c);
  expect_talk(&c, "before");
  /* between steps */
  assert_int_equal(proc_end(&c.worker[0], SIGKILL), -SIGKILL);
  expect_dead(&c, 2 * c.r.o.bound_ns, rank1);
  start_worker(&c, 1);
  expect_alive(&c, 2, "again");
  /* in prefill */
  step_with_dying(&c, 20, SIGKILL);
  expect_dead(&c, LONG_NS, rank1);
  start_worker(&c, 1);
  expect_alive(&c, 3, "after a prompt");
  /* in decode */
  step_with_dying(&c, 1, SIGKILL);
  start_worker(&c, 1);
  rig_await_life(c.r.exec, 4, LONG_NS);
  /* in an orderly way */
  assert_int_equal(proc_end(&c.worker[0], SIGTERM), 0);
  expect_dead(&c, LONG_NS, (const char *const[]){"rank 1 on node 1 (", "goodbye", NULL});
  start_worker(&c, 1);
  expect_alive(&c, 5, "at last");
  end(&c);
}

static void test_worker_stops(void **state) {
  crowd c;
  (void)state;
  prepare(&c, 2, 1, 3 * SECOND);
  begin(&c);
  step_with_dying(&c, 1, SIGSTOP);
  kill(c.worker[0].pid, SIGCONT);
  expect_alive(&c, 2, "goes on");
  /* It kept its weights: it has read them once. */
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  assert_int_equal(proc_said(&c.worker[0], "in the group"), 2);
  end(&c);
}

static void test_worker_fails(void **state) {
  crowd c;
  weir_err e = {0};
  (void)state;
  prepare(&c, 2, 2, 0);
  proc_opts o = worker_opts(&c, 1);
  o.fail_at = 60;
  c.worker[0] = proc_start(&o);
  begin(&c);
  for (int32_t i = 0; i < 200 && rig_step(c.r.exec, 2, &e) == WEIR_OK; i++) {
  }
  if (!strstr(e.msg, "large (tiny): node 1 (") || !strstr(e.msg, "rank 2: ") || !strstr(e.msg, "caught fire"))
    fail_msg("%s", e.msg);
  expect_alive(&c, 2, "after a failure");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  end(&c);
}

/* One that hangs in its device gives up, and another process takes its place. */
static void test_worker_hangs(void **state) {
  crowd c;
  weir_err e = {0};
  (void)state;
  prepare(&c, 2, 1, 2 * SECOND);
  proc_opts o = worker_opts(&c, 1);
  o.fail_at = 60;
  o.hang = true;
  c.worker[0] = proc_start(&o);
  begin(&c);
  int64_t from = 0;
  for (int32_t i = 0; i < 200 && e.code == WEIR_OK; i++) {
    from = rig_now_ns();
    (void)rig_step(c.r.exec, 2, &e);
  }
  print_message("  failed after %.2f s: %s\n", (double)(rig_now_ns() - from) / 1e9, e.msg);
  assert_int_equal(e.code, WEIR_EDEVICE);
  assert_true(rig_now_ns() - from < c.r.o.bound_ns + SECOND);
  proc_await(&c.worker[0], "a rank does not come back from its device", 1, LONG_NS);
  assert_int_equal(proc_end(&c.worker[0], 0), 3);
  start_worker(&c, 1);
  expect_alive(&c, 2, "another one");
  end(&c);
}

static void test_leader_dies(void **state) {
  crowd c;
  (void)state;
  prepare(&c, 2, 2, 6 * SECOND);
  start_worker(&c, 1);
  proc_opts o = worker_opts(&c, 0);
  o.role = "leader";
  proc leader = proc_start(&o);
  proc_await(&leader, "a step is done", 3, LONG_NS);
  assert_int_equal(proc_end(&leader, SIGKILL), -SIGKILL);
  proc_await(&c.worker[0], "the leader is gone", 1, LONG_NS);
  begin(&c);
  expect_talk(&c, "a new leader");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  assert_int_equal(proc_said(&c.worker[0], "in the group"), 2);
  /* one with less KV, which wants no other weights */
  rig_close(&c.r);
  c.r.o.n_pages = 48;
  begin(&c);
  expect_talk(&c, "a leader with less KV");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  /* one with other numbers */
  rig_close(&c.r);
  c.r.o.max_seqs = RIG_SEQS + 1;
  begin(&c);
  expect_talk(&c, "a leader with other numbers");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 2);
  end(&c);
}

/* Destroyed while it waits for a worker that is dead. */
static void test_end_without_worker(void **state) {
  crowd c;
  (void)state;
  prepare(&c, 2, 1, 2 * SECOND);
  begin(&c);
  assert_int_equal(proc_end(&c.worker[0], SIGKILL), -SIGKILL);
  expect_dead(&c, LONG_NS, rank1);
  const int64_t from = rig_now_ns();
  end(&c);
  assert_true(rig_now_ns() - from < 3 * SECOND);
}

/* ---- a cable ---- */

static char space[2][48];

static bool sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool sh(const char *fmt, ...) {
  char line[400];
  va_list a;
  va_start(a, fmt);
  vsnprintf(line, sizeof line, fmt, a);
  va_end(a);
  return system(line) == 0;
}

static void remove_spaces(void) {
  for (int i = 0; i < 2; i++)
    if (space[i][0]) sh("ip netns del %s 2>/dev/null", space[i]); /* its end of the cable goes with it */
}

static bool make_spaces(void) {
  atexit(remove_spaces);
  for (int i = 0; i < 2; i++) {
    snprintf(space[i], sizeof space[i], "weir-test-tp-%d-%d", (int)getpid(), i);
    if (!sh("ip netns add %s 2>/dev/null", space[i])) return false;
  }
  if (!sh("ip -n %s link add cable type veth peer name cable netns %s 2>/dev/null", space[0], space[1]))
    return false;
  for (int i = 0; i < 2; i++)
    if (!sh("ip -n %s addr add 10.213.78.%d/24 dev cable && ip -n %s link set cable up && ip -n %s link set "
            "lo up",
            space[i], i + 1, space[i], space[i]))
      return false;
  return true;
}

static void test_cable(void **state) {
  crowd c;
  weir_err e = {0};
  (void)state;
  if (!make_spaces()) skip();
  const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  prepare(&c, 2, 1, 3 * SECOND);
  snprintf(c.addr, sizeof c.addr, "10.213.78.1:4711");
  c.r.o.comm = WEIR_COMM_TCP;
  proc_opts o = worker_opts(&c, 1);
  o.host = "10.213.78.2";
  o.netns = space[1];
  c.worker[0] = proc_start(&o);
  assert_true(netns_enter(space[0]));
  begin(&c);
  expect_talk(&c, "before");
  assert_true(sh("ip -n %s link set cable down", space[0]));
  const int64_t from = rig_now_ns();
  assert_int_equal(rig_step(c.r.exec, 2, &e), WEIR_EDEVICE);
  print_message("  failed after %.2f s: %s\n", (double)(rig_now_ns() - from) / 1e9, e.msg);
  assert_true(rig_now_ns() - from < c.r.o.bound_ns + SECOND);
  assert_non_null(strstr(e.msg, "rank 1"));
  proc_await(&c.worker[0], "the leader is gone", 1, LONG_NS);
  assert_true(sh("ip -n %s link set cable up", space[0]));
  expect_alive(&c, 2, "mended");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  end(&c);
  assert_int_equal(setns(home, CLONE_NEWNET), 0);
  close(home);
}

/* ---- who should not have come, or did not ---- */

static void expect_no_gathering(crowd *c, int64_t timeout_ns, const char *const *word) {
  weir_err e = {0};
  int64_t room;
  assert_int_not_equal(weir_tp_gather(c->r.tp, timeout_ns, NULL, NULL, NULL, &room, &e), WEIR_OK);
  for (; *word; word++)
    if (!strstr(e.msg, *word)) fail_msg("\"%s\" does not have \"%s\"", e.msg, *word);
}

static void open_only(crowd *c) {
  const rig_opts o = c->r.o;
  rig_open(&c->r, &o);
}

static bool stop_at_third(void *ctx) { return ++*(int32_t *)ctx == 3; }
static void count_line(void *ctx, const char *line) {
  (void)ctx;
  assert_non_null(strstr(line, "waiting: node 2 of 3 has not come"));
}

/* A worker that leaves between the gathering and the start. */
static void test_leaves_early(void **state) {
  crowd c;
  weir_err e = {0};
  int64_t room;
  weir_exec *x;
  (void)state;
  prepare(&c, 2, 1, 0);
  start_worker(&c, 1);
  open_only(&c);
  if (weir_tp_gather(c.r.tp, LONG_NS, NULL, NULL, NULL, &room, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(proc_end(&c.worker[0], SIGTERM), 0);
  expect_no_gathering(&c, SECOND / 5, (const char *const[]){"node 1 (", "goodbye", NULL});
  weir_tp *tp = c.r.tp;
  c.r.tp = NULL;
  assert_int_equal(weir_tp_start(tp, c.r.local, RIG_PAGES, &x, &e), WEIR_EDEVICE);
  if (!strstr(e.msg, "large (tiny): rank 1 on node 1 (")) fail_msg("%s", e.msg);
  end(&c);
}

static void test_missing(void **state) {
  crowd c;
  (void)state;
  prepare(&c, 3, 1, 0);
  start_worker(&c, 1);
  open_only(&c);
  proc_await(&c.worker[0], "weights are loaded", 1, LONG_NS);
  expect_no_gathering(&c, SECOND / 5,
                      (const char *const[]){"large (tiny): ", "node 2 of 3 has not come", NULL});
  weir_err e = {0};
  int64_t room;
  int32_t asked = 0;
  assert_int_equal(weir_tp_gather(c.r.tp, LONG_NS, count_line, stop_at_third, &asked, &room, &e), WEIR_EBUSY);
  assert_int_equal(asked, 3);
  end(&c);
}

static void test_strangers(void **state) {
  static const struct {
    const char *model, *version;
    int32_t n_local;
    const char *word; /* that the worker says */
  } cases[] = {{"llama-Q8_0", NULL, 1, "another model"},
               {"llama-F32", "other", 1, "version"},
               {"llama-F32", NULL, 2, "2 ranks"}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    crowd c;
    prepare(&c, 2, 1, 0);
    open_only(&c);
    proc_opts o = worker_opts(&c, 1);
    o.model = cases[i].model;
    o.version = cases[i].version;
    o.n_local = cases[i].n_local;
    proc p = proc_start(&o);
    proc_await(&p, "end of the process", 1, LONG_NS);
    if (!proc_said(&p, cases[i].word) || !proc_said(&p, "refuse")) {
      proc_end(&p, 0);
      fail_msg("no \"%s\"", cases[i].word);
    }
    expect_no_gathering(&c, SECOND / 5, (const char *const[]){"large (tiny): ", "node 1", NULL});
    assert_int_equal(proc_end(&p, 0), 1);
    end(&c);
  }
}

static holdings before;

static int remember(void **state) {
  (void)state;
  before = holdings_now();
  return 0;
}

/* A thread that was joined is listed a moment longer. */
static int compare(void **state) {
  const int64_t until = rig_now_ns() + 5 * SECOND;
  holdings now = holdings_now();
  (void)state;
  for (; now.threads > before.threads && rig_now_ns() < until; now = holdings_now()) sched_yield();
  assert_int_equal(now.threads, before.threads);
  assert_int_equal(now.fds, before.fds);
  return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, remember, compare)

static void *nothing(void *arg) { return arg; }

int main(int argc, char **argv) {
  const int role = proc_main(argc, argv);
  pthread_t first; /* with which a sanitizer may start one of its own */
  if (role >= 0) return role;
  if (pthread_create(&first, NULL, nothing, NULL) == 0) pthread_join(first, NULL);
  const struct CMUnitTest tests[] = {
      TEST(test_nodes_are_one),      TEST(test_worker_dies),       TEST(test_worker_stops),
      TEST(test_worker_dies_tcp),    TEST(test_one_of_three_dies), TEST(test_worker_fails),
      TEST(test_leader_dies),        TEST(test_worker_hangs),      TEST(test_missing),
      TEST(test_leaves_early),       TEST(test_strangers),         TEST(test_cable),
      TEST(test_end_without_worker),
  };
  weir_dev *dev;
  weir_err e = {0};
  weir_exec *local = rig_local_exec(model, &dev);
  const bool talked = talk_hold(local, NULL, &want, &e);
  local->ops->destroy(local);
  weir_dev_destroy(dev);
  return talked ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
