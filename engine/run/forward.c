/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder of all families: embed, then per layer norm, qkv, rotate and append, attend, project, norm,
 * gated MLP or experts; head and sampling on the wanted rows only. What differs between families is read from
 * the hyper-parameters. Of a model that is cut over ranks (run/shard.h) it computes this rank's part, and the
 * ranks add up the embedding, what attention adds, and what the MLP adds; so all have the same hidden states,
 * and each the logits of its part of the vocabulary. Owns nothing; the thread that owns the instance's
 * device. */
#include "run/forward.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/sample_math.h"
#include "run/gate.h"

/* Rows [first, first+n) of a workspace matrix. */
static weir_mat rows_at(weir_mat m, int32_t first, int32_t n) {
  m.data += (size_t)first * (size_t)m.ld;
  m.rows = n;
  return m;
}
static weir_mat rows_of(weir_mat m, int32_t n) { return rows_at(m, 0, n); }

static const weir_mat none = {0};

typedef struct step_arrays {
  weir_ragged all;    /* every row */
  weir_ragged wanted; /* the rows whose logits are asked for, over the same KV */
  const int32_t *token, *out_row;
} step_arrays;

/* Step arrays go to the device in one copy. */
static weir_status upload_arrays(weir_instance *m, const weir_batch *b, step_arrays *out, weir_err *e) {
  int32_t *host = m->ws.ints_host;
  const size_t n = (size_t)b->n_tokens, w = (size_t)b->n_out, s = (size_t)b->n_seqs;
  const size_t n_pages = (size_t)b->page_indptr[b->n_seqs];
  int32_t *token = host, *pos = token + n, *seq = pos + n, *out_row = seq + n, *w_pos = out_row + w,
          *w_seq = w_pos + w;
  int32_t *q_indptr = w_seq + w, *w_indptr = q_indptr + s + 1, *page_indptr = w_indptr + s + 1;
  int32_t *kv_len = page_indptr + s + 1, *page = kv_len + s;
  memcpy(token, b->token, n * sizeof *host);
  memcpy(pos, b->pos, n * sizeof *host);
  memcpy(out_row, b->out_row, w * sizeof *host);
  memcpy(q_indptr, b->q_indptr, (s + 1) * sizeof *host);
  memcpy(page_indptr, b->page_indptr, (s + 1) * sizeof *host);
  memcpy(kv_len, b->kv_len, s * sizeof *host);
  memcpy(page, b->page, n_pages * sizeof *host);
  int32_t max_q = 0, max_kv = 0, max_w = 0, o = 0;
  for (int32_t i = 0; i < b->n_seqs; i++) {
    const int32_t end = q_indptr[i + 1], q = end - q_indptr[i];
    for (int32_t r = q_indptr[i]; r < end; r++) seq[r] = i;
    w_indptr[i] = o;
    for (; o < b->n_out && out_row[o] < end; o++) {
      w_pos[o] = pos[out_row[o]];
      w_seq[o] = i;
    }
    if (q > max_q) max_q = q;
    if (o - w_indptr[i] > max_w) max_w = o - w_indptr[i];
    if (kv_len[i] > max_kv) max_kv = kv_len[i];
  }
  w_indptr[b->n_seqs] = o;
  int32_t *dev = m->ws.ints;
#define ON_DEVICE(p) (dev + ((p)-host))
  *out = (step_arrays){.all = {.n_tokens = b->n_tokens,
                               .n_seqs = b->n_seqs,
                               .pos = ON_DEVICE(pos),
                               .seq = ON_DEVICE(seq),
                               .q_indptr = ON_DEVICE(q_indptr),
                               .kv_len = ON_DEVICE(kv_len),
                               .page_indptr = ON_DEVICE(page_indptr),
                               .page = ON_DEVICE(page),
                               .max_q_len = max_q,
                               .max_kv_len = max_kv,
                               .host_q_indptr = q_indptr,
                               .host_kv_len = kv_len},
                       .token = ON_DEVICE(token),
                       .out_row = ON_DEVICE(out_row)};
  out->wanted = out->all;
  if (b->n_out < b->n_tokens) {
    out->wanted.n_tokens = b->n_out;
    out->wanted.pos = ON_DEVICE(w_pos);
    out->wanted.seq = ON_DEVICE(w_seq);
    out->wanted.q_indptr = ON_DEVICE(w_indptr);
    out->wanted.host_q_indptr = w_indptr;
    out->wanted.max_q_len = max_w;
  }
#undef ON_DEVICE
  return weir_dev_upload(m->dev, dev, host, (size_t)(page + n_pages - host) * sizeof *host, e);
}

