/* SPDX-License-Identifier: Apache-2.0 */
/* The service: answers are those of the law, ends in every state, admission, draining, failures, health. */
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/keyed_hash.h"
#include "served.h"

static const uint32_t ids[] = {5, 6, 7, 8, 9, 10, 11};
enum { N_IDS = sizeof ids / sizeof *ids };

static weir_reply *submit(served *v, const weir_service_request *q) {
  weir_service_error x;
  weir_reply *r;
  if (weir_service_submit(v->service, q, &r, NULL, &x) != WEIR_OK) fail_msg("%d %s", x.code, x.message);
  return r;
}

/* What `small` or `large` alone would write, greedily. */
static void expect_law(const served *v, const weir_reply *r, int32_t tier) {
  int32_t tok[600], n = N_IDS;
  for (int i = 0; i < N_IDS; i++) tok[i] = (int32_t)ids[i];
  const weir_reply_log *log = weir_reply_tokens(r);
  for (int32_t i = 0; i < weir_reply_log_n(log); i++) {
    const weir_ask a = {.top_p = 1, .pos = n, .probe = -1, .seed = 7};
    const int32_t want = fake_law_row(&v->law, tier, tok, n, &a).token;
    assert_int_equal(weir_reply_log_at(log, i)->receipt.id, want);
    tok[n++] = want;
  }
}

static void test_answers(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  static const struct {
    const char *mode;
    int32_t tier;
    bool pin;
  } cases[] = {{"small", 0, false}, {"exact", 1, false}, {"", 0, true}};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    weir_service_request q = served_ids(ids, N_IDS, 100);
    q.mode = cases[c].mode;
    q.pin = cases[c].pin;
    q.top_logprobs = 3;
    weir_reply *r = submit(&v, &q);
    const weir_reply_end *end = served_await(&v, r);
    assert_int_equal(end->end, WEIR_END_LENGTH);
    assert_int_equal(end->error.code, 0);
    assert_int_equal(weir_reply_n_prompt(r), N_IDS);
    assert_int_equal(end->counts.new_tokens, 100);
    assert_int_equal(weir_reply_log_n(weir_reply_tokens(r)), 100);
    assert_int_equal(end->seed, 7);
    assert_string_equal(end->mode, cases[c].pin ? "small" : cases[c].mode);
    assert_true(end->queued_ns <= end->first_token_ns && end->first_token_ns <= end->total_ns);
    assert_int_equal(weir_reply_log_at(weir_reply_tokens(r), 70)->n_top, 3);
    expect_law(&v, r, cases[c].tier);
    weir_reply_release(r);
  }
  assert_true(served_metric(&v, "weir:pinned_requests_total", NULL) == 1);
  assert_true(served_metric(&v, "weir:pinned_large_rows_total", NULL) == 0);
  assert_true(served_metric(&v, "weir:generation_tokens_total", NULL) == 300);
  assert_true(served_metric(&v, "weir:inter_token_latency_seconds", NULL) == 297);
  double by_mode = 0;
  for (int i = 0; i < WEIR_N_MODES; i++)
    by_mode += served_metric(&v, "weir:mode_tokens_total", weir_mode_name((weir_mode)i));
  assert_true(by_mode == 300);
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    const char *mode = cases[c].pin ? "small" : cases[c].mode;
    assert_true(served_metric(&v, "weir:mode_tokens_total", mode) >= 100);
    assert_true(served_metric(&v, "weir:mode_decode_seconds_total", mode) > 0);
  }
  assert_true(served_metric(&v, "weir:request_success_total", "length") == 3);
  assert_true(served_metric(&v, "weir:request_success_total", "abort") == 0);
  assert_true(served_metric(&v, "weir:e2e_request_latency_seconds", NULL) == 3);
  assert_true(served_metric(&v, "weir:tokens_total", "small") +
                  served_metric(&v, "weir:tokens_total", "large") ==
              300);
  assert_int_equal(weir_service_open_requests(v.service), 0);
  served_await_no_replies(&v);
  served_close(&v);
}

