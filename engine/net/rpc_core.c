/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server's brain: what each message asks for, who may, what it is answered with and when. Owns the
 * sessions and the calls that are not answered yet; knows no socket. One thread. */
#include "net/rpc_core.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "net/rpc_core_in.h"
#include "net/rpc_poll.h"
#include "proto/check.h"
#include "sched/penalties.h"
#include "sched/queue.h"

/* What a client checks is what the service takes. */
_Static_assert((int)WEIR_CHECK_MAX_BIAS == (int)WEIR_MAX_BIAS, "logit_bias");
_Static_assert((int)WEIR_CHECK_MAX_PRIORITY == (int)WEIR_MAX_PRIORITY, "priority");

enum { LEAST_POLL_BYTES = 1 << 10, MOST_POLL_BYTES = 8 << 20 };
static const int64_t ms_ns = 1000000, retell_ns = 3000000000, sweep_ns = 250000000;

/* ---- answers ---- */

void rpc_answer(weir_rpc_core *c, uint64_t ticket, bool superseded) {
  if (ticket == c->ticket) c->answered = true;
  c->cfg.answer(c->cfg.ctx, ticket, c->out.data, c->out.len, superseded);
  weir_buf_truncate(&c->out, 0);
  if (c->out.cap > MOST_POLL_BYTES) weir_buf_fini(&c->out);
}

/* What is said when there is no memory to say anything else. */
void rpc_answer_bare(weir_rpc_core *c, uint64_t ticket) {
  static const uint8_t frame[] = {'W', 'E', 'I',  'R', WEIR_FRAME_VERSION, WEIR_FRAME_ERROR, 0,
                                  0,   8,   0xf4, 3}; /* code 500 */
  if (ticket == c->ticket) c->answered = true;
  c->cfg.answer(c->cfg.ctx, ticket, frame, sizeof frame, false);
}

void rpc_answer_message(weir_rpc_core *c, uint64_t ticket, weir_frame_kind kind, const ProtobufCMessage *m) {
  weir_err e;
  weir_buf_truncate(&c->out, 0);
  if (weir_frame_put(kind, m, &c->out, &e) != WEIR_OK)
    rpc_answer_bare(c, ticket);
  else
    rpc_answer(c, ticket, false);
}

void rpc_answer_error(weir_rpc_core *c, uint64_t ticket, const weir_service_error *x) {
  Weir__V1__Error m = WEIR__V1__ERROR__INIT;
  m.code = (uint32_t)x->code;
  m.message = (char *)x->message;
  m.param = (char *)x->param;
  m.retry_after_ms = x->retry_after_ms;
  weir_metric_inc(c->metric.errors, 1);
  rpc_answer_message(c, ticket, WEIR_FRAME_ERROR, &m.base);
}

void rpc_answer_fail(weir_rpc_core *c, int32_t code, const char *param, const char *text) {
  weir_service_error x;
  weir_service_error_set(&x, code, param, "%s", text);
  if (code == 429 || code == 503) x.retry_after_ms = 1000;
  rpc_answer_error(c, c->ticket, &x);
}

/* ---- polls ---- */

static void unpark(weir_rpc_core *c, rpc_session *s) {
  s->parked = false;
  c->n_parked--;
}

static void answer_poll(weir_rpc_core *c, rpc_session *s, uint64_t ticket, ProtobufCBinaryData *unknown,
                        size_t n_unknown) {
  weir_err e;
  const weir_service_cfg *g = weir_service_get_cfg(c->cfg.service);
  const rpc_poll_env env = {g->prepare_tokenizer, g->engine.n_tiers, weir_now_ns(&c->cfg.clock)};
  weir_buf_truncate(&c->out, 0);
  if (rpc_poll_put(s, &env, unknown, n_unknown, &c->out, &e) != WEIR_OK)
    rpc_answer_bare(c, ticket);
  else
    rpc_answer(c, ticket, false);
}

