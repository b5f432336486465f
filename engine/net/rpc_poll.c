/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of Polls: first a plan of what fits, then the messages in arrays of just that size, then the bytes.
 * Reads replies that the service's loop appends to at the same time. The core's thread. */
#include "net/rpc_poll.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cascade/receipt.h"
#include "proto/frame.h"

/* ---- news ---- */

static bool has_news(const rpc_cursor *c) {
  const rpc_entry *x = c->entry;
  const weir_reply_state state = weir_reply_get_state(x->reply); /* before the count */
  if (state == WEIR_REPLY_ENDED || weir_reply_log_n(weir_reply_tokens(x->reply)) > c->have) return true;
  if (c->state >= 0) return (int32_t)state > c->state;
  return state != (x->told_ns ? x->told_state : WEIR_REPLY_QUEUED);
}

bool rpc_poll_has_news(const rpc_session *s) {
  for (int32_t i = 0; i < s->n_cursors; i++)
    if (has_news(&s->cursor[i])) return true;
  return false;
}

/* ---- the plan ---- */

typedef struct part {
  rpc_entry *entry;
  weir_reply_state state;
  int32_t from, to; /* tokens */
  bool end;
} part;

typedef struct plan {
  part *part; /* [n] */
  int32_t n;
  size_t n_tokens, n_tops;
  bool more;
} plan;

enum { UPDATE_BYTES = 48, TOKEN_BYTES = 24, RECEIPT_BYTES = 40, TOP_BYTES = 24, END_BYTES = 512 };

static size_t cost(const rpc_poll_env *env, const rpc_entry *x, const weir_reply_token *t) {
  size_t n = t->len + TOKEN_BYTES + (x->receipts ? RECEIPT_BYTES : 0);
  for (int32_t i = 0; i < t->n_top; i++) n += TOP_BYTES + weir_token_bytes(env->tokenizer, t->top[i].id).len;
  return n;
}

static size_t end_cost(const weir_reply_end *x) {
  return END_BYTES + strlen(x->stop) + strlen(x->error.message) + strlen(x->error.param);
}

/* Adds what a cursor has; false: the answer is full. */
static bool add(plan *p, const rpc_poll_env *env, const rpc_cursor *c, size_t *left) {
  rpc_entry *x = c->entry;
  const weir_reply_log *log = weir_reply_tokens(x->reply);
  part *q = &p->part[p->n];
  *q = (part){.entry = x, .state = weir_reply_get_state(x->reply)};
  const int32_t n = weir_reply_log_n(log);
  q->from = q->to = c->have < n ? c->have : n;
  *left = *left > UPDATE_BYTES ? *left - UPDATE_BYTES : 0;
  for (; q->to < n; q->to++) {
    const weir_reply_token *t = weir_reply_log_at(log, q->to);
    const size_t bytes = cost(env, x, t);
    if (bytes > *left && p->n_tokens > 0) break; /* one at least: an answer must bring the client on */
    *left = bytes < *left ? *left - bytes : 0;
    p->n_tokens++;
    p->n_tops += (size_t)t->n_top;
  }
  const weir_reply_end *end =
      q->state == WEIR_REPLY_ENDED && q->to == n ? weir_reply_get_end(x->reply) : NULL;
  if (end) {
    const size_t bytes = end_cost(end);
    /* the same: an End alone always fits */
    if (bytes > *left && (p->n > 0 || q->to > q->from)) {
      p->n += q->to > q->from;
      return false;
    }
    *left = bytes < *left ? *left - bytes : 0;
    q->end = true;
  }
  p->n++;
  return q->to == n;
}

static weir_status make_plan(rpc_session *s, const rpc_poll_env *env, plan *p, weir_err *e) {
  size_t left = s->max_bytes;
  const weir_status st = WEIR_NEW((size_t)s->n_cursors, &p->part, e);
  if (st != WEIR_OK) return st;
  for (int32_t i = 0; i < s->n_cursors; i++) {
    const int32_t at = (s->first_cursor + i) % s->n_cursors;
    if (!has_news(&s->cursor[at])) continue;
    if ((left == 0 && p->n > 0) || !add(p, env, &s->cursor[at], &left)) {
      s->first_cursor = at; /* who was cut goes first next time */
      p->more = true;
      break;
    }
  }
  return WEIR_OK;
}

/* ---- messages ---- */

typedef struct message {
  Weir__V1__Update *update, **update_at;
  Weir__V1__Token *token, **token_at;
  Weir__V1__Top *top, **top_at;
  struct ending {
    Weir__V1__End end;
    Weir__V1__Usage usage;
    Weir__V1__Error error;
    uint32_t tokens[WEIR_MAX_TIERS];
    uint64_t steps[WEIR_MAX_TIERS], fed[WEIR_MAX_TIERS];
    Weir__V1__TierCost cost[WEIR_MAX_TIERS], *cost_at[WEIR_MAX_TIERS];
  } * ending;              /* [n] */
  size_t n_tokens, n_tops; /* so far */
} message;