/* x <- the sum over the ranks. */
static weir_status reduce(const weir_instance *m, weir_mat x, weir_err *e) {
  if (m->shard.n_ranks == 1) return WEIR_OK;
  return weir_comm_all_reduce(m->comm, x.data, (size_t)x.rows * (size_t)x.cols, e);
}

/* The way layer i turns q and k. */
static const weir_turn *turn_of(const weir_instance *m, int32_t i) {
  return m->h.windowed[i] && m->ws.turn_local.inv_freq ? &m->ws.turn_local : &m->ws.turn;
}

/* First half of a layer: norm, q k v, rotation, KV. */
static weir_status project(weir_instance *m, int32_t i, const weir_ragged *r, weir_err *e) {
  const weir_hparams *h = &m->h;
  const weir_layer *y = &m->w.layer[i];
  const weir_workspace *ws = &m->ws;
  const int32_t n = r->n_tokens;
  weir_status st = WEIR_OK;
  const weir_mat delta = i > 0 ? rows_of(ws->delta, n) : none, qkv = rows_of(ws->qkv, n);
  WEIR_TRY(weir_op_add_rmsnorm(m->dev, rows_of(ws->norm, n), rows_of(ws->x, n), delta, y->attn_norm,
                               h->norm_eps, e));
  WEIR_TRY(weir_op_linear(m->dev, qkv, rows_of(ws->norm, n), &y->qkv, y->qkv_bias, e));
  const weir_rope_args rope = {.qkv = qkv,
                               .angles = rows_of(turn_of(m, i)->angles, n),
                               .n_heads = h->n_heads,
                               .rope_dims = h->rope_dims,
                               .interleaved = h->rope_interleaved,
                               .q_norm = y->q_norm,
                               .k_norm = y->k_norm,
                               .norm_eps = h->norm_eps,
                               .kv = m->kv.layer[i]};
  WEIR_TRY(weir_op_rope_append(m->dev, &rope, r, e));
out:
  return st;
}

/* delta <- what the layer adds, of which `raw` is the part before its own norm (NULL: it has none). */
static weir_status post_norm(weir_instance *m, weir_mat raw, const float *norm, weir_err *e) {
  const weir_mat delta = rows_of(m->ws.delta, raw.rows);
  return norm ? weir_op_add_rmsnorm(m->dev, delta, raw, none, norm, m->h.norm_eps, e) : WEIR_OK;
}

/* y <- MLP or experts of x. */
static weir_status mlp(weir_instance *m, const weir_layer *l, weir_mat y, weir_mat x, weir_err *e) {
  const weir_hparams *h = &m->h;
  const weir_mat gate_up = rows_of(m->ws.gate_up, x.rows), ff = rows_of(m->ws.ff, x.rows);
  weir_status st = WEIR_OK;
  if (m->shard.ff.n == 0) return weir_op_gather_rows(m->dev, y, m->ws.zero_row, m->ws.zero_index, e);
  if (h->n_experts > 0) {
    const weir_moe_args moe = {.x = x,
                               .logits = rows_of(m->ws.route, x.rows),
                               .gate_up = l->expert_gate_up,
                               .down = l->expert_down,
                               .n_experts = h->n_experts,
                               .n_used = h->n_experts_used,
                               .renormalise = h->expert_renorm,
                               .act = h->act};
    WEIR_TRY(weir_op_linear(m->dev, moe.logits, x, &l->router, NULL, e));
    return weir_op_moe(m->dev, y, &moe, e);
  }
  WEIR_TRY(weir_op_linear(m->dev, gate_up, x, &l->gate_up, NULL, e));
  WEIR_TRY(weir_op_glu(m->dev, ff, gate_up, h->act, e));
  WEIR_TRY(weir_op_linear(m->dev, y, ff, &l->down, NULL, e));
out:
  return st;
}

