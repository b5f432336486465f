/* SPDX-License-Identifier: Apache-2.0 */
/* What a request asks the draw to favour or avoid, and the edits of logits that this makes for a position.
 * Presence and frequency penalties are OpenAI's: of the tokens written so far (the prompt does not count),
 * add -presence once and -frequency for each time. The repetition penalty (arXiv 1909.05858, CTRL) counts the
 * prompt too. All are functions of tok[0, p], so they are the same on both tiers and for a judged row. */
#ifndef WEIR_SCHED_PENALTIES_H
#define WEIR_SCHED_PENALTIES_H
#include <stdbool.h>
#include <stddef.h>
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
  float repetition;          /* more than 0, at most 100; 1 (and 0, for zeroed structures): off */
  const weir_bias *bias;     /* [n_bias], any order, an id once */
  int32_t n_bias;
} weir_penalties;

/* WEIR_EINVAL names the field that is out of range. */
weir_status weir_penalties_check(const weir_penalties *, int32_t n_vocab, weir_err *e);

/* Memory for the edits of one step: what was taken stays where it is until the reset, which keeps the memory
 * for the next step. */
typedef struct weir_edit_block weir_edit_block;
typedef struct weir_edit_arena {
  weir_edit_block *first, *last; /* owned; `last` is the one being filled, NULL: none */
  size_t n_taken;                /* edits since the reset */
} weir_edit_arena;               /* zeroed: empty */
void weir_edit_arena_reset(weir_edit_arena *);
void weir_edit_arena_fini(weir_edit_arena *);
/* Room for n edits, NULL with *e when there is none; the first `n` of what was taken last are then kept. */
weir_logit_edit *weir_edit_arena_take(weir_edit_arena *, size_t n, weir_err *e);
void weir_edit_arena_commit(weir_edit_arena *, size_t n);

/* One token of the text so far, and how often it was written. */
typedef struct weir_seen {
  int32_t id, times;
} weir_seen;

/* What shapes the draws of one request. Keeps count of the tokens written, so that the next row costs the
 * number of distinct tokens, not of all. */
typedef struct weir_shaper {
  float presence, frequency, repetition;
  weir_bias *bias; /* [n_bias], owned, ascending by id */
  int32_t n_bias;
  const int32_t *end; /* [n_end] ids that end a text, ascending; borrowed */
  int32_t n_end, min_new, n_prompt;
  int32_t *prompt; /* [n_distinct] of the prompt, ascending, owned; with a repetition penalty only */
  int32_t n_distinct;
  weir_seen *seen; /* [n_seen], ascending by id, of tok[n_prompt, upto); owned */
  int32_t n_seen, cap, upto;
} weir_shaper;

/* Whether these ask for anything at all. */
bool weir_shaper_wanted(const weir_penalties *, int32_t min_new);
/* end[n_end] are banned until min_new tokens were written. */
weir_status weir_shaper_init(weir_shaper *, const weir_penalties *, int32_t min_new, const int32_t *end,
                             int32_t n_end, const int32_t *prompt, int32_t n_prompt, weir_err *e);
void weir_shaper_fini(weir_shaper *);
/* The most edits a row may have at position p. */
int64_t weir_shaper_most(const weir_shaper *, int32_t p);
/* The edits for row p, which decides token p+1: ascending by id, in the arena's memory. p >= n_prompt - 1. */
weir_status weir_shaper_edits(weir_shaper *, const int32_t *tok, int32_t p, weir_edit_arena *,
                              const weir_logit_edit **out, int32_t *n, weir_err *e);
/* Tokens from n on are about to be taken back; tok still holds them. */
void weir_shaper_truncate(weir_shaper *, const int32_t *tok, int32_t n);

#endif
