/* SPDX-License-Identifier: Apache-2.0 */
/* Edits of logits and the likeliest ids at their edges, case by case; what they do to random rows and to the
 * frequency of draws is in test_sample.c. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sample_util.h"

#define LN2 0.69314718f
#define BAN WEIR_LOGIT_BAN

/* p = 0.5, 0.25, 0.125, 0.125 */
static const float HALVES[] = {0, -LN2, -2 * LN2, -2 * LN2};
static const float SIGNS[] = {2, 1.5f, -1, -1.5f};
static const float MASKED[] = {-INFINITY, 1, 0.5f, -INFINITY};

/* Greedy answers under edits: the token, and statistics as if there were none. */
static void test_rules(void **state) {
  static const struct {
    const char *name;
    const float *l;
    int32_t probe;
    weir_keep keep;
    float nll;
    int32_t n_edits;
    weir_logit_edit edit[5];
    int32_t want;
  } cases[] = {
      {"ban", HALVES, -1, WEIR_KEEP_ALL, 0, 1, {{0, 1, BAN}}, 1},
      {"ban of two", HALVES, -1, WEIR_KEEP_ALL, 0, 2, {{0, 1, BAN}, {1, 1, BAN}}, 2},
      {"ban beside a bias", HALVES, -1, WEIR_KEEP_ALL, 0, 2, {{0, 1, BAN}, {3, 1, 5}}, 3},
      {"all banned",
       HALVES,
       -1,
       WEIR_KEEP_ALL,
       0,
       4,
       {{0, 1, BAN}, {1, 1, BAN}, {2, 1, BAN}, {3, 1, BAN}},
       0},
      {"a bias that is too small", HALVES, -1, WEIR_KEEP_ALL, 0, 1, {{1, 1, 0.69f}}, 0},
      {"a bias that is enough", HALVES, -1, WEIR_KEEP_ALL, 0, 1, {{1, 1, 0.7f}}, 1},
      {"a tie made by a bias", SIGNS, -1, WEIR_KEEP_ALL, 0, 1, {{1, 1, 0.5f}}, 0},
      {"an edit of padding", HALVES, -1, WEIR_KEEP_ALL, 0, 1, {{5, 1, 100}}, 0},
      {"a repeated likely token", SIGNS, -1, WEIR_KEEP_ALL, 0, 1, {{0, 1.34f, 0}}, 1},
      {"... not enough", SIGNS, -1, WEIR_KEEP_ALL, 0, 1, {{0, 1.33f, 0}}, 0},
      {"scale, then add", SIGNS, -1, WEIR_KEEP_ALL, 0, 1, {{0, 2, 0.6f}}, 0},
      {"repeated tokens of either sign", SIGNS, -1, WEIR_KEEP_ALL, 0, 2, {{0, 10, -1.9f}, {1, 10, -1.9f}}, 2},
      {"a negative logit times the scale",
       SIGNS,
       -1,
       WEIR_KEEP_ALL,
       0,
       3,
       {{0, 1, BAN}, {1, 1, BAN}, {2, 1.6f, 0}},
       3},
      {"a scale below 1 makes likely", SIGNS, -1, WEIR_KEEP_ALL, 0, 1, {{1, 0.7f, 0}}, 1},
      {"a masked id stays out", MASKED, -1, WEIR_KEEP_ALL, 0, 2, {{0, 1, 100}, {3, 0.1f, FLT_MAX}}, 1},
      {"a banned one wins against masked ones",
       MASKED,
       -1,
       WEIR_KEEP_ALL,
       0,
       2,
       {{1, 1, BAN}, {2, 1, -FLT_MAX}},
       1},
      {"... nor joins the lowest",
       MASKED,
       -1,
       WEIR_KEEP_ALL,
       0,
       3,
       {{0, 1, 100}, {1, 1, -FLT_MAX}, {2, 1, -FLT_MAX}},
       1},
      {"beyond the floats", SIGNS, -1, WEIR_KEEP_ALL, 0, 2, {{0, 3e38f, 0}, {1, 1e-38f, 3e38f}}, 1},
      {"two beyond the floats tie",
       SIGNS,
       -1,
       WEIR_KEEP_ALL,
       0,
       2,
       {{0, 1e-38f, 3e38f}, {1, 1e-38f, FLT_MAX}},
       0},
      {"below the floats",
       SIGNS,
       -1,
       WEIR_KEEP_ALL,
       0,
       4,
       {{0, 1, -FLT_MAX}, {1, 1, -FLT_MAX}, {2, 3e38f, -FLT_MAX}, {3, 1, -3e38f}},
       3},
      {"a probe only measured", HALVES, 0, WEIR_KEEP_ALL, 0, 1, {{0, 1, BAN}}, 0},
      {"own: the edited draw replaces", HALVES, 0, WEIR_KEEP_OWN, 0, 1, {{0, 1, BAN}}, 1},
      {"own: the edited draw stands", HALVES, 1, WEIR_KEEP_OWN, 0, 1, {{0, 1, BAN}}, 1},
      {"nll: judged by the raw row, stands", HALVES, 0, WEIR_KEEP_NLL, 0.7f, 1, {{0, 1, BAN}}, 0},
      {"nll: refused by the raw row", HALVES, 3, WEIR_KEEP_NLL, 2, 1, {{3, 1, 1}}, 0},
      {"nll: the edited draw replaces", HALVES, 3, WEIR_KEEP_NLL, 2, 2, {{0, 1, BAN}, {2, 1, 3}}, 2},
  };
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < devs.n; i++)
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
      for (int top_1 = 0; top_1 < 2; top_1++) { /* a top_k of 1 at any temperature is greedy too */
        weir_ask ask = plain_ask(top_1 ? 1.5f : 0, 1, 1), raw;
        weir_row row, plain;
        weir_err e = {0};
        worst w = {0};
        ask.top_k = top_1;
        ask.probe = cases[k].probe;
        ask.keep = cases[k].keep;
        ask.keep_a = cases[k].nll;
        raw = ask;
        raw.probe = cases[k].want;
        raw.keep = WEIR_KEEP_ALL;
        ask.edit = cases[k].edit;
        ask.n_edits = cases[k].n_edits;
        kern_ok(answer(devs.dev[i], cases[k].l, 1, 4, &ask, &row, &e), &e, cases[k].name);
        if (row.token != cases[k].want)
          fail_msg("%s, %s: token %d, want %d", cases[k].name, top_1 ? "top_k 1" : "greedy", row.token,
                   cases[k].want);
        check_row(&row, NULL, &ask, cases[k].l, 4, &w);
        kern_ok(answer(devs.dev[i], cases[k].l, 1, 4, &raw, &plain, &e), &e, cases[k].name);
        if (ask.probe >= 0) plain.probe_logprob = row.probe_logprob;
        kern_same(&row, &plain, sizeof row, cases[k].name);
      }
  kern_devs_close(&devs);
}

