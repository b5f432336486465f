/* SPDX-License-Identifier: Apache-2.0 */
/* The device contract: some dozen coarse operations, cut where kernels can be fused, over which the
 * forward pass is written once. Every operation only enqueues; results are there after weir_dev_sync (the CPU
 * device works at once, callers must not rely on it). Shapes are checked here, once for all devices: a
 * weir_op_* call with a wrong shape is an error that names it, and never reaches the device.
 *
 * A device may be shared by several models (both tiers on one CPU share one thread team); it is owned by one
 * thread at a time. */
#ifndef WEIR_KERNELS_DEVICE_H
#define WEIR_KERNELS_DEVICE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/dtype.h"
#include "kernels/row.h"

typedef struct weir_dev weir_dev;

/* Device-resident activations, F32: element (r, c) at data[r*ld + c], ld in elements. */
typedef struct weir_mat {
  float *data;
  int32_t rows, cols, ld;
} weir_mat;

/* A stored matrix in host memory, row-major, rows of weir_dtype_row_bytes(dtype, cols) bytes each; one output
 * of a linear a row. Borrowed for the call. */
typedef struct weir_host_mat {
  const void *data;
  weir_dtype dtype;
  int32_t rows, cols;
} weir_host_mat;

/* Weights in the device's own layout. Opaque; owned by whoever called weir_weight_prepare. */
typedef struct weir_weight {
  weir_dev *dev;
  int32_t rows, cols; /* y[n, rows] = x[n, cols] * W^T */
  size_t bytes;       /* device memory held */
  void *impl;
} weir_weight;

/* The shape of one ragged batch: sequences of any number of rows each, decode rows and chunks alike.
 * All arrays are device-resident (weir_dev_upload), filled once per step. */
typedef struct weir_ragged {
  int32_t n_tokens, n_seqs;
  const int32_t *pos; /* [n_tokens] absolute position of each row */
  const int32_t *seq; /* [n_tokens] which sequence the row belongs to */
  const int32_t
      *q_indptr;         /* [n_seqs+1] rows of sequence s: q_indptr[s] .. q_indptr[s+1], ascending positions;
                            attend also takes a subset of a step's rows, with gaps, or none of a sequence */
  const int32_t *kv_len; /* [n_seqs] tokens of s in KV after this step; every pos of s is below it */
  const int32_t *page_indptr;    /* [n_seqs+1] */
  const int32_t *page;           /* [page_indptr[n_seqs]] physical pages in order of position */
  int32_t max_q_len, max_kv_len; /* over the sequences */
  const int32_t
      *host_q_indptr;         /* q_indptr and kv_len once more, in host memory: attention's work is planned */
  const int32_t *host_kv_len; /* from them. Only weir_op_attend_plan reads these */
  void *plan;                 /* what weir_op_attend_plan has made; NULL on devices that plan nothing */
} weir_ragged;

/* KV bytes of one layer: [n_pages, 2, n_kv_heads] heads of weir_kv_head_bytes each, K then V. A head's part
 * of a page is [page_size, head_dim] in F16 or F32. In Q8_0 it is that in signed bytes, followed by the
 * scales in F16, [head_dim/32, page_size]: of the blocks 0 of all its positions, then of the blocks 1, and so
 * on; so that bytes lie as a matrix and scales beside their neighbours in position. An element is its byte
 * times the scale, which is max|x|/127 over its block of 32 along head_dim; a block that held a NaN, an
 * infinity or more than a half can scale has NaN for a scale. */
typedef struct weir_kv_layer {
  void *base;
  weir_dtype dtype; /* WEIR_F16 or WEIR_F32, or WEIR_Q8_0 with head_dim a multiple of 32 */
  int32_t n_pages, n_kv_heads, page_size, head_dim;
} weir_kv_layer;

/* Bytes of K, or of V, of one head in one page; dtype and head_dim go together. */
static inline size_t weir_kv_head_bytes(const weir_kv_layer *kv) {
  const size_t n = (size_t)kv->page_size * (size_t)kv->head_dim;
  if (kv->dtype == WEIR_Q8_0) return n + n / 32 * 2;
  return n * (kv->dtype == WEIR_F16 ? 2 : 4);
}

