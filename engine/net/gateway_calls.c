/* SPDX-License-Identifier: Apache-2.0 */
/* Models, tokens and health: what is known already, and what one call to an engine tells. Thread of the event
 * base. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/gateway_in.h"
#include "net/openai_write.h"

/* ---- models ---- */

static weir_status put_model(weir_buf *b, const weir_gw_model *m, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "{\"id\":", e));
  WEIR_TRY(weir_json_put_text(b, m->id, strlen(m->id), e));
  WEIR_TRY(weir_buf_printf(b, e,
                           ",\"object\":\"model\",\"created\":0,\"owned_by\":\"weir\",\"max_model_len\":%u,"
                           "\"weir\":%s}",
                           m->context, m->weir.data));
out:
  return st;
}

/* The first engine that serves a model speaks for it. */
static bool is_first(const weir_gw *g, int32_t i) {
  for (int32_t k = 0; k < i; k++)
    if (g->engine[k].model.known && !strcmp(g->engine[k].model.id, g->engine[i].model.id)) return false;
  return g->engine[i].model.known;
}

static weir_status put_models(weir_gw *g, const char *id, weir_buf *b, weir_err *e) {
  weir_status st = WEIR_OK;
  bool any = false;
  if (!id) WEIR_TRY(weir_buf_puts(b, "{\"object\":\"list\",\"data\":[", e));
  for (int32_t i = 0; i < g->n_engines; i++) {
    const weir_gw_model *m = &g->engine[i].model;
    if (!is_first(g, i) || (id && strcmp(id, m->id) != 0)) continue;
    if (any) WEIR_TRY(weir_buf_puts(b, ",", e));
    any = true;
    WEIR_TRY(put_model(b, m, e));
  }
  if (!id) WEIR_TRY(weir_buf_puts(b, "]}", e));
out:
  return st;
}

void weir_gw_models(weir_gw *g, weir_http_request *r, const char *id) {
  weir_buf b = {0};
  weir_err e;
  if (put_models(g, id, &b, &e) != WEIR_OK)
    weir_gw_reply_fail(r, 503, NULL, "the gateway is out of memory");
  else if (b.len == 0)
    weir_gw_reply_fail(r, 404, "model_not_found", "the model `%.200s` is not served here", id);
  else
    weir_gw_reply_json(r, 200, &b);
  weir_buf_fini(&b);
}

/* ---- health ---- */

weir_status weir_gw_put_tiers(weir_buf *b, const weir_gw_engine *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t since = (weir_now_ns(&x->gw->clock) - x->heard_ns) / 1000000; /* told so long ago */
  WEIR_TRY(weir_buf_puts(b, "\"tiers\":[", e));
  for (size_t i = 0; i < x->n_tiers; i++) {
    const struct weir_gw_tier *t = &x->tier[i];
    WEIR_TRY(weir_buf_puts(b, i ? ",{\"name\":" : "{\"name\":", e));
    WEIR_TRY(weir_json_put_text(b, t->name, strlen(t->name), e));
    WEIR_TRY(weir_buf_printf(b, e, ",\"up\":%s,\"for_s\":%.3f,\"deaths\":%llu", t->up ? "true" : "false",
                             ((double)t->for_ms + (double)(since > 0 ? since : 0)) / 1e3,
                             (unsigned long long)t->deaths));
    if (!t->up) {
      WEIR_TRY(weir_buf_printf(b, e, ",\"comes_back\":%s,\"reason\":", t->comes_back ? "true" : "false"));
      WEIR_TRY(weir_json_put_text(b, t->reason, strlen(t->reason), e));
    }
    WEIR_TRY(weir_buf_puts(b, "}", e));
  }
  WEIR_TRY(weir_buf_puts(b, "]", e));
out:
  return st;
}

/* Of each engine whether it is live and ready, and its tiers: where engines are is not told, since no key is
 * asked for. */
static weir_status put_health(const weir_gw *g, weir_buf *b, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "{\"engines\":[", e));
  for (int32_t i = 0; i < g->n_engines; i++) {
    const weir_gw_engine *x = &g->engine[i];
    WEIR_TRY(weir_buf_printf(b, e, "%s{\"live\":%s,\"ready\":%s,", i ? "," : "", x->live ? "true" : "false",
                             x->ready ? "true" : "false"));
    WEIR_TRY(weir_gw_put_tiers(b, x, e));
    WEIR_TRY(weir_buf_puts(b, "}", e));
  }
  WEIR_TRY(weir_buf_puts(b, "]}", e));
out:
  return st;
}

static void reply_health(const weir_gw *g, weir_http_request *r) {
  weir_buf b = {0};
  weir_err e;
  if (put_health(g, &b, &e) == WEIR_OK)
    weir_gw_reply_json(r, 200, &b);
  else
    weir_http_reply(r, 200, "application/json", "{}", 2); /* it lives all the same */
  weir_buf_fini(&b);
}

