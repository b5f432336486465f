/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler in random worlds: arrivals, cancels, deadlines, priorities, penalties, small page pools,
 * faults, hung executors, tiers that share a device and tiers that do not. Whatever happens, each job ends
 * once, in time, with the text of plain decoding as far as it came; and no page is lost.
 * usage: test_sched [--long [SEEDS] | --seed SEED] */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "world.h"
#include "world_auto.h"

enum { FAULT_SEEDS = 1000000 }; /* seeds from here on are of worlds with faults */
static int32_t seeds = 200, n_stopped, n_routed[2], n_dropped;

static uint64_t rnd_state;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

/* ---- random worlds ---- */

static world_opts random_opts(void) {
  world_opts o = world_roomy();
  o.max_active = 1 + (int32_t)rnd(12);
  o.max_seqs = o.max_active + (int32_t)rnd(4);
  o.max_tokens = 1 + (int32_t)rnd(rnd(2) ? 12 : 200);
  o.prompt_chunk = rnd(2) ? 0 : 1 + (int32_t)rnd(40);
  for (int32_t t = 0; t < 2; t++) {
    o.n_pages[t] = 16 + (int32_t)rnd(rnd(2) ? 4 : 100); /* 160 + 96 tokens need 16 */
    o.row_ns[t] = (int64_t)rnd(20000);
    o.step_ns[t] = 1000 + (int64_t)rnd(400000);
  }
  o.large_batch = (int32_t)rnd(6);
  o.large_wait_ns = rnd(2) ? 0 : (int64_t)rnd(2000000);
  o.prefix_pages = rnd(3) ? (int32_t)rnd(60) : 0;
  o.age_ns = 1 + (int64_t)rnd(100000000);
  o.async = rnd(3) > 0;
  o.overlap = rnd(2);
  o.ahead = (weir_ahead)rnd(3);
  if (rnd(4)) o.each_turn = world_shuffle_modes;
  return o;
}

/* Stop strings of what the vocabulary writes, whole tokens and parts of them, so that many are met. */
static void random_stops(world_job *j) {
  static world w;
  if (!w.tokenizer) world_bare(&w);
  j->show_special = rnd(3) == 0;
  if (rnd(2)) return;
  j->n_stop = 1 + (int32_t)rnd(WORLD_STOPS);
  for (int32_t i = 0; i < j->n_stop; i++) {
    world_text text = {.len = 0};
    world_job any = {.prompt = {5}, .n_prompt = 1, .show_special = true};
    int32_t tok[2];
    for (int32_t k = 0; k < 2; k++) tok[k] = (int32_t)rnd(285);
    world_text_of(&w, &any, tok, 1 + (int32_t)rnd(2), &text);
    const size_t most = 1 + rnd(sizeof j->stop[i] - 1);
    const size_t n = text.len < most ? text.len : most;
    memcpy(j->stop[i], text.data, n);
    if (strlen(j->stop[i]) == 0) strcpy(j->stop[i], "e");
  }
}

