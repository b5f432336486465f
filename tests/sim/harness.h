/* SPDX-License-Identifier: Apache-2.0 */
/* Runs jobs through an engine over two fake executors and keeps what came out of each. */
#ifndef WEIR_TESTS_HARNESS_H
#define WEIR_TESTS_HARNESS_H
#include <stdint.h>

#include "base/buf.h"
#include "cascade/cascade_conf.h"
#include "fake_exec.h"
#include "model/tokenizer.h"
#include "serve/engine.h"

enum { MAX_NEW = 64, MAX_PROMPT = 200 };

typedef struct sim_job {
  int32_t prompt[MAX_PROMPT], n_prompt, max_new;
  weir_cascade_cfg cascade;
  weir_ask draw;
  bool pinned, ignore_eos;
  uint64_t salt;
  const char *stop[2];
  int32_t n_stop;
} sim_job;

typedef struct sim_out {
  int32_t tok[MAX_NEW], n;
  weir_token_receipt receipt[MAX_NEW];
  weir_buf text;
  weir_end end;
  weir_counts counts;
  int32_t done; /* times on_done was called */
  weir_err err;
} sim_out;

typedef struct sim {
  fake_law law;
  weir_tokenizer *tokenizer;
  weir_exec *exec[2];
  weir_engine *engine;
  int64_t clock_ns;
} sim;

typedef struct sim_opts {
  int32_t max_tokens, max_seqs, n_pages, large_batch;
  int64_t large_wait_ns;
  int32_t prefix_pages;
  int64_t fail_small_at, fail_large_at; /* < 0: never */
} sim_opts;

/* Generous defaults. */
sim_opts sim_roomy(void);
void sim_open(sim *, const sim_opts *);
void sim_close(sim *);
/* Submits all, steps until idle, at most `max_steps`. */
void sim_run(sim *, const sim_job *job, sim_out *out, int32_t n);
void sim_submit(sim *, const sim_job *, sim_out *, int64_t *id);
void sim_drain(sim *);
void sim_out_fini(sim_out *, int32_t n);

weir_cascade_cfg sim_mode(weir_mode mode, float threshold);
/* Plain autoregressive decoding with one tier per position, straight from the law: `tau` picks the tier as
 * `defer` does. Returns the number of tokens; entropy[] (may be NULL) gets the small tier's at each. */
int32_t sim_reference(const sim *, const sim_job *, float tau, int32_t *tok, float *entropy);

#endif
