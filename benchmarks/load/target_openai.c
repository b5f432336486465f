/* SPDX-License-Identifier: Apache-2.0 */
/* A target over HTTP. Each request is one call of http.h whose body is an event stream, read by sse.h and
 * openai.h, or one whole answer. The load's thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/http.h"
#include "load/openai.h"
#include "load/sse.h"

enum { MAX_WHOLE_BYTES = 64 << 20 };

typedef struct {
  weir_target base;
  weir_target_cfg cfg;
  weir_http *http;
  json_t *extra;
  weir_buf body; /* scratch */
} openai;

typedef struct {
  openai *o;
  weir_http_call *http;
  weir_target_events ev;
  weir_openai_answer a;
  weir_sse sse;
  weir_buf whole;
  int status;
  bool stream, dead;
  int busy; /* depth of callbacks under way: a cancel from within only marks */
} call;

static void free_call(call *c) {
  weir_sse_fini(&c->sse);
  weir_buf_fini(&c->whole);
  free(c);
}

static weir_status on_head(void *ctx, const weir_http_head *h, weir_err *e) {
  call *c = ctx;
  (void)e;
  c->status = h->status;
  c->a.end.retry_after_s = h->retry_after_s;
  c->stream = h->status == 200 && !strcmp(h->type, "text/event-stream");
  return WEIR_OK;
}

static weir_status on_event(void *ctx, const char *data, size_t len, weir_err *e) {
  call *c = ctx;
  if (c->dead) return WEIR_ECANCEL;
  if (c->a.done) return WEIR_OK;
  return weir_openai_read(&c->a, data, len, false, &c->ev, e);
}

static weir_status on_body(void *ctx, const char *bytes, size_t n, weir_err *e) {
  call *c = ctx;
  weir_status st;
  if (!c->stream) {
    if (c->whole.len + n > MAX_WHOLE_BYTES) return weir_fail(e, WEIR_EFORMAT, "an answer without an end");
    return weir_buf_put(&c->whole, bytes, n, e);
  }
  c->busy++;
  st = weir_sse_feed(&c->sse, bytes, n, on_event, c, e);
  c->busy--;
  if (c->dead && c->busy == 0) {
    free_call(c);
    return WEIR_ECANCEL;
  }
  return st;
}

static void broken(weir_target_end *end, int code, const char *what, const char *message) {
  end->ok = false;
  end->code = code;
  snprintf(end->what, sizeof end->what, "%s", what);
  snprintf(end->message, sizeof end->message, "%.*s", (int)sizeof end->message - 1, message);
}

/* What an answer came to, once all of it is there. */
static void judge(call *c, weir_status st, const weir_err *why) {
  weir_target_end *end = &c->a.end;
  weir_err e = {0};
  if (st == WEIR_OK && c->status == 200 && !c->stream) {
    st = weir_openai_read(&c->a, c->whole.data ? c->whole.data : "", c->whole.len, true, &c->ev, &e);
    why = &e;
    c->a.done = st == WEIR_OK;
  }
  if (st == WEIR_EUNSUP) return; /* the stream told an error, which is in `end` */
  if (st == WEIR_EFORMAT)
    broken(end, 0, "malformed answer", why->msg);
  else if (st != WEIR_OK && !(c->a.done && st == WEIR_EIO)) /* a connection may be cut when all is said */
    broken(end, 0, strncmp(why->msg, "connection closed", 17) ? "connection" : "closed early", why->msg);
  else if (c->status != 200)
    weir_openai_read_error(&c->a, c->status, c->whole.data, c->whole.len);
  else if (!c->a.done && !c->a.finished)
    broken(end, 0, "closed early", "the stream ended without [DONE] or a finish reason");
  else {
    end->ok = true;
    end->code = 200;
  }
}

static void on_end(void *ctx, weir_status st, const weir_err *why) {
  call *c = ctx;
  c->busy++;
  judge(c, st, why);
  c->busy--;
  if (!c->dead) {
    c->dead = true;
    c->ev.on_end(c->ev.ctx, &c->a.end);
  }
  free_call(c);
}

static weir_status start(weir_target *t, const weir_target_ask *ask, const weir_target_events *ev, void **out,
                         weir_err *e) {
  weir_status st = WEIR_OK;
  openai *o = (openai *)t;
  call *c = NULL;
  WEIR_TRY(weir_openai_body(&o->cfg, t->about.model, ask, o->extra, &o->body, e));
  WEIR_TRY(WEIR_NEW(1, &c, e));
  c->o = o;
  c->ev = *ev;
  weir_openai_answer_init(&c->a);
  const weir_http_ask a = {.path = o->cfg.chat ? "/v1/chat/completions" : "/v1/completions",
                           .body = o->body.data,
                           .body_len = o->body.len,
                           .read_bytes_s = ask->read_bytes_s};
  const weir_http_events he = {on_head, on_body, on_end, c};
  WEIR_TRY(weir_http_start(o->http, &a, &he, &c->http, e));
  *out = c;
out:
  if (st != WEIR_OK && c) free_call(c);
  return st;
}

static void cancel(weir_target *t, void *p) {
  call *c = p;
  (void)t;
  if (c->dead) return;
  c->dead = true;
  weir_http_drop(c->http);
  if (c->busy == 0) free_call(c);
}

static void close_target(weir_target *t) {
  openai *o = (openai *)t;
  weir_http_close(o->http);
  json_decref(o->extra);
  weir_buf_fini(&o->body);
  free(o);
}

/* ---- what the server is ---- */

typedef struct {
  weir_buf body;
  int status;
  bool ended, late;
  weir_status st;
  weir_err e;
  struct event_base *base;
} lookup;

