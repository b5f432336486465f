/* SPDX-License-Identifier: Apache-2.0 */
/* What a cascade emits follows its law: whole texts of up to five tokens over a vocabulary of five, all 3,125
 * of them enumerated with their exact probabilities, against as many runs as the campaign allows, by
 * chi-squared. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fake_request.h"

enum { L = 5, N_PROMPT = 2, CELLS = 3125 };
static long n_runs = 10000;
static double worst;
static int n_laws;

static int32_t cell_of(const int32_t *tok, int32_t n) {
  int32_t c = 0;
  for (int i = N_PROMPT; i < N_PROMPT + L; i++) c = c * FAKE_V + (i < n ? tok[i] : 0);
  return c;
}

/* ---- the law, by enumeration ----
 * phase: drafts since the last token of the large tier; held: tokens it will still write without being asked.
 */

typedef struct law {
  const weir_cascade_cfg *cfg;
  float temperature;
  int32_t top_k;
  double *prob; /* [CELLS] */
} law;

static void enumerate(const law *x, int32_t *tok, int32_t n, int32_t phase, int32_t held, double prob);

static void branch(const law *x, int32_t *tok, int32_t n, const double *w, int32_t phase, int32_t held,
                   double prob) {
  double copy[FAKE_V];
  memcpy(copy, w, sizeof copy);
  for (int v = 0; v < FAKE_V; v++) {
    if (copy[v] <= 0) continue;
    tok[n] = v;
    enumerate(x, tok, n + 1, phase, held, prob * copy[v]);
  }
}

/* Whether the large tier lets v stand: the rules of kernels/row.h as masks over a context's tokens. */
static bool in_mask(const weir_cascade_cfg *g, int32_t ctx, int v) {
  const weir_row *s = fake_stats(2, ctx);
  const double p = fake_raw(2, ctx)[v], q = fake_raw(0, ctx)[v], a = (double)g->keep_a[1],
               max = (double)s->p_max;
  switch (g->keep[1]) {
    case WEIR_KEEP_NLL: return -log(p) <= a;
    case WEIR_KEEP_V1: return q >= max - a;
    case WEIR_KEEP_V2: return p >= max - a;
    case WEIR_KEEP_V3: return p >= (1 - a) * max;
    case WEIR_KEEP_TYPICAL: return p > a || p > (double)g->keep_b[1] * exp(-(double)s->entropy);
    default: return false;
  }
}

static void enumerate(const law *x, int32_t *tok, int32_t n, int32_t phase, int32_t held, double prob) {
  if (fake_ended(tok, n, N_PROMPT, N_PROMPT + L)) {
    x->prob[cell_of(tok, n)] += prob;
    return;
  }
  const weir_cascade_cfg *g = x->cfg;
  const int32_t ctx = fake_context(tok, n), hold = g->hold[1] > 1 ? g->hold[1] - 1 : 0;
  const double *p = fake_law(2, ctx, x->temperature, x->top_k),
               *q = fake_law(0, ctx, x->temperature, x->top_k);
  const bool eager = g->commit_tier == 0;
  const bool draft =
      !held && !weir_gate_defers(g->gate[0], fake_stats(0, ctx)) && (eager || phase < g->window[0]);
  if (fake_is_exact(g)) { /* whoever drafts, and however often */
    branch(x, tok, n, p, 0, 0, prob);
  } else if (!draft) {
    branch(x, tok, n, p, 0, held ? held - 1 : hold, prob);
  } else if (eager || g->keep[1] == WEIR_KEEP_ALL) {
    branch(x, tok, n, q, phase + 1, 0, prob);
  } else { /* a refused token is replaced by an independent draw from p: pi = q m + (1 - sum q m) p */
    double stays[FAKE_V], put[FAKE_V], qm = 0;
    bool m[FAKE_V];
    for (int v = 0; v < FAKE_V; v++) qm += (m[v] = in_mask(g, ctx, v)) ? q[v] : 0;
    for (int v = 0; v < FAKE_V; v++) {
      stays[v] = m[v] ? q[v] : q[v] * p[v]; /* the redraw may come out the same */
      put[v] = (m[v] ? q[v] : 0) + (1 - qm) * p[v] - stays[v];
    }
    branch(x, tok, n, stays, phase + 1, 0, prob);
    branch(x, tok, n, put, 0, hold, prob);
  }
}

