/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server without sockets: every message has one answer; requests start once; polls bring everything
 * once and in order; sessions end; nonsense is told so. */
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "net/rpc_core.h"
#include "rpc_rig.h"
#include "served.h"

enum { MAX_TICKETS = 4096 };

typedef struct rig {
  served served;
  weir_metrics *metrics;
  weir_rpc_core *core;
  uint64_t n;      /* messages sent */
  int64_t busy_ns; /* the connection is busy until then */
  struct {
    int32_t times;
    bool superseded;
    weir_buf frame;
  } got[MAX_TICKETS];
} rig;

static void answer(void *ctx, uint64_t ticket, const void *frame, size_t n, bool superseded) {
  rig *r = ctx;
  assert_true(ticket < r->n);
  assert_int_equal(++r->got[ticket].times, 1);
  r->got[ticket].superseded = superseded;
  assert_int_equal(weir_buf_put(&r->got[ticket].frame, frame, n, NULL), WEIR_OK);
}

static int64_t ready_ns(void *ctx, uint64_t ticket) {
  const rig *r = ctx;
  assert_true(ticket < r->n);
  return r->busy_ns;
}

static rig *rig_open(const weir_rpc_limits *limits, const char *token, int32_t max_requests) {
  weir_err e = {0};
  rig *r = calloc(1, sizeof *r);
  served_opts o = served_usual();
  if (max_requests > 0) o.max_requests = max_requests;
  served_open(&r->served, &o);
  assert_int_equal(weir_metrics_create(&r->metrics, &e), WEIR_OK);
  const weir_rpc_core_cfg cfg = {.service = r->served.service,
                                 .metrics = r->metrics,
                                 .token = token,
                                 .version = "1.2.3",
                                 .clock = r->served.cfg.engine.clock,
                                 .limits = limits ? *limits : (weir_rpc_limits){0},
                                 .answer = answer,
                                 .ready_ns = ready_ns,
                                 .ctx = r};
  if (weir_rpc_core_create(&cfg, &r->core, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return r;
}

/* Of the RPC server's own registry. */
static double rpc_metric(rig *r, const char *name, const char *label) {
  weir_metrics *of_service = r->served.metrics;
  r->served.metrics = r->metrics;
  const double value = served_metric(&r->served, name, label);
  r->served.metrics = of_service;
  return value;
}

static void rig_close(rig *r) {
  weir_rpc_core_flush(r->core);
  weir_rpc_core_destroy(r->core);
  weir_metrics_destroy(r->metrics);
  served_close(&r->served);
  for (uint64_t i = 0; i < r->n; i++) weir_buf_fini(&r->got[i].frame);
  free(r);
}

/* Sends and empties b; the ticket. */
static uint64_t send(rig *r, weir_buf *b) {
  const uint64_t t = r->n++;
  assert_true(t < MAX_TICKETS);
  /* of just its size, for the sanitizer */
  char *copy = malloc(b->len ? b->len : 1);
  if (b->len) memcpy(copy, b->data, b->len);
  weir_rpc_core_message(r->core, t, copy, b->len);
  free(copy);
  weir_buf_fini(b);
  return t;
}

/* Turns until a ticket has its answer. */
static void await(rig *r, uint64_t t) {
  struct pollfd p = {.fd = weir_service_news_fd(r->served.service), .events = POLLIN};
  uint64_t n;
  while (r->got[t].times == 0) {
    weir_rpc_core_turn(r->core);
    if (r->got[t].times > 0) break;
    if (poll(&p, 1, 10000) <= 0) fail_msg("ticket %llu: no news for ten seconds", (unsigned long long)t);
    (void)!read(p.fd, &n, sizeof n);
  }
}

static void reply_of(rig *r, uint64_t t, weir_frame_msg *m) {
  await(r, t);
  rig_unpack(r->got[t].frame.data, r->got[t].frame.len, m);
}

/* Sends, and the code of the Error that comes; 0: something else came. */
static int32_t code_of(rig *r, weir_buf *b, char param[64]) {
  weir_frame_msg m;
  reply_of(r, send(r, b), &m);
  const int32_t code = m.kind == WEIR_FRAME_ERROR ? (int32_t)m.as.error->code : 0;
  if (param) param[0] = 0;
  if (param && code) snprintf(param, 64, "%s", m.as.error->param);
  if (code) assert_true(m.as.error->message[0] != 0);
  weir_frame_msg_fini(&m);
  return code;
}

static bool submit(rig *r, const rig_submit *s, rig_stream *x) {
  weir_buf b = {0};
  weir_frame_msg m;
  rig_put_submit(&b, s);
  reply_of(r, send(r, &b), &m);
  if (m.kind == WEIR_FRAME_ERROR) fail_msg("%u %s", m.as.error->code, m.as.error->message);
  const bool known = m.as.submit_reply->known;
  weir_frame_msg_fini(&m);
  if (x) {
    *x = (rig_stream){.state = -1};
    rig_id(2, s->request, x->id);
  }
  return known;
}

/* One poll and what it brings; true: `more`. */
static bool poll_once(rig *r, uint32_t session, rig_stream *const *x, int32_t n, uint32_t wait_ms,
                      uint32_t max_bytes) {
  weir_buf b = {0};
  weir_frame_msg m;
  rig_put_poll(&b, session, (const rig_stream *const *)x, n, wait_ms, max_bytes, NULL);
  reply_of(r, send(r, &b), &m);
  assert_int_equal(m.kind, WEIR_FRAME_POLL | WEIR_FRAME_REPLY);
  assert_false(m.as.poll_reply->replaced);
  rig_take(m.as.poll_reply, x, n);
  const bool more = m.as.poll_reply->more;
  weir_frame_msg_fini(&m);
  return more;
}

static void poll_to_end(rig *r, uint32_t session, rig_stream *const *x, int32_t n, uint32_t max_bytes) {
  for (int32_t open = n; open > 0;) {
    poll_once(r, session, x, n, 5000, max_bytes);
    open = 0;
    for (int32_t i = 0; i < n; i++) open += !x[i]->ended && !x[i]->unknown;
  }
}

/* What the small tier writes of rig_put_submit's prompt. */
static void expect_law(const rig *r, const rig_stream *x, uint32_t request, uint32_t n_ids) {
  int32_t tok[RIG_MAX_TOKENS + 64], n = 0;
  for (; n < (int32_t)n_ids; n++) tok[n] = 5 + (int32_t)(((uint32_t)n * 7 + request) % 200);
  for (int32_t i = 0; i < x->n; i++, n++) {
    const weir_ask a = {.top_p = 1, .pos = n, .probe = -1, .seed = 7};
    tok[n] = fake_law_row(&r->served.law, 0, tok, n, &a).token;
    assert_int_equal(x->token[i], tok[n]);
  }
}

static void test_streams(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  enum { N = 12 };
  static const uint32_t sizes[] = {0, 1200, 1}; /* of replies */
  for (uint32_t k = 0; k < 3; k++) {
    rig_stream x[N], *at[N];
    for (uint32_t i = 0; i < N; i++) {
      assert_false(submit(
          r,
          &(rig_submit){
              .session = k, .request = 100 * k + i, .n_ids = 10, .max_tokens = 20 + i * 8, .receipts = i % 2},
          &x[i]));
      at[i] = &x[i];
    }
    poll_to_end(r, k, at, N, sizes[k]);
    for (uint32_t i = 0; i < N; i++) {
      assert_string_equal(x[i].reason, "length");
      assert_int_equal(x[i].n, 20 + i * 8);
      assert_int_equal(x[i].n_prompt, 10);
      assert_int_equal(x[i].seed, 7);
      expect_law(r, &x[i], 100 * k + i, 10);
    }
    /* the ends are acknowledged: nothing is kept, and the ids stay over */
    poll_once(r, k, at, N, 0, 0);
    assert_int_equal(weir_service_reply_bytes(r->served.service), 0);
    assert_true(
        submit(r, &(rig_submit){.session = k, .request = 100 * k, .n_ids = 10, .max_tokens = 5}, NULL));
    rig_stream y = {.state = -1}, *one = &y;
    rig_id(2, 100 * k, y.id);
    poll_once(r, k, &one, 1, 5000, 0);
    assert_true(y.unknown);
  }
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  rig_close(r);
}

/* Submits that come again, before, while and after; under another session too. */
static void test_duplicates(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  rig_stream x, *at = &x;
  weir_buf b = {0};
  const rig_submit s = {.session = 1, .request = 5, .n_ids = 8, .max_tokens = 40};
  served_hold(&r->served, 0);
  assert_false(submit(r, &s, &x));
  assert_true(submit(r, &s, NULL));
  rig_submit other = s;
  other.session = 2;
  rig_put_submit(&b, &other);
  assert_int_equal(code_of(r, &b, NULL), 409);
  assert_int_equal(weir_service_open_requests(r->served.service), 1);
  served_hold(&r->served, 10);
  while (x.n < 3) poll_once(r, 1, &at, 1, 5000, 0);
  assert_true(submit(r, &s, NULL));
  served_hold(&r->served, -1);
  poll_to_end(r, 1, &at, 1, 0);
  assert_true(submit(r, &s, NULL));
  expect_law(r, &x, 5, 8);
  assert_int_equal(x.n, 40);
  /* a cancellation that is faster than its Submit */
  const uint32_t late = 77;
  rig_put_cancel(&b, 1, &late, 1);
  assert_int_equal(code_of(r, &b, NULL), 0);
  assert_true(submit(r, &(rig_submit){.session = 1, .request = late, .n_ids = 8, .max_tokens = 4}, NULL));
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  rig_close(r);
}

/* An answer that was lost: the next poll names the old cursor and gets the same again. */
static void test_resume(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  rig_stream x, *at = &x;
  submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 100}, &x);
  rig_stream lost = x, *lost_at = &lost;
  poll_to_end(r, 1, &lost_at, 1, 600);
  assert_int_equal(lost.n, 100);
  for (int32_t have = 0; have <= 100; have += 20) { /* any cursor, as often as one likes */
    x = (rig_stream){.state = -1, .n = have};
    memcpy(x.id, lost.id, 16);
    memcpy(x.token, lost.token, sizeof x.token);
    poll_to_end(r, 1, &at, 1, 600);
    assert_int_equal(x.n, 100);
    assert_memory_equal(x.token, lost.token, 100 * sizeof *x.token);
  }
  rig_close(r);
}

