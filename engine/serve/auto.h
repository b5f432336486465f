/* SPDX-License-Identifier: Apache-2.0 */
/* Mode auto: which of large, exact, defer and small is fastest at the load of the moment, within each floor
 * of quality. Arithmetic on what it is told; no clock, no engine.
 *
 * For b requests under way a token costs, with T0, T1 the step times of the tiers by rows (measured, between
 * the sizes that were seen), k drafts and E tokens a cycle of `exact`, r the share of tokens that `defer`
 * hands up, w the requests that meet in a large step:
 *
 *   small   T0(b) / b                      large   T1(b) / b
 *   exact   (k T0(b) + T1(b (k+1))) / (b E)
 *   defer   T0(b - w/2) / (b - w/2) + (r/w) T1(w/r)
 *
 * where the tiers share a device; where they do not, the cycle of one request through both is solved for
 * (predict_overlap). That is divided by a correction, measured over predicted speed, of the mode at the
 * nearest load it has run at, and the prompt rows of a token are added, at their price on each tier the mode
 * feeds. The share of drafts that stand is in E and nowhere else: it hardly moves while speculation turns
 * from a gain into a loss.
 *
 * A mode takes over when it has been better by `margin` for `hold_ns`, sooner when by more. One that could be
 * better, by an optimist's estimate, and was never measured at this load is tried for a few steps, as long as
 * what trials have cost stays within `explore` of all time. */
#ifndef WEIR_SERVE_AUTO_H
#define WEIR_SERVE_AUTO_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "serve/auto_stats.h"

enum { WEIR_AUTO_SIZES = 28, WEIR_AUTO_LOADS = 20 };

/* Step times of one tier by rows. Sizes are half octaves: 1, 2, 3, 4, 6, 8, 12, ... */
typedef struct weir_auto_size {
  double rows, ns; /* averaged; rows 0: none was seen */
} weir_auto_size;
typedef struct weir_auto_curve {
  weir_auto_size full[WEIR_AUTO_SIZES]; /* no prompt rows; most rows have an answer, and cost a head */
  weir_auto_size
      part[WEIR_AUTO_SIZES]; /* no prompt rows; most are caught up with, for one answer at the end */
  weir_auto_size any[WEIR_AUTO_SIZES]; /* all */
  double prompt_row_ns;                /* 0: not measured */
} weir_auto_curve;

typedef struct weir_auto_rules {
  double margin;       /* of time for one token */
  int64_t hold_ns;     /* at twice the margin half of it, and so on */
  double explore;      /* share of time */
  bool overlap;        /* the tiers run at the same time */
  int32_t large_batch; /* as the engine gathers deferrals */
  int64_t large_wait_ns;
  bool no_correction; /* for tests: predictions are never corrected */
} weir_auto_rules;
weir_auto_rules weir_auto_rules_default(void);

/* A step of a tier as the controller sees it. */
typedef struct weir_auto_step {
  int64_t now_ns, from_ns; /* its end; since when time counts for it: the end of the one before */
  int32_t tier, rows, prompt_rows, answers; /* answers: rows of which somebody wants to hear */
  int64_t device_ns;
  int32_t active;                /* requests under way, of all kinds */
  int32_t of[WEIR_N_AUTO_MODES]; /* of these, those in mode auto, by mode */
} weir_auto_step;

typedef struct weir_auto_floor {
  weir_auto_mode mode, back;          /* in force; during a trial: the one before it */
  weir_auto_mode other;               /* has been better since better_ns */
  int64_t better_ns;                  /* 0: none is */
  int64_t trial_ns;                   /* since when a trial runs; 0: none */
  int64_t better_steps, trial_steps;  /* steps there had been then */
  double trial_tokens, trial_want_ns; /* written in the trial; how long it should take */
  bool used;                          /* some request has this floor */
} weir_auto_floor;

typedef struct weir_auto {
  weir_auto_rules rules;
  weir_auto_curve tier[2];
  weir_auto_floor floor[WEIR_N_QUALITIES];
  bool up[2]; /* tiers */
  /* what texts are like; decayed sums */
  double cycles, cycle_drafts, cycle_tokens; /* of exact */
  double written, deferred;                  /* of defer: tokens, those of the large tier */
  double requests, needed_large;             /* of defer */
  double new_tokens, prompt_rows;            /* of requests that have ended */
  double first_rho;                          /* of the first request: until one has ended */
  double load;
  int64_t now_ns, last_ns, steps;
  double credit_ns;         /* what trials may still cost */
  int64_t unseen[2];        /* rows of those under way that a tier has not seen */
  double overhead_ns;       /* of a step, beside its device */
  struct weir_auto_window { /* the measurement under way */
    weir_auto_mode mode;
    double ns, prompt_ns, tokens, load, steps;
    bool open, drop, whole; /* drop: what is told next is of the step before it; whole: a cycle has ended */
  } window;
  double pending_tokens; /* committed since the last step */
  struct weir_auto_cell {
    double ratio;        /* measured over predicted speed, of decoding; 0: never measured */
    double ns_per_token; /* as measured, prompts apart */
    int64_t at_ns;
  } cell[WEIR_N_AUTO_MODES][WEIR_AUTO_LOADS];
  int64_t switches, probes, tokens[WEIR_N_AUTO_MODES];
} weir_auto;

void weir_auto_init(weir_auto *, const weir_auto_rules *);

/* ---- what it is told ---- */
void weir_auto_step_done(weir_auto *, const weir_auto_step *);
/* Tokens were committed to requests in this mode (after the step that wrote them). */
void weir_auto_wrote(weir_auto *, weir_auto_mode, int32_t n);
/* A judgement of `exact`: so many drafts looked at, so many tokens gained. */
void weir_auto_cycle(weir_auto *, int32_t drafts, int32_t gained);
/* A token under `defer`, by the large tier or not. */
void weir_auto_deferral(weir_auto *, bool large);
/* A request begins; it has ended: prompt rows that were not in a cache, and whether, in `defer` all along, it
 * has needed the large tier (-1: it was not). */
void weir_auto_begin(weir_auto *, weir_quality, int32_t n_prompt, int32_t max_new);
void weir_auto_end(weir_auto *, int32_t prompt_rows, int32_t new_tokens, int32_t needed_large);
/* Nobody is under way: time until the next step is nobody's. */
void weir_auto_idle(weir_auto *);
/* Prompt and text of those under way that a tier has not seen, in rows; before weir_auto_decide. */
void weir_auto_unseen(weir_auto *, const int64_t rows[2]);
void weir_auto_tier(weir_auto *, int32_t tier, bool up);

/* ---- what it says ---- */
static inline weir_auto_mode weir_auto_of(const weir_auto *a, weir_quality q) { return a->floor[q].mode; }
/* Moves the floors' modes. True when any has changed; *why (may be NULL) then says what and by which figures,
 * one line per change that is not a trial's beginning or end. */
bool weir_auto_decide(weir_auto *, char *why, size_t why_bytes);
/* Nanoseconds for one token of all requests together at that load, prompts included; 0: not known. */
double weir_auto_cost(const weir_auto *, weir_auto_mode, double load);
/* Of a step in which all rows have an answer, few have one; 0: not known. */
double weir_auto_step_ns(const weir_auto_curve *, double rows);
double weir_auto_part_ns(const weir_auto_curve *, double rows);
/* Some tier is needed by every mode of the floor. */
bool weir_auto_needs(weir_quality, int32_t tier);
weir_auto_stats weir_auto_get_stats(const weir_auto *);

#endif
