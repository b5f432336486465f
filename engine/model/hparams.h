/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers that shape a model, read from a file's metadata and checked against each other. */
#ifndef WEIR_MODEL_HPARAMS_H
#define WEIR_MODEL_HPARAMS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

typedef enum { WEIR_ARCH_LLAMA, WEIR_ARCH_QWEN2, WEIR_ARCH_QWEN3 } weir_arch;

typedef struct weir_hparams {
  weir_arch arch;
  char name[128]; /* general.name, else the architecture */
  int32_t n_layers, dim, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx;
  int32_t rope_dims;      /* even, <= head_dim */
  bool rope_interleaved;  /* as the file's q and k rows are stored: llama yes, qwen no */
  float rope_theta, norm_eps;
  bool qk_norm;           /* Qwen3 */
  bool tied_head;         /* no output.weight: the embedding is the head */
} weir_hparams;

/* Refuses an unknown architecture by name with the list of known ones, and RoPE scaling other than none. */
weir_status weir_hparams_read(const weir_gguf *, weir_hparams *out, weir_err *e);
const char *weir_arch_name(weir_arch);

#endif