static void random_job(world_job *j) {
  static const float temps[] = {0, 0.7f, 1, 1.5f};
  *j = (world_job){.n_prompt = 1 + (int32_t)rnd(rnd(3) ? 20 : 160),
                   .max_new = 1 + (int32_t)rnd(rnd(2)   ? 12
                                               : rnd(3) ? 40
                                                        : WORLD_NEW)};
  const uint32_t family = rnd(3);
  for (int32_t i = 0; i < j->n_prompt; i++)
    j->prompt[i] = (int32_t)(i < 100 ? (family * 77 + (uint32_t)i * 13) % 280 : rnd(280));
  j->mode = (weir_mode)rnd(WEIR_N_MODES);
  j->tau = j->mode == WEIR_MODE_EXACT && rnd(2) ? INFINITY : 0.5f + (float)rnd(400) / 100;
  static const int32_t prompts[] = {0, 1, 7, 40, 64, 4096}, afters[] = {0, 0, 1, 8, 30, WEIR_FAR};
  j->route_prompt = prompts[rnd(6)];
  j->route_after = afters[rnd(6)];
  if (j->route_prompt + j->route_after == 0) j->route_prompt = 12;
  j->route_share = rnd(4) ? 0.2f + (float)rnd(7) / 10 : (float)rnd(2);
  j->draw = (weir_ask){.temperature = temps[rnd(4)], .top_p = 1, .seed = rnd(1000), .probe = -1};
  j->ignore_eos = rnd(2);
  j->pinned = rnd(8) == 0 && j->mode != WEIR_MODE_LARGE;
  j->salt = rnd(2);
  j->priority = (int32_t)rnd(5) - 2;
  j->arrives_ns = rnd(3) ? (int64_t)rnd(20000000) : 0;
  if (rnd(6) == 0) j->cancel_ns = 1 + (int64_t)rnd(20000000);
  if (rnd(6) == 0) j->deadline_ns = 1 + (int64_t)rnd(20000000);
  if (rnd(3) == 0) j->n_top = 1 + (int32_t)rnd(WEIR_TOP_MAX);
  if (rnd(3) == 0) j->min_new = (int32_t)rnd((uint32_t)j->max_new + 1);
  if (rnd(3) == 0) {
    j->penalties = (weir_penalties){.presence = (float)rnd(9) / 2 - 2,
                                    .frequency = (float)rnd(9) / 2 - 2,
                                    .repetition = rnd(2) ? 0 : 0.8f + (float)rnd(8) / 10};
    j->penalties.n_bias = (int32_t)rnd(WORLD_BIAS + 1);
    for (int32_t i = 0; i < j->penalties.n_bias; i++)
      j->bias[i] = (weir_bias){(int32_t)rnd(90) + 90 * (2 - i), (float)rnd(201) - 100};
  }
  j->quality = (weir_quality)rnd(WEIR_N_QUALITIES);
  random_stops(j);
}

