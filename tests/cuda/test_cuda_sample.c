/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling on the emulated CUDA device against the CPU device: the same tokens, tops and statistics, to the
 * bit where the C library's exp and log are those of both. With "full" the whole matrix: every size of
 * vocabulary up to 152064, and draws by the hundred thousand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "emu.h"
#include "sample_util.h"

static bool is_full; /* "full" on the command line, before the name of one test */

typedef struct pair {
  weir_dev *cpu, *cuda;
} pair;
static pair open_pair(const weir_dev_limits *lim, uint64_t seed) {
  pair p = {NULL, cuda_test_dev(lim, seed)};
  weir_err e = {0};
  kern_ok(weir_dev_open_cpu(&(weir_cpu_opts){.n_threads = 1}, &p.cpu, &e), &e, "open the CPU device");
  kern_ok(weir_dev_reserve(p.cpu, lim, &e), &e, "reserve");
  return p;
}
static void close_pair(pair p) {
  cuda_test_close(p.cuda);
  weir_dev_destroy(p.cpu);
}

static weir_dev_limits limits(int32_t rows, int32_t vocab) {
  weir_dev_limits l = sample_limits;
  l.max_rows_out = rows;
  l.max_vocab = vocab;
  return l;
}

/* To the bit, but for the sign of a margin of 0 among zeros of both signs. */
static bool same(const weir_row *a, const weir_row *b) {
  return a->token == b->token && a->logprob == b->logprob && a->entropy == b->entropy &&
         a->p_max == b->p_max && a->margin == b->margin && a->probe_logprob == b->probe_logprob;
}

/* Rows of both devices, which must be the same. */
static void both(pair p, const float *l, int32_t rows, int32_t n, const weir_ask *ask, const char *what) {
  weir_row *want = calloc((size_t)rows, sizeof *want), *got = calloc((size_t)rows, sizeof *got);
  weir_top *want_top = calloc((size_t)rows * WEIR_TOP_MAX, sizeof *want_top),
           *got_top = calloc((size_t)rows * WEIR_TOP_MAX, sizeof *got_top);
  weir_err e = {0};
  kern_ok(answer_tops(p.cpu, l, rows, n, ask, want, want_top, &e), &e, what);
  kern_ok(answer_tops(p.cuda, l, rows, n, ask, got, got_top, &e), &e, what);
  for (int32_t r = 0; r < rows; r++) {
    if (!same(&got[r], &want[r]))
      fail_msg(
          "%s, %d ids, row %d of %d (T %g, k %d, p %g, m %g, probe %d, keep %d, %d edits): token %d, "
          "want %d; logprob %.9g, want %.9g; entropy %.9g, want %.9g; margin %.9g, want %.9g",
          what, n, r, rows, (double)ask[r].temperature, ask[r].top_k, (double)ask[r].top_p,
          (double)ask[r].min_p, ask[r].probe, (int)ask[r].keep, ask[r].n_edits, got[r].token, want[r].token,
          (double)got[r].logprob, (double)want[r].logprob, (double)got[r].entropy, (double)want[r].entropy,
          (double)got[r].margin, (double)want[r].margin);
    for (int32_t i = 0; i < ask[r].n_top; i++) {
      const weir_top *a = &got_top[r * WEIR_TOP_MAX + i], *b = &want_top[r * WEIR_TOP_MAX + i];
      if (memcmp(a, b, sizeof *a) != 0)
        fail_msg("%s, %d ids, row %d: top %d of %d is %d (%.9g), want %d (%.9g)", what, n, r, i, ask[r].n_top,
                 a->id, (double)a->logprob, b->id, (double)b->logprob);
    }
  }
  free(want);
  free(got);
  free(want_top);
  free(got_top);
}

static int random_rows(pair p, kern_rng *rng, int32_t rows, int32_t n) {
  float *l = malloc(sizeof *l * (size_t)rows * (size_t)n);
  weir_ask *ask = malloc(sizeof *ask * (size_t)rows);
  weir_logit_edit **extra = calloc((size_t)rows, sizeof *extra);
  for (int32_t r = 0; r < rows; r++) {
    random_logits(rng, l + (size_t)r * (size_t)n, n, kern_below(rng, 5));
    ask[r] = random_ask(rng, n);
    if (kern_below(rng, 3) == 0) extra[r] = random_extras(rng, n, &ask[r]);
  }
  both(p, l, rows, n, ask, "random rows");
  for (int32_t r = 0; r < rows; r++) free(extra[r]);
  free(extra);
  free(ask);
  free(l);
  return rows;
}

