/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the RPC server without sockets; private to engine/net/rpc_core.c and rpc_ask.c. */
#ifndef WEIR_NET_RPC_CORE_IN_H
#define WEIR_NET_RPC_CORE_IN_H
#include "base/buf.h"
#include "net/rpc_core.h"
#include "net/rpc_session.h"
#include "proto/frame.h"

enum { RPC_MAX_CALLS = 256 }; /* parked; the service has a bound of its own */

typedef struct rpc_pending {
  uint64_t ticket;
  weir_frame_kind kind;
  weir_call *call;
} rpc_pending;

struct weir_rpc_core {
  weir_rpc_core_cfg cfg;
  char *token, *version;
  weir_rpc_tier tier[WEIR_MAX_TIERS]; /* strings owned */
  rpc_sessions *sessions;
  rpc_pending call[RPC_MAX_CALLS];
  int32_t n_calls, n_parked;
  int64_t next_sweep_ns, turned_ns;
  weir_buf out;    /* the answer that is being made */
  uint64_t ticket; /* of the message that is being looked at */
  bool answered;   /* it has its answer, or is parked */
  _Atomic int32_t n_sessions;
  struct {
    weir_metric *messages[WEIR_FRAME_LAST + 1], *malformed, *errors, *sessions, *parked, *kept, *gone,
        *duplicates;
  } metric;
};

/* rpc_core.c: answers. What is in c->out, a message, an Error; the latter two to the message that is looked
 * at or to another ticket. */
void rpc_answer(weir_rpc_core *, uint64_t ticket, bool superseded);
void rpc_answer_bare(weir_rpc_core *, uint64_t ticket);
void rpc_answer_message(weir_rpc_core *, uint64_t ticket, weir_frame_kind, const ProtobufCMessage *);
void rpc_answer_error(weir_rpc_core *, uint64_t ticket, const weir_service_error *);
void rpc_answer_fail(weir_rpc_core *, int32_t code, const char *param, const char *text);
/* Brings the gauges up to now. */
void rpc_refresh_metrics(weir_rpc_core *);
/* *out: free() it. */
weir_status rpc_copy_chat(Weir__V1__ChatMessage *const *from, size_t n, weir_service_message **out,
                          weir_err *);

/* rpc_ask.c: what belongs to no session. */
void rpc_on_health(weir_rpc_core *);
void rpc_on_stats(weir_rpc_core *);
void rpc_on_models(weir_rpc_core *);
void rpc_on_tokenize(weir_rpc_core *, const Weir__V1__TokenizeRequest *);
void rpc_on_detokenize(weir_rpc_core *, const Weir__V1__DetokenizeRequest *);
/* Those the preparing thread has answered. */
void rpc_answer_calls(weir_rpc_core *);

#endif
