/* SPDX-License-Identifier: Apache-2.0 */
/* Who waits for whom, and how long at most: priorities age, long prompts and large requests are not starved
 * by small ones, decodes are not held up by prompts; the prefix cache across turns, tiers and tenants;
 * prompts fed ahead; deadlines; what is refused at the door. On the virtual clock. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "world.h"

#define MS 1000000LL

static world w;
static world_job job[WORLD_JOBS];

static void plain(world_job *j, int32_t n_prompt, int32_t max_new, weir_mode mode) {
  *j = (world_job){.n_prompt = n_prompt, .max_new = max_new, .mode = mode, .tau = 1.5f, .ignore_eos = true};
  j->draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = 5, .probe = -1};
  for (int32_t i = 0; i < n_prompt; i++) j->prompt[i] = (i * 31 + n_prompt) % 280;
}

/* A stream of urgent jobs that keeps all places taken, and one that is less urgent by two numbers: it waits
 * for no more than two ages and what was begun before. */
static void test_priority_ages(void **state) {
  (void)state;
  for (int32_t aged = 0; aged < 2; aged++) {
    world_opts o = world_roomy();
    o.max_active = 2;
    o.age_ns = aged ? 10 * MS : 1000 * MS;
    world_open(&w, &o);
    const int32_t n = 200;
    for (int32_t i = 0; i < n; i++) {
      plain(&job[i], 8, 8, WEIR_MODE_SMALL);
      job[i].arrives_ns = i * MS / 4; /* twice as fast as they are served */
      job[i].priority = -2;
    }
    plain(&job[n], 8, 8, WEIR_MODE_SMALL);
    job[n].arrives_ns = MS;
    world_run(&w, job, n + 1);
    const int64_t took = job[n].done_ns - 1000000000 - job[n].arrives_ns;
    int32_t later = 0;
    for (int32_t i = 0; i < n; i++) later += job[i].done_ns > job[n].done_ns;
    if (aged)
      assert_true(took > 20 * MS && took < 60 * MS && later > 10);
    else
      assert_int_equal(later, 0); /* within one age the number decides */
    world_close(&w);
  }
}

/* The more urgent goes first whatever the order of arrival. */
static void test_priority_orders(void **state) {
  (void)state;
  world_opts o = world_roomy();
  o.max_active = 1;
  world_open(&w, &o);
  for (int32_t i = 0; i < 9; i++) {
    plain(&job[i], 8, 4, WEIR_MODE_SMALL);
    job[i].priority = (i * 4) % 9 - 4;
  }
  world_run(&w, job, 9);
  for (int32_t i = 0; i < 9; i++)
    for (int32_t k = 0; k < 9; k++)
      if (job[i].priority < job[k].priority) assert_true(job[i].done_ns < job[k].done_ns);
  world_close(&w);
}

/* Eight decode rows fill every step; a prompt of 300 tokens gets through all the same. */
static void test_prompt_is_not_starved(void **state) {
  (void)state;
  world_opts o = world_roomy();
  o.max_active = 9;
  o.max_tokens = 8;
  o.prefix_pages = 0;
  world_open(&w, &o);
  const int32_t n = 120;
  for (int32_t i = 0; i < n; i++) {
    plain(&job[i], 1, 40, WEIR_MODE_SMALL);
    job[i].arrives_ns = i < 8 ? 0 : i * MS / 4;
  }
  plain(&job[n], 300, 1, WEIR_MODE_SMALL);
  world_run(&w, job, n + 1);
  int32_t later = 0;
  for (int32_t i = 0; i < n; i++) later += job[i].done_ns > job[n].done_ns;
  if (later < n / 4) fail_msg("only %d of %d short jobs ended after the long prompt", later, n);
  world_close(&w);
}