static void replace_poll(weir_rpc_core *c, rpc_session *s) {
  Weir__V1__PollReply m = WEIR__V1__POLL_REPLY__INIT;
  weir_err e;
  m.replaced = true;
  unpark(c, s);
  weir_buf_truncate(&c->out, 0);
  if (weir_frame_put(WEIR_FRAME_POLL | WEIR_FRAME_REPLY, &m.base, &c->out, &e) != WEIR_OK)
    rpc_answer_bare(c, s->ticket);
  else
    rpc_answer(c, s->ticket, true);
}

/* Fills the session's cursors; *n_unknown ids at the front of unknown[] are of no request of its. */
static weir_status take_cursors(weir_rpc_core *c, rpc_session *s, const Weir__V1__PollRequest *q,
                                ProtobufCBinaryData *unknown, size_t *n_unknown, weir_err *e) {
  const int64_t now = weir_now_ns(&c->cfg.clock);
  free(s->cursor);
  s->n_cursors = 0;
  const weir_status st = WEIR_NEW(q->n_cursor, &s->cursor, e);
  if (st != WEIR_OK) return st;
  for (size_t i = 0; i < q->n_cursor; i++) {
    rpc_entry *x = rpc_entry_find(c->sessions, q->cursor[i]->request_id.data);
    if (x && x->of != s) x = NULL;
    if (!x) {
      if (!q->cursor[i]->done) unknown[(*n_unknown)++] = q->cursor[i]->request_id;
      continue;
    }
    const uint32_t have = q->cursor[i]->have;
    /* A client that has nothing yet and does not say what it knows may have lost what it was told. */
    if (have == 0 && x->told_ns && now - x->told_ns > retell_ns) x->told_ns = 0;
    s->cursor[s->n_cursors++] =
        (rpc_cursor){.entry = x,
                     .have = have <= INT32_MAX ? (int32_t)have : INT32_MAX,
                     .state = !q->cursor[i]->has_state_case            ? -1
                              : q->cursor[i]->state < WEIR_REPLY_ENDED ? (int32_t)q->cursor[i]->state
                                                                       : WEIR_REPLY_ENDED};
  }
  if (s->first_cursor >= s->n_cursors) s->first_cursor = 0;
  return WEIR_OK;
}

/* The ends that the client has, and requests whose end it does not want any more: all are forgotten. They may
 * be named once more, and are over then. `done` is said once, so one that has not ended must not be kept: the
 * client that hangs up says it when its Cancel is answered, and the engine's End may come later. */
static void take_acknowledgements(weir_rpc_core *c, const rpc_session *s, const Weir__V1__PollRequest *q) {
  for (size_t i = 0; i < q->n_cursor; i++) {
    if (!q->cursor[i]->done) continue;
    rpc_entry *x = rpc_entry_find(c->sessions, q->cursor[i]->request_id.data);
    if (!x || x->of != s) continue;
    weir_reply_cancel(x->reply, WEIR_CANCEL_CLIENT); /* of one that has ended: nothing */
    rpc_entry_drop(c->sessions, x);
  }
}

