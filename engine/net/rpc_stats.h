/* SPDX-License-Identifier: Apache-2.0 */
/* The answer of Stats. Private to engine/net/rpc_*.c. */
#ifndef WEIR_NET_RPC_STATS_H
#define WEIR_NET_RPC_STATS_H
#include "base/buf.h"
#include "base/metrics.h"
#include "proto/weir.pb-c.h"
#include "serve/service.h"

typedef struct rpc_health {
  Weir__V1__HealthReply reply;
  Weir__V1__TierHealth tier[WEIR_MAX_TIERS], *at[WEIR_MAX_TIERS];
} rpc_health;
/* Texts are borrowed. */
void rpc_health_fill(rpc_health *out, const weir_service_health *h);
/* Appends the frame: health and every series of the registry. */
weir_status rpc_stats_put(weir_metrics *, const weir_service_health *, const char *model, weir_buf *out,
                          weir_err *e);

#endif
