/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server without sockets: requests start once; polls bring everything once and in order, wait, are
 * replaced, and are told the ends of what is cancelled. One thread beside the service's. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core_rig.h"

static void test_streams(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  enum { N = 12 };
  static const uint32_t sizes[] = {0, 1200, 1}; /* of replies */
  for (uint32_t k = 0; k < 3; k++) {
    rig_stream x[N], *at[N];
    for (uint32_t i = 0; i < N; i++) {
      assert_false(core_submit(
          r,
          &(rig_submit){
              .session = k, .request = 100 * k + i, .n_ids = 10, .max_tokens = 20 + i * 8, .receipts = i % 2},
          &x[i]));
      at[i] = &x[i];
    }
    core_poll_to_end(r, k, at, N, sizes[k]);
    for (uint32_t i = 0; i < N; i++) {
      assert_string_equal(x[i].reason, "length");
      assert_int_equal(x[i].n, 20 + i * 8);
      assert_int_equal(x[i].n_prompt, 10);
      assert_int_equal(x[i].seed, 7);
      core_expect_law(r, &x[i], 100 * k + i, 10);
    }
    /* the ends are acknowledged: nothing is kept, and the ids stay over */
    core_poll(r, k, at, N, 0, 0);
    assert_int_equal(weir_service_reply_bytes(r->served.service), 0);
    assert_true(
        core_submit(r, &(rig_submit){.session = k, .request = 100 * k, .n_ids = 10, .max_tokens = 5}, NULL));
    rig_stream y = {.state = -1}, *one = &y;
    rig_id(2, 100 * k, y.id);
    core_poll(r, k, &one, 1, 5000, 0);
    assert_true(y.unknown);
  }
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  core_close(r);
}

/* Submits that come again, before, while and after; under another session too. */
static void test_duplicates(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  rig_stream x, *at = &x;
  weir_buf b = {0};
  const rig_submit s = {.session = 1, .request = 5, .n_ids = 8, .max_tokens = 40};
  served_hold(&r->served, 0);
  assert_false(core_submit(r, &s, &x));
  assert_true(core_submit(r, &s, NULL));
  rig_submit other = s;
  other.session = 2;
  rig_put_submit(&b, &other);
  assert_int_equal(core_code(r, &b, NULL), 409);
  assert_int_equal(weir_service_open_requests(r->served.service), 1);
  served_hold(&r->served, 10);
  while (x.n < 3) core_poll(r, 1, &at, 1, 5000, 0);
  assert_true(core_submit(r, &s, NULL));
  served_hold(&r->served, -1);
  core_poll_to_end(r, 1, &at, 1, 0);
  assert_true(core_submit(r, &s, NULL));
  core_expect_law(r, &x, 5, 8);
  assert_int_equal(x.n, 40);
  /* a cancellation that is faster than its Submit */
  const uint32_t late = 77;
  rig_put_cancel(&b, 1, &late, 1);
  assert_int_equal(core_code(r, &b, NULL), 0);
  assert_true(
      core_submit(r, &(rig_submit){.session = 1, .request = late, .n_ids = 8, .max_tokens = 4}, NULL));
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  core_close(r);
}

/* An answer that was lost: the next poll names the old cursor and gets the same again. */
static void test_resume(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  rig_stream x, *at = &x;
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 100}, &x);
  rig_stream lost = x, *lost_at = &lost;
  core_poll_to_end(r, 1, &lost_at, 1, 600);
  assert_int_equal(lost.n, 100);
  for (int32_t have = 0; have <= 100; have += 20) { /* any cursor, as often as one likes */
    x = (rig_stream){.state = -1, .n = have};
    memcpy(x.id, lost.id, 16);
    memcpy(x.token, lost.token, sizeof x.token);
    core_poll_to_end(r, 1, &at, 1, 600);
    assert_int_equal(x.n, 100);
    assert_memory_equal(x.token, lost.token, 100 * sizeof *x.token);
  }
  core_close(r);
}

static void test_parked(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  rig_stream x;
  const rig_stream *at = &x;
  rig_stream *to = &x;
  weir_buf b = {0};
  weir_frame_msg m;
  served_hold(&r->served, 0);
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 4}, &x);
  served_await_held(&r->served);
  /* the state is news, once */
  core_poll(r, 1, &to, 1, 5000, 0);
  assert_int_equal(x.state, 1);
  assert_int_equal(x.n_prompt, 8);
  rig_put_poll(&b, 1, &at, 1, 5000, 0, NULL);
  const uint64_t first = core_send(r, &b);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[first].times, 0);
  assert_int_equal(weir_rpc_core_parked(r->core), 1);
  /* replaced by the next */
  rig_put_poll(&b, 1, &at, 1, 5000, 0, NULL);
  const uint64_t second = core_send(r, &b);
  assert_int_equal(r->got[first].times, 1);
  assert_true(r->got[first].superseded);
  core_reply(r, first, &m);
  assert_true(m.as.poll_reply->replaced);
  assert_int_equal(m.as.poll_reply->n_update, 0);
  weir_frame_msg_fini(&m);
  /* answered with nothing when its time is up */
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[second].times, 0);
  assert_true(weir_rpc_core_next_ns(r->core) < INT64_MAX);
  served_skip(&r->served, 5001000000);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[second].times, 1);
  assert_false(r->got[second].superseded);
  assert_int_equal(weir_rpc_core_parked(r->core), 0);
  /* a client that has no token yet is told the state again after a while */
  x.updates = 0;
  core_poll(r, 1, &to, 1, 5000, 0);
  assert_int_equal(x.updates, 1);
  served_hold(&r->served, -1);
  core_poll_to_end(r, 1, &to, 1, 0);
  assert_int_equal(x.n, 4);
  core_close(r);
}

