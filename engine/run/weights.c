/* SPDX-License-Identifier: Apache-2.0 */
/* Loads weights: which tensors a model has is said here and nowhere else. Owns the device copies; what was
 * read of the file is let go at once, and it may be closed afterwards. Calls the device and the file reader;
 * the thread that owns the device. */
#include "run/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/quant.h"

typedef struct loader {
  weir_dev *dev;
  const weir_mfile *file;
  const weir_hparams *h;
  const weir_load_progress *progress;
  int64_t done, total;
  weir_strmap taken; /* names of the tensors that were read */
  weir_err *e;
} loader;

static void tensor_name(char *buf, size_t cap, int32_t layer, const char *what) {
  if (layer < 0)
    snprintf(buf, cap, "%s", what);
  else
    snprintf(buf, cap, "blk.%d.%s", layer, what);
}

static void advance(loader *l, const weir_tensor_info *t) {
  l->done += (int64_t)t->bytes;
  if (l->progress && l->progress->report) l->progress->report(l->progress->ctx, l->done, l->total);
}

/* A tensor of [rows, cols]; cols < 0: a vector of `rows`. Released by the caller. */
static weir_status take(loader *l, int32_t layer, const char *what, int64_t rows, int64_t cols,
                        weir_tensor *out) {
  char name[96];
  weir_tensor_info t;
  tensor_name(name, sizeof name, layer, what);
  *out = (weir_tensor){0};
  if (!weir_mfile_find(l->file, name, &t)) return weir_fail(l->e, WEIR_EFORMAT, "tensor %s is missing", name);
  const int64_t want0 = cols < 0 ? rows : cols, want1 = cols < 0 ? 1 : rows;
  if (t.dim[0] != want0 || t.dim[1] != want1 || t.dim[2] != 1 || t.dim[3] != 1)
    return weir_fail(l->e, WEIR_EFORMAT, "tensor %s: want [%lld, %lld], file has [%lld, %lld, %lld, %lld] %s",
                     name, (long long)want1, (long long)want0, (long long)t.dim[3], (long long)t.dim[2],
                     (long long)t.dim[1], (long long)t.dim[0], weir_dtype_get(t.dtype)->name);
  weir_strmap_add(&l->taken, t.name, 1);
  return weir_mfile_read(l->file, name, out, l->e);
}

/* Concatenated, each with `plus` added. */
static weir_status upload_floats(loader *l, const weir_tensor *t, int32_t n_parts, float plus, float **out) {
  weir_status st = WEIR_OK;
  float *host = NULL;
  size_t n = 0, at = 0;
  for (int32_t i = 0; i < n_parts; i++) n += (size_t)t[i].info.dim[0];
  WEIR_TRY(WEIR_NEW(n, &host, l->e));
  for (int32_t i = 0; i < n_parts; i++) {
    WEIR_TRY(weir_dequantize_row(t[i].info.dtype, t[i].data, host + at, t[i].info.dim[0], l->e));
    at += (size_t)t[i].info.dim[0];
  }
  for (size_t i = 0; plus != 0.0f && i < n; i++) host[i] += plus;
  WEIR_TRY(weir_dev_alloc(l->dev, n * sizeof(float), (void **)out, l->e));
  WEIR_TRY(weir_dev_upload(l->dev, *out, host, n * sizeof(float), l->e));
  WEIR_TRY(weir_dev_sync(l->dev, l->e));
  for (int32_t i = 0; i < n_parts; i++) advance(l, &t[i].info);
out:
  free(host);
  return st;
}

static weir_status load_norm(loader *l, int32_t layer, const char *what, int64_t n, float **out) {
  weir_tensor t;
  weir_status st = take(l, layer, what, n, -1, &t);
  if (st == WEIR_OK) st = upload_floats(l, &t, 1, l->h->norm_plus_one ? 1.0f : 0.0f, out);
  weir_mfile_let_go(l->file, &t);
  return st;
}

typedef struct part {
  const char *what;
  int64_t rows;
} part;

