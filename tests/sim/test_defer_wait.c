/* SPDX-License-Identifier: Apache-2.0 */
/* The deadline of a deferral, on the virtual clock: a large tier that is slow now and then, hangs, or dies.
 * Nobody waits longer than it wanted plus a small step (twice as long, where a step of the large tier had
 * begun with it); every token is what its tier says there; texts of others are unchanged; with a large tier
 * that is fast enough nothing changes. usage: test_defer_wait [--seed SEED] */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "serve/engine_in.h"
#include "world.h"

enum { MS = 1000000, N_JOBS = 12 };
static uint64_t only_seed, rnd_state;

static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

static void random_job(world_job *j) {
  static const float temps[] = {0, 0.7f, 1, 1.5f};
  static const weir_mode modes[] = {WEIR_MODE_DEFER,    WEIR_MODE_DEFER, WEIR_MODE_DEFER, WEIR_MODE_ROLLBACK,
                                    WEIR_MODE_ROLLBACK, WEIR_MODE_SMALL, WEIR_MODE_LARGE, WEIR_MODE_EXACT};
  *j = (world_job){.n_prompt = 1 + (int32_t)rnd(rnd(3) ? 20 : 160), .max_new = 1 + (int32_t)rnd(WORLD_NEW)};
  for (int32_t i = 0; i < j->n_prompt; i++) j->prompt[i] = (int32_t)rnd(280);
  j->mode = modes[rnd(sizeof modes / sizeof *modes)];
  j->tau = 0.5f + (float)rnd(400) / 100;
  j->draw = (weir_ask){.temperature = temps[rnd(4)], .top_p = 1, .seed = rnd(1000), .probe = -1};
  j->ignore_eos = rnd(2);
  j->arrives_ns = rnd(3) ? (int64_t)rnd(20 * MS) : 0;
  if (rnd(4) == 0) j->penalties = (weir_penalties){.presence = (float)rnd(9) / 2 - 2, .repetition = 1.2f};
}

static bool waits(const world_job *j) { return j->mode == WEIR_MODE_DEFER || j->mode == WEIR_MODE_ROLLBACK; }

static world_opts threaded(void) {
  world_opts o = world_roomy();
  o.async = o.overlap = true;
  return o;
}

static void run(const world_opts *o, world_job *job, int32_t n, weir_engine_stats *stats, uint64_t seed) {
  static world w;
  world_open(&w, o);
  w.seed = seed;
  for (int32_t i = 0; i < n; i++) job[i].n = job[i].done = job[i].submitted = 0;
  for (int32_t i = 0; i < n; i++) job[i].text.len = 0;
  world_run(&w, job, n);
  *stats = weir_engine_get_stats(w.engine);
  world_close(&w);
}

/* ---- a tier that is fast enough ---- */

static void fast_enough(void **state) {
  (void)state;
  static world_job with[N_JOBS], without[N_JOBS];
  for (uint64_t seed = 1; seed <= 20; seed++) {
    rnd_state = seed;
    weir_engine_stats a, b;
    for (int32_t i = 0; i < N_JOBS; i++) {
      random_job(&without[i]);
      with[i] = without[i];
      if (waits(&with[i])) with[i].defer_wait_ns = 1000 * MS;
    }
    const world_opts o = threaded();
    run(&o, without, N_JOBS, &b, seed);
    run(&o, with, N_JOBS, &a, seed);
    assert_int_equal(a.deferrals_given_up, 0);
    for (int t = 0; t < 2; t++) assert_int_equal(a.tier[t].steps, b.tier[t].steps);
    for (int32_t i = 0; i < N_JOBS; i++) {
      assert_int_equal(with[i].n, without[i].n);
      assert_memory_equal(with[i].tok, without[i].tok, (size_t)with[i].n * sizeof *with[i].tok);
      assert_memory_equal(with[i].receipt, without[i].receipt, (size_t)with[i].n * sizeof *with[i].receipt);
      assert_int_equal(with[i].done_ns, without[i].done_ns);
    }
  }
}

/* ---- a tier that is slow now and then ---- */

static int64_t n_given_up, n_by_large, n_unjudged;

