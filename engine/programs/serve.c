/* SPDX-License-Identifier: Apache-2.0 */
/* `weir serve`: the order in which a server comes up, what its main thread looks at while it runs, and the
 * order in which it goes. The gateway comes first: an address that cannot be used is told in the first
 * second, and while models are loaded HTTP is answered, /health and /ready with 503. It goes last but one, so
 * that everything that was written reaches its reader. The engine runs on the service's threads; here is only
 * waiting. Main thread. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "net/rpc.h"
#include "programs/options.h"
#include "programs/out.h"
#include "programs/serve_calibration.h"
#include "programs/serve_gateway.h"
#include "programs/serve_models.h"
#include "programs/serve_settings.h"
#include "programs/serve_signals.h"
#include "programs/serve_status.h"
#include "programs/version.h"
#include "serve/service.h"

#define SECOND  INT64_C(1000000000)
#define MILLI   INT64_C(1000000)
#define TURN_NS SECOND /* health is looked at so often */

enum { READY_S = 10, READY_PROBE_MS = 50, GATEWAY_STOP_S = 5, LINGER_MS = 300, CUT_S = 1 };

typedef struct server {
  const weir_config *c;
  weir_serve_settings set;
  weir_served served;
  weir_gateway *gateway; /* NULL: --no-http */
  weir_metrics *metrics;
  weir_service *service;
  weir_rpc *rpc;
  weir_clock clock;
  weir_serve_status status;
  int64_t status_ns, next_status_ns; /* 0: no lines */
  weir_service_health health;        /* as it was last told */
  weir_calibration_file calibration; /* where `calibrated` */
  bool calibrated;
  bool ready_file;                   /* it was written */
} server;

static int64_t now(const server *s) { return weir_now_ns(&s->clock); }

/* ---- coming up ---- */

/* Until it listens. */
static weir_status wait_for_gateway(server *s, weir_err *e) {
  while (!weir_gateway_up(s->gateway)) {
    int64_t next;
    const weir_status st = weir_gateway_tend(s->gateway, now(s), &next, e);
    if (st != WEIR_OK) return st;
    struct pollfd p = {.fd = weir_serve_signals_fd(), .events = POLLIN};
    if (!weir_gateway_up(s->gateway) && poll(&p, 1, (int)(next / MILLI) + 1) > 0) weir_serve_signals_asked();
  }
  return WEIR_OK;
}

/* Until it says over HTTP that requests are taken: it has found the engine. Not for ever: the engine works,
 * and other frontends may do better. */
static weir_status wait_until_ready(server *s, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t until = now(s) + READY_S * SECOND;
  while (s->gateway && !weir_gateway_ready(s->gateway)) {
    int64_t next;
    struct pollfd p = {.fd = weir_serve_signals_fd(), .events = POLLIN};
    WEIR_TRY(weir_gateway_tend(s->gateway, now(s), &next, e));
    if (now(s) > until) {
      weir_log(WEIR_LOG_WARN, "the gateway has not found the engine within %d s", READY_S);
      break;
    }
    if (poll(&p, 1, READY_PROBE_MS) > 0 && weir_serve_signals_asked() > 0) break;
  }
out:
  return st;
}

static weir_status start_gateway(server *s, weir_err *e) {
  weir_status st = WEIR_OK;
  char beside[PATH_MAX];
  const char *program = weir_config_string(s->c, "gateway");
  if (!s->set.http) return WEIR_OK;
  if (!program) {
    WEIR_TRY(weir_gateway_find("weir-gateway", beside, sizeof beside, e));
    program = beside;
  }
  weir_gateway_cfg cfg = {.program = program,
                          .listen = s->set.listen,
                          .engine_url = s->set.rpc[0],
                          .token = weir_serve_token(&s->set),
                          .api_key_file = weir_config_string(s->c, "api-key-file"),
                          .log_level = weir_config_string(s->c, "log-level"),
                          .log_format = weir_config_string(s->c, "log-format")};
  cfg.insecure = weir_config_bool(s->c, "insecure");
  cfg.api_key = weir_config_strings(s->c, "api-key", &cfg.n_api_keys);
  cfg.more = weir_config_strings(s->c, "gateway-arg", &cfg.n_more);
  WEIR_TRY(weir_gateway_create(&cfg, &s->gateway, e));
  st = wait_for_gateway(s, e);
out:
  return st;
}