/* ---- the runs ---- */

/* Normal deviate of chi-squared (Wilson and Hilferty 1931); cells that expect fewer than 8 are pooled. */
static double z_of(const double *prob, const int32_t *got, long runs) {
  double x = 0, rest_want = 0, rest_got = 0;
  int df = -1;
  for (int i = 0; i < CELLS; i++) {
    const double want = prob[i] * (double)runs;
    if (want < 8) {
      rest_want += want;
      rest_got += got[i];
      continue;
    }
    x += (got[i] - want) * (got[i] - want) / want;
    df++;
  }
  if (rest_want > 1) {
    x += (rest_got - rest_want) * (rest_got - rest_want) / rest_want;
    df++;
  } else if (rest_got > 20) {
    return 99;
  }
  const double h = 2.0 / (9 * df);
  return (cbrt(x / df) - (1 - h)) / sqrt(h);
}

static double run_law(const weir_cascade_cfg *g, const weir_cascade_cfg *claim, float temperature,
                      int32_t top_k) {
  static const fake_chaos some = {3, 3, 30, 0};
  static int32_t got[CELLS];
  static double prob[CELLS];
  static fake_req r;
  static uint64_t seed;
  int32_t tok[FAKE_LONG] = {1, 2};
  const law x = {claim, temperature, top_k, prob};
  memset(got, 0, sizeof got);
  memset(prob, 0, sizeof prob);
  const char *wrong = weir_cascade_cfg_error(g);
  FAKE_CHECK(!wrong, "%s", wrong);
  enumerate(&x, tok, N_PROMPT, 0, 0, 1);
  double sum = 0;
  for (int i = 0; i < CELLS; i++) sum += prob[i];
  FAKE_CHECK(fabs(sum - 1) < 1e-9, "the law adds up to %.12f", sum);
  seed += 1ull << 32;
  for (long i = 0; i < n_runs; i++) {
    const fake_job j = {.cfg = g,
                        .temperature = temperature,
                        .top_k = top_k,
                        .seed = seed + (uint64_t)i,
                        .n_prompt = N_PROMPT,
                        .n_max = N_PROMPT + L};
    fake_seed((uint64_t)i);
    fake_open(&r, &j);
    fake_finish(&r, i % 4 ? &fake_calm : &some);
    got[cell_of(r.tok, r.v.n)]++;
  }
  return z_of(prob, got, n_runs);
}

static void follows(const char *name, const weir_cascade_cfg *g, float temperature, int32_t top_k) {
  fake_case(name, n_laws++);
  memset(&fake_count, 0, sizeof fake_count);
  const double z = run_law(g, g, temperature, top_k);
  print_message("  %-34s T %.1f top-k %d window %-2d tiers %d  z %+5.2f  kept %.3f\n", name,
                (double)temperature, (int)top_k, g->window[0] < WEIR_FAR ? (int)g->window[0] : -1,
                (int)g->n_tiers, z,
                fake_count.judged ? (double)fake_count.kept / (double)fake_count.judged : 0);
  worst = fmax(worst, z);
  FAKE_CHECK(z < 4.5, "z %.2f: not the law it should have", z);
}

static const weir_gate entropy_low = {.kind = WEIR_GATE_ENTROPY, .threshold = 1.1f},
                       entropy_high = {.kind = WEIR_GATE_ENTROPY, .threshold = 1.35f},
                       top_prob = {.kind = WEIR_GATE_TOP_PROB, .threshold = 0.45f},
                       margin = {.kind = WEIR_GATE_MARGIN, .threshold = 0.2f},
                       chance = {.kind = WEIR_GATE_CHANCE, .threshold = 0.4f},
                       open = {.kind = WEIR_GATE_ENTROPY, .threshold = INFINITY};