/* While a connection is busy its poll waits, and is then told all that came. */
static void test_busy_connection(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  rig_stream x, *to = &x;
  const rig_stream *at = &x;
  weir_buf b = {0};
  weir_frame_msg m;
  const int64_t second = 1000000000;
  served_hold(&r->served, 0);
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 30}, &x);
  assert_false(weir_rpc_core_wants_news(r->core)); /* nobody polls */
  r->busy_ns = core_now(r) + 4 * second;
  rig_put_poll(&b, 1, &at, 1, 9000, 0, NULL);
  const uint64_t t = core_send(r, &b);
  served_hold(&r->served, -1);
  core_await_end(r);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[t].times, 0);
  assert_int_equal(weir_rpc_core_parked(r->core), 1);
  assert_false(weir_rpc_core_wants_news(r->core));
  assert_true(weir_rpc_core_next_ns(r->core) <= r->busy_ns);
  served_skip(&r->served, 5 * second);
  assert_true(weir_rpc_core_wants_news(r->core));
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[t].times, 1);
  core_reply(r, t, &m);
  rig_take(m.as.poll_reply, &to, 1);
  weir_frame_msg_fini(&m);
  assert_int_equal(x.n, 30);
  assert_true(x.ended);
  assert_false(weir_rpc_core_wants_news(r->core));
  /* one that does not want to wait has its answer when the connection is free, news or not; the next poll of
   * the session takes its place before */
  r->busy_ns = core_now(r) + 4 * second;
  rig_put_poll(&b, 1, &at, 1, 0, 0, NULL); /* acknowledges the end */
  const uint64_t replaced = core_send(r, &b);
  assert_int_equal(r->got[replaced].times, 0);
  rig_put_poll(&b, 1, NULL, 0, 0, 0, NULL);
  const uint64_t last = core_send(r, &b);
  assert_int_equal(r->got[replaced].times, 1);
  assert_true(r->got[replaced].superseded);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[last].times, 0);
  served_skip(&r->served, 5 * second);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[last].times, 1);
  assert_false(r->got[last].superseded);
  assert_int_equal(weir_rpc_core_parked(r->core), 0);
  core_close(r);
}

/* A connection becomes free after the turn and before it is asked when to turn next: the news that waited is
 * not left until something else happens. */
static void test_ready_between(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  rig_stream x;
  const rig_stream *at = &x;
  weir_buf b = {0};
  weir_frame_msg m;
  const int64_t ms = 1000000;
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3}, &x);
  core_await_end(r);
  served_skip(&r->served, 300 * ms);
  weir_rpc_core_turn(r->core); /* sweeps: that time is not near */
  r->busy_ns = core_now(r) + 100 * ms;
  rig_put_poll(&b, 1, &at, 1, 9000, 0, NULL);
  const uint64_t t = core_send(r, &b);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[t].times, 0);
  served_skip(&r->served, 101 * ms);
  assert_true(weir_rpc_core_next_ns(r->core) <= core_now(r));
  weir_rpc_core_turn(r->core);
  core_reply(r, t, &m);
  assert_int_equal(m.as.poll_reply->n_update, 1);
  weir_frame_msg_fini(&m);
  /* one that nothing keeps has no time of its own */
  r->busy_ns = core_now(r);
  x.n = 3;
  x.ended = true;
  rig_put_poll(&b, 1, &at, 1, 9000, 0, NULL);
  const uint64_t idle = core_send(r, &b);
  assert_int_equal(r->got[idle].times, 0);
  assert_true(weir_rpc_core_next_ns(r->core) > core_now(r));
  core_close(r);
}

