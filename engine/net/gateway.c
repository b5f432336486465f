/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's frame: what path goes where, who may, the log of accesses, start and end. Thread of the event
 * base. */
#include "net/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "net/gateway_in.h"

enum { CUT_MS = 500 }; /* for the last words */

/* ---- keys ---- */

static const char no_key[] = "a valid API key is needed: Authorization: Bearer KEY";

static bool may(const weir_gw *g, const weir_http_request *r) {
  return weir_gw_key_opens(g, weir_http_header(r, "Authorization"), weir_http_header(r, "X-Api-Key"));
}

static bool head_may(const weir_gw *g, const weir_http_head *h) {
  char shown[WEIR_GW_KEY_BYTES + 64], other[WEIR_GW_KEY_BYTES + 64];
  const bool a = weir_http_guard_header(h->guard, "Authorization", shown, sizeof shown),
             b = weir_http_guard_header(h->guard, "X-Api-Key", other, sizeof other);
  const bool good = weir_gw_key_opens(g, a ? shown : NULL, b ? other : NULL);
  explicit_bzero(shown, sizeof shown);
  explicit_bzero(other, sizeof other);
  return good;
}

/* ---- paths ---- */

typedef enum { GET, POST } verb;
typedef enum {
  PAGE,
  HEALTH,
  READY,
  MODELS,
  COMPLETIONS,
  CHAT,
  TOKENIZE,
  DETOKENIZE,
  METRICS,
  STATS
} route_id;
typedef struct route {
  const char *path;
  verb method;
  bool open; /* without a key */
  route_id id;
} route;

static const route routes[] = {
    {"/", GET, true, PAGE},
    {"/health", GET, true, HEALTH},
    {"/ready", GET, true, READY},
    {"/v1/models", GET, false, MODELS},
    {"/v1/completions", POST, false, COMPLETIONS},
    {"/v1/chat/completions", POST, false, CHAT},
    {"/tokenize", POST, false, TOKENIZE},
    {"/detokenize", POST, false, DETOKENIZE},
    {"/metrics", GET, false, METRICS},
    {"/stats", GET, false, STATS},
};