/* The same request again after a stop id, and with the text of a later token as one of two stop strings. */
static void test_stops(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  weir_service_request q = served_ids(ids, N_IDS, 60);
  q.mode = "small";
  weir_reply *whole = submit(&v, &q);
  served_await(&v, whole);
  const weir_reply_log *log = weir_reply_tokens(whole);
  const uint32_t stop_id = (uint32_t)weir_reply_log_at(log, 20)->receipt.id;
  int32_t first = 0;
  while ((uint32_t)weir_reply_log_at(log, first)->receipt.id != stop_id) first++;
  q.stop_ids = &stop_id;
  q.n_stop_ids = 1;
  weir_reply *r = submit(&v, &q);
  const weir_reply_end *end = served_await(&v, r);
  assert_int_equal(end->end, WEIR_END_EOS);
  assert_int_equal(end->counts.new_tokens, first + 1);
  assert_int_equal(end->counts.by_tier[0], first + 1);
  expect_law(&v, r, 0);
  weir_reply_release(r);
  /* not before min_tokens */
  q.min_tokens = (uint32_t)first + 1;
  r = submit(&v, &q);
  end = served_await(&v, r);
  assert_true(end->counts.new_tokens > first + 1);
  weir_reply_release(r);
  q.n_stop_ids = 0;
  q.min_tokens = 0;
  /* a text that occurs */
  char piece[64] = "";
  for (int32_t i = 10; i < 60 && !piece[0]; i++) {
    const weir_reply_token *t = weir_reply_log_at(log, i);
    if (t->len >= 1 && t->len < sizeof piece && !memchr(t->text, 0, t->len)) memcpy(piece, t->text, t->len);
  }
  assert_true(piece[0] != 0);
  const char *stops[] = {"never written here", piece};
  q.stop = stops;
  q.n_stop = 2;
  r = submit(&v, &q);
  end = served_await(&v, r);
  assert_int_equal(end->end, WEIR_END_STOP);
  assert_string_equal(end->stop, piece);
  weir_reply_release(r);
  weir_reply_release(whole);
  served_close(&v);
}

static void test_cancel_in_all_states(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  weir_service_request q = served_ids(ids, N_IDS, 300);
  q.mode = "small";
  /* before its first step, while another one's stands */
  served_hold(&v, 0);
  weir_reply *a = submit(&v, &q);
  served_await_held(&v);
  weir_reply *b = submit(&v, &q);
  assert_true(weir_reply_cancel(b, WEIR_CANCEL_CLIENT));
  served_hold(&v, 40);
  served_await_tokens(&v, a, 5);
  served_await_held(&v);
  assert_int_equal(weir_reply_get_state(a), WEIR_REPLY_WRITING);
  assert_int_equal(served_await(&v, b)->end, WEIR_END_CANCEL);
  /* while it writes */
  assert_true(weir_reply_cancel(a, WEIR_CANCEL_GONE));
  assert_true(weir_reply_cancel(a, WEIR_CANCEL_CLIENT)); /* the first reason stays */
  served_hold(&v, -1);
  const weir_reply_end *end = served_await(&v, a);
  assert_int_equal(end->end, WEIR_END_CANCEL);
  assert_true(end->counts.new_tokens >= 5 && end->counts.new_tokens < 300);
  expect_law(&v, a, 0);
  assert_false(weir_reply_cancel(a, WEIR_CANCEL_CLIENT));
  assert_true(served_metric(&v, "weir:requests_cancelled_total", "client") == 1);
  assert_true(served_metric(&v, "weir:requests_cancelled_total", "gone") == 1);
  assert_int_equal(weir_service_open_requests(v.service), 0);
  weir_reply_release(a);
  weir_reply_release(b);
  served_close(&v);
}

/* In the queue of the preparation, behind a text that takes a while. */
static void test_cancel_while_prepared(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  enum { LONG = 1 << 20, N = 8 };
  char *text = malloc(LONG);
  for (int i = 0; i < LONG; i++) text[i] = (char)('a' + i * 7 % 26);
  weir_reply *r[N];
  for (int i = 0; i < N; i++)
    r[i] = submit(&v, &(weir_service_request){.prompt = {.text = text, .len = LONG}});
  for (int i = N - 1; i >= 0; i--) { /* those behind are surely queued; the first is at work, or was */
    weir_reply_cancel(r[i], WEIR_CANCEL_CLIENT);
    assert_int_equal(weir_reply_get_state(r[i]), WEIR_REPLY_ENDED); /* at once */
  }
  assert_int_equal(weir_service_open_requests(v.service), 0);
  for (int i = 0; i < N; i++) weir_reply_release(r[i]);
  free(text);
  served_close(&v);
}

