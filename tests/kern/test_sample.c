/* SPDX-License-Identifier: Apache-2.0 */
/* The sample op against its reference in double precision, over shards, instruction sets and teams, as a
 * sampler (chi-squared), and at its edges. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/cpu/simd.h"
#include "kernels/sample_core.h"
#include "sample_util.h"

static void test_against_reference(void **state) {
  static const struct {
    int32_t n, rounds;
  } sizes[] = {{1, 6},     {2, 10},   {5, 10},    {63, 10},  {64, 10},   {65, 10},
               {1000, 10}, {4095, 5}, {4096, 15}, {4097, 5}, {12289, 5}, {MAX_VOCAB, 1}};
  kern_devs devs;
  kern_rng rng = {17};
  worst w = {0};
  int rows_seen = 0, edited = 0;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
    for (int32_t round = 0; round < sizes[k].rounds; round++) {
      const int32_t n = sizes[k].n, rows = n > 100000 ? 5 : 7;
      float *l = (float *)malloc(sizeof *l * (size_t)rows * (size_t)n);
      weir_ask ask[7];
      weir_logit_edit *extras[7] = {NULL};
      weir_row first[7], got[7], one;
      weir_top tops[7][WEIR_TOP_MAX], got_tops[7][WEIR_TOP_MAX], one_top[WEIR_TOP_MAX];
      weir_err e = {0};
      for (int32_t r = 0; r < rows; r++) {
        random_logits(&rng, l + (size_t)r * (size_t)n, n, (int)(r % 5));
        ask[r] = random_ask(&rng, n);
        if (n > 100000 && r < 2) ask[r].temperature = 0.8f, ask[r].top_k = 50 * r, ask[r].top_p = 0.9f;
        if ((r + round) % 2) extras[r] = random_extras(&rng, n, &ask[r]);
        edited += ask[r].n_edits > 0;
      }
      for (int i = 0; i < devs.n; i++) {
        kern_ok(answer_tops(devs.dev[i], l, rows, n, ask, got, got_tops[0], &e), &e, "sample");
        if (i == 0) memcpy(first, got, sizeof got), memcpy(tops, got_tops, sizeof tops);
        /* the same bits on every instruction set and team, which is more than was promised */
        kern_same(got, first, sizeof *got * (size_t)rows, weir_isa_name(devs.isa[i]));
        kern_same(got_tops, tops, sizeof *tops * (size_t)rows, weir_isa_name(devs.isa[i]));
      }
      for (int32_t r = 0; r < rows; r++, rows_seen++) {
        const float *row = l + (size_t)r * (size_t)n;
        const size_t top_bytes = sizeof *one_top * (size_t)ask[r].n_top;
        check_row(&first[r], tops[r], &ask[r], row, n, &w);
        kern_ok(answer_tops(devs.dev[r % devs.n], row, 1, n, &ask[r], &one, one_top, &e), &e, "sample");
        kern_same(&one, &first[r], sizeof one, "alone");
        kern_same(one_top, tops[r], top_bytes, "alone, tops");
        for (int32_t shards = 1; shards <= 4; shards++) {
          const weir_sample_chunks *ops = &weir_simd_get(devs.isa[r % devs.n])->sample;
          one = answer_in_shards(ops, row, n, &ask[r], shards, one_top);
          kern_same(&one, &first[r], sizeof one, "in shards");
          kern_same(one_top, tops[r], top_bytes, "in shards, tops");
        }
        free(extras[r]);
      }
      free(l);
    }
  kern_devs_close(&devs);
  print_message(
      "%d rows, %d with edits; worst errors (relative above 1, else absolute): entropy %.2g (bound 2e-6), "
      "log p %.2g, p_max "
      "%.2g, margin "
      "%.2g (bound 1e-6); %d draws too close to call\n",
      rows_seen, edited, w.entropy, w.logprob, w.p, w.margin, w.close);
  assert_true(w.close <= rows_seen / 100);
}

