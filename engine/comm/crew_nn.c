/* SPDX-License-Identifier: Apache-2.0 */
/* The one file of a crew that talks to nanomsg. Owns sockets and messages; whoever has the crew's lock calls,
 * but for crew_port_recv, which is the thread's. */
#include "comm/crew_nn.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <nanomsg/tcp.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/address.h"
#include "base/secret.h"

enum { ADDRESS_BYTES = 300, SLACK_BYTES = 64 }; /* slack: nanomsg's own header counts too */

/* ---- addresses ---- */

static bool is_ipc(const char *addr) { return !strncmp(addr, "ipc://", 6); }

/* nanomsg listens at addresses and interfaces alone: a name is looked up, IPv4 first. */
static weir_status find_address(const char *addr, char out[ADDRESS_BYTES], weir_err *e) {
  const char *colon = strrchr(addr, ':');
  char host[256];
  if (!colon || colon == addr || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1))
    return weir_fail(e, WEIR_EINVAL, "%.100s: want HOST:PORT or ipc:///PATH", addr);
  const bool bracket = addr[0] == '[' && colon[-1] == ']';
  const size_t n = (size_t)(colon - addr) - (bracket ? 2 : 0);
  if (n == 0 || n >= sizeof host) return weir_fail(e, WEIR_EINVAL, "%.100s: want HOST:PORT", addr);
  memcpy(host, addr + (bracket ? 1 : 0), n);
  host[n] = 0;
  struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *all = NULL;
  snprintf(out, ADDRESS_BYTES, "%s", addr);
  if (!strcmp(host, "*") || getaddrinfo(host, NULL, &hint, &all) != 0) return WEIR_OK;
  const struct addrinfo *at = all;
  while (at && at->ai_family != AF_INET) at = at->ai_next;
  if (!at) at = all;
  char number[128];
  if (getnameinfo(at->ai_addr, at->ai_addrlen, number, sizeof number, NULL, 0, NI_NUMERICHOST) == 0)
    snprintf(out, ADDRESS_BYTES, at->ai_family == AF_INET ? "%s%s" : "[%s]%s", number, colon);
  freeaddrinfo(all);
  return WEIR_OK;
}

static weir_status set_options(int s, const char *addr, weir_err *e) {
  const int on = 1, off = 0, most = CREW_FRAME_BYTES + SLACK_BYTES, again = 50;
  if (nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, &most, sizeof most) != 0 ||
      nn_setsockopt(s, NN_SOL_SOCKET, NN_RECONNECT_IVL, &again, sizeof again) != 0 ||
      nn_setsockopt(s, NN_TCP, NN_TCP_NODELAY, &on, sizeof on) != 0 ||
      (addr[0] == '[' && nn_setsockopt(s, NN_SOL_SOCKET, NN_IPV4ONLY, &off, sizeof off) != 0))
    return weir_fail(e, WEIR_EIO, "socket options: %s", nn_strerror(nn_errno()));
  return WEIR_OK;
}

/* ---- the leader's port ---- */

static weir_status listen_at(crew_port *p, const char *addr, bool has_token, weir_err *e) {
  char at[ADDRESS_BYTES] = "", url[ADDRESS_BYTES + 8];
  size_t n = sizeof p->fd;
  weir_status st = WEIR_OK;
  if (!is_ipc(addr)) st = find_address(addr, at, e);
  if (st != WEIR_OK) return st;
  if (!is_ipc(addr) && !has_token && !weir_address_is_loopback(at))
    return weir_fail(
        e, WEIR_EINVAL,
        "%.100s can be reached from other machines: a token is needed, or an address of loopback", addr);
  st = set_options(p->socket, at, e);
  if (st != WEIR_OK) return st;
  snprintf(url, sizeof url, is_ipc(addr) ? "%s%s" : "tcp://%s%s", is_ipc(addr) ? addr : at, "");
  if (nn_getsockopt(p->socket, NN_SOL_SOCKET, NN_RCVFD, &p->fd, &n) != 0)
    return weir_fail(e, WEIR_EIO, "socket options: %s", nn_strerror(nn_errno()));
  if (nn_bind(p->socket, url) < 0)
    return weir_fail(e, WEIR_EIO, "cannot listen at %.100s: %s%s", addr, nn_strerror(nn_errno()),
                     nn_errno() == ENODEV ? " (want a name or an address of this machine, or *)" : "");
  if (is_ipc(addr) && !has_token && chmod(addr + 6, 0600) != 0)
    return weir_fail(e, WEIR_EIO, "%.100s: %s", addr + 6, strerror(errno));
  return WEIR_OK;
}

