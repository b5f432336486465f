/* SPDX-License-Identifier: Apache-2.0 */
/* Replay against the engine: each decision that a random world's engine tells is derived again at once, and
 * at the end the tokens and receipts of the replay are those the client got. Then decisions are changed, and
 * the replay must notice. usage: test_decisions [--seed SEED] */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "cascade/replay.h"
#include "world.h"

enum { MS = 1000000, N_JOBS = 12 };
static uint64_t only_seed, rnd_state;

static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

typedef struct log {
  weir_replay replay;
  bool begun;
  int64_t n, spoil_at; /* decisions so far; the one that is changed first, < 0: none */
  int32_t spoil_how;
  bool spoiled, noticed;
  weir_err e;
} log_t;

/* Ways to lie. False: there is nothing of the kind here. */
static bool spoil(int32_t how, weir_decision *d, weir_row *row) {
  switch (how) {
    case 0: /* the token drawn: of the row and of the effect, as whoever lies well would */
      if (d->did != WEIR_DID_OBSERVE || d->fx.append < 0 || d->fx.reason != WEIR_WROTE) return false;
      row[d->n_rows - 1].token ^= 1;
      return true;
    case 1:
      if (d->did != WEIR_DID_OBSERVE || d->fx.reason == WEIR_REPLACED) return false;
      row[d->n_rows - 1].entropy += 20; /* the gate would have said something else */
      return !isnan(d->fx.tau);
    case 2: d->tau = d->tau + 0.25f; return d->did == WEIR_DID_OBSERVE && isfinite(d->tau);
    case 3: d->n++; return true;
    case 4:
      d->fx.reason = d->fx.reason == WEIR_DEFERRED ? WEIR_WROTE : WEIR_DEFERRED;
      return d->did != WEIR_DID_SWITCH;
    case 5: d->need.tier ^= 1; return d->did == WEIR_DID_OBSERVE;
    case 6: d->fx.wanted_up = !d->fx.wanted_up; return d->did != WEIR_DID_SWITCH;
    case 7: d->fx.append++; return d->did != WEIR_DID_SWITCH && d->fx.append > 0;
    default: return false;
  }
}
enum { N_LIES = 8 };

static void on_decision(void *ctx, const weir_decision *told) {
  static weir_row row[WORLD_PROMPT + WORLD_NEW + 8];
  world_job *j = ctx;
  log_t *l = j->log;
  weir_decision d = *told;
  if (!l->begun) {
    l->begun = true;
    if (weir_replay_begin(&l->replay, d.cfg, j->pinned, j->n_prompt, d.forced, d.n_forced, d.ended, &l->e) !=
        WEIR_OK)
      fail_msg("seed %llu: %s", (unsigned long long)j->world->seed, l->e.msg);
    return;
  }
  if (l->noticed) return;
  if (d.n_rows > 0) {
    memcpy(row, d.row, (size_t)d.n_rows * sizeof *row);
    d.row = row;
  }
  const bool missing = l->spoil_how == N_LIES && l->n == l->spoil_at;
  if (!l->spoiled && l->spoil_at >= 0 && l->n >= l->spoil_at) {
    weir_decision lie = d;
    if (missing) {
      l->spoiled = true;
      l->n++;
      return; /* a line is missing */
    }
    if (spoil(l->spoil_how, &lie, row)) {
      l->spoiled = true;
      d = lie;
    } else if (d.n_rows > 0) {
      memcpy(row, told->row, (size_t)d.n_rows * sizeof *row);
    }
  }
  l->n++;
  if (weir_replay_decide(&l->replay, &d, &l->e) == WEIR_OK) return;
  l->noticed = true;
  if (!l->spoiled)
    fail_msg("seed %llu: mode %s, decision %lld (%s): %s", (unsigned long long)j->world->seed,
             weir_mode_name(j->mode), (long long)l->n, weir_did_name(d.did), l->e.msg);
}