/* Rotation of q and k by position, then append of k and v to the paged KV.
 * qkv is [n_tokens, (n_heads + 2*n_kv_heads) * head_dim]; q and k are normed and rotated in place. */
typedef struct weir_rope_args {
  weir_mat qkv;
  weir_mat
      angles; /* [n_tokens, rope_dims], from weir_op_rope_angles: cos in the first half, sin in the second */
  int32_t n_heads;
  int32_t rope_dims;   /* even, <= head_dim; the rest passes unrotated; 0: no rotation, angles unused */
  bool interleaved;    /* pairs (2i, 2i+1), as llama GGUF files store q and k; else (i, i + rope_dims/2) */
  const float *q_norm; /* [head_dim] device-resident RMSNorm weight applied per head before rotation (Qwen3),
                          or NULL */
  const float *k_norm;
  float norm_eps;
  weir_kv_layer kv;
} weir_rope_args;

/* How scores become weights. */
typedef struct weir_attend_args {
  float scale;    /* scores are q.k * scale */
  int32_t window; /* a row sees itself and the window - 1 positions before it; 0: all before it */
  float softcap;  /* > 0: a score s becomes softcap * tanh(s / softcap) (Gemma 2, arXiv 2408.00118); 0: off */
} weir_attend_args;

/* The gate of a gated MLP. */
typedef enum {
  WEIR_ACT_SILU,     /* x / (1 + e^-x) */
  WEIR_ACT_GELU_TANH /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), arXiv 1606.08415 */
} weir_act;

/* Mixture of experts: y[n, dim] = the sum, over the n_used experts e of the highest router logits (of equal
 * ones the lower index), of p_e * down_e(act(gate) * up) with gate | up = gate_up_e(x). p is the softmax of
 * the router's logits over all experts. */
typedef struct weir_moe_args {
  weir_mat x;                 /* [n, dim] */
  weir_mat logits;            /* [n, n_experts], the router's */
  const weir_weight *gate_up; /* [n_experts] of [2*ff, dim] */
  const weir_weight *down;    /* [n_experts] of [dim, ff] */
  int32_t n_experts, n_used;
  bool renormalise; /* p_e is divided by the sum of p over the chosen */
  weir_act act;
} weir_moe_args;

/* Rows of a table of token vectors. The table may be a shard, the ids [first, first + its rows) of a
 * vocabulary of n_vocab: ids of other shards give rows of -0, which added to anything leave its bits alone,
 * so that the sum over the shards is the row of the whole table. */
typedef struct weir_embed_args {
  const weir_weight *table; /* of a shard that has no ids: NULL, or a zeroed one */
  const int32_t *token;     /* [y.rows] device-resident ids */
  float scale;              /* of the rows (Gemma: sqrt(dim)); 1 leaves the bits alone */
  int32_t first;            /* id of the table's row 0; 0 when it is the whole */
  int32_t n_vocab;          /* 0: the table is the whole */
} weir_embed_args;

/* This rank's part of a vocabulary that lies in shards, one a rank, ascending with the rank and without gaps;
 * each but the last that has any is whole chunks of WEIR_SAMPLE_CHUNK ids, and a rank may have none. All
 * ranks make the same calls with the same asks, number of rows and n_valid; the logits are each rank's own
 * columns, from id `first` on. All get the same answers, those of the vocabulary in one piece to the bit, or
 * all the same error: whether a rank comes to an exchange depends on nothing but what all know. */
typedef struct weir_vocab_shard {
  int32_t rank, n_ranks; /* n_ranks at most the limits' max_ranks */
  int32_t first;         /* id of column 0, a multiple of WEIR_SAMPLE_CHUNK; anything where there is none */
  int32_t max_chunks;    /* of any rank; the same on all */
  /* out[n_ranks][bytes] <- each rank's in[bytes], which is out's own part; memory of this device. A device
   * that enqueues wants it enqueued behind its other work (CUDA: on its stream). */
  weir_status (*all_gather)(void *ctx, void *out, const void *in, size_t bytes, weir_err *);
  void *ctx;
} weir_vocab_shard;

