/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_client.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static fake_engine engines[FAKE_ENGINES];

fake_engine *fake_engine_of(const char *url) {
  for (int i = 0; i < FAKE_ENGINES; i++) {
    if (!engines[i].url[0]) {
      snprintf(engines[i].url, sizeof engines[i].url, "%s", url);
      engines[i].live = engines[i].ready = true;
    }
    if (!strcmp(engines[i].url, url)) return &engines[i];
  }
  abort();
}

void fake_reset(void) { memset(engines, 0, sizeof engines); }

typedef struct request {
  struct request *next;
  int64_t number;
  weir_client_events ev;
  char prompt[256];
  uint32_t top;
  bool receipts, started, held, ended;
  uint32_t stop_id;
  uint64_t seed;
} request;

typedef enum { HEALTH, MODEL, STATS, IDS, TEXT } call_kind;
typedef struct call {
  struct call *next;
  call_kind kind;
  void (*done)(void);
  void *ctx;
  size_t n;
} call;

struct weir_client {
  fake_engine *engine;
  int fd;
  int64_t last;
  request *requests;
  call *calls;
};

int weir_client_open(const weir_client_cfg *cfg, weir_client **out, weir_client_error *e) {
  memset(e, 0, sizeof *e);
  *out = calloc(1, sizeof **out);
  (*out)->engine = fake_engine_of(cfg->url);
  (*out)->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return 0;
}

int weir_client_fd(const weir_client *c) { return c->fd; }

/* ---- requests ---- */

int64_t weir_client_submit(weir_client *c, const weir_client_request *q, const weir_client_events *ev,
                           weir_client_error *e) {
  memset(e, 0, sizeof *e);
  request *r = calloc(1, sizeof *r), **at = &c->requests;
  const char *prompt = q->prompt ? q->prompt : q->n_chat ? q->chat[q->n_chat - 1].text : "write 1";
  fake_engine *x = c->engine;
  snprintf(r->prompt, sizeof r->prompt, "%s", prompt);
  r->number = ++c->last;
  r->ev = *ev;
  r->top = q->top_logprobs;
  r->receipts = q->receipts;
  r->stop_id = q->n_stop_ids ? q->stop_ids[0] : 7;
  r->seed = q->has_seed ? q->seed : 42;
  x->last = *q;
  snprintf(x->last_mode, sizeof x->last_mode, "%s", q->mode ? q->mode : "");
  snprintf(x->last_user, sizeof x->last_user, "%s", q->user ? q->user : "");
  snprintf(x->last_model, sizeof x->last_model, "%s", q->model ? q->model : "");
  snprintf(x->last_prompt, sizeof x->last_prompt, "%s", prompt);
  while (*at) at = &(*at)->next;
  *at = r;
  c->engine->submits++;
  c->engine->open++;
  return r->number;
}

void weir_client_abandon(weir_client *c, int64_t number) {
  for (request *r = c->requests; r; r = r->next)
    if (r->number == number && !r->ended) {
      r->ended = true;
      c->engine->open--;
      c->engine->cancels++;
    }
}

void weir_client_cancel(weir_client *c, int64_t number) { weir_client_abandon(c, number); }

static weir_client_usage usage_of(const request *r, uint32_t n) {
  weir_client_usage u = {.prompt_tokens = 5,
                         .cached_tokens = 2,
                         .completion_tokens = n,
                         .refused = 1,
                         .n_tiers = 2,
                         .tokens_by_tier = {n - n / 2, n / 2},
                         .steps_by_tier = {n, n / 2},
                         .queued_us = 1000,
                         .first_token_us = 2000,
                         .total_us = 3000,
                         .seed = r->seed,
                         .entropy = 0.5f,
                         .wanted_up = n / 3,
                         .forced = 1,
                         .routed = "large",
                         .route_score = 0.75f,
                         .flops = {1e9, 3e12},
                         .weight_bytes = {5, 6},
                         .large_only_flops = 1.25e13};
  snprintf(u.mode, sizeof u.mode, "defer");
  return u;
}

static void end(weir_client *c, request *r, const char *reason, const char *stop, uint32_t n, int code) {
  weir_client_end x = {.reason = reason, .stop = stop, .usage = usage_of(r, n)};
  if (code) {
    x.error.code = code;
    x.error.retry_after_ms = code == 429 ? 2500 : 0;
    snprintf(x.error.message, sizeof x.error.message, "told to fail with %d", code);
    if (code == 400) {
      snprintf(x.error.param, sizeof x.error.param, "cascade.mode");
      snprintf(x.error.message, sizeof x.error.message, "cascade.mode: told to fail with 400");
    }
  }
  r->ended = true;
  c->engine->open--;
  r->ev.on_end(r->ev.ctx, &x);
}

/* "ö" is cut in two; the last has a byte that is none of UTF-8. */
static const struct {
  const char *text;
  uint32_t id;
} words[] = {{"Hel", 1}, {"lo", 2}, {" w\xc3", 3}, {"\xb6rld", 4}, {"\"\n", 5}, {"\xff", 6}};

