/* SPDX-License-Identifier: Apache-2.0 */
/* The table of what the service counts. Making the series belongs to start-up; moving them takes no lock. */
#include "serve/service_metrics.h"

#include <math.h>

#include "cascade/receipt.h"

static const char *const tier_name[WEIR_SM_TIERS] = {"small", "large"};

/* Bounds as in vLLM, with room below for small models on fast machines. */
static const double ttft_s[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double token_s[] = {0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05,
                                 0.075, 0.1,   0.15,  0.2,   0.3,    0.4,  0.5,   0.75,  1,
                                 2.5,   5,     7.5,   10,    20,     40,   80};
static const double request_s[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5,  5,
                                   10,    15,    20,   30,   40,  50,  60,  120, 240, 480, 960, 1920, 7680};
static const double batch_rows[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double batch_seqs[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512};
static const double entropy_nats[] = {0.01, 0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1,
                                      1.25, 1.5,  2,   2.5, 3,   4,    5,   7,   10};

#define BOUNDS(a) (a), (int32_t)(sizeof(a) / sizeof *(a))

typedef struct maker {
  weir_metrics *m;
  const char *model;
  weir_err *e;
  weir_status st; /* the first failure */
} maker;

static weir_metric *make(maker *k, weir_metric_type type, const char *name, const char *help,
                         const weir_metric_label *extra, int32_t n_extra, const double *le, int32_t n_le) {
  weir_metric_label label[WEIR_METRIC_MAX_LABELS] = {{"model_name", k->model}};
  weir_metric *out = NULL;
  for (int32_t i = 0; i < n_extra; i++) label[1 + i] = extra[i];
  if (k->st == WEIR_OK)
    k->st = weir_metrics_add(k->m, type, name, help, label, 1 + n_extra, le, n_le, &out, k->e);
  return out;
}

static weir_metric *counter(maker *k, const char *name, const char *help) {
  return make(k, WEIR_METRIC_COUNTER, name, help, NULL, 0, NULL, 0);
}
static weir_metric *gauge(maker *k, const char *name, const char *help) {
  return make(k, WEIR_METRIC_GAUGE, name, help, NULL, 0, NULL, 0);
}
static weir_metric *histogram(maker *k, const char *name, const char *help, const double *le, int32_t n_le) {
  return make(k, WEIR_METRIC_HISTOGRAM, name, help, NULL, 0, le, n_le);
}
static weir_metric *with(maker *k, weir_metric_type type, const char *name, const char *help,
                         const char *label, const char *value) {
  return make(k, type, name, help, &(weir_metric_label){label, value}, 1, NULL, 0);
}
static weir_metric *with2(maker *k, weir_metric_type type, const char *name, const char *help, const char *l1,
                          const char *v1, const char *l2, const char *v2) {
  return make(k, type, name, help, (weir_metric_label[]){{l1, v1}, {l2, v2}}, 2, NULL, 0);
}

/* 1, 2, 5, 10, 20, 50 ... up to `max`, as vLLM's buckets of token counts. */
static int32_t one_two_five(double *le, int32_t max) {
  static const double step[] = {1, 2, 5};
  int32_t n = 0;
  for (double ten = 1; n < WEIR_METRIC_MAX_BUCKETS - 3; ten *= 10)
    for (int i = 0; i < 3; i++) {
      if (n > 0 && ten * step[i] > max) return n;
      le[n++] = ten * step[i];
    }
  return n;
}

static void make_vllm(weir_service_metrics *s, maker *k, int32_t n_tiers, int32_t n_ctx) {
  static const char *const reason[WEIR_N_FINISHED] = {"stop", "length", "abort", "error"};
  double tokens[WEIR_METRIC_MAX_BUCKETS];
  const int32_t n = one_two_five(tokens, n_ctx);
  s->running = gauge(k, "weir:num_requests_running", "Requests in model execution batches.");
  s->waiting = gauge(k, "weir:num_requests_waiting", "Requests waiting to be processed.");
  for (int32_t t = 0; t < n_tiers; t++)
    s->kv_usage[t] = with(k, WEIR_METRIC_GAUGE, "weir:kv_cache_usage_perc",
                          "KV pages in use by requests. 1 means 100 percent usage.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->prefix_queries[t] = with(k, WEIR_METRIC_COUNTER, "weir:prefix_cache_queries_total",
                                "Prompt tokens looked up in the prefix cache.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->prefix_hits[t] = with(k, WEIR_METRIC_COUNTER, "weir:prefix_cache_hits_total",
                             "Prompt tokens found in the prefix cache.", "tier", tier_name[t]);
  s->preemptions = counter(k, "weir:num_preemptions_total", "Requests whose KV was taken for others.");
  s->prompt_tokens = counter(k, "weir:prompt_tokens_total", "Prompt tokens of requests that began to write.");
  s->generation_tokens = counter(k, "weir:generation_tokens_total", "Generation tokens given to clients.");
  for (int i = 0; i < WEIR_N_FINISHED; i++)
    s->finished[i] = with(k, WEIR_METRIC_COUNTER, "weir:request_success_total",
                          "Requests that ended, by how (cancelled and overdue ones are aborts).",
                          "finished_reason", reason[i]);
  s->ttft = histogram(k, "weir:time_to_first_token_seconds", "Time to first token.", BOUNDS(ttft_s));
  s->itl =
      histogram(k, "weir:inter_token_latency_seconds",
                "Time between a token and the one before it; tokens that were committed together have 0.",
                BOUNDS(token_s));
  s->tpot = histogram(k, "weir:request_time_per_output_token_seconds",
                      "Mean time per token of a request, the first left out.", BOUNDS(token_s));
  s->e2e = histogram(k, "weir:e2e_request_latency_seconds", "End to end request latency.", BOUNDS(request_s));
  s->queue_time =
      histogram(k, "weir:request_queue_time_seconds", "Time before the first step.", BOUNDS(request_s));
  s->prefill_time = histogram(k, "weir:request_prefill_time_seconds",
                              "Time from the first step to the first token.", BOUNDS(request_s));
  s->decode_time = histogram(k, "weir:request_decode_time_seconds", "Time from the first token to the end.",
                             BOUNDS(request_s));
  s->inference_time = histogram(k, "weir:request_inference_time_seconds",
                                "Time from the first step to the end.", BOUNDS(request_s));
  s->req_prompt = histogram(k, "weir:request_prompt_tokens", "Prompt tokens of a request.", tokens, n);
  s->req_generation =
      histogram(k, "weir:request_generation_tokens", "Generation tokens of a request.", tokens, n);
  s->req_max_tokens = histogram(k, "weir:request_params_max_tokens", "max_tokens of a request.", tokens, n);
  s->iteration_tokens = histogram(k, "weir:iteration_tokens_total", "Rows of a step.", BOUNDS(batch_rows));
}

static void make_tiers(weir_service_metrics *s, maker *k, int32_t n_tiers) {
  static const char *const purpose[] = {"decode", "prompt", "catchup", "judged"};
  static const char *const state[] = {"used", "cached", "total"};
  for (int32_t t = 0; t < n_tiers; t++)
    s->tokens[t] = with(k, WEIR_METRIC_COUNTER, "weir:tokens_total",
                        "Generation tokens, by the tier that wrote them.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    for (int i = 0; i < 4; i++)
      s->rows[t][i] =
          with2(k, WEIR_METRIC_COUNTER, "weir:rows_total",
                "Rows fed to a tier: to write, of prompts, to catch up with the other tier, to judge.",
                "tier", tier_name[t], "purpose", purpose[i]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->steps[t] = with(k, WEIR_METRIC_COUNTER, "weir:steps_total", "Forward passes.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->busy[t] = with(k, WEIR_METRIC_COUNTER, "weir:busy_seconds_total", "Time in forward passes.", "tier",
                      tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    for (int i = 0; i < WEIR_SM_KV_STATES; i++)
      s->kv_pages[t][i] =
          with2(k, WEIR_METRIC_GAUGE, "weir:kv_pages",
                "KV pages: held by requests, held by the prefix cache alone, and all there are.", "tier",
                tier_name[t], "state", state[i]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->tier_waiting[t] = with(k, WEIR_METRIC_GAUGE, "weir:tier_requests_waiting",
                              "Requests waiting for a step of a tier.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->tier_up[t] =
        with(k, WEIR_METRIC_GAUGE, "weir:tier_up", "1: the tier works; 0: it is down.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->tier_deaths[t] = with(k, WEIR_METRIC_COUNTER, "weir:tier_deaths_total", "Times a tier went down.",
                             "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->tier_recoveries[t] = with(k, WEIR_METRIC_COUNTER, "weir:tier_recoveries_total",
                                 "Times a tier came back, with an empty KV.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->tier_down[t] = with(k, WEIR_METRIC_COUNTER, "weir:tier_down_seconds_total",
                           "Time a tier has been down.", "tier", tier_name[t]);
}

/* Of tiers that are cut over ranks; 0 for the others. */
static void make_comm(weir_service_metrics *s, maker *k, int32_t n_tiers) {
  for (int32_t t = 0; t < n_tiers; t++)
    s->comm_seconds[t] =
        with(k, WEIR_METRIC_COUNTER, "weir:comm_seconds_total",
             "Time the first rank of a tier has spent in exchanges with the others.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->comm_bytes[t] =
        with(k, WEIR_METRIC_COUNTER, "weir:comm_bytes_total",
             "Bytes the first rank of a tier has exchanged with the others.", "tier", tier_name[t]);
}

/* What requests that have ended have cost; weights are shared out among the sequences of a step. */
static void make_cost(weir_service_metrics *s, maker *k, int32_t n_tiers) {
  for (int32_t t = 0; t < n_tiers; t++)
    s->flops[t] = with(k, WEIR_METRIC_COUNTER, "weir:flops_total",
                       "Operations of rows, attention and head, catching up and taken back included.", "tier",
                       tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->weight_bytes[t] = with(k, WEIR_METRIC_COUNTER, "weir:weight_bytes_total",
                              "Weights read, a step's once for all its sequences.", "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->kv_bytes[t] = with(k, WEIR_METRIC_COUNTER, "weir:kv_bytes_written_total", "Keys and values written.",
                          "tier", tier_name[t]);
  for (int32_t t = 0; t < n_tiers; t++)
    s->taken_back[t] = with(k, WEIR_METRIC_COUNTER, "weir:taken_back_rows_total",
                            "Rows whose tokens were taken back.", "tier", tier_name[t]);
  if (n_tiers < 2) return;
  s->large_only_flops = counter(k, "weir:large_only_flops_total",
                                "Operations the large tier alone would have taken for the same tokens.");
  s->large_only_weight_bytes =
      counter(k, "weir:large_only_weight_bytes_total",
              "Weights it would have read for them, one token a step, beside as many other sequences.");
}

static void make_own(weir_service_metrics *s, maker *k) {
  s->overhead =
      counter(k, "weir:step_overhead_seconds_total",
              "Time of the engine's loop outside forward passes, waiting left out: planning, gates, "
              "text, telling. Over weir:steps_total it is what a step costs besides.");
  static const char *const refused[WEIR_N_REFUSED] = {"full",     "draining", "dead", "invalid", "context",
                                                      "sessions", "session",  "kept", "memory"};
  static const char *const cancelled[WEIR_N_CANCELLED] = {"client", "gone", "shutdown", "deadline"};
  for (int w = WEIR_WHY_REPLACED; w < WEIR_SM_WHYS; w++)
    s->large_tokens[w] = with(k, WEIR_METRIC_COUNTER, "weir:deferrals_total",
                              "Tokens that the large tier wrote, by why they came to it.", "reason",
                              weir_why_name((weir_why)w));
  s->wanted_large = counter(k, "weir:wanted_large_tokens_total",
                            "Tokens of the small tier where its gate asked for the large one, which was not "
                            "there.");
  s->entropy = histogram(k, "weir:token_entropy_nats", "Entropy of the row that the gate saw, of each token.",
                         BOUNDS(entropy_nats));
  s->large_wait =
      histogram(k, "weir:large_wait_seconds", "From a deferral to the large tier's token.", BOUNDS(token_s));
  s->large_batch =
      histogram(k, "weir:large_batch_requests", "Requests in a step of the large tier.", BOUNDS(batch_seqs));
  s->large_rows =
      histogram(k, "weir:large_batch_rows", "Rows in a step of the large tier.", BOUNDS(batch_rows));
  s->drafts_refused =
      counter(k, "weir:drafts_refused_total", "Tokens taken back before they were shown: refused by a judge or behind one that was, dropped by routing, or "
              "pending when mode auto switched.");
  s->goodput =
      gauge(k, "weir:goodput_tokens_per_second", "Tokens committed a second, over the last seconds.");
  s->large_only_goodput =
      gauge(k, "weir:large_only_goodput_tokens_per_second",
            "What the large tier alone would have written a second with as many requests.");
  s->threshold =
      gauge(k, "weir:effective_threshold",
            "The gate's threshold for requests that ask for none; where rates or prices move it, that of "
            "the last decision.");
  s->budget_decisions =
      counter(k, "weir:deferral_budget_decisions_total",
              "Decisions of gates whose threshold a rate or a price moves, and tokens under hold.");
  s->budget_deferrals =
      counter(k, "weir:deferral_budget_deferrals_total", "Of these, those that went to the large tier.");
  s->budget_blocked = counter(k, "weir:deferral_budget_blocked_total",
                              "Of these, those that a request's burst kept on the small tier.");
  s->budget_tenants = gauge(k, "weir:deferral_budget_tenants", "Tenants whose rate is followed.");
  s->load_price = gauge(k, "weir:load_price", "What load has added to the threshold of the last decision.");
  s->pinned = counter(k, "weir:pinned_requests_total", "Requests pinned to the small tier.");
  s->pinned_large_rows = counter(k, "weir:pinned_large_rows_total",
                                 "Rows of pinned requests in batches of the large tier: always 0.");
  s->pinned_refused =
      counter(k, "weir:pinned_refused_total",
              "Feeds of pinned requests to the large tier that were asked for and refused: 0, but for a bug.");
  s->given_up = counter(k, "weir:deferrals_given_up_total",
                        "Deferrals that took longer than the request wanted to wait (defer-wait): the small "
                        "tier went on.");
  s->forced = counter(k, "weir:tokens_forced_total",
                      "Generation tokens that a request's choices left no other way to: no tier was asked.");
  for (int i = WEIR_ROUTED_SMALL; i < WEIR_N_ROUTED; i++)
    s->routed[i] = with(k, WEIR_METRIC_COUNTER, "weir:requests_routed_total",
                        "Requests of mode route by the tier that writes all of it; wanted: the small one, since "
                        "the large one was not there.",
                        "to", weir_routed_name((weir_routed)i));
  s->route_rows =
      counter(k, "weir:route_rows_total", "Rows of the small tier by which requests were routed.");
  s->route_unsure = counter(k, "weir:route_unsure_rows_total", "Of these, those that the gate stopped.");
  s->route_share =
      gauge(k, "weir:route_share",
            "The share of unsure rows above which a request goes to the large tier; that of the last decision.");
  for (int i = 0; i < WEIR_N_MODES; i++)
    s->mode_tokens[i] =
        with(k, WEIR_METRIC_COUNTER, "weir:mode_tokens_total",
             "Generation tokens of requests that have ended, by mode: its rate is the mode's goodput.",
             "mode", weir_mode_name((weir_mode)i));
  for (int i = 0; i < WEIR_N_MODES; i++)
    s->mode_seconds[i] = with(k, WEIR_METRIC_COUNTER, "weir:mode_decode_seconds_total",
                              "Time from the first token to the end, of the same requests together.", "mode",
                              weir_mode_name((weir_mode)i));
  for (int i = 0; i < WEIR_N_REFUSED; i++)
    s->refused[i] = with(k, WEIR_METRIC_COUNTER, "weir:requests_refused_total",
                         "Requests that were not taken.", "reason", refused[i]);
  for (int i = 0; i < WEIR_N_CANCELLED; i++)
    s->cancelled[i] = with(k, WEIR_METRIC_COUNTER, "weir:requests_cancelled_total",
                           "Requests that ended before their time.", "reason", cancelled[i]);
  s->reply_bytes = gauge(k, "weir:reply_bytes",
                         "Memory of texts that wait and of replies that clients have not taken yet.");
}

static void make_auto(weir_service_metrics *s, maker *k) {
  for (int q = 0; q < WEIR_N_QUALITIES; q++)
    for (int m = 0; m < WEIR_N_AUTO_MODES; m++)
      if (weir_quality_modes((weir_quality)q) >> m & 1)
        s->auto_mode[q][m] =
            with2(k, WEIR_METRIC_GAUGE, "weir:auto_mode",
                  "Mode auto: 1 for the mode in force for a floor of quality, 0 for the others it allows.",
                  "floor", weir_quality_name((weir_quality)q), "mode", weir_auto_mode_name((weir_auto_mode)m));
  s->auto_switches = counter(k, "weir:auto_switches_total", "Mode auto: changes of a floor's mode.");
  s->auto_probes =
      counter(k, "weir:auto_probes_total", "Mode auto: short trials of a mode that was not known at a load.");
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++)
    s->auto_tokens[m] =
        with(k, WEIR_METRIC_COUNTER, "weir:auto_tokens_total",
             "Mode auto: tokens by the mode they were written in.", "mode", weir_auto_mode_name((weir_auto_mode)m));
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++)
    s->auto_predicted[m] = with(k, WEIR_METRIC_GAUGE, "weir:auto_predicted_goodput",
                                "Mode auto: tokens a second that the mode would have at the load of the "
                                "moment, by prediction; 0: not known.",
                                "mode", weir_auto_mode_name((weir_auto_mode)m));
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++)
    s->auto_measured[m] =
        with(k, WEIR_METRIC_GAUGE, "weir:auto_measured_goodput",
             "Mode auto: tokens a second that the mode had when it last ran at about this load; 0: never.",
             "mode", weir_auto_mode_name((weir_auto_mode)m));
}

static void set_auto(const weir_service_metrics *s, const weir_auto_stats *a) {
  for (int q = 0; q < WEIR_N_QUALITIES; q++)
    for (int m = 0; m < WEIR_N_AUTO_MODES; m++)
      if (s->auto_mode[q][m]) weir_metric_set(s->auto_mode[q][m], (int)a->mode[q] == m);
  weir_metric_set(s->auto_switches, (double)a->switches);
  weir_metric_set(s->auto_probes, (double)a->probes);
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++) {
    weir_metric_set(s->auto_tokens[m], (double)a->tokens[m]);
    weir_metric_set(s->auto_predicted[m], a->predicted[m]);
    weir_metric_set(s->auto_measured[m], a->measured[m]);
  }
}

weir_status weir_service_metrics_init(weir_service_metrics *s, weir_metrics *m, const char *model,
                                      int32_t n_tiers, int32_t n_ctx, weir_err *e) {
  maker k = {m, model, e, WEIR_OK};
  *s = (weir_service_metrics){0};
  make_vllm(s, &k, n_tiers, n_ctx);
  make_tiers(s, &k, n_tiers);
  make_comm(s, &k, n_tiers);
  make_own(s, &k);
  if (n_tiers > 1) make_auto(s, &k);
  make_cost(s, &k, n_tiers);
  return k.st;
}

void weir_service_metrics_engine(const weir_service_metrics *s, int32_t n_tiers, const weir_engine_stats *g) {
  int64_t preempted = 0;
  for (int32_t t = 0; t < n_tiers; t++) {
    const weir_tier_stats *y = &g->tier[t];
    weir_metric_set(s->kv_usage[t], y->kv_pages > 0 ? (double)y->kv_pages_used / y->kv_pages : 0);
    weir_metric_set(s->prefix_queries[t], (double)y->prefix_lookup_tokens);
    weir_metric_set(s->prefix_hits[t], (double)y->prefix_hit_tokens);
    weir_metric_set(s->rows[t][0], (double)y->rows_decode);
    weir_metric_set(s->rows[t][1], (double)y->rows_prompt);
    weir_metric_set(s->rows[t][2], (double)y->rows_catchup);
    weir_metric_set(s->rows[t][3], (double)y->rows_judged);
    weir_metric_set(s->steps[t], (double)y->steps);
    weir_metric_set(s->busy[t], (double)y->busy_ns * 1e-9);
    weir_metric_set(s->kv_pages[t][0], y->kv_pages_used);
    weir_metric_set(s->kv_pages[t][1], y->kv_pages_cached);
    weir_metric_set(s->kv_pages[t][2], y->kv_pages);
    weir_metric_set(s->tier_waiting[t], y->waiting);
    weir_metric_set(s->tier_up[t], y->dead ? 0 : 1);
    weir_metric_set(s->tier_deaths[t], (double)y->deaths);
    weir_metric_set(s->tier_recoveries[t], (double)y->recoveries);
    weir_metric_set(s->comm_seconds[t], (double)y->comm_ns * 1e-9);
    weir_metric_set(s->comm_bytes[t], (double)y->comm_bytes);
    preempted += y->preempted;
    const weir_tier_cost *c = &g->cost.tier[t];
    weir_metric_set(s->flops[t], weir_cost_flops(c));
    weir_metric_set(s->weight_bytes[t], c->weight_bytes);
    weir_metric_set(s->kv_bytes[t], c->kv_bytes_written);
    weir_metric_set(s->taken_back[t], (double)c->taken_back);
  }
  weir_metric_set(s->preemptions, (double)preempted);
  weir_metric_set(s->running, g->active);
  if (g->budget.counts > 0) weir_metric_set(s->threshold, (double)g->budget.tau);
  for (int i = WEIR_ROUTED_SMALL; i < WEIR_N_ROUTED; i++)
    weir_metric_set(s->routed[i], (double)g->routed.by[i]);
  weir_metric_set(s->route_rows, (double)g->routed.looked);
  weir_metric_set(s->route_unsure, (double)g->routed.unsure);
  weir_metric_set(s->route_share, (double)g->routed.share);
  weir_metric_set(s->budget_decisions, (double)g->budget.counts);
  weir_metric_set(s->budget_deferrals, (double)g->budget.deferred);
  weir_metric_set(s->budget_blocked, (double)g->budget.blocked);
  weir_metric_set(s->budget_tenants, g->budget.tenants);
  weir_metric_set(s->load_price, g->budget.price);
  weir_metric_set(s->pinned_large_rows, (double)g->pinned_large_rows);
  weir_metric_set(s->pinned_refused, (double)g->pinned_refused);
  weir_metric_set(s->given_up, (double)g->deferrals_given_up);
  weir_metric_set(s->forced, (double)g->tokens_forced);
  if (n_tiers > 1) {
    weir_metric_set(s->large_only_flops, g->cost.large_only_flops);
    weir_metric_set(s->large_only_weight_bytes, g->cost.large_only_weight_bytes);
  }
  if (n_tiers > 1) set_auto(s, &g->auto_);
  weir_metric_set(s->goodput, g->goodput);
  weir_metric_set(s->large_only_goodput, g->large_only_goodput);
}

void weir_service_metrics_down(const weir_service_metrics *s, int32_t n_tiers, const weir_engine_stats *g,
                               int64_t now_ns) {
  for (int32_t t = 0; t < n_tiers; t++) {
    const weir_tier_stats *y = &g->tier[t];
    const int64_t since = y->dead && now_ns > y->since_ns ? now_ns - y->since_ns : 0;
    weir_metric_set(s->tier_down[t], (double)(y->down_ns + since) * 1e-9);
  }
}

void weir_service_metrics_step(const weir_service_metrics *s, int32_t tier, const weir_step_note *n) {
  weir_metric_observe(s->iteration_tokens, n->rows);
  if (tier != 1) return;
  weir_metric_observe(s->large_batch, n->seqs);
  weir_metric_observe(s->large_rows, n->rows);
}

void weir_service_metrics_token(const weir_service_metrics *s, const weir_token_receipt *r, int64_t gap_ns) {
  weir_metric_inc(s->generation_tokens, 1);
  if (r->tier >= 0 && r->tier < WEIR_SM_TIERS && s->tokens[r->tier]) weir_metric_inc(s->tokens[r->tier], 1);
  if (r->tier == 1 && (unsigned)r->why < WEIR_SM_WHYS && s->large_tokens[r->why])
    weir_metric_inc(s->large_tokens[r->why], 1);
  if (r->wanted_up) weir_metric_inc(s->wanted_large, 1);
  if (!isnan(r->entropy)) weir_metric_observe(s->entropy, (double)r->entropy);
  if (r->why == WEIR_WHY_DEFERRED) weir_metric_observe(s->large_wait, (double)r->wait_ns * 1e-9);
  if (gap_ns >= 0) weir_metric_observe(s->itl, (double)gap_ns * 1e-9);
}
