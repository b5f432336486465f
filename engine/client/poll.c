/* SPDX-License-Identifier: Apache-2.0 */
/* The poll lane: one Poll is parked at the engine for all requests of the session. It is sent again with
 * fresh cursors when it is answered, when a request is open that it does not carry, and when its answer is
 * overdue; cursors make every repetition harmless. An answer to an older Poll is as good: on a slow
 * connection it may still be on its way when the next Poll is sent, and then it is that one's answer which
 * raw REP throws away. The client's thread. */
#include <stdlib.h>

#include "client/client_in.h"

/* A request that was just taken waits so long for others, so that a burst of Submits makes few Polls. */
#define GATHER_NS (5 * CLIENT_MS)
/* After an answer that brought nothing though it was asked to wait, and came early. */
#define PACE_NS (20 * CLIENT_MS)
/* After the answer to an older Poll: that to the newest comes now, or was lost. */
#define SOON_NS (250 * CLIENT_MS)

static bool is_polled(const client_request *r) { return r->state == REQUEST_OPEN && !r->silent; }

static void count(const weir_client *c, int32_t *n_live, int32_t *n_over) {
  *n_live = *n_over = 0;
  for (const client_request *r = c->first; r; r = r->next) {
    *n_live += is_polled(r);
    *n_over += r->state == REQUEST_OVER && !r->gone;
  }
}

static bool send_poll(weir_client *c, int32_t n_live, int32_t n_over) {
  const size_t n = (size_t)n_live + (size_t)n_over;
  Weir__V1__Cursor *cursor = calloc(n + 1, sizeof *cursor), **at = calloc(n + 1, sizeof *at);
  void *msg = NULL;
  const int64_t now = client_now(c);
  bool sent = false;
  if (!cursor || !at) goto out;
  size_t k = 0;
  for (client_request *r = c->first; r; r = r->next) {
    const bool over = r->state == REQUEST_OVER && !r->gone;
    if (k == n || (!over && !is_polled(r))) continue;
    weir__v1__cursor__init(&cursor[k]);
    cursor[k].request_id = weir_frame_id(r->id);
    cursor[k].have = r->have;
    cursor[k].done = over;
    cursor[k].has_state_case = WEIR__V1__CURSOR__HAS_STATE_STATE;
    cursor[k].state = r->seen;
    at[k] = &cursor[k];
    k++;
  }
  Weir__V1__PollRequest m = WEIR__V1__POLL_REQUEST__INIT;
  m.token = (char *)c->cfg.token;
  m.session = weir_frame_id(c->session);
  m.cursor = at;
  m.n_cursor = k;
  m.wait_ms = n_live > 0 ? (uint32_t)c->cfg.poll_ms : 0;
  m.max_bytes = (uint32_t)(c->cfg.max_reply_bytes / 2);
  msg = client_lane_msg(weir_frame_size(&m.base));
  if (!msg) goto out;
  weir_frame_pack(WEIR_FRAME_POLL, &m.base, msg);
  client_lane_send(&c->poll_lane, msg, weir_frame_size(&m.base), now);
  sent = true;
out:
  free(cursor);
  free(at);
  c->poll.not_before_ns = sent ? 0 : now + PACE_NS;
  if (!sent) return false;
  c->poll.seq++;
  for (client_request *r = c->first; r; r = r->next) {
    if (is_polled(r)) r->poll_seq = c->poll.seq;
    if (r->state == REQUEST_OVER) r->told_seq = c->poll.seq;
  }
  c->poll.out = true;
  c->poll.parked = m.wait_ms > 0;
  c->poll.sent_ns = now;
  c->poll.missing_ns = 0;
  c->poll.soon_ns = 0;
  return true;
}

/* How long the outstanding Poll is waited for: the lane sends a lost one again, but only after resend_ms. */
static int64_t overdue_at(const weir_client *c) {
  int64_t wait = (2 * (int64_t)c->cfg.poll_ms + 100) * CLIENT_MS;
  for (int32_t i = 0; i < c->poll.unanswered && wait < c->cfg.lost_after_ms * CLIENT_MS; i++) wait *= 2;
  const int64_t at = c->poll.sent_ns + wait;
  return c->poll.soon_ns != 0 && c->poll.soon_ns < at ? c->poll.soon_ns : at;
}