enum { MAX_PARTS = 3 };

/* Matrices that share an input become one weight. */
static weir_status load_matrix(loader *l, int32_t layer, const part *p, int32_t n_parts, int64_t cols,
                               weir_weight *out) {
  weir_host_mat m[MAX_PARTS];
  weir_tensor t[MAX_PARTS] = {0};
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < n_parts; i++) {
    WEIR_TRY(take(l, layer, p[i].what, p[i].rows, cols, &t[i]));
    m[i] = (weir_host_mat){t[i].data, t[i].info.dtype, (int32_t)p[i].rows, (int32_t)cols};
  }
  st = weir_weight_prepare(l->dev, m, n_parts, out, l->e);
  if (st != WEIR_OK) {
    char name[96];
    tensor_name(name, sizeof name, layer, p[0].what);
    weir_fail_ctx(l->e, st, "tensor %s", name);
    goto out;
  }
  for (int32_t i = 0; i < n_parts; i++) advance(l, &t[i].info);
out:
  for (int32_t i = 0; i < n_parts; i++) weir_mfile_let_go(l->file, &t[i]);
  return st;
}

static bool has(const loader *l, int32_t layer, const char *what) {
  char name[96];
  tensor_name(name, sizeof name, layer, what);
  return weir_mfile_find(l->file, name, NULL);
}

static weir_status load_bias(loader *l, int32_t i, int64_t n_q, int64_t n_kv, float **out) {
  weir_tensor t[MAX_PARTS] = {0};
  weir_status st = WEIR_OK;
  int32_t n = 0;
  if (has(l, i, "attn_qkv.bias")) {
    WEIR_TRY(take(l, i, "attn_qkv.bias", n_q + 2 * n_kv, -1, &t[n++]));
  } else if (has(l, i, "attn_q.bias") || has(l, i, "attn_k.bias") || has(l, i, "attn_v.bias")) {
    WEIR_TRY(take(l, i, "attn_q.bias", n_q, -1, &t[n++]));
    WEIR_TRY(take(l, i, "attn_k.bias", n_kv, -1, &t[n++]));
    WEIR_TRY(take(l, i, "attn_v.bias", n_kv, -1, &t[n++]));
  }
  if (n > 0) WEIR_TRY(upload_floats(l, t, n, 0.0f, out));
out:
  for (int32_t k = 0; k < n; k++) weir_mfile_let_go(l->file, &t[k]);
  return st;
}

static weir_status load_attention(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  const int64_t n_q = (int64_t)h->n_heads * h->head_dim, n_kv = (int64_t)h->n_kv_heads * h->head_dim;
  const part fused = {"attn_qkv.weight", n_q + 2 * n_kv};
  const part apart[] = {{"attn_q.weight", n_q}, {"attn_k.weight", n_kv}, {"attn_v.weight", n_kv}};
  const bool is_fused = has(l, i, fused.what);
  weir_status st = WEIR_OK;
  WEIR_TRY(load_norm(l, i, "attn_norm.weight", h->dim, &y->attn_norm));
  WEIR_TRY(load_matrix(l, i, is_fused ? &fused : apart, is_fused ? 1 : 3, h->dim, &y->qkv));
  WEIR_TRY(load_bias(l, i, n_q, n_kv, &y->qkv_bias));
  if (h->qk_norm) {
    WEIR_TRY(load_norm(l, i, "attn_q_norm.weight", h->head_dim, &y->q_norm));
    WEIR_TRY(load_norm(l, i, "attn_k_norm.weight", h->head_dim, &y->k_norm));
  }
  WEIR_TRY(load_matrix(l, i, (const part[]){{"attn_output.weight", h->dim}}, 1, n_q, &y->attn_out));
  if (h->post_norms) WEIR_TRY(load_norm(l, i, "post_attention_norm.weight", h->dim, &y->attn_post_norm));
out:
  return st;
}