static void test_parked(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  rig_stream x;
  const rig_stream *at = &x;
  rig_stream *to = &x;
  weir_buf b = {0};
  weir_frame_msg m;
  served_hold(&r->served, 0);
  submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 4}, &x);
  served_await_held(&r->served);
  /* the state is news, once */
  poll_once(r, 1, &to, 1, 5000, 0);
  assert_int_equal(x.state, 1);
  assert_int_equal(x.n_prompt, 8);
  rig_put_poll(&b, 1, &at, 1, 5000, 0, NULL);
  const uint64_t first = send(r, &b);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[first].times, 0);
  assert_int_equal(weir_rpc_core_parked(r->core), 1);
  /* replaced by the next */
  rig_put_poll(&b, 1, &at, 1, 5000, 0, NULL);
  const uint64_t second = send(r, &b);
  assert_int_equal(r->got[first].times, 1);
  assert_true(r->got[first].superseded);
  reply_of(r, first, &m);
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
  poll_once(r, 1, &to, 1, 5000, 0);
  assert_int_equal(x.updates, 1);
  served_hold(&r->served, -1);
  poll_to_end(r, 1, &to, 1, 0);
  assert_int_equal(x.n, 4);
  rig_close(r);
}

static void await_end_of_requests(rig *r) {
  struct pollfd p = {.fd = weir_service_news_fd(r->served.service), .events = POLLIN};
  uint64_t n;
  while (weir_service_open_requests(r->served.service) > 0)
    if (poll(&p, 1, 10000) > 0) (void)!read(p.fd, &n, sizeof n);
}