/* Cancelled at any moment of the preparation: the place is free at once, and nothing goes on without one. */
static void test_cancel_races(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.max_requests = 2;
  served_open(&v, &o);
  int32_t at_once = 0;
  for (int i = 0; i < 2000; i++) {
    weir_service_error x;
    weir_reply *r;
    const weir_service_request q = served_ids(ids, 1 + (size_t)i % N_IDS, 300);
    if (weir_service_submit(v.service, &q, &r, NULL, &x) != WEIR_OK) { /* the loop has those before */
      assert_int_equal(x.code, 429);
      (void)poll(NULL, 0, 1);
      continue;
    }
    for (volatile int k = 0; k < i % 64 * 20; k++) continue;
    assert_true(weir_reply_cancel(r, WEIR_CANCEL_CLIENT));
    at_once += weir_reply_get_state(r) == WEIR_REPLY_ENDED;
    weir_reply_release(r);
  }
  assert_true(at_once > 0);
  served_await_no_replies(&v);
  assert_int_equal(weir_service_open_requests(v.service), 0);
  served_close(&v);
}

/* Long texts are at work or wait; short ones are answered meanwhile, with a thread for the long ones or
 * without.
 */
static void test_long_texts(void **state) {
  (void)state;
  enum { LONG = 1 << 20, N = 4 };
  char *text = malloc(LONG);
  for (int i = 0; i < LONG; i++) text[i] = (char)('a' + i * 7 % 26);
  for (int own = 0; own < 2; own++) {
    served v;
    served_opts o = served_usual();
    o.long_thread = own;
    served_open(&v, &o);
    weir_reply *r[N];
    for (int i = 0; i < N; i++)
      r[i] = submit(&v, &(weir_service_request){.prompt = {.text = text, .len = LONG}});
    const weir_service_request q = served_ids(ids, N_IDS, 3);
    weir_reply *brief = submit(&v, &q);
    assert_int_equal(served_await(&v, brief)->end, WEIR_END_LENGTH);
    /* the last of the long ones came before it and is still not prepared */
    assert_int_equal(weir_reply_get_state(r[N - 1]), WEIR_REPLY_QUEUED);
    weir_reply_release(brief);
    for (int i = 0; i < N; i++) {
      assert_int_equal(served_await(&v, r[i])->error.code, 400); /* longer than the context */
      weir_reply_release(r[i]);
    }
    assert_true(served_metric(&v, "weir:requests_refused_total", "context") == N);
    served_close(&v);
  }
  free(text);
}

/* One model: no modes, and a pin that is no promise to keep. */
static void test_single(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.n_tiers = 1;
  served_open(&v, &o);
  weir_service_request q = served_ids(ids, N_IDS, 30);
  weir_reply *r = submit(&v, &q), *more;
  const weir_reply_end *end = served_await(&v, r);
  assert_int_equal(end->end, WEIR_END_LENGTH);
  assert_string_equal(end->mode, "");
  assert_true(isnan(end->entropy));
  expect_law(&v, r, 0);
  weir_reply_release(r);
  weir_service_error x;
  q.mode = "small";
  assert_int_not_equal(weir_service_submit(v.service, &q, &more, NULL, &x), WEIR_OK);
  assert_string_equal(x.param, "cascade.mode");
  q.mode = NULL;
  q.has_entropy = true;
  q.entropy = 1;
  assert_int_not_equal(weir_service_submit(v.service, &q, &more, NULL, &x), WEIR_OK);
  assert_string_equal(x.param, "cascade.entropy");
  served_close(&v);
}

/* One request under a rate; returns what held. */
static float rate_of(served *v, weir_service_request q, float asked, const char *user) {
  q.has_defer_rate = !isnan(asked);
  q.defer_rate = asked;
  q.user = user;
  weir_reply *r = submit(v, &q);
  const weir_reply_end *end = served_await(v, r);
  assert_int_equal(end->end, WEIR_END_LENGTH);
  assert_true(isnan(end->entropy)); /* no threshold held: it moved */
  const weir_counts *c = &end->counts;
  assert_int_equal(c->budgeted, c->new_tokens);
  assert_int_equal(c->deferred, c->by_tier[1]);
  const double off = fabs((double)c->deferred / c->budgeted - (double)end->defer_rate);
  if (off > (log(288) + 0.05) / (0.05 * c->budgeted)) fail_msg("%d of %d", c->deferred, c->budgeted);
  const float held = end->defer_rate;
  weir_reply_release(r);
  return held;
}

