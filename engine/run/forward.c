/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder of the llama family: embed, then per layer norm, qkv, rotate and append, attend, project, norm, gated MLP;
 * head and sampling on the wanted rows only. Owns nothing; the thread that owns the instance's device. */
#include "run/forward.h"

#include <math.h>
#include <string.h>

/* The first n rows of a workspace matrix. */
static weir_mat rows_of(weir_mat m, int32_t n) {
  m.rows = n;
  return m;
}

static const weir_mat none = {0};

typedef struct step_arrays {
  weir_ragged ragged;
  const int32_t *token, *out_row;
} step_arrays;

/* Step arrays go to the device in one copy. */
static weir_status upload_arrays(weir_instance *m, const weir_batch *b, step_arrays *out, weir_err *e) {
  int32_t *host = m->ws.ints_host, *at = host;
  const size_t n = (size_t)b->n_tokens, s = (size_t)b->n_seqs, n_pages = (size_t)b->page_indptr[b->n_seqs];
  int32_t *token = at, *pos = token + n, *seq = pos + n, *out_row = seq + n, *q_indptr = out_row + b->n_out;
  int32_t *page_indptr = q_indptr + s + 1, *kv_len = page_indptr + s + 1, *page = kv_len + s;
  memcpy(token, b->token, n * sizeof *at);
  memcpy(pos, b->pos, n * sizeof *at);
  memcpy(out_row, b->out_row, (size_t)b->n_out * sizeof *at);
  memcpy(q_indptr, b->q_indptr, (s + 1) * sizeof *at);
  memcpy(page_indptr, b->page_indptr, (s + 1) * sizeof *at);
  memcpy(kv_len, b->kv_len, s * sizeof *at);
  memcpy(page, b->page, n_pages * sizeof *at);
  int32_t max_q = 0, max_kv = 0;
  for (int32_t i = 0; i < b->n_seqs; i++) {
    const int32_t q = q_indptr[i + 1] - q_indptr[i];
    for (int32_t r = q_indptr[i]; r < q_indptr[i + 1]; r++) seq[r] = i;
    if (q > max_q) max_q = q;
    if (kv_len[i] > max_kv) max_kv = kv_len[i];
  }
  const size_t total = (size_t)(page + n_pages - host);
  int32_t *dev = m->ws.ints;
#define ON_DEVICE(p) (dev + ((p) - host))
  *out = (step_arrays){.ragged = {.n_tokens = b->n_tokens,
                                  .n_seqs = b->n_seqs,
                                  .pos = ON_DEVICE(pos),
                                  .seq = ON_DEVICE(seq),
                                  .q_indptr = ON_DEVICE(q_indptr),
                                  .kv_len = ON_DEVICE(kv_len),
                                  .page_indptr = ON_DEVICE(page_indptr),
                                  .page = ON_DEVICE(page),
                                  .max_q_len = max_q,
                                  .max_kv_len = max_kv},
                       .token = ON_DEVICE(token),
                       .out_row = ON_DEVICE(out_row)};
#undef ON_DEVICE
  return weir_dev_upload(m->dev, dev, host, total * sizeof *host, e);
}

static weir_status layer(weir_instance *m, int32_t i, const weir_ragged *r, bool has_delta, weir_err *e) {
  const weir_hparams *h = &m->h;
  const weir_layer *y = &m->w.layer[i];
  const weir_workspace *ws = &m->ws;
  const int32_t n = r->n_tokens;
  weir_dev *d = m->dev;
  weir_status st = WEIR_OK;
  const weir_mat x = rows_of(ws->x, n), norm = rows_of(ws->norm, n), delta = rows_of(ws->delta, n);
  const weir_mat qkv = rows_of(ws->qkv, n), att = rows_of(ws->att, n);
  weir_mat q = qkv;
  q.cols = h->n_heads * h->head_dim;

  WEIR_TRY(weir_op_add_rmsnorm(d, norm, x, has_delta ? delta : none, y->attn_norm, h->norm_eps, e));
  WEIR_TRY(weir_op_linear(d, qkv, norm, &y->qkv, y->qkv_bias, e));
  const weir_rope_args rope = {.qkv = qkv,
                               .angles = rows_of(ws->angles, n),
                               .n_heads = h->n_heads,
                               .rope_dims = h->rope_dims,
                               .interleaved = h->rope_interleaved,
                               .q_norm = y->q_norm,
                               .k_norm = y->k_norm,
                               .norm_eps = h->norm_eps,
                               .kv = m->kv.layer[i]};
  WEIR_TRY(weir_op_rope_append(d, &rope, r, e));
  WEIR_TRY(weir_op_attend(d, att, q, r, m->kv.layer[i], 1.0f / sqrtf((float)h->head_dim), e));
  WEIR_TRY(weir_op_linear(d, delta, att, &y->attn_out, NULL, e));
  WEIR_TRY(weir_op_add_rmsnorm(d, norm, x, delta, y->ffn_norm, h->norm_eps, e));
  WEIR_TRY(weir_op_linear(d, rows_of(ws->gate_up, n), norm, &y->gate_up, NULL, e));
  WEIR_TRY(weir_op_swiglu(d, rows_of(ws->ff, n), rows_of(ws->gate_up, n), e));
  WEIR_TRY(weir_op_linear(d, delta, rows_of(ws->ff, n), &y->down, NULL, e));
out:
  return st;
}