/* Each token is what its tier says there; why it is that tier's. Of a rollback the judged ones stand. */
static void check_tokens(const world *w, const world_job *j, int64_t bound) {
  int32_t all[WORLD_PROMPT + WORLD_NEW], wanted = 0;
  weir_logit_edit edit[512];
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  for (int32_t i = 0; i < j->n; i++) {
    const int32_t n = j->n_prompt + i;
    const weir_token_receipt *r = &j->receipt[i];
    weir_ask a = world_ask(w, j, all, n, edit);
    const weir_row small = fake_law_row(&w->law, 0, all, n, &a), large = fake_law_row(&w->law, 1, all, n, &a);
    const bool unsure = small.entropy > j->tau;
    if (r->tier == 0 && r->id != small.token)
      fail_msg("seed %llu: token %d of the small tier is %d, want %d", (unsigned long long)w->seed, i, r->id,
               small.token);
    if (r->tier == 1 && r->why != WEIR_WHY_REPLACED && r->id != large.token)
      fail_msg("seed %llu: token %d of the large tier is %d, want %d", (unsigned long long)w->seed, i, r->id,
               large.token);
    if (r->wait_ns > bound)
      fail_msg("seed %llu: token %d has waited %lld ns, %lld is the most", (unsigned long long)w->seed, i,
               (long long)r->wait_ns, (long long)bound);
    if (j->mode == WEIR_MODE_DEFER) {
      assert_int_equal(r->wanted_up, r->tier == 0 && unsure);
      assert_int_equal(r->why, r->tier == 1 ? WEIR_WHY_DEFERRED : WEIR_WHY_EASY);
      assert_true(r->entropy == small.entropy);
      n_given_up += r->wanted_up;
    } else if (r->why == WEIR_WHY_EASY) { /* nobody has judged it: shown after the wait */
      assert_true(r->wanted_up);
      n_unjudged++;
    } else if (r->why == WEIR_WHY_KEPT) {
      a.probe = r->id;
      a.keep = WEIR_KEEP_NLL;
      a.keep_a = 3;
      assert_int_equal(fake_law_row(&w->law, 1, all, n, &a).token, r->id);
    }
    n_by_large += r->tier == 1;
    wanted += r->wanted_up;
    all[n] = r->id;
  }
  assert_int_equal(j->counts.wanted_up, wanted);
}

static void check_others(const world *w, const world_job *j) {
  int32_t tok[WORLD_NEW];
  static weir_token_receipt receipt[WORLD_NEW];
  const int32_t n = world_reference(w, j, tok, receipt);
  assert_int_equal(j->n, n);
  assert_memory_equal(j->tok, tok, (size_t)n * sizeof *tok);
  assert_int_equal(j->counts.given_up, 0);
}

static void check_all(const world_job *job, int32_t n, int64_t wait_ns, const weir_engine_stats *s,
                      uint64_t seed) {
  static world w;
  world_bare(&w);
  w.seed = seed;
  const int64_t small_ns = 100000 + 256 * 2000; /* its longest step, world_roomy */
  int64_t given_up = 0;
  for (int32_t i = 0; i < n; i++) {
    assert_true(job[i].end == WEIR_END_EOS || job[i].end == WEIR_END_LENGTH);
    /* A small step that is under way, and its own. */
    if (waits(&job[i]))
      check_tokens(&w, &job[i], 2 * wait_ns + 2 * small_ns);
    else
      check_others(&w, &job[i]);
    given_up += job[i].counts.given_up;
  }
  assert_int_equal(given_up, s->deferrals_given_up);
}

static void slow_now_and_then(void **state) {
  (void)state;
  static world_job job[N_JOBS];
  n_given_up = n_by_large = n_unjudged = 0;
  for (uint64_t seed = 1; seed <= 150; seed++) {
    if (only_seed && seed != only_seed) continue;
    rnd_state = seed * 77;
    const int64_t wait_ns = (1 + (int64_t)rnd(8)) * MS;
    world_opts o = threaded();
    o.slow_every[1] = 2 + rnd(8);
    o.slow_ns[1] = (1 + (int64_t)rnd(40)) * MS;
    if (rnd(4) == 0) o.n_pages[0] = o.n_pages[1] = 40; /* preemptions too */
    if (rnd(3) == 0) o.ahead = WEIR_AHEAD_OFF;
    for (int32_t i = 0; i < N_JOBS; i++) {
      random_job(&job[i]);
      if (waits(&job[i])) job[i].defer_wait_ns = wait_ns;
    }
    weir_engine_stats s;
    run(&o, job, N_JOBS, &s, seed);
    if (o.n_pages[0] == 40) continue; /* whoever is preempted waits for pages too: texts are checked below */
    check_all(job, N_JOBS, wait_ns, &s, seed);
  }
  if (only_seed) return;
  assert_true(n_given_up > 1000 && n_by_large > 1000 && n_unjudged > 100);
}

/* Short of pages the waits are longer, and tokens are the same rule's. */
static void short_of_pages(void **state) {
  (void)state;
  static world_job job[N_JOBS];
  for (uint64_t seed = 1; seed <= 60; seed++) {
    rnd_state = seed * 1009;
    world_opts o = threaded();
    o.n_pages[0] = o.n_pages[1] = 32;
    o.slow_every[1] = 3;
    o.slow_ns[1] = 10 * MS;
    for (int32_t i = 0; i < N_JOBS; i++) {
      random_job(&job[i]);
      if (waits(&job[i])) job[i].defer_wait_ns = 2 * MS;
    }
    weir_engine_stats s;
    run(&o, job, N_JOBS, &s, seed);
    check_all(job, N_JOBS, 1000 * MS, &s, seed);
  }
}

/* ---- a tier that hangs, or is dead ---- */

/* A step that never ends, and nobody calls it dead: the texts are whole, in the time of the small tier and
 * the waits. */
