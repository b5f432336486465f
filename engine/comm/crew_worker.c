/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's side of a crew: greets until the leader is there, polls, says what it has to say. Owns two
 * lanes. Its thread hears and tells; a sender's thread puts a message on the wire itself when nothing is
 * under way, under the crew's lock. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/secret.h"
#include "comm/crew_in.h"

static const int64_t farewell_ns = 500000000, ms_ns = 1000000;

typedef enum { GREETING, HERE, REFUSED } state;

struct crew_worker {
  /* under the lock */
  crew_lane up, down; /* what it has to say, and hello; polls */
  state state;
  uint64_t link;
  crew_out out;
  crew_hello leader; /* incarnation 0: not met yet */
  char why[CREW_WHY_BYTES];
  /* the thread's */
  crew_in in;
  uint64_t turn, beat, wait_beat;
  int64_t heard_ns, greet_ns, turned_ns;
  int64_t cut_ns; /* since then there is no connection; 0: there is */
  bool closing, done;
};

static int64_t retry_ns(const weir_crew *c) {
  return crew_between(10 * ms_ns, c->bound_ns / 20, 200 * ms_ns);
}

/* ---- requests: with the lock ---- */

static crew_frame frame(const weir_crew *c, crew_kind kind) {
  return (crew_frame){.kind = kind, .node = c->o.node, .link = c->worker->link};
}

static void send_hello(weir_crew *c) {
  crew_worker *w = c->worker;
  uint8_t data[CREW_HELLO_BYTES];
  crew_hello h = c->self;
  snprintf(h.token, sizeof h.token, "%s", c->o.token);
  crew_frame f = frame(c, CREW_HELLO);
  f.beat = w->wait_beat;
  f.data = data;
  f.bytes = crew_hello_put(&h, data);
  crew_lane_send(&w->up, &f, NULL, crew_now(c));
}

static void send_poll(weir_crew *c, uint64_t at) {
  crew_frame f = frame(c, CREW_POLL);
  f.turn = ++c->worker->turn;
  f.at = at;
  f.beat = c->worker->beat;
  crew_lane_send(&c->worker->down, &f, NULL, crew_now(c));
}

static void send_up(weir_crew *c) {
  crew_frame f = frame(c, CREW_UP);
  f.at = c->worker->out.taken;
  crew_lane_send(&c->worker->up, &f, &c->worker->out, crew_now(c));
}

static bool is_drained(const crew_worker *w) { return w->out.taken == w->out.end; }

/* ---- coming and going: the thread ---- */

static void tell(weir_crew *c, weir_crew_event_kind kind, const char *why) {
  char who[WEIR_CREW_WHO_BYTES];
  crew_put_who(who, sizeof who, 0, c->worker->leader.incarnation ? &c->worker->leader : NULL);
  crew_tell(c, (weir_crew_event){.kind = kind, .node = 0, .who = who, .why = why});
}

static void new_link(crew_worker *w) {
  const uint64_t old = w->link;
  if (weir_secret_draw(&w->link, sizeof w->link, NULL) != WEIR_OK) w->link = old + 1;
  if (w->link == 0) w->link = 1;
  w->wait_beat = 0;
}

static void end_link(weir_crew *c, state to, const char *why, bool answer_bye) {
  crew_worker *w = c->worker;
  pthread_mutex_lock(&c->lock);
  w->state = to;
  snprintf(w->why, sizeof w->why, "%s", why);
  crew_out_fini(&w->out);
  crew_lane_forget(&w->up);
  crew_lane_forget(&w->down);
  const crew_frame bye = frame(c, CREW_BYE);
  if (answer_bye) crew_lane_send(&w->up, &bye, NULL, crew_now(c));
  new_link(w);
  w->greet_ns = crew_now(c) + (answer_bye ? retry_ns(c) : 0);
  pthread_mutex_unlock(&c->lock);
  crew_in_fini(&w->in);
  tell(c, WEIR_CREW_LOST, w->why);
}

static void lose(weir_crew *c, const char *why) { end_link(c, GREETING, why, false); }

static void join(weir_crew *c, const crew_frame *f, const crew_hello *h) {
  crew_worker *w = c->worker;
  w->turn = 0;
  w->beat = f->beat;
  w->heard_ns = crew_now(c);
  pthread_mutex_lock(&c->lock);
  w->leader = *h;
  w->state = HERE;
  send_poll(c, 0);
  pthread_mutex_unlock(&c->lock);
  tell(c, WEIR_CREW_JOINED, NULL);
}

/* ---- answers: the thread ---- */