/* Tops are those of the row that wrote the token, by the raw distribution. */
static void check_tops(const world *w, const world_job *j) {
  int32_t all[WORLD_PROMPT + WORLD_NEW];
  weir_logit_edit edit[512];
  if (j->n_top == 0) return;
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  memcpy(all + j->n_prompt, j->tok, (size_t)j->n * sizeof *all);
  for (int32_t i = 0; i < j->n; i++) {
    weir_top top[WEIR_TOP_MAX];
    const weir_ask a = world_ask(w, j, all, j->n_prompt + i, edit);
    fake_law_top(&w->law, j->receipt[i].tier, all, j->n_prompt + i, &a, top);
    for (int32_t k = 0; k < j->n_top; k++)
      if (top[k].id != j->top[i][k].id || top[k].logprob != j->top[i][k].logprob)
        fail_msg("token %d, place %d: id %d at %g, want %d at %g", i, k, j->top[i][k].id,
                 (double)j->top[i][k].logprob, top[k].id, (double)top[k].logprob);
  }
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

/* Who writes is what the rows say, all of it; who stays never meets the large tier. */
static void check_route(const world *w, const world_job *j, bool whole) {
  int32_t tok[WORLD_NEW], n;
  weir_route_state want;
  const weir_route_state *s = &j->counts.route;
  world_route(w, j, j->route_share, tok, &n, &want);
  if (want.to != WEIR_ROUTED_NOT && j->route_share >= 1) want.to = WEIR_ROUTED_SMALL;
  const bool large = want.to == WEIR_ROUTED_LARGE;
  if (whole || s->to != WEIR_ROUTED_OPEN) assert_int_equal(s->to, want.to);
  if (s->to == WEIR_ROUTED_OPEN) assert_int_equal(j->n, 0); /* nothing is shown before */
  if ((s->to == WEIR_ROUTED_SMALL || s->to == WEIR_ROUTED_LARGE) && j->route_share < 1) {
    assert_int_equal(s->looked, want.looked);
    assert_int_equal(s->unsure, want.unsure);
  }
  if (!large) assert_int_equal(j->counts.fed[1], 0);
  for (int32_t k = 0; k < j->n; k++) {
    assert_int_equal(j->receipt[k].tier, large);
    assert_int_equal(j->receipt[k].why, large ? WEIR_WHY_ROUTED : WEIR_WHY_EASY);
    assert_false(j->receipt[k].wanted_up);
    assert_int_equal(isnan(j->receipt[k].entropy), large && k > 0);
  }
  n_routed[large] += whole && j->n > 0;
  n_dropped += large && j->counts.refused > 0;
}

/* The text is that of plain decoding, or, ended early, begins it. */
static void check_text(const world *w, const world_job *j, uint64_t seed, int32_t i) {
  int32_t tok[WORLD_NEW], n;
  static weir_token_receipt receipt[WORLD_NEW];
  static world_job by_itself;
  const bool whole = j->end != WEIR_END_CANCEL && j->end != WEIR_END_DEADLINE;
  if ((j->mode == WEIR_MODE_ROLLBACK || j->mode == WEIR_MODE_SPECULATE) && !j->pinned) {
    alone(j, &by_itself);
    n = by_itself.n;
    memcpy(tok, by_itself.tok, sizeof tok);
  } else if (j->mode == WEIR_MODE_AUTO && !j->pinned && j->quality != WEIR_QUALITY_EXACT) {
    n = j->n;
    memcpy(tok, j->tok, sizeof tok);
  } else {
    n = world_reference(w, j, tok, receipt);
  }
  for (int32_t k = 0; k < j->n && k < n; k++)
    if (j->tok[k] != tok[k])
      fail_msg("seed %llu, job %d (%s): token %d is %d, want %d", (unsigned long long)seed, i,
               weir_mode_name(j->mode), k, j->tok[k], tok[k]);
  if (whole ? j->n != n : j->n > n)
    fail_msg("seed %llu, job %d (%s): %d tokens, want %d", (unsigned long long)seed, i,
             weir_mode_name(j->mode), j->n, n);
  world_text text;
  world_text_of(w, j, j->tok, j->n, &text);
  if (j->text.len != text.len || memcmp(j->text.data, text.data, text.len) != 0)
    fail_msg("seed %llu, job %d (%s): a text of %zu bytes, want %zu", (unsigned long long)seed, i,
             weir_mode_name(j->mode), j->text.len, text.len);
  if (whole) assert_int_equal(j->text.stopped, text.stopped);
  n_stopped += text.stopped;
  if (j->mode == WEIR_MODE_DEFER && !j->pinned)
    for (int32_t k = 0; k < j->n; k++) { /* decisions are a function of the logged row */
      assert_int_equal(j->receipt[k].tier, j->receipt[k].entropy > j->tau);
      assert_true(j->receipt[k].entropy == receipt[k].entropy && j->receipt[k].logprob == receipt[k].logprob);
    }
  if (j->mode == WEIR_MODE_ROUTE) check_route(w, j, whole);
  if (j->mode == WEIR_MODE_AUTO && !j->pinned) world_check_floor(w, j);
  for (int32_t k = 0; k < j->n && k < j->min_new; k++)
    assert_false(weir_tokenizer_is_end(w->tokenizer, j->tok[k]));
  if (j->pinned || j->mode == WEIR_MODE_SMALL) assert_int_equal(j->counts.fed[1], 0);
  if (j->mode == WEIR_MODE_LARGE && !j->pinned) assert_int_equal(j->counts.fed[0], 0);
  check_tops(w, j);
}

typedef struct tally {
  int64_t preempted, ends[WEIR_END_DEADLINE + 1], ahead, hits;
} tally;

static void run_world(uint64_t seed, bool faults, tally *sum) {
  static world w;
  static world_job job[16];
  rnd_state = seed * 7919 + 17;
  world_opts o = random_opts();
  const int32_t n = 1 + (int32_t)rnd(12);
  if (faults) {
    const int32_t t = rnd(4) > 0, hang = (int32_t)rnd(2) && o.async;
    *(hang ? &o.hang_at[t] : &o.fail_at[t]) = rnd(40);
    o.step_timeout_ns = 5000000;
  }
  world_open(&w, &o);
  w.seed = seed;
  for (int32_t i = 0; i < n; i++) random_job(&job[i]);
  world_run(&w, job, n);
  const weir_engine_stats s = weir_engine_get_stats(w.engine);
  int64_t done = 0, tokens = 0, prompts = 0;
  for (int32_t i = 0; i < n; i++) {
    sum->ends[job[i].end]++;
    tokens += job[i].n;
    prompts += job[i].n_prompt;
    if (job[i].mode == WEIR_MODE_AUTO) prompts += job[i].max_new; /* the small tier may meet it late */
    const bool dead = s.tier[0].dead || s.tier[1].dead;
    if (job[i].end == WEIR_END_ERROR && !dead)
      fail_msg("seed %llu: %s", (unsigned long long)seed, job[i].err.msg);
    if (job[i].end == WEIR_END_CANCEL) assert_true(job[i].cancel_ns > 0);
    if (job[i].end == WEIR_END_DEADLINE)
      assert_true(job[i].deadline_ns > 0 && job[i].done_ns >= 1000000000 + job[i].deadline_ns);
    /* With a dead large tier those that go on write otherwise than they would have. */
    if (!dead) check_text(&w, &job[i], seed, i);
  }
  for (int32_t e = 0; e <= WEIR_END_DEADLINE; e++) done += s.jobs_done[e];
  assert_true(done <= n && (done == n || s.tier[0].dead || s.tier[1].dead));
  assert_int_equal(s.tokens_by_tier[0] + s.tokens_by_tier[1], tokens);
  for (int32_t t = 0; t < 2; t++) {
    const weir_tier_stats *z = &s.tier[t];
    sum->preempted += z->preempted;
    sum->hits += z->prefix_hit_tokens;
    assert_int_equal(z->rows, z->rows_decode + z->rows_prompt + z->rows_catchup + z->rows_judged);
    assert_int_equal(z->rows, w.note_rows[t]);
    assert_true(z->prefix_hit_tokens <= z->prefix_lookup_tokens);
    if (!z->dead && o.hang_at[t] < 0) assert_int_equal(z->rows, virtual_exec_rows(w.exec[t]));
  }
  assert_true(s.tier[0].prefix_lookup_tokens <= prompts); /* each request counts once, preempted or not */
  sum->ahead += w.note_ahead;
  world_close(&w);
}

static void test_random_worlds(void **state) {
  (void)state;
  tally sum = {0};
  for (int32_t seed = 0; seed < seeds; seed++) run_world((uint64_t)seed, false, &sum);
  if (seeds > 100)
    print_message("preempted %lld, ahead %lld rows, prefix hits %lld tokens\n", (long long)sum.preempted,
                  (long long)sum.ahead, (long long)sum.hits);
  assert_true(sum.preempted > 0 && sum.ahead > 0 && sum.hits > 0 && n_stopped > seeds / 4);
  assert_true(n_routed[0] > seeds / 10 && n_routed[1] > seeds / 10 && n_dropped > seeds / 20);
  assert_true(sum.ends[WEIR_END_CANCEL] > 0 && sum.ends[WEIR_END_DEADLINE] > 0 && sum.ends[WEIR_END_EOS] > 0);
  assert_int_equal(sum.ends[WEIR_END_ERROR], 0);
}

static void test_random_faults(void **state) {
  (void)state;
  tally sum = {0};
  for (int32_t seed = 0; seed < seeds; seed++) run_world((uint64_t)seed + FAULT_SEEDS, true, &sum);
  assert_true(sum.ends[WEIR_END_ERROR] > 0 && sum.ends[WEIR_END_LENGTH] > 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_worlds),
      cmocka_unit_test(test_random_faults),
  };
  if (argc > 2 && strcmp(argv[1], "--seed") == 0) {
    tally sum = {0};
    const uint64_t seed = strtoull(argv[2], NULL, 10);
    run_world(seed, seed >= FAULT_SEEDS, &sum);
    return 0;
  }
  if (argc > 1 && strcmp(argv[1], "--long") == 0) seeds = argc > 2 ? atoi(argv[2]) : 3000;
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned failures are not news */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