weir_status crew_port_open(crew_port *p, const char *addr, bool has_token, weir_err *e) {
  *p = (crew_port){.fd = -1, .socket = nn_socket(AF_SP_RAW, NN_REP)};
  if (p->socket < 0) return weir_fail(e, WEIR_EIO, "socket: %s", nn_strerror(nn_errno()));
  const weir_status st = listen_at(p, addr, has_token, e);
  if (st != WEIR_OK) crew_port_close(p);
  return st;
}

void crew_port_close(crew_port *p) {
  if (p->socket >= 0) nn_close(p->socket);
  p->socket = p->fd = -1;
}

bool crew_port_recv(crew_port *p, crew_mail *out) {
  *out = (crew_mail){0};
  struct nn_iovec iov = {.iov_base = &out->body, .iov_len = NN_MSG};
  struct nn_msghdr h = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &out->from, .msg_controllen = NN_MSG};
  const int n = nn_recvmsg(p->socket, &h, NN_DONTWAIT);
  if (n < 0) return false;
  out->bytes = (size_t)n;
  return true;
}

void crew_mail_fini(crew_mail *m) {
  if (m->body) nn_freemsg(m->body);
  crew_port_drop(m->from);
  *m = (crew_mail){0};
}

void crew_port_drop(void *from) {
  if (from) nn_freemsg(from);
}

static uint64_t statistic(const crew_port *p, int which) {
  const uint64_t n = nn_get_statistic(p->socket, which);
  return n == UINT64_MAX ? 0 : n;
}

uint64_t crew_port_broken(const crew_port *p) { return statistic(p, NN_STAT_BROKEN_CONNECTIONS); }

uint64_t crew_port_connected(const crew_port *p) { return statistic(p, NN_STAT_CURRENT_CONNECTIONS); }

static size_t data_bytes(const crew_frame *f, const crew_out *out) {
  if (!out) return f->bytes;
  const uint64_t n = out->end - out->taken;
  return n < CREW_PART_BYTES ? (size_t)n : CREW_PART_BYTES;
}

static void put_frame(uint8_t *to, const crew_frame *f, const crew_out *out, size_t n) {
  crew_frame_head(f, to);
  if (out)
    crew_out_copy(out, to + CREW_HEAD_BYTES, n);
  else if (n)
    memcpy(to + CREW_HEAD_BYTES, f->data, n);
}

void crew_port_answer(crew_port *p, void *from, const crew_frame *f, const crew_out *out) {
  const size_t n = data_bytes(f, out);
  void *body = nn_allocmsg(CREW_HEAD_BYTES + n, 0);
  if (body) {
    put_frame(body, f, out, n);
    struct nn_iovec iov = {.iov_base = &body, .iov_len = NN_MSG};
    struct nn_msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &from, .msg_controllen = NN_MSG};
    if (nn_sendmsg(p->socket, &h, NN_DONTWAIT) >= 0) return; /* nanomsg has them now */
    nn_freemsg(body);
  }
  crew_port_drop(from); /* as if lost on the way: it is asked for again */
}

/* ---- a worker's lane ---- */

/* The lowest bit of REQ's header: here the stack of ids ends. */
#define ID_BIT UINT32_C(0x80000000)
enum { ID_BYTES = 4 };

weir_status crew_lane_open(crew_lane *l, const char *addr, weir_err *e) {
  char url[ADDRESS_BYTES + 8];
  size_t n = sizeof(int);
  *l = (crew_lane){.recv_fd = -1, .send_fd = -1, .socket = nn_socket(AF_SP_RAW, NN_REQ)};
  if (l->socket < 0) return weir_fail(e, WEIR_EIO, "socket: %s", nn_strerror(nn_errno()));
  snprintf(url, sizeof url, is_ipc(addr) ? "%s" : "tcp://%s", addr);
  weir_status st = weir_secret_draw(&l->id, sizeof l->id, e);
  if (st == WEIR_OK) st = set_options(l->socket, addr, e);
  if (st == WEIR_OK && (nn_getsockopt(l->socket, NN_SOL_SOCKET, NN_RCVFD, &l->recv_fd, &n) != 0 ||
                        nn_getsockopt(l->socket, NN_SOL_SOCKET, NN_SNDFD, &l->send_fd, &n) != 0))
    st = weir_fail(e, WEIR_EIO, "socket options: %s", nn_strerror(nn_errno()));
  if (st == WEIR_OK && nn_connect(l->socket, url) < 0)
    st = weir_fail(e, WEIR_EINVAL, "%.100s: %s (want HOST:PORT or ipc:///PATH)", addr,
                   nn_strerror(nn_errno()));
  if (st != WEIR_OK) crew_lane_close(l);
  return st;
}

