/* SPDX-License-Identifier: Apache-2.0 */
/* The engine over a real (tiny, random) pair of models on the CPU: modes equal the single models they must
 * equal, and a tier that caught up late, in chunks, in company, after roll-backs and preemptions holds the
 * same KV, to the bit, as one that was fed everything at once. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cascade/cascade_conf.h"
#include "serve/engine.h"
#include "serve/pair.h"
#include "step/batch.h"

enum { JOBS = 6, MAX_NEW = 40, MAX_PROMPT = 120, N_CTX = 256 };

typedef struct out {
  int32_t tok[MAX_NEW], n, done;
  weir_token_receipt receipt[MAX_NEW];
  weir_end end;
} out;

/* KV in Q8_0 wants heads of whole blocks, which the tiny pair does not have: then the one that comes with
 * weir. */
static weir_pair *open_pair(int32_t max_tokens, weir_dtype kv) {
  weir_pair *p;
  weir_err e = {0};
  const bool demo = kv == WEIR_Q8_0;
  const weir_pair_opts o = {
      .small_path = demo ? "models/weir-demo-small-Q8_0.gguf" : "tests/vectors/models/pair-small.gguf",
      .large_path = demo ? "models/weir-demo-large-Q8_0.gguf" : "tests/vectors/models/pair-large.gguf",
      .n_threads = 2,
      .n_ctx = N_CTX,
      .max_seqs = JOBS,
      .max_tokens = max_tokens,
      .kv_dtype = kv};
  if (weir_pair_open(&o, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return p;
}

static void on_piece(void *ctx, const weir_piece *p) {
  out *o = ctx;
  assert_int_equal(p->index, o->n);
  o->receipt[o->n] = *p->receipt;
  o->tok[o->n++] = p->receipt->id;
}
static void on_done(void *ctx, const weir_outcome *r) {
  out *o = ctx;
  o->done++;
  o->end = r->end;
  if (r->err) fail_msg("%s", r->err->msg);
}

typedef struct prompt {
  int32_t tok[MAX_PROMPT], n;
  weir_ask draw;
} prompt;

static void random_prompts(prompt *p, uint32_t seed, bool greedy) {
  srand(seed);
  for (int32_t j = 0; j < JOBS; j++) {
    p[j].n = 1 + rand() % MAX_PROMPT;
    for (int32_t i = 0; i < p[j].n; i++) p[j].tok[i] = i < 40 && j > 2 ? (i * 37 + 5) % 280 : rand() % 280;
    p[j].draw =
        (weir_ask){.temperature = greedy ? 0 : 1, .top_p = 1, .seed = seed * 10 + (uint32_t)j, .probe = -1};
    if (!greedy && j % 3 == 1) p[j].draw.top_k = 20;
    if (!greedy && j % 3 == 2) {
      p[j].draw.temperature = 1.3f;
      p[j].draw.top_p = 0.9f;
      p[j].draw.min_p = 0.02f;
    }
  }
}

static weir_cascade_cfg mode_cfg(weir_mode mode, float tau) {
  weir_cascade_cfg c;
  weir_err e = {0};
  weir_cascade_opts o = {.mode = mode};
  if (mode != WEIR_MODE_SMALL && mode != WEIR_MODE_LARGE) {
    o.set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    o.threshold = tau;
  }
  if (weir_cascade_cfg_make(&o, &c, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return c;
}

static void run(weir_pair *p, const prompt *in, weir_mode mode, float tau, out *o, int32_t active) {
  weir_engine *g;
  weir_err e = {0};
  const weir_engine_cfg cfg = {.n_tiers = 2,
                               .tier = {weir_pair_exec(p, 0), weir_pair_exec(p, 1)},
                               .tokenizer = weir_pair_tokenizer(p),
                               .clock = weir_clock_system(),
                               .max_active = active,
                               .large_batch = 2,
                               .large_wait_ns = 1000000,
                               .prefix_pages = -1};
  if (weir_engine_create(&cfg, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const weir_cascade_cfg c = mode_cfg(mode, tau);
  for (int32_t j = 0; j < JOBS; j++) {
    o[j] = (out){0};
    const weir_job job = {.prompt = in[j].tok,
                          .n_prompt = in[j].n,
                          .max_new = MAX_NEW,
                          .draw = in[j].draw,
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

static void expect_same(const out *a, const out *b, const char *what) {
  for (int32_t j = 0; j < JOBS; j++) {
    if (a[j].n != b[j].n) fail_msg("%s: job %d: %d tokens against %d", what, j, a[j].n, b[j].n);
    for (int32_t i = 0; i < a[j].n; i++)
      if (a[j].tok[i] != b[j].tok[i])
        fail_msg("%s: job %d: token %d: %d against %d", what, j, i, a[j].tok[i], b[j].tok[i]);
  }
}

static void test_modes_equal_single_models(void **state) {
  (void)state;
  static out small[JOBS], large[JOBS], other[JOBS];
  int32_t differ = 0;
  for (uint32_t round = 0; round < 8; round++) { /* the last ones with KV in Q8_0 */
    const weir_dtype kv = round < 6 ? WEIR_F16 : WEIR_Q8_0;
    prompt in[JOBS];
    random_prompts(in, round + 1, round % 2 == 0);
    weir_pair *wide = open_pair(256, kv), *narrow = open_pair(7, kv);
    run(wide, in, WEIR_MODE_SMALL, 0, small, JOBS);
    run(wide, in, WEIR_MODE_LARGE, 0, large, JOBS);
    run(narrow, in, WEIR_MODE_DEFER, INFINITY, other, 3);
    expect_same(other, small, "defer at tau = inf against small");
    run(narrow, in, WEIR_MODE_DEFER, -1, other, 1);
    expect_same(other, large, "defer at tau < 0 against large");
    run(wide, in, WEIR_MODE_EXACT, INFINITY, other, JOBS);
    expect_same(other, large, "exact against large");
    run(narrow, in, WEIR_MODE_EXACT, 1.5f, other, 4);
    expect_same(other, large, "exact with an early stop against large");
    for (int32_t j = 0; j < JOBS; j++)
      differ += small[j].n != large[j].n || memcmp(small[j].tok, large[j].tok, sizeof small[j].tok);
    weir_pair_close(wide);
    weir_pair_close(narrow);
  }
  assert_true(differ > 0); /* else the comparisons above compare nothing */
}

/* Rows of both tiers at every generated position of a finished text, each tier fed the whole in one go. */
static void whole(weir_pair *p, const prompt *in, const out *o, weir_row rows[2][MAX_NEW]) {
  int32_t tok[MAX_PROMPT + MAX_NEW], page[N_CTX / 16];
  memcpy(tok, in->tok, (size_t)in->n * sizeof *tok);
  memcpy(tok + in->n, o->tok, (size_t)o->n * sizeof *tok);
  for (int32_t i = 0; i < N_CTX / 16; i++) page[i] = i;
  const int32_t n = in->n + o->n - 1; /* the last token is decided, not fed */
  for (int32_t t = 0; t < 2; t++) {
    weir_err e = {0};
    weir_batch_builder b;
    weir_exec *x = weir_pair_exec(p, t);
    assert_int_equal(weir_batch_builder_init(&b, 256, 1, N_CTX / 16, 1, &e), WEIR_OK);
    weir_batch_add(&b, &(weir_batch_seq){tok, 0, n, page, (n + 15) / 16});
    for (int32_t i = in->n - 1; i < n; i++) {
      weir_ask *a = weir_batch_ask(&b, i);
      *a = in->draw;
      a->pos = i + 1;
      a->probe = -1;
    }
    const weir_batch batch = weir_batch_get(&b);
    weir_result r = {.row = rows[t]}, *done;
    if (x->ops->submit(x, &batch, &r, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (x->ops->wait(x, &done, &e) != WEIR_OK || done->status != WEIR_OK) fail_msg("%s %s", e.msg, r.err.msg);
    weir_batch_builder_fini(&b);
  }
}

static void test_catch_up_is_always_on(void **state) {
  (void)state;
  static out got[JOBS];
  const float taus[] = {0.8f, 1.5f, 2.5f};
  int32_t by[2] = {0};
  for (uint32_t round = 0; round < 12; round++) {
    const weir_dtype kv = round < 9 ? WEIR_F16 : WEIR_Q8_0;
    const float tau = taus[round % 3];
    prompt in[JOBS];
    random_prompts(in, round + 50, round % 2 == 0);
    weir_pair *p = open_pair(round % 2 ? 11 : 256, kv), *fresh = open_pair(256, kv);
    run(p, in, WEIR_MODE_DEFER, tau, got, 1 + (int32_t)round % JOBS);
    for (int32_t j = 0; j < JOBS; j++) {
      weir_row rows[2][MAX_NEW];
      whole(fresh, &in[j], &got[j], rows);
      for (int32_t i = 0; i < got[j].n; i++) {
        const weir_token_receipt *r = &got[j].receipt[i];
        const int32_t tier = rows[0][i].entropy > tau;
        if (memcmp(&r->entropy, &rows[0][i].entropy, sizeof r->entropy) != 0)
          fail_msg("round %u job %d token %d: entropy %.9g, alone %.9g", round, j, i, (double)r->entropy,
                   (double)rows[0][i].entropy);
        assert_int_equal(r->tier, tier);
        assert_int_equal(r->id, rows[tier][i].token);
        if (memcmp(&r->logprob, &rows[tier][i].logprob, sizeof r->logprob) != 0)
          fail_msg("round %u job %d token %d: tier %d log p %.9g, alone %.9g", round, j, i, tier,
                   (double)r->logprob, (double)rows[tier][i].logprob);
        by[tier]++;
      }
    }
    weir_pair_close(p);
    weir_pair_close(fresh);
  }
  assert_true(by[0] > 200 && by[1] > 200);
}

/* Heads of 16 are no whole blocks of Q8_0. */
static void test_kv_that_is_refused(void **state) {
  (void)state;
  weir_pair *p;
  weir_err e = {0};
  const weir_pair_opts o = {.small_path = "tests/vectors/models/pair-small.gguf",
                            .n_threads = 1,
                            .max_seqs = 1,
                            .kv_dtype = WEIR_Q8_0};
  assert_int_equal(weir_pair_open(&o, &p, &e), WEIR_EUNSUP);
  assert_non_null(strstr(e.msg, "blocks of 32, not of 16"));
}

/* Memory of the CPU device is there when it is touched: what can never be had is refused before. */
static void test_kv_beyond_memory(void **state) {
  (void)state;
  weir_pair *p;
  weir_err e = {0};
  weir_pair_opts o = {.small_path = "tests/vectors/models/pair-small.gguf",
                      .large_path = "tests/vectors/models/pair-large.gguf",
                      .n_threads = 1,
                      .max_seqs = 1,
                      .kv_tokens = 2000000000,
                      .kv_dtype = WEIR_F32};
  if (weir_memory_available() < 0 || weir_memory_available() > (int64_t)1 << 39) skip();
  assert_int_equal(weir_pair_open(&o, &p, &e), WEIR_ENOMEM);
  if (!strstr(e.msg, "the machine has room for the KV of ")) fail_msg("%s", e.msg);
  assert_null(p);
  o.kv_tokens = 4096; /* and what can is not */
  if (weir_pair_open(&o, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_pair_close(p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_kv_that_is_refused),
      cmocka_unit_test(test_kv_beyond_memory),
      cmocka_unit_test(test_modes_equal_single_models),
      cmocka_unit_test(test_catch_up_is_always_on),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
