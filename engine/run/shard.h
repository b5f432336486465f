/* SPDX-License-Identifier: Apache-2.0 */
/* How a model is cut over the ranks of a tensor-parallel group (Megatron-LM, arXiv 1909.08053): the heads,
 * the MLP's inner dimension and the vocabulary are shared out; q, k, v, gate and up are cut by rows,
 * attention's output and down by columns, so that a layer needs two all-reduces. Not every model's numbers
 * divide, so shares differ by a unit where they must:
 *
 *   heads       whole groups of query heads with their KV head; where there are fewer KV heads than ranks, a
 *               rank has one of them and some of its query heads, and several ranks hold the same KV head
 *   the MLP     whole blocks of the widest type among the layers' down weights, of 32 numbers at least where
 *               that divides; a rank may have none when there are more ranks than blocks. Of experts each is
 *               cut, the router is everywhere
 *   vocabulary  multiples of WEIR_SAMPLE_CHUNK, so that sampling from shards gives the bits of sampling from
 *               the whole (kernels/sample_core.h); a rank may have none
 *
 * Blocks of quantised weights are never cut. Where a head ends inside one of attention's output, both
 * neighbours hold the block, and each has zeros for the columns that are the other's.
 *
 * Pure arithmetic. */
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
  weir_share heads, kv_heads; /* of n_heads, n_kv_heads; at least one */
  weir_share att;             /* columns of attention's output: whole blocks around those of the heads */
  weir_share ff;              /* of n_ff, or of expert_ff; n may be 0 */
  weir_share vocab;           /* of n_vocab; n may be 0 */
  int32_t max_vocab;          /* the largest vocab.n of all ranks */
} weir_shard;

/* Elements of the widest blocks that cuts by columns meet; 1 of float types. */
typedef struct weir_shard_blocks {
  int32_t attn_out, down;
} weir_shard_blocks;

/* The cut for one rank. The file tells the types of the weights. WEIR_EUNSUP when n_ranks is more than can be
 * served, with the reason and the most that can. n_ranks 1 gives the whole. */
weir_status weir_shard_plan(const weir_hparams *, const weir_mfile *, int32_t rank, int32_t n_ranks,
                            weir_shard *out, weir_err *e);
/* The same of a model whose types are known. */
weir_status weir_shard_cut(const weir_hparams *, weir_shard_blocks, int32_t rank, int32_t n_ranks,
                           weir_shard *out, weir_err *e);
/* Any rank's part of the vocabulary. */
weir_share weir_shard_vocab(int32_t n_vocab, int32_t rank, int32_t n_ranks);
/* The numbers of the rank's part: what forward, KV and workspace work with. n_vocab stays the whole's. */
void weir_shard_hparams(const weir_hparams *whole, const weir_shard *, weir_hparams *out);

#endif