/* What the cut leaves, id by id. */
static void test_cut(void **state) {
  kern_devs devs;
  kern_rng rng = {23};
  int checked = 0;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int round = 0; round < 400; round++) {
    enum { N = 9000 };
    static float l[N];
    const int32_t n = round % 4 == 0 ? N : 1 + kern_below(&rng, 300);
    random_logits(&rng, l, n, round % 5);
    if (round % 20 == 19)
      for (int32_t v = 0; v < n; v++) l[v] = 1.25f; /* all tie, over chunks */
    weir_ask ask = plain_ask(round % 3 ? 1 : 0.6f, 1, 1);
    if (round % 2) ask.top_k = 1 + kern_below(&rng, n);
    if (round % 4 < 2 || !ask.top_k) ask.top_p = (float)(0.01 + 0.98 * kern_unit(&rng));
    sample_ref ref;
    sample_ref_make(&ref, l, n, &ask);
    if (ref.boundary < 1e-6) {
      sample_ref_free(&ref);
      continue;
    }
    for (int i = 0; i < devs.n; i++) {
      if (devs.threads[i] > 1) continue;
      const weir_sample_chunks *ops = &weir_simd_get(devs.isa[i])->sample;
      weir_sample_stat part[3];
      const int32_t n_chunks = weir_sample_n_chunks(n);
#define CHUNK_N(c) \
  (n - (c)*WEIR_SAMPLE_CHUNK < WEIR_SAMPLE_CHUNK ? n - (c)*WEIR_SAMPLE_CHUNK : WEIR_SAMPLE_CHUNK)
      for (int32_t c = 0; c < n_chunks; c++)
        ops->stat(l + c * WEIR_SAMPLE_CHUNK, c * WEIR_SAMPLE_CHUNK, CHUNK_N(c), &part[c]);
      const weir_sample_stat stat = weir_sample_merge(part, n_chunks);
      weir_sample_law law;
      weir_sample_cut cut;
      static weir_sample_hist h;
      assert_int_equal(weir_sample_plan(&ask, stat.top, stat.max, &law), -1);
      if (!weir_sample_cuts(&ask, n)) continue;
      weir_sample_cut_begin(&ask, n, &cut);
      do {
        memset(&h, 0, sizeof h);
        for (int32_t c = 0; c < n_chunks; c++)
          ops->hist(l + c * WEIR_SAMPLE_CHUNK, CHUNK_N(c), &law, &cut, &h);
      } while (weir_sample_cut_step(&cut, &h, &law));
      int32_t ties = cut.ties;
      for (int32_t v = 0; v < n; v++) {
        const uint32_t key = weir_sample_key(l[v]);
        const bool stays = key > cut.key || (key == cut.key && ties-- > 0);
        /* an id without any mass may stay or go: it cannot be drawn */
        if (ref.w[v] > 1e-12 || (stays && l[v] > -INFINITY && (double)l[v] > (double)stat.max - 20))
          if (stays != (ref.w[v] > 0))
            fail_msg("round %d, %d ids, k %d, p %g: id %d (%g) %s", round, n, ask.top_k, (double)ask.top_p, v,
                     (double)l[v], stays ? "stays" : "goes");
      }
      checked++;
    }
    sample_ref_free(&ref);
  }
  kern_devs_close(&devs);
  assert_true(checked > 500);
}