/* A rate that is asked for holds; where the server has one, no request gets more. */
static void test_budget(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  weir_service_request q = served_ids(ids, N_IDS, 400);
  q.ignore_eos = true;
  weir_service_error x;
  weir_reply *more;
  served_open(&v, &o);
  assert_true(rate_of(&v, q, 0.2f, "a") == 0.2f);
  assert_true(rate_of(&v, q, 0.9f, "b") == 0.9f);
  const double decisions = served_metric(&v, "weir:deferral_budget_decisions_total", NULL);
  assert_true(decisions == 800 && served_metric(&v, "weir:deferral_budget_tenants", NULL) == 2);
  assert_true(served_metric(&v, "weir:deferral_budget_deferrals_total", NULL) > 300);
  served_close(&v);

  o.cascade_set = WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST;
  o.defer_rate = 0.1f;
  o.defer_burst = 400; /* so much that it holds nobody here */
  served_open(&v, &o);
  assert_true(rate_of(&v, q, NAN, "a") == 0.1f);
  assert_true(rate_of(&v, q, 0.5f, "a") == 0.1f); /* cut to the server's */
  assert_true(rate_of(&v, q, 0.05f, "a") == 0.05f);
  q.has_entropy = true; /* would be a way round it */
  q.entropy = 1;
  assert_int_not_equal(weir_service_submit(v.service, &q, &more, NULL, &x), WEIR_OK);
  assert_string_equal(x.param, "cascade.entropy");
  served_close(&v);
}

static void test_admission(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.max_requests = 3;
  served_open(&v, &o);
  served_hold(&v, 0);
  weir_service_request q = served_ids(ids, N_IDS, 5);
  weir_reply *r[3], *more;
  weir_service_error x;
  for (int i = 0; i < 3; i++) r[i] = submit(&v, &q);
  assert_int_equal(weir_service_submit(v.service, &q, &more, NULL, &x), WEIR_EBUSY);
  assert_int_equal(x.code, 429);
  assert_true(x.retry_after_ms > 0);
  assert_null(more);
  weir_service_drain(v.service);
  assert_int_not_equal(weir_service_submit(v.service, &q, &more, NULL, &x), WEIR_OK);
  assert_int_equal(x.code, 503);
  const weir_service_health h = weir_service_get_health(v.service);
  assert_true(h.live && !h.ready);
  assert_string_equal(h.reason, "draining");
  assert_int_equal(h.limit, 3);
  assert_int_equal(h.running + h.waiting, 3);
  served_hold(&v, -1);
  for (int i = 0; i < 3; i++) assert_int_equal(served_await(&v, r[i])->end, WEIR_END_LENGTH);
  for (int i = 0; i < 3; i++) weir_reply_release(r[i]);
  assert_true(served_metric(&v, "weir:requests_refused_total", "full") == 1);
  assert_true(served_metric(&v, "weir:requests_refused_total", "draining") == 1);
  served_close(&v);
}

