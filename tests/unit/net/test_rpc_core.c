/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server without sockets: every message has one answer; sessions end; bounds hold; nonsense is told
 * so. One thread beside the service's. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core_rig.h"

/* Ids that somebody makes up and cancels do not make the server forget which requests were here. */
static void test_made_up_ids(void **state) {
  (void)state;
  enum { ROUNDS = 40, EACH = 8192 }; /* several times what the table holds */
  core_rig *r = core_open(NULL, NULL, 0);
  static uint32_t ids[EACH];
  weir_buf b = {0};
  rig_stream x, *at = &x;
  const rig_submit s = {.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3};
  core_submit(r, &s, &x);
  core_poll_to_end(r, 1, &at, 1, 0);
  core_poll(r, 1, &at, 1, 0, 0);
  for (uint32_t k = 0; k < ROUNDS; k++) {
    for (uint32_t i = 0; i < EACH; i++) ids[i] = 1000 + k * EACH + i;
    rig_put_cancel(&b, 2, ids, EACH);
    assert_int_equal(core_code(r, &b, NULL), 0);
  }
  assert_true(core_submit(r, &s, NULL));
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  /* and the last of them are remembered */
  assert_true(core_submit(
      r, &(rig_submit){.session = 1, .request = ids[EACH - 1], .n_ids = 8, .max_tokens = 3}, NULL));
  core_close(r);
}

static void test_session_gone(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  rig_stream x, *to = &x;
  const rig_stream *at = &x;
  weir_buf b = {0};
  served_hold(&r->served, 0);
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 200}, &x);
  served_await_held(&r->served);
  core_poll(r, 1, &to, 1, 5000, 0);
  rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
  core_send(r, &b);
  /* parked polls count */
  for (int i = 0; i < 8; i++) {
    served_skip(&r->served, 9000000000);
    weir_rpc_core_turn(r->core);
    assert_int_equal(weir_rpc_core_sessions(r->core), 1);
    for (int k = 0; k < 2; k++) { /* the first is told the state again */
      rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
      core_send(r, &b);
    }
    assert_int_equal(weir_rpc_core_parked(r->core), 1);
  }
  served_skip(&r->served, 11000000000);
  weir_rpc_core_turn(r->core); /* answered */
  served_skip(&r->served, 29000000000);
  weir_rpc_core_turn(r->core);
  assert_int_equal(weir_rpc_core_sessions(r->core), 1);
  served_skip(&r->served, 2000000000);
  weir_rpc_core_turn(r->core);
  assert_int_equal(weir_rpc_core_sessions(r->core), 0);
  served_hold(&r->served, -1);
  core_await_end(r);
  assert_true(served_metric(&r->served, "weir:requests_cancelled_total", "gone") == 1);
  /* it comes back: the request is unknown, and does not start again */
  assert_true(core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 200}, NULL));
  core_poll(r, 1, &to, 1, 5000, 0);
  assert_true(x.unknown);
  core_close(r);
}

/* Only Polls are signs of life: neither Submits nor Cancels keep a session whose client reads nothing. */
static void test_session_without_polls(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  weir_buf b = {0};
  rig_stream x, *at = &x;
  const uint32_t other = 99;
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3}, &x);
  for (uint32_t i = 1; i <= 3; i++) {
    assert_int_equal(weir_rpc_core_sessions(r->core), 1);
    served_skip(&r->served, 9000000000);
    core_submit(r, &(rig_submit){.session = 1, .request = 1 + i, .n_ids = 8, .max_tokens = 3}, NULL);
    core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3}, NULL); /* known */
    rig_put_cancel(&b, 1, &other, 1);
    assert_int_equal(core_code(r, &b, NULL), 0);
    weir_rpc_core_turn(r->core);
  }
  served_skip(&r->served, 4000000000);
  weir_rpc_core_turn(r->core);
  assert_int_equal(weir_rpc_core_sessions(r->core), 0);
  /* a session that has fallen silent without requests has its whole time from its next Submit on */
  core_submit(r, &(rig_submit){.session = 1, .request = 10, .n_ids = 8, .max_tokens = 3}, &x);
  core_poll_to_end(r, 1, &at, 1, 0);
  core_poll(r, 1, &at, 1, 0, 0);
  served_skip(&r->served, 29000000000);
  weir_rpc_core_turn(r->core);
  core_submit(r, &(rig_submit){.session = 1, .request = 11, .n_ids = 8, .max_tokens = 3}, &x);
  served_skip(&r->served, 29000000000);
  weir_rpc_core_turn(r->core);
  core_poll_to_end(r, 1, &at, 1, 0);
  assert_false(x.unknown);
  assert_int_equal(x.n, 3);
  core_close(r);
}