static void exact(void **state) {
  (void)state;
  static const float temps[] = {0.5f, 1, 1.6f};
  static const int32_t windows[] = {1, 3, 5};
  const weir_gate gates[] = {open, entropy_low, top_prob, margin};
  for (int i = 0; i < 9; i++) {
    weir_cascade_cfg g = fake_verified(2, windows[i % 3], gates[i % 4], WEIR_KEEP_OWN);
    g.hold[1] = i % 2;
    follows("exact", &g, temps[i / 3], 0);
  }
  for (int i = 0; i < 3; i++) {
    weir_cascade_cfg g = fake_verified(2, windows[i], gates[i], WEIR_KEEP_OWN);
    g.hold[1] = 1 + i;
    follows("exact, top-k", &g, temps[2 - i], 2 + i);
  }
  for (int i = 0; i < 4; i++) { /* whatever the middle tier keeps */
    static const weir_keep middle[] = {WEIR_KEEP_ALL, WEIR_KEEP_OWN, WEIR_KEEP_NLL, WEIR_KEEP_NLL};
    weir_cascade_cfg g = fake_verified(3, 1 + i, gates[i], WEIR_KEEP_OWN);
    g.keep[1] = middle[i];
    follows("exact, three tiers", &g, temps[i % 3], i == 2 ? 3 : 0);
  }
}

static void nll(void **state) {
  (void)state;
  static const float temps[] = {0.7f, 1, 1.3f}, limits[] = {0.7f, 1.2f, 2};
  const weir_gate gates[] = {open, entropy_high, top_prob, margin};
  for (int i = 0; i < 9; i++) {
    weir_cascade_cfg g = fake_verified(2, 1 + i % 5, gates[i % 4], WEIR_KEEP_NLL);
    g.keep_a[1] = limits[i % 3];
    follows("nll", &g, temps[i / 3], 0);
  }
  for (int i = 0; i < 3; i++) {
    weir_cascade_cfg g = fake_verified(2, 2 + i, gates[1 + i], WEIR_KEEP_NLL);
    g.hold[1] = i + 1;
    g.horizon = 4; /* not below the window: nothing is shown unjudged */
    follows("nll, hold, top-k", &g, temps[i], i ? 3 : 0);
  }
}

static void rules(void **state) {
  (void)state;
  static const struct {
    weir_keep keep;
    const char *name;
    float a[3], b;
  } rule[] = {{WEIR_KEEP_V1, "v1", {0.05f, 0.2f, 0.5f}, 0},
              {WEIR_KEEP_V2, "v2", {0.05f, 0.2f, 0.5f}, 0},
              {WEIR_KEEP_V3, "v3", {0.1f, 0.5f, 0.9f}, 0},
              {WEIR_KEEP_TYPICAL, "typical", {0.09f, 0.2f, 0.6f}, 0.8f}};
  static const float temps[] = {0.7f, 1, 1.4f};
  const weir_gate gates[] = {open, entropy_high, top_prob, margin};
  for (size_t k = 0; k < sizeof rule / sizeof *rule; k++)
    for (int i = 0; i < 5; i++) {
      weir_cascade_cfg g = fake_verified(2, 1 + (i + (int)k) % 5, gates[i % 4], rule[k].keep);
      g.keep_a[1] = rule[k].a[i % 3];
      g.keep_b[1] = rule[k].b;
      if (i > 2) g.hold[1] = i - 1, g.horizon = 5;
      follows(rule[k].name, &g, temps[(i + (int)k) % 3], i == 4 ? 3 : 0);
    }
}

