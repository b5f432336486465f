/* SPDX-License-Identifier: Apache-2.0 */
/* From options to the structures of the engine. Pure; main thread. */
#include "programs/setting.h"

#include <string.h>

#include "programs/setting_gate.h"

/* Whether an option of the cascade was set. A model alone has no use for them; there only those of the
 * command line count (and are refused), so that a file may hold the settings of a cascade and be used with -m
 * small. */
static bool meant(const weir_config *c, const char *name, weir_mode mode) {
  const bool alone = mode == WEIR_MODE_SMALL || mode == WEIR_MODE_LARGE;
  return weir_config_is_set(c, name) && (!alone || !strcmp(weir_config_source(c, name), "command line"));
}

static bool given(const weir_config *c, const char *name, weir_mode mode) {
  return !weir_config_is_list(c, name) && meant(c, name, mode); /* lists: eval_plan.c */
}

weir_status weir_setting_cascade(const weir_config *c, weir_mode mode, weir_cascade_opts *o, weir_err *e) {
  *o = (weir_cascade_opts){.mode = mode};
  const char *gate = weir_config_string(c, "gate");
  if (given(c, "gate", o->mode)) {
    if (!weir_gate_parse(gate, &o->gate)) return weir_fail(e, WEIR_EINVAL, "gate %s is not known", gate);
    o->set |= WEIR_OPT_GATE;
  }
  if (given(c, "gate", o->mode) || given(c, "gate-file", o->mode)) {
    const weir_status st = weir_setting_gate(c, o, e);
    if (st != WEIR_OK) return st;
  }
  if (given(c, "accept-nll", o->mode)) {
    o->accept_nll = (float)weir_config_float(c, "accept-nll");
    o->set |= WEIR_OPT_ACCEPT_NLL;
  }
  if (given(c, "accept", o->mode)) {
    const char *accept = weir_config_string(c, "accept");
    if (!weir_accept_parse(accept, &o->accept))
      return weir_fail(e, WEIR_EINVAL, "accept rule %s is not known", accept);
    o->set |= WEIR_OPT_ACCEPT;
  }
  const struct {
    const char *name;
    uint32_t option;
    float *value;
  } parameter[] = {{"accept-alpha", WEIR_OPT_ACCEPT_ALPHA, &o->accept_alpha},
                   {"accept-epsilon", WEIR_OPT_ACCEPT_EPSILON, &o->accept_epsilon},
                   {"accept-delta", WEIR_OPT_ACCEPT_DELTA, &o->accept_delta}};
  for (size_t i = 0; i < sizeof parameter / sizeof *parameter; i++)
    if (given(c, parameter[i].name, o->mode)) {
      *parameter[i].value = (float)weir_config_float(c, parameter[i].name);
      o->set |= parameter[i].option;
    }
  if (given(c, "window", o->mode)) {
    o->window = (int32_t)weir_config_int(c, "window");
    o->set |= WEIR_OPT_WINDOW;
  }
  if (given(c, "hold", o->mode)) {
    o->hold = (int32_t)weir_config_int(c, "hold");
    o->set |= WEIR_OPT_HOLD;
  }
  if (given(c, "horizon", o->mode)) {
    o->horizon = (int32_t)weir_config_int(c, "horizon");
    o->set |= WEIR_OPT_HORIZON;
  }
  if (given(c, "defer-wait", o->mode)) {
    o->defer_wait_ms = (int32_t)weir_config_int(c, "defer-wait");
    o->set |= WEIR_OPT_DEFER_WAIT;
  }
  if (given(c, "defer-burst", o->mode)) {
    o->defer_burst = (int32_t)weir_config_int(c, "defer-burst");
    o->set |= WEIR_OPT_DEFER_BURST;
  }
  if (given(c, "load-price", o->mode)) {
    o->load_price = (float)weir_config_float(c, "load-price");
    o->set |= WEIR_OPT_LOAD_PRICE;
  }
  if (given(c, "fusion-weight", o->mode)) {
    o->fusion_weight = (float)weir_config_float(c, "fusion-weight");
    o->set |= WEIR_OPT_FUSION_WEIGHT;
  }
  if (weir_config_has(c, "span") && meant(c, "span", o->mode)) o->set |= WEIR_OPT_SPAN;
  if (given(c, "route-prompt", o->mode)) {
    o->route_prompt = (int32_t)weir_config_int(c, "route-prompt");
    o->set |= WEIR_OPT_ROUTE_PROMPT;
  }
  if (given(c, "route-after", o->mode)) {
    const char *after = weir_config_string(c, "route-after");
    if (!weir_route_after_parse(after, &o->route_after))
      return weir_fail(e, WEIR_EINVAL, "route-after: want 0 .. %d tokens, or end, got %.40s",
                       WEIR_ROUTE_AFTER_MAX, after);
    o->set |= WEIR_OPT_ROUTE_AFTER;
  }
  return WEIR_OK;
}

