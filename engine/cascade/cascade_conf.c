/* SPDX-License-Identifier: Apache-2.0 */
/* From a mode's name and its options to a policy configuration. The table of modes below says which options a
 * mode has and what they default to. Owns nothing; any thread. */
#include "cascade/cascade_conf.h"

#include <math.h>
#include <string.h>

/* A gate that alone decides who writes can have a budget; that of `exact` decides nothing but speed. */
#define BUDGET (WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST | WEIR_OPT_LOAD_PRICE)
#define ROUTE  (WEIR_OPT_ROUTE_PROMPT | WEIR_OPT_ROUTE_AFTER | WEIR_OPT_ROUTE_SHARE)
/* What an accept rule may be told. */
#define ACCEPT_PARAMETERS \
  (WEIR_OPT_ACCEPT_NLL | WEIR_OPT_ACCEPT_ALPHA | WEIR_OPT_ACCEPT_EPSILON | WEIR_OPT_ACCEPT_DELTA)

/* Long drafts that end where the small model becomes unsure. Measured on the pair that comes with weir, tasks,
 * one at a time: 1.6 times the large model alone, against 1.4 with a window of 5 and no such end. */
enum { DRAFT_WINDOW = 16 };

static const struct {
  const char *name;
  uint32_t options; /* WEIR_OPT_* that mean something */
  bool gated;       /* has a threshold without being told */
  bool verified;    /* the large tier endorses before anything is shown */
  weir_keep keep;   /* of the large tier */
  int32_t window;   /* default */
} modes[WEIR_N_MODES] = {
    [WEIR_MODE_SMALL] = {"small", 0, false, false, WEIR_KEEP_ALL, WEIR_FAR},
    [WEIR_MODE_LARGE] = {"large", 0, false, false, WEIR_KEEP_ALL, WEIR_FAR},
    [WEIR_MODE_DEFER] = {"defer", WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_HOLD | BUDGET | WEIR_OPT_FUSION_WEIGHT | WEIR_OPT_SPAN |
                             WEIR_OPT_DEFER_WAIT,
                         true, false, WEIR_KEEP_ALL, WEIR_FAR},
    [WEIR_MODE_ROLLBACK] = {"rollback",
                            WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_ACCEPT_NLL | WEIR_OPT_WINDOW |
                                WEIR_OPT_HOLD | WEIR_OPT_HORIZON | BUDGET | WEIR_OPT_FUSION_WEIGHT | WEIR_OPT_SPAN |
                                WEIR_OPT_DEFER_WAIT,
                            true, true, WEIR_KEEP_NLL, 10},
    [WEIR_MODE_EXACT] = {"exact",
                         WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_WINDOW | WEIR_OPT_HOLD | WEIR_OPT_SPAN,
                         false, true, WEIR_KEEP_OWN, DRAFT_WINDOW},
    [WEIR_MODE_SPECULATE] = {"speculate",
                             WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_WINDOW | WEIR_OPT_HOLD |
                                 WEIR_OPT_HORIZON | WEIR_OPT_ACCEPT | ACCEPT_PARAMETERS | WEIR_OPT_SPAN,
                             false, true, WEIR_KEEP_V3, DRAFT_WINDOW},
    [WEIR_MODE_AUTO] = {"auto",
                        WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_HOLD | WEIR_OPT_WINDOW | BUDGET |
                            WEIR_OPT_FUSION_WEIGHT | WEIR_OPT_DEFER_WAIT | WEIR_OPT_QUALITY,
                        true, false, WEIR_KEEP_ALL, DRAFT_WINDOW},
    [WEIR_MODE_ROUTE] = {"route",
                         WEIR_OPT_GATE | WEIR_OPT_THRESHOLD | WEIR_OPT_DEFER_RATE | WEIR_OPT_LOAD_PRICE |
                             ROUTE,
                         true, false, WEIR_KEEP_ALL, WEIR_FAR},
};