static weir_status start_service(server *s, weir_err *e) {
  const weir_config *c = s->c;
  const weir_loaded *m = &s->served.models;
  const double share = weir_config_float(c, "prefix-cache");
  weir_service_cfg cfg = {
      .engine = {.clock = s->clock,
                 .max_active = (int32_t)weir_config_int(c, "max-active"),
                 .max_queued = (int32_t)weir_config_int(c, "max-requests"),
                 .large_batch = (int32_t)weir_config_int(c, "large-batch"),
                 .large_wait_ns = weir_config_int(c, "large-wait") * MILLI,
                 .dead_wait_ns = weir_config_int(c, "recovery-wait") * SECOND},
      .prepare_tokenizer = s->served.prepare,
      .long_tokenizer = s->served.prepare_long,
      .chat = s->served.has_chat ? &s->served.format : NULL,
      .metrics = s->metrics,
      .model = s->set.model,
      .cascade = s->set.cascade,
      .modes = s->set.modes,
      .entropy_min = s->set.entropy_min,
      .entropy_max = s->set.entropy_max,
      .draw = s->set.draw,
      .max_tokens_default = (int32_t)weir_config_int(c, "max-tokens"),
      .max_tokens_limit = (int32_t)weir_config_int(c, "max-tokens-limit"),
      .max_requests = (int32_t)weir_config_int(c, "max-requests"),
      .stall_ns = weir_config_int(c, "stall-timeout") * SECOND,
      .drift = s->calibrated ? &s->calibration.drift : NULL,
      .drift_threshold = s->calibration.threshold,
  };
  weir_pair_configure(m->pair, &cfg.engine);
  for (int32_t t = 0; t < m->n_tiers; t++) {
    const int32_t pages = (int32_t)(share * cfg.engine.tier[t]->info.n_pages);
    if (t == 0 || pages < cfg.engine.prefix_pages) cfg.engine.prefix_pages = pages;
  }
  return weir_service_create(&cfg, &s->service, e);
}

static weir_status start_rpc(server *s, weir_err *e) {
  weir_rpc_tier tier[WEIR_MAX_TIERS];
  for (int32_t t = 0; t < s->served.models.n_tiers; t++)
    tier[t] = (weir_rpc_tier){
        .model = s->served.tier[t].model, .type = s->served.tier[t].type, .device = s->served.tier[t].device};
  const weir_rpc_cfg cfg = {.url = s->set.rpc,
                            .n_urls = s->set.n_rpc,
                            .core = {.service = s->service,
                                     .metrics = s->metrics,
                                     .token = weir_serve_token(&s->set),
                                     .version = WEIR_VERSION,
                                     .tier = tier,
                                     .clock = s->clock,
                                     .limits = {.ttl_ns = weir_config_int(s->c, "session-ttl") * SECOND}}};
  return weir_rpc_create(&cfg, &s->rpc, e);
}

static weir_status come_up(server *s, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_serve_signals_init(e));
  WEIR_TRY(start_gateway(s, e));
  const int64_t from = now(s);
  WEIR_TRY(weir_serve_calibration(s->c, &s->set, &s->calibration, &s->calibrated, e));
  WEIR_TRY(weir_served_open(&s->set, &s->served, e));
  weir_log(WEIR_LOG_DEBUG, "models loaded in %.1f s", (double)(now(s) - from) / (double)SECOND);
  WEIR_TRY(weir_metrics_create(&s->metrics, e));
  WEIR_TRY(start_service(s, e));
  WEIR_TRY(start_rpc(s, e));
  weir_serve_signals_begin();
  WEIR_TRY(wait_until_ready(s, e));
  const weir_engine_stats none = weir_service_get_stats(s->service);
  weir_serve_status_init(&s->status, s->served.models.n_tiers, s->served.models.tier_name, &none, now(s));
  s->status_ns = weir_config_int(s->c, "status-interval") * SECOND;
  s->next_status_ns = now(s) + s->status_ns;
  s->health = weir_service_get_health(s->service);
out:
  return st;
}

/* ---- what a user wants to know ---- */