/* Second half: attention and MLP of the rows in x, whose queries are in q; leaves the MLP's part in delta. */
static weir_status mix(weir_instance *m, int32_t i, const weir_ragged *r, weir_mat x, weir_mat q,
                       weir_err *e) {
  const weir_hparams *h = &m->h;
  const weir_layer *y = &m->w.layer[i];
  const weir_workspace *ws = &m->ws;
  const int32_t n = r->n_tokens;
  weir_status st = WEIR_OK;
  const weir_mat att = rows_of(ws->att, n), delta = rows_of(ws->delta, n), norm = rows_of(ws->norm, n);
  const weir_mat part = h->post_norms ? rows_of(ws->raw, n) : delta;
  weir_mat heads = att; /* without the zeros beside them */
  heads.data += m->shard.heads.first * h->head_dim - m->shard.att.first;
  heads.cols = q.cols;
  const weir_attend_args attend = {
      .scale = h->attn_scale, .window = h->windowed[i] ? h->window : 0, .softcap = h->attn_softcap};
  WEIR_TRY(weir_op_attend(m->dev, heads, q, r, m->kv.layer[i], &attend, e));
  WEIR_TRY(weir_op_linear(m->dev, part, att, &y->attn_out, NULL, e));
  WEIR_TRY(reduce(m, part, e));
  WEIR_TRY(post_norm(m, part, y->attn_post_norm, e));
  WEIR_TRY(weir_op_add_rmsnorm(m->dev, norm, x, delta, y->ffn_norm, h->norm_eps, e));
  WEIR_TRY(mlp(m, y, part, norm, e));
  WEIR_TRY(reduce(m, part, e));
  WEIR_TRY(post_norm(m, part, y->ffn_post_norm, e));
out:
  return st;
}

/* One step under way. */
typedef struct step {
  weir_instance *m;
  const weir_batch *b;
  step_arrays a;
  bool wants_hidden;
} step;

/* All that goes between host and device before a step's first operation. */
static weir_status begin(step *s, weir_instance *m, const weir_batch *b, weir_err *e) {
  const weir_kv_layer kv = m->kv.layer[0];
  weir_status st = WEIR_OK;
  *s = (step){.m = m, .b = b};
  WEIR_TRY(weir_instance_ready(m, e));
  if (b->page_indptr[b->n_seqs] > m->ws.max_page_entries)
    return weir_fail(e, WEIR_EINVAL, "batch: %d page entries, at most %d", b->page_indptr[b->n_seqs],
                     m->ws.max_page_entries);
  WEIR_TRY(upload_arrays(m, b, &s->a, e));
  WEIR_TRY(weir_op_attend_plan(m->dev, &s->a.all, 0, m->h.n_heads, kv, e));
  if (b->n_out < b->n_tokens)
    WEIR_TRY(weir_op_attend_plan(m->dev, &s->a.wanted, 1, m->h.n_heads, kv, e));
  else
    s->a.wanted.plan = s->a.all.plan;
  for (int32_t i = 0; b->n_copies > 0 && i < m->h.n_layers; i++)
    WEIR_TRY(weir_op_kv_copy(m->dev, m->kv.layer[i], b->copy_src_dst, b->n_copies, e));
out:
  return st;
}

/* The hidden states of the wanted rows are the sum of this and the first n_out rows of the workspace's delta.
 */
static weir_mat hidden_of(const step *s) {
  const weir_workspace *ws = &s->m->ws;
  return rows_of(s->b->n_out < s->b->n_tokens ? ws->last_x : ws->x, s->b->n_out);
}

/* All layers. The last is computed for the wanted rows only: for the others it has nothing to do but fill KV,
 * which is most of what a prompt or a catch-up asks of it. */
static weir_status body(const step *s, weir_err *e) {
  weir_instance *m = s->m;
  const step_arrays *a = &s->a;
  const weir_workspace *ws = &m->ws;
  const int32_t n = s->b->n_tokens, n_out = s->b->n_out, last = m->h.n_layers - 1;
  weir_status st = WEIR_OK;
  weir_mat x = rows_of(ws->x, n), q = rows_of(ws->qkv, n);
  q.cols = m->h.n_heads * m->h.head_dim;
  const weir_embed_args embed = {.table = &m->w.embed,
                                 .token = a->token,
                                 .scale = m->h.embed_scale,
                                 .first = m->shard.vocab.first,
                                 .n_vocab = m->shard.n_ranks > 1 ? m->h.n_vocab : 0};
  WEIR_TRY(weir_op_embed(m->dev, x, &embed, e));
  WEIR_TRY(reduce(m, x, e));
  for (int32_t i = 0; i < 2; i++) {
    const weir_turn *t = i ? &ws->turn_local : &ws->turn;
    if (t->inv_freq)
      WEIR_TRY(weir_op_rope_angles(m->dev, rows_of(t->angles, n), &a->all, t->inv_freq, t->mscale, e));
  }
  for (int32_t i = 0; i < last; i++) {
    WEIR_TRY(project(m, i, &a->all, e));
    WEIR_TRY(mix(m, i, &a->all, x, q, e));
  }
  WEIR_TRY(project(m, last, &a->all, e));
  if (n_out == 0) goto out;
  if (n_out < n) {
    WEIR_TRY(weir_op_gather_rows(m->dev, rows_of(ws->last_x, n_out), x, a->out_row, e));
    WEIR_TRY(weir_op_gather_rows(m->dev, rows_of(ws->last_q, n_out), q, a->out_row, e));
    x = rows_of(ws->last_x, n_out);
    q = rows_of(ws->last_q, n_out);
  }
  WEIR_TRY(mix(m, last, &a->wanted, x, q, e));
out:
  return st;
}