void weir_gw_health(weir_gw *g, weir_http_request *r, bool ready) {
  const weir_gw_engine *bad = NULL;
  bool good = false;
  for (int32_t i = 0; i < g->n_engines; i++) {
    const weir_gw_engine *x = &g->engine[i];
    good = good || (ready ? x->ready : x->live);
    bad = x;
  }
  if (ready && g->draining)
    weir_gw_reply_fail(r, 503, NULL, "the gateway is about to end");
  else if (good)
    reply_health(g, r);
  else
    weir_gw_reply_fail(r, 503, NULL, "no engine is %s%s%s", ready ? "ready" : "live",
                       bad && bad->reason[0] ? ": " : "", bad ? bad->reason : "");
}

/* ---- tokens ---- */

typedef struct call {
  weir_gw *gw;
  weir_gw_engine *engine;
  weir_http_request *http; /* NULL: gone */
  uint32_t context;
} call;

static void on_gone(void *ctx) { ((call *)ctx)->http = NULL; }

static call *call_new(weir_gw *g, weir_http_request *r, weir_gw_engine *x) {
  call *c = calloc(1, sizeof *c);
  if (!c) {
    weir_gw_reply_fail(r, 503, NULL, "the gateway is out of memory");
    return NULL;
  }
  *c = (call){g, x, r, x->model.context};
  weir_http_request_set_gone(r, on_gone, c);
  g->n_pending++;
  weir_gw_engine_wake(x);
  return c;
}

/* Ends the call with what `b` holds, or the error. */
static void call_end(call *c, weir_buf *b, weir_status st, const weir_client_error *e) {
  c->gw->n_pending--;
  if (c->http && e->code) {
    const weir_openai_error error = weir_gw_error_of(e, NULL);
    weir_gw_reply_error(c->http, &error);
  } else if (c->http && st != WEIR_OK) {
    weir_gw_reply_fail(c->http, 503, NULL, "the gateway is out of memory");
  } else if (c->http) {
    weir_gw_reply_json(c->http, 200, b);
  }
  weir_buf_fini(b);
  free(c);
}

static weir_status put_ids(weir_buf *b, const weir_client_ids *ids, uint32_t context, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "{\"tokens\":[", e));
  for (size_t i = 0; i < ids->n; i++) WEIR_TRY(weir_buf_printf(b, e, i ? ",%u" : "%u", ids->id[i]));
  WEIR_TRY(weir_buf_printf(b, e, "],\"count\":%zu,\"max_model_len\":%u}", ids->n, context));
out:
  return st;
}

static void on_ids(void *ctx, const weir_client_ids *ids, const weir_client_error *e) {
  call *c = ctx;
  weir_buf b = {0};
  call_end(c, &b, e->code ? WEIR_OK : put_ids(&b, ids, c->context, NULL), e);
}

static weir_status put_prompt(weir_buf *b, const char *text, size_t len, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "{\"prompt\":", e));
  WEIR_TRY(weir_json_put_text(b, text, len, e));
  WEIR_TRY(weir_buf_puts(b, "}", e));
out:
  return st;
}

static void on_text(void *ctx, const char *text, size_t len, const weir_client_error *e) {
  weir_buf b = {0};
  call_end(ctx, &b, e->code ? WEIR_OK : put_prompt(&b, text, len, NULL), e);
}

/* ---- the two paths: they differ in how the body is read and in what the engine is asked ---- */

typedef int parse_fn(const char *body, size_t len, weir_openai_tokenize *, weir_openai_error *);
typedef int ask_fn(weir_gw_engine *, const weir_openai_tokenize *, call *, weir_client_error *);

static void start(weir_gw *g, weir_http_request *r, parse_fn *parse, ask_fn *ask) {
  size_t len;
  const char *body = weir_http_body(r, &len);
  weir_openai_tokenize q;
  weir_openai_error error;
  weir_client_error why;
  if (parse(body, len, &q, &error) != 0) {
    weir_gw_reply_error(r, &error);
    return;
  }
  weir_gw_engine *x = weir_gw_engine_for(g, q.model, (uint64_t)g->n_pending, -1, &error);
  call *c = x ? call_new(g, r, x) : NULL;
  if (!x)
    weir_gw_reply_error(r, &error);
  else if (c && ask(x, &q, c, &why) != 0)
    call_end(c, &(weir_buf){0}, WEIR_OK, &why);
  weir_openai_tokenize_fini(&q);
}

static int ask_ids(weir_gw_engine *x, const weir_openai_tokenize *q, call *c, weir_client_error *e) {
  return weir_client_tokenize(x->client, q->text ? q->text : "", q->text ? strlen(q->text) : 0, false,
                              q->bare, q->message, q->n_messages, on_ids, c, e);
}

static int ask_text(weir_gw_engine *x, const weir_openai_tokenize *q, call *c, weir_client_error *e) {
  return weir_client_detokenize(x->client, q->ids, q->n_ids, on_text, c, e);
}

void weir_gw_tokenize(weir_gw *g, weir_http_request *r) { start(g, r, weir_openai_parse_tokenize, ask_ids); }
void weir_gw_detokenize(weir_gw *g, weir_http_request *r) {
  start(g, r, weir_openai_parse_detokenize, ask_text);
}