static void test_refusals(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  const uint32_t outside = 288;
  const char *const empty = "";
  const weir_service_message nobody = {"robot", "x"};
  const weir_service_bias twice[] = {{3, 1}, {3, 2}};
  const weir_service_bias strong = {3, 101};
#define IDS .prompt = {.ids = ids, .n_ids = N_IDS }
  const struct {
    weir_service_request q;
    int32_t code;
    const char *param;
  } cases[] = {
      {{0}, 400, "prompt"},
      {{.prompt = {.text = "x", .len = 1, .ids = ids, .n_ids = 1}}, 400, "prompt"},
      {{.prompt = {.text = "\xff", .len = 1}}, 400, "prompt"},
      {{.prompt = {.ids = &outside, .n_ids = 1}}, 400, "prompt_ids"},
      {{.prompt = {.chat = &nobody, .n_chat = 1}}, 400, "chat"},
      {{IDS, .model = "other"}, 404, "model"},
      {{IDS, .max_tokens = 401}, 400, "max_tokens"},
      {{IDS, .max_tokens = 4, .min_tokens = 5}, 400, "min_tokens"},
      {{IDS, .stop = &empty, .n_stop = 1}, 400, "stop"},
      {{IDS, .stop_ids = &outside, .n_stop_ids = 1}, 400, "stop_ids"},
      {{IDS, .has_temperature = true, .temperature = -1}, 400, "sampling.temperature"},
      {{IDS, .has_temperature = true, .temperature = NAN}, 400, "sampling.temperature"},
      {{IDS, .has_top_p = true, .top_p = 0}, 400, "sampling.top_p"},
      {{IDS, .min_p = 2}, 400, "sampling.min_p"},
      {{IDS, .presence_penalty = 3}, 400, "sampling.presence_penalty"},
      {{IDS, .frequency_penalty = -3}, 400, "sampling.frequency_penalty"},
      {{IDS, .repetition_penalty = -1}, 400, "sampling.repetition_penalty"},
      {{IDS, .bias = twice, .n_bias = 2}, 400, "sampling.logit_bias"},
      {{IDS, .bias = &strong, .n_bias = 1}, 400, "sampling.logit_bias"},
      {{IDS, .top_logprobs = 21}, 400, "top_logprobs"},
      {{IDS, .priority = 1000001}, 400, "priority"},
      {{IDS, .priority = -1000001}, 400, "priority"},
      {{IDS, .mode = "clever"}, 400, "cascade.mode"},
      {{IDS, .mode = "rollback"}, 400, "cascade.mode"}, /* not offered */
      {{IDS, .mode = "exact", .pin = true}, 400, "cascade.pin"},
      {{IDS, .mode = "small", .has_entropy = true, .entropy = 1}, 400, "cascade.entropy"},
      {{IDS, .has_entropy = true, .entropy = 0.05f}, 400, "cascade.entropy"},
      {{IDS, .has_entropy = true, .entropy = NAN}, 400, "cascade.entropy"},
      {{IDS, .has_defer_rate = true, .defer_rate = 1.1f}, 400, "cascade.defer_rate"},
      {{IDS, .has_defer_rate = true, .defer_rate = NAN}, 400, "cascade.defer_rate"},
      {{IDS, .has_defer_rate = true, .defer_rate = 0.1f, .has_entropy = true, .entropy = 1},
       400,
       "cascade.defer_rate"},
      {{IDS, .mode = "exact", .has_defer_rate = true, .defer_rate = 0.1f}, 400, "cascade.defer_rate"},
      {{IDS, .mode = "small", .has_load_price = true, .load_price = 1}, 400, "cascade.load_price"},
      {{IDS, .pin = true, .has_defer_rate = true, .defer_rate = 1}, 400, "cascade.defer_rate"},
      {{IDS, .defer_burst = 3}, 400, "cascade.defer_burst"},
      {{IDS, .has_load_price = true, .load_price = -1}, 400, "cascade.load_price"},
  };
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    weir_service_error x;
    weir_reply *r;
    assert_int_not_equal(weir_service_submit(v.service, &cases[c].q, &r, NULL, &x), WEIR_OK);
    if (x.code != cases[c].code || strcmp(x.param, cases[c].param) != 0)
      fail_msg("case %zu: %d %s: %s", c, x.code, x.param, x.message);
    assert_true(x.message[0] != 0);
  }
  assert_int_equal(weir_service_open_requests(v.service), 0);
  assert_true(served_metric(&v, "weir:requests_refused_total", "invalid") == sizeof cases / sizeof *cases);
  served_close(&v);
}

/* Told as an End, before any token. */
static void test_context(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  uint32_t many[600];
  for (int i = 0; i < 600; i++) many[i] = 5 + (uint32_t)i % 100;
  weir_service_request q = served_ids(many, 512, 5);
  weir_reply *r = submit(&v, &q);
  const weir_reply_end *end = served_await(&v, r);
  assert_int_equal(end->end, WEIR_END_ERROR);
  assert_int_equal(end->error.code, 400);
  assert_string_equal(end->error.param, "prompt");
  assert_int_equal(end->counts.new_tokens, 0);
  weir_reply_release(r);
  /* the client's mistake is refused, no request has failed */
  assert_true(served_metric(&v, "weir:requests_refused_total", "context") == 1);
  assert_true(served_metric(&v, "weir:request_success_total", "error") == 0);
  q = served_ids(many, 509, 5); /* room for three */
  r = submit(&v, &q);
  end = served_await(&v, r);
  assert_int_equal(end->end, WEIR_END_LENGTH);
  assert_int_equal(end->counts.new_tokens, 3);
  weir_reply_release(r);
  served_close(&v);
}

