/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets of the RPC server: raw REP of nanomsg at one or several URLs, one thread that waits for all of
 * them, for the service's news and for time. Raw REP drops a reply in silence when that connection is still
 * sending another one, and tells nobody when it is done, so replies of one connection keep a distance, a
 * longer one behind a larger one; and a poll that its own connection has replaced is not answered at all,
 * since nobody waits for that. Owns the sockets and the tickets. */
#define _GNU_SOURCE /* ppoll: replies keep a distance of less than a millisecond */
#include "net/rpc.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/address.h"
#include "base/log.h"
#include "base/mem.h"
#include "proto/frame.h"

enum {
  BURST = 64,        /* messages taken in a turn, of one socket */
  PIPES = 1024,      /* connections whose last reply is remembered */
  MAX_GAPS = 256,    /* so many replies of one connection wait for each other */
  MAX_TICKETS = 8192 /* messages that are not answered yet */
};
/* A reply of 256 KiB is given 26 ms, which a connection of 100 Mbit/s keeps. A slower one may lose the next
 * reply, which its client asks for again. */
static const int64_t gap_ns = 1000000, gap_byte_ns = 100;
static const int64_t look_ns = 1000000000, farewell_ns = 50000000;

/* A message that has no answer yet, or an answer that waits for its time. */
typedef struct ticket {
  void *control; /* of nanomsg: where it came from; NULL: free */
  int socket;
  uint32_t pipe;
  bool repeated; /* the client has sent it again: that one is answered */
  void *body;    /* of nanomsg: the answer; NULL: none yet */
  int64_t due_ns;
  int32_t next; /* of the free ones, of the waiting ones; -1: none */
} ticket;

typedef struct pipe_note {
  uint32_t pipe;
  int socket;
  int64_t free_ns; /* when the next reply may go: its last one has gone by then */
  int64_t last_ns; /* how much of that is for the last one */
} pipe_note;

struct weir_rpc {
  weir_rpc_core *core;
  weir_clock clock;
  int socket[WEIR_RPC_MAX_URLS];
  int fd[WEIR_RPC_MAX_URLS];
  uint64_t broken[WEIR_RPC_MAX_URLS];
  char *url[WEIR_RPC_MAX_URLS];
  int32_t n;
  int news_fd, stop_fd;
  ticket *ticket;      /* [MAX_TICKETS] */
  int32_t free, paced; /* lists */
  int32_t n_used;      /* no ticket from here on was ever taken */
  int32_t current;     /* the ticket whose message is looked at; -1: none */
  pipe_note note[PIPES];
  int64_t next_look_ns;
  weir_metric *broken_total, *lost;
  pthread_t thread;
  bool started;
  _Atomic bool stop, cut; /* asked for; stop_fd says that one was */
};

/* ---- URLs ---- */

weir_status weir_rpc_check_url(const char *url, bool token, weir_err *e) {
  if (!strncmp(url, "ipc://", 6))
    return url[6] ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "rpc: %.100s names no path", url);
  if (strncmp(url, "tcp://", 6) != 0)
    return weir_fail(e, WEIR_EINVAL, "rpc: %.100s: want ipc:///PATH or tcp://ADDRESS:PORT", url);
  if (token || weir_address_is_loopback(url + 6)) return WEIR_OK;
  return weir_fail(
      e, WEIR_EINVAL,
      "rpc: %.100s can be reached from other machines: a token is needed, or an address of loopback", url);
}

/* ---- tickets ---- */

static int32_t take_ticket(weir_rpc *r) {
  const int32_t i = r->free;
  if (i >= 0) r->free = r->ticket[i].next;
  if (i >= r->n_used) r->n_used = i + 1;
  return i;
}

static void free_ticket(weir_rpc *r, int32_t i) {
  ticket *t = &r->ticket[i];
  if (t->control) nn_freemsg(t->control);
  if (t->body) nn_freemsg(t->body);
  *t = (ticket){.next = r->free};
  r->free = i;
}

