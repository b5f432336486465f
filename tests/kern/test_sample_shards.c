/* SPDX-License-Identifier: Apache-2.0 */
/* The sample op over a vocabulary in shards against the same in one piece: rows and tops to the bit, errors
 * alike on all ranks, as few exchanges as promised, and faults in what ranks say are noticed by these
 * comparisons. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/sample_shard.h"
#include "sample_util.h"
#include "shard_util.h"

enum { VOCAB = 200000, ROWS = 64 };
static const weir_dev_limits limits = {
    .max_tokens = ROWS, .max_cols = 32, .max_rows_out = ROWS, .max_vocab = VOCAB, .max_ranks = SHARD_MAX};

/* A device of every instruction set for the whole, and one a rank, of instruction sets in turn: their bits
 * are the same. */
typedef struct world {
  kern_devs devs;
  shard_crew crew;
} world;
static void open_world(world *w) {
  memset(w, 0, sizeof *w);
  kern_devs_open(&w->devs, &limits);
  shard_crew_init(&w->crew);
  for (int32_t r = 0; r < SHARD_MAX; r++) {
    const weir_cpu_opts opts = {
        .isa = w->devs.isa[r % w->devs.n], .n_threads = r == 2 ? 3 : 1, .no_pin = true};
    weir_err e = {0};
    kern_ok(weir_dev_open_cpu(&opts, &w->crew.dev[r], &e), &e, "open a rank's device");
    kern_ok(weir_dev_reserve(w->crew.dev[r], &limits, &e), &e, "reserve");
  }
}
static void close_world(world *w) {
  for (int32_t r = 0; r < SHARD_MAX; r++) weir_dev_destroy(w->crew.dev[r]);
  shard_crew_fini(&w->crew);
  kern_devs_close(&w->devs);
}

/* Whether a rank's answer is the whole's. */
static bool alike(const shard_answer *a, const shard_answer *b, int32_t rows) {
  return a->st == b->st && memcmp(a->row, b->row, sizeof *a->row * (size_t)rows) == 0 &&
         memcmp(a->top, b->top, sizeof *a->top * (size_t)rows * WEIR_TOP_MAX) == 0;
}

