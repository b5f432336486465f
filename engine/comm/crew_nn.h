/* SPDX-License-Identifier: Apache-2.0 */
/* A crew's sockets. A leader's port is a raw REP socket: a request is kept as the mail it came with until it
 * is answered. A worker's lane is a raw REQ socket with one request under way, sent again when its connection
 * breaks and when no answer comes: nanomsg's own REQ must not be met with a late or doubled answer
 * (client/lane.h has the why). Nothing here blocks. */
#ifndef WEIR_COMM_CREW_NN_H
#define WEIR_COMM_CREW_NN_H
#include "comm/crew_wire.h"

typedef struct crew_port {
  int socket, fd; /* -1; fd: readable when there is mail */
} crew_port;

typedef struct crew_mail {
  void *body; /* owned until crew_mail_fini */
  size_t bytes;
  void *from; /* owned until it is answered or dropped */
} crew_mail;

/* Listens at addr, as in weir_crew_opts. */
weir_status crew_port_open(crew_port *, const char *addr, bool has_token, weir_err *e);
void crew_port_close(crew_port *);
bool crew_port_recv(crew_port *, crew_mail *out);
void crew_mail_fini(crew_mail *);
/* Takes `from`. The frame's data, or when `out` is not NULL the next part of that. Any thread. */
void crew_port_answer(crew_port *, void *takes_from, const crew_frame *, const crew_out *out);
void crew_port_drop(void *takes_from);
/* Connections that have broken so far, those of strangers that never greeted as crews do among them; and
 * those that have greeted and are there. Whose, neither says. */
uint64_t crew_port_broken(const crew_port *);
uint64_t crew_port_connected(const crew_port *);

typedef struct crew_lane {
  int socket, recv_fd, send_fd; /* send_fd turns readable when a connection is there */
  void *msg;                    /* under way, owned; NULL: nothing is */
  size_t bytes;
  uint32_t id;
  bool sent; /* and not only waiting for a connection */
  int64_t sent_ns;
  uint64_t broken; /* connections that had broken by then */
} crew_lane;

weir_status crew_lane_open(crew_lane *, const char *addr, weir_err *e);
void crew_lane_close(crew_lane *);
/* What was under way is forgotten. Data as in crew_port_answer. WEIR_ENOMEM: nothing is under way. */
weir_status crew_lane_send(crew_lane *, const crew_frame *, const crew_out *out, int64_t now_ns);
void crew_lane_forget(crew_lane *);
/* Sends again what has to be. */
void crew_lane_step(crew_lane *, int64_t now_ns, int64_t resend_ns);
/* The answer to what is under way, owned by the caller (crew_lane_free); NULL: there is none. */
void *crew_lane_recv(crew_lane *, size_t *bytes);
void crew_lane_free(void *answer);

#endif
