/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers, arrivals, lengths and percentiles against theory; objectives; sweeps. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "load/arrivals.h"
#include "load/data.h"
#include "load/samples.h"
#include "load/slo.h"
#include "load/summary.h"
#include "load/sweep.h"
#include "load/timeline.h"

enum { N = 40000 };

/* Mean and coefficient of variation of the gaps; theory's within five standard errors. */
static void test_arrivals(void **state) {
  (void)state;
  static const struct {
    weir_load_kind kind;
    double rate, burstiness, cv;
  } row[] = {{WEIR_LOAD_CONSTANT, 50, 1, 0},     {WEIR_LOAD_POISSON, 50, 1, 1},
             {WEIR_LOAD_POISSON, 0.2, 1, 1},     {WEIR_LOAD_GAMMA, 10, 1, 1},
             {WEIR_LOAD_GAMMA, 10, 0.25, 2},     {WEIR_LOAD_GAMMA, 10, 4, 0.5},
             {WEIR_LOAD_GAMMA, 10, 0.5, M_SQRT2}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    weir_arrivals a;
    const weir_arrivals_cfg c = {
        .kind = row[k].kind, .rate = row[k].rate, .burstiness = row[k].burstiness, .seed = 5};
    assert_int_equal(weir_arrivals_init(&a, &c, NULL), WEIR_OK);
    double sum = 0, sum2 = 0;
    int64_t last = 0, at = 0;
    for (int i = 0; i <= N; i++) {
      assert_true(weir_arrivals_next(&a, &at));
      assert_true(at >= last);
      const double gap = (double)(at - last) * 1e-9;
      if (i > 0) sum += gap;
      if (i > 0) sum2 += gap * gap;
      last = at;
    }
    const double mean = sum / N, cv = sqrt(fmax(0, sum2 / N - mean * mean)) / mean, want = 1 / row[k].rate;
    if (fabs(mean - want) > want * (5 * row[k].cv / sqrt(N) + 1e-6) ||
        fabs(cv - row[k].cv) > 0.08 * row[k].cv + 1e-4)
      fail_msg("row %zu: mean gap %g (want %g), cv %g (want %g)", k, mean, want, cv, row[k].cv);
  }
}

/* Poisson gaps are exponential: the greatest distance of the two distribution functions (Kolmogorov and
 * Smirnov). */
static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void test_poisson_shape(void **state) {
  (void)state;
  static double gap[N];
  weir_arrivals a;
  const weir_arrivals_cfg c = {.kind = WEIR_LOAD_POISSON, .rate = 2, .seed = 11};
  int64_t last = 0, at;
  assert_int_equal(weir_arrivals_init(&a, &c, NULL), WEIR_OK);
  for (int i = 0; i < N; i++) {
    weir_arrivals_next(&a, &at);
    gap[i] = (double)(at - last) * 1e-9;
    last = at;
  }
  qsort(gap, N, sizeof *gap, by_value);
  double most = 0;
  for (int i = 0; i < N; i++) most = fmax(most, fabs((i + .5) / N - (1 - exp(-2 * gap[i]))));
  if (most > 1.95 / sqrt(N))
    fail_msg("distance %g, 0.1 %% of samples have more than %g", most, 1.95 / sqrt(N));
}

static void test_ramp(void **state) {
  (void)state;
  weir_arrivals a;
  const weir_arrivals_cfg c = {.kind = WEIR_LOAD_RAMP, .rate = 100, .rate_end = 300, .ramp_s = 50, .seed = 2};
  int64_t at = 0, n[6] = {0};
  assert_int_equal(weir_arrivals_init(&a, &c, NULL), WEIR_OK);
  while (weir_arrivals_next(&a, &at) && at < 60000000000) n[at / 10000000000]++;
  static const double want[] = {1200, 1600, 2000,
                                2400, 2800, 3000}; /* the rate's integral over ten seconds */
  for (int i = 0; i < 6; i++)
    if (fabs((double)n[i] - want[i]) > 5 * sqrt(want[i]))
      fail_msg("%d: %lld arrivals, want %g", i, (long long)n[i], want[i]);
}

