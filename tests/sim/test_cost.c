/* SPDX-License-Identifier: Apache-2.0 */
/* The cost meter. Its arithmetic against sums written out; the engine's use of it against what each executor
 * was really fed, step by step, and against a count by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "sched/cost.h"
#include "serve/engine_in.h"
#include "world.h"

enum { MS = 1000000, N_JOBS = 10 };

static uint64_t rnd_state;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-9 * (fabs(a) + fabs(b)); }

/* What the fakes say they are. */
static const weir_exec_info law[2] = {{.weight_bytes = 1000,
                                       .kv_bytes_per_token = 10,
                                       .flops_per_token = 300,
                                       .attn_flops = 7,
                                       .attn_flops_window = 3,
                                       .window = 16,
                                       .head_flops = 50},
                                      {.weight_bytes = 9000,
                                       .kv_bytes_per_token = 40,
                                       .flops_per_token = 2100,
                                       .attn_flops = 20,
                                       .head_flops = 130}};

/* One row after the other. */
static double plain_flops(const weir_exec_info *x, int32_t from, int32_t to) {
  double sum = 0;
  for (int32_t p = from; p < to; p++)
    sum += (double)(x->flops_per_token + x->attn_flops * (p + 1) +
                    x->attn_flops_window * (p + 1 < x->window ? p + 1 : x->window));
  return sum;
}

static void sums(void **state) {
  (void)state;
  rnd_state = 1;
  for (int i = 0; i < 2000; i++) {
    const int32_t from = (int32_t)rnd(60), to = from + (int32_t)rnd(60);
    for (int t = 0; t < 2; t++)
      assert_true(near(weir_cost_row_flops(&law[t], from, to), plain_flops(&law[t], from, to)));
  }
  assert_true(weir_cost_row_flops(&law[0], 5, 5) == 0 && weir_cost_row_flops(&law[0], 6, 5) == 0);
}

/* ---- what executors are fed ---- */

typedef struct meter {
  weir_exec base;
  weir_exec *inner;
  int32_t tier, steps;
  int64_t rows, answers;
  double flops, head, share; /* of all its sequences */
} meter;

static weir_status submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  meter *m = (meter *)x;
  m->steps++;
  m->rows += b->n_tokens;
  m->answers += b->n_out;
  m->head += (double)b->n_out * (double)x->info.head_flops;
  for (int32_t i = 0; i < b->n_tokens; i++) m->flops += plain_flops(&x->info, b->pos[i], b->pos[i] + 1);
  m->share += 1.0;
  return m->inner->ops->submit(m->inner, b, r, e);
}
static weir_status wait(weir_exec *x, weir_result **done, weir_err *e) {
  meter *m = (meter *)x;
  return m->inner->ops->wait(m->inner, done, e);
}
static void destroy(weir_exec *x) { (void)x; }
static const weir_exec_ops meter_ops = {submit, wait, destroy};

typedef struct bench {
  world w;
  meter m[2];
  int64_t clock_ns;
  weir_engine *engine;
} bench;

static int64_t tick(void *ctx) { return *(int64_t *)ctx += 1000; }

