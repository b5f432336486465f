/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks over TCP: sending and receiving with all at once, waiting, ending. Owns the connections; all but end
 * and abort is the rank's thread.
 *
 * A word is a letter, a length in two bytes and a text: 'A' the group is over, with the reason; 'L' this rank
 * leaves. Who leaves has sent all that its last call owed, so a call under way goes on without it and only
 * what would need it fails. */
#define _GNU_SOURCE /* ppoll */
#include "comm/tcp_group.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum {
  HEAD_MAGIC = 0x31504354, /* "TCP1" */
  NAMED = 4                /* late ranks in a message */
};

/* A reason travels on another connection than the data that ends, and the end on another than data that was
 * sent before: this time is given to what may be on its way. */
static const int64_t way_ns = 50000000;
static const int64_t look_ns = 50000; /* before it sleeps */

static const char *const op_names[TCP_N_OPS] = {"join", "all_reduce", "all_gather", "broadcast"};

int tcp_wait(struct pollfd *p, int n, int64_t until_ns) {
  int64_t left = until_ns - weir_monotonic_ns();
  if (left < 0) left = 0;
  const struct timespec t = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
  return ppoll(p, (nfds_t)n, &t, NULL);
}

/* ---- texts ---- */

static const char *call_name(const tcp_call *c, char *out, size_t cap) {
  const char *name = c->op < TCP_N_OPS ? op_names[c->op] : "an unknown call";
  if (c->op == TCP_JOIN)
    snprintf(out, cap, "%s", name);
  else
    snprintf(out, cap, "%s %u", name, (unsigned)c->number);
  return out;
}

static void describe(const tcp_call *c, char *out, size_t cap) {
  char name[48];
  call_name(c, name, sizeof name);
  if (c->op == TCP_BROADCAST)
    snprintf(out, cap, "%s of %llu bytes from rank %u", name, (unsigned long long)c->bytes,
             (unsigned)c->root);
  else
    snprintf(out, cap, "%s of %llu bytes", name, (unsigned long long)c->bytes);
}

static void name_peer(const tcp_group *g, int32_t rank, char *out, size_t cap) {
  const tcp_peer *p = &g->peer[rank];
  const bool v6 = strchr(p->address, ':') != NULL;
  snprintf(out, cap, "rank %d (%s%s%s:%u)", (int)rank, v6 ? "[" : "", p->address, v6 ? "]" : "",
           (unsigned)p->port);
}

/* ---- the end ---- */

