/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files that read hyper-parameters from GGUF's keys: names of keys, ranges, RoPE. */
#ifndef WEIR_MODEL_HPARAMS_GGUF_IN_H
#define WEIR_MODEL_HPARAMS_GGUF_IN_H
#include "model/gguf.h"
#include "model/hparams.h"

enum { WEIR_HPARAMS_KEY_BYTES = 96, WEIR_HPARAMS_REQUIRED = -1 };

/* A file and the prefix of its keys: general.architecture. */
typedef struct weir_hparams_src {
  const weir_gguf *gguf;
  const char *arch;
} weir_hparams_src;

/* "llama.block_count" for "block_count". Returns buf. */
const char *weir_hparams_key(const weir_hparams_src *, const char *suffix, char buf[WEIR_HPARAMS_KEY_BYTES]);
/* An integer of [lo, hi]; `def` WEIR_HPARAMS_REQUIRED: the key must be there. */
weir_status weir_hparams_int(const weir_hparams_src *, const char *suffix, int64_t def, int64_t lo,
                             int64_t hi, int32_t *out, weir_err *e);
weir_status weir_hparams_float(const weir_hparams_src *, const char *suffix, float def, float *out,
                               weir_err *e);

/* h->rope and h->rope_local from keys and tensors; needs n_ctx, rope_dims and arch. */
weir_status weir_hparams_rope(const weir_hparams_src *, weir_hparams *h, weir_err *e);

#endif