static void test_as_the_cpu(void **state) {
  static const struct {
    int32_t n, rows, rounds, full_rounds;
  } cases[] = {{1, 7, 2, 40},    {2, 64, 1, 10},    {17, 64, 2, 40},   {100, 7, 2, 100}, {1000, 64, 1, 20},
               {4095, 2, 2, 60}, {4096, 7, 2, 60},  {4097, 1, 8, 120}, {9000, 2, 4, 60}, {32000, 1, 2, 30},
               {32000, 7, 0, 4}, {152064, 1, 1, 8}, {152064, 7, 0, 1}};
  kern_rng rng = {71};
  int rows = 0;
  (void)state;
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    const int rounds = is_full ? cases[k].full_rounds : cases[k].rounds;
    if (rounds == 0) continue;
    const weir_dev_limits lim =
        limits(cases[k].rows, cases[k].n + 3 < MAX_VOCAB ? cases[k].n + 3 : MAX_VOCAB);
    const pair p = open_pair(&lim, 30 + k);
    for (int i = 0; i < rounds; i++) rows += random_rows(p, &rng, cases[k].rows, cases[k].n);
    close_pair(p);
  }
  print_message("%d rows, each the same to the bit\n", rows);
  assert_true(rows > 250);
}

/* Every rule of truncation alone and together, on rows whose boundary falls among ties, over chunks, with and
 * without edits; also where level 0 ends in a bin that holds more keys than are listed. */
static void test_cuts(void **state) {
  enum { N = 9000, ROWS = 14 };
  static float l[ROWS * N];
  static weir_logit_edit edit[N];
  kern_rng rng = {72};
  const weir_dev_limits lim = limits(ROWS, N + 3);
  const pair p = open_pair(&lim, 5);
  (void)state;
  for (int round = 0; round < (is_full ? 20 : 1); round++) {
    weir_ask ask[ROWS];
    for (int32_t v = 0; v < N; v++) edit[v] = (weir_logit_edit){v, v % 3 ? 1 : 1.2f, v % 7 ? 0.25f : -1};
    for (int32_t r = 0; r < ROWS; r++) {
      random_logits(&rng, l + r * N, N, r % 7 % 5);
      if (r % 7 == 5) /* all tie */
        for (int32_t v = 0; v < N; v++) l[r * N + v] = 1.25f;
      if (r % 7 == 4) /* hundreds of values in one bin, where both searches end */
        for (int32_t v = 0; v < N; v++) l[r * N + v] = v < 300 ? 3 + 3e-5f * (float)(v * 7 % 300) : -30;
      if (r % 7 == 6) /* two values in one bin, and little else */
        for (int32_t v = 0; v < N; v++) l[r * N + v] = v % 5 ? 2.0f : v % 2 ? 2.001f : v % 3 ? -3.0f : -40;
      ask[r] = plain_ask(r % 3 ? 1 : 0.6f, 100 + (uint64_t)round, r);
      if ((r + round) % 3 != 1) ask[r].top_k = 1 + kern_below(&rng, r % 2 ? N : 100);
      if ((r + round) % 3 != 0) ask[r].top_p = (float)(0.02 + 0.97 * kern_unit(&rng));
      if (r % 7 == 4) ask[r].top_k = 40 + 200 * (r % 2), ask[r].top_p = 0.5f;
      if (r >= ROWS / 2) ask[r].edit = edit, ask[r].n_edits = r % 2 ? N : 5000;
    }
    both(p, l, ROWS, N, ask, "cuts");
  }
  close_pair(p);
}

/* The two highest tie, or all but: in one thread of a block (16 apart), in neighbours, in different chunks;
 * at the last id; among zeros of both signs; with the rest masked. */
static void test_ties_at_the_top(void **state) {
  enum { N = 4500, ROWS = 7 };
  static const int32_t at[ROWS][2] = {{5, 21},         {21, 5},     {6, 7},    {4095, 4096},
                                      {N - 1, N - 17}, {31, N - 1}, {256, 272}};
  static float l[ROWS * N];
  kern_rng rng = {75};
  const weir_dev_limits lim = limits(ROWS, N + 3);
  const pair p = open_pair(&lim, 6);
  (void)state;
  for (int round = 0; round < 8; round++) {
    const int kind = round % 4;
    weir_ask ask[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
      random_logits(&rng, l + r * N, N, 0);
      if (kind >= 2)
        for (int32_t v = 0; v < N; v++) l[r * N + v] = -INFINITY;
      l[r * N + at[r][0]] = kind == 3 ? -0.0f : 30;
      l[r * N + at[r][1]] = kind == 3 ? 0.0f : kind == 1 ? 29.75f : 30;
      ask[r] = plain_ask((float)(r > 0), 9, 10 * round + r);
      ask[r].n_top = 4;
      if (r % 3 == 2) ask[r].top_p = 0.4f;
      if (r == 4) ask[r].top_k = 2; /* none of them in the first chunk */
    }
    both(p, l, ROWS, N, ask, "ties at the top");
  }
  close_pair(p);
}