/* A prompt of 380 tokens arrives among decodes: the gap between their tokens is bounded by the chunk. */
static void test_decodes_are_not_held_up(void **state) {
  (void)state;
  int64_t steps[2];
  for (int32_t chunked = 0; chunked < 2; chunked++) {
    world_opts o = world_roomy();
    o.max_tokens = 512;
    o.prefix_pages = 0;
    o.row_ns[0] = 100000;
    o.prompt_chunk = chunked ? 16 : 512;
    world_open(&w, &o);
    for (int32_t i = 0; i < 5; i++) plain(&job[i], 4, 90, WEIR_MODE_SMALL);
    plain(&job[5], 380, 1, WEIR_MODE_SMALL);
    job[5].arrives_ns = 2 * MS;
    world_run(&w, job, 6);
    steps[chunked] = w.slowest_ns;
    world_close(&w);
  }
  assert_true(steps[0] > 380 * 100000); /* the whole prompt in one step */
  assert_true(steps[1] < 40 * 100000);  /* a chunk, or the short rest, and five decodes */
}

/* Small requests come all the time and would take each page that is given back: the large one gets its turn.
 */
static void test_large_request_gets_its_pages(void **state) {
  (void)state;
  world_opts o = world_roomy();
  o.max_active = 12;
  o.n_pages[0] = 30; /* the large one takes 27 */
  o.prefix_pages = 8;
  world_open(&w, &o);
  const int32_t n = 150;
  for (int32_t i = 0; i < n; i++) {
    plain(&job[i], 20 + i % 7, 20, WEIR_MODE_SMALL);
    job[i].arrives_ns = i * MS / 5;
  }
  plain(&job[n], 390, 20, WEIR_MODE_SMALL);
  job[n].arrives_ns = 2 * MS;
  world_run(&w, job, n + 1);
  int32_t later = 0;
  for (int32_t i = 0; i < n; i++) later += job[i].done_ns > job[n].done_ns;
  if (later < n / 2) fail_msg("only %d of %d small jobs ended after the large one", later, n);
  world_close(&w);
}

/* Requests that grow take pages from the less urgent, never from the more urgent: the oldest feeds each token
 * once. */
static void test_oldest_keeps_its_pages(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_LARGE, WEIR_MODE_DEFER};
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    const int32_t large = modes[m] == WEIR_MODE_LARGE;
    world_opts o = world_roomy();
    o.n_pages[large] = 24; /* eight take 5 each when they are admitted and 8 in the end */
    o.prefix_pages = 0;
    world_open(&w, &o);
    for (int32_t i = 0; i < 8; i++) plain(&job[i], 33 + i, 90, modes[m]);
    world_run(&w, job, 8);
    assert_true(weir_engine_get_stats(w.engine).tier[large].preempted > 0);
    assert_int_equal(job[0].counts.fed[large], 33 + 90 - 1);
    for (int32_t i = 1; i < 8; i++) assert_true(job[i].counts.fed[large] >= 33 + i + 90 - 1);
    world_close(&w);
  }
}

/* Who is admitted has its pages, those counted that others will still take for their prompts. */
static void test_admission_waits_for_pages(void **state) {
  (void)state;
  world_opts o = world_roomy();
  o.max_tokens = 16; /* prompts take several steps: their pages come one by one */
  o.n_pages[0] = 30;
  o.prefix_pages = 0;
  world_open(&w, &o);
  for (int32_t i = 0; i < 12; i++) plain(&job[i], 100, 28, WEIR_MODE_SMALL);
  world_run(&w, job, 12);
  assert_int_equal(weir_engine_get_stats(w.engine).tier[0].preempted, 0);
  for (int32_t i = 3; i < 12; i++) assert_true(job[i].queued_ns > 0); /* three fit at once */
  world_close(&w);
}

