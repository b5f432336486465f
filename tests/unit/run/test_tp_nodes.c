/* SPDX-License-Identifier: Apache-2.0 */
/* A leader and worker processes: what they compute together, leaders that follow each other, and workers that
 * should not have come, or did not. */
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

#include "tp_crowd.h"

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
    crowd_prepare(&c, cases[i].n_nodes, cases[i].n_local, 0);
    if (cases[i].tcp)
      snprintf(c.addr, sizeof c.addr, "127.0.0.1:%d", 20000 + (int)((getpid() * 7 + i) % 12000));
    c.r.o.comm = cases[i].comm;
    crowd_begin(&c);
    crowd_expect_talk(&c, what);
    crowd_end(&c);
  }
}

static void test_leader_dies(void **state) {
  crowd c;
  (void)state;
  crowd_prepare(&c, 2, 2, 6 * SECOND);
  crowd_start_worker(&c, 1);
  proc_opts o = crowd_worker_opts(&c, 0);
  o.role = "leader";
  proc leader = proc_start(&o);
  proc_await(&leader, "a step is done", 3, LONG_NS);
  assert_int_equal(proc_end(&leader, SIGKILL), -SIGKILL);
  proc_await(&c.worker[0], "the leader is gone", 1, LONG_NS);
  crowd_begin(&c);
  crowd_expect_talk(&c, "a new leader");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  assert_int_equal(proc_said(&c.worker[0], "in the group"), 2);
  /* one with less KV, which wants no other weights */
  rig_close(&c.r);
  c.r.o.n_pages = 48;
  crowd_begin(&c);
  crowd_expect_talk(&c, "a leader with less KV");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 1);
  /* one with other numbers */
  rig_close(&c.r);
  c.r.o.max_seqs = RIG_SEQS + 1;
  crowd_begin(&c);
  crowd_expect_talk(&c, "a leader with other numbers");
  assert_int_equal(proc_said(&c.worker[0], "loading the parts"), 2);
  crowd_end(&c);
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
  crowd_prepare(&c, 2, 1, 0);
  crowd_start_worker(&c, 1);
  open_only(&c);
  if (weir_tp_gather(c.r.tp, LONG_NS, NULL, NULL, NULL, &room, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(proc_end(&c.worker[0], SIGTERM), 0);
  expect_no_gathering(&c, SECOND / 5, (const char *const[]){"node 1 (", "goodbye", NULL});
  weir_tp *tp = c.r.tp;
  c.r.tp = NULL;
  assert_int_equal(weir_tp_start(tp, c.r.local, RIG_PAGES, &x, &e), WEIR_EDEVICE);
  if (!strstr(e.msg, "large (tiny): rank 1 on node 1 (")) fail_msg("%s", e.msg);
  crowd_end(&c);
}

static void test_missing(void **state) {
  crowd c;
  (void)state;
  crowd_prepare(&c, 3, 1, 0);
  crowd_start_worker(&c, 1);
  open_only(&c);
  proc_await(&c.worker[0], "weights are loaded", 1, LONG_NS);
  expect_no_gathering(&c, SECOND / 5,
                      (const char *const[]){"large (tiny): ", "node 2 of 3 has not come", NULL});
  weir_err e = {0};
  int64_t room;
  int32_t asked = 0;
  assert_int_equal(weir_tp_gather(c.r.tp, LONG_NS, count_line, stop_at_third, &asked, &room, &e), WEIR_EBUSY);
  assert_int_equal(asked, 3);
  crowd_end(&c);
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
    crowd_prepare(&c, 2, 1, 0);
    open_only(&c);
    proc_opts o = crowd_worker_opts(&c, 1);
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
    crowd_end(&c);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      CROWD_TEST(test_nodes_are_one), CROWD_TEST(test_leader_dies), CROWD_TEST(test_missing),
      CROWD_TEST(test_leaves_early),  CROWD_TEST(test_strangers),
  };
  return crowd_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
