/* SPDX-License-Identifier: Apache-2.0 */
/* The cascade: which tier acts next on one request, and what follows from the rows it gave.
 *
 * Pure: a const view and rows in, an effect out. No I/O, clock, allocation or device, and nothing shared
 * between requests. The one rule: whenever tier t is to act it feeds tok[kv_len[t] .. n) and gives rows from
 * position mark[t]-1 on. That is prefill (kv_len 0), decode (one token), catch-up (a few tokens),
 * verification (rows over the unendorsed tail) and, after a truncation of n, roll-back. Every mode is a
 * setting of it. */
#ifndef WEIR_CASCADE_POLICY_H
#define WEIR_CASCADE_POLICY_H
#include <stdbool.h>
#include <stdint.h>

#include "cascade/budget.h"
#include "cascade/gate_map.h"
#include "cascade/route.h"
#include "kernels/row.h"

enum {
  WEIR_MAX_TIERS = 4,
  WEIR_FAR = 1 << 29, /* "no limit" for windows and horizons, in tokens */
  WEIR_FUSION_MAX = 4 /* |cfg.fusion| at most */
};

/* ---- the gate: "this token is not for this tier" ---- */
typedef enum {
  WEIR_GATE_ENTROPY,  /* defer when entropy > threshold, nats */
  WEIR_GATE_TOP_PROB, /* defer when p_max < threshold */
  WEIR_GATE_MARGIN,   /* defer when margin < threshold */
  WEIR_GATE_CHANCE,   /* defer with probability `threshold`, blind to what the row says (the coin is a hash of
                         its statistics, never of the drawn token, so a decision is still a function of the
                         logged row): the control that every other gate must beat */
  WEIR_GATE_ISOTONIC, /* defer when map(statistic) > threshold, a probability of error */
  WEIR_GATE_HEAD      /* defer when row.gate > threshold, likewise */
} weir_gate_kind;

typedef struct weir_gate {
  weir_gate_kind kind;
  float threshold;
  const weir_gate_map *map; /* of the isotonic gate, borrowed, sound (weir_gate_map_error) */
} weir_gate;

bool weir_gate_defers(weir_gate, const weir_row *);
/* What the threshold is held against: the statistic itself, the coin, or the probability of error, which is 1
 * where it is not a number. */
float weir_gate_score(weir_gate, const weir_row *);
/* It defers what is below its threshold, not above: top probability, margin, chance. */
bool weir_gate_is_low(weir_gate_kind);
/* Its score is a probability of error, fitted: isotonic, head. */
bool weir_gate_is_fitted(weir_gate_kind);
/* No row can pass it (entropy or error threshold < 0, probability threshold > 1, chance >= 1): the tier is
 * skipped, never fed. */
bool weir_gate_never_passes(weir_gate);

/* ---- configuration: shared by many requests, borrowed ---- */
typedef struct weir_cascade_cfg {
  int32_t n_tiers;                /* 1 .. WEIR_MAX_TIERS */
  int32_t commit_tier;            /* the client sees what this tier (or a higher one) has endorsed ... */
  int32_t horizon;                /* ... or what lies more than this many tokens back */
  int32_t window[WEIR_MAX_TIERS]; /* tokens that may lie ahead of the next tier's endorsement while tier t
                                     writes */
  int32_t hold[WEIR_MAX_TIERS];   /* tokens tier t writes once it has the pen; 0 and 1 are the same */
  weir_gate gate[WEIR_MAX_TIERS]; /* of the top tier: unused */
  weir_keep keep[WEIR_MAX_TIERS]; /* how tier t judges tokens of lower tiers; of tier 0: unused */
  float keep_a[WEIR_MAX_TIERS], keep_b[WEIR_MAX_TIERS]; /* what the rule wants, kernels/row.h */
  /* Where it moves, the caller sets gate[0].threshold anew before each observe of rows of tier 0. The policy
   * knows of it that tier 0 is then fed whatever the threshold is at the moment. */
  weir_budget budget;
  /* Tier 1's draw at a deferred position is from p(v) (q(v) / q_min)^fusion over the likeliest WEIR_TOP_MAX
   * ids of the row that deferred (q_min: the least likely of them), and from p elsewhere. 0: from p. The
   * caller's doing, like every draw; the policy does not look at it. */
  float fusion;
  /* The caller sets gate[0].threshold anew before each observe of rows of tier 0, as with a budget. */
  bool gate_moves;
  /* So long a need of a tier above the lowest may wait before the caller gives it up (weir_cascade_give_up);
   * 0: as long as it takes. The policy has no clock: it knows of it that the text goes on without a judge. */
  int64_t defer_wait_ns;
  weir_route route; /* of whole requests; then the gate hands over no single token */
} weir_cascade_cfg;