/* A small tier that never answers: who needs it ends when its time is over, who does not goes on. */
static void test_hung_tier(void **state) {
  (void)state;
  for (int32_t overlap = 0; overlap < 2; overlap++)
    for (int32_t t = 0; t < 2; t++) {
      world_opts o = world_roomy();
      o.async = true;
      o.overlap = overlap;
      o.hang_at[t] = 7;
      o.step_timeout_ns = 20 * MS;
      world_open(&w, &o);
      for (int32_t i = 0; i < 6; i++)
        plain(&job[i], 20, 60, i % 3 == 0 ? WEIR_MODE_SMALL : i % 3 == 1 ? WEIR_MODE_LARGE : WEIR_MODE_DEFER);
      world_run(&w, job, 6);
      assert_true(weir_engine_get_stats(w.engine).tier[t].dead);
      for (int32_t i = 0; i < 6; i++) {
        const bool lost = t == 0 ? job[i].mode != WEIR_MODE_LARGE : job[i].mode == WEIR_MODE_LARGE;
        assert_int_equal(job[i].end, lost ? WEIR_END_ERROR : WEIR_END_LENGTH);
        if (lost) assert_non_null(strstr(job[i].err.msg, "has been under way"));
      }
      world_close(&w);
    }
}

/* After a tier has died, those come in that can go on without it, and go their way; the others are told at
 * the door. */
static void test_door_after_a_death(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_LARGE, WEIR_MODE_DEFER, WEIR_MODE_EXACT};
  for (int32_t dead = 0; dead < 2; dead++) {
    world_opts o = world_roomy();
    o.fail_at[dead] = 0;
    world_open(&w, &o);
    for (int32_t i = 0; i < 2; i++) plain(&job[i], 20, 4, i ? WEIR_MODE_LARGE : WEIR_MODE_SMALL);
    world_run(&w, job, 2);
    assert_true(weir_engine_get_stats(w.engine).tier[dead].dead);
    for (int32_t i = 0; i < 8; i++) {
      world_job *j = &job[i];
      plain(j, 20, 40, modes[i % 4]);
      j->pinned = i > 3;
      const bool needs[2] = {j->pinned || j->mode != WEIR_MODE_LARGE,
                             !j->pinned && (j->mode == WEIR_MODE_LARGE || j->mode == WEIR_MODE_EXACT)};
      world_run(&w, j, 1);
      if (needs[dead]) {
        assert_int_equal(j->end, WEIR_END_ERROR);
        assert_int_equal(j->n, 0);
        assert_non_null(strstr(j->err.msg, "is down: "));
        continue;
      }
      int32_t tok[WORLD_NEW];
      weir_token_receipt receipt[WORLD_NEW];
      world_job same = *j;
      same.pinned = dead == 1; /* without the large tier a cascade is its small one */
      assert_int_equal(j->end, WEIR_END_LENGTH);
      assert_int_equal(j->n, world_reference(&w, &same, tok, receipt));
      assert_memory_equal(j->tok, tok, (size_t)j->n * sizeof *tok);
    }
    world_close(&w);
  }
}

/* Those who go on without the large tier give back at once what they held there. */
static void test_dead_tier_holds_no_pages(void **state) {
  (void)state;
  world_opts o = world_roomy();
  o.fail_at[1] = 5;
  o.prefix_pages = 0;
  world_open(&w, &o);
  for (int32_t i = 0; i < 6; i++) {
    plain(&job[i], 40, 60, WEIR_MODE_DEFER);
    job[i].draw.seed = (uint64_t)i;
    world_submit(&w, &job[i], w.clock_ns);
  }
  int32_t held = 0;
  bool busy = true;
  for (int32_t turn = 0; turn < 10000; turn++) {
    const weir_engine_stats s = weir_engine_get_stats(w.engine);
    if (s.tier[1].dead) {
      assert_int_equal(s.tier[1].kv_pages_used, 0);
      assert_int_equal(s.active, 6); /* they all go on */
      break;
    }
    held = s.tier[1].kv_pages_used;
    assert_int_equal(weir_engine_step(w.engine, &busy, NULL), WEIR_OK);
  }
  assert_true(held > 6 && weir_engine_get_stats(w.engine).tier[1].dead);
  world_run(&w, job, 6);
  for (int32_t i = 0; i < 6; i++) assert_int_equal(job[i].end, WEIR_END_LENGTH);
  world_close(&w);
}