static weir_status look_head(void *ctx, const weir_http_head *h, weir_err *e) {
  (void)e;
  ((lookup *)ctx)->status = h->status;
  return WEIR_OK;
}

static weir_status look_body(void *ctx, const char *bytes, size_t n, weir_err *e) {
  lookup *l = ctx;
  if (l->body.len + n > (4 << 20)) return weir_fail(e, WEIR_EFORMAT, "/v1/models is too long");
  return weir_buf_put(&l->body, bytes, n, e);
}

static void look_end(void *ctx, weir_status st, const weir_err *e) {
  lookup *l = ctx;
  l->ended = true;
  l->st = st;
  l->e = *e;
  event_base_loopbreak(l->base);
}

static void look_late(evutil_socket_t fd, short what, void *ctx) {
  lookup *l = ctx;
  (void)fd;
  (void)what;
  l->late = true;
  event_base_loopbreak(l->base);
}

static int32_t context_of(const json_t *m) {
  static const char *const at[][2] = {{"weir", "context"}, {"meta", "n_ctx"}, {"meta", "n_ctx_train"}};
  const json_t *v = json_object_get(m, "max_model_len"); /* vLLM */
  for (size_t i = 0; !v && i < sizeof at / sizeof *at; i++)
    v = json_object_get(json_object_get(m, at[i][0]), at[i][1]);
  const json_int_t n = json_is_integer(v) ? json_integer_value(v) : 0;
  return n > 0 && n < INT32_MAX ? (int32_t)n : 0;
}

static weir_status read_models(openai *o, const lookup *l, weir_err *e) {
  weir_status st = WEIR_OK;
  json_error_t why;
  json_t *doc = json_loadb(l->body.data ? l->body.data : "", l->body.len, 0, &why);
  const json_t *list = json_object_get(doc, "data"), *found = json_array_get(list, 0), *m;
  size_t i;
  json_array_foreach(list, i, m) {
    const char *id = json_string_value(json_object_get(m, "id"));
    if (o->cfg.model && id && !strcmp(id, o->cfg.model)) found = m;
  }
  const char *id = json_string_value(json_object_get(found, "id"));
  const char *owner = json_string_value(json_object_get(found, "owned_by"));
  if (l->status == 401 || l->status == 403)
    st = weir_fail(e, WEIR_EINVAL, "%s: the server wants another key (--key): status %d", o->cfg.url,
                   l->status);
  else if (!id && !o->cfg.model)
    st = weir_fail(e, WEIR_EFORMAT, "%s/v1/models: status %d, and no model in it: name one with --model",
                   o->cfg.url, l->status);
  if (st == WEIR_OK) {
    snprintf(o->base.about.model, sizeof o->base.about.model, "%s", o->cfg.model ? o->cfg.model : id);
    snprintf(o->base.about.server, sizeof o->base.about.server, "%s",
             json_object_get(found, "weir") ? "weir"
             : owner                        ? owner
                                            : "");
    o->base.about.context = context_of(found);
  }
  json_decref(doc);
  return st;
}

static weir_status look_up(openai *o, weir_err *e) {
  weir_status st = WEIR_OK;
  lookup l = {.base = o->cfg.base};
  weir_http_call *c = NULL;
  const weir_http_ask ask = {.path = "/v1/models"};
  const weir_http_events ev = {look_head, look_body, look_end, &l};
  const double s = o->cfg.connect_s;
  const struct timeval wait = {(long)s, (long)((s - floor(s)) * 1e6)};
  struct event *timer = evtimer_new(o->cfg.base, look_late, &l);
  if (!timer || evtimer_add(timer, &wait) != 0) {
    st = weir_fail(e, WEIR_ENOMEM, "cannot begin");
    goto out;
  }
  WEIR_TRY(weir_http_start(o->http, &ask, &ev, &c, e));
  while (!l.ended && !l.late)
    if (event_base_dispatch(o->cfg.base) != 0) break;
  if (!l.ended) {
    weir_http_drop(c);
    st = weir_fail(e, WEIR_EIO, "%s: no answer within %g s", o->cfg.url, o->cfg.connect_s);
    goto out;
  }
  if (l.st != WEIR_OK) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", o->cfg.url, l.e.msg);
    goto out;
  }
  st = read_models(o, &l, e);
out:
  if (timer) event_free(timer);
  weir_buf_fini(&l.body);
  return st;
}

weir_status weir_target_open_http(const weir_target_cfg *cfg, weir_target **out, weir_err *e) {
  static const weir_target_ops ops = {start, cancel, close_target};
  weir_status st = WEIR_OK;
  openai *o = NULL;
  json_error_t why;
  const weir_http_cfg http = {cfg->base, cfg->url, cfg->key, cfg->keep_alive};
  WEIR_TRY(WEIR_NEW(1, &o, e));
  o->base.ops = &ops;
  o->cfg = *cfg;
  snprintf(o->base.about.kind, sizeof o->base.about.kind, "http");
  if (cfg->extra) {
    o->extra = json_loads(cfg->extra, 0, &why);
    if (!json_is_object(o->extra)) {
      st = weir_fail(e, WEIR_EINVAL, "--extra: want an object of JSON%s%s", o->extra ? "" : ": ",
                     o->extra ? "" : why.text);
      goto out;
    }
  }
  WEIR_TRY(weir_http_open(&http, &o->http, e));
  WEIR_TRY(look_up(o, e));
  *out = &o->base;
out:
  if (st != WEIR_OK && o) close_target(&o->base);
  return st;
}