/* While a connection is busy its poll waits, and is then told all that came. */
static void test_busy_connection(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  rig_stream x, *to = &x;
  const rig_stream *at = &x;
  weir_buf b = {0};
  weir_frame_msg m;
  const int64_t second = 1000000000;
  served_hold(&r->served, 0);
  submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 30}, &x);
  assert_false(weir_rpc_core_wants_news(r->core)); /* nobody polls */
  r->busy_ns = weir_now_ns(&r->served.cfg.engine.clock) + 4 * second;
  rig_put_poll(&b, 1, &at, 1, 9000, 0, NULL);
  const uint64_t t = send(r, &b);
  served_hold(&r->served, -1);
  await_end_of_requests(r);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[t].times, 0);
  assert_int_equal(weir_rpc_core_parked(r->core), 1);
  assert_false(weir_rpc_core_wants_news(r->core));
  assert_true(weir_rpc_core_next_ns(r->core) <= r->busy_ns);
  served_skip(&r->served, 5 * second);
  assert_true(weir_rpc_core_wants_news(r->core));
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[t].times, 1);
  reply_of(r, t, &m);
  rig_take(m.as.poll_reply, &to, 1);
  weir_frame_msg_fini(&m);
  assert_int_equal(x.n, 30);
  assert_true(x.ended);
  assert_false(weir_rpc_core_wants_news(r->core));
  /* one that does not want to wait has its answer when the connection is free, news or not; the next poll of
   * the session takes its place before */
  r->busy_ns = weir_now_ns(&r->served.cfg.engine.clock) + 4 * second;
  rig_put_poll(&b, 1, &at, 1, 0, 0, NULL); /* acknowledges the end */
  const uint64_t replaced = send(r, &b);
  assert_int_equal(r->got[replaced].times, 0);
  rig_put_poll(&b, 1, NULL, 0, 0, 0, NULL);
  const uint64_t last = send(r, &b);
  assert_int_equal(r->got[replaced].times, 1);
  assert_true(r->got[replaced].superseded);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[last].times, 0);
  served_skip(&r->served, 5 * second);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[last].times, 1);
  assert_false(r->got[last].superseded);
  assert_int_equal(weir_rpc_core_parked(r->core), 0);
  rig_close(r);
}

