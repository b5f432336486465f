/* SPDX-License-Identifier: Apache-2.0 */
/* Tiers that die and come back, at every moment there is: between steps, in one, as one is handed over,
 * unseen between two looks, after a step that hung. Whatever happens each job ends once; who can do without a
 * tier goes on and every token is what the rule says of the rows at hand; who was promised the large tier's
 * word gets that or an error; who never uses the tier does not notice; and after each turn every reference to
 * a page is accounted for. Executors wipe their KV, so a page of a past life that is read fails the step.
 * usage: test_life [--long [SEEDS] | --seed SEED] */
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

enum { START_NS = 1000000000, MS = 1000000 };
static int32_t seeds = 300;

static uint64_t rnd_state;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

/* ---- after each turn ---- */

static int64_t dead_turns;

static void count_held(const world *w, int32_t t, int32_t *held) {
  const weir_engine *g = w->engine;
  const weir_plan *p = &g->tier[t].plan;
  for (int32_t i = 0; i < g->n_active; i++) {
    const weir_seq *s = &g->active[i]->seq[t];
    for (int32_t k = 0; k < s->n_pages; k++) held[s->page[k]]++;
  }
  for (int32_t i = 0; i < p->copies.n; i++) held[p->copies.src_dst[2 * i]]++;
}

static void check_pages(world *w) {
  const unsigned long long seed = w->seed;
  for (int32_t t = 0; t < 2; t++) {
    const weir_engine_tier *y = &w->engine->tier[t];
    const int32_t total = weir_pages_total(y->kv.pages);
    int32_t held[1024] = {0}, cached = 0, n_free = 0;
    assert_true(total <= 1024);
    count_held(w, t, held);
    for (int32_t k = 0; k < total; k++) {
      const int32_t more = weir_pages_refs(y->kv.pages, k) - held[k]; /* the prefix cache has one at most */
      if (more < 0 || more > 1)
        fail_msg("seed %llu: tier %d: page %d has %d owners that nobody knows", seed, t, k, more);
      cached += more;
      n_free += weir_pages_refs(y->kv.pages, k) == 0;
    }
    assert_int_equal(cached, weir_prefix_get_stats(y->kv.prefix).held);
    assert_int_equal(n_free, weir_pages_free(y->kv.pages));
    dead_turns += y->dead;
    if (y->dead && n_free != total)
      fail_msg("seed %llu: tier %d is dead and holds %d pages", seed, t, total - n_free);
    for (int32_t i = 0; i < w->engine->n_active && y->dead; i++) {
      const weir_request *r = w->engine->active[i];
      assert_true(r->view.kv_len[t] == 0 && r->published[t] == 0 && r->place[t] < 0);
      assert_true(!r->waiting || r->need.tier != t || (r->need.from == 0 && r->fed_to == 0));
    }
  }
}

/* ---- what may be written ---- */

static bool uses_large(const world_job *j) { return !j->pinned && j->mode != WEIR_MODE_SMALL; }
static bool uses_small(const world_job *j) { return j->pinned || j->mode != WEIR_MODE_LARGE; }

static void alone(const world_job *j, world_job *out) {
  static world w;
  const world_opts roomy = world_roomy();
  world_open(&w, &roomy);
  *out = *j;
  out->cancel_ns = out->deadline_ns = out->arrives_ns = 0;
  out->n = out->done = 0;
  out->text = (world_text){.len = 0};
  out->submitted = false;
  world_run(&w, out, 1);
  world_close(&w);
}