static void test_draws_follow_the_distribution(void **state) {
  enum { N = 50, DRAWS = 32768, BATCH = MAX_ROWS };
  static const struct {
    float t, p, m;
    int32_t k;
    bool again; /* redraw of a probe that is never kept */
    int32_t n_edits;
  } laws[] = {{1, 1, 0, 0, false, 0},
              {0.7f, 1, 0, 0, false, 0},
              {1.8f, 1, 0, 0, false, 0},
              {1, 1, 0, 10, false, 0},
              {1, 0.8f, 0, 0, false, 0},
              {1, 1, 0.1f, 0, false, 0},
              {0.8f, 0.9f, 0.05f, 20, false, 0},
              {1, 1, 0, 0, true, 0},
              {1, 0.7f, 0, 12, true, 0},
              {1, 1, 0, 0, false, 1},
              {1, 1, 0, 0, false, 12},
              {0.7f, 1, 0, 0, false, 12},
              {0.8f, 0.9f, 0.02f, 20, false, 12},
              {1, 1, 0, 9, true, 12}};
  /* bans, both signs of each number */
  weir_logit_edit edit[] = {{0, 1, WEIR_LOGIT_BAN},  {2, 1.3f, 0},  {5, 1, -0.7f},
                            {8, 0.8f, 0.4f},         {13, 1, 1.5f}, {16, 1.2f, -1},
                            {21, 1, WEIR_LOGIT_BAN}, {22, 2, 0},    {30, 0.5f, 0},
                            {34, 1, -100},           {41, 1, 2},    {49, 1.1f, -0.2f}};
  kern_devs devs;
  kern_rng rng = {5};
  double worst_z = 0;
  static float l[BATCH * N];
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  weir_dev *dev = devs.dev[devs.n - 1];
  random_logits(&rng, l, N, 0);
  l[0] = 5; /* likely, and banned by the edits */
  for (int32_t r = 1; r < BATCH; r++) memcpy(l + r * N, l, N * sizeof *l);
  for (size_t k = 0; k < sizeof laws / sizeof *laws; k++) {
    int seen[N] = {0}, freedom;
    weir_ask ask[BATCH];
    weir_row row[BATCH];
    weir_err e = {0};
    for (int32_t d = 0; d < DRAWS; d += BATCH) {
      for (int32_t r = 0; r < BATCH; r++) {
        ask[r] = plain_ask(laws[k].t, 99 + k, d + r);
        ask[r].top_k = laws[k].k;
        ask[r].top_p = laws[k].p;
        ask[r].min_p = laws[k].m;
        ask[r].edit = edit;
        ask[r].n_edits = laws[k].n_edits;
        if (laws[k].again) ask[r].probe = 3, ask[r].keep = WEIR_KEEP_NLL, ask[r].keep_a = -1;
      }
      kern_ok(answer(dev, l, BATCH, N, ask, row, &e), &e, "sample");
      for (int32_t r = 0; r < BATCH; r++) seen[row[r].token]++;
    }
    sample_ref ref;
    double p[N], sum = 0;
    sample_ref_make(&ref, l, N, &ask[0]);
    for (int32_t v = 0; v < N; v++) sum += ref.w[v];
    for (int32_t v = 0; v < N; v++) p[v] = ref.w[v] / sum;
    const double x = chi_squared(seen, p, N, DRAWS, &freedom), z = (x - freedom) / sqrt(2.0 * freedom);
    if (fabs(z) > worst_z) worst_z = fabs(z);
    if (!(z < 4)) fail_msg("law %zu: chi-squared %g with %d degrees of freedom", k, x, freedom);
    sample_ref_free(&ref);
  }
  kern_devs_close(&devs);
  print_message("worst z of %zu laws with %d draws each %.2f (bound 4)\n", sizeof laws / sizeof *laws, DRAWS,
                worst_z);
}

/* Draw and redraw of a position are independent; so are positions and seeds. */
static void test_noise_is_independent(void **state) {
  enum { N = 6, DRAWS = 32768, BATCH = MAX_ROWS };
  kern_devs devs;
  kern_rng rng = {6};
  static float l[BATCH * N];
  double p[N], joint[N * N];
  int seen[3][N * N] = {{0}};
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  weir_dev *dev = devs.dev[0];
  random_logits(&rng, l, N, 1);
  for (int32_t r = 1; r < BATCH; r++) memcpy(l + r * N, l, N * sizeof *l);
  for (int32_t d = 0; d < DRAWS; d += BATCH) {
    weir_ask ask[BATCH];
    weir_row a[BATCH], b[3][BATCH];
    weir_err e = {0};
    for (int32_t r = 0; r < BATCH; r++) ask[r] = plain_ask(1, 7, 2 * (d + r));
    kern_ok(answer(dev, l, BATCH, N, ask, a, &e), &e, "sample");
    for (int32_t r = 0; r < BATCH; r++) ask[r].pos++;
    kern_ok(answer(dev, l, BATCH, N, ask, b[0], &e), &e, "sample");
    for (int32_t r = 0; r < BATCH; r++) ask[r].pos--, ask[r].seed++;
    kern_ok(answer(dev, l, BATCH, N, ask, b[1], &e), &e, "sample");
    for (int32_t r = 0; r < BATCH; r++)
      ask[r].seed--, ask[r].probe = 0, ask[r].keep = WEIR_KEEP_NLL, ask[r].keep_a = -1;
    kern_ok(answer(dev, l, BATCH, N, ask, b[2], &e), &e, "sample");
    for (int k = 0; k < 3; k++)
      for (int32_t r = 0; r < BATCH; r++) seen[k][a[r].token * N + b[k][r].token]++;
  }
  sample_ref ref;
  const weir_ask one = plain_ask(1, 7, 0);
  sample_ref_make(&ref, l, N, &one);
  for (int32_t v = 0; v < N; v++) p[v] = ref.p[v];
  for (int32_t v = 0; v < N * N; v++) joint[v] = p[v / N] * p[v % N];
  for (int k = 0; k < 3; k++) {
    int freedom;
    const double x = chi_squared(seen[k], joint, N * N, DRAWS, &freedom),
                 z = (x - freedom) / sqrt(2.0 * freedom);
    if (!(z < 4)) fail_msg("pair %d: chi-squared %g with %d degrees of freedom", k, x, freedom);
  }
  sample_ref_free(&ref);
  kern_devs_close(&devs);
}

