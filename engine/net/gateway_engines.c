/* SPDX-License-Identifier: Apache-2.0 */
/* The engines: a client of each in the event loop, their health and their models, and which of them a request
 * goes to. One that does not answer is left out, and comes back by itself. Thread of the event base. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/log.h"
#include "net/gateway_in.h"
#include "net/gateway_pick.h"
#include "net/openai_write.h"

enum { CALL_MS = 5000, POLL_MS = 5000, STALE_TURNS = 3 };
#define MODEL_NS (INT64_C(30) * 1000000000) /* it may have come back as another between two looks */

static void on_readable(evutil_socket_t fd, short what, void *ctx) {
  weir_gw_engine *x = ctx;
  (void)fd;
  (void)what;
  weir_client_run(x->client, 0);
}

void weir_gw_engine_wake(weir_gw_engine *x) { event_active(x->ev, EV_READ, 0); }

/* ---- health ---- */

static void set_state(weir_gw_engine *x, bool live, bool ready, const char *reason) {
  if (live != x->live || ready != x->ready)
    weir_log(ready ? WEIR_LOG_INFO : WEIR_LOG_WARN, "engine %s is %s%s%s", x->url,
             ready  ? "ready"
             : live ? "live, not ready"
                    : "not live",
             reason[0] ? ": " : "", reason);
  x->live = live;
  x->ready = ready;
  snprintf(x->reason, sizeof x->reason, "%.*s", (int)sizeof x->reason - 1, reason);
  weir_metric_set(x->up, ready ? 1 : 0);
}

static void keep_tiers(weir_gw_engine *x, const weir_client_health *h) {
  const size_t n = h->n_tiers < WEIR_CLIENT_MAX_TIERS ? h->n_tiers : WEIR_CLIENT_MAX_TIERS;
  for (size_t i = 0; i < n; i++) {
    const weir_client_tier_health *from = &h->tier[i];
    struct weir_gw_tier *to = &x->tier[i];
    const bool news = i < x->n_tiers && to->up != from->up;
    snprintf(to->name, sizeof to->name, "%s", from->name);
    snprintf(to->reason, sizeof to->reason, "%s", from->reason);
    to->up = from->up;
    to->comes_back = from->comes_back;
    to->for_ms = from->for_ms;
    to->deaths = from->deaths;
    if (news)
      weir_log(WEIR_LOG_WARN, "engine %s: the %s tier is %s%s%s", x->url, to->name, to->up ? "back" : "down",
               to->up ? "" : ": ", to->up ? "" : to->reason);
  }
  x->n_tiers = n;
}

static void on_health(void *ctx, const weir_client_health *h, const weir_client_error *e) {
  weir_gw_engine *x = ctx;
  x->asked_health = false;
  if (e->code == 499) return; /* the gateway ends */
  if (e->code) {
    char why[160];
    /* one that was never there, as far as is known here, is most likely reading its models */
    snprintf(why, sizeof why, "%s%.120s", x->heard_ns ? "" : "loading, or not there: ", e->message);
    set_state(x, false, false, why);
    return;
  }
  x->heard_ns = weir_now_ns(&x->gw->clock);
  x->running = h->running;
  x->waiting = h->waiting;
  x->queue_limit = h->queue_limit;
  keep_tiers(x, h);
  if (!x->live) x->model.known = false; /* it may be another one by now */
  set_state(x, h->live, h->live && h->ready, h->reason ? h->reason : "");
  if (!x->model.known) weir_gw_engines_ask(x->gw);
}

/* ---- models ---- */

static weir_status put_texts(weir_buf *b, const char *const *text, size_t n) {
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < n; i++) {
    if (i) WEIR_TRY(weir_buf_puts(b, ",", NULL));
    WEIR_TRY(weir_json_put_text(b, text[i], strlen(text[i]), NULL));
  }
out:
  return st;
}