static void test_same_seed(void **state) {
  (void)state;
  weir_arrivals a[3];
  int64_t at[3];
  bool differs = false;
  for (int i = 0; i < 3; i++) {
    const weir_arrivals_cfg c = {
        .kind = WEIR_LOAD_GAMMA, .rate = 3, .burstiness = .4, .seed = i == 2 ? 8 : 7};
    assert_int_equal(weir_arrivals_init(&a[i], &c, NULL), WEIR_OK);
  }
  for (int i = 0; i < 100; i++) {
    for (int k = 0; k < 3; k++) weir_arrivals_next(&a[k], &at[k]);
    assert_int_equal(at[0], at[1]);
    differs = differs || at[0] != at[2];
  }
  assert_true(differs);
}

static void test_arrivals_refused(void **state) {
  (void)state;
  static const weir_arrivals_cfg bad[] = {{.kind = WEIR_LOAD_POISSON, .rate = 0},
                                          {.kind = WEIR_LOAD_POISSON, .rate = NAN},
                                          {.kind = WEIR_LOAD_GAMMA, .rate = 1, .burstiness = 0},
                                          {.kind = WEIR_LOAD_RAMP, .rate = 1, .rate_end = 2, .ramp_s = 0},
                                          {.kind = WEIR_LOAD_TRACE, .trace_speed = 1},
                                          {.kind = WEIR_LOAD_CLOSED, .rate = 1}};
  weir_arrivals a;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(weir_arrivals_init(&a, &bad[i], NULL), WEIR_EINVAL);
}

/* Percentiles against a sort, with numpy's rule written again. */
static void test_percentiles(void **state) {
  (void)state;
  static const int sizes[] = {1, 2, 3, 10, 99, 100, 101, 5000};
  weir_rand r;
  weir_rand_init(&r, 9, 0);
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    const int n = sizes[k];
    double *x = malloc((size_t)n * sizeof *x), sum = 0;
    weir_samples s;
    weir_samples_init(&s, 0);
    for (int i = 0; i < n; i++) {
      x[i] = floor(weir_rand_exponential(&r) * 50); /* with ties */
      sum += x[i];
      assert_int_equal(weir_samples_add(&s, x[i], NULL), WEIR_OK);
    }
    assert_int_equal(weir_samples_add(&s, NAN, NULL), WEIR_OK); /* left out */
    qsort(x, (size_t)n, sizeof *x, by_value);
    assert_int_equal(s.n, n);
    assert_true(fabs(weir_samples_mean(&s) - sum / n) < 1e-9);
    for (int p = 0; p <= 1000; p++) {
      const double at = p / 1000.0 * (n - 1), got = weir_samples_quantile(&s, p / 1000.0);
      const int i = (int)floor(at), j = (int)ceil(at);
      const double want = x[i] * (1 - (at - i)) + x[j] * (at - i);
      if (fabs(got - want) > 1e-9) fail_msg("n %d q %g: %g, want %g", n, p / 1000.0, got, want);
      /* with 7 others above all */
      const double far = p / 1000.0 * (n + 6), with = weir_samples_quantile_beyond(&s, p / 1000.0, 7);
      const int a = (int)floor(far), b = (int)ceil(far);
      if (b > n - 1 ? !isinf(with) : fabs(with - (x[a] * (1 - (far - a)) + x[b] * (far - a))) > 1e-9)
        fail_msg("n %d q %g, 7 beyond: %g", n, p / 1000.0, with);
    }
    weir_samples_fini(&s);
    free(x);
  }
}

