/* SPDX-License-Identifier: Apache-2.0 */
/* The answer of Stats. Private to engine/net/rpc_*.c. */
#ifndef WEIR_NET_RPC_STATS_H
#define WEIR_NET_RPC_STATS_H
#include "base/buf.h"
#include "base/metrics.h"
#include "proto/weir.pb-c.h"
#include "serve/service.h"

/* The reason is borrowed. */

void rpc_health_fill(Weir__V1__HealthReply *out, const weir_service_health *h);
/* Appends the frame: health and every series of the registry. */
weir_status rpc_stats_put(weir_metrics *, const weir_service_health *, const char *model, weir_buf *out,
                          weir_err *e);

#endif