/* What can never fit ends with a reason, and nobody else notices. */
static void test_too_large(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_LARGE, WEIR_MODE_DEFER};
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    const int32_t t = modes[m] == WEIR_MODE_SMALL ? 0 : 1; /* the tier whose pool is small */
    world_opts o = world_roomy();
    o.n_pages[t] = 12;
    world_open(&w, &o);
    for (int32_t i = 0; i < 9; i++) plain(&job[i], i == 3 ? 300 : 20 + i, 40, modes[m]);
    world_run(&w, job, 9);
    for (int32_t i = 0; i < 9; i++) assert_int_equal(job[i].end, i == 3 ? WEIR_END_ERROR : WEIR_END_LENGTH);
    assert_non_null(strstr(job[3].err.msg, "does not fit the KV pages"));
    world_close(&w);
  }
}

/* ---- callbacks ---- */

static weir_job again;
static int32_t begun, ended;

static void submit_again(void *ctx, const weir_outcome *r) {
  (void)ctx;
  (void)r;
  ended++;
  for (int32_t i = 0; i < 3 && begun < 100; i++, begun++)
    assert_int_equal(weir_engine_submit(w.engine, &again, NULL, NULL), WEIR_OK);
}

static void cancel_next(void *ctx, const weir_piece *p) {
  (void)ctx;
  if (p->index == 2) weir_engine_cancel(w.engine, 1 + (begun * 7) % 120);
}

/* Callbacks submit and cancel, others and their own. */
static void test_callbacks_may_call(void **state) {
  (void)state;
  const int32_t prompt[5] = {4, 3, 2, 1, 5};
  weir_cascade_cfg cascade;
  weir_cascade_cfg_make(&(weir_cascade_opts){.mode = WEIR_MODE_DEFER}, &cascade, NULL);
  const world_opts o = world_roomy();
  world_open(&w, &o);
  again = (weir_job){.prompt = prompt,
                     .n_prompt = 5,
                     .max_new = 9,
                     .draw = {.temperature = 1, .top_p = 1},
                     .cascade = &cascade,
                     .on_piece = cancel_next,
                     .on_done = submit_again};
  begun = 1;
  ended = 0;
  assert_int_equal(weir_engine_submit(w.engine, &again, NULL, NULL), WEIR_OK);
  world_run(&w, NULL, 0);
  assert_true(begun >= 100);
  assert_int_equal(ended, begun);
  const weir_engine_stats s = weir_engine_get_stats(w.engine);
  assert_true(s.jobs_done[WEIR_END_CANCEL] > 0);
  world_close(&w);
}

/* ---- the prefix cache ---- */

static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }

/* Three turns of a conversation: each hits the full pages of the one before, on the tiers that held them;
 * another tenant hits nothing. */