static void test_deadline(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  served_hold(&v, 0);
  weir_service_request q = served_ids(ids, N_IDS, 300);
  q.deadline_ms = 60000;
  weir_reply *r = submit(&v, &q);
  served_await_held(&v);
  served_skip(&v, 61000000000);
  served_hold(&v, -1);
  const weir_reply_end *end = served_await(&v, r);
  assert_int_equal(end->end, WEIR_END_DEADLINE);
  assert_int_equal(end->error.code, 504);
  assert_true(served_metric(&v, "weir:requests_cancelled_total", "deadline") == 1);
  weir_reply_release(r);
  served_close(&v);
}

/* A step that does not come back: seen from another thread, and over when it comes back. */
static void test_stuck_loop(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  served_hold(&v, 0);
  weir_service_request q = served_ids(ids, N_IDS, 5);
  weir_reply *r = submit(&v, &q);
  served_await_held(&v);
  assert_true(weir_service_get_health(v.service).live);
  served_skip(&v, 31000000000);
  const weir_service_health h = weir_service_get_health(v.service);
  assert_false(h.live || h.ready);
  assert_non_null(strstr(h.reason, "the step loop has stood for 31 s"));
  served_hold(&v, -1);
  served_await(&v, r);
  weir_reply_release(r);
  assert_true(weir_service_get_health(v.service).live);
  served_skip(&v, 31000000000); /* idle is not stuck */
  /* the loop goes to sleep right after the end was told */
  for (int i = 0; i < 1000000 && !weir_service_get_health(v.service).live; i++) sched_yield();
  assert_true(weir_service_get_health(v.service).live);
  served_close(&v);
}

static void test_dead_tiers(void **state) {
  (void)state;
  for (int tier = 0; tier < 2; tier++) {
    served v;
    served_opts o = served_usual();
    o.fail_at[tier] = 2;
    served_open(&v, &o);
    weir_service_request q = served_ids(ids, N_IDS, 50);
    q.mode = "exact";
    weir_reply *r = submit(&v, &q), *more;
    const weir_reply_end *end = served_await(&v, r);
    assert_int_equal(end->end, WEIR_END_ERROR);
    assert_int_equal(end->error.code, 503);
    weir_reply_release(r);
    /* the flag is up with the next turn of the loop at the latest */
    weir_service_error x;
    weir_status st;
    do {
      st = weir_service_submit(v.service, &q, &more, NULL, &x);
      if (st == WEIR_OK) {
        assert_int_equal(served_await(&v, more)->error.code, 503);
        weir_reply_release(more);
      }
    } while (st == WEIR_OK);
    assert_int_equal(x.code, 503);
    q.mode = "small";
    if (tier == 0) {
      assert_int_not_equal(weir_service_submit(v.service, &q, &more, NULL, &x), WEIR_OK);
      assert_int_equal(x.code, 503);
      assert_false(weir_service_get_health(v.service).ready);
      assert_true(served_metric(&v, "weir:tier_up", "small") == 0);
    } else { /* goes on with what it has */
      r = submit(&v, &q);
      assert_int_equal(served_await(&v, r)->end, WEIR_END_LENGTH);
      weir_reply_release(r);
      assert_true(weir_service_get_health(v.service).ready);
      assert_true(served_metric(&v, "weir:tier_up", "large") == 0);
    }
    served_close(&v);
  }
}