/* Two tiers that nearly agree draw the same token nearly always, because they share the noise. */
static void test_coupling(void **state) {
  enum { N = 1000, BATCH = MAX_ROWS };
  kern_devs devs;
  kern_rng rng = {8};
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  float *a = (float *)malloc(sizeof *a * BATCH * N), *b = (float *)malloc(sizeof *b * BATCH * N);
  weir_ask ask[BATCH];
  weir_row x[BATCH], y[BATCH], z[BATCH];
  weir_err e = {0};
  double overlap = 0;
  int same = 0;
  for (int32_t r = 0; r < BATCH; r++) {
    random_logits(&rng, a + r * N, N, 0);
    for (int32_t v = 0; v < N; v++) b[r * N + v] = a[r * N + v] + 0.05f * kern_normal(&rng);
    ask[r] = plain_ask(1, 3, r);
    sample_ref p, q;
    sample_ref_make(&p, a + r * N, N, &ask[r]);
    sample_ref_make(&q, b + r * N, N, &ask[r]);
    for (int32_t v = 0; v < N; v++) overlap += fmin(p.p[v], q.p[v]) / BATCH;
    sample_ref_free(&p);
    sample_ref_free(&q);
  }
  weir_dev *dev = devs.dev[0];
  kern_ok(answer(dev, a, BATCH, N, ask, x, &e), &e, "sample");
  kern_ok(answer(dev, b, BATCH, N, ask, y, &e), &e, "sample");
  for (int32_t r = 0; r < BATCH; r++) same += x[r].token == y[r].token;
  assert_true(same >= BATCH * 9 / 10 && overlap < 1);
  /* judged by its own draw, a tier answers with that draw whatever was proposed */
  for (int32_t r = 0; r < BATCH; r++)
    ask[r].probe = r % 2 ? x[r].token : kern_below(&rng, N), ask[r].keep = WEIR_KEEP_OWN;
  kern_ok(answer(dev, b, BATCH, N, ask, z, &e), &e, "sample");
  for (int32_t r = 0; r < BATCH; r++) assert_int_equal(z[r].token, y[r].token);
  print_message("shared noise: %d of %d draws agree, distributions overlap by %.3f\n", same, (int)BATCH,
                overlap);
  free(a);
  free(b);
  kern_devs_close(&devs);
}

