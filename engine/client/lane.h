/* SPDX-License-Identifier: Apache-2.0 */
/* A lane: one REQ socket and the messages that wait for it. One message is under way at a time: a second
 * nn_send would make nanomsg forget the first. Everything on the client's thread. */
#ifndef WEIR_CLIENT_LANE_H
#define WEIR_CLIENT_LANE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct client_call_link {
  struct client_call_link *next;
  void *msg; /* of nn_allocmsg, owned; NULL once it was sent */
  size_t n_bytes;
} client_call_link;

typedef struct client_lane {
  int socket;                     /* -1: none */
  int fd;                         /* NN_RCVFD */
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

/* Memory for a message; NULL: none. Given to client_lane_send or freed with client_lane_free_msg. */
void *client_lane_msg(size_t n_bytes);
void client_lane_free_msg(void *msg);
/* Takes msg in any case; never blocks. What was under way is forgotten. */
weir_status client_lane_send(client_lane *, void *msg, weir_err *e);
/* A reply, to be freed with client_lane_free_msg; NULL: there is none. */
void *client_lane_recv(client_lane *, size_t *n_bytes);

#endif
