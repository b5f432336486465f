/* SPDX-License-Identifier: Apache-2.0 */
/* The service while tiers go and come back: admission, ends, health, metrics. */
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "served.h"

static const uint32_t ids[] = {5, 6, 7, 8, 9, 10, 11};
enum { N_IDS = sizeof ids / sizeof *ids };

static weir_reply *submit(served *v, const weir_service_request *q) {
  weir_service_error x;
  weir_reply *r;
  if (weir_service_submit(v->service, q, &r, NULL, &x) != WEIR_OK) fail_msg("%d %s", x.code, x.message);
  return r;
}

static weir_reply_end ended(served *v, const weir_service_request *q) {
  weir_reply *r = submit(v, q);
  const weir_reply_end end = *served_await(v, r);
  weir_reply_release(r);
  return end;
}

static void expect_refused(served *v, const weir_service_request *q, const char *why) {
  weir_service_error x;
  weir_reply *r;
  assert_int_not_equal(weir_service_submit(v->service, q, &r, NULL, &x), WEIR_OK);
  assert_int_equal(x.code, 503);
  assert_int_equal(x.retry_after_ms, 5000);
  if (!strstr(x.message, why)) fail_msg("\"%s\" does not say \"%s\"", x.message, why);
}

/* A tier goes and comes back: who needs it is told to try again, the others go on, and all is said of it. */
static void test_tiers_come_back(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.mortal = true;
  served_open(&v, &o);
  weir_service_request defer = served_ids(ids, N_IDS, 60), exact = defer;
  defer.has_entropy = true;
  defer.entropy = 0.5f;
  exact.mode = "exact";
  weir_service_health h = weir_service_get_health(v.service);
  assert_true(h.n_tiers == 2 && h.tier[0].up && h.tier[1].up && h.tier[1].comes_back);
  assert_string_equal(h.tier[1].name, "large");
  assert_true(ended(&v, &defer).counts.by_tier[1] > 0);

  served_kill(&v, 1);
  served_await_tier(&v, 1, false);
  served_skip(&v, 3000000000);
  h = weir_service_get_health(v.service);
  assert_true(h.live && h.ready && h.reason[0] == 0); /* most can be served */
  assert_true(!h.tier[1].up && h.tier[1].for_ns >= 3000000000 && h.tier[1].deaths == 1 && h.tier[0].up);
  assert_non_null(strstr(h.tier[1].why, "node 1 (n?de) is silent")); /* made UTF-8 */
  expect_refused(&v, &exact, "the large model is down");
  const weir_reply_end without = ended(&v, &defer);
  assert_int_equal(without.end, WEIR_END_LENGTH);
  assert_int_equal(without.counts.by_tier[1], 0);
  assert_true(without.counts.wanted_up > 0);
  assert_true(served_metric(&v, "weir:wanted_large_tokens_total", NULL) == without.counts.wanted_up);
  weir_service_refresh_metrics(v.service);
  assert_true(served_metric(&v, "weir:tier_up", "large") == 0);
  assert_true(served_metric(&v, "weir:tier_deaths_total", "large") == 1);
  assert_true(served_metric(&v, "weir:tier_down_seconds_total", "large") >= 3);
  assert_true(served_metric(&v, "weir:tier_down_seconds_total", "small") == 0);

  served_revive(&v, 1);
  served_await_tier(&v, 1, true);
  assert_int_equal(ended(&v, &exact).end, WEIR_END_LENGTH);
  const weir_reply_end again = ended(&v, &defer);
  assert_true(again.counts.by_tier[1] > 0 && again.counts.wanted_up == 0);
  assert_true(served_metric(&v, "weir:tier_up", "large") == 1);
  assert_true(served_metric(&v, "weir:tier_recoveries_total", "large") == 1);
  assert_true(served_metric(&v, "weir:tier_down_seconds_total", "large") >= 3);

  served_kill(&v, 0); /* nothing goes without it here, but it comes back: no new process is wanted */
  served_await_tier(&v, 0, false);
  h = weir_service_get_health(v.service);
  assert_true(h.live && !h.ready);
  assert_non_null(strstr(h.reason, "the small model is down: fake small: node 1"));
  expect_refused(&v, &defer, "the small model is down");
  served_revive(&v, 0);
  served_await_tier(&v, 0, true);
  assert_true(weir_service_get_health(v.service).ready);
  assert_int_equal(ended(&v, &defer).end, WEIR_END_LENGTH);
  served_close(&v);
}

/* One under way when it dies is told when to try again; where it may wait it does, and that is no standstill.
 */
static void test_under_way_when_a_tier_dies(void **state) {
  (void)state;
  for (int waits = 0; waits < 2; waits++) {
    served v;
    served_opts o = served_usual();
    o.mortal = true;
    o.dead_wait_ns = waits ? INT64_C(600000000000) : 0;
    served_open(&v, &o);
    weir_service_request exact = served_ids(ids, N_IDS, 60);
    exact.mode = "exact";
    const weir_reply_end want = ended(&v, &exact);
    served_hold(&v, 4);
    weir_reply *r = submit(&v, &exact);
    served_await_held(&v);
    served_kill(&v, 1);
    served_hold(&v, -1);
    served_await_tier(&v, 1, false);
    if (waits) {
      served_skip(&v, 100000000000); /* above stall_ns */
      for (int i = 0; i < 5000 && !weir_service_get_health(v.service).live; i++) poll(NULL, 0, 1);
      assert_true(weir_service_get_health(v.service).live);
      weir_reply *late = submit(&v, &exact); /* which may wait as well */
      served_revive(&v, 1);
      assert_int_equal(served_await(&v, late)->end, WEIR_END_LENGTH);
      weir_reply_release(late);
    }
    const weir_reply_end *end = served_await(&v, r);
    if (waits) {
      assert_int_equal(end->end, WEIR_END_LENGTH);
      assert_int_equal(end->counts.new_tokens, want.counts.new_tokens);
    } else {
      assert_int_equal(end->end, WEIR_END_ERROR);
      assert_int_equal(end->error.code, 503);
      assert_int_equal(end->error.retry_after_ms, 5000);
    }
    weir_reply_release(r);
    served_close(&v);
  }
}

/* Exact is what is asked for here: with the large one down nothing is taken that asks for nothing. */
static void test_ready_by_default_mode(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.mortal = true;
  o.mode = WEIR_MODE_EXACT;
  served_open(&v, &o);
  served_kill(&v, 1);
  served_await_tier(&v, 1, false);
  weir_service_health h = weir_service_get_health(v.service);
  assert_true(h.live && !h.ready);
  assert_non_null(strstr(h.reason, "the large model is down: "));
  weir_service_request q = served_ids(ids, N_IDS, 5);
  expect_refused(&v, &q, "the large model is down");
  q.mode = "small"; /* who asks for it gets it all the same */
  assert_int_equal(ended(&v, &q).end, WEIR_END_LENGTH);
  served_revive(&v, 1);
  served_await_tier(&v, 1, true);
  h = weir_service_get_health(v.service);
  assert_true(h.ready && h.reason[0] == 0);
  served_close(&v);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tiers_come_back),
      cmocka_unit_test(test_under_way_when_a_tier_dies),
      cmocka_unit_test(test_ready_by_default_mode),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