/* Accept rules by name and the options that mean something with them: a lossless rule has no horizon. */
static const struct {
  const char *name;
  uint32_t options;
} accepts[WEIR_N_KEEPS] = {
    [WEIR_KEEP_ALL] = {NULL, 0}, /* none: that is no rule */
    [WEIR_KEEP_OWN] = {"own", 0},
    [WEIR_KEEP_NLL] = {"nll", WEIR_OPT_ACCEPT_NLL | WEIR_OPT_HORIZON},
    [WEIR_KEEP_V1] = {"v1", WEIR_OPT_ACCEPT_ALPHA | WEIR_OPT_HORIZON},
    [WEIR_KEEP_V2] = {"v2", WEIR_OPT_ACCEPT_ALPHA | WEIR_OPT_HORIZON},
    [WEIR_KEEP_V3] = {"v3", WEIR_OPT_ACCEPT_ALPHA | WEIR_OPT_HORIZON},
    [WEIR_KEEP_TYPICAL] = {"typical", WEIR_OPT_ACCEPT_EPSILON | WEIR_OPT_ACCEPT_DELTA | WEIR_OPT_HORIZON},
    [WEIR_KEEP_RATIO] = {"ratio", 0},
};

static const struct {
  uint32_t option;
  const char *name;
} option_names[] = {
    {WEIR_OPT_GATE, "gate"},
    {WEIR_OPT_THRESHOLD, "threshold"},
    {WEIR_OPT_ACCEPT_NLL, "accept-nll"},
    {WEIR_OPT_WINDOW, "window"},
    {WEIR_OPT_HOLD, "hold"},
    {WEIR_OPT_HORIZON, "horizon"},
    {WEIR_OPT_DEFER_RATE, "defer-rate"},
    {WEIR_OPT_DEFER_BURST, "defer-burst"},
    {WEIR_OPT_LOAD_PRICE, "load-price"},
    {WEIR_OPT_ACCEPT, "accept"},
    {WEIR_OPT_ACCEPT_ALPHA, "accept-alpha"},
    {WEIR_OPT_ACCEPT_EPSILON, "accept-epsilon"},
    {WEIR_OPT_ACCEPT_DELTA, "accept-delta"},
    {WEIR_OPT_FUSION_WEIGHT, "fusion-weight"},
    {WEIR_OPT_SPAN, "span"},
    {WEIR_OPT_DEFER_WAIT, "defer-wait"},
    {WEIR_OPT_ROUTE_PROMPT, "route-prompt"},
    {WEIR_OPT_ROUTE_AFTER, "route-after"},
    {WEIR_OPT_ROUTE_SHARE, "route-share"},
    {WEIR_OPT_QUALITY, "quality"},
};

static const char *const gate_names[] = {
    [WEIR_GATE_ENTROPY] = "entropy", [WEIR_GATE_TOP_PROB] = "top-prob", [WEIR_GATE_MARGIN] = "margin",
    [WEIR_GATE_CHANCE] = "chance",   [WEIR_GATE_ISOTONIC] = "isotonic", [WEIR_GATE_HEAD] = "head"};

enum {
  N_GATES = sizeof gate_names / sizeof *gate_names,
  N_OPTIONS = sizeof option_names / sizeof *option_names
};

bool weir_mode_parse(const char *name, weir_mode *out) {
  for (int i = 0; i < WEIR_N_MODES; i++)
    if (!strcmp(name, modes[i].name)) {
      *out = (weir_mode)i;
      return true;
    }
  return false;
}

bool weir_mode_gated(weir_mode m) { return (unsigned)m < WEIR_N_MODES && modes[m].gated; }

const char *weir_mode_name(weir_mode m) {
  return (unsigned)m < WEIR_N_MODES ? modes[m].name : "unknown mode";
}

