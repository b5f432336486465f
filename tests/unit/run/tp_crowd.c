/* SPDX-License-Identifier: Apache-2.0 */
/* A leader with its workers. */
#include "tp_crowd.h"

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

static talk want; /* what one rank says */

proc_opts crowd_worker_opts(const crowd *c, int32_t node) {
  return (proc_opts){.role = "worker",
                     .model = CROWD_MODEL,
                     .addr = c->addr,
                     .node = node,
                     .n_nodes = c->r.o.n_nodes,
                     .n_local = c->r.o.n_local,
                     .bound_ns = c->r.o.bound_ns};
}

void crowd_prepare(crowd *c, int32_t n_nodes, int32_t n_local, int64_t bound_ns) {
  static int32_t count;
  *c = (crowd){0};
  snprintf(c->addr, sizeof c->addr, "ipc:///tmp/weir-tp-%d-%d.ipc", (int)getpid(), count++);
  c->r.o = (rig_opts){.model = CROWD_MODEL,
                      .n_nodes = n_nodes,
                      .n_local = n_local,
                      .comm = WEIR_COMM_SHM,
                      .addr = c->addr,
                      .bound_ns = bound_ns > 0 ? bound_ns : 20 * SECOND};
}

void crowd_start_worker(crowd *c, int32_t node) {
  const proc_opts o = crowd_worker_opts(c, node);
  c->worker[node - 1] = proc_start(&o);
}

void crowd_begin(crowd *c) {
  const rig_opts o = c->r.o;
  for (int32_t i = 1; i < o.n_nodes; i++)
    if (c->worker[i - 1].pid == 0) crowd_start_worker(c, i);
  rig_open(&c->r, &o);
  rig_start(&c->r);
}

void crowd_expect_talk(crowd *c, const char *what) {
  talk got;
  weir_err e = {0};
  if (!talk_hold(c->r.exec, &want, &got, &e)) fail_msg("%s: %s", what, e.msg);
  talk_expect_close(&got, &want, 1e-4, what);
}

void crowd_end(crowd *c) {
  rig_close(&c->r);
  for (int32_t i = 0; i < CROWD_WORKERS; i++) assert_int_equal(proc_end(&c->worker[i], SIGTERM), 0);
}

/* Until the executor is dead; its reason has all the words. */
void crowd_expect_dead(crowd *c, int64_t within_ns, const char *const *word) {
  weir_err e = {0};
  const int64_t from = rig_now_ns();
  rig_await_death(c->r.exec, within_ns);
  assert_int_equal(c->r.exec->life->number(c->r.exec, &e), 0);
  for (; *word; word++)
    if (!strstr(e.msg, *word)) fail_msg("\"%s\" does not have \"%s\"", e.msg, *word);
  assert_int_equal(rig_step(c->r.exec, 1, &e), WEIR_EDEVICE);
  print_message("  dead after %.2f s: %s\n", (double)(rig_now_ns() - from) / 1e9, e.msg);
}

void crowd_expect_alive(crowd *c, uint64_t life, const char *what) {
  const int64_t from = rig_now_ns();
  rig_await_life(c->r.exec, life, LONG_NS);
  const weir_tp_stats s = weir_exec_tp_stats(c->r.exec);
  assert_int_equal(s.groups, life);
  assert_in_range(s.last_dead_ns, 1, 2 * c->r.o.bound_ns + 10 * SECOND);
  print_message("  alive after %.2f s, dead for %.2f s\n", (double)(rig_now_ns() - from) / 1e9,
                (double)s.last_dead_ns / 1e9);
  crowd_expect_talk(c, what);
}

static holdings before;

int crowd_remember(void **state) {
  (void)state;
  before = holdings_now();
  return 0;
}

/* A thread that was joined is listed a moment longer. */
int crowd_compare(void **state) {
  const int64_t until = rig_now_ns() + 5 * SECOND;
  holdings now = holdings_now();
  (void)state;
  for (; now.threads > before.threads && rig_now_ns() < until; now = holdings_now()) sched_yield();
  assert_int_equal(now.threads, before.threads);
  assert_int_equal(now.fds, before.fds);
  return 0;
}

static void *nothing(void *arg) { return arg; }

int crowd_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n_tests) {
  const int role = proc_main(argc, argv);
  pthread_t first; /* with which a sanitizer may start one of its own */
  if (role >= 0) return role;
  if (pthread_create(&first, NULL, nothing, NULL) == 0) pthread_join(first, NULL);
  weir_dev *dev;
  weir_err e = {0};
  weir_exec *local = rig_local_exec(CROWD_MODEL, &dev);
  const bool talked = talk_hold(local, NULL, &want, &e);
  local->ops->destroy(local);
  weir_dev_destroy(dev);
  return talked ? _cmocka_run_group_tests("tp", tests, n_tests, NULL, NULL) : 1;
}