/* Hidden states of all rows: x and delta of the workspace, whose sum they are. */
static weir_status body(weir_instance *m, const weir_batch *b, step_arrays *a, weir_err *e) {
  weir_status st = WEIR_OK;
  if (b->page_indptr[b->n_seqs] > m->ws.max_page_entries)
    return weir_fail(e, WEIR_EINVAL, "batch: %d page entries, at most %d", b->page_indptr[b->n_seqs],
                     m->ws.max_page_entries);
  WEIR_TRY(upload_arrays(m, b, a, e));
  for (int32_t i = 0; b->n_copies > 0 && i < m->h.n_layers; i++)
    WEIR_TRY(weir_op_kv_copy(m->dev, m->kv.layer[i], b->copy_src_dst, b->n_copies, e));
  WEIR_TRY(weir_op_embed(m->dev, rows_of(m->ws.x, b->n_tokens), &m->w.embed, a->token, e));
  WEIR_TRY(weir_op_rope_angles(m->dev, rows_of(m->ws.angles, b->n_tokens), &a->ragged, m->ws.inv_freq, e));
  for (int32_t i = 0; i < m->h.n_layers; i++) WEIR_TRY(layer(m, i, &a->ragged, i > 0, e));
out:
  return st;
}

/* Logits of wanted rows [first, first+n) into the workspace. */
static weir_status head(weir_instance *m, const weir_batch *b, const step_arrays *a, int32_t first, int32_t n,
                        weir_mat *logits, weir_err *e) {
  const weir_workspace *ws = &m->ws;
  const weir_mat x = rows_of(ws->out_x, n), delta = rows_of(ws->out_delta, n), norm = rows_of(ws->out_norm, n);
  weir_status st = WEIR_OK;
  *logits = rows_of(ws->logits, n);
  WEIR_TRY(weir_op_gather_rows(m->dev, x, rows_of(ws->x, b->n_tokens), a->out_row + first, e));
  WEIR_TRY(weir_op_gather_rows(m->dev, delta, rows_of(ws->delta, b->n_tokens), a->out_row + first, e));
  WEIR_TRY(weir_op_add_rmsnorm(m->dev, norm, x, delta, m->w.out_norm, m->h.norm_eps, e));
  WEIR_TRY(weir_op_linear(m->dev, *logits, norm, m->w.head, NULL, e));
out:
  return st;
}

weir_status weir_forward(weir_instance *m, const weir_batch *b, weir_row *rows, weir_err *e) {
  weir_status st = WEIR_OK;
  step_arrays a;
  WEIR_TRY(body(m, b, &a, e));
  for (int32_t i = 0; i < b->n_out; i += m->ws.max_head_rows) {
    const int32_t left = b->n_out - i, n = left < m->ws.max_head_rows ? left : m->ws.max_head_rows;
    weir_mat logits;
    WEIR_TRY(head(m, b, &a, i, n, &logits, e));
    WEIR_TRY(weir_op_sample(m->dev, rows + i, logits, m->n_valid, b->ask + i, e));
  }
  WEIR_TRY(weir_dev_sync(m->dev, e));
out:
  return st;
}

weir_status weir_forward_logits(weir_instance *m, const weir_batch *b, float *out_logits, weir_err *e) {
  weir_status st = WEIR_OK;
  step_arrays a;
  WEIR_TRY(body(m, b, &a, e));
  for (int32_t i = 0; i < b->n_out; i += m->ws.max_head_rows) {
    const int32_t left = b->n_out - i, n = left < m->ws.max_head_rows ? left : m->ws.max_head_rows;
    const size_t row = (size_t)m->h.n_vocab;
    weir_mat logits;
    WEIR_TRY(head(m, b, &a, i, n, &logits, e));
    WEIR_TRY(weir_dev_download(m->dev, out_logits + (size_t)i * row, logits.data, (size_t)n * row * sizeof(float), e));
    WEIR_TRY(weir_dev_sync(m->dev, e));
  }
out:
  return st;
}