static void on_poll(weir_rpc_core *c, const Weir__V1__PollRequest *q) {
  weir_err e;
  ProtobufCBinaryData *unknown = NULL;
  size_t n_unknown = 0;
  rpc_session *s = rpc_session_find(c->sessions, q->session.data);
  if (WEIR_NEW(q->n_cursor, &unknown, &e) != WEIR_OK) {
    rpc_answer_bare(c, c->ticket);
    return;
  }
  if (!s) {
    for (size_t i = 0; i < q->n_cursor; i++)
      if (!q->cursor[i]->done) unknown[n_unknown++] = q->cursor[i]->request_id;
    answer_poll(c, NULL, c->ticket, unknown, n_unknown);
    free(unknown);
    return;
  }
  s->heard_ns = weir_now_ns(&c->cfg.clock);
  /* A message that is sent again before its answer came must not begin its wait anew, or a poll that is
   * parked for longer than its sender's resend interval would never be answered. */
  const int64_t not_after = s->parked ? s->until_ns : INT64_MAX;
  if (s->parked) replace_poll(c, s);
  take_acknowledgements(c, s, q);
  if (take_cursors(c, s, q, unknown, &n_unknown, &e) != WEIR_OK) {
    rpc_answer_bare(c, c->ticket);
    free(unknown);
    return;
  }
  uint32_t bytes = q->max_bytes > 0 ? q->max_bytes : c->cfg.limits.poll_bytes;
  if (bytes < LEAST_POLL_BYTES) bytes = LEAST_POLL_BYTES;
  s->max_bytes = bytes < MOST_POLL_BYTES ? bytes : MOST_POLL_BYTES;
  s->ready_ns = c->cfg.ready_ns ? c->cfg.ready_ns(c->cfg.ctx, c->ticket) : 0;
  const bool ready = s->ready_ns <= s->heard_ns;
  if (ready) s->ready_ns = 0;
  if (n_unknown > 0 || (ready && (q->wait_ms == 0 || rpc_poll_has_news(s)))) {
    answer_poll(c, s, c->ticket, unknown, n_unknown);
  } else {
    const uint32_t wait = q->wait_ms < c->cfg.limits.max_poll_ms ? q->wait_ms : c->cfg.limits.max_poll_ms;
    s->parked = true;
    s->ticket = c->ticket;
    s->until_ns = s->heard_ns + (int64_t)wait * ms_ns;
    if (not_after < s->until_ns) s->until_ns = not_after;
    if (!ready && q->wait_ms == 0) s->until_ns = s->ready_ns; /* or never, if the next poll comes before */
    c->n_parked++;
    c->answered = true;
  }
  free(unknown);
}

/* ---- requests ---- */

/* What a request's arrays of messages become; the strings stay the message's. */
typedef struct lists {
  weir_service_message *chat;
  weir_service_bias *bias;
  weir_service_setting *setting;
  weir_service_span *span;
} lists;

static weir_status lists_make(const Weir__V1__SubmitRequest *q, lists *l, weir_err *e) {
  weir_status st = WEIR_OK;
  const Weir__V1__Cascade *k = q->cascade;
  const size_t n_bias = q->sampling ? q->sampling->n_logit_bias : 0, n_settings = k ? k->n_setting : 0,
               n_spans = k ? k->n_span : 0;
  *l = (lists){0};
  WEIR_TRY(rpc_copy_chat(q->chat, q->n_chat, &l->chat, e));
  WEIR_TRY(WEIR_NEW(n_bias, &l->bias, e));
  WEIR_TRY(WEIR_NEW(n_settings, &l->setting, e));
  WEIR_TRY(WEIR_NEW(n_spans, &l->span, e));
  for (size_t i = 0; i < n_bias; i++)
    l->bias[i] = (weir_service_bias){q->sampling->logit_bias[i]->id, q->sampling->logit_bias[i]->add};
  for (size_t i = 0; i < n_settings; i++)
    l->setting[i] = (weir_service_setting){k->setting[i]->name, k->setting[i]->value};
  for (size_t i = 0; i < n_spans; i++)
    l->span[i] = (weir_service_span){k->span[i]->threshold, k->span[i]->start, k->span[i]->end};
out:
  return st;
}

static void lists_fini(lists *l) {
  free(l->chat);
  free(l->bias);
  free(l->setting);
  free(l->span);
}

