/* SPDX-License-Identifier: Apache-2.0 */
/* The one file of the client that talks to nanomsg. Owns sockets and messages; the client's thread. */
#include "client/lane.h"

#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <nanomsg/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* The lowest bit of REQ's header: here the stack of ids ends. */
#define ID_BIT UINT32_C(0x80000000)
enum { ID_BYTES = 4 };

weir_status client_lane_open(client_lane *l, const client_lane_cfg *cfg, weir_err *e) {
  *l = (client_lane){.socket = -1, .recv_fd = -1, .send_fd = -1};
  const int s = nn_socket(AF_SP_RAW, NN_REQ);
  if (s < 0) return weir_fail(e, WEIR_EIO, "nanomsg socket: %s", nn_strerror(nn_errno()));
  l->socket = s;
  l->resend_ns = cfg->resend_ms * INT64_C(1000000);
  const int on = 1, off = 0;
  const int max = cfg->max_reply_bytes > INT32_MAX ? INT32_MAX : (int)cfg->max_reply_bytes;
  size_t n = sizeof(int);
  if (nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, &max, sizeof max) != 0 ||
      nn_setsockopt(s, NN_TCP, NN_TCP_NODELAY, &on, sizeof on) != 0 ||
      nn_getsockopt(s, NN_SOL_SOCKET, NN_RCVFD, &l->recv_fd, &n) != 0 ||
      nn_getsockopt(s, NN_SOL_SOCKET, NN_SNDFD, &l->send_fd, &n) != 0 ||
      getrandom(&l->id, sizeof l->id, 0) != (ssize_t)sizeof l->id) {
    weir_fail(e, WEIR_EIO, "nanomsg socket options: %s", nn_strerror(nn_errno()));
    client_lane_close(l);
    return WEIR_EIO;
  }
  if (strchr(cfg->url, '[')) nn_setsockopt(s, NN_SOL_SOCKET, NN_IPV4ONLY, &off, sizeof off);
  if (nn_connect(s, cfg->url) < 0) {
    weir_fail(e, WEIR_EINVAL, "%s: %s", cfg->url, nn_strerror(nn_errno()));
    client_lane_close(l);
    return WEIR_EINVAL;
  }
  return WEIR_OK;
}

void client_lane_close(client_lane *l) {
  for (client_call_link *q = l->first; q; q = q->next) {
    free(q->msg);
    q->msg = NULL;
  }
  client_lane_forget(l);
  if (l->socket >= 0) nn_close(l->socket);
  l->socket = l->recv_fd = l->send_fd = -1;
}

/* ---- the queue ---- */

void client_lane_push(client_lane *l, client_call_link *q, bool front) {
  if (!l->first) {
    q->next = NULL;
    l->first = l->last = q;
  } else if (front) {
    q->next = l->first;
    l->first = q;
  } else {
    q->next = NULL;
    l->last->next = q;
    l->last = q;
  }
  l->n_waiting++;
}

bool client_lane_remove(client_lane *l, client_call_link *q) {
  client_call_link *before = NULL;
  for (client_call_link *at = l->first; at; before = at, at = at->next) {
    if (at != q) continue;
    if (before)
      before->next = q->next;
    else
      l->first = q->next;
    if (l->last == q) l->last = before;
    q->next = NULL;
    l->n_waiting--;
    return true;
  }
  return false;
}

/* ---- the message under way ---- */

void *client_lane_msg(size_t n_bytes) { return malloc(n_bytes ? n_bytes : 1); }

/* The header of SP stands in a control message: its length, then the id. */
typedef union control {
  struct nn_cmsghdr head;
  uint8_t bytes[NN_CMSG_SPACE(sizeof(size_t) + ID_BYTES)];
} control;

static void try_to_send(client_lane *l, int64_t now_ns) {
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
  struct nn_iovec iov = {.iov_base = l->msg, .iov_len = l->n_bytes};
  struct nn_msghdr hdr = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.bytes};
  if (nn_sendmsg(l->socket, &hdr, NN_DONTWAIT) < 0) return;
  l->sent = true;
  l->sent_ns = now_ns;
}

void client_lane_send(client_lane *l, void *msg, size_t n_bytes, int64_t now_ns) {
  client_lane_forget(l);
  l->msg = msg;
  l->n_bytes = n_bytes;
  l->id = (l->id + 1) | ID_BIT;
  try_to_send(l, now_ns);
}

void client_lane_forget(client_lane *l) {
  free(l->msg);
  l->msg = NULL;
}

void client_lane_step(client_lane *l, int64_t now_ns) {
  if (!l->msg) return;
  if (!l->sent || now_ns >= l->sent_ns + l->resend_ns ||
      nn_get_statistic(l->socket, NN_STAT_BROKEN_CONNECTIONS) != l->broken)
    try_to_send(l, now_ns);
}

int64_t client_lane_due(const client_lane *l) {
  return l->msg && l->sent ? l->sent_ns + l->resend_ns : INT64_MAX;
}

/* Replies to older messages than that are nobody's. */
enum { MAX_AGE = 1 << 16 };

void *client_lane_recv(client_lane *l, size_t *n_bytes, uint32_t *age) {
  for (;;) {
    void *body = NULL;
    control c;
    memset(&c, 0, sizeof c);
    struct nn_iovec iov = {.iov_base = &body, .iov_len = NN_MSG};
    struct nn_msghdr hdr = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.bytes};
    const int n = nn_recvmsg(l->socket, &hdr, NN_DONTWAIT);
    if (n < 0) return NULL;
    /* A longer header does not fit c and leaves it as it is: zero, which is no id. */
    const uint8_t *at = NN_CMSG_DATA(&c.head);
    size_t n_id;
    memcpy(&n_id, at, sizeof n_id);
    at += sizeof n_id;
    const uint32_t id = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    if (l->msg && n_id == ID_BYTES && id == l->id) {
      client_lane_forget(l);
      *n_bytes = (size_t)n;
      if (age) *age = 0;
      return body;
    }
    const uint32_t sent_since = (l->id - id) & ~ID_BIT;
    if (age && l->msg && n_id == ID_BYTES && id & ID_BIT && sent_since > 0 && sent_since < MAX_AGE) {
      *n_bytes = (size_t)n;
      *age = sent_since;
      return body;
    }
    nn_freemsg(body);
  }
}

void client_lane_free_reply(void *reply) {
  if (reply) nn_freemsg(reply);
}