/* Drawn from the edits alone: what no edit names is out, and statistics are of the whole row. */
static void test_only_edits(void **state) {
  static const struct {
    const char *name;
    const float *l;
    int32_t n_edits;
    weir_logit_edit edit[3];
    int32_t want; /* greedy; at a temperature too where it is the only one */
  } cases[] = {
      {"one id", HALVES, 1, {{3, 1, 0}}, 3},
      {"the likelier of two", HALVES, 2, {{1, 1, 0}, {2, 1, 0}}, 1},
      {"the lower id of two alike", HALVES, 2, {{2, 1, 0}, {3, 1, 0}}, 2},
      {"shaped before it is compared", HALVES, 2, {{1, 1, -1}, {2, 1, 0}}, 2},
      {"a scale counts", SIGNS, 2, {{0, 4, 0}, {1, 1, 0}}, 1},
      {"a banned one beside another", HALVES, 2, {{0, 1, BAN}, {3, 1, 0}}, 3},
      {"nothing but a banned one", HALVES, 1, {{2, 1, BAN}}, 2},
      {"a masked id is not in the list", MASKED, 2, {{0, 1, 5}, {2, 1, 0}}, 2},
      {"no edit: nothing is out", HALVES, 0, {{0}}, 0},
  };
  enum { DRAWS = MAX_ROWS };
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < devs.n; i++)
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
      for (int hot = 0; hot < 2; hot++) {
        static float l[DRAWS * 4];
        weir_ask ask[DRAWS], free_ask = plain_ask(0, 1, 1);
        weir_row row[DRAWS], plain;
        weir_err e = {0};
        bool seen[4] = {false}, may[4] = {false};
        for (int32_t v = 0; v < cases[k].n_edits; v++) may[cases[k].edit[v].id] = true;
        for (int32_t r = 0; r < DRAWS; r++) {
          memcpy(l + (size_t)r * 4, cases[k].l, sizeof *l * 4);
          ask[r] = plain_ask(hot ? 1.5f : 0, 11, r);
          ask[r].edit = cases[k].edit;
          ask[r].n_edits = cases[k].n_edits;
          ask[r].only_edits = cases[k].n_edits > 0;
        }
        kern_ok(answer(devs.dev[i], l, DRAWS, 4, ask, row, &e), &e, cases[k].name);
        kern_ok(answer(devs.dev[i], cases[k].l, 1, 4, &free_ask, &plain, &e), &e, cases[k].name);
        for (int32_t r = 0; r < DRAWS; r++) {
          const int32_t t = row[r].token;
          if (hot ? cases[k].n_edits > 0 && !may[t] : t != cases[k].want)
            fail_msg("%s%s: token %d", cases[k].name, hot ? ", hot" : "", t);
          seen[t] = true;
          assert_true(row[r].entropy == plain.entropy && row[r].p_max == plain.p_max &&
                      row[r].margin == plain.margin);
        }
        if (hot && k == 1) assert_true(seen[1] && seen[2]); /* both are drawn */
      }
  kern_devs_close(&devs);
}