static void message_fini(message *m) {
  free(m->update);
  free(m->update_at);
  free(m->token);
  free(m->token_at);
  free(m->top);
  free(m->top_at);
  free(m->ending);
}

static weir_status message_init(message *m, const plan *p, size_t n_unknown, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n = (size_t)p->n + n_unknown;
  WEIR_TRY(WEIR_NEW(n, &m->update, e));
  WEIR_TRY(WEIR_NEW(n, &m->update_at, e));
  WEIR_TRY(WEIR_NEW(p->n_tokens, &m->token, e));
  WEIR_TRY(WEIR_NEW(p->n_tokens, &m->token_at, e));
  WEIR_TRY(WEIR_NEW(p->n_tops, &m->top, e));
  WEIR_TRY(WEIR_NEW(p->n_tops, &m->top_at, e));
  WEIR_TRY(WEIR_NEW((size_t)p->n, &m->ending, e));
out:
  return st;
}

static void put_token(message *m, const rpc_poll_env *env, bool receipts, const weir_reply_token *t) {
  Weir__V1__Token *y = &m->token[m->n_tokens];
  const weir_token_receipt *r = &t->receipt;
  m->token_at[m->n_tokens++] = y;
  weir__v1__token__init(y);
  y->text = (ProtobufCBinaryData){.len = t->len, .data = (uint8_t *)t->text};
  y->id = (uint32_t)r->id;
  y->logprob = r->logprob;
  y->top = &m->top_at[m->n_tops];
  y->n_top = (size_t)t->n_top;
  for (int32_t i = 0; i < t->n_top; i++) {
    Weir__V1__Top *z = &m->top[m->n_tops];
    const weir_str text = weir_token_bytes(env->tokenizer, t->top[i].id);
    m->top_at[m->n_tops++] = z;
    weir__v1__top__init(z);
    z->id = (uint32_t)t->top[i].id;
    z->logprob = t->top[i].logprob;
    z->text = (ProtobufCBinaryData){.len = text.len, .data = (uint8_t *)text.data};
  }
  if (!receipts) return;
  y->tier = (uint32_t)r->tier;
  y->why = (char *)weir_why_name(r->why);
  y->wait_us = (uint32_t)(r->wait_ns / 1000 < UINT32_MAX ? r->wait_ns / 1000 : UINT32_MAX);
  y->wanted_up = r->wanted_up;
  if (!isnan(r->tau)) {
    y->has_tau_case = WEIR__V1__TOKEN__HAS_TAU_TAU;
    y->tau = r->tau;
  }
  if (isnan(r->entropy)) return;
  y->has_entropy_case = WEIR__V1__TOKEN__HAS_ENTROPY_ENTROPY;
  y->entropy = r->entropy;
  y->has_p_max_case = WEIR__V1__TOKEN__HAS_P_MAX_P_MAX;
  y->p_max = r->p_max;
  y->has_margin_case = WEIR__V1__TOKEN__HAS_MARGIN_MARGIN;
  y->margin = r->margin;
}

static void put_cost(struct ending *y, const weir_cost *c, int32_t n_tiers) {
  Weir__V1__Usage *u = &y->usage;
  for (int32_t t = 0; t < n_tiers && t < (int32_t)WEIR_COST_TIERS; t++) {
    Weir__V1__TierCost *to = y->cost_at[t] = &y->cost[t];
    weir__v1__tier_cost__init(to);
    to->flops = weir_cost_flops(&c->tier[t]);
    to->weight_bytes = c->tier[t].weight_bytes;
    to->kv_bytes_peak = c->tier[t].kv_bytes_peak;
    u->n_cost = (size_t)t + 1;
  }
  u->cost = y->cost_at;
  u->large_only_flops = c->large_only_flops;
  u->large_only_weight_bytes = c->large_only_weight_bytes;
}

