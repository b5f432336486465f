/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of every operation, once for all devices, and the way into the device's table. Holds no state;
 * the thread that owns the device. What lies in device memory (token ids, positions, pages) is not looked at.
 */
#include "kernels/device.h"

#include <math.h>
#include <string.h>

#include "kernels/sample_core.h"

/* Checks are chains: each returns at the first fact that is wrong. */
#define CHECK(expr)                 \
  do {                              \
    const weir_status st_ = (expr); \
    if (st_ != WEIR_OK) return st_; \
  } while (0)

static weir_status check_ptr(const char *op, const char *what, const void *p, weir_err *e) {
  return p ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "%s: %s is NULL", op, what);
}

static weir_status check_range(const char *op, const char *what, int64_t v, int64_t lo, int64_t hi,
                               weir_err *e) {
  if (v >= lo && v <= hi) return WEIR_OK;
  return weir_fail(e, WEIR_EINVAL, "%s: %s is %lld, want %lld to %lld", op, what, (long long)v, (long long)lo,
                   (long long)hi);
}

/* A matrix that makes sense by itself. Rows may be none, then nothing is read. */
static weir_status check_mat(const char *op, const char *what, weir_mat m, weir_err *e) {
  if (m.rows < 0 || m.cols < 1)
    return weir_fail(e, WEIR_EINVAL, "%s: %s is [%d, %d]", op, what, m.rows, m.cols);
  if (m.ld < m.cols)
    return weir_fail(e, WEIR_EINVAL, "%s: %s is [%d, %d] with a row stride of only %d", op, what, m.rows,
                     m.cols, m.ld);
  return m.rows ? check_ptr(op, what, m.data, e) : WEIR_OK;
}

/* ... and has the shape another argument asks for; `why` says which. */
static weir_status check_shape(const char *op, const char *what, weir_mat m, int32_t rows, int64_t cols,
                               const char *why, weir_err *e) {
  CHECK(check_mat(op, what, m, e));
  if (m.rows == rows && m.cols == cols) return WEIR_OK;
  return weir_fail(e, WEIR_EINVAL, "%s: %s is [%d, %d], want [%d, %lld] by %s", op, what, m.rows, m.cols,
                   rows, (long long)cols, why);
}

static int32_t rows_limit(const weir_dev *dev) {
  return dev->limits.max_tokens > dev->limits.max_rows_out ? dev->limits.max_tokens
                                                           : dev->limits.max_rows_out;
}

static weir_status check_rows(const char *op, const weir_dev *dev, int32_t rows, weir_err *e) {
  return check_range(op, "number of rows", rows, 0, rows_limit(dev), e);
}

static weir_status check_weight(const char *op, const weir_dev *dev, const weir_weight *w, weir_err *e) {
  CHECK(check_ptr(op, "weight", w, e));
  CHECK(check_ptr(op, "weight's content", w->impl, e));
  return w->dev == dev ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "%s: the weight lives on another device", op);
}

static weir_status check_finite(const char *op, const char *what, float v, weir_err *e) {
  return isfinite(v) ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "%s: %s is %g", op, what, v);
}

static weir_status check_eps(const char *op, float eps, weir_err *e) {
  return isfinite(eps) && eps >= 0.0f ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "%s: eps is %g", op, eps);
}

weir_status weir_dev_check_kv(const weir_dev *dev, weir_dtype t, int32_t head_dim, weir_err *e) {
  const weir_dtype_info *info = weir_dtype_get(t);
  const bool q8_0 = t == WEIR_Q8_0 && dev->ops->kv_q8_0;
  if (t != WEIR_F16 && t != WEIR_F32 && !q8_0)
    return weir_fail(e, WEIR_EUNSUP, "KV of type %s, the %s device wants F16%s",
                     info ? info->name : "unknown", dev->ops->name,
                     dev->ops->kv_q8_0 ? ", F32 or Q8_0" : " or F32");
  if (head_dim % info->block_elems != 0)
    return weir_fail(e, WEIR_EUNSUP, "KV of type %s wants heads of whole blocks of %d, not of %d", info->name,
                     info->block_elems, head_dim);
  return WEIR_OK;
}

