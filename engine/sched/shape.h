/* SPDX-License-Identifier: Apache-2.0 */
/* What the draw at one position of a request is shaped by: penalties and biases (sched/penalties.h), the list
 * its answer comes from (sched/choices.h), and at a deferred position the small tier's distribution (fusion).
 * Two of them that name the same id both count. */
#ifndef WEIR_SCHED_SHAPE_H
#define WEIR_SCHED_SHAPE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "sched/penalties.h"
#include "sched/request.h"

typedef struct weir_draw_shape {
  const weir_logit_edit *edit; /* [n], of an arena */
  int32_t n;
  bool only; /* as weir_ask.only_edits */
} weir_draw_shape;

/* What a request with fusion keeps of the small tier: the likeliest ids of the last row of its need, and the
 * position that was deferred by it. Only requests with fusion have one. */
struct weir_fusion {
  float weight;
  int32_t at; /* -1: none */
  weir_top top[WEIR_TOP_MAX];
};

/* Whether any of its draws is shaped. */
bool weir_shape_wanted(const weir_request *);
/* The most edits that row p may have, those counted that went into them. */
int64_t weir_shape_most(const weir_request *, int32_t p);
/* Of row p, which decides token p + 1, in a step of `tier`. The edits are in the arena. */
weir_status weir_shape_row(weir_request *, int32_t tier, int32_t p, weir_edit_arena *, weir_draw_shape *out,
                           weir_err *e);

/* fusion * log(q / q_min) for each of the ids, ascending by id; q_min: of the least likely. Ids below 0 are
 * left out. Returns how many. */
int32_t weir_fusion_edits(float weight, const weir_top *top, int32_t n_top,
                          weir_logit_edit out[WEIR_TOP_MAX]);
/* Two ascending lists as one: what both name has a's scale and the sum of both adds. With only[n_only],
 * ascending, just those ids, each of them. Returns how many, at most n_a + n_b, or n_only. */
int32_t weir_edits_merge(const weir_logit_edit *a, int32_t n_a, const weir_logit_edit *b, int32_t n_b,
                         const int32_t *only, int32_t n_only, weir_logit_edit *out);

#endif
