/* SPDX-License-Identifier: Apache-2.0 */
/* Joining over TCP. Owns the connections that are not known to be a rank's yet; the rank's thread. Strangers
 * are hung up on, and who says nothing is let stand until the ranks are complete or too many are. */
#define _GNU_SOURCE /* accept4 */
#include "comm/tcp_join.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/secret.h"

enum {
  BACKLOG = 256,
  HELLO_BYTES =
      16 + TCP_SECRET_BYTES,          /* magic, which, 3 zero, from, to, n_ranks, 2 zero, the door's secret */
  REPLY_BYTES = 8 + TCP_SECRET_BYTES, /* magic, which, 3 zero, the other door's secret */
  GUESTS = 192                        /* connections that have not said hello */
};
static const char hello_magic[4] = {'W', 'T', 'J', '1'}, reply_magic[4] = {'W', 'T', 'J', '2'};

typedef enum { DATA, WORDS, N_WHICH } which;

typedef enum { CONNECTING, WAITING, DONE } call_state;

typedef struct call_out {
  int fd; /* -1: DONE, it is the peer's now */
  int32_t rank;
  which is;
  call_state state;
  uint8_t reply[REPLY_BYTES];
  size_t n;
} call_out;

typedef struct guest {
  int fd; /* -1: free */
  uint8_t hello[HELLO_BYTES];
  size_t n;
} guest;

typedef struct joining {
  tcp_group *g;
  const tcp_door *door;
  const tcp_place *place;
  call_out out[2 * WEIR_MAX_RANKS];
  int32_t n_out;
  guest guest[GUESTS];
  int32_t next_guest; /* the one that goes when there is no room */
} joining;

/* ---- places ---- */

void tcp_place_put(const tcp_place *p, char out[TCP_PLACE_BYTES]) {
  int n = snprintf(out, TCP_PLACE_BYTES, "%s %u ", p->address, (unsigned)p->port);
  for (int i = 0; i < TCP_SECRET_BYTES; i++)
    n += snprintf(out + n, (size_t)(TCP_PLACE_BYTES - n), "%02x", p->secret[i]);
}

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool set_address(const char *address, uint16_t port, struct sockaddr_storage *out, socklen_t *n) {
  struct sockaddr_in *v4 = (struct sockaddr_in *)out;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
  memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    *n = sizeof *v4;
    return true;
  }
  if (inet_pton(AF_INET6, address, &v6->sin6_addr) != 1) return false;
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  *n = sizeof *v6;
  return true;
}

weir_status tcp_place_parse(const char *text, const char **end, tcp_place *out, weir_err *e) {
  const size_t n = strcspn(text, " ");
  struct sockaddr_storage unused;
  socklen_t unused_n;
  uint32_t port = 0;
  *out = (tcp_place){.port = 0};
  if (n == 0 || n >= sizeof out->address || text[n] != ' ') goto bad;
  memcpy(out->address, text, n);
  const char *at = text + n + 1;
  for (int i = 0; i < 5 && *at >= '0' && *at <= '9'; i++) port = port * 10 + (uint32_t)(*at++ - '0');
  if (port == 0 || port > 65535 || *at++ != ' ') goto bad;
  out->port = (uint16_t)port;
  if (!set_address(out->address, out->port, &unused, &unused_n)) goto bad;
  for (int i = 0; i < TCP_SECRET_BYTES; i++, at += 2) {
    const int a = hex(at[0]), b = a < 0 ? -1 : hex(at[1]);
    if (b < 0) goto bad;
    out->secret[i] = (uint8_t)(a * 16 + b);
  }
  *end = at;
  return WEIR_OK;
bad:
  return weir_fail(e, WEIR_EFORMAT, "want an address, a port and a secret, not \"%.60s\"", text);
}

/* ---- doors ---- */

static bool is_any(const struct addrinfo *a) {
  if (a->ai_family == AF_INET)
    return ((const struct sockaddr_in *)(const void *)a->ai_addr)->sin_addr.s_addr == htonl(INADDR_ANY);
  return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)(const void *)a->ai_addr)->sin6_addr);
}