static weir_status check_kv(const char *op, const weir_dev *dev, weir_kv_layer kv, weir_err *e) {
  CHECK(check_ptr(op, "KV", kv.base, e));
  const weir_status st = weir_dev_check_kv(dev, kv.dtype, kv.head_dim, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "%s", op);
  if (kv.n_pages < 1 || kv.n_kv_heads < 1 || kv.page_size < 1 || kv.head_dim < 1)
    return weir_fail(e, WEIR_EINVAL, "%s: KV is [%d pages, 2, %d heads, %d tokens, %d]", op, kv.n_pages,
                     kv.n_kv_heads, kv.page_size, kv.head_dim);
  return check_range(op, "KV's head_dim", kv.head_dim, 1, dev->limits.max_head_dim, e);
}

static weir_status check_ragged(const char *op, const weir_dev *dev, const weir_ragged *r, weir_err *e) {
  CHECK(check_ptr(op, "batch", r, e));
  CHECK(check_range(op, "batch's n_tokens", r->n_tokens, 0, dev->limits.max_tokens, e));
  /* Not n_tokens: a step that asks for a subset of its rows keeps all its sequences. */
  CHECK(check_range(op, "batch's n_seqs", r->n_seqs, r->n_tokens > 0, dev->limits.max_tokens, e));
  if (r->n_tokens == 0) return WEIR_OK;
  CHECK(check_ptr(op, "batch's pos", r->pos, e));
  CHECK(check_ptr(op, "batch's seq", r->seq, e));
  CHECK(check_ptr(op, "batch's q_indptr", r->q_indptr, e));
  CHECK(check_ptr(op, "batch's kv_len", r->kv_len, e));
  CHECK(check_ptr(op, "batch's page_indptr", r->page_indptr, e));
  CHECK(check_ptr(op, "batch's page", r->page, e));
  CHECK(check_range(op, "batch's max_q_len", r->max_q_len, 1, r->n_tokens, e));
  return check_range(op, "batch's max_kv_len", r->max_kv_len, r->max_q_len, dev->limits.max_kv_len, e);
}

/* ---- memory ---- */

void weir_dev_destroy(weir_dev *dev) {
  if (dev) dev->ops->destroy(dev);
}

weir_status weir_dev_alloc(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  *out = NULL;
  return dev->ops->alloc(dev, bytes ? bytes : 1, out, e);
}

void weir_dev_release(weir_dev *dev, void *p) {
  if (p) dev->ops->release(dev, p);
}

weir_status weir_dev_upload(weir_dev *dev, void *dst, const void *src, size_t bytes, weir_err *e) {
  if (bytes == 0) return WEIR_OK;
  CHECK(check_ptr("upload", "target", dst, e));
  CHECK(check_ptr("upload", "source", src, e));
  return dev->ops->upload(dev, dst, src, bytes, e);
}

weir_status weir_dev_download(weir_dev *dev, void *dst, const void *src, size_t bytes, weir_err *e) {
  if (bytes == 0) return WEIR_OK;
  CHECK(check_ptr("download", "target", dst, e));
  CHECK(check_ptr("download", "source", src, e));
  return dev->ops->download(dev, dst, src, bytes, e);
}

weir_status weir_dev_sync(weir_dev *dev, weir_err *e) {
  const weir_dev_watch w = dev->watch;
  if (w.begin) w.begin(w.ctx);
  const weir_status st = dev->ops->sync(dev, e);
  return w.end ? w.end(w.ctx, st, e) : st;
}

void weir_dev_set_watch(weir_dev *dev, const weir_dev_watch *w) { dev->watch = w ? *w : (weir_dev_watch){0}; }

void *weir_dev_stream(weir_dev *dev) { return dev->ops->stream ? dev->ops->stream(dev) : NULL; }

weir_status weir_dev_map_host(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  *out = NULL;
  if (!dev->ops->map_host)
    return weir_fail(e, WEIR_EUNSUP, "the %s device maps no host memory", dev->ops->name);
  return dev->ops->map_host(dev, bytes ? bytes : 1, out, e);
}