/* The backtrace of a message: the connection it came by, which the socket put there, and the request's number
 * there. */
static const unsigned char *backtrace_of(void *control, size_t *n) {
  struct nn_msghdr h = {.msg_control = &control, .msg_controllen = NN_MSG};
  struct nn_cmsghdr *c = NN_CMSG_FIRSTHDR(&h);
  while (c && !(c->cmsg_level == PROTO_SP && c->cmsg_type == SP_HDR)) c = NN_CMSG_NXTHDR(&h, c);
  if (!c || c->cmsg_len < NN_CMSG_LEN(sizeof *n)) return NULL;
  memcpy(n, NN_CMSG_DATA(c), sizeof *n);
  return *n <= c->cmsg_len - NN_CMSG_LEN(sizeof *n) ? NN_CMSG_DATA(c) + sizeof *n : NULL;
}

static uint32_t pipe_of(void *control) {
  size_t n;
  uint32_t pipe = 0;
  const unsigned char *from = backtrace_of(control, &n);
  if (from && n >= sizeof pipe) memcpy(&pipe, from, sizeof pipe);
  return pipe;
}

/* nanomsg's own REQ sockets free a message twice when they get two replies to one request: of one that was
 * sent again, only the last is answered. */
static void mute_earlier(weir_rpc *r, int32_t i) {
  const ticket *t = &r->ticket[i];
  size_t n, m;
  const unsigned char *from = backtrace_of(t->control, &n);
  for (int32_t k = 0; from && k < r->n_used; k++) {
    ticket *x = &r->ticket[k];
    if (k == i || !x->control || x->socket != t->socket || x->pipe != t->pipe) continue;
    const unsigned char *other = backtrace_of(x->control, &m);
    if (other && m == n && memcmp(from, other, n) == 0) x->repeated = true;
  }
}

static pipe_note *note_of(weir_rpc *r, const ticket *t) {
  pipe_note *n = &r->note[(t->pipe * 2654435761u ^ (uint32_t)t->socket) % PIPES];
  if (n->pipe != t->pipe || n->socket != t->socket) *n = (pipe_note){.pipe = t->pipe, .socket = t->socket};
  return n;
}

/* ---- out ---- */

static void send_now(weir_rpc *r, int32_t i) {
  ticket *t = &r->ticket[i];
  if (t->repeated) {
    free_ticket(r, i);
    return;
  }
  struct nn_iovec iov = {.iov_base = &t->body, .iov_len = NN_MSG};
  struct nn_msghdr h = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &t->control, .msg_controllen = NN_MSG};
  if (nn_sendmsg(t->socket, &h, NN_DONTWAIT) >= 0)
    t->body = t->control = NULL; /* nanomsg has them now */
  else
    weir_metric_inc(r->lost, 1);
  free_ticket(r, i);
}

static void send_due(weir_rpc *r, int64_t now, bool all) {
  for (int32_t *at = &r->paced; *at >= 0;) {
    const int32_t i = *at;
    if (!all && r->ticket[i].due_ns > now) {
      at = &r->ticket[i].next;
      continue;
    }
    *at = r->ticket[i].next;
    send_now(r, i);
  }
}

/* When the connection of a message is free for its answer. */
static int64_t ready_ns(void *ctx, uint64_t id) {
  weir_rpc *r = ctx;
  return note_of(r, &r->ticket[id])->free_ns;
}