/* Bounds within which the next steps stay; the device sizes its scratch by them once. */
typedef struct weir_dev_limits {
  int32_t max_tokens; /* rows of a step */
  int32_t max_cols;   /* widest input of a linear */
  int32_t max_heads;  /* query heads */
  int32_t max_head_dim;
  int32_t max_kv_len;    /* longest context */
  int32_t max_rows_out;  /* rows of one sample call */
  int32_t max_vocab;     /* of the whole, where it lies in shards */
  int32_t max_experts;   /* of a mixture; 0: none will come */
  int32_t max_expert_ff; /* width inside an expert: input of its down */
  int32_t max_ranks;     /* of a vocabulary in shards, up to 1024; 0: it lies in one piece */
} weir_dev_limits;

/* Ranks of a group that are devices of one GPU exchange through its memory (comm/comm_local.h): each has a
 * part, and tells in it how far it has come. */
enum {
  WEIR_PEER_RANKS = 8,
  WEIR_PEER_BLOCKS = 16,         /* thread blocks of an exchange, at most */
  WEIR_PEER_SLICE_BYTES = 32768, /* of a block, twice: */
  WEIR_PEER_STAMP_BYTES = 128,   /* before them, how far each block has come, on lines of their own */
  WEIR_PEER_PART_BYTES = WEIR_PEER_BLOCKS * (WEIR_PEER_STAMP_BYTES + 2 * WEIR_PEER_SLICE_BYTES)
};
typedef struct weir_peers {
  int32_t rank, n_ranks;
  void *part[WEIR_PEER_RANKS]; /* [WEIR_PEER_PART_BYTES] device memory each, zeros when the group begins */
  uint32_t *stop;              /* weir_dev_map_host: 0 while the group is well; weir_peer_stop says else */
  int64_t bound_ns;            /* how long a rank waits for another */
} weir_peers;
typedef enum {
  WEIR_PEER_REDUCE,   /* out = in of [bytes/4] floats: the sum over the ranks in order of rank */
  WEIR_PEER_GATHER,   /* out[n_ranks][bytes] */
  WEIR_PEER_BROADCAST /* out[bytes], at the root too, where in = out */
} weir_peer_what;
typedef struct weir_exchange {
  weir_peer_what what;
  void *out;
  const void *in;
  size_t bytes;
  int32_t root;
} weir_exchange;
/* The stop word of a group that is over. */
enum { WEIR_PEER_ABORTED = 1, WEIR_PEER_LATE = 1 << 16 /* | who waited << 8 | for whom */ };

/* Somebody whose work on the device may wait for other ranks, such as a communicator. Called by the thread
 * that owns the device; each may be NULL. */
typedef struct weir_dev_watch {
  void (*begin)(void *ctx); /* the device is about to be waited for */
  /* It has been; `st` is what came of it. Returns that, or an error of its own. */
  weir_status (*end)(void *ctx, weir_status st, weir_err *e);
  /* A record with exchanges (weir_op_exchange) in it has been made, or not (*ok), and is about to be played
   * for the first time. When it clears *ok the record is not used and the step is enqueued as it is. */
  weir_status (*made)(void *ctx, bool *ok, weir_err *e);
  void *ctx;
} weir_dev_watch;

/* What is enqueued between two waits; weir_dev_replay. */
typedef weir_status (*weir_enqueue_fn)(void *ctx, weir_err *);

/* The table a device fills. Slots are required but where it says otherwise. Arguments have passed the checks
 * of device.c. */