/* Edits that change nothing leave every bit; so do those of rows beside. */
static void test_no_effect(void **state) {
  enum { N = 9000, ROWS = 6 };
  static float l[ROWS * N];
  static weir_logit_edit off[N + 1], strong[N];
  kern_devs devs;
  kern_rng rng = {31};
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int32_t v = 0; v <= N; v++) off[v] = (weir_logit_edit){v, 1, 0};
  off[N].add = 1000; /* padding */
  for (int32_t v = 0; v < N; v++) strong[v] = (weir_logit_edit){v, 1.5f, v % 3 ? -2 : BAN};
  for (int round = 0; round < 20; round++) {
    weir_ask ask[ROWS], with[ROWS];
    weir_row a[ROWS], b[ROWS];
    weir_err e = {0};
    weir_dev *dev = devs.dev[round % devs.n];
    for (int32_t r = 0; r < ROWS; r++) {
      random_logits(&rng, l + r * N, N, (r + round) % 5);
      with[r] = ask[r] = random_ask(&rng, N);
      with[r].edit = r % 2 ? strong : off;
      with[r].n_edits = r % 2 ? N : N + 1;
    }
    kern_ok(answer(dev, l, ROWS, N, ask, a, &e), &e, "sample");
    kern_ok(answer(dev, l, ROWS, N, with, b, &e), &e, "sample");
    for (int32_t r = 0; r < ROWS; r++) {
      if (r % 2 == 0) kern_same(&b[r], &a[r], sizeof a[r], "row with edits that are off");
      assert_true(a[r].entropy == b[r].entropy && a[r].p_max == b[r].p_max && a[r].margin == b[r].margin);
    }
  }
  kern_devs_close(&devs);
}

