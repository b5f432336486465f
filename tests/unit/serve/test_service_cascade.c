/* SPDX-License-Identifier: Apache-2.0 */
/* What a request may ask of the cascade: what is refused, under which name, and what a server's own settings
 * do not let be got round. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "served.h"

static const uint32_t ids[] = {5, 6, 7, 8, 9, 10, 11};
enum { N_IDS = sizeof ids / sizeof *ids };
#define IDS .prompt = {.ids = ids, .n_ids = N_IDS}, .max_tokens = 8, .ignore_eos = true

typedef struct refusal {
  weir_service_request q;
  const char *param;
} refusal;

static void expect_refusals(served *v, const refusal *cases, size_t n) {
  for (size_t c = 0; c < n; c++) {
    weir_service_error x;
    weir_reply *r;
    if (weir_service_submit(v->service, &cases[c].q, &r, NULL, &x) == WEIR_OK)
      fail_msg("case %zu: taken, not refused for %s", c, cases[c].param);
    if (x.code != 400 || strcmp(x.param, cases[c].param) != 0)
      fail_msg("case %zu: %d %s: %s; want %s", c, x.code, x.param, x.message, cases[c].param);
    assert_true(x.message[0] != 0);
  }
  assert_int_equal(weir_service_open_requests(v->service), 0);
}

/* Taken, and ended with all its tokens. */
static weir_reply_end expect_taken(served *v, const weir_service_request *q) {
  weir_service_error x;
  weir_reply *r;
  if (weir_service_submit(v->service, q, &r, NULL, &x) != WEIR_OK) fail_msg("%d %s", x.code, x.message);
  const weir_reply_end end = *served_await(v, r);
  weir_reply_release(r);
  if (end.end != WEIR_END_LENGTH) fail_msg("end %d: %s", (int)end.end, end.error.message);
  return end;
}

/* A server that bounds the threshold of the entropy gate from below. */
static void test_refusals(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  static const weir_service_setting unknown[] = {{"wind", "1"}}, holds[] = {{"hold", "2"}, {"hold", "3"}},
                                    gate[] = {{"gate", "margin"}}, low[] = {{"threshold", "0.05"}},
                                    window[] = {{"window", "4"}}, word[] = {{"window", "wide"}},
                                    fine[] = {{"threshold", "0.5"}};
  static const char *const holes[] = {"a", ""}, *const latin[] = {"\xe9"}, *const many[257];
  static char big[(1 << 16) + 1];
  memset(big, 'x', sizeof big - 1);
  const char *const large = big;
  static const weir_service_setting share[] = {{"route_share", "0"}}, far[] = {{"fusion_weight", "1e9"}};
  const weir_service_span under = {0.05f, "a", "b"};
  const weir_service_span spans[17] = {{1, "", "b"}, {NAN, "a", "b"}, {1, "a", NULL}};
  const refusal cases[] = {
      {{IDS, .choice = holes, .n_choices = 2}, "choices"},
      {{IDS, .choice = latin, .n_choices = 1}, "choices"},
      {{IDS, .choice = many, .n_choices = 257}, "choices"},
      {{IDS, .choice = &large, .n_choices = 1}, "choices"},
      {{IDS, .span = spans, .n_spans = 1}, "cascade.span"},     /* no start */
      {{IDS, .span = spans + 1, .n_spans = 1}, "cascade.span"}, /* no number */
      {{IDS, .span = spans, .n_spans = 17}, "cascade.span"},
      {{IDS, .mode = "small", .span = spans + 2, .n_spans = 1}, "cascade.span"},
      {{IDS, .span = &under, .n_spans = 1}, "cascade.span"}, /* its entropy is bounded */
      {{IDS, .setting = unknown, .n_settings = 1}, "cascade.wind"},
      {{IDS, .setting = holds, .n_settings = 2}, "cascade.hold"},    /* twice */
      {{IDS, .setting = holds, .n_settings = 1}, "cascade.hold"},    /* its entropy is bounded */
      {{IDS, .setting = gate, .n_settings = 1}, "cascade.gate"},     /* likewise */
      {{IDS, .setting = low, .n_settings = 1}, "cascade.threshold"}, /* likewise */
      {{IDS, .setting = window, .n_settings = 1}, "cascade.window"}, /* defer has none */
      {{IDS, .setting = share, .n_settings = 1}, "cascade.route_share"},
      {{IDS, .setting = far, .n_settings = 1}, "cascade.fusion_weight"}, /* out of range */
      {{IDS, .setting = low, .n_settings = 33}, "cascade.setting"},      /* not looked at */
      {{IDS, .setting = word, .n_settings = 1}, "cascade.window"},
      {{IDS, .setting = fine, .n_settings = 1, .has_entropy = true, .entropy = 1}, "cascade.entropy"},
      {{IDS, .setting = fine, .n_settings = 1, .has_defer_rate = true, .defer_rate = 0.1f},
       "cascade.threshold"},
  };
  expect_refusals(&v, cases, sizeof cases / sizeof *cases);
  const weir_service_span high = {2, "a", "b"}, never = {INFINITY, "a", NULL};
  weir_service_request q = {IDS, .span = &high, .n_spans = 1};
  expect_taken(&v, &q);
  q.span = &never;
  expect_taken(&v, &q);
  served_close(&v);
}

