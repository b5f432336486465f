/* SPDX-License-Identifier: Apache-2.0 */
/* What a request may ask for: every field against the models and the server's bounds, the first that is wrong
 * named. Makes the reply with copies of all it needs. Edges' threads; reads the service's constants alone. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/utf8.h"
#include "sched/queue.h"
#include "serve/service_in.h"

enum { MAX_STOP = 64, MAX_STOP_BYTES = 4096, MAX_STOP_IDS = 256, MAX_CHAT = 16384 };

void weir_service_clean_text(char *s) {
  const size_t n = strlen(s);
  int32_t len;
  for (size_t at = 0; at < n; at += (size_t)len)
    if (weir_utf8_next(s + at, n - at, &len) != WEIR_UTF8_CHAR) memset(s + at, '?', (size_t)len);
}

weir_status weir_service_error_set(weir_service_error *x, int32_t code, const char *param, const char *fmt,
                                   ...) {
  va_list ap;
  *x = (weir_service_error){.code = code};
  snprintf(x->param, sizeof x->param, "%s", param ? param : "");
  va_start(ap, fmt);
  vsnprintf(x->message, sizeof x->message, fmt, ap);
  va_end(ap);
  weir_service_clean_text(x->message); /* a name may have been cut in the middle of a character */
  return code == 429 ? WEIR_EBUSY : code == 503 ? WEIR_EDEVICE : code == 500 ? WEIR_ENOMEM : WEIR_EINVAL;
}

#define NEED(cond, param, ...)                                                           \
  do {                                                                                   \
    if (!(cond)) return weir_service_error_set(x, 400, (param), param ": " __VA_ARGS__); \
  } while (0)

static weir_status no_memory(weir_service_error *x, const weir_err *e) {
  return weir_service_error_set(x, 500, "", "%s", e->msg);
}

static bool within(float v, float low, float high) { return v >= low && v <= high; } /* NaN: no */

/* ---- the prompt ---- */

size_t weir_source_bytes(const weir_source *s) { return s->len + (size_t)s->n_ids * sizeof *s->ids; }

void weir_source_fini(weir_source *s) {
  free(s->text);
  free(s->ids);
  free(s->chat);
  *s = (weir_source){0};
}

static weir_status copy_ids(const weir_service *g, const weir_service_text *t, weir_source *s,
                            weir_service_error *x) {
  weir_err e;
  NEED(t->n_ids < INT32_MAX, "prompt_ids", "%zu are too many", t->n_ids);
  if (WEIR_NEW(t->n_ids, &s->ids, &e) != WEIR_OK) return no_memory(x, &e);
  for (size_t i = 0; i < t->n_ids; i++) {
    NEED(t->ids[i] < (uint32_t)g->n_vocab, "prompt_ids", "number %zu is %u, the vocabulary has %d", i,
         t->ids[i], g->n_vocab);
    s->ids[i] = (int32_t)t->ids[i];
  }
  s->n_ids = (int32_t)t->n_ids;
  return WEIR_OK;
}

static weir_status copy_chat(const weir_service *g, const weir_service_text *t, weir_source *s,
                             weir_service_error *x) {
  weir_err e;
  size_t bytes = 0, at = 0;
  NEED(g->cfg.chat, "chat", "the model has no chat template; ask with a prompt");
  NEED(t->n_chat <= MAX_CHAT, "chat", "%zu messages, at most %d", t->n_chat, MAX_CHAT);
  for (size_t i = 0; i < t->n_chat; i++)
    if (!t->chat[i].text || !weir_add_size(bytes, strlen(t->chat[i].text), &bytes))
      return weir_service_error_set(x, 400, "chat.text", "chat.text: message %zu has none", i);
  if (WEIR_NEW(bytes, &s->text, &e) != WEIR_OK || WEIR_NEW(t->n_chat, &s->chat, &e) != WEIR_OK)
    return no_memory(x, &e);
  for (size_t i = 0; i < t->n_chat; i++) {
    const size_t len = strlen(t->chat[i].text);
    weir_chat_role role;
    NEED(t->chat[i].role && weir_chat_role_parse(t->chat[i].role, &role), "chat.role",
         "message %zu is of none of system, user, assistant", i);
    NEED(weir_utf8_valid(t->chat[i].text, len), "chat.text", "message %zu is not UTF-8", i);
    memcpy(s->text + at, t->chat[i].text, len);
    s->chat[i] = (weir_chat_message){role, {s->text + at, len}};
    at += len;
  }
  s->len = bytes;
  s->n_chat = (int32_t)t->n_chat;
  return WEIR_OK;
}

