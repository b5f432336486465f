/* SPDX-License-Identifier: Apache-2.0 */
/* A pinned request never reaches the large tier: in every mode, with that tier up, dead from the start, dying
 * midway, coming back, slow and hanging. The proof does not ask the engine: the large tier's executor notes
 * every token id it is fed and where, and the first tokens of pinned prompts are ids that no other prompt has
 * there. The engine's counters are then held against that, and bugs are planted that its last guard must
 * stop.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "serve/engine_in.h"
#include "world.h"

enum { MS = 1000000, N_PINNED = 4, N_JOBS = 12, OWN_ID = 200, SHARED_TOKENS = 24, N_IDS = 512, N_CTX = 512 };

static uint64_t rnd_state;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

typedef enum { UP, DEAD, DIES, COMES_BACK, SLOW, HANGS, N_STATES } large_state;
static const char *const state_name[N_STATES] = {
    "up", "dead from the start", "dying midway", "coming back", "slow", "hanging"};

static int64_t fed[2][N_CTX * N_IDS];

/* All prompts have SHARED_TOKENS tokens at least; the first of them are below OWN_ID but in pinned ones. */
static void make_job(world_job *j, weir_mode mode, bool pinned) {
  static const float temps[] = {0, 0.7f, 1, 1.5f};
  *j = (world_job){.n_prompt = SHARED_TOKENS + (int32_t)rnd(120), .max_new = 8 + (int32_t)rnd(40)};
  const uint32_t family = rnd(2);
  for (int32_t i = 0; i < j->n_prompt; i++)
    j->prompt[i] = (int32_t)((pinned ? OWN_ID : 0) + (family * 31 + (uint32_t)i * 7) % (pinned ? 80 : 200));
  j->mode = mode;
  j->tau = 0.3f + (float)rnd(200) / 100;
  j->draw = (weir_ask){.temperature = temps[rnd(4)], .top_p = 1, .seed = rnd(1000), .probe = -1};
  j->ignore_eos = rnd(2);
  j->pinned = pinned;
  j->arrives_ns = (int64_t)rnd(10 * MS);
  j->route_after = 4;
  j->route_share = 0.05f;
  if (mode == WEIR_MODE_DEFER || mode == WEIR_MODE_ROLLBACK) j->defer_wait_ns = rnd(2) ? 0 : 3 * MS;
  if (rnd(3) == 0) j->penalties = (weir_penalties){.presence = 0.5f, .repetition = 1.2f};
}

static world_opts make_world(large_state state, bool threads) {
  world_opts o = world_roomy();
  o.async = o.overlap = threads;
  o.ahead = WEIR_AHEAD_ON;
  o.dead_wait_ns = 5 * MS;
  for (int t = 0; t < 2; t++) o.fed[t] = fed[t];
  switch (state) {
    case UP: break;
    case DEAD: o.fail_at[1] = 0; break;
    case DIES: o.fail_at[1] = 6; break;
    case COMES_BACK:
      o.n_deaths[1] = 3;
      for (int32_t i = 0; i < 3; i++)
        o.death[1][i] = (virtual_death){.kind = DEATH_IN_STEP, .at = 2 + 5 * i, .down_ns = 2 * MS};
      break;
    case SLOW:
      o.slow_every[1] = 2;
      o.slow_ns[1] = 20 * MS;
      break;
    case HANGS:
      o.hang_at[1] = 3;
      o.step_timeout_ns = 30 * MS;
      break;
    case N_STATES: break;
  }
  return o;
}

static int64_t fed_of_pinned(int32_t tier) {
  int64_t sum = 0;
  for (int32_t pos = 0; pos < SHARED_TOKENS; pos++)
    for (int32_t id = OWN_ID; id < N_IDS; id++) sum += fed[tier][pos * N_IDS + id];
  return sum;
}

static int64_t fed_rows(int32_t tier) {
  int64_t sum = 0;
  for (int32_t i = 0; i < N_CTX * N_IDS; i++) sum += fed[tier][i];
  return sum;
}

/* The small model's own text, and nothing at the large tier. */
static void check_pinned(const world *w, const world_job *j, const char *where) {
  static weir_token_receipt receipt[WORLD_NEW];
  int32_t tok[WORLD_NEW];
  static world_job small;
  small = *j;
  small.mode = WEIR_MODE_SMALL;
  const int32_t n = world_reference(w, &small, tok, receipt);
  if (j->end != WEIR_END_EOS && j->end != WEIR_END_LENGTH)
    fail_msg("%s: a pinned job ended: %s: %s", where, weir_end_name(j->end), j->err.msg);
  if (j->n != n || memcmp(j->tok, tok, (size_t)n * sizeof *tok) != 0)
    fail_msg("%s: the text of a pinned job is not the small model's own", where);
  for (int32_t i = 0; i < n; i++) {
    assert_int_equal(j->receipt[i].tier, 0);
    assert_true(j->receipt[i].logprob == receipt[i].logprob);
  }
  const weir_tier_cost *c = &j->counts.cost.tier[1];
  assert_true(j->counts.steps[1] == 0 && j->counts.fed[1] == 0 && j->counts.prefix_hit[1] == 0);
  assert_true(j->counts.by_tier[1] == 0 && j->counts.given_up == 0 && c->answers == 0);
  assert_true(c->kv_bytes_peak == 0 && c->kv_bytes_written == 0 && c->weight_bytes == 0);
}