void weir_dev_unmap_host(weir_dev *dev, void *p) {
  if (p) dev->ops->unmap_host(dev, p);
}

weir_status weir_dev_memory(weir_dev *dev, size_t *free_bytes, size_t *total_bytes, weir_err *e) {
  *free_bytes = *total_bytes = 0;
  if (!dev->ops->memory)
    return weir_fail(e, WEIR_EUNSUP, "the %s device has no memory of its own", dev->ops->name);
  return dev->ops->memory(dev, free_bytes, total_bytes, e);
}

/* ---- records ---- */

weir_status weir_dev_replay(weir_dev *dev, uint64_t key, weir_enqueue_fn enqueue, void *ctx, weir_err *e) {
  return dev->ops->replay ? dev->ops->replay(dev, key, enqueue, ctx, e) : enqueue(ctx, e);
}

uint32_t weir_dev_new_owner(weir_dev *dev) { return ++dev->last_owner; }

void weir_dev_forget(weir_dev *dev, uint32_t owner) {
  if (dev->ops->forget) dev->ops->forget(dev, owner);
}

static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

weir_status weir_dev_reserve(weir_dev *dev, const weir_dev_limits *want, weir_err *e) {
  CHECK(check_ptr("reserve", "limits", want, e));
  const struct {
    const char *name;
    int32_t value;
  } field[] = {{"max_tokens", want->max_tokens},       {"max_cols", want->max_cols},
               {"max_heads", want->max_heads},         {"max_head_dim", want->max_head_dim},
               {"max_kv_len", want->max_kv_len},       {"max_rows_out", want->max_rows_out},
               {"max_vocab", want->max_vocab},         {"max_experts", want->max_experts},
               {"max_expert_ff", want->max_expert_ff}, {"max_ranks", want->max_ranks}};
  for (size_t i = 0; i < sizeof field / sizeof *field; i++)
    CHECK(check_range("reserve", field[i].name, field[i].value, 0, INT32_MAX, e));
  CHECK(check_range("reserve", "max_ranks", want->max_ranks, 0, 1024, e));
  const weir_dev_limits have = dev->limits;
  const weir_dev_limits both = {.max_tokens = larger(have.max_tokens, want->max_tokens),
                                .max_cols = larger(have.max_cols, want->max_cols),
                                .max_heads = larger(have.max_heads, want->max_heads),
                                .max_head_dim = larger(have.max_head_dim, want->max_head_dim),
                                .max_kv_len = larger(have.max_kv_len, want->max_kv_len),
                                .max_rows_out = larger(have.max_rows_out, want->max_rows_out),
                                .max_vocab = larger(have.max_vocab, want->max_vocab),
                                .max_experts = larger(have.max_experts, want->max_experts),
                                .max_expert_ff = larger(have.max_expert_ff, want->max_expert_ff),
                                .max_ranks = larger(have.max_ranks, want->max_ranks)};
  if (memcmp(&both, &have, sizeof both) == 0) return WEIR_OK;
  CHECK(dev->ops->reserve(dev, &both, e));
  dev->limits = both;
  return WEIR_OK;
}

weir_status weir_weight_prepare(weir_dev *dev, const weir_host_mat *part, int32_t n_parts, weir_weight *out,
                                weir_err *e) {
  const char *op = "prepare weight";
  *out = (weir_weight){0};
  CHECK(check_range(op, "number of parts", n_parts, 1, 1024, e));
  CHECK(check_ptr(op, "part", part, e));
  int64_t rows = 0;
  for (int32_t i = 0; i < n_parts; i++) {
    size_t row_bytes;
    CHECK(check_ptr(op, "part's data", part[i].data, e));
    if (part[i].rows < 1 || part[i].cols != part[0].cols)
      return weir_fail(e, WEIR_EINVAL, "%s: part %d is [%d, %d], part 0 is [%d, %d]", op, i, part[i].rows,
                       part[i].cols, part[0].rows, part[0].cols);
    const weir_status st = weir_dtype_row_bytes(part[i].dtype, part[i].cols, &row_bytes, e);
    if (st != WEIR_OK)
      return weir_fail_ctx(e, st, "%s: part %d, [%d, %d]", op, i, part[i].rows, part[i].cols);
    rows += part[i].rows;
  }
  CHECK(check_range(op, "number of rows", rows, 1, INT32_MAX - 64, e));
  return dev->ops->weight_prepare(dev, part, n_parts, out, e);
}