/* Beyond its room a sample stands for all: ascending values would show an early or late bias at once. */
static void test_reservoir(void **state) {
  (void)state;
  weir_samples s;
  weir_samples_init(&s, 2000);
  for (int i = 0; i < 100000; i++) {
    assert_int_equal(weir_samples_add(&s, i, NULL), WEIR_OK);
    if (i % 7777 == 0) weir_samples_quantile(&s, .5);
  }
  assert_int_equal(s.kept, 2000);
  assert_int_equal(s.n, 100000);
  assert_true(weir_samples_quantile(&s, 0) == 0 && weir_samples_quantile(&s, 1) == 99999);
  for (int p = 10; p < 100; p += 20)
    if (fabs(weir_samples_quantile(&s, p / 100.0) / 1000 - p) > 5)
      fail_msg("p%d is %g", p, weir_samples_quantile(&s, p / 100.0));
  weir_samples_fini(&s);
}

/* The interval of the median holds the truth in about 95 of 100 samples. */
static void test_interval(void **state) {
  (void)state;
  weir_rand r;
  weir_rand_init(&r, 4, 0);
  int held = 0;
  for (int k = 0; k < 1000; k++) {
    weir_samples s;
    double lo, hi;
    weir_samples_init(&s, 0);
    for (int i = 0; i < 100; i++) weir_samples_add(&s, weir_rand_exponential(&r), NULL);
    weir_samples_interval(&s, .5, &lo, &hi);
    held += lo <= M_LN2 && M_LN2 <= hi;
    weir_samples_fini(&s);
  }
  if (held < 930 || held > 985) fail_msg("held in %d of 1000", held);
  /* and where neighbours hang together, where an interval by order statistics holds it in less than half */
  held = 0;
  for (int k = 0; k < 300; k++) {
    weir_samples s;
    double lo, hi, z = weir_rand_normal(&r);
    weir_samples_init(&s, 0);
    for (int i = 0; i < 1000; i++) {
      z = 0.9 * z + sqrt(1 - 0.81) * weir_rand_normal(&r);
      weir_samples_add(&s, 10 + z, NULL);
    }
    weir_samples_interval(&s, .5, &lo, &hi);
    held += lo <= 10 && 10 <= hi;
    weir_samples_fini(&s);
  }
  if (held < 270) fail_msg("correlated: held in %d of 300", held);
  weir_samples few; /* too few to say */
  double lo, hi;
  weir_samples_init(&few, 0);
  for (int i = 0; i < 19; i++) weir_samples_add(&few, i, NULL);
  weir_samples_interval(&few, .5, &lo, &hi);
  assert_true(isnan(lo) && isnan(hi));
  weir_samples_fini(&few);
}

static void test_lengths(void **state) {
  (void)state;
  static const struct {
    const char *text;
    bool ok;
    double mean;
  } row[] = {{"128", true, 128},
             {"fixed:7", true, 7},
             {"uniform:10:20", true, 15},
             {"lognormal:100:0.5", true, 113.3},
             {"lognormal:64:0", true, 64},
             {"", false, 0},
             {"0", false, 0},
             {"-4", false, 0},
             {"1.5", false, 0},
             {"uniform:20:10", false, 0},
             {"uniform:1", false, 0},
             {"normal:1:2", false, 0},
             {"128x", false, 0},
             {"lognormal:10:9", false, 0},
             {"99999999", false, 0},
             {"nan", false, 0}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    weir_lengths l;
    weir_rand r;
    weir_rand_init(&r, 1, 0);
    const bool ok = weir_lengths_parse(row[k].text, "--input", &l, NULL) == WEIR_OK;
    if (ok != row[k].ok) fail_msg("\"%s\": %d", row[k].text, ok);
    if (!ok) continue;
    double sum = 0;
    for (int i = 0; i < N; i++) sum += weir_lengths_draw(&l, &r);
    if (fabs(sum / N - row[k].mean) > 0.02 * row[k].mean ||
        fabs(weir_lengths_mean(&l) - row[k].mean) > 0.02 * row[k].mean)
      fail_msg("\"%s\": mean %g, told %g, want %g", row[k].text, sum / N, weir_lengths_mean(&l), row[k].mean);
  }
}