static void random_job(world_job *j) {
  static const float temps[] = {0, 0.7f, 1, 1.5f};
  *j = (world_job){.n_prompt = 1 + (int32_t)rnd(rnd(3) ? 20 : 160), .max_new = 1 + (int32_t)rnd(WORLD_NEW)};
  for (int32_t i = 0; i < j->n_prompt; i++) j->prompt[i] = (int32_t)rnd(280);
  j->mode = (weir_mode)rnd(WEIR_N_MODES);
  j->tau = 0.5f + (float)rnd(400) / 100;
  j->draw = (weir_ask){.temperature = temps[rnd(4)], .top_p = 1, .seed = rnd(1000), .probe = -1};
  j->ignore_eos = rnd(2);
  j->pinned = rnd(8) == 0;
  j->arrives_ns = rnd(3) ? (int64_t)rnd(20 * MS) : 0;
  j->route_prompt = (int32_t)rnd(8);
  j->route_after = 1 + (int32_t)rnd(8);
  j->route_share = (float)rnd(100) / 100;
  j->route_rate = -1;
  j->quality = (weir_quality)rnd(3);
  if (j->mode == WEIR_MODE_DEFER || j->mode == WEIR_MODE_ROLLBACK) j->defer_wait_ns = rnd(2) ? 0 : 2 * MS;
  if (rnd(4) == 0) j->penalties = (weir_penalties){.presence = (float)rnd(9) / 2 - 2, .repetition = 1.2f};
  if (rnd(4) == 0) {
    j->n_stop = 1;
    memcpy(j->stop[0], "e", 2);
  }
}

static world_opts random_world(uint64_t seed) {
  world_opts o = world_roomy();
  o.async = o.overlap = seed % 3 != 0;
  if (seed % 4 == 0) o.n_pages[0] = o.n_pages[1] = 40;
  if (seed % 5 == 0) o.fail_at[1] = (int64_t)rnd(30);
  if (o.async && seed % 2 == 0) {
    o.slow_every[1] = 3;
    o.slow_ns[1] = 10 * MS;
  }
  if (o.async && seed % 7 == 0) {
    o.n_deaths[1] = 3;
    o.dead_wait_ns = 50 * MS;
    for (int32_t i = 0; i < 3; i++)
      o.death[1][i] = (virtual_death){.kind = DEATH_IN_STEP, .at = 3 + 7 * i, .down_ns = 3 * MS};
  }
  return o;
}

static void run(uint64_t seed, world_job *job, log_t *log) {
  static world w;
  rnd_state = seed * 31 + 1;
  for (int32_t i = 0; i < N_JOBS; i++) {
    random_job(&job[i]);
    job[i].on_decision = on_decision;
    job[i].log = &log[i];
  }
  const world_opts o = random_world(seed);
  world_open(&w, &o);
  w.seed = seed;
  world_run(&w, job, N_JOBS);
  world_close(&w);
}

static void check(const world_job *j, const log_t *l, uint64_t seed) {
  if (!l->begun) {
    assert_int_equal(j->n, 0);
    return;
  }
  const weir_replay *r = &l->replay;
  assert_true(j->n <= r->view.n - r->n_prompt);
  if (j->end != WEIR_END_ERROR) assert_int_equal(j->n, r->view.n - r->n_prompt);
  for (int32_t i = 0; i < j->n; i++) {
    const weir_receipt *a = &r->receipt[r->n_prompt + i];
    const weir_token_receipt *b = &j->receipt[i];
    if (r->tok[r->n_prompt + i] != b->id || a->tier != b->tier || a->why != b->why ||
        a->wanted_up != b->wanted_up)
      fail_msg("seed %llu, %s: token %d: %d by %d (%s%s), want %d by %d (%s%s)", (unsigned long long)seed,
               weir_mode_name(j->mode), i, r->tok[r->n_prompt + i], a->tier, weir_why_name((weir_why)a->why),
               a->wanted_up ? ", wanted" : "", b->id, b->tier, weir_why_name(b->why),
               b->wanted_up ? ", wanted" : "");
    assert_true(a->entropy == b->entropy || (isnan(a->entropy) && isnan(b->entropy)));
    assert_true(a->tau == b->tau || (isnan(a->tau) && isnan(b->tau)));
  }
}

static void random_worlds(void **state) {
  (void)state;
  static world_job job[N_JOBS];
  static log_t log[N_JOBS];
  int64_t by[WEIR_GAVE_UP + 1] = {0}, switches = 0;
  for (uint64_t seed = 1; seed <= 150; seed++) {
    if (only_seed && only_seed != seed) continue;
    for (int32_t i = 0; i < N_JOBS; i++) log[i] = (log_t){.spoil_at = -1};
    run(seed, job, log);
    for (int32_t i = 0; i < N_JOBS; i++) {
      check(&job[i], &log[i], seed);
      for (int k = 0; k <= WEIR_GAVE_UP; k++) by[k] += log[i].replay.by_reason[k];
      switches += log[i].replay.n_switches;
      weir_replay_fini(&log[i].replay);
    }
  }
  if (only_seed) return;
  for (int k = 0; k <= WEIR_GAVE_UP; k++)
    if (by[k] == 0 && k != WEIR_WINDOW) fail_msg("no decision was: %s", weir_reason_name((weir_reason)k));
  assert_true(switches > 0);
}

