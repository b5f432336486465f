/* SPDX-License-Identifier: Apache-2.0 */
/* /metrics and /stats: every engine is asked at once, and what has come when all have answered, or after a
 * moment, is told. Thread of the event base. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/gateway_families.h"
#include "net/gateway_in.h"
#include "net/openai_write.h"

enum { WAIT_MS = 2000, N_TIERS = 2 };
#define LOOK_NS (INT64_C(5) * 1000000000)
#define OLD_NS  (INT64_C(15) * 1000000000) /* a look from before that tells nothing of now */

/* Of one engine, for /stats; NaN: it did not say. */
typedef struct numbers {
  bool known;
  weir_client_health health;
  double tokens[N_TIERS], kv[N_TIERS], hits, queries, goodput, large_goodput;
} numbers;

typedef struct gather gather;
typedef struct question {
  gather *all;
  int32_t engine;
} question;

struct gather {
  weir_gw *gw;
  weir_http_request *http; /* NULL: gone or answered */
  bool stats, failed;
  int32_t waiting; /* for answers */
  struct event *timer;
  weir_gw_families families;
  question question[WEIR_GW_MAX_ENGINES];
  numbers number[WEIR_GW_MAX_ENGINES];
  char model[256];
};

static const char *const tiers[N_TIERS] = {"small", "large"};

/* ---- /stats ---- */

static double sum_of(const weir_client_stats *s, const char *name, const char *tier) {
  double sum = NAN;
  for (size_t i = 0; i < s->n_families; i++) {
    const weir_client_family *f = &s->family[i];
    if (strcmp(f->name, name) != 0) continue;
    for (size_t k = 0; k < f->n_samples; k++) {
      const weir_client_sample *x = &f->sample[k];
      bool is = !tier;
      for (size_t l = 0; l < x->n_labels; l++)
        is = is || (!strcmp(x->label[l].name, "tier") && !strcmp(x->label[l].value, tier));
      if (is) sum = isnan(sum) ? x->value : sum + x->value;
    }
  }
  return sum;
}

static void take_numbers(numbers *n, const weir_client_stats *s) {
  n->known = true;
  n->health = s->health;
  n->health.reason = NULL; /* borrowed, and so are tiers */
  n->health.tier = NULL;
  n->health.n_tiers = 0;
  for (int t = 0; t < N_TIERS; t++) {
    n->tokens[t] = sum_of(s, "weir:tokens_total", tiers[t]);
    n->kv[t] = sum_of(s, "weir:kv_cache_usage_perc", tiers[t]);
  }
  n->hits = sum_of(s, "weir:prefix_cache_hits_total", NULL);
  n->queries = sum_of(s, "weir:prefix_cache_queries_total", NULL);
  n->goodput = sum_of(s, "weir:goodput_tokens_per_second", NULL);
  n->large_goodput = sum_of(s, "weir:large_only_goodput_tokens_per_second", NULL);
}

static void add_to(double *sum, double x) {
  if (!isnan(x)) *sum = isnan(*sum) ? x : *sum + x;
}

static weir_status put_named(weir_buf *b, const char *name, double x, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, ",\"%s\":", name));
  WEIR_TRY(weir_json_put_number(b, x, e));
out:
  return st;
}

static weir_status put_tiers(weir_buf *b, const char *name, const double *x, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, ",\"%s\":{", name));
  for (int t = 0; t < N_TIERS; t++) {
    WEIR_TRY(weir_buf_printf(b, e, "%s\"%s\":", t ? "," : "", tiers[t]));
    WEIR_TRY(weir_json_put_number(b, x[t], e));
  }
  WEIR_TRY(weir_buf_puts(b, "}", e));
out:
  return st;
}

static weir_status put_engines(const gather *a, weir_buf *b, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, ",\"engines\":[", e));
  for (int32_t i = 0; i < a->gw->n_engines; i++) {
    const weir_gw_engine *x = &a->gw->engine[i];
    WEIR_TRY(weir_buf_puts(b, i ? ",{\"url\":" : "{\"url\":", e));
    WEIR_TRY(weir_json_put_text(b, x->url, strlen(x->url), e));
    WEIR_TRY(weir_buf_printf(b, e, ",\"live\":%s,\"ready\":%s,\"running\":%u,\"waiting\":%u,",
                             x->live ? "true" : "false", x->ready ? "true" : "false",
                             a->number[i].known ? a->number[i].health.running : x->running,
                             a->number[i].known ? a->number[i].health.waiting : x->waiting));
    WEIR_TRY(weir_gw_put_tiers(b, x, e));
    WEIR_TRY(weir_buf_puts(b, "}", e));
  }
  WEIR_TRY(weir_buf_puts(b, "]}", e));
out:
  return st;
}

/* Tokens a second by tier, and the share that the large one wrote: from the counters of now and of some
 * seconds ago, as far as they have been looked at. */
static void find_speed(weir_gw *g, const double *tokens, double *speed, double *rate) {
  const int64_t now = weir_now_ns(&g->clock);
  weir_gw_look *newest = &g->look[1];
  for (int i = 0; i < 2; i++)
    if (now - g->look[i].ns > OLD_NS) g->look[i].ns = 0;
  const weir_gw_look *from = g->look[0].ns ? &g->look[0] : newest;
  if (isnan(tokens[0]) && isnan(tokens[1])) return;
  double moved[N_TIERS], all = 0;
  for (int t = 0; t < N_TIERS; t++) {
    const double x = isnan(tokens[t]) ? 0 : tokens[t];
    moved[t] = from->ns && x >= from->tokens[t] ? x - from->tokens[t] : 0;
    if (from->ns && now > from->ns) speed[t] = moved[t] * 1e9 / (double)(now - from->ns);
    all += x;
  }
  const double lately = moved[0] + moved[1], large = isnan(tokens[1]) ? 0 : tokens[1];
  if (lately > 0 || all > 0) *rate = lately > 0 ? moved[1] / lately : large / all;
  if (newest->ns && now - newest->ns < LOOK_NS) return;
  g->look[0] = *newest;
  newest->ns = now;
  for (int t = 0; t < N_TIERS; t++) newest->tokens[t] = isnan(tokens[t]) ? 0 : tokens[t];
}

