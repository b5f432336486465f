/* SPDX-License-Identifier: Apache-2.0 */
/* Where a server is reached: addresses of HTTP, URLs of RPC, the folder of its sockets. */
#ifndef WEIR_PROGRAMS_SERVE_ADDRESS_H
#define WEIR_PROGRAMS_SERVE_ADDRESS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

enum { WEIR_HOST_BYTES = 256, WEIR_URL_BYTES = 128 };

typedef struct weir_address {
  char host[WEIR_HOST_BYTES]; /* as it was given, without the brackets of IPv6 */
  uint16_t port;
  bool loopback; /* reached from this machine alone */
  struct sockaddr_storage sock;
  socklen_t sock_len;
} weir_address;

/* "127.0.0.1:8000", "[::1]:0", "localhost:8000", ":8000" (every address). Names are looked up. */
weir_status weir_address_parse(const char *text, weir_address *out, weir_err *e);
/* "127.0.0.1:8000"; IPv6 in brackets. */
void weir_address_print(const weir_address *, char *buf, size_t bytes);
/* Whether somebody could listen there now, by doing so for a moment; a port of 0 becomes one that is free.
 * WEIR_EIO says why not. */
weir_status weir_address_probe(weir_address *, weir_err *e);
/* Where a client of this machine reaches it: the address, or loopback for "every address". */
weir_address weir_address_near(const weir_address *);

/* Checks the form of a URL to listen on for RPC: ipc:///PATH, or tcp://ADDRESS:PORT with a port of its own.
 * (Who may do without a token is net/rpc.h's to say.) WEIR_EINVAL. */
weir_status weir_rpc_url_form(const char *url, weir_err *e);

/* Makes DIR/weir (no DIR: /tmp/weir-UID) for this user alone, and in `url` the URL of a socket `name` there.
 * WEIR_EIO when something of that name is there that is another user's or open to others. */
weir_status weir_rpc_default_url(const char *dir, const char *name, char *url, size_t bytes, weir_err *e);

#endif
