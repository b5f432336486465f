/* SPDX-License-Identifier: Apache-2.0 */
/* Instances: everything a forward pass needs, allocated before the first step. Owns weights, KV and
 * workspace; the thread that owns the device. */
#include "run/instance.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kv/pages.h"
#include "run/gate.h"

/* Rows the head works on at a time: bounds the logits to 64 x vocabulary (39 MB at 152k ids). */
enum { HEAD_ROWS = 64 };

static weir_status take_mat(weir_dev *dev, int32_t rows, int32_t cols, weir_mat *out, weir_err *e) {
  *out = (weir_mat){.rows = rows, .cols = cols, .ld = cols};
  size_t n = 0;
  if (!weir_mul_size((size_t)rows, (size_t)cols, &n) || !weir_mul_size(n, sizeof(float), &n))
    return weir_fail(e, WEIR_ENOMEM, "workspace of %d x %d overflows", rows, cols);
  return weir_dev_alloc(dev, n, (void **)&out->data, e);
}

static weir_status turn_init(weir_instance *m, const weir_rope *r, weir_turn *out, weir_err *e) {
  float inv[WEIR_MAX_ROPE_DIMS / 2];
  const size_t bytes = (size_t)m->h.rope_dims / 2 * sizeof(float);
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_rope_frequencies(r, m->h.rope_dims, m->n_ctx, inv, &out->mscale, e));
  WEIR_TRY(take_mat(m->dev, m->max_tokens, m->h.rope_dims, &out->angles, e));
  WEIR_TRY(weir_dev_alloc(m->dev, bytes, (void **)&out->inv_freq, e));
  WEIR_TRY(weir_dev_upload(m->dev, out->inv_freq, inv, bytes, e));
  WEIR_TRY(weir_dev_sync(m->dev, e));
out:
  return st;
}

static bool any_windowed(const weir_hparams *h) {
  for (int32_t i = 0; i < h->n_layers; i++)
    if (h->windowed[i]) return true;
  return false;
}

/* What layers add is summed over the ranks here, before its norm if it has one. */
static weir_mat *part_of(weir_instance *m) { return m->h.post_norms ? &m->ws.raw : &m->ws.delta; }

static weir_status mlp_init(weir_instance *m, weir_err *e) {
  const weir_hparams *h = &m->h;
  weir_workspace *ws = &m->ws;
  const int32_t t = m->max_tokens;
  weir_status st = WEIR_OK;
  if (m->shard.ff.n == 0) { /* device memory comes zeroed */
    WEIR_TRY(take_mat(m->dev, 1, h->dim, &ws->zero_row, e));
    WEIR_TRY(weir_dev_alloc(m->dev, (size_t)t * sizeof(int32_t), (void **)&ws->zero_index, e));
  } else if (h->n_experts > 0) {
    WEIR_TRY(take_mat(m->dev, t, h->n_experts, &ws->route, e));
  } else {
    WEIR_TRY(take_mat(m->dev, t, 2 * h->n_ff, &ws->gate_up, e));
    WEIR_TRY(take_mat(m->dev, t, h->n_ff, &ws->ff, e));
  }
out:
  return st;
}

static weir_status workspace_init(weir_instance *m, weir_err *e) {
  const weir_hparams *h = &m->h;
  weir_workspace *ws = &m->ws;
  const int32_t t = m->max_tokens, n_q = h->n_heads * h->head_dim, n_kv = h->n_kv_heads * h->head_dim;
  weir_status st = WEIR_OK;
  ws->max_head_rows = t < HEAD_ROWS ? t : HEAD_ROWS;
  WEIR_TRY(take_mat(m->dev, t, h->dim, &ws->x, e));
  WEIR_TRY(take_mat(m->dev, t, h->dim, &ws->norm, e));
  WEIR_TRY(take_mat(m->dev, t, n_q + 2 * n_kv, &ws->qkv, e));
  WEIR_TRY(take_mat(m->dev, t, m->shard.att.n, &ws->att, e));
  WEIR_TRY(take_mat(m->dev, t, h->dim, &ws->delta, e));
  if (h->post_norms) WEIR_TRY(take_mat(m->dev, t, h->dim, &ws->raw, e));
  WEIR_TRY(mlp_init(m, e));
  WEIR_TRY(take_mat(m->dev, t, h->dim, &ws->last_x, e));
  WEIR_TRY(take_mat(m->dev, t, n_q, &ws->last_q, e));
  WEIR_TRY(take_mat(m->dev, ws->max_head_rows, m->shard.max_vocab, &ws->logits, e));
  WEIR_TRY(turn_init(m, &h->rope, &ws->turn, e));
  /* Compared by bytes: a zeroed struct of 4-byte fields has no others. */
  if (any_windowed(h) && memcmp(&h->rope, &h->rope_local, sizeof h->rope) != 0)
    WEIR_TRY(turn_init(m, &h->rope_local, &ws->turn_local, e));

  /* token, pos, seq, of the wanted rows: row, pos, seq; q_indptr, w_indptr, page_indptr, kv_len; pages */
  const size_t entries = (size_t)m->max_seqs * (size_t)weir_pages_for(m->n_ctx);
  if (entries > INT32_MAX)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "%d sequences of %d tokens are too many", m->max_seqs, m->n_ctx));
  ws->max_page_entries = (int32_t)entries;
  ws->n_ints = 6 * (size_t)t + 4 * ((size_t)m->max_seqs + 1) + entries;
  WEIR_TRY(WEIR_NEW(ws->n_ints, &ws->ints_host, e));
  WEIR_TRY(weir_dev_alloc(m->dev, ws->n_ints * sizeof(int32_t), (void **)&ws->ints, e));