static void test_bounds(void **state) {
  (void)state;
  /* a reply of few tokens takes some 9 KB; the last one may not be let go of yet */
  const weir_rpc_limits limits = {
      .max_sessions = 3, .max_per_session = 2, .max_kept = 5, .max_reply_memory = 20000};
  core_rig *r = core_open(&limits, NULL, 4);
  weir_buf b = {0};
  rig_stream x;
  rig_submit s = {.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3};
  served_hold(&r->served, 0);
  core_submit(r, &s, &x);
  s.request = 2;
  core_submit(r, &s, NULL);
  s.request = 3;
  rig_put_submit(&b, &s);
  assert_int_equal(core_code(r, &b, NULL), 429); /* of the session */
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "session") == 1);
  s.session = 2;
  core_submit(r, &s, NULL);
  s.session = 3;
  s.request = 4;
  core_submit(r, &s, NULL);
  s.session = 4;
  s.request = 5;
  rig_put_submit(&b, &s);
  assert_int_equal(core_code(r, &b, NULL), 429); /* sessions */
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "sessions") == 1);
  s.session = 3;
  rig_put_submit(&b, &s);
  assert_int_equal(core_code(r, &b, NULL), 429); /* the service's */
  served_hold(&r->served, -1);
  struct pollfd p = {.fd = weir_service_news_fd(r->served.service), .events = POLLIN};
  uint64_t n;
  while (weir_service_open_requests(r->served.service) > 0)
    if (poll(&p, 1, 10000) > 0) (void)!read(p.fd, &n, sizeof n);
  /* four replies that nobody has fetched are too much memory */
  rig_put_submit(&b, &s);
  assert_int_equal(core_code(r, &b, NULL), 429);
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "memory") == 1);
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "full") == 1);
  for (uint32_t k = 1; k <= 4; k++) {
    rig_stream *at = &x;
    x = (rig_stream){.state = -1};
    rig_id(2, k, x.id);
    core_poll_to_end(r, k < 3 ? 1 : k - 1, &at, 1, 0);
    core_poll(r, k < 3 ? 1 : k - 1, &at, 1, 0, 0);
  }
  assert_false(core_submit(r, &s, NULL));
  core_close(r);
}

static void test_kept(void **state) {
  (void)state;
  const weir_rpc_limits limits = {.max_kept = 2};
  core_rig *r = core_open(&limits, NULL, 0);
  weir_buf b = {0};
  for (uint32_t i = 0; i < 3; i++) {
    rig_put_submit(&b, &(rig_submit){.session = i, .request = i, .n_ids = 8, .max_tokens = 3});
    assert_int_equal(core_code(r, &b, NULL), i < 2 ? 0 : 429);
  }
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "kept") == 1);
  core_close(r);
}

/* What Stats tells is of now, also when the loop has slept since something changed. */
static void test_gauges_of_now(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  weir_buf b = {0};
  rig_stream x[2], *at[] = {&x[0], &x[1]};
  served *v = &r->served;
  served_hold(v, 0);
  core_submit(r, &(rig_submit){.session = 1, .request = 0, .n_ids = 8, .max_tokens = 30}, &x[0]);
  served_await_held(v);
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 30}, &x[1]);
  core_put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  assert_int_equal(core_code(r, &b, NULL), 0);
  /* none has a step behind it: the loop has not told of one that runs */
  assert_true(served_metric(v, "weir:num_requests_waiting", NULL) +
                  served_metric(v, "weir:num_requests_running", NULL) ==
              2);
  assert_true(served_metric(v, "weir:reply_bytes", NULL) > 0);
  assert_true(core_metric(r, "weir:rpc_requests_kept", NULL) == 2);
  served_hold(v, -1);
  core_poll_to_end(r, 1, at, 2, 0);
  assert_true(served_metric(v, "weir:goodput_tokens_per_second", NULL) > 0);
  core_poll(r, 1, at, 2, 0, 0); /* acknowledged */
  served_await_no_replies(v);
  served_skip(v, 6000000000);
  /* the loop goes to sleep a moment after its last step */
  for (int i = 0; i < 5000 && weir_service_get_stats(v->service).goodput > 0; i++) (void)poll(NULL, 0, 1);
  core_put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  assert_int_equal(core_code(r, &b, NULL), 0);
  static const char *const gauges[] = {"weir:num_requests_waiting", "weir:num_requests_running",
                                       "weir:reply_bytes", "weir:goodput_tokens_per_second",
                                       "weir:large_only_goodput_tokens_per_second"};
  for (size_t i = 0; i < sizeof gauges / sizeof *gauges; i++)
    if (served_metric(v, gauges[i], NULL) != 0)
      fail_msg("%s is %g", gauges[i], served_metric(v, gauges[i], NULL));
  assert_true(weir_service_get_stats(v->service).goodput == 0);
  assert_true(core_metric(r, "weir:rpc_requests_kept", NULL) == 0);
  assert_true(core_metric(r, "weir:rpc_sessions", NULL) == 1);
  core_close(r);
}