static void check_alike(world *w, const shard_call *c, const char *what) {
  shard_answer whole = shard_whole(w->devs.dev[c->rows % w->devs.n], c), got[SHARD_MAX];
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

/* Rows with padding that nobody may look at. */
static void make_rows(kern_rng *rng, float *l, int32_t rows, int32_t n_vocab, int32_t n_valid) {
  for (int32_t r = 0; r < rows; r++) {
    float *x = l + (size_t)r * (size_t)n_vocab;
    random_logits(rng, x, n_valid, kern_below(rng, 5));
    for (int32_t v = n_valid; v < n_vocab; v++) x[v] = v % 2 ? NAN : INFINITY;
  }
}

static const int32_t shard_counts[] = {1, 2, 3, 4, 7};
#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

static void test_random_rows(void **state) {
  static const int32_t sizes[] = {1, 2, 63, 4095, 4096, 4097, 8193, 12289, 40961, 99999, VOCAB};
  world w;
  kern_rng rng = {41};
  (void)state;
  open_world(&w);
  for (int32_t k = 0; k < COUNT(sizes); k++)
    for (int32_t s = 0; s < COUNT(shard_counts); s++) {
      if (sizes[k] > 20000 && s != 1 && s != 4) continue; /* takes long */
      const int32_t n_valid = sizes[k],
                    pad = n_valid == VOCAB ? 0 : kern_below(&rng, 2) * kern_below(&rng, 9000);
      const int32_t n_vocab = n_valid + pad < VOCAB ? n_valid + pad : VOCAB, rows = n_valid > 40000 ? 3 : 9;
      float *l = malloc(sizeof *l * (size_t)rows * (size_t)n_vocab);
      assert_non_null(l);
      weir_ask ask[9];
      weir_logit_edit *edit[9];
      make_rows(&rng, l, rows, n_vocab, n_valid);
      for (int32_t r = 0; r < rows; r++) {
        ask[r] = random_ask(&rng, n_valid);
        edit[r] = kern_below(&rng, 2) ? random_extras(&rng, n_valid, &ask[r]) : NULL;
      }
      shard_call c = {.logits = l, .rows = rows, .n_vocab = n_vocab, .n_valid = n_valid, .ask = ask};
      w.crew.n = shard_counts[s];
      shard_cut_even(&c, w.crew.n);
      check_alike(&w, &c, "even");
      shard_cut_random(&c, w.crew.n, &rng);
      check_alike(&w, &c, "uneven");
      for (int32_t r = 0; r < rows; r++) free(edit[r]);
      free(l);
    }
  close_world(&w);
}

/* Every combination of what can be asked, a batch of 64 at a time; all rules. */
static void test_every_combination(void **state) {
  enum { N = 3 * WEIR_SAMPLE_CHUNK + 5 };
  static const int32_t probes[] = {-1, 0, N - 1};
  world w;
  kern_rng rng = {43};
  (void)state;
  open_world(&w);
  float *l = malloc(sizeof *l * (size_t)ROWS * N);
  assert_non_null(l);
  weir_ask ask[ROWS];
  weir_logit_edit *edit[ROWS];
  int32_t n = 0, batch = 0;
  for (int32_t bits = 0; bits < 64; bits++)
    for (int32_t p = 0; p < COUNT(probes); p++)
      for (int32_t keep = 0; keep < WEIR_N_KEEPS; keep++) {
        weir_ask *a = &ask[n];
        *a = plain_ask(bits & 1 ? 0.8f : 0, kern_u64(&rng), kern_below(&rng, 5000));
        if (bits & 2) a->top_k = 1 + kern_below(&rng, 200);
        if (bits & 4) a->top_p = 0.9f;
        if (bits & 8) a->min_p = 0.02f;
        a->probe = probes[p];
        a->keep = (weir_keep)keep;
        edit[n] = bits & 16 ? random_extras(&rng, N, a) : NULL;
        a->n_top = bits & 32 ? 1 + kern_below(&rng, WEIR_TOP_MAX) : 0;
        a->keep_a = keep == WEIR_KEEP_NLL ? (float)kern_below(&rng, 12) : 0.1f * (float)kern_below(&rng, 9);
        a->keep_b = 0.3f;
        a->probe_q = -0.5f * (float)kern_below(&rng, 9);
        if (++n < ROWS && !(bits == 63 && p == 2 && keep == WEIR_N_KEEPS - 1)) continue;
        make_rows(&rng, l, n, N, N);
        shard_call c = {.logits = l, .rows = n, .n_vocab = N, .n_valid = N, .ask = ask};
        w.crew.n = shard_counts[1 + batch++ % 4];
        shard_cut_random(&c, w.crew.n, &rng);
        check_alike(&w, &c, "combinations");
        for (int32_t r = 0; r < n; r++) free(edit[r]);
        n = 0;
      }
  free(l);
  close_world(&w);
}

/* Equal logits over all shards: cuts take the lowest ids, wherever these are; both zeros are equal. */
static void test_ties(void **state) {
  enum { N = 5 * WEIR_SAMPLE_CHUNK, R = 20 };
  static const int32_t ks[] = {1, 2, 4095, 4096, 4097, 8192, 8193, 12000, N - 1, N};
  world w;
  kern_rng rng = {47};
  (void)state;
  open_world(&w);
  float *l = malloc(sizeof *l * (size_t)R * N);
  assert_non_null(l);
  for (int32_t s = 0; s < COUNT(shard_counts); s++) {
    weir_ask ask[R];
    for (int32_t r = 0; r < R; r++) {
      for (int32_t v = 0; v < N; v++) l[r * N + v] = v % 2 ? 0.0f : -0.0f;
      if (r % 3 == 1) l[r * N + N - 7] = 1;
      if (r % 3 == 2)
        for (int32_t v = 0; v < N; v++) l[r * N + v] = (float)(v / 100 % 7);
      ask[r] = plain_ask(1, 5, r + 100 * s);
      ask[r].top_k = ks[r % COUNT(ks)];
      if (r >= 10) ask[r].top_p = 0.37f;
      ask[r].n_top = r % (WEIR_TOP_MAX + 1);
    }
    shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
    w.crew.n = shard_counts[s];
    shard_cut_random(&c, w.crew.n, &rng);
    check_alike(&w, &c, "ties");
    shard_cut_even(&c, w.crew.n);
    check_alike(&w, &c, "ties, even");
  }
  free(l);
  close_world(&w);
}

/* More rows that truncate than go in one exchange. */
static void test_many_cuts(void **state) {
  enum { N = WEIR_SAMPLE_CHUNK + 100 };
  world w;
  kern_rng rng = {53};
  (void)state;
  open_world(&w);
  w.crew.n = 7;
  float *l = malloc(sizeof *l * (size_t)ROWS * N);
  assert_non_null(l);
  weir_ask ask[ROWS];
  make_rows(&rng, l, ROWS, N, N);
  for (int32_t r = 0; r < ROWS; r++) {
    ask[r] = plain_ask(1, 3, r);
    ask[r].top_p = 0.9f;
    if (r % 2) ask[r].top_k = 100;
  }
  shard_call c = {.logits = l, .rows = ROWS, .n_vocab = N, .n_valid = N, .ask = ask};
  shard_cut_random(&c, 7, &rng);
  check_alike(&w, &c, "many cuts");
  assert_int_equal(w.crew.n_exchanges, 1 + 2 * 7 + 1);
  free(l);
  close_world(&w);
}

/* How many exchanges what is asked takes, and how much is said in them. */
static void test_exchanges(void **state) {
  enum { N = 4 * WEIR_SAMPLE_CHUNK };
  world w;
  kern_rng rng = {59};
  (void)state;
  open_world(&w);
  w.crew.n = 2;
  float *l = malloc(sizeof *l * N);
  assert_non_null(l);
  random_logits(&rng, l, N, 0);
  const weir_logit_edit edit = {9000, 1, -3};
  static const struct {
    const char *what;
    weir_ask ask;
    bool edited;
    int32_t want;
  } cases[] = {
      {"greedy", {.temperature = 0, .top_p = 1, .probe = -1}, false, 1},
      {"greedy with edits", {.temperature = 0, .top_p = 1, .probe = -1}, true, 1},
      {"a measured probe", {.temperature = 1, .top_k = 5, .top_p = 0.5f, .probe = 7}, true, 1},
      {"a probe that stands",
       {.temperature = 1, .top_p = 0.5f, .probe = 7, .keep = WEIR_KEEP_NLL, .keep_a = 1e9f},
       false,
       1},
      {"a probe that falls",
       {.temperature = 1, .top_p = 1, .probe = 7, .keep = WEIR_KEEP_NLL, .keep_a = -1},
       false,
       2},
      {"a draw", {.temperature = 1, .top_p = 1, .probe = -1}, false, 2},
      {"a draw with edits", {.temperature = 1, .top_p = 1, .probe = -1}, true, 2},
      {"min_p", {.temperature = 1, .top_p = 1, .min_p = 0.1f, .probe = -1}, false, 2},
      {"the likeliest", {.temperature = 0, .top_p = 1, .probe = -1, .n_top = 20}, false, 1},
      {"top_k", {.temperature = 1, .top_k = 64, .top_p = 1, .probe = -1}, true, 2},
      {"a large top_k", {.temperature = 1, .top_k = 65, .top_p = 1, .probe = -1}, false, 6},
      {"top_k of all", {.temperature = 1, .top_k = N, .top_p = 1, .probe = -1}, false, 2},
      {"top_p", {.temperature = 1, .top_p = 0.9f, .probe = -1}, false, 6},
      {"top_k and top_p", {.temperature = 1, .top_k = 40, .top_p = 0.9f, .probe = -1}, true, 2},
      {"a large top_k and top_p", {.temperature = 1, .top_k = 400, .top_p = 0.9f, .probe = -1}, true, 9},
  };
  for (int32_t k = 0; k < COUNT(cases); k++) {
    weir_ask ask = cases[k].ask;
    if (cases[k].edited) {
      ask.edit = &edit;
      ask.n_edits = 1;
    }
    shard_call c = {.logits = l, .rows = 1, .n_vocab = N, .n_valid = N, .ask = &ask};
    shard_cut_even(&c, 2);
    check_alike(&w, &c, cases[k].what);
    if (w.crew.n_exchanges != cases[k].want)
      fail_msg("%s: %d exchanges, want %d", cases[k].what, w.crew.n_exchanges, cases[k].want);
    print_message("%-20s %d exchanges, %zu bytes a rank\n", cases[k].what, w.crew.n_exchanges, w.crew.bytes);
  }
  free(l);
  close_world(&w);
}

/* ---- errors ---- */

static void expect_error(world *w, const shard_call *c, weir_status st, const char *says,
                         int32_t n_exchanges) {
  shard_answer got[SHARD_MAX];
  shard_ask(&w->crew, c, got);
  for (int32_t r = 0; r < w->crew.n; r++) {
    if (got[r].st != st || strstr(got[r].err.msg, says) == NULL)
      fail_msg("rank %d: status %d, '%s' does not say '%s'", r, (int)got[r].st, got[r].err.msg, says);
    assert_string_equal(got[r].err.msg, got[0].err.msg);
  }
  assert_int_equal(w->crew.n_exchanges, n_exchanges);
  shard_free(got, w->crew.n);
}

/* One rank's row is no distribution: all say so, of the same row and in the same words as the whole. */
static void test_bad_rows(void **state) {
  enum { N = 3 * WEIR_SAMPLE_CHUNK, R = 4 };
  static const int32_t places[] = {0, 4095, 4096, 9000, N - 1};
  world w;
  kern_rng rng = {61};
  (void)state;
  open_world(&w);
  w.crew.n = 4;
  float *l = malloc(sizeof *l * (size_t)R * N);
  assert_non_null(l);
  weir_ask ask[R];
  for (int32_t bad = 0; bad < 4; bad++)
    for (int32_t k = 0; k < COUNT(places); k++) {
      for (int32_t r = 0; r < R; r++) {
        random_logits(&rng, l + r * N, N, 0);
        ask[r] = plain_ask((float)(r % 2), 1, r);
        ask[r].top_k = 3;
      }
      float *x = l + 2 * N;
      if (bad >= 2)
        for (int32_t v = 0; v < N; v++) x[v] = -INFINITY;
      if (bad < 2 || bad == 3) x[places[k]] = bad == 1 ? INFINITY : NAN;
      shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
      shard_cut_even(&c, 4);
      shard_answer whole = shard_whole(w.devs.dev[0], &c);
      assert_int_equal(whole.st, WEIR_EDEVICE);
      expect_error(&w, &c, WEIR_EDEVICE, whole.err.msg, 1);
      shard_free(&whole, 1);
    }
  /* a shard of masked ids alone is none */
  for (int32_t v = 0; v < N; v++) l[2 * N + v] = v < WEIR_SAMPLE_CHUNK ? -INFINITY : (float)(v % 10);
  shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
  shard_cut_even(&c, 4);
  check_alike(&w, &c, "a shard of masked ids");
  free(l);
  close_world(&w);
}

static void test_wrong_shards(void **state) {
  enum { N = 4 * WEIR_SAMPLE_CHUNK };
  world w;
  kern_rng rng = {67};
  (void)state;
  open_world(&w);
  w.crew.n = 3;
  float *l = malloc(sizeof *l * N);
  assert_non_null(l);
  random_logits(&rng, l, N, 0);
  const weir_ask ask = plain_ask(1, 1, 1);
  const int32_t c1 = WEIR_SAMPLE_CHUNK;
  shard_call c = {.logits = l, .rows = 1, .n_vocab = N, .n_valid = N, .ask = &ask, .cut = {0, c1, 3 * c1, N}};
  check_alike(&w, &c, "right shards");
  c.shift[1] = c1; /* a gap */
  expect_error(&w, &c, WEIR_EINVAL, "rank 1 has 8192 ids from 8192 on", 1);
  c.shift[1] = -c1; /* ids that two have */
  expect_error(&w, &c, WEIR_EINVAL, "rank 1 has 8192 ids from 0 on", 1);
  c.shift[1] = 0;
  c.shift[0] = 2 * c1;
  expect_error(&w, &c, WEIR_EINVAL, "rank 0 has 4096 ids from 8192 on", 1);
  c.shift[0] = 0;
  c.n_valid = N + 1; /* ids that nobody has */
  expect_error(&w, &c, WEIR_EINVAL, "end before 16385", 1);
  c.n_valid = N;
  for (int32_t at = 1; at <= 2; at++) { /* an exchange that fails ends it */
    w.crew.fail_at = at;
    expect_error(&w, &c, WEIR_EDEVICE, "planted", at);
  }
  free(l);
  close_world(&w);
}

/* A rank that has reserved for no shards, or for fewer, says so. */
static void test_limits(void **state) {
  (void)state;
  weir_dev *dev;
  weir_err e = {0};
  weir_dev_limits few = limits;
  few.max_ranks = 2;
  kern_ok(weir_dev_open_cpu(&(weir_cpu_opts){.n_threads = 1}, &dev, &e), &e, "open");
  kern_ok(weir_dev_reserve(dev, &few, &e), &e, "reserve");
  shard_crew crew = {.n = 3, .dev = {dev, dev, dev}};
  const float l[] = {1, 2};
  const weir_ask ask = plain_ask(1, 1, 1);
  shard_call c = {.logits = l, .rows = 1, .n_vocab = 2, .n_valid = 2, .ask = &ask, .cut = {0, 2, 2, 2}};
  shard_answer got[3];
  shard_crew_init(&crew);
  shard_ask(&crew, &c, got);
  for (int32_t r = 0; r < 3; r++) {
    assert_int_equal(got[r].st, WEIR_EINVAL);
    assert_non_null(strstr(got[r].err.msg, "number of ranks is 3"));
  }
  shard_free(got, 3);
  shard_crew_fini(&crew);
  few.max_ranks = 1025;
  assert_int_equal(weir_dev_reserve(dev, &few, &e), WEIR_EINVAL);
  weir_dev_destroy(dev);
}

static weir_status nobody_comes(void *ctx, void *out, const void *in, size_t bytes, weir_err *e) {
  (void)out, (void)in, (void)bytes;
  ++*(int *)ctx;
  return weir_fail(e, WEIR_EDEVICE, "an exchange");
}

/* A wrong call is refused before anything is said. */
static void test_wrong_calls(void **state) {
  enum { C = WEIR_SAMPLE_CHUNK };
  typedef struct call {
    weir_vocab_shard v;
    int32_t rows, cols, n_valid, edit;
  } call;
  const call good = {{1, 2, C, 1, nobody_comes, NULL}, 1, 9, C + 9, C};
  static const struct {
    call c;
    const char *says;
  } cases[] = {
      {{{1, 0, C, 1, nobody_comes, NULL}, 1, 9, C + 9, C}, "number of ranks is 0, want 1 to 8"},
      {{{1, 9, C, 1, nobody_comes, NULL}, 1, 9, C + 9, C}, "number of ranks is 9"},
      {{{2, 2, C, 1, nobody_comes, NULL}, 1, 9, C + 9, C}, "rank is 2, want 0 to 1"},
      {{{-1, 2, C, 1, nobody_comes, NULL}, 1, 9, C + 9, C}, "rank is -1"},
      {{{1, 2, C, 1, NULL, NULL}, 1, 9, C + 9, C}, "all_gather is NULL"},
      {{{1, 2, C + 1, 1, nobody_comes, NULL}, 1, 9, C + 9, C}, "first id 4097 is no multiple of 4096"},
      {{{1, 2, -C, 1, nobody_comes, NULL}, 1, 9, C + 9, C}, "first id is -4096"},
      {{{1, 2, 49 * C, 1, nobody_comes, NULL}, 1, 9, C + 9, C}, "first id is 200704"},
      {{{1, 2, C, 0, nobody_comes, NULL}, 1, 9, C + 9, C}, "max_chunks is 0"},
      {{{1, 2, C, 50, nobody_comes, NULL}, 1, 9, C + 9, C}, "max_chunks is 50"},
      {{{1, 2, C, 1, nobody_comes, NULL}, 1, C + 1, C + 9, C}, "chunks is 2, want 1 to 1"},
      {{{1, 2, 48 * C, 1, nobody_comes, NULL}, 1, C, C + 9, C}, "columns is 4096, want 1 to 3392"},
      {{{1, 2, C, 1, nobody_comes, NULL}, 1, 9, 0, C}, "n_valid is 0"},
      {{{1, 2, C, 1, nobody_comes, NULL}, 1, 9, VOCAB + 1, C}, "n_valid is 200001"},
      {{{1, 2, C, 1, nobody_comes, NULL}, 1, 9, C + 9, VOCAB}, "edit 0 is of id 200000"},
      {{{1, 2, C, 1, nobody_comes, NULL}, ROWS + 1, 9, C + 9, C}, "number of rows is 65"},
      {{{1, 2, C, 1, nobody_comes, NULL}, -1, 0, C + 9, C}, "number of rows is -1"},
  };
  static float l[(ROWS + 1) * 9 + 2 * C];
  static weir_row row[ROWS];
  weir_dev *dev;
  weir_err e = {0};
  int calls = 0;
  (void)state;
  kern_ok(weir_dev_open_cpu(&(weir_cpu_opts){.n_threads = 1}, &dev, &e), &e, "open");
  kern_ok(weir_dev_reserve(dev, &limits, &e), &e, "reserve");
  for (int32_t k = -1; k < COUNT(cases); k++) {
    call c = k < 0 ? good : cases[k].c;
    const weir_logit_edit edit = {c.edit, 1, 1};
    weir_ask ask[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
      ask[r] = plain_ask(1, 1, 1);
      ask[r].edit = &edit;
      ask[r].n_edits = 1;
    }
    c.v.ctx = &calls;
    const weir_mat m = {l, c.rows, c.cols, c.cols};
    const weir_status st = weir_op_sample(dev, row, NULL, m, c.n_valid, ask, &c.v, &e);
    if (k < 0) {
      assert_int_equal(st, WEIR_EDEVICE); /* by the exchange */
      assert_int_equal(calls, 1);
    } else if (st != WEIR_EINVAL || strstr(e.msg, cases[k].says) == NULL) {
      fail_msg("'%s' does not say '%s'", e.msg, cases[k].says);
    }
  }
  assert_int_equal(calls, 1);
  weir_dev_destroy(dev);
}

/* ---- planted faults: the comparisons above must notice them ---- */

typedef struct fault {
  const char *what;
  int32_t exchange;
  void (*make)(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks);
} fault;

static weir_sample_stat *part_of(char *said, int32_t rows, int32_t max_chunks) {
  return (weir_sample_stat *)(void *)(said + weir_sample_message_of(rows, max_chunks, rows, 0).part);
}
static void swap_bytes(char *a, char *b, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const char t = a[i];
    a[i] = b[i];
    b[i] = t;
  }
}
static void drop_parts(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  (void)bytes;
  for (int32_t i = 0; i < rows * max_chunks; i++)
    part_of(said[1], rows, max_chunks)[i] = (weir_sample_stat){-INFINITY, -INFINITY, 0, 0, 0};
}
static void swap_chunks(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  (void)bytes;
  for (int32_t r = 0; r < rows; r++) {
    weir_sample_stat *p = part_of(said[0], rows, max_chunks) + r * max_chunks;
    swap_bytes((char *)&p[0], (char *)&p[1], sizeof *p);
  }
}
static void drop_probes(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  (void)bytes;
  weir_sample_say *say =
      (weir_sample_say *)(void *)(said[1] + weir_sample_message_of(rows, max_chunks, rows, 0).say);
  for (int32_t r = 0; r < rows; r++) say[r].has_probe = 0;
}
static void drop_bests(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  (void)bytes;
  weir_sample_say *say =
      (weir_sample_say *)(void *)(said[1] + weir_sample_message_of(rows, max_chunks, rows, 0).say);
  for (int32_t r = 0; r < rows; r++) say[r].best = -1;
}
static void drop_tops(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  (void)bytes;
  weir_sample_like *like =
      (weir_sample_like *)(void *)(said[1] + weir_sample_message_of(rows, max_chunks, rows, 0).like);
  for (int32_t i = 0; i < rows * WEIR_TOP_MAX; i++) like[i].id = -1;
}
static void drop_all(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  (void)rows, (void)max_chunks;
  memset(said[1], 0, bytes);
}
static void no_winner(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  (void)rows, (void)max_chunks;
  weir_sample_came *c = (weir_sample_came *)(void *)said[1];
  for (size_t i = 0; i < bytes / sizeof *c; i++) c[i] = (weir_sample_came){INFINITY, INT32_MAX, 0};
}