static void say(tcp_group *g, char letter, const char *text) {
  uint8_t word[TCP_WORD_BYTES];
  size_t n = strlen(text);
  if (n > sizeof word - 3) n = sizeof word - 3;
  word[0] = (uint8_t)letter;
  word[1] = (uint8_t)n;
  word[2] = (uint8_t)(n >> 8);
  memcpy(word + 3, text, n);
  for (int32_t r = 0; r < g->n_ranks; r++) {
    if (r == g->rank || g->peer[r].words < 0) continue;
    const ssize_t sent = send(g->peer[r].words, word, 3 + n, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* who cannot be told will see the connection end */
  }
}

static void end(tcp_group *g, const char *why, tcp_over over) {
  const uint64_t one = 1;
  pthread_mutex_lock(&g->lock);
  if (atomic_load(&g->over) == TCP_LIVES) {
    snprintf(g->why, sizeof g->why, "%s", why);
    if (over == TCP_OVER_OWN) say(g, 'A', g->why);
    atomic_store(&g->over, over);
    const ssize_t n = write(g->over_fd, &one, sizeof one);
    (void)n;
  }
  pthread_mutex_unlock(&g->lock);
}

static weir_status say_over(tcp_group *g, weir_err *e) {
  pthread_mutex_lock(&g->lock);
  const weir_status st = weir_fail(e, WEIR_EDEVICE, "%s", g->why);
  pthread_mutex_unlock(&g->lock);
  return st;
}

weir_status tcp_end(tcp_group *g, const char *why, weir_err *e) {
  end(g, why, TCP_OVER_OWN);
  return say_over(g, e);
}

void tcp_abort(tcp_group *g, const char *why) {
  char text[WEIR_ERR_MSG_BYTES];
  snprintf(text, sizeof text, "rank %d gave up: %s", (int)g->rank, why ? why : "no reason was given");
  end(g, text, TCP_OVER_OWN);
}

/* ---- words ---- */

static void stop_hearing(tcp_group *g, tcp_peer *p) {
  p->unheard = true;
  epoll_ctl(g->watch, EPOLL_CTL_DEL, p->words, NULL);
}

/* Whether there may be more. */
static bool take_word(tcp_group *g, tcp_peer *p) {
  size_t want = p->n_word < 3 ? 3 : 3 + (size_t)(p->word[1] | p->word[2] << 8);
  if (want <= sizeof p->word && p->n_word < want) {
    const ssize_t n = recv(p->words, p->word + p->n_word, want - p->n_word, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n > 0) p->n_word += (size_t)n;
    if (n > 0 && p->n_word < 3) return true;
    if (n <= 0) {
      stop_hearing(g, p);
      return false;
    }
    want = 3 + (size_t)(p->word[1] | p->word[2] << 8);
    if (p->n_word < want && want <= sizeof p->word) return true;
  }
  if (want > sizeof p->word || (p->word[0] != 'A' && p->word[0] != 'L')) {
    stop_hearing(g, p);
    return false;
  }
  if (p->word[0] == 'L') {
    p->left = true;
  } else {
    char why[WEIR_ERR_MSG_BYTES];
    size_t n = want - 3;
    if (n >= sizeof why) n = sizeof why - 1;
    memcpy(why, p->word + 3, n);
    why[n] = 0;
    for (char *c = why; *c; c++)
      if ((unsigned char)*c < 0x20 || (unsigned char)*c == 0x7f) *c = '?';
    end(g, why, TCP_OVER_TOLD);
  }
  p->n_word = 0;
  return true;
}

weir_status tcp_hear(tcp_group *g, weir_err *e) {
  for (int32_t r = 0; r < g->n_ranks; r++) {
    tcp_peer *p = &g->peer[r];
    if (r == g->rank || p->words < 0) continue;
    while (!p->unheard && take_word(g, p)) {
    }
  }
  return atomic_load(&g->over) != TCP_LIVES ? say_over(g, e) : WEIR_OK;
}

weir_status tcp_gone(tcp_group *g, int32_t rank, const char *what, weir_err *e) {
  char why[WEIR_ERR_MSG_BYTES], name[128], call[64];
  const tcp_peer *p = &g->peer[rank];
  const int64_t until = weir_monotonic_ns() + way_ns;
  do {
    if (tcp_hear(g, e) != WEIR_OK) return WEIR_EDEVICE;
    struct pollfd w = {.fd = g->watch, .events = POLLIN};
    if (p->left || p->words < 0 || tcp_wait(&w, 1, until) == 0) break;
  } while (weir_monotonic_ns() < until);
  name_peer(g, rank, name, sizeof name);
  if (p->left)
    snprintf(why, sizeof why, "%s has left the group", name);
  else
    snprintf(why, sizeof why, "%s %s in %s", name, what, call_name(&g->call, call, sizeof call));
  return tcp_end(g, why, e);
}

weir_status tcp_late(tcp_group *g, const bool *missing, weir_err *e) {
  char why[WEIR_ERR_MSG_BYTES], name[128], call[64];
  int n = 0, late = 0;
  for (int32_t r = 0; r < g->n_ranks; r++) {
    if (!missing[r]) continue;
    name_peer(g, r, name, sizeof name);
    if (late < NAMED) n += snprintf(why + n, sizeof why - (size_t)n, "%s%.*s", late ? ", " : "", 90, name);
    late++;
  }
  if (late > NAMED) n += snprintf(why + n, sizeof why - (size_t)n, " and %d more", late - NAMED);
  snprintf(why + n, sizeof why - (size_t)n, " %s not come to %s within %.1f s", late > 1 ? "have" : "has",
           call_name(&g->call, call, sizeof call), (double)g->bound_ns * 1e-9);
  return tcp_end(g, why, e);
}

/* ---- calls ---- */

static void put_le(uint8_t *to, uint64_t v, int n) {
  for (int i = 0; i < n; i++) to[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *from, int n) {
  uint64_t v = 0;
  for (int i = 0; i < n; i++) v |= (uint64_t)from[i] << (8 * i);
  return v;
}

weir_status tcp_begin(tcp_group *g, tcp_op op, size_t bytes, int32_t root, weir_err *e) {
  struct pollfd w = {.fd = g->watch, .events = POLLIN};
  if (poll(&w, 1, 0) == 1 && tcp_hear(g, e) != WEIR_OK) return WEIR_EDEVICE;
  if (atomic_load(&g->over) != TCP_LIVES) return say_over(g, e);
  g->call = (tcp_call){.bytes = bytes,
                       .number = op == TCP_JOIN ? 0 : g->call.number + 1,
                       .op = (uint16_t)op,
                       .root = (uint16_t)root};
  put_le(g->head, HEAD_MAGIC, 4);
  put_le(g->head + 4, g->call.number, 4);
  put_le(g->head + 8, g->call.op, 2);
  put_le(g->head + 10, g->call.root, 2);
  put_le(g->head + 12, 0, 4);
  put_le(g->head + 16, g->call.bytes, 8);
  g->headed = true;
  g->looked_ns = weir_monotonic_ns();
  if (op != TCP_JOIN) g->deadline_ns = g->looked_ns + g->bound_ns;
  for (int32_t r = 0; r < g->n_ranks; r++)
    if (g->peer[r].left) return tcp_gone(g, r, "has left", e);
  return WEIR_OK;
}

/* The head that has come from a rank is of the same call as this rank's. */
static weir_status compare(tcp_group *g, int32_t rank, weir_err *e) {
  const uint8_t *h = g->peer[rank].head;
  if (memcmp(h, g->head, TCP_HEAD_BYTES) == 0) return WEIR_OK;
  char why[WEIR_ERR_MSG_BYTES], a[128], b[128];
  if (get_le(h, 4) != HEAD_MAGIC) {
    name_peer(g, rank, a, sizeof a);
    snprintf(why, sizeof why, "what comes from %s is no call", a);
    return tcp_end(g, why, e);
  }
  const tcp_call other = {.bytes = get_le(h + 16, 8),
                          .number = (uint32_t)get_le(h + 4, 4),
                          .op = (uint16_t)get_le(h + 8, 2),
                          .root = (uint16_t)get_le(h + 10, 2)};
  const bool first = g->rank < rank; /* the lower rank is named first, whoever notices */
  describe(first ? &g->call : &other, a, sizeof a);
  describe(first ? &other : &g->call, b, sizeof b);
  snprintf(why, sizeof why, "the ranks' calls differ: rank %d is in %s, rank %d in %s",
           (int)(first ? g->rank : rank), a, (int)(first ? rank : g->rank), b);
  return tcp_end(g, why, e);
}

/* ---- exchange ---- */

/* What is left of a head and of data, of which `done` bytes have gone. */
static int rest_of(struct iovec v[2], void *head, size_t head_bytes, void *data, size_t bytes, size_t done) {
  int n = 0;
  if (done < head_bytes) v[n++] = (struct iovec){(uint8_t *)head + done, head_bytes - done};
  const size_t past = done < head_bytes ? 0 : done - head_bytes;
  if (past < bytes) v[n++] = (struct iovec){(uint8_t *)data + past, bytes - past};
  return n;
}

static bool would_wait(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* Neither can be gone on with: error 0 is the end of what comes. */
static weir_status broken(tcp_group *g, int32_t rank, int error, weir_err *e) {
  char what[120] = "has closed the connection";
  if (error != 0 && error != ECONNRESET && error != EPIPE)
    snprintf(what, sizeof what, "cannot be reached any more (%s)", strerror(error));
  return tcp_gone(g, rank, what, e);
}

static weir_status send_some(tcp_group *g, int32_t rank, const tcp_flow *f, size_t head, weir_err *e) {
  tcp_peer *p = &g->peer[rank];
  while (p->sent < head + f->out_bytes) {
    struct iovec v[2];
    const int n_v = rest_of(v, g->head, head, (void *)f->out, f->out_bytes, p->sent);
    struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)n_v};
    const ssize_t n = sendmsg(p->data, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && would_wait()) return WEIR_OK;
    if (n < 0) return broken(g, rank, errno, e);
    p->sent += (size_t)n;
  }
  return WEIR_OK;
}

static weir_status receive_some(tcp_group *g, int32_t rank, const tcp_flow *f, size_t head, weir_err *e) {
  tcp_peer *p = &g->peer[rank];
  while (p->got < head + f->in_bytes) {
    struct iovec v[2];
    const int n_v = rest_of(v, p->head, head, f->in, f->in_bytes, p->got);
    struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)n_v};
    const ssize_t n = recvmsg(p->data, &m, MSG_DONTWAIT);
    if (n < 0 && would_wait()) return WEIR_OK;
    if (n <= 0) return broken(g, rank, n < 0 ? errno : 0, e);
    const bool had_head = p->got >= head;
    p->got += (size_t)n;
    if (!had_head && p->got >= head) {
      const weir_status st = compare(g, rank, e);
      if (st != WEIR_OK) return st;
    }
  }
  return WEIR_OK;
}

