/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server: the protocol of proto/PROTOCOL.md over nanomsg, in front of a service. One thread of its
 * own does all of it. */
#ifndef WEIR_NET_RPC_H
#define WEIR_NET_RPC_H
#include "base/metrics.h"
#include "net/rpc_core.h"
#include "serve/service.h"

typedef struct weir_rpc weir_rpc;

typedef struct weir_rpc_cfg {
  const char *const *url; /* [n_urls] ipc:///PATH, tcp://ADDRESS:PORT; copied */
  int32_t n_urls;
  weir_rpc_core_cfg core; /* `answer` is set here */
} weir_rpc_cfg;

enum { WEIR_RPC_MAX_URLS = 8 };

/* Whether to listen at a URL without a token is refused: ipc and loopback may do without. WEIR_EINVAL says
 * what is wrong with it. */
weir_status weir_rpc_check_url(const char *url, bool token, weir_err *e);

/* Listens at all of the URLs, or at none. A socket of ipc is this user's alone unless there is a token. */
weir_status weir_rpc_create(const weir_rpc_cfg *, weir_rpc **out, weir_err *e);
/* Cancels all requests there are, because the server goes; their clients are told as long as it still
 * answers. Any thread, once. */
void weir_rpc_cut(weir_rpc *);
/* Answers what is parked, gives replies under way a moment, cancels the requests of all sessions, closes.
 * The service is still there. NULL is fine. */
void weir_rpc_destroy(weir_rpc *);

/* Sessions there are; any thread. */
int32_t weir_rpc_sessions(const weir_rpc *);

#endif
