/* SPDX-License-Identifier: Apache-2.0 */
/* The leader's side of a crew: who is here, what waits for whom, and the answers to what the workers ask.
 * Owns the port and the workers' links. Its thread hears and tells; senders' threads answer a parked poll
 * themselves, under the crew's lock. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "comm/crew_in.h"

enum { BURST = 64 }; /* mails between two looks at the time */
static const int64_t farewell_ns = 500000000, complain_ns = 1000000000;

typedef struct peer {
  /* under the lock */
  bool here;
  uint64_t link;
  crew_hello hello; /* of the last that was here; incarnation 0: none was */
  char why[CREW_WHY_BYTES];
  crew_out out;
  void *parked; /* the poll that waits for an answer; NULL: none */
  uint64_t beat;
  /* the thread's */
  crew_in in;
  uint64_t turn, beat_heard;
  int64_t heard_ns, park_ns, until_ns; /* until: the parked poll is answered then, with nothing */
  int64_t suspect_ns;                  /* since then its connection may have broken; 0: it has not */
  uint64_t suspect_beat;               /* heard: it has not */
  uint64_t broken;                     /* connections that had broken when it came */
} peer;

struct crew_leader {
  crew_port port;
  peer peer[WEIR_CREW_MAX_NODES];
  int64_t turned_ns, complained_ns, look_ns;
  uint64_t connected; /* connections at the last look */
  bool closing;
};

/* ---- answers: with the lock ---- */

static void answer_text(weir_crew *c, void *from, crew_frame f, const char *text) {
  f.data = text;
  f.bytes = strlen(text);
  crew_port_answer(&c->leader->port, from, &f, NULL);
}

static void answer_bare(weir_crew *c, void *from, crew_kind kind, int32_t node, uint64_t link, uint64_t at) {
  const crew_frame f = {.kind = kind,
                        .node = node,
                        .link = link,
                        .at = at,
                        .beat = kind == CREW_UNKNOWN ? c->self.incarnation : 0};
  crew_port_answer(&c->leader->port, from, &f, NULL);
}

static bool is_drained(const peer *p) { return p->out.taken == p->out.end; }

/* The parked poll: with what there is, or nothing. */
static void answer_parked(weir_crew *c, int32_t node) {
  peer *p = &c->leader->peer[node];
  void *from = p->parked;
  if (!from) return;
  p->parked = NULL;
  const bool bye = c->leader->closing && is_drained(p);
  const crew_frame f = {.kind = bye ? CREW_GOODBYE : CREW_DOWN,
                        .node = node,
                        .link = p->link,
                        .at = p->out.taken,
                        .beat = p->beat};
  crew_port_answer(&c->leader->port, from, &f, bye ? NULL : &p->out);
}

/* ---- coming and going: the thread ---- */

static void tell(weir_crew *c, weir_crew_event_kind kind, int32_t node, const char *why) {
  char who[WEIR_CREW_WHO_BYTES];
  crew_put_who(who, sizeof who, node, &c->leader->peer[node].hello);
  crew_tell(c, (weir_crew_event){.kind = kind, .node = node, .who = who, .why = why});
}

static void lose(weir_crew *c, int32_t node, const char *why) {
  peer *p = &c->leader->peer[node];
  pthread_mutex_lock(&c->lock);
  p->here = false;
  snprintf(p->why, sizeof p->why, "%s", why);
  crew_out_fini(&p->out);
  if (p->parked) answer_bare(c, p->parked, CREW_UNKNOWN, node, p->link, 0);
  p->parked = NULL;
  pthread_mutex_unlock(&c->lock);
  crew_in_fini(&p->in);
  tell(c, WEIR_CREW_LOST, node, p->why);
}

static void answer_welcome(weir_crew *c, void *from, int32_t node) {
  uint8_t data[CREW_HELLO_BYTES];
  const peer *p = &c->leader->peer[node];
  const crew_frame f = {.kind = CREW_WELCOME,
                        .node = node,
                        .link = p->link,
                        .beat = p->beat,
                        .data = data,
                        .bytes = crew_hello_put(&c->self, data)};
  crew_port_answer(&c->leader->port, from, &f, NULL);
}

