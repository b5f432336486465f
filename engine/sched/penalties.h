/* SPDX-License-Identifier: Apache-2.0 */
/* What a request asks the draw to favour or avoid, and the edits of logits that this makes for a position.
 * Presence and frequency penalties are OpenAI's: of the tokens written so far (the prompt does not count),
 * add -presence once and -frequency for each time. The repetition penalty (arXiv 1909.05858, CTRL) counts the
 * prompt too. All are functions of tok[0, p], so they are the same on both tiers and for a judged row. */
#ifndef WEIR_SCHED_PENALTIES_H
#define WEIR_SCHED_PENALTIES_H
#include <stdint.h>

#include "base/err.h"
#include "kernels/row.h"

typedef struct weir_bias {
  int32_t id;
  float add; /* -100 .. 100, as OpenAI's logit_bias */
} weir_bias;

enum { WEIR_MAX_BIAS = 1024 };

typedef struct weir_penalties {
  float presence, frequency; /* -2 .. 2; 0: off */
  float repetition;          /* > 0; 1 (and 0, for zeroed structures): off */
  const weir_bias *bias;     /* [n_bias], any order, an id once */
  int32_t n_bias;
} weir_penalties;

#endif
