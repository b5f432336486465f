/* SPDX-License-Identifier: Apache-2.0 */
/* The engine over fake executors: whatever the batching, chunking, paging, preemption, prefix hits and
 * roll-backs, the text is that of plain decoding straight from the law; every job ends once; what was shown
 * is never taken back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "harness.h"

enum { JOBS = 12 };

static uint32_t rnd_state;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 1664525u + 1013904223u;
  return (rnd_state >> 8) % n;
}

static void random_job(sim_job *j, weir_cascade_cfg cascade) {
  static const float temps[] = {0, 0.7f, 1, 1.5f};
  *j = (sim_job){.n_prompt = 1 + (int32_t)rnd(rnd(3) ? 20 : 150),
                 .max_new = 1 + (int32_t)rnd(MAX_NEW),
                 .cascade = cascade};
  /* Few different beginnings, so that prefixes are shared. */
  const uint32_t family = rnd(3);
  for (int32_t i = 0; i < j->n_prompt; i++)
    j->prompt[i] = (int32_t)(i < 100 ? (family * 77 + (uint32_t)i * 13) % 280 : rnd(280));
  j->draw = (weir_ask){.temperature = temps[rnd(4)], .top_p = 1, .seed = rnd(1000), .probe = -1};
  j->ignore_eos = rnd(2);
}

static sim_opts random_opts(void) {
  sim_opts o = sim_roomy();
  o.max_tokens = 1 + (int32_t)rnd(rnd(2) ? 12 : 200);
  o.max_seqs = 1 + (int32_t)rnd(8);
  o.n_pages = 18 + (int32_t)rnd(rnd(2) ? 8 : 200); /* 200 + 64 tokens need 17: small pools preempt */
  o.large_batch = (int32_t)rnd(6);
  o.large_wait_ns = rnd(2) ? 0 : (int64_t)rnd(200000);
  o.prefix_pages = rnd(3) ? (int32_t)rnd(60) : 0;
  return o;
}

static void expect_tokens(const sim_out *o, const int32_t *tok, int32_t n, const char *what, int32_t round,
                          int32_t i) {
  for (int32_t k = 0; k < n && k < o->n; k++)
    if (o->tok[k] != tok[k])
      fail_msg("%s, round %d, job %d: token %d is %d, want %d", what, round, i, k, o->tok[k], tok[k]);
  if (o->n != n) fail_msg("%s, round %d, job %d: %d tokens, want %d", what, round, i, o->n, n);
}

/* mode and tau against plain decoding with `reference_tau`. */
static int64_t check_mode(weir_mode mode, float tau, float reference_tau, const char *what, int32_t rounds) {
  int64_t preempted = 0;
  for (int32_t round = 0; round < rounds; round++) {
    rnd_state = (uint32_t)round * 7919u + 17u;
    const sim_opts o = random_opts();
    sim s;
    sim_job job[JOBS];
    static sim_out out[JOBS];
    sim_open(&s, &o);
    for (int32_t i = 0; i < JOBS; i++) random_job(&job[i], sim_mode(mode, tau));
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) {
      int32_t tok[MAX_NEW];
      const int32_t n = sim_reference(&s, &job[i], reference_tau, tok, NULL);
      if (out[i].end == WEIR_END_ERROR) fail_msg("%s, round %d, job %d: %s", what, round, i, out[i].err.msg);
      expect_tokens(&out[i], tok, n, what, round, i);
    }
    for (int32_t t = 0; t < 2; t++) preempted += weir_engine_get_stats(s.engine).tier[t].preempted;
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
  return preempted;
}

static void test_small(void **state) {
  (void)state;
  check_mode(WEIR_MODE_SMALL, 0, INFINITY, "small", 20);
  check_mode(WEIR_MODE_DEFER, INFINITY, INFINITY, "defer, tau = inf", 20);
}

static void test_large(void **state) {
  (void)state;
  check_mode(WEIR_MODE_LARGE, 0, -1, "large", 20);
  check_mode(WEIR_MODE_DEFER, -1, -1, "defer, tau < 0", 20);
}

static void test_defer(void **state) {
  (void)state;
  int64_t preempted = 0;
  for (float tau = 0.5f; tau < 6; tau *= 2) preempted += check_mode(WEIR_MODE_DEFER, tau, tau, "defer", 20);
  assert_true(preempted > 0); /* else the pools were too large to test anything */
}