static void fill_request(const Weir__V1__SubmitRequest *q, const lists *l, weir_service_request *r) {
  const Weir__V1__Sampling *s = q->sampling;
  const Weir__V1__Cascade *k = q->cascade;
  *r = (weir_service_request){
      .model = q->model,
      .user = q->user,
      .prompt = {.text = q->prompt[0] ? q->prompt : NULL,
                 .len = strlen(q->prompt),
                 .ids = q->prompt_ids,
                 .n_ids = q->n_prompt_ids,
                 .chat = l->chat,
                 .n_chat = q->n_chat,
                 .special = q->special,
                 .bare = q->bare},
      .max_tokens = q->max_tokens,
      .min_tokens = q->min_tokens,
      .top_logprobs = q->top_logprobs,
      .deadline_ms = q->deadline_ms,
      .stop = (const char *const *)q->stop,
      .n_stop = q->n_stop,
      .stop_ids = q->stop_ids,
      .n_stop_ids = q->n_stop_ids,
      .ignore_eos = q->ignore_eos,
      .priority = q->priority,
      .choice = (const char *const *)q->choices,
      .n_choices = q->n_choices,
  };
  if (s) {
    r->has_temperature = s->has_temperature_case == WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE;
    r->temperature = r->has_temperature ? s->temperature : 0;
    r->has_top_p = s->has_top_p_case == WEIR__V1__SAMPLING__HAS_TOP_P_TOP_P;
    r->top_p = r->has_top_p ? s->top_p : 0;
    r->has_seed = s->has_seed_case == WEIR__V1__SAMPLING__HAS_SEED_SEED;
    r->seed = r->has_seed ? s->seed : 0;
    r->top_k = s->top_k;
    r->min_p = s->min_p;
    r->presence_penalty = s->presence_penalty;
    r->frequency_penalty = s->frequency_penalty;
    r->repetition_penalty = s->repetition_penalty;
    r->bias = l->bias;
    r->n_bias = s->n_logit_bias;
  }
  if (k) {
    r->mode = k->mode;
    r->pin = k->pin;
    r->has_entropy = k->has_entropy_case == WEIR__V1__CASCADE__HAS_ENTROPY_ENTROPY;
    r->entropy = r->has_entropy ? k->entropy : 0;
    r->has_defer_rate = k->has_defer_rate_case == WEIR__V1__CASCADE__HAS_DEFER_RATE_DEFER_RATE;
    r->defer_rate = r->has_defer_rate ? k->defer_rate : 0;
    r->defer_burst = k->defer_burst;
    r->has_load_price = k->has_load_price_case == WEIR__V1__CASCADE__HAS_LOAD_PRICE_LOAD_PRICE;
    r->load_price = r->has_load_price ? k->load_price : 0;
    r->setting = l->setting;
    r->n_settings = k->n_setting;
    r->span = l->span;
    r->n_spans = k->n_span;
  }
}

weir_status rpc_copy_chat(Weir__V1__ChatMessage *const *from, size_t n, weir_service_message **out,
                          weir_err *e) {
  const weir_status st = WEIR_NEW(n, out, e);
  for (size_t i = 0; st == WEIR_OK && i < n; i++)
    (*out)[i] = (weir_service_message){from[i]->role, from[i]->text};
  return st;
}

static weir_status submit(weir_rpc_core *c, const Weir__V1__SubmitRequest *q, weir_reply **reply,
                          int32_t *ahead, weir_service_error *x) {
  weir_err e;
  weir_status st = WEIR_OK;
  lists l = {0};
  weir_service_request r;
  WEIR_TRY(lists_make(q, &l, &e));
  fill_request(q, &l, &r);
  st = weir_service_submit(c->cfg.service, &r, reply, ahead, x);
out:
  if (st != WEIR_OK && x->code == 0) *x = (weir_service_error){.code = 500, .message = "out of memory"};
  lists_fini(&l);
  return st;
}

/* Whether there is room for one more; otherwise it was refused. */
static bool has_room(weir_rpc_core *c, const rpc_session *s) {
  const weir_rpc_limits *l = &c->cfg.limits;
  static const char *const text[WEIR_N_EDGE_FULL] = {"too many sessions", "too many requests in this session",
                                                     "too many requests whose ends were not acknowledged",
                                                     "too much memory is held by requests"};
  const bool full[WEIR_N_EDGE_FULL] = {!s && rpc_sessions_n(c->sessions) >= l->max_sessions,
                                       s && s->n_entries >= l->max_per_session,
                                       rpc_sessions_n_entries(c->sessions) >= l->max_kept,
                                       weir_service_reply_bytes(c->cfg.service) >= l->max_reply_memory};
  for (int why = 0; why < WEIR_N_EDGE_FULL; why++) {
    if (!full[why]) continue;
    weir_service_count_refused(c->cfg.service, (weir_edge_full)why);
    rpc_answer_fail(c, 429, "", text[why]);
    return false;
  }
  return true;
}