void weir_weight_release(weir_weight *w) {
  if (w->dev) w->dev->ops->weight_release(w->dev, w);
  *w = (weir_weight){0};
}

/* ---- operations ---- */

weir_status weir_op_embed(weir_dev *dev, weir_mat y, const weir_embed_args *a, weir_err *e) {
  const char *op = "embed";
  CHECK(check_ptr(op, "arguments", a, e));
  CHECK(check_range(op, "n_vocab", a->n_vocab, 0, INT32_MAX, e));
  weir_embed_args x = *a;
  if (x.n_vocab > 0 && x.table && !x.table->impl && x.table->rows == 0) x.table = NULL;
  if (x.n_vocab == 0 || x.table) {
    CHECK(check_weight(op, dev, x.table, e));
    CHECK(check_shape(op, "y", y, y.rows, x.table->cols, "the table's row", e));
  }
  if (x.n_vocab == 0) {
    CHECK(check_range(op, "first id of a whole table", x.first, 0, 0, e));
    x.n_vocab = x.table->rows;
  } else if (x.table) {
    CHECK(check_range(op, "first id of the shard", x.first, 0, x.n_vocab - 1, e));
    CHECK(check_range(op, "rows of the shard", x.table->rows, 1, x.n_vocab - x.first, e));
  } else {
    CHECK(check_mat(op, "y", y, e));
    x.first = 0;
  }
  CHECK(check_rows(op, dev, y.rows, e));
  CHECK(check_finite(op, "scale", x.scale, e));
  if (y.rows == 0) return WEIR_OK;
  CHECK(check_ptr(op, "token", x.token, e));
  return dev->ops->embed(dev, y, &x, e);
}

weir_status weir_op_add_rmsnorm(weir_dev *dev, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                                float eps, weir_err *e) {
  const char *op = "add_rmsnorm";
  CHECK(check_mat(op, "resid", resid, e));
  CHECK(check_shape(op, "y", y, resid.rows, resid.cols, "resid", e));
  if (delta.data) CHECK(check_shape(op, "delta", delta, resid.rows, resid.cols, "resid", e));
  CHECK(check_ptr(op, "w", w, e));
  CHECK(check_eps(op, eps, e));
  CHECK(check_rows(op, dev, y.rows, e));
  return y.rows ? dev->ops->add_rmsnorm(dev, y, resid, delta, w, eps, e) : WEIR_OK;
}

weir_status weir_op_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *w, const float *bias,
                           weir_err *e) {
  const char *op = "linear";
  CHECK(check_weight(op, dev, w, e));
  CHECK(check_mat(op, "x", x, e));
  if (x.cols != w->cols)
    return weir_fail(e, WEIR_EINVAL, "%s: x is [%d, %d], the weight is [%d, %d]", op, x.rows, x.cols, w->rows,
                     w->cols);
  CHECK(check_shape(op, "y", y, x.rows, w->rows, "x and the weight", e));
  CHECK(check_range(op, "x's cols", x.cols, 1, dev->limits.max_cols, e));
  CHECK(check_rows(op, dev, x.rows, e));
  return x.rows ? dev->ops->linear(dev, y, x, w, bias, e) : WEIR_OK;
}