weir_status weir_setting_threshold(const weir_config *c, weir_cascade_opts *o, weir_err *e) {
  const bool tau = given(c, "entropy", o->mode), threshold = given(c, "threshold", o->mode);
  if (tau && threshold)
    return weir_fail(e, WEIR_EINVAL, "--entropy and --threshold say the same thing: give one");
  if (given(c, "quality", o->mode)) {
    const char *quality = weir_config_string(c, "quality");
    if (!weir_quality_parse(quality, &o->quality))
      return weir_fail(e, WEIR_EINVAL, "quality %s is not known", quality);
    o->set |= WEIR_OPT_QUALITY;
  }
  if (given(c, "route-share", o->mode)) {
    o->route_share = (float)weir_config_float(c, "route-share");
    o->set |= WEIR_OPT_ROUTE_SHARE;
  }
  const bool moves_share = o->mode == WEIR_MODE_ROUTE; /* and not the threshold */
  if (given(c, "defer-rate", o->mode)) {
    if ((tau || threshold) && !moves_share)
      return weir_fail(e, WEIR_EINVAL, "--defer-rate sets the threshold itself: leave out --%s (%s: %s)",
                       tau ? "entropy" : "threshold", tau ? "entropy" : "threshold",
                       weir_config_source(c, tau ? "entropy" : "threshold"));
    o->defer_rate = (float)weir_config_float(c, "defer-rate");
    o->set |= WEIR_OPT_DEFER_RATE;
    if (!moves_share) return WEIR_OK;
  }
  if (tau && (o->set & WEIR_OPT_GATE) && o->gate != WEIR_GATE_ENTROPY)
    return weir_fail(e, WEIR_EINVAL,
                     "--entropy is the threshold of the entropy gate; with --gate %s give --threshold",
                     weir_gate_name(o->gate));
  if (!tau && !threshold) {
    weir_setting_gate_threshold(c, o);
    return WEIR_OK;
  }
  o->threshold = (float)weir_config_float(c, tau ? "entropy" : "threshold");
  o->set |= WEIR_OPT_THRESHOLD;
  return WEIR_OK;
}

void weir_setting_draw(const weir_config *c, weir_ask *a) {
  *a = (weir_ask){
      .temperature = (float)weir_config_float(c, "temperature"),
      .top_k = (int32_t)weir_config_int(c, "top-k"),
      .top_p = (float)weir_config_float(c, "top-p"),
      .min_p = (float)weir_config_float(c, "min-p"),
      .seed = (uint64_t)weir_config_int(c, "seed"),
      .probe = -1,
  };
}

weir_status weir_setting_mode(const weir_config *c, weir_model_paths *p, weir_mode *mode, weir_err *e) {
  const char *name = weir_config_string(c, "mode");
  if (!weir_mode_parse(name, mode)) return weir_fail(e, WEIR_EINVAL, "mode %s is not known", name);
  if (!p->small[0] || !p->large[0]) {
    const weir_mode only = p->small[0] ? WEIR_MODE_SMALL : WEIR_MODE_LARGE;
    if (weir_config_is_set(c, "mode") && *mode != only)
      return weir_fail(e, WEIR_EINVAL, "mode %s needs --%s too (mode: %s)", name,
                       p->small[0] ? "large" : "small", weir_config_source(c, "mode"));
    *mode = only;
  }
  if (*mode == WEIR_MODE_SMALL) p->large[0] = '\0';
  if (*mode == WEIR_MODE_LARGE) p->small[0] = '\0';
  return WEIR_OK;
}