typedef struct weir_dev_ops {
  const char *name; /* "cpu", "cuda" */
  void (*destroy)(weir_dev *);
  weir_status (*alloc)(weir_dev *, size_t bytes, void **out, weir_err *); /* zeroed, 64-byte aligned */
  void (*release)(weir_dev *, void *);
  weir_status (*upload)(weir_dev *, void *dst, const void *src, size_t bytes, weir_err *);
  weir_status (*download)(weir_dev *, void *dst, const void *src, size_t bytes, weir_err *);
  weir_status (*sync)(weir_dev *, weir_err *);
  weir_status (*reserve)(weir_dev *, const weir_dev_limits *, weir_err *); /* grows, never shrinks */
  weir_status (*weight_prepare)(weir_dev *, const weir_host_mat *part, int32_t n_parts, weir_weight *,
                                weir_err *);
  void (*weight_release)(weir_dev *, weir_weight *);
  weir_status (*embed)(weir_dev *, weir_mat y, const weir_embed_args *, weir_err *);
  weir_status (*add_rmsnorm)(weir_dev *, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                             float eps, weir_err *);
  weir_status (*linear)(weir_dev *, weir_mat y, weir_mat x, const weir_weight *, const float *bias,
                        weir_err *);
  weir_status (*rope_angles)(weir_dev *, weir_mat angles, const weir_ragged *, const float *inv_freq,
                             float mscale, weir_err *);
  weir_status (*rope_append)(weir_dev *, const weir_rope_args *, const weir_ragged *, weir_err *);
  weir_status (*attend)(weir_dev *, weir_mat out, weir_mat q, const weir_ragged *, weir_kv_layer,
                        const weir_attend_args *, weir_err *);
  weir_status (*glu)(weir_dev *, weir_mat y, weir_mat gate_up, weir_act, weir_err *);
  weir_status (*moe)(weir_dev *, weir_mat y, const weir_moe_args *, weir_err *);
  weir_status (*softcap)(weir_dev *, weir_mat x, float cap, weir_err *);
  weir_status (*gather_rows)(weir_dev *, weir_mat y, weir_mat x, const int32_t *row, weir_err *);
  weir_status (*sample)(weir_dev *, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                        const weir_ask *ask, const weir_vocab_shard *, weir_err *);
  weir_status (*kv_copy)(weir_dev *, weir_kv_layer, const int32_t *src_dst, int32_t n_pairs, weir_err *);
  /* Optional, NULL where there is nothing to it. */
  weir_status (*attend_plan)(weir_dev *, weir_ragged *, int32_t slot, int32_t n_heads, weir_kv_layer,
                             weir_err *);
  weir_status (*replay)(weir_dev *, uint64_t key, weir_enqueue_fn, void *ctx, weir_err *);
  void (*forget)(weir_dev *, uint32_t owner); /* records of keys with this owner */
  weir_status (*memory)(weir_dev *, size_t *free_bytes, size_t *total_bytes, weir_err *);
  void *(*stream)(weir_dev *);
  weir_status (*map_host)(weir_dev *, size_t bytes, void **out, weir_err *);
  void (*unmap_host)(weir_dev *, void *);
  weir_status (*reduce_peers)(weir_dev *, const weir_peers *, const weir_exchange *, weir_err *);
  bool kv_q8_0; /* keeps KV in Q8_0 too, not only in F16 and F32 */
} weir_dev_ops;

struct weir_dev {
  const weir_dev_ops *ops;
  weir_dev_limits limits; /* what was reserved so far */
  char desc[128];         /* for people: "NVIDIA H200, 132 SMs, sm_90" */
  uint32_t last_owner;    /* of weir_dev_new_owner */
  int32_t gpu;            /* which, counted from 1; 0: no GPU */
  weir_dev_watch watch;   /* weir_dev_set_watch */
  void *impl;
};

/* ---- memory ---- */
void weir_dev_destroy(weir_dev *); /* NULL is fine; all weights and memory of it must be released before */
weir_status weir_dev_alloc(weir_dev *, size_t bytes, void **out, weir_err *);
void weir_dev_release(weir_dev *, void *);
weir_status weir_dev_upload(weir_dev *, void *dst, const void *src, size_t bytes, weir_err *);
weir_status weir_dev_download(weir_dev *, void *dst, const void *src, size_t bytes, weir_err *);
weir_status weir_dev_sync(weir_dev *, weir_err *);
/* Must be called before the first operation; a call within earlier limits costs nothing. */
weir_status weir_dev_reserve(weir_dev *, const weir_dev_limits *, weir_err *);

