/* SPDX-License-Identifier: Apache-2.0 */
/* The one file of the client that talks to nanomsg. Owns sockets and messages; the client's thread. */
#include "client/lane.h"

#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <nanomsg/tcp.h>
#include <string.h>

weir_status client_lane_open(client_lane *l, const client_lane_cfg *cfg, weir_err *e) {
  *l = (client_lane){.socket = -1, .fd = -1};
  const int s = nn_socket(AF_SP, NN_REQ);
  if (s < 0) return weir_fail(e, WEIR_EIO, "nanomsg socket: %s", nn_strerror(nn_errno()));
  l->socket = s;
  const int resend = cfg->resend_ms, on = 1, off = 0;
  const int max = cfg->max_reply_bytes > INT32_MAX ? INT32_MAX : (int)cfg->max_reply_bytes;
  size_t n = sizeof l->fd;
  if (nn_setsockopt(s, NN_REQ, NN_REQ_RESEND_IVL, &resend, sizeof resend) != 0 ||
      nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, &max, sizeof max) != 0 ||
      nn_setsockopt(s, NN_TCP, NN_TCP_NODELAY, &on, sizeof on) != 0 ||
      nn_getsockopt(s, NN_SOL_SOCKET, NN_RCVFD, &l->fd, &n) != 0) {
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
    client_lane_free_msg(q->msg);
    q->msg = NULL;
  }
  if (l->socket >= 0) nn_close(l->socket);
  l->socket = l->fd = -1;
}

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

void *client_lane_msg(size_t n_bytes) { return nn_allocmsg(n_bytes, 0); }

void client_lane_free_msg(void *msg) {
  if (msg) nn_freemsg(msg);
}

weir_status client_lane_send(client_lane *l, void *msg, weir_err *e) {
  if (nn_send(l->socket, &msg, NN_MSG, NN_DONTWAIT) >= 0) return WEIR_OK;
  weir_fail(e, WEIR_EIO, "nanomsg: %s", nn_strerror(nn_errno()));
  nn_freemsg(msg);
  return WEIR_EIO;
}

void *client_lane_recv(client_lane *l, size_t *n_bytes) {
  void *msg = NULL;
  const int n = nn_recv(l->socket, &msg, NN_MSG, NN_DONTWAIT);
  if (n < 0) return NULL;
  *n_bytes = (size_t)n;
  return msg;
}