/* The text of a world in which nothing ever died, or its beginning. */
static void check_text(const world *w, const world_job *j, int32_t i) {
  int32_t tok[WORLD_NEW], n;
  static weir_token_receipt receipt[WORLD_NEW];
  static world_job by_itself;
  const bool whole = j->end == WEIR_END_EOS || j->end == WEIR_END_LENGTH;
  if ((j->mode == WEIR_MODE_ROLLBACK || j->mode == WEIR_MODE_SPECULATE) && !j->pinned) {
    alone(j, &by_itself);
    n = by_itself.n;
    memcpy(tok, by_itself.tok, sizeof tok);
  } else {
    n = world_reference(w, j, tok, receipt);
  }
  for (int32_t k = 0; k < j->n && k < n; k++)
    if (j->tok[k] != tok[k])
      fail_msg("seed %llu, job %d (%s): token %d is %d, want %d", (unsigned long long)w->seed, i,
               weir_mode_name(j->mode), k, j->tok[k], tok[k]);
  if (whole ? j->n != n : j->n > n)
    fail_msg("seed %llu, job %d (%s): %d tokens, want %d", (unsigned long long)w->seed, i,
             weir_mode_name(j->mode), j->n, n);
  if (!j->pinned) assert_int_equal(j->counts.wanted_up, 0); /* whose gate asks for what it may not have */
}

/* ---- random worlds ---- */

static void random_job(world_job *j) {
  static const float temps[] = {0, 0.7f, 1, 1.5f};
  *j = (world_job){.n_prompt = 1 + (int32_t)rnd(rnd(3) ? 20 : 160),
                   .max_new = 1 + (int32_t)rnd(rnd(2) ? 20 : WORLD_NEW)};
  const uint32_t family = rnd(3);
  for (int32_t i = 0; i < j->n_prompt; i++)
    j->prompt[i] = (int32_t)(i < 100 ? (family * 77 + (uint32_t)i * 13) % 280 : rnd(280));
  j->mode = rnd(2) ? WEIR_MODE_DEFER : (weir_mode)rnd(WEIR_N_MODES);
  j->tau = j->mode == WEIR_MODE_EXACT && rnd(2) ? INFINITY : 0.5f + (float)rnd(400) / 100;
  if (j->mode == WEIR_MODE_AUTO) j->mode = WEIR_MODE_DEFER; /* that one has a test of its own */
  static const int32_t prompts[] = {0, 5, 64}, afters[] = {0, 8, WEIR_FAR};
  j->route_prompt = prompts[rnd(3)];
  j->route_after = afters[rnd(3)];
  if (j->route_prompt + j->route_after == 0) j->route_prompt = 12;
  j->route_share = 0.2f + (float)rnd(7) / 10;
  j->draw = (weir_ask){.temperature = temps[rnd(4)], .top_p = 1, .seed = rnd(1000), .probe = -1};
  j->ignore_eos = rnd(2);
  j->pinned = rnd(8) == 0 && j->mode != WEIR_MODE_LARGE;
  j->priority = (int32_t)rnd(3) - 1;
  j->arrives_ns = rnd(3) ? (int64_t)rnd(20 * MS) : 0;
  if (rnd(8) == 0) j->cancel_ns = 1 + (int64_t)rnd(20 * MS);
  if (rnd(8) == 0) j->deadline_ns = 1 + (int64_t)rnd(20 * MS);
  if (rnd(4) == 0) j->penalties = (weir_penalties){.presence = (float)rnd(9) / 2 - 2, .repetition = 1.2f};
}

static void random_deaths(world_opts *o, int32_t t) {
  o->n_deaths[t] = 1 + (int32_t)rnd(VIRTUAL_DEATHS);
  const bool mortal = o->dead_wait_ns < INT64_MAX && rnd(8) == 0;
  for (int32_t i = 0; i < o->n_deaths[t]; i++) {
    virtual_death *d = &o->death[t][i];
    d->kind = (death_kind)rnd(N_DEATH_KINDS);
    d->at = d->kind == DEATH_AT_TIME ? START_NS + (int64_t)rnd(30 * MS) : rnd(40);
    d->down_ns = rnd(3) == 0 ? 0 : (int64_t)rnd(rnd(2) ? MS : 10 * MS);
    const bool hangs = d->kind == DEATH_HANGS || d->kind == DEATH_SEEMING;
    d->hang_ns = hangs ? 6 * MS + (int64_t)rnd(20 * MS) : rnd(2) * rnd(20 * MS);
  }
  if (mortal) o->death[t][rnd((uint32_t)o->n_deaths[t])].down_ns = INT64_MAX;
}