static weir_status put_model(weir_buf *b, const weir_client_model *m) {
  weir_status st = WEIR_OK;
  const struct {
    const char *name;
    float x;
  } numbers[] = {{"entropy", m->entropy},
                 {"entropy_min", m->entropy_min},
                 {"entropy_max", m->entropy_max},
                 {"defer_rate", m->defer_rate}};
  WEIR_TRY(weir_buf_printf(b, NULL, "{\"context\":%u,\"modes\":[", m->context));
  WEIR_TRY(put_texts(b, m->modes, m->n_modes));
  WEIR_TRY(weir_buf_puts(b, "],\"mode\":", NULL));
  WEIR_TRY(weir_json_put_text(b, m->mode, strlen(m->mode), NULL));
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    WEIR_TRY(weir_buf_printf(b, NULL, ",\"%s\":", numbers[i].name));
    WEIR_TRY(weir_json_put_number(b, numbers[i].x, NULL));
  }
  WEIR_TRY(weir_buf_puts(b, ",\"chat_format\":", NULL));
  WEIR_TRY(weir_json_put_text(b, m->chat_format, strlen(m->chat_format), NULL));
  WEIR_TRY(weir_buf_puts(b, ",\"version\":", NULL));
  WEIR_TRY(weir_json_put_text(b, m->version, strlen(m->version), NULL));
  WEIR_TRY(weir_buf_puts(b, ",\"tiers\":[", NULL));
  for (size_t i = 0; i < m->n_tiers; i++) {
    const weir_client_tier *t = &m->tier[i];
    WEIR_TRY(weir_buf_puts(b, i ? ",{\"name\":" : "{\"name\":", NULL));
    WEIR_TRY(weir_json_put_text(b, t->name, strlen(t->name), NULL));
    WEIR_TRY(weir_buf_puts(b, ",\"model\":", NULL));
    WEIR_TRY(weir_json_put_text(b, t->model, strlen(t->model), NULL));
    WEIR_TRY(weir_buf_puts(b, ",\"type\":", NULL));
    WEIR_TRY(weir_json_put_text(b, t->type, strlen(t->type), NULL));
    WEIR_TRY(weir_buf_printf(b, NULL, ",\"weight_bytes\":%llu}", (unsigned long long)t->weight_bytes));
  }
  WEIR_TRY(weir_buf_puts(b, "]}", NULL));
out:
  return st;
}

static void on_model(void *ctx, const weir_client_model *m, const weir_client_error *e) {
  weir_gw_engine *x = ctx;
  x->asked_model = false;
  if (e->code == 499) return;
  if (e->code) {
    weir_log(WEIR_LOG_WARN, "engine %s does not say what its model is: %s", x->url, e->message);
    return;
  }
  weir_buf_truncate(&x->model.weir, 0);
  x->model.known = put_model(&x->model.weir, m) == WEIR_OK;
  x->model.told_ns = weir_now_ns(&x->gw->clock);
  x->model.context = m->context;
  snprintf(x->model.id, sizeof x->model.id, "%s", m->id);
  memset(x->model.tier, 0, sizeof x->model.tier);
  for (size_t i = 0; i < m->n_tiers && i < WEIR_CLIENT_MAX_TIERS; i++)
    snprintf(x->model.tier[i], sizeof x->model.tier[i], "%s", m->tier[i].name);
}

void weir_gw_engines_ask(weir_gw *g) {
  const int64_t now = weir_now_ns(&g->clock), stale = (int64_t)g->cfg.health_ms * 1000000 * STALE_TURNS;
  for (int32_t i = 0; i < g->n_engines; i++) {
    weir_gw_engine *x = &g->engine[i];
    weir_client_error e;
    if (x->live && now - x->heard_ns > stale) set_state(x, false, false, "it does not answer");
    if (!x->asked_health) x->asked_health = weir_client_get_health(x->client, on_health, x, &e) == 0;
    if (x->live && !x->asked_model && (!x->model.known || now - x->model.told_ns > MODEL_NS))
      x->asked_model = weir_client_get_model(x->client, on_model, x, &e) == 0;
    weir_gw_engine_wake(x);
  }
}