static int words_in(const char *s) {
  int n = *s != '\0';
  for (; *s; s++) n += *s == ' ';
  return n;
}

/* Made-up prompts: as long as asked for, the same each time, with a common beginning of the share asked for.
 */
static void test_made_up(void **state) {
  (void)state;
  weir_data *d;
  const weir_data_cfg c = {.input = {WEIR_LENGTH_FIXED, 100, 100},
                           .output = {WEIR_LENGTH_FIXED, 9, 9},
                           .shared_prefix = .4,
                           .n_prefixes = 1,
                           .turns = 2,
                           .seed = 6};
  char first[4096];
  weir_item item;
  assert_int_equal(weir_data_open(&c, &d, NULL), WEIR_OK);
  assert_int_equal(weir_data_get(d, 0, 0, &item, NULL), WEIR_OK);
  assert_int_equal(words_in(item.prompt), 100);
  assert_int_equal(item.max_tokens, 9);
  assert_true(item.more);
  snprintf(first, sizeof first, "%s", item.prompt);
  assert_int_equal(weir_data_get(d, 1, 0, &item, NULL), WEIR_OK);
  size_t same = 0;
  while (first[same] == item.prompt[same]) same++;
  char common[4096];
  snprintf(common, sizeof common, "%.*s", (int)same, first);
  assert_in_range(words_in(common), 40, 43); /* by chance a word or two more */
  assert_int_equal(weir_data_get(d, 0, 0, &item, NULL), WEIR_OK);
  assert_string_equal(item.prompt, first);
  assert_int_equal(weir_data_get(d, 0, 1, &item, NULL), WEIR_OK);
  assert_false(item.more);
  weir_data_set_words_per_token(d, 0.5);
  assert_int_equal(weir_data_get(d, 0, 0, &item, NULL), WEIR_OK);
  assert_int_equal(words_in(item.prompt), 50);
  weir_data_close(d);
}

static void test_slo_terms(void **state) {
  (void)state;
  static const struct {
    const char *text;
    weir_slo_metric metric;
    int of;
    double q, bound;
    bool at_least, strict;
  } row[] = {{"ttft=200ms", WEIR_SLO_TTFT, WEIR_SLO_EACH, 0, .2, false, false},
             {"tpot<50ms", WEIR_SLO_TPOT, WEIR_SLO_EACH, 0, .05, false, true},
             {" e2e <= 2 s ", WEIR_SLO_E2E, WEIR_SLO_EACH, 0, 2, false, false},
             {"itl<800us", WEIR_SLO_ITL, WEIR_SLO_EACH, 0, 8e-4, false, true},
             {"ttft_p99<500ms", WEIR_SLO_TTFT, WEIR_SLO_QUANTILE, .99, .5, false, true},
             {"e2e_p99.9<=1m", WEIR_SLO_E2E, WEIR_SLO_QUANTILE, .999, 60, false, false},
             {"queue_max<1s", WEIR_SLO_QUEUE, WEIR_SLO_QUANTILE, 1, 1, false, true},
             {"tpot_mean<30ms", WEIR_SLO_TPOT, WEIR_SLO_MEAN, 0, .03, false, true},
             {"error_rate<1%", WEIR_SLO_ERROR_RATE, WEIR_SLO_VALUE, 0, .01, false, true},
             {"deferral_rate=0.3", WEIR_SLO_DEFERRAL_RATE, WEIR_SLO_VALUE, 0, .3, false, false},
             {"exact_match>0.5", WEIR_SLO_EXACT_MATCH, WEIR_SLO_VALUE, 0, .5, true, true},
             {"rps=10", WEIR_SLO_RPS, WEIR_SLO_VALUE, 0, 10, true, false},
             {"good>=0.95", WEIR_SLO_GOOD, WEIR_SLO_VALUE, 0, .95, true, false}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    weir_slo s;
    weir_err e = {0};
    if (weir_slo_parse(row[k].text, &s, &e) != WEIR_OK) fail_msg("%s: %s", row[k].text, e.msg);
    const weir_slo_term *t = &s.term[0];
    assert_int_equal(s.n, 1);
    if (t->metric != row[k].metric || (int)t->of != row[k].of || fabs(t->q - row[k].q) > 1e-12 ||
        fabs(t->bound - row[k].bound) > 1e-12 || t->at_least != row[k].at_least || t->strict != row[k].strict)
      fail_msg("%s: metric %d of %d q %g bound %g >= %d strict %d", row[k].text, t->metric, t->of, t->q,
               t->bound, t->at_least, t->strict);
  }
}