static void on_greeted(weir_crew *c, const crew_frame *f) {
  crew_worker *w = c->worker;
  crew_hello h;
  char why[CREW_REASON_BYTES];
  w->greet_ns = crew_now(c) + retry_ns(c);
  if (f->kind == CREW_WELCOME && f->link == w->link) {
    if (crew_hello_parse(f->data, f->bytes, &h, NULL) == WEIR_OK && h.incarnation != 0)
      join(c, f, &h);
    else
      atomic_fetch_add(&c->malformed, 1);
  } else if (f->kind == CREW_REFUSED) {
    crew_text(f, why, sizeof why);
    end_link(c, REFUSED, why[0] ? why : "it refuses this worker, and does not say why", false);
  } else if (f->kind == CREW_WAIT) {
    w->wait_beat = f->beat;
  }
}

/* Of an answer that ends the link. */
static const char *why_wrong(const weir_crew *c, const crew_frame *f) {
  if (f->kind != CREW_UNKNOWN) return "its answer is wrong";
  return f->beat == c->worker->leader.incarnation ? "it had given this worker up" : "it was started again";
}

static void on_up(weir_crew *c, const crew_frame *f) {
  crew_worker *w = c->worker;
  if (w->closing && w->done) return;
  pthread_mutex_lock(&c->lock);
  const bool ok = f->kind == CREW_TAKEN && f->link == w->link && crew_out_take(&w->out, f->at);
  if (ok && !is_drained(w)) send_up(c);
  pthread_mutex_unlock(&c->lock);
  if (ok)
    w->heard_ns = crew_now(c);
  else
    lose(c, why_wrong(c, f));
}

static void on_message(void *ctx, const void *data, size_t bytes) {
  weir_crew *c = ctx;
  char who[WEIR_CREW_WHO_BYTES];
  crew_put_who(who, sizeof who, 0, &c->worker->leader);
  crew_tell(
      c, (weir_crew_event){.kind = WEIR_CREW_MESSAGE, .node = 0, .who = who, .data = data, .bytes = bytes});
}

static void on_down(weir_crew *c, const crew_frame *f) {
  crew_worker *w = c->worker;
  weir_err e;
  if (f->kind == CREW_GOODBYE && f->link == w->link) {
    end_link(c, GREETING, "it said goodbye", true);
  } else if (f->kind != CREW_DOWN || f->link != w->link || f->at > w->in.at) {
    lose(c, why_wrong(c, f));
  } else {
    w->heard_ns = crew_now(c);
    w->beat = f->beat;
    /* The next poll is on its way while the messages are looked at. */
    const uint64_t at = w->in.at, end = f->at + f->bytes;
    pthread_mutex_lock(&c->lock);
    send_poll(c, end > at ? end : at);
    pthread_mutex_unlock(&c->lock);
    if (crew_in_take(&w->in, f->at, f->data, f->bytes, on_message, c, &e) != WEIR_OK) lose(c, e.msg);
  }
}

static void on_answer(weir_crew *c, bool up, const void *body, size_t bytes) {
  crew_worker *w = c->worker;
  crew_frame f;
  if (crew_frame_parse(body, bytes, &f, NULL) != WEIR_OK || f.kind < CREW_WELCOME) {
    atomic_fetch_add(&c->malformed, 1);
    if (w->state == HERE) lose(c, "its answer is none of a crew's");
    w->greet_ns = crew_now(c) + retry_ns(c);
    return;
  }
  if (w->closing && w->done) return;
  if (w->state == GREETING && up)
    on_greeted(c, &f);
  else if (w->state == HERE && up)
    on_up(c, &f);
  else if (w->state == HERE)
    on_down(c, &f);
}

static void hear(weir_crew *c, bool up) {
  crew_worker *w = c->worker;
  size_t bytes = 0;
  for (;;) {
    pthread_mutex_lock(&c->lock);
    void *body = crew_lane_recv(up ? &w->up : &w->down, &bytes);
    pthread_mutex_unlock(&c->lock);
    if (!body) return;
    on_answer(c, up, body, bytes);
    crew_lane_free(body);
  }
}

/* ---- the thread ---- */

/* Who was stopped itself has heard nobody: what came meanwhile is still in the sockets. */
static void forgive(weir_crew *c, int64_t now) {
  crew_worker *w = c->worker;
  const int64_t stood = w->turned_ns ? now - w->turned_ns : 0, half = c->bound_ns / 2;
  w->turned_ns = now;
  if (crew_stood_still(c, stood) && w->cut_ns) w->cut_ns = now;
  if (stood > half && w->heard_ns < now - half) w->heard_ns = now - half;
}