static void token(request *r, uint32_t i) {
  const uint32_t w = i % 6;
  const weir_client_top top[2] = {{words[w].id, -0.25f, words[w].text, strlen(words[w].text)},
                                  {99, -2, "other", 5}};
  const weir_client_token t = {.index = i,
                               .id = words[w].id,
                               .tier = i % 2,
                               .text = words[w].text,
                               .len = strlen(words[w].text),
                               .logprob = i == 1 ? -INFINITY : -0.25f,
                               .entropy = i ? 0.5f : NAN,
                               .p_max = 0.75f,
                               .margin = 0.5f,
                               .why = r->receipts ? (i % 2 ? "deferred" : "easy") : "",
                               .wait_us = 1500,
                               .wanted_up = i == 2,
                               .top = top,
                               .n_top = r->top < 2 ? r->top : 2};
  if (!r->ended && r->ev.on_token) r->ev.on_token(r->ev.ctx, &t);
}

static void work(weir_client *c, request *r) {
  char url[64];
  int n = 0;
  const char *p = r->prompt;
  bool lost = sscanf(p, "lose %d", &n) == 1;
  if (sscanf(p, "refuse-on %63s %d", url, &n) == 2) {
    if (!strcmp(url, c->engine->url)) {
      end(c, r, "error", "", 0, n);
      return;
    }
    p = "write 1";
  }
  if (sscanf(p, "lose-on %63s %d", url, &n) == 2) {
    p = strcmp(url, c->engine->url) != 0 ? "write 3" : strchr(strchr(p, ' ') + 1, ' ') + 1;
    lost = p[0] != 'w';
  }
  if (sscanf(p, "refuse %d", &n) == 1) {
    end(c, r, "error", "", 0, n);
    return;
  }
  r->held = !strncmp(p, "hold", 4);
  if (!strcmp(p, "hold queued")) return;
  r->started = true;
  if (r->ev.on_start) r->ev.on_start(r->ev.ctx, 5);
  if (!strcmp(p, "hold accepted")) return;
  if (lost) {
    for (int i = 0; i < n; i++) token(r, (uint32_t)i);
    if (!r->ended) end(c, r, "error", "", (uint32_t)n, 503);
  } else if (r->held) {
    token(r, 0);
  } else if (sscanf(p, "write %d", &n) == 1) {
    for (int i = 0; i < n; i++) token(r, (uint32_t)i);
    if (!r->ended) end(c, r, "length", "", (uint32_t)n, 0);
  } else if (!strncmp(p, "stop", 4)) {
    token(r, 0);
    token(r, 1);
    if (!r->ended) end(c, r, p[4] ? "stop" : "eos", p[4] ? p + 5 : "", 2, 0);
  } else if (sscanf(p, "late %d", &n) == 1) {
    token(r, 0);
    token(r, 1);
    if (!r->ended) end(c, r, "error", "", 2, n);
  } else if (!strcmp(p, "deadline")) {
    end(c, r, "deadline", "", 0, 0);
  } else {
    token(r, 0);
    if (!r->ended) end(c, r, "eos", "", 1, 0);
  }
}

/* ---- calls ---- */

static int add_call(weir_client *c, call_kind kind, void (*done)(void), void *ctx, size_t n,
                    weir_client_error *e) {
  call *x = calloc(1, sizeof *x), **at = &c->calls;
  memset(e, 0, sizeof *e);
  *x = (call){NULL, kind, done, ctx, n};
  while (*at) at = &(*at)->next;
  *at = x;
  return 0;
}

typedef void (*health_fn)(void *, const weir_client_health *, const weir_client_error *);
typedef void (*model_fn)(void *, const weir_client_model *, const weir_client_error *);
typedef void (*stats_fn)(void *, const weir_client_stats *, const weir_client_error *);
typedef void (*ids_fn)(void *, const weir_client_ids *, const weir_client_error *);
typedef void (*text_fn)(void *, const char *, size_t, const weir_client_error *);

int weir_client_get_health(weir_client *c, health_fn done, void *ctx, weir_client_error *e) {
  return add_call(c, HEALTH, (void (*)(void))done, ctx, 0, e);
}
int weir_client_get_model(weir_client *c, model_fn done, void *ctx, weir_client_error *e) {
  return add_call(c, MODEL, (void (*)(void))done, ctx, 0, e);
}
int weir_client_get_stats(weir_client *c, stats_fn done, void *ctx, weir_client_error *e) {
  return add_call(c, STATS, (void (*)(void))done, ctx, 0, e);
}
int weir_client_tokenize(weir_client *c, const char *text, size_t len, bool special, bool bare,
                         const weir_client_message *chat, size_t n_chat, ids_fn done, void *ctx,
                         weir_client_error *e) {
  (void)text, (void)special, (void)bare, (void)chat;
  return add_call(c, IDS, (void (*)(void))done, ctx, len + n_chat, e);
}
int weir_client_detokenize(weir_client *c, const uint32_t *id, size_t n, text_fn done, void *ctx,
                           weir_client_error *e) {
  (void)id;
  return add_call(c, TEXT, (void (*)(void))done, ctx, n, e);
}