static weir_status put_stats(gather *a, weir_buf *b, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_gw *g = a->gw;
  double tokens[N_TIERS] = {NAN, NAN}, kv[N_TIERS] = {NAN, NAN}, speed[N_TIERS] = {NAN, NAN}, hits = NAN,
         queries = NAN, goodput = NAN, large_goodput = NAN, rate = NAN;
  uint64_t running = 0, waiting = 0, limit = 0;
  bool ready = false;
  for (int32_t i = 0; i < g->n_engines; i++) {
    const numbers *n = &a->number[i];
    ready = ready || g->engine[i].ready;
    if (!n->known) continue;
    running += n->health.running;
    waiting += n->health.waiting;
    limit += n->health.queue_limit;
    for (int t = 0; t < N_TIERS; t++) {
      add_to(&tokens[t], n->tokens[t]);
      if (!isnan(n->kv[t]) && !(kv[t] > n->kv[t])) kv[t] = n->kv[t]; /* of the fullest */
    }
    add_to(&hits, n->hits);
    add_to(&queries, n->queries);
    add_to(&goodput, n->goodput);
    add_to(&large_goodput, n->large_goodput);
  }
  find_speed(g, tokens, speed, &rate);
  WEIR_TRY(weir_buf_puts(b, "{\"model\":", e));
  WEIR_TRY(weir_json_put_text(b, a->model, strlen(a->model), e));
  WEIR_TRY(weir_buf_printf(b, e, ",\"ready\":%s,\"running\":%llu,\"waiting\":%llu,\"queue_limit\":%llu",
                           ready && !g->draining ? "true" : "false", (unsigned long long)running,
                           (unsigned long long)waiting, (unsigned long long)limit));
  WEIR_TRY(put_tiers(b, "tokens_per_second", speed, e));
  WEIR_TRY(put_named(b, "deferral_rate", rate, e));
  WEIR_TRY(put_tiers(b, "kv_used", kv, e));
  WEIR_TRY(put_named(b, "prefix_hit_rate", queries > 0 ? hits / queries : NAN, e));
  WEIR_TRY(put_named(b, "goodput", goodput, e));
  WEIR_TRY(put_named(b, "large_only_goodput", large_goodput, e));
  WEIR_TRY(put_engines(a, b, e));
out:
  return st;
}

/* ---- both ---- */

static void answer(gather *a) {
  weir_buf b = {0};
  weir_http_request *http = a->http;
  weir_status st = a->failed ? WEIR_ENOMEM : WEIR_OK;
  if (!http) return;
  a->http = NULL;
  if (st == WEIR_OK && a->stats) st = put_stats(a, &b, NULL);
  if (st == WEIR_OK && !a->stats) st = weir_gw_families_put(&a->families, &b, NULL);
  if (st == WEIR_OK && !a->stats) st = weir_gw_metrics_put(a->gw, &b, NULL);
  if (st != WEIR_OK)
    weir_gw_reply_fail(http, 503, NULL, "the gateway is out of memory");
  else if (a->stats)
    weir_gw_reply_json(http, 200, &b);
  else
    weir_http_reply(http, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
  weir_buf_fini(&b);
}

static void drop(gather *a) {
  if (--a->waiting > 0) return;
  answer(a);
  event_free(a->timer);
  weir_gw_families_fini(&a->families);
  free(a);
}

static void on_stats(void *ctx, const weir_client_stats *s, const weir_client_error *e) {
  const question *q = ctx;
  gather *a = q->all;
  weir_gw *g = a->gw;
  g->n_pending--;
  if (!e->code && a->http) {
    const char *label = g->n_engines > 1 ? g->engine[q->engine].url : NULL;
    if (a->stats)
      take_numbers(&a->number[q->engine], s);
    else if (weir_gw_families_add(&a->families, s->family, s->n_families, label, NULL) != WEIR_OK)
      a->failed = true;
    if (!a->model[0]) snprintf(a->model, sizeof a->model, "%s", s->model);
  }
  drop(a);
}

static void on_time(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  answer(ctx);
}

static void on_gone(void *ctx) { ((gather *)ctx)->http = NULL; }

void weir_gw_gather(weir_gw *g, weir_http_request *r, bool stats) {
  const struct timeval wait = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
  gather *a = calloc(1, sizeof *a);
  if (a) a->timer = evtimer_new(g->base, on_time, a);
  if (!a || !a->timer) {
    free(a);
    weir_gw_reply_fail(r, 503, NULL, "the gateway is out of memory");
    return;
  }
  a->gw = g;
  a->http = r;
  a->stats = stats;
  a->waiting = 1; /* this function */
  weir_http_request_set_gone(r, on_gone, a);
  event_add(a->timer, &wait);
  for (int32_t i = 0; i < g->n_engines; i++) {
    weir_client_error e;
    if (!g->engine[i].live) continue;
    a->question[i] = (question){a, i};
    if (weir_client_get_stats(g->engine[i].client, on_stats, &a->question[i], &e) != 0) continue;
    g->n_pending++;
    a->waiting++;
    weir_gw_engine_wake(&g->engine[i]);
  }
  drop(a);
}