/* ---- which one ---- */

/* Or may have: an engine that has not said yet is asked, and says itself. */
static bool has_model(const weir_gw_engine *x, const char *model) {
  return !model || !model[0] || !x->model.known || !strcmp(model, x->model.id);
}

weir_gw_engine *weir_gw_engine_for(weir_gw *g, const char *model, uint64_t key, int32_t but,
                                   weir_openai_error *e) {
  weir_gw_load load[WEIR_GW_MAX_ENGINES];
  const weir_gw_engine *away = NULL; /* has the model, or may have it, and is not ready */
  for (int32_t i = 0; i < g->n_engines; i++) {
    const weir_gw_engine *x = &g->engine[i];
    const uint32_t told = x->running + x->waiting, own = (uint32_t)x->open;
    const bool has = has_model(x, model);
    load[i] = (weir_gw_load){x->ready && has && i != but, told > own ? told : own, x->seed};
    if (!x->ready && has) away = x;
  }
  const int32_t got = weir_gw_pick(load, g->n_engines, key);
  if (got >= 0) return &g->engine[got];
  if (!away && but < 0) {
    weir_openai_fail(e, 404, "model_not_found", "model", "the model `%.200s` is not served here", model);
  } else {
    weir_openai_fail(e, 503, NULL, NULL, "no engine is ready%s%s", away && away->reason[0] ? ": " : "",
                     away ? away->reason : "");
    e->retry_after_ms = 1000;
  }
  return NULL;
}

/* ---- life ---- */

weir_status weir_gw_engines_open(weir_gw *g, weir_err *e) {
  if (g->cfg.n_engines < 1 || g->cfg.n_engines > WEIR_GW_MAX_ENGINES)
    return weir_fail(e, WEIR_EINVAL, "there must be 1 to %d engines", WEIR_GW_MAX_ENGINES);
  for (int32_t i = 0; i < g->cfg.n_engines; i++) {
    weir_gw_engine *x = &g->engine[i];
    weir_client_error why;
    x->gw = g;
    x->url = strdup(g->cfg.engine[i]);
    g->n_engines = i + 1;
    if (!x->url) return weir_fail(e, WEIR_ENOMEM, "no memory for the engines");
    for (int32_t k = 0; k < i; k++)
      if (!strcmp(x->url, g->engine[k].url))
        return weir_fail(e, WEIR_EINVAL, "the engine %s is there twice", x->url);
    x->seed = XXH3_64bits(x->url, strlen(x->url));
    snprintf(x->reason, sizeof x->reason, "loading");
    /* a poll that is parked on the engine is no silence */
    const int32_t poll_ms = g->cfg.lost_ms / 2 < POLL_MS ? g->cfg.lost_ms / 2 : POLL_MS;
    const weir_client_cfg cfg = {.url = x->url,
                                 .token = g->cfg.token,
                                 .call_timeout_ms = CALL_MS,
                                 .poll_ms = poll_ms > 0 ? poll_ms : 1,
                                 .lost_after_ms = g->cfg.lost_ms};
    if (weir_client_open(&cfg, &x->client, &why) != 0)
      return weir_fail(e, WEIR_EINVAL, "engine %s: %s", x->url, why.message);
    x->ev = event_new(g->base, weir_client_fd(x->client), EV_READ | EV_PERSIST, on_readable, x);
    if (!x->ev || event_add(x->ev, NULL) != 0) return weir_fail(e, WEIR_ENOMEM, "no memory for the engines");
  }
  return WEIR_OK;
}

void weir_gw_engines_close(weir_gw *g) {
  for (int32_t i = 0; i < g->n_engines; i++) {
    weir_gw_engine *x = &g->engine[i];
    if (x->ev) event_free(x->ev);
    weir_client_close(x->client);
    weir_buf_fini(&x->model.weir);
    free(x->url);
  }
  g->n_engines = 0;
}