/* What is banned is not drawn, at any temperature, as long as something else is there. */
static void test_bans(void **state) {
  enum { N = 5000, BATCH = MAX_ROWS };
  static const float temps[] = {0, 0.5f, 1, 100, 1e6f};
  static float l[BATCH * N];
  static weir_logit_edit edit[N];
  kern_devs devs;
  kern_rng rng = {37};
  bool seen[3] = {false};
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  const int32_t left[] = {7, 4095, 4096};
  int32_t n_edits = 0;
  for (int32_t v = 0; v < N; v++)
    if (v != left[0] && v != left[1] && v != left[2]) edit[n_edits++] = (weir_logit_edit){v, 1, BAN};
  for (size_t t = 0; t < sizeof temps / sizeof *temps; t++)
    for (int cut = 0; cut < 3; cut++) {
      weir_ask ask[BATCH];
      weir_row row[BATCH];
      weir_err e = {0};
      for (int32_t r = 0; r < BATCH; r++) {
        random_logits(&rng, l + r * N, N, 0);
        ask[r] = plain_ask(temps[t], kern_u64(&rng), r);
        ask[r].edit = edit;
        ask[r].n_edits = n_edits;
        if (cut == 1) ask[r].top_k = 40;
        if (cut == 2) ask[r].top_p = 0.95f, ask[r].min_p = 0.01f;
      }
      kern_ok(answer(devs.dev[t % (size_t)devs.n], l, BATCH, N, ask, row, &e), &e, "sample");
      for (int32_t r = 0; r < BATCH; r++) {
        int32_t which = -1;
        for (int i = 0; i < 3; i++)
          if (row[r].token == left[i]) which = i;
        if (which < 0) fail_msg("T %g, cut %d: banned token %d", (double)temps[t], cut, row[r].token);
        seen[which] = true;
      }
    }
  assert_true(seen[0] && seen[1] && seen[2]);
  kern_devs_close(&devs);
}

/* Draws 64 positions of one row and counts whose they were. */
static void count_draws(weir_dev *dev, const float *l, int32_t n, weir_ask ask, int *seen) {
  float *rows = (float *)malloc(sizeof *rows * MAX_ROWS * (size_t)n);
  weir_ask asks[MAX_ROWS];
  weir_row row[MAX_ROWS];
  weir_err e = {0};
  memset(seen, 0, sizeof *seen * (size_t)n);
  for (int32_t r = 0; r < MAX_ROWS; r++) {
    memcpy(rows + (size_t)r * (size_t)n, l, sizeof *l * (size_t)n);
    asks[r] = ask;
    asks[r].pos = r;
  }
  kern_ok(answer(dev, rows, MAX_ROWS, n, asks, row, &e), &e, "sample");
  for (int32_t r = 0; r < MAX_ROWS; r++) seen[row[r].token]++;
  free(rows);
}

/* Ids made equal by their edits share the draws: at the largest float, where a cut takes only the lowest of
 * them, and when all are banned. */
static void test_equals(void **state) {
  enum { N = 9000 };
  static float l[N];
  static int seen[N];
  static weir_logit_edit all[N];
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  const weir_logit_edit beyond[] = {{3, 1e-38f, 3e38f}, {4999, 1, FLT_MAX}};
  const weir_logit_edit tied[] = {{10, 1, 1}, {4100, 0.5f, 0.5f}, {4200, 1, 1}, {8000, 1, 1}};
  for (int32_t v = 0; v < N; v++) all[v] = (weir_logit_edit){v, 1, WEIR_LOGIT_BAN};
  for (int i = 0; i < devs.n; i++) {
    weir_ask ask = plain_ask(1, 3, 0);
    for (int32_t v = 0; v < N; v++) l[v] = v == 3 ? 5 : v == 4100 ? 0.25f : 0;
    ask.edit = beyond;
    ask.n_edits = 2;
    count_draws(devs.dev[i], l, N, ask, seen);
    if (seen[3] + seen[4999] != MAX_ROWS || seen[3] < 16 || seen[4999] < 16)
      fail_msg("the two at the largest float: %d and %d of %d draws", seen[3], seen[4999], MAX_ROWS);
    l[3] = 0;
    ask.edit = tied;
    ask.n_edits = 4;
    ask.top_k = 2;
    count_draws(devs.dev[i], l, N, ask, seen);
    if (seen[10] + seen[4100] != MAX_ROWS || seen[10] < 16 || seen[4100] < 16)
      fail_msg("the two lowest of four: %d and %d of %d draws", seen[10], seen[4100], MAX_ROWS);
    l[77] = 20;
    ask.edit = all;
    ask.n_edits = N;
    ask.top_k = 0;
    count_draws(devs.dev[i], l, N, ask, seen);
    int most = 0;
    for (int32_t v = 0; v < N; v++) most = seen[v] > most ? seen[v] : most;
    if (most > 3) fail_msg("all banned: an id was drawn %d times", most);
  }
  kern_devs_close(&devs);
}