/* Where the knobs end: all is kept, or nothing, and then each rule is the neighbour's law. */
static void ends(void **state) {
  (void)state;
  static const struct {
    weir_keep keep, claim;
    float a, b;
  } end[] = {{WEIR_KEEP_V1, WEIR_KEEP_ALL, 1, 0},      {WEIR_KEEP_V2, WEIR_KEEP_ALL, 1, 0},
             {WEIR_KEEP_V3, WEIR_KEEP_ALL, 1, 0},      {WEIR_KEEP_TYPICAL, WEIR_KEEP_ALL, 0, 0},
             {WEIR_KEEP_TYPICAL, WEIR_KEEP_ALL, 1, 0}, {WEIR_KEEP_TYPICAL, WEIR_KEEP_OWN, 1, 1e9f}};
  for (size_t i = 0; i < sizeof end / sizeof *end; i++) {
    weir_cascade_cfg g = fake_verified(2, 3, open, end[i].keep);
    const weir_cascade_cfg claim = fake_verified(2, 3, open, end[i].claim);
    g.keep_a[1] = end[i].a;
    g.keep_b[1] = end[i].b;
    fake_case("ends", (long)i);
    const double z = run_law(&g, &claim, 1, 0);
    worst = fmax(worst, z);
    FAKE_CHECK(z < 4.5, "z %.2f", z);
  }
}

/* At temperature 0 and alpha 0, V2 and V3 keep the arg-max alone: the large tier's own text. */
static void greedy_ends(void **state) {
  (void)state;
  static fake_req r;
  static fake_text x;
  for (int i = 0; i < 400; i++) {
    fake_case("greedy ends", i);
    fake_seed((uint64_t)i);
    weir_cascade_cfg g = fake_verified(2, 1 + i % 6, fake_any_gate(), i % 2 ? WEIR_KEEP_V2 : WEIR_KEEP_V3);
    g.keep_a[1] = 0;
    const fake_job j = {.cfg = &g, .seed = (uint64_t)i, .n_prompt = 1 + i % 7, .n_max = 40 + i % 7};
    fake_open(&r, &j);
    fake_finish(&r, &fake_calm);
    fake_alone(&j, 2, &x);
    fake_same_text(&r, &x, "alpha 0");
  }
}

static void trust(void **state) {
  (void)state;
  const weir_gate gates[] = {entropy_low, top_prob, margin, entropy_high, chance};
  const weir_cascade_cfg v = fake_verified(2, 3, entropy_low, WEIR_KEEP_ALL);
  follows("verified, all kept", &v, 1, 0);
  for (int i = 0; i < 5; i++) {
    weir_cascade_cfg g = fake_verified(2, WEIR_FAR, gates[i], WEIR_KEEP_ALL);
    g.commit_tier = 0;
    g.hold[1] = i;
    follows("eager deferral", &g, i == 3 ? 0.7f : 1.2f, i == 4 ? 3 : 0);
  }
}

/* The statistic tells laws apart: nll at 0 keeps nothing and is the large tier's law; at 1.2 it is not. */
static void not_any_law(void **state) {
  (void)state;
  const weir_cascade_cfg p = fake_verified(2, 3, open, WEIR_KEEP_OWN);
  weir_cascade_cfg g = fake_verified(2, 3, open, WEIR_KEEP_NLL);
  fake_case("not any law", 0);
  g.keep_a[1] = 0;
  const double same = run_law(&g, &p, 1, 0);
  g.keep_a[1] = 1.2f;
  const double other = run_law(&g, &p, 1, 0);
  print_message("  nll against the large tier's law: at 0 z %+.2f, at 1.2 z %+.2f\n", same, other);
  FAKE_CHECK(same < 4.5 && other > 10, "z %.2f and %.2f", same, other);
}

int main(int argc, char **argv) {
  if (fake_long(argc, argv)) n_runs = 200000;
  fake_models_make(99);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(exact),       cmocka_unit_test(nll),         cmocka_unit_test(rules),
      cmocka_unit_test(ends),        cmocka_unit_test(greedy_ends), cmocka_unit_test(trust),
      cmocka_unit_test(not_any_law),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  printf("%d laws x %ld runs, largest z %+.2f\n", n_laws, n_runs, worst);
  return failed;
}
