/* SPDX-License-Identifier: Apache-2.0 */
/* What a request asks of the cascade, within what the server gives: mode, threshold, budget, settings. The
 * thread of the edge. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cascade/cascade_set.h"
#include "model/utf8.h"
#include "serve/service_in.h"

/* Modes in which one gate decides token by token who writes. */
static bool by_gate(weir_mode m) {
  return m == WEIR_MODE_DEFER || m == WEIR_MODE_ROLLBACK || m == WEIR_MODE_AUTO;
}

/* What of the server's own setting still means something in another mode: a gate that was calibrated, and its
 * budget, between the modes that go by it. */
static weir_cascade_opts opts_in(const weir_service *g, weir_mode mode) {
  weir_cascade_opts o = g->cfg.cascade;
  if (mode == o.mode) return o;
  o.set &= by_gate(mode) && by_gate(o.mode)
               ? (uint32_t)(WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST |
                            WEIR_OPT_LOAD_PRICE)
               : 0;
  o.mode = mode;
  return o;
}

static weir_gate_kind gate_of(const weir_cascade_opts *o) {
  return o->set & WEIR_OPT_GATE ? o->gate : WEIR_GATE_ENTROPY;
}

/* In mode route it is the share that a rate moves. */
static bool rate_moves_tau(const weir_cascade_opts *o) {
  return o->mode != WEIR_MODE_ROUTE && (o->set & WEIR_OPT_DEFER_RATE);
}

/* What a request sets by name takes the place of the server's own; what hung on the server's choice of a gate
 * or a rule goes with it. */
static weir_status apply_settings(const weir_service *g, const weir_service_request *q, weir_cascade_opts *o,
                                  weir_service_error *x) {
  weir_cascade_opts asked = {.mode = o->mode};
  NEED(q->n_settings <= WEIR_SERVICE_MAX_SETTINGS, "cascade.setting", "%zu of them, at most %d",
       q->n_settings, WEIR_SERVICE_MAX_SETTINGS);
  for (size_t i = 0; i < q->n_settings; i++) {
    const weir_service_setting *s = &q->setting[i];
    char param[sizeof x->param];
    weir_err e;
    snprintf(param, sizeof param, "cascade.%.*s", WEIR_SETTING_NAME_BYTES, s->name);
    for (size_t k = 0; k < i; k++)
      if (!strcmp(q->setting[k].name, s->name))
        return weir_service_error_set(x, 400, param, "%s: it is set twice", param);
    if (weir_cascade_opts_set(&asked, s->name, s->value, &e) != WEIR_OK)
      return weir_service_error_set(x, 400, param, "cascade: %s", e.msg);
  }
  const bool other_gate = asked.set & WEIR_OPT_GATE, other_rule = asked.set & WEIR_OPT_ACCEPT;
  NEED(!q->has_entropy || !(asked.set & (WEIR_OPT_GATE | WEIR_OPT_THRESHOLD)), "cascade.entropy",
       "it is a gate and its threshold: not with others");
  const weir_gate_kind gate = other_gate ? asked.gate : gate_of(o);
  if (asked.set & WEIR_OPT_THRESHOLD) {
    NEED(!rate_moves_tau(o), "cascade.threshold", "a deferral rate sets the threshold itself");
    NEED(gate != WEIR_GATE_ENTROPY || weir_within(asked.threshold, g->cfg.entropy_min, g->cfg.entropy_max),
         "cascade.threshold", "%g; this server takes %g to %g", (double)asked.threshold,
         (double)g->cfg.entropy_min, (double)g->cfg.entropy_max);
  }
  /* Who says how low the threshold may be bounds what a request costs the large tier: there is no other way
   * round that. */
  if (g->cfg.entropy_min > 0) {
    NEED(!other_gate || asked.gate == WEIR_GATE_ENTROPY, "cascade.gate",
         "this server bounds the threshold of the entropy gate, and has no other");
    NEED(!(asked.set & WEIR_OPT_THRESHOLD) || gate == WEIR_GATE_ENTROPY, "cascade.threshold",
         "this server bounds what requests may defer");
  }
  if (g->cfg.entropy_min > 0 || g->cfg.cascade.set & o->set & WEIR_OPT_DEFER_RATE) {
    NEED(!(asked.set & WEIR_OPT_HOLD), "cascade.hold", "this server bounds what requests may defer");
    NEED(!(asked.set & WEIR_OPT_ROUTE_SHARE), "cascade.route_share",
         "this server bounds what requests may defer");
  }
  NEED(!(asked.set & WEIR_OPT_ROUTE_SHARE) || !(o->set & WEIR_OPT_DEFER_RATE), "cascade.route_share",
       "a deferral rate sets it itself");
  if (other_gate) o->set &= ~(uint32_t)WEIR_OPT_THRESHOLD;
  if (other_rule)
    o->set &= ~(uint32_t)(WEIR_OPT_ACCEPT_NLL | WEIR_OPT_ACCEPT_ALPHA | WEIR_OPT_ACCEPT_EPSILON |
                          WEIR_OPT_ACCEPT_DELTA | WEIR_OPT_HORIZON);
  weir_err e;
  for (size_t i = 0; i < q->n_settings; i++)
    weir_cascade_opts_set(o, q->setting[i].name, q->setting[i].value, &e);
  return WEIR_OK;
}