static void expect_tops(weir_dev *dev, const float *l, int32_t n, int32_t n_top, const int32_t *id,
                        const char *what) {
  weir_ask ask = plain_ask(0, 1, 1);
  weir_row row;
  weir_top top[WEIR_TOP_MAX];
  weir_err e = {0};
  worst w = {0};
  ask.n_top = n_top;
  kern_ok(answer_tops(dev, l, 1, n, &ask, &row, top, &e), &e, what);
  check_row(&row, top, &ask, l, n, &w);
  for (int32_t i = 0; i < n_top; i++)
    if (top[i].id != id[i]) fail_msg("%s: top %d is %d, want %d", what, i, top[i].id, id[i]);
  /* the row's own token and its tops agree to the bit */
  if (memcmp(&top[0].logprob, &row.logprob, sizeof(float)) != 0)
    fail_msg("%s: log-probability of the first %.9g, of the token %.9g", what, (double)top[0].logprob,
             (double)row.logprob);
}

static void test_tops(void **state) {
  enum { N = 3 * WEIR_SAMPLE_CHUNK + 1 };
  static float l[N];
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < devs.n; i++) {
    weir_dev *dev = devs.dev[i];
    int32_t id[WEIR_TOP_MAX];
    expect_tops(dev, HALVES, 4, 1, (const int32_t[]){0}, "one");
    expect_tops(dev, HALVES, 4, 3, (const int32_t[]){0, 1, 2}, "ties to the lowest id");
    expect_tops(dev, HALVES, 4, 6, (const int32_t[]){0, 1, 2, 3, -1, -1}, "more than there are");
    expect_tops(dev, MASKED, 4, 3, (const int32_t[]){1, 2, -1}, "masked ids are none");
    expect_tops(dev, HALVES, 1, 2, (const int32_t[]){0, -1}, "a vocabulary of one");
    for (int32_t v = 0; v < N; v++) l[v] = v % 2 ? 0.0f : -0.0f; /* which are equal */
    for (int32_t k = 0; k < WEIR_TOP_MAX; k++) id[k] = k;
    expect_tops(dev, l, N, WEIR_TOP_MAX, id, "all equal");
    /* the last ids of one chunk, the first of the next, the only one of the last */
    const int32_t c = WEIR_SAMPLE_CHUNK;
    const int32_t at[] = {c - 1, c, 2 * c - 1, 2 * c, 3 * c - 1, 3 * c};
    for (int32_t k = 0; k < 6; k++) l[at[k]] = (float)(k == 4 ? 3 : 1 + k % 3);
    expect_tops(dev, l, N, 8, (const int32_t[]){2 * c - 1, 3 * c - 1, 3 * c, c, c - 1, 2 * c, 0, 1}, "edges");
    /* better and better ones, so that every list is filled anew */
    for (int32_t v = 0; v < N; v++) l[v] = (float)v * 1e-3f;
    for (int32_t k = 0; k < WEIR_TOP_MAX; k++) id[k] = N - 1 - k;
    expect_tops(dev, l, N, WEIR_TOP_MAX, id, "ascending");
  }
  kern_devs_close(&devs);
}

/* Tops are those of the raw row, and a probe that stands has them too. */
static void test_tops_are_raw(void **state) {
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  const weir_logit_edit edit[] = {{0, 1, BAN}, {3, 1, 9}};
  for (int i = 0; i < devs.n; i++)
    for (int probed = 0; probed < 2; probed++) {
      weir_ask ask = plain_ask(0, 1, 1);
      weir_row row;
      weir_top top[WEIR_TOP_MAX];
      weir_err e = {0};
      worst w = {0};
      ask.n_top = 4;
      ask.edit = edit;
      ask.n_edits = 2;
      ask.probe = probed ? 2 : -1;
      kern_ok(answer_tops(devs.dev[i], HALVES, 1, 4, &ask, &row, top, &e), &e, "sample");
      assert_int_equal(row.token, probed ? 2 : 3);
      check_row(&row, top, &ask, HALVES, 4, &w);
      for (int32_t k = 0; k < 4; k++) assert_int_equal(top[k].id, k);
    }
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rules),       cmocka_unit_test(test_only_edits),
                                     cmocka_unit_test(test_no_effect),   cmocka_unit_test(test_bans),
                                     cmocka_unit_test(test_equals),      cmocka_unit_test(test_tops),
                                     cmocka_unit_test(test_tops_are_raw)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
