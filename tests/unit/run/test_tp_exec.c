/* SPDX-License-Identifier: Apache-2.0 */
/* The executor over the ranks of one process: against a local one, its failures, its recovery, its end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "step/batch.h"
#include "tp_rig.h"

#define SECOND INT64_C(1000000000)

static rig_opts threads(const char *model, int32_t n) {
  return (rig_opts){.model = model, .n_nodes = 1, .n_local = n, .comm = WEIR_COMM_SHM};
}

static void test_ranks_are_one(void **state) {
  static const struct {
    const char *model;
    int32_t most; /* ranks that the model has heads for */
    double bound;
  } cases[] = {
      {"llama-F32", 4, 1e-4}, {"qwen3-Q4_0", 4, 0.05}, {"gemma2-BF16", 2, 2e-3}, {"mixtral-BF16", 4, 2e-3}};
  (void)state;
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    weir_dev *dev;
    weir_err e = {0};
    talk want;
    weir_exec *local = rig_local_exec(cases[c].model, &dev);
    if (!talk_hold(local, NULL, &want, &e)) fail_msg("%s", e.msg);
    for (int32_t n = 1; n <= cases[c].most; n *= 2) {
      rig r;
      talk got, again;
      char what[64];
      snprintf(what, sizeof what, "%s on %d ranks", cases[c].model, n);
      const rig_opts o = threads(cases[c].model, n);
      rig_open(&r, &o);
      rig_start(&r);
      assert_int_equal(r.exec->life->number(r.exec, &e), 1);
      if (!talk_hold(r.exec, &want, &got, &e)) fail_msg("%s: %s", what, e.msg);
      talk_expect_close(&got, &want, n == 1 ? 0 : cases[c].bound, what);
      if (!talk_hold(r.exec, &want, &again, &e)) fail_msg("%s: %s", what, e.msg);
      assert_memory_equal(&again, &got, sizeof got);
      const weir_tp_stats s = weir_exec_tp_stats(r.exec);
      assert_int_equal(s.groups, 1);
      assert_true(n == 1 ? s.comm.calls == 0 : s.comm.calls > 0 && s.comm.bytes > 0);
      rig_close(&r);
    }
    local->ops->destroy(local);
    weir_dev_destroy(dev);
  }
}

/* A group of n ranks of this process, and what they say when nothing is wrong. */
static void open_good(rig *r, int32_t n, int64_t bound_ns, talk *out) {
  weir_err e = {0};
  rig_opts o = threads("llama-F32", n);
  o.bound_ns = bound_ns;
  rig_open(r, &o);
  rig_start(r);
  if (!talk_hold(r->exec, NULL, out, &e)) fail_msg("%s", e.msg);
}

static void expect_failure(rig *r, int64_t within_ns, const char *const *word) {
  weir_err e = {0};
  const int64_t from = rig_now_ns();
  assert_int_equal(rig_step(r->exec, 20, &e), WEIR_EDEVICE);
  print_message("  failed after %.3f s: %s\n", (double)(rig_now_ns() - from) / 1e9, e.msg);
  assert_true(rig_now_ns() - from < within_ns);
  for (; *word; word++)
    if (!strstr(e.msg, *word)) fail_msg("\"%s\" does not have \"%s\"", e.msg, *word);
}

static void expect_same(rig *r, uint64_t life, const talk *want) {
  weir_err e = {0};
  talk got;
  rig_await_life(r->exec, life, 30 * SECOND);
  const weir_tp_stats s = weir_exec_tp_stats(r->exec);
  assert_int_equal(s.groups, life);
  print_message("  life %d after %.3f s\n", (int)life, (double)s.last_dead_ns / 1e9);
  if (!talk_hold(r->exec, want, &got, &e)) fail_msg("%s", e.msg);
  assert_memory_equal(&got, want, sizeof got);
}

