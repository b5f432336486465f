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

static bool was_dead[2];
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
    was_dead[t] = y->dead;
  }
}

/* ---- what may be written ---- */

static bool uses_large(const world_job *j) { return !j->pinned && j->mode != WEIR_MODE_SMALL; }
static bool uses_small(const world_job *j) { return j->pinned || j->mode != WEIR_MODE_LARGE; }

/* Each token is what its tier says, and which tier that is follows from the row the gate saw and from whether
 * the large one was there. */
static int32_t check_rule(const world *w, const world_job *j) {
  int32_t all[WORLD_PROMPT + WORLD_NEW], wanted = 0;
  weir_logit_edit edit[512];
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  for (int32_t i = 0; i < j->n; i++) {
    const int32_t n = j->n_prompt + i;
    const weir_token_receipt *r = &j->receipt[i];
    const weir_ask a = world_ask(w, j, all, n, edit);
    const weir_row small = fake_law_row(&w->law, 0, all, n, &a);
    const weir_row row = r->tier == 1 ? fake_law_row(&w->law, 1, all, n, &a) : small;
    const bool unsure = small.entropy > j->tau;
    if (r->entropy != small.entropy || r->p_max != small.p_max)
      fail_msg("seed %llu: token %d: the gate saw %g, not %g", (unsigned long long)w->seed, i,
               (double)r->entropy, (double)small.entropy);
    if (r->id != row.token || r->logprob != row.logprob)
      fail_msg("seed %llu: token %d of tier %d is %d, want %d", (unsigned long long)w->seed, i, r->tier,
               r->id, row.token);
    assert_true(r->tier == 0 || unsure);
    assert_int_equal(r->wanted_up, r->tier == 0 && unsure);
    assert_int_equal(r->why, r->tier == 1 ? WEIR_WHY_DEFERRED : WEIR_WHY_EASY);
    assert_true(r->tier == 1 ? r->wait_ns > 0 : r->wait_ns == 0);
    wanted += r->wanted_up;
    all[n] = r->id;
  }
  assert_int_equal(j->counts.wanted_up, wanted);
  return wanted;
}

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
  if (j->mode == WEIR_MODE_ROLLBACK && !j->pinned) {
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
    d->hang_ns = d->kind == DEATH_HANGS ? 6 * MS + (int64_t)rnd(20 * MS) : rnd(2) * rnd(20 * MS);
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
  int64_t ends[WEIR_END_DEADLINE + 1], died[N_DEATH_KINDS], deaths, recoveries, wanted, large_after, spared;
} tally;

/* Steps that fail with a request in them are borne a few times, then the request is kept from the tier. */
static int32_t failures_planned(const world_opts *o, int32_t t) {
  int32_t n = 0;
  for (int32_t i = 0; i < o->n_deaths[t]; i++)
    n += o->death[t][i].kind == DEATH_IN_STEP || o->death[t][i].kind == DEATH_HANGS ||
         o->death[t][i].kind == DEATH_AT_TIME;
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
    if (j->mode == WEIR_MODE_DEFER) assert_true(mortal[0]); /* it can do without the large one */
    const bool borne = failures_planned(o, 0) < 3 && failures_planned(o, 1) < 3;
    if (o->dead_wait_ns == INT64_MAX && borne)
      fail_msg("seed %llu, job %d did not wait: %s", (unsigned long long)w->seed, i, j->err.msg);
  }
  if (j->end == WEIR_END_CANCEL) assert_true(j->cancel_ns > 0);
  if (j->end == WEIR_END_DEADLINE) assert_true(j->deadline_ns > 0 && j->done_ns >= START_NS + j->deadline_ns);
  if (j->mode == WEIR_MODE_DEFER && !j->pinned) {
    const int32_t wanted = check_rule(w, j);
    if (!mortal[1]) assert_int_equal(wanted, 0);
    sum->wanted += wanted;
    for (int32_t k = 1, seen = 0; k < j->n; k++) {
      seen |= j->receipt[k - 1].wanted_up;
      sum->large_after += seen && j->receipt[k].tier == 1;
    }
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
  assert_true(sum.recoveries > 0 && sum.deaths > sum.recoveries);
  for (int32_t k = 0; k <= WEIR_END_DEADLINE; k++) assert_true(k == WEIR_END_STOP || sum.ends[k] > 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
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