static world_opts random_opts(void) {
  world_opts o = world_roomy();
  o.max_active = 1 + (int32_t)rnd(12);
  o.max_seqs = o.max_active + (int32_t)rnd(4);
  o.max_tokens = 1 + (int32_t)rnd(rnd(2) ? 12 : 200);
  for (int32_t t = 0; t < 2; t++) {
    o.n_pages[t] = 16 + (int32_t)rnd(rnd(2) ? 4 : 100);
    o.row_ns[t] = (int64_t)rnd(20000);
    o.step_ns[t] = 1000 + (int64_t)rnd(400000);
  }
  o.large_batch = (int32_t)rnd(6);
  o.large_wait_ns = rnd(2) ? 0 : (int64_t)rnd(2 * MS);
  o.prefix_pages = rnd(3) ? (int32_t)rnd(60) : 0;
  o.async = true;
  o.overlap = rnd(2);
  o.ahead = (weir_ahead)rnd(3);
  o.step_timeout_ns = rnd(3) ? 5 * MS : 0;
  o.dead_wait_ns = rnd(3) == 0 ? INT64_MAX : rnd(2) ? (int64_t)rnd(10 * MS) : 0;
  o.each_turn = check_pages;
  const uint32_t who = rnd(8); /* mostly the large one */
  if (who != 0) random_deaths(&o, 1);
  if (who < 2) random_deaths(&o, 0);
  return o;
}

typedef struct tally {
  int64_t ends[WEIR_END_DEADLINE + 1], died[N_DEATH_KINDS], deaths, recoveries, wanted, large_after, spared,
      routed_wanted, routed_mixed;
} tally;

/* Steps that fail with a request in them are borne a few times, then the request is kept from the tier. */
static int32_t failures_planned(const world_opts *o, int32_t t) {
  int32_t n = 0;
  for (int32_t i = 0; i < o->n_deaths[t]; i++)
    n += o->death[t][i].kind == DEATH_IN_STEP || o->death[t][i].kind == DEATH_HANGS ||
         o->death[t][i].kind == DEATH_AT_TIME || o->death[t][i].kind == DEATH_SEEMING;
  return n;
}

static void check_job(const world *w, const world_job *j, int32_t i, const world_opts *o, tally *sum) {
  const bool mortal[2] = {o->n_deaths[0] > 0, o->n_deaths[1] > 0};
  const bool touched = (mortal[0] && uses_small(j)) || (mortal[1] && uses_large(j));
  sum->ends[j->end]++;
  if (j->end == WEIR_END_ERROR) {
    if (!touched) fail_msg("seed %llu, job %d: %s", (unsigned long long)w->seed, i, j->err.msg);
    assert_int_equal(j->err.code, WEIR_EDEVICE);
    if (strstr(j->err.msg, "does not hold"))
      fail_msg("seed %llu: %s", (unsigned long long)w->seed, j->err.msg);
    if (j->mode == WEIR_MODE_DEFER || j->mode == WEIR_MODE_ROUTE)
      assert_true(mortal[0]); /* it can do without the large one */
    const bool borne = failures_planned(o, 0) < 3 && failures_planned(o, 1) < 3;
    if (o->dead_wait_ns == INT64_MAX && borne)
      fail_msg("seed %llu, job %d did not wait: %s", (unsigned long long)w->seed, i, j->err.msg);
  }
  if (j->end == WEIR_END_CANCEL) assert_true(j->cancel_ns > 0);
  if (j->end == WEIR_END_DEADLINE) assert_true(j->deadline_ns > 0 && j->done_ns >= START_NS + j->deadline_ns);
  if (j->mode == WEIR_MODE_DEFER && !j->pinned) {
    const int32_t wanted = world_check_rule(w, j);
    if (!mortal[1]) assert_int_equal(wanted, 0);
    sum->wanted += wanted;
    for (int32_t k = 1, seen = 0; k < j->n; k++) {
      seen |= j->receipt[k - 1].wanted_up;
      sum->large_after += seen && j->receipt[k].tier == 1;
    }
  } else if (j->mode == WEIR_MODE_ROUTE && !j->pinned) {
    const int32_t wanted = world_check_routed(w, j);
    if (!mortal[1]) assert_int_equal(wanted, 0);
    sum->routed_wanted += wanted > 0;
    sum->routed_mixed += wanted > 0 && j->receipt[0].tier == 1;
  } else {
    check_text(w, j, i);
  }
  if (!uses_large(j)) assert_int_equal(j->counts.fed[1], 0);
  sum->spared += !touched;
}