static void test_a_rank_fails(void **state) {
  rig r;
  talk want;
  weir_err e = {0};
  static const char *const burns[] = {"large (tiny): rank 1: ", "the device has caught fire", NULL};
  (void)state;
  open_good(&r, 2, 20 * SECOND, &want);
  /* in the middle: the other one waits for it */
  rig_break_linear(r.dev[1], 3, RIG_FAILS);
  expect_failure(&r, 10 * SECOND, burns);
  expect_same(&r, 2, &want);
  /* after all that the other one waits for: the step may go well, the group may not */
  rig_break_sync(r.dev[1], 1, RIG_FAILS);
  if (rig_step(r.exec, 20, &e) == WEIR_OK) {
    print_message("  the step went well\n");
    e = (weir_err){0};
  }
  expect_same(&r, 3, &want);
  /* rank 0 itself */
  rig_break_linear(r.dev[0], 5, RIG_FAILS);
  expect_failure(&r, 10 * SECOND, (const char *const[]){"large (tiny): rank 0: ", "caught fire", NULL});
  expect_same(&r, 4, &want);
  rig_close(&r);
}

/* A rank that sits in its device: the others are late for it, and the step fails without it. */
static void test_a_rank_is_stuck(void **state) {
  rig r;
  talk want;
  weir_err e = {0};
  (void)state;
  open_good(&r, 2, SECOND, &want);
  rig_break_linear(r.dev[1], 3, RIG_HANGS);
  expect_failure(&r, 4 * SECOND,
                 (const char *const[]){"large (tiny): rank 0: ", "rank 1 has not come", NULL});
  assert_int_equal(r.exec->life->number(r.exec, &e), 0);
  assert_int_equal(rig_step(r.exec, 1, &e), WEIR_EDEVICE);
  rig_mend();
  expect_same(&r, 2, &want);
  /* after the last that the other one waits for */
  rig_break_sync(r.dev[1], 1, RIG_HANGS);
  expect_failure(&r, 3 * SECOND,
                 (const char *const[]){"large (tiny): rank 1 has not come back from its device", NULL});
  rig_mend();
  expect_same(&r, 3, &want);
  rig_close(&r);
}

/* A device that fails at every step: groups are made at growing intervals, not one after the other. */
static void test_pauses(void **state) {
  rig r;
  talk want;
  weir_err e = {0};
  (void)state;
  open_good(&r, 2, 20 * SECOND, &want);
  rig_break_always(r.dev[1]);
  const int64_t until = rig_now_ns() + SECOND;
  for (uint64_t life = 1; rig_now_ns() < until; life++) {
    rig_await_life(r.exec, life, 30 * SECOND);
    assert_int_equal(rig_step(r.exec, 2, &e), WEIR_EDEVICE);
  }
  const int64_t groups = weir_exec_tp_stats(r.exec).groups;
  print_message("  %d groups in a second\n", (int)groups);
  assert_in_range(groups, 3, 8);
  rig_mend();
  expect_same(&r, (uint64_t)groups + 1, &want);
  rig_close(&r);
}

static void test_left_behind(void **state) {
  rig r;
  talk want;
  (void)state;
  open_good(&r, 2, SECOND, &want);
  rig_break_linear(r.dev[1], 3, RIG_HANGS);
  expect_failure(&r, 4 * SECOND, (const char *const[]){"large (tiny): ", NULL});
  const int64_t from = rig_now_ns();
  r.exec->ops->destroy(r.exec);
  assert_true(rig_now_ns() - from < 5 * SECOND);
  assert_true(r.left);
  /* What was left behind stays: thread, instances, devices. The thread ends here for the sake of those who
   * look for what was forgotten; it finds all as it was. */
  static rig keep;
  keep = r;
  rig_mend();
  weir_mfile_close(keep.file);
}

static void test_contract(void **state) {
  rig r;
  talk want;
  weir_err e = {0};
  weir_result *done = NULL, res = {0};
  (void)state;
  open_good(&r, 2, 0, &want);
  weir_exec *x = r.exec;
  assert_int_equal(x->ops->wait(x, &done, &e), WEIR_EINVAL);
  assert_true(x->async->ready(x));
  const weir_batch none = {0};
  assert_int_equal(x->ops->submit(x, &none, &res, &e), WEIR_EINVAL);
  assert_int_equal(x->life->number(x, &e), 1);
  assert_int_equal(x->info.n_vocab, r.h.n_vocab);
  assert_int_equal(x->info.n_pages, RIG_PAGES);
  assert_string_equal(x->info.name, "large (tiny)");
  rig_close(&r);
}

static int64_t count_to(void *ctx) { return ++*(int64_t *)ctx; }
static void count(void *ctx) { (void)count_to(ctx); }