typedef struct planted {
  const fault *fault;
  int32_t rows, max_chunks;
} planted;
static void plant(void *ctx, int32_t exchange, int32_t n_ranks, char *const *said, size_t bytes) {
  const planted *p = (const planted *)ctx;
  (void)n_ranks;
  if (exchange == p->fault->exchange) p->fault->make(said, bytes, p->rows, p->max_chunks);
}

static void test_planted_faults(void **state) {
  enum { N = 4 * WEIR_SAMPLE_CHUNK, R = 32 };
  static const fault faults[] = {
      {"parts dropped", 1, drop_parts},          {"chunks swapped", 1, swap_chunks},
      {"probes dropped", 1, drop_probes},        {"bests dropped", 1, drop_bests},
      {"likeliest dropped", 1, drop_tops},       {"first histogram dropped", 2, drop_all},
      {"second histogram dropped", 3, drop_all}, {"third histogram dropped", 4, drop_all},
      {"last histogram dropped", 5, drop_all},   {"winner dropped", 6, no_winner}};
  world w;
  kern_rng rng = {71};
  (void)state;
  open_world(&w);
  w.crew.n = 2;
  float *l = malloc(sizeof *l * (size_t)R * N);
  assert_non_null(l);
  static weir_ask ask[R];
  static weir_logit_edit edit[R];
  for (int32_t r = 0; r < R; r++) {
    random_logits(&rng, l + r * N, N, r % 4);
    ask[r] = plain_ask(r % 4 == 3 ? 0 : 1, 11, r);
    ask[r].top_p = 0.9f;
    ask[r].n_top = 1 + r % WEIR_TOP_MAX;
    if (r % 2 == 0) { /* half of them stay, so that it matters at once where a cut falls */
      for (int32_t v = 0; v < N; v++) l[r * N + v] = 0.3f;
      ask[r].top_k = N / 2 + 10;
      ask[r].top_p = 1;
    }
    if (r % 4 == 1) ask[r].probe = N - 1 - r, ask[r].keep = WEIR_KEEP_OWN;
    if (r % 4 == 3) {
      edit[r] = (weir_logit_edit){N / 2 + r, 1, 30};
      ask[r].edit = &edit[r];
      ask[r].n_edits = 1;
    }
  }
  shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
  shard_cut_even(&c, 2);
  check_alike(&w, &c, "without a fault");
  assert_int_equal(w.crew.n_exchanges, 6);
  shard_answer whole = shard_whole(w.devs.dev[0], &c), got[SHARD_MAX];
  for (int32_t k = 0; k < COUNT(faults); k++) {
    planted p = {&faults[k], R, 2};
    w.crew.plant = plant;
    w.crew.plant_ctx = &p;
    shard_ask(&w.crew, &c, got);
    if (alike(&got[0], &whole, R)) fail_msg("%s: nobody noticed", faults[k].what);
    shard_free(got, 2);
  }
  shard_free(&whole, 1);
  free(l);
  close_world(&w);
}