static void run_world(uint64_t seed, tally *sum) {
  static world w;
  static world_job job[16];
  rnd_state = seed * 7919 + 17;
  const world_opts o = random_opts();
  const int32_t n = 1 + (int32_t)rnd(12);
  world_open(&w, &o);
  w.seed = seed;
  for (int32_t i = 0; i < n; i++) random_job(&job[i]);
  world_run(&w, job, n);
  const weir_engine_stats s = weir_engine_get_stats(w.engine);
  int64_t tokens = 0, wanted = 0;
  for (int32_t i = 0; i < n; i++) {
    check_job(&w, &job[i], i, &o, sum);
    tokens += job[i].n;
    wanted += job[i].counts.wanted_up;
  }
  assert_int_equal(s.tokens_by_tier[0] + s.tokens_by_tier[1], tokens);
  assert_int_equal(s.tokens_wanted_up, wanted);
  for (int32_t t = 0; t < 2; t++) {
    const weir_tier_stats *z = &s.tier[t];
    assert_int_equal(z->comes_back, o.n_deaths[t] > 0);
    assert_int_equal(z->deaths, z->recoveries + z->dead);
    assert_true(z->down_ns >= 0 && z->down_ns <= w.clock_ns - START_NS);
    assert_int_equal(z->why_dead[0] != '\0', z->dead);
    assert_int_equal(z->rows, z->rows_decode + z->rows_prompt + z->rows_catchup + z->rows_judged);
    assert_true(z->rows <= virtual_exec_rows(w.exec[t]));
    sum->deaths += z->deaths;
    sum->recoveries += z->recoveries;
    for (int32_t k = 0; k < N_DEATH_KINDS; k++) sum->died[k] += virtual_exec_died(w.exec[t], (death_kind)k);
  }
  world_close(&w);
}

static void test_random_lives(void **state) {
  (void)state;
  tally sum = {0};
  for (int32_t seed = 0; seed < seeds; seed++) run_world((uint64_t)seed, &sum);
  print_message("%lld deaths, %lld returns, %lld tokens wanted up, %lld deferred later, %lld errors\n",
                (long long)sum.deaths, (long long)sum.recoveries, (long long)sum.wanted,
                (long long)sum.large_after, (long long)sum.ends[WEIR_END_ERROR]);
  for (int32_t k = 0; k < N_DEATH_KINDS; k++) assert_true(sum.died[k] > 0);
  assert_true(sum.wanted > 0 && sum.large_after > 0 && sum.spared > 0 && dead_turns > 0);
  assert_true(sum.routed_wanted > 0 && sum.routed_mixed > 0);
  assert_true(sum.recoveries > 0 && sum.deaths > sum.recoveries);
  for (int32_t k = 0; k <= WEIR_END_DEADLINE; k++) assert_true(k == WEIR_END_STOP || sum.ends[k] > 0);
}

/* ---- one thing at a time ---- */

static world w1;
static world_job jobs[12];