static int listen_at(const struct addrinfo *a, tcp_place *p) {
  struct sockaddr_storage at;
  socklen_t n = sizeof at;
  char port[8];
  const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0 &&
      getsockname(fd, (struct sockaddr *)&at, &n) == 0 &&
      getnameinfo((struct sockaddr *)&at, n, p->address, sizeof p->address, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
    p->port = (uint16_t)atoi(port);
    return fd;
  }
  const int why = errno;
  close(fd);
  errno = why;
  return -1;
}

weir_status tcp_door_open(tcp_door *d, const char *host, weir_err *e) {
  static const int families[] = {AF_INET, AF_INET6};
  struct addrinfo hint = {.ai_socktype = SOCK_STREAM}, *all = NULL;
  *d = (tcp_door){.fd = -1};
  const int got = getaddrinfo(host, "0", &hint, &all);
  if (got != 0) return weir_fail(e, WEIR_EINVAL, "%.120s: %s", host, gai_strerror(got));
  weir_status st = WEIR_OK;
  errno = EADDRNOTAVAIL;
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    for (const struct addrinfo *a = all; a && st == WEIR_OK && d->fd < 0; a = a->ai_next) {
      if (a->ai_family != families[i]) continue;
      if (is_any(a))
        st = weir_fail(e, WEIR_EINVAL, "%.120s: want the address under which the others reach this machine",
                       host);
      else
        d->fd = listen_at(a, &d->place);
    }
  if (st == WEIR_OK && d->fd < 0)
    st = weir_fail(e, WEIR_EIO, "cannot listen at %.120s: %s%s", host, strerror(errno),
                   errno == EADDRNOTAVAIL ? " (want a name or an address of this machine)" : "");
  freeaddrinfo(all);
  if (st == WEIR_OK && strchr(d->place.address, '%'))
    st = weir_fail(e, WEIR_EINVAL, "%.120s: an address that means something on this machine alone", host);
  if (st == WEIR_OK) st = weir_secret_draw(d->place.secret, sizeof d->place.secret, e);
  if (st != WEIR_OK) tcp_door_close(d);
  return st;
}

void tcp_door_close(tcp_door *d) {
  if (d->fd >= 0) close(d->fd);
  d->fd = -1;
}

/* ---- connections ---- */

static int *slot_of(joining *j, int32_t rank, which is) {
  tcp_peer *p = &j->g->peer[rank];
  return is == DATA ? &p->data : &p->words;
}

/* The connection is known to be that rank's. */
static weir_status take(joining *j, int fd, int32_t rank, which is, weir_err *e) {
  *slot_of(j, rank, is) = fd;
  return is == WORDS ? tcp_group_watch(j->g, rank, e) : WEIR_OK;
}

static void put16(uint8_t *to, int32_t v) {
  to[0] = (uint8_t)v;
  to[1] = (uint8_t)(v >> 8);
}

static int32_t get16(const uint8_t *from) { return from[0] | from[1] << 8; }

static bool send_all(int fd, const void *data, size_t n) { /* the first bytes of a connection always fit */
  return send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)n;
}

static weir_status start_call(joining *j, int32_t rank, which is, weir_err *e) {
  const tcp_place *p = &j->place[rank];
  struct sockaddr_storage to;
  socklen_t n = 0;
  char what[160];
  const int on = 1;
  if (!set_address(p->address, p->port, &to, &n))
    return weir_fail(e, WEIR_EFORMAT, "rank %d: no address", (int)rank);
  const int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return weir_fail(e, WEIR_EIO, "socket: %s", strerror(errno));
  j->out[j->n_out++] = (call_out){.fd = fd, .rank = rank, .is = is, .state = CONNECTING};
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, (struct sockaddr *)&to, n) == 0 || errno == EINPROGRESS) return WEIR_OK;
  snprintf(what, sizeof what, "cannot be reached (%s)", strerror(errno));
  return tcp_gone(j->g, rank, what, e);
}

