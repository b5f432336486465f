/* SPDX-License-Identifier: Apache-2.0 */
/* What a request costs: rows, operations, weights read and KV, by tier, and what the large tier alone would
 * have cost for the same tokens. Counted from steps that ended well; a step's weights are read once for all
 * its sequences and shared out evenly among them. Pure arithmetic. */
#ifndef WEIR_SCHED_COST_H
#define WEIR_SCHED_COST_H
#include <stdint.h>

#include "step/step.h"

enum { WEIR_COST_TIERS = 2 };

/* What rows are for. Within one feed they come in this order. */
typedef enum {
  WEIR_ROW_PROMPT,
  WEIR_ROW_CATCHUP, /* another tier wrote it, and this one has not seen it yet */
  WEIR_ROW_JUDGED,  /* its answer judges the token behind it */
  WEIR_ROW_DECODE,  /* its answer is the next token, or hands it up */
  WEIR_N_ROW_USES
} weir_row_use;

typedef struct weir_tier_cost {
  int64_t rows[WEIR_N_ROW_USES]; /* fed */
  int64_t taken_back;            /* of them: of positions that were rolled back later */
  int64_t answers;               /* rows that went through the head */
  double flops[WEIR_N_ROW_USES]; /* of rows, with attention over what lies before them; head left out */
  double head_flops;
  double taken_back_flops;   /* of flops: of rows taken back */
  double weight_bytes;       /* its share of what was read */
  double weight_bytes_alone; /* what would have been read had nobody shared a step with it */
  double kv_bytes_written;   /* of rows */
  double kv_bytes_peak;      /* of the pages held, shared ones too, at most */
} weir_tier_cost;

typedef struct weir_cost {
  weir_tier_cost tier[WEIR_COST_TIERS];
  double steps, share; /* steps it took part in; sum of 1 / sequences over them */
  /* The same tokens by the large tier alone, one a step, beside as many others (1 / sequences: the mean
   * above), with as much of the prompt found in the prefix cache. 0 where there is one tier alone. */
  double large_only_flops, large_only_weight_bytes;
} weir_cost;

/* One feed [from, ...) of a request in a step of n_seqs sequences; rows by use, `answers` of them asked. */
typedef struct weir_cost_feed {
  int32_t from, rows[WEIR_N_ROW_USES], answers, n_seqs, pages;
} weir_cost_feed;

/* Operations of rows [from, to) of one sequence, the head left out. */
double weir_cost_row_flops(const weir_exec_info *, int32_t from, int32_t to);
void weir_cost_step(weir_cost *, int32_t tier, const weir_exec_info *, const weir_cost_feed *);
/* KV of positions [to, from) is thrown away: their tokens were taken back. */
void weir_cost_take_back(weir_cost *, int32_t tier, const weir_exec_info *, int32_t from, int32_t to);
/* n_new tokens behind a prompt of which `cached` tokens were found. */
void weir_cost_large_only(weir_cost *, const weir_exec_info *large, int32_t n_prompt, int32_t cached,
                          int32_t n_new);
double weir_cost_flops(const weir_tier_cost *); /* all of the tier's */
void weir_cost_add(weir_cost *sum, const weir_cost *);

#endif