static short wanted(const tcp_peer *p, const tcp_flow *f, size_t head) {
  return (short)((p->sent < head + f->out_bytes ? POLLOUT : 0) | (p->got < head + f->in_bytes ? POLLIN : 0));
}

/* What the clock says. Who was stopped, or was on a machine that was suspended, finds the bound over when it
 * goes on; the others may have stood still as well. */
static int64_t look_at_clock(tcp_group *g) {
  const int64_t now = weir_monotonic_ns(), until = now + g->bound_ns / 2;
  if (!g->drains && now - g->looked_ns > g->bound_ns / 4 + g->bound_ns / 8 && g->deadline_ns < until)
    g->deadline_ns = until;
  g->looked_ns = now;
  return now;
}

/* Sleeps until something can go on; ready[] are those with which it can. */
static weir_status wait_for_some(tcp_group *g, const tcp_flow *flow, size_t head, bool *ready, weir_err *e) {
  struct pollfd p[WEIR_MAX_RANKS + 1];
  int32_t of[WEIR_MAX_RANKS + 1];
  int n = 0;
  for (int32_t r = 0; r < g->n_ranks; r++) {
    ready[r] = false;
    const short events = r == g->rank ? 0 : wanted(&g->peer[r], &flow[r], head);
    if (!events) continue;
    of[n] = r;
    p[n++] = (struct pollfd){.fd = g->peer[r].data, .events = events};
  }
  p[n] = (struct pollfd){.fd = g->drains ? -1 : g->watch, .events = POLLIN};
  const int64_t slice = look_at_clock(g) + g->bound_ns / 8;
  const int got = tcp_wait(p, n + 1, slice < g->deadline_ns ? slice : g->deadline_ns);
  if (got < 0 && errno != EINTR) {
    char why[96];
    snprintf(why, sizeof why, "rank %d cannot wait: %s", (int)g->rank, strerror(errno));
    return tcp_end(g, why, e);
  }
  for (int i = 0; i < n; i++) ready[of[i]] = got > 0 && p[i].revents;
  if (got > 0 && p[n].revents && tcp_hear(g, e) != WEIR_OK) {
    if (atomic_load(&g->over) == TCP_OVER_OWN) return WEIR_EDEVICE;
    const int64_t until = weir_monotonic_ns() + way_ns;
    if (until < g->deadline_ns) g->deadline_ns = until;
    g->drains = true;
    return WEIR_OK;
  }
  if (got != 0 || look_at_clock(g) < g->deadline_ns) return WEIR_OK;
  if (g->drains) return say_over(g, e);
  bool missing[WEIR_MAX_RANKS] = {false};
  for (int i = 0; i < n; i++) missing[of[i]] = true;
  return tcp_late(g, missing, e);
}

