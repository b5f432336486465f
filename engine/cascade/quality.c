/* SPDX-License-Identifier: Apache-2.0 */
/* Floors of quality by name, and the modes they allow. Pure; any thread. */
#include "cascade/quality.h"

#include <math.h>
#include <string.h>

#include "cascade/cascade_conf.h"

static const struct {
  const char *name;
  unsigned modes;
} floors[WEIR_N_QUALITIES] = {
    [WEIR_QUALITY_NEAR] = {"near", 1u << WEIR_AUTO_LARGE | 1u << WEIR_AUTO_EXACT | 1u << WEIR_AUTO_CASCADE},
    [WEIR_QUALITY_EXACT] = {"exact", 1u << WEIR_AUTO_LARGE | 1u << WEIR_AUTO_EXACT},
    [WEIR_QUALITY_ANY] = {"any", (1u << WEIR_N_AUTO_MODES) - 1},
};

bool weir_quality_parse(const char *name, weir_quality *out) {
  for (int i = 0; i < WEIR_N_QUALITIES; i++)
    if (!strcmp(name, floors[i].name)) {
      *out = (weir_quality)i;
      return true;
    }
  return false;
}

const char *weir_quality_name(weir_quality q) {
  return (unsigned)q < WEIR_N_QUALITIES ? floors[q].name : "unknown quality";
}

unsigned weir_quality_modes(weir_quality q) { return (unsigned)q < WEIR_N_QUALITIES ? floors[q].modes : 0; }

const char *weir_auto_mode_name(weir_auto_mode m) {
  static const char *const name[] = {"large", "exact", "defer", "small"};
  return (unsigned)m < WEIR_N_AUTO_MODES ? name[m] : "unknown mode";
}

void weir_auto_cfg(const weir_cascade_cfg *cascade, weir_auto_mode m, weir_cascade_cfg *out) {
  if (m == WEIR_AUTO_CASCADE) {
    *out = *cascade;
    return;
  }
  /* From nothing, not from a copy: what else the cascade may have (a budget, another law for deferred
   * positions) has no place in the others. */
  weir_cascade_cfg g = {.n_tiers = cascade->n_tiers, .horizon = WEIR_FAR};
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) {
    g.window[t] = m == WEIR_AUTO_EXACT ? cascade->window[0] : WEIR_FAR;
    g.hold[t] = 1;
    g.keep[t] = WEIR_KEEP_ALL;
  }
  g.gate[0] = (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = m == WEIR_AUTO_LARGE ? -1 : m == WEIR_AUTO_EXACT ? WEIR_DRAFT_STOP : INFINITY};
  if (m == WEIR_AUTO_EXACT) {
    g.commit_tier = 1;
    g.keep[1] = WEIR_KEEP_OWN;
  }
  *out = g;
}
