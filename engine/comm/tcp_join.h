/* SPDX-License-Identifier: Apache-2.0 */
/* How ranks get connected over TCP: each listens at a door of its own, whose address and secret are its place
 * in the invitation; lower ranks connect to higher ones. Whoever connects says the secret of the door, and is
 * answered with that of its own door: both know the invitation. It keeps out who comes by mistake or scans
 * ports; it is no encryption, and who can read the network can read it. */
#ifndef WEIR_COMM_TCP_JOIN_H
#define WEIR_COMM_TCP_JOIN_H
#include "comm/tcp_group.h"

typedef struct tcp_place {
  char address[TCP_ADDRESS_BYTES]; /* in numbers */
  uint16_t port;
  uint8_t secret[TCP_SECRET_BYTES];
} tcp_place;

enum { TCP_PLACE_BYTES = TCP_ADDRESS_BYTES + 6 + 1 + 2 * TCP_SECRET_BYTES }; /* as text, with the NUL */
void tcp_place_put(const tcp_place *, char out[TCP_PLACE_BYTES]);
/* Reads one from text; *end is behind it. */
weir_status tcp_place_parse(const char *text, const char **end, tcp_place *out, weir_err *e);

typedef struct tcp_door {
  int fd; /* -1: closed */
  tcp_place place;
} tcp_door;

/* Listens at the host's address alone, at a port that is free. */
weir_status tcp_door_open(tcp_door *, const char *host, weir_err *e);
void tcp_door_close(tcp_door *);

/* Connects a group that was initialised to all places but its own. On failure it is still to be ended with
 * tcp_group_fini. */
weir_status tcp_join(tcp_group *, const tcp_door *, const tcp_place *place, weir_err *e);

#endif
