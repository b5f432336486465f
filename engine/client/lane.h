/* SPDX-License-Identifier: Apache-2.0 */
/* A lane: one socket of the request side, and the calls that wait for it. One message is under way at a time;
 * it is sent again when its connection breaks and when no reply comes, and a reply to anything else is
 * dropped, or told apart.
 *
 * The socket is a raw one and the lane does what nanomsg's own REQ does, because that one (1.1.5, and 1.2.1)
 * must not be met with a reply it drops: nn_req_in frees a late or doubled reply of 32 bytes or more in place
 * and nn_req_crecv or nn_close free it once more, which aborts the process. Everything on the client's
 * thread. */
#ifndef WEIR_CLIENT_LANE_H
#define WEIR_CLIENT_LANE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct client_call_link {
  struct client_call_link *next;
  void *msg; /* of client_lane_msg, owned; NULL once it was sent */
  size_t n_bytes;
} client_call_link;

typedef struct client_lane {
  int socket; /* -1: none */
  int recv_fd,
      send_fd; /* readable: a message is there; turns readable: a connection is there, or free again */
  int64_t resend_ns;

  void *msg; /* under way, owned; NULL: nothing is */
  size_t n_bytes;
  uint32_t id;     /* of it, on the wire */
  bool sent;       /* and not only waiting for a connection */
  int64_t sent_ns; /* last time */
  uint64_t broken; /* connections that had broken by then */

  client_call_link *first, *last; /* queue */
  client_call_link *out;          /* sent, not answered */
  int32_t n_waiting;
} client_lane;

typedef struct client_lane_cfg {
  const char *url;
  int32_t resend_ms;
  size_t max_reply_bytes;
} client_lane_cfg;

weir_status client_lane_open(client_lane *, const client_lane_cfg *, weir_err *e);
/* Frees the messages that wait, not the calls. */
void client_lane_close(client_lane *);

void client_lane_push(client_lane *, client_call_link *, bool front);
/* Takes it out of the queue; false: it is not in it. */
bool client_lane_remove(client_lane *, client_call_link *);

/* Memory for a message; NULL: none. Given to client_lane_send or freed with free(). */
void *client_lane_msg(size_t n_bytes);
/* Takes msg; sends it now or as soon as there is a connection. What was under way is forgotten. */
void client_lane_send(client_lane *, void *msg, size_t n_bytes, int64_t now_ns);
/* No reply is wanted any more. */
void client_lane_forget(client_lane *);
/* Sends again what has to be. */
void client_lane_step(client_lane *, int64_t now_ns);
/* When that is; INT64_MAX: never, or when send_fd says so. */
int64_t client_lane_due(const client_lane *);

/* The reply to what is under way, to be freed with client_lane_free_reply; NULL: there is none. With `age`,
 * also a reply to something older: how many messages were sent since, 0 to what is under way. */
void *client_lane_recv(client_lane *, size_t *n_bytes, uint32_t *age);
void client_lane_free_reply(void *);

#endif