static void test_nonsense(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  weir_buf b = {0};
  char param[64];
  static const struct {
    const char *bytes;
    size_t n;
  } bad[] = {{"", 0},
             {"WEIR", 4},
             {"WEIS\1\1\0\0", 8},
             {"WEIR\2\1\0\0", 8}, /* version */
             {"WEIR\1\0\0\0", 8}, /* kinds */
             {"WEIR\1\11\0\0", 8},
             {"WEIR\1\201\0\0", 8},             /* a reply */
             {"WEIR\1\377\0\0", 8},             /* an Error */
             {"WEIR\1\1\1\0", 8},               /* reserved */
             {"WEIR\1\1\0\0\12\5ab", 12},       /* cut */
             {"WEIR\1\1\0\0\12\2\377\376", 12}, /* not UTF-8 */
             {"WEIR\1\1\0\0", 8},               /* no session */
             {"WEIR\1\2\0\0", 8},
             {"WEIR\1\3\0\0", 8}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    if (bad[i].n) assert_int_equal(weir_buf_put(&b, bad[i].bytes, bad[i].n, NULL), WEIR_OK);
    if (core_code(r, &b, NULL) != 400) fail_msg("case %zu", i);
  }
  /* too large, a little */
  char *big = calloc(1, (4 << 20) + 100);
  core_put_raw(&b, WEIR_FRAME_SUBMIT, big, (4 << 20) + 1);
  assert_int_equal(core_code(r, &b, NULL), 413);
  /* many empty parts: the budget says no */
  for (int i = 0; i < 1 << 20; i += 2) memcpy(big + i, "\x3a\x00", 2);
  core_put_raw(&b, WEIR_FRAME_SUBMIT, big, 1 << 20);
  assert_int_equal(core_code(r, &b, NULL), 413);
  free(big);
  /* what the service refuses is told with its field */
  rig_put_submit(&b, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 4000});
  assert_int_equal(core_code(r, &b, param), 400);
  assert_string_equal(param, "max_tokens");
  assert_int_equal(weir_rpc_core_sessions(r->core), 0);
  core_close(r);
}

static void test_token(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, "secret", 0);
  weir_buf b = {0};
  static const struct {
    const char *token;
    int32_t code;
  } cases[] = {{"secret", 0},    {"", 401},       {"secre", 401},
               {"secret!", 401}, {"Secret", 401}, {"secretsecret", 401}};
  for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rig_put_submit(
        &b, &(rig_submit){.session = 1, .request = i, .token = cases[i].token, .n_ids = 4, .max_tokens = 1});
    assert_int_equal(core_code(r, &b, NULL), cases[i].code);
    rig_put_poll(&b, 1, NULL, 0, 0, 0, cases[i].token);
    assert_int_equal(core_code(r, &b, NULL), cases[i].code);
  }
  core_put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  assert_int_equal(core_code(r, &b, NULL), 401);
  core_put_raw(&b, WEIR_FRAME_HEALTH, NULL, 0);
  assert_int_equal(core_code(r, &b, NULL), 0);
  core_close(r);
}

