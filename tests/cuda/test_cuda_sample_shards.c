/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling from a vocabulary in shards on emulated CUDA devices, a thread each, against the same in one
 * piece: rows and tops to the bit, as many exchanges as the asks can need, errors alike on all ranks. With
 * "full" more of everything. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/cuda_dev.h"
#include "sample_util.h"
#include "shard_util.h"

static bool is_full; /* "full" on the command line, before the name of one test */

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

/* Waits for the rank's own stream only: the others' are other threads'. */
static void settle(weir_dev *dev) {
  if (cudaStreamSynchronize(weir_cuda_of(dev)->stream) != cudaSuccess) abort();
}

typedef struct world {
  shard_crew crew;
  weir_dev *whole;
} world;
static void open_world(world *w, int32_t n, int32_t rows, int32_t vocab) {
  const weir_dev_limits lim = {.max_tokens = 1, .max_rows_out = rows, .max_vocab = vocab, .max_ranks = n};
  memset(w, 0, sizeof *w);
  w->whole = cuda_test_dev(&lim, 2); /* nothing happens early: the others would come too soon */
  for (int32_t r = 0; r < n; r++) w->crew.dev[r] = cuda_test_open(&lim, false);
  w->crew.n = n;
  w->crew.settle = settle;
  shard_crew_init(&w->crew);
}
static void close_world(world *w) {
  shard_crew_fini(&w->crew);
  for (int32_t r = 0; r < w->crew.n; r++) weir_dev_destroy(w->crew.dev[r]);
  cuda_test_close(w->whole);
}

static bool alike(const shard_answer *a, const shard_answer *b, int32_t rows) {
  return a->st == b->st && memcmp(a->row, b->row, sizeof *a->row * (size_t)rows) == 0 &&
         memcmp(a->top, b->top, sizeof *a->top * (size_t)rows * WEIR_TOP_MAX) == 0;
}

static void check_alike(world *w, const shard_call *c, const char *what) {
  shard_answer whole = shard_whole(w->whole, c), got[SHARD_MAX];
  kern_ok(whole.st, &whole.err, "the whole");
  shard_ask(&w->crew, c, got);
  for (int32_t r = 0; r < w->crew.n; r++) {
    if (got[r].st != WEIR_OK) fail_msg("%s: rank %d of %d: %s", what, r, w->crew.n, got[r].err.msg);
    if (alike(&got[r], &whole, c->rows)) continue;
    for (int32_t i = 0; i < c->rows; i++) {
      const weir_row *x = &got[r].row[i], *y = &whole.row[i];
      const weir_ask *a = &c->ask[i];
      if (memcmp(x, y, sizeof *x) != 0)
        fail_msg(
            "%s: %d of %d ids, rank %d of %d, row %d (T %g, k %d, p %g, m %g, %d edits, probe %d, rule %d): "
            "token %d %.9g %.9g %.9g, the whole has %d %.9g %.9g %.9g",
            what, c->n_valid, c->n_vocab, r, w->crew.n, i, (double)a->temperature, a->top_k, (double)a->top_p,
            (double)a->min_p, a->n_edits, a->probe, (int)a->keep, x->token, (double)x->logprob,
            (double)x->entropy, (double)x->probe_logprob, y->token, (double)y->logprob, (double)y->entropy,
            (double)y->probe_logprob);
    }
    fail_msg("%s: %d ids, rank %d of %d: other tops", what, c->n_valid, r, w->crew.n);
  }
  shard_free(got, w->crew.n);
  shard_free(&whole, 1);
}

static void test_random_rows(void **state) {
  static const struct {
    int32_t n_valid, n_vocab, rows, shards, rounds, full_rounds;
  } cases[] = {{1, 1, 5, 2, 1, 5},          {100, 130, 20, 3, 1, 10},   {4096, 4096, 5, 2, 2, 10},
               {4097, 4100, 8, 2, 2, 20},   {9000, 14000, 6, 4, 2, 20}, {12288, 12288, 8, 3, 2, 20},
               {20000, 20001, 4, 7, 1, 10}, {40961, 41000, 3, 2, 1, 5}, {9000, 9000, 3, 1, 1, 5}};
  kern_rng rng = {91};
  (void)state;
  for (int32_t k = 0; k < COUNT(cases); k++) {
    const int32_t n = cases[k].n_valid, n_vocab = cases[k].n_vocab, rows = cases[k].rows;
    world w;
    open_world(&w, cases[k].shards, rows, n_vocab);
    float *l = malloc(sizeof *l * (size_t)rows * (size_t)n_vocab);
    assert_non_null(l);
    for (int32_t round = 0; round < (is_full ? cases[k].full_rounds : cases[k].rounds); round++) {
      weir_ask ask[20];
      weir_logit_edit *edit[20];
      for (int32_t r = 0; r < rows; r++) {
        float *x = l + (size_t)r * (size_t)n_vocab;
        random_logits(&rng, x, n, kern_below(&rng, 5));
        for (int32_t v = n; v < n_vocab; v++) x[v] = v % 2 ? NAN : INFINITY;
        ask[r] = random_ask(&rng, n);
        edit[r] = kern_below(&rng, 2) ? random_extras(&rng, n, &ask[r]) : NULL;
      }
      shard_call c = {.logits = l, .rows = rows, .n_vocab = n_vocab, .n_valid = n, .ask = ask};
      if (round % 2)
        shard_cut_even(&c, w.crew.n);
      else
        shard_cut_random(&c, w.crew.n, &rng);
      check_alike(&w, &c, "random rows");
      for (int32_t r = 0; r < rows; r++) free(edit[r]);
    }
    free(l);
    close_world(&w);
  }
}