static void join(weir_crew *c, int32_t node, const crew_frame *f, const crew_hello *h, void *from) {
  peer *p = &c->leader->peer[node];
  const int64_t bound = h->bound_ns < c->bound_ns ? h->bound_ns : c->bound_ns;
  p->turn = 0;
  p->suspect_ns = 0;
  p->broken = crew_port_broken(&c->leader->port);
  const uint64_t connected = crew_port_connected(&c->leader->port); /* it may be gone before the next look */
  if (connected > c->leader->connected) c->leader->connected = connected;
  p->heard_ns = crew_now(c);
  p->park_ns = crew_between(10000000, bound / 3, c->bound_ns);
  pthread_mutex_lock(&c->lock);
  p->here = true;
  p->link = f->link;
  p->hello = *h;
  memset(p->hello.token, 0, sizeof p->hello.token);
  answer_welcome(c, from, node);
  pthread_mutex_unlock(&c->lock);
  tell(c, WEIR_CREW_JOINED, node, NULL);
}

/* Why a worker may not come, however often it tries; false: it may. */
static bool is_refused(weir_crew *c, int32_t node, const crew_hello *h, char why[CREW_REASON_BYTES]) {
  const char *token = c->o.token;
  why[0] = 0;
  if (token[0] && !weir_secret_equal(token, strlen(token), h->token, strlen(h->token)))
    snprintf(why, CREW_REASON_BYTES, "its token is not the leader's");
  else if (strcmp(h->version, c->o.version) != 0)
    snprintf(why, CREW_REASON_BYTES, "the leader is of version \"%.100s\", this one of \"%.100s\"",
             c->o.version, h->version);
  else if (h->n_nodes != c->o.n_nodes)
    snprintf(why, CREW_REASON_BYTES, "the leader counts %d nodes, this one %d", c->o.n_nodes, h->n_nodes);
  else if (node < 1 || node >= c->o.n_nodes)
    snprintf(why, CREW_REASON_BYTES, "there is no worker %d of %d nodes", node, c->o.n_nodes);
  return why[0] != 0;
}

static void refuse(weir_crew *c, const crew_frame *f, const crew_hello *h, void *from, const char *why) {
  crew_leader *l = c->leader;
  const int64_t now = crew_now(c);
  if (now - l->complained_ns > complain_ns) { /* not once for each, whoever asks */
    l->complained_ns = now;
    weir_log(WEIR_LOG_WARN, "crew: node %d (%s, process %d) is refused: %s", f->node, h->host, h->pid, why);
  }
  answer_text(c, from, (crew_frame){.kind = CREW_REFUSED, .node = f->node, .link = f->link}, why);
}

/* With the lock: its answer to this shows that it is alive. */
static void ask(weir_crew *c, int32_t node) {
  c->leader->peer[node].beat++;
  answer_parked(c, node);
}

/* With the lock: it may be its connection that has broken. */
static void suspect(weir_crew *c, int32_t node, int64_t now) {
  peer *p = &c->leader->peer[node];
  ask(c, node);
  p->suspect_ns = now;
  p->suspect_beat = p->beat;
}

/* Another process says that it is a node that is here. If that does not answer any more it will be lost when
 * the bound is over; if it does, which its next poll shows, the other one is refused. */
static void meet_rival(weir_crew *c, const crew_frame *f, const crew_hello *h, void *from) {
  peer *p = &c->leader->peer[f->node];
  char who[WEIR_CREW_WHO_BYTES], why[CREW_REASON_BYTES];
  crew_put_who(who, sizeof who, f->node, &p->hello);
  if (f->beat != 0 && f->beat <= p->beat_heard) {
    snprintf(why, sizeof why, "%s is here already", who);
    refuse(c, f, h, from, why);
    return;
  }
  pthread_mutex_lock(&c->lock);
  uint64_t beat = f->beat;
  if (beat == 0 || beat > p->beat) { /* its first try: from now on the answer counts */
    if (!p->suspect_ns && crew_port_broken(&c->leader->port) != p->broken)
      suspect(c, f->node, crew_now(c));
    else
      ask(c, f->node);
    beat = p->beat;
  }
  snprintf(why, sizeof why, "%s may be here still", who);
  answer_text(c, from, (crew_frame){.kind = CREW_WAIT, .node = f->node, .link = f->link, .beat = beat}, why);
  pthread_mutex_unlock(&c->lock);
}