static void answer(void *ctx, uint64_t id, const void *frame, size_t n, bool superseded) {
  weir_rpc *r = ctx;
  const int32_t i = (int32_t)id;
  ticket *t = &r->ticket[i];
  if (t->repeated) {
    free_ticket(r, i);
    return;
  }
  if (superseded && r->current >= 0 && r->ticket[r->current].pipe == t->pipe &&
      r->ticket[r->current].socket == t->socket) {
    free_ticket(r, i);
    return;
  }
  t->body = nn_allocmsg(n, 0);
  if (!t->body) {
    weir_metric_inc(r->lost, 1);
    free_ticket(r, i);
    return;
  }
  memcpy(t->body, frame, n);
  const int64_t now = weir_now_ns(&r->clock);
  pipe_note *note = note_of(r, t);
  t->due_ns = note->free_ns > now ? note->free_ns : now;
  /* Who asks without end on one connection may lose replies, but holds up nobody else's. */
  if (t->due_ns - now > MAX_GAPS * gap_ns + note->last_ns) {
    t->due_ns = now;
  } else {
    note->last_ns = gap_ns + (int64_t)n * gap_byte_ns;
    note->free_ns = t->due_ns + note->last_ns;
  }
  if (t->due_ns <= now && i != r->current) {
    send_now(r, i);
    return;
  }
  t->next = r->paced; /* also the message that is being looked at: its ticket is still compared with */
  r->paced = i;
}

/* ---- in ---- */

static void message(weir_rpc *r, int socket, void *body, size_t n, void *control) {
  const int32_t i = take_ticket(r);
  if (i < 0) { /* somebody asks and does not wait: as if it had been lost on the way */
    weir_metric_inc(r->lost, 1);
    nn_freemsg(control);
    return;
  }
  r->ticket[i] = (ticket){.control = control, .socket = socket, .pipe = pipe_of(control), .next = -1};
  mute_earlier(r, i);
  r->current = i;
  weir_rpc_core_message(r->core, (uint64_t)i, body, n);
  r->current = -1;
}

static void receive(weir_rpc *r, int socket) {
  for (int k = 0; k < BURST; k++) {
    void *body = NULL, *control = NULL;
    struct nn_iovec iov = {.iov_base = &body, .iov_len = NN_MSG};
    struct nn_msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = NN_MSG};
    const int n = nn_recvmsg(socket, &h, NN_DONTWAIT);
    if (n < 0) return;
    message(r, socket, body, (size_t)n, control);
    nn_freemsg(body);
    send_due(r, weir_now_ns(&r->clock), false);
  }
}

/* ---- the thread ---- */

static void look_at_sockets(weir_rpc *r, int64_t now) {
  if (now < r->next_look_ns) return;
  r->next_look_ns = now + look_ns;
  for (int32_t i = 0; i < r->n; i++) {
    const uint64_t broken = nn_get_statistic(r->socket[i], NN_STAT_BROKEN_CONNECTIONS);
    if (broken == UINT64_MAX || broken <= r->broken[i]) continue;
    weir_metric_inc(r->broken_total, (double)(broken - r->broken[i]));
    weir_log(WEIR_LOG_DEBUG, "rpc: %s: %llu connections were broken off", r->url[i],
             (unsigned long long)(broken - r->broken[i]));
    r->broken[i] = broken;
  }
}

static int64_t next_ns(const weir_rpc *r) {
  int64_t next = weir_rpc_core_next_ns(r->core);
  if (r->next_look_ns < next) next = r->next_look_ns;
  for (int32_t i = r->paced; i >= 0; i = r->ticket[i].next)
    if (r->ticket[i].due_ns < next) next = r->ticket[i].due_ns;
  return next;
}

static void drain(int fd) {
  uint64_t n;
  const ssize_t got = read(fd, &n, sizeof n);
  (void)got;
}