static void answer_stats(const call *x, const weir_client_health *health, const weir_client_error *e) {
  const weir_client_label small[] = {{"tier", "small"}}, large[] = {{"tier", "large"}};
  const double le[] = {0.5, 1, INFINITY};
  const uint64_t count[] = {1, 2, 3};
  const weir_client_sample tokens[] = {{.label = small, .n_labels = 1, .value = 90},
                                       {.label = large, .n_labels = 1, .value = 10}};
  const weir_client_sample plain = {.value = 12.5};
  const weir_client_sample times = {.le = le, .count = count, .n_buckets = 3, .sum = 4.5, .n = 3};
  const weir_client_family family[] = {
      {"weir:tokens_total", "Tokens, by \\ and\nlines.", 0, tokens, 2},
      {"weir:goodput_tokens_per_second", "Goodput.", 1, &plain, 1},
      {"weir:time_to_first_token_seconds", "Time to first token.", 2, &times, 1},
      {"not a name", "Left out.", 1, &plain, 1},
  };
  const weir_client_stats s = {"demo", *health, family, 4};
  ((stats_fn)x->done)(x->ctx, &s, e);
}

static void answer(weir_client *c, const call *x, int code) {
  weir_client_error e = {.code = code};
  if (code) snprintf(e.message, sizeof e.message, "the engine is not there");
  const bool down = c->engine->no_large;
  const weir_client_tier_health lives[] = {
      {.name = "small", .up = true, .for_ms = 65000, .reason = ""},
      {"large", !down, true, 1500, down ? "node 1 (\"gpu17\") is silent" : "", down}};
  const weir_client_health health = {.live = c->engine->live,
                                     .ready = c->engine->ready,
                                     .reason = c->engine->ready ? "" : "loading",
                                     .running = 1,
                                     .waiting = 2,
                                     .queue_limit = 64,
                                     .tier = lives,
                                     .n_tiers = 2};
  const weir_client_tier tier[] = {{.name = "small", .model = "s.gguf", .type = "q8_0", .weight_bytes = 10},
                                   {.name = "large", .model = "l.gguf", .type = "q8_0", .weight_bytes = 50}};
  const char *const modes[] = {"defer", "exact"};
  const weir_client_model model = {.id = "demo",
                                   .chat_format = "chatml",
                                   .mode = "defer",
                                   .version = "1",
                                   .context = 512,
                                   .vocab = 100,
                                   .tier = tier,
                                   .n_tiers = 2,
                                   .modes = modes,
                                   .n_modes = 2,
                                   .entropy = 0.5f,
                                   .entropy_min = 0,
                                   .entropy_max = NAN,
                                   .defer_rate = NAN};
  const uint32_t id[] = {1, 2, 3};
  const weir_client_ids ids = {.id = id, .n = x->n ? 3 : 0};
  switch (x->kind) {
    case HEALTH: ((health_fn)x->done)(x->ctx, code ? NULL : &health, &e); break;
    case MODEL: ((model_fn)x->done)(x->ctx, code ? NULL : &model, &e); break;
    case STATS:
      if (code)
        ((stats_fn)x->done)(x->ctx, NULL, &e);
      else
        answer_stats(x, &health, &e);
      break;
    case IDS: ((ids_fn)x->done)(x->ctx, code ? NULL : &ids, &e); break;
    case TEXT: ((text_fn)x->done)(x->ctx, code ? NULL : "h\xff", code ? 0 : 2, &e); break;
  }
}

/* ---- the run ---- */

static void sweep(weir_client *c) {
  for (request **at = &c->requests; *at;) {
    request *r = *at;
    if (!r->ended) {
      at = &r->next;
      continue;
    }
    *at = r->next;
    free(r);
  }
}

int weir_client_run(weir_client *c, int timeout_ms) {
  (void)timeout_ms;
  eventfd_t got;
  (void)!eventfd_read(c->fd, &got);
  for (call *x; !c->engine->silent && (x = c->calls);) {
    c->calls = x->next;
    answer(c, x, c->engine->live ? 0 : 503);
    free(x);
  }
  for (request *r = c->requests; r; r = r->next)
    if (!r->started && !r->held && !r->ended) work(c, r);
  sweep(c);
  return 0;
}

void weir_client_close(weir_client *c) {
  if (!c) return;
  for (request *r = c->requests; r; r = r->next)
    if (!r->ended) end(c, r, "cancelled", "", 0, 499);
  sweep(c);
  for (call *x; (x = c->calls);) {
    c->calls = x->next;
    answer(c, x, 499);
    free(x);
  }
  close(c->fd);
  free(c);
}