/* A rate, a burst, a price: as asked for, but no more of the large tier than the server gives by itself. */
static weir_status check_budget(const weir_service_request *q, weir_cascade_opts *o, weir_service_error *x) {
  const bool gated = weir_cascade_options(o) & WEIR_OPT_DEFER_RATE;
  const bool of_requests = o->mode == WEIR_MODE_ROUTE;
  const bool own_rate = o->set & WEIR_OPT_DEFER_RATE,
             own_burst = own_rate && o->defer_burst > 0 && (o->set & WEIR_OPT_DEFER_BURST);
  NEED(gated || !q->has_defer_rate, "cascade.defer_rate", "mode %s has no rate", weir_mode_name(o->mode));
  NEED(gated || q->defer_burst == 0, "cascade.defer_burst", "mode %s has no rate", weir_mode_name(o->mode));
  NEED(gated || !q->has_load_price, "cascade.load_price", "mode %s has no gate that could be priced",
       weir_mode_name(o->mode));
  NEED(!q->has_entropy || !q->has_defer_rate || of_requests, "cascade.defer_rate",
       "it sets the threshold itself: not with entropy");
  NEED(!q->has_entropy || !own_rate || of_requests, "cascade.entropy",
       "this server sets a deferral rate, %g; ask for less of it", (double)o->defer_rate);
  if (q->has_defer_rate) {
    NEED(weir_within(q->defer_rate, 0, 1), "cascade.defer_rate", "%g, not 0 to 1", (double)q->defer_rate);
    o->defer_rate = own_rate && o->defer_rate < q->defer_rate ? o->defer_rate : q->defer_rate;
    o->set |= WEIR_OPT_DEFER_RATE;
    o->set &= ~(uint32_t)(of_requests ? WEIR_OPT_ROUTE_SHARE : WEIR_OPT_THRESHOLD); /* what it moves */
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
    NEED(weir_within(q->load_price, 0, WEIR_LOAD_PRICE_MAX), "cascade.load_price", "%g, not 0 to %d",
         (double)q->load_price, WEIR_LOAD_PRICE_MAX);
    const float own = o->set & WEIR_OPT_LOAD_PRICE ? o->load_price : 0;
    o->load_price = own > q->load_price ? own : q->load_price;
    o->set |= WEIR_OPT_LOAD_PRICE;
  }
  return WEIR_OK;
}

/* The gate that the request ends up with: it needs its file, and spans lower its threshold no further than
 * anything else may. */
static weir_status check_gate(const weir_service *g, const weir_service_request *q,
                              const weir_cascade_opts *o, weir_service_error *x) {
  const weir_gate_kind gate = gate_of(o);
  NEED(gate != WEIR_GATE_ISOTONIC || o->gate_map, "cascade.gate",
       "this server has no map for isotonic: it comes with a gate file");
  NEED(gate != WEIR_GATE_HEAD || g->cfg.engine.tier[0]->info.gate_head, "cascade.gate",
       "this server has no head: it comes with a gate file");
  for (size_t i = 0; g->cfg.entropy_min > 0 && i < q->n_spans && i < WEIR_MAX_GATE_SPANS; i++) {
    NEED(gate == WEIR_GATE_ENTROPY, "cascade.span", "this server bounds what requests may defer");
    NEED(!(q->span[i].threshold < g->cfg.entropy_min), "cascade.span",
         "the threshold of number %zu is %g; this server takes %g and more", i, (double)q->span[i].threshold,
         (double)g->cfg.entropy_min);
  }
  return WEIR_OK;
}

