/* SPDX-License-Identifier: Apache-2.0 */
/* A request's floor of quality in mode auto, and what it lets a controller choose from. */
#ifndef WEIR_CASCADE_QUALITY_H
#define WEIR_CASCADE_QUALITY_H
#include <stdbool.h>

#include "cascade/policy.h"

/* Zeroed is the default. */
typedef enum {
  WEIR_QUALITY_NEAR,  /* the cascade as configured (defer), or what is exact */
  WEIR_QUALITY_EXACT, /* the large model's text, seed for seed */
  WEIR_QUALITY_ANY    /* whatever is fastest: the small model alone as well */
} weir_quality;

enum { WEIR_N_QUALITIES = WEIR_QUALITY_ANY + 1 };

/* False when the name is none of "near", "exact", "any". */
bool weir_quality_parse(const char *name, weir_quality *out);
const char *weir_quality_name(weir_quality); /* never NULL */

/* What mode auto switches between, the dearer text first. */
typedef enum { WEIR_AUTO_LARGE, WEIR_AUTO_EXACT, WEIR_AUTO_CASCADE, WEIR_AUTO_SMALL } weir_auto_mode;

enum { WEIR_N_AUTO_MODES = WEIR_AUTO_SMALL + 1 };

const char *weir_auto_mode_name(weir_auto_mode); /* "large", "exact", "defer", "small"; never NULL */
/* Bit set of 1 << weir_auto_mode: the modes a floor allows. */
unsigned weir_quality_modes(weir_quality);

/* The configuration of one of them, of the one that weir_cascade_cfg_make has made for mode auto: its gate,
 * threshold, hold and budget are the cascade's, its window is the draft of `exact`. Both may be the same. */
void weir_auto_cfg(const weir_cascade_cfg *cascade, weir_auto_mode, weir_cascade_cfg *out);

#endif