static void tell_models(const server *s) {
  const weir_served *v = &s->served;
  for (int32_t t = 0; t < v->models.n_tiers; t++) {
    const weir_exec_info *i = &weir_pair_exec(v->models.pair, t)->info;
    weir_log(WEIR_LOG_INFO, "%s: %s (%s, %.0f MB), KV for %lld tokens (%.0f MB), %s", v->tier[t].name,
             v->tier[t].model, v->tier[t].type, 1e-6 * (double)i->weight_bytes, (long long)i->n_pages * 16,
             1e-6 * (double)i->n_pages * 16 * (double)i->kv_bytes_per_token, v->tier[t].device);
  }
  weir_cascade_cfg cascade;
  weir_err ignored;
  char gate[64] = "";
  if (v->models.n_tiers > 1 && weir_cascade_cfg_make(&s->set.cascade, &cascade, &ignored) == WEIR_OK &&
      (s->set.cascade.mode == WEIR_MODE_DEFER || s->set.cascade.mode == WEIR_MODE_ROLLBACK))
    snprintf(gate, sizeof gate, cascade.budget.rated ? " (%s, deferral rate %g)" : " (%s, threshold %g)",
             weir_gate_name(s->set.cascade.gate),
             (double)(cascade.budget.rated ? cascade.budget.rate : cascade.gate[0].threshold));
  weir_log(WEIR_LOG_INFO, "%s: mode %s%s, context %d tokens, chat format %s", s->set.model,
           weir_mode_name(s->set.cascade.mode), gate, v->n_ctx,
           v->has_chat ? weir_chat_name(&v->format) : "none");
}

static void tell_ready(const server *s) {
  for (int32_t i = 0; i < s->set.n_rpc; i++) weir_log(WEIR_LOG_INFO, "rpc: %s", s->set.rpc[i]);
  if (!s->set.http) {
    weir_log(WEIR_LOG_INFO, "ready");
    return;
  }
  char at[WEIR_HOST_BYTES + 16];
  int32_t n;
  const weir_address near = weir_address_near(&s->set.listen);
  weir_address_print(&near, at, sizeof at);
  weir_config_strings(s->c, "api-key", &n);
  const bool keys = n > 0 || weir_config_string(s->c, "api-key-file");
  const weir_log_field f[] = {weir_log_str("http", at), weir_log_int("pid", getpid())};
  weir_log_also(WEIR_LOG_INFO, f, 2, "ready: http://%s/ is a page to try it, http://%s/v1 the OpenAI API", at,
                at);
  weir_log(WEIR_LOG_INFO, "try: curl http://%s/v1/%s%s -H 'Content-Type: application/json' -d '%s'", at,
           s->served.has_chat ? "chat/completions" : "completions",
           keys ? " -H \"Authorization: Bearer $KEY\"" : "",
           s->served.has_chat ? "{\"messages\": [{\"role\": \"user\", \"content\": \"Convert 7 hours and 25 "
                                "minutes to minutes.\"}]}"
                              : "{\"prompt\": \"Once upon a time\", \"max_tokens\": 50}");
}

/* One object of JSON, whole or not there. */
static weir_status write_ready_file(server *s, weir_err *e) {
  weir_status st = WEIR_OK;
  char part[PATH_MAX], at[WEIR_HOST_BYTES + 16], url[WEIR_HOST_BYTES + 32];
  const char *path = weir_config_string(s->c, "ready-file");
  json_t *rpc = json_array(), *o = NULL;
  FILE *f = NULL;
  if (!path) goto out;
  for (int32_t i = 0; i < s->set.n_rpc; i++)
    json_array_append_new(rpc, weir_json_text(s->set.rpc[i], strlen(s->set.rpc[i])));
  weir_address_print(&s->set.listen, at, sizeof at);
  snprintf(url, sizeof url, "http://%s", at);
  o = json_pack("{s:s, s:I, s:o, s:O, s:s}", "schema", "weir.ready.v1", "pid", (json_int_t)getpid(), "http",
                s->set.http ? json_string(url) : json_null(), "rpc", rpc, "model", s->set.model);
  const int n = snprintf(part, sizeof part, "%s.part", path);
  if (n < 0 || (size_t)n >= sizeof part) {
    st = weir_fail(e, WEIR_EINVAL, "--ready-file: the path is too long");
  } else if (!(f = fopen(part, "we"))) {
    st = weir_fail(e, WEIR_EIO, "--ready-file %s: %s", part, strerror(errno));
  } else {
    st = weir_json_line(f, part, o, e);
    o = NULL;
    if (fclose(f) != 0 && st == WEIR_OK) st = weir_fail(e, WEIR_EIO, "%s: %s", part, strerror(errno));
    if (st == WEIR_OK && rename(part, path) != 0)
      st = weir_fail(e, WEIR_EIO, "--ready-file %s: %s", path, strerror(errno));
    s->ready_file = st == WEIR_OK;
    if (st != WEIR_OK) unlink(part);
  }
out:
  json_decref(o);
  json_decref(rpc);
  return st;
}