static void hangs(void **state) {
  (void)state;
  static world_job job[6];
  rnd_state = 5;
  world_opts o = threaded();
  o.hang_at[1] = 4;
  for (int32_t i = 0; i < 6; i++) {
    do random_job(&job[i]);
    while (!waits(&job[i]));
    job[i].arrives_ns = 0;
    job[i].tau = 1;
    job[i].defer_wait_ns = 2 * MS;
  }
  weir_engine_stats s;
  run(&o, job, 6, &s, 0);
  check_all(job, 6, 2 * MS, &s, 0);
  assert_true(s.deferrals_given_up > 20 && !s.tier[1].dead);
}

static void dies(void **state) {
  (void)state;
  static world_job job[6];
  for (int64_t at = 0; at < 12; at += 4) {
    rnd_state = 6;
    world_opts o = threaded();
    o.fail_at[1] = at;
    for (int32_t i = 0; i < 6; i++) {
      do random_job(&job[i]);
      while (job[i].mode != WEIR_MODE_ROLLBACK);
      job[i].defer_wait_ns = 2 * MS;
    }
    weir_engine_stats s;
    run(&o, job, 6, &s, 0);
    assert_true(s.tier[1].dead);
    int32_t wanted = 0;
    static world w;
    world_bare(&w);
    for (int32_t i = 0; i < 6; i++) {
      assert_true(job[i].end == WEIR_END_EOS || job[i].end == WEIR_END_LENGTH);
      check_tokens(&w, &job[i], 1000 * MS);
      wanted += job[i].counts.wanted_up;
    }
    assert_true(wanted > 0);
    assert_int_equal(s.deferrals_given_up, 0);
  }
}

/* Without a wait of its own a request of rollback ends with the tier, as ever. */
static void dies_with_it(void **state) {
  (void)state;
  static world_job job;
  rnd_state = 6;
  do random_job(&job);
  while (job.mode != WEIR_MODE_ROLLBACK);
  world_opts o = threaded();
  o.fail_at[1] = 0;
  weir_engine_stats s;
  run(&o, &job, 1, &s, 0);
  assert_int_equal(job.end, WEIR_END_ERROR);
}

/* ---- what the engine is asked to come for ---- */

/* The clock stands at the wake-up time it named, and nothing else happens: it gives up then, not before. */
static void wakes_in_time(void **state) {
  (void)state;
  static world w;
  static world_job job;
  rnd_state = 11;
  world_opts o = threaded();
  o.hang_at[1] = 0;
  o.ahead = WEIR_AHEAD_OFF;
  world_open(&w, &o);
  do random_job(&job);
  while (job.mode != WEIR_MODE_DEFER || job.max_new < 20);
  job.arrives_ns = 0;
  job.tau = 0.2f;
  job.defer_wait_ns = 7 * MS;
  world_submit(&w, &job, w.clock_ns);
  bool busy = true;
  int64_t asked_ns = 0;
  for (int32_t turn = 0; turn < 200 && !asked_ns; turn++) {
    assert_int_equal(weir_engine_step(w.engine, &busy, NULL), WEIR_OK);
    if (w.engine->tier[1].in_flight) asked_ns = w.engine->tier[1].launched_ns;
    const int64_t due = virtual_exec_due(w.exec[0]);
    if (due != INT64_MAX && weir_engine_next_wake_ns(w.engine) > w.clock_ns) w.clock_ns = due;
  }
  assert_true(asked_ns > 0);
  while (weir_engine_next_wake_ns(w.engine) <= w.clock_ns)
    assert_int_equal(weir_engine_step(w.engine, &busy, NULL), WEIR_OK);
  assert_int_equal(weir_engine_next_wake_ns(w.engine), asked_ns + 7 * MS);
  w.clock_ns = asked_ns + 7 * MS - 1;
  assert_int_equal(weir_engine_step(w.engine, &busy, NULL), WEIR_OK);
  assert_int_equal(weir_engine_get_stats(w.engine).deferrals_given_up, 0);
  w.clock_ns++;
  assert_int_equal(weir_engine_step(w.engine, &busy, NULL), WEIR_OK);
  assert_int_equal(weir_engine_get_stats(w.engine).deferrals_given_up, 1);
  assert_true(w.engine->tier[0].in_flight); /* its row of the small tier, at once */
  assert_int_equal(w.engine->tier[0].n_rows, 1);
  world_close(&w);
}

int main(int argc, char **argv) {
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned deaths are not news */
  if (argc > 2 && !strcmp(argv[1], "--seed")) only_seed = strtoull(argv[2], NULL, 10);
  const struct CMUnitTest tests[] = {cmocka_unit_test(fast_enough),    cmocka_unit_test(slow_now_and_then),
                                     cmocka_unit_test(short_of_pages), cmocka_unit_test(hangs),
                                     cmocka_unit_test(dies),           cmocka_unit_test(dies_with_it),
                                     cmocka_unit_test(wakes_in_time)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
