/* SPDX-License-Identifier: Apache-2.0 */
/* How a model is cut over the ranks of a tensor-parallel group (Megatron-LM, arXiv 1909.08053): the heads,
 * the MLP's inner dimension and the vocabulary are shared out; q, k, v, gate and up are cut by rows,
 * attention's output and down by columns, so that a layer needs two all-reduces. Shares may differ by one
 * unit, for not every model's numbers divide. Where there are fewer KV heads than ranks, several ranks hold
 * the same KV head. Blocks of quantised weights are never cut: a unit is as wide as the widest block that a
 * cut by columns meets. The vocabulary is cut at multiples of WEIR_SAMPLE_CHUNK, so that sampling from shards
 * gives the bits of sampling from the whole (kernels/sample_core.h); a rank may have none of it. Pure
 * arithmetic. */
#ifndef WEIR_RUN_SHARD_H
#define WEIR_RUN_SHARD_H
#include <stdint.h>

#include "base/err.h"
#include "model/hparams.h"
#include "model/mfile.h"

/* A rank's share: [first, first + n) of each. */
typedef struct weir_share {
  int32_t first, n;
} weir_share;

typedef struct weir_shard {
  int32_t rank, n_ranks;
  weir_share heads, kv_heads; /* of n_heads, n_kv_heads */
  weir_share ff;              /* of n_ff, or of expert_ff: each expert is cut */
  weir_share vocab;           /* of n_vocab; n may be 0 */
  int32_t max_vocab;          /* the largest vocab.n of all ranks */
} weir_shard;

/* The cut for one rank. The file tells the types of the weights. WEIR_EUNSUP when n_ranks is more than can be
 * served, with the reason and the most that can. n_ranks 1 gives the whole. */
weir_status weir_shard_plan(const weir_hparams *, const weir_mfile *, int32_t rank, int32_t n_ranks,
                            weir_shard *out, weir_err *e);
/* The numbers of the rank's part: what forward, KV and workspace work with. n_vocab stays the whole's. */
void weir_shard_hparams(const weir_hparams *whole, const weir_shard *, weir_hparams *out);

#endif