/* ---- why a token is the one it is; for receipts ---- */
typedef enum {
  WEIR_WHY_NONE,     /* no token yet */
  WEIR_WHY_EASY,     /* the lowest tier in use wrote it, and nobody has judged it */
  WEIR_WHY_KEPT,     /* a lower tier wrote it and a judge let it stand */
  WEIR_WHY_REPLACED, /* a judge refused what a lower tier had written here */
  WEIR_WHY_DEFERRED, /* a gate handed this position to the tier that wrote it */
  WEIR_WHY_WINDOW,   /* the judge of a full window wrote on: its row was there anyway */
  WEIR_WHY_HOLD,     /* the tier had the pen from the token before (cfg.hold) */
  WEIR_WHY_FORCED,   /* nothing else might follow: no tier was asked, all agree */
  WEIR_WHY_ROUTED    /* the whole request went to the tier that wrote it (cfg.route) */
} weir_why;

/* ---- per request ---- */
typedef struct weir_cascade {
  const weir_cascade_cfg *cfg;
  int32_t tier;   /* who has the pen */
  int32_t held;   /* tokens it has written since it got it */
  weir_why why;   /* why it has it: DEFERRED, WINDOW or HOLD; EASY for the lowest tier in use */
  int32_t lo, hi; /* tiers that are up, 0 <= lo, hi < n_tiers; the engine may move these at any time */
  bool pinned;    /* tier 0 and nothing else, for ever */
  weir_route_state route;
  bool alone; /* the next token is the lowest tier's, whatever its gate says: a higher one took too long */
} weir_cascade;

/* What the policy may look at. mark[t]: how many leading tokens tier t or a higher one has endorsed.
 * committed: how many the client may see; never falls. ended: tok[n-1] ends the text (end-of-text id, stop
 * string, limit): a function of tok[0..n) worked out by the caller, again after every apply. A request starts
 * with its prompt: n >= 1, committed and every mark equal to n, every kv_len 0 (or what a prefix hit covers,
 * at most n). */
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

/* What a step led to. (That a window is full is seen by need(), which then names the higher tier at once; the
 * lower one is not run to find out. WEIR_WINDOW is left for a middle tier that was judging when its own was
 * full.) */
typedef enum {
  WEIR_WROTE,    /* a tier wrote its token at the end */
  WEIR_REPLACED, /* a judge refused the token at truncate_to and wrote its own */
  WEIR_DEFERRED, /* the gate handed the next position to a higher tier; goes before WEIR_WINDOW where both
                    hold */
  WEIR_WINDOW,   /* the judge's own window is full: a higher tier is asked to judge */
  WEIR_ENDORSED, /* nothing was written; the tail was endorsed because the text has ended */
  WEIR_ROUTED,   /* the request goes to the large tier; what was written behind its prompt is dropped */
  WEIR_GAVE_UP /* a higher tier took too long: what waited for its word goes on without it */
} weir_reason;

typedef struct weir_effect {
  int32_t truncate_to;              /* -1: none; else n becomes this first */
  int32_t append;                   /* -1: none; else this token is appended */
  int32_t endorsed_by, endorsed_to; /* mark[0..endorsed_by] = endorsed_to */
  bool wanted_up;                   /* the gate asked for a higher tier that is not there */
  weir_reason reason;
  weir_why why;               /* of the token appended; WEIR_WHY_NONE when none is */
  int32_t kept_from, kept_to; /* tokens [kept_from, kept_to) were judged in this step and stand */
  float entropy;              /* of the row that decided: the last one, or that of the refused token */
  float tau;                  /* threshold of the gate that was asked about the next token; NaN: none was */
  int32_t wanted_from, wanted_to; /* tokens [from, to) turn out to have been wanted from the large tier */
} weir_effect;

