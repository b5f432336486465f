/* SPDX-License-Identifier: Apache-2.0 */
/* The rig of core_rig.h. The thread of the test. */
#include "core_rig.h"

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

static void answer(void *ctx, uint64_t ticket, const void *frame, size_t n, bool superseded) {
  core_rig *r = ctx;
  assert_true(ticket < r->n);
  assert_int_equal(++r->got[ticket].times, 1);
  r->got[ticket].superseded = superseded;
  assert_int_equal(weir_buf_put(&r->got[ticket].frame, frame, n, NULL), WEIR_OK);
}

int64_t core_now(const core_rig *r) { return weir_now_ns(&r->served.cfg.engine.clock); }

static int64_t ready_ns(void *ctx, uint64_t ticket) {
  const core_rig *r = ctx;
  assert_true(ticket < r->n);
  return r->busy_ns;
}

core_rig *core_open(const weir_rpc_limits *limits, const char *token, int32_t max_requests) {
  weir_err e = {0};
  core_rig *r = calloc(1, sizeof *r);
  served_opts o = served_usual();
  o.mortal = true;
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

double core_metric(core_rig *r, const char *name, const char *label) {
  weir_metrics *of_service = r->served.metrics;
  r->served.metrics = r->metrics;
  const double value = served_metric(&r->served, name, label);
  r->served.metrics = of_service;
  return value;
}

void core_close(core_rig *r) {
  weir_rpc_core_flush(r->core);
  weir_rpc_core_destroy(r->core);
  weir_metrics_destroy(r->metrics);
  served_close(&r->served);
  for (uint64_t i = 0; i < r->n; i++) weir_buf_fini(&r->got[i].frame);
  free(r);
}

uint64_t core_send(core_rig *r, weir_buf *b) {
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
static void await(core_rig *r, uint64_t t) {
  struct pollfd p = {.fd = weir_service_news_fd(r->served.service), .events = POLLIN};
  uint64_t n;
  while (r->got[t].times == 0) {
    weir_rpc_core_turn(r->core);
    if (r->got[t].times > 0) break;
    if (poll(&p, 1, 10000) <= 0) fail_msg("ticket %llu: no news for ten seconds", (unsigned long long)t);
    (void)!read(p.fd, &n, sizeof n);
  }
}

void core_reply(core_rig *r, uint64_t t, weir_frame_msg *m) {
  await(r, t);
  rig_unpack(r->got[t].frame.data, r->got[t].frame.len, m);
}

int32_t core_code(core_rig *r, weir_buf *b, char param[64]) {
  weir_frame_msg m;
  core_reply(r, core_send(r, b), &m);
  const int32_t code = m.kind == WEIR_FRAME_ERROR ? (int32_t)m.as.error->code : 0;
  if (param) param[0] = 0;
  if (param && code) snprintf(param, 64, "%s", m.as.error->param);
  if (code) assert_true(m.as.error->message[0] != 0);
  weir_frame_msg_fini(&m);
  return code;
}

bool core_submit(core_rig *r, const rig_submit *s, rig_stream *x) {
  weir_buf b = {0};
  weir_frame_msg m;
  rig_put_submit(&b, s);
  core_reply(r, core_send(r, &b), &m);
  if (m.kind == WEIR_FRAME_ERROR) fail_msg("%u %s", m.as.error->code, m.as.error->message);
  const bool known = m.as.submit_reply->known;
  weir_frame_msg_fini(&m);
  if (x) {
    *x = (rig_stream){.state = -1};
    rig_id(2, s->request, x->id);
  }
  return known;
}

bool core_poll(core_rig *r, uint32_t session, rig_stream *const *x, int32_t n, uint32_t wait_ms,
               uint32_t max_bytes) {
  weir_buf b = {0};
  weir_frame_msg m;
  rig_put_poll(&b, session, (const rig_stream *const *)x, n, wait_ms, max_bytes, NULL);
  core_reply(r, core_send(r, &b), &m);
  assert_int_equal(m.kind, WEIR_FRAME_POLL | WEIR_FRAME_REPLY);
  assert_false(m.as.poll_reply->replaced);
  rig_take(m.as.poll_reply, x, n);
  const bool more = m.as.poll_reply->more;
  weir_frame_msg_fini(&m);
  return more;
}

void core_poll_to_end(core_rig *r, uint32_t session, rig_stream *const *x, int32_t n, uint32_t max_bytes) {
  for (int32_t open = n; open > 0;) {
    core_poll(r, session, x, n, 5000, max_bytes);
    open = 0;
    for (int32_t i = 0; i < n; i++) open += !x[i]->ended && !x[i]->unknown;
  }
}

void core_expect_law(const core_rig *r, const rig_stream *x, uint32_t request, uint32_t n_ids) {
  int32_t tok[RIG_MAX_TOKENS + 64], n = 0;
  for (; n < (int32_t)n_ids; n++) tok[n] = 5 + (int32_t)(((uint32_t)n * 7 + request) % 200);
  for (int32_t i = 0; i < x->n; i++, n++) {
    const weir_ask a = {.top_p = 1, .pos = n, .probe = -1, .seed = 7};
    tok[n] = fake_law_row(&r->served.law, 0, tok, n, &a).token;
    assert_int_equal(x->token[i], tok[n]);
  }
}

void core_await_end(core_rig *r) {
  struct pollfd p = {.fd = weir_service_news_fd(r->served.service), .events = POLLIN};
  uint64_t n;
  while (weir_service_open_requests(r->served.service) > 0)
    if (poll(&p, 1, 10000) > 0) (void)!read(p.fd, &n, sizeof n);
}

void core_put_raw(weir_buf *b, int kind, const void *body, size_t n) {
  const uint8_t head[] = {'W', 'E', 'I', 'R', 1, (uint8_t)kind, 0, 0};
  assert_int_equal(weir_buf_put(b, head, sizeof head, NULL), WEIR_OK);
  if (n) assert_int_equal(weir_buf_put(b, body, n, NULL), WEIR_OK);
}