weir_status weir_source_copy(const weir_service *g, const weir_service_text *t, weir_source *s,
                             weir_service_error *x) {
  weir_err e;
  const int kinds = (t->text != NULL) + (t->n_ids > 0) + (t->n_chat > 0);
  *s = (weir_source){.special = t->special, .bare = t->bare};
  NEED(kinds > 0, "prompt", "there is none");
  NEED(kinds == 1, "prompt", "more than one of prompt, prompt_ids and chat");
  if (t->n_ids > 0) return copy_ids(g, t, s, x);
  if (t->n_chat > 0) return copy_chat(g, t, s, x);
  NEED(t->len <= WEIR_TOKENIZE_MAX_BYTES, "prompt", "%zu bytes are too many", t->len);
  NEED(weir_utf8_valid(t->text, t->len), "prompt", "it is not UTF-8");
  if (WEIR_NEW(t->len, &s->text, &e) != WEIR_OK) return no_memory(x, &e);
  memcpy(s->text, t->text, t->len);
  s->len = t->len;
  return WEIR_OK;
}

/* ---- lengths and stops ---- */

static weir_status check_lengths(const weir_service *g, const weir_service_request *q, weir_reply *r,
                                 weir_service_error *x) {
  const uint32_t limit = (uint32_t)g->max_tokens_limit;
  NEED(q->max_tokens <= limit, "max_tokens", "%u; this server writes at most %u", q->max_tokens, limit);
  r->job.max_new = q->max_tokens > 0 ? (int32_t)q->max_tokens : g->max_tokens_default;
  NEED(q->min_tokens <= (uint32_t)r->job.max_new, "min_tokens", "%u, above max_tokens, %d", q->min_tokens,
       r->job.max_new);
  r->job.min_new = (int32_t)q->min_tokens;
  NEED(q->top_logprobs <= WEIR_TOP_MAX, "top_logprobs", "%u, at most %d", q->top_logprobs, WEIR_TOP_MAX);
  r->job.n_top = (int32_t)q->top_logprobs;
  NEED(q->priority >= -WEIR_MAX_PRIORITY && q->priority <= WEIR_MAX_PRIORITY, "priority", "%d, not -%d to %d",
       q->priority, WEIR_MAX_PRIORITY, WEIR_MAX_PRIORITY);
  return WEIR_OK;
}

static weir_status copy_stops(const weir_service *g, const weir_service_request *q, weir_reply *r,
                              weir_service_error *x) {
  weir_err e;
  size_t bytes = 0;
  NEED(q->n_stop <= MAX_STOP, "stop", "%zu of them, at most %d", q->n_stop, MAX_STOP);
  for (size_t i = 0; i < q->n_stop; i++) {
    const size_t len = q->stop[i] ? strlen(q->stop[i]) : 0;
    NEED(len > 0, "stop", "number %zu is empty", i);
    NEED(len <= MAX_STOP_BYTES, "stop", "number %zu is longer than %d bytes", i, MAX_STOP_BYTES);
    NEED(weir_utf8_valid(q->stop[i], len), "stop", "number %zu is not UTF-8", i);
    bytes += len + 1;
  }
  const size_t heads = q->n_stop * sizeof *r->stop;
  void *block = NULL;
  if (weir_calloc(heads + bytes, 1, "stop strings", &block, &e) != WEIR_OK) return no_memory(x, &e);
  r->stop = block;
  char *to = (char *)block + heads;
  for (size_t i = 0; i < q->n_stop; i++) {
    const size_t len = strlen(q->stop[i]) + 1;
    r->stop[i] = memcpy(to, q->stop[i], len);
    to += len;
  }
  r->job.stop = r->stop;
  r->job.n_stop = (int32_t)q->n_stop;
  NEED(q->n_stop_ids <= MAX_STOP_IDS, "stop_ids", "%zu of them, at most %d", q->n_stop_ids, MAX_STOP_IDS);
  if (WEIR_NEW(q->n_stop_ids, &r->stop_id, &e) != WEIR_OK) return no_memory(x, &e);
  for (size_t i = 0; i < q->n_stop_ids; i++) {
    NEED(q->stop_ids[i] < (uint32_t)g->n_vocab, "stop_ids", "%u; the vocabulary has %d", q->stop_ids[i],
         g->n_vocab);
    r->stop_id[r->n_stop_ids++] = (int32_t)q->stop_ids[i];
  }
  return WEIR_OK;
}