/* NULL when the configuration is sound, else one line saying what is not. Refused among others: a tier above
 * commit_tier with a rule other than KEEP_ALL, since what is committed is never judged: a client cannot be
 * made to forget. */
const char *weir_cascade_cfg_error(const weir_cascade_cfg *);

void weir_cascade_init(weir_cascade *, const weir_cascade_cfg *, bool pinned);
/* What the request needs next; false: nothing, it has ended and all of it is committed. */
bool weir_cascade_need(const weir_cascade *, const weir_view *, weir_need *out);
/* Tier t is passed over, since no row could pass its gate. */
bool weir_cascade_skips(const weir_cascade_cfg *, int32_t t);
/* Fills probe, keep, keep_a, keep_b and pos of the ask for row `p`, out_from <= p < to; the caller has set
 * the draw, and knows the probe's probe_q. */
void weir_cascade_ask(const weir_cascade *, const weir_view *, const weir_need *, int32_t p, weir_ask *io);
/* rows[0 .. to-out_from) answer the need; the tokens are as they were when need was taken. Tiers may have
 * gone down or come up since, and `committed` may have grown: what has been shown meanwhile is not judged any
 * more. */
void weir_cascade_observe(weir_cascade *, const weir_view *, const weir_need *, const weir_row *rows,
                          weir_effect *out);
/* Applies an effect to the caller's token list (room for one more token at tok[n]) and view. */
void weir_cascade_apply(const weir_cascade *, const weir_effect *, int32_t *tok, weir_view *);
/* `id` alone may follow tok[0..n), whatever any tier says (a list of answers leaves one way on): appended
 * like apply's, endorsed by every tier that has endorsed all before it. Its row, where a judge's feed gives
 * one, must let it stand: the caller sets KEEP_ALL for it. No need may be under way.
 * Returns the tier whose turn it was, for the receipt. */
int32_t weir_cascade_force(const weir_cascade *, int32_t id, int32_t *tok, weir_view *);
/* A higher tier is not waited for any longer. The lowest tier in use writes the next token, whatever its gate
 * says (need() asks it for one row), and that token is told as wanted; what was waiting for a judge counts as
 * endorsed without one, may be shown, and is told as wanted too. After that everything is as before. *out is
 * to be applied. False: no higher tier is up. Not for a lossless rule (weir_cascade_cfg_error). */
bool weir_cascade_give_up(weir_cascade *, const weir_view *, weir_effect *out);
/* How many tokens may be shown. */
int32_t weir_cascade_commit(const weir_cascade *, const weir_view *);
/* Another configuration, of as many tiers, from here on, between two needs: rows of a need that was taken
 * before are not for observe any more. What is committed stays. Tokens still pending are judged by the new
 * configuration where it judges; where it would show them as they are they fall: returns n, which is then
 * `committed`, else what it was. The pen goes back to the lowest tier in use. The caller's `ended` is to be
 * worked out again. */
int32_t weir_cascade_switch(weir_cascade *, weir_view *, const weir_cascade_cfg *);
/* To be called when `ended` has become true: where a decision about the whole request was still open it is
 * made now, by the rows looked at so far, and true returned with an effect to apply (which may take back the
 * text, and so un-end it). Whoever does not call it pays for a step of the small tier instead. */
bool weir_cascade_settle(weir_cascade *, const weir_view *, weir_effect *out);

/* ---- route.c, for policy.c ---- */
weir_route_state weir_route_begin(const weir_cascade_cfg *, bool pinned);
/* The first row the small tier is to give where it would give those from `own` on. */
int32_t weir_route_first_row(const weir_cascade *, const weir_view *, int32_t own);
/* Counts the rows of a need and decides when they are all there. True: the request goes up, as *e says. */
bool weir_route_observe(weir_cascade *, const weir_view *, const weir_need *, const weir_row *rows,
                        weir_effect *e);
const char *weir_route_error(const weir_cascade_cfg *);

#endif
