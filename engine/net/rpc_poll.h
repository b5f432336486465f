/* SPDX-License-Identifier: Apache-2.0 */
/* What a Poll is answered with. Private to engine/net/rpc_*.c; the core's thread. */
#ifndef WEIR_NET_RPC_POLL_H
#define WEIR_NET_RPC_POLL_H
#include "base/buf.h"
#include "model/tokenizer.h"
#include "net/rpc_session.h"
#include "proto/weir.pb-c.h"

typedef struct rpc_poll_env {
  const weir_tokenizer *tokenizer; /* for the texts of likeliest tokens */
  int32_t n_tiers;
  int64_t now_ns;
} rpc_poll_env;

/* Whether a cursor has something behind it. */
bool rpc_poll_has_news(const rpc_session *);
/* Appends the frame: everything new behind the session's cursors, about max_bytes of it, and that the ids in
 * unknown[n_unknown] are unknown. Notes what was told. */
weir_status rpc_poll_put(rpc_session *, const rpc_poll_env *, ProtobufCBinaryData *unknown, size_t n_unknown,
                         weir_buf *out, weir_err *e);

#endif