static void test_exact(void **state) {
  (void)state;
  check_mode(WEIR_MODE_EXACT, INFINITY, -1, "exact", 30);
  check_mode(WEIR_MODE_EXACT, 1.5f, -1, "exact with an early stop", 30);
}

/* Drafts and their judge, straight from the laws: the small tier writes until the window is full, its gate
 * stops it or the text ends; the large one replaces the first token it refuses, or writes on. */
static int32_t speculate(const sim *s, const sim_job *j, int32_t *tok, int32_t *refused) {
  const weir_cascade_cfg *g = &j->cascade;
  const int32_t most = j->n_prompt + j->max_new;
  int32_t all[MAX_PROMPT + MAX_NEW + 1], n = j->n_prompt, judged = n;
  float q[MAX_PROMPT + MAX_NEW + 1];
  static weir_top law[MAX_PROMPT + MAX_NEW + 1][WEIR_TOP_MAX];
  const bool ratio = g->keep[1] == WEIR_KEEP_RATIO && j->draw.temperature > 0;
  weir_ask a = j->draw;
  memcpy(all, j->prompt, (size_t)n * sizeof *all);
  for (bool ended = false; !ended || judged < n;) {
    while (!ended && n - judged < g->window[0]) {
      a.pos = n;
      a.probe = -1;
      a.tell_law = ratio;
      a.top_k = ratio ? WEIR_TOP_MAX : j->draw.top_k;
      a.law = law[n];
      const weir_row r = fake_law_row(&s->law, 0, all, n, &a);
      if (r.entropy > g->gate[0].threshold) break;
      q[n] = r.logprob;
      all[n++] = r.token;
      ended = n == most || (!j->ignore_eos && weir_tokenizer_is_end(s->tokenizer, r.token));
    }
    int32_t pos = judged;
    for (; pos < n + !ended; pos++) {
      a.pos = pos;
      a.probe = pos < n ? all[pos] : -1;
      a.keep = g->keep[1];
      a.keep_a = g->keep_a[1];
      a.keep_b = g->keep_b[1];
      a.probe_q = pos < n ? q[pos] : 0;
      a.tell_law = false;
      a.top_k = j->draw.top_k;
      a.draft = law[pos];
      a.n_draft = 0;
      while (ratio && pos < n && a.n_draft < WEIR_TOP_MAX && law[pos][a.n_draft].id >= 0) a.n_draft++;
      const weir_row r = fake_law_row(&s->law, 1, all, pos, &a);
      if (pos < n && r.token == all[pos]) continue;
      *refused += n - pos;
      all[pos] = r.token;
      n = pos + 1;
      ended = n == most || (!j->ignore_eos && weir_tokenizer_is_end(s->tokenizer, r.token));
      break;
    }
    judged = n;
  }
  memcpy(tok, all + j->n_prompt, (size_t)(n - j->n_prompt) * sizeof *tok);
  return n - j->n_prompt;
}

static void test_speculate(void **state) {
  (void)state;
  int32_t refused = 0, by_rule[WEIR_N_KEEPS] = {0};
  for (int32_t round = 0; round < 30; round++) {
    rnd_state = (uint32_t)round * 31u + 7u;
    const sim_opts o = random_opts();
    sim s;
    sim_job job[JOBS];
    static sim_out out[JOBS];
    sim_open(&s, &o);
    for (int32_t i = 0; i < JOBS; i++) {
      weir_cascade_opts c = {.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT | WEIR_OPT_WINDOW};
      weir_err e = {0};
      c.accept = (weir_keep)(1 + rnd(WEIR_N_KEEPS - 1));
      c.window = 1 + (int32_t)rnd(9);
      if (rnd(2)) c.set |= WEIR_OPT_THRESHOLD, c.threshold = 0.5f + (float)rnd(300) / 100;
      if (c.accept >= WEIR_KEEP_V1 && c.accept <= WEIR_KEEP_V3)
        c.set |= WEIR_OPT_ACCEPT_ALPHA, c.accept_alpha = (float)rnd(90) / 100;
      random_job(&job[i], sim_mode(WEIR_MODE_EXACT, 1));
      if (weir_cascade_cfg_make(&c, &job[i].cascade, &e) != WEIR_OK) fail_msg("%s", e.msg);
    }
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) {
      int32_t tok[MAX_NEW], lost = 0;
      const int32_t n = speculate(&s, &job[i], tok, &lost);
      const weir_keep rule = job[i].cascade.keep[1];
      expect_tokens(&out[i], tok, n, weir_accept_name(rule), round, i);
      if (rule == WEIR_KEEP_OWN || (rule == WEIR_KEEP_RATIO && !(job[i].draw.temperature > 0)))
        expect_tokens(&out[i], tok, sim_reference(&s, &job[i], -1, tok, NULL), "the large tier's own", round,
                      i);
      assert_int_equal(out[i].counts.refused, lost);
      refused += lost;
      by_rule[rule] += lost < n; /* something stood */
    }
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
  assert_true(refused > 500);
  for (int k = WEIR_KEEP_OWN; k < WEIR_N_KEEPS; k++) assert_true(by_rule[k] > 10);
}

