/* SPDX-License-Identifier: Apache-2.0 */
/* What two tiers emit under each accept rule, by the op itself: one row drafts, another judges the draft. The
 * pair (draft, what is emitted) has to follow its law, cell by cell: with q and p what the two draw from and
 * m(x) whether x stands, q(x) m(x) on the diagonal and q(x) (1 - m(x)) p(y) everywhere. That is the rule's
 * target and, besides, that a replacement does not depend on what it replaces. By ratio, with s(x) the lesser
 * of 1 and p(x)/q(x) and r what p has above q, it is q(x) s(x) on the diagonal and q(x) (1 - s(x)) r(y): what
 * is emitted follows p, though the drafts come of fewer ids. `--long`: a million pairs a law. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sample_util.h"

enum { N = 10, BATCH = MAX_ROWS };
static int n_pairs = 1 << 13;

typedef struct rule {
  const char *name;
  weir_keep keep;
  float a, b;
} rule;
static const rule rules[] = {{"nll", WEIR_KEEP_NLL, 1.7f, 0},
                             {"v1", WEIR_KEEP_V1, 0.05f, 0},
                             {"v1", WEIR_KEEP_V1, 0.25f, 0},
                             {"v2", WEIR_KEEP_V2, 0.05f, 0},
                             {"v2", WEIR_KEEP_V2, 0.25f, 0},
                             {"v3", WEIR_KEEP_V3, 0.1f, 0},
                             {"v3", WEIR_KEEP_V3, 0.8f, 0},
                             {"typical", WEIR_KEEP_TYPICAL, 0.09f, 0.3f},
                             {"typical", WEIR_KEEP_TYPICAL, 0.5f, 0.9f},
                             {"ratio", WEIR_KEEP_RATIO, N, 0},
                             {"ratio", WEIR_KEEP_RATIO, 3, 0}}; /* a: so many ids are drafted from */
/* Where the knobs end: everything stands, or nothing. */
static const rule ends[] = {{"v1", WEIR_KEEP_V1, 1, 0},           {"v2", WEIR_KEEP_V2, 1, 0},
                            {"v3", WEIR_KEEP_V3, 1, 0},           {"typical", WEIR_KEEP_TYPICAL, 0, 0.3f},
                            {"typical", WEIR_KEEP_TYPICAL, 1, 0}, {"typical", WEIR_KEEP_TYPICAL, 1, 1e9f},
                            {"nll", WEIR_KEEP_NLL, 1e9f, 0},      {"nll", WEIR_KEEP_NLL, -1, 0}};
enum { ALL_STAND = 5, N_RULES = sizeof rules / sizeof *rules, N_ENDS = sizeof ends / sizeof *ends };

typedef struct draw {
  float t, p, m;
  int32_t k;
  bool edited;
} draw;
static const draw draws[] = {{1, 1, 0, 0, false},          {0.6f, 1, 0, 0, false},   {1.5f, 1, 0, 0, true},
                             {1, 1, 0, 4, false},          {1.2f, 0.8f, 0, 0, true}, {1, 1, 0.15f, 0, false},
                             {0.8f, 0.95f, 0.02f, 7, true}};
enum { N_DRAWS = sizeof draws / sizeof *draws };
static const weir_logit_edit edit[] = {{1, 1, -1.5f}, {4, 1.2f, 0}, {7, 1, 0.7f}};

static weir_ask ask_of(const draw *d, uint64_t seed, int32_t pos) {
  weir_ask a = plain_ask(d->t, seed, pos);
  a.top_k = d->k;
  a.top_p = d->p;
  a.min_p = d->m;
  a.edit = edit;
  a.n_edits = d->edited ? (int32_t)(sizeof edit / sizeof *edit) : 0;
  return a;
}

/* What the draft is asked for. */
static weir_ask draft_of(const rule *k, const draw *d, uint64_t seed, int32_t pos, weir_top *law) {
  weir_ask a = ask_of(d, seed, pos);
  if (k->keep != WEIR_KEEP_RATIO) return a;
  if (a.top_k == 0 || a.top_k > (int32_t)k->a) a.top_k = (int32_t)k->a;
  a.tell_law = true;
  a.law = law;
  return a;
}

/* [N] what races, as probabilities. */
static void race_of(const sample_ref *r, double *p) {
  double sum = 0;
  for (int32_t v = 0; v < N; v++) sum += r->w[v];
  for (int32_t v = 0; v < N; v++) p[v] = r->w[v] / sum;
}

