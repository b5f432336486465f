/* SPDX-License-Identifier: Apache-2.0 */
/* The drift alarm: quiet on traffic like the calibration's, as its rate says; awake within a stated number of
 * requests on traffic that is not; with hysteresis; profiles that cannot be are refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "calibrate/drift.h"

/* ---- made-up traffic ---- */

static uint64_t state_of_draws;
static double uniform(void) {
  uint64_t z = state_of_draws += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

/* A kind of traffic: shares of easy tokens (entropy near 0) differ much between requests, and lie together
 * inside one, as real ones do: a request has a difficulty of its own. hard: of requests; length: tokens of
 * one. */
typedef struct traffic {
  double hard, skew;
  int length;
} traffic;

enum { MAX_LENGTH = 200 };

static int request(const traffic *t, float entropy[MAX_LENGTH]) {
  const double difficulty = pow(uniform(), t->skew) * t->hard;
  const int n = 1 + (int)(uniform() * t->length);
  for (int i = 0; i < n; i++)
    entropy[i] = (float)(uniform() < difficulty ? -log(uniform()) * 0.9 : 0.02 * uniform());
  return n;
}

static const traffic usual = {0.3, 2, 60}, mixed = {0.6, 1, 60}, heavy = {0.5, 6, 30}, tiny = {0.9, 1, 3};

static void calibrate_on(const traffic *t, int n, weir_drift_profile *out) {
  weir_drift_sums sums = {0};
  float entropy[MAX_LENGTH];
  for (int i = 0; i < n; i++) {
    const int k = request(t, entropy);
    int deferred = 0;
    for (int j = 0; j < k; j++) deferred += entropy[j] > 0.45f;
    weir_drift_sums_add(&sums, entropy, k, deferred);
  }
  weir_drift_profile_make(&sums, out);
  weir_err e;
  assert_int_equal(weir_drift_profile_check(out, &e), WEIR_OK);
}

static weir_drift_news feed(weir_drift *d, const traffic *t) {
  float entropy[MAX_LENGTH];
  const int k = request(t, entropy);
  int deferred = 0;
  for (int j = 0; j < k; j++) deferred += entropy[j] > 0.45f;
  return weir_drift_add(d, entropy, k, deferred);
}

/* 100 streams of 3000 requests, each after a calibration of its own: 43 checks a stream at a rate of 1e-4 may
 * give an alarm in 0.43 of the hundred streams on average; more than 3 has a probability below 0.001. The
 * score of quiet traffic is looked at too: a limit so wide that nothing comes near it would pass any such
 * test. */
static void test_quiet(void **state) {
  (void)state;
  const traffic *const kinds[] = {&usual, &heavy, &tiny};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    int alarms = 0;
    double worst = 0;
    for (int stream = 0; stream < 100; stream++) {
      weir_drift_profile p;
      weir_drift d;
      weir_err e;
      state_of_draws = 1000 * k + (uint64_t)stream;
      calibrate_on(kinds[k], 225, &p);
      assert_int_equal(weir_drift_init(&d, &p, WEIR_DRIFT_WINDOW, WEIR_DRIFT_RATE, &e), WEIR_OK);
      for (int i = 0; i < 3000; i++) {
        alarms += feed(&d, kinds[k]) == WEIR_DRIFT_BEGAN;
        worst = fmax(worst, d.score);
      }
      assert_int_equal(d.checks, (3000 - WEIR_DRIFT_WINDOW) / (WEIR_DRIFT_WINDOW / 4) + 1);
      weir_drift_fini(&d);
    }
    print_message("  kind %zu: %d alarms in 100 streams, highest score %.2f\n", k, alarms, worst);
    if (alarms > 3) fail_msg("%d of 100 undrifted streams gave an alarm", alarms);
    assert_true(worst > 0.4);
  }
}

/* Another mix: the alarm comes within the window and a quarter, ends when the traffic is as before, and
 * neither flickers. */
static void test_drift(void **state) {
  (void)state;
  static const struct {
    const char *name;
    traffic to;
    int within;
  } cases[] = {{"only hard requests", {1, 0.3, 60}, 128}, /* half the window is enough of them */
               {"mostly hard ones", {1, 1, 60}, WEIR_DRIFT_WINDOW},
               {"only easy ones", {0.1, 1, 60}, WEIR_DRIFT_WINDOW},
               {"nothing is hard", {0, 1, 200}, 128}};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
    for (uint64_t seed = 0; seed < 20; seed++) {
      weir_drift_profile p;
      weir_drift d;
      weir_err e;
      int began = 0, ended = 0, at = -1;
      state_of_draws = 77 + seed;
      calibrate_on(&mixed, 225, &p);
      assert_int_equal(weir_drift_init(&d, &p, WEIR_DRIFT_WINDOW, WEIR_DRIFT_RATE, &e), WEIR_OK);
      for (int i = 0; i < 600; i++) assert_int_equal(feed(&d, &mixed), WEIR_DRIFT_NO_NEWS);
      for (int i = 0; i < 600; i++) {
        const weir_drift_news news = feed(&d, &cases[c].to);
        began += news == WEIR_DRIFT_BEGAN;
        ended += news == WEIR_DRIFT_ENDED;
        if (news == WEIR_DRIFT_BEGAN) at = i;
      }
      if (began != 1 || ended != 0) fail_msg("%s: %d alarms, %d ends", cases[c].name, began, ended);
      if (at > cases[c].within + WEIR_DRIFT_WINDOW / 4)
        fail_msg("%s: an alarm after %d requests", cases[c].name, at);
      assert_true(d.alarm && d.score > 0.7 && d.nats > 0 && d.nats <= 4);
      for (int i = 0; i < 600; i++) {
        const weir_drift_news news = feed(&d, &mixed);
        began += news == WEIR_DRIFT_BEGAN;
        ended += news == WEIR_DRIFT_ENDED;
      }
      if (began != 1 || ended != 1)
        fail_msg("%s: back again, %d alarms, %d ends", cases[c].name, began, ended);
      assert_false(d.alarm);
      weir_drift_fini(&d);
    }
}

