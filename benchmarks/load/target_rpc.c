/* SPDX-License-Identifier: Apache-2.0 */
/* A target over weir's own RPC: client/client.h, whose descriptor sits in the event loop. The load's thread.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/client.h"
#include "load/target.h"

typedef struct {
  weir_target base;
  weir_target_cfg cfg;
  weir_client *client;
  struct event *readable;
  struct event *soon; /* what start and cancel queued is sent from the loop */
} rpc;

typedef struct {
  rpc *r;
  weir_target_events ev;
  int64_t id;
} call;

enum { MAX_MESSAGES = 256 };

static void pump(evutil_socket_t fd, short what, void *ctx) {
  rpc *r = ctx;
  (void)fd;
  (void)what;
  weir_client_run(r->client, 0);
}

static void pump_soon(rpc *r) {
  const struct timeval now = {0, 0};
  if (!evtimer_pending(r->soon, NULL)) evtimer_add(r->soon, &now);
}

static void on_token(void *ctx, const weir_client_token *t) {
  const call *c = ctx;
  weir_target_piece p = {.text = t->len > 0 ? t->text : "", .len = t->len, .n_tokens = 1, .tier = -1};
  if (c->r->cfg.receipts && t->tier < WEIR_LOAD_TIERS) { /* else nobody said which tier it was */
    p.tier = (int32_t)t->tier;
    p.by_tier[t->tier] = 1;
  }
  c->ev.on_piece(c->ev.ctx, &p);
}

static const char *name_of(int code) {
  switch (code) {
    case 400: return "invalid request";
    case 401: return "not authorised";
    case 404: return "no such model";
    case 429: return "queue full";
    case 499: return "given up";
    case 503: return "not available";
    case 504: return "deadline";
    default: return "error";
  }
}

/* What a client of the gateway would be told: an end that the engine gave for its own reasons is an error
 * too. 0: it ended well. */
static int code_of(const weir_client_end *end) {
  if (end->error.code) return end->error.code;
  if (!end->reason) return 0;
  if (!strcmp(end->reason, "deadline")) return 504;
  return !strcmp(end->reason, "cancelled") || !strcmp(end->reason, "error") ? 503 : 0;
}

static void on_end(void *ctx, const weir_client_end *end) {
  call *c = ctx;
  const weir_client_usage *u = &end->usage;
  const weir_target_events ev = c->ev;
  const int code = code_of(end);
  weir_target_end out = {.ok = code == 0,
                         .code = code ? code : 200,
                         .retry_after_s = end->error.retry_after_ms ? end->error.retry_after_ms / 1e3 : NAN};
  if (!out.ok) {
    const bool ended = end->error.code == 0;
    snprintf(out.what, sizeof out.what, "%s", ended && code == 503 ? "ended by the engine" : name_of(code));
    snprintf(out.message, sizeof out.message, "%s%.*s", ended ? "the engine ended the request: " : "",
             (int)sizeof out.message - 32, ended ? end->reason : end->error.message);
  }
  snprintf(out.reason, sizeof out.reason, "%.15s", end->reason ? end->reason : "");
  out.usage = (weir_target_usage){.prompt_tokens = -1,
                                  .completion_tokens = -1,
                                  .cached_tokens = -1,
                                  .queue_ms = NAN,
                                  .deferral_rate = NAN};
  if (end->error.code == 0) { /* also of one that the engine cut: its tokens were written */
    uint64_t all = 0;
    out.usage.prompt_tokens = (int32_t)u->prompt_tokens;
    out.usage.cached_tokens = (int32_t)u->cached_tokens;
    out.usage.completion_tokens = (int32_t)u->completion_tokens;
    out.usage.queue_ms = (double)u->queued_us / 1e3;
    out.usage.tiers = u->n_tiers > 0;
    for (uint32_t k = 0; k < u->n_tiers && k < WEIR_LOAD_TIERS && k < WEIR_CLIENT_MAX_TIERS; k++) {
      out.usage.by_tier[k] = (int32_t)u->tokens_by_tier[k];
      all += u->tokens_by_tier[k];
    }
    if (all > 0) out.usage.deferral_rate = (double)(all - u->tokens_by_tier[0]) / (double)all;
  }
  free(c);
  ev.on_end(ev.ctx, &out);
}

/* The messages of a conversation as the client wants them. */
static weir_status take_chat(const json_t *messages, weir_client_message *m, size_t *n, weir_err *e) {
  const json_t *x;
  size_t i;
  *n = json_array_size(messages);
  if (*n > MAX_MESSAGES) return weir_fail(e, WEIR_EINVAL, "more than %d messages", MAX_MESSAGES);
  json_array_foreach(messages, i, x) {
    m[i].role = json_string_value(json_object_get(x, "role"));
    m[i].text = json_string_value(json_object_get(x, "content"));
    if (!m[i].role || !m[i].text)
      return weir_fail(e, WEIR_EUNSUP, "a message over RPC has a role and a content that is one text");
  }
  return WEIR_OK;
}