static void test_turns_hit(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_LARGE, WEIR_MODE_DEFER, WEIR_MODE_EXACT};
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    world_opts o = world_roomy();
    world_open(&w, &o);
    int32_t text[WORLD_PROMPT], n = 70;
    int64_t lookups[2] = {0}, hits[2] = {0};
    for (int32_t i = 0; i < n; i++) text[i] = (i * 17 + 3) % 280;
    for (int32_t turn = 0; turn < 3; turn++) {
      for (uint64_t tenant = 0; tenant < 2; tenant++) {
        world_job *j = &job[turn * 2 + (int32_t)tenant];
        plain(j, n, 30, modes[m]);
        memcpy(j->prompt, text, (size_t)n * sizeof *text);
        j->salt = tenant;
        if (tenant == 1 && turn > 0) {
          j->salt = 100 + (uint64_t)turn; /* a new tenant each time, with the same words */
        }
        world_run(&w, j, 1);
        for (int32_t t = 0; t < 2; t++) {
          const bool used = t == 0 ? modes[m] != WEIR_MODE_LARGE
                                   : j->counts.fed[1] > 0; /* whoever was never asked was never looked at */
          if (!used) continue;
          lookups[t] += j->counts.prefix_hit[t];
          if (turn == 0 || tenant == 1) {
            assert_int_equal(j->counts.prefix_hit[t], 0);
          } else {
            /* All full pages of the turn before that were fed: its last token was not. */
            const int32_t fed = n - 6 - 1;
            if (modes[m] == WEIR_MODE_DEFER && t == 1)
              assert_true(j->counts.prefix_hit[t] > 0 && j->counts.prefix_hit[t] <= fed / 16 * 16);
            else
              assert_int_equal(j->counts.prefix_hit[t], fed / 16 * 16);
          }
          hits[t] += j->counts.prefix_hit[t];
        }
      }
      /* The next turn: what was written, and six words more. */
      const world_job *j = &job[turn * 2];
      const int32_t more = min32(j->n, 30);
      memcpy(text + n, j->tok, (size_t)more * sizeof *text);
      n += more;
      for (int32_t i = 0; i < 6; i++) text[n++] = (i * 7 + turn) % 280;
    }
    const weir_engine_stats s = weir_engine_get_stats(w.engine);
    for (int32_t t = 0; t < 2; t++) assert_int_equal(s.tier[t].prefix_hit_tokens, hits[t]);
    assert_true(s.tier[modes[m] == WEIR_MODE_LARGE].prefix_lookup_tokens > 0);
    (void)lookups;
    world_close(&w);
  }
}

/* Pages are there for others while a request still writes. */
static void test_published_while_writing(void **state) {
  (void)state;
  world_opts o = world_roomy();
  world_open(&w, &o);
  plain(&job[0], 40, 90, WEIR_MODE_SMALL);
  int32_t tok[WORLD_NEW];
  weir_token_receipt receipt[WORLD_NEW];
  const int32_t n = world_reference(&w, &job[0], tok, receipt);
  plain(&job[1], 40, 4, WEIR_MODE_SMALL);
  memcpy(job[1].prompt, job[0].prompt, sizeof job[0].prompt);
  memcpy(job[1].prompt + 40, tok, 40 * sizeof *tok);
  job[1].n_prompt = 80;
  job[1].arrives_ns = 50 * 102000; /* after 48 steps or so, long before the end */
  assert_int_equal(n, 90);
  world_run(&w, job, 2);
  assert_true(job[1].done_ns < job[0].done_ns);
  assert_int_equal(job[1].counts.prefix_hit[0], 79); /* five pages, of which one token is fed again */
  world_close(&w);
}

/* ---- ahead ---- */

/* With devices of their own the large tier reads prompts while the small one writes: the first deferral finds
 * them fed. Never for requests that may not go there. */
static void test_ahead(void **state) {
  (void)state;
  int64_t done[2];
  for (int32_t on = 0; on < 2; on++) {
    world_opts o = world_roomy();
    o.async = o.overlap = true;
    o.ahead = on ? WEIR_AHEAD_AUTO : WEIR_AHEAD_OFF;
    o.prefix_pages = 0;
    world_open(&w, &o);
    for (int32_t i = 0; i < 4; i++) {
      plain(&job[i], 300, 40, WEIR_MODE_DEFER);
      job[i].tau = 3.0f;
    }
    world_run(&w, job, 4);
    done[on] = w.clock_ns;
    for (int32_t i = 0; i < 4; i++) /* nothing is fed twice */
      assert_true(job[i].counts.fed[1] > 0 && job[i].counts.fed[1] <= job[i].n_prompt + job[i].n - 1);
    if (on)
      assert_true(w.note_ahead > 150);
    else
      assert_int_equal(w.note_ahead, 0);
    world_close(&w);
    /* Small only, pinned, tau = inf, and large only: nothing is ever ahead. */
    world_open(&w, &o);
    plain(&job[0], 300, 20, WEIR_MODE_SMALL);
    plain(&job[1], 300, 20, WEIR_MODE_DEFER);
    job[1].pinned = true;
    plain(&job[2], 300, 20, WEIR_MODE_DEFER);
    job[2].tau = INFINITY;
    world_run(&w, job, 3);
    assert_int_equal(w.note_rows[1], 0);
    world_close(&w);
  }
  assert_true(done[1] < done[0]);
}

