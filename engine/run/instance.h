/* SPDX-License-Identifier: Apache-2.0 */
/* One executable replica of one model on one device, or a rank's part of one: hyper-parameters, weights, KV
 * bytes, workspace. It knows nothing of requests. */
#ifndef WEIR_RUN_INSTANCE_H
#define WEIR_RUN_INSTANCE_H
#include <stdint.h>

#include "base/err.h"
#include "cascade/gate_map.h"
#include "comm/comm.h"
#include "kernels/device.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "run/kvstore.h"
#include "run/shard.h"
#include "run/weights.h"

typedef struct weir_instance_opts {
  int32_t n_ctx;      /* longest sequence, at most the model's own; 0: the model's */
  int32_t n_pages;    /* KV pages; 0: weir_instance_give_pages comes later */
  int32_t max_tokens; /* rows of a step */
  int32_t max_seqs;
  int32_t n_valid; /* ids below this may be drawn: the rest is padding; 0: all */
  weir_dtype kv_dtype;
  const weir_shard *shard;            /* the rank's part of the model; NULL: the whole */
  const weir_load_progress *progress; /* may be NULL */
} weir_instance_opts;

/* One way of turning q and k: its frequencies and this step's angles. */
typedef struct weir_turn {
  float *inv_freq; /* [rope_dims/2]; NULL: there is no such way */
  float mscale;    /* what cos and sin are multiplied by */
  weir_mat angles; /* [max_tokens, rope_dims] */
} weir_turn;

/* Scratch of a step, planned once. n rows each. */
typedef struct weir_workspace {
  weir_mat x, norm, qkv, delta; /* [max_tokens, ...] */
  weir_mat att;                 /* [max_tokens, shard.att.n]: zeros beside the rank's own heads */
  weir_mat gate_up, ff;         /* of a plain MLP */
  weir_mat route;               /* [max_tokens, n_experts]: the router's logits */
  weir_mat raw;                 /* [max_tokens, dim]: a layer's part before its own norm */
  weir_mat last_x, last_q;      /* [max_tokens, ...]: wanted rows in the last layer */
  weir_mat zero_row;            /* [1, dim]: what a rank without a part of the MLP adds */
  int32_t *zero_index;          /* [max_tokens] zeros */
  weir_mat logits;              /* [max_head_rows, shard.max_vocab] */
  int32_t max_head_rows;
  weir_turn turn, turn_local; /* local: of windowed layers where that differs */
  int32_t *ints, *ints_host;  /* step arrays: device and staging copy */
  int32_t max_page_entries;
  size_t n_ints;
  /* The device's own memory of x and of what layers add, while the group's has their place. */
  float *own_x, *own_part;
} weir_workspace;

/* The head that tells how likely a token is to be wrong (cascade/gate_map.h); zeroed where there is none. */
typedef struct weir_instance_gate {
  weir_weight weight;  /* [1, dim] F32 */
  weir_gate_head head; /* without its weights */
  weir_mat dot;        /* [max_tokens, 1]: weight times hidden state, of the wanted rows */
  float *host;         /* [max_tokens], owned */
} weir_instance_gate;

typedef struct weir_instance {
  weir_dev *dev;  /* borrowed */
  uint32_t owner; /* of the device's records of this instance's steps */
  weir_hparams h; /* of the rank's part: weir_shard_hparams */
  weir_shard shard;
  weir_comm *comm; /* borrowed; NULL: the whole model is here */
  weir_weights w;
  weir_kvstore kv;
  weir_workspace ws;
  int32_t n_ctx, n_pages, max_tokens, max_seqs, n_valid;
  weir_dtype kv_dtype;
  weir_instance_gate gate;
} weir_instance;

/* Where weights come from: fills *out with the shard's part of the whole model, complete or, on failure,
 * released. */
typedef weir_status (*weir_weights_fn)(void *ctx, weir_dev *, const weir_hparams *whole, const weir_shard *,
                                       weir_weights *out, weir_err *e);
/* An instance whose weights are not read from a file: measurements make some up. */
weir_status weir_instance_create_from(weir_dev *, weir_weights_fn, void *ctx, const weir_hparams *,
                                      const weir_instance_opts *, weir_instance **out, weir_err *e);

/* Loads a model. The device is borrowed for the instance's life, the file for the call. */
weir_status weir_instance_create(weir_dev *, const weir_mfile *, const weir_hparams *,
                                 const weir_instance_opts *, weir_instance **out, weir_err *e);
/* KV of n_pages pages, for an instance that was made without: how many fit on a device is known when all
 * weights are there. Once, before the first step. */
weir_status weir_instance_give_pages(weir_instance *, int32_t n_pages, weir_err *e);
/* The group that the instance's rank is in, borrowed until another is given (NULL: none), which happens
 * before it is destroyed: between steps, by the thread that owns the device. An instance of several ranks
 * takes no step without one. */
void weir_instance_set_comm(weir_instance *, weir_comm *);
/* What the forward pass asks before a step: whether there is the group that the shard wants. In a new group's
 * first step it takes the group's memory for what is reduced, where the communicator has such. */
weir_status weir_instance_ready(weir_instance *, weir_err *e);
/* From now on rows carry a score of this head, or of none (NULL); between steps. The weights are copied. Of a
 * model in ranks rank 0 gives the rows, and it alone needs the head. */
weir_status weir_instance_set_gate(weir_instance *, const weir_gate_head *, weir_err *e);
void weir_instance_destroy(weir_instance *); /* NULL is fine */

#endif
