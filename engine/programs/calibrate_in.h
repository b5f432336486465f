/* SPDX-License-Identifier: Apache-2.0 */
/* `weir calibrate` from inside: its state, which its files share. Main thread. */
#ifndef WEIR_PROGRAMS_CALIBRATE_IN_H
#define WEIR_PROGRAMS_CALIBRATE_IN_H
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "calibrate/cost.h"
#include "calibrate/result.h"
#include "calibrate/trace.h"
#include "calibrate/trace_file.h"
#include "cascade/gate_map.h"
#include "programs/answer.h"
#include "programs/calibrate.h"
#include "programs/load.h"
#include "programs/out.h"
#include "programs/prompts.h"
#include "programs/tasks.h"

/* The requests of a part of the data (weir_trace_part). */
typedef struct weir_cal_part {
  weir_answers answers; /* prompts, and what the run under way gives */
  int32_t *item;        /* [n], owned: which of the data */
  int32_t n;
  int32_t first_text; /* in the trace, where its requests stand in order */
  int32_t **large;    /* [n][n_prompt + n_large], owned: prompt and what the large model wrote */
  int32_t *n_large;   /* [n], owned */
  bool *right;        /* [n], owned: the large model's answer is; of tasks */
  weir_cal_run run;   /* of the large model */
} weir_cal_part;

typedef struct weir_calibrating {
  const weir_config *c;
  weir_out out;
  bool quiet;
  weir_model_paths paths;
  weir_loaded models;
  bool has_tasks;
  weir_tasks tasks;
  weir_texts prompts; /* where the data are no tasks */
  int32_t n_data;
  weir_cal_part part[WEIR_N_PARTS];
  weir_trace trace;
  weir_trace_meta meta;
  int64_t differs;       /* positions where the large model drew another token the second time */
  weir_gate gate;        /* its threshold is what is looked for */
  weir_gate_head head;   /* fitted; its weights are owned */
  weir_gate_map map;     /* of the isotonic gate: read or fitted */
  const char *gate_path; /* of the gate file, read or written; NULL: none */
  weir_cal_loss loss;
  weir_calibration r;
  int32_t n_done; /* for progress */
} weir_calibrating;

/* A line on standard error that the next one replaces, on a terminal; "": it goes. */
void weir_cal_progress(const weir_calibrating *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* True: the user wants to stop. */
bool weir_cal_stopped(void);

/* ---- calibrate_data.c ---- */
/* Reads the file and divides it: half to calibrate, half to confirm, by --seed. Before models are loaded. */
weir_status weir_cal_read(weir_calibrating *, const char *path, weir_err *e);
/* The prompts as tokens. */
weir_status weir_cal_encode(weir_calibrating *, weir_err *e);
void weir_cal_data_fini(weir_calibrating *);

/* ---- calibrate_runs.c ---- */
/* The large model's answers to a part. */
weir_status weir_cal_run_large(weir_calibrating *, weir_trace_part, weir_err *e);
/* All of a part with a setting. wrong: [n of the part], 1 where the large model is right and this is not; may
 * be NULL. */
weir_status weir_cal_run_setting(weir_calibrating *, weir_trace_part, const weir_cascade_opts *,
                                 weir_cal_run *out, float *wrong, weir_err *e);
/* Some of a part: requests with pick[i], and only whether they are wrong, into wrong[i]. */
weir_status weir_cal_run_some(weir_calibrating *, weir_trace_part, const weir_cascade_opts *,
                              const bool *pick, float *wrong, weir_err *e);
/* What both models say along the large one's answers, of all parts. hidden: the small one's states too. */
weir_status weir_cal_log(weir_calibrating *, bool hidden, weir_err *e);
/* Times steps of both models. */
weir_status weir_cal_time(weir_calibrating *, weir_err *e);
weir_cost_engine weir_cal_engine(const weir_calibrating *);

/* ---- calibrate_gate.c ---- */
/* Fits the gate of x->gate.kind, where that is one to be fitted. */
weir_status weir_cal_fit_gate(weir_calibrating *, weir_err *e);
weir_status weir_cal_write_gate(weir_calibrating *, const char *path, weir_err *e);

/* ---- calibrate_choose.c ---- */
weir_status weir_cal_choose(weir_calibrating *, weir_err *e);
weir_status weir_cal_confirm_choice(weir_calibrating *, weir_err *e);
void weir_cal_drift_fill(weir_calibrating *);

/* ---- calibrate_drift.c ---- */
/* drift.requests: of the answers that a run with the chosen setting gave; where none of them has a row of the
 * small model it stays what it is. Without a run: of what the gate says along the large model's texts. */
weir_status weir_cal_drift_from_run(weir_calibrating *, const weir_answers *, weir_err *e);
weir_status weir_cal_drift_from_trace(weir_calibrating *, weir_err *e);
void weir_cal_reliability_fill(weir_calibrating *);

/* ---- calibrate_out.c ---- */
void weir_cal_print(weir_calibrating *);
void weir_cal_json(weir_calibrating *);
weir_status weir_cal_files(weir_calibrating *, weir_err *e); /* --out, --calibration, --report, --trace */

#endif