/* Whether prompts are worth it is learnt from whether requests of late needed the large tier. */
static void test_ahead_learns(void **state) {
  (void)state;
  static const float tau[] = {20, 0, 20}; /* nobody defers, everybody does, nobody */
  int64_t ahead[3][2] = {{0}};
  world_opts o = world_roomy();
  o.async = o.overlap = true;
  o.prefix_pages = 0;
  world_open(&w, &o);
  for (int32_t phase = 0; phase < 3; phase++)
    for (int32_t i = 0; i < 30; i++) {
      const int64_t before = w.note_ahead;
      plain(&job[0], 300, 12, WEIR_MODE_DEFER);
      job[0].tau = tau[phase];
      world_run(&w, job, 1);
      ahead[phase][i >= 15] += w.note_ahead - before;
    }
  assert_true(ahead[0][0] > 0 && ahead[2][0] > 0);
  assert_int_equal(ahead[0][1], 0);
  assert_int_equal(ahead[2][1], 0);
  world_close(&w);
}

/* ---- overlap ---- */

/* The same work takes less time where the tiers have devices of their own, and the loop never spins. */
static void test_overlap_is_faster(void **state) {
  (void)state;
  int64_t took[2];
  for (int32_t overlap = 0; overlap < 2; overlap++) {
    world_opts o = world_roomy();
    o.async = o.overlap = overlap;
    o.ahead = WEIR_AHEAD_OFF;
    world_open(&w, &o);
    for (int32_t i = 0; i < 8; i++) {
      plain(&job[i], 20 + i, 60, WEIR_MODE_DEFER);
      job[i].draw.seed = (uint64_t)i;
      job[i].tau = 2.5f;
    }
    world_run(&w, job, 8);
    took[overlap] = w.clock_ns - 1000000000;
    assert_true(w.idle_turns <= 3 * (w.note_steps[0] + w.note_steps[1]) + 10);
    world_close(&w);
  }
  assert_true(took[1] < took[0] * 9 / 10);
}

/* ... and no longer than until there is enough of it. */
static void test_large_batch_is_enough(void **state) {
  (void)state;
  for (int32_t batch = 4; batch <= 5; batch++) {
    world_opts o = world_roomy();
    o.large_batch = batch;
    o.large_wait_ns = 5 * MS;
    o.ahead = WEIR_AHEAD_OFF;
    world_open(&w, &o);
    for (int32_t i = 0; i < 8; i++) { /* four that defer each token beside four that never do */
      plain(&job[i], 20 + i, i % 2 ? 4 : 90, i % 2 ? WEIR_MODE_DEFER : WEIR_MODE_SMALL);
      job[i].tau = 0;
    }
    world_run(&w, job, 8);
    if (batch == 4)
      assert_true(w.max_wait_ns < 2 * MS);
    else
      assert_true(w.max_wait_ns >= 5 * MS); /* a fifth never comes */
    world_close(&w);
  }
}

