/* SPDX-License-Identifier: Apache-2.0 */
/* A client from open to close: its sockets, its descriptor, and the loop of steps that run makes. One thread,
 * which calls; nanomsg's own threads move the bytes. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "client/client_in.h"
#include "client/pack.h"

int client_fail(weir_client_error *e, int code, const char *param, const char *fmt, ...) {
  if (!e) return -1;
  e->code = code;
  e->retry_after_ms = 0;
  snprintf(e->param, sizeof e->param, "%s", param);
  va_list args;
  va_start(args, fmt);
  vsnprintf(e->message, sizeof e->message, fmt, args);
  va_end(args);
  return -1;
}

void client_error_from(weir_client_error *e, const Weir__V1__Error *from) {
  client_fail(e, (int)from->code, from->param, "%s", from->message);
  e->retry_after_ms = from->retry_after_ms;
}

int client_unpack(weir_frame_kind kind, const void *bytes, size_t n_bytes, weir_frame_msg *out,
                  weir_client_error *e) {
  const char *name = weir_frame_kind_name((int)kind);
  weir_frame f;
  weir_err err = {0};
  if (weir_frame_parse(bytes, n_bytes, &f, &err) != WEIR_OK)
    return client_fail(e, 500, "", "the answer to %s makes no sense: %s", name, err.msg);
  if (f.kind != (kind | WEIR_FRAME_REPLY) && f.kind != WEIR_FRAME_ERROR)
    return client_fail(e, 500, "", "the answer to %s is of another kind: %s", name,
                       weir_frame_kind_name((int)f.kind));
  if (weir_frame_unpack(f.kind, f.body, f.body_bytes, weir_frame_budget(f.kind, f.body_bytes), out, &err) !=
      WEIR_OK)
    return client_fail(e, 500, "", "the answer to %s makes no sense: %s", name, err.msg);
  if (weir_check_reply(out, &err) != WEIR_OK) {
    client_fail(e, 500, "", "the answer to %s makes no sense: %s", name, err.msg);
  } else if (f.kind == WEIR_FRAME_ERROR) {
    client_error_from(e, out->as.error);
  } else {
    return 0;
  }
  weir_frame_msg_fini(out);
  return -1;
}

/* ---- open ---- */

static int fill_cfg(const weir_client_cfg *from, weir_client_cfg *out, weir_client_error *e) {
  *out = *from;
  out->url = out->token = NULL;
  if (out->call_timeout_ms == 0) out->call_timeout_ms = 10000;
  if (out->poll_ms == 0) out->poll_ms = 5000;
  if (out->resend_ms == 0) out->resend_ms = 60000;
  if (out->lost_after_ms == 0) out->lost_after_ms = 30000;
  if (out->max_reply_bytes == 0) out->max_reply_bytes = WEIR_FRAME_MAX_REPLY;
  if (!from->url || !from->url[0]) return client_fail(e, 400, "url", "no url to connect to");
  if (out->call_timeout_ms < 0) return client_fail(e, 400, "call_timeout_ms", "call_timeout_ms is negative");
  if (out->poll_ms < 0) return client_fail(e, 400, "poll_ms", "poll_ms is negative");
  if (out->resend_ms / 2 < out->poll_ms || out->resend_ms <= 2 * (int64_t)out->poll_ms)
    return client_fail(e, 400, "resend_ms", "resend_ms %d is not more than twice poll_ms %d", out->resend_ms,
                       out->poll_ms);
  if (out->lost_after_ms <= out->poll_ms)
    return client_fail(e, 400, "lost_after_ms", "lost_after_ms %d is not more than poll_ms %d",
                       out->lost_after_ms, out->poll_ms);
  if (out->max_reply_bytes < 4096 || out->max_reply_bytes > INT32_MAX)
    return client_fail(e, 400, "max_reply_bytes", "max_reply_bytes %zu is not 4096 to %d",
                       out->max_reply_bytes, INT32_MAX);
  char *token;
  if (client_text(from->token, "token", &token, e) != 0) return -1;
  if (strlen(token) > WEIR_CHECK_MAX_TOKEN)
    return client_fail(e, 400, "token", "token is longer than %d bytes", WEIR_CHECK_MAX_TOKEN);
  out->url = strdup(from->url);
  out->token = strdup(token);
  if (!out->url || !out->token) return client_fail(e, 500, "", "out of memory for a client");
  return 0;
}