/* What the configuration does not take begins with the name of an option: the request's field, where it set
 * that one itself. */
static weir_status refuse(const weir_service_request *q, const weir_err *e, weir_service_error *x) {
  char param[sizeof x->param] = "cascade", name[WEIR_SETTING_NAME_BYTES];
  const size_t n = strcspn(e->msg, " :");
  snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), e->msg);
  for (char *p = name; *p; p++)
    if (*p == '-') *p = '_';
  for (size_t i = 0; i < q->n_settings; i++)
    if (!strcmp(q->setting[i].name, name)) snprintf(param, sizeof param, "cascade.%s", name);
  if (q->n_spans > 0 && !strcmp(name, "span")) snprintf(param, sizeof param, "cascade.span");
  return weir_service_error_set(x, 400, param, "cascade: %s", e->msg);
}

weir_status weir_service_check_cascade(const weir_service *g, const weir_service_request *q, weir_reply *r,
                                       weir_service_error *x) {
  weir_err e = {0};
  const char *asked = q->mode ? q->mode : "";
  weir_mode mode = g->cfg.cascade.mode;
  r->threshold = NAN;
  r->job.cascade = &r->cascade;
  r->job.pinned = q->pin;
  NEED(!asked[0] || weir_mode_parse(asked, &mode), "cascade.mode", "there is no mode \"%.40s\"", asked);
  NEED(!q->pin || !asked[0] || mode == WEIR_MODE_SMALL, "cascade.pin",
       "a request that is pinned to the small tier cannot run in mode %s", asked);
  NEED(!q->pin || !g->cfg.engine.lone_large, "cascade.pin", "this server has no small model");
  NEED(!q->has_entropy || !isnan(q->entropy), "cascade.entropy", "it is not a number");
  if (q->pin) mode = WEIR_MODE_SMALL;
  r->mode = mode;
  if (g->cfg.engine.n_tiers == 1) {
    NEED(!asked[0], "cascade.mode", "this server has a single model");
    NEED(!q->has_entropy, "cascade.entropy", "this server has a single model");
    NEED(!q->has_defer_rate, "cascade.defer_rate", "this server has a single model");
    NEED(q->defer_burst == 0, "cascade.defer_burst", "this server has a single model");
    NEED(!q->has_load_price, "cascade.load_price", "this server has a single model");
    NEED(q->n_settings == 0, "cascade.setting", "this server has a single model");
    weir_cascade_cfg_single(&r->cascade);
    return WEIR_OK;
  }
  NEED(!asked[0] || q->pin || mode == g->cfg.cascade.mode || (g->cfg.modes >> mode & 1), "cascade.mode",
       "%s is not offered here", asked);
  weir_cascade_opts o = opts_in(g, mode);
  weir_status st = check_budget(q, &o, x);
  if (st == WEIR_OK) st = apply_settings(g, q, &o, x);
  if (st != WEIR_OK) return st;
  if (q->has_entropy) {
    NEED(mode != WEIR_MODE_SMALL && mode != WEIR_MODE_LARGE, "cascade.entropy", "mode %s has no threshold",
         weir_mode_name(mode));
    NEED(weir_within(q->entropy, g->cfg.entropy_min, g->cfg.entropy_max), "cascade.entropy",
         "%g; this server takes %g to %g", (double)q->entropy, (double)g->cfg.entropy_min,
         (double)g->cfg.entropy_max);
    o.set |= WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    o.gate = WEIR_GATE_ENTROPY;
    o.threshold = q->entropy;
  }
  if (q->n_spans > 0) o.set |= WEIR_OPT_SPAN;
  r->job.auto_ = mode == WEIR_MODE_AUTO;
  r->job.quality = o.quality;
  st = check_gate(g, q, &o, x);
  if (st != WEIR_OK) return st;
  if (weir_cascade_cfg_make(&o, &r->cascade, &e) != WEIR_OK) return refuse(q, &e, x);
  if (mode != WEIR_MODE_SMALL && mode != WEIR_MODE_LARGE && !r->cascade.budget.rated &&
      r->cascade.gate[0].kind == WEIR_GATE_ENTROPY && isfinite(r->cascade.gate[0].threshold))
    r->threshold = r->cascade.gate[0].threshold;
  return WEIR_OK;
}