static world_opts mortal_large(death_kind kind, int64_t at, int64_t down_ns) {
  world_opts o = world_roomy();
  o.async = true;
  o.each_turn = check_pages;
  o.death[1][0] = (virtual_death){.kind = kind, .at = at, .down_ns = down_ns};
  o.n_deaths[1] = 1;
  return o;
}

static void plain(world_job *j, weir_mode mode, uint64_t seed) {
  *j = (world_job){.n_prompt = 40, .max_new = 90, .mode = mode, .tau = 1.2f, .ignore_eos = true};
  j->draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = seed, .probe = -1};
  for (int32_t i = 0; i < j->n_prompt; i++) j->prompt[i] = (i * 31 + (int32_t)seed) % 280;
}

/* One that is under way sees the large tier go and come: it is asked for, then wanted, then asked for again.
 */
static void test_under_way(void **state) {
  (void)state;
  const world_opts o = mortal_large(DEATH_AT_TIME, START_NS + 6 * MS, 6 * MS);
  world_open(&w1, &o);
  for (int32_t i = 0; i < 4; i++) plain(&jobs[i], WEIR_MODE_DEFER, (uint64_t)i);
  plain(&jobs[4], WEIR_MODE_SMALL, 9);
  plain(&jobs[5], WEIR_MODE_EXACT, 9);
  world_run(&w1, jobs, 6);
  for (int32_t i = 0; i < 4; i++) {
    const world_job *j = &jobs[i];
    int32_t turn = 0; /* before, between, after */
    assert_int_equal(j->end, WEIR_END_LENGTH);
    assert_true(world_check_rule(&w1, j) > 0);
    for (int32_t k = 0; k < j->n; k++) {
      if (turn == 0 && j->receipt[k].wanted_up) turn = 1;
      if (turn == 1 && j->receipt[k].tier == 1) turn = 2;
      if (turn == 2) assert_false(j->receipt[k].wanted_up);
      if (k == 0 && j->receipt[k].tier == 1) turn = 0;
    }
    assert_int_equal(turn, 2);
    assert_true(j->counts.by_tier[1] > 0);
  }
  check_text(&w1, &jobs[4], 4);
  assert_int_equal(jobs[4].end, WEIR_END_LENGTH);
  assert_int_equal(jobs[5].end, WEIR_END_ERROR);
  assert_non_null(strstr(jobs[5].err.msg, "planned death"));
  const weir_tier_stats s = weir_engine_get_stats(w1.engine).tier[1];
  assert_true(s.deaths == 1 && s.recoveries == 1 && !s.dead && s.comes_back);
  assert_int_equal(s.down_ns, 6 * MS);
  assert_int_equal(s.since_ns, START_NS + 12 * MS);
  world_close(&w1);
}

/* While it is dead new ones that need it are refused, others are not; as soon as it is back all are taken. */
static void test_at_the_door(void **state) {
  (void)state;
  const world_opts o = mortal_large(DEATH_AT_TIME, START_NS + 5 * MS, 10 * MS);
  world_open(&w1, &o);
  for (int32_t i = 0; i < 9; i++) {
    plain(&jobs[i], (weir_mode[]){WEIR_MODE_DEFER, WEIR_MODE_EXACT, WEIR_MODE_LARGE}[i % 3], (uint64_t)i);
    jobs[i].max_new = 6;
    jobs[i].arrives_ns = (int64_t[]){0, 8, 16}[i / 3] * MS;
  }
  plain(&jobs[9], WEIR_MODE_SMALL, 3); /* keeps the loop awake between */
  world_run(&w1, jobs, 10);
  for (int32_t i = 0; i < 10; i++) {
    const bool refused = i / 3 == 1 && i % 3 > 0;
    if (jobs[i].end != (refused ? WEIR_END_ERROR : WEIR_END_LENGTH))
      fail_msg("job %d: %s: %s", i, weir_end_name(jobs[i].end), jobs[i].err.msg);
    if (refused) assert_int_equal(jobs[i].err.code, WEIR_EDEVICE);
    if (refused) assert_int_equal(jobs[i].n, 0);
    if (i < 9 && i % 3 == 0) assert_int_equal(world_check_rule(&w1, &jobs[i]) > 0, i == 3);
  }
  assert_true(jobs[6].counts.by_tier[1] > 0 && jobs[3].counts.by_tier[1] == 0);
  world_close(&w1);
}