static void test_calls(void **state) {
  (void)state;
  served v;
  served_opts o = served_usual();
  o.chat = true;
  served_open(&v, &o);
  weir_service_error x;
  weir_call *c;
  static const char text[] = "the quick brown fox";
  const weir_service_text t = {.text = text, .len = sizeof text - 1, .bare = true};
  assert_int_equal(weir_service_tokenize(v.service, &t, &c, &x), WEIR_OK);
  const weir_call_result *got = served_await_call(&v, c);
  assert_int_equal(got->error.code, 0);
  assert_true(got->n > 0);
  weir_buf all = {0};
  uint32_t back[64];
  for (int32_t i = 0; i < got->n; i++) {
    assert_int_equal(weir_buf_put(&all, got->text[i].data, got->text[i].len, NULL), WEIR_OK);
    back[i] = (uint32_t)got->id[i];
  }
  assert_non_null(strstr(all.data, "quick brown fox"));
  const size_t n = (size_t)got->n;
  weir_call_release(c);
  assert_int_equal(weir_service_detokenize(v.service, back, n, &c, &x), WEIR_OK);
  got = served_await_call(&v, c);
  assert_int_equal(got->detokenized.len, sizeof text - 1);
  assert_memory_equal(got->detokenized.data, text, sizeof text - 1);
  weir_call_release(c);
  /* a conversation is longer than its text; a request of it is answered */
  const weir_service_message m[] = {{"user", "hello"}};
  assert_int_equal(weir_service_tokenize(v.service, &(weir_service_text){.chat = m, .n_chat = 1}, &c, &x),
                   WEIR_OK);
  got = served_await_call(&v, c);
  assert_true(got->n > 5);
  weir_reply *r = submit(&v, &(weir_service_request){.prompt = {.chat = m, .n_chat = 1}, .max_tokens = 3});
  served_await(&v, r);
  assert_int_equal(weir_reply_n_prompt(r), got->n);
  weir_reply_release(r);
  weir_call_release(c);
  weir_buf_fini(&all);
  served_close(&v);
}

/* Tenants do not share what the prefix cache knows; a tenant does with itself. */
static void test_salt(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  uint32_t prompt[100];
  for (int i = 0; i < 100; i++) prompt[i] = 5 + (uint32_t)i;
  static const struct {
    const char *user;
    bool cached;
  } cases[] = {{"a", false}, {"a", true}, {"b", false}, {NULL, false}, {"", true}};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    weir_service_request q = served_ids(prompt, 100, 3);
    q.user = cases[c].user;
    q.mode = "small";
    weir_reply *r = submit(&v, &q);
    const int32_t cached = served_await(&v, r)->cached_tokens;
    if ((cached > 0) != cases[c].cached) fail_msg("case %zu: %d tokens were cached", c, cached);
    weir_reply_release(r);
  }
  served_close(&v);
}

/* What the loop spends outside forward passes: here the time in which the gate before one is closed. */
static void test_overhead(void **state) {
  (void)state;
  static const char name[] = "weir:step_overhead_seconds_total";
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  weir_service_request q = served_ids(ids, N_IDS, 40);
  q.mode = "small";
  weir_reply *r = submit(&v, &q);
  served_await(&v, r);
  weir_reply_release(r);
  served_await_no_replies(&v);
  const double before = served_metric(&v, name, NULL);
  assert_true(before > 0 && before < 10);
  served_hold(&v, 0);
  r = submit(&v, &q);
  served_await_held(&v);
  served_skip(&v, INT64_C(100000000000));
  served_hold(&v, -1);
  served_await(&v, r);
  weir_reply_release(r);
  served_await_no_replies(&v);
  const double more = served_metric(&v, name, NULL) - before;
  assert_true(more > 99 && more < 110);
  served_close(&v);
}

static void test_shutdown_with_work(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  served_hold(&v, 0);
  weir_service_request q = served_ids(ids, N_IDS, 300);
  for (int i = 0; i < 5; i++) weir_reply_release(submit(&v, &q)); /* nobody looks at them */
  served_await_held(&v);
  served_close(&v);
}