weir_status tcp_exchange(tcp_group *g, const tcp_flow *flow, weir_err *e) {
  const size_t head = g->headed ? TCP_HEAD_BYTES : 0;
  bool ready[WEIR_MAX_RANKS];
  for (int32_t r = 0; r < g->n_ranks; r++) {
    g->peer[r].sent = g->peer[r].got = 0;
    ready[r] = true;
  }
  g->headed = false;
  for (int64_t look_until = 0;;) {
    bool all = true;
    for (int32_t i = 1; i < g->n_ranks; i++) {
      const int32_t r = (g->rank + i) % g->n_ranks;
      const weir_status st = ready[r] ? send_some(g, r, &flow[r], head, e) : WEIR_OK;
      if (st != WEIR_OK) return st;
    }
    for (int32_t i = 1; i < g->n_ranks; i++) {
      const int32_t r = (g->rank + i) % g->n_ranks;
      const weir_status st = ready[r] ? receive_some(g, r, &flow[r], head, e) : WEIR_OK;
      if (st != WEIR_OK) return st;
      all = all && !wanted(&g->peer[r], &flow[r], head);
    }
    if (all) return WEIR_OK;
    const int64_t now = weir_monotonic_ns();
    if (look_until == 0) look_until = now + look_ns;
    if (now < look_until) { /* the others are as far, as a rule: to sleep takes longer */
      sched_yield();
      continue;
    }
    const weir_status st = wait_for_some(g, flow, head, ready, e);
    if (st != WEIR_OK) return st;
  }
}