/* ---- running ---- */

static void look_at_health(server *s) {
  const weir_service_health h = weir_service_get_health(s->service);
  const bool draining = !strcmp(h.reason, "draining");
  if (h.live == s->health.live && h.ready == s->health.ready) return;
  if (!draining && (!h.live || !h.ready))
    weir_log(WEIR_LOG_ERROR, "not %s: %s", h.live ? "ready" : "live", h.reason);
  else if (h.live && h.ready)
    weir_log(WEIR_LOG_INFO, "live and ready again");
  s->health = h;
}

static void look_at_status(server *s) {
  if (s->status_ns == 0 || now(s) < s->next_status_ns) return;
  const weir_engine_stats x = weir_service_get_stats(s->service);
  s->next_status_ns = now(s) + s->status_ns;
  if (weir_serve_status_next(&s->status, &x, now(s)))
    weir_log_also(WEIR_LOG_INFO, s->status.field, s->status.n_fields, "%s", s->status.text);
  if (weir_serve_status_slower(&s->status, &x))
    weir_log_also(WEIR_LOG_WARN, s->status.field, s->status.n_fields, "%s", s->status.text);
}

/* Sleeps until a signal or `until`, and looks after everything. Returns how many signals have asked. */
static int turn(server *s, int64_t until_ns) {
  weir_err e;
  int64_t at = until_ns, next;
  if (s->gateway) {
    if (weir_gateway_tend(s->gateway, now(s), &next, &e) == WEIR_OK && now(s) + next < at) at = now(s) + next;
  }
  if (s->status_ns > 0 && s->next_status_ns < at) at = s->next_status_ns;
  const int64_t ns = at - now(s);
  struct pollfd p = {.fd = weir_serve_signals_fd(), .events = POLLIN};
  (void)poll(&p, 1, ns <= 0 ? 0 : (int)(ns / MILLI) + 1);
  look_at_health(s);
  look_at_status(s);
  return weir_serve_signals_asked();
}

/* ---- going ---- */

/* Waits until nothing that was taken is left. False: a second signal came, or the time, which ends at
 * *until_ns, is over. */
static bool drain(server *s, int64_t *until_ns) {
  const int64_t limit_s = weir_config_int(s->c, "drain-timeout"), until = now(s) + limit_s * SECOND;
  *until_ns = until;
  weir_service_drain(s->service);
  const int32_t open = weir_service_open_requests(s->service);
  weir_log(WEIR_LOG_INFO, "draining: %d request%s under way, at most %lld s; another signal ends them", open,
           open == 1 ? "" : "s", (long long)limit_s);
  while (weir_service_open_requests(s->service) > 0) {
    if (now(s) >= until) {
      weir_log(WEIR_LOG_WARN, "the time is over: %d requests are cancelled",
               weir_service_open_requests(s->service));
      return false;
    }
    if (turn(s, now(s) + 20 * MILLI) > 1) {
      weir_log(WEIR_LOG_WARN, "%d requests are cancelled", weir_service_open_requests(s->service));
      return false;
    }
  }
  return true;
}

/* Ends what is left; its clients are told. */
static void cut(server *s) {
  const int64_t until = now(s) + CUT_S * SECOND;
  weir_rpc_cut(s->rpc);
  while (weir_service_open_requests(s->service) > 0 && now(s) < until) (void)poll(NULL, 0, 10);
}

/* Lets it send what it has, until a time or another signal; then it has a moment to tell its clients. False:
 * some of its answers were cut. */
