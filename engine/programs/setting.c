/* SPDX-License-Identifier: Apache-2.0 */
/* From options to the structures of the engine. Pure; main thread. */
#include "programs/setting.h"

#include <string.h>

weir_status weir_setting_cascade(const weir_config *c, weir_cascade_opts *o, weir_err *e) {
  *o = (weir_cascade_opts){0};
  const char *gate = weir_config_string(c, "gate");
  if (!weir_mode_parse(weir_config_string(c, "mode"), &o->mode))
    return weir_fail(e, WEIR_EINVAL, "mode %s is not known", weir_config_string(c, "mode"));
  if (gate) {
    if (!weir_gate_parse(gate, &o->gate)) return weir_fail(e, WEIR_EINVAL, "gate %s is not known", gate);
    o->set |= WEIR_OPT_GATE;
  }
  if (weir_config_is_set(c, "accept-nll")) {
    o->accept_nll = (float)weir_config_float(c, "accept-nll");
    o->set |= WEIR_OPT_ACCEPT_NLL;
  }
  if (weir_config_is_set(c, "window")) {
    o->window = (int32_t)weir_config_int(c, "window");
    o->set |= WEIR_OPT_WINDOW;
  }
  if (weir_config_is_set(c, "hold")) {
    o->hold = (int32_t)weir_config_int(c, "hold");
    o->set |= WEIR_OPT_HOLD;
  }
  if (weir_config_is_set(c, "horizon")) {
    o->horizon = (int32_t)weir_config_int(c, "horizon");
    o->set |= WEIR_OPT_HORIZON;
  }
  return WEIR_OK;
}

weir_status weir_setting_threshold(const weir_config *c, weir_cascade_opts *o, weir_err *e) {
  const bool tau = weir_config_is_set(c, "entropy"), threshold = weir_config_is_set(c, "threshold");
  if (tau && threshold)
    return weir_fail(e, WEIR_EINVAL, "--entropy and --threshold say the same thing: give one");
  if (tau && (o->set & WEIR_OPT_GATE) && o->gate != WEIR_GATE_ENTROPY)
    return weir_fail(e, WEIR_EINVAL,
                     "--entropy is the threshold of the entropy gate; with --gate %s give --threshold",
                     weir_gate_name(o->gate));
  if (!tau && !threshold) return WEIR_OK;
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

weir_status weir_setting_models(const weir_config *c, weir_model_paths *p, weir_cascade_opts *o,
                                weir_err *e) {
  const bool chosen = weir_config_is_set(c, "mode");
  if (!p->small[0] || !p->large[0]) {
    const weir_mode only = p->small[0] ? WEIR_MODE_SMALL : WEIR_MODE_LARGE;
    if (chosen && o->mode != only)
      return weir_fail(e, WEIR_EINVAL, "mode %s needs --%s too (mode: %s)", weir_mode_name(o->mode),
                       p->small[0] ? "large" : "small", weir_config_source(c, "mode"));
    o->mode = only;
  }
  if (o->mode == WEIR_MODE_SMALL) p->large[0] = '\0';
  if (o->mode == WEIR_MODE_LARGE) p->small[0] = '\0';
  return WEIR_OK;
}