/* ---- sampling ---- */

static int by_id(const void *a, const void *b) {
  const int32_t x = ((const weir_bias *)a)->id, y = ((const weir_bias *)b)->id;
  return (x > y) - (x < y);
}

static weir_status copy_bias(const weir_service *g, const weir_service_request *q, weir_reply *r,
                             weir_service_error *x) {
  weir_err e;
  NEED(q->n_bias <= WEIR_MAX_BIAS, "sampling.logit_bias", "%zu of them, at most %d", q->n_bias,
       WEIR_MAX_BIAS);
  if (q->n_bias == 0) return WEIR_OK;
  if (WEIR_NEW(q->n_bias, &r->bias, &e) != WEIR_OK) return no_memory(x, &e);
  for (size_t i = 0; i < q->n_bias; i++) {
    NEED(q->bias[i].id < (uint32_t)g->n_vocab, "sampling.logit_bias", "token %u; the vocabulary has %d",
         q->bias[i].id, g->n_vocab);
    NEED(within(q->bias[i].add, -100, 100), "sampling.logit_bias", "%g for token %u, not -100 to 100",
         (double)q->bias[i].add, q->bias[i].id);
    r->bias[i] = (weir_bias){(int32_t)q->bias[i].id, q->bias[i].add};
  }
  qsort(r->bias, q->n_bias, sizeof *r->bias, by_id);
  for (size_t i = 1; i < q->n_bias; i++)
    NEED(r->bias[i].id != r->bias[i - 1].id, "sampling.logit_bias", "token %d is there twice", r->bias[i].id);
  r->job.penalties.bias = r->bias;
  r->job.penalties.n_bias = (int32_t)q->n_bias;
  return WEIR_OK;
}

static weir_status check_sampling(const weir_service *g, const weir_service_request *q, weir_reply *r,
                                  weir_service_error *x) {
  weir_ask *d = &r->job.draw;
  *d = (weir_ask){.temperature = q->has_temperature ? q->temperature : g->cfg.draw.temperature,
                  .top_k = g->cfg.draw.top_k,
                  .top_p = q->has_top_p ? q->top_p : g->cfg.draw.top_p,
                  .min_p = q->min_p != 0 ? q->min_p : g->cfg.draw.min_p,
                  .seed = q->has_seed ? q->seed : weir_hash_seed(),
                  .probe = -1};
  NEED(within(d->temperature, 0, 100), "sampling.temperature", "%g, not 0 to 100", (double)d->temperature);
  NEED(q->top_k <= INT32_MAX, "sampling.top_k", "%u is too large", q->top_k);
  if (q->top_k > 0) d->top_k = (int32_t)q->top_k;
  NEED(d->top_p > 0 && d->top_p <= 1, "sampling.top_p", "%g, not above 0 and up to 1", (double)d->top_p);
  NEED(within(d->min_p, 0, 1), "sampling.min_p", "%g, not 0 to 1", (double)d->min_p);
  NEED(within(q->presence_penalty, -2, 2), "sampling.presence_penalty", "%g, not -2 to 2",
       (double)q->presence_penalty);
  NEED(within(q->frequency_penalty, -2, 2), "sampling.frequency_penalty", "%g, not -2 to 2",
       (double)q->frequency_penalty);
  NEED(within(q->repetition_penalty, 0, 100), "sampling.repetition_penalty", "%g, not 0 to 100",
       (double)q->repetition_penalty);
  r->job.penalties = (weir_penalties){.presence = q->presence_penalty,
                                      .frequency = q->frequency_penalty,
                                      .repetition = q->repetition_penalty};
  return copy_bias(g, q, r, x);
}

/* ---- the cascade ---- */

/* What of the server's own setting still means something in another mode: a gate that was calibrated, between
 * the two modes that commit by it. */