out:
  return st;
}

static void workspace_fini(weir_instance *m) {
  weir_workspace *ws = &m->ws;
  void *const device[] = {ws->x.data,
                          ws->norm.data,
                          ws->qkv.data,
                          ws->att.data,
                          ws->delta.data,
                          ws->gate_up.data,
                          ws->ff.data,
                          ws->route.data,
                          ws->raw.data,
                          ws->last_x.data,
                          ws->last_q.data,
                          ws->zero_row.data,
                          ws->zero_index,
                          ws->logits.data,
                          ws->turn.inv_freq,
                          ws->turn.angles.data,
                          ws->turn_local.inv_freq,
                          ws->turn_local.angles.data,
                          ws->ints};
  for (size_t i = 0; i < sizeof device / sizeof *device; i++)
    if (device[i]) weir_dev_release(m->dev, device[i]);
  free(ws->ints_host);
}

static int32_t max3(int32_t a, int32_t b, int32_t c) {
  const int32_t m = a > b ? a : b;
  return m > c ? m : c;
}

static weir_status shard_init(weir_instance *m, const weir_hparams *whole, const weir_shard *s, weir_err *e) {
  weir_status st = WEIR_OK;
  if (s)
    m->shard = *s;
  else
    WEIR_TRY(weir_shard_cut(whole, (weir_shard_blocks){1, 1}, 0, 1, &m->shard, e));
  weir_shard_hparams(whole, &m->shard, &m->h);
out:
  return st;
}

weir_status weir_instance_create_from(weir_dev *dev, weir_weights_fn weights, void *ctx,
                                      const weir_hparams *h, const weir_instance_opts *o, weir_instance **out,
                                      weir_err *e) {
  weir_status st = WEIR_OK;
  weir_instance *m = NULL;
  *out = NULL;
  if (o->max_tokens < 1 || o->max_seqs < 1 || o->n_pages < 0 || o->n_ctx < 0 || o->n_valid < 0)
    return weir_fail(e, WEIR_EINVAL,
                     "instance: max_tokens %d, max_seqs %d, n_pages %d, n_ctx %d must be positive",
                     o->max_tokens, o->max_seqs, o->n_pages, o->n_ctx);
  WEIR_TRY(weir_dev_check_kv(dev, o->kv_dtype, h->head_dim, e)); /* before the weights take their time */
  WEIR_TRY(WEIR_NEW(1, &m, e));
  m->dev = dev;
  m->owner = weir_dev_new_owner(dev);
  WEIR_TRY(shard_init(m, h, o->shard, e));
  m->n_ctx = o->n_ctx > 0 && o->n_ctx < h->n_ctx ? o->n_ctx : h->n_ctx;
  m->kv_dtype = o->kv_dtype;
  m->max_tokens = o->max_tokens;
  m->max_seqs = o->max_seqs;
  m->n_valid = o->n_valid > 0 && o->n_valid < h->n_vocab ? o->n_valid : h->n_vocab;
  const weir_dev_limits lim = {.max_tokens = m->max_tokens,
                               .max_cols = max3(h->dim, m->shard.ff.n, m->shard.att.n),
                               .max_heads = h->n_heads,
                               .max_head_dim = h->head_dim,
                               .max_kv_len = m->n_ctx,
                               .max_rows_out = m->max_tokens < HEAD_ROWS ? m->max_tokens : HEAD_ROWS,
                               .max_vocab = h->n_vocab,
                               .max_experts = h->n_experts,
                               .max_expert_ff = h->expert_ff,
                               .max_ranks = m->shard.n_ranks > 1 ? m->shard.n_ranks : 0};
  WEIR_TRY(weir_dev_reserve(dev, &lim, e));
  WEIR_TRY(weights(ctx, dev, h, &m->shard, &m->w, e));
  WEIR_TRY(workspace_init(m, e));
  if (o->n_pages > 0) WEIR_TRY(weir_instance_give_pages(m, o->n_pages, e));
  *out = m;
  m = NULL;
out:
  weir_instance_destroy(m);
  return st;
}