/* With patience nobody ends: what is under way, waits or comes meanwhile is as if nothing had happened; but
 * not for longer than that. */
static void test_patience(void **state) {
  (void)state;
  for (int32_t long_enough = 0; long_enough < 2; long_enough++) {
    world_opts o = mortal_large(DEATH_AT_TIME, START_NS + 12 * MS, 30 * MS);
    o.max_active = 3;
    o.dead_wait_ns = long_enough ? 31 * MS : 20 * MS;
    world_open(&w1, &o);
    for (int32_t i = 0; i < 8; i++) {
      plain(&jobs[i], (weir_mode[]){WEIR_MODE_EXACT, WEIR_MODE_LARGE}[i % 2], (uint64_t)i);
      jobs[i].arrives_ns = i < 6 ? 0 : 18 * MS;
      jobs[i].max_new = 40;
    }
    world_run(&w1, jobs, 8);
    for (int32_t i = 0; i < 8; i++) {
      check_text(&w1, &jobs[i], i);
      if (long_enough) assert_int_equal(jobs[i].end, WEIR_END_LENGTH);
      if (jobs[i].end == WEIR_END_ERROR) assert_int_equal(jobs[i].done_ns, START_NS + 32 * MS);
    }
    const weir_engine_stats s = weir_engine_get_stats(w1.engine);
    if (!long_enough) assert_true(s.jobs_done[WEIR_END_ERROR] >= 5);
    world_close(&w1);
  }
}

/* A step that fails three times with a request in it is not tried a fourth time. */
static void test_deadly_request(void **state) {
  (void)state;
  for (int32_t mode = 0; mode < 2; mode++) {
    world_opts o = mortal_large(DEATH_IN_STEP, 0, MS);
    for (int32_t i = 0; i < VIRTUAL_DEATHS; i++) o.death[1][i] = (virtual_death){DEATH_IN_STEP, i, MS, 0};
    o.n_deaths[1] = VIRTUAL_DEATHS;
    o.dead_wait_ns = INT64_MAX;
    world_open(&w1, &o);
    plain(&jobs[0], mode ? WEIR_MODE_LARGE : WEIR_MODE_DEFER, 1);
    world_run(&w1, jobs, 1);
    assert_int_equal(virtual_exec_died(w1.exec[1], DEATH_IN_STEP), 3);
    assert_int_equal(jobs[0].end, mode ? WEIR_END_ERROR : WEIR_END_LENGTH);
    if (!mode) assert_true(world_check_rule(&w1, &jobs[0]) > 0 && jobs[0].counts.by_tier[1] == 0);
    world_close(&w1);
  }
}

/* A step that is refused as if the tier were dead, by one that goes on living: its requests end, the tier
 * stays. */
static void test_false_alarm(void **state) {
  (void)state;
  const world_opts o = mortal_large(DEATH_CLAIMED, 0, 0);
  world_open(&w1, &o);
  plain(&jobs[0], WEIR_MODE_LARGE, 1);
  plain(&jobs[1], WEIR_MODE_LARGE, 2);
  jobs[1].arrives_ns = MS;
  world_run(&w1, jobs, 2);
  assert_int_equal(jobs[0].end, WEIR_END_ERROR);
  assert_int_equal(jobs[1].end, WEIR_END_LENGTH);
  check_text(&w1, &jobs[1], 1);
  assert_int_equal(weir_engine_get_stats(w1.engine).tier[1].deaths, 0);
  world_close(&w1);
}