static weir_status load_mlp(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  const part fused = {"ffn_up.weight", 2 * (int64_t)h->n_ff}; /* gate | up */
  const part apart[] = {{"ffn_gate.weight", h->n_ff}, {"ffn_up.weight", h->n_ff}};
  const bool is_fused = !has(l, i, apart[0].what);
  weir_status st = WEIR_OK;
  WEIR_TRY(load_matrix(l, i, is_fused ? &fused : apart, is_fused ? 1 : 2, h->dim, &y->gate_up));
  WEIR_TRY(load_matrix(l, i, (const part[]){{"ffn_down.weight", h->dim}}, 1, h->n_ff, &y->down));
out:
  return st;
}

/* Experts beyond those that the router knows would be dropped in silence. */
static weir_status check_stacks(loader *l, int32_t i) {
  static const char *const what[] = {"ffn_gate", "ffn_up", "ffn_down"};
  for (size_t k = 0; k < sizeof what / sizeof *what; k++) {
    char beyond[48];
    weir_tensor_info t;
    char name[96], shown[WEIR_STR_SHOW_BYTES];
    snprintf(beyond, sizeof beyond, "%s.%d.weight", what[k], l->h->n_experts);
    tensor_name(name, sizeof name, i, beyond);
    if (weir_mfile_find(l->file, name, &t))
      return weir_fail(l->e, WEIR_EFORMAT, "tensor %s: more than %d experts", weir_str_show(t.name, shown),
                       l->h->n_experts);
  }
  return WEIR_OK;
}

static weir_status load_experts(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  weir_status st = WEIR_OK;
  WEIR_TRY(load_matrix(l, i, (const part[]){{"ffn_gate_inp.weight", h->n_experts}}, 1, h->dim, &y->router));
  WEIR_TRY(WEIR_NEW((size_t)h->n_experts, &y->expert_gate_up, l->e));
  WEIR_TRY(WEIR_NEW((size_t)h->n_experts, &y->expert_down, l->e));
  WEIR_TRY(check_stacks(l, i));
  for (int32_t k = 0; k < h->n_experts; k++) {
    char gate[32], up[32], down[32];
    snprintf(gate, sizeof gate, "ffn_gate.%d.weight", k);
    snprintf(up, sizeof up, "ffn_up.%d.weight", k);
    snprintf(down, sizeof down, "ffn_down.%d.weight", k);
    WEIR_TRY(load_matrix(l, i, (const part[]){{gate, h->expert_ff}, {up, h->expert_ff}}, 2, h->dim,
                         &y->expert_gate_up[k]));
    WEIR_TRY(load_matrix(l, i, (const part[]){{down, h->dim}}, 1, h->expert_ff, &y->expert_down[k]));
  }
out:
  return st;
}

static weir_status load_layer(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  weir_status st = WEIR_OK;
  WEIR_TRY(load_attention(l, i, y));
  WEIR_TRY(load_norm(l, i, "ffn_norm.weight", h->dim, &y->ffn_norm));
  WEIR_TRY(h->n_experts > 0 ? load_experts(l, i, y) : load_mlp(l, i, y));
  if (h->post_norms) WEIR_TRY(load_norm(l, i, "post_ffw_norm.weight", h->dim, &y->ffn_post_norm));
out:
  return st;
}

static bool contains(weir_str s, const char *what) {
  const size_t n = strlen(what);
  for (size_t i = 0; i + n <= s.len; i++)
    if (memcmp(s.data + i, what, n) == 0) return true;
  return false;
}

/* A tensor of a layer that the forward pass would not use (a bias, a norm, a shared expert) must not be
 * dropped in silence. */
static weir_status check_taken(loader *l) {
  for (int64_t i = 0; i < weir_mfile_n_tensors(l->file); i++) {
    weir_tensor_info t;
    char shown[WEIR_STR_SHOW_BYTES];
    weir_mfile_tensor_at(l->file, i, &t);
    if (weir_strmap_get(&l->taken, t.name) >= 0) continue;
    if (contains(t.name, "rot_embd") || contains(t.name, "rope_f"))
      continue; /* known from the keys, or read */
    if ((t.name.len > 4 && memcmp(t.name.data, "blk.", 4) == 0) ||
        weir_str_eq(t.name, weir_str_of("output.bias")))
      return weir_fail(l->e, WEIR_EUNSUP, "tensor %s: %s models have no such tensor",
                       weir_str_show(t.name, shown), weir_arch_name(l->h->arch));
  }
  return WEIR_OK;
}