static weir_cascade_opts opts_in(const weir_service *g, weir_mode mode) {
  weir_cascade_opts o = g->cfg.cascade;
  if (mode == o.mode) return o;
  const bool both = (mode == WEIR_MODE_DEFER || mode == WEIR_MODE_ROLLBACK) &&
                    (o.mode == WEIR_MODE_DEFER || o.mode == WEIR_MODE_ROLLBACK);
  o.set &= both ? (uint32_t)(WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST |
                             WEIR_OPT_LOAD_PRICE)
                : 0;
  o.mode = mode;
  return o;
}

/* A rate, a burst, a price: as asked for, but no more of the large tier than the server gives by itself. */
static weir_status check_budget(const weir_service_request *q, weir_cascade_opts *o, weir_service_error *x) {
  const bool gated = o->mode == WEIR_MODE_DEFER || o->mode == WEIR_MODE_ROLLBACK;
  const bool own_rate = o->set & WEIR_OPT_DEFER_RATE,
             own_burst = own_rate && o->defer_burst > 0 && (o->set & WEIR_OPT_DEFER_BURST);
  NEED(gated || !q->has_defer_rate, "cascade.defer_rate", "mode %s has no rate", weir_mode_name(o->mode));
  NEED(gated || q->defer_burst == 0, "cascade.defer_burst", "mode %s has no rate", weir_mode_name(o->mode));
  NEED(gated || !q->has_load_price, "cascade.load_price", "mode %s has no gate that could be priced",
       weir_mode_name(o->mode));
  NEED(!q->has_entropy || !q->has_defer_rate, "cascade.defer_rate",
       "it sets the threshold itself: not with entropy");
  NEED(!q->has_entropy || !own_rate, "cascade.entropy",
       "this server sets a deferral rate, %g; ask for less of it", (double)o->defer_rate);
  if (q->has_defer_rate) {
    NEED(within(q->defer_rate, 0, 1), "cascade.defer_rate", "%g, not 0 to 1", (double)q->defer_rate);
    o->defer_rate = own_rate && o->defer_rate < q->defer_rate ? o->defer_rate : q->defer_rate;
    o->set = (o->set | WEIR_OPT_DEFER_RATE) & ~(uint32_t)WEIR_OPT_THRESHOLD;
  }
  if (q->defer_burst > 0) {
    NEED(o->set & WEIR_OPT_DEFER_RATE, "cascade.defer_burst",
         "it needs a defer_rate, by which it is refilled");
    NEED(q->defer_burst <= 1 << 20, "cascade.defer_burst", "%u, at most %d", q->defer_burst, 1 << 20);
    const int32_t burst = (int32_t)q->defer_burst;
    o->defer_burst = own_burst && o->defer_burst < burst ? o->defer_burst : burst;
    o->set |= WEIR_OPT_DEFER_BURST;
  }
  if (q->has_load_price) {
    NEED(within(q->load_price, 0, WEIR_LOAD_PRICE_MAX), "cascade.load_price", "%g, not 0 to %d",
         (double)q->load_price, WEIR_LOAD_PRICE_MAX);
    const float own = o->set & WEIR_OPT_LOAD_PRICE ? o->load_price : 0;
    o->load_price = own > q->load_price ? own : q->load_price;
    o->set |= WEIR_OPT_LOAD_PRICE;
  }
  return WEIR_OK;
}

