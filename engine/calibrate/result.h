/* SPDX-License-Identifier: Apache-2.0 */
/* Everything that one calibration found, for whoever writes it down: the table on standard output, JSON, the
 * HTML report, the configuration file. Plain data; rates and shares are 0 .. 1, predicted times are those of
 * weir_calibration.batch requests under way at once, NaN: not known. */
#ifndef WEIR_CALIBRATE_RESULT_H
#define WEIR_CALIBRATE_RESULT_H
#include <stdbool.h>
#include <stdint.h>

#include "calibrate/drift.h"
#include "cascade/cascade_conf.h"

/* ---- a setting ---- */

/* What was asked of the engine with a setting, end to end: not a replay. */
typedef struct weir_cal_run {
  bool ran;             /* false: the rest is zero */
  int32_t n, n_right;   /* requests; of these, right. n_right -1: the data has no answers */
  double exact, lo, hi; /* share right, and its 95 % interval (Wilson) */
  double same_text; /* share of requests whose text is the large model's, to the token; NaN: not compared */
  int64_t tokens;   /* generated */
  double seconds, tok_s;
  double speedup; /* tok_s beside the large model alone, same requests and batch; NaN: that did not run */
  double deferral_rate; /* share of tokens the large model wrote */
  double loss;          /* mean loss of a request, weir_cal_choice.loss says which; NaN: none was computed */
  int32_t batch;        /* requests under way at once */
} weir_cal_run;

typedef struct weir_cal_point {
  char label[64];         /* "defer entropy 0.45", "exact window 5", "oracle" */
  bool runnable;          /* opts say what it is; false: the oracle, which no engine can run */
  weir_cascade_opts opts; /* for weir_cascade_cfg_make */
  double setting;         /* what moves along its curve: threshold, chance, alpha, window */

  /* From the replay over the texts of the calibration half. What is replayed behind the first position
   * where a small token stands that is not the large model's goes on along the large model's text as if it
   * were there: an estimate for rates and costs, exact for same_text and token_loss. */
  double deferral_rate;     /* share of tokens that the large model wrote */
  double same_text;         /* share of texts that stay the large model's, token for token */
  double token_loss;        /* mean over texts of the share of tokens that stand and are not the large
                               model's own */
  double refused;           /* tokens refused by a judge or dropped with one, by token of text */
  double steps[2], rows[2]; /* by token of text, of the small and of the large tier; rows: decode,
                               catch-up and what was rolled back */
  double flops;             /* by token of text, both tiers */
  double weight_bytes;      /* read by steps, likewise */
  double kv_bytes;          /* held at a text's end by both tiers, over its length, prompt included */
  double ns;                /* predicted time by token of text, of the engine's steps alone */
  double speedup;           /* the large model's time over this one's; NaN: no costs are known */
  bool pareto;              /* no other runnable point is at least as good in speedup and in same_text
                               and better in one */
  weir_cal_run run;
} weir_cal_point;

/* ---- curves: points of one kind, in order of `setting` ---- */
typedef enum {
  WEIR_CURVE_LARGE,     /* one point: the large model alone; its speedup is 1 */
  WEIR_CURVE_SMALL,     /* one point: the small model alone */
  WEIR_CURVE_GATE,      /* mode defer, by threshold of `gate` */
  WEIR_CURVE_CHANCE,    /* mode defer by coin: what every gate must beat */
  WEIR_CURVE_ORACLE,    /* one point: defers exactly where the tokens differ */
  WEIR_CURVE_EXACT,     /* mode exact, by window */
  WEIR_CURVE_SPECULATE, /* mode speculate with rule `accept`, by its alpha (typical: by epsilon, nll: by
                           limit) */
  WEIR_CURVE_ROLLBACK   /* mode rollback, by threshold of `gate` */
} weir_curve_kind;

typedef struct weir_cal_curve {
  weir_curve_kind kind;
  char label[48];        /* "entropy", "v3, window 5", "random deferral" */
  weir_gate_kind gate;   /* GATE, ROLLBACK */
  weir_keep accept;      /* SPECULATE */
  weir_cal_point *point; /* [n], owned */
  int32_t n;
  double auroc; /* GATE: how well the score tells positions where the small token is not the large one's, area
                   under the ROC curve; NaN for the other kinds */
} weir_cal_curve;

/* ---- the quality level ---- */
typedef enum {
  WEIR_LOSS_TOKENS, /* share of a request's tokens that stand undeferred and are not the large model's own */
  WEIR_LOSS_WRONG   /* 1 when the large model is right and the cascade is not */
} weir_cal_loss;

