/* SPDX-License-Identifier: Apache-2.0 */
/* What the gateway counts of itself. Series are made at start; those of codes that were never answered are
 * not shown. Thread of the event base. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/gateway_families.h"
#include "net/gateway_in.h"

static const char *const paths[] = {"/v1/completions",
                                    "/v1/chat/completions",
                                    "/v1/models",
                                    "/tokenize",
                                    "/detokenize",
                                    "/health",
                                    "/ready",
                                    "/metrics",
                                    "/stats",
                                    "/",
                                    "other"};
static const int codes[] = {200, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413,
                            414, 417, 429, 431, 499, 500, 501, 503, 504, 505};
static const char *const code_names[] = {"200", "204", "304", "400", "401", "403", "404",
                                         "405", "408", "409", "413", "414", "417", "429",
                                         "431", "499", "500", "501", "503", "504", "505"};
static const char *const states[] = {"queued", "accepted", "decode", "stream", "other"};
static const double seconds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                 1,     2.5,    5,     10,   25,    50,   100, 250};

enum {
  N_PATHS = sizeof paths / sizeof *paths,
  N_CODES = sizeof codes / sizeof *codes,
  N_STATES = sizeof states / sizeof *states,
  N_SECONDS = sizeof seconds / sizeof *seconds
};

struct weir_gw_metrics {
  weir_metrics *all;
  weir_metric *requests[N_PATHS][N_CODES], *duration[N_PATHS], *gone[N_STATES], *in_flight, *connections,
      *retries, *up[WEIR_GW_MAX_ENGINES];
};

static weir_status add(weir_gw_metrics *m, weir_metric_type type, const char *name, const char *help,
                       const weir_metric_label *label, int32_t n, weir_metric **out, weir_err *e) {
  const bool histogram = type == WEIR_METRIC_HISTOGRAM;
  return weir_metrics_add(m->all, type, name, help, label, n, histogram ? seconds : NULL,
                          histogram ? N_SECONDS : 0, out, e);
}

static weir_status make(weir_gw *g, weir_gw_metrics *m, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_metrics_create(&m->all, e));
  for (int p = 0; p < N_PATHS; p++)
    for (int c = 0; c < N_CODES; c++) {
      const weir_metric_label label[] = {{"path", paths[p]}, {"code", code_names[c]}};
      WEIR_TRY(add(m, WEIR_METRIC_COUNTER, "weir:http_requests_total",
                   "HTTP requests answered; 499: the client went before there was a status.", label, 2,
                   &m->requests[p][c], e));
    }
  for (int p = 0; p < N_PATHS; p++) {
    const weir_metric_label label[] = {{"path", paths[p]}};
    WEIR_TRY(add(m, WEIR_METRIC_HISTOGRAM, "weir:http_request_duration_seconds",
                 "From the whole request to the end of its answer.", label, 1, &m->duration[p], e));
  }
  for (int s = 0; s < N_STATES; s++) {
    const weir_metric_label label[] = {{"state", states[s]}};
    WEIR_TRY(add(m, WEIR_METRIC_COUNTER, "weir:http_disconnects_total",
                 "Clients that hung up, or were cut, before their answer was whole, by what it was doing.",
                 label, 1, &m->gone[s], e));
  }
  WEIR_TRY(add(m, WEIR_METRIC_GAUGE, "weir:http_requests_in_flight", "HTTP requests under way.", NULL, 0,
               &m->in_flight, e));
  WEIR_TRY(
      add(m, WEIR_METRIC_GAUGE, "weir:http_connections", "Open connections.", NULL, 0, &m->connections, e));
  WEIR_TRY(add(m, WEIR_METRIC_COUNTER, "weir:gateway_retries_total",
               "Requests that one engine could not take and another was asked for.", NULL, 0, &m->retries,
               e));
  for (int32_t i = 0; i < g->cfg.n_engines && i < WEIR_GW_MAX_ENGINES; i++) {
    const weir_metric_label label[] = {{"engine", g->cfg.engine[i]}};
    WEIR_TRY(add(m, WEIR_METRIC_GAUGE, "weir:gateway_engine_up", "1: the engine is ready.", label, 1,
                 &m->up[i], e));
    g->engine[i].up = m->up[i];
  }
out:
  return st;
}

weir_status weir_gw_metrics_create(weir_gw *g, weir_gw_metrics **out, weir_err *e) {
  weir_gw_metrics *m = NULL;
  weir_status st = WEIR_OK;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &m, e));
  WEIR_TRY(make(g, m, e));
  *out = m;
  m = NULL;
out:
  weir_gw_metrics_destroy(m);
  return st;
}

void weir_gw_metrics_destroy(weir_gw_metrics *m) {
  if (!m) return;
  weir_metrics_destroy(m->all);
  free(m);
}

static int path_of(const char *path) {
  if (!strncmp(path, "/v1/models/", 11)) path = "/v1/models";
  for (int p = 0; p < N_PATHS - 1; p++)
    if (!strcmp(path, paths[p])) return p;
  return N_PATHS - 1;
}

void weir_gw_metrics_begin(weir_gw_metrics *m) { weir_metric_inc(m->in_flight, 1); }
void weir_gw_metrics_retry(weir_gw_metrics *m) { weir_metric_inc(m->retries, 1); }

void weir_gw_metrics_record(weir_gw_metrics *m, const weir_http_record *r, const char *gone_state) {
  const int p = path_of(r->path);
  int code = -1;
  for (int c = 0; c < N_CODES; c++)
    if (codes[c] == r->code || (code < 0 && codes[c] == 500)) code = c;
  weir_metric_inc(m->requests[p][code], 1);
  if (r->method[0]) {
    weir_metric_inc(m->in_flight, -1);
    weir_metric_observe(m->duration[p], (double)r->ns / 1e9);
  }
  if (!r->gone) return;
  int state = N_STATES - 1;
  for (int s = 0; gone_state && s < N_STATES; s++)
    if (!strcmp(states[s], gone_state)) state = s;
  weir_metric_inc(m->gone[state], 1);
}

/* ---- as text ---- */

