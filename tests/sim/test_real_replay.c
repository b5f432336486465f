/* SPDX-License-Identifier: Apache-2.0 */
/* Replays against the engine, on the pair in models/: what a replay of a trace says of tokens, of who wrote
 * them and of what the gate saw is what the engine does, as far as a replay is exact. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "calibrate/replay.h"
#include "cascade/cascade_conf.h"
#include "programs/calibrate_log.h"
#include "run/exec_local.h"
#include "serve/engine.h"
#include "serve/pair.h"

enum { MAX_NEW = 48, MAX_PROMPT = 200, N_CTX = 256, JOBS = 10 };

static const char *const prompts[JOBS] = {
    "Question: Ann has 12 coins. Ben gives Ann 7 more coins. How many coins does Ann have now?\nAnswer:",
    "Question: Work out step by step, left to right: 47 + 38 - 26\nAnswer:",
    "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:",
    "Question: Sort these numbers in ascending order: 14, 3, 27, 9, 41\nAnswer:",
    "Question: What date is 12 days after 2014-03-25 (Tuesday)?\nAnswer:",
    "Question: Work out step by step, left to right: 43 + 32 - 28\nAnswer:",
    "Question: Sort these numbers in ascending order: 88, 61, 5, 70, 33, 12\nAnswer:",
    "Question: Convert 3 hours and 48 minutes to minutes.\nAnswer:",
    "Question: Work out step by step, left to right: 91 - 17 + 66 - 9\nAnswer:",
    "Question: What date is 30 days after 2019-11-02 (Saturday)?\nAnswer:"};

typedef struct out {
  int32_t n, done;
  weir_token_receipt receipt[MAX_NEW];
  weir_counts counts;
} out;

static void on_piece(void *ctx, const weir_piece *p) {
  out *o = ctx;
  o->receipt[o->n++] = *p->receipt;
}

static void on_done(void *ctx, const weir_outcome *r) {
  out *o = ctx;
  o->done++;
  o->counts = *r->counts;
  if (r->err) fail_msg("%s", r->err->msg);
}

typedef struct world {
  weir_pair *pair;
  int32_t tok[JOBS][MAX_PROMPT + MAX_NEW], n_prompt[JOBS];
  weir_ask draw;
  out large[JOBS];
  weir_trace trace;
} world;

static weir_pair *open_pair(const char *small, const char *large, int32_t max_tokens) {
  weir_pair *p;
  weir_err e = {0};
  const weir_pair_opts o = {.small_path = small,
                            .large_path = large,
                            .n_threads = 2,
                            .n_ctx = N_CTX,
                            .max_seqs = 4,
                            .max_tokens = max_tokens,
                            .kv_dtype = WEIR_F16};
  if (weir_pair_open(&o, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return p;
}

static void run(world *w, const weir_cascade_opts *opts, out *o) {
  weir_engine *g;
  weir_err e = {0};
  weir_cascade_cfg c;
  const weir_engine_cfg cfg = {.n_tiers = 2,
                               .tier = {weir_pair_exec(w->pair, 0), weir_pair_exec(w->pair, 1)},
                               .tokenizer = weir_pair_tokenizer(w->pair),
                               .clock = weir_clock_system(),
                               .max_active = 4,
                               .large_batch = 2,
                               .large_wait_ns = 1000000,
                               .prefix_pages = 0};
  if (weir_cascade_cfg_make(opts, &c, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_engine_create(&cfg, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  for (int32_t j = 0; j < JOBS; j++) {
    o[j] = (out){0};
    const weir_job job = {.prompt = w->tok[j],
                          .n_prompt = w->n_prompt[j],
                          .max_new = MAX_NEW,
                          .draw = w->draw,
                          .cascade = &c,
                          .on_piece = on_piece,
                          .on_done = on_done,
                          .ctx = &o[j]};
    if (weir_engine_submit(g, &job, NULL, &e) != WEIR_OK) fail_msg("%s", e.msg);
  }
  bool busy = true;
  while (busy)
    if (weir_engine_step(g, &busy, &e) != WEIR_OK) fail_msg("%s", e.msg);
  for (int32_t j = 0; j < JOBS; j++) assert_int_equal(o[j].done, 1);
  weir_engine_destroy(g);
}

/* A head that nobody fitted: what counts is that the engine's scores are those of the trace. */
static void set_head(world *w) {
  weir_err e = {0};
  weir_gate_head h = {.bias = -0.3F, .stat_weight = {[WEIR_STAT_ENTROPY] = 1.5F}};
  weir_exec *small = weir_pair_exec(w->pair, 0);
  assert_int_equal(weir_exec_local_hidden(small, NULL, NULL, NULL, &h.dim, &e), WEIR_OK);
  h.weight = calloc((size_t)h.dim, sizeof(float));
  for (int32_t i = 0; i < h.dim; i++) h.weight[i] = 0.05F * (float)((i * 7 + 3) % 11 - 5);
  if (weir_exec_local_set_gate(small, &h, &e) != WEIR_OK) fail_msg("%s", e.msg);
  free(h.weight);
}