static size_t layer_bytes(const weir_layer *y, int32_t n_experts) {
  size_t n = y->qkv.bytes + y->attn_out.bytes + y->gate_up.bytes + y->down.bytes + y->router.bytes;
  for (int32_t k = 0; k < n_experts; k++) n += y->expert_gate_up[k].bytes + y->expert_down[k].bytes;
  return n;
}

weir_status weir_weights_load(weir_dev *dev, const weir_mfile *file, const weir_hparams *h,
                              const weir_load_progress *p, weir_weights *w, weir_err *e) {
  weir_status st = WEIR_OK;
  loader l = {.dev = dev, .file = file, .h = h, .progress = p, .e = e};
  *w = (weir_weights){.dev = dev, .n_layers = h->n_layers, .n_experts = h->n_experts};
  for (int64_t i = 0; i < weir_mfile_n_tensors(file); i++) {
    weir_tensor_info t;
    weir_mfile_tensor_at(file, i, &t);
    l.total += (int64_t)t.bytes;
  }
  WEIR_TRY(weir_strmap_init(&l.taken, (size_t)weir_mfile_n_tensors(file), e));
  WEIR_TRY(WEIR_NEW((size_t)h->n_layers, &w->layer, e));
  /* The largest two first: a weight is in memory twice while it is repacked, the file's pages and its own,
   * and with the others yet to come that is not the peak. */
  WEIR_TRY(load_matrix(&l, -1, (const part[]){{"token_embd.weight", h->n_vocab}}, 1, h->dim, &w->embed));
  if (!h->tied_head)
    WEIR_TRY(load_matrix(&l, -1, (const part[]){{"output.weight", h->n_vocab}}, 1, h->dim, &w->head_own));
  for (int32_t i = 0; i < h->n_layers; i++) {
    WEIR_TRY(load_layer(&l, i, &w->layer[i]));
    w->bytes += layer_bytes(&w->layer[i], h->n_experts);
  }
  WEIR_TRY(load_norm(&l, -1, "output_norm.weight", h->dim, &w->out_norm));
  WEIR_TRY(check_taken(&l));
  w->head = h->tied_head ? &w->embed : &w->head_own;
  w->bytes += w->embed.bytes + w->head_own.bytes;
out:
  weir_strmap_fini(&l.taken);
  if (st != WEIR_OK) weir_weights_release(w);
  return st;
}

void weir_weights_release(weir_weights *w) {
  if (!w->dev) return;
  for (int32_t i = 0; w->layer && i < w->n_layers; i++) {
    weir_layer *y = &w->layer[i];
    float *const vectors[] = {y->attn_norm, y->qkv_bias,       y->q_norm,       y->k_norm,
                              y->ffn_norm,  y->attn_post_norm, y->ffn_post_norm};
    for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
      if (vectors[k]) weir_dev_release(w->dev, vectors[k]);
    weir_weight_release(&y->qkv);
    weir_weight_release(&y->attn_out);
    weir_weight_release(&y->gate_up);
    weir_weight_release(&y->down);
    weir_weight_release(&y->router);
    for (int32_t k = 0; k < w->n_experts; k++) {
      if (y->expert_gate_up) weir_weight_release(&y->expert_gate_up[k]);
      if (y->expert_down) weir_weight_release(&y->expert_down[k]);
    }
    free(y->expert_gate_up);
    free(y->expert_down);
  }
  if (w->out_norm) weir_dev_release(w->dev, w->out_norm);
  weir_weight_release(&w->embed);
  weir_weight_release(&w->head_own);
  free(w->layer);
  *w = (weir_weights){0};
}