static void on_hello(weir_crew *c, const crew_frame *f, void *from) {
  crew_leader *l = c->leader;
  crew_hello h;
  char why[CREW_REASON_BYTES];
  if (crew_hello_parse(f->data, f->bytes, &h, NULL) != WEIR_OK || f->link == 0 || h.incarnation == 0) {
    atomic_fetch_add(&c->malformed, 1);
    crew_port_drop(from);
    return;
  }
  if (is_refused(c, f->node, &h, why)) {
    refuse(c, f, &h, from, why);
    return;
  }
  peer *p = &l->peer[f->node];
  if (l->closing) {
    answer_bare(c, from, CREW_GOODBYE, f->node, f->link, 0);
  } else if (p->here && p->link == f->link) { /* it has not heard that it is welcome */
    pthread_mutex_lock(&c->lock);
    answer_welcome(c, from, f->node);
    pthread_mutex_unlock(&c->lock);
  } else if (p->here && p->hello.incarnation != h.incarnation) {
    meet_rival(c, f, &h, from);
  } else {
    if (p->here) lose(c, f->node, "it has come again");
    join(c, f->node, f, &h, from);
  }
}

/* ---- what workers ask: the thread ---- */

static peer *peer_of(weir_crew *c, const crew_frame *f) {
  if (f->node < 1 || f->node >= c->o.n_nodes) return NULL;
  peer *p = &c->leader->peer[f->node];
  if (!p->here || !weir_secret_equal(&p->link, sizeof p->link, &f->link, sizeof f->link)) return NULL;
  p->heard_ns = crew_now(c);
  return p;
}

static void on_poll(weir_crew *c, peer *p, const crew_frame *f, void *from) {
  pthread_mutex_lock(&c->lock);
  if (f->turn < p->turn || !crew_out_take(&p->out, f->at)) {
    if (f->turn >= p->turn) atomic_fetch_add(&c->malformed, 1);
    crew_port_drop(from); /* an old one that was sent again: nobody waits for its answer */
    pthread_mutex_unlock(&c->lock);
    return;
  }
  p->turn = f->turn;
  if (f->beat > p->beat_heard && f->beat <= p->beat) p->beat_heard = f->beat;
  if (p->beat_heard >= p->suspect_beat) p->suspect_ns = 0;
  crew_port_drop(p->parked);
  p->parked = from;
  p->until_ns = p->heard_ns + p->park_ns;
  if (!is_drained(p) || c->leader->closing || p->beat_heard < p->beat) answer_parked(c, f->node);
  pthread_mutex_unlock(&c->lock);
}

typedef struct hearing {
  weir_crew *c;
  int32_t node;
  char who[WEIR_CREW_WHO_BYTES];
} hearing;

static void on_message(void *ctx, const void *data, size_t bytes) {
  const hearing *h = ctx;
  crew_tell(h->c,
            (weir_crew_event){
                .kind = WEIR_CREW_MESSAGE, .node = h->node, .who = h->who, .data = data, .bytes = bytes});
}

static void on_up(weir_crew *c, peer *p, const crew_frame *f, void *from) {
  hearing h = {.c = c, .node = f->node};
  crew_put_who(h.who, sizeof h.who, f->node, &p->hello);
  weir_err e;
  if (crew_in_take(&p->in, f->at, f->data, f->bytes, on_message, &h, &e) == WEIR_OK) {
    answer_bare(c, from, CREW_TAKEN, f->node, f->link, p->in.at);
    return;
  }
  atomic_fetch_add(&c->malformed, 1);
  answer_bare(c, from, CREW_UNKNOWN, f->node, f->link, 0);
  lose(c, f->node, e.msg);
}