static void test_rules(void **state) {
  /* p = 0.5, 0.25, 0.125, 0.125 */
  const float l[] = {0, -0.69314718f, -1.38629436f, -1.38629436f};
  static const struct {
    int32_t probe, want;
    weir_keep keep;
    float a, b, q;
  } cases[] = {{-1, 0, WEIR_KEEP_ALL, 0, 0, 0},
               {2, 2, WEIR_KEEP_ALL, 0, 0, 0},
               {2, 0, WEIR_KEEP_OWN, 0, 0, 0},
               {0, 0, WEIR_KEEP_OWN, 0, 0, 0},
               {1, 1, WEIR_KEEP_NLL, 1.4f, 0, 0},
               {1, 0, WEIR_KEEP_NLL, 1.38f, 0, 0},
               {0, 0, WEIR_KEEP_NLL, 0, 0, 0},
               {3, 3, WEIR_KEEP_NLL, 2.1f, 0, 0},
               {3, 0, WEIR_KEEP_NLL, 2.0f, 0, 0},
               /* q >= 0.5 - a, whatever this tier thinks of the token */
               {1, 1, WEIR_KEEP_V1, 0.1f, 9, -0.91f},
               {1, 0, WEIR_KEEP_V1, 0.1f, 9, -0.93f},
               {0, 0, WEIR_KEEP_V1, 0, 9, -0.6f},
               {3, 3, WEIR_KEEP_V1, 0, 9, -0.6f},
               {3, 3, WEIR_KEEP_V1, 0.51f, 9, -INFINITY},
               {3, 0, WEIR_KEEP_V1, 0.49f, 9, -INFINITY},
               {3, 0, WEIR_KEEP_V1, 0.9f, 9, NAN},
               /* p >= 0.5 - a */
               {1, 1, WEIR_KEEP_V2, 0.26f, 9, 0},
               {1, 0, WEIR_KEEP_V2, 0.24f, 9, 0},
               {3, 3, WEIR_KEEP_V2, 0.38f, 9, 0},
               {3, 0, WEIR_KEEP_V2, 0.37f, 9, 0},
               {0, 0, WEIR_KEEP_V2, 0, 9, 0},
               {3, 3, WEIR_KEEP_V2, 1, 9, 0},
               /* p >= 0.5 (1 - a) */
               {1, 1, WEIR_KEEP_V3, 0.51f, 9, 0},
               {1, 0, WEIR_KEEP_V3, 0.49f, 9, 0},
               {3, 3, WEIR_KEEP_V3, 0.76f, 9, 0},
               {3, 0, WEIR_KEEP_V3, 0.74f, 9, 0},
               {0, 0, WEIR_KEEP_V3, 0, 9, 0},
               {3, 3, WEIR_KEEP_V3, 1, 9, 0},
               {3, 0, WEIR_KEEP_V3, NAN, 9, 0},
               /* p > min(a, b exp(-H)), exp(-H) = 2^-1.75 = 0.2973 */
               {1, 1, WEIR_KEEP_TYPICAL, 0.24f, 1, 0},
               {1, 0, WEIR_KEEP_TYPICAL, 0.26f, 1, 0},
               {1, 1, WEIR_KEEP_TYPICAL, 0.9f, 0.83f, 0},
               {1, 0, WEIR_KEEP_TYPICAL, 0.9f, 0.85f, 0},
               {3, 3, WEIR_KEEP_TYPICAL, 0.09f, 0.3f, 0},
               {3, 3, WEIR_KEEP_TYPICAL, 1, 0, 0},
               {3, 3, WEIR_KEEP_TYPICAL, 0, 1, 0},
               {3, 0, WEIR_KEEP_TYPICAL, 1, 1e9f, 0}};
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < devs.n; i++)
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
      weir_ask ask = plain_ask(0, 1, 1);
      weir_row row;
      weir_err e = {0};
      ask.probe = cases[k].probe;
      ask.keep = cases[k].keep;
      ask.keep_a = cases[k].a;
      ask.keep_b = cases[k].b;
      ask.probe_q = cases[k].q;
      kern_ok(answer(devs.dev[i], l, 1, 4, &ask, &row, &e), &e, "sample");
      if (row.token != cases[k].want) fail_msg("case %zu: token %d, want %d", k, row.token, cases[k].want);
      assert_true(fabs((double)row.p_max - 0.5) < 1e-6 && fabs((double)row.margin - 0.25) < 1e-6);
      assert_true(fabs((double)row.entropy - 1.75 * 0.6931471805599453) < 1e-6);
    }
  kern_devs_close(&devs);
}