static void answer_submit(weir_rpc_core *c, bool known, int32_t ahead) {
  Weir__V1__SubmitReply m = WEIR__V1__SUBMIT_REPLY__INIT;
  m.known = known;
  m.ahead = (uint32_t)ahead;
  if (known) weir_metric_inc(c->metric.duplicates, 1);
  rpc_answer_message(c, c->ticket, WEIR_FRAME_SUBMIT | WEIR_FRAME_REPLY, &m.base);
}

static void on_submit(weir_rpc_core *c, const Weir__V1__SubmitRequest *q) {
  const uint8_t *id = q->request_id.data;
  weir_service_error x = {0};
  weir_reply *reply = NULL;
  int32_t ahead = 0;
  rpc_session *s = rpc_session_find(c->sessions, q->session.data);
  const rpc_entry *known = rpc_entry_find(c->sessions, id);
  if (known && known->of != s) {
    rpc_answer_fail(c, 409, "request_id", "request_id: another session has it");
    return;
  }
  if (known || rpc_over_has(c->sessions, id)) {
    answer_submit(c, true, 0);
    return;
  }
  if (!has_room(c, s)) return;
  if (submit(c, q, &reply, &ahead, &x) != WEIR_OK) {
    rpc_answer_error(c, c->ticket, &x);
    return;
  }
  if (!s)
    s = rpc_session_add(c->sessions, q->session.data, weir_now_ns(&c->cfg.clock));
  else if (s->n_entries == 0)
    s->heard_ns = weir_now_ns(&c->cfg.clock); /* it had nothing to poll for; else Polls alone count */
  rpc_entry *entry = s ? rpc_entry_add(c->sessions, s, id, reply) : NULL;
  if (!entry) { /* a session without requests goes when its time is up */
    weir_reply_cancel(reply, WEIR_CANCEL_SHUTDOWN);
    weir_reply_release(reply);
    rpc_answer_bare(c, c->ticket);
    return;
  }
  entry->receipts = q->receipts;
  answer_submit(c, false, ahead);
}

static void on_cancel(weir_rpc_core *c, const Weir__V1__CancelRequest *q) {
  Weir__V1__CancelReply m = WEIR__V1__CANCEL_REPLY__INIT;
  const rpc_session *s = rpc_session_find(c->sessions, q->session.data);
  if (s && q->n_request_id == 0)
    for (rpc_entry *x = s->first; x; x = x->next)
      m.cancelled += weir_reply_cancel(x->reply, WEIR_CANCEL_CLIENT);
  for (size_t i = 0; i < q->n_request_id; i++) {
    const uint8_t *id = q->request_id[i].data;
    rpc_entry *x = rpc_entry_find(c->sessions, id);
    if (x && x->of == s)
      m.cancelled += weir_reply_cancel(x->reply, WEIR_CANCEL_CLIENT);
    else if (!x)
      rpc_over_add_unknown(c->sessions, id); /* its Submit may still be on the way */
  }
  rpc_answer_message(c, c->ticket, WEIR_FRAME_CANCEL | WEIR_FRAME_REPLY, &m.base);
}

/* ---- a message ---- */

static bool is_authorised(const weir_rpc_core *c, const char *given) {
  return !c->token[0] || weir_secret_equal(c->token, strlen(c->token), given, strlen(given));
}

static const char *token_of(const weir_frame_msg *m) {
  switch ((int)m->kind) {
    case WEIR_FRAME_SUBMIT: return m->as.submit->token;
    case WEIR_FRAME_POLL: return m->as.poll->token;
    case WEIR_FRAME_CANCEL: return m->as.cancel->token;
    case WEIR_FRAME_STATS: return m->as.stats->token;
    case WEIR_FRAME_MODELS: return m->as.models->token;
    case WEIR_FRAME_TOKENIZE: return m->as.tokenize->token;
    case WEIR_FRAME_DETOKENIZE: return m->as.detokenize->token;
    default: return NULL; /* Health is for everybody */
  }
}