/* Destroyed with a step under way, at every point of it. */
static void test_destroyed_in_a_step(void **state) {
  (void)state;
  for (int32_t nth = 1; nth < 8; nth += 3) {
    rig r;
    talk want;
    weir_err e = {0};
    int64_t told = 0;
    int32_t tok[4] = {1, 2, 3, 4}, page[1] = {0};
    weir_batch_builder b;
    weir_row row;
    weir_result res = {.row = &row};
    open_good(&r, 2, 20 * SECOND, &want);
    rig_break_linear(r.dev[1], nth, RIG_HANGS);
    assert_int_equal(weir_batch_builder_init(&b, RIG_TOKENS, RIG_SEQS, RIG_PAGES, 1, &e), WEIR_OK);
    weir_batch_add(&b, &(weir_batch_seq){tok, 0, 4, page, 1});
    *weir_batch_ask(&b, 3) = (weir_ask){.top_p = 1, .probe = -1, .pos = 4};
    const weir_batch batch = weir_batch_get(&b);
    r.exec->async->notify(r.exec, count, &told);
    if (r.exec->ops->submit(r.exec, &batch, &res, &e) != WEIR_OK) fail_msg("%s", e.msg);
    rig_mend();
    rig_close(&r);
    weir_batch_builder_fini(&b);
    assert_in_range(told, 1, 2);
  }
}

static void test_start_refuses(void **state) {
  rig r;
  weir_err e = {0};
  weir_exec *x;
  const rig_opts o = threads("llama-F32", 2);
  (void)state;
  for (int32_t i = 0; i < 3; i++) {
    rig_open(&r, &o);
    weir_instance *local[2] = {r.local[0], r.local[1]};
    if (i == 1) { /* the wrong way round */
      local[0] = r.local[1];
      local[1] = r.local[0];
    } else if (i == 2) {
      local[1] = NULL;
      weir_instance_destroy(r.local[1]);
    }
    weir_tp *tp = r.tp;
    r.tp = NULL;
    assert_int_equal(weir_tp_start(tp, local, i == 0 ? 0 : RIG_PAGES, &x, &e), WEIR_EINVAL);
    assert_null(x);
    rig_close(&r);
  }
  static const struct {
    int32_t n_nodes, n_local;
    weir_comm_kind comm;
  } plans[] = {
      {0, 1, WEIR_COMM_SHM}, {1, 65, WEIR_COMM_SHM}, {1, 2, WEIR_COMM_SELF}, {2, 1, WEIR_COMM_LOCAL}};
  for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
    const rig_opts p = {.n_nodes = plans[i].n_nodes, .n_local = plans[i].n_local, .comm = plans[i].comm};
    const weir_tp_opts t = {.name = "large", .plan = rig_plan(&p), .addr = "ipc:///tmp/weir-tp-none.ipc"};
    weir_tp *tp;
    assert_int_equal(weir_tp_create(&t, &tp, &e), WEIR_EINVAL);
    assert_null(tp);
  }
}

static void test_fingerprints(void **state) {
  static const char *const model[] = {"llama-F32", "llama-Q8_0", "llama-Q4_0", "qwen3-F32", "llama-tied-F16"};
  enum { N = sizeof model / sizeof *model };
  uint64_t print[N];
  (void)state;
  for (int32_t i = 0; i < N; i++) {
    weir_mfile *f;
    weir_hparams h;
    weir_err e = {0};
    char path[128];
    uint64_t again;
    snprintf(path, sizeof path, "tests/vectors/models/%s.gguf", model[i]);
    assert_int_equal(weir_mfile_open(path, &f, &e), WEIR_OK);
    assert_int_equal(weir_hparams_read(f, &h, &e), WEIR_OK);
    assert_int_equal(weir_tp_fingerprint(f, &h, &print[i], &e), WEIR_OK);
    h.norm_eps *= 2;
    assert_int_equal(weir_tp_fingerprint(f, &h, &again, &e), WEIR_OK);
    assert_true(again != print[i]);
    weir_mfile_close(f);
    for (int32_t k = 0; k < i; k++) assert_true(print[k] != print[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ranks_are_one),
      cmocka_unit_test(test_contract),
      cmocka_unit_test(test_a_rank_fails),
      cmocka_unit_test(test_a_rank_is_stuck),
      cmocka_unit_test(test_destroyed_in_a_step),
      cmocka_unit_test(test_start_refuses),
      cmocka_unit_test(test_pauses),
      cmocka_unit_test(test_fingerprints),
      cmocka_unit_test(test_left_behind),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