/* The rank's columns of the first n rows; there may be none. */
static weir_mat logits_of(const weir_instance *m, int32_t n) {
  weir_mat logits = rows_of(m->ws.logits, n);
  logits.cols = m->shard.vocab.n;
  return logits;
}

/* Logits of wanted rows [first, first+n) into the first n rows of the workspace's, behind their hidden states
 * in its norm; what the gate's head makes of these. */
static weir_status head(const step *s, int32_t first, int32_t n, weir_err *e) {
  const weir_instance *m = s->m;
  const weir_workspace *ws = &m->ws;
  const weir_mat norm = rows_of(ws->norm, n), logits = logits_of(m, n);
  weir_status st = WEIR_OK;
  if (logits.cols == 0 && !weir_instance_has_gate(m) && !s->wants_hidden) return WEIR_OK;
  WEIR_TRY(weir_op_add_rmsnorm(m->dev, norm, rows_at(hidden_of(s), first, n), rows_at(ws->delta, first, n),
                               m->w.out_norm, m->h.norm_eps, e));
  WEIR_TRY(weir_gate_dots(m, norm, first, e));
  if (logits.cols == 0) return WEIR_OK;
  WEIR_TRY(weir_op_linear(m->dev, logits, norm, m->w.head, NULL, e));
  if (m->h.final_softcap > 0.0f) WEIR_TRY(weir_op_softcap(m->dev, logits, m->h.final_softcap, e));
out:
  return st;
}

/* A step of the shape that comes most: one token of each sequence, a row wanted of each. Such steps of the
 * same number of sequences differ in what the step arrays hold and in nothing else. */
static bool is_decode(const weir_batch *b) { return b->n_tokens == b->n_seqs && b->n_out == b->n_tokens; }

static weir_status body_and_first_head(void *ctx, weir_err *e) {
  const step *s = (const step *)ctx;
  const int32_t n = s->b->n_out, most = s->m->ws.max_head_rows;
  weir_status st = WEIR_OK;
  WEIR_TRY(body(s, e));
  if (n > 0) WEIR_TRY(head(s, 0, n < most ? n : most, e));
out:
  return st;
}

/* A step that fails halfway has lent the device rows that the caller may free: they come back first. */
static weir_status give_back(weir_instance *m, weir_status failed) {
  (void)weir_dev_sync(m->dev, NULL);
  return failed;
}

static weir_status gather(void *comm, void *out, const void *in, size_t bytes, weir_err *e) {
  return weir_comm_all_gather((weir_comm *)comm, out, in, bytes, e);
}

/* rows and top: of wanted rows [first, first+n), whose logits are there. */
static weir_status sample(const step *s, int32_t first, int32_t n, weir_row *rows, weir_top *top,
                          weir_err *e) {
  const weir_instance *m = s->m;
  const weir_shard *cut = &m->shard;
  const weir_vocab_shard shard = {.rank = cut->rank,
                                  .n_ranks = cut->n_ranks,
                                  .first = cut->vocab.first,
                                  .max_chunks = weir_sample_n_chunks(cut->max_vocab),
                                  .all_gather = gather,
                                  .ctx = m->comm};
  return weir_op_sample(m->dev, rows + first, top ? top + (size_t)first * WEIR_TOP_MAX : NULL,
                        logits_of(m, n), m->n_valid, s->b->ask + first, cut->n_ranks > 1 ? &shard : NULL, e);
}

weir_status weir_forward(weir_instance *m, const weir_batch *b, weir_row *rows, weir_top *top, weir_err *e) {
  weir_status st = WEIR_OK;
  step s;
  WEIR_TRY(begin(&s, m, b, e));
  if (is_decode(b))
    WEIR_TRY(weir_dev_replay(m->dev, weir_replay_key(m->owner, (uint32_t)b->n_tokens), body_and_first_head,
                             &s, e));
  else
    WEIR_TRY(body_and_first_head(&s, e));
  for (int32_t i = 0; i < b->n_out; i += m->ws.max_head_rows) {
    const int32_t left = b->n_out - i, n = left < m->ws.max_head_rows ? left : m->ws.max_head_rows;
    if (i > 0) WEIR_TRY(head(&s, i, n, e));
    WEIR_TRY(sample(&s, i, n, rows, top, e));
  }
  WEIR_TRY(weir_gate_fetch(m, b->n_out, e));
  WEIR_TRY(weir_dev_sync(m->dev, e));
  weir_gate_fill(m, rows, b->n_out);
  return WEIR_OK;
out:
  return give_back(m, st);
}