/* Cuts among equal logits that lie in several shards, by count, by mass and by both, with edits and without.
 */
static void test_cuts(void **state) {
  enum { N = 3 * WEIR_SAMPLE_CHUNK, R = 12 };
  static const int32_t ks[] = {1, 3, 4097, 8192, 8200, N - 1};
  static float l[R * N];
  static weir_logit_edit edit[N / 6];
  kern_rng rng = {92};
  world w;
  (void)state;
  open_world(&w, 3, R, N);
  for (int32_t round = 0; round < (is_full ? 12 : 2); round++) {
    weir_ask ask[R];
    for (int32_t i = 0; i < N / 6; i++) edit[i] = (weir_logit_edit){6 * i, 1, i % 5 ? 0.25f : -1};
    for (int32_t r = 0; r < R; r++) {
      random_logits(&rng, l + r * N, N, r % 5);
      if (r % 4 == 1)
        for (int32_t v = 0; v < N; v++) l[r * N + v] = v % 2 ? 0.0f : -0.0f;
      if (r % 4 == 2) /* two values in one bin, and little else */
        for (int32_t v = 0; v < N; v++) l[r * N + v] = v % 5 ? 2.0f : v % 2 ? 2.001f : -40;
      ask[r] = plain_ask(r % 3 ? 1 : 0.6f, 17 + (uint64_t)round, r);
      if (r % 3 != 1) ask[r].top_k = ks[(r + round) % COUNT(ks)];
      if (r % 3 != 0) ask[r].top_p = (float)(0.02 + 0.97 * kern_unit(&rng));
      if (r >= R / 2) ask[r].edit = edit, ask[r].n_edits = N / 6; /* a group's worth */
    }
    shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
    if (round == 0)
      shard_cut_even(&c, 3);
    else
      shard_cut_random(&c, 3, &rng);
    check_alike(&w, &c, "cuts");
    assert_int_equal(w.crew.n_exchanges, 1 + 7 + 1);
  }
  close_world(&w);
}

/* More rows than go together. */
static void test_groups(void **state) {
  enum { N = 5000, R = 70 };
  static float l[R * N];
  static weir_ask ask[R];
  kern_rng rng = {93};
  world w;
  (void)state;
  open_world(&w, 2, R, N);
  for (int32_t r = 0; r < R; r++) {
    random_logits(&rng, l + r * N, N, 0);
    ask[r] = plain_ask((float)(r % 2), 3, r);
    ask[r].n_top = r % 9 == 0 ? 5 : 0;
  }
  shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
  shard_cut_even(&c, 2);
  check_alike(&w, &c, "groups");
  assert_int_equal(w.crew.n_exchanges, 2 * 2);
  close_world(&w);
}