bool weir_accept_parse(const char *name, weir_keep *out) {
  for (int i = 0; i < WEIR_N_KEEPS; i++)
    if (accepts[i].name && !strcmp(name, accepts[i].name)) {
      *out = (weir_keep)i;
      return true;
    }
  return false;
}

const char *weir_accept_name(weir_keep k) {
  return (unsigned)k < WEIR_N_KEEPS && accepts[k].name ? accepts[k].name : "no accept rule";
}

bool weir_gate_parse(const char *name, weir_gate_kind *out) {
  for (int i = 0; i < N_GATES; i++)
    if (!strcmp(name, gate_names[i])) {
      *out = (weir_gate_kind)i;
      return true;
    }
  return false;
}

const char *weir_gate_name(weir_gate_kind k) {
  return (unsigned)k < N_GATES ? gate_names[k] : "unknown gate";
}

float weir_gate_default(weir_gate_kind k) {
  static const float value[] = {
      [WEIR_GATE_ENTROPY] = 0.45f, [WEIR_GATE_TOP_PROB] = 0.6f, [WEIR_GATE_MARGIN] = 0.3f,
      [WEIR_GATE_CHANCE] = 0.1f,   [WEIR_GATE_ISOTONIC] = 0.1f, [WEIR_GATE_HEAD] = 0.1f};
  return (unsigned)k < N_GATES ? value[k] : 0;
}

static weir_status check_budget(const weir_cascade_opts *o, weir_err *e) {
  const bool rated = o->set & WEIR_OPT_DEFER_RATE;
  if (rated && !(o->defer_rate >= 0 && o->defer_rate <= 1))
    return weir_fail(e, WEIR_EINVAL, "defer-rate: want a share, 0 .. 1, got %g", (double)o->defer_rate);
  if (rated && o->mode != WEIR_MODE_ROUTE && (o->set & WEIR_OPT_THRESHOLD))
    return weir_fail(e, WEIR_EINVAL, "defer-rate sets the threshold itself: give one of the two");
  if ((o->set & WEIR_OPT_DEFER_BURST) && (o->defer_burst < 0 || o->defer_burst > WEIR_FAR))
    return weir_fail(e, WEIR_EINVAL, "defer-burst: want 0 .. %d tokens, got %d", WEIR_FAR,
                     (int)o->defer_burst);
  if ((o->set & WEIR_OPT_DEFER_BURST) && o->defer_burst > 0 && !rated)
    return weir_fail(e, WEIR_EINVAL, "defer-burst needs defer-rate, by which it is refilled");
  if ((o->set & WEIR_OPT_LOAD_PRICE) && !(o->load_price >= 0 && o->load_price <= WEIR_LOAD_PRICE_MAX))
    return weir_fail(e, WEIR_EINVAL, "load-price: want 0 .. %d, got %g", WEIR_LOAD_PRICE_MAX,
                     (double)o->load_price);
  const uint32_t mover = o->set & (WEIR_OPT_DEFER_RATE | WEIR_OPT_LOAD_PRICE);
  if ((o->set & WEIR_OPT_SPAN) && mover)
    return weir_fail(e, WEIR_EINVAL, "span sets the threshold, and so does %s: give one of the two",
                     mover & WEIR_OPT_DEFER_RATE ? "defer-rate" : "load-price");
  if ((o->set & BUDGET) && (o->set & WEIR_OPT_GATE) && o->gate == WEIR_GATE_CHANCE)
    return weir_fail(e, WEIR_EINVAL, "gate chance looks at no row and can have no budget");
  return WEIR_OK;
}

static weir_keep rule_of(const weir_cascade_opts *o) {
  return o->set & WEIR_OPT_ACCEPT ? o->accept : modes[o->mode].keep;
}