weir_status weir_forward_hidden(weir_instance *m, const weir_batch *b, weir_row *rows, float *hidden,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t dim = (size_t)m->h.dim;
  step s;
  WEIR_TRY(begin(&s, m, b, e));
  s.wants_hidden = true;
  WEIR_TRY(body(&s, e));
  for (int32_t i = 0; i < b->n_out; i += m->ws.max_head_rows) {
    const int32_t left = b->n_out - i, n = left < m->ws.max_head_rows ? left : m->ws.max_head_rows;
    WEIR_TRY(head(&s, i, n, e));
    WEIR_TRY(weir_dev_download(m->dev, hidden + (size_t)i * dim, m->ws.norm.data,
                               (size_t)n * dim * sizeof *hidden, e));
    if (rows) WEIR_TRY(sample(&s, i, n, rows, NULL, e));
  }
  if (rows) WEIR_TRY(weir_gate_fetch(m, b->n_out, e));
  WEIR_TRY(weir_dev_sync(m->dev, e));
  if (rows) weir_gate_fill(m, rows, b->n_out);
  return WEIR_OK;
out:
  return give_back(m, st);
}

/* ---- whole rows of logits ---- */

/* Where several ranks' columns come together: on the device and in host memory, [n_ranks][max_head_rows,
 * max_vocab] each. */
typedef struct whole {
  float *dev, *host;
} whole;

static weir_status whole_init(whole *w, weir_instance *m, weir_err *e) {
  const size_t n = (size_t)m->shard.n_ranks * (size_t)m->ws.max_head_rows * (size_t)m->shard.max_vocab;
  weir_status st = WEIR_OK;
  if (m->shard.n_ranks == 1) return WEIR_OK;
  WEIR_TRY(WEIR_NEW(n, &w->host, e));
  WEIR_TRY(weir_dev_alloc(m->dev, n * sizeof *w->dev, (void **)&w->dev, e));
out:
  return st;
}

static void whole_fini(whole *w, weir_instance *m) {
  if (w->dev) weir_dev_release(m->dev, w->dev);
  free(w->host);
}

/* out[n, n_vocab] <- the first n rows of logits, of all ranks. */
static weir_status get_whole(weir_instance *m, const whole *w, int32_t n, float *out, weir_err *e) {
  const weir_shard *s = &m->shard;
  const size_t each = (size_t)n * (size_t)s->max_vocab, bytes = each * sizeof(float);
  weir_status st = WEIR_OK;
  if (s->n_ranks == 1) {
    WEIR_TRY(weir_dev_download(m->dev, out, m->ws.logits.data, bytes, e));
    return weir_dev_sync(m->dev, e);
  }
  WEIR_TRY(weir_comm_all_gather(m->comm, w->dev, m->ws.logits.data, bytes, e));
  WEIR_TRY(weir_dev_download(m->dev, w->host, w->dev, (size_t)s->n_ranks * bytes, e));
  WEIR_TRY(weir_dev_sync(m->dev, e));
  for (int32_t r = 0; r < s->n_ranks; r++) {
    const weir_share v = weir_shard_vocab(m->h.n_vocab, r, s->n_ranks);
    for (int32_t i = 0; i < n; i++)
      memcpy(out + (size_t)i * (size_t)m->h.n_vocab + v.first,
             w->host + (size_t)r * each + (size_t)i * (size_t)s->max_vocab, (size_t)v.n * sizeof(float));
  }
out:
  return st;
}

weir_status weir_forward_logits(weir_instance *m, const weir_batch *b, float *out_logits, weir_err *e) {
  weir_status st = WEIR_OK;
  whole w = {0};
  step s;
  WEIR_TRY(whole_init(&w, m, e));
  WEIR_TRY(begin(&s, m, b, e));
  WEIR_TRY(body_and_first_head(&s, e));
  for (int32_t i = 0; i < b->n_out; i += m->ws.max_head_rows) {
    const int32_t left = b->n_out - i, n = left < m->ws.max_head_rows ? left : m->ws.max_head_rows;
    if (i > 0) WEIR_TRY(head(&s, i, n, e));
    WEIR_TRY(get_whole(m, &w, n, out_logits + (size_t)i * (size_t)m->h.n_vocab, e));
  }
out:
  if (st != WEIR_OK) (void)weir_dev_sync(m->dev, NULL);
  whole_fini(&w, m);
  return st;
}