/* What time brings. Returns when it brings the next. */
static int64_t turn(weir_crew *c, int64_t now) {
  crew_worker *w = c->worker;
  char why[CREW_WHY_BYTES];
  if (w->state == HERE && now - w->heard_ns > c->bound_ns) {
    crew_put_silence(why, now - w->heard_ns);
    lose(c, why);
  }
  if (w->state == HERE && w->cut_ns && now - w->cut_ns > c->bound_ns / 4)
    lose(c, "its connection has broken");
  pthread_mutex_lock(&c->lock);
  if (w->state == GREETING && now >= w->greet_ns && !w->up.msg && !w->closing) send_hello(c);
  if (w->state == HERE && !w->down.msg && !w->closing) send_poll(c, w->in.at);
  if (w->state == HERE && !w->up.msg && !is_drained(w)) send_up(c);
  crew_lane_step(&w->up, now, c->bound_ns / 4);
  crew_lane_step(&w->down, now, c->bound_ns / 2);
  if (w->state != HERE || !w->down.msg || w->down.sent)
    w->cut_ns = 0;
  else if (w->cut_ns == 0)
    w->cut_ns = now;
  int64_t next = now + crew_look_ns(c);
  if (w->state == REFUSED) next = INT64_MAX / 2;
  if (w->state == GREETING && !w->up.msg && w->greet_ns < next) next = w->greet_ns;
  pthread_mutex_unlock(&c->lock);
  if (w->state == HERE && w->heard_ns + c->bound_ns < next) next = w->heard_ns + c->bound_ns + 1;
  return next;
}

static void wait_for_lanes(weir_crew *c, int64_t until) {
  crew_worker *w = c->worker;
  pthread_mutex_lock(&c->lock);
  struct pollfd p[5] = {{.fd = w->up.recv_fd, .events = POLLIN},
                        {.fd = w->down.recv_fd, .events = POLLIN},
                        {.fd = w->up.msg && !w->up.sent ? w->up.send_fd : -1, .events = POLLIN},
                        {.fd = w->down.msg && !w->down.sent ? w->down.send_fd : -1, .events = POLLIN}};
  pthread_mutex_unlock(&c->lock);
  crew_sleep(c, p, 4, until);
}

static void hear_lanes(weir_crew *c) {
  hear(c, true);
  hear(c, false);
}

/* What was sent first, then goodbye. A hello that may have arrived is taken back as well. */
static void say_goodbye(weir_crew *c) {
  crew_worker *w = c->worker;
  const int64_t end = crew_now(c) + farewell_ns;
  w->closing = true;
  while (w->state == HERE && !is_drained(w) && crew_now(c) < end) {
    const int64_t next = turn(c, crew_now(c));
    wait_for_lanes(c, next < end ? next : end);
    hear_lanes(c);
  }
  pthread_mutex_lock(&c->lock);
  const bool known = w->state == HERE || (w->state == GREETING && w->up.msg && w->up.sent);
  const crew_frame bye = frame(c, CREW_BYE);
  if (known) crew_lane_send(&w->up, &bye, NULL, crew_now(c));
  pthread_mutex_unlock(&c->lock);
  w->done = true;
  while (known && w->up.msg && crew_now(c) < end) {
    wait_for_lanes(c, end);
    hear_lanes(c);
  }
}

int64_t crew_worker_step(weir_crew *c) {
  hear_lanes(c);
  const int64_t now = crew_now(c);
  forgive(c, now);
  return turn(c, now);
}

void crew_worker_run(weir_crew *c) {
  while (!atomic_load(&c->stop)) wait_for_lanes(c, crew_worker_step(c));
  say_goodbye(c);
}

/* ---- any thread ---- */

weir_status crew_worker_send(weir_crew *c, const void *data, size_t bytes, weir_err *e) {
  crew_worker *w = c->worker;
  bool wake = false;
  pthread_mutex_lock(&c->lock);
  weir_status st = w->state == HERE
                       ? crew_out_put(&w->out, data, bytes, e)
                       : weir_fail(e, WEIR_EDEVICE, "%s", w->why[0] ? w->why : "it is not there yet");
  if (st == WEIR_OK && !w->up.msg) {
    send_up(c);
    wake = !w->up.sent; /* the thread must wait for a connection */
  }
  pthread_mutex_unlock(&c->lock);
  if (wake) crew_wake(c);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "message to the leader");
}

void crew_worker_who(weir_crew *c, char *out, size_t cap) {
  pthread_mutex_lock(&c->lock);
  crew_put_who(out, cap, 0, c->worker->leader.incarnation ? &c->worker->leader : NULL);
  pthread_mutex_unlock(&c->lock);
}

/* ---- life ---- */

weir_status crew_worker_create(weir_crew *c, weir_err *e) {
  crew_worker *w = NULL;
  weir_status st = WEIR_NEW(1, &w, e);
  if (st != WEIR_OK) return st;
  w->up.socket = w->down.socket = -1;
  c->worker = w;
  new_link(w);
  st = crew_lane_open(&w->up, c->o.addr, e);
  return st == WEIR_OK ? crew_lane_open(&w->down, c->o.addr, e) : st;
}

void crew_worker_destroy(crew_worker *w) {
  if (!w) return;
  crew_lane_close(&w->up);
  crew_lane_close(&w->down);
  crew_out_fini(&w->out);
  crew_in_fini(&w->in);
  free(w);
}