/* No file, no fitted gate: refused by name, whichever mode asks. */
static void test_gates_without_files(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.unbounded = true;
  served_open(&v, &o);
  static const weir_service_setting head[] = {{"gate", "head"}}, isotonic[] = {{"gate", "isotonic"}},
                                    margin[] = {{"gate", "margin"}, {"threshold", "0.4"}, {"hold", "2"}};
  const refusal cases[] = {
      {{IDS, .setting = head, .n_settings = 1}, "cascade.gate"},
      {{IDS, .setting = isotonic, .n_settings = 1}, "cascade.gate"},
      {{IDS, .mode = "exact", .setting = head, .n_settings = 1}, "cascade.gate"},
      {{IDS, .mode = "small", .setting = margin, .n_settings = 1}, "cascade.gate"},
  };
  expect_refusals(&v, cases, sizeof cases / sizeof *cases);
  const weir_service_span below = {-1, "a", "b"};
  const weir_service_request q = {IDS, .setting = margin, .n_settings = 3, .span = &below, .n_spans = 1};
  expect_taken(&v, &q);
  served_close(&v);
}

/* A server's rate is no request's to get round: neither by a threshold nor by tokens that nobody asks for. */
static void test_own_rate(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.unbounded = true;
  o.cascade_set = WEIR_OPT_DEFER_RATE;
  o.defer_rate = 0.1f;
  served_open(&v, &o);
  static const weir_service_setting hold[] = {{"hold", "100"}}, low[] = {{"threshold", "0"}},
                                    margin[] = {{"gate", "margin"}};
  const weir_service_span span = {-1, "a", "b"};
  const refusal cases[] = {
      {{IDS, .setting = hold, .n_settings = 1}, "cascade.hold"},
      {{IDS, .setting = low, .n_settings = 1}, "cascade.threshold"},
      {{IDS, .span = &span, .n_spans = 1}, "cascade.span"},
      {{IDS, .has_entropy = true, .entropy = 0.2f}, "cascade.entropy"},
  };
  expect_refusals(&v, cases, sizeof cases / sizeof *cases);
  weir_service_request q = {IDS, .setting = margin, .n_settings = 1};
  assert_true(expect_taken(&v, &q).defer_rate == 0.1f);
  q = (weir_service_request){IDS, .mode = "exact", .setting = hold,
                             .n_settings = 1}; /* spends nothing more */
  expect_taken(&v, &q);
  served_close(&v);
}

/* In mode route a rate moves the share, and the threshold stays one's own. */
static void test_rate_of_requests(void **state) {
  (void)state;
  static const weir_service_setting share[] = {{"route_share", "0"}}, low[] = {{"threshold", "0.2"}};
  for (int own = 0; own < 2; own++) {
    served v;
    served_opts o = served_usual();
    o.unbounded = true;
    o.mode = WEIR_MODE_ROUTE;
    o.cascade_set = own ? WEIR_OPT_DEFER_RATE : WEIR_OPT_ROUTE_SHARE;
    o.defer_rate = own ? 0.25f : 0;
    served_open(&v, &o);
    const refusal cases[] = {
        {{IDS, .setting = share, .n_settings = 1, .has_defer_rate = true, .defer_rate = 0.1f},
         "cascade.route_share"},
    };
    expect_refusals(&v, cases, 1);
    weir_service_request q = {IDS, .has_defer_rate = true, .defer_rate = 0.5f};
    const float held = expect_taken(&v, &q).defer_rate;
    if (held != (own ? 0.25f : 0.5f)) fail_msg("rate %g", (double)held);
    q = (weir_service_request){IDS, .setting = low, .n_settings = 1, .has_defer_rate = true,
                               .defer_rate = 0.5f};
    expect_taken(&v, &q);
    q = (weir_service_request){IDS, .has_entropy = true, .entropy = 0.3f};
    expect_taken(&v, &q);
    q = (weir_service_request){IDS, .setting = share, .n_settings = 1};
    if (own)
      expect_refusals(&v, &(refusal){q, "cascade.route_share"}, 1);
    else
      expect_taken(&v, &q);
    served_close(&v);
  }
}

/* Tokens that choices leave no other way to are counted, in the request and in the metric. */
static void test_forced_is_counted(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  static const char *const two[] = {"xylophone", "quartz"};
  int32_t forced = 0;
  served_open(&v, &o);
  weir_service_request q = {IDS};
  expect_taken(&v, &q);
  served_await_no_replies(&v);
  assert_true(served_metric(&v, "weir:tokens_forced_total", NULL) == 0);
  for (int n = 1; n <= 2; n++) {
    weir_service_error x;
    weir_reply *r;
    q = (weir_service_request){
        .prompt = {.ids = ids, .n_ids = N_IDS}, .max_tokens = 64, .choice = two, .n_choices = (size_t)n};
    if (weir_service_submit(v.service, &q, &r, NULL, &x) != WEIR_OK) fail_msg("%d %s", x.code, x.message);
    const weir_reply_end end = *served_await(&v, r);
    weir_reply_release(r);
    if (end.end != WEIR_END_STOP) fail_msg("end %d: %s", (int)end.end, end.error.message);
    const weir_counts c = end.counts;
    assert_true(c.forced > 1 && c.forced == c.new_tokens - (n > 1)); /* which of two: one token says */
    forced += c.forced;
    served_await_no_replies(&v);
    assert_true(served_metric(&v, "weir:tokens_forced_total", NULL) == forced);
  }
  served_close(&v);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refusals),          cmocka_unit_test(test_gates_without_files),
      cmocka_unit_test(test_own_rate),          cmocka_unit_test(test_rate_of_requests),
      cmocka_unit_test(test_forced_is_counted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