static void test_cancel(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  rig_stream x[3], *at[3] = {&x[0], &x[1], &x[2]};
  served_hold(&r->served, 0);
  for (uint32_t i = 0; i < 3; i++)
    submit(r, &(rig_submit){.session = 1, .request = i, .n_ids = 8, .max_tokens = 200}, &x[i]);
  const uint32_t one[] = {1, 99};
  rig_put_cancel(&b, 2, one, 1); /* another session may not */
  reply_of(r, send(r, &b), &m);
  assert_int_equal(m.as.cancel_reply->cancelled, 0);
  weir_frame_msg_fini(&m);
  rig_put_cancel(&b, 1, one, 2);
  reply_of(r, send(r, &b), &m);
  assert_int_equal(m.as.cancel_reply->cancelled, 1);
  weir_frame_msg_fini(&m);
  served_hold(&r->served, 30);
  while (x[0].n < 2 || !x[1].ended) poll_once(r, 1, at, 3, 5000, 0);
  assert_string_equal(x[1].reason, "cancelled");
  rig_put_cancel(&b, 1, NULL, 0); /* all */
  reply_of(r, send(r, &b), &m);
  assert_int_equal(m.as.cancel_reply->cancelled, 2);
  weir_frame_msg_fini(&m);
  served_hold(&r->served, -1);
  rig_stream *rest[] = {&x[0], &x[2]};
  poll_to_end(r, 1, rest, 2, 0);
  assert_string_equal(x[0].reason, "cancelled");
  assert_true(x[0].n >= 2 && x[0].n < 200);
  expect_law(r, &x[0], 0, 8);
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  rig_close(r);
}

/* What a client does that hangs up: a Cancel, and `done` once as soon as it is answered, when the step that
 * is under way has not ended yet. Nothing is kept, however often. */
