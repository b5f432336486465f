/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of device.c: whatever is wrong is refused, named, and does not reach the device. The device
 * behind is a fake that counts calls, so that right calls are seen to arrive and wrong ones not to. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/device.h"

/* ---- the fake ---- */

static int reached; /* operations that came through */

static weir_status f_alloc(weir_dev *d, size_t b, void **o, weir_err *e) {
  (void)d, (void)b, (void)o, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_upload(weir_dev *d, void *t, const void *s, size_t b, weir_err *e) {
  (void)d, (void)t, (void)s, (void)b, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_reserve(weir_dev *d, const weir_dev_limits *l, weir_err *e) {
  (void)d, (void)l, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_prepare(weir_dev *d, const weir_host_mat *p, int32_t n, weir_weight *w, weir_err *e) {
  (void)d, (void)p, (void)n, (void)w, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_embed(weir_dev *d, weir_mat y, const weir_embed_args *a, weir_err *e) {
  (void)d, (void)y, (void)a, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_norm(weir_dev *d, weir_mat y, weir_mat r, weir_mat x, const float *w, float p,
                          weir_err *e) {
  (void)d, (void)y, (void)r, (void)x, (void)w, (void)p, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_linear(weir_dev *d, weir_mat y, weir_mat x, const weir_weight *w, const float *b,
                            weir_err *e) {
  (void)d, (void)y, (void)x, (void)w, (void)b, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_angles(weir_dev *d, weir_mat a, const weir_ragged *r, const float *f, float m,
                            weir_err *e) {
  (void)d, (void)a, (void)r, (void)f, (void)m, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_rope(weir_dev *d, const weir_rope_args *a, const weir_ragged *r, weir_err *e) {
  (void)d, (void)a, (void)r, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_attend(weir_dev *d, weir_mat o, weir_mat q, const weir_ragged *r, weir_kv_layer kv,
                            const weir_attend_args *a, weir_err *e) {
  (void)d, (void)o, (void)q, (void)r, (void)kv, (void)a, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_glu(weir_dev *d, weir_mat y, weir_mat g, weir_act a, weir_err *e) {
  (void)d, (void)y, (void)g, (void)a, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_moe(weir_dev *d, weir_mat y, const weir_moe_args *a, weir_err *e) {
  (void)d, (void)y, (void)a, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_softcap(weir_dev *d, weir_mat x, float c, weir_err *e) {
  (void)d, (void)x, (void)c, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_gather(weir_dev *d, weir_mat y, weir_mat x, const int32_t *r, weir_err *e) {
  (void)d, (void)y, (void)x, (void)r, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_sample(weir_dev *d, weir_row *r, weir_top *t, weir_mat l, int32_t n, const weir_ask *a,
                            const weir_vocab_shard *s, weir_err *e) {
  (void)d, (void)r, (void)t, (void)l, (void)n, (void)a, (void)s, (void)e;
  return reached++, WEIR_OK;
}
static weir_status f_copy(weir_dev *d, weir_kv_layer kv, const int32_t *p, int32_t n, weir_err *e) {
  (void)d, (void)kv, (void)p, (void)n, (void)e;
  return reached++, WEIR_OK;
}

static const weir_dev_ops fake_ops = {.name = "fake",
                                      .alloc = f_alloc,
                                      .upload = f_upload,
                                      .reserve = f_reserve,
                                      .weight_prepare = f_prepare,
                                      .embed = f_embed,
                                      .add_rmsnorm = f_norm,
                                      .linear = f_linear,
                                      .rope_angles = f_angles,
                                      .rope_append = f_rope,
                                      .attend = f_attend,
                                      .glu = f_glu,
                                      .moe = f_moe,
                                      .softcap = f_softcap,
                                      .gather_rows = f_gather,
                                      .sample = f_sample,
                                      .kv_copy = f_copy};

/* ---- one right call of everything, to be bent ---- */

enum { N = 3, HEADS = 4, KV_HEADS = 2, HEAD = 8, COLS = 16, ROWS = 24, VOCAB = 10, EXPERTS = 4, FF = 12 };

static float cell[4096];
static int32_t ids[64];
static weir_dev dev, other_dev;

typedef struct call {
  weir_weight weight;
  weir_mat y, x, delta;
  const float *vec;     /* norm weight, inv_freq */
  float number;         /* eps, scale */
  const int32_t *index; /* tokens, rows, pairs */
  weir_ragged batch;
  const weir_ragged *batch_p;
  weir_embed_args embed; /* table, token and scale are the above */
  bool no_table;
  weir_rope_args rope;
  weir_attend_args attend;
  weir_moe_args moe;
  weir_weight gate_up[EXPERTS], down[EXPERTS];
  weir_act act;
  weir_kv_layer kv;
  weir_ask ask[N];
  weir_logit_edit edit[2];
  weir_row row[N];
  weir_top *top, top_mem[N][WEIR_TOP_MAX];
  int32_t n; /* n_valid, n_pairs */
} call;

static weir_mat mat(int32_t rows, int32_t cols) { return (weir_mat){cell, rows, cols, cols + 1}; }

static void right(call *c) {
  memset(c, 0, sizeof *c);
  c->weight = (weir_weight){.dev = &dev, .rows = ROWS, .cols = COLS, .bytes = 1, .impl = cell};
  c->vec = cell;
  c->index = ids;
  c->batch = (weir_ragged){N, 2, ids, ids, ids, ids, ids, ids, 2, 9, ids, ids, NULL};
  c->batch_p = &c->batch;
  c->kv = (weir_kv_layer){cell, WEIR_F16, 5, KV_HEADS, 16, HEAD};
  for (int i = 0; i < N; i++) c->ask[i] = (weir_ask){.temperature = 0.8f, .top_p = 1, .probe = -1};
  c->edit[0] = (weir_logit_edit){0, 1.1f, -1};
  c->edit[1] = (weir_logit_edit){VOCAB - 1, 1, WEIR_LOGIT_BAN};
  c->ask[1].edit = c->edit, c->ask[1].n_edits = 2;
  c->ask[2].n_top = WEIR_TOP_MAX;
  c->top = c->top_mem[0];
}

typedef weir_status (*op_fn)(call *, weir_err *);

static weir_status op_embed(call *c, weir_err *e) {
  c->embed.table = c->no_table ? NULL : &c->weight;
  c->embed.token = c->index;
  c->embed.scale = c->number;
  return weir_op_embed(&dev, c->y, &c->embed, e);
}
static weir_status op_norm(call *c, weir_err *e) {
  return weir_op_add_rmsnorm(&dev, c->y, c->x, c->delta, c->vec, c->number, e);
}
static weir_status op_linear(call *c, weir_err *e) {
  return weir_op_linear(&dev, c->y, c->x, &c->weight, NULL, e);
}
static weir_status op_angles(call *c, weir_err *e) {
  return weir_op_rope_angles(&dev, c->y, c->batch_p, c->vec, c->number, e);
}
static weir_status op_rope(call *c, weir_err *e) {
  return weir_op_rope_append(&dev, &c->rope, c->batch_p, e);
}
static weir_status op_attend(call *c, weir_err *e) {
  c->attend.scale = c->number;
  return weir_op_attend(&dev, c->y, c->x, c->batch_p, c->kv, &c->attend, e);
}
static weir_status op_glu(call *c, weir_err *e) { return weir_op_glu(&dev, c->y, c->x, c->act, e); }
static weir_status op_softcap(call *c, weir_err *e) { return weir_op_softcap(&dev, c->x, c->number, e); }
static weir_status op_moe(call *c, weir_err *e) { return weir_op_moe(&dev, c->y, &c->moe, e); }
static weir_status op_gather(call *c, weir_err *e) {
  return weir_op_gather_rows(&dev, c->y, c->x, c->index, e);
}
static weir_status op_sample(call *c, weir_err *e) {
  return weir_op_sample(&dev, c->row, c->top, c->x, c->n, c->ask, NULL, e);
}
static weir_status op_copy(call *c, weir_err *e) { return weir_op_kv_copy(&dev, c->kv, c->index, c->n, e); }

static void right_embed(call *c) { right(c), c->y = mat(N, COLS), c->number = 1; }
static void right_embed_shard(call *c) { right_embed(c), c->embed.first = 7, c->embed.n_vocab = 31; }
static void right_embed_none(call *c) { right_embed_shard(c), c->no_table = true; }
static void right_embed_zeroed(call *c) { right_embed_shard(c), c->weight = (weir_weight){0}; }
static void right_norm(call *c) { right(c), c->y = c->x = c->delta = mat(N, COLS), c->number = 1e-5f; }
static void right_linear(call *c) { right(c), c->x = mat(N, COLS), c->y = mat(N, ROWS); }
static void right_angles(call *c) { right(c), c->y = mat(N, HEAD), c->number = 1; }
static void right_rope(call *c) {
  right(c);
  c->rope = (weir_rope_args){.qkv = mat(N, (HEADS + 2 * KV_HEADS) * HEAD),
                             .angles = mat(N, 6),
                             .n_heads = HEADS,
                             .rope_dims = 6,
                             .q_norm = cell,
                             .norm_eps = 1e-6f,
                             .kv = c->kv};
}
static void right_attend(call *c) { right(c), c->x = c->y = mat(N, HEADS * HEAD), c->number = 0.3f; }
static void right_glu(call *c) { right(c), c->y = mat(N, COLS), c->x = mat(N, 2 * COLS); }
static void right_softcap(call *c) { right(c), c->x = mat(N, COLS), c->number = 30; }
static void right_moe(call *c) {
  right(c);
  c->y = mat(N, COLS);
  c->y.data = cell + 1024;
  for (int i = 0; i < EXPERTS; i++) {
    c->gate_up[i] = (weir_weight){.dev = &dev, .rows = 2 * FF, .cols = COLS, .bytes = 1, .impl = cell};
    c->down[i] = (weir_weight){.dev = &dev, .rows = COLS, .cols = FF, .bytes = 1, .impl = cell};
  }
  c->moe = (weir_moe_args){.x = mat(N, COLS),
                           .logits = mat(N, EXPERTS),
                           .gate_up = c->gate_up,
                           .down = c->down,
                           .n_experts = EXPERTS,
                           .n_used = 2};
}
static void right_gather(call *c) { right(c), c->x = mat(7, COLS), c->y = mat(N, COLS); }
static void right_sample(call *c) { right(c), c->x = mat(N, VOCAB), c->n = VOCAB - 1; }
static void right_copy(call *c) { right(c), c->n = 2; }

/* ---- the table of wrong ones: one change each, and what the message must contain ---- */

#define BEND(name, body) \
  static void name(call *c) { body; }

BEND(y_null, c->y.data = NULL)
BEND(x_null, c->x.data = NULL)
BEND(y_narrow_ld, c->y.ld = c->y.cols - 1)
BEND(x_narrow_ld, c->x.ld = c->x.cols - 1)
BEND(y_rows, c->y.rows++)
BEND(y_cols, c->y.cols--)
BEND(x_rows, c->x.rows--)
BEND(x_cols, c->x.cols--)
BEND(x_minus, c->x.rows = -1)
BEND(delta_cols, c->delta.cols--)
BEND(no_vec, c->vec = NULL)
BEND(no_index, c->index = NULL)
BEND(not_a_number, c->number = NAN)
BEND(negative, c->number = -1)
BEND(no_weight, c->weight.impl = NULL)
BEND(foreign_weight, c->weight.dev = &other_dev)
BEND(many_rows, c->y.rows = c->x.rows = c->delta.rows = 9)
BEND(wide, c->x.cols = c->x.ld = c->weight.cols = 65)
BEND(no_batch, c->batch_p = NULL)
BEND(batch_tokens, c->batch.n_tokens++)
BEND(batch_many, c->batch.n_tokens = 9)
BEND(batch_no_seqs, c->batch.n_seqs = 0)
BEND(batch_seqs, c->batch.n_seqs = 9)
BEND(batch_no_pos, c->batch.pos = NULL)
BEND(batch_no_seq, c->batch.seq = NULL)
BEND(batch_no_q, c->batch.q_indptr = NULL)
BEND(batch_no_kv, c->batch.kv_len = NULL)
BEND(batch_no_pages, c->batch.page_indptr = NULL)
BEND(batch_no_page, c->batch.page = NULL)
BEND(batch_q_len, c->batch.max_q_len = N + 1)
BEND(batch_kv_len, c->batch.max_kv_len = 101)
BEND(odd_angles, c->y.cols--)
BEND(rope_odd, c->rope.rope_dims = c->rope.angles.cols = 5)
BEND(rope_wide, c->rope.rope_dims = c->rope.angles.cols = HEAD + 2)
BEND(rope_heads, c->rope.n_heads++)
BEND(rope_no_heads, c->rope.n_heads = 0)
BEND(rope_angles, c->rope.angles.cols -= 2)
BEND(rope_eps, c->rope.norm_eps = NAN)
BEND(rope_kv_null, c->rope.kv.base = NULL)
BEND(rope_kv_type, c->rope.kv.dtype = WEIR_Q8_0)
BEND(rope_kv_head, c->rope.kv.head_dim = 40)
BEND(rope_kv_heads, c->rope.kv.n_kv_heads = 0)
BEND(kv_null, c->kv.base = NULL)
BEND(kv_type, c->kv.dtype = WEIR_BF16)
BEND(kv_pages, c->kv.n_pages = 0)
BEND(kv_page, c->kv.page_size = 0)
BEND(kv_group, c->kv.n_kv_heads = 3)
BEND(kv_head, c->kv.head_dim = 5)
BEND(many_heads, c->x.cols = c->y.cols = 10 * HEAD; c->x.ld = c->y.ld = 10 * HEAD)
BEND(zero, c->number = 0)
BEND(infinite, c->number = INFINITY)
BEND(window_minus, c->attend.window = -1)
BEND(cap_nan, c->attend.softcap = NAN)
BEND(cap_minus, c->attend.softcap = -50)
BEND(strange_act, c->act = (weir_act)2)
BEND(moe_act, c->moe.act = (weir_act)-1)
BEND(moe_x_null, c->moe.x.data = NULL)
BEND(moe_x_cols, c->moe.x.cols--)
BEND(moe_x_wide, c->moe.x.cols = c->moe.x.ld = c->y.cols = c->y.ld = 65)
BEND(moe_logits, c->moe.logits.cols--)
BEND(moe_logits_rows, c->moe.logits.rows--)
BEND(moe_no_experts, c->moe.n_experts = 0)
BEND(moe_many_experts, c->moe.n_experts = 9)
BEND(moe_none_used, c->moe.n_used = 0)
BEND(moe_many_used, c->moe.n_used = EXPERTS + 1)
BEND(moe_gate_up_null, c->moe.gate_up = NULL)
BEND(moe_down_null, c->moe.down = NULL)
BEND(moe_gate_up_rows, c->gate_up[2].rows--)
BEND(moe_gate_up_cols, c->gate_up[3].cols--)
BEND(moe_down_rows, c->down[0].rows++)
BEND(moe_down_cols, c->down[1].cols++)
BEND(moe_wide_ff, c->down[0].cols = 21)
BEND(moe_empty, c->down[3].impl = NULL)
BEND(moe_foreign, c->gate_up[1].dev = &other_dev)
BEND(moe_rows, c->y.rows = c->moe.x.rows = c->moe.logits.rows = 9)
BEND(moe_in_place, c->y.data = c->moe.x.data)
BEND(valid_zero, c->n = 0)
BEND(valid_more, c->n = VOCAB + 1)
BEND(vocab, c->x.cols = c->x.ld = 65; c->n = 65)
BEND(sample_rows, c->x.rows = 5)
BEND(ask_cold, c->ask[2].temperature = -0.1f)
BEND(ask_nan, c->ask[1].temperature = NAN)
BEND(ask_probe, c->ask[2].probe = VOCAB - 1)
BEND(ask_probe_low, c->ask[0].probe = -2)
BEND(ask_keep, c->ask[0].keep = (weir_keep)9)
BEND(ask_top_p, c->ask[0].top_p = 0)
BEND(ask_top_k, c->ask[0].top_k = -1)
BEND(ask_min_p, c->ask[0].min_p = NAN)
BEND(edits_minus, c->ask[0].n_edits = -1)
BEND(edits_null, c->ask[1].edit = NULL)
BEND(edit_low, c->edit[0].id = -1)
BEND(edit_high, c->edit[1].id = VOCAB)
BEND(edit_twice, c->edit[1].id = 0)
BEND(edit_scale, c->edit[1].scale = 0)
BEND(edit_scale_inf, c->edit[0].scale = INFINITY)
BEND(edit_scale_nan, c->edit[0].scale = NAN)
BEND(edit_add_inf, c->edit[0].add = -INFINITY)
BEND(edit_add_nan, c->edit[0].add = NAN)
BEND(top_minus, c->ask[0].n_top = -1)
BEND(top_many, c->ask[0].n_top = WEIR_TOP_MAX + 1)
BEND(top_null, c->top = NULL)
BEND(embed_first, c->embed.first = 1)
BEND(embed_vocab_minus, c->embed.n_vocab = -1)
BEND(embed_first_minus, c->embed.first = -1)
BEND(embed_first_high, c->embed.first = 31)
BEND(embed_beyond, c->embed.first = 8)
BEND(no_table, c->no_table = true)
BEND(pairs_minus, c->n = -1)
BEND(pairs_page, c->kv.n_pages = 3)

typedef struct wrong {
  void (*bend)(call *);
  const char *says;
} wrong;

static const struct op_case {
  const char *name; /* of the operation, and behind a comma which case */
  op_fn run;
  void (*right)(call *);
  wrong wrong[28];
} op_cases[] = {
    {"embed",
     op_embed,
     right_embed,
     {{y_null, "y is NULL"},
      {y_cols, "y is [3, 15], want [3, 16]"},
      {y_narrow_ld, "row stride of only 15"},
      {no_index, "token is NULL"},
      {no_weight, "weight"},
      {foreign_weight, "another device"},
      {infinite, "scale is inf"},
      {no_table, "weight is NULL"},
      {embed_first, "first id of a whole table is 1"},
      {embed_vocab_minus, "n_vocab is -1"},
      {many_rows, "number of rows is 9"}}},
    {"embed, a shard",
     op_embed,
     right_embed_shard,
     {{y_null, "y is NULL"},
      {y_cols, "y is [3, 15], want [3, 16]"},
      {no_index, "token is NULL"},
      {no_weight, "weight"},
      {foreign_weight, "another device"},
      {embed_first_minus, "first id of the shard is -1, want 0 to 30"},
      {embed_first_high, "first id of the shard is 31"},
      {embed_beyond, "rows of the shard is 24, want 1 to 23"},
      {many_rows, "number of rows is 9"}}},
    {"embed, a shard of nothing",
     op_embed,
     right_embed_none,
     {{y_null, "y is NULL"}, {y_narrow_ld, "row stride of only 15"}, {no_index, "token is NULL"}}},
    {"embed, a shard with a zeroed table", op_embed, right_embed_zeroed, {{y_null, "y is NULL"}}},
    {"add_rmsnorm",
     op_norm,
     right_norm,
     {{y_null, "y is NULL"},
      {x_null, "resid is NULL"},
      {y_rows, "y is [4, 16], want [3, 16]"},
      {x_cols, "y is [3, 16], want [3, 15]"},
      {delta_cols, "delta is [3, 15], want [3, 16]"},
      {no_vec, "w is NULL"},
      {not_a_number, "eps"},
      {negative, "eps is -1"},
      {many_rows, "number of rows is 9"}}},
    {"linear",
     op_linear,
     right_linear,
     {{y_null, "y is NULL"},
      {x_null, "x is NULL"},
      {x_cols, "x is [3, 15], the weight is [24, 16]"},
      {y_cols, "y is [3, 23], want [3, 24]"},
      {y_rows, "y is [4, 24], want [3, 24]"},
      {x_minus, "x is [-1, 16]"},
      {x_narrow_ld, "row stride of only 15"},
      {y_narrow_ld, "row stride of only 23"},
      {no_weight, "weight"},
      {foreign_weight, "another device"},
      {wide, "x's cols is 65"},
      {many_rows, "number of rows is 9"}}},
    {"rope_angles",
     op_angles,
     right_angles,
     {{no_batch, "batch is NULL"},
      {batch_tokens, "angles is [3, 8], want [4, 8]"},
      {batch_no_pos, "pos is NULL"},
      {odd_angles, "odd"},
      {no_vec, "inv_freq is NULL"},
      {not_a_number, "mscale is nan"},
      {y_null, "angles is NULL"}}},
    {"rope_append",
     op_rope,
     right_rope,
     {{no_batch, "batch is NULL"},
      {batch_tokens, "qkv is [3, 64], want [4, 64]"},
      {rope_odd, "rope_dims is 5, odd"},
      {rope_wide, "rope_dims is 10"},
      {rope_heads, "qkv is [3, 64], want [3, 72]"},
      {rope_no_heads, "n_heads is 0"},
      {rope_angles, "angles is [3, 4], want [3, 6]"},
      {rope_eps, "eps"},
      {rope_kv_null, "KV is NULL"},
      {rope_kv_type, "KV of type Q8_0"},
      {rope_kv_head, "head_dim is 40"},
      {rope_kv_heads, "0 heads"}}},
    {"attend",
     op_attend,
     right_attend,
     {{no_batch, "batch is NULL"},
      {batch_many, "n_tokens is 9"},
      {batch_no_seqs, "n_seqs is 0"},
      {batch_seqs, "n_seqs is 9"},
      {batch_no_seq, "seq is NULL"},
      {batch_no_q, "q_indptr is NULL"},
      {batch_no_kv, "kv_len is NULL"},
      {batch_no_pages, "page_indptr is NULL"},
      {batch_no_page, "page is NULL"},
      {batch_q_len, "max_q_len is 4"},
      {batch_kv_len, "max_kv_len is 101"},
      {batch_tokens, "q is [3, 32], want [4, 32]"},
      {y_cols, "out is [3, 31], want [3, 32]"},
      {kv_null, "KV is NULL"},
      {kv_type, "KV of type BF16"},
      {kv_pages, "0 pages"},
      {kv_page, "0 tokens"},
      {kv_group, "whole groups of 3"},
      {kv_head, "not whole groups of 2 KV heads of 5"},
      {many_heads, "number of heads is 10"},
      {not_a_number, "scale"},
      {window_minus, "window is -1"},
      {cap_nan, "softcap is nan"},
      {cap_minus, "softcap is -50"}}},
    {"glu",
     op_glu,
     right_glu,
     {{x_cols, "gate_up is [3, 31], want [3, 32]"},
      {x_rows, "gate_up is [2, 32], want [3, 32]"},
      {y_null, "y is NULL"},
      {x_null, "gate_up is NULL"},
      {strange_act, "unknown activation 2"},
      {many_rows, "number of rows is 9"}}},
    {"moe",
     op_moe,
     right_moe,
     {{moe_act, "unknown activation -1"},
      {y_null, "y is NULL"},
      {y_cols, "y is [3, 15], want [3, 16] by x"},
      {y_rows, "y is [4, 16], want [3, 16]"},
      {moe_x_null, "x is NULL"},
      {moe_x_cols, "y is [3, 16], want [3, 15]"},
      {moe_x_wide, "x's cols is 65"},
      {moe_logits, "logits is [3, 3], want [3, 4]"},
      {moe_logits_rows, "logits is [2, 4], want [3, 4]"},
      {moe_no_experts, "n_experts is 0"},
      {moe_many_experts, "n_experts is 9, want 1 to 8"},
      {moe_none_used, "n_used is 0"},
      {moe_many_used, "n_used is 5, want 1 to 4"},
      {moe_gate_up_null, "gate_up is NULL"},
      {moe_down_null, "down is NULL"},
      {moe_gate_up_rows, "gate_up of expert 2 is [23, 16], want [24, 16]"},
      {moe_gate_up_cols, "gate_up of expert 3 is [24, 15], want [24, 16]"},
      {moe_down_rows, "down of expert 0 is [17, 12], want [16, 12]"},
      {moe_down_cols, "down of expert 1 is [16, 13], want [16, 12]"},
      {moe_wide_ff, "width of an expert is 21, want 1 to 20"},
      {moe_empty, "content is NULL"},
      {moe_foreign, "another device"},
      {moe_rows, "number of rows is 9"},
      {moe_in_place, "y is x"}}},
    {"softcap",
     op_softcap,
     right_softcap,
     {{x_null, "x is NULL"},
      {x_narrow_ld, "row stride of only 15"},
      {not_a_number, "cap is nan"},
      {infinite, "cap is inf"},
      {zero, "cap is 0"},
      {negative, "cap is -1"},
      {many_rows, "number of rows is 9"}}},
    {"gather_rows",
     op_gather,
     right_gather,
     {{y_cols, "y is [3, 15], want [3, 16]"},
      {x_null, "x is NULL"},
      {y_null, "y is NULL"},
      {no_index, "row is NULL"},
      {many_rows, "number of rows is 9"}}},
    {"sample",
     op_sample,
     right_sample,
     {{x_null, "logits is NULL"},
      {valid_zero, "n_valid is 0"},
      {valid_more, "n_valid is 11"},
      {vocab, "columns is 65"},
      {sample_rows, "number of rows is 5"},
      {ask_cold, "ask 2: temperature"},
      {ask_nan, "ask 1: temperature"},
      {ask_probe, "ask 2: probe 9"},
      {ask_probe_low, "ask 0: probe -2"},
      {ask_keep, "ask 0: unknown rule 9"},
      {ask_top_p, "top_p 0"},
      {ask_top_k, "top_k -1"},
      {ask_min_p, "min_p"},
      {edits_minus, "ask 0: n_edits is -1"},
      {edits_null, "ask 1: 2 edits, and edit is NULL"},
      {edit_low, "ask 1: edit 0 is of id -1, want ascending ids below 10"},
      {edit_high, "ask 1: edit 1 is of id 10, want ascending ids below 10"},
      {edit_twice, "edit 1 is of id 0"},
      {edit_scale, "edit 1: id 9: scale 0, add -1e+30"},
      {edit_scale_inf, "edit 0: id 0: scale inf"},
      {edit_scale_nan, "scale nan"},
      {edit_add_inf, "add -inf"},
      {edit_add_nan, "add nan"},
      {top_minus, "n_top is -1"},
      {top_many, "n_top is 21, want 0 to 20"},
      {top_null, "top is NULL"}}},
    {"kv_copy",
     op_copy,
     right_copy,
     {{kv_null, "KV is NULL"},
      {no_index, "src_dst is NULL"},
      {pairs_minus, "n_pairs is -1"},
      {pairs_page, "pair 1: page 3, KV has 3"}}},
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

static void setup_dev(void) {
  const weir_dev_limits lim = {.max_tokens = 8,
                               .max_cols = 64,
                               .max_heads = 8,
                               .max_head_dim = 32,
                               .max_kv_len = 100,
                               .max_rows_out = 4,
                               .max_vocab = 64,
                               .max_experts = 8,
                               .max_expert_ff = 20};
  dev = (weir_dev){.ops = &fake_ops, .limits = lim};
  other_dev = dev;
  for (int32_t i = 0; i < 64; i++) ids[i] = i % 5;
}

static void right_calls_arrive(void **state) {
  (void)state;
  setup_dev();
  for (size_t i = 0; i < COUNT(op_cases); i++) {
    call c;
    weir_err e = {0};
    op_cases[i].right(&c);
    reached = 0;
    if (op_cases[i].run(&c, &e) != WEIR_OK) fail_msg("%s refused: %s", op_cases[i].name, e.msg);
    assert_int_equal(reached, 1);
  }
}

static void wrong_calls_are_named_and_stopped(void **state) {
  (void)state;
  setup_dev();
  int n = 0;
  for (size_t i = 0; i < COUNT(op_cases); i++) {
    for (const wrong *w = op_cases[i].wrong; w->bend; w++, n++) {
      call c;
      weir_err e = {0};
      op_cases[i].right(&c);
      w->bend(&c);
      reached = 0;
      const weir_status st = op_cases[i].run(&c, &e);
      if (st == WEIR_OK || reached) fail_msg("%s with '%s' came through", op_cases[i].name, w->says);
      if (strncmp(e.msg, op_cases[i].name, strcspn(op_cases[i].name, ",")) != 0 || !strstr(e.msg, w->says))
        fail_msg("%s: '%s' does not say '%s'", op_cases[i].name, e.msg, w->says);
    }
  }
  print_message("%d wrong calls\n", n);
}

static void no_rows_is_nothing_to_do(void **state) {
  (void)state;
  setup_dev();
  static const op_fn ops[] = {op_embed, op_norm, op_linear, op_glu, op_gather, op_sample, op_softcap};
  static void (*const rights[])(call *) = {right_embed,  right_norm,   right_linear, right_glu,
                                           right_gather, right_sample, right_softcap};
  for (size_t i = 0; i < COUNT(ops); i++) {
    call c;
    weir_err e = {0};
    rights[i](&c);
    c.y.rows = c.x.rows = c.delta.rows = 0;
    c.y.data = NULL;
    reached = 0;
    if (ops[i](&c, &e) != WEIR_OK) fail_msg("case %zu: %s", i, e.msg);
    assert_int_equal(reached, 0);
  }
}

static void weights_are_checked(void **state) {
  (void)state;
  setup_dev();
  const weir_host_mat good = {cell, WEIR_Q8_0, 4, 32};
  static const struct {
    weir_host_mat second;
    int32_t n_parts;
    const char *says;
  } cases[] = {{{cell, WEIR_F32, 4, 64}, 2, "part 1 is [4, 64], part 0 is [4, 32]"},
               {{cell, WEIR_F32, 0, 32}, 2, "part 1 is [0, 32]"},
               {{NULL, WEIR_F32, 4, 32}, 2, "data is NULL"},
               {{cell, (weir_dtype)77, 4, 32}, 2, "unknown element type 77"},
               {{cell, WEIR_F32, INT32_MAX - 2, 32}, 2, "number of rows is 2147483649"},
               {{cell, WEIR_F32, 4, 32}, 0, "number of parts is 0"}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    const weir_host_mat parts[2] = {good, cases[i].second};
    weir_weight w;
    weir_err e = {0};
    reached = 0;
    const weir_status st = weir_weight_prepare(&dev, parts, cases[i].n_parts, &w, &e);
    if (st == WEIR_OK || reached || !strstr(e.msg, cases[i].says))
      fail_msg("'%s' does not say '%s'", e.msg, cases[i].says);
    assert_null(w.dev);
    weir_weight_release(&w); /* a zeroed one is fine */
  }
  const weir_host_mat ragged = {cell, WEIR_Q4_0, 4, 33};
  weir_weight w;
  weir_err e = {0};
  assert_int_equal(weir_weight_prepare(&dev, &ragged, 1, &w, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "part 0, [4, 33]"));
}

static void limits_grow_only(void **state) {
  (void)state;
  setup_dev();
  weir_err e = {0};
  reached = 0;
  weir_dev_limits want = dev.limits;
  want.max_tokens = 2;
  assert_int_equal(weir_dev_reserve(&dev, &want, &e), WEIR_OK);
  assert_int_equal(reached, 0); /* within what was reserved */
  want.max_cols = 1000;
  assert_int_equal(weir_dev_reserve(&dev, &want, &e), WEIR_OK);
  assert_int_equal(reached, 1);
  assert_int_equal(dev.limits.max_tokens, 8);
  assert_int_equal(dev.limits.max_cols, 1000);
  want.max_experts = 9;
  assert_int_equal(weir_dev_reserve(&dev, &want, &e), WEIR_OK);
  want.max_expert_ff = 300;
  assert_int_equal(weir_dev_reserve(&dev, &want, &e), WEIR_OK);
  assert_int_equal(reached, 3);
  assert_int_equal(dev.limits.max_experts, 9);
  assert_int_equal(dev.limits.max_expert_ff, 300);
  want.max_vocab = -1;
  assert_int_equal(weir_dev_reserve(&dev, &want, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "max_vocab"));
  assert_int_equal(weir_dev_upload(&dev, NULL, cell, 4, &e), WEIR_EINVAL);
  assert_int_equal(weir_dev_upload(&dev, NULL, NULL, 0, &e), WEIR_OK);
}

static weir_status f_plan(weir_dev *d, weir_ragged *r, int32_t slot, int32_t h, weir_kv_layer kv,
                          weir_err *e) {
  (void)d, (void)h, (void)kv, (void)e;
  r->plan = &ids[slot];
  return reached++, WEIR_OK;
}
static weir_status f_memory(weir_dev *d, size_t *f, size_t *t, weir_err *e) {
  (void)d, (void)e;
  *f = 1, *t = 2;
  return reached++, WEIR_OK;
}
static uint32_t forgotten;
static void f_forget(weir_dev *d, uint32_t owner) {
  (void)d;
  forgotten = owner;
}
static weir_status f_replay(weir_dev *d, uint64_t key, weir_enqueue_fn fn, void *ctx, weir_err *e) {
  (void)d, (void)fn, (void)ctx, (void)e;
  return key == weir_replay_key(7, 3) ? (reached++, WEIR_OK) : WEIR_EINVAL;
}
static weir_status counts(void *ctx, weir_err *e) {
  (void)e;
  return ++*(int *)ctx, WEIR_EBUSY;
}

/* A device without the optional slots does without them; one that has them is asked. */
static void optional_slots(void **state) {
  (void)state;
  setup_dev();
  weir_err e = {0};
  call c;
  size_t have, all;
  int ran = 0;
  right(&c);
  c.batch.plan = cell;
  reached = 0;
  assert_int_equal(weir_op_attend_plan(&dev, &c.batch, 0, HEADS, c.kv, &e), WEIR_OK);
  assert_null(c.batch.plan);
  assert_int_equal(weir_dev_replay(&dev, 1, counts, &ran, &e), WEIR_EBUSY);
  assert_int_equal(ran, 1);
  assert_int_equal(weir_dev_memory(&dev, &have, &all, &e), WEIR_EUNSUP);
  assert_non_null(strstr(e.msg, "fake"));
  weir_dev_forget(&dev, 3);
  assert_int_equal(reached, 0);
  const uint32_t one = weir_dev_new_owner(&dev);
  assert_int_not_equal(one, weir_dev_new_owner(&dev));

  weir_dev_ops more = fake_ops;
  more.attend_plan = f_plan;
  more.memory = f_memory;
  more.forget = f_forget;
  more.replay = f_replay;
  weir_dev full = dev;
  full.ops = &more;
  assert_int_equal(weir_op_attend_plan(&full, &c.batch, 1, HEADS, c.kv, &e), WEIR_OK);
  assert_ptr_equal(c.batch.plan, &ids[1]);
  assert_int_equal(weir_dev_memory(&full, &have, &all, &e), WEIR_OK);
  assert_int_equal(all, 2);
  assert_int_equal(weir_dev_replay(&full, weir_replay_key(7, 3), counts, &ran, &e), WEIR_OK);
  assert_int_equal(ran, 1);
  weir_dev_forget(&full, 9);
  assert_int_equal(forgotten, 9);
  assert_int_equal(reached, 3);
  /* ... but never with what is wrong */
  assert_int_equal(weir_op_attend_plan(&full, &c.batch, WEIR_PLAN_SLOTS, HEADS, c.kv, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "slot"));
  c.batch.host_kv_len = NULL;
  assert_int_equal(weir_op_attend_plan(&full, &c.batch, 0, HEADS, c.kv, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "host_kv_len"));
  assert_null(c.batch.plan);
  c.batch.n_tokens = 0;
  assert_int_equal(weir_op_attend_plan(&full, &c.batch, 0, HEADS, c.kv, &e), WEIR_OK);
  assert_int_equal(reached, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(right_calls_arrive),       cmocka_unit_test(wrong_calls_are_named_and_stopped),
      cmocka_unit_test(no_rows_is_nothing_to_do), cmocka_unit_test(weights_are_checked),
      cmocka_unit_test(limits_grow_only),         cmocka_unit_test(optional_slots),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