static void drop_lists(char *const *said, size_t bytes, int32_t rows, int32_t max_chunks) {
  const size_t from = weir_sample_message_of(rows, max_chunks, 0, rows).list;
  memset(said[1] + from, 0xff, bytes - from);
}

/* The same of the lists of a small top_k: all the best ids lie on the rank whose list is lost. */
static void test_planted_list(void **state) {
  enum { N = 2 * WEIR_SAMPLE_CHUNK, R = 8 };
  static const fault lost = {"lists dropped", 1, drop_lists};
  static float l[R * N];
  world w;
  kern_rng rng = {73};
  weir_ask ask[R];
  (void)state;
  open_world(&w);
  w.crew.n = 2;
  for (int32_t r = 0; r < R; r++) {
    random_logits(&rng, l + r * N, N, 2);
    for (int32_t v = N / 2; v < N; v++) l[r * N + v] += 1;
    ask[r] = plain_ask(1, 3, r);
    ask[r].top_k = 10 + r;
    if (r % 2) ask[r].top_p = 0.9f;
  }
  shard_call c = {.logits = l, .rows = R, .n_vocab = N, .n_valid = N, .ask = ask};
  shard_cut_even(&c, 2);
  check_alike(&w, &c, "without a fault");
  shard_answer whole = shard_whole(w.devs.dev[0], &c), got[SHARD_MAX];
  planted p = {&lost, R, 1};
  w.crew.plant = plant;
  w.crew.plant_ctx = &p;
  shard_ask(&w.crew, &c, got);
  if (alike(&got[0], &whole, R)) fail_msg("%s: nobody noticed", lost.what);
  shard_free(got, 2);
  shard_free(&whole, 1);
  close_world(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_rows),  cmocka_unit_test(test_every_combination),
      cmocka_unit_test(test_ties),         cmocka_unit_test(test_many_cuts),
      cmocka_unit_test(test_exchanges),    cmocka_unit_test(test_bad_rows),
      cmocka_unit_test(test_wrong_shards), cmocka_unit_test(test_limits),
      cmocka_unit_test(test_wrong_calls),  cmocka_unit_test(test_planted_faults),
      cmocka_unit_test(test_planted_list)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