static void test_done_before_end(void **state) {
  (void)state;
  const weir_rpc_limits limits = {.max_per_session = 4};
  rig *r = rig_open(&limits, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  for (uint32_t i = 0; i < 12; i++) {
    const bool cancel = i % 3 != 2; /* and `done` alone is enough */
    rig_stream x;
    const rig_stream *at = &x;
    served_hold(&r->served, 0);
    assert_false(submit(r, &(rig_submit){.session = 1, .request = i, .n_ids = 8, .max_tokens = 200}, &x));
    served_await_held(&r->served); /* a step of it is under way */
    if (cancel) {
      rig_put_cancel(&b, 1, &i, 1);
      assert_int_equal(code_of(r, &b, NULL), 0);
    }
    x.ended = true; /* `done` */
    rig_put_poll(&b, 1, &at, 1, 0, 0, NULL);
    reply_of(r, send(r, &b), &m);
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
    assert_true(rpc_metric(r, "weir:rpc_requests_kept", NULL) == 0);
    /* it is over: it does not start again */
    assert_true(submit(r, &(rig_submit){.session = 1, .request = i, .n_ids = 8, .max_tokens = 200}, NULL));
  }
  assert_true(served_metric(&r->served, "weir:requests_cancelled_total", "client") == 12);
  rig_close(r);
}

/* Ids that somebody makes up and cancels do not make the server forget which requests were here. */
static void test_made_up_ids(void **state) {
  (void)state;
  enum { ROUNDS = 40, EACH = 8192 }; /* several times what the table holds */
  rig *r = rig_open(NULL, NULL, 0);
  static uint32_t ids[EACH];
  weir_buf b = {0};
  rig_stream x, *at = &x;
  const rig_submit s = {.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3};
  submit(r, &s, &x);
  poll_to_end(r, 1, &at, 1, 0);
  poll_once(r, 1, &at, 1, 0, 0);
  for (uint32_t k = 0; k < ROUNDS; k++) {
    for (uint32_t i = 0; i < EACH; i++) ids[i] = 1000 + k * EACH + i;
    rig_put_cancel(&b, 2, ids, EACH);
    assert_int_equal(code_of(r, &b, NULL), 0);
  }
  assert_true(submit(r, &s, NULL));
  assert_int_equal(weir_service_open_requests(r->served.service), 0);
  /* and the last of them are remembered */
  assert_true(
      submit(r, &(rig_submit){.session = 1, .request = ids[EACH - 1], .n_ids = 8, .max_tokens = 3}, NULL));
  rig_close(r);
}

static void test_session_gone(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  rig_stream x, *to = &x;
  const rig_stream *at = &x;
  weir_buf b = {0};
  served_hold(&r->served, 0);
  submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 200}, &x);
  served_await_held(&r->served);
  poll_once(r, 1, &to, 1, 5000, 0);
  rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
  send(r, &b);
  /* parked polls count */
  for (int i = 0; i < 8; i++) {
    served_skip(&r->served, 9000000000);
    weir_rpc_core_turn(r->core);
    assert_int_equal(weir_rpc_core_sessions(r->core), 1);
    for (int k = 0; k < 2; k++) { /* the first is told the state again */
      rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
      send(r, &b);
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
  await_end_of_requests(r);
  assert_true(served_metric(&r->served, "weir:requests_cancelled_total", "gone") == 1);
  /* it comes back: the request is unknown, and does not start again */
  assert_true(submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 200}, NULL));
  poll_once(r, 1, &to, 1, 5000, 0);
  assert_true(x.unknown);
  rig_close(r);
}

/* Only Polls are signs of life: neither Submits nor Cancels keep a session whose client reads nothing. */
static void test_session_without_polls(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  weir_buf b = {0};
  rig_stream x, *at = &x;
  const uint32_t other = 99;
  submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3}, &x);
  for (uint32_t i = 1; i <= 3; i++) {
    assert_int_equal(weir_rpc_core_sessions(r->core), 1);
    served_skip(&r->served, 9000000000);
    submit(r, &(rig_submit){.session = 1, .request = 1 + i, .n_ids = 8, .max_tokens = 3}, NULL);
    submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3}, NULL); /* known */
    rig_put_cancel(&b, 1, &other, 1);
    assert_int_equal(code_of(r, &b, NULL), 0);
    weir_rpc_core_turn(r->core);
  }
  served_skip(&r->served, 4000000000);
  weir_rpc_core_turn(r->core);
  assert_int_equal(weir_rpc_core_sessions(r->core), 0);
  /* a session that has fallen silent without requests has its whole time from its next Submit on */
  submit(r, &(rig_submit){.session = 1, .request = 10, .n_ids = 8, .max_tokens = 3}, &x);
  poll_to_end(r, 1, &at, 1, 0);
  poll_once(r, 1, &at, 1, 0, 0);
  served_skip(&r->served, 29000000000);
  weir_rpc_core_turn(r->core);
  submit(r, &(rig_submit){.session = 1, .request = 11, .n_ids = 8, .max_tokens = 3}, &x);
  served_skip(&r->served, 29000000000);
  weir_rpc_core_turn(r->core);
  poll_to_end(r, 1, &at, 1, 0);
  assert_false(x.unknown);
  assert_int_equal(x.n, 3);
  rig_close(r);
}

