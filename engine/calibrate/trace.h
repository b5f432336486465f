/* SPDX-License-Identifier: Apache-2.0 */
/* What both models say at every position of texts that the large one wrote: enough to replay any gate and any
 * accept rule, at any setting, without a model.
 *
 * On a text that the large tier wrote with the draws of a request (greedy, or seeded with shared noise), a
 * cascade with the same draws writes the same tokens until the first position where a token of the small tier
 * stands that is not the large one's. So what is replayed up to there is exact, and the share of requests
 * whose text stays the large model's is exact too; behind it only an estimate is possible. */
#ifndef WEIR_CALIBRATE_TRACE_H
#define WEIR_CALIBRATE_TRACE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/row.h"

/* One generated position. q: the small tier, p: the large one; statistics are those of the raw softmax at
 * temperature 1, in nats. */
typedef struct weir_trace_row {
  int32_t q_token, p_token; /* what each draws here; p_token is the text's */
  float q_entropy, q_max, q_margin;
  float q_logprob; /* log q(q_token) */
  float q_of_p;    /* log q(p_token) */
  float q_gate;    /* score of the small model's gate head; NaN without one */
  float p_entropy, p_max, p_margin;
  float p_logprob; /* log p(p_token) */
  float p_of_q;    /* log p(q_token) */
  int32_t q_ends;  /* 1: q_token ends a text; else 0 */
} weir_trace_row;

/* What a text is for: nobody's choice may look at the texts of another part. */
typedef enum {
  WEIR_PART_CALIBRATE, /* thresholds are chosen on these */
  WEIR_PART_CONFIRM,   /* held out */
  WEIR_PART_FIT        /* maps and heads are fitted on these */
} weir_trace_part;
enum { WEIR_N_PARTS = WEIR_PART_FIT + 1 };

/* One request. */
typedef struct weir_trace_text {
  int32_t n_prompt;
  int32_t n;             /* generated */
  weir_trace_row *row;   /* [n], owned */
  float *prompt_entropy; /* [n_prompt - 1] of the small tier, of the rows behind prompt tokens 0 ..
                            n_prompt-2; owned; NULL: not logged */
  float *hidden;         /* [n][dim] the small model's last normed hidden states; owned; NULL: not logged */
  int32_t part;          /* weir_trace_part */
  int32_t right;         /* the large model's answer: 1 right, 0 wrong, -1 not known */
} weir_trace_text;

typedef struct weir_trace {
  weir_trace_text *text; /* [n], owned */
  int32_t n, dim;        /* dim: of hidden; 0: none */
  float temperature;     /* of the draws */
  uint64_t seed;         /* of the draws and of the division into parts */
} weir_trace;

/* Bounds of what is taken from a file. */
enum { WEIR_TRACE_MAX_TEXTS = 1 << 20, WEIR_TRACE_MAX_TOKENS = 1 << 20, WEIR_TRACE_MAX_DIM = 1 << 16 };

/* Zeroed texts and rows; prompts: prompt_entropy too, where the prompt has more than one token. dim > 0:
 * hidden. The text must be a zeroed one. */
weir_status weir_trace_init(weir_trace *, int32_t n_texts, weir_err *e);
weir_status weir_trace_text_init(weir_trace_text *, int32_t n_prompt, int32_t n, bool prompts, int32_t dim,
                                 weir_err *e);
void weir_trace_fini(weir_trace *); /* a zeroed one is fine */
int64_t weir_trace_tokens(const weir_trace *);

#endif