/* The verdict is a function of what the row says, and of the redraw where it is a refusal. */
static void decide_again(weir_dev *dev, const float *large, const weir_ask *ask, const weir_row *judged) {
  weir_ask again[BATCH];
  weir_row redrawn[BATCH];
  weir_err e = {0};
  for (int32_t r = 0; r < BATCH; r++) {
    again[r] = ask[r];
    again[r].keep = WEIR_KEEP_NLL;
    again[r].keep_a = -1;
  }
  kern_ok(answer(dev, large, BATCH, N, again, redrawn, &e), &e, "redraw");
  for (int32_t r = 0; r < BATCH; r++) {
    const weir_row *j = &judged[r];
    const double p = exp((double)j->probe_logprob), max = (double)j->p_max, a = (double)ask[r].keep_a;
    bool stands = false;
    switch (ask[r].keep) {
      case WEIR_KEEP_NLL: stands = -(double)j->probe_logprob <= a; break;
      case WEIR_KEEP_V1: stands = exp((double)ask[r].probe_q) >= max - a; break;
      case WEIR_KEEP_V2: stands = p >= (max - a) * (1 - 1e-6); break; /* the row is in floats */
      case WEIR_KEEP_V3: stands = p >= (1 - a) * max * (1 - 1e-6); break;
      case WEIR_KEEP_TYPICAL: stands = p > fmin(a, (double)ask[r].keep_b * exp(-(double)j->entropy)); break;
      default: fail_msg("rule %d", ask[r].keep);
    }
    assert_int_equal(j->token, stands ? ask[r].probe : redrawn[r].token);
  }
}

/* z of the pairs' chi-squared, and the share that stood. */
static double run(weir_dev *dev, const float *small, const float *large, const rule *k, const draw *d,
                  uint64_t seed, double *kept) {
  static int seen[N * N];
  double joint[N * N], q[N], p[N], stand = 0;
  weir_top law[BATCH][WEIR_TOP_MAX];
  weir_ask ask[BATCH];
  weir_row drafted[BATCH], judged[BATCH];
  weir_err e = {0};
  memset(seen, 0, sizeof seen);
  for (int32_t at = 0; at < n_pairs; at += BATCH) {
    for (int32_t r = 0; r < BATCH; r++) {
      ask[r] = draft_of(k, d, seed, at + r, law[r]);
      law[r][0].id = LAW_UNTOLD;
    }
    kern_ok(answer(dev, small, BATCH, N, ask, drafted, &e), &e, "draft");
    for (int32_t r = 0; r < BATCH; r++) {
      ask[r] = ask_of(d, seed, at + r);
      if (k->keep == WEIR_KEEP_RATIO) {
        ask[r].draft = law[r];
        while (ask[r].n_draft < WEIR_TOP_MAX && law[r][ask[r].n_draft].id >= 0) ask[r].n_draft++;
      }
      ask[r].probe = drafted[r].token;
      ask[r].keep = k->keep;
      ask[r].keep_a = k->a;
      ask[r].keep_b = k->b;
      ask[r].probe_q = drafted[r].logprob;
    }
    kern_ok(answer(dev, large, BATCH, N, ask, judged, &e), &e, "judge");
    for (int32_t r = 0; r < BATCH; r++) seen[drafted[r].token * N + judged[r].token]++;
    if (at == 0 && k->keep != WEIR_KEEP_RATIO) decide_again(dev, large, ask, judged);
  }
  sample_ref ref_q, ref_p;
  weir_ask one = draft_of(k, d, seed, 0, NULL);
  sample_ref_make(&ref_q, small, N, &one);
  one = ask_of(d, seed, 0);
  sample_ref_make(&ref_p, large, N, &one);
  race_of(&ref_q, q);
  race_of(&ref_p, p);
  one.keep = k->keep;
  one.keep_a = k->a;
  one.keep_b = k->b;
  double above = 0; /* what p has above q */
  for (int32_t x = 0; x < N; x++) above += fmax(0, p[x] - q[x]);
  for (int32_t x = 0; x < N; x++) {
    if (k->keep == WEIR_KEEP_RATIO) {
      const double s = q[x] > 0 ? fmin(1, p[x] / q[x]) : 0;
      stand += q[x] * s;
      for (int32_t y = 0; y < N; y++)
        joint[x * N + y] = q[x] * ((x == y) * s + (above > 0 ? (1 - s) * fmax(0, p[y] - q[y]) / above : 0));
      continue;
    }
    one.probe = x;
    one.probe_q = (float)log(ref_q.p[x]);
    const double by = sample_ref_keep(&ref_p, &one);
    if (fabs(by) < 1e-5 && q[x] > 0)
      fail_msg("%s %g: token %d is at the threshold", k->name, (double)k->a, x);
    stand += by > 0 ? q[x] : 0;
    for (int32_t y = 0; y < N; y++) joint[x * N + y] = by > 0 ? (x == y ? q[x] : 0) : q[x] * p[y];
  }
  sample_ref_free(&ref_q);
  sample_ref_free(&ref_p);
  *kept = stand;
  int freedom;
  const double x2 = chi_squared(seen, joint, N * N, n_pairs, &freedom);
  if (freedom < 1) return 0;
  const double h = 2.0 / (9 * freedom); /* normal deviate: Wilson and Hilferty 1931 */
  return (cbrt(x2 / freedom) - (1 - h)) / sqrt(h);
}