/* A deferral waits for company no longer than it may. */
static void test_large_wait_is_bounded(void **state) {
  (void)state;
  for (int32_t overlap = 0; overlap < 2; overlap++) {
    world_opts o = world_roomy();
    o.async = o.overlap = overlap;
    o.large_batch = 0; /* no number will do */
    o.large_wait_ns = 3 * MS;
    o.ahead = WEIR_AHEAD_OFF;
    world_open(&w, &o);
    for (int32_t i = 0; i < 8; i++) {
      plain(&job[i], 20 + i, 60, i % 2 ? WEIR_MODE_DEFER : WEIR_MODE_SMALL);
      job[i].draw.seed = (uint64_t)i;
    }
    world_run(&w, job, 8);
    /* its own wait, a step of each tier under way, and the turn of the loop */
    assert_true(w.max_wait_ns >= 3 * MS && w.max_wait_ns < 3 * MS + 2 * MS);
    world_close(&w);
  }
}

/* ---- deadlines ---- */

static void test_deadlines(void **state) {
  (void)state;
  for (int32_t async = 0; async < 2; async++) {
    world_opts o = world_roomy();
    o.max_active = 1;
    o.async = o.overlap = async;
    world_open(&w, &o);
    for (int32_t i = 0; i < 4; i++) plain(&job[i], 10, 60, i % 2 ? WEIR_MODE_LARGE : WEIR_MODE_SMALL);
    job[0].deadline_ns = 2 * MS;    /* under way */
    job[2].deadline_ns = 3 * MS;    /* waiting */
    job[3].deadline_ns = 4000 * MS; /* far away */
    world_run(&w, job, 4);
    assert_int_equal(job[0].end, WEIR_END_DEADLINE);
    assert_true(job[0].n > 0 && job[0].n < 60);
    assert_int_equal(job[1].end, WEIR_END_LENGTH);
    assert_int_equal(job[2].end, WEIR_END_DEADLINE);
    assert_int_equal(job[2].n, 0);
    assert_int_equal(job[3].end, WEIR_END_LENGTH);
    for (int32_t i = 0; i < 4; i += 2) {
      const int64_t late = job[i].done_ns - 1000000000 - job[i].deadline_ns;
      assert_true(late >= 0 && late < MS); /* at the end of the step under way */
    }
    assert_int_equal(weir_engine_get_stats(w.engine).jobs_done[WEIR_END_DEADLINE], 2);
    world_close(&w);
  }
}

/* A deadline that passes while a long step is under way is kept all the same. */
static void test_deadline_within_a_step(void **state) {
  (void)state;
  for (int32_t large = 0; large < 2; large++) {
    world_opts o = world_roomy();
    o.async = true;
    o.step_ns[0] = o.step_ns[1] = 100 * MS;
    world_open(&w, &o);
    for (int32_t i = 0; i < 3; i++) plain(&job[i], 10, 4, large ? WEIR_MODE_LARGE : WEIR_MODE_SMALL);
    job[0].deadline_ns = 7 * MS;
    job[1].deadline_ns = 130 * MS;
    world_run(&w, job, 3);
    for (int32_t i = 0; i < 2; i++) {
      assert_int_equal(job[i].end, WEIR_END_DEADLINE);
      assert_int_equal(job[i].done_ns - 1000000000, job[i].deadline_ns);
    }
    assert_int_equal(job[2].end, WEIR_END_LENGTH);
    world_close(&w);
  }
}

/* ---- at the door ---- */

