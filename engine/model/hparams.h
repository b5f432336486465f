/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers that shape a model, read from a file's metadata and checked against each other. Families differ
 * in a dozen switches; the forward pass looks at these and never at a family's name. */
#ifndef WEIR_MODEL_HPARAMS_H
#define WEIR_MODEL_HPARAMS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/device.h"
#include "model/mfile.h"
#include "model/rope.h"

typedef enum {
  WEIR_ARCH_LLAMA, /* Llama 2 and 3, Mistral, Mixtral, SmolLM */
  WEIR_ARCH_QWEN2,
  WEIR_ARCH_QWEN3,
  WEIR_ARCH_QWEN3MOE,
  WEIR_ARCH_GEMMA2,
  WEIR_ARCH_GEMMA3,
  WEIR_ARCH_PHI3
} weir_arch;

/* Bounds on what a file may ask for; the largest published models stay well inside. */
enum {
  WEIR_MAX_LAYERS = 1024,
  WEIR_MAX_DIM = 1 << 17,
  WEIR_MAX_HEADS = 1024,
  WEIR_MAX_HEAD_DIM = 512,
  WEIR_MAX_FF = 1 << 20,
  WEIR_MAX_CONTEXT = 1 << 24,
  WEIR_MAX_VOCAB = 1 << 22,
  WEIR_MAX_EXPERTS = 1024
};

typedef struct weir_hparams {
  weir_arch arch;
  char name[128]; /* general.name as printable text, else the architecture */
  int32_t n_layers, dim, n_heads, n_kv_heads, head_dim, n_ff, n_ctx;
  int32_t n_vocab; /* rows of the embedding; the tokenizer may list fewer (a padded tail) */
  float norm_eps;
  bool tied_head; /* no head of its own: the embedding is the head */

  /* position */
  int32_t rope_dims;     /* even, <= head_dim */
  bool rope_interleaved; /* as the file's q and k rows are stored: GGUF's llama yes, all others no */
  weir_rope rope;
  weir_rope rope_local; /* of windowed layers; the same as rope but for Gemma 3 */

  /* attention */
  int32_t window;                    /* of windowed layers; 0: no layer is */
  uint8_t windowed[WEIR_MAX_LAYERS]; /* [n_layers] 1: this layer sees `window` positions only */
  float attn_scale;                  /* of q.k: 1/sqrt(head_dim) but for some Gemmas */
  float attn_softcap;                /* 0: off (Gemma 2) */
  bool qk_norm;                      /* RMSNorm of each head of q and k (Qwen3, Gemma 3) */

  /* around the layers */
  weir_act act;
  float embed_scale;   /* 1 but for Gemma: sqrt(dim) */
  float final_softcap; /* of the logits; 0: off (Gemma 2) */
  bool post_norms;     /* attention's and the MLP's outputs are normed before they are added (Gemma) */
  bool norm_plus_one;  /* stored norm weights lack their 1 (Gemma as Hugging Face stores it) */

  /* mixture of experts; n_experts 0: a plain MLP */
  int32_t n_experts, n_experts_used, expert_ff;
  bool expert_renorm; /* probabilities of the chosen sum to 1 */
} weir_hparams;

/* Refuses an unknown architecture by name with the list of known ones, and by name whatever would change the
 * arithmetic and is not done. */
weir_status weir_hparams_read(const weir_mfile *, weir_hparams *out, weir_err *e);
/* The two sources. */
weir_status weir_hparams_from_gguf(const weir_gguf *, weir_hparams *out, weir_err *e);
weir_status weir_hparams_from_hf(const weir_hf *, weir_hparams *out, weir_err *e);
/* GGUF's name of it: "llama", "gemma2". */
const char *weir_arch_name(weir_arch);

#endif
