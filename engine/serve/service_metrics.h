/* SPDX-License-Identifier: Apache-2.0 */
/* What the service counts, all in one place. Names, units and labels are vLLM's (docs.vllm.ai, "Metrics")
 * with the prefix "weir:", so that dashboards carry over; what only a cascade has is added. All series are
 * there from the start. */
#ifndef WEIR_SERVE_SERVICE_METRICS_H
#define WEIR_SERVE_SERVICE_METRICS_H
#include "base/metrics.h"
#include "cascade/cascade_conf.h"
#include "serve/engine.h"

enum { WEIR_SM_TIERS = 2, WEIR_SM_WHYS = WEIR_WHY_ROUTED + 1, WEIR_SM_KV_STATES = 3 };

/* Why a request was not taken. */
typedef enum {
  WEIR_REFUSED_FULL,     /* 429 */
  WEIR_REFUSED_DRAINING, /* 503 */
  WEIR_REFUSED_DEAD,     /* 503 */
  WEIR_REFUSED_INVALID,  /* 400, 404 */
  WEIR_REFUSED_CONTEXT,  /* 400, told as an End */
  WEIR_REFUSED_EDGE,     /* 429; this and the next: + weir_edge_full, what is full at the edge */
  WEIR_REFUSED_EDGE_LAST = WEIR_REFUSED_EDGE + 3,
  WEIR_N_REFUSED
} weir_refused;

/* Why one that was taken ended before its time. */
typedef enum {
  WEIR_CANCELLED_CLIENT,
  WEIR_CANCELLED_GONE,
  WEIR_CANCELLED_SHUTDOWN,
  WEIR_CANCELLED_DEADLINE,
  WEIR_N_CANCELLED
} weir_cancelled;

/* vLLM's finished_reason. */
typedef enum {
  WEIR_FINISHED_STOP,
  WEIR_FINISHED_LENGTH,
  WEIR_FINISHED_ABORT,
  WEIR_FINISHED_ERROR,
  WEIR_N_FINISHED
} weir_finished;

typedef struct weir_service_metrics {
  /* vLLM's */
  weir_metric *running, *waiting, *prompt_tokens, *generation_tokens;
  weir_metric *kv_usage[WEIR_SM_TIERS], *prefix_queries[WEIR_SM_TIERS], *prefix_hits[WEIR_SM_TIERS];
  weir_metric *preemptions, *finished[WEIR_N_FINISHED];
  weir_metric *ttft, *itl, *tpot, *e2e, *queue_time, *prefill_time, *decode_time, *inference_time;
  weir_metric *req_prompt, *req_generation, *req_max_tokens, *iteration_tokens;
  /* weir's own */
  weir_metric *tokens[WEIR_SM_TIERS];      /* committed, by who wrote them */
  weir_metric *large_tokens[WEIR_SM_WHYS]; /* the large tier's, by why it wrote them */
  weir_metric *rows[WEIR_SM_TIERS][4];     /* fed: decode, prompt, catchup, judged */
  weir_metric *steps[WEIR_SM_TIERS], *busy[WEIR_SM_TIERS], *overhead;
  weir_metric *kv_pages[WEIR_SM_TIERS][WEIR_SM_KV_STATES]; /* used, cached, total */
  weir_metric *tier_waiting[WEIR_SM_TIERS], *tier_up[WEIR_SM_TIERS];
  weir_metric *tier_deaths[WEIR_SM_TIERS], *tier_recoveries[WEIR_SM_TIERS], *tier_down[WEIR_SM_TIERS];
  weir_metric *comm_seconds[WEIR_SM_TIERS], *comm_bytes[WEIR_SM_TIERS];
  weir_metric *wanted_large; /* tokens of the small tier where the large one was asked for and not there */
  weir_metric *entropy, *large_wait, *large_batch, *large_rows, *drafts_refused;
  weir_metric *goodput, *large_only_goodput, *threshold;
  weir_metric *budget_decisions, *budget_deferrals, *budget_blocked, *budget_tenants, *load_price;
  weir_metric *pinned, *pinned_large_rows, *pinned_refused, *given_up, *forced;
  weir_metric *flops[WEIR_SM_TIERS], *weight_bytes[WEIR_SM_TIERS], *kv_bytes[WEIR_SM_TIERS],
      *taken_back[WEIR_SM_TIERS]; /* of requests that have ended */
  weir_metric *large_only_flops, *large_only_weight_bytes;
  weir_metric *routed[WEIR_N_ROUTED], *route_rows, *route_unsure, *route_share;
  weir_metric *mode_tokens[WEIR_N_MODES], *mode_seconds[WEIR_N_MODES];
  weir_metric *refused[WEIR_N_REFUSED], *cancelled[WEIR_N_CANCELLED], *reply_bytes;
  weir_metric *auto_mode[WEIR_N_QUALITIES][WEIR_N_AUTO_MODES]; /* 1: it is in force for that floor */
  weir_metric *auto_switches, *auto_probes, *auto_tokens[WEIR_N_AUTO_MODES];
  weir_metric *auto_predicted[WEIR_N_AUTO_MODES], *auto_measured[WEIR_N_AUTO_MODES];
} weir_service_metrics;

/* n_ctx: the largest prompt there can be, for the buckets of token counts. */
weir_status weir_service_metrics_init(weir_service_metrics *, weir_metrics *, const char *model,
                                      int32_t n_tiers, int32_t n_ctx, weir_err *e);
/* Levels and counters that the engine keeps itself. */
void weir_service_metrics_engine(const weir_service_metrics *, int32_t n_tiers, const weir_engine_stats *);
/* The time that tiers have been dead, up to now: it grows without a turn of the engine. */
void weir_service_metrics_down(const weir_service_metrics *, int32_t n_tiers, const weir_engine_stats *,
                               int64_t now_ns);
/* After a step of a tier. */
void weir_service_metrics_step(const weir_service_metrics *, int32_t tier, const weir_step_note *);
/* One token of a client; gap_ns: since the one before it, < 0: it is the first. */
void weir_service_metrics_token(const weir_service_metrics *, const weir_token_receipt *, int64_t gap_ns);

#endif