/* Device memory that is free and in all; WEIR_EUNSUP on devices whose memory is the machine's. */
weir_status weir_dev_memory(weir_dev *, size_t *free_bytes, size_t *total_bytes, weir_err *);

/* One at a time; NULL: none. */
void weir_dev_set_watch(weir_dev *, const weir_dev_watch *);
/* The stream on which everything is enqueued, for libraries that enqueue beside it: a cudaStream_t. NULL on
 * devices that work at once. */
void *weir_dev_stream(weir_dev *);
/* Host memory, zeroed, that the device's kernels read and write at the same address. */
weir_status weir_dev_map_host(weir_dev *, size_t bytes, void **out, weir_err *);
void weir_dev_unmap_host(weir_dev *, void *);

/* Whether the device keeps KV of this type for heads of head_dim; the error says what it wants. */
weir_status weir_dev_check_kv(const weir_dev *, weir_dtype, int32_t head_dim, weir_err *);

/* ---- records of what is enqueued ---- */
/* Runs enqueue(ctx), which calls operations and nothing that goes between host and device: no upload,
 * download, sync, sample or kv_copy. A device may keep a record of what was enqueued under `key` and play it
 * again instead of calling enqueue when that key comes again (CUDA graphs), so for one key it must enqueue
 * the same operations on the same addresses and sizes each time; what the addresses hold may change. */
weir_status weir_dev_replay(weir_dev *, uint64_t key, weir_enqueue_fn enqueue, void *ctx, weir_err *);
/* Keys are weir_replay_key(owner, shape), the owner one of weir_dev_new_owner. Whoever releases memory that
 * records refer to forgets them first. */
uint32_t weir_dev_new_owner(weir_dev *);
static inline uint64_t weir_replay_key(uint32_t owner, uint32_t shape) {
  return (uint64_t)owner << 32 | shape;
}
void weir_dev_forget(weir_dev *, uint32_t owner);

/* Concatenates the parts by rows (each may have its own dtype; all have the same cols) and repacks them for
 * this device. `out` is released by weir_weight_release. */
weir_status weir_weight_prepare(weir_dev *, const weir_host_mat *part, int32_t n_parts, weir_weight *out,
                                weir_err *);
void weir_weight_release(weir_weight *); /* zeroes it; a zeroed one is fine */

/* ---- operations; n = rows of the step ---- */
/* y[n, cols] <- rows token[n] of the table, as F32, times scale. An id outside of the whole vocabulary: an
 * error on the CPU; CUDA leaves that row of y unwritten, or, when the table is a shard, makes it -0. */
weir_status weir_op_embed(weir_dev *, weir_mat y, const weir_embed_args *, weir_err *);
/* resid += delta (skipped when delta.data is NULL), then y = resid / rms(resid) * w, w[cols] device-resident.
 * y may be resid: so an output is normed by itself before it is added (Gemma 2). */
weir_status weir_op_add_rmsnorm(weir_dev *, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                                float eps, weir_err *);
/* y[n, W.rows] = x[n, W.cols] W^T + bias[W.rows] (NULL: none). On the CPU each y element's order of reduction
 * depends on cols, dtype and instruction set only, never on n, threads or the position of the row, and
 * quantised weights quantise x by blocks of 32 to 8 bits. On CUDA x is F16, BF16 or F32 by path, and bits do
 * not depend on n within a path (docs/gpu.md has the paths and their bounds). */
weir_status weir_op_linear(weir_dev *, weir_mat y, weir_mat x, const weir_weight *, const float *bias,
                           weir_err *);
/* angles[i][j] = mscale * cos(pos_i * inv_freq[j]), angles[i][d/2 + j] = mscale * sin(...), j < d/2,
 * d = angles.cols. mscale is YaRN's attention factor (arXiv 2309.00071); 1 leaves the bits alone. */
weir_status weir_op_rope_angles(weir_dev *, weir_mat angles, const weir_ragged *, const float *inv_freq,
                                float mscale, weir_err *);