/* ---- life ---- */

weir_status tcp_group_watch(tcp_group *g, int32_t rank, weir_err *e) {
  struct epoll_event ev = {.events = EPOLLIN};
  if (epoll_ctl(g->watch, EPOLL_CTL_ADD, g->peer[rank].words, &ev) == 0) return WEIR_OK;
  return weir_fail(e, WEIR_EIO, "epoll: %s", strerror(errno));
}

weir_status tcp_group_init(tcp_group *g, int32_t rank, int32_t n_ranks, int64_t bound_ns, weir_err *e) {
  *g = (tcp_group){.rank = rank, .n_ranks = n_ranks, .bound_ns = bound_ns};
  for (int32_t r = 0; r < WEIR_MAX_RANKS; r++) g->peer[r].data = g->peer[r].words = -1;
  pthread_mutex_init(&g->lock, NULL);
  g->watch = epoll_create1(EPOLL_CLOEXEC);
  g->over_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  struct epoll_event ev = {.events = EPOLLIN};
  if (g->watch >= 0 && g->over_fd >= 0 && epoll_ctl(g->watch, EPOLL_CTL_ADD, g->over_fd, &ev) == 0)
    return WEIR_OK;
  weir_fail(e, WEIR_EIO, "epoll: %s", strerror(errno));
  tcp_group_fini(g);
  return WEIR_EIO;
}

void tcp_group_fini(tcp_group *g) {
  pthread_mutex_lock(&g->lock);
  if (atomic_load(&g->over) == TCP_LIVES) say(g, 'L', "");
  pthread_mutex_unlock(&g->lock);
  for (int32_t r = 0; r < g->n_ranks; r++) {
    tcp_peer *p = &g->peer[r];
    if (p->words >= 0) close(p->words);
    if (p->data >= 0) close(p->data);
    p->words = p->data = -1;
  }
  if (g->watch >= 0) close(g->watch);
  if (g->over_fd >= 0) close(g->over_fd);
  pthread_mutex_destroy(&g->lock);
}