static void test_questions(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  core_put_raw(&b, WEIR_FRAME_MODELS, NULL, 0);
  core_reply(r, core_send(r, &b), &m);
  assert_string_equal(m.as.models_reply->id, "tiny");
  assert_int_equal(m.as.models_reply->context, 512);
  assert_int_equal(m.as.models_reply->vocab, 288);
  assert_int_equal(m.as.models_reply->n_tier, 2);
  assert_int_equal(m.as.models_reply->n_modes, 3);
  assert_string_equal(m.as.models_reply->mode, "defer");
  assert_string_equal(m.as.models_reply->version, "1.2.3");
  assert_int_equal(m.as.models_reply->max_request_bytes, 4 << 20);
  weir_frame_msg_fini(&m);
  core_put_raw(&b, WEIR_FRAME_HEALTH, NULL, 0);
  core_reply(r, core_send(r, &b), &m);
  assert_true(m.as.health_reply->live && m.as.health_reply->ready);
  assert_int_equal(m.as.health_reply->n_tier, 2);
  for (size_t t = 0; t < 2; t++) {
    const Weir__V1__TierHealth *tier = m.as.health_reply->tier[t];
    assert_true(tier->up && tier->comes_back && tier->deaths == 0 && tier->reason[0] == 0);
  }
  weir_frame_msg_fini(&m);
  served_kill(&r->served, 1);
  served_await_tier(&r->served, 1, false);
  served_skip(&r->served, 2500000000);
  core_put_raw(&b, WEIR_FRAME_HEALTH, NULL, 0);
  core_reply(r, core_send(r, &b), &m);
  assert_true(m.as.health_reply->live && m.as.health_reply->ready);
  assert_true(m.as.health_reply->tier[0]->up && !m.as.health_reply->tier[1]->up);
  assert_string_equal(m.as.health_reply->tier[1]->name, "large");
  assert_true(m.as.health_reply->tier[1]->for_ms >= 2500 && m.as.health_reply->tier[1]->deaths == 1);
  assert_non_null(strstr(m.as.health_reply->tier[1]->reason, "is silent"));
  weir_frame_msg_fini(&m);
  served_revive(&r->served, 1);
  served_await_tier(&r->served, 1, true);
  core_put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  core_reply(r, core_send(r, &b), &m);
  assert_true(m.as.stats_reply->n_family > 3);
  assert_true(m.as.stats_reply->health->live);
  assert_true(m.as.stats_reply->health->n_tier == 2 && m.as.stats_reply->health->tier[1]->up);
  weir_frame_msg_fini(&m);
  Weir__V1__TokenizeRequest t = WEIR__V1__TOKENIZE_REQUEST__INIT;
  t.text = (char *)"hello world";
  t.bare = true;
  assert_int_equal(weir_frame_put(WEIR_FRAME_TOKENIZE, &t.base, &b, NULL), WEIR_OK);
  core_reply(r, core_send(r, &b), &m);
  Weir__V1__DetokenizeRequest d = WEIR__V1__DETOKENIZE_REQUEST__INIT;
  d.id = m.as.tokenize_reply->id;
  d.n_id = m.as.tokenize_reply->n_id;
  assert_true(d.n_id > 0);
  assert_int_equal(weir_frame_put(WEIR_FRAME_DETOKENIZE, &d.base, &b, NULL), WEIR_OK);
  weir_frame_msg_fini(&m);
  core_reply(r, core_send(r, &b), &m);
  assert_int_equal(m.as.detokenize_reply->text.len, 11);
  assert_memory_equal(m.as.detokenize_reply->text.data, "hello world", 11);
  weir_frame_msg_fini(&m);
  /* a wrong field has the name that it has in the question */
  uint32_t outside[] = {5, 9999999};
  d.id = outside;
  d.n_id = 2;
  assert_int_equal(weir_frame_put(WEIR_FRAME_DETOKENIZE, &d.base, &b, NULL), WEIR_OK);
  core_reply(r, core_send(r, &b), &m);
  assert_int_equal(m.kind, WEIR_FRAME_ERROR);
  assert_int_equal(m.as.error->code, 400);
  assert_string_equal(m.as.error->param, "id");
  assert_memory_equal(m.as.error->message, "id: ", 4);
  weir_frame_msg_fini(&m);
  core_close(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_made_up_ids),
      cmocka_unit_test(test_session_gone),
      cmocka_unit_test(test_session_without_polls),
      cmocka_unit_test(test_bounds),
      cmocka_unit_test(test_kept),
      cmocka_unit_test(test_gauges_of_now),
      cmocka_unit_test(test_nonsense),
      cmocka_unit_test(test_token),
      cmocka_unit_test(test_questions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