static void test_refusals(void **state) {
  (void)state;
  const world_opts o = world_roomy();
  world_open(&w, &o);
  weir_cascade_cfg cascade;
  weir_err e;
  weir_cascade_cfg_make(&(weir_cascade_opts){.mode = WEIR_MODE_DEFER}, &cascade, NULL);
  const int32_t prompt[3] = {1, 2, 3};
  const weir_bias twice[2] = {{7, 1}, {7, 2}}, outside[1] = {{288, 1}}, strong[1] = {{3, 101}},
                  nan_bias[1] = {{3, NAN}};
  const weir_job ok = {.prompt = prompt,
                       .n_prompt = 3,
                       .max_new = 4,
                       .draw = {.temperature = 1, .top_p = 1},
                       .cascade = &cascade};
  const struct {
    weir_penalties penalties;
    int32_t n_top, min_new, priority;
    int64_t deadline_ns;
    const char *want;
  } bad[] = {
      {.penalties = {.presence = 2.1f}, .want = "presence_penalty"},
      {.penalties = {.presence = NAN}, .want = "presence_penalty"},
      {.penalties = {.frequency = -2.1f}, .want = "frequency_penalty"},
      {.penalties = {.repetition = -1}, .want = "repetition_penalty"},
      {.penalties = {.repetition = INFINITY}, .want = "repetition_penalty"},
      {.penalties = {.bias = twice, .n_bias = 2}, .want = "token 7 twice"},
      {.penalties = {.bias = outside, .n_bias = 1}, .want = "token 288"},
      {.penalties = {.bias = strong, .n_bias = 1}, .want = "logit_bias of token 3"},
      {.penalties = {.bias = nan_bias, .n_bias = 1}, .want = "logit_bias of token 3"},
      {.penalties = {.bias = twice, .n_bias = WEIR_MAX_BIAS + 1}, .want = "logit_bias has"},
      {.n_top = -1, .want = "n_top"},
      {.n_top = WEIR_TOP_MAX + 1, .want = "n_top"},
      {.min_new = -1, .want = "min_new"},
      {.min_new = 5, .want = "min_new"},
      {.priority = WEIR_MAX_PRIORITY + 1, .want = "priority"},
      {.priority = INT32_MIN, .want = "priority"},
      {.deadline_ns = -1, .want = "deadline"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_job j = ok;
    j.penalties = bad[i].penalties;
    j.n_top = bad[i].n_top;
    j.min_new = bad[i].min_new;
    j.priority = bad[i].priority;
    j.deadline_ns = bad[i].deadline_ns;
    e = (weir_err){0};
    assert_int_equal(weir_engine_submit(w.engine, &j, NULL, &e), WEIR_EINVAL);
    if (!strstr(e.msg, bad[i].want)) fail_msg("case %zu: \"%s\" does not say \"%s\"", i, e.msg, bad[i].want);
  }
  for (int32_t i = 0; i < WORLD_JOBS; i++)
    assert_int_equal(weir_engine_submit(w.engine, &ok, NULL, &e), WEIR_OK);
  assert_int_equal(weir_engine_submit(w.engine, &ok, NULL, &e), WEIR_EBUSY); /* the queue is full */
  world_close(&w);                                                           /* ends them silently */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_priority_ages),
      cmocka_unit_test(test_priority_orders),
      cmocka_unit_test(test_prompt_is_not_starved),
      cmocka_unit_test(test_decodes_are_not_held_up),
      cmocka_unit_test(test_large_request_gets_its_pages),
      cmocka_unit_test(test_oldest_keeps_its_pages),
      cmocka_unit_test(test_admission_waits_for_pages),
      cmocka_unit_test(test_hung_tier),
      cmocka_unit_test(test_door_after_a_death),
      cmocka_unit_test(test_dead_tier_holds_no_pages),
      cmocka_unit_test(test_too_large),
      cmocka_unit_test(test_callbacks_may_call),
      cmocka_unit_test(test_turns_hit),
      cmocka_unit_test(test_published_while_writing),
      cmocka_unit_test(test_ahead),
      cmocka_unit_test(test_ahead_learns),
      cmocka_unit_test(test_overlap_is_faster),
      cmocka_unit_test(test_large_wait_is_bounded),
      cmocka_unit_test(test_large_batch_is_enough),
      cmocka_unit_test(test_deadlines),
      cmocka_unit_test(test_deadline_within_a_step),
      cmocka_unit_test(test_refusals),
  };
  weir_log_set_level(WEIR_LOG_ERROR - 1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
