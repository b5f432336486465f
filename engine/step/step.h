/* SPDX-License-Identifier: Apache-2.0 */
/* THE CONTRACT between those who decide and those who compute. A step is one forward pass of one model
 * instance over one ragged batch: any mix of decode rows, prefill chunks, catch-up and verification. A batch
 * of integers goes in, small rows come out; logits stay on the device. Everything above this line runs
 * against a fake in microseconds; everything below knows nothing of requests. */
#ifndef WEIR_STEP_STEP_H
#define WEIR_STEP_STEP_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/row.h"

/* Host arrays, borrowed until the step was waited for. A sequence's rows are contiguous and in order of
 * position; its last row sits at kv_len-1. */
typedef struct weir_batch {
  int32_t n_tokens, n_seqs, n_out, n_copies;
  const int32_t *token;        /* [n_tokens] */
  const int32_t *pos;          /* [n_tokens] absolute positions */
  const int32_t *q_indptr;     /* [n_seqs+1] rows of each sequence */
  const int32_t *kv_len;       /* [n_seqs] tokens in KV after this step */
  const int32_t *page_indptr;  /* [n_seqs+1] */
  const int32_t *page;         /* [page_indptr[n_seqs]] */
  const int32_t *out_row;      /* [n_out] which of the n_tokens rows are wanted, ascending */
  const weir_ask *ask;         /* [n_out] */
  const int32_t *copy_src_dst; /* [2*n_copies] KV pages copied before the forward */
} weir_batch;

typedef struct weir_result {
  weir_row *row;     /* [n_out], memory of the caller */
  weir_top *top;     /* [n_out][WEIR_TOP_MAX], likewise, in descending order of log-probability; row i has the
                        ask's n_top of them. NULL when no ask wants any */
  int64_t device_ns; /* time the step took on its device */
  weir_status status;
  weir_err err; /* when status is not WEIR_OK; the life in which the step was taken is then over */
} weir_result;

typedef struct weir_exec_info {
  const char *name;             /* for messages: "large (pair-large, Q8_0)"; lives as long as the executor */
  int32_t n_vocab;              /* ids the model's head gives, padding included */
  int32_t n_ctx;                /* positions [0, n_ctx) may be fed */
  int32_t n_pages;              /* KV pages of 16 tokens */
  int32_t max_tokens, max_seqs; /* of one batch */
  int64_t weight_bytes;         /* read once per step */
  int64_t kv_bytes_per_token;
  int64_t flops_per_token; /* of one row, attention and head left out */
  bool gate_head;          /* rows carry a score of its gate head, weir_row.gate */
  /* Of one row: for each position it looks at, in layers that see all and in those that see the last `window`
   * of them; of the head, where an answer is wanted. */
  int64_t attn_flops, attn_flops_window, head_flops;
  int32_t window; /* 0: no layer has one */
} weir_exec_info;

typedef struct weir_exec weir_exec;
typedef struct weir_exec_ops {
  /* Takes the batch; never blocks. One step may be under way. A batch that breaks the contract (ids,
   * positions, pages, order, limits) is WEIR_EINVAL here and nothing was started. */
  weir_status (*submit)(weir_exec *, const weir_batch *, weir_result *, weir_err *);
  /* Returns when the submitted step is done, with *done its result; the step's own failure is in it. An
   * executor without a thread of its own does the work here. */
  weir_status (*wait)(weir_exec *, weir_result **done, weir_err *);
  void (*destroy)(weir_exec *);
} weir_exec_ops;

/* What an executor with a thread of its own can do besides: several of them can be waited for at once. */
typedef struct weir_exec_async {
  /* Whether wait would return at once: the step under way is done, or there is none. Never blocks. */
  bool (*ready)(weir_exec *);
  /* From now on fn(ctx) is called, by the executor's thread, each time a step is done. It must not call the
   * executor. NULL: no more; not called any more once this has returned. */
  void (*notify)(weir_exec *, void (*fn)(void *ctx), void *ctx);
} weir_exec_async;

/* What an executor can do that may die and come back: one whose ranks are processes. */
typedef struct weir_exec_life {
  /* 0: it is dead, and *why (may be NULL) says of what; steps are refused with WEIR_EDEVICE. Else the number
   * of its life, counted from 1: with each new one KV is empty, and page numbers of before mean nothing. A
   * step that fails ends the life it was taken in: when `wait` has returned such a one, the number is 0 or a
   * new one. A change is told through async->notify. Never blocks. */
  uint64_t (*number)(weir_exec *, weir_err *why);
} weir_exec_life;

struct weir_exec {
  const weir_exec_ops *ops;
  weir_exec_info info;
  const weir_exec_async *async; /* NULL: submit takes the batch and wait computes it in the caller's thread */
  const weir_exec_life *life;   /* NULL: it lives until a step fails, and is dead from then on */
};

/* Checks a batch against the contract and the limits of `info`; names the first thing that is wrong.
 * Executors call it in submit. */
weir_status weir_batch_check(const weir_batch *, const weir_exec_info *, weir_err *e);

#endif