/* A single request with many tokens is one request: ten long ones among short ones are no drift. */
static void test_one_voice_each(void **state) {
  (void)state;
  weir_drift_profile p;
  weir_drift d;
  weir_err e;
  static float wild[100000];
  for (size_t i = 0; i < sizeof wild / sizeof *wild; i++) wild[i] = 3;
  state_of_draws = 5;
  calibrate_on(&usual, 225, &p);
  assert_int_equal(weir_drift_init(&d, &p, 64, WEIR_DRIFT_RATE, &e), WEIR_OK);
  for (int i = 0; i < 640; i++)
    assert_int_equal(i % 64 == 0 ? weir_drift_add(&d, wild, 100000, 100000) : feed(&d, &usual),
                     WEIR_DRIFT_NO_NEWS);
  weir_drift_fini(&d);
}

/* What the sums come to, by hand. */
static void test_profile(void **state) {
  (void)state;
  weir_drift_sums s = {0};
  weir_drift_profile p;
  const float a[] = {0, 0.0625f, 0.0626f, NAN, 5}, b[] = {0.5f}, none[] = {NAN};
  weir_drift_sums_add(&s, a, 5, 2);
  weir_drift_sums_add(&s, b, 1, 0);
  weir_drift_sums_add(&s, none, 1, 0); /* the gate saw nothing: no observation */
  weir_drift_sums_add(&s, none, 0, 0);
  weir_drift_profile_make(&s, &p);
  assert_int_equal(p.n, 2);
  /* a: 2 of 4 at the first bound or below, 3 of 4 at the second, and 5 nats lie above all; b: from bin 7 on
   */
  assert_true(fabs(p.cdf[0] - (0.5 + 0) / 2) < 1e-12 && fabs(p.cdf[1] - 0.75 / 2) < 1e-12);
  assert_true(fabs(p.cdf[6] - 0.75 / 2) < 1e-12 && fabs(p.cdf[7] - 1.75 / 2) < 1e-12);
  assert_true(fabs(p.cdf[63] - 1.75 / 2) < 1e-12);
  assert_true(fabs(p.var[0] - 0.125) < 1e-12 && fabs(p.var[7] - 0.03125) < 1e-12);
  assert_true(fabs(p.deferred - 0.25) < 1e-12 && fabs(p.entropy - ((0.1251 + 5) / 4 + 0.5) / 2) < 1e-6);
}

static void test_refused(void **state) {
  (void)state;
  weir_drift_profile good, p;
  weir_drift d;
  weir_err e;
  state_of_draws = 1;
  calibrate_on(&usual, 100, &good);
  p = good;
  p.n = WEIR_DRIFT_MIN_REQUESTS - 1;
  assert_int_equal(weir_drift_profile_check(&p, &e), WEIR_EFORMAT);
  p = good;
  p.cdf[10] = p.cdf[9] - 0.1;
  assert_int_equal(weir_drift_profile_check(&p, &e), WEIR_EFORMAT);
  p = good;
  p.cdf[63] = 1.5;
  assert_int_equal(weir_drift_profile_check(&p, &e), WEIR_EFORMAT);
  p = good;
  p.var[3] = NAN;
  assert_int_equal(weir_drift_profile_check(&p, &e), WEIR_EFORMAT);
  p = good;
  p.entropy = -1;
  assert_int_equal(weir_drift_init(&d, &p, 256, 1e-4, &e), WEIR_EFORMAT);
  assert_int_equal(weir_drift_init(&d, &good, 8, 1e-4, &e), WEIR_EINVAL);
  assert_int_equal(weir_drift_init(&d, &good, 256, 0, &e), WEIR_EINVAL);
  weir_drift_fini(&d);
  /* one that was never made is silent */
  assert_int_equal(feed(&d, &usual), WEIR_DRIFT_NO_NEWS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_quiet),   cmocka_unit_test(test_drift),   cmocka_unit_test(test_one_voice_each),
      cmocka_unit_test(test_profile), cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