/* The answer that told of the start was lost: a client that says which state it knows is told again at once,
 * while its request has not a token yet. */
static void test_lost_start(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  rig_stream x;
  served_hold(&r->served, 0);
  submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 4}, &x);
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
    const uint64_t t = send(r, &b);
    assert_int_equal(r->got[t].times, 1); /* not parked */
    reply_of(r, t, &m);
    assert_int_equal(m.as.poll_reply->n_update, 1);
    assert_int_equal(m.as.poll_reply->update[0]->state, 1);
    assert_int_equal(m.as.poll_reply->update[0]->prompt_tokens, 8);
    weir_frame_msg_fini(&m);
  }
  cursor.state = 1; /* it has come: no news */
  assert_int_equal(weir_frame_put(WEIR_FRAME_POLL, &q.base, &b, NULL), WEIR_OK);
  const uint64_t parked = send(r, &b);
  weir_rpc_core_turn(r->core);
  assert_int_equal(r->got[parked].times, 0);
  served_hold(&r->served, -1);
  rig_close(r);
}

static void test_bounds(void **state) {
  (void)state;
  /* a reply of few tokens takes some 9 KB; the last one may not be let go of yet */
  const weir_rpc_limits limits = {
      .max_sessions = 3, .max_per_session = 2, .max_kept = 5, .max_reply_memory = 20000};
  rig *r = rig_open(&limits, NULL, 4);
  weir_buf b = {0};
  rig_stream x;
  rig_submit s = {.session = 1, .request = 1, .n_ids = 8, .max_tokens = 3};
  served_hold(&r->served, 0);
  submit(r, &s, &x);
  s.request = 2;
  submit(r, &s, NULL);
  s.request = 3;
  rig_put_submit(&b, &s);
  assert_int_equal(code_of(r, &b, NULL), 429); /* of the session */
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "session") == 1);
  s.session = 2;
  submit(r, &s, NULL);
  s.session = 3;
  s.request = 4;
  submit(r, &s, NULL);
  s.session = 4;
  s.request = 5;
  rig_put_submit(&b, &s);
  assert_int_equal(code_of(r, &b, NULL), 429); /* sessions */
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "sessions") == 1);
  s.session = 3;
  rig_put_submit(&b, &s);
  assert_int_equal(code_of(r, &b, NULL), 429); /* the service's */
  served_hold(&r->served, -1);
  struct pollfd p = {.fd = weir_service_news_fd(r->served.service), .events = POLLIN};
  uint64_t n;
  while (weir_service_open_requests(r->served.service) > 0)
    if (poll(&p, 1, 10000) > 0) (void)!read(p.fd, &n, sizeof n);
  /* four replies that nobody has fetched are too much memory */
  rig_put_submit(&b, &s);
  assert_int_equal(code_of(r, &b, NULL), 429);
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "memory") == 1);
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "full") == 1);
  for (uint32_t k = 1; k <= 4; k++) {
    rig_stream *at = &x;
    x = (rig_stream){.state = -1};
    rig_id(2, k, x.id);
    poll_to_end(r, k < 3 ? 1 : k - 1, &at, 1, 0);
    poll_once(r, k < 3 ? 1 : k - 1, &at, 1, 0, 0);
  }
  assert_false(submit(r, &s, NULL));
  rig_close(r);
}

static void test_kept(void **state) {
  (void)state;
  const weir_rpc_limits limits = {.max_kept = 2};
  rig *r = rig_open(&limits, NULL, 0);
  weir_buf b = {0};
  for (uint32_t i = 0; i < 3; i++) {
    rig_put_submit(&b, &(rig_submit){.session = i, .request = i, .n_ids = 8, .max_tokens = 3});
    assert_int_equal(code_of(r, &b, NULL), i < 2 ? 0 : 429);
  }
  assert_true(served_metric(&r->served, "weir:requests_refused_total", "kept") == 1);
  rig_close(r);
}

