/* SPDX-License-Identifier: Apache-2.0 */
/* What a Poll brought, handed to the owners: each token once and in order. A repeated answer brings tokens
 * that are there already, which are passed over; a gap is an error. Owners may cancel, abandon and submit
 * from their callbacks. The client's thread. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/client_in.h"

static void end_of(const Weir__V1__End *end, weir_client_end *out) {
  *out = (weir_client_end){.reason = end->reason, .stop = end->stop};
  weir_client_usage *u = &out->usage;
  u->entropy = u->route_score = NAN;
  const Weir__V1__Usage *from = end->usage;
  if (from) {
    u->prompt_tokens = from->prompt_tokens;
    u->cached_tokens = from->cached_tokens;
    u->completion_tokens = from->completion_tokens;
    u->refused = from->refused;
    u->wanted_up = from->wanted_up;
    size_t n = from->n_tokens_by_tier;
    if (from->n_steps_by_tier > n) n = from->n_steps_by_tier;
    if (from->n_fed_by_tier > n) n = from->n_fed_by_tier;
    if (n > WEIR_CLIENT_MAX_TIERS) n = WEIR_CLIENT_MAX_TIERS;
    u->n_tiers = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
      if (i < from->n_tokens_by_tier) u->tokens_by_tier[i] = from->tokens_by_tier[i];
      if (i < from->n_steps_by_tier) u->steps_by_tier[i] = from->steps_by_tier[i];
      if (i < from->n_fed_by_tier) u->fed_by_tier[i] = from->fed_by_tier[i];
    }
    u->queued_us = from->queued_us;
    u->first_token_us = from->first_token_us;
    u->total_us = from->total_us;
    u->seed = from->seed;
    snprintf(u->mode, sizeof u->mode, "%s", from->mode);
    if (from->has_entropy_case) u->entropy = from->entropy;
    u->budgeted = from->budgeted;
    u->deferred = from->deferred;
    if (from->has_tau_case) u->tau = from->tau;
    u->has_rate = from->has_defer_rate_case != 0;
    if (u->has_rate) u->defer_rate = from->defer_rate;
    u->forced = from->forced;
    u->given_up = from->given_up;
    snprintf(u->routed, sizeof u->routed, "%s", from->routed);
    u->route_score = from->has_route_score_case ? from->route_score : NAN;
    for (size_t i = 0; i < n && i < from->n_cost; i++) {
      u->flops[i] = from->cost[i]->flops;
      u->weight_bytes[i] = from->cost[i]->weight_bytes;
      u->kv_bytes_peak[i] = from->cost[i]->kv_bytes_peak;
    }
    u->large_only_flops = from->large_only_flops;
    u->large_only_weight_bytes = from->large_only_weight_bytes;
  }
  if (end->error) client_error_from(&out->error, end->error);
}

static void start(client_request *r, uint32_t prompt_tokens) {
  if (r->started || r->silent) return;
  r->started = true;
  if (r->events.on_start) r->events.on_start(r->events.ctx, prompt_tokens);
}

static void hand_over(client_request *r, const Weir__V1__Token *t) {
  weir_client_top top[WEIR_CHECK_MAX_TOP];
  for (size_t i = 0; i < t->n_top; i++)
    top[i] = (weir_client_top){.id = t->top[i]->id,
                               .logprob = t->top[i]->logprob,
                               .text = t->top[i]->text.len ? (const char *)t->top[i]->text.data : "",
                               .len = t->top[i]->text.len};
  const weir_client_token out = {.index = r->have,
                                 .id = t->id,
                                 .tier = t->tier,
                                 .text = t->text.len ? (const char *)t->text.data : "",
                                 .len = t->text.len,
                                 .logprob = t->logprob,
                                 .entropy = t->has_entropy_case ? t->entropy : NAN,
                                 .p_max = t->has_p_max_case ? t->p_max : NAN,
                                 .margin = t->has_margin_case ? t->margin : NAN,
                                 .why = t->why,
                                 .wait_us = t->wait_us,
                                 .wanted_up = t->wanted_up,
                                 .has_tau = t->has_tau_case != 0,
                                 .tau = t->has_tau_case ? t->tau : NAN,
                                 .top = top,
                                 .n_top = t->n_top};
  r->have++;
  if (r->events.on_token) r->events.on_token(r->events.ctx, &out);
}

/* True when it brought something. */
static bool deliver_one(weir_client *c, client_request *r, const Weir__V1__Update *u) {
  weir_client_error e;
  if (u->state == 4) {
    client_fail(&e, 503, "",
                "the engine does not know the request any more: it was started again, or forgot the session");
    client_request_give_up(c, r, "error", &e);
    return true;
  }
  if (u->from > r->have) {
    client_fail(&e, 500, "", "the engine's answer begins at token %u; token %u is next", u->from, r->have);
    client_request_give_up(c, r, "error", &e);
    return true;
  }
  bool any = u->state > r->seen;
  if (any) r->seen = u->state;
  const bool failed = u->end && u->end->error;
  if (!r->started && !failed &&
      (u->state >= 2 || (u->state == 1 && u->prompt_tokens > 0) || u->n_token > 0)) {
    start(r, u->prompt_tokens);
    any = true;
  }
  for (size_t i = r->have - u->from; i < u->n_token && !r->silent; i++) {
    start(r, u->prompt_tokens); /* an error may come behind tokens */
    hand_over(r, u->token[i]);
    any = true;
  }
  if (!u->end || r->silent) return any;
  weir_client_end end;
  end_of(u->end, &end);
  r->state = REQUEST_OVER;
  r->over_ns = client_now(c);
  client_request_end(c, r, &end);
  return true;
}

bool client_deliver(weir_client *c, const Weir__V1__PollReply *reply) {
  bool any = false;
  for (size_t i = 0; i < reply->n_update; i++) {
    const Weir__V1__Update *u = reply->update[i];
    client_request *r = client_request_by_id(c, u->request_id.data);
    /* Others are not ours any more, or their Submit is not answered yet. */
    if (r && r->state == REQUEST_OPEN && !r->silent) any |= deliver_one(c, r, u);
  }
  return any;
}