/* Rolling back has no one-line reference: what a request gets alone it must get in any company. */
static void test_rollback_batched_is_alone(void **state) {
  (void)state;
  int32_t refused = 0;
  for (int32_t round = 0; round < 20; round++) {
    rnd_state = (uint32_t)round + 99u;
    const sim_opts o = random_opts(), roomy = sim_roomy();
    sim s, one;
    sim_job job[JOBS];
    static sim_out out[JOBS], alone;
    sim_open(&s, &o);
    for (int32_t i = 0; i < JOBS; i++) random_job(&job[i], sim_mode(WEIR_MODE_ROLLBACK, 2.0f));
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) {
      sim_open(&one, &roomy);
      sim_run(&one, &job[i], &alone, 1);
      expect_tokens(&out[i], alone.tok, alone.n, "rollback", round, i);
      assert_int_equal(alone.counts.refused, out[i].counts.refused);
      refused += alone.counts.refused;
      sim_out_fini(&alone, 1);
      sim_close(&one);
    }
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
  assert_true(refused > 100);
}

/* The decisions are what the receipts say they are, and the receipts are what the law says. */
static void test_receipts(void **state) {
  (void)state;
  const float tau = 2.0f;
  int32_t by[2] = {0};
  for (int32_t round = 0; round < 10; round++) {
    rnd_state = (uint32_t)round * 31u + 5u;
    const sim_opts o = random_opts();
    sim s;
    sim_job job[JOBS];
    static sim_out out[JOBS];
    sim_open(&s, &o);
    for (int32_t i = 0; i < JOBS; i++) random_job(&job[i], sim_mode(WEIR_MODE_DEFER, tau));
    sim_run(&s, job, out, JOBS);
    for (int32_t i = 0; i < JOBS; i++) {
      int32_t tok[MAX_NEW], counted[2] = {0};
      float h[MAX_NEW];
      sim_reference(&s, &job[i], tau, tok, h);
      for (int32_t k = 0; k < out[i].n; k++) {
        const weir_token_receipt *r = &out[i].receipt[k];
        assert_int_equal(r->tier, h[k] > tau);
        assert_true(r->entropy == h[k]);
        assert_int_equal(r->why, h[k] > tau ? WEIR_WHY_DEFERRED : WEIR_WHY_EASY);
        assert_true(r->tier == 0 ? r->wait_ns == 0 : r->wait_ns > 0);
        assert_true(r->logprob <= 0 && r->p_max > 0 && r->margin >= 0 && r->margin <= r->p_max);
        counted[r->tier]++;
      }
      for (int32_t t = 0; t < 2; t++) {
        assert_int_equal(out[i].counts.by_tier[t], counted[t]);
        by[t] += counted[t];
      }
    }
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
  assert_true(by[0] > 100 && by[1] > 100);
}

static void test_large_tier_dies(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_DEFER, WEIR_MODE_EXACT, WEIR_MODE_LARGE, WEIR_MODE_ROLLBACK,
                                    WEIR_MODE_SMALL};
  int32_t wanted_up = 0;
  for (int32_t round = 0; round < 40; round++) {
    rnd_state = (uint32_t)round + 1000u;
    sim_opts o = sim_roomy();
    o.fail_large_at = rnd(30);
    sim s;
    sim_job job[JOBS];
    static sim_out out[JOBS];
    sim_open(&s, &o);
    for (int32_t i = 0; i < JOBS; i++) random_job(&job[i], sim_mode(modes[i % 5], 1.5f));
    sim_run(&s, job, out, JOBS);
    const bool dead = weir_engine_get_stats(s.engine).tier[1].dead;
    for (int32_t i = 0; i < JOBS; i++) {
      const weir_mode m = modes[i % 5];
      if (m == WEIR_MODE_DEFER || m == WEIR_MODE_SMALL) assert_int_not_equal(out[i].end, WEIR_END_ERROR);
      if (out[i].end == WEIR_END_ERROR) {
        assert_true(dead);
        assert_non_null(strstr(out[i].err.msg, "planned failure"));
      }
      for (int32_t k = 0; k < out[i].n; k++) wanted_up += out[i].receipt[k].wanted_up;
    }
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
  assert_true(wanted_up > 0);
}

static void test_small_tier_dies(void **state) {
  (void)state;
  sim_opts o = sim_roomy();
  o.fail_small_at = 9;
  sim s;
  sim_job job[JOBS];
  static sim_out out[JOBS];
  sim_open(&s, &o);
  for (int32_t i = 0; i < JOBS; i++) {
    random_job(&job[i], sim_mode(WEIR_MODE_DEFER, 1.5f));
    job[i].max_new = MAX_NEW;
    job[i].ignore_eos = true;
  }
  sim_run(&s, job, out, JOBS);
  for (int32_t i = 0; i < JOBS; i++) assert_int_equal(out[i].end, WEIR_END_ERROR);
  sim_out_fini(out, JOBS);
  sim_close(&s);
}

static void test_pinned_never_feeds_large(void **state) {
  (void)state;
  const sim_opts o = sim_roomy();
  sim s;
  sim_job job[JOBS];
  static sim_out out[JOBS];
  rnd_state = 3;
  sim_open(&s, &o);
  for (int32_t i = 0; i < JOBS; i++) {
    random_job(&job[i], sim_mode(WEIR_MODE_DEFER, 0.5f));
    job[i].pinned = true;
  }
  sim_run(&s, job, out, JOBS);
  assert_int_equal(fake_exec_steps(s.exec[1]), 0);
  for (int32_t i = 0; i < JOBS; i++) {
    int32_t tok[MAX_NEW];
    expect_tokens(&out[i], tok, sim_reference(&s, &job[i], INFINITY, tok, NULL), "pinned", 0, i);
    assert_int_equal(out[i].counts.fed[1], 0);
  }
  sim_out_fini(out, JOBS);
  sim_close(&s);
}

static void test_cancel(void **state) {
  (void)state;
  for (int32_t steps = 0; steps < 40; steps++) {
    const sim_opts o = sim_roomy();
    sim s;
    sim_job job[JOBS];
    static sim_out out[JOBS];
    int64_t id[JOBS];
    rnd_state = (uint32_t)steps;
    sim_open(&s, &o);
    for (int32_t i = 0; i < JOBS; i++) {
      random_job(&job[i], sim_mode(i % 2 ? WEIR_MODE_EXACT : WEIR_MODE_DEFER, 1.0f));
      sim_submit(&s, &job[i], &out[i], &id[i]);
    }
    bool busy;
    for (int32_t k = 0; k < steps; k++) assert_int_equal(weir_engine_step(s.engine, &busy, NULL), WEIR_OK);
    for (int32_t i = 0; i < JOBS; i += 3)
      weir_engine_cancel(s.engine, id[i]); /* queued, prefilling or decoding */
    weir_engine_cancel(s.engine, 123456);
    sim_drain(&s);
    for (int32_t i = 0; i < JOBS; i++) {
      assert_int_equal(out[i].done, 1);
      if (i % 3) assert_int_not_equal(out[i].end, WEIR_END_CANCEL);
    }
    sim_out_fini(out, JOBS);
    sim_close(&s);
  }
}

/* Stop strings, taken from the middle of what the text would be: it ends right before them. (In rollback mode
 * the end of a draft moves the place of the next judgement and with it who writes what: there only the end
 * itself is checked.) */
static void test_stop_strings(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_DEFER, WEIR_MODE_EXACT, WEIR_MODE_ROLLBACK};
  int32_t stopped = 0;
  for (int32_t round = 0; round < 60; round++) {
    rnd_state = (uint32_t)round * 13u + 1u;
    const sim_opts o = random_opts();
    sim s;
    sim_job job;
    static sim_out free_run, out;
    char stop[8] = {0};
    sim_open(&s, &o);
    random_job(&job, sim_mode(modes[round % 4], 1.5f));
    sim_run(&s, &job, &free_run, 1);
    const size_t len = free_run.text.len, k = 1 + rnd(5);
    if (len > 8) {
      memcpy(stop, free_run.text.data + rnd((uint32_t)(len - k)), k);
      job.stop[0] = "never in any text \x01\x02";
      job.stop[1] = stop;
      job.n_stop = strlen(stop) > 0 ? 2 : 1;
      sim_run(&s, &job, &out, 1);
      const char *at = job.n_stop == 2 ? strstr(free_run.text.data, stop) : NULL;
      const size_t want = at ? (size_t)(at - free_run.text.data) : len;
      if (modes[round % 4] == WEIR_MODE_ROLLBACK) {
        assert_true(!out.text.data || !at || !strstr(out.text.data, stop));
        at = NULL;
      } else if (out.text.len != want || (want && memcmp(out.text.data, free_run.text.data, want) != 0))
        fail_msg("round %d: text has %zu bytes, want %zu", round, out.text.len, want);
      if (at) {
        assert_int_equal(out.end, WEIR_END_STOP);
        stopped++;
      }
      sim_out_fini(&out, 1);
    }
    sim_out_fini(&free_run, 1);
    sim_close(&s);
  }
  assert_true(stopped > 20);
}