weir_status weir_op_rope_angles(weir_dev *dev, weir_mat angles, const weir_ragged *r, const float *inv_freq,
                                float mscale, weir_err *e) {
  const char *op = "rope_angles";
  CHECK(check_ragged(op, dev, r, e));
  CHECK(check_shape(op, "angles", angles, r->n_tokens, angles.cols, "the batch's n_tokens", e));
  if (angles.cols % 2 != 0)
    return weir_fail(e, WEIR_EINVAL, "%s: angles has %d columns, odd", op, angles.cols);
  CHECK(check_ptr(op, "inv_freq", inv_freq, e));
  CHECK(check_finite(op, "mscale", mscale, e));
  return r->n_tokens ? dev->ops->rope_angles(dev, angles, r, inv_freq, mscale, e) : WEIR_OK;
}

weir_status weir_op_rope_append(weir_dev *dev, const weir_rope_args *a, const weir_ragged *r, weir_err *e) {
  const char *op = "rope_append";
  CHECK(check_ptr(op, "arguments", a, e));
  CHECK(check_ragged(op, dev, r, e));
  CHECK(check_kv(op, dev, a->kv, e));
  CHECK(check_range(op, "n_heads", a->n_heads, 1, dev->limits.max_heads, e));
  CHECK(check_range(op, "rope_dims", a->rope_dims, 0, a->kv.head_dim, e));
  if (a->rope_dims % 2 != 0) return weir_fail(e, WEIR_EINVAL, "%s: rope_dims is %d, odd", op, a->rope_dims);
  const int64_t cols = ((int64_t)a->n_heads + 2 * (int64_t)a->kv.n_kv_heads) * a->kv.head_dim;
  CHECK(check_shape(op, "qkv", a->qkv, r->n_tokens, cols, "the batch and (n_heads + 2 n_kv_heads) head_dim",
                    e));
  if (a->rope_dims > 0)
    CHECK(check_shape(op, "angles", a->angles, r->n_tokens, a->rope_dims, "the batch and rope_dims", e));
  if (a->q_norm || a->k_norm) CHECK(check_eps(op, a->norm_eps, e));
  return r->n_tokens ? dev->ops->rope_append(dev, a, r, e) : WEIR_OK;
}

weir_status weir_op_attend(weir_dev *dev, weir_mat out, weir_mat q, const weir_ragged *r, weir_kv_layer kv,
                           const weir_attend_args *a, weir_err *e) {
  const char *op = "attend";
  CHECK(check_ptr(op, "arguments", a, e));
  CHECK(check_ragged(op, dev, r, e));
  CHECK(check_kv(op, dev, kv, e));
  CHECK(check_shape(op, "q", q, r->n_tokens, q.cols, "the batch's n_tokens", e));
  if (q.cols % kv.head_dim != 0 || q.cols / kv.head_dim % kv.n_kv_heads != 0)
    return weir_fail(e, WEIR_EINVAL, "%s: q is [%d, %d], not whole groups of %d KV heads of %d", op, q.rows,
                     q.cols, kv.n_kv_heads, kv.head_dim);
  CHECK(check_range(op, "number of heads", q.cols / kv.head_dim, 1, dev->limits.max_heads, e));
  CHECK(check_shape(op, "out", out, q.rows, q.cols, "q", e));
  CHECK(check_finite(op, "scale", a->scale, e));
  CHECK(check_range(op, "window", a->window, 0, INT32_MAX, e));
  CHECK(check_finite(op, "softcap", a->softcap, e));
  if (a->softcap < 0.0f) return weir_fail(e, WEIR_EINVAL, "%s: softcap is %g", op, a->softcap);
  return r->n_tokens ? dev->ops->attend(dev, out, q, r, kv, a, e) : WEIR_OK;
}

weir_status weir_op_attend_plan(weir_dev *dev, weir_ragged *r, int32_t slot, int32_t n_heads,
                                weir_kv_layer kv, weir_err *e) {
  const char *op = "attend_plan";
  CHECK(check_ragged(op, dev, r, e));
  CHECK(check_kv(op, dev, kv, e));
  CHECK(check_range(op, "slot", slot, 0, WEIR_PLAN_SLOTS - 1, e));
  CHECK(check_range(op, "n_heads", n_heads, 1, dev->limits.max_heads, e));
  r->plan = NULL;
  if (!dev->ops->attend_plan || r->n_tokens == 0) return WEIR_OK;
  CHECK(check_ptr(op, "batch's host_q_indptr", r->host_q_indptr, e));
  CHECK(check_ptr(op, "batch's host_kv_len", r->host_kv_len, e));
  return dev->ops->attend_plan(dev, r, slot, n_heads, kv, e);
}