static void dispatch(weir_rpc_core *c, const weir_frame_msg *m) {
  if (c->n_calls == RPC_MAX_CALLS && (m->kind == WEIR_FRAME_TOKENIZE || m->kind == WEIR_FRAME_DETOKENIZE)) {
    rpc_answer_fail(c, 429, "", "too many calls of the tokenizer are under way");
    return;
  }
  switch ((int)m->kind) {
    case WEIR_FRAME_SUBMIT: on_submit(c, m->as.submit); break;
    case WEIR_FRAME_POLL: on_poll(c, m->as.poll); break;
    case WEIR_FRAME_CANCEL: on_cancel(c, m->as.cancel); break;
    case WEIR_FRAME_STATS: rpc_on_stats(c); break;
    case WEIR_FRAME_MODELS: rpc_on_models(c); break;
    case WEIR_FRAME_TOKENIZE: rpc_on_tokenize(c, m->as.tokenize); break;
    case WEIR_FRAME_DETOKENIZE: rpc_on_detokenize(c, m->as.detokenize); break;
    default: rpc_on_health(c); break;
  }
}

static int32_t code_of(weir_status st) { return st == WEIR_ENOMEM ? 413 : 400; }

static void look_at(weir_rpc_core *c, const void *bytes, size_t n) {
  weir_frame f;
  weir_frame_msg m = {0};
  weir_err e = {0};
  const char *param = "";
  if (n > c->cfg.limits.max_request_bytes) {
    char text[96];
    snprintf(text, sizeof text, "a message of %zu bytes; this server takes %zu", n,
             c->cfg.limits.max_request_bytes);
    rpc_answer_fail(c, 413, "", text);
    return;
  }
  weir_status st = weir_frame_parse(bytes, n, &f, &e);
  if (st == WEIR_OK && f.kind > WEIR_FRAME_LAST)
    st = weir_fail(&e, WEIR_EFORMAT, "%s is no request", weir_frame_kind_name((int)f.kind));
  if (st == WEIR_OK)
    st = weir_frame_unpack(f.kind, f.body, f.body_bytes, weir_frame_budget(f.kind, f.body_bytes), &m, &e);
  if (st != WEIR_OK) {
    weir_metric_inc(c->metric.malformed, 1);
    rpc_answer_fail(c, code_of(st), "", e.msg);
    return;
  }
  weir_metric_inc(c->metric.messages[f.kind], 1);
  const char *token = token_of(&m);
  if (token && !is_authorised(c, token))
    rpc_answer_fail(c, 401, "token", "token: it is not this server's");
  else if (weir_check_request(&m, &param, &e) != WEIR_OK)
    rpc_answer_fail(c, 400, param, e.msg);
  else
    dispatch(c, &m);
  weir_frame_msg_fini(&m);
}

void weir_rpc_core_message(weir_rpc_core *c, uint64_t ticket, const void *bytes, size_t n) {
  c->ticket = ticket;
  c->answered = false;
  look_at(c, bytes, n);
  if (!c->answered) rpc_answer_bare(c, ticket); /* never: but a client must not wait for ever */
  c->ticket = UINT64_MAX;
  atomic_store(&c->n_sessions, rpc_sessions_n(c->sessions));
}

/* ---- time and news ---- */

void rpc_refresh_metrics(weir_rpc_core *c) {
  weir_metric_set(c->metric.sessions, rpc_sessions_n(c->sessions));
  weir_metric_set(c->metric.parked, c->n_parked);
  weir_metric_set(c->metric.kept, rpc_sessions_n_entries(c->sessions));
}

static void sweep(weir_rpc_core *c, int64_t now) {
  for (rpc_session *s = rpc_session_first(c->sessions), *next; s; s = next) {
    next = s->next;
    if (s->parked || now - s->heard_ns <= c->cfg.limits.ttl_ns) continue;
    if (s->n_entries > 0) { /* one without requests has only fallen silent */
      weir_log(WEIR_LOG_INFO, "rpc: a session with %d requests is gone", s->n_entries);
      weir_metric_inc(c->metric.gone, 1);
    }
    rpc_session_drop(c->sessions, s, WEIR_CANCEL_GONE);
  }
  rpc_refresh_metrics(c);
  atomic_store(&c->n_sessions, rpc_sessions_n(c->sessions));
}