static void test_refusals(void **state) {
  (void)state;
  const sim_opts o = sim_roomy();
  sim s;
  sim_open(&s, &o);
  const weir_cascade_cfg ok = sim_mode(WEIR_MODE_DEFER, 1);
  int32_t prompt[600] = {0};
  const weir_ask draw = {.temperature = 1, .top_p = 1, .probe = -1};
  const struct {
    weir_job job;
    const char *want;
  } bad[] = {
      {{.prompt = prompt, .n_prompt = 0, .max_new = 1, .draw = draw, .cascade = &ok}, "no tokens"},
      {{.prompt = prompt, .n_prompt = 512, .max_new = 1, .draw = draw, .cascade = &ok}, "at most 511 fit"},
      {{.prompt = prompt, .n_prompt = 3, .max_new = 0, .draw = draw, .cascade = &ok}, "max_new"},
      {{.prompt = prompt,
        .n_prompt = 3,
        .max_new = 1,
        .draw = {.temperature = -1, .top_p = 1},
        .cascade = &ok},
       "temperature"},
      {{.prompt = prompt,
        .n_prompt = 3,
        .max_new = 1,
        .draw = {.temperature = NAN, .top_p = 1},
        .cascade = &ok},
       "temperature"},
      {{.prompt = prompt, .n_prompt = 3, .max_new = 1, .draw = {.top_p = 0}, .cascade = &ok}, "top_p"},
      {{.prompt = prompt, .n_prompt = 3, .max_new = 1, .draw = {.top_p = 1, .min_p = 2}, .cascade = &ok},
       "min_p"},
      {{.prompt = prompt, .n_prompt = 3, .max_new = 1, .draw = {.top_p = 1, .top_k = -3}, .cascade = &ok},
       "top_k"},
      {{.prompt = (const int32_t[]){5, 288}, .n_prompt = 2, .max_new = 1, .draw = draw, .cascade = &ok},
       "id 288"},
      {{.prompt = prompt,
        .n_prompt = 3,
        .max_new = 1,
        .draw = draw,
        .cascade = &ok,
        .stop = (const char *const[]){""},
        .n_stop = 1},
       "empty"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_err e = {0};
    assert_int_equal(weir_engine_submit(s.engine, &bad[i].job, NULL, &e), WEIR_EINVAL);
    if (!strstr(e.msg, bad[i].want)) fail_msg("case %zu: \"%s\" does not say \"%s\"", i, e.msg, bad[i].want);
  }
  bool busy = true;
  assert_int_equal(weir_engine_step(s.engine, &busy, NULL), WEIR_OK);
  assert_false(busy);
  sim_close(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_small),           cmocka_unit_test(test_large),
      cmocka_unit_test(test_defer),           cmocka_unit_test(test_exact),
      cmocka_unit_test(test_speculate),       cmocka_unit_test(test_rollback_batched_is_alone),
      cmocka_unit_test(test_receipts),        cmocka_unit_test(test_large_tier_dies),
      cmocka_unit_test(test_small_tier_dies), cmocka_unit_test(test_pinned_never_feeds_large),
      cmocka_unit_test(test_cancel),          cmocka_unit_test(test_stop_strings),
      cmocka_unit_test(test_refusals),
  };
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned failures are not news */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