static weir_status check_act(const char *op, weir_act act, weir_err *e) {
  return (unsigned)act <= WEIR_ACT_GELU_TANH
             ? WEIR_OK
             : weir_fail(e, WEIR_EINVAL, "%s: unknown activation %d", op, (int)act);
}

weir_status weir_op_glu(weir_dev *dev, weir_mat y, weir_mat gate_up, weir_act act, weir_err *e) {
  const char *op = "glu";
  CHECK(check_act(op, act, e));
  CHECK(check_mat(op, "y", y, e));
  CHECK(check_shape(op, "gate_up", gate_up, y.rows, 2 * (int64_t)y.cols, "y and its double width", e));
  CHECK(check_rows(op, dev, y.rows, e));
  return y.rows ? dev->ops->glu(dev, y, gate_up, act, e) : WEIR_OK;
}

static weir_status check_expert(const char *op, const weir_dev *dev, const char *what, const weir_weight *w,
                                int32_t i, int64_t rows, int64_t cols, weir_err *e) {
  CHECK(check_weight(op, dev, w, e));
  if (w->rows == rows && w->cols == cols) return WEIR_OK;
  return weir_fail(e, WEIR_EINVAL, "%s: %s of expert %d is [%d, %d], want [%lld, %lld]", op, what, i, w->rows,
                   w->cols, (long long)rows, (long long)cols);
}

weir_status weir_op_moe(weir_dev *dev, weir_mat y, const weir_moe_args *a, weir_err *e) {
  const char *op = "moe";
  CHECK(check_ptr(op, "arguments", a, e));
  CHECK(check_act(op, a->act, e));
  CHECK(check_range(op, "n_experts", a->n_experts, 1, dev->limits.max_experts, e));
  CHECK(check_range(op, "n_used", a->n_used, 1, a->n_experts, e));
  CHECK(check_mat(op, "x", a->x, e));
  CHECK(check_shape(op, "logits", a->logits, a->x.rows, a->n_experts, "x and n_experts", e));
  CHECK(check_shape(op, "y", y, a->x.rows, a->x.cols, "x", e));
  CHECK(check_range(op, "x's cols", a->x.cols, 1, dev->limits.max_cols, e));
  CHECK(check_range(op, "number of rows", a->x.rows, 0, dev->limits.max_tokens, e));
  CHECK(check_ptr(op, "gate_up", a->gate_up, e));
  CHECK(check_ptr(op, "down", a->down, e));
  const int32_t ff = a->down[0].cols;
  CHECK(check_range(op, "width of an expert", ff, 1, dev->limits.max_expert_ff, e));
  CHECK(check_range(op, "width of an expert", ff, 1, dev->limits.max_cols, e));
  for (int32_t i = 0; i < a->n_experts; i++) {
    CHECK(check_expert(op, dev, "gate_up", &a->gate_up[i], i, 2 * (int64_t)ff, a->x.cols, e));
    CHECK(check_expert(op, dev, "down", &a->down[i], i, a->x.cols, ff, e));
  }
  if (a->x.rows == 0) return WEIR_OK;
  if (y.data == a->x.data) return weir_fail(e, WEIR_EINVAL, "%s: y is x", op);
  return dev->ops->moe(dev, y, a, e);
}

weir_status weir_op_softcap(weir_dev *dev, weir_mat x, float cap, weir_err *e) {
  const char *op = "softcap";
  CHECK(check_mat(op, "x", x, e));
  CHECK(check_rows(op, dev, x.rows, e));
  CHECK(check_finite(op, "cap", cap, e));
  if (cap <= 0.0f) return weir_fail(e, WEIR_EINVAL, "%s: cap is %g", op, cap);
  return x.rows ? dev->ops->softcap(dev, x, cap, e) : WEIR_OK;
}

