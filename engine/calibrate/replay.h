/* SPDX-License-Identifier: Apache-2.0 */
/* A setting of the cascade over a logged text, without a model: the policy itself (weir_cascade_need,
 * observe, apply) is driven with rows made from the trace, so that decisions cannot drift from the product's.
 *
 * What is exact. Up to the first position where a token stands that is not the large model's, tokens and who
 * wrote them are those of the engine with the same draws, and that token itself too (weir_replay.exact_to).
 * At a temperature above 0, under a rule that replaces by a draw of its own (all but own), the first
 * replacement ends what is exact, since the trace does not know it; the large model's token stands in for it.
 * Behind that the replay goes on along the large model's text, as if it were there: an estimate. In verified
 * modes steps and rows are estimates from the first wrong draft on, since the small model's rows behind it
 * are not in the trace; what stands is exact nevertheless. Accept rules are applied to log-probabilities
 * rounded to float: at the bound itself a verdict may be another.
 *
 * Pure: no I/O, clock or device; memory is the caller's scratch. */
#ifndef WEIR_CALIBRATE_REPLAY_H
#define WEIR_CALIBRATE_REPLAY_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "calibrate/trace.h"
#include "cascade/policy.h"
#include "cascade/receipt.h"

typedef struct weir_replay_step {
  int32_t tier;
  int32_t rows, asked; /* fed, and rows wanted of these */
} weir_replay_step;

typedef struct weir_replay_how {
  const weir_cascade_cfg *cfg; /* two tiers, or one */
  bool oracle; /* gate of entropy with a threshold of 0.5: rows' entropies become 1 where the tokens
                  differ and 0 elsewhere */
  void (*on_step)(void *ctx, const weir_replay_step *); /* may be NULL */
  void *ctx;
} weir_replay_how;

/* Memory of replays, grows to the longest text. */
typedef struct weir_replay_scratch {
  int32_t *tok;          /* [n_prompt + n + 2]: what was written; prompts are zeroes */
  weir_receipt *receipt; /* likewise, by position */
  weir_row *row;         /* likewise */
  size_t cap;
} weir_replay_scratch;
void weir_replay_scratch_fini(weir_replay_scratch *); /* a zeroed one is fine */

typedef struct weir_replay {
  int32_t n;                 /* tokens of the text */
  int32_t by_large;          /* of these: who wrote them in the end */
  int32_t lost;              /* of these: stand and are not the large model's */
  int32_t first_other;       /* the first of these; n: none, the text stays the large model's. At a
                                temperature above 0 a replacement by an independent draw counts here */
  int32_t exact_to;          /* tokens [0, exact_to) are exact */
  int32_t refused;           /* taken back */
  int32_t steps[2];          /* the request took part in, of the small and of the large tier */
  int64_t rows[2], asked[2]; /* fed in them, prompts included; rows wanted of these */
  int32_t kv[2];             /* tokens in the KV cache at the end */
} weir_replay;

/* WEIR_EUNSUP names what cannot be replayed: moving thresholds, fusion, the rule `ratio` above temperature 0,
 * a gate whose score was not logged. temperature: of the trace's draws. */
weir_status weir_replay_text(const weir_trace_text *, float temperature, const weir_replay_how *,
                             weir_replay_scratch *, weir_replay *out, weir_err *e);
/* Whether a setting can be replayed at all; `x` may be NULL where no text is at hand. */
weir_status weir_replay_check(const weir_cascade_cfg *, float temperature, weir_err *e);

/* The small tier's row and the large tier's draw, as the sample op gave them. */
weir_row weir_trace_small_row(const weir_trace_row *);
weir_row weir_trace_large_row(const weir_trace_row *);

#endif
