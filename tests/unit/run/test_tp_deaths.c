/* SPDX-License-Identifier: Apache-2.0 */
/* A leader and worker processes, one of which dies, stops, fails, hangs or is cut off: in a step and between
 * steps. Reasons and times are printed. */
#define _GNU_SOURCE /* setns */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
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

#include "run/tp_in.h"
#include "step/batch.h"
#include "tp_crowd.h"

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
  crowd_prepare(&c, 2, 2, 3 * SECOND);
  c.r.o.comm = WEIR_COMM_TCP;
  crowd_begin(&c);
  step_with_dying(&c, 20, SIGKILL);
  crowd_start_worker(&c, 1);
  crowd_expect_alive(&c, 2, "again");
  step_with_dying(&c, 1, SIGSTOP);
  kill(c.worker[0].pid, SIGCONT);
  crowd_expect_alive(&c, 3, "goes on");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  crowd_end(&c);
}

/* One of several: the others keep their weights and are in the next group. */
static void test_one_of_three_dies(void **state) {
  crowd c;
  (void)state;
  crowd_prepare(&c, 4, 1, 3 * SECOND);
  crowd_begin(&c);
  step_with_dying(&c, 3, SIGKILL);
  crowd_start_worker(&c, 1);
  crowd_expect_alive(&c, 2, "again");
  for (int32_t i = 1; i < 3; i++) {
    assert_int_equal(proc_said(&c.worker[i], "loading the parts"), 1);
    assert_int_equal(proc_said(&c.worker[i], "in the group"), 2);
  }
  crowd_end(&c);
}

static void test_worker_dies(void **state) {
  crowd c;
  (void)state;
  crowd_prepare(&c, 2, 1, 3 * SECOND);
  crowd_begin(&c);
  crowd_expect_talk(&c, "before");
  /* between steps */
  assert_int_equal(proc_end(&c.worker[0], SIGKILL), -SIGKILL);
  crowd_expect_dead(&c, 2 * c.r.o.bound_ns, rank1);
  crowd_start_worker(&c, 1);
  crowd_expect_alive(&c, 2, "again");
  /* in prefill */
  step_with_dying(&c, 20, SIGKILL);
  crowd_expect_dead(&c, LONG_NS, rank1);
  crowd_start_worker(&c, 1);
  crowd_expect_alive(&c, 3, "after a prompt");
  /* in decode */
  step_with_dying(&c, 1, SIGKILL);
  crowd_start_worker(&c, 1);
  rig_await_life(c.r.exec, 4, LONG_NS);
  /* in an orderly way */
  assert_int_equal(proc_end(&c.worker[0], SIGTERM), 0);
  crowd_expect_dead(&c, LONG_NS, (const char *const[]){"rank 1 on node 1 (", "goodbye", NULL});
  crowd_start_worker(&c, 1);
  crowd_expect_alive(&c, 5, "at last");
  crowd_end(&c);
}

static void test_worker_stops(void **state) {
  crowd c;
  (void)state;
  crowd_prepare(&c, 2, 1, 3 * SECOND);
  crowd_begin(&c);
  step_with_dying(&c, 1, SIGSTOP);
  kill(c.worker[0].pid, SIGCONT);
  crowd_expect_alive(&c, 2, "goes on");
  /* It kept its weights: it has read them once. */
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  assert_int_equal(proc_said(&c.worker[0], "in the group"), 2);
  crowd_end(&c);
}

static void test_worker_fails(void **state) {
  crowd c;
  weir_err e = {0};
  (void)state;
  crowd_prepare(&c, 2, 2, 0);
  proc_opts o = crowd_worker_opts(&c, 1);
  o.fail_at = 60;
  c.worker[0] = proc_start(&o);
  crowd_begin(&c);
  for (int32_t i = 0; i < 200 && rig_step(c.r.exec, 2, &e) == WEIR_OK; i++) {
  }
  if (!strstr(e.msg, "large (tiny): node 1 (") || !strstr(e.msg, "rank 2: ") || !strstr(e.msg, "caught fire"))
    fail_msg("%s", e.msg);
  crowd_expect_alive(&c, 2, "after a failure");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  crowd_end(&c);
}

/* One that hangs in its device gives up, and another process takes its place. */
static void test_worker_hangs(void **state) {
  crowd c;
  weir_err e = {0};
  (void)state;
  crowd_prepare(&c, 2, 1, 2 * SECOND);
  proc_opts o = crowd_worker_opts(&c, 1);
  o.fail_at = 60;
  o.hang = true;
  c.worker[0] = proc_start(&o);
  crowd_begin(&c);
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
  crowd_start_worker(&c, 1);
  crowd_expect_alive(&c, 2, "another one");
  crowd_end(&c);
}