static weir_status check_accept(const weir_cascade_opts *o, weir_err *e) {
  if ((o->set & WEIR_OPT_ACCEPT) && ((unsigned)o->accept >= WEIR_N_KEEPS || !accepts[o->accept].name))
    return weir_fail(e, WEIR_EINVAL, "accept: rule %d is not known", (int)o->accept);
  const uint32_t extra = o->set & (ACCEPT_PARAMETERS | WEIR_OPT_HORIZON) & ~accepts[rule_of(o)].options;
  for (int i = 0; i < N_OPTIONS; i++)
    if (extra & option_names[i].option)
      return weir_fail(e, WEIR_EINVAL, "%s has no meaning with accept %s", option_names[i].name,
                       weir_accept_name(rule_of(o)));
  if ((o->set & WEIR_OPT_ACCEPT_NLL) && !(o->accept_nll >= 0))
    return weir_fail(e, WEIR_EINVAL, "accept-nll: want nats >= 0, got %g", (double)o->accept_nll);
  if ((o->set & WEIR_OPT_ACCEPT_ALPHA) && !(o->accept_alpha >= 0 && o->accept_alpha <= 1))
    return weir_fail(e, WEIR_EINVAL, "accept-alpha: want 0 .. 1, got %g", (double)o->accept_alpha);
  if ((o->set & WEIR_OPT_ACCEPT_EPSILON) && !(o->accept_epsilon >= 0 && o->accept_epsilon <= 1))
    return weir_fail(e, WEIR_EINVAL, "accept-epsilon: want 0 .. 1, got %g", (double)o->accept_epsilon);
  if ((o->set & WEIR_OPT_ACCEPT_DELTA) && !(o->accept_delta >= 0))
    return weir_fail(e, WEIR_EINVAL, "accept-delta: want a number >= 0, got %g", (double)o->accept_delta);
  return WEIR_OK;
}

/* What the rule is told, by its options or by default. */
static void make_keep(const weir_cascade_opts *o, weir_cascade_cfg *g) {
  g->keep[1] = rule_of(o);
  switch (g->keep[1]) {
    case WEIR_KEEP_V1:
    case WEIR_KEEP_V2:
    case WEIR_KEEP_V3: g->keep_a[1] = o->set & WEIR_OPT_ACCEPT_ALPHA ? o->accept_alpha : 0.1f; break;
    case WEIR_KEEP_TYPICAL:
      g->keep_a[1] = o->set & WEIR_OPT_ACCEPT_EPSILON ? o->accept_epsilon : 0.09f;
      g->keep_b[1] = o->set & WEIR_OPT_ACCEPT_DELTA ? o->accept_delta : 0.3f;
      break;
    default: g->keep_a[1] = o->set & WEIR_OPT_ACCEPT_NLL ? o->accept_nll : 3;
  }
}

static weir_status check_route(const weir_cascade_opts *o, weir_err *e) {
  if ((o->set & WEIR_OPT_ROUTE_PROMPT) && (o->route_prompt < 0 || o->route_prompt > WEIR_ROUTE_PROMPT_MAX))
    return weir_fail(e, WEIR_EINVAL, "route-prompt: want 0 .. %d rows, got %d", WEIR_ROUTE_PROMPT_MAX,
                     (int)o->route_prompt);
  if ((o->set & WEIR_OPT_ROUTE_AFTER) && o->route_after != WEIR_FAR &&
      (o->route_after < 0 || o->route_after > WEIR_ROUTE_AFTER_MAX))
    return weir_fail(e, WEIR_EINVAL, "route-after: want 0 .. %d tokens, or end, got %d", WEIR_ROUTE_AFTER_MAX,
                     (int)o->route_after);
  if ((o->set & WEIR_OPT_ROUTE_SHARE) && !(o->route_share >= 0 && o->route_share <= 1))
    return weir_fail(e, WEIR_EINVAL, "route-share: want a share, 0 .. 1, got %g", (double)o->route_share);
  if ((o->set & WEIR_OPT_ROUTE_SHARE) && (o->set & WEIR_OPT_DEFER_RATE))
    return weir_fail(e, WEIR_EINVAL, "defer-rate sets route-share itself: give one of the two");
  if ((o->set & WEIR_OPT_LOAD_PRICE) && !(o->load_price <= 1))
    return weir_fail(e, WEIR_EINVAL, "load-price: in mode route it is a share of rows, 0 .. 1, got %g",
                     (double)o->load_price);
  return WEIR_OK;
}

