/* SPDX-License-Identifier: Apache-2.0 */
/* What the fitted gates look up: plain numbers, made by engine/calibrate, kept in a gate file
 * (programs/gate_file.h), borrowed by whoever decides. Pure. */
#ifndef WEIR_CASCADE_GATE_MAP_H
#define WEIR_CASCADE_GATE_MAP_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/row.h"

/* A number of a row that a gate may look at. */
typedef enum { WEIR_STAT_ENTROPY, WEIR_STAT_TOP_PROB, WEIR_STAT_MARGIN } weir_gate_stat;
enum { WEIR_N_STATS = WEIR_STAT_MARGIN + 1, WEIR_GATE_MAP_KNOTS = 256, WEIR_GATE_MAX_DIM = 1 << 16 };

float weir_gate_stat_of(weir_gate_stat, const weir_row *);
const char *weir_gate_stat_name(weir_gate_stat); /* "entropy", "top-prob", "margin"; never NULL */
bool weir_gate_stat_parse(const char *name, weir_gate_stat *out);

/* From a statistic to the probability that the small model's token is not the large one's. Linear between
 * knots: a step would give many rows one score at each level's edge, where the fit knows least, and a
 * threshold that is to meet a share of deferrals could not cut between them. Before the first knot and behind
 * the last it is level; what is not a number is surely wrong, 1. */
typedef struct weir_gate_map {
  weir_gate_stat stat;
  int32_t n;                    /* 1 .. WEIR_GATE_MAP_KNOTS */
  float x[WEIR_GATE_MAP_KNOTS]; /* finite, strictly ascending */
  float y[WEIR_GATE_MAP_KNOTS]; /* 0 .. 1, never falling for the entropy, never rising for the others */
} weir_gate_map;

float weir_gate_map_at(const weir_gate_map *, float x);
/* NULL, or one line that says what is wrong. */
const char *weir_gate_map_error(const weir_gate_map *);

/* A linear head on the last hidden state h (behind the final norm, what the LM head reads) and on the row's
 * statistics s: the probability of error is 1 / (1 + e^-z), z = bias + weight h + stat_weight s. */
typedef struct weir_gate_head {
  int32_t dim;                     /* 1 .. WEIR_GATE_MAX_DIM, the model's */
  float *weight;                   /* [dim]; whose it is says the owner of the struct */
  float bias;                      /* all finite */
  float stat_weight[WEIR_N_STATS]; /* 0: not looked at */
} weir_gate_head;

/* The score for a row, of which `dot` is weight h. In double until it is rounded once; NaN stays NaN. */
float weir_gate_head_score(const weir_gate_head *, float dot, const weir_row *);
const char *weir_gate_head_error(const weir_gate_head *);

#endif