static void open_world(world *w, bool demo, int32_t max_tokens, float temperature) {
  const weir_cascade_opts large = {.mode = WEIR_MODE_LARGE};
  weir_err e = {0};
  weir_log_text text[JOBS];
  int64_t differs;
  memset(w, 0, sizeof *w);
  w->pair =
      demo ? open_pair("models/weir-demo-small-Q8_0.gguf", "models/weir-demo-large-Q8_0.gguf", max_tokens)
           : open_pair("tests/vectors/models/pair-small.gguf", "tests/vectors/models/pair-large.gguf",
                       max_tokens);
  set_head(w);
  w->draw =
      (weir_ask){.temperature = temperature, .top_p = temperature > 0 ? 0.95F : 1, .seed = 11, .probe = -1};
  for (int32_t j = 0; j < JOBS; j++) {
    weir_tokens t = {0};
    if (weir_tokenize(weir_pair_tokenizer(w->pair), prompts[j], strlen(prompts[j]), 0, &t, &e) != WEIR_OK)
      fail_msg("%s", e.msg);
    assert_true(t.n > 0);
    w->n_prompt[j] = t.n < MAX_PROMPT ? t.n : MAX_PROMPT;
    memcpy(w->tok[j], t.id, (size_t)w->n_prompt[j] * sizeof(int32_t));
    weir_tokens_fini(&t);
  }
  run(w, &large, w->large);
  for (int32_t j = 0; j < JOBS; j++) {
    for (int32_t i = 0; i < w->large[j].n; i++) w->tok[j][w->n_prompt[j] + i] = w->large[j].receipt[i].id;
    text[j] = (weir_log_text){w->tok[j], w->n_prompt[j], w->large[j].n};
  }
  const weir_log_how how = {.small = weir_pair_exec(w->pair, 0),
                            .large = weir_pair_exec(w->pair, 1),
                            .tokenizer = weir_pair_tokenizer(w->pair),
                            .draw = w->draw,
                            .prompts = true};
  assert_int_equal(weir_trace_init(&w->trace, JOBS, &e), WEIR_OK);
  if (weir_trace_log(&how, text, JOBS, &w->trace, &differs, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(differs, 0); /* on a CPU the second reading is the first, to the bit */
}

static void close_world(world *w) {
  weir_trace_fini(&w->trace);
  weir_pair_close(w->pair);
}

static bool same_float(float a, float b) { return (isnan(a) && isnan(b)) || a == b; }

typedef struct tally {
  int32_t exact, whole, parted, deferred, replaced, kept;
} tally;

static void compare(world *w, const weir_cascade_opts *opts, const char *what, tally *sum) {
  static out got[JOBS];
  weir_replay_scratch s = {0};
  weir_cascade_cfg c;
  weir_err e = {0};
  run(w, opts, got);
  assert_int_equal(weir_cascade_cfg_make(opts, &c, &e), WEIR_OK);
  for (int32_t j = 0; j < JOBS; j++) {
    const weir_trace_text *x = &w->trace.text[j];
    const weir_replay_how how = {.cfg = &c};
    weir_replay r;
    if (weir_replay_text(x, w->draw.temperature, &how, &s, &r, &e) != WEIR_OK)
      fail_msg("%s: %s", what, e.msg);
    assert_int_equal(r.n, x->n);
    assert_true(r.exact_to >= 0 && r.exact_to <= r.n && r.first_other <= r.n);
    if (got[j].n < r.exact_to)
      fail_msg("%s: job %d: %d tokens, %d are foretold", what, j, got[j].n, r.exact_to);
    for (int32_t i = 0; i < r.exact_to; i++) {
      const weir_receipt *mine = &s.receipt[x->n_prompt + i];
      const weir_token_receipt *its = &got[j].receipt[i];
      if (s.tok[x->n_prompt + i] != its->id)
        fail_msg("%s: job %d: token %d of %d: %d foretold, %d written", what, j, i, r.exact_to,
                 s.tok[x->n_prompt + i], its->id);
      if (mine->tier != its->tier || mine->why != (uint8_t)its->why)
        fail_msg("%s: job %d: token %d: %s by tier %d foretold, %s by tier %d", what, j, i,
                 weir_why_name((weir_why)mine->why), mine->tier, weir_why_name(its->why), its->tier);
      if (!same_float(mine->entropy, its->entropy) || !same_float(mine->tau, its->tau))
        fail_msg("%s: job %d: token %d: entropy %g and threshold %g foretold, %g and %g seen", what, j, i,
                 (double)mine->entropy, (double)mine->tau, (double)its->entropy, (double)its->tau);
      sum->deferred += mine->why == WEIR_WHY_DEFERRED;
      sum->replaced += mine->why == WEIR_WHY_REPLACED;
      sum->kept += mine->why == WEIR_WHY_KEPT;
    }
    sum->exact += r.exact_to;
    sum->whole += r.first_other == r.n;
    sum->parted += r.first_other < r.n;
    if (r.first_other == r.n) {
      /* the text stays the large model's, and where nothing is judged so do all steps */
      if (got[j].n != r.n) fail_msg("%s: job %d: %d tokens foretold, %d written", what, j, r.n, got[j].n);
      for (int t = 0; t < 2 && opts->mode == WEIR_MODE_DEFER; t++) {
        if (got[j].counts.fed[t] != r.rows[t])
          fail_msg("%s: job %d: tier %d: %lld rows foretold, %lld fed", what, j, t, (long long)r.rows[t],
                   (long long)got[j].counts.fed[t]);
        assert_int_equal(got[j].counts.by_tier[1], r.by_large);
      }
    } else if (r.exact_to == r.first_other + 1) {
      assert_int_equal(got[j].receipt[r.first_other].id, x->row[r.first_other].q_token);
      assert_int_not_equal(got[j].receipt[r.first_other].id, x->row[r.first_other].p_token);
    }
  }
  weir_replay_scratch_fini(&s);
}

static const struct setting {
  const char *name;
  weir_cascade_opts o;
  bool lossless, greedy; /* greedy: at temperature 0 alone */
} settings[] = {
#define GATED WEIR_OPT_GATE | WEIR_OPT_THRESHOLD
    {"small", {.mode = WEIR_MODE_SMALL}, false, false},
    {"large", {.mode = WEIR_MODE_LARGE}, true, false},
    {"defer 0.05", {.mode = WEIR_MODE_DEFER, .set = GATED, .threshold = 0.05F}, false, false},
    {"defer 0.5", {.mode = WEIR_MODE_DEFER, .set = GATED, .threshold = 0.5F}, false, false},
    {"defer 1.5", {.mode = WEIR_MODE_DEFER, .set = GATED, .threshold = 1.5F}, false, false},
    {"defer top-prob",
     {.mode = WEIR_MODE_DEFER, .set = GATED, .gate = WEIR_GATE_TOP_PROB, .threshold = 0.8F},
     false,
     false},
    {"defer margin",
     {.mode = WEIR_MODE_DEFER, .set = GATED, .gate = WEIR_GATE_MARGIN, .threshold = 0.3F},
     false,
     false},
    {"defer chance",
     {.mode = WEIR_MODE_DEFER, .set = GATED, .gate = WEIR_GATE_CHANCE, .threshold = 0.3F},
     false,
     false},
    {"defer head",
     {.mode = WEIR_MODE_DEFER, .set = GATED, .gate = WEIR_GATE_HEAD, .threshold = 0.45F},
     false,
     false},
    {"defer hold 3",
     {.mode = WEIR_MODE_DEFER, .set = GATED | WEIR_OPT_HOLD, .threshold = 0.3F, .hold = 3},
     false,
     false},
    {"rollback 0.5", {.mode = WEIR_MODE_ROLLBACK, .set = GATED, .threshold = 0.5F}, false, false},
    {"rollback 1, nll 1",
     {.mode = WEIR_MODE_ROLLBACK, .set = GATED | WEIR_OPT_ACCEPT_NLL, .threshold = 1, .accept_nll = 1},
     false,
     false},
    {"exact 1", {.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_WINDOW, .window = 1}, true, false},
    {"exact 5", {.mode = WEIR_MODE_EXACT, .set = WEIR_OPT_WINDOW, .window = 5}, true, false},
    {"exact 5, gate", {.mode = WEIR_MODE_EXACT, .set = GATED, .threshold = 0.5F}, true, false},
    {"v3 0.3",
     {.mode = WEIR_MODE_SPECULATE,
      .set = WEIR_OPT_ACCEPT | WEIR_OPT_ACCEPT_ALPHA,
      .accept = WEIR_KEEP_V3,
      .accept_alpha = 0.3F},
     false,
     false},
    {"v3 0.9",
     {.mode = WEIR_MODE_SPECULATE,
      .set = WEIR_OPT_ACCEPT | WEIR_OPT_ACCEPT_ALPHA,
      .accept = WEIR_KEEP_V3,
      .accept_alpha = 0.9F},
     false,
     false},
    {"v2 0.3",
     {.mode = WEIR_MODE_SPECULATE,
      .set = WEIR_OPT_ACCEPT | WEIR_OPT_ACCEPT_ALPHA,
      .accept = WEIR_KEEP_V2,
      .accept_alpha = 0.3F},
     false,
     false},
    {"v1 0.2",
     {.mode = WEIR_MODE_SPECULATE,
      .set = WEIR_OPT_ACCEPT | WEIR_OPT_ACCEPT_ALPHA,
      .accept = WEIR_KEEP_V1,
      .accept_alpha = 0.2F},
     false,
     false},
    {"typical",
     {.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT, .accept = WEIR_KEEP_TYPICAL},
     false,
     false},
    {"typical, by the entropy",
     {.mode = WEIR_MODE_SPECULATE,
      .set = WEIR_OPT_ACCEPT | WEIR_OPT_ACCEPT_EPSILON,
      .accept = WEIR_KEEP_TYPICAL,
      .accept_epsilon = 0.6F},
     false,
     false},
    {"nll", {.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT, .accept = WEIR_KEEP_NLL}, false, false},
    {"ratio", {.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT, .accept = WEIR_KEEP_RATIO}, true, true},
    {"route by the prompt", {.mode = WEIR_MODE_ROUTE, .set = GATED, .threshold = 0.5F}, false, false},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static void compare_all(world *w, tally *sum) {
  for (int i = 0; i < SETTINGS; i++) {
    tally t = {0};
    if (settings[i].greedy && w->draw.temperature > 0) continue;
    compare(w, &settings[i].o, settings[i].name, &t);
    if (settings[i].lossless) assert_int_equal(t.parted, 0);
    sum->exact += t.exact;
    sum->whole += t.whole;
    sum->parted += t.parted;
    sum->deferred += t.deferred;
    sum->replaced += t.replaced;
    sum->kept += t.kept;
  }
}

static void check_tally(const tally *t, const char *what) {
  /* else nothing was compared */
  if (t->exact < 2000 || t->whole < 20 || t->parted < 20 || t->deferred < 100 || t->replaced < 20 ||
      t->kept < 200)
    fail_msg("%s: %d tokens compared, %d texts whole, %d parted, %d deferred, %d replaced, %d kept: too few",
             what, t->exact, t->whole, t->parted, t->deferred, t->replaced, t->kept);
}

static void test_greedy(void **state) {
  static world w;
  tally t = {0};
  (void)state;
  open_world(&w, true, 256, 0);
  compare_all(&w, &t);
  close_world(&w);
  check_tally(&t, "greedy");
}

static void test_sampled(void **state) {
  static world w;
  tally t = {0};
  (void)state;
  open_world(&w, true, 64, 0.8F); /* chunked prompts */
  compare_all(&w, &t);
  close_world(&w);
  check_tally(&t, "sampled");
}

/* The tiny random pair disagrees nearly everywhere: first divergences in the first tokens. */
static void test_random_pair(void **state) {
  static world w;
  tally t = {0};
  (void)state;
  open_world(&w, false, 256, 1);
  compare_all(&w, &t);
  close_world(&w);
  assert_true(t.parted > 20 && t.exact > 500);
}

/* What a trace cannot answer is refused by name. */
static void test_refused(void **state) {
  (void)state;
  weir_trace_row row = {.q_gate = NAN, .q_max = 1, .p_max = 1};
  const weir_trace_text x = {.n_prompt = 3, .n = 1, .row = &row};
  const struct {
    weir_cascade_opts o;
    float temperature;
    const char *says;
  } cases[] = {
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_DEFER_RATE, .defer_rate = 0.1F}, 0, "moves"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_FUSION_WEIGHT, .fusion_weight = 1}, 0, "fusion"},
      {{.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT, .accept = WEIR_KEEP_RATIO}, 0.5F, "ratio"},
      {{.mode = WEIR_MODE_DEFER, .set = GATED, .gate = WEIR_GATE_HEAD, .threshold = 0.5F}, 0, "head"},
      {{.mode = WEIR_MODE_ROUTE}, 0, "prompts"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_replay_scratch s = {0};
    weir_replay r;
    weir_err e = {0};
    weir_cascade_cfg c;
    if (weir_cascade_cfg_make(&cases[i].o, &c, &e) != WEIR_OK) fail_msg("case %zu: %s", i, e.msg);
    const weir_replay_how how = {.cfg = &c};
    assert_int_equal(weir_replay_text(&x, cases[i].temperature, &how, &s, &r, &e), WEIR_EUNSUP);
    if (!strstr(e.msg, cases[i].says)) fail_msg("case %zu: %s", i, e.msg);
    weir_replay_scratch_fini(&s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_greedy),
      cmocka_unit_test(test_sampled),
      cmocka_unit_test(test_random_pair),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