static weir_status check_cascade(const weir_service *g, const weir_service_request *q, weir_reply *r,
                                 weir_service_error *x) {
  weir_err e = {0};
  const char *asked = q->mode ? q->mode : "";
  weir_mode mode = g->cfg.cascade.mode;
  r->threshold = NAN;
  r->job.cascade = &r->cascade;
  r->job.pinned = q->pin;
  NEED(!asked[0] || weir_mode_parse(asked, &mode), "cascade.mode",
       "\"%.40s\", not small, large, defer, rollback, exact or speculate", asked);
  NEED(!q->pin || !asked[0] || mode == WEIR_MODE_SMALL, "cascade.pin",
       "a request that is pinned to the small tier cannot run in mode %s", asked);
  NEED(!q->has_entropy || !isnan(q->entropy), "cascade.entropy", "it is not a number");
  if (q->pin) mode = WEIR_MODE_SMALL;
  r->mode = mode;
  if (g->cfg.engine.n_tiers == 1) {
    NEED(!asked[0], "cascade.mode", "this server has a single model");
    NEED(!q->has_entropy, "cascade.entropy", "this server has a single model");
    NEED(!q->has_defer_rate, "cascade.defer_rate", "this server has a single model");
    NEED(q->defer_burst == 0, "cascade.defer_burst", "this server has a single model");
    NEED(!q->has_load_price, "cascade.load_price", "this server has a single model");
    weir_cascade_cfg_single(&r->cascade);
    return WEIR_OK;
  }
  NEED(!asked[0] || q->pin || mode == g->cfg.cascade.mode || (g->cfg.modes >> mode & 1), "cascade.mode",
       "%s is not offered here", asked);
  weir_cascade_opts o = opts_in(g, mode);
  const weir_status st = check_budget(q, &o, x);
  if (st != WEIR_OK) return st;
  if (q->has_entropy) {
    NEED(mode != WEIR_MODE_SMALL && mode != WEIR_MODE_LARGE, "cascade.entropy", "mode %s has no threshold",
         weir_mode_name(mode));
    NEED(within(q->entropy, g->cfg.entropy_min, g->cfg.entropy_max), "cascade.entropy",
         "%g; this server takes %g to %g", (double)q->entropy, (double)g->cfg.entropy_min,
         (double)g->cfg.entropy_max);
    o.set |= WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    o.gate = WEIR_GATE_ENTROPY;
    o.threshold = q->entropy;
  }
  if (weir_cascade_cfg_make(&o, &r->cascade, &e) != WEIR_OK)
    return weir_service_error_set(x, 400, "cascade", "cascade: %s", e.msg);
  if (mode != WEIR_MODE_SMALL && mode != WEIR_MODE_LARGE && !r->cascade.budget.rated &&
      r->cascade.gate[0].kind == WEIR_GATE_ENTROPY && isfinite(r->cascade.gate[0].threshold))
    r->threshold = r->cascade.gate[0].threshold;
  return WEIR_OK;
}

/* ---- all ---- */

static weir_status fill(const weir_service *g, const weir_service_request *q, weir_reply *r,
                        weir_service_error *x) {
  weir_err e;
  weir_status st = WEIR_OK;
  const char *user = q->user ? q->user : "";
  if (q->model && q->model[0] && strcmp(q->model, g->model) != 0)
    return weir_service_error_set(x, 404, "model", "there is no model \"%.80s\" here, but \"%.80s\"",
                                  q->model, g->model);
  WEIR_TRY(check_lengths(g, q, r, x));
  WEIR_TRY(copy_stops(g, q, r, x));
  WEIR_TRY(check_sampling(g, q, r, x));
  WEIR_TRY(check_cascade(g, q, r, x));
  WEIR_TRY(weir_source_copy(g, &q->prompt, &r->source, x));
  r->source_bytes =
      (int64_t)(weir_source_bytes(&r->source) + (size_t)r->source.n_chat * sizeof *r->source.chat);
  atomic_fetch_add(&r->of->reply_bytes, r->source_bytes);
  r->submitted_ns = weir_service_now(g);
  r->job.priority = q->priority;
  r->job.deadline_ns = q->deadline_ms > 0 ? r->submitted_ns + (int64_t)q->deadline_ms * 1000000 : 0;
  r->job.salt = weir_keyed_hash(g->salt_key, user, strlen(user));
  r->job.ignore_eos = q->ignore_eos;
  r->job.show_special = q->prompt.special;
  if (weir_reply_log_init(&r->log, r->job.max_new, &r->of->reply_bytes, &e) != WEIR_OK)
    return no_memory(x, &e);
out:
  return st;
}

weir_status weir_reply_create(weir_service *g, const weir_service_request *q, weir_reply **out,
                              weir_service_error *x) {
  weir_reply *r;
  weir_err e;
  *out = NULL;
  if (WEIR_NEW(1, &r, &e) != WEIR_OK) return no_memory(x, &e);
  r->of = g;
  r->refs = 2;
  const weir_status st = fill(g, q, r, x);
  if (st == WEIR_OK)
    *out = r;
  else
    weir_reply_free(r);
  return st;
}

void weir_reply_drop_source(weir_reply *r) {
  weir_source_fini(&r->source);
  atomic_fetch_sub(&r->of->reply_bytes, r->source_bytes);
  r->source_bytes = 0;
}

void weir_reply_free(weir_reply *r) {
  if (!r) return;
  weir_reply_drop_source(r);
  weir_tokens_fini(&r->prompt);
  weir_reply_log_fini(&r->log);
  free((void *)r->stop);
  free(r->stop_id);
  free(r->bias);
  free(r);
}