/* One row's worth of room for edits, and more rows than go together: groups one after the other. */
static void test_groups(void **state) {
  enum { N = 40, ROWS = 70 };
  static float l[ROWS * N];
  static weir_logit_edit edit[N];
  static weir_ask ask[ROWS];
  kern_rng rng = {73};
  const weir_dev_limits lim = limits(ROWS, N + 3);
  const pair p = open_pair(&lim, 4);
  (void)state;
  for (int32_t v = 0; v < N; v++) edit[v] = (weir_logit_edit){v, 1, (float)(v % 5)};
  for (int32_t r = 0; r < ROWS; r++) {
    random_logits(&rng, l + r * N, N, 0);
    ask[r] = random_ask(&rng, N);
    ask[r].n_top = r % 21;
    if (r % 2) ask[r].edit = edit, ask[r].n_edits = r % 3 ? N : 7;
  }
  both(p, l, ROWS, N, ask, "groups");
  both(p, l, ROWS, N, ask, "groups, again"); /* tickets are new */
  close_pair(p);
}

/* Only the kernels that the asks can need are launched: one for greedy and measured rows. */
static void test_launches(void **state) {
  static const struct {
    float t;
    int32_t probe, k, n_top;
    weir_keep keep;
    int want;
    bool tell;
  } cases[] = {{0, -1, 0, 0, WEIR_KEEP_ALL, 1, false},
               {0, -1, 5, 0, WEIR_KEEP_ALL, 1, false},
               {1, 2, 5, 0, WEIR_KEEP_ALL, 1, false},
               {0, 2, 0, 0, WEIR_KEEP_OWN, 1, false},
               {0, -1, 0, 3, WEIR_KEEP_ALL, 2, false},
               {1, -1, 0, 0, WEIR_KEEP_ALL, 2, false},
               {1, -1, 5, 0, WEIR_KEEP_ALL, 3, false},
               {1, 2, 5, 3, WEIR_KEEP_NLL, 4, false},
               /* weights before the race, unless it is greedy; a law behind the cut */
               {0, 2, 0, 0, WEIR_KEEP_RATIO, 1, false},
               {1, 2, 0, 0, WEIR_KEEP_RATIO, 3, false},
               {1, 2, 5, 0, WEIR_KEEP_RATIO, 4, false},
               {1, -1, 5, 0, WEIR_KEEP_ALL, 4, true},
               {0, -1, 5, 0, WEIR_KEEP_ALL, 1, true}};
  static const weir_top draft = {2, -0.5f};
  const float l[] = {0, 1, 2, 3, 4, 5, 6, 7};
  const weir_dev_limits lim = limits(1, 16);
  const pair p = open_pair(&lim, 2);
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_ask ask = plain_ask(cases[i].t, 1, 1);
    weir_row row;
    weir_top top[WEIR_TOP_MAX];
    weir_err e = {0};
    ask.probe = cases[i].probe;
    ask.top_k = cases[i].k;
    ask.n_top = cases[i].n_top;
    ask.keep = cases[i].keep;
    weir_top law[WEIR_TOP_MAX] = {{.id = LAW_UNTOLD}};
    if (ask.keep == WEIR_KEEP_RATIO) ask.draft = &draft, ask.n_draft = 1;
    if (cases[i].tell) ask.tell_law = true, ask.law = law;
    (void)emu_stats_take();
    kern_ok(answer_tops(p.cuda, l, 1, 8, &ask, &row, top, &e), &e, "sample");
    const int launches = (int)emu_stats_take().launches;
    if (launches != cases[i].want) fail_msg("case %zu: %d launches, want %d", i, launches, cases[i].want);
  }
  close_pair(p);
}

