/* SPDX-License-Identifier: Apache-2.0 */
/* How well models foretell a text: the mean of -log p over its tokens, each given those before it in a
 * window. Rows come from the executor, as everywhere; this only feeds windows and sums. One thread. */
#ifndef WEIR_PROGRAMS_PERPLEXITY_H
#define WEIR_PROGRAMS_PERPLEXITY_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/policy.h"
#include "model/tokenizer.h"
#include "step/step.h"

typedef struct weir_ppl_opts {
  int32_t n_ctx; /* tokens of a window; at least 4, at most what every executor has */
  int32_t
      stride; /* 0: chunks one behind the other of which the second half is scored, each with the
                 begin-of-text token in the place of its first (where the model adds one): what llama.cpp's
                 llama-perplexity does. Else: windows `stride` apart, each scoring the tokens no earlier
                 one held (transformers, "Perplexity of fixed-length models"); 1 <= stride <= n_ctx */
  float tau;  /* of the entropy gate, nats; for the figures of the cascade */
  /* After each group of windows: windows done, and the perplexity so far of each tier. May be NULL; returns
   * false to stop, which is WEIR_ECANCEL. */
  bool (*progress)(void *ctx, int64_t done, int64_t total, const double *ppl);
  void *progress_ctx;
} weir_ppl_opts;

/* One model over all scored tokens. */
typedef struct weir_ppl_tier {
  double nll;           /* mean of -log p, nats a token */
  double nll_error;     /* its standard error */
  double ppl;           /* exp(nll) */
  double ppl_error;     /* ppl * nll_error */
  double bits_per_byte; /* NaN when the scored tokens have no bytes */
  double accuracy;      /* share of tokens that were the likeliest */
  double entropy;       /* mean, nats */
  double above_tau;     /* share of tokens whose row has more entropy than tau */
  int64_t device_ns;    /* time of its steps */
  int64_t fed;          /* rows of its steps */
} weir_ppl_tier;

/* Two models side by side at the same positions. */
typedef struct weir_ppl_pair {
  double top1;                    /* share of tokens where both have the same likeliest token */
  double top1_below;              /* the same among the tokens the gate lets pass; NaN when there are none */
  double small_better;            /* share of tokens the small model gave the higher probability */
  double nll, ppl, bits_per_byte; /* of the cascade: the large model's where the gate stops the small one */
} weir_ppl_pair;

typedef struct weir_ppl {
  int64_t n_tokens;  /* of the text */
  int64_t n_windows; /* measured */
  int64_t n_scored, n_bytes;
  int32_t n_tiers;
  weir_ppl_tier tier[2]; /* as given: small first */
  weir_ppl_pair pair;    /* when n_tiers is 2 */
} weir_ppl;

/* Measures tier[n_tiers], 1 or 2 with one vocabulary, on a text: tok as weir_encode_prompt gives it, the
 * begin-of-text token first where the model adds one. Pages of the executors are used freely: nothing else
 * may run on them. WEIR_EINVAL when the text is shorter than a window. */
weir_status weir_perplexity(weir_exec *const *tier, int32_t n_tiers, const weir_tokenizer *,
                            const weir_tokens *, const weir_ppl_opts *, weir_ppl *out, weir_err *e);

#endif