static void no_pages_of_pinned(world *w) {
  for (int32_t i = 0; i < w->engine->n_active; i++) {
    const weir_request *r = w->engine->active[i];
    if (r->pinned)
      assert_true(r->seq[1].n_pages == 0 && r->claim[1] == 0 && r->published[1] == 0 && r->place[1] < 0);
  }
}

static void run_one(weir_mode mode, large_state state, bool threads) {
  static world w;
  static world_job job[N_JOBS];
  char where[96];
  snprintf(where, sizeof where, "mode %s, large tier %s, %s", weir_mode_name(mode), state_name[state],
           threads ? "threads" : "one thread");
  memset(fed, 0, sizeof fed);
  world_opts o = make_world(state, threads);
  o.each_turn = no_pages_of_pinned;
  world_open(&w, &o);
  for (int32_t i = 0; i < N_JOBS; i++)
    make_job(&job[i], i < N_PINNED ? mode : (weir_mode)rnd(WEIR_N_MODES), i < N_PINNED);
  world_run(&w, job, N_JOBS);
  int64_t others = 0;
  for (int32_t i = 0; i < N_JOBS; i++) {
    if (i < N_PINNED) check_pinned(&w, &job[i], where);
    if (i >= N_PINNED) others += job[i].counts.fed[1];
  }
  if (fed_of_pinned(1) != 0) fail_msg("%s: the large tier was fed tokens of pinned prompts", where);
  assert_true(fed_of_pinned(0) >= N_PINNED); /* the note-taking works */
  if (state == UP || state == SLOW) {        /* no step was lost: each row is somebody's who may */
    assert_true(others > 0);
    assert_true(threads ? fed_rows(1) >= others
                        : fed_rows(1) == others); /* some end before their step does */
  }
  const weir_engine_stats s = weir_engine_get_stats(w.engine);
  assert_int_equal(s.pinned_jobs, N_PINNED);
  assert_int_equal(s.pinned_large_rows, 0);
  assert_int_equal(s.pinned_refused, 0);
  world_close(&w);
}

static void every_mode_and_state(void **state) {
  (void)state;
  for (int m = 0; m < WEIR_N_MODES; m++)
    for (int s = 0; s < N_STATES; s++)
      for (int threads = 0; threads < 2; threads++) {
        rnd_state = (uint64_t)(m * 100 + s * 10 + threads + 1);
        if (!threads && (s == COMES_BACK || s == HANGS)) continue; /* which take a thread */
        run_one((weir_mode)m, (large_state)s, threads);
      }
}

/* Pinned jobs alone: the large tier has nothing, not even an entry in its prefix cache. */
static void nothing_at_all(void **state) {
  (void)state;
  static world w;
  static world_job job[N_JOBS];
  memset(fed, 0, sizeof fed);
  rnd_state = 99;
  const world_opts o = make_world(UP, true);
  world_open(&w, &o);
  for (int32_t i = 0; i < N_JOBS; i++) make_job(&job[i], (weir_mode)(i % WEIR_N_MODES), true);
  world_run(&w, job, N_JOBS);
  for (int32_t i = 0; i < N_JOBS; i++) check_pinned(&w, &job[i], "pinned jobs alone");
  const weir_engine_stats s = weir_engine_get_stats(w.engine);
  const weir_tier_stats *y = &s.tier[1];
  assert_int_equal(fed_rows(1), 0);
  assert_true(y->steps == 0 && y->rows == 0 && y->kv_pages_used == 0 && y->kv_pages_cached == 0);
  assert_true(y->prefix_lookup_tokens == 0 && y->prefix_hit_tokens == 0 && s.cost.tier[1].weight_bytes == 0);
  assert_int_equal(weir_prefix_get_stats(w.engine->tier[1].kv.prefix).held, 0);
  assert_true(s.tier[0].kv_pages_cached > 0);
  world_close(&w);
}

/* ---- planted bugs ---- */

static weir_request *first_queued(world *w) { return (weir_request *)w->engine->queue.node[0]; }