static void put_raw(weir_buf *b, int kind, const void *body, size_t n) {
  const uint8_t head[] = {'W', 'E', 'I', 'R', 1, (uint8_t)kind, 0, 0};
  assert_int_equal(weir_buf_put(b, head, sizeof head, NULL), WEIR_OK);
  if (n) assert_int_equal(weir_buf_put(b, body, n, NULL), WEIR_OK);
}

static void test_nonsense(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
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
    if (code_of(r, &b, NULL) != 400) fail_msg("case %zu", i);
  }
  /* too large, a little */
  char *big = calloc(1, (4 << 20) + 100);
  put_raw(&b, WEIR_FRAME_SUBMIT, big, (4 << 20) + 1);
  assert_int_equal(code_of(r, &b, NULL), 413);
  /* many empty parts: the budget says no */
  for (int i = 0; i < 1 << 20; i += 2) memcpy(big + i, "\x3a\x00", 2);
  put_raw(&b, WEIR_FRAME_SUBMIT, big, 1 << 20);
  assert_int_equal(code_of(r, &b, NULL), 413);
  free(big);
  /* what the service refuses is told with its field */
  rig_put_submit(&b, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 4000});
  assert_int_equal(code_of(r, &b, param), 400);
  assert_string_equal(param, "max_tokens");
  assert_int_equal(weir_rpc_core_sessions(r->core), 0);
  rig_close(r);
}

static void test_token(void **state) {
  (void)state;
  rig *r = rig_open(NULL, "secret", 0);
  weir_buf b = {0};
  static const struct {
    const char *token;
    int32_t code;
  } cases[] = {{"secret", 0},    {"", 401},       {"secre", 401},
               {"secret!", 401}, {"Secret", 401}, {"secretsecret", 401}};
  for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rig_put_submit(
        &b, &(rig_submit){.session = 1, .request = i, .token = cases[i].token, .n_ids = 4, .max_tokens = 1});
    assert_int_equal(code_of(r, &b, NULL), cases[i].code);
    rig_put_poll(&b, 1, NULL, 0, 0, 0, cases[i].token);
    assert_int_equal(code_of(r, &b, NULL), cases[i].code);
  }
  put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  assert_int_equal(code_of(r, &b, NULL), 401);
  put_raw(&b, WEIR_FRAME_HEALTH, NULL, 0);
  assert_int_equal(code_of(r, &b, NULL), 0);
  rig_close(r);
}

static void test_questions(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  weir_buf b = {0};
  weir_frame_msg m;
  put_raw(&b, WEIR_FRAME_MODELS, NULL, 0);
  reply_of(r, send(r, &b), &m);
  assert_string_equal(m.as.models_reply->id, "tiny");
  assert_int_equal(m.as.models_reply->context, 512);
  assert_int_equal(m.as.models_reply->vocab, 288);
  assert_int_equal(m.as.models_reply->n_tier, 2);
  assert_int_equal(m.as.models_reply->n_modes, 3);
  assert_string_equal(m.as.models_reply->mode, "defer");
  assert_string_equal(m.as.models_reply->version, "1.2.3");
  assert_int_equal(m.as.models_reply->max_request_bytes, 4 << 20);
  weir_frame_msg_fini(&m);
  put_raw(&b, WEIR_FRAME_HEALTH, NULL, 0);
  reply_of(r, send(r, &b), &m);
  assert_true(m.as.health_reply->live && m.as.health_reply->ready);
  weir_frame_msg_fini(&m);
  put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  reply_of(r, send(r, &b), &m);
  assert_true(m.as.stats_reply->n_family > 3);
  assert_true(m.as.stats_reply->health->live);
  weir_frame_msg_fini(&m);
  Weir__V1__TokenizeRequest t = WEIR__V1__TOKENIZE_REQUEST__INIT;
  t.text = (char *)"hello world";
  t.bare = true;
  assert_int_equal(weir_frame_put(WEIR_FRAME_TOKENIZE, &t.base, &b, NULL), WEIR_OK);
  reply_of(r, send(r, &b), &m);
  Weir__V1__DetokenizeRequest d = WEIR__V1__DETOKENIZE_REQUEST__INIT;
  d.id = m.as.tokenize_reply->id;
  d.n_id = m.as.tokenize_reply->n_id;
  assert_true(d.n_id > 0);
  assert_int_equal(weir_frame_put(WEIR_FRAME_DETOKENIZE, &d.base, &b, NULL), WEIR_OK);
  weir_frame_msg_fini(&m);
  reply_of(r, send(r, &b), &m);
  assert_int_equal(m.as.detokenize_reply->text.len, 11);
  assert_memory_equal(m.as.detokenize_reply->text.data, "hello world", 11);
  weir_frame_msg_fini(&m);
  /* a wrong field has the name that it has in the question */
  uint32_t outside[] = {5, 9999999};
  d.id = outside;
  d.n_id = 2;
  assert_int_equal(weir_frame_put(WEIR_FRAME_DETOKENIZE, &d.base, &b, NULL), WEIR_OK);
  reply_of(r, send(r, &b), &m);
  assert_int_equal(m.kind, WEIR_FRAME_ERROR);
  assert_int_equal(m.as.error->code, 400);
  assert_string_equal(m.as.error->param, "id");
  assert_memory_equal(m.as.error->message, "id: ", 4);
  weir_frame_msg_fini(&m);
  rig_close(r);
}