/* A request waits that the outstanding Poll does not carry: at once when no Submit is under way, else soon.
 */
static int64_t gather_until(const weir_client *c) {
  if (c->poll.missing_ns == 0) return INT64_MAX;
  if (!c->control.out && !c->control.first) return 0;
  return c->poll.missing_ns + GATHER_NS;
}

/* An Error in place of news. What passes is waited for; all else ends every request. */
static void refused(weir_client *c, const weir_client_error *e) {
  client_poll *p = &c->poll;
  if (e->code == 503 || e->code == 429) {
    int64_t wait_ms = e->retry_after_ms < 1000 ? (int64_t)e->retry_after_ms : 1000;
    if (wait_ms < 100) wait_ms = 100;
    p->not_before_ns = client_now(c) + wait_ms * CLIENT_MS;
    p->refused = true;
    p->error = *e;
    return;
  }
  const weir_client_error error = *e;
  for (client_request *r = c->first; r; r = r->next)
    if (is_polled(r) && r->poll_seq == p->seq) client_request_give_up(c, r, "error", &error);
}

static void answered(weir_client *c, const void *bytes, size_t n_bytes) {
  client_poll *p = &c->poll;
  weir_frame_msg m;
  weir_client_error e;
  p->out = false;
  p->unanswered = 0;
  p->heard_seq = p->seq;
  if (client_unpack(WEIR_FRAME_POLL, bytes, n_bytes, &m, &e) != 0) {
    refused(c, &e);
    return;
  }
  const int64_t now = client_now(c), waited = now - p->sent_ns;
  p->heard_ns = now;
  p->refused = false;
  for (client_request *r = c->first; r; r = r->next)
    if (r->state == REQUEST_OVER && r->told_seq == p->seq) r->gone = true;
  const bool news = client_deliver(c, m.as.poll_reply);
  /* One that only told ends was not asked to wait; requests that have come since are not to pay for it. */
  if (!news && p->parked && waited < c->cfg.poll_ms * CLIENT_MS / 2) p->not_before_ns = now + PACE_NS;
  weir_frame_msg_fini(&m);
}

/* The answer to a Poll that another was sent behind: what it brings is taken, and nothing follows from it for
 * the newer one, but that its answer may have been lost to this one. Older than one that came before: it has
 * nothing that was not in that. */
static void answered_late(weir_client *c, uint32_t age, const void *bytes, size_t n_bytes) {
  client_poll *p = &c->poll;
  weir_frame_msg m;
  weir_client_error e;
  if (!p->out || age >= p->seq || p->seq - age <= p->heard_seq) return;
  if (client_unpack(WEIR_FRAME_POLL, bytes, n_bytes, &m, &e) != 0) return;
  p->heard_seq = p->seq - age;
  if (!m.as.poll_reply->replaced) {
    p->heard_ns = client_now(c);
    p->unanswered = 0;
    p->soon_ns = p->heard_ns + SOON_NS;
    client_deliver(c, m.as.poll_reply);
  }
  weir_frame_msg_fini(&m);
}

static bool receive(weir_client *c) {
  bool any = false;
  size_t n;
  uint32_t age;
  for (void *msg; (msg = client_lane_recv(&c->poll_lane, &n, &age)); any = true) {
    if (age > 0)
      answered_late(c, age, msg, n);
    else if (c->poll.out)
      answered(c, msg, n);
    client_lane_free_reply(msg);
  }
  return any;
}

int64_t client_poll_due(const weir_client *c) {
  int32_t n_live, n_over;
  count(c, &n_live, &n_over);
  if (n_live + n_over == 0) return INT64_MAX;
  if (!c->poll.out) return c->poll.not_before_ns;
  const int64_t overdue = overdue_at(c), gather = n_live > 0 ? gather_until(c) : INT64_MAX;
  return overdue < gather ? overdue : gather;
}

bool client_poll_step(weir_client *c) {
  const bool any = receive(c);
  const int64_t now = client_now(c);
  client_lane_step(&c->poll_lane, now);
  if (client_poll_due(c) > now) return any;
  int32_t n_live, n_over;
  count(c, &n_live, &n_over);
  if (c->poll.out && c->poll.soon_ns == 0 && now >= overdue_at(c)) c->poll.unanswered++;
  return send_poll(c, n_live, n_over) || any;
}