static void on_mail(weir_crew *c, crew_mail *m) {
  crew_frame f;
  weir_err e;
  const weir_status st = crew_frame_parse(m->body, m->bytes, &f, &e);
  void *from = m->from;
  m->from = NULL;
  if (st == WEIR_EUNSUP && f.kind == CREW_HELLO) {
    char why[CREW_REASON_BYTES];
    snprintf(why, sizeof why, "the leader speaks version %d of the crew's wire", CREW_WIRE_VERSION);
    answer_text(c, from, (crew_frame){.kind = CREW_REFUSED, .node = f.node}, why);
    return;
  }
  if (st != WEIR_OK || (int)f.kind > CREW_LAST_REQUEST) {
    atomic_fetch_add(&c->malformed, 1);
    crew_port_drop(from);
    return;
  }
  if (f.kind == CREW_HELLO) {
    on_hello(c, &f, from);
    return;
  }
  peer *p = peer_of(c, &f);
  if (!p) {
    answer_bare(c, from, CREW_UNKNOWN, f.node, f.link, 0);
  } else if (f.kind == CREW_POLL) {
    on_poll(c, p, &f, from);
  } else if (f.kind == CREW_UP) {
    on_up(c, p, &f, from);
  } else {
    answer_bare(c, from, CREW_TAKEN, f.node, f.link, p->in.at);
    lose(c, f.node, "it said goodbye");
  }
}

/* ---- the thread ---- */

/* Who was stopped itself has heard nobody: what came meanwhile is still in the sockets. */
static void forgive(weir_crew *c, int64_t now) {
  crew_leader *l = c->leader;
  const int64_t stood = l->turned_ns ? now - l->turned_ns : 0, half = c->bound_ns / 2;
  l->turned_ns = now;
  for (int32_t k = 1; crew_stood_still(c, stood) && k < c->o.n_nodes; k++) {
    peer *p = &l->peer[k];
    if (p->suspect_ns) p->suspect_ns = now;
    if (stood > half && p->heard_ns < now - half) p->heard_ns = now - half;
  }
}

/* A connection that breaks is most often a process that has died, sooner known so than by its silence: all
 * are asked whether they are there. Counted are those that have greeted: who only looks whether the port is
 * open casts no doubt on anybody. When another has connected at the same time it goes unnoticed here; if that
 * wants the place of the one that died, meet_rival sees to it. */
static void look_at_connections(weir_crew *c, int64_t now) {
  crew_leader *l = c->leader;
  if (now < l->look_ns) return;
  l->look_ns = now + crew_look_ns(c);
  const uint64_t connected = crew_port_connected(&l->port);
  const bool fewer = connected < l->connected;
  l->connected = connected;
  if (!fewer) return;
  pthread_mutex_lock(&c->lock);
  for (int32_t k = 1; k < c->o.n_nodes; k++)
    if (l->peer[k].here && !l->peer[k].suspect_ns) suspect(c, k, now);
  pthread_mutex_unlock(&c->lock);
}

/* What time brings. Returns when it brings the next. */
static int64_t turn(weir_crew *c, int64_t now) {
  char why[CREW_WHY_BYTES];
  look_at_connections(c, now);
  int64_t next = c->leader->look_ns;
  for (int32_t k = 1; k < c->o.n_nodes; k++) {
    peer *p = &c->leader->peer[k];
    if (!p->here) continue;
    if (now - p->heard_ns > c->bound_ns) {
      crew_put_silence(why, now - p->heard_ns);
      lose(c, k, why);
      continue;
    }
    if (p->suspect_ns && now - p->suspect_ns > c->bound_ns / 4) {
      lose(c, k, "its connection has broken");
      continue;
    }
    pthread_mutex_lock(&c->lock);
    if (p->parked && now >= p->until_ns) answer_parked(c, k);
    if (p->parked && p->until_ns < next) next = p->until_ns;
    pthread_mutex_unlock(&c->lock);
    if (p->heard_ns + c->bound_ns < next) next = p->heard_ns + c->bound_ns + 1;
  }
  return next;
}

static void hear(weir_crew *c) {
  crew_mail m;
  for (int k = 0; k < BURST && crew_port_recv(&c->leader->port, &m); k++) {
    on_mail(c, &m);
    crew_mail_fini(&m);
  }
}