static void test_cancel(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  rig_stream x[3], *at[3] = {&x[0], &x[1], &x[2]};
  served_hold(&r->served, 0);
  for (uint32_t i = 0; i < 3; i++)
    core_submit(r, &(rig_submit){.session = 1, .request = i, .n_ids = 8, .max_tokens = 200}, &x[i]);
  const uint32_t one[] = {1, 99};
  rig_put_cancel(&b, 2, one, 1); /* another session may not */
  core_reply(r, core_send(r, &b), &m);
  assert_int_equal(m.as.cancel_reply->cancelled, 0);
  weir_frame_msg_fini(&m);
  rig_put_cancel(&b, 1, one, 2);
  core_reply(r, core_send(r, &b), &m);
  assert_int_equal(m.as.cancel_reply->cancelled, 1);
  weir_frame_msg_fini(&m);
  served_hold(&r->served, 30);
  while (x[0].n < 2 || !x[1].ended) core_poll(r, 1, at, 3, 5000, 0);
  assert_string_equal(x[1].reason, "cancelled");
  rig_put_cancel(&b, 1, NULL, 0); /* all */
  core_reply(r, core_send(r, &b), &m);
  assert_int_equal(m.as.cancel_reply->cancelled, 2);
  weir_frame_msg_fini(&m);
  served_hold(&r->served, -1);
  rig_stream *rest[] = {&x[0], &x[2]};
  core_poll_to_end(r, 1, rest, 2, 0);
  assert_string_equal(x[0].reason, "cancelled");
  assert_true(x[0].n >= 2 && x[0].n < 200);
  core_expect_law(r, &x[0], 0, 8);
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  core_close(r);
}

/* What a client does that hangs up: a Cancel, and `done` once as soon as it is answered, when the step that
 * is under way has not ended yet. Nothing is kept, however often. */
static void test_done_before_end(void **state) {
  (void)state;
  const weir_rpc_limits limits = {.max_per_session = 4};
  core_rig *r = core_open(&limits, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  for (uint32_t i = 0; i < 12; i++) {
    const bool cancel = i % 3 != 2; /* and `done` alone is enough */
    rig_stream x;
    const rig_stream *at = &x;
    served_hold(&r->served, 0);
    assert_false(
        core_submit(r, &(rig_submit){.session = 1, .request = i, .n_ids = 8, .max_tokens = 200}, &x));
    served_await_held(&r->served); /* a step of it is under way */
    if (cancel) {
      rig_put_cancel(&b, 1, &i, 1);
      assert_int_equal(core_code(r, &b, NULL), 0);
    }
    x.ended = true; /* `done` */
    rig_put_poll(&b, 1, &at, 1, 0, 0, NULL);
    core_reply(r, core_send(r, &b), &m);
    assert_int_equal(m.as.poll_reply->n_update, 0);
    weir_frame_msg_fini(&m);
    served_hold(&r->served, -1);
    struct pollfd p = {.fd = weir_service_news_fd(r->served.service), .events = POLLIN};
    uint64_t n;
    while (weir_service_open_requests(r->served.service) > 0)
      if (poll(&p, 1, 10000) > 0) (void)!read(p.fd, &n, sizeof n);
    served_await_no_replies(&r->served);
    served_skip(&r->served, 300000000);
    weir_rpc_core_turn(r->core);
    assert_true(core_metric(r, "weir:rpc_requests_kept", NULL) == 0);
    /* it is over: it does not start again */
    assert_true(
        core_submit(r, &(rig_submit){.session = 1, .request = i, .n_ids = 8, .max_tokens = 200}, NULL));
  }
  assert_true(served_metric(&r->served, "weir:requests_cancelled_total", "client") == 12);
  core_close(r);
}

/* The answer that told of the start was lost: a client that says which state it knows is told again at once,
 * while its request has not a token yet. */
static void test_lost_start(void **state) {
  (void)state;
  core_rig *r = core_open(NULL, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  rig_stream x;
  served_hold(&r->served, 0);
  core_submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 4}, &x);
  served_await_held(&r->served);
  uint8_t session[16];
  rig_id(1, 1, session);
  Weir__V1__Cursor cursor = WEIR__V1__CURSOR__INIT, *cursors[] = {&cursor};
  Weir__V1__PollRequest q = WEIR__V1__POLL_REQUEST__INIT;
  q.session = weir_frame_id(session);
  q.cursor = cursors;
  q.n_cursor = 1;
  q.wait_ms = 5000;
  cursor.request_id = weir_frame_id(x.id);
  cursor.has_state_case = WEIR__V1__CURSOR__HAS_STATE_STATE;
  for (int lost = 0; lost < 3; lost++) {
    assert_int_equal(weir_frame_put(WEIR_FRAME_POLL, &q.base, &b, NULL), WEIR_OK);
    const uint64_t t = core_send(r, &b);
    assert_int_equal(r->got[t].times, 1); /* not parked */
    core_reply(r, t, &m);
    assert_int_equal(m.as.poll_reply->n_update, 1);
    assert_int_equal(m.as.poll_reply->update[0]->state, 1);
    assert_int_equal(m.as.poll_reply->update[0]->prompt_tokens, 8);
    weir_frame_msg_fini(&m);
  }
  cursor.state = 1; /* it has come: no news */
  assert_int_equal(weir_frame_put(WEIR_FRAME_POLL, &q.base, &b, NULL), WEIR_OK);
  const uint64_t parked = core_send(r, &b);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[parked].times, 0);
  served_hold(&r->served, -1);
  core_close(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_streams),         cmocka_unit_test(test_duplicates),
      cmocka_unit_test(test_resume),          cmocka_unit_test(test_parked),
      cmocka_unit_test(test_busy_connection), cmocka_unit_test(test_ready_between),
      cmocka_unit_test(test_cancel),          cmocka_unit_test(test_done_before_end),
      cmocka_unit_test(test_lost_start),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