static void rows_of(kern_rng *rng, float *small, float *large) {
  random_logits(rng, large, N, 1);
  for (int32_t v = 0; v < N; v++) large[v] *= 1.5f, small[v] = large[v] + 0.8f * kern_normal(rng);
  for (int32_t r = 1; r < BATCH; r++) {
    memcpy(small + r * N, small, N * sizeof *small);
    memcpy(large + r * N, large, N * sizeof *large);
  }
}

static void test_laws(void **state) {
  static float small[BATCH * N], large[BATCH * N];
  kern_devs devs;
  kern_rng rng = {61};
  double worst_z = -9;
  int mixed = 0; /* laws of which some drafts stand and some do not */
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < N_RULES * N_DRAWS; i++) {
    const rule *k = &rules[i % N_RULES];
    const draw *d = &draws[i / N_RULES];
    double kept;
    rows_of(&rng, small, large);
    const double z = run(devs.dev[devs.n - 1], small, large, k, d, 700 + (uint64_t)i, &kept);
    if (!(z < 4.5))
      fail_msg("%s %g, draw %d: z %.2f, %.3f stand", k->name, (double)k->a, i / N_RULES, z, kept);
    worst_z = fmax(worst_z, z);
    mixed += kept > 0.05 && kept < 0.95;
  }
  kern_devs_close(&devs);
  print_message("%d laws of %d pairs: worst z %.2f (bound 4.5); in %d some drafts stand and some do not\n",
                N_RULES * N_DRAWS, n_pairs, worst_z, mixed);
  assert_true(mixed >= N_RULES * N_DRAWS * 2 / 3);
}

static void test_ends(void **state) {
  static float small[BATCH * N], large[BATCH * N];
  kern_devs devs;
  kern_rng rng = {62};
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < N_ENDS; i++) {
    double kept;
    rows_of(&rng, small, large);
    const double z = run(devs.dev[0], small, large, &ends[i], &draws[i % N_DRAWS], 900 + (uint64_t)i, &kept);
    const double want = i < ALL_STAND || ends[i].a > 1e6f ? 1 : 0;
    if (!(z < 4.5) || fabs(kept - want) > 1e-12)
      fail_msg("%s %g: z %.2f, %g stand, want %g", ends[i].name, (double)ends[i].a, z, kept, want);
  }
  kern_devs_close(&devs);
}

/* The test sees a difference: replacements that shared the noise of the draft would not pass. */
static void test_not_any_law(void **state) {
  static float small[BATCH * N], large[BATCH * N];
  kern_devs devs;
  kern_rng rng = {63};
  int seen[N * N] = {0}, freedom;
  double joint[N * N], q[N], p[N];
  weir_ask ask[BATCH];
  weir_row drafted[BATCH], own[BATCH];
  weir_err e = {0};
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  rows_of(&rng, small, large);
  for (int32_t at = 0; at < n_pairs; at += BATCH) {
    for (int32_t r = 0; r < BATCH; r++) ask[r] = ask_of(&draws[0], 5, at + r);
    kern_ok(answer(devs.dev[0], small, BATCH, N, ask, drafted, &e), &e, "draft");
    kern_ok(answer(devs.dev[0], large, BATCH, N, ask, own, &e), &e, "own");
    for (int32_t r = 0; r < BATCH; r++) seen[drafted[r].token * N + own[r].token]++;
  }
  sample_ref a, b;
  sample_ref_make(&a, small, N, &ask[0]);
  sample_ref_make(&b, large, N, &ask[0]);
  race_of(&a, q);
  race_of(&b, p);
  for (int32_t x = 0; x < N * N; x++) joint[x] = q[x / N] * p[x % N];
  const double x2 = chi_squared(seen, joint, N * N, n_pairs, &freedom);
  assert_true((x2 - freedom) / sqrt(2.0 * freedom) > 10);
  sample_ref_free(&a);
  sample_ref_free(&b);
  kern_devs_close(&devs);
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (!strcmp(argv[i], "--long")) n_pairs = 1 << 20;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_laws), cmocka_unit_test(test_ends),
                                     cmocka_unit_test(test_not_any_law)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