static const route *find_route(const char *path) {
  for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
    if (!strcmp(routes[i].path, path) || (routes[i].id == MODELS && !strncmp(path, "/v1/models/", 11)))
      return &routes[i];
  return NULL;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* %2F and the like in a model's name; false: too long, or what cannot be one. */
static bool decode(const char *in, char *out, size_t bytes) {
  size_t n = 0;
  for (; *in; in++) {
    int c = (unsigned char)*in;
    if (c == '%') {
      const int high = hex_digit(in[1]), low = high < 0 ? -1 : hex_digit(in[2]);
      c = low < 0 ? 0 : high * 16 + low;
      in += 2;
    }
    if (c == 0 || n + 1 >= bytes) return false;
    out[n++] = (char)c;
  }
  out[n] = 0;
  return n > 0;
}

static void reply_models(weir_gw *g, weir_http_request *r) {
  const char *path = weir_http_path(r);
  char id[256];
  if (!strcmp(path, "/v1/models"))
    weir_gw_models(g, r, NULL);
  else if (decode(path + 11, id, sizeof id))
    weir_gw_models(g, r, id);
  else
    weir_gw_reply_fail(r, 404, "model_not_found", "there is no such model");
}

/* ---- requests ---- */

static void put_cors(const weir_gw *g, weir_http_request *r, bool preflight) {
  if (!g->cors) return;
  weir_http_set_header(r, "Access-Control-Allow-Origin", g->cors);
  if (strcmp(g->cors, "*") != 0) weir_http_set_header(r, "Vary", "Origin");
  if (!preflight) return;
  /* clients of OpenAI's send a dozen of their own (X-Stainless-...): none of them means anything here */
  const char *asked = weir_http_header(r, "Access-Control-Request-Headers");
  weir_http_set_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  weir_http_set_header(
      r, "Access-Control-Allow-Headers",
      asked && weir_gw_are_header_names(asked) ? asked : "Authorization, Content-Type, X-Api-Key");
  weir_http_set_header(r, "Access-Control-Max-Age", "600");
}

static void dispatch(weir_gw *g, weir_http_request *r, const route *to) {
  switch (to->id) {
    case PAGE: weir_gw_page(r); break;
    case HEALTH: weir_gw_health(g, r, false); break;
    case READY: weir_gw_health(g, r, true); break;
    case MODELS: reply_models(g, r); break;
    case COMPLETIONS: weir_gw_complete(g, r, WEIR_OPENAI_COMPLETION); break;
    case CHAT: weir_gw_complete(g, r, WEIR_OPENAI_CHAT); break;
    case TOKENIZE: weir_gw_tokenize(g, r); break;
    case DETOKENIZE: weir_gw_detokenize(g, r); break;
    case METRICS: weir_gw_gather(g, r, false); break;
    case STATS: weir_gw_gather(g, r, true); break;
  }
}

/* Before a body is read: who may not send one, and who came to a full house. What has no body is answered as
 * any other request, with all headers, on a connection that stays. */
static weir_http_refusal on_head(void *ctx, const weir_http_head *h) {
  const weir_gw *g = ctx;
  const route *to = find_route(h->path);
  if (h->full && !(to && (to->id == HEALTH || to->id == READY)))
    return (weir_http_refusal){503, "too many connections", NULL};
  if (h->has_body && !(to && to->open) && !head_may(g, h))
    return (weir_http_refusal){401, no_key, "WWW-Authenticate: Bearer\r\n"};
  return (weir_http_refusal){0, NULL, NULL};
}

static void on_request(void *ctx, weir_http_request *r) {
  weir_gw *g = ctx;
  const char *method = weir_http_method(r);
  const route *to = find_route(weir_http_path(r));
  const bool options = !strcmp(method, "OPTIONS");
  weir_gw_metrics_begin(g->metrics);
  put_cors(g, r, options);
  const bool probe = to && (to->id == HEALTH || to->id == READY);
  if (g->check_host && !probe && !weir_gw_host_is_ours(g, weir_http_header(r, "Host"))) {
    weir_gw_reply_fail(
        r, 403, "host_not_allowed",
        "this gateway has no keys and answers to localhost, IP addresses and --allow-host alone");
    return;
  }
  if (!to && !may(g, r)) {
    weir_gw_reply_fail(r, 401, "invalid_api_key", "%s", no_key);
    return;
  }
  if (!to) {
    weir_gw_reply_fail(r, 404, NULL, "there is nothing at this path");
    return;
  }
  const bool good =
      to->method == POST ? !strcmp(method, "POST") : !strcmp(method, "GET") || !strcmp(method, "HEAD");
  if (!good) {
    weir_http_set_header(r, "Allow", to->method == POST ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
    if (options)
      weir_http_reply(r, 204, NULL, NULL, 0);
    else
      weir_gw_reply_fail(r, 405, NULL, "%s is not a method of this path", method);
  } else if (!to->open && !may(g, r)) {
    weir_gw_reply_fail(r, 401, "invalid_api_key", "%s", no_key);
  } else if (g->draining && to->method == POST) {
    weir_gw_reply_fail(r, 503, NULL, "the gateway is about to end");
  } else {
    dispatch(g, r, to);
  }
}

static void on_record(void *ctx, const weir_http_record *x) {
  weir_gw *g = ctx;
  weir_gw_note *note = x->owner;
  const char *state = note ? note->state : NULL;
  weir_gw_metrics_record(g->metrics, x, state);
  if (g->cfg.access_log) {
    weir_log_field f[12];
    int32_t n = 0;
    f[n++] = weir_log_str("peer", x->peer);
    f[n++] = weir_log_int("status", x->code);
    f[n++] = weir_log_num("ms", (double)x->ns / 1e6);
    f[n++] = weir_log_int("bytes_in", (int64_t)x->bytes_in);
    f[n++] = weir_log_int("bytes_out", (int64_t)x->bytes_out);
    if (x->gone) f[n++] = weir_log_str("gone", state ? state : "other");
    if (note) {
      f[n++] = weir_log_str("id", note->id);
      f[n++] = weir_log_str("model", note->model);
      f[n++] = weir_log_str("engine", note->engine);
      f[n++] = weir_log_int("prompt_tokens", (int64_t)note->prompt_tokens);
      f[n++] = weir_log_int("completion_tokens", (int64_t)note->completion_tokens);
    }
    /* what machines ask every few seconds is no news */
    const bool probe =
        !strcmp(x->path, "/health") || !strcmp(x->path, "/ready") || !strcmp(x->path, "/metrics");
    const weir_log_level level = probe && !x->gone ? WEIR_LOG_DEBUG : WEIR_LOG_INFO;
    if (x->method[0])
      weir_log_with(level, f, n, "%s %.100s", x->method, x->path);
    else
      weir_log_with(level, f, n, "refused unread%s%.100s", x->path[0] ? ": " : "", x->path);
  }
  free(note);
}

/* ---- the end ---- */

/* Twice: when the time is over, what is left is told so, and has a moment to read it. */
static void on_drain(evutil_socket_t fd, short what, void *ctx) {
  weir_gw *g = ctx;
  const struct timeval soon = {0, 20000};
  (void)fd;
  (void)what;
  const bool busy = g->jobs || g->n_pending > 0 || weir_http_server_busy(g->http) > 0,
             late = weir_now_ns(&g->clock) >= g->drain_until_ns;
  if (!busy || (late && g->was_cut)) {
    event_base_loopbreak(g->base);
    return;
  }
  if (late) {
    weir_log(WEIR_LOG_WARN, "requests under way are cut");
    g->was_cut = true;
    g->drain_until_ns = weir_now_ns(&g->clock) + (int64_t)CUT_MS * 1000000;
    weir_gw_jobs_fail(g);
  }
  event_add(g->drain, &soon);
}

void weir_gw_drain(weir_gw *g, int32_t ms) {
  if (g->draining) return;
  g->draining = true;
  g->drain_until_ns = weir_now_ns(&g->clock) + (int64_t)ms * 1000000;
  weir_http_server_drain(g->http);
  event_active(g->drain, EV_TIMEOUT, 0);
}

void weir_gw_cut(weir_gw *g) {
  weir_gw_drain(g, 0);
  if (!g->was_cut) g->drain_until_ns = weir_now_ns(&g->clock);
  event_active(g->drain, EV_TIMEOUT, 0);
}

bool weir_gw_was_cut(const weir_gw *g) { return g->was_cut || g->jobs || weir_http_server_busy(g->http) > 0; }

/* ---- life ---- */

static void on_tick(evutil_socket_t fd, short what, void *ctx) {
  weir_gw *g = ctx;
  const struct timeval next = {g->cfg.health_ms / 1000, g->cfg.health_ms % 1000 * 1000};
  (void)fd;
  (void)what;
  weir_gw_engines_ask(g);
  event_add(g->tick, &next);
}

static void set_defaults(weir_gw_cfg *c) {
  const struct {
    int32_t *x, def;
  } ints[] = {{&c->max_connections, 512}, {&c->max_n, 8},        {&c->max_prompts, 64},
              {&c->head_ms, 10000},       {&c->body_ms, 60000},  {&c->idle_ms, 75000},
              {&c->stall_ms, 30000},      {&c->health_ms, 1000}, {&c->lost_ms, 10000}};
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
    if (*ints[i].x <= 0) *ints[i].x = ints[i].def;
  if (c->max_body_bytes <= 0) c->max_body_bytes = 4 << 20;
  if (c->max_unsent_bytes <= 0) c->max_unsent_bytes = 8 << 20;
}

weir_status weir_gw_create(struct event_base *base, const weir_gw_cfg *cfg, weir_gw **out, weir_err *e) {
  weir_gw *g = NULL;
  weir_status st = WEIR_OK;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &g, e));
  g->cfg = *cfg;
  g->base = base;
  g->clock = weir_clock_system();
  set_defaults(&g->cfg);
  WEIR_TRY(weir_gw_access_take(g, cfg, e));
  g->cors = cfg->cors ? strdup(cfg->cors) : NULL;
  g->tick = evtimer_new(base, on_tick, g);
  g->drain = evtimer_new(base, on_drain, g);
  if (!g->tick || !g->drain || (cfg->cors && !g->cors)) {
    st = weir_fail(e, WEIR_ENOMEM, "no memory for the gateway");
    goto out;
  }
  WEIR_TRY(weir_gw_metrics_create(g, &g->metrics, e));
  WEIR_TRY(weir_gw_engines_open(g, e));
  const weir_http_server_cfg http = {
      .limits = {.max_head_bytes = 16384, .max_body_bytes = (size_t)g->cfg.max_body_bytes, .max_headers = 64},
      .max_connections = g->cfg.max_connections,
      .head_ms = g->cfg.head_ms,
      .body_ms = g->cfg.body_ms,
      .idle_ms = g->cfg.idle_ms,
      .stall_ms = g->cfg.stall_ms,
      .max_unsent = (size_t)g->cfg.max_unsent_bytes,
      .on_head = on_head,
      .on_request = on_request,
      .on_record = on_record,
      .ctx = g};
  WEIR_TRY(weir_http_server_create(base, &http, &g->http, e));
  WEIR_TRY(weir_http_server_listen(g->http, cfg->listen, e));
  event_active(g->tick, EV_TIMEOUT, 0);
  *out = g;
  g = NULL;
out:
  weir_gw_destroy(g);
  return st;
}

uint16_t weir_gw_port(const weir_gw *g) { return weir_http_server_port(g->http); }

void weir_gw_destroy(weir_gw *g) {
  if (!g) return;
  weir_http_server_destroy(g->http);
  weir_gw_jobs_cancel(g);
  weir_gw_engines_close(g); /* ends the calls that wait */
  weir_gw_metrics_destroy(g->metrics);
  if (g->tick) event_free(g->tick);
  if (g->drain) event_free(g->drain);
  free(g->cors);
  weir_gw_access_fini(g);
  free(g);
}