static weir_route make_route(const weir_cascade_opts *o) {
  weir_route r = {.on = true, .share = WEIR_ROUTE_SHARE};
  if (o->set & WEIR_OPT_ROUTE_AFTER) r.after = o->route_after;
  if (o->set & WEIR_OPT_ROUTE_PROMPT)
    r.prompt = o->route_prompt;
  else
    r.prompt = r.after > 0 ? 0 : WEIR_ROUTE_PROMPT;
  if (o->set & WEIR_OPT_ROUTE_SHARE) r.share = o->route_share;
  if ((o->set & WEIR_OPT_GATE) && o->gate == WEIR_GATE_CHANCE) r.share = 0.5f; /* of its one coin, 0 or 1 */
  return r;
}

static weir_status check_options(const weir_cascade_opts *o, weir_err *e) {
  const uint32_t extra = o->set & ~modes[o->mode].options;
  for (int i = 0; i < N_OPTIONS; i++)
    if (extra & option_names[i].option)
      return weir_fail(e, WEIR_EINVAL, "%s has no meaning in mode %s", option_names[i].name,
                       modes[o->mode].name);
  if (extra) return weir_fail(e, WEIR_EINVAL, "unknown option bits 0x%x", (unsigned)extra);
  if ((o->set & WEIR_OPT_GATE) && (unsigned)o->gate >= N_GATES)
    return weir_fail(e, WEIR_EINVAL, "gate %d is not known", (int)o->gate);
  if ((o->set & WEIR_OPT_THRESHOLD) && isnan(o->threshold))
    return weir_fail(e, WEIR_EINVAL, "threshold is not a number");
  if ((o->set & WEIR_OPT_WINDOW) && (o->window < 1 || o->window > WEIR_FAR))
    return weir_fail(e, WEIR_EINVAL, "window: want 1 .. %d tokens, got %d", WEIR_FAR, (int)o->window);
  if ((o->set & WEIR_OPT_HOLD) && (o->hold < 0 || o->hold > WEIR_FAR))
    return weir_fail(e, WEIR_EINVAL, "hold: want 0 .. %d tokens, got %d", WEIR_FAR, (int)o->hold);
  if ((o->set & WEIR_OPT_HORIZON) && (o->horizon < 0 || o->horizon > WEIR_FAR))
    return weir_fail(e, WEIR_EINVAL, "horizon: want 0 .. %d tokens, got %d", WEIR_FAR, (int)o->horizon);
  if ((o->set & WEIR_OPT_DEFER_WAIT) && (o->defer_wait_ms < 0 || o->defer_wait_ms > WEIR_DEFER_WAIT_MAX_MS))
    return weir_fail(e, WEIR_EINVAL, "defer-wait: want 0 .. %d ms, got %d", WEIR_DEFER_WAIT_MAX_MS,
                     (int)o->defer_wait_ms);
  if ((o->set & WEIR_OPT_FUSION_WEIGHT) && !(fabsf(o->fusion_weight) <= WEIR_FUSION_MAX))
    return weir_fail(e, WEIR_EINVAL, "fusion-weight: want -%d .. %d, got %g", WEIR_FUSION_MAX, WEIR_FUSION_MAX,
                     (double)o->fusion_weight);
  const weir_status st = modes[o->mode].verified ? check_accept(o, e) : WEIR_OK;
  if (st != WEIR_OK) return st;
  return o->mode == WEIR_MODE_ROUTE && check_route(o, e) != WEIR_OK ? WEIR_EINVAL : check_budget(o, e);
}

