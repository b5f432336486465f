/* SPDX-License-Identifier: Apache-2.0 */
/* The service's traffic beside its calibration; of the loop thread. */
#ifndef WEIR_SERVE_SERVICE_DRIFT_H
#define WEIR_SERVE_SERVICE_DRIFT_H
#include "base/err.h"
#include "serve/engine.h"

struct weir_service;
struct weir_reply;

typedef struct weir_service_drift weir_service_drift;

/* Makes the metrics. Without a profile in the configuration nothing is compared; with one model *out is NULL.
 */
weir_status weir_service_drift_create(const struct weir_service *, weir_service_drift **out, weir_err *e);
void weir_service_drift_destroy(weir_service_drift *); /* NULL is fine */
/* A request has come to its end. Counted are those that ran as a request does that asks for nothing, with the
 * server's own mode and threshold, and were not cut short. NULL is fine. */
void weir_service_drift_ended(weir_service_drift *, const struct weir_reply *, weir_end end);

#endif