static void lies_are_noticed(void **state) {
  (void)state;
  static world_job job[N_JOBS];
  static log_t log[N_JOBS];
  int64_t told[N_LIES + 1] = {0};
  for (uint64_t seed = 1; seed <= 60; seed++) {
    const int32_t how = (int32_t)(seed % (N_LIES + 1));
    for (int32_t i = 0; i < N_JOBS; i++) log[i] = (log_t){.spoil_at = (int64_t)(seed % 5), .spoil_how = how};
    run(seed, job, log);
    for (int32_t i = 0; i < N_JOBS; i++) {
      const log_t *l = &log[i];
      if (l->spoiled && !l->noticed) { /* the last of a log: what is missing there is told by its end */
        const bool last = how == N_LIES && l->n == l->spoil_at + 1;
        const bool moved = how == 2 || how == 1; /* a threshold that moves is taken as it is logged */
        const bool shorter = l->replay.view.n - l->replay.n_prompt != job[i].n;
        if (!last && !moved && !shorter)
          fail_msg("seed %llu, lie %d in mode %s went unnoticed", (unsigned long long)seed, how,
                   weir_mode_name(job[i].mode));
      }
      told[how] += l->spoiled && l->noticed;
      weir_replay_fini(&log[i].replay);
    }
  }
  for (int k = 0; k <= N_LIES; k++)
    if (told[k] < 5) fail_msg("lie %d was told %lld times", k, (long long)told[k]);
}

/* Numbers of all sizes: refused, nothing read outside. */
static void nonsense(void **state) {
  (void)state;
  static const int32_t odd[] = {0, 1, -1, 2, 5, 20, 1 << 24, INT32_MAX, INT32_MIN, -2};
  weir_row row[32] = {{.token = 1}};
  weir_cascade_cfg cfg;
  weir_err e;
  for (int32_t m = 0; m < 6; m++) {
    weir_cascade_opts o = {.mode = (weir_mode)m};
    assert_int_equal(weir_cascade_cfg_make(&o, &cfg, &e), WEIR_OK);
    for (uint64_t seed = 0; seed < 20000; seed++) {
      weir_replay r;
      rnd_state = seed * 6 + (uint64_t)m;
      assert_int_equal(weir_replay_begin(&r, &cfg, rnd(4) == 0, 4, NULL, 0, false, &e), WEIR_OK);
      for (int k = 0; k < 4; k++) {
        weir_need q = {odd[rnd(10)], odd[rnd(10)], odd[rnd(10)], odd[rnd(10)], odd[rnd(10)]};
        if (rnd(2) && !weir_cascade_need(&r.cascade, &r.view, &q)) break;
        const weir_decision d = {.did = (weir_did)rnd(3),
                                 .lo = odd[rnd(3)],
                                 .hi = odd[rnd(5)],
                                 .asked_hi = (int32_t)rnd(2),
                                 .need = q,
                                 .row = row,
                                 .n_rows = rnd(2) ? 1 : odd[rnd(6)],
                                 .tau = cfg.gate[0].threshold,
                                 .share = cfg.route.share,
                                 .fx = {.append = odd[rnd(10)], .truncate_to = odd[rnd(10)]},
                                 .n = odd[rnd(10)],
                                 .ended = rnd(2)};
        if (weir_replay_decide(&r, &d, &e) != WEIR_OK) break;
      }
      weir_replay_fini(&r);
    }
  }
  weir_replay r;
  assert_int_equal(weir_replay_begin(&r, &cfg, false, 0, NULL, 0, false, &e), WEIR_EINVAL);
  weir_replay_fini(&r);
  assert_int_equal(weir_replay_begin(&r, &cfg, false, INT32_MAX, NULL, 0, false, &e), WEIR_EINVAL);
  weir_replay_fini(&r);
}

int main(int argc, char **argv) {
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned deaths are not news */
  if (argc > 2 && !strcmp(argv[1], "--seed")) only_seed = strtoull(argv[2], NULL, 10);
  const struct CMUnitTest tests[] = {cmocka_unit_test(random_worlds), cmocka_unit_test(lies_are_noticed),
                                     cmocka_unit_test(nonsense)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