static void test_bad_rows(void **state) {
  enum { N = 5000, ROWS = 4 };
  static const int32_t places[] = {0, 1, 17, 4095, 4096, N - 1};
  kern_devs devs;
  kern_rng rng = {9};
  static float l[ROWS * N];
  weir_ask ask[ROWS];
  weir_row row[ROWS];
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < devs.n; i++) {
    for (int bad = 0; bad < 4; bad++)
      for (size_t k = 0; k < sizeof places / sizeof *places; k++)
        for (int32_t r = 0; r < ROWS; r++) {
          weir_err e = {0};
          char name[16];
          for (int32_t q = 0; q < ROWS; q++) {
            random_logits(&rng, l + q * N, N, 0);
            ask[q] = plain_ask((float)(q % 2), 1, q);
          }
          float *x = l + r * N;
          if (bad >= 2) /* nothing above -inf, once with a NaN among it */
            for (int32_t v = 0; v < N; v++) x[v] = -INFINITY;
          if (bad < 2 || bad == 3) x[places[k]] = bad == 1 ? INFINITY : NAN;
          assert_int_equal(answer(devs.dev[i], l, ROWS, N, ask, row, &e), WEIR_EDEVICE);
          snprintf(name, sizeof name, "row %d", (int)r);
          if (strstr(e.msg, name) == NULL) fail_msg("\"%s\" does not name %s", e.msg, name);
        }
    weir_err e = {0};
    random_logits(&rng, l, N, 0);
    l[4] = -INFINITY; /* one masked id is no error */
    kern_ok(answer(devs.dev[i], l, 1, N, ask, row, &e), &e, "sample");
  }
  kern_devs_close(&devs);
}

static void test_extremes(void **state) {
  enum { N = 300 };
  kern_devs devs;
  kern_rng rng = {10};
  static float l[N];
  (void)state;
  kern_devs_open(&devs, &sample_limits);
  for (int i = 0; i < devs.n; i++) {
    weir_dev *dev = devs.dev[i];
    weir_row row;
    weir_err e = {0};
    static const float tiny[] = {1e-6f, 1e-30f, 1e-45f};
    for (int32_t pos = 0; pos < 50; pos++)
      for (size_t k = 0; k < 3; k++) {
        random_logits(&rng, l, N, 0);
        l[77] = 20;
        weir_ask ask = plain_ask(tiny[k], 1, pos);
        if (pos % 2) ask.top_p = 0.5f, ask.top_k = 9;
        kern_ok(answer(dev, l, 1, N, &ask, &row, &e), &e, "sample");
        assert_int_equal(row.token, 77);
      }
    int low = 0;
    for (int32_t pos = 0; pos < 400; pos++) { /* a huge temperature: as good as uniform */
      const weir_ask ask = plain_ask(pos % 2 ? 1e30f : 3e38f, 1, pos);
      kern_ok(answer(dev, l, 1, N, &ask, &row, &e), &e, "sample");
      low += row.token < N / 2;
    }
    assert_true(low > 150 && low < 250);
    /* logits a thousand apart, and as large as floats go */
    const float far[] = {-1000, 1000, 0, -3e38f, 999};
    const weir_ask ask = plain_ask(1, 1, 1);
    for (int k = 0; k < 2; k++) {
      kern_ok(answer(dev, far, 1, 3 + k, &ask, &row, &e), &e, "sample");
      assert_int_equal(row.token, 1);
      assert_true(row.entropy == 0 && row.p_max == 1 && row.logprob == 0 && row.margin == 1);
    }
    const float huge[] = {3e38f, -3e38f, -3e38f};
    kern_ok(answer(dev, huge, 1, 3, &ask, &row, &e), &e, "sample");
    assert_true(row.token == 0 && row.entropy == 0);
    /* ties: greedy takes the lowest id, top_k the lowest ids */
    for (int32_t v = 0; v < N; v++) l[v] = v % 2 ? 0.0f : -0.0f;
    l[0] = -1;
    weir_ask g = plain_ask(0, 1, 1);
    kern_ok(answer(dev, l, 1, N, &g, &row, &e), &e, "sample");
    assert_int_equal(row.token, 1);
    assert_true(row.margin == 0);
    for (int32_t pos = 0; pos < 100; pos++) {
      g = plain_ask(1, 1, pos);
      g.top_k = 3;
      kern_ok(answer(dev, l, 1, N, &g, &row, &e), &e, "sample");
      assert_in_range(row.token, 1, 3);
    }
  }
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_reference),
                                     cmocka_unit_test(test_cut),
                                     cmocka_unit_test(test_draws_follow_the_distribution),
                                     cmocka_unit_test(test_noise_is_independent),
                                     cmocka_unit_test(test_coupling),
                                     cmocka_unit_test(test_rules),
                                     cmocka_unit_test(test_bad_rows),
                                     cmocka_unit_test(test_extremes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