static weir_status start(weir_target *t, const weir_target_ask *ask, const weir_target_events *ev, void **out,
                         weir_err *e) {
  weir_status st = WEIR_OK;
  rpc *r = (rpc *)t;
  const weir_target_cfg *c = &r->cfg;
  call *x = NULL;
  weir_client_message chat[MAX_MESSAGES] = {{"user", ask->prompt}};
  weir_client_request q = {.model = c->model,
                           .max_tokens = (uint32_t)ask->max_tokens,
                           .ignore_eos = c->ignore_eos,
                           .has_temperature = c->has_temperature,
                           .temperature = (float)c->temperature,
                           .has_top_p = c->has_top_p,
                           .top_p = (float)c->top_p,
                           .has_seed = c->has_seed,
                           .seed = c->seed,
                           .stop = c->stop,
                           .n_stop = (size_t)c->n_stop,
                           .mode = c->mode,
                           .has_entropy = !isnan(ask->entropy),
                           .entropy = isnan(ask->entropy) ? 0 : (float)ask->entropy,
                           .receipts = c->receipts};
  weir_client_error why;
  if (ask->messages)
    WEIR_TRY(take_chat(ask->messages, chat, &q.n_chat, e));
  else if (c->chat)
    q.n_chat = 1;
  else
    q.prompt = ask->prompt;
  if (q.n_chat > 0) q.chat = chat;
  WEIR_TRY(WEIR_NEW(1, &x, e));
  x->r = r;
  x->ev = *ev;
  const weir_client_events events = {.on_token = on_token, .on_end = on_end, .ctx = x};
  x->id = weir_client_submit(r->client, &q, &events, &why);
  if (x->id < 0) {
    st = weir_fail(e, WEIR_EINVAL, "%s", why.message);
    goto out;
  }
  *out = x;
  pump_soon(r);
out:
  if (st != WEIR_OK) free(x);
  return st;
}

static void cancel(weir_target *t, void *p) {
  call *c = p;
  rpc *r = (rpc *)t;
  weir_client_abandon(r->client, c->id);
  free(c);
  pump_soon(r);
}

static void close_target(weir_target *t) {
  rpc *r = (rpc *)t;
  if (r->readable) event_free(r->readable);
  if (r->soon) event_free(r->soon);
  weir_client_close(r->client);
  free(r);
}

/* ---- what the engine is ---- */

typedef struct {
  rpc *r;
  bool ended;
  weir_client_error why;
} lookup;

static void on_model(void *ctx, const weir_client_model *m, const weir_client_error *why) {
  lookup *l = ctx;
  weir_target_about *a = &l->r->base.about;
  l->ended = true;
  l->why = *why;
  if (why->code != 0) return;
  snprintf(a->model, sizeof a->model, "%s", m->id ? m->id : "");
  snprintf(a->server, sizeof a->server, "weir");
  a->context = m->context < INT32_MAX ? (int32_t)m->context : 0;
}

static weir_status look_up(rpc *r, weir_err *e) {
  lookup l = {.r = r};
  weir_client_error why;
  if (weir_client_get_model(r->client, on_model, &l, &why) != 0)
    return weir_fail(e, WEIR_EIO, "%s", why.message);
  while (!l.ended) weir_client_run(r->client, 100);
  return l.why.code == 0 ? WEIR_OK : weir_fail(e, WEIR_EIO, "%s: %s", r->cfg.url, l.why.message);
}

weir_status weir_target_open_rpc(const weir_target_cfg *cfg, weir_target **out, weir_err *e) {
  static const weir_target_ops ops = {start, cancel, close_target};
  weir_status st = WEIR_OK;
  rpc *r = NULL;
  weir_client_error why;
  const weir_client_cfg client = {
      .url = cfg->url, .token = cfg->key, .call_timeout_ms = (int32_t)(cfg->connect_s * 1e3)};
  WEIR_TRY(WEIR_NEW(1, &r, e));
  r->base.ops = &ops;
  r->cfg = *cfg;
  snprintf(r->base.about.kind, sizeof r->base.about.kind, "rpc");
  if (cfg->extra) {
    st = weir_fail(e, WEIR_EINVAL, "--extra is of HTTP alone");
    goto out;
  }
  if (weir_client_open(&client, &r->client, &why) != 0) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", cfg->url, why.message);
    goto out;
  }
  r->readable = event_new(cfg->base, weir_client_fd(r->client), EV_READ | EV_PERSIST, pump, r);
  r->soon = evtimer_new(cfg->base, pump, r);
  if (!r->readable || !r->soon) {
    st = weir_fail(e, WEIR_ENOMEM, "cannot watch the connection");
    goto out;
  }
  WEIR_TRY(look_up(r, e));
  event_add(r->readable, NULL);
  *out = &r->base;
out:
  if (st != WEIR_OK && r) close_target(&r->base);
  return st;
}
