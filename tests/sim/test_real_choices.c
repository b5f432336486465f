/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of answers and fusion over a real (tiny, random) pair on the CPU, against what its logits say in
 * double precision: how often each answer comes, and which token follows where two models are mixed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "cascade/cascade_conf.h"
#include "golden.h"
#include "serve/engine.h"
#include "serve/pair.h"

enum { MAX_NEW = 24, N_PROMPT = 12, VOCAB = 288, DRAWS = 600, MOST = 8 };

typedef struct out {
  int32_t tok[MAX_NEW], n;
  weir_token_receipt receipt[MAX_NEW];
} out;

typedef struct rig {
  weir_pair *pair;
  weir_engine *engine;
  model one[2]; /* the same models, for their logits */
} rig;

static void on_piece(void *ctx, const weir_piece *p) {
  out *o = ctx;
  o->receipt[o->n] = *p->receipt;
  o->tok[o->n++] = p->receipt->id;
}

static void on_done(void *ctx, const weir_outcome *r) {
  (void)ctx;
  if (r->err) fail_msg("%s", r->err->msg);
}

static void open_rig(rig *g) {
  weir_err e = {0};
  const bool avx2 = have_isa(WEIR_ISA_AVX2);
  const weir_pair_opts o = {.small_path = "tests/vectors/models/pair-small.gguf",
                            .large_path = "tests/vectors/models/pair-large.gguf",
                            .n_threads = 1,
                            .isa = avx2 ? "avx2" : "scalar",
                            .n_ctx = 64,
                            .max_seqs = 8,
                            .max_tokens = 64,
                            .kv_dtype = WEIR_F32};
  if (weir_pair_open(&o, &g->pair, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const weir_engine_cfg cfg = {.n_tiers = 2,
                               .tier = {weir_pair_exec(g->pair, 0), weir_pair_exec(g->pair, 1)},
                               .tokenizer = weir_pair_tokenizer(g->pair),
                               .clock = weir_clock_system(),
                               .max_active = 8,
                               .max_queued = 4 * DRAWS,
                               .large_batch = 8,
                               .prefix_pages = -1};
  if (weir_engine_create(&cfg, &g->engine, &e) != WEIR_OK) fail_msg("%s", e.msg);
  for (int32_t t = 0; t < 2; t++)
    g->one[t] =
        model_open(t ? "pair-large" : "pair-small", avx2 ? WEIR_ISA_AVX2 : WEIR_ISA_SCALAR, 1, WEIR_F32);
}

static void close_rig(rig *g) {
  weir_engine_destroy(g->engine);
  weir_pair_close(g->pair);
  for (int32_t t = 0; t < 2; t++) model_close(&g->one[t]);
}

static void run_all(rig *g) {
  bool busy = true;
  weir_err e = {0};
  while (busy)
    if (weir_engine_step(g->engine, &busy, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void submit(rig *g, const weir_job *job) {
  weir_err e = {0};
  if (weir_engine_submit(g->engine, job, NULL, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static weir_cascade_cfg cfg_of(const weir_cascade_opts *o) {
  weir_cascade_cfg c;
  weir_err e = {0};
  if (weir_cascade_cfg_make(o, &c, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return c;
}

/* The logits behind tok[0..n), and their entropy at temperature 1. */
static double logits_at(rig *g, int32_t tier, const int32_t *tok, int32_t n, double to[VOCAB]) {
  static float l[64 * VOCAB];
  double max = -INFINITY, z = 0, h = 0;
  feed(&g->one[tier], tok, 0, n, straight_pages(), l);
  for (int32_t v = 0; v < VOCAB; v++) {
    to[v] = (double)l[(n - 1) * VOCAB + v];
    max = to[v] > max ? to[v] : max;
  }
  for (int32_t v = 0; v < VOCAB; v++) z += exp(to[v] - max);
  for (int32_t v = 0; v < VOCAB; v++) {
    to[v] -= max + log(z);
    h -= exp(to[v]) * to[v];
  }
  return h;
}

/* Pearson's statistic is below what one run in some ten thousand exceeds; cells of less than 5 go together.
 */
static void expect_law(const char *what, const double *p, const int32_t *count, int32_t cells, int32_t n) {
  double x = 0, rest_p = 0;
  int32_t df = -1, rest = 0;
  for (int32_t i = 0; i < cells; i++) {
    const double want = p[i] * n;
    if (want < 5) {
      rest_p += p[i];
      rest += count[i];
      continue;
    }
    x += (count[i] - want) * (count[i] - want) / want;
    df++;
  }
  if (rest_p * n >= 1) {
    x += (rest - rest_p * n) * (rest - rest_p * n) / (rest_p * n);
    df++;
  } else if (rest > 5) {
    fail_msg("%s: %d draws of what has a share of %g", what, rest, rest_p);
  }
  assert_true(df > 0);
  if (x > df + 4 * sqrt(2 * df) + 4) fail_msg("%s: chi-squared %.1f of %d degrees", what, x, df);
}

/* ---- a restricted draw follows the restricted law ---- */

static const char *const answers[] = {"a", "ab", " the", "on", "one", " and", "abc", "1"};
enum { ANSWERS = sizeof answers / sizeof *answers };

typedef struct spelt {
  int32_t tok[8], n;
} spelt;

/* The share of answer k: at each position the tier that `tau` says draws from the ids that may follow. */
static double share_of(rig *g, const int32_t *prompt, const spelt *all, int32_t k, double temperature,
                       double tau) {
  int32_t tok[N_PROMPT + 8];
  double p = 1;
  memcpy(tok, prompt, N_PROMPT * sizeof *tok);
  for (int32_t at = 0; at <= all[k].n; at++) {
    double l[VOCAB], z = 0, own = 0;
    bool may[VOCAB] = {false}, ends = false, more = false;
    for (int32_t i = 0; i < ANSWERS; i++) {
      if (all[i].n < at || memcmp(all[i].tok, all[k].tok, (size_t)at * sizeof *tok) != 0) continue;
      ends |= all[i].n == at;
      more |= all[i].n > at;
      if (all[i].n > at) may[all[i].tok[at]] = true;
    }
    if (!more) return p;
    for (int32_t v = 0; ends && v < VOCAB; v++)
      may[v] |= weir_tokenizer_is_end(weir_pair_tokenizer(g->pair), v);
    if (logits_at(g, 0, tok, N_PROMPT + at, l) > tau) logits_at(g, 1, tok, N_PROMPT + at, l);
    for (int32_t v = 0; v < VOCAB; v++) {
      if (!may[v]) continue;
      const double w = exp(l[v] / temperature);
      z += w;
      if (at < all[k].n ? v == all[k].tok[at] : weir_tokenizer_is_end(weir_pair_tokenizer(g->pair), v))
        own += w;
    }
    p *= own / z;
    if (at < all[k].n) tok[N_PROMPT + at] = all[k].tok[at];
  }
  return p;
}

static void test_answers_follow_their_law(void **state) {
  (void)state;
  static rig g;
  static out got[6][DRAWS];
  static const struct {
    weir_cascade_opts opts;
    double tau; /* the tier that draws */
    const char *name;
  } ways[] = {
      {{.mode = WEIR_MODE_SMALL}, INFINITY, "small"},
      {{.mode = WEIR_MODE_LARGE}, -1, "large"},
      {{.mode = WEIR_MODE_EXACT}, -1, "exact"},
      {{.mode = WEIR_MODE_DEFER, .set = WEIR_OPT_THRESHOLD}, 0, "defer"},
      {{.mode = WEIR_MODE_SPECULATE, .set = WEIR_OPT_ACCEPT, .accept = WEIR_KEEP_RATIO}, -1, "ratio"},
  };
  enum { WAYS = sizeof ways / sizeof *ways };
  int32_t prompt[N_PROMPT], deferred = 0;
  spelt all[ANSWERS];
  open_rig(&g);
  for (int32_t i = 0; i < N_PROMPT; i++) prompt[i] = (i * 37 + 11) % 280;
  for (int32_t k = 0; k < ANSWERS; k++) {
    weir_tokens ids = {0};
    weir_err e = {0};
    assert_int_equal(
        weir_tokenize(weir_pair_tokenizer(g.pair), answers[k], strlen(answers[k]), false, &ids, &e), WEIR_OK);
    assert_in_range(ids.n, 1, 8);
    memcpy(all[k].tok, ids.id, (size_t)ids.n * sizeof *ids.id);
    all[k].n = ids.n;
    weir_tokens_fini(&ids);
  }
  for (int32_t w = 0; w < WAYS; w++) {
    weir_cascade_opts opts = ways[w].opts;
    double p[ANSWERS], sum = 0, tau = ways[w].tau;
    if (opts.mode == WEIR_MODE_DEFER) { /* between what the first position has and what others have */
      double l[VOCAB];
      opts.threshold = (float)logits_at(&g, 0, prompt, N_PROMPT, l) - 0.02f;
      tau = (double)opts.threshold;
    }
    const weir_cascade_cfg c = cfg_of(&opts);
    int32_t count[ANSWERS] = {0};
    memset(got[w], 0, sizeof got[w]);
    for (int32_t d = 0; d < DRAWS; d++)
      submit(&g, &(weir_job){.prompt = prompt,
                             .n_prompt = N_PROMPT,
                             .max_new = MAX_NEW,
                             .draw = {.temperature = 1.3f, .top_p = 1, .seed = (uint64_t)d + 5, .probe = -1},
                             .cascade = &c,
                             .choices = answers,
                             .n_choices = ANSWERS,
                             .on_piece = on_piece,
                             .on_done = on_done,
                             .ctx = &got[w][d]});
    run_all(&g);
    for (int32_t k = 0; k < ANSWERS; k++) sum += p[k] = share_of(&g, prompt, all, k, (double)1.3f, tau);
    assert_true(fabs(sum - 1) < 1e-6);
    for (int32_t d = 0; d < DRAWS; d++) {
      const out *o = &got[w][d];
      int32_t n = o->n, k = 0;
      if (weir_tokenizer_is_end(weir_pair_tokenizer(g.pair), o->tok[n - 1])) n--;
      while (k < ANSWERS && (all[k].n != n || memcmp(all[k].tok, o->tok, (size_t)n * sizeof *o->tok) != 0))
        k++;
      assert_true(k < ANSWERS);
      count[k]++;
      if (w == 3)
        for (int32_t i = 0; i < o->n; i++) deferred += o->receipt[i].why == WEIR_WHY_DEFERRED;
    }
    expect_law(ways[w].name, p, count, ANSWERS, DRAWS);
  }
  assert_true(deferred >= DRAWS);     /* the first one of each */
  for (int32_t d = 0; d < DRAWS; d++) /* seed for seed */
    assert_true(got[1][d].n == got[2][d].n && !memcmp(got[1][d].tok, got[2][d].tok, sizeof got[1][d].tok));
  close_rig(&g);
}

/* ---- fusion ---- */

/* log p + weight * (log q - log q20) over the small model's 20 likeliest, a bias beside it. */
static void fused_at(rig *g, const int32_t *tok, int32_t n, double weight, const weir_bias *bias,
                     double to[VOCAB]) {
  double q[VOCAB];
  bool taken[VOCAB] = {false};
  int32_t best = 0, top[WEIR_TOP_MAX];
  logits_at(g, 1, tok, n, to);
  logits_at(g, 0, tok, n, q);
  for (int32_t i = 0; i < WEIR_TOP_MAX; i++) {
    for (best = 0; taken[best];) best++;
    for (int32_t v = 0; v < VOCAB; v++)
      if (!taken[v] && q[v] > q[best]) best = v;
    taken[best] = true;
    top[i] = best;
  }
  for (int32_t i = 0; i < WEIR_TOP_MAX; i++) to[top[i]] += weight * (q[top[i]] - q[best]);
  if (bias) to[bias->id] += (double)bias->add;
}

static weir_cascade_cfg fusing(weir_mode mode, float tau, float weight) {
  return cfg_of(&(weir_cascade_opts){.mode = mode,
                                     .set = WEIR_OPT_THRESHOLD | WEIR_OPT_FUSION_WEIGHT,
                                     .threshold = tau,
                                     .fusion_weight = weight});
}

static void test_fused_rows(void **state) {
  (void)state;
  static rig g;
  static const float weights[] = {-4, -1, 0.5f, 2, 4};
  enum { PROMPTS = 60, WEIGHTS = sizeof weights / sizeof *weights };
  static out got[PROMPTS][WEIGHTS][2];
  static int32_t prompt[PROMPTS][N_PROMPT];
  weir_bias bias[PROMPTS];
  double worst = 0;
  int32_t moved = 0;
  open_rig(&g);
  srand(3);
  memset(got, 0, sizeof got);
  for (int32_t i = 0; i < PROMPTS; i++) {
    for (int32_t k = 0; k < N_PROMPT; k++) prompt[i][k] = rand() % 280;
    double p[VOCAB];
    fused_at(&g, prompt[i], N_PROMPT, 0, NULL, p);
    bias[i] = (weir_bias){rand() % 280, 3};
    for (int32_t v = 0; v < VOCAB && i % 2; v++)
      if (p[v] > p[bias[i].id]) bias[i] = (weir_bias){v, -3}; /* of what both lists name */
    for (int32_t w = 0; w < WEIGHTS; w++)
      for (int32_t b = 0; b < 2; b++) {
        const weir_cascade_cfg c = fusing(WEIR_MODE_DEFER, 0, weights[w]);
        submit(&g, &(weir_job){.prompt = prompt[i],
                               .n_prompt = N_PROMPT,
                               .max_new = 1,
                               .draw = {.top_p = 1, .probe = -1},
                               .cascade = &c,
                               .penalties = {.bias = &bias[i], .n_bias = b},
                               .on_piece = on_piece,
                               .on_done = on_done,
                               .ctx = &got[i][w][b]});
      }
  }
  run_all(&g);
  for (int32_t i = 0; i < PROMPTS; i++)
    for (int32_t w = 0; w < WEIGHTS; w++)
      for (int32_t b = 0; b < 2; b++) {
        double l[VOCAB], plain[VOCAB];
        int32_t best = 0, own = 0;
        fused_at(&g, prompt[i], N_PROMPT, (double)weights[w], b ? &bias[i] : NULL, l);
        fused_at(&g, prompt[i], N_PROMPT, 0, b ? &bias[i] : NULL, plain);
        for (int32_t v = 1; v < VOCAB; v++) {
          if (l[v] > l[best]) best = v;
          if (plain[v] > plain[own]) own = v;
        }
        assert_int_equal(got[i][w][b].n, 1);
        assert_int_equal(got[i][w][b].receipt[0].why, WEIR_WHY_DEFERRED);
        const double behind = l[best] - l[got[i][w][b].tok[0]];
        worst = behind > worst ? behind : worst;
        moved += best != own;
      }
  print_message("worst row: %.2g nats behind the arg-max in double precision; %d of %d arg-maxes moved\n",
                worst, moved, PROMPTS * WEIGHTS * 2);
  assert_true(worst < 1e-4);
  assert_true(moved > 200);
  close_rig(&g);
}

static void test_fused_draws(void **state) {
  (void)state;
  static rig g;
  static out got[2 * DRAWS];
  int32_t prompt[N_PROMPT], count[VOCAB] = {0};
  double p[VOCAB], z = 0;
  open_rig(&g);
  for (int32_t i = 0; i < N_PROMPT; i++) prompt[i] = (i * 31 + 3) % 280;
  const weir_cascade_cfg c = fusing(WEIR_MODE_DEFER, 0, 1.5f);
  memset(got, 0, sizeof got);
  for (int32_t d = 0; d < 2 * DRAWS; d++)
    submit(&g, &(weir_job){.prompt = prompt,
                           .n_prompt = N_PROMPT,
                           .max_new = 1,
                           .draw = {.temperature = 0.8f, .top_p = 1, .seed = (uint64_t)d, .probe = -1},
                           .cascade = &c,
                           .on_piece = on_piece,
                           .on_done = on_done,
                           .ctx = &got[d]});
  run_all(&g);
  fused_at(&g, prompt, N_PROMPT, 1.5, NULL, p);
  for (int32_t v = 0; v < VOCAB; v++) z += p[v] = exp(p[v] / (double)0.8f);
  for (int32_t v = 0; v < VOCAB; v++) p[v] /= z;
  for (int32_t d = 0; d < 2 * DRAWS; d++) count[got[d].tok[0]]++;
  expect_law("fused", p, count, VOCAB, 2 * DRAWS);
  close_rig(&g);
}

/* Weight 0 is plain deferral, to the bit; another one is not. */
static void test_weight_zero(void **state) {
  (void)state;
  static rig g;
  static out got[3][MOST];
  int32_t prompt[N_PROMPT], other = 0;
  open_rig(&g);
  for (int32_t m = 0; m < 2; m++) {
    const weir_mode mode = m ? WEIR_MODE_ROLLBACK : WEIR_MODE_DEFER;
    for (int32_t w = 0; w < 3; w++) {
      weir_cascade_cfg c = fusing(mode, 2.5f, w == 2 ? 2 : 0);
      if (w == 0)
        c = cfg_of(&(weir_cascade_opts){.mode = mode, .set = WEIR_OPT_THRESHOLD, .threshold = 2.5f});
      memset(got[w], 0, sizeof got[w]);
      for (int32_t i = 0; i < MOST; i++) {
        for (int32_t k = 0; k < N_PROMPT; k++) prompt[k] = (k * 7 + i * 13) % 280;
        submit(&g, &(weir_job){
                       .prompt = prompt,
                       .n_prompt = N_PROMPT,
                       .max_new = MAX_NEW,
                       .draw = {.temperature = (float)(i % 2), .top_p = 1, .seed = (uint64_t)i, .probe = -1},
                       .cascade = &c,
                       .on_piece = on_piece,
                       .on_done = on_done,
                       .ctx = &got[w][i]});
      }
      run_all(&g);
    }
    for (int32_t i = 0; i < MOST; i++) {
      assert_int_equal(got[0][i].n, got[1][i].n);
      for (int32_t k = 0; k < got[0][i].n; k++) {
        const weir_token_receipt *a = &got[0][i].receipt[k], *b = &got[1][i].receipt[k];
        assert_true(a->id == b->id && a->tier == b->tier && a->why == b->why);
        assert_memory_equal(&a->logprob, &b->logprob, sizeof a->logprob);
        assert_memory_equal(&a->entropy, &b->entropy, sizeof a->entropy);
      }
      other += got[0][i].n != got[2][i].n || memcmp(got[0][i].tok, got[2][i].tok, sizeof got[0][i].tok) != 0;
    }
  }
  assert_true(other > MOST / 2);
  close_rig(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_answers_follow_their_law),
      cmocka_unit_test(test_fused_rows),
      cmocka_unit_test(test_fused_draws),
      cmocka_unit_test(test_weight_zero),
  };
  weir_log_set_level(WEIR_LOG_ERROR); /* that the large model alone is faster is no news */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