static bool is_alone(const weir_crew *c) {
  for (int32_t k = 1; k < c->o.n_nodes; k++)
    if (c->leader->peer[k].here) return false;
  return true;
}

static void say_goodbye(weir_crew *c) {
  crew_leader *l = c->leader;
  const int64_t end = crew_now(c) + farewell_ns;
  pthread_mutex_lock(&c->lock);
  l->closing = true;
  for (int32_t k = 1; k < c->o.n_nodes; k++) answer_parked(c, k);
  pthread_mutex_unlock(&c->lock);
  struct pollfd p[2] = {{.fd = l->port.fd, .events = POLLIN}};
  while (!is_alone(c) && crew_now(c) < end) {
    crew_sleep(c, p, 1, end);
    hear(c);
  }
}

int64_t crew_leader_step(weir_crew *c) {
  hear(c);
  const int64_t now = crew_now(c);
  forgive(c, now);
  return turn(c, now);
}

void crew_leader_run(weir_crew *c) {
  struct pollfd p[2] = {{.fd = c->leader->port.fd, .events = POLLIN}};
  while (!atomic_load(&c->stop)) crew_sleep(c, p, 1, crew_leader_step(c));
  say_goodbye(c);
}

/* ---- any thread ---- */

weir_status crew_leader_send(weir_crew *c, int32_t node, const void *data, size_t bytes, weir_err *e) {
  peer *p = &c->leader->peer[node];
  pthread_mutex_lock(&c->lock);
  weir_status st = p->here ? crew_out_put(&p->out, data, bytes, e)
                           : weir_fail(e, WEIR_EDEVICE, "%s", p->why[0] ? p->why : "it has not come");
  if (st == WEIR_OK) answer_parked(c, node);
  char who[WEIR_CREW_WHO_BYTES];
  if (st != WEIR_OK) crew_put_who(who, sizeof who, node, p->hello.incarnation ? &p->hello : NULL);
  pthread_mutex_unlock(&c->lock);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "message to %s", who);
}

void crew_leader_missing(weir_crew *c, char *out, size_t cap) {
  weir_err e;
  weir_buf b = {0};
  weir_status st = WEIR_OK;
  pthread_mutex_lock(&c->lock);
  for (int32_t k = 1; k < c->o.n_nodes; k++) {
    const peer *p = &c->leader->peer[k];
    if (p->here) continue;
    char who[WEIR_CREW_WHO_BYTES];
    crew_put_who(who, sizeof who, k, &p->hello);
    if (b.len) WEIR_TRY(weir_buf_puts(&b, "; ", &e));
    WEIR_TRY(p->hello.incarnation ? weir_buf_printf(&b, &e, "%s has not come back: %s", who, p->why)
                                  : weir_buf_printf(&b, &e, "node %d of %d has not come", k, c->o.n_nodes));
  }
out:
  pthread_mutex_unlock(&c->lock);
  if (cap > 0) snprintf(out, cap, "%s", st != WEIR_OK ? e.msg : b.data ? b.data : "");
  weir_buf_fini(&b);
}

void crew_leader_who(weir_crew *c, int32_t node, char *out, size_t cap) {
  pthread_mutex_lock(&c->lock);
  const crew_hello *h = &c->leader->peer[node].hello;
  crew_put_who(out, cap, node, h->incarnation ? h : NULL);
  pthread_mutex_unlock(&c->lock);
}

/* ---- life ---- */

weir_status crew_leader_create(weir_crew *c, weir_err *e) {
  crew_leader *l = NULL;
  weir_status st = WEIR_NEW(1, &l, e);
  if (st != WEIR_OK) return st;
  st = crew_port_open(&l->port, c->o.addr, c->o.token[0] != 0, e);
  if (st == WEIR_OK)
    c->leader = l;
  else
    free(l);
  return st;
}

void crew_leader_destroy(crew_leader *l) {
  if (!l) return;
  for (int32_t k = 0; k < WEIR_CREW_MAX_NODES; k++) {
    peer *p = &l->peer[k];
    crew_port_drop(p->parked);
    crew_out_fini(&p->out);
    crew_in_fini(&p->in);
  }
  crew_port_close(&l->port);
  free(l);
}
