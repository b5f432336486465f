/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions as lines of JSON, schema weir.receipt.v2: how a request began, each decision about it, how it
 * ended. Floats have nine digits, which is exact; one that is infinite is a string, one that is no number is
 * null. Each line ends in `chain`: FNV-1a over the lines of the request so far, so that a changed or missing
 * line shows where it is. (That finds accidents and careless hands; it is no signature.) */
#ifndef WEIR_PROGRAMS_DECISION_LOG_H
#define WEIR_PROGRAMS_DECISION_LOG_H
#include <stdint.h>

#include "base/buf.h"
#include "cascade/decision.h"
#include "sched/request.h"

#define WEIR_RECEIPT_SCHEMA  "weir.receipt.v2"
#define WEIR_DECISION_SCHEMA "weir.receipt.v2.decision"
#define WEIR_RECEIPT_END     "weir.receipt.v2.end"

enum { WEIR_CHAIN_TAIL = 28 /* bytes of ,"chain":"0123456789abcdef"} and the line's end */ };

uint64_t weir_chain_begin(void);
uint64_t weir_chain_next(uint64_t chain, const char *line, size_t len); /* len: without the tail */

/* The lines of one request, to come in this order. */
typedef struct weir_decision_log {
  weir_buf text; /* owned */
  uint64_t chain;
  int32_t request;
  int64_t n; /* decisions */
} weir_decision_log;

typedef struct weir_log_request {
  int32_t request, n_prompt, max_new, n_tiers;
  const weir_ask *draw;
  const char *const *tier_name; /* [n_tiers] */
  bool pinned;
} weir_log_request;

void weir_decision_log_fini(weir_decision_log *);
/* `first`: what weir_job.on_decision is told first. */
weir_status weir_decision_log_begin(weir_decision_log *, const weir_log_request *, const weir_decision *first,
                                    weir_err *e);
weir_status weir_decision_log_put(weir_decision_log *, const weir_decision *, weir_err *e);
weir_status weir_decision_log_end(weir_decision_log *, const char *end, const weir_counts *, int32_t n_tiers,
                                  weir_err *e);

#endif