static weir_status say_hello(joining *j, call_out *c, weir_err *e) {
  uint8_t hello[HELLO_BYTES] = {0};
  char what[160];
  int error = 0;
  socklen_t n = sizeof error;
  if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0) error = errno;
  if (error == 0) {
    memcpy(hello, hello_magic, sizeof hello_magic);
    hello[4] = (uint8_t)c->is;
    put16(hello + 8, j->g->rank);
    put16(hello + 10, c->rank);
    put16(hello + 12, j->g->n_ranks);
    memcpy(hello + 16, j->place[c->rank].secret, TCP_SECRET_BYTES);
    c->state = WAITING;
    if (send_all(c->fd, hello, sizeof hello)) return WEIR_OK;
    error = errno;
  }
  snprintf(what, sizeof what, "cannot be reached (%s)", strerror(error));
  return tcp_gone(j->g, c->rank, what, e);
}

static weir_status hear_reply(joining *j, call_out *c, weir_err *e) {
  const ssize_t n = recv(c->fd, c->reply + c->n, sizeof c->reply - c->n, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return WEIR_OK;
  if (n <= 0) return tcp_gone(j->g, c->rank, "has closed the connection", e);
  c->n += (size_t)n;
  if (c->n < sizeof c->reply) return WEIR_OK;
  if (memcmp(c->reply, reply_magic, sizeof reply_magic) != 0 || c->reply[4] != (uint8_t)c->is ||
      !weir_secret_equal(j->door->place.secret, TCP_SECRET_BYTES, c->reply + 8, TCP_SECRET_BYTES))
    return tcp_gone(j->g, c->rank, "is somebody else", e);
  const int fd = c->fd;
  c->fd = -1;
  c->state = DONE;
  return take(j, fd, c->rank, c->is, e);
}

/* ---- guests ---- */

static void hang_up(guest *k) {
  if (k->fd >= 0) close(k->fd);
  *k = (guest){.fd = -1};
}

static weir_status give_up(joining *j, const char *what, weir_err *e) {
  char why[160];
  snprintf(why, sizeof why, "rank %d %s: %s", (int)j->g->rank, what, strerror(errno));
  return tcp_end(j->g, why, e);
}

/* Whoever stands at the door; one who has gone meanwhile is no fault. */
static weir_status let_in(joining *j, weir_err *e) {
  for (int i = 0; i < BACKLOG; i++) {
    const int fd = accept4(j->door->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
      return give_up(j, "cannot take a connection", e);
    if (fd < 0) return WEIR_OK;
    int32_t k = 0;
    while (k < GUESTS && j->guest[k].fd >= 0) k++;
    if (k == GUESTS) {
      k = j->next_guest;
      j->next_guest = (k + 1) % GUESTS;
      hang_up(&j->guest[k]);
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    j->guest[k] = (guest){.fd = fd};
  }
  return WEIR_OK;
}

static bool is_welcome(joining *j, const guest *k) {
  const uint8_t *h = k->hello;
  const int32_t from = get16(h + 8);
  return memcmp(h, hello_magic, sizeof hello_magic) == 0 && h[4] < N_WHICH &&
         weir_secret_equal(j->door->place.secret, TCP_SECRET_BYTES, h + 16, TCP_SECRET_BYTES) &&
         from < j->g->rank && get16(h + 10) == j->g->rank && get16(h + 12) == j->g->n_ranks &&
         *slot_of(j, from, (which)h[4]) < 0;
}

static weir_status hear_guest(joining *j, guest *k, weir_err *e) {
  const ssize_t n = recv(k->fd, k->hello + k->n, sizeof k->hello - k->n, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return WEIR_OK;
  if (n > 0) k->n += (size_t)n;
  if (n > 0 && k->n < sizeof k->hello) return WEIR_OK;
  if (n > 0 && is_welcome(j, k)) {
    uint8_t reply[REPLY_BYTES] = {0};
    const int32_t from = get16(k->hello + 8);
    memcpy(reply, reply_magic, sizeof reply_magic);
    reply[4] = k->hello[4];
    memcpy(reply + 8, j->place[from].secret, TCP_SECRET_BYTES);
    if (send_all(k->fd, reply, sizeof reply)) {
      const int fd = k->fd;
      k->fd = -1;
      return take(j, fd, from, (which)reply[4], e);
    }
  }
  hang_up(k);
  return WEIR_OK;
}

/* ---- the whole ---- */

static int find_missing(const joining *j, bool *missing) {
  int n = 0;
  for (int32_t r = 0; r < j->g->n_ranks; r++) {
    missing[r] = r != j->g->rank && (j->g->peer[r].data < 0 || j->g->peer[r].words < 0);
    n += missing[r];
  }
  return n;
}

/* Waits once, and goes on with whatever is ready. */
static weir_status go_on(joining *j, weir_err *e) {
  struct pollfd p[2 + 2 * WEIR_MAX_RANKS + GUESTS];
  int n = 2;
  weir_status st = WEIR_OK;
  p[0] = (struct pollfd){.fd = j->door->fd, .events = POLLIN};
  p[1] = (struct pollfd){.fd = j->g->watch, .events = POLLIN};
  for (int32_t i = 0; i < j->n_out; i++) /* a descriptor of -1 is passed over */
    p[n++] = (struct pollfd){.fd = j->out[i].fd, .events = j->out[i].state == CONNECTING ? POLLOUT : POLLIN};
  for (int32_t i = 0; i < GUESTS; i++) p[n++] = (struct pollfd){.fd = j->guest[i].fd, .events = POLLIN};
  const int got = tcp_wait(p, n, j->g->deadline_ns);
  if (got < 0 && errno != EINTR) return give_up(j, "cannot wait", e);
  if (got <= 0) return WEIR_OK;
  if (p[1].revents) WEIR_TRY(tcp_hear(j->g, e));
  for (int32_t i = 0; i < j->n_out; i++)
    if (j->out[i].fd >= 0 && p[2 + i].revents)
      WEIR_TRY(j->out[i].state == CONNECTING ? say_hello(j, &j->out[i], e) : hear_reply(j, &j->out[i], e));
  for (int32_t i = 0; i < GUESTS; i++)
    if (j->guest[i].fd >= 0 && p[2 + j->n_out + i].revents) WEIR_TRY(hear_guest(j, &j->guest[i], e));
  if (p[0].revents) WEIR_TRY(let_in(j, e)); /* last: it fills places that were looked at above */
out:
  return st;
}

weir_status tcp_join(tcp_group *g, const tcp_door *door, const tcp_place *place, weir_err *e) {
  weir_status st = WEIR_OK;
  joining *j = NULL;
  bool missing[WEIR_MAX_RANKS];
  g->deadline_ns = weir_monotonic_ns() + g->bound_ns;
  WEIR_TRY(WEIR_NEW(1, &j, e));
  j->g = g;
  j->door = door;
  j->place = place;
  for (int32_t i = 0; i < GUESTS; i++) j->guest[i].fd = -1;
  for (int32_t r = 0; r < g->n_ranks; r++) {
    snprintf(g->peer[r].address, sizeof g->peer[r].address, "%s", place[r].address);
    g->peer[r].port = place[r].port;
  }
  for (int32_t r = g->rank + 1; r < g->n_ranks; r++)
    for (int w = 0; w < N_WHICH; w++) WEIR_TRY(start_call(j, r, (which)w, e));
  while (find_missing(j, missing) > 0) {
    if (weir_monotonic_ns() >= g->deadline_ns) WEIR_TRY(tcp_late(g, missing, e));
    WEIR_TRY(go_on(j, e));
  }
  /* All are there for this rank. When all say so, they are for all. */
  const tcp_flow nothing[WEIR_MAX_RANKS] = {{0}};
  WEIR_TRY(tcp_begin(g, TCP_JOIN, (size_t)g->n_ranks, 0, e));
  WEIR_TRY(tcp_exchange(g, nothing, e));
out:
  for (int32_t i = 0; j && i < j->n_out; i++)
    if (j->out[i].fd >= 0) close(j->out[i].fd);
  for (int32_t i = 0; j && i < GUESTS; i++) hang_up(&j->guest[i]);
  free(j);
  return st;
}
