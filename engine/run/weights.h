/* SPDX-License-Identifier: Apache-2.0 */
/* A model's weights on a device, found in the file by name and checked against the hyper-parameters. */
#ifndef WEIR_RUN_WEIGHTS_H
#define WEIR_RUN_WEIGHTS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/device.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "run/shard.h"

/* Of a rank's part the numbers are the part's (weir_shard_hparams), but for what stands beside them. Weights
 * of which the rank has nothing are zeroed. */
typedef struct weir_layer {
  float *attn_norm;       /* [dim], device-resident as all vectors here */
  weir_weight qkv;        /* [(n_heads + 2*n_kv_heads) * head_dim, dim] */
  float *qkv_bias;        /* [(n_heads + 2*n_kv_heads) * head_dim] or NULL */
  float *q_norm, *k_norm; /* [head_dim] or NULL */
  weir_weight attn_out;   /* [dim, shard.att.n]: n_heads * head_dim, or whole blocks around that */
  float *attn_post_norm;  /* [dim] or NULL: of what attention adds */
  float *ffn_norm;        /* [dim] */
  float *ffn_post_norm;   /* [dim] or NULL: of what the MLP adds */

  /* a plain MLP, or ... */
  weir_weight gate_up; /* [2 * n_ff, dim] */
  weir_weight down;    /* [dim, n_ff] */
  /* ... experts */
  weir_weight router;          /* [n_experts, dim] */
  weir_weight *expert_gate_up; /* [n_experts] of [2 * expert_ff, dim], owned; NULL: a plain MLP */
  weir_weight *expert_down;    /* [n_experts] of [dim, expert_ff], owned */
} weir_layer;

typedef struct weir_weights {
  weir_dev *dev;
  int32_t n_layers, n_experts;
  weir_layer *layer;    /* [n_layers], owned */
  weir_weight embed;    /* [shard.vocab.n, dim] */
  float *out_norm;      /* [dim] */
  weir_weight head_own; /* [shard.vocab.n, dim]; empty when the embedding is the head */
  const weir_weight *head;
  size_t bytes; /* held on the device */
} weir_weights;

/* Progress of loading: bytes of the file's tensors done so far, of those that belong to the rank. */
typedef struct weir_load_progress {
  void (*report)(void *ctx, int64_t done, int64_t total);
  void *ctx;               /* of both */
  bool (*stop)(void *ctx); /* asked before each tensor: true ends loading with WEIR_ECANCEL. NULL: never */
} weir_load_progress;

/* The rank's part of a model, of which h are the whole's numbers; a shard of NULL: all of it. Only that part
 * of the file is read, but that of vectors all is. Errors name the tensor with the wanted and the found
 * shape. `p` may be NULL. */
weir_status weir_weights_load(weir_dev *, const weir_mfile *, const weir_hparams *h, const weir_shard *,
                              const weir_load_progress *p, weir_weights *out, weir_err *e);
void weir_weights_release(weir_weights *);

#endif