static void answer_parked(weir_rpc_core *c, rpc_session *s, int64_t now) {
  unpark(c, s);
  s->heard_ns = now; /* until now it was known to listen */
  answer_poll(c, s, s->ticket, NULL, 0);
}

void weir_rpc_core_turn(weir_rpc_core *c) {
  const int64_t now = weir_now_ns(&c->cfg.clock);
  c->turned_ns = now;
  rpc_answer_calls(c);
  for (rpc_session *s = c->n_parked > 0 ? rpc_session_first(c->sessions) : NULL; s; s = s->next)
    if (s->parked && (now >= s->until_ns || (now >= s->ready_ns && rpc_poll_has_news(s))))
      answer_parked(c, s, now);
  if (now < c->next_sweep_ns) return;
  c->next_sweep_ns = now + sweep_ns;
  sweep(c, now);
}

void weir_rpc_core_flush(weir_rpc_core *c) {
  const int64_t now = weir_now_ns(&c->cfg.clock);
  rpc_answer_calls(c);
  for (rpc_session *s = rpc_session_first(c->sessions); s; s = s->next)
    if (s->parked) answer_parked(c, s, now);
}

int64_t weir_rpc_core_next_ns(const weir_rpc_core *c) {
  if (rpc_sessions_n(c->sessions) == 0) return INT64_MAX;
  int64_t next = c->next_sweep_ns;
  for (const rpc_session *s = c->n_parked > 0 ? rpc_session_first(c->sessions) : NULL; s; s = s->next) {
    if (s->parked && s->until_ns < next) next = s->until_ns;
    /* Also one that has become ready since the last turn, which left its news for later. */
    if (s->parked && s->ready_ns > c->turned_ns && s->ready_ns < next) next = s->ready_ns;
  }
  return next;
}

bool weir_rpc_core_wants_news(const weir_rpc_core *c) {
  if (c->n_calls > 0) return true;
  const int64_t now = weir_now_ns(&c->cfg.clock);
  for (const rpc_session *s = c->n_parked > 0 ? rpc_session_first(c->sessions) : NULL; s; s = s->next)
    if (s->parked && s->ready_ns <= now) return true;
  return false;
}

size_t weir_rpc_core_max_request(const weir_rpc_core *c) { return c->cfg.limits.max_request_bytes; }
int32_t weir_rpc_core_sessions(const weir_rpc_core *c) {
  return atomic_load(&((weir_rpc_core *)c)->n_sessions);
}
int32_t weir_rpc_core_parked(const weir_rpc_core *c) { return c->n_parked; }

/* ---- life ---- */

static weir_status make_metrics(weir_rpc_core *c, weir_err *e) {
  static const struct {
    weir_metric_type type;
    const char *name, *help;
  } plain[] = {
      {WEIR_METRIC_COUNTER, "weir:rpc_malformed_total", "Messages that were none of the protocol's."},
      {WEIR_METRIC_COUNTER, "weir:rpc_errors_total", "Messages that were answered with an Error."},
      {WEIR_METRIC_GAUGE, "weir:rpc_sessions", "Sessions of clients."},
      {WEIR_METRIC_GAUGE, "weir:rpc_parked_polls", "Polls that wait for news."},
      {WEIR_METRIC_GAUGE, "weir:rpc_requests_kept", "Requests whose end was not acknowledged."},
      {WEIR_METRIC_COUNTER, "weir:rpc_sessions_gone_total",
       "Sessions with requests that were not heard of for too long."},
      {WEIR_METRIC_COUNTER, "weir:rpc_duplicates_total", "Submits of a request that was known."},
  };
  weir_metric **to[] = {&c->metric.malformed, &c->metric.errors, &c->metric.sessions,  &c->metric.parked,
                        &c->metric.kept,      &c->metric.gone,   &c->metric.duplicates};
  weir_status st = WEIR_OK;
  for (int i = WEIR_FRAME_SUBMIT; i <= WEIR_FRAME_LAST; i++)
    WEIR_TRY(weir_metrics_add(
        c->cfg.metrics, WEIR_METRIC_COUNTER, "weir:rpc_messages_total", "Messages of clients, by kind.",
        &(weir_metric_label){"kind", weir_frame_kind_name(i)}, 1, NULL, 0, &c->metric.messages[i], e));
  for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
    WEIR_TRY(weir_metrics_add(c->cfg.metrics, plain[i].type, plain[i].name, plain[i].help, NULL, 0, NULL, 0,
                              to[i], e));
out:
  return st;
}

