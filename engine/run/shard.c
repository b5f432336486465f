/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic of cutting a model over ranks. Owns nothing; any thread. */
#include "run/shard.h"

#include <stdio.h>

#include "comm/comm.h"
#include "kernels/sample_math.h"

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* A rank's run of n units. What is left over goes to the first ranks or to the last, so that one rank does
 * not get the larger part of everything. */
static weir_share first_more(int64_t n, int32_t rank, int32_t n_ranks) {
  const int64_t from = ceil_div(rank * n, n_ranks), to = ceil_div((rank + 1) * n, n_ranks);
  return (weir_share){(int32_t)from, (int32_t)(to - from)};
}
static weir_share last_more(int64_t n, int32_t rank, int32_t n_ranks) {
  const int64_t from = rank * n / n_ranks, to = (rank + 1) * n / n_ranks;
  return (weir_share){(int32_t)from, (int32_t)(to - from)};
}

static weir_share times(weir_share s, int32_t unit) { return (weir_share){s.first * unit, s.n * unit}; }

/* At least as many KV heads as ranks: whole groups. Else KV heads are shared out among the ranks turned
 * round: each has a run of ranks, which share its query heads. Both are as even as whole heads allow, for
 * one of the ranks has so many groups in the one case, and one of the groups so few ranks in the other. */
static void cut_heads(const weir_hparams *h, weir_shard *s) {
  const int32_t group = h->n_heads / h->n_kv_heads;
  if (s->n_ranks <= h->n_kv_heads) {
    s->kv_heads = first_more(h->n_kv_heads, s->rank, s->n_ranks);
    s->heads = times(s->kv_heads, group);
    return;
  }
  for (int32_t k = 0; k < h->n_kv_heads; k++) {
    const weir_share ranks = last_more(s->n_ranks, k, h->n_kv_heads);
    if (s->rank >= ranks.first + ranks.n) continue;
    s->kv_heads = (weir_share){k, 1};
    s->heads = first_more(group, s->rank - ranks.first, ranks.n);
    s->heads.first += k * group;
    return;
  }
}

static weir_share blocks_around(weir_share cols, int32_t block, int32_t whole) {
  const int32_t first = cols.first / block * block;
  const int64_t end = ceil_div(cols.first + cols.n, block) * block;
  return (weir_share){first, (int32_t)(end < whole ? end : whole) - first};
}

static int32_t ff_of(const weir_hparams *h) { return h->n_experts > 0 ? h->expert_ff : h->n_ff; }

/* Activations are quantised by 32 on the CPU, and GPUs like as much. */
static int32_t ff_unit(int32_t n_ff, int32_t block) {
  int32_t unit = block;
  while (unit < 32 && n_ff % (2 * unit) == 0) unit *= 2;
  return unit;
}

weir_share weir_shard_vocab(int32_t n_vocab, int32_t rank, int32_t n_ranks) {
  const int64_t chunks = ceil_div(n_vocab, WEIR_SAMPLE_CHUNK);
  weir_share s = times(first_more(chunks, rank, n_ranks), WEIR_SAMPLE_CHUNK);
  if (s.first > n_vocab) s.first = n_vocab;
  if (s.n > n_vocab - s.first) s.n = n_vocab - s.first;
  return s;
}

static weir_status check(const weir_hparams *h, weir_shard_blocks b, int32_t rank, int32_t n_ranks,
                         weir_err *e) {
  const int32_t most = h->n_heads < WEIR_MAX_RANKS ? h->n_heads : WEIR_MAX_RANKS, ff = ff_of(h);
  if (n_ranks < 1 || rank < 0 || rank >= n_ranks)
    return weir_fail(e, WEIR_EINVAL, "rank %d of %d", rank, n_ranks);
  if (h->n_heads < 1 || h->n_kv_heads < 1 || h->n_heads % h->n_kv_heads != 0)
    return weir_fail(e, WEIR_EINVAL, "%d heads over %d KV heads", h->n_heads, h->n_kv_heads);
  if (b.attn_out < 1 || b.down < 1)
    return weir_fail(e, WEIR_EINVAL, "blocks of %d and %d", b.attn_out, b.down);
  if (n_ranks > most)
    return weir_fail(e, WEIR_EUNSUP, "%s cannot be cut over %d ranks: %s, at most %d ranks can serve it",
                     h->name, n_ranks,
                     most < h->n_heads ? "a group has no more" : "each rank wants a head of its own", most);
  if (n_ranks > 1 && ff % b.down != 0)
    return weir_fail(e, WEIR_EFORMAT, "an MLP of %d is no whole number of blocks of %d", ff, b.down);
  return WEIR_OK;
}

weir_status weir_shard_cut(const weir_hparams *h, weir_shard_blocks b, int32_t rank, int32_t n_ranks,
                           weir_shard *out, weir_err *e) {
  weir_status st = WEIR_OK;
  *out = (weir_shard){0};
  WEIR_TRY(check(h, b, rank, n_ranks, e));
  *out = (weir_shard){.rank = rank, .n_ranks = n_ranks, .ff = {0, ff_of(h)}};
  cut_heads(h, out);
  out->att = blocks_around(times(out->heads, h->head_dim), b.attn_out, h->n_heads * h->head_dim);
  if (n_ranks > 1) {
    const int32_t unit = ff_unit(out->ff.n, b.down);
    out->ff = times(last_more(out->ff.n / unit, rank, n_ranks), unit);
  }
  out->vocab = weir_shard_vocab(h->n_vocab, rank, n_ranks);
  out->max_vocab = weir_shard_vocab(h->n_vocab, 0, n_ranks).n; /* rank 0 has the most */
out:
  return st;
}

static void widen(int32_t *block, const weir_mfile *file, const char *name) {
  weir_tensor_info t;
  if (!weir_mfile_find(file, name, &t)) return; /* loading says so */
  const int32_t n = weir_dtype_get(t.dtype)->block_elems;
  if (n > *block) *block = n; /* 1, 32 or 256: each a multiple of those below */
}

weir_status weir_shard_plan(const weir_hparams *h, const weir_mfile *file, int32_t rank, int32_t n_ranks,
                            weir_shard *out, weir_err *e) {
  weir_shard_blocks b = {1, 1};
  for (int32_t i = 0; i < h->n_layers && n_ranks > 1; i++) {
    char name[96];
    snprintf(name, sizeof name, "blk.%d.attn_output.weight", i);
    widen(&b.attn_out, file, name);
    snprintf(name, sizeof name, "blk.%d.ffn_down.weight", i);
    if (h->n_experts == 0) widen(&b.down, file, name);
    for (int32_t k = 0; k < h->n_experts; k++) {
      snprintf(name, sizeof name, "blk.%d.ffn_down.%d.weight", i, k);
      widen(&b.down, file, name);
    }
  }
  return weir_shard_cut(h, b, rank, n_ranks, out, e);
}

void weir_shard_hparams(const weir_hparams *whole, const weir_shard *s, weir_hparams *out) {
  *out = *whole;
  out->n_heads = s->heads.n;
  out->n_kv_heads = s->kv_heads.n;
  if (whole->n_experts > 0)
    out->expert_ff = s->ff.n;
  else
    out->n_ff = s->ff.n;
}
