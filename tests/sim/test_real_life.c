/* SPDX-License-Identifier: Apache-2.0 */
/* The engine over a real (tiny) pair whose large model is cut over two ranks, a device of which fails now and
 * then: the group dies in a step, is made anew, and the engine computes its KV again. What waits for it is
 * written to the bit as if nothing had happened; what does not goes on with the small model until the large
 * one is back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/log.h"
#include "cascade/cascade_conf.h"
#include "model/gguf.h"
#include "serve/engine.h"
#include "tp_rig.h"

enum { JOBS = 4, MAX_NEW = 24, MAX_PROMPT = 60 };

typedef struct out {
  int32_t tok[MAX_NEW], n, done;
  weir_token_receipt receipt[MAX_NEW];
  weir_end end;
  weir_err err;
} out;

static rig large;
static weir_exec *small;
static weir_dev *small_dev;
static weir_tokenizer *tokenizer;
static int64_t deaths, recoveries, wanted, back, failed;

static int setup(void **state) {
  (void)state;
  weir_err e = {0};
  weir_gguf *g;
  if (weir_gguf_open("tests/vectors/models/pair-small.gguf", &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &tokenizer, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  small = rig_local_exec("pair-small", &small_dev);
  rig_open(&large, &(rig_opts){.model = "pair-large", .n_nodes = 1, .n_local = 2, .comm = WEIR_COMM_SHM});
  rig_start(&large);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  rig_close(&large);
  small->ops->destroy(small);
  weir_dev_destroy(small_dev);
  weir_tokenizer_destroy(tokenizer);
  return 0;
}

static void on_piece(void *ctx, const weir_piece *p) {
  out *o = ctx;
  assert_int_equal(p->index, o->n);
  o->receipt[o->n] = *p->receipt;
  o->tok[o->n++] = p->receipt->id;
}

static void on_done(void *ctx, const weir_outcome *r) {
  out *o = ctx;
  o->done++;
  o->end = r->end;
  if (r->err) o->err = *r->err;
}

/* fault: a device's nth linear operation fails, 0: none. */
static void run(weir_mode mode, uint32_t seed, int64_t patience_ns, int32_t rank, int32_t nth, out *o) {
  weir_engine *g;
  weir_err e = {0};
  weir_cascade_cfg cascade;
  weir_cascade_opts how = {.mode = mode};
  int32_t prompt[MAX_PROMPT];
  if (mode == WEIR_MODE_DEFER || mode == WEIR_MODE_ROLLBACK) {
    how.set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    how.threshold = 1.5f;
  }
  if (weir_cascade_cfg_make(&how, &cascade, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const weir_engine_cfg cfg = {.n_tiers = 2,
                               .tier = {small, large.exec},
                               .tokenizer = tokenizer,
                               .clock = weir_clock_system(),
                               .max_active = JOBS,
                               .large_batch = 2,
                               .large_wait_ns = 1000000,
                               .prefix_pages = -1,
                               .overlap_tiers = true,
                               .dead_wait_ns = patience_ns,
                               .tp_stats = {NULL, weir_exec_tp_stats}};
  if (weir_engine_create(&cfg, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_false(weir_engine_get_stats(g).tier[1].dead);
  for (int32_t j = 0; j < JOBS; j++) {
    const int32_t n = 5 + (int32_t)(seed * 13 + (uint32_t)j * 17) % (MAX_PROMPT - 5);
    for (int32_t i = 0; i < n; i++) prompt[i] = (i * 37 + (j % 2) * 5 + (int32_t)seed) % 280;
    o[j] = (out){0};
    const weir_job job = {
        .prompt = prompt,
        .n_prompt = n,
        .max_new = MAX_NEW,
        .draw = {.temperature = 1, .top_p = 1, .seed = seed * 10 + (uint32_t)j, .probe = -1},
        .cascade = &cascade,
        .ignore_eos = true,
        .on_piece = on_piece,
        .on_done = on_done,
        .ctx = &o[j]};
    if (weir_engine_submit(g, &job, NULL, &e) != WEIR_OK) fail_msg("%s", e.msg);
  }
  rig_break_linear(large.dev[rank], nth, RIG_FAILS);
  for (bool busy = true; busy;)
    if (weir_engine_step(g, &busy, &e) != WEIR_OK) fail_msg("%s", e.msg);
  rig_break_linear(large.dev[rank], 0, RIG_FAILS);
  const weir_engine_stats s = weir_engine_get_stats(g);
  assert_int_equal(s.tier[0].deaths, 0);
  assert_true(s.tier[1].comm_bytes > 0);
  for (int32_t t = 0; t < 2; t++) assert_int_equal(s.tier[t].kv_pages_used, 0);
  deaths += s.tier[1].deaths;
  recoveries += s.tier[1].recoveries;
  weir_engine_destroy(g);
  for (const int64_t until = rig_now_ns() + INT64_C(20000000000);
       !large.exec->life->number(large.exec, NULL);) {
    if (rig_now_ns() > until) fail_msg("the ranks do not come back");
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
}

static void expect_same(const out *a, const out *b, int32_t n, const char *what, int32_t nth, int32_t j) {
  for (int32_t i = 0; i < n; i++)
    if (a->tok[i] != b->tok[i])
      fail_msg("%s, fault at %d, job %d: token %d is %d, want %d", what, nth, j, i, a->tok[i], b->tok[i]);
}

enum { ROUNDS = 3 };

/* Who waits is written as ever, to the bit. */
static void test_patience(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_EXACT, WEIR_MODE_LARGE, WEIR_MODE_ROLLBACK};
  static out want[JOBS], got[JOBS];
  deaths = recoveries = 0;
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    run(modes[m], 3, INT64_C(60000000000), 0, 0, want);
    for (int32_t round = 0; round < ROUNDS; round++) {
      const int32_t nth = 1 + round * 97 + (int32_t)m * 31;
      run(modes[m], 3, INT64_C(60000000000), round % 2, nth, got);
      for (int32_t j = 0; j < JOBS; j++) {
        if (got[j].end != WEIR_END_LENGTH) fail_msg("%s", got[j].err.msg);
        assert_int_equal(got[j].n, want[j].n);
        expect_same(&got[j], &want[j], want[j].n, weir_mode_name(modes[m]), nth, j);
      }
    }
  }
  print_message("%lld deaths, %lld returns\n", (long long)deaths, (long long)recoveries);
  assert_true(deaths >= 6);
  assert_int_equal(recoveries, deaths);
}

/* Who can do without goes on, as it was written before until there; who cannot ends with the reason. */
static void test_no_patience(void **state) {
  (void)state;
  static out want[2][JOBS], got[JOBS];
  deaths = 0;
  for (uint32_t m = 0; m < 2; m++) {
    const weir_mode mode = m ? WEIR_MODE_EXACT : WEIR_MODE_DEFER;
    run(mode, 5, 0, 0, 0, want[m]);
    for (int32_t round = 0; round < 2 * ROUNDS; round++) {
      const int32_t nth = 1 + round * 53;
      run(mode, 5, 0, round % 2, nth, got);
      for (int32_t j = 0; j < JOBS; j++) {
        int32_t same = 0;
        while (same < got[j].n && !got[j].receipt[same].wanted_up) same++;
        expect_same(&got[j], &want[m][j], same, weir_mode_name(mode), nth, j);
        for (int32_t i = same; i < got[j].n; i++) {
          wanted += got[j].receipt[i].wanted_up;
          back += got[j].receipt[i].tier == 1;
          assert_true(!got[j].receipt[i].wanted_up || got[j].receipt[i].tier == 0);
        }
        failed += got[j].end == WEIR_END_ERROR;
        if (got[j].end == WEIR_END_ERROR) assert_non_null(strstr(got[j].err.msg, "caught fire"));
        if (!m) assert_int_equal(got[j].end, WEIR_END_LENGTH);
      }
    }
  }
  print_message("%lld deaths, %lld tokens wanted up, %lld by the large model later, %lld failed\n",
                (long long)deaths, (long long)wanted, (long long)back, (long long)failed);
  assert_true(deaths >= 6 && wanted > 0 && failed > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_patience),
      cmocka_unit_test(test_no_patience),
  };
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned failures are not news */
  return cmocka_run_group_tests(tests, setup, teardown);
}
