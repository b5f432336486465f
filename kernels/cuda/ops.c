/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA device's table: every slot asks first whether the device still lives, then goes to the operation's
 * own file. The thread that owns the device. */
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/graphs.h"

#define OWN(...)                                     \
  do {                                               \
    const weir_status st_ = weir_cuda_enter(dev, e); \
    return st_ != WEIR_OK ? st_ : __VA_ARGS__;       \
  } while (0)
#define CALL(op, ...) OWN(weir_cuda_##op(dev, __VA_ARGS__))

/* ---- memory ---- */

static weir_status op_alloc(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  OWN(weir_cuda_alloc(dev, bytes, out, e));
}
static weir_status op_upload(weir_dev *dev, void *dst, const void *src, size_t bytes, weir_err *e) {
  OWN(weir_cuda_upload(dev, dst, src, bytes, e));
}
static weir_status op_download(weir_dev *dev, void *dst, const void *src, size_t bytes, weir_err *e) {
  OWN(weir_cuda_download(dev, dst, src, bytes, e));
}
static weir_status op_sync(weir_dev *dev, weir_err *e) { OWN(weir_cuda_sync(dev, e)); }
static weir_status op_reserve(weir_dev *dev, const weir_dev_limits *lim, weir_err *e) {
  OWN(weir_cuda_reserve(dev, lim, e));
}
static weir_status op_memory(weir_dev *dev, size_t *free_bytes, size_t *total_bytes, weir_err *e) {
  OWN(weir_cuda_memory(dev, free_bytes, total_bytes, e));
}
static weir_status op_replay(weir_dev *dev, uint64_t key, weir_enqueue_fn enqueue, void *ctx, weir_err *e) {
  OWN(weir_cuda_graphs_replay(dev, key, enqueue, ctx, e));
}
static void op_forget(weir_dev *dev, uint32_t owner) {
  (void)weir_cuda_enter(dev, NULL);
  weir_cuda_graphs_forget(weir_cuda_of(dev)->graphs, owner);
}

static void *op_stream(weir_dev *dev) { return weir_cuda_of(dev)->stream; }
static weir_status op_map_host(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  CALL(map_host, bytes, out, e);
}
static weir_status op_reduce_peers(weir_dev *dev, const weir_peers *p, const weir_exchange *x, weir_err *e) {
  CALL(reduce_peers, p, x, e);
}

/* ---- weights and operations ---- */

static weir_status op_weight_prepare(weir_dev *dev, const weir_host_mat *part, int32_t n_parts,
                                     weir_weight *out, weir_err *e) {
  CALL(weight_prepare, part, n_parts, out, e);
}
static void op_weight_release(weir_dev *dev, weir_weight *w) {
  (void)weir_cuda_enter(dev, NULL); /* a dead device's memory goes too */
  weir_cuda_weight_release(dev, w);
}
static weir_status op_embed(weir_dev *dev, weir_mat y, const weir_embed_args *a, weir_err *e) {
  CALL(embed, y, a, e);
}
static weir_status op_add_rmsnorm(weir_dev *dev, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                                  float eps, weir_err *e) {
  CALL(add_rmsnorm, y, resid, delta, w, eps, e);
}
static weir_status op_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *w, const float *bias,
                             weir_err *e) {
  CALL(linear, y, x, w, bias, e);
}
static weir_status op_rope_angles(weir_dev *dev, weir_mat angles, const weir_ragged *r, const float *inv_freq,
                                  float mscale, weir_err *e) {
  CALL(rope_angles, angles, r, inv_freq, mscale, e);
}
static weir_status op_rope_append(weir_dev *dev, const weir_rope_args *a, const weir_ragged *r, weir_err *e) {
  CALL(rope_append, a, r, e);
}
static weir_status op_attend(weir_dev *dev, weir_mat out, weir_mat q, const weir_ragged *r, weir_kv_layer kv,
                             const weir_attend_args *a, weir_err *e) {
  CALL(attend, out, q, r, kv, a, e);
}
static weir_status op_attend_plan(weir_dev *dev, weir_ragged *r, int32_t slot, int32_t n_heads,
                                  weir_kv_layer kv, weir_err *e) {
  CALL(attend_plan, r, slot, n_heads, kv, e);
}
static weir_status op_glu(weir_dev *dev, weir_mat y, weir_mat gate_up, weir_act act, weir_err *e) {
  CALL(glu, y, gate_up, act, e);
}
static weir_status op_moe(weir_dev *dev, weir_mat y, const weir_moe_args *a, weir_err *e) {
  CALL(moe, y, a, e);
}
static weir_status op_softcap(weir_dev *dev, weir_mat x, float cap, weir_err *e) { CALL(softcap, x, cap, e); }
static weir_status op_gather_rows(weir_dev *dev, weir_mat y, weir_mat x, const int32_t *row, weir_err *e) {
  CALL(gather_rows, y, x, row, e);
}
static weir_status op_sample(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                             const weir_ask *ask, const weir_vocab_shard *s, weir_err *e) {
  CALL(sample, rows, top, logits, n_valid, ask, s, e);
}
static weir_status op_kv_copy(weir_dev *dev, weir_kv_layer kv, const int32_t *src_dst, int32_t n_pairs,
                              weir_err *e) {
  CALL(kv_copy, kv, src_dst, n_pairs, e);
}

const weir_dev_ops weir_cuda_ops = {
    .name = "cuda",
    .destroy = weir_cuda_dev_destroy,
    .alloc = op_alloc,
    .release = weir_cuda_release,
    .upload = op_upload,
    .download = op_download,
    .sync = op_sync,
    .reserve = op_reserve,
    .weight_prepare = op_weight_prepare,
    .weight_release = op_weight_release,
    .embed = op_embed,
    .add_rmsnorm = op_add_rmsnorm,
    .linear = op_linear,
    .rope_angles = op_rope_angles,
    .rope_append = op_rope_append,
    .attend = op_attend,
    .glu = op_glu,
    .moe = op_moe,
    .softcap = op_softcap,
    .gather_rows = op_gather_rows,
    .sample = op_sample,
    .kv_copy = op_kv_copy,
    .attend_plan = op_attend_plan,
    .replay = op_replay,
    .forget = op_forget,
    .memory = op_memory,
    .stream = op_stream,
    .map_host = op_map_host,
    .unmap_host = weir_cuda_unmap_host,
    .reduce_peers = op_reduce_peers,
};