typedef struct source {
  const weir_mfile *file;
  const weir_load_progress *progress;
} source;

static weir_status from_file(void *ctx, weir_dev *dev, const weir_hparams *h, const weir_shard *shard,
                             weir_weights *out, weir_err *e) {
  const source *s = ctx;
  return weir_weights_load(dev, s->file, h, shard, s->progress, out, e);
}

weir_status weir_instance_create(weir_dev *dev, const weir_mfile *file, const weir_hparams *h,
                                 const weir_instance_opts *o, weir_instance **out, weir_err *e) {
  source s = {file, o->progress};
  return weir_instance_create_from(dev, from_file, &s, h, o, out, e);
}

weir_status weir_instance_give_pages(weir_instance *m, int32_t n_pages, weir_err *e) {
  if (n_pages < 1 || m->n_pages > 0)
    return weir_fail(e, WEIR_EINVAL, "instance: %d KV pages, has %d", n_pages, m->n_pages);
  const weir_status st = weir_kvstore_init(&m->kv, m->dev, &m->h, m->kv_dtype, n_pages, e);
  if (st == WEIR_OK) m->n_pages = n_pages;
  return st;
}

void weir_instance_destroy(weir_instance *m) {
  if (!m) return;
  weir_instance_set_comm(m, NULL);
  weir_instance_drop_gate(m);
  weir_dev_forget(m->dev, m->owner);
  workspace_fini(m);
  weir_kvstore_fini(&m->kv);
  weir_weights_release(&m->w);
  free(m);
}

/* ---- the group ---- */

/* The group's memory in the place of the device's own, which stays: leaving a group cannot fail. */
static weir_status borrow(weir_instance *m, weir_mat *x, float **own, weir_err *e) {
  void *p = NULL;
  if (*own) return WEIR_OK;
  const weir_status st =
      m->comm->ops->alloc(m->comm, (size_t)x->rows * (size_t)x->cols * sizeof(float), &p, e);
  if (st != WEIR_OK) return st;
  *own = x->data;
  x->data = p;
  return WEIR_OK;
}

static void give_back(weir_instance *m, weir_mat *x, float **own) {
  if (!*own) return;
  if (m->comm->ops->release) m->comm->ops->release(m->comm, x->data);
  x->data = *own;
  *own = NULL;
}

void weir_instance_set_comm(weir_instance *m, weir_comm *comm) {
  if (m->comm == comm) return;
  weir_dev_forget(m->dev, m->owner); /* records call the old one, on its memory */
  give_back(m, &m->ws.x, &m->ws.own_x);
  give_back(m, part_of(m), &m->ws.own_part);
  m->comm = comm;
}

weir_status weir_instance_ready(weir_instance *m, weir_err *e) {
  const weir_shard *s = &m->shard;
  weir_status st = WEIR_OK;
  if (s->n_ranks == 1) return WEIR_OK;
  if (!m->comm)
    return weir_fail(e, WEIR_EINVAL, "rank %d of %d is in no group with the others", s->rank, s->n_ranks);
  if (m->comm->rank != s->rank || m->comm->n_ranks != s->n_ranks)
    return weir_fail(e, WEIR_EINVAL, "rank %d of %d in the group is rank %d of %d of the model",
                     m->comm->rank, m->comm->n_ranks, s->rank, s->n_ranks);
  if (!m->comm->ops->alloc) return WEIR_OK;
  WEIR_TRY(borrow(m, &m->ws.x, &m->ws.own_x, e));
  WEIR_TRY(borrow(m, part_of(m), &m->ws.own_part, e));
out:
  return st;
}