static bool stop_gateway(server *s, int64_t until_ns) {
  struct pollfd p = {.fd = weir_serve_signals_fd(), .events = POLLIN};
  const int had = weir_serve_signals_asked();
  bool last = false;
  int asked;
  weir_gateway_ask(s->gateway);
  /* asked first: that clears the descriptor, which its end must still make readable */
  while (asked = weir_serve_signals_asked(), !weir_gateway_gone(s->gateway)) {
    const bool over = now(s) >= until_ns;
    if (last && over) break;
    if (!last && (over || asked > had)) {
      last = true;
      until_ns = now(s) + CUT_S * SECOND;
      weir_gateway_ask(s->gateway); /* its second: it tells who waits, and ends */
    }
    (void)poll(&p, 1, (int)((until_ns - now(s)) / MILLI) + 1);
  }
  weir_gateway_stop(s->gateway, 0);
  if (!weir_gateway_clean(s->gateway)) weir_log(WEIR_LOG_WARN, "the gateway had answers left to send: cut");
  return weir_gateway_clean(s->gateway);
}

/* gateway_ns: how long the gateway may take to send what it has. False: it did not send all of it. */
static bool go_down(server *s, int64_t gateway_ns) {
  bool whole = true;
  if (s->ready_file) unlink(weir_config_string(s->c, "ready-file"));
  /* the gateway first: what it still has to fetch and to send, the engine is there for */
  if (s->gateway) whole = stop_gateway(s, now(s) + gateway_ns);
  if (s->rpc && weir_rpc_sessions(s->rpc) > 0) (void)poll(NULL, 0, LINGER_MS); /* other clients' last polls */
  weir_rpc_destroy(s->rpc);
  weir_service_destroy(s->service);
  weir_metrics_destroy(s->metrics);
  weir_gateway_destroy(s->gateway);
  weir_served_close(&s->served);
  weir_serve_settings_fini(&s->set);
  return whole;
}

static int serve(server *s) {
  weir_err e = {0};
  if (write_ready_file(s, &e) != WEIR_OK) {
    go_down(s, CUT_S * SECOND);
    return weir_tell(&e, WEIR_EXIT_FAILED);
  }
  tell_models(s);
  tell_ready(s);
  while (turn(s, now(s) + TURN_NS) == 0) {
  }
  int64_t until;
  const bool drained = drain(s, &until);
  if (!drained) cut(s);
  const int64_t left = until - now(s), least = (drained ? GATEWAY_STOP_S : CUT_S) * SECOND;
  const bool whole = go_down(s, drained && left > least ? left : least) && drained;
  if (whole)
    weir_log(WEIR_LOG_INFO, "all requests have ended; bye");
  else
    weir_log(WEIR_LOG_WARN, "ended; requests or their answers were cut");
  return whole ? WEIR_EXIT_OK : WEIR_EXIT_FAILED;
}

static int print_config(const weir_config *c) {
  static const char *const secret[] = {"token", "api-key"};
  weir_buf b = {0};
  weir_err e = {0};
  int status = WEIR_EXIT_OK;
  if (weir_config_print(c, secret, 2, &b, &e) != WEIR_OK)
    status = weir_tell(&e, WEIR_EXIT_FAILED);
  else if (fwrite(b.data, 1, b.len, stdout) != b.len || fflush(stdout) != 0)
    status = WEIR_EXIT_FAILED;
  weir_buf_fini(&b);
  return status;
}

int weir_main_serve(const weir_config *c) {
  server s = {.c = c, .clock = weir_clock_system()};
  weir_err e = {0};
  weir_log_level level = WEIR_LOG_INFO;
  weir_log_format format = WEIR_LOG_TEXT;
  if (weir_config_bool(c, "print-config")) return print_config(c);
  (void)weir_log_level_parse(weir_config_string(c, "log-level"), &level);
  (void)weir_log_format_parse(weir_config_string(c, "log-format"), &format);
  weir_log_set_level(level);
  weir_log_set_format(format);
  if (format == WEIR_LOG_JSON) weir_log_set_component("engine");
  s.served.models.large = -1;
  if (weir_serve_settings_read(c, &s.set, &e) != WEIR_OK) {
    weir_serve_settings_fini(&s.set);
    return e.code == WEIR_EINVAL ? weir_tell_usage("serve", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  }
  if (come_up(&s, &e) != WEIR_OK) {
    const int status = weir_tell(&e, WEIR_EXIT_FAILED);
    go_down(&s, CUT_S * SECOND);
    return status;
  }
  return serve(&s);
}