weir_status weir_op_rope_append(weir_dev *, const weir_rope_args *, const weir_ragged *, weir_err *);
/* Causal attention of q[n, n_heads*head_dim] over paged KV (grouped: n_heads a multiple of n_kv_heads): row i
 * of sequence s sees positions 0 .. pos[i], or the last `window` of them. Rows of a sequence ascend in
 * position. Online softmax over fixed spans of positions in order, so the result depends on neither chunks,
 * pages nor threads, and a window that reaches back to position 0 changes no bit. Pages that lie wholly
 * before the windows of all rows of their sequence are not looked at, nor their numbers. On CUDA splits
 * follow the plan, so bits depend on the batch (bounds: docs/gpu.md), and a NaN or infinity in V may reach
 * earlier rows of its sequence. */
weir_status weir_op_attend(weir_dev *, weir_mat out, weir_mat q, const weir_ragged *, weir_kv_layer,
                           const weir_attend_args *, weir_err *);
/* Cuts the work of all attends over `r` in this step, on the host, from host_q_indptr and host_kv_len, and
 * brings it to the device: r->plan is set. Called once a step for each batch that is attended over, before
 * the first attend; `slot` (0 .. WEIR_PLAN_SLOTS-1) says which of the device's places the plan takes: the
 * next plan there overwrites it, and a record replayed finds it at the same address. `kv` is any layer of the
 * model. */
enum { WEIR_PLAN_SLOTS = 2 };
weir_status weir_op_attend_plan(weir_dev *, weir_ragged *r, int32_t slot, int32_t n_heads, weir_kv_layer kv,
                                weir_err *);
/* y[n, f] = act(gate) * up with gate_up[n, 2f] = gate | up. */
weir_status weir_op_glu(weir_dev *, weir_mat y, weir_mat gate_up, weir_act, weir_err *);
/* The experts' part of a layer; y[n, dim] shares no memory with what it reads. A row's result depends on
 * nothing but the row, as in linear; the experts' parts are added by ascending index. */
weir_status weir_op_moe(weir_dev *, weir_mat y, const weir_moe_args *, weir_err *);
/* x <- cap * tanh(x / cap), cap > 0 (Gemma 2's logits). */
weir_status weir_op_softcap(weir_dev *, weir_mat x, float cap, weir_err *);
/* y[i] = x[row[i]], row[y.rows] device-resident. */
weir_status weir_op_gather_rows(weir_dev *, weir_mat y, weir_mat x, const int32_t *row, weir_err *);
/* rows[i] answers ask[i] about logits[i, 0..n_valid); rows and ask (logits.rows of each), with the edits, are
 * host arrays borrowed until weir_dev_sync, and so is top[logits.rows][WEIR_TOP_MAX], which may be NULL when
 * no ask wants any. Of top[i] only the first ask[i].n_top are written; where a row has fewer ids above -inf
 * the rest get id -1 and -inf. Edits of ids from n_valid on, the padding, change nothing. Without a shard
 * (NULL) the logits are of the whole vocabulary, at least n_valid columns. */
weir_status weir_op_sample(weir_dev *, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                           const weir_ask *ask, const weir_vocab_shard *, weir_err *);
/* Copies whole pages (all heads, K and V) of a layer: src_dst[2*n_pairs], host array. */
weir_status weir_op_kv_copy(weir_dev *, weir_kv_layer, const int32_t *src_dst, int32_t n_pairs, weir_err *);

/* ---- ranks on one GPU ---- */
/* WEIR_EUNSUP where the device cannot exchange with n_ranks of its kind; the error says why. */
weir_status weir_dev_check_peers(const weir_dev *, int32_t n_ranks, weir_err *e);
/* One exchange: every rank's device enqueues the same ones in the same order, and each waits on the GPU for
 * the others, so all of them must get to enqueue theirs without anybody waiting for the GPU in between. May
 * be recorded. Everybody gets the same bits. A rank that waits longer than the bound sets the stop word,
 * which ends the waiting of all; what was exchanged then is undefined. */
weir_status weir_op_exchange(weir_dev *, const weir_peers *, const weir_exchange *, weir_err *e);

#endif
