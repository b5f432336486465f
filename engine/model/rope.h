/* SPDX-License-Identifier: Apache-2.0 */
/* Frequencies of rotary position embedding, with the published ways of stretching them. */
#ifndef WEIR_MODEL_ROPE_H
#define WEIR_MODEL_ROPE_H
#include <stdint.h>

#include "base/err.h"

enum { WEIR_MAX_ROPE_DIMS = 512 };

typedef enum {
  WEIR_ROPE_PLAIN,   /* theta^(-2i/d) */
  WEIR_ROPE_LINEAR,  /* ... / factor (Chen et al., arXiv 2306.15595) */
  WEIR_ROPE_LLAMA3,  /* long waves / factor, short ones as they are, a ramp between (Llama 3.1) */
  WEIR_ROPE_YARN,    /* NTK by parts with an attention factor (Peng et al., arXiv 2309.00071) */
  WEIR_ROPE_FACTORS, /* ... / factor[i], a table in the file (GGUF's rope_freqs.weight) */
  WEIR_ROPE_LONGROPE /* ... / one of two tables, by the context asked for (Phi-3, arXiv 2402.13753) */
} weir_rope_kind;

typedef struct weir_rope {
  weir_rope_kind kind;
  float theta;
  float factor;               /* LINEAR, LLAMA3, YARN: how far the context is stretched */
  int32_t original_ctx;       /* LLAMA3, YARN, LONGROPE: context before stretching */
  float low_freq, high_freq;  /* LLAMA3: low_freq_factor, high_freq_factor */
  float beta_fast, beta_slow; /* YARN: rotations; 32 and 1 by default */
  float mscale; /* YARN, LONGROPE: what cos and sin are multiplied by; 0: by the method's formula */
  float table[WEIR_MAX_ROPE_DIMS / 2];      /* FACTORS; LONGROPE: the short factors */
  float long_table[WEIR_MAX_ROPE_DIMS / 2]; /* LONGROPE */
} weir_rope;

/* inv_freq[dims/2] and the factor for cos and sin, for a context of n_ctx tokens (LONGROPE chooses by it).
 * WEIR_EINVAL naming the field that makes no sense. */
weir_status weir_rope_frequencies(const weir_rope *, int32_t dims, int32_t n_ctx, float *inv_freq,
                                  float *mscale, weir_err *e);

#endif