/* What the asks can need, and no more. */
static void test_exchanges(void **state) {
  enum { N = WEIR_SAMPLE_CHUNK + 9 };
  static const struct {
    float t, p;
    int32_t probe, k, n_top;
    weir_keep keep;
    int32_t want;
    bool tell;
  } cases[] = {{0, 1, -1, 0, 0, WEIR_KEEP_ALL, 1, false},    {0, 1, -1, 5, 3, WEIR_KEEP_ALL, 1, false},
               {1, 0.5f, 2, 5, 0, WEIR_KEEP_ALL, 1, false},  {1, 1, -1, 0, 0, WEIR_KEEP_ALL, 2, false},
               {1, 1, -1, 5, 0, WEIR_KEEP_ALL, 6, false},    {1, 0.5f, -1, 0, 3, WEIR_KEEP_ALL, 6, false},
               {1, 0.5f, -1, 5, 0, WEIR_KEEP_ALL, 9, false}, {1, 0.5f, 2, 0, 0, WEIR_KEEP_NLL, 6, false},
               {0, 1, 2, 0, 0, WEIR_KEEP_RATIO, 1, false},   {1, 1, 2, 0, 0, WEIR_KEEP_RATIO, 3, false},
               {1, 1, 2, 5, 0, WEIR_KEEP_RATIO, 7, false},   {1, 1, -1, 5, 0, WEIR_KEEP_ALL, 7, true}};
  static const weir_top draft = {2, -0.5f};
  static float l[N];
  kern_rng rng = {94};
  world w;
  (void)state;
  open_world(&w, 2, 1, N);
  random_logits(&rng, l, N, 0);
  for (int32_t i = 0; i < COUNT(cases); i++) {
    weir_ask ask = plain_ask(cases[i].t, 1, 1);
    ask.probe = cases[i].probe;
    ask.top_k = cases[i].k;
    ask.top_p = cases[i].p;
    ask.n_top = cases[i].n_top;
    ask.keep = cases[i].keep;
    weir_top law[WEIR_TOP_MAX] = {{.id = LAW_UNTOLD}};
    if (ask.keep == WEIR_KEEP_RATIO) ask.draft = &draft, ask.n_draft = 1;
    if (cases[i].tell) ask.tell_law = true, ask.law = law;
    shard_call c = {.logits = l, .rows = 1, .n_vocab = N, .n_valid = N, .ask = &ask};
    shard_cut_even(&c, 2);
    check_alike(&w, &c, "exchanges");
    if (w.crew.n_exchanges != cases[i].want)
      fail_msg("case %d: %d exchanges, want %d", i, w.crew.n_exchanges, cases[i].want);
  }
  close_world(&w);
}

static void expect_error(world *w, const shard_call *c, weir_status st, const char *says) {
  shard_answer got[SHARD_MAX];
  shard_ask(&w->crew, c, got);
  for (int32_t r = 0; r < w->crew.n; r++)
    if (got[r].st != st || strstr(got[r].err.msg, says) == NULL)
      fail_msg("rank %d: status %d, '%s' does not say '%s'", r, (int)got[r].st, got[r].err.msg, says);
  shard_free(got, w->crew.n);
}

/* All ranks say so at their syncs, of the same row; and live on. Shards that do not fit are found out too. */
static void test_bad(void **state) {
  enum { N = 3 * WEIR_SAMPLE_CHUNK, R = 4 };
  static const int32_t places[] = {17, 4096, N - 1};
  static float l[R * N];
  kern_rng rng = {95};
  world w;
  (void)state;
  open_world(&w, 3, R, N + 1);
  weir_ask ask[R];
  for (int32_t r = 0; r < R; r++) {
    ask[r] = plain_ask((float)(r % 2), 1, r);
    if (r == 3) ask[r].top_p = 0.9f, ask[r].n_top = 2;
  }
  shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
  shard_cut_even(&c, 3);
  for (int32_t bad = 0; bad < 3; bad++) {
    for (int32_t r = 0; r < R; r++) random_logits(&rng, l + r * N, N, 0);
    float *x = l + (bad + 1) * N;
    if (bad == 2)
      for (int32_t v = 0; v < N; v++) x[v] = -INFINITY;
    else
      x[places[bad]] = bad ? INFINITY : NAN;
    shard_answer whole = shard_whole(w.whole, &c);
    assert_int_equal(whole.st, WEIR_EDEVICE);
    expect_error(&w, &c, WEIR_EDEVICE, whole.err.msg);
    shard_free(&whole, 1);
    random_logits(&rng, x, N, 0);
    check_alike(&w, &c, "after a bad row");
  }
  c.shift[1] = WEIR_SAMPLE_CHUNK;
  expect_error(&w, &c, WEIR_EDEVICE, "row 0: what the ranks say does not fit together");
  c.shift[1] = 0;
  c.n_valid = N + 1;
  expect_error(&w, &c, WEIR_EDEVICE, "row 0: what the ranks say does not fit together");
  c.n_valid = N;
  w.crew.fail_at = 2;
  expect_error(&w, &c, WEIR_EDEVICE, "sample: histograms: planted");
  close_world(&w);
}

int main(int argc, char **argv) {
  is_full = argc > 1 && strcmp(argv[1], "full") == 0;
  if (argc > 2) cmocka_set_test_filter(argv[2]);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_rows), cmocka_unit_test(test_cuts),
                                     cmocka_unit_test(test_groups), cmocka_unit_test(test_exchanges),
                                     cmocka_unit_test(test_bad)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
