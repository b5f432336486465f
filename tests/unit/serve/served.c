/* SPDX-License-Identifier: Apache-2.0 */
/* The fixture of tests of the service and of its edges. */
#include "served.h"

#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "model/gguf.h"

/* ---- an executor behind a gate ---- */

typedef struct gated {
  weir_exec base;
  weir_exec *inner;
  served_gate *gate;
  /* of a mortal one */
  pthread_mutex_t lock;
  uint64_t life, last, wiped; /* 0: dead; the last there was; whose KV `inner` holds */
  uint64_t step_life;
  void (*fn)(void *ctx);
  void *ctx;
} gated;

static uint64_t gated_number(weir_exec *x, weir_err *why) {
  gated *g = (gated *)x;
  pthread_mutex_lock(&g->lock);
  const uint64_t life = g->life;
  pthread_mutex_unlock(&g->lock);
  if (life == 0)
    weir_fail(why, WEIR_EDEVICE,
              "%s: node 1 (n\xfc"
              "de) is silent",
              x->info.name);
  return life;
}

/* Computed when it is waited for, by the loop's thread. */
static bool gated_ready(weir_exec *x) {
  (void)x;
  return true;
}

static void gated_notify(weir_exec *x, void (*fn)(void *ctx), void *ctx) {
  gated *g = (gated *)x;
  pthread_mutex_lock(&g->lock);
  g->fn = fn;
  g->ctx = ctx;
  pthread_mutex_unlock(&g->lock);
}

static const weir_exec_async gated_async = {gated_ready, gated_notify};
static const weir_exec_life gated_life = {gated_number};

static void set_life(weir_exec *x, bool alive) {
  gated *g = (gated *)x;
  pthread_mutex_lock(&g->lock);
  g->life = alive ? ++g->last : 0;
  if (g->fn) g->fn(g->ctx);
  pthread_mutex_unlock(&g->lock);
}

static weir_status gated_submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  gated *g = (gated *)x;
  const uint64_t life = gated_number(x, e);
  if (life == 0) return WEIR_EDEVICE;
  if (g->wiped != life) fake_exec_wipe(g->inner);
  g->wiped = g->step_life = life;
  return g->inner->ops->submit(g->inner, b, r, e);
}

static weir_status gated_wait(weir_exec *x, weir_result **done, weir_err *e) {
  gated *g = (gated *)x;
  served_gate *q = g->gate;
  pthread_mutex_lock(&q->lock);
  while (q->permits == 0) {
    q->waiting = true;
    pthread_cond_broadcast(&q->moved);
    pthread_cond_wait(&q->moved, &q->lock);
  }
  q->waiting = false;
  if (q->permits > 0) q->permits--;
  pthread_mutex_unlock(&q->lock);
  const weir_status st = g->inner->ops->wait(g->inner, done, e);
  if (st != WEIR_OK || gated_number(x, NULL) == g->step_life) return st;
  (*done)->status = weir_fail(&(*done)->err, WEIR_EDEVICE, "%s: a rank is silent", x->info.name);
  return WEIR_OK;
}

static void gated_destroy(weir_exec *x) {
  gated *g = (gated *)x;
  g->inner->ops->destroy(g->inner);
  pthread_mutex_destroy(&g->lock);
  free(g);
}

static const weir_exec_ops gated_ops = {gated_submit, gated_wait, gated_destroy};

static weir_exec *gated_create(weir_exec *inner, served_gate *gate, bool mortal) {
  gated *g = calloc(1, sizeof *g);
  g->base.ops = &gated_ops;
  g->base.info = inner->info;
  g->inner = inner;
  g->gate = gate;
  g->life = g->last = g->wiped = 1;
  pthread_mutex_init(&g->lock, NULL);
  if (mortal) {
    g->base.async = &gated_async;
    g->base.life = &gated_life;
  }
  return &g->base;
}

/* ---- the fixture ---- */

static int64_t skewed(void *ctx) {
  const weir_clock system = weir_clock_system();
  return weir_now_ns(&system) + atomic_load(&((served *)ctx)->skew_ns);
}

served_opts served_usual(void) {
  return (served_opts){
      .n_tiers = 2, .max_requests = 64, .n_ctx = 512, .fail_at = {-1, -1}, .mode = WEIR_MODE_DEFER};
}