uint32_t weir_cascade_options(const weir_cascade_opts *o) {
  if ((unsigned)o->mode >= WEIR_N_MODES) return 0;
  const uint32_t options = modes[o->mode].options;
  const weir_keep rule = rule_of(o);
  if (!modes[o->mode].verified || (unsigned)rule >= WEIR_N_KEEPS) return options;
  return options & (accepts[rule].options | ~(uint32_t)(ACCEPT_PARAMETERS | WEIR_OPT_HORIZON));
}

const char *weir_cascade_option_name(uint32_t bit) {
  for (int i = 0; i < N_OPTIONS; i++)
    if (option_names[i].option == bit) return option_names[i].name;
  return NULL;
}

static weir_gate make_gate(const weir_cascade_opts *o) {
  if (o->mode == WEIR_MODE_LARGE) return (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = -1};
  weir_gate g = {.kind = o->set & WEIR_OPT_GATE ? o->gate : WEIR_GATE_ENTROPY, .threshold = INFINITY};
  if (g.kind == WEIR_GATE_ISOTONIC) g.map = o->gate_map;
  if (o->set & WEIR_OPT_THRESHOLD)
    g.threshold = o->threshold;
  else if (modes[o->mode].gated || (o->set & WEIR_OPT_GATE))
    g.threshold = weir_gate_default(g.kind);
  else if (modes[o->mode].verified)
    g.threshold = WEIR_DRAFT_STOP;
  return g;
}

weir_status weir_cascade_cfg_make(const weir_cascade_opts *o, weir_cascade_cfg *out, weir_err *e) {
  if ((unsigned)o->mode >= WEIR_N_MODES)
    return weir_fail(e, WEIR_EINVAL, "mode %d is not known", (int)o->mode);
  const weir_status st = check_options(o, e);
  if (st != WEIR_OK) return st;
  /* eager modes commit what the lowest tier in use endorses, which is all there is */
  weir_cascade_cfg g = {.n_tiers = 2, .commit_tier = modes[o->mode].verified ? 1 : 0, .horizon = WEIR_FAR};
  for (int t = 0; t < WEIR_MAX_TIERS; t++) {
    g.window[t] = o->set & WEIR_OPT_WINDOW ? o->window : modes[o->mode].window;
    g.hold[t] = o->set & WEIR_OPT_HOLD ? o->hold : 1;
    g.keep[t] = WEIR_KEEP_ALL;
  }
  g.gate[0] = make_gate(o);
  make_keep(o, &g);
  if (o->set & WEIR_OPT_HORIZON) g.horizon = o->horizon;
  if (o->set & WEIR_OPT_DEFER_WAIT) g.defer_wait_ns = o->defer_wait_ms * INT64_C(1000000);
  if (o->set & WEIR_OPT_FUSION_WEIGHT) g.fusion = o->fusion_weight;
  g.gate_moves = o->set & WEIR_OPT_SPAN;
  g.budget = (weir_budget){.rated = o->set & WEIR_OPT_DEFER_RATE,
                           .rate = o->set & WEIR_OPT_DEFER_RATE ? o->defer_rate : 0,
                           .burst = o->set & WEIR_OPT_DEFER_BURST ? o->defer_burst : 0,
                           .load_price = o->set & WEIR_OPT_LOAD_PRICE ? o->load_price : 0};
  if (o->mode == WEIR_MODE_ROUTE) g.route = make_route(o);
  const char *wrong = weir_cascade_cfg_error(&g);
  if (wrong) return weir_fail(e, WEIR_EINVAL, "mode %s: %s", modes[o->mode].name, wrong);
  *out = g;
  return WEIR_OK;
}

void weir_cascade_cfg_single(weir_cascade_cfg *out) {
  *out = (weir_cascade_cfg){.n_tiers = 1, .horizon = WEIR_FAR};
  for (int t = 0; t < WEIR_MAX_TIERS; t++) {
    out->window[t] = WEIR_FAR;
    out->gate[t] = (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = INFINITY};
  }
}
