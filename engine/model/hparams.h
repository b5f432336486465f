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
  char name[128]; /* general.name as printable text, else the architecture */
  int32_t n_layers, dim, n_heads, n_kv_heads, head_dim, n_ff, n_ctx;
  int32_t n_vocab;       /* rows of token_embd.weight; the tokenizer may list fewer (a padded tail) */
  int32_t rope_dims;     /* even, <= head_dim */
  bool rope_interleaved; /* as the file's q and k rows are stored: llama yes, qwen no */
  float rope_theta, norm_eps;
  bool qk_norm;   /* Qwen3 */
  bool tied_head; /* no output.weight: the embedding is the head */
} weir_hparams;

/* Bounds on what a file may ask for; the largest published models stay well inside. */
enum {
  WEIR_MAX_LAYERS = 1024,
  WEIR_MAX_DIM = 1 << 17,
  WEIR_MAX_HEADS = 1024,
  WEIR_MAX_HEAD_DIM = 512,
  WEIR_MAX_FF = 1 << 20,
  WEIR_MAX_CONTEXT = 1 << 24,
  WEIR_MAX_VOCAB = 1 << 22
};

/* Refuses an unknown architecture by name with the list of known ones, and RoPE scaling other than none. */
weir_status weir_hparams_read(const weir_gguf *, weir_hparams *out, weir_err *e);
const char *weir_arch_name(weir_arch);

#endif