static void *run(void *ctx) {
  weir_rpc *r = ctx;
  struct pollfd p[WEIR_RPC_MAX_URLS + 2];
  for (int32_t i = 0; i < r->n; i++) p[i] = (struct pollfd){.fd = r->fd[i], .events = POLLIN};
  p[r->n] = (struct pollfd){.fd = r->news_fd, .events = POLLIN};
  p[r->n + 1] = (struct pollfd){.fd = r->stop_fd, .events = POLLIN};
  for (;;) {
    int64_t wait = next_ns(r) - weir_now_ns(&r->clock);
    wait = wait < 0 ? 0 : wait > look_ns ? look_ns : wait;
    const struct timespec t = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
    /* A step brings news, and waking this thread for each would take a core from the next step. */
    p[r->n].fd = weir_rpc_core_wants_news(r->core) ? r->news_fd : -1;
    if (ppoll(p, (nfds_t)r->n + 2, &t, NULL) < 0 && errno != EINTR) {
      weir_log(WEIR_LOG_ERROR, "rpc: poll: %s", strerror(errno));
      break;
    }
    if (p[r->n + 1].revents) {
      drain(r->stop_fd);
      if (atomic_load(&r->stop)) break;
      if (atomic_exchange(&r->cut, false)) weir_rpc_core_cut(r->core);
    }
    drain(r->news_fd); /* the turn below looks at all that it told of */
    for (int32_t i = 0; i < r->n; i++)
      if (p[i].revents) receive(r, r->socket[i]);
    weir_rpc_core_turn(r->core);
    const int64_t now = weir_now_ns(&r->clock);
    send_due(r, now, false);
    look_at_sockets(r, now);
  }
  weir_rpc_core_flush(r->core);
  send_due(r, 0, true);
  return NULL;
}

/* ---- life ---- */

/* nanomsg listens at addresses alone: the names that everybody knows are put for theirs. */
static weir_status listen_at(int socket, const char *url, weir_err *e) {
  static const char *const names[] = {"tcp://localhost:", "tcp://lo:"};
  char address[128];
  const char *at = url;
  const int off = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strncmp(url, names[i], strlen(names[i])) != 0) continue;
    snprintf(address, sizeof address, "tcp://127.0.0.1:%.80s", url + strlen(names[i]));
    at = address;
  }
  /* only there: to an address of IPv4 a socket for both does not find its way */
  if (!strncmp(url, "tcp://[", 7) && nn_setsockopt(socket, NN_SOL_SOCKET, NN_IPV4ONLY, &off, sizeof off) < 0)
    return weir_fail(e, WEIR_EIO, "rpc: socket options: %s", nn_strerror(nn_errno()));
  if (nn_bind(socket, at) >= 0) return WEIR_OK;
  return weir_fail(e, WEIR_EIO, "rpc: cannot listen at %.100s: %s%s", url, nn_strerror(nn_errno()),
                   nn_errno() == ENODEV ? " (want an address of this machine, or *)" : "");
}

static weir_status open_socket(weir_rpc *r, const char *url, bool token, weir_err *e) {
  const int32_t i = r->n;
  const int most = (int)(weir_rpc_core_max_request(r->core) + WEIR_FRAME_SLACK);
  size_t n = sizeof r->fd[i];
  weir_status st = weir_rpc_check_url(url, token, e);
  if (st != WEIR_OK) return st;
  r->url[i] = strdup(url);
  if (!r->url[i]) return weir_fail(e, WEIR_ENOMEM, "rpc: no memory");
  r->socket[i] = nn_socket(AF_SP_RAW, NN_REP);
  if (r->socket[i] < 0) return weir_fail(e, WEIR_EIO, "rpc: socket: %s", nn_strerror(nn_errno()));
  r->n++;
  if (nn_setsockopt(r->socket[i], NN_SOL_SOCKET, NN_RCVMAXSIZE, &most, sizeof most) < 0 ||
      nn_getsockopt(r->socket[i], NN_SOL_SOCKET, NN_RCVFD, &r->fd[i], &n) < 0)
    return weir_fail(e, WEIR_EIO, "rpc: socket options: %s", nn_strerror(nn_errno()));
  st = listen_at(r->socket[i], url, e);
  if (st != WEIR_OK) return st;
  if (!token && !strncmp(url, "ipc://", 6) && chmod(url + 6, 0600) != 0)
    return weir_fail(e, WEIR_EIO, "rpc: %.100s: %s", url + 6, strerror(errno));
  return WEIR_OK;
}