static void test_slo_refused(void **state) {
  (void)state;
  static const char *const row[][2] = {
      {"ttft", "an operator"},    {"=3", "an operator"},     {"ttft=200", "unit"},
      {"ttft=200kg", "unit"},     {"ttft=", "number"},       {"ttft=-1ms", "number"},
      {"ttft=nanms", "number"},   {"tfft=1ms", "ttft"},      {"ttft_p101<1s", "ttft_p50"},
      {"ttft_pp<1s", "ttft_p50"}, {"ttft_p<1s", "ttft_p50"}, {"ttft_p9x<1s", "ttft_p50"},
      {"ttft>1s", "upper"},       {"rps>10ms", "plain"},     {"error_rate_p99<1", "not measured"},
      {"ttft=1ms,,foo=2", "foo"}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    weir_slo s;
    weir_err e = {0};
    if (weir_slo_parse(row[k][0], &s, &e) != WEIR_EINVAL || !strstr(e.msg, row[k][1]))
      fail_msg("%s: %s", row[k][0], e.msg);
  }
}

static void test_slo_good(void **state) {
  (void)state;
  weir_slo s;
  assert_int_equal(weir_slo_parse("ttft=200ms, tpot<50ms, ttft_p99<1ms", &s, NULL), WEIR_OK);
  assert_true(weir_slo_has_each(&s));
  static const struct {
    double ttft, tpot;
    bool good;
  } row[] = {{.1, .04, true},  {.2, .04, true}, {.2001, .04, false},
             {.1, .05, false}, {.1, NAN, true}, {NAN, .06, false}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    double t[WEIR_SLO_N_TIMES] = {NAN, NAN, NAN, NAN, NAN};
    t[WEIR_SLO_TTFT] = row[k].ttft;
    t[WEIR_SLO_TPOT] = row[k].tpot;
    if (weir_slo_good(&s, t) != row[k].good) fail_msg("row %zu", k);
  }
  assert_false(weir_slo_term_met(&s.term[2], NAN));
  assert_false(weir_slo_term_met(&s.term[2], .001));
  assert_true(weir_slo_term_met(&s.term[2], .0009));
}

/* A server of known capacity: beyond it the objectives break. The knee that is found lies within the grid of
 * the refinement below the truth. */
static void test_sweep_finds_knee(void **state) {
  (void)state;
  static const double truth[] = {1.5, 10, 37, 100};
  for (size_t k = 0; k < sizeof truth / sizeof *truth; k++) {
    weir_sweep s;
    const weir_sweep_cfg c = {.from = 1, .most = 1000, .refine = 4};
    double x;
    assert_int_equal(weir_sweep_init(&s, &c, NULL), WEIR_OK);
    while (weir_sweep_next(&s, &x)) weir_sweep_tell(&s, x <= truth[k], x <= truth[k] ? x : truth[k] / 2);
    const int32_t knee = weir_sweep_knee(&s);
    assert_true(knee >= 0);
    if (s.x[knee] > truth[k] || s.x[knee] < truth[k] / pow(2, 1.0 / 16) * 0.999)
      fail_msg("knee %g, truth %g, %d points", s.x[knee], truth[k], s.n);
  }
}