static void put_usage(struct ending *y, const weir_reply *reply, const weir_reply_end *x, int32_t n_tiers) {
  Weir__V1__Usage *u = &y->usage;
  weir__v1__usage__init(u);
  u->prompt_tokens = (uint32_t)weir_reply_n_prompt(reply);
  u->cached_tokens = (uint32_t)x->cached_tokens;
  u->completion_tokens = (uint32_t)x->counts.new_tokens;
  for (int32_t t = 0; t < n_tiers; t++) {
    y->tokens[t] = (uint32_t)x->counts.by_tier[t];
    y->steps[t] = (uint64_t)x->counts.steps[t];
    y->fed[t] = (uint64_t)x->counts.fed[t];
  }
  u->tokens_by_tier = y->tokens;
  u->steps_by_tier = y->steps;
  u->fed_by_tier = y->fed;
  u->n_tokens_by_tier = u->n_steps_by_tier = u->n_fed_by_tier = (size_t)n_tiers;
  u->refused = (uint32_t)x->counts.refused;
  u->wanted_up = (uint32_t)x->counts.wanted_up;
  u->queued_us = (uint64_t)(x->queued_ns / 1000);
  u->first_token_us = (uint64_t)(x->first_token_ns / 1000);
  u->total_us = (uint64_t)(x->total_ns / 1000);
  u->seed = x->seed;
  u->mode = (char *)x->mode;
  u->budgeted = (uint32_t)x->counts.budgeted;
  u->deferred = (uint32_t)x->counts.deferred;
  if (u->budgeted > 0) {
    u->has_tau_case = WEIR__V1__USAGE__HAS_TAU_TAU;
    u->tau = x->counts.tau;
  }
  if (!isnan(x->defer_rate)) {
    u->has_defer_rate_case = WEIR__V1__USAGE__HAS_DEFER_RATE_DEFER_RATE;
    u->defer_rate = x->defer_rate;
  }
  put_cost(y, &x->counts.cost, n_tiers);
  u->forced = (uint32_t)x->counts.forced;
  u->given_up = (uint32_t)x->counts.given_up;
  const weir_route_state *route = &x->counts.route;
  if (route->to > WEIR_ROUTED_OPEN) u->routed = (char *)weir_routed_name(route->to);
  if (route->looked > 0) {
    u->has_route_score_case = WEIR__V1__USAGE__HAS_ROUTE_SCORE_ROUTE_SCORE;
    u->route_score = (float)weir_route_score(route);
  }
  if (isnan(x->entropy)) return;
  u->has_entropy_case = WEIR__V1__USAGE__HAS_ENTROPY_ENTROPY;
  u->entropy = x->entropy;
}

static Weir__V1__End *put_end(struct ending *y, const weir_reply *reply, int32_t n_tiers) {
  const weir_reply_end *x = weir_reply_get_end(reply);
  weir__v1__end__init(&y->end);
  put_usage(y, reply, x, n_tiers);
  y->end.reason = (char *)weir_end_name(x->end);
  y->end.stop = (char *)x->stop;
  y->end.usage = &y->usage;
  if (x->error.code != 0) {
    weir__v1__error__init(&y->error);
    y->error.code = (uint32_t)x->error.code;
    y->error.message = (char *)x->error.message;
    y->error.param = (char *)x->error.param;
    y->error.retry_after_ms = x->error.retry_after_ms;
    y->end.error = &y->error;
  }
  return &y->end;
}

static void put_part(message *m, const rpc_poll_env *env, const part *q, size_t at) {
  Weir__V1__Update *u = &m->update[at];
  const weir_reply *reply = q->entry->reply;
  m->update_at[at] = u;
  weir__v1__update__init(u);
  u->request_id = (ProtobufCBinaryData){.len = RPC_ID_BYTES, .data = q->entry->id};
  /* with the tokens of a state, not before them: ended is said with the End alone */
  u->state = q->state == WEIR_REPLY_ENDED && !q->end ? WEIR_REPLY_WRITING : q->state;
  u->prompt_tokens = (uint32_t)weir_reply_n_prompt(reply);
  u->from = (uint32_t)q->from;
  u->token = &m->token_at[m->n_tokens];
  u->n_token = (size_t)(q->to - q->from);
  for (int32_t i = q->from; i < q->to; i++)
    put_token(m, env, q->entry->receipts, weir_reply_log_at(weir_reply_tokens(reply), i));
  if (q->end) u->end = put_end(&m->ending[at], reply, env->n_tiers);
  q->entry->told_state = q->state;
  q->entry->told_ns = env->now_ns;
}

weir_status rpc_poll_put(rpc_session *s, const rpc_poll_env *env, ProtobufCBinaryData *unknown,
                         size_t n_unknown, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  plan p = {0};
  message m = {0};
  Weir__V1__PollReply reply = WEIR__V1__POLL_REPLY__INIT;
  if (s) WEIR_TRY(make_plan(s, env, &p, e));
  WEIR_TRY(message_init(&m, &p, n_unknown, e));
  for (int32_t i = 0; i < p.n; i++) put_part(&m, env, &p.part[i], (size_t)i);
  for (size_t i = 0; i < n_unknown; i++) {
    Weir__V1__Update *u = &m.update[(size_t)p.n + i];
    m.update_at[(size_t)p.n + i] = u;
    weir__v1__update__init(u);
    u->request_id = unknown[i];
    u->state = 4;
  }
  reply.update = m.update_at;
  reply.n_update = (size_t)p.n + n_unknown;
  reply.more = p.more;
  WEIR_TRY(weir_frame_put(WEIR_FRAME_POLL | WEIR_FRAME_REPLY, &reply.base, out, e));
out:
  message_fini(&m);
  free(p.part);
  return st;
}