static int open_lanes(weir_client *c, weir_client_error *e) {
  /* A call is answered at once, so a lost answer is asked for again while there is time; a Poll is parked. */
  const int32_t again = c->cfg.call_timeout_ms / 3 > 0 ? c->cfg.call_timeout_ms / 3 : 1;
  const client_lane_cfg poll = {c->cfg.url, c->cfg.resend_ms, c->cfg.max_reply_bytes};
  const client_lane_cfg call = {c->cfg.url, again < c->cfg.resend_ms ? again : c->cfg.resend_ms,
                                c->cfg.max_reply_bytes};
  weir_err err = {0};
  weir_status st = client_lane_open(&c->control, &call, &err);
  if (st == WEIR_OK) st = client_lane_open(&c->query, &call, &err);
  if (st == WEIR_OK) st = client_lane_open(&c->poll_lane, &poll, &err);
  if (st == WEIR_OK) return 0;
  return client_fail(e, st == WEIR_EINVAL ? 400 : 500, st == WEIR_EINVAL ? "url" : "", "%s", err.msg);
}

static int open_fd(weir_client *c, weir_client_error *e) {
  c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  bool ok = c->epoll_fd >= 0 && c->timer_fd >= 0;
  const client_lane *lanes[] = {&c->control, &c->query, &c->poll_lane};
  struct epoll_event event = {.events = EPOLLIN};
  ok = ok && epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->timer_fd, &event) == 0;
  for (size_t i = 0; ok && i < sizeof lanes / sizeof *lanes; i++) {
    /* A socket can be sent to nearly always: that it becomes so is what matters, when it had no connection.
     */
    struct epoll_event edge = {.events = EPOLLIN | EPOLLET};
    ok = epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, lanes[i]->recv_fd, &event) == 0 &&
         epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, lanes[i]->send_fd, &edge) == 0;
  }
  return ok ? 0 : client_fail(e, 500, "", "no descriptors for a client: %s", strerror(errno));
}

int weir_client_open(const weir_client_cfg *cfg, weir_client **out, weir_client_error *e) {
  *out = NULL;
  weir_client *c = calloc(1, sizeof *c);
  if (!c) return client_fail(e, 500, "", "out of memory for a client");
  c->epoll_fd = c->timer_fd = -1;
  c->control.socket = c->query.socket = c->poll_lane.socket = -1;
  c->clock = weir_clock_system();
  if (fill_cfg(cfg, &c->cfg, e) != 0) goto fail;
  if (getrandom(c->session, sizeof c->session, 0) != (ssize_t)sizeof c->session) {
    client_fail(e, 500, "", "the system has no random bytes");
    goto fail;
  }
  if (open_lanes(c, e) != 0 || open_fd(c, e) != 0) goto fail;
  *out = c;
  return 0;
fail:
  weir_client_close(c);
  return -1;
}

/* ---- close ---- */

static void free_calls(weir_client *c, client_lane *lane) {
  weir_client_error e;
  client_fail(&e, 499, "", "the client was closed");
  client_call_link *all = lane->out;
  if (all) all->next = lane->first;
  if (!all) all = lane->first;
  lane->first = lane->last = lane->out = NULL;
  for (client_call_link *q = all, *next; q; q = next) {
    next = q->next;
    client_call *call = (client_call *)(void *)q;
    if (call->kind == WEIR_FRAME_SUBMIT || call->kind == WEIR_FRAME_CANCEL) call->internal = true;
    client_call_fail(c, call, &e);
  }
}

/* Leaves word that all of the session may stop. nn_close throws away what is not written yet, so the answer
 * is waited for, but hardly; the engine ends a session that does not poll in any case. */