typedef struct put_state {
  weir_buf *out, labels;
  char last[128]; /* the family */
  weir_status st;
  weir_err *e;
} put_state;

static weir_status put_series(put_state *s, const weir_metric_view *v) {
  weir_status st = WEIR_OK;
  if (strcmp(v->name, s->last) != 0) {
    snprintf(s->last, sizeof s->last, "%s", v->name);
    WEIR_TRY(weir_gw_put_help(s->out, v->name, v->help, (int)v->type, s->e));
  }
  weir_buf_truncate(&s->labels, 0);
  for (int32_t i = 0; i < v->n_labels; i++)
    WEIR_TRY(weir_gw_put_label(&s->labels, v->label[i].name, v->label[i].value, s->e));
  const char *labels = s->labels.len ? s->labels.data : "";
  if (v->type != WEIR_METRIC_HISTOGRAM) {
    st = weir_gw_put_value(s->out, v->name, labels, v->value, s->e);
    goto out;
  }
  const uint64_t total = v->n_le ? v->count[v->n_le - 1] : 0;
  st = weir_gw_put_histogram(s->out, v->name, labels, v->le, v->count, (size_t)v->n_le, v->sum, total, s->e);
out:
  return st;
}

static void on_view(void *ctx, const weir_metric_view *v) {
  put_state *s = ctx;
  /* of codes, only those that were; the first keeps the family there */
  if (s->st != WEIR_OK) return;
  if (v->n_labels == 2 && v->value == 0 && strcmp(v->label[1].value, "200") != 0) return;
  if (v->type == WEIR_METRIC_HISTOGRAM && v->n_le && v->count[v->n_le - 1] == 0 &&
      strcmp(v->label[0].value, paths[0]) != 0)
    return;
  s->st = put_series(s, v);
}

weir_status weir_gw_metrics_put(weir_gw *g, weir_buf *out, weir_err *e) {
  put_state s = {.out = out, .e = e};
  weir_metric_set(g->metrics->connections, weir_http_server_connections(g->http));
  weir_metrics_visit(g->metrics->all, on_view, &s);
  weir_buf_fini(&s.labels);
  return s.st;
}
