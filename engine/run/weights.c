/* SPDX-License-Identifier: Apache-2.0 */
/* Loads weights: which tensors a model has is said here and nowhere else. Owns the device copies; the file
 * may be closed afterwards. Calls the device and the file reader; the thread that owns the device. */
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
  return weir_mfile_read(l->file, name, out, l->e);
}

static weir_status upload_floats(loader *l, const weir_tensor *t, int32_t n_parts, float **out) {
  weir_status st = WEIR_OK;
  float *host = NULL;
  size_t n = 0, at = 0;
  for (int32_t i = 0; i < n_parts; i++) n += (size_t)t[i].info.dim[0];
  WEIR_TRY(WEIR_NEW(n, &host, l->e));
  for (int32_t i = 0; i < n_parts; i++) {
    WEIR_TRY(weir_dequantize_row(t[i].info.dtype, t[i].data, host + at, t[i].info.dim[0], l->e));
    at += (size_t)t[i].info.dim[0];
  }
  WEIR_TRY(weir_dev_alloc(l->dev, n * sizeof(float), (void **)out, l->e));
  WEIR_TRY(weir_dev_upload(l->dev, *out, host, n * sizeof(float), l->e));
  WEIR_TRY(weir_dev_sync(l->dev, l->e));
  for (int32_t i = 0; i < n_parts; i++) advance(l, &t[i].info);
out:
  free(host);
  return st;
}

static weir_status load_vector(loader *l, int32_t layer, const char *what, int64_t n, float **out) {
  weir_tensor t;
  weir_status st = take(l, layer, what, n, -1, &t);
  if (st == WEIR_OK) st = upload_floats(l, &t, 1, out);
  weir_tensor_release(&t);
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
  for (int32_t i = 0; i < n_parts; i++) weir_tensor_release(&t[i]);
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
  if (!has(l, i, "attn_q.bias") && !has(l, i, "attn_k.bias") && !has(l, i, "attn_v.bias")) return WEIR_OK;
  WEIR_TRY(take(l, i, "attn_q.bias", n_q, -1, &t[0]));
  WEIR_TRY(take(l, i, "attn_k.bias", n_kv, -1, &t[1]));
  WEIR_TRY(take(l, i, "attn_v.bias", n_kv, -1, &t[2]));
  WEIR_TRY(upload_floats(l, t, MAX_PARTS, out));
out:
  for (int32_t k = 0; k < MAX_PARTS; k++) weir_tensor_release(&t[k]);
  return st;
}

static weir_status load_layer(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  const int64_t n_q = (int64_t)h->n_heads * h->head_dim, n_kv = (int64_t)h->n_kv_heads * h->head_dim;
  weir_status st = WEIR_OK;
  WEIR_TRY(load_vector(l, i, "attn_norm.weight", h->dim, &y->attn_norm));
  WEIR_TRY(load_matrix(
      l, i, (const part[]){{"attn_q.weight", n_q}, {"attn_k.weight", n_kv}, {"attn_v.weight", n_kv}}, 3,
      h->dim, &y->qkv));
  WEIR_TRY(load_bias(l, i, n_q, n_kv, &y->qkv_bias));
  if (h->qk_norm) {
    WEIR_TRY(load_vector(l, i, "attn_q_norm.weight", h->head_dim, &y->q_norm));
    WEIR_TRY(load_vector(l, i, "attn_k_norm.weight", h->head_dim, &y->k_norm));
  }
  WEIR_TRY(load_matrix(l, i, (const part[]){{"attn_output.weight", h->dim}}, 1, n_q, &y->attn_out));
  WEIR_TRY(load_vector(l, i, "ffn_norm.weight", h->dim, &y->ffn_norm));
  WEIR_TRY(load_matrix(l, i, (const part[]){{"ffn_gate.weight", h->n_ff}, {"ffn_up.weight", h->n_ff}}, 2,
                       h->dim, &y->gate_up));
  WEIR_TRY(load_matrix(l, i, (const part[]){{"ffn_down.weight", h->dim}}, 1, h->n_ff, &y->down));
  /* A bias that the forward pass would not add must not be dropped in silence. */
  static const char *const unused[] = {"attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"};
  for (size_t k = 0; k < sizeof unused / sizeof *unused; k++)
    if (has(l, i, unused[k]))
      return weir_fail(l->e, WEIR_EUNSUP, "tensor blk.%d.%s: %s models have no such bias", i, unused[k],
                       weir_arch_name(h->arch));
out:
  return st;
}

weir_status weir_weights_load(weir_dev *dev, const weir_mfile *file, const weir_hparams *h,
                              const weir_load_progress *p, weir_weights *w, weir_err *e) {
  weir_status st = WEIR_OK;
  loader l = {.dev = dev, .file = file, .h = h, .progress = p, .e = e};
  *w = (weir_weights){.dev = dev, .n_layers = h->n_layers};
  for (int64_t i = 0; i < weir_mfile_n_tensors(file); i++) {
    weir_tensor_info t;
    weir_mfile_tensor_at(file, i, &t);
    l.total += (int64_t)t.bytes;
  }
  WEIR_TRY(WEIR_NEW((size_t)h->n_layers, &w->layer, e));
  WEIR_TRY(load_matrix(&l, -1, (const part[]){{"token_embd.weight", h->n_vocab}}, 1, h->dim, &w->embed));
  for (int32_t i = 0; i < h->n_layers; i++) {
    WEIR_TRY(load_layer(&l, i, &w->layer[i]));
    w->bytes += w->layer[i].qkv.bytes + w->layer[i].attn_out.bytes + w->layer[i].gate_up.bytes +
                w->layer[i].down.bytes;
  }
  WEIR_TRY(load_vector(&l, -1, "output_norm.weight", h->dim, &w->out_norm));
  if (!h->tied_head)
    WEIR_TRY(load_matrix(&l, -1, (const part[]){{"output.weight", h->n_vocab}}, 1, h->dim, &w->head_own));
  w->head = h->tied_head ? &w->embed : &w->head_own;
  w->bytes += w->embed.bytes + w->head_own.bytes;
out:
  if (st != WEIR_OK) weir_weights_release(w);
  return st;
}

void weir_weights_release(weir_weights *w) {
  if (!w->dev) return;
  for (int32_t i = 0; w->layer && i < w->n_layers; i++) {
    weir_layer *y = &w->layer[i];
    float *const vectors[] = {y->attn_norm, y->qkv_bias, y->q_norm, y->k_norm, y->ffn_norm};
    for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
      if (vectors[k]) weir_dev_release(w->dev, vectors[k]);
    weir_weight_release(&y->qkv);
    weir_weight_release(&y->attn_out);
    weir_weight_release(&y->gate_up);
    weir_weight_release(&y->down);
  }
  if (w->out_norm) weir_dev_release(w->dev, w->out_norm);
  weir_weight_release(&w->embed);
  weir_weight_release(&w->head_own);
  free(w->layer);
  *w = (weir_weights){0};
}