static void say_goodbye(weir_client *c) {
  enum { WAIT_MS = 50 };
  bool any = false;
  for (const client_request *r = c->first; r; r = r->next) any |= r->state != REQUEST_QUEUED;
  if (!any || c->control.socket < 0) return;
  Weir__V1__CancelRequest m = WEIR__V1__CANCEL_REQUEST__INIT;
  m.token = (char *)c->cfg.token;
  m.session = weir_frame_id(c->session);
  void *msg = client_lane_msg(weir_frame_size(&m.base));
  if (!msg) return;
  weir_frame_pack(WEIR_FRAME_CANCEL, &m.base, msg);
  client_lane_send(&c->control, msg, weir_frame_size(&m.base), client_now(c));
  if (!c->control.sent) return;
  struct pollfd readable = {.fd = c->control.recv_fd, .events = POLLIN};
  const int64_t until = client_now(c) + WAIT_MS * CLIENT_MS;
  for (int64_t left; (left = until - client_now(c)) > 0;) {
    poll(&readable, 1, (int)(left / CLIENT_MS) + 1);
    size_t n;
    void *reply = client_lane_recv(&c->control, &n, NULL); /* or that of an earlier call, which is none */
    client_lane_free_reply(reply);
    if (reply) return;
  }
}

void weir_client_close(weir_client *c) {
  if (!c) return;
  c->running = c->closing = true; /* no timers any more */
  say_goodbye(c);
  client_requests_free(c);
  free_calls(c, &c->control);
  free_calls(c, &c->query);
  client_lane_close(&c->control);
  client_lane_close(&c->query);
  client_lane_close(&c->poll_lane);
  if (c->epoll_fd >= 0) close(c->epoll_fd);
  if (c->timer_fd >= 0) close(c->timer_fd);
  free((char *)c->cfg.url);
  free((char *)c->cfg.token);
  free(c);
}

/* ---- run ---- */

int weir_client_fd(const weir_client *c) { return c->epoll_fd; }

/* due: of the monotonic clock; in the past: at once; INT64_MAX: never. */
static void set_timer(weir_client *c, int64_t due) {
  struct itimerspec t = {0};
  if (due != INT64_MAX) {
    if (due < 1) due = 1; /* zero would stop the timer */
    t.it_value.tv_sec = (time_t)(due / 1000000000);
    t.it_value.tv_nsec = (long)(due % 1000000000);
  }
  timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

void client_wake(weir_client *c) {
  if (!c->running) set_timer(c, 0);
}

static int64_t next_due(const weir_client *c) {
  const int64_t due[] = {client_calls_due(c, &c->control), client_calls_due(c, &c->query), client_poll_due(c),
                         client_requests_due(c)};
  int64_t first = INT64_MAX;
  for (size_t i = 0; i < sizeof due / sizeof *due; i++)
    if (due[i] < first) first = due[i];
  return first;
}

/* True when something happened. */
static bool step(weir_client *c) {
  bool any = client_poll_step(c); /* what came, before anything is held to be lost */
  any |= client_requests_step(c); /* what is cancelled, before it is sent */
  any |= client_calls_step(c, &c->control);
  any |= client_calls_step(c, &c->query);
  return any;
}

static bool step_all(weir_client *c) {
  bool any = false;
  for (int i = 0; i < CLIENT_ROUNDS && step(c); i++) any = true;
  return any;
}

int weir_client_run(weir_client *c, int timeout_ms) {
  if (c->running) return c->n_open; /* from a callback */
  struct epoll_event events[8];
  c->running = true;
  epoll_wait(c->epoll_fd, events, 8,
             0); /* takes the edges: the descriptor is not readable for them any more */
  bool any = step_all(c);
  set_timer(c, next_due(c));
  if (!any && timeout_ms != 0 && c->n_open > 0 && epoll_wait(c->epoll_fd, events, 8, timeout_ms) > 0) {
    step_all(c);
    set_timer(c, next_due(c));
  }
  c->running = false;
  return c->n_open;
}