/* What Stats tells is of now, also when the loop has slept since something changed. */
static void test_gauges_of_now(void **state) {
  (void)state;
  rig *r = rig_open(NULL, NULL, 0);
  weir_buf b = {0};
  rig_stream x[2], *at[] = {&x[0], &x[1]};
  served *v = &r->served;
  served_hold(v, 0);
  submit(r, &(rig_submit){.session = 1, .request = 0, .n_ids = 8, .max_tokens = 30}, &x[0]);
  served_await_held(v);
  submit(r, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 30}, &x[1]);
  put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  assert_int_equal(code_of(r, &b, NULL), 0);
  /* none has a step behind it: the loop has not told of one that runs */
  assert_true(served_metric(v, "weir:num_requests_waiting", NULL) +
                  served_metric(v, "weir:num_requests_running", NULL) ==
              2);
  assert_true(served_metric(v, "weir:reply_bytes", NULL) > 0);
  assert_true(rpc_metric(r, "weir:rpc_requests_kept", NULL) == 2);
  served_hold(v, -1);
  poll_to_end(r, 1, at, 2, 0);
  assert_true(served_metric(v, "weir:goodput_tokens_per_second", NULL) > 0);
  poll_once(r, 1, at, 2, 0, 0); /* acknowledged */
  served_await_no_replies(v);
  served_skip(v, 6000000000);
  /* the loop goes to sleep a moment after its last step */
  for (int i = 0; i < 5000 && weir_service_get_stats(v->service).goodput > 0; i++) (void)poll(NULL, 0, 1);
  put_raw(&b, WEIR_FRAME_STATS, NULL, 0);
  assert_int_equal(code_of(r, &b, NULL), 0);
  static const char *const gauges[] = {"weir:num_requests_waiting", "weir:num_requests_running",
                                       "weir:reply_bytes", "weir:goodput_tokens_per_second",
                                       "weir:large_only_goodput_tokens_per_second"};
  for (size_t i = 0; i < sizeof gauges / sizeof *gauges; i++)
    if (served_metric(v, gauges[i], NULL) != 0)
      fail_msg("%s is %g", gauges[i], served_metric(v, gauges[i], NULL));
  assert_true(weir_service_get_stats(v->service).goodput == 0);
  assert_true(rpc_metric(r, "weir:rpc_requests_kept", NULL) == 0);
  assert_true(rpc_metric(r, "weir:rpc_sessions", NULL) == 1);
  rig_close(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_streams),
      cmocka_unit_test(test_duplicates),
      cmocka_unit_test(test_resume),
      cmocka_unit_test(test_parked),
      cmocka_unit_test(test_busy_connection),
      cmocka_unit_test(test_cancel),
      cmocka_unit_test(test_done_before_end),
      cmocka_unit_test(test_made_up_ids),
      cmocka_unit_test(test_session_gone),
      cmocka_unit_test(test_session_without_polls),
      cmocka_unit_test(test_lost_start),
      cmocka_unit_test(test_bounds),
      cmocka_unit_test(test_kept),
      cmocka_unit_test(test_gauges_of_now),
      cmocka_unit_test(test_nonsense),
      cmocka_unit_test(test_token),
      cmocka_unit_test(test_questions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