/* Every series is there before anything has happened, with the value of nothing. */
static void test_series(void **state) {
  (void)state;
  served v;
  const served_opts o = served_usual();
  served_open(&v, &o);
  static const struct {
    const char *name, *label;
  } series[] = {
      {"weir:num_requests_running", "tiny"},
      {"weir:num_requests_waiting", NULL},
      {"weir:kv_cache_usage_perc", "large"},
      {"weir:prompt_tokens_total", NULL},
      {"weir:generation_tokens_total", NULL},
      {"weir:request_success_total", "stop"},
      {"weir:request_success_total", "length"},
      {"weir:request_success_total", "abort"},
      {"weir:request_success_total", "error"},
      {"weir:time_to_first_token_seconds", NULL},
      {"weir:inter_token_latency_seconds", NULL},
      {"weir:request_time_per_output_token_seconds", NULL},
      {"weir:e2e_request_latency_seconds", NULL},
      {"weir:request_queue_time_seconds", NULL},
      {"weir:request_prefill_time_seconds", NULL},
      {"weir:request_decode_time_seconds", NULL},
      {"weir:request_prompt_tokens", NULL},
      {"weir:request_generation_tokens", NULL},
      {"weir:prefix_cache_queries_total", "small"},
      {"weir:prefix_cache_hits_total", "large"},
      {"weir:num_preemptions_total", NULL},
      {"weir:iteration_tokens_total", NULL},
      {"weir:tokens_total", "small"},
      {"weir:tokens_total", "large"},
      {"weir:deferrals_total", "replaced"},
      {"weir:deferrals_total", "deferred"},
      {"weir:deferrals_total", "window"},
      {"weir:deferrals_total", "hold"},
      {"weir:rows_total", "catchup"},
      {"weir:token_entropy_nats", NULL},
      {"weir:deferral_budget_decisions_total", NULL},
      {"weir:deferral_budget_deferrals_total", NULL},
      {"weir:deferral_budget_blocked_total", NULL},
      {"weir:deferral_budget_tenants", NULL},
      {"weir:load_price", NULL},
      {"weir:large_wait_seconds", NULL},
      {"weir:large_batch_requests", NULL},
      {"weir:kv_pages", "used"},
      {"weir:kv_pages", "cached"},
      {"weir:requests_refused_total", "full"},
      {"weir:requests_refused_total", "dead"},
      {"weir:requests_refused_total", "sessions"},
      {"weir:requests_refused_total", "session"},
      {"weir:requests_refused_total", "kept"},
      {"weir:requests_refused_total", "memory"},
      {"weir:requests_cancelled_total", "gone"},
      {"weir:requests_cancelled_total", "shutdown"},
      {"weir:goodput_tokens_per_second", NULL},
      {"weir:large_only_goodput_tokens_per_second", NULL},
      {"weir:pinned_requests_total", NULL},
      {"weir:pinned_large_rows_total", NULL},
      {"weir:pinned_refused_total", NULL},
      {"weir:deferrals_given_up_total", NULL},
      {"weir:tokens_forced_total", NULL},
      {"weir:flops_total", "large"},
      {"weir:kv_bytes_written_total", "small"},
      {"weir:large_only_flops_total", NULL},
  };
  for (size_t i = 0; i < sizeof series / sizeof *series; i++)
    if (served_metric(&v, series[i].name, series[i].label) != 0) /* NaN: there is none */
      fail_msg("%s %s", series[i].name, series[i].label ? series[i].label : "");
  assert_true(served_metric(&v, "weir:kv_pages", "total") == 2 * 1024);
  assert_true(served_metric(&v, "weir:tier_up", NULL) == 2);
  assert_true(served_metric(&v, "weir:effective_threshold", NULL) ==
              (double)weir_gate_default(WEIR_GATE_ENTROPY));
  served_close(&v);
}

/* SipHash-2-4's own vector: key 00..0f, input 00..0e. */
static void test_keyed_hash(void **state) {
  (void)state;
  unsigned char in[15];
  for (unsigned i = 0; i < sizeof in; i++) in[i] = (unsigned char)i;
  const weir_hash_key k = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
  assert_true(weir_keyed_hash(k, in, sizeof in) == 0xa129ca6149be45e5u);
  assert_true(weir_keyed_hash(k, in, 0) == 0x726fdb47dd0e0e31u);
  assert_true(weir_keyed_hash(k, in, 8) == 0x93f5f5799a932462u);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_keyed_hash),
      cmocka_unit_test(test_series),
      cmocka_unit_test(test_answers),
      cmocka_unit_test(test_stops),
      cmocka_unit_test(test_cancel_in_all_states),
      cmocka_unit_test(test_cancel_while_prepared),
      cmocka_unit_test(test_cancel_races),
      cmocka_unit_test(test_long_texts),
      cmocka_unit_test(test_single),
      cmocka_unit_test(test_budget),
      cmocka_unit_test(test_admission),
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_context),
      cmocka_unit_test(test_deadline),
      cmocka_unit_test(test_stuck_loop),
      cmocka_unit_test(test_dead_tiers),
      cmocka_unit_test(test_calls),
      cmocka_unit_test(test_salt),
      cmocka_unit_test(test_overhead),
      cmocka_unit_test(test_shutdown_with_work),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