void served_open(served *v, const served_opts *o) {
  weir_err e = {0};
  *v = (served){.law = {.n_vocab = 288, .agreement = 0.8, .sharpness = 3, .end_id = 285}};
  pthread_mutex_init(&v->gate.lock, NULL);
  pthread_cond_init(&v->gate.moved, NULL);
  v->gate.permits = -1;
  for (int i = 0; i < 3; i++) {
    weir_gguf *g;
    if (weir_gguf_open("tests/vectors/models/pair-small.gguf", &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (weir_tokenizer_from_gguf(g, &v->tokenizer[i], &e) != WEIR_OK) fail_msg("%s", e.msg);
    weir_gguf_close(g);
  }
  for (int32_t t = 0; t < o->n_tiers; t++)
    v->exec[t] = gated_create(fake_exec_create(&(fake_opts){.law = v->law,
                                                            .tier = t,
                                                            .n_ctx = o->n_ctx,
                                                            .n_pages = 1024,
                                                            .max_tokens = 256,
                                                            .max_seqs = 16,
                                                            .fail_at_step = o->fail_at[t]}),
                              &v->gate, o->mortal);
  if (weir_metrics_create(&v->metrics, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_true(weir_chat_by_name("chatml", &v->chat));
  v->cfg = (weir_service_cfg){
      .engine = {.n_tiers = o->n_tiers,
                 .tier = {v->exec[0], v->exec[1]},
                 .tokenizer = v->tokenizer[0],
                 .clock = {skewed, v},
                 .max_active = 16,
                 .large_batch = 4,
                 .large_wait_ns = 20000,
                 .prefix_pages = -1,
                 .dead_wait_ns = o->dead_wait_ns},
      .prepare_tokenizer = v->tokenizer[1],
      .long_tokenizer = o->long_thread ? v->tokenizer[2] : NULL,
      .chat = o->chat ? &v->chat : NULL,
      .metrics = v->metrics,
      .model = "tiny",
      .cascade = {.mode = o->mode,
                  .set = o->cascade_set,
                  .defer_rate = o->defer_rate,
                  .defer_burst = o->defer_burst},
      .modes = 1u << WEIR_MODE_SMALL | 1u << WEIR_MODE_DEFER | 1u << WEIR_MODE_EXACT,
      .entropy_min = o->unbounded ? 0 : 0.1f,
      .entropy_max = 3,
      .draw = {.top_p = 1},
      .max_tokens_default = 16,
      .max_tokens_limit = 400,
      .max_requests = o->max_requests,
  };
  if (weir_service_create(&v->cfg, &v->service, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

void served_close(served *v) {
  served_hold(v, -1);
  weir_service_destroy(v->service);
  for (int t = 0; t < 2; t++)
    if (v->exec[t]) v->exec[t]->ops->destroy(v->exec[t]);
  for (int t = 0; t < 3; t++) weir_tokenizer_destroy(v->tokenizer[t]);
  weir_metrics_destroy(v->metrics);
  pthread_cond_destroy(&v->gate.moved);
  pthread_mutex_destroy(&v->gate.lock);
}

void served_await_tier(served *v, int32_t tier, bool up) {
  for (int i = 0; i < 5000; i++) {
    if (weir_service_get_health(v->service).tier[tier].up == up) return;
    poll(NULL, 0, 1);
  }
  fail_msg("the service does not see that tier %d is %s", tier, up ? "up" : "down");
}

void served_kill(served *v, int32_t tier) { set_life(v->exec[tier], false); }

void served_revive(served *v, int32_t tier) { set_life(v->exec[tier], true); }

void served_hold(served *v, int64_t permits) {
  pthread_mutex_lock(&v->gate.lock);
  v->gate.permits = permits;
  pthread_cond_broadcast(&v->gate.moved);
  pthread_mutex_unlock(&v->gate.lock);
}

void served_await_held(served *v) {
  pthread_mutex_lock(&v->gate.lock);
  while (!(v->gate.waiting && v->gate.permits == 0)) pthread_cond_wait(&v->gate.moved, &v->gate.lock);
  pthread_mutex_unlock(&v->gate.lock);
}

void served_skip(served *v, int64_t ns) { atomic_fetch_add(&v->skew_ns, ns); }

weir_service_request served_ids(const uint32_t *ids, size_t n, uint32_t max_tokens) {
  return (weir_service_request){.prompt = {.ids = ids, .n_ids = n},
                                .max_tokens = max_tokens,
                                .ignore_eos = max_tokens > 0,
                                .has_seed = true,
                                .seed = 7};
}

/* Until news, or a while has passed. */
static void await_news(served *v) {
  struct pollfd p = {.fd = weir_service_news_fd(v->service), .events = POLLIN};
  uint64_t n;
  if (poll(&p, 1, 10000) <= 0) fail_msg("no news for ten seconds");
  (void)!read(p.fd, &n, sizeof n);
}

const weir_reply_end *served_await(served *v, weir_reply *r) {
  while (!weir_reply_get_end(r)) await_news(v);
  return weir_reply_get_end(r);
}

void served_await_tokens(served *v, weir_reply *r, int32_t n) {
  while (weir_reply_log_n(weir_reply_tokens(r)) < n) await_news(v);
}

const weir_call_result *served_await_call(served *v, weir_call *c) {
  while (!weir_call_get(c)) await_news(v);
  return weir_call_get(c);
}

void served_await_no_replies(served *v) {
  for (int i = 0; i < 5000 && weir_service_reply_bytes(v->service) > 0; i++) (void)poll(NULL, 0, 1);
  assert_int_equal(weir_service_reply_bytes(v->service), 0);
}

typedef struct wanted {
  const char *name, *label;
  double value;
} wanted;

static void look(void *ctx, const weir_metric_view *m) {
  wanted *w = ctx;
  if (strcmp(m->name, w->name) != 0) return;
  bool is = !w->label;
  for (int32_t i = 0; w->label && i < m->n_labels; i++) is |= !strcmp(m->label[i].value, w->label);
  if (!is) return;
  const double value = m->type == WEIR_METRIC_HISTOGRAM ? (double)m->count[m->n_le - 1] : m->value;
  w->value = isnan(w->value) ? value : w->value + value;
}

double served_metric(served *v, const char *name, const char *label) {
  wanted w = {name, label, NAN};
  weir_metrics_visit(v->metrics, look, &w);
  return w.value;
}