static void test_sweep_stops(void **state) {
  (void)state;
  static const double points[] = {1, 2, 4, 8, 16};
  static const double goodput[] = {10, 18, 19, 12, 50};
  weir_sweep s;
  double x;
  weir_sweep_cfg c = {.points = points, .n_points = 5, .whole = true};
  for (int to_end = 0; to_end < 2; to_end++) {
    c.to_end = to_end;
    assert_int_equal(weir_sweep_init(&s, &c, NULL), WEIR_OK);
    while (weir_sweep_next(&s, &x)) weir_sweep_tell(&s, true, goodput[s.n]);
    assert_int_equal(s.n, to_end ? 5 : 4);
    assert_int_equal(weir_sweep_knee(&s), to_end ? 4 : 2);
  }
  /* doubling, no objectives: goodput that stands still ends it, and whole loads are not cut finer */
  c = (weir_sweep_cfg){.from = 1, .most = 64, .refine = 3, .whole = true};
  assert_int_equal(weir_sweep_init(&s, &c, NULL), WEIR_OK);
  while (weir_sweep_next(&s, &x)) {
    assert_true(x == floor(x));
    weir_sweep_tell(&s, true, fmin(x, 4) * 5);
  }
  assert_true(s.x[weir_sweep_knee(&s)] >= 4 && s.x[weir_sweep_knee(&s)] < 8);
  /* the last step is cut short by `most`: a load that carries all of it has no knee before; one that stands
   * still there has */
  c = (weir_sweep_cfg){.from = 10, .most = 20.5};
  for (int still = 0; still < 2; still++) {
    assert_int_equal(weir_sweep_init(&s, &c, NULL), WEIR_OK);
    while (weir_sweep_next(&s, &x)) weir_sweep_tell(&s, true, still ? fmin(x, 20) : x);
    assert_int_equal(s.n, 3);
    assert_int_equal(weir_sweep_knee(&s), still ? 1 : 2);
  }
  c = (weir_sweep_cfg){.from = 1, .most = 64, .refine = 3, .whole = true};
  /* nothing is good */
  assert_int_equal(weir_sweep_init(&s, &c, NULL), WEIR_OK);
  while (weir_sweep_next(&s, &x)) weir_sweep_tell(&s, false, 0);
  assert_int_equal(weir_sweep_knee(&s), -1);
  assert_int_equal(s.n, 1);
  c = (weir_sweep_cfg){.points = (const double[]){1.5}, .n_points = 1, .whole = true};
  assert_int_equal(weir_sweep_init(&s, &c, NULL), WEIR_EINVAL);
}

static void test_timeline(void **state) {
  (void)state;
  weir_timeline t;
  const int32_t tier[WEIR_LOAD_TIERS] = {1, 2};
  weir_timeline_init(&t);
  for (int i = 0; i < 100000; i++) weir_timeline_add(&t, i * 0.01, 3, tier);
  int64_t all = 0, large = 0;
  for (int i = 0; i < t.n; i++) {
    all += t.slot[i].tokens;
    large += t.slot[i].by_tier[1];
    if (i + 1 < t.n)
      assert_true(fabs((double)t.slot[i].tokens - t.width_s * 300) <= 3); /* one event at an edge */
  }
  assert_int_equal(all, 300000);
  assert_int_equal(large, 200000);
  assert_true(t.n <= WEIR_TIMELINE_SLOTS && t.n * t.width_s >= 1000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_arrivals),
      cmocka_unit_test(test_poisson_shape),
      cmocka_unit_test(test_ramp),
      cmocka_unit_test(test_same_seed),
      cmocka_unit_test(test_arrivals_refused),
      cmocka_unit_test(test_percentiles),
      cmocka_unit_test(test_reservoir),
      cmocka_unit_test(test_interval),
      cmocka_unit_test(test_lengths),
      cmocka_unit_test(test_made_up),
      cmocka_unit_test(test_slo_terms),
      cmocka_unit_test(test_slo_refused),
      cmocka_unit_test(test_slo_good),
      cmocka_unit_test(test_sweep_finds_knee),
      cmocka_unit_test(test_sweep_stops),
      cmocka_unit_test(test_timeline),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