static weir_status make_metrics(weir_rpc *r, weir_metrics *m, weir_err *e) {
  weir_status st =
      weir_metrics_add(m, WEIR_METRIC_COUNTER, "weir:rpc_broken_connections_total",
                       "Connections that broke off: clients that went, or messages that were too large.",
                       NULL, 0, NULL, 0, &r->broken_total, e);
  if (st == WEIR_OK)
    st = weir_metrics_add(m, WEIR_METRIC_COUNTER, "weir:rpc_replies_lost_total",
                          "Messages that could not be answered: memory, or too many under way.", NULL, 0,
                          NULL, 0, &r->lost, e);
  return st;
}

weir_status weir_rpc_create(const weir_rpc_cfg *cfg, weir_rpc **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_rpc *r = NULL;
  const bool token = cfg->core.token && cfg->core.token[0];
  *out = NULL;
  if (cfg->n_urls < 1 || cfg->n_urls > WEIR_RPC_MAX_URLS)
    return weir_fail(e, WEIR_EINVAL, "rpc: %d URLs, want 1 to %d", cfg->n_urls, WEIR_RPC_MAX_URLS);
  WEIR_TRY(WEIR_NEW(1, &r, e));
  r->stop_fd = -1;
  r->current = r->free = r->paced = -1;
  r->clock = cfg->core.clock;
  r->news_fd = weir_service_news_fd(cfg->core.service);
  WEIR_TRY(WEIR_NEW(MAX_TICKETS, &r->ticket, e));
  for (int32_t i = MAX_TICKETS - 1; i >= 0; i--) free_ticket(r, i);
  weir_rpc_core_cfg core = cfg->core;
  core.answer = answer;
  core.ready_ns = ready_ns;
  core.ctx = r;
  WEIR_TRY(weir_rpc_core_create(&core, &r->core, e));
  WEIR_TRY(make_metrics(r, cfg->core.metrics, e));
  r->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (r->stop_fd < 0) WEIR_TRY(weir_fail(e, WEIR_EIO, "rpc: eventfd: %s", strerror(errno)));
  for (int32_t i = 0; i < cfg->n_urls; i++) WEIR_TRY(open_socket(r, cfg->url[i], token, e));
  if (pthread_create(&r->thread, NULL, run, r) != 0)
    WEIR_TRY(weir_fail(e, WEIR_EIO, "rpc: cannot start the thread"));
  r->started = true;
  *out = r;
  r = NULL;
out:
  weir_rpc_destroy(r);
  return st;
}

static void wake(weir_rpc *r) {
  const uint64_t one = 1;
  const ssize_t n = write(r->stop_fd, &one, sizeof one);
  (void)n;
}

void weir_rpc_cut(weir_rpc *r) {
  atomic_store(&r->cut, true);
  wake(r);
}

void weir_rpc_destroy(weir_rpc *r) {
  if (!r) return;
  if (r->started) {
    atomic_store(&r->stop, true);
    wake(r);
    pthread_join(r->thread, NULL);
    /* nanomsg has no lingering: what it was given goes within this moment or not at all */
    const struct timespec t = {.tv_nsec = farewell_ns};
    nanosleep(&t, NULL);
  }
  for (int32_t i = 0; i < r->n; i++) nn_close(r->socket[i]);
  weir_rpc_core_destroy(r->core);
  for (int32_t i = 0; r->ticket && i < MAX_TICKETS; i++)
    if (r->ticket[i].control) nn_freemsg(r->ticket[i].control);
  for (int32_t i = 0; i < WEIR_RPC_MAX_URLS; i++) free(r->url[i]);
  if (r->stop_fd >= 0) close(r->stop_fd);
  free(r->ticket);
  free(r);
}

int32_t weir_rpc_sessions(const weir_rpc *r) { return weir_rpc_core_sessions(r->core); }