weir_status weir_op_gather_rows(weir_dev *dev, weir_mat y, weir_mat x, const int32_t *row, weir_err *e) {
  const char *op = "gather_rows";
  CHECK(check_mat(op, "x", x, e));
  CHECK(check_shape(op, "y", y, y.rows, x.cols, "x's width", e));
  CHECK(check_rows(op, dev, y.rows, e));
  if (y.rows == 0) return WEIR_OK;
  CHECK(check_ptr(op, "x's data", x.data, e));
  CHECK(check_ptr(op, "row", row, e));
  return dev->ops->gather_rows(dev, y, x, row, e);
}

/* Comparisons are written so that a NaN fails them. */
static weir_status check_ask(const weir_ask *a, int32_t i, int32_t n_valid, int32_t n_vocab, weir_err *e) {
  if (!(a->temperature >= 0.0f && isfinite(a->temperature)))
    return weir_fail(e, WEIR_EINVAL, "sample: ask %d: temperature is %g", i, a->temperature);
  if (a->probe < -1 || a->probe >= n_valid)
    return weir_fail(e, WEIR_EINVAL, "sample: ask %d: probe %d, the vocabulary has %d tokens", i, a->probe,
                     n_valid);
  if ((unsigned)a->keep >= WEIR_N_KEEPS)
    return weir_fail(e, WEIR_EINVAL, "sample: ask %d: unknown rule %d", i, (int)a->keep);
  if (a->temperature > 0.0f &&
      !(a->top_k >= 0 && a->top_p > 0.0f && a->top_p <= 1.0f && a->min_p >= 0.0f && a->min_p <= 1.0f))
    return weir_fail(e, WEIR_EINVAL, "sample: ask %d: top_k %d, top_p %g, min_p %g", i, a->top_k, a->top_p,
                     a->min_p);
  const weir_status st = weir_sample_check_extras(a, n_vocab, e);
  if (st == WEIR_OK && a->only_edits && a->edit[0].id >= n_valid) /* they are ascending */
    return weir_fail(e, WEIR_EINVAL, "sample: ask %d draws from its edits alone, and none is of a token", i);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "sample: ask %d", i);
}

/* The logits of a shard, and what is said about the others. */
static weir_status check_shard(const char *op, const weir_dev *dev, weir_mat logits, int32_t n_valid,
                               const weir_vocab_shard *s, weir_err *e) {
  CHECK(check_range(op, "n_valid", n_valid, 1, dev->limits.max_vocab, e));
  CHECK(check_range(op, "number of ranks", s->n_ranks, 1, dev->limits.max_ranks, e));
  CHECK(check_range(op, "rank", s->rank, 0, s->n_ranks - 1, e));
  CHECK(check_range(op, "shard's max_chunks", s->max_chunks, 1, weir_sample_n_chunks(dev->limits.max_vocab),
                    e));
  if (!s->all_gather) return weir_fail(e, WEIR_EINVAL, "%s: the shard's all_gather is NULL", op);
  if (logits.cols == 0) return check_range(op, "number of rows", logits.rows, 0, INT32_MAX, e);
  CHECK(check_mat(op, "logits", logits, e));
  CHECK(check_range(op, "shard's first id", s->first, 0, dev->limits.max_vocab - 1, e));
  if (s->first % WEIR_SAMPLE_CHUNK != 0)
    return weir_fail(e, WEIR_EINVAL, "%s: the shard's first id %d is no multiple of %d", op, s->first,
                     WEIR_SAMPLE_CHUNK);
  CHECK(check_range(op, "logits' columns", logits.cols, 1, dev->limits.max_vocab - s->first, e));
  return check_range(op, "shard's chunks", weir_sample_n_chunks(logits.cols), 1, s->max_chunks, e);
}