/* A step that was given up has ended after all, and its executor never died: it is used again. */
static void test_seeming_death(void **state) {
  (void)state;
  for (int32_t mode = 0; mode < 2; mode++) {
    world_opts o = mortal_large(DEATH_SEEMING, 2, 0);
    o.death[1][0].hang_ns = 12 * MS;
    o.step_timeout_ns = 5 * MS;
    o.dead_wait_ns = INT64_MAX;
    world_open(&w1, &o);
    plain(&jobs[0], mode ? WEIR_MODE_LARGE : WEIR_MODE_DEFER, 2);
    plain(&jobs[1], WEIR_MODE_EXACT, 5);
    jobs[1].arrives_ns = 40 * MS;
    world_run(&w1, jobs, 2);
    assert_int_equal(jobs[0].end, WEIR_END_LENGTH);
    assert_int_equal(jobs[1].end, WEIR_END_LENGTH);
    check_text(&w1, &jobs[1], 1);
    const weir_tier_stats s = weir_engine_get_stats(w1.engine).tier[1];
    assert_true(!s.dead && s.deaths == 1 && s.recoveries == 1);
    assert_true(s.down_ns > 0 && s.down_ns < 12 * MS);
    world_close(&w1);
  }
}

/* Dead when the engine is made: as if it had died right then. */
static void test_stillborn(void **state) {
  (void)state;
  const world_opts o = mortal_large(DEATH_AT_TIME, START_NS, 8 * MS);
  world_open(&w1, &o);
  weir_tier_stats s = weir_engine_get_stats(w1.engine).tier[1];
  assert_true(s.dead && s.deaths == 1 && strstr(s.why_dead, "planned death"));
  plain(&jobs[0], WEIR_MODE_DEFER, 4);
  plain(&jobs[1], WEIR_MODE_LARGE, 4);
  world_run(&w1, jobs, 2);
  assert_true(world_check_rule(&w1, &jobs[0]) > 0 && jobs[0].counts.by_tier[1] > 0);
  assert_int_equal(jobs[1].end, WEIR_END_ERROR);
  s = weir_engine_get_stats(w1.engine).tier[1];
  assert_true(!s.dead && s.recoveries == 1 && s.why_dead[0] == '\0');
  world_close(&w1);
}

/* A life without a voice is refused: its changes would go unseen. */
static uint64_t always(weir_exec *x, weir_err *why) {
  (void)x;
  (void)why;
  return 1;
}

static void test_needs_a_voice(void **state) {
  (void)state;
  static const weir_exec_life life = {always};
  weir_engine *g;
  weir_err e = {0};
  world_bare(&w1);
  weir_exec *x = fake_exec_create(&(fake_opts){
      .law = w1.law, .n_ctx = 512, .n_pages = 8, .max_tokens = 8, .max_seqs = 2, .fail_at_step = -1});
  x->life = &life;
  const weir_engine_cfg cfg = {
      .n_tiers = 1, .tier = {x}, .tokenizer = w1.tokenizer, .clock = weir_clock_system()};
  assert_int_equal(weir_engine_create(&cfg, &g, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "cannot tell"));
  x->ops->destroy(x);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_under_way),     cmocka_unit_test(test_at_the_door),
      cmocka_unit_test(test_patience),      cmocka_unit_test(test_deadly_request),
      cmocka_unit_test(test_false_alarm),   cmocka_unit_test(test_stillborn),
      cmocka_unit_test(test_needs_a_voice), cmocka_unit_test(test_seeming_death),
      cmocka_unit_test(test_random_lives),
  };
  if (argc > 2 && strcmp(argv[1], "--seed") == 0) {
    tally sum = {0};
    run_world(strtoull(argv[2], NULL, 10), &sum);
    return 0;
  }
  if (argc > 1 && strcmp(argv[1], "--long") == 0) seeds = argc > 2 ? atoi(argv[2]) : 6000;
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned deaths are not news */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