/* One whose device has died is of no use to any group: it ends, and another process takes its place. */
static void test_worker_device_dies(void **state) {
  crowd c;
  weir_err e = {0};
  (void)state;
  crowd_prepare(&c, 2, 1, 0);
  proc_opts o = crowd_worker_opts(&c, 1);
  o.fail_at = 60;
  o.die = true;
  c.worker[0] = proc_start(&o);
  crowd_begin(&c);
  for (int32_t i = 0; i < 200 && rig_step(c.r.exec, 2, &e) == WEIR_OK; i++) {
  }
  if (!strstr(e.msg, "rank 1: ") || !strstr(e.msg, "caught fire")) fail_msg("%s", e.msg);
  proc_await(&c.worker[0], "error: rank 1: the device has caught fire; that takes a new process", 1, LONG_NS);
  assert_int_equal(proc_end(&c.worker[0], 0), 1);
  crowd_start_worker(&c, 1);
  crowd_expect_alive(&c, 2, "another device");
  crowd_end(&c);
}

static sem_t let_go;

static weir_status sit(void *ctx, int32_t i, weir_err *e) {
  (void)ctx;
  (void)i;
  (void)e;
  while (sem_wait(&let_go) != 0) {
  }
  return WEIR_OK;
}

/* Workers have heard of a step that the leader's own ranks do not take: it cannot be taken back. */
static void test_half_a_step(void **state) {
  crowd c;
  weir_err e = {0};
  (void)state;
  crowd_prepare(&c, 2, 1, 0);
  crowd_begin(&c);
  weir_tp *tp = (weir_tp *)c.r.exec;
  assert_int_equal(rig_step(c.r.exec, 2, &e), WEIR_OK);
  assert_int_equal(sem_init(&let_go, 0, 0), 0);
  assert_int_equal(weir_tp_team_start(tp->ranks.team, sit, NULL, &e), WEIR_OK);
  assert_int_equal(rig_step(c.r.exec, 2, &e), WEIR_EDEVICE);
  assert_int_equal(c.r.exec->life->number(c.r.exec, NULL), 0);
  for (bool waits = false; !waits; poll(NULL, 0, 1)) { /* for its ranks, after the group's end */
    pthread_mutex_lock(&tp->lock);
    waits = tp->busy && !tp->alive;
    pthread_mutex_unlock(&tp->lock);
  }
  sem_post(&let_go);
  crowd_expect_alive(&c, 2, "after half a step");
  crowd_end(&c);
}

/* Destroyed while it waits for a worker that is dead. */
static void test_end_without_worker(void **state) {
  crowd c;
  (void)state;
  crowd_prepare(&c, 2, 1, 2 * SECOND);
  crowd_begin(&c);
  assert_int_equal(proc_end(&c.worker[0], SIGKILL), -SIGKILL);
  crowd_expect_dead(&c, LONG_NS, rank1);
  const int64_t from = rig_now_ns();
  crowd_end(&c);
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
  crowd_prepare(&c, 2, 1, 3 * SECOND);
  snprintf(c.addr, sizeof c.addr, "10.213.78.1:4711");
  c.r.o.comm = WEIR_COMM_TCP;
  proc_opts o = crowd_worker_opts(&c, 1);
  o.host = "10.213.78.2";
  o.netns = space[1];
  c.worker[0] = proc_start(&o);
  assert_true(netns_enter(space[0]));
  crowd_begin(&c);
  crowd_expect_talk(&c, "before");
  assert_true(sh("ip -n %s link set cable down", space[0]));
  const int64_t from = rig_now_ns();
  assert_int_equal(rig_step(c.r.exec, 2, &e), WEIR_EDEVICE);
  print_message("  failed after %.2f s: %s\n", (double)(rig_now_ns() - from) / 1e9, e.msg);
  assert_true(rig_now_ns() - from < c.r.o.bound_ns + SECOND);
  assert_non_null(strstr(e.msg, "rank 1"));
  proc_await(&c.worker[0], "the leader is gone", 1, LONG_NS);
  assert_true(sh("ip -n %s link set cable up", space[0]));
  crowd_expect_alive(&c, 2, "mended");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  crowd_end(&c);
  assert_int_equal(setns(home, CLONE_NEWNET), 0);
  close(home);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      CROWD_TEST(test_worker_dies),        CROWD_TEST(test_worker_stops), CROWD_TEST(test_worker_dies_tcp),
      CROWD_TEST(test_one_of_three_dies),  CROWD_TEST(test_worker_fails), CROWD_TEST(test_worker_hangs),
      CROWD_TEST(test_end_without_worker), CROWD_TEST(test_cable),        CROWD_TEST(test_half_a_step),
      CROWD_TEST(test_worker_device_dies),
  };
  return crowd_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