weir_status weir_op_sample(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                           const weir_ask *ask, const weir_vocab_shard *s, weir_err *e) {
  const char *op = "sample";
  int32_t n_vocab =
      logits.cols; /* edits may be of padding; how much of that other shards have, nobody says */
  if (s) {
    n_vocab = dev->limits.max_vocab;
    CHECK(check_shard(op, dev, logits, n_valid, s, e));
  } else {
    CHECK(check_mat(op, "logits", logits, e));
    CHECK(check_range(op, "logits' columns", logits.cols, 1, dev->limits.max_vocab, e));
    CHECK(check_range(op, "n_valid", n_valid, 1, logits.cols, e));
  }
  CHECK(check_range(op, "number of rows", logits.rows, 0, dev->limits.max_rows_out, e));
  if (logits.rows == 0) return WEIR_OK;
  CHECK(check_ptr(op, "rows", rows, e));
  CHECK(check_ptr(op, "ask", ask, e));
  for (int32_t i = 0; i < logits.rows; i++) {
    CHECK(check_ask(&ask[i], i, n_valid, n_vocab, e));
    if (ask[i].n_top > 0) CHECK(check_ptr(op, "top", top, e));
  }
  return dev->ops->sample(dev, rows, top, logits, n_valid, ask, s, e);
}

weir_status weir_op_kv_copy(weir_dev *dev, weir_kv_layer kv, const int32_t *src_dst, int32_t n_pairs,
                            weir_err *e) {
  const char *op = "kv_copy";
  CHECK(check_kv(op, dev, kv, e));
  CHECK(check_range(op, "n_pairs", n_pairs, 0, INT32_MAX / 2, e));
  if (n_pairs == 0) return WEIR_OK;
  CHECK(check_ptr(op, "src_dst", src_dst, e));
  for (int32_t i = 0; i < 2 * n_pairs; i++)
    if (src_dst[i] < 0 || src_dst[i] >= kv.n_pages)
      return weir_fail(e, WEIR_EINVAL, "%s: pair %d: page %d, KV has %d", op, i / 2, src_dst[i], kv.n_pages);
  return dev->ops->kv_copy(dev, kv, src_dst, n_pairs, e);
}

/* ---- ranks on one GPU ---- */

weir_status weir_dev_check_peers(const weir_dev *dev, int32_t n_ranks, weir_err *e) {
  CHECK(check_range("exchange", "number of ranks", n_ranks, 1, WEIR_PEER_RANKS, e));
  if (!dev->ops->reduce_peers)
    return weir_fail(e, WEIR_EUNSUP, "the %s device does not exchange with others of its kind",
                     dev->ops->name);
  return WEIR_OK;
}

weir_status weir_op_exchange(weir_dev *dev, const weir_peers *p, const weir_exchange *x, weir_err *e) {
  const char *op = "exchange";
  CHECK(check_ptr(op, "group", p, e));
  CHECK(check_ptr(op, "arguments", x, e));
  CHECK(weir_dev_check_peers(dev, p->n_ranks, e));
  CHECK(check_range(op, "rank", p->rank, 0, p->n_ranks - 1, e));
  CHECK(check_ptr(op, "stop word", p->stop, e));
  for (int32_t i = 0; i < p->n_ranks; i++) CHECK(check_ptr(op, "part of a rank", p->part[i], e));
  if ((unsigned)x->what > WEIR_PEER_BROADCAST)
    return weir_fail(e, WEIR_EINVAL, "%s: unknown kind %d", op, (int)x->what);
  CHECK(check_range(op, "root", x->root, 0, p->n_ranks - 1, e));
  if (x->bytes == 0) return WEIR_OK;
  CHECK(check_ptr(op, "out", x->out, e));
  CHECK(check_ptr(op, "in", x->in, e));
  if (x->what == WEIR_PEER_REDUCE && (x->bytes % sizeof(float) != 0 || x->out != x->in))
    return weir_fail(e, WEIR_EINVAL, "%s: a sum of %zu bytes, of floats in place it must be", op, x->bytes);
  if (x->bytes > SIZE_MAX / 2 / WEIR_PEER_RANKS)
    return weir_fail(e, WEIR_EINVAL, "%s: of %zu bytes", op, x->bytes);
  if (p->bound_ns <= 0) return weir_fail(e, WEIR_EINVAL, "%s: without a bound", op);
  return dev->ops->reduce_peers(dev, p, x, e);
}