static weir_status set_limits(weir_rpc_limits *l, weir_err *e) {
  if (l->ttl_ns <= 0) l->ttl_ns = 30000000000;
  if (l->max_sessions <= 0) l->max_sessions = 1024;
  if (l->max_per_session <= 0) l->max_per_session = 1024;
  if (l->max_kept <= 0) l->max_kept = 8192;
  if (l->max_reply_memory <= 0) l->max_reply_memory = 1 << 30;
  if (l->max_request_bytes == 0) l->max_request_bytes = 4 << 20;
  if (l->max_poll_ms == 0) l->max_poll_ms = 10000;
  if (l->poll_bytes == 0) l->poll_bytes = 256 << 10;
  if (l->max_request_bytes < WEIR_FRAME_SURE_REQUEST || l->max_request_bytes > WEIR_FRAME_MAX_REQUEST)
    return weir_fail(e, WEIR_EINVAL, "requests of up to %zu bytes, want %d to %d", l->max_request_bytes,
                     WEIR_FRAME_SURE_REQUEST, WEIR_FRAME_MAX_REQUEST);
  return WEIR_OK;
}

static char *copy(const char *s, weir_status *st) {
  char *to = strdup(s ? s : "");
  if (to)
    weir_service_clean_text(to);
  else
    *st = WEIR_ENOMEM;
  return to;
}

weir_status weir_rpc_core_create(const weir_rpc_core_cfg *cfg, weir_rpc_core **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_rpc_core *c = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &c, e));
  c->cfg = *cfg;
  c->ticket = UINT64_MAX;
  WEIR_TRY(set_limits(&c->cfg.limits, e));
  c->token = copy(cfg->token, &st);
  c->version = copy(cfg->version, &st);
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) {
    const bool told = cfg->tier && t < weir_service_get_cfg(cfg->service)->engine.n_tiers;
    c->tier[t] =
        (weir_rpc_tier){copy(told ? cfg->tier[t].model : "", &st), copy(told ? cfg->tier[t].type : "", &st),
                        copy(told ? cfg->tier[t].device : "", &st)};
  }
  if (st != WEIR_OK) WEIR_TRY(weir_fail(e, st, "rpc: no memory for names"));
  WEIR_TRY(rpc_sessions_create(&c->sessions, e));
  WEIR_TRY(make_metrics(c, e));
  *out = c;
  c = NULL;
out:
  weir_rpc_core_destroy(c);
  return st;
}

void weir_rpc_core_cut(weir_rpc_core *c) {
  for (rpc_session *x = rpc_session_first(c->sessions); x; x = x->next)
    for (rpc_entry *at = x->first; at; at = at->next) weir_reply_cancel(at->reply, WEIR_CANCEL_SHUTDOWN);
}

void weir_rpc_core_destroy(weir_rpc_core *c) {
  if (!c) return;
  for (int32_t i = 0; i < c->n_calls; i++) weir_call_release(c->call[i].call);
  rpc_sessions_destroy(c->sessions);
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) {
    free((void *)c->tier[t].model);
    free((void *)c->tier[t].type);
    free((void *)c->tier[t].device);
  }
  weir_buf_fini(&c->out);
  free(c->token);
  free(c->version);
  free(c);
}