/* A policy that does not look at the pin: the request ends with a reason, and nothing of it was fed. */
static void careless_policy(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_LARGE, WEIR_MODE_DEFER, WEIR_MODE_ROLLBACK, WEIR_MODE_EXACT,
                                    WEIR_MODE_SPECULATE};
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
    for (int threads = 0; threads < 2; threads++) {
      static world w;
      static world_job job;
      memset(fed, 0, sizeof fed);
      rnd_state = 7;
      const world_opts o = make_world(UP, threads);
      world_open(&w, &o);
      make_job(&job, modes[m], true);
      job.arrives_ns = 0;
      job.tau = 0.01f;
      job.penalties = (weir_penalties){0};
      job.ignore_eos = true;
      world_submit(&w, &job, w.clock_ns);
      weir_request *r = first_queued(&w);
      r->cascade.pinned = false; /* the bug */
      if (modes[m] == WEIR_MODE_LARGE) r->cascade.tier = 1;
      world_run(&w, &job, 1);
      assert_int_equal(job.end, WEIR_END_ERROR);
      assert_non_null(strstr(job.err.msg, "pinned"));
      assert_int_equal(fed_rows(1), 0);
      const weir_engine_stats s = weir_engine_get_stats(w.engine);
      assert_true(s.pinned_refused > 0);
      assert_int_equal(s.pinned_large_rows, 0);
      assert_true(s.tier[1].steps == 0 && s.tier[1].kv_pages_used == 0 && s.tier[1].kv_pages_cached == 0);
      world_close(&w);
    }
}

static void turn_with_bug(world *w) {
  for (int32_t i = 0; i < w->engine->n_active; i++) {
    weir_request *r = w->engine->active[i];
    if (!r->pinned) continue;
    r->cascade.pinned = false;         /* so that feeding ahead thinks it may, ... */
    r->cascade.lo = r->cascade.hi = 0; /* ... while the policy itself never asks */
    r->cascade.hi = r->view.n > r->n_prompt + 2 ? 0 : 1;
    r->ahead = true;
  }
}

/* Feeding prompts ahead forgets the pin. */
static void careless_prefill(void **state) {
  (void)state;
  static world w;
  static world_job job[N_JOBS];
  memset(fed, 0, sizeof fed);
  rnd_state = 13;
  world_opts o = make_world(UP, true);
  o.each_turn = turn_with_bug;
  world_open(&w, &o);
  for (int32_t i = 0; i < N_JOBS; i++) {
    make_job(&job[i], WEIR_MODE_DEFER, i < N_PINNED);
    job[i].arrives_ns = 0;
    job[i].tau = i < N_PINNED ? 100 : 0.5f; /* nothing is deferred of the pinned */
  }
  world_run(&w, job, N_JOBS);
  assert_int_equal(fed_of_pinned(1), 0);
  assert_int_equal(weir_engine_get_stats(w.engine).pinned_large_rows, 0);
  world_close(&w);
}

/* Whatever builds the batch, the engine counts what is in it, and does not hand it over. */
static void counts_what_is_there(void **state) {
  (void)state;
  weir_request pinned = {.pinned = true}, open = {.pinned = false};
  weir_plan_item item[3] = {
      {.req = &pinned, .from = 3, .to = 8}, {.req = &open, .from = 0, .to = 90}, {.req = NULL}};
  const weir_plan p = {.item = item, .n_items = 3, .max_seqs = 3};
  assert_int_equal(weir_plan_pinned_rows(&p, 1), 5);
  assert_int_equal(weir_plan_pinned_rows(&p, 0), 0);
}

/* ---- a server without a small model ---- */

static void refused_without_small(void **state) {
  (void)state;
  static world w;
  world_bare(&w);
  weir_err e = {0};
  int64_t clock_ns = 0;
  const virtual_opts x = {
      .fake =
          {.law = w.law, .n_ctx = 512, .n_pages = 64, .max_tokens = 64, .max_seqs = 4, .fail_at_step = -1},
      .clock_ns = &clock_ns,
      .hang_at_step = -1};
  weir_exec *exec = virtual_exec_create(&x);
  for (int lone = 0; lone < 2; lone++) {
    weir_engine *g;
    const weir_engine_cfg cfg = {.n_tiers = 1,
                                 .tier = {exec},
                                 .tokenizer = w.tokenizer,
                                 .clock = weir_clock_system(),
                                 .lone_large = lone};
    assert_int_equal(weir_engine_create(&cfg, &g, &e), WEIR_OK);
    weir_cascade_cfg cascade;
    weir_cascade_cfg_single(&cascade);
    const int32_t prompt[1] = {5};
    const weir_job job = {.prompt = prompt,
                          .n_prompt = 1,
                          .max_new = 4,
                          .draw = {.top_p = 1},
                          .cascade = &cascade,
                          .pinned = true};
    assert_int_equal(weir_engine_submit(g, &job, NULL, &e), lone ? WEIR_EINVAL : WEIR_OK);
    weir_engine_destroy(g);
  }
  assert_non_null(strstr(e.msg, "pinned to the small model"));
  exec->ops->destroy(exec);
}

int main(void) {
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned deaths are not news */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_mode_and_state), cmocka_unit_test(nothing_at_all),
      cmocka_unit_test(careless_policy),      cmocka_unit_test(careless_prefill),
      cmocka_unit_test(counts_what_is_there), cmocka_unit_test(refused_without_small)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