/* Conformal risk control, arXiv 2208.02814, over requests. */
typedef struct weir_cal_choice {
  bool found; /* a threshold meets the level; false: n is too small, or nothing does */
  weir_cal_loss loss;
  double level;           /* alpha */
  weir_cascade_opts opts; /* found: the setting; else large alone */
  double threshold;
  int32_t n;                /* requests of the calibration half */
  int32_t n_enough;         /* the least n for which this level can be met at all: ceil(1/alpha) - 1 */
  double risk, bound;       /* mean loss there, and n/(n+1) risk + 1/(n+1), which is <= level where found */
  int32_t n_grid;           /* thresholds looked at; what follows has n_grid entries, in order of falling
                               deferral, i.e. of rising risk */
  double *grid, *grid_risk; /* owned; the risk is monotone: by construction for tokens, as a running maximum
                               else */
  char guarantee[512];      /* in words, one sentence or two */
} weir_cal_choice;

/* Confirmation: end to end, on requests that had no part in the choice. */
typedef struct weir_cal_confirm {
  bool ran;
  int32_t n;
  weir_cal_run large, small, chosen, exact; /* small and exact may not have run */
  double loss, loss_error;  /* realised mean loss of the chosen setting and its standard error */
  bool holds;               /* loss <= level + 2 loss_error: no evidence against the guarantee */
  double predicted_speedup; /* for chosen, at this batch; beside chosen.speedup */
  double predicted_exact;   /* likewise for exact ... */
  int32_t exact_window;     /* ... which ran with this window */
} weir_cal_confirm;

/* ---- what a step costs on this machine ---- */
enum { WEIR_COST_POINTS = 16 };
typedef struct weir_cal_cost {
  int32_t n;                           /* sizes measured */
  int32_t rows[WEIR_COST_POINTS];      /* of one sequence's step, ascending, from 1 */
  double ns[2][WEIR_COST_POINTS];      /* of the small and of the large tier, the fastest seen, with one row
                                          asked for ... */
  double ns_all[2][WEIR_COST_POINTS];  /* ... and with all, which then pass the head */
  double flops[2], head_flops[2];      /* of one row; of the head, which runs where a row is asked for (0: not
                                          known apart) */
  double weight_bytes[2], kv_bytes[2]; /* read by a step; written by a row */
} weir_cal_cost;

/* ---- what the small model looked like: for the drift alarm of a server ---- */
enum { WEIR_CAL_BINS = 64 };
typedef struct weir_cal_drift {
  double bin_width; /* nats; bin i counts entropies in [i, i+1) * bin_width, the last one all above */
  int64_t count[WEIR_CAL_BINS]; /* entropies of the small model at generated positions */
  int64_t n;
  double mean_entropy;
  double deferral_rate; /* of the chosen setting */
  double agreement;     /* share of positions where both models draw the same token */
  int64_t differ[WEIR_CAL_BINS]; /* of count: positions where they do not */
  weir_drift_profile requests;   /* of the confirmation's run of the chosen setting, request by request: what
                                    weir serve --calibration holds its traffic against. weir_cal_drift_add */
} weir_cal_drift;

/* ---- whether a fitted gate's probability of an error is what it says ---- */
enum { WEIR_CAL_RELIABILITY_BINS = 10 };
typedef struct weir_cal_reliability {
  int32_t n; /* bins of [0, 1], of equal width, that hold rows */
  double predicted[WEIR_CAL_RELIABILITY_BINS], observed[WEIR_CAL_RELIABILITY_BINS]; /* means of the bin's rows */
  int64_t rows[WEIR_CAL_RELIABILITY_BINS];
} weir_cal_reliability;

/* ---- all of it ---- */
typedef struct weir_calibration {
  char when[32];             /* ISO 8601, UTC */
  char version[64];          /* of the program */
  const char *data;          /* file, borrowed */
  const char *small, *large; /* model files, borrowed */
  char device[128];
  int32_t n_threads, batch;
  double temperature;           /* of the draws */
  uint64_t seed;                /* the split and the draws */
  bool tasks;                   /* the data has answers */
  int32_t n_texts;              /* requests of the trace */
  int64_t n_tokens;             /* generated by the large model, over all of them */
  double agreement, entropy[2]; /* over positions: both draw the same; mean entropies, nats */
  weir_cal_curve *curve;        /* [n_curves], owned */
  int32_t n_curves, n_replayed; /* n_replayed: requests they are from */
  weir_cal_choice choice;
  weir_cal_confirm confirm;
  weir_cal_cost cost;
  weir_cal_drift drift;
  double log_seconds, replay_seconds, run_seconds; /* what the calibration itself took */
  weir_cal_reliability reliability;                /* of a fitted gate; n 0: the gate was not fitted */
} weir_calibration;

void weir_calibration_fini(weir_calibration *); /* a zeroed one is fine */

#endif