/* ---- choices and spans ---- */

/* Their bytes with NULs; x->code is set where one is not good. */
static size_t measure_words(const weir_service_request *q, weir_service_error *x) {
  size_t bytes = 0;
  for (size_t i = 0; i < q->n_choices + 2 * q->n_spans; i++) {
    const size_t k = i - q->n_choices;
    const bool is_choice = i < q->n_choices, is_end = !is_choice && k % 2;
    const char *text = is_choice ? q->choice[i] : is_end ? q->span[k / 2].end : q->span[k / 2].start;
    const char *param = is_choice ? "choices" : "cascade.span";
    const size_t n = text ? strlen(text) : 0, number = is_choice ? i : k / 2;
    if (n == 0 && !is_end)
      weir_service_error_set(x, 400, param, "%s: number %zu is empty", param, number);
    else if (text && !weir_utf8_valid(text, n))
      weir_service_error_set(x, 400, param, "%s: number %zu is not UTF-8", param, number);
    else if (!is_choice && isnan(q->span[k / 2].threshold))
      weir_service_error_set(x, 400, param, "%s: the threshold of number %zu is not a number", param, number);
    if (x->code) return 0;
    bytes += n + 1;
  }
  return bytes;
}

static const char *copy_text(char **to, const char *text) {
  const size_t n = (text ? strlen(text) : 0) + 1;
  const char *at = memcpy(*to, text ? text : "", n);
  *to += n;
  return at;
}

weir_status weir_service_copy_words(const weir_service *g, const weir_service_request *q, weir_reply *r,
                                    weir_service_error *x) {
  weir_err e;
  if (q->n_choices == 0 && q->n_spans == 0) return WEIR_OK;
  NEED(q->n_choices <= WEIR_MAX_CHOICES, "choices", "%zu of them, at most %d", q->n_choices,
       WEIR_MAX_CHOICES);
  NEED(q->n_spans <= WEIR_MAX_GATE_SPANS, "cascade.span", "%zu of them, at most %d", q->n_spans,
       WEIR_MAX_GATE_SPANS);
  NEED(q->n_spans == 0 || g->cfg.engine.n_tiers > 1, "cascade.span", "this server has a single model");
  x->code = 0;
  const size_t texts = measure_words(q, x);
  if (x->code) return WEIR_EINVAL;
  NEED(texts <= WEIR_SERVICE_MAX_WORD_BYTES, "choices", "these and spans have %zu bytes, at most %d", texts,
       WEIR_SERVICE_MAX_WORD_BYTES);
  const size_t heads = q->n_choices * sizeof(char *) + q->n_spans * sizeof(weir_gate_span);
  if (weir_calloc(heads + texts, 1, "choices and spans", &r->words, &e) != WEIR_OK)
    return weir_service_error_set(x, 500, "", "%s", e.msg);
  weir_gate_span *span = r->words;
  const char **choice = (const char **)(span + q->n_spans);
  char *to = (char *)(choice + q->n_choices);
  for (size_t i = 0; i < q->n_choices; i++) choice[i] = copy_text(&to, q->choice[i]);
  for (size_t i = 0; i < q->n_spans; i++) {
    span[i].start = copy_text(&to, q->span[i].start);
    span[i].end = copy_text(&to, q->span[i].end);
    span[i].threshold = q->span[i].threshold;
  }
  r->job.choices = choice;
  r->job.n_choices = (int32_t)q->n_choices;
  r->job.span = span;
  r->job.n_spans = (int32_t)q->n_spans;
  r->words_bytes = (int64_t)(heads + texts);
  atomic_fetch_add(&r->of->reply_bytes, r->words_bytes);
  return WEIR_OK;
}

void weir_reply_drop_words(weir_reply *r) {
  free(r->words);
  r->words = NULL;
  atomic_fetch_sub(&r->of->reply_bytes, r->words_bytes);
  r->words_bytes = 0;
}
