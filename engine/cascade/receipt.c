/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts per token, kept up to date from the policy's effects alone. Owns nothing, allocates nothing; runs
 * on the thread that owns the request. */
#include "cascade/receipt.h"

#include <math.h>

void weir_receipts_begin(weir_receipt *r, int32_t n) {
  r[n] = (weir_receipt){.entropy = NAN, .tau = NAN, .why = WEIR_WHY_NONE};
}

void weir_receipts_note(weir_receipt *r, int32_t n, const weir_effect *e) {
  for (int32_t pos = e->kept_from; pos < e->kept_to; pos++)
    if (r[pos].why != WEIR_WHY_FORCED) r[pos].why = WEIR_WHY_KEPT;
  for (int32_t pos = e->wanted_from; pos < e->wanted_to; pos++) r[pos].wanted_up = true;
  if (e->reason == WEIR_ENDORSED) return;
  const int32_t at = e->truncate_to >= 0 ? e->truncate_to : n; /* the position that was decided */
  /* Rows of a tier that was only asked because a lower one had refused, held the pen or judged say nothing
   * about the gate; a middle tier's refusal comes after a lower one's. */
  const bool gated =
      e->reason == WEIR_DEFERRED || e->reason == WEIR_ROUTED || e->why == WEIR_WHY_EASY;
  /* A tier is asked twice about a position, and gives the same row, when what it had handed it to is gone;
   * where it is sure by then (a budget has moved its threshold), that is what the token came by. */
  const bool sure = e->append >= 0 && !e->wanted_up && e->entropy == r[at].entropy;
  if (gated && (isnan(r[at].entropy) || sure)) {
    r[at].entropy = e->entropy;
    r[at].tau = e->tau;
  }
  if (e->append < 0) return;
  r[at].tier = (uint8_t)e->endorsed_by;
  r[at].why = (uint8_t)e->why;
  r[at].wanted_up = e->wanted_up;
  weir_receipts_begin(r, at + 1);
}

void weir_receipts_force(weir_receipt *r, int32_t n, int32_t tier) {
  r[n] = (weir_receipt){.entropy = NAN, .tau = NAN, .tier = (uint8_t)tier, .why = WEIR_WHY_FORCED};
  weir_receipts_begin(r, n + 1);
}

const char *weir_why_name(weir_why why) {
  switch (why) {
    case WEIR_WHY_NONE: return "none";
    case WEIR_WHY_EASY: return "easy";
    case WEIR_WHY_KEPT: return "kept";
    case WEIR_WHY_REPLACED: return "replaced";
    case WEIR_WHY_DEFERRED: return "deferred";
    case WEIR_WHY_WINDOW: return "window";
    case WEIR_WHY_HOLD: return "hold";
    case WEIR_WHY_ROUTED: return "routed";
    case WEIR_WHY_FORCED: return "forced";
  }
  return "none";
}