static void test_bad_rows(void **state) {
  enum { N = 4500, ROWS = 4 };
  static const int32_t places[] = {17, 4095, N - 1};
  static float l[ROWS * N];
  kern_rng rng = {74};
  const weir_dev_limits lim = limits(ROWS, N + 3);
  const pair p = open_pair(&lim, 3);
  (void)state;
  for (int bad = 0; bad < 4; bad++)
    for (size_t k = 0; k < sizeof places / sizeof *places; k++) {
      const int32_t r = (int32_t)(k + (size_t)bad) % ROWS;
      weir_ask ask[ROWS];
      weir_row row[ROWS];
      weir_err want = {0}, e = {0};
      for (int32_t q = 0; q < ROWS; q++) {
        random_logits(&rng, l + q * N, N, 0);
        ask[q] = plain_ask((float)(q % 2), 1, q);
        if (q == 3) ask[q].top_p = 0.9f;
      }
      if (bad >= 2) /* nothing above -inf, once with a NaN among it */
        for (int32_t v = 0; v < N; v++) l[r * N + v] = -INFINITY;
      if (bad != 2) l[r * N + places[k]] = bad == 1 ? INFINITY : NAN;
      assert_int_equal(answer(p.cpu, l, ROWS, N, ask, row, &want), WEIR_EDEVICE);
      assert_int_equal(answer(p.cuda, l, ROWS, N, ask, row, &e), WEIR_EDEVICE);
      assert_string_equal(e.msg, want.msg);
      /* the device lives, and says nothing of it any more */
      random_logits(&rng, l + r * N, N, 0);
      both(p, l, ROWS, N, ask, "after a bad row");
    }
  close_pair(p);
}

static void test_draws_follow_the_distribution(void **state) {
  enum { N = 50, BATCH = MAX_ROWS };
  static const struct {
    float t, p;
    int32_t k, n_edits;
    int draws; /* of the whole matrix */
  } laws[] = {{1, 1, 0, 0, 65536}, {0.7f, 1, 10, 0, 20480}, {1, 0.8f, 0, 3, 20480}};
  static const weir_logit_edit edit[] = {{0, 1, WEIR_LOGIT_BAN}, {2, 1.3f, 0}, {30, 1, 1.5f}};
  static float l[BATCH * N];
  kern_rng rng = {5};
  const weir_dev_limits lim = limits(BATCH, N + 3);
  const pair dev = open_pair(&lim, 8);
  (void)state;
  random_logits(&rng, l, N, 0);
  l[0] = 5; /* likely, and banned by the edits */
  for (int32_t r = 1; r < BATCH; r++) memcpy(l + r * N, l, N * sizeof *l);
  for (size_t k = 0; k < sizeof laws / sizeof *laws; k++) {
    const int draws = is_full ? laws[k].draws : 256;
    int seen[N] = {0}, freedom;
    weir_ask ask[BATCH];
    weir_row row[BATCH];
    weir_err e = {0};
    for (int d = 0; d < draws; d += BATCH) {
      for (int32_t r = 0; r < BATCH; r++) {
        ask[r] = plain_ask(laws[k].t, 99 + k, d + r);
        ask[r].top_k = laws[k].k;
        ask[r].top_p = laws[k].p;
        ask[r].edit = edit;
        ask[r].n_edits = laws[k].n_edits;
      }
      kern_ok(answer(dev.cuda, l, BATCH, N, ask, row, &e), &e, "sample");
      for (int32_t r = 0; r < BATCH; r++) seen[row[r].token]++;
    }
    sample_ref ref;
    double p[N], sum = 0;
    sample_ref_make(&ref, l, N, &ask[0]);
    for (int32_t v = 0; v < N; v++) sum += ref.w[v];
    for (int32_t v = 0; v < N; v++) p[v] = ref.w[v] / sum;
    const double x = chi_squared(seen, p, N, draws, &freedom), z = (x - freedom) / sqrt(2.0 * freedom);
    print_message("law %zu: z %.2f of %d draws\n", k, z, draws);
    if (!(z < 4)) fail_msg("law %zu: chi-squared %g with %d degrees of freedom", k, x, freedom);
    sample_ref_free(&ref);
  }
  close_pair(dev);
}

int main(int argc, char **argv) {
  is_full = argc > 1 && strcmp(argv[1], "full") == 0;
  if (argc > 2) cmocka_set_test_filter(argv[2]);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_the_cpu),
                                     cmocka_unit_test(test_cuts),
                                     cmocka_unit_test(test_groups),
                                     cmocka_unit_test(test_ties_at_the_top),
                                     cmocka_unit_test(test_launches),
                                     cmocka_unit_test(test_bad_rows),
                                     cmocka_unit_test(test_draws_follow_the_distribution)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