void crew_lane_close(crew_lane *l) {
  crew_lane_forget(l);
  if (l->socket >= 0) nn_close(l->socket);
  l->socket = l->recv_fd = l->send_fd = -1;
}

/* The header of SP stands in a control message: its length, then the id. */
typedef union control {
  struct nn_cmsghdr head;
  uint8_t bytes[NN_CMSG_SPACE(sizeof(size_t) + ID_BYTES)];
} control;

static void try_to_send(crew_lane *l, int64_t now_ns) {
  l->sent = false;
  struct pollfd writable = {.fd = l->send_fd, .events = POLLIN};
  if (poll(&writable, 1, 0) != 1) return; /* nn_sendmsg would copy the message first */
  l->broken = nn_get_statistic(l->socket, NN_STAT_BROKEN_CONNECTIONS);
  control c;
  memset(&c, 0, sizeof c);
  c.head.cmsg_len = sizeof c.bytes;
  c.head.cmsg_level = PROTO_SP;
  c.head.cmsg_type = SP_HDR;
  uint8_t *at = NN_CMSG_DATA(&c.head);
  const size_t n = ID_BYTES;
  memcpy(at, &n, sizeof n);
  for (int i = 0; i < ID_BYTES; i++) at[sizeof n + (size_t)i] = (uint8_t)(l->id >> (24 - 8 * i));
  struct nn_iovec iov = {.iov_base = l->msg, .iov_len = l->bytes};
  struct nn_msghdr h = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.bytes};
  if (nn_sendmsg(l->socket, &h, NN_DONTWAIT) < 0) return;
  l->sent = true;
  l->sent_ns = now_ns;
}

weir_status crew_lane_send(crew_lane *l, const crew_frame *f, const crew_out *out, int64_t now_ns) {
  const size_t n = data_bytes(f, out);
  crew_lane_forget(l);
  l->msg = malloc(CREW_HEAD_BYTES + n);
  if (!l->msg) return WEIR_ENOMEM;
  put_frame(l->msg, f, out, n);
  l->bytes = CREW_HEAD_BYTES + n;
  l->id = (l->id + 1) | ID_BIT;
  try_to_send(l, now_ns);
  return WEIR_OK;
}

void crew_lane_forget(crew_lane *l) {
  free(l->msg);
  l->msg = NULL;
}

void crew_lane_step(crew_lane *l, int64_t now_ns, int64_t resend_ns) {
  if (!l->msg) return;
  if (!l->sent || now_ns >= l->sent_ns + resend_ns ||
      nn_get_statistic(l->socket, NN_STAT_BROKEN_CONNECTIONS) != l->broken)
    try_to_send(l, now_ns);
}

void *crew_lane_recv(crew_lane *l, size_t *bytes) {
  for (;;) {
    void *body = NULL;
    control c;
    memset(&c, 0, sizeof c);
    struct nn_iovec iov = {.iov_base = &body, .iov_len = NN_MSG};
    struct nn_msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.bytes};
    const int n = nn_recvmsg(l->socket, &h, NN_DONTWAIT);
    if (n < 0) return NULL;
    /* A longer header does not fit c and leaves it as it is: zero, which is no id. */
    const uint8_t *at = NN_CMSG_DATA(&c.head);
    size_t n_id;
    memcpy(&n_id, at, sizeof n_id);
    at += sizeof n_id;
    const uint32_t id = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    if (l->msg && n_id == ID_BYTES && id == l->id) {
      crew_lane_forget(l);
      *bytes = (size_t)n;
      return body;
    }
    nn_freemsg(body);
  }
}

void crew_lane_free(void *answer) {
  if (answer) nn_freemsg(answer);
}