static void bench_open(bench *b, int32_t n_pages) {
  weir_err e = {0};
  world_bare(&b->w);
  b->clock_ns = 1;
  weir_engine_cfg cfg = {.n_tiers = 2,
                         .tokenizer = b->w.tokenizer,
                         .clock = {tick, &b->clock_ns},
                         .max_active = 8,
                         .large_batch = 3,
                         .large_wait_ns = 20000,
                         .prefix_pages = 32};
  for (int t = 0; t < 2; t++) {
    weir_exec *x = fake_exec_create(&(fake_opts){.law = b->w.law,
                                                 .tier = t,
                                                 .n_ctx = 512,
                                                 .n_pages = n_pages,
                                                 .max_tokens = 128,
                                                 .max_seqs = 8,
                                                 .fail_at_step = -1});
    b->m[t] = (meter){.base = {.ops = &meter_ops, .info = x->info}, .inner = x, .tier = t};
    weir_exec_info *i = &b->m[t].base.info;
    const weir_exec_info *l = &law[t];
    i->weight_bytes = l->weight_bytes, i->kv_bytes_per_token = l->kv_bytes_per_token;
    i->flops_per_token = l->flops_per_token, i->attn_flops = l->attn_flops, i->head_flops = l->head_flops;
    i->attn_flops_window = l->attn_flops_window, i->window = l->window;
    cfg.tier[t] = &b->m[t].base;
  }
  if (weir_engine_create(&cfg, &b->engine, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void bench_close(bench *b) {
  weir_engine_destroy(b->engine);
  for (int t = 0; t < 2; t++) b->m[t].inner->ops->destroy(b->m[t].inner);
}

typedef struct told {
  weir_counts counts;
  weir_end end;
  int32_t n_prompt, done;
} told;

static void on_done(void *ctx, const weir_outcome *o) {
  told *x = ctx;
  *x = (told){*o->counts, o->end, o->n_prompt, x->done + 1};
}

static void bench_submit(bench *b, const weir_cascade_cfg *cfg, int32_t n_prompt, int32_t max_new,
                         uint32_t salt, bool pinned, told *out) {
  int32_t prompt[300];
  weir_err e = {0};
  for (int32_t i = 0; i < n_prompt; i++) prompt[i] = (int32_t)((uint32_t)i * 13 + salt) % 280;
  *out = (told){.done = 0};
  const weir_job job = {.prompt = prompt,
                        .n_prompt = n_prompt,
                        .max_new = max_new,
                        .cascade = cfg,
                        .pinned = pinned,
                        .draw = {.temperature = 1, .top_p = 1, .seed = salt},
                        .ignore_eos = true,
                        .on_done = on_done,
                        .ctx = out};
  if (weir_engine_submit(b->engine, &job, NULL, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void bench_run(bench *b) {
  bool busy = true;
  for (int i = 0; busy && i < 100000; i++)
    assert_int_equal(weir_engine_step(b->engine, &busy, NULL), WEIR_OK);
}

static weir_cascade_cfg cfg_of(weir_mode mode, float tau) {
  weir_cascade_cfg cfg;
  weir_err e = {0};
  weir_cascade_opts o = {.mode = mode};
  if (mode != WEIR_MODE_SMALL && mode != WEIR_MODE_LARGE) {
    o.set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    o.threshold = tau;
  }
  if (weir_cascade_cfg_make(&o, &cfg, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return cfg;
}

static int64_t rows_of(const weir_tier_cost *c) {
  int64_t n = 0;
  for (int u = 0; u < WEIR_N_ROW_USES; u++) n += c->rows[u];
  return n;
}

/* The shares of all requests sum to what executors did: nothing is lost, nothing counted twice. */
static void adds_up(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_LARGE,    WEIR_MODE_DEFER,
                                    WEIR_MODE_EXACT, WEIR_MODE_ROLLBACK, WEIR_MODE_SPECULATE};
  for (uint64_t seed = 1; seed <= 30; seed++) {
    static bench b;
    static told out[N_JOBS];
    rnd_state = seed;
    bench_open(&b, seed % 3 == 0 ? 40 : 200); /* with preemptions: what is computed again costs again */
    for (int32_t i = 0; i < N_JOBS; i++) {
      const weir_cascade_cfg cfg = cfg_of(modes[rnd(6)], 0.3f + (float)rnd(200) / 100);
      bench_submit(&b, &cfg, 1 + (int32_t)rnd(150), 1 + (int32_t)rnd(60), rnd(3), rnd(6) == 0, &out[i]);
    }
    bench_run(&b);
    weir_cost sum = {0};
    for (int32_t i = 0; i < N_JOBS; i++) {
      assert_int_equal(out[i].done, 1);
      assert_int_equal(out[i].end, WEIR_END_LENGTH);
      weir_cost_add(&sum, &out[i].counts.cost);
      for (int t = 0; t < 2; t++) {
        const weir_tier_cost *c = &out[i].counts.cost.tier[t];
        assert_int_equal(rows_of(c), out[i].counts.fed[t]);
        assert_true(c->kv_bytes_written == (double)(rows_of(c) * law[t].kv_bytes_per_token));
        assert_true(c->weight_bytes_alone == (double)(out[i].counts.steps[t] * law[t].weight_bytes));
        assert_true(c->weight_bytes <= c->weight_bytes_alone && c->taken_back <= rows_of(c));
        assert_true(c->taken_back_flops <= weir_cost_flops(c));
      }
    }
    const weir_cost engine = weir_engine_get_stats(b.engine).cost;
    assert_memory_equal(&engine.tier[0].rows, &sum.tier[0].rows, sizeof sum.tier[0].rows);
    for (int t = 0; t < 2; t++) {
      assert_int_equal(rows_of(&sum.tier[t]), b.m[t].rows);
      assert_int_equal(sum.tier[t].answers, b.m[t].answers);
      assert_true(near(weir_cost_flops(&sum.tier[t]), b.m[t].flops + b.m[t].head));
      assert_true(near(sum.tier[t].weight_bytes, (double)b.m[t].steps * (double)law[t].weight_bytes));
    }
    bench_close(&b);
  }
}

/* ---- by hand ---- */

/* Alone, mode large: a prompt of 20 in one step, and 4 more steps. It is its own yardstick. */
static void large_by_hand(void **state) {
  (void)state;
  static bench b;
  told x;
  bench_open(&b, 100);
  const weir_cascade_cfg cfg = cfg_of(WEIR_MODE_LARGE, 0);
  bench_submit(&b, &cfg, 20, 5, 1, false, &x);
  bench_run(&b);
  const weir_tier_cost *c = &x.counts.cost.tier[1];
  assert_int_equal(c->rows[WEIR_ROW_PROMPT], 20);
  assert_int_equal(c->rows[WEIR_ROW_DECODE], 4);
  assert_int_equal(c->rows[WEIR_ROW_CATCHUP] + c->rows[WEIR_ROW_JUDGED] + c->taken_back, 0);
  assert_true(c->weight_bytes == 5 * 9000 && c->weight_bytes_alone == 5 * 9000);
  /* 24 rows; positions 1 .. 24 looked at sum to 300; 5 answers */
  assert_true(weir_cost_flops(c) == 24 * 2100 + 300 * 20 + 5 * 130);
  assert_true(c->kv_bytes_written == 24 * 40 && c->kv_bytes_peak == 2 * 16 * 40);
  assert_true(x.counts.cost.large_only_flops == weir_cost_flops(c));
  assert_true(x.counts.cost.large_only_weight_bytes == c->weight_bytes);
  assert_true(weir_cost_flops(&x.counts.cost.tier[0]) == 0);
  bench_close(&b);
}

/* Alone, mode exact with a window of 5 and no gate: drafts, judged rows, what was refused. */
static void exact_by_hand(void **state) {
  (void)state;
  static bench b;
  told x;
  bench_open(&b, 100);
  const weir_cascade_cfg cfg = cfg_of(WEIR_MODE_EXACT, INFINITY);
  bench_submit(&b, &cfg, 20, 40, 2, false, &x);
  bench_run(&b);
  const weir_cost *c = &x.counts.cost;
  assert_true(c->tier[1].rows[WEIR_ROW_JUDGED] > 0 && x.counts.refused > 0);
  /* A window of five tokens takes the large tier one step; the token behind them comes for nothing. */
  assert_true(c->tier[1].weight_bytes_alone < 40.0 * 9000);
  assert_true(c->large_only_weight_bytes == 40.0 * 9000);
  assert_true(c->large_only_flops == plain_flops(&law[1], 0, 59) + 40 * 130);
  /* Rows of refused tokens were fed to both; the small tier had not fed the last one of each draft. */
  assert_true(c->tier[0].taken_back > 0 && c->tier[1].taken_back > 0);
  assert_true(c->tier[1].taken_back <= x.counts.refused);
  bench_close(&b);
}

/* Two requests side by side read the weights once. */
static void shared_by_hand(void **state) {
  (void)state;
  static bench b;
  told x[2];
  bench_open(&b, 100);
  const weir_cascade_cfg cfg = cfg_of(WEIR_MODE_SMALL, 0);
  for (uint32_t i = 0; i < 2; i++) bench_submit(&b, &cfg, 10, 8, i + 1, false, &x[i]);
  bench_run(&b);
  for (int i = 0; i < 2; i++) {
    const weir_tier_cost *c = &x[i].counts.cost.tier[0];
    assert_true(c->weight_bytes == 8 * 1000 / 2.0 && c->weight_bytes_alone == 8 * 1000);
    assert_true(x[i].counts.cost.large_only_weight_bytes == 8 * 9000 / 2.0);
  }
  assert_int_equal(b.m[0].steps, 8);
  bench_close(&b);
}

/* What the prefix cache knows is not paid for, by the yardstick neither. */
static void cached_by_hand(void **state) {
  (void)state;
  static bench b;
  told x;
  bench_open(&b, 100);
  const weir_cascade_cfg cfg = cfg_of(WEIR_MODE_LARGE, 0);
  for (int i = 0; i < 2; i++) {
    bench_submit(&b, &cfg, 40, 3, 5, false, &x);
    bench_run(&b);
  }
  assert_int_equal(x.counts.prefix_hit[1], 32);
  assert_int_equal(x.counts.cost.tier[1].rows[WEIR_ROW_PROMPT], 8);
  assert_true(x.counts.cost.large_only_flops == weir_cost_flops(&x.counts.cost.tier[1]));
  bench_close(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(sums),           cmocka_unit_test(adds_up),
                                     cmocka_unit_test(large_by_hand),  cmocka_unit_test(exact_by_hand),
                                     cmocka_unit_test(shared_by_hand), cmocka_unit_test(cached_by_hand)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
