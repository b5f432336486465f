/* SPDX-License-Identifier: Apache-2.0 */
/* The cascade: which tier acts next on one request, and what follows from the rows it gave.
 *
 * Pure: a const view and rows in, an effect out. No I/O, clock, allocation or device, and nothing shared
 * between requests. The one rule: whenever tier t is to act it feeds tok[kv_len[t] .. n) and gives rows from
 * position mark[t]-1 on. That is prefill (kv_len 0), decode (one token), catch-up (a few tokens), verification
 * (rows over the unendorsed tail) and, after a truncation of n, roll-back. Every mode is a setting of it. */
#ifndef WEIR_CASCADE_POLICY_H
#define WEIR_CASCADE_POLICY_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/row.h"

enum {
  WEIR_MAX_TIERS = 4,
  WEIR_FAR = 1 << 29 /* "no limit" for windows and horizons, in tokens */
};

/* ---- the gate: "this token is not for this tier" ---- */
typedef enum {
  WEIR_GATE_ENTROPY,  /* defer when entropy > threshold, nats */
  WEIR_GATE_TOP_PROB, /* defer when p_max < threshold */
  WEIR_GATE_MARGIN    /* defer when margin < threshold */
} weir_gate_kind;

typedef struct weir_gate {
  weir_gate_kind kind;
  float threshold;
} weir_gate;

bool weir_gate_defers(weir_gate, const weir_row *);
/* No row can pass it (entropy threshold < 0, probability threshold > 1): the tier is skipped, never fed. */
bool weir_gate_never_passes(weir_gate);

/* ---- configuration: shared by many requests, borrowed ---- */
typedef struct weir_cascade_cfg {
  int32_t n_tiers;                 /* 1 .. WEIR_MAX_TIERS */
  int32_t commit_tier;             /* the client sees what this tier (or a higher one) has endorsed ... */
  int32_t horizon;                 /* ... or what lies more than this many tokens back */
  int32_t window[WEIR_MAX_TIERS];  /* tokens tier t may write ahead of the next tier's endorsement */
  int32_t hold[WEIR_MAX_TIERS];    /* tokens tier t writes once it has the pen; 0 and 1 are the same */
  weir_gate gate[WEIR_MAX_TIERS];  /* of the top tier: unused */
  weir_keep keep[WEIR_MAX_TIERS];  /* how tier t judges tokens of lower tiers; of tier 0: unused */
  float keep_nll[WEIR_MAX_TIERS];
} weir_cascade_cfg;

/* ---- per request ---- */
typedef struct weir_cascade {
  const weir_cascade_cfg *cfg;
  int32_t tier; /* who has the pen */
  int32_t held; /* tokens it has written since it got it */
  int32_t lo, hi; /* tiers that are up; the engine may move these between steps */
  bool pinned;    /* tier 0 and nothing else, for ever */
} weir_cascade;

/* What the policy may look at. mark[t]: how many leading tokens tier t or a higher one has endorsed.
 * committed: how many the client may see; never falls. ended: tok[n-1] ends the text (end-of-text id, stop
 * string, limit): a function of tok[0..n) worked out by the caller. */
typedef struct weir_view {
  const int32_t *tok;
  int32_t n, committed;
  bool ended;
  int32_t mark[WEIR_MAX_TIERS], kv_len[WEIR_MAX_TIERS];
} weir_view;

/* Feed tok[from, to) to `tier`, with rows for positions [out_from, to). Row p decides token p+1. Tokens at
 * judge_from and beyond are judged. from <= out_from < to always. */
typedef struct weir_need {
  int32_t tier, from, to, out_from, judge_from;
} weir_need;

typedef enum {
  WEIR_WROTE,    /* a tier wrote its token at the end */
  WEIR_REPLACED, /* a judge refused the token at truncate_to and wrote its own */
  WEIR_DEFERRED, /* the gate handed the next position to a higher tier */
  WEIR_WINDOW,   /* the window is full: a higher tier is asked to judge */
  WEIR_ENDORSED  /* nothing was written; the tail was endorsed (or handed up) because the text has ended */
} weir_reason;

typedef struct weir_effect {
  int32_t truncate_to; /* -1: none; else n becomes this first */
  int32_t append;      /* -1: none; else this token is appended */
  int32_t endorsed_by, endorsed_to; /* mark[0..endorsed_by] = endorsed_to */
  bool wanted_up;      /* the gate asked for a higher tier that is not there */
  weir_reason reason;
} weir_effect;

/* NULL when the configuration is sound, else one line saying what is not. Refused among others: eager commit
 * (commit_tier below the top, no horizon) together with a rule other than KEEP_ALL, since a client cannot be
 * made to forget. */
const char *weir_cascade_cfg_error(const weir_cascade_cfg *);

void weir_cascade_init(weir_cascade *, const weir_cascade_cfg *, bool pinned);
/* What the request needs next; false: nothing, it has ended and all of it is committed. */
bool weir_cascade_need(const weir_cascade *, const weir_view *, weir_need *out);
/* Fills probe, keep, keep_nll and pos of the ask for row `p`, out_from <= p < to; the caller has set the draw. */
void weir_cascade_ask(const weir_cascade *, const weir_view *, const weir_need *, int32_t p, weir_ask *io);
/* rows[0 .. to-out_from) answer the need; the view is as it was when need was taken. */
void weir_cascade_observe(weir_cascade *, const weir_view *, const weir_need *, const weir_row *rows, weir_effect *out);
/* Applies an effect to the caller's token list (room for one more token at tok[n]) and view. */
void weir_cascade_apply(const weir_cascade *, const weir_effect *, int32_t *tok, weir_view *);
/* How many tokens may be shown. */
int32_t weir_cascade_commit(const weir_cascade *, const weir_view *);

#endif
